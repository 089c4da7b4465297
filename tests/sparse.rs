//! Sparse features through the whole library: as dense ones with the same values, on the CPU.

mod common;

use std::sync::Arc;

use common::Random;
use softreg::data::{Csr, Values};
use softreg::{
    AdamW, ClassWeight, Dataset, Error, Features, Fit, Labels, Lbfgs, Model, NewtonCg, Sgd, SoftmaxRegression, Solver,
    StopReason,
};

/// Bags of words: a sample of a class has a few features, some of them of its class. Of `d` features the last never occurs, and
/// sample 7 has none.
fn data(n: usize, d: usize, q: usize) -> [Dataset<'static>; 2] {
    let mut random = Random::new(11);
    let classes: Vec<u32> = (0..n).map(|i| (i % q) as u32).collect();
    let (mut offsets, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
    let mut dense = vec![0.0f32; n * d];
    for (i, &class) in classes.iter().enumerate() {
        let mut row: Vec<usize> = (0..if i == 7 { 0 } else { 12 })
            .map(|word| match word {
                0..4 => class as usize + q * random.below((d - 1) / q),
                _ => random.below(d - 1),
            })
            .collect();
        row.sort_unstable();
        row.dedup();
        for k in row {
            let value = 0.3 + 0.7 * random.value().abs();
            columns.push(k as u32);
            values.push(value);
            dense[i * d + k] = value;
        }
        offsets.push(values.len() as u64);
    }
    let names: Vec<String> = (0..q).map(|class| format!("class {class}")).collect();
    let features = [
        Features::new(Csr::new(offsets, columns, values).unwrap(), n, d).unwrap(),
        Features::new(dense, n, d).unwrap(),
    ];
    features.map(|features| {
        let labels = Labels::from_indices(classes.clone(), names.clone()).unwrap();
        let names = (0..d).map(|k| format!("word {k}")).collect();
        Dataset::new(features, labels).unwrap().with_feature_names(names).unwrap()
    })
}

/// Largest difference of the weights.
fn difference(a: &Model, b: &Model) -> f32 {
    let weights = a.weights().iter().zip(b.weights()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    a.bias().iter().zip(b.bias()).map(|(a, b)| (a - b).abs()).fold(weights, f32::max)
}

fn both(estimator: &SoftmaxRegression, data: &[Dataset; 2]) -> [Fit; 2] {
    [0, 1].map(|index| estimator.fit(&data[index]).unwrap())
}

fn lbfgs() -> SoftmaxRegression {
    SoftmaxRegression::new().l2(1e-3).solver(Lbfgs { tolerance: 1e-12, ..Lbfgs::default() })
}

#[test]
fn batch_solvers_find_the_minimum_of_dense_features() {
    let data = data(600, 101, 5);
    let factors: Vec<f64> = (0..101).map(|k| [1.0, 0.5, 3.0][k % 3]).collect();
    let newton = NewtonCg { tolerance: 1e-12, ..NewtonCg::default() };
    let weighted = |data: &Dataset<'static>| {
        let weights: Vec<f32> = (0..600).map(|i| [1.0, 0.0, 2.0, 0.25][i % 4]).collect();
        data.clone().with_weights(weights).unwrap()
    };
    let of_weights = [weighted(&data[0]), weighted(&data[1])];
    for (what, estimator, data) in [
        ("L-BFGS", lbfgs(), &data),
        ("Newton", SoftmaxRegression::new().l2(1e-3).solver(newton), &data),
        ("l1", lbfgs().l1(2e-3).l2(0.0), &data),
        ("l1 and l2", lbfgs().l1(1e-3), &data),
        ("standardised", lbfgs().standardize(true), &data),
        ("factors", lbfgs().penalty_factors(factors), &data),
        ("without intercept", lbfgs().intercept(false), &data),
        ("class weights and smoothing", lbfgs().class_weight(ClassWeight::Balanced).label_smoothing(0.1), &data),
        ("weights", lbfgs(), &of_weights),
    ] {
        let [sparse, dense] = both(&estimator, data);
        let ratio = sparse.objective / dense.objective;
        assert!((ratio - 1.0).abs() < 1e-8, "{what}: {} and {}", sparse.objective, dense.objective);
        assert!(difference(&sparse.model, &dense.model) < 1e-3, "{what}: {}", difference(&sparse.model, &dense.model));
        let certificates = [&sparse, &dense].map(|fit| fit.certificate.unwrap());
        assert!(certificates[0].gap.unwrap() < 1e-5 * sparse.objective, "{what}: {:?}", certificates[0]);
        if what == "l1" {
            let counts = certificates.map(|certificate| certificate.n_nonzero);
            assert!(counts[0] < 300 && counts[0].abs_diff(counts[1]) <= 2, "{counts:?}");
            let exact = sparse.model.weights().iter().filter(|&&w| w != 0.0).count();
            assert_eq!(exact, counts[0]);
        }
        // A feature that does not occur has weight 0.
        assert!(sparse.model.weights().row(100).iter().all(|&w| w == 0.0), "{what}");
        assert_eq!(sparse.model.feature_names(), data[0].feature_names());
    }
    // Another penalty is another minimum.
    let [one, other] = [1e-3, 1.01e-3].map(|l2| lbfgs().l2(l2).fit(&data[0]).unwrap());
    assert!((one.objective / other.objective - 1.0).abs() > 1e-4 && difference(&one.model, &other.model) > 1e-3);
}

#[test]
fn stochastic_solvers_take_the_steps_of_dense_features() {
    let data = data(600, 101, 5);
    let sgd = Sgd { epochs: Some(5), batch_size: 16, learning_rate: Some(0.3), ..Sgd::default() };
    let adamw = AdamW { epochs: Some(3), batch_size: 16, learning_rate: Some(0.01), ..AdamW::default() };
    let solvers: [Solver; 4] = [
        sgd.clone().into(),
        Sgd { momentum: 0.0, ..sgd.clone() }.into(),
        Sgd { nesterov: !sgd.nesterov, ..sgd.clone() }.into(),
        adamw.into(),
    ];
    let start = lbfgs().fit(&data[1]).unwrap().model;
    for solver in solvers {
        for estimator in [SoftmaxRegression::new().l2(1e-3), SoftmaxRegression::new().l2(1e-2).init(&start)] {
            let estimator = estimator.solver(solver.clone());
            let [sparse, dense] = both(&estimator, &data);
            let apart = difference(&sparse.model, &dense.model);
            assert!(apart < 2e-4, "{solver:?}: {apart}");
            assert!((sparse.train.log_loss - dense.train.log_loss).abs() < 1e-5);
            let other = estimator.seed(1).fit(&data[0]).unwrap();
            assert!(difference(&other.model, &dense.model) > 1e-3, "{solver:?}");
        }
    }
    // The learning rate that the data gives is about that of dense features.
    let [sparse, dense] = both(&SoftmaxRegression::new().solver(Sgd::default()), &data);
    let ratio = sparse.learning_rate.unwrap() / dense.learning_rate.unwrap();
    assert!((ratio - 1.0).abs() < 0.01, "{ratio}");
}

#[test]
fn models_predict_sparse_features_as_dense_ones() {
    let data = data(400, 60, 4);
    let model = lbfgs().fit(&data[0]).unwrap().model;
    let [sparse, dense] = [data[0].features(), data[1].features()];
    assert!(matches!(sparse.values(), Values::Sparse(_)));
    assert_eq!(model.predict(sparse).unwrap(), model.predict(dense).unwrap());
    for (a, b) in [
        (model.predict_proba(sparse).unwrap(), model.predict_proba(dense).unwrap()),
        (model.predict_log_proba(sparse).unwrap(), model.predict_log_proba(dense).unwrap()),
        (model.decision_function(sparse).unwrap(), model.decision_function(dense).unwrap()),
    ] {
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4));
        assert!(a.row(7).iter().zip(b.row(8)).any(|(a, b)| (a - b).abs() > 1e-2));
    }
    let [a, b] = [0, 1].map(|index| model.evaluate(&data[index]).unwrap());
    assert!(a.accuracy == b.accuracy && (a.log_loss - b.log_loss).abs() < 1e-6);
    let narrow = Features::new(Csr::new(vec![0, 1], vec![58], vec![1.0f32]).unwrap(), 1, 59).unwrap();
    assert!(matches!(model.predict(&narrow), Err(Error::Width { model: 60, data: 59 })));
    let far = Features::new(Csr::new(vec![0, 0, 2], vec![0, 1], vec![f32::MAX; 2]).unwrap(), 2, 60).unwrap();
    let far = model.decision_function(&far);
    assert!(far.is_ok() || far.unwrap_err().to_string().contains("row 2"));
}

