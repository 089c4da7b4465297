//! The loss of each sample, its residual P − Y and the curvature, from logits in double precision.

use super::double::exp;
use super::lanes::{Kernel, Lanes};
use crate::data::Targets;

/// By sample and head, with o = z + t·zₚ: loss ℓ = log Σ_k exp(o_k − m) − Σ_j y_j·(o_j − m), m = max_k o_k; residual
/// r_j = s·(p_j − y_j), p_j = exp(o_j − m) / Σ_k exp(o_k − m); slope Σ_j r_j·zₚ_j. The sums of s·ℓ and of the slopes are added
/// to those of the head, and the sums of r over the samples, the gradient of the intercept, to those of the output.
pub(super) struct Residual<'a> {
    /// The number of the first sample.
    pub first: usize,
    pub t: &'a [f64],
    /// (samples × h·q), and so are direction, where there is one, and residual.
    pub z: &'a [f64],
    pub direction: &'a [f64],
    pub targets: &'a Targets<'a>,
    pub n_classes: usize,
    /// s of each sample, or one for all.
    pub weights: &'a [f64],
    pub residual: &'a mut [f64],
    pub totals: Totals<'a>,
}

/// What is summed over the samples.
pub(super) struct Totals<'a> {
    /// Of each head.
    pub losses: &'a mut [f64],
    pub slopes: &'a mut [f64],
    /// (h·q), or empty where it is not asked for.
    pub bias_gradient: &'a mut [f64],
}

/// r_j = s·p_j·(v_j − Σ_k p_k·v_k) by sample and head, P = softmax(Z); v is in the place of the residual. Its sums over the samples are
/// added to those of the output.
pub(super) struct Curvature<'a> {
    pub z: &'a [f64],
    pub n_classes: usize,
    pub n_heads: usize,
    pub weights: &'a [f64],
    pub residual: &'a mut [f64],
    /// (h·q)
    pub bias_gradient: &'a mut [f64],
}

/// The row is added to each of `rows`, (n × m).
pub(super) struct AddToRows<'a> {
    pub rows: &'a mut [f64],
    pub row: &'a [f64],
}

/// Z ← Z + t·Zₚ by sample and head, t of each head.
pub(super) struct Advance<'a> {
    pub z: &'a mut [f64],
    pub direction: &'a [f64],
    pub t: &'a [f64],
    pub n_classes: usize,
}

/// s of sample `index` of a tile.
#[inline(always)]
fn weight(weights: &[f64], index: usize) -> f64 {
    if let [weight] = weights { *weight } else { weights[index] }
}

/// Values of several rows that stay in the nearest cache, with those that they come from.
const NEAR: usize = 1 << 10;

/// Sums and maxima are of so many at a time, as each waits for the one before.
const AT_ONCE: usize = 8;

#[inline(always)]
fn maximum(row: &[f64]) -> f64 {
    let mut most = [f64::NEG_INFINITY; AT_ONCE];
    let (whole, rest) = row.as_chunks::<AT_ONCE>();
    for values in whole {
        for i in 0..AT_ONCE {
            most[i] = if values[i] > most[i] { values[i] } else { most[i] };
        }
    }
    most.iter().chain(rest).copied().fold(f64::NEG_INFINITY, f64::max)
}

/// Σ_i f(a_i, b_i)
#[inline(always)]
fn sum(a: &[f64], b: &[f64], f: impl Fn(f64, f64) -> f64) -> f64 {
    let mut sums = [0.0; AT_ONCE];
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<AT_ONCE>(), b.as_chunks::<AT_ONCE>());
    for (a, b) in whole_a.iter().zip(whole_b) {
        for i in 0..AT_ONCE {
            sums[i] += f(a[i], b[i]);
        }
    }
    let rest: f64 = rest_a.iter().zip(rest_b).map(|(&a, &b)| f(a, b)).sum();
    sums.into_iter().sum::<f64>() + rest
}

