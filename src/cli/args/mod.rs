//! What the command line accepts. Values that make no sense are refused here, with exit status 2.

mod solver;
mod sweep;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use softreg::data::{Categorical, Dtype, MAX_CLASSES, Source};
use softreg::{
    Calibration, ClassWeight, Dataset, DeviceOptions, Every, FeatureScale, Model, Schedule, Solver, Structure,
};

use crate::known::{self, Known};
pub use solver::{Of, SolverName, SolverOptions};
pub use sweep::{CriterionName, FoldsName, Grid, Preset, Search, Sweep};

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

    /// phm:M and lowrank:R: begin at the W of that structure that is nearest to the W of --init, as --weights with --init does
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

    /// Penalty: the objective is mean loss + l2/2·‖W‖², with W that of the scaled features and the intercept not
    /// penalised. scikit-learn's C is 1/(l2·n_samples), with weights 1 over l2 times their sum
    #[arg(long, value_name = "F", value_parser = not_negative, allow_negative_numbers = true, default_value = "1e-5")]
    pub l2: f64,

    /// Penalty l1·‖W‖₁ beside that of --l2, with exact zeros. scikit-learn's l1_ratio r and C are l1 = r/(C·n_samples) and
    /// l2 = (1 - r)/(C·n_samples). For lbfgs
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

/// What is trained and tested on.
#[derive(Debug, Args)]
pub struct TrainingData {
    /// Training data: CSV with a header (or with tabs or semicolons), svmlight, IDX, .npy, .npz, safetensors, Parquet or Arrow, told
    /// apart by content; each may be packed by gzip or Zstandard; or a folder of such files, or a pattern (`part-*.npy`, in
    /// quotes); or the name of a data set that `softreg download` got, which has test data too. Default: the built-in digits
    pub features: Option<PathBuf>,

    /// Labels of FEATURES: a file of text (one name a line), or an array or column in one of the other formats; a matrix is
    /// one-hot, or probabilities of the classes. Default: those that svmlight, .npz and safetensors have
    #[arg(long, value_name = "PATH", requires = "features", conflicts_with = "label_column")]
    pub labels: Option<PathBuf>,

    /// The column of FEATURES that holds the labels; in .npz and safetensors the array, by default the one called labels, label,
    /// y, targets or target
    #[arg(long, value_name = "NAME", requires = "features")]
    pub label_column: Option<String>,

    /// Columns of FEATURES, a CSV file, that are text: each category becomes a feature `column=category`, 1 or 0. `auto` takes those
    /// whose first value is not a number
    #[arg(long, value_name = "NAME,…|auto", value_parser = categorical, requires = "features")]
    pub categorical: Option<Categorical>,

    #[command(flatten)]
    pub format: Format,

    /// Names of the classes, one a line: of the columns of --labels that are a matrix (one-hot or probabilities); else of all
    /// labels that there may be
    #[arg(long, value_name = "PATH", requires = "features")]
    pub classes: Option<PathBuf>,

    /// How much each sample counts, at least 0: a file of text (one number a line) or .npy
    #[arg(long, value_name = "PATH", requires = "features", conflicts_with = "weight_column")]
    pub sample_weight: Option<PathBuf>,

    /// The column of FEATURES and of --test that holds the weights of the samples
    #[arg(long, value_name = "NAME", requires = "features")]
    pub weight_column: Option<String>,

    /// How much the classes count, beside their samples: `balanced` (all the same in total) or weights by name, the others
    /// are 1. A sample counts its weight times that of its class
    #[arg(long, value_name = "balanced|NAME=W,…", value_parser = class_weight)]
    pub class_weight: Option<ClassWeight>,

    /// Train towards (1 - F)·label + F/n_classes, at least 0 and below 1
    #[arg(long, value_name = "F", value_parser = below_1, allow_negative_numbers = true, default_value_t = 0.0)]
    pub label_smoothing: f64,

