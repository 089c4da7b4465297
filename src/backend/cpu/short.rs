//! Optimizer steps for few outputs and batches that stay in the caches: threads divide the features, not the samples.
//!
//! What belongs to a feature, its weights, their moments and their gradient, is then one thread's from step to step, and stays in its
//! cache. In a step threads tell each other their parts of the logits alone, (portions × samples × h·q). First, portion after portion of the
//! features, these parts; then each thread makes the whole residual for itself, which takes it less time than another's would to come, and,
//! portion after portion, the gradient and at once the update. Parts are summed in the order of the portions, so that the result does
//! not depend on the number of threads.

use std::array;
use std::mem;
use std::ops::Range;

use super::bytes::{Bytes, ResidualDigits, SAMPLES, WeightDigits};
use super::lanes::{Element, Instructions, Kernel, Lanes};
use super::narrow::{Narrow, PARALLEL, are_digits_exact};
use super::softmax::{SoftmaxTile, TargetsOfTile, softmax};
use super::stepper::{Data, Step, Tiled};
use super::team::Team;
use super::tiles::{Buffer, DotTile, Matrix, OuterTile, TILE, Weights};
use super::update::{update_bias, update_tile};
use crate::backend::{Head, Shape, StepFactors};
use crate::error::Result;

/// Features of a batch, in bytes, that stay in the caches from the first product to the second, and those of the next beside them.
const CACHED: usize = 1 << 19;
/// Samples of a batch: longer ones take as long as threads that divide them, or longer.
const LONGEST: usize = 256;
/// Multiplications of a step below which a second thread may cost more than it brings: four fifths of those of 64 × 784 × 10 samples, features and outputs.
const LEAST: usize = 3 * PARALLEL;
/// Features of two portions at least: with fewer, the sums over the lanes would take as long as the products.
const LEAST_FEATURES: usize = 768;
const MOST_PORTIONS: usize = 8;
/// Portions are whole slabs of so many features, those of a vector of bytes.
const SLAB: usize = 2 * TILE;

struct Portion {
    features: Range<usize>,
    /// Its part of the logits of a batch, tile after tile of the samples (h·q × 32).
    logits: Buffer,
    /// Its weights in digits, where features are multiplied as bytes.
    weights: Option<WeightDigits>,
}

/// What a thread needs for itself. No two share a line of the cache.
#[repr(align(64))]
struct Scratch {
    /// The step that residual, gradient of the intercept and losses are of.
    step: u64,
    /// Tile after tile of the samples, (h·q × 32).
    residual: Buffer,
    /// The same, where features are multiplied as bytes.
    digits: Vec<ResidualDigits>,
    bias_gradient: Vec<f32>,
    losses: Vec<f64>,
    targets: TargetsOfTile,
    /// Of a portion, tile after tile of the features (h·q × 32).
    gradient: Buffer,
}

pub(super) struct Short {
    portions: Vec<Portion>,
    scratch: Vec<Scratch>,
    bytes: Option<Bytes>,
    n_steps: u64,
}

impl Short {
    /// Whether this way suits the shape and the size of the batches.
    pub fn suits<T: Element>(instructions: Instructions, shape: Shape, batch_size: usize) -> bool {
        Narrow::suits(instructions, shape)
            && shape.n_features >= LEAST_FEATURES
            && batch_size <= LONGEST
            && 2 * batch_size * shape.n_parameters() >= LEAST
            && batch_size * shape.n_features * size_of::<T>() <= CACHED
    }

    pub fn new<T: Element>(
        instructions: Instructions,
        data: &Data<T>,
        shape: Shape,
        batch_size: usize,
    ) -> Result<Self> {
        let (m, n_tiles) = (shape.n_outputs(), batch_size.div_ceil(TILE));
        let bytes = T::as_bytes(data.x.x).and(instructions.bytes());
        let n_portions = (2 * (shape.n_features / LEAST_FEATURES)).clamp(1, MOST_PORTIONS);
        let n_slabs = shape.n_features.div_ceil(SLAB);
        let start = |index: usize| (index * n_slabs / n_portions * SLAB).min(shape.n_features);
        let portion = |index| {
            let features = start(index)..start(index + 1);
            let weights =
                bytes.map(|_| WeightDigits::new(Shape { n_features: features.len(), ..shape })).transpose()?;
            Ok(Portion { features, logits: Buffer::zeros(n_tiles * m, TILE, "a part of the logits")?, weights })
        };
        let portions = (0..n_portions).map(portion).collect::<Result<Vec<_>>>()?;
        let most = portions.iter().map(|portion| portion.features.len().div_ceil(TILE)).max().unwrap_or_default();
        let scratch = || {
            let n_digits = bytes.map_or(0, |_| batch_size.div_ceil(SAMPLES));
            Ok(Scratch {
                step: 0,
                residual: Buffer::zeros(n_tiles * m, TILE, "the residual of a batch")?,
                digits: (0..n_digits).map(|_| ResidualDigits::new(shape)).collect::<Result<_>>()?,
                bias_gradient: vec![0.0; m],
                losses: vec![0.0; shape.n_heads],
                targets: TargetsOfTile::new(data.targets, shape.n_classes)?,
                gradient: Buffer::zeros(most * m, TILE, "a part of the gradient")?,
            })
        };
        let n_threads = rayon::current_num_threads().min(portions.len());
        Ok(Self { portions, scratch: (0..n_threads).map(|_| scratch()).collect::<Result<_>>()?, bytes, n_steps: 0 })
    }

