//! How strongly the loss curves, which bounds the step size.

use ndarray::{Array1, Array2};

use crate::backend::Supervision;
use crate::batch::Shuffle;
use crate::data::{Csr, Features, Values};
use crate::error::Result;

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
/// With weights w of mean 1, means are weighted, and a batch of a single sample curves w_i·‖x̃‖² instead: in the mean over the
/// batches at most max w·τ, which is the most that the noise is taken for. So one sample that outweighs all others makes
/// steps as small as the batches with it need.
///
/// It looks at up to 1,024 samples, evenly spaced, or evenly by weight.
pub(super) fn curvature(
    features: &Features,
    scale: f32,
    supervision: Supervision,
    n_classes: usize,
    b: f64,
) -> Result<f64> {
    let Supervision { targets, weights } = supervision;
    let n = features.n_samples();
    let rows = some_rows(features, scale, weights)?;
    let trace = rows.sum_of_squares() / rows.n_rows() as f64;
    let largest_weight = weights.map_or(1.0, |weights| f64::from(weights.iter().copied().fold(0.0, f32::max)));
    let share = largest_share(&targets.class_totals(weights, n_classes), n);
    Ok(share.min(0.5) * (largest_eigenvalue(&rows) + largest_weight * trace / b))
}

/// Of the totals of the classes of n samples, whose weights are 1 in the mean.
fn largest_share(totals: &[f64], n_samples: usize) -> f64 {
    totals.iter().copied().fold(0.0, f64::max) / n_samples as f64
}

/// x̃ of some samples, (rows × (d + 1)).
enum Rows<'a> {
    Dense(Array2<f32>),
    /// With the numbers of the samples, x, scale and d.
    Sparse(Vec<usize>, &'a Csr<'a>, f32, usize),
}

impl Rows<'_> {
    fn n_rows(&self) -> usize {
        match self {
            Self::Dense(rows) => rows.nrows(),
            Self::Sparse(numbers, ..) => numbers.len(),
        }
    }

    /// d + 1
    fn width(&self) -> usize {
        match self {
            Self::Dense(rows) => rows.ncols(),
            Self::Sparse(.., d) => d + 1,
        }
    }

    fn sum_of_squares(&self) -> f64 {
        match self {
            Self::Dense(rows) => rows.iter().map(|&x| f64::from(x).powi(2)).sum(),
            Self::Sparse(numbers, x, scale, _) => {
                let of_row =
                    |&row: &usize| 1.0 + x.row(row).1.iter().map(|x| f64::from(x * scale).powi(2)).sum::<f64>();
                numbers.iter().map(of_row).sum()
            }
        }
    }

    /// The products with v, (d + 1), of each row.
    fn dot(&self, v: &Array1<f32>) -> Vec<f32> {
        match self {
            Self::Dense(rows) => rows.dot(v).to_vec(),
            Self::Sparse(numbers, x, scale, d) => {
                let of_row = |&row: &usize| {
                    let (columns, values) = x.row(row);
                    v[*d] + scale * columns.iter().zip(values).map(|(&k, x)| x * v[k as usize]).sum::<f32>()
                };
                numbers.iter().map(of_row).collect()
            }
        }
    }

    /// Adds `factor` times row `index` to v.
    fn add_row(&self, index: usize, factor: f32, v: &mut Array1<f32>) {
        match self {
            Self::Dense(rows) => v.scaled_add(factor, &rows.row(index)),
            Self::Sparse(numbers, x, scale, d) => {
                let (columns, values) = x.row(numbers[index]);
                columns.iter().zip(values).for_each(|(&k, x)| v[k as usize] += factor * scale * x);
                v[*d] += factor;
            }
        }
    }
}

/// x̃ of some samples: evenly spaced, or so that as much weight lies between any two.
fn some_rows<'a>(features: &'a Features<'a>, scale: f32, weights: Option<&[f32]>) -> Result<Rows<'a>> {
    let (n, d) = (features.n_samples(), features.n_features());
    let most = match features.values() {
        Values::Sparse(_) => ROWS,
        _ => ROWS.min((VALUES / d).max(16)),
    };
    let numbers: Vec<usize> = match weights {
        None => {
            let n_rows = n.min(most);
            (0..n_rows).map(|index| (index as u128 * n as u128 / n_rows as u128) as usize).collect()
        }
        Some(weights) => {
            let (mut row, mut up_to_row) = (0, f64::from(weights[0]));
            let each = n as f64 / most as f64;
            let of_share = |index: usize| {
                while row + 1 < n && up_to_row <= (index as f64 + 0.5) * each {
                    row += 1;
                    up_to_row += f64::from(weights[row]);
                }
                row
            };
            (0..most).map(of_share).collect()
        }
    };
    if let Values::Sparse(x) = features.values() {
        return Ok(Rows::Sparse(numbers, x, scale, d));
    }
    let mut rows = Array2::<f32>::ones((numbers.len(), d + 1));
    let numbers: Vec<u32> = numbers.into_iter().map(|row| row as u32).collect();
    let features = features.select(&numbers)?;
    for (number, mut row) in rows.rows_mut().into_iter().enumerate() {
        if let Some(row) = row.as_slice_mut() {
            features.read_row(number, &mut row[..d]);
            row[..d].iter_mut().for_each(|x| *x *= scale);
        }
    }
    Ok(Rows::Dense(rows))
}

