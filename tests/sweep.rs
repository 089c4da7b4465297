//! Cross-validated penalties: each model is that of a fit of its own, whatever goes on beside it, and the choice is the best.

use softreg::data::digits;
use softreg::{Criterion, Dataset, Error, Folds, Lbfgs, Rule, Sgd, SoftmaxRegression, Sweep, Swept};

const C: [f64; 4] = [1e-3, 1e-1, 1e1, 1e3];

fn estimator() -> SoftmaxRegression {
    SoftmaxRegression::new().solver(Lbfgs { tolerance: 1e-9, ..Lbfgs::default() })
}

fn sweep() -> Sweep {
    Sweep::new(estimator()).tolerance(1e-9).c(C).folds(Folds::Stratified(3))
}

/// The samples that are not in a fold.
fn without(data: &Dataset, folds: &[u32], fold: usize) -> Dataset<'static> {
    let rows: Vec<u32> = (0..folds.len() as u32).filter(|&row| folds[row as usize] as usize != fold).collect();
    data.select(&rows).unwrap()
}

#[test]
fn each_head_is_a_fit_of_its_own() {
    let all = digits().unwrap();
    let all = all.select(&(0..all.n_samples() as u32).step_by(3).collect::<Vec<_>>()).unwrap();
    let folds = Folds::Stratified(3).of(all.labels()).unwrap();
    let weights: Vec<f32> = (0..all.n_samples()).map(|i| (i % 3) as f32 * 0.7).collect();
    for data in [all.clone(), all.with_weights(weights).unwrap()] {
        for l1_ratio in [0.0, 0.5] {
            let swept = sweep().c([1.0, 0.1, 0.01]).l1_ratios([l1_ratio]).fit(&data).unwrap();
            assert_eq!((swept.heads.len(), swept.candidates.len()), (9, 3));
            for head in &swept.heads {
                let train = without(&data, &folds, head.fold);
                let total = train.weights().map_or(train.n_samples() as f64, |w| w.iter().map(|&w| f64::from(w)).sum());
                let c = swept.candidates[head.candidate].c.unwrap();
                let lambda = 1.0 / (c * total);
                assert!((head.l2 - (1.0 - l1_ratio) * lambda).abs() < 1e-9 * lambda, "{head:?}");
                assert!((head.l1 - l1_ratio * lambda).abs() < 1e-9 * lambda, "{head:?}");
                let own = estimator().feature_scale(softreg::FeatureScale::Factor(1.0 / 16.0));
                let own = own.l2(head.l2).l1(head.l1).fit(&train).unwrap();
                let difference = head.objective / own.objective - 1.0;
                assert!(difference.abs() < 1e-7, "{l1_ratio} {c}: {difference:e}");
                let held_out: Vec<u32> =
                    (0..folds.len() as u32).filter(|&row| folds[row as usize] as usize == head.fold).collect();
                let expected = own.model.evaluate(&data.select(&held_out).unwrap()).unwrap();
                let (found, expected) = (head.validation.log_loss, expected.log_loss);
                assert!((found - expected).abs() < 2e-3 * expected, "{l1_ratio} {c}: {found} {expected}");
                // The negative control: the model of another penalty is another, unless all weights are 0.
                let other = own_loss(&train, head.l2 * 3.0, head.l1 * 3.0);
                assert!((head.objective / other - 1.0).abs() > 1e-4 || c < 0.02 && head.l1 > 0.0);
            }
        }
    }
}

/// A search is less exact than a fit, and not so much that it would matter.
#[test]
fn the_tolerance_of_a_search_is_enough() {
    let data = digits().unwrap();
    let grid = |estimator| Sweep::new(estimator).c(C).folds(Folds::Stratified(3));
    let exact = sweep().fit(&data).unwrap();
    let found = grid(estimator()).fit(&data).unwrap();
    let worst = |found: &Swept| {
        let pairs = found.candidates.iter().zip(&exact.candidates);
        pairs.map(|(found, exact)| (found.log_loss - exact.log_loss).abs()).fold(0.0, f64::max)
    };
    let products = |swept: &Swept| swept.heads.iter().map(|head| head.products).sum::<usize>();
    assert!(worst(&found) < 1e-3 && found.chosen == exact.chosen, "{}", worst(&found));
    assert!(products(&found) < products(&exact));
    // The negative control, and a larger tolerance of the estimator.
    let rough = grid(SoftmaxRegression::new().solver(Lbfgs { tolerance: 0.3, ..Lbfgs::default() })).fit(&data).unwrap();
    assert!(worst(&rough) > 1e-3 && products(&rough) < products(&found), "{}", worst(&rough));
}

fn own_loss(train: &Dataset, l2: f64, l1: f64) -> f64 {
    let scale = softreg::FeatureScale::Factor(1.0 / 16.0);
    estimator().feature_scale(scale).l2(l2).l1(l1).fit(train).unwrap().objective
}

