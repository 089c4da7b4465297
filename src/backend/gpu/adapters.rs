//! The GPUs there are, and the choice among them.

use std::env;
use std::sync::Arc;

use super::step::UNIFORM_BYTES;
use super::{Gpu, Options};
use crate::backend::{Backend, DeviceInfo, DeviceKind, DeviceOptions};
use crate::error::{Error, Result};

/// What the kernels need: (what, needed, found).
fn needs(limits: &wgpu::Limits) -> [(&'static str, u64, u64); 5] {
    [
        ("storage buffers in a kernel", 6, limits.max_storage_buffers_per_shader_stage.into()),
        ("threads in a workgroup", 256, limits.max_compute_invocations_per_workgroup.into()),
        ("bytes of workgroup memory", 16_384, limits.max_compute_workgroup_storage_size.into()),
        ("bytes of a uniform buffer", UNIFORM_BYTES, limits.max_uniform_buffer_binding_size),
        ("workgroups in a dimension", 65_535, limits.max_compute_workgroups_per_dimension.into()),
    ]
}

/// All adapters, the best first. `WGPU_BACKEND` and `WGPU_ADAPTER_NAME` narrow them down.
pub(super) fn adapters() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::PRIMARY);
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    if let Some(name) = wanted_name() {
        adapters.retain(|adapter| adapter.get_info().name.to_lowercase().contains(&name));
    }
    // A stable sort: among equals the order of the system, which lists each GPU's best interface first.
    adapters.sort_by_key(|adapter| match kind(&adapter.get_info()) {
        DeviceKind::DiscreteGpu => 0,
        DeviceKind::IntegratedGpu => 1,
        DeviceKind::VirtualGpu => 2,
        _ => 3,
    });
    adapters
}

fn wanted_name() -> Option<String> {
    env::var("WGPU_ADAPTER_NAME").ok().filter(|name| !name.is_empty()).map(|name| name.to_lowercase())
}

fn kind(info: &wgpu::AdapterInfo) -> DeviceKind {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu,
        wgpu::DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu,
        wgpu::DeviceType::VirtualGpu => DeviceKind::VirtualGpu,
        wgpu::DeviceType::Cpu => DeviceKind::SoftwareGpu,
        wgpu::DeviceType::Other => DeviceKind::OtherGpu,
    }
}

pub(super) fn info(adapter: &wgpu::Adapter) -> DeviceInfo {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let unusable = needs(&limits)
        .into_iter()
        .find(|(_, needed, found)| found < needed)
        .map(|(what, needed, found)| format!("it has {found} {what}, the kernels need {needed}"));
    DeviceInfo {
        kind: kind(&info),
        backend: info.backend.to_str(),
        driver: [info.driver.as_str(), info.driver_info.as_str()].join(" ").trim().to_owned(),
        name: info.name,
        memory: memory(adapter),
        max_buffer: Some(limits.max_buffer_size),
        max_binding: Some(limits.max_storage_buffer_binding_size),
        max_workgroup_memory: Some(limits.max_compute_workgroup_storage_size),
        unusable,
    }
}

/// The memory of the device's own in bytes, which wgpu does not tell; Vulkan does.
#[cfg(not(target_vendor = "apple"))]
fn memory(adapter: &wgpu::Adapter) -> Option<u64> {
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the handles are read and not kept; the adapter outlives their use.
    let memory = unsafe {
        let adapter = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = adapter.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(adapter.raw_physical_device())
    };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
}

#[cfg(target_vendor = "apple")]
fn memory(_: &wgpu::Adapter) -> Option<u64> {
    None
}

/// All adapters, for people.
pub(in crate::backend) fn list() -> Vec<DeviceInfo> {
    adapters().iter().map(info).collect()
}

/// The best adapter that is a GPU, opened, and why it was taken. Software adapters count only when `WGPU_ADAPTER_NAME`
/// asks for them.
pub(in crate::backend) fn open_best(options: &DeviceOptions) -> Result<(Arc<dyn Backend>, String)> {
    let adapters = adapters();
    let by_name = wanted_name();
    let is_gpu = |info: &DeviceInfo| {
        let real = !matches!(info.kind, DeviceKind::SoftwareGpu | DeviceKind::OtherGpu);
        info.unusable.is_none() && (real || by_name.is_some())
    };
    if let Some(gpu) = open_first(adapters.iter().filter(|adapter| is_gpu(&info(adapter))), options)? {
        let reason = match by_name {
            Some(_) => "WGPU_ADAPTER_NAME asks for it".to_owned(),
            None => format!("it is the first {}", gpu.info.kind),
        };
        return Ok((Arc::new(gpu), reason));
    }
    let why_not = |info: DeviceInfo| match info.unusable {
        Some(reason) => format!("{}: {reason}", info.name),
        None => format!("{} is a {}, taken only when asked for by name", info.name, info.kind),
    };
    let reason = match by_name {
        Some(name) => format!("no usable adapter has {name:?} of WGPU_ADAPTER_NAME in its name"),
        None if adapters.is_empty() => "there is no adapter for Vulkan, Metal or DX12".to_owned(),
        None => adapters.iter().map(info).map(why_not).collect::<Vec<_>>().join("; "),
    };
    Err(Error::NoGpu { reason })
}

/// The best adapter that has `part` (lower case) in its name, opened; none when there is none.
pub(in crate::backend) fn open_named(part: &str, options: &DeviceOptions) -> Result<Option<Arc<dyn Backend>>> {
    let adapters = adapters();
    let has_name = |adapter: &&wgpu::Adapter| adapter.get_info().name.to_lowercase().contains(part);
    Ok(open_first(adapters.iter().filter(has_name), options)?.map(|gpu| Arc::new(gpu) as Arc<dyn Backend>))
}

/// Every adapter that is no software one, opened.
pub(in crate::backend) fn open_every(options: &DeviceOptions) -> Vec<Result<Arc<dyn Backend>>> {
    let adapters = adapters();
    let real = adapters.iter().filter(|adapter| kind(&adapter.get_info()) != DeviceKind::SoftwareGpu);
    real.map(|adapter| Ok(Arc::new(open(adapter, options)?) as Arc<dyn Backend>)).collect()
}

fn open(adapter: &wgpu::Adapter, options: &DeviceOptions) -> Result<Gpu> {
    let gpu_options = Options { matrix_units: options.matrix_units, ..Options::default() };
    Gpu::open(adapter, gpu_options, options.cache.as_deref())
}

/// The first adapter that can be opened and passes the self-check. When there are some but none does, why the first one
/// did not.
fn open_first<'a>(adapters: impl Iterator<Item = &'a wgpu::Adapter>, options: &DeviceOptions) -> Result<Option<Gpu>> {
    let mut first_error = None;
    for adapter in adapters {
        match open(adapter, options) {
            Ok(gpu) => {
                if let Some(error) = first_error {
                    log::warn!("{error}");
                }
                return Ok(Some(gpu));
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(None), Err)
}
