//! One kernel alone, for tests and benchmarks.

use std::ops::Range;

use wgpu::BufferUsages;

use super::cooperative::MatrixUnits;
use super::kernel::{Tile, Variant};
use super::labels::LabelLayout;
use super::memory::{Buffer, pad_rows, unpad_rows};
use super::shards::Width;
use super::sparse_logits::{self, Lanes};
use super::step::{BLOCK, Step, padded_outputs};
use super::transposed::Transposed;
use super::update::RuleKind;
use super::{
    Gpu, advance, along, classes, gradient, gradient_cooperative, hessian, logits, logits_cooperative, narrow_residual,
    narrow_update, reduce, shuffle, softmax, sparse_catch_up, sparse_gradient, sparse_reduce, sparse_update, update,
};
use crate::backend::{DeviceKind, Head, Parameters, Shape, StepFactors, Supervision};
use crate::batch::Permutation;
use crate::data::{Csr, Features, Targets, Values};
use crate::error::Result;

/// A kernel with its buffers filled, ready to run.
///
/// Layouts are those of [`Parameters`], without padding. An `order` names the rows of X, or of the labels, that the
/// samples are. Only sizes that agree are within bounds: this is for tests and benchmarks, which make them so.
pub struct Single<'g> {
    gpu: &'g Gpu,
    /// What is compiled; tests plant errors in its source.
    pub variant: Variant,
    step: Step,
    buffers: Vec<Buffer>,
    n_workgroups: usize,
    /// The buffers that the kernel writes: index, rows, and values in a row without padding.
    results: Vec<(usize, usize, usize)>,
}

impl<'g> Single<'g> {
    /// Logits of all rows of X, or of those that `order` names: (n × h·q).
    ///
    /// # Errors
    /// Those of the device.
    pub fn logits(
        gpu: &'g Gpu,
        features: &Features,
        scale: f32,
        parameters: &Parameters,
        order: Option<&[u32]>,
        tile: Tile,
    ) -> Result<Self> {
        let shape = parameters.shape;
        let n = order.map_or(features.n_samples(), <[u32]>::len);
        let buffers = vec![
            gpu.upload_features(features, 0..features.n_samples())?,
            gpu.storage_of("order", order.unwrap_or(&[]))?,
            gpu.storage_of("weights", &pad_rows(&parameters.values, shape.n_outputs()))?,
            gpu.storage("outputs", (n * padded_outputs(shape) * 4) as u64)?,
        ];
        Ok(Self {
            gpu,
            variant: logits::variant(tile, features.values().dtype(), order.is_some()),
            step: Step::new(shape, scale, 0, n),
            buffers,
            n_workgroups: logits::n_workgroups(tile, shape, n),
            results: vec![(3, n, shape.n_outputs())],
        })
    }

