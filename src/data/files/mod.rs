//! Data files: features and labels, their format told by content, not by name.

mod array;
mod categories;
mod csv;
mod idx;
mod input;
mod inspect;
mod lenient;
mod names;
mod npy;
mod number;
mod svmlight;
mod text;
mod write;

use std::path::{Path, PathBuf};

use super::{Dataset, Features, Labels, SampleWeights};
use crate::error::{Error, Place, Result};
use input::Input;
pub use input::Reading;

/// A column of text has no more categories than this.
pub const MAX_CATEGORIES: usize = 1 << 16;

/// More features than this are taken for a mistake.
const MAX_FEATURES: usize = 1 << 24;
pub use inspect::{ClassCounts, Figures, Findings, Inspection, TextColumn, inspect};
pub use write::Rounding;

/// Which files a data set is in.
///
/// The format is told by content: IDX, `.npy`, svmlight (also called libsvm), otherwise CSV with a header; each may be packed by
/// gzip or Zstandard. Text is read by all threads.
///
/// - CSV: the one of comma, tab and semicolon that stands most often in the header separates the columns.
/// - svmlight: a line is `LABEL INDEX:VALUE …`, with whole numbers as labels. Indices need not ascend; `qid:N` and comments,
///   from `#` on, are left out, zeros are not stored. The features are sparse, but dense where that takes no more memory:
///   when half of the values are not 0.
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
    /// but those of the labels and weights, in the order of the file. `color=red`, where no column is called so, is 1 where the
    /// column `color` is `red`, else 0.
    pub feature_names: Option<Vec<String>>,
    /// Bytes of memory that may be used. Features with more than half of it stay in their file ([`Values::Stored`]) where the
    /// format allows: `.npy` of single or half precision or bytes, not packed. By default what the system says is free.
    ///
    /// [`Values::Stored`]: super::Values::Stored
    pub memory: Option<u64>,
    /// The columns of a CSV file that are text; only where [`feature_names`](Self::feature_names) do not tell.
    pub categorical: Categorical,
    /// Whether a category that is in none of the `feature_names` is allowed, and counts as none of them. By default it is an
    /// error.
    pub ignore_unknown_categories: bool,
    /// Whether the indices of an svmlight file count from 0. By default they do if one of them is 0, else from 1: of data for a
    /// model, say what [`Table::zero_based`] was for its training data.
    pub zero_based: Option<bool>,
    /// How many features an svmlight file has, of which the last may not occur in it. By default as many as the highest index
    /// says.
    pub n_features: Option<usize>,
    /// How many bytes a packed file may have unpacked. By default a thousand times those of the file, and 64 MiB at least.
    pub max_unpacked: Option<u64>,
}

/// Which columns of a CSV file are text and become one-hot features: one for each category of the column, called
/// `column=category`, in the place of the column, 1 where the column has the category, else 0. The categories are in the order of
/// numbers, if all are whole numbers, else in that of their names; there are at most [`MAX_CATEGORIES`].
///
/// The features are dense, but sparse where that is smaller and there are more than 1,000 features or 2²⁸ values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Categorical {
    /// None: text in the place of a number is an error.
    #[default]
    None,
    /// Those whose first value, but for marks of missing values, is not a number. Text in other columns is an error.
    Auto,
    /// These. What they hold is text, even if it is numbers.
    Columns(Vec<String>),
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
    /// The columns that became one-hot features.
    pub categorical: Vec<String>,
    /// Whether the indices of an svmlight file count from 0.
    pub zero_based: Option<bool>,
    source: Source,
}

impl Table {
    fn of_features(features: Features<'static>, source: &Source) -> Self {
        Self {
            features,
            labels: None,
            weights: None,
            feature_names: None,
            categorical: Vec::new(),
            zero_based: None,
            source: source.clone(),
        }
    }

    /// The data set.
    ///
    /// # Errors
    /// [`Error::Empty`] when there are no labels, [`Error::OneClass`] when there are fewer than two classes.
    pub fn into_dataset(self) -> Result<Dataset<'static>> {
        let Self { features, labels, weights, feature_names, source, .. } = self;
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
    read_with(source, &Reading::default())
}

