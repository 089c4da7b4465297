//! Cross-validated penalties and learning rates: each model is that of a fit of its own, whatever goes on beside it, and the choice is
//! the best.

mod common;

use softreg::data::digits;
use softreg::{
    AdamW, Criterion, Dataset, Device, Error, FeatureScale, Folds, Labels, Lbfgs, Rule, Sgd, SoftmaxRegression, Solver,
    StopReason, Sweep, Swept,
};

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

/// With a single fold the models are of the samples that are not held out, and nothing tells how far the folds are apart.
#[test]
fn a_holdout_is_a_single_fold() {
    let data = digits().unwrap();
    let folds = Folds::Holdout { fraction: 0.2, seed: 3 };
    let holdout = || sweep().folds(folds.clone());
    let swept = holdout().fit(&data).unwrap();
    assert_eq!((swept.heads.len(), holdout().n_heads(), swept.candidates.len()), (4, 4, 4));
    let fold_of = folds.of(data.labels()).unwrap();
    let train = without(&data, &fold_of, 0);
    assert_eq!(train.n_samples() + swept.heads[0].validation.n_samples, data.n_samples());
    for head in &swept.heads {
        let candidate = &swept.candidates[head.candidate];
        assert_eq!((candidate.log_loss, candidate.log_loss_error), (head.validation.log_loss, 0.0));
        assert!((head.l2 * candidate.c.unwrap() * train.n_samples() as f64 - 1.0).abs() < 1e-9);
        assert!((head.objective / own_loss(&train, head.l2, 0.0) - 1.0).abs() < 1e-7);
        assert!((head.objective / own_loss(&data, head.l2, 0.0) - 1.0).abs() > 1e-6);
    }
    let chosen = &swept.candidates[swept.chosen];
    assert!((swept.fit.objective / own_loss(&data, chosen.l2, 0.0) - 1.0).abs() < 1e-7);
    let others = sweep().folds(Folds::Holdout { fraction: 0.2, seed: 4 }).fit(&data).unwrap();
    assert_ne!(swept.candidates, others.candidates);
    let error = holdout().rule(Rule::OneStandardError).fit(&data).map(drop).unwrap_err();
    assert!(error.to_string().contains("single fold"), "{error}");
}

/// A class that the models of a fold would never see is an error that names it; one that some folds have not is a warning.
#[test]
fn rare_classes_are_told_of() {
    let all = digits().unwrap();
    let with_rare = |n_rare: usize| {
        let name = |i: usize| if i % 50 == 7 && i / 50 < n_rare { "rare".to_owned() } else { (i % 3).to_string() };
        let names: Vec<String> = (0..300).map(name).collect();
        let features = all.select(&(0..300).collect::<Vec<_>>()).unwrap().features().clone();
        Dataset::new(features, Labels::from_names(&names).unwrap()).unwrap()
    };
    let of = |n_rare, folds| sweep().c([0.1]).folds(folds).fit(&with_rare(n_rare));
    for (n_rare, folds) in [(1, Folds::Stratified(3)), (1, Folds::Contiguous(3)), (2, Folds::Contiguous(2))] {
        let error = of(n_rare, folds).map(drop).unwrap_err();
        assert!(
            matches!(&error, Error::Fold { class, n_samples, .. } if class == "rare" && *n_samples == n_rare),
            "{error}"
        );
        assert!(error.to_string().contains("has all samples of the class \"rare\""), "{error}");
    }
    // A class of two is in two of three folds; a single sample is not held out.
    for (n_rare, folds) in [(2, Folds::Stratified(3)), (1, Folds::Holdout { fraction: 0.3, seed: 0 })] {
        let swept = of(n_rare, folds).unwrap();
        assert!(matches!(&swept.warnings[..], [one] if one.contains("rare")), "{:?}", swept.warnings);
    }
    assert!(of(3, Folds::Stratified(3)).unwrap().warnings.is_empty());
    assert!(sweep().fit(&all).unwrap().warnings.is_empty());
}

/// The CPU, and each GPU where there are any.
fn devices() -> Vec<Device> {
    #[cfg_attr(not(feature = "gpu"), expect(unused_mut))]
    let mut devices = vec![Device::cpu()];
    #[cfg(feature = "gpu")]
    devices.extend(common::gpu_names().iter().map(|name| Device::named(name).unwrap()));
    devices
}

