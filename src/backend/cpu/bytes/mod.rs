//! Products of features that are bytes with numbers in single precision, where the processor multiplies bytes four times as fast as
//! such numbers.
//!
//! A number is a whole multiple of a unit, which is the largest of its output over 2²³, and that multiple has three signed digits of
//! base 256:
//!
//! w = u·(d₀ + 2⁸·d₁ + 2¹⁶·d₂) + e, −128 ≤ dᵢ ≤ 127, |e| ≤ u/2
//!
//! e is no more than what single precision leaves of the largest. Products of bytes and digits are summed as whole numbers, without any
//! error; the sums of the three digits are put together in single precision. So three products take the place of one, with a
//! quarter of the work each, and no feature is converted.

use super::tiles::{TILE, allocate};
use crate::backend::Shape;
use crate::error::Result;

#[cfg(not(target_arch = "x86_64"))]
mod no_instructions;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vnni;

#[cfg(not(target_arch = "x86_64"))]
pub(super) use no_instructions::Bytes;
#[cfg(target_arch = "x86_64")]
pub(super) use vnni::Bytes;

/// Features of a vector.
const SLAB: usize = 64;
/// Samples whose gradient is taken at once: what is done with the sums then counts little.
pub(super) const SAMPLES: usize = 2 * TILE;
/// Samples whose bytes are multiplied and summed by one instruction.
const GROUP: usize = 4;
/// The largest multiple of a unit: 127 in all digits, less what rounding may add.
const LARGEST: f32 = (127 * (1 + (1 << 8) + (1 << 16)) - 3) as f32;

/// A vector of digits.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
struct Vector([i8; SLAB]);

/// W in digits.
#[derive(Debug)]
pub(super) struct WeightDigits {
    /// (⌈d/64⌉ × h·q × 3), zeros past d.
    digits: Vec<Vector>,
    /// The unit of each output.
    units: Vec<f32>,
}

impl WeightDigits {
    pub fn new(shape: Shape) -> Result<Self> {
        let (m, what) = (shape.n_outputs(), "the digits of the weights");
        let n_vectors = shape.n_features.div_ceil(SLAB).saturating_mul(m).saturating_mul(3);
        Ok(Self { digits: allocate(Vector([0; SLAB]), n_vectors, what)?, units: allocate(0.0, m, what)? })
    }
}

/// The residual of up to 64 samples in digits.
#[derive(Debug)]
pub(super) struct ResidualDigits {
    /// (h·q × 16): of four samples their first digits, their second, their third and nothing.
    digits: Vec<[[i8; GROUP]; 4]>,
    /// The unit of each output.
    units: Vec<f32>,
}

impl ResidualDigits {
    pub fn new(shape: Shape) -> Result<Self> {
        let (m, what) = (shape.n_outputs(), "the digits of the residual");
        let n_groups = m.saturating_mul(SAMPLES / GROUP);
        Ok(Self { digits: allocate([[0; GROUP]; 4], n_groups, what)?, units: allocate(0.0, m, what)? })
    }
}
