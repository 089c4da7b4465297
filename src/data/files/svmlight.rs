//! svmlight, also called libsvm: a sample a line, `LABEL INDEX:VALUE …`, in which what is not named is 0. `#` begins a comment, and
//! `qid:N`, for rankings, is left out.

use rayon::prelude::*;

use super::categories::Names;
use super::input::Input;
use super::number;
use super::text::{BLOCK, Fault, Text};
use super::{MAX_FEATURES, Source, Table};
use crate::data::{Csr, Features, Labels, Values};
use crate::error::{Error, Place, Result};

/// Whether a text is svmlight: the first line that tells has a label and then an index with a colon.
pub(super) fn is_format(head: &[u8]) -> bool {
    let head = head.strip_prefix("\u{feff}".as_bytes()).unwrap_or(head);
    for line in head.split(|&byte| byte == b'\n') {
        let mut tokens = without_comment(line).split(u8::is_ascii_whitespace).filter(|token| !token.is_empty());
        match (tokens.next(), tokens.next()) {
            (None, _) => {}
            (Some(first), _) if is_pair(first) => return true,
            (Some(label), _) if !is_label(label) => return false,
            (Some(_), Some(second)) => return is_pair(second),
            (Some(_), None) => {}
        }
    }
    false
}

fn is_label(token: &[u8]) -> bool {
    token.iter().all(|byte| byte.is_ascii_digit() || b"+-.eE,".contains(byte)) && token.iter().any(u8::is_ascii_digit)
}

fn is_pair(token: &[u8]) -> bool {
    let n_digits = token.iter().take_while(|byte| byte.is_ascii_digit()).count();
    token.starts_with(b"qid:") || n_digits > 0 && token.get(n_digits) == Some(&b':')
}

fn without_comment(line: &[u8]) -> &[u8] {
    memchr::memchr(b'#', line).map_or(line, |at| &line[..at])
}

pub(super) fn read(input: Input, source: &Source) -> Result<Table> {
    read_in_blocks(input, source, BLOCK)
}

/// `block` is about how many bytes are parsed at once.
fn read_in_blocks(input: Input, source: &Source, block: usize) -> Result<Table> {
    let text = Text::new(input, block)?;
    let place = text.place();
    let mut rows = Rows { offsets: vec![0], ..Rows::default() };
    text.parse(None, parse, |block| rows.append(block, &place))?;

    let in_file = |error: Error| error.in_file(&source.features);
    let (is_zero_based, n_features) = rows.count_from(source).map_err(in_file)?;
    let Rows { offsets, columns, values, labels, .. } = rows;
    let n_rows = offsets.len() - 1;
    let features = features(n_rows, n_features, Csr::new(offsets, columns, values).map_err(in_file)?);
    let labels = match source.labels {
        // Those of the file count.
        Some(_) => None,
        None => Some(classes(&labels).map_err(in_file)?),
    };
    Ok(Table {
        features: features.map_err(in_file)?,
        labels,
        weights: None,
        feature_names: None,
        categorical: Vec::new(),
        zero_based: Some(is_zero_based),
        source: source.clone(),
    })
}

/// What rows of a file have.
#[derive(Default)]
struct Rows {
    /// Where the values of each row begin and, last, where those of the last one end.
    offsets: Vec<u64>,
    /// The indices as they are in the file.
    columns: Vec<u32>,
    values: Vec<f32>,
    labels: Names,
    /// The highest index, also of a value that is 0.
    highest: u32,
    has_index_0: bool,
}

/// The rows of a block, and how many there are.
fn parse(text: &[u8]) -> Result<(Rows, usize), Fault> {
    // A value takes about this many bytes.
    let n_values = text.len() / 10;
    let mut rows = Rows {
        offsets: vec![0],
        columns: Vec::with_capacity(n_values),
        values: Vec::with_capacity(n_values),
        ..Rows::default()
    };
    let mut begin = 0;
    while begin < text.len() {
        let end = memchr::memchr(b'\n', &text[begin..]).map_or(text.len(), |at| begin + at + 1);
        let row = rows.offsets.len();
        let error: Box<dyn FnOnce(Place) -> Error + Send> = match rows.add(&text[begin..end]) {
            Ok(()) => {
                begin = end;
                continue;
            }
            Err(Problem::Malformed(problem)) => Box::new(move |place| Error::malformed(place, problem)),
            Err(Problem::NotFinite(index, value)) => {
                Box::new(move |place| Error::NotFinite { place: place.at_column(index as usize), value })
            }
        };
        // The line says nothing that the row does not, where every line is one.
        let error = move |place: Place| {
            let is_row = place.line == place.row;
            error(if is_row { Place { line: None, ..place } } else { place })
        };
        return Err(Fault { row, begin, error: Box::new(error) });
    }
    let n_rows = rows.offsets.len() - 1;
    Ok((rows, n_rows))
}

