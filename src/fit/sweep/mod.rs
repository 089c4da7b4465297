//! Many models on the same data: a grid of penalties and learning rates, each cross-validated, and a model of the best on all samples.

mod curve;
mod division;
mod paths;
mod refine;
mod side_by_side;

use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{FeatureScale, Fit, Folds, SoftmaxRegression};
use crate::backend::DeviceKind;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::metrics::Evaluation;
use crate::objective::TrainingSize;
use crate::solver::{Lbfgs, Past, Progress, Solver, StopReason};
use crate::structure::Structure;
pub use curve::{Curve, CurvePoint, Draw, LearningCurve, SubsetSize};
use division::Division;
use paths::Paths;

/// Chooses penalties, and learning rates of stochastic solvers, by cross-validation: for each of a grid and for each fold a model of the
/// other folds is fitted and evaluated on the fold; what does best, in the mean over the folds, is fitted on all samples.
///
/// With a batch solver the models of a fold are a path from the largest penalty to the smallest ([`SoftmaxRegression::path`]). On the
/// CPU paths go on at once, those of the other folds when that of the first has told them where theirs may lead, and have their passes over dense features in common. The samples are copied once, in the order of their
/// folds, whose models differ in weights that are 0 for the fold left out. The fitted models do not depend on how many threads there are.
///
/// With a stochastic solver all models of a fold are trained side by side in the same batches, so that the features are read once for
/// all. One whose learning rate is too high does not end the others: it counts as the worst ([`StopReason::Diverged`]).
///
/// ```
/// use softreg::{Folds, SoftmaxRegression, Sweep, data};
/// let (train, test) = data::digits()?.split(0.2, 0)?;
/// let swept = Sweep::new(SoftmaxRegression::new()).c([0.01, 0.1, 1.0]).folds(Folds::Stratified(3)).fit(&train)?;
/// println!("C = {:?}: {}", swept.candidates[swept.chosen].c, swept.fit.model.evaluate(&test)?.accuracy);
/// # assert!(swept.fit.model.evaluate(&test)?.accuracy > 0.9);
/// # Ok::<(), softreg::Error>(())
/// ```
///
/// ```
/// use softreg::{Folds, Sgd, SoftmaxRegression, Sweep, data};
/// let estimator = SoftmaxRegression::new().solver(Sgd { epochs: Some(5), ..Sgd::default() });
/// let sweep = Sweep::new(estimator).learning_rates([0.001, 0.01, 0.1]).folds(Folds::Holdout { fraction: 0.2, seed: 0 });
/// let swept = sweep.fit(&data::digits()?)?;
/// println!("learning rate {:?}", swept.candidates[swept.chosen].learning_rate);
/// # assert!(swept.heads.len() == 3 && swept.fit.learning_rate == swept.candidates[swept.chosen].learning_rate);
/// # Ok::<(), softreg::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sweep {
    estimator: SoftmaxRegression,
    strengths: Strengths,
    /// Of the penalties around the best, where they are searched for.
    steps_per_decade: Option<f64>,
    l1_ratios: Vec<f64>,
    /// Of a stochastic solver; the estimator's where there are none.
    learning_rates: Option<Vec<f64>>,
    n_seeds: usize,
    folds: Folds,
    criterion: Criterion,
    rule: Rule,
    /// Of the search, where it is given.
    tolerance: Option<f64>,
    memory: Option<u64>,
}

/// The tolerance of a search, unless it or the estimator has another.
const SEARCHED: f64 = 1e-5;
/// On a GPU, where no Hessian class by class makes the last bit of the way as short as it seems.
const SEARCHED_ON_GPU: f64 = 5e-7;

/// How strong the penalties are.
#[derive(Debug, Clone)]
enum Strengths {
    /// λ = 1/(C·n), n the samples trained on, with weights their sum.
    C(Vec<f64>),
    /// λ itself.
    Penalty(Vec<f64>),
}

/// By what a penalty, or a learning rate, is chosen: the mean over folds and seeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Criterion {
    /// The lowest log loss.
    #[default]
    LogLoss,
    /// The highest accuracy.
    Accuracy,
}

