//! `softreg train`.

use std::path::PathBuf;

use clap::Args;
use softreg::data::Source;
use softreg::{Dataset, Every, FeatureScale, Solver, Structure};

use super::values::{count, every, feature_scale, fraction, not_negative, positive, seconds};
use super::{Device, Of, SolverOptions, TrainingData};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  softreg train
  softreg train flowers.csv --label-column species --test-split 0.2 \\
      --out flowers.safetensors
  softreg train images.idx3.gz --labels labels.idx1.gz --test-split 0.2
  softreg train x.npy --labels y.txt --test test_x.npy \\
      --test-labels test_y.txt --l2 1e-6 --epochs 100")]
pub struct Train {
    #[command(flatten)]
    pub data: TrainingData,

    /// Validation data, in the form of FEATURES: measured after each epoch, and the model is that of the best
    #[arg(
        long,
        value_name = "FEATURES",
        requires = "features",
        conflicts_with = "validation_split",
        group = "held_out"
    )]
    pub validation: Option<PathBuf>,

    /// Labels of the validation data, in the form of --labels
    #[arg(long, value_name = "PATH", requires = "validation")]
    pub validation_labels: Option<PathBuf>,

    /// Share of the training samples, drawn at random, to keep for validation, between 0 and 1
    #[arg(long, value_name = "F", value_parser = fraction, allow_negative_numbers = true, group = "held_out")]
    pub validation_split: Option<f64>,

    /// Stop when so many epochs in a row had no lower validation loss
    #[arg(long, value_name = "EPOCHS", value_parser = count, requires = "held_out")]
    pub patience: Option<usize>,

    /// Stop before the epoch that would take the training over so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub time_limit: Option<f64>,

    /// Start from the weights of this model. The new model has its classes, and those that are new in the data
    #[arg(long, value_name = "MODEL")]
    pub init: Option<PathBuf>,

    /// What the weights W (d × q) are made of: dense, W itself; phm:M, the sum of M Kronecker products, M³ + d·q/M numbers; quaternion,
    /// four such products with fixed factors, d·q/4 numbers; lowrank:R, the product of d × R and R × q numbers. The model file keeps
    /// these. For lbfgs, and with dense features sgd and adamw
    #[arg(long, value_name = "STRUCTURE", default_value_t = Structure::Dense)]
    pub weights: Structure,

    /// phm:M, quaternion and lowrank:R: begin at the W of that structure that is nearest to the W of --init, as --weights with --init does
    #[arg(long, value_name = "STRUCTURE", requires = "init", conflicts_with = "weights")]
    pub compress: Option<Structure>,

    /// phm:M and lowrank:R: train so often, with --seed and the seeds after it, and keep the model with the lowest validation
    /// loss, else the lowest objective. On the CPU up to 16 at once on dense features in memory; --time-limit is of all together
    #[arg(long, value_name = "N", value_parser = count, default_value_t = 1)]
    pub seeds: usize,

    #[command(flatten)]
    pub device: Device,

    /// Use a GPU's matrix units in steps with more than 64 classes: features, weights and residuals are
    /// rounded to half precision in the products; sums stay in single precision. Not yet timed on any GPU; without such
    /// units it trains as usual
    #[arg(long)]
    pub matrix_units: bool,

    #[command(flatten)]
    pub solver: SolverOptions,

    /// Finish the last digits on the CPU in double precision, with lbfgs
    #[arg(long, conflicts_with = "held_out")]
    pub polish: bool,

    /// Learning rate, which the schedule multiplies. Default: chosen from the data; the report has it
    #[arg(long, value_name = "F", value_parser = positive, allow_negative_numbers = true)]
    pub lr: Option<f64>,

    /// Train without an intercept
    #[arg(long)]
    pub no_intercept: bool,

    /// Penalty: the objective is mean loss + l2/2·‖W‖², with W that of the scaled features and the intercept not penalised
    #[arg(long, value_name = "F", value_parser = not_negative, allow_negative_numbers = true, default_value = "1e-5")]
    pub l2: f64,

    /// Inverse strength of the penalty as scikit-learn has it, in the place of --l2: l2 = 1/(C·n), n the samples trained on, with
    /// weights their sum; for two classes 2/(C·n). Of an l1_ratio other than 0 give --l2 and --l1
    #[arg(long, value_name = "C", value_parser = positive, allow_negative_numbers = true, conflicts_with_all = ["l2", "l1"])]
    pub c: Option<f64>,

    /// Penalty l1·‖W‖₁ beside that of --l2, with exact zeros. scikit-learn's l1_ratio r and C are l1 = r/(C·n) and l2 = (1 - r)/(C·n),
    /// for two classes 2(1 - r)/(C·n). For lbfgs
    #[arg(long, value_name = "F", value_parser = not_negative, allow_negative_numbers = true, default_value = "0")]
    pub l1: f64,

    /// Penalise the weights of standardised features, (x - mean)/deviation; the saved model takes features as they are. For
    /// lbfgs and newton-cg
    #[arg(long)]
    pub standardize: bool,

    /// Factors of the penalty, one for each feature, in the form of --sample-weight; 0 leaves a feature without a penalty.
    /// For lbfgs and newton-cg
    #[arg(long, value_name = "PATH", requires = "features")]
    pub penalty_factors: Option<PathBuf>,

    /// Seed of the order of the samples, of --test-split, and of where phm:M and lowrank:R begin. One seed on one device gives one model, bit for bit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// What every feature is multiplied by in training (the saved model takes features as they are): `auto` brings bytes to
    /// 0..1 by the largest of all and leaves numbers as they are; `none` is 1
    #[arg(long, value_name = "auto|none|F", value_parser = feature_scale, allow_negative_numbers = true, default_value = "auto")]
    pub feature_scale: FeatureScale,

    /// Save the model as this file (safetensors). Default: it is not saved
    #[arg(long, value_name = "MODEL.safetensors")]
    pub out: Option<PathBuf>,

    /// Keep in this file where the training stands, to go on from there with --resume; Ctrl-C saves it and ends
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,

    /// When to save the checkpoint: after every N epochs (lbfgs, newton-cg: iterations), or at the first end of an epoch after
    /// that time, as 30s, 10m or 2h
    #[arg(long, value_name = "N|TIME", value_parser = every, default_value = "60s")]
    pub checkpoint_every: Every,

    /// Go on from the checkpoint of a run with the same data and options, to the same model bit for bit: from that of
    /// --checkpoint, or from the beginning where there is none yet; or from this one (--resume=FILE)
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub resume: Option<Option<PathBuf>>,

    /// Write settings and results as one JSON object to this file; `-` is standard output, the report then goes to
    /// standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// No progress and no messages, only the report (with `--json -` only the JSON), warnings and errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl Train {
    /// What the weights are made of.
    pub fn structure(&self) -> Structure {
        self.compress.unwrap_or(self.weights)
    }

    pub fn solver(&self) -> Solver {
        self.solver.solver(self.lr, self.lr.is_some())
    }

    /// An option that was given and is not of the solver, and the solvers that it is of.
    pub fn foreign_option(&self) -> Option<(&'static str, &'static str)> {
        let more = [
            (Of::Stochastic, "--lr", self.lr.is_some()),
            (Of::Lbfgs, "--l1", self.l1 > 0.0),
            (Of::Batch, "--standardize", self.standardize),
            (Of::Batch, "--penalty-factors", self.penalty_factors.is_some()),
        ];
        self.solver.foreign_option(&more, self.lr.is_some())
    }

    /// The validation data, with the columns of the training data, and the indices counted as there.
    pub fn validation_source(&self, train: &Dataset, zero_based: Option<bool>) -> Option<Source> {
        let (path, labels) = (self.validation.as_ref()?, self.validation_labels.as_ref());
        Some(self.data.other_source(path, labels, None, train, zero_based, &self.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let Command::Train(train) = Cli::parse_from(["softreg", "train"]).command else { panic!("not train") };
        assert_eq!(train.solver(), Solver::default());
        let library = format!("{:?}", softreg::SoftmaxRegression::new());
        assert!(library.contains(&format!("l2: {:?},", train.l2)), "{library}");
        assert!(library.contains(&format!("seed: {:?},", train.seed)), "{library}");
        assert!(library.contains(&format!("feature_scale: {:?},", train.feature_scale)), "{library}");
    }
}
