//! The library as an application uses it.

use std::ops::ControlFlow;

use half::f16;
use ndarray::{Array2, Axis};
use softreg::{
    AdamW, Candidate, ClassWeight, Dataset, Device, Error, FeatureScale, Features, Labels, Lbfgs, LearningCurve, Model,
    NewtonCg, Schedule, Sgd, SoftmaxRegression, Solver, StopReason, Sweep, Warmup, data,
};

#[path = "common/counted.rs"]
mod counted;

use counted::allocations;

fn digits_model() -> (Model, Dataset<'static>) {
    let (train, test) = data::digits().unwrap().split(0.2, 0).unwrap();
    (SoftmaxRegression::new().fit(&train).unwrap().model, test)
}

fn row(features: &Features, row: usize) -> Vec<f32> {
    match features.values() {
        data::Values::U8(values) => values.iter().skip(row * 64).take(64).map(|&x| x.into()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_ways_to_predict_agree() {
    let (model, test) = digits_model();
    let features = test.features();
    let classes = model.predict(features).unwrap();
    let logits = model.decision_function(features).unwrap();
    let p = model.predict_proba(features).unwrap();
    let log_p = model.predict_log_proba(features).unwrap();
    assert_eq!(p.dim(), (test.n_samples(), 10));
    for i in 0..test.n_samples() {
        let sum: f64 = p.row(i).iter().map(|&p| f64::from(p)).sum();
        assert!((sum - 1.0).abs() < 1e-6, "row {i} sums to {sum}");
        let best = |values: ndarray::ArrayView1<f32>| (0..10).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap();
        assert_eq!((best(p.row(i)), best(logits.row(i))), (classes[i], classes[i]));
        for j in 0..10 {
            assert!((log_p[[i, j]].exp() - p[[i, j]]).abs() < 1e-6);
            // log p_j − log p_k = o_j − o_k
            let difference = (log_p[[i, j]] - log_p[[i, 0]]) - (logits[[i, j]] - logits[[i, 0]]);
            assert!(difference.abs() < 1e-4, "{difference}");
        }
        let mut one = [0.0; 10];
        assert_eq!(model.predict_into(&row(features, i), &mut one).unwrap(), classes[i]);
        assert!(one.iter().zip(p.row(i)).all(|(a, b)| (a - b).abs() < 1e-5));
    }
    let correct =
        classes.iter().enumerate().filter(|&(i, &class)| test.labels().targets().class(i, 10) == Some(class)).count();
    let evaluation = model.evaluate(&test).unwrap();
    assert_eq!(evaluation.accuracy, correct as f64 / test.n_samples() as f64);
}

#[test]
fn one_row_is_classified_without_an_allocation() {
    let (model, test) = digits_model();
    let sample = row(test.features(), 0);
    let mut probabilities = [0.0; 10];
    // What is found out about the processor is kept.
    model.predict_into(&sample, &mut probabilities).unwrap();
    let n = allocations(|| {
        for _ in 0..100 {
            model.predict_into(&sample, &mut probabilities).unwrap();
            model.logits_into(&sample, &mut probabilities).unwrap();
        }
    });
    assert_eq!(n, 0);
    assert!(allocations(|| drop(std::hint::black_box(vec![1]))) > 0, "the count counts");

    assert!(matches!(model.predict_into(&sample[1..], &mut probabilities), Err(Error::Width { model: 64, data: 63 })));
    assert!(matches!(model.predict_into(&sample, &mut probabilities[1..]), Err(Error::Shape { expected: 10, .. })));
}

#[test]
fn progress_is_told_and_training_stops_when_asked() {
    let digits = data::digits().unwrap();
    let estimator = SoftmaxRegression::new().solver(Sgd { epochs: Some(50), ..Sgd::default() });
    let mut seen = Vec::new();
    let fit = estimator
        .fit_with(&digits, |progress| {
            seen.push(progress.clone());
            if progress.epoch == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(seen, fit.epochs);
    assert_eq!(seen.iter().map(|progress| progress.epoch).collect::<Vec<_>>(), (1..=7).collect::<Vec<_>>());
    assert!(seen[6].loss < seen[0].loss && seen.windows(2).all(|pair| pair[0].elapsed <= pair[1].elapsed));
    // The model so far.
    assert!(fit.train.accuracy > 0.9);
    assert_eq!(fit.model.training()["settings"]["epochs"], 7);
}

/// Half precision holds the digits exactly, so that all precisions train to the same model.
#[test]
fn features_of_every_precision_and_order_train_alike() {
    let digits = data::digits().unwrap();
    let bytes = match digits.features().values() {
        data::Values::U8(values) => values.to_vec(),
        other => panic!("{other:?}"),
    };
    let (n, d) = (digits.n_samples(), digits.n_features());
    let bytes = Array2::from_shape_vec((n, d), bytes).unwrap();
    let halves = bytes.mapv(|x| f16::from_f32(x.into()));
    let floats = bytes.mapv(f32::from);
    let doubles = bytes.mapv(f64::from);
    let columns = floats.t().as_standard_layout().into_owned().reversed_axes();
    assert!(!columns.is_standard_layout());
    let train = |features: Features| {
        let data = Dataset::new(features, digits.labels().clone()).unwrap();
        // As bytes are scaled.
        SoftmaxRegression::new().feature_scale(FeatureScale::Factor(1.0 / 16.0)).fit(&data).unwrap().model
    };
    let expected = train(Features::try_from(bytes.view()).unwrap());
    for features in [
        Features::try_from(halves.view()).unwrap(),
        Features::try_from(floats.view()).unwrap(),
        Features::try_from(doubles.view()).unwrap(),
        Features::try_from(columns.view()).unwrap(),
    ] {
        assert_eq!(train(features).weights(), expected.weights());
    }
    assert_ne!(train(Features::try_from((&floats + 0.5).view()).unwrap()).weights(), expected.weights());
}

#[test]
fn one_hot_soft_labels_train_as_hard_ones_do() {
    let digits = data::digits().unwrap();
    let n = digits.n_samples();
    let one_hot = |smoothing: f32| -> Vec<f32> {
        (0..n)
            .flat_map(|i| {
                let class = digits.labels().targets().class(i, 10).unwrap();
                (0..10).map(move |j| if j == class { 1.0 - 0.9 * smoothing } else { smoothing / 10.0 })
            })
            .collect()
    };
    let train = |soft: Vec<f32>| {
        let labels = Labels::from_distributions(soft, digits.classes().to_vec()).unwrap();
        let data = Dataset::new(digits.features().clone(), labels).unwrap();
        SoftmaxRegression::new().fit(&data).unwrap()
    };
    let hard = SoftmaxRegression::new().fit(&digits).unwrap();
    // All but one-hot: labels that are would become numbers of classes, as the hard ones are.
    let soft = train(one_hot(1e-7));
    assert!((soft.train.log_loss - hard.train.log_loss).abs() < 1e-3 * hard.train.log_loss);
    let far = train(one_hot(1e-2));
    assert!((far.train.log_loss - hard.train.log_loss).abs() > 1e-2 * hard.train.log_loss);
    // Smoothed labels have an entropy, which no model can go below.
    let smooth = train(one_hot(0.2));
    let entropy = -(0.82 * 0.82f64.ln() + 9.0 * 0.02 * 0.02f64.ln());
    assert!(smooth.train.log_loss > entropy && smooth.train.log_loss < entropy + 0.3, "{}", smooth.train.log_loss);
}

#[test]
fn a_class_without_a_sample_is_never_likely() {
    let digits = data::digits().unwrap();
    let mut classes = digits.classes().to_vec();
    classes.push("ten".to_owned());
    let numbers: Vec<u32> =
        (0..digits.n_samples()).map(|i| digits.labels().targets().class(i, 10).unwrap() as u32).collect();
    let labels = Labels::from_indices(numbers, classes).unwrap();
    let data = Dataset::new(digits.features().clone(), labels).unwrap();
    let fit = SoftmaxRegression::new().fit(&data).unwrap();
    assert!(fit.train.accuracy > 0.95);
    let p = fit.model.predict_proba(digits.features()).unwrap();
    assert!(p.index_axis(Axis(1), 10).iter().all(|&p| p < 0.05));
}

#[test]
fn the_scale_of_the_features_is_no_matter() {
    let digits = data::digits().unwrap();
    let (n, d) = (digits.n_samples(), digits.n_features());
    let data::Values::U8(values) = digits.features().values() else { panic!("not bytes") };
    // Weights are as much smaller as features are larger, and the penalty is on their squares.
    let loss = |factor: f32, solver: Solver| {
        let scaled: Vec<f32> = values.iter().map(|&x| f32::from(x) * factor).collect();
        let data = Dataset::new(Features::new(scaled, n, d).unwrap(), digits.labels().clone()).unwrap();
        let estimator = SoftmaxRegression::new().solver(solver).l2(1e-4 * f64::from(factor).powi(2));
        estimator.fit(&data).unwrap().train.log_loss
    };
    let solvers: [Solver; 3] = [Sgd::default().into(), Lbfgs::default().into(), NewtonCg::default().into()];
    for solver in solvers {
        let usual = loss(1.0, solver.clone());
        for factor in [1e-15, 1e-3, 1e3, 1e15] {
            let ratio = loss(factor, solver.clone()) / usual;
            assert!((ratio - 1.0).abs() < 1e-3, "{solver:?}, {factor}: {ratio}");
        }
        let estimator = SoftmaxRegression::new().solver(solver).l2(1e-4 / 256.0);
        let bytes = estimator.feature_scale(FeatureScale::Factor(1.0 / 16.0)).fit(&digits).unwrap();
        assert!((bytes.train.log_loss / usual - 1.0).abs() < 1e-5);
    }
    for factor in [1e-25, 1e20] {
        let values: Vec<f32> = values.iter().map(|&x| f32::from(x) * factor).collect();
        let data = Dataset::new(Features::new(values, n, d).unwrap(), digits.labels().clone()).unwrap();
        let error = SoftmaxRegression::new().fit(&data).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }), "{factor}: {error}");
    }
}

/// The default step size is below what the penalty allows; with a large one the weights go to 0, with the largest only
/// the intercept is left, which is not penalised.
#[test]
fn every_penalty_trains() {
    let digits = data::digits().unwrap();
    let fits = [0.0, 1e-3, 0.1, 1.0, 100.0, 1e4].map(|l2| SoftmaxRegression::new().l2(l2).fit(&digits).unwrap());
    let norm = |fit: &softreg::Fit| fit.model.weights().iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
    for pair in fits.windows(2) {
        assert!(pair[1].train.log_loss > pair[0].train.log_loss && norm(&pair[1]) < norm(&pair[0]));
        assert!(pair[1].objective > pair[0].objective);
    }
    let counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180];
    let share = |count: f64| count / 1797.0;
    let entropy: f64 = counts.iter().map(|&count| -share(count.into()) * share(count.into()).ln()).sum();
    assert!((fits[5].train.log_loss - entropy).abs() < 1e-3, "{} and {entropy}", fits[5].train.log_loss);
}

/// C counts the weights of samples and classes, and the classes of the model, of which two share a column of scikit-learn's weights.
#[test]
fn c_is_a_penalty_of_what_is_trained_on() {
    let digits = data::digits().unwrap();
    let n = digits.n_samples() as f64;
    let brief = || SoftmaxRegression::new().solver(Lbfgs { max_iterations: 2, ..Lbfgs::default() });
    let l2_of = |model: &Model| model.training()["l2"].as_f64().unwrap();
    let is_near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-9;
    let l2 = |estimator: &SoftmaxRegression, data: &Dataset| l2_of(&estimator.fit(data).unwrap().model);
    assert!(is_near(l2(&brief().c(4.0), &digits), 1.0 / (4.0 * n)));
    // What is said last counts.
    assert_eq!(l2(&brief().c(4.0).l2(0.5), &digits), 0.5);
    assert!(is_near(l2(&brief().l2(0.5).c(4.0), &digits), 1.0 / (4.0 * n)));
    let path = brief().c(4.0).path(&digits, &[1.0, 0.5]).unwrap();
    assert!(path.iter().zip([4.0, 8.0]).all(|(fit, c)| is_near(l2_of(&fit.model), 1.0 / (c * n))));
    let of_two = ClassWeight::Map(vec![("1".to_owned(), 3.0), ("2".to_owned(), 0.0)]);
    let totals = digits.class_totals();
    let weighted = brief().c(4.0).class_weight(of_two.clone());
    assert!(is_near(l2(&weighted, &digits), 1.0 / (4.0 * (n + 2.0 * totals[1] - totals[2]))));
    let unknown = brief().c(4.0).class_weight(ClassWeight::Map(vec![("10".to_owned(), 1.0)]));
    assert!(matches!(unknown.fit(&digits), Err(Error::ClassWeight { .. })));
    let nothing = digits.classes().iter().map(|name| (name.clone(), 0.0)).collect();
    let nothing = brief().c(4.0).class_weight(ClassWeight::Map(nothing));
    assert!(matches!(nothing.fit(&digits), Err(Error::Weight { .. })));
    assert!(matches!(Sweep::new(nothing).fit(&digits), Err(Error::Weight { .. })));

    // Two classes, and two more of a model that has eight already.
    let [others, two] = by_class(&digits, |class| class != 3 && class != 8);
    let n = two.n_samples() as f64;
    assert!(is_near(l2(&brief().c(4.0), &two), 2.0 / (4.0 * n)));
    let first = brief().fit(&others).unwrap().model;
    assert!(is_near(l2_of(&brief().c(4.0).partial_fit(&first, &two).unwrap()), 1.0 / (4.0 * n)));
    let weighted = brief().c(4.0).class_weight(of_two).partial_fit(&first, &two).unwrap();
    assert!(is_near(l2_of(&weighted), 1.0 / (4.0 * n)));
    // Of a sweep with a stochastic solver it is the one penalty, unless others are given; and of a learning curve.
    let sgd = SoftmaxRegression::new().solver(Sgd { epochs: Some(1), ..Sgd::default() });
    let swept = Sweep::new(sgd.c(4.0)).fit(&two).unwrap();
    let [Candidate { c: Some(c), l2, .. }] = swept.candidates[..] else { panic!("{:?}", swept.candidates) };
    assert!(is_near(c, 4.0) && is_near(l2, 2.0 / (4.0 * n)));
    let curve = LearningCurve::new(Sweep::new(brief()).c([4.0])).shots([5]).seeds(1).fit(&two, &two).unwrap();
    assert!(is_near(curve.points[0].draws[0].l2, 2.0 / (4.0 * 10.0)));
}

#[test]
fn what_is_far_outside_the_training_data_is_an_error_not_nan() {
    let (model, _) = digits_model();
    let mut far = vec![1.0f32; 2 * 64];
    // Each of class 0's weights that is above 0 counts.
    let weights = model.weights();
    far[64..].iter_mut().zip(weights.column(0)).for_each(|(x, &w)| *x = if w > 0.0 { 3e38 } else { 0.0 });
    let features = Features::new(far.clone(), 2, 64).unwrap();
    let error = model.predict(&features).unwrap_err().to_string();
    assert!(error.contains("row 2: the logits are not finite"), "{error}");
    assert!(model.predict_proba(&features).is_err() && model.predict_into(&far[64..], &mut [0.0; 10]).is_err());
    assert!(model.predict(&features.rows(0..1).unwrap()).is_ok());
}

#[test]
fn settings_that_make_no_sense_are_errors() {
    let digits = data::digits().unwrap();
    let estimator = SoftmaxRegression::new;
    let sgd = |change: fn(&mut Sgd)| {
        let mut sgd = Sgd::default();
        change(&mut sgd);
        estimator().solver(sgd)
    };
    for wrong in [
        estimator().l2(-1.0),
        estimator().l2(f64::NAN),
        estimator().c(0.0),
        estimator().c(-1.0),
        estimator().c(f64::NAN),
        estimator().c(f64::INFINITY),
        estimator().c(1e-320),
        estimator().l1(-1.0),
        estimator().l1(f64::INFINITY),
        estimator().solver(Sgd::default()).l1(0.1),
        estimator().solver(AdamW::default()).standardize(true),
        estimator().penalty_factors([-1.0; 64]),
        estimator().polish(true).validation(0.1),
        estimator().solver(Lbfgs { tolerance: 2.0, ..Lbfgs::default() }),
        estimator().solver(NewtonCg { max_iterations: 0, ..NewtonCg::default() }),
        estimator().feature_scale(FeatureScale::Factor(0.0)),
        estimator().feature_scale(FeatureScale::Factor(f64::INFINITY)),
        sgd(|sgd| sgd.epochs = Some(0)),
        sgd(|sgd| sgd.batch_size = 0),
        sgd(|sgd| sgd.learning_rate = Some(-1.0)),
        sgd(|sgd| sgd.momentum = 1.0),
    ] {
        assert!(matches!(wrong.fit(&digits), Err(Error::Setting { .. })), "{wrong:?}");
    }
    assert!(matches!(estimator().penalty_factors([1.0; 3]).fit(&digits), Err(Error::Shape { expected: 64, .. })));
    let wild = sgd(|sgd| sgd.learning_rate = Some(1e38));
    assert!(matches!(wild.fit(&digits), Err(Error::Diverged { .. })));
    for fraction in [0.0, 1.0, -0.5, f64::NAN, 1e-9] {
        assert!(matches!(digits.split(fraction, 0), Err(Error::Setting { .. })), "{fraction}");
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error_with_those_that_are() {
    let error = Device::named("abacus").unwrap_err();
    assert!(matches!(&error, Error::NoSuchDevice { asked, .. } if asked == "abacus"));
    assert!(error.to_string().contains("cpu"), "{error}");
    assert_eq!(Device::named("CPU").unwrap().info().name, "cpu");
    assert!(!Device::auto().reason().is_empty());
}

/// The digits without the samples of some classes, and with those alone; both know only the names of theirs.
fn by_class(digits: &Dataset, of_first: impl Fn(usize) -> bool) -> [Dataset<'static>; 2] {
    [true, false].map(|first| {
        let class = |i: usize| digits.labels().targets().class(i, 10).unwrap();
        let rows: Vec<usize> = (0..digits.n_samples()).filter(|&i| of_first(class(i)) == first).collect();
        let x: Vec<f32> = rows.iter().flat_map(|&i| row(digits.features(), i)).collect();
        let names: Vec<&str> = rows.iter().map(|&i| digits.classes()[class(i)].as_str()).collect();
        Dataset::new(Features::new(x, rows.len(), 64).unwrap(), Labels::from_names(&names).unwrap()).unwrap()
    })
}

#[test]
fn every_schedule_and_both_rules_train() {
    let (train, test) = data::digits().unwrap().split(0.2, 0).unwrap();
    let step = Schedule::Step { factor: 0.3, epochs: 20 };
    for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine, Schedule::OneCycle, step] {
        for warmup in [Warmup::None, Warmup::Fraction(0.1)] {
            let solvers: [Solver; 2] = [
                Sgd { schedule, warmup, ..Sgd::default() }.into(),
                AdamW { schedule, warmup, ..AdamW::default() }.into(),
            ];
            for solver in solvers {
                let name = solver.name();
                let fit = SoftmaxRegression::new().solver(solver).fit(&train).unwrap();
                let accuracy = fit.model.evaluate(&test).unwrap().accuracy;
                assert!(accuracy > 0.95 && fit.reason == StopReason::Epochs, "{name} {schedule}: {accuracy}");
                let settings = &fit.model.training()["settings"];
                assert_eq!(settings["schedule"], schedule.to_string());
                assert_eq!(settings["beta_2"].as_f64(), (name == "adamw").then_some(0.999));
                assert_eq!(settings["momentum"].as_f64(), (name == "sgd").then_some(0.9));
            }
        }
    }
}

/// Weight decay makes W smaller and leaves the intercept out.
#[test]
fn weight_decay_pulls_the_weights_to_zero() {
    let digits = data::digits().unwrap();
    let fit = |weight_decay| {
        let adamw = AdamW { weight_decay, ..AdamW::default() };
        SoftmaxRegression::new().l2(0.0).solver(adamw).fit(&digits).unwrap()
    };
    let norm = |fit: &softreg::Fit| fit.model.weights().iter().map(|w| w * w).sum::<f32>().sqrt();
    let fits = [0.0, 1.0, 10.0].map(fit);
    assert!(norm(&fits[1]) < 0.9 * norm(&fits[0]) && norm(&fits[2]) < 0.5 * norm(&fits[1]));
    assert!(fits[2].train.log_loss > fits[0].train.log_loss);
}

#[test]
fn without_an_intercept_it_stays_zero() {
    let digits = data::digits().unwrap();
    let solvers: [Solver; 2] = [Sgd::default().into(), AdamW::default().into()];
    for solver in solvers {
        let estimator = SoftmaxRegression::new().solver(solver).intercept(false);
        let fit = estimator.fit(&digits).unwrap();
        assert!(fit.model.bias().iter().all(|&b| b == 0.0) && fit.train.accuracy > 0.95);
        assert_eq!(fit.model.training()["settings"]["intercept"], false);
        // Also when the model to start from has one.
        let with = SoftmaxRegression::new().fit(&digits).unwrap().model;
        assert!(with.bias().iter().any(|&b| b != 0.0));
        assert!(estimator.init(&with).fit(&digits).unwrap().model.bias().iter().all(|&b| b == 0.0));
    }
}

#[test]
fn a_warm_start_goes_on_where_the_model_was() {
    let digits = data::digits().unwrap();
    let epochs = |n| Sgd { epochs: Some(n), ..Sgd::default() };
    let cold = SoftmaxRegression::new().solver(epochs(1)).fit(&digits).unwrap();
    let trained = SoftmaxRegression::new().fit(&digits).unwrap();
    let warm = SoftmaxRegression::new().solver(epochs(1)).init(&trained.model).fit(&digits).unwrap();
    // An epoch's loss is that of the samples as they come: at the beginning the model's own.
    assert!(warm.epochs[0].loss < 1.5 * trained.train.log_loss && cold.epochs[0].loss > 3.0 * trained.train.log_loss);
    // With hardly any step it is the model itself, though its weights are for features as they are and training scales them.
    let still = Sgd { learning_rate: Some(1e-30), ..epochs(1) };
    let same = SoftmaxRegression::new().solver(still.clone()).init(&trained.model).fit(&digits).unwrap().model;
    let close = |a: f32, b: f32| (a - b).abs() <= 1e-6 * a.abs();
    assert!(same.weights().iter().zip(trained.model.weights()).all(|(&a, &b)| close(a, b)));
    assert_eq!(same.bias(), trained.model.bias());
    // The scale is that of the model's training, unless another is asked for.
    let bright = Dataset::new(
        Features::new(row(digits.features(), 3).iter().map(|x| 100.0 * x).collect::<Vec<f32>>(), 1, 64).unwrap(),
        digits.labels().select(&[3]).unwrap(),
    )
    .unwrap();
    let estimator = SoftmaxRegression::new().solver(still).init(&trained.model);
    assert_eq!(estimator.fit(&bright).unwrap().feature_scale, trained.feature_scale);
    assert_eq!(estimator.feature_scale(FeatureScale::Factor(0.5)).fit(&bright).unwrap().feature_scale, 0.5);
}

#[test]
fn a_warm_start_keeps_classes_and_takes_new_ones() {
    let digits = data::digits().unwrap();
    let [low, high] = by_class(&digits, |class| class < 7);
    let first = SoftmaxRegression::new().fit(&low).unwrap().model;
    assert_eq!(first.classes(), ["0", "1", "2", "3", "4", "5", "6"]);
    // Untrained, new classes are nowhere the most probable.
    let still = Sgd { learning_rate: Some(1e-30), epochs: Some(1), ..Sgd::default() };
    let start = SoftmaxRegression::new().solver(still).init(&first).fit(&high).unwrap().model;
    assert_eq!(start.classes(), digits.classes());
    assert_eq!(start.predict(low.features()).unwrap(), first.predict(low.features()).unwrap());
    assert!(start.weights().columns().into_iter().skip(7).all(|column| column.iter().all(|&w| w.abs() < 1e-20)));
    // A gentle training learns the new without forgetting the old.
    let estimator = SoftmaxRegression::new().solver(Sgd { epochs: Some(3), ..Sgd::default() });
    let both = estimator.clone().init(&first).fit(&digits).unwrap();
    assert_eq!((both.model.classes(), both.train.classes.len()), (digits.classes(), 10));
    assert!(both.train.accuracy > 0.9);

    let mut model = first;
    for part in [&high, &low, &high, &low] {
        model = SoftmaxRegression::new().partial_fit(&model, part).unwrap();
    }
    assert_eq!(model.classes(), digits.classes());
    assert_eq!(model.training()["settings"]["epochs"], 1);
    assert!(model.evaluate(&digits).unwrap().accuracy > 0.5);
    // Classes in another order are the same classes.
    let mut names: Vec<String> = digits.classes().to_vec();
    names.reverse();
    let reversed = Dataset::new(digits.features().clone(), digits.labels().with_classes(&names).unwrap()).unwrap();
    let [straight, turned] =
        [&digits, &reversed].map(|data| estimator.clone().init(&both.model).fit(data).unwrap().model);
    assert_eq!(straight.weights(), turned.weights());
}

#[test]
fn a_model_that_does_not_suit_is_no_start() {
    let digits = data::digits().unwrap();
    let model = SoftmaxRegression::new().fit(&digits).unwrap().model;
    let narrow =
        Dataset::new(Features::new(vec![0.5f32; 20], 2, 10).unwrap(), digits.labels().select(&[0, 1]).unwrap());
    let error = SoftmaxRegression::new().init(&model).fit(&narrow.unwrap()).unwrap_err();
    assert!(matches!(error, Error::Width { model: 64, data: 10 }), "{error}");

    let named = |first: &str| {
        let names = (0..64).map(|i| if i == 0 { first.to_owned() } else { format!("pixel {i}") }).collect();
        digits.clone().with_feature_names(names).unwrap()
    };
    let model = SoftmaxRegression::new().fit(&named("pixel 0")).unwrap().model;
    let estimator = SoftmaxRegression::new().init(&model);
    let error = estimator.fit(&named("brightness")).unwrap_err();
    assert!(matches!(&error, Error::FeatureName { column: 1, .. }), "{error}");
    assert!(error.to_string().contains("\"brightness\""), "{error}");
    // Names that only one has are taken.
    let nameless = Dataset::new(digits.features().clone(), digits.labels().clone()).unwrap();
    let fit = estimator.fit(&nameless).unwrap();
    assert_eq!(fit.model.feature_names().unwrap()[0], "pixel 0");
    assert!(estimator.fit(&named("pixel 0")).is_ok());
}

#[test]
fn training_stops_early_and_keeps_the_best_weights() {
    let (train, test) = data::digits().unwrap().split(0.3, 0).unwrap();
    let test = std::sync::Arc::new(test);
    // Without a penalty and at a constant rate the validation loss comes to a minimum and rises again.
    let solver = Sgd { epochs: Some(400), schedule: Schedule::Constant, ..Sgd::default() };
    let estimator = SoftmaxRegression::new().l2(0.0).solver(solver).validation(test.clone());
    let fit = estimator.clone().patience(4).fit(&train).unwrap();
    let losses: Vec<f64> = fit.epochs.iter().map(|epoch| epoch.validation_loss.unwrap()).collect();
    let best = fit.best_epoch.unwrap();
    assert_eq!((fit.reason, losses.len()), (StopReason::EarlyStopping, best + 4));
    assert!(losses.iter().all(|&loss| loss >= losses[best - 1]));
    let validation = fit.validation.as_ref().unwrap();
    assert_eq!(validation.log_loss, losses[best - 1]);
    // The model is that of the best epoch.
    let again = fit.model.evaluate(&test).unwrap();
    assert!((again.log_loss - validation.log_loss).abs() < 1e-6 && again.accuracy == validation.accuracy);
    let settings = &fit.model.training()["settings"];
    assert_eq!((&settings["reason"], &settings["best_epoch"]), (&"early stopping".into(), &best.into()));

    // Without patience all epochs are done, and the best weights kept.
    let solver = Sgd { epochs: Some(best + 10), schedule: Schedule::Constant, ..Sgd::default() };
    let all = estimator.solver(solver).fit(&train).unwrap();
    assert_eq!((all.reason, all.epochs.len()), (StopReason::Epochs, best + 10));
    assert!(all.validation.unwrap().log_loss <= validation.log_loss);

    // A share of the training data is not trained on.
    let fit = SoftmaxRegression::new().validation(0.25).fit(&train).unwrap();
    assert_eq!(fit.epochs[0].n_samples, fit.train.n_samples);
    assert_eq!(fit.train.n_samples + fit.validation.unwrap().n_samples, train.n_samples());
    for wrong in [0.0, 1.0, 1e-9, f64::NAN] {
        let error = SoftmaxRegression::new().validation(wrong).fit(&train).unwrap_err().to_string();
        assert!(error.starts_with("the validation fraction is"), "{error}");
    }
    // What validates must suit what is trained on.
    let other = Dataset::new(Features::new(vec![0.5f32; 20], 2, 10).unwrap(), train.labels().select(&[0, 1]).unwrap());
    let error = SoftmaxRegression::new().validation(other.unwrap()).fit(&train).unwrap_err();
    assert!(matches!(error, Error::Width { model: 64, data: 10 }), "{error}");
    let [low, _] = by_class(&train, |class| class < 7);
    let error = SoftmaxRegression::new().validation(train.clone()).fit(&low).unwrap_err();
    assert!(matches!(error, Error::UnknownLabel { .. }), "{error}");
}

#[test]
fn a_time_limit_is_kept() {
    let digits = data::digits().unwrap();
    let forever = Sgd { epochs: Some(10_000_000), ..Sgd::default() };
    let limit = std::time::Duration::from_millis(300);
    let begin = std::time::Instant::now();
    let fit = SoftmaxRegression::new().solver(forever).time_limit(limit).fit(&digits).unwrap();
    assert!(begin.elapsed() < 10 * limit);
    assert_eq!(fit.reason, StopReason::TimeLimit);
    assert!(fit.epochs.len() > 1 && fit.epochs.last().unwrap().elapsed <= limit);
    let fit = SoftmaxRegression::new().time_limit(std::time::Duration::from_nanos(1)).fit(&digits).unwrap();
    assert_eq!((fit.epochs.len(), fit.reason), (1, StopReason::TimeLimit));
}

#[test]
fn settings_of_solvers_that_make_no_sense_are_errors() {
    let digits = data::digits().unwrap();
    let sgd = |change: fn(&mut Sgd)| {
        let mut sgd = Sgd::default();
        change(&mut sgd);
        SoftmaxRegression::new().solver(sgd)
    };
    let adamw = |change: fn(&mut AdamW)| {
        let mut adamw = AdamW::default();
        change(&mut adamw);
        SoftmaxRegression::new().solver(adamw)
    };
    for wrong in [
        sgd(|sgd| sgd.momentum = 1.0 - 1e-12),
        sgd(|sgd| sgd.schedule = Schedule::Step { factor: 0.0, epochs: 1 }),
        sgd(|sgd| sgd.schedule = Schedule::Step { factor: 0.5, epochs: 0 }),
        sgd(|sgd| sgd.warmup = Warmup::Fraction(1.0)),
        sgd(|sgd| sgd.warmup = Warmup::Epochs(f64::INFINITY)),
        sgd(|sgd| sgd.warmup = Warmup::Steps(usize::MAX)),
        adamw(|adamw| adamw.beta_1 = 1.0),
        adamw(|adamw| adamw.beta_2 = 1.0 - 1e-12),
        adamw(|adamw| adamw.beta_2 = f64::NAN),
        adamw(|adamw| adamw.epsilon = 0.0),
        adamw(|adamw| adamw.epsilon = 1e-50),
        adamw(|adamw| adamw.weight_decay = -0.1),
        adamw(|adamw| adamw.weight_decay = 1e300),
        adamw(|adamw| adamw.batch_size = 0),
        SoftmaxRegression::new().validation(0.1).patience(0),
        SoftmaxRegression::new().patience(3),
        SoftmaxRegression::new().time_limit(std::time::Duration::ZERO),
    ] {
        assert!(matches!(wrong.fit(&digits), Err(Error::Setting { .. })), "{wrong:?}");
    }
}

/// Standardised by hand or by the penalty, the model is the same; features without a penalty take what they are given.
#[test]
fn standardised_penalties_are_those_of_standardised_features() {
    let digits = data::digits().unwrap();
    let data::Values::U8(values) = digits.features().values() else { panic!("not bytes") };
    let (n, d) = (digits.n_samples(), digits.n_features());
    let column = |k: usize| values.iter().skip(k).step_by(d).map(|&x| f64::from(x));
    let mean: Vec<f64> = (0..d).map(|k| column(k).sum::<f64>() / n as f64).collect();
    let deviation: Vec<f64> = (0..d)
        .map(|k| (column(k).map(|x| (x - mean[k]).powi(2)).sum::<f64>() / n as f64).sqrt())
        .map(|sigma| if sigma > 0.0 { sigma } else { 1.0 })
        .collect();
    let standard: Vec<f64> =
        values.iter().enumerate().map(|(i, &x)| (f64::from(x) - mean[i % d]) / deviation[i % d]).collect();
    let standard = Dataset::new(Features::from_f64(standard, n, d).unwrap(), digits.labels().clone()).unwrap();
    let estimator = SoftmaxRegression::new().solver(Lbfgs::default()).feature_scale(FeatureScale::Factor(1.0));
    for (l2, l1) in [(1e-3, 0.0), (1e-3, 1e-3)] {
        let estimator = estimator.clone().l2(l2).l1(l1);
        let by_hand = estimator.fit(&standard).unwrap();
        let by_penalty = estimator.clone().standardize(true).fit(&digits).unwrap();
        let ratio = by_penalty.objective / by_hand.objective;
        assert!((ratio - 1.0).abs() < 1e-6, "{ratio}");
        let without = estimator.fit(&digits).unwrap();
        assert!((without.objective / by_hand.objective - 1.0).abs() > 1e-3);
        let mut factors = vec![1.0; d];
        factors[20] = 0.0;
        let free = estimator.penalty_factors(factors).fit(&digits).unwrap();
        assert!(free.objective < without.objective && free.certificate.unwrap().gap.is_none());
    }
}

/// What a GPU or SGD leaves is finished in double precision.
#[test]
fn polishing_ends_at_the_minimum() {
    let digits = data::digits().unwrap();
    let estimator = SoftmaxRegression::new().l2(1e-3);
    let exact =
        estimator.clone().solver(Lbfgs { tolerance: 1e-12, ..Lbfgs::default() }).fit(&digits).unwrap().objective;
    let sgd = Sgd { epochs: Some(5), ..Sgd::default() };
    let plain = estimator.clone().solver(sgd.clone()).fit(&digits).unwrap();
    let polished = estimator.solver(sgd).polish(true).fit(&digits).unwrap();
    assert!(plain.objective / exact > 1.001 && plain.certificate.is_none());
    assert!((polished.objective / exact - 1.0).abs() < 1e-9 && polished.reason == StopReason::Converged);
    assert_eq!(polished.epochs.len(), 5);

    // Who asks to stop gets what there is, at once.
    let sgd = Sgd { epochs: Some(5), ..Sgd::default() };
    let estimator = SoftmaxRegression::new().l2(1e-3).solver(sgd).polish(true);
    let stop_at = |epoch: usize, is_polish: bool| {
        let mut told = Vec::new();
        let fit = estimator.fit_with(&digits, |progress| {
            told.push((progress.is_polish, progress.epoch));
            let is_there = (progress.is_polish, progress.epoch) == (is_polish, epoch);
            if is_there { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (fit.unwrap(), told)
    };
    let (stopped, told) = stop_at(3, false);
    assert_eq!((stopped.reason, told.len()), (StopReason::Caller, 3));
    assert!(stopped.certificate.is_none());
    let (stopped, told) = stop_at(2, true);
    assert_eq!((stopped.reason, told.last()), (StopReason::Caller, Some(&(true, 2))));
    assert!(stopped.objective < plain.objective && stopped.objective > polished.objective);
}
