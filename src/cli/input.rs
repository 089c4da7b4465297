//! Data sets from files.

use std::path::Path;

use anyhow::{Context, Result, bail};
use softreg::data::{Source, Table, read};
use softreg::{Dataset, Error};

use crate::report::first;

/// A table with labels.
pub fn labelled(source: &Source) -> Result<Table> {
    let table = match read(source) {
        // The column of labels, not known as such, is likely the reason.
        Err(error)
            if source.labels.is_none() && source.label_column.is_none() && !matches!(error, Error::Io { .. }) =>
        {
            bail!(
                "{} has no labels: name their column with --label-column, or give a file of them with --labels (without, \
                 every column is a feature: {error})",
                source.features.display()
            )
        }
        table => table?,
    };
    if table.labels.is_none() {
        let path = source.features.display();
        match &table.feature_names {
            Some(names) => bail!(
                "{path} has no labels: name their column with --label-column (its columns are {}), or give a file of them \
                 with --labels",
                first(names, 10),
            ),
            None => bail!("{path} has no labels: give a file of them with --labels"),
        }
    }
    Ok(table)
}

/// Labelled data for a model: its classes are `classes`, and it has `n_features`. One class alone is enough here.
pub fn labelled_for(source: &Source, classes: &[String], n_features: usize) -> Result<Dataset<'static>> {
    let Table { features, labels, .. } = labelled(source)?;
    check_width(&source.features, n_features, features.n_features())?;
    let label_file = source.labels.as_ref().unwrap_or(&source.features);
    let labels = labels.map(|labels| labels.with_classes(classes)).transpose().map_err(|e| e.in_file(label_file))?;
    let labels = labels.context("there are no labels")?;
    Dataset::new(features, labels).with_context(|| label_file.display().to_string())
}

pub fn check_width(path: &Path, model: usize, data: usize) -> Result<()> {
    if model == data { Ok(()) } else { Err(Error::Width { model, data }).with_context(|| path.display().to_string()) }
}
