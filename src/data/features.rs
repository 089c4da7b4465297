//! The feature matrix X, (n_samples × n_features), row-major, dense or sparse, in the precision it came in.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use ndarray::ArrayView2;
use rayon::prelude::*;

use super::sparse::Csr;
use super::stored::{RowBuffer, Stored};
use crate::error::{Error, Place, Result};

/// The feature matrix X, (n_samples × n_features), row-major. It is checked once, when it is made: at least one sample
/// and one feature, and every value finite.
///
/// The values stay in the precision they came in, on the host and on a device; arithmetic is in `f32`. Values are
/// borrowed where that is possible, so that nothing is copied.
#[derive(Debug, Clone)]
pub struct Features<'a> {
    n_samples: usize,
    n_features: usize,
    values: Values<'a>,
}

/// The values of a feature matrix, row-major.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Values<'a> {
    /// Single precision.
    F32(Cow<'a, [f32]>),
    /// Half precision.
    F16(Cow<'a, [f16]>),
    /// Bytes, as in images.
    U8(Cow<'a, [u8]>),
    /// Only what is not zero, in single precision.
    Sparse(Csr<'a>),
    /// In a file, for what is larger than memory.
    Stored(Stored),
}

/// The precision of a feature matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Bytes.
    U8,
}

impl Dtype {
    #[cfg(feature = "gpu")]
    pub(crate) const ALL: [Self; 3] = [Self::F32, Self::F16, Self::U8];

    /// The size of one value in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::U8 => 1,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::U8 => "u8",
        })
    }
}

impl Values<'_> {
    /// How many values are stored.
    pub fn len(&self) -> usize {
        match self {
            Self::Stored(stored) => stored.len(),
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::U8(values) => values.len(),
            Self::Sparse(csr) => csr.values().len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their precision.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) | Self::Sparse(_) => Dtype::F32,
            Self::Stored(stored) => stored.dtype(),
            Self::F16(_) => Dtype::F16,
            Self::U8(_) => Dtype::U8,
        }
    }

    /// The index and value of the first one that is NaN or infinite.
    fn first_not_finite(&self) -> Option<(usize, f64)> {
        // The largest of the bits vectorises, the search does not.
        match self {
            Self::F32(values) => values
                .par_chunks(4096)
                .enumerate()
                .find_first(|(_, chunk)| largest(chunk) >= f32::INFINITY.to_bits() as i32)
                .and_then(|(i, chunk)| {
                    let j = chunk.iter().position(|x| !x.is_finite())?;
                    Some((i * 4096 + j, chunk[j] as f64))
                }),
            Self::F16(values) => {
                values.chunks(4096).enumerate().find(|(_, chunk)| largest_half(chunk) >= INFINITE_HALF).and_then(
                    |(i, chunk)| {
                        let j = chunk.iter().position(|x| !x.is_finite())?;
                        Some((i * 4096 + j, chunk[j].to_f64()))
                    },
                )
            }
            Self::U8(_) | Self::Sparse(_) | Self::Stored(_) => None,
        }
    }
}

/// The bits of infinity in half precision.
const INFINITE_HALF: u16 = 0x7c00;

/// The bits of the largest absolute value, which are in the order of the values.
fn largest(values: &[f32]) -> i32 {
    values.iter().fold(0, |largest, x| largest.max(x.abs().to_bits() as i32))
}

/// As [`largest`].
fn largest_half(values: &[f16]) -> u16 {
    values.reinterpret_cast().iter().fold(0, |largest, bits| largest.max(bits & 0x7fff))
}

macro_rules! values_from {
    ($type:ty, $variant:ident) => {
        impl<'a> From<&'a [$type]> for Values<'a> {
            fn from(values: &'a [$type]) -> Self {
                Self::$variant(Cow::Borrowed(values))
            }
        }
        impl<'a> From<&'a Vec<$type>> for Values<'a> {
            fn from(values: &'a Vec<$type>) -> Self {
                Self::$variant(Cow::Borrowed(values))
            }
        }
        impl From<Vec<$type>> for Values<'_> {
            fn from(values: Vec<$type>) -> Self {
                Self::$variant(Cow::Owned(values))
            }
        }
        impl<'a> TryFrom<ArrayView2<'a, $type>> for Features<'a> {
            type Error = Error;

            /// Borrows the values of an array in standard (C) order, copies those of any other.
            fn try_from(array: ArrayView2<'a, $type>) -> Result<Self> {
                let (n_samples, n_features) = array.dim();
                let values = match array.to_slice() {
                    Some(values) => Values::from(values),
                    None => Values::from(array.iter().copied().collect::<Vec<_>>()),
                };
                Features::new(values, n_samples, n_features)
            }
        }
    };
}
values_from!(f32, F32);
values_from!(f16, F16);
values_from!(u8, U8);

