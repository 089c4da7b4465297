//! How far from the minimum a solution can be at most.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use super::preconditioner::ClassSample;
use super::quasi_newton::{Effort, NewtonDirection, newton_direction};
use super::vector::{add, centre_over_classes, dot, max_abs};
use crate::backend::Shape;
use crate::error::Result;
use crate::objective::{Objective, Smooth};

/// What was found at a solution, by evaluating the objective there once more: in double precision on the CPU, whatever the device,
/// unless the data is so large that this would take more than a few seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Certificate {
    /// The objective J, see [`crate::SoftmaxRegression`].
    pub objective: f64,
    /// The loss in it: the weighted mean cross-entropy, in nats.
    pub log_loss: f64,
    /// The largest partial derivative of J in absolute value; where there is an l1 penalty, of the smallest subgradient. Over the
    /// weights of features less their mean μ, and the intercept b + Wᵀμ that goes with them: ∂W − μ·∂bᵀ and ∂b (without an intercept
    /// ∂W). Features are those that training saw, scaled.
    pub gradient_norm: f64,
    /// The same as a share of what it is for weights 0 and intercepts that give each class its frequency.
    pub relative_gradient_norm: f64,
    /// The duality gap: J is above its minimum by no more than this, but for rounding, wherever training ended. None where there is
    /// no such bound: where a feature has no penalty, and so the dual problem no solution to compare with, or where a class without
    /// samples keeps a probability.
    pub gap: Option<f64>,
    /// Weights that are not 0.
    pub n_nonzero: usize,
    /// Whether all this was computed in double precision.
    pub is_double: bool,
}

/// A class whose frequency is no more than this has no samples: its probability should be 0.
const NONE: f64 = f64::EPSILON;
/// The intercept is improved until no class is expected more often than it is, but for this share, in so many steps.
const EXCESS: f64 = 1e-12;
const STEPS: usize = 30;
/// Without logits that are kept each step is an evaluation.
const EVALUATIONS: usize = 8;
/// How far Newton's equations for the intercept are solved, as in `quasi_newton`; the longest of a step, and the share of it that is
/// tried at least.
const EFFORT: Effort = Effort { share: 0.01, left: f64::INFINITY, most: 30 };
const LONGEST: f64 = 10.0;
const SHORTEST: f64 = 1e-3;

/// By what share classes are expected more often than they are, at most: max_j r_j/π_j, r_j = Σ_i s_i·(p_ij − y_ij), π_j the
/// frequency of class j. Infinite where one that is nowhere is expected.
fn excess(residual: &[f64], shares: &[f64]) -> f64 {
    let of_class = |(r, share): (&f64, &f64)| match *share > NONE {
        true => r / share,
        false if share + r <= 64.0 * NONE => 0.0,
        false => f64::INFINITY,
    };
    residual
        .iter()
        .zip(shares)
        .map(of_class)
        .fold(0.0, |max, excess| if excess > max || excess.is_nan() { excess } else { max })
}

/// What to add to the intercept so that each class alone were as frequent as it is, which lowers the loss (iterative proportional
/// fitting).
fn scaling(residual: &[f64], shares: &[f64]) -> Vec<f64> {
    let of_class = |(r, share): (&f64, &f64)| (share.max(NONE) / (share + r).max(NONE)).ln();
    residual.iter().zip(shares).map(of_class).collect()
}

/// Gives rows that say how the intercept curves, when they are needed.
pub(super) type Sample<'s> = dyn Fn() -> Result<ClassSample<'s>> + 's;

/// About the inverse of the Hessian over the intercept: that of some rows.
struct Inverse {
    /// Of what those rows say; otherwise its diagonal alone is known, π_j at most.
    factor: Option<Cholesky<f64, Dyn>>,
    shares: Vec<f64>,
}

impl Inverse {
    /// At `parameters` that are not centred.
    fn new(sample: &ClassSample, parameters: &[f64], shares: &[f64]) -> Result<Self> {
        let q = shares.len();
        let of_rows = sample.curvature(parameters)?;
        let is_empty = |j: usize| shares[j] <= NONE;
        let factor = (of_rows.len() == q * q).then(|| {
            // Nothing curves by what all classes have in common: there any curvature will do.
            let common = (0..q).map(|j| of_rows[j * q + j]).sum::<f64>() / (q * q) as f64;
            let value = |j: usize, k: usize| match is_empty(j) || is_empty(k) {
                true => f64::from(j == k),
                false => of_rows[j * q + k] + common,
            };
            Cholesky::new(DMatrix::from_fn(q, q, value))
        });
        Ok(Self { factor: factor.flatten(), shares: shares.to_vec() })
    }

