//! Limited-memory BFGS and Newton's method with conjugate gradients, where the objective is smooth.
//!
//! Both go along a direction that [`Preconditioner`] makes indifferent to the scale of columns, to the length where the slope is
//! about zero: on cached logits that costs no product with the features. They end when a bound on what is left to gain is
//! confirmed by a solution of Newton's equations.

use std::time::Instant;

use super::minimum::{Learned, Limits, Minimum, Numbers, Observe, end_at_zero};
use super::preconditioner::Preconditioner;
use super::vector::{add, centre_over_classes, dot, is_positive};
use super::{Progress, StopReason};
use crate::error::{Error, Result};
use crate::objective::{Objective, Smooth};

/// A length is accepted at once when the slope is no more than this share of that at 0; another is looked for until it is no
/// more than the second. Small shares: a good length saves more iterations than it costs.
const ACCEPTED: f64 = 0.2;
const AIMED: f64 = 0.1;
/// Lengths tried at most.
pub(super) const MOST_LENGTHS: usize = 40;
/// A length is predicted when its slope is no more than this share of that at 0, or after so many tries.
const PREDICTED: f64 = 0.03;
const MOST_PREDICTIONS: usize = 6;
/// How much the residual of Newton's equations falls, in the norm of the preconditioner, and how many products that may take:
/// of a step, and of the confirmation at the end.
const OF_STEP: Effort = Effort { share: 0.3, left: f64::INFINITY, most: 20 };
const OF_CONFIRMATION: Effort = Effort { share: 0.1, left: f64::INFINITY, most: 12 };
/// It is confirmed that little is left when what a solution leaves is no more than this share of the tolerance; or, where that
/// takes more products, when the solution is worth no more than so many tolerances.
const CONFIRMED: f64 = 0.2;
const CONFIRMED_WORTH: f64 = 2.0;
/// The end may be near when no more than so many tolerances seem to be left: from there a solution of Newton's equations goes on for fewer
/// evaluations than further steps and a confirmation after them.
const NEAR: f64 = 5.0;
/// Pairs of a direction and its curvature that precondition the equations of the next step.
pub(super) const MOST_PAIRS: usize = 10;
/// The probabilities of the preconditioner are taken anew in each of the first iterations, then every few.
pub(super) const REFRESHED: usize = 5;
/// The Hessian class by class takes the place of the product of means when as many multiplications, and so many evaluations, have been
/// made without: then it is at most as dear as what was in vain. It is made anew after so many times as much.
const SHARPENED: f64 = 5.0;
const SHARPENED_AGAIN: f64 = 4.0;
/// So many iterations in a row that gain less than this share of the tolerance are the end.
pub(super) const FRUITLESS: usize = 3;
const FRUITLESS_SHARE: f64 = 0.02;
/// By the mean curvature of all samples no more than so many times the tolerance may be left.
const OUTSIDE: f64 = 100.0;
/// Evaluations of so many multiplications for each product begin as drafts, in single precision, until an iteration gains, or is
/// expected to gain, no more than this share of the objective: far more than what single precision gets wrong.
pub(super) const DRAFTED: usize = 1 << 23;
pub(super) const DRAFT: f64 = 1e-6;
/// On a device another readback is worth less than a product of so many multiplications; reckoned from latencies, not measured.
const WORTH_A_READBACK: usize = 1 << 32;
/// Drafts do to the end where no more is asked for than this tolerance.
const ROUGH: f64 = 1e-5;

/// Whether a solver with this tolerance may end in single precision.
pub(super) fn ends_in_drafts(tolerance: f64) -> bool {
    tolerance >= ROUGH
}

/// How directions are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Method {
    Lbfgs,
    NewtonCg,
}

/// A step and the change of the gradient with it: what curvature there is in that direction.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    /// 1/⟨step, change⟩
    inverse: f64,
}

/// The last pairs, which correct the preconditioner.
pub(super) struct Pairs {
    pub most: usize,
    pairs: Vec<Pair>,
}

impl Pairs {
    pub fn new(most: usize) -> Self {
        Self { most, pairs: Vec::new() }
    }

    /// Takes a pair, unless rounding has left nothing of its curvature.
    pub fn push(&mut self, step: Vec<f64>, change: Vec<f64>) {
        let product = dot(&step, &change);
        if is_positive(product, &step, &change) {
            if self.pairs.len() == self.most {
                self.pairs.remove(0);
            }
            self.pairs.push(Pair { step, change, inverse: 1.0 / product });
        }
    }

