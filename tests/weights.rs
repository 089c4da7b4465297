//! Weights of samples and classes, label smoothing, and the figures of evaluations, as an application uses them.

use softreg::data::Targets;
use softreg::{ClassWeight, Dataset, Error, FeatureScale, Features, Fit, Labels, Sgd, SoftmaxRegression, data};

/// Overlapping clouds around three points, `counts` samples of each, in turns as far as they go.
fn clouds(counts: [usize; 3]) -> Dataset<'static> {
    let (mut x, mut classes) = (Vec::new(), Vec::new());
    let most = counts.into_iter().max().unwrap();
    for i in 0..most {
        for class in (0..3).filter(|&class| i < counts[class]) {
            let [a, b] = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]][class];
            let noise = |k: usize| ((i * k + 13 * class) % 101) as f32 / 50.0 - 1.0;
            x.extend([a + noise(37), b + noise(59)]);
            classes.push(class as u32);
        }
    }
    let n = classes.len();
    let labels = Labels::from_indices(classes, ["a", "b", "c"].map(str::to_owned).to_vec()).unwrap();
    Dataset::new(Features::new(x, n, 2).unwrap(), labels).unwrap()
}

/// With the whole data as a batch, so that the optimum is reached but for rounding.
fn optimum() -> SoftmaxRegression {
    let sgd = Sgd { epochs: Some(3000), batch_size: usize::MAX, ..Sgd::default() };
    SoftmaxRegression::new().solver(sgd).l2(1e-2)
}

#[track_caller]
fn assert_same(a: &Fit, b: &Fit, tolerance: f32) {
    let values = |fit: &Fit| -> Vec<f32> { fit.model.weights().iter().chain(fit.model.bias()).copied().collect() };
    for (a, b) in values(a).into_iter().zip(values(b)) {
        assert!((a - b).abs() < tolerance, "{a} and {b}");
    }
    assert!((a.objective - b.objective).abs() < 1e-5, "{} and {}", a.objective, b.objective);
}

#[test]
fn a_weight_is_how_often_a_sample_is_there() {
    let plain = clouds([60, 40, 20]);
    let n = plain.n_samples();
    let counts: Vec<u32> = (0..n as u32).map(|i| [1, 0, 3, 2, 1][i as usize * 7 % 5]).collect();
    let rows: Vec<u32> =
        (0..n as u32).flat_map(|row| std::iter::repeat_n(row, counts[row as usize] as usize)).collect();
    let repeated =
        Dataset::new(plain.features().select(&rows).unwrap(), plain.labels().select(&rows).unwrap()).unwrap();
    let expected = optimum().fit(&repeated).unwrap();
    for factor in [1.0, 1e-6, 1e30] {
        let weights: Vec<f64> = counts.iter().map(|&count| f64::from(count) * factor).collect();
        let fit = optimum().fit(&plain.clone().with_weights(weights).unwrap()).unwrap();
        assert_same(&fit, &expected, 1e-3);
        assert!((fit.train.log_loss - expected.train.log_loss).abs() < 1e-5);
        assert!((fit.train.accuracy - expected.train.accuracy).abs() < 1e-3);
        // Counts stay counts.
        assert_eq!(fit.train.n_samples, n);
        assert_eq!(fit.train.classes.iter().map(|class| class.support).sum::<usize>(), n);
        // The loss of the last epoch is the weighted one.
        let last = fit.epochs.last().unwrap().loss;
        assert!((last - expected.epochs.last().unwrap().loss).abs() < 1e-5, "{last}");
    }
    let other = optimum().fit(&plain).unwrap();
    assert!((other.objective - expected.objective).abs() > 1e-3, "weights make a difference");
}

#[test]
fn equal_weights_are_none() {
    let data = clouds([50, 30, 20]);
    let estimator = SoftmaxRegression::new().solver(Sgd { epochs: Some(3), ..Sgd::default() });
    let plain = estimator.fit(&data).unwrap();
    let weighted = estimator.fit(&data.clone().with_weights(vec![0.3f32; 100]).unwrap()).unwrap();
    assert_eq!(plain.model.weights(), weighted.model.weights());
}

