//! Calibration: scalings are minima, by a loss written anew here; they are in the file; and what has no minimum is an error.

mod common;
#[cfg(feature = "cli")]
#[path = "common/program.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod program;

use common::Random;
use ndarray::{Array1, Array2};
use softreg::{Calibrated, Calibration, Dataset, Error, Features, Labels, Model, Scaling, SoftmaxRegression, data};

const METHODS: [Calibration; 2] = [Calibration::Temperature, Calibration::Vector];

/// Samples by their logits: W of the model is the identity, so that the features are the logits.
#[derive(Clone)]
struct Case {
    q: usize,
    logits: Vec<f32>,
    /// (n × q).
    y: Vec<f32>,
    weights: Option<Vec<f32>>,
}

impl Case {
    /// Logits up to ±`size`, and classes drawn from softmax(logits / temperature).
    fn drawn(n: usize, q: usize, size: f32, temperature: f64, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let logits: Vec<f32> = random.values(n * q).iter().map(|value| size * value).collect();
        let mut y = vec![0.0; n * q];
        for (o, y) in logits.chunks_exact(q).zip(y.chunks_exact_mut(q)) {
            let e: Vec<f64> = o.iter().map(|&o| (f64::from(o) / temperature).exp()).collect();
            let mut left = f64::from(random.value().abs()) * e.iter().sum::<f64>();
            let passed = e.iter().take_while(|&&e| {
                left -= e;
                left >= 0.0
            });
            y[passed.count().min(q - 1)] = 1.0;
        }
        Self { q, logits, y, weights: None }
    }

    fn n(&self) -> usize {
        self.logits.len() / self.q
    }

    /// The same with labels that are distributions: half of the classes drawn, half spread at random.
    fn soft(mut self, seed: u64) -> Self {
        let mut random = Random::new(seed);
        for y in self.y.chunks_exact_mut(self.q) {
            let spread: Vec<f32> = random.values(y.len()).iter().map(|value| value.abs()).collect();
            let sum: f32 = spread.iter().sum();
            y.iter_mut().zip(spread).for_each(|(y, value)| *y = 0.5 * *y + 0.5 * value / sum);
        }
        self
    }

    fn weighted(mut self, seed: u64) -> Self {
        let mut random = Random::new(seed);
        self.weights = Some((0..self.n()).map(|i| if i % 5 == 0 { 0.0 } else { 0.1 + random.value().abs() }).collect());
        self
    }

    fn model(&self) -> Model {
        Model::new(Array2::eye(self.q).view(), Array1::zeros(self.q).view(), names(self.q)).unwrap()
    }

    fn data(&self) -> Dataset<'static> {
        let labels = Labels::from_distributions(self.y.clone(), names(self.q)).unwrap();
        let data = Dataset::new(Features::new(self.logits.clone(), self.n(), self.q).unwrap(), labels).unwrap();
        match &self.weights {
            Some(weights) => data.with_weights(weights.clone()).unwrap(),
            None => data,
        }
    }

    fn calibrate(&self, method: Calibration) -> Calibrated {
        self.model().calibrate(&self.data(), method).unwrap()
    }

    /// Mean loss of softmax(a ⊙ o + c), from its definition.
    fn loss(&self, a: &[f64], c: &[f64]) -> f64 {
        let (mut loss, mut total) = (0.0, 0.0);
        for (row, (o, y)) in self.logits.chunks_exact(self.q).zip(self.y.chunks_exact(self.q)).enumerate() {
            let weight = self.weights.as_ref().map_or(1.0, |weights| f64::from(weights[row]));
            let u: Vec<f64> = (0..self.q).map(|k| a[k] * f64::from(o[k]) + c[k]).collect();
            let max = u.iter().copied().fold(f64::MIN, f64::max);
            let log_sum = max + u.iter().map(|u| (u - max).exp()).sum::<f64>().ln();
            let sum_y: f64 = y.iter().map(|&y| f64::from(y)).sum();
            loss += weight * y.iter().zip(&u).map(|(&y, u)| f64::from(y) / sum_y * (log_sum - u)).sum::<f64>();
            total += weight;
        }
        loss / total
    }

    fn loss_at(&self, temperature: f64) -> f64 {
        self.loss(&vec![1.0 / temperature; self.q], &vec![0.0; self.q])
    }

    /// What vector scaling minimises: the loss and (‖a·T − 1‖² + ‖c‖²)/(2m).
    fn penalised(&self, temperature: f64, a: &[f64], c: &[f64]) -> f64 {
        let m = match &self.weights {
            Some(weights) => {
                let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
                sum * sum / weights.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>()
            }
            None => self.n() as f64,
        };
        let off = a.iter().map(|a| (a * temperature - 1.0).powi(2)).chain(c.iter().map(|c| c * c)).sum::<f64>();
        self.loss(a, c) + off / (2.0 * m)
    }
}

