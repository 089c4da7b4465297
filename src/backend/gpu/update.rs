//! Reduce and update: shaders/update.wgsl.

use bytemuck::{Pod, Zeroable};

use super::Gpu;
use super::kernel::Variant;
use super::memory::Buffer;
use super::step::padded_outputs;
use crate::backend::{Head, Rule, Shape};
use crate::error::Result;

/// `THREADS` of the shader.
const THREADS: usize = 64;

/// Twin of `Head` in shaders/shared/momentum.wgsl.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct MomentumHead {
    pub learning_rate: f32,
    pub l2: f32,
    pub intercept: f32,
    pub momentum: f32,
    pub nesterov: u32,
}

/// Twin of `Head` in shaders/shared/adamw.wgsl.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct AdamWHead {
    pub learning_rate: f32,
    pub l2: f32,
    pub intercept: f32,
    pub beta_1: f32,
    pub beta_2: f32,
    pub epsilon: f32,
    pub weight_decay: f32,
}

/// The kind of the rule of heads that are trained together: which shader they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuleKind {
    Momentum,
    AdamW,
}

impl RuleKind {
    pub const ALL: [Self; 2] = [Self::Momentum, Self::AdamW];

    pub fn of(heads: &[Head]) -> Self {
        match heads.first().map(|head| head.rule) {
            Some(Rule::AdamW { .. }) => Self::AdamW,
            _ => Self::Momentum,
        }
    }
}

/// Heads as the shaders have them, all of the kind of the first.
pub(super) fn upload_heads(gpu: &Gpu, heads: &[Head]) -> Result<Buffer> {
    let bytes = heads.iter().flat_map(|&Head { learning_rate, l2, intercept, rule }| {
        let intercept = if intercept { 1.0 } else { 0.0 };
        match rule {
            Rule::Momentum { momentum, nesterov } => {
                let nesterov = u32::from(nesterov);
                bytemuck::bytes_of(&MomentumHead { learning_rate, l2, intercept, momentum, nesterov }).to_vec()
            }
            Rule::AdamW { beta_1, beta_2, epsilon, weight_decay } => {
                let head = AdamWHead { learning_rate, l2, intercept, beta_1, beta_2, epsilon, weight_decay };
                bytemuck::bytes_of(&head).to_vec()
            }
        }
    });
    gpu.storage_of("the heads", &bytes.collect::<Vec<u8>>())
}

pub(super) fn variant(rule: RuleKind) -> Variant {
    let source = match rule {
        RuleKind::Momentum => {
            concat!(include_str!("../../../shaders/shared/momentum.wgsl"), include_str!("../../../shaders/update.wgsl"))
        }
        RuleKind::AdamW => {
            concat!(include_str!("../../../shaders/shared/adamw.wgsl"), include_str!("../../../shaders/update.wgsl"))
        }
    };
    Variant {
        name: "update",
        source: source.into(),
        features: None,
        constants: Vec::new(),
        read_only: &[true, true, false, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    RuleKind::ALL.map(variant).to_vec()
}

/// Workgroups for all parameters.
pub(super) fn n_workgroups(shape: Shape) -> usize {
    ((shape.n_features + 1) * padded_outputs(shape)).div_ceil(THREADS)
}