impl<'a> TryFrom<ArrayView2<'a, f64>> for Features<'a> {
    type Error = Error;

    /// Copies into `f32`, see [`Features::from_f64`].
    fn try_from(array: ArrayView2<'a, f64>) -> Result<Self> {
        let (n_samples, n_features) = array.dim();
        Self::from_f64(array.iter().copied(), n_samples, n_features)
    }
}

impl<'a> Features<'a> {
    /// A feature matrix of `n_samples` rows of `n_features` values.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of values is not n_samples · n_features, or a sparse matrix has another number of rows
    /// or more columns, [`Error::Empty`] when there are no
    /// samples or no features, [`Error::NotFinite`] with row and column of the first NaN or infinity.
    pub fn new(values: impl Into<Values<'a>>, n_samples: usize, n_features: usize) -> Result<Self> {
        let features = Self::of_finite(values.into(), n_samples, n_features)?;
        match features.values.first_not_finite() {
            Some((index, value)) => Err(not_finite(index, n_features, value)),
            None => Ok(features),
        }
    }

    /// As [`Features::new`], of values that were found finite when they were read: looking through them again takes a twentieth of the
    /// time that CSV does.
    pub(in crate::data) fn of_finite(values: Values<'a>, n_samples: usize, n_features: usize) -> Result<Self> {
        let expected = check_size(n_samples, n_features)?;
        if let Values::Sparse(csr) = &values {
            csr.check_shape(n_samples, n_features)?;
        } else if values.len() != expected {
            return Err(Error::Shape {
                what: format!("values of a {n_samples} × {n_features} feature matrix"),
                expected,
                found: values.len(),
            });
        }
        Ok(Self { n_samples, n_features, values })
    }

    /// A feature matrix from double precision. The values are rounded to `f32`; one that is too large for it is an
    /// error.
    ///
    /// # Errors
    /// As [`Features::new`].
    pub fn from_f64(values: impl IntoIterator<Item = f64>, n_samples: usize, n_features: usize) -> Result<Self> {
        check_size(n_samples, n_features)?;
        let values = values
            .into_iter()
            .enumerate()
            .map(|(index, value)| match value as f32 {
                rounded if rounded.is_finite() => Ok(rounded),
                _ => Err(not_finite(index, n_features, value)),
            })
            .collect::<Result<Vec<f32>>>()?;
        Self::new(values, n_samples, n_features)
    }

    /// The number of samples, n.
    pub fn n_samples(&self) -> usize {
        self.n_samples
    }

    /// The number of features, d.
    pub fn n_features(&self) -> usize {
        self.n_features
    }

