//! Scalings of logits that make their softmax calibrated: temperature and vector scaling (Guo, Pleiss, Sun and Weinberger 2017,
//! "On Calibration of Modern Neural Networks"). Both are convex and are solved to the minimum, in `f64`, from logits on the host.
//!
//! Sums go over parts of the rows whose sizes depend on n and q alone, so that threads change nothing.

use rayon::prelude::*;

use super::vector::{add, dot};
use crate::data::Targets;
use crate::error::{Error, Result};

/// Logits of a part, at least.
const PART: usize = 1 << 13;
/// Parts at most, since vector scaling holds a few sums for each class and part.
const MOST_PARTS: usize = 256;

/// Samples of which logits and targets are known: what a scaling is found from.
pub(crate) struct Held<'a> {
    /// (n × q).
    logits: &'a [f32],
    n_classes: usize,
    targets: &'a Targets<'a>,
    weights: Option<&'a [f32]>,
    total_weight: f64,
    rows_of_part: usize,
}

/// What a sample should be.
#[derive(Clone, Copy)]
enum Target<'a> {
    Class(usize),
    /// A distribution, and the inverse of its sum, which single precision leaves only about 1.
    Distribution(&'a [f32], f64),
}

impl Target<'_> {
    fn of(self, class: usize) -> f64 {
        match self {
            Self::Class(label) => f64::from(u8::from(label == class)),
            Self::Distribution(y, inverse) => f64::from(y[class]) * inverse,
        }
    }

    /// Σ_j y_j·value_j
    fn mean(self, value: impl Fn(usize) -> f64) -> f64 {
        match self {
            Self::Class(label) => value(label),
            Self::Distribution(y, inverse) => {
                // A value that is not finite does not count where y is 0.
                let terms = y.iter().enumerate().filter(|(_, y)| **y > 0.0);
                terms.map(|(class, &y)| f64::from(y) * value(class)).sum::<f64>() * inverse
            }
        }
    }
}

/// A sample.
struct Row<'a> {
    logits: &'a [f32],
    target: Target<'a>,
    /// Its share of all weights.
    share: f64,
}

impl<'a> Held<'a> {
    /// Logits (n × q) that are finite, a target for each row, and a weight if they have any.
    ///
    /// # Errors
    /// [`Error::Calibration`] when fewer than two samples have a weight above 0.
    pub fn new(
        logits: &'a [f32],
        n_classes: usize,
        targets: &'a Targets<'a>,
        weights: Option<&'a [f32]>,
    ) -> Result<Self> {
        let n = logits.len() / n_classes;
        let n_counted = weights.map_or(n, |weights| weights.iter().filter(|&&weight| weight > 0.0).count());
        if n_counted < 2 {
            let counted = if weights.is_some() { " of a weight above 0" } else { "" };
            return Err(problem(format!(
                "it needs at least two samples{counted}, better hundreds; there is {n_counted}"
            )));
        }
        let total_weight = weights.map_or(n as f64, |weights| weights.iter().map(|&w| f64::from(w)).sum());
        let rows_of_part = (PART / n_classes).max(n.div_ceil(MOST_PARTS)).max(1);
        Ok(Self { logits, n_classes, targets, weights, total_weight, rows_of_part })
    }

    /// The samples of which the first is `first`, with the values of `logits`.
    fn rows<'b>(&'b self, first: usize, logits: &'b [f32]) -> impl Iterator<Item = Row<'b>> {
        (first..).zip(logits.chunks_exact(self.n_classes)).map(|(row, logits)| {
            let weight = self.weights.map_or(1.0, |weights| f64::from(weights[row]));
            let target = match self.targets {
                Targets::Classes(classes) => Target::Class(classes[row] as usize),
                Targets::Distributions(values) => {
                    let y = &values[row * self.n_classes..][..self.n_classes];
                    Target::Distribution(y, 1.0 / y.iter().map(|&y| f64::from(y)).sum::<f64>())
                }
            };
            Row { logits, target, share: weight / self.total_weight }
        })
    }

    /// The sum of what `of_part` makes of each part, `m` values.
    fn sum(&self, m: usize, of_part: impl Fn(usize, &[f32], &mut [f64]) + Sync) -> Vec<f64> {
        let parts = self.logits.par_chunks(self.rows_of_part * self.n_classes).enumerate().map(|(index, logits)| {
            let mut sums = vec![0.0; m];
            of_part(index * self.rows_of_part, logits, &mut sums);
            sums
        });
        add_up(m, &parts.collect::<Vec<_>>())
    }

