//! Many models on the same data: a grid of penalties, each cross-validated, and a model of the best on all samples.

mod division;
mod paths;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{FeatureScale, Fit, Folds, SoftmaxRegression};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::metrics::Evaluation;
use crate::solver::{Lbfgs, Solver, StopReason};
use division::Division;

/// Chooses penalties by cross-validation: for each of a grid and for each fold a model of the other folds is fitted and evaluated on the
/// fold; the penalty that does best, in the mean over the folds, is fitted on all samples.
///
/// The models of a fold are a path from the largest penalty to the smallest ([`SoftmaxRegression::path`]). On the CPU all paths go on at
/// once, and have their passes over dense features in common. The samples are copied once, in the order of their folds, whose models
/// differ in weights that are 0 for the fold left out. The fitted models do not depend on how many threads there are.
///
/// ```
/// use softreg::{Folds, SoftmaxRegression, Sweep, data};
/// let (train, test) = data::digits()?.split(0.2, 0)?;
/// let swept = Sweep::new(SoftmaxRegression::new()).c([0.01, 0.1, 1.0]).folds(Folds::Stratified(3)).fit(&train)?;
/// println!("C = {:?}: {}", swept.candidates[swept.chosen].c, swept.fit.model.evaluate(&test)?.accuracy);
/// # assert!(swept.fit.model.evaluate(&test)?.accuracy > 0.9);
/// # Ok::<(), softreg::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sweep {
    estimator: SoftmaxRegression,
    strengths: Strengths,
    l1_ratios: Vec<f64>,
    folds: Folds,
    criterion: Criterion,
    rule: Rule,
    /// Of the search, where it is given.
    tolerance: Option<f64>,
    memory: Option<u64>,
}

/// The tolerance of a search, unless it or the estimator has another.
const SEARCHED: f64 = 1e-5;

/// How strong the penalties are.
#[derive(Debug, Clone)]
enum Strengths {
    /// λ = 1/(C·n), n the samples trained on, with weights their sum.
    C(Vec<f64>),
    /// λ itself.
    Penalty(Vec<f64>),
}

/// By what a penalty is chosen: the mean over the folds of each fold's.
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
    /// The best; of several the strongest.
    #[default]
    Best,
    /// The strongest that is no more than one standard error worse than the best, with the same share of l1 (Breiman, Friedman, Olshen
    /// and Stone 1984, "Classification and Regression Trees").
    OneStandardError,
}

/// A penalty of the grid, and how well its models predict what they were not trained on.
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
    /// The mean over the folds of the log loss in nats, and its standard error.
    pub log_loss: f64,
    /// The standard deviation of the folds' log losses over √k.
    pub log_loss_error: f64,
    /// The mean over the folds of the accuracy, and its standard error.
    pub accuracy: f64,
    /// The standard deviation of the folds' accuracies over √k.
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
    /// On the fold left out.
    pub validation: Evaluation,
    /// The objective on the others, of the model's weights, which are in single precision.
    pub objective: f64,
    /// Iterations of the solver.
    pub n_iterations: usize,
    /// Products X·W and Xᵀ·R, over all samples; two are an evaluation of loss and gradient.
    pub products: usize,
    /// Why training ended.
    pub reason: StopReason,
    /// How long it took, beside others.
    pub training: Duration,
}

/// What a sweep found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Swept {
    /// Ordered by share of l1 as given, each from the strongest penalty to the weakest.
    pub candidates: Vec<Candidate>,
    /// All models, by fold and candidate.
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
}

impl Sweep {
    /// A sweep that fits as `estimator` does, but for its penalties. For batch solvers, of which L-BFGS is the default here whatever the
    /// size of the data.
    pub fn new(estimator: SoftmaxRegression) -> Self {
        Self {
            estimator,
            // Those of scikit-learn's LogisticRegressionCV.
            strengths: Strengths::C((0..10).map(|i| 10f64.powf(-4.0 + 8.0 * f64::from(i) / 9.0)).collect()),
            l1_ratios: vec![0.0],
            folds: Folds::default(),
            criterion: Criterion::default(),
            rule: Rule::default(),
            tolerance: None,
            memory: None,
        }
    }

