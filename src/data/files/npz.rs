//! .npz, several arrays of NumPy: a zip archive of .npy files. SciPy keeps sparse matrices in such archives.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;

use super::MAX_FEATURES;
use super::array::{Array, Numbers};
use super::input::{Input, ReadSeek, most_unpacked, too_much};
use super::named::{Arrays, Entry, inside};
use super::npy;
use crate::data::{Csr, Features};
use crate::error::{Error, Place, Result};

pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

pub(super) struct Npz {
    path: PathBuf,
    archive: ZipArchive<Box<dyn ReadSeek + Send>>,
    /// Where each array is in the archive.
    places: Vec<usize>,
    entries: Vec<Entry>,
    max_unpacked: Option<u64>,
}

impl Npz {
    pub fn open(input: Input) -> Result<Self> {
        let (path, max_unpacked) = (input.path().to_owned(), input.max_unpacked());
        let archive = ZipArchive::new(input.whole()?.into_reader()).map_err(|error| failed(error, &path))?;
        let mut npz = Self { path, archive, places: Vec::new(), entries: Vec::new(), max_unpacked };
        for place in 0..npz.archive.len() {
            let name = npz.archive.name_for_index(place).and_then(Result::ok).unwrap_or_default().into_owned();
            if let Some(name) = name.strip_suffix(".npy") {
                let shape = npy::header(&mut npz.part(place)?)?.shape;
                npz.places.push(place);
                npz.entries.push(Entry { name: name.to_owned(), shape });
            }
        }
        if npz.entries.is_empty() {
            let problem = "this is a zip archive without any .npy, so that it is no .npz; unpack it";
            return Err(Error::malformed(Place::file(&npz.path), problem));
        }
        Ok(npz)
    }

    /// What is at a place of the archive.
    fn part(&mut self, place: usize) -> Result<Input<'_>> {
        let path = &self.path;
        let file = self.archive.by_index(place).map_err(|error| failed(error, path))?;
        let (packed, size) = (file.compressed_size(), file.size());
        let path = inside(path, &file.name().unwrap_or_default());
        let most = most_unpacked(packed, self.max_unpacked);
        if size > most {
            return Err(Error::malformed(Place::file(path), too_much(most)));
        }
        Ok(Input::part(&path, file, size, Some("zip")))
    }

    fn array(&mut self, name: &str) -> Option<Result<Array>> {
        let index = self.entries.iter().position(|entry| entry.name == name)?;
        Some(self.read(index))
    }

    /// A sparse matrix as scipy.sparse.save_npz writes it; none if it is not one.
    fn sparse(&mut self) -> Option<Result<Features<'static>>> {
        let format = match self.array("format")? {
            Ok(Array { numbers: Numbers::Names(names), .. }) if names.len() == 1 => names.into_iter().next()?,
            _ => return None,
        };
        let shape = whole_numbers(self.array("shape")?);
        let data = self.array("data")?;
        Some(self.sparse_of(&format, shape, data).map_err(|error| error.in_file(&self.path)))
    }

    fn sparse_of(&mut self, format: &str, shape: Result<Vec<u64>>, data: Result<Array>) -> Result<Features<'static>> {
        let malformed = |problem: &str| Error::malformed(Place::default(), problem);
        let &[n_rows, n_columns] = &*shape? else {
            return Err(malformed("the shape of its sparse matrix is not two numbers"));
        };
        let values = single_precision(data?)?;
        let mut part = |name: &str| match self.array(name) {
            Some(array) => whole_numbers(array),
            None => Err(malformed(&format!("it has no array {name:?}, without which it is no sparse matrix"))),
        };
        let (rows, columns) = match format {
            "csr" => (spread(&part("indptr")?, n_rows, values.len()), part("indices")?),
            "csc" => {
                let rows = part("indices")?;
                match spread(&part("indptr")?, n_columns, values.len()) {
                    Some(columns) => (Some(rows), columns),
                    None => (None, rows),
                }
            }
            "coo" => (Some(part("row")?), part("col")?),
            other => {
                let problem = format!("its sparse matrix is in the format {other:?}; save matrix.tocsr() instead");
                return Err(malformed(&problem));
            }
        };
        let rows = rows.filter(|rows| rows.len() == values.len() && columns.len() == values.len());
        let Some(rows) = rows else {
            return Err(malformed("the arrays of its sparse matrix do not fit together"));
        };
        let above = |indices: &[u64], n: u64| indices.iter().any(|&index| index >= n);
        if above(&rows, n_rows) || above(&columns, n_columns) {
            return Err(malformed("an index of its sparse matrix is outside of the shape"));
        }
        if n_columns > MAX_FEATURES as u64 {
            let problem = format!("its sparse matrix has {n_columns} columns; softreg accepts {MAX_FEATURES} features");
            return Err(malformed(&problem));
        }
        // Offsets take memory by the row, whatever the file has.
        let size = |n: u64| n.saturating_mul(8);
        if size(n_rows) > most_unpacked(size(values.len() as u64), self.max_unpacked) {
            return Err(malformed("its sparse matrix has next to nothing but empty rows"));
        }
        by_rows(&rows, &columns, &values, n_rows as usize)
            .and_then(|csr| Features::new(csr, n_rows as usize, n_columns as usize))
    }
}

