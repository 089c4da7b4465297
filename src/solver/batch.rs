//! Batch solvers: the objective of all samples, prepared, minimised and certified. How it is minimised is in `quasi_newton` and,
//! with an l1 penalty, `proximal`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::certificate::{Certificate, certify};
use super::factor_curvature::FactorCurvature;
use super::minimum::{Learned, Limits, Minimum};
use super::past::Past;
use super::preconditioner::{ClassSample, Curvature, Preconditioner, some_rows};
use super::quasi_newton::{MOST_PAIRS, Method, ends_in_drafts, minimise};
use super::vector::centre_over_classes;
use super::{Observer, Progress, SolverState, StopReason, factored, proximal};
use crate::backend::cpu::Moments;
use crate::backend::{Device, Session, Shape, Supervision, Weights};
use crate::data::{Features, Targets};
use crate::error::{Error, Result};
use crate::objective::{Counts, Objective, Penalty};
use crate::structure::{Factors, Parametrisation};

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

/// Multiplications and additions of an evaluation in double precision on the CPU beyond which the device's own precision must do
/// for the certificate: a few seconds for all of it.
const CERTIFIED: f64 = 5e10;

/// Rows that predict how long a step will be, on the CPU, where there are so many times as many.
const SAMPLED: usize = 1024;
const SAMPLED_OF: usize = 8;

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
    /// Where to begin, not centred, W and b or the factors of structured weights; by default weights 0 and intercepts that give each
    /// class its frequency.
    pub start: Option<Vec<f64>>,
    /// Of structured weights, and the seed of their beginning.
    pub factors: Option<(Parametrisation, u64)>,
}

/// A batch solver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    method: Method,
    limits: Limits,
}

/// Where a batch solver stands: what it needs to go on to the same bits when it takes the loss and the curvature of the classes
/// anew.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stand {
    /// W and b, or the factors, in centred coordinates.
    pub parameters: Vec<f64>,
    pub learned: Learned,
    pub counts: Counts,
}

