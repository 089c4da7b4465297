//! Arrays of numbers, as IDX and .npy files have them, and what they are as features and as labels.

use std::path::Path;

use half::{bf16, f16};

use super::input::Input;
use crate::data::{Features, Labels};
use crate::error::{Error, Place, Result};

/// The type of a value in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    BF16,
    F32,
    F64,
}

/// Values, in memory as small as what can be done with them allows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Numbers {
    U8(Vec<u8>),
    F16(Vec<f16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Integers(Vec<i64>),
    Names(Vec<String>),
}

impl Numbers {
    #[cfg(feature = "arrow")]
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Integers(values) => values.len(),
            Self::Names(values) => values.len(),
        }
    }

    /// `n` values of type `kind`.
    pub fn read(input: &mut Input, kind: Kind, big_endian: bool, n: usize) -> Result<Self> {
        macro_rules! values {
            ($type:ty, $into:expr) => {
                if big_endian {
                    input.values(n, |bytes| $into(<$type>::from_be_bytes(bytes)))?
                } else {
                    input.values(n, |bytes| $into(<$type>::from_le_bytes(bytes)))?
                }
            };
        }
        Ok(match kind {
            Kind::U8 => Self::U8(values!(u8, u8::from)),
            Kind::U16 => Self::Integers(values!(u16, i64::from)),
            Kind::U32 => Self::Integers(values!(u32, i64::from)),
            Kind::I8 => Self::Integers(values!(i8, i64::from)),
            Kind::I16 => Self::Integers(values!(i16, i64::from)),
            Kind::I32 => Self::Integers(values!(i32, i64::from)),
            Kind::I64 => Self::Integers(values!(i64, i64::from)),
            Kind::U64 => {
                let values: Vec<i64> = values!(u64, |value: u64| value as i64);
                if values.iter().any(|&value| value < 0) {
                    return Err(input.malformed("it has whole numbers above 2⁶³ − 1"));
                }
                Self::Integers(values)
            }
            Kind::F16 => Self::F16(values!(f16, f16::from)),
            Kind::BF16 => Self::F32(values!(bf16, bf16::to_f32)),
            Kind::F32 => Self::F32(values!(f32, f32::from)),
            Kind::F64 => Self::F64(values!(f64, f64::from)),
        })
    }
}

/// An array, row-major (the last index runs fastest).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub shape: Vec<usize>,
    pub numbers: Numbers,
}

impl Array {
    /// X: a row for each sample; what further dimensions there are (the rows and columns of images) are flattened.
    pub fn into_features(self, path: &Path) -> Result<Features<'static>> {
        let Self { shape, numbers } = self;
        let malformed = |problem: String| Error::malformed(Place::file(path), problem);
        let (&[n_samples, ref rest @ ..], false) = (&*shape, shape.len() < 2) else {
            return Err(malformed(format!(
                "an array of shape {shape:?} cannot be features, which have a row for each sample and a column for each \
                 feature; are these labels?"
            )));
        };
        // The other sizes, whose product is then of no use, may be any.
        if n_samples == 0 {
            return Err(Error::Empty { place: Place::file(path), what: "samples" });
        }
        let n_features = rest.iter().product();
        let features = match numbers {
            Numbers::U8(values) => Features::new(values, n_samples, n_features),
            Numbers::F16(values) => Features::new(values, n_samples, n_features),
            Numbers::F32(values) => Features::new(values, n_samples, n_features),
            Numbers::F64(values) => Features::from_f64(values, n_samples, n_features),
            Numbers::Integers(values) => {
                Features::new(values.into_iter().map(|value| value as f32).collect::<Vec<_>>(), n_samples, n_features)
            }
            Numbers::Names(_) => return Err(malformed("it holds text; features must be numbers".to_owned())),
        };
        features.map_err(|error| error.in_file(path))
    }

    /// A label for each sample: whole numbers or names; or for each a row of soft labels, a distribution over `classes`, or
    /// over classes that are called 0, 1, ….
    pub fn into_labels(self, path: &Path, classes: Option<&[String]>) -> Result<Labels<'static>> {
        let Self { shape, numbers } = self;
        if shape.first() == Some(&0) {
            return Err(Error::Empty { place: Place::file(path), what: "labels" });
        }
        let labels = match *shape {
            [_] | [_, 1] => match numbers {
                Numbers::U8(values) => Labels::from_integers(&values),
                Numbers::Integers(values) => Labels::from_integers(&values),
                Numbers::Names(values) => Labels::from_names(&values),
                Numbers::F16(values) => whole(values.into_iter().map(f16::to_f64)),
                Numbers::F32(values) => whole(values.into_iter().map(f64::from)),
                Numbers::F64(values) => whole(values.into_iter()),
            },
            [_, n_classes] if n_classes > 1 => {
                let values: Vec<f32> = match numbers {
                    Numbers::U8(values) => values.into_iter().map(f32::from).collect(),
                    Numbers::Integers(values) => values.into_iter().map(|value| value as f32).collect(),
                    Numbers::F16(values) => values.into_iter().map(f16::to_f32).collect(),
                    Numbers::F32(values) => values,
                    Numbers::F64(values) => values.into_iter().map(|value| value as f32).collect(),
                    Numbers::Names(_) => {
                        let problem =
                            format!("an array of text of shape {shape:?} cannot be labels: one for each sample");
                        return Err(Error::malformed(Place::file(path), problem));
                    }
                };
                let names = match classes {
                    None => (0..n_classes).map(|class| class.to_string()).collect(),
                    Some(names) if names.len() == n_classes => names.to_vec(),
                    Some(names) => {
                        let found = names.len();
                        let problem = format!("it has a column for each of {n_classes} classes, but {found} are named");
                        return Err(Error::malformed(Place::file(path), problem));
                    }
                };
                Labels::from_distributions(values, names)
            }
            _ => {
                let problem = format!(
                    "an array of shape {shape:?} cannot be labels, which are one for each sample, or for each a row of \
                     probabilities; are these features?"
                );
                return Err(Error::malformed(Place::file(path), problem));
            }
        };
        labels.map_err(|error| error.in_file(path))
    }
}

