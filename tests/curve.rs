//! Learning curves: subsets are what they are said to be, each model is that of its subset, and the figures are those of the models.

mod common;

use std::collections::BTreeSet;

use softreg::data::digits;
use softreg::{
    Curve, Dataset, Device, Error, Features, Folds, Labels, Lbfgs, LearningCurve, Sgd, SoftmaxRegression, SubsetSize,
    Sweep,
};

fn parts() -> (Dataset<'static>, Dataset<'static>) {
    digits().unwrap().split(0.2, 0).unwrap()
}

fn estimator() -> SoftmaxRegression {
    SoftmaxRegression::new().solver(Lbfgs::default())
}

fn curve() -> LearningCurve {
    LearningCurve::new(Sweep::new(estimator()).c([1.0]))
}

/// Samples of each class.
fn counts(data: &Dataset, rows: &[u32]) -> Vec<usize> {
    let mut counts = vec![0; data.n_classes()];
    for &row in rows {
        counts[data.labels().targets().class(row as usize, data.n_classes()).unwrap()] += 1;
    }
    counts
}

fn figures(curve: &Curve) -> Vec<(usize, u64, f64, f64, f64)> {
    let of_point = |point: &softreg::CurvePoint| {
        let n_samples = point.n_samples;
        let of_draw = move |draw: &softreg::Draw| (n_samples, draw.seed, draw.l2, draw.objective, draw.test.log_loss);
        point.draws.iter().map(of_draw).collect::<Vec<_>>()
    };
    curve.points.iter().flat_map(of_point).collect()
}

#[test]
fn subsets_have_k_of_each_class_and_are_nested() {
    let (train, _) = parts();
    let all = counts(&train, &(0..train.n_samples() as u32).collect::<Vec<_>>());
    let sizes_of_shots = [1, 2, 4, 8, 16, 137, 140, 1000].map(SubsetSize::Shots);
    let sizes_of_fractions = [1e-9, 0.01, 0.1, 0.1001, 0.5, 0.999, 1.0].map(SubsetSize::Fraction);
    let mut of_seeds = Vec::new();
    for seed in 0..4 {
        for sizes in [&sizes_of_shots[..], &sizes_of_fractions] {
            let mut before = BTreeSet::new();
            for &size in sizes {
                let rows = size.rows(&train, seed).unwrap();
                let expected: Vec<usize> = match size {
                    SubsetSize::Shots(k) => all.iter().map(|&n| k.min(n)).collect(),
                    SubsetSize::Fraction(f) => all.iter().map(|&n| ((n as f64 * f).round() as usize).max(1)).collect(),
                    _ => panic!("{size}"),
                };
                assert_eq!(counts(&train, &rows), expected, "{size}");
                assert_eq!(rows, size.rows(&train, seed).unwrap());
                let rows: BTreeSet<u32> = rows.into_iter().collect();
                assert_eq!(rows.len(), expected.iter().sum::<usize>());
                assert!(before.is_subset(&rows), "{size}");
                before = rows;
            }
        }
        let rows: BTreeSet<u32> = SubsetSize::Shots(8).rows(&train, seed).unwrap().into_iter().collect();
        // The negative control: other seeds draw other samples, and none the first that there are.
        let first = (0..10).flat_map(|class| {
            let is_of_class = |row: &u32| train.labels().targets().class(*row as usize, 10) == Some(class);
            (0..train.n_samples() as u32).filter(is_of_class).take(8).collect::<Vec<_>>()
        });
        of_seeds.push(first.collect());
        assert!(of_seeds.iter().all(|other| other != &rows && rows.intersection(other).count() < 40), "{seed}");
        of_seeds.push(rows);
    }
}