    /// Steps and changes, for [`Learned`].
    pub fn into_learned(self) -> Vec<(Vec<f64>, Vec<f64>)> {
        self.pairs.into_iter().map(|Pair { step, change, .. }| (step, change)).collect()
    }

    /// The product of the approximate inverse Hessian with `gradient` (the two-loop recursion; Nocedal 1980, "Updating
    /// quasi-Newton matrices with limited storage"), `precondition` that with what the pairs correct.
    pub fn apply(&self, gradient: &[f64], precondition: impl FnOnce(&[f64]) -> Vec<f64>) -> Vec<f64> {
        let mut residual = gradient.to_vec();
        let mut factors = Vec::with_capacity(self.pairs.len());
        for Pair { step, change, inverse } in self.pairs.iter().rev() {
            let factor = inverse * dot(step, &residual);
            add(&mut residual, -factor, change);
            factors.push(factor);
        }
        let mut result = precondition(&residual);
        for (Pair { step, change, inverse }, factor) in self.pairs.iter().zip(factors.iter().rev()) {
            let correction = factor - inverse * dot(change, &result);
            add(&mut result, correction, step);
        }
        result
    }
}

/// How far conjugate gradients go: until the residual has fallen to a share, in the norm of the preconditioner, and the square of the
/// share to which it has fallen, times ⟨x, H·x⟩, is no more than `left`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    pub share: f64,
    pub left: f64,
    /// Products with the Hessian.
    pub most: usize,
}

/// What conjugate gradients found.
pub(super) struct NewtonDirection {
    pub solution: Vec<f64>,
    /// Directions on the way, with their products with the Hessian.
    pub products: Vec<(Vec<f64>, Vec<f64>)>,
    /// Whether they went as far as they were to.
    pub is_solved: bool,
}

/// A solution of Newton's equations H·x = −g by conjugate gradients; `curved` is the product with H, `precondition` that with an
/// approximation of its inverse.
pub(super) fn newton_direction(
    gradient: &[f64],
    mut curved: impl FnMut(&[f64]) -> Result<Vec<f64>>,
    precondition: impl Fn(&[f64]) -> Vec<f64>,
    effort: Effort,
) -> Result<NewtonDirection> {
    let mut solution = vec![0.0; gradient.len()];
    let mut residual: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut preconditioned = precondition(&residual);
    let mut direction = preconditioned.clone();
    let first = dot(&residual, &preconditioned);
    let (mut product, mut decrement) = (first, 0.0);
    let (mut products, mut is_solved) = (Vec::new(), false);
    for _ in 0..effort.most {
        let curved = curved(&direction)?;
        let curvature = dot(&direction, &curved);
        // Rounding may leave a direction without curvature.
        if !(curvature > 0.0 && curvature.is_finite() && product > 0.0) {
            break;
        }
        let length = product / curvature;
        add(&mut solution, length, &direction);
        add(&mut residual, -length, &curved);
        products.push((direction.clone(), curved));
        preconditioned = precondition(&residual);
        let next = dot(&residual, &preconditioned);
        decrement += length * product;
        // Both: before the residual has fallen, what the solution is worth says nothing of what it leaves.
        is_solved = next <= effort.share.powi(2) * first && next * decrement <= effort.left * first;
        if is_solved {
            break;
        }
        direction.iter_mut().zip(&preconditioned).for_each(|(d, z)| *d = z + next / product * *d);
        product = next;
    }
    Ok(NewtonDirection { solution, products, is_solved })
}

/// A point on the line: its length, value and slope.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnLine {
    pub t: f64,
    pub value: f64,
    pub slope: f64,
}

/// Where a line search ended.
struct Found {
    point: OnLine,
    gradient: Vec<f64>,
    /// Whether the guess would do.
    is_as_guessed: bool,
}

