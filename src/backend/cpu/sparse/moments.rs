//! Means and variances of sparse features, what is not stored counted as 0.

use super::super::Moments;
use super::super::double::SLAB;
use super::super::tiles::allocate;
use crate::data::Csr;
use crate::error::Result;

/// Twin of [`super::super::moments::moments`], of d features. Each value is looked at twice, by one thread.
pub(in super::super) fn moments(x: &Csr, d: usize, scale: f32, weights: Option<&[f32]>) -> Result<Moments> {
    let scale = f64::from(scale);
    let weight = |row: usize| weights.map_or(1.0, |weights| f64::from(weights[row]));
    let total: f64 = (0..x.n_rows()).map(weight).sum();
    let zeros = || allocate(0.0, d, "moments of the features");
    // Of a feature that has a value in each sample the sums are of the differences from one of its values, so that nothing
    // cancels and a constant has variance 0. Of the others most are 0, or enough that the mean is far from what they are.
    let mut counts = allocate(0u32, d, "moments of the features")?;
    x.columns().iter().for_each(|&column| counts[column as usize] += 1);
    let is_full = |column: usize| counts[column] as usize == x.n_rows();
    let mut shift = zeros()?;
    let (columns, values) = x.row(0);
    for (&column, &value) in columns.iter().zip(values).filter(|(column, _)| is_full(**column as usize)) {
        shift[column as usize] = f64::from(value) * scale;
    }
    // The sum of s·(x − shift), and of s over the values that are stored.
    let (mut mean, mut stored) = (zeros()?, zeros()?);
    for row in 0..x.n_rows() {
        let s = weight(row);
        let (columns, values) = x.row(row);
        for (column, &value) in columns.iter().map(|&column| column as usize).zip(values) {
            mean[column] += s * (f64::from(value) * scale - shift[column]);
            stored[column] += s;
        }
    }
    mean.iter_mut().zip(&shift).for_each(|(mean, shift)| *mean = shift + *mean / total);
    let mut variance = shift;
    variance.fill(0.0);
    for row in 0..x.n_rows() {
        let s = weight(row);
        let (columns, values) = x.row(row);
        for (column, &value) in columns.iter().map(|&column| column as usize).zip(values) {
            variance[column] += s * (f64::from(value) * scale - mean[column]).powi(2);
        }
    }
    for (column, variance) in variance.iter_mut().enumerate() {
        let of_zeros = if is_full(column) { 0.0 } else { (total - stored[column]).max(0.0) };
        *variance = (*variance + of_zeros * mean[column].powi(2)) / total;
    }
    Ok(Moments { mean, variance })
}

/// The samples `first..first + n` of X̃ = scale·X as [`super::super::double::Widen`] has them.
pub(in super::super) fn widen(x: &Csr, first: usize, n: usize, scale: f64, out: &mut [f64]) {
    out.fill(0.0);
    for sample in 0..n {
        let (columns, values) = x.row(first + sample);
        for (column, &value) in columns.iter().map(|&column| column as usize).zip(values) {
            out[(column / SLAB * n + sample) * SLAB + column % SLAB] = f64::from(value) * scale;
        }
    }
}
