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
    // Of a feature that has a value in each sample that counts the sums are of the differences from one of its values, so that nothing
    // cancels and a constant has variance 0. Of the others most are 0, or enough that the mean is far from what they are.
    let counting = || (0..x.n_rows()).filter(|&row| weight(row) > 0.0);
    let mut counts = allocate(0u32, d, "moments of the features")?;
    for row in counting() {
        x.row(row).0.iter().for_each(|&column| counts[column as usize] += 1);
    }
    let n_counting = counting().count();
    let is_full = |column: usize| counts[column] as usize == n_counting;
    let mut shift = zeros()?;
    let (columns, values) = counting().next().map(|row| x.row(row)).unwrap_or_default();
    for (&column, &value) in columns.iter().zip(values).filter(|(column, _)| is_full(**column as usize)) {
        shift[column as usize] = f64::from(value) * scale;
    }
    // The sum of s·(x − shift), and of s over the values that are stored.
    let (mut mean, mut stored) = (zeros()?, zeros()?);
    for row in counting() {
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
    for row in counting() {
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

#[cfg(test)]
mod tests {
    use super::super::super::{moments, second_moments};
    use crate::batch::Shuffle;
    use crate::data::{Csr, Features};

    /// The same samples sparse and dense: a feature with few values, one that is constant, one without any, one with a stored 0, and
    /// one whose values are all there and nearly the same.
    fn both() -> [Features<'static>; 2] {
        let (n, mut random) = (300, Shuffle::new(3, 4));
        let (mut offsets, mut columns, mut values, mut dense) = (vec![0], Vec::new(), Vec::new(), Vec::new());
        for i in 0..n {
            let value = random.below(1000) as f32 / 500.0 - 1.0;
            let row = [(i % 7 == 0).then_some(value), Some(3.1), None, (i == 5).then_some(0.0), Some(1e4 + value)];
            for (k, value) in row.into_iter().enumerate() {
                dense.push(value.unwrap_or(0.0));
                if let Some(value) = value {
                    columns.push(k as u32);
                    values.push(value);
                }
            }
            offsets.push(values.len() as u64);
        }
        let sparse = Features::new(Csr::new(offsets, columns, values).unwrap(), n, 5).unwrap();
        [sparse, Features::new(dense, n, 5).unwrap()]
    }

    fn assert_near(found: &[f64], expected: &[f64], scale: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for ((found, expected), scale) in found.iter().zip(expected).zip(scale) {
            assert!((found - expected).abs() <= 1e-13 * scale, "{found} {expected}");
        }
    }

    #[test]
    fn moments_are_those_of_dense_features() {
        let [sparse, dense] = both();
        let weights: Vec<f32> = (0..300).map(|i| [1.0, 0.0, 2.5][i % 3]).collect();
        for weights in [None, Some(&weights[..])] {
            let found = moments(&sparse, 0.5, weights).unwrap();
            let expected = moments(&dense, 0.5, weights).unwrap();
            let scale: Vec<f64> = expected.mean.iter().map(|mean| 1.0 + mean.abs()).collect();
            assert_near(&found.mean, &expected.mean, &scale);
            // The nearly constant feature is known by its differences.
            assert_near(&found.variance, &expected.variance, &[1.0, 1.0, 1.0, 1.0, 10.0]);
            assert_eq!(found.variance[1..4], [0.0; 3]);
            assert!(found.variance[0] > 1e-3 && found.variance[4] > 1e-2);

            let shares = vec![1.0 / 300.0; 300];
            let found = second_moments(&sparse, 0.5, &expected.mean, &shares, &[0, 1, 2, 3, 4]).unwrap();
            let whole = second_moments(&dense, 0.5, &expected.mean, &shares, &[0, 1, 2, 3, 4]).unwrap();
            assert_eq!(found, whole);
            // Of some columns.
            let some = [&sparse, &dense]
                .map(|features| second_moments(features, 0.5, &expected.mean, &shares, &[0, 4]).unwrap());
            assert_eq!(some, [0; 2].map(|_| vec![whole[0], whole[4], whole[20], whole[24]]));
        }
        let unweighted = moments(&sparse, 0.5, None).unwrap();
        assert_ne!(unweighted.mean, moments(&sparse, 0.5, Some(&weights)).unwrap().mean);
    }

    /// What is the same in all rows that count is constant, whatever the others are, or whether they have it.
    #[test]
    fn rows_without_weight_do_not_matter() {
        let n = 3000;
        let weights: Vec<f32> = (0..n).map(|i| f32::from(u8::from(i % 10 != 0))).collect();
        let mut dense = vec![3.1f32; 2 * n];
        dense[..2].copy_from_slice(&[7.3, 0.0]);
        let (mut offsets, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for row in dense.chunks(2) {
            for (k, &x) in row.iter().enumerate().filter(|(_, x)| **x != 0.0) {
                columns.push(k as u32);
                values.push(x);
            }
            offsets.push(values.len() as u64);
        }
        let sparse = Features::new(Csr::new(offsets, columns, values).unwrap(), n, 2).unwrap();
        for features in [Features::new(dense, n, 2).unwrap(), sparse] {
            let found = moments(&features, 1.0, Some(&weights)).unwrap();
            assert_eq!((found.mean, found.variance), (vec![f64::from(3.1f32); 2], vec![0.0; 2]));
            assert!(moments(&features, 1.0, None).unwrap().variance.iter().all(|&variance| variance > 1e-4));
        }
    }
}
