//! W of structured weights, and the gradient over W as that over the factors. Twin of src/structure.rs.

use super::UNIT_ROUNDOFF;
use crate::Structure;
use crate::backend::Shape;

/// The A_p of `quaternion`, from i·i = j·j = k·k = i·j·k = −1: (e_p·e_i has the part A_p[i][j] of e_j).
fn quaternion(p: usize, i: usize, j: usize) -> f64 {
    // e_p·e_i = ±e_j, j = p xor i.
    let sign = match (p, i) {
        (0, _) | (_, 0) => 1.0,
        (p, i) if p == i => -1.0,
        (1, 2) | (2, 3) | (3, 1) => 1.0,
        _ => -1.0,
    };
    if j == p ^ i { sign } else { 0.0 }
}

/// Calls `term` for each product of numbers of θ that a value of W is a sum of: its place in W above b, (d + 1) × (h·q), the factor
/// that is fixed, and the places of one or two numbers of θ.
fn terms(structure: Structure, d: usize, q: usize, h: usize, mut term: impl FnMut(usize, f64, usize, Option<usize>)) {
    let m = h * q;
    let n = n_parameters(structure, d, q);
    for head in 0..h {
        let first = head * n;
        for k in 0..d {
            for j in 0..q {
                let at = k * m + head * q + j;
                match structure {
                    Structure::Dense => term(at, 1.0, first + k * q + j, None),
                    Structure::Phm { m } => {
                        let (dd, qq) = (d.div_ceil(m), q.div_ceil(m));
                        for p in 0..m {
                            let a = (p * m + k / dd) * m + j / qq;
                            let s = m * m * m + (p * dd + k % dd) * qq + j % qq;
                            term(at, 1.0, first + a, Some(first + s));
                        }
                    }
                    Structure::Quaternion => {
                        let (dd, qq) = (d.div_ceil(4), q.div_ceil(4));
                        for p in 0..4 {
                            let s = (p * dd + k % dd) * qq + j % qq;
                            term(at, quaternion(p, k / dd, j / qq), first + s, None);
                        }
                    }
                    Structure::LowRank { rank } => {
                        for r in 0..rank {
                            term(at, 1.0, first + k * rank + r, Some(first + d * rank + r * q + j));
                        }
                    }
                }
            }
        }
        (0..q).for_each(|j| term(d * m + head * q + j, 1.0, first + n - q + j, None));
    }
}

/// Numbers of a head: m³ + m·⌈d/m⌉·⌈q/m⌉, 4·⌈d/4⌉·⌈q/4⌉, r·(d + q) or d·q, and q intercepts.
pub fn n_parameters(structure: Structure, d: usize, q: usize) -> usize {
    let weights = match structure {
        Structure::Dense => d * q,
        Structure::Phm { m } => m * m * m + m * d.div_ceil(m) * q.div_ceil(m),
        Structure::Quaternion => 4 * d.div_ceil(4) * q.div_ceil(4),
        Structure::LowRank { rank } => rank * (d + q),
    };
    weights + q
}

/// W above b, (d + 1) × (h·q), of the θ of h heads one after the other.
pub fn expand(structure: Structure, theta: &[f64], d: usize, q: usize, h: usize) -> Vec<f64> {
    let mut values = vec![0.0; (d + 1) * h * q];
    terms(structure, d, q, h, |at, factor, first, second| {
        values[at] += factor * theta[first] * second.map_or(1.0, |second| theta[second]);
    });
    values
}

/// ∂θ from ∂W and ∂b, by the derivative of each product.
pub fn pull_back(structure: Structure, theta: &[f64], gradient: &[f64], d: usize, q: usize, h: usize) -> Vec<f64> {
    let mut values = vec![0.0; theta.len()];
    terms(structure, d, q, h, |at, factor, first, second| {
        values[first] += gradient[at] * factor * second.map_or(1.0, |second| theta[second]);
        if let Some(second) = second {
            values[second] += gradient[at] * factor * theta[first];
        }
    });
    values
}

/// How far single precision logits made of the factors, or of a W in single precision, may be from x·W(θ) + b: each is a sum over the
/// features of sums of no more than n products of x and one or two numbers of θ, so that no product is rounded more often than
/// d + n + 5 times, whatever the order (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1): n is r of U·V, 2·m of
/// m Kronecker products, which are padded to up to d + m features.
pub fn logits_bound(structure: Structure, x: &[f64], theta: &[f64], d: usize, q: usize) -> Vec<f64> {
    let n = match structure {
        Structure::Dense => 1,
        Structure::Phm { m } => 3 * m,
        Structure::Quaternion => 12,
        Structure::LowRank { rank } => rank,
    };
    let depth = (d + n + 5) as f64;
    let mut most = vec![0.0; (d + 1) * q];
    terms(structure, d, q, 1, |at, factor, first, second| {
        most[at] += (factor * theta[first] * second.map_or(1.0, |second| theta[second])).abs();
    });
    let absolute: Vec<f64> = x.iter().map(|x| x.abs()).collect();
    let shape = Shape { n_features: d, n_classes: q, n_heads: 1 };
    super::logits(&absolute, &most, shape).iter().map(|sum| depth * UNIT_ROUNDOFF * sum).collect()
}
