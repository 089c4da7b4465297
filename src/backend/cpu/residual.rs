//! The loss of each sample, its residual P − Y and the curvature, from logits; in drafts all of it but the sums in single precision.

use std::ops::Range;

use super::lanes::{Kernel, Lanes};
use super::real::Real;
use crate::data::Targets;

/// By sample and head, with o = z + t·zₚ: loss ℓ = log Σ_k exp(o_k − m) − Σ_j y_j·(o_j − m), m = max_k o_k; residual
/// r_j = s·(p_j − y_j), p_j = exp(o_j − m) / Σ_k exp(o_k − m); slope Σ_j r_j·zₚ_j. The sums of s·ℓ and of the slopes are added
/// to those of the head, and the sums of r over the samples, the gradient of the intercept, to those of the output. The residual is
/// raised as [`Real`] has it.
pub(super) struct Residual<'a, F> {
    /// The number of the first sample.
    pub first: usize,
    pub t: &'a [f64],
    /// (samples × h·q), and so are direction, where there is one, and residual.
    pub z: &'a [F],
    pub direction: &'a [F],
    pub targets: &'a Targets<'a>,
    pub n_classes: usize,
    /// s of each sample, or one for all.
    pub weights: &'a [f64],
    pub residual: &'a mut [F],
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

/// r_j = s·p_j·(v_j − Σ_k p_k·v_k) by sample and head, P = softmax(Z), raised. Its sums over the samples are added to those of the
/// output.
pub(super) struct Curvature<'a, F> {
    /// (samples × h·q), and so is the residual.
    pub z: &'a [F],
    /// The same, or (h·q) for all samples.
    pub v: &'a [F],
    pub n_classes: usize,
    pub n_heads: usize,
    pub weights: &'a [f64],
    pub residual: &'a mut [F],
    /// (h·q)
    pub bias_gradient: &'a mut [f64],
}

/// The row is added to each of `rows`, (n × m).
pub(super) struct AddToRows<'a, F> {
    pub rows: &'a mut [F],
    pub row: &'a [f64],
}

/// Z ← Z + t·Zₚ by sample and head, t of each head.
pub(super) struct Advance<'a, F> {
    pub z: &'a mut [F],
    pub direction: &'a [F],
    pub t: &'a [f64],
    pub n_classes: usize,
}

/// s of sample `index` of a tile.
#[inline(always)]
fn weight(weights: &[f64], index: usize) -> f64 {
    if let [weight] = weights { *weight } else { weights[index] }
}

/// Long rows are filled up with what does not count to whole vectors of any precision; short ones lie next to each other.
const WIDTH: usize = 16;
/// Vectors of double precision in as many values, at most.
const VECTORS: usize = 8;
/// Values of short rows that are gone through together: they stay in the nearest cache.
const NEAR: usize = 1 << 10;

/// Room for rows of q values: one that is filled up, or several.
struct Rows<F> {
    q: usize,
    /// From one row to the next.
    stride: usize,
    /// How many there are at most.
    n: usize,
    /// o, and v or zₚ, 0 past the row.
    o: Vec<f64>,
    v: Vec<f64>,
    p: Vec<F>,
    /// Sums over the samples, by head.
    sums: Vec<f64>,
}

impl<F: Real> Rows<F> {
    fn new(q: usize, n_heads: usize) -> Self {
        let (n, stride) = if q < WIDTH { (NEAR / q, q) } else { (1, q.next_multiple_of(WIDTH)) };
        let length = (n * stride).next_multiple_of(WIDTH);
        // What is past a row is no maximum, and has no probability.
        let mut o = vec![0.0; length];
        o[n * q..].fill(f64::NEG_INFINITY);
        let sums = vec![0.0; stride * n_heads];
        Self { q, stride, n, o, v: vec![0.0; length], p: vec![F::default(); length], sums }
    }

    /// The places of row `k`.
    #[inline(always)]
    fn row(&self, k: usize) -> Range<usize> {
        k * self.stride..(k + 1) * self.stride
    }

    /// o of row k ← o + t·v
    #[inline(always)]
    fn go(&mut self, k: usize, t: f64) {
        let row = self.row(k);
        for (o, v) in self.o[row.clone()].iter_mut().zip(&self.v[row]) {
            *o += t * v;
        }
    }

