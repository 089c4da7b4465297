//! Row-wise softmax, cross-entropy and residual: shaders/softmax.wgsl.

use super::kernel::Variant;
use super::labels::LabelLayout;
use crate::backend::Shape;

/// `THREADS` of the shader.
const THREADS: usize = 64;
pub(super) const SAMPLE_THREADS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Threads for a sample: each has about 8 classes.
pub(super) fn sample_threads(shape: Shape) -> usize {
    SAMPLE_THREADS.into_iter().find(|threads| threads * 8 >= shape.n_classes).unwrap_or(THREADS)
}

/// The variant for such labels.
pub(super) fn variant(shape: Shape, labels: LabelLayout) -> Variant {
    with_threads(sample_threads(shape), labels)
}

fn with_threads(sample_threads: usize, labels: LabelLayout) -> Variant {
    let [soft, weighted] = labels.constants();
    Variant {
        name: "softmax",
        source: include_str!("../../../shaders/softmax.wgsl").into(),
        features: None,
        constants: vec![("SAMPLE_THREADS", sample_threads as f64), soft, weighted],
        read_only: &[true, true, false, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    SAMPLE_THREADS
        .into_iter()
        .flat_map(|threads| LabelLayout::ALL.map(|labels| with_threads(threads, labels)))
        .collect()
}

/// Groups of samples: each has one loss for each head.
pub(super) fn n_groups(shape: Shape, n_samples: usize) -> usize {
    n_samples.div_ceil(THREADS / sample_threads(shape))
}

/// Workgroups for that many samples.
pub(super) fn n_workgroups(shape: Shape, n_samples: usize) -> usize {
    n_groups(shape, n_samples) * shape.n_heads
}
