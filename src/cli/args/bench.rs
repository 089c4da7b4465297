//! `softreg bench`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use softreg::data::MAX_CLASSES;

use super::values::{DtypeName, count, positive};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  softreg bench
  softreg bench --shape 1000000,768,100 --dtype f16 --devices cpu,gpu
  softreg bench --shape 60000,784,10 --devices cpu,llvmpipe --json bench.json
  softreg bench --shape 60000,784,10 --batch 128 --devices gpu --tune")]
pub struct Bench {
    /// Samples, features and classes. Default: 60000,784,10 and then 20000,768,1000
    #[arg(long, value_name = "N,D,Q", value_parser = bench_shape)]
    pub shape: Option<BenchShape>,

    /// Samples a step
    #[arg(long, alias = "batch-size", value_name = "N", value_parser = count, default_value_t = 1024)]
    pub batch: usize,

    /// Precision of the features in memory
    #[arg(long, value_enum, default_value_t = DtypeName::F32)]
    pub dtype: DtypeName,

    /// Devices, divided by commas: `all` (the CPU and every GPU but software ones) or names as --device takes them
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = "all", value_parser = NonEmptyStringValueParser::new())]
    pub devices: Vec<String>,

    /// Use a GPU's matrix units in steps with more than 64 classes: features, weights and residuals are
    /// rounded to half precision in the products; sums stay in single precision. Not yet timed on any
    /// GPU; without such units all is as usual
    #[arg(long)]
    pub matrix_units: bool,

    /// Time epochs of each device for so many seconds: three epochs at least, a thousand at most
    #[arg(long, value_name = "F", value_parser = positive, allow_negative_numbers = true, default_value_t = 2.0)]
    pub seconds: f64,

    /// First try out how each GPU computes such steps fastest, and keep that for all runs to come of about this size. It
    /// may change results in their last bits
    #[arg(long)]
    pub tune: bool,

    /// Write the figures as one JSON object to this file; `-` is standard output, the table then goes to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What `softreg bench` trains on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BenchShape {
    pub n_samples: usize,
    pub n_features: usize,
    pub n_classes: usize,
}

fn bench_shape(text: &str) -> Result<BenchShape, String> {
    let counts: Result<Vec<usize>, String> = text.split(',').map(|part| count(part.trim())).collect();
    match counts.as_deref() {
        Ok(&[n_samples, ..]) if n_samples > u32::MAX as usize => Err("at most 4294967295 samples".to_owned()),
        Ok(&[_, _, n_classes]) if n_classes > MAX_CLASSES => Err(format!("at most {MAX_CLASSES} classes")),
        Ok(&[n_samples, n_features, n_classes]) if n_classes >= 2 => {
            Ok(BenchShape { n_samples, n_features, n_classes })
        }
        _ => Err("must be samples,features,classes: three whole numbers, the classes at least 2".to_owned()),
    }
}
