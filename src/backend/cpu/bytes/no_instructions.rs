//! Processors without such instructions.

use std::ops::Range;

use crate::backend::Shape;
use crate::backend::cpu::tiles::Matrix;
use crate::error::Result;

/// There are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::cpu) enum Bytes {}

#[derive(Debug)]
pub(in crate::backend::cpu) struct WeightDigits;

#[derive(Debug)]
pub(in crate::backend::cpu) struct ResidualDigits;

impl WeightDigits {
    pub fn new(_: Shape) -> Result<Self> {
        Ok(Self)
    }

    pub fn error(&self, _: usize) -> f32 {
        0.0
    }
}

impl ResidualDigits {
    pub fn new(_: Shape) -> Result<Self> {
        Ok(Self)
    }
}

impl Bytes {
    pub fn split_weights(self, _: &[f32], _: usize, _: &mut WeightDigits) {
        match self {}
    }

    pub fn logits(self, _: (Matrix<u8>, Range<usize>), _: &[u32], _: &WeightDigits, _: &[u32], _: &mut [f32]) {
        match self {}
    }

    pub fn split_residual(self, _: &[f32], _: &mut ResidualDigits) {
        match self {}
    }

    pub fn add_gradient(
        self,
        _: (Matrix<u8>, Range<usize>),
        _: &[u32],
        _: &ResidualDigits,
        _: &[u32],
        _: &mut [f32],
        _: bool,
    ) {
        match self {}
    }
}
