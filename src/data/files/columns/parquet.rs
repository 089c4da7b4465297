//! Parquet: groups of rows, in each the pages of one column after those of the other.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use rayon::prelude::*;

use super::{Layout, Part, cells, damaged, guarded, pages};
use crate::data::files::input::{Input, ReadSeek, most_unpacked, too_much};
use crate::error::{Error, Place, Result};

/// Values that are unpacked at once, by each thread.
const BATCH: usize = 1 << 18;

pub(super) struct File {
    path: PathBuf,
    content: Shared,
    metadata: ArrowReaderMetadata,
    max_unpacked: Option<u64>,
}

impl File {
    pub fn open(input: Input) -> Result<Self> {
        let (path, max_unpacked) = (input.path().to_owned(), input.max_unpacked());
        let whole = input.whole()?;
        let length = whole.len().map_err(|source| Error::io("read", &path, source))?;
        let content = Shared { reader: Arc::new(Mutex::new(whole.into_reader())), length };
        content.check_metadata().map_err(|error| damaged(&path, error))?;
        let options = ArrowReaderOptions::new();
        let metadata = ArrowReaderMetadata::load(&content, options).map_err(|error| damaged(&path, error))?;
        Ok(Self { path, content, metadata, max_unpacked })
    }

    pub fn schema(&self) -> SchemaRef {
        self.metadata.schema().clone()
    }

    pub fn most_unpacked(&self) -> u64 {
        most_unpacked(self.content.length, self.max_unpacked)
    }

    /// Some first row of some columns, once it is known that these do not unpack to more than any data.
    pub fn first(&self, columns: &[usize]) -> Result<Option<RecordBatch>> {
        if self.check_pages(columns).map_err(|error| damaged(&self.path, error))?.is_none() {
            return Err(Error::malformed(Place::file(&self.path), too_much(self.most_unpacked())));
        }
        for group in 0..self.metadata.metadata().num_row_groups() {
            if let Some(batch) = self.batches(group, columns, 1)?.next() {
                return batch.map(Some).map_err(|error| damaged(&self.path, error));
            }
        }
        Ok(None)
    }

    /// None if they do.
    fn check_pages(&self, columns: &[usize]) -> io::Result<Option<()>> {
        let schema = self.metadata.parquet_schema();
        let mut left = self.most_unpacked();
        for group in self.metadata.metadata().row_groups() {
            for (leaf, column) in group.columns().iter().enumerate() {
                if columns.contains(&schema.get_column_root_idx(leaf)) {
                    let (start, length) = column.byte_range();
                    let from = |position: u64| {
                        let reader = BufReader::new(Position { content: self.content.clone(), position });
                        Ok(Box::new(reader) as Box<dyn Read>)
                    };
                    let fits = pages::check(|position| from(start.saturating_add(position)), length, &mut left)?;
                    if fits.is_none() {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(Some(()))
    }

    fn batches(
        &self,
        group: usize,
        columns: &[usize],
        size: usize,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, arrow_schema::ArrowError>> + use<>> {
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), columns.iter().copied());
        ParquetRecordBatchReaderBuilder::new_with_metadata(self.content.clone(), self.metadata.clone())
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_batch_size(size)
            .build()
            .map_err(|error| damaged(&self.path, error))
    }

    pub fn read(self, layout: &Layout) -> Result<Part> {
        let groups = self.metadata.metadata().row_groups();
        let sizes = groups.iter().map(|group| usize::try_from(group.num_rows()).ok()).collect::<Option<Vec<_>>>();
        let n_samples = sizes.as_ref().and_then(|sizes| sizes.iter().try_fold(0usize, |n, &size| n.checked_add(size)));
        let (Some(sizes), Some(n_samples)) = (sizes, n_samples) else {
            return Err(damaged(&self.path, "it says that it has a senseless number of rows"));
        };
        let mut all = Part::new(layout);
        let mut rows = all.cells.grow(n_samples, layout)?;
        let mut tasks = Vec::new();
        let mut first = 0;
        for (group, &size) in sizes.iter().enumerate() {
            let Some((of_group, others)) = rows.split(size, layout.n_features) else {
                return Err(damaged(&self.path, "it has more rows than it says"));
            };
            tasks.push((group, first, size, of_group));
            rows = others;
            first += size;
        }
        let read =
            |(group, first, size, rows)| guarded(&self.path, || self.read_group(group, first, size, rows, layout));
        // The first error, whichever thread was faster.
        let parts: Vec<Result<Part>> = tasks.into_par_iter().map(read).collect();
        for part in parts {
            let part = part?;
            for (all, part) in [(&mut all.label, part.label), (&mut all.weight, part.weight)] {
                if let (Some(all), Some(part)) = (all, part) {
                    all.width = all.width.or(part.width);
                    if all.width != part.width && part.numbers.is_some() {
                        return Err(damaged(&self.path, "its lists of labels have different lengths"));
                    }
                    part.numbers.map(|numbers| all.add(numbers)).transpose()?;
                }
            }
        }
        all.n_samples = n_samples;
        Ok(all)
    }

    /// A group of `size` rows, the first of which is row `first` of the file.
    fn read_group(
        &self,
        group: usize,
        first: usize,
        size: usize,
        mut rows: cells::Rows,
        layout: &Layout,
    ) -> Result<Part> {
        let mut part = Part::new(layout);
        let batch_size = (BATCH / layout.n_features.max(1)).clamp(64, 8192);
        for batch in self.batches(group, &layout.columns, batch_size)? {
            let batch = batch.map_err(|error| damaged(&self.path, error))?;
            let n = batch.num_rows();
            let Some((of_batch, others)) = rows.split(n, layout.n_features) else { break };
            cells::fill(of_batch, &batch, first + part.n_samples, layout)?;
            part.add_columns(&batch, first + part.n_samples, layout)?;
            part.n_samples += n;
            rows = others;
        }
        if part.n_samples != size {
            let problem = format!("group {} has other rows than the {size} that it says", group + 1);
            return Err(damaged(&self.path, problem));
        }
        Ok(part)
    }
}

/// A file that several threads read, each from where it wants.
#[derive(Clone)]
struct Shared {
    reader: Arc<Mutex<Box<dyn ReadSeek + Send>>>,
    length: u64,
}

impl Shared {
    /// Looks through the metadata, where the file ends as it must; else that is for the crate of Parquet to say.
    fn check_metadata(&self) -> io::Result<()> {
        let Some(end) = self.length.checked_sub(8) else { return Ok(()) };
        let mut last = [0; 8];
        Position { content: self.clone(), position: end }.read_exact(&mut last)?;
        let [a, b, c, d, mark @ ..] = last;
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        match end.checked_sub(length) {
            Some(position) if mark == *b"PAR1" => {
                let content = Position { content: self.clone(), position };
                pages::check_metadata(BufReader::new(content).take(length))
            }
            _ => Ok(()),
        }
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.seek(SeekFrom::Start(position))?;
        reader.read(into)
    }
}

impl Length for Shared {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Shared {
    type T = BufReader<Position>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(Position { content: self.clone(), position: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} of {}", self.length)));
        }
        let mut bytes = vec![0; length];
        Position { content: self.clone(), position: start }.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// A place in a file, from which one reads on.
struct Position {
    content: Shared,
    position: u64,
}

impl Read for Position {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.content.read_at(self.position, into)?;
        self.position += n as u64;
        Ok(n)
    }
}
