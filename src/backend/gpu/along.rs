//! Losses, slopes and residual at points of a line: shaders/along.wgsl.

use super::kernel::Variant;
use super::labels::LabelLayout;
use super::softmax::{SAMPLE_THREADS, sample_threads};
use super::step::SOFTWARE_ROUNDS;
use crate::backend::Shape;

/// `THREADS` of the shader.
const THREADS: usize = 64;
/// Points that are evaluated at once, at most. Twin of `MAX_POINTS` of the shader.
pub(super) const MAX_POINTS: usize = 8;
/// Workgroups that keep a large GPU busy; each leaves a loss and a slope for each point, which are read back.
const WORKGROUPS: usize = 16_384;

/// The variant for labels of that layout; with or without the residual.
pub(super) fn variant(shape: Shape, labels: LabelLayout, residual: bool) -> Variant {
    with_threads(sample_threads(shape), labels, residual)
}

fn with_threads(sample_threads: usize, labels: LabelLayout, residual: bool) -> Variant {
    let [soft, weighted] = labels.constants();
    let residual = ("RESIDUAL", f64::from(u8::from(residual)));
    Variant {
        name: "along",
        source: include_str!("../../../shaders/along.wgsl").into(),
        features: None,
        constants: vec![("SAMPLE_THREADS", sample_threads as f64), soft, weighted, residual],
        read_only: &[true, true, true, true, true, false, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    let layouts = || LabelLayout::ALL.into_iter().flat_map(|labels| [true, false].map(|residual| (labels, residual)));
    let of_threads = |threads| layouts().map(move |(labels, residual)| with_threads(threads, labels, residual));
    SAMPLE_THREADS.into_iter().flat_map(of_threads).collect()
}

/// Samples in a group, when there are `n_samples` in all: about as many as make [`WORKGROUPS`] of groups and heads. It depends on
/// nothing but the sizes.
pub(super) fn samples_per_group(shape: Shape, n_samples: usize) -> usize {
    let sample_threads = sample_threads(shape);
    let at_once = THREADS / sample_threads;
    // Rounds of the loops over classes and over the threads' sums, for all points of a sample.
    let rounds = MAX_POINTS * (3 * shape.n_classes.div_ceil(sample_threads) + 16);
    let most = (SOFTWARE_ROUNDS / rounds).max(1);
    n_samples.saturating_mul(shape.n_heads).div_ceil(WORKGROUPS).div_ceil(at_once).clamp(1, most) * at_once
}

/// Workgroups for that many samples in groups.
pub(super) fn n_workgroups(shape: Shape, n_samples: usize, samples_per_group: usize) -> usize {
    n_samples.div_ceil(samples_per_group) * shape.n_heads
}
