//! Batch solvers: limited-memory BFGS and Newton's method with conjugate gradients, on the objective of all samples.
//!
//! Both go along a direction that [`Preconditioner`] makes indifferent to the scale of columns, to the length where the slope is
//! about zero: on cached logits that costs no product with the features. They end when a bound on what is left to gain is
//! confirmed by a solution of Newton's equations.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::certificate::{Certificate, certify};
use super::preconditioner::{Curvature, Preconditioner};
use super::vector::{add, centre_over_classes, dot, is_positive, max_abs};
use super::{Observer, Progress, StopReason, proximal};
use crate::backend::cpu::{Cpu, Moments};
use crate::backend::{Backend, Parameters, Session, Shape, Supervision};
use crate::data::Features;
use crate::error::{Error, Result};
use crate::objective::{Counts, Objective, Penalty, Smooth};

/// Limited-memory BFGS (Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization"), preconditioned
/// by the curvature that samples and classes have on average, so that it needs no scaled features. An iteration takes one
/// evaluation, a pass over the samples for a product X·D and one Xᵀ·R.
///
/// More settings may be added: end with `..Lbfgs::default()`.
///
/// ```
/// use softreg::{Lbfgs, SoftmaxRegression};
/// let estimator = SoftmaxRegression::new().solver(Lbfgs { tolerance: 1e-10, ..Lbfgs::default() });
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Lbfgs {
    /// Iterations at most.
    pub max_iterations: usize,
    /// It ends when the objective is estimated to be within this share of its minimum.
    pub tolerance: f64,
    /// How many of the last steps are remembered.
    pub memory: usize,
}

impl Default for Lbfgs {
    fn default() -> Self {
        Self { max_iterations: 1000, tolerance: 1e-8, memory: 10 }
    }
}

/// Newton's method: directions from Newton's equations, which preconditioned conjugate gradients solve as far as it is worth
/// (Dembo and Steihaug 1983, "Truncated-Newton algorithms for large-scale unconstrained optimization"). An iteration takes an
/// evaluation, and one for each product with the Hessian.
///
/// More settings may be added: end with `..NewtonCg::default()`.
#[derive(Debug, Clone, PartialEq)]
pub struct NewtonCg {
    /// Iterations at most, not counting those of the conjugate gradients.
    pub max_iterations: usize,
    /// It ends when the objective is estimated to be within this share of its minimum.
    pub tolerance: f64,
}

impl Default for NewtonCg {
    fn default() -> Self {
        Self { max_iterations: 200, tolerance: 1e-8 }
    }
}

/// That a batch solver's settings make sense.
fn check(Limits { memory, max_iterations, tolerance }: Limits) -> Result<()> {
    let setting = |name, value: String, expected| Err(Error::Setting { name, value, expected });
    if max_iterations == 0 {
        return setting("the number of iterations", "0".to_owned(), "at least 1");
    }
    if !(tolerance > 0.0 && tolerance < 1.0) {
        return setting("the tolerance", tolerance.to_string(), "above 0 and below 1");
    }
    if memory == 0 {
        return setting("the memory of L-BFGS", "0".to_owned(), "at least 1");
    }
    Ok(())
}

/// A length is accepted at once when the slope is no more than this share of that at 0; another is looked for until it is no
/// more than the second. Small shares: a good length saves more iterations than it costs.
const ACCEPTED: f64 = 0.2;
const AIMED: f64 = 0.1;
/// Lengths tried at most.
const MOST_LENGTHS: usize = 40;
/// How much the residual of Newton's equations falls, in the norm of the preconditioner, and how many products that may take:
/// of a step, and of the confirmation at the end.
const OF_STEP: (f64, usize) = (0.3, 20);
const OF_CONFIRMATION: (f64, usize) = (0.1, 12);
/// Pairs of a direction and its curvature that precondition the equations of the next step.
const MOST_PAIRS: usize = 10;
/// The probabilities of the preconditioner are taken anew in each of the first iterations, then every few.
const REFRESHED: usize = 5;
/// So many iterations in a row that gain less than this share of the tolerance are the end.
const FRUITLESS: usize = 3;
const FRUITLESS_SHARE: f64 = 0.02;
/// By the mean curvature of all samples no more than so many times the tolerance may be left.
const OUTSIDE: f64 = 100.0;
/// An objective below this share of what it was at first, times the tolerance, is zero.
const ZERO: f64 = 1e-3;

