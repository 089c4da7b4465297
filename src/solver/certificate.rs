//! How far from the minimum a solution can be at most.

use super::vector::max_abs;
use crate::backend::Shape;
use crate::error::Result;
use crate::objective::Objective;

/// What was found at a solution, by evaluating the objective there once more: in double precision on the CPU, whatever the device,
/// unless the data is so large that this would take more than a few seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Certificate {
    /// The objective J, see [`crate::SoftmaxRegression`].
    pub objective: f64,
    /// The loss in it: the weighted mean cross-entropy, in nats.
    pub log_loss: f64,
    /// The largest partial derivative of J in absolute value; where there is an l1 penalty, of the smallest subgradient.
    /// Features are those that training saw, scaled.
    pub gradient_norm: f64,
    /// The same as a share of what it is for weights 0 and intercepts that give each class its frequency.
    pub relative_gradient_norm: f64,
    /// The duality gap: J is above its minimum by no more than this. None where a feature has no penalty, and so the dual
    /// problem no solution to compare with.
    pub gap: Option<f64>,
    /// Weights that are not 0.
    pub n_nonzero: usize,
    /// Whether all this was computed in double precision.
    pub is_double: bool,
}

/// The intercepts are improved until they leave so much of a gradient, in so many evaluations.
const INTERCEPT_GRADIENT: f64 = 1e-13;
const INTERCEPT_STEPS: usize = 8;

/// Evaluates at `parameters`, centred, whose intercepts are made better first; `zero` are the parameters without weights, and the
/// largest of the gradient there is `first_gradient_norm` where it is known; `shares` are the frequencies of the classes.
///
/// With G = Xᵀ·S·(P − Y), S·1 the weights, the dual problem's value at P is Σ_i s_i·H(p_i) − Σ max(|G| − l1, 0)²/(2·l2), for P with
/// Σ_i s_i·(p_i − y_i) = 0, which the intercepts see to; H is the entropy. Where l2 is 0, P' = Y + θ·(P − Y) takes the place of P, θ
/// such that |θ·G| ≤ l1; its entropy is no less than θ times that of P.
pub(super) fn certify(
    objective: &mut Objective,
    parameters: &mut [f64],
    zero: &[f64],
    first_gradient_norm: Option<f64>,
    shares: &[f64],
) -> Result<Certificate> {
    let Shape { n_features: d, n_classes: m, .. } = objective.shape();
    let n_weights = d * m;
    let first_gradient_norm = match first_gradient_norm {
        Some(norm) => norm,
        None => max_abs(&objective.start(zero)?.gradient),
    };
    let mut smooth = objective.start(parameters)?;
    if objective.has_intercept() {
        let mut gradient = smooth.gradient[n_weights..].to_vec();
        let mut value = smooth.value;
        let mut is_shifted = false;
        for _ in 0..INTERCEPT_STEPS {
            if gradient.iter().all(|g| g.abs() <= INTERCEPT_GRADIENT) {
                break;
            }
            // Scaling each class to its frequency lowers the loss (iterative proportional fitting).
            let step = |(g, share): (&f64, &f64)| {
                if *share > 0.0 && share + g > 0.0 { (share / (share + g)).ln() } else { 0.0 }
            };
            let step: Vec<f64> = gradient.iter().zip(shares).map(step).collect();
            let mut better = parameters.to_vec();
            better[n_weights..].iter_mut().zip(&step).for_each(|(b, step)| *b += step);
            if let Some((next, next_gradient)) = objective.shift(&step)? {
                if next.is_nan() || next > value {
                    let back: Vec<f64> = step.iter().map(|step| -step).collect();
                    objective.shift(&back)?;
                    break;
                }
                (value, gradient, is_shifted) = (next, next_gradient, true);
            } else {
                let next = objective.start(&better)?;
                if next.value.is_nan() || next.value > smooth.value {
                    break;
                }
                gradient = next.gradient[n_weights..].to_vec();
                smooth = next;
            }
            parameters.copy_from_slice(&better);
        }
        if is_shifted {
            smooth = objective.gradient(parameters, &[], 0.0)?;
        }
    }
    let penalty = objective.penalty();
    let mut gradient_norm = smooth.gradient[n_weights..].iter().fold(0.0f64, |max, g| max.max(g.abs()));
    let (mut l2_value, mut l1_value, mut product, mut dual) = (0.0, 0.0, 0.0, Some(0.0));
    // Of each weight, what it adds to the gap where θ is 1.
    let mut gap = 0.0;
    let mut theta: f64 = 1.0;
    let rows = parameters.chunks_exact(m).zip(smooth.gradient.chunks_exact(m)).take(d);
    for ((w, g), (&l2, &l1)) in rows.zip(penalty.l2.iter().zip(&penalty.l1)) {
        for (&w, &g) in w.iter().zip(g) {
            // Of the loss alone.
            let of_loss = g - l2 * w;
            let least = if w == 0.0 { (g.abs() - l1).max(0.0) } else { (g + l1 * w.signum()).abs() };
            gradient_norm = if least > gradient_norm || least.is_nan() { least } else { gradient_norm };
            l2_value += 0.5 * l2 * w * w;
            l1_value += l1 * w.abs();
            product += w * of_loss;
            let excess = (of_loss.abs() - l1).max(0.0);
            // l2·w²/2 + l1·|w| + w·G + excess²/(2·l2), so that it does not cancel.
            gap += if l2 > 0.0 && excess > 0.0 && w * of_loss <= 0.0 {
                (l2 * w.abs() - excess).powi(2) / (2.0 * l2)
            } else {
                let of_dual = if excess > 0.0 { excess * excess / (2.0 * l2) } else { 0.0 };
                (0.5 * l2 * w * w + (l1 * w.abs() + w * of_loss)).max(0.0) + of_dual
            };
            if l2 > 0.0 {
                dual = dual.map(|dual| dual + excess * excess / (2.0 * l2));
            } else if l1 > 0.0 {
                theta = theta.min(l1 / of_loss.abs().max(l1));
            } else {
                dual = None;
            }
        }
    }
    let log_loss = smooth.value - l2_value;
    // Σ s·H(P) = L − ⟨G, W⟩, as the residuals of each class sum to 0.
    let gap = dual.map(|dual| match theta {
        1.0 => gap,
        theta => (log_loss + l2_value + l1_value - theta * (log_loss - product) + theta * theta * dual).max(0.0),
    });
    Ok(Certificate {
        objective: smooth.value + l1_value,
        log_loss,
        gradient_norm,
        relative_gradient_norm: gradient_norm / first_gradient_norm.max(f64::MIN_POSITIVE),
        gap,
        is_double: objective.is_double(),
        n_nonzero: parameters[..n_weights].iter().filter(|&&w| w != 0.0).count(),
    })
}
