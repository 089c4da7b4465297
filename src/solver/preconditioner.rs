//! An approximation of the inverse Hessian of the objective, for data whose columns are of any scale and correlated.
//!
//! The Hessian of the loss is the mean over the samples of A_i ⊗ x̃_i·x̃_iᵀ, A_i = diag(p_i) − p_i·p_iᵀ. In the place of the mean
//! of products stands the product of means: H₀ = A ⊗ G + I ⊗ R, G the covariance of the features, R the penalty of each
//! (the Kronecker-factored form of Martens and Grosse 2015, "Optimizing neural networks with Kronecker-factored approximate
//! curvature", exact at W = 0; with A = (I − 1·1ᵀ/q)/q it is about Böhning's bound). G stays; A is refreshed as probabilities change.
//!
//! With A = Q·diag(α)·Qᵀ, column j of H₀⁻¹·g·Q is (α_j·G + R)⁻¹ times that of g·Q. Eigenvectors of G would do for all α at once, but take
//! as long as many Cholesky factors L·Lᵀ = β·G + R, of a few β in the place of the α near them: there (α·G + R)⁻¹ is nearly
//! β/α·L⁻ᵀ·L⁻¹. All that in units of each feature in which nothing depends on the scale of columns.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use nalgebra::{DMatrix, SymmetricEigen};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, NdFloat, s};
use rayon::prelude::*;

use super::class_blocks::{self, Blocks, Means};
use crate::backend::cpu::{self, Cpu, Moments};
use crate::backend::{Backend, Parameters, Shape};
use crate::data::{Features, Stored, Values};
use crate::error::Result;
use crate::objective::Objective;

/// More features have a diagonal G: to factorise a whole one would take longer than it saves.
const MOST_FEATURES: usize = 1024;
/// More classes have an A that is the same for all.
const MOST_CLASSES: usize = 256;
/// Multiplications for G, which is taken of fewer rows where all would need more; but of so many rows for each feature.
const GRAM_PRODUCTS: usize = 1_000_000_000;
const GRAM_ROWS: usize = 4;
/// Rows that A is taken of.
const CLASS_ROWS: usize = 4096;
/// Rows that the blocks of single classes are taken of, and probabilities of them.
const BLOCK_ROWS: usize = 16_384;
const BLOCK_PROBABILITIES: usize = 1 << 23;
/// A row counts in G no more than as so many rows in the mean, by Σ_k (x_k − μ_k)²/σ_k²: an outlier is not what the others curve by.
const MOST_LEVERAGE: f64 = 30.0;
/// A feature of which no more than this share is left by those before it is taken to vary as if they were not there.
const LEAST_PIVOT: f64 = 1e-10;
/// Correlations of a sample that are no more than so many times what they were by chance, the largest below the second, say nothing.
const CHANCE: (f64, f64) = (2.0, 0.5);
/// Rows of a matrix whose root is inverted without dividing it further.
const SMALL: usize = 32;
/// From one β to the next.
const LEVEL: f64 = 4.0;
/// Eigenvalues of A are taken to be no smaller than this share of their mean.
const LEAST_CURVATURE: f64 = 1e-3;

pub(super) struct Preconditioner<'a> {
    shape: Shape,
    has_intercept: bool,
    features: FeatureFactor,
    classes: ClassFactor,
    /// The mean of the eigenvalues of A that units are for, as it was last taken.
    mean_curvature: f64,
    /// There once A is taken.
    sample: Option<ClassSample<'a>>,
    curvature: Curvature<'a, 'a>,
    /// In the place of all that, once they are worth it.
    blocks: Option<Arc<Blocks>>,
    /// Whether these are of other samples.
    are_lent: bool,
}

/// The rows that A is taken of, and their weights; Σ = 1.
pub(super) struct ClassSample<'a> {
    shape: Shape,
    rows: Features<'a>,
    scale: f32,
    weights: Vec<f64>,
}

/// What is known of G and R.
struct FeatureFactor {
    /// The features that vary; those that do not have penalties alone.
    varying: Vec<usize>,
    constant: Vec<(usize, f64)>,
    /// S, the unit of each varying feature: 1/√(a·σ_k² + R_k), a the mean of the first α.
    size: Vec<f64>,
    /// S·G·S, S·diag(σ²)·S and S·R·S.
    gram: Gram,
    variance: Vec<f64>,
    penalty: Vec<f64>,
}

enum Gram {
    /// (varying × varying), and L⁻¹ by level: β = [`LEVEL`]^level.
    Full(Array2<f64>, BTreeMap<i32, Array2<f64>>),
    /// diag(σ²).
    Diagonal,
}