    /// Test data, in the form of FEATURES
    #[arg(long, value_name = "FEATURES", requires = "features", conflicts_with = "test_split")]
    pub test: Option<PathBuf>,

    /// Labels of the test data, in the form of --labels
    #[arg(long, value_name = "PATH", requires = "test")]
    pub test_labels: Option<PathBuf>,

    /// Weights of the test data, in the form of --sample-weight
    #[arg(long, value_name = "PATH", requires = "test", conflicts_with = "weight_column")]
    pub test_sample_weight: Option<PathBuf>,

    /// Share of the samples, drawn at random, to keep for testing, between 0 and 1. Default: 0.2 for the built-in digits,
    /// otherwise none
    #[arg(long, value_name = "F", value_parser = fraction, allow_negative_numbers = true)]
    pub test_split: Option<f64>,
}

impl Train {
    /// What the weights are made of.
    pub fn structure(&self) -> Structure {
        self.compress.unwrap_or(self.weights)
    }
}

impl TrainingData {
    /// The training data, with the columns of the model to start from, if it names them; none when it is the built-in
    /// digits.
    pub fn source(&self, init: Option<&Model>, device: &Device) -> Option<Source> {
        let features = self.features.as_deref()?;
        let source = Source {
            feature_columns: self.format.feature_columns.clone(),
            zero_based: self.format.zero_based,
            ignore_unknown_categories: self.format.ignore_unknown,
            max_unpacked: self.format.max_unpacked,
            memory: device.memory_limit,
            ..Source::new(features)
        };
        Some(Source {
            labels: self.labels.clone(),
            label_column: self.label_column.clone(),
            weights: self.sample_weight.clone(),
            weight_column: self.weight_column.clone(),
            classes: self.classes.clone(),
            categorical: self.categorical.clone().unwrap_or_default(),
            ..init.map_or(source, |model| self.format.source(features, model, device))
        })
    }

    /// The test data, with the columns of the training data, and the indices counted as there.
    pub fn test_source(&self, train: &Dataset, zero_based: Option<bool>, device: &Device) -> Option<Source> {
        let test = self.test.clone().or_else(|| self.test_part())?;
        let (labels, weights) = (self.test_labels.as_ref(), self.test_sample_weight.as_ref());
        Some(self.other_source(&test, labels, weights, train, zero_based, device))
    }

    /// The test part of a data set that is trained on as it was downloaded.
    fn test_part(&self) -> Option<PathBuf> {
        known::test_part(self.features.as_deref()?).filter(|_| self.labels.is_none())
    }

    /// Other data in the form of the training data.
    pub fn other_source(
        &self,
        features: &Path,
        labels: Option<&PathBuf>,
        weights: Option<&PathBuf>,
        train: &Dataset,
        zero_based: Option<bool>,
        device: &Device,
    ) -> Source {
        Source {
            features: features.to_owned(),
            labels: labels.cloned(),
            label_column: self.label_column.clone().filter(|_| labels.is_none()),
            feature_columns: self.format.feature_columns.clone(),
            weights: weights.cloned(),
            weight_column: self.weight_column.clone(),
            classes: self.classes.clone(),
            feature_names: train.feature_names().map(<[String]>::to_vec),
            n_features: Some(train.n_features()),
            zero_based: self.format.zero_based.or(zero_based),
            ignore_unknown_categories: self.format.ignore_unknown,
            max_unpacked: self.format.max_unpacked,
            memory: device.memory_limit,
            ..Source::default()
        }
    }

    /// All files that are read.
    pub fn paths(&self) -> [Option<&Path>; 7] {
        let paths = [
            &self.features,
            &self.labels,
            &self.classes,
            &self.sample_weight,
            &self.test,
            &self.test_labels,
            &self.test_sample_weight,
        ];
        paths.map(|path| path.as_deref())
    }
}

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

