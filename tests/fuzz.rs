//! Each parser with the corner cases of its format and random changes of them: an error that says what is wrong or what the file
//! holds, never a panic, and never more memory than a file of that size may take. The fuzzers of `fuzz/` go on from here.
#![cfg(feature = "files")]

#[path = "common/fuzz.rs"]
mod fuzz;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fuzz::{Reader, TARGETS, Watched};
use softreg::data::Source;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// A test's turn. It is the first thing that a test has, and so the last that it drops: the allocations of all are counted
/// together, and what another test has or drops meanwhile would count with those of a reading.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// A file, by the parser that it is for.
struct Sample {
    target: &'static str,
    name: String,
    bytes: Vec<u8>,
}

/// The parsers of this build.
fn targets() -> impl Iterator<Item = &'static str> {
    TARGETS.into_iter().filter(|target| cfg!(feature = "arrow") || !matches!(*target, "parquet" | "arrow"))
}

fn files_in(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// The corner cases.
fn corpus() -> Vec<Sample> {
    let of_target = |target: &'static str| {
        files_in(&folder("corpus").join(target)).into_iter().map(move |(name, bytes)| Sample { target, name, bytes })
    };
    let all: Vec<Sample> = targets().flat_map(of_target).collect();
    assert!(all.len() >= 300, "{}", all.len());
    all
}

/// The files of tests/formats, which the writers of their formats wrote.
fn written() -> Vec<Sample> {
    let target = |name: &str| {
        let ending = Path::new(name).extension()?.to_str()?;
        let target = match ending {
            "tsv" => "csv",
            "svm" => "svmlight",
            "txt" => "names",
            "gz" => "gzip",
            "zst" => "zstandard",
            "arrows" => "arrow",
            other => other,
        };
        targets().find(|other| *other == target)
    };
    let sample = |(name, bytes): (String, Vec<u8>)| Some(Sample { target: target(&name)?, name, bytes });
    let all: Vec<Sample> = files_in(&folder("formats")).into_iter().filter_map(sample).collect();
    assert!(all.len() >= 25, "{}", all.len());
    all
}

/// Does `check` for each sample, and fails with all that it panicked with.
fn for_each(samples: &[Sample], mut check: impl FnMut(&Reader, &Sample)) {
    // What the crates of Apache Arrow panic at becomes an error, but would fill the output.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let reader = Reader::new("fuzz-test");
    let mut findings = Vec::new();
    for sample in samples {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&reader, sample))) {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            findings.push(format!("{} as {}: {}", sample.name, sample.target, message.unwrap_or_default()));
        }
    }
    std::panic::set_hook(hook);
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn corner_cases_and_random_changes_of_them_are_no_panic_and_take_little_memory() {
    let _turn = turn();
    let mut random = Random::new();
    let samples: Vec<Sample> = corpus().into_iter().chain(written()).collect();
    let mut n_read = 0;
    for_each(&samples, |reader, sample| {
        let Sample { target, bytes, .. } = sample;
        reader.read(target, &sample.name, bytes);
        for _ in 0..60 {
            let others = samples.iter().filter(|other| other.target == *target).collect::<Vec<_>>();
            let other = others[random.below(others.len())];
            let changed = random.change(bytes, &other.bytes);
            let result = catch_unwind(AssertUnwindSafe(|| reader.read(target, "changed", &changed)));
            // The bytes are what it takes to see the fault again.
            if let Err(panic) = result {
                let message = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                panic!("{message}, seed {}: {changed:02x?}", random.seed);
            }
            n_read += 1;
        }
    });
    assert!(n_read > 20_000, "{n_read}");
}

/// SplitMix64.
struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// `SOFTREG_SEED` repeats those of an earlier run, or takes others.
    fn new() -> Self {
        let seed = std::env::var("SOFTREG_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        Self { seed, state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// One to four changes: bits, bytes, numbers of two to eight bytes, parts left out, repeated, or taken from another file.
    fn change(&mut self, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        const NUMBERS: [u64; 9] = [0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFF_FFFF, 1 << 60, u64::MAX];
        let mut bytes = bytes.to_vec();
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(16)).min(bytes.len());
            match self.below(8) {
                _ if bytes.is_empty() => bytes = other.to_vec(),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next() as u8,
                2 | 3 => {
                    let number = NUMBERS[self.below(NUMBERS.len())].to_le_bytes();
                    let number = &number[..1 << self.below(4)];
                    let n = number.len().min(bytes.len() - at);
                    bytes[at..at + n].copy_from_slice(&number[..n]);
                }
                4 => drop(bytes.drain(at..end)),
                5 => {
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                6 => bytes.truncate(at),
                _ => {
                    let from = self.below(other.len());
                    let part = &other[from..(from + 32).min(other.len())];
                    bytes.splice(at..(at + part.len()).min(bytes.len()), part.iter().copied());
                }
            }
        }
        bytes
    }
}