/// Q and α, in ascending order; without Q the identity.
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
    /// For parameters near `parameters` (not centred), which A is taken at; to be sharpened or prepared before it is applied. G is taken
    /// from `kept`, where fits before on the same samples have left it, or left there. Where it is to be `sharp`, with the mean curvature
    /// of one before, A is a multiple of the identity at first.
    pub fn new(
        curvature: Curvature<'a, 'a>,
        parameters: &[f64],
        shape: Shape,
        kept: &mut Option<Vec<f64>>,
        sharp: Option<f64>,
    ) -> Result<Self> {
        let Curvature { features, scale, weights, has_intercept, .. } = curvature;
        let (sample, classes) = match sharp {
            Some(mean) => (None, ClassFactor { q: None, eigenvalues: vec![mean; shape.n_classes] }),
            None => {
                let sample = ClassSample::new(features, scale, weights, shape)?;
                let classes = ClassFactor::new(&sample, parameters)?;
                (Some(sample), classes)
            }
        };
        let mean_curvature = classes.eigenvalues.iter().sum::<f64>() / classes.eigenvalues.len() as f64;
        let features = FeatureFactor::new(&curvature, mean_curvature, kept)?;
        Ok(Self {
            shape,
            has_intercept,
            features,
            classes,
            mean_curvature,
            sample,
            curvature,
            blocks: None,
            are_lent: false,
        })
    }

    /// What [`Preconditioner::sharpen`] takes, in evaluations; nothing where it cannot be.
    pub fn price(&self) -> Option<f64> {
        let FeatureFactor { varying, gram: Gram::Full(..), .. } = &self.features else { return None };
        let evaluation = 2.0 * self.curvature.features.n_samples() as f64 * self.shape.n_parameters() as f64;
        Some(class_blocks::price(varying.len(), self.shape.n_classes)? / evaluation)
    }

    /// Takes the Hessian class by class, at these parameters, in the place of the product of means.
    pub fn sharpen(&mut self, objective: &mut Objective, parameters: &[f64]) -> Result<()> {
        let Curvature { features, scale, weights, .. } = self.curvature;
        // Those from before need not be kept beside.
        (self.blocks, self.are_lent) = (None, false);
        if let (Some(means), Some(price)) = (self.means(), self.price()) {
            let most = BLOCK_ROWS.min(BLOCK_PROBABILITIES / self.shape.n_classes).max(1);
            let sample = ClassSample::of(features, scale, weights, self.shape, most)?;
            let parameters = objective.uncentred(parameters);
            let blocks = objective.on_all_threads(|| Blocks::new(&sample, &parameters, &means));
            self.blocks = blocks.transpose()?.flatten().map(Arc::new);
            if self.blocks.is_none() && self.sample.is_none() {
                self.refresh(&parameters)?;
            }
            objective.count_products((2.0 * price).ceil() as usize);
        }
        // Where there are none, the product of means goes on.
        self.prepare();
        Ok(())
    }

    /// Takes the Hessian class by class of nearly the same samples, where the same features vary there; says whether it does.
    pub fn borrow(&mut self, blocks: Arc<Blocks>) -> bool {
        self.are_lent = blocks.vary() == self.features.varying;
        self.blocks = Some(blocks).filter(|_| self.are_lent);
        self.are_lent
    }

    /// Makes ready what [`Preconditioner::apply`] needs: the product of means, where there are no blocks.
    pub fn prepare(&mut self) {
        if self.blocks.is_none() {
            self.features.prepare(&self.classes.eigenvalues);
        }
    }

    /// Takes the product of means again, with A at these parameters (not centred).
    pub fn blunt(&mut self, parameters: &[f64]) -> Result<()> {
        self.blocks = None;
        self.refresh(parameters)
    }

    /// Whether it has taken the Hessian class by class.
    pub fn is_sharp(&self) -> bool {
        self.blocks.is_some()
    }

    /// Whether that is of other samples.
    pub fn is_lent(&self) -> bool {
        self.is_sharp() && self.are_lent
    }

    /// The mean curvature of the classes and the Hessian class by class, where it has taken it.
    pub fn sharp(&self) -> Option<(f64, Arc<Blocks>)> {
        Some((self.mean_curvature, self.blocks.clone()?))
    }

    fn means(&self) -> Option<Means<'_>> {
        let FeatureFactor { varying, size, gram: Gram::Full(gram, _), penalty, .. } = &self.features else {
            return None;
        };
        let (mean, has_intercept) = (&self.curvature.moments.mean[..], self.has_intercept);
        Some(Means { gram: gram.view(), penalty, size, varying, mean, has_intercept })
    }

    /// Takes A at other parameters (not centred).
    pub fn refresh(&mut self, parameters: &[f64]) -> Result<()> {
        if self.blocks.is_some() {
            return Ok(());
        }
        let Curvature { features, scale, weights, .. } = self.curvature;
        let sample = match self.sample.take() {
            Some(sample) => sample,
            None => ClassSample::new(features, scale, weights, self.shape)?,
        };
        self.classes = ClassFactor::new(self.sample.insert(sample), parameters)?;
        self.features.prepare(&self.classes.eigenvalues);
        Ok(())
    }

    /// H₀⁻¹·g, both in centred coordinates.
    pub fn apply(&self, gradient: &[f64]) -> Vec<f64> {
        let (d, q) = (self.shape.n_features, self.shape.n_classes);
        let FeatureFactor { varying, constant, size, .. } = &self.features;
        let ClassFactor { q: vectors, eigenvalues } = &self.classes;
        let mut result = vec![0.0; gradient.len()];
        let row = |k: usize| k * q..(k + 1) * q;
        for &(k, penalty) in constant {
            if penalty > 0.0 {
                result[row(k)].iter_mut().zip(&gradient[row(k)]).for_each(|(to, from)| *to = from / penalty);
            }
        }
        if let Some(blocks) = &self.blocks {
            blocks.apply(gradient, &mut result);
            return result;
        }

        let mut turned = Array2::<f64>::zeros((varying.len(), q));
        for ((mut to, &k), size) in turned.rows_mut().into_iter().zip(varying).zip(size) {
            to.iter_mut().zip(&gradient[row(k)]).for_each(|(to, from)| *to = size * from);
        }
        if let Some(vectors) = vectors {
            turned = multiply(turned.view(), vectors.view());
        }
        self.features.solve(&mut turned, eigenvalues);
        if let Some(vectors) = vectors {
            turned = multiply(turned.view(), vectors.t());
        }
        for ((from, &k), size) in turned.rows().into_iter().zip(varying).zip(size) {
            result[row(k)].iter_mut().zip(from).for_each(|(to, from)| *to = size * from);
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
        Self::of(features, scale, weights, shape, CLASS_ROWS)
    }

    /// Of up to `most` rows.
    pub fn of(
        features: &'a Features<'a>,
        scale: f32,
        weights: Option<&[f32]>,
        shape: Shape,
        most: usize,
    ) -> Result<Self> {
        let (rows, of_rows) = some_rows(features, weights, most)?;
        let total: f64 = of_rows.iter().sum();
        let weights = of_rows.iter().map(|weight| weight / total.max(f64::MIN_POSITIVE)).collect();
        Ok(Self { shape, rows, scale, weights })
    }

    /// Of each row; Σ = 1.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// The mean of the probabilities of each class for parameters that are not centred, and of each row the probabilities times
    /// the root of its weight, (rows × q). Logits and exponentials are in single precision, their sums in double: 1 − p of a row that the
    /// model is sure of is what the others have.
    pub fn probabilities(&self, parameters: &[f64]) -> Result<(Vec<f64>, Array2<f64>)> {
        let (n, q) = (self.rows.n_samples(), self.shape.n_classes);
        let values = parameters.iter().map(|&value| value as f32).collect();
        let parameters = Parameters { shape: self.shape, values };
        let mut exponentials = vec![0.0; n * q];
        let exp = |_, rows: &mut [f32]| rows.chunks_exact_mut(q).for_each(cpu::exp_of_row);
        Cpu::new().session(&self.rows, self.scale, None)?.logits_into(&parameters, &mut exponentials, &exp)?;
        let mut p = Array2::<f64>::zeros((n, q));
        let mut mean = vec![0.0; q];
        for ((from, mut p), &weight) in exponentials.chunks_exact(q).zip(p.rows_mut()).zip(&self.weights) {
            let factor = 1.0 / from.iter().map(|&e| f64::from(e)).sum::<f64>();
            let root = weight.sqrt();
            for ((p, mean), &e) in p.iter_mut().zip(&mut mean).zip(from) {
                let value = factor * f64::from(e);
                *mean += weight * value;
                *p = root * value;
            }
        }
        Ok((mean, p))
    }

    /// x of a row less the mean, and 1 for the intercept.
    pub fn centred_row(&self, row: usize, mean: &[f64], x: &mut [f64]) {
        let mut values = vec![0.0f32; mean.len()];
        self.rows.read_row(row, &mut values);
        for ((x, &value), mean) in x.iter_mut().zip(&values).zip(mean) {
            *x = f64::from(value) * f64::from(self.scale) - mean;
        }
        x[mean.len()..].fill(1.0);
    }

    /// The same of the features that vary, in their units, all times `factor`; `values` is for the row as it is.
    pub fn centred_row_in_units(&self, row: usize, means: &Means, factor: f64, values: &mut [f32], x: &mut [f32]) {
        self.rows.read_row(row, values);
        let scale = f64::from(self.scale);
        let in_units = |value: f32, size: f64, mean: f64| (factor * size * (f64::from(value) * scale - mean)) as f32;
        if means.varying.len() == values.len() {
            for (((x, &value), &size), &mean) in x.iter_mut().zip(&*values).zip(means.size).zip(means.mean) {
                *x = in_units(value, size, mean);
            }
        } else {
            for ((x, &k), &size) in x.iter_mut().zip(means.varying).zip(means.size) {
                *x = in_units(values[k], size, means.mean[k]);
            }
        }
        x[means.varying.len()..].fill(factor as f32);
    }

    /// A, (q × q) row-major, the mean of diag(p) − p·pᵀ; of more than [`MOST_CLASSES`] its diagonal alone, (q). The diagonal is
    /// nowhere less than [`LEAST_CURVATURE`] of its mean.
    pub fn curvature(&self, parameters: &[f64]) -> Result<Vec<f64>> {
        let (mean, p) = self.probabilities(parameters)?;
        let (q, mut diagonal) = (mean.len(), mean);
        for row in p.rows() {
            diagonal.iter_mut().zip(row).for_each(|(curvature, &p)| *curvature -= p * p);
        }
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

impl ClassFactor {
    /// At parameters that are not centred.
    fn new(sample: &ClassSample, parameters: &[f64]) -> Result<Self> {
        let (q, a) = (sample.shape.n_classes, sample.curvature(parameters)?);
        let (vectors, mut eigenvalues) = if q <= MOST_CLASSES {
            let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(DMatrix::from_row_slice(q, q, &a));
            let mut order: Vec<usize> = (0..q).collect();
            order.sort_by(|&j, &k| eigenvalues[j].total_cmp(&eigenvalues[k]));
            let vectors = Array2::from_shape_fn((q, q), |(j, k)| eigenvectors[(j, order[k])]);
            (Some(vectors), order.into_iter().map(|k| eigenvalues[k]).collect())
        } else {
            (None, vec![a.iter().sum::<f64>() / (q as f64 - 1.0); q])
        };
        let mean = eigenvalues.iter().sum::<f64>() / q as f64;
        for eigenvalue in &mut eigenvalues {
            *eigenvalue = eigenvalue.max(LEAST_CURVATURE * mean).max(f64::MIN_POSITIVE);
        }
        // The first, 0, is that of what all classes have in common, where no gradient is: any will do.
        if let [first, second, ..] = &mut eigenvalues[..] {
            *first = *second;
        }
        Ok(Self { q: vectors, eigenvalues })
    }
}

impl FeatureFactor {
    /// For eigenvalues of A about `scale_of_classes`.
    fn new(curvature: &Curvature, scale_of_classes: f64, kept: &mut Option<Vec<f64>>) -> Result<Self> {
        let Curvature { features, moments, penalty, .. } = *curvature;
        let (varying, constant): (Vec<usize>, Vec<usize>) =
            (0..features.n_features()).partition(|&k| moments.variance[k] > 0.0);
        let constant = constant.into_iter().map(|k| (k, penalty[k])).collect();
        let n = varying.len();
        let unit = |&k: &usize| 1.0 / (scale_of_classes * moments.variance[k] + penalty[k]).sqrt();
        let size: Vec<f64> = varying.iter().map(unit).collect();
        let in_units =
            |of: &[f64]| varying.iter().zip(&size).map(|(&k, size)| of[k] * size * size).collect::<Vec<f64>>();
        let (variance, penalty) = (in_units(&moments.variance), in_units(penalty));
        let gram = match covariance(curvature, &varying, kept)? {
            None => Gram::Diagonal,
            Some(gram) => {
                let in_units = |(i, j): (usize, usize)| gram[i * n + j] * size[i] * size[j];
                Gram::Full(Array2::from_shape_fn((n, n), in_units), BTreeMap::new())
            }
        };
        Ok(Self { varying, constant, size, gram, variance, penalty })
    }

    /// Makes the factors that eigenvalues of A need, and keeps no others.
    fn prepare(&mut self, eigenvalues: &[f64]) {
        let Gram::Full(gram, factors) = &mut self.gram else { return };
        factors.retain(|&kept, _| eigenvalues.iter().any(|&alpha| level(alpha) == kept));
        for &alpha in eigenvalues {
            let level = level(alpha);
            factors.entry(level).or_insert_with(|| {
                let beta = LEVEL.powi(level);
                let mut matrix = beta * &*gram;
                matrix.diag_mut().iter_mut().zip(&self.penalty).for_each(|(value, penalty)| *value += penalty);
                let alone =
                    self.variance.iter().zip(&self.penalty).map(|(variance, penalty)| beta * variance + penalty);
                let pivots: Vec<_> = matrix.diag().iter().map(|value| LEAST_PIVOT * value).zip(alone).collect();
                invert_root(&mut matrix.view_mut(), &pivots);
                matrix
            });
        }
    }

    /// (α_j·G + R)⁻¹ times column j of `matrix`, for each eigenvalue α of A, which ascend.
    fn solve(&self, matrix: &mut Array2<f64>, eigenvalues: &[f64]) {
        match &self.gram {
            Gram::Diagonal => {
                let rows = matrix.rows_mut().into_iter().zip(&self.variance).zip(&self.penalty);
                for ((mut row, variance), penalty) in rows {
                    row.iter_mut().zip(eigenvalues).for_each(|(value, alpha)| *value /= alpha * variance + penalty);
                }
            }
            Gram::Full(_, factors) => {
                let mut first = 0;
                for alphas in eigenvalues.chunk_by(|&a, &b| level(a) == level(b)) {
                    let mut columns = matrix.slice_mut(s![.., first..first + alphas.len()]);
                    first += alphas.len();
                    let level = level(alphas[0]);
                    let Some(factor) = factors.get(&level) else { continue };
                    let solved = multiply(factor.t(), multiply(factor.view(), columns.view()).view());
                    columns.assign(&solved);
                    for (mut column, alpha) in columns.columns_mut().into_iter().zip(alphas) {
                        column *= LEVEL.powi(level) / alpha;
                    }
                }
            }
        }
    }
}

/// G, (n × n): the covariance of the n features that vary, taken from `kept`, where fits before on the same samples have left it, or
/// left there. Nothing where its diagonal, the variances, must do.
pub(super) fn covariance<'k>(
    curvature: &Curvature,
    varying: &[usize],
    kept: &'k mut Option<Vec<f64>>,
) -> Result<Option<&'k [f64]>> {
    let (n, n_samples) = (varying.len(), curvature.features.n_samples());
    if n == 0 || n > MOST_FEATURES {
        return Ok(None);
    }
    let n_rows = (GRAM_PRODUCTS / (n * n)).max(GRAM_ROWS * n).min(n_samples);
    let gram = match kept {
        Some(gram) => gram,
        None => kept.insert(gram(curvature, varying, n_rows)?),
    };
    let by_chance = 1.0 / n_rows as f64 - 1.0 / n_samples as f64;
    Ok((!is_by_chance(gram, n, by_chance)).then_some(gram))
}

