//! `softreg train`.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::CommandFactory;
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value, json};
use softreg::data;
use softreg::{
    Certificate, Dataset, Device, DeviceKind, Evaluation, FeatureScale, Fit, Model, Schedule, SoftmaxRegression,
    Solver, StopReason, Structure,
};

use crate::progress::Display;
use crate::report::{self, Stages, rounded};
use crate::{args, input, interrupt, output};

/// `start` is when the program began.
pub fn run(args: &args::Train, start: Instant) -> Result<()> {
    if let Some((option, solver)) = args.foreign_option() {
        let message = format!("{option} is an option of --solver {solver}\n");
        args::Cli::command().error(clap::error::ErrorKind::ArgumentConflict, message).exit();
    }
    check_outputs(args)?;
    let checkpoint = checkpoint(args)?;
    interrupt::heed(checkpoint.is_some());
    let tell = |text: &str| {
        if !args.quiet {
            output::message(text);
        }
    };
    let mut stages = Stages::default();
    let begin = Instant::now();
    let device = args.device.open(args.matrix_units)?;
    stages.device = begin.elapsed();
    tell(&format!("device     {}", report::device(&device)));

    let begin = Instant::now();
    let init = args.init.as_deref().map(Model::load).transpose()?;
    let (data, validation) = load(args, init.as_ref())?;
    stages.load = begin.elapsed();
    data.tell(&args.data, args.quiet);
    let input::Training { train, test, zero_based, .. } = data;
    if args.matrix_units && !device.uses_matrix_units(train.n_classes()) {
        tell(&report::no_matrix_units(&device));
    }
    if args.out.is_none() && args.data.features.is_some() {
        tell("model      not saved; --out MODEL.safetensors saves it");
    }

    let mut estimator = SoftmaxRegression::new()
        .solver(args.solver())
        .l2(args.l2)
        .l1(args.l1)
        .standardize(args.standardize)
        .polish(args.polish)
        .weights(args.structure())
        .seed(args.seed)
        .seeds(args.seeds)
        .feature_scale(args.feature_scale)
        .class_weight(args.data.class_weight.clone().unwrap_or_default())
        .label_smoothing(args.data.label_smoothing)
        .intercept(!args.no_intercept)
        .device(&device);
    if let Some(c) = args.c {
        estimator = estimator.c(c);
    }
    if let Some(model) = &init {
        estimator = estimator.init(model);
    }
    match (validation, args.validation_split) {
        (Some(validation), _) => estimator = estimator.validation(validation),
        (None, Some(fraction)) => estimator = estimator.validation(fraction),
        (None, None) => {}
    }
    if let Some(patience) = args.patience {
        estimator = estimator.patience(patience);
    }
    if let Some(limit) = args.time_limit.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        estimator = estimator.time_limit(limit);
    }
    if let Some(path) = &args.penalty_factors {
        estimator = estimator.penalty_factors(data::read_numbers(path)?);
    }
    if let Some(path) = &checkpoint {
        estimator = estimator.checkpoint(path, args.checkpoint_every);
    }
    if let Some(path) = resumed(args) {
        if args.resume == Some(None) && !path.exists() {
            tell(&format!("resume     {} is not there yet: from the beginning", path.display()));
        } else {
            estimator = estimator.resume(path);
        }
    }
    let solver = estimator.solver_for(&train);
    let is_batch = matches!(solver, Solver::Lbfgs(_) | Solver::NewtonCg(_));
    if args.polish && is_batch && device.info().kind == DeviceKind::Cpu {
        tell("polish     nothing to do: on the CPU this solver is in double precision");
    }
    let display = Display::new(&solver, train.n_samples(), args.seeds, args.quiet);
    let begin = Instant::now();
    let fit = estimator.fit_with(&train, |progress| {
        display.show(progress);
        if interrupt::is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    display.finish();
    let mut fit = match (fit, &checkpoint) {
        (Err(error), Some(path)) if path.exists() => {
            let command = interrupt::command_to_resume(path);
            bail!("{error}; the checkpoint {} is kept, to go on with: {command}", path.display());
        }
        (fit, _) => fit?,
    };
    if let (StopReason::Caller, Some(path)) = (fit.reason, &checkpoint) {
        return Err(stopped(&fit, path).into());
    }
    // One that the training had to leave is of no use to the rest.
    let device = match fit.model.training()["device"] == device.info().name {
        true => device,
        false => Device::cpu(),
    };
    if let Some(zero_based) = zero_based {
        fit.model.record_zero_based(zero_based);
    }
    stages.startup = begin - start + fit.preparation;
    stages.device += fit.preparation;
    stages.train = Some(fit.training);
    // What is left of the fit is the evaluation on the training data.
    stages.evaluate = begin.elapsed().saturating_sub(fit.preparation + fit.training);

    let begin = Instant::now();
    let test = test.map(|test| fit.model.on(&device).evaluate(&test)).transpose();
    stages.evaluate += begin.elapsed();
    // Whatever became of the test.
    if let Some(path) = &args.out {
        if let Ok(Some(test)) = &test {
            fit.model.record_test(test);
        }
        fit.model.save(path)?;
    }
    let test = test?;
    stages.total = start.elapsed();

    let run = Run { args, device: &device, train: &train, fit: &fit, test: test.as_ref(), stages };
    if let Some(path) = &args.json {
        let record = run.to_json();
        output::write(path, |out| writeln!(out, "{record}"))?;
    }
    report::print(args.json.as_deref(), args.quiet, |out| run.report(out))
}

/// The checkpoint to write: the one to go on from, where no other is named.
fn checkpoint(args: &args::Train) -> Result<Option<PathBuf>> {
    match (&args.checkpoint, &args.resume) {
        (None, Some(None)) => bail!("--resume needs to know from where: --checkpoint FILE, or --resume=FILE"),
        (None, Some(path)) => Ok(path.clone()),
        (path, _) => Ok(path.clone()),
    }
}

/// The checkpoint to go on from.
fn resumed(args: &args::Train) -> Option<&Path> {
    args.resume.as_ref()?.as_deref().or(args.checkpoint.as_deref())
}

/// What there is to say of a training that Ctrl-C ended.
fn stopped(fit: &Fit, checkpoint: &Path) -> interrupt::Interrupted {
    let n = fit.epochs.len();
    let what = if fit.learning_rate.is_some() { "epoch" } else { "iteration" };
    let saved = match fit.checkpoint {
        None if !checkpoint.exists() => {
            return interrupt::Interrupted(format!("stopped after {what} {n}; nothing is saved"));
        }
        Some(saved) if saved == n => String::new(),
        Some(saved) => format!(" of {what} {saved}"),
        None => " of an earlier run".to_owned(),
    };
    let command = interrupt::command_to_resume(checkpoint);
    let path = checkpoint.display();
    interrupt::Interrupted(format!(
        "stopped after {what} {n}; the checkpoint {path}{saved} goes on from there:\n  {command}"
    ))
}

/// Finds out what cannot be written before anything is trained.
fn check_outputs(args: &args::Train) -> Result<()> {
    let others = [&args.penalty_factors, &args.validation, &args.validation_labels].map(|path| path.as_deref());
    let inputs = [&args.data.paths()[..], &others[..]].concat();
    if let Some(out) = &args.out {
        if output::is_stdout(out) || output::is_special(out) {
            bail!("cannot write the model to {}: --out must be a file", out.display());
        }
        if args.json.as_ref().is_some_and(|json| output::is_same(out, json)) {
            bail!("--out and --json are the same file {}", out.display());
        }
    }
    if let Some(checkpoint) = &args.checkpoint {
        if output::is_stdout(checkpoint) || output::is_special(checkpoint) {
            bail!("cannot write the checkpoint to {}: it must be a file", checkpoint.display());
        }
        if [&args.out, &args.json].into_iter().flatten().any(|other| output::is_same(checkpoint, other)) {
            bail!("--checkpoint and another output are the same file {}", checkpoint.display());
        }
    }
    for path in [&args.out, &args.json, &args.checkpoint].into_iter().flatten() {
        output::check_is_no_input(path, &inputs)?;
        output::check_writable(path)?;
    }
    Ok(())
}

/// All data, with the columns of the model to start from; validation data apart.
fn load(args: &args::Train, init: Option<&Model>) -> Result<(input::Training, Option<Dataset<'static>>)> {
    let data = input::training(&args.data, &args.device, init, args.seed, args.quiet)?;
    let classes = init.map_or_else(|| data.train.classes().to_vec(), |model| model.classes_with(data.train.classes()));
    let model = (&*classes, data.train.n_features());
    let validation = args.validation_source(&data.train, data.zero_based);
    let validation =
        validation.map(|source| input::labelled_for(&source, "--validation-labels", model, args.quiet)).transpose()?;
    Ok((data, validation))
}

/// All there is to report.
struct Run<'a> {
    args: &'a args::Train,
    device: &'a Device,
    train: &'a Dataset<'a>,
    fit: &'a Fit,
    test: Option<&'a Evaluation>,
    stages: Stages,
}