/// What a batch solver found.
pub(crate) struct Found {
    /// Of X̃, not centred.
    pub weights: Weights,
    pub reason: StopReason,
    pub counts: Counts,
    /// Nothing of a search.
    pub certificate: Option<Certificate>,
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
        self.limits.check()
    }

    pub fn max_iterations(&self) -> usize {
        self.limits.max_iterations
    }

    /// Whether it ends in double precision on the CPU.
    pub fn is_exact(&self) -> bool {
        !ends_in_drafts(self.limits.tolerance)
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

    /// Minimises on `session`, which has the features and targets of the task, and certifies the result. Begins where `past` has
    /// the solution expected, rather than at the task's start, and leaves the solution there.
    pub fn minimise(
        &self,
        session: &mut dyn Session,
        task: &Task,
        past: &mut Past,
        observer: &mut Observer,
    ) -> Result<Found> {
        let Task { features, scale, supervision, moments, shape, penalty, has_intercept, ref start, factors } = *task;
        let weights = supervision.weights;
        // Without an intercept nothing takes the means out of the features: they curve by what they are, not by how they vary.
        let about_zero = (!has_intercept).then(|| moments.about_zero());
        let moments = about_zero.as_ref().unwrap_or(moments);
        let shares = class_shares(supervision, shape.n_classes);
        let mean = has_intercept.then(|| moments.mean.clone());
        let n_samples = features.n_samples();
        let mut objective = Objective::new(session.loss(shape)?, shape, penalty.clone(), mean.clone());
        let zero = intercepts(&shares, shape, has_intercept);
        let curvature = Curvature { features, scale, weights, moments, penalty: &penalty.l2, has_intercept };
        if let Some((parametrisation, seed)) = factors {
            let bias = &zero[shape.n_features * shape.n_classes..];
            let start = start.as_ref().map(|start| centred_factors(&objective, parametrisation, start));
            let of_factors = FactorCurvature::new(curvature, parametrisation, shape, &mut past.gram)?;
            let start = past.last().or(start).unwrap_or_else(|| parametrisation.start(seed, bias));
            let mut method = Prepared::Factored(parametrisation, Box::new(of_factors));
            let (begin, before) = (Instant::now(), observer.elapsed());
            let minimum = self.minimise_in_legs(&mut method, &mut objective, start, n_samples, past, observer)?;
            past.keep(&minimum.parameters, None);
            return Ok(Found {
                weights: check_finite(weights_of(&objective, Some(parametrisation), &minimum.parameters))?,
                reason: minimum.reason,
                counts: objective.counts(),
                certificate: None,
                begin,
                training: before + begin.elapsed(),
            });
        }
        let n_sparse = if penalty.has_l1() { shape.n_features * shape.n_classes } else { 0 };
        let start = past.start(n_sparse).or_else(|| start.as_ref().map(|start| objective.centred(start)));
        let is_cold = start.is_none() && observer.solver_state().is_none();
        let parameters = start.unwrap_or_else(|| zero.clone());
        let cpu = Device::cpu();
        let is_sampled = !penalty.has_l1() && objective.is_double() && n_samples >= SAMPLED_OF * SAMPLED;
        let rows = is_sampled.then(|| some_rows(features, weights, SAMPLED)).transpose()?;
        let rows = rows.map(|(rows, of_rows)| {
            let targets = Targets::Classes(vec![0; rows.n_samples()].into());
            let of_rows: Vec<f32> = of_rows.into_iter().map(|weight| weight as f32).collect();
            (rows, targets, of_rows)
        });
        let mut session = match &rows {
            Some((rows, targets, of_rows)) => {
                let supervision = Supervision { targets, weights: weights.and(Some(of_rows)) };
                Some(cpu.session(rows, scale, Some(supervision))?)
            }
            None => None,
        };
        let sample = match &mut session {
            Some(session) => Some(Objective::new(session.loss(shape)?, shape, penalty.clone(), mean.clone())),
            None => None,
        };
        let mut is_lent = false;
        let mut method = match penalty.has_l1() {
            true => Prepared::Proximal(proximal::Prepared::new(curvature, shape, past)?),
            false => {
                let uncentred = objective.uncentred(&parameters);
                let sharp = past.sharp();
                let mut preconditioner = Preconditioner::new(curvature, &uncentred, shape, &mut past.gram, sharp)?;
                if !past.lent().is_some_and(|blocks| preconditioner.borrow(blocks)) {
                    match sharp {
                        Some(_) => preconditioner.sharpen(&mut objective, &parameters)?,
                        None => preconditioner.prepare(),
                    }
                }
                is_lent = preconditioner.is_lent();
                Prepared::QuasiNewton(self.method, Box::new(preconditioner), sample.map(Box::new))
            }
        };
        let (begin, before) = (Instant::now(), observer.elapsed());
        let minimum = self.minimise_in_legs(&mut method, &mut objective, parameters, n_samples, past, observer)?;
        let Minimum { mut parameters, reason, first_gradient, .. } = minimum;
        let (training, counts) = (before + begin.elapsed(), objective.counts());
        let mut sharp = None;
        if let Prepared::QuasiNewton(_, preconditioner, _) = &method {
            sharp = preconditioner.sharp();
            if is_lent && preconditioner.price().is_none_or(|price| counts.evaluations() > price) {
                past.lend_no_more();
            }
        }
        past.keep(&parameters, sharp);
        if past.is_search() {
            let (weights, counts, certificate) = (objective.single(&parameters).into(), objective.counts(), None);
            return Ok(Found { weights, reason, counts, certificate, begin, training });
        }
        let rows = || ClassSample::new(features, scale, weights, shape);
        let evaluation = 4.0 * n_samples as f64 * shape.n_parameters() as f64;
        let (parameters, certificate) = if objective.is_double() || evaluation > CERTIFIED {
            let first = first_gradient.filter(|_| is_cold);
            let certificate = certify(&mut objective, &mut parameters, &zero, first, &shares, &rows)?;
            (objective.single(&parameters), certificate)
        } else {
            let mut session = cpu.session(features, scale, Some(supervision))?;
            let mut objective = Objective::new(session.loss(shape)?, shape, penalty.clone(), mean);
            let certificate = certify(&mut objective, &mut parameters, &zero, None, &shares, &rows)?;
            (objective.single(&parameters), certificate)
        };
        let weights = check_finite(parameters.into())?;
        Ok(Found { weights, reason, counts, certificate: Some(certificate), begin, training })
    }
}