/// Looks along `direction` for the length where the slope is about zero: at `guess` first, and, when that is not near enough, at others
/// without a product. The gradient is taken at the guess, which then costs one evaluation, and once more, a product, where the search ends;
/// or, where `guess` is not trusted, only there. Nothing when there is no length at which the objective is smaller than at 0.
fn search(
    objective: &mut Objective,
    parameters: &[f64],
    direction: &[f64],
    at_zero: OnLine,
    guess: f64,
    is_trusted: bool,
) -> Result<Option<Found>> {
    let near = |point: &OnLine, share: f64| {
        point.slope.abs() <= share * at_zero.slope.abs() && point.value <= at_zero.value + 1e-12 * at_zero.value.abs()
    };
    let mut point = OnLine { t: guess, ..at_zero };
    if is_trusted {
        let first = objective.look(parameters, direction, guess)?;
        point = OnLine { t: guess, value: first.value, slope: first.slope };
        if near(&point, ACCEPTED) {
            return Ok(Some(Found { point, gradient: first.gradient, is_as_guessed: true }));
        }
    } else {
        objective.aim(parameters, direction)?;
        if let Some(&(value, slope)) = objective.along(&[guess])?.first() {
            point = OnLine { t: guess, value, slope };
        }
    }
    let is_as_guessed = near(&point, ACCEPTED);
    let (mut low, mut high): (OnLine, Option<OnLine>) = (at_zero, None);
    for _ in 0..if is_as_guessed { 0 } else { MOST_LENGTHS } {
        // A value that is not finite is too far.
        if point.slope < 0.0 && point.value.is_finite() {
            low = point;
        } else {
            high = Some(point);
        }
        let t = between(low, high, at_zero.slope);
        if !(t > 0.0 && t.is_finite()) || (t - point.t).abs() <= 1e-14 * t {
            break;
        }
        let Some(&(value, slope)) = objective.along(&[t])?.first() else { break };
        point = OnLine { t, value, slope };
        if near(&point, AIMED) {
            break;
        }
    }
    // NaN is not lower.
    let is_lower = |point: &OnLine| point.t > 0.0 && point.value < at_zero.value;
    if !is_as_guessed && !is_lower(&point) {
        point = low;
        if !is_lower(&point) {
            return Ok(None);
        }
    }
    let Smooth { value, slope, gradient } = objective.gradient(parameters, direction, point.t)?;
    Ok(Some(Found { point: OnLine { t: point.t, value, slope }, gradient, is_as_guessed }))
}

/// A length that is longer than one with a falling slope, and shorter than one with a rising slope, where there is one.
pub(super) fn between(low: OnLine, high: Option<OnLine>, slope_at_zero: f64) -> f64 {
    match high {
        // By the line through both slopes, which is right for a parabola; not too near an end.
        Some(high) => {
            let t = (low.t * high.slope - high.t * low.slope) / (high.slope - low.slope);
            let (from, to) = (0.9 * low.t + 0.1 * high.t, 0.1 * low.t + 0.9 * high.t);
            if t.is_finite() { t.clamp(from.min(to), to.max(from)) } else { 0.5 * (low.t + high.t) }
        }
        None => {
            let t = low.t * slope_at_zero / (slope_at_zero - low.slope);
            if t.is_finite() && t > 0.0 { t.clamp(1.1 * low.t, 8.0 * low.t) } else { 8.0 * low.t }
        }
    }
}

/// The length, not far from `guess`, where the slope is about zero by how it changes for the `sample`.
fn predicted(
    sample: &mut Objective,
    parameters: &[f64],
    direction: &[f64],
    at_zero: OnLine,
    guess: f64,
) -> Result<f64> {
    sample.aim(parameters, direction)?;
    let &[(_, slope_at_zero), (_, slope)] = &sample.along(&[0.0, guess])?[..] else { return Ok(guess) };
    let on_line = |t, slope: f64| OnLine { t, value: 0.0, slope: at_zero.slope + (slope - slope_at_zero) };
    let mut point = on_line(guess, slope);
    let (mut low, mut high) = (at_zero, None);
    for _ in 0..MOST_PREDICTIONS {
        if point.slope.abs() <= PREDICTED * at_zero.slope.abs() {
            return Ok(point.t);
        }
        if point.slope < 0.0 {
            low = point;
        } else {
            high = Some(point);
        }
        let t = between(low, high, at_zero.slope);
        let Some(&(_, slope)) = sample.along(&[t])?.first() else { break };
        point = on_line(t, slope);
    }
    Ok(if point.slope.is_finite() && point.t > 0.0 { point.t } else { guess })
}

