//! Files that are cut off, damaged, or say that they have more than they do: an error, never a panic, and never more memory
//! than a file of that size can fill.
#![cfg(feature = "files")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use softreg::data::{Source, Table, read};
use softreg::{Error, Result};

/// The largest allocation since it was set to 0.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

/// One file is read at a time.
static TURN: Mutex<()> = Mutex::new(());

struct Watched;

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: as for the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as for the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// What a file of `size` bytes may be unpacked to.
fn most(size: usize) -> usize {
    1000 * size + (64 << 20)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats")
}

/// Reads a file with this content, and sees how much memory it takes at once.
fn read_bytes(bytes: &[u8], source: &Source) -> Result<Table> {
    let path = std::env::temp_dir().join(format!("softreg-damaged-{}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    LARGEST.store(0, Ordering::Relaxed);
    let table = read(&Source { features: path.clone(), ..source.clone() });
    let largest = LARGEST.load(Ordering::Relaxed);
    std::fs::remove_file(&path).unwrap();
    assert!(largest > 0, "allocations are not seen");
    assert!(largest <= most(bytes.len()), "{largest} bytes at once for a file of {}", bytes.len());
    table
}

/// The binary files of tests/formats that this build reads, with the columns that are asked for.
fn files() -> Vec<(PathBuf, Source)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_arrow = matches!(&*extension, "parquet" | "arrow" | "arrows");
        if is_arrow && !cfg!(feature = "arrow") || !is_arrow && !matches!(&*extension, "npz" | "safetensors") {
            continue;
        }
        let column = |name: &str| Some(name.to_owned());
        let mut source = Source::default();
        match &*name {
            _ if !is_arrow => {}
            "fixed" | "integers" => source.label_column = column("y"),
            "embedding" | "embedding_lz4" => {
                source.label_column = column("label");
                source.feature_columns = Some(vec!["embedding".to_owned()]);
            }
            _ => (source.label_column, source.weight_column) = (column("kind"), column("w")),
        }
        if name == "several" {
            source.feature_columns = Some(vec!["x_train".to_owned()]);
        }
        files.push((path, source));
    }
    assert!(files.len() >= if cfg!(feature = "arrow") { 20 } else { 10 });
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    files
}

#[test]
fn every_cut_and_every_flipped_byte_is_no_panic() {
    let _turn = TURN.lock();
    // What the crates of Apache Arrow panic at becomes an error, but would fill the output.
    let hook = std::panic::take_hook();
    let mut findings = Vec::new();
    for (path, source) in files() {
        std::panic::set_hook(Box::new(|_| {}));
        let whole = std::fs::read(&path).unwrap();
        let is_stream = path.extension().is_some_and(|extension| extension == "arrows");
        let sweep = std::panic::catch_unwind(|| {
            let n_samples = read_bytes(&whole, &source).unwrap().features.n_samples();
            for length in 0..whole.len() {
                match read_bytes(&whole[..length], &source) {
                    Err(_) => {}
                    // A stream may end after any message.
                    Ok(table) if is_stream && table.features.n_samples() <= n_samples => {}
                    Ok(_) => panic!("{length} bytes are read as if they were whole"),
                }
            }
            for index in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[index] ^= [0x01, 0x80, 0xFF, 0x10][index % 4];
                let _ = read_bytes(&bytes, &source);
            }
        });
        if let Err(panic) = sweep {
            let message = panic.downcast_ref::<String>().cloned();
            findings.push(format!("{}: {}", path.display(), message.unwrap_or_default()));
        }
    }
    std::panic::set_hook(hook);
    assert!(findings.is_empty(), "{findings:#?}");
}

/// An error that tells what is wrong, whatever the size that is claimed.
fn claim(bytes: &[u8], expected: &str) {
    match read_bytes(bytes, &Source::default()) {
        Err(Error::Malformed { problem, .. }) if problem.contains(expected) => {}
        other => panic!("{expected}: {other:?}"),
    }
}

#[test]
fn a_small_file_that_claims_to_be_huge_takes_no_memory() {
    let _turn = TURN.lock();
    let npy = |shape: &str| {
        let header = format!("{:117}\n", format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"));
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat()
    };
    claim(&npy("(1152921504606846976, 2)"), "values that its header promises");
    claim(&npy("(1152921504606846976, 1024)"), "is too large");
    let safetensors = |length: u64, header: &str| [&length.to_le_bytes(), header.as_bytes(), &[0; 8]].concat();
    let header = r#"{"x":{"dtype":"F32","shape":[72057594037927936,1],"data_offsets":[0,288230376151711744]}}"#;
    claim(&safetensors(header.len() as u64, header), "its header promises");
    claim(&safetensors(99_999_999, header), "its header says that it has 99999999 bytes");
    let header = r#"{"x":{"dtype":"F32","shape":[1152921504606846976,64],"data_offsets":[0,8]}}"#;
    claim(&safetensors(header.len() as u64, header), "header cannot be understood");
}

/// A zip archive of one packed array, whose directory says other sizes than there are.
#[test]
fn an_archive_that_says_that_it_unpacks_to_more_is_an_error() {
    let _turn = TURN.lock();
    let whole = std::fs::read(folder().join("csr.npz")).unwrap();
    let directory = whole.windows(4).rposition(|bytes| bytes == b"PK\x01\x02").unwrap();
    let mut bytes = whole;
    // The size when unpacked, of the last entry in the directory.
    bytes[directory + 24..directory + 28].copy_from_slice(&0xF000_0000u32.to_le_bytes());
    claim(&bytes, "more than 1000 times as many");
}

#[cfg(feature = "arrow")]
#[test]
fn columns_that_unpack_to_more_than_any_data_are_an_error() {
    let _turn = TURN.lock();
    // Arrow: the length that is said before the packed values.
    let mut bytes = std::fs::read(folder().join("dictionary_zstd.arrow")).unwrap();
    let packed = bytes.windows(4).position(|bytes| bytes == [0x28, 0xB5, 0x2F, 0xFD]).unwrap();
    bytes[packed - 8..packed].copy_from_slice(&(1u64 << 40).to_le_bytes());
    claim(&bytes, "more than 1000 times as many");
    // Parquet: one number, so often that it fills the memory. A tenth as often it is read.
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
        if is_read {
            assert_eq!(read_bytes(&bytes, &Source::default()).unwrap().features.n_samples(), n);
        } else {
            claim(&bytes, "unpacks to more than 1000 times its size");
        }
    }
}
