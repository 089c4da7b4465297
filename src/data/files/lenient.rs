//! Reads what is not fit for training: with gaps, text among numbers, and rows of another length.

use std::collections::HashSet;
use std::io::Read;
use std::mem;

use csv::{ByteRecord, ReaderBuilder, Terminator};
use half::f16;

use super::array::{Array, Numbers};
use super::input::{Input, Reading};
use super::inspect::{ClassCounts, Findings, Rough, TextColumn};
use super::{Format, Source, check_length, idx, npy, read_labels, read_weights};
use crate::data::{Labels, SampleWeights, Values};
use crate::error::{Error, Place, Result};

/// What stands for a value that is not there, in lower case.
const MISSING: [&str; 9] = ["", "na", "n/a", "nan", "null", "none", "nil", "?", "-"];

/// Of a column of text so many different values are counted.
const MAX_DIFFERENT: usize = 1000;

pub(super) fn read(source: &Source) -> Result<Rough> {
    let mut input = Input::open_with(&source.features, source.max_unpacked, &Reading::default())?;
    let mut rough = match Format::of(&mut input)? {
        Format::Idx => from_array(idx::read(&mut input)?, &input)?,
        Format::Npy => from_array(npy::read(&mut input)?, &input)?,
        Format::Text => from_csv(input, source)?,
        _ => return Err(input.malformed("it is not read leniently")),
    };
    let n_samples = rough.n_samples;
    if let Some(path) = &source.labels {
        let labels = read_labels(path, source, None)?;
        check_length(source, path, "labels", n_samples, labels.n_samples())?;
        rough = rough.with_labels(&labels);
    }
    if let Some(path) = &source.weights {
        let weights = read_weights(path, source)?;
        check_length(source, path, "weights", n_samples, weights.len())?;
        rough.weights = Some(SampleWeights::from(weights).checked(n_samples)?.into_owned());
    }
    Ok(rough)
}

/// An array in which numbers may be missing.
fn from_array(array: Array, input: &Input) -> Result<Rough> {
    let (&[n_samples, ref rest @ ..], false) = (&*array.shape, array.shape.len() < 2) else {
        return Err(input.malformed("it has no rows and columns"));
    };
    if n_samples == 0 {
        return Err(Error::Empty { place: input.place(), what: "samples" });
    }
    let n_features: usize = rest.iter().product();
    let values = match array.numbers {
        Numbers::F16(values) => Values::from(values),
        Numbers::F32(values) => Values::from(values),
        Numbers::F64(values) => Values::from(values.into_iter().map(|value| value as f32).collect::<Vec<_>>()),
        // Of these nothing can be missing.
        Numbers::U8(_) | Numbers::Integers(_) | Numbers::Names(_) => return Err(input.malformed("it is not lenient")),
    };
    if n_features == 0 {
        return Err(Error::Empty { place: input.place(), what: "features" });
    }
    let mut rough = Rough::new(values, n_samples, n_features);
    let (mut missing, mut infinite) = (Findings::default(), Findings::default());
    let mut look = |index: usize, value: f32| {
        let place = || (Place::row(index / n_features + 1).at_column(index % n_features + 1), None);
        match value {
            value if value.is_nan() => missing.add(place),
            value if value.is_infinite() => infinite.add(place),
            _ => {}
        }
    };
    match &rough.values {
        Values::F32(values) => values.iter().enumerate().for_each(|(index, &value)| look(index, value)),
        Values::F16(values) => values.iter().map(|value| f16::to_f32(*value)).enumerate().for_each(|(i, x)| look(i, x)),
        Values::U8(_) | Values::Sparse(_) | Values::Stored(_) => {}
    }
    (rough.missing, rough.infinite) = (missing, infinite);
    Ok(rough)
}

/// What is found in a column of CSV.
#[derive(Default)]
struct Column {
    name: String,
    n_numbers: u64,
    missing: Findings,
    infinite: Findings,
    not_numbers: Findings,
    texts: HashSet<String>,
    example: Option<String>,
}

impl Column {
    /// The value of a field, NaN where it has none.
    fn value(&mut self, field: &[u8], place: impl Fn() -> Place) -> f32 {
        let text = String::from_utf8_lossy(field);
        let place = || place().named(&self.name);
        match text.parse::<f32>() {
            Ok(value) if value.is_finite() => {
                self.n_numbers += 1;
                return value;
            }
            _ if MISSING.contains(&&*text.to_ascii_lowercase()) => self.missing.add(|| (place(), None)),
            Ok(_) => self.infinite.add(|| (place(), Some(text.into_owned()))),
            Err(_) => {
                if self.texts.len() < MAX_DIFFERENT && !self.texts.contains(&*text) {
                    self.texts.insert(text.clone().into_owned());
                }
                self.example.get_or_insert_with(|| text.clone().into_owned());
                self.not_numbers.add(|| (place(), Some(text.into_owned())));
            }
        }
        f32::NAN
    }

    fn is_text(&self) -> bool {
        self.not_numbers.count > self.n_numbers
    }
}

