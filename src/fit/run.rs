//! One fit: what is decided before a device is asked for anything, the training, which may have to change the device, and what
//! there is to tell of it.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::together::{Common, together};
use super::{FeatureScale, Fit, SoftmaxRegression, scale_of_steps};
use crate::backend::cpu::{Moments, moments};
use crate::backend::{Device, DeviceKind, Parameters, Session, Shape, State, Supervision, part_bytes};
use crate::checkpoint::{
    self, Identity, hash_of, hash_of_data, hash_of_features, hash_of_names, hashes_of_supervision,
};
use crate::columns::Columns;
use crate::data::{Dataset, Values};
use crate::error::{Error, Result};
use crate::metrics::{Evaluation, Evaluator};
use crate::model::{Model, Training};
use crate::objective::Penalty;
use crate::solver::{
    Batch, Keeper, Kind, Limits, Observer, Outcome, Past, Progress, Sgd, Solver, StochasticProblem, StopReason, Task,
    Validate, WriteCheckpoint,
};
use crate::structure::{self, Parametrisation, Structure};
use crate::weighting::Weighting;

/// Told of each epoch; may stop the training.
pub(super) type OnEpoch<'a> = dyn FnMut(&Progress) -> ControlFlow<()> + Send + 'a;

/// Trains on `data`, after others on a path that are `past`; the settings of the estimator make sense.
pub(super) fn fit(
    estimator: &SoftmaxRegression,
    data: &Dataset,
    validation: Option<&Dataset>,
    begin: Instant,
    past: &mut Past,
    on_epoch: &mut OnEpoch,
) -> Result<Fit> {
    if let Some(validation) = validation.filter(|validation| validation.n_features() != data.n_features()) {
        return Err(Error::Width { model: data.n_features(), data: validation.n_features() });
    }
    let init = estimator.init.as_deref();
    let solver = estimator.solver_for(data);
    if let Some(columns) = columns_of(estimator, data, &solver)? {
        return fit_columns(estimator, &columns, data, validation, begin, past, on_epoch);
    }
    let feature_scale = match (estimator.feature_scale, init.and_then(Model::feature_scale)) {
        (FeatureScale::Auto, Some(factor)) => FeatureScale::Factor(factor),
        (feature_scale, _) => feature_scale,
    };
    let feature_scale = match past.feature_scale {
        Some(scale) => scale,
        None => feature_scale.of(data.features())?,
    };
    // What the steps of stochastic solvers multiply features by beside, and the weights' penalty that makes up for it.
    let of_steps = match (solver.is_stochastic(), estimator.feature_scale) {
        (true, FeatureScale::Auto) => scale_of_steps(feature_scale * data.features().max_abs()),
        _ => 1.0,
    };
    let scale = feature_scale * of_steps;
    let l2 = estimator.l2 * f64::from(of_steps).powi(2);
    let (classes, mut start) = match init {
        Some(model) => model.start(data, scale)?,
        None => {
            let shape = Shape { n_features: data.n_features(), n_classes: data.n_classes(), n_heads: 1 };
            (data.classes().to_vec(), Parameters::zeros(shape))
        }
    };
    let shape = start.shape;
    if !estimator.intercept {
        start.values[shape.n_features * shape.n_classes..].fill(0.0);
    }
    let factors = Factors::new(estimator.weights, init, &classes, &start, scale)?;
    let data = &*in_classes(data, &classes)?;
    let validation = validation.map(|validation| in_classes(validation, &classes)).transpose()?;
    let weighting = Weighting::new(data, &estimator.class_weight, estimator.label_smoothing)?;
    let supervision = weighting.supervision();
    let learning_rate = solver.learning_rate(data.features(), scale, supervision, shape.n_classes, l2)?;
    let learning_rate = match &solver {
        Solver::Sgd(Sgd { learning_rate: None, .. }) => {
            learning_rate.map(|rate| rate * estimator.weights.share_of_step())
        }
        _ => learning_rate,
    };
    let moments = match past.moments.take() {
        Some(moments) => moments,
        None if !solver.is_stochastic() || estimator.polish => moments(data.features(), scale, supervision.weights)?,
        None => Moments::default(),
    };
    let deviations = estimator.standardize.then(|| moments.deviations());
    let penalty = Penalty::uniform(l2, estimator.l1, shape.n_features)
        .times(estimator.penalty_factors.as_deref(), deviations.as_deref());
    let run = Run {
        estimator,
        device: estimator.device.clone(),
        seed: estimator.seed,
        begin_of_seed: begin,
        data,
        validation: validation.as_deref(),
        weighting: &weighting,
        begin,
        solver,
        feature_scale,
        scale,
        l2,
        learning_rate,
        moments,
        penalty,
        start,
        factors,
    };
    let fit = match estimator.n_seeds {
        1 => run.fit(past, on_epoch)?,
        n => run.fit_seeds(n, on_epoch)?,
    };
    if past.is_path() {
        (past.feature_scale, past.moments) = (Some(feature_scale), Some(run.moments));
    }
    Ok(fit)
}