impl Run<'_> {
    fn matrix_units(&self) -> bool {
        self.device.uses_matrix_units(self.fit.model.n_classes())
    }

    /// Samples that were trained on, without those kept for validation.
    fn n_samples(&self) -> u64 {
        self.fit.model.training()["n_samples"].as_u64().unwrap_or_default()
    }

    /// What --l2 says, or --c comes to.
    fn l2(&self) -> f64 {
        self.fit.model.training()["l2"].as_f64().unwrap_or_default()
    }

    fn is_batch(&self) -> bool {
        self.fit.learning_rate.is_none()
    }

    /// Passes over the samples, each of a product X·W and one Xᵀ·R.
    fn evaluations(&self) -> Option<f64> {
        self.fit.products.map(|products| products as f64 / 2.0)
    }

    fn samples_per_second(&self) -> f64 {
        let seconds = self.fit.training.max(Duration::from_nanos(1)).as_secs_f64();
        // Iterations of a batch solver are evaluations; those of a polish come on top of epochs.
        let epochs = if self.is_batch() { 0 } else { self.fit.epochs.len() };
        (epochs as f64 + self.evaluations().unwrap_or_default()) * self.n_samples() as f64 / seconds
    }

    fn report(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let mut parts = vec![("training", &self.fit.train)];
        parts.extend(self.fit.validation.as_ref().map(|validation| ("validation", validation)));
        parts.extend(self.test.map(|test| ("test", test)));
        report::figures(out, &parts)?;
        report::information(out, self.test.unwrap_or(&self.fit.train), None)?;
        let (title, evaluation) = match self.test {
            Some(test) => ("class (test data)", test),
            None => ("class (training data)", &self.fit.train),
        };
        report::classes(out, title, self.fit.model.classes(), evaluation)?;

        let args = self.args;
        let chosen = |automatic: bool| if automatic { " (auto)" } else { "" };
        let solver = &self.fit.solver;
        let mut name = format!("{}{}", solver.name(), chosen(matches!(args.solver(), Solver::Auto)));
        if self.is_batch() {
            let evaluations = self.evaluations().map_or_else(String::new, |n| format!(", {n} evaluations"));
            name += &format!(", {} iterations{evaluations}", self.fit.epochs.len());
        } else {
            let automatic = args.solver.epochs.is_none() && self.fit.reason == StopReason::Epochs;
            let (batch_size, momentum) = match solver {
                Solver::Sgd(sgd) => (sgd.batch_size, format!(", momentum {}", sgd.momentum)),
                Solver::AdamW(adamw) => (adamw.batch_size, String::new()),
                _ => (0, String::new()),
            };
            name +=
                &format!(", {} epochs{}, batch size {batch_size}{momentum}", self.fit.epochs.len(), chosen(automatic));
        }
        writeln!(out, "solver     {name}")?;
        let mut settings = Vec::from_iter(args.c.map(|c| format!("C {}", rounded(c))));
        settings.push(format!("l2 {}", rounded(self.l2())));
        if args.l1 > 0.0 {
            settings.push(format!("l1 {}", rounded(args.l1)));
        }
        if let Some(rate) = self.fit.learning_rate {
            settings.push(format!("learning rate {}{}", rounded(rate), chosen(args.lr.is_none())));
        }
        let automatic = chosen(args.feature_scale == FeatureScale::Auto);
        settings.push(match args.seeds {
            1 => format!("seed {}", args.seed),
            n => format!("seed {}, the best of {n}", self.fit.seed),
        });
        settings.push(format!("feature scale {}{automatic}", rounded(self.fit.feature_scale)));
        for line in settings.chunks(3) {
            writeln!(out, "           {}", line.join(", "))?;
        }
        let training = self.fit.model.training();
        let class_weight = match &training["class_weight"] {
            Value::Null => None,
            Value::String(name) => Some(format!("class weights {name}")),
            _ => Some("class weights by name".to_owned()),
        };
        let smoothing = (args.data.label_smoothing > 0.0)
            .then(|| format!("label smoothing {}", rounded(args.data.label_smoothing)));
        let mut notes = Vec::new();
        if args.structure() != Structure::Dense {
            let (n, model) = (self.fit.model.n_parameters(), &self.fit.model);
            let of_dense = n as f64 / ((model.n_features() + 1) * model.n_classes()) as f64;
            let n = HumanCount(n as u64);
            notes.push(format!("weights {}, {n} parameters, {} of dense", args.structure(), rounded(of_dense)));
        }
        let warmup = args.solver.warmup.filter(|&epochs| epochs > 0.0);
        let schedule = args.solver.schedule.unwrap_or_default();
        if schedule != Schedule::default() || warmup.is_some() {
            notes.push(format!("schedule {schedule}"));
        }
        notes.extend(warmup.map(|epochs| format!("warm-up {epochs} epochs")));
        if let Some(weight_decay) = args.solver.weight_decay {
            notes.push(format!("weight decay {weight_decay}"));
        }
        if args.no_intercept {
            notes.push("no intercept".to_owned());
        }
        if args.standardize {
            notes.push("standardised penalty".to_owned());
        }
        if args.penalty_factors.is_some() {
            notes.push("penalty factors".to_owned());
        }
        notes.extend(class_weight.into_iter().chain(smoothing));
        if !notes.is_empty() {
            writeln!(out, "           {}", notes.join(", "))?;
        }
        if let Some(certificate) = &self.fit.certificate {
            write_certificate(out, certificate, args.l1 > 0.0)?;
        }
        if self.fit.reason != StopReason::Epochs {
            writeln!(out, "stopped    {}", explained(self.fit.reason, self.device))?;
        }
        if let Some(epoch) = self.fit.best_epoch {
            writeln!(out, "weights    of epoch {epoch}, which has the lowest validation loss")?;
        }
        writeln!(out, "speed      {} samples/s", HumanCount(self.samples_per_second() as u64))?;
        self.stages.write(out)?;
        for fault in &self.fit.faults {
            writeln!(out, "fault      {fault}")?;
        }
        writeln!(out, "device     {}", report::device(self.device))?;
        if self.matrix_units() {
            writeln!(out, "           products on matrix units")?;
        }
        match &args.out {
            Some(path) => writeln!(out, "model      saved as {}{}", path.display(), size(path)),
            None => writeln!(out, "model      not saved (--out)"),
        }
    }

    fn to_json(&self) -> Value {
        let Self { args, device, train, fit, test, stages, .. } = self;
        let solver = &fit.solver;
        let (sgd, adamw) = match solver {
            Solver::Sgd(sgd) => (Some(sgd), None),
            Solver::AdamW(adamw) => (None, Some(adamw)),
            _ => (None, None),
        };
        let n_samples = self.n_samples();
        let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
        // In parts, since the macro has a limit.
        let mut record = json!({
            "softreg_version": env!("CARGO_PKG_VERSION"),
            "features": path(&args.data.features).unwrap_or_else(|| "built-in digits".to_owned()),
            "model": path(&args.out),
            "device": device.info().name,
            "backend": device.info().backend,
            "device_reason": device.reason(),
            "matrix_units": self.matrix_units(),
            "solver": solver.name(),
            "init": path(&args.init),
            "n_samples": n_samples,
            "n_validation_samples": fit.validation.as_ref().map_or(0, |validation| validation.n_samples),
            "n_test_samples": test.map_or(0, |test| test.n_samples),
            "n_features": train.n_features(),
            "n_classes": fit.model.n_classes(),
            "n_heads": 1,
            "dtype": train.features().values().dtype().to_string(),
            "epochs": fit.epochs.len(),
            "reason": fit.reason.to_string(),
            "best_epoch": fit.best_epoch,
            "patience": args.patience,
            "time_limit": args.time_limit,
            "batch_size": sgd.map(|sgd| sgd.batch_size).or(adamw.map(|adamw| adamw.batch_size)),
            "lr": fit.learning_rate,
            "l2": self.l2(),
            "l1": args.l1,
            "standardize": args.standardize,
            "penalty_factors": path(&args.penalty_factors),
            "polish": args.polish,
            "intercept": !args.no_intercept,
            "feature_scale": fit.feature_scale,
            "sample_weight": path(&args.data.sample_weight).or_else(|| args.data.weight_column.clone()),
            "class_weight": fit.model.training()["class_weight"],
            "label_smoothing": args.data.label_smoothing,
            "seed": fit.seed,
            "seconds_startup": stages.startup.as_secs_f64(),
            "seconds_load": stages.load.as_secs_f64(),
            "seconds_device": stages.device.as_secs_f64(),
            "seconds_train": fit.training.as_secs_f64(),
            "seconds_evaluate": stages.evaluate.as_secs_f64(),
            "seconds_total": stages.total.as_secs_f64(),
            "samples_per_second": self.samples_per_second(),
        });
        let settings = json!({
            "c": args.c,
            "density": report::density(train.features()),
            "schedule": (!self.is_batch()).then(|| args.solver.schedule.unwrap_or_default().to_string()),
            "warmup": (!self.is_batch()).then(|| args.solver.warmup.unwrap_or_default()),
            "momentum": sgd.map(|sgd| sgd.momentum),
            "nesterov": sgd.map(|sgd| sgd.nesterov),
            "beta_1": adamw.map(|adamw| adamw.beta_1),
            "beta_2": adamw.map(|adamw| adamw.beta_2),
            "epsilon": adamw.map(|adamw| adamw.epsilon),
            "weight_decay": adamw.map(|adamw| adamw.weight_decay),
            "weights": args.structure().to_string(),
            "n_parameters": fit.model.n_parameters(),
            "seeds": args.seeds,
            "seed_of_splits": args.seed,
            "checkpoint": path(&args.checkpoint),
            "faults": fit.faults,
        });
        let certificate = fit.certificate.as_ref();
        let optimum = json!({
            "n_iterations": self.is_batch().then_some(fit.epochs.len()),
            "n_evaluations": self.evaluations(),
            "n_products": fit.products,
            "converged": certificate.map(|_| fit.reason == StopReason::Converged),
            "gradient_norm": certificate.map(|certificate| certificate.gradient_norm),
            "relative_gradient_norm": certificate.map(|certificate| certificate.relative_gradient_norm),
            "duality_gap": certificate.and_then(|certificate| certificate.gap),
            "n_nonzero": certificate.map(|certificate| certificate.n_nonzero),
            "certificate_precision": certificate.map(|c| if c.is_double { "f64" } else { "f32" }),
            "evaluations_of_iterations": self.is_batch().then(|| fit.epochs.iter().map(|it| it.evaluations).collect::<Vec<_>>()),
        });
        let results = json!({
            "train_loss": fit.train.log_loss,
            "objective": fit.objective,
            "train_accuracy": fit.train.accuracy,
            "validation_loss": fit.validation.as_ref().map(|validation| validation.log_loss),
            "validation_accuracy": fit.validation.as_ref().map(|validation| validation.accuracy),
            "test_loss": test.map(|test| test.log_loss),
            "test_accuracy": test.map(|test| test.accuracy),
            "epoch_losses": fit.epochs.iter().map(|epoch| epoch.loss).collect::<Vec<_>>(),
            "train_information": report::information_json(&fit.train, None),
            "test_information": test.map(|test| report::information_json(test, None)),
            "validation_losses": fit.epochs.iter().filter_map(|epoch| epoch.validation_loss).collect::<Vec<_>>(),
            "train_classes": report::classes_json(fit.model.classes(), &fit.train),
            "test_classes": test.map(|test| report::classes_json(fit.model.classes(), test)),
        });
        if let Some(record) = record.as_object_mut() {
            record.extend(
                [settings, optimum, results].into_iter().flat_map(|part| part.as_object().cloned().unwrap_or_default()),
            );
        }
        record
    }
}

