//! Calibration: logits scaled so that probabilities agree with data that the model was not trained on. The scaling goes into W
//! and b, so that prediction takes no more time and every reader of the file has calibrated probabilities; the record of the
//! training says what it was.

use serde_json::{Value, json};

use super::{Model, Predictor};
use crate::backend::{Device, Weights};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::metrics::{Evaluation, Evaluator};
use crate::solver::Held;
use crate::structure::Structure;

/// How a model is calibrated (Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks"), o being the
/// logits of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Calibration {
    /// Temperature scaling: p = softmax(o / T), with the one T > 0 that minimises the mean cross-entropy of the validation data. The
    /// order of the classes, and so the accuracy, stays as it is, but for logits that are the same to rounding.
    #[default]
    Temperature,
    /// Vector scaling: p = softmax(a ⊙ o + c), a factor and an offset for each class, which may change predictions and can repair
    /// shares of classes that are not those of the training data. It needs some samples of each class.
    ///
    /// It minimises, over α and c with a = α/T, T the temperature of the above, the mean cross-entropy + (‖α − 1‖² + ‖c‖²)/(2m),
    /// with m samples, of unequal weights w (Σw)²/Σw²: as if α and c were normal around 1 and 0, with variance 1, before the data
    /// was seen. Without that, a class of which the validation data has no sample, or none that is mistaken for another, would have no
    /// best a and c. The loss is never above that of temperature scaling. A constant added to all logits of a sample, which changes
    /// no probability, does change this scaling; softreg trains models whose logits have about mean 0 over the classes.
    Vector,
}

/// What the logits of a model were scaled by.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Scaling {
    /// o / T.
    Temperature(f64),
    /// a ⊙ o + c.
    Vector {
        /// a, (n_classes).
        factors: Vec<f64>,
        /// c, (n_classes), in nats.
        offsets: Vec<f64>,
    },
}

impl Scaling {
    /// What the logit of a class is multiplied by, and what is added to it.
    fn of_class(&self, class: usize) -> [f64; 2] {
        match self {
            Self::Temperature(temperature) => [1.0 / temperature, 0.0],
            Self::Vector { factors, offsets } => [factors[class], offsets[class]],
        }
    }

    /// W·diag(a) and a ⊙ b + c; nothing where the structure of W does not have such a W.
    fn fold(&self, weights: &Weights) -> Option<Weights> {
        let q = weights.shape().n_classes;
        // Rows of q values: W and b of dense weights, V and b of U·V; of the others b alone, the rest has the temperature.
        let (mut values, n_others) = (
            weights.values().to_vec(),
            match weights {
                Weights::Dense(_) => 0,
                Weights::Factored(factored) => {
                    let [first, second, _] = factored.factors().parts();
                    match (weights.structure(), self) {
                        (Structure::LowRank { .. }, _) => first.len(),
                        (_, Self::Temperature(_)) => first.len() + second.len(),
                        _ => return None,
                    }
                }
            },
        );
        let n_bias = values.len() - q;
        for (index, value) in values.iter_mut().enumerate().skip(n_others) {
            let [factor, offset] = self.of_class((index - n_others) % q);
            let offset = if index < n_bias { 0.0 } else { offset };
            *value = (factor * f64::from(*value) + offset) as f32;
        }
        let scaled = weights.with_values(values);
        Some(match self {
            Self::Temperature(temperature) if n_others == n_bias => scaled.scaled((1.0 / temperature) as f32),
            _ => scaled,
        })
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Temperature(temperature) => json!({ "method": "temperature", "temperature": temperature }),
            Self::Vector { factors, offsets } => json!({ "method": "vector", "factors": factors, "offsets": offsets }),
        }
    }
}

/// A calibrated model, and what calibration changed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Calibrated {
    /// The model with the scaling in its weights and intercept.
    pub model: Model,
    /// The scaling.
    pub scaling: Scaling,
    /// The figures of the validation data before.
    pub before: Evaluation,
    /// And with the calibrated model. They flatter a little, as the scaling was chosen by this data.
    pub after: Evaluation,
}