impl Kernel for Residual<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { first, t, z, direction, targets, n_classes: q, weights, residual, totals } = self;
        let Totals { losses, slopes, bias_gradient } = totals;
        let (n_heads, m) = (t.len(), t.len() * q);
        let heads = || (0..n_heads).cycle();
        // Several rows, as one of few classes would not fill a vector, and no more, as they are gone through several times.
        let n_rows = (NEAR / m).max(1);
        for (block, residual) in residual.chunks_mut(n_rows * m).enumerate() {
            let first_row = block * n_rows;
            let z = &z[first_row * m..][..residual.len()];
            let direction =
                if direction.is_empty() { direction } else { &direction[first_row * m..][..residual.len()] };
            for ((index, head), out) in heads().enumerate().zip(residual.chunks_exact_mut(q)) {
                let z = &z[index * q..][..q];
                if direction.is_empty() {
                    out.copy_from_slice(z);
                } else {
                    let direction = &direction[index * q..][..q];
                    for ((o, z), direction) in out.iter_mut().zip(z).zip(direction) {
                        *o = z + t[head] * direction;
                    }
                }
                let max = maximum(out);
                out.iter_mut().for_each(|o| *o -= max);
                let row = first_row + index / n_heads;
                let of_target: f64 = match targets {
                    Targets::Classes(classes) => out[classes[first + row] as usize],
                    Targets::Distributions(y) => {
                        y[(first + row) * q..][..q].iter().zip(&*out).map(|(&y, o)| f64::from(y) * o).sum()
                    }
                };
                losses[head] -= weight(weights, row) * of_target;
            }
            residual.iter_mut().for_each(|o| *o = exp(lanes, *o));
            for ((index, head), out) in heads().enumerate().zip(residual.chunks_exact_mut(q)) {
                let row = first_row + index / n_heads;
                let weight = weight(weights, row);
                let sum_of_row = sum(out, out, |p, _| p);
                // Distributions in single precision sum to 1 but for rounding; with the sum as a factor of the logarithm the residual
                // is the derivative of just this loss, and sums to 0.
                let mass: f64 = match targets {
                    Targets::Classes(_) => 1.0,
                    Targets::Distributions(y) => y[(first + row) * q..][..q].iter().map(|&y| f64::from(y)).sum(),
                };
                losses[head] += weight * mass * sum_of_row.ln();
                let factor = weight * mass / sum_of_row;
                out.iter_mut().for_each(|r| *r *= factor);
                match targets {
                    Targets::Classes(classes) => out[classes[first + row] as usize] -= weight,
                    Targets::Distributions(y) => {
                        let y = &y[(first + row) * q..][..q];
                        out.iter_mut().zip(y).for_each(|(r, &y)| *r -= weight * f64::from(y));
                    }
                }
                if !direction.is_empty() {
                    slopes[head] += sum(out, &direction[index * q..][..q], |r, z| r * z);
                }
                if let Some(sums) = bias_gradient.get_mut(head * q..(head + 1) * q) {
                    sums.iter_mut().zip(&*out).for_each(|(sum, r)| *sum += r);
                }
            }
        }
    }
}

impl Kernel for Curvature<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { z, n_classes: q, n_heads, weights, residual, bias_gradient } = self;
        let mut p = vec![0.0; q];
        for (index, (z, v)) in z.chunks_exact(q).zip(residual.chunks_exact_mut(q)).enumerate() {
            let max = maximum(z);
            p.iter_mut().zip(z).for_each(|(p, z)| *p = exp(lanes, z - max));
            let total = sum(&p, &p, |p, _| p);
            let mean = sum(&p, v, |p, v| p * v) / total;
            let factor = weight(weights, index / n_heads) / total;
            let sums = &mut bias_gradient[index % n_heads * q..][..q];
            for ((v, p), sum) in v.iter_mut().zip(&p).zip(sums) {
                *v = factor * p * (*v - mean);
                *sum += *v;
            }
        }
    }
}

impl Kernel for AddToRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        for to in self.rows.chunks_exact_mut(self.row.len()) {
            to.iter_mut().zip(self.row).for_each(|(to, value)| *to += value);
        }
    }
}

impl Kernel for Advance<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        let Self { z, direction, t, n_classes } = self;
        let heads = z.chunks_exact_mut(n_classes).zip(direction.chunks_exact(n_classes));
        for ((z, direction), t) in heads.zip(t.iter().cycle()) {
            z.iter_mut().zip(direction).for_each(|(z, direction)| *z += t * direction);
        }
    }
}
