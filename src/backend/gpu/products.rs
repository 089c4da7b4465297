//! The two products of a loss with X, block after block of its rows: of dense features and of sparse ones.

use std::ops::Range;
use std::sync::Arc;

use super::kernel::{Kernel, Tile};
use super::memory::Buffer;
use super::session::{GpuSession, cut};
use super::shards::Shards;
use super::sparse_logits::{self, Lanes};
use super::step::{Step, padded_outputs, weights_bytes};
use super::stepper::FLOPS;
use super::transposed::Transposed;
use super::{evenly, gradient, logits, reduce, sparse_gradient, sparse_reduce};
use crate::backend::Shape;
use crate::data::Csr;
use crate::error::Result;

/// The logits of a block are no larger than this, in bytes.
const BLOCK_BYTES: u64 = 64 << 20;
/// A part of a gradient has no more samples than this where it can be: the loops of the kernel have a few rounds for each, of
/// which Mesa's software Vulkan allows 65,535; and the fewer are added in single precision the better.
const SAMPLES_PER_PART: usize = 16_384;

/// The rows of a block: the number of their chunk, and which of its rows.
pub(super) type Rows = (usize, Range<usize>);

/// A kernel to run on a shard of W.
pub(super) struct Run {
    pub kernel: Arc<Kernel>,
    pub bindings: wgpu::BindGroup,
    pub shard: usize,
    pub n_workgroups: usize,
    pub flops: f64,
    pub is_product: bool,
}

/// What the products of all blocks share.
pub(super) struct Shared<'b> {
    pub steps: &'b Buffer,
    /// By shard.
    pub weights: &'b [Buffer],
    pub residual: &'b Buffer,
    pub partials: &'b Buffer,
    /// By shard.
    pub totals: &'b [Buffer],
}

pub(super) trait Products {
    /// None is more than a submission should have of a product, nor larger than a kernel can see.
    fn blocks(&self) -> &[Rows];

    /// What a block is told beside its rows, after `n_parts` parts of the gradient in the blocks before.
    fn step(&self, block: usize, step: Step, n_parts: u32) -> Step;

    /// Bytes of the parts of a block's gradient.
    fn partials_bytes(&self) -> u64;

    /// Whether the sums must be zeros before the first block.
    fn begins_with_zeros(&self) -> bool;

    /// X·W of a block.
    fn logits(&self, block: usize, shared: &Shared, outputs: &Buffer) -> Result<Vec<Run>>;

    /// Xᵀ·R of a block, added to the sums; `step` is what it is told.
    fn gradient(&self, block: usize, shared: &Shared, step: Step) -> Result<Vec<Run>>;
}

/// Rows whose logits are no more than a block has.
fn rows_for_memory(session: &GpuSession, shape: Shape) -> usize {
    let row_bytes = padded_outputs(shape) as u64 * 4;
    (BLOCK_BYTES.min(session.gpu.max_chunk()) / row_bytes) as usize
}

pub(super) struct Dense<'s> {
    session: &'s GpuSession<'s>,
    shape: Shape,
    blocks: Vec<Rows>,
    logits_tile: Tile,
    gradient_tile: Tile,
    kernels: [Arc<Kernel>; 3],
}

impl<'s> Dense<'s> {
    pub fn new(session: &'s GpuSession<'s>, shape: Shape) -> Result<Self> {
        let gpu = session.gpu;
        let gradient_tile = Tile::choose(gpu.info.kind, shape.n_features + 1, shape.n_outputs());
        let for_time = (FLOPS / Self::flops(shape, 1)) as usize;
        let for_parts = gradient::max_parts(gradient_tile, shape, usize::MAX).saturating_mul(SAMPLES_PER_PART);
        let max_rows = rows_for_memory(session, shape).min(for_time).min(for_parts).max(1);
        let blocks: Vec<Rows> = (0..)
            .zip(&session.ranges)
            .flat_map(|(chunk, range)| evenly(range.len(), max_rows).map(move |rows| (chunk, rows)))
            .collect();
        let largest = blocks.iter().map(|(_, rows)| rows.len()).max().unwrap_or(1);
        let logits_tile = Tile::choose(gpu.info.kind, largest, shape.n_outputs());
        let variants = [
            logits::variant(logits_tile, session.dtype, false),
            gradient::variant(gradient_tile, session.dtype, false),
            reduce::variant(),
        ];
        gpu.compile(&variants)?;
        let [logits, gradient, reduce] = variants.map(|variant| gpu.kernel(&variant));
        Ok(Self { session, shape, blocks, logits_tile, gradient_tile, kernels: [logits?, gradient?, reduce?] })
    }

