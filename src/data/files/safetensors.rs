//! safetensors: the length of a header, the header (JSON: type, shape and place of each tensor), the values.

use std::io::SeekFrom;
use std::path::PathBuf;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::array::{Array, Kind, Numbers};
use super::input::{Input, ReadSeek};
use super::named::{Arrays, Entry, inside};
use crate::data::{self, Features, Stored};
use crate::error::{Error, Place, Result};

/// What the format allows for the header.
const LONGEST_HEADER: u64 = 100_000_000;

/// Whether a file begins like one.
pub(super) fn is_one(head: &[u8]) -> bool {
    match head.split_first_chunk() {
        Some((&length, [b'{', ..])) => (2..=LONGEST_HEADER).contains(&u64::from_le_bytes(length)),
        _ => false,
    }
}

pub(super) struct Tensors {
    path: PathBuf,
    reader: Box<dyn ReadSeek + Send>,
    metadata: Metadata,
    /// Where the values begin.
    start: u64,
    /// In the order of the file.
    entries: Vec<Entry>,
}

impl Tensors {
    pub fn open(input: Input) -> Result<Self> {
        let path = input.path().to_owned();
        let malformed = |problem: String| Error::malformed(Place::file(&path), problem);
        let io = |source| Error::io("read", &path, source);
        let whole = input.whole()?;
        let length = whole.len().map_err(io)?;
        let mut reader = whole.into_reader();
        let mut input = Input::part(&path, &mut reader, length, None);
        let mut header_length = [0; 8];
        input.bytes(&mut header_length, "the safetensors header")?;
        let header_length = u64::from_le_bytes(header_length);
        let start = header_length.saturating_add(8);
        if header_length > LONGEST_HEADER || start > length {
            return Err(malformed(format!(
                "its header says that it has {header_length} bytes; is this a safetensors file, and whole?"
            )));
        }
        let mut header = vec![0; header_length as usize];
        input.bytes(&mut header, "the safetensors header")?;
        drop(input);
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| malformed(format!("its safetensors header cannot be understood: {error}")))?;
        let promised = metadata.data_len() as u64;
        if promised != length - start {
            let problem = format!("its tensors have {} bytes, its header promises {promised}", length - start);
            return Err(malformed(format!("{problem}; is the file whole?")));
        }
        let entry = |name: String| {
            let shape = metadata.info(&name).map(|info| info.shape.clone()).unwrap_or_default();
            Entry { name, shape }
        };
        let entries = metadata.offset_keys().into_iter().map(entry).collect();
        Ok(Self { path, reader, metadata, start, entries })
    }

    /// A list of names in the metadata, which is JSON.
    fn names(&self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(json) = self.metadata.metadata().as_ref().and_then(|metadata| metadata.get(key)) else {
            return Ok(None);
        };
        let malformed = |error| format!("its metadata {key:?} is not a list of names: {error}");
        serde_json::from_str(json).map_err(|error| Error::malformed(Place::file(&self.path), malformed(error)))
    }
}

impl Arrays for Tensors {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn read(&mut self, index: usize) -> Result<Array> {
        let entry = self.entries.get(index);
        let Some((entry, info)) = entry.and_then(|entry| Some((entry, self.metadata.info(&entry.name)?))) else {
            return Err(Error::Empty { place: Place::file(&self.path), what: "features" });
        };
        let TensorInfo { dtype, shape, data_offsets: (begin, end) } = info;
        let path = inside(&self.path, &entry.name);
        let kind = match dtype {
            Dtype::BOOL | Dtype::U8 => Kind::U8,
            Dtype::I8 => Kind::I8,
            Dtype::I16 => Kind::I16,
            Dtype::U16 => Kind::U16,
            Dtype::I32 => Kind::I32,
            Dtype::U32 => Kind::U32,
            Dtype::I64 => Kind::I64,
            Dtype::U64 => Kind::U64,
            Dtype::F16 => Kind::F16,
            Dtype::BF16 => Kind::BF16,
            Dtype::F32 => Kind::F32,
            Dtype::F64 => Kind::F64,
            other => {
                let problem = format!("values of the type {other:?} are not supported; F16, BF16, F32, F64, U8 are");
                return Err(Error::malformed(Place::file(path), problem));
            }
        };
        // That shape, type and length agree was found out when the header was read.
        let n = shape.iter().product();
        self.reader
            .seek(SeekFrom::Start(self.start + *begin as u64))
            .map_err(|source| Error::io("read", &self.path, source))?;
        let mut input = Input::part(&path, &mut self.reader, (end - begin) as u64, None);
        Ok(Array { shape: shape.clone(), numbers: Numbers::read(&mut input, kind, false, n)? })
    }

    fn stored(&self, index: usize, memory: u64) -> Result<Option<Features<'static>>> {
        let info = self.entries.get(index).and_then(|entry| self.metadata.info(&entry.name));
        let Some(TensorInfo { dtype, shape, data_offsets: (begin, end) }) = info else { return Ok(None) };
        let dtype = match dtype {
            Dtype::F32 => data::Dtype::F32,
            Dtype::F16 => data::Dtype::F16,
            Dtype::U8 => data::Dtype::U8,
            _ => return Ok(None),
        };
        let [n_samples, ref rest @ ..] = **shape else { return Ok(None) };
        if rest.is_empty() || (end - begin) as u64 <= memory {
            return Ok(None);
        }
        let (offset, n_features) = (self.start + *begin as u64, rest.iter().product());
        let stored = Stored::open(&self.path, offset, dtype, n_samples, n_features, memory)?;
        Features::new(stored, n_samples, n_features).map(Some)
    }

    fn classes(&self) -> Result<Option<Vec<String>>> {
        self.names("classes")
    }

    fn feature_names(&self) -> Result<Option<Vec<String>>> {
        self.names("feature_names")
    }
}
