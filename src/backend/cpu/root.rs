//! Products with the inverse of a symmetric matrix, of which L⁻¹ is kept, L·Lᵀ the matrix: what preconditioners of the batch solvers are.

use ndarray::ArrayView2;

use super::lanes::{Instructions, Kernel, Lanes};

/// Rows that lie together, each as long as the last one, and of a length that fills vectors.
const ROWS: usize = 4;
const WIDTH: usize = 16;

/// L⁻¹ in single precision, up to the diagonal.
pub(crate) struct InverseRoot {
    n: usize,
    values: Vec<f32>,
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
        let mut values = Vec::with_capacity(length);
        for first in (0..n).step_by(ROWS) {
            let last = last_of(first);
            for row in first..first + ROWS {
                let before = values.len();
                if row <= last {
                    values.extend(matrix.row(row).iter().take(row + 1));
                }
                values.resize(before + width(last), 0.0);
            }
        }
        Self { n, values }
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
        self.values.iter().all(|value| value.is_finite())
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
        let Self { root: InverseRoot { n, values }, g, x } = self;
        let mut rest = &values[..];
        for first in (0..*n).step_by(ROWS) {
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
                        *sum = lanes.mul_add(lanes.load(rows.as_ptr().add(row * width + k)), g, *sum);
                    }
                }
                let factors = lanes.sum4(sums).map(|sum| lanes.splat(sum));
                for k in (0..width).step_by(L::N) {
                    let mut sum = lanes.load(x.as_ptr().add(k));
                    for (row, factor) in factors.into_iter().enumerate() {
                        sum = lanes.mul_add(lanes.load(rows.as_ptr().add(row * width + k)), factor, sum);
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