/// Whether the correlations in an (n × n) matrix of second moments may be by chance, where those are `by_chance` in the mean square.
fn is_by_chance(gram: &[f64], n: usize, by_chance: f64) -> bool {
    let (mut sum, mut largest) = (0.0, 0.0f64);
    for (i, row) in gram.chunks_exact(n).enumerate() {
        for (j, value) in row[..i].iter().enumerate() {
            let square =
                value / gram[i * n + i].max(f64::MIN_POSITIVE) * (value / gram[j * n + j].max(f64::MIN_POSITIVE));
            sum += square;
            largest = largest.max(square);
        }
    }
    let n_pairs = (n * (n - 1) / 2) as f64;
    sum <= CHANCE.0 * by_chance * n_pairs && largest < CHANCE.1 * CHANCE.1
}

/// The level of β that is next to an eigenvalue of A.
fn level(alpha: f64) -> i32 {
    (alpha.ln() / LEVEL.ln()).round() as i32
}

/// L⁻¹ in the place of the symmetric matrix L·Lᵀ, whose lower half is read. `pivots` has of each row what those before it must leave
/// at least, and what takes the place of less: the matrix then is that with more on its diagonal. Equations that it solves are solved
/// the same, as the coordinates of such rows are 0 there; of others, each has a solution.
pub(super) fn invert_root<F: NdFloat>(matrix: &mut ArrayViewMut2<F>, pivots: &[(F, F)]) {
    let n = matrix.nrows();
    if n <= SMALL {
        return invert_small_root(matrix, pivots);
    }
    invert_halves_of_root(matrix, pivots);
    // −S⁻¹·B·F⁻¹ in the place of B.
    let (above, mut below) = matrix.view_mut().split_at(Axis(0), n / 2);
    let (first, _) = above.view().split_at(Axis(1), n / 2);
    let (mut between, second) = below.view_mut().split_at(Axis(1), n / 2);
    let mut product = Array2::zeros(between.raw_dim());
    for strip in strips(first.nrows()) {
        let (from, factor) = (between.slice(s![.., strip.start..]), first.slice(s![strip.start.., strip.clone()]));
        multiply_into(F::one(), from, factor, F::zero(), &mut product.slice_mut(s![.., strip]));
    }
    for strip in strips(second.nrows()) {
        let (factor, from) = (second.slice(s![strip.clone(), ..strip.end]), product.slice(s![..strip.end, ..]));
        multiply_into(-F::one(), factor, from, F::zero(), &mut between.slice_mut(s![strip, ..]));
    }
}

