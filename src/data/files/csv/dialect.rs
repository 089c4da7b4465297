//! What separates the fields of a text, and what a field is, whatever stands in it.

use memchr::memchr2;

use crate::data::files::blocks::closing;
use crate::data::files::text::Text;
use crate::error::{Error, Result};

/// Of separators that stand as often, the first.
const DELIMITERS: [u8; 3] = *b",\t;";

/// The fields of the header, and what separates fields. What the text goes on with are rows.
pub(super) fn header(text: &mut Text) -> Result<(Vec<Vec<u8>>, u8)> {
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
pub(super) fn fields(text: &[u8], mut at: usize, delimiter: u8) -> Option<(Vec<Vec<u8>>, usize)> {
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
pub(super) fn field(record: &[Vec<u8>], column: usize) -> &[u8] {
    record.get(column).map_or(&[], |field| field.trim_ascii())
}
