//! The formulas against what they are derivatives of. Everything else is tested against the formulas.

use super::{Loss, State, gradient, logits, softmax, update};
use crate::backend::{Head, Rule, Shape};
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

/// Value, gradient, slope and curvature along a line, each as the difference of another.
#[test]
fn the_loss_along_a_line_is_that_of_the_objective() {
    const H: f64 = 1e-5;
    let case = Case::new();
    let weights = [1.0 / N as f64; N];
    let direction: Vec<f64> = case.w.iter().rev().map(|w| 0.7 * w + 0.1).collect();
    let mut loss = Loss::new(&case.x, &case.y, &weights, SHAPE);
    loss.start(&case.w);
    let (here, _) = loss.at(&[0.0; 2]);
    assert_eq!(here.slopes, [0.0; 2]);
    assert!((here.losses.iter().sum::<f64>() - case.objective(&case.w, [0.0; 2])).abs() < 1e-12);
    assert!(largest_difference(&here.gradient, &case.differences([0.0; 2])) < 1e-8);

    loss.look(&direction);
    // Each head goes a way of its own.
    let t = [0.5, -0.25];
    let moved = |t: [f64; 2]| -> Vec<f64> {
        let head = |i: usize| i % SHAPE.n_outputs() / SHAPE.n_classes;
        (0..case.w.len()).map(|i| case.w[i] + t[head(i)] * direction[i]).collect()
    };
    let (there, _) = loss.at(&t);
    assert!((there.losses.iter().sum::<f64>() - case.objective(&moved(t), [0.0; 2])).abs() < 1e-12);
    for head in 0..2 {
        let at = |step: f64| {
            let mut t = t;
            t[head] += step;
            case.objective(&moved(t), [0.0; 2])
        };
        assert!((there.slopes[head] - (at(H) - at(-H)) / (2.0 * H)).abs() < 1e-8);
    }
    let mut other = Loss::new(&case.x, &case.y, &weights, SHAPE);
    other.start(&moved(t));
    assert!(largest_difference(&there.gradient, &other.at(&[0.0; 2]).0.gradient) < 1e-12);
    loss.advance(&t);
    assert!(largest_difference(&there.gradient, &loss.at(&[0.0; 2]).0.gradient) < 1e-12);

    let vector: Vec<f64> = case.w.iter().map(|w| 1.0 - w).collect();
    let found = loss.hessian_vector(&vector).0.gradient;
    loss.look(&vector);
    let [plus, minus] = [H, -H].map(|h| loss.at(&[h; 2]).0.gradient);
    let differences: Vec<f64> = plus.iter().zip(&minus).map(|(plus, minus)| (plus - minus) / (2.0 * H)).collect();
    assert!(largest_difference(&found, &differences) < 1e-8);
    assert!(found.iter().any(|value| value.abs() > 1e-2));
}

/// A weight counts as the same sample so often.
#[test]
fn weights_count_samples() {
    let case = Case::new();
    let (d, q) = (SHAPE.n_features, SHAPE.n_classes);
    let weights = [0.25, 0.0, 0.5, 0.25, 0.0];
    let times = [0, 2, 2, 3];
    let of_rows = |values: &[f64], width: usize| -> Vec<f64> {
        times.iter().flat_map(|&row| &values[row * width..][..width]).copied().collect()
    };
    let (x, y) = (of_rows(&case.x, d), of_rows(&case.y, q));
    let mut weighted = Loss::new(&case.x, &case.y, &weights, SHAPE);
    let mut repeated = Loss::new(&x, &y, &[0.25; 4], SHAPE);
    weighted.start(&case.w);
    repeated.start(&case.w);
    let (weighted, repeated) = (weighted.at(&[0.0; 2]).0, repeated.at(&[0.0; 2]).0);
    assert!(largest_difference(&weighted.losses, &repeated.losses) < 1e-12);
    assert!(largest_difference(&weighted.gradient, &repeated.gradient) < 1e-12);
}

/// One step without momentum goes against the gradient of loss and penalty, which leaves the intercept out.
#[test]
fn a_step_goes_down_the_objective() {
    let case = Case::new();
    let l2 = [0.25, 0.5];
    let rule = Rule::Momentum { momentum: 0.0, nesterov: false };
    let heads = l2.map(|l2| Head { learning_rate: 1.0, l2: l2 as f32, intercept: true, rule });
    let residual = softmax(&logits(&case.x, &case.w, SHAPE), &case.y, 1.0 / N as f64, None, SHAPE).residual;
    let mut state = State::new(case.w.clone());
    update(&mut state, &gradient(&case.x, &residual, SHAPE), &heads, 1.0, 1, SHAPE);
    let step: Vec<f64> = case.w.iter().zip(&state.parameters).map(|(old, new)| old - new).collect();
    assert!(largest_difference(&step, &case.differences(l2)) < 1e-8);
    assert!(largest_difference(&step, &case.differences([0.25, 0.25])) > 1e-4);
}

/// v₁ = g₁, v₂ = m·v₁ + g₂: the second step of plain and of Nesterov's momentum, by hand.
#[test]
fn momentum_adds_up_gradients() {
    let shape = Shape { n_features: 1, n_classes: 1, n_heads: 1 };
    for (nesterov, expected) in [(false, [-1.0, -3.5]), (true, [-1.5, -4.75])] {
        for intercept in [true, false] {
            let rule = Rule::Momentum { momentum: 0.5, nesterov };
            let heads = [Head { learning_rate: 1.0, l2: 0.0, intercept, rule }];
            let mut state = State::new(vec![0.0; 2]);
            for (t, (g, expected)) in (1..).zip([1.0, 2.0].into_iter().zip(expected)) {
                update(&mut state, &[g, g], &heads, 1.0, t, shape);
                assert_eq!(state.parameters, [expected, if intercept { expected } else { 0.0 }]);
            }
        }
    }
}

/// Two steps of AdamW, by hand, with β₁ = ½ and β₂ = ¾: m = 1/2·1, s = 1/4·1, both unbiased 1; then m = 1/4 + 1/2·(−3) = −5/4,
/// unbiased −5/3, s = 3/16 + 9/4 = 39/16, unbiased 39/7. Only W decays.
#[test]
fn adamw_divides_by_the_size_of_gradients() {
    let shape = Shape { n_features: 1, n_classes: 1, n_heads: 1 };
    let rule = Rule::AdamW { beta_1: 0.5, beta_2: 0.75, epsilon: 0.25, weight_decay: 0.125 };
    let heads = [Head { learning_rate: 0.5, l2: 0.0, intercept: true, rule }];
    let mut state = State::new(vec![2.0; 2]);
    update(&mut state, &[1.0; 2], &heads, 0.5, 1, shape);
    let (w, b) = (2.0 - 0.25 * (0.8 + 0.25), 2.0 - 0.25 * 0.8);
    assert!(largest_difference(&state.parameters, &[w, b]) < 1e-15, "{state:?}");
    update(&mut state, &[-3.0; 2], &heads, 0.5, 2, shape);
    let direction = (-5.0 / 3.0) / ((39f64 / 7.0).sqrt() + 0.25);
    let expected = [w - 0.25 * (direction + 0.125 * w), b - 0.25 * direction];
    assert!(largest_difference(&state.parameters, &expected) < 1e-15, "{state:?}");
}
