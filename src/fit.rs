//! Training: [`SoftmaxRegression`] is the estimator, [`Fit`] what it gives.

mod folds;
mod run;
mod sweep;
mod together;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::Device;
use crate::data::{Dataset, Dtype, Features};
use crate::error::{Error, Result};
use crate::metrics::Evaluation;
use crate::model::Model;
use crate::objective::TrainingSize;
use crate::solver::{Certificate, Every, Lbfgs, Limits, Past, Progress, Solver, StopReason};
use crate::structure::Structure;
use crate::weighting::ClassWeight;

pub use folds::Folds;
pub use sweep::{Candidate, Criterion, Curve, CurvePoint, Draw, Head, LearningCurve, Rule, SubsetSize, Sweep, Swept};

/// What every feature is multiplied by before training: the penalty is on the weights of features scaled so.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum FeatureScale {
    /// Bytes, as in images, are brought to 0..1 by the largest of all; numbers stay as they are.
    #[default]
    Auto,
    /// This number, above 0.
    Factor(f64),
}

/// What scaled features of that largest absolute value are multiplied by for the steps of stochastic solvers, whose size would
/// otherwise follow the unit that they are measured in. The objective is the same, with another factor of the penalty.
fn scale_of_steps(max_abs: f32) -> f32 {
    if max_abs > 1.0 || (max_abs > 0.0 && max_abs < 1.0 / 32.0) { 1.0 / max_abs } else { 1.0 }
}

impl FeatureScale {
    /// What these features are multiplied by.
    fn of(self, features: &Features) -> Result<f32> {
        /// Products of values up to this are far from the end of single precision, and their inverses too.
        const LARGEST: f32 = 1e18;
        let max_abs = features.max_abs();
        let setting = |name, value: String, expected| Err(Error::Setting { name, value, expected });
        if max_abs > LARGEST || (max_abs > 0.0 && max_abs < 1.0 / LARGEST) {
            let expected = "between 1e-18 and 1e18; divide the features first";
            return setting("the largest absolute value of the features", format!("{max_abs:e}"), expected);
        }
        match self {
            Self::Auto if features.values().dtype() == Dtype::U8 && max_abs > 1.0 => Ok(1.0 / max_abs),
            Self::Auto => Ok(1.0),
            Self::Factor(factor) => match factor as f32 {
                scale if scale > 1.0 / LARGEST && scale < LARGEST && scale * max_abs < LARGEST => Ok(scale),
                _ => setting("the feature scale", factor.to_string(), "above 0, and of a size that suits the features"),
            },
        }
    }
}

/// What a training is watched by: after each epoch the log loss of this data.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Validation {
    /// This share of the training samples, drawn at random, which are not trained on; above 0 and below 1.
    Fraction(f64),
    /// This data. Its classes are matched by name.
    Data(Arc<Dataset<'static>>),
}

impl From<f64> for Validation {
    fn from(fraction: f64) -> Self {
        Self::Fraction(fraction)
    }
}

impl From<Dataset<'static>> for Validation {
    fn from(data: Dataset<'static>) -> Self {
        Self::Data(Arc::new(data))
    }
}

impl From<Arc<Dataset<'static>>> for Validation {
    fn from(data: Arc<Dataset<'static>>) -> Self {
        Self::Data(data)
    }
}

/// Softmax regression (multinomial logistic regression): minimises the mean cross-entropy of softmax(X·W + b) plus
/// (l2/2)·‖W‖² + l1·‖W‖₁.
///
/// ```
/// use softreg::{SoftmaxRegression, data};
/// let (train, test) = data::digits()?.split(0.2, 0)?;
/// let fit = SoftmaxRegression::new().fit(&train)?;
/// let evaluation = fit.model.evaluate(&test)?;
/// assert!(evaluation.accuracy > 0.9);
/// # Ok::<(), softreg::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SoftmaxRegression {
    solver: Solver,
    l2: f64,
    /// In the place of l2.
    c: Option<f64>,
    l1: f64,
    weights: Structure,
    seed: u64,
    n_seeds: usize,
    feature_scale: FeatureScale,
    class_weight: ClassWeight,
    label_smoothing: f64,
    intercept: bool,
    standardize: bool,
    penalty_factors: Option<Vec<f64>>,
    polish: bool,
    init: Option<Arc<Model>>,
    validation: Option<Validation>,
    limits: Limits,
    checkpoint: Option<(PathBuf, Every)>,
    resume: Option<PathBuf>,
    device: Device,
}

