//! How good a model is with how many training samples: subsets of all sizes, each drawn with several seeds.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Candidate, Strengths, Sweep, mean_and_error};
use crate::backend::DeviceKind;
use crate::batch::Shuffle;
use crate::data::Dataset;
use crate::error::{Error, Result, quoted};
use crate::fit::folds::members;
use crate::fit::together::beside_each_other;
use crate::fit::{FeatureScale, Folds};
use crate::metrics::Evaluation;
use crate::solver::{Lbfgs, Solver, StopReason};

/// A learning curve: models of ever larger subsets of the training data, each evaluated on the same test data. For each size, a fraction
/// of each class (label fractions, as in SimCLR) or k samples of each (k shots, as in CLIP), and each seed a subset is drawn; one of a
/// seed is part of the next larger one of that seed.
///
/// Where the sweep has one penalty and one learning rate, a model is the fit of the subset. Of several a model has what does best in the
/// cross-validation of its subset alone, as [`Sweep::fit`] chooses it: neither test data nor samples that were not drawn have a say.
/// With [`Sweep::c`] the penalty is that of the samples of the subset.
///
/// ```
/// use softreg::{LearningCurve, SoftmaxRegression, Sweep, data};
/// let (train, test) = data::digits()?.split(0.2, 0)?;
/// let one_penalty = Sweep::new(SoftmaxRegression::new()).c([1.0]);
/// let curve = LearningCurve::new(one_penalty).shots([1, 4, 16]).seeds(3).fit(&train, &test)?;
/// for point in &curve.points {
///     println!("{}, {} samples: {} ± {:?}", point.size, point.n_samples, point.accuracy, point.accuracy_deviation);
/// }
/// # assert!(curve.points[2].accuracy > curve.points[0].accuracy);
/// # Ok::<(), softreg::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct LearningCurve {
    sweep: Sweep,
    sizes: Vec<SubsetSize>,
    n_seeds: usize,
}

/// How many samples of each class a subset has.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum SubsetSize {
    /// This share of each class, above 0 and at most 1, rounded, at least one sample.
    Fraction(f64),
    /// So many of each class, at least 1; of a class that has fewer all.
    Shots(usize),
}

/// What a learning curve found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Curve {
    /// From the smallest size to the largest.
    pub points: Vec<CurvePoint>,
    /// The solver, L-BFGS where that was left to the data.
    pub solver: Solver,
    /// Of which sizes some classes have fewer samples, in sentences. Each was also a warning in the log.
    pub warnings: Vec<String>,
}

/// The models of one size.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CurvePoint {
    /// The size.
    pub size: SubsetSize,
    /// The samples of each subset.
    pub n_samples: usize,
    /// The mean over the seeds of the accuracy on the test data.
    pub accuracy: f64,
    /// The standard deviation of the accuracy, √(Σ(a − mean)²/(k − 1)) of k seeds; none of one.
    pub accuracy_deviation: Option<f64>,
    /// The mean over the seeds of the log loss on the test data in nats.
    pub log_loss: f64,
    /// The standard deviation of the log loss.
    pub log_loss_deviation: Option<f64>,
    /// Each model, by seed.
    pub draws: Vec<Draw>,
}

/// The model of one subset.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Draw {
    /// What the subset follows, and with a stochastic solver the order of the batches.
    pub seed: u64,
    /// scikit-learn's C, where the penalty is one of them.
    pub c: Option<f64>,
    /// The penalties, see [`SoftmaxRegression::l2`](crate::SoftmaxRegression::l2).
    pub l2: f64,
    /// The l1 penalty.
    pub l1: f64,
    /// The learning rate of a stochastic solver.
    pub learning_rate: Option<f64>,
    /// On the test data.
    pub test: Evaluation,
    /// The objective on the subset.
    pub objective: f64,
    /// Iterations of the solver, or epochs.
    pub n_iterations: usize,
    /// Products X·W and Xᵀ·R over the samples of the subset, with those of its search; 0 of a model that is that of a seed before, since
    /// both have all samples.
    pub products: usize,
    /// Why training ended.
    pub reason: StopReason,
    /// How long it took, with its search, beside others.
    pub training: Duration,
}