/// How directions are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Method {
    Lbfgs,
    NewtonCg,
}

/// Is told of each iteration, after which the parameters, in centred coordinates, are those; may say why to stop.
pub(super) type Observe<'a> = dyn FnMut(Progress, &Objective, &[f64]) -> Result<Option<StopReason>> + 'a;

/// Where a batch solver ended.
pub(super) struct Minimum {
    /// In centred coordinates.
    pub parameters: Vec<f64>,
    pub reason: StopReason,
    /// When the first iteration began.
    pub begin: Instant,
    /// The largest of the gradient there, without an l1 penalty.
    pub first_gradient_norm: f64,
}

/// A step and the change of the gradient with it: what curvature there is in that direction.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    /// 1/⟨step, change⟩
    inverse: f64,
}

/// The last pairs, which correct the preconditioner.
struct Pairs {
    most: usize,
    pairs: Vec<Pair>,
}

impl Pairs {
    fn new(most: usize) -> Self {
        Self { most, pairs: Vec::new() }
    }

    /// Takes a pair, unless rounding has left nothing of its curvature.
    fn push(&mut self, step: Vec<f64>, change: Vec<f64>) {
        let product = dot(&step, &change);
        if is_positive(product, &step, &change) {
            if self.pairs.len() == self.most {
                self.pairs.remove(0);
            }
            self.pairs.push(Pair { step, change, inverse: 1.0 / product });
        }
    }

    /// The product of the approximate inverse Hessian with `gradient` (the two-loop recursion; Nocedal 1980, "Updating
    /// quasi-Newton matrices with limited storage").
    fn apply(&self, gradient: &[f64], preconditioner: &Preconditioner) -> Vec<f64> {
        let mut residual = gradient.to_vec();
        let mut factors = Vec::with_capacity(self.pairs.len());
        for Pair { step, change, inverse } in self.pairs.iter().rev() {
            let factor = inverse * dot(step, &residual);
            add(&mut residual, -factor, change);
            factors.push(factor);
        }
        let mut result = preconditioner.apply(&residual);
        for (Pair { step, change, inverse }, factor) in self.pairs.iter().zip(factors.iter().rev()) {
            let correction = factor - inverse * dot(change, &result);
            add(&mut result, correction, step);
        }
        result
    }
}

/// Directions with their products with the Hessian.
type Products = Vec<(Vec<f64>, Vec<f64>)>;

/// A solution of Newton's equations H·x = −g, and the directions on the way with their products with H.
fn newton_direction(
    objective: &mut Objective,
    gradient: &[f64],
    pairs: &Pairs,
    preconditioner: &Preconditioner,
    (share, most): (f64, usize),
) -> Result<(Vec<f64>, Products)> {
    let mut solution = vec![0.0; gradient.len()];
    let mut residual: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut preconditioned = pairs.apply(&residual, preconditioner);
    let mut direction = preconditioned.clone();
    let first = dot(&residual, &preconditioned);
    let mut product = first;
    let mut found = Vec::new();
    for _ in 0..most {
        let curved = objective.hessian_vector(&direction)?;
        let curvature = dot(&direction, &curved);
        // Rounding may leave a direction without curvature.
        if !(curvature > 0.0 && curvature.is_finite() && product > 0.0) {
            break;
        }
        let length = product / curvature;
        add(&mut solution, length, &direction);
        add(&mut residual, -length, &curved);
        found.push((direction.clone(), curved));
        preconditioned = pairs.apply(&residual, preconditioner);
        let next = dot(&residual, &preconditioned);
        if next <= share * share * first {
            break;
        }
        direction.iter_mut().zip(&preconditioned).for_each(|(d, z)| *d = z + next / product * *d);
        product = next;
    }
    Ok((solution, found))
}

