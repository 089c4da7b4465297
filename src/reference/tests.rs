//! The formulas against what they are derivatives of. Everything else is tested against the formulas.

use super::{gradient, logits, softmax, update};
use crate::backend::{Head, Shape};
use crate::batch::Shuffle;

const SHAPE: Shape = Shape { n_features: 4, n_classes: 3, n_heads: 2 };
const N: usize = 5;

struct Case {
    x: Vec<f64>,
    y: Vec<f64>,
    w: Vec<f64>,
}

impl Case {
    fn new() -> Self {
        let mut random = Shuffle::new(1, 2);
        let mut values = |n: usize| -> Vec<f64> { (0..n).map(|_| random.below(2001) as f64 / 1000.0 - 1.0).collect() };
        let (x, w, mut y) = (values(N * SHAPE.n_features), values(SHAPE.n_parameters()), values(N * SHAPE.n_classes));
        for row in y.chunks_exact_mut(SHAPE.n_classes) {
            let sum: f64 = row.iter().map(|y| y.abs()).sum();
            row.iter_mut().for_each(|y| *y = y.abs() / sum);
        }
        Self { x, y, w }
    }

    /// Mean loss + (l2/2)·‖W‖² of the heads together, written down from the definition: −Σ_j y_j·log p_j.
    fn objective(&self, w: &[f64], l2: [f64; 2]) -> f64 {
        let (d, q, m) = (SHAPE.n_features, SHAPE.n_classes, SHAPE.n_outputs());
        let mut objective = 0.0;
        for head in 0..SHAPE.n_heads {
            for (x, y) in self.x.chunks_exact(d).zip(self.y.chunks_exact(q)) {
                let o =
                    |j: usize| w[d * m + head * q + j] + (0..d).map(|k| x[k] * w[k * m + head * q + j]).sum::<f64>();
                let sum: f64 = (0..q).map(|j| o(j).exp()).sum();
                objective -= (0..q).map(|j| y[j] * (o(j).exp() / sum).ln()).sum::<f64>() / N as f64;
            }
            for row in w[..d * m].chunks_exact(m) {
                objective += l2[head] / 2.0 * row[head * q..(head + 1) * q].iter().map(|w| w * w).sum::<f64>();
            }
        }
        objective
    }

    /// (f(w + h) − f(w − h)) / 2h for each parameter; the rest is of the order of h² = 1e-10.
    fn differences(&self, l2: [f64; 2]) -> Vec<f64> {
        const H: f64 = 1e-5;
        let at = |index: usize, step: f64| {
            let mut w = self.w.clone();
            w[index] += step;
            self.objective(&w, l2)
        };
        (0..self.w.len()).map(|index| (at(index, H) - at(index, -H)) / (2.0 * H)).collect()
    }
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn the_gradient_is_that_of_the_loss() {
    let case = Case::new();
    let o = logits(&case.x, &case.w, SHAPE);
    let residual = softmax(&o, &case.y, 1.0 / N as f64, None, SHAPE).residual;
    let found = gradient(&case.x, &residual, SHAPE);
    assert!(largest_difference(&found, &case.differences([0.0; 2])) < 1e-8);
    // With another weight or a penalty it is not.
    let other = gradient(&case.x, &softmax(&o, &case.y, 1.01 / N as f64, None, SHAPE).residual, SHAPE);
    assert!(largest_difference(&other, &case.differences([0.0; 2])) > 1e-4);
    assert!(largest_difference(&found, &case.differences([0.0, 0.01])) > 1e-4);
}

#[test]
fn the_losses_are_those_of_the_definition() {
    let case = Case::new();
    let losses = softmax(&logits(&case.x, &case.w, SHAPE), &case.y, 1.0, None, SHAPE).losses;
    let mean = losses.iter().sum::<f64>() / N as f64;
    assert!((mean - case.objective(&case.w, [0.0; 2])).abs() < 1e-12);
}

/// One step without momentum goes against the gradient of loss and penalty, which leaves the intercept out.
#[test]
fn a_step_goes_down_the_objective() {
    let case = Case::new();
    let l2 = [0.25, 0.5];
    let heads = l2.map(|l2| Head { learning_rate: 1.0, momentum: 0.0, nesterov: false, l2: l2 as f32 });
    let residual = softmax(&logits(&case.x, &case.w, SHAPE), &case.y, 1.0 / N as f64, None, SHAPE).residual;
    let (mut w, mut v) = (case.w.clone(), vec![0.0; case.w.len()]);
    update(&mut w, &mut v, &gradient(&case.x, &residual, SHAPE), &heads, 1.0, SHAPE);
    let step: Vec<f64> = case.w.iter().zip(&w).map(|(old, new)| old - new).collect();
    assert!(largest_difference(&step, &case.differences(l2)) < 1e-8);
    assert!(largest_difference(&step, &case.differences([0.25, 0.25])) > 1e-4);
}

/// v₁ = g₁, v₂ = m·v₁ + g₂: the second step of plain and of Nesterov's momentum, by hand.
#[test]
fn momentum_adds_up_gradients() {
    let shape = Shape { n_features: 1, n_classes: 1, n_heads: 1 };
    for (nesterov, expected) in [(false, [-1.0, -3.5]), (true, [-1.5, -4.75])] {
        let heads = [Head { learning_rate: 1.0, momentum: 0.5, nesterov, l2: 0.0 }];
        let (mut w, mut v) = (vec![0.0; 2], vec![0.0; 2]);
        for (g, expected) in [1.0, 2.0].into_iter().zip(expected) {
            update(&mut w, &mut v, &[g, g], &heads, 1.0, shape);
            assert_eq!(w, [expected; 2]);
        }
    }
}
