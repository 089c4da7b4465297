//! Reduce and update: shaders/update.wgsl.

use bytemuck::{Pod, Zeroable};

use super::kernel::Variant;
use super::step::padded_outputs;
use crate::backend::{self, Shape};

/// `THREADS` of the shader.
const THREADS: usize = 64;

/// Twin of `Head` in shaders/update.wgsl.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Head {
    pub learning_rate: f32,
    pub momentum: f32,
    pub nesterov: u32,
    pub l2: f32,
}

impl From<&backend::Head> for Head {
    fn from(head: &backend::Head) -> Self {
        Self {
            learning_rate: head.learning_rate,
            momentum: head.momentum,
            nesterov: u32::from(head.nesterov),
            l2: head.l2,
        }
    }
}

pub(super) fn variant() -> Variant {
    Variant {
        name: "update",
        source: include_str!("../../../shaders/update.wgsl").into(),
        features: None,
        constants: Vec::new(),
        read_only: &[true, true, false, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    vec![variant()]
}

/// Workgroups for all parameters.
pub(super) fn n_workgroups(shape: Shape) -> usize {
    ((shape.n_features + 1) * padded_outputs(shape)).div_ceil(THREADS)
}
