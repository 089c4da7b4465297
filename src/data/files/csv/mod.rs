//! CSV with a header: columns of numbers, of text that becomes one-hot features, one of labels, and one of weights.
//!
//! Fields are as in RFC 4180, with the spaces around them left out: in quotes where they have separators, line breaks or quotes, and
//! then with two quotes for one. What separates them is the one of comma, tab and semicolon that stands most often in
//! the header.

mod columns;
mod dialect;
mod layout;
mod rows;

use super::input::Input;
use super::text::{BLOCK, Text};
use super::{Source, Table};
use crate::data::Features;
use crate::error::{Error, Result};
use columns::Columns;
use dialect::header;
use layout::Layout;
use rows::{Parser, Rows};

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
    let parser = Parser::new(&columns);
    text.parse(
        Some(delimiter),
        || Rows::new(&columns),
        |text, rows| parser.parse(text, rows),
        |block| rows.append(block, &columns, &place),
    )?;

    let in_file = |error: Error| error.in_file(&path);
    let Rows { n_rows, values, layout, weights, labels, categories } = rows;
    let (features, feature_names) = if let Some(layout) = layout {
        (Features::of_finite(values.into(), n_rows, layout.names.len()).map_err(in_file)?, layout.names)
    } else if columns.one_hot.is_empty() {
        let features = Features::of_finite(values.into(), n_rows, columns.n_numbers).map_err(in_file)?;
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

#[cfg(test)]
mod tests {
    use super::columns::{Feature, Role};
    use super::dialect::fields;
    use super::*;
    use crate::batch::Shuffle;
    use crate::data::files::categories::Names;
    use crate::data::files::scan::Scan;
    use crate::data::files::{Categorical, MAX_CATEGORIES};
    use crate::data::{Targets, Values};
    use crate::error::Place;

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
                    (columns.roles[2], columns.roles[3], columns.n_numbers) = (Role::Nothing, Role::Number(1), 2);
                    columns.features.retain(|feature| !matches!(feature, Feature::Number(2)));
                    (columns, delimiter)
                };
                let mut text = Text::new(Input::of(content), 64).unwrap();
                header(&mut text).unwrap();
                let mut rows = Rows::new(&columns);
                let parser = Parser::new(&columns);
                let append = |block: &mut Rows| rows.append(block, &columns, &Place::default());
                let parse = |text: &[u8], rows: &mut Rows| parser.parse(text, rows);
                text.parse(Some(delimiter), || Rows::new(&columns), parse, append).unwrap();
                assert_eq!(rows.n_rows, 300);
                if let Some(layout) = rows.layout.take() {
                    layout.take_back(&mut rows.values, &mut rows.categories);
                }
                for (row, (a, b, category, label)) in expected.iter().enumerate() {
                    let values = &rows.values[row * columns.n_numbers..][..columns.n_numbers];
                    assert_eq!((values[0], values[columns.n_numbers - 1]), (*a, *b));
                    let name = |names: &Names| names.names[names.codes[row] as usize].clone();
                    assert_eq!((name(&rows.categories[0]), name(&rows.labels)), (category.clone(), label.clone()));
                }
            }
        }
    }

    /// Columns of each kind, of which those of a model are taken, and rows of them, of which not all are sound.
    fn random_rows() -> (Columns, impl FnMut() -> String) {
        let columns = {
            let mut text = Text::new(Input::of("a,color,kind,w,x,b,c\n"), 64).unwrap();
            let (header, delimiter) = header(&mut text).unwrap();
            let source = Source {
                feature_names: Some(["b", "c", "color=u", "a", "color=v"].map(String::from).to_vec()),
                ..labelled()
            };
            Columns::choose(&header, delimiter, &source, &mut text).unwrap()
        };
        let numbers = [
            "1",
            "0.123456",
            "-12.5",
            "\"3\"",
            " -2.5 ",
            "\" 4 \"",
            "\"-0.5\"",
            "1e3",
            "1.5e-07",
            "-0.01234567890123456",
            "7.",
            "123456789",
            "0.1234567890123456789",
            "nan",
            "",
            "5\r",
            "x",
            "\"6",
            "-1",
            "\"0.75x",
            "\"8\" ",
            "1\"2\"",
            "1e99",
        ];
        let texts = [
            "u",
            "v",
            "\"u\"",
            " v ",
            "\"v\"\"\"",
            "w",
            "",
            "\"a,b\"",
            "u\"",
            "\"u\" ",
            "\"u\"x",
            "\"\nv\"",
            "\"a\n,\"\"\"",
        ];
        let mut random = Shuffle::new(3, 0);
        let row = move || {
            // Most of a few kinds, or no row would be sound.
            let mut one = |of: &[&str], n_common| {
                let n = if random.below(8) == 0 { of.len() } else { n_common };
                of[random.below(n)].to_owned()
            };
            let (a, b, c, w) = (one(&numbers, 13), one(&numbers, 13), one(&numbers, 13), one(&numbers, 2));
            let [color, kind, x] = std::array::from_fn(|_| one(&texts, 4));
            let end = ["\n", "\r\n", "\n\n", ",1\n", " \n"][if random.below(8) == 0 { random.below(5) } else { 0 }];
            [a, color, kind, w, x, b, c].join(",") + end
        };
        (columns, row)
    }

    /// What rows are, to the bit.
    fn of_rows(rows: &Rows, columns: &Columns) -> String {
        let values = &rows.values[..rows.n_rows * columns.n_numbers];
        let bits: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
        let labels: Vec<&String> = rows.labels.codes.iter().map(|&code| &rows.labels.names[code as usize]).collect();
        format!("{} {bits:?} {:?} {labels:?} {:?}", rows.n_rows, rows.weights, rows.categories[0].codes)
    }

    #[test]
    fn plain_rows_are_what_any_row_is() {
        let (columns, mut row) = random_rows();
        let parser = Parser::new(&columns);
        let (mut n_plain, mut n_broken) = (0, 0);
        for _ in 0..50_000 {
            let text = row() + "1,u,u,1,,1,1\n";
            let (mut plain, mut any) = (Rows::new(&columns), Rows::new(&columns));
            let (mut scan, mut n_inside) = (Scan::new(text.as_bytes(), *b",\n"), 0);
            if let Some(next) = parser.plain_row(text.as_bytes(), 0, &mut scan, &mut plain, &mut n_inside) {
                n_plain += 1;
                plain.n_rows += 1;
                n_broken += usize::from(n_inside > 0);
                assert_eq!(n_inside + 1, text[..next].matches('\n').count(), "{text}");
                assert_eq!(columns.any_row(text.as_bytes(), 0, &mut any).ok(), Some(next), "{text}");
                assert_eq!(of_rows(&plain, &columns), of_rows(&any, &columns), "{text}");
                // And it left off where the next begins.
                let end = text[next..].find([',', '\n']).unwrap();
                assert_eq!(scan.next(), next + end, "{text}");
            }
        }
        assert!(n_plain > 10_000 && n_broken > 100, "{n_plain}, {n_broken}");
    }

    #[test]
    fn blocks_are_what_rows_are_one_by_one() {
        let (columns, mut row) = random_rows();
        let parser = Parser::new(&columns);
        let (mut rows, mut n_sound) = (Rows::new(&columns), 0);
        for i in 0..20_000 {
            let text: String = (0..1 + i % 16).map(|_| row()).collect();
            let mut expected = Rows::new(&columns);
            let mut at = 0;
            let fault = loop {
                match text.as_bytes().get(at) {
                    None => break None,
                    Some(b'\n') => at += 1,
                    Some(_) => match columns.any_row(text.as_bytes(), at, &mut expected) {
                        Ok(next) => at = next,
                        Err(fault) => break Some((fault.row, fault.begin)),
                    },
                }
            };
            let found = parser.parse(text.as_bytes(), &mut rows);
            if let Ok(found) = &found {
                assert_eq!(*found, (expected.n_rows, text.matches('\n').count()), "{text}");
                n_sound += usize::from(rows.n_rows > 1);
                assert_eq!(of_rows(&rows, &columns), of_rows(&expected, &columns), "{text}");
                // Names of blocks before may stay.
                Rows::new(&columns).append(&mut rows, &columns, &Place::default()).unwrap();
            } else {
                rows = Rows::new(&columns);
            }
            assert_eq!(found.err().map(|fault| (fault.row, fault.begin)), fault, "{text}");
        }
        assert!(n_sound > 1000, "{n_sound}");
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
