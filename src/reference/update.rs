//! One step of gradient descent with momentum, or of AdamW. Twin of shaders/update.wgsl with shaders/shared/momentum.wgsl or
//! shaders/shared/adamw.wgsl.

use super::UNIT_ROUNDOFF;
use crate::backend::{Head, Rule, Shape};

/// What a step changes, or how far each of its values may be off: all (d + 1) × (h·q).
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// W above b.
    pub parameters: Vec<f64>,
    /// The velocity v of momentum, or the first moment m of AdamW.
    pub first: Vec<f64>,
    /// The second moment s of AdamW.
    pub second: Vec<f64>,
}

impl State {
    /// The state before the first step; with parameters 0 also an error of nothing.
    pub fn new(parameters: Vec<f64>) -> Self {
        let zeros = vec![0.0; parameters.len()];
        Self { parameters, first: zeros.clone(), second: zeros }
    }
}

/// The head of a value, its penalty and decay as they count for it, and whether it is trained at all.
fn head_of(index: usize, heads: &[Head], shape: Shape) -> (Head, f64, bool) {
    let (row, column) = (index / shape.n_outputs(), index % shape.n_outputs());
    let head = heads[column / shape.n_classes];
    let is_intercept = row == shape.n_features;
    (head, if is_intercept { 0.0 } else { 1.0 }, head.intercept || !is_intercept)
}

/// g = gradient + l2·W (the intercept, the last row, without; 0 where it is not trained). Momentum: v ← momentum·v + g;
/// W ← W − η·v, with Nesterov's momentum W ← W − η·(g + momentum·v). AdamW, in step `t` from 1: m ← β₁·m + (1 − β₁)·g;
/// s ← β₂·s + (1 − β₂)·g²; W ← W − η·(m/(1 − β₁ᵗ)/(√(s/(1 − β₂ᵗ)) + ε) + λ·W), λ = 0 for the intercept. η is
/// learning_rate·rate. One [`Head`] for each head.
pub fn update(state: &mut State, gradient: &[f64], heads: &[Head], rate: f64, t: u64, shape: Shape) {
    for (index, gradient) in gradient.iter().enumerate() {
        let (head, is_weight, is_trained) = head_of(index, heads, shape);
        let w = &mut state.parameters[index];
        let g = if is_trained { gradient + is_weight * f64::from(head.l2) * *w } else { 0.0 };
        let direction = match head.rule {
            Rule::Momentum { momentum, nesterov } => {
                let (momentum, v) = (f64::from(momentum), &mut state.first[index]);
                *v = momentum * *v + g;
                if nesterov { g + momentum * *v } else { *v }
            }
            Rule::AdamW { beta_1, beta_2, epsilon, weight_decay } => {
                let [beta_1, beta_2, epsilon, weight_decay] = [beta_1, beta_2, epsilon, weight_decay].map(f64::from);
                let (m, s) = (&mut state.first[index], &mut state.second[index]);
                *m = beta_1 * *m + (1.0 - beta_1) * g;
                *s = beta_2 * *s + (1.0 - beta_2) * g * g;
                let (m, s) = (*m / (1.0 - beta_1.powf(t as f64)), *s / (1.0 - beta_2.powf(t as f64)));
                m / (s.sqrt() + epsilon) + is_weight * weight_decay * *w
            }
        };
        *w -= f64::from(head.learning_rate) * rate * direction;
    }
}

