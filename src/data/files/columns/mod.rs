//! Parquet and Arrow: columns that have names and types, read by the crates of Apache Arrow.

mod cells;
mod ipc;
mod pages;
mod parquet;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use super::array::{Array, Numbers};
use super::input::Input;
use super::named::Role;
use super::{Format, Source, Table, list};
use crate::data::{Dtype, Labels};
use crate::error::{Error, Place, Result};
use cells::Cells;

/// What a source takes of a file.
pub(super) fn read(input: Input, format: Format, source: &Source) -> Result<Table> {
    let path = input.path().to_owned();
    guarded(&path, || {
        let mut content = Content::open(input, format)?;
        let choice = Choice::of_source(&content.schema(), source, &path)?;
        let classes = choice.label.and_then(|label| class_names(&content.schema(), label));
        let layout = Layout::new(choice, &mut content, &path)?;
        let Part { cells, n_samples, label, weight } = content.read(&layout)?;
        let features = cells.into_features(n_samples, layout.n_features).map_err(|error| error.in_file(&path))?;
        let labels = label.map(|label| into_labels(label, classes.as_deref(), None, &path)).transpose()?;
        let weights = weight.map(|weight| weight.into_array()?.into_weights(&path)).transpose()?;
        let weights = weights.map(|weights| weights.into_iter().map(|weight| weight as f32).collect());
        let feature_names = Some(layout.feature_names);
        Ok(Table { labels, weights, feature_names, ..Table::of_features(features, source) })
    })
}

/// The labels of a file of labels: of the column that is named or has a usual name, else of the only one.
pub(super) fn labels(
    input: Input,
    format: Format,
    column: Option<&str>,
    classes: Option<&[String]>,
) -> Result<Labels<'static>> {
    let path = input.path().to_owned();
    let (column, names) = one_column(input, format, column, Role::Labels)?;
    into_labels(column, names.as_deref(), classes, &path)
}

/// The weights of a file of weights, chosen as labels are.
pub(super) fn weights(input: Input, format: Format, column: Option<&str>) -> Result<Vec<f64>> {
    let path = input.path().to_owned();
    one_column(input, format, column, Role::Weights)?.0.into_array()?.into_weights(&path)
}

fn one_column(input: Input, format: Format, column: Option<&str>, role: Role) -> Result<(Column, Option<Vec<String>>)> {
    let path = input.path().to_owned();
    guarded(&path, || {
        let mut content = Content::open(input, format)?;
        let schema = content.schema();
        let names = Names::of(&schema, &path)?;
        let usual: Vec<usize> = role.usual_names().iter().filter_map(|name| names.position(name)).collect();
        let label = match (column, &*usual) {
            (Some(name), _) => names.find(name)?,
            (None, &[column]) => column,
            (None, _) if schema.fields().len() == 1 => 0,
            (None, _) => {
                return Err(names.malformed(&format!("name that of the {} with {}", role.what(), role.setting())));
            }
        };
        let choice = Choice { wanted: Vec::new(), label: Some(label), weight: None };
        let layout = Layout::new(choice, &mut content, &path)?;
        let Some(column) = content.read(&layout)?.label else {
            return Err(Error::Empty { place: Place::file(&path), what: "samples" });
        };
        Ok((column, class_names(&schema, label)))
    })
}

/// `names` are those that the file has for the numbers of classes, `classes` those of the columns of a matrix.
fn into_labels(
    column: Column,
    names: Option<&[String]>,
    classes: Option<&[String]>,
    path: &Path,
) -> Result<Labels<'static>> {
    let array = column.into_array()?;
    match names {
        Some(names) => array.into_labels_of(path, names),
        None => array.into_labels(path, classes),
    }
}

/// What the crates of Apache Arrow find out by a panic becomes an error.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
        Err(damaged(path, message))
    })
}

fn damaged(path: &Path, problem: impl std::fmt::Display) -> Error {
    let problem = format!("it is damaged, or of a kind that cannot be read ({problem})");
    Error::malformed(Place::file(path), problem)
}

/// A file of which the columns are known.
enum Content<'a> {
    Parquet(parquet::File),
    Ipc(Box<ipc::Stream<'a>>),
}

