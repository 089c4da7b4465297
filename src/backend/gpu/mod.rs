//! The GPU backend: wgpu, and the kernels of shaders/.
//!
//! One file for one shader, of the same name: what its variants are, and how many workgroups it needs. `step` is what
//! all of them are told; `kernel` compiles and dispatches; `memory` makes, fills and reads buffers; `session`, `stepper`,
//! `sparse_stepper` and `loss` put the kernels in order. `shards` and `transposed` are what sparse features need beside. `adapters` chooses a device and `self_check` tries it out.

mod adapters;
mod advance;
mod along;
mod cache;
mod ceilings;
mod classes;
mod clock;
mod cooperative;
mod expand;
#[cfg(test)]
pub(crate) mod failure;
mod gradient;
mod gradient_cooperative;
mod hessian;
mod kernel;
mod labels;
mod logits;
mod logits_cooperative;
mod loss;
mod memory;
mod narrow_residual;
mod narrow_update;
mod products;
mod pull_back;
mod reduce;
mod self_check;
mod session;
mod shards;
mod shuffle;
mod single;
mod softmax;
mod sparse_catch_up;
mod sparse_gradient;
mod sparse_logits;
mod sparse_reduce;
mod sparse_stepper;
mod sparse_update;
mod step;
mod stepper;
mod transposed;
mod tuning;
mod update;
mod variants;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use pollster::block_on;

pub(super) use adapters::{list, open_best, open_every, open_named};
pub use cooperative::{Matrices, MatrixUnits};
pub use gradient::in_parts;
pub use kernel::{Tile, Variant};
pub use shards::Width;
pub use single::Single;
pub use sparse_logits::Lanes;
pub use step::Step;
pub use transposed::Transposed;
pub use update::{AdamWHead, MomentumHead};

use super::{Backend, Ceilings, DeviceInfo, DeviceKind, Session, Supervision};
use crate::data::{Features, Values};
use crate::error::{Error, Result};
use cache::Cache;
use kernel::Kernel;
use memory::Memory;
use session::GpuSession;

/// How a GPU is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Options {
    /// Let wgpu put checks of bounds and loops into the kernels, which need none.
    pub checked_shaders: bool,
    /// Hold no more than this many bytes of features in a chunk, or one row; and of losses between two readings, or one
    /// step's.
    pub max_chunk: Option<u64>,
    /// Hold no more than this many bytes of W in a shard, or one column, where features are sparse.
    pub max_shard: Option<u64>,
    /// Use no more than this many bytes of device memory.
    pub max_memory: Option<u64>,
    /// Use matrix units, where there are some, for the products of steps with many outputs: faster, with inputs rounded
    /// to half precision.
    pub matrix_units: bool,
}

/// An open GPU.
pub struct Gpu {
    info: DeviceInfo,
    options: Options,
    device: wgpu::Device,
    queue: wgpu::Queue,
    limits: wgpu::Limits,
    /// The matrix units that may be used, the best first.
    matrix_units: Vec<MatrixUnits>,
    faults: Arc<Mutex<Faults>>,
    memory: Memory,
    cache: Cache,
    kernels: Mutex<Vec<(Variant, Arc<Kernel>)>>,
    /// What tells the adapter from others, as long as its kernels of sparse features have to be tried out.
    untried: Mutex<Option<String>>,
    /// What was done so far, for tests.
    pub counts: Counts,
    #[cfg(test)]
    pub(crate) failures: failure::Failures,
}

/// How often something was done.
#[derive(Debug, Default)]
pub struct Counts {
    /// Kernels run by optimizer steps and evaluations of a loss.
    pub dispatches: AtomicUsize,
    /// Of these, products of a block of X in evaluations of a loss.
    pub products: AtomicUsize,
    /// Kernels, copies and writes handed to the device together.
    pub submissions: AtomicUsize,
    /// Results read by the host.
    pub readbacks: AtomicUsize,
}

/// What the driver reported outside of any call.
#[derive(Default)]
struct Faults {
    lost: Option<String>,
    uncaptured: Option<String>,
}

impl Gpu {
    /// Opens an adapter and tries it out: once for each adapter and process, or only once when `cache` is a folder where
    /// that can be noted.
    fn open(adapter: &wgpu::Adapter, options: Options, cache: Option<&Path>) -> Result<Self> {
        let mut gpu = Self::open_with(adapter, options, cache)?;
        let adapter = format!("{:?}", adapter.get_info());
        self_check::once(&mut gpu, &adapter)?;
        gpu.untried = Mutex::new(Some(adapter));
        Ok(gpu)
    }

    /// All adapters, opened with `options` and not tried out, in the order of the choice.
    pub fn open_all(options: Options) -> Vec<Result<Self>> {
        adapters::adapters().iter().map(|adapter| Self::open_with(adapter, options, None)).collect()
    }

