//! The bytes of a text in blocks of whole records.
//!
//! A file is read in pieces of one size, by several threads at once. Where records end in a piece depends on the pieces before; so each
//! is cut when its turn has come.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use memchr::{memchr, memchr_iter, memrchr};

use super::input::{Input, Rest};
use super::scan::equal;
use super::text::Fault;
use crate::error::{Error, Result};

/// A record of more bytes is taken for a mistake: a quote that is not closed.
const MAX_RECORD: usize = 1 << 30;

/// The blocks to come.
pub(super) struct Blocks {
    pieces: Mutex<Pieces>,
    /// Where the pieces are those of a file.
    file: Option<Rest>,
    /// Bytes of a piece.
    size: usize,
    /// Bytes before it, for what the piece before left.
    room: usize,
    cut: Mutex<Cut>,
    moved: Condvar,
    quoting: Option<u8>,
    path: PathBuf,
}

struct Pieces {
    input: Input<'static>,
    is_whole: bool,
    /// The number of the next one.
    next: usize,
}

/// How far the text is cut.
struct Cut {
    /// The piece whose turn it is.
    next: usize,
    /// What the pieces before left, which begins with a record.
    left: Vec<u8>,
    /// So many bytes of it were looked through, in which no record ends.
    searched: usize,
    is_over: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Blocks {
    /// What `left` and what follows it in `input` are, which is nothing if `is_whole`; `size` is about how many bytes a block has.
    /// Records end with a line break that is not in quotes; `quoting` is what stands between fields, where there may be quotes.
    pub fn new(
        mut input: Input<'static>,
        mut left: Vec<u8>,
        is_whole: bool,
        size: usize,
        quoting: Option<u8>,
    ) -> Result<Self> {
        let file = if is_whole { None } else { input.rest(&mut left)? };
        let path = input.path().to_owned();
        let pieces = Mutex::new(Pieces { input, is_whole, next: 0 });
        let cut = Mutex::new(Cut { next: 0, left, searched: 0, is_over: false });
        Ok(Self { pieces, file, size, room: size / 4, cut, moved: Condvar::new(), quoting, path })
    }

    /// The number of the next block, and where its records stand in `buffer`; in the middle of a long one there are none. Nothing after
    /// the last block.
    pub fn next(&self, buffer: &mut Vec<u8>) -> Option<(usize, Result<Range<usize>, Fault>)> {
        let (index, end) = self.read(buffer);
        let mut cut = lock(&self.cut);
        while cut.next != index && !cut.is_over {
            cut = self.moved.wait(cut).unwrap_or_else(PoisonError::into_inner);
        }
        if cut.is_over {
            return None;
        }
        let records = end.and_then(|end| self.cut(&mut cut, buffer, end));
        cut.next += 1;
        cut.is_over |= records.is_err();
        self.moved.notify_all();
        Some((index, records))
    }

    /// That the text is still what was read.
    pub fn check_unchanged(&self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), Rest::check_unchanged)
    }

    /// Lets no thread wait for its turn any longer.
    pub fn end(&self) {
        lock(&self.cut).is_over = true;
        self.moved.notify_all();
    }

    /// Reads the next piece, behind the room for what those before leave; its number, and where it ends.
    fn read(&self, buffer: &mut Vec<u8>) -> (usize, Result<usize, Fault>) {
        let mut pieces = lock(&self.pieces);
        let index = pieces.next;
        pieces.next += 1;
        let to = self.room + self.size;
        if let Err(fault) = self.reserve(buffer, (to + 1).saturating_sub(buffer.len())) {
            return (index, Err(fault));
        }
        // A file ends with a line break, which may be one byte more.
        buffer.resize(buffer.len().max(to + 1), 0);
        let into = &mut buffer[self.room..to];
        let n = match &self.file {
            _ if pieces.is_whole => Ok(0),
            None => pieces.input.fill(into),
            Some(file) => {
                drop(pieces);
                file.read_at(index as u64 * self.size as u64, into)
            }
        };
        (index, n.map(|n| self.room + n).map_err(Fault::without_row))
    }

    /// Where the records are that are whole with a piece, which is in `buffer` up to `end`. It leaves what follows them.
    fn cut(&self, cut: &mut Cut, buffer: &mut Vec<u8>, mut end: usize) -> Result<Range<usize>, Fault> {
        let is_last = end < self.room + self.size;
        let mut begin = self.room;
        if cut.left.len() <= self.room {
            begin -= cut.left.len();
            buffer[begin..self.room].copy_from_slice(&cut.left);
        } else {
            self.reserve(&mut cut.left, end - begin + 1)?;
            cut.left.extend_from_slice(&buffer[begin..end]);
            // Or a long record would be looked through with each of its pieces.
            if cut.left.len() < 2 * cut.searched && !is_last {
                return Ok(0..0);
            }
            (begin, end) = (0, cut.left.len());
            cut.left.push(0);
            std::mem::swap(buffer, &mut cut.left);
        }
        cut.left.clear();
        if is_last {
            // What is left in quotes that are not closed is for the parser.
            cut.is_over = true;
            if begin < end && buffer[end - 1] != b'\n' {
                buffer[end] = b'\n';
                end += 1;
            }
            return Ok(begin..end);
        }
        let records = begin..begin + record_end(&buffer[begin..end], self.quoting).unwrap_or(0);
        let rest = &buffer[records.end..end];
        cut.searched = if records.is_empty() { rest.len() } else { 0 };
        if cut.searched > MAX_RECORD {
            let problem = "it is longer than 1 GiB; is there a quote that is not closed?";
            return Err(Fault { row: 1, begin: 0, error: Box::new(move |place| Error::malformed(place, problem)) });
        }
        self.reserve(&mut cut.left, rest.len())?;
        cut.left.extend_from_slice(rest);
        Ok(records)
    }

    fn reserve(&self, bytes: &mut Vec<u8>, n: usize) -> Result<(), Fault> {
        match bytes.try_reserve(n) {
            Ok(()) => Ok(()),
            Err(_) => {
                let what = self.path.display().to_string();
                Err(Fault::without_row(Error::out_of_memory(what, bytes.len() + n, 1)))
            }
        }
    }
}