impl Model {
    /// The same model with its logits scaled so that its probabilities agree with `validation`, data that it was not trained on:
    /// on its training data a model is right too often to tell. Weights of the samples count.
    ///
    /// The scaling goes into the weights: W·diag(a) and a ⊙ b + c in the place of W and b, for a temperature a = 1/T and c = 0, rounded
    /// to single precision. [`Model::training`] keeps the scaling in the list `calibrations`, with the figures of the validation data
    /// before and after, so that the model from before can be had back to that rounding. A model may be calibrated again.
    ///
    /// ```
    /// use softreg::{Calibration, Scaling, SoftmaxRegression, data};
    /// let (train, rest) = data::digits()?.split(0.4, 0)?;
    /// let (validation, test) = rest.split(0.5, 0)?;
    /// // Without a penalty a model becomes too sure of itself.
    /// let model = SoftmaxRegression::new().l2(1e-8).fit(&train)?.model;
    /// let calibrated = model.calibrate(&validation, Calibration::Temperature)?;
    /// assert!(matches!(calibrated.scaling, Scaling::Temperature(t) if t > 1.0));
    /// assert!(calibrated.model.evaluate(&test)?.log_loss < model.evaluate(&test)?.log_loss);
    /// # Ok::<(), softreg::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Model::evaluate`]; [`Error::Calibration`] when there are fewer than two samples, when no temperature is best (all samples
    /// are predicted rightly, or the model knows nothing of the labels), or when the scaled weights are too large for `f32`;
    /// [`Error::OutOfMemory`] when there is none for the logits, n_samples × n_classes.
    pub fn calibrate(&self, validation: &Dataset, calibration: Calibration) -> Result<Calibrated> {
        self.on(&Device::cpu()).calibrate(validation, calibration)
    }

    /// Adds a calibration to what the model's file says of its training.
    fn record_calibration(&mut self, scaling: &Scaling, is_weighted: bool, before: &Evaluation, after: &Evaluation) {
        let mut record = scaling.to_json();
        record["softreg_version"] = env!("CARGO_PKG_VERSION").into();
        record["n_samples"] = before.n_samples.into();
        record["sample_weights"] = is_weighted.into();
        record["before"] = figures(before);
        record["after"] = figures(after);
        if !self.training.is_object() {
            self.training = json!({});
        }
        match &mut self.training["calibrations"] {
            Value::Array(records) => records.push(record),
            other => *other = json!([record]),
        }
    }
}

impl Predictor<'_> {
    /// See [`Model::calibrate`]; logits are computed on the device, the scaling on the CPU.
    ///
    /// # Errors
    /// As there, and those of the device.
    pub fn calibrate(&self, validation: &Dataset, calibration: Calibration) -> Result<Calibrated> {
        let (model, q) = (self.model, self.model.n_classes());
        let labels = validation.labels().with_classes(model.classes())?;
        let logits = self.decision_function(validation.features())?;
        // In the order of the rows, as it was made.
        let logits = logits.as_slice().unwrap_or_default();
        let held = Held::new(logits, q, labels.targets(), validation.weights())?;
        let scaling = match calibration {
            Calibration::Temperature => Scaling::Temperature(1.0 / held.inverse_temperature()?),
            Calibration::Vector => {
                let (factors, offsets) = held.vector()?;
                Scaling::Vector { factors, offsets }
            }
        };
        let weights = scaling.fold(&model.weights).ok_or_else(|| Error::Calibration {
            problem: format!(
                "a factor for each class does not keep the structure of the weights, {}: take the temperature, or first make them \
                 dense (Model::to_dense, softreg convert --to dense)",
                model.structure()
            ),
        })?;
        if weights.values().iter().any(|value| !value.is_finite()) {
            return Err(Error::Calibration {
                problem:
                    "the scaled weights are too large for single precision; take more samples, which the model was not \
                          trained on"
                        .to_owned(),
            });
        }
        let mut calibrated = Model { weights, ..model.clone() };
        let mut evaluator = Evaluator::new(labels.targets(), validation.weights(), q);
        evaluator.add(0..labels.n_samples(), logits);
        let before = evaluator.finish();
        // Of the model as it will be used, with its weights rounded.
        let after = calibrated.on(self.device).evaluate(validation)?;
        calibrated.record_calibration(&scaling, validation.weights().is_some(), &before, &after);
        Ok(Calibrated { model: calibrated, scaling, before, after })
    }
}

fn figures(evaluation: &Evaluation) -> Value {
    json!({
        "log_loss": evaluation.log_loss,
        "accuracy": evaluation.accuracy,
        "brier_score": evaluation.brier_score,
        "calibration_error": evaluation.calibration_error,
    })
}
