//! Optimizer steps on sparse features.
//!
//! A step of gradient descent costs what its batch has, not what W has: the features that none of its samples has are left where
//! they are, and brought up to date when they are needed next, or at the end of a run ([`Skipped`]). AdamW divides by the root of a
//! mean, which no closed form carries over several steps; with it each step goes through all of W, as on dense features.

use std::marker::PhantomData;
use std::ops::Range;
use std::time::Duration;

use super::super::lanes::{Instructions, Kernel, Lanes};
use super::super::softmax::{SoftmaxTile, TargetsOfTile, TileWeights, softmax};
use super::super::stepper::set_order;
use super::super::team::{self, Team};
use super::super::tiles::{Buffer, RowsToTile, TILE, TileToRows, allocate};
use super::super::update::update_row;
use super::Matrix;
use super::skipped::Skipped;
use super::sum::{SparseRow, WeightedSum};
use crate::backend::{Head, Parameters, Rule, Shape, State, StepFactors, Stepper, check};
use crate::batch::Plan;
use crate::data::Targets;
use crate::error::Result;

/// Multiplications of a step that are worth threads.
const PARALLEL: usize = 1 << 18;
/// Values of W that a thread takes at a time.
const PORTION: usize = 1 << 12;

/// What is trained on.
#[derive(Clone, Copy)]
pub(super) struct Trained<'a> {
    pub x: Matrix<'a>,
    pub targets: &'a Targets<'a>,
    pub weights: Option<&'a [f32]>,
}

pub(super) struct SparseStepper<'a> {
    instructions: Instructions,
    data: Trained<'a>,
    /// All rows, one chunk.
    rows: Range<usize>,
    batch_size: usize,
    /// Of the epoch.
    order: Vec<u32>,
    trainee: Trainee,
    columns: Columns,
    scratch: Vec<Scratch>,
    /// R of the batch, (samples × h·q).
    residual: Vec<f32>,
    /// Of each tile of samples: sums of the residuals, (h·q); losses, (h).
    bias_gradients: Vec<f32>,
    losses: Vec<f64>,
}

/// What training changes.
struct Trainee {
    state: State,
    heads: Vec<Head>,
    /// Steps that the features no longer wait for, and of each feature how many of these it has had.
    skipped: Skipped,
    done: Vec<u32>,
    /// Sums of the losses of each head so far.
    losses: Vec<f64>,
}

/// A batch by columns.
struct Columns {
    /// The features that the batch has, in the order in which they come.
    features: Vec<u32>,
    /// Of each feature of X its place among these, or [`NONE`].
    slots: Vec<u32>,
    /// Where the values of each begin, and the last end.
    offsets: Vec<usize>,
    /// Positions in the batch, ascending, and values.
    samples: Vec<u32>,
    values: Vec<f32>,
}

const NONE: u32 = u32::MAX;

impl Columns {
    fn new(d: usize) -> Result<Self> {
        Ok(Self {
            features: Vec::new(),
            slots: allocate(NONE, d, "the features of a batch")?,
            offsets: Vec::new(),
            samples: Vec::new(),
            values: Vec::new(),
        })
    }

    /// Takes another batch.
    fn set(&mut self, x: Matrix, rows: &[u32]) {
        let Self { features, slots, offsets, samples, values } = self;
        features.drain(..).for_each(|feature| slots[feature as usize] = NONE);
        offsets.clear();
        // Behind one more, so that these become where values go next, and then their ends.
        offsets.extend([0, 0]);
        for &row in rows {
            for &feature in x.row(row as usize).indices {
                let slot = &mut slots[feature as usize];
                if *slot == NONE {
                    *slot = features.len() as u32;
                    features.push(feature);
                    offsets.push(0);
                }
                offsets[*slot as usize + 2] += 1;
            }
        }
        for slot in 2..offsets.len() {
            offsets[slot] += offsets[slot - 1];
        }
        let n_values = offsets.last().copied().unwrap_or(0);
        samples.resize(n_values, 0);
        values.resize(n_values, 0.0);
        for (position, &row) in (0..).zip(rows) {
            let row = x.row(row as usize);
            for (&feature, &value) in row.indices.iter().zip(row.values) {
                let next = &mut offsets[slots[feature as usize] as usize + 1];
                (samples[*next], values[*next]) = (position, value);
                *next += 1;
            }
        }
        offsets.pop();
    }

    /// Positions in the batch and values of the feature at `slot`.
    fn column(&self, slot: usize) -> SparseRow<'_> {
        let range = self.offsets[slot]..self.offsets[slot + 1];
        SparseRow { indices: &self.samples[range.clone()], values: &self.values[range] }
    }
}

