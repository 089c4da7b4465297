//! A pass over the samples for one loss, or for several at once, in double precision, the products of drafts in single.
//!
//! The samples are cut into parts, by sizes alone. A part goes through its samples a tile at a time: features become `f64`,
//! or `f32` in a draft, logits, softmax, residual, and the part's own gradient while the features are in the cache. Then the
//! parts are summed in their order, so that the result does not depend on the number of threads; nor does it depend on what
//! other losses the pass is for.

use std::ops::Range;

use super::double::{Gradient, Logits, SLAB, Tile, Widen};
use super::lanes::{Element, Instructions};
use super::real::Real;
use super::residual::{Curvature, Residual};
use super::team;
use super::tiles::{Matrix, allocate};
use crate::backend::{Evaluation, Point, Shape, check};
use crate::data::Targets;
use crate::error::Result;

/// A part has at least so many samples.
const LEAST_PART: usize = 512;
/// At most so many parts, whose gradients together have at most so many values (256 MiB for each loss).
const MOST_PARTS: usize = 64;
const MOST_GRADIENTS: usize = 32 << 20;
/// Values of the parts' gradients that are worth a thread to sum.
const PARALLEL: usize = 1 << 17;
/// Features of a tile, in values: half of what the second level of the cache has.
const TILE_VALUES: usize = 1 << 16;
/// Ten pairs of a step and a change of the gradient, and those at hand.
const VECTORS: u64 = 28;
/// Of several losses each goes through so many tiles before the next one: its weights and its gradient then come to the cache less often.
const BLOCK: usize = 4;

/// The samples, in parts and tiles.
#[derive(Clone, Copy)]
pub(super) struct Samples<'a, T> {
    pub instructions: Instructions,
    pub x: Matrix<'a, T>,
    pub scale: f64,
    pub targets: &'a Targets<'a>,
    pub shape: Shape,
    n_slabs: usize,
    /// Samples of a part and of a tile.
    part_len: usize,
    pub tile_len: usize,
}

/// What a loss keeps from one pass to the next: all that does not belong to the samples.
#[derive(Default)]
pub(super) struct Kept {
    pub is_draft: bool,
    /// s of each sample; one for all when all are the same.
    weights: Vec<f64>,
    parts: Vec<Part>,
    /// W or D, (slabs × h·q × 16) in memory for either precision, and of the intercept (h·q).
    weights_in_slabs: Vec<f64>,
    pub bias: Vec<f64>,
    /// Z and Zₚ, (n × h·q).
    z: Vec<f64>,
    direction: Vec<f64>,
}

/// A part of the samples, and what was found for it.
pub(super) struct Part {
    pub first: usize,
    /// (slabs × h·q × 16)
    gradient: Vec<f64>,
    pub sums: Sums,
}

/// What is summed over the samples of a part beside the gradient of the features.
pub(super) struct Sums {
    /// (h·q)
    bias_gradient: Vec<f64>,
    /// Of each point and head.
    pub losses: Vec<f64>,
    pub slopes: Vec<f64>,
}

/// What a thread needs for a tile, or for a block of them.
pub(super) struct Scratch {
    /// (tiles × slabs × samples × 16), memory for either precision, and which of them is in each tile.
    x: Vec<f64>,
    widened: Vec<Option<bool>>,
    /// (samples × h·q), and memory for the same in single precision.
    pub residual: Vec<f64>,
    raised: Vec<f64>,
}

/// What a pass over the samples does with the logits that it computes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    /// There is none: those that are kept.
    None,
    Point,
    Direction,
    Vector,
}

/// What is asked of a pass for one loss: the product with the weights that are set, the residual at the lengths `t` or, for a product
/// with a vector, of the Hessian, and the gradient with it.
pub(super) struct Asked<'p> {
    pub kept: &'p mut Kept,
    pub product: Product,
    pub t: &'p [f64],
}

/// That, of one part.
pub(super) struct Piece<'p> {
    product: Product,
    t: &'p [f64],
    is_draft: bool,
    pub weights: &'p [f64],
    weights_in_slabs: &'p [f64],
    pub bias: &'p [f64],
    pub part: &'p mut Part,
    pub z: &'p mut [f64],
    /// Empty where there was no direction.
    pub direction: &'p mut [f64],
}

