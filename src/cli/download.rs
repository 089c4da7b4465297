//! `softreg download`: files of known data sets, of which nothing is kept under its name before its checksum is right.

use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use softreg::Error;
use ureq::http::{HeaderMap, StatusCode};
use ureq::{Agent, Proxy};

use crate::known::{self, File};
use crate::{args, output};

/// Requests for one file from one address, as long as each brings more of it.
const MAX_REQUESTS: usize = 20;
/// How long a server may be silent.
const TIMEOUT: Duration = Duration::from_secs(60);

pub fn run(args: &args::Download) -> Result<()> {
    let Some(known) = args.name else { return list() };
    let addresses: Vec<String> = match &args.mirror {
        Some(address) => vec![address.trim_end_matches('/').to_owned()],
        None => known.addresses.iter().map(|&address| address.to_owned()).collect(),
    };
    let folder = known.folder()?;
    fs::create_dir_all(&folder).map_err(|source| Error::io("make the folder", &folder, source))?;
    let agent = agent(TIMEOUT, Proxy::try_from_env());
    let tell = |text: String| {
        if !args.quiet {
            output::message(&text);
        }
    };
    for file in known.files() {
        let bar = bar(file, args.quiet);
        let state = fetch(&agent, file, &addresses, &folder, &bar);
        bar.finish_and_clear();
        let size = DecimalBytes(file.bytes);
        match state? {
            State::New => tell(format!("{:28} {size}", file.name)),
            State::Old => tell(format!("{:28} {size}, there already", file.name)),
        }
    }
    tell(format!("{} is in {}; `softreg train {}` trains on it", known.name, folder.display(), known.name));
    Ok(())
}

/// What there is to download.
fn list() -> Result<()> {
    let folder = known::folder()?;
    output::write(Path::new("-"), |out| {
        writeln!(out, "{:14} {:>9}  {:10}  what it is", "name", "size", "downloaded")?;
        for known in &known::ALL {
            let is_here = if known.is_here() { "yes" } else { "no" };
            let size = DecimalBytes(known.bytes()).to_string();
            writeln!(out, "{:14} {size:>9}  {is_here:10}  {}", known.name, known.about)?;
        }
        writeln!(out, "\nEach has 60,000 images to train on and 10,000 to test, 28 × 28 bytes, and 10 classes.")?;
        writeln!(out, "They are kept in {}.", folder.display())
    })
}

fn agent(timeout: Duration, proxy: Option<Proxy>) -> Agent {
    Agent::config_builder()
        .proxy(proxy)
        .http_status_as_error(false)
        .timeout_connect(Some(timeout))
        .timeout_recv_response(Some(timeout))
        .timeout_per_read(Some(timeout))
        .user_agent(concat!("softreg/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

fn bar(file: &File, quiet: bool) -> ProgressBar {
    if quiet || !io::stderr().is_terminal() || std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(file.bytes);
    let template = "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(file.name);
    bar
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It was downloaded.
    New,
    /// It was there, and is what it must be.
    Old,
}

/// Brings a file into a folder from the first address that gives it. What an interrupted download left is gone on from.
fn fetch(agent: &Agent, file: &File, addresses: &[String], folder: &Path, bar: &ProgressBar) -> Result<State> {
    let path = folder.join(file.name);
    if path.is_file() {
        if digest(&path)? == file.sha256 {
            return Ok(State::Old);
        }
        output::message(&format!("warning: {} is damaged and will be replaced", path.display()));
    }
    let mut part = Part::open(folder.join(format!("{}.part", file.name)))?;
    for (index, address) in addresses.iter().enumerate() {
        let url = format!("{address}/{}", file.name);
        match part.fill(agent, &url, file, bar) {
            Ok(()) => break,
            Err(error) if index + 1 == addresses.len() => {
                if part.bytes == 0 {
                    let _ = fs::remove_file(&part.path);
                }
                return Err(error);
            }
            Err(error) => bar.suspend(|| output::message(&format!("warning: {error}; trying another address"))),
        }
    }
    part.finish(&path)?;
    Ok(State::New)
}

/// The SHA-256 of a file, in hexadecimal digits.
pub fn digest(path: &Path) -> Result<String> {
    let failed = |source| Error::io("read", path, source);
    let mut file = fs::File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    read_into(&mut hash, &mut file).map_err(failed)?;
    Ok(hexadecimal(hash))
}

/// Hashes what is left of a file: how many bytes that is.
fn read_into(hash: &mut Sha256, file: &mut fs::File) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 16];
    let mut n_bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(n_bytes),
            n => {
                hash.update(&buffer[..n]);
                n_bytes += n as u64;
            }
        }
    }
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As much of a file as there is so far.
struct Part {
    path: PathBuf,
    file: fs::File,
    hash: Sha256,
    bytes: u64,
}

