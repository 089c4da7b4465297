//! The solver and its settings, as `softreg train` and `softreg sweep` have them.

use clap::{Args, ValueEnum};
use softreg::{AdamW, Lbfgs, NewtonCg, Schedule, Sgd, Solver, Warmup};

use super::values::{below_1, count, fraction, not_negative, positive, schedule};

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SolverName {
    Auto,
    Lbfgs,
    NewtonCg,
    Sgd,
    // Without this, `adam-w`.
    #[value(name = "adamw")]
    AdamW,
}

/// What an option belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Batch,
    Lbfgs,
    Stochastic,
    Sgd,
    AdamW,
}

impl Of {
    fn includes(self, solver: SolverName) -> bool {
        use SolverName::{AdamW, Auto, Lbfgs, NewtonCg, Sgd};
        match self {
            Self::Batch => matches!(solver, Lbfgs | NewtonCg | Auto),
            Self::Lbfgs => matches!(solver, Lbfgs | Auto),
            Self::Stochastic => matches!(solver, Sgd | AdamW),
            Self::Sgd => matches!(solver, Sgd),
            Self::AdamW => matches!(solver, AdamW),
        }
    }

    fn solvers(self) -> &'static str {
        match self {
            Self::Batch => "lbfgs or newton-cg",
            Self::Lbfgs => "lbfgs",
            Self::Stochastic => "sgd or adamw",
            Self::Sgd => "sgd",
            Self::AdamW => "adamw",
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct SolverOptions {
    /// How the objective is minimised: lbfgs and newton-cg go to its minimum with all samples at once, whatever the scale of
    /// the columns; sgd and adamw take many steps with a batch each; auto takes lbfgs where that takes about a second or a
    /// penalty needs it, else sgd
    #[arg(long, value_enum, default_value_t = SolverName::Auto)]
    pub solver: SolverName,

    /// lbfgs, newton-cg: iterations at most. Default: 1000 and 200
    #[arg(long, value_name = "N", value_parser = count)]
    pub max_iterations: Option<usize>,

    /// lbfgs, newton-cg: end when the objective is estimated to be within this share of its minimum. Default: 1e-8,
    /// in the search of a sweep 1e-5, on a GPU 5e-7
    #[arg(long, value_name = "F", value_parser = fraction, allow_negative_numbers = true)]
    pub tolerance: Option<f64>,

    /// lbfgs: how many of the last steps are remembered. Default: 10
    #[arg(long, value_name = "N", value_parser = count)]
    pub memory: Option<usize>,

    /// sgd, adamw: how often each sample is visited. Default: 30, on small data as often as makes 1,000 steps
    #[arg(long, value_name = "N", value_parser = count)]
    pub epochs: Option<usize>,

    /// sgd, adamw: samples a step. Default: 128
    #[arg(long, value_name = "N", value_parser = count)]
    pub batch_size: Option<usize>,

    /// sgd, adamw: how the learning rate changes: constant; linear, to 0 in a straight line; cosine, to 0 along half a cosine;
    /// one-cycle, from a 25th up and then to 0; step:FACTOR:EPOCHS, times FACTOR every EPOCHS. Default: linear
    #[arg(long, value_name = "NAME", value_parser = schedule)]
    pub schedule: Option<Schedule>,

    /// sgd, adamw: let the learning rate rise for so many epochs first, which need not be whole
    #[arg(long, value_name = "EPOCHS", value_parser = not_negative, allow_negative_numbers = true)]
    pub warmup: Option<f64>,

    /// sgd: share of the velocity that a step keeps, at least 0 and below 1. Default: 0.9
    #[arg(long, value_name = "F", value_parser = below_1, allow_negative_numbers = true)]
    pub momentum: Option<f64>,

    /// sgd: Nesterov's momentum (the default)
    #[arg(long, overrides_with = "no_nesterov")]
    pub nesterov: bool,

    /// sgd: plain momentum instead of Nesterov's
    #[arg(long)]
    pub no_nesterov: bool,

    /// adamw: share of the mean gradient that a step keeps, at least 0 and below 1. Default: 0.9
    #[arg(long = "beta1", value_name = "F", value_parser = below_1, allow_negative_numbers = true)]
    pub beta_1: Option<f64>,

    /// adamw: share of the mean squared gradient that a step keeps, at least 0 and below 1. Default: 0.999
    #[arg(long = "beta2", value_name = "F", value_parser = below_1, allow_negative_numbers = true)]
    pub beta_2: Option<f64>,

    /// adamw: what is added to the root of the mean squared gradient. Default: 1e-8
    #[arg(long, value_name = "F", value_parser = positive, allow_negative_numbers = true)]
    pub epsilon: Option<f64>,

    /// adamw: decoupled weight decay, which is no part of the objective; see --l2 for the penalty that is. Default: 0
    #[arg(long, value_name = "F", value_parser = not_negative, allow_negative_numbers = true)]
    pub weight_decay: Option<f64>,
}

impl SolverOptions {
    /// The solver; `is_stochastic` says that an option of sgd and adamw was given beside these.
    pub fn solver(&self, learning_rate: Option<f64>, is_stochastic: bool) -> Solver {
        let epochs = self.epochs;
        let batch_size = self.batch_size.unwrap_or(Sgd::default().batch_size);
        let schedule = self.schedule.unwrap_or_default();
        let warmup = self.warmup.filter(|&epochs| epochs > 0.0).map_or(Warmup::None, Warmup::Epochs);
        match self.name(is_stochastic) {
            SolverName::Auto => Solver::Auto,
            SolverName::Lbfgs => {
                let default = Lbfgs::default();
                let mut lbfgs = default.clone();
                lbfgs.max_iterations = self.max_iterations.unwrap_or(default.max_iterations);
                lbfgs.tolerance = self.tolerance.unwrap_or(default.tolerance);
                lbfgs.memory = self.memory.unwrap_or(default.memory);
                lbfgs.into()
            }
            SolverName::NewtonCg => {
                let default = NewtonCg::default();
                let mut newton = default.clone();
                newton.max_iterations = self.max_iterations.unwrap_or(default.max_iterations);
                newton.tolerance = self.tolerance.unwrap_or(default.tolerance);
                newton.into()
            }
            SolverName::Sgd => {
                let momentum = self.momentum.unwrap_or(Sgd::default().momentum);
                let nesterov = !self.no_nesterov;
                Sgd { epochs, batch_size, learning_rate, momentum, nesterov, schedule, warmup }.into()
            }
            SolverName::AdamW => {
                let default = AdamW::default();
                let beta_1 = self.beta_1.unwrap_or(default.beta_1);
                let beta_2 = self.beta_2.unwrap_or(default.beta_2);
                let epsilon = self.epsilon.unwrap_or(default.epsilon);
                let weight_decay = self.weight_decay.unwrap_or(default.weight_decay);
                AdamW { epochs, batch_size, learning_rate, beta_1, beta_2, epsilon, weight_decay, schedule, warmup }
                    .into()
            }
        }
    }

    /// The solver that was named; where that is auto, the one that an option belongs to.
    pub fn name(&self, is_stochastic: bool) -> SolverName {
        let is_given = |of: &[Of]| self.given().into_iter().any(|(its, _, is_given)| is_given && of.contains(&its));
        match self.solver {
            SolverName::Auto if is_stochastic || is_given(&[Of::Stochastic, Of::Sgd]) => SolverName::Sgd,
            SolverName::Auto if is_given(&[Of::Batch, Of::Lbfgs]) => SolverName::Lbfgs,
            named => named,
        }
    }

    fn given(&self) -> [(Of, &'static str, bool); 14] {
        [
            (Of::Batch, "--max-iterations", self.max_iterations.is_some()),
            (Of::Batch, "--tolerance", self.tolerance.is_some()),
            (Of::Lbfgs, "--memory", self.memory.is_some()),
            (Of::Stochastic, "--epochs", self.epochs.is_some()),
            (Of::Stochastic, "--batch-size", self.batch_size.is_some()),
            (Of::Stochastic, "--schedule", self.schedule.is_some()),
            (Of::Stochastic, "--warmup", self.warmup.is_some()),
            (Of::Sgd, "--momentum", self.momentum.is_some()),
            (Of::Sgd, "--nesterov", self.nesterov),
            (Of::Sgd, "--no-nesterov", self.no_nesterov),
            (Of::AdamW, "--beta1", self.beta_1.is_some()),
            (Of::AdamW, "--beta2", self.beta_2.is_some()),
            (Of::AdamW, "--epsilon", self.epsilon.is_some()),
            (Of::AdamW, "--weight-decay", self.weight_decay.is_some()),
        ]
    }

    /// An option, of these or of `more`, that was given and is not of the solver, and the solvers that it is of.
    pub fn foreign_option(
        &self,
        more: &[(Of, &'static str, bool)],
        is_stochastic: bool,
    ) -> Option<(&'static str, &'static str)> {
        let solver = self.name(is_stochastic);
        let given = self.given().into_iter().chain(more.iter().copied());
        given
            .filter(|(of, _, is_given)| *is_given && !of.includes(solver))
            .map(|(of, name, _)| (name, of.solvers()))
            .next()
    }
}