impl Kept {
    /// With these weights of the samples, or one for all.
    pub fn new<T: Element>(samples: &Samples<T>, weights: Vec<f64>) -> Result<Self> {
        let Samples { shape, n_slabs, part_len, .. } = *samples;
        let (n_samples, m) = (samples.n_samples(), shape.n_outputs());
        let what = "the gradient of a part";
        let part = |first| Ok(Part { first, gradient: allocate(0.0, n_slabs * SLAB * m, what)?, sums: Sums::new(m) });
        Ok(Self {
            is_draft: false,
            weights,
            parts: (0..n_samples).step_by(part_len).map(part).collect::<Result<_>>()?,
            weights_in_slabs: allocate(0.0, n_slabs * SLAB * m, "the weights")?,
            bias: vec![0.0; m],
            z: allocate(0.0, n_samples.saturating_mul(m), "the logits")?,
            direction: Vec::new(),
        })
    }

    /// Sets the weights of the next product.
    pub fn set_weights(&mut self, shape: Shape, parameters: &[f64]) -> Result<()> {
        check::values_of(shape, parameters)?;
        fn set<F: Real>(slabs: &mut [f64], weights: &[f64], m: usize) {
            for (slab, rows) in F::within(slabs).chunks_exact_mut(m * SLAB).zip(weights.chunks(m * SLAB)) {
                for (lane, row) in rows.chunks_exact(m).enumerate() {
                    for (j, &value) in row.iter().enumerate() {
                        slab[j * SLAB + lane] = F::from_f64(value);
                    }
                }
            }
        }
        let (weights, bias) = parameters.split_at(shape.n_features * shape.n_outputs());
        let set = if self.is_draft { set::<f32> } else { set::<f64> };
        set(&mut self.weights_in_slabs, weights, shape.n_outputs());
        self.bias.copy_from_slice(bias);
        Ok(())
    }

    /// There is no direction from a new point.
    pub fn forget_direction(&mut self) {
        self.direction = Vec::new();
    }

    /// Makes room for the logits of a direction.
    pub fn take_direction(&mut self) -> Result<()> {
        if self.direction.is_empty() {
            self.direction = allocate(0.0, self.z.len(), "the logits of a direction")?;
        }
        Ok(())
    }

    /// What was summed over the samples of each part.
    pub fn sums(&self) -> impl Iterator<Item = &Sums> {
        self.parts.iter().map(|part| &part.sums)
    }

    /// Bytes of all that it keeps for `n_samples` samples, with the vectors of parameters that a solver has beside, [`VECTORS`].
    pub fn bytes(n_samples: usize, shape: Shape) -> u64 {
        let (d, m) = (shape.n_features, shape.n_outputs());
        let (n_slabs, n_parts) = (d.div_ceil(SLAB), n_parts(n_samples, shape));
        let slabs = (n_slabs * SLAB) as u64 * m as u64;
        8 * (2 * n_samples as u64 * m as u64 + slabs * (n_parts as u64 + 1) + VECTORS * shape.n_parameters() as u64)
    }
}

impl Scratch {
    /// For a tile; or for a block, where there may be several losses.
    pub fn new<T: Element>(samples: &Samples<T>, is_block: bool) -> Result<Self> {
        let Samples { shape, n_slabs, tile_len, .. } = *samples;
        let (m, n_tiles) = (shape.n_outputs(), if is_block { BLOCK } else { 1 });
        Ok(Self {
            x: allocate(0.0, n_tiles * tile_len * n_slabs * SLAB, "a part of the features")?,
            widened: vec![None; n_tiles],
            residual: allocate(0.0, tile_len.saturating_mul(m), "a part of the residual")?,
            raised: allocate(0.0, tile_len.saturating_mul(m).div_ceil(2), "a part of the residual")?,
        })
    }
}

fn n_parts(n_samples: usize, shape: Shape) -> usize {
    let n_values = shape.n_features.div_ceil(SLAB) * SLAB * shape.n_outputs();
    (MOST_GRADIENTS / n_values).clamp(1, MOST_PARTS).min(n_samples.div_ceil(LEAST_PART)).max(1)
}

