//! One step by the rule of each output's head, from g = scale·gradient + l2·W. The intercept has neither scale nor penalty
//! nor decay.

use super::lanes::Lanes;
use super::tiles::TILE;
use crate::backend::{Head, Rule, StepFactors};

/// Updates tiles of W, (h·q × 32), and of the moments, one or two such tiles one after the other, from those of the
/// gradient.
#[inline(always)]
pub(super) fn update_tile<L: Lanes>(
    lanes: L,
    w: &mut [f32],
    moments: &mut [f32],
    gradient: &[f32],
    heads: &[Head],
    StepFactors { rate, corrections }: StepFactors,
    scale: f32,
) {
    let of_head = w.len() / heads.len();
    assert!(gradient.len() >= w.len() && of_head.is_multiple_of(TILE));
    assert!(heads.iter().all(|head| moments.len() == head.rule.n_moments() * w.len()));
    let (first, second) = moments.split_at_mut(w.len());
    for (index, head) in heads.iter().enumerate() {
        let rate = lanes.splat(-head.learning_rate * rate);
        let (l2, scale) = (lanes.splat(head.l2), lanes.splat(scale));
        let outputs = (index * of_head..(index + 1) * of_head).step_by(L::N);
        match head.rule {
            Rule::Momentum { momentum, nesterov } => {
                let momentum = lanes.splat(momentum);
                for i in outputs {
                    // SAFETY: i + N ≤ w.len(), a multiple of N, and the others are as long.
                    unsafe {
                        let at = w.as_mut_ptr().add(i);
                        let v_at = first.as_mut_ptr().add(i);
                        let old = lanes.load(at);
                        let g = lanes.mul_add(lanes.load(gradient.as_ptr().add(i)), scale, lanes.mul(l2, old));
                        let v = lanes.mul_add(momentum, lanes.load(v_at), g);
                        let direction = if nesterov { lanes.mul_add(momentum, v, g) } else { v };
                        lanes.store(v_at, v);
                        lanes.store(at, lanes.mul_add(rate, direction, old));
                    }
                }
            }
            Rule::AdamW { beta_1, beta_2, epsilon, weight_decay } => {
                let [share_1, share_2] = [beta_1, beta_2].map(|beta| lanes.splat(1.0 - beta));
                let [beta_1, beta_2, epsilon, weight_decay, correction_1, correction_2] =
                    [beta_1, beta_2, epsilon, weight_decay, corrections[0], corrections[1]].map(|x| lanes.splat(x));
                for i in outputs {
                    // SAFETY: i + N ≤ w.len(), a multiple of N, and the others are as long.
                    unsafe {
                        let at = w.as_mut_ptr().add(i);
                        let (m_at, s_at) = (first.as_mut_ptr().add(i), second.as_mut_ptr().add(i));
                        let old = lanes.load(at);
                        let g = lanes.mul_add(lanes.load(gradient.as_ptr().add(i)), scale, lanes.mul(l2, old));
                        let m = lanes.mul_add(beta_1, lanes.load(m_at), lanes.mul(share_1, g));
                        let s = lanes.mul_add(beta_2, lanes.load(s_at), lanes.mul(share_2, lanes.mul(g, g)));
                        let root = lanes.add(lanes.sqrt(lanes.mul(s, correction_2)), epsilon);
                        let direction = lanes.div(lanes.mul(m, correction_1), root);
                        lanes.store(m_at, m);
                        lanes.store(s_at, s);
                        lanes.store(at, lanes.mul_add(rate, lanes.mul_add(weight_decay, old, direction), old));
                    }
                }
            }
        }
    }
}

/// Updates the intercept, (h·q), and its moments, one or two times as many, of the heads that train it.
pub(super) fn update_bias(
    bias: &mut [f32],
    moments: &mut [f32],
    gradient: &[f32],
    heads: &[Head],
    factors: StepFactors,
) {
    let (first, second) = moments.split_at_mut(bias.len());
    update_row(bias, first, second, gradient, heads, factors, true);
}

/// Updates the weights of a feature, (h·q), from their scaled gradient, and their moments, (h·q) each, the second those of rules
/// that have them; or the intercept.
#[inline(always)]
pub(super) fn update_row(
    row: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[f32],
    heads: &[Head],
    StepFactors { rate, corrections }: StepFactors,
    is_intercept: bool,
) {
    let q = row.len() / heads.len();
    for (index, head) in heads.iter().enumerate().filter(|(_, head)| head.intercept || !is_intercept) {
        let rate = head.learning_rate * rate;
        let l2 = if is_intercept { 0.0 } else { head.l2 };
        let outputs = index * q..(index + 1) * q;
        let with_first =
            row[outputs.clone()].iter_mut().zip(&mut first[outputs.clone()]).zip(&gradient[outputs.clone()]);
        match head.rule {
            Rule::Momentum { momentum, nesterov } => {
                for ((w, v), &g) in with_first {
                    let g = g + l2 * *w;
                    *v = momentum * *v + g;
                    *w -= rate * if nesterov { g + momentum * *v } else { *v };
                }
            }
            Rule::AdamW { beta_1, beta_2, epsilon, weight_decay } => {
                let decay = if is_intercept { 0.0 } else { weight_decay };
                for (((w, m), &g), s) in with_first.zip(&mut second[outputs]) {
                    let g = g + l2 * *w;
                    *m = beta_1 * *m + (1.0 - beta_1) * g;
                    *s = beta_2 * *s + (1.0 - beta_2) * (g * g);
                    *w -= rate * (*m * corrections[0] / ((*s * corrections[1]).sqrt() + epsilon) + decay * *w);
                }
            }
        }
    }
}
