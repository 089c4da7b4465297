//! One step of gradient descent with momentum. Twin of shaders/update.wgsl.

use super::UNIT_ROUNDOFF;
use crate::backend::{Head, Shape};

/// g = gradient + l2·W (the intercept, the last row, without); v ← momentum·v + g; W ← W − learning_rate·rate·v, with
/// Nesterov's momentum W ← W − learning_rate·rate·(g + momentum·v). All (d + 1) × (h·q), one [`Head`] for each head.
pub fn update(parameters: &mut [f64], velocity: &mut [f64], gradient: &[f64], heads: &[Head], rate: f64, shape: Shape) {
    for index in 0..parameters.len() {
        let (row, column) = (index / shape.n_outputs(), index % shape.n_outputs());
        let head = &heads[column / shape.n_classes];
        let l2 = if row < shape.n_features { f64::from(head.l2) } else { 0.0 };
        let momentum = f64::from(head.momentum);
        let g = gradient[index] + l2 * parameters[index];
        velocity[index] = momentum * velocity[index] + g;
        let direction = if head.nesterov { g + momentum * velocity[index] } else { velocity[index] };
        parameters[index] -= f64::from(head.learning_rate) * rate * direction;
    }
}

/// How far a single precision result may be from [`update`]: (bound of the parameters, bound of the velocity). Every
/// term is rounded at most five times, on top of what `gradient_bound` allows the gradient.
pub fn update_bound(
    parameters: &[f64],
    velocity: &[f64],
    gradient: &[f64],
    gradient_bound: &[f64],
    heads: &[Head],
    rate: f64,
    shape: Shape,
) -> (Vec<f64>, Vec<f64>) {
    let mut bounds = (Vec::new(), Vec::new());
    for index in 0..parameters.len() {
        let head = &heads[index % shape.n_outputs() / shape.n_classes];
        let (momentum, l2) = (f64::from(head.momentum), f64::from(head.l2));
        let g = gradient[index].abs() + l2 * parameters[index].abs();
        let v = momentum * velocity[index].abs() + g;
        let step = f64::from(head.learning_rate) * rate;
        let v_bound = gradient_bound[index] + 5.0 * UNIT_ROUNDOFF * v;
        bounds.0.push(
            step * (2.0 * v_bound + 10.0 * UNIT_ROUNDOFF * (g + v)) + 2.0 * UNIT_ROUNDOFF * parameters[index].abs(),
        );
        bounds.1.push(v_bound);
    }
    bounds
}
