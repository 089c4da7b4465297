//! Gradient of few outputs and the update with it in one kernel: shaders/narrow_update.wgsl.

use super::kernel::Variant;
use super::step::BLOCK;
use crate::backend::Shape;
use crate::data::Dtype;

/// Threads of the shader that share blocks of features.
const FEATURE_THREADS: usize = 4;
/// `OUTPUTS` of the shader.
const OUTPUTS: usize = 16;

/// The variant for X of that precision.
pub(super) fn variant(dtype: Dtype) -> Variant {
    Variant {
        name: "narrow_update",
        source: include_str!("../../../shaders/narrow_update.wgsl").into(),
        features: Some(dtype),
        constants: Vec::new(),
        read_only: &[true, true, true, true, false, false],
    }
}

pub(super) fn variants() -> Vec<Variant> {
    Dtype::ALL.map(variant).to_vec()
}

/// Workgroups for all parameters.
pub(super) fn n_workgroups(shape: Shape) -> usize {
    (shape.n_features + 1).div_ceil(BLOCK * FEATURE_THREADS) * shape.n_outputs().div_ceil(OUTPUTS)
}