/// A fitted model, and how training went.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fit {
    /// The model.
    pub model: Model,
    /// The model on the training data, with the weights and labels of the data set: without class weights and label
    /// smoothing.
    pub train: Evaluation,
    /// The objective: Σ_i s_i·ℓ_i + (l2/2)·‖W‖² + l1·‖W‖₁, with W that of the scaled features, s all weights over their sum, and ℓ for
    /// labels as they were smoothed. Without class weights and smoothing the first term is `train.log_loss`, but for rounding: of batch
    /// solvers it is that of the certificate, in double precision, before the model's weights were rounded to single precision.
    pub objective: f64,
    /// The solver, the one that was chosen where that was left to the data.
    pub solver: Solver,
    /// Each epoch, or each iteration of a batch solver.
    pub epochs: Vec<Progress>,
    /// Why there were no more.
    pub reason: StopReason,
    /// The epoch, from 1, after which the validation loss was lowest, and whose weights the model has; none without
    /// validation data.
    pub best_epoch: Option<usize>,
    /// The model on the validation data.
    pub validation: Option<Evaluation>,
    /// The learning rate, which the schedule multiplies; none of batch solvers.
    pub learning_rate: Option<f64>,
    /// Products of a batch solver, X·W or Xᵀ·R, over all samples; two are an evaluation of loss and gradient.
    pub products: Option<usize>,
    /// How near the minimum a batch solver came; none of structured weights, over whose factors the objective is not convex.
    pub certificate: Option<Certificate>,
    /// The seed; of several ([`SoftmaxRegression::seeds`]) that of the model.
    pub seed: u64,
    /// What the features were multiplied by. The model's weights have taken it in: they are for the features as given.
    pub feature_scale: f64,
    /// Time until the first step: to scale the data and bring it to the device, to choose the step size, and to compile
    /// kernels.
    pub preparation: Duration,
    /// Time from the first step to the last, with that of the epochs before the checkpoint that the training went on from.
    pub training: Duration,
    /// The epoch of the last checkpoint that was written, or iteration of a batch solver.
    pub checkpoint: Option<usize>,
    /// What went wrong on the way and was made up for, in sentences: a device that was lost, a checkpoint that could not be
    /// written. What is left is right all the same. Each was also a warning in the log.
    pub faults: Vec<String>,
}

impl Default for SoftmaxRegression {
    fn default() -> Self {
        Self::new()
    }
}

impl SoftmaxRegression {
    /// The default estimator: a solver that suits the data, on the CPU, l2 = 1e-5, seed 0.
    pub fn new() -> Self {
        Self {
            solver: Solver::default(),
            l2: 1e-5,
            c: None,
            l1: 0.0,
            weights: Structure::Dense,
            seed: 0,
            n_seeds: 1,
            feature_scale: FeatureScale::default(),
            class_weight: ClassWeight::default(),
            label_smoothing: 0.0,
            intercept: true,
            standardize: false,
            penalty_factors: None,
            polish: false,
            init: None,
            validation: None,
            limits: Limits::default(),
            checkpoint: None,
            resume: None,
            device: Device::cpu(),
        }
    }

    /// How the objective is minimised.
    #[must_use]
    pub fn solver(mut self, solver: impl Into<Solver>) -> Self {
        self.solver = solver.into();
        self
    }

    /// The penalty's factor: the objective is the **mean** loss + (l2/2)·‖W‖², W that of the scaled features, the
    /// intercept not penalised. At least 0; takes the place of [`SoftmaxRegression::c`].
    #[must_use]
    pub fn l2(mut self, l2: f64) -> Self {
        (self.l2, self.c) = (l2, None);
        self
    }

    /// The inverse strength of the penalty as scikit-learn has it, in the place of [`SoftmaxRegression::l2`]: l2 = 1/(C·n), n the samples
    /// that are trained on, with weights of samples or classes their sum; for two classes 2/(C·n), since scikit-learn penalises the
    /// difference of their weights. Above 0. Its l1_ratio is 0 then; see [`SoftmaxRegression::l1`].
    #[must_use]
    pub fn c(mut self, c: f64) -> Self {
        self.c = Some(c);
        self
    }

