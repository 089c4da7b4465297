//! What a product with the Hessian has in the place of the residual. Twin of shaders/hessian.wgsl.

use super::UNIT_ROUNDOFF;
use crate::backend::Shape;

/// R_j = s·p_j·(v_j − Σ_k p_k·v_k) by row and head, P = softmax(Z): logits Z of a point and V of a vector (n × h·q), s the
/// weight of each sample (n). The gradient of it is the product of the Hessian with the vector.
pub fn hessian(z: &[f64], v: &[f64], weights: &[f64], shape: Shape) -> Vec<f64> {
    let rows = z.chunks_exact(shape.n_classes).zip(v.chunks_exact(shape.n_classes));
    rows.enumerate()
        .flat_map(|(i, (z, v))| {
            let p = softmax(z);
            // Less that of the most probable class, in which the differences of the others would be lost.
            let at = (0..z.len()).max_by(|&j, &k| z[j].total_cmp(&z[k])).unwrap_or(0);
            let mean: f64 = p.iter().zip(v).map(|(p, other)| p * (other - v[at])).sum();
            let weight = weights[i / shape.n_heads];
            p.into_iter().zip(v).map(move |(p, other)| weight * p * (other - v[at] - mean)).collect::<Vec<_>>()
        })
        .collect()
}

/// How far a single precision result may be from [`hessian`] for Z and V that are within `z_bound` and `v_bound` of the same
/// ones. The errors of the probabilities are those of [`along_bound`](super::along_bound).
pub fn hessian_bound(
    z: &[f64],
    z_bound: &[f64],
    v: &[f64],
    v_bound: &[f64],
    weights: &[f64],
    shape: Shape,
) -> Vec<f64> {
    const U: f64 = UNIT_ROUNDOFF;
    let n = shape.n_classes;
    let q = n as f64;
    let mut bound = Vec::new();
    for i in 0..z.len() / n {
        let row = i * n..(i + 1) * n;
        let (z, z_bound, v, v_bound) = (&z[row.clone()], &z_bound[row.clone()], &v[row.clone()], &v_bound[row]);
        let weight = weights[i / shape.n_heads];
        let p = softmax(z);
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let at = z.iter().position(|&z| z == max).unwrap_or(0);
        let worst = z_bound.iter().copied().fold(0.0, f64::max);
        let nearly = (0..n).any(|j| j != at && max - z[j] <= 2.0 * worst);
        let moved = (2.0 * worst).exp_m1();
        let exp_error = |j: usize| if j == at { 0.0 } else { 2.0 * U * (5.0 + 3.0 * (max - z[j])) };
        let sum_error = (0..n).map(|j| p[j] * exp_error(j)).sum::<f64>() + (q + 2.0) * U;
        let of_p = |j: usize| exp_error(j) + sum_error + moved + (q + 8.0) * U;
        let highest = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lowest = v.iter().copied().fold(f64::INFINITY, f64::min);
        let spread = |j: usize| {
            if nearly { highest - lowest } else { (v[j] - v[at]).abs() }
        };
        let mean: f64 = p.iter().zip(v).map(|(p, other)| p * (other - v[at])).sum();
        let from_mean = |j: usize| (v[j] - v[at] - mean).abs();
        let of_mean: f64 = (0..n).map(|j| p[j] * (spread(j) * of_p(j) + v_bound[j])).sum::<f64>();
        let unsure: f64 = (0..n).filter(|j| *j != at).map(|j| p[j]).sum();
        bound.extend((0..n).map(|j| {
            let of_v = if j == at { unsure * v_bound[at] } else { v_bound[j] + U * spread(j) };
            let difference = of_v + of_mean + 3.0 * U * from_mean(j);
            weight * p[j] * (difference + from_mean(j) * of_p(j))
        }));
    }
    bound
}

fn softmax(z: &[f64]) -> Vec<f64> {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = z.iter().map(|z| (z - max).exp()).sum();
    z.iter().map(|z| (z - max).exp() / sum).collect()
}
