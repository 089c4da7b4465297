//! Optimizer steps with sparse features. The host lists the samples of each batch by feature while the device works at the
//! batches before, which no order on the device could do without sorting or atomics; all else is as in `stepper`.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rayon::prelude::*;
use wgpu::BufferUsages;

use super::kernel::Kernel;
use super::labels::LabelLayout;
use super::memory::Buffer;
use super::session::{Chunk, GpuSession};
use super::shards::Shards;
use super::sparse_logits::{self, Lanes};
use super::step::{Step, padded_outputs};
use super::stepper::{FLOPS, LOSSES_BYTES, STEP_STRIDE, STEPS, Shuffle, add_losses, write_steps};
use super::transposed::Transposed;
use super::update::{self, RuleKind};
use super::{softmax, sparse_catch_up, sparse_gradient, sparse_update};
use crate::backend::{Head, Parameters, Shape, State, StepFactors, Stepper, Supervision, check};
use crate::batch::{Batch, Plan};
use crate::data::Csr;
use crate::error::Result;

/// Values and intercepts of the batches of a submission, unless one has more.
const MEMBERS: usize = 1 << 20;
/// Steps after which all features are brought up to date, at most, so that the table of what steps do to a weight is small.
const WINDOW: usize = 1 << 14;
/// Arithmetic for a parameter in an update, or what takes as long.
const FLOPS_OF_UPDATE: f64 = 50.0;
/// Entries of that table.
const POWERS: usize = 1 << 20;

pub(super) struct SparseStepper<'s> {
    session: &'s GpuSession<'s>,
    csr: &'s Csr<'s>,
    shape: Shape,
    heads: Vec<Head>,
    /// Steps done.
    n_steps: u64,
    batch_size: usize,
    shards: Shards,
    is_lazy: bool,
    /// Steps of which the device has the table, and for each feature how many of these it has had.
    window: usize,
    since: Vec<u32>,
    /// Steps, and values and intercepts of their batches, in a submission.
    most_steps: usize,
    most_members: usize,
    lanes: Lanes,
    kernels: Kernels,
    steps: Buffer,
    shuffle: Shuffle,
    members: Buffer,
    segments: Buffer,
    listed: Buffer,
    powers: Buffer,
    weights: Vec<Buffer>,
    moments: Vec<Buffer>,
    n_moments: usize,
    weights_readback: Buffer,
    losses: Buffer,
    losses_readback: Buffer,
    losses_capacity: usize,
    _shared: [Buffer; 3],
}

/// The kernels of a step with their bindings.
struct Kernels {
    /// For a lazy rule.
    catch_up: Arc<Kernel>,
    /// By shard.
    of_catch_up: Vec<wgpu::BindGroup>,
    logits: Arc<Kernel>,
    /// By chunk, and by shard.
    of_logits: Vec<Vec<wgpu::BindGroup>>,
    softmax: Arc<Kernel>,
    /// By chunk.
    of_softmax: Vec<wgpu::BindGroup>,
    gradient: Arc<Kernel>,
    of_gradient: wgpu::BindGroup,
    update: Arc<Kernel>,
    /// By shard.
    of_update: Vec<wgpu::BindGroup>,
}

/// Losses that one step leaves.
fn n_losses(shape: Shape, n_samples: usize) -> usize {
    softmax::n_groups(shape, n_samples).saturating_mul(shape.n_heads)
}

/// The most values and intercepts that a batch can have.
fn largest_batch(csr: &Csr, batch_size: usize) -> usize {
    let mut lengths: Vec<usize> = (0..csr.n_rows()).map(|row| csr.row(row).0.len() + 1).collect();
    if batch_size < lengths.len() {
        lengths.select_nth_unstable_by_key(batch_size, |&length| Reverse(length));
        lengths.truncate(batch_size);
    }
    lengths.iter().sum()
}