impl<'a, T: Element> Samples<'a, T> {
    /// They suit the targets and the shape.
    pub fn new(
        instructions: Instructions,
        x: Matrix<'a, T>,
        scale: f32,
        targets: &'a Targets<'a>,
        shape: Shape,
    ) -> Self {
        let d = shape.n_features;
        let n_samples = x.x.len() / d;
        let n_slabs = d.div_ceil(SLAB);
        let part_len = n_samples.div_ceil(n_parts(n_samples, shape)).max(1);
        // An odd number of fours: the slabs of a sample then lie in different sets of the cache.
        let fours = (TILE_VALUES / (n_slabs * SLAB) / 4).clamp(1, 64);
        let tile_len = (4 * ((fours - 1) | 1)).min(part_len);
        Self { instructions, x, scale: scale.into(), targets, shape, n_slabs, part_len, tile_len }
    }

    pub fn n_samples(&self) -> usize {
        self.x.x.len() / self.shape.n_features
    }

    /// How many threads are worth it.
    pub fn n_threads(&self) -> usize {
        rayon::current_num_threads().min(self.n_samples().div_ceil(self.part_len))
    }

    /// Runs `work` for each part of what a loss keeps.
    pub fn each_part(&self, scratch: &mut [Scratch], kept: &mut Kept, work: impl Fn(&mut Scratch, Piece) + Sync) {
        let mut asked = [Asked { kept, product: Product::None, t: &[] }];
        let pieces = self.pieces(&mut asked);
        team::lead(scratch.len(), |team| team.each(scratch, pieces.into_iter().flatten(), &work));
    }