/// What is wrong in a line.
enum Problem {
    Malformed(String),
    /// The value with this index.
    NotFinite(u32, f64),
}

impl Rows {
    /// Adds the row of a line, which ends with its line break, unless it is empty.
    fn add(&mut self, line: &[u8]) -> Result<(), Problem> {
        let mut at = behind_spaces(line, 0);
        if matches!(line.get(at), None | Some(b'#')) {
            return Ok(());
        }
        let label = token(line, at);
        if is_pair(label) {
            return Err(Problem::Malformed("it has no label before its indices and values".to_owned()));
        }
        if !self.labels.push(label) {
            return Err(Problem::Malformed("the label is not UTF-8 text".to_owned()));
        }
        at += label.len();
        let first = self.values.len();
        let mut is_sorted = true;
        let mut previous = None;
        loop {
            at = behind_spaces(line, at);
            if matches!(line.get(at), None | Some(b'#')) {
                break;
            }
            let Some((index, value, next)) = plain_pair(line, at).or_else(|| any_pair(line, at)) else {
                let pair = token(line, at);
                if pair.starts_with(b"qid:") {
                    at += pair.len();
                    continue;
                }
                return Err(not_a_pair(pair));
            };
            if !value.is_finite() {
                let text = token(line, at).splitn(2, |&byte| byte == b':').nth(1).unwrap_or_default();
                let value = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
                return Err(Problem::NotFinite(index, value));
            }
            at = next;
            is_sorted &= previous.is_none_or(|previous| previous < index);
            previous = Some(index);
            self.columns.push(index);
            self.values.push(value);
        }
        if !is_sorted {
            let mut pairs: Vec<(u32, f32)> =
                self.columns[first..].iter().copied().zip(self.values[first..].iter().copied()).collect();
            pairs.sort_by_key(|(index, _)| *index);
            if let Some(pair) = pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(Problem::Malformed(format!("the index {} is there twice", pair[0].0)));
            }
            for (i, (index, value)) in pairs.into_iter().enumerate() {
                self.columns[first + i] = index;
                self.values[first + i] = value;
            }
        }
        let indices = &self.columns[first..];
        self.has_index_0 |= indices.first() == Some(&0);
        self.highest = self.highest.max(indices.last().copied().unwrap_or(0));
        // What is 0 need not be stored.
        if self.values[first..].contains(&0.0) {
            let mut kept = first;
            for i in first..self.values.len() {
                if self.values[i] != 0.0 {
                    self.values[kept] = self.values[i];
                    self.columns[kept] = self.columns[i];
                    kept += 1;
                }
            }
            self.values.truncate(kept);
            self.columns.truncate(kept);
        }
        self.offsets.push(self.values.len() as u64);
        Ok(())
    }

    /// Adds rows that follow.
    fn append(&mut self, other: Self, place: &Place) -> Result<()> {
        let n = other.values.len();
        if self.values.try_reserve(n).is_err() || self.columns.try_reserve(n).is_err() {
            return Err(Error::out_of_memory(format!("the values of {place}"), self.values.len() + n, 8));
        }
        let begin = self.values.len() as u64;
        self.offsets.extend(other.offsets.iter().skip(1).map(|offset| begin + offset));
        self.columns.extend_from_slice(&other.columns);
        self.values.extend_from_slice(&other.values);
        self.labels.append(&other.labels);
        self.highest = self.highest.max(other.highest);
        self.has_index_0 |= other.has_index_0;
        Ok(())
    }

    /// Makes columns of the indices, which count from 0; whether the indices did, and the number of features.
    fn count_from(&mut self, source: &Source) -> Result<(bool, usize)> {
        let is_zero_based = source.zero_based.unwrap_or(self.has_index_0);
        let at = |this: &Self, wrong: &dyn Fn(u32) -> bool| {
            // What is 0 is not stored, so that the row may not be known.
            let place = Place::default();
            match this.columns.iter().position(|&index| wrong(index)) {
                Some(at) => place.at_row(this.offsets.partition_point(|&offset| offset <= at as u64)),
                None => place,
            }
        };
        if !is_zero_based && self.has_index_0 {
            let problem = "an index is 0, but they are to count from 1; --zero-based true takes them from 0";
            return Err(Error::malformed(at(self, &|index| index == 0), problem));
        }
        let first = u32::from(!is_zero_based);
        let found = (self.highest + 1 - first) as usize;
        let n_features = source.feature_names.as_ref().map(Vec::len).or(source.n_features);
        if let Some(n_features) = n_features.filter(|&n_features| n_features < found) {
            let problem = format!(
                "its highest index is {}, but with {n_features} features, counted from {first}, it can be {} at most",
                self.highest,
                n_features as u64 + u64::from(first) - 1
            );
            let is_wrong = |index: u32| (index + 1 - first) as usize > n_features;
            return Err(Error::malformed(at(self, &is_wrong), problem));
        }
        if first == 1 {
            self.columns.par_iter_mut().for_each(|index| *index -= 1);
        }
        Ok((is_zero_based, n_features.unwrap_or(found)))
    }
}

