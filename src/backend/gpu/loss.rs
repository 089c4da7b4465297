//! The loss over all samples, and along a line: for one block of rows after the other its kernels, in as few submissions as
//! their arithmetic allows, and one readback.
//!
//! The logits of the point and of the direction stay on the device, in blocks of rows that a kernel can see at once; those
//! of a vector and residuals go from one kernel to the next in a block that all share. Losses and slopes come back as sums
//! of groups of samples, the gradient as a few sums of its parts, and are summed here in double precision, in a fixed order.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use wgpu::BufferUsages;

use super::kernel::{Kernel, Tile};
use super::labels::LabelLayout;
use super::memory::{Buffer, pad_rows};
use super::session::GpuSession;
use super::step::{Step, padded_outputs, weights_bytes};
use super::stepper::{FLOPS, STEP_STRIDE, write_steps};
use super::{advance, along, gradient, hessian, logits, reduce};
use crate::backend::{Evaluation, Loss, Point, Shape, Supervision, check};
use crate::error::Result;

/// The logits of a block are no larger than this, in bytes.
const BLOCK_BYTES: u64 = 64 << 20;
/// A part of a gradient has no more samples than this where it can be: the loops of the kernel have a few rounds for each, of
/// which Mesa's software Vulkan allows 65,535; and the fewer are added in single precision the better.
const SAMPLES_PER_PART: usize = 16_384;
/// Parts of a gradient come back as up to so many sums, of up to so many bytes together.
const SUMS: usize = 16;
const SUMS_BYTES: u64 = 2 << 20;

/// What stands in the buffer of steps, once for each block.
#[derive(Clone, Copy)]
enum Told {
    /// What products are told, and all kernels that know no points of a line.
    Product,
    /// What is told of one point.
    Point,
    /// What is told of several points, in each call anew.
    Points,
}

/// Rows of a chunk, with their logits.
struct Block {
    n_samples: usize,
    /// The number of its first group of samples, and the first after.
    groups: Range<usize>,
    step: Step,
    _logits: Buffer,
    direction: Buffer,
    _sample_weights: Buffer,
    /// The bindings of the kernels.
    point_logits: wgpu::BindGroup,
    direction_logits: wgpu::BindGroup,
    vector_logits: wgpu::BindGroup,
    along: wgpu::BindGroup,
    residual: wgpu::BindGroup,
    hessian: wgpu::BindGroup,
    gradient: wgpu::BindGroup,
    advance: wgpu::BindGroup,
}

/// The kernels; `residual` is `along` for one point, with the residual.
struct Kernels {
    logits: Arc<Kernel>,
    along: Arc<Kernel>,
    residual: Arc<Kernel>,
    hessian: Arc<Kernel>,
    gradient: Arc<Kernel>,
    reduce: Arc<Kernel>,
    advance: Arc<Kernel>,
}

/// A kernel to run.
struct Work<'a> {
    kernel: &'a Kernel,
    bindings: &'a wgpu::BindGroup,
    told: Told,
    block: usize,
    n_workgroups: usize,
    flops: f64,
    is_product: bool,
}

pub(super) struct GpuLoss<'s> {
    session: &'s GpuSession<'s>,
    shape: Shape,
    kernels: Kernels,
    logits_tile: Tile,
    gradient_tile: Tile,
    blocks: Vec<Block>,
    samples_per_group: usize,
    n_groups: usize,
    n_sums: usize,
    /// Whether there is a direction; without one its logits are zeros.
    has_direction: bool,
    steps: Buffer,
    /// The parameters, the direction or the vector that a product is made with.
    weights: Buffer,
    lengths: Buffer,
    /// Losses and slopes of the groups.
    sums: Buffer,
    /// Sums of the parts of the gradient, and how they are made.
    totals: Buffer,
    reduce: wgpu::BindGroup,
    _shared: [Buffer; 2],
    readback: Buffer,
}

/// Ranges of about the same size, none larger than `most`.
fn evenly(n: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = n.div_ceil(most).max(1);
    (0..count).map(move |i| n * i / count..n * (i + 1) / count)
}

/// What a sample counts: its weight over the sum of all.
fn sample_weights(supervision: Supervision, n_samples: usize) -> Vec<f32> {
    match supervision.weights {
        None => vec![(1.0 / n_samples as f64) as f32; n_samples],
        Some(weights) => {
            let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            weights.iter().map(|&weight| (f64::from(weight) / sum) as f32).collect()
        }
    }
}

