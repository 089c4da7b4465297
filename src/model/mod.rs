//! The fitted classifier: predict, save and load. It needs no GPU.

mod calibration;
mod file;
mod predictor;
mod start;

pub use calibration::{Calibrated, Calibration, Scaling};
pub use predictor::Predictor;

use ndarray::{Array2, ArrayView1, ArrayView2};
use serde_json::{Value, json};

use crate::backend::{Device, Parameters, Shape, Weights, cpu};
use crate::data::{Dataset, Features, argmax, check_classes};
use crate::error::{Error, Place, Result};
use crate::metrics::Evaluation;
use crate::structure::{Factors, Parametrisation, Structure};

/// A fitted softmax regression: P = softmax(X·W + b), the features X as they were given to training, not scaled. Where W is made of
/// fewer numbers ([`Structure`]) the model and its file keep these. Predictions with W = U·V are x·U·V where that takes fewer
/// multiplications, r·(d + q) in the place of d·q; a sum of Kronecker products takes as many as W, which is formed once, but where W is
/// too large for a processor's cache predictions of single samples read the factors, fewer bytes.
///
/// ```
/// use softreg::{SoftmaxRegression, Model, data};
/// # let folder = std::env::temp_dir().join(format!("softreg-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder).unwrap();
/// # let path = folder.join("digits.safetensors");
/// let digits = data::digits()?;
/// let model = SoftmaxRegression::new().fit(&digits)?.model;
/// model.save(&path)?;
/// let model = Model::load(&path)?;
/// let classes = model.predict(digits.features())?;
/// println!("the first image shows a {}", model.classes()[classes[0]]);
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok::<(), softreg::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    weights: Weights,
    classes: Vec<String>,
    feature_names: Option<Vec<String>>,
    /// What trained it, as the file has it: kept whole, so that a newer softreg's records survive load and save.
    training: Value,
}

/// What trained a model, for its file.
#[derive(Debug, Clone)]
pub(crate) struct Training {
    pub solver: String,
    pub device: String,
    pub n_samples: usize,
    /// The solver's own settings, an object.
    pub settings: Value,
    pub l2: f64,
    pub l1: f64,
    pub seed: u64,
    pub feature_scale: f64,
    /// Whether the samples had weights.
    pub is_weighted: bool,
    /// Null, `"balanced"`, or an object.
    pub class_weight: Value,
    pub label_smoothing: f64,
    pub train_loss: f64,
    pub train_accuracy: f64,
    pub objective: f64,
}

impl Training {
    fn to_json(&self) -> Value {
        json!({
            "softreg_version": env!("CARGO_PKG_VERSION"),
            "solver": self.solver,
            "device": self.device,
            "n_samples": self.n_samples,
            "settings": self.settings,
            "l2": self.l2,
            "l1": self.l1,
            "seed": self.seed,
            "feature_scale": self.feature_scale,
            "sample_weights": self.is_weighted,
            "class_weight": self.class_weight,
            "label_smoothing": self.label_smoothing,
            "train_loss": self.train_loss,
            "train_accuracy": self.train_accuracy,
            "objective": self.objective,
        })
    }
}

impl Model {
    /// A model from weights W, (n_features × n_classes), and intercept b, (n_classes), that something else has fitted.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes do not agree, [`Error::NotFinite`] when a value is NaN or infinite,
    /// [`Error::OneClass`] when there are fewer than two classes, [`Error::Duplicate`] when two have the same name.
    pub fn new(weights: ArrayView2<f32>, bias: ArrayView1<f32>, classes: Vec<String>) -> Result<Self> {
        let (n_features, n_classes) = weights.dim();
        for (what, found) in [("values of the intercept", bias.len()), ("columns of the weights", n_classes)] {
            if found != classes.len() {
                return Err(Error::Shape { what: what.to_owned(), expected: classes.len(), found });
            }
        }
        if n_classes < 2 {
            return Err(Error::OneClass {
                place: Place::default(),
                class: classes.into_iter().next().unwrap_or_default(),
            });
        }
        let values: Vec<f32> = weights.iter().chain(bias.iter()).copied().collect();
        check_classes(&classes)?;
        // The same check as that of data: finite, at least one feature.
        Features::new(&values[..n_features * n_classes], n_features, n_classes)?;
        Features::new(&values[n_features * n_classes..], 1, n_classes)?;
        let parameters = Parameters { shape: Shape { n_features, n_classes, n_heads: 1 }, values };
        Ok(Self { weights: parameters.into(), classes, feature_names: None, training: json!({}) })
    }

