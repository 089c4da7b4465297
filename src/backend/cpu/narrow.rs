//! Optimizer steps for few outputs: one pass over the batch, in which each row of X comes from memory once.
//!
//! A batch is cut into parts, whose number depends on the batch alone. A part goes through its samples 32 at a time:
//! logits, softmax, residual, and the part's own gradient while the samples are in the cache. Then the gradients of the
//! parts are summed in their order. So the result does not depend on the number of threads.

use std::mem;

use super::bytes::{Bytes, ResidualDigits, SAMPLES, WeightDigits};
use super::lanes::{Element, Instructions, Kernel, Lanes};
use super::softmax::{SoftmaxTile, TargetsOfTile, softmax};
use super::stepper::{Data, Step, Tiled};
use super::team::Team;
use super::tiles::{Buffer, DotTile, Matrix, OuterTile, TILE, Weights};
use super::update::{update_bias, update_tile};
use crate::backend::{Head, Shape, StepFactors};
use crate::error::Result;

/// A larger gradient would not stay in the cache.
const LARGEST_GRADIENT: usize = 1 << 20;
/// A part has at least so many samples, so that summing the gradients costs little.
const LEAST_PART: usize = 64;
/// At most so many parts.
const MOST_PARTS: usize = 32;
/// Weights are so large that digits of them all would leave more than this of a logit: a few hundred times features of 1. Those that are not
/// the largest then keep their own precision, and bytes become numbers.
const LARGEST_ERROR: f32 = 1e-2;
/// Multiplications of a phase below which a second thread costs more than it brings.
pub(super) const PARALLEL: usize = 1 << 18;

/// Tiles of W that a thread takes at a time to update.
const UPDATE_TILES: usize = 2;

/// A part of a batch.
struct Part {
    gradient: Buffer,
    bias_gradient: Vec<f32>,
    losses: Vec<f64>,
    /// Of as many tiles as have their gradient taken at once.
    logits: Buffer,
    targets: TargetsOfTile,
    /// Where bytes are multiplied.
    residual: ResidualDigits,
}

/// What a thread needs for itself: another's digits would have to come from its cache, and those of the last step go there. No
/// two share a line of the cache.
#[repr(align(64))]
struct Scratch {
    /// W in digits, where features are multiplied as bytes.
    weights: Option<WeightDigits>,
    /// The step whose W that is.
    step: u64,
}

impl Scratch {
    /// W in digits, from the first part of a step on that this thread takes.
    fn digits(&mut self, bytes: Bytes, step: u64, weights: &Weights) -> Option<&WeightDigits> {
        if mem::replace(&mut self.step, step) != step {
            bytes.split_weights(&weights.w, weights.bias.len(), self.weights.as_mut()?);
        }
        self.weights.as_ref()
    }
}

pub(super) struct Narrow {
    parts: Vec<Part>,
    scratch: Vec<Scratch>,
    /// Where the features are bytes, and multiplied as such.
    bytes: Option<Bytes>,
    n_steps: u64,
}

/// How many parts a batch has, and how many samples a part.
fn parts(batch_len: usize) -> (usize, usize) {
    let n = batch_len.div_ceil(LEAST_PART).clamp(1, MOST_PARTS);
    let size = batch_len.div_ceil(n).next_multiple_of(TILE);
    (batch_len.div_ceil(size), size)
}

/// Whether threads are worth it for losses and gradients of a batch.
fn is_gradient_parallel(batch_len: usize, shape: Shape) -> bool {
    batch_len > LEAST_PART && 2 * batch_len * shape.n_parameters() >= PARALLEL
}

/// Whether threads are worth it for the sum of the parts' gradients and the update.
fn is_update_parallel(n_parts: usize, shape: Shape) -> bool {
    n_parts * shape.n_parameters() >= PARALLEL
}

/// Whether digits leave next to nothing of a logit of `d` features times `scale`.
pub(super) fn are_digits_exact(digits: &WeightDigits, d: usize, scale: f32) -> bool {
    // NaN is not small.
    digits.error(d) * scale.abs() <= LARGEST_ERROR
}

impl Narrow {
    /// Whether this way suits the shape.
    pub fn suits(instructions: Instructions, shape: Shape) -> bool {
        shape.n_outputs() <= instructions.most_narrow_outputs() && shape.n_parameters() <= LARGEST_GRADIENT
    }

