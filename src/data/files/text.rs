//! Text that is read in blocks of whole records, which all threads parse.
//!
//! Each thread gets the next block, parses it, and hands on what it made of it, in the order of the blocks: only the last is
//! done by one thread at a time.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use memchr::memchr_iter;

use super::blocks::{Blocks, lock};
use super::input::Input;
use crate::error::{Error, Place, Result};

/// About how long a block is, in bytes: with what is made of it, it stays in the cache of a core.
pub(super) const BLOCK: usize = 1 << 18;

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
    pub fn without_row(error: Error) -> Self {
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
        let (from, more) = (self.buffer.len(), self.block.max(self.buffer.len()));
        if self.buffer.try_reserve(more + 1).is_err() {
            return Err(Error::out_of_memory(self.place().to_string(), from + more, 1));
        }
        self.buffer.resize(from + more, 0);
        let n = self.input.fill(&mut self.buffer[from..])?;
        self.buffer.truncate(from + n);
        self.is_whole = n < more;
        // Then every record ends with a line break.
        if self.is_whole && self.buffer.last().is_some_and(|&last| last != b'\n') {
            self.buffer.push(b'\n');
        }
        Ok(true)
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
        let Self { input, block, buffer, is_whole, n_lines } = self;
        let n_pieces = input.left().map_or(usize::MAX, |left| (left / block as u64) as usize + 1);
        let n_threads = rayon::current_num_threads().min(n_pieces);
        let line = Line::new(take, input.place(), n_lines, 2 * n_threads);
        let blocks = Blocks::new(input, buffer, is_whole, block, quoting)?;
        let work = || {
            let _guards = (Guard(|| line.end()), Guard(|| blocks.end()));
            let (mut buffer, mut made) = (Vec::new(), None);
            while !line.is_over() {
                let Some((index, records)) = blocks.next(&mut buffer) else { return };
                let mut into = made.take().unwrap_or_else(&make);
                let parsed = match records {
                    Ok(records) => {
                        let records = &buffer[records];
                        match parse(records, &mut into) {
                            Ok((n_rows, n_lines)) => Ok(Parsed { made: into, n_rows, n_lines }),
                            Err(fault) => Err((count_lines(&records[..fault.begin]), fault)),
                        }
                    }
                    Err(fault) => Err((0, fault)),
                };
                made = line.hand_on(index, parsed);
            }
        };
        // Of their own, since new threads begin on processors that have nothing to do, where those of a pool are woken on that of the
        // thread that wakes them. If there can be no more, fewer do it.
        thread::scope(|scope| {
            (1..n_threads).for_each(|_| drop(thread::Builder::new().spawn_scoped(scope, work)));
            work();
        });
        blocks.check_unchanged()?;
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
    state: Mutex<Waiting<T>>,
    moved: Condvar,
    /// So many may wait for one before them.
    most: usize,
    taker: Mutex<Taker<F>>,
}

struct Waiting<T> {
    /// The block whose turn it is.
    next: usize,
    parsed: BTreeMap<usize, Result<Parsed<T>, Wrong>>,
    /// What was taken and can be filled again.
    spare: Vec<T>,
    /// A thread takes those whose turn it is. The others do not wait until it has: one that is woken again and again comes to the
    /// processor of the one that woke it, while others have nothing to do.
    is_being_taken: bool,
    is_over: bool,
}

struct Taker<F> {
    take: F,
    place: Place,
    n_rows: usize,
    n_lines: usize,
    result: Result<()>,
}

/// Lets no other thread wait for one that is gone: then it calls what ends the waiting.
struct Guard<F: Fn()>(F);

impl<F: Fn()> Drop for Guard<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0();
        }
    }
}

impl<T: Send, F: FnMut(&mut T) -> Result<()> + Send> Line<T, F> {
    fn new(take: F, place: Place, n_lines: usize, most: usize) -> Self {
        let (parsed, spare) = (BTreeMap::new(), Vec::new());
        let state = Mutex::new(Waiting { next: 0, parsed, spare, is_being_taken: false, is_over: false });
        let taker = Mutex::new(Taker { take, place, n_rows: 0, n_lines, result: Ok(()) });
        Self { state, moved: Condvar::new(), most, taker }
    }

    fn is_over(&self) -> bool {
        lock(&self.state).is_over
    }

    fn end(&self) {
        lock(&self.state).is_over = true;
        self.moved.notify_all();
    }