/// The same, but with F⁻¹, B and S⁻¹ of L = (F 0; B S), F of half as many rows.
pub(super) fn invert_halves_of_root<F: NdFloat>(matrix: &mut ArrayViewMut2<F>, pivots: &[(F, F)]) {
    let n = matrix.nrows();
    let (mut above, mut below) = matrix.view_mut().split_at(Axis(0), n / 2);
    let (mut first, mut zeros) = above.view_mut().split_at(Axis(1), n / 2);
    let (mut between, mut second) = below.view_mut().split_at(Axis(1), n / 2);
    let (of_first, of_second) = pivots.split_at(n / 2);
    zeros.fill(F::zero());
    invert_root(&mut first, of_first);
    // What is above the diagonals takes no part, but in the strips that they go through.
    let mut lower = Array2::zeros(between.raw_dim());
    for strip in strips(first.nrows()) {
        let (from, factor) = (between.slice(s![.., ..strip.end]), first.slice(s![strip.clone(), ..strip.end]));
        multiply_into(F::one(), from, factor.t(), F::zero(), &mut lower.slice_mut(s![.., strip]));
    }
    for strip in strips(second.nrows()) {
        let (rows, before) = (lower.slice(s![strip.clone(), ..]), lower.slice(s![..strip.end, ..]));
        let mut to = second.slice_mut(s![strip.clone(), ..strip.end]);
        multiply_into(-F::one(), rows, before.t(), F::one(), &mut to);
    }
    between.assign(&lower);
    invert_root(&mut second, of_second);
}

