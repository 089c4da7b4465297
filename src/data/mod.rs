//! Data: files and arrays become a [`Dataset`], which is checked once, here, and trusted from here on.

mod digits;
mod features;
#[cfg(feature = "files")]
mod files;
mod labels;
mod read_at;
mod sparse;
mod stored;
mod weights;

pub use digits::digits;
pub use features::{Dtype, Features, Values};
#[cfg(feature = "files")]
pub use files::{
    Categorical, ClassCounts, Figures, Findings, Inspection, MAX_CATEGORIES, Reading, Rounding, Source, Table,
    TextColumn, inspect, read, read_numbers, read_with,
};
pub use labels::{Labels, MAX_CLASSES, Targets};
pub(crate) use labels::{argmax, check_classes, check_unique};
pub use sparse::Csr;
pub(crate) use stored::RowBuffer;
pub use stored::Stored;
pub use weights::SampleWeights;

use std::borrow::Cow;
use std::ops::Range;

use crate::batch::Shuffle;
use crate::error::{Error, Place, Result};

/// Samples with their labels: features X, (n_samples × n_features), the class of each sample, and how much each counts.
#[derive(Debug, Clone)]
pub struct Dataset<'a> {
    features: Features<'a>,
    labels: Labels<'a>,
    weights: Option<Cow<'a, [f32]>>,
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
        Ok(Self { features, labels, weights: None, feature_names: None })
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

    /// The same data set with a weight for each sample, at least 0: the loss is Σ_i s_i·ℓ_i, s the weights over their sum,
    /// in training and in [`Evaluation`](crate::Evaluation). A sample of weight 0 counts as if it were not there, one of
    /// weight 2 as if it were there twice.
    ///
    /// ```
    /// # use softreg::{Dataset, Features, Labels};
    /// let labels = Labels::from_names(&["spam", "ham", "spam"])?;
    /// let data = Dataset::new(Features::new(vec![0.0f32, 1.0, 0.1], 3, 1)?, labels)?.with_weights(vec![1.0, 2.5, 0.0])?;
    /// assert_eq!(data.weights(), Some(&[1.0, 2.5, 0.0][..]));
    /// # Ok::<(), softreg::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not as many weights as samples; [`Error::Weight`] with the row of the first that is
    /// negative, NaN or infinite, and when all are 0.
    pub fn with_weights(mut self, weights: impl Into<SampleWeights<'a>>) -> Result<Self> {
        self.weights = Some(weights.into().checked(self.n_samples())?);
        Ok(self)
    }

    /// The same samples with these classes, which have all that the data has.
    ///
    /// # Errors
    /// [`Error::UnknownLabel`] with the first row whose label `classes` does not have.
    pub(crate) fn with_classes(&self, classes: &[String]) -> Result<Dataset<'_>> {
        Ok(Dataset {
            features: self.features.rows(0..self.n_samples())?,
            labels: self.labels.with_classes(classes)?,
            feature_names: self.feature_names.clone(),
            weights: self.weights.clone(),
        })
    }

    /// The same samples with only the features `kept`, ascending.
    pub(crate) fn of_columns(&self, kept: &[u32]) -> Result<Dataset<'_>> {
        let names = self.feature_names.as_ref();
        Ok(Dataset {
            features: self.features.of_columns(kept)?,
            labels: self.labels.clone(),
            feature_names: names.map(|names| kept.iter().map(|&k| names[k as usize].clone()).collect()),
            weights: self.weights.clone(),
        })
    }

    /// Divides the samples at random: (training part, test part). The test part has `fraction` of the samples, rounded,
    /// and both have at least one. Both keep all classes, also those of which they have no sample, and their samples'
    /// weights. The same seed gives the same division.
    ///
    /// # Errors
    /// [`Error::Setting`] when the fraction is not between 0 and 1, or leaves a part without a sample; [`Error::Weight`] when
    /// all samples of a part have the weight 0.
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
        train.sort_unstable();
        test.sort_unstable();
        Ok((self.select(train)?, self.select(test)?))
    }

    /// A copy of the samples that `indices` names, in that order; of features that stay in their file nothing is copied.
    ///
    /// # Errors
    /// [`Error::Shape`] when an index is past the end, [`Error::Empty`] when there are none, [`Error::Weight`] when the weights of all
    /// are 0.
    pub fn select(&self, indices: &[u32]) -> Result<Dataset<'static>> {
        let selected = Dataset {
            features: self.features.select(indices)?,
            labels: self.labels.select(indices)?,
            weights: None,
            feature_names: self.feature_names.clone(),
        };
        let of_selected = |weights: &[f32]| indices.iter().map(|&row| weights[row as usize]).collect::<Vec<_>>();
        match self.weights.as_deref().map(of_selected) {
            Some(weights) => selected.with_weights(weights),
            None => Ok(selected),
        }
    }

    /// The samples in `rows`, whose features are a view.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Result<Dataset<'_>> {
        let indices: Vec<u32> = rows.clone().map(|row| row as u32).collect();
        let weights = self.weights.as_deref().and_then(|weights| weights.get(rows.clone()));
        let of_rows = Dataset {
            features: self.features.rows(rows)?,
            labels: self.labels.select(&indices)?,
            weights: None,
            feature_names: self.feature_names.clone(),
        };
        match weights {
            Some(weights) => of_rows.with_weights(weights),
            None => Ok(of_rows),
        }
    }

    /// The feature matrix.
    pub fn features(&self) -> &Features<'a> {
        &self.features
    }

    /// The labels.
    pub fn labels(&self) -> &Labels<'a> {
        &self.labels
    }

    /// The weights of the samples, as they were given; none when all count the same.
    pub fn weights(&self) -> Option<&[f32]> {
        self.weights.as_deref()
    }

    /// How much the samples of each class count together, (n_classes): Σ_i w_i·y_ij, without weights and soft labels the
    /// number of samples. 0 for a class that has none, or only such of weight 0.
    pub fn class_totals(&self) -> Vec<f64> {
        self.labels.targets().class_totals(self.weights(), self.n_classes())
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