impl Arrays for Npz {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read(&mut self, index: usize) -> Result<Array> {
        match self.places.get(index) {
            Some(&place) => npy::read(&mut self.part(place)?),
            None => Err(Error::Empty { place: Place::file(&self.path), what: "features" }),
        }
    }

    fn matrix(&mut self) -> Option<Result<Features<'static>>> {
        self.sparse()
    }
}

fn failed(error: ZipError, path: &Path) -> Error {
    use ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    match error {
        ZipError::Io(source) if !matches!(source.kind(), InvalidData | InvalidInput | UnexpectedEof) => {
            Error::io("read", path, source)
        }
        error => Error::malformed(Place::file(path), format!("the zip archive is damaged or cut off ({error})")),
    }
}

fn whole_numbers(array: Result<Array>) -> Result<Vec<u64>> {
    let numbers = match array?.numbers {
        Numbers::Integers(values) => values.into_iter().map(u64::try_from).collect::<Result<Vec<u64>, _>>().ok(),
        Numbers::U8(values) => Some(values.into_iter().map(u64::from).collect()),
        _ => None,
    };
    numbers.ok_or_else(|| Error::malformed(Place::default(), "an index of its sparse matrix is no whole number"))
}

fn single_precision(array: Array) -> Result<Vec<f32>> {
    Ok(match array.numbers {
        Numbers::U8(values) => values.into_iter().map(f32::from).collect(),
        Numbers::F16(values) => values.into_iter().map(half::f16::to_f32).collect(),
        Numbers::F32(values) => values,
        Numbers::F64(values) => values.into_iter().map(|value| value as f32).collect(),
        Numbers::Integers(values) => values.into_iter().map(|value| value as f32).collect(),
        Numbers::Names(_) => return Err(Error::malformed(Place::default(), "its sparse matrix holds text")),
    })
}

/// For each of `n_values` values the part it is in, when part i has those from `offsets[i]` up to `offsets[i + 1]`.
fn spread(offsets: &[u64], n_parts: u64, n_values: usize) -> Option<Vec<u64>> {
    let fits = offsets.len() as u64 == n_parts.checked_add(1)?
        && offsets.first() == Some(&0)
        && offsets.last() == Some(&(n_values as u64))
        && offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    let parts = || offsets.windows(2).zip(0..);
    fits.then(|| parts().flat_map(|(pair, part)| (pair[0]..pair[1]).map(move |_| part)).collect())
}

/// The matrix of values in any order, of which those of one place are added.
fn by_rows(rows: &[u64], columns: &[u64], values: &[f32], n_rows: usize) -> Result<Csr<'static>> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let place = |&index: &usize| (rows[index], columns[index]);
    // Stable, so that sums do not depend on anything but the order in the file; next to nothing when it is sorted.
    order.sort_by_key(place);
    let mut ends = vec![0u64; n_rows + 1];
    let (mut of_columns, mut of_values): (Vec<u32>, Vec<f32>) = (Vec::new(), Vec::new());
    let mut last = None;
    for index in order {
        let place = place(&index);
        match of_values.last_mut() {
            Some(value) if last == Some(place) => *value += values[index],
            _ => {
                of_columns.push(place.1 as u32);
                of_values.push(values[index]);
                ends[place.0 as usize + 1] += 1;
            }
        }
        last = Some(place);
    }
    for row in 0..n_rows {
        ends[row + 1] += ends[row];
    }
    Csr::new(ends, of_columns, of_values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_in_any_order_become_rows_and_those_of_one_place_are_added() {
        let csr = by_rows(&[2, 0, 2, 0, 2], &[1, 3, 0, 3, 1], &[1.0, 2.0, 3.0, 0.5, 4.0], 4).unwrap();
        assert_eq!(csr.offsets(), [0, 1, 1, 3, 3]);
        assert_eq!((csr.columns(), csr.values()), (&[3, 0, 1][..], &[2.5, 3.0, 5.0][..]));
        assert_eq!(spread(&[0, 2, 2, 3], 3, 3).unwrap(), [0, 0, 2]);
        for (offsets, n_parts, n_values) in [(&[0, 2][..], 2, 2), (&[1, 2], 1, 2), (&[0, 3, 2], 2, 2), (&[0, 2], 1, 3)]
        {
            assert!(spread(offsets, n_parts, n_values).is_none());
        }
    }
}
