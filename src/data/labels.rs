//! Labels: what class each sample is of, and what the classes are called.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Display;

use crate::error::{Error, Place, Result, quoted};

/// More classes than this are taken for a mistake: a measurement in the place of a label.
pub const MAX_CLASSES: usize = 1 << 20;

/// What class each sample is of, with the names of the classes.
///
/// The classes are the distinct labels, in the order of their numbers when all are numbers, else in the order of their
/// names. Label values need not be 0..q.
#[derive(Debug, Clone)]
pub struct Labels<'a> {
    classes: Vec<String>,
    targets: Targets<'a>,
}

/// The classes of samples as numbers: what the kernels take.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Targets<'a> {
    /// The class of each sample, 0 ≤ class < n_classes.
    Classes(Cow<'a, [u32]>),
    /// A distribution over the classes for each sample: Y, (n_samples × n_classes), row-major. One-hot is a case of it.
    Distributions(Cow<'a, [f32]>),
}

impl<'a> Labels<'a> {
    /// Labels that are whole numbers of any type, not necessarily 0..q. The classes take the numbers as names.
    ///
    /// # Errors
    /// [`Error::TooManyClasses`]; [`Error::Malformed`] with the row of a number above 2⁶³ − 1.
    pub fn from_integers<T: Copy + TryInto<i64>>(labels: &[T]) -> Result<Labels<'static>> {
        let number = |(row, &label): (usize, &T)| {
            let too_large = |_| Error::malformed(Place::row(row + 1), "the label is above 2⁶³ − 1");
            label.try_into().map_err(too_large)
        };
        let numbers = labels.iter().enumerate().map(number).collect::<Result<Vec<i64>>>()?;
        Self::encode(&numbers, |&label| label)
    }

    /// Labels that are names.
    ///
    /// ```
    /// let labels = softreg::Labels::from_names(&["spam", "ham", "spam"])?;
    /// assert_eq!(labels.classes(), ["ham", "spam"]);
    /// # Ok::<(), softreg::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::TooManyClasses`].
    pub fn from_names<T: AsRef<str>>(labels: &[T]) -> Result<Labels<'static>> {
        // Names that are all numbers are ordered as such: 2 before 10.
        let names = || labels.iter().map(AsRef::as_ref);
        if names().all(|name| name.parse::<i64>().is_ok_and(|number| number.to_string() == name)) {
            return Self::encode(labels, |name| name.as_ref().parse::<i64>().unwrap_or_default());
        }
        Self::encode(labels, |name| name.as_ref().to_owned())
    }

    fn encode<T, K>(labels: &[T], key: impl Fn(&T) -> K) -> Result<Labels<'static>>
    where
        K: Ord + Clone + Display + std::hash::Hash,
    {
        let mut numbers: HashMap<K, u32> = HashMap::new();
        for label in labels {
            numbers.entry(key(label)).or_insert(0);
        }
        if numbers.len() > MAX_CLASSES {
            return Err(Error::TooManyClasses { place: Place::default(), found: numbers.len(), limit: MAX_CLASSES });
        }
        let mut classes: Vec<K> = numbers.keys().cloned().collect();
        classes.sort_unstable();
        for (number, class) in (0..).zip(&classes) {
            numbers.insert(class.clone(), number);
        }
        let targets = labels.iter().map(|label| numbers[&key(label)]).collect();
        Ok(Labels {
            classes: classes.iter().map(ToString::to_string).collect(),
            targets: Targets::Classes(Cow::Owned(targets)),
        })
    }

    /// Labels that are already numbers of classes: sample i is of class `classes[indices[i]]`. A class without a sample
    /// is allowed.
    ///
    /// # Errors
    /// [`Error::UnknownLabel`] with the row of the first number that is not below `classes.len()`,
    /// [`Error::TooManyClasses`], [`Error::Duplicate`] when two classes have the same name.
    pub fn from_indices(indices: impl Into<Cow<'a, [u32]>>, classes: Vec<String>) -> Result<Self> {
        let indices = indices.into();
        check_classes(&classes)?;
        match indices.iter().position(|&index| index as usize >= classes.len()) {
            Some(row) => Err(unknown(row, &indices[row].to_string(), &classes)),
            None => Ok(Self { classes, targets: Targets::Classes(indices) }),
        }
    }

    /// Soft labels: for each sample a distribution over the classes, row-major (n_samples × classes.len()). The values
    /// of a row must not be negative and must sum to 1 (to 1e-3, as half precision and rounded text give it); they are
    /// divided by their sum where it is not 1 to single precision. Where every row is one-hot (a 1, the others 0), they are
    /// kept as class numbers, which take less memory and train faster.
    ///
    /// # Errors
    /// [`Error::NotADistribution`] with the first row that is none; [`Error::Shape`] when the number of values is not
    /// a multiple of the number of classes; [`Error::TooManyClasses`]; [`Error::Duplicate`] when two classes have the
    /// same name.
    pub fn from_distributions(values: impl Into<Cow<'a, [f32]>>, classes: Vec<String>) -> Result<Self> {
        let mut values = values.into();
        let n_classes = classes.len();
        check_classes(&classes)?;
        if n_classes == 0 || !values.len().is_multiple_of(n_classes) {
            return Err(Error::Shape {
                what: "soft labels of the last sample".to_owned(),
                expected: n_classes,
                found: if n_classes == 0 { values.len() } else { values.len() % n_classes },
            });
        }
        let sum_of = |y: &[f32]| y.iter().map(|&y| f64::from(y)).sum::<f64>();
        let (mut rounded, mut one_hot) = (true, true);
        for (row, y) in values.chunks_exact(n_classes).enumerate() {
            let sum = sum_of(y);
            rounded &= (sum - 1.0).abs() <= f64::from(f32::EPSILON);
            one_hot &= y.iter().all(|&y| y == 0.0 || y == 1.0);
            let problem = match y.iter().position(|&y| !(y >= 0.0 && y.is_finite())) {
                Some(class) => format!("the value for class {} is {}", quoted(&classes[class]), y[class]),
                None if (sum - 1.0).abs() > 1e-3 => format!("the sum is {sum}"),
                None => continue,
            };
            return Err(Error::NotADistribution { place: Place::row(row + 1), problem });
        }
        if one_hot && !values.is_empty() {
            // Sums are 1, so that there is one 1 in each row.
            let indices = values.chunks_exact(n_classes).map(|y| argmax(y) as u32).collect();
            return Ok(Self { classes, targets: Targets::Classes(indices) });
        }
        if !rounded {
            // Otherwise residuals would not sum to 0, and the intercepts would drift together.
            for y in values.to_mut().chunks_exact_mut(n_classes) {
                let sum = sum_of(y);
                y.iter_mut().for_each(|y| *y = (f64::from(*y) / sum) as f32);
            }
        }
        Ok(Self { classes, targets: Targets::Distributions(values) })
    }

    /// The same labels, numbered by the classes of a model, so that both speak of the same ones.
    ///
    /// # Errors
    /// [`Error::UnknownLabel`] with the first row whose label `classes` does not have.
    pub fn with_classes(&self, classes: &[String]) -> Result<Labels<'a>> {
        if self.classes == classes {
            return Ok(self.clone());
        }
        let numbers: HashMap<&str, usize> = classes.iter().map(String::as_str).zip(0..).collect();
        let renumbered: Vec<Option<usize>> = self.classes.iter().map(|c| numbers.get(c.as_str()).copied()).collect();
        let targets = match &self.targets {
            Targets::Classes(indices) => {
                let new = |(row, &index): (usize, &u32)| {
                    renumbered[index as usize]
                        .map(|number| number as u32)
                        .ok_or_else(|| unknown(row, &self.classes[index as usize], classes))
                };
                Targets::Classes(indices.iter().enumerate().map(new).collect::<Result<_>>()?)
            }
            Targets::Distributions(values) => {
                let mut new = vec![0.0; self.n_samples() * classes.len()];
                let rows = values.chunks_exact(self.classes.len()).zip(new.chunks_exact_mut(classes.len().max(1)));
                for (row, (old, new)) in rows.enumerate() {
                    for (index, &y) in old.iter().enumerate() {
                        match renumbered[index] {
                            Some(number) => new[number] = y,
                            None if y == 0.0 => {}
                            None => return Err(unknown(row, &self.classes[index], classes)),
                        }
                    }
                }
                Targets::Distributions(new.into())
            }
        };
        Ok(Labels { classes: classes.to_vec(), targets })
    }

    /// The labels of the samples that `indices` names, in that order; the classes stay as they are.
    ///
    /// # Errors
    /// [`Error::Shape`] when an index is past the end.
    pub fn select(&self, indices: &[u32]) -> Result<Labels<'static>> {
        if let Some(&index) = indices.iter().find(|&&index| index as usize >= self.n_samples()) {
            return Err(Error::Shape {
                what: "rows of the labels".to_owned(),
                expected: self.n_samples(),
                found: index as usize + 1,
            });
        }
        let targets = match &self.targets {
            Targets::Classes(all) => Targets::Classes(indices.iter().map(|&i| all[i as usize]).collect()),
            Targets::Distributions(all) => {
                let row = |&i: &u32| &all[i as usize * self.classes.len()..][..self.classes.len()];
                Targets::Distributions(indices.iter().flat_map(row).copied().collect())
            }
        };
        Ok(Labels { classes: self.classes.clone(), targets })
    }

    /// The number of samples.
    pub fn n_samples(&self) -> usize {
        match &self.targets {
            Targets::Classes(indices) => indices.len(),
            Targets::Distributions(values) => values.len() / self.classes.len().max(1),
        }
    }

    /// The names of the classes, in the order of their numbers.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The classes of the samples as numbers.
    pub fn targets(&self) -> &Targets<'a> {
        &self.targets
    }
}