/// The columns and arrays of a file of tests/formats.
fn source(name: &str) -> Source {
    let column = |name: &str| Some(name.to_owned());
    let mut source = Source::default();
    match name.split_once('.') {
        Some((_, "npz" | "safetensors")) => {}
        Some(("fixed" | "integers", _)) => source.label_column = column("y"),
        Some(("embedding" | "embedding_lz4", _)) => {
            source.label_column = column("label");
            source.feature_columns = Some(vec!["embedding".to_owned()]);
        }
        _ => (source.label_column, source.weight_column) = (column("kind"), column("w")),
    }
    if name == "several.npz" {
        source.feature_columns = Some(vec!["x_train".to_owned()]);
    }
    source
}

/// All that a file is cut to, each byte changed: more thorough than by chance, for files of which no byte is idle.
#[test]
fn every_cut_is_an_error_and_no_flipped_byte_is_a_panic() {
    let _turn = turn();
    let binary = |sample: &Sample| matches!(sample.target, "npz" | "safetensors" | "parquet" | "arrow");
    let samples: Vec<Sample> = written().into_iter().filter(binary).collect();
    assert!(samples.len() >= if cfg!(feature = "arrow") { 20 } else { 10 });
    for_each(&samples, |reader, Sample { target, name, bytes }| {
        let read = |bytes: &[u8]| {
            let found = reader.read_source(target, name, bytes, source(name));
            found.results.into_iter().find_map(Result::ok)
        };
        let whole = read(bytes);
        assert!(whole.is_some(), "it is no good file");
        // A stream may end after any message.
        let is_stream = name.ends_with(".arrows");
        for length in 0..bytes.len() {
            let cut = read(&bytes[..length]);
            assert!(cut.is_none() || is_stream && cut <= whole, "{length} bytes are read as if they were whole");
        }
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= [0x01, 0x80, 0xFF, 0x10][index % 4];
            read(&changed);
        }
    });
}

