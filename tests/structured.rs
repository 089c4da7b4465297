//! Structured weights as an application and the command line have them: training, predictions from the factors, files.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use softreg::data::{Csr, Targets, Values};
use softreg::{
    AdamW, Calibration, Dataset, Device, Error, FeatureScale, Features, Fit, Folds, Labels, Lbfgs, Model,
    ModelFileProblem, NewtonCg, Sgd, SoftmaxRegression, Solver, StopReason, Structure, Sweep, data,
};

mod common;
#[path = "common/counted.rs"]
mod counted;
#[cfg(feature = "cli")]
#[path = "common/program.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod program;

use common::Random;
use counted::allocations;

fn structure(text: &str) -> Structure {
    text.parse().unwrap()
}

fn digits() -> Dataset<'static> {
    data::digits().unwrap()
}

/// The same values with their zeros left out.
fn sparse(data: &Dataset) -> Dataset<'static> {
    let (n, d) = (data.n_samples(), data.n_features());
    let Values::U8(values) = data.features().values() else { panic!("digits are bytes") };
    let (mut offsets, mut columns, mut of_columns) = (vec![0u64], Vec::new(), Vec::new());
    for row in values.chunks_exact(d) {
        for (k, &value) in (0..).zip(row).filter(|(_, value)| **value > 0) {
            columns.push(k);
            of_columns.push(f32::from(value));
        }
        offsets.push(columns.len() as u64);
    }
    let features = Features::new(Csr::new(offsets, columns, of_columns).unwrap(), n, d).unwrap();
    let Targets::Classes(classes) = data.labels().targets() else { panic!("digits have one class each") };
    let classes: Vec<usize> = classes.iter().map(|&class| class as usize).collect();
    Dataset::new(features, Labels::from_integers(&classes).unwrap()).unwrap()
}

fn estimator(text: &str) -> SoftmaxRegression {
    SoftmaxRegression::new().l2(1e-3).weights(structure(text))
}

fn close(a: f64, b: f64, relative: f64) -> bool {
    (a / b - 1.0).abs() < relative
}

/// Where W can be anything the objective has one minimum, which L-BFGS over W proves that it has found.
#[test]
fn factors_that_leave_w_free_reach_the_minimum_of_dense_weights() {
    let digits = digits();
    let dense = estimator("dense").fit(&digits).unwrap();
    assert!(dense.certificate.as_ref().unwrap().gap.unwrap() < 1e-6 * dense.objective);
    for (text, is_free) in
        [("phm:1", true), ("lowrank:10", true), ("lowrank:9", true), ("phm:2", false), ("lowrank:4", false)]
    {
        let fit = estimator(text).fit(&digits).unwrap();
        // With l2 the columns of W sum to 0, so that 9 of rank 10 are enough.
        assert_eq!(
            close(fit.objective, dense.objective, 1e-6),
            is_free,
            "{text}: {} {}",
            fit.objective,
            dense.objective
        );
        assert!(fit.objective > dense.objective * (1.0 - 1e-7), "{text}");
        assert!(fit.certificate.is_none(), "{text}: none proves a minimum of factors");
        assert!(fit.epochs.windows(2).all(|pair| pair[1].loss <= pair[0].loss * (1.0 + 1e-12)), "{text}");
    }
}

/// With fixed A the objective is convex: wherever it begins, it ends at the same minimum.
#[test]
fn quaternions_have_one_minimum() {
    let digits = digits();
    let minimum = estimator("quaternion").fit(&digits).unwrap();
    let mut firsts = vec![minimum.epochs[0].loss];
    for l2 in [1e-6, 1e-1] {
        let other = estimator("quaternion").l2(l2).fit(&digits).unwrap();
        assert!(!close(other.objective, minimum.objective, 1e-3));
        let again = estimator("quaternion").init(&other.model).fit(&digits).unwrap();
        assert!(close(again.objective, minimum.objective, 1e-7), "{} {}", again.objective, minimum.objective);
        firsts.push(again.epochs[0].loss);
    }
    // They did begin elsewhere.
    firsts.sort_by(f64::total_cmp);
    assert!(firsts.windows(2).all(|pair| pair[1] > 1.001 * pair[0]), "{firsts:?}");
}

