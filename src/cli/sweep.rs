//! `softreg sweep`.

use std::io;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::CommandFactory;
use serde_json::{Value, json};
use softreg::data::Values;
use softreg::{
    AdamW, Candidate, Criterion, Dataset, Device, Evaluation, FeatureScale, Folds, Head, Rule, Sgd, SoftmaxRegression,
    Solver, StopReason, Sweep, Swept, data,
};

use crate::args::{self, CriterionName, FoldsName, Grid, Search};
use crate::progress::Count;
use crate::report::{self, rounded};
use crate::{curve, input, output};

/// `start` is when the program began.
pub fn run(args: &args::Sweep, start: Instant) -> Result<()> {
    if let Some((option, solver)) = args.search.foreign_option() {
        let message = format!("{option} is an option of --solver {solver}\n");
        args::Cli::command().error(clap::error::ErrorKind::ArgumentConflict, message).exit();
    }
    if let Some((option, why)) = args.search.not_of_a_curve(args.out.is_some()) {
        args::Cli::command().error(clap::error::ErrorKind::ArgumentConflict, format!("{option} {why}\n")).exit();
    }
    if args.search.is_curve() {
        curve::check_test(&args.data)?;
    }
    check_outputs(args)?;
    let tell = |text: &str| {
        if !args.quiet {
            output::message(text);
        }
    };
    let device = args.device.open(false)?;
    tell(&format!("device     {}", report::device(&device)));
    let data = input::training(&args.data, &args.device, None, args.search.seed, args.quiet)?;
    data.tell(&args.data, args.quiet);
    let input::Training { train, test, zero_based, .. } = data;
    if args.search.is_curve() {
        return curve::run(args, &device, &train, test.as_ref(), start);
    }
    if args.out.is_none() && args.data.features.is_some() {
        tell("model      not saved; --out MODEL.safetensors saves it");
    }

    let mut search = args.search.with_preset();
    search.solver.epochs = search.epochs(train.n_samples());
    let is_scaled = search.preset.is_some_and(args::Preset::is_linear) && args.search.feature_scale.is_none();
    if is_scaled && has_unit_rows(&train) {
        let factor = (train.n_features() as f64).sqrt();
        search.feature_scale = Some(FeatureScale::Factor(factor));
        tell(&format!("features   of length 1: times {}, for the learning rates of the preset", rounded(factor)));
    }
    let sweep = sweep(args, &search, &device)?;
    tell(&format!("search     {}", describe(&search, sweep.n_heads())));
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
    let run =
        Run { args, search: &search, device: &device, train: &train, swept: &swept, test: test.as_ref(), seconds };
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
    let inputs = [&args.data.paths()[..], &[args.search.groups.as_deref()]].concat();
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

/// What the options say; `search` is with what the preset says.
pub fn sweep(args: &args::Sweep, search: &Search, device: &Device) -> Result<Sweep> {
    let estimator = SoftmaxRegression::new()
        .solver(search.solver.solver(None, search.is_stochastic()))
        .standardize(search.standardize)
        .weights(search.weights)
        .seed(search.seed)
        .feature_scale(search.feature_scale.unwrap_or_default())
        .class_weight(args.data.class_weight.clone().unwrap_or_default())
        .label_smoothing(args.data.label_smoothing)
        .intercept(!search.no_intercept)
        .device(device);
    let mut sweep = Sweep::new(estimator).l1_ratios(search.l1_ratio.clone());
    if !search.is_curve() {
        sweep = sweep.seeds(search.n_seeds());
    }
    if let Some(tolerance) = search.solver.tolerance {
        sweep = sweep.tolerance(tolerance);
    }
    if let Some(limit) = args.device.memory_limit {
        // The other half is for the features.
        sweep = sweep.memory(limit / 2);
    }
    sweep = match (&search.c, &search.l2) {
        (Some(Grid(values)), _) => sweep.c(values.clone()),
        (None, Some(Grid(values))) => sweep.penalties(values.clone()),
        (None, None) => sweep,
    };
    if let Some(steps) = search.refine {
        sweep = sweep.refine(steps);
    }
    if let Some(Grid(rates)) = &search.lr {
        sweep = sweep.learning_rates(rates.clone());
    }
    let k = search.n_folds();
    let folds = match (search.holdout, &search.groups, search.folds) {
        (Some(fraction), ..) => Folds::Holdout { fraction, seed: search.seed },
        (None, Some(path), _) => Folds::Grouped(k, groups(path)?),
        (None, None, None | Some(FoldsName::Stratified)) => Folds::Stratified(k),
        (None, None, Some(FoldsName::Contiguous)) => Folds::Contiguous(k),
    };
    let criterion = match search.criterion {
        None | Some(CriterionName::LogLoss) => Criterion::LogLoss,
        Some(CriterionName::Accuracy) => Criterion::Accuracy,
    };
    let rule = if search.one_standard_error { Rule::OneStandardError } else { Rule::Best };
    Ok(sweep.folds(folds).criterion(criterion).rule(rule))
}

/// Whether the features are embeddings that were normalised: rows of length 1, by some of them.
fn has_unit_rows(data: &Dataset) -> bool {
    let (n, d) = (data.n_samples(), data.n_features());
    let is_unit = |row: usize| {
        let at = row * d..(row + 1) * d;
        let square = match data.features().values() {
            Values::F32(values) => values[at].iter().map(|&x| f64::from(x).powi(2)).sum::<f64>(),
            Values::F16(values) => values[at].iter().map(|x| f64::from(x.to_f32()).powi(2)).sum(),
            _ => 0.0,
        };
        (square - 1.0).abs() < 0.01
    };
    (0..n).step_by(n.div_ceil(256)).all(is_unit)
}

/// What is going to be searched, on a line.
fn describe(search: &Search, n_heads: usize) -> String {
    let solver = match search.solver.solver(None, search.is_stochastic()) {
        Solver::Sgd(Sgd { epochs: Some(epochs), batch_size, .. })
        | Solver::AdamW(AdamW { epochs: Some(epochs), batch_size, .. }) => {
            format!(", {epochs} epochs each, batch size {batch_size}")
        }
        _ => String::new(),
    };
    let at_most = if search.refine.is_some() { "at most " } else { "" };
    let preset = search.preset.map_or_else(String::new, |preset| format!("{}: ", preset.name()));
    format!("{preset}{at_most}{n_heads} models{solver}")
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
    /// With what the preset says.
    search: &'a Search,
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
        let Swept { heads, fit, .. } = self.swept;
        let products = heads.iter().map(|head| head.products).sum::<usize>();
        (products + fit.products.unwrap_or(2 * fit.epochs.len())) as f64 / 2.0
    }

    fn report(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let Swept { candidates, chosen, fit, heads, warnings, .. } = self.swept;
        self.table(out)?;
        let count = |reason: StopReason| heads.iter().filter(|head| head.reason == reason).count();
        for (reason, why) in [
            (StopReason::Iterations, "ended by --max-iterations"),
            (StopReason::Diverged, "diverged: their learning rates are too high"),
        ] {
            if count(reason) > 0 {
                writeln!(out, "           {} of {} models {why}", count(reason), heads.len())?;
            }
        }
        for warning in warnings {
            writeln!(out, "warning    {warning}")?;
        }
        writeln!(out)?;
        let mut parts = vec![("training", &fit.train)];
        parts.extend(self.test.map(|test| ("test", test)));
        report::figures(out, &parts)?;
        let rule = match (self.search.criterion, self.search.one_standard_error) {
            (None | Some(CriterionName::LogLoss), false) => "the lowest log loss",
            (Some(CriterionName::Accuracy), false) => "the highest accuracy",
            (_, true) => "the strongest within the error of the best",
        };
        let Candidate { c, l2, l1, .. } = candidates[*chosen];
        let mut settings: Vec<String> = c.iter().map(|&c| format!("C = {}", rounded(c))).collect();
        for (name, penalty) in [("l2", l2), ("l1", l1)].into_iter().filter(|(_, penalty)| *penalty > 0.0) {
            settings.push(format!("{name} = {}", rounded(penalty)));
        }
        settings.extend(fit.learning_rate.map(|rate| format!("learning rate = {}", rounded(rate))));
        let seeds = match self.search.n_seeds() {
            1 => String::new(),
            n => format!(" and {n} seeds"),
        };
        let of = match (self.search.holdout, self.search.n_folds()) {
            (Some(share), _) if seeds.is_empty() => format!("on {} of the samples, held out", rounded(share)),
            (Some(share), _) => format!("on {} of the samples, in the mean of{}", rounded(share), &seeds[4..]),
            (None, k) => format!("in the mean of {k} folds{seeds} (± its standard error)"),
        };
        writeln!(out, "chosen     {}: {rule},\n           {of}", settings.join(", "))?;
        for end in self.ends_of_grid() {
            writeln!(out, "           the {end} of the grid: others beyond it may be better")?;
        }
        let (n, seconds) = (heads.len() + 1, self.seconds);
        writeln!(out, "time       {seconds:.2} s for {n} models, {} evaluations", self.evaluations())?;
        if let Some(passes) = self.swept.passes {
            writeln!(out, "           {passes} passes over the data in the search")?;
        }
        writeln!(out, "device     {}", report::device(self.device))?;
        match &self.args.out {
            Some(path) => writeln!(out, "model      saved as {}", path.display()),
            None => writeln!(out, "model      not saved (--out)"),
        }
    }

    /// At which ends of the grid the chosen candidate is.
    fn ends_of_grid(&self) -> Vec<String> {
        let chosen = &self.swept.candidates[self.swept.chosen];
        let end = |name: &str, figure: fn(&Candidate) -> f64| {
            let (mut all, of_chosen) = (self.swept.candidates.iter().map(figure), figure(chosen));
            let is_lowest = all.clone().all(|value| value >= of_chosen);
            match (is_lowest, all.all(|value| value <= of_chosen)) {
                (true, false) => Some(format!("lowest {name}")),
                (false, true) => Some(format!("highest {name}")),
                _ => None,
            }
        };
        let of_rate = end("learning rate", |of| of.learning_rate.unwrap_or_default());
        let strength = |of: &Candidate| of.c.map_or(of.l2 + of.l1, |c| 1.0 / c);
        of_rate.into_iter().chain(end("penalty", strength)).collect()
    }

    /// A line for each candidate.
    fn table(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let Swept { candidates, chosen, fit, .. } = self.swept;
        let has_l1 = candidates.iter().any(|candidate| candidate.l1_ratio > 0.0);
        let has_c = candidates.iter().any(|candidate| candidate.c.is_some());
        let has_rate = candidates.iter().any(|candidate| candidate.learning_rate.is_some());
        let n_of_each = self.search.n_folds() * self.search.n_seeds();
        let (width, epochs) =
            (if n_of_each > 1 { 9 } else { 0 }, if fit.learning_rate.is_some() { "epochs" } else { "iterations" });
        write!(out, "  ")?;
        for (name, is_shown) in [("C", has_c), ("l1 ratio", has_l1), ("lr", has_rate)] {
            if is_shown {
                write!(out, "{name:>9}")?;
            }
        }
        let (loss_width, accuracy_width) = (10 + width, 9 + width);
        writeln!(out, "{:>10}{:>loss_width$}{:>accuracy_width$}{epochs:>11}", "l2 + l1", "log loss", "accuracy")?;
        for (index, candidate) in candidates.iter().enumerate() {
            let &Candidate {
                c,
                l1_ratio,
                learning_rate,
                l2,
                l1,
                log_loss,
                log_loss_error,
                accuracy,
                accuracy_error,
                ..
            } = candidate;
            write!(out, "{} ", if index == *chosen { '*' } else { ' ' })?;
            if let Some(c) = c {
                write!(out, "{:>9}", rounded(c))?;
            }
            if has_l1 {
                write!(out, "{l1_ratio:>9}")?;
            }
            if let Some(rate) = learning_rate {
                write!(out, "{:>9}", rounded(rate))?;
            }
            write!(out, "{:>10}", rounded(l2 + l1))?;
            let iterations: usize = self.heads_of(index).map(|head| head.n_iterations).sum();
            let iterations = iterations.div_ceil(n_of_each);
            if log_loss.is_infinite() {
                writeln!(out, "{:>loss_width$}{:>accuracy_width$}{iterations:>11}", "diverged", "")?;
            } else if n_of_each > 1 {
                writeln!(
                    out,
                    "{log_loss:>10.5} ± {log_loss_error:.4}{accuracy:>9.4} ± {accuracy_error:.4}{iterations:>11}"
                )?;
            } else {
                writeln!(out, "{log_loss:>10.5}{accuracy:>9.4}{iterations:>11}")?;
            }
        }
        Ok(())
    }

    fn write_csv(&self, out: &mut dyn io::Write) -> io::Result<()> {
        writeln!(
            out,
            "fold,c,l1_ratio,l2,l1,learning_rate,seed,validation_loss,validation_accuracy,objective,n_iterations,\
             n_evaluations,seconds,reason"
        )?;
        for head in &self.swept.heads {
            let Candidate { c, l1_ratio, .. } = self.swept.candidates[head.candidate];
            let (c, evaluations) = (c.map_or_else(String::new, |c| c.to_string()), head.products as f64 / 2.0);
            let Head { fold, l2, l1, seed, objective, n_iterations, reason, .. } = head;
            let rate = head.learning_rate.map_or_else(String::new, |rate| rate.to_string());
            let (loss, accuracy) = (head.validation.log_loss, head.validation.accuracy);
            let seconds = head.training.as_secs_f64();
            writeln!(
                out,
                "{fold},{c},{l1_ratio},{l2},{l1},{rate},{seed},{loss},{accuracy},{objective},{n_iterations},{evaluations},\
                 {seconds},{reason}"
            )?;
        }
        Ok(())
    }

    fn to_json(&self, start: Instant) -> Value {
        let Self { args, search, device, train, swept, test, seconds } = self;
        let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let candidate = |candidate: &Candidate| {
            json!({
                "c": candidate.c,
                "l1_ratio": candidate.l1_ratio,
                "l2": candidate.l2,
                "l1": candidate.l1,
                "learning_rate": candidate.learning_rate,
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
                "learning_rate": head.learning_rate,
                "seed": head.seed,
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
            "preset": search.preset.map(args::Preset::name),
            "solver": swept.fit.solver.name(),
            "epochs": swept.fit.learning_rate.map(|_| swept.fit.epochs.len()),
            "batch_size": match &swept.fit.solver {
                Solver::Sgd(Sgd { batch_size, .. }) | Solver::AdamW(AdamW { batch_size, .. }) => Some(batch_size),
                _ => None,
            },
            "n_folds": search.n_folds(),
            "holdout": search.holdout,
            "n_seeds": search.n_seeds(),
            "n_heads": swept.heads.len(),
            "weights": swept.fit.model.structure().to_string(),
            "n_parameters": swept.fit.model.n_parameters(),
            "n_evaluations": self.evaluations(),
            "n_passes": swept.passes,
            "seconds_train": seconds,
            "seconds_search": swept.search.as_secs_f64(),
            "seconds_total": start.elapsed().as_secs_f64(),
            "chosen": candidate(&swept.candidates[swept.chosen]),
            "candidates": swept.candidates.iter().map(candidate).collect::<Vec<_>>(),
            "heads": swept.heads.iter().map(head).collect::<Vec<_>>(),
            "warnings": swept.warnings,
            "train_loss": swept.fit.train.log_loss,
            "train_accuracy": swept.fit.train.accuracy,
            "objective": swept.fit.objective,
            "test_loss": test.map(|test| test.log_loss),
            "test_accuracy": test.map(|test| test.accuracy),
        })
    }
}
