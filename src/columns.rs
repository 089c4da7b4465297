//! Sparse features that do not occur in the training data are left out of the training: their weights are 0, and hashed features
//! may be many times those that occur.

use crate::data::{Features, Values};
use crate::error::Result;
use crate::model::Model;

/// The features that a training has to do with, ascending.
pub(crate) struct Columns {
    n_features: usize,
    kept: Vec<u32>,
}

impl Columns {
    /// Those that have a value other than 0, and others that must be `kept`. Nothing where these are all, or where all are stored.
    pub fn of(features: &Features, is_kept: impl Fn(usize) -> bool) -> Option<Self> {
        let Values::Sparse(csr) = features.values() else { return None };
        let n_features = features.n_features();
        let mut occurs = vec![false; n_features];
        for (&column, _) in csr.columns().iter().zip(csr.values()).filter(|(_, value)| **value != 0.0) {
            occurs[column as usize] = true;
        }
        let mut kept: Vec<u32> = (0..n_features).filter(|&k| occurs[k] || is_kept(k)).map(|k| k as u32).collect();
        if kept.is_empty() {
            kept.push(0);
        }
        (kept.len() < n_features).then_some(Self { n_features, kept })
    }

    /// The numbers of the features that are kept.
    pub fn kept(&self) -> &[u32] {
        &self.kept
    }

    /// Of values for each feature those of the features that are kept.
    pub fn pick<T: Clone>(&self, values: &[T]) -> Vec<T> {
        self.kept.iter().map(|&k| values[k as usize].clone()).collect()
    }

    /// The model of all features: the others have weights 0.
    pub fn spread(&self, model: &Model, feature_names: Option<Vec<String>>) -> Result<Model> {
        model.spread(self.n_features, &self.kept, feature_names)
    }
}