/// Which of the penalties is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// The best; of several the one with the lowest log loss, then the lowest learning rate, then the strongest.
    #[default]
    Best,
    /// The strongest that is no more than one standard error worse than the best, with the same share of l1 and learning rate (Breiman,
    /// Friedman, Olshen and Stone 1984, "Classification and Regression Trees"). A single fold has no standard error.
    OneStandardError,
}

/// A point of the grid, and how well its models predict what they were not trained on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Candidate {
    /// scikit-learn's C, where the grid is one of them.
    pub c: Option<f64>,
    /// The share of the l1 penalty.
    pub l1_ratio: f64,
    /// The penalties of a fit on all samples, see [`SoftmaxRegression::l2`] and [`SoftmaxRegression::l1`].
    pub l2: f64,
    /// The l1 penalty.
    pub l1: f64,
    /// The learning rate, where the grid has some.
    pub learning_rate: Option<f64>,
    /// The mean over folds and seeds of the log loss in nats; infinite where a model diverged.
    pub log_loss: f64,
    /// The standard error of that mean: the standard deviation of the k models' log losses over √k; 0 of one model.
    pub log_loss_error: f64,
    /// The mean over folds and seeds of the accuracy; a model that diverged has 0.
    pub accuracy: f64,
    /// The standard error of that mean.
    pub accuracy_error: f64,
}

/// A model that was fitted without one of the folds.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Head {
    /// Its place in [`Swept::candidates`].
    pub candidate: usize,
    /// The fold left out.
    pub fold: usize,
    /// The penalties.
    pub l2: f64,
    /// The l1 penalty.
    pub l1: f64,
    /// The learning rate of a stochastic solver, which the schedule multiplies.
    pub learning_rate: Option<f64>,
    /// What the order of its batches followed.
    pub seed: u64,
    /// On the fold left out; of a model that diverged the log loss is infinite and the accuracy 0.
    pub validation: Evaluation,
    /// The objective on the others, of the model's weights, which are in single precision.
    pub objective: f64,
    /// Iterations of the solver, or epochs.
    pub n_iterations: usize,
    /// Products X·W and Xᵀ·R, over all samples; two are an evaluation of loss and gradient, or an epoch.
    pub products: usize,
    /// Why training ended.
    pub reason: StopReason,
    /// How long it took, beside others; of models that were trained side by side, all together.
    pub training: Duration,
}

/// What a sweep found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Swept {
    /// Ordered by share of l1 as given or by learning rate, each from the strongest penalty to the weakest.
    pub candidates: Vec<Candidate>,
    /// All models, by fold, candidate and seed.
    pub heads: Vec<Head>,
    /// The place of the chosen one in `candidates`.
    pub chosen: usize,
    /// Its fit on all samples.
    pub fit: Fit,
    /// Passes over the features in the search, where its paths had them in common: each for all paths that waited for one, or nearly all.
    /// From four paths on how many there are depends on who is late.
    pub passes: Option<usize>,
    /// How long the search took, without that fit.
    pub search: Duration,
    /// What the folds cannot tell, in sentences. Each was also a warning in the log.
    pub warnings: Vec<String>,
}

impl Sweep {
    /// A sweep that fits as `estimator` does, but for its penalties and its learning rate. [`Solver::Auto`] is L-BFGS here, whatever the
    /// size of the data.
    pub fn new(estimator: SoftmaxRegression) -> Self {
        let strengths = match (estimator.solver.is_stochastic(), estimator.c) {
            (true, None) => Strengths::Penalty(vec![estimator.l2]),
            (true, Some(c)) => Strengths::C(vec![c]),
            // Those of scikit-learn's LogisticRegressionCV.
            (false, _) => Strengths::C((0..10).map(|i| 10f64.powf(-4.0 + 8.0 * f64::from(i) / 9.0)).collect()),
        };
        Self {
            estimator,
            strengths,
            steps_per_decade: None,
            l1_ratios: vec![0.0],
            learning_rates: None,
            n_seeds: 1,
            folds: Folds::default(),
            criterion: Criterion::default(),
            rule: Rule::default(),
            tolerance: None,
            memory: None,
        }
    }

