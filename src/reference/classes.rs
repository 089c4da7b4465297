//! The most probable class. Twin of shaders/classes.wgsl.

use crate::backend::{NOT_FINITE, Shape};

/// For each sample and head (n × h) the first class with the largest of its logits (n × h·q), [`NOT_FINITE`] where one of
/// them is not finite.
pub fn classes(logits: &[f32], shape: Shape) -> Vec<u32> {
    let class = |o: &[f32]| match o.iter().all(|o| o.is_finite()) {
        true => (0..o.len()).rev().max_by(|&j, &k| o[j].total_cmp(&o[k])).map_or(NOT_FINITE, |j| j as u32),
        false => NOT_FINITE,
    };
    logits.chunks_exact(shape.n_classes).map(class).collect()
}
