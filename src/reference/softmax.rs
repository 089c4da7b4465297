//! Row-wise softmax, cross-entropy and residual. Twin of shaders/softmax.wgsl.

use super::UNIT_ROUNDOFF;
use crate::backend::Shape;

/// What [`softmax`] gives, or how far a single precision result may be from it.
pub struct Softmax {
    /// w_i·ℓ_i, ℓ = log Σ_k exp(o_k) − Σ_j y_j·o_j of each sample and head, (n × h).
    pub losses: Vec<f64>,
    /// R = w·share·(P − Y), (n × h·q).
    pub residual: Vec<f64>,
}

/// P = softmax(O) by row and head: p_j = exp(o_j − m) / Σ_k exp(o_k − m), m = max_k o_k of that row and head. Logits
/// (n × h·q); Y (n × q), a distribution a row, the same for all heads; w (n), 1 without; `share` is 1 over the size
/// of the batch.
pub fn softmax(logits: &[f64], y: &[f64], share: f64, w: Option<&[f64]>, shape: Shape) -> Softmax {
    let mut result = Softmax { losses: Vec::new(), residual: Vec::new() };
    for (o, y, w) in rows(logits, y, w, shape) {
        let max = o.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = o.iter().map(|o| (o - max).exp()).sum();
        let target: f64 = o.iter().zip(y).map(|(o, y)| y * (o - max)).sum();
        result.losses.push(w * (sum.ln() - target));
        result.residual.extend(o.iter().zip(y).map(|(o, y)| w * share * ((o - max).exp() / sum - y)));
    }
    result
}

/// How far a single precision result may be from [`softmax`] for logits that are within `logits_bound` of the same ones.
///
/// A difference o − m is rounded once, and a device may compute its exponential to 3 + 2·|o − m| units in the last place
/// (the WGSL specification's accuracy of exp), so that each term of the sum has relative error (5 + 3·|o − m|)·2u; the
/// sum adds q·u. A logarithm may be wrong by 2⁻²¹ near 1 and 3 units elsewhere. From the logits' own errors δo come
/// |δp| ≤ p·(exp(2·max|δo|) − 1), and at most 2·max|δo| for a loss. A weight adds a rounding.
pub fn softmax_bound(
    logits: &[f64],
    logits_bound: &[f64],
    y: &[f64],
    share: f64,
    w: Option<&[f64]>,
    shape: Shape,
) -> Softmax {
    let q = shape.n_classes as f64;
    let mut bound = Softmax { losses: Vec::new(), residual: Vec::new() };
    let of_weight = if w.is_some() { UNIT_ROUNDOFF } else { 0.0 };
    for ((o, y, w), o_bound) in rows(logits, y, w, shape).zip(logits_bound.chunks_exact(shape.n_classes)) {
        let max = o.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let worst = o_bound.iter().copied().fold(0.0, f64::max);
        let exp_error = |o: f64| 2.0 * UNIT_ROUNDOFF * (5.0 + 3.0 * (max - o));
        let sum: f64 = o.iter().map(|o| (o - max).exp()).sum();
        let sum_error = q * UNIT_ROUNDOFF + o.iter().map(|&o| (o - max).exp() / sum * exp_error(o)).sum::<f64>();
        let target_size: f64 = o.iter().zip(y).map(|(o, y)| y * (max - o)).sum();
        let log_error = (0.5f64).powi(21) + 6.0 * UNIT_ROUNDOFF * sum.ln().abs();
        let rounding = (q + 3.0) * UNIT_ROUNDOFF * (target_size + sum.ln().abs());
        let loss_error = sum_error + log_error + rounding + 2.0 * worst;
        bound.losses.push(w * (loss_error + of_weight * (target_size + sum.ln().abs())));
        bound.residual.extend(o.iter().zip(y).map(|(&o, y)| {
            let p = (o - max).exp() / sum;
            let relative = sum_error + exp_error(o) + 5.0 * UNIT_ROUNDOFF + (2.0 * worst).exp_m1();
            w * share * (p * relative + (3.0 * UNIT_ROUNDOFF + of_weight) * (p - y).abs())
        }));
    }
    bound
}

/// The logits of each sample and head, with the sample's Y and weight.
fn rows<'a>(
    logits: &'a [f64],
    y: &'a [f64],
    w: Option<&'a [f64]>,
    shape: Shape,
) -> impl Iterator<Item = (&'a [f64], &'a [f64], f64)> {
    let q = shape.n_classes;
    logits.chunks_exact(q).enumerate().map(move |(index, o)| {
        let sample = index / shape.n_heads;
        (o, &y[sample * q..][..q], w.map_or(1.0, |w| w[sample]))
    })
}
