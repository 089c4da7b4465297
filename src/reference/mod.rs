//! The formulas, plainly, in f64: one file for one shader, of the same name; [`Steps`], which puts them in order; and
//! the comparison with them.
//!
//! Used by tests, and by benchmarks before they time; by nothing else. Layouts are those of
//! [`Parameters`](crate::backend::Parameters): row-major, W above b, heads side by side.

mod classes;
mod compare;
mod gradient;
mod logits;
mod softmax;
mod steps;
#[cfg(test)]
mod tests;
mod update;

pub use classes::classes;
pub use compare::{UNIT_ROUNDOFF, compare};
pub use gradient::{gradient, gradient_bound, gradient_half_bound};
pub use logits::{logits, logits_bound, logits_half_bound};
pub use softmax::{Softmax, softmax, softmax_bound};
pub use steps::Steps;
pub use update::{State, update, update_bound};
