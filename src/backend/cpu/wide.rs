//! Optimizer steps for many outputs: two tiled products.
//!
//! First, for a few tiles of samples at a time, logits, softmax and residual, which stays; then, for 32 features at a
//! time, the gradient Xᵀ·R and at once the update with it, so that the whole gradient is never stored. Each result is
//! summed in an order that does not depend on the number of threads.

use super::lanes::{Element, Instructions, Kernel, Lanes};
use super::product::Tile;
use super::softmax::{SoftmaxTile, TargetsOfTile, softmax};
use super::stepper::{Data, Step, Tiled};
use super::team::Team;
use super::tiles::{Buffer, Matrix, TILE, Weights, allocate, groups, pack_columns, pack_rows};
use super::update::{update_bias, update_tile};
use crate::backend::{Head, Shape, StepFactors};
use crate::error::Result;

/// Tiles of samples that share what they read of W.
const TILES: usize = 2;
/// Samples of the gradient's product at once: as many as stay in the cache.
const DEPTH: usize = 1024;

/// What a thread needs for itself.
struct Scratch {
    /// Columns of X for [`TILES`] tiles, or rows of one slab of X.
    x: Buffer,
    gradient: Buffer,
    targets: TargetsOfTile,
}

pub(super) struct Wide {
    scratch: Vec<Scratch>,
    /// Logits, then residual, of the batch.
    o: Buffer,
    /// Of each group of [`TILES`] tiles: sums of the residuals, (h·q); losses, (h).
    bias_gradients: Buffer,
    losses: Vec<f64>,
}

impl Wide {
    pub fn new<T>(data: &Data<T>, shape: Shape, batch_size: usize) -> Result<Self> {
        let m = shape.n_outputs();
        let (n_slabs, n_tiles) = (shape.n_features.div_ceil(TILE), batch_size.div_ceil(TILE));
        let n_groups = n_tiles.div_ceil(TILES);
        let x_rows = (TILES * n_slabs * TILE).max(DEPTH.min(n_tiles * TILE));
        let scratch = || {
            Ok(Scratch {
                x: Buffer::zeros(x_rows, TILE, "a part of the features")?,
                gradient: Buffer::zeros(m, TILE, "a part of the gradient")?,
                targets: TargetsOfTile::new(data.targets, shape.n_classes)?,
            })
        };
        Ok(Self {
            scratch: (0..rayon::current_num_threads().min(n_groups.max(n_slabs)))
                .map(|_| scratch())
                .collect::<Result<_>>()?,
            o: Buffer::zeros(n_tiles * TILE, m, "the logits of a batch")?,
            bias_gradients: Buffer::zeros(n_groups, m, "the gradient of the intercept")?,
            losses: allocate(0.0, n_groups.saturating_mul(shape.n_heads), "the losses")?,
        })
    }

    /// How many threads have something to do in a step.
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
        Step { rows, factors, .. }: Step,
    ) {
        let shape = state.weights.shape;
        let m = shape.n_outputs();
        let share = 1.0 / rows.len() as f32;
        let n_groups = rows.len().div_ceil(TILES * TILE);
        let (bias_gradients, of_groups) =
            (&mut self.bias_gradients[..n_groups * m], &mut self.losses[..n_groups * shape.n_heads]);

        let groups = rows.chunks(TILES * TILE).zip(self.o.chunks_mut(TILES * TILE * m));
        let groups = groups.zip(bias_gradients.chunks_exact_mut(m)).zip(of_groups.chunks_exact_mut(shape.n_heads));
        team.each(&mut self.scratch, groups, |scratch, (((rows, o), bias_gradient), losses)| {
            let weights = &state.weights;
            instructions.run(ResidualKernel { data, weights, rows, share, o, bias_gradient, losses, scratch });
        });

        let moments = state.moments.chunks_exact_mut(state.n_moments * m * TILE);
        let slabs = state.weights.w.chunks_exact_mut(m * TILE).zip(moments);
        let slabs = slabs.take(shape.n_features.div_ceil(TILE)).enumerate();
        let (o, heads) = (&*self.o, &state.heads[..]);
        team.each(&mut self.scratch, slabs, |scratch, (slab, (w, moments))| {
            instructions.run(GradientKernel { data, rows, o, slab, w, moments, heads, factors, scratch });
        });

        for of_group in of_groups.chunks_exact(shape.n_heads) {
            state.losses.iter_mut().zip(of_group).for_each(|(sum, &value)| *sum += value);
        }
        if let Some((sums, others)) = bias_gradients.split_at_mut_checked(m) {
            for other in others.chunks_exact(m) {
                sums.iter_mut().zip(other).for_each(|(sum, &value)| *sum += value);
            }
            update_bias(&mut state.weights.bias, &mut state.bias_moments, sums, &state.heads, factors);
        }
    }
}