/// Rows, or columns, of which a product with half a matrix leaves out the other half.
fn strips(n: usize) -> impl Iterator<Item = Range<usize>> {
    const STRIP: usize = 96;
    (0..n).step_by(STRIP).map(move |first| first..n.min(first + STRIP))
}

/// The same of a few rows, in memory of its own.
fn invert_small_root<F: NdFloat>(matrix: &mut ArrayViewMut2<F>, pivots: &[(F, F)]) {
    /// Whole rows, as that is faster than a part of one.
    fn subtract<F: NdFloat>(from: &mut [F; SMALL], factor: F, row: &[F; SMALL]) {
        from.iter_mut().zip(row).for_each(|(value, &of_row)| *value -= factor * of_row);
    }
    let n = matrix.nrows();
    // Lᵀ
    let mut upper = [[F::zero(); SMALL]; SMALL];
    for ((i, j), &value) in matrix.indexed_iter().filter(|((i, j), _)| i >= j) {
        upper[j][i] = value;
    }
    let mut inverse = [[F::zero(); SMALL]; SMALL];
    for (j, &(least, instead)) in pivots.iter().enumerate() {
        let pivot = upper[j][j];
        let factor = F::one() / if pivot > least { pivot } else { instead }.sqrt();
        upper[j].iter_mut().for_each(|value| *value *= factor);
        let row = upper[j];
        for i in j + 1..n {
            subtract(&mut upper[i], row[i], &row);
        }
        let mut of_inverse = [F::zero(); SMALL];
        of_inverse[j] = F::one();
        for (above, of_above) in upper.iter().zip(&inverse).take(j) {
            subtract(&mut of_inverse, above[j], of_above);
        }
        inverse[j] = of_inverse.map(|value| value * factor);
    }
    for (mut to, from) in matrix.rows_mut().into_iter().zip(&inverse) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
}