/// The same, counted by `reading` as it goes on.
///
/// # Errors
/// As [`read`].
pub fn read_with(source: &Source, reading: &Reading) -> Result<Table> {
    let path = &source.features;
    let mut input = Input::open_with(path, source.max_unpacked, reading)?;
    // A missing file is found before a long one is read.
    let open = |path: &Path| Input::open_with(path, source.max_unpacked, &Reading::default());
    let mut labels = source.labels.as_deref().map(open).transpose()?;
    let mut weights = source.weights.as_deref().map(open).transpose()?;
    let classes = source.classes.as_deref().map(|path| names::lines(&mut open(path)?, "class name")).transpose()?;
    let format = Format::of(&mut input)?;
    let not_csv = |what: &str| {
        let is = if matches!(format, Format::Svmlight) { "svmlight, not CSV" } else { "not CSV" };
        input.malformed(format!("it is {is}, so that it has no column of {what}; give the file that has them"))
    };
    let memory = source.memory.or_else(available_memory).unwrap_or(u64::MAX);
    if !matches!(format, Format::Text) {
        if source.labels.is_none() && source.label_column.is_some() {
            return Err(not_csv("labels"));
        }
        if source.weights.is_none() && source.weight_column.is_some() {
            return Err(not_csv("weights"));
        }
    }
    let mut table = match format {
        Format::Idx => Table::of_features(idx::read(&mut input)?.into_features(path)?, source),
        Format::Npy => Table::of_features(
            match npy::stored(path, memory / 2)? {
                Some(features) => features,
                None => npy::read(&mut input)?.into_features(path)?,
            },
            source,
        ),
        Format::Svmlight => svmlight::read(input, source)?,
        Format::Text => csv::read(input, source)?,
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

/// Memory that programs can still have, where the system tells it in a file.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
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
        Format::Text | Format::Svmlight => names::read(input).map_err(|error| error.in_file(path)),
    }
}

fn read_weights(path: &Path, input: &mut Input) -> Result<Vec<f64>> {
    match Format::of(input)? {
        Format::Idx => idx::read(input)?.into_weights(path),
        Format::Npy => npy::read(input)?.into_weights(path),
        Format::Text | Format::Svmlight => {
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
    Svmlight,
    /// CSV, or one name or number a line.
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
            return Err(
                input.malformed("the format is not known; it must be CSV, svmlight, IDX or .npy (text is UTF-8)")
            );
        }
        Ok(if svmlight::is_format(head) { Self::Svmlight } else { Self::Text })
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

    #[test]
    fn packed_text_reads_as_it_is_and_is_counted() {
        let rows: String = (0..2000).map(|i| format!("{},{}\n", i % 97, ["u", "v"][i % 2])).collect();
        let csv = format!("x,y\n{rows}");
        let svmlight: String = (0..2000).map(|i| format!("{} 1:{} 9:1\n", i % 2, i % 97)).collect();
        let path = std::env::temp_dir().join(format!("softreg-packed-{}", std::process::id()));
        for (content, label_column) in [(csv, Some("y".to_owned())), (svmlight, None)] {
            let read = |content: &[u8]| {
                std::fs::write(&path, content).unwrap();
                let reading = Reading::default();
                let source = Source { label_column: label_column.clone(), ..Source::new(&path) };
                let table = read_with(&source, &reading).unwrap();
                assert_eq!((reading.bytes(), reading.total()), (content.len() as u64, content.len() as u64));
                format!("{:?} {:?}", table.features, table.labels)
            };
            let plain = read(content.as_bytes());
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            assert_eq!(read(&ruzstd::encoding::compress_to_vec(content.as_bytes(), level)), plain);
            let mut gzip = flate2::read::GzEncoder::new(content.as_bytes(), flate2::Compression::fast());
            let mut packed = Vec::new();
            std::io::Read::read_to_end(&mut gzip, &mut packed).unwrap();
            assert_eq!(read(&packed), plain);
            let source = Source { label_column: label_column.clone(), max_unpacked: Some(1000), ..Source::new(&path) };
            assert!(super::read(&source).unwrap_err().to_string().contains("more than 1000 bytes unpacked"));
        }
        std::fs::remove_file(&path).unwrap();
    }
}