impl<'s> SparseStepper<'s> {
    pub(super) fn new(
        session: &'s GpuSession<'s>,
        csr: &'s Csr<'s>,
        supervision: Supervision,
        start: &State,
        heads: &[Head],
        batch_size: usize,
    ) -> Result<Self> {
        let (gpu, shape) = (session.gpu, start.parameters.shape);
        let n_moments = heads.first().map_or(1, |head| head.rule.n_moments());
        let shards = session.shards(shape, n_moments)?;
        let outputs_bytes = (batch_size as u64).saturating_mul(padded_outputs(shape) as u64 * 4);
        gpu.check_binding("the logits of a batch", outputs_bytes, "use a smaller batch")?;
        let step_losses = n_losses(shape, batch_size);
        gpu.check_binding("the losses of a batch", step_losses as u64 * 4, "use a smaller batch")?;
        let n_steps: usize = session.ranges.iter().map(|rows| rows.len().div_ceil(batch_size)).sum();
        let most_losses = (gpu.max_chunk().min(LOSSES_BYTES) / 4) as usize;
        let losses_capacity = n_steps.saturating_mul(step_losses).min(most_losses).max(step_losses);

        let largest_batch = largest_batch(csr, batch_size);
        let for_time = (FLOPS / (4.0 * shape.n_outputs() as f64)) as usize;
        let of_all = csr.values().len() + csr.n_rows();
        let most_members = MEMBERS.min(for_time).min(of_all).max(largest_batch);
        let listed_bytes = most_members as u64 * size_of::<[u32; 4]>() as u64;
        gpu.check_binding("the features of a batch", listed_bytes, "use a smaller batch")?;
        let most_segments = Transposed::most_segments(largest_batch, shape.n_features);
        let partials_bytes = (most_segments * shards.most_columns()) as u64 * 4;
        gpu.check_binding("the gradient of a batch", partials_bytes, "use a smaller batch")?;

        const LISTS: &str = "the features of batches";
        let members = gpu.storage(LISTS, most_members as u64 * size_of::<[u32; 2]>() as u64)?;
        let segments = gpu.storage(LISTS, (most_members as u64 + 1) * 4)?;
        let listed = gpu.storage(LISTS, listed_bytes)?;
        let partials = gpu.storage("the gradient", partials_bytes)?;
        let outputs = gpu.storage("the logits of a batch", outputs_bytes)?;
        let losses = gpu.storage("the losses", losses_capacity as u64 * 4)?;
        let heads_buffer = update::upload_heads(gpu, heads)?;
        let rule = RuleKind::of(heads);
        let is_lazy = sparse_update::is_lazy(rule);
        let window = (POWERS / heads.len().max(1)).clamp(1, WINDOW).min(n_steps).next_power_of_two();
        let powers_bytes = if is_lazy { (2 * window * heads.len() * size_of::<[f32; 4]>()) as u64 } else { 0 };
        gpu.check_binding("what steps do to weights", powers_bytes, "use fewer heads")?;
        let powers = gpu.storage("what steps do to weights", powers_bytes)?;
        let (mut weights, mut moments) = (Vec::new(), Vec::new());
        for shard in 0..shards.count() {
            let of_shard = |values: &[f32]| shards.gather(shard, values, |value| value);
            weights.push(gpu.storage_of("the weights", &of_shard(&start.parameters.values))?);
            let of_all = gpu.storage("the moments", (n_moments * shards.n_values(shard)) as u64 * 4)?;
            gpu.write("the moments", &of_all, 0, &of_shard(&start.moments))?;
            moments.push(of_all);
        }

        // A rule that is not lazy goes through all parameters in each step.
        let of_all = FLOPS / (FLOPS_OF_UPDATE * shape.n_parameters() as f64);
        let most_steps = if is_lazy { STEPS } else { (of_all as usize).clamp(1, STEPS) };
        let steps_bytes = (most_steps * shards.count() * STEP_STRIDE) as u64;
        let steps = gpu.buffer("the steps", steps_bytes, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;
        let shuffle = Shuffle::new(gpu, shape, &session.ranges)?;
        let lanes = session.lanes(csr, &shards);
        let variants = [
            sparse_logits::variant(shards.width, lanes, true),
            softmax::variant(shape, LabelLayout::of(supervision)),
            sparse_gradient::variant(shards.width),
            sparse_update::variant(rule),
            sparse_catch_up::variant(),
        ];
        gpu.compile(&variants)?;
        let [logits, softmax, gradient, update, catch_up] = variants.map(|variant| gpu.kernel(&variant));
        let (logits, softmax, gradient, update, catch_up) = (logits?, softmax?, gradient?, update?, catch_up?);
        let (mut of_logits, mut of_softmax) = (Vec::new(), Vec::new());
        let (mut of_update, mut of_catch_up) = (Vec::new(), Vec::new());
        for (order, Chunk { features, offsets, labels }) in shuffle.orders.iter().zip(&session.chunks) {
            let of_shard = |weights| logits.bind(gpu, &steps, &[offsets, features, order, weights, &outputs]);
            of_logits.push(weights.iter().map(of_shard).collect::<Result<Vec<_>>>()?);
            of_softmax.push(softmax.bind(gpu, &steps, &[labels, order, &outputs, &losses])?);
        }
        for (weights, moments) in weights.iter().zip(&moments) {
            of_update.push(update.bind(gpu, &steps, &[&listed, &partials, &heads_buffer, weights, moments])?);
            of_catch_up.push(catch_up.bind(gpu, &steps, &[&listed, &powers, weights, moments])?);
        }
        let of_gradient = gradient.bind(gpu, &steps, &[&segments, &members, &outputs, &partials])?;
        Ok(Self {
            session,
            csr,
            shape,
            heads: heads.to_vec(),
            n_steps: start.n_steps,
            batch_size,
            is_lazy,
            window,
            since: vec![0; shape.n_features + 1],
            most_steps,
            most_members,
            lanes,
            kernels: Kernels {
                catch_up,
                of_catch_up,
                logits,
                of_logits,
                softmax,
                of_softmax,
                gradient,
                of_gradient,
                update,
                of_update,
            },
            steps,
            shuffle,
            members,
            segments,
            listed,
            powers,
            weights,
            weights_readback: gpu.readback("the weights", shards.most_bytes())?,
            losses,
            losses_readback: gpu.readback("the losses", losses_capacity as u64 * 4)?,
            losses_capacity,
            moments,
            n_moments,
            _shared: [partials, outputs, heads_buffer],
            shards,
        })
    }

    /// The rows of a batch, in its order.
    fn rows<'a>(&'a self, plan: &'a Plan, batch: &Batch) -> impl Iterator<Item = usize> + use<'a> {
        let (order, first) = (&plan.orders[batch.chunk], self.session.ranges[batch.chunk].start);
        let start = batch.start - first;
        (start..start + batch.len).map(move |position| first + order.row(position as u32) as usize)
    }

    /// How many of the next batches go to the device together.
    fn n_together(&self, plan: &Plan, batches: &[Batch], n_losses_held: usize) -> usize {
        let (mut n_members, mut n_losses_held) = (0, n_losses_held);
        let fits = |batch: &&Batch| {
            n_members += self.rows(plan, batch).map(|row| self.csr.row(row).0.len() + 1).sum::<usize>();
            n_losses_held += n_losses(self.shape, batch.len);
            n_members <= self.most_members && n_losses_held <= self.losses_capacity
        };
        batches.iter().take(self.most_steps).take_while(fits).count()
    }

    /// Lists the samples of some batches by feature, and for each feature how many steps it has had, of `n_done` in all.
    fn list(&mut self, plan: &Plan, batches: &[Batch], n_done: usize) -> Vec<Transposed> {
        let this = &*self;
        let list = |batch| Transposed::new(this.csr, this.rows(plan, batch), this.shape.n_features);
        let mut lists: Vec<Transposed> = batches.par_iter().map(list).collect();
        for (list, n_done) in lists.iter_mut().zip(n_done as u32..) {
            for [feature, .., since] in &mut list.listed {
                *since = std::mem::replace(&mut self.since[*feature as usize], n_done + 1);
            }
        }
        lists
    }

    /// Hands the device some steps, with the learning rates times `rates`, after `n_done` steps of the table with
    /// `n_leaves`; their losses go where `n_losses_held` end. Returns how many losses are held then.
    fn submit(
        &mut self,
        (plan, batches, rates): (&Plan, &[Batch], &[f32]),
        (n_done, n_leaves): (usize, usize),
        mut n_losses_held: usize,
    ) -> Result<(usize, wgpu::SubmissionIndex)> {
        let mut all = Transposed::default();
        let mut steps = Vec::new();
        for (index, list) in self.list(plan, batches, n_done).into_iter().enumerate() {
            let (batch, rate) = (&batches[index], rates[index]);
            self.n_steps += 1;
            let start = batch.start - self.session.ranges[batch.chunk].start;
            let step = Step {
                losses_start: (n_losses_held / self.shape.n_heads) as u32,
                first_segment: all.n_segments() as u32,
                n_segments: list.n_segments() as u32,
                first_listed: all.listed.len() as u32,
                n_listed: list.listed.len() as u32,
                n_done: (n_done + index) as u32,
                n_leaves: n_leaves as u32,
                ..Step::new(self.shape, self.session.scale, start, batch.len)
            };
            steps.push(step.with_factors(StepFactors::new(rate, &self.heads, self.n_steps)));
            n_losses_held += n_losses(self.shape, batch.len);
            all.append(list);
        }
        let gpu = self.session.gpu;
        gpu.write("the features of batches", &self.members, 0, &all.members)?;
        gpu.write("the features of batches", &self.segments, 0, &all.segments)?;
        gpu.write("the features of batches", &self.listed, 0, &all.listed)?;
        let n_shards = self.shards.count();
        let of_shards = steps.iter().flat_map(|&step| (0..n_shards).map(move |shard| (step, shard)));
        let of_shards: Vec<Step> = of_shards.map(|(step, shard)| self.shards.step(shard, step)).collect();
        gpu.write("the steps", &self.steps, 0, &write_steps(of_shards.into_iter()))?;

        let submission = gpu.submit("optimizer steps", |encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for (index, (batch, step)) in batches.iter().zip(&steps).enumerate() {
                self.dispatch(&mut pass, index, batch, step);
            }
        })?;
        gpu.counts
            .dispatches
            .fetch_add(batches.len() * (1 + (3 + usize::from(self.is_lazy)) * n_shards), Ordering::Relaxed);
        Ok((n_losses_held, submission))
    }

