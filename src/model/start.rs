//! A model as the start of a training.

use super::Model;
use crate::backend::{Parameters, Shape};
use crate::data::{Dataset, check_classes};
use crate::error::{Error, Result};
use crate::structure::Structure;

impl Model {
    /// The classes of a training on `data` that starts here, and its parameters for features times `scale`: first the
    /// model's classes, so that none is forgotten, then those new in the data, in their order. A new class has weights 0 and
    /// the mean of the model's intercepts. Where the columns of W sum to 0, as those of a minimum with a penalty do, that is
    /// the mean of the other logits for any sample: no prediction changes before the training.
    pub(crate) fn start(&self, data: &Dataset, scale: f32) -> Result<(Vec<String>, Parameters)> {
        self.check_features(data)?;
        let classes = self.classes_with(data.classes());
        check_classes(&classes)?;

        let (q, n_old) = (classes.len(), self.n_classes());
        let bias = self.weights.bias();
        let mean = bias.iter().map(|&b| f64::from(b)).sum::<f64>() / n_old as f64;
        let shape = Shape { n_features: self.n_features(), n_classes: q, n_heads: 1 };
        let mut values = vec![0.0; shape.n_parameters()];
        let rows = values.chunks_exact_mut(q).zip(self.weights.dense().values.chunks_exact(n_old));
        for (index, (row, old)) in rows.enumerate() {
            let is_intercept = index == shape.n_features;
            for (value, &w) in row.iter_mut().zip(old) {
                *value = if is_intercept { w } else { w / scale };
            }
            if is_intercept {
                row[n_old..].fill(mean as f32);
            }
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::Setting {
                name: "the feature scale",
                value: format!("{scale:e}"),
                expected: "larger, as the weights of the model to start from are too large for it",
            });
        }
        Ok((classes, Parameters { shape, values }))
    }

    /// The mean of models of the same classes and features; nothing of none, of others, of structured weights, and where it is not finite.
    pub(crate) fn mean(models: &[Self]) -> Option<Self> {
        let first = models.first()?;
        let is_alike = |model: &Self| {
            model.structure() == Structure::Dense
                && (model.n_features(), &model.classes) == (first.n_features(), &first.classes)
        };
        if !models.iter().all(is_alike) {
            return None;
        }
        let all: Vec<&[f32]> = models.iter().map(|model| &model.weights.dense().values[..]).collect();
        let n = models.len() as f64;
        let mean = |index: usize| (all.iter().map(|values| f64::from(values[index])).sum::<f64>() / n) as f32;
        let values: Vec<f32> = (0..first.weights.shape().n_parameters()).map(mean).collect();
        values
            .iter()
            .all(|value| value.is_finite())
            .then(|| Self { weights: Parameters { shape: first.weights.shape(), values }.into(), ..first.clone() })
    }

    /// That the data has as many features as the model, and of the same names where both know them.
    pub(crate) fn check_features(&self, data: &Dataset) -> Result<()> {
        self.check_width(data.n_features())?;
        if let (Some(model), Some(data)) = (&self.feature_names, data.feature_names())
            && let Some(index) = (0..model.len()).find(|&index| model[index] != data[index])
        {
            return Err(Error::FeatureName {
                column: index + 1,
                model: model[index].clone(),
                data: data[index].clone(),
            });
        }
        Ok(())
    }

    /// The same model with only the features `kept`, ascending.
    pub(crate) fn of_columns(&self, kept: &[u32]) -> Self {
        let (d, q, dense) = (self.n_features(), self.n_classes(), self.weights.dense());
        let rows = kept.iter().map(|&k| k as usize).chain([d]);
        let values = rows.flat_map(|row| &dense.values[row * q..][..q]).copied().collect();
        let shape = Shape { n_features: kept.len(), ..self.weights.shape() };
        let names = self.feature_names.as_ref();
        Self {
            weights: Parameters { shape, values }.into(),
            classes: self.classes.clone(),
            feature_names: names.map(|names| kept.iter().map(|&k| names[k as usize].clone()).collect()),
            training: self.training.clone(),
        }
    }

    /// The other way round: the model of `n_features` features, of which this one has those that are `kept`, and the others have
    /// weights 0.
    pub(crate) fn spread(&self, n_features: usize, kept: &[u32], feature_names: Option<Vec<String>>) -> Result<Self> {
        let q = self.n_classes();
        let shape = Shape { n_features, ..self.weights.shape() };
        let n_values = n_features.saturating_add(1).saturating_mul(q);
        let mut values = Vec::new();
        values
            .try_reserve_exact(n_values)
            .map_err(|_| Error::out_of_memory("the model", n_values, size_of::<f32>()))?;
        values.resize(n_values, 0.0);
        for (row, from) in
            kept.iter().map(|&k| k as usize).chain([n_features]).zip(self.weights.dense().values.chunks(q))
        {
            values[row * q..][..q].copy_from_slice(from);
        }
        Ok(Self {
            weights: Parameters { shape, values }.into(),
            classes: self.classes.clone(),
            feature_names,
            training: self.training.clone(),
        })
    }

    /// The classes, and after them those of `others` that are not among them.
    pub fn classes_with(&self, others: &[String]) -> Vec<String> {
        let known: std::collections::HashSet<&String> = self.classes.iter().collect();
        let new = others.iter().filter(|class| !known.contains(class));
        self.classes.iter().chain(new).cloned().collect()
    }

    /// What features were multiplied by in the training, if something is known of it.
    pub(crate) fn feature_scale(&self) -> Option<f64> {
        self.training.get("feature_scale")?.as_f64()
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, Array2};

    use super::*;

    #[test]
    fn a_mean_is_of_dense_models_that_are_alike() {
        let model = |value: f32, classes: [&str; 3]| {
            let weights = Array2::from_shape_fn((4, 3), |(i, j)| value * (1 + i + 3 * j) as f32);
            let bias = Array1::from_elem(3, value);
            Model::new(weights.view(), bias.view(), classes.map(str::to_owned).to_vec()).unwrap()
        };
        let (a, b) = (model(1.0, ["x", "y", "z"]), model(-3.0, ["x", "y", "z"]));
        assert_eq!(Model::mean(&[a.clone(), b.clone()]).unwrap().weights(), model(-1.0, ["x", "y", "z"]).weights());
        assert_eq!(Model::mean(std::slice::from_ref(&b)).unwrap().bias(), b.bias());
        assert!(Model::mean(&[]).is_none() && Model::mean(&[a.clone(), model(1.0, ["x", "z", "y"])]).is_none());
        // Sums of two of them are past single precision, their mean is not.
        let large = model(2e37, ["x", "y", "z"]);
        assert_eq!(Model::mean(&[large.clone(), large.clone()]).unwrap().weights(), large.weights());
    }
}
