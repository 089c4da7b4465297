//! Products with the inverse of a symmetric matrix M = L·Lᵀ, of which the two halves of L are inverted: what preconditioners of the batch
//! solvers are.
//!
//! L = (F 0; B S). Of L·y = g are y₁ = F⁻¹·g₁ and y₂ = S⁻¹·(g₂ − B·y₁), of Lᵀ·x = y then x₂ = S⁻ᵀ·y₂ and x₁ = F⁻ᵀ·(y₁ − Bᵀ·x₂). With
//! B as it is, L⁻¹ takes two thirds of the multiplications of inverting it whole. They wait for memory, so the values are kept in half
//! precision, each row times a power of two of its own. Whatever is lost, the products are those of a matrix that is symmetric and not
//! negative.

use half::f16;
use half::slice::HalfFloatSliceExt;
use ndarray::{ArrayView2, s};

use super::lanes::{Instructions, Kernel, Lanes};

/// Rows that lie together, each as long as the last one, and of a length that fills vectors.
const ROWS: usize = 4;
const WIDTH: usize = 16;
/// Values that are asked for ahead.
const AHEAD: usize = 4096;

/// F⁻¹, B and S⁻¹.
pub(crate) struct InverseRoot {
    first: Rows,
    between: Rows,
    second: Rows,
}

/// A matrix, or what it has up to the diagonal.
struct Rows {
    n: usize,
    /// Of all rows; nothing of a triangle.
    width: Option<usize>,
    values: Vec<f16>,
    /// What the values of each row are to be multiplied with.
    scales: Vec<f32>,
}

impl Rows {
    fn new(matrix: ArrayView2<f32>, is_triangle: bool) -> Self {
        let (n, m) = matrix.dim();
        let width = if is_triangle { None } else { Some(m.next_multiple_of(WIDTH)) };
        let mut rows = Self { n, width, values: Vec::new(), scales: Vec::with_capacity(n.next_multiple_of(ROWS)) };
        rows.values = vec![f16::ZERO; (0..n).step_by(ROWS).map(|first| ROWS * rows.width(first)).sum()];
        let mut rest = &mut rows.values[..];
        let mut scaled: Vec<f32> = Vec::new();
        for row in 0..n.next_multiple_of(ROWS) {
            let (to, others) = rest.split_at_mut(width_of(width, row / ROWS * ROWS, n));
            rest = others;
            scaled.clear();
            if row < n {
                let of_row = if is_triangle { row + 1 } else { m };
                let values = matrix.row(row);
                match values.as_slice() {
                    Some(values) => scaled.extend_from_slice(&values[..of_row]),
                    None => scaled.extend(values.iter().take(of_row)),
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
            rows.scales.push(scale);
        }
        rows
    }

    /// The length of the four rows from `first` on, filled up with zeros.
    fn width(&self, first: usize) -> usize {
        width_of(self.width, first, self.n)
    }

    /// Four rows at a time, the last ones filled up with rows of zeros.
    fn fours(&self) -> impl Iterator<Item = Four<'_>> {
        let mut rest = &self.values[..];
        (0..self.n).step_by(ROWS).zip(self.scales.chunks_exact(ROWS)).map(move |(first, scales)| {
            let width = self.width(first);
            let (values, others) = rest.split_at(ROWS * width);
            rest = others;
            Four { first, n: ROWS.min(self.n - first), width, values, scales }
        })
    }

    fn is_finite(&self) -> bool {
        self.scales.iter().all(|scale| scale.is_finite())
    }
}

/// Four rows from `first` on, of which the matrix has n.
struct Four<'a> {
    first: usize,
    n: usize,
    width: usize,
    values: &'a [f16],
    scales: &'a [f32],
}

/// The same as [`Rows::width`], of n rows.
fn width_of(of_all: Option<usize>, first: usize, n: usize) -> usize {
    of_all.unwrap_or_else(|| (first + ROWS).min(n).next_multiple_of(WIDTH))
}

