//! Optimizer steps: for one batch after the other its kernels, in one submission for many batches, with nothing read back
//! until the epoch's losses.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wgpu::BufferUsages;

use super::clock::Clock;
use super::kernel::{Kernel, Tile, Variant};
use super::labels::LabelLayout;
use super::memory::{Buffer, pad_rows, unpad_rows};
use super::session::{Chunk, GpuSession};
use super::step::{Step, is_narrow, largest_weight, padded_outputs, weights_bytes};
use super::tuning::Tuning;
use super::update::RuleKind;
use super::{
    Gpu, expand, gradient, gradient_cooperative, logits, logits_cooperative, pull_back, shuffle, softmax, update,
};
use crate::backend::{Head, Parameters, Shape, State, StepFactors, Stepper, Supervision, check};
use crate::batch::{Batch, KEYS, Plan};
use crate::data::Dtype;
use crate::error::Result;
use crate::structure::{Factors, Parametrisation};

/// Steps in one submission at most: enough that their cost is not the submission's.
pub(super) const STEPS: usize = 256;
/// Arithmetic in one submission at most, unless one step has more, so that a slow device is not taken for a hanging one:
/// systems give it about two seconds.
pub(super) const FLOPS: f64 = 2e10;
/// Where steps may stand in their buffer: a multiple of this, which every device can do.
pub(super) const STEP_STRIDE: usize = 256;

/// Losses held before they are read.
pub(super) const LOSSES_BYTES: u64 = 32 << 20;

pub(super) struct GpuStepper<'s> {
    session: &'s GpuSession<'s>,
    shape: Shape,
    heads: Vec<Head>,
    /// Steps done.
    n_steps: u64,
    batch_size: usize,
    steps_at_once: usize,
    dispatches: Vec<Dispatch>,
    steps: Buffer,
    shuffle: Shuffle,
    gradient_tile: Tile,
    largest_weight: f32,
    weights: Buffer,
    weights_readback: Buffer,
    moments: Buffer,
    /// Of structured weights, which are trained in the place of W.
    factored: Option<Factored>,
    losses: Buffer,
    losses_readback: Buffer,
    losses_capacity: usize,
}

/// The factors in training, and what makes a step of them: the dense kernels leave the gradient over W in the place of its moments,
/// `pull_back` takes it to the factors and these a step on, `expand` makes W anew.
struct Factored {
    of: Parametrisation,
    start: Factors,
    /// Behind those that are not trained.
    factors: Buffer,
    /// What `pull_back` reads while others change the factors.
    before: Buffer,
    moments: Buffer,
    heads: Buffer,
    kernels: [Variant; 2],
}

impl Factored {
    fn new(gpu: &Gpu, factors: &Factors, moments: &[f32], heads: &[Head]) -> Result<Self> {
        let of = factors.parametrisation();
        let values = expand::device_factors(factors);
        let bytes = values.len() as u64 * size_of::<f32>() as u64;
        let n_moments = heads.first().map_or(1, |head| head.rule.n_moments());
        let moments_bytes = bytes * n_moments as u64;
        gpu.check_binding("the moments", moments_bytes, "use fewer factors, or the solver `sgd`")?;
        let buffers = [("the factors", bytes), ("the factors", bytes), ("the moments", moments_bytes)];
        let [on_device, before, of_moments] = buffers.map(|(what, bytes)| gpu.storage(what, bytes));
        let (on_device, before, of_moments) = (on_device?, before?, of_moments?);
        gpu.write("the factors", &on_device, 0, &values)?;
        gpu.write("the factors", &before, 0, &values)?;
        gpu.write("the moments", &of_moments, 0, &expand::with_fixed(of, 0.0, moments))?;
        // The penalty is of W, in its gradient.
        let of_factors: Vec<Head> = heads.iter().map(|&head| Head { l2: 0.0, ..head }).collect();
        let heads = update::upload_heads(gpu, &of_factors)?;
        let kernels = [pull_back::variant(of, RuleKind::of(&of_factors)), expand::variant(of)];
        Ok(Self { of, start: factors.clone(), factors: on_device, before, moments: of_moments, heads, kernels })
    }