    /// o ← o − m, m the largest of row k, and p the same.
    #[inline(always)]
    fn lower<L: Lanes>(&mut self, lanes: L, k: usize) {
        let row = self.row(k);
        let max = maximum(lanes, &self.o[row.clone()]);
        for (p, o) in self.p[row.clone()].iter_mut().zip(&mut self.o[row]) {
            *o -= max;
            *p = F::from_f64(*o);
        }
    }

    /// p ← exp(p) of the first `count` rows.
    #[inline(always)]
    fn exp<L: Lanes>(&mut self, lanes: L, count: usize) {
        F::exp(lanes, &mut self.p[..(count * self.stride).next_multiple_of(WIDTH)]);
    }

    /// Adds p of row k, lowered, to the sums of a head.
    #[inline(always)]
    fn add(&mut self, k: usize, head: usize) {
        let row = self.row(k);
        for (sum, p) in self.sums[head * self.stride..].iter_mut().zip(&self.p[row]) {
            *sum += p.to_f64() * (1.0 / F::RAISED);
        }
    }

    /// p of the rows that `out` has room for.
    #[inline(always)]
    fn copy_to(&self, out: &mut [F]) {
        out.copy_from_slice(&self.p[..out.len()]);
    }

    /// Adds the sums of all heads to those of the outputs, (h·q).
    fn add_sums_to(&self, outputs: &mut [f64]) {
        for (sums, outputs) in self.sums.chunks_exact(self.stride).zip(outputs.chunks_exact_mut(self.q)) {
            outputs.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
        }
    }
}

/// The largest value of a short row, or of one that is filled up; so are the rows below.
#[inline(always)]
fn maximum<L: Lanes>(lanes: L, o: &[f64]) -> f64 {
    let mut all = [f64::NEG_INFINITY; WIDTH];
    if o.len() < WIDTH {
        for &o in o {
            all[0] = if o > all[0] { o } else { all[0] };
        }
        return all[0];
    }
    let mut most = [lanes.splat_f64(f64::NEG_INFINITY); VECTORS];
    for o in o.chunks_exact(WIDTH) {
        for i in 0..2 * WIDTH / L::N {
            // SAFETY: 16 values, as many as these vectors have.
            most[i] = unsafe { lanes.max_f64(most[i], lanes.load_f64(o.as_ptr().add(i * L::N / 2))) };
        }
    }
    for i in 0..2 * WIDTH / L::N {
        // SAFETY: as above.
        unsafe { lanes.store_f64(all.as_mut_ptr().add(i * L::N / 2), most[i]) };
    }
    let mut n = WIDTH / 2;
    while n > 0 {
        for i in 0..n {
            all[i] = if all[i] < all[i + n] { all[i + n] } else { all[i] };
        }
        n /= 2;
    }
    all[0]
}

/// Σ_i p_i
#[inline(always)]
fn sum<L: Lanes, F: Real>(lanes: L, p: &[F]) -> f64 {
    if p.len() < WIDTH {
        let mut sum = 0.0;
        for p in p {
            sum += p.to_f64();
        }
        return sum;
    }
    let mut sums = [lanes.splat_f64(0.0); VECTORS];
    for p in p.chunks_exact(WIDTH) {
        for i in 0..WIDTH / L::N {
            // SAFETY: 16 values.
            let wide = unsafe { F::load_wide(lanes, p.as_ptr().add(i * L::N)) };
            for half in 0..2 {
                let sum = &mut sums[2 * i + half];
                *sum = lanes.mul_add_f64(wide[half], lanes.splat_f64(1.0), *sum);
            }
        }
    }
    total(lanes, sums)
}

/// Σ_i p_i·v_i
#[inline(always)]
fn product<L: Lanes, F: Real>(lanes: L, p: &[F], v: &[f64]) -> f64 {
    if p.len() < WIDTH {
        let mut sum = 0.0;
        for (p, v) in p.iter().zip(v) {
            sum += p.to_f64() * v;
        }
        return sum;
    }
    let mut sums = [lanes.splat_f64(0.0); VECTORS];
    for (p, v) in p.chunks_exact(WIDTH).zip(v.chunks_exact(WIDTH)) {
        for i in 0..WIDTH / L::N {
            // SAFETY: 16 values of each.
            unsafe {
                let wide = F::load_wide(lanes, p.as_ptr().add(i * L::N));
                for half in 0..2 {
                    let v = lanes.load_f64(v.as_ptr().add(i * L::N + half * L::N / 2));
                    sums[2 * i + half] = lanes.mul_add_f64(wide[half], v, sums[2 * i + half]);
                }
            }
        }
    }
    total(lanes, sums)
}