    /// The factor of an l1 penalty, l1·‖W‖₁ beside that of l2, W that of the scaled features, the intercept not penalised. Weights
    /// that are not worth it become exactly 0. scikit-learn's C and l1_ratio correspond to l1 = l1_ratio/(C·n) and
    /// l2 = (1 − l1_ratio)/(C·n), for two classes twice that, n as for [`SoftmaxRegression::c`]. For batch solvers.
    #[must_use]
    pub fn l1(mut self, l1: f64) -> Self {
        self.l1 = l1;
        self
    }

    /// What W is made of: fewer numbers than it has, which the model and its file keep, or itself, unless this is called. The penalty l2
    /// is on W, the intercept is dense. Structured weights are for L-BFGS, without an l1 penalty, and with dense features for SGD and
    /// AdamW, whose decay is of the factors; with a model to start from
    /// ([`SoftmaxRegression::init`]) training begins at the nearest W of the structure, or where that model has the same structure and
    /// classes at its factors.
    ///
    /// ```
    /// use softreg::{SoftmaxRegression, Structure, data};
    /// let (train, test) = data::digits()?.split(0.2, 0)?;
    /// let model = SoftmaxRegression::new().weights(Structure::LowRank { rank: 5 }).fit(&train)?.model;
    /// assert_eq!(model.n_parameters(), 5 * (64 + 10) + 10);
    /// assert!(model.evaluate(&test)?.accuracy > 0.9);
    /// # Ok::<(), softreg::Error>(())
    /// ```
    #[must_use]
    pub fn weights(mut self, structure: Structure) -> Self {
        self.weights = structure;
        self
    }

    /// With weights whose minimum depends on where training begins ([`Structure::Phm`], [`Structure::LowRank`]): trains so often, with
    /// the seed and those after it, and keeps the model with the lowest validation loss, or without validation data
    /// the lowest objective. [`Fit::seed`] is the one that was kept, and the fit is of that training, but for its
    /// times and its reason to end, which are of all together. 1 unless it is called.
    ///
    /// On the CPU up to 16 are trained at once on dense features in memory, and with L-BFGS have their passes over them in common; on sparse
    /// ones where there are no more threads than seeds.
    /// [`Progress::seed`] tells whose an epoch is. What stops one stops all, and seeds that have not begun do not begin: a
    /// [`SoftmaxRegression::time_limit`] that is short leaves several models half trained where one would be whole.
    #[must_use]
    pub fn seeds(mut self, n: usize) -> Self {
        self.n_seeds = n;
        self
    }

    /// What the order of the samples follows, and where training of structured weights begins. The same seed on the same device gives the same model, bit for bit.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// What every feature is multiplied by.
    #[must_use]
    pub fn feature_scale(mut self, scale: FeatureScale) -> Self {
        self.feature_scale = scale;
        self
    }

    /// How much the classes count, beside the weights of the samples ([`Dataset::with_weights`]). By default all the same.
    #[must_use]
    pub fn class_weight(mut self, weight: ClassWeight) -> Self {
        self.class_weight = weight;
        self
    }

    /// Label smoothing ε, 0 ≤ ε < 1: trains towards (1 − ε)·Y + ε/q (Szegedy et al. 2016, "Rethinking the Inception
    /// Architecture"). The smoothed labels take n_samples·n_classes·4 bytes. By default 0.
    #[must_use]
    pub fn label_smoothing(mut self, smoothing: f64) -> Self {
        self.label_smoothing = smoothing;
        self
    }

    /// Whether to train an intercept; without, b is 0.
    #[must_use]
    pub fn intercept(mut self, intercept: bool) -> Self {
        self.intercept = intercept;
        self
    }

    /// Penalises the weights of standardised features, (x − μ)/σ, the mean and deviation those of the training data: what a weight
    /// is worth no longer depends on the unit of its feature. The model's weights are for features as given all the same, and the
    /// features are not copied: the penalty's factor for feature k is l2·σ_k². Without an intercept features are divided by σ
    /// only. For batch solvers.
    #[must_use]
    pub fn standardize(mut self, standardize: bool) -> Self {
        self.standardize = standardize;
        self
    }