/// a·b, on all threads.
pub(super) fn multiply<F: NdFloat>(a: ArrayView2<F>, b: ArrayView2<F>) -> Array2<F> {
    let mut product = Array2::zeros((a.nrows(), b.ncols()));
    multiply_into(F::one(), a, b, F::zero(), &mut product.view_mut());
    product
}

/// c ← factor·a·b + of_c·c, on all threads.
fn multiply_into<F: NdFloat>(factor: F, a: ArrayView2<F>, b: ArrayView2<F>, of_c: F, c: &mut ArrayViewMut2<F>) {
    const ROWS: usize = 128;
    if c.nrows() <= ROWS {
        return general_mat_mul(factor, &a, &b, of_c, c);
    }
    let parts: Vec<(usize, ArrayViewMut2<F>)> =
        (0..).step_by(ROWS).zip(c.axis_chunks_iter_mut(Axis(0), ROWS)).collect();
    parts.into_par_iter().for_each(|(first, mut part)| {
        let rows: Range<usize> = first..first + part.nrows();
        general_mat_mul(factor, &a.slice(s![rows, ..]), &b, of_c, &mut part);
    });
}

/// Up to `most` rows, evenly spaced, and the weight of each.
pub(super) fn some_rows<'a>(
    features: &'a Features<'a>,
    weights: Option<&[f32]>,
    most: usize,
) -> Result<(Features<'a>, Vec<f64>)> {
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

/// G, (n × n): the covariance of n `columns` of X̃ over all rows, or `most`. Of a column that is constant among these nothing is known
/// but its variance over all.
pub(super) fn gram(curvature: &Curvature, columns: &[usize], most: usize) -> Result<Vec<f64>> {
    let Curvature { features, scale, weights, moments, has_intercept, .. } = *curvature;
    let (rows, mut weights) = some_rows(features, weights, most)?;
    let mut unknown = Vec::new();
    if rows.n_samples() < features.n_samples() {
        let weights: Vec<f32> = weights.iter().map(|&weight| weight as f32).collect();
        let of_rows = cpu::moments(&rows, scale, Some(&weights))?;
        let of_rows = if has_intercept { of_rows } else { of_rows.about_zero() };
        unknown.extend((0..columns.len()).filter(|&i| of_rows.variance[columns[i]] == 0.0));
    }
    limit_leverage(&rows, scale, moments, &mut weights);
    let total: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total.max(f64::MIN_POSITIVE));
    let mut gram = cpu::second_moments(&rows, scale, &moments.mean, &weights, columns)?;
    for i in unknown {
        let n = columns.len();
        (0..n).for_each(|j| (gram[i * n + j], gram[j * n + i]) = (0.0, 0.0));
        gram[i * n + i] = moments.variance[columns[i]];
    }
    Ok(gram)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Shuffle;

    /// B·Bᵀ of a random B, (n × rank).
    fn positive(n: usize, rank: usize) -> Array2<f64> {
        let mut random = Shuffle::new(n as u64, 3);
        let b = Array2::from_shape_simple_fn((n, rank), || random.below(1 << 20) as f64 / (1 << 19) as f64 - 1.0);
        b.dot(&b.t())
    }

    fn largest(values: &Array2<f64>) -> f64 {
        values.iter().fold(0.0, |max, value| max.max(value.abs()))
    }

    fn root(matrix: &Array2<f64>) -> Array2<f64> {
        let mut inverse = matrix.clone();
        let pivots: Vec<_> = matrix.diag().iter().map(|&value| (LEAST_PIVOT * value, value)).collect();
        invert_root(&mut inverse.view_mut(), &pivots);
        inverse
    }

    #[test]
    fn an_inverse_root_turns_its_matrix_into_the_identity() {
        for n in [1, 2, 3, 17, 64, 150] {
            let matrix = positive(n, n) + 0.1 * Array2::<f64>::eye(n);
            let inverse = root(&matrix);
            let error =
                |matrix: &Array2<f64>| largest(&(inverse.dot(matrix).dot(&inverse.t()) - Array2::<f64>::eye(n)));
            assert!(error(&matrix) < 1e-11, "{n}: {:e}", error(&matrix));
            let mut planted = matrix.clone();
            planted[[n - 1, n / 2]] *= 1.0 + 1e-6;
            assert!(error(&planted) > 1e-10, "{n}");
        }
    }

    /// What [`InverseRoot`] makes of the halves, in half precision.
    #[test]
    fn halves_of_a_root_solve_equations() {
        for n in [1, 2, 3, 32, 33, 47, 131] {
            let matrix = positive(n, n) + n as f64 * Array2::<f64>::eye(n);
            let mut halves = matrix.mapv(|value| value as f32);
            let pivots: Vec<_> = halves.diag().iter().map(|&value| (1e-6 * value, value)).collect();
            invert_halves_of_root(&mut halves.view_mut(), &pivots);
            let root = cpu::InverseRoot::new(halves.view());
            let wanted: Vec<f64> = (0..n).map(|i| (i * 5 % 7) as f64 - 2.5).collect();
            let mut g: Vec<f32> = matrix
                .rows()
                .into_iter()
                .map(|row| row.iter().zip(&wanted).map(|(m, x)| m * x).sum::<f64>() as f32)
                .collect();
            g.resize(root.len(), 9.0);
            let mut x = vec![0.0; root.len()];
            root.solve(&mut g, &mut x);
            let error = |of: f64| {
                let squares = x.iter().zip(&wanted).map(|(&x, &wanted)| (f64::from(x) - of * wanted).powi(2));
                (squares.sum::<f64>() / wanted.iter().map(|x| x * x).sum::<f64>()).sqrt()
            };
            assert!(error(1.0) < 3e-3 && error(1.01) > 5e-3, "{n}: {:e} {:e}", error(1.0), error(1.01));
        }
    }

    /// 1 − p is not lost where a model is sure of its samples.
    #[test]
    fn the_curvature_of_sure_samples_is_right() {
        let (d, q) = (2, 3);
        let shape = Shape { n_features: d, n_classes: q, n_heads: 1 };
        for n in [1500, 2000] {
            let x: Vec<f32> = (0..n * d).map(|i| if i / d % 2 == i % d { 1.0 } else { 0.0 }).collect();
            let features = Features::new(x, n, d).unwrap();
            let sample = ClassSample::new(&features, 1.0, None, shape).unwrap();
            for size in [3.0, 20.0, 25.0] {
                let parameters = [size, 0.0, 0.0, 0.0, size, 0.0, 0.0, 0.0, 0.0];
                let found = sample.curvature(&parameters).unwrap();
                let other = (-size).exp() / (1.0 + 2.0 * (-size).exp());
                // Each class of the two has half of the samples for sure.
                let of_sure = 0.5 * (2.0 * other * (1.0 - 2.0 * other) + other * (1.0 - other));
                for (j, wanted) in [of_sure, of_sure, other * (1.0 - other)].into_iter().enumerate() {
                    let found = found[j * q + j];
                    // The mean of p less that of p² is off by the last bits of 1.
                    assert!((found - wanted).abs() < 1e-4 * wanted + 1e-13, "{n} {size}: {found:e} {wanted:e}");
                }
            }
        }
    }

    /// Where others make up a row, equations that have a solution are solved all the same, and no gradient is without a direction.
    #[test]
    fn rows_that_others_make_up_do_not_matter() {
        let (n, rank) = (40, 25);
        let matrix = positive(n, rank);
        let inverse = root(&matrix);
        // A·A⁻·A = A.
        let again = matrix.dot(&inverse.t().dot(&inverse)).dot(&matrix);
        assert!(largest(&(&again - &matrix)) < 1e-8 * largest(&matrix));
        let pivots: Vec<f64> = inverse.diag().iter().map(|value| 1.0 / (value * value)).collect();
        let n_instead = pivots.iter().zip(matrix.diag()).filter(|(pivot, value)| (*pivot / *value - 1.0).abs() < 1e-12);
        // The first is whole.
        assert_eq!(n_instead.count(), 1 + n - rank);
    }

    /// At a level the solution is exact, between two it is right where there is no penalty, and within a factor of 2 where there is
    /// nothing else.
    #[test]
    fn equations_are_solved_for_each_eigenvalue() {
        let n = 20;
        let gram = positive(n, n);
        for (penalty, alphas, most) in
            [(0.3, [LEVEL.powi(-2), LEVEL], 1e-10), (0.0, [0.1, 1.3], 1e-7), (1e6, [0.1, 1.3], 1.01)]
        {
            let mut features = FeatureFactor {
                varying: (0..n).collect(),
                constant: Vec::new(),
                size: vec![1.0; n],
                gram: Gram::Full(gram.clone(), BTreeMap::new()),
                variance: gram.diag().to_vec(),
                penalty: vec![penalty; n],
            };
            features.prepare(&[1e-9]);
            features.prepare(&alphas);
            assert!(matches!(&features.gram, Gram::Full(_, factors) if factors.len() == 2));
            let wanted = positive(n, 2).slice(s![.., ..2]).to_owned();
            let mut right = Array2::zeros((n, 2));
            for (j, alpha) in alphas.iter().enumerate() {
                let matrix = *alpha * &gram + penalty * Array2::<f64>::eye(n);
                right.column_mut(j).assign(&matrix.dot(&wanted.column(j)));
            }
            features.solve(&mut right, &alphas);
            let error = largest(&(&right - &wanted)) / largest(&wanted);
            assert!(error <= most, "{penalty}: {error:e}");
            if penalty > 1.0 {
                assert!(error > 1e-3);
            }
        }
    }

    #[test]
    fn correlations_by_chance_are_told_from_others() {
        let (rows, n) = (500, 60);
        let mut random = Shuffle::new(9, 1);
        let mut x = Array2::from_shape_simple_fn((rows, n), || random.below(1 << 20) as f64 / (1 << 19) as f64 - 1.0);
        let by_chance = 1.0 / rows as f64;
        let gram = |x: &Array2<f64>| x.t().dot(x).iter().copied().collect::<Vec<_>>();
        let is_so = |by_chance| is_by_chance(&gram(&x), n, by_chance);
        assert!(is_so(by_chance) && !is_so(0.0) && !is_so(0.3 * by_chance));
        // Two columns that are nearly the same are not.
        let other = &x.column(3) * -5.0;
        x.column_mut(50).scaled_add(1.0, &other);
        assert!(!is_by_chance(&gram(&x), n, by_chance));
    }
}
