//! CSV with a header: columns of numbers, of text that becomes one-hot features, one of labels, and one of weights.
//!
//! Fields are as in RFC 4180, with the spaces around them left out: in quotes where they have separators, line breaks or quotes, and
//! then with two quotes for one. What separates them is the one of comma, tab and semicolon that stands most often in
//! the header.

use std::collections::HashMap;

use memchr::{memchr, memchr2};
use rayon::prelude::*;

use super::categories::Names;
use super::input::Input;
use super::number;
use super::text::{BLOCK, Fault, Text, closing};
use super::{Categorical, MAX_CATEGORIES, MAX_FEATURES, Source, Table, list};
use crate::data::{Csr, Features, Values, check_unique};
use crate::error::{Error, Place, Result};

/// Of separators that stand as often, the first.
const DELIMITERS: [u8; 3] = *b",\t;";

/// What stands for a value that is missing, so that it does not make a column one of text.
const MISSING: [&str; 9] = ["", "?", "-", "NA", "N/A", "n/a", "na", "null", "NULL"];

/// One-hot features with more columns than this, or more values, are sparse where that is smaller.
const MAX_DENSE: (usize, usize) = (1000, 1 << 28);

/// The code of a category that a model does not know.
const UNKNOWN: u32 = u32::MAX;

pub(super) fn read(input: Input<'static>, source: &Source) -> Result<Table> {
    read_in_blocks(input, source, BLOCK)
}

/// `block` is about how many bytes are parsed at once.
fn read_in_blocks(input: Input<'static>, source: &Source, block: usize) -> Result<Table> {
    let path = input.path().to_owned();
    let mut text = Text::new(input, block)?;
    let (header, delimiter) = header(&mut text)?;
    let columns = Columns::choose(&header, delimiter, source, &mut text)?;
    let place = text.place();
    let mut rows = Rows::new(&columns);
    text.parse(Some(delimiter), |text| columns.parse(text), |block| rows.append(block, &columns, &place))?;

    let in_file = |error: Error| error.in_file(&path);
    let Rows { n_rows, values, weights, labels, categories } = rows;
    let (features, feature_names) = if columns.one_hot.is_empty() {
        let features = Features::new(values, n_rows, columns.n_numbers).map_err(in_file)?;
        (features, columns.numbers_in_order())
    } else {
        let layout = Layout::new(&columns, &categories).map_err(in_file)?;
        let features = layout.features(n_rows, &values, &categories).map_err(in_file)?;
        (features, layout.names)
    };
    let labels = match columns.label {
        Some(_) => Some(labels.into_labels().map_err(in_file)?),
        None => None,
    };
    let weights = columns.weight.map(|_| weights);
    let categorical = columns.one_hot.iter().map(|one_hot| columns.names[one_hot.column].clone()).collect();
    let feature_names = Some(feature_names);
    Ok(Table { source: source.clone(), features, labels, weights, feature_names, categorical, zero_based: None })
}

/// The fields of the header, and what separates fields. What the text goes on with are rows.
fn header(text: &mut Text) -> Result<(Vec<Vec<u8>>, u8)> {
    let malformed = |text: &Text, problem: &str| Error::malformed(text.place(), problem);
    // Where the header begins and ends, and how often it has each separator.
    let find = |text: &[u8]| {
        let (mut begin, mut counts, mut at) = (0, [0; 3], 0);
        while at < text.len() {
            let is_start = at == begin || DELIMITERS.contains(&text[at - 1]);
            match text[at] {
                b'"' if is_start => {
                    at = closing(text, at)?;
                    continue;
                }
                b'\n' if text[begin..at].trim_ascii().is_empty() => begin = at + 1,
                b'\n' => return Some((begin, at + 1, counts)),
                byte => DELIMITERS.iter().zip(&mut counts).for_each(|(&other, n)| *n += usize::from(byte == other)),
            }
            at += 1;
        }
        None
    };
    let (begin, end, counts) = loop {
        if let Some(found) = find(text.buffer()) {
            break found;
        }
        if !text.more()? {
            let problem = match text.buffer().trim_ascii() {
                b"" => "the file is empty; CSV begins with a header",
                _ => "its header has a quote that is not closed",
            };
            return Err(malformed(text, problem));
        }
    };
    let most = counts.iter().copied().max().unwrap_or(0);
    let delimiter = DELIMITERS[counts.iter().position(|&n| n == most).unwrap_or(0)];
    let Some((fields, _)) = fields(&text.buffer()[..end], begin, delimiter) else {
        return Err(malformed(text, "its header has a quote that is not closed"));
    };
    text.skip(end);
    Ok((fields, delimiter))
}

/// The fields of the record that begins at `at`, and where the next begins; none when a quote is not closed.
fn fields(text: &[u8], mut at: usize, delimiter: u8) -> Option<(Vec<Vec<u8>>, usize)> {
    let mut fields = Vec::new();
    loop {
        let mut field = Vec::new();
        if text.get(at) == Some(&b'"') {
            let close = closing(text, at)?;
            let mut is_second = false;
            for &byte in &text[at + 1..close - 1] {
                is_second = byte == b'"' && !is_second;
                // The first of two.
                if !is_second {
                    field.push(byte);
                }
            }
            at = close;
        }
        let end = at + memchr2(delimiter, b'\n', text.get(at..)?)?;
        field.extend_from_slice(&text[at..end]);
        fields.push(field);
        at = end + 1;
        if text[end] == b'\n' {
            return Some((fields, at));
        }
    }
}

/// A field without the spaces around it.
fn field(record: &[Vec<u8>], column: usize) -> &[u8] {
    record.get(column).map_or(&[], |field| field.trim_ascii())
}

