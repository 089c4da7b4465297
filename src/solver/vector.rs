//! Vectors of parameters on the host.

use rayon::prelude::*;

/// Values that are worth a thread.
const PARALLEL: usize = 1 << 16;

/// Σ_i a_i·b_i. The order of summation depends on the length alone.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    if a.len() <= PARALLEL {
        return dot_of_part(a, b);
    }
    let parts: Vec<f64> = a.par_chunks(PARALLEL).zip(b.par_chunks(PARALLEL)).map(|(a, b)| dot_of_part(a, b)).collect();
    parts.iter().sum()
}

/// The same on this thread.
fn dot_of_part(a: &[f64], b: &[f64]) -> f64 {
    // As many sums as fill the vectors of a processor.
    let mut sums = [0.0; 16];
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.into_iter().sum::<f64>() + rest
}

/// Whether a·b is more than what rounding leaves of terms that cancel, whatever the scale of single coordinates.
pub(super) fn is_positive(product: f64, a: &[f64], b: &[f64]) -> bool {
    product > 1e-12 * a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>()
}

/// y ← y + a·x
pub(super) fn add(y: &mut [f64], a: f64, x: &[f64]) {
    let add = |(y, x): (&mut [f64], &[f64])| y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
    if y.len() <= PARALLEL {
        return add((y, x));
    }
    y.par_chunks_mut(PARALLEL).zip(x.par_chunks(PARALLEL)).for_each(add);
}

/// max_i |a_i|; NaN when one is.
pub(super) fn max_abs(a: &[f64]) -> f64 {
    a.iter().fold(0.0, |max, value| if value.abs() > max || value.is_nan() { value.abs() } else { max })
}

/// x with each of `n_features` rows of m values, and the last one, of the intercept, less the mean over the classes, by head.
pub(super) fn centre_over_classes(values: &mut [f64], n_classes: usize) {
    for row in values.chunks_exact_mut(n_classes) {
        let mean = row.iter().sum::<f64>() / n_classes as f64;
        row.iter_mut().for_each(|value| *value -= mean);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_dot_product_is_that_of_its_parts() {
        let a: Vec<f64> = (0..200_003).map(|i| f64::from(i % 17) - 8.0).collect();
        let b: Vec<f64> = (0..200_003).map(|i| f64::from(i % 5) - 1.5).collect();
        // Sums of multiples of ½ are exact.
        assert_eq!(dot(&a, &b), a.iter().zip(&b).map(|(a, b)| a * b).sum::<f64>());
        let mut y = a.clone();
        add(&mut y, 2.0, &b);
        assert!(y.iter().zip(&a).zip(&b).all(|((y, a), b)| *y == a + 2.0 * b));
        assert!(max_abs(&[1.0, f64::NAN, 2.0]).is_nan());
        assert_eq!(max_abs(&[1.0, -3.0, 2.0]), 3.0);
    }
}
