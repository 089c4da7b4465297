//! What the stochastic solvers have in common: epochs of steps, each with a batch.

use std::ops::Range;
use std::time::Instant;

use serde_json::{Value, json};

use super::Progress;
use super::schedule::{Course, Schedule, Warmup};
use super::stop::{Observer, SolverState, StopReason};
use crate::backend::{Head, Parameters, Rule, Session, State, Stepper, Weights};
use crate::batch::Plan;
use crate::error::{Error, Result};

/// Epochs by default, and steps at least.
const EPOCHS: usize = 30;
const STEPS: usize = 1000;

/// A stochastic solver: what its settings come to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stochastic {
    pub epochs: Option<usize>,
    pub batch_size: usize,
    pub learning_rate: Option<f64>,
    pub schedule: Schedule,
    pub warmup: Warmup,
    pub rule: Rule,
}

/// What a stochastic solver minimises, from where.
pub(crate) struct StochasticProblem<'a> {
    pub session: &'a mut dyn Session,
    pub start: State,
    pub l2: f64,
    /// Whether b is trained.
    pub intercept: bool,
}

impl Stochastic {
    pub fn check(&self) -> Result<()> {
        if self.epochs == Some(0) {
            return setting("the number of epochs", "0".to_owned(), "at least 1");
        }
        if self.batch_size == 0 {
            return setting("the batch size", "0".to_owned(), "at least 1");
        }
        match self.learning_rate {
            Some(rate) if !(rate > 0.0 && rate.is_finite()) => {
                return setting("the learning rate", rate.to_string(), "a finite number above 0");
            }
            _ => {}
        }
        self.schedule.check()
    }

    /// How often each of `n_samples` samples is visited.
    pub fn n_epochs(&self, n_samples: usize) -> usize {
        let steps_per_epoch = n_samples.div_ceil(self.batch_size.max(1)).max(1);
        self.epochs.unwrap_or_else(|| EPOCHS.max(STEPS.div_ceil(steps_per_epoch)))
    }

    /// Minimises with `learning_rate` times the schedule while `observer` looks on, which may stop it, and goes on where that says
    /// that the training stands. Returns why it ended, with which parameters, and when the first step began.
    pub fn minimise(
        &self,
        problem: StochasticProblem,
        learning_rate: f64,
        seed: u64,
        observer: &mut Observer,
    ) -> Result<(StopReason, Weights, Instant)> {
        let StochasticProblem { session, start, l2, intercept } = problem;
        let head = Head { learning_rate: learning_rate as f32, l2: l2 as f32, intercept, rule: self.rule };
        let start = match observer.solver_state() {
            Some(SolverState::Stochastic(state)) => state.clone(),
            _ => start,
        };
        let is_factored = start.factors.is_some();
        let (before, mut reason) = (observer.elapsed(), observer.ended());
        let mut training = self.begin(session, &start, &[head], seed)?;
        let (n_epochs, n_samples) = (training.course.n_epochs, training.n_samples);
        let begin = Instant::now();
        for epoch in observer.n_epochs()..n_epochs {
            if reason.is_some() {
                break;
            }
            let loss = training.run(epoch)?[0];
            if !loss.is_finite() {
                return Err(Error::Diverged { epoch: epoch + 1, learning_rate });
            }
            let epoch = epoch + 1;
            let elapsed = before + begin.elapsed();
            let progress = Progress::after(epoch, n_epochs, loss, epoch as f64, n_samples, elapsed);
            let stepper = &mut training.stepper;
            let mut weights = || weights(&mut **stepper, is_factored, epoch, learning_rate);
            reason = observer.after(progress, &mut weights)?;
            let mut state = || finite_state(stepper.state()?, epoch, learning_rate);
            observer.keep(reason, &mut || Ok(SolverState::Stochastic(state()?)))?;
        }
        let weights = weights(&mut *training.stepper, is_factored, observer.n_epochs(), learning_rate)?;
        Ok((reason.unwrap_or(StopReason::Epochs), weights, begin))
    }

    /// Trains `heads`, whose rule is that of the solver, side by side in the same batches, from `start` on. Returns the parameters, and of
    /// each head the epoch, from 1, after which its loss or its parameters were not finite. Such a head does not end the others.
    pub fn minimise_side_by_side(
        &self,
        session: &mut dyn Session,
        start: Parameters,
        heads: &[Head],
        seed: u64,
    ) -> Result<(Parameters, Vec<Option<usize>>)> {
        let shape = start.shape;
        let mut training = self.begin(session, &start.into(), heads, seed)?;
        let n_epochs = training.course.n_epochs;
        let mut diverged = vec![None; heads.len()];
        for epoch in 0..n_epochs {
            for (diverged, loss) in diverged.iter_mut().zip(training.run(epoch)?) {
                if !loss.is_finite() {
                    diverged.get_or_insert(epoch + 1);
                }
            }
            if diverged.iter().all(Option::is_some) {
                break;
            }
        }
        let parameters = training.stepper.parameters()?;
        for (column, value) in parameters.values.iter().enumerate() {
            if !value.is_finite() {
                diverged[column % shape.n_outputs() / shape.n_classes].get_or_insert(n_epochs);
            }
        }
        Ok((parameters, diverged))
    }

