//! Optimizer steps: for one batch after the other its kernels, in one submission for many batches, with nothing read back
//! until the epoch's losses.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wgpu::BufferUsages;

use super::kernel::{Kernel, Variant};
use super::memory::{Buffer, unpad_rows};
use super::session::{Chunk, GpuSession, weights_bytes};
use super::step::{Step, padded_outputs};
use super::{Gpu, gradient, logits, narrow_residual, narrow_update, softmax, update};
use crate::backend::{Head, Parameters, Shape, Stepper, check};
use crate::batch::{Batch, Plan};
use crate::data::Targets;
use crate::error::Result;

/// Steps in one submission at most: enough that their cost is not the submission's.
const STEPS: usize = 256;
/// Arithmetic in one submission at most, unless one step has more, so that a slow device is not taken for a hanging one:
/// systems give it about two seconds.
const FLOPS: f64 = 2e10;
/// Where steps may stand in their buffer: a multiple of this, which every device can do.
const STEP_STRIDE: usize = 256;

/// Losses held before they are read.
const LOSSES_BYTES: u64 = 32 << 20;

/// With up to this many outputs a step is two kernels, each of which has all outputs of a sample or feature; with more it
/// is four.
const NARROW_OUTPUTS: usize = 64;

pub(super) struct GpuStepper<'s> {
    session: &'s GpuSession<'s>,
    shape: Shape,
    batch_size: usize,
    steps_at_once: usize,
    dispatches: Vec<Dispatch>,
    steps: Buffer,
    orders: Vec<Buffer>,
    weights: Buffer,
    weights_readback: Buffer,
    losses: Buffer,
    losses_readback: Buffer,
    losses_capacity: usize,
}

/// A kernel of a step.
struct Dispatch {
    kernel: Arc<Kernel>,
    /// For each chunk.
    bindings: Vec<wgpu::BindGroup>,
    /// For a number of samples.
    n_workgroups: Box<dyn Fn(usize) -> usize>,
}

impl Dispatch {
    fn new(gpu: &Gpu, variant: &Variant, n_workgroups: impl Fn(usize) -> usize + 'static) -> Result<Self> {
        Ok(Self { kernel: gpu.kernel(variant)?, bindings: Vec::new(), n_workgroups: Box::new(n_workgroups) })
    }
}

fn is_narrow(shape: Shape) -> bool {
    shape.n_outputs() <= NARROW_OUTPUTS
}

/// Losses that one step leaves.
fn n_losses(shape: Shape, n_samples: usize) -> usize {
    let n = if is_narrow(shape) { n_samples } else { softmax::n_groups(shape, n_samples) };
    n.saturating_mul(shape.n_heads)
}

