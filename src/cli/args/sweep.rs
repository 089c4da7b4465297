//! `softreg sweep`: what is searched, and protocols by name.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use softreg::{FeatureScale, Schedule, Structure};

use super::values::{count, feature_scale, fraction, not_negative, number_that, positive, share};
use super::{Device, Of, SolverName, SolverOptions, TrainingData};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  softreg sweep
  softreg sweep x.npy --labels y.txt --c 1e-4:1e4:10 --cv 5 \\
      --out best.safetensors
  softreg sweep flowers.csv --label-column species --l2 1e-6:1e-1:16 \\
      --l1-ratio 0,0.5,1 --one-standard-error --json sweep.json
  softreg sweep x.npy --labels y.txt --lr 0.01:1:7 --holdout 0.1 --seeds 3
  softreg sweep x.npy --labels y.txt --preset clip --out probe.safetensors
  softreg sweep x.npy --labels y.txt --test test_x.npy --test-labels test_y.txt \\
      --shots 1,2,4,8,16 --seeds 5 --json curve.json

With lbfgs (which auto is here) and newton-cg a model is fitted for each penalty
and each fold, to the minimum (in the search to 1e-5, on a GPU to 5e-7, unless
--tolerance is given); those of a fold one after the other, from the largest
penalty to the smallest, each from where those before it lead to. On the CPU all
folds go on at once and share each pass over the data. With sgd and adamw all
models of a fold, of each learning rate and penalty, are trained side by side in
the same batches. What does best on the folds left out is fitted on all samples,
and that is the model.

With --fractions or --shots the sweep is a learning curve: for each size and seed a
subset of each class is drawn, a model fitted on it, and evaluated on the test data
(--test or --test-split); what a seed draws is part of what it draws for a larger
size. The report has mean and standard deviation over the seeds. The penalty is
that of --c with n the samples of the subset, or --l2 whatever their number (1e-5, as
of softreg train, unless one is given). Of several, and of several --lr, each subset
chooses by cross-validation of its own samples (--cv, --holdout, …), for which 1 shot
is too few. No model is saved.

Presets are protocols of papers and their authors' code. Features are taken as
they are; an option that is given takes the place of the preset's.
  clip           Radford et al. 2021 (CLIP), appendix A.3: lbfgs, at most 1,000
                 iterations; lambda from 1e-6 to 1e6 a factor of 100 apart, then
                 half-way around the best until there are 8 a decade. Their
                 lambda goes with the sum of the losses: --c, 1/lambda. By
                 accuracy, fitted again on all samples. Where the paper has a
                 validation set of its own or splits one off: --holdout 0.2 (ours)
  dino-logreg    log_regression.py of DINOv2 (Oquab et al. 2023) and DINOv3:
                 45 C from 1e-6 to 1e5, at most 1,000 iterations, --holdout 0.1,
                 by accuracy, fitted again on all samples. Their tolerance of
                 1e-12 is one of the gradient; here --tolerance is of the minimum
  dinov2-linear  eval/linear.py of DINOv2: 13 learning rates from 1e-5 to 0.1,
                 times batch size/256; sgd, 12,500 steps of 1,024 samples (8 GPUs
                 of 128), momentum 0.9, no weight decay, cosine to 0. By
                 accuracy, where they have ImageNet's validation set: --holdout
                 0.1, and a fit on all samples (ours). The paper's grid is that
                 of --lr 1e-4,2e-4,5e-4,1e-3,2e-3,5e-3,.01,.02,.05,.1,.2,.3,.5
  dinov3-linear  eval/linear.py of DINOv3: the same numbers
Learning rates of the linear presets are for features as these models give them,
values about 1: rows of length 1 are multiplied by the root of their number of
features unless --feature-scale is given. Random crops and several layers are not
there: features are computed before, a sweep for each kind. Weights begin with 0,
not at random. With few samples 12,500 steps are many epochs; --epochs makes them
fewer.")]
pub struct Sweep {
    #[command(flatten)]
    pub data: TrainingData,

    #[command(flatten)]
    pub search: Search,

    #[command(flatten)]
    pub device: Device,

    /// Save the model of the best as this file (safetensors). Default: it is not saved
    #[arg(long, value_name = "MODEL.safetensors")]
    pub out: Option<PathBuf>,

    /// Write a line for each model of the search to this file, with commas between
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,

