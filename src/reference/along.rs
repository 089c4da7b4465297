//! Losses, slopes and residuals at a point of a line. Twin of shaders/along.wgsl.

use super::UNIT_ROUNDOFF;
use crate::backend::Shape;

/// What [`along`] gives, or how far a single precision result may be from it.
pub struct Along {
    /// s·ℓ of each sample and head, ℓ = (Σ_j y_j)·log Σ_k exp(o_k) − Σ_j y_j·o_j, (n × h). Distributions in single precision
    /// sum to 1 but for rounding; with the factor the residual is the derivative of just this loss.
    pub losses: Vec<f64>,
    /// s·Σ_j r_j·d_j, (n × h).
    pub slopes: Vec<f64>,
    /// R = s·((Σ_j y_j)·P − Y), (n × h·q).
    pub residual: Vec<f64>,
}

/// At O = Z + t·D, with a length t for each head: logits Z and D (n × h·q) of a point and a direction; Y (n × q), a
/// distribution a row, the same for all heads; s the weight of each sample (n).
pub fn along(z: &[f64], d: &[f64], y: &[f64], weights: &[f64], t: &[f64], shape: Shape) -> Along {
    let mut result = Along { losses: Vec::new(), slopes: Vec::new(), residual: Vec::new() };
    for row in rows(z, d, y, weights, t, shape) {
        let o = row.logits();
        let max = o.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // Σ_k exp(o_k − m) without the largest term, 1, in which small ones would be lost.
        let at = o.iter().position(|&o| o == max).unwrap_or(0);
        let rest: f64 = o.iter().enumerate().filter(|(j, _)| *j != at).map(|(_, o)| (o - max).exp()).sum();
        let target: f64 = o.iter().zip(row.y).map(|(o, y)| y * (o - max)).sum();
        let mass: f64 = row.y.iter().sum();
        result.losses.push(row.weight * (mass * rest.ln_1p() - target));
        let residual: Vec<f64> = (0..o.len())
            .map(|j| match j == at {
                true => row.weight * ((mass - row.y[j]) - mass * rest / (1.0 + rest)),
                false => row.weight * (mass * (o[j] - max).exp() / (1.0 + rest) - row.y[j]),
            })
            .collect();
        result.slopes.push(residual.iter().zip(row.d).map(|(r, d)| r * d).sum());
        result.residual.extend(residual);
    }
    result
}

