//! `softreg calibrate`.

use std::io;
use std::time::Instant;

use anyhow::{Result, bail};
use indicatif::HumanCount;
use serde_json::json;
use softreg::{Calibrated, Calibration, Dataset, Model, Scaling};

use crate::report::{self, Stages, rounded};
use crate::{args, input, output};

pub fn run(args: &args::Calibrate) -> Result<()> {
    let start = Instant::now();
    check_outputs(args)?;
    let of = &args.data;
    let model = Model::load(&of.model)?;
    let source = of.source(&model, &args.device);
    let data = input::labelled_for(&source, "--labels", (model.classes(), model.n_features()), false)?;
    let method = args.method.into();
    if method == Calibration::Vector {
        warn_of_few(&data);
    }
    let mut stages = Stages { load: start.elapsed(), ..Stages::default() };
    let begin = Instant::now();
    let device = args.device.open(false)?;
    stages.device = begin.elapsed();
    let begin = Instant::now();
    let calibrated = model.on(&device).calibrate(&data, method)?;
    stages.evaluate = begin.elapsed();
    if is_of_training(&model, &calibrated) {
        output::message(
            "warning: this looks like the data that the model was trained on, about which it is right too often; take other data",
        );
    }
    calibrated.model.save(&args.out)?;
    stages.total = start.elapsed();

    if let Some(path) = &args.json {
        let of_model = calibrated.model.training()["calibrations"].as_array().and_then(|records| records.last());
        let mut record = of_model.cloned().unwrap_or_default();
        let more = json!({
            "model": of.model.display().to_string(),
            "features": of.features.display().to_string(),
            "out": args.out.display().to_string(),
            "device": device.info().name,
            "backend": device.info().backend,
            "n_features": data.n_features(),
            "n_classes": data.n_classes(),
            "seconds_load": stages.load.as_secs_f64(),
            "seconds_device": stages.device.as_secs_f64(),
            "seconds_calibrate": stages.evaluate.as_secs_f64(),
            "seconds_total": stages.total.as_secs_f64(),
        });
        if let (Some(record), Some(more)) = (record.as_object_mut(), more.as_object()) {
            record.extend(more.clone());
        }
        output::write(path, |out| writeln!(out, "{record}"))?;
    }
    report::print(args.json.as_deref(), false, |out| {
        figures(out, &calibrated)?;
        scaling(out, &calibrated.scaling)?;
        writeln!(out, "device     {}", report::device(&device))?;
        writeln!(out, "model      saved as {}", args.out.display())
    })
}

/// Vector scaling has two numbers for each class. On MNIST and Banking77 it was worse than temperature scaling on test data, or than
/// no scaling, with 30 samples a class, and as good with 200.
const FEW: f64 = 100.0;

fn warn_of_few(data: &Dataset) {
    if let Some(text) = input::without_samples(data, "calibration") {
        output::message(&format!("labels     {text}: of such vector scaling learns only that they are rare"));
    }
    let n = (data.n_samples() as f64 / data.n_classes() as f64).round();
    if n < FEW {
        output::message(&format!(
            "warning: {n} samples a class: from fewer than about {FEW} vector scaling may learn chance; compare it with --method \
             temperature on other data"
        ));
    }
}

/// Whether there are as many samples as in the training, with the same loss.
fn is_of_training(model: &Model, calibrated: &Calibrated) -> bool {
    let (training, before) = (model.training(), &calibrated.before);
    let is_loss = |loss: f64| (before.log_loss - loss).abs() <= 1e-5 * loss.abs();
    training["n_samples"] == before.n_samples && training["train_loss"].as_f64().is_some_and(is_loss)
}

/// Finds out what cannot be written before anything is read.
fn check_outputs(args: &args::Calibrate) -> Result<()> {
    let out = &args.out;
    if output::is_stdout(out) || output::is_special(out) {
        bail!("cannot write the model to {}: --out must be a file", out.display());
    }
    if args.json.as_ref().is_some_and(|json| output::is_same(out, json)) {
        bail!("--out and --json are the same file {}", out.display());
    }
    for path in [Some(out), args.json.as_ref()].into_iter().flatten() {
        output::check_is_no_input(path, &args.data.inputs())?;
        output::check_writable(path)?;
    }
    Ok(())
}

fn figures(out: &mut dyn io::Write, Calibrated { before, after, .. }: &Calibrated) -> io::Result<()> {
    let n = HumanCount(before.n_samples as u64);
    writeln!(out, "{:18} {:>10} {:>10}   of {n} samples", "", "before", "after")?;
    let rows = [
        ("loss", before.log_loss, after.log_loss),
        ("Brier score", before.brier_score, after.brier_score),
        ("calibration error", before.calibration_error, after.calibration_error),
        ("accuracy", before.accuracy, after.accuracy),
    ];
    for (name, before, after) in rows {
        writeln!(out, "{name:18} {before:>10.6} {after:>10.6}")?;
    }
    writeln!(out)
}

fn scaling(out: &mut dyn io::Write, scaling: &Scaling) -> io::Result<()> {
    match scaling {
        Scaling::Temperature(temperature) => {
            let shown = rounded(*temperature);
            let says = match temperature {
                _ if shown == "1" => "",
                t if *t > 1.0 => ": the model was surer than it was right",
                _ => ": the model was less sure than it was right",
            };
            writeln!(out, "scaling    temperature {shown}{says}")
        }
        Scaling::Vector { factors, offsets } => {
            let (factors, offsets) = (report::range(factors), report::range(offsets));
            writeln!(out, "scaling    factors {factors}, offsets {offsets}")
        }
        _ => Ok(()),
    }
}
