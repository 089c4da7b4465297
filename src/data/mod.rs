//! Data: files and arrays become a [`Dataset`], which is checked once, here, and trusted from here on.

mod digits;
mod features;
#[cfg(feature = "files")]
mod files;
mod labels;

pub use digits::digits;
pub use features::{Dtype, Features, Values};
#[cfg(feature = "files")]
pub use files::{Source, Table, read};
pub use labels::{Labels, MAX_CLASSES, Targets};
pub(crate) use labels::{argmax, check_classes, check_unique};

use crate::batch::Shuffle;
use crate::error::{Error, Place, Result};

/// Samples with their labels: features X, (n_samples × n_features), and the class of each sample.
#[derive(Debug, Clone)]
pub struct Dataset<'a> {
    features: Features<'a>,
    labels: Labels<'a>,
    feature_names: Option<Vec<String>>,
}

impl<'a> Dataset<'a> {
    /// A data set from features and labels.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not as many labels as samples, [`Error::OneClass`] when there are fewer than two
    /// classes.
    pub fn new(features: Features<'a>, labels: Labels<'a>) -> Result<Self> {
        if labels.n_samples() != features.n_samples() {
            return Err(Error::Shape {
                what: "labels (one for each sample)".to_owned(),
                expected: features.n_samples(),
                found: labels.n_samples(),
            });
        }
        if labels.classes().len() < 2 {
            return Err(Error::OneClass {
                place: Place::default(),
                class: labels.classes().first().cloned().unwrap_or_default(),
            });
        }
        Ok(Self { features, labels, feature_names: None })
    }

    /// The same data set with the names of its features.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not as many names as features, [`Error::Duplicate`] when two are the same.
    pub fn with_feature_names(mut self, names: Vec<String>) -> Result<Self> {
        if names.len() != self.features.n_features() {
            return Err(Error::Shape {
                what: "feature names".to_owned(),
                expected: self.features.n_features(),
                found: names.len(),
            });
        }
        check_unique("feature", &names)?;
        self.feature_names = Some(names);
        Ok(self)
    }

    /// Divides the samples at random: (training part, test part). The test part has `fraction` of the samples, rounded,
    /// and both have at least one. Both keep all classes, also those of which they have no sample. The same seed gives
    /// the same division.
    ///
    /// # Errors
    /// [`Error::Setting`] when the fraction is not between 0 and 1, or leaves a part without a sample.
    pub fn split(&self, fraction: f64, seed: u64) -> Result<(Dataset<'static>, Dataset<'static>)> {
        let n = self.features.n_samples();
        let n_test = (n as f64 * fraction).round() as usize;
        if !(fraction > 0.0 && fraction < 1.0) || n_test == 0 || n_test >= n {
            return Err(Error::Setting {
                name: "the test fraction",
                value: fraction.to_string(),
                expected: "above 0 and below 1, with at least one sample on either side",
            });
        }
        let mut order: Vec<u32> = (0..n as u32).collect();
        // Another stream than that of the epochs, so that batches do not follow the division.
        Shuffle::new(seed, u64::MAX).shuffle(&mut order);
        let (test, train) = order.split_at_mut(n_test);
        let part = |indices: &mut [u32]| {
            indices.sort_unstable();
            Ok(Dataset {
                features: self.features.select(indices)?,
                labels: self.labels.select(indices)?,
                feature_names: self.feature_names.clone(),
            })
        };
        Ok((part(train)?, part(test)?))
    }

    /// The feature matrix.
    pub fn features(&self) -> &Features<'a> {
        &self.features
    }

    /// The labels.
    pub fn labels(&self) -> &Labels<'a> {
        &self.labels
    }

    /// The names of the classes, in the order of their numbers.
    pub fn classes(&self) -> &[String] {
        self.labels.classes()
    }

    /// The names of the features, when they are known.
    pub fn feature_names(&self) -> Option<&[String]> {
        self.feature_names.as_deref()
    }

    /// The number of samples, n.
    pub fn n_samples(&self) -> usize {
        self.features.n_samples()
    }

    /// The number of features, d.
    pub fn n_features(&self) -> usize {
        self.features.n_features()
    }

    /// The number of classes, q.
    pub fn n_classes(&self) -> usize {
        self.labels.classes().len()
    }
}
