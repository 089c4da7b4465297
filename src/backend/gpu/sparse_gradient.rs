//! Gradient Xᵀ·R of sparse features in segments: shaders/sparse_gradient.wgsl.

use super::kernel::Variant;
use super::shards::Width;

/// `THREADS` of the shader.
const THREADS: usize = 64;

/// The variant for columns of that width.
pub(super) fn variant(width: Width) -> Variant {
    Variant {
        name: "sparse_gradient",
        source: [width.source(), include_str!("../../../shaders/sparse_gradient.wgsl")].concat().into(),
        features: None,
        constants: Vec::new(),
        read_only: &[true, true, true, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    Width::ALL.map(variant).to_vec()
}

/// Workgroups for that many segments and columns.
pub(super) fn n_workgroups(width: Width, n_columns: usize, n_segments: usize) -> usize {
    (n_segments * (n_columns / width.columns())).div_ceil(THREADS)
}
