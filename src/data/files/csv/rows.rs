//! Rows from text: by a fast way for those in which nothing is unusual, by another for any, which says what is wrong.

use std::mem::MaybeUninit;
use std::ops::Range;

use memchr::memchr;

use super::columns::{Columns, Feature, Role};
use super::dialect::{field, fields};
use super::layout::{Layout, UNKNOWN};
use crate::data::files::categories::{Name, Names};
use crate::data::files::scan::Scan;
use crate::data::files::text::{Fault, count_lines};
use crate::data::files::{MAX_CATEGORIES, list, number};
use crate::error::{Error, Place, Result};

/// What rows of a file have.
#[derive(Default)]
pub(super) struct Rows {
    pub n_rows: usize,
    /// Row by row: the numbers, or all features where there is a layout. In rows that are to be added, more may follow of no meaning.
    pub values: Vec<f32>,
    /// Where the numbers and the categories of rows that were added stand in `values`. There is none from the moment on when a category
    /// comes that those before had not.
    pub layout: Option<Layout>,
    pub weights: Vec<f32>,
    pub labels: Names,
    /// Of each one-hot column. Where there is a layout, rows that were added have none: they stand in `values`.
    pub categories: Vec<Names>,
}

impl Rows {
    pub fn new(columns: &Columns) -> Self {
        let known = columns.one_hot.iter().map(|one_hot| one_hot.known.as_deref().unwrap_or_default());
        Self { categories: known.map(Names::known).collect(), ..Self::default() }
    }

    /// The numbers of the row to come.
    fn next_values(&mut self, n_numbers: usize) -> &mut [f32] {
        let begin = self.n_rows * n_numbers;
        if self.values.len() < begin + n_numbers {
            self.values.resize((begin + n_numbers).max(self.values.capacity()), 0.0);
        }
        &mut self.values[begin..begin + n_numbers]
    }

    /// Forgets what is of no whole row.
    fn forget_rest(&mut self) {
        self.weights.truncate(self.n_rows);
        self.labels.codes.truncate(self.n_rows);
        self.categories.iter_mut().for_each(|names| names.codes.truncate(self.n_rows));
    }

    /// Adds rows that follow, and takes them from where they are.
    pub fn append(&mut self, other: &mut Self, columns: &Columns, place: &Place) -> Result<()> {
        let n_categories = |categories: &[Names]| -> usize { categories.iter().map(|names| names.names.len()).sum() };
        let n_before = n_categories(&self.categories);
        self.weights.append(&mut other.weights);
        self.labels.append(&mut other.labels);
        for ((names, other), one_hot) in self.categories.iter_mut().zip(&mut other.categories).zip(&columns.one_hot) {
            if one_hot.known.is_some() {
                names.codes.append(&mut other.codes);
                continue;
            }
            names.append(other);
            if names.names.len() > MAX_CATEGORIES {
                let problem = format!(
                    "it has more than {MAX_CATEGORIES} different values; is it a name of each row rather than a category?"
                );
                return Err(Error::malformed(columns.place(place.clone(), one_hot.column), problem));
            }
        }

        let (first, n_rows) = (self.n_rows, std::mem::take(&mut other.n_rows));
        self.n_rows += n_rows;
        if first == 0 && !columns.one_hot.is_empty() {
            // What is wrong with it is said at the end.
            self.layout = Layout::new(columns, &self.categories).ok().filter(|layout| layout.is_dense(n_rows));
        } else if let Some(layout) = &self.layout
            && (n_categories(&self.categories) > n_before || !layout.is_dense(self.n_rows))
        {
            layout.take_back(&mut self.values, &mut self.categories);
            self.layout = None;
        }
        let values = &other.values[..n_rows * columns.n_numbers];
        let n_values = self.layout.as_ref().map_or(values.len(), |layout| n_rows * layout.names.len());
        if self.values.try_reserve(n_values).is_err() {
            return Err(Error::out_of_memory(format!("the values of {place}"), self.values.len() + n_values, 4));
        }
        populate(&mut self.values.spare_capacity_mut()[..n_values]);
        match &self.layout {
            Some(layout) => {
                let begin = self.values.len();
                self.values.resize(begin + n_values, 0.0);
                layout.fill(values, &self.categories, 0, &mut self.values[begin..]);
                self.categories.iter_mut().for_each(|names| names.codes.clear());
            }
            None => self.values.extend_from_slice(values),
        }
        Ok(())
    }
}