impl Part {
    /// What was left at `path`, or nothing. No other process may fill it at the same time.
    fn open(path: PathBuf) -> Result<Self> {
        let failed = |source| Error::io("write", &path, source);
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        // Not every file system knows locks.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            bail!("{} is being downloaded by another program; wait until that ends", path.display());
        }
        let mut hash = Sha256::new();
        let bytes = read_into(&mut hash, &mut file).map_err(failed)?;
        Ok(Self { path, file, hash, bytes })
    }

    fn clear(&mut self) -> Result<()> {
        let cleared = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        cleared.map_err(|source| Error::io("write", &self.path, source))?;
        (self.hash, self.bytes) = (Sha256::new(), 0);
        Ok(())
    }

    /// Fills it from `url` until it is the whole file, and the right one.
    fn fill(&mut self, agent: &Agent, url: &str, file: &File, bar: &ProgressBar) -> Result<()> {
        let mut is_from_here = self.bytes == 0;
        for _ in 0..MAX_REQUESTS {
            let before = self.bytes;
            if before < file.bytes
                && let Err(problem) = self.request(agent, url, file, bar)
            {
                match problem {
                    Problem::Interrupted(_) if self.bytes > before => continue,
                    Problem::Interrupted(error) => bail!(
                        "{url}: the connection ended after {} of {} ({error}); run again to go on from there",
                        DecimalBytes(self.bytes),
                        DecimalBytes(file.bytes)
                    ),
                    Problem::Other(error) => return Err(error),
                }
            }
            let found = hexadecimal(self.hash.clone());
            if self.bytes == file.bytes && found == file.sha256 {
                return Ok(());
            }
            self.clear()?;
            // What an earlier run left may have been of another file.
            if is_from_here {
                bail!(
                    "{url} is not the file it should be: its SHA-256 is {found}, not {}; nothing of it is kept",
                    file.sha256
                );
            }
            is_from_here = true;
        }
        bail!("{url}: the connection ended {MAX_REQUESTS} times; run again to go on from there")
    }

    /// One request for what is still missing.
    fn request(&mut self, agent: &Agent, url: &str, file: &File, bar: &ProgressBar) -> Result<(), Problem> {
        let mut request = agent.get(url);
        if self.bytes > 0 {
            request = request.header("Range", format!("bytes={}-", self.bytes));
        }
        let response = request.call().map_err(|error| {
            let advice = "check the connection, or name another address of the same files with --mirror";
            anyhow!("cannot reach {url} ({error}); {advice}")
        })?;
        let status = response.status();
        let begins = match status {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => first_byte(response.headers()).unwrap_or(u64::MAX),
            // There is nothing after what is here, so that is too long.
            StatusCode::RANGE_NOT_SATISFIABLE if self.bytes > 0 => {
                self.clear()?;
                return self.request(agent, url, file, bar);
            }
            _ => {
                let advice = "another address of the same files can be named with --mirror";
                return Err(anyhow!("{url}: the server answers {status}; {advice}").into());
            }
        };
        if begins == 0 {
            // The whole file, whatever was asked for.
            self.clear()?;
        } else if begins != self.bytes {
            return Err(anyhow!("{url}: the server sends another part of the file than it was asked for").into());
        }
        let all = response.body().content_length().map(|bytes| self.bytes + bytes);
        if let Some(all) = all.filter(|&all| all != file.bytes) {
            let problem = format!("it has {all} bytes, not {}; nothing of it is kept", file.bytes);
            self.clear()?;
            return Err(anyhow!("{url} is not the file it should be: {problem}").into());
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            bar.set_position(self.bytes);
            let n = match body.read(&mut buffer) {
                Ok(0) if self.bytes < file.bytes => return Err(Problem::Interrupted(anyhow!("it is not whole"))),
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Problem::Interrupted(error.into())),
            };
            if self.bytes + n as u64 > file.bytes {
                self.clear()?;
                let problem = format!("it goes on after {} bytes; nothing of it is kept", file.bytes);
                return Err(anyhow!("{url} is not the file it should be: {problem}").into());
            }
            let written = self.file.write_all(&buffer[..n]);
            written.map_err(|source| anyhow::Error::from(Error::io("write", &self.path, source)))?;
            self.hash.update(&buffer[..n]);
            self.bytes += n as u64;
        }
    }

    /// Gives the file its name.
    fn finish(self, path: &Path) -> Result<()> {
        let Self { path: part, file, .. } = self;
        let synced = file.sync_all();
        drop(file);
        synced.and_then(|()| fs::rename(part, path)).map_err(|source| Error::io("write", path, source))?;
        Ok(())
    }
}