    /// How many threads have something to do.
    pub fn n_threads(&self) -> usize {
        self.scratch.len()
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
        let Self { portions, scratch, bytes, n_steps } = self;
        *n_steps += 1;
        let (bytes, step) = (*bytes, *n_steps);
        let weights = &state.weights;
        team.each_from_both_ends(scratch, portions.iter_mut(), |_, portion| {
            instructions.run(LogitsKernel { data, weights, bytes, rows, ahead, portion });
        });

        let Tiled { weights: Weights { shape, w, bias }, n_moments, moments, bias_moments, heads, losses } = state;
        let (portions, heads, m) = (&portions[..], &heads[..], shape.n_outputs());
        let residual = |scratch: &mut Scratch| {
            if mem::replace(&mut scratch.step, step) != step {
                instructions.run(ResidualKernel { data, portions, bytes, rows, bias, shape: *shape, scratch });
            }
        };
        let (mut w, mut moments) = (&mut w[..], &mut moments[..]);
        let mut parts: [_; MOST_PORTIONS] = array::from_fn(|index| {
            let n_values = portions.get(index).map_or(0, |portion| portion.features.len().div_ceil(TILE) * m * TILE);
            let (of_w, rest) = mem::take(&mut w).split_at_mut(n_values);
            let (of_moments, rest_of_moments) = mem::take(&mut moments).split_at_mut(*n_moments * n_values);
            (w, moments) = (rest, rest_of_moments);
            (of_w, of_moments)
        });
        let tasks = parts[..portions.len()].iter_mut().zip(portions);
        team.each_from_both_ends(scratch, tasks, |scratch, ((w, moments), portion)| {
            residual(scratch);
            let features = portion.features.clone();
            instructions.run(UpdateKernel { data, bytes, rows, ahead, features, w, moments, heads, factors, scratch });
        });
        let Some(of_leader) = scratch.first_mut() else { return };
        residual(of_leader);
        losses.iter_mut().zip(&of_leader.losses).for_each(|(sum, &value)| *sum += value);
        update_bias(bias, bias_moments, &of_leader.bias_gradient, heads, factors);
    }
}

/// The rows of the next batch that are brought into the cache with the first product of the tile that begins with that sample, and
/// those with the second. Of bytes all are with the second.
fn ahead_of(ahead: &[u32], first: usize, n_first: usize) -> (&[u32], &[u32]) {
    let of_tile = ahead.get(first..).unwrap_or_default();
    let of_tile = &of_tile[..of_tile.len().min(TILE)];
    of_tile.split_at(of_tile.len().min(n_first))
}

/// A portion's part of the logits.
struct LogitsKernel<'a, T> {
    data: &'a Data<'a, T>,
    weights: &'a Weights,
    bytes: Option<Bytes>,
    rows: &'a [u32],
    ahead: &'a [u32],
    portion: &'a mut Portion,
}

/// Rows of a tile that are asked for in the first product.
fn n_ahead<L: Lanes, T>(m: usize) -> usize {
    DotTile::<T>::most_ahead::<L>(m).min(TILE / 2)
}

impl<T: Element> Kernel for LogitsKernel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { data, weights, bytes, rows, ahead, portion: Portion { features, logits, weights: digits } } = self;
        let m = weights.bias.len();
        let tiles = rows.chunks(TILE).zip(logits.chunks_exact_mut(m * TILE)).zip((0..).step_by(TILE));
        if let (Some(x), Some(bytes), Some(digits)) = (T::as_bytes(data.x.x), bytes, digits) {
            let of_portion = &weights.w[features.start * m..][..features.len().div_ceil(TILE) * m * TILE];
            bytes.split_weights(of_portion, m, digits);
            if are_digits_exact(digits, data.x.d, data.scale) {
                let x = Matrix { x, d: data.x.d };
                for ((of_tile, out), first) in tiles {
                    bytes.logits((x, features.clone()), of_tile, digits, &rows[first + of_tile.len()..], out);
                }
                return;
            }
        }
        for ((rows, out), first) in tiles {
            let (ahead, _) = ahead_of(ahead, first, n_ahead::<L, T>(m));
            DotTile { x: data.x, features: features.clone(), rows, weights, ahead, out }.run(lanes);
        }
    }
}

