//! The two large products in double precision, and the exponential: what the batch solvers need.
//!
//! Matrices are cut into slabs of 16 features, zeros past d. The samples of a tile are turned into `f64` once, (slabs ×
//! samples × 16); W and its gradient are (slabs × h·q × 16). Both products go through each of them as it lies, with the
//! lanes along the features.

use super::lanes::{Element, Kernel, Lanes};
use super::tiles::{Matrix, groups};

/// Features of a slab.
pub(super) const SLAB: usize = 16;
/// Slabs of a dot product at once: those of a few samples and outputs stay in the nearest cache.
const DEPTH: usize = 16;

/// The samples `first..first + n` of X̃ = scale·X into `out`.
pub(super) struct Widen<'a, T> {
    pub x: Matrix<'a, T>,
    pub first: usize,
    pub n: usize,
    pub scale: f64,
    pub out: &'a mut [f64],
}

impl<T: Element> Kernel for Widen<'_, T> {
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
                        lanes.store_widened(out.add(lane), values, scale);
                    }
                }
            }
        }
    }
}

/// O = X̃·W: x (slabs × n × 16), w (slabs × m × 16), out (n × m).
pub(super) struct Logits<'a> {
    pub x: &'a [f64],
    pub w: &'a [f64],
    pub n: usize,
    pub m: usize,
    pub out: &'a mut [f64],
    /// What to bring into the cache meanwhile, so that memory is asked evenly: an address, which need not be readable, and bytes.
    pub ahead: (*const u8, usize),
}

impl Kernel for Logits<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { x, w, n, m, out, ahead } = self;
        let n_slabs = w.len() / (m * SLAB);
        assert!(x.len() >= n_slabs * n * SLAB && out.len() >= n * m);
        /// Of a line of the cache.
        const LINE: usize = 64;
        let turns = n_slabs.div_ceil(DEPTH) * m.div_ceil(L::DOT) * n.div_ceil(4);
        let bytes = ahead.1.div_ceil(LINE).div_ceil(turns.max(1)) * LINE;
        let mut asked = 0;
        for first in (0..n_slabs).step_by(DEPTH) {
            let depth = DEPTH.min(n_slabs - first);
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
                    let sums = unsafe {
                        let x = rows.map(|row| x.as_ptr().add((first * n + row) * SLAB));
                        let w = w.as_ptr().add((first * m + j) * SLAB);
                        let strides = [n * SLAB, m * SLAB];
                        match c {
                            1 => dot::<L, 1>(lanes, x, w, strides, depth),
                            2 => dot::<L, 2>(lanes, x, w, strides, depth),
                            3 => dot::<L, 3>(lanes, x, w, strides, depth),
                            4 => dot::<L, 4>(lanes, x, w, strides, depth),
                            5 => dot::<L, 5>(lanes, x, w, strides, depth),
                            _ => dot::<L, 6>(lanes, x, w, strides, depth),
                        }
                    };
                    for r in 0..4.min(n - row) {
                        let out = &mut out[(row + r) * m + j..][..c];
                        for c in 0..c {
                            out[c] = if first == 0 { sums[c][r] } else { out[c] + sums[c][r] };
                        }
                    }
                }
            }
        }
    }
}