fn from_csv(mut input: Input, source: &Source) -> Result<Rough> {
    let file = input.place();
    let delimiter = delimiter(input.head()?);
    let failed = |error: csv::Error| Error::malformed(file.clone(), format!("it is not CSV: {error}"));
    // As in the reader that is not lenient: the line of a row is known from where it ends.
    let mut builder = ReaderBuilder::new();
    builder.terminator(Terminator::Any(b'\n')).flexible(true).delimiter(delimiter);
    let mut reader = builder.from_reader(input.chain(&b"\n"[..]));
    let header = reader.byte_headers().map_err(failed)?.clone();
    let name = |index: usize| match &*String::from_utf8_lossy(field(&header, index)) {
        "" => format!("column {}", index + 1),
        name => name.to_owned(),
    };
    let mut columns: Vec<Column> =
        (0..header.len()).map(|index| Column { name: name(index), ..Column::default() }).collect();
    let find = |wanted: &Option<String>| match wanted {
        Some(wanted) => match columns.iter().position(|column| column.name == *wanted) {
            Some(index) => Ok(Some(index)),
            None => Err(Error::malformed(file.clone(), format!("it has no column {wanted:?}"))),
        },
        None => Ok(None),
    };
    let (label, weight) = (find(&source.label_column)?, find(&source.weight_column)?);
    let is_feature: Vec<bool> = (0..columns.len()).map(|index| Some(index) != label && Some(index) != weight).collect();

    let mut values: Vec<f32> = Vec::new();
    let mut labels: Vec<Option<String>> = Vec::new();
    let (mut ragged, mut missing_labels) = (Findings::default(), Findings::default());
    let mut weights: Vec<f32> = Vec::new();
    let mut record = ByteRecord::new();
    let (mut n_rows, mut n_samples) = (0, 0);
    while reader.read_byte_record(&mut record).map_err(failed)? {
        if record.len() == 1 && (header.len() > 1 || &record[0] == b"\r") && field(&record, 0).is_empty() {
            continue;
        }
        n_rows += 1;
        let place = || {
            let breaks = 1 + record.as_slice().iter().filter(|&&byte| byte == b'\n').count();
            Place::row(n_rows).at_line((reader.position().line() as usize).saturating_sub(breaks))
        };
        if record.len() != header.len() {
            ragged.add(|| (place(), Some(format!("{} fields", record.len()))));
            continue;
        }
        n_samples += 1;
        for (index, column) in columns.iter_mut().enumerate().filter(|(index, _)| is_feature[*index]) {
            values.push(column.value(field(&record, index), || place().at_column(index + 1)));
        }
        if let Some(index) = weight {
            let text = String::from_utf8_lossy(field(&record, index));
            weights.push(text.parse().map_err(|_| Error::malformed(place().at_column(index + 1), "it is no weight"))?);
        }
        if let Some(index) = label {
            let name = String::from_utf8_lossy(field(&record, index)).into_owned();
            if name.is_empty() {
                missing_labels.add(|| (place().at_column(index + 1).named(&columns[index].name), None));
            }
            labels.push(Some(name).filter(|name| !name.is_empty()));
        }
    }
    // Only columns of numbers are features.
    let mut is_feature = is_feature.into_iter();
    columns.retain(|_| is_feature.next().unwrap_or(false));
    let is_number: Vec<bool> = columns.iter().map(|column| !column.is_text()).collect();
    let mut index = 0..values.len();
    values.retain(|_| index.next().is_some_and(|index| is_number[index % is_number.len()]));
    let (numbers, texts): (Vec<Column>, Vec<Column>) = columns.into_iter().partition(|column| !column.is_text());
    if n_samples == 0 {
        return Err(Error::Empty { place: file, what: "samples" });
    }

    let mut rough = Rough::new(values.into(), n_samples, numbers.len());
    rough.feature_names = Some(numbers.iter().map(|column| column.name.clone()).collect());
    let text_column = |column: Column| TextColumn {
        name: column.name,
        n_different: column.texts.len(),
        example: column.example.unwrap_or_default(),
    };
    rough.text_columns = texts.into_iter().map(text_column).collect();
    for column in numbers {
        rough.missing.append(column.missing);
        rough.infinite.append(column.infinite);
        rough.not_numbers.append(column.not_numbers);
    }
    rough.ragged = ragged;
    if label.is_some() {
        let names: Vec<&String> = labels.iter().flatten().collect();
        let of_names = Labels::from_names(&names)?;
        rough.classes = Some(ClassCounts::of(&of_names, mem::take(&mut missing_labels)));
        let mut row = 0..;
        let class = |label: &Option<String>| {
            label.as_ref().and_then(|_| of_names.targets().class(row.next()?, of_names.classes().len()))
        };
        rough.class_of = labels.iter().map(class).collect();
    }
    if weight.is_some() {
        rough.weights = Some(SampleWeights::from(weights).checked(n_samples)?.into_owned());
    }
    Ok(rough)
}

/// What stands most often in the header.
fn delimiter(head: &[u8]) -> u8 {
    let header = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let how_often = |delimiter: &u8| header.iter().filter(|byte| *byte == delimiter).count();
    // Of equals the last is taken.
    [b';', b'\t', b','].into_iter().max_by_key(how_often).unwrap_or(b',')
}

/// A field without the spaces around it.
fn field(record: &ByteRecord, column: usize) -> &[u8] {
    record.get(column).unwrap_or_default().trim_ascii()
}