    /// What is asked, by part.
    fn pieces<'p>(&self, asked: &'p mut [Asked]) -> Vec<Vec<Piece<'p>>> {
        let length = self.part_len * self.shape.n_outputs();
        let mut pieces: Vec<Vec<Piece>> = Vec::new();
        for Asked { kept, product, t } in asked {
            let Kept { is_draft, weights, parts, weights_in_slabs, bias, z, direction, .. } = &mut **kept;
            let (weights, weights_in_slabs, bias) = (&weights[..], &weights_in_slabs[..], &bias[..]);
            pieces.resize_with(parts.len(), Vec::new);
            let mut directions = direction.chunks_mut(length);
            for ((to, part), z) in pieces.iter_mut().zip(parts).zip(z.chunks_mut(length)) {
                let direction = directions.next().unwrap_or_default();
                let (product, is_draft) = (*product, *is_draft);
                to.push(Piece { product, t, is_draft, weights, weights_in_slabs, bias, part, z, direction });
            }
        }
        pieces
    }

    /// One pass over X for all that is asked, of different losses.
    pub fn pass(&self, scratch: &mut [Scratch], asked: &mut [Asked]) -> Vec<Evaluation> {
        let pieces = self.pieces(asked);
        team::lead(scratch.len(), |team| {
            team.each(scratch, pieces.into_iter(), |scratch, mut pieces| self.pass_part(scratch, &mut pieces));
        });
        let (d, m, n_heads) = (self.shape.n_features, self.shape.n_outputs(), self.shape.n_heads);
        let mut gradients: Vec<Vec<f64>> = asked.iter().map(|_| vec![0.0; self.shape.n_parameters()]).collect();
        let mut slabs = Vec::new();
        for (Asked { kept, .. }, gradient) in asked.iter_mut().zip(&mut gradients) {
            let Some((first, others)) = kept.parts.split_first_mut() else { continue };
            let rows = gradient[..d * m].chunks_mut(SLAB * m).zip(first.gradient.chunks_exact_mut(SLAB * m));
            slabs.extend(rows.enumerate().map(|(slab, (rows, sums))| (slab, rows, sums, &*others)));
        }
        let sum = |_: &mut (), (slab, rows, sums, others): (usize, &mut [f64], &mut [f64], &[Part])| {
            for part in others {
                let values = &part.gradient[slab * SLAB * m..][..SLAB * m];
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
            for (lane, row) in rows.chunks_exact_mut(m).enumerate() {
                row.iter_mut().enumerate().for_each(|(j, value)| *value = sums[j * SLAB + lane]);
            }
        };
        let n_values: usize = slabs.iter().map(|(_, rows, _, others)| rows.len() * others.len()).sum();
        let n_threads = if n_values < PARALLEL { 1 } else { scratch.len() };
        team::lead(n_threads, |team| team.each(&mut vec![(); n_threads], slabs.into_iter(), sum));
        let finish = |(Asked { kept, .. }, mut gradient): (&mut Asked, Vec<f64>)| {
            Sums::bias_gradient(kept.sums(), &mut gradient[d * m..]);
            Evaluation { point: Sums::point(kept.sums(), n_heads), gradient }
        };
        asked.iter_mut().zip(gradients).map(finish).collect()
    }

    /// A part of a pass, a block of tiles at a time.
    fn pass_part(&self, scratch: &mut Scratch, pieces: &mut [Piece]) {
        for piece in &mut *pieces {
            piece.part.gradient.fill(0.0);
            piece.part.sums.reset(self.shape.n_heads);
        }
        let Some(Piece { part, z, .. }) = pieces.first() else { return };
        let (first, n) = (part.first, z.len() / self.shape.n_outputs());
        let n_tiles = if pieces.len() == 1 { 1 } else { scratch.widened.len() };
        for first_of_block in (0..n).step_by(n_tiles * self.tile_len) {
            scratch.widened.fill(None);
            for piece in &mut *pieces {
                for tile in 0..n_tiles {
                    let from = first_of_block + tile * self.tile_len;
                    let rows = from..n.min(from + self.tile_len);
                    if rows.is_empty() || are_nothing(piece.weights, first + rows.start, rows.len()) {
                        continue;
                    }
                    match piece.is_draft {
                        true => self.pass_tile::<f32>(scratch, tile, piece, first, rows),
                        false => self.pass_tile::<f64>(scratch, tile, piece, first, rows),
                    }
                }
            }
        }
    }

    /// The `rows` of the part that begins with sample `of_part`: the tile at that place of a block.
    fn pass_tile<F: Real>(
        &self,
        scratch: &mut Scratch,
        place: usize,
        piece: &mut Piece,
        of_part: usize,
        rows: Range<usize>,
    ) {
        let Self { instructions, n_slabs, shape, .. } = *self;
        let (m, n, first) = (shape.n_outputs(), rows.len(), of_part + rows.start);
        let of_rows = rows.start * m..rows.end * m;
        let weights = weights_from(piece.weights, first);
        let Piece { product, t, is_draft, weights_in_slabs, bias, ref mut part, .. } = *piece;
        let z = &mut piece.z[of_rows.clone()];
        let direction = piece.direction.get_mut(of_rows).unwrap_or_default();
        let tile = match self.in_place(first, n) {
            // The gradient alone goes through memory column by column.
            Some(tile) if product != Product::None => tile,
            _ => {
                let length = n_slabs * SLAB * self.tile_len;
                let x = &mut F::within(&mut scratch.x[place * length..][..length])[..n_slabs * n * SLAB];
                if scratch.widened[place].replace(is_draft) != Some(is_draft) {
                    instructions.run(Widen { x: self.x, first, n, scale: self.scale, out: x });
                }
                Tile { x, n, strides: [SLAB, n * SLAB] }
            }
        };
        let residual = &mut scratch.residual[..n * m];
        {
            let out = match product {
                Product::None => &mut [],
                Product::Point => &mut *z,
                Product::Direction => &mut *direction,
                Product::Vector => &mut *residual,
            };
            if product != Product::None {
                // The samples of the next tile.
                let next = ((first + n) * shape.n_features).min(self.x.x.len());
                let ahead = &self.x.x[next..self.x.x.len().min(next + n * shape.n_features)];
                let ahead = (ahead.as_ptr().cast(), size_of_val(ahead));
                let w = &F::of(weights_in_slabs)[..n_slabs * m * SLAB];
                instructions.run(Logits { tile, w, m, out, ahead });
                out.chunks_exact_mut(m).for_each(|row| row.iter_mut().zip(bias).for_each(|(o, b)| *o += b));
            }
        }
        if product == Product::Vector {
            let Shape { n_classes, n_heads, .. } = shape;
            instructions.run(Curvature { z, n_classes, n_heads, weights, residual });
        } else {
            let Sums { losses, slopes, .. } = &mut part.sums;
            let (targets, n_classes) = (self.targets, shape.n_classes);
            instructions.run(Residual {
                first,
                t,
                z,
                direction,
                targets,
                n_classes,
                weights,
                residual,
                losses,
                slopes,
            });
        }
        part.sums.add_bias_gradient(residual);
        let residual = F::raised(residual, &mut scratch.raised);
        instructions.run(Gradient { tile, residual, m, gradient: &mut part.gradient });
    }

    /// The samples `first..first + n` where they lie in X, when they are X̃ in this precision, in whole slabs, and not all in
    /// the same sets of the cache.
    fn in_place<F: Real>(&self, first: usize, n: usize) -> Option<Tile<'_, F>> {
        let d = self.x.d;
        let fits = self.scale == 1.0 && d.is_multiple_of(SLAB) && !d.is_multiple_of(32 * SLAB);
        let x = T::as_f32(&self.x.x[first * d..(first + n) * d]).filter(|_| fits).and_then(F::from_f32)?;
        Some(Tile { x, n, strides: [d, SLAB] })
    }
}