/// Where what is sent begins: `bytes 5-9/10`.
fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get("Content-Range")?.to_str().ok()?.trim_start().strip_prefix("bytes")?;
    range.trim_start().split_once('-')?.0.parse().ok()
}

enum Problem {
    /// The server sent less than it said.
    Interrupted(anyhow::Error),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::thread;

    use super::*;

    /// A folder, the file that is to come there, and its content.
    struct Case {
        folder: PathBuf,
        file: File,
        content: Vec<u8>,
    }

    impl Case {
        fn new() -> Self {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let folder = std::env::temp_dir().join(format!("softreg-download-{}-{count}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            // More than fits in one packet or buffer.
            let content: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let mut hash = Sha256::new();
            hash.update(&content);
            let sha256 = hexadecimal(hash).leak();
            Self { folder, file: File { name: "file.gz", bytes: content.len() as u64, sha256 }, content }
        }

        fn fetch(&self, addresses: &[&str]) -> Result<State> {
            let addresses: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
            let agent = agent(Duration::from_millis(300), None);
            fetch(&agent, &self.file, &addresses, &self.folder, &ProgressBar::hidden())
        }

        #[track_caller]
        fn fails(&self, address: &str, parts: &[&str]) {
            let error = format!("{:#}", self.fetch(&[address]).unwrap_err());
            for part in parts.iter().chain(&[address]) {
                assert!(error.contains(part), "{part:?} is not in {error:?}");
            }
        }

        fn write(&self, name: &str, content: &[u8]) {
            fs::write(self.folder.join(name), content).unwrap();
        }

        /// What there is: names and content.
        fn here(&self) -> Vec<(String, Vec<u8>)> {
            let entry = |entry: io::Result<fs::DirEntry>| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
            };
            let mut here: Vec<_> = fs::read_dir(&self.folder).unwrap().map(entry).collect();
            here.sort();
            here
        }

        #[track_caller]
        fn is_done(&self) {
            assert!(self.here() == [("file.gz".to_owned(), self.content.clone())]);
        }
    }

    impl Drop for Case {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    /// What was asked for: the path, and from which byte on.
    type Asked = (String, Option<usize>);

