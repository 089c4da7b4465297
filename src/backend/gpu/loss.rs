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

use super::kernel::Kernel;
use super::labels::LabelLayout;
use super::memory::Buffer;
use super::products::{Dense, Products, Run, Shared, Sparse};
use super::session::GpuSession;
use super::shards::Shards;
use super::step::{Step, padded_outputs};
use super::stepper::{FLOPS, STEP_STRIDE, write_steps};
use super::{advance, along, hessian};
use crate::backend::{Evaluation, Loss, Point, Shape, Supervision, check};
use crate::error::Result;

/// Parts of a gradient come back as up to so many sums, of up to so many bytes together.
const SUMS: usize = 16;
const SUMS_BYTES: u64 = 2 << 20;

/// What stands in the buffer of steps, once for each block.
#[derive(Clone, Copy)]
enum Told {
    /// What is told of one point.
    Point,
    /// What is told of several points, in each call anew.
    Points,
    /// What products with a shard of W are told; of the first one also what knows no points of a line.
    Product(usize),
}

impl Told {
    /// Where it stands among what is told of a block.
    fn number(self) -> usize {
        match self {
            Self::Point => 0,
            Self::Points => 1,
            Self::Product(shard) => 2 + shard,
        }
    }
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
    /// The products.
    point_logits: Vec<Run>,
    direction_logits: Vec<Run>,
    vector_logits: Vec<Run>,
    gradient: Vec<Run>,
    /// The bindings of the other kernels.
    along: wgpu::BindGroup,
    residual: wgpu::BindGroup,
    hessian: wgpu::BindGroup,
    advance: wgpu::BindGroup,
}

/// The kernels beside the products; `residual` is `along` for one point, with the residual.
struct Kernels {
    along: Arc<Kernel>,
    residual: Arc<Kernel>,
    hessian: Arc<Kernel>,
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
    products: Box<dyn Products + 's>,
    blocks: Vec<Block>,
    samples_per_group: usize,
    n_groups: usize,
    n_sums: usize,
    /// Whether there is a direction; without one its logits are zeros.
    has_direction: bool,
    steps: Buffer,
    shards: Shards,
    /// The parameters, the direction or the vector that a product is made with, by shard.
    weights: Vec<Buffer>,
    lengths: Buffer,
    /// Losses and slopes of the groups.
    sums: Buffer,
    /// Sums of the parts of the gradient, by shard.
    totals: Vec<Buffer>,
    _shared: [Buffer; 2],
    readback: Buffer,
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
        let gpu = session.gpu;
        let row_bytes = padded_outputs(shape) as u64 * 4;
        gpu.check_binding("one sample's logits", row_bytes, "use fewer classes or heads, or the device `cpu`")?;
        let shards = session.shards(shape, 1)?;
        let products: Box<dyn Products> = match session.sparse {
            Some(csr) => Box::new(Sparse::new(session, csr, shape, &shards)?),
            None => Box::new(Dense::new(session, shape)?),
        };

        let labels = LabelLayout::of(supervision);
        let variants = [
            along::variant(shape, labels, false),
            along::variant(shape, labels, true),
            hessian::variant(shape),
            advance::variant(),
        ];
        gpu.compile(&variants)?;
        let [along, residual, hessian, advance] = variants.map(|variant| gpu.kernel(&variant));
        let kernels = Kernels { along: along?, residual: residual?, hessian: hessian?, advance: advance? };

        // What each block is told, but for the sums of parts, whose number comes of that of the parts.
        let rows_of_blocks = products.blocks();
        let largest = rows_of_blocks.iter().map(|(_, rows)| rows.len()).max().unwrap_or(1);
        let samples_per_group = along::samples_per_group(shape, session.n_samples());
        let (mut n_groups, mut n_parts) = (0, 0);
        let mut steps: Vec<(Step, Range<usize>)> = Vec::new();
        for (block, (_, rows)) in rows_of_blocks.iter().enumerate() {
            let groups = n_groups..n_groups + rows.len().div_ceil(samples_per_group);
            n_groups = groups.end;
            let step = products.step(block, Step::new(shape, session.scale, rows.start, rows.len()), n_parts);
            n_parts += step.n_parts;
            steps.push((step, groups));
        }
        let n_sums = ((SUMS_BYTES / shards.most_bytes()) as usize).min(SUMS).min(n_parts as usize).max(1);

