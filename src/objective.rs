//! What training minimises: J = mean loss + (l2/2)·‖W‖².
//!
//! The loss is the mean over the samples of ℓ = log Σ_k exp(o_k) − Σ_j y_j·o_j (cross-entropy, in nats). The intercept
//! is never penalised. scikit-learn's C corresponds to l2 = 1/(C·n_samples).

use crate::backend::Parameters;

/// The penalty (l2/2)·‖W‖², without the intercept.
pub fn penalty(l2: f64, parameters: &Parameters) -> f64 {
    let squares: f64 = parameters.weights().iter().map(|&w| f64::from(w).powi(2)).sum();
    l2 / 2.0 * squares
}