    fn begin<'s>(
        &self,
        session: &'s mut dyn Session,
        start: &State,
        heads: &[Head],
        seed: u64,
    ) -> Result<Training<'s>> {
        let chunks = session.chunks().to_vec();
        let n_samples = chunks.last().map_or(0, |chunk| chunk.end);
        let largest_chunk = chunks.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let batch_size = self.batch_size.min(largest_chunk);
        let n_steps = chunks.iter().map(|chunk| chunk.len().div_ceil(batch_size.max(1))).sum();
        let course = Course { n_epochs: self.n_epochs(n_samples), n_steps };
        self.warmup.check(course)?;
        let block_rows = session.block_rows();
        let stepper = session.stepper(start, heads, batch_size)?;
        let (schedule, warmup) = (self.schedule, self.warmup);
        Ok(Training { stepper, chunks, block_rows, n_samples, batch_size, course, schedule, warmup, seed })
    }

    /// The settings for the record of a model.
    pub fn to_json(&self) -> Value {
        let Self { batch_size, schedule, warmup, .. } = self;
        let mut record = json!({
            "batch_size": batch_size,
            "schedule": schedule.to_string(),
        });
        if *warmup != Warmup::None {
            record["warmup"] = warmup.to_string().into();
        }
        // Their shortest digits, not those of the rounding to single precision.
        let number = |x: f32| x.to_string().parse::<f64>().unwrap_or_else(|_| x.into());
        let settings = match self.rule {
            Rule::Momentum { momentum, nesterov } => json!({ "momentum": number(momentum), "nesterov": nesterov }),
            Rule::AdamW { beta_1, beta_2, epsilon, weight_decay } => json!({
                "beta_1": number(beta_1),
                "beta_2": number(beta_2),
                "epsilon": number(epsilon),
                "weight_decay": number(weight_decay),
            }),
        };
        if let (Some(record), Value::Object(settings)) = (record.as_object_mut(), settings) {
            record.extend(settings);
        }
        record
    }
}

/// Heads in training.
struct Training<'s> {
    stepper: Box<dyn Stepper + 's>,
    chunks: Vec<Range<usize>>,
    block_rows: Option<usize>,
    n_samples: usize,
    batch_size: usize,
    course: Course,
    schedule: Schedule,
    warmup: Warmup,
    seed: u64,
}

impl Training<'_> {
    /// The steps of an epoch, which counts from 0. Returns the mean loss of each head.
    fn run(&mut self, epoch: usize) -> Result<Vec<f64>> {
        let Self { chunks, block_rows, batch_size, course, seed, .. } = self;
        let plan = match *block_rows {
            Some(block_rows) => Plan::by_chunk(chunks, block_rows, *batch_size, *seed, epoch as u64),
            None => Plan::new(chunks, *batch_size, *seed, epoch as u64),
        };
        let rate = |step| self.schedule.rate(self.warmup, *course, epoch, step) as f32;
        let rates: Vec<f32> = (0..plan.batches.len()).map(rate).collect();
        let losses = self.stepper.run(&plan, &rates)?;
        Ok(losses.into_iter().map(|loss| loss / self.n_samples as f64).collect())
    }
}

/// What is trained, when it is finite.
fn weights(stepper: &mut dyn Stepper, is_factored: bool, epoch: usize, learning_rate: f64) -> Result<Weights> {
    match is_factored {
        true => Ok(finite_state(stepper.state()?, epoch, learning_rate)?.into_weights()),
        false => Ok(finite(stepper.parameters()?, epoch, learning_rate)?.into()),
    }
}

/// The state, when its parameters are finite.
fn finite_state(state: State, epoch: usize, learning_rate: f64) -> Result<State> {
    Ok(State { parameters: finite(state.parameters, epoch, learning_rate)?, ..state })
}

/// The parameters, when all are finite.
fn finite(parameters: Parameters, epoch: usize, learning_rate: f64) -> Result<Parameters> {
    if parameters.values.iter().all(|value| value.is_finite()) {
        Ok(parameters)
    } else {
        Err(Error::Diverged { epoch, learning_rate })
    }
}

pub(super) fn setting(name: &'static str, value: String, expected: &'static str) -> Result<()> {
    Err(Error::Setting { name, value, expected })
}