    /// What the kernels read and write.
    fn buffers<'b>(&'b self, gradient: &'b Buffer, weights: &'b Buffer) -> [Vec<&'b Buffer>; 2] {
        let Self { factors, before, moments, heads, .. } = self;
        [vec![gradient, before, heads, factors, moments], vec![factors, weights, before]]
    }

    /// The factors and their moments, without those that are not trained.
    fn read(&self, gpu: &Gpu) -> Result<(Factors, Vec<f32>)> {
        let n_fixed = expand::n_fixed(self.of);
        let of_buffer = |what, buffer: &Buffer| -> Result<Vec<f32>> {
            let bytes = buffer.raw.size();
            let values: Vec<f32> = gpu.read(buffer, &gpu.readback(what, bytes)?, bytes as usize / size_of::<f32>())?;
            let of_rows = values.chunks(n_fixed + self.of.n_parameters());
            Ok(of_rows.flat_map(|row| row.iter().skip(n_fixed)).copied().collect())
        };
        let (values, moments) = (of_buffer("the factors", &self.factors)?, of_buffer("the moments", &self.moments)?);
        Ok((self.start.with_values(values), moments))
    }
}

/// What makes the order of each epoch.
pub(super) struct Shuffle {
    kernel: Arc<Kernel>,
    /// A step for each chunk, which never changes.
    _steps: Buffer,
    /// The keys of the chunks' permutations.
    keys: Buffer,
    pub(super) orders: Vec<Buffer>,
    /// For each chunk.
    bindings: Vec<wgpu::BindGroup>,
}

impl Shuffle {
    pub(super) fn new(gpu: &Gpu, shape: Shape, ranges: &[Range<usize>]) -> Result<Self> {
        let kernel = gpu.kernel(&shuffle::variant())?;
        let first_key = |chunk: usize| chunk * KEYS;
        let steps = ranges.iter().enumerate().map(|(chunk, rows)| Step::new(shape, 1.0, first_key(chunk), rows.len()));
        let steps = write_steps(steps);
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let buffer = gpu.buffer("the steps", steps.len() as u64, usage)?;
        gpu.write("the steps", &buffer, 0, &steps)?;
        let keys = gpu.storage("the keys of the order", (ranges.len() * KEYS) as u64 * size_of::<[u32; 2]>() as u64)?;
        let (mut orders, mut bindings) = (Vec::new(), Vec::new());
        for rows in ranges {
            let order = gpu.storage("the order of the samples", rows.len() as u64 * 4)?;
            bindings.push(kernel.bind(gpu, &buffer, &[&keys, &order])?);
            orders.push(order);
        }
        Ok(Self { kernel, _steps: buffer, keys, orders, bindings })
    }

    /// Has the device make the orders of a plan.
    pub(super) fn submit(&self, gpu: &Gpu, plan: &Plan) -> Result<()> {
        let keys: Vec<[u32; 2]> = plan.orders.iter().flat_map(|order| order.keys()).copied().collect();
        gpu.write("the keys of the order", &self.keys, 0, &keys)?;
        gpu.submit("the order of the samples", |encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            let offsets = (0..).step_by(STEP_STRIDE);
            for ((order, bindings), offset) in plan.orders.iter().zip(&self.bindings).zip(offsets) {
                self.kernel.dispatch(&mut pass, bindings, offset, shuffle::n_workgroups(order.n()));
            }
        })?;
        Ok(())
    }
}

/// Steps as they stand in their buffer.
pub(super) fn write_steps(steps: impl ExactSizeIterator<Item = Step>) -> Vec<u8> {
    let mut bytes = vec![0u8; steps.len() * STEP_STRIDE];
    for (step, bytes) in steps.zip(bytes.chunks_exact_mut(STEP_STRIDE)) {
        bytes[..size_of::<Step>()].copy_from_slice(bytemuck::bytes_of(&step));
    }
    bytes
}

/// A kernel of a step.
struct Dispatch {
    kernel: Arc<Kernel>,
    /// For each chunk.
    bindings: Vec<wgpu::BindGroup>,
    n_workgroups: Workgroups,
}

/// How many workgroups a number of samples needs.
type Workgroups = Box<dyn Fn(usize) -> usize>;