    fn open_with(adapter: &wgpu::Adapter, options: Options, cache: Option<&Path>) -> Result<Self> {
        let info = adapters::info(adapter);
        let fault = |problem: String| Error::Device { device: info.name.clone(), problem };
        if let Some(reason) = &info.unusable {
            return Err(fault(reason.clone()));
        }
        let limits = adapter.limits();
        let matrix_units = if options.matrix_units { MatrixUnits::of(adapter) } else { Vec::new() };
        let wanted = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::PIPELINE_CACHE;
        let mut required_features = adapter.features() & wanted;
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        if !matrix_units.is_empty() {
            required_features |= cooperative::FEATURES;
            // SAFETY: of the experimental features only cooperative matrices are asked for. What wgpu does not check of
            // them, the kernels keep to: all threads of a subgroup take part, and matrices lie within workgroup memory.
            experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("softreg"),
            required_features,
            experimental_features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue) = block_on(adapter.request_device(&descriptor))
            .map_err(|error| fault(format!("it cannot be opened: {error}")))?;

        let faults = Arc::new(Mutex::new(Faults::default()));
        let on_lost = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            // `Destroyed` is said when the device is dropped, too.
            if reason != wgpu::DeviceLostReason::Destroyed {
                let message = if message.is_empty() { format!("{reason:?}") } else { message };
                on_lost.lock().unwrap_or_else(PoisonError::into_inner).lost = Some(message);
            }
        });
        let on_error = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            log::error!("{error}");
            on_error.lock().unwrap_or_else(PoisonError::into_inner).uncaptured = Some(error.to_string());
        }));
        // Others use the memory of the machine, of which they tell only a part.
        let of_its_own = info.memory.filter(|_| info.kind == DeviceKind::DiscreteGpu);
        let cache = Cache::open(cache, &adapter.get_info(), &device);
        let memory = Memory::new(options.max_memory.or(of_its_own));
        Ok(Self {
            info,
            options,
            device,
            queue,
            limits,
            matrix_units,
            faults,
            memory,
            cache,
            kernels: Mutex::default(),
            untried: Mutex::default(),
            counts: Counts::default(),
            #[cfg(test)]
            failures: failure::Failures::default(),
        })
    }

    /// The matrix units that may be used, the best first: those are used.
    pub fn matrix_units(&self) -> &[MatrixUnits] {
        &self.matrix_units
    }

    /// Runs `work` and gives the first error that the driver reports in it or that was reported before; an out of memory
    /// is of `bytes` for `what`.
    fn guarded<T>(&self, what: &str, bytes: u64, work: impl FnOnce() -> T) -> Result<T> {
        #[cfg(test)]
        self.perhaps_fail(what, bytes)?;
        let [memory, validation, internal] =
            [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal]
                .map(|filter| self.device.push_error_scope(filter));
        let result = work();
        // The innermost scope first.
        let errors = [internal, validation, memory].map(|scope| block_on(scope.pop()));
        self.check()?;
        match errors.into_iter().flatten().next() {
            None => Ok(result),
            Some(wgpu::Error::OutOfMemory { .. }) => Err(self.out_of_memory(what, bytes)),
            Some(error) => Err(self.fault(format!("{what}: {error}"))),
        }
    }

    /// Whether the device is still there and without a fault.
    fn check(&self) -> Result<()> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &faults.lost {
            return Err(Error::DeviceLost { device: self.info.name.clone(), reason: reason.clone() });
        }
        match faults.uncaptured.take() {
            Some(problem) => Err(self.fault(problem)),
            None => Ok(()),
        }
    }

    /// Tries out the kernels of sparse features before they are first used, which most never are.
    fn try_sparse(&self) -> Result<()> {
        let untried = || self.untried.lock().unwrap_or_else(PoisonError::into_inner);
        // What is tried out comes here again, and finds nothing to do.
        let adapter = untried().take();
        let Some(adapter) = adapter else { return Ok(()) };
        let tried = self_check::sparse_once(self, &adapter);
        if tried.is_err() {
            *untried() = Some(adapter);
        }
        tried
    }

    fn fault(&self, problem: String) -> Error {
        Error::Device { device: self.info.name.clone(), problem }
    }

    fn out_of_memory(&self, what: &str, bytes: u64) -> Error {
        Error::OutOfMemory { device: self.info.name.clone(), what: what.to_owned(), bytes }
    }
}

/// Ranges of about the same size, none larger than `most`.
fn evenly(n: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = n.div_ceil(most).max(1);
    (0..count).map(move |i| n * i / count..n * (i + 1) / count)
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.cache.save();
    }
}

impl Backend for Gpu {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn uses_matrix_units(&self, n_outputs: usize) -> bool {
        !step::is_narrow(n_outputs) && !self.matrix_units.is_empty()
    }

    fn ceilings(&self) -> Result<Ceilings> {
        self.measure_ceilings()
    }

    fn chunk_rows(&self, features: &Features, supervision: Option<Supervision>) -> usize {
        // Offsets of sparse features have one more than there are rows.
        session::SampleBytes::of(features, supervision).most_rows(self).saturating_sub(1).max(1)
    }

    fn session<'a>(
        &'a self,
        features: &'a Features<'a>,
        scale: f32,
        supervision: Option<Supervision<'a>>,
    ) -> Result<Box<dyn Session + 'a>> {
        if matches!(features.values(), Values::Sparse(_)) {
            self.try_sparse()?;
        }
        Ok(Box::new(GpuSession::new(self, features, scale, supervision)?))
    }
}