    /// The kernels of one step.
    fn dispatch(&self, pass: &mut wgpu::ComputePass, index: usize, batch: &Batch, step: &Step) {
        let Self { shards, lanes, shape, kernels, .. } = self;
        let offset = |shard: usize| ((index * shards.count() + shard) * STEP_STRIDE) as u32;
        if self.is_lazy {
            self.dispatch_catch_up(pass, index, step.n_listed as usize);
        }
        for (shard, bindings) in kernels.of_logits[batch.chunk].iter().enumerate() {
            let n_workgroups = sparse_logits::n_workgroups(shards.width, *lanes, shards.n_columns(shard), batch.len);
            kernels.logits.dispatch(pass, bindings, offset(shard), n_workgroups);
        }
        let n_workgroups = softmax::n_workgroups(*shape, batch.len);
        kernels.softmax.dispatch(pass, &kernels.of_softmax[batch.chunk], offset(0), n_workgroups);
        let n_updated = if self.is_lazy { step.n_listed as usize } else { shape.n_features + 1 };
        for (shard, bindings) in kernels.of_update.iter().enumerate() {
            let n_columns = shards.n_columns(shard);
            let n_workgroups = sparse_gradient::n_workgroups(shards.width, n_columns, step.n_segments as usize);
            kernels.gradient.dispatch(pass, &kernels.of_gradient, offset(shard), n_workgroups);
            let n_workgroups = sparse_update::n_workgroups(n_columns, n_updated);
            kernels.update.dispatch(pass, bindings, offset(shard), n_workgroups);
        }
    }