impl Array {
    /// A label for each sample, of which whole numbers are numbers of `classes`; else as `into_labels`.
    pub fn into_labels_of(self, path: &Path, classes: &[String]) -> Result<Labels<'static>> {
        let indices: Vec<i64> = match (&*self.shape, self.numbers) {
            ([_] | [_, 1], Numbers::U8(values)) => values.into_iter().map(i64::from).collect(),
            ([_] | [_, 1], Numbers::Integers(values)) => values,
            (_, numbers) => {
                let labels = Self { numbers, ..self }.into_labels(path, Some(classes))?;
                return labels.with_classes(classes).map_err(|error| error.in_file(path));
            }
        };
        let index = |(row, index): (usize, i64)| {
            u32::try_from(index).map_err(|_| {
                let problem = format!("the label {index} is no number of one of the {} classes", classes.len());
                Error::malformed(Place::file(path).at_row(row + 1), problem)
            })
        };
        let indices = indices.into_iter().enumerate().map(index).collect::<Result<Vec<u32>>>()?;
        Labels::from_indices(indices, classes.to_vec()).map_err(|error| error.in_file(path))
    }

    /// A number for each sample.
    pub fn into_weights(self, path: &Path) -> Result<Vec<f64>> {
        let Self { shape, numbers } = self;
        let malformed = |problem: String| Err(Error::malformed(Place::file(path), problem));
        if !matches!(*shape, [_] | [_, 1]) {
            return malformed(format!(
                "an array of shape {shape:?} cannot be weights, which are one number for each sample"
            ));
        }
        Ok(match numbers {
            Numbers::U8(values) => values.into_iter().map(f64::from).collect(),
            Numbers::F16(values) => values.into_iter().map(f16::to_f64).collect(),
            Numbers::F32(values) => values.into_iter().map(f64::from).collect(),
            Numbers::F64(values) => values,
            Numbers::Integers(values) => values.into_iter().map(|value| value as f64).collect(),
            Numbers::Names(_) => return malformed("it holds text; weights must be numbers".to_owned()),
        })
    }
}

/// Labels that are whole numbers written as floating point numbers.
fn whole(values: impl Iterator<Item = f64>) -> Result<Labels<'static>> {
    /// Up to here every whole number has a double of its own.
    const LIMIT: f64 = (1u64 << 53) as f64;
    let whole = |(row, value): (usize, f64)| {
        if value.fract() == 0.0 && value.abs() <= LIMIT {
            return Ok(value as i64);
        }
        let problem = format!("the label {value} is not a whole number; labels are classes, not measurements");
        Err(Error::malformed(Place::row(row + 1), problem))
    };
    Labels::from_integers(&values.enumerate().map(whole).collect::<Result<Vec<_>>>()?)
}
