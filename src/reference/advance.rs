//! To another point of a line. Twin of shaders/advance.wgsl.

use super::UNIT_ROUNDOFF;
use crate::backend::Shape;

/// Z + t·D: logits of a point and a direction (n × h·q), a length t for each head.
pub fn advance(z: &[f64], d: &[f64], t: &[f64], shape: Shape) -> Vec<f64> {
    let t_of = |i: usize| t[i % shape.n_outputs() / shape.n_classes];
    (0..z.len()).map(|i| z[i] + t_of(i) * d[i]).collect()
}

/// How far a single precision result may be from [`advance`]: length, product and sum are rounded.
pub fn advance_bound(z: &[f64], d: &[f64], t: &[f64], shape: Shape) -> Vec<f64> {
    let abs = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
    advance(&abs(z), &abs(d), &abs(t), shape).iter().map(|sum| 3.0 * UNIT_ROUNDOFF * sum).collect()
}