/// Columns of very different scale, as features come.
#[test]
fn features_need_no_scaling() {
    let mut random = Random::new(3);
    let (n, d) = (600, 12);
    let scales: Vec<f32> = (0..d).map(|k| 10f32.powi(k as i32 % 5 - 2)).collect();
    let values = |scaled: bool, random: &mut Random| -> Vec<f32> {
        let value = |i: usize, random: &mut Random| {
            let (row, k) = (i / d, i % d);
            let x = random.value() + f32::from(u8::from(row % 3 == k % 3)) + 3.0;
            if scaled { scales[k] * x } else { x }
        };
        (0..n * d).map(|i| value(i, random)).collect()
    };
    let labels = Labels::from_integers(&(0..n).map(|i| i % 3).collect::<Vec<_>>()).unwrap();
    let [plain, scaled] = [false, true].map(|scaled| {
        let features = Features::new(values(scaled, &mut Random::new(3)), n, d).unwrap();
        Dataset::new(features, labels.clone()).unwrap()
    });
    random.next();
    // The same problem for U·V when the penalty goes by deviations; the scaled one takes no more than a few iterations more.
    let fit = |data: &Dataset| estimator("lowrank:2").standardize(true).fit(data).unwrap();
    let (of_plain, of_scaled) = (fit(&plain), fit(&scaled));
    assert!(close(of_plain.objective, of_scaled.objective, 1e-5), "{} {}", of_plain.objective, of_scaled.objective);
    assert!(
        of_scaled.epochs.len() < 3 * of_plain.epochs.len() + 20,
        "{} {}",
        of_scaled.epochs.len(),
        of_plain.epochs.len()
    );
    assert!(of_scaled.reason == softreg::StopReason::Converged);
}

#[test]
fn the_best_of_several_seeds_is_kept() {
    let (train, validation) = digits().split(0.3, 1).unwrap();
    let by_seed = |seed: u64| estimator("phm:4").seed(seed).fit(&train).unwrap();
    let fits: Vec<Fit> = (5..9).map(by_seed).collect();
    let objectives: Vec<f64> = fits.iter().map(|fit| fit.objective).collect();
    let least = objectives.iter().copied().fold(f64::INFINITY, f64::min);
    let of_seeds = estimator("phm:4").seed(5).seeds(4).fit(&train).unwrap();
    assert_eq!(of_seeds.objective, least, "{objectives:?}");
    let kept = &fits[(of_seeds.seed - 5) as usize];
    assert!(kept.model == of_seeds.model && kept.model.training()["seed"] == of_seeds.seed);
    // They do differ.
    assert!(objectives.iter().any(|objective| *objective != least));

    // With validation data, by its loss, and each seed with the same data.
    let watched = |seed: u64, n: usize| {
        estimator("phm:4").seed(seed).seeds(n).validation(validation.clone()).fit(&train).unwrap()
    };
    let losses: Vec<f64> = (5..8).map(|seed| watched(seed, 1).validation.unwrap().log_loss).collect();
    let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(watched(5, 3).validation.unwrap().log_loss, least, "{losses:?}");
}

