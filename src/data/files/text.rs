//! Text that is read in blocks of whole records, which all threads parse.
//!
//! Each thread cuts off the next block, parses it, and hands on what it made of it, in the order of the blocks: only the first
//! and the last are done by one thread at a time.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use memchr::{memchr, memchr_iter, memrchr};

use super::input::Input;
use super::scan::equal;
use crate::error::{Error, Place, Result};

/// About how long a block is, in bytes: with what is made of it, it stays in the cache of a core.
pub(super) const BLOCK: usize = 1 << 18;

/// A record of more bytes is taken for a mistake: a quote that is not closed.
const MAX_RECORD: usize = 1 << 30;

/// A text file: what was read and not yet parsed, which begins with a record.
pub(super) struct Text {
    input: Input<'static>,
    block: usize,
    buffer: Vec<u8>,
    is_whole: bool,
    n_lines: usize,
}

/// What is wrong in a block: the row of the block, from 1, the byte at which it begins, and the error at a place.
pub(super) struct Fault {
    pub row: usize,
    pub begin: usize,
    pub error: Box<dyn FnOnce(Place) -> Error + Send>,
}

impl Fault {
    /// What does not come of a row.
    fn without_row(error: Error) -> Self {
        Self { row: 0, begin: 0, error: Box::new(|_| error) }
    }
}

impl Text {
    /// `block` is about how many bytes are parsed at once.
    pub fn new(input: Input<'static>, block: usize) -> Result<Self> {
        let mut text = Self { input, block: block.max(1), buffer: Vec::new(), is_whole: false, n_lines: 0 };
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

    /// Reads on, as much again as there is, so that a long record is not looked through often; whether there is more now.
    pub fn more(&mut self) -> Result<bool> {
        if self.is_whole {
            return Ok(false);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let from = buffer.len();
        let n = self.read(&mut buffer, from, from + self.block.max(from))?;
        buffer.truncate(n);
        self.buffer = buffer;
        Ok(true)
    }

    /// Fills `into` from `from` up to `to`, less where the file ends; how far it is filled. A file ends with a line break, which
    /// may be one more byte: then every record does.
    fn read(&mut self, into: &mut Vec<u8>, from: usize, to: usize) -> Result<usize> {
        let missing = (to + 1).saturating_sub(into.len());
        if into.try_reserve(missing).is_err() {
            return Err(Error::out_of_memory(self.input.place().to_string(), to, 1));
        }
        into.resize(into.len() + missing, 0);
        let mut end = from;
        if !self.is_whole && from < to {
            end += self.input.fill(&mut into[from..to])?;
            self.is_whole = end < to;
            if self.is_whole && into[..end].last().is_some_and(|&last| last != b'\n') {
                into[end] = b'\n';
                end += 1;
            }
        }
        Ok(end)
    }

    /// Puts whole records at the start of `into`; how many bytes, 0 where there are no more.
    fn next_block(&mut self, into: &mut Vec<u8>, quoting: Option<u8>) -> Result<usize, Fault> {
        let (mut n, mut size) = (0, self.block);
        loop {
            // What the block before left, first.
            let left = self.buffer.len().min(size - n);
            let from = n + left;
            // It keeps its length, since zeros to be written over take a hundredth of the time.
            into.resize(into.len().max(from), 0);
            into[n..from].copy_from_slice(&self.buffer[..left]);
            self.buffer.drain(..left);
            n = self.read(into, from, size).map_err(Fault::without_row)?;
            let is_end = self.is_whole && self.buffer.is_empty();
            match record_end(&into[..n], quoting) {
                Some(end) => {
                    self.buffer.splice(..0, into[end..n].iter().copied());
                    return Ok(end);
                }
                // A quote is not closed. That is for the parser to say.
                None if is_end => return Ok(n),
                None if n > MAX_RECORD => {
                    let problem = "it is longer than 1 GiB; is there a quote that is not closed?";
                    let error = Box::new(move |place| Error::malformed(place, problem));
                    return Err(Fault { row: 1, begin: 0, error });
                }
                None => size *= 2,
            }
        }
    }

    /// Parses all that is left. `parse` gets blocks of whole records, in any order and on several threads, and something that
    /// `make` made or that `take` left, and says how many rows and lines there are; `take` gets what it made of them, in their order.
    /// Records end with a line break that is not in quotes; `quoting` is what stands between fields, where there may be quotes.
    pub fn parse<T: Send>(
        self,
        quoting: Option<u8>,
        make: impl Fn() -> T + Sync,
        parse: impl Fn(&[u8], &mut T) -> Result<(usize, usize), Fault> + Sync,
        take: impl FnMut(&mut T) -> Result<()> + Send,
    ) -> Result<()> {
        let n_threads = rayon::current_num_threads();
        let (place, n_lines) = (self.place(), self.n_lines);
        let text = Mutex::new((self, 0));
        let line = Line::new(take, place, n_lines, 2 * n_threads);
        let work = || {
            let _guard = Guard(&line);
            let mut block = Vec::new();
            let mut made = None;
            while !line.is_over() {
                let (index, n) = {
                    let (text, n_blocks) = &mut *lock(&text);
                    let index = *n_blocks;
                    *n_blocks += 1;
                    (index, text.next_block(&mut block, quoting))
                };
                let mut into = made.take().unwrap_or_else(&make);
                let parsed = match n {
                    Ok(0) => return,
                    Ok(n) => {
                        let block = &block[..n];
                        match parse(block, &mut into) {
                            Ok((n_rows, n_lines)) => Ok(Parsed { made: into, n_rows, n_lines }),
                            Err(fault) => Err((count_lines(&block[..fault.begin]), fault)),
                        }
                    }
                    Err(fault) => Err((0, fault)),
                };
                made = line.hand_on(index, parsed);
            }
        };
        rayon::scope(|scope| (0..n_threads).for_each(|_| scope.spawn(|_| work())));
        line.into_result()
    }
}

/// What is made of a block.
struct Parsed<T> {
    made: T,
    n_rows: usize,
    n_lines: usize,
}

/// What is wrong, and how many lines of its block are before.
type Wrong = (usize, Fault);

/// Brings what is made of blocks into their order.
struct Line<T, F> {
    state: Mutex<Waiting<T, F>>,
    moved: Condvar,
    /// So many may wait for one before them.
    most: usize,
}

struct Waiting<T, F> {
    /// The block whose turn it is.
    next: usize,
    parsed: BTreeMap<usize, Result<Parsed<T>, Wrong>>,
    /// What was taken and can be filled again.
    spare: Vec<T>,
    take: F,
    place: Place,
    n_rows: usize,
    n_lines: usize,
    result: Result<()>,
    is_over: bool,
}

/// Lets no other thread wait for one that is gone.
struct Guard<'a, T: Send, F: FnMut(&mut T) -> Result<()> + Send>(&'a Line<T, F>);

impl<T: Send, F: FnMut(&mut T) -> Result<()> + Send> Drop for Guard<'_, T, F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.state).is_over = true;
            self.0.moved.notify_all();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send, F: FnMut(&mut T) -> Result<()> + Send> Line<T, F> {
    fn new(take: F, place: Place, n_lines: usize, most: usize) -> Self {
        let (parsed, spare) = (BTreeMap::new(), Vec::new());
        let state = Waiting { next: 0, parsed, spare, take, place, n_rows: 0, n_lines, result: Ok(()), is_over: false };
        Self { state: Mutex::new(state), moved: Condvar::new(), most }
    }

    fn is_over(&self) -> bool {
        lock(&self.state).is_over
    }

    fn into_result(self) -> Result<()> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).result
    }

    /// Takes what is made of a block, and of those that waited for it; waits where too many do. Then something to fill again, if
    /// there is any.
    fn hand_on(&self, index: usize, parsed: Result<Parsed<T>, Wrong>) -> Option<T> {
        let mut state = lock(&self.state);
        state.parsed.insert(index, parsed);
        state.take_those_in_turn();
        self.moved.notify_all();
        // The block whose turn it is is being parsed by a thread that does not wait.
        while !state.is_over && state.parsed.len() >= self.most {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.spare.pop()
    }
}

