//! An approximation of the inverse Hessian of the objective, for data whose columns are of any scale and correlated.
//!
//! The Hessian of the loss is the mean over the samples of A_i ⊗ x̃_i·x̃_iᵀ, A_i = diag(p_i) − p_i·p_iᵀ. In the place of the mean
//! of products stands the product of means: H₀ = A ⊗ G + I ⊗ R, G the covariance of the features, R the penalty of each
//! (the Kronecker-factored form of Martens and Grosse 2015, "Optimizing neural networks with Kronecker-factored approximate
//! curvature", exact at W = 0; with A = (I − 1·1ᵀ/q)/q it is about Böhning's bound). G stays; A is refreshed as probabilities change.
//!
//! G and R are diagonalised together, so that nothing depends on the scale of columns: Vᵀ·(a·G + R)·V = I and Vᵀ·R·V = diag(ρ),
//! where a is the mean eigenvalue of the first A. With A = Q·diag(α)·Qᵀ
//!
//! H₀⁻¹·g = V·((Vᵀ·g·Q) / ((1 − ρ)·αᵀ/a + ρ))·Qᵀ.

use std::ops::Range;

use nalgebra::{DMatrix, SymmetricEigen};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use crate::backend::cpu::{self, Cpu, Moments};
use crate::backend::{Backend, Parameters, Shape};
use crate::data::{Features, Stored, Values};
use crate::error::Result;

/// More features have a diagonal G: to diagonalise a whole one would take longer than it saves.
const MOST_FEATURES: usize = 1024;
/// More classes have an A that is the same for all.
const MOST_CLASSES: usize = 256;
/// Multiplications for G, which is taken of fewer rows where all would need more; but of so many rows for each feature.
const GRAM_PRODUCTS: usize = 5_000_000_000;
const GRAM_ROWS: usize = 8;
/// Rows that A is taken of.
const CLASS_ROWS: usize = 4096;
/// A row counts in G no more than as so many rows in the mean, by Σ_k (x_k − μ_k)²/σ_k²: an outlier is not what the others curve by.
const MOST_LEVERAGE: f64 = 30.0;
/// The penalty of a direction is taken to be no smaller than this share of its curvature.
const LEAST_PENALTY: f64 = 1e-10;
/// Eigenvalues of A are taken to be no smaller than this share of their mean.
const LEAST_CURVATURE: f64 = 1e-3;

pub(super) struct Preconditioner<'a> {
    shape: Shape,
    has_intercept: bool,
    features: FeatureFactor,
    classes: ClassFactor,
    /// a.
    scale_of_classes: f64,
    sample: ClassSample<'a>,
}

/// The rows that A is taken of, and their weights; Σ = 1.
pub(super) struct ClassSample<'a> {
    shape: Shape,
    rows: Features<'a>,
    scale: f32,
    weights: Vec<f64>,
}

/// V and ρ.
struct FeatureFactor {
    /// The features that vary; those that do not have penalties alone.
    varying: Vec<usize>,
    constant: Vec<(usize, f64)>,
    v: V,
    penalty_share: Vec<f64>,
    /// Directions in which neither samples nor penalty say anything: they are left alone.
    is_null: Vec<bool>,
}

enum V {
    /// (varying × varying)
    Full(Array2<f64>),
    Diagonal(Vec<f64>),
}

/// Q and α; without Q the identity.
struct ClassFactor {
    q: Option<Array2<f64>>,
    eigenvalues: Vec<f64>,
}

/// What a preconditioner is made for.
#[derive(Clone, Copy)]
pub(super) struct Curvature<'a, 's> {
    pub features: &'s Features<'a>,
    pub scale: f32,
    /// Of the samples, 1 in the mean; all the same where there are none.
    pub weights: Option<&'s [f32]>,
    pub moments: &'s Moments,
    /// l2 of each feature.
    pub penalty: &'s [f64],
    pub has_intercept: bool,
}