/// How far a single precision result may be from [`along`] for Z and D that are within `z_bound` and `d_bound` of the same
/// ones.
///
/// A logit o = z + t·d is rounded three times, with t. A difference o − m is rounded once, and a device may compute its
/// exponential to 3 + 2·|o − m| units in the last place (the WGSL specification's accuracy of exp), so that each
/// exponential has relative error (5 + 3·|o − m|)·2u, and their sum q·u more; the largest, which is 1, has none. A
/// logarithm of 1 + rest, rest the sum of the others, has an error relative to itself, as the kernel computes it. From the
/// logits' own errors, w at most, come |δp| ≤ p·(exp(2w) − 1), and for a loss w times Σ|p − y|, p at some point between.
#[expect(clippy::too_many_arguments, reason = "all values with their bounds")]
pub fn along_bound(
    z: &[f64],
    z_bound: &[f64],
    d: &[f64],
    d_bound: &[f64],
    y: &[f64],
    weights: &[f64],
    t: &[f64],
    shape: Shape,
) -> Along {
    const U: f64 = UNIT_ROUNDOFF;
    let q = shape.n_classes as f64;
    let mut bound = Along { losses: Vec::new(), slopes: Vec::new(), residual: Vec::new() };
    let bounds = z_bound.chunks_exact(shape.n_classes).zip(d_bound.chunks_exact(shape.n_classes));
    for (row, (z_bound, d_bound)) in rows(z, d, y, weights, t, shape).zip(bounds) {
        let (o, t, y) = (row.logits(), row.t.abs(), row.y);
        let max = o.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let at = o.iter().position(|&o| o == max).unwrap_or(0);
        let of_o = |j: usize| z_bound[j] + t * d_bound[j] + 3.0 * U * (row.z[j].abs() + t * row.d[j].abs());
        let worst = (0..o.len()).map(of_o).fold(0.0, f64::max);
        let others = || (0..o.len()).filter(|j| *j != at);
        // Where two logits are nearly equal, a device may take the other for the largest: then its exponential counts, too.
        let nearly = others().any(|j| max - o[j] <= 2.0 * worst);

        let moved = (2.0 * worst).exp_m1();
        let exp_error = |j: usize| 2.0 * U * (5.0 + 3.0 * (max - o[j]));
        let e: Vec<f64> = o.iter().map(|o| (o - max).exp()).collect();
        let rest: f64 = others().map(|j| e[j]).sum();
        let sum = 1.0 + rest;
        let p = |j: usize| e[j] / sum;
        let unsure = rest / sum;
        let sum_error = others().map(|j| p(j) * exp_error(j)).sum::<f64>() + (q + 2.0) * U * unsure;

        let target: f64 = (0..o.len()).map(|j| y[j] * (max - o[j])).sum();
        let distance: f64 = (0..o.len()).map(|j| (p(j) - y[j]).abs()).sum();
        let loss = rest.ln_1p() + target;
        // The sum of the distribution, which is computed, too.
        let is_soft = y.iter().all(|&y| y != 1.0);
        let of_mass = if is_soft { (q + 3.0) * U } else { 0.0 };
        let of_loss = sum_error + (20.0 * U + of_mass) * rest.ln_1p() + (q + 3.0) * U * target;
        bound.losses.push(row.weight * (of_loss + worst * (distance + 2.0 * moved * unsure) + 4.0 * U * loss));

        let highest = row.d.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lowest = row.d.iter().copied().fold(f64::INFINITY, f64::min);
        let spread = |j: usize| {
            if nearly { highest - lowest } else { (row.d[j] - row.d[at]).abs() }
        };
        let candidates = || (0..o.len()).filter(|j| nearly || *j != at);
        let of_p: f64 =
            candidates().map(|j| p(j) * spread(j) * (exp_error(j) + sum_error + moved + (q + 8.0) * U + of_mass)).sum();
        let of_y: f64 = (0..o.len()).map(|j| y[j] * spread(j) * (q + 6.0) * U).sum();
        let of_d: f64 = (0..o.len()).map(|j| ((p(j) - y[j]).abs() + moved * p(j)) * d_bound[j]).sum();
        bound.slopes.push(row.weight * (of_p + of_y + of_d));

        for (j, &y) in y.iter().enumerate() {
            let difference = 5.0 * U * (p(j) - y).abs();
            let of_p = if j == at {
                // 1 − p is as well known as the others are.
                let of_quotient = if y == 1.0 && !nearly { 0.0 } else { 8.0 * U * p(j) };
                sum_error + unsure * (moved + 8.0 * U) + of_quotient + p(j) * of_mass
            } else {
                p(j) * (exp_error(j) + sum_error + moved + 8.0 * U + of_mass)
            };
            bound.residual.push(row.weight * (of_p + difference));
        }
    }
    bound
}

/// A sample and head.
struct Row<'a> {
    z: &'a [f64],
    d: &'a [f64],
    y: &'a [f64],
    weight: f64,
    t: f64,
}

impl Row<'_> {
    fn logits(&self) -> Vec<f64> {
        self.z.iter().zip(self.d).map(|(z, d)| z + self.t * d).collect()
    }
}

fn rows<'a>(
    z: &'a [f64],
    d: &'a [f64],
    y: &'a [f64],
    weights: &'a [f64],
    t: &'a [f64],
    shape: Shape,
) -> impl Iterator<Item = Row<'a>> {
    let (q, h) = (shape.n_classes, shape.n_heads);
    z.chunks_exact(q).zip(d.chunks_exact(q)).enumerate().map(move |(i, (z, d))| {
        let sample = i / h;
        Row { z, d, y: &y[sample * q..][..q], weight: weights[sample], t: t[i % h] }
    })
}
