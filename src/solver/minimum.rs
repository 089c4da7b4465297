//! What batch solvers are told of when to end, and what they answer.

use super::{Progress, StopReason};
use crate::error::{Error, Result};
use crate::objective::{Objective, Penalty};

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

/// Without any penalty an objective below this share of what it was at first, times the tolerance, comes to zero.
const ZERO: f64 = 1e-3;

/// Why to end where the objective, in nats, is zero but for rounding, or comes to zero. Where each feature has a penalty it has a
/// minimum, however small.
pub(super) fn end_at_zero(penalty: &Penalty, tolerance: f64, value: f64, first_value: f64) -> Option<StopReason> {
    let is_free = |(l2, l1): (&f64, &f64)| *l2 == 0.0 && *l1 == 0.0;
    let n_free = penalty.l2.iter().zip(&penalty.l1).filter(|&feature| is_free(feature)).count();
    let share = if n_free == penalty.l2.len() { ZERO * tolerance } else { 0.0 };
    let reason = if n_free > 0 { StopReason::Separable } else { StopReason::Converged };
    (value <= f64::EPSILON.max(share * first_value)).then_some(reason)
}

/// Is told of each iteration, after which the parameters, in centred coordinates, are those; may say why to stop.
pub(super) type Observe<'a> = dyn FnMut(Progress, &Objective, &[f64]) -> Result<Option<StopReason>> + 'a;

/// What a batch solver has learned on the way and goes on with, beside the parameters.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Learned {
    /// Steps, or other directions, each with the change of the gradient along it; the oldest first, laid out as the solver has
    /// them.
    pub pairs: Vec<(Vec<f64>, Vec<f64>)>,
    /// Nothing where only the parameters are known.
    pub numbers: Option<Numbers>,
}

/// Single numbers that a batch solver goes on with; those of the other one are as at the beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Numbers {
    /// The objective at the beginning.
    pub first_value: f64,
    /// Iterations in a row that gained next to nothing.
    pub n_fruitless: usize,
    /// Of `quasi_newton`: the length at which the next step is tried, the decrement that was last not confirmed, and what the last
    /// iteration gained, 0 where drafts have ended.
    pub guess: f64,
    pub not_confirmed: f64,
    pub gain: f64,
    /// Of `proximal`: by how much the model's curvature is multiplied, and models in a row that promised next to nothing.
    pub tau: f64,
    pub n_promises: usize,
}

impl Numbers {
    /// At the beginning.
    pub fn new(first_value: f64) -> Self {
        let (guess, not_confirmed, gain, tau) = (1.0, f64::INFINITY, f64::INFINITY, 1.0);
        Self { first_value, n_fruitless: 0, guess, not_confirmed, gain, tau, n_promises: 0 }
    }

    /// For a file.
    pub fn to_array(self) -> [f64; 7] {
        let Self { first_value, n_fruitless, guess, not_confirmed, gain, tau, n_promises } = self;
        [first_value, n_fruitless as f64, guess, not_confirmed, gain, tau, n_promises as f64]
    }

    pub fn from_array(values: [f64; 7]) -> Self {
        let [first_value, n_fruitless, guess, not_confirmed, gain, tau, n_promises] = values;
        let (n_fruitless, n_promises) = (n_fruitless as usize, n_promises as usize);
        Self { first_value, n_fruitless, guess, not_confirmed, gain, tau, n_promises }
    }
}

/// Where a batch solver ended.
#[derive(Clone)]
pub(super) struct Minimum {
    /// In centred coordinates.
    pub parameters: Vec<f64>,
    pub reason: StopReason,
    /// The gradient where it began, without an l1 penalty, in the precision of the first evaluation; nothing where it went on with what
    /// was learned.
    pub first_gradient: Option<Vec<f64>>,
    /// To go on with.
    pub learned: Learned,
}
