//! Predictions of a model on a device.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::Array2;

use super::{Model, check_logits, is_finite, log_softmax_in_place, not_finite};
use crate::backend::{Device, NOT_FINITE, Session, cpu};
use crate::data::{Dataset, Features};
use crate::error::{Error, Result};
use crate::metrics::{Evaluation, Evaluator};

/// A model that predicts on a device; see [`Model::on`].
#[derive(Debug, Clone, Copy)]
pub struct Predictor<'a> {
    pub(super) model: &'a Model,
    pub(super) device: &'a Device,
}

impl Predictor<'_> {
    /// Calls `each` with a session for each portion of the samples, and its rows.
    fn portions(
        &self,
        features: &Features,
        mut each: impl FnMut(Range<usize>, &mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        /// Samples are predicted about so many bytes at a time, so that a device needs no room for all.
        const PORTION: usize = 256 << 20;
        self.model.check_width(features.n_features())?;
        let mut start = 0;
        while start < features.n_samples() {
            let rows = start..features.end_of_rows(start, PORTION);
            start = rows.end;
            let portion = features.rows(rows.clone())?;
            each(rows, &mut *self.device.session(&portion, 1.0, None)?)?;
        }
        Ok(())
    }

    fn each_row(&self, features: &Features, transform: impl Fn(&mut [f32]) + Sync) -> Result<Array2<f32>> {
        self.model.check_width(features.n_features())?;
        let shape = (features.n_samples(), self.model.n_classes());
        let n_values = shape.0.saturating_mul(shape.1);
        let mut values = Vec::new();
        values
            .try_reserve_exact(n_values)
            .map_err(|_| Error::out_of_memory("the predictions", n_values, size_of::<f32>()))?;
        values.resize(n_values, 0.0);
        self.portions(features, |rows, session| {
            let bad = AtomicUsize::new(usize::MAX);
            let out = &mut values[rows.start * shape.1..rows.end * shape.1];
            session.logits_into(&self.model.parameters, out, &|first, logits| {
                for (row, logits) in logits.chunks_exact_mut(shape.1).enumerate() {
                    if is_finite(logits) {
                        transform(logits);
                    } else {
                        bad.fetch_min(rows.start + first + row, Ordering::Relaxed);
                    }
                }
            })?;
            match bad.into_inner() {
                usize::MAX => Ok(()),
                row => Err(not_finite(row)),
            }
        })?;
        // It has as many values as the shape says.
        Array2::from_shape_vec(shape, values).map_err(|_| Error::Shape {
            what: "values of the predictions".to_owned(),
            expected: n_values,
            found: n_values,
        })
    }

    /// See [`Model::predict`].
    ///
    /// # Errors
    /// [`Error::Width`], and those of the device.
    pub fn predict(&self, features: &Features) -> Result<Vec<usize>> {
        let mut classes = vec![0; features.n_samples()];
        self.portions(features, |rows, session| {
            let classes = &mut classes[rows.clone()];
            session.classes(&self.model.parameters, classes)?;
            match classes.iter().position(|&class| class == NOT_FINITE) {
                None => Ok(()),
                Some(row) => Err(not_finite(rows.start + row)),
            }
        })?;
        Ok(classes.into_iter().map(|class| class as usize).collect())
    }

    /// See [`Model::predict_proba`].
    ///
    /// # Errors
    /// As [`Predictor::predict`].
    pub fn predict_proba(&self, features: &Features) -> Result<Array2<f32>> {
        self.each_row(features, cpu::softmax_of_row)
    }

    /// See [`Model::predict_log_proba`].
    ///
    /// # Errors
    /// As [`Predictor::predict`].
    pub fn predict_log_proba(&self, features: &Features) -> Result<Array2<f32>> {
        self.each_row(features, log_softmax_in_place)
    }

    /// See [`Model::decision_function`].
    ///
    /// # Errors
    /// As [`Predictor::predict`].
    pub fn decision_function(&self, features: &Features) -> Result<Array2<f32>> {
        self.each_row(features, |_| {})
    }

    /// See [`Model::evaluate`].
    ///
    /// # Errors
    /// As [`Predictor::predict`]; [`Error::UnknownLabel`].
    pub fn evaluate(&self, data: &Dataset) -> Result<Evaluation> {
        self.model.check_width(data.n_features())?;
        let labels = data.labels().with_classes(self.model.classes())?;
        let mut evaluator = Evaluator::new(labels.targets(), data.weights(), self.model.n_classes());
        self.portions(data.features(), |portion, session| {
            session.logits(&self.model.parameters, &mut |rows, logits| {
                let rows = portion.start + rows.start..portion.start + rows.end;
                check_logits(rows.start, self.model.n_classes(), logits)?;
                evaluator.add(rows, logits);
                Ok(())
            })
        })?;
        Ok(evaluator.finish())
    }
}
