//! Features that stay in their file, of which a part at a time is in memory.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use half::slice::HalfBitsSliceExt;
use half::vec::HalfBitsVecExt;
use rayon::prelude::*;

use super::read_at::{Stamp, changed, read_at, stamp};
use super::{Dtype, Features, Values};
use crate::error::{Error, Place, Result};

/// A feature matrix in a file: rows of values, one after the other, as their type has them in memory. Rows are read when they are
/// needed. The file is not mapped, so that one that is cut off while it is in use is an error and not a crash; one that is
/// written to in the meantime is an error too.
#[derive(Clone)]
pub struct Stored {
    matrix: Arc<Matrix>,
    rows: Rows,
    /// Of the whole matrix.
    max_abs: f32,
    memory: u64,
}

/// The whole matrix.
struct Matrix {
    file: File,
    path: PathBuf,
    /// Where the first row begins.
    offset: u64,
    dtype: Dtype,
    n_features: usize,
    /// Length and time of the last change, when it was opened.
    stamp: Stamp,
}

/// Which rows of the matrix there are.
#[derive(Clone)]
enum Rows {
    Range(Range<usize>),
    Selected(Arc<[u32]>),
}

/// Memory for a part of the rows, aligned for values of every type.
pub(crate) type RowBuffer = Vec<u64>;

/// Bytes that a thread reads at once.
const PIECE: usize = 1 << 20;
/// Bytes that are read at once where all rows are looked at.
const BLOCK: usize = 32 << 20;
/// Rows that are selected are read at once when they have no more bytes.
const SMALL: usize = 64 << 20;

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("path", &self.matrix.path)
            .field("n_rows", &self.n_rows())
            .finish_non_exhaustive()
    }
}

impl Stored {
    /// With at most `memory` bytes of them in memory at a time, the (n_samples × n_features) values of type `dtype` in the file `path` from byte `offset` on, row-major and little-endian. They
    /// are read once, to see that all are finite.
    ///
    /// # Errors
    /// [`Error::Io`] and, when the file is too short or there are no values, [`Error::Malformed`]; [`Error::NotFinite`] with row
    /// and column of the first NaN or infinity.
    pub fn open(
        path: &Path,
        offset: u64,
        dtype: Dtype,
        n_samples: usize,
        n_features: usize,
        memory: u64,
    ) -> Result<Self> {
        let failed = |source| Error::io("read", path, source);
        let malformed = |problem: String| Error::malformed(Place::file(path), problem);
        let file = File::open(path).map_err(failed)?;
        let stamp = stamp(&file).map_err(failed)?;
        let n_bytes = super::features::check_size(n_samples, n_features)
            .map_err(|error| error.in_file(path))
            .map(|n| (n as u64).checked_mul(dtype.size() as u64).and_then(|n| n.checked_add(offset)))?;
        if n_bytes.is_none_or(|n_bytes| n_bytes > stamp.0) {
            let size = dtype.size();
            return Err(malformed(format!(
                "it has {} bytes, too few for {n_samples} × {n_features} values of {size}; is it whole?",
                stamp.0
            )));
        }
        if cfg!(target_endian = "big") {
            return Err(malformed("large files cannot be read bit by bit on big-endian machines".to_owned()));
        }
        let matrix = Matrix { file, path: path.to_owned(), offset, dtype, n_features, stamp };
        let mut stored = Self { matrix: Arc::new(matrix), rows: Rows::Range(0..n_samples), max_abs: 0.0, memory };
        stored.max_abs = stored.largest()?;
        Ok(stored)
    }

    /// The largest absolute value; an error when one is not finite.
    fn largest(&self) -> Result<f32> {
        let n_samples = self.n_rows();
        let rows_at_once = (BLOCK / rayon::current_num_threads() / self.matrix.row_bytes()).max(1);
        let blocks = (0..n_samples.div_ceil(rows_at_once)).into_par_iter().map_init(RowBuffer::new, |buffer, block| {
            let first = block * rows_at_once;
            let rows = first..n_samples.min(first + rows_at_once);
            let n_rows = rows.len();
            self.read_into(&[rows], buffer)?;
            match Features::new(self.in_buffer(n_rows, buffer), n_rows, self.matrix.n_features) {
                Ok(features) => Ok(features.max_abs()),
                Err(Error::NotFinite { place, value }) => {
                    let row = place.row.unwrap_or(1) + first;
                    Err(Error::NotFinite { place: place.at_row(row).in_file(&self.matrix.path), value })
                }
                Err(other) => Err(other),
            }
        });
        blocks.try_reduce(|| 0.0, |a, b| Ok(a.max(b)))
    }

    /// A backend itself computes with what is in memory.
    pub(crate) fn unsupported() -> Error {
        let expected = "in memory; Device::session reads them part by part";
        Error::Setting { name: "the features", value: "in a file".to_owned(), expected }
    }

    /// Bytes that may be in memory at a time.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    /// How many rows of that many features can be selected and are in memory then.
    pub(crate) fn most_read(n_features: usize) -> usize {
        (SMALL / (n_features * Dtype::F32.size())).max(1)
    }

    pub(super) fn dtype(&self) -> Dtype {
        self.matrix.dtype
    }

    /// The largest absolute value of the whole file.
    pub(super) fn max_abs(&self) -> f32 {
        self.max_abs
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.n_rows() * self.matrix.n_features
    }

