//! An approximation of the inverse Hessian over the factors of structured weights.
//!
//! Over W the Hessian is taken to be M ⊗ I, M = c·G + R: G the covariance of the features, R the penalty of each, c the mean curvature of
//! the classes, the trace of the mean of diag(p) − p·pᵀ over q − 1. While one factor stays what it is W is linear in the other, and the
//! Hessian over that is Jᵀ·(M ⊗ I)·J; what factors do to each other is left to the pairs of L-BFGS. So the blocks are
//!
//! - of U·V: M ⊗ V·Vᵀ over U, and Uᵀ·M·U over each column of V;
//! - of Σ_p A_p ⊗ S_p: Σ_{i,i'} (A_p·A_{p'}ᵀ)[i, i']·M[i·d' + k, i'·d' + k'] from (p, k) to (p', k') over each column of S, and
//!   Σ_{k,k'} (S_p·S_{p'}ᵀ)[k, k']·M[i·d' + k, i'·d' + k'] from (p, i) to (p', i') over each column of A.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::preconditioner::{ClassSample, Curvature, covariance, invert_root, multiply};
use super::vector::dot;
use crate::backend::Shape;
use crate::error::Result;
use crate::structure::Parametrisation;

/// A row of a block of which no more than this share is left by those before it is taken to curve as if they were not there.
const LEAST_PIVOT: f64 = 1e-10;
/// Blocks for sums of m products take d²·m² multiplications with all of M, m ≤ 16 at 1,024 features; above that they have its diagonal.
const MOST_ROWS: usize = 1 << 14;
/// Rows of a block over all features, and of one of A.
const MOST_FEATURES: usize = 1 << 12;

pub(super) struct FactorCurvature<'a> {
    parametrisation: Parametrisation,
    sample: ClassSample<'a>,
    gram: Gram,
    /// R, (d).
    penalty: Vec<f64>,
    /// c.
    of_classes: f64,
    /// What all of the inverse is multiplied by: the directions that matter curve more than the mean.
    scale: f64,
    blocks: Option<Blocks>,
}

/// G.
enum Gram {
    Full(Array2<f64>),
    Diagonal(Vec<f64>),
}

/// At the present θ.
enum Blocks {
    Product { m: Inverse, v: Inverse, uu: Inverse },
    Sum { first: Option<Inverse>, second: Inverse },
}

/// The inverse of a symmetric matrix that only rows of one group have to do with: of each group the rows, and L⁻¹.
struct Inverse(Vec<(Vec<usize>, Array2<f64>)>);

impl Inverse {
    fn new(groups: Vec<Vec<usize>>, entry: impl Fn(usize, usize) -> f64 + Sync) -> Self {
        let of_group = |rows: Vec<usize>| {
            let n = rows.len();
            let mut values = vec![0.0; n * n];
            // The lower half is all that is read.
            values.par_chunks_mut(n.max(1)).enumerate().for_each(|(i, row)| {
                row[..=i].iter_mut().zip(&rows).for_each(|(value, &column)| *value = entry(rows[i], column));
            });
            let mut root = Array2::from_shape_fn((n, n), |(i, j)| values[i * n + j]);
            let largest = root.diag().iter().copied().fold(0.0, f64::max);
            // Where nothing curves a step has no measure, and no gradient to go by.
            let instead = |&value: &f64| match value > LEAST_PIVOT * largest {
                true => value,
                false if largest > 0.0 => largest,
                false => 1.0,
            };
            let pivots: Vec<_> = root.diag().iter().map(|value| (LEAST_PIVOT * value, instead(value))).collect();
            invert_root(&mut root.view_mut(), &pivots);
            (rows, root)
        };
        Self(groups.into_iter().map(of_group).collect())
    }

    /// The inverse times a matrix, in its place.
    fn apply(&self, mut matrix: ArrayViewMut2<f64>) {
        for (rows, root) in &self.0 {
            let solved = root.t().dot(&root.dot(&matrix.select(Axis(0), rows)));
            for (&row, values) in rows.iter().zip(solved.rows()) {
                matrix.row_mut(row).assign(&values);
            }
        }
    }
}

