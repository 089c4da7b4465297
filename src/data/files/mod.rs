//! Data files: features and labels, their format told by content, not by name.

mod array;
mod blocks;
mod categories;
#[cfg(feature = "arrow")]
mod columns;
mod csv;
mod idx;
mod input;
mod inspect;
mod lenient;
mod named;
mod names;
mod npy;
mod npz;
mod number;
mod safetensors;
mod scan;
mod shards;
mod svmlight;
mod text;
mod write;

use std::path::{Path, PathBuf};

use self::safetensors::Tensors;
use super::{Dataset, Features, Labels, SampleWeights};
use crate::error::{Error, Place, Result, quoted};
use crate::memory;
use input::Input;
pub use input::Reading;
use npz::Npz;

/// A column of text has no more categories than this.
pub const MAX_CATEGORIES: usize = 1 << 16;

/// More features than this are taken for a mistake.
const MAX_FEATURES: usize = 1 << 24;
pub use inspect::{ClassCounts, Figures, Findings, Inspection, TextColumn, inspect};
pub use write::Rounding;

/// Which files a data set is in.
///
/// The format is told by content: IDX, `.npy`, `.npz`, safetensors, with the crate's feature `arrow` Parquet and Arrow (IPC files
/// and streams), svmlight (also called libsvm), otherwise CSV with a header; each may be packed by gzip or Zstandard. Text is
/// read by all threads. Where several files have the samples or the labels, one after the other, the path is that of their
/// folder, or has `*` and `?` in its last part: their order is that of their names, numbers in them by size (2 before 10).
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
///
/// # Which array is what
/// In `.npz` and safetensors, arrays have names. The features are the array that `feature_columns` names; else the one called
/// `features`, `X`, `x` or `data`; else the only one with rows and columns. The labels are the one that `label_column` names,
/// else the one called `labels`, `label`, `y`, `targets` or `target`; the weights the one that `weight_column` names, else the
/// one called `weights` or `sample_weight`. Where two may be meant, that is an error. A sparse matrix saved by SciPy
/// (`save_npz`) is sparse features. The metadata of safetensors may have lists of names, as JSON: `classes`, of which whole
/// numbers as labels are the numbers, and `feature_names`.
///
/// # Which column is what
/// In CSV, Parquet and Arrow, columns have names. All are features but those of the labels and of the weights, unless
/// `feature_columns` names those that are. In Parquet and Arrow, a column of lists of numbers, all of one length, is as many
/// features: those of a column `v` are called `v[0]`, `v[1]`, ….
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The features. Arrays of more than two dimensions are flattened to a row for each sample.
    pub features: PathBuf,
    /// The labels: an array (whole numbers; names; or a matrix of soft labels), a column, or text with one name a line.
    pub labels: Option<PathBuf>,
    /// The column or array that holds the labels, and is no feature. Where there is a file of labels, that counts.
    pub label_column: Option<String>,
    /// The weights of the samples: text with one number a line, or an array or a column with a number for each sample.
    pub weights: Option<PathBuf>,
    /// The column or array that holds the weights, and is no feature. Where there is a file of weights, that counts.
    pub weight_column: Option<String>,
    /// The names of the classes, text with one a line, in the order of their numbers: of the columns where labels are a
    /// matrix, else of all the labels that there may be.
    pub classes: Option<PathBuf>,
    /// The columns that are the features, in this order, or the array that has them. By default all columns but those of the
    /// labels and weights, in the order of the file.
    pub feature_columns: Option<Vec<String>>,
    /// The features that a model was trained on, in this order, for files that have names of features. Where they are given,
    /// columns are taken by them alone. In CSV `color=red`, where no column is called so, is 1 where the column `color` is `red`,
    /// else 0.
    pub feature_names: Option<Vec<String>>,
    /// Bytes of memory that may be used. Features with more than half of it stay in their file ([`Values::Stored`]) where the
    /// format allows: one file of `.npy` of single or half precision or bytes, not packed. By default what the system says is free.
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
    /// How many bytes a packed file may have unpacked: one packed by gzip or Zstandard, an array in `.npz`, the columns in Parquet and
    /// Arrow as they are in memory. More is an error. By default a thousand times the bytes of the file, and 64 MiB.
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
    let files = shards::expand(&source.features)?;
    // A missing file is found before a long one is read.
    let label_files = source.labels.as_deref().map(shards::expand).transpose()?;
    let weight_files = source.weights.as_deref().map(shards::expand).transpose()?;
    let classes = source
        .classes
        .as_deref()
        .map(|path| names::lines(&mut Input::open_with(path, source.max_unpacked, &Reading::default())?, "class name"))
        .transpose()?;
    let renamed = |labels: Labels<'static>, path: &Path| match &classes {
        Some(classes) if labels.classes() != *classes => {
            labels.with_classes(classes).map_err(|error| error.in_file(path))
        }
        _ => Ok(labels),
    };
    reading.begin(&files);
    check_formats(&files)?;
    let read = |path: &Path| {
        let mut table = read_table(path, source, files.len() == 1, reading)?;
        table.labels = table.labels.map(|labels| renamed(labels, path)).transpose()?;
        Ok(table)
    };
    let mut table = match &*files {
        [path] => read(path)?,
        _ => shards::join(&files, read).map_err(|error| error.in_file(&source.features))?,
    };
    let n_samples = table.features.n_samples();
    if let (Some(path), Some(files)) = (&source.labels, label_files) {
        let labels = |path: &PathBuf| renamed(read_labels(path, source, classes.as_deref())?, path);
        let labels = match &*files {
            [path] => labels(path)?,
            _ => shards::join_labels(&files.iter().map(labels).collect::<Result<Vec<_>>>()?)
                .map_err(|error| error.in_file(path))?,
        };
        check_length(source, path, "labels", n_samples, labels.n_samples())?;
        table.labels = Some(labels);
    }
    if let (Some(path), Some(files)) = (&source.weights, weight_files) {
        let mut weights = Vec::new();
        for path in &files {
            weights.extend(read_weights(path, source)?.into_iter().map(|w| w as f32));
        }
        check_length(source, path, "weights", n_samples, weights.len())?;
        table.weights = Some(weights);
    }
    if let Some(weights) = table.weights {
        let path = source.weights.as_ref().unwrap_or(&source.features);
        let weights = SampleWeights::from(weights).checked(n_samples).map_err(|error| error.in_file(path))?;
        table.weights = Some(weights.into_owned());
    }
    Ok(table)
}