    /// Write settings and results as one JSON object to this file; `-` is standard output, the report then goes to
    /// standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// No progress and no messages, only the report (with `--json -` only the JSON), warnings and errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// What is searched, and how.
#[derive(Debug, Clone, Args)]
pub struct Search {
    /// The protocol of a paper, see below
    #[arg(long, value_enum, value_name = "NAME")]
    pub preset: Option<Preset>,

    /// Learning curve: shares of the training samples of each class, above 0 and at most 1, at least one sample of each. A model
    /// of each share and seed is evaluated on the test data (see below)
    #[arg(long, value_name = "F,…", value_delimiter = ',', value_parser = share_above_0, allow_negative_numbers = true, conflicts_with = "shots")]
    pub fractions: Vec<f64>,

    /// Learning curve: so many training samples of each class; a class that has fewer gives all
    #[arg(long, value_name = "K,…", value_delimiter = ',', value_parser = count, allow_negative_numbers = true)]
    pub shots: Vec<usize>,

    /// Inverse strengths of the penalty as scikit-learn has them, from LO to HI in equal ratios, or a list: l2 = (1 - r)/(C·n), for two
    /// classes twice that, and l1 = r/(C·n), r of --l1-ratio, n the samples trained on, with weights their sum. Default: 1e-4:1e4:10; with sgd, adamw
    /// and a learning curve --l2 1e-5
    #[arg(long, value_name = "LO:HI:COUNT|C,…", value_parser = grid, conflicts_with = "l2")]
    pub c: Option<Grid>,

    /// Strengths of the penalty in the place of --c, whatever the number of samples: l2 = (1 - r)·F and l1 = r·F
    #[arg(long, value_name = "LO:HI:COUNT|F,…", value_parser = grid_from_0)]
    pub l2: Option<Grid>,

    /// Then try penalties half-way between the best and its neighbours, until there are so many a decade
    #[arg(long, value_name = "PER_DECADE", value_parser = positive, allow_negative_numbers = true)]
    pub refine: Option<f64>,

    /// Shares of the l1 penalty, 0 to 1; each penalty is tried with each of them. For lbfgs
    #[arg(long, value_name = "R,…", value_delimiter = ',', value_parser = share, default_value = "0")]
    pub l1_ratio: Vec<f64>,

    /// sgd, adamw: learning rates, each with each penalty. Default: one, chosen from the data
    #[arg(long, value_name = "LO:HI:COUNT|F,…", value_parser = grid)]
    pub lr: Option<Grid>,

    /// sgd, adamw: train each model so often, with --seed and those after it, and go by the mean. Of a learning curve, with any solver:
    /// how many subsets of each size are drawn. Default: 1, of a learning curve 3
    #[arg(long, value_name = "N", value_parser = count)]
    pub seeds: Option<usize>,

    /// How many folds. Default: 5
    #[arg(long, value_name = "K", value_parser = count)]
    pub cv: Option<usize>,

    /// How the samples are divided: stratified, so that each fold has its share of each class; contiguous, as they follow each other.
    /// Default: stratified
    #[arg(long, value_enum, conflicts_with = "groups")]
    pub folds: Option<FoldsName>,

    /// A whole number for each sample, one a line or .npy: samples of one number are never in two folds
    #[arg(long, value_name = "PATH")]
    pub groups: Option<PathBuf>,

    /// In the place of folds, hold out this share of each class, drawn at random by --seed
    #[arg(long, value_name = "F", value_parser = fraction, allow_negative_numbers = true, conflicts_with_all = ["cv", "folds", "groups"])]
    pub holdout: Option<f64>,

    /// What is best: the lowest mean log loss of the folds, or the highest mean accuracy. Default: log-loss
    #[arg(long, value_enum)]
    pub criterion: Option<CriterionName>,

    /// Take the strongest penalty that is no more than one standard error worse than the best
    #[arg(long, conflicts_with = "holdout")]
    pub one_standard_error: bool,

    #[command(flatten)]
    pub solver: SolverOptions,

    /// What the weights W (d × q) are made of: dense, phm:M, quaternion or lowrank:R, as `softreg train --weights` has it. For lbfgs
    #[arg(long, value_name = "STRUCTURE", default_value_t = Structure::Dense)]
    pub weights: Structure,

    /// Train without an intercept
    #[arg(long)]
    pub no_intercept: bool,

    /// Penalise the weights of standardised features, (x - mean)/deviation; the saved model takes features as they are. For
    /// lbfgs and newton-cg
    #[arg(long)]
    pub standardize: bool,

