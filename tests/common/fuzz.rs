//! What each parser is held to, whatever the bytes: no panic, and no more memory at a time than the size of the file allows. The
//! test of the corpus and the fuzzers (`fuzz/`) share it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use softreg::data::{Categorical, Source, inspect, read, read_numbers};
use softreg::{Model, Result};

/// Bytes that are allocated.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// The most that there were since this was set.
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, watched.
pub struct Watched;

fn add(size: usize) {
    let live = LIVE.fetch_add(size, Ordering::Relaxed) + size;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as for the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as for the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // For a moment there may be both.
        add(size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What a packed file may unpack to, as the readings below say.
const MAX_UNPACKED: usize = 1 << 20;

/// Bytes that a reading may have allocated at a time beyond those of before: buffers, and a multiple of what the file has.
fn most(size: usize, is_packed: bool) -> usize {
    (4 << 20) + 256 * (size + if is_packed { MAX_UNPACKED } else { 0 })
}

/// The parsers.
pub const TARGETS: [&str; 13] = [
    "csv",
    "svmlight",
    "names",
    "idx",
    "npy",
    "npz",
    "safetensors",
    "parquet",
    "arrow",
    "gzip",
    "zstandard",
    "model",
    "checkpoint",
];

/// One way to read a file.
enum Way {
    /// All that a source says.
    Read(Source),
    Inspect(Source),
    Numbers,
    Model,
    Checkpoint,
}

/// What the files of a target are read as. Columns and arrays that have a role are called `y`, `w`, `k` (text) and `x`.
fn ways(target: &str, features: &Path) -> Vec<Way> {
    let name = |name: &str| Some(name.to_owned());
    let names = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
    let plain = Source { max_unpacked: Some(MAX_UNPACKED as u64), ..Source::default() };
    let labelled = Source { label_column: name("y"), ..plain.clone() };
    let weighted = Source { weight_column: name("w"), ..labelled.clone() };
    // The file has labels or weights for features that are in another one.
    let labels = Source { features: features.to_owned(), labels: Some(PathBuf::new()), ..plain.clone() };
    let weights = Source { features: features.to_owned(), weights: Some(PathBuf::new()), ..plain.clone() };
    let classes = Source { features: features.to_owned(), classes: Some(PathBuf::new()), ..plain.clone() };
    let arrays = |more: Vec<Way>| {
        let ways = [Way::Read(plain.clone()), Way::Read(labels.clone()), Way::Read(weights.clone())];
        ways.into_iter().chain(more).collect()
    };
    match target {
        "csv" => vec![
            Way::Read(Source { categorical: Categorical::Auto, ..labelled.clone() }),
            Way::Read(Source { categorical: Categorical::Auto, ..weighted.clone() }),
            Way::Read(plain.clone()),
            Way::Read(Source {
                feature_names: names(&["x", "k=a", "k=b"]),
                ignore_unknown_categories: true,
                ..labelled.clone()
            }),
            Way::Read(Source {
                categorical: Categorical::Columns(vec!["k".to_owned()]),
                feature_columns: names(&["x", "k"]),
                ..labelled.clone()
            }),
            Way::Inspect(labelled),
        ],
        "svmlight" => vec![
            Way::Read(plain.clone()),
            Way::Read(Source { zero_based: Some(true), n_features: Some(100), ..plain.clone() }),
            Way::Inspect(plain),
        ],
        "names" => vec![Way::Read(labels), Way::Read(weights), Way::Read(classes)],
        // Small memory, so that features stay in their file.
        "npy" => {
            let stored = Source { memory: Some(16), ..plain.clone() };
            arrays(vec![Way::Read(stored), Way::Inspect(plain.clone()), Way::Numbers])
        }
        "idx" => arrays(vec![Way::Inspect(plain.clone())]),
        "npz" | "safetensors" => {
            let named = Source { feature_columns: names(&["x"]), ..weighted.clone() };
            arrays(vec![Way::Read(named), Way::Inspect(plain.clone())])
        }
        "parquet" | "arrow" => {
            let lists = Source { feature_columns: names(&["x"]), ..labelled.clone() };
            let element = Source { feature_names: names(&["x[1]", "x[0]"]), ..labelled.clone() };
            let first = Way::Read(labelled);
            let more = [weighted, lists, element].map(Way::Read).into_iter();
            let more = more.chain([Way::Inspect(plain.clone())]).collect();
            [first].into_iter().chain(arrays(more)).collect()
        }
        "gzip" | "zstandard" => vec![Way::Read(labelled), Way::Read(plain), Way::Read(labels), Way::Read(weights)],
        "model" => vec![Way::Model],
        "checkpoint" => vec![Way::Checkpoint],
        other => panic!("there is no parser {other}"),
    }
}

/// What came of a file.
pub struct Found {
    /// What it is in numbers in each way in which it is read, or the error that it is. What `inspect` says is none of them.
    pub results: Vec<Result<usize, String>>,
    /// The most bytes that were allocated at a time.
    pub peak: usize,
}

impl Found {
    /// The first error, if the file is good for nothing.
    #[allow(dead_code, reason = "the fuzzers have no use for it")]
    pub fn refusal(&self) -> Option<&str> {
        let errors: Option<Vec<&String>> = self.results.iter().map(|result| result.as_ref().err()).collect();
        errors.and_then(|errors| errors.first().map(|error| error.as_str()))
    }
}

/// Reads files with the bytes that it is given.
pub struct Reader {
    folder: PathBuf,
    features: PathBuf,
}

impl Reader {
    /// One that keeps its files in a folder of this name.
    pub fn new(name: &str) -> Self {
        // In memory, where that can be had.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = folder.join(format!("softreg-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let features = folder.join("features");
        std::fs::write(&features, [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 1, 5, 6]).unwrap();
        Self { folder, features }
    }

    /// Reads a file with these bytes, called `name`, in each way that there is for the target.
    ///
    /// # Panics
    /// If it takes too much memory, or the message is no line that a person can read.
    pub fn read(&self, target: &str, name: &str, bytes: &[u8]) -> Found {
        self.read_ways(target, name, bytes, ways(target, &self.features))
    }

    /// The same in one way, for a file that has other names than those.
    #[allow(dead_code, reason = "the fuzzers have no use for it")]
    pub fn read_source(&self, target: &str, name: &str, bytes: &[u8], source: Source) -> Found {
        self.read_ways(target, name, bytes, vec![Way::Read(source)])
    }

    fn read_ways(&self, target: &str, name: &str, bytes: &[u8], ways: Vec<Way>) -> Found {
        let path = self.folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        let is_packed = bytes.starts_with(&[0x1f, 0x8b]) || bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
        let most = most(bytes.len(), is_packed || matches!(target, "npz" | "parquet" | "arrow"));
        let mut found = Found { results: Vec::new(), peak: 0 };
        for (number, way) in ways.into_iter().enumerate() {
            let is_inspect = matches!(way, Way::Inspect(_));
            let before = LIVE.load(Ordering::Relaxed);
            assert!(before > 0, "allocations are not seen");
            PEAK.store(before, Ordering::Relaxed);
            let result = way.read(&path, bytes);
            let taken = PEAK.load(Ordering::Relaxed).saturating_sub(before);
            found.peak = found.peak.max(taken);
            assert!(taken <= most, "{taken} bytes at a time in way {number} for a file of {}", bytes.len());
            let folder = format!("{}/", self.folder.display());
            if let Err(message) = &result {
                let is_short = message.chars().count() < 2000 && !message.contains(char::is_control);
                assert!(is_short, "a message that nobody can read: {message}");
            }
            if !is_inspect {
                found.results.push(result.map_err(|error| error.replace(&folder, "")));
            }
        }
        std::fs::remove_file(&path).unwrap();
        found
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Way {
    /// What the file is, in numbers, or the error that it is.
    fn read(self, path: &Path, bytes: &[u8]) -> Result<usize, String> {
        let in_file = |source: Source| {
            let here = |other: Option<PathBuf>| other.map(|_| path.to_owned());
            let (labels, weights, classes) = (here(source.labels), here(source.weights), here(source.classes));
            let features = match labels.is_some() || weights.is_some() || classes.is_some() {
                true => source.features.clone(),
                false => path.to_owned(),
            };
            Source { features, labels, weights, classes, ..source }
        };
        let read = |source| {
            let table = read(&in_file(source))?;
            let n_samples = table.features.n_samples();
            // Of features that stayed in their file nothing has been read.
            table.features.select(&[0, n_samples as u32 - 1])?;
            if table.labels.is_some() {
                table.into_dataset()?;
            }
            Ok(n_samples)
        };
        let result = match self {
            Self::Read(source) => read(source),
            Self::Inspect(source) => inspect(&in_file(source)).map(|found| found.n_samples),
            Self::Numbers => read_numbers(path).map(|numbers| numbers.len()),
            Self::Model => Model::load(path).and_then(|model| {
                let d = model.n_features();
                if d < 1000 {
                    model.predict(&softreg::Features::new(vec![0f32; 2 * d], 2, d)?)?;
                }
                Ok(d)
            }),
            Self::Checkpoint => return softreg::checkpoint::examine(bytes, 2, 3),
        };
        result.map_err(|error: softreg::Error| error.to_string())
    }
}
