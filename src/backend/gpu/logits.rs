//! Logits O = scale·X·W + b: shaders/logits.wgsl.

use super::kernel::{Tile, Variant};
use crate::backend::Shape;
use crate::data::Dtype;

/// The variant for X of that precision; `ordered` when samples are positions of an order.
pub(super) fn variant(tile: Tile, dtype: Dtype, ordered: bool) -> Variant {
    let mut constants = tile.constants().to_vec();
    constants.push(("ORDERED", f64::from(u8::from(ordered))));
    Variant {
        name: "logits",
        source: include_str!("../../../shaders/logits.wgsl").into(),
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

/// Workgroups for that many samples.
pub(super) fn n_workgroups(tile: Tile, shape: Shape, n_samples: usize) -> usize {
    tile.count(n_samples, shape.n_outputs())
}