    /// Brings the features of the list up to date for the step that stands there in the buffer.
    fn dispatch_catch_up(&self, pass: &mut wgpu::ComputePass, index: usize, n_listed: usize) {
        for (shard, bindings) in self.kernels.of_catch_up.iter().enumerate() {
            let offset = ((index * self.shards.count() + shard) * STEP_STRIDE) as u32;
            let n_workgroups = sparse_catch_up::n_workgroups(self.shards.n_columns(shard), n_listed);
            self.kernels.catch_up.dispatch(pass, bindings, offset, n_workgroups);
        }
    }

    /// Brings all features up to date after `n_done` steps, and forgets these.
    fn catch_up(&mut self, n_done: usize, n_leaves: usize) -> Result<()> {
        let gpu = self.session.gpu;
        let late = (0..).zip(&self.since).filter(|&(_, &since)| (since as usize) < n_done);
        let late: Vec<[u32; 4]> = late.map(|(feature, &since)| [feature, 0, 0, since]).collect();
        for listed in late.chunks(self.most_members) {
            let step = Step {
                n_listed: listed.len() as u32,
                n_done: n_done as u32,
                n_leaves: n_leaves as u32,
                ..Step::new(self.shape, self.session.scale, 0, 1)
            };
            gpu.write("the features of batches", &self.listed, 0, listed)?;
            let of_shards = (0..self.shards.count()).map(|shard| self.shards.step(shard, step));
            gpu.write("the steps", &self.steps, 0, &write_steps(of_shards))?;
            gpu.submit("the weights of features that batches did not have", |encoder| {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                self.dispatch_catch_up(&mut pass, 0, listed.len());
            })?;
        }
        self.since.fill(0);
        Ok(())
    }