/// Fits of up to so many multiplications a product, n·d·q, go on beside each other, a thread for each: what several threads gain there
/// is less. Larger ones have all threads, one after the other.
const OF_ONE_THREAD: usize = 1 << 25;

impl fmt::Display for SubsetSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fraction(fraction) => write!(f, "the fraction {fraction}"),
            Self::Shots(1) => f.write_str("1 shot"),
            Self::Shots(k) => write!(f, "{k} shots"),
        }
    }
}

impl SubsetSize {
    /// The rows that are drawn, ascending. Samples of weight 0 are not there to be drawn, and soft labels count as their most probable
    /// class. Each class has one seeded order, whose first samples are taken: what is drawn is part of what a larger size draws.
    ///
    /// # Errors
    /// [`Error::Setting`] for a fraction that is not above 0 and at most 1, and for 0 shots.
    pub fn rows(self, data: &Dataset, seed: u64) -> Result<Vec<u32>> {
        self.check()?;
        Ok(self.first_of(&in_order(data, seed)))
    }

    fn check(self) -> Result<()> {
        let setting = |name, value: String, expected| Err(Error::Setting { name, value, expected });
        match self {
            Self::Fraction(fraction) if !(fraction > 0.0 && fraction <= 1.0) => {
                setting("a fraction of the training data", fraction.to_string(), "above 0 and at most 1")
            }
            Self::Shots(0) => setting("the number of shots", "0".to_owned(), "at least 1"),
            _ => Ok(()),
        }
    }

    /// How many of a class that has `n` samples; 0 of none.
    fn of_class(self, n: usize) -> usize {
        match self {
            // Each class is rounded on its own: were the sum, a class could lose a sample to a larger fraction.
            Self::Fraction(fraction) => ((n as f64 * fraction).round() as usize).max(1).min(n),
            Self::Shots(k) => k.min(n),
        }
    }

    /// The first rows of each class, ascending.
    fn first_of(self, classes: &[Vec<u32>]) -> Vec<u32> {
        let mut rows: Vec<u32> = classes.iter().flat_map(|rows| &rows[..self.of_class(rows.len())]).copied().collect();
        rows.sort_unstable();
        rows
    }

    /// That some classes have not as many samples as their size says.
    fn warning(self, names: &[String], sizes: &[usize]) -> Option<String> {
        let short: Vec<(&String, usize)> = names
            .iter()
            .zip(sizes.iter().copied())
            .filter(|&(_, n)| match self {
                Self::Fraction(fraction) => n > 0 && (n as f64 * fraction).round() < 1.0,
                Self::Shots(k) => n > 0 && n < k,
            })
            .collect();
        let &(name, least) = short.iter().min_by_key(|(_, n)| *n)?;
        let name = quoted(name);
        Some(match (self, short.len()) {
            (Self::Shots(_), 1) => format!("{self}: the class {name} has fewer samples and gives all it has, {least}"),
            (Self::Shots(_), n) => {
                format!("{self}: {n} classes have fewer samples and give all they have, {name} only {least}")
            }
            (Self::Fraction(_), 1) => {
                format!("{self}: that is less than half a sample of the class {name}, which has {least} and gives one")
            }
            (Self::Fraction(_), n) => {
                format!("{self}: that is less than half a sample of {n} classes, which give one; {name} has {least}")
            }
        })
    }
}

/// The rows of each class that count, in the order in which they are drawn.
fn in_order(data: &Dataset, seed: u64) -> Vec<Vec<u32>> {
    // Another stream than those of epochs, of a division into training and test data, and of what is held out.
    let mut random = Shuffle::new(seed, u64::MAX - 2);
    let mut classes = drawable(data);
    classes.iter_mut().for_each(|rows| random.shuffle(rows));
    classes
}