fn sgd() -> Sgd {
    Sgd { epochs: Some(4), batch_size: 32, ..Sgd::default() }
}

/// The samples that are not in a fold, in the order in which a sweep has them.
fn in_order_of_folds(data: &Dataset, folds: &[u32], left_out: u32) -> Dataset<'static> {
    let mut rows: Vec<u32> = (0..folds.len() as u32).filter(|&row| folds[row as usize] != left_out).collect();
    rows.sort_by_key(|&row| folds[row as usize]);
    data.select(&rows).unwrap()
}

#[test]
fn models_side_by_side_are_fits_of_their_own() {
    let data = digits().unwrap();
    let scale = FeatureScale::Factor(1.0 / 16.0);
    let weights: Vec<f32> = (0..data.n_samples()).map(|i| (i % 3) as f32 + 0.1).collect();
    let weighted = data.clone().with_weights(weights).unwrap();
    let adamw = AdamW { epochs: Some(3), batch_size: 64, weight_decay: 0.01, ..AdamW::default() };
    let folds = Folds::Stratified(3);
    let fold_of = folds.of(data.labels()).unwrap();
    let (rates, penalties) = ([0.3, 0.02], [1e-5, 1e-2]);
    for device in devices() {
        for (data, solver) in [(&data, Solver::from(sgd())), (&weighted, adamw.clone().into())] {
            let what = format!("{}: {}", device.info().name, solver.name());
            let estimator =
                SoftmaxRegression::new().solver(solver.clone()).feature_scale(scale).seed(5).device(&device);
            let sweep = Sweep::new(estimator.clone()).folds(folds.clone()).learning_rates(rates).penalties(penalties);
            let sweep = sweep.seeds(2);
            let swept = sweep.fit(data).unwrap();
            assert_eq!((swept.heads.len(), sweep.n_heads(), swept.candidates.len()), (24, 24, 4), "{what}");
            let own_solver = |rate| match solver.clone() {
                Solver::Sgd(sgd) => Solver::from(Sgd { learning_rate: Some(rate), ..sgd }),
                Solver::AdamW(adamw) => AdamW { learning_rate: Some(rate), ..adamw }.into(),
                other => other,
            };
            for head in swept.heads.iter().filter(|head| head.fold == 1) {
                let candidate = &swept.candidates[head.candidate];
                let expected = (rates[1 - head.candidate / 2], penalties[1 - head.candidate % 2]);
                assert_eq!((candidate.learning_rate.unwrap(), candidate.l2), expected, "{what}");
                assert_eq!((head.learning_rate.unwrap(), head.l2), expected, "{what}");
                let own = |rate: f64, seed: u64| {
                    let own = estimator.clone().solver(own_solver(rate)).l2(head.l2).seed(seed);
                    own.fit(&in_order_of_folds(data, &fold_of, 1)).unwrap()
                };
                let rate = head.learning_rate.unwrap();
                let alone = own(rate, head.seed);
                let held_out: Vec<u32> = (0..fold_of.len() as u32).filter(|&row| fold_of[row as usize] == 1).collect();
                let held_out = data.select(&held_out).unwrap();
                let difference = |fit: &softreg::Fit| {
                    let validation = fit.model.evaluate(&held_out).unwrap();
                    let of_validation = (head.validation.log_loss / validation.log_loss - 1.0).abs();
                    of_validation.max((head.objective / fit.objective - 1.0).abs())
                };
                assert!(difference(&alone) < 1e-5, "{what}: {} {head:?}", difference(&alone));
                assert_eq!((head.n_iterations, head.reason), (alone.epochs.len(), StopReason::Epochs));
                // The negative control: another learning rate, another seed.
                assert!(difference(&own(rate * 1.01, head.seed)) > 1e-5, "{what}");
                assert!(difference(&own(rate, 7)) > 1e-5, "{what}");
            }
            let chosen = &swept.candidates[swept.chosen];
            assert_eq!(swept.fit.learning_rate, chosen.learning_rate);
            assert!(swept.candidates.iter().all(|candidate| candidate.log_loss >= chosen.log_loss), "{what}");
            let own = estimator.solver(own_solver(chosen.learning_rate.unwrap())).l2(chosen.l2).fit(data).unwrap();
            assert!(own.model == swept.fit.model, "{what}");
        }
    }
}

