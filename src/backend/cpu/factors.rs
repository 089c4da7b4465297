//! Logits of one sample from the factors of structured weights: no thread, no allocation, no W.

use super::lanes::{Instructions, Kernel, Lanes};
use crate::structure::{Factors, QUATERNION, Structure};

/// Logits of one sample. When a length does not agree with the others, all are NaN.
///
/// W = U·V: o = (x·U)·V + b, r·(d + q) multiplications. W = Σ_p A_p ⊗ S_p, x cut into m blocks x_i and o into m blocks o_j:
/// o_j = Σ_p Σ_k (Σ_i A_p[i, j]·x_i[k])·S_p[k, :] + b_j, d·q multiplications and d·m² more, as many as W takes, for d·q/m numbers read.
pub(crate) fn logits_of_factors(factors: &Factors, sample: &[f32], logits: &mut [f32]) {
    let of = factors.parametrisation();
    if sample.len() != of.n_features() || logits.len() != of.n_classes() {
        debug_assert!(false, "{} features and {} classes are not those of the factors", sample.len(), logits.len());
        logits.fill(f32::NAN);
        return;
    }
    Instructions::best().run(FactorsKernel { factors, sample, logits });
}

struct FactorsKernel<'a> {
    factors: &'a Factors,
    sample: &'a [f32],
    logits: &'a mut [f32],
}

/// Values of x·U at a time.
const RANKS: usize = 64;

impl Kernel for FactorsKernel<'_> {
    type Output = ();

    // The compiler makes vectors of the plain loops, for each instruction set.
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Self { factors, sample, logits } = self;
        let of = factors.parametrisation();
        let [first, second, bias] = factors.parts();
        logits.copy_from_slice(bias);
        match (of.structure(), of.blocks()) {
            (Structure::LowRank { rank }, _) => {
                for from in (0..rank).step_by(RANKS) {
                    let n = RANKS.min(rank - from);
                    let mut product = [0.0; RANKS];
                    for (&x, u) in sample.iter().zip(first.chunks_exact(rank)) {
                        add(&mut product[..n], x, &u[from..from + n]);
                    }
                    for (&x, v) in product[..n].iter().zip(second[from * logits.len()..].chunks_exact(logits.len())) {
                        add(logits, x, v);
                    }
                }
            }
            (structure, Some([m, dd, qq])) => {
                let fixed = QUATERNION.map(|a| a as f32);
                let a = if structure == Structure::Quaternion { &fixed } else { first };
                for (at, s) in second.chunks_exact(qq).enumerate() {
                    let (p, k) = (at / dd, at % dd);
                    for (j, logits) in logits.chunks_mut(qq).enumerate() {
                        let x = sample.iter().skip(k).step_by(dd).enumerate();
                        let x = x.map(|(i, x)| a[(p * m + i) * m + j] * x).sum();
                        add(logits, x, s);
                    }
                }
            }
            (_, None) => {
                sample.iter().zip(second.chunks_exact(logits.len())).for_each(|(&x, w)| add(logits, x, w));
            }
        }
    }
}

/// to + x·from
#[inline(always)]
fn add(to: &mut [f32], x: f32, from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += x * from);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Shape;
    use crate::batch::Shuffle;
    use crate::reference::{compare, logits, structure as reference};
    use crate::structure::Parametrisation;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut random = Shuffle::new(seed, 3);
        (0..n).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).collect()
    }

    fn doubles(values: &[f32]) -> Vec<f64> {
        values.iter().map(|&value| value.into()).collect()
    }

    /// Against x·W of the formula, in double precision.
    #[test]
    fn logits_of_factors_are_those_of_the_formula() {
        for (structure, d, q) in [
            ("phm:2", 8, 4),
            ("phm:4", 37, 21),
            ("phm:3", 100, 7),
            ("phm:8", 65, 3),
            ("quaternion", 33, 9),
            ("lowrank:1", 40, 3),
            ("lowrank:65", 200, 131),
            ("dense", 9, 5),
        ] {
            let structure: Structure = structure.parse().unwrap();
            let parametrisation = Parametrisation::new(structure, d, q).unwrap();
            let theta = random(parametrisation.n_parameters(), 1);
            let factors = Factors::new(parametrisation, theta.clone()).unwrap();
            let sample = random(d, 2);
            let mut found = vec![0.0; q];
            logits_of_factors(&factors, &sample, &mut found);

            let (x, shape) = (doubles(&sample), Shape { n_features: d, n_classes: q, n_heads: 1 });
            let of = |theta: &[f64]| logits(&x, &reference::expand(structure, theta, d, q, 1), shape);
            let expected = of(&doubles(&theta));
            let bound = reference::logits_bound(structure, &x, &doubles(&theta), d, q);
            compare("logits", &found, &expected, &bound).unwrap();
            // Numbers that are a little off are noticed.
            let other: Vec<f64> = theta.iter().map(|&value| 1.001 * f64::from(value)).collect();
            assert!(compare("logits", &found, &of(&other), &bound).is_err(), "{structure} {d} × {q}");
        }
    }
}