/// Has the system give memory at once, which takes two thirds of the time that it takes page by page, when each is first written to.
fn populate(room: &mut [MaybeUninit<f32>]) {
    #[cfg(target_os = "linux")]
    {
        // Where pages are larger it may be no start of one, and then nothing is done.
        let begin = room.as_ptr().addr().next_multiple_of(4096);
        let length = room.as_mut_ptr_range().end.addr().saturating_sub(begin);
        // SAFETY: the pages begin in a slice that may be written to, and what they have stays as it is.
        unsafe { libc::madvise(room.as_mut_ptr().with_addr(begin).cast(), length, libc::MADV_POPULATE_WRITE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = room;
}

/// Columns beside each other that are for the same.
struct Run {
    /// That of the first.
    role: Role,
    n_columns: usize,
    /// What ends them.
    terminator: u8,
}

/// What makes rows of text.
pub(super) struct Parser<'a> {
    columns: &'a Columns,
    runs: Vec<Run>,
}

impl<'a> Parser<'a> {
    pub fn new(columns: &'a Columns) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        for (i, &role) in columns.roles.iter().enumerate() {
            let terminator = if i + 1 == columns.roles.len() { b'\n' } else { columns.delimiter };
            match (runs.last_mut(), role) {
                (Some(Run { role: Role::Number(first), n_columns, terminator: other }), Role::Number(index))
                    if *first + *n_columns == index && *other == terminator =>
                {
                    *n_columns += 1;
                }
                _ => runs.push(Run { role, n_columns: 1, terminator }),
            }
        }
        Self { columns, runs }
    }

    /// Adds the rows of a block; how many rows and lines there are.
    pub fn parse(&self, text: &[u8], rows: &mut Rows) -> Result<(usize, usize), Fault> {
        let columns = self.columns;
        let mut scan = Scan::new(text, [columns.delimiter, b'\n']);
        let (mut at, mut n_lines) = (0, 0);
        while at < text.len() {
            let mut n_inside = 0;
            if text[at] == b'\n' {
                at += 1;
                n_lines += 1;
                scan.skip_to(at);
            } else if let Some(next) = self.plain_row(text, at, &mut scan, rows, &mut n_inside) {
                rows.n_rows += 1;
                n_lines += 1 + n_inside;
                at = next;
            } else {
                rows.forget_rest();
                let next = columns.any_row(text, at, rows)?;
                n_lines += count_lines(&text[at..next]);
                at = next;
                scan.skip_to(at);
            }
        }
        Ok((rows.n_rows, n_lines))
    }

    /// Reads a row in which nothing is unusual; where the next one begins. Otherwise it may have read a part. Line breaks within it are
    /// added to `n_inside`.
    pub fn plain_row(
        &self,
        text: &[u8],
        mut at: usize,
        scan: &mut Scan,
        rows: &mut Rows,
        n_inside: &mut usize,
    ) -> Option<usize> {
        let n_numbers = self.columns.n_numbers;
        rows.next_values(n_numbers);
        let Rows { n_rows, values, weights, labels, categories, .. } = rows;
        let values = &mut values[*n_rows * n_numbers..][..n_numbers];
        for &Run { role, n_columns, terminator } in &self.runs {
            match role {
                Role::Number(first) => {
                    let (fours, rest) = values[first..first + n_columns].as_chunks_mut();
                    for four in fours {
                        at = plain_numbers(text, at, terminator, scan, four)?;
                    }
                    for value in rest {
                        (*value, at) = plain_number(text, at, terminator, scan)?;
                    }
                }
                Role::Weight => {
                    let (weight, next) = plain_number(text, at, terminator, scan)?;
                    weights.push(Some(weight).filter(|&weight| weight >= 0.0)?);
                    at = next;
                }
                Role::Label => {
                    let (name, next) = plain_text(text, at, terminator, scan, n_inside)?;
                    at = (!name.is_empty() && labels.push(Name::within(text, name))).then_some(next)?;
                }
                Role::Category(index) => {
                    let (name, next) = plain_text(text, at, terminator, scan, n_inside)?;
                    let name = Name::within(text, name);
                    at = self.columns.push_category(index, name, &mut categories[index]).then_some(next)?;
                }
                Role::Nothing => (_, at) = plain_text(text, at, terminator, scan, n_inside)?,
            }
        }
        Some(at)
    }
}

/// Four numbers, in quotes or not; where the next field begins.
#[inline(always)]
fn plain_numbers(
    text: &[u8],
    mut at: usize,
    terminator: u8,
    scan: &mut Scan,
    into: &mut [f32; number::LANES],
) -> Option<usize> {
    if *text.get(at)? != b'"'
        && let Some(places) = scan.around()
        && places[0] as usize + 1 == at
        && let Some(numbers) = number::four(text, places, terminator)
    {
        *into = numbers;
        at = places[number::LANES] as usize + 1;
        scan.take(number::LANES);
    } else {
        for value in into {
            (*value, at) = plain_number(text, at, terminator, scan)?;
        }
    }
    Some(at)
}

/// A number, in quotes or not, and where the next field begins.
#[inline(always)]
fn plain_number(text: &[u8], at: usize, terminator: u8, scan: &mut Scan) -> Option<(f32, usize)> {
    let end = scan.next();
    if *text.get(end)? != terminator || at == end {
        return None;
    }
    let mut number = at..end;
    if terminator == b'\n' && text[end - 1] == b'\r' {
        number.end -= 1;
    }
    if text[at] == b'"' && number.len() > 1 && text[number.end - 1] == b'"' {
        number = at + 1..number.end - 1;
    }
    let value = number::field(text, number.start, number.end);
    Some((value.or_else(|| other_number(text, number).or_else(|| spaced_number(&text[at..end])))?, end + 1))
}

/// A number with an exponent, or of many digits.
#[inline(never)]
fn other_number(text: &[u8], at: Range<usize>) -> Option<f32> {
    let (value, length) = number::prefix(&text[at.start..])?;
    (length == at.len()).then_some(value)
}

/// A number with spaces, or for the standard library.
#[cold]
fn spaced_number(field: &[u8]) -> Option<f32> {
    let content = match field.strip_prefix(b"\"") {
        Some(rest) => rest.strip_suffix(b"\"").filter(|content| !content.contains(&b'"'))?,
        None => field,
    };
    number::parse(content.trim_ascii()).filter(|value| value.is_finite())
}

/// A field that has no quotes but those around it, and where the next begins.
#[inline]
fn plain_text(
    text: &[u8],
    at: usize,
    terminator: u8,
    scan: &mut Scan,
    n_inside: &mut usize,
) -> Option<(Range<usize>, usize)> {
    let end = scan.next();
    if *text.get(at)? != b'"' {
        return (*text.get(end)? == terminator).then(|| (trimmed(text, at..end), end + 1));
    }
    let close = at + 1 + memchr(b'"', text.get(at + 1..)?)?;
    let next = behind(text, close + 1, terminator)?;
    if next > end + 1 {
        *n_inside += count_lines(&text[at + 1..close]);
        scan.skip_to(next);
    }
    Some((trimmed(text, at + 1..close), next))
}

/// What is left of a field without the spaces around it.
#[inline]
fn trimmed(text: &[u8], Range { mut start, mut end }: Range<usize>) -> Range<usize> {
    while start < end && text[start].is_ascii_whitespace() {
        start += 1;
    }
    while start < end && text[end - 1].is_ascii_whitespace() {
        end -= 1;
    }
    start..end
}

/// Where the next field begins, when there is nothing but spaces before it.
#[inline]
fn behind(text: &[u8], mut at: usize, terminator: u8) -> Option<usize> {
    loop {
        match *text.get(at)? {
            byte if byte == terminator => return Some(at + 1),
            b' ' | b'\r' => at += 1,
            _ => return None,
        }
    }
}

/// Why a field is no feature.
enum Problem {
    Malformed(String),
    NotFinite(f64),
}

impl Problem {
    fn at(self, place: Place) -> Error {
        match self {
            Self::Malformed(problem) => Error::malformed(place, problem),
            Self::NotFinite(value) => Error::NotFinite { place, value },
        }
    }
}

fn number(field: &[u8]) -> Result<f32, Problem> {
    let text = std::str::from_utf8(field).unwrap_or_default();
    match number::parse(field) {
        Some(value) if value.is_finite() => Ok(value),
        Some(_) => Err(Problem::NotFinite(text.parse().unwrap_or(f64::NAN))),
        None if field.is_empty() => {
            Err(Problem::Malformed("the field is empty; remove the row or fill the gap before training".to_owned()))
        }
        None if text.replacen(',', ".", 1).parse::<f32>().is_ok() => {
            Err(Problem::Malformed(format!("{text:?} is not a number; a decimal comma must be a point")))
        }
        None => {
            let text = String::from_utf8_lossy(field);
            Err(Problem::Malformed(format!(
                "{text:?} is not a number; features and weights must be; a column of text may be the labels, or categorical \
                 (--categorical)"
            )))
        }
    }
}

impl Columns {
    /// Adds a category to those of a column; whether it can be one.
    #[inline]
    fn push_category<'a>(&self, index: usize, name: impl Into<Name<'a>>, names: &mut Names) -> bool {
        let name = name.into();
        if name.bytes.is_empty() {
            return false;
        }
        if self.one_hot[index].known.is_none() {
            return names.push(name);
        }
        let code = names.find(name).or(self.ignore_unknown.then_some(UNKNOWN));
        names.codes.extend(code);
        code.is_some()
    }

    /// Reads any row, or finds out what is wrong; where the next one begins.
    pub fn any_row(&self, text: &[u8], begin: usize, rows: &mut Rows) -> Result<usize, Fault> {
        let row = rows.n_rows + 1;
        let fault = |error: Box<dyn FnOnce(Place) -> Error + Send>| Fault { row, begin, error };
        let malformed = |problem: String| fault(Box::new(|place| Error::malformed(place, problem)));
        let Some((record, end)) = fields(text, begin, self.delimiter) else {
            return Err(malformed("it has a quote that is not closed".to_owned()));
        };
        // An empty line. A row of one column may be empty by mistake, which is an error.
        if record.len() == 1 && (self.names.len() > 1 || record[0] == b"\r") && field(&record, 0).is_empty() {
            return Ok(end);
        }
        if record.len() != self.names.len() {
            return Err(malformed(format!("it has {} fields, the header has {}", record.len(), self.names.len())));
        }
        let at_column = |column: usize, error: Box<dyn FnOnce(Place) -> Error + Send>| {
            let name = self.names[column].clone();
            fault(Box::new(move |place| error(place.at_column(column + 1).named(name))))
        };
        let malformed =
            |column: usize, problem: String| at_column(column, Box::new(|place| Error::malformed(place, problem)));
        let value = |column: usize| {
            number(field(&record, column)).map_err(|problem| at_column(column, Box::new(|place| problem.at(place))))
        };
        let values = rows.next_values(self.n_numbers);
        for feature in &self.features {
            if let Feature::Number(column) = *feature
                && let Role::Number(index) = self.roles[column]
            {
                values[index] = value(column)?;
            }
        }
        for (index, one_hot) in self.one_hot.iter().enumerate() {
            let name = field(&record, one_hot.column);
            if !self.push_category(index, name, &mut rows.categories[index]) {
                return Err(malformed(one_hot.column, self.no_category(index, name)));
            }
        }
        if let Some(column) = self.weight {
            let weight = value(column)?;
            if weight < 0.0 {
                let problem = format!("the weight is {weight}");
                return Err(at_column(column, Box::new(|place| Error::Weight { place, problem })));
            }
            rows.weights.push(weight);
        }
        if let Some(column) = self.label {
            let name = field(&record, column);
            if name.is_empty() {
                return Err(malformed(column, "the label is empty".to_owned()));
            }
            if !rows.labels.push(name) {
                return Err(malformed(column, "the label is not UTF-8 text".to_owned()));
            }
        }
        rows.n_rows += 1;
        Ok(end)
    }

    /// Why a field is no category.
    fn no_category(&self, index: usize, name: &[u8]) -> String {
        match (std::str::from_utf8(name), &self.one_hot[index].known) {
            (Ok(""), _) => "the field is empty; remove the row or fill the gap before training".to_owned(),
            (Err(_), _) => "the category is not UTF-8 text".to_owned(),
            (Ok(name), known) => {
                let known = known.as_deref().unwrap_or_default();
                format!(
                    "{name:?} is none of the {} categories that the model knows ({}); train with it, or let it count as none \
                     of them (--ignore-unknown)",
                    known.len(),
                    list(known)
                )
            }
        }
    }
}
