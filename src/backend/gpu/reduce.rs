//! Sums of the parts of a gradient: shaders/reduce.wgsl.

use super::kernel::Variant;
use super::step::{BLOCK, padded_outputs};
use crate::backend::Shape;

/// `THREADS` of the shader.
const THREADS: usize = 64;

pub(super) fn variant() -> Variant {
    Variant {
        name: "reduce",
        source: include_str!("../../../shaders/reduce.wgsl").into(),
        features: None,
        constants: Vec::new(),
        read_only: &[true, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    vec![variant()]
}

/// Workgroups for that many sums.
pub(super) fn n_workgroups(shape: Shape, n_sums: usize) -> usize {
    (n_sums * (shape.n_features + 1) * padded_outputs(shape) / BLOCK).div_ceil(THREADS)
}