impl InverseRoot {
    /// Of a matrix that has F⁻¹, B and S⁻¹ where L has F, B and S, F of half as many rows; what is above the diagonal is not read.
    pub fn new(halves: ArrayView2<f32>) -> Self {
        let half = halves.nrows() / 2;
        let first = Rows::new(halves.slice(s![..half, ..half]), true);
        let between = Rows::new(halves.slice(s![half.., ..half]), false);
        Self { first, between, second: Rows::new(halves.slice(s![half.., half..]), true) }
    }

    /// How many values a vector must have.
    pub fn len(&self) -> usize {
        self.first.n + self.second.n.next_multiple_of(WIDTH)
    }

    /// x = M⁻¹·g, both of [`InverseRoot::len`] values; g is used up.
    pub fn solve(&self, g: &mut [f32], x: &mut [f32]) {
        Instructions::best().run(Solve { root: self, g, x });
    }

    pub fn is_finite(&self) -> bool {
        [&self.first, &self.between, &self.second].into_iter().all(Rows::is_finite)
    }
}

struct Solve<'a> {
    root: &'a InverseRoot,
    g: &'a mut [f32],
    x: &'a mut [f32],
}

impl Four<'_> {
    /// The products of the rows, but for their scales, with a vector.
    ///
    /// # Safety
    /// The vector has as many values as a row.
    #[inline(always)]
    unsafe fn products<L: Lanes>(&self, lanes: L, g: *const f32) -> [f32; ROWS] {
        let mut sums = [lanes.splat(0.0); ROWS];
        let rows = self.values.as_ptr();
        for k in (0..self.width).step_by(L::N) {
            // SAFETY: whole vectors fill the four rows; the caller's promise; what is asked for ahead need not be there.
            unsafe {
                let g = lanes.load(g.add(k));
                for row in 0..ROWS {
                    let at = rows.add(row * self.width + k);
                    lanes.prefetch(at.wrapping_add(AHEAD).cast());
                    sums[row] = lanes.mul_add(lanes.load_f16(at), g, sums[row]);
                }
            }
        }
        lanes.sum4(sums)
    }

    /// x += Σ_r factor_r·row_r, rows without their scales.
    ///
    /// # Safety
    /// As of [`Four::products`].
    #[inline(always)]
    unsafe fn add<L: Lanes>(&self, lanes: L, factors: [f32; ROWS], x: *mut f32) {
        let mut vectors = [lanes.splat(0.0); ROWS];
        for row in 0..ROWS {
            vectors[row] = lanes.splat(factors[row]);
        }
        let rows = self.values.as_ptr();
        for k in (0..self.width).step_by(L::N) {
            // SAFETY: whole vectors fill the four rows; the caller's promise.
            unsafe {
                let mut sum = lanes.load(x.add(k));
                for row in 0..ROWS {
                    sum = lanes.mul_add(lanes.load_f16(rows.add(row * self.width + k)), vectors[row], sum);
                }
                lanes.store(x.add(k), sum);
            }
        }
    }

    /// Those of a vector's numbers that stand at these rows, times their scales.
    ///
    /// # Safety
    /// The vector has a number for each row of the matrix.
    #[inline(always)]
    unsafe fn scaled(&self, numbers: *const f32) -> [f32; ROWS] {
        let mut factors = [0.0; ROWS];
        for row in 0..self.n {
            // SAFETY: the caller's promise.
            factors[row] = unsafe { *numbers.add(self.first + row) } * self.scales[row];
        }
        factors
    }
}