impl<'a> Content<'a> {
    fn open(input: Input<'a>, format: Format) -> Result<Self> {
        Ok(match format {
            Format::Parquet => Self::Parquet(parquet::File::open(input)?),
            _ => Self::Ipc(Box::new(ipc::Stream::open(input)?)),
        })
    }

    fn schema(&self) -> SchemaRef {
        match self {
            Self::Parquet(file) => file.schema(),
            Self::Ipc(stream) => stream.schema(),
        }
    }

    /// Some first rows of some columns; none if there are no rows.
    fn first(&mut self, columns: &[usize]) -> Result<Option<RecordBatch>> {
        match self {
            Self::Parquet(file) => file.first(columns),
            Self::Ipc(stream) => stream.first(columns),
        }
    }

    /// Bytes that the file may have unpacked.
    fn most_unpacked(&self) -> u64 {
        match self {
            Self::Parquet(file) => file.most_unpacked(),
            Self::Ipc(stream) => stream.most_unpacked(),
        }
    }

    fn read(self, layout: &Layout) -> Result<Part> {
        match self {
            Self::Parquet(file) => file.read(layout),
            Self::Ipc(stream) => stream.read(layout),
        }
    }
}

/// The names of columns.
struct Names<'a> {
    names: Vec<String>,
    path: &'a Path,
}

impl<'a> Names<'a> {
    fn of(schema: &Schema, path: &'a Path) -> Result<Self> {
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let mut seen = HashMap::new();
        for (index, name) in names.iter().enumerate() {
            if let Some(other) = seen.insert(name, index) {
                let problem = format!("columns {} and {} are both called {name:?}", other + 1, index + 1);
                return Err(Error::malformed(Place::file(path), problem));
            }
        }
        Ok(Self { path, names })
    }

    fn malformed(&self, problem: &str) -> Error {
        let columns = list(&self.names);
        Error::malformed(Place::file(self.path), format!("{problem}; its columns are {columns}"))
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|other| other == name)
    }

    fn find(&self, name: &str) -> Result<usize> {
        self.position(name).ok_or_else(|| self.malformed(&format!("it has no column {name:?}")))
    }
}

/// The columns that are taken.
struct Choice {
    /// The features, in the order in which they are wanted: columns, and which element of the lists in them, if not all.
    wanted: Vec<(usize, Option<usize>)>,
    label: Option<usize>,
    weight: Option<usize>,
}

impl Choice {
    fn of_source(schema: &Schema, source: &Source, path: &Path) -> Result<Self> {
        let names = Names::of(schema, path)?;
        // Where there is a file of them, the name may be that of a column in it.
        let find = |name: &Option<String>, file: &Option<PathBuf>| match (name, file) {
            (Some(name), None) => names.find(name).map(Some),
            (Some(name), Some(_)) => Ok(names.position(name)),
            (None, _) => Ok(None),
        };
        let label = find(&source.label_column, &source.labels)?;
        let weight = find(&source.weight_column, &source.weights)?;
        if let Some(column) = label.filter(|_| label == weight) {
            let problem = format!("column {:?} cannot have both the labels and the weights", names.names[column]);
            return Err(names.malformed(&problem));
        }
        let wanted: Vec<(usize, Option<usize>)> = match (&source.feature_names, &source.feature_columns) {
            (Some(wanted), _) => {
                let element = |name: &String| match (names.position(name), element(name)) {
                    (None, Some((column, index))) => Ok((names.find(column)?, Some(index))),
                    _ => Ok((names.find(name)?, None)),
                };
                wanted.iter().map(element).collect::<Result<_>>()?
            }
            (None, Some(wanted)) => wanted.iter().map(|name| Ok((names.find(name)?, None))).collect::<Result<_>>()?,
            (None, None) => {
                let is_feature = |column: &usize| Some(*column) != label && Some(*column) != weight;
                (0..names.names.len()).filter(is_feature).map(|column| (column, None)).collect()
            }
        };
        if wanted.is_empty() {
            return Err(Error::Empty { place: Place::file(path), what: "features" });
        }
        for &(column, _) in &wanted {
            let field = schema.field(column);
            if !is_number(value_type(field.data_type()).unwrap_or(field.data_type())) {
                let place = Place::file(path).at_column(column + 1).named(field.name());
                return Err(Error::malformed(place, no_feature(field)));
            }
        }
        let label = label.filter(|_| source.labels.is_none());
        let weight = weight.filter(|_| source.weights.is_none());
        Ok(Self { wanted, label, weight })
    }

