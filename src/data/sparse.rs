//! A sparse matrix by rows (CSR, compressed sparse rows).

use std::borrow::Cow;
use std::ops::Range;

use super::Values;
use crate::error::{Error, Place, Result};

/// A sparse matrix by rows (CSR, compressed sparse rows): for each row the columns of its values, ascending, and the values.
/// It is checked once, when it is made. What is not stored is 0; a stored 0 is one too.
///
/// ```
/// use softreg::Features;
/// use softreg::data::Csr;
/// // [[0, 2, 0], [0, 0, 0], [1, 0, 3]]
/// let csr = Csr::new(vec![0, 1, 1, 3], vec![1, 0, 2], vec![2.0f32, 1.0, 3.0])?;
/// let features = Features::new(csr, 3, 3)?;
/// assert_eq!(features.values().len(), 3);
/// # Ok::<(), softreg::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Csr<'a> {
    offsets: Cow<'a, [u64]>,
    columns: Cow<'a, [u32]>,
    values: Cow<'a, [f32]>,
}

impl<'a> Csr<'a> {
    /// From the offsets (n_samples + 1), of which the first is 0: row i has the columns and values from `offsets[i]` up to
    /// `offsets[i + 1]`. Columns count from 0.
    ///
    /// # Errors
    /// [`Error::Shape`] when the offsets do not begin with 0, descend, or do not end with the number of columns and of values;
    /// [`Error::Malformed`] with the row in which columns do not ascend; [`Error::NotFinite`] with row and column of the first NaN or
    /// infinity.
    pub fn new(
        offsets: impl Into<Cow<'a, [u64]>>,
        columns: impl Into<Cow<'a, [u32]>>,
        values: impl Into<Cow<'a, [f32]>>,
    ) -> Result<Self> {
        let (offsets, columns, values) = (offsets.into(), columns.into(), values.into());
        let shape = |what: &str, expected: u64, found: u64| {
            Err(Error::Shape { what: what.to_owned(), expected: expected as usize, found: found as usize })
        };
        let (&[first, ..], &[.., last]) = (&*offsets, &*offsets) else {
            return shape("offsets of a sparse matrix, at least", 1, 0);
        };
        if first != 0 {
            return shape("the first offset of a sparse matrix", 0, first);
        }
        if columns.len() != values.len() {
            return shape("values of a sparse matrix (one for each column)", columns.len() as u64, values.len() as u64);
        }
        if last != values.len() as u64 {
            return shape("values of a sparse matrix (the last offset)", last, values.len() as u64);
        }
        if let Some(row) = offsets.windows(2).position(|pair| pair[0] > pair[1]) {
            return shape("an offset of a sparse matrix, not below the one before,", offsets[row], offsets[row + 1]);
        }
        let csr = Self { offsets, columns, values };
        for row in 0..csr.n_rows() {
            let (columns, values) = csr.row(row);
            if let Some(pair) = columns.windows(2).find(|pair| pair[0] >= pair[1]) {
                let problem = format!(
                    "column {} comes after column {}; the columns of a row must ascend, each at most once",
                    u64::from(pair[1]) + 1,
                    u64::from(pair[0]) + 1
                );
                return Err(Error::malformed(Place::row(row + 1), problem));
            }
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                let place = Place::row(row + 1).at_column(columns[index] as usize + 1);
                return Err(Error::NotFinite { place, value: values[index].into() });
            }
        }
        Ok(csr)
    }

    /// Where each row begins and, last, where the last one ends, (n_samples + 1); of a part of a larger matrix they do not begin
    /// with 0.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// The columns of the values.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }

    /// The values.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The number of rows.
    pub fn n_rows(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Columns and values of a row.
    pub(crate) fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let range = self.position(row)..self.position(row + 1);
        (&self.columns[range.clone()], &self.values[range])
    }

    /// How many rows from `start` on take up no more than `bytes`.
    pub(super) fn n_rows_within(&self, start: usize, bytes: usize) -> usize {
        const OF_VALUE: u64 = (size_of::<u32>() + size_of::<f32>()) as u64;
        let first = self.offsets[start];
        let is_within = |(row, offset): (usize, &u64)| {
            let of_offsets = (row * size_of::<u64>()) as u64;
            of_offsets.saturating_add((offset - first).saturating_mul(OF_VALUE)) <= bytes as u64
        };
        self.offsets[start..].iter().enumerate().skip(1).take_while(|&(row, offset)| is_within((row, offset))).count()
    }

    /// Where a row begins.
    fn position(&self, row: usize) -> usize {
        (self.offsets[row] - self.offsets[0]) as usize
    }

    /// That it has so many rows, and not more columns.
    pub(super) fn check_shape(&self, n_samples: usize, n_features: usize) -> Result<()> {
        if self.n_rows() != n_samples {
            let what = "rows of a sparse feature matrix".to_owned();
            return Err(Error::Shape { what, expected: n_samples, found: self.n_rows() });
        }
        match self.columns.iter().max() {
            Some(&column) if column as usize >= n_features => Err(Error::Shape {
                what: "columns of a sparse feature matrix".to_owned(),
                expected: n_features,
                found: column as usize + 1,
            }),
            _ => Ok(()),
        }
    }

    /// Where sparse features cannot be used.
    #[cfg(feature = "gpu")]
    pub(crate) fn unsupported() -> Error {
        Error::Setting {
            name: "the features",
            value: "a sparse matrix".to_owned(),
            expected: "a dense one on this device",
        }
    }

    /// A view of some rows.
    pub(super) fn rows(&self, rows: Range<usize>) -> Csr<'_> {
        let range = self.position(rows.start)..self.position(rows.end);
        Csr {
            offsets: Cow::Borrowed(&self.offsets[rows.start..=rows.end]),
            columns: Cow::Borrowed(&self.columns[range.clone()]),
            values: Cow::Borrowed(&self.values[range]),
        }
    }

    /// The same rows with only the columns `kept`, ascending, of `n_columns`; nothing else is copied when no value is left out.
    pub(super) fn of_columns(&self, kept: &[u32], n_columns: usize) -> Csr<'_> {
        const LEFT_OUT: u32 = u32::MAX;
        let mut places = vec![LEFT_OUT; n_columns];
        kept.iter().zip(0..).for_each(|(&column, place)| places[column as usize] = place);
        let place = |column: &u32| places[*column as usize];
        if self.columns.iter().all(|column| place(column) != LEFT_OUT) {
            return Csr {
                offsets: Cow::Borrowed(&self.offsets),
                columns: self.columns.iter().map(place).collect(),
                values: Cow::Borrowed(&self.values),
            };
        }
        let (mut offsets, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for row in 0..self.n_rows() {
            let (of_row, values_of_row) = self.row(row);
            for (column, &value) in of_row.iter().map(place).zip(values_of_row).filter(|(place, _)| *place != LEFT_OUT)
            {
                columns.push(column);
                values.push(value);
            }
            offsets.push(values.len() as u64);
        }
        Csr { offsets: offsets.into(), columns: columns.into(), values: values.into() }
    }

    /// A copy of the rows that `indices` names, in that order.
    pub(super) fn select(&self, indices: &[u32]) -> Csr<'static> {
        let n_values = indices.iter().map(|&row| self.row(row as usize).0.len()).sum();
        let (mut offsets, mut columns, mut values) =
            (Vec::with_capacity(indices.len() + 1), Vec::with_capacity(n_values), Vec::with_capacity(n_values));
        offsets.push(0);
        for &row in indices {
            let (of_row, values_of_row) = self.row(row as usize);
            columns.extend_from_slice(of_row);
            values.extend_from_slice(values_of_row);
            offsets.push(values.len() as u64);
        }
        Csr { offsets: offsets.into(), columns: columns.into(), values: values.into() }
    }
}