    /// The values, row-major.
    pub fn values(&self) -> &Values<'a> {
        &self.values
    }

    #[cfg(feature = "files")]
    pub(crate) fn into_values(self) -> Values<'a> {
        self.values
    }

    /// A view of the rows in `rows`; nothing is copied.
    ///
    /// # Errors
    /// [`Error::Shape`] when the rows reach past the end, [`Error::Empty`] when there are none.
    pub fn rows(&self, rows: Range<usize>) -> Result<Features<'_>> {
        if rows.is_empty() {
            return Err(Error::Empty { place: Place::default(), what: "samples" });
        }
        if rows.end > self.n_samples {
            return Err(Error::Shape {
                what: "rows of the feature matrix".to_owned(),
                expected: self.n_samples,
                found: rows.end,
            });
        }
        let range = rows.start * self.n_features..rows.end * self.n_features;
        let values = match &self.values {
            Values::F32(values) => Values::from(&values[range]),
            Values::F16(values) => Values::from(&values[range]),
            Values::U8(values) => Values::from(&values[range]),
            Values::Sparse(csr) => Values::Sparse(csr.rows(rows.clone())),
            Values::Stored(stored) => Values::Stored(stored.rows(rows.clone())),
        };
        Ok(Features { n_samples: rows.len(), n_features: self.n_features, values })
    }

    /// Bytes of a sample, of sparse features in the mean: the columns of their values count too.
    pub(crate) fn sample_bytes(&self) -> usize {
        match &self.values {
            Values::Sparse(csr) => {
                (csr.values().len() * (size_of::<u32>() + size_of::<f32>())).div_ceil(self.n_samples).max(1)
            }
            values => self.n_features * values.dtype().size(),
        }
    }

    /// Where the rows from `start` on end that take up no more than `bytes`, or one row more than `start` where one takes more.
    pub(crate) fn end_of_rows(&self, start: usize, bytes: usize) -> usize {
        let most = match &self.values {
            Values::Sparse(csr) => csr.n_rows_within(start, bytes),
            values => bytes / self.n_features.saturating_mul(values.dtype().size()),
        };
        self.n_samples.min(start.saturating_add(most.max(1)))
    }

    /// A copy of the rows that `indices` names, in that order.
    ///
    /// # Errors
    /// [`Error::Shape`] when an index is past the end, [`Error::Empty`] when there are none.
    pub fn select(&self, indices: &[u32]) -> Result<Features<'static>> {
        fn gather<T: Copy>(values: &[T], width: usize, indices: &[u32]) -> Vec<T> {
            let mut rows = Vec::with_capacity(indices.len() * width);
            indices.iter().for_each(|&i| rows.extend_from_slice(&values[i as usize * width..][..width]));
            rows
        }
        check_size(indices.len(), self.n_features)?;
        if let Some(&index) = indices.iter().find(|&&i| i as usize >= self.n_samples) {
            return Err(Error::Shape {
                what: "rows of the feature matrix".to_owned(),
                expected: self.n_samples,
                found: index as usize + 1,
            });
        }
        let values = match &self.values {
            Values::F32(values) => gather(values, self.n_features, indices).into(),
            Values::F16(values) => gather(values, self.n_features, indices).into(),
            Values::U8(values) => gather(values, self.n_features, indices).into(),
            Values::Sparse(csr) => Values::Sparse(csr.select(indices)),
            Values::Stored(stored) => stored.select(indices)?,
        };
        Ok(Features { n_samples: indices.len(), n_features: self.n_features, values })
    }

    /// Reads rows into `buffer` where they are in a file.
    pub(crate) fn read_part(&self, rows: &[Range<usize>], buffer: &mut RowBuffer) -> Result<()> {
        match &self.values {
            Values::Stored(stored) => stored.read_into(rows, buffer),
            _ => Ok(()),
        }
    }

    /// The rows in `rows`, one range after the other, in memory; those of a file are in `buffer`, into which
    /// [`Features::read_part`] read them.
    pub(crate) fn part<'b>(&'b self, rows: &[Range<usize>], buffer: &'b RowBuffer) -> Result<Features<'b>> {
        let n_samples = rows.iter().map(ExactSizeIterator::len).sum();
        match (&self.values, rows) {
            (Values::Stored(stored), _) => {
                let values = stored.in_buffer(n_samples, buffer);
                Ok(Features { n_samples, n_features: self.n_features, values })
            }
            (_, [rows]) => self.rows(rows.clone()),
            (_, several) => {
                let indices: Vec<u32> = several.iter().flat_map(|rows| rows.start as u32..rows.end as u32).collect();
                self.select(&indices)
            }
        }
    }

    /// Calls `each` with all rows in memory, part by part, and their numbers.
    pub(crate) fn parts(&self, mut each: impl FnMut(Range<usize>, &Features) -> Result<()>) -> Result<()> {
        /// Of features in a file, so many bytes at a time.
        const PART: usize = 32 << 20;
        let n_rows = match &self.values {
            Values::Stored(_) => (PART / (self.n_features * self.values.dtype().size())).max(1),
            _ => self.n_samples,
        };
        let mut buffer = RowBuffer::new();
        for first in (0..self.n_samples).step_by(n_rows) {
            let rows = first..self.n_samples.min(first + n_rows);
            let part = std::slice::from_ref(&rows);
            self.read_part(part, &mut buffer)?;
            each(rows.clone(), &self.part(part, &buffer)?)?;
        }
        Ok(())
    }

    /// The same samples with only the features `kept`, ascending.
    pub(crate) fn of_columns(&self, kept: &[u32]) -> Result<Features<'_>> {
        fn gather<T: Copy>(values: &[T], width: usize, kept: &[u32]) -> Vec<T> {
            values.chunks_exact(width).flat_map(|row| kept.iter().map(|&k| row[k as usize])).collect()
        }
        check_size(self.n_samples, kept.len())?;
        let values = match &self.values {
            Values::F32(values) => gather(values, self.n_features, kept).into(),
            Values::F16(values) => gather(values, self.n_features, kept).into(),
            Values::U8(values) => gather(values, self.n_features, kept).into(),
            Values::Sparse(csr) => Values::Sparse(csr.of_columns(kept, self.n_features)),
            Values::Stored(_) => return Err(Stored::unsupported()),
        };
        Ok(Features { n_samples: self.n_samples, n_features: kept.len(), values })
    }

    /// The largest absolute value; of a part of a file that of the whole file.
    pub fn max_abs(&self) -> f32 {
        fn largest<T: Copy + Sync>(values: &[T], abs: impl Fn(T) -> f32 + Sync) -> f32 {
            let of_part = |part: &[T]| part.iter().fold(0f32, |max, &x| max.max(abs(x)));
            values.par_chunks(1 << 16).map(of_part).reduce(|| 0.0, f32::max)
        }
        match &self.values {
            Values::F32(values) => largest(values, f32::abs),
            Values::F16(values) => {
                let of_part = values.par_chunks(1 << 16).map(largest_half);
                f16::from_bits(of_part.reduce(|| 0, u16::max)).to_f32()
            }
            Values::U8(values) => f32::from(values.iter().copied().max().unwrap_or(0)),
            Values::Sparse(csr) => largest(csr.values(), f32::abs),
            Values::Stored(stored) => stored.max_abs(),
        }
    }

    /// Row `row` as `f32`; those of a file must be in memory.
    pub(crate) fn read_row(&self, row: usize, into: &mut [f32]) {
        let range = row * self.n_features..(row + 1) * self.n_features;
        match &self.values {
            Values::F32(values) => into.copy_from_slice(&values[range]),
            Values::F16(values) => {
                for (to, from) in into.iter_mut().zip(&values[range]) {
                    *to = from.to_f32();
                }
            }
            Values::U8(values) => {
                for (to, from) in into.iter_mut().zip(&values[range]) {
                    *to = f32::from(*from);
                }
            }
            Values::Sparse(csr) => {
                into.fill(0.0);
                let (columns, values) = csr.row(row);
                columns.iter().zip(values).for_each(|(&column, &value)| into[column as usize] = value);
            }
            // Nobody asks for it; if somebody did, all would notice.
            Values::Stored(_) => into.fill(f32::NAN),
        }
    }
}

