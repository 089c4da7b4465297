//! The matrix units of Intel's processors (AMX), on which the products of drafts and the logits of predictions are.
//!
//! They multiply bfloat16, of 8 significant bits, and add in single precision, 16 times as many products at a time as vectors do. A
//! number in single precision is the sum of two of those, its halves, but for 2⁻¹⁶ of it; of the product of two numbers three products of
//! halves are taken, all but that of the low ones, which is no larger than what is left out:
//!
//! x·w = x₁·w₁ + x₁·w₂ + x₂·w₁ + e, |e| ≤ 3·2⁻¹⁶·|x·w|, but for squares of 2⁻¹⁶.
//!
//! For predictions a number is the sum of three, but for 2⁻²⁴ of it, and six products are taken of the nine: single precision. What is
//! smaller than 2⁻¹²⁶, as a number or as a part of one, counts as 0 there.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod no_units;
mod products;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;
mod tiles;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod units;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) use no_units::Units;
pub(super) use products::{
    AddSums, SplitFeatures, SplitGram, SplitResidual, SplitTile, SplitWeights, UnitGradient, UnitGram, UnitLogits,
    UnitTile,
};
pub(super) use tiles::{Halves, SIDE, Sums, TERMS, Thirds};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use units::Units;
