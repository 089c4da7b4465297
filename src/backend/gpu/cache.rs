//! What is kept of a device between programs, in a folder: compiled kernels, that it passed its self-check, and the
//! choices of tuning. All of it can be lost, and is then made anew.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use pollster::block_on;
use serde_json::{Map, Value};

use super::kernel::Variant;
use crate::write::write_atomically;

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
    keeps_notes: bool,
}

fn read_notes(path: &Path) -> Map<String, Value> {
    let text = fs::read(path.with_extension("json")).ok();
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Compiled kernels as they stand in their file: behind their hash, which tells whether they are still as they were written.
fn with_hash(data: &[u8]) -> Vec<u8> {
    [hash(&data).as_bytes(), data].concat()
}

fn without_hash(content: &[u8]) -> Option<&[u8]> {
    let (found, data) = content.split_at_checked(16)?;
    (found == hash(&data).as_bytes()).then_some(data)
}

fn open_pipelines(path: &Path, device: &wgpu::Device) -> Option<wgpu::PipelineCache> {
    let content = fs::read(path.with_extension("pipelines")).unwrap_or_default();
    let scopes = [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal]
        .map(|filter| device.push_error_scope(filter));
    let descriptor = wgpu::PipelineCacheDescriptor {
        label: Some("softreg"),
        data: without_hash(&content),
        // Data of another driver or version is left out.
        fallback: true,
    };
    // SAFETY: files of this name are written by `save` alone, from what such a cache gave.
    let cache = unsafe { device.create_pipeline_cache(&descriptor) };
    let errors = scopes.into_iter().rev().filter_map(|scope| block_on(scope.pop())).count();
    (errors == 0).then_some(cache)
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
                keeps_notes: false,
            };
        };
        let key = hash(&(format!("{adapter:?}"), env!("CARGO_PKG_VERSION"), format!("{:?}", Variant::all())));
        let name: String = adapter.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let path = folder.join(format!("{name}-{key}"));
        let has_pipelines = device.features().contains(wgpu::Features::PIPELINE_CACHE);
        Self {
            pipelines: if has_pipelines { open_pipelines(&path, device) } else { None },
            has_new_pipelines: AtomicBool::new(false),
            notes: Mutex::new(read_notes(&path)),
            // Without a driver's version a note would outlive the driver.
            keeps_notes: !(adapter.driver.is_empty() && adapter.driver_info.is_empty()),
            path: Some(path),
        }
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
        notes.insert(key.to_owned(), value.clone());
        if let Some(path) = self.path.as_ref().filter(|_| self.keeps_notes) {
            // Another program may have noted something meanwhile.
            let mut kept = read_notes(path);
            kept.insert(key.to_owned(), value);
            write(&path.with_extension("json"), Value::Object(kept).to_string().as_bytes());
        }
    }

    /// Keeps the compiled kernels, if there are new ones.
    pub(super) fn save(&self) {
        let Some(path) = self.path.as_ref().filter(|_| self.has_new_pipelines.swap(false, Ordering::Relaxed)) else {
            return;
        };
        if let Some(data) = self.pipelines.as_ref().and_then(wgpu::PipelineCache::get_data) {
            let path = path.with_extension("pipelines");
            let content = with_hash(&data);
            if fs::read(&path).is_ok_and(|kept| kept == content) {
                return;
            }
            write(&path, &content);
        }
    }
}

/// A folder that cannot be written costs time in the next program, no more.
fn write(path: &Path, content: &[u8]) {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    if let Err(error) = made {
        log::info!("cannot write {}: {error}", path.display());
    } else if let Err(error) = write_atomically(path, |out| out.write_all(content)) {
        log::info!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::{with_hash, without_hash};

    #[test]
    fn damaged_kernels_are_noticed() {
        let content = with_hash(b"compiled kernels");
        assert_eq!(without_hash(&content), Some(&b"compiled kernels"[..]));
        assert_eq!(without_hash(&content[..content.len() - 1]), None);
        for at in 0..content.len() {
            let mut damaged = content.clone();
            damaged[at] ^= 1;
            assert_eq!(without_hash(&damaged), None, "{at}");
        }
        assert_eq!(without_hash(b"short"), None);
    }
}