impl<'s> GpuLoss<'s> {
    pub(super) fn new(session: &'s GpuSession<'s>, shape: Shape, supervision: Supervision) -> Result<Self> {
        const OUTPUTS_ADVICE: &str = "use fewer classes or heads, or the device `cpu`";
        let gpu = session.gpu;
        let row_bytes = padded_outputs(shape) as u64 * 4;
        gpu.check_binding("one sample's logits", row_bytes, OUTPUTS_ADVICE)?;
        gpu.check_binding("the weights", weights_bytes(shape), OUTPUTS_ADVICE)?;

        // No block is more than a submission should have of a product, nor larger than a kernel can see.
        let gradient_tile = Tile::choose(gpu.info.kind, shape.n_features + 1, shape.n_outputs());
        let for_memory = (BLOCK_BYTES.min(gpu.max_chunk()) / row_bytes) as usize;
        let for_time = (FLOPS / product_flops(shape, 1)) as usize;
        let for_parts = gradient::max_parts(gradient_tile, shape, usize::MAX).saturating_mul(SAMPLES_PER_PART);
        let max_rows = for_memory.min(for_time).min(for_parts).max(1);
        let rows_of_blocks: Vec<(usize, Range<usize>)> = (0..)
            .zip(&session.ranges)
            .flat_map(|(chunk, range)| evenly(range.len(), max_rows).map(move |rows| (chunk, rows)))
            .collect();
        let largest = rows_of_blocks.iter().map(|(_, rows)| rows.len()).max().unwrap_or(1);
        let logits_tile = Tile::choose(gpu.info.kind, largest, shape.n_outputs());

        let labels = LabelLayout::of(supervision);
        let variants = [
            logits::variant(logits_tile, session.dtype, false),
            along::variant(shape, labels, false),
            along::variant(shape, labels, true),
            hessian::variant(shape),
            gradient::variant(gradient_tile, session.dtype, false),
            reduce::variant(),
            advance::variant(),
        ];
        gpu.compile(&variants)?;
        let [logits, along, residual, hessian, gradient, reduce, advance] =
            variants.map(|variant| gpu.kernel(&variant));
        let kernels = Kernels {
            logits: logits?,
            along: along?,
            residual: residual?,
            hessian: hessian?,
            gradient: gradient?,
            reduce: reduce?,
            advance: advance?,
        };

        // What each block is told, but for the sums of parts, whose number comes of that of the parts.
        let samples_per_group = along::samples_per_group(shape, session.n_samples());
        let (mut n_groups, mut n_parts) = (0, 0);
        let mut steps: Vec<(Step, Range<usize>)> = Vec::new();
        for (_, rows) in &rows_of_blocks {
            let groups = n_groups..n_groups + rows.len().div_ceil(samples_per_group);
            n_groups = groups.end;
            let step = Step::new(shape, session.scale, rows.start, rows.len());
            let step = Step { first_part: n_parts, ..gradient::in_parts(step, gradient_tile, shape) };
            n_parts += step.n_parts;
            steps.push((step, groups));
        }
        let n_sums = ((SUMS_BYTES / weights_bytes(shape)) as usize).min(SUMS).min(n_parts as usize).max(1);

        let sums_bytes = (n_groups * along::MAX_POINTS * shape.n_heads) as u64 * 8;
        gpu.check_binding("the losses of groups of samples", sums_bytes, "use fewer heads")?;
        let totals_bytes = n_sums as u64 * weights_bytes(shape);
        let weights = gpu.storage("the weights", weights_bytes(shape))?;
        let lengths = gpu.storage("the lengths", (along::MAX_POINTS * shape.n_heads) as u64 * 4)?;
        let sums = gpu.storage("the losses", sums_bytes)?;
        let totals = gpu.storage("the gradient", totals_bytes)?;
        let scratch = gpu.storage("the residual", largest as u64 * row_bytes)?;
        let max_parts = gradient::max_parts(gradient_tile, shape, largest) as u64;
        let partials = gpu.storage("the parts of the gradient", max_parts * weights_bytes(shape))?;
        let readback_bytes = sums_bytes.max((n_groups * shape.n_heads) as u64 * 8 + totals_bytes);
        let steps_bytes = (3 * rows_of_blocks.len() * STEP_STRIDE) as u64;
        let steps_buffer = gpu.buffer("the steps", steps_bytes, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;

        let counts = sample_weights(supervision, session.n_samples());
        let mut blocks = Vec::new();
        for ((chunk, rows), (step, groups)) in rows_of_blocks.into_iter().zip(steps) {
            let first = session.ranges[chunk].start;
            let chunk = &session.chunks[chunk];
            let (features, labels) = (&chunk.features, &chunk.labels);
            let logits = gpu.storage("the logits", rows.len() as u64 * row_bytes)?;
            let direction = gpu.storage("the logits of a direction", rows.len() as u64 * row_bytes)?;
            let sample_weights =
                gpu.storage_of("the weights of samples", &counts[first + rows.start..first + rows.end])?;
            // Without an order, its binding is not read.
            let product = |outputs| kernels.logits.bind(gpu, &steps_buffer, &[features, &weights, &weights, outputs]);
            let line = [labels, &sample_weights, &lengths, &logits, &direction, &scratch, &sums];
            blocks.push(Block {
                n_samples: rows.len(),
                groups,
                step: Step { n_sums: n_sums as u32, ..step },
                point_logits: product(&logits)?,
                direction_logits: product(&direction)?,
                vector_logits: product(&scratch)?,
                along: kernels.along.bind(gpu, &steps_buffer, &line)?,
                residual: kernels.residual.bind(gpu, &steps_buffer, &line)?,
                hessian: kernels.hessian.bind(gpu, &steps_buffer, &[&sample_weights, &logits, &scratch])?,
                gradient: kernels.gradient.bind(gpu, &steps_buffer, &[features, &weights, &scratch, &partials])?,
                advance: kernels.advance.bind(gpu, &steps_buffer, &[&lengths, &direction, &logits])?,
                _logits: logits,
                direction,
                _sample_weights: sample_weights,
            });
        }
        let loss = Self {
            reduce: kernels.reduce.bind(gpu, &steps_buffer, &[&partials, &totals])?,
            readback: gpu.readback("losses and gradient", readback_bytes)?,
            session,
            shape,
            kernels,
            logits_tile,
            gradient_tile,
            blocks,
            samples_per_group,
            n_groups,
            n_sums,
            has_direction: false,
            steps: steps_buffer,
            weights,
            lengths,
            sums,
            totals,
            _shared: [scratch, partials],
        };
        loss.write_steps(Told::Product, |block| block.step)?;
        loss.write_steps(Told::Point, |block| loss.points(block, 1))?;
        gpu.flush()?;
        Ok(loss)
    }

    /// What is told of a block at `n_points` points.
    fn points(&self, block: &Block, n_points: usize) -> Step {
        Step {
            n_points: n_points as u32,
            samples_per_part: self.samples_per_group as u32,
            losses_start: (block.groups.start * n_points) as u32,
            ..block.step
        }
    }

    fn write_steps(&self, told: Told, step: impl Fn(&Block) -> Step) -> Result<()> {
        let steps = write_steps(self.blocks.iter().map(step));
        let offset = told as u64 * steps.len() as u64;
        self.session.gpu.write("the steps", &self.steps, offset, &steps)
    }

    /// What the next products with X are made with.
    fn write_weights(&self, values: &[f64]) -> Result<()> {
        check::values_of(self.shape, values)?;
        let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        self.session.gpu.write("the weights", &self.weights, 0, &pad_rows(&values, self.shape.n_outputs()))
    }

    fn write_lengths(&self, t: &[f64]) -> Result<()> {
        let t: Vec<f32> = t.iter().map(|&t| t as f32).collect();
        self.session.gpu.write("the lengths", &self.lengths, 0, &t)
    }

    /// A product X·W of a block.
    fn product<'a>(&'a self, block: usize, bindings: &'a wgpu::BindGroup) -> Work<'a> {
        let n_samples = self.blocks[block].n_samples;
        Work {
            kernel: &self.kernels.logits,
            bindings,
            told: Told::Product,
            block,
            n_workgroups: logits::n_workgroups(self.logits_tile, self.shape, n_samples),
            flops: product_flops(self.shape, n_samples),
            is_product: true,
        }
    }

    /// The product Xᵀ·R of a block, and its parts added to the sums.
    fn parts_of_gradient(&self, block: usize) -> [Work<'_>; 2] {
        let of_block = &self.blocks[block];
        let product = Work {
            kernel: &self.kernels.gradient,
            bindings: &of_block.gradient,
            told: Told::Product,
            block,
            n_workgroups: gradient::n_workgroups(self.gradient_tile, self.shape, of_block.n_samples),
            flops: product_flops(self.shape, of_block.n_samples),
            is_product: true,
        };
        let reduce = Work {
            kernel: &self.kernels.reduce,
            bindings: &self.reduce,
            n_workgroups: reduce::n_workgroups(self.shape, self.n_sums),
            flops: f64::from(of_block.step.n_parts) * self.shape.n_parameters() as f64,
            is_product: false,
            ..product
        };
        [product, reduce]
    }

    /// A kernel with about `flops` for each logit of a block.
    fn elementwise<'a>(
        &self,
        (kernel, bindings): (&'a Kernel, &'a wgpu::BindGroup),
        told: Told,
        block: usize,
        n_workgroups: usize,
        flops: usize,
    ) -> Work<'a> {
        let n_logits = self.blocks[block].n_samples * self.shape.n_outputs();
        Work { kernel, bindings, told, block, n_workgroups, flops: (n_logits * flops) as f64, is_product: false }
    }

    /// Losses and slopes of a block, at one point with the residual or at several.
    fn line(&self, block: usize, told: Told, n_points: usize) -> Work<'_> {
        /// Arithmetic for a logit, an exponential and a few more.
        const FLOPS_OF_LOGIT: usize = 50;
        let (of_block, kernels) = (&self.blocks[block], &self.kernels);
        let kernel = match told {
            Told::Points => (&*kernels.along, &of_block.along),
            Told::Point | Told::Product => (&*kernels.residual, &of_block.residual),
        };
        let n_workgroups = along::n_workgroups(self.shape, of_block.n_samples, self.samples_per_group);
        self.elementwise(kernel, told, block, n_workgroups, n_points * FLOPS_OF_LOGIT)
    }

    /// Hands the device `work`, in as many submissions as its arithmetic asks for, and with the last of them the copies of
    /// the first bytes of buffers to the readback buffer, one after the other.
    fn submit(&self, work: &[Work], copies: &[(&Buffer, u64)]) -> Result<()> {
        let gpu = self.session.gpu;
        let mut rest = work;
        loop {
            let mut flops = 0.0;
            let fits = |work: &&Work| {
                flops += work.flops;
                flops <= FLOPS
            };
            // One that is too large is alone.
            let n = rest.iter().take_while(fits).count().max(1).min(rest.len());
            let (now, later) = rest.split_at(n);
            gpu.submit("the loss", |encoder| {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for work in now {
                    let offset = (work.told as usize * self.blocks.len() + work.block) * STEP_STRIDE;
                    work.kernel.dispatch(&mut pass, work.bindings, offset as u32, work.n_workgroups);
                }
                drop(pass);
                if later.is_empty() {
                    let mut offset = 0;
                    for &(buffer, bytes) in copies {
                        encoder.copy_buffer_to_buffer(&buffer.raw, 0, &self.readback.raw, offset, bytes);
                        offset += bytes;
                    }
                }
            })?;
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        gpu.counts.dispatches.fetch_add(work.len(), Ordering::Relaxed);
        gpu.counts.products.fetch_add(work.iter().filter(|work| work.is_product).count(), Ordering::Relaxed);
        Ok(())
    }

    /// Has the device do `work`, then losses and slopes at `n_points` points read back, and with `gradient` that, too.
    fn read(&self, work: &[Work], n_points: usize, gradient: bool) -> Result<(Vec<Point>, Vec<f64>)> {
        let n_heads = self.shape.n_heads;
        let n_values = self.n_groups * n_points * n_heads * 2;
        let n_totals = if gradient { self.n_sums * (weights_bytes(self.shape) / 4) as usize } else { 0 };
        let copies = [(&self.sums, n_values as u64 * 4), (&self.totals, n_totals as u64 * 4)];
        let copies: Vec<_> = copies.into_iter().filter(|(_, bytes)| *bytes > 0).collect();
        self.submit(work, &copies)?;
        let values: Vec<f32> = self.session.gpu.map(&self.readback, n_values + n_totals)?;
        let (sums, totals) = values.split_at(n_values);

        let mut points = vec![Point { losses: vec![0.0; n_heads], slopes: vec![0.0; n_heads] }; n_points];
        // The groups of all blocks one after the other, and in each the points, and at each the heads.
        for (i, sum) in sums.chunks_exact(2).enumerate() {
            let point = &mut points[i / n_heads % n_points];
            point.losses[i % n_heads] += f64::from(sum[0]);
            point.slopes[i % n_heads] += f64::from(sum[1]);
        }
        let gradient = if gradient { self.sum_of(totals) } else { Vec::new() };
        Ok((points, gradient))
    }

    /// The sum of sums of the gradient, without the padding of their rows.
    fn sum_of(&self, totals: &[f32]) -> Vec<f64> {
        let (m, padded) = (self.shape.n_outputs(), padded_outputs(self.shape));
        let mut gradient = vec![0.0; self.shape.n_parameters()];
        for total in totals.chunks_exact((self.shape.n_features + 1) * padded) {
            for (sums, values) in gradient.chunks_exact_mut(m).zip(total.chunks_exact(padded)) {
                sums.iter_mut().zip(values).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
        gradient
    }

    /// The loss and its gradient at the lengths that the device has, after `first` of each block.
    fn evaluate<'a>(&'a self, first: impl Fn(usize) -> Option<Work<'a>>) -> Result<Evaluation> {
        let work: Vec<_> = (0..self.blocks.len())
            .flat_map(|block| {
                let [product, reduce] = self.parts_of_gradient(block);
                first(block).into_iter().chain([self.line(block, Told::Point, 1), product, reduce])
            })
            .collect();
        let (mut points, gradient) = self.read(&work, 1, true)?;
        Ok(Evaluation { point: points.remove(0), gradient })
    }
}

/// Floating point operations of a product with that many rows of X.
fn product_flops(shape: Shape, n_samples: usize) -> f64 {
    2.0 * n_samples as f64 * (shape.n_features + 1) as f64 * shape.n_outputs() as f64
}

impl Loss for GpuLoss<'_> {
    fn is_double(&self) -> bool {
        false
    }

    fn start(&mut self, parameters: &[f64]) -> Result<Evaluation> {
        self.write_weights(parameters)?;
        self.write_lengths(&vec![0.0; self.shape.n_heads])?;
        if self.has_direction {
            self.session.gpu.submit("no direction", |encoder| {
                self.blocks.iter().for_each(|block| encoder.clear_buffer(&block.direction.raw, 0, None));
            })?;
            self.has_direction = false;
        }
        self.evaluate(|block| Some(self.product(block, &self.blocks[block].point_logits)))
    }

    fn look(&mut self, direction: &[f64], t: &[f64]) -> Result<Evaluation> {
        check::lengths(self.shape, 1, t)?;
        self.write_weights(direction)?;
        self.write_lengths(t)?;
        self.has_direction = true;
        self.evaluate(|block| Some(self.product(block, &self.blocks[block].direction_logits)))
    }

    fn gradient(&mut self, t: &[f64]) -> Result<Evaluation> {
        check::lengths(self.shape, 1, t)?;
        self.write_lengths(t)?;
        self.evaluate(|_| None)
    }

    fn along(&mut self, t: &[f64]) -> Result<Vec<Point>> {
        let n_heads = self.shape.n_heads;
        check::lengths(self.shape, t.len().div_ceil(n_heads), t)?;
        let mut points = Vec::new();
        for t in t.chunks(along::MAX_POINTS * n_heads) {
            let n_points = t.len() / n_heads;
            self.write_steps(Told::Points, |block| self.points(block, n_points))?;
            self.write_lengths(t)?;
            let work: Vec<_> = (0..self.blocks.len()).map(|block| self.line(block, Told::Points, n_points)).collect();
            points.extend(self.read(&work, n_points, false)?.0);
        }
        Ok(points)
    }

    fn advance(&mut self, t: &[f64]) -> Result<()> {
        check::lengths(self.shape, 1, t)?;
        self.write_lengths(t)?;
        let work = |block: usize| {
            let of_block = &self.blocks[block];
            let n_workgroups = advance::n_workgroups(self.shape, of_block.n_samples);
            self.elementwise((&self.kernels.advance, &of_block.advance), Told::Product, block, n_workgroups, 2)
        };
        self.submit(&(0..self.blocks.len()).map(work).collect::<Vec<_>>(), &[])
    }

    fn hessian_vector(&mut self, vector: &[f64]) -> Result<Vec<f64>> {
        /// Arithmetic for a logit, two exponentials and a few more.
        const FLOPS_OF_LOGIT: usize = 50;
        self.write_weights(vector)?;
        let work: Vec<_> = (0..self.blocks.len())
            .flat_map(|block| {
                let of_block = &self.blocks[block];
                let kernel = (&*self.kernels.hessian, &of_block.hessian);
                let n_workgroups = hessian::n_workgroups(self.shape, of_block.n_samples);
                let hessian = self.elementwise(kernel, Told::Product, block, n_workgroups, FLOPS_OF_LOGIT);
                let [product, reduce] = self.parts_of_gradient(block);
                [self.product(block, &of_block.vector_logits), hessian, product, reduce]
            })
            .collect();
        Ok(self.read(&work, 0, true)?.1)
    }
}
