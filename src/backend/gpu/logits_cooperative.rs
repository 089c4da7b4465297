//! Logits O = scale·X·W + b on matrix units: shaders/logits_cooperative.wgsl.

use super::cooperative::MatrixUnits;
use super::kernel::Variant;
use crate::backend::Shape;
use crate::data::Dtype;

/// The variant for X of that precision.
pub(super) fn variant(units: MatrixUnits, dtype: Dtype) -> Variant {
    units.variant("logits_cooperative", include_str!("../../../shaders/logits_cooperative.wgsl"), dtype)
}

pub(super) fn variants() -> Vec<Variant> {
    MatrixUnits::with_all_dtypes().map(|(units, dtype)| variant(units, dtype)).collect()
}

/// Workgroups for that many samples.
pub(super) fn n_workgroups(units: MatrixUnits, shape: Shape, n_samples: usize) -> usize {
    units.tiles(n_samples, shape)
}
