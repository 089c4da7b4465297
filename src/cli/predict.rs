//! `softreg predict`.

use std::io;
use std::path::Path;

use anyhow::{Result, bail};
use softreg::data::read_with;
use softreg::{Features, Model, Predictor};

use crate::known::{self, Part};
use crate::{args, input, output, progress};

pub fn run(args: &args::Predict) -> Result<()> {
    let out = args.out.as_deref().unwrap_or(Path::new("-"));
    output::check_writable(out)?;
    output::check_is_no_input(out, &[Some(&args.model), Some(&args.features)])?;
    let model = Model::load(&args.model)?;
    let source = known::locate(&args.format.source(&args.features, &model, &args.device), Part::Test)?;
    let features = progress::while_reading(&source.features, false, |reading| read_with(&source, reading))?.features;
    input::check_width(&args.features, model.n_features(), features.n_features())?;
    let device = args.device.open(false)?;
    let predictor = model.on(&device);
    if args.proba { probabilities(&model, predictor, &features, out) } else { names(&model, predictor, &features, out) }
}

/// One class name a line.
fn names(model: &Model, predictor: Predictor, features: &Features, out: &Path) -> Result<()> {
    if let Some(name) = model.classes().iter().find(|name| name.contains(['\n', '\r'])) {
        bail!("the class {name:?} has a line break, so that one name a line is not clear; use --proba");
    }
    let predicted = predictor.predict(features)?;
    output::write(out, |out| {
        predicted.iter().filter_map(|&class| model.classes().get(class)).try_for_each(|name| writeln!(out, "{name}"))
    })
}

/// CSV: the most probable class, then the probability of each class.
fn probabilities(model: &Model, predictor: Predictor, features: &Features, out: &Path) -> Result<()> {
    // By logits, as without --proba: probabilities may be equal where logits are not.
    let predicted = predictor.predict(features)?;
    let probabilities = predictor.predict_proba(features)?;
    let classes = model.classes();
    output::write(out, |out| {
        let mut csv = csv::Writer::from_writer(out);
        let header = std::iter::once("predicted").chain(classes.iter().map(String::as_str));
        csv.write_record(header).map_err(io_error)?;
        for (row, &class) in probabilities.rows().into_iter().zip(&predicted) {
            csv.write_field(classes.get(class).map_or("", String::as_str)).map_err(io_error)?;
            csv.write_record(row.iter().map(|&p| exact(p))).map_err(io_error)?;
        }
        csv.flush()
    })
}

/// The operating system's error as it was, so that a broken pipe is known as one.
fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// The shortest text that reads back as the same number.
fn exact(p: f32) -> String {
    if p == 0.0 || p >= 1e-4 { p.to_string() } else { format!("{p:e}") }
}