/// Logits and gradient of a step with many outputs: on matrix units where those may be used.
fn wide_products(gpu: &Gpu, tuning: Tuning, shape: Shape, dtype: Dtype) -> [(Variant, Workgroups); 2] {
    let Tuning { logits: tile, gradient: gradient_tile, .. } = tuning;
    match gpu.matrix_units().first().copied() {
        Some(units) => [
            (
                logits_cooperative::variant(units, dtype),
                Box::new(move |n| logits_cooperative::n_workgroups(units, shape, n)),
            ),
            (
                gradient_cooperative::variant(units, dtype),
                Box::new(move |n| gradient_cooperative::n_workgroups(units, gradient_tile, shape, n)),
            ),
        ],
        None => [
            (logits::variant(tile, dtype, true), Box::new(move |n| logits::n_workgroups(tile, shape, n))),
            (
                gradient::variant(gradient_tile, dtype, true),
                Box::new(move |n| gradient::n_workgroups(gradient_tile, shape, n)),
            ),
        ],
    }
}

/// Losses that one step leaves.
fn n_losses(shape: Shape, n_samples: usize) -> usize {
    let n = if is_narrow(shape.n_outputs()) { n_samples } else { softmax::n_groups(shape, n_samples) };
    n.saturating_mul(shape.n_heads)
}

/// Adds the first `n` of `losses` on the device to `sums`, by head.
pub(super) fn add_losses(gpu: &Gpu, losses: &Buffer, readback: &Buffer, n: usize, sums: &mut [f64]) -> Result<()> {
    let losses: Vec<f32> = gpu.read(losses, readback, n)?;
    for losses in losses.chunks_exact(sums.len()) {
        for (sum, &loss) in sums.iter_mut().zip(losses) {
            *sum += f64::from(loss);
        }
    }
    Ok(())
}

impl<'s> GpuStepper<'s> {
    pub(super) fn new(
        session: &'s GpuSession<'s>,
        supervision: Supervision,
        start: &State,
        heads: &[Head],
        batch_size: usize,
    ) -> Result<Self> {
        let tuning = session.gpu.tuning(start.parameters.shape, session.dtype, batch_size);
        Self::with_tuning(session, supervision, start, heads, batch_size, tuning)
    }

