//! Gradient scale·Xᵀ·R in parts, on matrix units: shaders/gradient_cooperative.wgsl. The parts are those of `gradient` for
//! a tile.

use super::cooperative::MatrixUnits;
use super::gradient;
use super::kernel::{Tile, Variant};
use crate::backend::Shape;
use crate::data::Dtype;

/// The variant for X of that precision.
pub(super) fn variant(units: MatrixUnits, dtype: Dtype) -> Variant {
    units.variant("gradient_cooperative", include_str!("../../../shaders/gradient_cooperative.wgsl"), dtype)
}

pub(super) fn variants() -> Vec<Variant> {
    MatrixUnits::with_all_dtypes().map(|(units, dtype)| variant(units, dtype)).collect()
}

/// Workgroups for that many samples.
pub(super) fn n_workgroups(units: MatrixUnits, tile: Tile, shape: Shape, n_samples: usize) -> usize {
    units.tiles(shape.n_features + 1, shape) * gradient::parts(tile, shape, n_samples).0
}
