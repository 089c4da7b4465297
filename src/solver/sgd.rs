//! Minibatch stochastic gradient descent with momentum.

use super::curvature::curvature;
use super::schedule::{Schedule, Warmup};
use super::stochastic::{Stochastic, setting};
use crate::backend::{Rule, Supervision};
use crate::data::Features;
use crate::error::Result;

/// Minibatch stochastic gradient descent with (Nesterov's) momentum. Each epoch visits every sample once in a new
/// order.
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
    /// The largest step size, which the schedule multiplies; by default 1/L, where L estimates how strongly the objective
    /// of a batch curves, from the second moments of the scaled samples, the share of the most frequent class, batch size,
    /// momentum and penalty.
    pub learning_rate: Option<f64>,
    /// Share of the velocity that each step keeps, 0 ≤ momentum < 1.
    pub momentum: f64,
    /// Nesterov's momentum (as in PyTorch).
    pub nesterov: bool,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// How it rises before.
    pub warmup: Warmup,
}

impl Default for Sgd {
    fn default() -> Self {
        Self {
            epochs: None,
            batch_size: 128,
            learning_rate: None,
            momentum: 0.9,
            nesterov: true,
            schedule: Schedule::Linear,
            warmup: Warmup::None,
        }
    }
}

impl Sgd {
    pub(super) fn check(&self) -> Result<()> {
        self.stochastic().check()?;
        if !((0.0..1.0).contains(&self.momentum) && (self.momentum as f32) < 1.0) {
            return setting("the momentum", self.momentum.to_string(), "at least 0 and below 1");
        }
        Ok(())
    }

    /// How often each of `n_samples` samples is visited.
    pub fn n_epochs(&self, n_samples: usize) -> usize {
        self.stochastic().n_epochs(n_samples)
    }

    pub(super) fn stochastic(&self) -> Stochastic {
        Stochastic {
            epochs: self.epochs,
            batch_size: self.batch_size,
            learning_rate: self.learning_rate,
            schedule: self.schedule,
            warmup: self.warmup,
            rule: Rule::Momentum { momentum: self.momentum as f32, nesterov: self.nesterov },
        }
    }

    /// The learning rate on scale·X.
    pub(super) fn learning_rate(
        &self,
        features: &Features,
        scale: f32,
        supervision: Supervision,
        n_classes: usize,
        l2: f64,
    ) -> Result<f64> {
        // Momentum adds up about 1/(1 − momentum) steps, with the noise of their batches.
        let b = (self.batch_size.min(features.n_samples()) as f64 * (1.0 - self.momentum)).max(f64::MIN_POSITIVE);
        match self.learning_rate {
            Some(rate) => Ok(rate),
            None => Ok(1.0 / (curvature(features, scale, supervision, n_classes, b)? + l2)),
        }
    }
}
