//! `softreg info`: what is in a model file.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use indicatif::{HumanBytes, HumanCount};
use serde_json::Value;
use softreg::{Error, Model, Structure};

use crate::report::{first, printable, range, rounded};
use crate::{args, output};

pub fn run(args: &args::Info) -> Result<()> {
    let path = &args.model;
    let bytes = fs::read(path).map_err(|source| Error::io("read", path, source))?;
    let model = Model::from_bytes(&bytes).map_err(|problem| Error::ModelFile { path: path.clone(), problem })?;
    output::write(Path::new("-"), |out| write(out, path, &bytes, &model))
}

fn write(out: &mut dyn Write, path: &Path, bytes: &[u8], model: &Model) -> io::Result<()> {
    let training = model.training();
    let (d, q) = (model.n_features(), model.n_classes());
    let version = format_version(bytes).map_or_else(|| "?".to_owned(), |version| version.to_string());
    writeln!(out, "file       {}, {}, format version {version}", path.display(), HumanBytes(bytes.len() as u64))?;
    let (n, of_dense) = (model.n_parameters(), (d + 1) * q);
    writeln!(out, "shape      weight {d} × {q} and bias {q}, f32: {} parameters", HumanCount(of_dense as u64))?;
    if model.structure() != Structure::Dense {
        let [n_bytes, of_dense_bytes] = [n, of_dense].map(|n| HumanBytes(4 * n as u64));
        let ratio = rounded(n as f64 / of_dense as f64);
        writeln!(out, "weights    {}: {} parameters, {ratio} of dense", model.structure(), HumanCount(n as u64))?;
        writeln!(out, "           {n_bytes}, dense {of_dense_bytes}")?;
    }
    writeln!(out, "classes    {q}: {}", first(model.classes(), 20))?;
    match model.feature_names() {
        Some(names) => writeln!(out, "features   {d}: {}", first(names, 8))?,
        None => writeln!(out, "features   {d}, without names")?,
    }

    if let Some(version) = training["softreg_version"].as_str() {
        let device = training["device"].as_str().unwrap_or("?");
        writeln!(out, "trained    by softreg {version} on {}", printable(device, usize::MAX))?;
    }
    let general = [
        ("solver", "solver"),
        ("n_samples", "samples"),
        ("l2", "l2"),
        ("l1", "l1"),
        ("feature_scale", "feature scale"),
        ("seed", "seed"),
        ("class_weight", "class weights"),
        ("label_smoothing", "label smoothing"),
    ];
    section(out, "settings", training, &general)?;
    let of_solver = [
        ("epochs", "epochs or iterations"),
        ("tolerance", "tolerance"),
        ("memory", "memory"),
        ("batch_size", "batch size"),
        ("learning_rate", "learning rate"),
        ("momentum", "momentum"),
        ("nesterov", "Nesterov"),
        ("beta_1", "beta1"),
        ("beta_2", "beta2"),
        ("epsilon", "epsilon"),
        ("weight_decay", "weight decay"),
    ];
    section(out, "", &training["settings"], &of_solver)?;
    let of_course = [
        ("schedule", "schedule"),
        ("warmup", "warm-up"),
        ("intercept", "intercept"),
        ("reason", "ended by"),
        ("best_epoch", "weights of epoch"),
        ("validation_loss", "validation loss"),
    ];
    section(out, "", &training["settings"], &of_course)?;
    let metrics = [("train_loss", "loss"), ("train_accuracy", "accuracy"), ("objective", "objective")];
    section(out, "training", training, &metrics)?;
    let test = [("n_test_samples", "samples"), ("test_loss", "loss"), ("test_accuracy", "accuracy")];
    section(out, "test", training, &test)?;
    let calibrations = training["calibrations"].as_array().map_or(&[][..], Vec::as_slice);
    calibrations.iter().try_for_each(|record| calibration(out, record))
}

/// What a calibration did, and the figures of its data, which are later than all above.
fn calibration(out: &mut dyn Write, record: &Value) -> io::Result<()> {
    let numbers =
        |key: &str| record[key].as_array().map(|all| all.iter().filter_map(Value::as_f64).collect::<Vec<_>>());
    let scaling = match (record["temperature"].as_f64(), numbers("factors"), numbers("offsets")) {
        (Some(temperature), _, _) => format!("temperature {}", rounded(temperature)),
        (None, Some(factors), Some(offsets)) => format!("factors {}, offsets {}", range(&factors), range(&offsets)),
        _ => return Ok(()),
    };
    let n = record["n_samples"].as_u64().map_or_else(|| "?".to_owned(), |n| HumanCount(n).to_string());
    writeln!(out, "calibrated {scaling}, from {n} samples")?;
    let figure = |(key, name): (&str, &str)| {
        let [before, after] = ["before", "after"].map(|when| record[when][key].as_f64());
        Some(format!("{name} {} → {}", rounded(before?), rounded(after?)))
    };
    let figures = [("log_loss", "loss"), ("calibration_error", "calibration error"), ("accuracy", "accuracy")];
    writeln!(out, "           {}", figures.into_iter().filter_map(figure).collect::<Vec<_>>().join(", "))
}

/// `title  name value, name value, …` of those that the file has.
fn section(out: &mut dyn Write, title: &str, record: &Value, entries: &[(&str, &str)]) -> io::Result<()> {
    let texts: Vec<String> = entries
        .iter()
        .filter_map(|&(key, name)| {
            let value = match &record[key] {
                Value::Null => return None,
                Value::String(text) => printable(text, usize::MAX),
                value if value.is_f64() => rounded(value.as_f64()?),
                value => value.to_string(),
            };
            Some(format!("{name} {value}"))
        })
        .collect();
    if !texts.is_empty() {
        writeln!(out, "{title:9}  {}", texts.join(", "))?;
    }
    Ok(())
}

/// Of bytes that are a model.
fn format_version(bytes: &[u8]) -> Option<u64> {
    let (_, header) = safetensors::SafeTensors::read_metadata(bytes).ok()?;
    let record: Value = serde_json::from_str(header.metadata().as_ref()?.get("softreg")?).ok()?;
    record["format_version"].as_u64()
}
