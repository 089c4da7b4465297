//! Minibatch stochastic gradient descent with momentum.

use std::ops::ControlFlow;
use std::time::Instant;

use super::Progress;
use super::curvature::curvature;
use crate::backend::{Head, Parameters, Rule, Session};
use crate::batch::Plan;
use crate::data::Dataset;
use crate::error::{Error, Result};

/// Minibatch stochastic gradient descent with (Nesterov's) momentum. Each epoch visits every sample once in a new
/// order; the learning rate falls in a straight line from its start to zero at the last step, so that the noise of the
/// batches dies out.
///
/// More settings may be added: end with `..Sgd::default()`.
///
/// ```
/// use softreg::{Sgd, SoftmaxRegression};
/// let estimator = SoftmaxRegression::new().solver(Sgd { epochs: Some(5), ..Sgd::default() });
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Sgd {
    /// How often each sample is visited; by default 30 times, on small data as often as makes 1,000 steps.
    pub epochs: Option<usize>,
    /// Samples a step. The loss of a step is their mean.
    pub batch_size: usize,
    /// The first step's size; by default 1/L, where L estimates how strongly the objective of a batch curves, from the
    /// second moments of the scaled samples, the share of the most frequent class, batch size, momentum and penalty.
    pub learning_rate: Option<f64>,
    /// Share of the velocity that each step keeps, 0 ≤ momentum < 1.
    pub momentum: f64,
    /// Nesterov's momentum (as in PyTorch).
    pub nesterov: bool,
}

/// Epochs by default, and steps at least.
const EPOCHS: usize = 30;
const STEPS: usize = 1000;

impl Default for Sgd {
    fn default() -> Self {
        Self { epochs: None, batch_size: 128, learning_rate: None, momentum: 0.9, nesterov: true }
    }
}

impl Sgd {
    pub(crate) fn check(&self) -> Result<()> {
        let setting = |name, value: String, expected| Err(Error::Setting { name, value, expected });
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
        if !(0.0..1.0).contains(&self.momentum) {
            return setting("the momentum", self.momentum.to_string(), "at least 0 and below 1");
        }
        Ok(())
    }

    /// How often each of `n_samples` samples is visited.
    pub fn n_epochs(&self, n_samples: usize) -> usize {
        let steps_per_epoch = n_samples.div_ceil(self.batch_size.max(1)).max(1);
        self.epochs.unwrap_or_else(|| EPOCHS.max(STEPS.div_ceil(steps_per_epoch)))
    }

    /// The first step's size on that data.
    pub(crate) fn first_rate(&self, data: &Dataset, scale: f32, l2: f64) -> f64 {
        // Momentum adds up about 1/(1 − momentum) steps, with the noise of their batches.
        let b = (self.batch_size.min(data.n_samples()) as f64 * (1.0 - self.momentum)).max(f64::MIN_POSITIVE);
        let curvature = || curvature(data.features(), scale, data.labels().targets(), data.n_classes(), b);
        self.learning_rate.unwrap_or_else(|| 1.0 / (curvature() + l2))
    }

    /// Minimises from `start`; `on_epoch` may stop it. Returns the parameters, what each epoch's progress was, and when the
    /// first step began.
    pub(crate) fn minimise(
        &self,
        session: &mut dyn Session,
        start: &Parameters,
        l2: f64,
        first_rate: f64,
        seed: u64,
        on_epoch: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<(Parameters, Vec<Progress>, Instant)> {
        let head = Head {
            learning_rate: first_rate as f32,
            l2: l2 as f32,
            intercept: true,
            rule: Rule::Momentum { momentum: self.momentum as f32, nesterov: self.nesterov },
        };
        let chunks = session.chunks().to_vec();
        let n_samples = chunks.last().map_or(0, |chunk| chunk.end);
        let largest_chunk = chunks.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let batch_size = self.batch_size.min(largest_chunk);
        let mut stepper = session.stepper(start, &[head], batch_size)?;
        let begin = Instant::now();
        let n_epochs = self.n_epochs(n_samples);
        let mut epochs: Vec<Progress> = Vec::new();
        for epoch in 0..n_epochs {
            let plan = Plan::new(&chunks, batch_size, seed, epoch as u64);
            let n_steps = plan.batches.len();
            let done = |step: usize| (epoch as f64 + step as f64 / n_steps as f64) / n_epochs as f64;
            let rates: Vec<f32> = (0..n_steps).map(|step| (1.0 - done(step)) as f32).collect();
            let loss = stepper.run(&plan, &rates)?[0] / n_samples as f64;
            if !loss.is_finite() {
                return Err(Error::Diverged { epoch: epoch + 1, learning_rate: first_rate });
            }
            let progress = Progress { epoch: epoch + 1, n_epochs, loss, n_samples, elapsed: begin.elapsed() };
            let flow = on_epoch(&progress);
            epochs.push(progress);
            if flow.is_break() {
                break;
            }
        }
        let parameters = stepper.parameters()?;
        if parameters.values.iter().any(|value| !value.is_finite()) {
            return Err(Error::Diverged { epoch: epochs.len(), learning_rate: first_rate });
        }
        Ok((parameters, epochs, begin))
    }
}
