//! How the objective is minimised. A solver asks a backend for steps or values; it neither knows nor cares where they
//! are computed.

mod adamw;
mod batch;
mod certificate;
mod class_blocks;
mod curvature;
mod factor_curvature;
mod factored;
mod minimum;
mod past;
mod preconditioner;
mod proximal;
mod quasi_newton;
mod scaling;
mod schedule;
mod screened;
mod sgd;
mod stochastic;
mod stop;
mod support;
mod vector;

pub use adamw::AdamW;
pub(crate) use batch::{Batch, Stand, Task};
pub use batch::{Lbfgs, NewtonCg};
pub use certificate::Certificate;
pub(crate) use minimum::{Learned, Numbers};
pub(crate) use past::{Past, Trail};
pub(crate) use scaling::Held;
pub use schedule::{Schedule, Warmup};
pub use sgd::Sgd;
pub(crate) use stochastic::{Stochastic, StochasticProblem};
pub(crate) use stop::{Best, Keeper, Limits, Observer, Outcome, Snapshot, SolverState, Validate, WriteCheckpoint};
pub use stop::{Every, StopReason};

use std::time::Duration;

use crate::backend::Supervision;
use crate::data::Features;
use crate::error::Result;

/// The most values of the features, those of sparse ones that are stored, times n_classes that [`Solver::Auto`] minimises with all samples at once.
const LARGEST_BATCH: usize = 20_000_000;

/// How the objective is minimised.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Solver {
    /// L-BFGS where that takes about a second at most, n_samples·n_features·n_classes ≤ 2·10⁷ (of sparse features stored
    /// values·n_classes), or where the penalty needs it; else SGD.
    #[default]
    Auto,
    /// Minibatch stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// AdamW.
    AdamW(AdamW),
    /// Limited-memory BFGS.
    Lbfgs(Lbfgs),
    /// Newton's method with conjugate gradients.
    NewtonCg(NewtonCg),
}

/// One of the two kinds of solvers.
pub(crate) enum Kind {
    /// Steps with a batch of samples each.
    Stochastic(Stochastic),
    /// Iterations with all samples.
    Batch(Batch),
}

