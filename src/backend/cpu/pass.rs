//! A pass over the samples for one loss, or for several at once, in double precision, but for its sums of drafts in single.
//!
//! The samples are cut into parts, by sizes alone. A part goes through its samples a tile at a time: features become `f64`,
//! or `f32` in a draft, logits, softmax, residual, and the part's own gradient while the features are in the cache. Then the
//! parts are summed in their order, so that the result does not depend on the number of threads; nor does it depend on what
//! other losses the pass is for.

use std::mem;
use std::ops::Range;

use super::amx::{
    self, AddSums, Halves, SplitFeatures, SplitResidual, SplitWeights, TERMS, UnitGradient, UnitLogits, Units,
};
use super::double::{Gradient, Logits, SLAB, Tile, Widen};
use super::lanes::{Element, Instructions};
use super::real::{LOWERED, Real};
use super::residual::{AddToRows, Advance, Curvature, Residual, Totals};
use super::team;
use super::tiles::{Matrix, zeros};
use crate::backend::{Evaluation, Point, Shape, check};
use crate::data::Targets;
use crate::error::Result;

/// A part has at least so many samples.
const LEAST_PART: usize = 512;
/// At most so many parts, whose gradients together have at most so many values (256 MiB for each loss, and sums of matrix units).
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
/// The same for matrix units, for which features take twice the memory.
const UNIT_BLOCK: usize = 2;
/// Samples of a sum in single precision on them.
const MOST_UNIT_SAMPLES: usize = 4096;
/// With fewer outputs matrix units are idle too much of the time; estimated, not measured.
const LEAST_UNIT_OUTPUTS: usize = 6;

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
    /// Tiles of a block.
    block: usize,
    /// What drafts are multiplied with, where that is faster than vectors.
    units: Option<Units>,
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
    /// The same for matrix units.
    split_weights: Vec<Halves>,
    pub bias: Vec<f64>,
    /// Z and Zₚ, memory for either precision: of each part, (samples × h·q) in that of the products.
    z: Vec<f64>,
    direction: Vec<f64>,
    /// t of each head, Z + t·Zₚ being what Z is to become: the next pass sees to it, as it reads both anyway. Empty where Z is what it is.
    ahead: Vec<f64>,
}

/// A part of the samples, and what was found for it.
pub(super) struct Part {
    pub first: usize,
    /// (slabs × h·q × 16), where there is one.
    gradient: Vec<f64>,
    has_gradient: bool,
    /// What is to be added to it, raised, from matrix units, and of how many samples.
    unit_sums: Vec<amx::Sums>,
    n_summed: usize,
    pub sums: Sums,
}

/// What is summed over the samples of a part beside the gradient of the features.
pub(super) struct Sums {
    /// (h·q)
    pub bias_gradient: Vec<f64>,
    /// Of each point and head.
    pub losses: Vec<f64>,
    pub slopes: Vec<f64>,
}

/// What a thread needs for a tile, or for a block of them.
pub(super) struct Scratch {
    /// (tiles × slabs × samples × 16), memory for either precision, and which of them is in each tile.
    x: Vec<f64>,
    widened: Vec<Option<bool>>,
    /// Logits of a vector, and the residual, memory for either precision: (samples × h·q).
    product: Vec<f64>,
    pub residual: Vec<f64>,
    units: Option<UnitScratch>,
}

/// The same for matrix units.
struct UnitScratch {
    units: Units,
    /// Of each tile, and which of them are there.
    by_sample: Vec<Halves>,
    by_feature: Vec<Halves>,
    is_split: Vec<bool>,
    residual: Vec<Halves>,
}

/// What a pass over the samples does with the logits that it computes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    /// There is none: those that are kept.
    None,
    Point,
    Direction,
    /// Without anything else.
    DirectionAlone,
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
    split_weights: &'p [Halves],
    pub bias: &'p [f64],
    pub part: &'p mut Part,
    /// As [`Kept`] has them; the direction is empty where there was none.
    pub z: &'p mut [f64],
    pub direction: &'p mut [f64],
    ahead: &'p [f64],
}

