//! How the objective is minimised. A solver asks a backend for steps or values; it neither knows nor cares where they
//! are computed.

mod curvature;
mod sgd;

pub use sgd::Sgd;

use std::time::Duration;

/// How the objective is minimised.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Solver {
    /// Minibatch stochastic gradient descent with momentum.
    Sgd(Sgd),
}

impl Solver {
    /// Its name, as the command line has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sgd(_) => "sgd",
        }
    }
}

impl Default for Solver {
    fn default() -> Self {
        Self::Sgd(Sgd::default())
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