/// The features that the training has to do with, where these are not all: sparse features that do not occur need no
/// training, unless they begin with a weight that no penalty would make 0, or have factors in common with others.
fn columns_of(estimator: &SoftmaxRegression, data: &Dataset, solver: &Solver) -> Result<Option<Columns>> {
    let init = estimator.init.as_deref();
    init.map_or(Ok(()), |model| model.check_features(data))?;
    if estimator.weights != Structure::Dense {
        return Ok(None);
    }
    let factors = estimator.penalty_factors.as_ref();
    let is_penalised =
        |k: usize| (estimator.l2 > 0.0 || estimator.l1 > 0.0) && factors.is_none_or(|factors| factors[k] > 0.0);
    let has_weight = |k: usize| init.is_some_and(|model| model.weights().row(k).iter().any(|&w| w != 0.0));
    let is_batch = !solver.is_stochastic();
    Ok(Columns::of(data.features(), |k| has_weight(k) && !(is_batch && is_penalised(k))))
}

/// Trains on these features alone; the others of the model have weights 0.
fn fit_columns(
    estimator: &SoftmaxRegression,
    columns: &Columns,
    data: &Dataset,
    validation: Option<&Dataset>,
    begin: Instant,
    past: &mut Past,
    on_epoch: &mut OnEpoch,
) -> Result<Fit> {
    let kept = columns.kept();
    let of_columns = SoftmaxRegression {
        init: estimator.init.as_deref().map(|model| Arc::new(model.of_columns(kept))),
        penalty_factors: estimator.penalty_factors.as_ref().map(|factors| columns.pick(factors)),
        ..estimator.clone()
    };
    let validation = validation.map(|validation| validation.of_columns(kept)).transpose()?;
    let mut fit = fit(&of_columns, &data.of_columns(kept)?, validation.as_ref(), begin, past, on_epoch)?;
    let names = data.feature_names().or_else(|| estimator.init.as_deref()?.feature_names());
    fit.model = columns.spread(&fit.model, names.map(<[String]>::to_vec))?;
    fit.model.record_setting("penalty_factors", estimator.penalty_factors.clone().into());
    Ok(fit)
}

/// Seeds that are trained at once, at most: each takes memory for a solver of its own.
const SEEDS_AT_ONCE: usize = 16;

/// What trainings with several seeds have come to so far.
#[derive(Default)]
struct Found {
    /// The best, and which it is.
    best: Option<(usize, Fit)>,
    /// When the first step was taken, and when the last.
    times: Option<[Instant; 2]>,
    /// Of the first seed that has one; before others one that is not of a single seed.
    error: Option<(usize, Error)>,
}

impl Found {
    fn add(&mut self, index: usize, begin: Instant, fit: Result<Fit>) {
        let is_own = |error: &Error| matches!(error, Error::Diverged { .. });
        match fit {
            Ok(fit) => {
                let first = begin + fit.preparation;
                let [of_all, end] = self.times.unwrap_or([first; 2]);
                self.times = Some([of_all.min(first), end.max(first + fit.training)]);
                let loss = |fit: &Fit| fit.validation.as_ref().map_or(fit.objective, |validation| validation.log_loss);
                let is_better =
                    |(other, best): &(usize, Fit)| loss(&fit).total_cmp(&loss(best)).then(index.cmp(other)).is_lt();
                if self.best.as_ref().is_none_or(is_better) {
                    self.best = Some((index, fit));
                }
            }
            Err(error) => {
                let rank = |index: usize, error: &Error| (is_own(error), index);
                if self.error.as_ref().is_none_or(|(other, before)| rank(index, &error) < rank(*other, before)) {
                    self.error = Some((index, error));
                }
            }
        }
    }
}

/// What structured weights are made of, and where they begin, unless that is left to the seed.
#[derive(Clone)]
struct Factors {
    parametrisation: Parametrisation,
    start: Option<Vec<f64>>,
}

