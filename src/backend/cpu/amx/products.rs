//! Numbers into their parts, and the products of them.
//!
//! A matrix is cut into tiles of 16 rows (of the first factor; columns of the second) by 32 terms of the sum, those of a row of tiles
//! behind each other:
//!
//! | product  | terms    | rows of the first factor | columns of the second |
//! |----------|----------|--------------------------|-----------------------|
//! | logits   | features | samples of X             | outputs of W          |
//! | gradient | samples  | outputs of R             | features of X         |
//! | XᵀX      | samples  | features of X            | features of X         |

use super::Units;
use super::tiles::{Halves, Parts, SIDE, Sums, TERMS, Thirds};
use crate::backend::cpu::double::SLAB;
use crate::backend::cpu::lanes::{Element, Kernel, Lanes};
use crate::backend::cpu::tiles::Matrix;

const _: () = assert!(SLAB == SIDE);

/// Sums in single precision are of so many tiles of terms.
const DEPTH: usize = 16;

/// The parts of 16 numbers: the bits of the first, those of what is left of them, and so on; the lower 16 bits mean nothing.
#[inline(always)]
fn parts<const P: usize>(mut values: [f32; SIDE]) -> [[u32; SIDE]; P] {
    let mut parts = [[0; SIDE]; P];
    for part in &mut parts {
        for i in 0..SIDE {
            // To the nearest with 8 significant bits, ties up, but not to infinity.
            let bits = values[i].to_bits();
            let carry = if bits & 0x7FFF_FFFF < 0x7F7F_8000 { 0x8000 } else { 0 };
            part[i] = bits.wrapping_add(carry);
            values[i] -= f32::from_bits(part[i] & 0xFFFF_0000);
        }
    }
    parts
}

/// 16 pairs of parts.
#[inline(always)]
fn pairs(first: &[u32; SIDE], second: &[u32; SIDE]) -> [u32; SIDE] {
    let mut pairs = [0; SIDE];
    for i in 0..SIDE {
        pairs[i] = first[i] >> 16 | second[i] & 0xFFFF_0000;
    }
    pairs
}

/// The samples `first..first + n` of X̃ = scale·X, as rows of the first factor of logits, (samples / 16 × features / 32), and as columns of
/// the second one of the gradient, (features / 16 × samples / 32): both rounded up to whole 32.
pub(in crate::backend::cpu) struct SplitFeatures<'a, T> {
    pub x: Matrix<'a, T>,
    pub first: usize,
    pub n: usize,
    pub scale: f32,
    pub by_sample: &'a mut [Halves],
    pub by_feature: &'a mut [Halves],
}

impl<T: Element> Kernel for SplitFeatures<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { x, first, n, scale, by_sample, by_feature } = self;
        let (in_samples, in_features) = (n.div_ceil(TERMS), x.d.div_ceil(TERMS));
        assert!(by_sample.len().min(by_feature.len()) >= 2 * in_samples * in_features);
        let rows = Rows { x, first, n, scale };
        for s in 0..in_samples {
            // Rows as they lie in memory.
            for p in 0..SIDE {
                let sample = s * TERMS + p;
                for f in 0..in_features {
                    let feature = f * TERMS;
                    let upper_left = parts(rows.features(lanes, sample, feature));
                    let upper_right = parts(rows.features(lanes, sample, feature + SIDE));
                    let lower_left = parts(rows.features(lanes, sample + SIDE, feature));
                    let lower_right = parts(rows.features(lanes, sample + SIDE, feature + SIDE));
                    by_sample[2 * s * in_features + f].set_row(p, &upper_left, &upper_right);
                    by_sample[(2 * s + 1) * in_features + f].set_row(p, &lower_left, &lower_right);
                    by_feature[2 * f * in_samples + s].set_row(p, &upper_left, &lower_left);
                    by_feature[(2 * f + 1) * in_samples + s].set_row(p, &upper_right, &lower_right);
                }
            }
        }
    }
}

/// The samples `first..first + n` of X̃.
struct Rows<'a, T> {
    x: Matrix<'a, T>,
    first: usize,
    n: usize,
    scale: f32,
}