/// A number that is written plainly, in quotes or not, and where the next field begins.
#[inline]
fn plain_number(text: &[u8], mut at: usize, terminator: u8) -> Option<(f32, usize)> {
    if text.get(at) == Some(&b'"') {
        let (content, next) = plain_text(text, at, terminator)?;
        return Some((number::parse(content).filter(|value| value.is_finite())?, next));
    }
    while text.get(at) == Some(&b' ') {
        at += 1;
    }
    let (value, length) = number::prefix(text.get(at..)?)?;
    Some((value, behind(text, at + length, terminator)?))
}

/// A field that has no quotes but those around it, and where the next begins.
#[inline]
fn plain_text(text: &[u8], at: usize, terminator: u8) -> Option<(&[u8], usize)> {
    if text.get(at) != Some(&b'"') {
        let end = at + memchr2(terminator, b'\n', text.get(at..)?)?;
        return (text[end] == terminator).then_some((text[at..end].trim_ascii(), end + 1));
    }
    let end = at + 1 + memchr(b'"', text.get(at + 1..)?)?;
    Some((text[at + 1..end].trim_ascii(), behind(text, end + 1, terminator)?))
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

/// What a column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Nothing,
    /// The number with this index among those of a row.
    Number(usize),
    /// The category of this one-hot column.
    Category(usize),
    Label,
    Weight,
}

/// A column of text.
struct OneHot {
    column: usize,
    /// The numbers of the categories, where a model has them: no others are then allowed.
    known: Option<HashMap<String, u32>>,
}

/// What features are made of, in their order.
enum Feature {
    /// A column.
    Number(usize),
    /// All categories of a one-hot column.
    Categories(usize),
    /// One category of a one-hot column, by its number.
    Category(usize, u32),
}

/// Which columns of a file are taken.
struct Columns {
    /// Of all columns.
    names: Vec<String>,
    delimiter: u8,
    roles: Vec<Role>,
    features: Vec<Feature>,
    /// The names of the features, where they are given.
    wanted: Option<Vec<String>>,
    n_numbers: usize,
    one_hot: Vec<OneHot>,
    label: Option<usize>,
    weight: Option<usize>,
    /// Whether a category that a model does not know is allowed.
    ignore_unknown: bool,
}

impl Columns {
    fn choose(header: &[Vec<u8>], delimiter: u8, source: &Source, text: &mut Text) -> Result<Self> {
        let place = text.place();
        let malformed = |problem: String| Error::malformed(place.clone(), problem);
        let mut names: Vec<String> = Vec::new();
        let mut columns: HashMap<&str, usize> = HashMap::new();
        for index in 0..header.len() {
            let Ok(name) = std::str::from_utf8(field(header, index)) else {
                return Err(malformed(
                    "its header is not UTF-8 text; it must be CSV, svmlight, IDX or .npy".to_owned(),
                ));
            };
            if name.is_empty() {
                let advice = "name it in the header, or remove it if it only counts the rows";
                return Err(malformed(format!("column {} has no name; {advice}", index + 1)));
            }
            if let Some(other) = columns.insert(name, index) {
                return Err(malformed(format!("columns {} and {} are both called {name:?}", other + 1, index + 1)));
            }
            names.push(name.to_owned());
        }
        let find = |wanted: &str, role: &str| {
            columns.get(wanted).copied().ok_or_else(|| {
                let unknown = format!("it has no column {wanted:?}{role}; its columns are {}", list(&names));
                let is_one = names.len() == 1 && names[0].contains(['|', ' ', ':']);
                malformed(if is_one {
                    format!("{unknown} (commas, tabs or semicolons must separate them)")
                } else {
                    unknown
                })
            })
        };
        let label = match &source.label_column {
            Some(name) => Some(find(name, " for the labels")?),
            None => None,
        };
        let weight = match &source.weight_column {
            Some(name) => Some(find(name, " for the weights")?),
            None => None,
        };
        if let Some(column) = label.filter(|_| label == weight) {
            return Err(malformed(format!("column {:?} cannot have both the labels and the weights", names[column])));
        }
        let mut chosen = Self {
            delimiter,
            roles: vec![Role::Nothing; names.len()],
            features: Vec::new(),
            wanted: source.feature_names.clone(),
            n_numbers: 0,
            one_hot: Vec::new(),
            label,
            weight,
            ignore_unknown: source.ignore_unknown_categories,
            names: names.clone(),
        };
        for (column, role) in [(label, Role::Label), (weight, Role::Weight)] {
            if let Some(column) = column {
                chosen.roles[column] = role;
            }
        }
        let not_both = |column: usize| {
            let what = if label == Some(column) { "labels" } else { "weights" };
            malformed(format!("column {:?} has the {what}, so that it cannot be a feature", names[column]))
        };
        if let Some(wanted) = &source.feature_names {
            check_unique("feature", wanted)?;
            for name in wanted {
                let (column, category) = match columns.get(name.as_str()) {
                    Some(&column) => (column, None),
                    None => match one_hot_name(name, &columns) {
                        Some((column, category)) => (column, Some(category)),
                        None => (find(name, "")?, None),
                    },
                };
                if !chosen.add(column, category) {
                    return Err(not_both(column));
                }
            }
            return Ok(chosen);
        }
        let is_text = match &source.categorical {
            Categorical::None => vec![false; names.len()],
            Categorical::Auto => columns_of_text(text, names.len(), delimiter)?,
            Categorical::Columns(wanted) => {
                let mut is_text = vec![false; names.len()];
                for name in wanted {
                    let column = find(name, " of categories")?;
                    if chosen.roles[column] != Role::Nothing {
                        return Err(not_both(column));
                    }
                    is_text[column] = true;
                }
                is_text
            }
        };
        let taken = match &source.feature_columns {
            Some(wanted) => {
                check_unique("feature", wanted)?;
                wanted.iter().map(|name| find(name, "")).collect::<Result<_>>()?
            }
            None => {
                (0..names.len()).filter(|&column| matches!(chosen.roles[column], Role::Nothing)).collect::<Vec<_>>()
            }
        };
        for column in taken {
            if chosen.roles[column] != Role::Nothing {
                return Err(not_both(column));
            }
            if is_text[column] {
                chosen.features.push(Feature::Categories(chosen.one_hot.len()));
                chosen.roles[column] = Role::Category(chosen.one_hot.len());
                chosen.one_hot.push(OneHot { column, known: None });
            } else {
                chosen.add(column, None);
            }
        }
        Ok(chosen)
    }

