//! Which data, and how its files are read.

use std::path::{Path, PathBuf};

use clap::Args;
use softreg::data::{Categorical, Source};
use softreg::{ClassWeight, Dataset, Model};

use super::Device;
use super::values::{below_1, bytes, categorical, class_weight, fraction};
use crate::known;

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
