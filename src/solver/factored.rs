//! Limited-memory BFGS over the factors θ of structured weights.
//!
//! Value and gradient at W(θ) come from the objective, on whatever device, and the chain rule is done here. Logits are not linear along a
//! line in θ: where two factors change, W(θ + t·D) is a parabola in t. So nothing along a line comes from cached logits, and each length
//! is an evaluation, two products; a step is accepted by the strong conditions of Wolfe (Nocedal and Wright 2006, "Numerical
//! Optimization", section 3.1), which the length 1 nearly always satisfies.

use std::time::Instant;

use super::factor_curvature::FactorCurvature;
use super::minimum::{Learned, Limits, Minimum, Numbers, Observe, end_at_zero};
use super::quasi_newton::{DRAFT, DRAFTED, MOST_LENGTHS, OnLine, Pairs, REFRESHED, between};
use super::vector::{add, dot};
use super::{Progress, StopReason};
use crate::error::{Error, Result};
use crate::objective::{Objective, Smooth};
use crate::structure::Parametrisation;

/// A length must gain at least this share of what the slope at 0 promises, and bring the slope down to the second share of it.
const SUFFICIENT: f64 = 1e-4;
const STEEP: f64 = 0.9;
/// It has converged when so many iterations in a row neither gained nor promised more than the tolerance. There is no certificate: the
/// objective over factors is not convex, so the end is a minimum, or a point that looks like one, not the lowest of all.
const FRUITLESS: usize = 3;

/// Value and gradient over θ.
fn evaluate(objective: &mut Objective, parametrisation: Parametrisation, theta: &[f64]) -> Result<(f64, Vec<f64>)> {
    let Smooth { value, gradient, .. } = objective.start(&parametrisation.expand(theta))?;
    Ok((value, parametrisation.pull_back(theta, &gradient)))
}

/// A point of a line, the θ there, and the gradient.
type Reached = (OnLine, Vec<f64>, Vec<f64>);

/// Looks along `direction` for a length that satisfies the conditions, from 1 on. Between a length that is too short and one that is too
/// long there is one. Where rounding hides it, the lowest that was found; nothing where none gains.
fn search(
    mut evaluate: impl FnMut(&[f64]) -> Result<(f64, Vec<f64>)>,
    theta: &[f64],
    direction: &[f64],
    at_zero: OnLine,
) -> Result<Option<Reached>> {
    let (mut low, mut high): (OnLine, Option<OnLine>) = (at_zero, None);
    let mut lowest: Option<Reached> = None;
    let mut t = 1.0;
    for _ in 0..MOST_LENGTHS {
        let mut there = theta.to_vec();
        add(&mut there, t, direction);
        let (value, gradient) = evaluate(&there)?;
        let point = OnLine { t, value, slope: dot(&gradient, direction) };
        // A value that is not finite is too far.
        let gains = value <= at_zero.value + SUFFICIENT * t * at_zero.slope;
        if gains && point.slope.abs() <= STEEP * at_zero.slope.abs() {
            return Ok(Some((point, there, gradient)));
        }
        if gains && point.slope < 0.0 {
            low = point;
        } else {
            high = Some(point);
        }
        if value < lowest.as_ref().map_or(at_zero.value, |(lowest, ..)| lowest.value) {
            lowest = Some((point, there, gradient));
        }
        let next = between(low, high, at_zero.slope);
        if !(next > 0.0 && next.is_finite()) || (next - t).abs() <= 1e-14 * t {
            break;
        }
        t = next;
    }
    Ok(lowest)
}