/// A value of the residual, raised, but 0 where that is next to nothing.
#[inline(always)]
fn raised<F: Real>(value: f64) -> F {
    let raised = F::from_f64(value * F::RAISED);
    if raised.to_f64().abs() < F::LEAST.to_f64() { F::default() } else { raised }
}

/// The same of values not below 0, times a factor.
#[inline(always)]
fn scale<F: Real>(values: &mut [F], factor: f64) {
    let factor = F::from_f64(factor * F::RAISED);
    for value in values {
        let scaled = *value * factor;
        *value = if scaled < F::LEAST { F::default() } else { scaled };
    }
}

#[inline(always)]
fn widen<F: Real>(to: &mut [f64], from: &[F]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_f64();
    }
}

/// The sum over the lanes of as many vectors as 16 values are; the others are 0.
#[inline(always)]
fn total<L: Lanes>(lanes: L, sums: [L::D; VECTORS]) -> f64 {
    let [a, b, c, d, e, f, g, h] = sums;
    let one = lanes.splat_f64(1.0);
    let four = [(a, e), (b, f), (c, g), (d, h)];
    let mut few = [a, b, c, d];
    if 2 * WIDTH / L::N > 4 {
        for i in 0..4 {
            few[i] = lanes.mul_add_f64(four[i].0, one, four[i].1);
        }
    }
    let [a, b, c, d] = lanes.sum4_f64(few);
    (a + b) + (c + d)
}

impl<F: Real> Kernel for Residual<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { first, t, z, direction, targets, n_classes: q, weights, residual, totals } = self;
        let Totals { losses, slopes, bias_gradient } = totals;
        let n_heads = t.len();
        let mut rows = Rows::<F>::new(q, n_heads);
        let n_values = rows.n * q;
        for (block, out) in residual.chunks_mut(n_values).enumerate() {
            let (before, count) = (block * rows.n, out.len() / q);
            widen(&mut rows.o, &z[before * q..][..out.len()]);
            if !direction.is_empty() {
                widen(&mut rows.v, &direction[before * q..][..out.len()]);
            }
            for k in 0..count {
                if !direction.is_empty() {
                    rows.go(k, t[(before + k) % n_heads]);
                }
                rows.lower(lanes, k);
            }
            rows.exp(lanes, count);
            for k in 0..count {
                let (row, head) = ((before + k) / n_heads, (before + k) % n_heads);
                let (weight, of_row) = (weight(weights, row), rows.row(k));
                let (o, p) = (&rows.o[of_row.clone()], &mut rows.p[of_row.clone()]);
                match targets {
                    Targets::Classes(classes) => {
                        // Of a sample that the model is sure of, the loss and p − 1 are what the others have: nothing cancels.
                        let class = classes[first + row] as usize;
                        let of_class = std::mem::take(&mut p[class]).to_f64();
                        let others = sum(lanes, p);
                        let all = of_class + others;
                        losses[head] += weight * if of_class == 1.0 { others.ln_1p() } else { all.ln() - o[class] };
                        scale(p, weight / all);
                        p[class] = raised(-weight * (others / all));
                    }
                    Targets::Distributions(y) => {
                        // In single precision they sum to 1 but for rounding; with the sum as a factor of the logarithm the residual is
                        // the derivative of just this loss, and sums to 0.
                        let (y, all) = (&y[(first + row) * q..][..q], sum(lanes, p));
                        let (mut mass, mut of_targets) = (0.0, 0.0);
                        for (&y, o) in y.iter().zip(o) {
                            mass += f64::from(y);
                            of_targets += f64::from(y) * o;
                        }
                        losses[head] += weight * (mass * all.ln() - of_targets);
                        for (p, &y) in p.iter_mut().zip(y) {
                            *p = raised(weight * (p.to_f64() * (mass / all) - f64::from(y)));
                        }
                    }
                }
                if !direction.is_empty() {
                    slopes[head] += product(lanes, p, &rows.v[of_row]) / F::RAISED;
                }
                if !bias_gradient.is_empty() {
                    rows.add(k, head);
                }
            }
            rows.copy_to(out);
        }
        rows.add_sums_to(bias_gradient);
    }
}