impl Factors {
    /// Nothing of dense weights. `start`: the dense weights, for features times `scale`, that training begins with.
    fn new(
        structure: Structure,
        init: Option<&Model>,
        classes: &[String],
        start: &Parameters,
        scale: f32,
    ) -> Result<Option<Self>> {
        if structure == Structure::Dense {
            return Ok(None);
        }
        let parametrisation = Parametrisation::new(structure, start.shape.n_features, start.shape.n_classes)?;
        let of_model = |model: &Model| match model.factors(parametrisation).filter(|_| model.classes() == classes) {
            Some(factors) => {
                let mut theta = factors.scaled(1.0 / f64::from(scale)).to_f64();
                // Those of the start, which may be to have none.
                let n_weights = theta.len() - start.shape.n_classes;
                theta[n_weights..].copy_from_slice(&doubles(start.bias()));
                Ok(theta)
            }
            None => parametrisation.nearest(&doubles(&start.values)),
        };
        let start = init.map(of_model).transpose()?;
        Ok(Some(Self { parametrisation, start }))
    }
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// What is decided before a device is asked for anything.
#[derive(Clone)]
struct Run<'r> {
    estimator: &'r SoftmaxRegression,
    device: Device,
    seed: u64,
    begin_of_seed: Instant,
    /// In the classes of the model.
    data: &'r Dataset<'r>,
    validation: Option<&'r Dataset<'r>>,
    weighting: &'r Weighting<'r>,
    /// When the fit began.
    begin: Instant,
    /// The one that was chosen where that was left to the data.
    solver: Solver,
    /// What features are multiplied by for the penalty, and in all.
    feature_scale: f32,
    scale: f32,
    /// The penalty of weights of features times `scale`.
    l2: f64,
    learning_rate: Option<f64>,
    /// Of the features times `scale`, where they are needed.
    moments: Moments,
    penalty: Penalty,
    start: Parameters,
    factors: Option<Factors>,
}