impl<T: Element> Rows<'_, T> {
    /// 16 features of a sample; 0 where there are none.
    #[inline(always)]
    fn features<L: Lanes>(&self, lanes: L, sample: usize, feature: usize) -> [f32; SIDE] {
        let mut numbers = [0.0; SIDE];
        if sample < self.n && feature < self.x.d {
            let row = &self.x.row((self.first + sample) as u32)[feature..];
            for lane in (0..SIDE).step_by(L::N) {
                let (count, from) = (row.len().saturating_sub(lane), row.as_ptr().wrapping_add(lane));
                // SAFETY: the row has that many values; 16 places, of which N from `lane` on are there.
                unsafe {
                    let values = if count >= L::N { T::load(lanes, from) } else { T::load_first(lanes, from, count) };
                    lanes.store(numbers.as_mut_ptr().add(lane), lanes.mul(values, lanes.splat(self.scale)));
                }
            }
        }
        numbers
    }
}

impl<const P: usize> Parts<P> {
    /// Row `p` of pairs, from the parts of both numbers of each.
    #[inline(always)]
    fn set_row(&mut self, p: usize, first: &[[u32; SIDE]; P], second: &[[u32; SIDE]; P]) {
        for part in 0..P {
            self.0[part].0[p] = pairs(&first[part], &second[part]);
        }
    }
}

/// W, (d × m) row-major, as columns of the second factor of logits, (outputs / 16 × features / 32).
pub(in crate::backend::cpu) struct SplitWeights<'a, F, const P: usize> {
    pub weights: &'a [F],
    pub m: usize,
    pub out: &'a mut [Parts<P>],
}

impl<F: Number, const P: usize> Kernel for SplitWeights<'_, F, P> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        let Self { weights, m, out } = self;
        let in_features = (weights.len() / m).div_ceil(TERMS);
        for f in 0..in_features {
            for o in 0..m.div_ceil(SIDE) {
                for p in 0..SIDE {
                    let first = parts(numbers(weights, m, f * TERMS + p, o * SIDE, F::single));
                    let second = parts(numbers(weights, m, f * TERMS + SIDE + p, o * SIDE, F::single));
                    out[o * in_features + f].set_row(p, &first, &second);
                }
            }
        }
    }
}

/// What weights are.
pub(in crate::backend::cpu) trait Number: Copy {
    fn single(self) -> f32;
}

impl Number for f32 {
    #[inline(always)]
    fn single(self) -> f32 {
        self
    }
}

impl Number for f64 {
    #[inline(always)]
    fn single(self) -> f32 {
        self as f32
    }
}

/// Up to 16 values of a row of a matrix, (rows × m), from column `first` on; 0 where there are none.
#[inline(always)]
fn numbers<F: Copy>(values: &[F], m: usize, row: usize, first: usize, number: impl Fn(F) -> f32) -> [f32; SIDE] {
    let mut numbers = [0.0; SIDE];
    let row = row * m;
    if row < values.len() {
        let values = &values[row + first..row + m];
        if let Some(values) = values.first_chunk::<SIDE>() {
            for i in 0..SIDE {
                numbers[i] = number(values[i]);
            }
        } else {
            for i in 0..values.len() {
                numbers[i] = number(values[i]);
            }
        }
    }
    numbers
}

/// R of n samples, (n × m), raised, as rows of the first factor of the gradient, (outputs / 16 × samples / 32).
pub(in crate::backend::cpu) struct SplitResidual<'a> {
    pub residual: &'a [f32],
    pub m: usize,
    pub out: &'a mut [Halves],
}

impl Kernel for SplitResidual<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { residual, m, out } = self;
        let in_samples = (residual.len() / m).div_ceil(TERMS);
        for s in 0..in_samples {
            for o in 0..m.div_ceil(SIDE) {
                let mut columns = Halves::ZERO;
                for p in 0..SIDE {
                    let first = parts(numbers(residual, m, s * TERMS + p, o * SIDE, f32::single));
                    let second = parts(numbers(residual, m, s * TERMS + SIDE + p, o * SIDE, f32::single));
                    columns.set_row(p, &first, &second);
                }
                transpose(lanes, &columns, &mut out[o * in_samples + s]);
            }
        }
    }
}

#[inline(always)]
fn transpose<L: Lanes, const P: usize>(lanes: L, from: &Parts<P>, to: &mut Parts<P>) {
    for (from, to) in from.0.iter().zip(&mut to.0) {
        let mut rows: [*const f32; SIDE] = [std::ptr::null(); SIDE];
        for (pointer, row) in rows.iter_mut().zip(&from.0) {
            *pointer = row.as_ptr().cast();
        }
        for column in (0..SIDE).step_by(L::N) {
            for row in (0..SIDE).step_by(L::N) {
                // SAFETY: 16 rows of 16 values; loading and storing changes no bits.
                unsafe {
                    let to = to.0[column].as_mut_ptr().add(row).cast();
                    lanes.transpose(&rows[row..row + L::N], column, to, SIDE);
                }
            }
        }
    }
}

