//! Steps over the factors of structured weights, on each backend, against the formulas.

use super::backends;
use crate::backend::{Backend, Head, Parameters, Rule, Shape, State};
use crate::batch::{Plan, Shuffle};
use crate::data::{Features, Targets};
use crate::reference::{self, compare, structure as formula};
use crate::structure::{Factors, Parametrisation, Structure};

const N: usize = 23;
const TRIALS: usize = 8;

/// The steps of the formulas in double precision: W from θ, the gradient of the batch, pulled back, the rule on θ. `round` may change each
/// result, of sums of so many terms.
fn reference_steps(
    structure: Structure,
    (x, y): (&[f64], &[f64]),
    theta: Vec<f64>,
    shape: Shape,
    head: Head,
    t: u64,
    round: &mut dyn FnMut(&mut [f64], usize),
) -> Vec<f64> {
    let (d, q) = (shape.n_features, shape.n_classes);
    let n = theta.len();
    let mut state = reference::State::new(theta);
    for step in 1..=t {
        let mut values = formula::expand(structure, &state.parameters, d, q, 1);
        round(&mut values, d.min(q));
        let mut logits = reference::logits(x, &values, shape);
        round(&mut logits, d + 1);
        let mut residual = reference::softmax(&logits, y, 1.0 / N as f64, None, shape).residual;
        round(&mut residual, q);
        let mut gradient = reference::gradient(x, &residual, shape);
        gradient.iter_mut().zip(&values).take(d * q).for_each(|(g, w)| *g += f64::from(head.l2) * w);
        round(&mut gradient, N + 1);
        let mut gradient = formula::pull_back(structure, &state.parameters, &gradient, d, q, 1);
        round(&mut gradient, d.max(q));
        // As if each number of θ were a feature of one class, and b the intercept of q.
        let of_theta = Shape { n_features: (n - q) / q + 1, n_classes: q, n_heads: 1 };
        let pad = of_theta.n_parameters() - n;
        let padded = |values: &[f64]| [&values[..n - q], &vec![0.0; pad], &values[n - q..]].concat();
        let mut padded_state = reference::State {
            parameters: padded(&state.parameters),
            first: padded(&state.first),
            second: padded(&state.second),
        };
        let plain = Head { l2: 0.0, ..head };
        reference::update(&mut padded_state, &padded(&gradient), &[plain], 1.0, step, of_theta);
        let back = |values: Vec<f64>| [&values[..n - q], &values[n - q + pad..]].concat();
        let reference::State { parameters, first, second } = padded_state;
        state = reference::State { parameters: back(parameters), first: back(first), second: back(second) };
        for values in [&mut state.parameters, &mut state.first] {
            round(values, 4);
        }
    }
    state.parameters
}

#[test]
fn steps_over_factors_are_those_of_the_formulas() {
    let mut n_compared = 0;
    for (name, backend) in backends() {
        check_steps(&name, &*backend, &mut n_compared);
    }
    // The kernels stay within their buffers.
    #[cfg(feature = "gpu")]
    for gpu in
        crate::backend::gpu::Gpu::open_all(crate::backend::gpu::Options { checked_shaders: true, ..Default::default() })
    {
        check_steps("with run-time checks", &gpu.unwrap(), &mut n_compared);
    }
    assert!(n_compared >= 16, "{n_compared}");
}

/// A rule that differs by a hundredth.
fn other_than(rule: Rule) -> Rule {
    match rule {
        Rule::Momentum { momentum, nesterov } => Rule::Momentum { momentum: 1.01 * momentum, nesterov },
        Rule::AdamW { beta_1, beta_2, epsilon, weight_decay } => {
            Rule::AdamW { beta_1, beta_2, epsilon, weight_decay: 1.01 * weight_decay }
        }
    }
}

