//! Gradient scale·Xᵀ·R in parts: shaders/gradient.wgsl.

use super::kernel::{Tile, Variant};
use super::step::{BLOCK, padded_outputs};
use crate::backend::Shape;
use crate::data::Dtype;

/// Workgroups that keep a large GPU busy; the samples are divided in parts to have about as many.
const WORKGROUPS: usize = 512;
/// Fewer samples than this are not worth a part of their own: a part costs a write and a read of the whole gradient.
const SAMPLES_PER_PART: usize = 64;
/// The parts of all samples together are no larger than this, in bytes, where they can be.
const PARTIALS_BYTES: usize = 32 << 20;

fn tile(shape: Shape) -> Tile {
    Tile::for_outputs(shape.n_outputs().div_ceil(BLOCK))
}

/// The variant for X of that precision.
pub(super) fn variant(shape: Shape, dtype: Dtype) -> Variant {
    with_tile(tile(shape), dtype)
}

fn with_tile(tile: Tile, dtype: Dtype) -> Variant {
    Variant {
        name: "gradient",
        source: include_str!("../../../shaders/gradient.wgsl").into(),
        features: Some(dtype),
        constants: tile.constants().to_vec(),
        read_only: &[true, true, true, false],
    }
}

pub(super) fn variants() -> Vec<Variant> {
    Tile::with_all_dtypes().map(|(tile, dtype)| with_tile(tile, dtype)).collect()
}

/// Workgroups for one part.
fn workgroups_per_part(shape: Shape) -> usize {
    tile(shape).count(shape.n_features + 1, shape.n_outputs().div_ceil(BLOCK))
}

/// The number of parts, and how many samples a part has. It depends on nothing but the sizes, so that sums are in the
/// same order everywhere.
pub(super) fn parts(shape: Shape, n_samples: usize) -> (usize, usize) {
    let for_workgroups = WORKGROUPS.div_ceil(workgroups_per_part(shape));
    let for_samples = n_samples.div_ceil(SAMPLES_PER_PART);
    let for_memory = PARTIALS_BYTES / ((shape.n_features + 1) * padded_outputs(shape) * 4);
    let n_parts = for_workgroups.min(for_samples).min(for_memory).max(1);
    let samples_per_part = n_samples.div_ceil(n_parts).max(1);
    (n_samples.div_ceil(samples_per_part).max(1), samples_per_part)
}

/// Workgroups for that many samples.
pub(super) fn n_workgroups(shape: Shape, n_samples: usize) -> usize {
    workgroups_per_part(shape) * parts(shape, n_samples).0
}
