//! The Hessian of the objective class by class, inverted: what directions far from those of a mean sample need.
//!
//! The block of class j is H_j = Σ_i s_i·p_ij·(1 − p_ij)·x̃_i·x̃_iᵀ + R, x̃ with the constant feature 1. Where a model is sure of most
//! samples few of them curve, and other ones for each class, which the product of means of `preconditioner` knows nothing of. The
//! rows that count most are taken as they are; the rest as so many rows in the mean, whose covariance is G. Between classes the
//! Hessian has −p_ij·p_ik: on what sums to 0 over the classes that makes it q/(q − 1) times its blocks, where classes are alike.

use ndarray::{Array2, ArrayView2, Zip, s};
use rayon::prelude::*;

use super::preconditioner::{ClassSample, invert_halves_of_root};
use super::vector::{centre_over_classes, max_abs};
use crate::backend::cpu::{Gram, InverseRoot};
use crate::error::Result;

/// Rows of a class that are taken as they are, and the least weight among them, as a share of the largest.
const ROWS: usize = 256;
const LEAST_WEIGHT: f64 = 1e-3;
/// The curvature of a class is taken to be no smaller than this share of the mean: it grows with the first step.
const LEAST_CURVATURE: f64 = 1e-3;
/// All blocks together have no more values than this, 128 MiB, but for what fills up the rows of small ones.
const MOST_VALUES: usize = 64 << 20;
/// In single precision no more than this share of a feature need be left by those before it, as [`super::preconditioner`] has it.
const LEAST_PIVOT: f32 = 1e-6;

pub(crate) struct Blocks {
    /// Of each class that of S·H_j·S, over the features that vary, in units S, and the intercept.
    roots: Vec<InverseRoot>,
    size: Vec<f64>,
    varying: Vec<usize>,
    has_intercept: bool,
}

/// What the blocks have in common with the product of means, in the units of the features.
pub(super) struct Means<'s> {
    /// S·G·S.
    pub gram: ArrayView2<'s, f64>,
    /// S·R·S.
    pub penalty: &'s [f64],
    /// S of each feature that varies, and which these are.
    pub size: &'s [f64],
    pub varying: &'s [usize],
    /// μ of all features.
    pub mean: &'s [f64],
    pub has_intercept: bool,
}

/// What blocks of `n` features take, in multiplications; nothing where there are too many.
pub(super) fn price(n: usize, n_classes: usize) -> Option<f64> {
    let n = n + 1;
    let values = n.checked_mul(n + 1)?.checked_mul(n_classes)? / 2;
    let of_class = (n * n) as f64 * (0.6 * ROWS as f64 + 2.0 / 3.0 * n as f64);
    (values <= MOST_VALUES).then_some(n_classes as f64 * of_class)
}

impl Blocks {
    /// At parameters that are not centred; nothing where they are past single precision.
    pub(super) fn new(sample: &ClassSample, parameters: &[f64], means: &Means) -> Result<Option<Self>> {
        let (_, p) = sample.probabilities(parameters)?;
        let gram = means.gram.mapv(|value| value as f32);
        let n = means.varying.len() + 1;
        let q = p.ncols();
        let like = q as f64 / (q as f64 - 1.0).max(1.0);
        // s·p·(1 − p) of each class and row.
        let mut weights = Array2::<f64>::zeros((q, p.nrows()));
        for ((p, mut to), s) in p.rows().into_iter().zip(weights.columns_mut()).zip(sample.weights()) {
            let root = s.sqrt();
            to.iter_mut().zip(p).for_each(|(to, p)| *to = like * (p * root - p * p).max(0.0));
        }
        let least_total = (LEAST_CURVATURE * weights.sum() / q as f64).max(1e-30);
        // A block, rows in its units and one as it is, and their product.
        struct Memory {
            block: Array2<f32>,
            x: Array2<f32>,
            values: Vec<f32>,
            product: Gram,
        }
        let memory = || Memory {
            block: Array2::zeros((n, n)),
            x: Array2::zeros((ROWS, n)),
            values: vec![0.0; means.mean.len()],
            product: Gram::new(ROWS, n),
        };
        let root = |Memory { block, x, values, product }: &mut Memory, class: usize| {
            let weights = weights.row(class);
            let mut rows: Vec<usize> = (0..weights.len()).collect();
            let heaviest = |a: &usize, b: &usize| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b));
            if rows.len() > ROWS {
                rows.select_nth_unstable_by(ROWS, heaviest);
                rows.truncate(ROWS);
            }
            rows.sort_unstable_by(heaviest);
            let least = LEAST_WEIGHT * rows.first().map_or(0.0, |&row| weights[row]);
            rows.retain(|&row| weights[row] > least);
            let total = weights.iter().sum::<f64>().max(least_total);
            let rest = (total - rows.iter().map(|&row| weights[row]).sum::<f64>()).max(0.0);