fn check_steps(name: &str, backend: &dyn Backend, n_compared: &mut usize) {
    let momentum = Rule::Momentum { momentum: 0.5, nesterov: true };
    let adamw = Rule::AdamW { beta_1: 0.5, beta_2: 0.9, epsilon: 1e-3, weight_decay: 0.1 };
    for rule in [momentum, adamw] {
        for (structure, d, q) in [("phm:2", 10, 5), ("phm:3", 37, 7), ("quaternion", 33, 70), ("lowrank:3", 40, 5)] {
            for intercept in [true, false] {
                let structure: Structure = structure.parse().unwrap();
                let of = Parametrisation::new(structure, d, q).unwrap();
                let mut random = Shuffle::new(3, 4);
                let mut values =
                    |n: usize| -> Vec<f32> { (0..n).map(|_| random.below(2001) as f32 / 1000.0 - 1.0).collect() };
                let (x, theta) = (values(N * d), values(of.n_parameters()));
                let classes: Vec<u32> = (0..N as u32).map(|i| i % q as u32).collect();
                let features = Features::new(x.clone(), N, d).unwrap();
                let targets = Targets::Classes(classes.clone().into());
                let shape = Shape { n_features: d, n_classes: q, n_heads: 1 };
                let head = Head { learning_rate: 0.1, l2: 0.01, intercept, rule };
                let factors = Factors::new(of, theta.clone()).unwrap();
                let parameters = Parameters { shape, values: factors.expand() };
                let start = State { factors: Some(factors), ..parameters.into() };
                let mut session = backend.session(&features, 1.0, Some((&targets).into())).unwrap();
                let plan = Plan::new(session.chunks(), N, 1, 0);
                let rates = vec![1.0; plan.batches.len()];
                let mut after = |state: &State, n: usize| {
                    let mut stepper = session.stepper(state, &[head], N).unwrap();
                    (0..n).for_each(|_| drop(stepper.run(&plan, &rates).unwrap()));
                    stepper.state().unwrap()
                };
                let state = after(&start, 3);
                let what = format!("{name}: {structure} {rule:?}");
                // From where it stands it goes on to the same bits.
                let next = after(&start, 4);
                assert_eq!(after(&state, 1), next, "{what}");
                assert!(after(&State { moments: Vec::new(), ..state.clone() }, 1) != next, "{what}");
                let found = state.factors.as_ref().unwrap();
                let made: Vec<f64> = found.expand().into_iter().map(f64::from).collect();
                compare("W", &state.parameters.values, &made, &vec![1e-5; made.len()]).unwrap();
                // Parts of the data are batches of their own, and matrix units round.
                if rates.len() > 1 || name.contains("matrix units") {
                    continue;
                }
                *n_compared += 1;

                let doubles = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
                let mut y = vec![0.0; N * q];
                classes.iter().enumerate().for_each(|(i, &class)| y[i * q + class as usize] = 1.0);
                let data = (&doubles(&x)[..], &y[..]);
                let steps = |head, t, round: &mut dyn FnMut(&mut [f64], usize)| {
                    reference_steps(structure, data, doubles(&theta), shape, head, t, round)
                };
                let plain = &mut |_: &mut [f64], _| ();
                let expected = steps(head, 3, plain);
                // What changes when each result is off by what the sum of so many terms of its size may be in single precision, up or
                // down at random: twice as much as in the worst of some trials.
                let mut bound = vec![0.0; expected.len()];
                for _ in 0..TRIALS {
                    let off = steps(head, 3, &mut |values, n_terms| {
                        let size = values.iter().fold(0.0, |max: f64, value| max.max(value.abs()));
                        let error = 0.5f64.powi(24) * n_terms as f64 * size;
                        values.iter_mut().for_each(|value| *value += error * f64::from(random.below(3) as i8 - 1));
                    });
                    for ((bound, off), expected) in bound.iter_mut().zip(off).zip(&expected) {
                        *bound = f64::max(*bound, 2.0 * (off - expected).abs());
                    }
                }
                compare(&what, found.values(), &expected, &bound).unwrap();
                // One step less, no penalty, and a rule that decays or moves a little otherwise are seen.
                let others = [
                    steps(head, 2, plain),
                    steps(Head { l2: 0.0, ..head }, 3, plain),
                    steps(Head { rule: other_than(rule), ..head }, 3, plain),
                ];
                for (index, other) in others.iter().enumerate() {
                    assert!(compare(&what, found.values(), other, &bound).is_err(), "{what}: {index}");
                }
            }
        }
    }
}
