//! Optimizer steps: logits, softmax, gradient and update for one batch after the other, many of them in one submission,
//! with nothing read back until the epoch's losses.

use std::sync::Arc;

use wgpu::BufferUsages;

use super::kernel::Kernel;
use super::memory::{Buffer, unpad_rows};
use super::session::{GpuSession, weights_bytes};
use super::step::{Step, padded_outputs};
use super::{gradient, logits, softmax, update};
use crate::backend::{Head, Parameters, Shape, Stepper};
use crate::batch::Plan;
use crate::error::{Error, Result};

/// Steps in one submission at most: enough that their cost is not the submission's.
const STEPS: usize = 256;
/// Arithmetic in one submission at most, so that a slow device is not taken for a hanging one: systems give it about two
/// seconds.
const FLOPS: f64 = 2e10;
/// Where steps may stand in their buffer: a multiple of this, which every device can do.
const STEP_STRIDE: usize = 256;

pub(super) struct GpuStepper<'s> {
    session: &'s GpuSession<'s>,
    shape: Shape,
    steps_at_once: usize,
    kernels: Kernels,
    bindings: Vec<Bindings>,
    update_bindings: wgpu::BindGroup,
    steps: Buffer,
    orders: Vec<Buffer>,
    weights: Buffer,
    weights_readback: Buffer,
    losses: Buffer,
    losses_readback: Buffer,
}

struct Kernels {
    logits: Arc<Kernel>,
    softmax: Arc<Kernel>,
    gradient: Arc<Kernel>,
    update: Arc<Kernel>,
}

/// The bind groups of one chunk.
struct Bindings {
    logits: wgpu::BindGroup,
    softmax: wgpu::BindGroup,
    gradient: wgpu::BindGroup,
}

/// Losses that one step leaves.
fn n_losses(shape: Shape, n_samples: usize) -> usize {
    softmax::n_groups(shape, n_samples) * shape.n_heads
}