impl<'a> FactorCurvature<'a> {
    /// To be refreshed before it is applied. G is taken from `kept`, where fits before on the same samples have left it, or left there.
    pub fn new(
        curvature: Curvature<'a, 'a>,
        parametrisation: Parametrisation,
        shape: Shape,
        kept: &mut Option<Vec<f64>>,
    ) -> Result<Self> {
        let Curvature { features, scale, weights, moments, penalty, .. } = curvature;
        let sample = ClassSample::new(features, scale, weights, shape)?;
        let d = shape.n_features;
        let varying: Vec<usize> = (0..d).filter(|&k| moments.variance[k] > 0.0).collect();
        let is_small = match parametrisation.blocks() {
            Some([m, ..]) => m * d <= MOST_ROWS && m * m <= MOST_FEATURES,
            None => d <= MOST_FEATURES,
        };
        let gram = match covariance(&curvature, &varying, kept)?.filter(|_| is_small) {
            None => Gram::Diagonal(moments.variance.clone()),
            Some(of_varying) => {
                let mut gram = Array2::zeros((d, d));
                for (&k, row) in varying.iter().zip(of_varying.chunks_exact(varying.len())) {
                    varying.iter().zip(row).for_each(|(&l, &value)| gram[[k, l]] = value);
                }
                Gram::Full(gram)
            }
        };
        Ok(Self { parametrisation, sample, gram, penalty: penalty.to_vec(), of_classes: 1.0, scale: 1.0, blocks: None })
    }

    /// Takes the blocks at θ, with W and b, which are not centred, those of `parameters`.
    pub fn refresh(&mut self, theta: &[f64], parameters: &[f64]) -> Result<()> {
        let (d, q) = (self.parametrisation.n_features(), self.parametrisation.n_classes());
        let a = self.sample.curvature(parameters)?;
        // (q × q), or the diagonal alone.
        let trace: f64 = if a.len() == q { a.iter().sum() } else { a.iter().step_by(q + 1).sum() };
        self.of_classes = trace / (q as f64 - 1.0);
        let [n_first, n_second] = self.parametrisation.sizes();
        let (first, second) = (self.parametrisation.first(theta), &theta[n_first..n_first + n_second]);
        let metric = |k: usize, l: usize| self.metric(k, l);
        let is_full = matches!(self.gram, Gram::Full(_));
        // Rows that have to do with each other: all, or those of each of so many numbers.
        let groups = |n: usize, of: usize| match is_full {
            true => vec![(0..n * of).collect()],
            false => (0..of).map(|k| (0..n).map(|p| p * of + k).collect()).collect::<Vec<_>>(),
        };
        self.blocks = Some(match self.parametrisation.blocks() {
            None => {
                let rank = n_second / q;
                let (u, v) = (view(first, [d, rank]), view(second, [rank, q]));
                let (uu, vv) = (u.t().dot(&self.times(u)), v.dot(&v.t()));
                Blocks::Product {
                    m: Inverse::new(groups(1, d), metric),
                    v: Inverse::new(vec![(0..rank).collect()], |r, s| vv[[r, s]]),
                    uu: Inverse::new(vec![(0..rank).collect()], |r, s| uu[[r, s]]),
                }
            }
            Some([m, dd, qq]) => {
                let (a, s) = (view(first, [m * m, m]), view(second, [m * dd, qq]));
                let (aa, ss) = (a.dot(&a.t()), s.dot(&s.t()));
                let valid = |i: usize, k: usize| Some(i * dd + k).filter(|&row| row < d);
                // M[i·d' + k, i'·d' + k'], 0 beyond it.
                let metric = |[i, k]: [usize; 2], [i_, k_]: [usize; 2]| match (valid(i, k), valid(i_, k_)) {
                    (Some(row), Some(column)) => self.metric(row, column),
                    _ => 0.0,
                };
                // With all of M the sums are products of matrices with a row, or column, for each pair of an index.
                let by_pairs = |of: &Array2<f64>, n: usize| {
                    Array2::from_shape_fn((m * m, n * n), |(p, k)| of[[p / m * n + k / n, p % m * n + k % n]])
                };
                let by_pairs_of_metric = is_full.then(|| {
                    Array2::from_shape_fn((dd * dd, m * m), |(k, i)| metric([i / m, k / dd], [i % m, k % dd]))
                });
                let sums = by_pairs_of_metric.as_ref().map(|metric| multiply(metric.view(), by_pairs(&aa, m).t()));
                let of_s = |row: usize, column: usize| {
                    let ([p, k], [p_, k_]) = ([row / dd, row % dd], [column / dd, column % dd]);
                    match &sums {
                        Some(sums) => sums[[k * dd + k_, p * m + p_]],
                        None => (0..m).map(|i| aa[[p * m + i, p_ * m + i]] * metric([i, k], [i, k_])).sum(),
                    }
                };
                let second = Inverse::new(groups(m, dd), of_s);
                drop(sums);
                // None of the fixed A.
                let first = (n_first > 0).then(|| {
                    let sums =
                        by_pairs_of_metric.as_ref().map(|metric| multiply(by_pairs(&ss, dd).view(), metric.view()));
                    let of_a = |row: usize, column: usize| {
                        let ([p, i], [p_, i_]) = ([row / m, row % m], [column / m, column % m]);
                        match &sums {
                            Some(sums) => sums[[p * m + p_, i * m + i_]],
                            None => (0..dd).map(|k| ss[[p * dd + k, p_ * dd + k]] * metric([i, k], [i_, k])).sum(),
                        }
                    };
                    Inverse::new(groups(m, m), of_a)
                });
                Blocks::Sum { first, second }
            }
        });
        Ok(())
    }