impl Sums {
    pub fn new(n_outputs: usize) -> Self {
        Self { bias_gradient: vec![0.0; n_outputs], losses: Vec::new(), slopes: Vec::new() }
    }

    pub fn add_bias_gradient(&mut self, residual: &[f64]) {
        for row in residual.chunks_exact(self.bias_gradient.len()) {
            self.bias_gradient.iter_mut().zip(row).for_each(|(sum, r)| *sum += r);
        }
    }

    /// Begins anew, with `n` losses and slopes.
    pub fn reset(&mut self, n: usize) {
        self.bias_gradient.fill(0.0);
        for sums in [&mut self.losses, &mut self.slopes] {
            sums.clear();
            sums.resize(n, 0.0);
        }
    }

    /// The gradient of the intercept of all parts.
    pub fn bias_gradient<'p>(parts: impl Iterator<Item = &'p Self>, bias: &mut [f64]) {
        bias.fill(0.0);
        for part in parts {
            bias.iter_mut().zip(&part.bias_gradient).for_each(|(sum, &value)| *sum += value);
        }
    }

    /// Losses and slopes of all parts, by point.
    pub fn points<'p>(parts: impl Iterator<Item = &'p Self>, n_heads: usize) -> Vec<Point> {
        let mut points = Vec::new();
        for part in parts {
            points.resize_with(part.losses.len() / n_heads, || Point::zeros(n_heads));
            let of_points = part.losses.chunks_exact(n_heads).zip(part.slopes.chunks_exact(n_heads));
            for (point, (losses, slopes)) in points.iter_mut().zip(of_points) {
                point.losses.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += loss);
                point.slopes.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope);
            }
        }
        points
    }

    /// Those of one point.
    pub fn point<'p>(parts: impl Iterator<Item = &'p Self>, n_heads: usize) -> Point {
        Self::points(parts, n_heads).into_iter().next().unwrap_or_else(|| Point::zeros(n_heads))
    }
}

/// s of each sample, its weight over their sum; one for all where all are the same.
pub(super) fn shares(weights: Option<&[f32]>, n_samples: usize) -> Vec<f64> {
    match weights {
        Some(weights) => {
            let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            weights.iter().map(|&weight| f64::from(weight) / sum).collect()
        }
        None => vec![1.0 / n_samples as f64],
    }
}

/// Of those of all samples, or one for all, those of the samples from `first` on.
pub(super) fn weights_from(weights: &[f64], first: usize) -> &[f64] {
    if weights.len() == 1 { weights } else { &weights[first..] }
}

/// Whether the samples `first..first + n` count for nothing, as a fold that is left out: then their logits are never looked at.
pub(super) fn are_nothing(weights: &[f64], first: usize, n: usize) -> bool {
    weights_from(weights, first).iter().take(n).all(|&weight| weight == 0.0)
}
