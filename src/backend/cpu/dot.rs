//! Dot products of four samples with the weights of a few outputs: logits without scale and intercept, 4 × n_outputs.
//!
//! The lanes run along the features, so that a sample is read once, as it lies in memory and in its own precision. Each
//! lane sums every N-th product in order; then the lanes are summed.

use super::lanes::{Element, Lanes};
use super::tiles::TILE;

/// The arguments of [`dot`].
///
/// Promises: each of `x` has d values; `w` has for every 32 features a tile of (n_outputs × 32) values, `w_stride`
/// values apart, with zeros past d; `out` is column r of (n_outputs × 32) values with r ≤ 28, and nobody else uses it.
pub(super) struct Dot<T> {
    pub x: [*const T; 4],
    /// A sample to bring into the cache meanwhile; need not be readable.
    pub ahead: *const T,
    pub d: usize,
    pub w: *const f32,
    pub w_stride: usize,
    pub out: *mut f32,
}

/// out\[output\]\[r\] = Σ_k x\[r\]\[k\] · w\[k / 32\]\[output\]\[k % 32\] for r in 0..4.
///
/// # Safety
/// As [`Dot`] says, for `C` outputs.
#[inline(always)]
pub(super) unsafe fn dot<L: Lanes, T: Element, const C: usize>(lanes: L, dot: &Dot<T>) {
    let mut sums = [[lanes.splat(0.0); 4]; C];
    let mut w = dot.w;
    let mut k = 0;
    // SAFETY: all addresses are within what the caller promised.
    unsafe {
        while k + TILE <= dot.d {
            let ahead = dot.ahead.wrapping_add(k).cast::<u8>();
            lanes.prefetch(ahead);
            if size_of::<T>() > 2 {
                lanes.prefetch(ahead.wrapping_add(64));
            }
            for lane in (0..TILE).step_by(L::N) {
                let mut x = [lanes.splat(0.0); 4];
                for r in 0..4 {
                    x[r] = T::load(lanes, dot.x[r].add(k + lane));
                }
                for c in 0..C {
                    let w = lanes.load(w.add(c * TILE + lane));
                    for r in 0..4 {
                        sums[c][r] = lanes.mul_add(w, x[r], sums[c][r]);
                    }
                }
            }
            w = w.wrapping_add(dot.w_stride);
            k += TILE;
        }
        let mut lane = 0;
        while k < dot.d {
            let count = L::N.min(dot.d - k);
            let mut x = [lanes.splat(0.0); 4];
            for r in 0..4 {
                x[r] = T::load_first(lanes, dot.x[r].add(k), count);
            }
            for c in 0..C {
                let w = lanes.load(w.add(c * TILE + lane));
                for r in 0..4 {
                    sums[c][r] = lanes.mul_add(w, x[r], sums[c][r]);
                }
            }
            k += count;
            lane += L::N;
        }
        for c in 0..C {
            dot.out.add(c * TILE).cast::<[f32; 4]>().write_unaligned(lanes.sum4(sums[c]));
        }
    }
}
