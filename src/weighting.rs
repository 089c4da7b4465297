//! How much each sample counts in training, and towards what: weights of samples and of classes, label smoothing.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::backend::Supervision;
use crate::data::{Dataset, Targets};
use crate::error::{Error, Place, Result};

/// How much the classes count, beside the weights of the samples: sample i counts w_i·Σ_j y_ij·c_j, which for class numbers
/// is its weight times that of its class.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum ClassWeight {
    /// All the same: c = 1.
    #[default]
    None,
    /// All classes together count the same, however many samples they have: c_j = Σ_i w_i / (q·Σ_i w_i·y_ij), which without
    /// sample weights is n_samples / (q·n_j); q counts the classes that have samples. This is scikit-learn's `balanced`.
    Balanced,
    /// The weights of these classes by name; those not named count 1.
    Map(Vec<(String, f64)>),
}

impl ClassWeight {
    /// As JSON: null, `"balanced"`, or an object.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Balanced => "balanced".into(),
            Self::Map(weights) => {
                weights.iter().map(|(name, weight)| (name.clone(), (*weight).into())).collect::<Map<_, _>>().into()
            }
        }
    }

    /// The number of samples, or the sum of their weights with those of the classes.
    ///
    /// # Errors
    /// [`Error::ClassWeight`]; [`Error::Weight`] where the sum is 0 or too large.
    pub(crate) fn total(&self, data: &Dataset) -> Result<f64> {
        let total = match (self, data.weights()) {
            (Self::Map(_), _) => {
                let weights = self.of(data)?.unwrap_or_default();
                data.class_totals().iter().zip(weights).map(|(total, weight)| total * weight).sum()
            }
            // Balanced weights keep the sum.
            (_, Some(weights)) => weights.iter().map(|&weight| f64::from(weight)).sum(),
            (_, None) => data.n_samples() as f64,
        };
        if total > 0.0 && total.is_finite() { Ok(total) } else { Err(no_sum()) }
    }

    /// c, (n_classes); none when all are 1.
    fn of(&self, data: &Dataset) -> Result<Option<Vec<f64>>> {
        match self {
            Self::None => Ok(None),
            Self::Balanced => {
                let totals = data.class_totals();
                let present = totals.iter().filter(|total| **total > 0.0).count() as f64;
                let sum: f64 = totals.iter().sum();
                // No sample has the weight of a class without any.
                Ok(Some(totals.iter().map(|&t| if t > 0.0 { sum / (present * t) } else { 0.0 }).collect()))
            }
            Self::Map(weights) => named(weights, data.classes()).map(Some),
        }
    }
}

/// Weights by name, for these classes.
fn named(weights: &[(String, f64)], classes: &[String]) -> Result<Vec<f64>> {
    let error = |class: &str, problem: String| Err(Error::ClassWeight { class: class.to_owned(), problem });
    let numbers: HashMap<&str, usize> = classes.iter().map(String::as_str).zip(0..).collect();
    let mut all = vec![None; classes.len()];
    for (name, weight) in weights {
        let Some(&number) = numbers.get(name.as_str()) else {
            let mut known = classes.iter().take(5).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            if classes.len() > 5 {
                known.push_str(", …");
            }
            return error(name, format!("there is no such class; the {} classes are {known}", classes.len()));
        };
        if !(*weight >= 0.0 && weight.is_finite()) {
            return error(name, format!("it is {weight}, but must be finite and at least 0"));
        }
        if all[number].replace(*weight).is_some() {
            return error(name, "it is given twice".to_owned());
        }
    }
    Ok(all.into_iter().map(|weight| weight.unwrap_or(1.0)).collect())
}

/// What training is told of the samples beside their features.
pub(crate) struct Weighting<'d> {
    targets: Cow<'d, Targets<'d>>,
    weights: Option<Vec<f32>>,
    /// Whether the loss is that of the data set itself, without weights of classes and smoothing.
    is_plain: bool,
}