impl<'s> GpuStepper<'s> {
    pub(super) fn new(
        session: &'s GpuSession<'s>,
        start: &Parameters,
        heads: &[Head],
        batch_size: usize,
    ) -> Result<Self> {
        let (gpu, shape) = (session.gpu, start.shape);
        if heads.len() != shape.n_heads {
            return Err(Error::Shape { what: "heads".to_owned(), expected: shape.n_heads, found: heads.len() });
        }
        let weights = session.upload_parameters(start)?;
        let outputs_bytes = batch_size as u64 * padded_outputs(shape) as u64 * 4;
        gpu.check_binding("the logits of a batch", outputs_bytes, "use a smaller batch")?;
        let outputs = gpu.storage("the logits of a batch", outputs_bytes)?;
        let (n_parts, _) = gradient::parts(shape, batch_size);
        let partials = gpu.storage("the gradient", n_parts as u64 * weights_bytes(shape))?;
        let velocity = gpu.storage("the velocity", weights_bytes(shape))?;
        let heads: Vec<update::Head> = heads.iter().map(Into::into).collect();
        let heads = gpu.storage_of("the heads", &heads)?;

        // An epoch's losses, or as many as can be bound: then they are read more often.
        let losses_bytes: u64 = session
            .ranges
            .iter()
            .map(|rows| rows.len().div_ceil(batch_size) as u64 * n_losses(shape, batch_size) as u64 * 4)
            .sum();
        let losses_bytes = losses_bytes.min(gpu.max_binding());
        let losses = gpu.storage("the losses", losses_bytes)?;

        let flops = 4.0 * batch_size as f64 * shape.n_features as f64 * shape.n_outputs() as f64;
        let steps_at_once = ((FLOPS / flops) as usize).clamp(1, STEPS);
        let steps_bytes = (steps_at_once * STEP_STRIDE) as u64;
        let steps = gpu.buffer("the steps", steps_bytes, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;

        let kernels = Kernels {
            logits: gpu.kernel(&logits::variant(shape, session.dtype, true))?,
            softmax: gpu.kernel(&softmax::variant(shape, session.soft))?,
            gradient: gpu.kernel(&gradient::variant(shape, session.dtype))?,
            update: gpu.kernel(&update::variant())?,
        };
        let mut orders = Vec::new();
        let mut bindings = Vec::new();
        for (rows, chunk) in session.ranges.iter().zip(&session.chunks) {
            let Some(labels) = &chunk.labels else {
                return Err(Error::Shape { what: "targets for training".to_owned(), expected: rows.len(), found: 0 });
            };
            let (features, order) = (&chunk.features, gpu.storage("the order of the samples", rows.len() as u64 * 4)?);
            bindings.push(Bindings {
                logits: kernels.logits.bind(gpu, &steps, &[features, &order, &weights, &outputs])?,
                softmax: kernels.softmax.bind(gpu, &steps, &[labels, &order, &outputs, &losses])?,
                gradient: kernels.gradient.bind(gpu, &steps, &[features, &order, &outputs, &partials])?,
            });
            orders.push(order);
        }
        Ok(Self {
            session,
            shape,
            steps_at_once,
            update_bindings: kernels.update.bind(gpu, &steps, &[&partials, &heads, &weights, &velocity])?,
            kernels,
            bindings,
            steps,
            orders,
            weights,
            weights_readback: gpu.readback("the weights", weights_bytes(shape))?,
            losses,
            losses_readback: gpu.readback("the losses", losses_bytes)?,
        })
    }

    /// Adds the first `n` losses on the device to `sums`, by head, after what `encoder` has.
    fn add_losses(&self, encoder: wgpu::CommandEncoder, n: usize, sums: &mut [f64]) -> Result<()> {
        let losses: Vec<f32> = self.session.gpu.read(encoder, &self.losses, &self.losses_readback, n)?;
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
        let (gpu, shape) = (self.session.gpu, self.shape);
        for (rows, order) in self.session.ranges.iter().zip(&self.orders) {
            gpu.write("the order of the samples", order, 0, &plan.order[rows.clone()])?;
        }
        let mut sums = vec![0.0; shape.n_heads];
        let mut n_losses_held = 0;
        let losses_capacity = self.losses.raw.size() as usize / 4;
        for (batches, rates) in plan.batches.chunks(self.steps_at_once).zip(rates.chunks(self.steps_at_once)) {
            let mut words = vec![0u8; batches.len() * STEP_STRIDE];
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for (index, (batch, &rate)) in batches.iter().zip(rates).enumerate() {
                let n_losses = n_losses(shape, batch.len);
                if n_losses_held + n_losses > losses_capacity {
                    // The steps so far are needed before their losses can be read.
                    drop(pass);
                    gpu.write("the steps", &self.steps, 0, &words)?;
                    let done = std::mem::replace(&mut encoder, gpu.device.create_command_encoder(&Default::default()));
                    self.add_losses(done, n_losses_held, &mut sums)?;
                    n_losses_held = 0;
                    pass = encoder.begin_compute_pass(&Default::default());
                }
                let start = batch.start - self.session.ranges[batch.chunk].start;
                let step = Step {
                    rate,
                    losses_start: (n_losses_held / shape.n_heads) as u32,
                    ..Step::new(shape, self.session.scale, start, batch.len)
                };
                let offset = index * STEP_STRIDE;
                words[offset..offset + size_of::<Step>()].copy_from_slice(bytemuck::bytes_of(&step));
                let (kernels, bindings, offset) = (&self.kernels, &self.bindings[batch.chunk], offset as u32);
                kernels.logits.dispatch(&mut pass, &bindings.logits, offset, logits::n_workgroups(shape, batch.len));
                kernels.softmax.dispatch(&mut pass, &bindings.softmax, offset, softmax::n_workgroups(shape, batch.len));
                kernels.gradient.dispatch(
                    &mut pass,
                    &bindings.gradient,
                    offset,
                    gradient::n_workgroups(shape, batch.len),
                );
                kernels.update.dispatch(&mut pass, &self.update_bindings, offset, update::n_workgroups(shape));
                n_losses_held += n_losses;
            }
            drop(pass);
            gpu.write("the steps", &self.steps, 0, &words)?;
            gpu.guarded("optimizer steps", 0, || gpu.queue.submit([encoder.finish()]))?;
        }
        self.add_losses(gpu.device.create_command_encoder(&Default::default()), n_losses_held, &mut sums)?;
        Ok(sums)
    }

    fn parameters(&mut self) -> Result<Parameters> {
        let gpu = self.session.gpu;
        let encoder = gpu.device.create_command_encoder(&Default::default());
        let n_values = (self.shape.n_features + 1) * padded_outputs(self.shape);
        let values = gpu.read(encoder, &self.weights, &self.weights_readback, n_values)?;
        Ok(Parameters { shape: self.shape, values: unpad_rows(values, self.shape.n_outputs()) })
    }
}
