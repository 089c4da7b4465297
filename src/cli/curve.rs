//! `softreg sweep --fractions` and `--shots`: a learning curve.

use std::io;
use std::time::Instant;

use anyhow::{Result, bail};
use indicatif::HumanCount;
use serde_json::{Value, json};
use softreg::{Curve, CurvePoint, Dataset, Device, Draw, LearningCurve, StopReason, SubsetSize};

use crate::args::{self, Grid, Search};
use crate::progress::Count;
use crate::report::{self, range, rounded};
use crate::{output, sweep};

/// `start` is when the program began; the outputs can be written.
pub fn run(args: &args::Sweep, device: &Device, train: &Dataset, test: Option<&Dataset>, start: Instant) -> Result<()> {
    let Some(test) = test else {
        bail!(
            "a learning curve is measured on test data: give it with --test (and --test-labels), or keep a share of the samples \
             with --test-split 0.2"
        );
    };
    let mut search = args.search.with_preset();
    if search.c.is_none() && search.l2.is_none() && !search.has_stochastic_solver() {
        // Several would be chosen between by cross-validation, for which 1 shot is too few.
        search.c = Some(Grid(vec![1.0]));
    }
    let curve = LearningCurve::new(sweep::sweep(args, &search, device)?).seeds(search.n_seeds());
    let curve = if search.shots.is_empty() {
        curve.fractions(search.fractions.clone())
    } else {
        curve.shots(search.shots.clone())
    };
    if !args.quiet {
        output::message(&format!("curve      {} models", curve.n_draws()));
    }
    let count = Count::new(curve.n_draws(), "models", args.quiet);
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
fn of_size(size: SubsetSize) -> (&'static str, Value) {
    match size {
        SubsetSize::Shots(k) => ("shots", k.into()),
        SubsetSize::Fraction(fraction) => ("fraction", fraction.into()),
        _ => ("size", size.to_string().into()),
    }
}

fn with_deviation(mean: f64, deviation: Option<f64>, digits: usize) -> String {
    match deviation {
        Some(deviation) => format!("{mean:.digits$} ± {deviation:.4}"),
        None => format!("{mean:.digits$}"),
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
        let is_whole = |point: &&CurvePoint| point.draws.iter().skip(1).any(|draw| draw.products == 0);
        if let Some(point) = curve.points.iter().find(is_whole) {
            let (name, size) = of_size(point.size);
            writeln!(out, "           {name} {size} has all samples: one model, whatever the seed")?;
        }
        writeln!(out, "penalty    {}", self.penalty())?;
        writeln!(out, "time       {seconds:.2} s for {} models", draws.iter().filter(|draw| draw.products > 0).count())?;
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
        match (&search.c, &search.l2) {
            (Some(Grid(values)), _) => format!("C = {}, 1/(C·n), n the samples of a subset", range(values)),
            (None, Some(Grid(values))) => format!("{}, whatever the size", range(values)),
            (None, None) => "l2 = 1e-5, whatever the size".to_owned(),
        }
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
            let (n, (_, size)) = (HumanCount(point.n_samples as u64).to_string(), of_size(point.size));
            let accuracy = with_deviation(point.accuracy, point.accuracy_deviation, 4);
            let log_loss = with_deviation(point.log_loss, point.log_loss_deviation, 4);
            let figures = |figure: fn(&Draw) -> f64| point.draws.iter().map(figure).collect::<Vec<_>>();
            let last = match last {
                "lr" => range(&figures(|draw| draw.learning_rate.unwrap_or_default())),
                "C" => range(&figures(|draw| draw.c.unwrap_or_default())),
                "l2 + l1" => range(&figures(|draw| draw.l2 + draw.l1)),
                _ => range(&figures(|draw| draw.n_iterations as f64)),
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
            write!(out, "{},{n_samples},{accuracy},{of_accuracy},{log_loss},{of_loss}", of_size(*size).1)?;
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
            let (name, size) = of_size(point.size);
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