/// Files that become much more in memory than they are, in which next to every byte is a value or a name of its own.
#[test]
fn files_of_short_values_take_memory_by_their_size() {
    let _turn = turn();
    let n = 50_000;
    let name =
        |i: usize| [i / 1681, i / 41 % 41, i % 41].map(|digit| (b'@' + digit as u8) as char).iter().collect::<String>();
    let lines = |line: &dyn Fn(usize) -> String| (0..n).map(|i| line(i) + "\n").collect::<String>().into_bytes();
    let npy = |descr: &str, shape: &str, value: &[u8]| {
        let header = format!("{:117}\n", format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"));
        let header = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
        [header, value.repeat(n)].concat()
    };
    let samples = [
        ("csv", "numbers", [b"x\n".to_vec(), lines(&|_| "1".to_owned())].concat()),
        ("csv", "labels", [b"x,y\n".to_vec(), lines(&|i| format!("1,{}", name(i)))].concat()),
        ("csv", "categories", [b"k,y\n".to_vec(), lines(&|i| format!("{},{}", name(i % 60), i % 2))].concat()),
        ("csv", "gaps", [b"x,y\n".to_vec(), lines(&|_| ",".to_owned())].concat()),
        ("names", "names", lines(&name)),
        ("svmlight", "columns", lines(&|i| format!("1 {i}:1"))),
        ("svmlight", "labels", lines(&|i| format!("{i}"))),
        ("npy", "bytes", npy("|i1", &format!("({n}, 1)"), &[1])),
        ("npy", "names", npy("|S1", &format!("({n},)"), b"a")),
    ];
    let samples = samples.map(|(target, name, bytes)| Sample { target, name: name.to_owned(), bytes });
    for_each(&samples, |reader, Sample { target, name, bytes }| {
        let found = reader.read(target, name, bytes);
        let factor = found.peak as f64 / bytes.len() as f64;
        println!("{target}, {name}: {factor:.1} bytes for each of the file");
        // It is seen that it takes more than the file has.
        assert!(factor > 2.0, "{factor}");
    });
}

#[test]
fn small_files_that_claim_to_unpack_to_much_are_errors_that_name_the_limit() {
    let _turn = turn();
    let limit = |target: &str, bytes: &[u8]| {
        let sample = [Sample {
            target: targets().find(|other| *other == target).unwrap(),
            name: "x".to_owned(),
            bytes: bytes.to_vec(),
        }];
        for_each(&sample, |reader, Sample { target, name, bytes }| {
            let found = reader.read_source(target, name, bytes, Source::default());
            let message = found.refusal().unwrap_or_default();
            assert!(message.contains("bytes unpacked") && message.ends_with("(--max-unpacked)"), "{message}");
        });
    };
    // The size that a zip archive says of what is in it.
    let mut bytes = std::fs::read(folder("formats").join("csr.npz")).unwrap();
    let directory = bytes.windows(4).rposition(|bytes| bytes == b"PK\x01\x02").unwrap();
    bytes[directory + 24..directory + 28].copy_from_slice(&0xF000_0000u32.to_le_bytes());
    limit("npz", &bytes);
    #[cfg(feature = "arrow")]
    {
        // The length that Arrow says before packed values.
        let mut bytes = std::fs::read(folder("formats").join("dictionary_zstd.arrow")).unwrap();
        let packed = bytes.windows(4).position(|bytes| bytes == [0x28, 0xB5, 0x2F, 0xFD]).unwrap();
        bytes[packed - 8..packed].copy_from_slice(&(1u64 << 40).to_le_bytes());
        limit("arrow", &bytes);
    }
}

/// One number, so often that it fills the memory. A tenth as often it is read.
#[cfg(feature = "arrow")]
#[test]
fn a_column_of_one_number_very_often_is_limited() {
    let _turn = turn();
    let path = std::env::temp_dir().join(format!("softreg-often-{}.parquet", std::process::id()));
    let n = 30_000_000;
    for (n, is_read) in [(n / 10, true), (n, false)] {
        let values: arrow_array::ArrayRef = std::sync::Arc::new(arrow_array::Float32Array::from(vec![1.5; n]));
        let batch = arrow_array::RecordBatch::try_from_iter([("x", values)]).unwrap();
        let long = parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(n));
        let long = long.set_data_page_row_count_limit(n).build();
        let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), Some(long)).unwrap();
        writer.write(&batch).unwrap();
        let bytes = writer.into_inner().unwrap();
        assert!(bytes.len() < 20_000, "{}", bytes.len());
        std::fs::write(&path, bytes).unwrap();
        let found = softreg::data::read(&Source::new(&path));
        match found {
            Ok(table) => assert_eq!((table.features.n_samples(), is_read), (n, true)),
            Err(error) => assert!(!is_read && error.to_string().ends_with("(--max-unpacked)"), "{error}"),
        }
    }
    std::fs::remove_file(&path).unwrap();
}

/// What is good for nothing, in whatever way it is read, and what is said of it, as docs/reliability.md has it. `SOFTREG_UPDATE=1`
/// writes it there.
#[cfg(feature = "arrow")]
#[test]
fn the_documented_messages_are_those_that_bad_inputs_get() {
    let _turn = turn();
    const BEGIN: &str = "| file | message |\n|---|---|\n";
    let mut table = BEGIN.to_owned();
    let samples = corpus();
    let mut n_good = 0;
    for_each(&samples, |reader, Sample { target, name, bytes }| match reader.read(target, name, bytes).refusal() {
        Some(message) => {
            let message = message.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*");
            table += &format!("| {target}/{name} | {message} |\n");
        }
        None => n_good += 1,
    });
    assert!(n_good > 50, "{n_good}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md");
    // The documentation is no part of the package.
    let Ok(text) = std::fs::read_to_string(&page) else { return };
    let (before, documented) = text.split_at(text.find(BEGIN).expect("the table"));
    let documented = documented.split("\n\n").next().unwrap_or_default().trim_end();
    if std::env::var_os("SOFTREG_UPDATE").is_some() {
        let after = &text[before.len() + documented.len()..];
        std::fs::write(&page, format!("{before}{}{after}", table.trim_end())).unwrap();
        return;
    }
    let (mut found, mut expected) = (documented.lines(), table.trim_end().lines());
    while let (found, Some(expected)) = (found.next(), expected.next()) {
        assert_eq!(
            found,
            Some(expected),
            "SOFTREG_UPDATE=1 cargo test --features arrow --test fuzz writes the table anew"
        );
    }
    assert_eq!(found.next(), None);
}