fn names(q: usize) -> Vec<String> {
    (0..q).map(|class| format!("class {class}")).collect()
}

fn temperature(calibrated: &Calibrated) -> f64 {
    match &calibrated.scaling {
        Scaling::Temperature(temperature) => *temperature,
        other => panic!("{other:?}"),
    }
}

fn vector(calibrated: &Calibrated) -> (Vec<f64>, Vec<f64>) {
    match &calibrated.scaling {
        Scaling::Vector { factors, offsets } => (factors.clone(), offsets.clone()),
        other => panic!("{other:?}"),
    }
}

fn cases() -> Vec<(&'static str, Case)> {
    let hard = Case::drawn(600, 5, 4.0, 2.0, 1);
    let mut missing = hard.clone();
    // No sample of class 3: those that were are of class 0.
    for y in missing.y.chunks_exact_mut(5) {
        y[0] += std::mem::take(&mut y[3]);
    }
    vec![
        ("two classes", Case::drawn(300, 2, 3.0, 0.5, 2)),
        ("classes", hard.clone()),
        ("a class without samples", missing),
        ("distributions", hard.clone().soft(3)),
        ("weights", hard.clone().weighted(4)),
        ("distributions and weights", hard.soft(5).weighted(6)),
        ("several parts", Case::drawn(20_000, 3, 5.0, 3.0, 7)),
    ]
}

#[test]
fn the_temperature_has_no_derivative() {
    for (what, case) in cases() {
        let t = temperature(&case.calibrate(Calibration::Temperature));
        // Central differences over log T: truncation of order h², rounding of ε/h.
        let derivative = |t: f64| (case.loss_at(t * 1e-4f64.exp()) - case.loss_at(t * (-1e-4f64).exp())) / 2e-4;
        assert!(derivative(t).abs() < 1e-8, "{what}: {} at {t}", derivative(t));
        // A percent beside it there is one.
        assert!(derivative(1.01 * t) > 1e-5 && derivative(0.99 * t) < -1e-5, "{what}");
    }
}

#[test]
fn vector_scaling_is_the_minimum_of_its_objective() {
    for (what, case) in cases() {
        let t = temperature(&case.calibrate(Calibration::Temperature));
        let (a, c) = vector(&case.calibrate(Calibration::Vector));
        let derivative = |a: &[f64], c: &[f64], index: usize| {
            let at = |h: f64| {
                let (mut a, mut c) = (a.to_vec(), c.to_vec());
                if index < case.q {
                    a[index] += h
                } else {
                    c[index - case.q] += h
                }
                case.penalised(t, &a, &c)
            };
            (at(1e-4) - at(-1e-4)) / 2e-4
        };
        let largest =
            |a: &[f64], c: &[f64]| (0..2 * case.q).map(|index| derivative(a, c, index).abs()).fold(0.0, f64::max);
        assert!(largest(&a, &c) < 1e-7, "{what}: {}", largest(&a, &c));
        let moved: Vec<f64> = c.iter().enumerate().map(|(k, c)| c + if k == 0 { 0.01 } else { 0.0 }).collect();
        assert!(largest(&a, &moved) > 1e-4, "{what}: {}", largest(&a, &moved));
        // Where it began is above.
        let start = case.penalised(t, &vec![1.0 / t; case.q], &vec![0.0; case.q]);
        assert!(case.penalised(t, &a, &c) < start, "{what}");
    }
}

/// Rounding of W and b, once more in the logits, and of the logits: relative to their size, of which the loss is at most twice as much off.
fn rounding(case: &Case, a: &[f64], c: &[f64]) -> f64 {
    let size = case.logits.iter().enumerate().map(|(i, &o)| (a[i % case.q] * f64::from(o)).abs() + c[i % case.q].abs());
    8.0 * f64::from(f32::EPSILON) * size.fold(0.0, f64::max)
}