impl<'d> Weighting<'d> {
    /// Targets smoothed by `smoothing`, and the weights of samples and classes together.
    pub fn new(data: &'d Dataset<'d>, class_weight: &ClassWeight, smoothing: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&smoothing) {
            return Err(Error::Setting {
                name: "the label smoothing",
                value: smoothing.to_string(),
                expected: "at least 0 and below 1",
            });
        }
        let targets = data.labels().targets();
        let class_weights = class_weight.of(data)?;
        let weights = effective(data, class_weights.as_deref())?;
        let is_plain = class_weights.is_none() && smoothing == 0.0;
        let targets = match smoothing {
            0.0 => Cow::Borrowed(targets),
            _ => Cow::Owned(smoothed(targets, data.n_classes(), smoothing)?),
        };
        Ok(Self { targets, weights, is_plain })
    }

    pub fn supervision(&self) -> Supervision<'_> {
        Supervision { targets: &self.targets, weights: self.weights.as_deref() }
    }

    /// Whether the loss is that of the data set itself, without weights of classes and smoothing.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }
}

/// w_i·Σ_j y_ij·c_j over their mean; none when all are the same.
fn effective(data: &Dataset, class_weights: Option<&[f64]>) -> Result<Option<Vec<f32>>> {
    if data.weights().is_none() && class_weights.is_none() {
        return Ok(None);
    }
    let n = data.n_samples();
    let of_class = |row: usize| match (class_weights, data.labels().targets()) {
        (None, _) => 1.0,
        (Some(c), Targets::Classes(classes)) => c[classes[row] as usize],
        (Some(c), Targets::Distributions(values)) => {
            values[row * c.len()..][..c.len()].iter().zip(c).map(|(&y, c)| f64::from(y) * c).sum()
        }
    };
    let weight = |row: usize| data.weights().map_or(1.0, |weights| f64::from(weights[row])) * of_class(row);
    let all: Vec<f64> = (0..n).map(weight).collect();
    let largest = all.iter().copied().fold(0.0, f64::max);
    // Relative to the largest, so that no sum overflows.
    let mean = all.iter().map(|weight| weight / largest).sum::<f64>() / n as f64;
    if !(largest > 0.0 && largest.is_finite() && mean > 0.0) {
        return Err(no_sum());
    }
    let weights: Vec<f32> = all.iter().map(|weight| (weight / largest / mean) as f32).collect();
    Ok(weights.iter().any(|weight| *weight != weights[0]).then_some(weights))
}

fn no_sum() -> Error {
    let problem = "those of samples and classes together are all 0, or too large";
    Error::Weight { place: Place::default(), problem: problem.to_owned() }
}