/// A point on the line: its length, value and slope.
#[derive(Debug, Clone, Copy)]
struct OnLine {
    t: f64,
    value: f64,
    slope: f64,
}

/// Looks along `direction` for the length where the slope is about zero: at `guess` first, which costs one evaluation, and, when
/// that is not near enough, at others without a product, and one product for the gradient there. Nothing when there is no
/// length at which the objective is smaller than at 0.
fn search(
    objective: &mut Objective,
    parameters: &[f64],
    direction: &[f64],
    at_zero: OnLine,
    guess: f64,
) -> Result<Option<(OnLine, Vec<f64>)>> {
    let first = objective.look(parameters, direction, guess)?;
    let mut point = OnLine { t: guess, value: first.value, slope: first.slope };
    let near = |point: &OnLine, share: f64| {
        point.slope.abs() <= share * at_zero.slope.abs() && point.value <= at_zero.value + 1e-12 * at_zero.value.abs()
    };
    if near(&point, ACCEPTED) {
        return Ok(Some((point, first.gradient)));
    }
    let (mut low, mut high): (OnLine, Option<OnLine>) = (at_zero, None);
    for _ in 0..MOST_LENGTHS {
        // A value that is not finite is too far.
        if point.slope < 0.0 && point.value.is_finite() {
            low = point;
        } else {
            high = Some(point);
        }
        let t = match high {
            // By the line through both slopes, which is right for a parabola; not too near an end.
            Some(high) => {
                let t = (low.t * high.slope - high.t * low.slope) / (high.slope - low.slope);
                let (from, to) = (0.9 * low.t + 0.1 * high.t, 0.1 * low.t + 0.9 * high.t);
                if t.is_finite() { t.clamp(from.min(to), to.max(from)) } else { 0.5 * (low.t + high.t) }
            }
            None => {
                let t = low.t * at_zero.slope / (at_zero.slope - low.slope);
                if t.is_finite() && t > 0.0 { t.clamp(1.1 * low.t, 8.0 * low.t) } else { 8.0 * low.t }
            }
        };
        if !(t > 0.0 && t.is_finite()) || (t - point.t).abs() <= 1e-14 * t {
            break;
        }
        let Some(&(value, slope)) = objective.along(&[t])?.first() else { break };
        point = OnLine { t, value, slope };
        if near(&point, AIMED) {
            break;
        }
    }
    // NaN is not lower.
    let is_lower = |point: &OnLine| point.t > 0.0 && point.value < at_zero.value;
    if !is_lower(&point) {
        point = low;
    }
    if !is_lower(&point) {
        return Ok(None);
    }
    let Smooth { value, slope, gradient } = objective.gradient(parameters, direction, point.t)?;
    Ok(Some((OnLine { t: point.t, value, slope }, gradient)))
}

/// When a batch solver ends at the latest, and what it remembers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub memory: usize,
    pub max_iterations: usize,
    pub tolerance: f64,
}

