//! Times of single kernels by the device's own clock.

use std::time::Duration;

use wgpu::BufferUsages;

use super::Gpu;
use super::memory::Buffer;
use crate::error::Result;

/// Timestamps at the beginning and the end of compute passes.
pub(super) struct Clock<'g> {
    gpu: &'g Gpu,
    queries: wgpu::QuerySet,
    times: Buffer,
    readback: Buffer,
}

impl<'g> Clock<'g> {
    /// A clock for up to `n_passes` passes; none where the device has none.
    pub(super) fn new(gpu: &'g Gpu, n_passes: usize) -> Result<Option<Self>> {
        if !gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Ok(None);
        }
        let bytes = 2 * n_passes as u64 * 8;
        let what = "the times of the kernels";
        let queries = gpu.guarded(what, bytes, || {
            gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some(what),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * n_passes as u32,
            })
        })?;
        let times = gpu.buffer(what, bytes, BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC)?;
        Ok(Some(Self { gpu, queries, times, readback: gpu.readback(what, bytes)? }))
    }

    /// Begins a pass that is timed as number `number`.
    pub(super) fn pass<'e>(&self, encoder: &'e mut wgpu::CommandEncoder, number: u32) -> wgpu::ComputePass<'e> {
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &self.queries,
                beginning_of_pass_write_index: Some(2 * number),
                end_of_pass_write_index: Some(2 * number + 1),
            }),
        })
    }

    /// Ends a recording of `n_passes` passes.
    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder, n_passes: usize) {
        encoder.resolve_query_set(&self.queries, 0..2 * n_passes as u32, &self.times.raw, 0);
    }

    /// The times of the `n_passes` passes of the last recording.
    pub(super) fn read(&self, n_passes: usize) -> Result<Vec<Duration>> {
        let ticks: Vec<u64> = self.gpu.read(&self.times, &self.readback, 2 * n_passes)?;
        let nanoseconds = f64::from(self.gpu.queue.get_timestamp_period());
        let time = |pass: &[u64]| Duration::from_nanos((pass[1].saturating_sub(pass[0]) as f64 * nanoseconds) as u64);
        Ok(ticks.chunks_exact(2).map(time).collect())
    }
}