impl<T, F: FnMut(&mut T) -> Result<()>> Waiting<T, F> {
    fn take_those_in_turn(&mut self) {
        while !self.is_over
            && let Some(parsed) = self.parsed.remove(&self.next)
        {
            self.next += 1;
            self.result = match parsed {
                Ok(Parsed { mut made, n_rows, n_lines }) => {
                    let result = (self.take)(&mut made);
                    self.spare.push(made);
                    self.n_rows += n_rows;
                    self.n_lines += n_lines;
                    result
                }
                Err((lines_before, Fault { row, error, .. })) => {
                    let place = self.place.clone();
                    Err(error(place.at_row(self.n_rows + row).at_line(self.n_lines + lines_before + 1)))
                }
            };
            self.is_over = self.result.is_err();
        }
    }
}

pub(super) fn count_lines(text: &[u8]) -> usize {
    memchr_iter(b'\n', text).count()
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

    #[test]
    fn blocks_come_whole_and_in_order_and_a_fault_knows_its_row() {
        let content: String = (0..1000).map(|i| format!("{i}\n")).collect();
        for block in [1, 7, 100, 1 << 20] {
            let mut found = Vec::new();
            let text = Text::new(Input::of(content.trim_end()), block).unwrap();
            let rows = |block: &[u8], into: &mut Vec<u8>| {
                into.extend_from_slice(block);
                Ok((count_lines(block), count_lines(block)))
            };
            text.parse(None, Vec::new, rows, |block| {
                found.append(block);
                Ok(())
            })
            .unwrap();
            assert_eq!(found, content.as_bytes());
            let text = Text::new(Input::of(content.as_str()), block).unwrap();
            let fault = |block: &[u8], (): &mut ()| match block.windows(5).position(|bytes| bytes == b"\n777\n") {
                Some(at) => Err(Fault {
                    row: count_lines(&block[..at]) + 2,
                    begin: at + 1,
                    error: Box::new(|place| Error::malformed(place, "here")),
                }),
                None if block.starts_with(b"777\n") => {
                    Err(Fault { row: 1, begin: 0, error: Box::new(|place| Error::malformed(place, "here")) })
                }
                None => Ok((count_lines(block), count_lines(block))),
            };
            assert_eq!(
                text.parse(None, || (), fault, |()| Ok(())).unwrap_err().to_string(),
                "file, row 778 (line 778): here",
                "{block}"
            );
        }
    }
}