    /// What every feature is multiplied by in training, as for `softreg train`. Default: auto, of a preset none (see below)
    #[arg(long, value_name = "auto|none|F", value_parser = feature_scale, allow_negative_numbers = true)]
    pub feature_scale: Option<FeatureScale>,

    /// Seed of --test-split, --holdout, the first subsets of a learning curve, and the order of the samples
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FoldsName {
    Stratified,
    Contiguous,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CriterionName {
    LogLoss,
    Accuracy,
}

/// What [`Sweep`]'s help says of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    Clip,
    DinoLogreg,
    #[value(name = "dinov2-linear")]
    Dinov2Linear,
    #[value(name = "dinov3-linear")]
    Dinov3Linear,
}

/// Values to try.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid(pub Vec<f64>);

/// Of the linear presets: for batches of 256.
const LINEAR_RATES: [f64; 13] = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1];
const LINEAR_BATCH: usize = 1024;
const LINEAR_STEPS: usize = 12_500;

impl Preset {
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether it trains with SGD, learning rates as for features whose values are about 1.
    pub fn is_linear(self) -> bool {
        matches!(self, Self::Dinov2Linear | Self::Dinov3Linear)
    }

    /// As an option, and what solvers it is of.
    fn option(self) -> (Of, &'static str) {
        match self {
            Self::Clip => (Of::Batch, "--preset clip"),
            Self::DinoLogreg => (Of::Batch, "--preset dino-logreg"),
            Self::Dinov2Linear => (Of::Stochastic, "--preset dinov2-linear"),
            Self::Dinov3Linear => (Of::Stochastic, "--preset dinov3-linear"),
        }
    }
}

impl Search {
    /// Whether an option beside those of the solver says that it is sgd or adamw.
    pub fn is_stochastic(&self) -> bool {
        self.lr.is_some() || self.trains_often() || self.preset.is_some_and(Preset::is_linear)
    }

    /// An option that was given and is not of the solver, and the solvers that it is of.
    pub fn foreign_option(&self) -> Option<(&'static str, &'static str)> {
        let (of_preset, preset) = self.preset.map_or((Of::Batch, ""), Preset::option);
        let more = [
            (of_preset, preset, self.preset.is_some()),
            (Of::Stochastic, "--lr", self.lr.is_some()),
            (Of::Stochastic, "--seeds", self.trains_often()),
            (Of::Lbfgs, "--l1-ratio", self.l1_ratio.iter().any(|&ratio| ratio > 0.0)),
            (Of::Batch, "--standardize", self.standardize),
            (Of::Batch, "--refine", self.refine.is_some()),
        ];
        self.solver.foreign_option(&more, self.is_stochastic())
    }

    /// Whether models of subsets are asked for.
    pub fn is_curve(&self) -> bool {
        !self.fractions.is_empty() || !self.shots.is_empty()
    }

    /// How often a model of the search is trained, or how many subsets of a size there are.
    pub fn n_seeds(&self) -> usize {
        self.seeds.unwrap_or(if self.is_curve() { 3 } else { 1 })
    }

    /// Whether a model is trained with several seeds on the same samples.
    fn trains_often(&self) -> bool {
        !self.is_curve() && self.n_seeds() > 1
    }

    /// Whether there is something to choose for a subset; the preset's values are in.
    pub fn is_search(&self) -> bool {
        let n = |grid: &Option<Grid>| grid.as_ref().map_or(1, |Grid(values)| values.len());
        n(&self.c) * n(&self.l2) * n(&self.lr) * self.l1_ratio.len() > 1 || self.refine.is_some()
    }

    /// An option that was given and does not go with a learning curve, and why.
    pub fn not_of_a_curve(&self, has_out: bool) -> Option<(&'static str, &'static str)> {
        let choosing = "chooses between several penalties (--c) or learning rates (--lr), of which there is one";
        let has_choice = self.with_preset().is_search();
        let given = [
            ("--out", "cannot be used with --fractions and --shots: a learning curve has many models", has_out),
            (
                "--preset",
                "dinov2-linear and dinov3-linear cannot be used with --fractions and --shots: their steps are for all samples",
                self.preset.is_some_and(Preset::is_linear),
            ),
            (
                "--groups",
                "cannot be used with --fractions and --shots: subsets are drawn by class, whatever the groups",
                self.groups.is_some(),
            ),
            ("--cv", choosing, self.cv.is_some() && !has_choice),
            ("--folds", choosing, self.folds.is_some() && !has_choice),
            ("--holdout", choosing, self.holdout.is_some() && !has_choice),
            ("--criterion", choosing, self.criterion.is_some() && !has_choice),
            ("--one-standard-error", choosing, self.one_standard_error && !has_choice),
        ];
        given.into_iter().find(|(.., is_given)| *is_given && self.is_curve()).map(|(option, why, _)| (option, why))
    }

