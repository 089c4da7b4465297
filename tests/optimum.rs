//! Batch solvers where data is difficult, and along a path of penalties.

mod common;

use common::Random;
use softreg::{
    AdamW, Dataset, Error, Every, FeatureScale, Features, Fit, Labels, Lbfgs, NewtonCg, Sgd, SoftmaxRegression, Solver,
    StopReason, data,
};

/// An estimator on the features as they are.
fn estimator(solver: impl Into<Solver>) -> SoftmaxRegression {
    SoftmaxRegression::new().solver(solver).feature_scale(FeatureScale::Factor(1.0))
}

/// Of the features (n × d) and classes; n_classes ≥ all of them.
fn dataset(x: Vec<f32>, d: usize, classes: &[u32], n_classes: usize) -> Dataset<'static> {
    let names = (0..n_classes).map(|class| class.to_string()).collect();
    let features = Features::new(x, classes.len(), d).unwrap();
    Dataset::new(features, Labels::from_indices(classes.to_vec(), names).unwrap()).unwrap()
}

/// Three classes that overlap: n samples of d features of size 1 whose means differ.
fn overlapping(n: usize, d: usize, seed: u64) -> (Vec<f32>, Vec<u32>) {
    let mut random = Random::new(seed);
    let classes: Vec<u32> = (0..n).map(|i| (i % 3) as u32).collect();
    let x = classes
        .iter()
        .flat_map(|&class| {
            (0..d).map(|k| random.value() + if k % 3 == class as usize { 0.4 } else { 0.0 }).collect::<Vec<_>>()
        })
        .collect();
    (x, classes)
}

/// Every value of a column, changed.
fn change_column(x: &mut [f32], d: usize, k: usize, change: impl Fn(usize, f32) -> f32) {
    x.iter_mut().skip(k).step_by(d).enumerate().for_each(|(i, x)| *x = change(i, *x));
}

/// Fits by both solvers with and without an l1 penalty, and checks that the minimum is reached.
fn check(what: &str, data: &Dataset, l2: f64) {
    check_by(what, data, l2, &|estimator| estimator);
}

fn check_by(what: &str, data: &Dataset, l2: f64, change: &dyn Fn(SoftmaxRegression) -> SoftmaxRegression) {
    let tolerance = 1e-10;
    let lbfgs = || Lbfgs { tolerance, ..Lbfgs::default() };
    let newton = || NewtonCg { tolerance, ..NewtonCg::default() };
    let mut objectives = Vec::new();
    for (name, estimator, most_gap) in [
        ("L-BFGS", estimator(lbfgs()).l2(l2), 1e-6),
        ("Newton", estimator(newton()).l2(l2), 1e-6),
        ("both penalties", estimator(lbfgs()).l2(0.5 * l2).l1(0.5 * l2), 1e-6),
        ("l1", estimator(lbfgs()).l2(0.0).l1(l2), 3e-2),
    ] {
        let fit = change(estimator).fit(data).unwrap();
        let certificate = fit.certificate.unwrap();
        let gap = certificate.gap.unwrap() / certificate.objective;
        let what = format!(
            "{what}, {name}: {:?}, {} products, J {:.3e}, gap {gap:.1e}, gradient {:.1e} of the first",
            fit.reason,
            fit.products.unwrap(),
            certificate.objective,
            certificate.relative_gradient_norm
        );
        eprintln!("{what}");
        assert!(matches!(fit.reason, StopReason::Converged | StopReason::Precision), "{what}");
        // Where a penalty is small beside the curvature of its weight, the gap says little of what the gradient says.
        assert!(gap >= 0.0 && (gap <= most_gap || certificate.relative_gradient_norm <= 3e-6), "{what}");
        check_is_finite(&fit);
        objectives.push(certificate.objective);
    }
    let difference = objectives[0] / objectives[1] - 1.0;
    assert!(difference.abs() <= 1e-8, "{what}: {objectives:?}");
}

fn check_is_finite(fit: &Fit) {
    assert!(fit.model.weights().iter().chain(fit.model.bias()).all(|value| value.is_finite()));
}

#[test]
fn columns_may_be_constant_or_equal() {
    let (d, n) = (7, 150);
    let (mut x, classes) = overlapping(n, d, 1);
    change_column(&mut x, d, 2, |_, _| 5.0);
    change_column(&mut x, d, 4, |_, _| 0.0);
    let first: Vec<f32> = x.iter().step_by(d).copied().collect();
    change_column(&mut x, d, 5, |i, _| first[i]);
    change_column(&mut x, d, 6, |i, _| -3.0 * first[i]);
    let data = dataset(x, d, &classes, 3);
    check("constant and equal columns", &data, 1e-3);
    // Constant columns have no weight, equal columns equal ones.
    let fit = estimator(Lbfgs { tolerance: 1e-12, ..Lbfgs::default() }).l2(1e-3).fit(&data).unwrap();
    let w = fit.model.weights();
    for j in 0..3 {
        assert!(w[[2, j]].abs() < 1e-6 && w[[4, j]].abs() < 1e-6, "{w}");
        assert!((w[[0, j]] - w[[5, j]]).abs() < 1e-5 && (w[[6, j]] + 3.0 * w[[0, j]]).abs() < 1e-4, "{w}");
    }
    let fit = estimator(Lbfgs::default()).l2(0.0).l1(1e-3).fit(&data).unwrap();
    assert!(fit.model.weights().row(2).iter().chain(fit.model.weights().row(4)).all(|&w| w == 0.0));
    // Nothing but constant columns: the frequencies of the classes.
    let data = dataset(vec![1.0; 8], 2, &[0, 0, 0, 1], 2);
    check("constant columns alone", &data, 1e-2);
    let fit = estimator(Lbfgs::default()).l2(1e-2).fit(&data).unwrap();
    let entropy = -(0.75f64 * 0.75f64.ln() + 0.25 * 0.25f64.ln());
    assert!((fit.certificate.unwrap().objective - entropy).abs() < 1e-12);
}