    /// A further feature: a column of numbers, or one category of a column; whether the column can be that.
    fn add(&mut self, column: usize, category: Option<&str>) -> bool {
        match (self.roles[column], category) {
            (Role::Nothing, None) => {
                self.roles[column] = Role::Number(self.n_numbers);
                self.features.push(Feature::Number(column));
                self.n_numbers += 1;
            }
            (Role::Nothing, Some(_)) => {
                self.roles[column] = Role::Category(self.one_hot.len());
                self.one_hot.push(OneHot { column, known: Some(HashMap::new()) });
                return self.add(column, category);
            }
            (Role::Category(index), Some(category)) => {
                let known = self.one_hot[index].known.get_or_insert_default();
                let number = known.len() as u32;
                known.insert(category.to_owned(), number);
                self.features.push(Feature::Category(index, number));
            }
            _ => return false,
        }
        true
    }

    /// The names of the features, when all are numbers.
    fn numbers_in_order(&self) -> Vec<String> {
        let name = |feature: &Feature| match feature {
            Feature::Number(column) => self.names.get(*column).cloned(),
            _ => None,
        };
        self.features.iter().filter_map(name).collect()
    }

    fn place(&self, place: Place, column: usize) -> Place {
        let place = place.at_column(column + 1);
        match self.names.get(column) {
            Some(name) => place.named(name),
            None => place,
        }
    }

    /// The rows of a block, and how many there are.
    fn parse(&self, text: &[u8]) -> Result<(Rows, usize), Fault> {
        let mut rows = Rows::new(self);
        rows.values.reserve(if self.n_numbers > 0 { text.len() / 4 } else { 0 });
        let mut at = 0;
        while at < text.len() {
            if text[at] == b'\n' {
                at += 1;
            } else if let Some(next) = self.plain_row(text, at, &mut rows) {
                rows.n_rows += 1;
                at = next;
            } else {
                rows.forget_rest(self.n_numbers);
                at = self.any_row(text, at, &mut rows)?;
            }
        }
        let n_rows = rows.n_rows;
        Ok((rows, n_rows))
    }

    /// Reads a row in which nothing is unusual; where the next one begins. Otherwise it may have read a part.
    fn plain_row(&self, text: &[u8], mut at: usize, rows: &mut Rows) -> Option<usize> {
        let begin = rows.values.len();
        rows.values.resize(begin + self.n_numbers, 0.0);
        let values = &mut rows.values[begin..];
        for (column, role) in self.roles.iter().enumerate() {
            let terminator = if column + 1 == self.roles.len() { b'\n' } else { self.delimiter };
            at = match *role {
                Role::Number(index) => {
                    let (value, next) = plain_number(text, at, terminator)?;
                    values[index] = value;
                    next
                }
                Role::Weight => {
                    let (weight, next) = plain_number(text, at, terminator)?;
                    rows.weights.push(Some(weight).filter(|&weight| weight >= 0.0)?);
                    next
                }
                Role::Label => {
                    let (name, next) = plain_text(text, at, terminator)?;
                    (!name.is_empty() && rows.labels.push(name)).then_some(next)?
                }
                Role::Category(index) => {
                    let (name, next) = plain_text(text, at, terminator)?;
                    self.push_category(index, name, &mut rows.categories[index]).then_some(next)?
                }
                Role::Nothing => plain_text(text, at, terminator)?.1,
            };
        }
        Some(at)
    }

    /// Adds a category to those of a column; whether it can be one.
    fn push_category(&self, index: usize, name: &[u8], names: &mut Names) -> bool {
        if name.is_empty() {
            return false;
        }
        let Some(known) = &self.one_hot[index].known else { return names.push(name) };
        let code = std::str::from_utf8(name).ok().and_then(|name| known.get(name).copied());
        let code = code.or(self.ignore_unknown.then_some(UNKNOWN));
        names.codes.extend(code);
        code.is_some()
    }

    /// Reads any row, or finds out what is wrong; where the next one begins.
    fn any_row(&self, text: &[u8], begin: usize, rows: &mut Rows) -> Result<usize, Fault> {
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
        let begin = rows.values.len();
        rows.values.resize(begin + self.n_numbers, 0.0);
        for feature in &self.features {
            if let Feature::Number(column) = *feature
                && let Role::Number(index) = self.roles[column]
            {
                rows.values[begin + index] = value(column)?;
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
                let mut known: Vec<_> = known.iter().flatten().collect();
                known.sort_unstable_by_key(|(_, number)| **number);
                let known: Vec<String> = known.into_iter().map(|(name, _)| name.clone()).collect();
                format!(
                    "{name:?} is none of the {} categories that the model knows ({}); train with it, or let it count as none \
                     of them (--ignore-unknown)",
                    known.len(),
                    list(&known)
                )
            }
        }
    }
}