    /// The folds, one where samples are held out.
    pub fn n_folds(&self) -> usize {
        if self.holdout.is_some() { 1 } else { self.cv.unwrap_or(5) }
    }

    /// With what the preset says where nothing was given.
    pub fn with_preset(&self) -> Self {
        let mut search = self.clone();
        let Some(preset) = self.preset else { return search };
        if self.cv.is_none() && self.folds.is_none() && self.groups.is_none() {
            // The CLIP paper does not say how large; with fewer samples the best by accuracy is a matter of chance.
            search.holdout.get_or_insert(if preset == Preset::Clip { 0.2 } else { 0.1 });
        }
        search.criterion.get_or_insert(CriterionName::Accuracy);
        search.feature_scale.get_or_insert(FeatureScale::Factor(1.0));
        let powers = |from: f64, to: f64, n: usize| {
            let power = |i: usize| 10f64.powf(from + (to - from) * i as f64 / (n - 1) as f64);
            Grid((0..n).map(power).collect())
        };
        let has_penalties = self.c.is_some() || self.l2.is_some();
        let options = &mut search.solver;
        if let (SolverName::Auto, false) = (options.solver, preset.is_linear()) {
            options.solver = SolverName::Lbfgs;
        }
        match preset {
            Preset::Clip => {
                search.refine.get_or_insert(8.0);
                search.c = search.c.or_else(|| (!has_penalties).then(|| powers(-6.0, 6.0, 7)));
                options.max_iterations.get_or_insert(1000);
            }
            Preset::DinoLogreg => {
                search.c = search.c.or_else(|| (!has_penalties).then(|| powers(-6.0, 5.0, 45)));
                options.max_iterations.get_or_insert(1000);
            }
            Preset::Dinov2Linear | Preset::Dinov3Linear => {
                let batch_size = *options.batch_size.get_or_insert(LINEAR_BATCH);
                let rates = LINEAR_RATES.map(|rate| rate * batch_size as f64 / 256.0);
                search.lr.get_or_insert_with(|| Grid(rates.to_vec()));
                search.l2 = search.l2.or_else(|| (!has_penalties).then(|| Grid(vec![0.0])));
                options.schedule.get_or_insert(Schedule::Cosine);
                if matches!(options.name(true), SolverName::Sgd) {
                    options.momentum.get_or_insert(0.9);
                    options.no_nesterov |= !options.nesterov;
                }
            }
        }
        search
    }

