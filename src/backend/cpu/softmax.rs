//! Row-wise softmax, cross-entropy and residual of a tile of 32 samples, in place.
//!
//! With o = scale·(sum of X·W) + b, by sample and head: m = max_k o_k, p_j = exp(o_j − m) / Σ_k exp(o_k − m),
//! loss ℓ = log Σ_k exp(o_k − m) − Σ_j y_j·(o_j − m), residual r_j = w/b·(p_j − y_j), w the weight
//! of the sample and b the size of the batch; the loss counts w. The lanes are samples, so that
//! nothing is summed across lanes and the number of classes need not suit the vectors.

use super::lanes::Lanes;
use super::tiles::{Buffer, TILE};
use crate::data::Targets;
use crate::error::Result;

/// What the samples of a tile are of.
#[derive(Clone, Copy)]
pub(super) enum TileTargets<'a> {
    /// The class of each sample, below n_classes.
    Classes(&'a [u32; TILE]),
    /// Y, (n_classes × 32).
    Distributions(&'a [f32]),
}

/// What the samples of a tile count.
pub(super) struct TileWeights {
    /// In the residual: their weights over the size of the batch.
    pub residual: [f32; TILE],
    /// In the loss: their weights; none when all are 1.
    pub loss: Option<[f32; TILE]>,
}

impl TileWeights {
    /// `share` times the weight of each of up to 32 samples, of which `all` has those of all; 0 past them.
    pub fn new(all: Option<&[f32]>, rows: &[u32], share: f32) -> Self {
        let mut residual = [0.0; TILE];
        residual[..rows.len()].fill(share);
        let Some(all) = all else { return Self { residual, loss: None } };
        let mut loss = [0.0; TILE];
        for ((loss, residual), &row) in loss.iter_mut().zip(&mut residual).zip(rows) {
            *loss = all[row as usize];
            *residual *= *loss;
        }
        Self { residual, loss: Some(loss) }
    }
}

/// A tile and what is made of it.
pub(super) struct SoftmaxTile<'a> {
    /// In: sums of X·W; out: the residual. (h·q × 32)
    pub o: &'a mut [f32],
    pub scale: f32,
    /// b, (h·q).
    pub bias: &'a [f32],
    pub n_classes: usize,
    /// How many samples there are; the residual of those past them is 0.
    pub n_samples: usize,
    pub weights: TileWeights,
    pub targets: TileTargets<'a>,
    /// The sum of the losses of each head is added here.
    pub losses: &'a mut [f64],
    /// The sum of the residuals of each output is added here.
    pub bias_gradient: &'a mut [f32],
}

/// See [`SoftmaxTile`].
#[inline(always)]
pub(super) fn softmax<L: Lanes>(lanes: L, tile: SoftmaxTile) {
    let SoftmaxTile { o, scale, bias, n_classes, n_samples, weights, targets, losses, bias_gradient } = tile;
    for (head, (o, bias)) in o.chunks_exact_mut(n_classes * TILE).zip(bias.chunks_exact(n_classes)).enumerate() {
        losses[head] += softmax_of_head(lanes, o, scale, bias, n_samples, &weights, targets);
    }
    // The sums of the residuals themselves: sums of p, less those of y, would cancel.
    for (o, sums) in o.chunks(4 * TILE).zip(bias_gradient.chunks_mut(4)) {
        let mut four = [lanes.splat(0.0); 4];
        for (o, sum) in o.chunks_exact(TILE).zip(&mut four) {
            for lane in (0..TILE).step_by(L::N) {
                // SAFETY: o has 32 values.
                *sum = lanes.add(*sum, unsafe { lanes.load(o.as_ptr().add(lane)) });
            }
        }
        for (total, sum) in sums.iter_mut().zip(lanes.sum4(four)) {
            *total += sum;
        }
    }
}