/// Y ← (1 − ε)·Y + ε/q.
fn smoothed(targets: &Targets, n_classes: usize, smoothing: f64) -> Result<Targets<'static>> {
    let rest = (smoothing / n_classes as f64) as f32;
    let keep = 1.0 - smoothing;
    let n_values = match targets {
        Targets::Classes(classes) => classes.len().saturating_mul(n_classes),
        Targets::Distributions(values) => values.len(),
    };
    let mut all = Vec::new();
    if all.try_reserve_exact(n_values).is_err() {
        return Err(Error::out_of_memory("the smoothed labels", n_values, size_of::<f32>()));
    }
    match targets {
        Targets::Classes(classes) => {
            // What the others leave, so that the sum is 1.
            let label = (keep + smoothing / n_classes as f64) as f32;
            all.resize(n_values, rest);
            for (y, &class) in all.chunks_exact_mut(n_classes).zip(classes.iter()) {
                y[class as usize] = label;
            }
        }
        Targets::Distributions(values) => all.extend(values.iter().map(|&y| (keep * f64::from(y)) as f32 + rest)),
    }
    Ok(Targets::Distributions(all.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Features, Labels};

    fn data(numbers: &[u32]) -> Dataset<'static> {
        let classes = ["a", "b", "c"].map(str::to_owned).to_vec();
        let labels = Labels::from_indices(numbers.to_vec(), classes).unwrap();
        Dataset::new(Features::new(vec![1.0f32; numbers.len()], numbers.len(), 1).unwrap(), labels).unwrap()
    }

    fn weights(data: &Dataset, class_weight: ClassWeight) -> Option<Vec<f32>> {
        let weighting = Weighting::new(data, &class_weight, 0.0).unwrap();
        weighting.supervision().weights.map(<[f32]>::to_vec)
    }

    #[test]
    fn weights_have_mean_1_and_are_left_out_where_all_are_equal() {
        let plain = data(&[0, 1, 1, 1]);
        assert_eq!(weights(&plain, ClassWeight::None), None);
        assert_eq!(weights(&plain.clone().with_weights(vec![7.0f32; 4]).unwrap(), ClassWeight::None), None);
        let weighted = plain.clone().with_weights(vec![0.0f32, 1.0, 2.0, 5.0]).unwrap();
        assert_eq!(weights(&weighted, ClassWeight::None), Some(vec![0.0, 0.5, 1.0, 2.5]));
        let large = plain.with_weights(vec![0.0f32, 1e38, 2e38, 3e38]).unwrap();
        let found = weights(&large, ClassWeight::None).unwrap();
        assert!(found.iter().zip([0.0, 2.0 / 3.0, 4.0 / 3.0, 2.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
    }

    /// scikit-learn: compute_class_weight("balanced", classes=[0, 1], y=[0, 1, 1, 1]) is [2, 2/3]; with
    /// sample_weight=[3, 1, 1, 1] it is [1, 1]. Class c has no sample here, which must not matter.
    #[test]
    fn balanced_classes_count_the_same() {
        let plain = data(&[0, 1, 1, 1]);
        let c = ClassWeight::Balanced.of(&plain).unwrap().unwrap();
        assert!((c[0] - 2.0).abs() < 1e-12 && (c[1] - 2.0 / 3.0).abs() < 1e-12 && c[2] == 0.0, "{c:?}");
        let found = weights(&plain, ClassWeight::Balanced).unwrap();
        assert!((found[0] - 2.0).abs() < 1e-6 && (found[3] - 2.0 / 3.0).abs() < 1e-6, "{found:?}");
        let weighted = plain.clone().with_weights(vec![3.0f32, 1.0, 1.0, 1.0]).unwrap();
        assert_eq!(ClassWeight::Balanced.of(&weighted).unwrap().unwrap(), [1.0, 1.0, 0.0]);
        // A class whose samples all weigh 0 is one without samples.
        let without = plain.with_weights(vec![0.0f32, 1.0, 1.0, 2.0]).unwrap();
        assert_eq!(ClassWeight::Balanced.of(&without).unwrap().unwrap(), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn soft_labels_have_the_mean_weight_of_their_classes() {
        let labels = Labels::from_distributions(vec![0.25, 0.75, 1.0, 0.0], vec!["a".into(), "b".into()]).unwrap();
        let data = Dataset::new(Features::new(vec![1.0f32; 2], 2, 1).unwrap(), labels).unwrap();
        // 0.25·5 + 0.75 = 2 and 5.
        let found = weights(&data, ClassWeight::Map(vec![("a".to_owned(), 5.0)])).unwrap();
        assert!((found[0] - 4.0 / 7.0).abs() < 1e-6 && (found[1] - 10.0 / 7.0).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn class_weights_that_make_no_sense_are_errors() {
        let data = data(&[0, 1, 1, 1]);
        let error = |weights: &[(&str, f64)]| {
            let weights = weights.iter().map(|&(name, weight)| (name.to_owned(), weight)).collect();
            Weighting::new(&data, &ClassWeight::Map(weights), 0.0).map(|_| ()).unwrap_err().to_string()
        };
        assert_eq!(
            error(&[("z", 1.0)]),
            "the weight of class \"z\": there is no such class; the 3 classes are \"a\", \"b\", \"c\""
        );
        assert!(error(&[("a", -1.0)]).contains("it is -1"));
        assert!(error(&[("a", f64::NAN)]).contains("it is NaN"));
        assert!(error(&[("a", 1.0), ("a", 2.0)]).contains("given twice"));
        assert!(error(&[("a", 0.0), ("b", 0.0)]).contains("all 0"));
    }

    #[test]
    fn smoothed_labels_are_distributions() {
        let data = data(&[0, 2]);
        let weighting = Weighting::new(&data, &ClassWeight::None, 0.3).unwrap();
        let Targets::Distributions(y) = weighting.supervision().targets else { panic!("hard") };
        assert!(y.iter().zip([0.8, 0.1, 0.1, 0.1, 0.1, 0.8]).all(|(a, b)| (a - b).abs() < 1e-6), "{y:?}");
        let again = smoothed(&Targets::Distributions(y.clone()), 3, 0.5).unwrap();
        let Targets::Distributions(y) = &again else { panic!("hard") };
        assert!((y[0] - (0.4 + 0.5 / 3.0)).abs() < 1e-6 && (y[..3].iter().sum::<f32>() - 1.0).abs() < 1e-6, "{y:?}");
        for bad in [1.0, -0.1, f64::NAN] {
            assert!(matches!(Weighting::new(&data, &ClassWeight::None, bad), Err(Error::Setting { .. })), "{bad}");
        }
    }
}