/// That all of them are finite numbers.
fn check_finite(weights: Weights) -> Result<Weights> {
    match weights.values().iter().find(|value| !value.is_finite()) {
        Some(&value) => Err(Error::NoObjective { value: value.into() }),
        None => Ok(weights),
    }
}

/// The weights whose parameters or factors, in centred coordinates, are `values`, in single precision. As of dense ones, the intercept is
/// that of the rounded weights.
fn weights_of(objective: &Objective, parametrisation: Option<Parametrisation>, values: &[f64]) -> Weights {
    let Some(parametrisation) = parametrisation else { return objective.single(values).into() };
    let mut theta: Vec<f64> = values.iter().map(|&value| f64::from(value as f32)).collect();
    let n_weights = theta.len() - parametrisation.n_classes();
    theta[n_weights..].copy_from_slice(&values[n_weights..]);
    let bias = objective.uncentred(&parametrisation.expand(&theta));
    theta[n_weights..].copy_from_slice(&bias[bias.len() - parametrisation.n_classes()..]);
    Factors::rounded(parametrisation, &theta).into()
}

/// Factors in centred coordinates.
fn centred_factors(objective: &Objective, parametrisation: Parametrisation, theta: &[f64]) -> Vec<f64> {
    let n_weights = theta.len() - parametrisation.n_classes();
    let bias = objective.centred(&parametrisation.expand(theta));
    [&theta[..n_weights], &bias[bias.len() - parametrisation.n_classes()..]].concat()
}

