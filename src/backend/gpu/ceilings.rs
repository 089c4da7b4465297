//! What a device can do at most: shaders/read_bandwidth.wgsl and shaders/fma_rate.wgsl. Benchmarks compare the kernels
//! with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wgpu::BufferUsages;

use super::Gpu;
use super::kernel::{Kernel, Variant};
use super::memory::Buffer;
use super::step::Step;
use crate::backend::{Ceilings, DeviceKind, Shape};
use crate::error::Result;

/// `THREADS` of the shaders.
const THREADS: usize = 256;
/// Bytes of a vector.
const VECTOR: u64 = 16;
/// More than caches hold, where a binding can be so large.
const READ_BYTES: u64 = 512 << 20;
/// Multiplications and additions of a round of a thread.
const FLOPS_PER_ROUND: f64 = 16.0 * 4.0 * 2.0;
/// A run takes at least this long, so that the cost of a submission does not count, and is the best of several.
const RUN: Duration = Duration::from_millis(30);
const RUNS: usize = 5;
/// Software Vulkan ends loops after 65,535 rounds.
const MOST_TIMES: usize = 1 << 15;
/// Dispatches of a chain.
const CHAIN: usize = 1000;

fn variant(name: &'static str, source: &'static str, read_only: &'static [bool]) -> Variant {
    Variant { name, source: source.into(), features: None, constants: Vec::new(), read_only, uniform: None }
}

fn read_bandwidth() -> Variant {
    variant("read_bandwidth", include_str!("../../../shaders/read_bandwidth.wgsl"), &[true, false])
}

fn fma_rate() -> Variant {
    variant("fma_rate", include_str!("../../../shaders/fma_rate.wgsl"), &[false])
}

pub(super) fn variants() -> Vec<Variant> {
    vec![read_bandwidth(), fma_rate()]
}

/// A kernel and what it works on.
struct Probe<'g> {
    gpu: &'g Gpu,
    kernel: Arc<Kernel>,
    bindings: wgpu::BindGroup,
    step: Buffer,
}

impl<'g> Probe<'g> {
    fn new(gpu: &'g Gpu, variant: &Variant, buffers: &[&Buffer]) -> Result<Self> {
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let step = gpu.buffer("the step", size_of::<Step>() as u64, usage)?;
        let kernel = gpu.kernel(variant)?;
        let bindings = kernel.bind(gpu, &step, buffers)?;
        Ok(Self { gpu, kernel, bindings, step })
    }

    /// The time of `times` dispatches, one after the other.
    fn time(&self, step: Step, n_workgroups: usize, times: usize) -> Result<Duration> {
        let gpu = self.gpu;
        gpu.write("the step", &self.step, 0, &[step])?;
        gpu.flush()?;
        let begin = Instant::now();
        gpu.submit(self.kernel.name, |encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for _ in 0..times {
                self.kernel.dispatch(&mut pass, &self.bindings, 0, n_workgroups);
            }
        })?;
        gpu.wait()?;
        Ok(begin.elapsed())
    }
}

/// How often `time` does what it times in a second: in the fastest of several runs, each long enough.
fn rate(time: impl Fn(usize) -> Result<Duration>) -> Result<f64> {
    // Drivers compile when a kernel first runs.
    time(1)?;
    let mut times = 1;
    while time(times)? < RUN && times < MOST_TIMES {
        times *= 2;
    }
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        best = best.min(time(times)?);
    }
    Ok(times as f64 / best.as_secs_f64().max(1e-9))
}

impl Gpu {
    /// Measures what the device can do at most.
    pub(super) fn measure_ceilings(&self) -> Result<Ceilings> {
        // Many threads hide the latency of a GPU; a software device has one for each core.
        let n_workgroups = if self.info.kind == DeviceKind::SoftwareGpu { 64 } else { 4096 };
        let bytes = READ_BYTES.min(self.max_binding());
        let values = self.storage("values to read", bytes)?;
        let results = self.storage("results", (n_workgroups * THREADS) as u64 * VECTOR)?;
        let shape = Shape { n_features: 1, n_classes: 1, n_heads: 1 };
        let per_round = 4 * n_workgroups * THREADS;
        let n_vectors = (bytes / VECTOR) as usize / per_round * per_round;
        let step = Step::new(shape, 0.5, 0, n_vectors);

        let reading = Probe::new(self, &read_bandwidth(), &[&values, &results])?;
        let reads = rate(|times| reading.time(step, n_workgroups, times))?;
        let computing = Probe::new(self, &fma_rate(), &[&results])?;
        // Values that stay finite: x ← ½·x + ½.
        let rounds = |rounds: usize| Step { samples_per_part: rounds as u32, rate: 0.5, ..step };
        let rounds_a_second = rate(|n| computing.time(rounds(n), n_workgroups, 1))?;
        let dispatches = rate(|n| computing.time(rounds(1), 1, n * CHAIN))? * CHAIN as f64;
        Ok(Ceilings {
            read_bytes: reads * (n_vectors as u64 * VECTOR) as f64,
            flops: rounds_a_second * FLOPS_PER_ROUND * (n_workgroups * THREADS) as f64,
            dispatch: Some(Duration::from_secs_f64(1.0 / dispatches)),
        })
    }
}