/// One head: logits o and residual (q × 32). Returns the sum of the losses.
#[inline(always)]
fn softmax_of_head<L: Lanes>(
    lanes: L,
    o: &mut [f32],
    scale: f32,
    bias: &[f32],
    n_samples: usize,
    weights: &TileWeights,
    targets: TileTargets,
) -> f64 {
    let q = bias.len();
    assert!(o.len() >= q * TILE && n_samples <= TILE);
    if let TileTargets::Distributions(y) = targets {
        assert!(y.len() >= q * TILE);
    }
    let mut maxima = [0.0; TILE];
    let mut sums = [0.0; TILE];
    let mut target_logits = [0.0; TILE]; // Σ_j y_j·(o_j − m)
    let at = o.as_mut_ptr();

    for lane in (0..TILE).step_by(L::N) {
        let mut max = lanes.splat(f32::NEG_INFINITY);
        for (j, &b) in bias.iter().enumerate() {
            // SAFETY: row j < q of o.
            unsafe {
                let at = at.add(j * TILE + lane);
                let logits = lanes.mul_add(lanes.load(at), lanes.splat(scale), lanes.splat(b));
                lanes.store(at, logits);
                max = lanes.max(max, logits);
            }
        }
        // SAFETY: lane + N ≤ 32.
        unsafe { lanes.store(maxima.as_mut_ptr().add(lane), max) };
    }

    if let TileTargets::Classes(classes) = targets {
        for sample in 0..n_samples {
            target_logits[sample] = o[classes[sample] as usize * TILE + sample] - maxima[sample];
        }
    }

    let at = o.as_mut_ptr();
    for lane in (0..TILE).step_by(L::N) {
        let mut sum = lanes.splat(0.0);
        let mut target = lanes.splat(0.0);
        // SAFETY: rows j < q of o and y; lane + N ≤ 32.
        unsafe {
            let max = lanes.load(maxima.as_ptr().add(lane));
            let mut j = 0;
            while j < q {
                // In two levels, so that the error does not grow with the number of classes.
                let mut part = lanes.splat(0.0);
                let end = q.min(j + 32);
                while j < end {
                    let at = at.add(j * TILE + lane);
                    let difference = lanes.sub(lanes.load(at), max);
                    if let TileTargets::Distributions(y) = targets {
                        target = lanes.mul_add(lanes.load(y.as_ptr().add(j * TILE + lane)), difference, target);
                    }
                    let e = exp(lanes, difference);
                    lanes.store(at, e);
                    part = lanes.add(part, e);
                    j += 1;
                }
                sum = lanes.add(sum, part);
            }
            lanes.store(sums.as_mut_ptr().add(lane), sum);
            if let TileTargets::Distributions(_) = targets {
                lanes.store(target_logits.as_mut_ptr().add(lane), target);
            }

            let weight = lanes.load(weights.residual.as_ptr().add(lane));
            let factor = lanes.div(weight, sum);
            let least = lanes.splat(f32::MIN_POSITIVE);
            for j in 0..q {
                let at = at.add(j * TILE + lane);
                // Subnormal numbers make the products that follow slow, and mean nothing there.
                let p = lanes.mul(lanes.load(at), factor);
                let mut r = lanes.zero_below(p, p, least);
                if let TileTargets::Distributions(y) = targets {
                    r = lanes.sub(r, lanes.mul(weight, lanes.load(y.as_ptr().add(j * TILE + lane))));
                }
                lanes.store(at, r);
            }
        }
    }

    if let TileTargets::Classes(classes) = targets {
        for sample in 0..n_samples {
            o[classes[sample] as usize * TILE + sample] -= weights.residual[sample];
        }
    }
    let losses = sums.iter().zip(&target_logits).take(n_samples);
    let losses = losses.map(|(&sum, &target)| f64::from(sum).ln() - f64::from(target));
    match &weights.loss {
        None => losses.sum(),
        Some(weights) => losses.zip(weights).map(|(loss, &weight)| f64::from(weight) * loss).sum(),
    }
}

/// exp(x) for x ≤ 0, to 2 units in the last place; 0 below −87.33, where it would be subnormal.
///
/// x = n·log 2 + r with whole n, |r| ≤ ½·log 2; exp(r) by its series to r⁷/7!, whose rest is below 6e-9.
#[inline(always)]
pub(super) fn exp<L: Lanes>(lanes: L, x: L::V) -> L::V {
    // log 2 in two parts, the first with so few digits that n times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // At this size the last bit of a number is 1: adding it rounds to whole numbers, and leaves n + 127, the exponent of
    // 2ⁿ, in the lowest bits.
    const WHOLE: f32 = (3 << 22) as f32 + 127.0;

    let limit = lanes.splat(-87.33);
    // NaN stays NaN.
    let clamped = lanes.max(limit, x);
    let shifted = lanes.mul_add(clamped, lanes.splat(std::f32::consts::LOG2_E), lanes.splat(WHOLE));
    let n = lanes.sub(shifted, lanes.splat(WHOLE));
    let r = lanes.mul_add(n, lanes.splat(-LN_2_LOW), lanes.mul_add(n, lanes.splat(-LN_2_HIGH), clamped));
    let mut series = lanes.mul_add(lanes.splat(1.0 / 5040.0), r, lanes.splat(1.0 / 720.0));
    series = lanes.mul_add(series, r, lanes.splat(1.0 / 120.0));
    series = lanes.mul_add(series, r, lanes.splat(1.0 / 24.0));
    series = lanes.mul_add(series, r, lanes.splat(1.0 / 6.0));
    series = lanes.mul_add(series, r, lanes.splat(0.5));
    series = lanes.mul_add(series, lanes.mul(r, r), r);
    let power = lanes.bits_to_exponent(shifted);
    lanes.zero_below(lanes.mul_add(power, series, power), x, limit)
}

/// Room for the targets of a tile.
pub(super) struct TargetsOfTile {
    classes: [u32; TILE],
    distributions: Buffer,
}

impl TargetsOfTile {
    /// Room for `targets` over `n_classes` classes.
    pub fn new(targets: &Targets, n_classes: usize) -> Result<Self> {
        let n_classes = if matches!(targets, Targets::Classes(_)) { 0 } else { n_classes };
        Ok(Self { classes: [0; TILE], distributions: Buffer::zeros(n_classes, TILE, "the targets of a tile")? })
    }

    /// The targets of up to 32 samples.
    pub fn of(&mut self, targets: &Targets, n_classes: usize, rows: &[u32]) -> TileTargets<'_> {
        match targets {
            Targets::Classes(all) => {
                for (class, &row) in self.classes.iter_mut().zip(rows) {
                    *class = all[row as usize];
                }
                TileTargets::Classes(&self.classes)
            }
            Targets::Distributions(all) => {
                for (lane, &row) in rows.iter().enumerate() {
                    let y = &all[row as usize * n_classes..][..n_classes];
                    for (&y, to) in y.iter().zip(self.distributions.chunks_exact_mut(TILE)) {
                        to[lane] = y;
                    }
                }
                TileTargets::Distributions(&self.distributions)
            }
        }
    }
}