    /// Answers requests with what `answer` writes, until the tests end: its address, and what it was asked.
    fn server(answer: impl Fn(&Asked, usize, &mut TcpStream) + Send + 'static) -> (String, Arc<Mutex<Vec<Asked>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let all = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&all);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let path = head[0].split(' ').nth(1).unwrap().to_owned();
                let range = head.iter().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    let begin = value.trim().strip_prefix("bytes=")?.strip_suffix('-')?;
                    name.eq_ignore_ascii_case("range").then(|| begin.parse().unwrap())
                });
                let asked = (path, range);
                answer(&asked, seen.lock().unwrap().len(), &mut stream);
                seen.lock().unwrap().push(asked);
            }
        });
        (address, all)
    }

    /// A client that has what it wants may have gone.
    fn send(stream: &mut TcpStream, head: &str, body: &[u8]) {
        let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
        let _ = stream.write_all(body);
    }

    fn whole(stream: &mut TcpStream, content: &[u8]) {
        send(stream, &format!("200 OK\r\nContent-Length: {}", content.len()), content);
    }

    /// As servers that know ranges; of what is asked for, `limit` bytes come.
    fn ranged(stream: &mut TcpStream, content: &[u8], begin: Option<usize>, limit: usize) {
        let body = &content[begin.unwrap_or(0)..];
        let (length, end) = (body.len(), content.len() - 1);
        let body = &body[..limit.min(length)];
        match begin {
            None => send(stream, &format!("200 OK\r\nContent-Length: {length}"), body),
            Some(begin) => {
                let range = format!("Content-Range: bytes {begin}-{end}/{}", content.len());
                send(stream, &format!("206 Partial Content\r\n{range}\r\nContent-Length: {length}"), body);
            }
        }
    }

    #[test]
    fn a_file_comes_whole_and_is_not_asked_for_again() {
        let case = Case::new();
        let content = case.content.clone();
        let (address, asked) = server(move |_, _, stream| whole(stream, &content));
        assert_eq!(case.fetch(&[&address]).unwrap(), State::New);
        case.is_done();
        assert_eq!(case.fetch(&[&address]).unwrap(), State::Old);
        assert_eq!(*asked.lock().unwrap(), [("/file.gz".to_owned(), None)]);
        // One byte is enough to know a damaged file.
        let mut damaged = case.content.clone();
        damaged[100_000] ^= 1;
        case.write("file.gz", &damaged);
        assert_eq!(case.fetch(&[&address]).unwrap(), State::New);
        case.is_done();
    }

    #[test]
    fn a_part_is_gone_on_from() {
        for knows_ranges in [true, false] {
            let case = Case::new();
            case.write("file.gz.part", &case.content[..70_000]);
            let content = case.content.clone();
            let (address, asked) = server(move |asked, _, stream| match knows_ranges {
                true => ranged(stream, &content, asked.1, usize::MAX),
                false => whole(stream, &content),
            });
            assert_eq!(case.fetch(&[&address]).unwrap(), State::New);
            case.is_done();
            assert_eq!(*asked.lock().unwrap(), [("/file.gz".to_owned(), Some(70_000))]);
        }
    }

    #[test]
    fn a_part_of_something_else_is_thrown_away() {
        let wrong = |length: usize| vec![7; length];
        for part in [wrong(70_000), wrong(200_000), wrong(300_000)] {
            let case = Case::new();
            case.write("file.gz.part", &part);
            let content = case.content.clone();
            let (address, _) = server(move |asked, _, stream| ranged(stream, &content, asked.1, usize::MAX));
            assert_eq!(case.fetch(&[&address]).unwrap(), State::New);
            case.is_done();
        }
        // A server that has nothing to go on with: its file is shorter, or another part of it comes.
        for head in ["416 Range Not Satisfiable\r\nContent-Length: 0", "200 OK\r\nContent-Length: 200000"] {
            let case = Case::new();
            case.write("file.gz.part", &wrong(70_000));
            let content = case.content.clone();
            let (address, _) = server(move |asked, _, stream| match asked.1 {
                Some(_) => send(stream, head, if head.starts_with('2') { &content } else { &[] }),
                None => whole(stream, &content),
            });
            assert_eq!(case.fetch(&[&address]).unwrap(), State::New);
            case.is_done();
        }
        let case = Case::new();
        case.write("file.gz.part", &case.content[..70_000]);
        let content = case.content.clone();
        let (address, _) = server(move |_, _, stream| ranged(stream, &content, Some(60_000), usize::MAX));
        case.fails(&address, &["another part"]);
    }

    #[test]
    fn what_has_another_checksum_is_not_kept() {
        let case = Case::new();
        let mut content = case.content.clone();
        content[199_999] ^= 1;
        let (address, _) = server(move |_, _, stream| whole(stream, &content));
        case.fails(&address, &["SHA-256", case.file.sha256, "nothing of it is kept"]);
        assert_eq!(case.here(), []);
    }

    #[test]
    fn what_has_another_length_is_not_kept() {
        let case = Case::new();
        for length in [199_999, 200_001] {
            let mut content = case.content.clone();
            content.resize(length, 0);
            let (address, _) = server(move |_, _, stream| whole(stream, &content));
            case.fails(&address, &[&format!("it has {length} bytes, not 200000")]);
            assert_eq!(case.here(), []);
        }
        // The length is not said.
        let longer = [&case.content[..], b"more"].concat();
        let (address, _) = server(move |_, _, stream| send(stream, "200 OK", &longer));
        case.fails(&address, &["it goes on after 200000 bytes"]);
        assert_eq!(case.here(), []);
    }

    #[test]
    fn a_connection_that_ends_early_is_gone_on_with() {
        let case = Case::new();
        let content = case.content.clone();
        let (address, asked) = server(move |asked, _, stream| ranged(stream, &content, asked.1, 80_000));
        assert_eq!(case.fetch(&[&address]).unwrap(), State::New);
        case.is_done();
        let ranges: Vec<Option<usize>> = asked.lock().unwrap().iter().map(|(_, range)| *range).collect();
        assert_eq!(ranges, [None, Some(80_000), Some(160_000)]);

        // The rest does not come, this time.
        let case = Case::new();
        let content = case.content.clone();
        let (address, _) = server(move |asked, n, stream| {
            ranged(stream, &content, asked.1, [80_000, 0].get(n).copied().unwrap_or(usize::MAX));
        });
        case.fails(&address, &["ended after 80.00 kB of 200.00 kB", "run again"]);
        assert!(case.here() == [("file.gz.part".to_owned(), case.content[..80_000].to_vec())]);
        assert_eq!(case.fetch(&[&address]).unwrap(), State::New);
        case.is_done();
    }

    #[test]
    fn a_server_that_falls_silent_is_asked_again() {
        let case = Case::new();
        let content = case.content.clone();
        let silent = Mutex::new(Vec::new());
        let (address, asked) = server(move |asked, n, stream| {
            if n == 0 {
                ranged(stream, &content, asked.1, 90_000);
                silent.lock().unwrap().push(stream.try_clone().unwrap());
            } else {
                ranged(stream, &content, asked.1, usize::MAX);
            }
        });
        assert_eq!(case.fetch(&[&address]).unwrap(), State::New);
        case.is_done();
        assert_eq!(asked.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_server_without_the_file_is_named_and_another_is_tried() {
        let case = Case::new();
        let (without, _) = server(|_, _, stream| send(stream, "404 Not Found\r\nContent-Length: 4", b"gone"));
        case.fails(&without, &["/file.gz", "404", "--mirror"]);
        assert_eq!(case.here(), []);
        let content = case.content.clone();
        let (with, _) = server(move |asked, _, stream| match &*asked.0 {
            "/new/file.gz" => whole(stream, &content),
            _ => send(stream, "302 Found\r\nLocation: /new/file.gz\r\nContent-Length: 0", b""),
        });
        assert_eq!(case.fetch(&[&without, &with]).unwrap(), State::New);
        case.is_done();
    }

    #[test]
    fn a_server_that_cannot_be_reached_is_named() {
        let case = Case::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        case.fails(&address, &["cannot reach", "/file.gz", "--mirror"]);
        assert_eq!(case.here(), []);
        let (circle, _) = server(|_, _, stream| send(stream, "302 Found\r\nLocation: /\r\nContent-Length: 0", b""));
        case.fails(&circle, &["cannot reach", "redirect"]);
    }

    #[test]
    fn two_do_not_download_one_file() {
        let case = Case::new();
        let content = case.content.clone();
        let (address, asked) = server(move |_, _, stream| whole(stream, &content));
        let other = Part::open(case.folder.join("file.gz.part")).unwrap();
        let error = case.fetch(&[&address]).unwrap_err().to_string();
        assert!(error.contains("another program"), "{error}");
        assert!(asked.lock().unwrap().is_empty());
        drop(other);
        assert_eq!(case.fetch(&[&address]).unwrap(), State::New);
        case.is_done();
    }
}