impl<'a> From<Csr<'a>> for Values<'a> {
    fn from(csr: Csr<'a>) -> Self {
        Self::Sparse(csr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Features;

    /// [[0, 2, 0], [0, 0, 0], [1, 0, 3], [0, 4, 0]]
    fn features() -> Features<'static> {
        let csr = Csr::new(vec![0, 1, 1, 3, 4], vec![1, 0, 2, 1], vec![2.0f32, 1.0, 3.0, 4.0]).unwrap();
        Features::new(csr, 4, 3).unwrap()
    }

    fn dense(features: &Features) -> Vec<f32> {
        let d = features.n_features();
        let mut values = vec![f32::NAN; features.n_samples() * d];
        values.chunks_mut(d).enumerate().for_each(|(row, into)| features.read_row(row, into));
        values
    }

    #[test]
    fn rows_are_those_of_the_dense_matrix() {
        let features = features();
        assert_eq!(dense(&features), [0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 3.0, 0.0, 4.0, 0.0]);
        let part = features.rows(1..4).unwrap();
        assert_eq!(dense(&part), [0.0, 0.0, 0.0, 1.0, 0.0, 3.0, 0.0, 4.0, 0.0]);
        assert_eq!(dense(&part.rows(1..2).unwrap()), [1.0, 0.0, 3.0]);
        assert_eq!(dense(&part.select(&[2, 0, 1, 1]).unwrap())[..6], [0.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(features.max_abs(), 4.0);
    }

    #[test]
    fn what_is_no_sparse_matrix_is_an_error() {
        let csr = |offsets: &[u64], columns: &[u32], values: &[f32]| {
            Csr::new(offsets.to_vec(), columns.to_vec(), values.to_vec()).map(drop)
        };
        csr(&[0, 2], &[0, 5], &[1.0, 2.0]).unwrap();
        assert!(matches!(csr(&[], &[], &[]), Err(Error::Shape { .. })));
        assert!(matches!(csr(&[1, 2], &[0, 5], &[1.0, 2.0]), Err(Error::Shape { .. })));
        assert!(matches!(csr(&[0, 1], &[0, 5], &[1.0, 2.0]), Err(Error::Shape { expected: 1, found: 2, .. })));
        assert!(matches!(csr(&[0, 2], &[0, 5], &[1.0]), Err(Error::Shape { expected: 2, found: 1, .. })));
        assert!(matches!(csr(&[0, 2, 1, 2], &[0, 5], &[1.0, 2.0]), Err(Error::Shape { .. })));
        for columns in [[5, 0], [5, 5]] {
            let error = csr(&[0, 0, 2], &columns, &[1.0, 2.0]).unwrap_err().to_string();
            assert!(error.contains("row 2") && error.contains("must ascend"), "{error}");
        }
        match csr(&[0, 0, 2], &[0, 5], &[1.0, f32::NAN]) {
            Err(Error::NotFinite { place, .. }) => assert_eq!((place.row, place.column), (Some(2), Some(6))),
            other => panic!("{other:?}"),
        }
        let matrix = || Csr::new(vec![0, 2], vec![0, 5], vec![1.0f32, 2.0]).unwrap();
        assert!(Features::new(matrix(), 1, 6).is_ok());
        assert!(matches!(Features::new(matrix(), 1, 5), Err(Error::Shape { expected: 5, found: 6, .. })));
        assert!(matches!(Features::new(matrix(), 2, 6), Err(Error::Shape { expected: 2, found: 1, .. })));
    }
}
