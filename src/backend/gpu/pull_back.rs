//! A step over the factors of structured weights: shaders/pull_back.wgsl.

use super::expand;
use super::kernel::Variant;
use super::update::RuleKind;
use crate::structure::{Parametrisation, Structure};

/// `THREADS` of the shader.
const THREADS: usize = 64;

pub(super) fn variant(of: Parametrisation, rule: RuleKind) -> Variant {
    let source = match rule {
        RuleKind::Momentum => concat!(
            include_str!("../../../shaders/shared/momentum.wgsl"),
            include_str!("../../../shaders/shared/factors.wgsl"),
            include_str!("../../../shaders/pull_back.wgsl")
        ),
        RuleKind::AdamW => concat!(
            include_str!("../../../shaders/shared/adamw.wgsl"),
            include_str!("../../../shaders/shared/factors.wgsl"),
            include_str!("../../../shaders/pull_back.wgsl")
        ),
    };
    Variant {
        name: "pull_back",
        source: source.into(),
        features: None,
        constants: expand::constants(of),
        read_only: &[true, true, true, false, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    let of_rule = |of| RuleKind::ALL.map(|rule| variant(of, rule));
    expand::examples().into_iter().flat_map(of_rule).collect()
}

/// A workgroup for each number of A that is trained, and for every 64 of the others.
pub(super) fn n_workgroups(of: Parametrisation) -> usize {
    let n_of_a = match of.structure() {
        Structure::LowRank { .. } => 0,
        _ => of.sizes()[0],
    };
    n_of_a + (of.n_parameters() - n_of_a).div_ceil(THREADS)
}