    /// A factor of the penalties l2 and l1 for each feature, at least 0; a feature with 0 is not penalised. For batch solvers.
    #[must_use]
    pub fn penalty_factors(mut self, factors: impl Into<Vec<f64>>) -> Self {
        self.penalty_factors = Some(factors.into());
        self
    }

    /// Finishes the last digits on the CPU in double precision, with L-BFGS, where training was in single precision: on a GPU, or
    /// with a stochastic solver.
    #[must_use]
    pub fn polish(mut self, polish: bool) -> Self {
        self.polish = polish;
        self
    }

    /// Starts from the weights of `model` instead of zeros (warm start). Classes are matched by name: the new model has the
    /// classes of `model` in their order, also those that the data has no sample of, and after them those that are new in the
    /// data, which start with weights 0 and the mean of the intercepts. With [`FeatureScale::Auto`] features are scaled as in
    /// the training of `model`, so that the penalty stays the same.
    ///
    /// [`SoftmaxRegression::fit`] then gives [`Error::Width`] when the data has another number of features, and
    /// [`Error::FeatureName`] when both know the names of the features and one differs.
    #[must_use]
    pub fn init(mut self, model: &Model) -> Self {
        self.init = Some(Arc::new(model.clone()));
        self
    }

    /// Evaluates this data, or this share of the training data, after each epoch. The fitted model is that of the epoch with
    /// the lowest validation loss. An evaluation takes one product with
    /// its features, an epoch two.
    ///
    /// ```
    /// use softreg::{SoftmaxRegression, data};
    /// let fit = SoftmaxRegression::new().validation(0.1).patience(5).fit(&data::digits()?)?;
    /// println!("best after {:?} of {} epochs: {}", fit.best_epoch, fit.epochs.len(), fit.reason);
    /// # Ok::<(), softreg::Error>(())
    /// ```
    #[must_use]
    pub fn validation(mut self, validation: impl Into<Validation>) -> Self {
        self.validation = Some(validation.into());
        self
    }

    /// Stops when so many epochs in a row had no better validation loss than the best before (early stopping). The schedule
    /// of the learning rate goes by all epochs all the same.
    #[must_use]
    pub fn patience(mut self, epochs: usize) -> Self {
        self.limits.patience = Some(epochs);
        self
    }

