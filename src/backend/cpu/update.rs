//! One step of gradient descent with momentum, by output: g = scale·gradient + l2·W; v ← momentum·v + g; W ← W − rate·v,
//! with Nesterov's momentum W ← W − rate·(g + momentum·v). The intercept has neither scale nor penalty.

use super::lanes::Lanes;
use super::tiles::TILE;
use crate::backend::Head;

/// Updates tiles of W and of the velocity, (h·q × 32), from those of the gradient. `rate` multiplies the learning rate.
#[inline(always)]
pub(super) fn update_tile<L: Lanes>(
    lanes: L,
    w: &mut [f32],
    velocity: &mut [f32],
    gradient: &[f32],
    heads: &[Head],
    rate: f32,
    scale: f32,
) {
    let of_head = w.len() / heads.len();
    assert!(velocity.len() == w.len() && gradient.len() >= w.len() && of_head.is_multiple_of(TILE));
    for (index, head) in heads.iter().enumerate() {
        let rate = lanes.splat(-head.learning_rate * rate);
        let momentum = lanes.splat(head.momentum);
        let (l2, scale) = (lanes.splat(head.l2), lanes.splat(scale));
        for i in (index * of_head..(index + 1) * of_head).step_by(L::N) {
            // SAFETY: i + N ≤ w.len(), a multiple of N, and the others are as long.
            unsafe {
                let at = w.as_mut_ptr().add(i);
                let v_at = velocity.as_mut_ptr().add(i);
                let old = lanes.load(at);
                let g = lanes.mul_add(lanes.load(gradient.as_ptr().add(i)), scale, lanes.mul(l2, old));
                let v = lanes.mul_add(momentum, lanes.load(v_at), g);
                let direction = if head.nesterov { lanes.mul_add(momentum, v, g) } else { v };
                lanes.store(v_at, v);
                lanes.store(at, lanes.mul_add(rate, direction, old));
            }
        }
    }
}

/// Updates the intercept and its velocity, (h·q).
pub(super) fn update_bias(bias: &mut [f32], velocity: &mut [f32], gradient: &[f32], heads: &[Head], rate: f32) {
    let q = bias.len() / heads.len();
    let outputs = bias.chunks_exact_mut(q).zip(velocity.chunks_exact_mut(q)).zip(gradient.chunks_exact(q));
    for (((bias, velocity), gradient), head) in outputs.zip(heads) {
        for ((b, v), &g) in bias.iter_mut().zip(velocity).zip(gradient) {
            *v = head.momentum * *v + g;
            *b -= head.learning_rate * rate * if head.nesterov { g + head.momentum * *v } else { *v };
        }
    }
}
