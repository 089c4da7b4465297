//! Logits O = X·W + b. Twin of shaders/logits.wgsl.

use super::UNIT_ROUNDOFF;
use super::compare::half_error;
use crate::backend::Shape;

/// O = X·W + b: X (n × d) row-major, parameters (d + 1) × (h·q) with b as the last row, O (n × h·q).
pub fn logits(x: &[f64], parameters: &[f64], shape: Shape) -> Vec<f64> {
    let (d, m) = (shape.n_features, shape.n_outputs());
    let (w, b) = parameters.split_at(d * m);
    x.chunks_exact(d)
        .flat_map(|x| (0..m).map(move |j| b[j] + (0..d).map(|k| x[k] * w[k * m + j]).sum::<f64>()))
        .collect()
}

/// How far a single precision result may be from [`logits`], whatever the order of summation: (d + 3)·u·(|X|·|W| + |b|)
/// (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1), three more for the scale, the
/// intercept and second-order terms.
pub fn logits_bound(x: &[f64], parameters: &[f64], shape: Shape) -> Vec<f64> {
    let depth = (shape.n_features + 3) as f64;
    let abs = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
    logits(&abs(x), &abs(parameters), shape).iter().map(|sum| depth * UNIT_ROUNDOFF * sum).collect()
}

/// The same for a result of matrix units, which have X and W in half precision: what the rounding of both adds to |X|·|W|,
/// and twice [`logits_bound`], as they may cut sums off where others round. Twin of shaders/logits_cooperative.wgsl.
pub fn logits_half_bound(x: &[f64], parameters: &[f64], shape: Shape) -> Vec<f64> {
    let abs = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
    let rounded = |values: &[f64]| values.iter().map(|value| value.abs() + half_error(*value)).collect::<Vec<_>>();
    let n_weights = shape.n_features * shape.n_outputs();
    // The intercept is not rounded.
    let most = [rounded(&parameters[..n_weights]), abs(&parameters[n_weights..])].concat();
    let most = logits(&rounded(x), &most, shape);
    let exact = logits(&abs(x), &abs(parameters), shape);
    let single = logits_bound(x, parameters, shape);
    (0..most.len()).map(|i| most[i] - exact[i] + 2.0 * single[i]).collect()
}