#[test]
fn validation_and_warm_starts_are_those_of_dense_features() {
    let data = data(600, 101, 5);
    let [sparse, dense] = both(&lbfgs().validation(0.25), &data);
    assert_eq!(sparse.best_epoch.is_some(), dense.best_epoch.is_some());
    let losses = [&sparse, &dense].map(|fit| fit.validation.as_ref().unwrap().log_loss);
    assert!((losses[0] - losses[1]).abs() < 1e-3 * losses[1], "{losses:?}");
    // Dense samples may validate sparse ones, also where features do not occur.
    let [a, b] = [0, 1].map(|index| {
        let validation = Arc::new(data[index].clone());
        lbfgs().validation(validation).fit(&data[0]).unwrap().validation.unwrap().log_loss
    });
    assert!((a - b).abs() < 1e-6, "{a} {b}");

    let cold = lbfgs().fit(&data[0]).unwrap();
    let warm = lbfgs().init(&cold.model).fit(&data[0]).unwrap();
    assert!(warm.epochs.len() < cold.epochs.len() / 2, "{} {}", warm.epochs.len(), cold.epochs.len());
    assert!((warm.objective / cold.objective - 1.0).abs() < 1e-8 && warm.reason == StopReason::Converged);
}

/// A feature that does not occur but has a weight to begin with: a penalty makes it 0 in the minimum, steps let it decay, and
/// without a penalty it stays.
#[test]
fn weights_of_features_that_do_not_occur() {
    let data = data(200, 40, 3);
    let mut weights = ndarray::Array2::<f32>::zeros((40, 3));
    weights.row_mut(39).assign(&ndarray::arr1(&[0.5, -0.25, -0.25]));
    let bias = ndarray::Array1::<f32>::zeros(3);
    let start = Model::new(weights.view(), bias.view(), data[0].classes().to_vec()).unwrap();
    let last = |fit: &Fit| fit.model.weights().row(39).to_vec();

    let fit = lbfgs().init(&start).fit(&data[0]).unwrap();
    assert_eq!(last(&fit), [0.0; 3]);
    let mut factors = vec![1.0; 40];
    factors[39] = 0.0;
    let [sparse, dense] = both(&lbfgs().init(&start).penalty_factors(factors.clone()), &data);
    assert_eq!(last(&sparse), last(&dense));
    assert_eq!(last(&sparse), [0.5, -0.25, -0.25]);
    assert_eq!(sparse.model.training()["settings"]["penalty_factors"].as_array().unwrap().len(), 40);
    let sgd = Sgd { epochs: Some(2), learning_rate: Some(0.5), ..Sgd::default() };
    let [sparse, dense] = both(&SoftmaxRegression::new().l2(0.1).solver(sgd).init(&start), &data);
    let [of_sparse, of_dense] = [last(&sparse), last(&dense)];
    assert!(of_sparse[0] < 0.49 && of_sparse[0] > 0.1, "{of_sparse:?}");
    assert!(of_sparse.iter().zip(&of_dense).all(|(a, b)| (a - b).abs() < 1e-6), "{of_sparse:?} {of_dense:?}");
}

