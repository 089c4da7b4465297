//! Files by content, not by name.

use std::path::{Path, PathBuf};

use super::{Dataset, Features, Labels};
use crate::error::Result;

/// Which files a data set is in.
///
/// The format is told by content: IDX or IDX.gz, `.npy`, otherwise CSV (also gzip) with a header.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The features.
    pub features: PathBuf,
    /// The labels: IDX, `.npy` (integers, or a float matrix of soft labels), or text with one name a line. Not for CSV,
    /// which has them in a column.
    pub labels: Option<PathBuf>,
    /// The column of a CSV file that holds the labels.
    pub label_column: Option<String>,
}

/// What a [`Source`] holds.
#[derive(Debug, Clone)]
pub struct Table {
    pub features: Features<'static>,
    pub labels: Option<Labels<'static>>,
    pub feature_names: Option<Vec<String>>,
}

/// Reads
pub fn read(_source: &Source) -> Result<Table> {
    todo!()
}
