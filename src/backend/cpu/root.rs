//! Products with the inverse of a symmetric matrix, of which L⁻¹ is kept, L·Lᵀ the matrix: what preconditioners of the batch solvers are.
//!
//! They wait for memory, so the values are kept in half precision, each row times a power of two of its own. Whatever is lost, the products
//! are those of a matrix that is symmetric and not negative.

use half::f16;
use half::slice::HalfFloatSliceExt;
use ndarray::ArrayView2;

use super::lanes::{Instructions, Kernel, Lanes};

/// Rows that lie together, each as long as the last one, and of a length that fills vectors.
const ROWS: usize = 4;
const WIDTH: usize = 16;
/// Values that are asked for ahead.
const AHEAD: usize = 4096;

/// L⁻¹ up to the diagonal.
pub(crate) struct InverseRoot {
    n: usize,
    values: Vec<f16>,
    /// What the values of each row are to be multiplied with.
    scales: Vec<f32>,
}

/// The length of the rows that end with row `last`, filled up with zeros.
fn width(last: usize) -> usize {
    (last + 1).next_multiple_of(WIDTH)
}

impl InverseRoot {
    /// The lower half of the matrix; the other is not read.
    pub fn new(matrix: ArrayView2<f32>) -> Self {
        let n = matrix.nrows();
        let last_of = |first: usize| (first + ROWS).min(n) - 1;
        let length = (0..n).step_by(ROWS).map(|first| ROWS * width(last_of(first))).sum();
        let (mut values, mut scales) = (vec![f16::ZERO; length], Vec::with_capacity(n.next_multiple_of(ROWS)));
        let mut rest = &mut values[..];
        let mut scaled: Vec<f32> = Vec::new();
        for row in 0..n.next_multiple_of(ROWS) {
            let (to, others) = rest.split_at_mut(width(last_of(row / ROWS * ROWS)));
            rest = others;
            scaled.clear();
            if row < n {
                let values = matrix.row(row);
                match values.as_slice() {
                    Some(values) => scaled.extend_from_slice(&values[..=row]),
                    None => scaled.extend(values.iter().take(row + 1)),
                }
            }
            let most = scaled.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
            // A power of two: the largest value is then below 2¹⁵. Rows of next to nothing count as 0.
            let power = f32::from_bits(most.to_bits() & 0x7F80_0000) / 16384.0;
            let (scale, inverse) = match scaled.iter().all(|value| value.is_finite()) {
                true if power.is_normal() => (power, 1.0 / power),
                true => (0.0, 1.0),
                false => (f32::NAN, 0.0),
            };
            scaled.iter_mut().for_each(|value| *value *= inverse);
            to[..scaled.len()].convert_from_f32_slice(&scaled);
            scales.push(scale);
        }
        Self { n, values, scales }
    }

    /// How many values a vector must have.
    pub fn len(&self) -> usize {
        width(self.n.max(1) - 1)
    }

    /// L⁻ᵀ·L⁻¹·g, added to x, both of [`InverseRoot::len`] values.
    pub fn solve(&self, g: &[f32], x: &mut [f32]) {
        Instructions::best().run(Solve { root: self, g, x });
    }

    pub fn is_finite(&self) -> bool {
        self.scales.iter().all(|scale| scale.is_finite())
    }
}

struct Solve<'a> {
    root: &'a InverseRoot,
    g: &'a [f32],
    x: &'a mut [f32],
}

impl Kernel for Solve<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        const { assert!(WIDTH.is_multiple_of(L::N)) };
        let Self { root: InverseRoot { n, values, scales }, g, x } = self;
        let mut rest = &values[..];
        for (first, scales) in (0..*n).step_by(ROWS).zip(scales.chunks_exact(ROWS)) {
            let width = width((first + ROWS).min(*n) - 1);
            let (rows, others) = rest.split_at(ROWS * width);
            rest = others;
            let (g, x) = (&g[..width], &mut x[..width]);
            // SAFETY: whole vectors of `width` values.
            unsafe {
                let mut sums = [lanes.splat(0.0); ROWS];
                for k in (0..width).step_by(L::N) {
                    let g = lanes.load(g.as_ptr().add(k));
                    for (row, sum) in sums.iter_mut().enumerate() {
                        lanes.prefetch(rows.as_ptr().wrapping_add(row * width + k + AHEAD).cast());
                        *sum = lanes.mul_add(lanes.load_f16(rows.as_ptr().add(row * width + k)), g, *sum);
                    }
                }
                let mut factors = [lanes.splat(0.0); ROWS];
                for ((factor, sum), scale) in factors.iter_mut().zip(lanes.sum4(sums)).zip(scales) {
                    *factor = lanes.splat(sum * scale * scale);
                }
                for k in (0..width).step_by(L::N) {
                    let mut sum = lanes.load(x.as_ptr().add(k));
                    for (row, factor) in factors.into_iter().enumerate() {
                        sum = lanes.mul_add(lanes.load_f16(rows.as_ptr().add(row * width + k)), factor, sum);
                    }
                    lanes.store(x.as_mut_ptr().add(k), sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    #[test]
    fn a_solution_is_that_of_plain_products() {
        for n in [1, 3, 4, 5, 15, 16, 17, 31, 64, 131] {
            let value = |i: usize, j: usize| if i >= j { ((i * 7 + j * 3) % 11) as f32 - 4.0 } else { 0.0 };
            let matrix = Array2::from_shape_fn((n, n), |(i, j)| value(i, j));
            let root = InverseRoot::new(matrix.view());
            let mut g: Vec<f32> = (0..n).map(|i| (i % 5) as f32 - 1.0).collect();
            let product: Vec<f32> = (0..n).map(|i| (0..n).map(|j| value(i, j) * g[j]).sum()).collect();
            let expected: Vec<f32> =
                (0..n).map(|j| 1.0 + (0..n).map(|i| value(i, j) * product[i]).sum::<f32>()).collect();
            // What is beyond the matrix does not count.
            g.resize(root.len(), 9.0);
            let mut x = vec![1.0; root.len()];
            for instructions in Instructions::all() {
                x.fill(1.0);
                instructions.run(Solve { root: &root, g: &g, x: &mut x });
                // Sums of whole numbers are exact.
                assert_eq!(x[..n], expected, "{n}");
            }
            assert!(root.is_finite());
        }
        assert!(!InverseRoot::new(Array2::from_elem((2, 2), f32::NAN).view()).is_finite());
    }
}
