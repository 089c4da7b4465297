//! Data sets from files.

use std::path::Path;

use anyhow::{Context, Result, bail};
use softreg::data::{Source, read};
use softreg::{Dataset, Error};

/// Labelled data for a model: its classes are `classes`, and it has `n_features`. One class alone is enough here.
pub fn labelled(source: &Source, classes: &[String], n_features: usize) -> Result<Dataset<'static>> {
    let table = read(source)?;
    let path = &source.features;
    check_width(path, n_features, table.features.n_features())?;
    let Some(labels) = table.labels else {
        bail!("{} has no labels: give a file of them, or for CSV the label column", path.display());
    };
    let label_file = source.labels.as_ref().unwrap_or(path);
    let labels = labels.with_classes(classes).map_err(|error| error.in_file(label_file))?;
    Dataset::new(table.features, labels).with_context(|| label_file.display().to_string())
}

pub fn check_width(path: &Path, model: usize, data: usize) -> Result<()> {
    if model == data { Ok(()) } else { Err(Error::Width { model, data }).with_context(|| path.display().to_string()) }
}