/// Where the last whole record ends in a text that begins with one.
fn record_end(text: &[u8], quoting: Option<u8>) -> Option<usize> {
    let quoted = quoting.and_then(|delimiter| Some((delimiter, memchr(b'"', text)?)));
    let Some((delimiter, first)) = quoted else { return memrchr(b'\n', text).map(|at| at + 1) };
    let before = memrchr(b'\n', &text[..first]).map_or(0, |at| at + 1);
    match end_by_count(&text[before..], delimiter).unwrap_or_else(|| end_by_fields(&text[before..], delimiter)) {
        0 if before == 0 => None,
        end => Some(before + end),
    }
}

/// Where the last whole record ends, or 0: a line break is in quotes when the number of quotes before it is odd. None where there is a
/// quote in a field that does not begin with one, which is a character like others.
fn end_by_count(text: &[u8], delimiter: u8) -> Option<usize> {
    // Of the byte before: all bits whether it is in quotes, the lowest whether a field or the second of two quotes may follow.
    let (mut in_quotes, mut may_open) = (0, 1);
    for bytes in text.chunks(64) {
        let mut padded = [0; 64];
        let bytes = bytes.first_chunk().unwrap_or_else(|| {
            padded[..bytes.len()].copy_from_slice(bytes);
            &padded
        });
        let quotes = equal(bytes, [b'"']);
        if quotes | in_quotes == 0 {
            may_open = u64::from(bytes[63] == delimiter || bytes[63] == b'\n');
            continue;
        }
        // Each bit is the parity of those up to it: set from the quote that opens on, and not at the one that closes.
        let mut inside = quotes;
        for shift in [1, 2, 4, 8, 16, 32] {
            inside ^= inside << shift;
        }
        inside ^= in_quotes;
        let before_open = (equal(bytes, [delimiter, b'\n']) | quotes) & !inside;
        if quotes & inside & !((before_open << 1) | may_open) != 0 {
            return None;
        }
        in_quotes = ((inside as i64) >> 63) as u64;
        may_open = before_open >> 63;
    }
    // Back from the end, since only the last one counts.
    let (mut to, mut is_inside) = (text.len(), in_quotes != 0);
    while let Some(at) = memrchr(b'\n', &text[..to]) {
        is_inside ^= memchr_iter(b'"', &text[at..to]).count() % 2 == 1;
        if !is_inside {
            return Some(at + 1);
        }
        to = at;
    }
    Some(0)
}

/// As [`end_by_count`], field by field.
fn end_by_fields(text: &[u8], delimiter: u8) -> usize {
    let (mut end, mut from) = (0, 0);
    loop {
        // Up to the next quoted field there are no line breaks but those of records.
        let quoted = next_quoted(text, from, delimiter);
        let to = quoted.map_or(text.len(), |(open, _)| open);
        if let Some(at) = memrchr(b'\n', &text[from..to]) {
            end = from + at + 1;
        }
        match quoted {
            Some((_, Some(close))) => from = close,
            _ => return end,
        }
    }
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
    fn the_last_whole_record_ends_where_it_does() {
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
        // And some of them where 64 bytes end.
        for i in (0..all.len()).step_by(5) {
            all.push([&b"\"a\n\",".repeat(14)[..56 + i % 13], &all[i][..]].concat());
        }
        let mut n_by_count = 0;
        for text in all {
            for delimiter in [None, Some(b',')] {
                let records = record_ends(&text, delimiter);
                let expected = records.last().copied();
                assert_eq!(record_end(&text, delimiter), expected, "{:?}", String::from_utf8_lossy(&text));
                n_by_count += usize::from(delimiter.is_some() && end_by_count(&text, b',').is_some());
            }
        }
        // Otherwise one way was compared with itself.
        assert!(n_by_count > 1000, "{n_by_count}");
    }
}
