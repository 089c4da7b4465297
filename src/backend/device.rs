//! The devices there are, and the choice among them.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::cpu::Cpu;
use super::streamed::Streamed;
use super::{Backend, Session, Shape, Supervision};
use crate::data::{Features, Values};
use crate::error::{Error, Result};

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceKind {
    /// softreg's own CPU backend.
    Cpu,
    /// A GPU with memory of its own.
    DiscreteGpu,
    /// A GPU that shares the memory of the CPU.
    IntegratedGpu,
    /// A GPU that a virtual machine was given.
    VirtualGpu,
    /// A GPU interface that computes on the CPU, such as Mesa's llvmpipe: for tests.
    SoftwareGpu,
    /// A GPU interface that does not say what is behind it.
    OtherGpu,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "CPU",
            Self::DiscreteGpu => "discrete GPU",
            Self::IntegratedGpu => "integrated GPU",
            Self::VirtualGpu => "virtual GPU",
            Self::SoftwareGpu => "software GPU",
            Self::OtherGpu => "GPU of unknown kind",
        })
    }
}

/// What there is to know of a device before it is used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Its name, as [`Device::named`] takes it.
    pub name: String,
    /// Through what it is reached: `cpu`, `vulkan`, `metal`, `dx12`.
    pub backend: &'static str,
    /// What it is.
    pub kind: DeviceKind,
    /// Driver and version, or the instruction set of the CPU.
    pub driver: String,
    /// Memory in bytes, where it can be known: the machine's for the CPU.
    pub memory: Option<u64>,
    /// The largest single buffer in bytes.
    pub max_buffer: Option<u64>,
    /// The most that a kernel can see of a buffer at once, in bytes. Larger feature matrices are held in chunks.
    pub max_binding: Option<u64>,
    /// Workgroup memory in bytes.
    pub max_workgroup_memory: Option<u32>,
    /// Why it cannot be used, when it cannot.
    pub unusable: Option<String>,
}

/// How a device is opened. The CPU has no use for any of it.
///
/// ```
/// use softreg::{Device, DeviceOptions};
/// let options = DeviceOptions::new().cache(std::env::temp_dir()).matrix_units(true);
/// let device = Device::open("cpu", &options)?;
/// # Ok::<(), softreg::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceOptions {
    /// A folder in which is kept what is learned of a GPU, so that the next program starts sooner: its compiled kernels,
    /// that it passed its self-check, and what `softreg bench --tune` chose. The folder is made when there is something to
    /// keep; one that cannot be written is no error.
    pub cache: Option<PathBuf>,
    /// Whether training steps with more than 64 outputs (classes) use a GPU's matrix units, where it has some that suit.
    /// Features, weights and residuals are then rounded to half precision in the products; sums stay in single precision.
    /// A scaled feature or a weight beyond 65,504 makes the training fail as one that diverged. Prediction and smaller
    /// steps are in single precision, and so is all where there are no such units: [`Device::uses_matrix_units`] tells.
    pub matrix_units: bool,
    /// Bytes of a GPU's memory that features may take. More are brought to it part by part, in every epoch or evaluation. By
    /// default all are brought at once, and too many are an [`Error::OutOfMemory`].
    pub memory: Option<u64>,
}

impl DeviceOptions {
    /// The defaults: no folder, single precision.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`DeviceOptions::cache`].
    #[must_use]
    pub fn cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(folder.into());
        self
    }

    /// Sets [`DeviceOptions::matrix_units`].
    #[must_use]
    pub fn matrix_units(mut self, matrix_units: bool) -> Self {
        self.matrix_units = matrix_units;
        self
    }

    /// Sets [`DeviceOptions::memory`].
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }
}

/// A device to train and predict on. Cheap to clone.
///
/// ```
/// use softreg::Device;
/// let device = Device::cpu();
/// assert_eq!(device.info().name, "cpu");
/// ```
#[derive(Clone)]
pub struct Device {
    backend: Arc<dyn Backend>,
    reason: String,
    memory: Option<u64>,
    is_automatic: bool,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("info", self.info()).field("reason", &self.reason).finish()
    }
}

impl Device {
    /// The CPU, with all cores of the current rayon thread pool.
    pub fn cpu() -> Self {
        Self::cpu_because("asked for")
    }

    /// One that was asked for.
    fn with(backend: Arc<dyn Backend>, reason: impl Into<String>, memory: Option<u64>) -> Self {
        Self { backend, reason: reason.into(), memory, is_automatic: false }
    }

    /// One that was made for a test.
    #[cfg(all(test, feature = "gpu"))]
    pub(crate) fn of(backend: Arc<dyn Backend>, is_automatic: bool) -> Self {
        Self { is_automatic, ..Self::with(backend, "made for a test", None) }
    }

    fn cpu_because(reason: impl Into<String>) -> Self {
        static CPU: OnceLock<Arc<Cpu>> = OnceLock::new();
        Self::with(CPU.get_or_init(|| Arc::new(Cpu::new())).clone(), reason, None)
    }

    /// The best device: a discrete GPU, then an integrated one, else the CPU. A GPU interface that computes on the CPU
    /// is never taken, nor one that fails its self-check; [`Device::reason`] says why.
    pub fn auto() -> Self {
        Self::auto_with(&DeviceOptions::default())
    }

