//! Files of several arrays that have names, `.npz` and safetensors: which of them are the features, the labels and the
//! weights.

use std::path::{Path, PathBuf};

use super::array::Array;
use super::{Source, Table};
use crate::data::{Features, Labels};
use crate::error::{Error, Place, Result, quoted, shown};

/// What an array is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Features,
    Labels,
    Weights,
}

impl Role {
    pub fn what(self) -> &'static str {
        match self {
            Self::Features => "features",
            Self::Labels => "labels",
            Self::Weights => "weights",
        }
    }

    /// What an array of this role is called where the user names none.
    pub fn usual_names(self) -> &'static [&'static str] {
        match self {
            Self::Features => &["features", "X", "x", "data"],
            Self::Labels => &["labels", "label", "y", "targets", "target"],
            Self::Weights => &["weights", "sample_weight"],
        }
    }

    /// The field of a source, and the option, by which the user names one.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Features => "feature_columns (--feature-columns)",
            Self::Labels => "label_column (--label-column)",
            Self::Weights => "weight_column (--weight-column)",
        }
    }
}

/// An array in a file, as a message calls it, which may be called like any other file.
pub(super) fn inside(path: &Path, name: &str) -> PathBuf {
    let mut inside = path.as_os_str().to_owned();
    inside.push("/");
    inside.push(shown(name));
    inside.into()
}

/// An array of a file, before it is read.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
}

/// The arrays of a file.
pub(super) trait Arrays {
    fn entries(&self) -> &[Entry];

    /// Reads array `index`.
    fn read(&mut self, index: usize) -> Result<Array>;

    /// The features in array `index`, left in the file where they have more than `memory` bytes and need no conversion.
    fn stored(&self, _index: usize, _memory: u64) -> Result<Option<Features<'static>>> {
        Ok(None)
    }

    /// The features where they are not one array but several, as those of a sparse matrix.
    fn matrix(&mut self) -> Option<Result<Features<'static>>> {
        None
    }

    /// The names of the classes, where the file has them.
    fn classes(&self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// The names of the features, where the file has them.
    fn feature_names(&self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }
}

/// Which array has this role: the one that is named; else the one with a usual name; else, for features, the only one that is not
/// `taken` and has rows and columns.
fn choose(entries: &[Entry], role: Role, wanted: Option<&str>, taken: &[usize], path: &Path) -> Result<Option<usize>> {
    let (what, setting) = (role.what(), role.setting());
    let malformed = |problem: String| {
        let there_are = describe(entries);
        Err(Error::malformed(Place::file(path), format!("{problem}; its arrays are {there_are}")))
    };
    let position = |name: &str| entries.iter().position(|entry| entry.name == name);
    let found: Vec<usize> = match wanted {
        Some(name) => match position(name) {
            Some(index) => vec![index],
            None => return malformed(format!("it has no array {name:?} for the {what}")),
        },
        None => role.usual_names().iter().filter_map(|name| position(name)).collect(),
    };
    match (&*found, role) {
        (&[index], _) => Ok(Some(index)),
        ([], Role::Features) => {
            let may_be = |&index: &usize| entries[index].shape.len() >= 2 && !taken.contains(&index);
            let mut matrices = (0..entries.len()).filter(may_be);
            match (matrices.next(), matrices.next()) {
                (Some(index), None) => Ok(Some(index)),
                (None, _) => malformed("none has a row for each sample and a column for each feature".to_owned()),
                _ => malformed(format!("more than one may be the {what}: name one with {setting}")),
            }
        }
        ([], _) => Ok(None),
        _ => malformed(format!("more than one may be the {what}: name one with {setting}")),
    }
}