    /// The inverse strengths of the penalty, as scikit-learn has them: l2 = (1 − l1_ratio)/(C·n) and l1 = l1_ratio/(C·n), n the
    /// samples of the training at hand, with weights their sum. 10 from 1e-4 to 1e4 unless it is called.
    #[must_use]
    pub fn c(mut self, values: impl Into<Vec<f64>>) -> Self {
        self.strengths = Strengths::C(values.into());
        self
    }

    /// The strengths λ of the penalty, whatever the number of samples: l2 = (1 − l1_ratio)·λ and l1 = l1_ratio·λ.
    #[must_use]
    pub fn penalties(mut self, values: impl Into<Vec<f64>>) -> Self {
        self.strengths = Strengths::Penalty(values.into());
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
    /// 1e-5, or the estimator's where that is larger: on Banking77 no validation loss is then 1e-4 from that at the minimum, far less than
    /// tells penalties apart.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// Bytes that paths side by side may take beside the features: two numbers of 8 bytes for each sample and class of a path, and what a
    /// solver has of gradients and steps. No more go on at once. By default a quarter of the memory that is free. The fitted models are
    /// the same. It says nothing of a preconditioner, up to 256 MiB for a path, nor of paths that are not side by side, which are those
    /// on a GPU, of sparse features and of those in a file.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// How many models are fitted before the last one.
    pub fn n_heads(&self) -> usize {
        self.strengths.values().len() * self.l1_ratios.len() * self.folds.n_folds()
    }

    /// Searches, and fits the best.
    ///
    /// # Errors
    /// As [`SoftmaxRegression::path`]; [`Error::Setting`] for an empty grid, a strength that is not a finite number above 0, a share of l1
    /// outside of 0..1, validation data of the estimator, and folds that cannot be ([`Folds::of`]).
    pub fn fit(&self, data: &Dataset) -> Result<Swept> {
        self.fit_with(data, |_| {})
    }

    /// The same, and tells of each model as it is there: in the order of a path, but paths of several folds may go on at once.
    ///
    /// # Errors
    /// As [`Sweep::fit`].
    pub fn fit_with(&self, data: &Dataset, on_head: impl FnMut(&Head) + Send) -> Result<Swept> {
        let begin = Instant::now();
        self.check()?;
        let mut estimator = self.estimator.clone();
        let solver = match &estimator.solver {
            Solver::Auto => Lbfgs::default().into(),
            solver => solver.clone(),
        };
        estimator.solver = solver.clone().with_tolerance(|of_last| self.tolerance.unwrap_or(of_last.max(SEARCHED)));
        // That of a fold, whose largest byte may be another, would be another penalty.
        estimator.feature_scale = FeatureScale::Factor(estimator.feature_scale.of(data.features())?.into());
        let division = Division::new(&self.folds, data)?;
        let on_head = Mutex::new(on_head);
        let tell = |head: &Head| {
            if let Ok(mut on_head) = on_head.lock() {
                on_head(head);
            }
        };
        let (mut heads, models, passes) = self.fit_paths(&estimator, &division, &tell)?;
        heads.sort_by_key(|head| (head.fold, head.candidate));
        let candidates = self.candidates(&heads, total_weight(data));
        let chosen = self.choose(&candidates);
        let search = begin.elapsed();
        let Candidate { l2, l1, .. } = candidates[chosen];
        (estimator.l2, estimator.l1) = (l2, l1);
        estimator.solver = solver;
        // A model of the same penalty, without the first fold, is near.
        let fit = match models.get(chosen) {
            Some(model) if estimator.init.is_none() => estimator.init(model).fit(data)?,
            _ => estimator.fit(data)?,
        };
        Ok(Swept { candidates, heads, chosen, fit, passes, search })
    }

    fn check(&self) -> Result<()> {
        let setting = |name, value: String, expected| Err(Error::Setting { name, value, expected });
        let strengths = self.strengths.values();
        if strengths.is_empty() || self.l1_ratios.is_empty() {
            return setting("the grid of penalties", "empty".to_owned(), "at least one of each");
        }
        if let Some(value) = strengths.iter().find(|value| !(**value > 0.0 && value.is_finite())) {
            return setting("a strength of the penalty", value.to_string(), "a finite number above 0");
        }
        if let Some(ratio) = self.l1_ratios.iter().find(|ratio| !(0.0..=1.0).contains(*ratio)) {
            return setting("a share of l1", ratio.to_string(), "between 0 and 1");
        }
        if self.estimator.validation.is_some() {
            return setting(
                "the validation data of a sweep",
                "given".to_owned(),
                "left out: each fold is validated on",
            );
        }
        Ok(())
    }

    /// λ of each strength where the weights sum to `total`, the largest first.
    fn penalties_for(&self, total: f64) -> Vec<f64> {
        let mut penalties: Vec<f64> = match &self.strengths {
            Strengths::C(values) => values.iter().map(|c| 1.0 / (c * total)).collect(),
            Strengths::Penalty(values) => values.clone(),
        };
        penalties.sort_by(|a, b| b.total_cmp(a));
        penalties
    }

    /// What the heads say of each penalty; the weights of all samples sum to `total`.
    fn candidates(&self, heads: &[Head], total: f64) -> Vec<Candidate> {
        let penalties = self.penalties_for(total);
        let of_grid = self.l1_ratios.iter().flat_map(|&ratio| penalties.iter().map(move |&penalty| (ratio, penalty)));
        let figures = |index: usize, figure: fn(&Evaluation) -> f64| {
            mean_and_error(heads.iter().filter(|head| head.candidate == index).map(|head| figure(&head.validation)))
        };
        let candidate = |(index, (l1_ratio, penalty)): (usize, (f64, f64))| {
            let (log_loss, log_loss_error) = figures(index, |evaluation| evaluation.log_loss);
            let (accuracy, accuracy_error) = figures(index, |evaluation| evaluation.accuracy);
            Candidate {
                c: matches!(self.strengths, Strengths::C(_)).then(|| 1.0 / (penalty * total)),
                l1_ratio,
                l2: (1.0 - l1_ratio) * penalty,
                l1: l1_ratio * penalty,
                log_loss,
                log_loss_error,
                accuracy,
                accuracy_error,
            }
        };
        of_grid.enumerate().map(candidate).collect()
    }

    /// The place of the candidate to take.
    fn choose(&self, candidates: &[Candidate]) -> usize {
        // What is to be low, and its standard error.
        let badness = |candidate: &Candidate| match self.criterion {
            Criterion::LogLoss => (candidate.log_loss, candidate.log_loss_error),
            Criterion::Accuracy => (-candidate.accuracy, candidate.accuracy_error),
        };
        // The first among equals, which is the strongest.
        let by_badness = |a: &usize, b: &usize| badness(&candidates[*a]).0.total_cmp(&badness(&candidates[*b]).0);
        let best = (0..candidates.len()).min_by(by_badness).unwrap_or_default();
        match self.rule {
            Rule::Best => best,
            Rule::OneStandardError => {
                let (value, error) = badness(&candidates[best]);
                let n = self.strengths.values().len();
                let of_ratio = best / n * n..=best;
                of_ratio.into_iter().find(|&index| badness(&candidates[index]).0 <= value + error).unwrap_or(best)
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

/// The number of samples, or the sum of their weights.
fn total_weight(data: &Dataset) -> f64 {
    match data.weights() {
        Some(weights) => weights.iter().map(|&weight| f64::from(weight)).sum(),
        None => data.n_samples() as f64,
    }
}

/// Mean, and standard deviation over the root of how many there are.
fn mean_and_error(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / n;
    let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}
