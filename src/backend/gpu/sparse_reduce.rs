//! Sums of the segments of a gradient of sparse features: shaders/sparse_reduce.wgsl.

use super::kernel::Variant;

/// `THREADS` of the shader.
const THREADS: usize = 64;

pub(super) fn variant() -> Variant {
    Variant {
        name: "sparse_reduce",
        source: include_str!("../../../shaders/sparse_reduce.wgsl").into(),
        features: None,
        constants: Vec::new(),
        read_only: &[true, true, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    vec![variant()]
}

/// Workgroups for that many features of the list and columns.
pub(super) fn n_workgroups(n_columns: usize, n_listed: usize) -> usize {
    (n_listed * n_columns).div_ceil(THREADS)
}
