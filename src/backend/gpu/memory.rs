//! Buffers on the device: made within its limits, filled, and read back.

use std::borrow::Cow;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use bytemuck::{Pod, cast_slice, pod_collect_to_vec};
use wgpu::BufferUsages;

use super::Gpu;
use super::step::{BLOCK, UNIFORM_BYTES};
use crate::backend::Parameters;
use crate::data::{Csr, Features, Stored, Values};
use crate::error::{Error, Result};

/// About so many bytes of writes go to the device at once; as many again are made ready meanwhile.
const WRITE_BYTES: usize = 32 << 20;

const COPY: &str = "a copy to the host";

/// How much of the device's memory softreg uses.
pub(super) struct Memory {
    used: Arc<AtomicU64>,
    limit: Option<u64>,
    /// Bytes written that wait on the host.
    staged: AtomicU64,
    /// The last writes that went to the device.
    sent: Mutex<Option<wgpu::SubmissionIndex>>,
}

impl Memory {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { used: Arc::default(), limit, staged: AtomicU64::new(0), sent: Mutex::default() }
    }
}

/// A buffer, which counts as used memory until it is dropped.
pub(super) struct Buffer {
    pub(super) raw: wgpu::Buffer,
    used: Arc<AtomicU64>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.used.fetch_sub(self.raw.size(), Ordering::Relaxed);
    }
}