impl<F: Real> Kernel for Curvature<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { z, v, n_classes: q, n_heads, weights, residual, bias_gradient } = self;
        let mut rows = Rows::<F>::new(q, n_heads);
        let n_values = rows.n * q;
        let mut vectors = v.chunks_exact(q).cycle();
        for (block, out) in residual.chunks_mut(n_values).enumerate() {
            let (before, count) = (block * rows.n, out.len() / q);
            widen(&mut rows.o, &z[before * q..][..out.len()]);
            for k in 0..count {
                let of_row = rows.row(k);
                widen(&mut rows.v[of_row], vectors.next().unwrap_or_default());
                rows.lower(lanes, k);
            }
            rows.exp(lanes, count);
            for k in 0..count {
                let of_row = rows.row(k);
                let (p, v) = (&mut rows.p[of_row.clone()], &rows.v[of_row]);
                let all = sum(lanes, p);
                let mean = product(lanes, p, v) / all;
                let factor = weight(weights, (before + k) / n_heads) / all;
                for (p, v) in p.iter_mut().zip(v) {
                    *p = raised(p.to_f64() * factor * (v - mean));
                }
                rows.add(k, (before + k) % n_heads);
            }
            rows.copy_to(out);
        }
        rows.add_sums_to(bias_gradient);
    }
}

impl<F: Real> Kernel for AddToRows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        for to in self.rows.chunks_exact_mut(self.row.len()) {
            to.iter_mut().zip(self.row).for_each(|(to, value)| *to = F::from_f64(to.to_f64() + value));
        }
    }
}