    /// β = 1/T of the temperature T that minimises L(β) = Σ_i s_i·(log Σ_k exp(β·o_ik) − Σ_j y_ij·β·o_ij), by Newton's method within
    /// brackets.
    ///
    /// # Errors
    /// [`Error::Calibration`] when there is no minimum above 0.
    pub fn inverse_temperature(&self) -> Result<f64> {
        // L'(β) goes from Σ s·(mean of o − y·o) at 0 to Σ s·(max o − y·o) at infinity; both are computed without a logarithm.
        let limits = self.sum(2, |first, logits, sums| {
            for row in self.rows(first, logits) {
                let max = max(row.logits);
                let mean = row.logits.iter().map(|&o| f64::from(o) - max).sum::<f64>() / row.logits.len() as f64;
                let of_target = row.target.mean(|class| f64::from(row.logits[class]) - max);
                sums[0] += row.share * (mean - of_target);
                sums[1] -= row.share * of_target;
            }
        });
        if limits[1] == 0.0 && limits[0] == 0.0 {
            return Err(problem(
                "the model gives all classes of each sample the same logit, which no scaling changes".into(),
            ));
        }
        if limits[1] == 0.0 {
            return Err(problem(
                "the model is right about every sample, so the loss falls without end as the temperature goes to 0; take more \
                 samples, which the model was not trained on"
                    .into(),
            ));
        }
        if limits[0] >= 0.0 {
            return Err(problem(
                "the labels have no higher logits than the other classes have on average, so no temperature is better than \
                 equal probabilities; do the labels belong to these samples and this model?"
                    .into(),
            ));
        }

        let (mut low, mut high) = (0.0, f64::INFINITY);
        let mut beta = 1.0;
        for iteration in 0..MOST_ITERATIONS {
            let [slope, curvature] = self.along_temperature(beta);
            match slope {
                0.0 => break,
                _ if slope < 0.0 => low = beta,
                _ => high = beta,
            }
            // Where nothing is left of the curvature, the slope says the direction.
            let newton = if curvature > 0.0 { beta - slope / curvature } else { -slope * f64::INFINITY };
            let mut next = newton.clamp(beta / FURTHEST, beta * FURTHEST);
            let is_end = |next: f64| (next - beta).abs() <= 1e-14 * beta;
            let is_bracketed = low > 0.0 && high < f64::INFINITY;
            if is_bracketed && !is_end(next) && (iteration > MOST_NEWTON || next <= low || next >= high) {
                next = low.sqrt() * high.sqrt();
            }
            let is_end = is_end(next);
            beta = next;
            if is_end {
                break;
            }
        }
        Ok(beta)
    }

    /// L'(β) and L''(β).
    fn along_temperature(&self, beta: f64) -> [f64; 2] {
        let sums = self.sum(2, |first, logits, sums| {
            for row in self.rows(first, logits) {
                let max = max(row.logits);
                // Of z = o − max, in which no large numbers cancel.
                let (mut sum, mut mean, mut square) = (0.0, 0.0, 0.0);
                for &o in row.logits {
                    let z = f64::from(o) - max;
                    let e = (beta * z).exp();
                    sum += e;
                    mean += e * z;
                    square += e * z * z;
                }
                mean /= sum;
                sums[0] += row.share * (mean - row.target.mean(|class| f64::from(row.logits[class]) - max));
                sums[1] += row.share * (square / sum - mean * mean).max(0.0);
            }
        });
        [sums[0], sums[1]]
    }