fn behind_spaces(line: &[u8], mut at: usize) -> usize {
    while line.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// What is there up to a space or a comment.
fn token(line: &[u8], at: usize) -> &[u8] {
    let rest = line.get(at..).unwrap_or_default();
    let end = rest.iter().position(|&byte| byte.is_ascii_whitespace() || byte == b'#');
    &rest[..end.unwrap_or(rest.len())]
}

/// An index, the value behind it, and where they end, when nothing about them is unusual.
#[inline]
fn plain_pair(line: &[u8], mut at: usize) -> Option<(u32, f32, usize)> {
    let begin = at;
    let mut index = 0;
    while let Some(digit) = line.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        index = index * 10 + u32::from(digit);
        at += 1;
        if at - begin > 8 {
            return None;
        }
    }
    if at == begin || index > MAX_FEATURES as u32 || line.get(at) != Some(&b':') {
        return None;
    }
    let (value, length) = number::prefix(line.get(at + 1..)?)?;
    at += 1 + length;
    line.get(at)?.is_ascii_whitespace().then_some((index, value, at))
}

/// The same for any that can be read.
fn any_pair(line: &[u8], at: usize) -> Option<(u32, f32, usize)> {
    let pair = token(line, at);
    let colon = pair.iter().position(|&byte| byte == b':')?;
    let index = &pair[..colon];
    if !index.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let index: u32 = std::str::from_utf8(index).ok()?.parse().ok().filter(|&index| index <= MAX_FEATURES as u32)?;
    Some((index, number::parse(&pair[colon + 1..])?, at + pair.len()))
}

fn not_a_pair(pair: &[u8]) -> Problem {
    let text = String::from_utf8_lossy(pair);
    if let Some((index, value)) = text.split_once(':')
        && !index.is_empty()
        && index.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Problem::Malformed(match number::parse(value.as_bytes()) {
            Some(_) => format!("the index {index} is above {MAX_FEATURES}, more features than softreg accepts"),
            None => format!("the value {value:?} of index {index} is not a number"),
        });
    }
    Problem::Malformed(format!("{text:?} is not INDEX:VALUE"))
}

/// X, dense where that takes no more memory.
fn features(n_rows: usize, n_features: usize, csr: Csr<'static>) -> Result<Features<'static>> {
    let n_values = n_rows.checked_mul(n_features);
    if n_values.is_none_or(|n| n / 2 > csr.values().len()) {
        return Features::new(csr, n_rows, n_features);
    }
    let mut values = vec![0f32; n_rows * n_features];
    if n_features > 0 {
        values.par_chunks_mut(n_features).enumerate().for_each(|(row, into)| {
            let (columns, stored) = csr.row(row);
            columns.iter().zip(stored).for_each(|(&column, &value)| {
                if let Some(into) = into.get_mut(column as usize) {
                    *into = value;
                }
            });
        });
    }
    Features::new(Values::from(values), n_rows, n_features)
}

/// The classes that the labels, whole numbers, are; `+1`, `1` and `1.0` are one.
fn classes(labels: &Names) -> Result<Labels<'static>> {
    /// Up to here every whole number has a double of its own.
    const LIMIT: f64 = (1u64 << 53) as f64;
    let mut numbers = Names::default();
    for (code, label) in labels.names.iter().enumerate() {
        let problem = match label.parse::<f64>() {
            Ok(number) if number.fract() == 0.0 && number.abs() <= LIMIT => {
                numbers.push((number as i64).to_string().as_bytes());
                continue;
            }
            Ok(_) => format!("the label {label} is not a whole number; labels are classes, not measurements"),
            Err(_) if label.contains(',') => {
                format!("it has several labels, {label}; softreg has one class for each sample")
            }
            Err(_) => format!("the label {label:?} is not a number"),
        };
        let row = labels.codes.iter().position(|&other| other as usize == code).map_or(0, |row| row + 1);
        return Err(Error::malformed(Place::row(row), problem));
    }
    numbers.codes = labels.codes.iter().map(|&code| numbers.codes[code as usize]).collect();
    numbers.into_labels()
}