/// Minimises the smooth objective from `parameters`, in centred coordinates, while `observe` looks on.
pub(super) fn minimise(
    method: Method,
    Limits { memory, max_iterations, tolerance }: Limits,
    objective: &mut Objective,
    preconditioner: &mut Preconditioner,
    mut parameters: Vec<f64>,
    n_samples: usize,
    observe: &mut Observe,
) -> Result<Minimum> {
    let begin = Instant::now();
    let n_classes = objective.shape().n_classes;
    // What classes have in common changes no probability, and no direction has it.
    centre_over_classes(&mut parameters, n_classes);
    let Smooth { mut value, mut gradient, .. } = objective.start(&parameters)?;
    if !value.is_finite() {
        return Err(Error::NoObjective { value });
    }
    let (first_value, first_gradient_norm) = (value, max_abs(&gradient));
    let mut pairs = Pairs::new(memory);
    let mut n_iterations = 0;
    let mut guess: f64 = 1.0;
    let mut not_confirmed = f64::INFINITY;
    let mut n_fruitless = 0;
    let reason = loop {
        if n_iterations == max_iterations {
            break StopReason::Iterations;
        }
        if value <= ZERO * tolerance * first_value {
            break StopReason::Separable;
        }
        // ⟨g, H⁻¹·g⟩ is about twice what is left to gain.
        let mut direction = pairs.apply(&gradient, preconditioner);
        let mut decrement = dot(&gradient, &direction);
        if decrement.is_nan() || decrement <= 0.0 {
            pairs = Pairs::new(pairs.most);
            direction = preconditioner.apply(&gradient);
            decrement = dot(&gradient, &direction);
        }
        if decrement.is_nan() || decrement <= 1e-30 {
            break if decrement.is_finite() { StopReason::Converged } else { StopReason::Precision };
        }
        // The pairs may have the curvature of a single sample far outside, which holds for the shortest of steps alone; the mean
        // curvature has not.
        let is_near = |decrement: f64| decrement <= (tolerance * value).min(0.3 * not_confirmed);
        let mut confirm =
            is_near(decrement) && dot(&gradient, &preconditioner.apply(&gradient)) <= OUTSIDE * tolerance * value;
        if confirm || method == Method::NewtonCg {
            let effort = if confirm { OF_CONFIRMATION } else { OF_STEP };
            let (solution, found) = newton_direction(objective, &gradient, &pairs, preconditioner, effort)?;
            // The pairs of L-BFGS are those of its steps.
            if method == Method::NewtonCg {
                let n_old = found.len().saturating_sub(pairs.most);
                found.into_iter().skip(n_old).for_each(|(direction, curved)| pairs.push(direction, curved));
            }
            let product = -dot(&gradient, &solution);
            if product > 0.0 {
                direction = solution.iter().map(|x| -x).collect();
                if confirm && product > 2.0 * tolerance * value {
                    (confirm, not_confirmed) = (false, decrement);
                }
                decrement = product;
                guess = 1.0;
            }
        }
        direction.iter_mut().for_each(|x| *x = -*x);
        centre_over_classes(&mut direction, n_classes);
        let at_zero = OnLine { t: 0.0, value, slope: -decrement };
        let Some((point, new_gradient)) = search(objective, &parameters, &direction, at_zero, guess)? else {
            break if confirm { StopReason::Converged } else { StopReason::Precision };
        };
        objective.advance(point.t)?;
        add(&mut parameters, point.t, &direction);
        // The length at which a parabola with these slopes is lowest.
        let best = point.t * at_zero.slope / (at_zero.slope - point.slope);
        if best.is_finite() && best > 0.0 {
            guess = (guess * best.max(0.01)).sqrt();
        }
        let gain = value - point.value;
        if method == Method::Lbfgs {
            let step = direction.iter().map(|x| point.t * x).collect();
            let change = new_gradient.iter().zip(&gradient).map(|(new, old)| new - old).collect();
            pairs.push(step, change);
        }
        (value, gradient) = (point.value, new_gradient);
        n_iterations += 1;
        let progress = Progress {
            epoch: n_iterations,
            n_epochs: max_iterations,
            loss: value,
            evaluations: objective.counts().evaluations(),
            validation_loss: None,
            n_samples,
            elapsed: begin.elapsed(),
        };
        let stop = observe(progress, objective, &parameters)?;
        if confirm {
            // Where the objective is no parabola, a small decrement need not mean that little is left: the step must have gone as
            // Newton's equations have it, and left next to nothing.
            let left = dot(&gradient, &pairs.apply(&gradient, preconditioner));
            let is_measurable = decrement > 1e-11 * value.abs();
            let is_as_promised = (0.4..2.5).contains(&point.t) && (0.25..4.0).contains(&(2.0 * gain / decrement));
            if left <= tolerance * value && (is_as_promised || !is_measurable) {
                break StopReason::Converged;
            }
            not_confirmed = decrement;
        }
        if let Some(reason) = stop {
            break reason;
        }
        n_fruitless = if gain <= FRUITLESS_SHARE * tolerance * value { n_fruitless + 1 } else { 0 };
        if n_fruitless == FRUITLESS {
            break StopReason::Precision;
        }
        if n_iterations <= REFRESHED || n_iterations.is_multiple_of(REFRESHED) {
            preconditioner.refresh(&objective.uncentred(&parameters))?;
        }
    };
    Ok(Minimum { parameters, reason, begin, first_gradient_norm })
}

