//! Processors without such instructions.

use super::{ResidualDigits, WeightDigits};
use crate::backend::cpu::tiles::{Matrix, Weights};

/// There are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::cpu) enum Bytes {}

impl Bytes {
    pub fn split_weights(self, _: &Weights, _: &mut WeightDigits) {
        match self {}
    }

    pub fn logits(self, _: Matrix<u8>, _: &[u32], _: &WeightDigits, _: &[u32], _: &mut [f32]) {
        match self {}
    }

    pub fn split_residual(self, _: &[f32], _: &mut ResidualDigits) {
        match self {}
    }

    pub fn add_gradient(self, _: Matrix<u8>, _: &[u32], _: &ResidualDigits, _: &[u32], _: &mut [f32], _: bool) {
        match self {}
    }
}
