//! Xᵀ·X of a few rows on matrix units, for preconditioners of the batch solvers.

use super::amx::{Halves, SplitFeatures, TERMS, UnitGram, Units};
use super::lanes::Instructions;
use super::tiles::{Matrix, zeros};
use crate::error::Result;

/// The units and memory for them.
pub(crate) struct Gram {
    instructions: Instructions,
    units: Units,
    by_sample: Vec<Halves>,
    by_feature: Vec<Halves>,
    transposed: Vec<Halves>,
}

impl Gram {
    /// Where the processor has matrix units.
    pub fn on_units() -> Option<Self> {
        let instructions = Instructions::best();
        let [by_sample, by_feature, transposed] = [const { Vec::new() }; 3];
        instructions.units().map(|units| Self { instructions, units, by_sample, by_feature, transposed })
    }

    /// Adds Xᵀ·X, up to its diagonal, to `to`, (n × n): X, (rows × n), as the sum of its halves. What becomes of the other half of `to`
    /// is left open.
    pub fn add(&mut self, x: &[f32], n: usize, to: &mut [f32]) -> Result<()> {
        let rows = x.len() / n.max(1);
        let length = 2 * rows.div_ceil(TERMS) * n.div_ceil(TERMS);
        for memory in [&mut self.by_sample, &mut self.by_feature, &mut self.transposed] {
            if memory.len() < length {
                *memory = zeros(length, "the curvature of a class")?;
            }
        }
        if length > 0 {
            let (by_sample, by_feature) = (&mut self.by_sample[..length], &mut self.by_feature[..length]);
            let x = Matrix { x, d: n };
            self.instructions.run(SplitFeatures { x, first: 0, n: rows, scale: 1.0, by_sample, by_feature });
            let (units, transposed) = (self.units, &mut self.transposed[..length]);
            self.instructions.run(UnitGram { units, by_feature: &self.by_feature[..length], transposed, n, to });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::values;
    use super::*;

    #[test]
    fn a_product_is_that_of_single_precision() {
        let Some(mut gram) = Gram::on_units() else {
            eprintln!("this processor has no AMX, or the system does not grant it: nothing is tested");
            return;
        };
        // Memory of a larger one is used again.
        for (rows, n) in [(40, 70), (1, 1), (31, 17), (256, 33), (0, 4), (64, 64)] {
            let x = values(rows * n, 1);
            let mut to = vec![0.5f32; n * n];
            gram.add(&x, n, &mut to).unwrap();
            for (i, j) in (0..n).flat_map(|i| (0..=i).map(move |j| (i, j))) {
                let terms = (0..rows).map(|row| f64::from(x[row * n + i]) * f64::from(x[row * n + j]));
                let (sum, size) = terms.fold((0.5, 0.5), |(sum, size), term| (sum + term, size + term.abs()));
                let bound = (3.1 * 0.5f64.powi(16) + 2.0 * rows as f64 * 0.5f64.powi(24)) * size;
                let found = f64::from(to[i * n + j]);
                assert!(
                    (found - sum).abs() <= bound,
                    "{rows} × {n}: [{i}, {j}] is {found}, expected {sum} ± {bound:e}"
                );
                // Nothing added would be noticed.
                assert!(rows < 2 || i != j || (found - 0.5).abs() > 1e3 * bound);
            }
        }
    }
}