/// Samples of weight 0 are not there to be drawn, the others keep their weights; soft labels count as their most probable class.
#[test]
fn weights_and_soft_labels_are_those_of_the_samples() {
    let (train, test) = parts();
    let weights: Vec<f32> = (0..train.n_samples()).map(|row| (row % 3) as f32).collect();
    let weighted = train.clone().with_weights(weights.clone()).unwrap();
    for seed in 0..3 {
        let rows = SubsetSize::Shots(20).rows(&weighted, seed).unwrap();
        assert!(counts(&train, &rows) == [20; 10] && rows.iter().all(|row| row % 3 > 0));
        let plain = SubsetSize::Shots(20).rows(&train, seed).unwrap();
        assert!(plain.iter().any(|row| row % 3 == 0));
    }
    let found = curve().shots([20]).seeds(2).fit(&weighted, &test).unwrap();
    for draw in &found.points[0].draws {
        let rows = SubsetSize::Shots(20).rows(&weighted, draw.seed).unwrap();
        let total: f32 = rows.iter().map(|&row| weights[row as usize]).sum();
        assert!((draw.l2 * f64::from(total) - 1.0).abs() < 1e-12 && draw.c == Some(1.0));
        let own = |data: &Dataset| {
            let scaled = estimator().feature_scale(softreg::FeatureScale::Factor(1.0 / 16.0)).l2(draw.l2);
            scaled.fit(&data.select(&rows).unwrap()).unwrap().objective
        };
        assert_eq!(draw.objective, own(&weighted));
        assert!((draw.objective / own(&train) - 1.0).abs() > 1e-3);
    }

    let q = train.n_classes();
    let class = |row: usize| train.labels().targets().class(row, q).unwrap();
    let soft = (0..train.n_samples()).flat_map(|row| (0..q).map(move |j| if j == class(row) { 0.91 } else { 0.01 }));
    let labels = Labels::from_distributions(soft.collect::<Vec<f32>>(), train.classes().to_vec()).unwrap();
    let soft = Dataset::new(train.features().clone(), labels).unwrap();
    let size = SubsetSize::Fraction(0.1);
    assert_eq!(size.rows(&soft, 5).unwrap(), size.rows(&train, 5).unwrap());
}

#[test]
fn each_model_is_the_fit_of_its_subset() {
    let (train, test) = parts();
    let scaled = estimator().feature_scale(softreg::FeatureScale::Factor(1.0 / 16.0));
    #[cfg_attr(not(feature = "gpu"), expect(unused_mut))]
    let mut devices = vec![Device::cpu()];
    #[cfg(feature = "gpu")]
    devices.extend(common::gpu_names().iter().map(|name| Device::named(name).unwrap()));
    for device in devices {
        let sweep = Sweep::new(estimator().device(&device).seed(7)).c([0.3]).l1_ratios([0.25]);
        let found = LearningCurve::new(sweep).fractions([0.5, 0.05, 0.5]).seeds(2).fit(&train, &test).unwrap();
        let sizes: Vec<SubsetSize> = found.points.iter().map(|point| point.size).collect();
        assert_eq!(sizes, [SubsetSize::Fraction(0.05), SubsetSize::Fraction(0.5)]);
        for point in &found.points {
            assert_eq!(point.draws.iter().map(|draw| draw.seed).collect::<Vec<_>>(), [7, 8]);
            for draw in &point.draws {
                let rows = point.size.rows(&train, draw.seed).unwrap();
                let lambda = 1.0 / (0.3 * rows.len() as f64);
                assert!((draw.l2 - 0.75 * lambda).abs() < 1e-12 && (draw.l1 - 0.25 * lambda).abs() < 1e-12);
                let own = |rows: &[u32]| {
                    let own = scaled.clone().device(&device).l2(draw.l2).l1(draw.l1);
                    let fit = own.fit(&train.select(rows).unwrap()).unwrap();
                    (fit.objective, fit.model.on(&device).evaluate(&test).unwrap())
                };
                assert!((draw.objective, draw.test.clone()) == own(&rows), "{}", device.info().name);
                // The negative control: the subset of another seed.
                assert!(own(&point.size.rows(&train, draw.seed + 1).unwrap()).0 != draw.objective);
            }
        }
    }
}

/// To the bit, and with a batch solver fitted once for all seeds.
#[test]
fn all_samples_are_the_plain_fit() {
    let (train, test) = parts();
    for size in [1.0, 0.9] {
        let found = curve().fractions([0.1, size]).seeds(3).fit(&train, &test).unwrap();
        let [_, point] = &found.points[..] else { panic!("{:?}", found.points) };
        let plain = estimator().l2(1.0 / train.n_samples() as f64).fit(&train).unwrap();
        let evaluation = plain.model.evaluate(&test).unwrap();
        let is_plain = |draw: &softreg::Draw| draw.objective == plain.objective && draw.test == evaluation;
        let n_fits = point.draws.iter().filter(|draw| draw.products > 0).count();
        assert!(point.draws.iter().all(is_plain) == (size == 1.0) && n_fits == if size == 1.0 { 1 } else { 3 });
        assert_eq!(point.accuracy_deviation == Some(0.0), size == 1.0);
        assert_eq!(point.n_samples == train.n_samples(), size == 1.0);
    }
    // Each seed is another order of the batches.
    let sgd = SoftmaxRegression::new().solver(Sgd { epochs: Some(5), ..Sgd::default() }).l2(1e-3);
    let found = LearningCurve::new(Sweep::new(sgd.clone())).fractions([1.0]).seeds(2).fit(&train, &test).unwrap();
    let objective = |seed| sgd.clone().seed(seed).fit(&train).unwrap().objective;
    let found: Vec<f64> = found.points[0].draws.iter().map(|draw| draw.objective).collect();
    assert!(found == [objective(0), objective(1)] && found[0] != found[1]);
}

