//! What a product with the Hessian has in the place of the residual: shaders/hessian.wgsl.

use super::kernel::Variant;
use super::softmax;
use crate::backend::Shape;

/// The variant for that many classes; threads share a sample as in the softmax.
pub(super) fn variant(shape: Shape) -> Variant {
    with_threads(softmax::sample_threads(shape))
}

fn with_threads(sample_threads: usize) -> Variant {
    Variant {
        name: "hessian",
        source: include_str!("../../../shaders/hessian.wgsl").into(),
        features: None,
        constants: vec![("SAMPLE_THREADS", sample_threads as f64)],
        read_only: &[true, true, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    softmax::SAMPLE_THREADS.map(with_threads).to_vec()
}

/// Workgroups for that many samples.
pub(super) fn n_workgroups(shape: Shape, n_samples: usize) -> usize {
    softmax::n_workgroups(shape, n_samples)
}