/// Room of a thread.
struct Scratch {
    /// (32 × h·q)
    rows: Buffer,
    /// (h·q × 32)
    tile: Buffer,
    targets: TargetsOfTile,
    /// (h·q)
    gradient: Vec<f32>,
}

/// Rows of W, of the moments and of the steps done, of different features for different threads.
struct Features<'s> {
    weights: *mut f32,
    first: *mut f32,
    /// Nothing, of rules that have none.
    second: Option<*mut f32>,
    done: *mut u32,
    n: usize,
    n_outputs: usize,
    heads: &'s [Head],
    skipped: &'s Skipped,
    lifetime: PhantomData<&'s mut [f32]>,
}

// SAFETY: whoever asks for the rows of a feature promises that nobody else has them.
unsafe impl Sync for Features<'_> {}

impl<'s> Features<'s> {
    /// Weights, first and second moments of feature k, and the steps it has had.
    ///
    /// # Safety
    /// Nobody has those of the same feature meanwhile.
    #[expect(clippy::mut_from_ref, reason = "the caller's promise")]
    unsafe fn get(&self, k: usize) -> ([&mut [f32]; 3], &mut u32) {
        assert!(k < self.n);
        let m = self.n_outputs;
        // SAFETY: there are n features, and the caller has this one alone.
        unsafe {
            let row = |at: *mut f32| std::slice::from_raw_parts_mut(at.add(k * m), m);
            let second = self.second.map(row).unwrap_or_default();
            ([row(self.weights), row(self.first), second], &mut *self.done.add(k))
        }
    }

    /// Brings feature k to before step `until`.
    ///
    /// # Safety
    /// As [`Features::get`].
    unsafe fn catch_up(&self, instructions: Instructions, k: usize, until: usize) {
        // SAFETY: the caller's promise.
        let ([weights, velocities, _], done) = unsafe { self.get(k) };
        let from = *done as usize;
        if from == until {
            return;
        }
        let q = self.n_outputs / self.heads.len();
        for (head, (w, v)) in weights.chunks_exact_mut(q).zip(velocities.chunks_exact_mut(q)).enumerate() {
            instructions.run(Linear { matrix: self.skipped.product(head, from, until), w, v });
        }
        *done = until as u32;
    }
}

/// (w, v) ← M·(w, v), rounded once.
struct Linear<'a> {
    matrix: [f64; 4],
    w: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for Linear<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let [a, b, c, d] = self.matrix;
        for (w, v) in self.w.iter_mut().zip(self.v) {
            let (old_w, old_v) = (f64::from(*w), f64::from(*v));
            (*w, *v) = ((a * old_w + b * old_v) as f32, (c * old_w + d * old_v) as f32);
        }
    }
}

impl Trainee {
    fn shape(&self) -> Shape {
        self.state.parameters.shape
    }

    fn features(&mut self) -> Features<'_> {
        let shape = self.shape();
        let (first, second) = self.state.moments.split_at_mut(shape.n_parameters());
        Features {
            weights: self.state.parameters.values.as_mut_ptr(),
            first: first.as_mut_ptr(),
            second: (!second.is_empty()).then_some(second.as_mut_ptr()),
            done: self.done.as_mut_ptr(),
            n: shape.n_features,
            n_outputs: shape.n_outputs(),
            heads: &self.heads,
            skipped: &self.skipped,
            lifetime: PhantomData,
        }
    }

    /// Whether steps leave out the features that their batch does not have.
    fn is_lazy(&self) -> bool {
        self.heads.iter().all(|head| matches!(head.rule, Rule::Momentum { .. }))
    }

    /// Features that a thread takes at a time.
    fn portion(&self) -> usize {
        (PORTION / self.shape().n_outputs()).max(1)
    }

    /// Brings all features up to date.
    fn catch_up(&mut self, team: &mut Team, instructions: Instructions) {
        let (portion, n_steps, d) = (self.portion(), self.skipped.n_steps(), self.done.len());
        if n_steps == 0 {
            return;
        }
        let features = self.features();
        let portions = (0..d).step_by(portion);
        team.each(&mut vec![(); team.n_threads()], portions, |(), first| {
            for k in first..d.min(first + portion) {
                // SAFETY: each feature is in one portion.
                unsafe { features.catch_up(instructions, k, n_steps) };
            }
        });
        self.skipped.clear();
        self.done.fill(0);
    }
}