    pub fn new<T: Element>(
        instructions: Instructions,
        data: &Data<T>,
        shape: Shape,
        batch_size: usize,
    ) -> Result<Self> {
        let m = shape.n_outputs();
        let bytes = T::as_bytes(data.x.x).and(instructions.bytes());
        let samples = if bytes.is_some() { SAMPLES } else { TILE };
        // A shorter batch may have more parts than the longest, whose parts are rounded up.
        let n_parts = batch_size.div_ceil(LEAST_PART).clamp(1, MOST_PARTS);
        let part = || {
            Ok(Part {
                gradient: Buffer::zeros(shape.n_features.div_ceil(TILE) * TILE, m, "the gradient")?,
                bias_gradient: vec![0.0; m],
                losses: vec![0.0; shape.n_heads],
                logits: Buffer::zeros(m, samples, "the logits")?,
                targets: TargetsOfTile::new(data.targets, shape.n_classes)?,
                residual: ResidualDigits::new(shape)?,
            })
        };
        let scratch = || Ok(Scratch { weights: bytes.map(|_| WeightDigits::new(shape)).transpose()?, step: 0 });
        Ok(Self {
            parts: (0..n_parts).map(|_| part()).collect::<Result<_>>()?,
            scratch: (0..rayon::current_num_threads().min(n_parts)).map(|_| scratch()).collect::<Result<_>>()?,
            bytes,
            n_steps: 0,
        })
    }

    /// How many threads have something to do in some phase of steps with that many samples.
    pub fn n_threads(&self, batch_len: usize, shape: Shape) -> usize {
        let of_gradient = if is_gradient_parallel(batch_len, shape) { self.parts.len() } else { 1 };
        let of_update = if is_update_parallel(self.parts.len(), shape) { shape.n_features.div_ceil(TILE) } else { 1 };
        of_gradient.max(of_update)
    }

    /// One step.
    pub fn step<T: Element>(
        &mut self,
        team: &mut Team,
        instructions: Instructions,
        data: &Data<T>,
        state: &mut Tiled,
        Step { rows, ahead, factors }: Step,
    ) {
        let shape = state.weights.shape;
        let (n_parts, size) = parts(rows.len());
        let parts = &mut self.parts[..n_parts];
        let is_parallel = is_gradient_parallel(rows.len(), shape);
        let scratch = if is_parallel { &mut self.scratch[..] } else { &mut self.scratch[..1] };
        let turns = scratch.len().min(team.n_threads());
        let share = 1.0 / rows.len() as f32;
        self.n_steps += 1;
        let (bytes, step) = (self.bytes, self.n_steps);
        let run = |scratch: &mut Scratch, (index, part): (usize, &mut Part)| {
            let digits = bytes.and_then(|bytes| scratch.digits(bytes, step, &state.weights));
            let of_bytes = bytes.zip(digits.filter(|digits| are_digits_exact(digits, data.x.d, data.scale)));
            let end = rows.len().min((index + 1) * size);
            let of_part = &rows[index * size..end];
            // The part that this thread takes next, when all take turns.
            let next = index + turns;
            let ahead = if next < n_parts {
                &rows[next * size..]
            } else {
                ahead.get((next - n_parts) * size..).unwrap_or(ahead)
            };
            instructions.run(PartKernel { data, state, of_bytes, rows: of_part, ahead, share, part });
        };
        let tasks = parts.iter_mut().enumerate();
        match scratch {
            [scratch] => tasks.for_each(|task| run(scratch, task)),
            _ => team.each(scratch, tasks, run),
        }

        let Some((first, others)) = parts.split_first_mut() else { return };
        for part in others.iter() {
            first.bias_gradient.iter_mut().zip(&part.bias_gradient).for_each(|(sum, &value)| *sum += value);
            first.losses.iter_mut().zip(&part.losses).for_each(|(sum, &value)| *sum += value);
        }
        state.losses.iter_mut().zip(&first.losses).for_each(|(sum, &value)| *sum += value);
        update_bias(&mut state.weights.bias, &mut state.bias_moments, &first.bias_gradient, &state.heads, factors);

        let (others, heads, n_moments) = (&*others, &state.heads[..], state.n_moments);
        let size = shape.n_outputs() * TILE;
        let tiles = |w: &mut [f32], moments: &mut [f32], gradient: &mut [f32], offset: usize| {
            instructions.run(UpdateKernel {
                w,
                moments,
                gradient,
                others,
                offset,
                size,
                heads,
                factors,
                scale: data.scale,
            });
        };
        let length = state.weights.w.len() / size * size;
        let (w, g) = (&mut state.weights.w[..length], &mut first.gradient[..length]);
        let moments = &mut state.moments[..n_moments * length];
        if is_update_parallel(n_parts, shape) {
            let chunk = UPDATE_TILES * size;
            let chunks =
                w.chunks_mut(chunk).zip(moments.chunks_mut(n_moments * chunk)).zip(g.chunks_mut(chunk)).enumerate();
            let mut threads = vec![(); team.n_threads()];
            team.each(&mut threads, chunks, |(), (index, ((w, moments), g))| tiles(w, moments, g, index * chunk));
        } else {
            tiles(w, moments, g, 0);
        }
    }
}

/// Gradient and losses of a part.
struct PartKernel<'a, T> {
    data: &'a Data<'a, T>,
    state: &'a Tiled,
    of_bytes: Option<(Bytes, &'a WeightDigits)>,
    rows: &'a [u32],
    ahead: &'a [u32],
    share: f32,
    part: &'a mut Part,
}