impl Kept {
    /// With these weights of the samples, or one for all.
    pub fn new<T: Element>(samples: &Samples<T>, weights: Vec<f64>) -> Result<Self> {
        let Samples { shape, n_slabs, part_len, .. } = *samples;
        let (n_samples, m) = (samples.n_samples(), shape.n_outputs());
        let what = "the gradient of a part";
        let part = |first| {
            let gradient = zeros(n_slabs * SLAB * m, what)?;
            let (unit_sums, sums) = (Vec::new(), Sums::new(m));
            Ok(Part { first, gradient, has_gradient: false, unit_sums, n_summed: 0, sums })
        };
        Ok(Self {
            is_draft: false,
            weights,
            parts: (0..n_samples).step_by(part_len).map(part).collect::<Result<_>>()?,
            weights_in_slabs: zeros(n_slabs * SLAB * m, "the weights")?,
            split_weights: Vec::new(),
            bias: vec![0.0; m],
            z: zeros(n_samples.saturating_mul(m), "the logits")?,
            direction: Vec::new(),
            ahead: Vec::new(),
        })
    }

    /// Goes on by t of each head.
    pub fn advance<T: Element>(&mut self, samples: &Samples<T>, scratch: &mut [Scratch], t: &[f64]) {
        self.settle(samples, scratch);
        if !self.direction.is_empty() {
            self.ahead = t.to_vec();
        }
    }

    /// Makes Z what it is to become.
    pub fn settle<T: Element>(&mut self, samples: &Samples<T>, scratch: &mut [Scratch]) {
        if !self.ahead.is_empty() {
            let n_classes = samples.shape.n_classes;
            samples.each_part(scratch, self, |_, mut piece| {
                let all = 0..piece.z.len();
                match piece.is_draft {
                    true => piece.settle::<f32>(samples.instructions, all, n_classes),
                    false => piece.settle::<f64>(samples.instructions, all, n_classes),
                }
            });
            self.ahead.clear();
        }
    }

    /// Sets the weights of the next product.
    pub fn set_weights<T: Element>(&mut self, samples: &Samples<T>, parameters: &[f64]) -> Result<()> {
        let shape = samples.shape;
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
        self.bias.copy_from_slice(bias);
        let (slabs, m) = (&mut self.weights_in_slabs, shape.n_outputs());
        match self.is_draft {
            true if samples.units.is_some() => {
                if self.split_weights.is_empty() {
                    let n = shape.n_features.div_ceil(TERMS) * m.div_ceil(amx::SIDE);
                    for part in &mut self.parts {
                        part.unit_sums = zeros(2 * n, "the gradient of a part")?;
                    }
                    self.split_weights = zeros(n, "the weights")?;
                }
                samples.instructions.run(SplitWeights { weights, m, out: &mut self.split_weights });
            }
            true => set::<f32>(slabs, weights, m),
            false => set::<f64>(slabs, weights, m),
        }
        Ok(())
    }

    /// There is no direction from a new point.
    pub fn forget_direction(&mut self) {
        self.direction = Vec::new();
        self.ahead.clear();
    }

    /// Makes room for the logits of a direction.
    pub fn take_direction(&mut self) -> Result<()> {
        if self.direction.is_empty() {
            self.direction = zeros(self.z.len(), "the logits of a direction")?;
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
        // Halves of W and, for each part, sums take as much.
        let of_units = (d.div_ceil(TERMS) * m.div_ceil(amx::SIDE) * size_of::<Halves>()) as u64;
        let logits = 2 * n_samples as u64 * m as u64;
        8 * (logits + slabs * (n_parts as u64 + 1) + VECTORS * shape.n_parameters() as u64)
            + of_units * (n_parts as u64 + 1)
    }
}

impl Scratch {
    fn forget_features(&mut self) {
        self.widened.fill(None);
        if let Some(units) = &mut self.units {
            units.is_split.fill(false);
        }
    }

