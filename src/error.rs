//! The one error type of the library: what was wrong, where, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// `Result` with softreg's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A text for a message, of which a file may have made any length: both ends where it is long, and in one line.
pub(crate) fn shown(text: impl Into<String>) -> String {
    const END: usize = 300;
    let text = text.into();
    if text.len() <= 2 * END && !text.contains(char::is_control) {
        return text;
    }
    let in_line = |text: &str| text.replace(char::is_control, " ");
    let behind_begin = text.char_indices().nth(END).map(|(at, _)| at);
    let end = text.char_indices().nth_back(END).map(|(at, _)| at);
    match (behind_begin, end) {
        (Some(begin), Some(end)) if begin < end => format!("{} … {}", in_line(&text[..begin]), in_line(&text[end..])),
        _ => in_line(&text),
    }
}

/// A name for a message, in quotes.
pub(crate) fn quoted(name: &str) -> String {
    const MOST: usize = 60;
    match name.char_indices().nth(MOST) {
        Some((end, _)) => format!("{:?}…", &name[..end]),
        None => format!("{name:?}"),
    }
}

/// Where in the user's data a problem stands. Rows, lines and columns are counted from 1.
///
/// Displayed as `train.csv, row 17 (line 18), column 3 (age)`; parts that are not known are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The file, when the data came from one.
    pub file: Option<PathBuf>,
    /// The row, from 1: the number of the sample, so that a header is not one.
    pub row: Option<usize>,
    /// The line of a text file, from 1, where it is not that of the row.
    pub line: Option<usize>,
    /// The column (feature), from 1.
    pub column: Option<usize>,
    /// The column's name, when it has one.
    pub name: Option<String>,
}

impl Place {
    /// A file as a whole.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self { file: Some(path.as_ref().to_owned()), ..Self::default() }
    }

    /// A row, counted from 1.
    pub fn row(row: usize) -> Self {
        Self { row: Some(row), ..Self::default() }
    }

    /// The same place with a row, counted from 1.
    #[must_use]
    pub fn at_row(mut self, row: usize) -> Self {
        self.row = Some(row);
        self
    }

    /// The same place with a line, counted from 1.
    #[must_use]
    pub fn at_line(mut self, line: usize) -> Self {
        self.line = Some(line);
        self
    }

    /// The same place with a column, counted from 1.
    #[must_use]
    pub fn at_column(mut self, column: usize) -> Self {
        self.column = Some(column);
        self
    }

    /// The same place with the column's name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The same place in `file`, unless it already names one.
    #[must_use]
    pub fn in_file(mut self, file: impl AsRef<Path>) -> Self {
        self.file.get_or_insert_with(|| file.as_ref().to_owned());
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.file.as_ref().map(|file| file.display().to_string()));
        match (self.row, self.line) {
            (Some(row), Some(line)) => parts.push(format!("row {row} (line {line})")),
            (Some(row), None) => parts.push(format!("row {row}")),
            (None, Some(line)) => parts.push(format!("line {line}")),
            (None, None) => {}
        }
        // Whoever gave the name: a file may hold any.
        match (self.column, self.name.as_deref().map(shown)) {
            (Some(column), Some(name)) => parts.push(format!("column {column} ({name})")),
            (Some(column), None) => parts.push(format!("column {column}")),
            (None, Some(name)) => parts.push(format!("column {name}")),
            (None, None) => {}
        }
        if parts.is_empty() {
            parts.push("the data".to_owned());
        }
        f.write_str(&parts.join(", "))
    }
}

