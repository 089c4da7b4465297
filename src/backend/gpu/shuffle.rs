//! The order of the samples of an epoch: shaders/shuffle.wgsl.

use super::kernel::Variant;

/// `THREADS` of the shader.
const THREADS: usize = 256;

pub(super) fn variant() -> Variant {
    Variant {
        name: "shuffle",
        source: include_str!("../../../shaders/shuffle.wgsl").into(),
        features: None,
        constants: Vec::new(),
        read_only: &[true, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    vec![variant()]
}

/// Workgroups for that many samples.
pub(super) fn n_workgroups(n_samples: usize) -> usize {
    n_samples.div_ceil(THREADS)
}