/// A learning rate that is too high counts as the worst; when all are, that is the error.
#[test]
fn models_that_diverge_do_not_end_the_others() {
    let data = digits().unwrap();
    for device in devices() {
        let estimator = SoftmaxRegression::new().solver(sgd()).device(&device);
        let with = |rates: &[f64]| {
            let sweep = Sweep::new(estimator.clone()).folds(Folds::Holdout { fraction: 0.2, seed: 0 });
            sweep.learning_rates(rates).criterion(Criterion::Accuracy)
        };
        let swept = with(&[0.05, 1e38, 0.1]).fit(&data).unwrap();
        let reasons: Vec<_> = swept.heads.iter().map(|head| head.reason).collect();
        assert_eq!(reasons, [StopReason::Epochs, StopReason::Epochs, StopReason::Diverged]);
        assert!(swept.candidates[2].log_loss.is_infinite() && swept.candidates[2].accuracy == 0.0);
        assert!(swept.chosen < 2 && swept.candidates[swept.chosen].accuracy > 0.9);
        // Those beside are as without it.
        let without = with(&[0.05, 0.1]).fit(&data).unwrap();
        for (head, other) in swept.heads.iter().zip(&without.heads) {
            assert!((head.objective / other.objective - 1.0).abs() < 1e-5, "{} {}", head.objective, other.objective);
        }
        let error = with(&[1e37, 1e38]).fit(&data).map(drop).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{error}");
    }
}

/// The default learning rate is that of a fit, whatever the unit of the features.
#[test]
fn the_learning_rate_may_be_left_to_the_data() {
    let data = digits().unwrap();
    for scale in [FeatureScale::Auto, FeatureScale::Factor(1.0)] {
        let estimator = SoftmaxRegression::new().solver(sgd()).l2(1e-3).feature_scale(scale);
        let swept = Sweep::new(estimator.clone()).folds(Folds::Holdout { fraction: 0.5, seed: 0 }).fit(&data).unwrap();
        let [candidate] = &swept.candidates[..] else { panic!("{:?}", swept.candidates) };
        assert_eq!((candidate.l2, candidate.learning_rate), (1e-3, None));
        let own = estimator.fit(&data).unwrap();
        assert!(own.model == swept.fit.model);
        let rate = swept.heads[0].learning_rate.unwrap();
        assert!((rate / own.learning_rate.unwrap() - 1.0).abs() < 0.1, "{rate} {:?}", own.learning_rate);
    }
}