impl<'a> Preconditioner<'a> {
    /// For parameters near `parameters` (not centred), which A is taken at.
    pub fn new(curvature: Curvature<'a, 'a>, parameters: &[f64], shape: Shape) -> Result<Self> {
        let Curvature { features, scale, weights, moments, penalty, has_intercept } = curvature;
        let mut result = Self {
            shape,
            has_intercept,
            features: FeatureFactor {
                varying: Vec::new(),
                constant: Vec::new(),
                v: V::Diagonal(Vec::new()),
                penalty_share: Vec::new(),
                is_null: Vec::new(),
            },
            classes: ClassFactor { q: None, eigenvalues: Vec::new() },
            scale_of_classes: 1.0,
            sample: ClassSample::new(features, scale, weights, shape)?,
        };
        result.refresh(parameters)?;
        let trace: f64 = result.classes.eigenvalues.iter().sum();
        result.scale_of_classes = (trace / (shape.n_classes as f64 - 1.0).max(1.0)).max(f64::MIN_POSITIVE);
        result.features = FeatureFactor::new(features, scale, weights, moments, penalty, result.scale_of_classes)?;
        Ok(result)
    }

    /// Takes A at other parameters (not centred).
    pub fn refresh(&mut self, parameters: &[f64]) -> Result<()> {
        let q = self.shape.n_classes;
        let (mean, p) = self.sample.probabilities(parameters)?;
        self.classes = if q <= MOST_CLASSES {
            let squares = p.t().dot(&p);
            let a = DMatrix::from_fn(q, q, |j, k| if j == k { mean[j] } else { 0.0 } - squares[[j, k]]);
            let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(a);
            let vectors = Array2::from_shape_fn((q, q), |(j, k)| eigenvectors[(j, k)]);
            ClassFactor { q: Some(vectors), eigenvalues: eigenvalues.iter().copied().collect() }
        } else {
            let trace = mean.iter().sum::<f64>() - p.iter().map(|p| p * p).sum::<f64>();
            ClassFactor { q: None, eigenvalues: vec![trace / (q as f64 - 1.0); q] }
        };
        let mean = self.classes.eigenvalues.iter().sum::<f64>() / q as f64;
        for eigenvalue in &mut self.classes.eigenvalues {
            *eigenvalue = eigenvalue.max(LEAST_CURVATURE * mean).max(f64::MIN_POSITIVE);
        }
        Ok(())
    }

    /// H₀⁻¹·g, both in centred coordinates.
    pub fn apply(&self, gradient: &[f64]) -> Vec<f64> {
        let (d, q) = (self.shape.n_features, self.shape.n_classes);
        let FeatureFactor { varying, constant, v, penalty_share, is_null } = &self.features;
        let ClassFactor { q: vectors, eigenvalues } = &self.classes;
        let mut result = vec![0.0; gradient.len()];
        let row = |k: usize| k * q..(k + 1) * q;

        let mut rows = Array2::<f64>::zeros((varying.len(), q));
        for (mut to, &k) in rows.rows_mut().into_iter().zip(varying) {
            to.iter_mut().zip(&gradient[row(k)]).for_each(|(to, from)| *to = *from);
        }
        let mut turned = v.transposed_times(rows);
        if let Some(vectors) = vectors {
            turned = multiply(turned.view(), vectors.view());
        }
        for ((mut row, rho), is_null) in turned.rows_mut().into_iter().zip(penalty_share).zip(is_null) {
            for (value, alpha) in row.iter_mut().zip(eigenvalues) {
                let curvature = (1.0 - rho) * alpha / self.scale_of_classes + rho;
                *value = if *is_null { 0.0 } else { *value / curvature.max(1e-14) };
            }
        }
        if let Some(vectors) = vectors {
            turned = multiply(turned.view(), vectors.t());
        }
        for (from, &k) in v.times(turned).rows().into_iter().zip(varying) {
            result[row(k)].iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }

        for &(k, penalty) in constant {
            if penalty > 0.0 {
                result[row(k)].iter_mut().zip(&gradient[row(k)]).for_each(|(to, from)| *to = from / penalty);
            }
        }
        if self.has_intercept {
            // The variance of the constant feature 1 is taken to be 1; it has no penalty.
            let from = ArrayView2::from_shape((1, q), &gradient[row(d)]).map(|view| view.to_owned());
            let mut from = from.unwrap_or_else(|_| Array2::zeros((1, q)));
            if let Some(vectors) = vectors {
                from = from.dot(vectors);
            }
            from.iter_mut().zip(eigenvalues).for_each(|(value, alpha)| *value /= alpha);
            if let Some(vectors) = vectors {
                from = from.dot(&vectors.t());
            }
            result[row(d)].iter_mut().zip(&from).for_each(|(to, from)| *to = *from);
        }
        result
    }
}