/// The column and the category of a feature that is called `column=category`.
fn one_hot_name<'a>(name: &'a str, columns: &HashMap<&str, usize>) -> Option<(usize, &'a str)> {
    let is_column = |(at, _)| Some((*columns.get(&name[..at])?, &name[at + 1..]));
    name.match_indices('=').find_map(is_column)
}

/// Which columns have text where their first value is that is not missing.
fn columns_of_text(text: &mut Text, n_columns: usize, delimiter: u8) -> Result<Vec<bool>> {
    text.more()?;
    let mut is_text: Vec<Option<bool>> = vec![None; n_columns];
    let mut at = 0;
    while let Some((record, next)) = fields(text.buffer(), at, delimiter)
        && is_text.contains(&None)
    {
        for (column, is_text) in is_text.iter_mut().enumerate().filter(|_| record.len() == n_columns) {
            let field = field(&record, column);
            if is_text.is_none() && !MISSING.iter().any(|missing| missing.as_bytes() == field) {
                *is_text = Some(number::parse(field).is_none());
            }
        }
        at = next;
    }
    Ok(is_text.into_iter().map(|is_text| is_text == Some(true)).collect())
}

/// What rows of a file have.
#[derive(Default)]
struct Rows {
    n_rows: usize,
    /// Row by row.
    values: Vec<f32>,
    weights: Vec<f32>,
    labels: Names,
    /// Of each one-hot column.
    categories: Vec<Names>,
}

impl Rows {
    fn new(columns: &Columns) -> Self {
        let categories = columns.one_hot.iter().map(|_| Names::default()).collect();
        Self { categories, ..Self::default() }
    }

    /// Forgets what is of no whole row.
    fn forget_rest(&mut self, n_numbers: usize) {
        self.values.truncate(self.n_rows * n_numbers);
        self.weights.truncate(self.n_rows);
        self.labels.codes.truncate(self.n_rows);
        self.categories.iter_mut().for_each(|names| names.codes.truncate(self.n_rows));
    }

    /// Adds rows that follow.
    fn append(&mut self, other: Self, columns: &Columns, place: &Place) -> Result<()> {
        if self.values.try_reserve(other.values.len()).is_err() {
            return Err(Error::out_of_memory(
                format!("the values of {place}"),
                self.values.len() + other.values.len(),
                4,
            ));
        }
        self.n_rows += other.n_rows;
        self.values.extend_from_slice(&other.values);
        self.weights.extend_from_slice(&other.weights);
        self.labels.append(&other.labels);
        for ((names, other), one_hot) in self.categories.iter_mut().zip(other.categories).zip(&columns.one_hot) {
            if one_hot.known.is_some() {
                names.codes.extend(other.codes);
                continue;
            }
            names.append(&other);
            if names.names.len() > MAX_CATEGORIES {
                let problem = format!(
                    "it has more than {MAX_CATEGORIES} different values; is it a name of each row rather than a category?"
                );
                return Err(Error::malformed(columns.place(place.clone(), one_hot.column), problem));
            }
        }
        Ok(())
    }
}

/// Where numbers and categories stand among the features.
struct Layout {
    names: Vec<String>,
    /// The feature of each number of a row.
    of_numbers: Vec<u32>,
    /// The feature of each category of each one-hot column, by its code.
    of_categories: Vec<Vec<u32>>,
}

impl Layout {
    fn new(columns: &Columns, categories: &[Names]) -> Result<Self> {
        let mut layout = Self {
            names: Vec::new(),
            of_numbers: vec![0; columns.n_numbers],
            of_categories: columns
                .one_hot
                .iter()
                .map(|one_hot| vec![0; one_hot.known.as_ref().map_or(0, HashMap::len)])
                .collect(),
        };
        for feature in &columns.features {
            let next = layout.names.len() as u32;
            match *feature {
                Feature::Number(column) => {
                    if let Role::Number(index) = columns.roles[column] {
                        layout.of_numbers[index] = next;
                    }
                    layout.names.push(columns.names[column].clone());
                }
                Feature::Category(index, number) => {
                    layout.of_categories[index][number as usize] = next;
                    layout.names.extend(columns.wanted.iter().flatten().nth(next as usize).cloned());
                }
                Feature::Categories(index) => {
                    let column = &columns.names[columns.one_hot[index].column];
                    let (names, order) = categories[index].sorted()?;
                    layout.of_categories[index] = order.iter().map(|&number| next + number).collect();
                    layout.names.extend(names.iter().map(|name| format!("{column}={name}")));
                }
            }
            if layout.names.len() > MAX_FEATURES {
                let problem = format!("its columns and categories are more than {MAX_FEATURES} features");
                return Err(Error::malformed(Place::default(), problem));
            }
        }
        check_unique("feature", &layout.names)?;
        Ok(layout)
    }