/// A model, and labelled data for it.
#[derive(Debug, Args)]
pub struct ModelData {
    /// A model that `softreg train --out` saved
    pub model: PathBuf,

    /// Data: CSV with a header (or with tabs or semicolons), svmlight, IDX, .npy, .npz, safetensors, Parquet or Arrow, told apart by
    /// content, in one file or several; each may be packed by gzip or Zstandard; or the name of a downloaded data set, of which
    /// it is the test part (`mnist/train` is the other)
    pub features: PathBuf,

    /// Labels of FEATURES: a file of text (one name a line), or an array or column in one of the other formats; a matrix is
    /// one-hot, or probabilities of the classes. Default: those that svmlight, .npz and safetensors have
    #[arg(long, value_name = "PATH", conflicts_with = "label_column")]
    pub labels: Option<PathBuf>,

    /// The column, or in .npz and safetensors the array, of FEATURES that holds the labels
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,

    #[command(flatten)]
    pub format: Format,

    /// Names of the classes, one a line: of the columns of --labels that are a matrix, which are called 0, 1, … without
    #[arg(long, value_name = "PATH")]
    pub classes: Option<PathBuf>,

    /// How much each sample counts, at least 0: a file of text (one number a line) or .npy
    #[arg(long, value_name = "PATH", conflicts_with = "weight_column")]
    pub sample_weight: Option<PathBuf>,

    /// The column of FEATURES that holds the weights of the samples
    #[arg(long, value_name = "NAME")]
    pub weight_column: Option<String>,
}

impl ModelData {
    pub fn source(&self, model: &Model, device: &Device) -> Source {
        Source {
            labels: self.labels.clone(),
            label_column: self.label_column.clone(),
            weights: self.sample_weight.clone(),
            weight_column: self.weight_column.clone(),
            classes: self.classes.clone(),
            ..self.format.source(&self.features, model, device)
        }
    }

    /// The files that are read.
    pub fn inputs(&self) -> [Option<&Path>; 5] {
        let others = [&self.labels, &self.classes, &self.sample_weight].map(|path| path.as_deref());
        [Some(&*self.model), Some(&*self.features), others[0], others[1], others[2]]
    }
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

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DtypeName {
    F32,
    F16,
    U8,
}

impl From<DtypeName> for Dtype {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::F32 => Self::F32,
            DtypeName::F16 => Self::F16,
            DtypeName::U8 => Self::U8,
        }
    }
}

impl fmt::Display for DtypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Dtype::from(*self).fmt(f)
    }
}

/// What a model is converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModelForm {
    /// W as it is.
    Dense,
}

#[derive(Debug, Args)]
pub struct Info {
    /// A model that `softreg train --out` saved
    pub model: PathBuf,
}

/// How files are read.
#[derive(Debug, Args)]
pub struct Format {
    /// The columns of FEATURES that are features, by default all others, or those that a model knows by name; in .npz and
    /// safetensors the array, by default the one called features, X, x or data, or the only matrix
    #[arg(long, value_name = "NAME,…", requires = "features", value_delimiter = ',')]
    pub feature_columns: Option<Vec<String>>,

    /// Count a category that is new to a model as none of those that it knows; it is an error otherwise
    #[arg(long)]
    pub ignore_unknown: bool,

    /// Whether the indices of svmlight data count from 0. Default: as in the data that the model was trained on; of that, they do if
    /// one is 0
    #[arg(long, value_name = "true|false")]
    pub zero_based: Option<bool>,

    /// How much a packed file of data may become when it is unpacked (500MB, 2GiB): one packed by gzip or Zstandard, or with packed
    /// arrays or columns in it, as .npz, Parquet and Arrow. More is an error, as of a file that is made to fill the memory.
    /// Default: a thousand times its size, and 64 MiB
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub max_unpacked: Option<u64>,
}