impl<'a> ClassSample<'a> {
    pub fn new(features: &'a Features<'a>, scale: f32, weights: Option<&[f32]>, shape: Shape) -> Result<Self> {
        let (rows, of_rows) = some_rows(features, weights, CLASS_ROWS.max(8 * shape.n_classes.min(MOST_CLASSES)))?;
        let total: f64 = of_rows.iter().sum();
        let weights = of_rows.iter().map(|weight| weight / total.max(f64::MIN_POSITIVE)).collect();
        Ok(Self { shape, rows, scale, weights })
    }

    /// The mean of the probabilities of each class for parameters that are not centred, and of each row the probabilities times
    /// the root of its weight, (rows × q).
    fn probabilities(&self, parameters: &[f64]) -> Result<(Vec<f64>, Array2<f64>)> {
        let (n, q) = (self.rows.n_samples(), self.shape.n_classes);
        let values = parameters.iter().map(|&value| value as f32).collect();
        let parameters = Parameters { shape: self.shape, values };
        let mut logits = vec![0.0; n * q];
        let cpu = Cpu::new();
        cpu.session(&self.rows, self.scale, None)?.logits_into(&parameters, &mut logits, &|_, _| {})?;
        let mut p = Array2::<f64>::zeros((n, q));
        let mut mean = vec![0.0; q];
        for ((logits, mut p), &weight) in logits.chunks_exact(q).zip(p.rows_mut()).zip(&self.weights) {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            p.iter_mut().zip(logits).for_each(|(p, &o)| *p = f64::from(o - max).exp());
            let factor = 1.0 / p.sum();
            for (p, mean) in p.iter_mut().zip(&mut mean) {
                *p *= factor;
                *mean += weight * *p;
                *p *= weight.sqrt();
            }
        }
        Ok((mean, p))
    }

    /// A, (q × q) row-major, the mean of diag(p) − p·pᵀ; of many classes its diagonal alone, (q).
    pub fn curvature(&self, parameters: &[f64]) -> Result<Vec<f64>> {
        let (mean, p) = self.probabilities(parameters)?;
        let q = mean.len();
        let squares = p.columns().into_iter().map(|column| column.iter().map(|p| p * p).sum::<f64>());
        let mut diagonal: Vec<f64> = mean.iter().zip(squares).map(|(mean, squares)| mean - squares).collect();
        let least = LEAST_CURVATURE * diagonal.iter().sum::<f64>() / q as f64;
        diagonal.iter_mut().for_each(|curvature| *curvature = curvature.max(least).max(f64::MIN_POSITIVE));
        if q > MOST_CLASSES {
            return Ok(diagonal);
        }
        let products = multiply(p.t(), p.view());
        let value = |j: usize, k: usize| if j == k { diagonal[j] } else { -products[[j, k]] };
        Ok((0..q * q).map(|i| value(i / q, i % q)).collect())
    }
}

