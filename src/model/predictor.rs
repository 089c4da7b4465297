//! Predictions of a model on a device.

use ndarray::Array2;
use rayon::prelude::*;

use super::{Model, check_logits, log_softmax_in_place, not_finite};
use crate::backend::{Device, NOT_FINITE, Session, Sink, cpu};
use crate::data::{Dataset, Features};
use crate::error::{Error, Result};
use crate::metrics::{Evaluation, Evaluator};

/// Values of a portion of predictions for a thread.
const PARALLEL: usize = 1 << 14;

/// A model that predicts on a device; see [`Model::on`].
#[derive(Debug, Clone, Copy)]
pub struct Predictor<'a> {
    pub(super) model: &'a Model,
    pub(super) device: &'a Device,
}

impl Predictor<'_> {
    /// Calls `work` with the first row and a session for one portion of the samples after the other.
    fn each_portion(
        &self,
        features: &Features,
        mut work: impl FnMut(usize, &mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        /// Samples are predicted about so many bytes at a time, so that a device needs no room for all.
        const PORTION: usize = 256 << 20;
        self.model.check_width(features.n_features())?;
        let row_bytes = features.n_features() * features.values().dtype().size();
        let n_rows = (PORTION / row_bytes).max(1);
        for start in (0..features.n_samples()).step_by(n_rows) {
            let portion = features.rows(start..features.n_samples().min(start + n_rows))?;
            work(start, &mut *self.device.session(&portion, 1.0, None)?)?;
        }
        Ok(())
    }

    fn logits(&self, features: &Features, sink: &mut Sink) -> Result<()> {
        self.each_portion(features, |start, session| {
            session.logits(&self.model.parameters, &mut |rows, logits| {
                let rows = start + rows.start..start + rows.end;
                check_logits(rows.start, self.model.n_classes(), logits)?;
                sink(rows, logits)
            })
        })
    }

    fn each_row(&self, features: &Features, transform: impl Fn(&mut [f32]) + Sync) -> Result<Array2<f32>> {
        let n_classes = self.model.n_classes();
        let n_values = features.n_samples().checked_mul(n_classes).ok_or(Error::Shape {
            what: "values of the predictions".to_owned(),
            expected: usize::MAX,
            found: features.n_samples(),
        })?;
        let mut values = Vec::with_capacity(n_values);
        self.logits(features, &mut |_, logits| {
            let done = values.len();
            values.extend_from_slice(logits);
            // Rows in portions that are worth a thread.
            let portions = values[done..].par_chunks_mut((PARALLEL / n_classes).max(1) * n_classes);
            portions.for_each(|rows| rows.chunks_exact_mut(n_classes).for_each(&transform));
            Ok(())
        })?;
        let found = values.len();
        Array2::from_shape_vec((features.n_samples(), n_classes), values).map_err(|_| Error::Shape {
            what: "values of the predictions".to_owned(),
            expected: n_values,
            found,
        })
    }

    /// See [`Model::predict`].
    ///
    /// # Errors
    /// [`Error::Width`], and those of the device.
    pub fn predict(&self, features: &Features) -> Result<Vec<usize>> {
        let mut classes = vec![0; features.n_samples()];
        self.each_portion(features, |start, session| {
            let n_rows = session.chunks().last().map_or(0, |rows| rows.end);
            session.classes(&self.model.parameters, &mut classes[start..start + n_rows])
        })?;
        match classes.iter().position(|&class| class == NOT_FINITE) {
            None => Ok(classes.into_iter().map(|class| class as usize).collect()),
            Some(row) => Err(not_finite(row)),
        }
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
        let mut evaluator = Evaluator::new(labels.targets(), self.model.n_classes());
        self.logits(data.features(), &mut |rows, logits| {
            evaluator.add(rows, logits);
            Ok(())
        })?;
        Ok(evaluator.finish())
    }
}
