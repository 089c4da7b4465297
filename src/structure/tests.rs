use super::*;
use crate::reference::structure as reference;

/// Structures with the sizes that they are tried at: divisible and not, wider and narrower than m, and a single number.
fn cases() -> Vec<(Structure, usize, usize)> {
    let mut cases = Vec::new();
    for (d, q) in [(8, 4), (7, 5), (13, 3), (4, 9), (16, 1)] {
        for structure in ["dense", "phm:1", "phm:2", "phm:3", "phm:4", "quaternion", "lowrank:1", "lowrank:3"] {
            let structure: Structure = structure.parse().unwrap();
            if Parametrisation::new(structure, d, q).is_ok() {
                cases.push((structure, d, q));
            }
        }
    }
    assert!(cases.len() > 30);
    cases
}

fn random(n: usize, seed: u64) -> Vec<f64> {
    let mut random = Shuffle::new(seed, 3);
    (0..n).map(|_| random.below(2001) as f64 / 1000.0 - 1.0).collect()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn structures_are_read_as_they_are_written_and_nothing_else_is() {
    for text in ["dense", "phm:1", "phm:16", "quaternion", "lowrank:12"] {
        assert_eq!(text.parse::<Structure>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "Dense",
        "phm",
        "phm:",
        "phm:x",
        "phm:-1",
        "phm:2.0",
        "lowrank",
        "lowrank:1:2",
        "quaternion:4",
        "low-rank:3",
    ] {
        let error = text.parse::<Structure>().unwrap_err().to_string();
        assert!(error.contains("phm:M, quaternion or lowrank:R"), "{text}: {error}");
    }
}

#[test]
fn numbers_are_those_of_the_formulas() {
    let n = |structure: &str, d, q| structure.parse::<Structure>().unwrap().n_parameters(d, q).unwrap();
    assert_eq!(n("dense", 384, 77), 384 * 77 + 77);
    assert_eq!(n("phm:4", 384, 77), 64 + 96 * 20 * 4 + 77);
    assert_eq!(n("phm:8", 384, 77), 512 + 48 * 10 * 8 + 77);
    assert_eq!(n("quaternion", 384, 77), 96 * 20 * 4 + 77);
    assert_eq!(n("lowrank:16", 384, 77), 16 * (384 + 77) + 77);
    for (structure, d, q) in cases() {
        assert_eq!(
            structure.n_parameters(d, q).unwrap(),
            reference::n_parameters(structure, d, q),
            "{structure} {d} {q}"
        );
    }
}

#[test]
fn sizes_that_do_not_suit_are_errors_that_say_what_does() {
    for (structure, d, q, what) in [
        ("phm:0", 8, 4, "M at least 1"),
        ("phm:9", 8, 4, "no larger than the number of features"),
        ("phm:257", 1000, 4, "at most 256"),
        ("phm:18446744073709551615", 8, 4, "at most 256"),
        ("quaternion", 3, 9, "at least 4 features"),
        ("lowrank:0", 8, 4, "R at least 1"),
        ("lowrank:5", 8, 4, "R no larger"),
        ("lowrank:5", 4, 8, "R no larger"),
    ] {
        let error = structure.parse::<Structure>().unwrap().n_parameters(d, q).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    for (structure, d, q) in [("phm:8", 8, 4), ("phm:3", 8, 2), ("lowrank:4", 8, 4), ("quaternion", 4, 2)] {
        assert!(structure.parse::<Structure>().unwrap().n_parameters(d, q).is_ok(), "{structure}");
    }
    // No size is too large to say how many numbers it would be.
    assert_eq!(Structure::Dense.n_parameters(usize::MAX, 2).unwrap(), usize::MAX);
}

#[test]
fn weights_and_gradients_are_those_of_the_formulas() {
    for (structure, d, q) in cases() {
        for h in [1, 3] {
            let parametrisation = Parametrisation::new(structure, d, q).unwrap();
            let theta = random(h * parametrisation.n_parameters(), 1);
            let gradient = random((d + 1) * h * q, 2);
            let what = format!("{structure} {d} × {q}, {h} heads");
            let expected = reference::expand(structure, &theta, d, q, h);
            assert!(largest_difference(&parametrisation.expand(&theta), &expected) < 1e-14, "{what}");
            let expected = reference::pull_back(structure, &theta, &gradient, d, q, h);
            assert!(largest_difference(&parametrisation.pull_back(&theta, &gradient), &expected) < 1e-14, "{what}");
        }
    }
}

/// ∂θ is what ⟨G, W(θ)⟩ differs by, for each number of A, S, U, V and b.
#[test]
fn the_gradient_of_the_factors_is_that_of_differences() {
    const H: f64 = 1e-4;
    for (structure, d, q) in cases() {
        for h in [1, 2] {
            let parametrisation = Parametrisation::new(structure, d, q).unwrap();
            let theta = random(h * parametrisation.n_parameters(), 4);
            let gradient = random((d + 1) * h * q, 5);
            // Products of two numbers are parabolas at most, whose central differences are exact.
            let at = |index: usize, step: f64| {
                let mut theta = theta.clone();
                theta[index] += step;
                let values = parametrisation.expand(&theta);
                values.iter().zip(&gradient).map(|(w, g)| w * g).sum::<f64>()
            };
            let differences: Vec<f64> = (0..theta.len()).map(|i| (at(i, H) - at(i, -H)) / (2.0 * H)).collect();
            let found = parametrisation.pull_back(&theta, &gradient);
            assert!(largest_difference(&found, &differences) < 1e-9, "{structure} {d} × {q}, {h} heads");
            // With another θ, or the heads' columns exchanged, it is not.
            let is_linear = matches!(structure, Structure::Dense | Structure::Quaternion);
            let other: Vec<f64> = theta.iter().map(|value| 1.01 * value).collect();
            let other = largest_difference(&parametrisation.pull_back(&other, &gradient), &differences);
            assert!(is_linear || other > 1e-4, "{structure}: {other}");
            let mut turned = gradient.clone();
            turned.chunks_exact_mut(h * q).for_each(|row| row.rotate_left(1));
            assert!(largest_difference(&parametrisation.pull_back(&theta, &turned), &differences) > 1e-2 || h * q == 1);
        }
    }
}

/// At the beginning W is 0, and yet the objective has a gradient there; a step against it moves W no further than the step itself.
#[test]
fn training_does_not_begin_at_a_saddle() {
    for (structure, d, q) in cases().into_iter().filter(|&(structure, ..)| structure != Structure::Dense) {
        let parametrisation = Parametrisation::new(structure, d, q).unwrap();
        let bias = random(q, 6);
        let theta = parametrisation.start(7, &bias);
        let values = parametrisation.expand(&theta);
        assert!(values[..d * q].iter().all(|&w| w == 0.0) && values[d * q..] == bias[..]);
        let gradient = random((d + 1) * q, 8);
        let step = parametrisation.pull_back(&theta, &gradient);
        let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        let n_free = parametrisation.n_parameters() - q;
        assert!(norm(&step[..n_free]) > 1e-3, "{structure} {d} × {q}");
        // The fixed A are twice as long.
        let length = if structure == Structure::Quaternion { 4.0 } else { 1.0 };
        let moved: Vec<f64> = theta.iter().zip(&step).map(|(theta, step)| theta + step).collect();
        let moved = parametrisation.expand(&moved);
        assert!(norm(&moved[..d * q]) <= length * norm(&gradient[..d * q]) * (1.0 + 1e-12), "{structure} {d} × {q}");
        // Of one number there are few directions.
        if q > 1 && structure != (Structure::Phm { m: 1 }) {
            assert_eq!(theta == parametrisation.start(8, &bias), !structure.depends_on_seed());
        }
    }
}

/// ‖W(nearest) − W‖, without the intercepts.
fn distance(parametrisation: Parametrisation, theta: &[f64], values: &[f64]) -> f64 {
    let n = parametrisation.d * parametrisation.q;
    let found = parametrisation.expand(theta);
    found[..n].iter().zip(values).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn the_nearest_to_a_structured_w_is_that_w() {
    for (structure, d, q) in cases() {
        let parametrisation = Parametrisation::new(structure, d, q).unwrap();
        // What W is padded with is not 0 in the W that the factors make, but counts as 0.
        if parametrisation.blocks().is_some_and(|[m, ..]| !d.is_multiple_of(m) || !q.is_multiple_of(m)) {
            continue;
        }
        let values = parametrisation.expand(&random(parametrisation.n_parameters(), 9));
        let theta = parametrisation.nearest(&values).unwrap();
        assert!(largest_difference(&parametrisation.expand(&theta), &values) < 1e-6, "{structure} {d} × {q}");
    }
}

/// No small change of θ comes nearer: the gradient of the distance is 0.
#[test]
fn the_nearest_is_nearer_than_its_neighbours() {
    for (structure, d, q) in
        [("phm:2", 8, 4), ("phm:4", 16, 8), ("quaternion", 8, 4), ("lowrank:2", 7, 5), ("lowrank:3", 4, 9)]
    {
        let parametrisation = Parametrisation::new(structure.parse().unwrap(), d, q).unwrap();
        let values = random((d + 1) * q, 10);
        let theta = parametrisation.nearest(&values).unwrap();
        let found = parametrisation.expand(&theta);
        let difference: Vec<f64> = found.iter().zip(&values).map(|(a, b)| a - b).collect();
        let gradient = parametrisation.pull_back(&theta, &difference);
        assert!(gradient.iter().all(|g| g.abs() < 1e-6), "{structure}");
        let nearest = distance(parametrisation, &theta, &values);
        assert!(nearest > 0.1, "{structure}");
        for seed in 0..20 {
            let step = random(theta.len(), seed);
            let other: Vec<f64> = theta.iter().zip(step).map(|(theta, step)| theta + 0.1 * step).collect();
            assert!(distance(parametrisation, &other, &values) > nearest, "{structure}");
        }
    }
}

#[test]
fn scaled_factors_make_scaled_weights() {
    for (structure, d, q) in cases() {
        let parametrisation = Parametrisation::new(structure, d, q).unwrap();
        let mut theta = random(parametrisation.n_parameters(), 11);
        let mut expected = parametrisation.expand(&theta);
        expected[..d * q].iter_mut().for_each(|w| *w *= 3.0);
        parametrisation.scale(&mut theta, 3.0);
        assert!(largest_difference(&parametrisation.expand(&theta), &expected) < 1e-14, "{structure}");
    }
}

/// A W of blocks of one number is a sum of few products, and the others are 0.
#[test]
fn there_may_be_more_products_than_a_w_has() {
    let parametrisation = Parametrisation::new("phm:8".parse().unwrap(), 8, 8).unwrap();
    let values = random(9 * 8, 12);
    let found = parametrisation.expand(&parametrisation.nearest(&values).unwrap());
    assert!(largest_difference(&found, &values) < 1e-6);
    // And of too many singular vectors none is tried.
    let large = Parametrisation::new("lowrank:1".parse().unwrap(), 5000, 4097).unwrap();
    assert!(large.nearest(&vec![0.0; 5001 * 4097]).unwrap_err().to_string().contains("at most 4,096"));
}