/// Sums of X·W for tiles of 32 samples into `o`, tiles of (h·q × 32). `x` has room for the columns of all.
#[inline(always)]
fn products<L: Lanes, T: Element>(
    lanes: L,
    data: Matrix<T>,
    weights: &Weights,
    rows: &[u32],
    x: &mut [f32],
    o: &mut [f32],
) {
    let m = weights.bias.len();
    let n_slabs = data.d.div_ceil(TILE);
    let n_tiles = rows.len().div_ceil(TILE);
    assert!(o.len() >= n_tiles * m * TILE && weights.w.len() >= n_slabs * m * TILE);
    assert!(x.len() >= n_tiles * n_slabs * TILE * TILE);
    for (rows, x) in rows.chunks(TILE).zip(x.chunks_exact_mut(n_slabs * TILE * TILE)) {
        pack_columns(lanes, data, rows, x);
    }
    for (j, n) in groups(m, L::TILE) {
        for (tile, x) in x.chunks_exact(n_slabs * TILE * TILE).take(n_tiles).enumerate() {
            let product = Tile {
                a: x.as_ptr(),
                b: weights.w[j * TILE..].as_ptr(),
                b_stride: m * TILE,
                t: data.d,
                out: o[(tile * m + j) * TILE..].as_mut_ptr(),
                add: false,
            };
            // SAFETY: x has a row for each feature, W a tile for 32 features, o is row j of a tile of m.
            unsafe { lanes.tile(n, &product) }
        }
    }
}

/// Logits, losses and residual of up to [`TILES`] tiles of samples.
struct ResidualKernel<'a, T> {
    data: &'a Data<'a, T>,
    weights: &'a Weights,
    rows: &'a [u32],
    share: f32,
    o: &'a mut [f32],
    bias_gradient: &'a mut [f32],
    losses: &'a mut [f64],
    scratch: &'a mut Scratch,
}

impl<T: Element> Kernel for ResidualKernel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { data, weights, rows, share, o, bias_gradient, losses, scratch } = self;
        let Shape { n_classes, .. } = weights.shape;
        products(lanes, data.x, weights, rows, &mut scratch.x, o);
        bias_gradient.fill(0.0);
        losses.fill(0.0);
        for (rows, o) in rows.chunks(TILE).zip(o.chunks_exact_mut(weights.bias.len() * TILE)) {
            softmax(
                lanes,
                SoftmaxTile {
                    o,
                    scale: data.scale,
                    bias: &weights.bias,
                    n_classes,
                    n_samples: rows.len(),
                    weights: data.weights_of(rows, share),
                    targets: scratch.targets.of(data.targets, n_classes, rows),
                    losses,
                    bias_gradient,
                },
            );
        }
    }
}

/// Gradient of 32 features and the update with it.
struct GradientKernel<'a, T> {
    data: &'a Data<'a, T>,
    rows: &'a [u32],
    o: &'a [f32],
    slab: usize,
    w: &'a mut [f32],
    moments: &'a mut [f32],
    heads: &'a [Head],
    factors: StepFactors,
    scratch: &'a mut Scratch,
}

impl<T: Element> Kernel for GradientKernel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { data, rows, o, slab, w, moments, heads, factors, scratch } = self;
        let m = w.len() / TILE;
        assert!(scratch.gradient.len() >= m * TILE && scratch.x.len() >= rows.len().min(DEPTH) * TILE);
        assert!(o.len() >= rows.len().div_ceil(TILE) * m * TILE);
        for (index, rows) in rows.chunks(DEPTH).enumerate() {
            pack_rows(lanes, data.x, rows.iter().copied(), slab * TILE, &mut scratch.x);
            for (j, n) in groups(m, L::TILE) {
                let product = Tile {
                    a: scratch.x.as_ptr(),
                    b: o[(index * DEPTH * m) + j * TILE..].as_ptr(),
                    b_stride: m * TILE,
                    t: rows.len(),
                    out: scratch.gradient[j * TILE..].as_mut_ptr(),
                    add: index > 0,
                };
                // SAFETY: x has a row for each sample, o a tile of m rows for 32 samples, the gradient m rows.
                unsafe { lanes.tile(n, &product) }
            }
        }
        update_tile(lanes, w, moments, &scratch.gradient, heads, factors, data.scale);
    }
}

/// Sums of X·W of up to 32 samples, into the tile `out` (h·q × 32).
pub(super) struct ProductTile<'a, T> {
    pub x: Matrix<'a, T>,
    pub rows: &'a [u32],
    pub weights: &'a Weights,
    /// Room for ⌈d/32⌉·32 × 32 values.
    pub columns: &'a mut [f32],
    pub out: &'a mut [f32],
}

impl<T: Element> Kernel for ProductTile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        products(lanes, self.x, self.weights, self.rows, self.columns, self.out);
    }
}
