//! How strongly the loss curves, which bounds the step size.

use ndarray::{Array1, Array2};

use crate::batch::Shuffle;
use crate::data::{Features, Targets};

/// Rows that the data is judged by, and values at most.
const ROWS: usize = 1024;
const VALUES: usize = 1 << 21;
/// Of the power iteration. The step size need not be exact.
const ITERATIONS: usize = 12;

/// An estimate of how strongly the mean loss curves for batches whose steps add up: κ·(λ + τ/b).
///
/// λ is the largest eigenvalue of (1/n)·Σ x̃·x̃ᵀ, x̃ = (scale·x, 1), and τ its trace, the mean of ‖x̃‖². With P =
/// softmax(X·W + b), the Hessian's block for the classes j and k is the mean of p_j·(δ_jk − p_k)·x̃·x̃ᵀ. It is at most ½·λ
/// for any W (Böhning 1992, "Multinomial logistic regression algorithm"), and about π·λ where the mean of p_j is π_j, the
/// share of class j, as the intercept soon makes it; π is the largest of them. κ is the smaller of ½ and π.
///
/// The mean over b random samples curves more than the mean over all: in expectation by no more than that of a single
/// sample over b (the expected smoothness of Gower et al. 2019, "SGD: General Analysis and Improved Rates").
///
/// It looks at up to 1,024 samples, evenly spaced.
pub(super) fn curvature(features: &Features, scale: f32, targets: &Targets, n_classes: usize, b: f64) -> f64 {
    let rows = some_rows(features, scale);
    let trace = rows.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / rows.nrows() as f64;
    largest_share(targets, features.n_samples(), n_classes).min(0.5) * (largest_eigenvalue(&rows) + trace / b)
}

fn largest_share(targets: &Targets, n_samples: usize, n_classes: usize) -> f64 {
    let mut sums = vec![0f64; n_classes];
    match targets {
        Targets::Classes(classes) => classes.iter().for_each(|&class| sums[class as usize] += 1.0),
        Targets::Distributions(values) => {
            for y in values.chunks_exact(n_classes) {
                sums.iter_mut().zip(y).for_each(|(sum, &y)| *sum += f64::from(y));
            }
        }
    }
    sums.into_iter().fold(0.0, f64::max) / n_samples as f64
}

/// x̃ of some samples, (rows × (d + 1)).
fn some_rows(features: &Features, scale: f32) -> Array2<f32> {
    let (n, d) = (features.n_samples(), features.n_features());
    let n_rows = n.min(ROWS).min((VALUES / d).max(16));
    let mut rows = Array2::<f32>::ones((n_rows, d + 1));
    for (index, mut row) in rows.rows_mut().into_iter().enumerate() {
        if let Some(row) = row.as_slice_mut() {
            features.read_row((index as u128 * n as u128 / n_rows as u128) as usize, &mut row[..d]);
            row[..d].iter_mut().for_each(|x| *x *= scale);
        }
    }
    rows
}

/// The largest eigenvalue λ of A = (1/n)·Σ x̃·x̃ᵀ, by power iteration: v ← A·v/‖A·v‖; ‖A·v‖ tends to λ from below.
fn largest_eigenvalue(rows: &Array2<f32>) -> f64 {
    let (n_rows, width) = rows.dim();
    // Random signs, which no direction is at right angles to but by chance.
    let mut random = Shuffle::new(0, 0);
    let length = 1.0 / (width as f32).sqrt();
    let sign = |random: &mut Shuffle| if random.below(2) == 0 { length } else { -length };
    let mut v = Array1::from_shape_fn(width, |_| sign(&mut random));
    // The constant 1 makes it at least 1.
    let mut eigenvalue = 1.0;
    for _ in 0..ITERATIONS {
        let products = rows.dot(&v);
        v.fill(0.0);
        for (row, &product) in rows.rows().into_iter().zip(&products) {
            v.scaled_add(product / n_rows as f32, &row);
        }
        let norm = v.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        if !(norm.is_normal() && norm < f64::from(f32::MAX)) {
            break;
        }
        eigenvalue = norm.max(eigenvalue);
        v /= norm as f32;
    }
    eigenvalue
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eigenvalue_is_that_of_the_second_moments() {
        // x = ±3 in one feature, 2 in another: the moments of (x, 1) are diag(9, [[4, 2], [2, 1]]), eigenvalues 9, 5, 0.
        let x: Vec<f32> = (0..5000).flat_map(|i| [if i % 2 == 0 { 3.0 } else { -3.0 }, 2.0]).collect();
        let features = Features::new(x, 5000, 2).unwrap();
        let found = largest_eigenvalue(&some_rows(&features, 1.0));
        assert!((found - 9.0).abs() < 0.01, "{found}");
        // diag(0.09, [[0.04, 0.2], [0.2, 1]])
        let tenth = largest_eigenvalue(&some_rows(&features, 0.1));
        assert!((tenth - 1.04).abs() < 1e-3, "{tenth}");
    }

    #[test]
    fn the_share_is_of_the_most_frequent_class() {
        assert_eq!(largest_share(&Targets::Classes(vec![0, 2, 2, 1].into()), 4, 3), 0.5);
        assert_eq!(largest_share(&Targets::Distributions(vec![0.25, 0.75, 0.5, 0.5].into()), 2, 2), 0.625);
    }
}
