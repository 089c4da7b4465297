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
            // That an index is negative is for the parser to say.
            (Some(_), Some(second)) => return is_pair(second.strip_prefix(b"-").unwrap_or(second)),
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

pub(super) fn read(input: Input<'static>, source: &Source) -> Result<Table> {
    read_in_blocks(input, source, BLOCK)
}

/// `block` is about how many bytes are parsed at once.
fn read_in_blocks(input: Input<'static>, source: &Source, block: usize) -> Result<Table> {
    let path = input.path().to_owned();
    let text = Text::new(input, block)?;
    let place = text.place();
    let mut rows = Rows::new();
    text.parse(None, Rows::new, parse, |block| rows.append(block, &place))?;

    let in_file = |error: Error| error.in_file(&path);
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

/// Adds the rows of a block; how many rows and lines there are.
fn parse(text: &[u8], rows: &mut Rows) -> Result<(usize, usize), Fault> {
    let (mut begin, mut n_lines) = (0, 0);
    while begin < text.len() {
        let end = memchr::memchr(b'\n', &text[begin..]).map_or(text.len(), |at| begin + at + 1);
        let row = rows.offsets.len();
        let error: Box<dyn FnOnce(Place) -> Error + Send> = match rows.add(&text[begin..end]) {
            Ok(()) => {
                begin = end;
                n_lines += 1;
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
    Ok((rows.offsets.len() - 1, n_lines))
}

/// What is wrong in a line.
enum Problem {
    Malformed(String),
    /// The value with this index.
    NotFinite(u32, f64),
}

impl Rows {
    fn new() -> Self {
        Self { offsets: vec![0], ..Self::default() }
    }

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

    /// Adds rows that follow, and takes them from where they are.
    fn append(&mut self, other: &mut Self, place: &Place) -> Result<()> {
        let n = other.values.len();
        if self.values.try_reserve(n).is_err() || self.columns.try_reserve(n).is_err() {
            return Err(Error::out_of_memory(format!("the values of {place}"), self.values.len() + n, 8));
        }
        let begin = self.values.len() as u64;
        self.offsets.extend(other.offsets.drain(1..).map(|offset| begin + offset));
        self.columns.append(&mut other.columns);
        self.values.append(&mut other.values);
        self.labels.append(&mut other.labels);
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
    at = number::digits(line, at, &mut index);
    let is_index = (1..=8).contains(&(at - begin)) && index <= MAX_FEATURES as u64;
    let index = index as u32;
    if !is_index || line.get(at) != Some(&b':') {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Shuffle;
    use crate::data::Targets;

    fn read_blocks(content: impl Into<Vec<u8>>, source: &Source, block: usize) -> Result<Table> {
        read_in_blocks(Input::of(content), source, block)
    }

    fn table(content: &str) -> Result<Table> {
        read_blocks(content, &Source::new("file"), BLOCK)
    }

    fn error(content: &str) -> String {
        table(content).map(drop).unwrap_err().to_string()
    }

    fn rows(table: &Table) -> Vec<Vec<f32>> {
        let mut row = vec![f32::NAN; table.features.n_features()];
        let read = |i| {
            table.features.read_row(i, &mut row);
            row.clone()
        };
        (0..table.features.n_samples()).map(read).collect()
    }

    const LINES: &str = "# a comment\r\n+1 2:0.5 4:1e-2 # more\n\n-1 qid:7 4:3 1:-2\r\n1.0\n-1 3:0 2:0.25 5:0\n";

    #[test]
    fn lines_are_rows() {
        let table = table(LINES).unwrap();
        let expected = [[0.0, 0.5, 0.0, 0.01, 0.0], [-2.0, 0.0, 0.0, 3.0, 0.0], [0.0; 5], [0.0, 0.25, 0.0, 0.0, 0.0]];
        assert_eq!(rows(&table), expected.map(|row| row.to_vec()));
        let labels = table.labels.unwrap();
        assert_eq!(labels.classes(), ["-1", "1"]);
        assert!(matches!(labels.targets(), Targets::Classes(classes) if **classes == [1, 0, 1, 0]));
        let Values::Sparse(csr) = table.features.values() else { panic!("dense") };
        assert_eq!(csr.values().len(), 5);
        assert_eq!(table.zero_based, Some(false));
    }

    #[test]
    fn indices_count_from_1_unless_one_is_0_or_it_is_said() {
        let with = |content: &str, zero_based, n_features| {
            let table = read_blocks(content, &Source { zero_based, n_features, ..Source::new("file") }, BLOCK)?;
            Ok::<_, Error>((table.zero_based, rows(&table)))
        };
        assert_eq!(with("1 1:5\n2 2:6\n", None, None).unwrap(), (Some(false), vec![vec![5.0, 0.0], vec![0.0, 6.0]]));
        assert_eq!(with("1 0:5\n2 1:6\n", None, None).unwrap(), (Some(true), vec![vec![5.0, 0.0], vec![0.0, 6.0]]));
        // An index whose value is 0 is one too.
        assert_eq!(with("1 0:0 1:5\n", None, None).unwrap(), (Some(true), vec![vec![0.0, 5.0]]));
        assert_eq!(with("1 1:5\n", Some(true), None).unwrap(), (Some(true), vec![vec![0.0, 5.0]]));
        // Fewer are filled up with zeros.
        assert_eq!(with("1 1:5\n", Some(false), Some(3)).unwrap(), (Some(false), vec![vec![5.0, 0.0, 0.0]]));
        assert_eq!(with("1 2:5\n", Some(true), Some(3)).unwrap(), (Some(true), vec![vec![0.0, 0.0, 5.0]]));
        let error = |content, zero_based, n_features| with(content, zero_based, n_features).unwrap_err().to_string();
        let from_1 = error("1 1:5\n1 0:6\n", Some(false), None);
        assert!(
            from_1.starts_with("file, row 2: an index is 0, but they are to count from 1; --zero-based"),
            "{from_1}"
        );
        let too_high = error("1 1:5\n1 4:6\n", Some(false), Some(3));
        assert!(
            too_high
                .starts_with("file, row 2: its highest index is 4, but with 3 features, counted from 1, it can be 3")
        );
        let too_high = error("1 1:5\n1\n1 3:6\n", Some(true), Some(3));
        assert!(
            too_high
                .starts_with("file, row 3: its highest index is 3, but with 3 features, counted from 0, it can be 2")
        );
    }

    #[test]
    fn what_is_wrong_is_found_with_its_row() {
        let cases = [
            ("1 1:2\n# comment\n1 2:x\n", "file, row 2 (line 3): the value \"x\" of index 2 is not a number"),
            ("1 1:2\n1 2\n", "file, row 2: \"2\" is not INDEX:VALUE"),
            ("1 1:2\n1 a:2\n", "file, row 2: \"a:2\" is not INDEX:VALUE"),
            ("1 1:2\n1 -3:2\n", "file, row 2: \"-3:2\" is not INDEX:VALUE"),
            ("1 1:2\n1 :2\n", "file, row 2: \":2\" is not INDEX:VALUE"),
            ("1 1:2\n1 3:\n", "file, row 2: the value \"\" of index 3 is not a number"),
            ("1 1:2\n1 3:1:1\n", "file, row 2: the value \"1:1\" of index 3 is not a number"),
            ("1 1:2\n1 3:nan\n", "file, row 2, column 3: the value NaN is not"),
            ("1 1:2\n1 3:1e99\n", "file, row 2, column 3: the value 1e99 is not"),
            ("1 1:2\n1 3:1 2:1 3:2\n", "file, row 2: the index 3 is there twice"),
            ("1 1:2\n1 16777217:1\n", "file, row 2: the index 16777217 is above 16777216"),
            ("1 1:2\n1 18446744073709551617:1\n", "file, row 2: the index 18446744073709551617 is above 16777216"),
            ("1 1:2\n 3:1\n", "file, row 2: it has no label before"),
            ("1 1:2\n0.5 3:1\n", "file, row 2: the label 0.5 is not a whole number"),
            ("1 1:2\n1,3 3:1\n", "file, row 2: it has several labels, 1,3;"),
            ("1 1:2\nspam 3:1\n", "file, row 2: the label \"spam\" is not a number"),
            ("", "file: there are no samples"),
            ("1\n2\n", "file: there are no features"),
        ];
        for (content, expected) in cases {
            assert!(error(content).starts_with(expected), "{} is not {expected}", error(content));
        }
        let last = table("1 16777216:1\n").unwrap();
        assert_eq!(last.features.n_features(), MAX_FEATURES);
        // Labels that are not asked for may be anything.
        let source = Source { labels: Some("other".into()), ..Source::new("file") };
        assert!(read_blocks("0.5 1:1\n", &source, BLOCK).unwrap().labels.is_none());
    }

    #[test]
    fn blocks_of_every_size_read_the_same() {
        let text_of = |content: &[u8], block| match read_blocks(content, &Source::new("file"), block) {
            Ok(table) => format!("{:?} {:?} {:?}", table.features.values(), table.labels, table.zero_based),
            Err(error) => error.to_string(),
        };
        for content in
            [LINES.to_owned(), LINES.replace("1.0", "1.5"), LINES.replace("4:3", "4:x"), LINES.replace("0.25", "0:1")]
        {
            let expected = text_of(content.as_bytes(), BLOCK);
            for block in 1..content.len() + 2 {
                assert_eq!(text_of(content.as_bytes(), block), expected, "{block}");
            }
        }
        // Nor is there a panic, whatever is in the file.
        for length in 0..LINES.len() {
            text_of(&LINES.as_bytes()[..length], 8);
        }
        let mut n_errors = 0;
        for bit in 0..LINES.len() * 8 {
            let mut flipped = LINES.as_bytes().to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let result = text_of(&flipped, 8);
            n_errors += usize::from(result.starts_with("file"));
            assert_eq!(result, text_of(&flipped, BLOCK), "bit {bit}");
        }
        assert!(n_errors > LINES.len(), "{n_errors}");
    }

    #[test]
    fn random_rows_read_as_they_were_written() {
        let mut random = Shuffle::new(1, 0);
        for density in [1, 4, 9] {
            let (n, d) = (200, 40);
            let rows_written: Vec<Vec<f32>> = (0..n)
                .map(|_| {
                    let value = |random: &mut Shuffle| (random.below(2000) as f32 - 1000.0) / 8.0;
                    (0..d).map(|_| if random.below(10) < density { value(&mut random) } else { 0.0 }).collect()
                })
                .collect();
            let mut content = String::new();
            for (i, row) in rows_written.iter().enumerate() {
                let mut pairs: Vec<usize> = (0..d).filter(|&j| row[j] != 0.0 || j == d - 1).collect();
                random.shuffle(&mut pairs);
                content += &(i % 3).to_string();
                pairs.iter().for_each(|&j| content += &format!(" {}:{}", j + 1, row[j]));
                content += "\n";
            }
            let table = read_blocks(content, &Source::new("file"), 1000).unwrap();
            assert_eq!(rows(&table), rows_written);
            // Dense where half of the values are there.
            assert_eq!(matches!(table.features.values(), Values::F32(_)), density == 9, "{density}");
        }
    }

    #[test]
    fn the_format_is_told_by_the_first_line_that_tells() {
        for text in [
            "1 1:2",
            "+1 1:2\n",
            "# comment\n\n-1.0 qid:3 5:1\n",
            "1\n2\n3 7:1\n",
            "1,2 3:4\n",
            " 3:4\n",
            "\u{feff}1 1:2",
        ] {
            assert!(is_format(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "a,b\n1,2\n",
            "1,2,3\n4,5,6\n",
            "x\n1\n",
            "1\n2\n",
            "a b:c\n",
            "time 12:30\n",
            "#x,y\n1,2\n",
            "1 2\n",
            "1\t2\n",
        ] {
            assert!(!is_format(text.as_bytes()), "{text}");
        }
    }
}
