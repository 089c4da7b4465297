//! Weights brought up to date before a batch of sparse features: shaders/sparse_catch_up.wgsl.

use super::kernel::Variant;
use crate::backend::{Head, Rule};

/// `THREADS` of the shader.
const THREADS: usize = 64;

pub(super) fn variant() -> Variant {
    Variant {
        name: "sparse_catch_up",
        source: include_str!("../../../shaders/sparse_catch_up.wgsl").into(),
        features: None,
        constants: Vec::new(),
        read_only: &[true, true, false, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    vec![variant()]
}

/// Workgroups for that many features of the list and columns.
pub(super) fn n_workgroups(n_columns: usize, n_listed: usize) -> usize {
    (n_listed * n_columns).div_ceil(THREADS)
}

/// What steps do to (W, v) of a weight whose gradient is l2·W alone: W ← W + a·W + b·v; v ← c·W + d·v. Without its 1, the share of
/// W is known to single precision however small a step is.
type Power = [f64; 4];

/// One step of momentum, or of Nesterov's.
fn step(head: &Head, rate: f32) -> Power {
    let (eta, l2) = (f64::from(head.learning_rate) * f64::from(rate), f64::from(head.l2));
    match head.rule {
        Rule::Momentum { momentum, nesterov: false } => {
            let momentum = f64::from(momentum);
            [-eta * l2, -eta * momentum, l2, momentum]
        }
        Rule::Momentum { momentum, nesterov: true } => {
            let momentum = f64::from(momentum);
            [-eta * l2 * (1.0 + momentum), -eta * momentum * momentum, l2, momentum]
        }
        // Such a rule is not lazy.
        Rule::AdamW { .. } => [0.0, 0.0, 0.0, 1.0],
    }
}

/// The steps of `first`, then those of `then`.
fn join(first: &Power, then: &Power) -> Power {
    let ([a, b, c, d], [e, f, g, h]) = (first, then);
    [a + e + e * a + f * c, b + e * b + f * d, g + g * a + h * c, g * b + h * d]
}

/// The table of the shader for steps with these rates, and its number of leaves, a power of 2: all products of 2ᵏ steps from
/// a multiple of 2ᵏ on, by head.
pub(super) fn powers(heads: &[Head], rates: &[f32]) -> (Vec<[f32; 4]>, usize) {
    let n_leaves = rates.len().next_power_of_two();
    let mut level: Vec<Power> = rates.iter().flat_map(|&rate| heads.iter().map(move |head| step(head, rate))).collect();
    level.resize(n_leaves * heads.len(), [0.0, 0.0, 0.0, 1.0]);
    let mut table = Vec::with_capacity(2 * level.len());
    loop {
        table.extend(level.iter().map(|power| power.map(|value| value as f32)));
        if level.len() <= heads.len() {
            return (table, n_leaves);
        }
        let of_two = level.chunks_exact(2 * heads.len()).map(|pair| pair.split_at(heads.len()));
        level = of_two.flat_map(|(first, then)| first.iter().zip(then).map(|(a, b)| join(a, b))).collect();
    }
}