/// The rows of each class that count.
fn drawable(data: &Dataset) -> Vec<Vec<u32>> {
    let counts = |row: &usize| data.weights().is_none_or(|weights| weights[*row] > 0.0);
    let of_class = |rows: Vec<usize>| rows.into_iter().filter(counts).map(|row| row as u32).collect();
    members(data.labels()).into_iter().map(of_class).collect()
}

impl LearningCurve {
    /// A curve of what `sweep` fits: all its settings are those of each subset. Without [`Sweep::c`] or [`Sweep::penalties`] a sweep of a
    /// batch solver has several penalties, between which a subset must choose by cross-validation.
    pub fn new(sweep: Sweep) -> Self {
        Self { sweep, sizes: Vec::new(), n_seeds: 3 }
    }

    /// The sizes as shares of each class, above 0 and at most 1; at least one sample of each.
    #[must_use]
    pub fn fractions(mut self, fractions: impl Into<Vec<f64>>) -> Self {
        self.sizes = fractions.into().into_iter().map(SubsetSize::Fraction).collect();
        self
    }

    /// The sizes as samples of each class, at least 1; a class that has fewer gives all.
    #[must_use]
    pub fn shots(mut self, shots: impl Into<Vec<usize>>) -> Self {
        self.sizes = shots.into().into_iter().map(SubsetSize::Shots).collect();
        self
    }

    /// How many subsets of each size are drawn: with the estimator's seed and those after it. 3 unless it is called.
    #[must_use]
    pub fn seeds(mut self, n: usize) -> Self {
        self.n_seeds = n;
        self
    }

    /// How many subsets there are.
    pub fn n_draws(&self) -> usize {
        self.sorted().len() * self.n_seeds
    }

    /// Fits and evaluates all models. The classes of `test` are matched by name.
    ///
    /// Small subsets go on beside each other on the CPU; the models do not depend on how many threads there are. What has all samples is
    /// fitted once with a batch solver, for all seeds.
    ///
    /// # Errors
    /// [`Error::Setting`] for no sizes or no seeds, sizes that make no sense ([`SubsetSize::rows`]), several penalties or learning rates
    /// where a class has too few samples to choose by, grouped folds, checkpoints, and as [`Sweep::fit`]; [`Error::Width`] and
    /// [`Error::UnknownLabel`] when the test data does not suit the training data; [`Error::Subset`] with what went wrong on a subset.
    pub fn fit(&self, train: &Dataset, test: &Dataset) -> Result<Curve> {
        self.fit_with(train, test, |_, _| {})
    }

