//! The products against sums in double precision. Processors without the units have nothing to test, which is said.

use super::*;
use crate::backend::cpu::lanes::Instructions;
use crate::backend::cpu::real::LOWERED;
use crate::backend::cpu::tests::values;
use crate::backend::cpu::tiles::Matrix;

/// Of a product of halves, and of `depth` sums of those in single precision.
fn bound(depth: usize) -> f64 {
    3.1 * 0.5f64.powi(16) + 2.0 * depth as f64 * 0.5f64.powi(24)
}

/// Σ_k a\[i\]\[k\]·b\[k\]\[j\] and Σ_k |a\[i\]\[k\]·b\[k\]\[j\]|, both factors by functions.
fn product(
    (n, depth, m): (usize, usize, usize),
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<(f64, f64)> {
    let sum = |i: usize, j: usize| {
        let terms = (0..depth).map(|k| a(i, k) * b(k, j));
        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
    };
    (0..n * m).map(|at| sum(at / m, at % m)).collect()
}

fn compare(found: &[f64], expected: &[(f64, f64)], bound: f64) -> Result<(), String> {
    assert_eq!(found.len(), expected.len());
    for (i, (found, (expected, size))) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        if difference > bound * size || difference.is_nan() {
            return Err(format!("[{i}] is {found:e}, expected {expected:e} ± {:e}", bound * size));
        }
    }
    Ok(())
}

#[test]
fn products_of_halves_are_nearly_those_of_single_precision() {
    let Some(with) = Instructions::all().into_iter().find(|instructions| instructions.units().is_some()) else {
        eprintln!("this processor has no AMX, or the system does not grant it: nothing is tested");
        return;
    };
    let units = with.units().unwrap();
    // Whole tiles and part ones of each dimension; more terms than are summed at once.
    for (n, d, m) in [(1, 1, 1), (28, 40, 16), (32, 32, 17), (33, 31, 33), (60, 100, 77), (20, 1100, 10), (156, 384, 5)]
    {
        let (x, w, r) = (values(n * d, 1), values(d * m, 2), values(n * m, 3));
        let (scale, weights) = (0.75, w.iter().map(|&w| f64::from(w)).collect::<Vec<_>>());
        let raised: Vec<f32> = r.iter().map(|&r| r / n as f32 / LOWERED as f32).collect();
        let residual: Vec<f64> = raised.iter().map(|&r| f64::from(r) * LOWERED).collect();
        let (in_samples, in_features, in_outputs) = (n.div_ceil(TERMS), d.div_ceil(TERMS), m.div_ceil(SIDE));
        // What is there before does not matter.
        let dirty = |n: usize| vec![Halves::filled(0x7FC0_7FC0); n];
        let mut by_sample = dirty(2 * in_samples * in_features);
        let mut by_feature = dirty(2 * in_samples * in_features);
        let mut split_weights = dirty(in_features * in_outputs);
        let mut split_residual = dirty(in_samples * in_outputs);
        let (by_sample_of, by_feature_of) = (&mut by_sample[..], &mut by_feature[..]);
        // The first sample is not that of the matrix.
        let shifted = [vec![9.0; d], x.clone()].concat();
        with.run(SplitFeatures {
            x: Matrix { x: &shifted, d },
            first: 1,
            n,
            scale,
            by_sample: by_sample_of,
            by_feature: by_feature_of,
        });
        with.run(SplitWeights { weights: &weights, m, out: &mut split_weights });
        with.run(SplitResidual { residual: &raised, m, out: &mut split_residual });

        let x = |i: usize, k: usize| f64::from(x[i * d + k]) * f64::from(scale);
        let logits_of = |by_sample: &[Halves]| {
            let mut out = vec![f32::NAN; n * m];
            let bias: Vec<f64> = (0..m).map(|j| 1.0 + j as f64).collect();
            with.run(UnitLogits { units, by_sample, weights: &split_weights, bias: &bias, n, m, out: &mut out });
            out.iter().zip(bias.iter().cycle()).map(|(&o, b)| f64::from(o) - b).collect::<Vec<f64>>()
        };
        let check_logits = |found: &[f64]| {
            compare(found, &product((n, d, m), x, |k, j| weights[k * m + j]), bound(d))
                .map_err(|error| format!("{n} × {d} × {m}: {error}"))
        };
        check_logits(&logits_of(&by_sample)).unwrap();

        // (slabs × m × 16)
        let slabs = d.div_ceil(SIDE);
        let gradient_of = |by_feature: &[Halves]| {
            let mut sums = vec![Sums::ZERO; 2 * in_features * in_outputs];
            let mut gradient = vec![f64::NAN; slabs * m * SIDE];
            let mut pass = |adds| {
                let residual = &split_residual;
                with.run(UnitGradient { units, by_feature, residual, n, m, sums: &mut sums, adds });
            };
            pass(false);
            pass(true);
            for adds in [false, true] {
                let gradient = &mut gradient;
                with.run(AddSums { sums: &sums, m, factor: LOWERED / 4.0, gradient, adds });
            }
            gradient
        };
        let check_gradient = |found: &[f64]| {
            let feature = |k: usize, i: usize| if k < d { x(i, k) } else { 0.0 };
            let of_slab =
                |slab: usize| product((m, n, SIDE), |j, i| residual[i * m + j], |i, k| feature(slab * SIDE + k, i));
            let expected: Vec<(f64, f64)> = (0..slabs).flat_map(of_slab).collect();
            compare(found, &expected, bound(2 * n)).map_err(|error| format!("{n} × {d} × {m}: {error}"))
        };
        check_gradient(&gradient_of(&by_feature)).unwrap();

        // Without the low halves of the features it is noticed.
        if n > 20 && d < 200 {
            for halves in by_sample.iter_mut().chain(&mut by_feature) {
                halves.0[1] = Halves::ZERO.0[1];
            }
            check_logits(&logits_of(&by_sample)).unwrap_err();
            check_gradient(&gradient_of(&by_feature)).unwrap_err();
        }
    }
}

