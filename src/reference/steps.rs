//! Optimizer steps, one after the other: the operations in the order in which a backend runs them.

use super::{
    State, UNIT_ROUNDOFF, gradient, gradient_bound, gradient_half_bound, logits, logits_bound, logits_half_bound,
    softmax, softmax_bound, update, update_bound,
};
use crate::backend::{Head, Parameters, Shape};

/// Training in f64, and how far single precision may be from it: the bounds of the single operations, carried through
/// all steps.
pub struct Steps {
    shape: Shape,
    /// Whether the bounds are those of products on matrix units.
    half: bool,
    /// A power of two that no weight is above.
    largest_weight: f64,
    n_steps: u64,
    /// The parameters and the moments.
    pub state: State,
    /// Their bounds.
    pub error: State,
    /// Sums of the losses so far, by head, and their bound.
    pub losses: Vec<f64>,
    pub losses_bound: Vec<f64>,
}

impl Steps {
    /// No step yet; `half` when the products to compare with have factors in half precision, and then a power of two that no
    /// weight of a sample is above.
    pub fn new(start: &Parameters, half: bool, largest_weight: f64) -> Self {
        let shape = start.shape;
        Self {
            shape,
            half,
            largest_weight,
            n_steps: 0,
            state: State::new(start.values.iter().map(|&value| value.into()).collect()),
            error: State::new(vec![0.0; shape.n_parameters()]),
            losses: vec![0.0; shape.n_heads],
            losses_bound: vec![0.0; shape.n_heads],
        }
    }

    /// One step with a batch: X (n × d), scaled; Y (n × q), a distribution a row; w (n), the weights of the samples, 1
    /// without.
    pub fn step(&mut self, x: &[f64], y: &[f64], w: Option<&[f64]>, heads: &[Head], rate: f64) {
        let shape = self.shape;
        let (parameters, parameters_bound) = (&self.state.parameters, &self.error.parameters);
        let share = shape.n_features as f64 / x.len() as f64;
        let o = logits(x, parameters, shape);
        let result = softmax(&o, y, share, w, shape);
        let g = gradient(x, &result.residual, shape);

        // |δO| ≤ bound + |X|·|δW|; |δG| ≤ bound + |X|ᵀ·|δR|.
        let x_abs: Vec<f64> = x.iter().map(|x| x.abs()).collect();
        let logits_bound = if self.half { logits_half_bound } else { logits_bound };
        let o_bound = sum(logits_bound(x, parameters, shape), &logits(&x_abs, parameters_bound, shape));
        let bound = softmax_bound(&o, &o_bound, y, share, w, shape);
        let g_bound = match self.half {
            true => gradient_half_bound(x, &result.residual, self.largest_weight, shape),
            false => gradient_bound(x, &result.residual, shape),
        };
        let g_bound = sum(g_bound, &gradient(&x_abs, &bound.residual, shape));
        self.n_steps += 1;
        self.error = update_bound(&self.state, &self.error, &g, &g_bound, heads, rate, self.n_steps, shape);
        update(&mut self.state, &g, heads, rate, self.n_steps, shape);
        for (index, (loss, bound)) in result.losses.iter().zip(bound.losses).enumerate() {
            self.losses[index % shape.n_heads] += loss;
            // Losses are summed in single precision over at most 64 samples.
            self.losses_bound[index % shape.n_heads] += bound + 64.0 * UNIT_ROUNDOFF * loss;
        }
    }
}

fn sum(a: Vec<f64>, b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
