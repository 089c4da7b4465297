//! The tile of a product: C += Aᵀ·B, 32 × n_outputs, over t terms.
//!
//! All matrices are cut into tiles 32 wide, and both large products are this one:
//!
//! | product             | A, (t × 32)                | B, tiles of (n_outputs × 32)  | C, (n_outputs × 32)       |
//! |---------------------|----------------------------|-------------------------------|---------------------------|
//! | logits, t = d       | 32 samples of X, by column | W, 32 features a tile         | logits of 32 samples      |
//! | gradient, t = batch | 32 features of X, by row   | residual, 32 samples a tile   | gradient of 32 features   |
//!
//! The terms are summed in their order. A is read as vectors; each value of B is multiplied with a whole vector.

use super::lanes::{Element, Lanes};
use super::tiles::TILE;

/// The arguments of [`tile`].
///
/// Promises: `a` has t × 32 values; `b` has for every 32 terms a tile of (n_outputs × 32) values, `b_stride` values
/// apart; `out` has (n_outputs × 32) values, and nobody else uses it.
pub(super) struct Tile {
    pub a: *const f32,
    pub b: *const f32,
    pub b_stride: usize,
    pub t: usize,
    pub out: *mut f32,
    /// Whether to add to `out`; otherwise it is overwritten.
    pub add: bool,
}

/// The arguments of [`outer`]: as [`Tile`] for the gradient, but with A where it lies in X.
///
/// Promises: each of the up to 32 `rows` has `n` ≤ 32 values from `first` on; `b` has (n_outputs × 32) values, and `out`
/// too, which nobody else uses.
pub(super) struct Outer<'a, T> {
    pub rows: &'a [*const T],
    pub first: usize,
    pub n: usize,
    pub b: *const f32,
    pub out: *mut f32,
    /// Whether to add to `out`; otherwise it is overwritten.
    pub add: bool,
}

/// c\[output\]\[lane\] (+)= Σ_i rows\[i\]\[first + lane\] · b\[output\]\[i\], `V` vectors of each output at a time. Only lanes
/// below n matter: of those after them some take 0 for the values of the rows, the others stay as they are.
///
/// # Safety
/// As [`Outer`] says, for `C` outputs.
#[inline(always)]
pub(super) unsafe fn outer<L: Lanes, T: Element, const C: usize, const V: usize>(lanes: L, outer: &Outer<T>) {
    let mut lane = 0;
    // SAFETY: as the caller promised; whole vectors of n values.
    unsafe {
        while lane + V * L::N <= outer.n {
            outer_vectors::<L, T, C, V>(lanes, outer, lane, |row| T::load(lanes, row));
            lane += V * L::N;
        }
        while lane < outer.n {
            let count = L::N.min(outer.n - lane);
            outer_vectors::<L, T, C, 1>(lanes, outer, lane, |row| T::load_first(lanes, row, count));
            lane += L::N;
        }
    }
}

/// # Safety
/// As [`Outer`] says, for `C` outputs; `load` can read the rows `V` times at N values' distance from `first_lane` on.
#[inline(always)]
unsafe fn outer_vectors<L: Lanes, T: Element, const C: usize, const V: usize>(
    lanes: L,
    outer: &Outer<T>,
    first_lane: usize,
    load: impl Fn(*const T) -> L::V,
) {
    let mut sums = [[lanes.splat(0.0); V]; C];
    // SAFETY: all addresses are within what the caller promised.
    unsafe {
        if outer.add {
            for c in 0..C {
                for v in 0..V {
                    sums[c][v] = lanes.load(outer.out.add(c * TILE + first_lane + v * L::N));
                }
            }
        }
        for (i, row) in outer.rows.iter().enumerate() {
            let mut x = [lanes.splat(0.0); V];
            for v in 0..V {
                x[v] = load(row.wrapping_add(outer.first + first_lane + v * L::N));
            }
            for c in 0..C {
                let factor = lanes.splat(*outer.b.add(c * TILE + i));
                for v in 0..V {
                    sums[c][v] = lanes.mul_add(factor, x[v], sums[c][v]);
                }
            }
        }
        for c in 0..C {
            for v in 0..V {
                lanes.store(outer.out.add(c * TILE + first_lane + v * L::N), sums[c][v]);
            }
        }
    }
}

/// c\[output\]\[lane\] (+)= Σ_i a\[i\]\[lane\] · b\[i / 32\]\[output\]\[i % 32\], `V` vectors of each output at a time.
///
/// # Safety
/// As [`Tile`] says, for `C` outputs.
#[inline(always)]
pub(super) unsafe fn tile<L: Lanes, const C: usize, const V: usize>(lanes: L, tile: &Tile) {
    for first_lane in (0..TILE).step_by(V * L::N) {
        let mut sums = [[lanes.splat(0.0); V]; C];
        // SAFETY: all addresses are within what the caller promised.
        unsafe {
            if tile.add {
                for c in 0..C {
                    for v in 0..V {
                        sums[c][v] = lanes.load(tile.out.add(c * TILE + first_lane + v * L::N));
                    }
                }
            }
            let mut a = tile.a.add(first_lane);
            let mut b = tile.b;
            let mut left = tile.t;
            while left > 0 {
                // The tiles of B lie far apart, where no hardware looks ahead.
                let next = b.wrapping_add(tile.b_stride);
                for line in 0..2 * C {
                    lanes.prefetch(next.wrapping_add(line * 16).cast());
                }
                let count = left.min(TILE);
                for i in 0..count {
                    let mut x = [lanes.splat(0.0); V];
                    for v in 0..V {
                        x[v] = lanes.load(a.add(v * L::N));
                    }
                    for c in 0..C {
                        let factor = lanes.splat(*b.add(c * TILE + i));
                        for v in 0..V {
                            sums[c][v] = lanes.mul_add(factor, x[v], sums[c][v]);
                        }
                    }
                    a = a.wrapping_add(TILE);
                }
                left -= count;
                b = next;
            }
            for c in 0..C {
                for v in 0..V {
                    lanes.store(tile.out.add(c * TILE + first_lane + v * L::N), sums[c][v]);
                }
            }
        }
    }
}