/// Penalties around the best are tried, in rounds, as though they had been in the grid.
#[test]
fn a_search_is_refined_around_the_best() {
    let data = digits().unwrap();
    let coarse = |folds: &Folds| sweep().c([1e-4, 1e-2, 1.0, 1e2]).folds(folds.clone());
    for folds in [Folds::Holdout { fraction: 0.2, seed: 0 }, Folds::Stratified(3)] {
        let swept = coarse(&folds).refine(8.0).fit(&data).unwrap();
        let strengths: Vec<f64> = swept.candidates.iter().map(|candidate| candidate.c.unwrap()).collect();
        assert!(strengths.is_sorted() && strengths.len() > 8, "{strengths:?}");
        assert_eq!(swept.heads.len(), strengths.len() * folds.n_folds());
        assert!(swept.heads.len() <= coarse(&folds).refine(8.0).n_heads());
        for (index, c) in strengths.iter().enumerate() {
            // On the grid of eight a decade, and of the candidate that they say.
            let steps = c.log10() * 8.0;
            assert!((steps - steps.round()).abs() < 1e-6, "{c}");
            let train = |head: &softreg::Head| data.n_samples() - head.validation.n_samples;
            let of_candidate = swept.heads.iter().filter(|head| head.candidate == index);
            assert!(of_candidate.clone().count() == folds.n_folds());
            assert!(of_candidate.clone().all(|head| (head.l2 * c * train(head) as f64 - 1.0).abs() < 1e-9));
        }
        let loss = |index: usize| swept.candidates[index].log_loss;
        let best = swept.chosen;
        assert!((0..strengths.len()).all(|index| loss(index) >= loss(best)));
        for neighbour in [best - 1, best + 1] {
            assert!((strengths[neighbour] / strengths[best]).log10().abs() < 0.126, "{strengths:?} {best}");
        }
        let unrefined = coarse(&folds).fit(&data).unwrap();
        assert!(unrefined.candidates.len() == 4 && loss(best) < unrefined.candidates[unrefined.chosen].log_loss);
        let whole = sweep().c(strengths).folds(folds.clone()).fit(&data).unwrap();
        assert_eq!(whole.chosen, best);
        for (found, expected) in swept.candidates.iter().zip(&whole.candidates) {
            assert!((found.log_loss - expected.log_loss).abs() < 1e-5 * expected.log_loss.max(1.0));
        }
        let chosen = &swept.candidates[best];
        assert!((swept.fit.objective / own_loss(&data, chosen.l2, 0.0) - 1.0).abs() < 1e-7);
    }
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
    let sgd = || Sweep::new(SoftmaxRegression::new().solver(sgd()));
    for sweep in [
        sweep().c([]),
        sweep().c([1.0, -1.0]),
        sweep().c([f64::NAN]),
        sweep().penalties([0.0]),
        sweep().l1_ratios([]),
        sweep().l1_ratios([1.5]),
        sweep().folds(Folds::Stratified(1)),
        sweep().folds(Folds::Contiguous(1_000_000)),
        sweep().folds(Folds::Holdout { fraction: 1.0, seed: 0 }),
        sweep().learning_rates([0.1]),
        sweep().seeds(2),
        sweep().refine(0.0),
        sweep().refine(8.0).l1_ratios([0.0, 0.5]),
        Sweep::new(estimator().validation(0.2)),
        Sweep::new(estimator().checkpoint("never-written", softreg::Every::Epochs(1))),
        Sweep::new(SoftmaxRegression::new().solver(Sgd { batch_size: 0, ..Sgd::default() })),
        Sweep::new(SoftmaxRegression::new().solver(Sgd::default()).standardize(true)),
        sgd().learning_rates([]),
        sgd().learning_rates([0.1, 0.0]),
        sgd().learning_rates([f64::NAN]),
        sgd().penalties([-1.0]),
        sgd().c([0.0]),
        sgd().l1_ratios([0.5]),
        sgd().refine(8.0),
        sgd().seeds(0),
    ] {
        let error = sweep.fit(&data).map(drop).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{error}");
    }
}

/// Each fold but the first takes fewer products than its path alone, which nothing tells how it will bend.
#[test]
fn folds_follow_the_first() {
    let data = digits().unwrap();
    let n_folds = 5;
    let c = [1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0];
    let sweep = Sweep::new(estimator()).tolerance(1e-5).c(c);
    let folds = Folds::Stratified(n_folds).of(data.labels()).unwrap();
    let (mut following, mut alone) = (0, 0);
    let products = |heads: &[softreg::Head], fold| -> usize {
        heads.iter().filter(|head| head.fold == fold).map(|head| head.products).sum()
    };
    let together = sweep.clone().folds(Folds::Stratified(n_folds)).fit(&data).unwrap();
    for fold in 1..n_folds {
        // Of two folds none follows; the second, the smaller group, has the samples of this one.
        let groups = folds.iter().map(|&of| u32::from(of as usize == fold)).collect();
        let by_itself = sweep.clone().folds(Folds::Grouped(2, groups)).fit(&data).unwrap();
        following += products(&together.heads, fold);
        alone += products(&by_itself.heads, 1);
    }
    println!("{following} products of {alone}");
    assert!(20 * following < 19 * alone, "{following} of {alone}");
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
    let sweep = || sweep().folds(Folds::Stratified(5));
    let side_by_side = of(sweep());
    let alone = of(sweep().memory(1));
    assert!(side_by_side.0 == alone.0 && side_by_side.1 == alone.1 && side_by_side.3 == alone.3);
    // After the first fold a pass is for four, of which not all need as many.
    assert!(2 * side_by_side.2 < alone.2, "{} {}", side_by_side.2, alone.2);
    let other = of(sweep().folds(Folds::Contiguous(5)));
    assert!(other.1 != alone.1);
}