#[test]
fn the_figures_are_those_of_the_draws_and_grow() {
    let (train, test) = parts();
    let found = curve().shots([16, 1, 4]).seeds(5).fit(&train, &test).unwrap();
    assert!(curve().shots([16, 1, 4]).seeds(5).n_draws() == 15 && found.points.len() == 3);
    for point in &found.points {
        let accuracies: Vec<f64> = point.draws.iter().map(|draw| draw.test.accuracy).collect();
        let mean = accuracies.iter().sum::<f64>() / 5.0;
        let deviation = (accuracies.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / 4.0).sqrt();
        assert!((point.accuracy - mean).abs() < 1e-12 && (point.accuracy_deviation.unwrap() - deviation).abs() < 1e-12);
        let losses = point.draws.iter().map(|draw| draw.test.log_loss);
        assert!((point.log_loss - losses.sum::<f64>() / 5.0).abs() < 1e-12 && deviation > 0.0);
    }
    for pair in found.points.windows(2) {
        let noise = pair[0].accuracy_deviation.unwrap() + pair[1].accuracy_deviation.unwrap();
        assert!(pair[1].accuracy > pair[0].accuracy + noise && pair[1].log_loss < pair[0].log_loss, "{pair:?}");
    }
    let one = curve().shots([4]).seeds(1).fit(&train, &test).unwrap();
    assert!(one.points[0].accuracy_deviation.is_none() && one.points[0].log_loss_deviation.is_none());
    // The first draws are the same, however many there are.
    assert_eq!(one.points[0].draws[0].test, found.points[1].draws[0].test);
}

#[test]
fn seeds_make_a_curve_and_threads_do_not() {
    let (train, test) = parts();
    let of = |seed: u64, n_threads: usize| {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        let curve = LearningCurve::new(Sweep::new(estimator().seed(seed)).c([1.0])).shots([2, 50]);
        let mut told = Vec::new();
        let tell = |size: SubsetSize, draw: &softreg::Draw| told.push((size.to_string(), draw.seed));
        let found = threads.install(|| curve.fit_with(&train, &test, tell).unwrap());
        told.sort();
        let (seeds, sizes) = ([seed, seed + 1, seed + 2], ["2 shots", "50 shots"]);
        let expected: Vec<_> = sizes.iter().flat_map(|size| seeds.map(|seed| (size.to_string(), seed))).collect();
        assert_eq!(told, expected);
        figures(&found)
    };
    let alone = of(3, 1);
    assert_eq!(alone, of(3, 3));
    assert_ne!(alone, of(4, 3));
}

/// Of several penalties each subset has what is best on its own folds, whatever the test data says.
#[test]
fn each_subset_chooses_by_its_own_samples() {
    let (train, test) = parts();
    let sweep = Sweep::new(estimator()).c([1e-3, 1e-1, 1e1]);
    for sweep in [sweep.clone().folds(Folds::Stratified(2)), sweep.folds(Folds::Holdout { fraction: 0.5, seed: 0 })] {
        let found = LearningCurve::new(sweep.clone()).shots([4, 30]).seeds(2).fit(&train, &test).unwrap();
        for point in &found.points {
            for draw in &point.draws {
                let subset = train.select(&point.size.rows(&train, draw.seed).unwrap()).unwrap();
                let swept = sweep.fit(&subset).unwrap();
                let chosen = &swept.candidates[swept.chosen];
                assert_eq!((draw.c, draw.l2), (chosen.c, chosen.l2));
                let of_heads: usize = swept.heads.iter().map(|head| head.products).sum();
                assert!(draw.products > of_heads);
            }
        }
    }
    // A learning rate that diverges is not chosen, and is an error where it is the only one.
    let sgd = |rates: &[f64]| {
        let sgd = SoftmaxRegression::new().solver(Sgd { epochs: Some(3), ..Sgd::default() });
        let sweep = Sweep::new(sgd).learning_rates(rates).folds(Folds::Stratified(2));
        LearningCurve::new(sweep).shots([4]).seeds(2).fit(&train, &test)
    };
    assert!(sgd(&[0.1, 1e38]).unwrap().points[0].draws.iter().all(|draw| draw.learning_rate == Some(0.1)));
    let error = sgd(&[1e38]).map(drop).unwrap_err();
    assert!(error.to_string().starts_with("4 shots, seed 0: training diverged in epoch"), "{error}");
}

