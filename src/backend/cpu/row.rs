//! Logits and probabilities of one sample, o = x·W + b: no thread, no allocation, W as [`Parameters`] have it, (d × m) row-major.
//!
//! The lanes are outputs. A few vectors of them go down the rows of W together.

use super::lanes::{Instructions, Kernel, Lanes};
use super::softmax::exp;
use crate::backend::Parameters;

/// Logits of one sample. When a length does not agree with the others, all are NaN.
pub(crate) fn logits_of_row(parameters: &Parameters, sample: &[f32], logits: &mut [f32]) {
    let (d, m) = (sample.len(), logits.len());
    let n_values = d.checked_add(1).and_then(|rows| rows.checked_mul(m));
    if m == 0 || n_values != Some(parameters.values.len()) {
        debug_assert!(false, "{d} features and {m} outputs do not agree with {} values", parameters.values.len());
        logits.fill(f32::NAN);
        return;
    }
    Instructions::best().run(RowKernel { parameters: &parameters.values, sample, logits });
}

/// p_j = exp(o_j − m) / Σ_k exp(o_k − m), m = max_k o_k, in place.
pub(crate) fn softmax_of_row(row: &mut [f32]) {
    Instructions::best().run(SoftmaxRowKernel { row, divides: true });
}

/// exp(o_j − m), m = max_k o_k, in place.
pub(crate) fn exp_of_row(row: &mut [f32]) {
    Instructions::best().run(SoftmaxRowKernel { row, divides: false });
}

pub(super) struct SoftmaxRowKernel<'a> {
    pub row: &'a mut [f32],
    /// Whether to divide by the sum.
    pub divides: bool,
}

impl Kernel for SoftmaxRowKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { row, divides } = self;
        let (vectors, tail) = row.split_at_mut(row.len() / L::N * L::N);
        // What is left over, filled up with what counts as nothing.
        let mut rest = [f32::NEG_INFINITY; 32];
        rest[..tail.len()].copy_from_slice(tail);
        let mut best = [0.0; 32];
        // SAFETY: 32 ≥ N values, and chunks of N.
        let sum = unsafe {
            let mut max = lanes.load(rest.as_ptr());
            for chunk in vectors.chunks_exact(L::N) {
                max = lanes.max(max, lanes.load(chunk.as_ptr()));
            }
            lanes.store(best.as_mut_ptr(), max);
            let max = lanes.splat(best[..L::N].iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let mut sum = exp(lanes, lanes.sub(lanes.load(rest.as_ptr()), max));
            lanes.store(rest.as_mut_ptr(), sum);
            for chunk in vectors.chunks_exact_mut(L::N) {
                let e = exp(lanes, lanes.sub(lanes.load(chunk.as_ptr()), max));
                lanes.store(chunk.as_mut_ptr(), e);
                sum = lanes.add(sum, e);
            }
            let zero = lanes.splat(0.0);
            lanes.sum4([sum, zero, zero, zero])[0]
        };
        let sum = if divides { sum } else { 1.0 };
        let by = lanes.splat(sum);
        for chunk in vectors.chunks_exact_mut(L::N) {
            // SAFETY: chunks of N.
            unsafe { lanes.store(chunk.as_mut_ptr(), lanes.div(lanes.load(chunk.as_ptr()), by)) };
        }
        for (p, e) in tail.iter_mut().zip(rest) {
            *p = e / sum;
        }
    }
}

pub(super) struct RowKernel<'a> {
    /// (d + 1) × m values.
    pub parameters: &'a [f32],
    pub sample: &'a [f32],
    pub logits: &'a mut [f32],
}

impl Kernel for RowKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { parameters, sample, logits } = self;
        let (d, m) = (sample.len(), logits.len());
        assert!(parameters.len() == (d + 1) * m);
        let mut j = 0;
        while j + 4 * L::N <= m {
            // SAFETY: 4·N columns from j on are within all rows.
            unsafe { columns::<L, 4>(lanes, parameters, sample, j, &mut logits[j..j + 4 * L::N]) };
            j += 4 * L::N;
        }
        while j + L::N <= m {
            // SAFETY: N columns from j on are within all rows.
            unsafe { columns::<L, 1>(lanes, parameters, sample, j, &mut logits[j..j + L::N]) };
            j += L::N;
        }
        if j < m {
            let mut last = [0.0; 32];
            if m >= L::N {
                // The last N columns; some of them once more.
                // SAFETY: N columns from m − N on are within all rows.
                unsafe { columns::<L, 1>(lanes, parameters, sample, m - L::N, &mut last[..L::N]) };
                logits[j..].copy_from_slice(&last[L::N - (m - j)..L::N]);
            } else {
                few_columns(lanes, parameters, sample, logits);
            }
        }
    }
}

/// Logits of the columns from j on, `V` vectors of them.
///
/// # Safety
/// j + V·N ≤ m, and the lengths agree.
#[inline(always)]
unsafe fn columns<L: Lanes, const V: usize>(lanes: L, parameters: &[f32], sample: &[f32], j: usize, out: &mut [f32]) {
    let m = parameters.len() / (sample.len() + 1);
    let mut sums = [[lanes.splat(0.0); V]; 2];
    let at = parameters.as_ptr();
    // SAFETY: the caller's promise.
    unsafe {
        for v in 0..V {
            sums[0][v] = lanes.load(at.add(sample.len() * m + j + v * L::N));
        }
        let mut k = 0;
        while k + 2 <= sample.len() {
            for i in 0..2 {
                let x = lanes.splat(sample[k + i]);
                for v in 0..V {
                    sums[i][v] = lanes.mul_add(x, lanes.load(at.add((k + i) * m + j + v * L::N)), sums[i][v]);
                }
            }
            k += 2;
        }
        if k < sample.len() {
            let x = lanes.splat(sample[k]);
            for v in 0..V {
                sums[0][v] = lanes.mul_add(x, lanes.load(at.add(k * m + j + v * L::N)), sums[0][v]);
            }
        }
        for v in 0..V {
            lanes.store(out[v * L::N..(v + 1) * L::N].as_mut_ptr(), lanes.add(sums[0][v], sums[1][v]));
        }
    }
}

/// All logits, where there are fewer than lanes. A vector reaches into the next rows of W; what it finds there is not
/// used.
#[inline(always)]
fn few_columns<L: Lanes>(lanes: L, parameters: &[f32], sample: &[f32], logits: &mut [f32]) {
    let m = logits.len();
    let mut sums = [lanes.splat(0.0); 4];
    let mut k = 0;
    while (k + 3) * m + L::N <= parameters.len() && k + 4 <= sample.len() {
        for i in 0..4 {
            // SAFETY: the N values from row k + i ≤ k + 3 on are within the parameters.
            let w = unsafe { lanes.load(parameters.as_ptr().add((k + i) * m)) };
            sums[i] = lanes.mul_add(lanes.splat(sample[k + i]), w, sums[i]);
        }
        k += 4;
    }
    let sum = lanes.add(lanes.add(sums[0], sums[1]), lanes.add(sums[2], sums[3]));
    let mut values = [0.0; 32];
    // SAFETY: 32 ≥ N.
    unsafe { lanes.store(values.as_mut_ptr(), sum) };
    logits.copy_from_slice(&values[..m]);
    // The rest of the rows, and the intercept as one more with x = 1.
    for (k, row) in parameters.chunks_exact(m).enumerate().skip(k) {
        let x = sample.get(k).copied().unwrap_or(1.0);
        for (o, &w) in logits.iter_mut().zip(row) {
            *o += x * w;
        }
    }
}
