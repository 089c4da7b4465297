//! Gradient ∂W = Xᵀ·R, ∂b = column sums of R. Twin of shaders/gradient.wgsl.

use super::UNIT_ROUNDOFF;
use crate::backend::Shape;

/// ∂W = Xᵀ·R above ∂b = column sums of R, (d + 1) × (h·q): X (n × d), R (n × h·q).
pub fn gradient(x: &[f64], residual: &[f64], shape: Shape) -> Vec<f64> {
    let (d, m) = (shape.n_features, shape.n_outputs());
    let mut gradient = vec![0.0; (d + 1) * m];
    for (x, r) in x.chunks_exact(d).zip(residual.chunks_exact(m)) {
        for k in 0..=d {
            let x = if k < d { x[k] } else { 1.0 };
            for j in 0..m {
                gradient[k * m + j] += x * r[j];
            }
        }
    }
    gradient
}

/// How far a single precision result may be from [`gradient`], whatever the order of summation: (n + 3)·u·|X|ᵀ·|R|.
pub fn gradient_bound(x: &[f64], residual: &[f64], shape: Shape) -> Vec<f64> {
    let depth = (x.len() / shape.n_features + 3) as f64;
    let abs = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
    gradient(&abs(x), &abs(residual), shape).iter().map(|sum| depth * UNIT_ROUNDOFF * sum).collect()
}