/// Features as many as hashing makes, hardly any of which occur, cost next to nothing; and names in errors are those of all.
#[test]
fn many_features_of_which_few_occur_train() {
    const D: usize = 1 << 24;
    let (n, q) = (300, 3);
    let place = |k: usize| (k * 1_234_567) as u32;
    let (mut offsets, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
    let mut few = Vec::new();
    for i in 0..n {
        for k in (0..10).filter(|k| (i * 7 + k * i / 3) % 4 == 0 || k % q == i % q) {
            columns.push(place(k));
            few.push(k as u32);
            values.push(1.0f32);
        }
        offsets.push(values.len() as u64);
    }
    let labels = || Labels::from_names(&(0..n).map(|i| (i % q).to_string()).collect::<Vec<_>>()).unwrap();
    let features = |columns: Vec<u32>, d: usize| {
        Features::new(Csr::new(offsets.clone(), columns, values.clone()).unwrap(), n, d).unwrap()
    };
    let many = Dataset::new(features(columns, D), labels()).unwrap();
    let few = Dataset::new(features(few, 10), labels()).unwrap();
    for estimator in [lbfgs(), lbfgs().l1(1e-3), SoftmaxRegression::new().solver(Sgd::default())] {
        let (a, b) = (estimator.fit(&many).unwrap(), estimator.fit(&few).unwrap());
        assert_eq!(a.objective, b.objective);
        assert_eq!(a.model.n_features(), D);
        for k in 0..10 {
            assert_eq!(a.model.weights().row(place(k) as usize), b.model.weights().row(k));
        }
        assert_eq!(a.model.evaluate(&many).unwrap(), b.model.evaluate(&few).unwrap());
    }
}

#[test]
fn data_without_any_value_trains() {
    let features = Features::new(Csr::new(vec![0u64; 11], vec![], vec![]).unwrap(), 10, 4).unwrap();
    let labels = Labels::from_names(&["a", "b", "a", "a", "b", "a", "a", "b", "a", "a"]).unwrap();
    let data = Dataset::new(features, labels).unwrap();
    for solver in [Solver::from(Lbfgs::default()), Sgd::default().into(), AdamW::default().into()] {
        let fit = SoftmaxRegression::new().solver(solver).fit(&data).unwrap();
        assert!(fit.model.weights().iter().all(|&w| w == 0.0));
        assert!((fit.train.log_loss - 0.6109).abs() < 1e-2, "{}", fit.train.log_loss);
    }
}

/// So many features that the model of the l1 solver has a diagonal covariance and leaves out most coordinates: the duality gap does
/// not know how the minimum was found.
#[test]
fn l1_of_many_features_has_a_small_gap() {
    let data = data(1200, 6001, 4);
    // More occur than a whole covariance is made of.
    let mut occurring: Vec<u32> = match data[0].features().values() {
        Values::Sparse(csr) => csr.columns().to_vec(),
        other => panic!("{other:?}"),
    };
    occurring.sort_unstable();
    occurring.dedup();
    assert!(occurring.len() > 4096, "{}", occurring.len());
    for (l1, l2) in [(3e-4, 0.0), (3e-4, 1e-4), (6e-4, 0.0)] {
        let fit = lbfgs().l1(l1).l2(l2).fit(&data[0]).unwrap();
        let certificate = fit.certificate.unwrap();
        assert!(certificate.gap.unwrap() < 1e-4 * fit.objective, "{l1} {l2}: {certificate:?}");
        assert!(certificate.n_nonzero > 10 && certificate.n_nonzero < 6000, "{certificate:?}");
        let [zero, positive] = [false, true].map(|sign| {
            let weights = fit.model.weights();
            weights.iter().filter(|&&w| if sign { w > 0.0 } else { w == 0.0 }).count()
        });
        assert!(positive > 0 && zero == 6001 * 4 - certificate.n_nonzero, "{zero} {positive}");
    }
}

/// svmlight, its columns counted from 1.
fn read_svmlight(path: &std::path::Path, n_features: usize) -> Dataset<'static> {
    let text = std::fs::read_to_string(path).unwrap();
    let (mut labels, mut offsets, mut columns, mut values) = (Vec::new(), vec![0], Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        labels.push(format!("{:02}", words.next().unwrap().parse::<u32>().unwrap()));
        for word in words {
            let (column, value) = word.split_once(':').unwrap();
            columns.push(column.parse::<u32>().unwrap() - 1);
            values.push(value.parse::<f32>().unwrap());
        }
        offsets.push(values.len() as u64);
    }
    let n = labels.len();
    let features = Features::new(Csr::new(offsets, columns, values).unwrap(), n, n_features).unwrap();
    Dataset::new(features, Labels::from_names(&labels).unwrap()).unwrap()
}