impl FeatureFactor {
    fn new(
        features: &Features,
        scale: f32,
        weights: Option<&[f32]>,
        moments: &Moments,
        penalty: &[f64],
        scale_of_classes: f64,
    ) -> Result<Self> {
        let d = features.n_features();
        let (varying, constant): (Vec<usize>, Vec<usize>) = (0..d).partition(|&k| moments.variance[k] > 0.0);
        let constant = constant.into_iter().map(|k| (k, penalty[k])).collect();
        let n = varying.len();
        // a·G, or its diagonal, and R.
        let diagonal: Vec<f64> = varying.iter().map(|&k| scale_of_classes * moments.variance[k]).collect();
        let regular: Vec<f64> =
            varying.iter().zip(&diagonal).map(|(&k, g)| penalty[k].max(LEAST_PENALTY * g)).collect();
        let size: Vec<f64> = diagonal.iter().zip(&regular).map(|(g, r)| 1.0 / (g + r).sqrt()).collect();
        if n == 0 || n > MOST_FEATURES {
            let penalty_share = regular.iter().zip(&size).map(|(r, size)| r * size * size).collect();
            return Ok(Self { varying, constant, v: V::Diagonal(size), penalty_share, is_null: vec![false; n] });
        }
        let gram = gram(features, scale, weights, moments)?;
        // Of a size that all features have in common, S·(a·G + R)·S = L·Lᵀ and B = L⁻¹·S·R·S·L⁻ᵀ, whose eigenvalues are ρ.
        let scaled = DMatrix::from_fn(n, n, |i, j| {
            let g = scale_of_classes * gram[varying[i] * d + varying[j]] * size[i] * size[j];
            g + if i == j { regular[i] * size[i] * size[i] } else { 0.0 }
        });
        let Some(lower) = scaled.cholesky().map(|cholesky| cholesky.l()) else {
            let penalty_share = regular.iter().zip(&size).map(|(r, size)| r * size * size).collect();
            return Ok(Self { varying, constant, v: V::Diagonal(size), penalty_share, is_null: vec![false; n] });
        };
        let mut root = DMatrix::from_fn(n, n, |i, j| if i == j { regular[i].sqrt() * size[i] } else { 0.0 });
        lower.solve_lower_triangular_mut(&mut root);
        let SymmetricEigen { mut eigenvectors, eigenvalues } = SymmetricEigen::new(&root * root.transpose());
        lower.tr_solve_lower_triangular_mut(&mut eigenvectors);
        let v = Array2::from_shape_fn((n, n), |(i, j)| size[i] * eigenvectors[(i, j)]);
        let penalty_share: Vec<f64> = eigenvalues.iter().map(|rho| rho.clamp(0.0, 1.0)).collect();
        let is_null = (0..n)
            .map(|j| {
                let of_penalty = || v.column(j).iter().zip(&varying).map(|(v, &k)| penalty[k] * v * v).sum::<f64>();
                penalty_share[j] > 0.5 && of_penalty() < 0.01 * penalty_share[j]
            })
            .collect();
        Ok(Self { varying, constant, v: V::Full(v), penalty_share, is_null })
    }
}

impl V {
    fn transposed_times(&self, mut matrix: Array2<f64>) -> Array2<f64> {
        match self {
            Self::Full(v) => multiply(v.t(), matrix.view()),
            Self::Diagonal(size) => {
                matrix.rows_mut().into_iter().zip(size).for_each(|(mut row, size)| row *= *size);
                matrix
            }
        }
    }

    fn times(&self, matrix: Array2<f64>) -> Array2<f64> {
        match self {
            Self::Full(v) => multiply(v.view(), matrix.view()),
            Self::Diagonal(_) => self.transposed_times(matrix),
        }
    }
}

/// a·b, on all threads.
fn multiply(a: ArrayView2<f64>, b: ArrayView2<f64>) -> Array2<f64> {
    const ROWS: usize = 64;
    let mut product = Array2::zeros((a.nrows(), b.ncols()));
    let parts: Vec<(usize, ArrayViewMut2<f64>)> =
        (0..).step_by(ROWS).zip(product.axis_chunks_iter_mut(Axis(0), ROWS)).collect();
    parts.into_par_iter().for_each(|(first, mut part)| {
        let rows: Range<usize> = first..first + part.nrows();
        general_mat_mul(1.0, &a.slice(s![rows, ..]), &b, 0.0, &mut part);
    });
    product
}