            for (mut to, gram) in block.rows_mut().into_iter().zip(gram.rows()) {
                Zip::from(to.slice_mut(s![..n - 1])).and(gram).for_each(|to, value| *to = rest as f32 * value);
                to[n - 1] = 0.0;
            }
            block.row_mut(n - 1).fill(0.0);
            for (mut x, &row) in x.rows_mut().into_iter().zip(&rows) {
                let x = x.as_slice_mut().unwrap_or_default();
                sample.centred_row_in_units(row, means, weights[row].sqrt(), values, x);
            }
            let x = x.slice(s![..rows.len(), ..]);
            if let (Some(x), Some(block)) = (x.as_slice(), block.as_slice_mut()) {
                product.add(x, block);
            }
            let diagonal = block.diag_mut().into_iter().zip(means.penalty.iter().chain([&0.0]));
            diagonal.for_each(|(value, &penalty)| *value += penalty as f32);
            if means.has_intercept {
                block[[n - 1, n - 1]] += rest as f32;
            } else {
                block.slice_mut(s![n - 1, ..n - 1]).fill(0.0);
                block[[n - 1, n - 1]] = 1.0;
            }
            let pivot = |&value: &f32| (LEAST_PIVOT * value, value.max(LEAST_PIVOT));
            let pivots: Vec<(f32, f32)> = block.diag().iter().map(pivot).collect();
            invert_halves_of_root(&mut block.view_mut(), &pivots);
            InverseRoot::new(block.view())
        };
        let roots: Vec<InverseRoot> = (0..q).into_par_iter().map_init(memory, root).collect();
        let is_finite = roots.par_iter().all(InverseRoot::is_finite);
        let Means { size, varying, has_intercept, .. } = *means;
        Ok(is_finite.then(|| Self { roots, size: size.to_vec(), varying: varying.to_vec(), has_intercept }))
    }

    /// The features that vary.
    pub fn vary(&self) -> &[usize] {
        &self.varying
    }

    /// Values of all blocks, but for what fills up the rows of small ones.
    pub fn n_values(&self) -> usize {
        let n = self.varying.len() + 1;
        n * (n + 1) / 2 * self.roots.len()
    }

    /// H_j⁻¹ times the gradient of each class, into the rows of `result`, (d + 1) × q, that vary.
    pub fn apply(&self, gradient: &[f64], result: &mut [f64]) {
        let q = self.roots.len();
        let d = gradient.len() / q - 1;
        let rows = || self.varying.iter().copied().chain([d]).zip(self.size.iter().copied().chain([1.0]));
        // In single precision, far from its ends.
        let unit = rows().map(|(k, size)| size * max_abs(&gradient[k * q..][..q])).fold(f64::MIN_POSITIVE, f64::max);
        let length = self.roots.first().map_or(0, InverseRoot::len);
        // By class, which goes through the gradient once.
        let (mut g, mut solved) = (vec![0.0f32; q * length], vec![0.0f32; q * length]);
        for (index, (k, size)) in rows().enumerate() {
            let of_classes = g[index..].iter_mut().step_by(length);
            of_classes.zip(&gradient[k * q..][..q]).for_each(|(to, value)| *to = (size * value / unit) as f32);
        }
        let of_classes = g.par_chunks_exact_mut(length).zip(solved.par_chunks_exact_mut(length));
        of_classes.zip(&self.roots).for_each(|((g, x), root)| root.solve(g, x));
        for (index, (k, size)) in rows().enumerate() {
            let row = &mut result[k * q..][..q];
            let of_classes = solved[index..].iter().step_by(length);
            row.iter_mut().zip(of_classes).for_each(|(to, &x)| *to = unit * size * f64::from(x));
            centre_over_classes(row, q);
        }
        if !self.has_intercept {
            result[d * q..].fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::preconditioner::{Curvature, Preconditioner};
    use super::*;
    use crate::backend::cpu::{self, Cpu, moments};
    use crate::backend::{Backend, Shape};
    use crate::batch::Shuffle;
    use crate::data::{Features, Targets};
    use crate::objective::{Objective, Penalty};
    use crate::solver::vector::dot;

    /// How far H⁻¹·H·v is from v, as a share, without and with the blocks.
    fn errors(n: usize, q: usize, size_of_weights: f64, has_intercept: bool) -> [f64; 2] {
        let mut random = Shuffle::new(n as u64 + q as u64, 1);
        let mut number = || random.below(1 << 20) as f64 / f64::from(1 << 19) - 1.0;
        let scales = [1e-3, 1.0, 50.0, 7.0, 0.0];
        let d = scales.len();
        let x: Vec<f32> = (0..n * d).map(|i| ((number() + 2.0) * scales[i % d]) as f32).collect();
        let features = Features::new(x, n, d).unwrap();
        let weights: Vec<f32> = (0..n).map(|i| (i % 3) as f32).collect();
        let targets = Targets::Classes((0..n as u32).map(|i| i % q as u32).collect());
        let shape = Shape { n_features: d, n_classes: q, n_heads: 1 };
        let moments = moments(&features, 1.0, Some(&weights)).unwrap();
        let moments = if has_intercept { moments } else { moments.about_zero() };
        let penalty = Penalty::uniform(1e-4, 0.0, d);
        let cpu = Cpu::new();
        let supervision = crate::backend::Supervision { targets: &targets, weights: Some(&weights) };
        let mut session = cpu.session(&features, 1.0, Some(supervision)).unwrap();
        let mean = has_intercept.then(|| moments.mean.clone());
        let mut objective = Objective::new(session.loss(shape).unwrap(), shape, penalty.clone(), mean);
        let of_row = |k: usize| if k < d && scales[k] > 0.0 { 1.0 / scales[k] } else { f64::from(u8::from(k == d)) };
        let mut vector = || {
            let mut v: Vec<f64> = (0..shape.n_parameters()).map(|i| number() * of_row(i / q)).collect();
            if !has_intercept {
                v[d * q..].fill(0.0);
            }
            centre_over_classes(&mut v, q);
            v
        };
        let parameters: Vec<f64> = vector().iter().map(|w| w * size_of_weights).collect();
        let v = vector();
        objective.start(&parameters).unwrap();
        let curved = objective.hessian_vector(&v).unwrap();
        let curvature = Curvature {
            features: &features,
            scale: 1.0,
            weights: Some(&weights),
            moments: &moments,
            penalty: &penalty.l2,
            has_intercept,
        };
        let uncentred = objective.uncentred(&parameters);
        let mut preconditioner = Preconditioner::new(curvature, &uncentred, shape, &mut None, None).unwrap();
        preconditioner.prepare();
        // In units in which the scale of columns does not matter.
        let error = |preconditioner: &Preconditioner| {
            let found = preconditioner.apply(&curved);
            let in_units = |of: &dyn Fn(usize) -> f64| -> Vec<f64> {
                (0..v.len()).map(|i| of(i) * scales.get(i / q).copied().unwrap_or(1.0)).collect()
            };
            let [difference, whole] = [in_units(&|i| found[i] - v[i]), in_units(&|i| v[i])];
            (dot(&difference, &difference) / dot(&whole, &whole)).sqrt()
        };
        let of_means = error(&preconditioner);
        let products = objective.counts().products;
        preconditioner.sharpen(&mut objective, &parameters).unwrap();
        assert!(preconditioner.is_sharp() && objective.counts().products > products);
        assert!(preconditioner.apply(&vec![0.0; v.len()]).iter().all(|&x| x == 0.0));
        // They may be lent, but not where other features vary.
        let (mean_curvature, blocks) = preconditioner.sharp().unwrap();
        assert!(!preconditioner.is_lent());
        let borrow = |curvature| {
            let mut other = Preconditioner::new(curvature, &uncentred, shape, &mut None, Some(mean_curvature)).unwrap();
            assert_eq!(other.borrow(blocks.clone()), other.is_lent());
            other.is_lent().then(|| other.apply(&curved))
        };
        assert_eq!(borrow(curvature), Some(preconditioner.apply(&curved)));
        let constant = Features::new(vec![1.0; n * d], n, d).unwrap();
        let of_constant = cpu::moments(&constant, 1.0, Some(&weights)).unwrap();
        assert_eq!(borrow(Curvature { features: &constant, moments: &of_constant, ..curvature }), None);
        [of_means, error(&preconditioner)]
    }

    /// Of two classes, whose blocks are all there is, the inverse is exact at any weights; of more it is where classes are alike.
    #[test]
    fn the_inverse_of_the_hessian_is_exact_for_two_classes() {
        // As roots are kept: 2⁻¹¹ of each value, of which six are multiplied.
        const HALF: f64 = 3e-3;
        for has_intercept in [true, false] {
            let [of_means, of_blocks] = errors(250, 2, 2.0, has_intercept);
            assert!(of_blocks < HALF && of_means > 0.1, "{of_means} {of_blocks}");
            let [_, of_blocks] = errors(250, 5, 0.0, has_intercept);
            assert!(of_blocks < HALF, "{of_blocks}");
            // Rows that are not taken as they are count as those in the mean; classes that are not alike pull at each other.
            for (n, q) in [(3000, 2), (250, 5)] {
                let [of_means, of_blocks] = errors(n, q, 2.0, has_intercept);
                assert!(of_blocks > HALF && of_blocks < of_means, "{n} {q}: {of_means} {of_blocks}");
            }
        }
    }

    #[test]
    fn too_many_blocks_have_no_price() {
        assert!(price(384, 77).is_some() && price(10_000, 77).is_none() && price(usize::MAX / 2, 2).is_none());
        // That of blocks is of features to the third, that of classes of the first order.
        let of = |n, q| price(n, q).unwrap();
        assert!((of(400, 20) / of(400, 10) - 2.0).abs() < 1e-12 && of(800, 10) > 4.0 * of(400, 10));
    }
}