impl Kernel for Solve<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        const { assert!(WIDTH.is_multiple_of(L::N)) };
        let Self { root: InverseRoot { first: f, between: b, second: s }, g, x } = self;
        let half = f.n;
        let length = half + s.n.next_multiple_of(WIDTH);
        assert!(g.len() >= length && x.len() >= length);
        x.fill(0.0);
        // Where the halves are no multiple of the width, rows of the first reach into the second, with zeros.
        let (g1, x1) = (g.as_mut_ptr(), x.as_mut_ptr());
        let (g2, x2) = (g1.wrapping_add(half), x1.wrapping_add(half));
        // SAFETY: g and x have the values of a row from 0 on, for the halves' rows, and from `half` on, for the second's.
        unsafe {
            // y₁
            for rows in f.fours() {
                let sums = rows.products(lanes, g1);
                for row in 0..rows.n {
                    *x1.add(rows.first + row) = sums[row] * rows.scales[row];
                }
            }
            // g₂ − B·y₁
            for rows in b.fours() {
                let sums = rows.products(lanes, x1);
                for row in 0..rows.n {
                    *g2.add(rows.first + row) -= sums[row] * rows.scales[row];
                }
            }
            // x₂, row by row: what is in y₂ of a row goes into x₂ at once.
            for rows in s.fours() {
                let mut factors = rows.products(lanes, g2);
                for row in 0..ROWS {
                    factors[row] = factors[row] * rows.scales[row] * rows.scales[row];
                }
                rows.add(lanes, factors, x2);
            }
            // y₁ − Bᵀ·x₂
            for rows in b.fours() {
                rows.add(lanes, rows.scaled(x2).map(|factor| -factor), x1);
            }
            // x₁
            g1.write_bytes(0, half);
            for rows in f.fours() {
                rows.add(lanes, rows.scaled(x1), g1);
            }
            std::ptr::copy_nonoverlapping(g1, x1, half);
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    /// M·x = g, of whole numbers, for the roots that [`InverseRoot`] is given: L = (F 0; B S) with F⁻¹ and S⁻¹ that are simple.
    #[test]
    fn a_solution_is_that_of_plain_products() {
        for n in [1, 2, 3, 4, 5, 15, 16, 17, 31, 64, 131] {
            let half = n / 2;
            let value = |i: usize, j: usize| if i >= j { ((i * 7 + j * 3) % 11) as f64 - 4.0 } else { 0.0 };
            let matrix = Array2::from_shape_fn((n, n), |(i, j)| value(i, j) as f32);
            let root = InverseRoot::new(matrix.view());
            let g: Vec<f64> = (0..n).map(|i| (i % 5) as f64 - 1.0).collect();
            // The columns of a product, of which the value at (i, j) is in the matrix.
            let times = |rows: std::ops::Range<usize>, columns: std::ops::Range<usize>, v: &[f64]| -> Vec<f64> {
                rows.map(|i| columns.clone().zip(v).map(|(j, v)| value(i, j) * v).sum()).collect()
            };
            let transposed = |rows: std::ops::Range<usize>, columns: std::ops::Range<usize>, v: &[f64]| -> Vec<f64> {
                columns.map(|j| rows.clone().zip(v).map(|(i, v)| value(i, j) * v).sum()).collect()
            };
            let minus = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f64>>();
            let (upper, lower) = (0..half, half..n);
            let y1 = times(upper.clone(), upper.clone(), &g[..half]);
            let right = minus(&g[half..], &times(lower.clone(), upper.clone(), &y1));
            let x2 = transposed(lower.clone(), lower.clone(), &times(lower.clone(), lower.clone(), &right));
            let x1 = transposed(upper.clone(), upper.clone(), &minus(&y1, &transposed(lower, upper.clone(), &x2)));
            let expected = [x1, x2].concat();
            let size = expected.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
            for instructions in Instructions::all() {
                // What is beyond the matrix does not count.
                let mut of_g: Vec<f32> = g.iter().map(|&g| g as f32).collect();
                of_g.resize(root.len(), 9.0);
                let mut x = vec![1.0; root.len()];
                instructions.run(Solve { root: &root, g: &mut of_g, x: &mut x });
                let error = |of: &dyn Fn(f64) -> f64| {
                    let differences = x.iter().zip(&expected).map(|(&found, &x)| (f64::from(found) - of(x)).abs());
                    differences.fold(0.0, f64::max) / size
                };
                // Values in half precision are exact, sums are in single precision.
                assert!(error(&|x| x) < 1e-5, "{n}: {:e}", error(&|x| x));
                assert!(error(&|x| x * 1.0001) > 1e-5, "{n}");
            }
            assert!(root.is_finite());
        }
        assert!(!InverseRoot::new(Array2::from_elem((2, 2), f32::NAN).view()).is_finite());
    }
}