    /// a and c of vector scaling, p = softmax(a ⊙ o + c), by Newton's method with conjugate gradients and the exact Hessian.
    ///
    /// With a = α·β, β the inverse temperature, it minimises Σ_i s_i·ℓ_i + (‖α − 1‖² + ‖c‖²)/(2m), m = (Σw)²/Σw² the number of samples,
    /// with weights their effective number (Kish 1965, "Survey Sampling"): the most probable α and c where these are normal around 1
    /// and 0 beforehand. Without that there is no minimum when a class has no sample, or its samples are told apart without error. And
    /// the loss is never above that of temperature scaling, at which the second term is 0.
    ///
    /// # Errors
    /// As [`Held::inverse_temperature`]; [`Error::OutOfMemory`].
    pub fn vector(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let beta = self.inverse_temperature()?;
        let mut point = Point::new(self, beta)?;
        let n_parameters = 2 * self.n_classes;
        let mut x: Vec<f64> = (0..n_parameters).map(|index| f64::from(u8::from(index < self.n_classes))).collect();
        let mut value = point.look(&x);
        for _ in 0..MOST_ITERATIONS {
            let direction = point.newton_direction();
            // Twice what the step promises to gain.
            let decrement = -dot(&point.gradient, &direction);
            let noise = 4.0 * f64::EPSILON * value;
            let accepted = (0..MOST_HALVINGS).find_map(|halvings| {
                let length = 0.5f64.powi(halvings);
                let moved: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| x + length * d).collect();
                let found = point.look(&moved);
                (found <= value - ARMIJO * length * decrement + noise).then_some((moved, found))
            });
            // Otherwise rounding leaves nothing to gain.
            let Some(accepted) = accepted else { break };
            (x, value) = accepted;
            if decrement <= CONVERGED * value {
                break;
            }
        }
        let offsets = x.split_off(self.n_classes);
        x.iter_mut().for_each(|alpha| *alpha *= beta);
        Ok((x, offsets))
    }
}

/// Iterations at most; in practice there are about ten.
const MOST_ITERATIONS: usize = 200;
/// Iterations of which the temperature's next ones halve its bracket.
const MOST_NEWTON: usize = 50;
/// By what factor the temperature changes in an iteration at most.
const FURTHEST: f64 = 16.0;
/// Of vector scaling: the line search.
const MOST_HALVINGS: i32 = 40;
const ARMIJO: f64 = 1e-4;
/// It ends with the step that promises to gain about this share of the objective; what is then left is far less.
const CONVERGED: f64 = 1e-12;
/// How far the residual of Newton's equations falls, in the norm of the preconditioner, and in how many products at most.
const RESIDUAL: f64 = 0.01;
const MOST_PRODUCTS: usize = 200;

/// Where vector scaling stands, its parameters being (α, c).
struct Point<'a> {
    held: &'a Held<'a>,
    beta: f64,
    /// 1/m.
    strength: f64,
    /// P, (n × q); for the Hessian single precision is enough.
    probabilities: Vec<f32>,
    /// (2q).
    gradient: Vec<f64>,
    /// Second derivatives by (α_k, α_k), (α_k, c_k) and (c_k, c_k), (3q).
    blocks: Vec<f64>,
}

impl<'a> Point<'a> {
    fn new(held: &'a Held<'a>, beta: f64) -> Result<Self> {
        let n_values = held.logits.len();
        let mut probabilities = Vec::new();
        probabilities
            .try_reserve_exact(n_values)
            .map_err(|_| Error::out_of_memory("the probabilities", n_values, size_of::<f32>()))?;
        probabilities.resize(n_values, 0.0);
        let squares = match held.weights {
            Some(weights) => weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>(),
            None => held.total_weight,
        };
        let strength = squares / held.total_weight.powi(2);
        Ok(Self { held, beta, strength, probabilities, gradient: Vec::new(), blocks: Vec::new() })
    }

    /// Value, gradient and blocks at `x`.
    fn look(&mut self, x: &[f64]) -> f64 {
        let (held, beta, q) = (self.held, self.beta, self.held.n_classes);
        let (alpha, c) = x.split_at(q);
        let size = held.rows_of_part * q;
        // The value, the gradient, the blocks.
        let m = 1 + 5 * q;
        let parts = held.logits.par_chunks(size).zip(self.probabilities.par_chunks_mut(size)).enumerate();
        let parts = parts.map(|(index, (logits, p))| {
            let mut sums = vec![0.0; m];
            let mut u = vec![0.0; q];
            for (row, p) in held.rows(index * held.rows_of_part, logits).zip(p.chunks_exact_mut(q)) {
                for (class, u) in u.iter_mut().enumerate() {
                    *u = alpha[class] * beta * f64::from(row.logits[class]) + c[class];
                }
                let max = u.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = u.iter().map(|u| (u - max).exp()).sum();
                sums[0] += row.share * (sum.ln() - row.target.mean(|class| u[class] - max));
                for class in 0..q {
                    let o = beta * f64::from(row.logits[class]);
                    let of_class = (u[class] - max).exp() / sum;
                    p[class] = of_class as f32;
                    let residual = row.share * (of_class - row.target.of(class));
                    let curvature = row.share * of_class * (1.0 - of_class);
                    sums[1 + class] += residual * o;
                    sums[1 + q + class] += residual;
                    sums[1 + 2 * q + class] += curvature * o * o;
                    sums[1 + 3 * q + class] += curvature * o;
                    sums[1 + 4 * q + class] += curvature;
                }
            }
            sums
        });
        let sums = add_up(m, &parts.collect::<Vec<_>>());
        let mut value = sums[0];
        self.gradient = sums[1..=2 * q].to_vec();
        self.blocks = sums[1 + 2 * q..].to_vec();
        for (index, (g, x)) in self.gradient.iter_mut().zip(x).enumerate() {
            let off = if index < q { x - 1.0 } else { *x };
            *g += self.strength * off;
            value += 0.5 * self.strength * off * off;
        }
        value
    }

