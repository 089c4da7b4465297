//! Gradient ∂W = Xᵀ·R, ∂b = column sums of R. Twin of shaders/gradient.wgsl.

use super::UNIT_ROUNDOFF;
use super::compare::half_error;
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

/// The same for a result of matrix units, which have X and s·R in half precision, where s is 2¹⁴ times the number of samples
/// rounded up to a power of two, over the power of two that no weight is above: what the rounding of both adds to |X|ᵀ·|R|, and twice [`gradient_bound`], as in
/// [`logits_half_bound`](super::logits_half_bound). Twin of shaders/gradient_cooperative.wgsl.
pub fn gradient_half_bound(x: &[f64], residual: &[f64], largest_weight: f64, shape: Shape) -> Vec<f64> {
    let n_samples = x.len() / shape.n_features;
    let scale = f64::from(1 << 14) * n_samples.next_power_of_two() as f64 / largest_weight;
    let abs = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
    let x_most: Vec<f64> = x.iter().map(|x| x.abs() + half_error(*x)).collect();
    let r_most: Vec<f64> = residual.iter().map(|r| r.abs() + half_error(r * scale) / scale).collect();
    let most = gradient(&x_most, &r_most, shape);
    let exact = gradient(&abs(x), &abs(residual), shape);
    let single = gradient_bound(x, residual, shape);
    (0..most.len()).map(|i| most[i] - exact[i] + 2.0 * single[i]).collect()
}