/// What one file has, the weights not yet checked. Where it `may_stay`, its features may be left in it.
fn read_table(path: &Path, source: &Source, may_stay: bool, reading: &Reading) -> Result<Table> {
    let mut input = Input::open_with(path, source.max_unpacked, reading)?;
    let format = Format::of(&mut input)?;
    // Only a file, and no pipe, can be opened once more.
    let memory = match may_stay && input.left().is_some() {
        true => source.memory.or_else(memory::available).map_or(u64::MAX, |memory| memory / 2),
        false => u64::MAX,
    };
    match format {
        Format::Npz => return named::read(&mut Npz::open(input)?, source, path, memory),
        Format::Safetensors => return named::read(&mut Tensors::open(input)?, source, path, memory),
        #[cfg(feature = "arrow")]
        Format::Parquet | Format::Arrow => return columns::read(input, format, source),
        Format::Text => return csv::read(input, source),
        Format::Idx | Format::Npy | Format::Svmlight => {}
    }
    for (what, column, file) in
        [("labels", &source.label_column, &source.labels), ("weights", &source.weight_column, &source.weights)]
    {
        if column.is_some() && file.is_none() {
            let is = if format == Format::Svmlight { "svmlight," } else { "one array" };
            let problem =
                format!("it is {is} without columns, so that it has none of {what}; give the file that has them");
            return Err(input.malformed(problem));
        }
    }
    let stored = match format {
        Format::Npy if memory < u64::MAX => npy::stored(path, memory)?,
        _ => None,
    };
    let features = match (format, stored) {
        (Format::Svmlight, _) => return svmlight::read(input, source),
        (_, Some(features)) => features,
        (Format::Idx, None) => idx::read(&mut input)?.into_features(path)?,
        (_, None) => npy::read(&mut input)?.into_features(path)?,
    };
    Ok(Table::of_features(features, source))
}

/// That files which are taken together have one format.
fn check_formats(files: &[PathBuf]) -> Result<()> {
    let format =
        |path: &PathBuf| if files.len() > 1 { Format::of(&mut Input::open(path)?).map(Some) } else { Ok(None) };
    let Some((first, others)) = files.split_first() else { return Ok(()) };
    let expected = format(first)?;
    for path in others {
        if format(path)? != expected {
            let problem = format!(
                "it has another format than {}; give a pattern like {:?} that only data matches",
                first.display(),
                "*.npy"
            );
            return Err(Error::malformed(Place::file(path), problem));
        }
    }
    Ok(())
}