impl Format {
    /// Features for a model.
    pub fn source(&self, features: &Path, model: &Model, device: &Device) -> Source {
        Source {
            feature_columns: self.feature_columns.clone(),
            feature_names: model.feature_names().map(<[String]>::to_vec),
            n_features: Some(model.n_features()),
            zero_based: self.zero_based.or(model.zero_based()),
            ignore_unknown_categories: self.ignore_unknown,
            max_unpacked: self.max_unpacked,
            memory: device.memory_limit,
            ..Source::new(features)
        }
    }
}

/// Data of which labels and weights may be known.
#[derive(Debug, Args)]
pub struct Data {
    /// Data: CSV with a header (or with tabs or semicolons), svmlight, IDX, .npy, .npz, safetensors, Parquet or Arrow, told apart by
    /// content, in one file or several; each may be packed by gzip or Zstandard; or the name of a downloaded data set, of which
    /// it is the training part (`mnist/test` is the other)
    pub features: PathBuf,

    /// Labels of FEATURES: a file of text (one name a line), or an array or column in one of the other formats; a matrix is
    /// one-hot, or probabilities of the classes. Default: those that svmlight, .npz and safetensors have
    #[arg(long, value_name = "PATH", conflicts_with = "label_column")]
    pub labels: Option<PathBuf>,

    /// The column, or in .npz and safetensors the array, of FEATURES that holds the labels
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,

    /// The columns of FEATURES that are features, by default all others; in .npz and safetensors the array, by default the one
    /// called features, X, x or data, or the only matrix
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub feature_columns: Option<Vec<String>>,

    /// Names of the classes, one a line: of the columns of --labels that are a matrix; else of all labels that there may be
    #[arg(long, value_name = "PATH")]
    pub classes: Option<PathBuf>,

    /// How much each sample counts, at least 0: a file of text (one number a line) or .npy
    #[arg(long, value_name = "PATH", conflicts_with = "weight_column")]
    pub sample_weight: Option<PathBuf>,

    /// The column of FEATURES that holds the weights of the samples
    #[arg(long, value_name = "NAME")]
    pub weight_column: Option<String>,

    /// How much a packed file of data may become when it is unpacked (500MB, 2GiB): one packed by gzip or Zstandard, or with packed
    /// arrays or columns in it, as .npz, Parquet and Arrow. More is an error, as of a file that is made to fill the memory.
    /// Default: a thousand times its size, and 64 MiB
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub max_unpacked: Option<u64>,
}

impl Data {
    pub fn source(&self) -> Source {
        Source {
            labels: self.labels.clone(),
            label_column: self.label_column.clone(),
            feature_columns: self.feature_columns.clone(),
            weights: self.sample_weight.clone(),
            weight_column: self.weight_column.clone(),
            classes: self.classes.clone(),
            memory: Some(u64::MAX),
            max_unpacked: self.max_unpacked,
            ..Source::new(&self.features)
        }
    }

    /// The files that are read.
    pub fn inputs(&self) -> [Option<&Path>; 4] {
        [Some(&*self.features), self.labels.as_deref(), self.classes.as_deref(), self.sample_weight.as_deref()]
    }
}

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

#[derive(Debug, Args)]
pub struct Device {
    /// Where to compute: `auto` (the best GPU, or else the CPU), `cpu`, `gpu`, or a part of a name that `softreg
    /// devices` lists
    #[arg(long = "device", value_name = "NAME", default_value = "auto")]
    name: String,

    /// Memory that features may take, on the host and on the device: 2GB, 500MiB, …. Larger ones stay in their file (.npy, safetensors) and
    /// are read part by part, in every pass. Default: what is free on the host. In a sweep on the CPU half of it is for the models
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory_limit: Option<u64>,
}

impl Device {
    pub fn open(&self, matrix_units: bool) -> softreg::Result<softreg::Device> {
        let mut options = device_options(matrix_units);
        options.memory = self.memory_limit.map(|limit| limit / 2);
        softreg::Device::open(&self.name, &options)
    }
}

