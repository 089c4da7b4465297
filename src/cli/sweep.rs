//! `softreg sweep`.

use std::io;
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use softreg::{
    Candidate, Criterion, Dataset, Device, Evaluation, Folds, Head, Lbfgs, Rule, SoftmaxRegression, StopReason, Sweep,
    Swept, data,
};

use crate::args::{self, CriterionName, FoldsName, Grid};
use crate::progress::Count;
use crate::report::{self, rounded};
use crate::{input, output};

/// `start` is when the program began.
pub fn run(args: &args::Sweep, start: Instant) -> Result<()> {
    check_outputs(args)?;
    let tell = |text: &str| {
        if !args.quiet {
            output::message(text);
        }
    };
    let device = args.device.open(false)?;
    tell(&format!("device     {}", report::device(&device)));
    let data = input::training(&args.data, &args.device, None, args.seed, args.quiet)?;
    data.tell(&args.data, args.quiet);
    let input::Training { train, test, zero_based, .. } = data;
    if args.out.is_none() && args.data.features.is_some() {
        tell("model      not saved; --out MODEL.safetensors saves it");
    }

    let sweep = sweep(args, &device)?;
    let count = Count::new(sweep.n_heads(), "models", args.quiet);
    let begin = Instant::now();
    let swept = sweep.fit_with(&train, |_| count.one_more());
    count.finish();
    let mut swept = swept?;
    let seconds = begin.elapsed().as_secs_f64();
    if let Some(zero_based) = zero_based {
        swept.fit.model.record_zero_based(zero_based);
    }
    let test = test.map(|test| swept.fit.model.on(&device).evaluate(&test)).transpose();
    // Whatever became of the test.
    if let Some(path) = &args.out {
        if let Ok(Some(test)) = &test {
            swept.fit.model.record_test(test);
        }
        swept.fit.model.save(path)?;
    }
    let test = test?;
    let run = Run { args, device: &device, train: &train, swept: &swept, test: test.as_ref(), seconds };
    if let Some(path) = &args.csv {
        output::write(path, |out| run.write_csv(out))?;
    }
    if let Some(path) = &args.json {
        let record = run.to_json(start);
        output::write(path, |out| writeln!(out, "{record}"))?;
    }
    report::print(args.json.as_deref(), args.quiet, |out| run.report(out))
}

/// Finds out what cannot be written before anything is trained.
fn check_outputs(args: &args::Sweep) -> Result<()> {
    if let Some(out) = args.out.as_ref().filter(|out| output::is_stdout(out) || output::is_special(out)) {
        bail!("cannot write the model to {}: --out must be a file", out.display());
    }
    let inputs = [&args.data.paths()[..], &[args.groups.as_deref()]].concat();
    let outputs = [("--out", &args.out), ("--csv", &args.csv), ("--json", &args.json)];
    let given: Vec<_> = outputs.iter().filter_map(|(name, path)| Some((name, path.as_ref()?))).collect();
    for (index, (name, path)) in given.iter().enumerate() {
        output::check_is_no_input(path, &inputs)?;
        output::check_writable(path)?;
        if let Some((other, _)) = given[..index].iter().find(|(_, other)| output::is_same(other, path)) {
            bail!("{other} and {name} are the same file {}", path.display());
        }
    }
    Ok(())
}

fn sweep(args: &args::Sweep, device: &Device) -> Result<Sweep> {
    let mut lbfgs = Lbfgs::default();
    lbfgs.max_iterations = args.max_iterations.unwrap_or(lbfgs.max_iterations);
    lbfgs.tolerance = args.tolerance.unwrap_or(lbfgs.tolerance);
    let estimator = SoftmaxRegression::new()
        .solver(lbfgs)
        .standardize(args.standardize)
        .seed(args.seed)
        .feature_scale(args.feature_scale)
        .class_weight(args.data.class_weight.clone().unwrap_or_default())
        .label_smoothing(args.data.label_smoothing)
        .intercept(!args.no_intercept)
        .device(device);
    let mut sweep = Sweep::new(estimator).l1_ratios(args.l1_ratio.clone());
    if let Some(tolerance) = args.tolerance {
        sweep = sweep.tolerance(tolerance);
    }
    if let Some(limit) = args.device.memory_limit {
        // The other half is for the features.
        sweep = sweep.memory(limit / 2);
    }
    sweep = match (&args.c, &args.l2) {
        (Some(Grid(values)), _) => sweep.c(values.clone()),
        (None, Some(Grid(values))) => sweep.penalties(values.clone()),
        (None, None) => sweep,
    };
    let folds = match (&args.groups, args.folds) {
        (Some(path), _) => Folds::Grouped(args.cv, groups(path)?),
        (None, FoldsName::Stratified) => Folds::Stratified(args.cv),
        (None, FoldsName::Contiguous) => Folds::Contiguous(args.cv),
    };
    let criterion = match args.criterion {
        CriterionName::LogLoss => Criterion::LogLoss,
        CriterionName::Accuracy => Criterion::Accuracy,
    };
    let rule = if args.one_standard_error { Rule::OneStandardError } else { Rule::Best };
    Ok(sweep.folds(folds).criterion(criterion).rule(rule))
}

