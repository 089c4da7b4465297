//! The two large products in either precision, and the exponential: what the batch solvers need.
//!
//! Matrices are cut into slabs of 16 features, zeros past d. The samples of a tile are turned into the precision once, (slabs ×
//! samples × 16); W and its gradient are (slabs × h·q × 16). Both products go through each of them as it lies, with the
//! lanes along the features. In single precision what is added is short: a few hundred products, whose sums are added in `f64` or, of
//! logits, in few steps.

use super::lanes::{Element, Kernel, Lanes};
use super::real::Real;
use super::tiles::{Matrix, groups};

/// Features of a slab.
pub(super) const SLAB: usize = 16;
/// Slabs of a dot product at once, about: those of a few samples and outputs stay in the nearest cache.
const DEPTH: usize = 16;

/// The samples `first..first + n` of X̃ = scale·X into `out`.
pub(super) struct Widen<'a, T, F> {
    pub x: Matrix<'a, T>,
    pub first: usize,
    pub n: usize,
    pub scale: f64,
    pub out: &'a mut [F],
}

impl<T: Element, F: Real> Kernel for Widen<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { x, first, n, scale, out } = self;
        const { assert!(SLAB.is_multiple_of(L::N)) };
        assert!(out.len() >= x.d.div_ceil(SLAB) * n * SLAB);
        for sample in 0..n {
            let row = x.row((first + sample) as u32);
            for (slab, x) in row.chunks(SLAB).enumerate() {
                // SAFETY: x has that many values, and out 16 from there on.
                unsafe {
                    let out = out.as_mut_ptr().add((slab * n + sample) * SLAB);
                    for lane in (0..SLAB).step_by(L::N) {
                        let count = x.len().saturating_sub(lane);
                        let from = x.as_ptr().wrapping_add(lane);
                        let values =
                            if count >= L::N { T::load(lanes, from) } else { T::load_first(lanes, from, count) };
                        F::store_features(lanes, out.add(lane), values, scale);
                    }
                }
            }
        }
    }
}

/// The samples of a tile, 16 features of each slab next to each other.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a, F> {
    pub x: &'a [F],
    pub n: usize,
    /// From one sample, and from one slab, to the next.
    pub strides: [usize; 2],
}

impl<F> Tile<'_, F> {
    /// Whether there are so many slabs of all samples.
    fn has(&self, n_slabs: usize) -> bool {
        let last = n_slabs.saturating_sub(1) * self.strides[1] + self.n.saturating_sub(1) * self.strides[0];
        last + SLAB <= self.x.len() || n_slabs * self.n == 0
    }
}

/// O = X̃·W: x with as many slabs as w, (slabs × m × 16), out (n × m).
pub(super) struct Logits<'a, F> {
    pub tile: Tile<'a, F>,
    pub w: &'a [F],
    pub m: usize,
    pub out: &'a mut [F],
    /// What to bring into the cache meanwhile, so that memory is asked evenly: an address, which need not be readable, and bytes.
    pub ahead: (*const u8, usize),
}

impl<F: Real> Kernel for Logits<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { tile, w, m, out, ahead } = self;
        let (Tile { x, n, strides }, n_slabs) = (tile, w.len() / (m * SLAB));
        assert!(tile.has(n_slabs) && out.len() >= n * m);
        /// Of a line of the cache.
        const LINE: usize = 64;
        // As many parts as fit best: one of a single slab would take as long to sum over the lanes as to multiply.
        let depth = n_slabs.div_ceil(((n_slabs * size_of::<F>()) / (DEPTH * size_of::<f64>())).max(1));
        let turns = n_slabs.div_ceil(depth.max(1)) * m.div_ceil(L::DOT) * n.div_ceil(4);
        let bytes = ahead.1.div_ceil(LINE).div_ceil(turns.max(1)) * LINE;
        let mut asked = 0;
        for (first, depth) in groups(n_slabs, depth.max(1)) {
            for (j, c) in groups(m, L::DOT) {
                for row in (0..n).step_by(4) {
                    let until = ahead.1.min(asked + bytes);
                    while asked < until {
                        lanes.prefetch(ahead.0.wrapping_add(asked));
                        asked += LINE;
                    }
                    // Past the end the last row stands again.
                    let rows = [0, 1, 2, 3].map(|r| (row + r).min(n - 1));
                    // SAFETY: rows below n and outputs below m in `depth` slabs from `first` on.
                    unsafe {
                        let x = rows.map(|row| x.as_ptr().add(first * strides[1] + row * strides[0]));
                        let w = w.as_ptr().add((first * m + j) * SLAB);
                        let strides = [strides[1], m * SLAB];
                        let out = Sums { rows: &mut out[row * m + j..], n: 4.min(n - row), m, adds: first > 0 };
                        match c {
                            1 => dot::<L, F, 1>(lanes, x, w, strides, depth, out),
                            2 => dot::<L, F, 2>(lanes, x, w, strides, depth, out),
                            3 => dot::<L, F, 3>(lanes, x, w, strides, depth, out),
                            4 => dot::<L, F, 4>(lanes, x, w, strides, depth, out),
                            5 => dot::<L, F, 5>(lanes, x, w, strides, depth, out),
                            _ => dot::<L, F, 6>(lanes, x, w, strides, depth, out),
                        }
                    }
                }
            }
        }
    }
}

