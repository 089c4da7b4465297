//! What all kernels have in common: a shader put together from its pieces, a pipeline made once, a dispatch.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, PoisonError};

use rayon::prelude::*;
use wgpu::BufferBindingType::{Storage, Uniform};

use super::Gpu;
use super::memory::Buffer;
use super::step::Step;
use crate::backend::DeviceKind;
use crate::data::Dtype;
use crate::error::Result;

/// One variant of a shader: its source and what its `override` constants are.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// The entry point, which all files of the operation are named after.
    pub name: &'static str,
    /// The shader, without the pieces shared by several.
    pub source: Cow<'static, str>,
    /// The precision of X, for shaders that read it.
    pub features: Option<Dtype>,
    /// The `override` constants.
    pub constants: Vec<(&'static str, f64)>,
    /// For each buffer, from binding 1 on, whether it is only read.
    pub read_only: &'static [bool],
    /// The one of these buffers that is a uniform buffer, if any is.
    pub uniform: Option<usize>,
}

impl Variant {
    /// The whole shader.
    pub fn wgsl(&self) -> String {
        let features = match self.features {
            Some(Dtype::F32) => include_str!("../../../shaders/shared/features_f32.wgsl"),
            Some(Dtype::F16) => include_str!("../../../shaders/shared/features_f16.wgsl"),
            Some(Dtype::U8) => include_str!("../../../shaders/shared/features_u8.wgsl"),
            None => "",
        };
        // The source first, since what it enables must be said before all else.
        [&*self.source, include_str!("../../../shaders/shared/step.wgsl"), features].join("\n")
    }
}

/// How threads share the work of a product: a workgroup of row × column threads computes a tile of 8 × 8 values for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    row_threads: usize,
    column_threads: usize,
}

/// Rows and columns that a thread computes of a product.
const OF_THREAD: usize = 8;

impl Tile {
    /// The tiles there are: tall ones for few outputs, so that few threads compute padding; of those for many the smaller
    /// first, of which there are more to share among processors; larger ones read less.
    pub const ALL: [Self; 5] = [
        Self { row_threads: 16, column_threads: 2 },
        Self { row_threads: 16, column_threads: 4 },
        Self { row_threads: 8, column_threads: 8 },
        Self { row_threads: 16, column_threads: 8 },
        Self { row_threads: 16, column_threads: 16 },
    ];

    /// The tile for a product of `rows` × `columns`: the largest of which there are still as many as keep the device
    /// busy.
    pub fn choose(kind: DeviceKind, rows: usize, columns: usize) -> Self {
        let enough = if kind == DeviceKind::DiscreteGpu { 256 } else { 32 };
        let fits = |tile: &&Self| columns <= tile.column_threads * OF_THREAD;
        let smallest = Self::ALL.iter().take(3).find(fits).unwrap_or(&Self::ALL[2]);
        let larger = if columns > 2 * OF_THREAD * smallest.column_threads { &Self::ALL[3..] } else { &[] };
        *larger.iter().rev().find(|tile| tile.count(rows, columns) >= enough).unwrap_or(smallest)
    }

    /// Tiles that cover `rows` × `columns`.
    pub(super) fn count(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.row_threads * OF_THREAD) * columns.div_ceil(self.column_threads * OF_THREAD)
    }

    /// Every tile with every precision of X.
    pub(super) fn with_all_dtypes() -> impl Iterator<Item = (Self, Dtype)> {
        Self::ALL.into_iter().flat_map(|tile| Dtype::ALL.map(|dtype| (tile, dtype)))
    }

    pub(super) fn constants(self) -> [(&'static str, f64); 2] {
        [("ROW_THREADS", self.row_threads as f64), ("COLUMN_THREADS", self.column_threads as f64)]
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.row_threads * OF_THREAD, self.column_threads * OF_THREAD)
    }
}

/// A compiled [`Variant`].
pub(super) struct Kernel {
    pub(super) name: &'static str,
    layout: wgpu::BindGroupLayout,
    pipeline: wgpu::ComputePipeline,
}