        let sums_bytes = (n_groups * along::MAX_POINTS * shape.n_heads) as u64 * 8;
        gpu.check_binding("the losses of groups of samples", sums_bytes, "use fewer heads")?;
        let of_shards = |what, n_arrays: usize| -> Result<Vec<Buffer>> {
            let bytes = |shard| (n_arrays * shards.n_values(shard)) as u64 * 4;
            (0..shards.count()).map(|shard| gpu.storage(what, bytes(shard))).collect()
        };
        let weights = of_shards("the weights", 1)?;
        let totals = of_shards("the gradient", n_sums)?;
        let lengths = gpu.storage("the lengths", (along::MAX_POINTS * shape.n_heads) as u64 * 4)?;
        let sums = gpu.storage("the losses", sums_bytes)?;
        let scratch = gpu.storage("the residual", largest as u64 * row_bytes)?;
        let partials = gpu.storage("the parts of the gradient", products.partials_bytes())?;
        let totals_bytes: u64 = totals.iter().map(|totals| totals.raw.size()).sum();
        let readback_bytes = sums_bytes.max((n_groups * shape.n_heads) as u64 * 8 + totals_bytes);
        let steps_bytes = ((2 + shards.count()) * rows_of_blocks.len() * STEP_STRIDE) as u64;
        let steps_buffer = gpu.buffer("the steps", steps_bytes, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;

        let counts = sample_weights(supervision, session.n_samples());
        let shared = Shared {
            steps: &steps_buffer,
            weights: &weights,
            residual: &scratch,
            partials: &partials,
            totals: &totals,
        };
        let mut blocks = Vec::new();
        for (block, ((chunk, rows), (step, groups))) in rows_of_blocks.iter().zip(steps).enumerate() {
            let first = session.ranges[*chunk].start;
            let labels = &session.chunks[*chunk].labels;
            let logits = gpu.storage("the logits", rows.len() as u64 * row_bytes)?;
            let direction = gpu.storage("the logits of a direction", rows.len() as u64 * row_bytes)?;
            let sample_weights =
                gpu.storage_of("the weights of samples", &counts[first + rows.start..first + rows.end])?;
            let line = [labels, &sample_weights, &lengths, &logits, &direction, &scratch, &sums];
            let step = Step { n_sums: n_sums as u32, ..step };
            blocks.push(Block {
                n_samples: rows.len(),
                groups,
                step,
                point_logits: products.logits(block, &shared, &logits)?,
                direction_logits: products.logits(block, &shared, &direction)?,
                vector_logits: products.logits(block, &shared, &scratch)?,
                gradient: products.gradient(block, &shared, step)?,
                along: kernels.along.bind(gpu, &steps_buffer, &line)?,
                residual: kernels.residual.bind(gpu, &steps_buffer, &line)?,
                hessian: kernels.hessian.bind(gpu, &steps_buffer, &[&sample_weights, &logits, &scratch])?,
                advance: kernels.advance.bind(gpu, &steps_buffer, &[&lengths, &direction, &logits])?,
                _logits: logits,
                direction,
                _sample_weights: sample_weights,
            });
        }
        let loss = Self {
            readback: gpu.readback("losses and gradient", readback_bytes)?,
            session,
            shape,
            kernels,
            products,
            blocks,
            samples_per_group,
            n_groups,
            n_sums,
            has_direction: false,
            steps: steps_buffer,
            shards,
            weights,
            lengths,
            sums,
            totals,
            _shared: [scratch, partials],
        };
        for shard in 0..loss.shards.count() {
            loss.write_steps(Told::Product(shard), |block| loss.shards.step(shard, block.step))?;
        }
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
        let offset = told.number() as u64 * steps.len() as u64;
        self.session.gpu.write("the steps", &self.steps, offset, &steps)
    }

    /// What the next products with X are made with, on the device.
    fn write_weights(&self, values: &[f64]) -> Result<()> {
        check::values_of(self.shape, values)?;
        for (shard, weights) in self.weights.iter().enumerate() {
            let of_shard = self.shards.gather(shard, values, |value| value as f32);
            self.session.gpu.write("the weights", weights, 0, &of_shard)?;
        }
        Ok(())
    }

    fn write_lengths(&self, t: &[f64]) -> Result<()> {
        let t: Vec<f32> = t.iter().map(|&t| t as f32).collect();
        self.session.gpu.write("the lengths", &self.lengths, 0, &t)
    }

