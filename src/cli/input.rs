//! Data sets from files.

use std::path::Path;

use anyhow::{Context, Result, bail};
use softreg::data::{Source, Table, read_with};
use softreg::{Dataset, Error};

use crate::progress;
use crate::report::first;

/// The files of a source, with progress unless `quiet`.
pub fn table(source: &Source, quiet: bool) -> softreg::Result<Table> {
    progress::while_reading(&source.features, quiet, |reading| read_with(source, reading))
}

/// A table with labels, for which there is `flag`.
pub fn labelled(source: &Source, flag: &str, quiet: bool) -> Result<Table> {
    // A column of labels that is not known as such is the likely reason for text where a number should be.
    let may_be_label = |error: &Error| {
        let in_column = matches!(error, Error::Malformed { place, .. } if place.column.is_some());
        in_column && source.labels.is_none() && source.label_column.is_none()
    };
    let table = match table(source, quiet) {
        Err(error) if may_be_label(&error) => {
            bail!(
                "{} has no labels: name their column with --label-column, or give a file of them with {flag} (without, \
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
                 with {flag}",
                first(names, 10),
            ),
            None => bail!("{path} has no labels: give a file of them with {flag}"),
        }
    }
    Ok(table)
}

/// Labelled data for a model of these classes and that many features. One class alone is enough here.
pub fn labelled_for(source: &Source, flag: &str, model: (&[String], usize), quiet: bool) -> Result<Dataset<'static>> {
    let (classes, n_features) = model;
    let Table { features, labels, weights, .. } = labelled(source, flag, quiet)?;
    check_width(&source.features, n_features, features.n_features())?;
    let label_file = source.labels.as_ref().unwrap_or(&source.features);
    let labels = labels.map(|labels| labels.with_classes(classes)).transpose().map_err(|e| e.in_file(label_file))?;
    let labels = labels.context("there are no labels")?;
    let data = Dataset::new(features, labels).with_context(|| label_file.display().to_string())?;
    Ok(match weights {
        Some(weights) => data.with_weights(weights)?,
        None => data,
    })
}

pub fn check_width(path: &Path, model: usize, data: usize) -> Result<()> {
    if model == data { Ok(()) } else { Err(Error::Width { model, data }).with_context(|| path.display().to_string()) }
}
