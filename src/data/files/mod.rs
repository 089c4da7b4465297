//! Data files: features and labels, their format told by content, not by name.

mod array;
mod csv;
mod idx;
mod input;
mod inspect;
mod lenient;
mod names;
mod npy;
mod write;

use std::path::{Path, PathBuf};

use super::{Dataset, Features, Labels, SampleWeights};
use crate::error::{Error, Place, Result};
use input::Input;
pub use inspect::{ClassCounts, Figures, Findings, Inspection, TextColumn, inspect};
pub use write::Rounding;

/// Which files a data set is in.
///
/// The format is told by content: IDX, `.npy`, otherwise CSV with a header; each may be gzipped.
///
/// ```no_run
/// use softreg::data::{Source, read};
/// let source = Source { label_column: Some("species".to_owned()), ..Source::new("flowers.csv") };
/// let flowers = read(&source)?.into_dataset()?;
/// # Ok::<(), softreg::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The features. IDX and `.npy` arrays of more than two dimensions are flattened to a row for each sample.
    pub features: PathBuf,
    /// The labels: IDX or `.npy` (whole numbers; names; or a matrix of soft labels), or text with one name a line.
    pub labels: Option<PathBuf>,
    /// The column of a CSV file that holds the labels, and is no feature. Where there is a file of labels, that counts.
    pub label_column: Option<String>,
    /// The weights of the samples: text with one number a line, or `.npy` or IDX with a number for each sample.
    pub weights: Option<PathBuf>,
    /// The column of a CSV file that holds the weights, and is no feature. Where there is a file of weights, that counts.
    pub weight_column: Option<String>,
    /// The names of the classes, text with one a line, in the order of their numbers: of the columns where labels are a
    /// matrix, else of all the labels that there may be.
    pub classes: Option<PathBuf>,
    /// The columns of a CSV file that are the features, in this order: those that a model was trained on. By default all
    /// but those of the labels and weights, in the order of the file.
    pub feature_names: Option<Vec<String>>,
}

impl Source {
    /// Features without labels.
    pub fn new(features: impl Into<PathBuf>) -> Self {
        Self { features: features.into(), ..Self::default() }
    }
}

/// What a [`Source`] holds.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Table {
    /// The features.
    pub features: Features<'static>,
    /// The labels, when the source names where they are: as many as there are samples.
    pub labels: Option<Labels<'static>>,
    /// The weights, when the source names where they are: as many as there are samples, each at least 0, and not all 0.
    pub weights: Option<Vec<f32>>,
    /// The names of the features, when the file has them.
    pub feature_names: Option<Vec<String>>,
    source: Source,
}

impl Table {
    /// The data set.
    ///
    /// # Errors
    /// [`Error::Empty`] when there are no labels, [`Error::OneClass`] when there are fewer than two classes.
    pub fn into_dataset(self) -> Result<Dataset<'static>> {
        let Self { features, labels, weights, feature_names, source } = self;
        let path = source.labels.as_ref().unwrap_or(&source.features);
        let in_file = |error: Error| error.in_file(path);
        let labels = labels.ok_or_else(|| in_file(Error::Empty { place: Place::default(), what: "labels" }))?;
        let data = Dataset::new(features, labels).map_err(in_file)?;
        let data = match weights {
            Some(weights) => data.with_weights(weights)?,
            None => data,
        };
        match feature_names {
            Some(names) => data.with_feature_names(names),
            None => Ok(data),
        }
    }
}

/// Reads the files of `source`.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read; [`Error::Malformed`] when it does not follow its format, has no such column,
/// or has another number of labels than there are samples; [`Error::NotFinite`] for a NaN, an infinity or a number
/// too large for `f32`; [`Error::Empty`]; [`Error::TooManyClasses`]; [`Error::NotADistribution`]; [`Error::Weight`];
/// [`Error::UnknownLabel`]. Each names the file, and where it is known the row and the column.
pub fn read(source: &Source) -> Result<Table> {
    let path = &source.features;
    let mut input = Input::open(path)?;
    // A missing file is found before a long one is read.
    let mut labels = source.labels.as_deref().map(Input::open).transpose()?;
    let mut weights = source.weights.as_deref().map(Input::open).transpose()?;
    let classes =
        source.classes.as_deref().map(|path| names::lines(&mut Input::open(path)?, "class name")).transpose()?;
    let array = match Format::of(&mut input)? {
        Format::Idx => Some(idx::read(&mut input)?),
        Format::Npy => Some(npy::read(&mut input)?),
        Format::Text => None,
    };
    let not_csv = |what: &str| {
        input.malformed(format!("it is not CSV, so that it has no column of {what}; give the file that has them"))
    };
    let mut table = match array {
        Some(_) if source.labels.is_none() && source.label_column.is_some() => return Err(not_csv("labels")),
        Some(_) if source.weights.is_none() && source.weight_column.is_some() => return Err(not_csv("weights")),
        Some(array) => Table {
            features: array.into_features(path)?,
            labels: None,
            weights: None,
            feature_names: None,
            source: source.clone(),
        },
        None => csv::read(input, source)?,
    };
    let n_samples = table.features.n_samples();
    if let (Some(path), Some(labels)) = (&source.labels, &mut labels) {
        let labels = read_labels(path, labels, classes.as_deref())?;
        check_length(source, path, "labels", n_samples, labels.n_samples())?;
        table.labels = Some(labels);
    }
    if let (Some(path), Some(weights)) = (&source.weights, &mut weights) {
        let weights = read_weights(path, weights)?;
        check_length(source, path, "weights", n_samples, weights.len())?;
        let weights = SampleWeights::from(weights).checked(n_samples).map_err(|error| error.in_file(path))?;
        table.weights = Some(weights.into_owned());
    }
    if let (Some(classes), Some(labels)) = (classes, &mut table.labels)
        && labels.classes() != classes
    {
        let path = source.labels.as_ref().unwrap_or(path);
        *labels = labels.with_classes(&classes).map_err(|error| error.in_file(path))?;
    }
    Ok(table)
}