/// Minimises over θ, whose intercepts are in centred coordinates, while `observe` looks on; goes on with what was `learned` on the way
/// there.
pub(super) fn minimise(
    Limits { memory, max_iterations, tolerance }: Limits,
    objective: &mut Objective,
    (parametrisation, curvature): (Parametrisation, &mut FactorCurvature),
    mut theta: Vec<f64>,
    n_samples: usize,
    learned: Learned,
    observe: &mut Observe,
) -> Result<Minimum> {
    let begin = Instant::now();
    let is_large = n_samples.saturating_mul(objective.shape().n_parameters()) >= DRAFTED;
    let mut gain = learned.numbers.map_or(f64::INFINITY, |numbers| numbers.gain);
    // Drafts that have ended do not begin again.
    let mut is_draft = gain > 0.0 && is_large && objective.set_draft(true);
    let (mut value, mut gradient) = evaluate(objective, parametrisation, &theta)?;
    if !value.is_finite() {
        return Err(Error::NoObjective { value });
    }
    let numbers = learned.numbers.unwrap_or_else(|| Numbers::new(value));
    let Numbers { first_value, mut n_fruitless, .. } = numbers;
    curvature.refresh(&theta, &objective.uncentred(&parametrisation.expand(&theta)))?;
    curvature.rescale(learned.pairs.last().map(|(step, change)| (&step[..], &change[..])));
    let mut pairs = Pairs::new(memory);
    learned.pairs.into_iter().for_each(|(step, change)| pairs.push(step, change));
    let mut n_iterations = 0;
    let reason = loop {
        if n_iterations == max_iterations {
            break StopReason::Iterations;
        }
        if let Some(reason) = end_at_zero(objective.penalty(), tolerance, value, first_value) {
            break reason;
        }
        // ⟨g, H⁻¹·g⟩ is about twice what is left to gain.
        let mut direction = pairs.apply(&gradient, |residual| curvature.apply(residual));
        let mut decrement = dot(&gradient, &direction);
        if decrement.is_nan() || decrement <= 0.0 {
            pairs = Pairs::new(memory);
            direction = curvature.apply(&gradient);
            decrement = dot(&gradient, &direction);
        }
        let is_far = decrement > DRAFT * value && gain > DRAFT * value;
        if is_draft && !is_far {
            is_draft = false;
            objective.set_draft(is_draft);
            (value, gradient) = evaluate(objective, parametrisation, &theta)?;
            continue;
        }
        if decrement.is_nan() || decrement <= 1e-30 {
            break if decrement.is_finite() { StopReason::Converged } else { StopReason::Precision };
        }
        direction.iter_mut().for_each(|x| *x = -*x);
        let at_zero = OnLine { t: 0.0, value, slope: -decrement };
        let at = |theta: &[f64]| evaluate(objective, parametrisation, theta);
        let Some((point, there, new_gradient)) = search(at, &theta, &direction, at_zero)? else {
            if is_draft {
                // What single precision takes for a direction down is none.
                gain = 0.0;
                continue;
            }
            break if decrement <= tolerance * value { StopReason::Converged } else { StopReason::Precision };
        };
        let difference = |new: &[f64], old: &[f64]| new.iter().zip(old).map(|(new, old)| new - old).collect::<Vec<_>>();
        let (step, change) = (difference(&there, &theta), difference(&new_gradient, &gradient));
        curvature.rescale(Some((&step, &change)));
        pairs.push(step, change);
        gain = value - point.value;
        (theta, value, gradient) = (there, point.value, new_gradient);
        n_iterations += 1;
        let evaluations = objective.counts().evaluations();
        let progress = Progress::after(n_iterations, max_iterations, value, evaluations, n_samples, begin.elapsed());
        let stop = observe(progress, objective, &theta)?;
        n_fruitless = if gain.max(0.5 * decrement) <= tolerance * value { n_fruitless + 1 } else { 0 };
        if n_fruitless == FRUITLESS {
            break StopReason::Converged;
        }
        if let Some(reason) = stop {
            break reason;
        }
        if n_iterations <= REFRESHED || n_iterations.is_multiple_of(REFRESHED) {
            curvature.refresh(&theta, &objective.uncentred(&parametrisation.expand(&theta)))?;
        }
    };
    objective.set_draft(false);
    let gain = if is_draft { gain } else { 0.0 };
    let numbers = Some(Numbers { n_fruitless, gain, ..numbers });
    let learned = Learned { pairs: pairs.into_learned(), numbers };
    Ok(Minimum { parameters: theta, reason, first_gradient: None, learned })
}