    /// Residual (n × h·q) and losses (groups of samples × h) of logits (n × h·q); each sample counts its
    /// weight, if there are any, over n.
    ///
    /// # Errors
    /// Those of the device.
    pub fn softmax<'t>(
        gpu: &'g Gpu,
        shape: Shape,
        logits: &[f32],
        supervision: impl Into<Supervision<'t>>,
        order: &[u32],
    ) -> Result<Self> {
        let n = order.len();
        let (buffer, labels) = upload_labels(gpu, supervision.into(), shape.n_classes)?;
        let n_groups = softmax::n_groups(shape, n);
        let buffers = vec![
            buffer,
            gpu.storage_of("order", order)?,
            gpu.storage_of("outputs", &pad_rows(logits, shape.n_outputs()))?,
            gpu.storage("losses", (n_groups * shape.n_heads * 4) as u64)?,
        ];
        Ok(Self {
            gpu,
            variant: softmax::variant(shape, labels),
            step: Step::new(shape, 1.0, 0, n),
            buffers,
            n_workgroups: softmax::n_workgroups(shape, n),
            results: vec![(2, n, shape.n_outputs()), (3, n_groups, shape.n_heads)],
        })
    }

    /// The parts of the gradient, (parts × (d + 1) × h·q), for a residual (n × h·q) of all rows of X, or of those that `order`
    /// names.
    ///
    /// # Errors
    /// Those of the device.
    pub fn gradient(
        gpu: &'g Gpu,
        shape: Shape,
        features: &Features,
        scale: f32,
        residual: &[f32],
        order: Option<&[u32]>,
        tile: Tile,
    ) -> Result<Self> {
        let n = order.map_or(features.n_samples(), <[u32]>::len);
        let step = gradient::in_parts(Step::new(shape, scale, 0, n), tile, shape);
        let n_rows = step.n_parts as usize * (shape.n_features + 1);
        let buffers = vec![
            gpu.upload_features(features, 0..features.n_samples())?,
            gpu.storage_of("order", order.unwrap_or(&[]))?,
            gpu.storage_of("residual", &pad_rows(residual, shape.n_outputs()))?,
            gpu.storage("partials", (n_rows * padded_outputs(shape) * 4) as u64)?,
        ];
        Ok(Self {
            gpu,
            variant: gradient::variant(tile, features.values().dtype(), order.is_some()),
            step,
            buffers,
            n_workgroups: gradient::n_workgroups(tile, shape, n),
            results: vec![(3, n_rows, shape.n_outputs())],
        })
    }

    /// As [`Single::logits`], on matrix units.
    ///
    /// # Errors
    /// Those of the device.
    pub fn logits_cooperative(
        gpu: &'g Gpu,
        units: MatrixUnits,
        features: &Features,
        scale: f32,
        parameters: &Parameters,
        order: &[u32],
    ) -> Result<Self> {
        Ok(Self {
            variant: logits_cooperative::variant(units, features.values().dtype()),
            n_workgroups: logits_cooperative::n_workgroups(units, parameters.shape, order.len()),
            ..Self::logits(gpu, features, scale, parameters, Some(order), Tile::ALL[0])?
        })
    }

    /// As [`Single::gradient`], on matrix units, for a residual of at most 1/n.
    ///
    /// # Errors
    /// Those of the device.
    pub fn gradient_cooperative(
        gpu: &'g Gpu,
        units: MatrixUnits,
        shape: Shape,
        features: &Features,
        scale: f32,
        residual: &[f32],
        order: &[u32],
    ) -> Result<Self> {
        let tile = Tile::choose(gpu.info.kind, shape.n_features + 1, shape.n_outputs());
        Ok(Self {
            variant: gradient_cooperative::variant(units, features.values().dtype()),
            n_workgroups: gradient_cooperative::n_workgroups(units, tile, shape, order.len()),
            ..Self::gradient(gpu, shape, features, scale, residual, Some(order), tile)?
        })
    }

    /// Parameters and moments after step t with the gradient in parts (parts × (d + 1) × h·q); the moments are v, or m and
    /// then s, each (d + 1) × h·q.
    ///
    /// # Errors
    /// Those of the device.
    pub fn update(
        gpu: &'g Gpu,
        parameters: &Parameters,
        moments: &[f32],
        partials: &[f32],
        heads: &[Head],
        rate: f32,
        t: u64,
    ) -> Result<Self> {
        let shape = parameters.shape;
        let padded = |what, values| gpu.storage_of(what, &pad_rows(values, shape.n_outputs()));
        let buffers = vec![
            padded("partials", partials)?,
            update::upload_heads(gpu, heads)?,
            padded("weights", &parameters.values)?,
            padded("moments", moments)?,
        ];
        let n_parts = (partials.len() / shape.n_parameters()) as u32;
        Ok(Self {
            gpu,
            variant: update::variant(RuleKind::of(heads)),
            step: Step { n_parts, ..Step::new(shape, 1.0, 0, 1) }.with_factors(StepFactors::new(rate, heads, t)),
            buffers,
            n_workgroups: update::n_workgroups(shape),
            results: vec![
                (2, shape.n_features + 1, shape.n_outputs()),
                (3, moments.len() / shape.n_outputs(), shape.n_outputs()),
            ],
        })
    }

    /// Residual (n × h·q) and losses (n × h) of the rows of X that `order` names; each sample counts its weight, if
    /// there are any, over n. The variant is that for devices of `kind` and batches of `batch_size`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn narrow_residual<'t>(
        gpu: &'g Gpu,
        features: &Features,
        scale: f32,
        parameters: &Parameters,
        supervision: impl Into<Supervision<'t>>,
        order: &[u32],
        (kind, batch_size): (DeviceKind, usize),
    ) -> Result<Self> {
        let (shape, n) = (parameters.shape, order.len());
        let (buffer, labels) = upload_labels(gpu, supervision.into(), shape.n_classes)?;
        let buffers = vec![
            gpu.upload_features(features, 0..features.n_samples())?,
            gpu.storage_of("order", order)?,
            buffer,
            gpu.upload_weights(parameters)?,
            gpu.storage("residual", (n * padded_outputs(shape) * 4) as u64)?,
            gpu.storage("losses", (n * shape.n_heads * 4) as u64)?,
        ];
        let sharing = narrow_residual::Sharing::choose(kind, shape, batch_size);
        Ok(Self {
            gpu,
            variant: sharing.variant(shape, features.values().dtype(), labels),
            step: Step::new(shape, scale, 0, n),
            buffers,
            n_workgroups: sharing.n_workgroups(n),
            results: vec![(4, n, shape.n_outputs()), (5, n, shape.n_heads)],
        })
    }

    /// Parameters and moments, as [`Single::update`] has them, after step t with a residual (n × h·q) of the rows of X that
    /// `order` names. The variant is that for devices of `kind` and batches of `batch_size`.
    ///
    /// # Errors
    /// Those of the device.
    #[expect(clippy::too_many_arguments, reason = "all that the kernel sees")]
    pub fn narrow_update(
        gpu: &'g Gpu,
        features: &Features,
        scale: f32,
        residual: &[f32],
        order: &[u32],
        parameters: &Parameters,
        moments: &[f32],
        heads: &[Head],
        (rate, t): (f32, u64),
        (kind, batch_size): (DeviceKind, usize),
    ) -> Result<Self> {
        let shape = parameters.shape;
        let padded = |what, values| gpu.storage_of(what, &pad_rows(values, shape.n_outputs()));
        let sharing = narrow_update::Sharing::choose(kind, batch_size);
        let buffers = vec![
            gpu.upload_features(features, 0..features.n_samples())?,
            gpu.storage_of("order", order)?,
            padded("residual", residual)?,
            update::upload_heads(gpu, heads)?,
            padded("weights", &parameters.values)?,
            padded("moments", moments)?,
        ];
        Ok(Self {
            gpu,
            variant: sharing.variant(shape, features.values().dtype(), RuleKind::of(heads)),
            step: Step::new(shape, scale, 0, order.len()).with_factors(StepFactors::new(rate, heads, t)),
            buffers,
            n_workgroups: sharing.n_workgroups(shape),
            results: vec![
                (4, shape.n_features + 1, shape.n_outputs()),
                (5, moments.len() / shape.n_outputs(), shape.n_outputs()),
            ],
        })
    }

    /// The most probable class of each sample and head (n × h), as bits, from logits (n × h·q).
    ///
    /// # Errors
    /// Those of the device.
    pub fn classes(gpu: &'g Gpu, shape: Shape, logits: &[f32]) -> Result<Self> {
        let n = logits.len() / shape.n_outputs();
        Ok(Self {
            gpu,
            variant: classes::variant(shape),
            step: Step::new(shape, 1.0, 0, n),
            buffers: vec![
                gpu.storage_of("logits", &pad_rows(logits, shape.n_outputs()))?,
                gpu.storage("classes", (n * shape.n_heads) as u64 * 4)?,
            ],
            n_workgroups: classes::n_workgroups(shape, n),
            results: vec![(1, n, shape.n_heads)],
        })
    }

    /// Loss and slope (groups of samples × points × h × 2) at points of a line, from logits (n × h·q) of a point and of a
    /// direction, samples in groups of about `group`, with lengths (points × h); targets of the samples from the row `start`
    /// on. With `residual` that, too, first, (n × h·q).
    ///
    /// # Errors
    /// Those of the device.
    #[expect(clippy::too_many_arguments, reason = "all that the kernel sees")]
    pub fn along(
        gpu: &'g Gpu,
        shape: Shape,
        (logits, direction): (&[f32], &[f32]),
        targets: &Targets,
        start: usize,
        sample_weights: &[f32],
        lengths: &[f32],
        residual: bool,
        group: usize,
    ) -> Result<Self> {
        let (n, n_points) = (sample_weights.len(), lengths.len() / shape.n_heads);
        let (labels, layout) = upload_labels(gpu, targets.into(), shape.n_classes)?;
        let least = along::samples_per_group(shape, 1);
        let samples_per_group = group.next_multiple_of(least);
        let n_groups = n.div_ceil(samples_per_group);
        let padded = |what, values| gpu.storage_of(what, &pad_rows(values, shape.n_outputs()));
        let buffers = vec![
            labels,
            gpu.storage_of("sample weights", sample_weights)?,
            gpu.storage_of("lengths", lengths)?,
            padded("logits", logits)?,
            padded("direction", direction)?,
            gpu.storage("residual", (n * padded_outputs(shape) * 4) as u64)?,
            gpu.storage("sums", (n_groups * n_points * shape.n_heads * 8) as u64)?,
        ];
        let step = Step::new(shape, 1.0, start, n);
        let (of_residual, of_sums) = ((5, n, shape.n_outputs()), (6, n_groups, n_points * shape.n_heads * 2));
        Ok(Self {
            gpu,
            variant: along::variant(shape, layout, residual),
            step: Step { n_points: n_points as u32, samples_per_part: samples_per_group as u32, ..step },
            buffers,
            n_workgroups: along::n_workgroups(shape, n, samples_per_group),
            results: if residual { vec![of_residual, of_sums] } else { vec![of_sums] },
        })
    }

    /// What a product with the Hessian has in the place of the residual (n × h·q), from logits of a point and of a vector
    /// (n × h·q).
    ///
    /// # Errors
    /// Those of the device.
    pub fn hessian(
        gpu: &'g Gpu,
        shape: Shape,
        logits: &[f32],
        vectors: &[f32],
        sample_weights: &[f32],
    ) -> Result<Self> {
        let n = sample_weights.len();
        let padded = |what, values| gpu.storage_of(what, &pad_rows(values, shape.n_outputs()));
        Ok(Self {
            gpu,
            variant: hessian::variant(shape),
            step: Step::new(shape, 1.0, 0, n),
            buffers: vec![
                gpu.storage_of("sample weights", sample_weights)?,
                padded("logits", logits)?,
                padded("vectors", vectors)?,
            ],
            n_workgroups: hessian::n_workgroups(shape, n),
            results: vec![(2, n, shape.n_outputs())],
        })
    }

    /// Logits (n × h·q) at a length of each head along a direction.
    ///
    /// # Errors
    /// Those of the device.
    pub fn advance(gpu: &'g Gpu, shape: Shape, logits: &[f32], direction: &[f32], lengths: &[f32]) -> Result<Self> {
        let n = logits.len() / shape.n_outputs();
        let padded = |what, values| gpu.storage_of(what, &pad_rows(values, shape.n_outputs()));
        Ok(Self {
            gpu,
            variant: advance::variant(),
            step: Step::new(shape, 1.0, 0, n),
            buffers: vec![
                gpu.storage_of("lengths", lengths)?,
                padded("direction", direction)?,
                padded("logits", logits)?,
            ],
            n_workgroups: advance::n_workgroups(shape, n),
            results: vec![(2, n, shape.n_outputs())],
        })
    }

    /// Sums (sums × (d + 1) × h·q) with parts of a gradient (parts × (d + 1) × h·q) added, which are numbered from
    /// `first_part` on.
    ///
    /// # Errors
    /// Those of the device.
    pub fn reduce(gpu: &'g Gpu, shape: Shape, partials: &[f32], totals: &[f32], first_part: usize) -> Result<Self> {
        let (n_parts, n_sums) = (partials.len() / shape.n_parameters(), totals.len() / shape.n_parameters());
        let padded = |what, values| gpu.storage_of(what, &pad_rows(values, shape.n_outputs()));
        let step = Step::new(shape, 1.0, 0, 1);
        Ok(Self {
            gpu,
            variant: reduce::variant(),
            step: Step { n_parts: n_parts as u32, first_part: first_part as u32, n_sums: n_sums as u32, ..step },
            buffers: vec![padded("partials", partials)?, padded("totals", totals)?],
            n_workgroups: reduce::n_workgroups(shape, n_sums),
            results: vec![(1, n_sums * (shape.n_features + 1), shape.n_outputs())],
        })
    }

    /// Logits of sparse features for a shard of W: of all rows of X, or of those that `order` names, (n × h·q), zero outside of
    /// the shard's columns.
    ///
    /// # Errors
    /// Those of the device; a setting where the features are not sparse.
    pub fn sparse_logits(
        gpu: &'g Gpu,
        features: &Features,
        scale: f32,
        parameters: &Parameters,
        order: Option<&[u32]>,
        columns: Range<usize>,
        (width, lanes): (Width, Lanes),
    ) -> Result<Self> {
        let Values::Sparse(csr) = features.values() else { return Err(Csr::unsupported()) };
        let (shape, n_columns) = (parameters.shape, columns.len());
        let n = order.map_or(features.n_samples(), <[u32]>::len);
        let [offsets, entries] = gpu.upload_sparse(csr, 0..features.n_samples())?;
        let buffers = vec![
            offsets,
            entries,
            gpu.storage_of("order", order.unwrap_or(&[]))?,
            gpu.storage_of("weights", &pick_columns(&parameters.values, shape.n_outputs(), &columns))?,
            gpu.storage("outputs", (n * padded_outputs(shape) * 4) as u64)?,
        ];
        Ok(Self {
            gpu,
            variant: sparse_logits::variant(width, lanes, order.is_some()),
            step: of_columns(Step::new(shape, scale, 0, n), &columns),
            buffers,
            n_workgroups: sparse_logits::n_workgroups(width, lanes, n_columns, n),
            results: vec![(4, n, shape.n_outputs())],
        })
    }

    /// The gradient of a shard in segments, (segments × columns), those from `first_segment` on, for a residual (n × h·q).
    ///
    /// # Errors
    /// Those of the device.
    pub fn sparse_gradient(
        gpu: &'g Gpu,
        shape: Shape,
        lists: &Transposed,
        first_segment: usize,
        residual: &[f32],
        columns: Range<usize>,
        width: Width,
    ) -> Result<Self> {
        let (n_segments, n_columns) = (lists.n_segments() - first_segment, columns.len());
        let n = residual.len() / shape.n_outputs();
        let step = of_columns(Step::new(shape, 1.0, 0, n), &columns);
        Ok(Self {
            gpu,
            variant: sparse_gradient::variant(width),
            step: Step { first_segment: first_segment as u32, n_segments: n_segments as u32, ..step },
            buffers: vec![
                gpu.storage_of("segments", &lists.segments)?,
                gpu.storage_of("members", &lists.members)?,
                gpu.storage_of("residual", &pad_rows(residual, shape.n_outputs()))?,
                gpu.storage("partials", (n_segments * n_columns * 4) as u64)?,
            ],
            n_workgroups: sparse_gradient::n_workgroups(width, n_columns, n_segments),
            results: vec![(3, n_segments, n_columns)],
        })
    }

    /// Sums (sums × (d + 1) × columns) with the segments of a shard's gradient (segments × columns) added, as block
    /// `first_part`.
    ///
    /// # Errors
    /// Those of the device.
    #[expect(clippy::too_many_arguments, reason = "all that the kernel sees")]
    pub fn sparse_reduce(
        gpu: &'g Gpu,
        shape: Shape,
        scale: f32,
        lists: &Transposed,
        partials: &[f32],
        totals: &[f32],
        first_part: usize,
        columns: Range<usize>,
    ) -> Result<Self> {
        let (n_columns, n_listed) = (columns.len(), lists.listed.len());
        let n_rows = totals.len() / n_columns;
        let step = Step {
            n_listed: n_listed as u32,
            first_part: first_part as u32,
            n_sums: (n_rows / (shape.n_features + 1)) as u32,
            ..of_columns(Step::new(shape, scale, 0, 1), &columns)
        };
        Ok(Self {
            gpu,
            variant: sparse_reduce::variant(),
            step,
            buffers: vec![
                gpu.storage_of("listed", &lists.listed)?,
                gpu.storage_of("partials", partials)?,
                gpu.storage_of("totals", totals)?,
            ],
            n_workgroups: sparse_reduce::n_workgroups(n_columns, n_listed),
            results: vec![(2, n_rows, n_columns)],
        })
    }

    /// Weights and moments of a shard after step t with the segments of its gradient (segments × columns), from the segment
    /// and the feature of the list `first` on.
    ///
    /// # Errors
    /// Those of the device.
    #[expect(clippy::too_many_arguments, reason = "all that the kernel sees")]
    pub fn sparse_update(
        gpu: &'g Gpu,
        parameters: &Parameters,
        moments: &[f32],
        scale: f32,
        lists: &Transposed,
        partials: &[f32],
        first: (usize, usize),
        heads: &[Head],
        (rate, t): (f32, u64),
        columns: Range<usize>,
    ) -> Result<Self> {
        let (shape, n_columns, rule) = (parameters.shape, columns.len(), RuleKind::of(heads));
        let m = shape.n_outputs();
        let step = Step {
            first_segment: first.0 as u32,
            first_listed: first.1 as u32,
            n_listed: (lists.listed.len() - first.1) as u32,
            ..of_columns(Step::new(shape, scale, 0, 1), &columns)
        };
        let n_updated = if sparse_update::is_lazy(rule) { step.n_listed as usize } else { shape.n_features + 1 };
        Ok(Self {
            gpu,
            variant: sparse_update::variant(rule),
            step: step.with_factors(StepFactors::new(rate, heads, t)),
            buffers: vec![
                gpu.storage_of("listed", &lists.listed)?,
                gpu.storage_of("partials", partials)?,
                update::upload_heads(gpu, heads)?,
                gpu.storage_of("weights", &pick_columns(&parameters.values, m, &columns))?,
                gpu.storage_of("moments", &pick_columns(moments, m, &columns))?,
            ],
            n_workgroups: sparse_update::n_workgroups(n_columns, n_updated),
            results: vec![(3, shape.n_features + 1, n_columns), (4, moments.len() / m, n_columns)],
        })
    }

    /// Weights and velocities of a shard after steps with these rates, when each feature of the list has had as many as it
    /// says.
    ///
    /// # Errors
    /// Those of the device.
    pub fn sparse_catch_up(
        gpu: &'g Gpu,
        parameters: &Parameters,
        moments: &[f32],
        listed: &[[u32; 4]],
        heads: &[Head],
        rates: &[f32],
        columns: Range<usize>,
    ) -> Result<Self> {
        let (shape, n_columns) = (parameters.shape, columns.len());
        let (powers, n_leaves) = sparse_catch_up::powers(heads, rates);
        let step = Step {
            n_listed: listed.len() as u32,
            n_done: rates.len() as u32,
            n_leaves: n_leaves as u32,
            ..of_columns(Step::new(shape, 1.0, 0, 1), &columns)
        };
        Ok(Self {
            gpu,
            variant: sparse_catch_up::variant(),
            step,
            buffers: vec![
                gpu.storage_of("listed", listed)?,
                gpu.storage_of("powers", &powers)?,
                gpu.storage_of("weights", &pick_columns(&parameters.values, shape.n_outputs(), &columns))?,
                gpu.storage_of("moments", &pick_columns(moments, shape.n_outputs(), &columns))?,
            ],
            n_workgroups: sparse_catch_up::n_workgroups(n_columns, listed.len()),
            results: vec![(2, shape.n_features + 1, n_columns), (3, shape.n_features + 1, n_columns)],
        })
    }

    /// The rows of a permutation, as bits.
    ///
    /// # Errors
    /// Those of the device.
    pub fn shuffle(gpu: &'g Gpu, order: &Permutation) -> Result<Self> {
        let shape = Shape { n_features: 1, n_classes: 1, n_heads: 1 };
        Ok(Self {
            gpu,
            variant: shuffle::variant(),
            step: Step::new(shape, 1.0, 0, order.n()),
            buffers: vec![gpu.storage_of("keys", order.keys())?, gpu.storage("order", order.n() as u64 * 4)?],
            n_workgroups: shuffle::n_workgroups(order.n()),
            results: vec![(1, order.n(), 1)],
        })
    }

    /// Runs the kernel `times` times and waits for it.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&self, times: usize) -> Result<()> {
        let gpu = self.gpu;
        let kernel = gpu.kernel(&self.variant)?;
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let step = gpu.buffer("the step", size_of::<Step>() as u64, usage)?;
        gpu.write("the step", &step, 0, &[self.step])?;
        let bindings = kernel.bind(gpu, &step, &self.buffers.iter().collect::<Vec<_>>())?;
        gpu.submit(self.variant.name, |encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for _ in 0..times {
                kernel.dispatch(&mut pass, &bindings, 0, self.n_workgroups);
            }
        })?;
        gpu.wait()
    }

    /// The buffers that the kernel writes, in the order of their bindings.
    ///
    /// # Errors
    /// Those of the device.
    pub fn results(&self) -> Result<Vec<Vec<f32>>> {
        self.results.iter().map(|&(buffer, rows, width)| self.read(&self.buffers[buffer], rows, width)).collect()
    }

    fn read(&self, buffer: &Buffer, rows: usize, width: usize) -> Result<Vec<f32>> {
        let gpu = self.gpu;
        let padded = width.next_multiple_of(BLOCK);
        let whole_width = if buffer.raw.size() as usize / size_of::<f32>() < rows * padded { width } else { padded };
        let readback = gpu.readback("results", buffer.raw.size())?;
        let values = gpu.read(buffer, &readback, rows * whole_width)?;
        Ok(if whole_width == width { values } else { unpad_rows(values, width) })
    }
}

/// A step for some columns.
fn of_columns(step: Step, columns: &Range<usize>) -> Step {
    Step { first_column: columns.start as u32, n_columns: columns.len() as u32, ..step }
}

/// Some columns of rows of `width`; those past the end are zero.
fn pick_columns(values: &[f32], width: usize, columns: &Range<usize>) -> Vec<f32> {
    let of_row =
        |row: &[f32]| columns.clone().map(|column| row.get(column).copied().unwrap_or(0.0)).collect::<Vec<_>>();
    values.chunks_exact(width).flat_map(of_row).collect()
}

/// The labels of all samples, and what is in them.
fn upload_labels(gpu: &Gpu, supervision: Supervision, n_classes: usize) -> Result<(Buffer, LabelLayout)> {
    let n_samples = match supervision.targets {
        Targets::Classes(classes) => classes.len(),
        Targets::Distributions(values) => values.len() / n_classes,
    };
    let labels = LabelLayout::of(supervision);
    Ok((labels.upload(gpu, supervision, n_classes, 0..n_samples)?, labels))
}
