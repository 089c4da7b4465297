//! XᵀX of a few samples in single precision, for preconditioners, on matrix units.

use super::amx::{SIDE, SplitGram, TERMS, Thirds, UnitGram, Units};
use super::lanes::Instructions;

/// Memory for the parts of X.
pub(crate) struct Gram {
    units: Units,
    m: usize,
    rows: Vec<Thirds>,
    columns: Vec<Thirds>,
}

impl Gram {
    /// For products of up to so many samples with m features; nothing where the processor has no such units.
    pub fn new(most: usize, m: usize) -> Option<Self> {
        let units = Instructions::best().units()?;
        let n = m.div_ceil(SIDE) * most.div_ceil(TERMS);
        Some(Self { units, m, rows: vec![Thirds::ZERO; n], columns: vec![Thirds::ZERO; n] })
    }

    /// C += XᵀX up to the diagonal of C, (m × m); what is above it is none. X, (n × m), has at least one sample, and no more than there is
    /// memory for.
    pub fn add(&mut self, x: &[f32], c: &mut [f32]) {
        let Self { units, m, rows, columns } = self;
        let (units, m) = (*units, *m);
        let n = m.div_ceil(SIDE) * (x.len() / m).div_ceil(TERMS);
        let (rows, columns) = (&mut rows[..n], &mut columns[..n]);
        let instructions = Instructions::best();
        instructions.run(SplitGram { x, m, rows, columns });
        instructions.run(UnitGram { units, rows, columns, m, out: c });
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
            let Some(mut gram) = Gram::new(n + 40, m) else {
                eprintln!("this processor has no AMX, or the system does not grant it: nothing is tested");
                return;
            };
            // What is left of another product does not matter.
            gram.add(&values((n + 40) * m, 5), &mut vec![0.0; m * m]);
            let (x, before) = (values(n * m, 1), values(m * m, 2));
            let mut found = before.clone();
            gram.add(&x, &mut found);
            let mut largest: f64 = 0.0;
            for i in 0..m {
                for j in 0..=i {
                    let terms = (0..n).map(|k| f64::from(x[k * m + i]) * f64::from(x[k * m + j]));
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                    let (before, found) = (f64::from(before[i * m + j]), f64::from(found[i * m + j]));
                    // As the parts of a product say, sums of n terms in single precision, and the last sum.
                    let unit = 0.5f64.powi(24);
                    let bound =
                        (3.1 * 0.5f64.powi(16) + 2.0 * n as f64 * unit) * size + 2.0 * unit * (before + sum).abs();
                    assert!((found - before - sum).abs() <= bound, "{n} × {m}: [{i}, {j}] {found} {}", before + sum);
                    largest = largest.max(sum.abs() / bound);
                }
            }
            assert!(largest > 100.0, "{n} × {m}: the bounds are too wide");
        }
    }
}