    /// The same, and tells of each model as it is there.
    ///
    /// # Errors
    /// As [`LearningCurve::fit`].
    pub fn fit_with(
        &self,
        train: &Dataset,
        test: &Dataset,
        on_draw: impl FnMut(SubsetSize, &Draw) + Send,
    ) -> Result<Curve> {
        let sizes = self.sorted();
        self.check(&sizes)?;
        if test.n_features() != train.n_features() {
            return Err(Error::Width { model: train.n_features(), data: test.n_features() });
        }
        let test = &test.with_classes(train.classes())?;
        let n_of_classes: Vec<usize> = drawable(train).iter().map(Vec::len).collect();
        self.check_search(&sizes, &n_of_classes)?;
        let warnings: Vec<String> =
            sizes.iter().filter_map(|size| size.warning(train.classes(), &n_of_classes)).collect();
        warnings.iter().for_each(|warning| log::warn!("{warning}"));

        let mut sweep = self.sweep.clone();
        let estimator = &mut sweep.estimator;
        if matches!(estimator.solver, Solver::Auto) {
            estimator.solver = Lbfgs::default().into();
        }
        let is_stochastic = estimator.solver.is_stochastic();
        if !is_stochastic {
            // That of a subset, whose largest byte may be another, would be another penalty.
            estimator.feature_scale = FeatureScale::Factor(estimator.feature_scale.of(train.features())?.into());
        }
        let first_seed = estimator.seed;
        let seeds: Vec<u64> = (0..self.n_seeds as u64).map(|index| first_seed.wrapping_add(index)).collect();
        let orders: Vec<_> = seeds.iter().map(|&seed| in_order(train, seed)).collect();
        let of_size = |size: SubsetSize| n_of_classes.iter().map(|&n| size.of_class(n)).sum::<usize>();
        let is_whole = |size: SubsetSize| !is_stochastic && of_size(size) == n_of_classes.iter().sum::<usize>();

        let on_draw = Mutex::new(on_draw);
        let tell = |size: SubsetSize, draw: &Draw| {
            if let Ok(mut on_draw) = on_draw.lock() {
                on_draw(size, draw);
            }
        };
        let work = |&(size, index): &(SubsetSize, usize)| {
            let rows = size.first_of(&orders[index]);
            let draw = fit_rows(&sweep, train, test, &rows, seeds[index]).map_err(|error| Error::Subset {
                subset: format!("{size}, seed {}", seeds[index]),
                source: Box::new(error),
            })?;
            tell(size, &draw);
            Ok(draw)
        };
        let n_draws = |size| if is_whole(size) { 1 } else { seeds.len() };
        let tasks: Vec<_> = sizes.iter().flat_map(|&size| (0..n_draws(size)).map(move |index| (size, index))).collect();
        let can_be_beside = sweep.estimator.device.info().kind == DeviceKind::Cpu && !sweep.is_search();
        let n_values = |size| of_size(size).saturating_mul(train.n_features()).saturating_mul(train.n_classes());
        let n_small = tasks.partition_point(|(size, _)| can_be_beside && n_values(*size) <= OF_ONE_THREAD);
        let (small, large) = tasks.split_at(n_small);
        let mut draws = beside_each_other(small, work).into_iter().collect::<Result<Vec<_>>>()?;
        for task in large {
            draws.push(work(task)?);
        }

        let mut draws = draws.into_iter();
        let mut points = Vec::with_capacity(sizes.len());
        for size in sizes {
            let mut of_point: Vec<Draw> = draws.by_ref().take(n_draws(size)).collect();
            // Other seeds have the same samples.
            while let (true, Some(&seed), Some(first)) = (is_whole(size), seeds.get(of_point.len()), of_point.first()) {
                let draw = Draw { seed, products: 0, training: Duration::ZERO, ..first.clone() };
                tell(size, &draw);
                of_point.push(draw);
            }
            points.push(CurvePoint::new(size, of_size(size), of_point));
        }
        Ok(Curve { points, solver: sweep.estimator.solver, warnings })
    }

    /// Each size once, the smallest first.
    fn sorted(&self) -> Vec<SubsetSize> {
        let key = |size: &SubsetSize| match *size {
            SubsetSize::Fraction(fraction) => fraction,
            SubsetSize::Shots(k) => k as f64,
        };
        let mut sizes = self.sizes.clone();
        sizes.sort_by(|a, b| key(a).total_cmp(&key(b)));
        sizes.dedup();
        sizes
    }

    fn check(&self, sizes: &[SubsetSize]) -> Result<()> {
        let setting = |name, value: &str, expected| Err(Error::Setting { name, value: value.to_owned(), expected });
        if sizes.is_empty() {
            return setting("the sizes of a learning curve", "empty", "at least one fraction or number of shots");
        }
        sizes.iter().try_for_each(|size| size.check())?;
        if self.n_seeds == 0 {
            return setting("the number of seeds", "0", "at least 1");
        }
        let estimator = &self.sweep.estimator;
        if estimator.checkpoint.is_some() || estimator.resume.is_some() {
            return setting("the checkpoint of a learning curve", "given", "left out: it has many models");
        }
        if matches!(self.sweep.folds, Folds::Grouped(..)) && self.sweep.is_search() {
            let expected = "left out: subsets are drawn by class, whatever the groups";
            return setting("the groups of a learning curve", "given", expected);
        }
        self.sweep.check()
    }

