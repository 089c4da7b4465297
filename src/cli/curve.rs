//! `softreg sweep --fractions` and `--shots`: a learning curve.

use std::io;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use indicatif::HumanCount;
use serde_json::{Value, json};
use softreg::{Curve, CurvePoint, Dataset, Device, Draw, LearningCurve, StopReason, SubsetSize};

use crate::args::{self, Grid, Search, TrainingData};
use crate::progress::Count;
use crate::report::{self, rounded};
use crate::{known, output, sweep};

const NO_TEST: &str = "a learning curve is measured on test data: give it with --test (and --test-labels), or keep a share of the \
                       samples with --test-split 0.2";

/// That there is test data, before a large file is read in vain.
pub fn check_test(data: &TrainingData) -> Result<()> {
    let has_own = data.features.as_ref().is_none_or(|path| known::find(path).is_some());
    if has_own || data.test.is_some() || data.test_split.is_some() { Ok(()) } else { bail!(NO_TEST) }
}

/// `start` is when the program began; the outputs can be written.
pub fn run(args: &args::Sweep, device: &Device, train: &Dataset, test: Option<&Dataset>, start: Instant) -> Result<()> {
    let test = test.context(NO_TEST)?;
    let mut search = args.search.with_preset();
    if search.c.is_none() && search.l2.is_none() {
        // Between several a subset would have to choose by cross-validation, for which 1 shot is too few.
        search.l2 = Some(Grid(vec![1e-5]));
    }
    let curve = LearningCurve::new(sweep::sweep(args, &search, device)?).seeds(search.n_seeds());
    let curve = if search.shots.is_empty() {
        curve.fractions(search.fractions.clone())
    } else {
        curve.shots(search.shots.clone())
    };
    if !args.quiet {
        let (n, n_seeds) = (curve.n_draws(), search.n_seeds());
        output::message(&format!("curve      {n} subsets, {n_seeds} of each size"));
    }
    let count = Count::new(curve.n_draws(), "subsets", args.quiet);
    let begin = Instant::now();
    let fitted = curve.fit_with(train, test, |_, _| count.one_more());
    count.finish();
    let curve = fitted?;
    let seconds = begin.elapsed().as_secs_f64();
    let run = Run { args, search: &search, device, train, test, curve: &curve, seconds };
    if let Some(path) = &args.csv {
        output::write(path, |out| run.write_csv(out))?;
    }
    if let Some(path) = &args.json {
        let record = run.to_json(start);
        output::write(path, |out| writeln!(out, "{record}"))?;
    }
    report::print(args.json.as_deref(), args.quiet, |out| run.report(out))
}

/// All there is to report.
struct Run<'a> {
    args: &'a args::Sweep,
    search: &'a Search,
    device: &'a Device,
    train: &'a Dataset<'a>,
    test: &'a Dataset<'a>,
    curve: &'a Curve,
    seconds: f64,
}

/// What the size is called, and its number.
fn of_size(size: SubsetSize) -> (&'static str, Value, String) {
    match size {
        SubsetSize::Shots(k) => ("shots", k.into(), k.to_string()),
        SubsetSize::Fraction(fraction) => ("fraction", fraction.into(), fraction.to_string()),
        _ => ("size", size.to_string().into(), size.to_string()),
    }
}

/// Whether the other seeds have the model of the first.
fn is_whole(point: &CurvePoint) -> bool {
    point.draws.iter().skip(1).any(|draw| draw.products == 0)
}

/// `LEAST to LARGEST`, where they differ.
fn span(values: &[f64]) -> String {
    let text = report::range(values);
    match text.split_once(" to ") {
        Some((least, largest)) if least == largest => least.to_owned(),
        _ => text,
    }
}