    /// The epochs: those of the preset are as many as make its steps with the samples of a fold's models, `n_samples` in all.
    pub fn epochs(&self, n_samples: usize) -> Option<usize> {
        if self.solver.epochs.is_some() || !self.preset.is_some_and(Preset::is_linear) {
            return self.solver.epochs;
        }
        let held_out = self.holdout.unwrap_or(1.0 / self.n_folds() as f64);
        let n_trained_on = (n_samples as f64 * (1.0 - held_out)) as usize;
        let steps = n_trained_on.div_ceil(self.solver.batch_size.unwrap_or(LINEAR_BATCH)).max(1);
        Some(LINEAR_STEPS.div_ceil(steps))
    }
}

fn share_above_0(text: &str) -> Result<f64, String> {
    number_that(text, |x| x > 0.0 && x <= 1.0, "above 0 and at most 1")
}

/// LO:HI:COUNT, or numbers with commas between.
fn grid(text: &str) -> Result<Grid, String> {
    grid_of(text, positive)
}

/// The same, 0 among the numbers.
fn grid_from_0(text: &str) -> Result<Grid, String> {
    grid_of(text, not_negative)
}

fn grid_of(text: &str, number: impl Fn(&str) -> Result<f64, String>) -> Result<Grid, String> {
    let values = match *text.split(':').collect::<Vec<_>>() {
        [values] => values.split(',').map(number).collect::<Result<_, _>>()?,
        [low, high, count] => {
            let (low, high) = (positive(low)?, positive(high)?);
            let count = super::values::count(count)?;
            let position = |i: usize| i as f64 / (count - 1).max(1) as f64;
            (0..count).map(|i| low * (high / low).powf(position(i))).collect()
        }
        _ => return Err("must be LO:HI:COUNT or numbers with commas between".to_owned()),
    };
    Ok(Grid(values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn search(arguments: &[&str]) -> Search {
        let arguments = [&["softreg", "sweep"][..], arguments].concat();
        let Command::Sweep(sweep) = Cli::parse_from(arguments).command else { panic!("not sweep") };
        sweep.search
    }

    #[test]
    fn presets_are_what_the_papers_say() {
        let of = |arguments: &[&str]| search(arguments).with_preset();
        let near = |found: &Option<Grid>, expected: &[f64]| {
            let Grid(found) = found.as_ref().unwrap();
            found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a / b - 1.0).abs() < 1e-12)
        };
        let clip = of(&["--preset", "clip"]);
        assert!(near(&clip.c, &[1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6]));
        assert_eq!((clip.refine, clip.solver.max_iterations, clip.holdout), (Some(8.0), Some(1000), Some(0.2)));
        assert_eq!((clip.criterion, clip.n_folds()), (Some(CriterionName::Accuracy), 1));
        let logreg = of(&["--preset", "dino-logreg"]);
        let Grid(values) = logreg.c.as_ref().unwrap();
        assert!(values.len() == 45 && (values[44] / 1e5 - 1.0).abs() < 1e-12 && (values[4] / 1e-5 - 1.0).abs() < 1e-12);
        for name in ["dinov2-linear", "dinov3-linear"] {
            let linear = of(&["--preset", name]);
            let Grid(rates) = linear.lr.as_ref().unwrap();
            assert!(rates.len() == 13 && (rates[0] - 4e-5).abs() < 1e-15 && (rates[12] - 0.4).abs() < 1e-12);
            let solver = linear.solver.solver(None, true);
            let softreg::Solver::Sgd(sgd) = solver else { panic!("{solver:?}") };
            assert_eq!(
                (sgd.momentum, sgd.nesterov, sgd.schedule, sgd.batch_size),
                (0.9, false, Schedule::Cosine, 1024)
            );
            assert_eq!(linear.l2, Some(Grid(vec![0.0])));
            // ImageNet, and a few samples: 1,125 steps an epoch, and 9.
            assert_eq!((linear.epochs(1_281_167), linear.epochs(10_003)), (Some(12), Some(1389)));
        }
        // What is given wins.
        let given =
            of(&["--preset", "dinov2-linear", "--batch-size", "256", "--cv", "3", "--epochs", "7", "--nesterov"]);
        assert!(near(&given.lr, &LINEAR_RATES) && !given.solver.no_nesterov);
        assert_eq!((given.holdout, given.n_folds(), given.epochs(1000)), (None, 3, Some(7)));
        let given = of(&["--preset", "clip", "--l2", "0.1", "--refine", "2", "--criterion", "log-loss"]);
        assert_eq!((given.c, given.refine, given.criterion), (None, Some(2.0), Some(CriterionName::LogLoss)));
    }

    #[test]
    fn options_belong_to_solvers() {
        let foreign = |arguments: &[&str]| search(arguments).foreign_option().map(|(option, _)| option);
        for (arguments, expected) in [
            (&["--solver", "lbfgs", "--lr", "0.1"][..], Some("--lr")),
            (&["--lr", "0.1", "--l1-ratio", "0.5"], Some("--l1-ratio")),
            (&["--solver", "sgd", "--refine", "8"], Some("--refine")),
            (&["--epochs", "3", "--tolerance", "0.1"], Some("--tolerance")),
            (&["--seeds", "3", "--standardize"], Some("--standardize")),
            (&["--solver", "newton-cg", "--memory", "3"], Some("--memory")),
            (&["--preset", "clip", "--solver", "sgd"], Some("--preset clip")),
            (&["--preset", "dino-logreg", "--lr", "0.1"], Some("--preset dino-logreg")),
            (&["--preset", "dinov2-linear", "--solver", "lbfgs"], Some("--preset dinov2-linear")),
            (&["--lr", "0.1", "--momentum", "0.5", "--seeds", "2"], None),
            (&["--shots", "4", "--seeds", "3", "--standardize"], None),
            (&["--fractions", "0.1", "--lr", "0.1", "--standardize"], Some("--standardize")),
            (&["--c", "1", "--tolerance", "0.1", "--l1-ratio", "0.5"], None),
            (&["--preset", "clip", "--solver", "newton-cg"], None),
            (&["--preset", "dinov3-linear", "--solver", "adamw"], None),
        ] {
            assert_eq!(foreign(arguments), expected, "{arguments:?}");
        }
    }
}
