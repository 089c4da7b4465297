//! XᵀX of a few samples in single precision, for preconditioners, on matrix units where there are such.

use super::amx::{SIDE, SplitGram, TERMS, Thirds, UnitGram, Units};
use super::lanes::{Instructions, Kernel, Lanes};
use super::tiles::groups;

/// Products for matrices of m features.
pub(crate) struct Gram {
    m: usize,
    on_units: Option<OnUnits>,
}

/// Memory for the parts of X.
struct OnUnits {
    units: Units,
    rows: Vec<Thirds>,
    columns: Vec<Thirds>,
}

impl Gram {
    /// For up to so many samples with m features.
    pub fn new(most: usize, m: usize) -> Self {
        let parts = || vec![Thirds::ZERO; m.div_ceil(SIDE) * most.div_ceil(TERMS)];
        let on_units = |units| OnUnits { units, rows: parts(), columns: parts() };
        Self { m, on_units: Instructions::best().units().map(on_units) }
    }

    /// C += XᵀX up to the diagonal of C, (m × m); what is above it is none. X, (n × m), has no more samples than were said.
    pub fn add(&mut self, x: &[f32], c: &mut [f32]) {
        let (instructions, m) = (Instructions::best(), self.m);
        match &mut self.on_units {
            Some(OnUnits { units, rows, columns }) if x.len() >= m => {
                let n = m.div_ceil(SIDE) * (x.len() / m).div_ceil(TERMS);
                let (rows, columns) = (&mut rows[..n], &mut columns[..n]);
                instructions.run(SplitGram { x, m, rows, columns });
                instructions.run(UnitGram { units: *units, rows, columns, m, out: c });
            }
            _ => instructions.run(AddGram { x, m, c }),
        }
    }
}

/// The same on vectors.
struct AddGram<'a> {
    x: &'a [f32],
    m: usize,
    c: &'a mut [f32],
}

/// Vectors of columns at once, of no more than 16 values, and rows.
const VECTORS: usize = 2;
const MOST_COLUMNS: usize = VECTORS * 16;
const MOST_ROWS: usize = 12;

impl Kernel for AddGram<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        const { assert!(L::N <= 16 && L::TILE <= MOST_ROWS) };
        let Self { x, m, c } = self;
        assert!(c.len() >= m * m);
        let mut tile = [0.0; MOST_ROWS * MOST_COLUMNS];
        for column in (0..m).step_by(VECTORS * L::N) {
            let n_columns = (m - column).min(VECTORS * L::N);
            for (row, n_rows) in groups(m - column, L::TILE) {
                let row = column + row;
                macro_rules! variants {
                    ($($rows:literal)*) => {
                        match n_rows {
                            // SAFETY: these rows and columns are features below m.
                            $($rows => unsafe { product::<L, $rows>(lanes, x, m, row, (column, n_columns), &mut tile) },)*
                            _ => debug_assert!(false, "no products with {n_rows} rows"),
                        }
                    };
                }
                variants!(1 2 3 4 5 6 7 8 9 10 11 12);
                for (row, tile) in (row..row + n_rows).zip(tile.chunks_exact(VECTORS * L::N)) {
                    let to = &mut c[row * m + column..][..n_columns];
                    to.iter_mut().zip(tile).for_each(|(to, sum)| *to += sum);
                }
            }
        }
    }
}

/// Σ_i x\[i\]\[row + r\]·x\[i\]\[column + k\] for r in 0..R, into rows of as many values as the vectors have; zeros past the columns.
///
/// # Safety
/// Rows of m features, among which are R from `row` on and the columns.
#[inline(always)]
unsafe fn product<L: Lanes, const R: usize>(
    lanes: L,
    x: &[f32],
    m: usize,
    row: usize,
    (column, n_columns): (usize, usize),
    out: &mut [f32; MOST_ROWS * MOST_COLUMNS],
) {
    const { assert!(R <= MOST_ROWS) };
    let mut sums = [[lanes.splat(0.0); VECTORS]; R];
    // SAFETY: the caller's promise.
    unsafe {
        for x in x.chunks_exact(m) {
            let from = x.as_ptr().add(column);
            let columns = match n_columns == VECTORS * L::N {
                true => [lanes.load(from), lanes.load(from.add(L::N))],
                false => {
                    let second = from.wrapping_add(n_columns.min(L::N));
                    [
                        lanes.load_first(from, n_columns.min(L::N)),
                        lanes.load_first(second, n_columns.saturating_sub(L::N)),
                    ]
                }
            };
            for r in 0..R {
                let factor = lanes.splat(*x.as_ptr().add(row + r));
                for v in 0..VECTORS {
                    sums[r][v] = lanes.mul_add(factor, columns[v], sums[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..VECTORS {
                lanes.store(out.as_mut_ptr().add((r * VECTORS + v) * L::N), sums[r][v]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::tests::values;

    #[test]
    fn the_product_is_that_of_single_precision() {
        // Whole tiles and part ones.
        for (n, m) in [(1, 1), (5, 16), (32, 17), (33, 40), (64, 32), (256, 385), (100, 64)] {
            let (x, before) = (values(n * m, 1), values(m * m, 2));
            let mut all_found = Vec::new();
            for instructions in Instructions::all() {
                let mut found = before.clone();
                instructions.run(AddGram { x: &x, m, c: &mut found });
                all_found.push(found);
            }
            let mut gram = Gram::new(n + 40, m);
            // What is left of another product does not matter.
            gram.add(&values((n + 40) * m, 5), &mut vec![0.0; m * m]);
            let mut found = before.clone();
            gram.add(&x, &mut found);
            // Without samples there is nothing to add.
            gram.add(&[], &mut found);
            all_found.push(found);
            for (index, found) in all_found.iter().enumerate() {
                // As the parts of a product say, sums of n terms in single precision, and the last sum.
                let is_of_parts = index + 1 == all_found.len() && gram.on_units.is_some();
                let of_parts = if is_of_parts { 3.1 * 0.5f64.powi(16) } else { 0.0 };
                let mut largest: f64 = 0.0;
                for i in 0..m {
                    for j in 0..=i {
                        let terms = (0..n).map(|k| f64::from(x[k * m + i]) * f64::from(x[k * m + j]));
                        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                        let (before, found) = (f64::from(before[i * m + j]), f64::from(found[i * m + j]));
                        let unit = 0.5f64.powi(24);
                        let bound = (of_parts + 2.0 * n as f64 * unit) * size + 2.0 * unit * (before + sum).abs();
                        let what = format!("{n} × {m}, {index}: [{i}, {j}]");
                        assert!((found - before - sum).abs() <= bound, "{what} {found} {}", before + sum);
                        largest = largest.max(sum.abs() / bound);
                    }
                }
                assert!(largest > 100.0, "{n} × {m}, {index}: the bounds are too wide");
            }
        }
    }
}
