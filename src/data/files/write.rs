//! Data as `.npy` and safetensors files, which are read without parsing.

use std::io::{self, Write};

use half::f16;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::{Table, npy};
use crate::data::{Dtype, Features, Labels, Targets, Values};
use crate::error::{Error, Place, Result};

/// Bytes that are converted at once.
const BLOCK: usize = 1 << 20;

/// The largest difference that another precision makes to a value of a feature matrix.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rounding {
    /// Where.
    pub place: Place,
    /// The value.
    pub from: f32,
    /// What becomes of it.
    pub to: f32,
}

impl Rounding {
    /// How far apart the two are.
    pub fn error(&self) -> f64 {
        (f64::from(self.from) - f64::from(self.to)).abs()
    }
}

impl Features<'_> {
    /// What writing the values in another precision changes most; none where every value stays as it is.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the first value that does not fit: for f16 one that is too large, for u8 one that is no whole
    /// number from 0 to 255.
    pub fn rounding(&self, dtype: Dtype) -> Result<Option<Rounding>> {
        let is_stored = matches!(self.values(), Values::Stored(_));
        if self.values().dtype() == dtype || dtype == Dtype::F32 || is_stored {
            return Ok(None);
        }
        let of_row = |row: usize| {
            let mut values = vec![0.0; self.n_features()];
            self.read_row(row, &mut values);
            let mut largest = Ok(None::<Rounding>);
            for (column, &from) in values.iter().enumerate() {
                let to = match dtype {
                    Dtype::F32 => from,
                    Dtype::F16 => f16::from_f32(from).to_f32(),
                    Dtype::U8 => f32::from(from as u8),
                };
                let place = || Place::row(row + 1).at_column(column + 1);
                if to.is_infinite() {
                    let problem = format!("the value {from} is too large for f16, which ends at {}", f16::MAX);
                    return Err(Error::malformed(place(), problem));
                }
                if dtype == Dtype::U8 && from != to {
                    let problem = format!("the value {from} is no whole number from 0 to 255, as u8 has them");
                    return Err(Error::malformed(place(), problem));
                }
                if from != to {
                    largest = Ok(larger(largest?, Some(Rounding { place: place(), from, to })));
                }
            }
            largest
        };
        // The first error is the one that is told.
        let n = self.n_samples();
        if let Some(error) = (0..n).into_par_iter().find_map_first(|row| of_row(row).err()) {
            return Err(error);
        }
        let rows = (0..n).into_par_iter().map(|row| of_row(row).unwrap_or_default());
        Ok(rows.reduce(|| None, larger))
    }

    /// The values in this precision, row after row, little-endian.
    fn write(&self, dtype: Dtype, out: &mut dyn Write) -> io::Result<()> {
        if matches!(self.values(), Values::Stored(_)) {
            return Err(io::Error::other(
                "features that stay in their file are not copied; read them with more memory",
            ));
        }
        let mut row = vec![0.0; self.n_features()];
        let mut bytes = Vec::with_capacity(BLOCK + row.len() * dtype.size());
        for index in 0..self.n_samples() {
            self.read_row(index, &mut row);
            match dtype {
                Dtype::F32 => bytes.extend(row.iter().flat_map(|value| value.to_le_bytes())),
                Dtype::F16 => bytes.extend(row.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes())),
                Dtype::U8 => bytes.extend(row.iter().map(|&value| value as u8)),
            }
            if bytes.len() >= BLOCK {
                out.write_all(&bytes)?;
                bytes.clear();
            }
        }
        out.write_all(&bytes)
    }
}

/// The larger of two, the first where they are equal.
fn larger(a: Option<Rounding>, b: Option<Rounding>) -> Option<Rounding> {
    let error = |rounding: &Option<Rounding>| rounding.as_ref().map_or(-1.0, Rounding::error);
    if error(&b) > error(&a) { b } else { a }
}