/// How devices are opened: with what earlier runs kept of them in the folder that the system has for that;
/// `SOFTREG_CACHE` names another, or none when it is empty.
pub fn device_options(matrix_units: bool) -> DeviceOptions {
    let mut options = DeviceOptions::new().matrix_units(matrix_units);
    options.cache = match std::env::var_os("SOFTREG_CACHE") {
        Some(folder) => Some(PathBuf::from(folder)).filter(|folder| !folder.as_os_str().is_empty()),
        None => dirs::cache_dir().map(|folder| folder.join("softreg")),
    };
    options
}

impl Train {
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

fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err("not a finite number".to_owned()),
    }
}

fn number_that(text: &str, accept: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    let number = number(text)?;
    if accept(number) { Ok(number) } else { Err(format!("must be {expected}")) }
}

fn positive(text: &str) -> Result<f64, String> {
    number_that(text, |x| x > 0.0, "above 0")
}

fn not_negative(text: &str) -> Result<f64, String> {
    number_that(text, |x| x >= 0.0, "at least 0")
}

fn share(text: &str) -> Result<f64, String> {
    number_that(text, |x| (0.0..=1.0).contains(&x), "between 0 and 1")
}

fn fraction(text: &str) -> Result<f64, String> {
    number_that(text, |x| x > 0.0 && x < 1.0, "above 0 and below 1")
}

fn below_1(text: &str) -> Result<f64, String> {
    number_that(text, |x| (0.0..1.0).contains(&x), "at least 0 and below 1")
}

/// `balanced`, or NAME=W,NAME=W; names may have commas and equals signs.
fn class_weight(text: &str) -> Result<ClassWeight, String> {
    if text == "balanced" {
        return Ok(ClassWeight::Balanced);
    }
    let mut weights = Vec::new();
    // Since the last weight.
    let mut entry = String::new();
    for part in text.split(',') {
        entry += part;
        match entry.rsplit_once('=').map(|(name, weight)| (name.trim().to_owned(), weight.trim().parse::<f64>())) {
            Some((name, Ok(weight))) if !name.is_empty() => {
                weights.push((name, weight));
                entry.clear();
            }
            _ => entry.push(','),
        }
    }
    match entry.trim_end_matches(',') {
        "" if !weights.is_empty() => Ok(ClassWeight::Map(weights)),
        rest => Err(format!("must be `balanced`, or NAME=WEIGHT for classes, divided by commas; {rest:?} is neither")),
    }
}

/// A number, and a unit of thousands or, with an i, of 1024: 500MB, 2GiB.
fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 10] = [
        ("kib", 1024.0),
        ("mib", 1048576.0),
        ("gib", 1073741824.0),
        ("tib", 1099511627776.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
        ("tb", 1e12),
        ("b", 1.0),
        ("", 1.0),
    ];
    let lower = text.trim().to_lowercase();
    let with_unit = UNITS.iter().find_map(|(unit, size)| Some((lower.strip_suffix(unit)?.trim_end(), size)));
    match with_unit.and_then(|(number, size)| Some(number.parse::<f64>().ok()? * size)) {
        Some(bytes) if (1e6..1e18).contains(&bytes) => Ok(bytes as u64),
        Some(_) => Err("must be at least 1MB".to_owned()),
        None => Err("must be a size like 500MB, 2GB or 1.5GiB".to_owned()),
    }
}

/// `auto`, or names of columns, divided by commas.
fn categorical(text: &str) -> Result<Categorical, String> {
    if text == "auto" {
        return Ok(Categorical::Auto);
    }
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err("must be `auto`, or names of columns, divided by commas".to_owned());
    }
    Ok(Categorical::Columns(names))
}

fn seconds(text: &str) -> Result<f64, String> {
    number_that(
        text,
        |x| Duration::try_from_secs_f64(x).is_ok_and(|time| !time.is_zero()),
        "above 0, and not too large",
    )
}