    /// The inverse strengths of the penalty, as scikit-learn has them: l2 = (1 − l1_ratio)/(C·n), for two classes twice that, and
    /// l1 = l1_ratio/(C·n), n the samples of the training at hand, with weights of samples or classes their sum. Unless it is called, 10 from 1e-4 to 1e4; of a stochastic solver
    /// the estimator's penalty alone.
    #[must_use]
    pub fn c(mut self, values: impl Into<Vec<f64>>) -> Self {
        self.strengths = Strengths::C(values.into());
        self
    }

    /// The strengths λ of the penalty, whatever the number of samples: l2 = (1 − l1_ratio)·λ and l1 = l1_ratio·λ. Above 0; with a
    /// stochastic solver 0, too.
    #[must_use]
    pub fn penalties(mut self, values: impl Into<Vec<f64>>) -> Self {
        self.strengths = Strengths::Penalty(values.into());
        self
    }

    /// Then searches on around the best penalty of the grid: those half-way to its neighbours, on a logarithmic scale, are tried, too, and
    /// so on until neighbours of the best are no further apart than `1/steps_per_decade` of a power of 10. For batch solvers, and one
    /// share of l1. [`Sweep::fit_with`] tells of a model's place among those of its round.
    #[must_use]
    pub fn refine(mut self, steps_per_decade: f64) -> Self {
        self.steps_per_decade = Some(steps_per_decade);
        self
    }

    /// The learning rates of a stochastic solver; all penalties are tried with each. The estimator's unless it is called, which may leave
    /// it to the data.
    #[must_use]
    pub fn learning_rates(mut self, rates: impl Into<Vec<f64>>) -> Self {
        self.learning_rates = Some(rates.into());
        self
    }

    /// With a stochastic solver, trains each model so often, with the estimator's seed and those after it, and goes by their mean. The
    /// last fit has the estimator's seed. 1 unless it is called.
    #[must_use]
    pub fn seeds(mut self, n: usize) -> Self {
        self.n_seeds = n;
        self
    }

    /// The shares of the l1 penalty, between 0 and 1; all penalties are tried with each. 0 unless it is called.
    #[must_use]
    pub fn l1_ratios(mut self, ratios: impl Into<Vec<f64>>) -> Self {
        self.l1_ratios = ratios.into();
        self
    }

    /// How the samples are divided. Five stratified folds unless it is called.
    #[must_use]
    pub fn folds(mut self, folds: Folds) -> Self {
        self.folds = folds;
        self
    }

    /// By what the penalty is chosen.
    #[must_use]
    pub fn criterion(mut self, criterion: Criterion) -> Self {
        self.criterion = criterion;
        self
    }