/// 1 sample of class 0, 6 of class 1, 199 of class 2; none of class 3.
#[test]
fn rare_classes_are_told_of() {
    let classes: Vec<u32> = (0..206).map(|i| if i == 17 { 0 } else { 1 + u32::from(i > 5) }).collect();
    let names = ["rare", "few", "many", "none"].map(str::to_owned).to_vec();
    let x: Vec<f32> = classes.iter().enumerate().map(|(i, &class)| class as f32 + (i % 7) as f32 * 0.1).collect();
    let labels = Labels::from_indices(classes, names).unwrap();
    let data = Dataset::new(Features::new(x, 206, 1).unwrap(), labels).unwrap();
    let warnings = |curve: LearningCurve| curve.seeds(1).fit(&data, &data).unwrap().warnings;
    assert_eq!(
        warnings(curve().shots([1, 4, 7])),
        [
            "4 shots: the class \"rare\" has fewer samples and gives all it has, 1",
            "7 shots: 2 classes have fewer samples and give all they have, \"rare\" only 1"
        ]
    );
    assert_eq!(
        warnings(curve().fractions([0.001, 0.3, 1.0])),
        [
            "the fraction 0.001: that is less than half a sample of 3 classes, which give one; \"rare\" has 1",
            "the fraction 0.3: that is less than half a sample of the class \"rare\", which has 1 and gives one",
        ]
    );
    let found = curve().shots([1, 7]).fit(&data, &data).unwrap();
    assert_eq!(found.points.iter().map(|point| point.n_samples).collect::<Vec<_>>(), [3, 14]);
    let several = || Sweep::new(estimator()).c([0.1, 1.0]);
    let error = LearningCurve::new(several()).shots([300]).fit(&data, &data).map(drop).unwrap_err();
    assert!(error.to_string().contains("several penalties or learning rates at 300 shots"), "{error}");
}

#[test]
fn what_makes_no_curve_is_an_error() {
    let (train, test) = parts();
    let several = || Sweep::new(estimator()).c([0.1, 1.0]);
    let groups = vec![0; train.n_samples()];
    for (curve, message) in [
        (curve(), "the sizes of a learning curve is empty"),
        (curve().shots([]), "the sizes of a learning curve is empty"),
        (curve().shots([4, 0]), "the number of shots is 0, but must be at least 1"),
        (curve().fractions([0.5, 0.0]), "a fraction of the training data is 0, but must be above 0 and at most 1"),
        (curve().fractions([1.5]), "is 1.5"),
        (curve().fractions([-0.5]), "is -0.5"),
        (curve().fractions([0.5, f64::NAN]), "is NaN"),
        (curve().shots([4]).seeds(0), "the number of seeds is 0"),
        (LearningCurve::new(Sweep::new(estimator())).shots([1, 2]), "at 1 shot, but must be one of each"),
        (LearningCurve::new(several().folds(Folds::Holdout { fraction: 0.5, seed: 0 })).shots([1]), "at 1 shot"),
        (LearningCurve::new(several().folds(Folds::Grouped(3, groups))).shots([9]), "the groups of a learning curve"),
        (LearningCurve::new(Sweep::new(estimator()).c([-1.0])).shots([1]), "a strength of the penalty is -1"),
        (LearningCurve::new(Sweep::new(estimator().validation(0.1)).c([1.0])).shots([9]), "the validation data"),
        (
            LearningCurve::new(Sweep::new(estimator().checkpoint("never-written", softreg::Every::Epochs(1))).c([1.0]))
                .shots([9]),
            "the checkpoint of a learning curve",
        ),
        (
            LearningCurve::new(several().folds(Folds::Stratified(50))).shots([4]),
            "4 shots, seed 0: the number of folds is 50",
        ),
    ] {
        let error = curve.fit(&train, &test).map(drop).unwrap_err();
        assert!(error.to_string().contains(message), "{message}: {error}");
    }
    let narrow = Dataset::new(Features::new(vec![1.0f32; 2], 2, 1).unwrap(), Labels::from_integers(&[0, 1]).unwrap());
    let error = curve().shots([1]).fit(&train, &narrow.unwrap()).map(drop).unwrap_err();
    assert!(matches!(error, Error::Width { model: 64, data: 1 }), "{error}");
    let other =
        Dataset::new(Features::new(vec![1.0f32; 128], 2, 64).unwrap(), Labels::from_names(&["3", "x"]).unwrap());
    let error = curve().shots([1]).fit(&train, &other.unwrap()).map(drop).unwrap_err();
    assert!(matches!(&error, Error::UnknownLabel { label, .. } if label == "x"), "{error}");
}
