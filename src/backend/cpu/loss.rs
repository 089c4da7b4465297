//! The loss over all samples and its gradient, in double precision, the products of drafts in single: [`Loss`].
//!
//! The samples are cut into parts, by sizes alone. A part goes through its samples a tile at a time: features become `f64`,
//! or `f32` in a draft, logits, softmax, residual, and the part's own gradient while the features are in the cache. Then the
//! parts are summed in their order, so that the result does not depend on the number of threads.

use super::double::{Gradient, Logits, SLAB, Tile, Widen, exp};
use super::lanes::{Element, Instructions, Kernel, Lanes};
use super::real::Real;
use super::team;
use super::tiles::{Matrix, allocate};
use crate::backend::{Evaluation, Loss, Point, Shape, Supervision, check};
use crate::data::Targets;
use crate::error::Result;

/// A part has at least so many samples.
const LEAST_PART: usize = 512;
/// At most so many parts, whose gradients together have at most so many values (256 MiB).
const MOST_PARTS: usize = 64;
const MOST_GRADIENTS: usize = 32 << 20;
/// Values of the parts' gradients that are worth a thread to sum.
const PARALLEL: usize = 1 << 17;
/// Features of a tile, in values: half of what the second level of the cache has.
const TILE_VALUES: usize = 1 << 16;

/// A part of the samples, and what was found for it.
struct Part {
    first: usize,
    /// (slabs × h·q × 16)
    gradient: Vec<f64>,
    sums: Sums,
}

/// What is summed over the samples of a part beside the gradient of the features.
pub(super) struct Sums {
    /// (h·q)
    bias_gradient: Vec<f64>,
    /// Of each point and head.
    pub losses: Vec<f64>,
    pub slopes: Vec<f64>,
}

/// What a thread needs for a tile.
struct Scratch {
    /// (slabs × samples × 16), memory for either precision.
    x: Vec<f64>,
    /// (samples × h·q), and memory for the same in single precision.
    residual: Vec<f64>,
    raised: Vec<f64>,
}

pub(super) struct CpuLoss<'a, T> {
    instructions: Instructions,
    x: Matrix<'a, T>,
    scale: f64,
    targets: &'a Targets<'a>,
    /// s of each sample; one for all when all are the same.
    weights: Vec<f64>,
    shape: Shape,
    is_draft: bool,
    n_slabs: usize,
    /// Samples of a part and of a tile.
    part_len: usize,
    tile_len: usize,
    parts: Vec<Part>,
    scratch: Vec<Scratch>,
    /// W or D, (slabs × h·q × 16) in memory for either precision, and of the intercept (h·q).
    weights_in_slabs: Vec<f64>,
    bias: Vec<f64>,
    /// Z and Zₚ, (n × h·q).
    z: Vec<f64>,
    direction: Vec<f64>,
    gradient: Vec<f64>,
}

/// What a pass over the samples does with the logits that it computes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Product {
    None,
    Point,
    Direction,
    Vector,
}

impl<'a, T: Element> CpuLoss<'a, T> {
    /// The supervision suits X and the shape.
    pub fn new(
        instructions: Instructions,
        x: Matrix<'a, T>,
        scale: f32,
        supervision: Supervision<'a>,
        shape: Shape,
    ) -> Result<Self> {
        let (d, m) = (shape.n_features, shape.n_outputs());
        let n_samples = x.x.len() / d;
        let n_slabs = d.div_ceil(SLAB);
        let n_parts =
            (MOST_GRADIENTS / (n_slabs * SLAB * m)).clamp(1, MOST_PARTS).min(n_samples.div_ceil(LEAST_PART)).max(1);
        let part_len = n_samples.div_ceil(n_parts).max(1);
        // An odd number of fours: the slabs of a sample then lie in different sets of the cache.
        let fours = (TILE_VALUES / (n_slabs * SLAB) / 4).clamp(1, 64);
        let tile_len = (4 * ((fours - 1) | 1)).min(part_len);
        let what = "the gradient of a part";
        let part = |first| Ok(Part { first, gradient: allocate(0.0, n_slabs * SLAB * m, what)?, sums: Sums::new(m) });
        let parts = (0..n_samples).step_by(part_len).map(part).collect::<Result<Vec<_>>>()?;
        let scratch = || {
            Ok(Scratch {
                x: allocate(0.0, tile_len * n_slabs * SLAB, "a part of the features")?,
                residual: allocate(0.0, tile_len.saturating_mul(m), "a part of the residual")?,
                raised: allocate(0.0, tile_len.saturating_mul(m).div_ceil(2), "a part of the residual")?,
            })
        };
        let n_threads = rayon::current_num_threads().min(parts.len());
        Ok(Self {
            instructions,
            x,
            scale: scale.into(),
            targets: supervision.targets,
            weights: shares(supervision.weights, n_samples),
            shape,
            is_draft: false,
            n_slabs,
            part_len,
            tile_len,
            parts,
            scratch: (0..n_threads).map(|_| scratch()).collect::<Result<_>>()?,
            weights_in_slabs: allocate(0.0, n_slabs * SLAB * m, "the weights")?,
            bias: vec![0.0; m],
            z: allocate(0.0, n_samples.saturating_mul(m), "the logits")?,
            direction: Vec::new(),
            gradient: allocate(0.0, shape.n_parameters(), "the gradient")?,
        })
    }

