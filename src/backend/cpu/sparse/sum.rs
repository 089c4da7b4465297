//! The one product that sparse features need: a weighted sum of rows.
//!
//! Logits of a sample are the sum of the rows of W of its features, and the gradient of a feature the sum of the rows of R of its
//! samples. The lanes run along the outputs, so that what a value is multiplied with lies in memory as it is read.

use super::super::lanes::{Kernel, Lanes};
use super::super::tiles::groups;

/// Vectors of outputs that are summed in registers at once.
const VECTORS: usize = 12;

/// A number of single or double precision, and vectors of them.
pub(super) trait Number: Copy + Default + Send + Sync + 'static {
    type V<L: Lanes>: Copy;

    /// Lanes of a vector, at most 32.
    fn n_lanes<L: Lanes>() -> usize;

    fn from_f32(x: f32) -> Self;

    fn splat<L: Lanes>(lanes: L, x: Self) -> Self::V<L>;

    /// # Safety
    /// As many values as lanes can be read at `from`.
    unsafe fn load<L: Lanes>(lanes: L, from: *const Self) -> Self::V<L>;

    /// # Safety
    /// As many values as lanes can be written at `to`.
    unsafe fn store<L: Lanes>(lanes: L, to: *mut Self, v: Self::V<L>);

    fn mul_add<L: Lanes>(lanes: L, a: Self::V<L>, b: Self::V<L>, c: Self::V<L>) -> Self::V<L>;
}

impl Number for f32 {
    type V<L: Lanes> = L::V;

    #[inline(always)]
    fn n_lanes<L: Lanes>() -> usize {
        L::N
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn splat<L: Lanes>(lanes: L, x: Self) -> L::V {
        lanes.splat(x)
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(lanes: L, from: *const Self) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { lanes.load(from) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(lanes: L, to: *mut Self, v: L::V) {
        // SAFETY: the caller's promise.
        unsafe { lanes.store(to, v) }
    }

    #[inline(always)]
    fn mul_add<L: Lanes>(lanes: L, a: L::V, b: L::V, c: L::V) -> L::V {
        lanes.mul_add(a, b, c)
    }
}

impl Number for f64 {
    type V<L: Lanes> = L::D;

    #[inline(always)]
    fn n_lanes<L: Lanes>() -> usize {
        L::N / 2
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x.into()
    }

    #[inline(always)]
    fn splat<L: Lanes>(lanes: L, x: Self) -> L::D {
        lanes.splat_f64(x)
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(lanes: L, from: *const Self) -> L::D {
        // SAFETY: the caller's promise.
        unsafe { lanes.load_f64(from) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(lanes: L, to: *mut Self, v: L::D) {
        // SAFETY: the caller's promise.
        unsafe { lanes.store_f64(to, v) }
    }

    #[inline(always)]
    fn mul_add<L: Lanes>(lanes: L, a: L::D, b: L::D, c: L::D) -> L::D {
        lanes.mul_add_f64(a, b, c)
    }
}

/// A row of a sparse matrix: where its values are, and the values.
#[derive(Clone, Copy)]
pub(super) struct SparseRow<'a> {
    pub indices: &'a [u32],
    pub values: &'a [f32],
}

/// out\[j\] = factor·Σ_k values\[k\]·rows\[indices\[k\]\]\[j\] + start\[j\], in the order of k; start is 0 where there is none.
pub(super) struct WeightedSum<'a, T> {
    pub row: SparseRow<'a>,
    /// (any number × m)
    pub rows: &'a [T],
    pub factor: T,
    /// (m) or nothing.
    pub start: &'a [T],
    /// (m)
    pub out: &'a mut [T],
}

impl<T: Number> Kernel for WeightedSum<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { row, rows, factor, start, out } = self;
        let (m, n) = (out.len(), T::n_lanes::<L>());
        assert!(row.indices.len() == row.values.len() && (start.is_empty() || start.len() == m));
        if m < n {
            few(lanes, row, rows, factor, start, out);
            return;
        }
        for (first, count) in groups(m.div_ceil(n), VECTORS) {
            // The last vector ends with the row; some of its outputs are computed twice.
            macro_rules! variants {
                ($($c:literal)*) => {
                    match count {
                        $($c => {
                            let at: [usize; $c] = std::array::from_fn(|v| ((first + v) * n).min(m - n));
                            block(lanes, at, row, rows, factor, start, out);
                        })*
                        _ => debug_assert!(false, "no block of {count} vectors"),
                    }
                };
            }
            variants!(1 2 3 4 5 6 7 8 9 10 11 12);
        }
    }
}

/// The outputs from each of `at` on, as many as a vector has.
#[inline(always)]
fn block<L: Lanes, T: Number, const C: usize>(
    lanes: L,
    at: [usize; C],
    row: SparseRow,
    rows: &[T],
    factor: T,
    start: &[T],
    out: &mut [T],
) {
    let m = out.len();
    assert!(at.iter().all(|at| at + T::n_lanes::<L>() <= m));
    let mut sums = [T::splat(lanes, T::default()); C];
    for (&index, &value) in row.indices.iter().zip(row.values) {
        let from = rows[index as usize * m..][..m].as_ptr();
        let value = T::splat(lanes, T::from_f32(value));
        for c in 0..C {
            // SAFETY: the row has m values.
            sums[c] = T::mul_add(lanes, value, unsafe { T::load(lanes, from.add(at[c])) }, sums[c]);
        }
    }
    let factor = T::splat(lanes, factor);
    for c in 0..C {
        // SAFETY: start, where there is one, and out have m values.
        unsafe {
            let start = match start.is_empty() {
                true => T::splat(lanes, T::default()),
                false => T::load(lanes, start.as_ptr().add(at[c])),
            };
            T::store(lanes, out.as_mut_ptr().add(at[c]), T::mul_add(lanes, factor, sums[c], start));
        }
    }
}

/// All outputs, where there are fewer than lanes. A vector reaches into the next rows; what it finds there is not used.
#[inline(always)]
fn few<L: Lanes, T: Number>(lanes: L, row: SparseRow, rows: &[T], factor: T, start: &[T], out: &mut [T]) {
    let (m, n) = (out.len(), T::n_lanes::<L>());
    let zero = T::splat(lanes, T::default());
    let mut sums = [zero; 4];
    for (k, (&index, &value)) in row.indices.iter().zip(row.values).enumerate() {
        let value = T::splat(lanes, T::from_f32(value));
        let from = index as usize * m;
        let of_row = match rows.get(from..from + n) {
            // SAFETY: n values.
            Some(values) => unsafe { T::load(lanes, values.as_ptr()) },
            None => {
                let mut last = [T::default(); 32];
                last[..m].copy_from_slice(&rows[from..from + m]);
                // SAFETY: 32 ≥ n.
                unsafe { T::load(lanes, last.as_ptr()) }
            }
        };
        sums[k % 4] = T::mul_add(lanes, value, of_row, sums[k % 4]);
    }
    let one = T::splat(lanes, T::from_f32(1.0));
    let pair = |a, b| T::mul_add(lanes, one, a, b);
    let sum = pair(pair(sums[0], sums[1]), pair(sums[2], sums[3]));
    let mut begin = [T::default(); 32];
    begin[..start.len()].copy_from_slice(start);
    // SAFETY: 32 ≥ n, to be read and written.
    unsafe {
        let result = T::mul_add(lanes, T::splat(lanes, factor), sum, T::load(lanes, begin.as_ptr()));
        T::store(lanes, begin.as_mut_ptr(), result);
    }
    out.copy_from_slice(&begin[..m]);
}