impl Gpu {
    /// The most bytes that a kernel can see of one buffer.
    pub(super) fn max_binding(&self) -> u64 {
        let limit = self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size);
        // Kernels count values in 32 bits.
        limit.min(u32::MAX.into()) / 16 * 16
    }

    /// The most bytes of features in a chunk, and of losses between two readings.
    pub(super) fn max_chunk(&self) -> u64 {
        self.max_binding().min(self.options.max_chunk.unwrap_or(u64::MAX))
    }

    /// The most bytes of W in a shard.
    pub(super) fn max_shard(&self) -> u64 {
        self.max_binding().min(self.options.max_shard.unwrap_or(u64::MAX))
    }

    /// An error when `what`, of `bytes`, is more than a kernel can see.
    pub(super) fn check_binding(&self, what: &str, bytes: u64, advice: &'static str) -> Result<()> {
        let limit = self.max_binding();
        if bytes <= limit {
            return Ok(());
        }
        Err(Error::DeviceLimit {
            device: self.info.name.clone(),
            what: what.to_owned(),
            needed: bytes,
            limit,
            allows: "can bind at once",
            advice,
        })
    }

    /// A buffer of `bytes` for `what`.
    pub(super) fn buffer(&self, what: &str, bytes: u64, usage: BufferUsages) -> Result<Buffer> {
        // A binding has at least one element, none of which has more than 16 bytes; copies are of whole words.
        let size = bytes.max(16).next_multiple_of(4);
        let before = self.memory.used.fetch_add(size, Ordering::Relaxed);
        let made = if self.memory.limit.is_some_and(|limit| before + size > limit) {
            Err(self.out_of_memory(what, bytes))
        } else {
            let descriptor = wgpu::BufferDescriptor { label: Some(what), size, usage, mapped_at_creation: false };
            self.guarded(what, bytes, || self.device.create_buffer(&descriptor))
        };
        match made {
            Ok(raw) => Ok(Buffer { raw, used: self.memory.used.clone() }),
            Err(error) => {
                self.memory.used.fetch_sub(size, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// A buffer that kernels read and write, all zeros, and that can be filled and read back.
    pub(super) fn storage(&self, what: &str, bytes: u64) -> Result<Buffer> {
        self.buffer(what, bytes, BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC)
    }

    /// A buffer that kernels read and write, with these values.
    pub(super) fn storage_of<T: Pod>(&self, what: &str, values: &[T]) -> Result<Buffer> {
        let buffer = self.storage(what, size_of_val(values) as u64)?;
        self.write(what, &buffer, 0, values)?;
        Ok(buffer)
    }

    /// W and b, rows padded to whole blocks, which kernels can also see as a uniform buffer when they fit in one.
    pub(super) fn upload_weights(&self, parameters: &Parameters) -> Result<Buffer> {
        const WHAT: &str = "the weights";
        let values = pad_rows(&parameters.values, parameters.shape.n_outputs());
        let bytes = (size_of_val(&*values) as u64).max(UNIFORM_BYTES);
        let usage = BufferUsages::STORAGE | BufferUsages::UNIFORM | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
        let buffer = self.buffer(WHAT, bytes, usage)?;
        self.write(WHAT, &buffer, 0, &values)?;
        Ok(buffer)
    }

    /// Fills a buffer from byte `offset` on; `offset` and the size of the values in bytes are multiples of 4.
    pub(super) fn write<T: Pod>(&self, what: &str, buffer: &Buffer, offset: u64, values: &[T]) -> Result<()> {
        let mut offset = offset;
        for piece in cast_slice::<T, u8>(values).chunks(WRITE_BYTES) {
            let bytes = piece.len() as u64;
            self.guarded(what, bytes, || self.queue.write_buffer(&buffer.raw, offset, piece))?;
            if self.memory.staged.fetch_add(bytes, Ordering::Relaxed) + bytes >= WRITE_BYTES as u64 {
                self.send()?;
            }
            offset += bytes;
        }
        Ok(())
    }

    /// Has the device take what was written, and waits until it has taken what was sent before: one part is copied there
    /// while the next is made ready here. Until something is submitted, writes stay on the host.
    fn send(&self) -> Result<()> {
        let submission = self.submit("a copy to the device", |_| {})?;
        self.memory.staged.store(0, Ordering::Relaxed);
        let before = self.memory.sent.lock().unwrap_or_else(PoisonError::into_inner).replace(submission);
        before.map_or(Ok(()), |before| self.wait_for(before))
    }

    /// Waits until all that was written is on the device.
    pub(super) fn flush(&self) -> Result<()> {
        self.submit("a copy to the device", |_| {})?;
        self.wait()
    }

    /// Rows of sparse features: where each begins, and column and value of all.
    pub(super) fn upload_sparse(&self, csr: &Csr, rows: Range<usize>) -> Result<[Buffer; 2]> {
        const WHAT: &str = "the features";
        let offsets = &csr.offsets()[rows.start..=rows.end];
        let (first, last) = (offsets[0], offsets[rows.len()]);
        let range = (first - csr.offsets()[0]) as usize..(last - csr.offsets()[0]) as usize;
        let entries = self.storage(WHAT, range.len() as u64 * 8)?;
        let mut offset = 0;
        let pieces =
            csr.columns()[range.clone()].chunks(WRITE_BYTES / 8).zip(csr.values()[range].chunks(WRITE_BYTES / 8));
        for (columns, values) in pieces {
            let both: Vec<[u32; 2]> = columns.iter().zip(values).map(|(&c, value)| [c, value.to_bits()]).collect();
            self.write(WHAT, &entries, offset, &both)?;
            offset += size_of_val(&*both) as u64;
        }
        let offsets: Vec<u32> = offsets.iter().map(|offset| (offset - first) as u32).collect();
        Ok([self.storage_of("the rows of the features", &offsets)?, entries])
    }

    /// Rows of X with whole blocks of features, in the precision they have.
    pub(super) fn upload_features(&self, features: &Features, rows: Range<usize>) -> Result<Buffer> {
        let width = features.n_features();
        match features.values() {
            Values::F32(values) => self.upload_rows(values, width, rows),
            Values::F16(values) => {
                // Half precision is 16 bits to the device.
                let range = rows.start * width..rows.end * width;
                let bits: &[u16] = half::slice::HalfFloatSliceExt::reinterpret_cast(&values[range]);
                self.upload_rows(bits, width, 0..rows.len())
            }
            Values::U8(values) => self.upload_rows(values, width, rows),
            Values::Sparse(_) => Err(Csr::unsupported()),
            Values::Stored(_) => Err(Stored::unsupported()),
        }
    }

    fn upload_rows<T: Pod>(&self, values: &[T], width: usize, rows: Range<usize>) -> Result<Buffer> {
        const WHAT: &str = "the features";
        let row_bytes = width.next_multiple_of(BLOCK) * size_of::<T>();
        let buffer = self.storage(WHAT, (rows.len() * row_bytes) as u64)?;
        let rows_at_once = (WRITE_BYTES / row_bytes).max(1);
        let mut offset = 0;
        for values in values[rows.start * width..rows.end * width].chunks(rows_at_once * width) {
            let padded = pad_rows(values, width);
            self.write(WHAT, &buffer, offset, &padded)?;
            offset += size_of_val(&*padded) as u64;
        }
        Ok(buffer)
    }

    /// A buffer that the host reads from.
    pub(super) fn readback(&self, what: &str, bytes: u64) -> Result<Buffer> {
        self.buffer(what, bytes, BufferUsages::MAP_READ | BufferUsages::COPY_DST)
    }

    /// Hands the device what `record` puts into an encoder.
    pub(super) fn submit(
        &self,
        what: &str,
        record: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<wgpu::SubmissionIndex> {
        self.counts.submissions.fetch_add(1, Ordering::Relaxed);
        self.guarded(what, 0, || {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            record(&mut encoder);
            self.queue.submit([encoder.finish()])
        })
    }

    /// The first `n` values of `buffer`, by way of `readback`, after all that was submitted.
    pub(super) fn read<T: Pod>(&self, buffer: &Buffer, readback: &Buffer, n: usize) -> Result<Vec<T>> {
        let bytes = (n * size_of::<T>()) as u64;
        self.submit(COPY, |encoder| encoder.copy_buffer_to_buffer(&buffer.raw, 0, &readback.raw, 0, bytes))?;
        self.map(readback, n)
    }

    /// The first `n` values of `readback`, after all that was submitted.
    pub(super) fn map<T: Pod>(&self, readback: &Buffer, n: usize) -> Result<Vec<T>> {
        let bytes = (n * size_of::<T>()) as u64;
        let what = COPY;
        let (sender, mapped) = mpsc::channel();
        self.guarded(what, bytes, || {
            readback.raw.map_async(wgpu::MapMode::Read, ..bytes, move |result| {
                // The receiver is gone only when waiting has failed, which is then the error.
                let _ = sender.send(result);
            });
        })?;
        self.counts.readbacks.fetch_add(1, Ordering::Relaxed);
        self.wait()?;
        // Another thread that waits may have taken the answer with it, and gives it a little later.
        let mapped = mapped.recv();
        let values = self.guarded(what, bytes, || match mapped {
            Ok(Ok(())) => {
                let values = readback.raw.get_mapped_range(..bytes).map(|bytes| pod_collect_to_vec(&bytes)).ok();
                readback.raw.unmap();
                values
            }
            _ => None,
        })?;
        values.ok_or_else(|| self.fault("results cannot be read back".to_owned()))
    }

    /// Waits until the device has done all that was submitted.
    pub(super) fn wait(&self) -> Result<()> {
        self.poll(wgpu::PollType::wait_indefinitely())?;
        self.memory.staged.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until the device has done all up to a submission.
    pub(super) fn wait_for(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        self.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: None })
    }

    fn poll(&self, until: wgpu::PollType) -> Result<()> {
        #[cfg(test)]
        self.perhaps_fail("what was submitted", 0)?;
        // wgpu panics when waiting finds that the device is lost (`handle_error_fatal`), after it has told the callback.
        let polled = catch_unwind(AssertUnwindSafe(|| self.device.poll(until)));
        self.check()?;
        match polled {
            Ok(result) => result.map(drop).map_err(|error| self.fault(error.to_string())),
            Err(_) => {
                Err(Error::DeviceLost { device: self.info.name.clone(), reason: "waiting for it failed".to_owned() })
            }
        }
    }
}

/// Rows of `width` values, padded with zeros to whole blocks.
pub(super) fn pad_rows<T: Pod>(values: &[T], width: usize) -> Cow<'_, [T]> {
    let padded = width.next_multiple_of(BLOCK);
    if padded == width {
        return values.into();
    }
    let mut result = vec![T::zeroed(); values.len() / width * padded];
    for (to, from) in result.chunks_exact_mut(padded).zip(values.chunks_exact(width)) {
        to[..width].copy_from_slice(from);
    }
    result.into()
}

/// Rows of `width` values without their padding.
pub(super) fn unpad_rows<T: Pod>(values: Vec<T>, width: usize) -> Vec<T> {
    let padded = width.next_multiple_of(BLOCK);
    if padded == width {
        return values;
    }
    values.chunks_exact(padded).flat_map(|row| &row[..width]).copied().collect()
}
