//! What is done with files of data: `softreg inspect`, `convert` and `download`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Data;
use super::values::DtypeName;
use crate::known::{self, Known};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  softreg inspect flowers.csv --label-column species
  softreg inspect images.idx3.gz --labels labels.idx1.gz --json -

Gaps and text where numbers should be are counted and shown with their place;
softreg train refuses them. Figures of a column are of its numbers.")]
pub struct Inspect {
    #[command(flatten)]
    pub data: Data,

    /// Write all of it, with every column and class, as one JSON object to this file; `-` is standard output, the report then
    /// goes to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  softreg convert flowers.csv --label-column species --out all.safetensors
  softreg train all.safetensors
  softreg convert images.idx3.gz --labels labels.idx1.gz --out images.npy
  softreg convert small.safetensors --to dense --out dense.safetensors

With --to it is a model that is converted: one with structured weights becomes
dense, for readers that know no others. Of data, safetensors hold features,
labels, weights and all names in one file; .npy the features alone: labels go
beside it, and names of the columns are left out.")]
pub struct Convert {
    #[command(flatten)]
    pub data: Data,

    /// Write this file, .npy or .safetensors by its ending
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,

    /// FEATURES is a model: make its weights dense
    #[arg(long, value_enum, conflicts_with_all = ["dtype", "labels_out", "labels", "label_column", "sample_weight"])]
    pub to: Option<ModelForm>,

    /// Precision of the features in the file. Default: that in which they are read (bytes as u8, f64 and text as f32). What
    /// does not fit is an error; rounding is said, with the largest error
    #[arg(long, value_enum)]
    pub dtype: Option<DtypeName>,

    /// With .npy: where the labels go, as text with one name a line, or as .npy by its ending. Default: FILE.labels.txt beside
    /// FILE.npy, for probabilities FILE.labels.npy
    #[arg(long, value_name = "FILE")]
    pub labels_out: Option<PathBuf>,
}

/// What a model is converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModelForm {
    /// W as it is.
    Dense,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  softreg download
  softreg download fashion-mnist
  softreg train fashion-mnist

What was interrupted goes on where it ended. A file is only kept under its name
when its SHA-256 is the known one, wherever it came from.")]
pub struct Download {
    /// Which data set. Without, all that are known are listed
    #[arg(value_name = "NAME", value_parser = known)]
    pub name: Option<&'static Known>,

    /// Get the files from this folder on the net instead of the official one
    #[arg(long, value_name = "URL", value_parser = url, requires = "name")]
    pub mirror: Option<String>,

    /// No progress and no messages, only warnings and errors
    #[arg(long, short)]
    pub quiet: bool,
}

fn known(name: &str) -> Result<&'static Known, String> {
    let names = || known::ALL.iter().map(|known| known.name).collect::<Vec<_>>().join(", ");
    Known::named(name).ok_or_else(|| format!("there are {}", names()))
}

fn url(text: &str) -> Result<String, String> {
    match text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) {
        Some(rest) if !rest.is_empty() => Ok(text.to_owned()),
        _ => Err("must begin with http:// or https://".to_owned()),
    }
}
