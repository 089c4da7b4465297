//! A step over the factors θ of structured weights: the dense step with a learning rate of 0 leaves the gradient over W, its l2 penalty
//! included, in the place of the velocity; it is pulled back to θ, the rule is applied to θ, and W is made anew.
//!
//! Decay is of the factors, the penalty of W. The order of every sum depends on the sizes alone.

use super::lanes::Instructions;
use super::stepper::Tiled;
use super::tiles::{TILE, from_tiles, into_tiles};
use super::update::update_row;
use crate::backend::{Head, StepFactors};
use crate::structure::Factors;

/// The factors in training, and what their rule keeps of them.
pub(super) struct Factored {
    pub factors: Factors,
    /// As [`State`](crate::backend::State) has them: all first moments, laid out as θ, then all second.
    pub moments: Vec<f32>,
    /// The head, without the penalty, which is of W.
    head: Head,
}

impl Factored {
    /// `moments` are as many as the head's rule has, or none: zeros.
    pub fn new(factors: &Factors, moments: &[f32], head: Head) -> Self {
        let n = factors.values().len() * head.rule.n_moments();
        let moments = if moments.is_empty() { vec![0.0; n] } else { moments.to_vec() };
        Self { factors: factors.clone(), moments, head: Head { l2: 0.0, ..head } }
    }

    /// Step `t`, which counts from 1, after the dense one.
    pub fn step(&mut self, instructions: Instructions, tiled: &mut Tiled, rate: f32, t: u64) {
        let Self { factors, moments, head } = self;
        let of = factors.parametrisation();
        let (d, q) = (of.n_features(), of.n_classes());
        let mut gradient = vec![0.0; (d + 1) * q];
        from_tiles(tiled.moments.chunks_exact(q * TILE), q, &mut gradient[..d * q]);
        gradient[d * q..].copy_from_slice(&tiled.bias_moments);
        let gradient: Vec<f64> = gradient.into_iter().map(f64::from).collect();
        let gradient: Vec<f32> =
            of.pull_back(&factors.to_f64(), &gradient).into_iter().map(|value| value as f32).collect();

        let heads = std::slice::from_ref(&*head);
        let step = StepFactors::new(rate, heads, t);
        let mut theta = factors.values().to_vec();
        let (n, n_weights) = (theta.len(), theta.len() - q);
        let (first, second) = moments.split_at_mut(n);
        // Of momentum there are no second moments.
        let (second, second_bias) = second.split_at_mut(n_weights.min(second.len()));
        let (weights, bias) = theta.split_at_mut(n_weights);
        let (first, first_bias) = first.split_at_mut(n_weights);
        update_row(weights, first, second, &gradient[..n_weights], heads, step, false);
        update_row(bias, first_bias, second_bias, &gradient[n_weights..], heads, step, true);
        *factors = factors.with_values(theta);

        let values = factors.expand();
        into_tiles(instructions, &values[..d * q], q, tiled.weights.w.chunks_exact_mut(q * TILE));
        tiled.weights.bias.copy_from_slice(&values[d * q..]);
    }
}