    /// Its product with `residual`; of classes without samples 0, as there is nothing to solve.
    fn apply(&self, residual: &[f64]) -> Vec<f64> {
        let of_samples = |values: &[f64]| -> Vec<f64> {
            values.iter().zip(&self.shares).map(|(r, share)| if *share > NONE { *r } else { 0.0 }).collect()
        };
        let residual = of_samples(residual);
        match &self.factor {
            Some(factor) => of_samples(factor.solve(&DVector::from_vec(residual)).as_slice()),
            None => residual.iter().zip(&self.shares).map(|(r, share)| r / share.max(NONE)).collect(),
        }
    }
}

/// Evaluates at `parameters`, whose intercept is made better first. On logits that are kept that is Newton's method, for no product
/// with the features.
fn evaluate(objective: &mut Objective, parameters: &mut [f64], shares: &[f64], sample: &Sample) -> Result<Smooth> {
    let n_weights = parameters.len() - shares.len();
    let mut smooth = objective.start(parameters)?;
    if !objective.has_intercept() {
        return Ok(smooth);
    }
    let Some((mut value, mut residual)) = objective.shift(&vec![0.0; shares.len()])? else {
        for _ in 0..EVALUATIONS {
            let residual = &smooth.gradient[n_weights..];
            if excess(residual, shares) <= EXCESS {
                break;
            }
            let mut better = parameters.to_vec();
            add(&mut better[n_weights..], 1.0, &scaling(residual, shares));
            let next = objective.start(&better)?;
            if next.value.is_nan() || next.value > smooth.value {
                break;
            }
            parameters.copy_from_slice(&better);
            smooth = next;
        }
        return Ok(smooth);
    };
    let is_better = |(next, r): &(f64, Vec<f64>), value: f64, residual: &[f64]| {
        *next < value || excess(r, shares) < excess(residual, shares)
    };
    let mut is_shifted = false;
    let mut inverse = None;
    for n_steps in 0..STEPS {
        if excess(&residual, shares) <= EXCESS {
            break;
        }
        let mut step = scaling(&residual, shares);
        if n_steps > 0 {
            let inverse = match &mut inverse {
                Some(inverse) => inverse,
                None => inverse.insert(Inverse::new(&sample()?, &objective.uncentred(parameters), shares)?),
            };
            let curved = |v: &[f64]| Ok(objective.shift_curvature(v)?.unwrap_or_default());
            let NewtonDirection { solution, .. } = newton_direction(&residual, curved, |r| inverse.apply(r), EFFORT)?;
            let shortened = LONGEST / max_abs(&solution).max(LONGEST);
            let of_classes = step.iter_mut().zip(&solution).zip(shares).filter(|(_, share)| **share > NONE);
            of_classes.for_each(|((step, x), _)| *step = shortened * x);
        }
        centre_over_classes(&mut step, shares.len());
        let mut shift = |length: f64| {
            let step: Vec<f64> = step.iter().map(|step| length * step).collect();
            Ok(objective.shift(&step)?.unwrap_or_else(|| (f64::NAN, Vec::new())))
        };
        let (mut next, mut length) = (shift(1.0)?, 1.0);
        while !is_better(&next, value, &residual) && length > SHORTEST {
            length *= 0.5;
            next = shift(-length)?;
        }
        if !is_better(&next, value, &residual) {
            shift(-length)?;
            break;
        }
        add(&mut parameters[n_weights..], length, &step);
        (value, residual) = next;
        is_shifted = true;
    }
    if is_shifted { objective.gradient(parameters, &[], 0.0) } else { Ok(smooth) }
}

