//! What one optimizer step, or one block of a forward pass, works on, as the shaders have it.

use bytemuck::{Pod, Zeroable};

use crate::backend::{Shape, StepFactors};

/// Twin of `Step` in shaders/shared/step.wgsl, which says what the fields are.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Step {
    pub start: u32,
    pub n_samples: u32,
    pub n_features: u32,
    pub feature_blocks: u32,
    pub n_classes: u32,
    pub n_heads: u32,
    pub output_blocks: u32,
    pub n_parts: u32,
    pub samples_per_part: u32,
    pub losses_start: u32,
    pub scale: f32,
    pub sample_weight: f32,
    pub rate: f32,
    pub largest_weight: f32,
    pub n_points: u32,
    pub first_part: u32,
    pub n_sums: u32,
    pub correction_1: f32,
    pub correction_2: f32,
    pub first_column: u32,
    pub n_columns: u32,
    pub first_segment: u32,
    pub n_segments: u32,
    pub first_listed: u32,
    pub n_listed: u32,
    pub n_done: u32,
    pub n_leaves: u32,
    pub padding: u32,
}

/// Mesa's software Vulkan ends the loops of a thread after 65,535 rounds in all; kernels have a few beside those over samples
/// or features.
pub(super) const SOFTWARE_ROUNDS: usize = 60_000;

/// Every device can bind so many bytes as a uniform buffer. Twin of the length in shaders/shared/weights_uniform.wgsl.
pub(super) const UNIFORM_BYTES: u64 = 65_536;

/// Values are in blocks of this many, so that kernels load them as vectors.
pub(super) const BLOCK: usize = 4;

impl Step {
    /// The same step with these factors.
    pub(super) fn with_factors(
        self,
        StepFactors { rate, corrections: [correction_1, correction_2] }: StepFactors,
    ) -> Self {
        Self { rate, correction_1, correction_2, ..self }
    }

    /// A step, of one part, over the samples `start..start + n_samples`. The sizes are below 2³², which [`super::Gpu`] has checked
    /// against its limits.
    pub fn new(shape: Shape, scale: f32, start: usize, n_samples: usize) -> Self {
        Self {
            start: start as u32,
            n_samples: n_samples as u32,
            n_features: shape.n_features as u32,
            feature_blocks: shape.n_features.div_ceil(BLOCK) as u32,
            n_classes: shape.n_classes as u32,
            n_heads: shape.n_heads as u32,
            output_blocks: shape.n_outputs().div_ceil(BLOCK) as u32,
            n_parts: 1,
            samples_per_part: n_samples as u32,
            losses_start: 0,
            scale,
            sample_weight: 1.0 / n_samples as f32,
            rate: 1.0,
            largest_weight: 1.0,
            n_points: 1,
            first_part: 0,
            n_sums: 1,
            correction_1: 1.0,
            correction_2: 1.0,
            first_column: 0,
            n_columns: padded_outputs(shape) as u32,
            first_segment: 0,
            n_segments: 0,
            first_listed: 0,
            n_listed: 0,
            n_done: 0,
            n_leaves: 0,
            padding: 0,
        }
    }
}

/// A power of two that no weight is above, as matrix units are told; 1 without weights.
pub(super) fn largest_weight(weights: Option<&[f32]>) -> f32 {
    let largest = weights.unwrap_or_default().iter().copied().fold(1.0, f32::max);
    // Weights of mean 1 are at most their number, which is below 2³².
    (largest.ceil() as u64).min(1 << 32).next_power_of_two() as f32
}

/// With up to this many outputs a step is two kernels, each of which has all outputs of a sample or feature; with more it
/// is four.
const NARROW_OUTPUTS: usize = 64;

pub(super) fn is_narrow(n_outputs: usize) -> bool {
    n_outputs <= NARROW_OUTPUTS
}

/// The number of outputs with padding.
pub(super) fn padded_outputs(shape: Shape) -> usize {
    shape.n_outputs().next_multiple_of(BLOCK)
}

/// Bytes of W and b on the device.
pub(super) fn weights_bytes(shape: Shape) -> u64 {
    (shape.n_features as u64 + 1) * padded_outputs(shape) as u64 * 4
}