fn size(path: &Path) -> String {
    std::fs::metadata(path).map_or_else(|_| String::new(), |metadata| format!(" ({})", HumanBytes(metadata.len())))
}

/// How near the minimum the model is.
fn write_certificate(out: &mut dyn io::Write, certificate: &Certificate, has_l1: bool) -> io::Result<()> {
    let gap = certificate.gap.map_or_else(String::new, |gap| format!(", at most {gap:.1e} above the minimum"));
    let value = certificate.objective;
    let value = if value < 1e-4 { format!("{value:.6e}") } else { format!("{value:.9}") };
    writeln!(out, "objective  {value}{gap}")?;
    let norm = certificate.gradient_norm;
    let precision = if certificate.is_double { "double precision" } else { "single precision" };
    writeln!(out, "           largest derivative {norm:.1e}, in {precision}")?;
    if has_l1 {
        writeln!(out, "           {} weights are not zero", HumanCount(certificate.n_nonzero as u64))?;
    }
    Ok(())
}

/// Why training ended, and what that means where it is not plain.
fn explained(reason: StopReason, device: &Device) -> String {
    let more = match reason {
        StopReason::Separable => {
            ": the training data can be told apart\n           without error, so larger weights are always better; a penalty \
             (--l2)\n           has a best model"
        }
        StopReason::Precision if device.info().kind != DeviceKind::Cpu => {
            ": no step that rounding allows\n           is lower; --polish goes on in double precision"
        }
        StopReason::Precision => ": no step that rounding allows is lower",
        StopReason::Iterations => " (--max-iterations), before the minimum",
        _ => "",
    };
    format!("{reason}{more}")
}
