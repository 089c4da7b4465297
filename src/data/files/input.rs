//! A file that is being read, unpacked when it is gzip or Zstandard.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::data::read_at::{Stamp, changed, read_at, stamp};
use crate::error::{Error, Place, Result};

/// Bytes that are read at once, if there are as many.
const BUFFER: usize = 1 << 20;

/// Bytes that a reader keeps, if there are as many: fewer than a block of text, which then is not copied twice.
const AHEAD: usize = 1 << 17;

/// A buffer for what may have `length` bytes.
fn buffered<R: Read>(content: R, length: Option<u64>) -> BufReader<R> {
    let capacity = length.map_or(AHEAD, |length| length.clamp(1 << 10, AHEAD as u64) as usize);
    BufReader::with_capacity(capacity, content)
}

/// How far the reading of a [`Source`](super::Source) is: for another thread to look at, to which a clone is given.
///
/// ```no_run
/// use softreg::data::{Reading, Source, read_with};
/// let reading = Reading::default();
/// let seen = reading.clone();
/// let table = std::thread::spawn(move || read_with(&Source::new("large.csv"), &reading));
/// println!("{} of {} bytes", seen.bytes(), seen.total());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Reading(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    total: AtomicU64,
}

impl Reading {
    /// The bytes of the files of features that are read, packed as they are.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// The bytes that the files have; 0 before they are opened, and where that is not known, as of a pipe.
    pub fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    /// That these files are about to be read.
    pub(super) fn begin(&self, files: &[PathBuf]) {
        let length = |path: &PathBuf| std::fs::metadata(path).ok().filter(|it| it.is_file()).map(|it| it.len());
        let total = files.iter().map(length).sum::<Option<u64>>().unwrap_or(0);
        self.0.total.store(total, Ordering::Relaxed);
    }
}

/// A reader whose bytes are counted.
pub(super) struct Counted<R>(R, Reading);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(into)?;
        self.1.0.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// What is not read yet of a file, which any thread can read.
pub(super) struct Rest {
    file: Counted<File>,
    /// Where it begins.
    begin: u64,
    path: PathBuf,
    stamp: Stamp,
}

impl Rest {
    /// Fills `into` from byte `offset` of the rest on; how many bytes there were, fewer where the file ends.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize> {
        let Counted(file, Reading(counts)) = &self.file;
        let n = read_at(file, self.begin + offset, into).map_err(|source| Error::io("read", &self.path, source))?;
        counts.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    /// That nobody has written to the file: pieces of it could be of different times.
    pub fn check_unchanged(&self) -> Result<()> {
        let now = stamp(&self.file.0).map_err(|source| Error::io("read", &self.path, source))?;
        if now == self.stamp { Ok(()) } else { Err(changed(&self.path)) }
    }
}

impl<R: Seek> Seek for Counted<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

/// How many bytes may come of `packed` ones, if the source does not say `max`: more is taken for a file that is made to fill the
/// memory.
pub(super) fn most_unpacked(packed: u64, max: Option<u64>) -> u64 {
    max.unwrap_or_else(|| packed.saturating_mul(1000).saturating_add(64 << 20))
}

/// That there are more than these `most` bytes.
pub(super) fn too_much(most: u64) -> String {
    format!(
        "it has more than {most} bytes unpacked; if that is right, allow as many with max_unpacked (--max-unpacked)"
    )
}

pub(super) struct Input<'a> {
    path: PathBuf,
    reader: Box<dyn BufRead + Send + 'a>,
    /// How its bytes are packed, if they are.
    packing: Option<&'static str>,
    /// Bytes that are left, where that is known.
    left: Option<u64>,
    /// What the source says of the bytes that there may be unpacked.
    max_unpacked: Option<u64>,
    /// The same file from its start, where it is one that is not packed.
    file: Option<Counted<File>>,
}