    fn add_losses(&self, n: usize, sums: &mut [f64]) -> Result<()> {
        add_losses(self.session.gpu, &self.losses, &self.losses_readback, n, sums)
    }
}

impl Stepper for SparseStepper<'_> {
    fn run(&mut self, plan: &Plan, rates: &[f32]) -> Result<Vec<f64>> {
        let gpu = self.session.gpu;
        check::plan(plan, rates, &self.session.ranges, self.batch_size)?;
        self.shuffle.submit(gpu, plan)?;
        let mut sums = vec![0.0; self.shape.n_heads];
        let mut n_losses_held = 0;
        let mut last_submission = None;
        for (batches, rates) in plan.batches.chunks(self.window).zip(rates.chunks(self.window)) {
            let mut n_leaves = 0;
            if self.is_lazy {
                let powers;
                (powers, n_leaves) = sparse_catch_up::powers(&self.heads, rates);
                gpu.write("what steps do to weights", &self.powers, 0, &powers)?;
            }
            let mut n_done = 0;
            while n_done < batches.len() {
                let rest = &batches[n_done..];
                let mut n = self.n_together(plan, rest, n_losses_held);
                if n == 0 {
                    self.add_losses(n_losses_held, &mut sums)?;
                    n_losses_held = 0;
                    // One step has room always.
                    n = self.n_together(plan, rest, 0).max(1);
                }
                let submission;
                let steps = (plan, &rest[..n], &rates[n_done..n_done + n]);
                (n_losses_held, submission) = self.submit(steps, (n_done, n_leaves), n_losses_held)?;
                n_done += n;
                // The device has the next submission while it works at one; more would only take memory.
                if let Some(before) = last_submission.replace(submission) {
                    gpu.wait_for(before)?;
                }
            }
            if self.is_lazy {
                self.catch_up(n_done, n_leaves)?;
            }
        }
        self.add_losses(n_losses_held, &mut sums)?;
        Ok(sums)
    }

    /// Not timed.
    fn kernel_times(&mut self, _plan: &Plan, _rates: &[f32]) -> Result<Vec<(&'static str, Duration)>> {
        Ok(Vec::new())
    }

    fn parameters(&mut self) -> Result<Parameters> {
        let mut parameters = Parameters::zeros(self.shape);
        for (shard, weights) in self.weights.iter().enumerate() {
            let values = self.session.gpu.read(weights, &self.weights_readback, self.shards.n_values(shard))?;
            self.shards.scatter(shard, &values, &mut parameters.values, |to, value| *to = value);
        }
        Ok(parameters)
    }

    fn state(&mut self) -> Result<State> {
        let (gpu, shards) = (self.session.gpu, &self.shards);
        let readback = gpu.readback("the moments", self.n_moments as u64 * shards.most_bytes())?;
        let mut moments = vec![0.0; self.n_moments * self.shape.n_parameters()];
        for (shard, of_shard) in self.moments.iter().enumerate() {
            let values = gpu.read(of_shard, &readback, self.n_moments * shards.n_values(shard))?;
            shards.scatter(shard, &values, &mut moments, |to, value| *to = value);
        }
        Ok(State { moments, n_steps: self.n_steps, ..self.parameters()?.into() })
    }
}
