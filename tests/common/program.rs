//! Runs the real program in a folder of its own.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

/// A new folder, removed in the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("softreg-test-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// The names of the files in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// `softreg ARGUMENTS` in this folder.
    pub fn softreg<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Run {
        let output = self.command().args(arguments).output().unwrap();
        Run {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_softreg"));
        command.current_dir(&self.0).stdin(Stdio::null()).env_remove("RUST_LOG").env("SOFTREG_CACHE", "");
        command
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a run left.
#[derive(Debug)]
pub struct Run {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// The run, which must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, Some(0), "{self:#?}");
        self
    }

    /// Standard output as one JSON object.
    #[track_caller]
    pub fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"));
        assert!(value.is_object(), "{value}");
        value
    }
}

/// A gray 4 × 4 image of each of `classes`, told apart by which pixels are bright, as IDX images and labels.
pub fn idx_images(classes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let n = (classes.len() as u32).to_be_bytes();
    let images = [&[0, 0, 8, 3][..], &n, &[0, 0, 0, 4], &[0, 0, 0, 4]].concat();
    let pixels = classes.iter().enumerate().flat_map(|(i, &class)| {
        (0..16u8).map(move |pixel| if pixel % 4 == class % 4 { 200 + (i % 50) as u8 } else { (i % 7) as u8 })
    });
    let labels = [&[0, 0, 8, 1][..], &n, classes].concat();
    (images.into_iter().chain(pixels).collect(), labels)
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// CSV with columns x, y and `species`: points around the corner of a triangle that the species names.
pub fn points(n: usize) -> String {
    let mut csv = String::from("x,species,y\n");
    for i in 0..n {
        let (species, x, y) = [("Ärmel", 0.0, 0.0), ("long, comma", 4.0, 0.0), ("七", 0.0, 4.0)][i % 3];
        let noise = |k: usize| ((i * k) % 17) as f64 / 10.0 - 0.8;
        csv += &format!("{:.2},{},{:.2}\n", x + noise(5), quoted(species), y + noise(7));
    }
    csv
}

fn quoted(field: &str) -> String {
    if field.contains(',') { format!("\"{field}\"") } else { field.to_owned() }
}

/// A path as an argument.
pub fn argument(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
