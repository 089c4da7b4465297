//! A file that is being read, unpacked when it is gzip.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, Place, Result};

/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;

/// How many bytes may come of `packed` ones: more is taken for a file that is made to fill the memory.
pub(super) fn most_unpacked(packed: u64) -> u64 {
    packed.saturating_mul(1000).saturating_add(64 << 20)
}

pub(super) struct Input<'a> {
    path: PathBuf,
    reader: Box<dyn BufRead + 'a>,
    /// How its bytes are packed, if they are.
    packing: Option<&'static str>,
    /// Bytes that are left, where that is known.
    left: Option<u64>,
    /// The same file from its start, where it is one that is not packed.
    file: Option<File>,
}

impl<'a> Input<'a> {
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::io("read", path, source);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Self::new(path, file, None);
        }
        let again = file.try_clone().map_err(failed)?;
        let input = Self::new(path, file, Some(metadata.len()))?;
        let file = input.packing.is_none().then_some(again);
        Ok(Self { file, ..input })
    }

    fn new(path: &Path, content: impl Read + 'a, left: Option<u64>) -> Result<Self> {
        let mut reader: Box<dyn BufRead + 'a> = Box::new(BufReader::with_capacity(BUFFER, content));
        let start = reader.fill_buf().map_err(|source| Error::io("read", path, source))?;
        let packing = start.starts_with(&[0x1f, 0x8b]).then_some("gzip");
        if packing.is_some() {
            let unpacked = Limited { reader: MultiGzDecoder::new(reader), left: left.map_or(u64::MAX, most_unpacked) };
            reader = Box::new(BufReader::with_capacity(BUFFER, unpacked));
        }
        Ok(Self { path: path.to_owned(), reader, packing, left: left.filter(|_| packing.is_none()), file: None })
    }

    /// A part of a file, of `length` bytes; `packing` is how they are packed in it, and `content` unpacks them.
    pub fn part(path: &Path, content: impl Read + 'a, length: u64, packing: Option<&'static str>) -> Self {
        let reader = Box::new(BufReader::with_capacity(BUFFER, content));
        Self { path: path.to_owned(), reader, packing, left: Some(length), file: None }
    }

    /// The whole content, of which nothing has been taken yet, for formats that are not read from the start to the end. What is
    /// packed is unpacked into memory.
    pub fn whole(mut self) -> Result<Whole> {
        if let Some(mut file) = self.file.take() {
            file.rewind().map_err(|source| Error::io("read", &self.path, source))?;
            return Ok(Whole::File(file));
        }
        let mut bytes = Vec::new();
        match self.read_to_end(&mut bytes) {
            Ok(_) => Ok(Whole::Memory(bytes)),
            Err(error) => Err(self.failed(error)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are left, where that is known.
    #[cfg(feature = "arrow")]
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Some of the bytes to come, at least one unless there are none.
    pub fn head(&mut self) -> Result<&[u8]> {
        // A second borrow, since the first may be needed for the error.
        if let Err(error) = self.reader.fill_buf() {
            return Err(self.failed(error));
        }
        self.reader.fill_buf().map_err(|source| Error::io("read", &self.path, source))
    }

    /// What a failure to read means.
    pub fn failed(&self, source: io::Error) -> Error {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        match (source.kind(), self.packing) {
            (InvalidData | InvalidInput | UnexpectedEof, Some(packing)) => {
                self.malformed(format!("the {packing} data is damaged or cut off ({source}); get the file once more"))
            }
            _ => Error::io("read", &self.path, source),
        }
    }

    /// The file does not follow its format.
    pub fn malformed(&self, problem: impl Into<String>) -> Error {
        Error::malformed(self.place(), problem)
    }

    pub fn place(&self) -> Place {
        Place::file(&self.path)
    }

    /// As many bytes as there is room for; `what` is what they are.
    pub fn bytes(&mut self, into: &mut [u8], what: &str) -> Result<()> {
        let found = self.fill(into)?;
        if found < into.len() {
            return Err(self.malformed(format!("it ends within {what}; is the file whole?")));
        }
        Ok(())
    }

    /// `n` values of `SIZE` bytes each.
    pub fn values<T, const SIZE: usize>(&mut self, n: usize, value: impl Fn([u8; SIZE]) -> T) -> Result<Vec<T>> {
        let needed = (n as u64).saturating_mul(SIZE as u64);
        if let Some(left) = self.left.filter(|&left| left < needed) {
            return Err(self.ends_after(left / SIZE as u64, n));
        }
        let mut values = Vec::new();
        // What a header promises is only believed where the file is as long.
        let reserve = if self.left.is_some() { n } else { 0 };
        let mut room = Ok(());
        if reserve > 0 {
            room = values.try_reserve_exact(reserve);
        }
        let mut buffer = vec![0; (BUFFER / SIZE).max(1) * SIZE];
        while room.is_ok() && values.len() < n {
            let count = (n - values.len()).min(buffer.len() / SIZE);
            let piece = &mut buffer[..count * SIZE];
            let found = self.fill(piece)?;
            if found < piece.len() {
                return Err(self.ends_after((values.len() + found / SIZE) as u64, n));
            }
            room = values.try_reserve(count);
            if room.is_ok() {
                values.extend(piece.as_chunks().0.iter().map(|&bytes| value(bytes)));
            }
        }
        match room {
            Ok(()) => Ok(values),
            Err(_) => Err(Error::out_of_memory(format!("the values of {}", self.path.display()), n, size_of::<T>())),
        }
    }

    fn ends_after(&self, found: u64, n: usize) -> Error {
        self.malformed(format!("it ends after {found} of the {n} values that its header promises; is the file whole?"))
    }

    /// That nothing follows.
    pub fn end(&mut self) -> Result<()> {
        let mut more = [0];
        match self.fill(&mut more)? {
            0 => Ok(()),
            _ => Err(self.malformed("it goes on after the values that its header promises")),
        }
    }

    /// Reads until `into` is full or the file ends; how many bytes there were.
    pub fn fill(&mut self, into: &mut [u8]) -> Result<usize> {
        let mut found = 0;
        while found < into.len() {
            match self.read(&mut into[found..]) {
                Ok(0) => break,
                Ok(n) => found += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(found)
    }

    #[cfg(test)]
    pub fn of(content: impl Into<Vec<u8>>) -> Self {
        let content = content.into();
        let left = Some(content.len() as u64);
        Self::new(Path::new("file"), io::Cursor::new(content), left).unwrap()
    }
}

impl Read for Input<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(into)?;
        self.left = self.left.map(|left| left.saturating_sub(n as u64));
        Ok(n)
    }
}

/// The content of a file, any part of which can be read.
pub(super) enum Whole {
    File(File),
    Memory(Vec<u8>),
}

impl Whole {
    /// How many bytes there are.
    pub fn len(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    pub fn into_reader(self) -> Box<dyn ReadSeek + Send> {
        match self {
            Self::File(file) => Box::new(BufReader::new(file)),
            Self::Memory(bytes) => Box::new(Cursor::new(bytes)),
        }
    }
}

pub(super) trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// At most `left` bytes, and an error where there are more.
struct Limited<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(into)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            let problem = "it unpacks to more than 1000 times its size, which no data does";
            io::Error::new(io::ErrorKind::InvalidData, problem)
        })?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_reads_as_its_content_also_in_several_members() {
        let content: Vec<u8> = (0..10_000u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        let (a, b) = content.split_at(12_345);
        for packed in [content.clone(), gzip(&content), [gzip(a), gzip(b)].concat()] {
            let mut input = Input::of(packed);
            assert_eq!(input.values(10_000, u32::from_le_bytes).unwrap()[9999], 9999 * 9999);
            input.end().unwrap();
        }
    }

    #[test]
    fn every_cut_of_a_gzip_file_is_an_error_that_names_the_file() {
        let packed = gzip(&(0..500u16).flat_map(u16::to_le_bytes).collect::<Vec<_>>());
        let read = |bytes: &[u8]| {
            let mut input = Input::of(bytes);
            input.values(500, u16::from_le_bytes).and_then(|_| input.end())
        };
        read(&packed).unwrap();
        for length in 0..packed.len() {
            let error = read(&packed[..length]).unwrap_err().to_string();
            assert!(error.starts_with("file: "), "{length}: {error}");
        }
        let mut flipped = packed.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x40;
        assert!(read(&flipped).is_err());
    }

    #[test]
    fn what_unpacks_to_too_much_is_an_error() {
        let read = |limit| {
            let mut bytes = Vec::new();
            Limited { reader: MultiGzDecoder::new(&*gzip(&[7; 5000])), left: limit }.read_to_end(&mut bytes)
        };
        assert_eq!(read(5000).unwrap(), 5000);
        assert_eq!(read(4999).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(most_unpacked(u64::MAX), u64::MAX);
    }

    #[test]
    fn the_whole_content_is_the_same_packed_or_not() {
        let content = b"one, two, three".repeat(1000);
        let path = std::env::temp_dir().join(format!("softreg-whole-{}", std::process::id()));
        for packed in [content.clone(), gzip(&content)] {
            std::fs::write(&path, packed).unwrap();
            let mut input = Input::open(&path).unwrap();
            assert!(input.head().unwrap().starts_with(b"one"));
            let whole = input.whole().unwrap();
            assert_eq!(whole.len().unwrap(), content.len() as u64);
            let mut bytes = Vec::new();
            whole.into_reader().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, content);
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_header_that_promises_too_much_takes_no_memory() {
        let error = Input::of([1, 2, 3]).values(usize::MAX, u16::from_le_bytes).unwrap_err().to_string();
        assert!(error.contains("ends after 1 of the"), "{error}");
        let error = Input::of(gzip(&[1, 2, 3])).values(usize::MAX, u16::from_le_bytes).unwrap_err().to_string();
        assert!(error.contains("ends after 1 of the"), "{error}");
    }
}