impl Kernel {
    fn new(gpu: &Gpu, variant: &Variant) -> Result<Self> {
        let device = &gpu.device;
        gpu.guarded(&format!("the kernel {}", variant.name), 0, || {
            let module = wgpu::ShaderModuleDescriptor {
                label: Some(variant.name),
                source: wgpu::ShaderSource::Wgsl(variant.wgsl().into()),
            };
            let module = if gpu.options.checked_shaders {
                device.create_shader_module(module)
            } else {
                // SAFETY: the kernels stay within their buffers for every step that `Session`, `Stepper`, `Loss` and
                // `ceilings` make, which have checked parameters, labels and plans (src/backend/check.rs): an index is
                // below the counts in `Step`, which the buffers are sized by, or is guarded by a comparison with them;
                // their loops end, as each counts up to such a count, halves a constant or goes round a cycle.
                // Matrices, which know no bounds, are loaded from and stored to whole tiles of workgroup memory.
                unsafe { device.create_shader_module_trusted(module, wgpu::ShaderRuntimeChecks::unchecked()) }
            };
            let step_size = wgpu::BufferSize::new(size_of::<Step>() as u64);
            let uniform = [(Uniform, true, step_size)];
            let storage = variant.read_only.iter().enumerate().map(|(i, &read_only)| {
                let ty = if variant.uniform == Some(i) { Uniform } else { Storage { read_only } };
                (ty, false, None)
            });
            let entries: Vec<_> = (0..)
                .zip(uniform.into_iter().chain(storage))
                .map(|(binding, (ty, has_dynamic_offset, min_binding_size))| wgpu::BindGroupLayoutEntry {
                    binding,
                    visibility: wgpu::ShaderStages::COMPUTE,
                    ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size },
                    count: None,
                })
                .collect();
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(variant.name),
                entries: &entries,
            });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(variant.name),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(variant.name),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(variant.name),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &variant.constants,
                    // Every value is written before it is read.
                    zero_initialize_workgroup_memory: false,
                },
                cache: gpu.cache.pipelines(),
            });
            Self { name: variant.name, layout, pipeline }
        })
    }

    /// Binds the steps, and from binding 1 on the storage buffers.
    pub(super) fn bind(&self, gpu: &Gpu, steps: &Buffer, storage: &[&Buffer]) -> Result<wgpu::BindGroup> {
        let steps = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &steps.raw,
            offset: 0,
            size: wgpu::BufferSize::new(size_of::<Step>() as u64),
        });
        let storage = storage.iter().map(|buffer| buffer.raw.as_entire_binding());
        let entries: Vec<_> = (0..)
            .zip([steps].into_iter().chain(storage))
            .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource })
            .collect();
        gpu.guarded(&format!("the bindings of {}", self.name), 0, || {
            gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(self.name),
                layout: &self.layout,
                entries: &entries,
            })
        })
    }

    /// Runs `n_workgroups` of it for the step at `offset` in the buffer of steps.
    pub(super) fn dispatch(
        &self,
        pass: &mut wgpu::ComputePass,
        bindings: &wgpu::BindGroup,
        offset: u32,
        n_workgroups: usize,
    ) {
        /// The most workgroups that every device takes in a dimension.
        const LIMIT: usize = 65_535;
        let (x, y) = (n_workgroups.min(LIMIT), n_workgroups.div_ceil(LIMIT));
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, bindings, &[offset]);
        pass.dispatch_workgroups(x as u32, y as u32, 1);
    }
}

impl Gpu {
    /// The compiled variant; compiled once.
    pub(super) fn kernel(&self, variant: &Variant) -> Result<Arc<Kernel>> {
        let kernels = || self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, kernel)) = kernels().iter().find(|(made, _)| made == variant) {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(Kernel::new(self, variant)?);
        kernels().push((variant.clone(), kernel.clone()));
        Ok(kernel)
    }

    /// Compiles variants, at the same time where the driver can.
    pub(super) fn compile(&self, variants: &[Variant]) -> Result<()> {
        variants.par_iter().try_for_each(|variant| self.kernel(variant).map(drop))
    }
}