impl<'s> GpuStepper<'s> {
    pub(super) fn new(
        session: &'s GpuSession<'s>,
        targets: &Targets,
        start: &Parameters,
        heads: &[Head],
        batch_size: usize,
    ) -> Result<Self> {
        let (gpu, shape) = (session.gpu, start.shape);
        let outputs_bytes = (batch_size as u64).saturating_mul(padded_outputs(shape) as u64 * 4);
        gpu.check_binding("the logits of a batch", outputs_bytes, "use a smaller batch")?;
        // An epoch's losses, or as many as there is room for: then they are read more often.
        let step_losses = n_losses(shape, batch_size);
        gpu.check_binding("the losses of a batch", step_losses as u64 * 4, "use a smaller batch")?;
        let n_steps: usize = session.ranges.iter().map(|rows| rows.len().div_ceil(batch_size)).sum();
        let most_losses = (gpu.max_chunk().min(LOSSES_BYTES) / 4) as usize;
        let losses_capacity = n_steps.saturating_mul(step_losses).min(most_losses).max(step_losses);

        let weights = session.upload_parameters(start)?;
        let outputs = gpu.storage("the logits of a batch", outputs_bytes)?;
        let n_parts = if is_narrow(shape) { 0 } else { gradient::max_parts(shape, batch_size) };
        let partials = gpu.storage("the gradient", n_parts as u64 * weights_bytes(shape))?;
        let velocity = gpu.storage("the velocity", weights_bytes(shape))?;
        let heads: Vec<update::Head> = heads.iter().map(Into::into).collect();
        let heads = gpu.storage_of("the heads", &heads)?;
        let losses = gpu.storage("the losses", losses_capacity as u64 * 4)?;

        let flops = 4.0 * batch_size as f64 * shape.n_features as f64 * shape.n_outputs() as f64;
        let steps_at_once = ((FLOPS / flops) as usize).min(losses_capacity / step_losses).clamp(1, STEPS);
        let steps_bytes = (steps_at_once * STEP_STRIDE) as u64;
        let steps = gpu.buffer("the steps", steps_bytes, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;

        let soft = matches!(targets, Targets::Distributions(_));
        let dtype = session.dtype;
        let mut dispatches = if is_narrow(shape) {
            let residual = narrow_residual::Sharing::choose(gpu.info.kind, shape, batch_size);
            let update = narrow_update::Sharing::choose(gpu.info.kind, batch_size);
            vec![
                Dispatch::new(gpu, &residual.variant(shape, dtype, soft), move |n| residual.n_workgroups(n))?,
                Dispatch::new(gpu, &update.variant(shape, dtype), move |_| update.n_workgroups(shape))?,
            ]
        } else {
            vec![
                Dispatch::new(gpu, &logits::variant(shape, dtype, true), move |n| logits::n_workgroups(shape, n))?,
                Dispatch::new(gpu, &softmax::variant(shape, soft), move |n| softmax::n_workgroups(shape, n))?,
                Dispatch::new(gpu, &gradient::variant(shape, dtype), move |n| gradient::n_workgroups(shape, n))?,
                Dispatch::new(gpu, &update::variant(), move |_| update::n_workgroups(shape))?,
            ]
        };
        let mut orders = Vec::new();
        for (rows, Chunk { features, labels }) in session.ranges.iter().zip(&session.chunks) {
            let order = gpu.storage("the order of the samples", rows.len() as u64 * 4)?;
            let buffers = if is_narrow(shape) {
                vec![
                    vec![features, &order, labels, &weights, &outputs, &losses],
                    vec![features, &order, &outputs, &heads, &weights, &velocity],
                ]
            } else {
                vec![
                    vec![features, &order, &weights, &outputs],
                    vec![labels, &order, &outputs, &losses],
                    vec![features, &order, &outputs, &partials],
                    vec![&partials, &heads, &weights, &velocity],
                ]
            };
            for (dispatch, buffers) in dispatches.iter_mut().zip(buffers) {
                dispatch.bindings.push(dispatch.kernel.bind(gpu, &steps, &buffers)?);
            }
            orders.push(order);
        }
        Ok(Self {
            session,
            shape,
            batch_size,
            steps_at_once,
            dispatches,
            steps,
            orders,
            weights,
            weights_readback: gpu.readback("the weights", weights_bytes(shape))?,
            losses,
            losses_readback: gpu.readback("the losses", losses_capacity as u64 * 4)?,
            losses_capacity,
        })
    }

    /// Hands the device some steps, whose losses go where `n_losses_held` end. Returns how many losses are held then.
    fn submit(
        &self,
        batches: &[Batch],
        rates: &[f32],
        mut n_losses_held: usize,
    ) -> Result<(usize, wgpu::SubmissionIndex)> {
        let Self { session, shape, dispatches, .. } = self;
        let mut steps = vec![0u8; batches.len() * STEP_STRIDE];
        for ((batch, &rate), bytes) in batches.iter().zip(rates).zip(steps.chunks_exact_mut(STEP_STRIDE)) {
            let start = batch.start - session.ranges[batch.chunk].start;
            let losses_start = (n_losses_held / shape.n_heads) as u32;
            let step = Step { rate, losses_start, ..Step::new(*shape, session.scale, start, batch.len) };
            bytes[..size_of::<Step>()].copy_from_slice(bytemuck::bytes_of(&step));
            n_losses_held += n_losses(*shape, batch.len);
        }
        session.gpu.write("the steps", &self.steps, 0, &steps)?;
        let submission = session.gpu.submit("optimizer steps", |encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for (batch, offset) in batches.iter().zip((0..).step_by(STEP_STRIDE)) {
                for Dispatch { kernel, bindings, n_workgroups } in dispatches {
                    kernel.dispatch(&mut pass, &bindings[batch.chunk], offset, n_workgroups(batch.len));
                }
            }
        })?;
        session.gpu.counts.dispatches.fetch_add(batches.len() * dispatches.len(), Ordering::Relaxed);
        Ok((n_losses_held, submission))
    }

    /// Adds the first `n` losses on the device to `sums`, by head.
    fn add_losses(&self, n: usize, sums: &mut [f64]) -> Result<()> {
        let losses: Vec<f32> = self.session.gpu.read(&self.losses, &self.losses_readback, n)?;
        for losses in losses.chunks_exact(sums.len()) {
            for (sum, &loss) in sums.iter_mut().zip(losses) {
                *sum += f64::from(loss);
            }
        }
        Ok(())
    }
}

impl Stepper for GpuStepper<'_> {
    fn run(&mut self, plan: &Plan, rates: &[f32]) -> Result<Vec<f64>> {
        let (gpu, ranges) = (self.session.gpu, &self.session.ranges);
        check::plan(plan, rates, ranges, self.batch_size)?;
        for (rows, order) in ranges.iter().zip(&self.orders) {
            gpu.write("the order of the samples", order, 0, &plan.order[rows.clone()])?;
        }
        let mut sums = vec![0.0; self.shape.n_heads];
        let mut n_losses_held = 0;
        let mut last_submission = None;
        for (batches, rates) in plan.batches.chunks(self.steps_at_once).zip(rates.chunks(self.steps_at_once)) {
            let n: usize = batches.iter().map(|batch| n_losses(self.shape, batch.len)).sum();
            if n_losses_held + n > self.losses_capacity {
                self.add_losses(n_losses_held, &mut sums)?;
                n_losses_held = 0;
            }
            let submission;
            (n_losses_held, submission) = self.submit(batches, rates, n_losses_held)?;
            // The device has the next submission while it works at one; more would only take memory.
            if let Some(before) = last_submission.replace(submission) {
                gpu.wait_for(before)?;
            }
        }
        self.add_losses(n_losses_held, &mut sums)?;
        Ok(sums)
    }

    fn parameters(&mut self) -> Result<Parameters> {
        let n_values = (self.shape.n_features + 1) * padded_outputs(self.shape);
        let values = self.session.gpu.read(&self.weights, &self.weights_readback, n_values)?;
        Ok(Parameters { shape: self.shape, values: unpad_rows(values, self.shape.n_outputs()) })
    }
}