    pub(crate) fn from_training(
        weights: &Weights,
        scale: f32,
        classes: Vec<String>,
        feature_names: Option<Vec<String>>,
        training: Training,
    ) -> Self {
        Self { weights: weights.scaled(scale), classes, feature_names, training: training.to_json() }
    }

    /// Adds loss and accuracy on test data to what the model's file says of its training.
    pub fn record_test(&mut self, test: &Evaluation) {
        if let Some(training) = self.training.as_object_mut() {
            training.insert("n_test_samples".to_owned(), test.n_samples.into());
            training.insert("test_loss".to_owned(), test.log_loss.into());
            training.insert("test_accuracy".to_owned(), test.accuracy.into());
        }
    }

    /// Adds to what the model's file says of its training whether the indices of its svmlight data counted from 0, so that other
    /// data is read the same way.
    pub fn record_zero_based(&mut self, zero_based: bool) {
        if let Some(training) = self.training.as_object_mut() {
            training.insert("zero_based".to_owned(), zero_based.into());
        }
    }

    /// What [`record_zero_based`](Self::record_zero_based) added.
    pub fn zero_based(&self) -> Option<bool> {
        self.training["zero_based"].as_bool()
    }

    /// Sets one of the solver's settings in what the model's file says of its training.
    pub(crate) fn record_setting(&mut self, name: &str, value: Value) {
        if let Some(settings) = self.training.get_mut("settings").and_then(Value::as_object_mut) {
            settings.insert(name.to_owned(), value);
        }
    }

    /// What the weights are made of.
    pub fn structure(&self) -> Structure {
        self.weights.structure()
    }

    /// The numbers that it has, the intercepts among them: (n_features + 1)·n_classes of dense weights.
    pub fn n_parameters(&self) -> usize {
        self.weights.values().len()
    }

    /// The same model with dense weights: W, formed of what it is made of in double precision and rounded once.
    #[must_use]
    pub fn to_dense(&self) -> Self {
        Self { weights: self.weights.dense().clone().into(), ..self.clone() }
    }

    /// The factors, where the weights are made of these.
    pub(crate) fn factors(&self, of: Parametrisation) -> Option<&Factors> {
        let Weights::Factored(factored) = &self.weights else { return None };
        Some(factored.factors()).filter(|factors| factors.parametrisation() == of)
    }

