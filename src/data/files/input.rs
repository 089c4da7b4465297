//! A file that is being read, unpacked when it is gzip.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, Place, Result};

/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;

pub(super) struct Input {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    is_gzip: bool,
    /// Bytes that are left, where that is known.
    left: Option<u64>,
}

impl Input {
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::io("read", path, source);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        Self::new(path, file, metadata.is_file().then_some(metadata.len()))
    }

    fn new(path: &Path, content: impl Read + 'static, left: Option<u64>) -> Result<Self> {
        let mut reader: Box<dyn BufRead> = Box::new(BufReader::with_capacity(BUFFER, content));
        let start = reader.fill_buf().map_err(|source| Error::io("read", path, source))?;
        let is_gzip = start.starts_with(&[0x1f, 0x8b]);
        if is_gzip {
            reader = Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(reader)));
        }
        Ok(Self { path: path.to_owned(), reader, is_gzip, left: left.filter(|_| !is_gzip) })
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
        match source.kind() {
            InvalidData | InvalidInput | UnexpectedEof if self.is_gzip => {
                self.malformed(format!("the gzip data is damaged or cut off ({source}); get the file once more"))
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

    /// Bytes that are left, of a file that is not packed.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// More follows than the header says.
    pub fn goes_on(&self) -> Error {
        self.malformed("it goes on after the values that its header promises")
    }

    /// That nothing follows.
    pub fn end(&mut self) -> Result<()> {
        let mut more = [0];
        match self.fill(&mut more)? {
            0 => Ok(()),
            _ => Err(self.goes_on()),
        }
    }

    /// Reads until `into` is full or the file ends; how many bytes there were.
    fn fill(&mut self, into: &mut [u8]) -> Result<usize> {
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

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(into)?;
        self.left = self.left.map(|left| left.saturating_sub(n as u64));
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
    fn a_header_that_promises_too_much_takes_no_memory() {
        let error = Input::of([1, 2, 3]).values(usize::MAX, u16::from_le_bytes).unwrap_err().to_string();
        assert!(error.contains("ends after 1 of the"), "{error}");
        let error = Input::of(gzip(&[1, 2, 3])).values(usize::MAX, u16::from_le_bytes).unwrap_err().to_string();
        assert!(error.contains("ends after 1 of the"), "{error}");
    }
}