    fn auto_with(options: &DeviceOptions) -> Self {
        #[cfg(not(feature = "gpu"))]
        let _ = options;
        #[cfg(feature = "gpu")]
        match super::gpu::open_best(options) {
            Ok((backend, reason)) => Self { is_automatic: true, ..Self::with(backend, reason, options.memory) },
            Err(Error::NoGpu { reason }) => Self::cpu_because(reason),
            Err(error) => {
                log::warn!("{error}");
                Self::cpu_because(error.to_string())
            }
        }
        #[cfg(not(feature = "gpu"))]
        Self::cpu_because("softreg was built without the feature `gpu`")
    }

    /// The best GPU.
    ///
    /// # Errors
    /// [`Error::NoGpu`] when there is none but software ones, [`Error::SelfCheck`] when it computes wrong results,
    /// [`Error::Device`] when it cannot be opened.
    pub fn gpu() -> Result<Self> {
        Self::gpu_with(&DeviceOptions::default())
    }

    fn gpu_with(options: &DeviceOptions) -> Result<Self> {
        #[cfg(not(feature = "gpu"))]
        let _ = options;
        #[cfg(feature = "gpu")]
        return super::gpu::open_best(options).map(|(backend, reason)| Self::with(backend, reason, options.memory));
        #[cfg(not(feature = "gpu"))]
        Err(Error::NoGpu { reason: "softreg was built without the feature `gpu`".to_owned() })
    }

    /// The device of that name: `auto`, `cpu`, `gpu`, or a part of the name of one of [`Device::list`] in any case.
    /// Software GPUs can be had by name.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] with the names there are; otherwise as [`Device::gpu`].
    pub fn named(name: &str) -> Result<Self> {
        Self::open(name, &DeviceOptions::default())
    }

    /// The device of that name, as [`Device::named`], opened with `options`.
    ///
    /// # Errors
    /// As [`Device::named`].
    pub fn open(name: &str, options: &DeviceOptions) -> Result<Self> {
        match name.to_lowercase().as_str() {
            "auto" => Ok(Self::auto_with(options)),
            "cpu" => Ok(Self::cpu()),
            "gpu" => Self::gpu_with(options),
            #[cfg(feature = "gpu")]
            part if !part.is_empty() => match super::gpu::open_named(part, options)? {
                Some(backend) => Ok(Self::with(backend, "asked for", options.memory)),
                None => Err(Self::no_such_device(name)),
            },
            _ => Err(Self::no_such_device(name)),
        }
    }

    fn no_such_device(asked: &str) -> Error {
        let names: Vec<String> = Self::list().into_iter().map(|info| info.name).collect();
        Error::NoSuchDevice { asked: asked.to_owned(), available: names.join(", ") }
    }

    /// All devices, the CPU first. None is opened by this.
    pub fn list() -> Vec<DeviceInfo> {
        #[cfg_attr(not(feature = "gpu"), expect(unused_mut))]
        let mut devices = vec![Self::cpu().info().clone()];
        #[cfg(feature = "gpu")]
        devices.extend(super::gpu::list());
        devices
    }

    /// The CPU and every GPU but software ones, opened with `options`, or why they cannot be.
    #[doc(hidden)]
    pub fn open_every(options: &DeviceOptions) -> Vec<Result<Self>> {
        #[cfg_attr(not(feature = "gpu"), expect(unused_mut))]
        let mut devices = vec![Ok(Self::cpu())];
        #[cfg(not(feature = "gpu"))]
        let _ = options;
        #[cfg(feature = "gpu")]
        devices.extend(
            super::gpu::open_every(options)
                .into_iter()
                .map(|backend| Ok(Self::with(backend?, "asked for", options.memory))),
        );
        devices
    }

    /// What it is.
    pub fn info(&self) -> &DeviceInfo {
        self.backend.info()
    }

    /// Whether the choice was left to softreg, which may then make another.
    pub(crate) fn is_automatic(&self) -> bool {
        self.is_automatic
    }

    /// Why it was chosen.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether training steps with that many outputs run on matrix units, see [`DeviceOptions::matrix_units`].
    pub fn uses_matrix_units(&self, n_outputs: usize) -> bool {
        self.backend.uses_matrix_units(n_outputs)
    }

    /// What benchmarks need of it.
    #[doc(hidden)]
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// [`Backend::side_by_side`] with the device that each head is to take.
    pub(crate) fn side_by_side(
        &self,
        features: &Features,
        scale: f32,
        shape: Shape,
        n_heads: usize,
        memory: Option<u64>,
        work: &(dyn Fn(usize, &Self) + Sync),
    ) -> Result<Option<usize>> {
        let work = |head: usize, backend: Arc<dyn Backend>| work(head, &Self { backend, ..self.clone() });
        self.backend.side_by_side(features, scale, shape, n_heads, memory, &work)
    }

    /// The seam of the solvers. Features in a file, or too large for the device, are there part by part.
    pub(crate) fn session<'a>(
        &'a self,
        features: &'a Features<'a>,
        scale: f32,
        supervision: Option<Supervision<'a>>,
    ) -> Result<Box<dyn Session + 'a>> {
        let backend = &*self.backend;
        let n_bytes = features.n_samples() as u64 * features.sample_bytes() as u64;
        let memory = match (features.values(), self.memory) {
            (Values::Stored(stored), memory) => Some(stored.memory().min(memory.unwrap_or(u64::MAX))),
            (_, memory) => memory.filter(|&memory| memory < n_bytes),
        };
        match memory {
            Some(memory) => Ok(Box::new(Streamed::new(backend, features, scale, supervision, memory))),
            None => backend.session(features, scale, supervision),
        }
    }
}
