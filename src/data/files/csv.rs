//! CSV with a header: columns of numbers, one of labels, and one of weights.

use std::collections::HashMap;
use std::io::Read;

use csv::{ByteRecord, ReaderBuilder, Terminator};

use super::input::Input;
use super::{Source, Table, list};
use crate::data::{Features, Labels};
use crate::error::{Error, Place, Result};

pub(super) fn read(input: Input, source: &Source) -> Result<Table> {
    // Every row ends with a line break then, from which its line is known.
    let input = input.chain(&b"\n"[..]);
    // Only then is the line of a row known: where two characters end it, the second counts as of the next row. The first
    // goes with the spaces around a field. Rows of another length are found here, with a message of our own.
    let mut builder = ReaderBuilder::new();
    builder.terminator(Terminator::Any(b'\n')).flexible(true);
    let mut reader = builder.from_reader(input);
    let failed = |error: csv::Error, input: &Input| match error.into_kind() {
        csv::ErrorKind::Io(source) => input.failed(source),
        other => input.malformed(format!("it is not CSV: {other:?}")),
    };
    let header = match reader.byte_headers() {
        Ok(header) => header.clone(),
        Err(error) => return Err(failed(error, reader.get_ref().get_ref().0)),
    };
    let columns = Columns::choose(&header, source, &reader.get_ref().get_ref().0.place())?;

    let mut values: Vec<f32> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut weights: Vec<f32> = Vec::new();
    let mut record = ByteRecord::new();
    let mut n_rows = 0;
    loop {
        match reader.read_byte_record(&mut record) {
            // An empty line. A row of one column may be empty by mistake, which is an error.
            Ok(true)
                if record.len() == 1 && (header.len() > 1 || &record[0] == b"\r") && field(&record, 0).is_empty() =>
            {
                continue;
            }
            Ok(true) => n_rows += 1,
            Ok(false) => break,
            Err(error) => return Err(failed(error, reader.get_ref().get_ref().0)),
        }
        let place = || {
            // The reader counts empty lines before a row as part of it, so that only its end is known.
            let breaks = 1 + record.as_slice().iter().filter(|&&byte| byte == b'\n').count();
            let line = (reader.position().line() as usize).saturating_sub(breaks);
            reader.get_ref().get_ref().0.place().at_row(n_rows).at_line(line)
        };
        if record.len() != header.len() {
            let problem = format!("it has {} fields, the header has {}", record.len(), header.len());
            return Err(Error::malformed(place(), problem));
        }
        for &column in &columns.features {
            let value = number(field(&record, column)).map_err(|problem| problem.at(columns.place(place(), column)))?;
            values.push(value);
        }
        if let Some(column) = columns.weight {
            let place = || columns.place(place(), column);
            let weight = number(field(&record, column)).map_err(|problem| problem.at(place()))?;
            if weight < 0.0 {
                return Err(Error::Weight { place: place(), problem: format!("the weight is {weight}") });
            }
            weights.push(weight);
        }
        if let Some(column) = columns.label {
            match std::str::from_utf8(field(&record, column)) {
                Ok("") => return Err(Error::malformed(columns.place(place(), column), "the label is empty")),
                Ok(name) => names.push(name.to_owned()),
                Err(_) => return Err(Error::malformed(columns.place(place(), column), "the label is not UTF-8 text")),
            }
        }
    }
    let in_file = |error: Error| error.in_file(&source.features);
    let features = Features::new(values, n_rows, columns.features.len()).map_err(in_file)?;
    let labels = match columns.label {
        Some(_) => Some(Labels::from_names(&names).map_err(in_file)?),
        None => None,
    };
    let weights = columns.weight.map(|_| weights);
    let feature_names = columns.features.iter().map(|&column| columns.names[column].clone()).collect();
    Ok(Table { source: source.clone(), features, labels, weights, feature_names: Some(feature_names) })
}

/// A field without the spaces around it.
fn field(record: &ByteRecord, column: usize) -> &[u8] {
    record.get(column).unwrap_or_default().trim_ascii()
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
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) => Err(Problem::NotFinite(text.parse().unwrap_or(f64::NAN))),
        Err(_) if field.is_empty() => {
            Err(Problem::Malformed("the field is empty; remove the row or fill the gap before training".to_owned()))
        }
        Err(_) => {
            let text = String::from_utf8_lossy(field);
            Err(Problem::Malformed(format!(
                "{text:?} is not a number; features and weights must be, only the label column may be text"
            )))
        }
    }
}

/// Which columns of a file are taken.
struct Columns {
    /// Of all columns.
    names: Vec<String>,
    /// In the order in which they are wanted.
    features: Vec<usize>,
    label: Option<usize>,
    weight: Option<usize>,
}

impl Columns {
    fn choose(header: &ByteRecord, source: &Source, place: &Place) -> Result<Self> {
        let malformed = |problem: String| Error::malformed(place.clone(), problem);
        let mut names: Vec<String> = Vec::new();
        let mut columns: HashMap<&str, usize> = HashMap::new();
        for index in 0..header.len() {
            let Ok(name) = std::str::from_utf8(field(header, index)) else {
                return Err(malformed("its header is not UTF-8 text; it must be CSV, IDX or .npy".to_owned()));
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
        if names.is_empty() {
            return Err(malformed("the file is empty; CSV begins with a header".to_owned()));
        }
        let find = |wanted: &str, role: &str| {
            columns.get(wanted).copied().ok_or_else(|| {
                let unknown = format!("it has no column {wanted:?}{role}; its columns are {}", list(&names));
                let is_one = names.len() == 1 && names[0].contains([';', '\t']);
                malformed(if is_one { format!("{unknown} (commas must separate them)") } else { unknown })
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
        let features = match &source.feature_names {
            Some(wanted) => wanted.iter().map(|name| find(name, "")).collect::<Result<_>>()?,
            None => match &source.feature_columns {
                Some(wanted) => wanted.iter().map(|name| find(name, "")).collect::<Result<_>>()?,
                None => (0..names.len()).filter(|&column| Some(column) != label && Some(column) != weight).collect(),
            },
        };
        Ok(Self { names, features, label, weight })
    }

    fn place(&self, place: Place, column: usize) -> Place {
        let place = place.at_column(column + 1);
        match self.names.get(column) {
            Some(name) => place.named(name),
            None => place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Targets, Values};

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
        assert!(error("a;kind\n1;x\n").ends_with("\"a;kind\" (commas must separate them)"));
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
}