    /// W, (n_features × n_classes). Of structured weights it is formed once, and then kept.
    #[expect(clippy::expect_used, reason = "not of the input's doing")]
    pub fn weights(&self) -> ArrayView2<'_, f32> {
        let shape = (self.n_features(), self.n_classes());
        ArrayView2::from_shape(shape, self.weights.dense().weights())
            .expect("the sizes were checked when the model was made")
    }

    /// b, (n_classes).
    pub fn bias(&self) -> ArrayView1<'_, f32> {
        ArrayView1::from(self.weights.bias())
    }

    /// The names of the classes; predictions are indices into them.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The names of the features, when they are known.
    pub fn feature_names(&self) -> Option<&[String]> {
        self.feature_names.as_deref()
    }

    /// n_features, d.
    pub fn n_features(&self) -> usize {
        self.weights.shape().n_features
    }

    /// n_classes, q.
    pub fn n_classes(&self) -> usize {
        self.classes.len()
    }

    /// What trained the model, as a JSON object: solver and its settings, device, penalty, feature scale, loss and
    /// accuracy on the training data and, after [`Model::record_test`], on test data; after [`Model::calibrate`] also a list
    /// `calibrations`, the figures beside it being those from before.
    pub fn training(&self) -> &Value {
        &self.training
    }

    /// The logits x·W + b of one sample. Allocates nothing, but for the first of a model whose W is formed, and needs no GPU and no thread.
    ///
    /// # Errors
    /// [`Error::Width`] when the sample has another number of features, [`Error::Shape`] when `logits` has another
    /// length than there are classes, [`Error::Malformed`] when a logit is not finite.
    pub fn logits_into(&self, sample: &[f32], logits: &mut [f32]) -> Result<()> {
        self.check_width(sample.len())?;
        if logits.len() != self.n_classes() {
            return Err(Error::Shape {
                what: "the output (a value for each class)".to_owned(),
                expected: self.n_classes(),
                found: logits.len(),
            });
        }
        match &self.weights {
            Weights::Factored(factored) if factored.is_for_rows() => {
                cpu::logits_of_factors(factored.factors(), sample, logits);
            }
            weights => cpu::logits_of_row(weights.dense(), sample, logits),
        }
        check_logits(0, self.n_classes(), logits)
    }

    /// The class of one sample, and into `probabilities` that of each class. Allocates nothing and needs no GPU and no
    /// thread.
    ///
    /// # Errors
    /// As [`Model::logits_into`].
    pub fn predict_into(&self, sample: &[f32], probabilities: &mut [f32]) -> Result<usize> {
        self.logits_into(sample, probabilities)?;
        let class = argmax(probabilities);
        cpu::softmax_of_row(probabilities);
        Ok(class)
    }

    /// The same model, predicting on `device`.
    pub fn on<'a>(&'a self, device: &'a Device) -> Predictor<'a> {
        Predictor { model: self, device }
    }

    /// The index of the most probable class of each sample, the first among equals.
    ///
    /// # Errors
    /// [`Error::Width`] when the data has another number of features than the model, [`Error::Malformed`] with the row
    /// when a logit is not finite.
    pub fn predict(&self, features: &Features) -> Result<Vec<usize>> {
        self.on(&Device::cpu()).predict(features)
    }

    /// The probability of each class for each sample, (n_samples × n_classes).
    ///
    /// # Errors
    /// As [`Model::predict`].
    pub fn predict_proba(&self, features: &Features) -> Result<Array2<f32>> {
        self.on(&Device::cpu()).predict_proba(features)
    }

    /// The logarithm of the probability of each class for each sample, (n_samples × n_classes). Exact where a
    /// probability is too small for `f32`.
    ///
    /// # Errors
    /// As [`Model::predict`].
    pub fn predict_log_proba(&self, features: &Features) -> Result<Array2<f32>> {
        self.on(&Device::cpu()).predict_log_proba(features)
    }

    /// The logits X·W + b, (n_samples × n_classes).
    ///
    /// # Errors
    /// As [`Model::predict`].
    pub fn decision_function(&self, features: &Features) -> Result<Array2<f32>> {
        self.on(&Device::cpu()).decision_function(features)
    }

    /// Loss, accuracy and the other figures of [`Evaluation`] on `data`, whose labels are matched by name and whose weights
    /// count.
    ///
    /// # Errors
    /// As [`Model::predict`]; [`Error::UnknownLabel`] when the data has a label that the model does not know.
    pub fn evaluate(&self, data: &Dataset) -> Result<Evaluation> {
        self.on(&Device::cpu()).evaluate(data)
    }

    fn check_width(&self, data: usize) -> Result<()> {
        let model = self.n_features();
        if data == model { Ok(()) } else { Err(Error::Width { model, data }) }
    }
}

/// That logits (rows × n_classes) are finite; they are those of row `first` on.
fn check_logits(first: usize, n_classes: usize, logits: &[f32]) -> Result<()> {
    match logits.chunks(n_classes).position(|row| !is_finite(row)) {
        None => Ok(()),
        Some(row) => Err(not_finite(first + row)),
    }
}

fn is_finite(row: &[f32]) -> bool {
    // All are looked at, which takes less time than to stop at the first.
    row.iter().fold(true, |all, logit| all & logit.is_finite())
}

/// That the logits of a row, counted from 0, are not finite.
fn not_finite(row: usize) -> Error {
    Error::malformed(
        Place::row(row + 1),
        "the logits are not finite; the features are far outside the range that the model was trained on",
    )
}

/// log p_j = o_j − m − log Σ_k exp(o_k − m).
fn log_softmax_in_place(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let log_sum = row.iter().map(|value| (value - max).exp()).sum::<f32>().ln();
    for value in row.iter_mut() {
        *value = (*value - max) - log_sum;
    }
}