pub(super) fn check_size(n_samples: usize, n_features: usize) -> Result<usize> {
    for (count, what) in [(n_samples, "samples"), (n_features, "features")] {
        if count == 0 {
            return Err(Error::Empty { place: Place::default(), what });
        }
    }
    // Rows are addressed by u32 on every backend.
    if n_samples > u32::MAX as usize {
        return Err(Error::Shape {
            what: "samples (row numbers have 32 bits)".to_owned(),
            expected: u32::MAX as usize,
            found: n_samples,
        });
    }
    n_samples.checked_mul(n_features).ok_or(Error::Shape {
        what: format!("values of a {n_samples} × {n_features} feature matrix"),
        expected: usize::MAX,
        found: n_samples,
    })
}

fn not_finite(index: usize, n_features: usize, value: f64) -> Error {
    let place = Place::row(index / n_features + 1).at_column(index % n_features + 1);
    Error::NotFinite { place, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_is_found_with_its_row_and_column() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1.0f32; 5000 * 3];
            values[4321 * 3 + 2] = bad;
            match Features::new(values, 5000, 3) {
                Err(Error::NotFinite { place, .. }) => assert_eq!((place.row, place.column), (Some(4322), Some(3))),
                other => panic!("{other:?}"),
            }
            let mut values = vec![f16::from_f32(-0.5); 5000 * 3];
            values[4321 * 3 + 2] = f16::from_f32(bad);
            match Features::new(values, 5000, 3) {
                Err(Error::NotFinite { place, .. }) => assert_eq!((place.row, place.column), (Some(4322), Some(3))),
                other => panic!("{other:?}"),
            }
        }
        let values: Vec<f16> = [0.5, -65504.0, 0.0].map(f16::from_f32).to_vec();
        assert_eq!(Features::new(values, 1, 3).unwrap().max_abs(), 65504.0);
    }

    #[test]
    fn a_double_too_large_for_single_precision_is_an_error() {
        assert!(matches!(Features::from_f64([1.0, 1e300], 1, 2), Err(Error::NotFinite { value: 1e300, .. })));
        assert!(Features::from_f64([1.0, 1e30], 1, 2).is_ok());
    }

    #[test]
    fn arrays_in_any_order_read_the_same() {
        let c = ndarray::arr2(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        let f = c.t().as_standard_layout().to_owned().reversed_axes();
        assert!(!f.is_standard_layout());
        for array in [c.view(), f.view()] {
            let features = Features::try_from(array).unwrap();
            let mut row = [0.0; 3];
            features.read_row(1, &mut row);
            assert_eq!(row, [4.0, 5.0, 6.0]);
        }
    }

    #[test]
    fn sizes_must_agree() {
        assert!(matches!(Features::new(vec![0u8; 5], 2, 3), Err(Error::Shape { expected: 6, found: 5, .. })));
        assert!(matches!(Features::new(vec![0u8; 0], 0, 3), Err(Error::Empty { what: "samples", .. })));
        assert!(matches!(Features::new(vec![0u8; 0], 3, 0), Err(Error::Empty { what: "features", .. })));
        assert!(Features::new(vec![0u8; 0], usize::MAX, 3).is_err());
    }
}
