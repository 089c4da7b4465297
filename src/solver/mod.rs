//! How the objective is minimised. A solver asks a backend for steps or values; it neither knows nor cares where they
//! are computed.

mod adamw;
mod curvature;
mod schedule;
mod sgd;
mod stochastic;
mod stop;

pub use adamw::AdamW;
pub use schedule::{Schedule, Warmup};
pub use sgd::Sgd;
pub(crate) use stochastic::{Stochastic, StochasticProblem};
pub use stop::StopReason;
pub(crate) use stop::{Limits, Observer, Outcome, Validate};

use std::time::Duration;

use crate::data::{Features, Targets};
use crate::error::Result;

/// How the objective is minimised.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Solver {
    /// Minibatch stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// AdamW.
    AdamW(AdamW),
}

impl Solver {
    /// Its name, as the command line has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sgd(_) => "sgd",
            Self::AdamW(_) => "adamw",
        }
    }

    /// How often each of `n_samples` samples is visited, if training is not stopped.
    pub fn n_epochs(&self, n_samples: usize) -> usize {
        self.stochastic().n_epochs(n_samples)
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Sgd(sgd) => sgd.check(),
            Self::AdamW(adamw) => adamw.check(),
        }
    }

    pub(crate) fn stochastic(&self) -> Stochastic {
        match self {
            Self::Sgd(sgd) => sgd.stochastic(),
            Self::AdamW(adamw) => adamw.stochastic(),
        }
    }

    /// The learning rate on scale·X, the one given or else the default.
    pub(crate) fn learning_rate(
        &self,
        features: &Features,
        scale: f32,
        targets: &Targets,
        n_classes: usize,
        l2: f64,
    ) -> f64 {
        match self {
            Self::Sgd(sgd) => sgd.learning_rate(features, scale, targets, n_classes, l2),
            Self::AdamW(adamw) => adamw.learning_rate(),
        }
    }

    /// The same solver, with so many epochs where it leaves them open.
    pub(crate) fn with_default_epochs(mut self, n: usize) -> Self {
        let (Self::Sgd(Sgd { epochs, .. }) | Self::AdamW(AdamW { epochs, .. })) = &mut self;
        epochs.get_or_insert(n);
        self
    }
}

impl Default for Solver {
    fn default() -> Self {
        Self::Sgd(Sgd::default())
    }
}

impl From<AdamW> for Solver {
    fn from(adamw: AdamW) -> Self {
        Self::AdamW(adamw)
    }
}

impl From<Sgd> for Solver {
    fn from(sgd: Sgd) -> Self {
        Self::Sgd(sgd)
    }
}

/// Where training stands after an epoch.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Epochs done.
    pub epoch: usize,
    /// Epochs to do.
    pub n_epochs: usize,
    /// Mean loss in nats, without penalty, over the epoch: each sample's as it was before the step it was part of.
    pub loss: f64,
    /// Mean loss in nats of the validation data after the epoch, where there is any.
    pub validation_loss: Option<f64>,
    /// Samples of an epoch.
    pub n_samples: usize,
    /// Time since training started.
    pub elapsed: Duration,
}

impl Progress {
    /// Samples a second since training started.
    pub fn samples_per_second(&self) -> f64 {
        self.epoch as f64 * self.n_samples as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The time that the epochs to come will take, if they are as fast as those done.
    pub fn remaining(&self) -> Duration {
        let left = self.n_epochs.saturating_sub(self.epoch) as f64 / self.epoch.max(1) as f64;
        Duration::try_from_secs_f64(self.elapsed.as_secs_f64() * left).unwrap_or(Duration::MAX)
    }
}
