//! Data sets from files.

use std::path::Path;

use anyhow::{Context, Result, bail};
use softreg::data::{Source, Table, read_with};
use softreg::{Dataset, Error};

use crate::known::{self, Part};
use crate::progress;
use crate::report::first;

/// A table, with labels or without, with progress unless `quiet`; `flag` is the one for a file of labels. Of a data set that the
/// source names, `part`.
pub fn table(source: &Source, flag: &str, part: Part, quiet: bool) -> Result<Table> {
    let source = &known::locate(source, part)?;
    // A column of labels that is not known as such is the likely reason for text where a number should be.
    let may_be_label = |error: &Error| {
        let in_column = matches!(error, Error::Malformed { place, .. } if place.column.is_some());
        in_column && source.labels.is_none() && source.label_column.is_none()
    };
    match progress::while_reading(&source.features, quiet, |reading| read_with(source, reading)) {
        Err(error) if may_be_label(&error) => {
            bail!(
                "{} has no labels: name their column with --label-column, or give a file of them with {flag} (without, \
                 every column is a feature: {error})",
                source.features.display()
            )
        }
        table => Ok(table?),
    }
}

/// A table with labels, for which there is `flag`; of a data set that the source names, `part`.
pub fn labelled(source: &Source, flag: &str, part: Part, quiet: bool) -> Result<Table> {
    let table = table(source, flag, part, quiet)?;
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

/// Labelled data for a model of these classes and that many features; of a data set that the source names, the part to test
/// on. One class alone is enough here.
pub fn labelled_for(source: &Source, flag: &str, model: (&[String], usize), quiet: bool) -> Result<Dataset<'static>> {
    let (classes, n_features) = model;
    let Table { features, labels, weights, .. } = labelled(source, flag, Part::Test, quiet)?;
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
