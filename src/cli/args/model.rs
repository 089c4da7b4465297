//! What is done with a model: `softreg evaluate`, `calibrate`, `predict` and `info`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use softreg::Calibration;

use super::values::count;
use super::{Device, Format, ModelData};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  softreg evaluate flowers.safetensors other.csv --label-column species
  softreg evaluate digits.safetensors images.idx3.gz --labels labels.idx1.gz

Figures are means over the samples, by weight if there are weights. p are the
predicted probabilities of a sample, y is its label: 1 for its class, else 0,
or the probabilities that the labels give. A bit is ln 2 nats.
  cross-entropy     (loss) -sum y log p; perplexity is its exponential
  label entropy     -sum s log s, s the shares of the classes in the data: the
                    cross-entropy of who knows nothing but these
  captured          label entropy less cross-entropy: the mutual information
                    of features and labels, as far as the model has it
  predictions       -sum p log p: how uncertain the model says it is
  target entropy    -sum y log y, which no cross-entropy is below; 0 for classes
  KL divergence     cross-entropy less target entropy
  top-K accuracy    share of the samples whose label is among the K most
                    probable classes, of equally probable ones the first
  Brier score       sum (p - y)^2
  calibration error how far the probability of the predicted class is from
                    the share of right predictions, in 15 bins of it (ECE)")]
pub struct Evaluate {
    #[command(flatten)]
    pub data: ModelData,

    /// Report the share of samples whose label is among the K most probable classes. Default: 5, with more classes than that
    #[arg(long, value_name = "K", value_parser = count)]
    pub top_k: Option<usize>,

    #[command(flatten)]
    pub device: Device,

    /// Write the results as one JSON object to this file; `-` is standard output, the report then goes to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  softreg calibrate flowers.safetensors other.csv --label-column species \\
      --out calibrated.safetensors
  softreg calibrate big.safetensors x.npy --labels y.txt --method vector \\
      --out calibrated.safetensors --json -

The data must be other than what the model was trained on (hundreds of samples,
thousands with --method vector): on that it is right too often to tell. Test it on
a third part, with softreg evaluate, as the figures after are of the data that the
scaling was chosen by. o being the logits of a sample, its probabilities become
  temperature       softmax(o / T), with the one T of the lowest loss; which
                    class is the most probable stays as it is
  vector            softmax(a * o + c), a factor and an offset for each class,
                    held near 1/T and 0 by a term that weighs as one sample
The scaling goes into the weights of the new model, which is used like any other;
`softreg info` shows what it was. (Guo et al. 2017, On Calibration of Modern Neural
Networks)")]
pub struct Calibrate {
    #[command(flatten)]
    pub data: ModelData,

    /// How the logits are scaled
    #[arg(long, value_enum, default_value_t = CalibrationName::Temperature)]
    pub method: CalibrationName,

    /// Save the calibrated model as this file (safetensors)
    #[arg(long, value_name = "MODEL.safetensors")]
    pub out: PathBuf,

    #[command(flatten)]
    pub device: Device,

    /// Write the results as one JSON object to this file; `-` is standard output, the report then goes to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CalibrationName {
    Temperature,
    Vector,
}

impl From<CalibrationName> for Calibration {
    fn from(name: CalibrationName) -> Self {
        match name {
            CalibrationName::Temperature => Self::Temperature,
            CalibrationName::Vector => Self::Vector,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  softreg predict flowers.safetensors new.csv
  softreg predict flowers.safetensors new.csv --proba --out probabilities.csv")]
pub struct Predict {
    /// A model that `softreg train --out` saved
    pub model: PathBuf,

    /// Data: CSV with a header (or with tabs or semicolons), svmlight, IDX, .npy, .npz, safetensors, Parquet or Arrow, told apart by
    /// content, in one file or several; each may be packed by gzip or Zstandard. Of a file with names the columns are taken that
    /// the model was trained on; there may be others
    pub features: PathBuf,

    #[command(flatten)]
    pub format: Format,

    /// Write CSV: the predicted class, and the probability of each class
    #[arg(long)]
    pub proba: bool,

    /// Write to this file. Default: standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    #[command(flatten)]
    pub device: Device,
}

#[derive(Debug, Args)]
pub struct Info {
    /// A model that `softreg train --out` saved
    pub model: PathBuf,
}