    /// Kernels of a product of a block.
    fn product<'a>(&self, block: usize, runs: &'a [Run]) -> impl Iterator<Item = Work<'a>> {
        runs.iter().map(move |run| Work {
            kernel: &run.kernel,
            bindings: &run.bindings,
            told: Told::Product(run.shard),
            block,
            n_workgroups: run.n_workgroups,
            flops: run.flops,
            is_product: run.is_product,
        })
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
            Told::Point | Told::Product(_) => (&*kernels.residual, &of_block.residual),
        };
        let n_workgroups = along::n_workgroups(self.shape, of_block.n_samples, self.samples_per_group);
        self.elementwise(kernel, told, block, n_workgroups, n_points * FLOPS_OF_LOGIT)
    }

    /// Hands the device `work`, in as many submissions as its arithmetic asks for; before the first of them some buffers
    /// are set to zero, and with the last go the copies of the first bytes of buffers to the readback buffer, one after the
    /// other.
    fn submit(&self, work: &[Work], zeros: &[Buffer], copies: &[(&Buffer, u64)]) -> Result<()> {
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
                if rest.len() == work.len() {
                    zeros.iter().for_each(|buffer| encoder.clear_buffer(&buffer.raw, 0, None));
                }
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for work in now {
                    let offset = (work.told.number() * self.blocks.len() + work.block) * STEP_STRIDE;
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
        let totals = if gradient { &self.totals[..] } else { &[] };
        let of_totals = |shard: usize| self.n_sums * self.shards.n_values(shard);
        let n_totals: usize = (0..totals.len()).map(of_totals).sum();
        let copies = totals.iter().enumerate().map(|(shard, totals)| (totals, of_totals(shard) as u64 * 4));
        let copies: Vec<_> =
            [(&self.sums, n_values as u64 * 4)].into_iter().chain(copies).filter(|(_, bytes)| *bytes > 0).collect();
        let zeros = if self.products.begins_with_zeros() { totals } else { &[] };
        self.submit(work, zeros, &copies)?;
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

    /// The sum of sums of the gradient of all shards, without the padding of their rows.
    fn sum_of(&self, totals: &[f32]) -> Vec<f64> {
        let mut gradient = vec![0.0; self.shape.n_parameters()];
        let mut rest = totals;
        for shard in 0..self.shards.count() {
            let n_values = self.shards.n_values(shard);
            let (of_shard, others) = rest.split_at(self.n_sums * n_values);
            for total in of_shard.chunks_exact(n_values) {
                self.shards.scatter(shard, total, &mut gradient, |sum, value| *sum += f64::from(value));
            }
            rest = others;
        }
        gradient
    }

    /// The loss and its gradient at the lengths that the device has, after `first` of each block.
    fn evaluate<'a>(&'a self, first: impl Fn(&'a Block) -> &'a [Run]) -> Result<Evaluation> {
        let of_block = |(block, runs): (usize, &'a Block)| {
            let line = [self.line(block, Told::Point, 1)];
            self.product(block, first(runs)).chain(line).chain(self.product(block, &runs.gradient))
        };
        let work: Vec<_> = self.blocks.iter().enumerate().flat_map(of_block).collect();
        let (mut points, gradient) = self.read(&work, 1, true)?;
        Ok(Evaluation { point: points.remove(0), gradient })
    }
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
        self.evaluate(|block| &block.point_logits)
    }

    fn look(&mut self, direction: &[f64], t: &[f64]) -> Result<Evaluation> {
        check::lengths(self.shape, 1, t)?;
        self.write_weights(direction)?;
        self.write_lengths(t)?;
        self.has_direction = true;
        self.evaluate(|block| &block.direction_logits)
    }

    fn aim(&mut self, direction: &[f64]) -> Result<()> {
        self.write_weights(direction)?;
        self.has_direction = true;
        let blocks = self.blocks.iter().enumerate();
        let work: Vec<_> =
            blocks.flat_map(|(block, of_block)| self.product(block, &of_block.direction_logits)).collect();
        self.submit(&work, &[], &[])
    }

    fn gradient(&mut self, t: &[f64]) -> Result<Evaluation> {
        check::lengths(self.shape, 1, t)?;
        self.write_lengths(t)?;
        self.evaluate(|_| &[])
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
            self.elementwise((&self.kernels.advance, &of_block.advance), Told::Product(0), block, n_workgroups, 2)
        };
        self.submit(&(0..self.blocks.len()).map(work).collect::<Vec<_>>(), &[], &[])
    }

    fn hessian_vector(&mut self, vector: &[f64]) -> Result<Vec<f64>> {
        /// Arithmetic for a logit, two exponentials and a few more.
        const FLOPS_OF_LOGIT: usize = 50;
        self.write_weights(vector)?;
        let work: Vec<_> = self
            .blocks
            .iter()
            .enumerate()
            .flat_map(|(block, of_block)| {
                let kernel = (&*self.kernels.hessian, &of_block.hessian);
                let n_workgroups = hessian::n_workgroups(self.shape, of_block.n_samples);
                let hessian = self.elementwise(kernel, Told::Product(0), block, n_workgroups, FLOPS_OF_LOGIT);
                let gradient = self.product(block, &of_block.gradient);
                self.product(block, &of_block.vector_logits).chain([hessian]).chain(gradient)
            })
            .collect();
        Ok(self.read(&work, 0, true)?.1)
    }
}
