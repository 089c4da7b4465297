//! Training: [`SoftmaxRegression`] is the estimator, [`Fit`] what it gives.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::backend::{Device, Parameters, Session, Shape, Supervision};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::metrics::{Evaluation, Evaluator};
use crate::model::{Model, Training};
use crate::objective::{self, Penalty};
use crate::solver::{Batch, Certificate, Problem, Progress, Solver, StopReason};
use crate::weighting::{ClassWeight, Weighting};

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
    l1: f64,
    seed: u64,
    feature_scale: FeatureScale,
    class_weight: ClassWeight,
    label_smoothing: f64,
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
    /// The objective: Σ_i s_i·ℓ_i + (l2/2)·‖W‖², with W that of the scaled features, s all weights over their sum, and ℓ for
    /// labels as they were smoothed. Without class weights and smoothing the first term is `train.log_loss`.
    pub objective: f64,
    /// Each epoch, or each iteration of a batch solver.
    pub epochs: Vec<Progress>,
    /// Why training ended.
    pub reason: StopReason,
    /// The first step's size; none for batch solvers.
    pub learning_rate: Option<f64>,
    /// Products of a batch solver, X·W or Xᵀ·R, over all samples; two are an evaluation of loss and gradient.
    pub products: Option<usize>,
    /// How near the minimum a batch solver came.
    pub certificate: Option<Certificate>,
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
            l1: 0.0,
            seed: 0,
            feature_scale: FeatureScale::default(),
            class_weight: ClassWeight::default(),
            label_smoothing: 0.0,
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

    /// The factor of an l1 penalty, l1·‖W‖₁ beside that of l2, W that of the scaled features, the intercept not penalised. Weights
    /// that are not worth it become exactly 0. scikit-learn's C and l1_ratio correspond to l1 = l1_ratio/(C·n_samples) and
    /// l2 = (1 − l1_ratio)/(C·n_samples). For batch solvers.
    #[must_use]
    pub fn l1(mut self, l1: f64) -> Self {
        self.l1 = l1;
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

    /// Where to train.
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
        self.solver.check()?;
        for (name, penalty) in [("the penalty l2", self.l2), ("the penalty l1", self.l1)] {
            if !(penalty >= 0.0 && penalty.is_finite()) {
                let expected = "a finite number, at least 0";
                return Err(Error::Setting { name, value: penalty.to_string(), expected });
            }
        }
        if self.l1 > 0.0 && self.solver.is_stochastic() {
            let expected = "0 with this solver; L-BFGS has l1 penalties";
            return Err(Error::Setting { name: "the penalty l1", value: self.l1.to_string(), expected });
        }
        let begin = Instant::now();
        let scale = self.feature_scale.of(data.features().max_abs())?;
        let weighting = Weighting::new(data, &self.class_weight, self.label_smoothing)?;
        let supervision = weighting.supervision();
        let mut session = self.device.session(data.features(), scale, Some(supervision))?;

        let shape = Shape { n_features: data.n_features(), n_classes: data.n_classes(), n_heads: 1 };
        let trained = match &self.solver {
            Solver::Sgd(sgd) => {
                let learning_rate = sgd.first_rate(data, supervision, scale, self.l2);
                let start = Parameters::zeros(shape);
                let (parameters, epochs, first_step) =
                    sgd.minimise(&mut *session, &start, self.l2, learning_rate, self.seed, &mut on_epoch)?;
                Trained {
                    preparation: first_step - begin,
                    training: first_step.elapsed(),
                    parameters,
                    epochs,
                    reason: StopReason::Epochs,
                    learning_rate: Some(learning_rate),
                    products: None,
                    certificate: None,
                }
            }
            Solver::Lbfgs(lbfgs) => {
                self.batch(lbfgs.into(), data, supervision, scale, &mut *session, begin, &mut on_epoch)?
            }
            Solver::NewtonCg(newton) => {
                self.batch(newton.into(), data, supervision, scale, &mut *session, begin, &mut on_epoch)?
            }
        };
        let Trained { parameters, epochs, reason, learning_rate, products, certificate, preparation, training } =
            trained;

        let mut evaluator = Evaluator::new(data.labels().targets(), data.weights(), shape.n_classes);
        // The loss that was minimised, where it is another.
        let of_training = || Evaluator::new(supervision.targets, supervision.weights, shape.n_classes);
        let mut of_training = (!weighting.is_plain()).then(of_training);
        session.logits(&parameters, &mut |rows, logits| {
            if let Some(evaluator) = &mut of_training {
                evaluator.add(rows.clone(), logits);
            }
            evaluator.add(rows, logits);
            Ok(())
        })?;
        let train = evaluator.finish();
        let objective = match &certificate {
            Some(certificate) => certificate.objective,
            None => {
                let loss = of_training.map_or(train.log_loss, |evaluator| evaluator.finish().log_loss);
                loss + objective::penalty(self.l2, &parameters)
            }
        };

        let record = Training {
            solver: self.solver.name().to_owned(),
            device: self.device.info().name.clone(),
            n_samples: data.n_samples(),
            settings: self.solver.settings(epochs.len(), learning_rate),
            l2: self.l2,
            seed: self.seed,
            feature_scale: f64::from(scale),
            is_weighted: data.weights().is_some(),
            class_weight: self.class_weight.to_json(),
            label_smoothing: self.label_smoothing,
            train_loss: train.log_loss,
            train_accuracy: train.accuracy,
            objective,
        };
        let model = Model::from_training(&parameters, scale, data, record);
        Ok(Fit {
            model,
            train,
            objective,
            epochs,
            reason,
            learning_rate,
            products,
            certificate,
            feature_scale: f64::from(scale),
            preparation,
            training,
        })
    }

    /// Trains with a batch solver.
    fn batch(
        &self,
        solver: Batch,
        data: &Dataset,
        supervision: Supervision,
        scale: f32,
        session: &mut dyn Session,
        begin: Instant,
        on_iteration: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Trained> {
        let d = data.n_features();
        let problem = Problem {
            features: data.features(),
            scale,
            supervision,
            shape: Shape { n_features: d, n_classes: data.n_classes(), n_heads: 1 },
            penalty: Penalty { l2: vec![self.l2; d], l1: vec![self.l1; d] },
            has_intercept: true,
            start: None,
        };
        let mut on_iteration = |progress: &Progress| match on_iteration(progress) {
            ControlFlow::Continue(()) => ControlFlow::Continue(()),
            ControlFlow::Break(()) => ControlFlow::Break(StopReason::Caller),
        };
        let found = solver.minimise(session, &problem, &mut on_iteration)?;
        Ok(Trained {
            parameters: Parameters {
                shape: problem.shape,
                values: found.parameters.iter().map(|&value| value as f32).collect(),
            },
            epochs: found.iterations,
            reason: found.reason,
            learning_rate: None,
            products: Some(found.counts.products),
            certificate: Some(found.certificate),
            preparation: found.begin - begin,
            training: found.training,
        })
    }
}

/// What a solver gives, of whatever kind.
struct Trained {
    parameters: Parameters,
    epochs: Vec<Progress>,
    reason: StopReason,
    learning_rate: Option<f64>,
    products: Option<usize>,
    certificate: Option<Certificate>,
    preparation: Duration,
    training: Duration,
}