/// On the CPU seeds are trained at once, L-BFGS's next pass waits for all of them, and the best is the model that is trained alone. What
/// ends one ends all.
#[test]
fn seeds_go_on_at_once_and_stop_together() {
    let dense = digits();
    let sparse = sparse(&dense);
    let sgd = || Sgd { epochs: Some(4), ..Sgd::default() };
    let solvers: [(Solver, &Dataset, bool); 3] = [
        (Lbfgs::default().into(), &dense, true),
        (sgd().into(), &dense, false),
        (Lbfgs::default().into(), &sparse, false),
    ];
    for (solver, data, is_together) in solvers {
        let estimator = estimator("lowrank:4").device(&Device::cpu()).solver(solver.clone());
        let of_seeds = estimator.clone().seeds(3);
        let mut told: Vec<(u64, usize)> = Vec::new();
        let begin = Instant::now();
        let fit = of_seeds.fit_with(data, |progress| {
            told.push((progress.seed, progress.epoch));
            ControlFlow::Continue(())
        });
        let (fit, elapsed) = (fit.unwrap(), begin.elapsed());
        assert!(fit.training > Duration::ZERO && fit.preparation + fit.training <= elapsed);
        let at = |seed, epoch| told.iter().position(|each| *each == (seed, epoch));
        for seed in 0..3 {
            // As a training of its own: each epoch once, in their order.
            let epochs: Vec<usize> = told.iter().filter(|each| each.0 == seed).map(|each| each.1).collect();
            assert!(epochs.len() > 2 && epochs.iter().copied().eq(1..=epochs.len()), "{told:?}");
            assert!(!is_together || (0..3).all(|other| at(seed, 1) < at(other, 4)), "{told:?}");
        }
        assert!(fit.epochs.iter().all(|epoch| epoch.seed == fit.seed));
        let alone: Vec<Fit> = (0..3).map(|seed| estimator.clone().seed(seed).fit(data).unwrap()).collect();
        assert!(alone[fit.seed as usize].model == fit.model);
        assert!(alone.iter().all(|other| other.objective >= fit.objective) && alone[0].model != alone[1].model);

        let mut n_told = 0;
        let stopped = of_seeds.fit_with(data, |_| {
            n_told += 1;
            if n_told < 5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        assert_eq!((stopped.unwrap().reason, n_told), (StopReason::Caller, 5));
        let late = of_seeds.clone().time_limit(Duration::from_nanos(1)).fit(data).unwrap();
        assert_eq!(late.reason, StopReason::TimeLimit);
        // A callback that panics is not called again.
        let n_told = AtomicUsize::new(0);
        let panics = || of_seeds.fit_with(data, |_| panic!("{}", n_told.fetch_add(1, Relaxed)));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert_eq!(n_told.load(Relaxed), 1);
    }
    // As many as nobody has the time for are no memory before they begin.
    let many = estimator("lowrank:4").device(&Device::cpu()).seeds(usize::MAX);
    assert_eq!(many.fit_with(&dense, |_| ControlFlow::Break(())).unwrap().reason, StopReason::Caller);
}

/// A head of a sweep is the model that is trained alone; the objective of quaternions has one minimum, so that a path from penalty to
/// penalty ends where a fit of its own does.
#[test]
fn a_sweep_chooses_among_structured_weights() {
    let digits = digits();
    let folds = Folds::Stratified(3);
    let of_row = folds.of(digits.labels()).unwrap();
    let solver = Lbfgs { tolerance: 1e-8, ..Lbfgs::default() };
    let sweep = |text: &str| Sweep::new(estimator(text).solver(solver.clone())).tolerance(1e-8).folds(folds.clone());
    let swept = sweep("quaternion").penalties([1e-1, 1e-3, 1e-5]).fit(&digits).unwrap();
    assert_eq!((swept.heads.len(), swept.fit.model.structure()), (9, Structure::Quaternion));
    for head in &swept.heads {
        let rows = |is_train: bool| {
            let is_asked = |row: &u32| (of_row[*row as usize] as usize == head.fold) != is_train;
            digits.select(&(0..of_row.len() as u32).filter(is_asked).collect::<Vec<_>>()).unwrap()
        };
        let scale = FeatureScale::Factor(1.0 / 16.0);
        let alone =
            |l2| estimator("quaternion").solver(solver.clone()).feature_scale(scale).l2(l2).fit(&rows(true)).unwrap();
        let own = alone(head.l2);
        assert!(close(head.objective, own.objective, 1e-6), "{} {}", head.objective, own.objective);
        let loss = own.model.evaluate(&rows(false)).unwrap().log_loss;
        assert!(close(head.validation.log_loss, loss, 1e-2), "{} {loss}", head.validation.log_loss);
        assert!(!close(head.objective, alone(head.l2 * 3.0).objective, 1e-3), "a penalty changes nothing");
    }
    // The best of the grid is what is trained on all samples, whatever the structure.
    for text in ["phm:4", "lowrank:5"] {
        let swept = sweep(text).penalties([1e-1, 1e-3]).fit(&digits).unwrap();
        let losses: Vec<f64> = swept.candidates.iter().map(|candidate| candidate.log_loss).collect();
        assert_eq!((swept.chosen, swept.fit.model.structure()), (1, structure(text)), "{losses:?}");
        assert!(losses[1] < 0.5 * losses[0] && swept.fit.model.evaluate(&digits).unwrap().accuracy > 0.95);
    }
}

/// The nearest W of the structure is a better beginning than none, and what has the structure already is taken as it is.
#[test]
fn a_dense_model_is_compressed_and_tuned() {
    let digits = digits();
    let dense = estimator("dense").fit(&digits).unwrap().model;
    for text in ["phm:2", "phm:4", "quaternion", "lowrank:5"] {
        let from_nothing = estimator(text).fit(&digits).unwrap();
        let compressed = estimator(text).init(&dense).fit(&digits).unwrap();
        // What is nearest of few W may predict little of what W does.
        assert!(text == "quaternion" || compressed.epochs[0].loss < from_nothing.epochs[0].loss, "{text}");
        assert!(compressed.objective < 1.02 * from_nothing.objective, "{text}");
        assert_eq!(compressed.model.structure(), structure(text));
        // Going on from where it ended there is next to nothing left to gain.
        let again = estimator(text).init(&compressed.model).fit(&digits).unwrap();
        assert!(close(again.epochs[0].loss, compressed.objective, 1e-5), "{text}");
        assert!(again.epochs.len() < compressed.epochs.len(), "{text}");
        // Back to dense weights.
        let back = estimator("dense").init(&compressed.model).fit(&digits).unwrap();
        assert_eq!(back.model.structure(), Structure::Dense);
    }
}

/// Wherever a prediction is made, it is that of W, to the rounding of sums of so many terms.
#[test]
fn predictions_from_factors_are_those_of_w() {
    let (train, test) = digits().split(0.3, 1).unwrap();
    for text in ["phm:2", "phm:4", "quaternion", "lowrank:3", "lowrank:10"] {
        let model = estimator(text).fit(&train).unwrap().model;
        let dense = model.to_dense();
        assert_eq!(dense.structure(), Structure::Dense);
        let (found, expected) =
            (model.decision_function(test.features()).unwrap(), dense.decision_function(test.features()).unwrap());
        // Σ|x|·|W| of a row is at most 64·16·max|W|, here of sums about 10; factors may cancel, which rank 10 shows.
        let largest = expected.iter().fold(0.0f32, |max, value| max.max(value.abs()));
        let difference =
            |other: &ndarray::Array2<f32>| found.iter().zip(other).fold(0.0f32, |max, (a, b)| max.max((a - b).abs()));
        let bound = 200.0 * f32::EPSILON * largest;
        assert!(difference(&expected) <= bound, "{text}: {} of {bound}", difference(&expected));
        let other = estimator(text).l2(1.001e-3).fit(&train).unwrap().model;
        assert!(difference(&other.decision_function(test.features()).unwrap()) > bound, "{text}");
        assert_eq!(model.predict(test.features()).unwrap(), dense.predict(test.features()).unwrap());
        let losses = [&model, &dense].map(|model| model.evaluate(&test).unwrap().log_loss);
        assert!(close(losses[0], losses[1], 1e-5), "{losses:?}");

        // Single samples, the second of which allocates nothing.
        let mut row = vec![0.0; 64];
        let mut logits = vec![0.0; 10];
        for index in 0..20 {
            let data::Values::U8(values) = test.features().values() else { panic!("not bytes") };
            row.iter_mut().zip(&values[index * 64..]).for_each(|(to, from)| *to = f32::from(*from));
            let n = allocations(|| model.logits_into(&row, &mut logits).unwrap());
            assert!(index == 0 || n == 0, "{text}: {n}");
            let expected = expected.row(index);
            assert!(logits.iter().zip(expected).all(|(a, b)| (a - b).abs() <= bound), "{text}, {index}");
        }
    }
}

/// Also where the first of two products is too large, the row is named.
#[test]
fn logits_that_are_not_finite_are_errors_with_their_row() {
    let digits = digits();
    let data::Values::U8(values) = digits.features().values() else { panic!("not bytes") };
    let small = values.iter().map(|&x| f32::from(x) * 1e-6).collect::<Vec<_>>();
    let data = Dataset::new(Features::new(small, digits.n_samples(), 64).unwrap(), digits.labels().clone()).unwrap();
    for text in ["phm:4", "lowrank:3"] {
        let model = estimator(text).l2(1e-14).fit(&data).unwrap().model;
        let mut rows = vec![1e-6; 3 * 64];
        assert!(model.predict(&Features::new(rows.clone(), 3, 64).unwrap()).is_ok());
        rows[64..128].fill(f32::MAX);
        let error = model.predict(&Features::new(rows, 3, 64).unwrap()).unwrap_err().to_string();
        assert!(error.contains("row 2") && error.contains("not finite"), "{error}");
    }
}

/// A W larger than the cache: single samples are predicted from the factors.
#[test]
fn large_weights_are_not_formed_for_single_samples() {
    let mut random = Random::new(1);
    let (n, d, q) = (600, 1500, 200);
    let labels = Labels::from_integers(&(0..n).map(|i| i % q).collect::<Vec<_>>()).unwrap();
    let data = Dataset::new(Features::new(random.values(n * d), n, d).unwrap(), labels).unwrap();
    let few = Lbfgs { max_iterations: 3, ..Lbfgs::default() };
    for text in ["phm:4", "quaternion", "lowrank:20"] {
        let model = SoftmaxRegression::new().weights(structure(text)).solver(few.clone()).fit(&data).unwrap().model;
        let data::Values::F32(values) = data.features().values() else { panic!("not f32") };
        let mut probabilities = vec![0.0; q];
        let mut class = 0;
        let n = allocations(|| class = model.predict_into(&values[..d], &mut probabilities).unwrap());
        assert_eq!(n, 0, "{text}: also the first allocates nothing");
        let expected = model.to_dense().predict_proba(data.features()).unwrap();
        assert!(probabilities.iter().zip(expected.row(0)).all(|(a, b)| (a - b).abs() < 1e-5), "{text}");
        assert!(expected.row(0).iter().all(|p| *p <= probabilities[class] + 1e-5));
        assert!(expected.row(1).iter().zip(&probabilities).any(|(a, b)| (a - b).abs() > 1e-5));
    }
}

#[test]
fn files_have_the_factors_and_come_back() {
    let path = std::env::temp_dir().join(format!("softreg-structured-{}.safetensors", std::process::id()));
    let digits = digits();
    for text in ["phm:2", "phm:3", "quaternion", "lowrank:3"] {
        let model = estimator(text).fit(&digits).unwrap().model;
        model.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let n = structure(text).n_parameters(64, 10).unwrap();
        assert_eq!(bytes.len(), header + 4 * n, "{text}");
        assert_eq!(model.n_parameters(), n);
        let back = Model::load(&path).unwrap();
        assert!(
            back.weights() == model.weights() && back.bias() == model.bias() && back.structure() == structure(text)
        );
        let other = estimator(text).l2(1e-2).fit(&digits).unwrap().model;
        assert!(back.weights() != other.weights());

        // What is cut off or wrong is said to be damaged, and no size that is claimed is believed.
        let problem = |bytes: &[u8]| Model::from_bytes(bytes).unwrap_err();
        assert!(matches!(problem(&bytes[..bytes.len() - 4]), ModelFileProblem::Damaged(_)));
        let replaced = |from: &str, to: &str| {
            assert_eq!(from.len(), to.len());
            let mut bytes = bytes.clone();
            let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            bytes
        };
        for to in ["n_features\\\":99", "n_features\\\":-1", "n_features\\\":00"] {
            assert!(matches!(problem(&replaced("n_features\\\":64", to)), ModelFileProblem::Damaged(_)), "{text} {to}");
        }
        let wrong = replaced(text, &"x".repeat(text.len()));
        assert!(problem(&wrong).to_string().contains("phm:M, quaternion or lowrank:R"), "{}", problem(&wrong));
        let mut not_finite = bytes.clone();
        let end = not_finite.len();
        not_finite[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(matches!(problem(&not_finite), ModelFileProblem::Damaged(_)));
        // Numbers that are finite, of weights that are not.
        let mut too_large = bytes.clone();
        too_large[header..].chunks_exact_mut(4).for_each(|number| number.copy_from_slice(&1e30f32.to_le_bytes()));
        assert_eq!(Model::from_bytes(&too_large).is_err(), text != "quaternion", "{text}");
        for index in 0..header {
            let mut bytes = bytes.clone();
            bytes[index] ^= 1;
            // Some flips only rename a class; what counts is that none panics.
            let _ = Model::from_bytes(&bytes);
        }
        // Readers of format version 1 see a newer one; dense models are still of that version.
        assert!(String::from_utf8_lossy(&bytes[..header]).contains("format_version\\\":2"));
        model.to_dense().save(&path).unwrap();
        let dense = std::fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(dense[..8].try_into().unwrap()) as usize;
        assert!(String::from_utf8_lossy(&dense[..header]).contains("format_version\\\":1"));
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn calibration_keeps_the_structure_or_says_why_not() {
    let (train, rest) = digits().split(0.4, 0).unwrap();
    for text in ["phm:4", "quaternion", "lowrank:5"] {
        let model = estimator(text).l2(1e-7).fit(&train).unwrap().model;
        let calibrated = model.calibrate(&rest, Calibration::Temperature).unwrap();
        assert_eq!(calibrated.model.structure(), structure(text));
        let of_dense = model.to_dense().calibrate(&rest, Calibration::Temperature).unwrap();
        assert!(close(calibrated.after.log_loss, of_dense.after.log_loss, 1e-5), "{text}");
        assert!(calibrated.after.log_loss < 0.99 * calibrated.before.log_loss, "{text}");
        match model.calibrate(&rest, Calibration::Vector) {
            Ok(calibrated) => {
                assert_eq!((text, calibrated.model.structure()), ("lowrank:5", structure(text)));
                let of_dense = model.to_dense().calibrate(&rest, Calibration::Vector).unwrap();
                assert!(close(calibrated.after.log_loss, of_dense.after.log_loss, 1e-4));
            }
            Err(error) => {
                assert!(text != "lowrank:5" && error.to_string().contains("--to dense"), "{text}: {error}");
            }
        }
    }
}

#[test]
fn what_does_not_go_together_says_what_to_do() {
    let digits = digits();
    let phm = || estimator("phm:4");
    let model = phm().fit(&digits).unwrap().model;
    for (wrong, what) in [
        (estimator("phm:0"), "at least 1"),
        (estimator("phm:65"), "no larger than the number of features"),
        (estimator("lowrank:0"), "at least 1"),
        (estimator("lowrank:11"), "no larger than either"),
        (phm().solver(NewtonCg::default()), "L-BFGS trains structured weights"),
        (phm().l1(1e-3), "0 with structured weights"),
        (phm().solver(Sgd::default()).checkpoint("nowhere", softreg::Every::Epochs(1)), "L-BFGS has those"),
        (phm().polish(true), "train on the CPU"),
        (phm().seeds(0), "at least 1"),
        (estimator("quaternion").seeds(2), "one minimum"),
        (estimator("dense").seeds(2), "one minimum"),
        (phm().seeds(2).init(&model), "1 with a model to start from"),
        (phm().seeds(2).resume("nowhere"), "train with each --seed by itself"),
    ] {
        let error = wrong.fit(&digits).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }) && error.to_string().contains(what), "{error}");
    }
}

/// Steps over the factors come near the minimum that L-BFGS finds, as those of dense weights do.
#[test]
fn sgd_and_adamw_train_factors_on_the_cpu() {
    let digits = digits();
    for text in ["dense", "phm:2", "phm:4", "quaternion", "lowrank:5"] {
        let minimum = estimator(text).fit(&digits).unwrap().objective;
        let solvers: [Solver; 2] = [
            Sgd { epochs: Some(60), ..Sgd::default() }.into(),
            AdamW { epochs: Some(60), learning_rate: Some(3e-2), ..AdamW::default() }.into(),
        ];
        for solver in solvers {
            let fit = |epochs| {
                let solver = match solver.clone() {
                    Solver::Sgd(sgd) => Sgd { epochs: Some(epochs), ..sgd }.into(),
                    Solver::AdamW(adamw) => AdamW { epochs: Some(epochs), ..adamw }.into(),
                    other => other,
                };
                estimator(text).solver(solver).fit(&digits).unwrap()
            };
            let (short, long) = (fit(1), fit(60));
            let what = format!("{text} {}: {} {} of {minimum}", solver.name(), short.objective, long.objective);
            assert!(long.objective < 1.1 * minimum && long.objective > minimum * (1.0 - 1e-6), "{what}");
            assert!(short.objective > 1.1 * long.objective, "{what}");
            assert_eq!(long.model.structure(), structure(text));
            assert!(fit(60).model == long.model, "{what}: one seed, one model");
        }
    }
}

/// As near the minimum of the CPU's double precision as a GPU comes.
#[test]
fn a_gpu_trains_and_predicts_as_the_cpu() {
    let Some(device) = Device::list()
        .into_iter()
        .find_map(|info| Device::named(&info.name).ok().filter(|d| d.info().backend != "cpu"))
    else {
        assert!(std::env::var_os("SOFTREG_REQUIRE_GPU").is_none(), "there is no GPU");
        eprintln!("skipped: there is no GPU");
        return;
    };
    let (train, test) = digits().split(0.3, 1).unwrap();
    for text in ["phm:4", "quaternion", "lowrank:5"] {
        let [cpu, gpu] = [&Device::cpu(), &device].map(|device| estimator(text).device(device).fit(&train).unwrap());
        assert!(close(cpu.objective, gpu.objective, 1e-5), "{text}: {} {}", cpu.objective, gpu.objective);
        let [cpu, gpu] = [&Device::cpu(), &device].map(|device| cpu.model.on(device).evaluate(&test).unwrap().log_loss);
        assert!(close(cpu, gpu, 1e-5), "{text}: {cpu} {gpu}");
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_program_trains_shows_and_converts_structured_models() {
    let folder = program::Folder::new();
    let train = |more: &[&str]| {
        let arguments = ["train", "--device", "cpu", "--quiet", "--l2", "1e-3", "--json", "-"];
        folder.softreg(arguments.iter().chain(more)).ok().json()
    };
    let record = train(&["--weights", "phm:4", "--seeds", "3", "--out", "phm.safetensors"]);
    assert_eq!(
        (record["weights"].as_str(), record["n_parameters"].as_u64()),
        (Some("phm:4"), Some(64 + 16 * 3 * 4 + 10))
    );
    assert!(record["seed"].as_u64().unwrap() < 3 && record["seeds"] == 3);
    let info = folder.softreg(["info", "phm.safetensors"]).ok().stdout;
    assert!(info.contains("weights    phm:4: 266 parameters, 0.409") && info.contains("format version 2"), "{info}");
    folder.softreg(["convert", "phm.safetensors", "--to", "dense", "--out", "dense.safetensors"]).ok();
    let info = folder.softreg(["info", "dense.safetensors"]).ok().stdout;
    assert!(info.contains("650 parameters") && info.contains("format version 1") && !info.contains("phm:4:"), "{info}");

    train(&["--out", "plain.safetensors"]);
    let record = train(&["--init", "plain.safetensors", "--compress", "lowrank:4", "--out", "small.safetensors"]);
    assert_eq!((record["weights"].as_str(), record["n_parameters"].as_u64()), (Some("lowrank:4"), Some(4 * 74 + 10)));

    for (wrong, what) in [
        (&["train", "--weights", "phm:x"][..], "phm:M, quaternion or lowrank:R"),
        (&["train", "--weights", "phm:100", "--quiet"], "no larger than the number of features"),
        (&["train", "--weights", "phm:4", "--solver", "newton-cg", "--quiet"], "L-BFGS trains structured weights"),
        (&["train", "--compress", "phm:4"], "--init"),
        (&["convert", "phm.safetensors", "--to", "dense", "--out", "x.npy"], "must end with .safetensors"),
    ] {
        let run = folder.softreg(wrong);
        assert!(run.status != Some(0) && run.stderr.contains(what), "{run:#?}");
    }
}