fn every(text: &str) -> Result<Every, String> {
    let units = [('s', 1.0), ('m', 60.0), ('h', 3600.0)];
    for (unit, length) in units {
        if let Some(number) = text.strip_suffix(unit) {
            let time = number.parse().ok().and_then(|number: f64| Duration::try_from_secs_f64(number * length).ok());
            return time
                .filter(|time| !time.is_zero())
                .map(Every::Time)
                .ok_or_else(|| "must be a time above 0, such as 30s".to_owned());
        }
    }
    count(text)
        .map(Every::Epochs)
        .map_err(|_| "must be a number of epochs, or a time such as 30s, 10m or 2h".to_owned())
}

fn schedule(text: &str) -> Result<Schedule, String> {
    text.parse().map_err(|error: softreg::Error| error.to_string())
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a whole number, at least 1".to_owned()),
        Ok(count) => Ok(count),
    }
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

fn feature_scale(text: &str) -> Result<FeatureScale, String> {
    match text {
        "auto" => Ok(FeatureScale::Auto),
        "none" => Ok(FeatureScale::Factor(1.0)),
        factor => match factor.parse::<f64>() {
            // Kernels multiply in single precision.
            Ok(number) if number > 0.0 && (number as f32).is_normal() => Ok(FeatureScale::Factor(number)),
            _ => Err("must be `auto`, `none` or a number above 0".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let Command::Train(train) = Cli::parse_from(["softreg", "train"]).command else { panic!("not train") };
        assert_eq!(train.solver(), Solver::default());
        let library = format!("{:?}", softreg::SoftmaxRegression::new());
        assert!(library.contains(&format!("l2: {:?},", train.l2)), "{library}");
        assert!(library.contains(&format!("seed: {:?},", train.seed)), "{library}");
        assert!(library.contains(&format!("feature_scale: {:?},", train.feature_scale)), "{library}");
    }

    #[test]
    fn class_weights_are_names_and_numbers() {
        assert_eq!(class_weight("balanced"), Ok(ClassWeight::Balanced));
        let expected = [("a", 2.0), ("long, comma", 0.5), ("x=y", 3.0)].map(|(name, w)| (name.to_owned(), w));
        assert_eq!(class_weight("a=2,long, comma=0.5,x=y=3"), Ok(ClassWeight::Map(expected.to_vec())));
        for bad in ["", "a", "a=", "=2", "a=2,b", "a=x", "balance"] {
            assert!(class_weight(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("2GB"), Ok(2_000_000_000));
        assert_eq!(bytes("1.5 GiB"), Ok(1_610_612_736));
        assert_eq!(bytes("1048576"), Ok(1_048_576));
        for bad in ["", "GB", "1 pony", "-1GB", "NaN", "inf", "0", "3kB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        type Parser = fn(&str) -> Result<f64, String>;
        let cases: [(Parser, &[&str], &[&str]); 4] = [
            (positive, &["1e-9", "3"], &["0", "-1", "inf", "NaN", "", "x"]),
            (not_negative, &["0", "1e-5"], &["-1e-9", "inf", "NaN"]),
            (fraction, &["0.2", "0.999"], &["0", "1", "1.5", "-0.2", "NaN"]),
            (below_1, &["0", "0.99"], &["1", "-0.1", "NaN"]),
        ];
        for (parser, good, bad) in cases {
            assert!(good.iter().all(|text| parser(text).is_ok()), "{good:?}");
            assert!(bad.iter().all(|text| parser(text).is_err()), "{bad:?}");
        }
        assert!(count("0").is_err() && count("-1").is_err() && count("1.5").is_err() && count("1") == Ok(1));
        assert!(["0", "-1", "inf", "1e-60", "some"].iter().all(|text| feature_scale(text).is_err()));
    }
}
