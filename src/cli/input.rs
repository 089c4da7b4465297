//! Data sets from files.

use std::path::Path;

use anyhow::{Context, Result, bail};
use indicatif::HumanCount;
use softreg::data::{self, Source, Table, Values, read_with};
use softreg::{Dataset, Error, Model};

use crate::args::{Device, TrainingData};
use crate::known::{self, Part};
use crate::report::{self, first, rounded};
use crate::{output, progress};

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

/// Of the built-in digits, when nothing else is asked for.
const DIGITS_TEST_SPLIT: f64 = 0.2;

/// What is trained on, and what it is tested on.
pub struct Training {
    pub train: Dataset<'static>,
    pub test: Option<Dataset<'static>>,
    /// Columns of text that became features.
    categorical: Vec<String>,
    /// Whether the indices of svmlight data count from 0.
    pub zero_based: Option<bool>,
}

/// Training and test data, with the columns of the model to start from.
pub fn training(
    args: &TrainingData,
    device: &Device,
    init: Option<&Model>,
    seed: u64,
    quiet: bool,
) -> Result<Training> {
    let Some(source) = args.source(init, device) else {
        let (train, test) = data::digits()?.split(args.test_split.unwrap_or(DIGITS_TEST_SPLIT), seed)?;
        return Ok(Training { train, test: Some(test), categorical: Vec::new(), zero_based: None });
    };
    let table = labelled(&source, "--labels", Part::Train, quiet)?;
    let (categorical, zero_based) = (table.categorical.clone(), table.zero_based);
    let data = table.into_dataset()?;
    if let Some(fraction) = args.test_split {
        let (train, test) = data.split(fraction, seed)?;
        return Ok(Training { train, test: Some(test), categorical, zero_based });
    }
    // Those that the new model will have.
    let classes = init.map_or_else(|| data.classes().to_vec(), |model| model.classes_with(data.classes()));
    let model = (&*classes, data.n_features());
    let test = args.test_source(&data, zero_based, device);
    let test = test.map(|source| labelled_for(&source, "--test-labels", model, quiet)).transpose()?;
    Ok(Training { train: data, test, categorical, zero_based })
}

impl Training {
    /// Says what there is, and what may be wrong with it.
    pub fn tell(&self, args: &TrainingData, quiet: bool) {
        let Self { train, test, categorical, .. } = self;
        let tell = |text: &str| {
            if !quiet {
                output::message(text);
            }
        };
        tell(&format!("data       {}", describe(args, train, test.as_ref())));
        if !categorical.is_empty() {
            tell(&format!("           {}: a feature for each category", first(categorical, 5)));
        }
        if 2 * train.n_classes() > train.n_samples() {
            let (n, q) = (train.n_samples(), train.n_classes());
            output::message(&format!(
                "warning: {q} classes in {n} samples; are the labels measurements, or row numbers?"
            ));
        }
        if let Some(text) = without_samples(train, "training") {
            tell(&format!("labels     {text}"));
        }
    }
}

/// Which classes have no sample that counts in what is called `title` data, when there are such.
pub fn without_samples(data: &Dataset, title: &str) -> Option<String> {
    let totals = data.class_totals();
    let without: Vec<&String> =
        data.classes().iter().zip(&totals).filter(|(_, total)| **total == 0.0).map(|(name, _)| name).collect();
    let (which, have) = match &without[..] {
        [] => return None,
        [one] => (format!("class {:?}", report::printable(one, 40)), "has"),
        several => {
            let names: Vec<String> =
                several.iter().take(5).map(|name| format!("{:?}", report::printable(name, 40))).collect();
            let more = if several.len() > 5 { format!(", … ({} classes)", several.len()) } else { String::new() };
            (format!("classes {}{more}", names.join(", ")), "have")
        }
    };
    let counts = if data.weights().is_some() { " of a weight above 0" } else { "" };
    Some(format!("{which} {have} no sample{counts} in the {title} data"))
}

/// What is trained on, and what tested.
fn describe(args: &TrainingData, train: &Dataset, test: Option<&Dataset>) -> String {
    let name = args.features.as_deref().map_or_else(|| "built-in digits".to_owned(), |path| path.display().to_string());
    let n = HumanCount(train.n_samples() as u64);
    let dtype = match report::density(train.features()) {
        Some(density) => format!("sparse f32 ({} % stored)", rounded(100.0 * density)),
        None => train.features().values().dtype().to_string(),
    };
    let weighted = if train.weights().is_some() { ", weighted" } else { "" };
    let stored = match train.features().values() {
        Values::Stored(_) => " (in the file, read part by part)",
        _ => "",
    };
    let shape =
        format!("{name}: {n} × {} {dtype}{stored}, {} classes{weighted}", train.n_features(), train.n_classes());
    match test {
        Some(test) => {
            let n = HumanCount(test.n_samples() as u64);
            let from = match (&args.test, args.test_split) {
                (Some(path), _) => format!(" from {}", path.display()),
                (None, Some(_)) => String::new(),
                (None, None) if args.features.is_some() => ", its test part".to_owned(),
                (None, None) => " (--test-split 0.2)".to_owned(),
            };
            format!("{shape}; {n} test samples{from}")
        }
        None => format!("{shape}; no test data (--test or --test-split)"),
    }
}