/// Multiplications and additions of an evaluation in double precision on the CPU beyond which the device's own precision must do
/// for the certificate: a few seconds for all of it.
const CERTIFIED: f64 = 5e10;

/// What a batch solver minimises over.
pub(crate) struct Task<'a> {
    pub features: &'a Features<'a>,
    pub scale: f32,
    pub supervision: Supervision<'a>,
    /// Of X̃.
    pub moments: &'a Moments,
    pub shape: Shape,
    pub penalty: &'a Penalty,
    pub has_intercept: bool,
    /// Where to begin, not centred; by default weights 0 and intercepts that give each class its frequency.
    pub start: Option<Vec<f64>>,
}

/// A batch solver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    method: Method,
    limits: Limits,
}

/// What a batch solver found.
pub(crate) struct Found {
    /// Of X̃, not centred.
    pub parameters: Parameters,
    pub reason: StopReason,
    pub counts: Counts,
    pub certificate: Certificate,
    /// When the first iteration began, and how long the iterations took.
    pub begin: Instant,
    pub training: Duration,
}

impl From<&Lbfgs> for Batch {
    fn from(&Lbfgs { max_iterations, tolerance, memory }: &Lbfgs) -> Self {
        Self { method: Method::Lbfgs, limits: Limits { memory, max_iterations, tolerance } }
    }
}

impl From<&NewtonCg> for Batch {
    fn from(&NewtonCg { max_iterations, tolerance }: &NewtonCg) -> Self {
        Self { method: Method::NewtonCg, limits: Limits { memory: MOST_PAIRS, max_iterations, tolerance } }
    }
}

impl Batch {
    /// What finishes the last digits.
    pub fn polishing() -> Self {
        (&Lbfgs { tolerance: 1e-11, ..Lbfgs::default() }).into()
    }

    pub fn check(&self) -> Result<()> {
        check(self.limits)
    }

    pub fn max_iterations(&self) -> usize {
        self.limits.max_iterations
    }

    /// The settings for the record of a model.
    pub fn to_json(self) -> Value {
        let Limits { memory, max_iterations, tolerance } = self.limits;
        let mut record = json!({ "max_iterations": max_iterations, "tolerance": tolerance });
        if self.method == Method::Lbfgs {
            record["memory"] = memory.into();
        }
        record
    }