    /// All columns, ascending.
    fn columns(&self) -> Vec<usize> {
        let features = self.wanted.iter().map(|&(column, _)| column);
        let mut columns: Vec<usize> = features.chain(self.label).chain(self.weight).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }
}

/// Why a column is no feature: the one place to change when categories become features.
fn no_feature(field: &Field) -> String {
    let advice = "name the columns that are features with feature_columns (--feature-columns), or that of the labels with \
                  label_column (--label-column)";
    let kind = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => "text".to_owned(),
        other => format!("values of the type {other}"),
    };
    format!("it holds {kind}; features are numbers, or lists of them: {advice}")
}

/// `name[3]`
fn element(name: &str) -> Option<(&str, usize)> {
    let (column, index) = name.strip_suffix(']')?.rsplit_once('[')?;
    Some((column, index.parse().ok()?))
}

/// The type of what is in the lists of a column; none if they are none.
fn value_type(list: &DataType) -> Option<&DataType> {
    match list {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            Some(field.data_type())
        }
        _ => None,
    }
}

fn is_number(kind: &DataType) -> bool {
    kind.is_integer() || kind.is_floating() || *kind == DataType::Boolean
}

/// The names that Hugging Face's `datasets` keeps for the numbers of classes.
fn class_names(schema: &Schema, label: usize) -> Option<Vec<String>> {
    let field = schema.fields().get(label)?;
    if !field.data_type().is_integer() {
        return None;
    }
    let metadata: serde_json::Value = serde_json::from_str(schema.metadata().get("huggingface")?).ok()?;
    let names = metadata.get("info")?.get("features")?.get(field.name())?.get("names")?;
    names.as_array()?.iter().map(|name| Some(name.as_str()?.to_owned())).collect()
}

/// Consecutive elements of the lists in a column that are consecutive features; of a column without lists the one element.
struct Run {
    /// Which of the columns.
    column: usize,
    /// How many elements its lists have; none where it has no lists.
    width: Option<usize>,
    first: usize,
    count: usize,
    /// The first feature.
    at: usize,
}

/// Where the values of columns go.
struct Layout {
    path: PathBuf,
    /// The columns that are read, ascending.
    columns: Vec<usize>,
    names: Vec<String>,
    runs: Vec<Run>,
    n_features: usize,
    feature_names: Vec<String>,
    dtype: Dtype,
    /// Which of the columns.
    label: Option<usize>,
    weight: Option<usize>,
    /// Bytes that the file may have unpacked, and those that may still be taken of them.
    most_unpacked: u64,
    budget: AtomicU64,
}

impl Layout {
    fn new(choice: Choice, content: &mut Content, path: &Path) -> Result<Self> {
        let columns = choice.columns();
        let schema = content.schema();
        let Some(first) = content.first(&columns)? else {
            return Err(Error::Empty { place: Place::file(path), what: "samples" });
        };
        let which = |column: usize| columns.iter().position(|&other| other == column).unwrap_or_default();
        let names: Vec<String> = columns.iter().map(|&column| schema.field(column).name().clone()).collect();
        let most_unpacked = content.most_unpacked();
        let mut layout = Self {
            path: path.to_owned(),
            names,
            runs: Vec::new(),
            n_features: 0,
            feature_names: Vec::new(),
            dtype: Dtype::F32,
            label: choice.label.map(which),
            weight: choice.weight.map(which),
            most_unpacked,
            budget: most_unpacked.into(),
            columns: columns.clone(),
        };
        let mut kinds = Vec::new();
        for &(column, element) in &choice.wanted {
            let kind = schema.field(column).data_type();
            kinds.push(value_type(kind).unwrap_or(kind));
            let column = which(column);
            let width = value_type(kind).map(|_| cells::width(&first, column, &layout)).transpose()?;
            let name = layout.names[column].clone();
            let elements = match (width, element) {
                (None, None) => 0..1,
                (Some(width), None) => 0..width,
                (Some(width), Some(index)) if index < width => index..index + 1,
                (width, Some(index)) => {
                    let width = width.unwrap_or_default();
                    let problem = format!("there is no {name}[{index}]: it has lists of {width} numbers");
                    return Err(Error::malformed(layout.place(column, 0), problem));
                }
            };
            match width {
                None => layout.feature_names.push(name),
                Some(_) => layout.feature_names.extend(elements.clone().map(|index| format!("{name}[{index}]"))),
            }
            let (first, count) = (elements.start, elements.len());
            match layout.runs.last_mut() {
                Some(run) if run.column == column && run.first + run.count == first => run.count += count,
                _ => layout.runs.push(Run { column, width, first, count, at: layout.n_features }),
            }
            layout.n_features += count;
        }
        if kinds.iter().all(|&kind| *kind == DataType::Float16) {
            layout.dtype = Dtype::F16;
        } else if kinds.iter().all(|kind| matches!(kind, DataType::UInt8 | DataType::Boolean)) {
            layout.dtype = Dtype::U8;
        }
        Ok(layout)
    }

