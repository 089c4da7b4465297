//! Predictions of a model on a device.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::Array2;

use super::{Model, check_logits, is_finite, log_softmax_in_place, not_finite};
use crate::backend::{Device, NOT_FINITE, Parameters, Session, cpu};
use crate::data::{Dataset, Features};
use crate::error::{Error, Result};
use crate::metrics::{Evaluation, Evaluator};

/// A model that predicts on a device; see [`Model::on`].
#[derive(Debug, Clone, Copy)]
pub struct Predictor<'a> {
    pub(super) model: &'a Model,
    pub(super) device: &'a Device,
}

/// (n_rows × n_columns) zeros, if there is room for them.
fn zeros(n_rows: usize, n_columns: usize) -> Result<Vec<f32>> {
    let n_values = n_rows.saturating_mul(n_columns);
    let mut values = Vec::new();
    values
        .try_reserve_exact(n_values)
        .map_err(|_| Error::out_of_memory("the predictions", n_values, size_of::<f32>()))?;
    values.resize(n_values, 0.0);
    Ok(values)
}

impl Predictor<'_> {
    /// Calls `each` with a session for each portion of the samples, its rows, and the parameters that make logits of what the session
    /// has: the features and W, or where W = U·V takes fewer multiplications so X·U and V.
    fn portions(
        &self,
        features: &Features,
        mut each: impl FnMut(Range<usize>, &mut dyn Session, &Parameters) -> Result<()>,
    ) -> Result<()> {
        /// Samples are predicted about so many bytes at a time, so that a device needs no room for all.
        const PORTION: usize = 256 << 20;
        self.model.check_width(features.n_features())?;
        let factors = self.model.weights.two_products();
        let mut start = 0;
        while start < features.n_samples() {
            let rows = start..features.end_of_rows(start, PORTION);
            start = rows.end;
            let portion = features.rows(rows.clone())?;
            let mut session = self.device.session(&portion, 1.0, None)?;
            match &factors {
                None => each(rows, &mut *session, self.model.weights.dense())?,
                Some([u, v]) => {
                    let rank = u.shape.n_classes;
                    let mut product = zeros(rows.len(), rank)?;
                    session.logits_into(u, &mut product, &|_, _| {})?;
                    if let Some(at) = product.iter().position(|value| !value.is_finite()) {
                        return Err(not_finite(rows.start + at / rank));
                    }
                    let product = Features::new(product, rows.len(), rank)?;
                    each(rows, &mut *self.device.session(&product, 1.0, None)?, v)?;
                }
            }
        }
        Ok(())
    }

    fn each_row(&self, features: &Features, transform: impl Fn(&mut [f32]) + Sync) -> Result<Array2<f32>> {
        self.model.check_width(features.n_features())?;
        let shape = (features.n_samples(), self.model.n_classes());
        let mut values = zeros(shape.0, shape.1)?;
        let n_values = values.len();
        self.portions(features, |rows, session, parameters| {
            let bad = AtomicUsize::new(usize::MAX);
            let out = &mut values[rows.start * shape.1..rows.end * shape.1];
            session.logits_into(parameters, out, &|first, logits| {
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
        self.portions(features, |rows, session, parameters| {
            let classes = &mut classes[rows.clone()];
            session.classes(parameters, classes)?;
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
        self.portions(data.features(), |portion, session, parameters| {
            session.logits(parameters, &mut |rows, logits| {
                let rows = portion.start + rows.start..portion.start + rows.end;
                check_logits(rows.start, self.model.n_classes(), logits)?;
                evaluator.add(rows, logits);
                Ok(())
            })
        })?;
        Ok(evaluator.finish())
    }
}
