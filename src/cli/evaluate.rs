//! `softreg evaluate`.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use softreg::Model;

use crate::report::{self, Stages};
use crate::{args, input, output};

pub fn run(args: &args::Evaluate) -> Result<()> {
    let start = Instant::now();
    let of = &args.data;
    if let Some(json) = &args.json {
        output::check_writable(json)?;
        output::check_is_no_input(json, &of.inputs())?;
    }
    let model = Model::load(&of.model)?;
    let source = of.source(&model, &args.device);
    let data = input::labelled_for(&source, "--labels", (model.classes(), model.n_features()), false)?;
    let mut stages = Stages { load: start.elapsed(), ..Stages::default() };
    let begin = Instant::now();
    let device = args.device.open(false)?;
    stages.device = begin.elapsed();
    let begin = Instant::now();
    let evaluation = model.on(&device).evaluate(&data)?;
    stages.evaluate = begin.elapsed();
    stages.total = start.elapsed();

    if let Some(path) = &args.json {
        let record = json!({
            "softreg_version": env!("CARGO_PKG_VERSION"),
            "model": of.model.display().to_string(),
            "features": of.features.display().to_string(),
            "device": device.info().name,
            "backend": device.info().backend,
            "n_samples": evaluation.n_samples,
            "n_features": data.n_features(),
            "n_classes": data.n_classes(),
            "dtype": data.features().values().dtype().to_string(),
            "density": report::density(data.features()),
            "log_loss": evaluation.log_loss,
            "accuracy": evaluation.accuracy,
            "information": report::information_json(&evaluation, args.top_k),
            "classes": report::classes_json(model.classes(), &evaluation),
            "seconds_load": stages.load.as_secs_f64(),
            "seconds_device": stages.device.as_secs_f64(),
            "seconds_evaluate": stages.evaluate.as_secs_f64(),
            "seconds_total": stages.total.as_secs_f64(),
        });
        output::write(path, |out| writeln!(out, "{record}"))?;
    }
    report::print(args.json.as_deref(), false, |out| {
        report::figures(out, &[("data", &evaluation)])?;
        report::information(out, &evaluation, args.top_k)?;
        report::classes(out, "class", model.classes(), &evaluation)?;
        stages.write(out)?;
        writeln!(out, "device     {}", report::device(&device))
    })
}
