//! Products of features that are bytes with numbers in single precision, where the processor multiplies bytes four times as fast as
//! such numbers.
//!
//! A number is a whole multiple of a unit, which is the largest of its output over 2²³, and that multiple has three signed digits of
//! base 256:
//!
//! w = u·(d₀ + 2⁸·d₁ + 2¹⁶·d₂) + e, −128 ≤ dᵢ ≤ 127, |e| ≤ u/2 + 2⁻²³·|w|
//!
//! e is about what single precision leaves of the largest, whatever the size of w: one that is below half a unit counts as 0. Products of
//! bytes and digits are summed as whole numbers, without any error; the sums of the three digits are put together in single precision. So
//! three products take the place of one, with a quarter of the work each, and no feature is converted.

use super::tiles::TILE;

#[cfg(not(target_arch = "x86_64"))]
mod no_instructions;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vnni;

#[cfg(not(target_arch = "x86_64"))]
pub(super) use no_instructions::{Bytes, ResidualDigits, WeightDigits};
#[cfg(target_arch = "x86_64")]
pub(super) use vnni::{Bytes, ResidualDigits, WeightDigits};

/// Samples whose gradient is taken at once: what is done with the sums then counts little.
pub(super) const SAMPLES: usize = 2 * TILE;