    /// The product of the Hessian with `v`.
    fn hessian_vector(&self, v: &[f64]) -> Vec<f64> {
        let (held, beta, q) = (self.held, self.beta, self.held.n_classes);
        let (by_alpha, by_c) = v.split_at(q);
        let mut product = held.sum(2 * q, |first, logits, sums| {
            let (of_alpha, of_c) = sums.split_at_mut(q);
            let p = self.probabilities[first * q..].chunks_exact(q);
            for (row, p) in held.rows(first, logits).zip(p) {
                let change = |class: usize| by_alpha[class] * beta * f64::from(row.logits[class]) + by_c[class];
                let mean: f64 = p.iter().enumerate().map(|(class, &p)| f64::from(p) * change(class)).sum();
                for class in 0..q {
                    let of_class = row.share * f64::from(p[class]) * (change(class) - mean);
                    of_alpha[class] += of_class * beta * f64::from(row.logits[class]);
                    of_c[class] += of_class;
                }
            }
        });
        product.iter_mut().zip(v).for_each(|(product, v)| *product += self.strength * v);
        product
    }

    /// The Hessian's blocks of a class each, inverted, times `v`.
    fn precondition(&self, v: &[f64]) -> Vec<f64> {
        let q = self.held.n_classes;
        let mut product = vec![0.0; 2 * q];
        for class in 0..q {
            let (a, b, c) = (self.blocks[class], self.blocks[q + class], self.blocks[2 * q + class]);
            let (a, c) = (a + self.strength, c + self.strength);
            // Above 0 but for rounding; then without what is beside the diagonal.
            let determinant = a * c - b * b;
            let (b, determinant) = if determinant > 1e-12 * a * c { (b, determinant) } else { (0.0, a * c) };
            let (of_alpha, of_c) = (v[class], v[q + class]);
            product[class] = (c * of_alpha - b * of_c) / determinant;
            product[q + class] = (a * of_c - b * of_alpha) / determinant;
        }
        product
    }

    /// −H⁻¹·gradient by conjugate gradients, about; a direction in which the objective falls in any case.
    fn newton_direction(&self) -> Vec<f64> {
        let mut x = vec![0.0; self.gradient.len()];
        let mut residual: Vec<f64> = self.gradient.iter().map(|g| -g).collect();
        let mut preconditioned = self.precondition(&residual);
        let mut direction = preconditioned.clone();
        let mut norm = dot(&residual, &preconditioned);
        let end = RESIDUAL * RESIDUAL * norm;
        for _ in 0..MOST_PRODUCTS {
            if norm <= end {
                break;
            }
            let product = self.hessian_vector(&direction);
            let curvature = dot(&direction, &product);
            if curvature <= 0.0 {
                break;
            }
            add(&mut x, norm / curvature, &direction);
            add(&mut residual, -norm / curvature, &product);
            preconditioned = self.precondition(&residual);
            let next = dot(&residual, &preconditioned);
            direction.iter_mut().zip(&preconditioned).for_each(|(d, p)| *d = p + next / norm * *d);
            norm = next;
        }
        x
    }
}

fn problem(problem: String) -> Error {
    Error::Calibration { problem }
}

fn max(logits: &[f32]) -> f64 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max).into()
}

fn add_up(m: usize, parts: &[Vec<f64>]) -> Vec<f64> {
    let mut sums = vec![0.0; m];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
    sums
}