    fn set_weights(&mut self, parameters: &[f64]) -> Result<()> {
        check::values_of(self.shape, parameters)?;
        fn set<F: Real>(slabs: &mut [f64], weights: &[f64], m: usize) {
            for (slab, rows) in F::within(slabs).chunks_exact_mut(m * SLAB).zip(weights.chunks(m * SLAB)) {
                for (lane, row) in rows.chunks_exact(m).enumerate() {
                    for (j, &value) in row.iter().enumerate() {
                        slab[j * SLAB + lane] = F::from_f64(value);
                    }
                }
            }
        }
        let (weights, bias) = parameters.split_at(self.shape.n_features * self.shape.n_outputs());
        let set = if self.is_draft { set::<f32> } else { set::<f64> };
        set(&mut self.weights_in_slabs, weights, self.shape.n_outputs());
        self.bias.copy_from_slice(bias);
        Ok(())
    }

    /// Runs `work` for each part, with its logits Z and Zₚ.
    fn each_part(&mut self, work: impl Fn(&Shared<T>, &mut Scratch, &mut Part, &mut [f64], &mut [f64]) + Sync) {
        let length = self.part_len * self.shape.n_outputs();
        let shared = Shared {
            instructions: self.instructions,
            x: self.x,
            scale: self.scale,
            targets: self.targets,
            weights: &self.weights,
            shape: self.shape,
            n_slabs: self.n_slabs,
            tile_len: self.tile_len,
            weights_in_slabs: &self.weights_in_slabs,
            bias: &self.bias,
        };
        let mut none = vec![[]; self.parts.len()];
        let directions: Vec<&mut [f64]> = if self.direction.is_empty() {
            none.iter_mut().map(|none: &mut [f64; 0]| &mut none[..]).collect()
        } else {
            self.direction.chunks_mut(length).collect()
        };
        let tasks = self.parts.iter_mut().zip(self.z.chunks_mut(length)).zip(directions);
        team::lead(self.scratch.len(), |team| {
            team.each(&mut self.scratch, tasks, |scratch, ((part, z), direction)| {
                work(&shared, scratch, part, z, direction);
            });
        });
    }

    /// One pass over X, or none when neither a product nor the gradient is asked for: the product with the weights that are
    /// set, the residual at the lengths `t` or, for a product with a vector, of the Hessian, and the gradient with it.
    fn pass(&mut self, product: Product, t: &[f64]) -> Evaluation {
        let is_draft = self.is_draft;
        self.each_part(|shared, scratch, part, z, direction| match is_draft {
            true => shared.pass::<f32>(product, t, scratch, part, z, direction),
            false => shared.pass::<f64>(product, t, scratch, part, z, direction),
        });
        let (d, m, n_heads) = (self.shape.n_features, self.shape.n_outputs(), self.shape.n_heads);
        let (first, others) = match self.parts.split_first_mut() {
            Some(parts) => parts,
            None => return Evaluation { point: Point::zeros(n_heads), gradient: self.gradient.clone() },
        };
        let slabs = self.gradient[..d * m].chunks_mut(SLAB * m).zip(first.gradient.chunks_exact_mut(SLAB * m));
        let sum = |(slab, (rows, sums)): (usize, (&mut [f64], &mut [f64]))| {
            for part in others.iter() {
                let values = &part.gradient[slab * SLAB * m..][..SLAB * m];
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
            for (lane, row) in rows.chunks_exact_mut(m).enumerate() {
                row.iter_mut().enumerate().for_each(|(j, value)| *value = sums[j * SLAB + lane]);
            }
        };
        let n_threads = if others.len() * d * m < PARALLEL { 1 } else { self.scratch.len() };
        team::lead(n_threads, |team| team.each(&mut vec![(); n_threads], slabs.enumerate(), |(), task| sum(task)));
        let sums = || self.parts.iter().map(|part| &part.sums);
        Sums::bias_gradient(sums(), &mut self.gradient[d * m..]);
        Evaluation { point: Sums::point(sums(), n_heads), gradient: self.gradient.clone() }
    }
}

/// What all threads read.
struct Shared<'s, T> {
    instructions: Instructions,
    x: Matrix<'s, T>,
    scale: f64,
    targets: &'s Targets<'s>,
    weights: &'s [f64],
    shape: Shape,
    n_slabs: usize,
    tile_len: usize,
    weights_in_slabs: &'s [f64],
    bias: &'s [f64],
}