fn groups(path: &std::path::Path) -> Result<Vec<u32>> {
    let group = |(row, number): (usize, f64)| match number as u32 {
        group if f64::from(group) == number => Ok(group),
        _ => bail!("{}, row {}: the group {number} is no whole number from 0 to 4294967295", path.display(), row + 1),
    };
    data::read_numbers(path)?.into_iter().enumerate().map(group).collect()
}

/// All there is to report.
struct Run<'a> {
    args: &'a args::Sweep,
    device: &'a Device,
    train: &'a Dataset<'a>,
    swept: &'a Swept,
    test: Option<&'a Evaluation>,
    /// Of search and last fit.
    seconds: f64,
}

impl Run<'_> {
    fn heads_of(&self, candidate: usize) -> impl Iterator<Item = &Head> + Clone {
        self.swept.heads.iter().filter(move |head| head.candidate == candidate)
    }

    /// Passes over the samples of all fits, each of a product X·W and one Xᵀ·R.
    fn evaluations(&self) -> f64 {
        let products = self.swept.heads.iter().map(|head| head.products).sum::<usize>();
        (products + self.swept.fit.products.unwrap_or_default()) as f64 / 2.0
    }

    fn report(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let Swept { candidates, chosen, fit, heads, .. } = self.swept;
        let has_l1 = candidates.iter().any(|candidate| candidate.l1_ratio > 0.0);
        let has_c = candidates.iter().any(|candidate| candidate.c.is_some());
        let k = self.args.cv;
        write!(out, "  ")?;
        if has_c {
            write!(out, "{:>9}", "C")?;
        }
        if has_l1 {
            write!(out, "{:>9}", "l1 ratio")?;
        }
        writeln!(out, "{:>10}{:>19}{:>18}{:>11}", "l2 + l1", "log loss", "accuracy", "iterations")?;
        for (index, candidate) in candidates.iter().enumerate() {
            let Candidate { c, l1_ratio, l2, l1, log_loss, log_loss_error, accuracy, accuracy_error, .. } = candidate;
            write!(out, "{} ", if index == *chosen { '*' } else { ' ' })?;
            if let Some(c) = c {
                write!(out, "{:>9}", rounded(*c))?;
            }
            if has_l1 {
                write!(out, "{l1_ratio:>9}")?;
            }
            let iterations: usize = self.heads_of(index).map(|head| head.n_iterations).sum();
            writeln!(
                out,
                "{:>10}{:>10.5} ± {log_loss_error:.4}{:>9.4} ± {accuracy_error:.4}{:>11}",
                rounded(l2 + l1),
                log_loss,
                accuracy,
                iterations.div_ceil(k)
            )?;
        }
        let unfinished = heads.iter().filter(|head| head.reason == StopReason::Iterations).count();
        if unfinished > 0 {
            writeln!(out, "           {unfinished} of {} models ended by --max-iterations", heads.len())?;
        }
        writeln!(out)?;
        let mut parts = vec![("training", &fit.train)];
        parts.extend(self.test.map(|test| ("test", test)));
        report::figures(out, &parts)?;
        let rule = match (self.args.criterion, self.args.one_standard_error) {
            (CriterionName::LogLoss, false) => "the lowest log loss",
            (CriterionName::Accuracy, false) => "the highest accuracy",
            (_, true) => "the strongest within the error of the best",
        };
        let Candidate { c, l2, l1, .. } = candidates[*chosen];
        let mut penalties: Vec<String> = c.iter().map(|&c| format!("C = {}", rounded(c))).collect();
        for (name, penalty) in [("l2", l2), ("l1", l1)].into_iter().filter(|(_, penalty)| *penalty > 0.0) {
            penalties.push(format!("{name} = {}", rounded(penalty)));
        }
        writeln!(
            out,
            "chosen     {}: {rule},\n           in the mean of {k} folds (± its standard error)",
            penalties.join(", ")
        )?;
        let (n, seconds) = (heads.len() + 1, self.seconds);
        write!(out, "time       {seconds:.2} s for {n} models, {} evaluations", self.evaluations())?;
        match self.swept.passes {
            Some(passes) => writeln!(out, "; {passes} passes over the data in the search")?,
            None => writeln!(out)?,
        }
        writeln!(out, "device     {}", report::device(self.device))?;
        match &self.args.out {
            Some(path) => writeln!(out, "model      saved as {}", path.display()),
            None => writeln!(out, "model      not saved (--out)"),
        }
    }

    fn write_csv(&self, out: &mut dyn io::Write) -> io::Result<()> {
        writeln!(
            out,
            "fold,c,l1_ratio,l2,l1,validation_loss,validation_accuracy,objective,n_iterations,n_evaluations,seconds,reason"
        )?;
        for head in &self.swept.heads {
            let Candidate { c, l1_ratio, .. } = self.swept.candidates[head.candidate];
            let (c, evaluations) = (c.map_or_else(String::new, |c| c.to_string()), head.products as f64 / 2.0);
            let Head { fold, l2, l1, objective, n_iterations, reason, .. } = head;
            let (loss, accuracy) = (head.validation.log_loss, head.validation.accuracy);
            let seconds = head.training.as_secs_f64();
            writeln!(
                out,
                "{fold},{c},{l1_ratio},{l2},{l1},{loss},{accuracy},{objective},{n_iterations},{evaluations},{seconds},{reason}"
            )?;
        }
        Ok(())
    }

    fn to_json(&self, start: Instant) -> Value {
        let Self { args, device, train, swept, test, seconds } = self;
        let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let candidate = |candidate: &Candidate| {
            json!({
                "c": candidate.c,
                "l1_ratio": candidate.l1_ratio,
                "l2": candidate.l2,
                "l1": candidate.l1,
                "validation_loss": candidate.log_loss,
                "validation_loss_standard_error": candidate.log_loss_error,
                "validation_accuracy": candidate.accuracy,
                "validation_accuracy_standard_error": candidate.accuracy_error,
            })
        };
        let head = |head: &Head| {
            json!({
                "fold": head.fold,
                "candidate": head.candidate,
                "l2": head.l2,
                "l1": head.l1,
                "validation_loss": head.validation.log_loss,
                "validation_accuracy": head.validation.accuracy,
                "objective": head.objective,
                "n_iterations": head.n_iterations,
                "n_evaluations": head.products as f64 / 2.0,
                "seconds_train": head.training.as_secs_f64(),
                "reason": head.reason.to_string(),
            })
        };
        json!({
            "softreg_version": env!("CARGO_PKG_VERSION"),
            "features": path(&args.data.features).unwrap_or_else(|| "built-in digits".to_owned()),
            "model": path(&args.out),
            "device": device.info().name,
            "n_samples": train.n_samples(),
            "n_features": train.n_features(),
            "n_classes": train.n_classes(),
            "n_folds": args.cv,
            "n_heads": swept.heads.len(),
            "n_evaluations": self.evaluations(),
            "n_passes": swept.passes,
            "seconds_train": seconds,
            "seconds_search": swept.search.as_secs_f64(),
            "seconds_total": start.elapsed().as_secs_f64(),
            "chosen": candidate(&swept.candidates[swept.chosen]),
            "candidates": swept.candidates.iter().map(candidate).collect::<Vec<_>>(),
            "heads": swept.heads.iter().map(head).collect::<Vec<_>>(),
            "train_loss": swept.fit.train.log_loss,
            "train_accuracy": swept.fit.train.accuracy,
            "objective": swept.fit.objective,
            "test_loss": test.map(|test| test.log_loss),
            "test_accuracy": test.map(|test| test.accuracy),
        })
    }
}