    pub(super) fn with_tuning(
        session: &'s GpuSession<'s>,
        supervision: Supervision,
        start: &State,
        heads: &[Head],
        batch_size: usize,
        tuning: Tuning,
    ) -> Result<Self> {
        let (gpu, shape) = (session.gpu, start.parameters.shape);
        let outputs_bytes = (batch_size as u64).saturating_mul(padded_outputs(shape) as u64 * 4);
        gpu.check_binding("the logits of a batch", outputs_bytes, "use a smaller batch")?;
        // An epoch's losses, or as many as there is room for: then they are read more often.
        let step_losses = n_losses(shape, batch_size);
        gpu.check_binding("the losses of a batch", step_losses as u64 * 4, "use a smaller batch")?;
        let n_steps: usize = session.ranges.iter().map(|rows| rows.len().div_ceil(batch_size)).sum();
        let most_losses = (gpu.max_chunk().min(LOSSES_BYTES) / 4) as usize;
        let losses_capacity = n_steps.saturating_mul(step_losses).min(most_losses).max(step_losses);

        let weights = session.upload_parameters(&start.parameters)?;
        let outputs = gpu.storage("the logits of a batch", outputs_bytes)?;
        let n_parts =
            if is_narrow(shape.n_outputs()) { 0 } else { gradient::max_parts(tuning.gradient, shape, batch_size) };
        let partials = gpu.storage("the gradient", n_parts as u64 * weights_bytes(shape))?;
        let factored = start.factors.as_ref().map(|factors| Factored::new(gpu, factors, &start.moments, heads));
        let factored = factored.transpose()?;
        let dense_heads: Vec<Head> = match &factored {
            Some(_) => heads.iter().map(|head| head.for_gradient()).collect(),
            None => heads.to_vec(),
        };
        let n_moments = dense_heads.first().map_or(1, |head| head.rule.n_moments());
        let moments_bytes = weights_bytes(shape).saturating_mul(n_moments as u64);
        gpu.check_binding("the moments", moments_bytes, "use fewer classes or heads, or the solver `sgd`")?;
        let moments = gpu.storage("the moments", moments_bytes)?;
        if factored.is_none() {
            gpu.write("the moments", &moments, 0, &pad_rows(&start.moments, shape.n_outputs()))?;
        }
        let heads_buffer = update::upload_heads(gpu, &dense_heads)?;
        let losses = gpu.storage("the losses", losses_capacity as u64 * 4)?;

        let flops = 4.0 * batch_size as f64 * shape.n_features as f64 * shape.n_outputs() as f64;
        let steps_at_once = ((FLOPS / flops) as usize).min(losses_capacity / step_losses).clamp(1, STEPS);
        let steps_bytes = (steps_at_once * STEP_STRIDE) as u64;
        let steps = gpu.buffer("the steps", steps_bytes, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;

        let labels = LabelLayout::of(supervision);
        let (dtype, rule) = (session.dtype, RuleKind::of(&dense_heads));
        let mut kernels: Vec<(Variant, Workgroups)> = if is_narrow(shape.n_outputs()) {
            let Tuning { residual, update, .. } = tuning;
            vec![
                (residual.variant(shape, dtype, labels), Box::new(move |n| residual.n_workgroups(n))),
                (update.variant(shape, dtype, rule), Box::new(move |_| update.n_workgroups(shape))),
            ]
        } else {
            let [logits, gradient] = wide_products(gpu, tuning, shape, dtype);
            vec![
                logits,
                (softmax::variant(shape, labels), Box::new(move |n| softmax::n_workgroups(shape, n))),
                gradient,
                (update::variant(rule), Box::new(move |_| update::n_workgroups(shape))),
            ]
        };
        if let Some(Factored { of, kernels: [pull_back, expand], .. }) = &factored {
            let of = *of;
            kernels.push((pull_back.clone(), Box::new(move |_| pull_back::n_workgroups(of))));
            kernels.push((expand.clone(), Box::new(move |_| expand::n_workgroups(of, shape))));
        }
        let variants = kernels.iter().map(|(variant, _)| variant.clone()).chain([shuffle::variant()]);
        gpu.compile(&variants.collect::<Vec<_>>())?;
        let dispatch = |(variant, n_workgroups)| {
            Ok(Dispatch { kernel: gpu.kernel(&variant)?, bindings: Vec::new(), n_workgroups })
        };
        let mut dispatches = kernels.into_iter().map(dispatch).collect::<Result<Vec<_>>>()?;
        let shuffle = Shuffle::new(gpu, shape, &session.ranges)?;
        for (order, Chunk { features, labels, .. }) in shuffle.orders.iter().zip(&session.chunks) {
            let mut buffers = if is_narrow(shape.n_outputs()) {
                vec![
                    vec![features, order, labels, &weights, &outputs, &losses],
                    vec![features, order, &outputs, &heads_buffer, &weights, &moments],
                ]
            } else {
                vec![
                    vec![features, order, &weights, &outputs],
                    vec![labels, order, &outputs, &losses],
                    vec![features, order, &outputs, &partials],
                    vec![&partials, &heads_buffer, &weights, &moments],
                ]
            };
            buffers.extend(factored.iter().flat_map(|factored| factored.buffers(&moments, &weights)));
            for (dispatch, buffers) in dispatches.iter_mut().zip(buffers) {
                dispatch.bindings.push(dispatch.kernel.bind(gpu, &steps, &buffers)?);
            }
        }
        Ok(Self {
            session,
            shape,
            heads: heads.to_vec(),
            n_steps: start.n_steps,
            batch_size,
            steps_at_once,
            dispatches,
            steps,
            shuffle,
            gradient_tile: tuning.gradient,
            largest_weight: largest_weight(supervision.weights),
            weights,
            weights_readback: gpu.readback("the weights", weights_bytes(shape))?,
            moments,
            factored,
            losses,
            losses_readback: gpu.readback("the losses", losses_capacity as u64 * 4)?,
            losses_capacity,
        })
    }

    /// Checks a plan and has the device make its order.
    fn begin(&self, plan: &Plan, rates: &[f32]) -> Result<()> {
        check::plan(plan, rates, &self.session.ranges, self.batch_size)?;
        self.shuffle.submit(self.session.gpu, plan)
    }

    /// Writes what the kernels are told of some steps, whose losses go where `n_losses_held` end. Returns how many losses
    /// are held then.
    fn write_steps(&mut self, batches: &[Batch], rates: &[f32], mut n_losses_held: usize) -> Result<usize> {
        let Self { session, shape, heads, n_steps, gradient_tile, largest_weight, .. } = self;
        let steps = batches.iter().zip(rates).map(|(batch, &rate)| {
            *n_steps += 1;
            let start = batch.start - session.ranges[batch.chunk].start;
            let losses_start = (n_losses_held / shape.n_heads) as u32;
            n_losses_held += n_losses(*shape, batch.len);
            let step = Step {
                losses_start,
                largest_weight: *largest_weight,
                ..Step::new(*shape, session.scale, start, batch.len)
            };
            let step = step.with_factors(StepFactors::new(rate, heads, *n_steps));
            gradient::in_parts(step, *gradient_tile, *shape)
        });
        let steps = write_steps(steps);
        session.gpu.write("the steps", &self.steps, 0, &steps)?;
        Ok(n_losses_held)
    }

    /// Hands the device some steps, whose losses go where `n_losses_held` end. Returns how many losses are held then.
    fn submit(
        &mut self,
        batches: &[Batch],
        rates: &[f32],
        n_losses_held: usize,
    ) -> Result<(usize, wgpu::SubmissionIndex)> {
        let n_losses_held = self.write_steps(batches, rates, n_losses_held)?;
        let Self { session, dispatches, .. } = &*self;
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
        add_losses(self.session.gpu, &self.losses, &self.losses_readback, n, sums)
    }
}

impl Stepper for GpuStepper<'_> {
    fn run(&mut self, plan: &Plan, rates: &[f32]) -> Result<Vec<f64>> {
        let gpu = self.session.gpu;
        self.begin(plan, rates)?;
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

    fn kernel_times(&mut self, plan: &Plan, rates: &[f32]) -> Result<Vec<(&'static str, Duration)>> {
        let gpu = self.session.gpu;
        self.begin(plan, rates)?;
        let Some(clock) = Clock::new(gpu, self.steps_at_once * self.dispatches.len())? else { return Ok(Vec::new()) };
        let mut times: Vec<_> = self.dispatches.iter().map(|dispatch| (dispatch.kernel.name, Duration::ZERO)).collect();
        for (batches, rates) in plan.batches.chunks(self.steps_at_once).zip(rates.chunks(self.steps_at_once)) {
            self.write_steps(batches, rates, 0)?;
            let dispatches = &self.dispatches;
            let n_passes = batches.len() * dispatches.len();
            gpu.submit("optimizer steps", |encoder| {
                let mut number = 0;
                for (batch, offset) in batches.iter().zip((0..).step_by(STEP_STRIDE)) {
                    for Dispatch { kernel, bindings, n_workgroups } in dispatches {
                        let mut pass = clock.pass(encoder, number);
                        kernel.dispatch(&mut pass, &bindings[batch.chunk], offset, n_workgroups(batch.len));
                        number += 1;
                    }
                }
                clock.resolve(encoder, n_passes);
            })?;
            let passes = clock.read(n_passes)?;
            for passes in passes.chunks_exact(dispatches.len()) {
                times.iter_mut().zip(passes).for_each(|((_, sum), &time)| *sum += time);
            }
        }
        Ok(times)
    }

    fn parameters(&mut self) -> Result<Parameters> {
        let n_values = (self.shape.n_features + 1) * padded_outputs(self.shape);
        let values = self.session.gpu.read(&self.weights, &self.weights_readback, n_values)?;
        Ok(Parameters { shape: self.shape, values: unpad_rows(values, self.shape.n_outputs()) })
    }

    fn state(&mut self) -> Result<State> {
        let gpu = self.session.gpu;
        if let Some(factored) = &self.factored {
            let (factors, moments) = factored.read(gpu)?;
            let (factors, n_steps) = (Some(factors), self.n_steps);
            return Ok(State { factors, moments, n_steps, ..self.parameters()?.into() });
        }
        let bytes = self.moments.raw.size();
        let readback = gpu.readback("the moments", bytes)?;
        let moments = gpu.read(&self.moments, &readback, bytes as usize / size_of::<f32>())?;
        let moments = unpad_rows(moments, self.shape.n_outputs());
        Ok(State { moments, n_steps: self.n_steps, ..self.parameters()?.into() })
    }
}
