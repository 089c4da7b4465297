//! The formulas, plainly, in f64: one file for one shader, of the same name; [`Steps`] and [`Loss`], which put them in
//! order; and the comparison with them.
//!
//! Used by tests, and by benchmarks before they time; by nothing else. Layouts are those of
//! [`Parameters`](crate::backend::Parameters): row-major, W above b, heads side by side.

mod advance;
mod along;
mod classes;
mod compare;
mod gradient;
mod hessian;
mod logits;
mod loss;
mod reduce;
mod softmax;
mod steps;
pub mod structure;
#[cfg(test)]
mod tests;
mod update;

pub use advance::{advance, advance_bound};
pub use along::{Along, along, along_bound};
pub use classes::classes;
pub use compare::{UNIT_ROUNDOFF, compare};
pub use gradient::{gradient, gradient_bound, gradient_half_bound};
pub use hessian::{hessian, hessian_bound};
pub use logits::{logits, logits_bound, logits_half_bound};
pub use loss::{Evaluated, Loss};
pub use reduce::{reduce, reduce_bound};
pub use softmax::{Softmax, softmax, softmax_bound};
pub use steps::Steps;
pub use update::{State, update, update_bound};