impl<T: Element> Kernel for PartKernel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        self.part.bias_gradient.fill(0.0);
        self.part.losses.fill(0.0);
        match T::as_bytes(self.data.x.x).zip(self.of_bytes) {
            Some((x, (bytes, weights))) => self.run_bytes(lanes, x, bytes, weights),
            None => self.run_floats(lanes),
        }
    }
}

impl<'a, T: Element> PartKernel<'a, T> {
    /// Samples after the first `n` of the part, or of what comes after it.
    fn ahead(&self, n: usize) -> &'a [u32] {
        self.rows.get(n..).filter(|next| !next.is_empty()).unwrap_or(self.ahead)
    }

    /// Residual, losses and gradient of the intercept of a tile whose logits are in the part's `index`th.
    #[inline(always)]
    fn softmax<L: Lanes>(&mut self, lanes: L, index: usize, rows: &[u32]) {
        let Self { data, state, share, part, .. } = self;
        let (m, n_classes) = (state.weights.bias.len(), state.weights.shape.n_classes);
        softmax(
            lanes,
            SoftmaxTile {
                o: &mut part.logits[index * m * TILE..][..m * TILE],
                scale: data.scale,
                bias: &state.weights.bias,
                n_classes,
                n_samples: rows.len(),
                weights: data.weights_of(rows, *share),
                targets: part.targets.of(data.targets, n_classes, rows),
                losses: &mut part.losses,
                bias_gradient: &mut part.bias_gradient,
            },
        );
    }

    #[inline(always)]
    fn run_bytes<L: Lanes>(&mut self, lanes: L, x: &[u8], bytes: Bytes, weights: &WeightDigits) {
        let (x, m) = (Matrix { x, d: self.data.x.d }, self.state.weights.bias.len());
        for (index, samples) in self.rows.chunks(SAMPLES).enumerate() {
            for (tile, rows) in samples.chunks(TILE).enumerate() {
                let next = self.ahead(index * SAMPLES + (tile + 1) * TILE);
                bytes.logits((x, 0..x.d), rows, weights, next, &mut self.part.logits[tile * m * TILE..]);
                self.softmax(lanes, tile, rows);
            }
            let later = self.ahead((index + 1) * SAMPLES).get(TILE..).unwrap_or_default();
            let later = &later[..later.len().min(TILE)];
            let Part { logits, residual, gradient, .. } = &mut *self.part;
            bytes.split_residual(&logits[..samples.len().div_ceil(TILE) * m * TILE], residual);
            bytes.add_gradient((x, 0..x.d), samples, residual, later, gradient, index > 0);
        }
    }

    #[inline(always)]
    fn run_floats<L: Lanes>(&mut self, lanes: L) {
        let (x, weights) = (self.data.x, &self.state.weights);
        let m = weights.bias.len();
        for (index, tile) in self.rows.chunks(TILE).enumerate() {
            // Half of what comes next is asked for in the first product, half in the second.
            let half = DotTile::<T>::most_ahead::<L>(m).min(TILE / 2);
            let ahead = self.ahead((index + 1) * TILE);
            let (ahead, later) = ahead[..ahead.len().min(TILE)].split_at(ahead.len().min(half));
            let logits = DotTile { x, features: 0..x.d, rows: tile, weights, ahead, out: &mut self.part.logits };
            logits.run(lanes);
            self.softmax(lanes, 0, tile);
            let Part { gradient, logits, .. } = &mut *self.part;
            let residual = &logits[..m * TILE];
            let features = 0..x.d;
            OuterTile { x, features, rows: tile, residual, ahead: later, out: gradient, add: index > 0 }.run(lanes);
        }
    }
}

/// Update of whole tiles of W from the sum of the gradients.
struct UpdateKernel<'a> {
    w: &'a mut [f32],
    moments: &'a mut [f32],
    gradient: &'a mut [f32],
    others: &'a [Part],
    offset: usize,
    size: usize,
    heads: &'a [Head],
    factors: StepFactors,
    scale: f32,
}

impl Kernel for UpdateKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { w, moments, gradient, others, offset, size, heads, factors, scale } = self;
        let of_tile = moments.len() / w.len().max(1) * size;
        assert!(others.iter().all(|part| part.gradient.len() >= offset + w.len()));
        let tiles =
            w.chunks_exact_mut(size).zip(moments.chunks_exact_mut(of_tile)).zip(gradient.chunks_exact_mut(size));
        for (index, ((w, moments), gradient)) in tiles.enumerate() {
            let offset = offset + index * size;
            for i in (0..size).step_by(L::N) {
                // SAFETY: i + N ≤ size, a multiple of 32, and all gradients are as long.
                unsafe {
                    let mut sum = lanes.load(gradient.as_ptr().add(i));
                    for part in others {
                        sum = lanes.add(sum, lanes.load(part.gradient.as_ptr().add(offset + i)));
                    }
                    lanes.store(gradient.as_mut_ptr().add(i), sum);
                }
            }
            update_tile(lanes, w, moments, gradient, heads, factors, scale);
        }
    }
}
