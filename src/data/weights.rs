//! Weights of samples: how much each counts.

use std::borrow::Cow;

use crate::error::{Error, Place, Result};

/// How much each sample counts in the loss, in `f32`: only the ratios of weights matter, whatever their sum.
///
/// Made from vectors or slices of `f32`, which are taken or borrowed as they are, or of `f64`, which are rounded. See
/// [`Dataset::with_weights`](super::Dataset::with_weights), which checks them.
#[derive(Debug, Clone)]
pub struct SampleWeights<'a>(Cow<'a, [f32]>);

impl<'a> From<&'a [f32]> for SampleWeights<'a> {
    fn from(weights: &'a [f32]) -> Self {
        Self(Cow::Borrowed(weights))
    }
}

impl<'a> From<&'a Vec<f32>> for SampleWeights<'a> {
    fn from(weights: &'a Vec<f32>) -> Self {
        Self(Cow::Borrowed(weights))
    }
}

impl From<Vec<f32>> for SampleWeights<'_> {
    fn from(weights: Vec<f32>) -> Self {
        Self(Cow::Owned(weights))
    }
}

impl From<&[f64]> for SampleWeights<'_> {
    fn from(weights: &[f64]) -> Self {
        Self(weights.iter().map(|&weight| weight as f32).collect())
    }
}

impl From<&Vec<f64>> for SampleWeights<'_> {
    fn from(weights: &Vec<f64>) -> Self {
        weights.as_slice().into()
    }
}

impl From<Vec<f64>> for SampleWeights<'_> {
    fn from(weights: Vec<f64>) -> Self {
        weights.as_slice().into()
    }
}

impl<'a> SampleWeights<'a> {
    /// The weights of `n_samples` samples, each at least 0 and finite, and not all 0.
    pub(super) fn checked(self, n_samples: usize) -> Result<Cow<'a, [f32]>> {
        let Self(weights) = self;
        if weights.len() != n_samples {
            return Err(Error::Shape {
                what: "weights (one for each sample)".to_owned(),
                expected: n_samples,
                found: weights.len(),
            });
        }
        if let Some(row) = weights.iter().position(|weight| !(*weight >= 0.0 && weight.is_finite())) {
            let problem = match weights[row] {
                weight if weight.is_infinite() && weight > 0.0 => {
                    "the weight is inf, or too large for single precision; divide all weights by one number".to_owned()
                }
                weight => format!("the weight is {weight}"),
            };
            return Err(Error::Weight { place: Place::row(row + 1), problem });
        }
        // Below it, weights have lost their digits.
        if !weights.iter().any(|&weight| weight >= f32::MIN_POSITIVE) {
            let problem = if weights.iter().all(|&weight| weight == 0.0) {
                "every weight is 0, so that no sample counts"
            } else {
                "all are below the smallest number of single precision; multiply all by one number"
            };
            return Err(Error::Weight { place: Place::default(), problem: problem.to_owned() });
        }
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(weights: impl Into<SampleWeights<'static>>) -> String {
        weights.into().checked(3).unwrap_err().to_string()
    }

    #[test]
    fn weights_are_finite_not_negative_and_not_all_zero() {
        for (bad, text) in [(-1.0, "row 2: sample weights"), (f64::NAN, "the weight is NaN"), (f64::INFINITY, "row 2")]
        {
            let found = error(vec![1.0, bad, 0.0]);
            assert!(found.contains(text) && found.contains("row 2"), "{found}");
        }
        assert!(error(vec![0.0f32; 3]).contains("every weight is 0"));
        assert!(error(vec![0.0, 1e-300, 0.0]).contains("every weight is 0"));
        assert!(error(vec![0.0, 1e-41, 0.0]).contains("multiply all by one number"));
        assert!(error(vec![0.0, 1e39, 0.0]).contains("too large for single precision"));
        assert!(error(vec![1.0f32; 2]).contains("expected 3, found 2"));
        // Negative zero is zero.
        assert!(SampleWeights::from(vec![0.0f64, 2.5, -0.0]).checked(3).is_ok());
    }

    #[test]
    fn single_precision_is_borrowed() {
        let weights = [1.0f32, 0.0, 2.0];
        assert!(matches!(SampleWeights::from(&weights[..]).checked(3), Ok(Cow::Borrowed(_))));
    }
}