/// How the objective is minimised, and what was made ready for it.
enum Prepared<'a> {
    /// The last: of rows that predict how long the steps will be.
    QuasiNewton(Method, Box<Preconditioner<'a>>, Option<Box<Objective<'a>>>),
    Proximal(proximal::Prepared<'a>),
    Factored(Parametrisation, Box<FactorCurvature<'a>>),
}

/// Iterations from one checkpoint that may be to the next, where these go by time.
const LEG: usize = 10;

impl Batch {
    /// Minimises from `parameters`, or from where the observer says that the training stands. Between places from which the training
    /// may have to go on, all is taken anew that is not kept: then it makes no difference whether it had to.
    fn minimise_in_legs(
        &self,
        method: &mut Prepared,
        objective: &mut Objective,
        mut parameters: Vec<f64>,
        n_samples: usize,
        past: &mut Past,
        observer: &mut Observer,
    ) -> Result<Minimum> {
        let (begin, before) = (Instant::now(), observer.elapsed());
        let max_iterations = self.limits.max_iterations;
        let of_leg = observer.interval(LEG).unwrap_or(max_iterations);
        let (mut learned, mut is_first) = (Learned::default(), true);
        let parametrisation = match method {
            Prepared::Factored(parametrisation, _) => Some(*parametrisation),
            Prepared::QuasiNewton(..) | Prepared::Proximal(_) => None,
        };
        if let Some(SolverState::Batch(stand)) = observer.solver_state() {
            (parameters, learned, is_first) = (stand.parameters.clone(), stand.learned.clone(), false);
            objective.count_from(stand.counts);
        }
        loop {
            let n_before = observer.n_epochs();
            let n_iterations = (of_leg - n_before % of_leg).min(max_iterations.saturating_sub(n_before));
            let limits = Limits { max_iterations: n_iterations, ..self.limits };
            let mut observe = |progress: Progress, objective: &Objective, parameters: &[f64]| {
                let progress = Progress {
                    epoch: n_before + progress.epoch,
                    n_epochs: max_iterations,
                    elapsed: before + begin.elapsed(),
                    ..progress
                };
                let weights = &mut || Ok(weights_of(objective, parametrisation, parameters));
                let reason = observer.after(progress, weights)?;
                // Its last epoch is the last iteration.
                let reason = reason.filter(|reason| *reason != StopReason::Epochs);
                observer.keep_between(reason, &mut || {
                    let (parameters, learned) = (parameters.to_vec(), Learned::default());
                    SolverState::Batch(Stand { parameters, learned, counts: objective.counts() })
                });
                Ok(reason)
            };
            let minimum = match method {
                Prepared::QuasiNewton(method, preconditioner, sample) => {
                    if !is_first {
                        preconditioner.blunt(&objective.uncentred(&parameters))?;
                    }
                    let objectives = (&mut *objective, sample.as_deref_mut());
                    minimise(*method, limits, objectives, preconditioner, parameters, n_samples, learned, &mut observe)?
                }
                Prepared::Proximal(prepared) => proximal::minimise(
                    limits,
                    objective,
                    prepared,
                    parameters,
                    n_samples,
                    (learned, past),
                    &mut observe,
                )?,
                Prepared::Factored(parametrisation, curvature) => {
                    let of_factors = (*parametrisation, &mut **curvature);
                    factored::minimise(limits, objective, of_factors, parameters, n_samples, learned, &mut observe)?
                }
            };
            let (n_done, reason) = (observer.n_epochs(), minimum.reason);
            let stop = Some(reason).filter(|reason| matches!(reason, StopReason::Caller | StopReason::TimeLimit));
            let is_last = reason != StopReason::Iterations || n_done >= max_iterations;
            if n_done.is_multiple_of(of_leg) && (stop.is_some() || !is_last) {
                let Minimum { parameters, learned, .. } = minimum.clone();
                observer.keep_leg(stop, SolverState::Batch(Stand { parameters, learned, counts: objective.counts() }));
            } else if stop.is_some() {
                observer.keep_last_leg();
            }
            if is_last {
                return Ok(minimum);
            }
            (parameters, learned, is_first) = (minimum.parameters, minimum.learned, false);
        }
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
    use crate::backend::Backend;
    use crate::backend::cpu::{Cpu, moments};
    use crate::batch::Shuffle;
    use crate::solver::stop::{Keeper, Limits as StopLimits};

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
            factors: None,
        };
        let mut session = backend.session(&features, 1.0, Some((&targets).into())).unwrap();
        let mut on_epoch = |progress: &Progress| {
            on_iteration(progress);
            ControlFlow::Continue(())
        };
        let mut keeper = Keeper::new(None);
        let mut observer = Observer::new(StopLimits::default(), Instant::now(), None, &mut on_epoch, &mut keeper);
        Batch::from(&Lbfgs { tolerance: 1e-10, ..Lbfgs::default() })
            .minimise(&mut *session, &task, &mut Past::default(), &mut observer)
            .unwrap()
    }

    #[test]
    fn the_gap_is_what_is_left_and_no_iteration_goes_up() {
        let mut values = Vec::new();
        let found = train(&Cpu::new(), |progress| values.push(progress.loss));
        assert_eq!(found.reason, StopReason::Converged);
        assert!(values.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-12)), "{values:?}");
        let Certificate { objective, gap, .. } = found.certificate.unwrap();
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
            let exact = train(&Cpu::new(), |_| {}).certificate.unwrap().objective;
            let certificate = found.certificate.unwrap();
            let ratio = certificate.objective / exact - 1.0;
            assert!(ratio.abs() < 1e-6 && certificate.is_double, "{ratio:e}");
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