/// Up to `most` rows, evenly spaced, and the weight of each.
fn some_rows<'a>(features: &'a Features<'a>, weights: Option<&[f32]>, most: usize) -> Result<(Features<'a>, Vec<f64>)> {
    let n = features.n_samples();
    let weight = |row: usize| weights.map_or(1.0, |weights| f64::from(weights[row]));
    // Those of a file are read, and then in memory.
    let stored = matches!(features.values(), Values::Stored(_));
    let most = if stored { most.min(Stored::most_read(features.n_features())) } else { most };
    if n <= most && !stored {
        return Ok((features.rows(0..n)?, (0..n).map(weight).collect()));
    }
    // Of those that count.
    let counting: Option<Vec<u32>> =
        weights.map(|weights| (0..n as u32).filter(|&row| weights[row as usize] > 0.0).collect());
    let n = counting.as_ref().map_or(n, Vec::len);
    let most = most.min(n);
    let evenly = (0..most).map(|i| (i as u128 * n as u128 / most as u128) as usize);
    let rows: Vec<u32> = evenly.map(|i| counting.as_ref().map_or(i as u32, |counting| counting[i])).collect();
    Ok((features.select(&rows)?, rows.iter().map(|&row| weight(row as usize)).collect()))
}

/// G, (d × d): the covariance of the features of X̃ over all rows or as many as are worth it.
pub(super) fn gram(features: &Features, scale: f32, weights: Option<&[f32]>, moments: &Moments) -> Result<Vec<f64>> {
    let d = features.n_features();
    let (rows, mut weights) = some_rows(features, weights, (GRAM_PRODUCTS / (d * d)).max(GRAM_ROWS * d))?;
    limit_leverage(&rows, scale, moments, &mut weights);
    let total: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total.max(f64::MIN_POSITIVE));
    cpu::second_moments(&rows, scale, &moments.mean, &weights)
}

/// Makes rows that are far from the mean count less, so that none counts more than [`MOST_LEVERAGE`] in the mean. Twice, as
/// outliers are part of the variance that they are measured by.
fn limit_leverage(rows: &Features, scale: f32, moments: &Moments, weights: &mut [f64]) {
    const CHUNK: usize = 256;
    let Moments { mean, variance } = moments;
    let limit = MOST_LEVERAGE * variance.iter().filter(|&&variance| variance > 0.0).count().max(1) as f64;
    let differences = |index: usize, row: &mut [f32], squares: &mut [f64]| {
        rows.read_row(index, row);
        for ((square, &x), mean) in squares.iter_mut().zip(&*row).zip(mean) {
            *square = (f64::from(x) * f64::from(scale) - mean).powi(2);
        }
    };
    let original = weights.to_vec();
    let mut variance = variance.clone();
    for _ in 0..2 {
        // The new weights of a part of the rows, their sum, and the sums of squares with them.
        let part = |(first, weights): (usize, &mut [f64])| {
            let (mut row, mut squares) = (vec![0.0; mean.len()], vec![0.0; mean.len()]);
            let mut sums = vec![0.0; mean.len()];
            for (index, weight) in (first..).zip(weights.iter_mut()) {
                differences(index, &mut row, &mut squares);
                let of_varying = squares.iter().zip(&variance).filter(|(_, variance)| **variance > 0.0);
                let distance: f64 = of_varying.map(|(square, variance)| square / variance).sum();
                *weight = original[index] * (limit / distance.max(limit)).min(1.0);
                sums.iter_mut().zip(&squares).for_each(|(sum, square)| *sum += *weight * square);
            }
            (weights.iter().sum::<f64>(), sums)
        };
        let parts: Vec<_> =
            weights.par_chunks_mut(CHUNK).enumerate().map(|(i, part_of)| part((i * CHUNK, part_of))).collect();
        let total: f64 = parts.iter().map(|(weight, _)| weight).sum();
        for (k, variance) in variance.iter_mut().enumerate() {
            *variance = parts.iter().map(|(_, sums)| sums[k]).sum::<f64>() / total.max(f64::MIN_POSITIVE);
        }
    }
}