/// Where the sums of up to four samples go: rows of m outputs.
struct Sums<'a, F> {
    rows: &'a mut [F],
    n: usize,
    m: usize,
    adds: bool,
}

/// Σ_k x\[r\]\[k\]·w\[c\]\[k\] over the features of `depth` slabs, for r in 0..4 and c in 0..C. `strides` are those of the slabs
/// of x and w.
///
/// # Safety
/// The slabs can be read, and six outputs are no fewer than C.
#[inline(always)]
unsafe fn dot<L: Lanes, F: Real, const C: usize>(
    lanes: L,
    x: [*const F; 4],
    w: *const F,
    strides: [usize; 2],
    depth: usize,
    Sums { rows, n, m, adds }: Sums<F>,
) {
    let zero = F::splat(lanes, F::from_f64(0.0));
    let mut sums = [[zero; 4]; C];
    // SAFETY: the caller's promise.
    unsafe {
        for slab in 0..depth {
            let (x, w) = (x.map(|x| x.add(slab * strides[0])), w.add(slab * strides[1]));
            for k in (0..SLAB).step_by(F::lanes::<L>()) {
                let mut features = [zero; 4];
                for r in 0..4 {
                    features[r] = F::load(lanes, x[r].add(k));
                }
                for c in 0..C {
                    let w = F::load(lanes, w.add(c * SLAB + k));
                    for r in 0..4 {
                        sums[c][r] = F::mul_add(lanes, w, features[r], sums[c][r]);
                    }
                }
            }
        }
    }
    let mut of_outputs = [[F::default(); 4]; C];
    for c in 0..C {
        of_outputs[c] = F::sum4(lanes, sums[c]);
    }
    for (r, row) in rows.chunks_mut(m).take(n).enumerate() {
        for (c, to) in row[..C].iter_mut().enumerate() {
            *to = if adds { *to + of_outputs[c][r] } else { of_outputs[c][r] };
        }
    }
}

/// X̃ᵀ·R, or the gradient and that: residual (n × m), gradient (slabs × m × 16).
pub(super) struct Gradient<'a, F> {
    pub tile: Tile<'a, F>,
    pub residual: &'a [F],
    pub m: usize,
    pub gradient: &'a mut [f64],
    pub adds: bool,
}

impl<F: Real> Kernel for Gradient<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { tile: Tile { x, n, strides }, residual, m, gradient, adds } = self;
        // A residual that was loaded is for two vectors of features.
        let at_once = (2 * F::lanes::<L>()).div_ceil(SLAB);
        for (index, gradient) in gradient.chunks_mut(at_once * m * SLAB).enumerate() {
            let tile = Tile { x: &x[index * at_once * strides[1]..], n, strides };
            SlabGradient { tile, residual, m, n_outputs: m, gradient, adds }.run(lanes);
        }
    }
}

/// The same for the first slab, or the first two where a vector is a slab, and the first `n_outputs` of m outputs.
pub(super) struct SlabGradient<'a, F> {
    pub tile: Tile<'a, F>,
    pub residual: &'a [F],
    pub m: usize,
    pub n_outputs: usize,
    pub gradient: &'a mut [f64],
    pub adds: bool,
}