    /// What cannot be chosen by cross-validation, found out before anything is fitted.
    fn check_search(&self, sizes: &[SubsetSize], n_of_classes: &[usize]) -> Result<()> {
        if !self.sweep.is_search() {
            return Ok(());
        }
        let is_holdout = matches!(self.sweep.folds, Folds::Holdout { .. });
        let is_too_small = |size: &&SubsetSize| {
            let mut of_classes = n_of_classes.iter().map(|&n| size.of_class(n)).filter(|&n| n > 0);
            if is_holdout { of_classes.all(|n| n == 1) } else { of_classes.any(|n| n == 1) }
        };
        match sizes.iter().find(is_too_small) {
            None => Ok(()),
            Some(size) => Err(Error::Setting {
                name: "the grid of a learning curve",
                value: format!("several penalties or learning rates at {size}"),
                expected: "one of each, or the sizes larger: a class that has a single sample in a subset cannot be both trained on \
                           and left out to choose by",
            }),
        }
    }
}

impl Sweep {
    /// Whether there is something to choose.
    fn is_search(&self) -> bool {
        let n_candidates = self.strengths.values().len() * self.l1_ratios.len() * self.rates().len();
        n_candidates > 1 || self.steps_per_decade.is_some()
    }
}

impl CurvePoint {
    fn new(size: SubsetSize, n_samples: usize, draws: Vec<Draw>) -> Self {
        let (accuracy, accuracy_deviation) = mean_and_deviation(draws.iter().map(|draw| draw.test.accuracy));
        let (log_loss, log_loss_deviation) = mean_and_deviation(draws.iter().map(|draw| draw.test.log_loss));
        Self { size, n_samples, accuracy, accuracy_deviation, log_loss, log_loss_deviation, draws }
    }
}

/// The model of these rows of the training data, the test data in its classes.
fn fit_rows(sweep: &Sweep, train: &Dataset, test: &Dataset, rows: &[u32], seed: u64) -> Result<Draw> {
    let begin = Instant::now();
    let train = if rows.len() == train.n_samples() { train.rows(0..rows.len())? } else { train.select(rows)? };
    let estimator = sweep.estimator.clone().seed(seed);
    let device = estimator.device.clone();
    let size = estimator.size(&train)?;
    let (c, l2, l1, of_search, fit) = if sweep.is_search() {
        let swept = Sweep { estimator, ..sweep.clone() }.search(&train, &|_| {}, |_| {})?;
        let Candidate { c, l2, l1, .. } = swept.candidates[swept.chosen];
        (c, l2, l1, swept.heads.iter().map(|head| head.products).sum(), swept.fit)
    } else {
        let (penalty, l1_ratio) = (sweep.penalties_for(size)[0], sweep.l1_ratios[0]);
        let (l2, l1) = sweep.l2_and_l1(size, penalty, l1_ratio);
        let mut estimator = estimator.l2(l2).l1(l1);
        if let Some(rate) = sweep.rates()[0] {
            estimator.solver = estimator.solver.with_learning_rate(rate);
        }
        let c = matches!(sweep.strengths, Strengths::C(_)).then(|| 1.0 / (penalty * size.n));
        (c, l2, l1, 0, estimator.fit(&train)?)
    };
    let training = begin.elapsed();
    Ok(Draw {
        seed,
        c,
        l2,
        l1,
        learning_rate: fit.learning_rate,
        test: fit.model.on(&device).evaluate(test)?,
        objective: fit.objective,
        n_iterations: fit.epochs.len(),
        products: of_search + fit.products.unwrap_or(2 * fit.epochs.len()),
        reason: fit.reason,
        training,
    })
}

/// The mean, and the standard deviation of a sample of more than one.
fn mean_and_deviation(values: impl Iterator<Item = f64> + Clone) -> (f64, Option<f64>) {
    let n = values.clone().count();
    let (mean, error) = mean_and_error(values);
    (mean, (n > 1).then(|| error * (n as f64).sqrt()))
}