#[test]
fn the_best_is_chosen_and_fitted_on_all_samples() {
    let data = digits().unwrap();
    let swept = sweep().fit(&data).unwrap();
    let losses: Vec<f64> = swept.candidates.iter().map(|candidate| candidate.log_loss).collect();
    assert!(losses.iter().all(|&loss| loss >= losses[swept.chosen]));
    assert!(swept.chosen != 0 && swept.chosen != 3, "a grid that the best is inside of: {losses:?}");
    let strengths: Vec<f64> = swept.candidates.iter().map(|candidate| candidate.c.unwrap()).collect();
    assert!(strengths.iter().zip(C).all(|(found, given)| (found / given - 1.0).abs() < 1e-12), "{strengths:?}");
    for (index, candidate) in swept.candidates.iter().enumerate() {
        let of_folds: Vec<f64> =
            swept.heads.iter().filter(|head| head.candidate == index).map(|head| head.validation.log_loss).collect();
        let mean = of_folds.iter().sum::<f64>() / 3.0;
        let variance = of_folds.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / 2.0;
        assert!((candidate.log_loss - mean).abs() < 1e-12 && of_folds.len() == 3);
        assert!((candidate.log_loss_error - (variance / 3.0).sqrt()).abs() < 1e-12);
    }
    let chosen = &swept.candidates[swept.chosen];
    let own = own_loss(&data, chosen.l2, chosen.l1);
    assert!((swept.fit.objective / own - 1.0).abs() < 1e-7);

    let accurate = sweep().criterion(Criterion::Accuracy).fit(&data).unwrap();
    let best = accurate.candidates.iter().map(|candidate| candidate.accuracy).fold(0.0, f64::max);
    assert_eq!(accurate.candidates[accurate.chosen].accuracy, best);
    // Folds of 600 digits do not tell neighbours of a fine grid apart.
    let fine: Vec<f64> = (0..9).map(|i| 10f64.powf(-0.5 + 0.25 * f64::from(i))).collect();
    let one = |rule| sweep().c(fine.clone()).rule(rule).fit(&data).unwrap();
    let (best, simple) = (one(Rule::Best), one(Rule::OneStandardError));
    let table: Vec<_> = best.candidates.iter().map(|c| (c.c.unwrap(), c.log_loss, c.log_loss_error)).collect();
    assert!(simple.chosen < best.chosen, "{} {} {table:?}", simple.chosen, best.chosen);
    let limit = best.candidates[best.chosen].log_loss + best.candidates[best.chosen].log_loss_error;
    assert!(simple.candidates[simple.chosen].log_loss <= limit);
    assert!(simple.candidates[simple.chosen - 1].log_loss > limit);
}

#[test]
fn threads_and_the_order_of_the_samples_are_no_matter() {
    let data = digits().unwrap();
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let several = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let (alone, several) =
        (alone.install(|| sweep().fit(&data)).unwrap(), several.install(|| sweep().fit(&data)).unwrap());
    let figures = |swept: &Swept| {
        (swept.candidates.clone(), swept.heads.iter().map(|head| head.objective).collect::<Vec<_>>(), swept.chosen)
    };
    assert_eq!(figures(&alone), figures(&several));
    assert_eq!(alone.fit.model.weights(), several.fit.model.weights());
    let others = sweep().folds(Folds::Contiguous(3)).fit(&data).unwrap();
    assert_ne!(figures(&alone).0, figures(&others).0);

    let mut told = Vec::new();
    let swept = sweep().fit_with(&data, |head| told.push((head.fold, head.candidate))).unwrap();
    told.sort();
    assert_eq!(told, swept.heads.iter().map(|head| (head.fold, head.candidate)).collect::<Vec<_>>());
    assert_eq!(told.len(), sweep().n_heads());
}

#[test]
fn what_cannot_be_searched_is_an_error() {
    let data = digits().unwrap();
    let sgd = Sweep::new(SoftmaxRegression::new().solver(Sgd::default()));
    for sweep in [
        sweep().c([]),
        sweep().c([1.0, -1.0]),
        sweep().c([f64::NAN]),
        sweep().penalties([0.0]),
        sweep().l1_ratios([]),
        sweep().l1_ratios([1.5]),
        sweep().folds(Folds::Stratified(1)),
        sweep().folds(Folds::Contiguous(1_000_000)),
        Sweep::new(estimator().validation(0.2)),
        Sweep::new(estimator().checkpoint("never-written", softreg::Every::Epochs(1))),
        sgd,
    ] {
        let error = sweep.fit(&data).map(drop).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{error}");
    }
}

/// In whatever memory; the passes are in common where there is more than one path at a time.
#[test]
fn paths_side_by_side_are_those_of_one_at_a_time() {
    let data = digits().unwrap();
    let of = |sweep: Sweep| {
        let swept = sweep.fit(&data).unwrap();
        let heads: Vec<_> = swept.heads.iter().map(|head| (head.objective, head.validation.clone())).collect();
        let products: usize = swept.heads.iter().map(|head| head.products).sum();
        (swept.fit.model, heads, swept.passes.unwrap(), products)
    };
    let side_by_side = of(sweep());
    let alone = of(sweep().memory(1));
    assert!(side_by_side.0 == alone.0 && side_by_side.1 == alone.1 && side_by_side.3 == alone.3);
    // Where all go on at once a pass is for three folds, of which not all need as many.
    assert!(2 * side_by_side.2 < alone.2, "{} {}", side_by_side.2, alone.2);
    let other = of(sweep().folds(Folds::Contiguous(3)));
    assert!(other.1 != alone.1);
}
