//! What batch solvers are told of when to end, and what they answer.

use std::time::Instant;

use super::{Progress, StopReason};
use crate::error::{Error, Result};
use crate::objective::Objective;

/// When a batch solver ends at the latest, and what it remembers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub memory: usize,
    pub max_iterations: usize,
    pub tolerance: f64,
}

impl Limits {
    /// That the settings make sense.
    pub fn check(self) -> Result<()> {
        let Self { memory, max_iterations, tolerance } = self;
        let setting = |name, value: String, expected| Err(Error::Setting { name, value, expected });
        if max_iterations == 0 {
            return setting("the number of iterations", "0".to_owned(), "at least 1");
        }
        if !(tolerance > 0.0 && tolerance < 1.0) {
            return setting("the tolerance", tolerance.to_string(), "above 0 and below 1");
        }
        if memory == 0 {
            return setting("the memory of L-BFGS", "0".to_owned(), "at least 1");
        }
        Ok(())
    }
}

/// Is told of each iteration, after which the parameters, in centred coordinates, are those; may say why to stop.
pub(super) type Observe<'a> = dyn FnMut(Progress, &Objective, &[f64]) -> Result<Option<StopReason>> + 'a;

/// Where a batch solver ended.
pub(super) struct Minimum {
    /// In centred coordinates.
    pub parameters: Vec<f64>,
    pub reason: StopReason,
    /// When the first iteration began.
    pub begin: Instant,
    /// The largest of the gradient there, without an l1 penalty, in the precision of the first evaluation.
    pub first_gradient_norm: f64,
}