    /// For a tile; or for a block, where there may be several losses.
    pub fn new<T: Element>(samples: &Samples<T>, is_block: bool) -> Result<Self> {
        let Samples { shape, n_slabs, tile_len, .. } = *samples;
        let (m, n_tiles) = (shape.n_outputs(), if is_block { samples.block } else { 1 });
        let for_units = |units| {
            let (in_samples, in_features) = (tile_len.div_ceil(TERMS), shape.n_features.div_ceil(TERMS));
            let in_outputs = m.div_ceil(amx::SIDE);
            let split = || zeros(n_tiles * 2 * in_samples * in_features, "a part of the features");
            Ok(UnitScratch {
                units,
                by_sample: split()?,
                by_feature: split()?,
                is_split: vec![false; n_tiles],
                residual: zeros(in_samples * in_outputs, "a part of the residual")?,
            })
        };
        Ok(Self {
            units: samples.units.map(for_units).transpose()?,
            x: zeros(n_tiles * tile_len * n_slabs * SLAB, "a part of the features")?,
            widened: vec![None; n_tiles],
            product: zeros(tile_len.saturating_mul(m), "a part of the logits")?,
            residual: zeros(tile_len.saturating_mul(m), "a part of the residual")?,
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
        // An odd number of fours: the slabs of a sample then lie in different sets of the cache. For matrix units nearly a whole number
        // of their tiles; wide samples, of which not one fits, do without.
        let fours = (TILE_VALUES / (n_slabs * SLAB) / 4).clamp(1, 64);
        let units = instructions.units().filter(|_| shape.n_outputs() >= LEAST_UNIT_OUTPUTS && fours >= 8);
        let odd = if units.is_some() { fours / 8 * 8 - 1 } else { (fours - 1) | 1 };
        let tile_len = (4 * odd).min(part_len);
        let block = if units.is_some() { UNIT_BLOCK } else { BLOCK };
        Self { instructions, x, scale: scale.into(), targets, shape, n_slabs, part_len, tile_len, block, units }
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
            let Kept { is_draft, weights, parts, weights_in_slabs, split_weights, bias, z, direction, ahead } =
                &mut **kept;
            let (weights, bias, ahead) = (&weights[..], &bias[..], &ahead[..]);
            let (weights_in_slabs, split_weights) = (&weights_in_slabs[..], &split_weights[..]);
            pieces.resize_with(parts.len(), Vec::new);
            let mut directions = direction.chunks_mut(length);
            for ((to, part), z) in pieces.iter_mut().zip(parts).zip(z.chunks_mut(length)) {
                let direction = directions.next().unwrap_or_default();
                let (product, is_draft) = (*product, *is_draft);
                to.push(Piece {
                    product,
                    t,
                    is_draft,
                    weights,
                    weights_in_slabs,
                    split_weights,
                    bias,
                    part,
                    z,
                    direction,
                    ahead,
                });
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
        let with_gradients =
            asked.iter().zip(&mut gradients).filter(|(asked, _)| asked.product != Product::DirectionAlone);
        for (Asked { kept, .. }, gradient) in with_gradients {
            let rows = gradient[..d * m].chunks_mut(SLAB * m).enumerate();
            slabs.extend(rows.map(|(slab, rows)| (slab, rows, &kept.parts)));
        }
        let sum = |sums: &mut Vec<f64>, (slab, rows, parts): (usize, &mut [f64], &Vec<Part>)| {
            sums.fill(0.0);
            for part in parts {
                if part.has_gradient {
                    let values = &part.gradient[slab * SLAB * m..][..SLAB * m];
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
                if part.n_summed > 0 {
                    let in_outputs = m.div_ceil(amx::SIDE);
                    let slab = &part.unit_sums[slab * in_outputs..][..in_outputs];
                    self.instructions.run(AddSums { sums: slab, m, factor: LOWERED, gradient: sums, adds: true });
                }
            }
            for (lane, row) in rows.chunks_exact_mut(m).enumerate() {
                row.iter_mut().enumerate().for_each(|(j, value)| *value = sums[j * SLAB + lane]);
            }
        };
        let n_values: usize = slabs.iter().map(|(_, rows, parts)| rows.len() * parts.len()).sum();
        let n_threads = if n_values < PARALLEL { 1 } else { scratch.len() };
        let mut sums = vec![vec![0.0; SLAB * m]; n_threads];
        team::lead(n_threads, |team| team.each(&mut sums, slabs.into_iter(), sum));
        let finish = |(Asked { kept, .. }, mut gradient): (&mut Asked, Vec<f64>)| {
            kept.ahead.clear();
            Sums::bias_gradient(kept.sums(), &mut gradient[d * m..]);
            Evaluation { point: Sums::point(kept.sums(), n_heads), gradient }
        };
        asked.iter_mut().zip(gradients).map(finish).collect()
    }

    /// A part of a pass, a block of tiles at a time.
    fn pass_part(&self, scratch: &mut Scratch, pieces: &mut [Piece]) {
        for piece in &mut *pieces {
            (piece.part.has_gradient, piece.part.n_summed) = (false, 0);
            piece.part.sums.reset(self.shape.n_heads);
        }
        let Some(Piece { part, z, .. }) = pieces.first() else { return };
        let (first, n) = (part.first, z.len() / self.shape.n_outputs());
        let is_block = pieces.len() > 1;
        for first_of_block in (0..n).step_by(self.block * self.tile_len) {
            scratch.forget_features();
            for piece in &mut *pieces {
                for tile in 0..self.block {
                    let from = first_of_block + tile * self.tile_len;
                    let rows = from..n.min(from + self.tile_len);
                    if rows.is_empty() || are_nothing(piece.weights, first + rows.start, rows.len()) {
                        continue;
                    }
                    if !is_block {
                        scratch.forget_features();
                    }
                    let place = if is_block { tile } else { 0 };
                    match piece.is_draft {
                        true if !piece.part.unit_sums.is_empty() => {
                            self.pass_tile_on_units(scratch, place, piece, first, rows)
                        }
                        true => self.pass_tile::<f32>(scratch, place, piece, first, rows),
                        false => self.pass_tile::<f64>(scratch, place, piece, first, rows),
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
        let tile = match self.in_place(first, n) {
            // The gradient alone goes through memory column by column.
            Some(tile) if piece.product != Product::None => tile,
            _ => {
                let length = n_slabs * SLAB * self.tile_len;
                let x = &mut F::within(&mut scratch.x[place * length..][..length])[..n_slabs * n * SLAB];
                if scratch.widened[place].replace(piece.is_draft) != Some(piece.is_draft) {
                    instructions.run(Widen { x: self.x, first, n, scale: self.scale, out: x });
                }
                Tile { x, n, strides: [SLAB, n * SLAB] }
            }
        };
        let product = &mut F::within(&mut scratch.product)[..n * m];
        let residual = &mut F::within(&mut scratch.residual)[..n * m];
        let (w, bias) = (&F::of(piece.weights_in_slabs)[..n_slabs * m * SLAB], piece.bias);
        if let Some(out) = piece.logits(instructions, &rows, m, product) {
            // The samples of the next tile.
            let next = ((first + n) * shape.n_features).min(self.x.x.len());
            let ahead = &self.x.x[next..self.x.x.len().min(next + n * shape.n_features)];
            let ahead = (ahead.as_ptr().cast(), size_of_val(ahead));
            instructions.run(Logits { tile, w, m, out: &mut *out, ahead });
            instructions.run(AddToRows { rows: out, row: bias });
        }
        if piece.product == Product::DirectionAlone {
            return;
        }
        self.residual(piece, of_part, rows, product, residual);
        let Part { gradient, has_gradient, .. } = &mut *piece.part;
        let adds = mem::replace(has_gradient, true);
        instructions.run(Gradient { tile, residual, m, gradient, adds });
    }

    /// The same on matrix units.
    fn pass_tile_on_units(
        &self,
        scratch: &mut Scratch,
        place: usize,
        piece: &mut Piece,
        of_part: usize,
        rows: Range<usize>,
    ) {
        let Self { instructions, shape, .. } = *self;
        let (m, n, first) = (shape.n_outputs(), rows.len(), of_part + rows.start);
        let Some(UnitScratch { units, by_sample, by_feature, is_split, residual: split }) = &mut scratch.units else {
            return;
        };
        let length = by_sample.len() / is_split.len();
        let by_sample = &mut by_sample[place * length..][..length];
        let by_feature = &mut by_feature[place * length..][..length];
        if !mem::replace(&mut is_split[place], true) {
            let scale = self.scale as f32;
            instructions.run(SplitFeatures { x: self.x, first, n, scale, by_sample, by_feature });
        }
        let product = &mut f32::within(&mut scratch.product)[..n * m];
        let residual = &mut f32::within(&mut scratch.residual)[..n * m];
        let (weights, bias) = (piece.split_weights, piece.bias);
        if let Some(out) = piece.logits(instructions, &rows, m, product) {
            instructions.run(UnitLogits { units: *units, by_sample, weights, bias, n, m, out });
        }
        if piece.product == Product::DirectionAlone {
            return;
        }
        self.residual(piece, of_part, rows, product, residual);
        instructions.run(SplitResidual { residual, m, out: split });
        let Part { gradient, has_gradient, unit_sums: sums, n_summed, .. } = &mut *piece.part;
        if *n_summed + n > MOST_UNIT_SAMPLES && *n_summed > 0 {
            let adds = mem::replace(has_gradient, true);
            instructions.run(AddSums { sums, m, factor: LOWERED, gradient, adds });
            *n_summed = 0;
        }
        let adds = *n_summed > 0;
        instructions.run(UnitGradient { units: *units, by_feature, residual: split, n, m, sums, adds });
        *n_summed += n;
    }

    /// The residual of the `rows`, or what stands in its place, from the logits, `v` those of a vector; what is summed beside.
    fn residual<F: Real>(&self, piece: &mut Piece, of_part: usize, rows: Range<usize>, v: &[F], residual: &mut [F]) {
        let Self { instructions, targets, shape: Shape { n_classes, n_heads, .. }, .. } = *self;
        let of_rows = rows.start * n_classes * n_heads..rows.end * n_classes * n_heads;
        let first = of_part + rows.start;
        let weights = weights_from(piece.weights, first);
        let z = &F::of(piece.z)[of_rows.clone()];
        let direction = F::of(piece.direction).get(of_rows).unwrap_or_default();
        if piece.product == Product::Vector {
            let bias_gradient = &mut piece.part.sums.bias_gradient;
            instructions.run(Curvature { z, v, n_classes, n_heads, weights, residual, bias_gradient });
        } else {
            let (t, totals) = (piece.t, piece.part.sums.totals());
            instructions.run(Residual { first, t, z, direction, targets, n_classes, weights, residual, totals });
        }
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

impl Piece<'_> {
    /// Makes the values `of_rows` of Z what they are to become.
    fn settle<F: Real>(&mut self, instructions: Instructions, of_rows: Range<usize>, n_classes: usize) {
        if let Some(direction) = F::of(self.direction).get(of_rows.clone()).filter(|_| !self.ahead.is_empty()) {
            instructions.run(Advance { z: &mut F::within(self.z)[of_rows], direction, t: self.ahead, n_classes });
        }
    }

    /// Where the logits of these rows go: `product` is for those that are not kept. None when none are asked
    /// for. Those that are kept are made what they are to become.
    fn logits<'r, F: Real>(
        &'r mut self,
        instructions: Instructions,
        rows: &Range<usize>,
        m: usize,
        product: &'r mut [F],
    ) -> Option<&'r mut [F]> {
        let rows = rows.start * m..rows.end * m;
        self.settle::<F>(instructions, rows.clone(), m / self.ahead.len().max(1));
        match self.product {
            Product::None => None,
            Product::Point => Some(&mut F::within(self.z)[rows]),
            Product::Direction | Product::DirectionAlone => F::within(self.direction).get_mut(rows),
            Product::Vector => Some(product),
        }
    }
}

impl Sums {
    pub fn new(n_outputs: usize) -> Self {
        Self { bias_gradient: vec![0.0; n_outputs], losses: Vec::new(), slopes: Vec::new() }
    }

    pub fn totals(&mut self) -> Totals<'_> {
        let Self { losses, slopes, bias_gradient } = self;
        Totals { losses, slopes, bias_gradient }
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