impl Targets<'_> {
    /// The class of `row` (for soft labels the one of the highest probability, the first among equals); none past the
    /// last row.
    pub fn class(&self, row: usize, n_classes: usize) -> Option<usize> {
        match self {
            Self::Classes(indices) => indices.get(row).map(|&class| class as usize),
            Self::Distributions(values) => {
                values.get(row.checked_mul(n_classes)?..row.checked_add(1)?.checked_mul(n_classes)?).map(argmax)
            }
        }
    }

    /// Σ_i w_i·y_ij for each class j; w is 1 without weights.
    pub(crate) fn class_totals(&self, weights: Option<&[f32]>, n_classes: usize) -> Vec<f64> {
        let mut totals = vec![0.0; n_classes];
        let weight = |row: usize| weights.and_then(|weights| weights.get(row)).map_or(1.0, |&weight| f64::from(weight));
        match self {
            Self::Classes(classes) => {
                for (row, &class) in classes.iter().enumerate() {
                    totals[class as usize] += weight(row);
                }
            }
            Self::Distributions(values) => {
                for (row, y) in values.chunks_exact(n_classes).enumerate() {
                    let weight = weight(row);
                    totals.iter_mut().zip(y).for_each(|(total, &y)| *total += weight * f64::from(y));
                }
            }
        }
        totals
    }
}

