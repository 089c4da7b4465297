//! What the command line accepts. Values that make no sense are refused here, with exit status 2.

mod bench;
mod data;
mod device;
mod files;
mod model;
mod solver;
mod sweep;
mod train;
mod values;

use clap::{Parser, Subcommand};

pub use bench::{Bench, BenchShape};
pub use data::{Data, Format, ModelData, TrainingData};
pub use device::{Device, device_options};
pub use files::{Convert, Download, Inspect, ModelForm};
pub use model::{Calibrate, Evaluate, Info, Predict};
pub use solver::{Of, SolverName, SolverOptions};
pub use sweep::{CriterionName, FoldsName, Grid, Preset, Search, Sweep};
pub use train::Train;
pub use values::DtypeName;

/// Softmax regression (multinomial logistic regression, linear probes) on a GPU or on the CPU.
#[derive(Debug, Parser)]
#[command(
    version,
    subcommand_required = true,
    after_help = "\
`softreg` alone is `softreg train`; without data it trains on built-in images of
handwritten digits. `softreg COMMAND --help` has the options.

Examples:
  softreg
  softreg inspect flowers.csv --label-column species
  softreg train flowers.csv --label-column species --test-split 0.2 \\
      --out flowers.safetensors
  softreg predict flowers.safetensors new.csv
  softreg evaluate flowers.safetensors other.csv --label-column species

Results go to standard output, progress and messages to standard error.
What is learned of a GPU (compiled kernels, a passed self-check, tuning) is kept
in the system's cache folder; SOFTREG_CACHE names another, or none if empty.
So are downloaded data sets; SOFTREG_DATA names another folder.
Exit status: 0 success, 1 failure, 2 wrong usage, 130 ended by Ctrl-C."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a classifier and measure it
    Train(Train),
    /// Choose the penalty or the learning rate by cross-validation, and train with the best
    Sweep(Sweep),
    /// Measure a model on labelled data
    Evaluate(Evaluate),
    /// Scale a model's logits so that its probabilities agree with data
    Calibrate(Calibrate),
    /// Predict the class of each sample
    Predict(Predict),
    /// List the devices to train on, and which one `auto` takes
    Devices,
    /// Compare the devices: epochs of training on each, in turns
    Bench(Bench),
    /// Show what is in a model file
    Info(Info),
    /// Show what is in data: shape, ranges, classes, missing values
    Inspect(Inspect),
    /// Write data as .npy or safetensors, which are read in milliseconds
    Convert(Convert),
    /// Get a well-known data set: mnist, fashion-mnist, kmnist
    Download(Download),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