/// A number for each feature or sample: text, one a line, or `.npy`.
///
/// # Errors
/// [`Error::Io`] and [`Error::Malformed`], with the row of what is no number.
pub fn read_numbers(path: impl AsRef<Path>) -> Result<Vec<f64>> {
    let path = path.as_ref();
    read_weights(path, &mut Input::open(path)?)
}

/// Labels; where they are a matrix, `classes` are the names of its columns.
fn read_labels(path: &Path, input: &mut Input, classes: Option<&[String]>) -> Result<Labels<'static>> {
    match Format::of(input)? {
        Format::Idx => idx::read(input)?.into_labels(path, classes),
        Format::Npy => npy::read(input)?.into_labels(path, classes),
        Format::Text => names::read(input).map_err(|error| error.in_file(path)),
    }
}

fn read_weights(path: &Path, input: &mut Input) -> Result<Vec<f64>> {
    match Format::of(input)? {
        Format::Idx => idx::read(input)?.into_weights(path),
        Format::Npy => npy::read(input)?.into_weights(path),
        Format::Text => {
            let number = |(row, line): (usize, &String)| {
                let problem = || format!("{line:?} is not a number; there must be one number a line, or .npy");
                line.parse::<f64>().map_err(|_| Error::malformed(Place::file(path).at_row(row + 1), problem()))
            };
            names::lines(input, "weight")?.iter().enumerate().map(number).collect()
        }
    }
}

/// That there are as many labels, or weights, as samples.
fn check_length(source: &Source, path: &Path, what: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let features = source.features.display();
    let one = if what == "labels" { "name" } else { "number" };
    let hint =
        if found == expected + 1 { format!(" (a file with one {one} a line has no header)") } else { String::new() };
    let problem = format!("it has {found} {what}, but {features} has {expected} samples{hint}");
    Err(Error::malformed(Place::file(path), problem))
}

enum Format {
    Idx,
    Npy,
    Text,
}

impl Format {
    fn of(input: &mut Input) -> Result<Self> {
        let head = input.head()?;
        if head.starts_with(npy::MAGIC) {
            return Ok(Self::Npy);
        }
        if head.starts_with(idx::MAGIC) {
            return Ok(Self::Idx);
        }
        if head.starts_with(b"PK\x03\x04") {
            return Err(
                input.malformed("this is a zip archive; unpack it, or save each array of an .npz with numpy.save")
            );
        }
        // Text has no zeros.
        if head.iter().take(4096).any(|&byte| byte == 0) {
            return Err(input.malformed("the format is not known; it must be CSV, IDX or .npy (text is UTF-8)"));
        }
        Ok(Self::Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_files(features: &[u8], labels: Option<&[u8]>, label_column: Option<&str>) -> Result<Table> {
        let folder = std::env::temp_dir().join(format!(
            "softreg-files-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::create_dir_all(&folder).unwrap();
        let (x, y) = (folder.join("x"), folder.join("y"));
        std::fs::write(&x, features).unwrap();
        std::fs::write(&y, labels.unwrap_or_default()).unwrap();
        let source =
            Source { labels: labels.map(|_| y), label_column: label_column.map(str::to_owned), ..Source::new(x) };
        let table = read(&source);
        std::fs::remove_dir_all(&folder).unwrap();
        table
    }

    const IDX: &[u8] = &[0, 0, 8, 2, 0, 0, 0, 3, 0, 0, 0, 1, 5, 6, 7];

    #[test]
    fn labels_come_from_a_file_or_from_a_column() {
        let data = read_files(IDX, Some(b"b\na\nb\n"), None).unwrap().into_dataset().unwrap();
        assert_eq!((data.n_samples(), data.classes()), (3, &["a".to_owned(), "b".to_owned()][..]));
        let csv = b"x,y\n1,u\n2,v\n";
        let data = read_files(csv, None, Some("y")).unwrap().into_dataset().unwrap();
        assert_eq!((data.n_features(), data.classes()[0].as_str()), (1, "u"));
        // Both: the file counts, and the column is no feature.
        let data = read_files(csv, Some(b"s\nt\n"), Some("y")).unwrap().into_dataset().unwrap();
        assert_eq!((data.n_features(), data.classes()[0].as_str()), (1, "s"));
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let error = |features: &[u8], labels, column| {
            let error = read_files(features, labels, column).and_then(Table::into_dataset).unwrap_err();
            error.to_string()
        };
        assert!(error(IDX, Some(b"a\nb\n"), None).contains("it has 2 labels, but"));
        assert!(error(IDX, Some(b"label\na\nb\na\n"), None).contains("has no header"));
        assert!(error(IDX, None, Some("y")).contains("not CSV"));
        assert!(error(IDX, None, None).ends_with("x: there are no labels"));
        assert!(error(IDX, Some(b"a\na\na\n"), None).contains("y: every label is \"a\""));
        assert!(error(b"PK\x03\x04\x14\x00", None, None).contains("zip archive"));
        assert!(error(b"\x89HDF\r\n\x1a\n\0\0\0", None, None).contains("format is not known"));
    }
}