impl Run<'_> {
    /// Trains with so many seeds, some at once, and keeps the best; of equal ones the first.
    fn fit_seeds(&self, n: usize, on_epoch: &mut OnEpoch) -> Result<Fit> {
        let Self { device, data, .. } = self;
        // Told to end, by the caller or by what went wrong with one; and past the time limit.
        let (is_broken, is_late) = (AtomicBool::new(false), AtomicBool::new(false));
        let on_epoch = Mutex::new(on_epoch);
        let found = Mutex::new(Found::default());
        let of_seed = |index: usize, device: &Device| {
            if is_broken.load(Relaxed) || is_late.load(Relaxed) {
                return;
            }
            let mut tell = |progress: &Progress| {
                // A callback that has answered, or panicked, is not called again: the flag is set before another seed has its turn.
                let mut on_epoch = match on_epoch.lock() {
                    Ok(on_epoch) if !is_broken.load(Relaxed) => on_epoch,
                    _ => return ControlFlow::Break(()),
                };
                let flow = on_epoch(progress);
                if flow.is_break() {
                    is_broken.store(true, Relaxed);
                }
                flow
            };
            let (seed, begin_of_seed) = (self.seed.wrapping_add(index as u64), Instant::now());
            let run = Self { device: device.clone(), seed, begin_of_seed, ..self.clone() };
            let fit = run.fit(&mut Past::default(), &mut tell);
            match &fit {
                Ok(fit) if fit.reason == StopReason::TimeLimit => is_late.store(true, Relaxed),
                // There may be a model of another seed.
                Ok(_) | Err(Error::Diverged { .. }) => {}
                Err(_) => is_broken.store(true, Relaxed),
            }
            found.lock().unwrap_or_else(PoisonError::into_inner).add(index, begin_of_seed, fit);
        };
        let common = || Common { features: data.features(), scale: self.scale, shape: self.start.shape, memory: None };
        // Features in a file would be read for each, and a GPU has one queue.
        let is_shared = device.info().kind == DeviceKind::Cpu && !matches!(data.features().values(), Values::Stored(_));
        let at_once = if is_shared { n.div_ceil(n.div_ceil(SEEDS_AT_ONCE)) } else { 1 };
        for first in (0..n).step_by(at_once) {
            match at_once.min(n - first) {
                1 => of_seed(first, device),
                n => drop(together(device, common(), n, |index, device| of_seed(first + index, device))?),
            }
            if is_broken.load(Relaxed) || is_late.load(Relaxed) {
                break;
            }
        }
        let Found { best, times, error } = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (best, error, times) {
            (Some((_, best)), None | Some((_, Error::Diverged { .. })), Some([first, end])) => {
                let reason = match (is_broken.into_inner(), is_late.into_inner()) {
                    (true, _) => StopReason::Caller,
                    (_, true) => StopReason::TimeLimit,
                    _ => best.reason,
                };
                Ok(Fit { reason, preparation: first - self.begin, training: end - first, ..best })
            }
            (_, Some((_, error)), _) => Err(error),
            _ => {
                let (value, expected) = (n.to_string(), "at least 1");
                Err(Error::Setting { name: "the number of seeds", value, expected })
            }
        }
    }

    /// Trains on the device of the estimator and, should that fail and have been chosen automatically, on the CPU from the last
    /// state that is known to be good.
    fn fit(&self, past: &mut Past, on_epoch: &mut OnEpoch) -> Result<Fit> {
        let estimator = self.estimator;
        let is_kept = estimator.checkpoint.is_some() || estimator.resume.is_some();
        let identity = is_kept.then(|| self.identity()).transpose()?;
        let snapshot = match (&estimator.resume, &identity) {
            (Some(path), Some(identity)) => {
                let factors = self.factors.as_ref().map(|factors| factors.parametrisation);
                Some(checkpoint::read(path, identity, (self.start.shape, factors), self.device.info())?)
            }
            _ => None,
        };
        let mut keeper = Keeper::new(snapshot);
        let mut device = self.device.clone();
        loop {
            keeper.file = match (&estimator.checkpoint, &identity) {
                (Some((path, every)), Some(identity)) => {
                    let device = device.clone();
                    let write: Box<WriteCheckpoint> =
                        Box::new(move |snapshot| checkpoint::write(path, identity, device.info(), snapshot));
                    Some((*every, write))
                }
                _ => None,
            };
            let may_change = device.is_automatic() && device.info().kind != DeviceKind::Cpu;
            keeper.in_memory = may_change;
            let is_fault = |error: &Error| {
                matches!(error, Error::DeviceLost { .. } | Error::OutOfMemory { .. } | Error::DeviceLimit { .. })
            };
            match self.fit_on(&device, &mut keeper, past, on_epoch) {
                Err(error) if may_change && is_fault(&error) => {
                    let from = match keeper.n_epochs() {
                        0 => "from the beginning".to_owned(),
                        n if self.solver.is_stochastic() => format!("from epoch {n}"),
                        n => format!("from iteration {n}"),
                    };
                    let fault = format!("{error}; the training goes on on the CPU, {from}");
                    log::warn!("{fault}");
                    keeper.faults.push(fault);
                    device = Device::cpu();
                }
                Err(error) => return Err(error),
                Ok(fit) => return Ok(Fit { checkpoint: keeper.written, faults: keeper.faults, ..fit }),
            }
        }
    }

    /// Of which run a checkpoint is.
    fn identity(&self) -> Result<Identity> {
        let Self { estimator, data, solver, start, .. } = self;
        let shape = start.shape;
        let mut settings = match solver.kind() {
            Kind::Stochastic(stochastic) => {
                let mut settings = stochastic.to_json();
                settings["epochs"] = stochastic.n_epochs(data.n_samples()).into();
                settings["learning_rate"] = stochastic.learning_rate.into();
                settings
            }
            Kind::Batch(batch) => batch.to_json(),
        };
        let factors = estimator.penalty_factors.as_deref();
        let [labels, weights] = hashes_of_supervision(self.weighting.supervision());
        let others = json!({
            "solver": solver.name(),
            "l2": estimator.l2,
            "l1": estimator.l1,
            "seed": estimator.seed,
            "feature_scale": f64::from(self.feature_scale),
            "class_weight": estimator.class_weight.to_json(),
            "label_smoothing": estimator.label_smoothing,
            "intercept": estimator.intercept,
            "standardize": estimator.standardize,
            "polish": estimator.polish,
            "n_samples": data.n_samples(),
            "n_features": shape.n_features,
            "n_classes": shape.n_classes,
            "the hash of the classes' names": hash_of_names(data.classes()),
            "the hash of the features": hash_of_features(data.features())?,
            "bytes that are in memory at a time": match data.features().values() {
                Values::Stored(stored) => Some(part_bytes(stored.memory())),
                _ => None,
            },
            "the hash of the labels": labels,
            "the hash of the weights": weights,
            "the hash of the validation data": self.validation.map(hash_of_data).transpose()?,
            "the hash of the weights to start from": hash_of(&start.values, f32::to_le_bytes),
            "the hash of the penalty factors": factors.map(|factors| hash_of(factors, f64::to_le_bytes)),
        });
        if let (Some(settings), Value::Object(others)) = (settings.as_object_mut(), others) {
            settings.extend(others);
        }
        if let Some(factors) = &self.factors {
            let start = factors.start.as_deref().unwrap_or_default();
            settings["weights"] = factors.parametrisation.structure().to_string().into();
            settings["the hash of the factors to start from"] = hash_of(start, f64::to_le_bytes).into();
        }
        Ok(Identity(settings))
    }

    /// Trains on `device` from where the keeper says that the training stands.
    fn fit_on(&self, device: &Device, keeper: &mut Keeper, past: &mut Past, on_epoch: &mut OnEpoch) -> Result<Fit> {
        let Self { estimator, data, weighting, begin, solver, scale, l2, learning_rate, .. } = self;
        let (scale, l2, learning_rate, begin) = (*scale, *l2, *learning_rate, *begin);
        let supervision = weighting.supervision();
        let mut session = device.session(data.features(), scale, Some(supervision))?;
        let mut watched = match self.validation {
            Some(validation) => Some((device.session(validation.features(), scale, None)?, validation)),
            None => None,
        };
        let mut validate = watched
            .as_mut()
            .map(|(session, data)| |parameters: &Parameters| Ok(evaluate(&mut **session, data, parameters)?.log_loss));
        let validate = validate.as_mut().map(|validate| -> &mut Validate { validate });
        let seed = self.seed;
        let on_epoch = &mut |progress: &Progress| on_epoch(&Progress { seed, ..progress.clone() });
        let mut observer = Observer::new(estimator.limits, begin, validate, on_epoch, keeper);
        let before = observer.elapsed();

        let mut optimum = None;
        let (mut settings, last, reason, first, mut training) = match solver.kind() {
            Kind::Batch(solver) => {
                let start = estimator.init.is_some().then_some(&self.start);
                let found = solver.minimise(&mut *session, &self.task(start), past, &mut observer)?;
                optimum = Some((found.counts.products, found.certificate));
                (solver.to_json(), found.weights, found.reason, found.begin, found.training)
            }
            Kind::Stochastic(solver) => {
                let intercept = estimator.intercept;
                let problem = StochasticProblem { session: &mut *session, start: self.first_state(), l2, intercept };
                let rate = learning_rate.unwrap_or_default();
                let (reason, last, first) = solver.minimise(problem, rate, self.seed, &mut observer)?;
                (solver.to_json(), last, reason, first, before + first.elapsed())
            }
        };
        let Outcome { mut weights, mut epochs, mut reason, best_epoch } = observer.finish(reason, last);
        epochs.iter_mut().for_each(|epoch| epoch.seed = seed);
        let is_stopped = matches!(reason, StopReason::Caller | StopReason::TimeLimit);
        let is_exact = match solver.kind() {
            Kind::Batch(solver) => solver.is_exact() && device.info().kind == DeviceKind::Cpu,
            Kind::Stochastic(_) => false,
        };
        if estimator.polish && !is_stopped && !is_exact {
            let cpu = Device::cpu();
            let mut session = cpu.session(data.features(), scale, Some(supervision))?;
            let mut on_iteration = |progress: &Progress| on_epoch(&Progress { is_polish: true, ..progress.clone() });
            let limits = Limits { patience: None, ..estimator.limits };
            let mut nothing = Keeper::new(None);
            let mut observer = Observer::new(limits, begin, None, &mut on_iteration, &mut nothing);
            let task = self.task(Some(weights.dense()));
            let found = Batch::polishing().minimise(&mut *session, &task, &mut Past::default(), &mut observer)?;
            let products = optimum.map_or(0, |(products, _)| products) + found.counts.products;
            optimum = Some((products, found.certificate));
            (weights, reason) = (found.weights, found.reason);
            training += found.training;
        }

        let parameters = weights.dense();
        // The objective that the solver saw last.
        let searched =
            epochs.last().filter(|_| past.is_search() && self.validation.is_none()).map(|progress| progress.loss);
        let train = match searched {
            Some(_) => Evaluator::new(data.labels().targets(), data.weights(), parameters.shape.n_outputs()).finish(),
            None => evaluate(&mut *session, data, parameters)?,
        };
        if !train.log_loss.is_finite() {
            return Err(Error::NoObjective { value: train.log_loss });
        }
        // The certificate is of the last iteration, which the validation may not have chosen.
        let (products, certificate) = optimum.unzip();
        let certificate = certificate.flatten().filter(|_| best_epoch.is_none_or(|best| best == epochs.len()));
        let objective = match (&certificate, searched) {
            (Some(certificate), _) => certificate.objective,
            (None, Some(objective)) => objective,
            (None, None) => self.loss(&mut *session, &train, parameters)? + self.penalty.of(parameters),
        };
        let validation = match &mut watched {
            Some((session, data)) => Some(evaluate(&mut **session, data, parameters)?),
            None => None,
        };

        settings["epochs"] = epochs.len().into();
        settings["reason"] = reason.to_string().into();
        if let (Some(epoch), Some(validation)) = (best_epoch, &validation) {
            settings["best_epoch"] = epoch.into();
            settings["validation_loss"] = validation.log_loss.into();
        }
        let record = self.record(settings, device, &train, objective);
        let names = data.feature_names().or_else(|| estimator.init.as_ref()?.feature_names());
        let names = names.map(<[String]>::to_vec);
        Ok(Fit {
            model: Model::from_training(&weights, scale, data.classes().to_vec(), names, record),
            train,
            objective,
            solver: solver.clone(),
            epochs,
            reason,
            best_epoch,
            validation,
            learning_rate,
            products,
            certificate,
            seed,
            feature_scale: f64::from(self.feature_scale),
            preparation: first - self.begin_of_seed,
            training,
            checkpoint: None,
            faults: Vec::new(),
        })
    }

    /// Where a stochastic solver begins.
    fn first_state(&self) -> State {
        let Some(Factors { parametrisation, start }) = &self.factors else { return self.start.clone().into() };
        let of_seed = || parametrisation.start(self.seed, &vec![0.0; parametrisation.n_classes()]);
        let factors = structure::Factors::rounded(*parametrisation, &start.clone().unwrap_or_else(of_seed));
        let parameters = Parameters { shape: self.start.shape, values: factors.expand() };
        State { factors: Some(factors), ..parameters.into() }
    }

    /// What a batch solver minimises over, from `start` on.
    fn task(&self, start: Option<&Parameters>) -> Task<'_> {
        Task {
            features: self.data.features(),
            scale: self.scale,
            supervision: self.weighting.supervision(),
            moments: &self.moments,
            shape: self.start.shape,
            penalty: &self.penalty,
            has_intercept: self.estimator.intercept,
            start: match &self.factors {
                Some(factors) => factors.start.clone(),
                None => start.map(|start| doubles(&start.values)),
            },
            factors: self.factors.as_ref().map(|factors| (factors.parametrisation, self.seed)),
        }
    }

    /// The loss that is minimised, with class weights and smoothed labels; `train` is without.
    fn loss(&self, session: &mut dyn Session, train: &Evaluation, parameters: &Parameters) -> Result<f64> {
        if self.weighting.is_plain() {
            return Ok(train.log_loss);
        }
        let Supervision { targets, weights } = self.weighting.supervision();
        let mut evaluator = Evaluator::new(targets, weights, parameters.shape.n_classes);
        session.logits(parameters, &mut |rows, logits| {
            evaluator.add(rows, logits);
            Ok(())
        })?;
        Ok(evaluator.finish().log_loss)
    }

    /// The record of the training that the model keeps.
    fn record(&self, mut settings: Value, device: &Device, train: &Evaluation, objective: f64) -> Training {
        let Self { estimator, data, solver, .. } = self;
        settings["learning_rate"] = self.learning_rate.into();
        settings["intercept"] = estimator.intercept.into();
        settings["standardize"] = estimator.standardize.into();
        settings["penalty_factors"] = estimator.penalty_factors.clone().into();
        settings["polish"] = estimator.polish.into();
        if self.factors.is_some() {
            settings["weights"] = estimator.weights.to_string().into();
        }
        Training {
            solver: solver.name().to_owned(),
            device: device.info().name.clone(),
            n_samples: data.n_samples(),
            settings,
            l2: estimator.l2,
            l1: estimator.l1,
            seed: self.seed,
            feature_scale: f64::from(self.feature_scale),
            is_weighted: data.weights().is_some(),
            class_weight: estimator.class_weight.to_json(),
            label_smoothing: estimator.label_smoothing,
            train_loss: train.log_loss,
            train_accuracy: train.accuracy,
            objective,
        }
    }
}