    /// Which penalty is chosen.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rule = rule;
        self
    }

    /// The tolerance of the solver in the search, in the place of the estimator's, which is that of the last fit. Unless it is called,
    /// 1e-5, on a GPU 5e-7, or the estimator's where that is larger: on Banking77 no validation loss is then 1e-4 from that at the minimum, far less than
    /// tells penalties apart.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// Bytes that paths side by side may take beside the features: two numbers of 8 bytes for each sample and class of a path, and what a
    /// solver has of gradients and steps. No more go on at once. By default a quarter of the memory that is free. The fitted models are
    /// the same. It says nothing of a preconditioner, up to 128 MiB for a path, nor of paths that are not side by side, which are those
    /// on a GPU, of sparse features and of those in a file, nor of what the first fold leaves for the others, up to 256 MiB.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// How many models are fitted before the last one; with [`Sweep::refine`] about how many at most.
    pub fn n_heads(&self) -> usize {
        let n_strengths = self.strengths.values().len() + self.n_refined();
        let n_rates = self.learning_rates.as_ref().map_or(1, Vec::len);
        n_strengths * self.l1_ratios.len() * n_rates * self.folds.n_folds() * self.n_seeds
    }

    /// Searches, and fits the best.
    ///
    /// # Errors
    /// As [`SoftmaxRegression::path`], with a stochastic solver as [`SoftmaxRegression::fit`]; [`Error::Setting`] for an empty grid, a
    /// strength or learning rate that is not a finite number above 0, a share of l1 outside of 0..1, settings of the other kind of
    /// solvers, the rule of one standard error with one fold, validation data of the estimator, and folds that cannot be
    /// ([`Folds::of`]); [`Error::Fold`] when a fold has all samples of a class; [`Error::Diverged`] when all models did.
    pub fn fit(&self, data: &Dataset) -> Result<Swept> {
        self.fit_with(data, |_| {})
    }

    /// The same, and tells of each model as it is there: in the order of a path, but paths of several folds may go on at once.
    ///
    /// # Errors
    /// As [`Sweep::fit`].
    pub fn fit_with(&self, data: &Dataset, on_head: impl FnMut(&Head) + Send) -> Result<Swept> {
        self.search(data, &|warning| log::warn!("{warning}"), on_head)
    }

    /// The same with its warnings to `warn`.
    fn search(&self, data: &Dataset, warn: &dyn Fn(&str), on_head: impl FnMut(&Head) + Send) -> Result<Swept> {
        let begin = Instant::now();
        self.check()?;
        let mut estimator = self.estimator.clone();
        let solver = match &estimator.solver {
            Solver::Auto => Lbfgs::default().into(),
            solver => solver.clone(),
        };
        let is_cpu = estimator.device.info().kind == DeviceKind::Cpu;
        let searched = if is_cpu { SEARCHED } else { SEARCHED_ON_GPU };
        estimator.solver = solver.clone().with_tolerance(|of_last| self.tolerance.unwrap_or(of_last.max(searched)));
        let division = Division::new(&self.folds, data)?;
        let warnings = division.check()?;
        warnings.iter().for_each(|warning| warn(warning));
        let on_head = Mutex::new(on_head);
        let tell = |head: &Head| {
            if let Ok(mut on_head) = on_head.lock() {
                on_head(head);
            }
        };
        let size = estimator.size(data)?;
        let (whole, Paths { mut heads, solved, passes }) = if solver.is_stochastic() {
            let heads = self.fit_side_by_side(&estimator, data, &division, &tell)?;
            (self.clone(), Paths { heads, ..Paths::default() })
        } else {
            // That of a fold, whose largest byte may be another, would be another penalty.
            estimator.feature_scale = FeatureScale::Factor(estimator.feature_scale.of(data.features())?.into());
            self.fit_refined(&estimator, size, &division, &tell)?
        };
        heads.sort_by_key(|head| (head.fold, head.candidate, head.seed));
        let candidates = whole.candidates(&heads, size);
        let chosen = whole.choose(&candidates);
        let search = begin.elapsed();
        let Candidate { l2, l1, learning_rate, log_loss, .. } = candidates[chosen];
        if let Some(head) = heads.iter().find(|head| head.candidate == chosen && log_loss.is_infinite()) {
            let learning_rate = head.learning_rate.unwrap_or_default();
            return Err(Error::Diverged { epoch: head.n_iterations, learning_rate });
        }
        estimator = estimator.l2(l2).l1(l1);
        estimator.solver = match learning_rate {
            Some(rate) => solver.with_learning_rate(rate),
            None => solver,
        };
        let solved = solved.get(chosen).filter(|_| estimator.init.is_none());
        let fit = match solved.and_then(|solved| Some((solved.start(l1 > 0.0)?, solved.sharp))) {
            Some((model, sharp)) => {
                let mut on_epoch = |_: &Progress| ControlFlow::Continue(());
                estimator.init(&model).fit_after(&mut Past::of_start(sharp), data, &mut on_epoch)?
            }
            None => estimator.fit(data)?,
        };
        Ok(Swept { candidates, heads, chosen, fit, passes, search, warnings })
    }

    fn check(&self) -> Result<()> {
        let setting = |name, value: String, expected| Err(Error::Setting { name, value, expected });
        let (strengths, is_stochastic) = (self.strengths.values(), self.estimator.solver.is_stochastic());
        if strengths.is_empty() || self.l1_ratios.is_empty() || self.rates().is_empty() {
            return setting("the grid", "empty".to_owned(), "at least one of each");
        }
        let least =
            if is_stochastic && matches!(self.strengths, Strengths::Penalty(_)) { 0.0 } else { f64::MIN_POSITIVE };
        if let Some(value) = strengths.iter().find(|value| !(**value >= least && value.is_finite())) {
            return setting("a strength of the penalty", value.to_string(), "a finite number above 0");
        }
        if let Some(ratio) = self.l1_ratios.iter().find(|ratio| !(0.0..=1.0).contains(*ratio)) {
            return setting("a share of l1", ratio.to_string(), "between 0 and 1");
        }
        if let Some(rate) = self.rates().into_iter().flatten().find(|rate| !(*rate > 0.0 && rate.is_finite())) {
            return setting("a learning rate", rate.to_string(), "a finite number above 0");
        }
        if self.n_seeds == 0 {
            return setting("the number of seeds", "0".to_owned(), "at least 1");
        }
        if self.rule == Rule::OneStandardError && self.folds.n_folds() == 1 {
            let expected = "the best where there is a single fold, which tells no standard error; take several folds";
            return setting("the rule of a sweep", "one standard error".to_owned(), expected);
        }
        if self.estimator.validation.is_some() {
            return setting(
                "the validation data of a sweep",
                "given".to_owned(),
                "left out: each fold is validated on",
            );
        }
        if is_stochastic { self.check_stochastic() } else { self.check_batch() }
    }

    fn check_stochastic(&self) -> Result<()> {
        let estimator = &self.estimator;
        estimator.solver.check()?;
        estimator.limits.check(false)?;
        let expected = "left out with a stochastic solver";
        let given = [
            ("the share of l1", self.l1_ratios.iter().any(|&ratio| ratio > 0.0)),
            ("the refinement of the penalty", self.steps_per_decade.is_some()),
            ("standardize", estimator.standardize),
            ("the penalty factors", estimator.penalty_factors.is_some()),
            ("the model to start from in a sweep", estimator.init.is_some()),
            ("the time limit of a sweep", estimator.limits.time_limit.is_some()),
            ("the checkpoint of a sweep", estimator.checkpoint.is_some() || estimator.resume.is_some()),
        ];
        if estimator.weights != Structure::Dense {
            let (name, value) = ("the structure of the weights", estimator.weights.to_string());
            let expected = "dense in a sweep of SGD or AdamW; one of L-BFGS has structured weights";
            return Err(Error::Setting { name, value, expected });
        }
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => Err(Error::Setting { name, value: "given".to_owned(), expected }),
            None => Ok(()),
        }
    }

    fn check_batch(&self) -> Result<()> {
        let setting = |name, value: String, expected| Err(Error::Setting { name, value, expected });
        if self.learning_rates.is_some() {
            let expected = "left out with a batch solver; SGD and AdamW have them";
            return setting("the learning rates of a sweep", "given".to_owned(), expected);
        }
        if self.n_seeds > 1 {
            let expected = "1 with a batch solver, whose models have no seed";
            return setting("the number of seeds", self.n_seeds.to_string(), expected);
        }
        match self.steps_per_decade {
            Some(steps) if !(steps > 0.0 && steps <= 1e3) => {
                setting("the steps of a refinement", steps.to_string(), "above 0, and at most 1000 a decade")
            }
            Some(_) if self.l1_ratios.len() > 1 => {
                setting("the refinement of the penalty", "given".to_owned(), "left out with several shares of l1")
            }
            _ => Ok(()),
        }
    }

    /// The learning rates, the lowest first; none stands for the estimator's.
    fn rates(&self) -> Vec<Option<f64>> {
        match &self.learning_rates {
            None => vec![None],
            Some(rates) => {
                let mut rates = rates.clone();
                rates.sort_by(f64::total_cmp);
                rates.into_iter().map(Some).collect()
            }
        }
    }

    /// λ of each strength, the largest first.
    fn penalties_for(&self, size: TrainingSize) -> Vec<f64> {
        let mut penalties: Vec<f64> = match &self.strengths {
            Strengths::C(values) => values.iter().map(|c| 1.0 / (c * size.n)).collect(),
            Strengths::Penalty(values) => values.clone(),
        };
        penalties.sort_by(|a, b| b.total_cmp(a));
        penalties
    }

    /// l2 and l1 of a penalty λ and a share of l1.
    fn l2_and_l1(&self, size: TrainingSize, penalty: f64, l1_ratio: f64) -> (f64, f64) {
        match self.strengths {
            Strengths::C(_) => size.penalties(penalty, l1_ratio),
            Strengths::Penalty(_) => ((1.0 - l1_ratio) * penalty, l1_ratio * penalty),
        }
    }

    /// What the heads say of each penalty; the size is that of all data.
    fn candidates(&self, heads: &[Head], size: TrainingSize) -> Vec<Candidate> {
        let (penalties, rates) = (self.penalties_for(size), self.rates());
        let of_rates = |ratio| rates.iter().map(move |&rate| (ratio, rate));
        let of_grid = self.l1_ratios.iter().flat_map(|&ratio| of_rates(ratio));
        let of_grid = of_grid.flat_map(|(ratio, rate)| penalties.iter().map(move |&penalty| (ratio, rate, penalty)));
        let figures = |index: usize, figure: fn(&Evaluation) -> f64| {
            mean_and_error(heads.iter().filter(|head| head.candidate == index).map(|head| figure(&head.validation)))
        };
        let candidate = |(index, (l1_ratio, learning_rate, penalty)): (usize, (f64, Option<f64>, f64))| {
            let (log_loss, log_loss_error) = figures(index, |evaluation| evaluation.log_loss);
            let (accuracy, accuracy_error) = figures(index, |evaluation| evaluation.accuracy);
            let (l2, l1) = self.l2_and_l1(size, penalty, l1_ratio);
            Candidate {
                c: matches!(self.strengths, Strengths::C(_)).then(|| 1.0 / (penalty * size.n)),
                l1_ratio,
                l2,
                l1,
                learning_rate,
                log_loss,
                log_loss_error,
                accuracy,
                accuracy_error,
            }
        };
        of_grid.enumerate().map(candidate).collect()
    }

    /// What is to be low, and its standard error.
    fn badness(&self, candidate: &Candidate) -> (f64, f64) {
        match self.criterion {
            // Of a model that diverged.
            _ if candidate.log_loss.is_infinite() => (f64::INFINITY, 0.0),
            Criterion::LogLoss => (candidate.log_loss, candidate.log_loss_error),
            Criterion::Accuracy => (-candidate.accuracy, candidate.accuracy_error),
        }
    }

    /// The place of the best candidate: of equals that with the lowest log loss, which tells apart what the accuracy of few samples does
    /// not, and then the first.
    fn best(&self, candidates: &[Candidate]) -> usize {
        let badness = |index: usize| (self.badness(&candidates[index]).0, candidates[index].log_loss);
        let by_badness = |a: &usize, b: &usize| {
            let ((a, loss_of_a), (b, loss_of_b)) = (badness(*a), badness(*b));
            a.total_cmp(&b).then(loss_of_a.total_cmp(&loss_of_b))
        };
        (0..candidates.len()).min_by(by_badness).unwrap_or_default()
    }

    /// The place of the candidate to take.
    fn choose(&self, candidates: &[Candidate]) -> usize {
        let best = self.best(candidates);
        match self.rule {
            Rule::Best => best,
            Rule::OneStandardError => {
                let (value, error) = self.badness(&candidates[best]);
                let n = self.strengths.values().len();
                let stronger = best / n * n..=best;
                stronger.into_iter().find(|&index| self.badness(&candidates[index]).0 <= value + error).unwrap_or(best)
            }
        }
    }
}

impl Strengths {
    fn values(&self) -> &[f64] {
        match self {
            Self::C(values) | Self::Penalty(values) => values,
        }
    }
}

/// Mean, and standard deviation over the root of how many there are.
fn mean_and_error(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / n;
    if mean.is_infinite() {
        return (mean, 0.0);
    }
    let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}