impl<'a> SparseStepper<'a> {
    /// `start`, `heads` and the targets suit X and each other.
    pub fn new(
        instructions: Instructions,
        data: Trained<'a>,
        rows: &Range<usize>,
        start: &State,
        heads: &[Head],
        batch_size: usize,
    ) -> Result<Self> {
        let shape = start.parameters.shape;
        let (d, m) = (shape.n_features, shape.n_outputs());
        let batch_size = batch_size.clamp(1, rows.len().max(1));
        let n_moments = heads.first().map_or(1, |head| head.rule.n_moments());
        let n_tiles = batch_size.div_ceil(TILE);
        let mut moments = allocate(0.0, shape.n_parameters().saturating_mul(n_moments), "the moments")?;
        if !start.moments.is_empty() {
            moments.copy_from_slice(&start.moments);
        }
        let trainee = Trainee {
            state: State { moments, ..start.clone() },
            heads: heads.to_vec(),
            skipped: Skipped::new(heads.len()),
            done: allocate(0, d, "the steps of the features")?,
            losses: vec![0.0; shape.n_heads],
        };
        let scratch = || {
            Ok(Scratch {
                rows: Buffer::zeros(TILE, m, "the logits")?,
                tile: Buffer::zeros(m, TILE, "the logits")?,
                targets: TargetsOfTile::new(data.targets, shape.n_classes)?,
                gradient: vec![0.0; m],
            })
        };
        let n_values = data.x.x.values().len() as u128;
        let of_step = n_values * batch_size as u128 / rows.len().max(1) as u128 * m as u128;
        let of_all = if trainee.is_lazy() { 0 } else { (d * m) as u128 };
        let is_parallel = 2 * of_step + of_all >= PARALLEL as u128;
        let n_threads = if is_parallel { rayon::current_num_threads() } else { 1 };
        Ok(Self {
            instructions,
            data,
            rows: rows.clone(),
            batch_size,
            order: allocate(0, rows.len(), "the order of the samples")?,
            trainee,
            columns: Columns::new(d)?,
            scratch: (0..n_threads).map(|_| scratch()).collect::<Result<_>>()?,
            residual: allocate(0.0, batch_size.saturating_mul(m), "the residual of a batch")?,
            bias_gradients: allocate(0.0, n_tiles.saturating_mul(m), "the gradient of the intercept")?,
            losses: allocate(0.0, n_tiles.saturating_mul(shape.n_heads), "the losses")?,
        })
    }

    fn run_steps(&mut self, team: &mut Team, plan: &Plan, rates: &[f32]) {
        self.trainee.losses.fill(0.0);
        set_order(team, plan, &mut self.order);
        let order = std::mem::take(&mut self.order);
        for (batch, &rate) in plan.batches.iter().zip(rates) {
            self.trainee.state.n_steps += 1;
            let factors = StepFactors::new(rate, &self.trainee.heads, self.trainee.state.n_steps);
            self.step(team, &order[batch.start..][..batch.len], factors);
        }
        self.order = order;
        self.trainee.catch_up(team, self.instructions);
    }

    fn step(&mut self, team: &mut Team, rows: &[u32], factors: StepFactors) {
        let Self { instructions, data, trainee, columns, scratch, residual, bias_gradients, losses, .. } = self;
        let (instructions, data) = (*instructions, *data);
        let shape = trainee.shape();
        let m = shape.n_outputs();
        let n_tiles = rows.len().div_ceil(TILE);
        let residual = &mut residual[..rows.len() * m];
        let (bias_gradients, losses) = (&mut bias_gradients[..n_tiles * m], &mut losses[..n_tiles * shape.n_heads]);
        columns.set(data.x, rows);
        let columns = &*columns;

        let step = trainee.skipped.n_steps();
        let n_features = columns.features.len();
        let portion = trainee.portion().min(n_features.div_ceil(2 * scratch.len())).max(1);
        let portions = || (0..n_features).step_by(portion);
        if trainee.is_lazy() && step > 0 {
            let features = trainee.features();
            team.each(scratch, portions(), |_, first| {
                for &k in &columns.features[first..n_features.min(first + portion)] {
                    // SAFETY: a batch has each feature once.
                    unsafe { features.catch_up(instructions, k as usize, step) };
                }
            });
        }

        let share = 1.0 / rows.len() as f32;
        let tiles = rows.chunks(TILE).zip(residual.chunks_mut(TILE * m));
        let tiles = tiles.zip(bias_gradients.chunks_exact_mut(m)).zip(losses.chunks_exact_mut(shape.n_heads));
        let parameters = &trainee.state.parameters;
        team.each(scratch, tiles, |scratch, (((rows, residual), bias_gradient), losses)| {
            instructions.run(ResidualKernel {
                data,
                parameters,
                rows,
                share,
                scratch,
                residual,
                bias_gradient,
                losses,
            });
        });

        let (residual, is_lazy) = (&*residual, trainee.is_lazy());
        let features = trainee.features();
        let update = |scratch: &mut Scratch, k: usize, slot: Option<usize>| {
            let gradient = &mut scratch.gradient[..];
            match slot {
                Some(slot) => {
                    let (row, factor) = (columns.column(slot), data.x.scale);
                    instructions.run(WeightedSum { row, rows: residual, factor, start: &[], out: gradient });
                }
                None => gradient.fill(0.0),
            }
            // SAFETY: below each feature is updated once.
            let (rows, done) = unsafe { features.get(k) };
            instructions.run(UpdateKernel { rows, gradient, heads: features.heads, factors });
            *done = step as u32 + 1;
        };
        if is_lazy {
            team.each(scratch, portions(), |scratch, first| {
                for slot in first..n_features.min(first + portion) {
                    update(scratch, columns.features[slot] as usize, Some(slot));
                }
            });
        } else {
            let portion = (PORTION / m).max(1);
            team.each(scratch, (0..features.n).step_by(portion), |scratch, first| {
                for k in first..features.n.min(first + portion) {
                    let slot = columns.slots[k];
                    update(scratch, k, (slot != NONE).then_some(slot as usize));
                }
            });
        }
        if is_lazy {
            trainee.skipped.push(&trainee.heads, factors.rate);
        }

        for of_tile in losses.chunks_exact(shape.n_heads) {
            trainee.losses.iter_mut().zip(of_tile).for_each(|(sum, &value)| *sum += value);
        }
        if let Some((sums, others)) = bias_gradients.split_at_mut_checked(m) {
            for other in others.chunks_exact(m) {
                sums.iter_mut().zip(other).for_each(|(sum, &value)| *sum += value);
            }
            let State { parameters, moments, .. } = &mut trainee.state;
            let intercept = shape.n_features * m..shape.n_parameters();
            let (first, second) = moments.split_at_mut(shape.n_parameters());
            let second = second.get_mut(intercept.clone()).unwrap_or_default();
            let (bias, first) = (&mut parameters.values[intercept.clone()], &mut first[intercept]);
            update_row(bias, first, second, sums, &trainee.heads, factors, true);
        }
    }
}