#[test]
fn columns_may_have_any_scale() {
    let (d, n) = (13, 200);
    let (mut x, classes) = overlapping(n, d, 2);
    for k in 0..d {
        change_column(&mut x, d, k, |_, x| x * 10f32.powi(k as i32 - 6));
    }
    check("scales 1e-6 to 1e6", &dataset(x.clone(), d, &classes, 3), 1e-4);
    // With means a thousand times as large as they vary.
    for k in 0..d {
        change_column(&mut x, d, k, |_, x| x + 1e3 * 10f32.powi(k as i32 - 6));
    }
    check("large means", &dataset(x, d, &classes, 3), 1e-4);
}

#[test]
fn there_may_be_more_features_than_samples() {
    for (n, d) in [(20, 100), (3, 50), (60, 61)] {
        let (x, classes) = overlapping(n, d, 3);
        check(&format!("{n} × {d}"), &dataset(x, d, &classes, 3), 1e-2);
    }
    // One sample a class, and as many as there are classes.
    let x = (0..100).map(|i| if i % 11 == 0 { 1.0 } else { 0.0 }).collect();
    check("one sample a class", &dataset(x, 10, &(0..10).collect::<Vec<_>>(), 10), 1e-2);
}

/// A search on large data ends in single precision: within its tolerance of the minimum all the same, and told in double precision.
#[test]
fn rough_tolerances_end_near_the_minimum() {
    let (n, d) = (30_000, 100);
    let (x, classes) = overlapping(n, d, 21);
    let data = dataset(x, d, &classes, 3);
    for l2 in [1e-3, 1e-6] {
        let fit = |tolerance| estimator(Lbfgs { tolerance, ..Lbfgs::default() }).l2(l2).fit(&data).unwrap();
        let (exact, rough, rougher) = (fit(1e-10), fit(1e-5), fit(1e-2));
        let off = |fit: &Fit| fit.objective / exact.objective - 1.0;
        eprintln!("{l2}: {:e}, {:e}, {} {:?}", off(&rough), off(&rougher), rough.reason, rough.products);
        assert_eq!(rough.reason, StopReason::Converged);
        assert!((-1e-9..1e-5).contains(&off(&rough)) && off(&rougher) > 1e-5, "{l2}");
        assert!(rough.certificate.unwrap().gap.unwrap() < 1e-2 && rough.products < exact.products);
    }
}

/// Separable classes without a penalty have no minimum: the loss comes to zero, with weights that are finite and, as only
/// differences matter, of mean 0 over the classes.
#[test]
fn separable_classes_without_a_penalty_come_to_an_end() {
    for solver in [Solver::from(Lbfgs::default()), NewtonCg::default().into()] {
        for (n, d) in [(20, 40), (30, 3)] {
            let (mut x, classes) = overlapping(n, d, 4);
            for (row, &class) in x.chunks_exact_mut(d).zip(&classes) {
                row[class as usize] += 3.0;
            }
            let data = dataset(x, d, &classes, 3);
            let fit = estimator(solver.clone()).l2(0.0).fit(&data).unwrap();
            let what = format!("{} × {d}: {:?}, {:?}", n, fit.reason, fit.certificate);
            eprintln!("{}: {what}, {} products", solver.name(), fit.products.unwrap());
            assert_eq!(fit.reason, StopReason::Separable, "{what}");
            assert_eq!((fit.train.accuracy, fit.certificate.unwrap().gap), (1.0, None), "{what}");
            assert!(fit.certificate.unwrap().log_loss < 1e-9, "{what}");
            check_is_finite(&fit);
            let largest = fit.model.weights().iter().fold(0.0f32, |max, w| max.max(w.abs()));
            for row in fit.model.weights().rows() {
                assert!(row.sum().abs() <= 1e-5 * largest, "{what}: {row}");
            }
        }
    }
}