/// What a source takes of a file of several arrays. Features with more than `memory` bytes may be left in it.
pub(super) fn read(arrays: &mut dyn Arrays, source: &Source, path: &Path, memory: u64) -> Result<Table> {
    let entries = arrays.entries().to_vec();
    let feature_column = match source.feature_columns.as_deref() {
        Some([name]) => Some(name.as_str()),
        Some(names) => {
            let problem = format!("features are one of its arrays, but {} are named", names.len());
            return Err(Error::malformed(Place::file(path), problem));
        }
        None => None,
    };
    // Where there is a file of them, the name is that of an array in it.
    let label_column = source.label_column.as_deref().filter(|_| source.labels.is_none());
    let weight_column = source.weight_column.as_deref().filter(|_| source.weights.is_none());
    let labels = choose(&entries, Role::Labels, label_column, &[], path)?;
    let weights = choose(&entries, Role::Weights, weight_column, &[], path)?;
    let features = match arrays.matrix() {
        Some(features) if feature_column.is_none() => features?,
        _ => {
            let taken: Vec<usize> = labels.into_iter().chain(weights).collect();
            match choose(&entries, Role::Features, feature_column, &taken, path)? {
                Some(index) => match arrays.stored(index, memory)? {
                    Some(features) => features,
                    None => arrays.read(index)?.into_features(path)?,
                },
                None => return Err(Error::Empty { place: Place::file(path), what: "features" }),
            }
        }
    };
    let feature_names = arrays.feature_names()?.filter(|names| names.len() == features.n_features());
    if let (Some(model), Some(data)) = (&source.feature_names, &feature_names)
        && let Some(index) = model.iter().zip(data).position(|(model, data)| model != data)
    {
        return Err(Error::FeatureName { column: index + 1, model: model[index].clone(), data: data[index].clone() });
    }
    let labels = match labels {
        Some(index) if source.labels.is_none() => Some(of_labels(arrays, index, None, path)?),
        _ => None,
    };
    let weights = match weights {
        Some(index) if source.weights.is_none() => Some(arrays.read(index)?.into_weights(path)?),
        _ => None,
    };
    let weights = weights.map(|weights| weights.into_iter().map(|weight| weight as f32).collect());
    Ok(Table { labels, weights, feature_names, ..Table::of_features(features, source) })
}

/// The labels of a file of labels: of the array that is named or has a usual name, else of the only one.
pub(super) fn labels(
    arrays: &mut dyn Arrays,
    wanted: Option<&str>,
    classes: Option<&[String]>,
    path: &Path,
) -> Result<Labels<'static>> {
    let index = only(arrays.entries(), Role::Labels, wanted, path)?;
    of_labels(arrays, index, classes, path)
}

/// The labels in array `index`. Where the file has names of classes, whole numbers are their numbers.
fn of_labels(
    arrays: &mut dyn Arrays,
    index: usize,
    classes: Option<&[String]>,
    path: &Path,
) -> Result<Labels<'static>> {
    let of_file = arrays.classes()?;
    let array = arrays.read(index)?;
    match of_file {
        Some(names) => array.into_labels_of(path, &names),
        None => array.into_labels(path, classes),
    }
}

/// The weights of a file of weights, chosen as labels are.
pub(super) fn weights(arrays: &mut dyn Arrays, wanted: Option<&str>, path: &Path) -> Result<Vec<f64>> {
    let index = only(arrays.entries(), Role::Weights, wanted, path)?;
    arrays.read(index)?.into_weights(path)
}

/// Names and shapes, for a message.
fn describe(entries: &[Entry]) -> String {
    super::shortened(entries, |entry| format!("{} of shape {:?}", quoted(&entry.name), entry.shape))
}

fn only(entries: &[Entry], role: Role, wanted: Option<&str>, path: &Path) -> Result<usize> {
    match (choose(entries, role, wanted, &[], path)?, entries) {
        (Some(index), _) => Ok(index),
        (None, [_]) => Ok(0),
        (None, _) => {
            let (what, setting) = (role.what(), role.setting());
            let there_are = describe(entries);
            let problem = format!("which of its arrays are the {what}? Name one with {setting}: {there_are}");
            Err(Error::malformed(Place::file(path), problem))
        }
    }
}