    /// A row, counted from 0, of one of the columns.
    fn place(&self, column: usize, row: usize) -> Place {
        let place = Place::file(&self.path).at_row(row + 1);
        match (self.columns.get(column), self.names.get(column)) {
            (Some(index), Some(name)) => place.at_column(index + 1).named(name),
            _ => place,
        }
    }

    /// That `bytes` more may be taken.
    fn take(&self, bytes: u64) -> Result<()> {
        let take = |left: u64| left.checked_sub(bytes);
        match self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::malformed(Place::file(&self.path), super::input::too_much(self.most_unpacked))),
        }
    }
}

/// What some rows have.
struct Part {
    cells: Cells,
    n_samples: usize,
    label: Option<Column>,
    weight: Option<Column>,
}

impl Part {
    fn new(layout: &Layout) -> Self {
        let column = |column: Option<usize>| column.map(|_| Column { numbers: None, width: None });
        let (label, weight) = (column(layout.label), column(layout.weight));
        Self { cells: Cells::new(layout.dtype), n_samples: 0, label, weight }
    }

    /// Adds the rows of a batch, of which the first is row `first` of the file.
    fn add(&mut self, batch: &RecordBatch, first: usize, layout: &Layout) -> Result<()> {
        let n = batch.num_rows();
        let cells = self.cells.grow(n, layout)?;
        cells::fill(cells, batch, first, layout)?;
        self.add_columns(batch, first, layout)?;
        self.n_samples += n;
        Ok(())
    }

    /// Adds labels and weights.
    fn add_columns(&mut self, batch: &RecordBatch, first: usize, layout: &Layout) -> Result<()> {
        for (all, column) in [(&mut self.label, layout.label), (&mut self.weight, layout.weight)] {
            if let (Some(all), Some(column)) = (all, column)
                && batch.num_rows() > 0
            {
                let (numbers, width) = cells::numbers(batch, column, first, all.width, layout)?;
                all.width = width;
                all.add(numbers)?;
            }
        }
        Ok(())
    }
}

/// A column of labels or weights.
struct Column {
    numbers: Option<Numbers>,
    /// How many numbers each row has, where they are lists.
    width: Option<usize>,
}

impl Column {
    fn add(&mut self, more: Numbers) -> Result<()> {
        match (&mut self.numbers, more) {
            (Some(Numbers::U8(all)), Numbers::U8(more)) => all.extend(more),
            (Some(Numbers::F16(all)), Numbers::F16(more)) => all.extend(more),
            (Some(Numbers::F32(all)), Numbers::F32(more)) => all.extend(more),
            (Some(Numbers::F64(all)), Numbers::F64(more)) => all.extend(more),
            (Some(Numbers::Integers(all)), Numbers::Integers(more)) => all.extend(more),
            (Some(Numbers::Names(all)), Numbers::Names(more)) => all.extend(more),
            // A column has one type.
            (Some(_), _) => return Err(Error::malformed(Place::default(), "a column changes its type")),
            (all @ None, more) => *all = Some(more),
        }
        Ok(())
    }

    fn into_array(self) -> Result<Array> {
        let Some(numbers) = self.numbers else {
            return Err(Error::Empty { place: Place::default(), what: "samples" });
        };
        let n = numbers.len();
        let shape = match self.width {
            Some(width) => vec![n / width.max(1), width],
            None => vec![n],
        };
        Ok(Array { shape, numbers })
    }
}

#[cfg(test)]
mod tests;