impl Run<'_> {
    fn draws(&self) -> impl Iterator<Item = &Draw> + Clone {
        self.curve.points.iter().flat_map(|point| &point.draws)
    }

    fn size_name(&self) -> &'static str {
        self.curve.points.first().map_or("size", |point| of_size(point.size).0)
    }

    fn report(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let Self { search, curve, seconds, .. } = self;
        self.table(out)?;
        let draws: Vec<&Draw> = self.draws().collect();
        let n_cut = draws.iter().filter(|draw| draw.reason == StopReason::Iterations).count();
        if n_cut > 0 {
            writeln!(out, "           {n_cut} of {} models ended by --max-iterations", draws.len())?;
        }
        writeln!(out)?;
        let n_test = HumanCount(self.test.n_samples() as u64);
        match search.n_seeds() {
            1 => writeln!(
                out,
                "curve      a subset of each size, seed {}, on {n_test} test samples\n           \
                 (--seeds 3: mean and standard deviation of several)",
                search.seed
            )?,
            n => writeln!(
                out,
                "curve      mean ± standard deviation of {n} subsets, seeds {} to {},\n           on {n_test} test samples",
                search.seed,
                search.seed.wrapping_add(n as u64 - 1)
            )?,
        }
        if let Some(point) = curve.points.iter().find(|point| is_whole(point)) {
            writeln!(out, "           {}: all samples, and so one model for all seeds", point.size)?;
        }
        writeln!(out, "penalty    {}", self.penalty())?;
        for (n, end) in self.ends_of_grid() {
            let n_draws = draws.len();
            writeln!(out, "           {n} of {n_draws} at the {end} of the grid: others beyond it may be better")?;
        }
        writeln!(
            out,
            "time       {seconds:.2} s for {} models",
            draws.iter().filter(|draw| draw.products > 0).count()
        )?;
        writeln!(out, "device     {}", report::device(self.device))
    }

    /// How strong the penalties are.
    fn penalty(&self) -> String {
        let search = self.search;
        if search.is_search() {
            let by = match search.holdout {
                Some(share) => format!("{} of its samples, held out", rounded(share)),
                None => format!("{} folds of its samples", search.n_folds()),
            };
            return format!("chosen for each subset on {by}");
        }
        let name = if search.l1_ratio.iter().any(|&ratio| ratio > 0.0) { "l2 + l1" } else { "l2" };
        match (&search.c, &search.l2) {
            (Some(Grid(values)), _) => {
                format!("C = {}, so that {name} goes with 1/n, n the samples of a subset", span(values))
            }
            (None, Some(Grid(values))) => format!("{name} = {}, whatever the size", span(values)),
            (None, None) => String::new(),
        }
    }

    /// How many models have the least and the largest of several penalties.
    fn ends_of_grid(&self) -> Vec<(usize, &'static str)> {
        let penalty = |draw: &Draw| draw.c.unwrap_or(draw.l2 + draw.l1);
        let (least, most, Some(Grid(values))) = (match (&self.search.c, &self.search.l2) {
            (Some(grid), _) => ("lowest C", "highest C", Some(grid)),
            (None, grid) => ("lowest penalty", "highest penalty", grid.as_ref()),
        }) else {
            return Vec::new();
        };
        let is_near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b;
        let ends = [
            (least, values.iter().copied().fold(f64::INFINITY, f64::min)),
            (most, values.iter().copied().fold(0.0, f64::max)),
        ];
        let count = |(name, end)| (self.draws().filter(|draw| is_near(penalty(draw), end)).count(), name);
        let is_grid = values.len() > 1;
        ends.into_iter().map(count).filter(|&(n, _)| is_grid && n > 0).collect()
    }

    /// A line for each size.
    fn table(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let has_rates = self.search.lr.as_ref().is_some_and(|Grid(rates)| rates.len() > 1);
        let has_c = self.draws().all(|draw| draw.c.is_some());
        let steps = if self.draws().any(|draw| draw.learning_rate.is_some()) { "epochs" } else { "iterations" };
        let last = match (self.search.is_search(), has_rates, has_c) {
            (false, ..) => steps,
            (true, true, _) => "lr",
            (true, false, true) => "C",
            (true, false, false) => "l2 + l1",
        };
        writeln!(out, "{:>10}{:>10}{:>19}{:>19}{last:>21}", self.size_name(), "samples", "accuracy", "log loss")?;
        for point in &self.curve.points {
            let (n, (_, _, size)) = (HumanCount(point.n_samples as u64).to_string(), of_size(point.size));
            let figure = |mean: f64, deviation: Option<f64>| match deviation {
                Some(_) if is_whole(point) => format!("{mean:.4}{:9}", ""),
                Some(deviation) => format!("{mean:.4} ± {deviation:.4}"),
                None => format!("{mean:.4}"),
            };
            let accuracy = figure(point.accuracy, point.accuracy_deviation);
            let log_loss = figure(point.log_loss, point.log_loss_deviation);
            let figures = |figure: fn(&Draw) -> f64| point.draws.iter().map(figure).collect::<Vec<_>>();
            let last = match last {
                "lr" => span(&figures(|draw| draw.learning_rate.unwrap_or_default())),
                "C" => span(&figures(|draw| draw.c.unwrap_or_default())),
                "l2 + l1" => span(&figures(|draw| draw.l2 + draw.l1)),
                _ => span(&figures(|draw| draw.n_iterations as f64)),
            };
            writeln!(out, "{size:>10}{n:>10}{accuracy:>19}{log_loss:>19}{last:>21}")?;
        }
        Ok(())
    }

    /// A line for each size, with two columns for each seed.
    fn write_csv(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let seeds = self.curve.points.first().map_or(&[][..], |point| &point.draws).iter().map(|draw| draw.seed);
        let of_seeds: String = seeds.map(|seed| format!(",accuracy_of_seed_{seed},log_loss_of_seed_{seed}")).collect();
        writeln!(
            out,
            "{},n_samples,accuracy,accuracy_standard_deviation,log_loss,log_loss_standard_deviation{of_seeds}",
            self.size_name()
        )?;
        let text = |deviation: Option<f64>| deviation.map_or_else(String::new, |deviation| deviation.to_string());
        for point in &self.curve.points {
            let CurvePoint { size, n_samples, accuracy, log_loss, .. } = point;
            let (of_accuracy, of_loss) = (text(point.accuracy_deviation), text(point.log_loss_deviation));
            write!(out, "{},{n_samples},{accuracy},{of_accuracy},{log_loss},{of_loss}", of_size(*size).2)?;
            for draw in &point.draws {
                write!(out, ",{},{}", draw.test.accuracy, draw.test.log_loss)?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn to_json(&self, start: Instant) -> Value {
        let Self { args, search, device, train, test, curve, seconds } = self;
        let draw = |draw: &Draw| {
            json!({
                "seed": draw.seed,
                "c": draw.c,
                "l2": draw.l2,
                "l1": draw.l1,
                "learning_rate": draw.learning_rate,
                "test_loss": draw.test.log_loss,
                "test_accuracy": draw.test.accuracy,
                "objective": draw.objective,
                "n_iterations": draw.n_iterations,
                "n_evaluations": draw.products as f64 / 2.0,
                "seconds_train": draw.training.as_secs_f64(),
                "reason": draw.reason.to_string(),
            })
        };
        let point = |point: &CurvePoint| {
            let (name, size, _) = of_size(point.size);
            json!({
                name: size,
                "n_samples": point.n_samples,
                "test_loss": point.log_loss,
                "test_loss_standard_deviation": point.log_loss_deviation,
                "test_accuracy": point.accuracy,
                "test_accuracy_standard_deviation": point.accuracy_deviation,
                "draws": point.draws.iter().map(draw).collect::<Vec<_>>(),
            })
        };
        let features = args.data.features.as_ref().map(|path| path.display().to_string());
        json!({
            "softreg_version": env!("CARGO_PKG_VERSION"),
            "features": features.unwrap_or_else(|| "built-in digits".to_owned()),
            "device": device.info().name,
            "n_samples": train.n_samples(),
            "n_features": train.n_features(),
            "n_classes": train.n_classes(),
            "n_test_samples": test.n_samples(),
            "preset": search.preset.map(args::Preset::name),
            "solver": curve.solver.name(),
            "n_seeds": search.n_seeds(),
            "n_folds": search.is_search().then(|| search.n_folds()),
            "holdout": search.holdout,
            "seconds_train": seconds,
            "seconds_total": start.elapsed().as_secs_f64(),
            "curve": curve.points.iter().map(point).collect::<Vec<_>>(),
            "warnings": curve.warnings,
        })
    }
}