    pub(super) fn n_rows(&self) -> usize {
        match &self.rows {
            Rows::Range(range) => range.len(),
            Rows::Selected(rows) => rows.len(),
        }
    }

    /// The same without those that are not in `rows`.
    pub(super) fn rows(&self, rows: Range<usize>) -> Self {
        let rows = match &self.rows {
            Rows::Range(all) => Rows::Range(all.start + rows.start..all.start + rows.end),
            Rows::Selected(all) => Rows::Selected(all[rows].into()),
        };
        Self { rows, ..self.clone() }
    }

    /// The rows that `indices` names, in that order: read, when they are few, otherwise where they are.
    pub(super) fn select(&self, indices: &[u32]) -> Result<Values<'static>> {
        let selected: Arc<[u32]> = match &self.rows {
            Rows::Range(all) => indices.iter().map(|&index| all.start as u32 + index).collect(),
            Rows::Selected(all) => indices.iter().map(|&index| all[index as usize]).collect(),
        };
        let selected = Self { rows: Rows::Selected(selected), ..self.clone() };
        let width = self.matrix.n_features;
        if indices.len().saturating_mul(width * self.dtype().size()) > SMALL {
            return Ok(Values::Stored(selected));
        }
        let n = indices.len() * width;
        Ok(match self.dtype() {
            Dtype::F32 => selected.read_all::<f32>(n)?.into(),
            Dtype::F16 => selected.read_all::<u16>(n)?.reinterpret_into::<f16>().into(),
            Dtype::U8 => selected.read_all::<u8>(n)?.into(),
        })
    }

    fn read_all<T: bytemuck::Pod>(&self, n: usize) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); n];
        let all = 0..self.n_rows();
        self.read(std::slice::from_ref(&all), bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// Reads some rows into `buffer`.
    pub(super) fn read_into(&self, rows: &[Range<usize>], buffer: &mut RowBuffer) -> Result<()> {
        let n_bytes = rows.iter().map(ExactSizeIterator::len).sum::<usize>() * self.matrix.row_bytes();
        let n_words = n_bytes.div_ceil(size_of::<u64>());
        if buffer.len() < n_words {
            buffer.clear();
            buffer
                .try_reserve_exact(n_words)
                .map_err(|_| Error::out_of_memory("a part of the features", n_words, size_of::<u64>()))?;
            buffer.resize(n_words, 0);
        }
        self.read(rows, &mut bytemuck::cast_slice_mut(buffer)[..n_bytes])
    }

    /// The `n_rows` rows that were read into `buffer`.
    pub(super) fn in_buffer<'b>(&self, n_rows: usize, buffer: &'b RowBuffer) -> Values<'b> {
        let bytes = &bytemuck::cast_slice::<u64, u8>(buffer)[..n_rows * self.matrix.row_bytes()];
        match self.dtype() {
            Dtype::F32 => bytemuck::cast_slice::<u8, f32>(bytes).into(),
            Dtype::F16 => bytemuck::cast_slice::<u8, u16>(bytes).reinterpret_cast::<f16>().into(),
            Dtype::U8 => bytes.into(),
        }
    }

    /// Reads the bytes of some rows with all threads.
    fn read(&self, rows: &[Range<usize>], into: &mut [u8]) -> Result<()> {
        self.matrix.check_unchanged()?;
        let row_bytes = self.matrix.row_bytes();
        let rows_at_once = (PIECE / row_bytes).max(1);
        let mut pieces = Vec::new();
        let mut rest = into;
        for rows in rows {
            for first in rows.clone().step_by(rows_at_once) {
                let n_rows = rows_at_once.min(rows.end - first);
                let piece;
                (piece, rest) = rest.split_at_mut(n_rows * row_bytes);
                pieces.push((first, piece));
            }
        }
        pieces.into_par_iter().try_for_each(|(first, into)| {
            match &self.rows {
                Rows::Range(all) => self.matrix.read(all.start + first, into),
                Rows::Selected(all) => {
                    // Rows that lie side by side in one go.
                    let mut rows = &all[first..first + into.len() / row_bytes];
                    let mut into = into;
                    while let [row, ..] = *rows {
                        let n =
                            rows.iter().zip(u64::from(row)..).take_while(|&(&next, at)| u64::from(next) == at).count();
                        let (now, later) = into.split_at_mut(n * row_bytes);
                        self.matrix.read(row as usize, now)?;
                        (rows, into) = (&rows[n..], later);
                    }
                    Ok(())
                }
            }
        })
    }
}

impl From<Stored> for Values<'_> {
    fn from(stored: Stored) -> Self {
        Self::Stored(stored)
    }
}

impl Matrix {
    fn row_bytes(&self) -> usize {
        self.n_features * self.dtype.size()
    }

    /// The rows from `row` on.
    fn read(&self, row: usize, into: &mut [u8]) -> Result<()> {
        let offset = self.offset + row as u64 * self.row_bytes() as u64;
        match read_at(&self.file, offset, into) {
            Ok(n) if n < into.len() => Err(changed(&self.path)),
            Ok(_) => Ok(()),
            Err(source) => Err(Error::io("read", &self.path, source)),
        }
    }

    fn check_unchanged(&self) -> Result<()> {
        let now = stamp(&self.file).map_err(|source| Error::io("read", &self.path, source))?;
        if now == self.stamp { Ok(()) } else { Err(changed(&self.path)) }
    }
}
