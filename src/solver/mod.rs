//! How the objective is minimised. A solver asks a backend for steps or values; it neither knows nor cares where they
//! are computed.

mod batch;
mod certificate;
mod curvature;
mod preconditioner;
mod proximal;
mod sgd;
mod stop;
mod vector;

pub use batch::{Lbfgs, NewtonCg};
pub use certificate::Certificate;
pub use sgd::Sgd;
pub use stop::StopReason;

pub(crate) use batch::{Batch, Problem};

use std::time::Duration;

use serde_json::{Value, json};

use crate::error::Result;

/// How the objective is minimised.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Solver {
    /// Minibatch stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// Limited-memory BFGS.
    Lbfgs(Lbfgs),
    /// Newton's method with conjugate gradients.
    NewtonCg(NewtonCg),
}

impl Solver {
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Sgd(sgd) => sgd.check(),
            Self::Lbfgs(lbfgs) => Batch::from(lbfgs).check(),
            Self::NewtonCg(newton) => Batch::from(newton).check(),
        }
    }

    /// Whether it takes steps with batches of the samples.
    pub(crate) fn is_stochastic(&self) -> bool {
        matches!(self, Self::Sgd(_))
    }

    /// Its settings for the record of a training of so many epochs or iterations.
    pub(crate) fn settings(&self, n: usize, learning_rate: Option<f64>) -> Value {
        match self {
            Self::Sgd(sgd) => json!({
                "epochs": n,
                "batch_size": sgd.batch_size,
                "learning_rate": learning_rate,
                "momentum": sgd.momentum,
                "nesterov": sgd.nesterov,
            }),
            Self::Lbfgs(lbfgs) => json!({ "iterations": n, "tolerance": lbfgs.tolerance, "memory": lbfgs.memory }),
            Self::NewtonCg(newton) => json!({ "iterations": n, "tolerance": newton.tolerance }),
        }
    }

    /// Its name, as the command line has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sgd(_) => "sgd",
            Self::Lbfgs(_) => "lbfgs",
            Self::NewtonCg(_) => "newton-cg",
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

impl From<Lbfgs> for Solver {
    fn from(lbfgs: Lbfgs) -> Self {
        Self::Lbfgs(lbfgs)
    }
}

impl From<NewtonCg> for Solver {
    fn from(newton: NewtonCg) -> Self {
        Self::NewtonCg(newton)
    }
}

/// Where training stands after an epoch, or an iteration of a batch solver.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Epochs or iterations done.
    pub epoch: usize,
    /// Epochs to do, or iterations at most.
    pub n_epochs: usize,
    /// Mean loss in nats, without penalty, over the epoch: each sample's as it was before the step it was part of. Of a batch
    /// solver the objective, with penalty.
    pub loss: f64,
    /// Passes over all samples so far, each of a product X·W and one Xᵀ·R.
    pub evaluations: f64,
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
