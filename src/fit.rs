//! Training: [`SoftmaxRegression`] is the estimator, [`Fit`] what it gives.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{Device, Parameters, Session, Shape};
use crate::data::{Dataset, Labels, Targets};
use crate::error::{Error, Result};
use crate::metrics::{Evaluation, Evaluator};
use crate::model::{Model, Training};
use crate::objective;
use crate::solver::{Limits, Observer, Outcome, Progress, Solver, StochasticProblem, StopReason, Validate};

/// What every feature is multiplied by before training.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum FeatureScale {
    /// 1/max|x| when the largest absolute value of the training data is above 1 or below 1/32, otherwise 1: bytes of
    /// images come to 0..1, embeddings stay as they are.
    #[default]
    Auto,
    /// This number, above 0.
    Factor(f64),
}

impl FeatureScale {
    /// What features of that largest absolute value are multiplied by.
    fn of(self, max_abs: f32) -> Result<f32> {
        /// Products of values up to this are far from the end of single precision, and their inverses too.
        const LARGEST: f32 = 1e18;
        let setting = |name, value: String, expected| Err(Error::Setting { name, value, expected });
        if max_abs > LARGEST || (max_abs > 0.0 && max_abs < 1.0 / LARGEST) {
            let expected = "between 1e-18 and 1e18; divide the features first";
            return setting("the largest absolute value of the features", format!("{max_abs:e}"), expected);
        }
        match self {
            Self::Auto if max_abs > 1.0 || (max_abs > 0.0 && max_abs < 1.0 / 32.0) => Ok(1.0 / max_abs),
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
/// (l2/2)·‖W‖².
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
    seed: u64,
    feature_scale: FeatureScale,
    intercept: bool,
    init: Option<Arc<Model>>,
    validation: Option<Validation>,
    limits: Limits,
    device: Device,
}

/// A fitted model, and how training went.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fit {
    /// The model.
    pub model: Model,
    /// The model on the training data.
    pub train: Evaluation,
    /// The objective: `train.log_loss` + (l2/2)·‖W‖², with W that of the scaled features.
    pub objective: f64,
    /// Each epoch.
    pub epochs: Vec<Progress>,
    /// Why there were no more.
    pub reason: StopReason,
    /// The epoch, from 1, after which the validation loss was lowest, and whose weights the model has; none without
    /// validation data.
    pub best_epoch: Option<usize>,
    /// The model on the validation data.
    pub validation: Option<Evaluation>,
    /// The learning rate, which the schedule multiplies.
    pub learning_rate: f64,
    /// What the features were multiplied by. The model's weights have taken it in: they are for the features as given.
    pub feature_scale: f64,
    /// Time until the first step: to scale the data and bring it to the device, to choose the step size, and to compile
    /// kernels.
    pub preparation: Duration,
    /// Time from the first step to the last.
    pub training: Duration,
}

impl Default for SoftmaxRegression {
    fn default() -> Self {
        Self::new()
    }
}

impl SoftmaxRegression {
    /// The default estimator: SGD on the CPU, l2 = 1e-5, seed 0.
    pub fn new() -> Self {
        Self {
            solver: Solver::default(),
            l2: 1e-5,
            seed: 0,
            feature_scale: FeatureScale::default(),
            intercept: true,
            init: None,
            validation: None,
            limits: Limits::default(),
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
    /// intercept not penalised. scikit-learn's C corresponds to l2 = 1/(C·n_samples).
    #[must_use]
    pub fn l2(mut self, l2: f64) -> Self {
        self.l2 = l2;
        self
    }

    /// What the order of the samples follows. The same seed on the same device gives the same model, bit for bit.
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

    /// Whether to train an intercept; without, b is 0.
    #[must_use]
    pub fn intercept(mut self, intercept: bool) -> Self {
        self.intercept = intercept;
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

    /// Where to train.
    #[must_use]
    pub fn device(mut self, device: &Device) -> Self {
        self.device = device.clone();
        self
    }

    /// Trains on `data`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting that makes no sense, [`Error::Diverged`] when the learning rate is too high;
    /// [`Error::Width`], [`Error::FeatureName`] and [`Error::UnknownLabel`] when validation data or a model to start from do
    /// not suit the data;
    /// [`Error::DeviceLimit`], [`Error::OutOfMemory`], [`Error::DeviceLost`], [`Error::Device`] from the device.
    pub fn fit(&self, data: &Dataset) -> Result<Fit> {
        self.fit_with(data, |_| ControlFlow::Continue(()))
    }

    /// Trains on `data` and calls `on_epoch` after each epoch. When it answers [`ControlFlow::Break`], training stops
    /// and the model is the one reached so far.
    ///
    /// # Errors
    /// As [`SoftmaxRegression::fit`].
    pub fn fit_with(&self, data: &Dataset, mut on_epoch: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<Fit> {
        let begin = Instant::now();
        self.solver.check()?;
        self.limits.check(self.validation.is_some())?;
        if !(self.l2 >= 0.0 && self.l2.is_finite()) {
            return Err(Error::Setting {
                name: "the penalty l2",
                value: self.l2.to_string(),
                expected: "a finite number, at least 0",
            });
        }
        match &self.validation {
            None => self.fit_on(data, None, begin, &mut on_epoch),
            Some(Validation::Data(validation)) => self.fit_on(data, Some(validation), begin, &mut on_epoch),
            Some(Validation::Fraction(fraction)) => {
                let (data, validation) = data.split(*fraction, self.seed).map_err(|error| match error {
                    Error::Setting { value, expected, .. } => {
                        Error::Setting { name: "the validation fraction", value, expected }
                    }
                    other => other,
                })?;
                self.fit_on(&data, Some(&validation), begin, &mut on_epoch)
            }
        }
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
        estimator.solver = estimator.solver.with_default_epochs(1);
        Ok(estimator.fit(data)?.model)
    }

    fn fit_on(
        &self,
        data: &Dataset,
        validation: Option<&Dataset>,
        begin: Instant,
        on_epoch: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Fit> {
        let init = self.init.as_deref();
        let scale = match (self.feature_scale, init.and_then(Model::feature_scale)) {
            (FeatureScale::Auto, Some(factor)) => FeatureScale::Factor(factor),
            (feature_scale, _) => feature_scale,
        };
        let scale = scale.of(data.features().max_abs())?;
        let (classes, mut start) = match init {
            Some(model) => model.start(data, scale)?,
            None => {
                let shape = Shape { n_features: data.n_features(), n_classes: data.n_classes(), n_heads: 1 };
                (data.classes().to_vec(), Parameters::zeros(shape))
            }
        };
        let shape = start.shape;
        if !self.intercept {
            start.values[shape.n_features * shape.n_classes..].fill(0.0);
        }
        let labels = with_classes(data, &classes)?;
        let targets = labels.targets();
        let mut session = self.device.session(data.features(), scale, Some(targets.into()))?;
        let mut watched = match validation {
            Some(validation) => {
                if validation.n_features() != data.n_features() {
                    return Err(Error::Width { model: data.n_features(), data: validation.n_features() });
                }
                let session = self.device.session(validation.features(), scale, None)?;
                Some((session, with_classes(validation, &classes)?))
            }
            None => None,
        };
        let mut validate = watched.as_mut().map(|(session, labels)| {
            |parameters: &Parameters| Ok(evaluate(&mut **session, labels.targets(), parameters)?.log_loss)
        });
        let validate = validate.as_mut().map(|validate| -> &mut Validate { validate });
        let mut observer = Observer::new(self.limits, begin, validate, on_epoch);

        let solver = self.solver.stochastic();
        let learning_rate = self.solver.learning_rate(data.features(), scale, targets, shape.n_classes, self.l2);
        let problem =
            StochasticProblem { session: &mut *session, start: &start, l2: self.l2, intercept: self.intercept };
        let (reason, last, first_step) = solver.minimise(problem, learning_rate, self.seed, &mut observer)?;
        let Outcome { parameters, epochs, reason, best_epoch } = observer.finish(reason, last);
        let (preparation, training) = (first_step - begin, first_step.elapsed());

        let train = evaluate(&mut *session, targets, &parameters)?;
        let objective = train.log_loss + objective::penalty(self.l2, &parameters);
        let validation = match &mut watched {
            Some((session, labels)) => Some(evaluate(&mut **session, labels.targets(), &parameters)?),
            None => None,
        };

        let mut settings = solver.to_json();
        settings["epochs"] = epochs.len().into();
        settings["learning_rate"] = learning_rate.into();
        settings["intercept"] = self.intercept.into();
        settings["reason"] = reason.to_string().into();
        if let (Some(epoch), Some(validation)) = (best_epoch, &validation) {
            settings["best_epoch"] = epoch.into();
            settings["validation_loss"] = validation.log_loss.into();
        }
        let record = Training {
            solver: self.solver.name().to_owned(),
            device: self.device.info().name.clone(),
            n_samples: data.n_samples(),
            settings,
            l2: self.l2,
            seed: self.seed,
            feature_scale: f64::from(scale),
            train_loss: train.log_loss,
            train_accuracy: train.accuracy,
            objective,
        };
        let feature_names = data.feature_names().or_else(|| init?.feature_names()).map(<[String]>::to_vec);
        let model = Model::from_training(&parameters, scale, classes, feature_names, record);
        Ok(Fit {
            model,
            train,
            objective,
            epochs,
            reason,
            best_epoch,
            validation,
            learning_rate,
            feature_scale: f64::from(scale),
            preparation,
            training,
        })
    }
}

/// The labels of a data set as numbers of these classes.
fn with_classes<'d>(data: &'d Dataset, classes: &[String]) -> Result<Cow<'d, Labels<'d>>> {
    if data.classes() == classes {
        Ok(Cow::Borrowed(data.labels()))
    } else {
        data.labels().with_classes(classes).map(Cow::Owned)
    }
}

/// Those parameters on the data of a session.
fn evaluate(session: &mut dyn Session, targets: &Targets, parameters: &Parameters) -> Result<Evaluation> {
    let mut evaluator = Evaluator::new(targets, parameters.shape.n_outputs());
    session.logits(parameters, &mut |rows, logits| {
        evaluator.add(rows, logits);
        Ok(())
    })?;
    Ok(evaluator.finish())
}