#[test]
fn logits_of_thirds_are_those_of_single_precision() {
    let Some(with) = Instructions::all().into_iter().find(|instructions| instructions.units().is_some()) else {
        eprintln!("this processor has no AMX, or the system does not grant it: nothing is tested");
        return;
    };
    let units = with.units().unwrap();
    for (n, d, m) in [(1, 1, 1), (31, 40, 16), (32, 32, 17), (5, 31, 33), (32, 1100, 77)] {
        let (x, w, bias) = (values((n + 1) * d, 1), values(d * m, 2), values(m, 3));
        let (scale, in_features) = (0.75, d.div_ceil(TERMS));
        let mut samples = vec![Thirds::filled(0x7FC0_7FC0); 2 * in_features];
        let mut weights = vec![Thirds::filled(0x7FC0_7FC0); in_features * m.div_ceil(SIDE)];
        with.run(SplitTile { x: Matrix { x: &x, d }, first: 1, n, out: &mut samples });
        with.run(SplitWeights { weights: &w, m, out: &mut weights });
        // The largest error, as a share of the sum of sizes.
        let error = |samples: &[Thirds]| {
            let mut out = vec![f32::NAN; n * m];
            with.run(UnitTile { units, samples, weights: &weights, scale, bias: &bias, out: &mut out });
            let x = |i: usize, k: usize| f64::from(x[(i + 1) * d + k]) * f64::from(scale);
            let expected = product((n, d, m), x, |k, j| f64::from(w[k * m + j]));
            let of_value = |(i, (sum, size)): (usize, &(f64, f64))| {
                let b = f64::from(bias[i % m]);
                assert!(out[i].is_finite());
                (f64::from(out[i]) - sum - b).abs() / (size + b.abs())
            };
            expected.iter().enumerate().map(of_value).fold(0.0, f64::max)
        };
        let whole = error(&samples);
        assert!(whole <= (d + 3) as f64 * 0.5f64.powi(24), "{n} × {d} × {m}: {whole:e}");
        // Without the last third of the features it is larger, and too large for few of them.
        samples.iter_mut().for_each(|parts| parts.0[2] = Thirds::ZERO.0[2]);
        if n > 1 && d < 100 {
            let without = error(&samples);
            assert!(without > 4.0 * whole, "{n} × {d} × {m}: {without:e} {whole:e}");
        }
    }
}

/// The largest number is not rounded to infinity.
#[test]
fn the_largest_numbers_have_parts() {
    let Some(with) = Instructions::all().into_iter().find(|instructions| instructions.units().is_some()) else {
        return;
    };
    let x = vec![f32::MAX, -f32::MAX];
    let mut samples = vec![Thirds::ZERO; 2];
    let mut weights = vec![Thirds::ZERO; 1];
    with.run(SplitTile { x: Matrix { x: &x, d: 2 }, first: 0, n: 1, out: &mut samples });
    with.run(SplitWeights { weights: &[1e-3f32, 5e-4], m: 1, out: &mut weights });
    let mut out = [0.0];
    with.run(UnitTile {
        units: with.units().unwrap(),
        samples: &samples,
        weights: &weights,
        scale: 1.0,
        bias: &[0.0],
        out: &mut out,
    });
    let expected = f64::from(f32::MAX) * (f64::from(1e-3f32) - f64::from(5e-4f32));
    assert!((f64::from(out[0]) / expected - 1.0).abs() < 1e-6, "{} {expected}", out[0]);
}