    /// X, in which categories are 0 or 1.
    fn features(&self, n_rows: usize, numbers: &[f32], categories: &[Names]) -> Result<Features<'static>> {
        let d = self.names.len();
        // The feature of each value that is not zero.
        let of_row = |row: usize| {
            let numbers = numbers[row * self.of_numbers.len()..][..self.of_numbers.len()].iter();
            let numbers = self.of_numbers.iter().copied().zip(numbers.copied()).filter(|(_, value)| *value != 0.0);
            let one =
                move |(names, features): (&Names, &Vec<u32>)| Some((*features.get(names.codes[row] as usize)?, 1.0));
            numbers.chain(categories.iter().zip(&self.of_categories).filter_map(one))
        };
        let n_values = n_rows.saturating_mul(d);
        if d > MAX_DENSE.0 || n_values > MAX_DENSE.1 {
            let n_stored: usize = (0..n_rows).into_par_iter().map(|row| of_row(row).count()).sum();
            if n_stored.saturating_mul(2) < n_values {
                let (mut offsets, mut columns, mut values) =
                    (vec![0], Vec::with_capacity(n_stored), Vec::with_capacity(n_stored));
                let mut entries: Vec<(u32, f32)> = Vec::new();
                for row in 0..n_rows {
                    entries.clear();
                    entries.extend(of_row(row));
                    entries.sort_unstable_by_key(|(feature, _)| *feature);
                    columns.extend(entries.iter().map(|(feature, _)| *feature));
                    values.extend(entries.iter().map(|(_, value)| *value));
                    offsets.push(values.len() as u64);
                }
                return Features::new(Csr::new(offsets, columns, values)?, n_rows, d);
            }
        }
        let mut values: Vec<f32> = Vec::new();
        if values.try_reserve_exact(n_values).is_err() {
            return Err(Error::out_of_memory("the one-hot features", n_values, 4));
        }
        values.resize(n_values, 0.0);
        if d > 0 {
            let fill = |(row, into): (usize, &mut [f32])| of_row(row).for_each(|(at, value)| into[at as usize] = value);
            values.par_chunks_mut(d).enumerate().for_each(fill);
        }
        Features::new(Values::from(values), n_rows, d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Shuffle;
    use crate::data::Targets;

    fn table(content: &str, label_column: Option<&str>, feature_names: Option<&[&str]>) -> Result<Table> {
        let source = Source {
            label_column: label_column.map(str::to_owned),
            feature_names: feature_names.map(|names| names.iter().map(|&name| name.to_owned()).collect()),
            ..Source::new("file")
        };
        read(Input::of(content), &source)
    }

    fn values(table: &Table) -> &[f32] {
        match table.features.values() {
            Values::F32(values) => values,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_labels_and_names() {
        let content = "\u{feff}a, kind ,b\r\n1,\"x, y\",-2e1\r\n\r\n .5 ,z,+3\r\n";
        let table = table(content, Some("kind"), None).unwrap();
        assert_eq!(values(&table), [1.0, -20.0, 0.5, 3.0]);
        assert_eq!(table.feature_names.as_deref().unwrap(), ["a", "b"]);
        let labels = table.labels.unwrap();
        assert_eq!(labels.classes(), ["x, y", "z"]);
        assert!(matches!(labels.targets(), Targets::Classes(indices) if **indices == [0, 1]));
    }

    #[test]
    fn wanted_columns_come_in_the_order_wanted() {
        let table = table("c,text,a,b\n3,x,1,2\n", None, Some(&["a", "c"])).unwrap();
        assert_eq!(values(&table), [1.0, 3.0]);
        assert_eq!(table.feature_names.unwrap(), ["a", "c"]);
        assert!(table.labels.is_none());
    }

    #[test]
    fn errors_name_row_line_and_column() {
        let error = |content: &str| table(content, Some("kind"), None).map(drop).unwrap_err().to_string();
        // A quoted field goes over two lines, and an empty line is no row.
        let start = "a,kind,b\n1,\"x\ny\",2\n\n";
        let cases = [
            ("1,x\n", "file, row 2 (line 5): it has 2 fields, the header has 3"),
            ("1,x,2,3\n", "file, row 2 (line 5): it has 4 fields, the header has 3"),
            ("1,x,much\n", "file, row 2 (line 5), column 3 (b): \"much\" is not a number"),
            ("1,x,\n", "file, row 2 (line 5), column 3 (b): the field is empty"),
            ("nan,x,1\n", "file, row 2 (line 5), column 1 (a): the value NaN is not"),
            ("1,x,1e300\n", "file, row 2 (line 5), column 3 (b): the value 1e300 is not"),
            ("1,,2\n", "file, row 2 (line 5), column 2 (kind): the label is empty"),
        ];
        for (row, expected) in cases {
            for row in [row, row.trim_end(), &format!("{row}3,z,4\n")] {
                let content = format!("{start}{row}");
                for content in [content.replace('\n', "\r\n"), content] {
                    let found = error(&content);
                    assert!(found.starts_with(expected), "{found}");
                }
            }
        }
        assert!(error("a|kind\n1|x\n").ends_with("\"a|kind\" (commas, tabs or semicolons must separate them)"));
        let one_column = table("a\n1\n\n\"\"\n2\n", None, None).unwrap_err().to_string();
        assert!(one_column.starts_with("file, row 2 (line 4), column 1 (a): the field is empty"), "{one_column}");
        assert_eq!(values(&table("a\r\n1\r\n\r\n2\r\n\r\n", None, None).unwrap()), [1.0, 2.0]);
        assert_eq!(error(""), "file: the file is empty; CSV begins with a header");
        assert_eq!(error("a,kind\n"), "file: there are no samples");
        assert_eq!(error("kind\nx\n"), "file: there are no features");
        assert!(
            error("a,b\n1,2\n").ends_with("it has no column \"kind\" for the labels; its columns are \"a\", \"b\"")
        );
        assert!(error("a,kind,a\n1,x,2\n").contains("columns 1 and 3 are both called \"a\""));
        assert!(error(",kind,a\n0,x,2\n").contains("column 1 has no name"));
    }

    fn read_blocks(content: impl Into<Vec<u8>>, source: &Source, block: usize) -> Result<Table> {
        read_in_blocks(Input::of(content), source, block)
    }

    /// Everything of a table, or the error.
    fn text_of(table: Result<Table>) -> String {
        match table {
            Ok(Table { features, labels, weights, feature_names, .. }) => {
                format!("{:?} {labels:?} {weights:?} {feature_names:?}", features.values())
            }
            Err(error) => error.to_string(),
        }
    }

    fn labelled() -> Source {
        Source {
            label_column: Some("kind".to_owned()),
            weight_column: Some("w".to_owned()),
            categorical: Categorical::Columns(vec!["color".to_owned()]),
            ..Source::new("file")
        }
    }

    const MIXED: &str = "a,color,kind,w,b\r\n1,red,\"x\ny\",0.5,2\r\n\r\n\"2\",\" blue, \"\"b\"\"\",z,1,-0\n 3 ,red,z,2,1e3\n\n\
        .5,七,\"x\ny\",0,+7.\n4,5\" wide,z,1,0.1";

    #[test]
    fn blocks_of_every_size_read_the_same() {
        let wrong = [
            ("0.5,2", "0.5,much"),
            ("+7.", "1e99"),
            ("z,2,", "z,-2,"),
            ("\"x\ny\",0,", "\"\",0,"),
            ("4,5\"", "4,\"5"),
            ("red,z,2,1e3", "red,z,2"),
        ];
        let mut contents = vec![MIXED.to_owned()];
        contents.extend(wrong.map(|(sound, wrong)| MIXED.replace(sound, wrong)));
        let mut whole: Vec<String> = Vec::new();
        for content in &contents {
            let expected = text_of(read_blocks(content.as_str(), &labelled(), 1 << 20));
            for block in 1..content.len() + 2 {
                assert_eq!(text_of(read_blocks(content.as_str(), &labelled(), block)), expected, "{block}");
            }
            assert!(!whole.contains(&expected));
            whole.push(expected);
        }
        let sound = read_blocks(MIXED, &labelled(), 1 << 20).unwrap();
        let names = ["a", "color=5\" wide", "color=blue, \"b\"", "color=red", "color=七", "b"];
        assert_eq!(sound.feature_names.as_deref().unwrap(), names);
        assert_eq!(values(&sound)[..12], [1.0, 0.0, 0.0, 1.0, 0.0, 2.0, 2.0, 0.0, 1.0, 0.0, 0.0, -0.0]);
        assert_eq!(sound.labels.as_ref().unwrap().classes(), ["x\ny", "z"]);
        assert_eq!(sound.weights.unwrap(), [0.5, 1.0, 2.0, 0.0, 1.0]);
        assert!(whole[1].starts_with("file, row 1 (line 2), column 5 (b): \"much\" is not a number"), "{}", whole[1]);
        assert!(whole[2].starts_with("file, row 4 (line 8), column 5 (b): the value 1e99"), "{}", whole[2]);
        assert!(whole[3].starts_with("file, row 3 (line 6), column 4 (w): "), "{}", whole[3]);
        assert!(whole[4].starts_with("file, row 4 (line 8), column 3 (kind): the label is empty"), "{}", whole[4]);
        assert!(whole[5].starts_with("file, row 5 (line 10): it has a quote that is not closed"), "{}", whole[5]);
        assert!(whole[6].starts_with("file, row 3 (line 6): it has 4 fields"), "{}", whole[6]);
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_no_panic() {
        let bytes = MIXED.as_bytes();
        for length in 0..bytes.len() {
            let _ = read_blocks(&bytes[..length], &labelled(), 8);
        }
        let mut n_errors = 0;
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let result = text_of(read_blocks(flipped.as_slice(), &labelled(), 8));
            n_errors += usize::from(result.starts_with("file"));
            assert_eq!(result, text_of(read_blocks(flipped, &labelled(), 1000)), "bit {bit}");
        }
        assert!(n_errors > bytes.len(), "{n_errors}");
    }

    /// The records of a text by the crate `csv`, without those that are empty lines.
    fn records_of_csv(text: &[u8], delimiter: u8) -> Vec<Vec<Vec<u8>>> {
        let mut builder = ::csv::ReaderBuilder::new();
        builder.has_headers(false).flexible(true).delimiter(delimiter).terminator(::csv::Terminator::Any(b'\n'));
        let records = builder.from_reader(text).into_byte_records();
        records.map(|record| record.unwrap().iter().map(<[u8]>::to_vec).collect()).collect()
    }

    #[test]
    fn fields_are_those_of_the_crate_csv_in_any_text() {
        let mut random = Shuffle::new(1, 0);
        let mut n_compared = 0;
        for _ in 0..100_000 {
            let length = 1 + random.below(16);
            let mut text: Vec<u8> = (0..length).map(|_| b"a\"\"\"\n\n,, \r"[random.below(10)]).collect();
            text.push(b'\n');
            let (mut records, mut at) = (Vec::new(), 0);
            while at < text.len() {
                if text[at] == b'\n' {
                    at += 1;
                    continue;
                }
                let Some((record, next)) = fields(&text, at, b',') else { break };
                records.push(record);
                at = next;
            }
            // Otherwise a quote is not closed.
            if at == text.len() {
                n_compared += 1;
                assert_eq!(records, records_of_csv(&text, b','), "{:?}", String::from_utf8_lossy(&text));
            }
        }
        assert!(n_compared > 20_000, "{n_compared}");
    }

    #[test]
    fn tables_that_the_crate_csv_writes_read_as_they_are() {
        let mut random = Shuffle::new(2, 0);
        for delimiter in [b',', b'\t', b';'] {
            for quotes in [::csv::QuoteStyle::Necessary, ::csv::QuoteStyle::Always, ::csv::QuoteStyle::NonNumeric] {
                let mut writer = ::csv::WriterBuilder::new();
                let mut writer = writer.delimiter(delimiter).quote_style(quotes).from_writer(Vec::new());
                writer.write_record(["a", "text", "left out", "b", "kind"]).unwrap();
                let mut text = || -> String {
                    let length = random.below(6);
                    (0..length).map(|_| ["x", "\"", ",", ";", "\t", "\n", "\r\n", " ", "é"][random.below(9)]).collect()
                };
                let mut expected = Vec::new();
                for row in 0..300i16 {
                    // Spaces around a field do not count.
                    let (category, label) = (format!("c{}.", text()), format!("k{}.", text()));
                    let (a, b) = (f32::from(row) / 7.0, f32::from(row * 31));
                    writer.write_record([&a.to_string(), &category, &text(), &b.to_string(), &label]).unwrap();
                    expected.push((a, b, category, label));
                }
                let content = writer.into_inner().unwrap();
                let source = Source {
                    label_column: Some("kind".to_owned()),
                    categorical: Categorical::Columns(vec!["text".to_owned(), "left out".to_owned()]),
                    ..Source::new("file")
                };
                // What may be empty cannot be a category.
                assert!(read_blocks(content.clone(), &source, 100).unwrap_err().to_string().contains("is empty"));
                let categorical = Categorical::Columns(vec!["text".to_owned()]);
                let (columns, delimiter) = {
                    let mut text = Text::new(Input::of(content.clone()), 64).unwrap();
                    let (header, delimiter) = header(&mut text).unwrap();
                    let source = Source { categorical, ..source };
                    let mut columns = Columns::choose(&header, delimiter, &source, &mut text).unwrap();
                    // The column that is left out.
                    columns.roles[2] = Role::Nothing;
                    columns.features.retain(|feature| !matches!(feature, Feature::Number(2)));
                    (columns, delimiter)
                };
                let mut text = Text::new(Input::of(content), 64).unwrap();
                header(&mut text).unwrap();
                let mut rows = Rows::new(&columns);
                let append = |block| rows.append(block, &columns, &Place::default());
                text.parse(Some(delimiter), |text| columns.parse(text), append).unwrap();
                assert_eq!(rows.n_rows, 300);
                for (row, (a, b, category, label)) in expected.iter().enumerate() {
                    let values = &rows.values[row * columns.n_numbers..][..columns.n_numbers];
                    assert_eq!((values[0], values[columns.n_numbers - 1]), (*a, *b));
                    let name = |names: &Names| names.names[names.codes[row] as usize].clone();
                    assert_eq!((name(&rows.categories[0]), name(&rows.labels)), (category.clone(), label.clone()));
                }
            }
        }
    }

    #[test]
    fn plain_rows_are_what_any_row_is() {
        let columns = {
            let mut text = Text::new(Input::of("a,color,kind,w,x,b\n"), 64).unwrap();
            let (header, delimiter) = header(&mut text).unwrap();
            let source = Source {
                feature_names: Some(["b", "color=u", "a", "color=v"].map(String::from).to_vec()),
                ..labelled()
            };
            Columns::choose(&header, delimiter, &source, &mut text).unwrap()
        };
        let numbers =
            ["1", " -2.5 ", "\"3\"", "\" 4 \"", "1e3", "0.1234567890123456789", "nan", "", "5\r", "x", "\"6", "-1"];
        let texts = ["u", "v", " v ", "\"u\"", "\"v\"\"\"", "w", "", "\"a,b\"", "u\"", "\"u\" ", "\"u\"x"];
        let mut random = Shuffle::new(3, 0);
        let mut n_plain = 0;
        for _ in 0..50_000 {
            let mut one = |of: &[&str]| {
                let n = if random.below(2) == 0 { of.len() } else { 4 };
                of[random.below(n)].to_owned()
            };
            let fields = [one(&numbers), one(&texts), one(&texts), one(&numbers), one(&texts), one(&numbers)];
            let row = fields.join(",") + "\n1,u,u,1,,1\n";
            let (mut plain, mut any) = (Rows::new(&columns), Rows::new(&columns));
            let next = columns.plain_row(row.as_bytes(), 0, &mut plain);
            let next_of_any = columns.any_row(row.as_bytes(), 0, &mut any);
            if let Some(next) = next {
                n_plain += 1;
                assert_eq!(next_of_any.ok(), Some(next), "{row}");
                assert_eq!((plain.values, plain.weights), (any.values, any.weights), "{row}");
                assert_eq!(plain.labels.names, any.labels.names, "{row}");
                assert_eq!(plain.categories[0].codes, any.categories[0].codes, "{row}");
            }
        }
        assert!(n_plain > 1000, "{n_plain}");
    }

    #[test]
    fn commas_tabs_or_semicolons_separate() {
        for delimiter in [",", "\t", ";"] {
            let content = "a|\"b,;c\"|kind\n1|2|x\n3|4|y, z; w\n".replace('|', delimiter);
            let content = if delimiter == "\t" { content } else { content.replace("y, z; w", "y") };
            let table = table(&content, Some("kind"), None).unwrap();
            assert_eq!(values(&table), [1.0, 2.0, 3.0, 4.0]);
            assert_eq!(table.feature_names.unwrap(), ["a", "b,;c"]);
        }
        let comma = table("a;b\n1,5;2\n", None, None).unwrap_err().to_string();
        assert!(comma.ends_with("column 1 (a): \"1,5\" is not a number; a decimal comma must be a point"), "{comma}");
        let open = table("a,\"b\n1,2\n", None, None).unwrap_err().to_string();
        assert_eq!(open, "file: its header has a quote that is not closed");
    }

    fn categories(content: &str, categorical: Categorical) -> Result<Table> {
        read_blocks(content, &Source { categorical, ..Source::new("file") }, 16)
    }

    #[test]
    fn categories_become_features_in_the_place_of_their_column() {
        let content = "a,size,b,color\n1,10,2,red\n3,9,4,blue\n5,10,6,red\n";
        let columns = |names: &[&str]| Categorical::Columns(names.iter().map(|&name| name.to_owned()).collect());
        let both = categories(content, columns(&["color", "size"])).unwrap();
        assert_eq!(both.feature_names.as_deref().unwrap(), ["a", "size=9", "size=10", "b", "color=blue", "color=red"]);
        let rows = [[1.0, 0.0, 1.0, 2.0, 0.0, 1.0], [3.0, 1.0, 0.0, 4.0, 1.0, 0.0], [5.0, 0.0, 1.0, 6.0, 0.0, 1.0]];
        assert_eq!(values(&both), rows.concat());
        assert_eq!(both.categorical, ["size", "color"]);
        let auto = categories(content, Categorical::Auto).unwrap();
        assert_eq!(auto.feature_names.unwrap(), ["a", "size", "b", "color=blue", "color=red"]);

        let error = |content: &str, categorical| categories(content, categorical).unwrap_err().to_string();
        let text = error(content, Categorical::None);
        assert!(text.contains("column 4 (color): \"red\" is not a number") && text.contains("--categorical"), "{text}");
        // A slip in a column of numbers is an error, also where text is looked for, and a gap does not make a column text.
        let slip = content.replace("5,10,6", "5,1O,6");
        assert!(error(&slip, Categorical::Auto).starts_with("file, row 3 (line 4), column 2 (size): \"1O\" is not"));
        let gap = content.replace("1,10,2", "NA,10,2");
        assert!(error(&gap, Categorical::Auto).starts_with("file, row 1 (line 2), column 1 (a): \"NA\" is not"));
        let empty = content.replace("blue", "");
        assert!(
            error(&empty, Categorical::Auto).starts_with("file, row 2 (line 3), column 4 (color): the field is empty")
        );
        assert!(error(content, columns(&["gone"])).contains("no column \"gone\" of categories"));
        let label =
            Source { label_column: Some("color".to_owned()), categorical: columns(&["color"]), ..Source::new("file") };
        let both = read_blocks(content, &label, 16).unwrap_err().to_string();
        assert!(both.contains("column \"color\" has the labels, so that it cannot be a feature"), "{both}");
        let auto = Source { categorical: Categorical::Auto, ..label };
        assert_eq!(read_blocks(content, &auto, 16).unwrap().feature_names.unwrap(), ["a", "size", "b"]);
        let twice = error("color,color=red\nred,1\n", Categorical::Auto);
        assert!(twice.contains("two feature names are \"color=red\""), "{twice}");
    }

    #[test]
    fn a_model_knows_its_categories() {
        let wanted = ["b", "color=red", "a=1=2", "color=blue"].map(String::from).to_vec();
        let source = Source { feature_names: Some(wanted.clone()), ..Source::new("file") };
        let content = "color,b,more,a=1\nblue,1,x,2\nred,2,y,2\ngreen,3,z,2\n";
        let error = read_blocks(content, &source, 16).unwrap_err().to_string();
        assert!(error.starts_with("file, row 3 (line 4), column 1 (color): \"green\" is none of the 2"), "{error}");
        assert!(error.contains("(\"red\", \"blue\")") && error.contains("--ignore-unknown"), "{error}");
        let table = read_blocks(content, &Source { ignore_unknown_categories: true, ..source }, 16).unwrap();
        assert_eq!(values(&table), [[1.0, 0.0, 1.0, 1.0], [2.0, 1.0, 1.0, 0.0], [3.0, 0.0, 1.0, 0.0]].concat());
        assert_eq!(table.feature_names.unwrap(), wanted);
        // A column that is called so is taken as it is.
        let source = Source { feature_names: Some(vec!["color=red".to_owned()]), ..Source::new("file") };
        assert_eq!(values(&read_blocks("color,color=red\nred,7\n", &source, 16).unwrap()), [7.0]);
        let gone = read_blocks("a,b\n1,2\n", &source, 16).unwrap_err().to_string();
        assert!(gone.contains("it has no column \"color=red\""), "{gone}");
    }

    #[test]
    fn many_categories_are_sparse_and_too_many_an_error() {
        let content = |n: usize| -> String {
            std::iter::once("id,x\n".to_owned())
                .chain((0..n).map(|i| format!("n{},{}\n", i * 7919 % n, i % 2)))
                .collect()
        };
        let wide = categories(&content(1100), Categorical::Auto).unwrap();
        assert_eq!(wide.features.n_features(), 1101);
        let Values::Sparse(csr) = wide.features.values() else { panic!("dense") };
        assert_eq!(csr.values().len(), 1100 + 550);
        let mut row = vec![0.0; 1101];
        wide.features.read_row(3, &mut row);
        let names = wide.feature_names.unwrap();
        let ones: Vec<&String> =
            names.iter().zip(&row).filter(|(_, value)| **value == 1.0).map(|(name, _)| name).collect();
        assert_eq!(ones, [&format!("id=n{}", 3 * 7919 % 1100), "x"]);
        let narrow = categories(&content(900), Categorical::Auto).unwrap();
        assert!(matches!(narrow.features.values(), Values::F32(_)));
        let source = Source { categorical: Categorical::Auto, ..Source::new("file") };
        let too_many = read(Input::of(content(MAX_CATEGORIES + 1)), &source).unwrap_err().to_string();
        assert!(too_many.starts_with("file, column 1 (id): it has more than 65536 different values"), "{too_many}");
    }
}