/// A number for each feature or sample: text, one a line, or an array.
///
/// # Errors
/// [`Error::Io`] and [`Error::Malformed`], with the row of what is no number.
pub fn read_numbers(path: impl AsRef<Path>) -> Result<Vec<f64>> {
    read_weights(path.as_ref(), &Source::default())
}

/// Labels; where they are a matrix, `classes` are the names of its columns.
fn read_labels(path: &Path, source: &Source, classes: Option<&[String]>) -> Result<Labels<'static>> {
    let mut input = Input::open_with(path, source.max_unpacked, &Reading::default())?;
    let column = source.label_column.as_deref();
    match Format::of(&mut input)? {
        Format::Idx => idx::read(&mut input)?.into_labels(path, classes),
        Format::Npy => npy::read(&mut input)?.into_labels(path, classes),
        Format::Npz => named::labels(&mut Npz::open(input)?, column, classes, path),
        Format::Safetensors => named::labels(&mut Tensors::open(input)?, column, classes, path),
        #[cfg(feature = "arrow")]
        format @ (Format::Parquet | Format::Arrow) => columns::labels(input, format, column, classes),
        Format::Text | Format::Svmlight => names::read(&mut input).map_err(|error| error.in_file(path)),
    }
}

/// Weights of samples, or other numbers.
fn read_weights(path: &Path, source: &Source) -> Result<Vec<f64>> {
    let mut input = Input::open_with(path, source.max_unpacked, &Reading::default())?;
    let column = source.weight_column.as_deref();
    match Format::of(&mut input)? {
        Format::Idx => idx::read(&mut input)?.into_weights(path),
        Format::Npy => npy::read(&mut input)?.into_weights(path),
        Format::Npz => named::weights(&mut Npz::open(input)?, column, path),
        Format::Safetensors => named::weights(&mut Tensors::open(input)?, column, path),
        #[cfg(feature = "arrow")]
        format @ (Format::Parquet | Format::Arrow) => columns::weights(input, format, column),
        Format::Text | Format::Svmlight => {
            let number = |(row, line): (usize, &String)| {
                let problem = || format!("{line:?} is not a number; there must be one number a line, or .npy");
                line.parse::<f64>().map_err(|_| Error::malformed(Place::file(path).at_row(row + 1), problem()))
            };
            names::lines(&mut input, "weight")?.iter().enumerate().map(number).collect()
        }
    }
}

/// Names, for a message.
fn list(names: &[String]) -> String {
    shortened(names, |name| quoted(name))
}