    /// Minimises on `session`, which has the features and targets of the task, and certifies the result.
    pub fn minimise(&self, session: &mut dyn Session, task: &Task, observer: &mut Observer) -> Result<Found> {
        let Task { features, scale, supervision, moments, shape, penalty, has_intercept, ref start } = *task;
        let weights = supervision.weights;
        // Without an intercept nothing takes the means out of the features: they curve by what they are, not by how they vary.
        let about_zero = (!has_intercept).then(|| moments.about_zero());
        let moments = about_zero.as_ref().unwrap_or(moments);
        let shares = class_shares(supervision, shape.n_classes);
        let mean = has_intercept.then(|| moments.mean.clone());
        let n_samples = features.n_samples();
        let mut objective = Objective::new(session.loss(shape)?, shape, penalty.clone(), mean.clone());
        let zero = intercepts(&shares, shape, has_intercept);
        let parameters = start.as_ref().map_or_else(|| zero.clone(), |start| objective.centred(start));
        let curvature = Curvature { features, scale, weights, moments, penalty: &penalty.l2, has_intercept };
        let mut observe = |progress, objective: &Objective, parameters: &[f64]| {
            let reason = observer.after(progress, &mut || Ok(objective.single(parameters)))?;
            // Its last epoch is the last iteration.
            Ok(reason.filter(|reason| *reason != StopReason::Epochs))
        };
        let minimum = if penalty.has_l1() {
            proximal::minimise(self.limits, &mut objective, &curvature, parameters, &mut observe)?
        } else {
            let mut preconditioner = Preconditioner::new(curvature, &objective.uncentred(&parameters), shape)?;
            let preconditioner = &mut preconditioner;
            minimise(self.method, self.limits, &mut objective, preconditioner, parameters, n_samples, &mut observe)?
        };
        let Minimum { mut parameters, reason, begin, first_gradient_norm } = minimum;
        let (training, counts) = (begin.elapsed(), objective.counts());
        let evaluation = 4.0 * n_samples as f64 * shape.n_parameters() as f64;
        let (parameters, certificate) = if objective.is_double() || evaluation > CERTIFIED {
            let first = start.is_none().then_some(first_gradient_norm);
            let certificate = certify(&mut objective, &mut parameters, &zero, first, &shares)?;
            (objective.single(&parameters), certificate)
        } else {
            let cpu = Cpu::new();
            let mut session = cpu.session(features, scale, Some(supervision))?;
            let mut objective = Objective::new(session.loss(shape)?, shape, penalty.clone(), mean);
            let certificate = certify(&mut objective, &mut parameters, &zero, None, &shares)?;
            (objective.single(&parameters), certificate)
        };
        if let Some(&value) = parameters.values.iter().find(|value| !value.is_finite()) {
            return Err(Error::NoObjective { value: value.into() });
        }
        Ok(Found { parameters, reason, counts, certificate, begin, training })
    }
}

/// Σ_i s_i·y_ij of each class j, s the weights over their sum.
fn class_shares(supervision: Supervision, n_classes: usize) -> Vec<f64> {
    let totals = supervision.targets.class_totals(supervision.weights, n_classes);
    let sum: f64 = totals.iter().sum();
    totals.into_iter().map(|total| total / sum.max(f64::MIN_POSITIVE)).collect()
}

