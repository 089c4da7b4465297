//! Gradient scale·Xᵀ·R in parts: shaders/gradient.wgsl.

use super::kernel::{Tile, Variant};
use super::step::{Step, padded_outputs};
use crate::backend::Shape;
use crate::data::Dtype;

/// Workgroups that keep a large GPU busy; the samples are divided in parts to have about as many.
const WORKGROUPS: usize = 512;
/// Fewer samples than this are not worth a part of their own: a part costs a write and a read of the whole gradient.
const SAMPLES_PER_PART: usize = 64;
/// The parts of all samples together are no larger than this, in bytes, where they can be.
const PARTIALS_BYTES: usize = 32 << 20;

/// The variant for X of that precision; `ordered` when samples are positions of an order.
pub(super) fn variant(tile: Tile, dtype: Dtype, ordered: bool) -> Variant {
    let mut constants = tile.constants().to_vec();
    constants.push(("ORDERED", f64::from(u8::from(ordered))));
    Variant {
        name: "gradient",
        source: include_str!("../../../shaders/gradient.wgsl").into(),
        features: Some(dtype),
        constants,
        read_only: &[true, true, true, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    Tile::with_all_dtypes()
        .flat_map(|(tile, dtype)| [true, false].map(|ordered| variant(tile, dtype, ordered)))
        .collect()
}

/// Workgroups for one part.
fn workgroups_per_part(tile: Tile, shape: Shape) -> usize {
    tile.count(shape.n_features + 1, shape.n_outputs())
}

/// No batch of up to `n_samples` samples has more parts than this.
pub(super) fn max_parts(tile: Tile, shape: Shape, n_samples: usize) -> usize {
    let for_workgroups = WORKGROUPS.div_ceil(workgroups_per_part(tile, shape));
    let for_samples = n_samples.div_ceil(SAMPLES_PER_PART);
    let for_memory = PARTIALS_BYTES / ((shape.n_features + 1) * padded_outputs(shape) * 4);
    for_workgroups.min(for_samples).min(for_memory).max(1)
}

/// The number of parts, and how many samples a part has. It depends on nothing but the sizes. A batch may have more parts than a larger one, as those are rounded up to whole samples.
pub(super) fn parts(tile: Tile, shape: Shape, n_samples: usize) -> (usize, usize) {
    let n_parts = max_parts(tile, shape, n_samples);
    let samples_per_part = n_samples.div_ceil(n_parts).max(1);
    (n_samples.div_ceil(samples_per_part).max(1), samples_per_part)
}

/// The step over `n_samples` samples, divided in parts.
pub fn in_parts(step: Step, tile: Tile, shape: Shape) -> Step {
    let (n_parts, samples_per_part) = parts(tile, shape, step.n_samples as usize);
    Step { n_parts: n_parts as u32, samples_per_part: samples_per_part as u32, ..step }
}

/// Workgroups for that many samples.
pub(super) fn n_workgroups(tile: Tile, shape: Shape, n_samples: usize) -> usize {
    workgroups_per_part(tile, shape) * parts(tile, shape, n_samples).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::DeviceKind;

    #[test]
    fn no_shorter_batch_has_more_parts_than_there_is_room_for() {
        for (n_features, n_classes) in [(63, 2), (783, 10), (4, 3), (767, 1000), (9, 64)] {
            let shape = Shape { n_features, n_classes, n_heads: 1 };
            let tile = Tile::choose(DeviceKind::DiscreteGpu, n_features + 1, n_classes);
            let mut more_than_the_longest = false;
            for longest in [1, 63, 64, 65, 4097, 32_769, 40_000] {
                let room = max_parts(tile, shape, longest);
                for n in (1..=longest).rev().step_by(1 + longest / 1000).chain([longest.saturating_sub(1).max(1)]) {
                    let (n_parts, samples_per_part) = parts(tile, shape, n);
                    assert!(n_parts <= room, "{shape:?}: {n} of {longest} samples");
                    assert!((n_parts - 1) * samples_per_part < n && n <= n_parts * samples_per_part);
                    more_than_the_longest |= n_parts > parts(tile, shape, longest).0;
                }
            }
            // What makes this test worth having.
            assert!(more_than_the_longest || n_features != 63);
        }
    }
}