impl Stepper for SparseStepper<'_> {
    fn run(&mut self, plan: &Plan, rates: &[f32]) -> Result<Vec<f64>> {
        check::plan(plan, rates, std::slice::from_ref(&self.rows), self.batch_size)?;
        let n_threads = self.scratch.len();
        team::lead(n_threads, |team| self.run_steps(team, plan, rates));
        Ok(self.trainee.losses.clone())
    }

    fn kernel_times(&mut self, _: &Plan, _: &[f32]) -> Result<Vec<(&'static str, Duration)>> {
        Ok(Vec::new())
    }

    fn parameters(&mut self) -> Result<Parameters> {
        Ok(self.trainee.state.parameters.clone())
    }

    fn state(&mut self) -> Result<State> {
        Ok(self.trainee.state.clone())
    }
}

/// Losses and residual of up to 32 samples.
struct ResidualKernel<'a> {
    data: Trained<'a>,
    parameters: &'a Parameters,
    rows: &'a [u32],
    share: f32,
    scratch: &'a mut Scratch,
    residual: &'a mut [f32],
    bias_gradient: &'a mut [f32],
    losses: &'a mut [f64],
}

impl Kernel for ResidualKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { data, parameters, rows, share, scratch, residual, bias_gradient, losses } = self;
        let (m, n_classes) = (parameters.shape.n_outputs(), parameters.shape.n_classes);
        let logits = &mut scratch.rows[..TILE * m];
        // Past the samples there are zeros.
        logits.fill(0.0);
        for (&row, out) in rows.iter().zip(logits.chunks_exact_mut(m)) {
            let (row, rows) = (data.x.row(row as usize), parameters.weights());
            WeightedSum { row, rows, factor: 1.0, start: &[], out }.run(lanes);
        }
        let o = &mut scratch.tile[..m * TILE];
        RowsToTile { rows: logits, m, tile: o }.run(lanes);
        bias_gradient.fill(0.0);
        losses.fill(0.0);
        softmax(
            lanes,
            SoftmaxTile {
                o,
                scale: data.x.scale,
                bias: parameters.bias(),
                n_classes,
                n_samples: rows.len(),
                weights: TileWeights::new(data.weights, rows, share),
                targets: scratch.targets.of(data.targets, n_classes, rows),
                losses,
                bias_gradient,
            },
        );
        let zeros = &mut scratch.gradient[..];
        zeros.fill(0.0);
        TileToRows { tile: o, scale: 1.0, bias: zeros, out: residual }.run(lanes);
    }
}

/// The step of one feature.
struct UpdateKernel<'a> {
    rows: [&'a mut [f32]; 3],
    gradient: &'a [f32],
    heads: &'a [Head],
    factors: StepFactors,
}

impl Kernel for UpdateKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Self { rows: [weights, first, second], gradient, heads, factors } = self;
        update_row(weights, first, second, gradient, heads, factors, false);
    }
}
