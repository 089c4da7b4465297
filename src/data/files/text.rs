//! Text that is read in blocks of whole records, which all threads parse while the next are read.

use memchr::{memchr, memchr_iter, memrchr};
use rayon::prelude::*;

use super::input::Input;
use crate::error::{Error, Place, Result};

/// About how long a block is, in bytes.
pub(super) const BLOCK: usize = 1 << 20;

/// As many bytes are read at first.
const FIRST: usize = 1 << 14;

/// A record of more bytes is taken for a mistake: a quote that is not closed.
const MAX_RECORD: usize = 1 << 30;

/// A text file: what was read and not yet parsed, which begins with a record.
pub(super) struct Text {
    input: Input<'static>,
    block: usize,
    buffer: Vec<u8>,
    is_whole: bool,
    /// Bytes that were read so far.
    n_read: usize,
    n_rows: usize,
    n_lines: usize,
}

/// What is wrong in a block: the row of the block, from 1, the byte at which it begins, and the error at a place.
pub(super) struct Fault {
    pub row: usize,
    pub begin: usize,
    pub error: Box<dyn FnOnce(Place) -> Error + Send>,
}

impl Text {
    /// `block` is about how many bytes are parsed at once.
    pub fn new(input: Input<'static>, block: usize) -> Result<Self> {
        let mut text =
            Self { input, block: block.max(1), buffer: Vec::new(), is_whole: false, n_read: 0, n_rows: 0, n_lines: 0 };
        while text.buffer.len() < 3 && text.more()? {}
        if text.buffer.starts_with("\u{feff}".as_bytes()) {
            text.buffer.drain(..3);
        }
        Ok(text)
    }

    pub fn place(&self) -> Place {
        self.input.place()
    }

    /// What is read so far and not taken. It ends with a line break when it is all there is.
    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes away the first bytes, which have no row.
    pub fn skip(&mut self, n: usize) {
        self.n_lines += count_lines(&self.buffer[..n]);
        self.buffer.drain(..n);
    }

    /// Reads on; whether there is more now.
    pub fn more(&mut self) -> Result<bool> {
        if self.is_whole {
            return Ok(false);
        }
        // Blocks for all threads, but of a short file not much more than it has; and as much again as there is, so that a long
        // record is not looked through often.
        let n = (self.block * 2 * rayon::current_num_threads()).min(self.n_read.max(FIRST)).max(self.buffer.len());
        if self.buffer.try_reserve(n + 1).is_err() {
            return Err(Error::out_of_memory(self.input.place().to_string(), n, 1));
        }
        let begin = self.buffer.len();
        self.buffer.resize(begin + n, 0);
        let found = self.input.fill(&mut self.buffer[begin..])?;
        self.buffer.truncate(begin + found);
        self.n_read += found;
        self.is_whole = found < n;
        // Then every record ends with one.
        if self.is_whole && self.buffer.last().is_some_and(|&last| last != b'\n') {
            self.buffer.push(b'\n');
        }
        Ok(true)
    }

    /// Parses all that is left. `parse` gets blocks of whole records, in any order and on several threads, and says how many rows they
    /// have; `take` gets what it made of them, in their order. Records end with a line break that is not in quotes; `quoting`
    /// is what stands between fields, where there may be quotes.
    pub fn parse<T: Send>(
        mut self,
        quoting: Option<u8>,
        parse: impl Fn(&[u8]) -> Result<(T, usize), Fault> + Sync,
        mut take: impl FnMut(T) -> Result<()>,
    ) -> Result<()> {
        let mut ends = self.next_ends(quoting)?;
        while let Some(&end) = ends.last() {
            // The beginning of the next blocks.
            let rest = self.buffer[end..].to_vec();
            let text = std::mem::replace(&mut self.buffer, rest);
            let blocks: Vec<&[u8]> =
                std::iter::once(0).chain(ends.iter().copied()).zip(&ends).map(|(from, &to)| &text[from..to]).collect();
            let (following, parsed) = rayon::join(
                || self.next_ends(quoting),
                || blocks.par_iter().map(|block| (parse(block), count_lines(block))).collect::<Vec<_>>(),
            );
            for ((result, n_lines), block) in parsed.into_iter().zip(&blocks) {
                match result {
                    Ok((value, n_rows)) => {
                        take(value)?;
                        self.n_rows += n_rows;
                        self.n_lines += n_lines;
                    }
                    Err(Fault { row, begin, error }) => {
                        let line = self.n_lines + count_lines(&block[..begin]) + 1;
                        return Err(error(self.place().at_row(self.n_rows + row).at_line(line)));
                    }
                }
            }
            ends = following?;
        }
        Ok(())
    }

    /// Reads on until there is a whole record; where the blocks end.
    fn next_ends(&mut self, quoting: Option<u8>) -> Result<Vec<usize>> {
        loop {
            self.more()?;
            let mut ends = block_ends(&self.buffer, self.block, quoting);
            if self.is_whole && ends.last().copied().unwrap_or(0) < self.buffer.len() {
                // A quote is not closed. That is for the parser to say.
                ends.push(self.buffer.len());
            }
            if !ends.is_empty() || self.is_whole {
                return Ok(ends);
            }
            if self.buffer.len() > MAX_RECORD {
                let place = self.place().at_row(self.n_rows + 1).at_line(self.n_lines + 1);
                return Err(Error::malformed(place, "it is longer than 1 GiB; is there a quote that is not closed?"));
            }
        }
    }
}

fn count_lines(text: &[u8]) -> usize {
    memchr_iter(b'\n', text).count()
}