#[test]
fn balanced_classes_are_those_of_the_weights_by_name_and_of_repetition() {
    let data = clouds([80, 40, 20]);
    let balanced = optimum().class_weight(ClassWeight::Balanced).fit(&data).unwrap();
    let names = vec![("c".to_owned(), 4.0), ("b".to_owned(), 2.0)];
    let by_name = optimum().class_weight(ClassWeight::Map(names)).fit(&data).unwrap();
    assert_same(&balanced, &by_name, 1e-3);
    let weights: Vec<f32> =
        (0..140).map(|row| [1.0, 2.0, 4.0][data.labels().targets().class(row, 3).unwrap()]).collect();
    let by_sample = optimum().fit(&data.clone().with_weights(weights).unwrap()).unwrap();
    assert_same(&balanced, &by_sample, 1e-3);
    // The rarest class is found more often, and the figures are of the data as it is.
    let plain = optimum().fit(&data).unwrap();
    let recall = |fit: &Fit| fit.train.classes[2].recall().unwrap();
    assert!(recall(&balanced) > recall(&plain) + 0.1, "{} and {}", recall(&balanced), recall(&plain));
    assert!(balanced.train.log_loss > plain.train.log_loss);
    let training = balanced.model.training();
    assert_eq!((&training["class_weight"], &training["sample_weights"]), (&"balanced".into(), &false.into()));
    assert_eq!(by_name.model.training()["class_weight"]["c"], 4.0);
}

/// scikit-learn 1.9.1: LogisticRegression(C=1/(0.01·180), class_weight="balanced", tol=1e-12).fit(x, y, sample_weight=w); 180
/// is the sum of the weights, which balance does not change. Its intercepts are given with mean 0, as ours have it.
#[test]
fn sample_and_class_weights_are_those_of_scikit_learn() {
    let weights: Vec<f32> = (0..120).map(|i| (i % 4) as f32).collect();
    let data = clouds([60, 40, 20]).with_weights(weights).unwrap();
    let estimator = optimum().feature_scale(FeatureScale::Factor(1.0)).class_weight(ClassWeight::Balanced);
    let fit = estimator.fit(&data).unwrap();
    let expected = [-0.84585, 1.80041, -0.95456, -0.75329, -0.43661, 1.1899, 0.70833, -0.58796, -0.12037];
    for (found, expected) in fit.model.weights().iter().chain(fit.model.bias()).zip(expected) {
        assert!((found - expected).abs() < 1e-4, "{found}, expected {expected}");
    }
}

#[test]
fn a_class_without_samples_is_no_matter_to_balance() {
    let data = clouds([40, 20, 0]);
    assert_eq!(data.class_totals(), [40.0, 20.0, 0.0]);
    let fit = optimum().class_weight(ClassWeight::Balanced).fit(&data).unwrap();
    assert!(fit.objective.is_finite() && fit.train.log_loss.is_finite());
}

/// The smoothed objective is that of soft labels made by hand.
#[test]
fn smoothing_is_training_towards_soft_labels() {
    let data = clouds([60, 40, 20]);
    let smoothing = 0.15;
    let Targets::Classes(classes) = data.labels().targets() else { panic!("soft") };
    let soft: Vec<f32> =
        classes.iter().flat_map(|&class| (0..3).map(move |j| if j == class { 0.9 } else { 0.05 })).collect();
    let labels = Labels::from_distributions(soft, data.classes().to_vec()).unwrap();
    let by_hand = optimum().fit(&Dataset::new(data.features().clone(), labels).unwrap()).unwrap();
    let smooth = optimum().label_smoothing(smoothing).fit(&data).unwrap();
    assert_same(&smooth, &by_hand, 1e-3);
    // What is evaluated are the labels as they were given.
    assert_eq!(smooth.train.target_entropy, 0.0);
    assert!(by_hand.train.target_entropy > 0.3 && smooth.train.log_loss != by_hand.train.log_loss);
    assert!((by_hand.train.kl_divergence() + by_hand.train.target_entropy - by_hand.train.log_loss).abs() < 1e-12);
    assert_eq!(smooth.model.training()["label_smoothing"], smoothing);
}

/// Few samples that outweigh the others by far: the steps are as small as they need, and training ends in a finite place.
#[test]
fn extreme_weights_train() {
    let data = clouds([2000, 1000, 500]);
    let n = data.n_samples();
    for large in [1e2f32, 1e4, 1e8, 1e30] {
        let weights: Vec<f32> = (0..n).map(|i| if i % 1171 == 5 { large } else { 1.0 }).collect();
        let fit = SoftmaxRegression::new().fit(&data.clone().with_weights(weights).unwrap()).unwrap();
        assert!(
            fit.objective < fit.train.label_entropy + 0.05,
            "{large}: {} {}",
            fit.objective,
            fit.train.label_entropy
        );
    }
}

