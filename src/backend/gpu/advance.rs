//! To another point of a line: shaders/advance.wgsl.

use super::kernel::Variant;
use super::step::padded_outputs;
use crate::backend::Shape;

/// `THREADS` of the shader.
const THREADS: usize = 256;

pub(super) fn variant() -> Variant {
    Variant {
        name: "advance",
        source: include_str!("../../../shaders/advance.wgsl").into(),
        features: None,
        constants: Vec::new(),
        read_only: &[true, true, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    vec![variant()]
}

/// Workgroups for that many samples.
pub(super) fn n_workgroups(shape: Shape, n_samples: usize) -> usize {
    (n_samples * padded_outputs(shape)).div_ceil(THREADS)
}