/// O = X̃·W + b: features by sample, b (m), out (n × m).
pub(in crate::backend::cpu) struct UnitLogits<'a> {
    pub units: Units,
    pub by_sample: &'a [Halves],
    pub weights: &'a [Halves],
    pub bias: &'a [f64],
    pub n: usize,
    pub m: usize,
    pub out: &'a mut [f32],
}

impl Kernel for UnitLogits<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { units, by_sample, weights, bias, n, m, out } = self;
        let (in_outputs, in_samples) = (m.div_ceil(SIDE), n.div_ceil(TERMS));
        let in_features = weights.len() / in_outputs;
        assert!(bias.len() == m && by_sample.len() >= 2 * in_samples * in_features && out.len() >= n * m);
        let tiles = units.configure();
        let mut biases = vec![0.0; in_outputs * SIDE];
        biases.iter_mut().zip(bias).for_each(|(to, &bias)| *to = bias as f32);
        let mut sums = [Sums::ZERO; 4];
        for s in 0..in_samples {
            for first in (0..in_features).step_by(DEPTH) {
                let depth = DEPTH.min(in_features - first);
                let of_samples = |row: usize| by_sample[(2 * s + row) * in_features + first..].as_ptr();
                let of_outputs = |o: usize| weights[o * in_features + first..].as_ptr();
                let a = [of_samples(0), of_samples(1)];
                for o in (0..in_outputs).step_by(2) {
                    let columns = 2.min(in_outputs - o);
                    let c = sums.as_mut_ptr();
                    // SAFETY: rows of tiles have `depth` tiles from `first` on.
                    unsafe {
                        if columns == 2 {
                            let b = [of_outputs(o), of_outputs(o + 1)];
                            tiles.four(a, b, depth, [c, c.add(1), c.add(2), c.add(3)], false);
                        } else {
                            tiles.one(lanes, a[0], of_outputs(o), depth, c, false);
                            tiles.one(lanes, a[1], of_outputs(o), depth, c.add(2), false);
                        }
                    }
                    for sample in s * TERMS..n.min((s + 1) * TERMS) {
                        let row = sample % TERMS;
                        for column in 0..columns {
                            let sums = &sums[row / SIDE * 2 + column].0[row % SIDE];
                            let of_tile = (o + column) * SIDE..m.min((o + column + 1) * SIDE);
                            let out = &mut out[sample * m..][of_tile];
                            let bias = &biases[(o + column) * SIDE..][..SIDE];
                            if let (true, Some(out)) = (first == 0, out.first_chunk_mut::<SIDE>()) {
                                for lane in (0..SIDE).step_by(L::N) {
                                    // SAFETY: 16 values of each.
                                    unsafe {
                                        let sums = lanes.load(sums.as_ptr().add(lane));
                                        let logits = lanes.add(sums, lanes.load(bias.as_ptr().add(lane)));
                                        lanes.store(out.as_mut_ptr().add(lane), logits);
                                    }
                                }
                            } else {
                                for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                                    *out = sum + if first == 0 { *bias } else { *out };
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Up to 16 values of `out` (+)= factor·sums.
#[inline(always)]
fn add_wide<L: Lanes>(lanes: L, sums: &[f32; SIDE], factor: f64, out: &mut [f64], adds: bool) {
    let mut few = [0.0; SIDE];
    let count = out.len();
    if count < SIDE && adds {
        few[..count].copy_from_slice(out);
    }
    let to = if count < SIDE { few.as_mut_ptr() } else { out.as_mut_ptr() };
    for lane in (0..SIDE).step_by(L::N) {
        // SAFETY: there are 16 sums, and 16 values at `to`.
        unsafe {
            let halves = lanes.widen(lanes.load(sums.as_ptr().add(lane)));
            let to = [to.add(lane), to.add(lane + L::N / 2)];
            for half in 0..2 {
                let before = if adds { lanes.load_f64(to[half]) } else { lanes.splat_f64(0.0) };
                lanes.store_f64(to[half], lanes.mul_add_f64(halves[half], lanes.splat_f64(factor), before));
            }
        }
    }
    if count < SIDE {
        out.copy_from_slice(&few[..count]);
    }
}

/// Sums (+)= X̃ᵀ·R, raised: features by feature, sums (slabs, rounded up to an even number × outputs / 16).
pub(in crate::backend::cpu) struct UnitGradient<'a> {
    pub units: Units,
    pub by_feature: &'a [Halves],
    pub residual: &'a [Halves],
    pub n: usize,
    pub m: usize,
    pub sums: &'a mut [Sums],
    /// Whether to add to the sums; otherwise they are overwritten.
    pub adds: bool,
}

impl Kernel for UnitGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { units, by_feature, residual, n, m, sums, adds } = self;
        let (in_outputs, in_samples) = (m.div_ceil(SIDE), n.div_ceil(TERMS));
        let n_slabs = sums.len() / in_outputs;
        assert!(n_slabs.is_multiple_of(2) && in_samples > 0);
        assert!(by_feature.len() >= n_slabs * in_samples && residual.len() >= in_outputs * in_samples);
        let tiles = units.configure();
        for slab in (0..n_slabs).step_by(2) {
            let b = [by_feature[slab * in_samples..].as_ptr(), by_feature[(slab + 1) * in_samples..].as_ptr()];
            let c = &mut sums[slab * in_outputs..][..2 * in_outputs];
            let (upper, lower) = c.split_at_mut(in_outputs);
            for o in (0..in_outputs).step_by(2) {
                let of_output = |o: usize| residual[o * in_samples..].as_ptr();
                let (upper, lower) = (upper[o..].as_mut_ptr(), lower[o..].as_mut_ptr());
                // SAFETY: rows of tiles have `in_samples` tiles; both slabs have the sums of the outputs that there are.
                unsafe {
                    if o + 1 < in_outputs {
                        let c = [upper, lower, upper.add(1), lower.add(1)];
                        tiles.four([of_output(o), of_output(o + 1)], b, in_samples, c, adds);
                    } else {
                        tiles.one(lanes, of_output(o), b[0], in_samples, upper, adds);
                        tiles.one(lanes, of_output(o), b[1], in_samples, lower, adds);
                    }
                }
            }
        }
    }
}

/// Gradient (+)= factor·sums: gradient (slabs × m × 16).
pub(in crate::backend::cpu) struct AddSums<'a> {
    pub sums: &'a [Sums],
    pub m: usize,
    pub factor: f64,
    pub gradient: &'a mut [f64],
    /// Whether to add to the gradient; otherwise it is overwritten.
    pub adds: bool,
}

impl Kernel for AddSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { sums, m, factor, gradient, adds } = self;
        for (gradient, sums) in gradient.chunks_exact_mut(m * SLAB).zip(sums.chunks_exact(m.div_ceil(SIDE))) {
            for (of_output, output) in gradient.chunks_exact_mut(SLAB).zip(0..) {
                add_wide(lanes, &sums[output / SIDE].0[output % SIDE], factor, of_output, adds);
            }
        }
    }
}