/// Parameters with weights 0 and the logarithms of the classes' frequencies as intercepts, centred; a class without samples has
/// half a sample in a thousand times as many as there are classes.
fn intercepts(shares: &[f64], shape: Shape, has_intercept: bool) -> Vec<f64> {
    let mut parameters = vec![0.0; shape.n_parameters()];
    if has_intercept {
        let q = shape.n_classes;
        let least = 0.5e-3 / q as f64;
        let bias = &mut parameters[shape.n_features * q..];
        bias.iter_mut().zip(shares).for_each(|(b, &share)| *b = share.max(least).ln());
        centre_over_classes(bias, q);
    }
    parameters
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    #[cfg(feature = "gpu")]
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::backend::cpu::moments;
    use crate::batch::Shuffle;
    use crate::data::Targets;
    use crate::solver::stop::Limits as StopLimits;

    /// Samples of three classes that overlap, in columns of very different scale.
    fn data() -> (Features<'static>, Targets<'static>) {
        let mut random = Shuffle::new(5, 0);
        let mut value = || random.below(1 << 20) as f32 / (1 << 20) as f32 - 0.5;
        let scales = [1e-3, 1.0, 50.0, 1e3, 2.0, 0.1, 7.0, 300.0];
        let mut x = Vec::new();
        for i in 0..600 {
            x.extend(
                scales.iter().enumerate().map(|(k, scale)| scale * (value() + 0.5 * f32::from(i % 3 == k % 3) + 3.0)),
            );
        }
        (Features::new(x, 600, 8).unwrap(), Targets::Classes((0..600).map(|i| i % 3).collect()))
    }

    /// Trains with L-BFGS and shows `on_iteration` each iteration.
    fn train(backend: &dyn Backend, mut on_iteration: impl FnMut(&Progress)) -> Found {
        let (features, targets) = data();
        let shape = Shape { n_features: 8, n_classes: 3, n_heads: 1 };
        let moments = moments(&features, 1.0, None).unwrap();
        let penalty = Penalty::uniform(1e-4, 0.0, 8);
        let task = Task {
            features: &features,
            scale: 1.0,
            supervision: (&targets).into(),
            moments: &moments,
            shape,
            penalty: &penalty,
            has_intercept: true,
            start: None,
        };
        let mut session = backend.session(&features, 1.0, Some((&targets).into())).unwrap();
        let mut on_epoch = |progress: &Progress| {
            on_iteration(progress);
            ControlFlow::Continue(())
        };
        let mut observer = Observer::new(StopLimits::default(), Instant::now(), None, &mut on_epoch);
        Batch::from(&Lbfgs { tolerance: 1e-10, ..Lbfgs::default() })
            .minimise(&mut *session, &task, &mut observer)
            .unwrap()
    }

    #[test]
    fn the_gap_is_what_is_left_and_no_iteration_goes_up() {
        let mut values = Vec::new();
        let found = train(&Cpu::new(), |progress| values.push(progress.loss));
        assert_eq!(found.reason, StopReason::Converged);
        assert!(values.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-12)), "{values:?}");
        let Certificate { objective, gap, .. } = found.certificate;
        assert!((objective / values[values.len() - 1] - 1.0).abs() < 1e-9 && gap.unwrap() < 1e-4 * objective);
    }

    /// An iteration whose first length is accepted is one evaluation: two large products, and one readback on a GPU.
    #[cfg(feature = "gpu")]
    #[test]
    fn an_iteration_is_two_products_and_one_readback() {
        for gpu in crate::backend::gpu::Gpu::open_all(Default::default()) {
            let gpu = gpu.unwrap();
            let counts = || [gpu.counts.products.load(Relaxed), gpu.counts.readbacks.load(Relaxed)];
            let (mut before, mut evaluations) = (counts(), 1.0);
            let (mut n_plain, mut n_others) = (0, 0);
            let found = train(&gpu, |progress| {
                let now = counts();
                let of_iteration = [now[0] - before[0], now[1] - before[1]];
                // The first iteration has the evaluation at the start before it.
                match progress.evaluations - evaluations {
                    _ if progress.epoch == 1 => {}
                    1.0 => {
                        assert_eq!(of_iteration, [2, 1], "iteration {}", progress.epoch);
                        n_plain += 1;
                    }
                    more => {
                        assert!(of_iteration[0] as f64 == 2.0 * more && of_iteration[1] > 1);
                        n_others += 1;
                    }
                }
                (before, evaluations) = (now, progress.evaluations);
            });
            assert!(n_plain >= 5 && n_others >= 1, "{n_plain} of {}", n_plain + n_others);
            // As near to the minimum as single precision comes.
            let exact = train(&Cpu::new(), |_| {}).certificate.objective;
            let ratio = found.certificate.objective / exact - 1.0;
            assert!(ratio.abs() < 1e-6 && found.certificate.is_double, "{ratio:e}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_errors() {
        let default = Lbfgs::default;
        for lbfgs in [
            Lbfgs { max_iterations: 0, ..default() },
            Lbfgs { tolerance: 0.0, ..default() },
            Lbfgs { tolerance: f64::NAN, ..default() },
            Lbfgs { memory: 0, ..default() },
        ] {
            assert!(matches!(Batch::from(&lbfgs).check(), Err(Error::Setting { .. })), "{lbfgs:?}");
        }
    }
}