/// Σ_k x\[r\]\[k\]·w\[c\]\[k\] over the features of `depth` slabs, for r in 0..4 and c in 0..C. `strides` are those of the slabs
/// of x and w.
///
/// # Safety
/// The slabs can be read, and six outputs are no fewer than C.
#[inline(always)]
unsafe fn dot<L: Lanes, const C: usize>(
    lanes: L,
    x: [*const f64; 4],
    w: *const f64,
    strides: [usize; 2],
    depth: usize,
) -> [[f64; 4]; 6] {
    const { assert!(C <= 6) };
    let mut sums = [[lanes.splat_f64(0.0); 4]; C];
    // SAFETY: the caller's promise.
    unsafe {
        for slab in 0..depth {
            let (x, w) = (x.map(|x| x.add(slab * strides[0])), w.add(slab * strides[1]));
            for k in (0..SLAB).step_by(L::N / 2) {
                let mut features = [lanes.splat_f64(0.0); 4];
                for r in 0..4 {
                    features[r] = lanes.load_f64(x[r].add(k));
                }
                for c in 0..C {
                    let w = lanes.load_f64(w.add(c * SLAB + k));
                    for r in 0..4 {
                        sums[c][r] = lanes.mul_add_f64(w, features[r], sums[c][r]);
                    }
                }
            }
        }
    }
    let mut result = [[0.0; 4]; 6];
    for c in 0..C {
        result[c] = sums[c].map(|sum| lanes.sum_f64(sum));
    }
    result
}

/// Gradient += X̃ᵀ·R: x (slabs × n × 16), residual (n × m), gradient (slabs × m × 16).
pub(super) struct Gradient<'a> {
    pub x: &'a [f64],
    pub residual: &'a [f64],
    pub n: usize,
    pub m: usize,
    pub gradient: &'a mut [f64],
}

impl Kernel for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { x, residual, n, m, gradient } = self;
        for (x, gradient) in x.chunks_exact(n * SLAB).zip(gradient.chunks_exact_mut(m * SLAB)) {
            SlabGradient { x, residual, n, m, n_outputs: m, gradient }.run(lanes);
        }
    }
}

/// The same for one slab and the first `n_outputs` of m outputs.
pub(super) struct SlabGradient<'a> {
    pub x: &'a [f64],
    pub residual: &'a [f64],
    pub n: usize,
    pub m: usize,
    pub n_outputs: usize,
    pub gradient: &'a mut [f64],
}

impl Kernel for SlabGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { x, residual, n, m, n_outputs, gradient } = self;
        assert!(x.len() >= n * SLAB && residual.len() >= n * m && gradient.len() >= m * SLAB && n_outputs <= m);
        for (j, c) in groups(n_outputs, L::TILE) {
            for k in (0..SLAB).step_by(L::N) {
                // SAFETY: n rows of 16 features and m outputs, of which c from j on are there.
                unsafe {
                    let x = x.as_ptr().add(k);
                    let r = residual.as_ptr().add(j);
                    let out = gradient.as_mut_ptr().add(j * SLAB + k);
                    macro_rules! variants {
                        ($($c:literal)*) => {
                            match c {
                                $($c => outer::<L, $c>(lanes, x, r, out, n, m),)*
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

/// out\[c\]\[lane\] += Σ_i x\[i\]\[lane\]·r\[i\]\[c\] for two vectors of lanes.
///
/// # Safety
/// All that can be read, and `out` be written by nobody else.
#[inline(always)]
unsafe fn outer<L: Lanes, const C: usize>(lanes: L, x: *const f64, r: *const f64, out: *mut f64, n: usize, m: usize) {
    let mut sums = [[lanes.splat_f64(0.0); 2]; C];
    // SAFETY: the caller's promise.
    unsafe {
        for c in 0..C {
            for v in 0..2 {
                sums[c][v] = lanes.load_f64(out.add(c * SLAB + v * L::N / 2));
            }
        }
        for i in 0..n {
            let mut features = [lanes.splat_f64(0.0); 2];
            for v in 0..2 {
                features[v] = lanes.load_f64(x.add(i * SLAB + v * L::N / 2));
            }
            for c in 0..C {
                let factor = lanes.splat_f64(*r.add(i * m + c));
                for v in 0..2 {
                    sums[c][v] = lanes.mul_add_f64(factor, features[v], sums[c][v]);
                }
            }
        }
        for c in 0..C {
            for v in 0..2 {
                lanes.store_f64(out.add(c * SLAB + v * L::N / 2), sums[c][v]);
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