impl<F: Real> Kernel for SlabGradient<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { tile, residual, m, n_outputs, gradient, adds } = self;
        let Tile { x, n, strides: [stride, to_next_slab] } = tile;
        let n_slabs = gradient.len() / (m * SLAB).max(1);
        assert!(n_slabs > 0 && tile.has(n_slabs) && residual.len() >= n * m && n_outputs <= m);
        let of_slab = SLAB / F::lanes::<L>();
        let vectors = (n_slabs * of_slab).min(2);
        // From one vector to the next, of features and of their gradient.
        let strides = if of_slab == 1 { [to_next_slab, m * SLAB] } else { [F::lanes::<L>(); 2] };
        for (j, c) in groups(n_outputs, L::TILE) {
            for k in (0..SLAB).step_by((vectors * F::lanes::<L>()).min(SLAB)) {
                // SAFETY: n rows of 16 features in as many slabs as there are vectors of that size, and m outputs, of which c from j on are there.
                unsafe {
                    let x = x.as_ptr().add(k);
                    let r = residual.as_ptr().add(j);
                    let out = gradient.as_mut_ptr().add(j * SLAB + k);
                    macro_rules! variants {
                        ($($c:literal)*) => {
                            match c {
                                $($c if vectors == 1 => outer::<L, F, $c, 1>(lanes, (x, stride), (r, m), (out, adds), strides, n),
                                $c => outer::<L, F, $c, 2>(lanes, (x, stride), (r, m), (out, adds), strides, n),)*
                                _ => debug_assert!(false, "no outer products with {c} outputs"),
                            }
                        };
                    }
                    variants!(1 2 3 4 5 6 7 8 9 10 11 12);
                }
            }
        }
    }
}

/// Σ_i x\[i\]\[lane\]·r\[i\]\[c\] for `V` vectors of lanes, put to out\[c\]\[lane\] or added there. `strides` are from one of them to the next, of x and
/// of `out`.
///
/// # Safety
/// All that can be read, and `out` be written by nobody else.
#[inline(always)]
unsafe fn outer<L: Lanes, F: Real, const C: usize, const V: usize>(
    lanes: L,
    (x, stride): (*const F, usize),
    (r, m): (*const F, usize),
    (out, adds): (*mut f64, bool),
    strides: [usize; 2],
    n: usize,
) {
    let zero = F::splat(lanes, F::from_f64(0.0));
    let mut sums = [[zero; V]; C];
    // SAFETY: the caller's promise.
    unsafe {
        for i in 0..n {
            let mut features = [zero; V];
            for v in 0..V {
                features[v] = F::load(lanes, x.add(i * stride + v * strides[0]));
            }
            for c in 0..C {
                let factor = F::splat(lanes, *r.add(i * m + c));
                for v in 0..V {
                    sums[c][v] = F::mul_add(lanes, factor, features[v], sums[c][v]);
                }
            }
        }
        // Two loops, of which the sums stay in registers.
        if adds {
            for c in 0..C {
                for v in 0..V {
                    F::put(lanes, out.add(c * SLAB + v * strides[1]), sums[c][v], true);
                }
            }
        } else {
            for c in 0..C {
                for v in 0..V {
                    F::put(lanes, out.add(c * SLAB + v * strides[1]), sums[c][v], false);
                }
            }
        }
    }
}

/// exp(x) for x ≤ 0, to 2 units in the last place; 0 below −708, where it would soon be subnormal; NaN stays NaN.
///
/// x = n·log 2 + r with whole n, |r| ≤ ½·log 2; exp(r) by its series to r¹³/13!, whose rest is below 5e-18.
#[inline(always)]
pub(super) fn exp<L: Lanes>(lanes: L, x: f64) -> f64 {
    // log 2 in two parts, the first with so few digits that n times it is exact.
    const LN_2_HIGH: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    // At this size the last bit of a number is 1: adding it rounds to whole numbers, and leaves n + 1023, the exponent of
    // 2ⁿ, in the lowest bits.
    const WHOLE: f64 = (3u64 << 51) as f64 + 1023.0;
    const INVERSE_FACTORIALS: [f64; 11] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
    ];
    // A comparison that is false for NaN.
    let clamped = if x < -708.0 { -708.0 } else { x };
    let shifted = lanes.fma(clamped, std::f64::consts::LOG2_E, WHOLE);
    let n = shifted - WHOLE;
    let r = lanes.fma(n, -LN_2_LOW, lanes.fma(n, -LN_2_HIGH, clamped));
    let mut series = INVERSE_FACTORIALS[0];
    for &factor in &INVERSE_FACTORIALS[1..] {
        series = lanes.fma(series, r, factor);
    }
    series = lanes.fma(series, r, 0.5);
    series = lanes.fma(series, r * r, r);
    let power = f64::from_bits(shifted.to_bits() << 52);
    let result = lanes.fma(power, series, power);
    if x < -708.0 { 0.0 } else { result }
}