impl Solver {
    /// Its name, as the command line has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sgd(_) => "sgd",
            Self::AdamW(_) => "adamw",
            Self::Lbfgs(_) => "lbfgs",
            Self::NewtonCg(_) => "newton-cg",
        }
    }

    /// How often each of `n_samples` samples is visited, if training is not stopped; of a batch solver, the most iterations.
    pub fn n_epochs(&self, n_samples: usize) -> usize {
        match self.kind() {
            Kind::Stochastic(solver) => solver.n_epochs(n_samples),
            Kind::Batch(solver) => solver.max_iterations(),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Auto => Ok(()),
            Self::Sgd(sgd) => sgd.check(),
            Self::AdamW(adamw) => adamw.check(),
            Self::Lbfgs(lbfgs) => Batch::from(lbfgs).check(),
            Self::NewtonCg(newton) => Batch::from(newton).check(),
        }
    }

    /// Whether it takes steps with batches of the samples.
    pub(crate) fn is_stochastic(&self) -> bool {
        matches!(self.kind(), Kind::Stochastic(_))
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Sgd(sgd) => Kind::Stochastic(sgd.stochastic()),
            Self::Auto => Kind::Batch((&Lbfgs::default()).into()),
            Self::AdamW(adamw) => Kind::Stochastic(adamw.stochastic()),
            Self::Lbfgs(lbfgs) => Kind::Batch(lbfgs.into()),
            Self::NewtonCg(newton) => Kind::Batch(newton.into()),
        }
    }

    /// The learning rate on scale·X, the one given or else the default; none of batch solvers.
    pub(crate) fn learning_rate(
        &self,
        features: &Features,
        scale: f32,
        supervision: Supervision,
        n_classes: usize,
        l2: f64,
    ) -> Result<Option<f64>> {
        Ok(match self {
            Self::Sgd(sgd) => Some(sgd.learning_rate(features, scale, supervision, n_classes, l2)?),
            Self::AdamW(adamw) => Some(adamw.learning_rate()),
            Self::Auto | Self::Lbfgs(_) | Self::NewtonCg(_) => None,
        })
    }

    /// The same solver, or the one that is chosen for data whose stored values times n_classes are `size`.
    pub(crate) fn chosen_for(self, size: usize, needs_batch: bool) -> Self {
        match self {
            Self::Auto if needs_batch || size <= LARGEST_BATCH => Self::Lbfgs(Lbfgs::default()),
            Self::Auto => Self::Sgd(Sgd::default()),
            chosen => chosen,
        }
    }

    /// The same solver, with so many epochs where it leaves them open; SGD where that is left to the data.
    pub(crate) fn with_default_epochs(mut self, n: usize) -> Self {
        match &mut self {
            Self::Auto => Self::Sgd(Sgd { epochs: Some(n), ..Sgd::default() }),
            Self::Sgd(Sgd { epochs, .. }) | Self::AdamW(AdamW { epochs, .. }) => {
                epochs.get_or_insert(n);
                self
            }
            Self::Lbfgs(_) | Self::NewtonCg(_) => self,
        }
    }

    /// The same solver with another learning rate, where it has one.
    pub(crate) fn with_learning_rate(mut self, rate: f64) -> Self {
        match &mut self {
            Self::Sgd(Sgd { learning_rate, .. }) | Self::AdamW(AdamW { learning_rate, .. }) => {
                *learning_rate = Some(rate)
            }
            Self::Auto | Self::Lbfgs(_) | Self::NewtonCg(_) => {}
        }
        self
    }

    /// Its tolerance, where it has one.
    pub(crate) fn tolerance(&self) -> Option<f64> {
        match self {
            Self::Lbfgs(Lbfgs { tolerance, .. }) | Self::NewtonCg(NewtonCg { tolerance, .. }) => Some(*tolerance),
            Self::Auto | Self::Sgd(_) | Self::AdamW(_) => None,
        }
    }

    /// The same solver with another tolerance, where it has one.
    pub(crate) fn with_tolerance(mut self, of: impl Fn(f64) -> f64) -> Self {
        match &mut self {
            Self::Lbfgs(Lbfgs { tolerance, .. }) | Self::NewtonCg(NewtonCg { tolerance, .. }) => {
                *tolerance = of(*tolerance);
            }
            Self::Auto | Self::Sgd(_) | Self::AdamW(_) => {}
        }
        self
    }
}

impl From<AdamW> for Solver {
    fn from(adamw: AdamW) -> Self {
        Self::AdamW(adamw)
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

impl From<Sgd> for Solver {
    fn from(sgd: Sgd) -> Self {
        Self::Sgd(sgd)
    }
}

/// Where training stands after an epoch, or an iteration of a batch solver.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// The training's: with [`SoftmaxRegression::seeds`](crate::SoftmaxRegression::seeds) several may go on at once.
    pub seed: u64,
    /// Epochs or iterations done.
    pub epoch: usize,
    /// Epochs to do, or iterations at most.
    pub n_epochs: usize,
    /// Mean loss in nats, without penalty, over the epoch: each sample's as it was before the step it was part of. Of a batch
    /// solver the objective, with penalty.
    pub loss: f64,
    /// Passes over all samples so far, each of a product X·W and one Xᵀ·R.
    pub evaluations: f64,
    /// Mean loss in nats of the validation data after the epoch, where there is any.
    pub validation_loss: Option<f64>,
    /// Whether it is an iteration of the polish, which counts its own.
    pub is_polish: bool,
    /// Samples of an epoch.
    pub n_samples: usize,
    /// Time since training started.
    pub elapsed: Duration,
}

impl Progress {
    /// After an epoch or iteration of a training, which is not validated yet, and of whose seed the solver does not know.
    fn after(epoch: usize, n_epochs: usize, loss: f64, evaluations: f64, n_samples: usize, elapsed: Duration) -> Self {
        let (seed, validation_loss, is_polish) = (0, None, false);
        Self { seed, epoch, n_epochs, loss, evaluations, validation_loss, is_polish, n_samples, elapsed }
    }

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