/// The largest eigenvalue λ of A = (1/n)·Σ x̃·x̃ᵀ, by power iteration: v ← A·v/‖A·v‖; ‖A·v‖ tends to λ from below.
fn largest_eigenvalue(rows: &Rows) -> f64 {
    let (n_rows, width) = (rows.n_rows(), rows.width());
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
        for (index, product) in products.into_iter().enumerate() {
            rows.add_row(index, product / n_rows as f32, &mut v);
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
    use crate::data::Targets;

    #[test]
    fn the_eigenvalue_is_that_of_the_second_moments() {
        // x = ±3 in one feature, 2 in another: the moments of (x, 1) are diag(9, [[4, 2], [2, 1]]), eigenvalues 9, 5, 0.
        let x: Vec<f32> = (0..5000).flat_map(|i| [if i % 2 == 0 { 3.0 } else { -3.0 }, 2.0]).collect();
        let features = Features::new(x, 5000, 2).unwrap();
        let found = largest_eigenvalue(&some_rows(&features, 1.0, None).unwrap());
        assert!((found - 9.0).abs() < 0.01, "{found}");
        // diag(0.09, [[0.04, 0.2], [0.2, 1]])
        let tenth = largest_eigenvalue(&some_rows(&features, 0.1, None).unwrap());
        assert!((tenth - 1.04).abs() < 1e-3, "{tenth}");
    }

    #[test]
    fn sparse_features_curve_as_dense_ones() {
        let value = |i: usize, k: usize| if (i + k * k).is_multiple_of(5) { (1 + i % 7) as f32 * 0.3 } else { 0.0 };
        let (n, d) = (400, 9);
        let dense: Vec<f32> = (0..n * d).map(|at| value(at / d, at % d)).collect();
        let (mut offsets, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for i in 0..n {
            for k in (0..d).filter(|&k| value(i, k) != 0.0) {
                columns.push(k as u32);
                values.push(value(i, k));
            }
            offsets.push(values.len() as u64);
        }
        let sparse = Features::new(Csr::new(offsets, columns, values).unwrap(), n, d).unwrap();
        let dense = Features::new(dense, n, d).unwrap();
        let targets = Targets::Classes((0..n).map(|i| (i % 3) as u32).collect::<Vec<_>>().into());
        let of = |features: &Features, scale| curvature(features, scale, (&targets).into(), 3, 16.0);
        for scale in [1.0, 0.25] {
            assert!((of(&sparse, scale).unwrap() / of(&dense, scale).unwrap() - 1.0).abs() < 1e-5);
        }
        assert!((of(&sparse, 1.0).unwrap() / of(&dense, 1.01).unwrap() - 1.0).abs() > 1e-3);
    }

    #[test]
    fn the_share_is_of_the_most_frequent_class() {
        let share = |targets: Targets, n, q| largest_share(&targets.class_totals(None, q), n);
        assert_eq!(share(Targets::Classes(vec![0, 2, 2, 1].into()), 4, 3), 0.5);
        assert_eq!(share(Targets::Distributions(vec![0.25, 0.75, 0.5, 0.5].into()), 2, 2), 0.625);
        let totals = Targets::Classes(vec![0, 1].into()).class_totals(Some(&[0.5, 1.5]), 2);
        assert_eq!(largest_share(&totals, 2), 0.75);
    }

    #[test]
    fn weighted_samples_count_as_often_as_they_weigh() {
        // Sample 0 counts three times, sample 1 once, the others not at all.
        let x = vec![3.0f32, 1.0, 50.0, 70.0];
        let weighted = Features::new(x.clone(), 4, 1).unwrap();
        let repeated = Features::new(vec![3.0f32, 3.0, 3.0, 1.0], 4, 1).unwrap();
        let (two, classes) = (Targets::Classes(vec![0, 1, 0, 0].into()), Targets::Classes(vec![0, 0, 0, 1].into()));
        let weights = [3.0, 1.0, 0.0, 0.0];
        let found = largest_eigenvalue(&some_rows(&weighted, 1.0, Some(&weights)).unwrap());
        let expected = largest_eigenvalue(&some_rows(&repeated, 1.0, None).unwrap());
        assert!((found / expected - 1.0).abs() < 1e-3, "{found} and {expected}");
        // In large batches nothing else matters; in small ones the largest weight.
        let of = |features: &Features, targets: &Targets, weights: Option<&[f32]>, b: f64| {
            curvature(features, 1.0, Supervision { targets, weights }, 2, b).unwrap()
        };
        let (found, expected) = (of(&weighted, &two, Some(&weights), 1e9), of(&repeated, &classes, None, 1e9));
        assert!((found / expected - 1.0).abs() < 1e-3, "{found} and {expected}");
        assert!(of(&weighted, &two, Some(&weights), 1.0) > 2.0 * of(&repeated, &classes, None, 1.0));
        // Extreme weights give a finite step.
        let extreme = of(&weighted, &two, Some(&[4.0, 1e-38, 0.0, 0.0]), 1.0);
        assert!(extreme.is_finite() && extreme >= 4.0 * 9.0 * 0.5, "{extreme}");
    }
}
