//! Update after a batch of sparse features: shaders/sparse_update.wgsl.

use super::kernel::Variant;
use super::update::RuleKind;

/// `THREADS` of the shader.
const THREADS: usize = 64;

/// The variant for heads of that kind: for momentum the one that updates the features of the batch alone. AdamW moves all in
/// each step, by what no product of matrices gives.
pub(super) fn variant(rule: RuleKind) -> Variant {
    let source = match rule {
        RuleKind::Momentum => concat!(
            include_str!("../../../shaders/shared/momentum.wgsl"),
            include_str!("../../../shaders/sparse_update.wgsl")
        ),
        RuleKind::AdamW => concat!(
            include_str!("../../../shaders/shared/adamw.wgsl"),
            include_str!("../../../shaders/sparse_update.wgsl")
        ),
    };
    Variant {
        name: "sparse_update",
        source: source.into(),
        features: None,
        constants: vec![("LISTED", f64::from(u8::from(is_lazy(rule))))],
        read_only: &[true, true, true, false, false],
        uniform: None,
    }
}

pub(super) fn is_lazy(rule: RuleKind) -> bool {
    rule == RuleKind::Momentum
}

pub(super) fn variants() -> Vec<Variant> {
    RuleKind::ALL.map(variant).to_vec()
}

/// Workgroups for that many features and columns.
pub(super) fn n_workgroups(n_columns: usize, n_features: usize) -> usize {
    (n_features * n_columns).div_ceil(THREADS)
}