impl<F: Real> Kernel for Advance<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        let Self { z, direction, t, n_classes } = self;
        let heads = z.chunks_exact_mut(n_classes).zip(direction.chunks_exact(n_classes));
        for ((z, direction), t) in heads.zip(t.iter().cycle()) {
            z.iter_mut().zip(direction).for_each(|(z, d)| *z = F::from_f64(z.to_f64() + t * d.to_f64()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::lanes::Instructions;

    /// Loss, slope, residual and its sums over the samples of one head, by the formula; 1 − p of the target from the others.
    fn expected(
        z: &[f64],
        direction: &[f64],
        t: f64,
        classes: &[u32],
        weights: &[f64],
        q: usize,
    ) -> (f64, f64, Vec<f64>) {
        let (mut loss, mut slope, mut residual) = (0.0, 0.0, Vec::new());
        for (row, &class) in classes.iter().enumerate() {
            let o: Vec<f64> = (0..q).map(|j| z[row * q + j] + t * direction[row * q + j]).collect();
            let (class, weight) = (class as usize, weights[row]);
            // Relative to the target, so that nothing cancels where it has nearly all.
            let others =
                |except: usize| -> f64 { (0..q).filter(|&j| j != except).map(|j| (o[j] - o[class]).exp()).sum() };
            let all = 1.0 + others(class);
            loss += weight * others(class).ln_1p();
            for j in 0..q {
                let r = if j == class { -others(class) / all } else { (o[j] - o[class]).exp() / all };
                residual.push(weight * r);
                slope += weight * r * direction[row * q + j];
            }
        }
        (loss, slope, residual)
    }

    fn check<F: Real>(instructions: Instructions, q: usize, bound: f64) {
        let n = 150;
        let classes: Vec<u32> = (0..n as u32).map(|i| i * i % q as u32).collect();
        let weights: Vec<f64> = (0..n).map(|i| (i % 4) as f64 / n as f64).collect();
        // Of every third sample the model is sure, of some so sure that 1 − p is far below the last bit of 1.
        let z = |i: usize| {
            let (row, j) = (i / q, i % q);
            let sure = if row.is_multiple_of(3) { 5.0 + row as f64 / 3.0 } else { 0.0 };
            (i * 7 % 11) as f64 / 8.0 + if j == classes[row] as usize { sure } else { 0.0 }
        };
        let z: Vec<f64> = (0..n * q).map(z).collect();
        let direction: Vec<f64> = (0..n * q).map(|i| (i * 5 % 13) as f64 / 16.0 - 0.375).collect();
        let t = 0.5;
        let narrow = |values: &[f64]| values.iter().map(|&value| F::from_f64(value)).collect::<Vec<F>>();
        let mut residual = vec![F::default(); n * q];
        let (mut losses, mut slopes, mut bias_gradient) = ([0.0], [0.0], vec![0.0; q]);
        instructions.run(Residual {
            first: 0,
            t: &[t],
            z: &narrow(&z),
            direction: &narrow(&direction),
            targets: &Targets::Classes(classes[..].into()),
            n_classes: q,
            weights: &weights,
            residual: &mut residual,
            totals: Totals { losses: &mut losses, slopes: &mut slopes, bias_gradient: &mut bias_gradient },
        });
        let (loss, slope, wanted) = expected(&z, &direction, t, &classes, &weights, q);
        let size = |values: &[f64]| values.iter().map(|value| value.abs()).sum::<f64>();
        assert!((losses[0] / loss - 1.0).abs() < bound, "{q}: {losses:?} {loss}");
        assert!((slopes[0] - slope).abs() < bound * size(&wanted), "{q}: {slopes:?} {slope}");
        for (i, (found, &wanted)) in residual.iter().zip(&wanted).enumerate() {
            let found = found.to_f64() / F::RAISED;
            // Next to nothing counts as 0.
            let least = 2.0 * F::LEAST.to_f64() / F::RAISED;
            assert!((found - wanted).abs() <= bound * wanted.abs() + least, "{q}: [{i}] {found:e} {wanted:e}");
        }
        for (j, found) in bias_gradient.iter().enumerate() {
            let of_output: Vec<f64> = wanted.iter().skip(j).step_by(q).copied().collect();
            assert!((found - of_output.iter().sum::<f64>()).abs() <= bound * size(&of_output), "{q}: {j}");
        }
        // p − 1 in single precision is another number.
        let sure = wanted.iter().filter(|r| r.abs() > 1e-15 && r.abs() < 1e-9);
        assert!(sure.clone().count() > 3 && sure.clone().all(|r| f64::from((1.0 - r.abs()) as f32 - 1.0) == 0.0));
    }

    #[test]
    fn residuals_are_exact_however_sure_a_model_is() {
        for instructions in Instructions::all() {
            // Short rows, several next to each other, and rows that are filled up.
            for q in [2, 3, 10, 15, 16, 17, 40] {
                check::<f64>(instructions, q, 1e-12);
                check::<f32>(instructions, q, 2e-5);
            }
        }
    }

    /// Σ_k p_k·v_k cancels against v alone: bounds are of the sizes.
    #[test]
    fn curvatures_are_those_of_the_formula() {
        for instructions in Instructions::all() {
            for q in [2, 10, 17] {
                let n = 70;
                let z: Vec<f64> = (0..n * q).map(|i| (i * 7 % 23) as f64 / 4.0).collect();
                let v: Vec<f64> = (0..n * q).map(|i| (i * 3 % 17) as f64 / 8.0 - 1.0).collect();
                let weights = [0.25];
                let (mut of_double, mut of_single) = (vec![0.0f64; n * q], vec![0.0f32; n * q]);
                let (mut sums, mut others) = (vec![0.0; q], vec![0.0; q]);
                let (n_classes, n_heads) = (q, 1);
                instructions.run(Curvature {
                    z: &z,
                    v: &v,
                    n_classes,
                    n_heads,
                    weights: &weights,
                    residual: &mut of_double,
                    bias_gradient: &mut sums,
                });
                let single = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<f32>>();
                instructions.run(Curvature {
                    z: &single(&z),
                    v: &single(&v),
                    n_classes,
                    n_heads,
                    weights: &weights,
                    residual: &mut of_single,
                    bias_gradient: &mut others,
                });
                let mut of_formula = vec![0.0; q];
                for row in 0..n {
                    let (z, v) = (&z[row * q..][..q], &v[row * q..][..q]);
                    let all: f64 = z.iter().map(|z| z.exp()).sum();
                    let mean: f64 = z.iter().zip(v).map(|(z, v)| z.exp() / all * v).sum();
                    for j in 0..q {
                        let wanted = 0.25 * z[j].exp() / all * (v[j] - mean);
                        let single = f64::from(of_single[row * q + j]) / <f32 as Real>::RAISED;
                        assert!((of_double[row * q + j] - wanted).abs() < 1e-15);
                        assert!((single - wanted).abs() < 1e-6);
                        of_formula[j] += wanted;
                    }
                }
                let size = of_formula.iter().fold(0.0f64, |max, sum| max.max(sum.abs()));
                for j in 0..q {
                    assert!((sums[j] - of_formula[j]).abs() < 1e-13 && (others[j] - of_formula[j]).abs() < 1e-5);
                }
                assert!(size > 1e-2);
            }
        }
    }
}
