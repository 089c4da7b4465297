//! Arrow's own format (IPC): a stream of messages. A file has the same stream between two marks, and after it a footer with the
//! places of the messages, which nothing here needs.

use std::collections::VecDeque;
use std::path::PathBuf;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::{Message, RecordBatch as Header, root_as_message};
use arrow_schema::SchemaRef;

use super::{Layout, Part, damaged};
use crate::data::files::input::{Input, most_unpacked, too_much};
use crate::error::{Error, Result};

/// Both ends of a file; the first is followed by two zeros.
const MARK: &[u8; 6] = b"ARROW1";

/// What comes before the length of a message.
const CONTINUATION: [u8; 4] = [0xff; 4];

pub(super) struct Stream<'a> {
    path: PathBuf,
    input: Input<'a>,
    size: Option<u64>,
    is_file: bool,
    decoder: StreamDecoder,
    schema: SchemaRef,
    /// Batches that have been decoded already.
    waiting: VecDeque<RecordBatch>,
}

impl<'a> Stream<'a> {
    pub fn open(mut input: Input<'a>) -> Result<Self> {
        let path = input.path().to_owned();
        let size = input.left();
        let is_file = input.head()?.starts_with(MARK);
        if is_file {
            input.bytes(&mut [0; 8], "the start of an Arrow file")?;
        }
        let mut stream = Self {
            path,
            input,
            size,
            is_file,
            decoder: StreamDecoder::new(),
            schema: SchemaRef::new(arrow_schema::Schema::empty()),
            waiting: VecDeque::new(),
        };
        while stream.decoder.schema().is_none() && stream.message()? {}
        match stream.decoder.schema() {
            Some(schema) => Ok(Self { schema, ..stream }),
            None => Err(stream.input.malformed("it ends before its schema")),
        }
    }

    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    pub fn most_unpacked(&self) -> u64 {
        most_unpacked(self.size.unwrap_or(u64::MAX), self.input.max_unpacked())
    }

    pub fn first(&mut self, columns: &[usize]) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.waiting.iter().find(|batch| batch.num_rows() > 0) {
                return batch.project(columns).map(Some).map_err(|error| damaged(&self.path, error));
            }
            if !self.message()? {
                return Ok(None);
            }
        }
    }

    pub fn read(mut self, layout: &Layout) -> Result<Part> {
        let mut part = Part::new(layout);
        loop {
            while let Some(batch) = self.waiting.pop_front() {
                let batch = batch.project(&layout.columns).map_err(|error| damaged(&self.path, error))?;
                part.add(&batch, part.n_samples, layout)?;
            }
            if !self.message()? {
                return Ok(part);
            }
        }
    }

    /// Reads a message, unless the stream ends. Its lengths are compared with what the file has before anything is allocated.
    fn message(&mut self) -> Result<bool> {
        let mut length = [0; 4];
        let mut found = self.input.fill(&mut length)?;
        // After its first mark, a file may have more zeros than two.
        if self.is_file && self.decoder.schema().is_none() {
            while found == 4 && length == [0; 4] {
                found = self.input.fill(&mut length)?;
            }
        }
        let is_new = length == CONTINUATION;
        if found == 4 && is_new {
            self.input.bytes(&mut length, "the length of a message")?;
        }
        let n = u32::from_le_bytes(length) as usize;
        // A stream may just end; in a file without the mark of the end, the footer follows.
        if found == 0 || n == 0 || self.is_file && !is_new {
            // What the decoder has not looked at yet, it does now.
            self.decode([CONTINUATION, [0; 4]].concat())?;
            return self.end(found).map(|()| false);
        }
        if found < 4 {
            return Err(self.input.malformed("it ends within a message; is the file whole?"));
        }
        let header = self.input.values(n, u8::from_le_bytes)?;
        let message = root_as_message(&header).map_err(|error| damaged(&self.path, error))?;
        let Ok(body_length) = usize::try_from(message.bodyLength()) else {
            return Err(damaged(&self.path, "a message of negative length"));
        };
        let body = self.input.values(body_length, u8::from_le_bytes)?;
        self.check_packing(&message, &body)?;
        self.decode([&CONTINUATION, &length, &*header].concat())?;
        self.decode(body)?;
        Ok(true)
    }

    fn decode(&mut self, bytes: Vec<u8>) -> Result<()> {
        let mut bytes = Buffer::from_vec(bytes);
        while !bytes.is_empty() {
            let batch = self.decoder.decode(&mut bytes).map_err(|error| damaged(&self.path, error))?;
            self.waiting.extend(batch);
        }
        Ok(())
    }

    /// That what is packed does not say that it becomes more than any data.
    fn check_packing(&self, message: &Message, body: &[u8]) -> Result<()> {
        let dictionary = message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
        let packed = |header: &Header| header.compression().is_some();
        let Some(header) = message.header_as_record_batch().or(dictionary).filter(packed) else { return Ok(()) };
        let mut unpacked = 0u64;
        for buffer in header.buffers().into_iter().flatten() {
            let start = usize::try_from(buffer.offset()).ok();
            let length = start.and_then(|start| body.get(start..)?.first_chunk());
            if let Some(&length) = length.filter(|_| buffer.length() > 0) {
                // −1 is said of what is not packed.
                unpacked = unpacked.saturating_add(u64::try_from(i64::from_le_bytes(length)).unwrap_or(0));
            }
        }
        let most = most_unpacked(body.len() as u64, self.input.max_unpacked());
        if unpacked > most {
            return Err(self.input.malformed(too_much(most)));
        }
        Ok(())
    }

    /// That a file, of which `found` bytes come after the stream, has the mark of its end.
    fn end(&mut self, found: usize) -> Result<()> {
        if !self.is_file {
            return Ok(());
        }
        let cut: Error = self.input.malformed("it ends before the mark of its end; is the file whole?");
        let (mut last, mut more) = (Vec::new(), [0; 4096]);
        let mut n = found;
        while n > 0 {
            n = self.input.fill(&mut more)?;
            last.extend_from_slice(&more[..n]);
            last.drain(..last.len().saturating_sub(MARK.len()));
        }
        if last == MARK { Ok(()) } else { Err(cut) }
    }
}