    /// Ends the fit about then: an epoch is not begun when one as long as the longest so far would take it over the limit,
    /// which counts from the call of [`SoftmaxRegression::fit`]. At least one epoch is done.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.limits.time_limit = Some(limit);
        self
    }

    /// Writes a checkpoint to this file from time to time, from which [`SoftmaxRegression::resume`] goes on should the program end
    /// before the training does; and when `on_epoch` of [`SoftmaxRegression::fit_with`] or the time limit stops it. The file is
    /// replaced whole, and stays when the training is done. One that cannot be written is in [`Fit::faults`], the older one stays.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use softreg::{Every, Sgd, SoftmaxRegression, data};
    /// # let path = std::env::temp_dir().join(format!("softreg-checkpoint-{}", std::process::id()));
    /// let data = data::digits()?;
    /// let estimator = SoftmaxRegression::new().solver(Sgd { epochs: Some(10), ..Sgd::default() });
    /// let at_once = estimator.fit(&data)?;
    /// let estimator = estimator.checkpoint(&path, Every::Epochs(2));
    /// estimator.fit_with(&data, |progress| if progress.epoch < 5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })?;
    /// let resumed = estimator.resume(&path).fit(&data)?;
    /// assert!(resumed.epochs.len() == 10 && resumed.model == at_once.model);
    /// # std::fs::remove_file(&path).unwrap();
    /// # Ok::<(), softreg::Error>(())
    /// ```
    #[must_use]
    pub fn checkpoint(mut self, path: impl Into<PathBuf>, every: Every) -> Self {
        self.checkpoint = Some((path.into(), every));
        self
    }

    /// Goes on from a checkpoint of a run with the same data and settings, to the same bits as that run would have come to on the
    /// same device. Another device goes on from there, too, but in its own last bits, of which the log warns. The device, the
    /// patience and the time limit, which counts anew, may be others; [`Fit::epochs`] has all epochs, those before the
    /// checkpoint, too.
    ///
    /// [`SoftmaxRegression::fit`] then gives [`Error::Io`] when the file cannot be read, and [`Error::Checkpoint`] when it is damaged,
    /// or of a run that had other data or settings, which it names.
    #[must_use]
    pub fn resume(mut self, path: impl Into<PathBuf>) -> Self {
        self.resume = Some(path.into());
        self
    }

    /// Where to train. When a device that was chosen automatically ([`Device::auto`]) is lost or has no memory left, the training
    /// goes on on the CPU; one that was asked for is an error.
    #[must_use]
    pub fn device(mut self, device: &Device) -> Self {
        self.device = device.clone();
        self
    }

    /// Trains on `data`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting that makes no sense, [`Error::ClassWeight`] and [`Error::Weight`] for weights that
    /// do, [`Error::Diverged`] when the learning rate is too high;
    /// [`Error::Width`], [`Error::FeatureName`] and [`Error::UnknownLabel`] when validation data or a model to start from do
    /// not suit the data;
    /// [`Error::DeviceLimit`], [`Error::OutOfMemory`], [`Error::DeviceLost`], [`Error::Device`] from the device.
    pub fn fit(&self, data: &Dataset) -> Result<Fit> {
        self.fit_with(data, |_| ControlFlow::Continue(()))
    }

    /// Trains on `data` and calls `on_epoch` after each epoch. When it answers [`ControlFlow::Break`], training stops
    /// and the model is the one reached so far. With several [`SoftmaxRegression::seeds`] it is called from other threads, one at a time.
    ///
    /// # Errors
    /// As [`SoftmaxRegression::fit`].
    pub fn fit_with(
        &self,
        data: &Dataset,
        mut on_epoch: impl FnMut(&Progress) -> ControlFlow<()> + Send,
    ) -> Result<Fit> {
        self.fit_after(&mut Past::default(), data, &mut on_epoch)
    }

    /// Fits along a path of penalties: for each of `factors`, in their order, a fit with l1 and l2 times the factor, which begins
    /// where those before it lead to. From a large penalty to a small one that takes far fewer products than fits of their own:
    /// with an l1 penalty a fit also begins with the curvature among the weights that are not zero there. Each fit
    /// ends by the same tolerance as one of its own, and tells of its own products and time.
    ///
    /// For batch solvers, of which L-BFGS is the default here whatever the size of the data. Each fit has the time limit and the
    /// patience of its own; [`SoftmaxRegression::init`] is where the first begins.
    ///
    /// ```
    /// use softreg::{SoftmaxRegression, data};
    /// let (train, test) = data::digits()?.split(0.2, 0)?;
    /// let estimator = SoftmaxRegression::new().l2(0.0).l1(1e-2);
    /// for fit in estimator.path(&train, &[1.0, 0.5, 0.25])? {
    ///     let n_nonzero = fit.certificate.map_or(0, |certificate| certificate.n_nonzero);
    ///     println!("{n_nonzero} weights: {}", fit.model.evaluate(&test)?.accuracy);
    /// }
    /// # Ok::<(), softreg::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`SoftmaxRegression::fit`]; [`Error::Setting`] for a factor that is not a finite number above 0, for a stochastic solver, and
    /// for checkpoints, which a path has none of.
    pub fn path(&self, data: &Dataset, factors: &[f64]) -> Result<Vec<Fit>> {
        let mut fits = Vec::with_capacity(factors.len());
        self.path_with(data, factors, Past::default(), |_, fit, _| {
            fits.push(fit);
            Ok(())
        })?;
        Ok(fits)
    }

    /// The same, and gives each fit, with the place of its factor and what the next one knows, to `each` as it is there.
    fn path_with(
        &self,
        data: &Dataset,
        factors: &[f64],
        mut past: Past,
        mut each: impl FnMut(usize, Fit, &Past) -> Result<()>,
    ) -> Result<Past> {
        let setting = |name, value: String, expected| Err(Error::Setting { name, value, expected });
        if let Some(factor) = factors.iter().find(|factor| !(**factor > 0.0 && factor.is_finite())) {
            return setting("a factor of the penalties", factor.to_string(), "a finite number above 0");
        }
        if let Some(path) = self.resume.as_ref().or(self.checkpoint.as_ref().map(|(path, _)| path)) {
            return setting(
                "the checkpoint of a path",
                path.display().to_string(),
                "left out: a path has no checkpoints",
            );
        }
        if self.n_seeds != 1 {
            let expected = "1 on a path, whose fits begin where those before them ended";
            return setting("the number of seeds", self.n_seeds.to_string(), expected);
        }
        let mut estimator = self.clone();
        match &self.solver {
            Solver::Auto => estimator.solver = Lbfgs::default().into(),
            solver if solver.is_stochastic() => {
                return setting("the solver of a path", solver.name().to_owned(), "L-BFGS or Newton-CG");
            }
            _ => {}
        }
        for (index, &factor) in factors.iter().enumerate() {
            past.go_to(factor);
            (estimator.l1, estimator.l2, estimator.c) =
                (factor * self.l1, factor * self.l2, self.c.map(|c| c / factor));
            let fit = estimator.fit_after(&mut past, data, &mut |_| ControlFlow::Continue(()))?;
            each(index, fit, &past)?;
        }
        Ok(past)
    }

    /// A fit after others on a path.
    fn fit_after(&self, past: &mut Past, data: &Dataset, on_epoch: &mut run::OnEpoch) -> Result<Fit> {
        let begin = Instant::now();
        self.solver.check()?;
        self.limits.check(self.validation.is_some())?;
        self.checkpoint.as_ref().map_or(Ok(()), |(_, every)| every.check())?;
        for (name, penalty) in [("the penalty l2", self.l2), ("the penalty l1", self.l1)] {
            if !(penalty >= 0.0 && penalty.is_finite()) {
                let expected = "a finite number, at least 0";
                return Err(Error::Setting { name, value: penalty.to_string(), expected });
            }
        }
        let of_batch_solvers = [
            ("the penalty l1", self.l1.to_string(), self.l1 > 0.0),
            ("standardize", true.to_string(), self.standardize),
            ("the penalty factors", "given".to_owned(), self.penalty_factors.is_some()),
        ];
        if self.l1 > 0.0 && matches!(self.solver, Solver::NewtonCg(_)) {
            let expected = "0 with Newton-CG; L-BFGS has l1 penalties";
            return Err(Error::Setting { name: "the penalty l1", value: self.l1.to_string(), expected });
        }
        if self.solver.is_stochastic() {
            for (name, value, is_given) in of_batch_solvers {
                if is_given {
                    let expected = "left out with a stochastic solver: L-BFGS and Newton-CG take it";
                    return Err(Error::Setting { name, value, expected });
                }
            }
        }
        self.check_structure()?;
        if self.polish && self.validation.is_some() {
            let expected = "left out with validation data, which decides where training ends";
            return Err(Error::Setting { name: "polish", value: true.to_string(), expected });
        }
        if let Some(factors) = &self.penalty_factors {
            if factors.len() != data.n_features() {
                let what = "penalty factors (one for each feature)".to_owned();
                return Err(Error::Shape { what, expected: data.n_features(), found: factors.len() });
            }
            if let Some(factor) = factors.iter().find(|factor| !(**factor >= 0.0 && factor.is_finite())) {
                let expected = "a finite number, at least 0";
                return Err(Error::Setting { name: "a penalty factor", value: factor.to_string(), expected });
            }
        }
        let mut fit = |data: &_, validation| {
            let estimator = self.with_l2_of_c(data)?;
            run::fit(&estimator, data, validation, begin, past, on_epoch)
        };
        match &self.validation {
            None => fit(data, None),
            Some(Validation::Data(validation)) => fit(data, Some(validation)),
            Some(Validation::Fraction(fraction)) => {
                let (data, validation) = data.split(*fraction, self.seed).map_err(|error| match error {
                    Error::Setting { value, expected, .. } => {
                        Error::Setting { name: "the validation fraction", value, expected }
                    }
                    other => other,
                })?;
                fit(&data, Some(&validation))
            }
        }
    }

    /// With the l2 that C comes to on this data, where C is given.
    fn with_l2_of_c(&self, data: &Dataset) -> Result<Cow<'_, Self>> {
        let Some(c) = self.c else { return Ok(Cow::Borrowed(self)) };
        let size = self.size(data)?;
        let (l2, _) = size.penalties(1.0 / (c * size.n), 0.0);
        if !(c > 0.0 && l2 > 0.0 && l2.is_finite()) {
            let expected = "a number above 0, with 1/(C·n) in range";
            return Err(Error::Setting { name: "C", value: c.to_string(), expected });
        }
        Ok(Cow::Owned(self.clone().l2(l2)))
    }

    /// Of training on this data, with the classes that the model comes to have.
    fn size(&self, data: &Dataset) -> Result<TrainingSize> {
        let classes = self.init.as_deref().map(|model| model.classes_with(data.classes()));
        let data = match &classes {
            Some(classes) => run::in_classes(data, classes)?,
            None => Cow::Borrowed(data),
        };
        Ok(TrainingSize { n: self.class_weight.total(&data)?, n_classes: data.n_classes() })
    }

    /// The solver that [`SoftmaxRegression::fit`] takes for this data: the one that was set, or what [`Solver::Auto`] comes to.
    pub fn solver_for(&self, data: &Dataset) -> Solver {
        let size = data.features().values().len().saturating_mul(data.n_classes());
        self.solver.clone().chosen_for(size, self.needs_batch())
    }

    /// That the other settings suit structured weights.
    fn check_structure(&self) -> Result<()> {
        let structure = self.weights.to_string();
        let setting = |name, value: String, expected| Err(Error::Setting { name, value, expected });
        if self.n_seeds != 1 {
            let name = "the number of seeds";
            match self.n_seeds {
                0 => return setting(name, "0".to_owned(), "at least 1"),
                n if !self.weights.depends_on_seed() => {
                    let expected = "1: the objective has one minimum, unless the weights are phm:M or lowrank:R";
                    return setting(name, n.to_string(), expected);
                }
                n if self.init.is_some() => {
                    return setting(name, n.to_string(), "1 with a model to start from, where training begins");
                }
                n if self.checkpoint.is_some() || self.resume.is_some() => {
                    return setting(name, n.to_string(), "1 with a checkpoint; train with each --seed by itself");
                }
                _ => {}
            }
        }
        if self.weights == Structure::Dense {
            return Ok(());
        }
        if self.solver.is_stochastic() && (self.checkpoint.is_some() || self.resume.is_some()) {
            let expected = "dense for checkpoints of SGD and AdamW; L-BFGS has those of structured weights";
            return setting("the structure of the weights", structure, expected);
        }
        if matches!(self.solver, Solver::NewtonCg(_)) {
            return setting(
                "the structure of the weights",
                structure,
                "dense with Newton-CG; L-BFGS trains structured weights",
            );
        }
        if self.l1 > 0.0 {
            return setting(
                "the penalty l1",
                self.l1.to_string(),
                "0 with structured weights, which have no exact zeros; take l2",
            );
        }
        if self.polish {
            return setting(
                "polish",
                true.to_string(),
                "left out with structured weights; train on the CPU, in double precision",
            );
        }
        Ok(())
    }

    /// Whether the penalty or the weights are such that only batch solvers have.
    fn needs_batch(&self) -> bool {
        self.weights != Structure::Dense || self.l1 > 0.0 || self.standardize || self.penalty_factors.is_some()
    }

    /// Goes on with the training of `model` on a batch of data, for one epoch unless the solver says how many, as
    /// [`SoftmaxRegression::init`] says: classes may come to it, none is lost. For data that comes bit by bit.
    ///
    /// Each call is a training of its own, with a schedule from its beginning to its end; [`Schedule::Constant`] suits many
    /// small batches, and a learning rate below that of a whole fit keeps more of what was learned before.
    ///
    /// ```
    /// use softreg::{Schedule, Sgd, SoftmaxRegression, data};
    /// let (first, second) = data::digits()?.split(0.5, 0)?;
    /// let estimator = SoftmaxRegression::new().solver(Sgd { schedule: Schedule::Constant, ..Sgd::default() });
    /// let mut model = estimator.fit(&first)?.model;
    /// model = estimator.partial_fit(&model, &second)?;
    /// # assert!(model.evaluate(&first)?.accuracy > 0.9);
    /// # Ok::<(), softreg::Error>(())
    /// ```
    ///
    /// [`Schedule::Constant`]: crate::Schedule::Constant
    ///
    /// # Errors
    /// As [`SoftmaxRegression::fit`].
    pub fn partial_fit(&self, model: &Model, data: &Dataset) -> Result<Model> {
        let mut estimator = self.clone().init(model);
        if self.solver.is_stochastic() || !self.needs_batch() {
            estimator.solver = estimator.solver.with_default_epochs(1);
        }
        Ok(estimator.fit(data)?.model)
    }
}