/// The same data with these classes.
pub(super) fn in_classes<'d>(data: &'d Dataset<'d>, classes: &[String]) -> Result<Cow<'d, Dataset<'d>>> {
    if data.classes() == classes { Ok(Cow::Borrowed(data)) } else { data.with_classes(classes).map(Cow::Owned) }
}

/// Those parameters on the data of a session.
fn evaluate(session: &mut dyn Session, data: &Dataset, parameters: &Parameters) -> Result<Evaluation> {
    let mut evaluator = Evaluator::new(data.labels().targets(), data.weights(), parameters.shape.n_outputs());
    session.logits(parameters, &mut |rows, logits| {
        evaluator.add(rows, logits);
        Ok(())
    })?;
    Ok(evaluator.finish())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::batch::Shuffle;
    use crate::data::{Features, Labels, digits};
    use crate::solver::{AdamW, Every, Lbfgs, NewtonCg, StopReason};

    /// The CPU, and a GPU where there is one.
    fn devices() -> Vec<Device> {
        #[cfg_attr(not(feature = "gpu"), expect(unused_mut))]
        let mut devices = vec![Device::cpu()];
        #[cfg(feature = "gpu")]
        devices.extend(super::faults::gpu(None).map(|gpu| Device::of(gpu, false)));
        devices
    }

    fn file(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("softreg-run-{}-{name}", std::process::id()))
    }

    /// Estimators with solvers of all kinds, those of batches with an end that takes them a while.
    fn estimators() -> Vec<(&'static str, SoftmaxRegression)> {
        let (momentum, epochs) = (0.5, Some(9));
        let solvers: [(&str, Solver); 5] = [
            ("sgd", Sgd { epochs, momentum, ..Sgd::default() }.into()),
            ("plain", Sgd { epochs, momentum: 0.0, nesterov: false, ..Sgd::default() }.into()),
            ("adamw", AdamW { epochs, ..AdamW::default() }.into()),
            ("lbfgs", Lbfgs { tolerance: 1e-12, ..Lbfgs::default() }.into()),
            ("newton", NewtonCg { tolerance: 1e-12, ..NewtonCg::default() }.into()),
        ];
        let mut estimators: Vec<_> =
            solvers.map(|(name, solver)| (name, SoftmaxRegression::new().l2(1e-6).solver(solver))).into();
        let of_l1 = Lbfgs { tolerance: 1e-10, ..Lbfgs::default() };
        estimators.push(("l1", SoftmaxRegression::new().l1(1e-4).solver(of_l1)));
        let factors = Lbfgs { tolerance: 1e-12, max_iterations: 24, ..Lbfgs::default() };
        for (name, structure) in [("phm", Structure::Phm { m: 4 }), ("low rank", Structure::LowRank { rank: 4 })] {
            estimators
                .push((name, SoftmaxRegression::new().weights(structure).solver(factors.clone()).validation(0.3)));
        }
        estimators.push(("validated", estimators[0].1.clone().validation(0.3).patience(9)));
        estimators
    }

    /// A training that is stopped after any epoch goes on from its checkpoint to the model of one in one go.
    fn check_that_it_goes_on(what: &str, path: &Path, estimator: &SoftmaxRegression, data: &Dataset) {
        let estimator = estimator.clone().checkpoint(path, Every::Epochs(2));
        let at_once = estimator.fit(data).unwrap();
        let n = at_once.epochs.len();
        assert!(n > 6, "{what}: {n}");
        for last in [1, 2, 3, 5, n - 1] {
            std::fs::remove_file(path).unwrap();
            let stop = |progress: &Progress| match progress.epoch == last {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            let stopped = estimator.fit_with(data, stop).unwrap();
            assert_eq!((stopped.epochs.len(), stopped.reason), (last, StopReason::Caller), "{what}");
            assert!(stopped.model != at_once.model);
            // Iterations of batch solvers go on from every second one.
            let is_batch = !estimator.solver_for(data).is_stochastic();
            let expected = if is_batch { last / 2 * 2 } else { last };
            assert_eq!(stopped.checkpoint, Some(expected).filter(|&n| n > 0), "{what}");
            if expected == 0 {
                std::fs::write(path, "").unwrap();
                continue;
            }
            let mut first = None;
            let resumed = estimator.clone().resume(path).fit_with(data, |progress| {
                first.get_or_insert(progress.epoch);
                ControlFlow::Continue(())
            });
            let resumed = resumed.unwrap();
            assert_eq!(first, Some(expected + 1), "{what}");
            assert!(resumed.model == at_once.model && resumed.objective == at_once.objective, "{what} {last}");
            let losses = |fit: &Fit| fit.epochs.iter().map(|e| (e.loss, e.validation_loss)).collect::<Vec<_>>();
            assert_eq!(losses(&resumed), losses(&at_once), "{what}");
            assert_eq!(resumed.products, at_once.products, "{what}");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_stopped_training_goes_on_to_the_same_bits() {
        let data = digits().unwrap().split(0.7, 3).unwrap().0;
        for device in devices() {
            for (name, estimator) in estimators() {
                let what = format!("{}: {name}", device.info().name);
                check_that_it_goes_on(&what, &file(name), &estimator.device(&device), &data);
            }
        }
    }

    /// The same with so many samples that drafts are in single precision, and that some rows predict lengths: a training goes on in
    /// the precision that it was in.
    #[test]
    fn a_training_that_began_with_drafts_goes_on_to_the_same_bits() {
        let (n, d, q) = (9_000, 50, 20);
        let mut random = Shuffle::new(5, 0);
        let mut value = || random.below(1 << 20) as f32 / (1 << 20) as f32 - 0.5;
        let of_class = |i: usize, k: usize| 0.3 * f32::from(k % q == i % q);
        let x = (0..n * d).map(|at| value() + of_class(at / d, at % d)).collect::<Vec<_>>();
        let classes: Vec<usize> = (0..n).map(|i| i % q).collect();
        let data = Dataset::new(Features::new(x, n, d).unwrap(), Labels::from_integers(&classes).unwrap()).unwrap();
        let estimator = SoftmaxRegression::new().l2(1e-6).solver(Lbfgs { tolerance: 1e-12, ..Lbfgs::default() });
        check_that_it_goes_on("drafts", &file("drafts"), &estimator, &data);
    }
}

/// What a training makes of a device that fails.
#[cfg(all(test, feature = "gpu"))]
mod faults {
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::backend::gpu::failure::{Failure, Failures};
    use crate::backend::gpu::{Gpu, Options};
    use crate::data::digits;
    use crate::solver::{AdamW, Every, Lbfgs, Sgd};

    /// A GPU of which that call fails; nothing on a machine without one.
    pub(super) fn gpu(at: Option<(usize, Failure)>) -> Option<Arc<Gpu>> {
        let mut gpu = Gpu::open_all(Options::default()).into_iter().next()?.unwrap();
        gpu.failures = Failures { at, ..Failures::default() };
        Some(Arc::new(gpu))
    }

    /// The best epoch of a stochastic solver; the minimum of a batch solver, which is the same wherever it is looked for.
    fn estimator(solver: Solver) -> SoftmaxRegression {
        let is_stochastic = solver.is_stochastic();
        let estimator = SoftmaxRegression::new().l2(1e-3).solver(solver);
        if is_stochastic { estimator.validation(0.2) } else { estimator }
    }

    /// Some of the digits.
    fn data() -> Dataset<'static> {
        digits().unwrap().split(0.9, 3).unwrap().0
    }

    fn is_near(fit: &Fit, expected: &Fit) -> bool {
        let is_long_enough = !fit.solver.is_stochastic() || fit.epochs.len() == expected.epochs.len();
        (fit.objective / expected.objective - 1.0).abs() < 1e-4 && is_long_enough
    }

    /// At whichever call of a training the device is lost or without memory: one that was chosen automatically is left for the
    /// CPU, from where the training stood, and the result is that of the CPU; one that was asked for is an error, and its
    /// checkpoint goes on to the same result.
    #[test]
    fn a_training_outlives_its_device_whenever_that_fails() {
        let data = data();
        let solvers: [Solver; 3] = [
            Lbfgs::default().into(),
            Sgd { epochs: Some(3), batch_size: 64, ..Sgd::default() }.into(),
            AdamW { epochs: Some(3), batch_size: 64, ..AdamW::default() }.into(),
        ];
        for solver in solvers {
            let expected = estimator(solver.clone()).fit(&data).unwrap();
            let Some(whole) = gpu(None) else { return };
            let fit = estimator(solver.clone()).device(&Device::of(whole.clone(), true)).fit(&data).unwrap();
            assert!(is_near(&fit, &expected) && fit.faults.is_empty());
            let n_calls = whole.failures.calls.load(Relaxed);
            // Another penalty is another result.
            let other = estimator(solver.clone()).l2(1e-2).fit(&data).unwrap();
            assert!(!is_near(&other, &expected));

            let mut from = std::collections::BTreeMap::new();
            // Every call of one solver, some of the others.
            let every = if matches!(solver, Solver::Sgd(_)) { 1 } else { n_calls / 12 };
            for call in (0..n_calls).step_by(every) {
                for failure in [Failure::Lost, Failure::OutOfMemory] {
                    let what = format!("{} {failure:?} in call {call} of {n_calls}", solver.name());
                    let Some(gpu) = gpu(Some((call, failure))) else { return };
                    let device = Device::of(gpu.clone(), true);
                    let fit = estimator(solver.clone()).device(&device).fit(&data).unwrap();
                    assert!(is_near(&fit, &expected), "{what}: {} {}", fit.objective, expected.objective);
                    let [fault] = &fit.faults[..] else { panic!("{what}: {:?}", fit.faults) };
                    assert!(fault.contains("goes on on the CPU, from"), "{what}: {fault}");
                    assert_eq!(fit.model.training()["device"], "cpu", "{what}");
                    *from.entry(fault.split("CPU, ").last().unwrap().to_owned()).or_insert(0) += 1;
                }
            }
            eprintln!("{}: {n_calls} calls, the training went on {from:?}", solver.name());
            for place in ["from the beginning", "from epoch 1", "from epoch 2", "from epoch 3"] {
                assert!(every > 1 || from.contains_key(place), "{from:?}");
            }
            assert!(from.len() > 2, "{from:?}");

            let path = std::env::temp_dir().join(format!("softreg-fault-{}-{}", std::process::id(), solver.name()));
            let with_checkpoints = estimator(solver.clone()).checkpoint(&path, Every::Epochs(1));
            for call in (0..n_calls).step_by(n_calls / 8) {
                let Some(gpu) = gpu(Some((call, Failure::Lost))) else { return };
                let device = Device::of(gpu.clone(), false);
                let error = match with_checkpoints.clone().device(&device).fit(&data) {
                    Err(error) => error,
                    // With checkpoints there may be fewer calls: it was done before.
                    Ok(fit) => {
                        assert!(gpu.failures.calls.load(Relaxed) <= call && is_near(&fit, &expected));
                        continue;
                    }
                };
                assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
                if path.exists() {
                    let fit = with_checkpoints.clone().resume(&path).fit(&data).unwrap();
                    assert!(is_near(&fit, &expected));
                }
            }
            assert!(path.exists());
            std::fs::remove_file(&path).unwrap();
        }
    }
}