    /// The inverse times a gradient over θ, in centred coordinates.
    pub fn apply(&self, gradient: &[f64]) -> Vec<f64> {
        let (d, q) = (self.parametrisation.n_features(), self.parametrisation.n_classes());
        let [n_first, n_second] = self.parametrisation.sizes();
        let mut result = gradient.to_vec();
        let (first, rest) = result.split_at_mut(n_first);
        let (second, bias) = rest.split_at_mut(n_second);
        match (&self.blocks, self.parametrisation.blocks()) {
            (Some(Blocks::Product { m, v, uu }), _) => {
                let rank = n_second / q;
                m.apply(view_mut(first, [d, rank]));
                v.apply(view_mut(first, [d, rank]).reversed_axes());
                uu.apply(view_mut(second, [rank, q]));
            }
            (Some(Blocks::Sum { first: of_a, second: of_s }), Some([m, dd, qq])) => {
                if let Some(of_a) = of_a {
                    of_a.apply(view_mut(first, [m * m, m]));
                }
                of_s.apply(view_mut(second, [m * dd, qq]));
            }
            _ => {}
        }
        // The variance of the constant feature 1 is taken to be 1; it has no penalty.
        bias.iter_mut().for_each(|b| *b /= self.of_classes);
        result.iter_mut().for_each(|value| *value *= self.scale);
        result
    }

    /// Makes all of the inverse as large as a step was for the change of the gradient with it (Nocedal and Wright 2006, "Numerical
    /// Optimization", section 7.2); without one, as it is.
    pub fn rescale(&mut self, pair: Option<(&[f64], &[f64])>) {
        self.scale = 1.0;
        let ratio = pair.map(|(step, change)| dot(step, change) / dot(change, &self.apply(change)));
        if let Some(ratio) = ratio.filter(|&ratio| ratio > 0.0 && ratio.is_finite()) {
            self.scale = ratio;
        }
    }

    /// M[k, l].
    fn metric(&self, k: usize, l: usize) -> f64 {
        let of_samples = match &self.gram {
            Gram::Full(gram) => gram[[k, l]],
            Gram::Diagonal(variance) if k == l => variance[k],
            Gram::Diagonal(_) => 0.0,
        };
        self.of_classes * of_samples + if k == l { self.penalty[k] } else { 0.0 }
    }

    /// M·U.
    fn times(&self, u: ArrayView2<f64>) -> Array2<f64> {
        let mut product = match &self.gram {
            Gram::Full(gram) => self.of_classes * gram.dot(&u),
            Gram::Diagonal(_) => Array2::zeros(u.raw_dim()),
        };
        for (k, (mut to, from)) in product.rows_mut().into_iter().zip(u.rows()).enumerate() {
            let factor = match &self.gram {
                Gram::Full(_) => self.penalty[k],
                Gram::Diagonal(_) => self.metric(k, k),
            };
            to.scaled_add(factor, &from);
        }
        product
    }
}