/// Up to 32 samples of X from `first` on, as rows of the first factor of a product in single precision, (2 × features / 32).
pub(in crate::backend::cpu) struct SplitTile<'a, T> {
    pub x: Matrix<'a, T>,
    pub first: usize,
    pub n: usize,
    pub out: &'a mut [Thirds],
}

impl<T: Element> Kernel for SplitTile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { x, first, n, out } = self;
        let in_features = x.d.div_ceil(TERMS);
        let rows = Rows { x, first, n, scale: 1.0 };
        for sample in 0..TERMS {
            for f in 0..in_features {
                let left = parts(rows.features(lanes, sample, f * TERMS));
                let right = parts(rows.features(lanes, sample, f * TERMS + SIDE));
                out[sample / SIDE * in_features + f].set_row(sample % SIDE, &left, &right);
            }
        }
    }
}

/// O = scale·X·W + b of up to 32 samples in single precision, but that numbers below 2⁻¹²⁶ count as 0, also as parts of others: out
/// (n × m), all of it.
pub(in crate::backend::cpu) struct UnitTile<'a> {
    pub units: Units,
    pub samples: &'a [Thirds],
    pub weights: &'a [Thirds],
    pub scale: f32,
    /// b, (m).
    pub bias: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for UnitTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { units, samples, weights, scale, bias, out } = self;
        let (m, in_outputs) = (bias.len(), bias.len().div_ceil(SIDE));
        let in_features = weights.len() / in_outputs;
        let n = out.len() / m;
        assert!(samples.len() >= 2 * in_features && in_features > 0 && n <= TERMS);
        let tiles = units.configure();
        let a = [samples.as_ptr(), samples[in_features..].as_ptr()];
        let mut sums = [Sums::ZERO; 4];
        for o in (0..in_outputs).step_by(2) {
            let columns = 2.min(in_outputs - o);
            let last = o + columns - 1;
            // Where there is one column, it stands twice.
            let b = [weights[o * in_features..].as_ptr(), weights[last * in_features..].as_ptr()];
            let c = sums.as_mut_ptr();
            // SAFETY: rows and columns of tiles have `in_features` of them.
            unsafe { tiles.four_of_thirds(a, b, in_features, [c, c.add(1), c.add(2), c.add(3)]) };
            for (sample, out) in out.chunks_exact_mut(m).enumerate() {
                for column in 0..columns {
                    let sums = &mut sums[sample / SIDE * 2 + column].0[sample % SIDE];
                    let first = (o + column) * SIDE;
                    let (bias, out) = (&bias[first..m.min(first + SIDE)], &mut out[first..m.min(first + SIDE)]);
                    if out.len() == SIDE {
                        for lane in (0..SIDE).step_by(L::N) {
                            // SAFETY: 16 values of each.
                            unsafe {
                                let sums = lanes.load(sums.as_ptr().add(lane));
                                let bias = lanes.load(bias.as_ptr().add(lane));
                                let logits = lanes.mul_add(sums, lanes.splat(scale), bias);
                                lanes.store(out.as_mut_ptr().add(lane), logits);
                            }
                        }
                    } else {
                        for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                            *out = sum.mul_add(scale, *bias);
                        }
                    }
                }
            }
        }
    }
}