impl Table {
    /// Writes the features as a `.npy` file, (n_samples × n_features), in this precision. [`Features::rounding`] tells what that
    /// changes.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write_npy(&self, dtype: Dtype, out: &mut dyn Write) -> io::Result<()> {
        let kind = match dtype {
            Dtype::F32 => "<f4",
            Dtype::F16 => "<f2",
            Dtype::U8 => "|u1",
        };
        write_npy_header(kind, &[self.features.n_samples(), self.features.n_features()], out)?;
        self.features.write(dtype, out)
    }

    /// Writes all of it as a safetensors file: `features`, (n_samples × n_features), in this precision; `labels`, the number of each
    /// sample's class as i64, or soft labels, (n_samples × n_classes), as f32; `weights` as f32. The names of classes and
    /// features are metadata, `classes` and `feature_names`, as JSON.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write_safetensors(&self, dtype: Dtype, out: &mut dyn Write) -> io::Result<()> {
        let n = self.features.n_samples();
        let mut metadata = Map::new();
        let mut tensors = Vec::new();
        // The widest values first, so that all are aligned.
        if let Some(labels) = &self.labels {
            metadata.insert("classes".to_owned(), json!(labels.classes()).to_string().into());
            tensors.push(match labels.targets() {
                Targets::Classes(_) => ("labels", "I64", vec![n], 8 * n),
                Targets::Distributions(values) => ("labels", "F32", vec![n, labels.classes().len()], 4 * values.len()),
            });
        }
        if self.weights.is_some() {
            tensors.push(("weights", "F32", vec![n], 4 * n));
        }
        let (name, d) = (dtype.to_string().to_uppercase(), self.features.n_features());
        tensors.push(("features", &name, vec![n, d], n * d * dtype.size()));
        if let Some(names) = &self.feature_names {
            metadata.insert("feature_names".to_owned(), json!(names).to_string().into());
        }

        let mut header = Map::new();
        if !metadata.is_empty() {
            header.insert("__metadata__".to_owned(), Value::Object(metadata));
        }
        let mut begin = 0;
        for (name, dtype, shape, bytes) in tensors {
            let tensor = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, begin + bytes] });
            header.insert(name.to_owned(), tensor);
            begin += bytes;
        }
        let mut header = Value::Object(header).to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        if let Some(labels) = &self.labels {
            match labels.targets() {
                Targets::Classes(classes) => write_all(classes, |&class| i64::from(class).to_le_bytes(), out)?,
                Targets::Distributions(values) => write_all(values, |value| value.to_le_bytes(), out)?,
            }
        }
        if let Some(weights) = &self.weights {
            write_all(weights, |weight| weight.to_le_bytes(), out)?;
        }
        self.features.write(dtype, out)
    }
}

impl Labels<'_> {
    /// Writes the name of each sample's class as a line.
    ///
    /// # Errors
    /// Those of writing; for soft labels, and for a name that is not a line as it stands.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Targets::Classes(classes) = self.targets() else {
            return Err(invalid("soft labels are no names"));
        };
        let names = self.classes();
        if let Some(name) = names.iter().find(|name| name.contains(['\n', '\r']) || name.trim() != *name) {
            return Err(invalid(format!("the class {name:?} cannot be a line of text")));
        }
        classes.iter().filter_map(|&class| names.get(class as usize)).try_for_each(|name| writeln!(out, "{name}"))
    }

    /// Writes the labels as a `.npy` file: whole numbers where all names are some, else text; soft labels as f32, (n_samples ×
    /// n_classes).
    ///
    /// # Errors
    /// Those of writing.
    pub fn write_npy(&self, out: &mut dyn Write) -> io::Result<()> {
        let names = self.classes();
        let classes = match self.targets() {
            Targets::Classes(classes) => classes,
            Targets::Distributions(values) => {
                write_npy_header("<f4", &[self.n_samples(), names.len()], out)?;
                return write_all(values, |value| value.to_le_bytes(), out);
            }
        };
        let number = |name: &String| name.parse::<i64>().ok().filter(|number| number.to_string() == *name);
        let bytes_of: Vec<Vec<u8>> = match names.iter().map(number).collect::<Option<Vec<i64>>>() {
            Some(numbers) => {
                write_npy_header("<i8", &[self.n_samples()], out)?;
                numbers.iter().map(|number| number.to_le_bytes().to_vec()).collect()
            }
            None => {
                // Text of one length, filled up with zeros.
                let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
                write_npy_header(&format!("<U{width}"), &[self.n_samples()], out)?;
                let characters = |name: &String| {
                    let filled = name.chars().map(u32::from).chain(std::iter::repeat(0)).take(width);
                    filled.flat_map(u32::to_le_bytes).collect()
                };
                names.iter().map(characters).collect()
            }
        };
        classes.iter().filter_map(|&class| bytes_of.get(class as usize)).try_for_each(|bytes| out.write_all(bytes))
    }
}