/// Banking77 as tf-idf, for training and for testing.
fn banking77() -> Option<[Dataset<'static>; 2]> {
    let [train, test] = ["train", "test"].map(|part| {
        let path = common::shared_data(&format!("banking77/{part}_tfidf.svm"))?;
        Some(read_svmlight(&path, 23_608))
    });
    Some([train?, test?])
}

/// That of scikit-learn 1.9.1, LogisticRegression(C=10, tol=1e-10, max_iter=20000), in double precision.
const BANKING77_OBJECTIVE: f64 = 0.512092632194;

/// On every GPU the objective is that, too, and stochastic steps come to where they come on the CPU.
#[cfg(feature = "gpu")]
#[test]
fn banking77_tf_idf_on_every_gpu_is_that_of_scikit_learn() {
    let Some([train, test]) = banking77() else { return };
    let estimator = SoftmaxRegression::new().l2(1.0 / (10.0 * 10_003.0));
    let sgd = estimator.clone().solver(Sgd { epochs: Some(10), ..Sgd::default() }).seed(3);
    let of_cpu = sgd.fit(&train).unwrap();
    for name in common::gpu_names() {
        let device = softreg::Device::named(&name).unwrap();
        let begin = std::time::Instant::now();
        let lbfgs = Lbfgs { tolerance: 1e-7, ..Lbfgs::default() };
        let fit = estimator.clone().solver(lbfgs).device(&device).fit(&train).unwrap();
        let accuracy = fit.model.evaluate(&test).unwrap().accuracy;
        eprintln!("{name}: objective {}, accuracy {accuracy}, {:?}", fit.objective, begin.elapsed());
        assert!((fit.objective / BANKING77_OBJECTIVE - 1.0).abs() < 1e-6, "{}", fit.objective);
        assert!(accuracy >= 0.89, "{accuracy}");

        let begin = std::time::Instant::now();
        let fit = sgd.clone().device(&device).fit(&train).unwrap();
        eprintln!("{name}: SGD {} (CPU: {}), {:?}", fit.objective, of_cpu.objective, begin.elapsed());
        assert!((fit.objective / of_cpu.objective - 1.0).abs() < 1e-4, "{} {}", fit.objective, of_cpu.objective);
    }
}

#[test]
fn banking77_tf_idf_is_that_of_scikit_learn() {
    const OBJECTIVE: f64 = BANKING77_OBJECTIVE;
    let Some([train, test]) = banking77() else { return };
    assert_eq!((train.n_samples(), train.n_classes(), train.features().values().len()), (10_003, 77, 199_535));
    let estimator = SoftmaxRegression::new().l2(1.0 / (10.0 * 10_003.0));
    let estimator = estimator.solver(Lbfgs { tolerance: 1e-7, ..Lbfgs::default() });
    let fit = estimator.fit(&train).unwrap();
    assert!((fit.objective - OBJECTIVE).abs() < 1e-6, "{}", fit.objective);
    let gap = fit.certificate.unwrap().gap.unwrap();
    assert!(gap < 1e-4 && fit.objective - gap < OBJECTIVE + 1e-9, "{gap}");
    let accuracy = fit.model.evaluate(&test).unwrap().accuracy;
    assert!(accuracy >= 0.89, "{accuracy}");
    // Another penalty is another objective.
    assert!(estimator.l2(1.01 / (10.0 * 10_003.0)).fit(&train).unwrap().objective - OBJECTIVE > 1e-6);
}