impl<T: Element> Shared<'_, T> {
    fn pass<F: Real>(
        &self,
        product: Product,
        t: &[f64],
        scratch: &mut Scratch,
        part: &mut Part,
        z: &mut [f64],
        direction: &mut [f64],
    ) {
        let Self { instructions, n_slabs, shape, .. } = *self;
        let m = shape.n_outputs();
        part.gradient.fill(0.0);
        part.sums.reset(shape.n_heads);
        let mut directions = direction.chunks_mut(self.tile_len * m);
        for (index, z) in z.chunks_mut(self.tile_len * m).enumerate() {
            let first = part.first + index * self.tile_len;
            let n = z.len() / m;
            let direction = directions.next().unwrap_or_default();
            if self.is_without_weight(first, n) {
                continue;
            }
            let tile = match self.in_place(first, n) {
                // The gradient alone goes through memory column by column.
                Some(tile) if product != Product::None => tile,
                _ => {
                    let x = &mut F::within(&mut scratch.x)[..n_slabs * n * SLAB];
                    instructions.run(Widen { x: self.x, first, n, scale: self.scale, out: x });
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
                    let w = &F::of(self.weights_in_slabs)[..n_slabs * m * SLAB];
                    instructions.run(Logits { tile, w, m, out, ahead });
                    out.chunks_exact_mut(m).for_each(|row| row.iter_mut().zip(self.bias).for_each(|(o, b)| *o += b));
                }
            }
            if product == Product::Vector {
                let Shape { n_classes, n_heads, .. } = shape;
                let weights = self.weights_of(first);
                instructions.run(Curvature { z, n_classes, n_heads, weights, residual });
            } else {
                self.residual(first, t, z, direction, residual, &mut part.sums.losses, &mut part.sums.slopes);
            }
            part.sums.add_bias_gradient(residual);
            let residual = F::raised(residual, &mut scratch.raised);
            instructions.run(Gradient { tile, residual, m, gradient: &mut part.gradient });
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

    /// Residual, losses and slopes of the samples from `first` on.
    #[expect(clippy::too_many_arguments)]
    fn residual(
        &self,
        first: usize,
        t: &[f64],
        z: &[f64],
        direction: &[f64],
        residual: &mut [f64],
        losses: &mut [f64],
        slopes: &mut [f64],
    ) {
        let (weights, targets, n_classes) = (self.weights_of(first), self.targets, self.shape.n_classes);
        self.instructions.run(Residual {
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

    /// Whether the samples `first..first + n` count for nothing, as a fold that is left out: then their logits are never looked at.
    fn is_without_weight(&self, first: usize, n: usize) -> bool {
        self.weights_of(first).iter().take(n).all(|&weight| weight == 0.0)
    }

    /// s of the samples from `first` on.
    fn weights_of(&self, first: usize) -> &[f64] {
        if self.weights.len() == 1 { self.weights } else { &self.weights[first..] }
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

impl<T: Element> Loss for CpuLoss<'_, T> {
    fn is_double(&self) -> bool {
        !self.is_draft
    }

    fn set_draft(&mut self, is_draft: bool) -> bool {
        std::mem::replace(&mut self.is_draft, is_draft) != is_draft
    }

    fn start(&mut self, parameters: &[f64]) -> Result<Evaluation> {
        self.set_weights(parameters)?;
        self.direction = Vec::new();
        Ok(self.pass(Product::Point, &vec![0.0; self.shape.n_heads]))
    }

    fn look(&mut self, direction: &[f64], t: &[f64]) -> Result<Evaluation> {
        check::lengths(self.shape, 1, t)?;
        self.set_weights(direction)?;
        if self.direction.is_empty() {
            self.direction = allocate(0.0, self.z.len(), "the logits of a direction")?;
        }
        Ok(self.pass(Product::Direction, t))
    }

    fn gradient(&mut self, t: &[f64]) -> Result<Evaluation> {
        check::lengths(self.shape, 1, t)?;
        Ok(self.pass(Product::None, t))
    }

    fn along(&mut self, t: &[f64]) -> Result<Vec<Point>> {
        let n_heads = self.shape.n_heads;
        check::lengths(self.shape, t.len() / n_heads, t)?;
        let m = self.shape.n_outputs();
        self.each_part(|shared, scratch, part, z, direction| {
            part.sums.reset(t.len());
            let mut directions = direction.chunks(shared.tile_len * m);
            for (index, z) in z.chunks(shared.tile_len * m).enumerate() {
                let (first, direction) = (part.first + index * shared.tile_len, directions.next().unwrap_or_default());
                if shared.is_without_weight(first, z.len() / m) {
                    continue;
                }
                let residual = &mut scratch.residual[..z.len()];
                let Sums { losses, slopes, .. } = &mut part.sums;
                let sums = losses.chunks_exact_mut(n_heads).zip(slopes.chunks_exact_mut(n_heads));
                for (t, (losses, slopes)) in t.chunks_exact(n_heads).zip(sums) {
                    shared.residual(first, t, z, direction, residual, losses, slopes);
                }
            }
        });
        Ok(Sums::points(self.parts.iter().map(|part| &part.sums), n_heads))
    }

    fn shift(&mut self, intercept: &[f64]) -> Result<Option<(Point, Vec<f64>)>> {
        let Shape { n_heads, .. } = self.shape;
        let m = self.shape.n_outputs();
        self.bias.copy_from_slice(intercept);
        self.each_part(|shared, scratch, part, z, _| {
            part.sums.reset(n_heads);
            for (index, z) in z.chunks_mut(shared.tile_len * m).enumerate() {
                z.chunks_exact_mut(m).for_each(|z| z.iter_mut().zip(shared.bias).for_each(|(z, b)| *z += b));
                let first = part.first + index * shared.tile_len;
                let residual = &mut scratch.residual[..z.len()];
                let Sums { losses, slopes, .. } = &mut part.sums;
                shared.residual(first, &vec![0.0; n_heads], z, &[], residual, losses, slopes);
                part.sums.add_bias_gradient(residual);
            }
        });
        let mut gradient = vec![0.0; m];
        let sums = || self.parts.iter().map(|part| &part.sums);
        Sums::bias_gradient(sums(), &mut gradient);
        Ok(Some((Sums::point(sums(), n_heads), gradient)))
    }

    fn shift_curvature(&mut self, vector: &[f64]) -> Result<Option<Vec<f64>>> {
        let Shape { n_classes, n_heads, .. } = self.shape;
        let m = self.shape.n_outputs();
        self.each_part(|shared, scratch, part, z, _| {
            part.sums.reset(n_heads);
            for (index, z) in z.chunks(shared.tile_len * m).enumerate() {
                let weights = shared.weights_of(part.first + index * shared.tile_len);
                let residual = &mut scratch.residual[..z.len()];
                residual.chunks_exact_mut(m).for_each(|row| row.copy_from_slice(vector));
                shared.instructions.run(Curvature { z, n_classes, n_heads, weights, residual });
                part.sums.add_bias_gradient(residual);
            }
        });
        let mut product = vec![0.0; m];
        Sums::bias_gradient(self.parts.iter().map(|part| &part.sums), &mut product);
        Ok(Some(product))
    }

    fn advance(&mut self, t: &[f64]) -> Result<()> {
        check::lengths(self.shape, 1, t)?;
        let (m, q) = (self.shape.n_outputs(), self.shape.n_classes);
        self.each_part(|_, _, _, z, direction| {
            for (z, direction) in z.chunks_exact_mut(m).zip(direction.chunks_exact(m)) {
                for ((z, direction), t) in z.chunks_exact_mut(q).zip(direction.chunks_exact(q)).zip(t) {
                    z.iter_mut().zip(direction).for_each(|(z, direction)| *z += t * direction);
                }
            }
        });
        Ok(())
    }

    fn hessian_vector(&mut self, vector: &[f64]) -> Result<Vec<f64>> {
        self.set_weights(vector)?;
        Ok(self.pass(Product::Vector, &[]).gradient)
    }
}

/// By sample and head, with o = z + t·zₚ: loss ℓ = log Σ_k exp(o_k − m) − Σ_j y_j·(o_j − m), m = max_k o_k; residual
/// r_j = s·(p_j − y_j), p_j = exp(o_j − m) / Σ_k exp(o_k − m); slope Σ_j r_j·zₚ_j. The sums of s·ℓ and of the slopes are added
/// to those of the head.
pub(super) struct Residual<'a> {
    /// The number of the first sample.
    pub first: usize,
    pub t: &'a [f64],
    /// (samples × h·q), and so are direction, where there is one, and residual.
    pub z: &'a [f64],
    pub direction: &'a [f64],
    pub targets: &'a Targets<'a>,
    pub n_classes: usize,
    /// s of each sample, or one for all.
    pub weights: &'a [f64],
    pub residual: &'a mut [f64],
    pub losses: &'a mut [f64],
    pub slopes: &'a mut [f64],
}

/// r_j = s·p_j·(v_j − Σ_k p_k·v_k) by sample and head, P = softmax(Z); v is in the place of the residual.
pub(super) struct Curvature<'a> {
    pub z: &'a [f64],
    pub n_classes: usize,
    pub n_heads: usize,
    pub weights: &'a [f64],
    pub residual: &'a mut [f64],
}

/// s of sample `index` of a tile.
#[inline(always)]
fn weight(weights: &[f64], index: usize) -> f64 {
    if let [weight] = weights { *weight } else { weights[index] }
}

#[inline(always)]
fn maximum(row: &[f64]) -> f64 {
    row.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

impl Kernel for Residual<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { first, t, z, direction, targets, n_classes: q, weights, residual, losses, slopes } = self;
        let n_heads = t.len();
        let heads = || (0..n_heads).cycle();
        for ((index, head), out) in heads().enumerate().zip(residual.chunks_exact_mut(q)) {
            let z = &z[index * q..][..q];
            if direction.is_empty() {
                out.copy_from_slice(z);
            } else {
                let direction = &direction[index * q..][..q];
                for ((o, z), direction) in out.iter_mut().zip(z).zip(direction) {
                    *o = z + t[head] * direction;
                }
            }
            let max = maximum(out);
            out.iter_mut().for_each(|o| *o -= max);
            let sample = first + index / n_heads;
            let of_target: f64 = match targets {
                Targets::Classes(classes) => out[classes[sample] as usize],
                Targets::Distributions(y) => {
                    y[sample * q..][..q].iter().zip(&*out).map(|(&y, o)| f64::from(y) * o).sum()
                }
            };
            losses[head] -= weight(weights, index / n_heads) * of_target;
        }
        // All at once: the rows of few classes would not fill a vector.
        residual.iter_mut().for_each(|o| *o = exp(lanes, *o));
        for ((index, head), out) in heads().enumerate().zip(residual.chunks_exact_mut(q)) {
            let sample = first + index / n_heads;
            let weight = weight(weights, index / n_heads);
            let sum: f64 = out.iter().sum();
            // Distributions in single precision sum to 1 but for rounding; with the sum as a factor of the logarithm the residual
            // is the derivative of just this loss, and sums to 0.
            let mass: f64 = match targets {
                Targets::Classes(_) => 1.0,
                Targets::Distributions(y) => y[sample * q..][..q].iter().map(|&y| f64::from(y)).sum(),
            };
            losses[head] += weight * mass * sum.ln();
            let factor = weight * mass / sum;
            out.iter_mut().for_each(|r| *r *= factor);
            match targets {
                Targets::Classes(classes) => out[classes[sample] as usize] -= weight,
                Targets::Distributions(y) => {
                    let y = &y[sample * q..][..q];
                    out.iter_mut().zip(y).for_each(|(r, &y)| *r -= weight * f64::from(y));
                }
            }
            if !direction.is_empty() {
                slopes[head] += out.iter().zip(&direction[index * q..][..q]).map(|(r, z)| r * z).sum::<f64>();
            }
        }
    }
}

impl Kernel for Curvature<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { z, n_classes: q, n_heads, weights, residual } = self;
        let mut p = vec![0.0; q];
        for (index, (z, v)) in z.chunks_exact(q).zip(residual.chunks_exact_mut(q)).enumerate() {
            let max = maximum(z);
            p.iter_mut().zip(z).for_each(|(p, z)| *p = exp(lanes, z - max));
            let sum: f64 = p.iter().sum();
            let mean = p.iter().zip(&*v).map(|(p, v)| p * v).sum::<f64>() / sum;
            let factor = weight(weights, index / n_heads) / sum;
            v.iter_mut().zip(&p).for_each(|(v, p)| *v = factor * p * (*v - mean));
        }
    }
}