#[test]
fn losses_fall_and_are_those_of_the_saved_model() {
    for (what, case) in cases() {
        let one = case.calibrate(Calibration::Temperature);
        let many = case.calibrate(Calibration::Vector);
        let (a, c) = vector(&many);
        let error = rounding(&case, &a, &c);
        assert!(error < 1e-4, "{what}: {error}");
        // The temperature that the labels were drawn with is not 1.
        assert!(one.after.log_loss < one.before.log_loss - 1e-3, "{what}: {one:?}");
        assert!(many.after.log_loss <= one.after.log_loss + error, "{what}: {many:?}");
        assert_eq!(one.before, many.before, "{what}");
        assert_eq!(one.before, case.model().evaluate(&case.data()).unwrap(), "{what}");
        assert!((one.after.log_loss - case.loss_at(temperature(&one))).abs() < error, "{what}");
        assert!((many.after.log_loss - case.loss(&a, &c)).abs() < error, "{what}");
        assert_eq!(many.after, many.model.evaluate(&case.data()).unwrap(), "{what}");
    }
}

#[test]
fn a_known_factor_comes_back() {
    let case = Case::drawn(2000, 4, 3.0, 1.0, 8);
    let t = temperature(&case.calibrate(Calibration::Temperature));
    assert!((t - 1.0).abs() < 0.1, "{t}");
    for factor in [0.125f32, 3.0, 1e-6, 1e6] {
        let scaled = Case { logits: case.logits.iter().map(|o| o * factor).collect(), ..case.clone() };
        let found = scaled.calibrate(Calibration::Temperature);
        let off = temperature(&found) / (t * f64::from(factor)) - 1.0;
        assert!(off.abs() < 1e-6, "{factor}: {off}");
        // The probabilities are those of the logits as they were.
        assert!((found.after.log_loss - case.loss_at(t)).abs() < 1e-5);
        let (a, c) = vector(&case.calibrate(Calibration::Vector));
        let (a_scaled, c_scaled) = vector(&scaled.calibrate(Calibration::Vector));
        for k in 0..4 {
            assert!((a_scaled[k] * f64::from(factor) / a[k] - 1.0).abs() < 1e-4, "{factor}: {a:?} {a_scaled:?}");
            assert!((c_scaled[k] - c[k]).abs() < 1e-4, "{factor}: {c:?} {c_scaled:?}");
        }
    }
    // Factors and offsets of single classes, from so many samples that their prior counts little.
    let case = Case::drawn(100_000, 4, 3.0, 1.0, 8);
    let (factors, offsets) = ([2.0f32, 0.5, 1.0, 3.0], [1.0f32, -2.0, 0.5, 0.5]);
    let spoilt = case.logits.iter().enumerate().map(|(i, o)| (o - offsets[i % 4]) / factors[i % 4]).collect();
    let (a, c) = vector(&Case { logits: spoilt, ..case }.calibrate(Calibration::Vector));
    let mean = c.iter().zip(offsets).map(|(c, b)| c - f64::from(b)).sum::<f64>() / 4.0;
    for k in 0..4 {
        assert!((a[k] / f64::from(factors[k]) - 1.0).abs() < 0.05, "{a:?}");
        assert!((c[k] - mean - f64::from(offsets[k])).abs() < 0.05, "{c:?}");
    }
}

#[test]
fn temperature_keeps_predictions_and_vector_scaling_may_not() {
    for (what, case) in cases() {
        let (model, data) = (case.model(), case.data());
        let before = model.predict(data.features()).unwrap();
        let one = case.calibrate(Calibration::Temperature).model.predict(data.features()).unwrap();
        let changed = (0..case.n()).filter(|&row| before[row] != one[row]);
        for row in changed {
            let o = &case.logits[row * case.q..][..case.q];
            let (old, new) = (o[before[row]], o[one[row]]);
            assert!((old - new).abs() <= 4.0 * f32::EPSILON * old.abs(), "{what}, row {row}: {o:?}");
        }
        if what == "a class without samples" {
            let many = case.calibrate(Calibration::Vector).model.predict(data.features()).unwrap();
            let count = |predicted: &[usize]| predicted.iter().filter(|&&class| class == 3).count();
            assert!(count(&many) < count(&before) / 2, "{} of {}", count(&many), count(&before));
        }
    }
}