    fn into_result(self) -> Result<()> {
        self.taker.into_inner().unwrap_or_else(PoisonError::into_inner).result
    }

    /// Takes what is made of a block, and of those that waited for it, or leaves it to the thread that does; waits where too many do.
    /// Then something to fill again, if there is any.
    fn hand_on(&self, index: usize, parsed: Result<Parsed<T>, Wrong>) -> Option<T> {
        let mut state = lock(&self.state);
        state.parsed.insert(index, parsed);
        if !state.is_being_taken {
            state.is_being_taken = true;
            while !state.is_over
                && let next = state.next
                && let Some(parsed) = state.parsed.remove(&next)
            {
                state.next += 1;
                drop(state);
                let taken = lock(&self.taker).take(parsed);
                state = lock(&self.state);
                state.is_over |= taken.is_none();
                state.spare.extend(taken);
                self.moved.notify_all();
            }
            state.is_being_taken = false;
        }
        // The block whose turn it is is being parsed, or taken, by a thread that does not wait.
        while !state.is_over && state.parsed.len() >= self.most {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.spare.pop()
    }
}

impl<F> Taker<F> {
    /// Takes what is made of the next block, and gives it back; nothing where something is wrong.
    fn take<T>(&mut self, parsed: Result<Parsed<T>, Wrong>) -> Option<T>
    where
        F: FnMut(&mut T) -> Result<()>,
    {
        match parsed {
            Ok(Parsed { mut made, n_rows, n_lines }) => {
                self.result = (self.take)(&mut made);
                self.n_rows += n_rows;
                self.n_lines += n_lines;
                self.result.is_ok().then_some(made)
            }
            Err((lines_before, Fault { row, error, .. })) => {
                let place = self.place.clone();
                self.result = Err(error(place.at_row(self.n_rows + row).at_line(self.n_lines + lines_before + 1)));
                None
            }
        }
    }
}

pub(super) fn count_lines(text: &[u8]) -> usize {
    memchr_iter(b'\n', text).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::files::input::Reading;

    /// All that is parsed of a text, and of how many blocks; quotes are closed in each.
    fn parsed(input: Input<'static>, block: usize, quoting: Option<u8>) -> Result<(Vec<u8>, usize)> {
        let (mut found, mut n_blocks) = (Vec::new(), 0);
        let rows = |block: &[u8], into: &mut Vec<u8>| {
            into.extend_from_slice(block);
            Ok((count_lines(block), count_lines(block)))
        };
        Text::new(input, block)?.parse(quoting, Vec::new, rows, |block| {
            n_blocks += usize::from(!block.is_empty());
            assert!(
                block.is_empty() || quoting.is_none() || block.iter().filter(|&&byte| byte == b'"').count() % 2 == 0
            );
            found.append(block);
            Ok(())
        })?;
        Ok((found, n_blocks))
    }

    #[test]
    fn a_file_is_what_a_stream_is_and_every_byte_counts_once() {
        // More than is read ahead.
        let short: String = (0..30_000).map(|i| format!("{i},\"{}\n\"\n", i % 7)).collect();
        let long = format!("a,\"{}\"\n{short}\"{}\",b\n1,2", "x\n".repeat(20_000), "\"\"\n".repeat(9_000));
        for (name, content) in [("empty", ""), ("line", "1,2"), ("short", &short), ("long", &long)] {
            let path = std::env::temp_dir().join(format!("softreg-text-{}-{name}", std::process::id()));
            std::fs::write(&path, content).unwrap();
            let ended =
                if content.is_empty() || content.ends_with('\n') { content.to_owned() } else { format!("{content}\n") };
            for block in [3, 64, 1000, 4096, 1 << 18] {
                let reading = Reading::default();
                let (of_file, n_blocks) =
                    parsed(Input::open_with(&path, None, &reading).unwrap(), block, Some(b',')).unwrap();
                assert!(of_file == ended.as_bytes(), "{name}, {block}");
                assert_eq!(reading.bytes(), content.len() as u64, "{name}, {block}");
                assert!(parsed(Input::of(content), block, Some(b',')).unwrap().0 == of_file, "{name}, {block}");
                // Or nothing was cut.
                let n_expected = if name == "short" { content.len() / 2 / (2 * block.max(30)) } else { 0 };
                assert!(n_blocks >= n_expected, "{block}: {n_blocks}");
            }
            std::fs::remove_file(&path).unwrap();
        }
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
