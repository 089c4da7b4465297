//! The Hessian of the loss among a few of the parameters.

use ndarray::{Array2, s};

use super::preconditioner::ClassSample;
use super::vector::dot;
use crate::error::Result;

/// There are no more coordinates: the Hessian and two arrays of 4,096 rows take up to 160 MiB, and 10¹⁰ multiplications.
const MOST_COORDINATES: usize = 2048;
/// Rows of the Hessian computed together, up to the diagonal alone.
const ROWS: usize = 32;

/// Some coordinates, class·(d + 1) + feature, and the Hessian among them, H = Σ_i s_i·(diag(p_i) − p_i·p_iᵀ) ⊗ x_i·x_iᵀ, x less its
/// mean, for the parameters that it was made for.
pub(super) struct Support {
    /// Of each coordinate its place among the chosen; [`OUTSIDE`] of others.
    places: Vec<u32>,
    coordinates: Vec<usize>,
    /// (n × n)
    hessian: Vec<f64>,
    /// The rows of the sample that it is taken of, √s of each, √s·p (rows × q), and what the Hessian is multiplied by for the rows left out.
    rows: Vec<usize>,
    roots: Vec<f64>,
    p: Array2<f64>,
    factor: f64,
}

const OUTSIDE: u32 = u32::MAX;

impl Support {
    /// Of no coordinate, and no use for any of `n_coordinates`.
    pub fn none(n_coordinates: usize) -> Self {
        Self {
            places: vec![OUTSIDE; n_coordinates],
            coordinates: Vec::new(),
            hessian: Vec::new(),
            rows: Vec::new(),
            roots: Vec::new(),
            p: Array2::zeros((0, 0)),
            factor: 1.0,
        }
    }

    /// Of no coordinate yet, for parameters that are not centred, of the rows that have this `share` of the curvature: a product with
    /// the rows of the sample.
    pub fn at(sample: &ClassSample, parameters: &[f64], share: f64) -> Result<Self> {
        let (_, p) = sample.probabilities(parameters)?;
        let roots: Vec<f64> = p.rows().into_iter().map(|row| row.sum()).collect();
        let curvature = |row: usize| roots[row] * roots[row] - p.row(row).iter().map(|p| p * p).sum::<f64>();
        let mut rows: Vec<(f64, usize)> = (0..p.nrows()).map(|row| (curvature(row), row)).collect();
        rows.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let total: f64 = rows.iter().map(|(curvature, _)| curvature).sum();
        let mut kept = 0.0;
        rows.retain(|(curvature, _)| {
            let is_kept = kept < share * total;
            kept += if is_kept { *curvature } else { 0.0 };
            is_kept
        });
        let rows: Vec<usize> = rows.into_iter().map(|(_, row)| row).collect();
        Ok(Self {
            roots: rows.iter().map(|&row| roots[row]).collect(),
            p: p.select(ndarray::Axis(0), &rows),
            rows,
            factor: total / kept.max(f64::MIN_POSITIVE),
            ..Self::none(parameters.len())
        })
    }

    /// Takes in those of `coordinates` that are not there, as far as there is room. The multiplications that it took.
    pub fn extend(&mut self, sample: &ClassSample, mean: &[f64], coordinates: impl Iterator<Item = usize>) -> f64 {
        let (d, before) = (mean.len(), self.len());
        let room = if self.rows.is_empty() { 0 } else { MOST_COORDINATES - before };
        let new: Vec<usize> = coordinates.filter(|&i| self.places[i] == OUTSIDE).take(room).collect();
        if new.is_empty() {
            return 0.0;
        }
        for i in new {
            self.places[i] = self.coordinates.len() as u32;
            self.coordinates.push(i);
        }
        let n = self.len();
        // U = √s·p·x, whose products are what H has less than its blocks of one class, and V = √(s·p)·x, those of the blocks;
        // (coordinates × rows).
        let n_rows = self.rows.len();
        let (mut u, mut v) = (Array2::<f64>::zeros((n, n_rows)), Array2::<f64>::zeros((n, n_rows)));
        let mut x = vec![0.0; d + 1];
        for (index, &row) in self.rows.iter().enumerate() {
            sample.centred_row(row, mean, &mut x);
            for (place, &i) in self.coordinates.iter().enumerate() {
                let (p, x) = (self.p[[index, i / (d + 1)]], x[i % (d + 1)]);
                u[[place, index]] = p * x;
                v[[place, index]] = (p * self.roots[index]).sqrt() * x;
            }
        }
        let v = v.into_raw_vec_and_offset().0;
        let old = std::mem::replace(&mut self.hessian, vec![0.0; n * n]);
        for (i, row) in old.chunks_exact(before.max(1)).enumerate() {
            self.hessian[i * n..][..before].copy_from_slice(row);
        }
        let mut multiplications = 0.0;
        for from in (before..n).step_by(ROWS) {
            let to = n.min(from + ROWS);
            let products = u.slice(s![from..to, ..]).dot(&u.slice(s![..to, ..]).t());
            multiplications += ((to - from) * to * n_rows) as f64;
            for i in from..to {
                for j in 0..=i {
                    let mut value = -products[[i - from, j]];
                    if self.coordinates[i] / (d + 1) == self.coordinates[j] / (d + 1) {
                        value += dot(&v[i * n_rows..][..n_rows], &v[j * n_rows..][..n_rows]);
                        multiplications += n_rows as f64;
                    }
                    self.hessian[i * n + j] = self.factor * value;
                    self.hessian[j * n + i] = self.factor * value;
                }
            }
        }
        multiplications
    }