    /// Floating point operations of a product with that many rows of X.
    fn flops(shape: Shape, n_samples: usize) -> f64 {
        2.0 * n_samples as f64 * (shape.n_features + 1) as f64 * shape.n_outputs() as f64
    }
}

impl Products for Dense<'_> {
    fn blocks(&self) -> &[Rows] {
        &self.blocks
    }

    fn step(&self, _block: usize, step: Step, n_parts: u32) -> Step {
        Step { first_part: n_parts, ..gradient::in_parts(step, self.gradient_tile, self.shape) }
    }

    fn partials_bytes(&self) -> u64 {
        let largest = self.blocks.iter().map(|(_, rows)| rows.len()).max().unwrap_or(1);
        gradient::max_parts(self.gradient_tile, self.shape, largest) as u64 * weights_bytes(self.shape)
    }

    fn begins_with_zeros(&self) -> bool {
        false
    }

    fn logits(&self, block: usize, shared: &Shared, outputs: &Buffer) -> Result<Vec<Run>> {
        let [kernel, ..] = &self.kernels;
        let (chunk, rows) = &self.blocks[block];
        let of_shard = |(shard, weights)| {
            Ok(Run {
                kernel: kernel.clone(),
                bindings: self.session.bind_logits(kernel, shared.steps, *chunk, weights, outputs)?,
                shard,
                n_workgroups: logits::n_workgroups(self.logits_tile, self.shape, rows.len()),
                flops: Self::flops(self.shape, rows.len()),
                is_product: true,
            })
        };
        shared.weights.iter().enumerate().map(of_shard).collect()
    }

    fn gradient(&self, block: usize, shared: &Shared, step: Step) -> Result<Vec<Run>> {
        let Self { session: GpuSession { gpu, chunks, .. }, shape, gradient_tile, .. } = self;
        let [_, gradient, reduce] = &self.kernels;
        let (chunk, rows) = &self.blocks[block];
        let Shared { steps, residual, partials, totals, .. } = shared;
        let features = &chunks[*chunk].features;
        let mut runs = Vec::new();
        for (shard, totals) in totals.iter().enumerate() {
            runs.push(Run {
                kernel: gradient.clone(),
                // Without an order, its binding is not read.
                bindings: gradient.bind(gpu, steps, &[features, residual, residual, partials])?,
                shard,
                n_workgroups: gradient::n_workgroups(*gradient_tile, *shape, rows.len()),
                flops: Self::flops(*shape, rows.len()),
                is_product: true,
            });
            runs.push(Run {
                kernel: reduce.clone(),
                bindings: reduce.bind(gpu, steps, &[partials, totals])?,
                shard,
                n_workgroups: reduce::n_workgroups(*shape, step.n_sums as usize),
                flops: f64::from(step.n_parts) * shape.n_parameters() as f64,
                is_product: false,
            });
        }
        Ok(runs)
    }
}

pub(super) struct Sparse<'s> {
    session: &'s GpuSession<'s>,
    shards: Shards,
    blocks: Vec<Rows>,
    lists: Vec<Lists>,
    lanes: Lanes,
    kernels: [Arc<Kernel>; 3],
}

/// A block by features, and how many of each there are.
struct Lists {
    members: Buffer,
    segments: Buffer,
    listed: Buffer,
    n_members: usize,
    n_segments: usize,
    n_listed: usize,
}