/// Residual, losses and gradient of the intercept of a batch.
struct ResidualKernel<'a, T> {
    data: &'a Data<'a, T>,
    portions: &'a [Portion],
    bytes: Option<Bytes>,
    rows: &'a [u32],
    bias: &'a [f32],
    shape: Shape,
    scratch: &'a mut Scratch,
}

impl<T: Element> Kernel for ResidualKernel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { data, portions, bytes, rows, bias, shape: Shape { n_classes, .. }, scratch } = self;
        let Scratch { residual, digits, bias_gradient, losses, targets, .. } = scratch;
        bias_gradient.fill(0.0);
        losses.fill(0.0);
        let (size, share) = (bias.len() * TILE, 1.0 / rows.len() as f32);
        assert!(portions.iter().all(|portion| portion.logits.len() >= rows.len().div_ceil(TILE) * size));
        for ((tile, rows), o) in rows.chunks(TILE).enumerate().zip(residual.chunks_exact_mut(size)) {
            for i in (0..size).step_by(L::N) {
                let mut sum = lanes.splat(0.0);
                for portion in portions {
                    // SAFETY: each portion has so many tiles, whose size is a multiple of N.
                    sum = lanes.add(sum, unsafe { lanes.load(portion.logits.as_ptr().add(tile * size + i)) });
                }
                // SAFETY: a tile has a multiple of N values.
                unsafe { lanes.store(o.as_mut_ptr().add(i), sum) };
            }
            softmax(
                lanes,
                SoftmaxTile {
                    o,
                    scale: data.scale,
                    bias,
                    n_classes,
                    n_samples: rows.len(),
                    weights: data.weights_of(rows, share),
                    targets: targets.of(data.targets, n_classes, rows),
                    losses,
                    bias_gradient,
                },
            );
        }
        if let Some(bytes) = bytes {
            let of_batch = &residual[..rows.len().div_ceil(TILE) * size];
            let of_samples = of_batch.chunks(SAMPLES / TILE * size);
            of_samples.zip(digits).for_each(|(residual, digits)| bytes.split_residual(residual, digits));
        }
    }
}

/// Gradient and update of a portion.
struct UpdateKernel<'a, T> {
    data: &'a Data<'a, T>,
    bytes: Option<Bytes>,
    rows: &'a [u32],
    ahead: &'a [u32],
    features: Range<usize>,
    w: &'a mut [f32],
    moments: &'a mut [f32],
    heads: &'a [Head],
    factors: StepFactors,
    scratch: &'a mut Scratch,
}

impl<T: Element> Kernel for UpdateKernel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { data, bytes, rows, ahead, features, w, moments, heads, factors, scratch } = self;
        let Scratch { residual, digits, gradient, .. } = scratch;
        let size = w.len() / features.len().div_ceil(TILE).max(1);
        let gradient = &mut gradient[..w.len()];
        if !features.len().is_multiple_of(TILE) {
            // Past d nothing is written, where another portion's gradient may be: W is 0 there.
            gradient[w.len() - size..].fill(0.0);
        }
        // Digits of the residual are exact enough, whatever W is.
        if let Some((x, bytes)) = T::as_bytes(data.x.x).zip(bytes) {
            let x = Matrix { x, d: data.x.d };
            for ((index, rows), digits) in rows.chunks(SAMPLES).enumerate().zip(digits) {
                let ahead = ahead.get(index * SAMPLES..).unwrap_or_default();
                bytes.add_gradient((x, features.clone()), rows, digits, ahead, gradient, index > 0);
            }
        } else {
            for ((index, rows), residual) in rows.chunks(TILE).enumerate().zip(residual.chunks_exact(size)) {
                let (_, later) = ahead_of(ahead, index * TILE, n_ahead::<L, T>(size / TILE));
                let (x, features, out) = (data.x, features.clone(), &mut *gradient);
                OuterTile { x, features, rows, residual, ahead: later, out, add: index > 0 }.run(lanes);
            }
        }
        let moments = moments.chunks_exact_mut(moments.len() / w.len().max(1) * size);
        for ((w, moments), gradient) in w.chunks_exact_mut(size).zip(moments).zip(gradient.chunks_exact(size)) {
            update_tile(lanes, w, moments, gradient, heads, factors, data.scale);
        }
    }
}