    pub fn len(&self) -> usize {
        self.coordinates.len()
    }

    /// Where a coordinate stands in the Hessian.
    pub fn place(&self, i: usize) -> Option<usize> {
        let place = self.places[i];
        (place != OUTSIDE).then_some(place as usize)
    }

    pub fn row(&self, place: usize) -> &[f64] {
        &self.hessian[place * self.len()..][..self.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Shape;
    use crate::data::Features;

    #[test]
    fn it_is_the_hessian() {
        let (n, d, q) = (50, 3, 4);
        let x: Vec<f32> = (0..n * d).map(|i| ((i * i * 7 + 3 * i) % 23) as f32 / 8.0 - 1.0).collect();
        let weights: Vec<f32> = (0..n).map(|i| (i % 3) as f32).collect();
        let parameters: Vec<f64> = (0..(d + 1) * q).map(|i| f64::from(((i * 5 % 7) as f32 - 3.0) / 4.0)).collect();
        let mean = [0.25, -0.5, 0.125];
        let features = Features::new(x.clone(), n, d).unwrap();
        let shape = Shape { n_features: d, n_classes: q, n_heads: 1 };
        let sample = ClassSample::new(&features, 2.0, Some(&weights), shape).unwrap();
        // By the formula.
        let total: f32 = weights.iter().sum();
        let expected = |a: usize, b: usize, mean: &[f64]| -> f64 {
            let of_row = |i: usize| {
                let value = |k: usize| if k < d { 2.0 * f64::from(x[i * d + k]) } else { 1.0 };
                let logits = (0..q).map(|j| (0..=d).map(|k| value(k) * parameters[k * q + j]).sum::<f64>().exp());
                let p: Vec<f64> = logits.collect();
                let p: Vec<f64> = p.iter().map(|e| e / p.iter().sum::<f64>()).collect();
                let (class, other) = (a / (d + 1), b / (d + 1));
                let centred = |k: usize| value(k) - mean.get(k).unwrap_or(&0.0);
                let curvature = p[class] * (f64::from(u8::from(class == other)) - p[other]);
                f64::from(weights[i] / total) * curvature * centred(a % (d + 1)) * centred(b % (d + 1))
            };
            (0..n).map(of_row).sum()
        };
        let coordinates = [0, 2, 3, 5, 9, 10, 15];
        let mut support = Support::at(&sample, &parameters, 1.0).unwrap();
        // In two parts, the second of which names some that are there.
        assert!(support.extend(&sample, &mean, [10, 0, 3].into_iter()) > 0.0);
        assert!(support.extend(&sample, &mean, coordinates.into_iter()) > 0.0);
        assert_eq!(support.extend(&sample, &mean, coordinates.into_iter()), 0.0);
        assert_eq!((support.len(), support.place(1)), (7, None));
        let worst = |mean: &[f64]| {
            let pairs = coordinates.iter().flat_map(|&a| coordinates.iter().map(move |&b| (a, b)));
            let difference = |(a, b)| {
                let [i, j] = [a, b].map(|i| support.place(i).unwrap());
                (support.row(i)[j] - expected(a, b, mean)).abs()
            };
            pairs.map(difference).fold(0.0, f64::max)
        };
        // Probabilities are of logits in single precision.
        assert!(worst(&mean) < 1e-6, "{}", worst(&mean));
        assert!(worst(&[0.25, -0.5, 0.2]) > 1e-4);
        // Of the rows that curve most, about the same.
        let mut most = Support::at(&sample, &parameters, 0.8).unwrap();
        most.extend(&sample, &mean, coordinates.into_iter());
        assert!(most.rows.len() < support.rows.len());
        let trace = |support: &Support| (0..7).map(|i| support.row(i)[i]).sum::<f64>();
        assert!((trace(&most) / trace(&support) - 1.0).abs() < 0.3);
        // None has room for nothing.
        assert_eq!(Support::none(16).extend(&sample, &mean, coordinates.into_iter()), 0.0);
    }
}
