//! Labels, names of classes and weights as text: one a line.

use std::io::Read;

use super::input::Input;
use crate::data::Labels;
use crate::error::{Error, Result};

/// Labels.
pub(super) fn read(input: &mut Input) -> Result<Labels<'static>> {
    Labels::from_names(&lines(input, "label")?)
}

/// The lines of a text, each of which is a `what`. Spaces around it do not count, nor do empty lines at the end.
pub(super) fn lines(input: &mut Input, what: &'static str) -> Result<Vec<String>> {
    let mut bytes = Vec::new();
    if let Err(error) = input.read_to_end(&mut bytes) {
        return Err(input.failed(error));
    }
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
            let problem = format!("this line is not UTF-8 text; there must be one {what} a line, or IDX, or .npy");
            return Err(Error::malformed(input.place().at_row(line), problem));
        }
    };
    let text = text.trim_start_matches('\u{feff}').trim_end();
    let lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    if let Some(row) = lines.iter().position(String::is_empty) {
        let problem = format!("this line is empty; there must be one {what} a line");
        return Err(Error::malformed(input.place().at_row(row + 1), problem));
    }
    if lines.is_empty() {
        let what = match what {
            "label" => "labels",
            "weight" => "weights",
            _ => "names of classes",
        };
        return Err(Error::Empty { place: input.place(), what });
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Targets;

    #[test]
    fn one_name_a_line() {
        let labels = read(&mut Input::of("\u{feff}b c\r\na\r\nb c \r\n\r\n")).unwrap();
        assert_eq!(labels.classes(), ["a", "b c"]);
        assert!(matches!(labels.targets(), Targets::Classes(indices) if **indices == [1, 0, 1]));
    }

    #[test]
    fn what_is_no_name_is_found_with_its_line() {
        let error = |content: &[u8]| read(&mut Input::of(content)).unwrap_err().to_string();
        assert!(error(b"a\n\nb\n").starts_with("file, row 2: this line is empty"));
        assert!(error(b"a\nb\n\xff\n").starts_with("file, row 3: this line is not UTF-8"));
        assert_eq!(error(b""), "file: there are no labels");
    }
}
