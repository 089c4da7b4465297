//! What is kept of a device between programs, in a folder: compiled kernels, that it passed its self-check, and the
//! choices of tuning. All of it can be lost, and is then made anew.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};

use super::kernel::Variant;
use crate::write::write_atomically;

/// Under what the hash of the compiled kernels is noted.
const PIPELINES_HASH: &str = "pipelines_hash";

fn hash(value: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

pub(super) struct Cache {
    /// Of its files, without the ending; none when nothing is kept but for this program.
    path: Option<PathBuf>,
    pipelines: Option<wgpu::PipelineCache>,
    has_new_pipelines: AtomicBool,
    notes: Mutex<Map<String, Value>>,
}

impl Cache {
    /// What `folder` has of an adapter, with this driver and these kernels. Without a folder things are kept for this
    /// program alone.
    pub(super) fn open(folder: Option<&Path>, adapter: &wgpu::AdapterInfo, device: &wgpu::Device) -> Self {
        let Some(folder) = folder else {
            return Self {
                path: None,
                pipelines: None,
                has_new_pipelines: AtomicBool::new(false),
                notes: Mutex::default(),
            };
        };
        let kernels: Vec<String> = Variant::all().iter().map(Variant::wgsl).collect();
        let key = hash(&(format!("{adapter:?}"), env!("CARGO_PKG_VERSION"), kernels));
        let name: String = adapter.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let path = folder.join(format!("{name}-{key}"));
        let notes = fs::read(path.with_extension("json")).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let notes: Map<String, Value> = notes.unwrap_or_default();
        let pipelines = device.features().contains(wgpu::Features::PIPELINE_CACHE).then(|| {
            let is_whole = |data: &Vec<u8>| notes.get(PIPELINES_HASH) == Some(&hash(data).into());
            let data = fs::read(path.with_extension("pipelines")).ok().filter(is_whole);
            let descriptor = wgpu::PipelineCacheDescriptor {
                label: Some("softreg"),
                data: data.as_deref(),
                // Data of another driver or version is left out.
                fallback: true,
            };
            // SAFETY: files of this name are written by `save` alone, from what such a cache gave; the hash tells whether
            // one is still as it was written.
            unsafe { device.create_pipeline_cache(&descriptor) }
        });
        Self { path: Some(path), pipelines, has_new_pipelines: AtomicBool::new(false), notes: Mutex::new(notes) }
    }

    /// Where to look for compiled kernels, and to leave new ones.
    pub(super) fn pipelines(&self) -> Option<&wgpu::PipelineCache> {
        self.has_new_pipelines.store(true, Ordering::Relaxed);
        self.pipelines.as_ref()
    }

    /// What was noted under `key`.
    pub(super) fn note(&self, key: &str) -> Option<Value> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Notes `value` under `key`.
    pub(super) fn set_note(&self, key: &str, value: Value) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.insert(key.to_owned(), value);
        let text = Value::Object(notes.clone()).to_string();
        self.write("json", text.as_bytes());
    }

    /// Keeps the compiled kernels, if there are new ones.
    pub(super) fn save(&self) {
        if !self.has_new_pipelines.swap(false, Ordering::Relaxed) {
            return;
        }
        if let Some(data) = self.pipelines.as_ref().and_then(wgpu::PipelineCache::get_data) {
            let hash = Value::from(hash(&data));
            if self.note(PIPELINES_HASH).as_ref() != Some(&hash) {
                self.write("pipelines", &data);
                self.set_note(PIPELINES_HASH, hash);
            }
        }
    }

    /// A folder that cannot be written costs time in the next program, no more.
    fn write(&self, extension: &str, content: &[u8]) {
        let Some(path) = &self.path else { return };
        let path = path.with_extension(extension);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        if let Err(error) = made {
            log::info!("cannot write {}: {error}", path.display());
        } else if let Err(error) = write_atomically(&path, |out| out.write_all(content)) {
            log::info!("{error}");
        }
    }
}