#[test]
fn a_division_keeps_the_weights() {
    let data = clouds([50, 30, 20]);
    let weights: Vec<f32> = (0..100).map(|i| i as f32).collect();
    let data = data.with_weights(weights).unwrap();
    let (train, test) = data.split(0.25, 3).unwrap();
    let sum = |data: &Dataset| data.weights().unwrap().iter().sum::<f32>();
    assert_eq!((train.n_samples(), test.n_samples(), sum(&train) + sum(&test)), (75, 25, 4950.0));
    // They go with their samples.
    let plain = clouds([50, 30, 20]);
    for (row, &weight) in test.weights().unwrap().iter().enumerate() {
        let (of_part, of_all) =
            (test.features().rows(row..row + 1), plain.features().rows(weight as usize..weight as usize + 1));
        let values = |features: Features| match features.values() {
            data::Values::F32(values) => values.to_vec(),
            other => panic!("{other:?}"),
        };
        assert_eq!(values(of_part.unwrap()), values(of_all.unwrap()));
    }
    let mut few = vec![0.0f32; 100];
    few[0] = 1.0;
    let error = data.with_weights(few).unwrap().split(0.5, 0).unwrap_err();
    assert!(matches!(error, Error::Weight { .. }), "{error}");
}

#[test]
fn weights_that_make_no_sense_are_errors() {
    let data = clouds([5, 5, 5]);
    for (bad, row) in [(-1.0, 4), (f64::NAN, 1), (f64::INFINITY, 15), (1e300, 2)] {
        let mut weights = vec![1.0; 15];
        weights[row - 1] = bad;
        match data.clone().with_weights(weights) {
            Err(Error::Weight { place, .. }) => assert_eq!(place.row, Some(row), "{bad}"),
            other => panic!("{bad}: {other:?}"),
        }
    }
    assert!(matches!(data.clone().with_weights(vec![0.0f32; 15]), Err(Error::Weight { .. })));
    assert!(matches!(data.clone().with_weights(vec![1.0f32; 14]), Err(Error::Shape { expected: 15, found: 14, .. })));
    let unknown = SoftmaxRegression::new().class_weight(ClassWeight::Map(vec![("d".to_owned(), 1.0)]));
    assert!(matches!(unknown.fit(&data), Err(Error::ClassWeight { class, .. }) if class == "d"));
    let zero = ["a", "b", "c"].map(|name| (name.to_owned(), 0.0)).to_vec();
    let zero = SoftmaxRegression::new().class_weight(ClassWeight::Map(zero));
    assert!(matches!(zero.fit(&data), Err(Error::Weight { .. })));
    for smoothing in [1.0, -0.1, f64::NAN] {
        let error = SoftmaxRegression::new().label_smoothing(smoothing).fit(&data).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{smoothing}: {error}");
    }
}

/// Labels drawn from softmax(X·W): a model that is fitted to them is calibrated, and one whose logits are multiplied is too
/// sure.
#[test]
fn calibration_is_seen() {
    let n = 6000;
    let mut state = 1u64;
    // Knuth's MMIX generator, of which the upper bits are good.
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    let (mut x, mut classes) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let (a, b) = (2.0 * random() - 1.0, 2.0 * random() - 1.0);
        let e = [0.0, 2.0 * a, 2.0 * b].map(f64::exp);
        let u = random() * e.iter().sum::<f64>();
        x.extend([a as f32, b as f32]);
        classes.push(if u < e[0] { 0 } else { 1 + u32::from(u >= e[0] + e[1]) });
    }
    let labels = Labels::from_indices(classes, ["a", "b", "c"].map(str::to_owned).to_vec()).unwrap();
    let data = Dataset::new(Features::new(x, n, 2).unwrap(), labels).unwrap();
    let fit = SoftmaxRegression::new().fit(&data).unwrap();
    let evaluation = fit.model.evaluate(&data).unwrap();
    // By chance a bin of m samples is off by about ½/√m.
    assert!(evaluation.calibration_error < 0.03, "{}", evaluation.calibration_error);
    // At the optimum the model is as unsure as it says.
    assert!((evaluation.prediction_entropy - evaluation.log_loss).abs() < 0.01);
    let times_20 = softreg::Model::new(
        fit.model.weights().mapv(|w| 20.0 * w).view(),
        fit.model.bias().mapv(|b| 20.0 * b).view(),
        data.classes().to_vec(),
    );
    let overconfident = times_20.unwrap().evaluate(&data).unwrap();
    assert_eq!(overconfident.accuracy, evaluation.accuracy);
    assert!(overconfident.calibration_error > 0.2, "{}", overconfident.calibration_error);
    assert!(overconfident.brier_score > evaluation.brier_score && overconfident.mutual_information() < 0.0);
}