/// Where blocks of about `size` bytes end in a text that begins with a record; the last one is where the last whole record does.
fn block_ends(text: &[u8], size: usize, quoting: Option<u8>) -> Vec<usize> {
    let mut ends = Vec::new();
    // Of the last record that is known to be whole.
    let mut last = 0;
    let mut from = 0;
    loop {
        // Up to the next quoted field there are no line breaks but those of records.
        let quoted = quoting.and_then(|delimiter| next_quoted(text, from, delimiter));
        let to = quoted.map_or(text.len(), |(open, _)| open);
        if let Some(at) = memrchr(b'\n', &text[from..to]) {
            last = from + at + 1;
            let mut begin = ends.last().copied().unwrap_or(0);
            while let Some(at) = text.get((begin + size - 1).max(from)..last).and_then(|rest| memchr(b'\n', rest)) {
                begin = (begin + size - 1).max(from) + at + 1;
                ends.push(begin);
            }
        }
        match quoted {
            Some((_, Some(close))) => from = close,
            _ => break,
        }
    }
    if ends.last().copied().unwrap_or(0) < last {
        ends.push(last);
    }
    ends
}

/// Where the next field in quotes begins, and where it ends, behind its last quote, if it does. A quote within a field that does not
/// begin with one is a character like others.
fn next_quoted(text: &[u8], mut from: usize, delimiter: u8) -> Option<(usize, Option<usize>)> {
    loop {
        let quote = from + memchr(b'"', text.get(from..)?)?;
        if quote == 0 || text[quote - 1] == delimiter || text[quote - 1] == b'\n' {
            return Some((quote, closing(text, quote)));
        }
        from = quote + 1;
    }
}

/// Where a field in quotes that begins at `open` ends: behind the quote that is not the first of two.
pub(super) fn closing(text: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr(b'"', text.get(at..)?)? + 1;
        if text.get(at) != Some(&b'"') {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where records end, found byte by byte.
    fn record_ends(text: &[u8], delimiter: Option<u8>) -> Vec<usize> {
        let mut ends = Vec::new();
        let (mut in_quotes, mut is_start) = (false, true);
        let mut at = 0;
        while at < text.len() {
            let byte = text[at];
            if in_quotes {
                if byte == b'"' && text.get(at + 1) == Some(&b'"') {
                    at += 1;
                } else if byte == b'"' {
                    in_quotes = false;
                }
                is_start = false;
            } else if byte == b'"' && is_start && delimiter.is_some() {
                in_quotes = true;
            } else {
                is_start = byte == b'\n' || Some(byte) == delimiter;
                if byte == b'\n' {
                    ends.push(at + 1);
                }
            }
            at += 1;
        }
        ends
    }

    #[test]
    fn blocks_end_where_records_do() {
        let texts: [&[u8]; 8] = [
            b"a,b\nc,d\n\n\ne",
            b"\"a\nb\",c\nd,\"e\n\"\nf\n",
            b"a\"b\nc\"\n\"d\n\n\"\"\n\"\n",
            b"\"\"\"\n\"\"\n\",\"\"\n\"x\"y\"\n\"z\",\"\n",
            b"no line break",
            b"",
            b"\n\n\n",
            b"\"a\"\"\n\"\n\"",
        ];
        let mut all = texts.map(<[u8]>::to_vec).to_vec();
        // All texts of seven of these characters.
        for number in 0..4usize.pow(7) {
            all.push((0..7).map(|digit| b"a\"\n,"[number / 4usize.pow(digit) % 4]).collect());
        }
        for text in all {
            for delimiter in [None, Some(b',')] {
                let records = record_ends(&text, delimiter);
                for size in [1, 2, 3, 5, 100] {
                    let ends = block_ends(&text, size, delimiter);
                    assert!(ends.iter().all(|end| records.contains(end)), "{:?}", String::from_utf8_lossy(&text));
                    assert_eq!(ends.last(), records.last(), "{:?}", String::from_utf8_lossy(&text));
                    assert!(ends.windows(2).all(|pair| pair[0] < pair[1]));
                    // A block is not longer than asked for by more than a record.
                    let too_long = |from: usize, to: usize| records.iter().any(|&end| end >= from + size && end < to);
                    assert!(!std::iter::once(0).chain(ends.clone()).zip(&ends).any(|(from, &to)| too_long(from, to)));
                }
            }
        }
    }

    #[test]
    fn blocks_come_whole_and_in_order_and_a_fault_knows_its_row() {
        let content: String = (0..1000).map(|i| format!("{i}\n")).collect();
        for block in [1, 7, 100, 1 << 20] {
            let mut found = Vec::new();
            let text = Text::new(Input::of(content.trim_end()), block).unwrap();
            let rows = |block: &[u8]| Ok((block.to_vec(), count_lines(block)));
            text.parse(None, rows, |block| {
                found.extend(block);
                Ok(())
            })
            .unwrap();
            assert_eq!(found, content.as_bytes());
            let text = Text::new(Input::of(content.as_str()), block).unwrap();
            let fault = |block: &[u8]| match block.windows(5).position(|bytes| bytes == b"\n777\n") {
                Some(at) => Err(Fault {
                    row: count_lines(&block[..at]) + 2,
                    begin: at + 1,
                    error: Box::new(|place| Error::malformed(place, "here")),
                }),
                None if block.starts_with(b"777\n") => {
                    Err(Fault { row: 1, begin: 0, error: Box::new(|place| Error::malformed(place, "here")) })
                }
                None => Ok(((), count_lines(block))),
            };
            assert_eq!(
                text.parse(None, fault, Ok).unwrap_err().to_string(),
                "file, row 778 (line 778): here",
                "{block}"
            );
        }
    }
}