/// Minimises the smooth objective from `parameters`, in centred coordinates, while `observe` looks on; goes on with what was
/// `learned` on the way there. The objective of a `sample` of the rows, whatever their targets, says how long the steps will be.
#[expect(clippy::too_many_arguments, reason = "of two functions")]
pub(super) fn minimise(
    method: Method,
    Limits { memory, max_iterations, tolerance }: Limits,
    (objective, mut sample): (&mut Objective, Option<&mut Objective>),
    preconditioner: &mut Preconditioner,
    mut parameters: Vec<f64>,
    n_samples: usize,
    learned: Learned,
    observe: &mut Observe,
) -> Result<Minimum> {
    let begin = Instant::now();
    let n_classes = objective.shape().n_classes;
    // What classes have in common changes no probability, and no direction has it.
    centre_over_classes(&mut parameters, n_classes);
    // Drafts that have ended do not begin again.
    let mut gain = learned.numbers.map_or(f64::INFINITY, |numbers| numbers.gain);
    let is_large = n_samples.saturating_mul(parameters.len()) >= DRAFTED;
    // A device evaluates faster than its host makes blocks.
    let price = preconditioner.price().filter(|_| objective.is_double()).unwrap_or(f64::INFINITY).max(SHARPENED);
    let aims = objective.keeps_logits()
        && (objective.is_double() || n_samples.saturating_mul(parameters.len()) >= WORTH_A_READBACK);
    let mut sharpen_at = price;
    if preconditioner.is_sharp() && !preconditioner.is_lent() {
        sharpen_at = objective.counts().evaluations() + SHARPENED_AGAIN * price;
    }
    let mut is_draft = gain > 0.0 && is_large && objective.set_draft(true);
    let Smooth { mut value, mut gradient, .. } = objective.start(&parameters)?;
    if !value.is_finite() {
        return Err(Error::NoObjective { value });
    }
    let numbers = learned.numbers.unwrap_or_else(|| Numbers::new(value));
    let first_gradient = learned.numbers.is_none().then(|| gradient.clone());
    let Numbers { first_value, mut n_fruitless, mut guess, mut not_confirmed, .. } = numbers;
    if let Some(sample) = &mut sample {
        sample.set_draft(true);
        sample.start(&parameters)?;
    }
    // A guess that was wrong is not trusted the next time: then no gradient is taken before the length is right.
    let (mut is_trusted, mut is_sample_there) = (true, true);
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
        let mut direction = pairs.apply(&gradient, |residual| preconditioner.apply(residual));
        let mut decrement = dot(&gradient, &direction);
        if decrement.is_nan() || decrement <= 0.0 {
            pairs = Pairs::new(pairs.most);
            direction = preconditioner.apply(&gradient);
            decrement = dot(&gradient, &direction);
        }
        let least = if ends_in_drafts(tolerance) { 0.0 } else { DRAFT * value };
        let is_far = decrement > least && gain > least;
        if is_draft && !is_far {
            is_draft = false;
            objective.set_draft(is_draft);
            Smooth { value, gradient, .. } = objective.start(&parameters)?;
            continue;
        }
        if decrement.is_nan() || decrement <= 1e-30 {
            break if decrement.is_finite() { StopReason::Converged } else { StopReason::Precision };
        }
        // Newton's method solves its equations in any case.
        let near = if method == Method::Lbfgs { NEAR } else { 1.0 };
        let is_near = |decrement: f64| decrement <= (near * tolerance * value).min(0.3 * not_confirmed);
        // Not between checkpoints that follow each other soon: blocks are made anew after each, to go on to the same bits.
        let is_worth_it = (max_iterations - n_iterations) as f64 >= SHARPENED_AGAIN * price;
        if objective.counts().evaluations() >= sharpen_at && is_worth_it && !is_near(decrement) {
            preconditioner.sharpen(objective, &parameters)?;
            sharpen_at = objective.counts().evaluations() + SHARPENED_AGAIN * price;
            continue;
        }
        // The pairs may have the curvature of a single sample far outside, which holds for the shortest of steps alone; the mean
        // curvature has not.
        let mut confirm =
            is_near(decrement) && dot(&gradient, &preconditioner.apply(&gradient)) <= OUTSIDE * tolerance * value;
        if confirm || method == Method::NewtonCg {
            let effort = match confirm {
                true => Effort { left: CONFIRMED * tolerance * value, ..OF_CONFIRMATION },
                false => OF_STEP,
            };
            let curved = |direction: &[f64]| objective.hessian_vector(direction);
            let precondition = |residual: &[f64]| pairs.apply(residual, |r| preconditioner.apply(r));
            let newton = newton_direction(&gradient, curved, precondition, effort)?;
            let product = -dot(&gradient, &newton.solution);
            let is_little = product <= CONFIRMED_WORTH * tolerance * value;
            if confirm && !newton.is_solved && !(is_little && newton.products.len() == effort.most) {
                (confirm, not_confirmed) = (false, decrement);
            }
            // The pairs of L-BFGS are those of its steps.
            if method == Method::NewtonCg {
                let n_old = newton.products.len().saturating_sub(pairs.most);
                newton.products.into_iter().skip(n_old).for_each(|(direction, curved)| pairs.push(direction, curved));
            }
            if product > 0.0 {
                direction = newton.solution.iter().map(|x| -x).collect();
                decrement = product;
                guess = 1.0;
            } else {
                confirm = false;
            }
        }
        direction.iter_mut().for_each(|x| *x = -*x);
        centre_over_classes(&mut direction, n_classes);
        let at_zero = OnLine { t: 0.0, value, slope: -decrement };
        if let Some(sample) = sample.as_mut().filter(|_| is_trusted) {
            if !is_sample_there {
                sample.start(&parameters)?;
            }
            guess = predicted(sample, &parameters, &direction, at_zero, guess)?;
        }
        is_sample_there = is_trusted;
        let found = search(objective, &parameters, &direction, at_zero, guess, is_trusted)?;
        let Some(Found { point, gradient: new_gradient, is_as_guessed }) = found else {
            if is_draft {
                // What single precision takes for a direction down is none.
                gain = 0.0;
                continue;
            }
            let is_little = decrement <= CONFIRMED_WORTH * tolerance * value;
            break if confirm && is_little { StopReason::Converged } else { StopReason::Precision };
        };
        objective.advance(point.t)?;
        if let Some(sample) = sample.as_mut().filter(|_| is_sample_there) {
            sample.advance(point.t)?;
        }
        is_trusted = is_as_guessed || !aims;
        add(&mut parameters, point.t, &direction);
        // The length at which a parabola with these slopes is lowest.
        let best = point.t * at_zero.slope / (at_zero.slope - point.slope);
        if best.is_finite() && best > 0.0 {
            guess = (guess * best.max(0.01)).sqrt();
        }
        gain = value - point.value;
        if method == Method::Lbfgs {
            let step = direction.iter().map(|x| point.t * x).collect();
            let change = new_gradient.iter().zip(&gradient).map(|(new, old)| new - old).collect();
            pairs.push(step, change);
        }
        (value, gradient) = (point.value, new_gradient);
        n_iterations += 1;
        let evaluations = objective.counts().evaluations();
        let progress = Progress::after(n_iterations, max_iterations, value, evaluations, n_samples, begin.elapsed());
        let stop = observe(progress, objective, &parameters)?;
        if confirm {
            // Where the objective is no parabola, a small decrement need not mean that little is left: the step must have gone as
            // Newton's equations have it, and left next to nothing.
            let left = dot(&gradient, &pairs.apply(&gradient, |residual| preconditioner.apply(residual)));
            let is_measurable = decrement > 1e-11 * value.abs();
            let is_as_promised = (0.4..2.5).contains(&point.t)
                && (0.25..4.0).contains(&(2.0 * gain / decrement))
                && (gain - 0.5 * decrement).abs() <= tolerance * value;
            if left <= tolerance * value && (is_as_promised || !is_measurable) {
                break StopReason::Converged;
            }
            not_confirmed = decrement;
        }
        n_fruitless = if gain <= FRUITLESS_SHARE * tolerance * value { n_fruitless + 1 } else { 0 };
        if n_fruitless == FRUITLESS {
            if !is_draft {
                break StopReason::Precision;
            }
            // It may be that of single precision.
            (gain, n_fruitless) = (0.0, 0);
        }
        if let Some(reason) = stop {
            break reason;
        }
        if n_iterations <= REFRESHED || n_iterations.is_multiple_of(REFRESHED) {
            preconditioner.refresh(&objective.uncentred(&parameters))?;
        }
    };
    objective.set_draft(false);
    let gain = if is_draft { gain } else { 0.0 };
    let learned = Learned {
        pairs: pairs.into_learned(),
        numbers: Some(Numbers { n_fruitless, guess, not_confirmed, gain, ..numbers }),
    };
    Ok(Minimum { parameters, reason, first_gradient, learned })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::backend::{Backend, Shape};
    use crate::batch::Shuffle;
    use crate::data::{Features, Targets};
    use crate::objective::Penalty;

    /// A direction that curves much hides, at first, one that hardly curves, to which nearly all that is left belongs.
    #[test]
    fn equations_are_solved_only_when_the_residual_has_fallen() {
        let effort = |left| Effort { share: 0.1, left, most: 5 };
        for (curvatures, gradient) in [([1.0, 1e-6], [0.07, 0.07]), ([1e4, 1e-4], [0.7, 0.7])] {
            let curved = |v: &[f64]| Ok(v.iter().zip(curvatures).map(|(v, h)| h * v).collect());
            let solve = |effort| newton_direction(&gradient, curved, |r| r.to_vec(), effort).unwrap();
            let newton = solve(effort(0.02));
            assert!(newton.is_solved && newton.products.len() == 2);
            for ((x, g), h) in newton.solution.iter().zip(gradient).zip(curvatures) {
                assert!((x + g / h).abs() < 1e-6 * (g / h).abs(), "{:?}", newton.solution);
            }
            let unfinished = solve(Effort { most: 1, ..effort(0.02) });
            assert!(!unfinished.is_solved && unfinished.products.len() == 1);
            // What is worth much must be solved further than the share.
            let share_alone = solve(Effort { share: 2.0, ..effort(f64::INFINITY) });
            assert!(share_alone.is_solved && share_alone.products.len() == 1);
        }
        // No solution without a direction that curves.
        let flat = newton_direction(&[1.0], |_| Ok(vec![0.0]), |r| r.to_vec(), effort(f64::INFINITY)).unwrap();
        assert!(!flat.is_solved && flat.products.is_empty());
    }

    /// The length is right for rows of other targets, since targets only tilt the line.
    #[test]
    fn a_length_is_predicted_without_targets() {
        let (n, d, q) = (300, 5, 3);
        let mut random = Shuffle::new(4, 2);
        let values: Vec<f32> = (0..n * d).map(|_| 4.0 * noise(&mut random)).collect();
        let features = Features::new(values, n, d).unwrap();
        let shape = Shape { n_features: d, n_classes: q, n_heads: 1 };
        let cpu = Cpu::new();
        let (mut parameters, mut worst): (_, f64) = (vec![0.0; shape.n_parameters()], 0.0);
        let [targets, others] = [3, 1].map(|k| Targets::Classes((0..n as u32).map(|i| i % k).collect()));
        let mut sessions =
            [&targets, &others].map(|targets| cpu.session(&features, 1.0, Some(targets.into())).unwrap());
        let [mut objective, mut sample] = sessions.each_mut().map(|session| {
            Objective::new(session.loss(shape).unwrap(), shape, Penalty::uniform(1e-2, 0.0, d), Some(vec![0.0; d]))
        });
        for round in 1..6 {
            let Smooth { value, gradient, .. } = objective.start(&parameters).unwrap();
            sample.start(&parameters).unwrap();
            let direction: Vec<f64> = gradient.iter().map(|g| -g * f64::from(round)).collect();
            let at_zero = OnLine { t: 0.0, value, slope: dot(&gradient, &direction) };
            for guess in [1e-2, 1.0, 50.0] {
                let t = predicted(&mut sample, &parameters, &direction, at_zero, guess).unwrap();
                let slope = objective.look(&parameters, &direction, t).unwrap().slope;
                let share = slope.abs() / at_zero.slope.abs();
                assert!(share < ACCEPTED, "{round}, {guess}: {t}, {share}");
                worst = worst.max(objective.along(&[2.0 * t]).unwrap()[0].1.abs() / at_zero.slope.abs());
            }
            parameters.iter_mut().for_each(|w| *w += f64::from(noise(&mut random)));
        }
        // Another length would not do.
        assert!(worst > ACCEPTED, "{worst}");
    }

    fn noise(random: &mut Shuffle) -> f32 {
        random.below(1 << 20) as f32 / (1 << 20) as f32 - 0.5
    }
}