#[expect(clippy::expect_used, reason = "the sizes are those of the slice")]
fn view(values: &[f64], shape: [usize; 2]) -> ArrayView2<'_, f64> {
    ArrayView2::from_shape(shape, values).expect("as many values as the shape says")
}

#[expect(clippy::expect_used, reason = "the sizes are those of the slice")]
fn view_mut(values: &mut [f64], shape: [usize; 2]) -> ArrayViewMut2<'_, f64> {
    ArrayViewMut2::from_shape(shape, values).expect("as many values as the shape says")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::moments;
    use crate::batch::Shuffle;
    use crate::data::Features;
    use crate::structure::Structure;

    /// (Jᵀ·(M ⊗ I)·J)⁻¹ of each factor undoes Jᵀ·(M ⊗ I)·J, and that of another θ does not.
    #[test]
    fn the_inverse_is_that_of_the_curvature_through_one_factor() {
        for (structure, d, q, is_correlated) in [
            ("phm:2", 8, 6, true),
            ("phm:2", 8, 6, false),
            ("phm:3", 9, 9, true),
            ("quaternion", 8, 8, true),
            ("lowrank:2", 7, 5, true),
            ("lowrank:3", 6, 4, false),
        ] {
            let structure: Structure = structure.parse().unwrap();
            let of = Parametrisation::new(structure, d, q).unwrap();
            let mut random = Shuffle::new(2, 5);
            let mut values = |n: usize| (0..n).map(|_| random.below(2001) as f64 / 1000.0 - 1.0).collect::<Vec<_>>();
            // Features that have a part in common, or none.
            let n = 400;
            let common = values(n);
            let x = values(n * d).into_iter().enumerate().map(|(i, x)| match is_correlated {
                true => (x + 2.0 * common[i / d]) as f32,
                false => x as f32,
            });
            let features = Features::new(x.collect::<Vec<f32>>(), n, d).unwrap();
            let moments = moments(&features, 1.0, None).unwrap();
            let penalty = values(d).iter().map(|x| 0.01 * x.abs()).collect::<Vec<_>>();
            let (weights, has_intercept) = (None, true);
            let curvature = Curvature {
                features: &features,
                scale: 1.0,
                weights,
                moments: &moments,
                penalty: &penalty,
                has_intercept,
            };
            let shape = Shape { n_features: d, n_classes: q, n_heads: 1 };
            let mut found = FactorCurvature::new(curvature, of, shape, &mut None).unwrap();
            if !is_correlated {
                found.gram = Gram::Diagonal(moments.variance.clone());
            }
            let theta = values(of.n_parameters());
            found.refresh(&theta, &vec![0.0; (d + 1) * q]).unwrap();
            let [n_first, n_second] = of.sizes();
            let other: Vec<f64> = theta.iter().map(|value| value + 0.1).collect();
            for factor in [0..n_first, n_first..n_first + n_second].into_iter().filter(|factor| !factor.is_empty()) {
                let v = values(factor.len());
                let product = |theta: &[f64]| {
                    // W is linear in a factor alone.
                    let mut along = theta.to_vec();
                    along[factor.clone()].copy_from_slice(&v);
                    along[n_first + n_second..].fill(0.0);
                    let w = of.expand(&along);
                    let times = |k: usize, j: usize| (0..d).map(|l| found.metric(k, l) * w[l * q + j]).sum::<f64>();
                    let curved: Vec<f64> =
                        (0..(d + 1) * q).map(|i| if i < d * q { times(i / q, i % q) } else { 0.0 }).collect();
                    found.apply(&of.pull_back(theta, &curved))[factor.clone()].to_vec()
                };
                let error = |of: Vec<f64>| of.iter().zip(&v).fold(0.0, |max: f64, (a, b)| max.max((a - b).abs()));
                assert!(error(product(&theta)) < 1e-8, "{structure} {factor:?}: {}", error(product(&theta)));
                // The fixed A do not change.
                let is_fixed = structure == Structure::Quaternion;
                assert!(is_fixed || error(product(&other)) > 1e-3, "{structure} {factor:?}");
            }
        }
    }
}