#[test]
fn a_calibrated_model_is_a_file_that_says_so() {
    let (train, rest) = data::digits().unwrap().split(0.4, 0).unwrap();
    let model = SoftmaxRegression::new().l2(1e-8).fit(&train).unwrap().model;
    assert!(model.training().get("calibrations").is_none());
    let path = std::env::temp_dir().join(format!("softreg-calibration-{}.safetensors", std::process::id()));
    let mut last = model.clone();
    for (index, method) in METHODS.into_iter().enumerate() {
        let calibrated = last.calibrate(&rest, method).unwrap();
        calibrated.model.save(&path).unwrap();
        let read = Model::load(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let p = calibrated.model.predict_proba(rest.features()).unwrap();
        assert_eq!(read.predict_proba(rest.features()).unwrap(), p);
        assert_ne!(last.predict_proba(rest.features()).unwrap(), p);

        // What trained it is kept, and each calibration is added to those before.
        assert_eq!(read.training()["train_loss"], model.training()["train_loss"]);
        let records = read.training()["calibrations"].as_array().unwrap();
        assert_eq!(records.len(), index + 1);
        let record = &records[index];
        let number = |pointer: &str| record.pointer(pointer).and_then(|value| value.as_f64()).unwrap();
        assert_eq!(record["n_samples"], rest.n_samples());
        for (when, evaluation) in [("before", &calibrated.before), ("after", &calibrated.after)] {
            let figures = [
                ("log_loss", evaluation.log_loss),
                ("accuracy", evaluation.accuracy),
                ("brier_score", evaluation.brier_score),
                ("calibration_error", evaluation.calibration_error),
            ];
            for (key, figure) in figures {
                assert!((number(&format!("/{when}/{key}")) - figure).abs() < 1e-12, "{when} {key}");
            }
        }
        // By the record, the weights from before.
        let number_of = |key: &str, class: usize| record[key][class].as_f64().unwrap();
        let q = model.n_classes();
        let old = last.weights().rows().into_iter().chain([last.bias()]).flatten().copied().collect::<Vec<_>>();
        let new = read.weights().rows().into_iter().chain([read.bias()]).flatten().copied().collect::<Vec<_>>();
        for (index, (old, new)) in old.into_iter().zip(new).enumerate() {
            let (class, is_bias) = (index % q, index >= q * model.n_features());
            let (factor, offset) = match method {
                Calibration::Temperature => (1.0 / record["temperature"].as_f64().unwrap(), 0.0),
                _ => (number_of("factors", class), if is_bias { number_of("offsets", class) } else { 0.0 }),
            };
            let back = (f64::from(new) - offset) / factor;
            let error = 2.0 * f64::from(f32::EPSILON) * f64::from(new).abs().max(1e-30) / factor.abs();
            assert!((back - f64::from(old)).abs() <= error, "{index}: {back}, before {old}");
        }
        last = calibrated.model;
    }
}

#[test]
fn weights_count_and_their_scale_does_not() {
    let case = Case::drawn(400, 3, 3.0, 2.0, 9);
    let counts: Vec<usize> = (0..case.n()).map(|row| [1, 0, 2, 1][row % 4]).collect();
    let of = |scale: f32| Case { weights: Some(counts.iter().map(|&n| scale * n as f32).collect()), ..case.clone() };
    let rows = |values: &[f32], counts: &[usize]| -> Vec<f32> {
        let rows = values.chunks_exact(3).zip(counts);
        rows.flat_map(|(row, &count)| std::iter::repeat_n(row, count).flatten().copied()).collect()
    };
    let repeated = Case { logits: rows(&case.logits, &counts), y: rows(&case.y, &counts), ..case.clone() };
    let [of_weights, of_rows, unweighted] =
        [&of(1.0), &repeated, &case].map(|case| temperature(&case.calibrate(METHODS[0])));
    assert!((of_weights / of_rows - 1.0).abs() < 1e-9 && (unweighted / of_rows - 1.0).abs() > 1e-3);
    // Without those of weight 0 it is the same problem, whatever the unit of the others.
    let few: Vec<usize> = counts.iter().map(|&count| count.min(1)).collect();
    let kept = |scale: f32| Case {
        logits: rows(&case.logits, &few),
        y: rows(&case.y, &few),
        weights: Some(counts.iter().filter(|&&n| n > 0).map(|&n| scale * n as f32).collect()),
        ..case.clone()
    };
    let (a, c) = vector(&of(1.0).calibrate(Calibration::Vector));
    for other in [of(0.01), kept(1.0), kept(300.0)] {
        let (a_other, c_other) = vector(&other.calibrate(Calibration::Vector));
        let all = a.iter().chain(&c).zip(a_other.iter().chain(&c_other));
        assert!(all.map(|(x, y)| (x - y).abs()).fold(0.0, f64::max) < 1e-6, "{a:?} {a_other:?}");
    }
    assert_ne!(vector(&case.calibrate(Calibration::Vector)).0, a);
}

/// Small problems of any scale: there is a minimum and it is found, or there is none and the error is one of calibration.
#[test]
fn any_logits_have_a_temperature_or_an_error() {
    let (mut n_found, mut n_errors) = (0, 0);
    for seed in 0..600 {
        let mut random = Random::new(seed + 100);
        let (n, q) = (2 + random.below(12), 2 + random.below(4));
        let size = 10f32.powi(random.below(13) as i32 - 6);
        let case = Case::drawn(n, q, size, f64::from(size) * 0.5, seed);
        match case.model().calibrate(&case.data(), Calibration::Temperature) {
            Ok(calibrated) => {
                let t = temperature(&calibrated);
                let (below, at, above) = (case.loss_at(t * 0.99), case.loss_at(t), case.loss_at(t * 1.01));
                let noise = 1e-14 * at.max(1.0);
                assert!(at <= below + noise && at <= above + noise, "{seed}: {t}: {below} {at} {above}");
                let (a, c) = vector(&case.calibrate(Calibration::Vector));
                assert!(case.loss(&a, &c) <= at + noise, "{seed}");
                n_found += 1;
            }
            Err(Error::Calibration { problem }) => {
                // A lower temperature is always better, or a higher one.
                let losses: Vec<f64> = (-6..6).map(|i| case.loss_at(f64::from(size) * 4f64.powi(i))).collect();
                let is_right = problem.contains("right about every");
                assert!(is_right || problem.contains("no temperature is better"), "{seed}: {problem}");
                let ordered = |pair: &[f64]| if is_right { pair[0] <= pair[1] } else { pair[0] >= pair[1] - 1e-12 };
                assert!(losses.windows(2).all(ordered), "{seed}: {problem}: {losses:?}");
                n_errors += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(n_found > 100 && n_errors > 20, "{n_found} {n_errors}");
}

#[test]
fn threads_change_no_bit() {
    let case = Case::drawn(30_000, 7, 5.0, 3.0, 10);
    let on = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        pool.install(|| METHODS.map(|method| case.calibrate(method).scaling))
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn what_cannot_be_calibrated_is_said() {
    let case = Case::drawn(50, 3, 3.0, 1.0, 11);
    let (model, data) = (case.model(), case.data());
    let fails = |model: &Model, data: &Dataset, says: &str| {
        for method in METHODS {
            let error = model.calibrate(data, method).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    };
    let label = |classes: &[u32]| Labels::from_indices(classes.to_vec(), names(3)).unwrap();
    let logits = |values: &[f32]| Features::new(values.to_vec(), values.len() / 3, 3).unwrap();
    let of = |values: &[f32], classes: &[u32]| Dataset::new(logits(values), label(classes)).unwrap();

    let wide = Dataset::new(Features::new(vec![0.0f32; 8], 2, 4).unwrap(), label(&[0, 1])).unwrap();
    fails(&model, &wide, "takes 3 features a sample, the data has 4");
    let unknown = Labels::from_names(&["class 0", "class 9"]).unwrap();
    let unknown = Dataset::new(logits(&[1.0; 6]), unknown).unwrap();
    fails(&model, &unknown, "\"class 9\" is not one of the 3 classes");
    fails(&model, &of(&[1.0, 2.0, 3.0], &[1]), "at least two samples");
    let weighted = of(&[1.0; 6], &[1, 2]).with_weights(vec![0.0, 1.0]).unwrap();
    fails(&model, &weighted, "at least two samples of a weight above 0");
    // All right, of one class and of several; with a tie; and as soft labels.
    fails(&model, &of(&[1.0, 2.0, 3.0, -1.0, -1.0, 5.0], &[2, 2]), "right about every sample");
    fails(&model, &of(&[1.0, 2.0, 3.0, 7.0, 7.0, 5.0], &[2, 1]), "right about every sample");
    fails(&model, &of(&[2.0; 6], &[2, 1]), "the same logit");
    fails(&model, &of(&[1.0, 2.0, 3.0, 1.0, 2.0, 3.0], &[0, 1]), "no temperature is better");
    // One class alone is no obstacle where the model is not always right.
    let one_class = of(&[1.0, 2.0, 3.0, -1.0, 3.0, 2.5], &[2, 2]);
    assert!(model.calibrate(&one_class, Calibration::Temperature).unwrap().after.accuracy == 0.5);

    let huge = Model::new((1e38 * Array2::<f32>::eye(3)).view(), Array1::zeros(3).view(), names(3)).unwrap();
    fails(&huge, &of(&[1.0, 2.0, 3.0, 4.0, 9e3, 5.0], &[2, 1]), "row 2: the logits are not finite");
    // Weights of 1e34 for logits that must become 10⁶ times as large.
    let steep = Model::new((1e34 * Array2::<f32>::eye(3)).view(), Array1::zeros(3).view(), names(3)).unwrap();
    let tiny: Vec<f32> = case.logits.iter().map(|o| o * 1e-40).collect();
    let tiny = Dataset::new(logits(&tiny), data.labels().clone()).unwrap();
    fails(&steep, &tiny, "too large for single precision");
    // And what can be, can.
    assert!(model.calibrate(&data, Calibration::Temperature).is_ok());
}

#[cfg(feature = "cli")]
mod cli {
    use super::common::shared_data;
    use super::program::{Folder, points};
    use serde_json::Value;
    use softreg::data::{Source, read};
    use softreg::{Calibration, Sgd, SoftmaxRegression};

    #[test]
    fn banking77_is_calibrated_on_other_data_too() {
        let Some(folder) = shared_data("banking77") else { return };
        let read = |name: &str| {
            let labels = Some(folder.join(format!("{name}_y.txt")));
            read(&Source { labels, ..Source::new(folder.join(format!("{name}_x.npy"))) })
                .unwrap()
                .into_dataset()
                .unwrap()
        };
        let (train, validation) = read("train").split(0.2, 0).unwrap();
        let test = read("test");
        // Its default penalty keeps the probabilities from being as sure as they might.
        let model = SoftmaxRegression::new().solver(Sgd::default()).fit(&train).unwrap().model;
        let before = model.evaluate(&test).unwrap();
        let calibrated = model.calibrate(&validation, Calibration::Temperature).unwrap();
        let after = calibrated.model.evaluate(&test).unwrap();
        assert!(after.log_loss < before.log_loss - 0.02, "{} {}", before.log_loss, after.log_loss);
        assert!(after.calibration_error < 0.5 * before.calibration_error, "{before:?} {after:?}");
        assert!((after.accuracy - before.accuracy).abs() < 1e-3);
    }

    /// A folder with a model that is not sure enough, and data.
    fn folder() -> Folder {
        let folder = Folder::new();
        folder.write("train.csv", points(90));
        // Every seventh is mislabelled, so that no model is always right.
        let clean = points(150);
        let noisy = clean.lines().enumerate().map(|(i, line)| {
            let line = if i % 7 == 3 { line.replace("七", "Ärmel") } else { line.to_owned() };
            line + "\n"
        });
        folder.write("other.csv", noisy.collect::<String>());
        let train = ["train", "train.csv", "--label-column", "species", "--device", "cpu", "--quiet"];
        folder.softreg([&train[..], &["--l2", "0.3", "--out", "m.safetensors"]].concat()).ok();
        folder
    }

    const CALIBRATE: [&str; 7] =
        ["calibrate", "m.safetensors", "other.csv", "--label-column", "species", "--device", "cpu"];

    #[test]
    fn a_calibrated_model_is_used_like_any_other() {
        let folder = folder();
        let before = folder.read("m.safetensors");
        for method in ["temperature", "vector"] {
            let more = ["--method", method, "--out", "c.safetensors", "--json", "c.json"];
            let run = folder.softreg([&CALIBRATE[..], &more].concat()).ok();
            let record: Value = serde_json::from_slice(&folder.read("c.json")).unwrap();
            let number = |pointer: &str| record.pointer(pointer).and_then(Value::as_f64).unwrap();
            assert_eq!(record["method"], method);
            assert_eq!(record["n_samples"], 150);
            assert!(number("/after/log_loss") < number("/before/log_loss") - 0.01, "{record}");
            // The report has the same figures, and fits a terminal.
            let loss = run.stdout.lines().find(|line| line.starts_with("loss ")).unwrap();
            let shown: Vec<&str> = loss.split_whitespace().skip(1).collect();
            assert_eq!(shown, ["before", "after"].map(|when| format!("{:.6}", number(&format!("/{when}/log_loss")))));
            assert!(run.stdout.lines().all(|line| line.chars().count() <= 80), "{}", run.stdout);
            assert!(run.stdout.contains("saved as c.safetensors"), "{}", run.stdout);
            assert_eq!(run.stderr.contains("50 samples a class"), method == "vector", "{}", run.stderr);

            assert!(!run.stderr.contains("trained on"), "{}", run.stderr);

            let evaluate = ["evaluate", "c.safetensors", "other.csv", "--label-column", "species", "--json", "-"];
            let evaluated = folder.softreg([&evaluate[..], &["--device", "cpu"]].concat()).ok().json();
            assert_eq!(evaluated["log_loss"].as_f64(), Some(number("/after/log_loss")));
            let info = folder.softreg(["info", "c.safetensors"]).ok().stdout;
            let says = if method == "vector" { "calibrated factors" } else { "calibrated temperature 0." };
            assert!(info.contains(says) && info.contains("from 150 samples"), "{info}");
            assert!(!folder.softreg(["info", "m.safetensors"]).ok().stdout.contains("calibrated"));
            let predict = |model: &str| folder.softreg(["predict", model, "train.csv", "--device", "cpu"]).ok().stdout;
            if method == "temperature" {
                assert_eq!(predict("c.safetensors"), predict("m.safetensors"));
            }
        }
        assert_eq!(folder.read("m.safetensors"), before);
        // Data that the model was trained on is no test of it.
        let train = ["train", "other.csv", "--label-column", "species", "--device", "cpu", "--quiet"];
        folder.softreg([&train[..], &["--l2", "0.3", "--out", "m.safetensors"]].concat()).ok();
        let run = folder.softreg([&CALIBRATE[..], &["--out", "c.safetensors"]].concat()).ok();
        assert!(run.stderr.contains("looks like the data that the model was trained on"), "{}", run.stderr);
    }

    #[test]
    fn wrong_inputs_are_said_and_leave_nothing() {
        let folder = folder();
        folder.write("unlabelled.csv", "x,y\n1,2\n2,3\n");
        folder.write("wide.npy.csv", "x,species,z\n1,七,2\n2,Ärmel,3\n");
        folder.write("unknown.csv", "x,species,y\n1,七,2\n2,novel,3\n");
        folder.write("one.csv", "x,species,y\n1,七,2\n");
        folder.write("right.csv", "x,species,y\n0,七,4\n0,七,4.5\n");
        let names = folder.names();
        let cases: [(&[&str], &str); 8] = [
            (&["unlabelled.csv"], "no labels"),
            (&["wide.npy.csv", "--label-column", "species"], "y"),
            (&["unknown.csv", "--label-column", "species"], "\"novel\" is not one of the 3 classes"),
            (&["one.csv", "--label-column", "species"], "at least two samples"),
            (&["right.csv", "--label-column", "species"], "right about every sample"),
            (&["right.csv", "--label-column", "species", "--method", "vector"], "right about every sample"),
            (&["other.csv", "--label-column", "species", "--json", "out.safetensors"], "are the same file"),
            (&["other.csv", "--label-column", "species", "--out", "m.safetensors"], "would be overwritten"),
        ];
        for (arguments, says) in cases {
            let out: &[&str] = if arguments.contains(&"--out") { &[] } else { &["--out", "out.safetensors"] };
            let run = folder.softreg([&["calibrate", "m.safetensors"], arguments, out, &["--device", "cpu"]].concat());
            assert_eq!(run.status, Some(1), "{run:#?}");
            let last = run.stderr.lines().last().unwrap();
            assert!(last.starts_with("error: ") && last.contains(says), "{run:#?}");
            assert_eq!(folder.names(), names, "{run:#?}");
        }
        let run = folder.softreg(["calibrate", "m.safetensors", "other.csv"]);
        assert!(run.status == Some(2) && run.stderr.contains("--out"), "{run:#?}");
    }
}