/// The index of the highest value, the first among equals.
pub(crate) fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// That there are not too many classes, each with a name of its own.
pub(crate) fn check_classes(classes: &[String]) -> Result<()> {
    if classes.len() > MAX_CLASSES {
        return Err(Error::TooManyClasses { place: Place::default(), found: classes.len(), limit: MAX_CLASSES });
    }
    check_unique("class", classes)
}

/// That no name stands twice.
pub(crate) fn check_unique(what: &'static str, names: &[String]) -> Result<()> {
    let mut seen = HashSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::Duplicate { what, name: name.clone() }),
    }
}

fn unknown(row: usize, label: &str, classes: &[String]) -> Error {
    let mut known = classes.iter().take(5).map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    if classes.len() > 5 {
        known.push_str(", …");
    }
    Error::UnknownLabel { place: Place::row(row + 1), label: label.to_owned(), n_classes: classes.len(), known }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(labels: &Labels) -> Vec<u32> {
        match labels.targets() {
            Targets::Classes(indices) => indices.to_vec(),
            Targets::Distributions(_) => panic!("soft"),
        }
    }

    #[test]
    fn classes_keep_their_names_and_need_not_be_0_to_q() {
        let labels = Labels::from_integers(&[30i64, -7, 30, 2]).unwrap();
        assert_eq!(labels.classes(), ["-7", "2", "30"]);
        assert_eq!(indices(&labels), [2, 0, 2, 1]);
    }

    #[test]
    fn names_that_are_numbers_are_in_the_order_of_numbers() {
        assert_eq!(Labels::from_names(&["10", "9", "2"]).unwrap().classes(), ["2", "9", "10"]);
        // "02" and "2" are different names, so these are no numbers.
        assert_eq!(Labels::from_names(&["10", "2", "02"]).unwrap().classes(), ["02", "10", "2"]);
    }

    #[test]
    fn labels_take_the_numbers_of_a_model() {
        let model: Vec<String> = ["c", "a", "b"].map(String::from).to_vec();
        let labels = Labels::from_names(&["b", "c"]).unwrap().with_classes(&model).unwrap();
        assert_eq!(indices(&labels), [2, 0]);
        match Labels::from_names(&["b", "z"]).unwrap().with_classes(&model) {
            Err(Error::UnknownLabel { place, label, .. }) => assert_eq!((place.row, label.as_str()), (Some(2), "z")),
            other => panic!("{other:?}"),
        }
        let soft = Labels::from_distributions(vec![0.25, 0.75], vec!["b".into(), "c".into()]).unwrap();
        match soft.with_classes(&model).unwrap().targets() {
            Targets::Distributions(values) => assert_eq!(**values, [0.75, 0.0, 0.25]),
            Targets::Classes(_) => panic!("hard"),
        }
    }

    #[test]
    fn soft_labels_are_distributions() {
        let two = || vec!["a".to_owned(), "b".to_owned()];
        assert!(Labels::from_distributions(vec![0.5, 0.5, 1.0, 0.0], two()).is_ok());
        for bad in [[0.5, 0.6], [1.5, -0.5], [f32::NAN, 1.0]] {
            let values = [vec![1.0, 0.0], bad.to_vec()].concat();
            match Labels::from_distributions(values, two()) {
                Err(Error::NotADistribution { place, .. }) => assert_eq!(place.row, Some(2)),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(Labels::from_distributions(vec![1.0; 3], two()), Err(Error::Shape { .. })));
        // Sums that are 1 only roughly become so.
        let rough = Labels::from_distributions(vec![0.5, 0.5, 0.3003, 0.7], two()).unwrap();
        let Targets::Distributions(values) = rough.targets() else { panic!("hard") };
        assert!((values[2] + values[3] - 1.0).abs() < 1e-6 && values[..2] == [0.5, 0.5], "{values:?}");
    }

    #[test]
    fn one_hot_labels_are_class_numbers() {
        let three = || vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let labels = Labels::from_distributions(vec![0.0, 0.0, 1.0, 1.0, 0.0, 0.0], three()).unwrap();
        assert_eq!((indices(&labels), labels.classes()), (vec![2, 0], &three()[..]));
        let soft = Labels::from_distributions(vec![0.0, 0.0, 1.0, 0.5, 0.5, 0.0], three()).unwrap();
        assert!(matches!(soft.targets(), Targets::Distributions(_)));
        for bad in [vec![0.0; 3], vec![1.0, 1.0, 0.0]] {
            assert!(matches!(Labels::from_distributions(bad, three()), Err(Error::NotADistribution { .. })));
        }
    }

    #[test]
    fn a_name_stands_for_one_class() {
        let twice = || vec!["a".to_owned(), "b".to_owned(), "a".to_owned()];
        assert!(matches!(Labels::from_indices(vec![0, 1], twice()), Err(Error::Duplicate { name, .. }) if name == "a"));
        assert!(matches!(Labels::from_distributions(vec![0.5, 0.5, 0.0], twice()), Err(Error::Duplicate { .. })));
    }

    #[test]
    fn whole_numbers_of_every_type_are_labels() {
        assert_eq!(Labels::from_integers(&[3usize, 1]).unwrap().classes(), ["1", "3"]);
        assert_eq!(Labels::from_integers(&[-3i8, 1]).unwrap().classes(), ["-3", "1"]);
        let error = Labels::from_integers(&[0, u64::MAX]).unwrap_err().to_string();
        assert!(error.contains("row 2"), "{error}");
    }

    #[test]
    fn an_index_without_a_class_is_an_error() {
        let classes = vec!["a".to_owned(), "b".to_owned()];
        assert!(matches!(Labels::from_indices(vec![0, 1, 2], classes), Err(Error::UnknownLabel { .. })));
    }
}