/// The header of a `.npy` file with an array in C order, of a type as NumPy names it.
fn write_npy_header(kind: &str, shape: &[usize], out: &mut dyn Write) -> io::Result<()> {
    // A shape of one number has a comma too.
    let shape: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}), }}", shape.trim_end());
    // The values begin at a multiple of 64 bytes, after a line break.
    let start = npy::MAGIC.len() + 4;
    let length = (start + header.len() + 1).next_multiple_of(64) - start;
    let header = format!("{header:width$}\n", width = length - 1);
    let length = u16::try_from(header.len()).map_err(io::Error::other)?;
    out.write_all(npy::MAGIC)?;
    out.write_all(&[1, 0])?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(header.as_bytes())
}

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, problem.into())
}

fn write_all<T, const SIZE: usize>(
    values: &[T],
    bytes: impl Fn(&T) -> [u8; SIZE],
    out: &mut dyn Write,
) -> io::Result<()> {
    values.chunks(BLOCK / SIZE).try_for_each(|part| out.write_all(&part.iter().flat_map(&bytes).collect::<Vec<u8>>()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use safetensors::SafeTensors;

    use super::super::Source;
    use super::super::array::{Array, Numbers};
    use super::super::input::Input;
    use super::*;

    fn table(values: &[f32], n: usize, labels: Option<Labels<'static>>) -> Table {
        let features = Features::new(values.to_vec(), n, values.len() / n).unwrap();
        Table { labels, ..Table::of_features(features, &Source::new("x")) }
    }

    fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes).unwrap();
        bytes
    }

    fn array(bytes: Vec<u8>) -> Array {
        npy::read(&mut Input::of(bytes)).unwrap()
    }

    #[test]
    fn npy_reads_back_as_it_was() {
        let values: Vec<f32> = (0..=255).map(|value| value as f32).collect();
        let table = table(&values, 64, None);
        for dtype in [Dtype::F32, Dtype::F16, Dtype::U8] {
            assert_eq!(table.features.rounding(dtype).unwrap(), None);
            let bytes = written(|out| table.write_npy(dtype, out));
            // As NumPy aligns it.
            assert_eq!((bytes.len() - 256 * dtype.size()) % 64, 0);
            let features = array(bytes).into_features(Path::new("x")).unwrap();
            assert_eq!((features.n_samples(), features.n_features(), features.values().dtype()), (64, 4, dtype));
            let mut row = [0.0; 4];
            features.read_row(63, &mut row);
            assert_eq!(row, [252.0, 253.0, 254.0, 255.0]);
        }
    }

    #[test]
    fn rounding_is_the_largest_and_what_does_not_fit_is_an_error() {
        let mut values = vec![1.0f32; 3000];
        // Neighbours in half precision are 2⁻¹⁰ apart from 1 on, and 1 from 1024 on.
        values[100] = 1.0 + 2f32.powi(-12);
        values[1234] = 1024.25;
        values[2000] = 1025.25;
        let rounding = table(&values, 1000, None).features.rounding(Dtype::F16).unwrap().unwrap();
        let place = Place::row(1234 / 3 + 1).at_column(1234 % 3 + 1);
        assert_eq!(rounding, Rounding { place, from: 1024.25, to: 1024.0 });
        assert_eq!(rounding.error(), 0.25);

        let error = |value: f32, dtype| {
            let mut values = vec![1.0; 12];
            (values[7], values[9]) = (value, value);
            table(&values, 4, None).features.rounding(dtype).unwrap_err().to_string()
        };
        assert!(error(70_000.0, Dtype::F16).contains("row 3, column 2: the value 70000 is too large for f16"));
        for value in [0.5, -1.0, 256.0, 1e9] {
            assert!(error(value, Dtype::U8).contains("row 3, column 2: the value"), "{value}");
        }
        assert_eq!(table(&[65_504.0, -0.0], 1, None).features.rounding(Dtype::F16).unwrap(), None);
        assert_eq!(table(&[255.0, -0.0], 1, None).features.rounding(Dtype::U8).unwrap(), None);
    }

    #[test]
    fn safetensors_hold_all_and_are_the_same_each_time() {
        let labels = Labels::from_names(&["b", "a", "七"]).unwrap();
        let mut table = table(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], 3, Some(labels));
        table.weights = Some(vec![0.5, 1.0, 1.5]);
        table.feature_names = Some(vec!["x".to_owned(), "y".to_owned(), "\"z\"".to_owned()]);
        let bytes = written(|out| table.write_safetensors(Dtype::U8, out));
        assert_eq!(bytes, written(|out| table.write_safetensors(Dtype::U8, out)));
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |name: &str| {
            let tensor = tensors.tensor(name).unwrap();
            (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec())
        };
        let classes: Vec<u8> = [1i64, 0, 2].iter().flat_map(|class| class.to_le_bytes()).collect();
        assert_eq!(tensor("labels"), (safetensors::Dtype::I64, vec![3], classes));
        assert_eq!(tensor("features"), (safetensors::Dtype::U8, vec![3, 3], (1..10).collect()));
        let weights: Vec<u8> = [0.5f32, 1.0, 1.5].iter().flat_map(|weight| weight.to_le_bytes()).collect();
        assert_eq!(tensor("weights"), (safetensors::Dtype::F32, vec![3], weights));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        assert_eq!(metadata["classes"], r#"["a","b","七"]"#);
        assert_eq!(metadata["feature_names"], r#"["x","y","\"z\""]"#);

        let soft = Labels::from_distributions(vec![0.25, 0.75, 1.0, 0.0], vec!["a".into(), "b".into()]).unwrap();
        let bytes = written(|out| self::table(&[1.5, 2.5], 2, Some(soft)).write_safetensors(Dtype::F16, out));
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("labels").unwrap().shape(), [2, 2]);
        assert_eq!(
            tensors.tensor("features").unwrap().data(),
            [f16::from_f32(1.5), f16::from_f32(2.5)].map(f16::to_le_bytes).concat()
        );
    }

    #[test]
    fn labels_read_back_as_they_were() {
        let check = |labels: &Labels, numbers: bool| {
            let array = array(written(|out| labels.write_npy(out)));
            assert_eq!(matches!(array.numbers, Numbers::Integers(_)), numbers);
            let read = array.into_labels(Path::new("y"), None).unwrap();
            assert_eq!(read.classes(), labels.classes());
            let classes = |labels: &Labels| (0..4).map(|row| labels.targets().class(row, 3)).collect::<Vec<_>>();
            assert_eq!(classes(&read), classes(labels));
            let text = written(|out| labels.write_text(out));
            let read = super::super::names::read(&mut Input::of(text)).unwrap();
            assert_eq!((read.classes(), classes(&read)), (labels.classes(), classes(labels)));
        };
        check(&Labels::from_integers(&[30i64, -7, 2, 30]).unwrap(), true);
        check(&Labels::from_names(&["long name", "七", "a", "七"]).unwrap(), false);

        let soft = Labels::from_distributions(vec![0.25, 0.75, 1.0, 0.0], vec!["a".into(), "b".into()]).unwrap();
        assert!(soft.write_text(&mut Vec::new()).is_err());
        let read = array(written(|out| soft.write_npy(out))).into_labels(Path::new("y"), Some(soft.classes())).unwrap();
        assert!(matches!(read.targets(), Targets::Distributions(values) if **values == [0.25, 0.75, 1.0, 0.0]));
        let broken = Labels::from_names(&["a\nb", "c"]).unwrap();
        assert!(broken.write_text(&mut Vec::new()).unwrap_err().to_string().contains("line of text"));
    }
}