impl<'s> Sparse<'s> {
    pub fn new(session: &'s GpuSession<'s>, csr: &Csr, shape: Shape, shards: &Shards) -> Result<Self> {
        let gpu = session.gpu;
        let most_segments = (gpu.max_binding() / 4) as usize / shards.most_columns();
        let for_segments = Transposed::most_members(most_segments, shape.n_features);
        let for_time = (FLOPS / Self::flops(1, shape.n_outputs())) as usize;
        // The intercept is a feature that every sample has: half is for it.
        let max_values = for_segments.min(for_time) / 2;
        let max_rows = rows_for_memory(session, shape).min(max_values).max(1);
        let mut blocks: Vec<Rows> = Vec::new();
        for (chunk, range) in session.ranges.iter().enumerate() {
            let of_chunk = |rows: Range<usize>| (chunk, rows.start - range.start..rows.end - range.start);
            blocks.extend(cut(csr, range.clone(), max_rows, max_values).into_iter().map(of_chunk));
        }
        let upload = |(chunk, rows): &Rows| {
            const WHAT: &str = "the samples of features";
            let first = session.ranges[*chunk].start;
            let lists = Transposed::new(csr, first + rows.start..first + rows.end, shape.n_features);
            Ok(Lists {
                members: gpu.storage_of(WHAT, &lists.members)?,
                segments: gpu.storage_of(WHAT, &lists.segments)?,
                listed: gpu.storage_of(WHAT, &lists.listed)?,
                n_members: lists.members.len(),
                n_segments: lists.n_segments(),
                n_listed: lists.listed.len(),
            })
        };
        let lists = blocks.iter().map(upload).collect::<Result<_>>()?;
        let lanes = session.lanes(csr, shards);
        let variants = [
            sparse_logits::variant(shards.width, lanes, false),
            sparse_gradient::variant(shards.width),
            sparse_reduce::variant(),
        ];
        gpu.compile(&variants)?;
        let [logits, gradient, reduce] = variants.map(|variant| gpu.kernel(&variant));
        let kernels = [logits?, gradient?, reduce?];
        Ok(Self { session, shards: shards.clone(), blocks, lists, lanes, kernels })
    }

    /// Floating point operations of a product with that many values of X.
    fn flops(n_values: usize, n_columns: usize) -> f64 {
        2.0 * n_values as f64 * n_columns as f64
    }
}

impl Products for Sparse<'_> {
    fn blocks(&self) -> &[Rows] {
        &self.blocks
    }

    fn step(&self, block: usize, step: Step, n_parts: u32) -> Step {
        let Lists { n_segments, n_listed, .. } = self.lists[block];
        Step { first_part: n_parts, n_segments: n_segments as u32, n_listed: n_listed as u32, ..step }
    }

    fn partials_bytes(&self) -> u64 {
        let most_segments = self.lists.iter().map(|lists| lists.n_segments).max().unwrap_or(0);
        (most_segments * self.shards.most_columns()) as u64 * 4
    }

    fn begins_with_zeros(&self) -> bool {
        true
    }

    fn logits(&self, block: usize, shared: &Shared, outputs: &Buffer) -> Result<Vec<Run>> {
        let [kernel, ..] = &self.kernels;
        let (chunk, rows) = &self.blocks[block];
        let of_shard = |(shard, weights)| {
            let n_columns = self.shards.n_columns(shard);
            Ok(Run {
                kernel: kernel.clone(),
                bindings: self.session.bind_logits(kernel, shared.steps, *chunk, weights, outputs)?,
                shard,
                n_workgroups: sparse_logits::n_workgroups(self.shards.width, self.lanes, n_columns, rows.len()),
                flops: Self::flops(self.lists[block].n_members, n_columns),
                is_product: true,
            })
        };
        shared.weights.iter().enumerate().map(of_shard).collect()
    }

    fn gradient(&self, block: usize, shared: &Shared, _step: Step) -> Result<Vec<Run>> {
        let Self { session: GpuSession { gpu, .. }, shards, .. } = self;
        let [_, gradient, reduce] = &self.kernels;
        let Lists { members, segments, listed, n_members, n_segments, n_listed } = &self.lists[block];
        let Shared { steps, residual, partials, totals, .. } = shared;
        let mut runs = Vec::new();
        for (shard, totals) in totals.iter().enumerate() {
            let n_columns = shards.n_columns(shard);
            runs.push(Run {
                kernel: gradient.clone(),
                bindings: gradient.bind(gpu, steps, &[segments, members, residual, partials])?,
                shard,
                n_workgroups: sparse_gradient::n_workgroups(shards.width, n_columns, *n_segments),
                flops: Self::flops(*n_members, n_columns),
                is_product: true,
            });
            runs.push(Run {
                kernel: reduce.clone(),
                bindings: reduce.bind(gpu, steps, &[listed, partials, totals])?,
                shard,
                n_workgroups: sparse_reduce::n_workgroups(n_columns, *n_listed),
                flops: (*n_segments * n_columns) as f64,
                is_product: false,
            });
        }
        Ok(runs)
    }
}