/// The first items of many, for a message.
fn shortened<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    let shown = items.iter().take(10).map(show).collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(10) {
        0 => shown,
        more => format!("{shown}, … and {more} more"),
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Idx,
    Npy,
    Npz,
    Safetensors,
    #[cfg(feature = "arrow")]
    Parquet,
    #[cfg(feature = "arrow")]
    Arrow,
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
        if head.starts_with(npz::MAGIC) {
            return Ok(Self::Npz);
        }
        // Before IDX, with which it may begin.
        if safetensors::is_one(head) {
            return Ok(Self::Safetensors);
        }
        if head.starts_with(idx::MAGIC) {
            return Ok(Self::Idx);
        }
        let is_parquet = head.starts_with(b"PAR1");
        let is_arrow = head.starts_with(b"ARROW1") || head.starts_with(&[0xff; 4]);
        #[cfg(feature = "arrow")]
        if is_parquet || is_arrow {
            return Ok(if is_parquet { Self::Parquet } else { Self::Arrow });
        }
        if is_parquet || is_arrow {
            let problem = "it is Parquet or Arrow, which this softreg was built without (the crate's feature `arrow`)";
            return Err(input.malformed(problem));
        }
        // Text has no zeros.
        if head.iter().take(4096).any(|&byte| byte == 0) {
            let known = "CSV, svmlight, IDX, .npy, .npz, safetensors, Parquet or Arrow";
            return Err(input.malformed(format!("the format is not known; it must be {known} (text is UTF-8)")));
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
        assert!(error(IDX, None, Some("y")).contains("without columns"));
        assert!(error(IDX, None, None).ends_with("x: there are no labels"));
        assert!(error(IDX, Some(b"a\na\na\n"), None).contains("y: every label is \"a\""));
        assert!(error(b"PK\x03\x04\x14\x00", None, None).contains("the zip archive is damaged"));
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

    /// Reads a folder of files.
    fn read_folder(files: &[(&str, &[u8])], source: impl FnOnce(&Path) -> Source) -> Result<Table> {
        let folder = std::env::temp_dir().join(format!(
            "softreg-folder-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        for (name, content) in files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let table = read(&source(&folder));
        std::fs::remove_dir_all(&folder).unwrap();
        table
    }

    fn npy(kind: &str, shape: &str, values: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
        let header = format!("{header:117}\n");
        [npy::MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), values].concat()
    }

    #[test]
    fn a_folder_or_a_pattern_is_one_data_set() {
        let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
        let files: [(&str, &[u8]); 6] = [
            ("x/part-10", &npy("<f4", "(1, 2)", &[5f32, 6.0].map(f32::to_le_bytes).concat())),
            ("x/part-2", &npy("<f2", "(2, 2)", &[1.0, 2.0, 3.0, 4.0].map(half).concat())),
            ("x/.hidden", b"no data"),
            ("x/_SUCCESS", b""),
            ("y/2", b"b\na\n"),
            ("y/10", b"c\n"),
        ];
        for pattern in ["x", "x/part-*", "x/p*?"] {
            let source = |folder: &Path| Source { labels: Some(folder.join("y")), ..Source::new(folder.join(pattern)) };
            let data = read_folder(&files, source).unwrap().into_dataset().unwrap();
            // Wide enough for all of them.
            let crate::data::Values::F32(values) = data.features().values() else { panic!() };
            assert_eq!(**values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
            assert_eq!(data.classes(), ["a", "b", "c"]);
            assert_eq!((0..3).map(|row| data.labels().targets().class(row, 3).unwrap()).collect::<Vec<_>>(), [1, 0, 2]);
        }
    }

    #[test]
    fn columns_of_all_files_are_joined() {
        let files: [(&str, &[u8]); 2] = [("1.csv", b"x,y,w\n1,10,0\n2,9,0\n"), ("2.csv", b"x,y,w\n3,2,4\n")];
        let columns = |features: PathBuf| Source {
            label_column: Some("y".to_owned()),
            weight_column: Some("w".to_owned()),
            ..Source::new(features)
        };
        let data = read_folder(&files, |folder| columns(folder.to_owned())).unwrap().into_dataset().unwrap();
        assert_eq!(data.classes(), ["2", "9", "10"]);
        // No sample of the first file counts, but one of the second.
        assert_eq!(data.weights().unwrap(), [0.0, 0.0, 4.0]);
        assert_eq!(data.feature_names().unwrap(), ["x"]);
    }

    #[test]
    fn files_that_do_not_fit_together_are_named() {
        let error = |first: &[u8], second: &[u8], pattern: &str| {
            let files = [("a.csv", first), ("b.csv", second)];
            read_folder(&files, |folder| Source::new(folder.join(pattern))).unwrap_err().to_string()
        };
        let names = error(b"x,y\n1,2\n", b"x,z\n1,2\n", "");
        assert!(names.contains("b.csv: it has a feature \"z\" where") && names.contains("a.csv has \"y\""), "{names}");
        let width = error(b"x,y\n1,2\n", b"x\n1\n", "*.csv");
        assert!(width.contains("b.csv: it has 1 features a sample, but") && width.contains("has 2"), "{width}");
        let number = error(b"x,y\n1,2\n", b"x,y\n1,2\n1,no\n", "");
        assert!(number.contains("b.csv, row 2 (line 3), column 2 (y): \"no\" is not a number"), "{number}");
        let format = error(b"x,y\n1,2\n", IDX, "");
        assert!(format.contains("b.csv: it has another format than"), "{format}");
        assert!(error(b"", b"", "*.npy").contains("*.npy: no file matches this"));
        let missing = read(&Source::new("no-such-file.npy")).unwrap_err();
        assert!(matches!(missing, Error::Io { .. }));
        assert!(
            read_folder(&[("x/y/z", b"")], |folder| Source::new(folder.join("x")))
                .unwrap_err()
                .to_string()
                .contains("there is no file in")
        );
    }
}