/// Evaluates at `parameters`, centred, whose intercept is made better first; `zero` are the parameters without weights, and
/// `first_gradient` the gradient there, where it is known; `shares` are the frequencies of the classes, `sample` gives rows that say how the
/// intercept curves.
///
/// With G = Xᵀ·S·(P − Y), S·1 the weights, the dual problem's value at P is Σ_i s_i·H(p_i) − Σ max(|G| − l1, 0)²/(2·l2), for P with
/// r = Σ_i s_i·(p_i − y_i) = 0; H is the entropy. The intercept sees to that but for little. For the rest P' = (1 − κ)·P + κ·1·tᵀ
/// takes the place of P, t = π − r·(1 − κ)/κ, π the frequencies of the classes, and κ so that no t is below 0: κ/(1 − κ) is the
/// [`excess`]. Its entropy is no less than 1 − κ times that of P, and as X is centred, G' = (1 − κ)·G + κ·G₀, G₀ the gradient without
/// weights. Where l2 is 0, P'' = Y + θ·(P' − Y) takes the place of P', θ such that |θ·G'| ≤ l1; its entropy is no less than θ times that
/// of P'.
pub(super) fn certify(
    objective: &mut Objective,
    parameters: &mut [f64],
    zero: &[f64],
    first_gradient: Option<Vec<f64>>,
    shares: &[f64],
    sample: &Sample,
) -> Result<Certificate> {
    let Shape { n_features: d, n_classes: m, .. } = objective.shape();
    let n_weights = d * m;
    let first_gradient = match first_gradient {
        Some(gradient) => gradient,
        None => objective.start(zero)?.gradient,
    };
    let smooth = evaluate(objective, parameters, shares, sample)?;
    let (of_weights, residual) = smooth.gradient.split_at(n_weights);
    let excess = if objective.has_intercept() { excess(residual, shares) } else { 0.0 };
    let kappa = if excess.is_finite() { excess / (1.0 + excess) } else { 1.0 };
    let penalty = objective.penalty();
    let mut gradient_norm = max_abs(residual);
    let (mut l2_value, mut l1_value, mut product, mut first_product) = (0.0, 0.0, 0.0, 0.0);
    let mut dual = excess.is_finite().then_some(0.0);
    // Of each weight, what it adds to the gap where θ is 1.
    let mut gap = 0.0;
    let mut theta: f64 = 1.0;
    let rows = parameters.chunks_exact(m).zip(of_weights.chunks_exact(m)).zip(first_gradient.chunks_exact(m));
    for (((w, g), first), (&l2, &l1)) in rows.zip(penalty.l2.iter().zip(&penalty.l1)) {
        for ((&w, &g), first) in w.iter().zip(g).zip(first) {
            // Of the loss alone.
            let of_loss = g - l2 * w;
            let least = if w == 0.0 { (g.abs() - l1).max(0.0) } else { (g + l1 * w.signum()).abs() };
            gradient_norm = if least > gradient_norm || least.is_nan() { least } else { gradient_norm };
            l2_value += 0.5 * l2 * w * w;
            l1_value += l1 * w.abs();
            product += w * of_loss;
            first_product += w * first;
            // G'
            let of_dual_point = of_loss + kappa * (first - of_loss);
            let excess = (of_dual_point.abs() - l1).max(0.0);
            // l2·w²/2 + l1·|w| + w·G' + excess²/(2·l2), so that it does not cancel.
            gap += if l2 > 0.0 && excess > 0.0 && w * of_dual_point <= 0.0 {
                (l2 * w.abs() - excess).powi(2) / (2.0 * l2)
            } else {
                let of_dual = if excess > 0.0 { excess * excess / (2.0 * l2) } else { 0.0 };
                (0.5 * l2 * w * w + (l1 * w.abs() + w * of_dual_point)).max(0.0) + of_dual
            };
            if l2 > 0.0 {
                dual = dual.map(|dual| dual + excess * excess / (2.0 * l2));
            } else if l1 > 0.0 {
                theta = theta.min(l1 / of_dual_point.abs().max(l1));
            } else {
                dual = None;
            }
        }
    }
    let log_loss = smooth.value - l2_value;
    let of_intercept = dot(residual, &parameters[n_weights..]);
    // Σ s·H(P)
    let entropy = log_loss - product - of_intercept;
    let gap = dual.map(|dual| match theta {
        1.0 => gap + of_intercept + kappa * (entropy + product - first_product),
        theta => log_loss + l2_value + l1_value - theta * (1.0 - kappa) * entropy + theta * theta * dual,
    });
    let gap = gap.map(|gap| gap.max(0.0));
    Ok(Certificate {
        objective: smooth.value + l1_value,
        log_loss,
        gradient_norm,
        relative_gradient_norm: gradient_norm / max_abs(&first_gradient).max(f64::MIN_POSITIVE),
        gap,
        is_double: objective.is_double(),
        n_nonzero: parameters[..n_weights].iter().filter(|&&w| w != 0.0).count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::{Cpu, moments};
    use crate::backend::{Backend, Evaluation, Loss, Point};
    use crate::batch::Shuffle;
    use crate::data::{Csr, Dataset, Features, Labels, Targets};
    use crate::objective::Penalty;
    use crate::{FeatureScale, Lbfgs, SoftmaxRegression};

    /// Whatever the intercept begins with, each class is in the end expected as often as it is: of few and many classes far apart,
    /// some of which have no samples, dense and sparse.
    #[test]
    fn the_intercept_comes_to_its_best() {
        for (n, q, n_empty, separation) in
            [(300, 2, 0, 10.0f32), (300, 3, 1, 5.0), (300, 3, 1, 30.0), (4000, 300, 20, 3.0)]
        {
            let (d, mut random) = (4, Shuffle::new(q as u64, 2));
            let mut number = || random.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0;
            let classes: Vec<u32> = (0..n as u32).map(|i| i % (q - n_empty)).collect();
            let at = |class: u32, k: u32| if class % d == k { separation * (1.0 + (class / d) as f32) } else { 0.0 };
            let x: Vec<f32> =
                classes.iter().flat_map(|&class| (0..d).map(|k| number() + at(class, k)).collect::<Vec<_>>()).collect();
            let (d, q) = (d as usize, q as usize);
            let shape = Shape { n_features: d, n_classes: q, n_heads: 1 };
            let mut parameters: Vec<f64> = (0..shape.n_parameters()).map(|_| f64::from(number())).collect();
            parameters[d * q..].iter_mut().for_each(|b| *b *= 4.0);
            let shares: Vec<f64> =
                (0..q).map(|j| classes.iter().filter(|&&c| c as usize == j).count() as f64 / n as f64).collect();
            let offsets: Vec<u64> = (0..=n as u64).map(|i| i * d as u64).collect();
            let csr = Csr::new(offsets, (0..n * d).map(|i| (i % d) as u32).collect::<Vec<_>>(), x.clone()).unwrap();
            let targets = Targets::Classes(classes.into());
            for features in [Features::new(x, n, d).unwrap(), Features::new(csr, n, d).unwrap()] {
                let cpu = Cpu::new();
                let sample = || ClassSample::new(&features, 1.0, None, shape);
                let mut session = cpu.session(&features, 1.0, Some((&targets).into())).unwrap();
                let loss = session.loss(shape).unwrap();
                let mut objective = Objective::new(loss, shape, Penalty::uniform(1e-3, 0.0, d), Some(vec![0.0; d]));
                let mut found = parameters.clone();
                let before = objective.start(&found).unwrap();
                // The product with the curvature of the intercept is that with the whole one.
                let mut vector = vec![0.0; shape.n_parameters()];
                vector[d * q..].iter_mut().zip(0..).for_each(|(v, j)| *v = f64::from(j % 3) - 0.5);
                let whole = objective.hessian_vector(&vector).unwrap();
                let product = objective.shift_curvature(&vector[d * q..]).unwrap().unwrap();
                assert!(separation > 20.0 || max_abs(&product) > 1e-4);
                assert!(whole[d * q..].iter().zip(&product).all(|(a, b)| (a - b).abs() <= 1e-15));

                let products = objective.counts().products;
                let after = evaluate(&mut objective, &mut found, &shares, &sample).unwrap();
                assert_eq!(objective.counts().products - products, 3);
                assert_eq!(found[..d * q], parameters[..d * q]);
                let [excess_before, excess] = [before, after].map(|at| excess(&at.gradient[d * q..], &shares));
                let what = format!("{n}, {q}, {separation}: {excess_before:e} {excess:e} {}", objective.counts().along);
                println!("{what}");
                assert!(excess <= 2e-12 && excess_before > 0.1, "{what}");
                assert!(objective.counts().along < 400, "{what}");
            }
        }
    }

    /// A loss that keeps no logits between calls, as that of a file.
    struct Plain<'a>(Box<dyn Loss + 'a>);

    impl Loss for Plain<'_> {
        fn is_double(&self) -> bool {
            true
        }
        fn start(&mut self, parameters: &[f64]) -> Result<Evaluation> {
            self.0.start(parameters)
        }
        fn look(&mut self, direction: &[f64], t: &[f64]) -> Result<Evaluation> {
            self.0.look(direction, t)
        }
        fn aim(&mut self, direction: &[f64]) -> Result<()> {
            self.0.aim(direction)
        }
        fn gradient(&mut self, t: &[f64]) -> Result<Evaluation> {
            self.0.gradient(t)
        }
        fn along(&mut self, t: &[f64]) -> Result<Vec<Point>> {
            self.0.along(t)
        }
        fn advance(&mut self, t: &[f64]) -> Result<()> {
            self.0.advance(t)
        }
        fn hessian_vector(&mut self, vector: &[f64]) -> Result<Vec<f64>> {
            self.0.hessian_vector(vector)
        }
    }

    /// Where the intercept is not at its best, the gap is larger, and a bound.
    #[test]
    fn the_gap_counts_what_is_left_of_the_intercept() {
        let (n, d, q, mut random) = (300, 3, 3, Shuffle::new(7, 2));
        let mut number = || random.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0;
        let classes: Vec<u32> = (0..n as u32).map(|i| [0, 0, 0, 1, 2][i as usize % 5]).collect();
        let x: Vec<f32> = classes
            .iter()
            .flat_map(|&class| (0..d).map(|k| number() + if k == class { 1.2 } else { 0.0 }).collect::<Vec<_>>())
            .collect();
        let (d, l2, l1) = (d as usize, [1e-3, 1e-3, 0.0], [0.0, 1e-3, 1e-3]);
        let shape = Shape { n_features: d, n_classes: q, n_heads: 1 };
        let features = Features::new(x, n, d).unwrap();
        let labels = Labels::from_indices(classes.clone(), ["a", "b", "c"].map(str::to_owned).to_vec()).unwrap();
        let targets = Targets::Classes(classes.into());
        let shares = [0.6, 0.2, 0.2];
        let mean = moments(&features, 1.0, None).unwrap().mean;
        for (l2, l1) in l2.into_iter().zip(l1) {
            let fit = SoftmaxRegression::new()
                .solver(Lbfgs { tolerance: 1e-12, ..Lbfgs::default() })
                .feature_scale(FeatureScale::Factor(1.0))
                .l2(l2)
                .l1(l1)
                .fit(&Dataset::new(features.clone(), labels.clone()).unwrap())
                .unwrap();
            let least = fit.objective;
            let cpu = Cpu::new();
            let sample = || ClassSample::new(&features, 1.0, None, shape);
            let mut session = cpu.session(&features, 1.0, Some((&targets).into())).unwrap();
            let loss = Box::new(Plain(session.loss(shape).unwrap()));
            let mut objective = Objective::new(loss, shape, Penalty::uniform(l2, l1, d), Some(mean.clone()));
            let weights = fit.model.weights();
            let values = weights.iter().chain(fit.model.bias()).map(|&value| f64::from(value));
            let minimum = objective.centred(&values.collect::<Vec<_>>());
            let mut worst: f64 = 0.0;
            for round in 0..12 {
                // Farther and farther off.
                let off = 1e-5 * 4f64.powi(round);
                let changed =
                    |(i, value): (usize, &f64)| value + off * if i < d * q { 0.1 } else { 1.0 } * f64::from(number());
                let mut parameters: Vec<f64> = minimum.iter().enumerate().map(changed).collect();
                let certificate =
                    certify(&mut objective, &mut parameters, &vec![0.0; minimum.len()], None, &shares, &sample)
                        .unwrap();
                let left = excess(&objective.start(&parameters).unwrap().gradient[d * q..], &shares);
                let (missing, gap) = (certificate.objective - least, certificate.gap.unwrap());
                println!("{l2} {l1} {off:e}: {missing:e} of {gap:e}, excess {left:e}");
                assert!(
                    left > 1e-9 && missing <= gap + 1e-9 * least && gap < 1e3 * left + 1e3 * missing.abs(),
                    "{off}: {missing:e} {gap:e}"
                );
                worst = worst.max(missing / gap);
            }
            assert!(worst > 1e-3, "{worst}");
        }
    }
}