/// Everything that can go wrong in softreg.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// A data file does not follow its format.
    #[error("{place}: {problem}")]
    Malformed {
        /// Where.
        place: Place,
        /// What is wrong and what to do about it.
        problem: String,
    },

    /// A feature is NaN or infinite, or too large for single precision.
    #[error(
        "{place}: the value {value:?} is not a finite 32-bit number; remove the row or fill the gap before training"
    )]
    NotFinite {
        /// Where.
        place: Place,
        /// The value.
        value: f64,
    },

    /// Two lengths that must agree do not.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// Which lengths.
        what: String,
        /// What it must be.
        expected: usize,
        /// What it is.
        found: usize,
    },

    /// There are no rows, no columns, or no labels.
    #[error("{place}: there are no {what}")]
    Empty {
        /// Where.
        place: Place,
        /// `samples`, `features` or `labels`.
        what: &'static str,
    },

    /// All samples have the same label.
    #[error("{place}: every label is {}; a classifier needs at least two classes", quoted(class))]
    OneClass {
        /// Where.
        place: Place,
        /// The one label.
        class: String,
    },

    /// More classes than softreg accepts.
    #[error(
        "{place}: {found} different labels, more than the {limit} that softreg accepts; are they a measurement rather than a class?"
    )]
    TooManyClasses {
        /// Where.
        place: Place,
        /// How many there are.
        found: usize,
        /// How many are accepted.
        limit: usize,
    },

    /// A name that must be unique stands twice.
    #[error("two {what} names are {}; each must be another", quoted(name))]
    Duplicate {
        /// `class` or `feature`.
        what: &'static str,
        /// The name.
        name: String,
    },

    /// A label that the model does not know.
    #[error("{place}: the label {} is not one of the {n_classes} classes ({known})", quoted(label))]
    UnknownLabel {
        /// Where.
        place: Place,
        /// The label.
        label: String,
        /// The number of known classes.
        n_classes: usize,
        /// The first of the known classes, to show what they look like.
        known: String,
    },

    /// A row of soft labels is not a distribution.
    #[error("{place}: soft labels must be non-negative and sum to 1: {problem}")]
    NotADistribution {
        /// The row.
        place: Place,
        /// What is wrong with it.
        problem: String,
    },

    /// The weight of a sample, or all weights together, make no sense.
    #[error("{place}: sample weights must be finite, at least 0, and not all 0: {problem}")]
    Weight {
        /// The row.
        place: Place,
        /// What is wrong with it.
        problem: String,
    },

    /// The weight of a class makes no sense.
    #[error("the weight of class {}: {problem}", quoted(class))]
    ClassWeight {
        /// The class, as it was named.
        class: String,
        /// What is wrong with it.
        problem: String,
    },

    /// All samples of a class are in one fold, so that the models trained without it cannot learn the class.
    #[error(
        "fold {fold} has all samples of the class {}, of which there are {n_samples}: a model trained without it cannot learn the \
         class; get more samples of it, leave it out, or divide the samples in another way (stratified folds, or one held-out part)",
        quoted(class)
    )]
    Fold {
        /// Which fold, from 1.
        fold: usize,
        /// The class.
        class: String,
        /// How many samples it has.
        n_samples: usize,
    },

    /// A model of a learning curve cannot be fitted or evaluated.
    #[error("{subset}: {source}")]
    Subset {
        /// Its size and seed.
        subset: String,
        /// What is wrong with it.
        source: Box<Error>,
    },

    /// The data has another number of features than the model.
    #[error("the model takes {model} features a sample, the data has {data}")]
    Width {
        /// Features that the model was trained on.
        model: usize,
        /// Features of the data.
        data: usize,
    },

    /// A feature of the data has another name than that of the model to start from.
    #[error(
        "feature {column} is called {} in the data, {} in the model; bring the columns into the model's order",
        quoted(data),
        quoted(model)
    )]
    FeatureName {
        /// Which one, from 1.
        column: usize,
        /// Its name in the model.
        model: String,
        /// Its name in the data.
        data: String,
    },

    /// A setting has a value that makes no sense.
    #[error("{name} is {value}, but must be {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },

    /// Training diverged.
    #[error(
        "training diverged in epoch {epoch} with learning rate {learning_rate:.3e}: the loss is no longer finite; use a tenth \
         of it, and features of a size around 1"
    )]
    Diverged {
        /// The epoch, from 1.
        epoch: usize,
        /// The learning rate in use.
        learning_rate: f64,
    },

    /// The objective is not a number where a batch solver begins, or a weight where it ends.
    #[error(
        "the objective or a weight is {value}: the features, or the model that training begins with, are too large or too small for \
         single precision; bring the features to a size around 1"
    )]
    NoObjective {
        /// The objective or the weight.
        value: f64,
    },

    /// A model cannot be calibrated with the data.
    #[error("calibration: {problem}")]
    Calibration {
        /// What stands in the way and what to do about it.
        problem: String,
    },

    /// No device has the name asked for.
    #[error("no device is called {asked:?}; there are: {available}")]
    NoSuchDevice {
        /// What was asked for.
        asked: String,
        /// The devices there are.
        available: String,
    },

    /// A GPU was asked for and there is none.
    #[error(
        "no GPU that computes was found ({reason}); use the device `cpu`, or `softreg devices` to see what there is"
    )]
    NoGpu {
        /// Why there is none.
        reason: String,
    },

    /// The data or the model does not fit the device.
    #[error("{device}: {what} needs {needed} bytes, more than the {limit} that this device {allows}; {advice}")]
    DeviceLimit {
        /// The device.
        device: String,
        /// What does not fit.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        limit: u64,
        /// What the limit is of, as a verb phrase: `can bind at once`, …
        allows: &'static str,
        /// What to do.
        advice: &'static str,
    },

    /// The device ran out of memory.
    #[error("{device}: out of memory for {what} ({bytes} bytes); use less data or a smaller batch")]
    OutOfMemory {
        /// The device.
        device: String,
        /// What the memory was for.
        what: String,
        /// How much was asked for.
        bytes: u64,
    },

    /// The device went away in the middle of the work.
    #[error("{device}: the device was lost ({reason}); run again, or use the device `cpu`")]
    DeviceLost {
        /// The device.
        device: String,
        /// The driver's reason.
        reason: String,
    },

    /// The device or its driver refused something it should accept.
    #[error(
        "{device}: {problem}; this is a fault of softreg or of the driver, please report it; the device `cpu` works without"
    )]
    Device {
        /// The device.
        device: String,
        /// The driver's message.
        problem: String,
    },

    /// The device computes wrong results.
    #[error("{device}: wrong results in the self-check ({detail}); update its driver, or use the device `cpu`")]
    SelfCheck {
        /// The device.
        device: String,
        /// What differs.
        detail: String,
    },

    /// A training cannot go on from a checkpoint.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, or in which settings or data its run was another.
        problem: String,
    },

    /// A model file cannot be used.
    #[error("{}: {problem}", path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// Which of the three it is.
        problem: ModelFileProblem,
    },
}