#[test]
fn a_class_may_have_no_samples() {
    let (x, classes) = overlapping(120, 5, 5);
    let data = dataset(x, 5, &classes, 4);
    for solver in [Solver::from(Lbfgs::default()), NewtonCg::default().into()] {
        for (l2, l1) in [(1e-2, 0.0), (0.0, 1e-2)] {
            if l1 > 0.0 && solver.name() != "lbfgs" {
                continue;
            }
            let fit = estimator(solver.clone()).l2(l2).l1(l1).fit(&data).unwrap();
            let without =
                estimator(solver.clone()).l2(l2).l1(l1).fit(&dataset(overlapping(120, 5, 5).0, 5, &classes, 3));
            let (objective, without) =
                (fit.certificate.unwrap().objective, without.unwrap().certificate.unwrap().objective);
            eprintln!("no samples: {:?}, {} products, {objective} {without}", fit.reason, fit.products.unwrap());
            check_is_finite(&fit);
            // The intercept of that class has no minimum; at the objective's infimum the class is not there.
            assert!((objective / without - 1.0).abs() < 2e-8, "{objective} {without}");
        }
    }
}

#[test]
fn weights_and_penalties_may_be_extreme() {
    let (x, classes) = overlapping(120, 5, 6);
    let data = dataset(x.clone(), 5, &classes, 3);
    let weights: Vec<f32> = (0..120).map(|i| 10f32.powi(i % 13 - 6)).collect();
    check("weights of 1e-6 to 1e6", &data.clone().with_weights(weights).unwrap(), 1e-3);
    let one = (0..120).map(|i| if i % 40 == 7 { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    check("three samples that count", &data.clone().with_weights(one).unwrap(), 1e-3);
    for l2 in [1e-8, 1.0, 1e6, 1e12] {
        check(&format!("penalty {l2:e}"), &data, l2);
    }
    // An outlier.
    let mut far = x;
    far[..5].fill(1e4);
    // With an l1 penalty it takes more than a thousand iterations.
    let far = dataset(far, 5, &classes, 3);
    let exact = estimator(Lbfgs { tolerance: 1e-13, ..Lbfgs::default() }).l2(1e-3).fit(&far).unwrap();
    for solver in [Solver::from(Lbfgs::default()), NewtonCg::default().into()] {
        let fit = estimator(solver).l2(1e-3).fit(&far).unwrap();
        let missing = fit.objective / exact.objective - 1.0;
        let what = format!("an outlier: {missing:e} {} {:?} of {:?}", fit.reason, fit.certificate, exact.certificate);
        println!("{what}");
        // Where a penalty is small beside the curvature of its weight, the gap says little of what the gradient says.
        let certificate = fit.certificate.unwrap();
        let is_certain = certificate.gap.unwrap() < 1e-5 * fit.objective || certificate.relative_gradient_norm <= 3e-6;
        assert!(missing.abs() < 2e-8 && is_certain, "{what}");
    }
    check_by("no intercept", &data, 1e-3, &|estimator| estimator.intercept(false));
    let (mut x, classes) = overlapping(120, 5, 6);
    x.iter_mut().for_each(|x| *x += 100.0);
    check_by("no intercept, large means", &dataset(x, 5, &classes, 3), 1e-3, &|estimator| estimator.intercept(false));
}

/// Weights that are zero in one alone.
fn wrong_zeros(a: &Fit, b: &Fit) -> usize {
    a.model.weights().iter().zip(b.model.weights()).filter(|&(&a, &b)| (a == 0.0) != (b == 0.0)).count()
}

/// Whether the second fit has the objective of the first to its tolerance, and the same zeros.
fn is_same(cold: &Fit, other: &Fit) -> Result<(), String> {
    let [a, b] = [cold, other].map(|fit| fit.certificate.unwrap());
    let (difference, wrong) = (b.objective / a.objective - 1.0, wrong_zeros(cold, other));
    let is_same = difference.abs() <= 3e-8 && wrong == 0 && other.reason == StopReason::Converged;
    if is_same { Ok(()) } else { Err(format!("{difference:e}, {wrong} zeros: {a:?} {b:?}")) }
}

/// 20 penalties, each `ratio` times the one before, as a path and cold: products of both, where all agree.
fn path_and_cold(data: &Dataset, l2: f64, l1: f64, ratio: f64) -> [usize; 2] {
    let estimator = estimator(Lbfgs { tolerance: 1e-8, ..Lbfgs::default() });
    let factors: Vec<f64> = (0..20).map(|i| ratio.powi(i)).collect();
    let path = estimator.clone().l2(l2).l1(l1).path(data, &factors).unwrap();
    let fit = |factor| estimator.clone().l2(factor * l2).l1(factor * l1).fit(data).unwrap();
    let cold: Vec<Fit> = factors.iter().map(fit).collect();
    for ((cold, fit), factor) in cold.iter().zip(&path).zip(&factors) {
        is_same(cold, fit).unwrap_or_else(|problem| panic!("l2 {l2}, l1 {l1}, times {factor}: {problem}"));
    }
    // The comparison notices the next penalty.
    assert!(cold[1..].iter().zip(&path).all(|(cold, fit)| is_same(cold, fit).is_err()));
    let products = |fits: &[Fit]| fits.iter().map(|fit| fit.products.unwrap()).sum();
    let both = [products(&path), products(&cold)];
    eprintln!("l2 {l2}, l1 {l1}: {} products on the path, {} cold", both[0], both[1]);
    both
}

#[test]
fn a_path_takes_a_third_of_the_products() {
    let digits = data::digits().unwrap();
    let first = first_l1(&digits);
    let ratio = 1e-3f64.powf(1.0 / 19.0);
    for (l2, l1) in [(0.0, first), (0.5, 0.5)] {
        let [path, cold] = path_and_cold(&digits, l2, l1, ratio);
        assert!(3 * path < cold, "l2 {l2}, l1 {l1}: {path} of {cold} products");
    }
    // Without an l1 penalty it is only the start that is better.
    let [path, cold] = path_and_cold(&digits, 10.0, 0.0, 1e-6f64.powf(1.0 / 19.0));
    assert!(10 * path < 9 * cold, "{path} of {cold} products");
}

/// Penalties may come in any order, again, and far from each other; standardised or without an intercept.
#[test]
fn a_path_may_go_anywhere() {
    let (x, classes) = overlapping(300, 6, 8);
    let data = dataset(x, 6, &classes, 3);
    for estimator in [
        estimator(Lbfgs::default()).l2(0.0).l1(1.0),
        estimator(Lbfgs::default()).l2(1.0).l1(1.0).standardize(true),
        estimator(Lbfgs::default()).l2(1.0).l1(0.3).intercept(false),
        estimator(NewtonCg::default()).l2(1.0).l1(0.0),
    ] {
        let factors = [1e-2, 1e-2, 1e-3, 1e2, 1e-4, 2e-4];
        let path = estimator.path(&data, &factors).unwrap();
        for (fit, &factor) in path.iter().zip(&factors) {
            let alone = estimator.path(&data, &[factor]).unwrap();
            let ratio = fit.certificate.unwrap().objective / alone[0].certificate.unwrap().objective;
            assert!((ratio - 1.0).abs() < 1e-7, "{factor}: {ratio}");
            assert!(wrong_zeros(fit, &alone[0]) <= 1, "{factor}");
        }
    }
}

#[test]
fn paths_that_make_no_sense_are_errors() {
    let (x, classes) = overlapping(60, 2, 5);
    let data = dataset(x, 2, &classes, 3);
    assert!(SoftmaxRegression::new().path(&data, &[]).unwrap().is_empty());
    for factor in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = SoftmaxRegression::new().path(&data, &[1.0, factor]).unwrap_err();
        assert!(matches!(error, Error::Setting { name: "a factor of the penalties", .. }), "{error}");
    }
    let error = SoftmaxRegression::new().solver(Sgd::default()).path(&data, &[1.0]).unwrap_err();
    assert!(matches!(error, Error::Setting { name: "the solver of a path", .. }), "{error}");
    for estimator in [
        SoftmaxRegression::new().checkpoint("checkpoint", Every::Epochs(1)),
        SoftmaxRegression::new().resume("checkpoint"),
    ] {
        let error = estimator.path(&data, &[1.0]).unwrap_err();
        assert!(matches!(error, Error::Setting { name: "the checkpoint of a path", .. }), "{error}");
    }
}

/// 20 penalties, each `ratio` times the one before, warm-started and cold: products of both, and whether they agree.
fn path(
    data: &Dataset,
    with: &dyn Fn(SoftmaxRegression, f64) -> SoftmaxRegression,
    first: f64,
    ratio: f64,
) -> [usize; 2] {
    let mut products = [0; 2];
    let mut before: Option<Fit> = None;
    let mut penalty = first;
    for _ in 0..20 {
        let estimator = with(estimator(Lbfgs { tolerance: 1e-8, ..Lbfgs::default() }), penalty);
        let cold = estimator.fit(data).unwrap();
        let warm = match &before {
            None => cold.clone(),
            Some(before) => estimator.init(&before.model).fit(data).unwrap(),
        };
        let [a, b] = [&cold, &warm].map(|fit| fit.certificate.unwrap());
        let wrong = wrong_zeros(&cold, &warm);
        eprintln!(
            "{penalty:.3e}: {:?} {} cold, {:?} {} warm, J {:.1e}, {} not zero, {wrong} differ",
            cold.reason,
            cold.products.unwrap(),
            warm.reason,
            warm.products.unwrap(),
            b.objective / a.objective - 1.0,
            a.n_nonzero
        );
        assert!((b.objective / a.objective - 1.0).abs() <= 3e-8, "{penalty}: {a:?} {b:?}");
        // They were all the same when this was written; one that hardly is or is not zero may be known at a finer tolerance alone.
        assert!(wrong <= 1, "{penalty}: {wrong} weights are zero in one alone");
        products[0] += cold.products.unwrap();
        products[1] += warm.products.unwrap();
        before = Some(warm);
        penalty *= ratio;
    }
    eprintln!("{} products cold, {} warm", products[0], products[1]);
    products
}

#[test]
fn a_path_is_followed_from_model_to_model() {
    let digits = data::digits().unwrap();
    let first = first_l1(&digits);
    // At the first penalty all weights are zero, just below it one is not.
    let [at, below] =
        [1.0001, 0.99].map(|factor| estimator(Lbfgs::default()).l2(0.0).l1(factor * first).fit(&digits).unwrap());
    assert_eq!(at.certificate.unwrap().n_nonzero, 0);
    assert!((1..3).contains(&below.certificate.unwrap().n_nonzero), "{:?}", below.certificate);
    let ratio = 1e-3f64.powf(1.0 / 19.0);
    let [cold, warm] = path(&digits, &|estimator, l1| estimator.l2(0.0).l1(l1), first, ratio);
    let [cold_l2, warm_l2] = path(&digits, &|estimator, l2| estimator.l2(l2), 10.0, 1e-6f64.powf(1.0 / 19.0));
    eprintln!("l1: {cold} products cold, {warm} warm; l2: {cold_l2} cold, {warm_l2} warm");
    // A start near the minimum saves the first digits; what curvature there is has to be learned again for the others.
    assert!(10 * warm < 9 * cold && 10 * warm_l2 < 9 * cold_l2);
}

/// The smallest l1 that leaves no weight: the largest |∂L/∂w| with intercepts that give each class its frequency.
fn first_l1(data: &Dataset) -> f64 {
    let softreg::data::Values::U8(x) = data.features().values() else { panic!() };
    let (n, d, q) = (data.n_samples(), data.n_features(), data.n_classes());
    let shares: Vec<f64> = data.class_totals().iter().map(|total| total / n as f64).collect();
    let mut gradient = vec![0.0; d * q];
    for (i, row) in x.chunks_exact(d).enumerate() {
        let class = data.labels().targets().class(i, q).unwrap();
        for (k, &x) in row.iter().enumerate() {
            for j in 0..q {
                gradient[k * q + j] += f64::from(x) * (shares[j] - f64::from(u8::from(j == class))) / n as f64;
            }
        }
    }
    gradient.iter().fold(0.0, |max, g| max.max(g.abs()))
}

/// A value that stands for "none", say -99999999, is far from all others. A solver must not take what it finds there for a
/// minimum: the true one is that of the data without that sample's column, nearly.
#[test]
fn a_value_far_outside_does_not_end_it_early() {
    let (n, d) = (600, 4);
    let (mut x, classes) = overlapping(n, d, 77);
    for outlier in [1e5, 1e6, 1e7, 1e8] {
        x[0] = outlier;
        let data = dataset(x.clone(), d, &classes, 3);
        let exact = estimator(Lbfgs { tolerance: 1e-13, ..Lbfgs::default() }).l2(1e-4).fit(&data).unwrap();
        for (name, solver) in [("lbfgs", Solver::from(Lbfgs::default())), ("newton-cg", NewtonCg::default().into())] {
            let fit = estimator(solver).l2(1e-4).fit(&data).unwrap();
            let ratio = fit.objective / exact.objective - 1.0;
            println!("{outlier:e} {name}: {} {} {ratio:e} {:?}", fit.reason, fit.objective, fit.products);
            // Beyond 10⁶ deviations the objective has a kink where double precision sees none of the slopes beside it.
            let most = if outlier > 1e6 { 5e-2 } else { 1e-4 };
            assert!(ratio < most || fit.reason != StopReason::Converged, "{outlier:e} {name}: {ratio:e}");
            let gap = fit.certificate.unwrap().gap.unwrap();
            assert!(gap >= fit.objective - exact.objective - 1e-9, "{outlier:e} {name}: {gap}");
        }
    }
}

/// Data that is large enough for drafts in single precision reaches the same minimum, whatever scale and mean its columns have.
#[test]
fn large_data_of_any_scale_reaches_the_minimum() {
    let (n, d) = (60_000, 48);
    for (scale, mean) in [(1.0f32, 0.0f32), (2.0, 1e3), (1.0, 1e4)] {
        let (mut x, classes) = overlapping(n, d, 11);
        for k in 0..d {
            change_column(&mut x, d, k, |_, x| (x + mean) * scale.powi(k as i32 - 24));
        }
        let data = dataset(x, d, &classes, 3);
        let fits = [Solver::from(Lbfgs::default()), NewtonCg::default().into()].map(|solver| {
            let fit = estimator(solver).l2(1e-6).fit(&data).unwrap();
            println!("{scale} {mean}: {} {:?} {:?}", fit.reason, fit.products, fit.certificate);
            assert_eq!(fit.reason, StopReason::Converged);
            let certificate = fit.certificate.unwrap();
            assert!(certificate.is_double && certificate.relative_gradient_norm < 1e-3);
            certificate.objective
        });
        assert!((fits[0] / fits[1] - 1.0).abs() <= 2e-8, "{fits:?}");
    }
}

/// What classes have in common in the weights that training begins with is no part of a solution.
#[test]
fn a_start_that_is_not_centred_over_classes_reaches_the_minimum() {
    let (x, classes) = overlapping(300, 5, 3);
    let data = dataset(x, 5, &classes, 3);
    let fit = |estimator: SoftmaxRegression| estimator.l2(0.01).fit(&data).unwrap();
    let cold = fit(estimator(Lbfgs::default()));
    let l1 = estimator(Lbfgs::default()).l2(0.0).l1(0.02).fit(&data).unwrap().model;
    let adamw = AdamW { epochs: Some(3), ..AdamW::default() };
    for (what, other) in [
        ("l1", fit(estimator(Lbfgs::default()).init(&l1))),
        ("l1, newton", fit(estimator(NewtonCg::default()).init(&l1))),
        ("adamw", fit(estimator(adamw).polish(true))),
    ] {
        assert!((other.objective / cold.objective - 1.0).abs() < 1e-7, "{what}: {} {}", other.objective, other.reason);
        let sums = other.model.weights().sum_axis(softreg::ndarray::Axis(1));
        assert!(sums.iter().all(|sum| sum.abs() < 1e-5), "{what}: {sums}");
    }
}

/// Rows that weigh nothing say nothing of the curvature, wherever they stand.
#[test]
fn rows_without_weight_may_stand_anywhere() {
    let (x, classes) = overlapping(8192, 3, 9);
    let halves = |weights: Vec<f32>| {
        let data = dataset(x.clone(), 3, &classes, 3).with_weights(weights).unwrap();
        estimator(Lbfgs::default()).l2(1e-3).fit(&data).unwrap()
    };
    let odd = halves((0..8192).map(|i| (i % 2) as f32).collect());
    let selected: Vec<u32> = (0..8192).filter(|i| i % 2 == 1).collect();
    let data = dataset(x.clone(), 3, &classes, 3);
    let alone = Dataset::new(data.features().select(&selected).unwrap(), data.labels().select(&selected).unwrap());
    let alone = estimator(Lbfgs::default()).l2(1e-3).fit(&alone.unwrap()).unwrap();
    assert!((odd.objective / alone.objective - 1.0).abs() < 1e-7 && odd.reason == StopReason::Converged);
    let few = halves((0..8192).map(|i| f32::from(u8::from(i % 64 == 1))).collect());
    assert_eq!(few.reason, StopReason::Converged);
}

/// Smoothed labels sum to 1 but for rounding, and the gradient is the derivative of the loss all the same.
#[test]
fn smoothed_labels_have_a_minimum_too() {
    let (x, classes) = overlapping(300, 5, 4);
    let data = dataset(x, 5, &classes, 3);
    let fit =
        estimator(Lbfgs { tolerance: 1e-12, ..Lbfgs::default() }).l2(1e-3).label_smoothing(0.1).fit(&data).unwrap();
    let certificate = fit.certificate.unwrap();
    assert!(
        fit.reason == StopReason::Converged && certificate.gap.unwrap() < 1e-10 * certificate.objective,
        "{certificate:?}"
    );
}

/// Weights that single precision cannot hold are an error, not a model that nobody can load.
#[test]
fn weights_past_single_precision_are_an_error() {
    let (mut x, classes) = overlapping(60, 2, 5);
    let fits = |x: &[f32]| {
        let data = dataset(x.to_vec(), 2, &classes, 3);
        [estimator(Lbfgs::default()).l2(0.0), estimator(Lbfgs::default()).standardize(true)].map(|e| e.fit(&data))
    };
    change_column(&mut x, 2, 0, |_, x| x * 1e-37);
    fits(&x).iter().for_each(|fit| check_is_finite(fit.as_ref().unwrap()));
    change_column(&mut x, 2, 0, |_, x| x * 1e-3);
    for fit in fits(&x) {
        assert!(matches!(fit, Err(Error::NoObjective { .. })), "{fit:?}");
    }
}

/// The covariance of many rows is taken of some of them. Features that are constant among those, here zero in each second row, are
/// trained all the same: as well as when the rows stand so that others are taken.
#[test]
fn features_that_are_rare_are_trained_too() {
    let (n, d, rare) = (5200, 650, [10, 11, 300, 648, 649]);
    let mut random = Random::new(12);
    let mut x = Vec::with_capacity(n * d);
    for _ in 0..n {
        let mut before = random.value();
        x.extend((0..d).map(|_| {
            let noise = random.value();
            (noise + 0.5 * std::mem::replace(&mut before, noise)) * 0.5
        }));
    }
    for (index, &k) in rare.iter().enumerate() {
        change_column(&mut x, d, k, |i, _| if i % 2 == 1 && i / 2 % 65 == 7 * index { 1.0 } else { 0.0 });
    }
    let signal = |row: &[f32]| rare.iter().map(|&k| 2.0 * row[k]).sum::<f32>() + row[0] + row[1] - row[2];
    let classes: Vec<u32> = x.chunks(d).map(|row| u32::from(signal(row) + 2.0 * random.value() > 0.0)).collect();
    let fit = |estimator: SoftmaxRegression, x: &[f32], classes: &[u32]| {
        estimator.fit(&dataset(x.to_vec(), d, classes, 2)).unwrap()
    };
    // The last row comes first.
    let (mut turned, mut turned_classes) = (x.clone(), classes.clone());
    turned.rotate_right(d);
    turned_classes.rotate_right(1);
    for solver in [Solver::from(Lbfgs::default()), NewtonCg::default().into()] {
        for l2 in [0.0, 1e-9] {
            let estimator = estimator(solver.clone()).l2(l2);
            let [found, other] =
                [(&x, &classes), (&turned, &turned_classes)].map(|(x, y)| fit(estimator.clone(), x, y));
            let ratio = found.objective / other.objective - 1.0;
            let what =
                format!("{} {l2}: {ratio:e}, {:?} and {:?} products", solver.name(), found.products, other.products);
            eprintln!("{what}, {:?}", found.certificate);
            assert!(ratio.abs() < 3e-8 && found.reason == StopReason::Converged, "{what}");
            assert!(rare.iter().all(|&k| found.model.weights()[[k, 0]] != 0.0), "{what}");
            assert!(found.products.unwrap() < 2 * other.products.unwrap(), "{what}");
        }
    }
    // The comparison notices one weight that is not trained.
    change_column(&mut x, d, rare[3], |_, _| 0.0);
    let without = fit(estimator(Lbfgs::default()).l2(0.0), &x, &classes).objective;
    let with = fit(estimator(Lbfgs::default()).l2(0.0), &turned, &turned_classes).objective;
    assert!(without > with * (1.0 + 1e-6), "{without} {with}");
}

/// Most features are constant: what is made ready goes by those that are not.
#[test]
fn constant_features_take_no_memory() {
    let (n, d, varying) = (40, 300_000, 30);
    let mut random = Random::new(6);
    let classes: Vec<u32> = (0..n).map(|i| (i % 2) as u32).collect();
    let few: Vec<f32> = (0..n * varying).map(|i| random.value() + (i / varying % 2) as f32 * 0.2).collect();
    // Every ten thousandth feature, the others 1.
    let value = |at: usize| if at % d % 10_000 == 5 { few[at / d * varying + at % d / 10_000] } else { 1.0 };
    let wide: Vec<f32> = (0..n * d).map(value).collect();
    for solver in [Solver::from(Lbfgs::default()), NewtonCg::default().into()] {
        let estimator = estimator(solver).l2(1e-2);
        let wide = estimator.fit(&dataset(wide.clone(), d, &classes, 2)).unwrap();
        let few = estimator.fit(&dataset(few.clone(), varying, &classes, 2)).unwrap();
        let ratio = wide.objective / few.objective - 1.0;
        assert!(ratio.abs() < 3e-8 && wide.reason == StopReason::Converged, "{ratio:e} {}", wide.reason);
    }
}

/// n samples of d features in clouds, `separation` from each other; `shares` of the classes.
fn clouds(n: usize, d: usize, separation: f32, shares: &[usize], seed: u64) -> (Vec<f32>, Vec<u32>) {
    let mut random = Random::new(seed);
    let total: usize = shares.iter().sum();
    let class = |i: usize| {
        shares
            .iter()
            .scan(0, |sum, share| {
                *sum += share;
                Some(*sum)
            })
            .position(|s| i % total < s)
    };
    let classes: Vec<u32> = (0..n).map(|i| class(i).unwrap() as u32).collect();
    let mut x = Vec::with_capacity(n * d);
    for &class in &classes {
        // Nearly normal, of variance 1.
        let row = (0..d).map(|_| random.values(3).iter().sum::<f32>());
        x.extend(row.enumerate().map(|(k, x)| if k == class as usize { x + separation } else { x }));
    }
    (x, classes)
}

/// However early it is stopped and however sure the classes are, the objective is above its minimum by no more than the gap.
#[test]
fn the_gap_is_a_bound_at_any_point() {
    let (n, d) = (300, 5);
    for (separation, l2, l1) in [
        (1.0, 1e-3, 0.0),
        (3.0, 1e-4, 0.0),
        (6.0, 1e-3, 0.0),
        (6.0, 1e-5, 0.0),
        (10.0, 1e-5, 0.0),
        (10.0, 1e-7, 0.0),
        (3.0, 1e-4, 1e-4),
        (6.0, 0.0, 1e-4),
    ] {
        for (shares, n_classes) in [(&[1, 1][..], 2), (&[1, 1, 1], 3), (&[90, 9, 1], 3), (&[1, 1, 1], 5), (&[10, 1], 3)]
        {
            let (x, classes) = clouds(n, d, separation, shares, 21);
            let data = dataset(x, d, &classes, n_classes);
            let fit = |max_iterations, tolerance| {
                let solver = Lbfgs { max_iterations, tolerance, ..Lbfgs::default() };
                estimator(solver).l2(l2).l1(l1).fit(&data).unwrap()
            };
            let exact = fit(3000, 1e-13);
            let least = exact.objective;
            let what = format!("{separation} apart, l2 {l2}, l1 {l1}, {shares:?} of {n_classes}");
            let mut worst = 0.0f64;
            for n_iterations in 1..=30 {
                let certificate = fit(n_iterations, 1e-13).certificate.unwrap();
                let (missing, gap) = (certificate.objective - least, certificate.gap.unwrap());
                // Rounding of probabilities by ε counts as much as the largest logits.
                assert!(missing <= gap + 1e-9 * least + 1e-14, "{what}, {n_iterations}: {missing:e} {gap:e}");
                if missing > 1e-9 * least {
                    worst = worst.max(missing / gap);
                }
            }
            // It says something, in the end and before.
            let gap = exact.certificate.unwrap().gap.unwrap() / least;
            eprintln!(
                "{what}: J {least:e}, gap {gap:e} of it at {}, before up to {worst} of the gap missing",
                exact.reason
            );
            // Where values no longer tell points apart a derivative is up to 1e-9, and the gap its square over 2·l2.
            let least_gap = 1e-5 + 1e-11 / least;
            assert!(gap < if l2 > 0.0 { least_gap } else { 3e-2 } && worst > 1e-3, "{what}: {gap:e} {worst}");
        }
    }
}

/// The loss of classes far apart is small, but with a penalty it has a minimum, which is found.
#[test]
fn classes_far_apart_have_a_minimum_with_a_penalty() {
    let (x, classes) = clouds(300, 5, 10.0, &[1, 1], 8);
    let data = dataset(x.clone(), 5, &classes, 2);
    for (solver, l2, l1) in [
        (Solver::from(Lbfgs::default()), 1e-7, 0.0),
        (NewtonCg::default().into(), 1e-7, 0.0),
        (Lbfgs::default().into(), 0.0, 1e-9),
        (Lbfgs::default().into(), 1e-12, 1e-9),
    ] {
        let exact = estimator(solver.clone()).l2(l2).l1(l1).fit(&data).unwrap();
        let rough: Solver = match &solver {
            Solver::NewtonCg(newton) => NewtonCg { tolerance: 1e-3, ..newton.clone() }.into(),
            _ => Lbfgs { tolerance: 1e-3, ..Lbfgs::default() }.into(),
        };
        let fit = estimator(rough).l2(l2).l1(l1).fit(&data).unwrap();
        let what = format!(
            "{} {l2} {l1}: {} {:e}, {} {:e}",
            solver.name(),
            fit.reason,
            fit.objective,
            exact.reason,
            exact.objective
        );
        eprintln!("{what}");
        assert!(fit.reason != StopReason::Separable && exact.reason != StopReason::Separable, "{what}");
        assert!((fit.objective / exact.objective - 1.0).abs() < 1e-3, "{what}");
    }
    // One feature without a penalty, which tells them apart alone, comes to an end as before.
    for solver in [Solver::from(Lbfgs::default()), NewtonCg::default().into()] {
        for l1 in [0.0, 1e-3] {
            if l1 > 0.0 && solver.name() != "lbfgs" {
                continue;
            }
            let estimator = estimator(solver.clone()).l2(1e-3).l1(l1);
            let fit = estimator.penalty_factors(vec![0.0, 1.0, 1.0, 1.0, 1.0]).fit(&data).unwrap();
            eprintln!("{} {l1}: {} {:e} {:?} products", solver.name(), fit.reason, fit.objective, fit.products);
            assert!(fit.objective < 1e-15 && fit.reason != StopReason::Iterations);
        }
    }
}

/// What is the same in all samples that count has no weight, whatever stands in those that do not.
#[test]
fn a_column_may_vary_in_rows_without_weight_alone() {
    let (d, n) = (5, 3000);
    let (mut x, classes) = overlapping(n, d, 14);
    change_column(&mut x, d, 4, |i, _| if i == 0 { 7.3 } else { 3.1 });
    let weights: Vec<f32> = (0..n).map(|i| if i % 10 == 0 { 0.0 } else { 1.0 }).collect();
    let data = dataset(x, d, &classes, 3).with_weights(weights).unwrap();
    for (l2, l1) in [(0.0, 0.0), (1e-3, 0.0), (0.0, 1e-3)] {
        for estimator in [estimator(Lbfgs::default()), estimator(NewtonCg::default())] {
            let fit = estimator.l2(l2).l1(l1).standardize(true);
            let Ok(fit) = fit.fit(&data) else {
                assert!(l1 > 0.0);
                continue;
            };
            let w = fit.model.weights();
            assert!(w.row(4).iter().all(|w| w.abs() < 1e-9), "{l2} {l1}: {w}");
            assert!(w.row(0).iter().any(|&w| w != 0.0) && fit.model.bias().iter().all(|b| b.abs() < 10.0));
        }
    }
}

/// All samples may be of one class: there is nothing to learn.
#[test]
fn all_samples_may_be_of_one_class() {
    let (x, _) = overlapping(60, 3, 15);
    let data = dataset(x, 3, &[1; 60], 3);
    for solver in [Solver::from(Lbfgs::default()), NewtonCg::default().into()] {
        for (l2, l1) in [(0.0, 0.0), (1e-2, 0.0), (0.0, 1e-2)] {
            if l1 > 0.0 && solver.name() != "lbfgs" {
                continue;
            }
            let fit = estimator(solver.clone()).l2(l2).l1(l1).fit(&data).unwrap();
            eprintln!(
                "one class: {} {l2} {l1}: {} {:?} {:?}",
                solver.name(),
                fit.reason,
                fit.products,
                fit.certificate
            );
            check_is_finite(&fit);
            assert!(fit.objective < 1e-9 && matches!(fit.reason, StopReason::Converged | StopReason::Separable));
        }
    }
}