impl<'a> Input<'a> {
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, None, &Reading::default())
    }

    /// A file that may have `max_unpacked` bytes when it is unpacked, and whose bytes are counted by `reading`.
    pub fn open_with(path: &Path, max_unpacked: Option<u64>, reading: &Reading) -> Result<Self> {
        let failed = |source| Error::io("read", path, source);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Self::new(path, Counted(file, reading.clone()), None, max_unpacked);
        }
        let again = file.try_clone().map_err(failed)?;
        let input = Self::new(path, Counted(file, reading.clone()), Some(metadata.len()), max_unpacked)?;
        let file = input.packing.is_none().then(|| Counted(again, reading.clone()));
        Ok(Self { file, ..input })
    }

    fn new(path: &Path, content: impl Read + Send + 'a, left: Option<u64>, max_unpacked: Option<u64>) -> Result<Self> {
        let mut reader: Box<dyn BufRead + Send + 'a> = Box::new(buffered(content, left));
        let start = reader.fill_buf().map_err(|source| Error::io("read", path, source))?;
        let packing = if start.starts_with(&[0x1f, 0x8b]) {
            Some("gzip")
        } else {
            start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]).then_some("Zstandard")
        };
        let most = most_unpacked(left.unwrap_or(u64::MAX), max_unpacked);
        // Packed data is about as much shorter, and more is no mistake.
        let length = left.map(|left| left.saturating_mul(8));
        reader = match packing {
            Some("gzip") => {
                Box::new(buffered(Limited { reader: MultiGzDecoder::new(reader), left: most, most }, length))
            }
            Some(_) => {
                let unpacked = Zstandard { source: reader, decoder: None };
                Box::new(buffered(Limited { reader: unpacked, left: most, most }, length))
            }
            None => reader,
        };
        let left = left.filter(|_| packing.is_none());
        Ok(Self { path: path.to_owned(), reader, packing, left, max_unpacked, file: None })
    }

    /// A part of a file, of `length` bytes; `packing` is how they are packed in it, and `content` unpacks them.
    pub fn part(path: &Path, content: impl Read + Send + 'a, length: u64, packing: Option<&'static str>) -> Self {
        let reader = Box::new(buffered(content, Some(length)));
        Self { path: path.to_owned(), reader, packing, left: Some(length), max_unpacked: None, file: None }
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

    /// The file itself and how far it is read, where it is one that is not packed: its other bytes can be read from there by several
    /// threads at once. Those that were read ahead are added to `taken`.
    pub fn rest(&mut self, taken: &mut Vec<u8>) -> Result<Option<Rest>> {
        let Some(mut file) = self.file.take() else { return Ok(None) };
        let ahead = self.head()?;
        let n = ahead.len();
        if taken.try_reserve(n).is_err() {
            return Err(Error::out_of_memory(self.place().to_string(), n, 1));
        }
        taken.extend_from_slice(self.head()?);
        self.reader.consume(n);
        // The two have one position.
        let failed = |source| Error::io("read", &self.path, source);
        let begin = file.stream_position().map_err(failed)?;
        let stamp = stamp(&file.0).map_err(failed)?;
        Ok(Some(Rest { file, begin, path: self.path.clone(), stamp }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the source says of the bytes that there may be unpacked, for formats that pack what is in them.
    pub fn max_unpacked(&self) -> Option<u64> {
        self.max_unpacked
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
        use io::ErrorKind::{FileTooLarge, InvalidData, InvalidInput, UnexpectedEof};
        match (source.kind(), self.packing) {
            (InvalidData | InvalidInput | UnexpectedEof, Some(packing)) => {
                self.malformed(format!("the {packing} data is damaged or cut off ({source}); get the file once more"))
            }
            (FileTooLarge, Some(_)) => self.malformed(source.to_string()),
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
        let mut buffer = vec![0; (BUFFER / SIZE).clamp(1, n.max(1)) * SIZE];
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

    /// Bytes that are left, where that is known.
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
        Self::new(Path::new("file"), io::Cursor::new(content), left, None).unwrap()
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
    File(Counted<File>),
    Memory(Vec<u8>),
}

impl Whole {
    /// How many bytes there are.
    pub fn len(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.0.metadata()?.len()),
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

/// At most `most` bytes, of which `left` are left, and an error where there are more.
struct Limited<R> {
    reader: R,
    left: u64,
    most: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(into)?;
        let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, too_much(self.most));
        self.left = self.left.checked_sub(n as u64).ok_or_else(too_large)?;
        Ok(n)
    }
}

/// The content of Zstandard frames, one after the other.
struct Zstandard<R> {
    source: R,
    /// Of the frame that is being read.
    decoder: Option<Box<FrameDecoder>>,
}

impl<R: BufRead> Read for Zstandard<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        fn damaged(error: impl ToString) -> io::Error {
            io::Error::new(io::ErrorKind::InvalidData, error.to_string())
        }
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(decoder) = &mut self.decoder else {
                if self.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                let mut decoder = FrameDecoder::new();
                match decoder.reset(&mut self.source) {
                    Ok(()) => self.decoder = Some(Box::new(decoder)),
                    Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                        length, ..
                    })) => {
                        let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                        if skipped < length.into() {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                    }
                    Err(error) => return Err(damaged(error)),
                }
                continue;
            };
            match decoder.read(into) {
                Ok(0) if decoder.is_finished() => {
                    let written = decoder.get_checksum_from_data();
                    if written.is_some() && written != decoder.get_calculated_checksum() {
                        return Err(damaged("the checksum is another"));
                    }
                    self.decoder = None;
                }
                Ok(0) => {
                    decoder.decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1)).map_err(damaged)?;
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_to_meanwhile_is_known() {
        let path = std::env::temp_dir().join(format!("softreg-rest-{}", std::process::id()));
        std::fs::write(&path, "a,b\n1,2\n").unwrap();
        let mut taken = Vec::new();
        let rest = Input::open(&path).unwrap().rest(&mut taken).unwrap().unwrap();
        assert_eq!(taken, b"a,b\n1,2\n");
        rest.check_unchanged().unwrap();
        std::fs::write(&path, "a,b\n1,2\n3,").unwrap();
        let error = rest.check_unchanged().unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("changed while it was in use"), "{error}");
    }

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

    /// A Zstandard frame with a checksum.
    fn zstandard(content: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn zstandard_reads_as_its_content_also_in_several_frames() {
        let content: Vec<u8> = (0..100_000u32).flat_map(|i| (i % 1000).to_le_bytes()).collect();
        let (a, b) = content.split_at(123_456);
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        for packed in [
            zstandard(&content),
            [zstandard(a), zstandard(b)].concat(),
            [zstandard(a), skippable.clone(), zstandard(b), skippable.clone()].concat(),
        ] {
            let mut input = Input::of(packed);
            assert_eq!(input.values(100_000, u32::from_le_bytes).unwrap()[99_999], 999);
            input.end().unwrap();
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_of_a_zstandard_file_is_an_error_that_names_the_file() {
        let content: Vec<u8> = (0..500u16).flat_map(u16::to_le_bytes).collect();
        let packed = zstandard(&content);
        let read = |bytes: &[u8]| {
            let mut input = Input::of(bytes);
            let values = input.values(500, u16::from_le_bytes)?;
            input.end()?;
            Ok::<_, Error>(values)
        };
        assert_eq!(read(&packed).unwrap().len(), 500);
        // Without its magic it is no Zstandard file.
        for length in 4..packed.len() {
            let error = read(&packed[..length]).unwrap_err().to_string();
            assert!(error.starts_with("file: "), "{length}: {error}");
        }
        let mut n_noticed = 0;
        for bit in 32..packed.len() * 8 {
            let mut flipped = packed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            n_noticed += match read(&flipped) {
                Ok(values) => {
                    assert_eq!(values, (0..500).collect::<Vec<u16>>(), "bit {bit}");
                    0
                }
                Err(_) => 1,
            };
        }
        assert!(n_noticed > packed.len() * 6, "{n_noticed}");
    }

    #[test]
    fn what_unpacks_to_too_much_is_an_error() {
        let content = vec![7u8; 100_000];
        for packed in [gzip(&content), zstandard(&content)] {
            let read = |limit| {
                let mut bytes = Vec::new();
                let packed = io::Cursor::new(packed.clone());
                let mut input = Input::new(Path::new("file"), packed, None, limit).unwrap();
                let result = input.read_to_end(&mut bytes);
                result.map_err(|error| input.failed(error).to_string())
            };
            assert_eq!(read(Some(100_000)), Ok(100_000));
            assert_eq!(read(None), Ok(100_000));
            assert!(read(Some(99_999)).unwrap_err().starts_with("file: it has more than 99999 bytes unpacked"));
        }
        assert_eq!(most_unpacked(u64::MAX, None), u64::MAX);
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