/// How far a single precision result may be from [`update`] of `state`, when what is there before is off by `error` and the
/// gradient by `gradient_error`. u is the unit roundoff.
///
/// Momentum: every term is rounded at most five times. AdamW: m and s are sums of two terms of at most five roundings, g²
/// is off by 2·|g|·δg + δg² besides; a square root may be 9u off (in WGSL it comes of an inverse root of 2 ULP and a division
/// of 2.5), and one of s ± δs is between those of its ends; a quotient a/b of values off by δa and δb is off by at most
/// (δa + |a/b|·δb)/(b − δb), and 5u of itself.
#[expect(clippy::too_many_arguments, reason = "those of the step and their errors")]
pub fn update_bound(
    state: &State,
    error: &State,
    gradient: &[f64],
    gradient_error: &[f64],
    heads: &[Head],
    rate: f64,
    t: u64,
    shape: Shape,
) -> State {
    const U: f64 = UNIT_ROUNDOFF;
    let mut bound = State::new(vec![0.0; gradient.len()]);
    for index in 0..gradient.len() {
        let (head, is_weight, is_trained) = head_of(index, heads, shape);
        let (w, w_error) = (state.parameters[index].abs(), error.parameters[index]);
        let l2 = is_weight * f64::from(head.l2);
        // |g| of the single terms, and what they are off without the rounding of their sum.
        let (g, g_error) = if is_trained {
            (gradient[index].abs() + l2 * w, gradient_error[index] + l2 * w_error)
        } else {
            (0.0, 0.0)
        };
        let step = f64::from(head.learning_rate) * rate;
        let first = state.first[index].abs();
        match head.rule {
            Rule::Momentum { momentum, .. } => {
                let momentum = f64::from(momentum);
                let v = momentum * first + g;
                let v_bound = g_error + momentum * error.first[index] + 5.0 * U * v;
                bound.first[index] = v_bound;
                bound.parameters[index] = w_error + step * (2.0 * v_bound + 10.0 * U * (g + v)) + 2.0 * U * w;
            }
            Rule::AdamW { beta_1, beta_2, epsilon, weight_decay } => {
                let [beta_1, beta_2, epsilon, decay] = [beta_1, beta_2, epsilon, weight_decay].map(f64::from);
                let decay = is_weight * decay;
                let g_error = g_error + 3.0 * U * g;
                let m = beta_1 * first + (1.0 - beta_1) * g;
                let s = beta_2 * state.second[index] + (1.0 - beta_2) * g * g;
                let m_bound = beta_1 * error.first[index] + (1.0 - beta_1) * g_error + 5.0 * U * m;
                let s_bound = beta_2 * error.second[index]
                    + (1.0 - beta_2) * (2.0 * g * g_error + g_error * g_error)
                    + 5.0 * U * s;
                (bound.first[index], bound.second[index]) = (m_bound, s_bound);

                // The moments as they are, not the sums of the sizes of their terms.
                let g = if is_trained { gradient[index] + l2 * state.parameters[index] } else { 0.0 };
                let [correction_1, correction_2] = [beta_1, beta_2].map(|beta| 1.0 / (1.0 - beta.powf(t as f64)));
                let m = (beta_1 * state.first[index] + (1.0 - beta_1) * g).abs() * correction_1;
                let s = (beta_2 * state.second[index] + (1.0 - beta_2) * g * g) * correction_2;
                let m_bound = correction_1 * m_bound + 3.0 * U * m;
                let s_bound = correction_2 * s_bound + 3.0 * U * s;
                let root_bound = (s.sqrt() - (s - s_bound).max(0.0).sqrt()).max((s + s_bound).sqrt() - s.sqrt())
                    + 9.0 * U * (s + s_bound).sqrt();
                let below = s.sqrt() + epsilon;
                let below_bound = root_bound + 2.0 * U * (below + root_bound);
                // ε is no sum with an error: no denominator is smaller.
                let least = (below - below_bound).max(epsilon * (1.0 - 2.0 * U));
                let quotient_bound = (m_bound + m / below * below_bound) / least + 5.0 * U * (m + m_bound) / least;
                let direction = m / below + quotient_bound + decay * (w + w_error);
                let direction_bound = quotient_bound + decay * w_error + 5.0 * U * direction;
                bound.parameters[index] =
                    w_error + step * (direction_bound + 5.0 * U * direction) + 2.0 * U * (w + w_error);
            }
        }
    }
    bound
}