/// Why a model file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelFileProblem {
    /// It was a model file once, but bytes are missing or wrong.
    #[error("the model file is damaged: {0}")]
    Damaged(String),
    /// It is not a model file of softreg.
    #[error("this is not a softreg model: {0}")]
    Foreign(String),
    /// It was written by a newer softreg.
    #[error("the model has format version {found}, this softreg reads up to {supported}; use a newer softreg")]
    Newer {
        /// The file's version.
        found: u64,
        /// The newest version that is understood.
        supported: u64,
    },
}

impl Error {
    /// The operating system refused `action` on `path`.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.as_ref().to_owned(), source }
    }

    /// A data file does not follow its format.
    pub fn malformed(place: Place, problem: impl Into<String>) -> Self {
        Self::Malformed { place, problem: shown(problem) }
    }

    /// There is no memory on the host for `len` values of `size` bytes.
    pub(crate) fn out_of_memory(what: impl Into<String>, len: usize, size: usize) -> Self {
        Self::OutOfMemory {
            device: "cpu".to_owned(),
            what: what.into(),
            bytes: (len as u64).saturating_mul(size as u64),
        }
    }

    /// The same error, saying that it concerns `file`, where the error has a place that names none.
    #[must_use]
    pub fn in_file(mut self, file: impl AsRef<Path>) -> Self {
        if let Self::Malformed { place, .. }
        | Self::NotFinite { place, .. }
        | Self::Empty { place, .. }
        | Self::OneClass { place, .. }
        | Self::TooManyClasses { place, .. }
        | Self::UnknownLabel { place, .. }
        | Self::NotADistribution { place, .. }
        | Self::Weight { place, .. } = &mut self
        {
            *place = std::mem::take(place).in_file(file);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_shown_by_their_ends_in_one_line() {
        assert_eq!(shown("a\r\nb\0"), "a  b ");
        let whole: String = "ä".repeat(600);
        assert_eq!(shown(&*whole), whole);
        let long = format!("begin {} end", "ä".repeat(1_000_000));
        let short = shown(long);
        assert!(short.starts_with("begin ä") && short.ends_with("ä end") && short.contains("ä … ä"), "{short}");
        assert!(short.chars().count() < 620);
        assert_eq!(quoted("a\n\"b\""), r#""a\n\"b\"""#);
        assert_eq!(quoted(&"七".repeat(61)), format!("\"{}\"…", "七".repeat(60)));
        let error = Error::malformed(Place::row(1).named("x".repeat(10_000)), "y".repeat(10_000));
        assert!(error.to_string().len() < 1500, "{error}");
    }
}