/// X of n samples, (n × m), as columns of the second factor of XᵀX and, transposed, as rows of the first, both (m / 16 × samples / 32).
pub(in crate::backend::cpu) struct SplitGram<'a> {
    pub x: &'a [f32],
    pub m: usize,
    pub rows: &'a mut [Thirds],
    pub columns: &'a mut [Thirds],
}

impl Kernel for SplitGram<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { x, m, rows, columns } = self;
        let in_samples = (x.len() / m).div_ceil(TERMS);
        for s in 0..in_samples {
            for o in 0..m.div_ceil(SIDE) {
                let tile = &mut columns[o * in_samples + s];
                for p in 0..SIDE {
                    let first = parts(numbers(x, m, s * TERMS + p, o * SIDE, f32::single));
                    let second = parts(numbers(x, m, s * TERMS + SIDE + p, o * SIDE, f32::single));
                    tile.set_row(p, &first, &second);
                }
                transpose(lanes, tile, &mut rows[o * in_samples + s]);
            }
        }
    }
}

/// C += XᵀX in single precision, as [`UnitTile`] has it, up to the diagonal of C, (m × m): above it C is none.
pub(in crate::backend::cpu) struct UnitGram<'a> {
    pub units: Units,
    pub rows: &'a [Thirds],
    pub columns: &'a [Thirds],
    pub m: usize,
    pub out: &'a mut [f32],
}

impl Kernel for UnitGram<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { units, rows, columns, m, out } = self;
        let in_outputs = m.div_ceil(SIDE);
        let in_samples = rows.len() / in_outputs;
        assert!(columns.len() == rows.len() && rows.len() == in_outputs * in_samples && in_samples > 0);
        let tiles = units.configure();
        let mut sums = [Sums::ZERO; 4];
        for i in (0..in_outputs).step_by(2) {
            for j in (0..=i).step_by(2) {
                // Where there is one, it stands twice.
                let of = |tiles: &[Thirds], first: usize| {
                    let second = (first + 1).min(in_outputs - 1);
                    [tiles[first * in_samples..].as_ptr(), tiles[second * in_samples..].as_ptr()]
                };
                let c = sums.as_mut_ptr();
                let c = [c, c.wrapping_add(1), c.wrapping_add(2), c.wrapping_add(3)];
                // SAFETY: rows and columns of tiles have `in_samples` of them.
                unsafe { tiles.four_of_thirds(of(rows, i), of(columns, j), in_samples, c) };
                for row in i * SIDE..m.min((i + 2) * SIDE) {
                    for column in 0..2.min(in_outputs - j) {
                        let sums = &sums[(row / SIDE - i) * 2 + column].0[row % SIDE];
                        let first = (j + column) * SIDE;
                        let out = &mut out[row * m..][first..m.min(first + SIDE)];
                        if out.len() == SIDE {
                            for lane in (0..SIDE).step_by(L::N) {
                                let to = out.as_mut_ptr().wrapping_add(lane);
                                // SAFETY: 16 values of each.
                                unsafe {
                                    lanes.store(to, lanes.add(lanes.load(to), lanes.load(sums.as_ptr().add(lane))))
                                };
                            }
                        } else {
                            out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                        }
                    }
                }
            }
        }
    }
}
