//! The minima that batch solvers find against those that are known, in `parity/golden.json`, and what it takes to get there.
#![cfg(feature = "files")]

mod common;

use serde_json::Value;
#[cfg(feature = "gpu")]
use softreg::Device;
use softreg::data::{self, Source, Values};
use softreg::{
    Candidate, ClassWeight, Dataset, FeatureScale, Fit, Folds, Lbfgs, NewtonCg, SoftmaxRegression, Solver, StopReason,
    Sweep,
};

/// A case of `golden.json`.
struct Case {
    name: String,
    value: Value,
    data: Dataset<'static>,
    /// Where class j of the golden parameters, sorted by name, stands in the data.
    order: Vec<usize>,
}

/// The cases whose data is of that name; none, said on standard error, when the data is not there.
fn cases(name: &str) -> Vec<Case> {
    let golden: Value = serde_json::from_str(include_str!("parity/golden.json")).unwrap();
    let Some(data) = read(name) else { return Vec::new() };
    let mut order: Vec<usize> = (0..data.n_classes()).collect();
    order.sort_by_key(|&class| &data.classes()[class]);
    let of_data = golden["cases"].as_array().unwrap().iter().filter(|case| case["data"] == name);
    let case = |value: &Value| {
        let mut data = data.clone();
        match value["sample_weight"].as_str() {
            None => {}
            Some("(7 i + 3) mod 5") => {
                let weights: Vec<f32> = (0..data.n_samples()).map(|i| ((7 * i + 3) % 5) as f32).collect();
                data = data.with_weights(weights).unwrap();
            }
            Some(other) => panic!("weights {other}"),
        }
        assert_eq!(value["n"], data.n_samples());
        let name = value["name"].as_str().unwrap().to_owned();
        Case { name, value: value.clone(), data, order: order.clone() }
    };
    let cases: Vec<Case> = of_data.map(case).collect();
    assert!(!cases.is_empty(), "{name}");
    cases
}

/// Data by name, with features as they are.
fn read(name: &str) -> Option<Dataset<'static>> {
    let source = match name {
        "digits" => return Some(data::digits().unwrap()),
        "banking77" => Source {
            labels: Some(common::shared_data("banking77/train_y.txt")?),
            ..Source::new(common::shared_data("banking77/train_x.npy")?)
        },
        // The first 8,000 images.
        "mnist" => {
            let source = Source {
                labels: Some(common::shared_data("mnist-10k/t10k-labels-idx1-ubyte.gz")?),
                ..Source::new(common::shared_data("mnist-10k/t10k-images-idx3-ubyte.gz")?)
            };
            let all = data::read(&source).unwrap().into_dataset().unwrap();
            let rows: Vec<u32> = (0..8000).collect();
            let features = all.features().select(&rows).unwrap();
            return Some(Dataset::new(features, all.labels().select(&rows).unwrap()).unwrap());
        }
        _ => Source { label_column: Some("class".to_owned()), ..Source::new(format!("tests/parity/{name}.csv")) },
    };
    Some(data::read(&source).unwrap().into_dataset().unwrap())
}

impl Case {
    fn number(&self, key: &str) -> f64 {
        self.value[key].as_f64().unwrap()
    }

    fn objective(&self) -> f64 {
        self.number("objective")
    }

    fn has_l1(&self) -> bool {
        self.number("l1") > 0.0
    }

    fn estimator(&self, solver: impl Into<Solver>) -> SoftmaxRegression {
        let estimator = SoftmaxRegression::new()
            .solver(solver)
            .l2(self.number("l2"))
            .l1(self.number("l1"))
            .feature_scale(FeatureScale::Factor(1.0))
            .intercept(self.value["intercept"] == true);
        match self.value["class_weight"].as_str() {
            None => estimator,
            Some("balanced") => estimator.class_weight(ClassWeight::Balanced),
            Some(other) => panic!("class weights {other}"),
        }
    }

    fn fit(&self, solver: impl Into<Solver>) -> Fit {
        self.estimator(solver).fit(&self.data).unwrap()
    }

    /// Features whose weights may shift over the classes.
    fn shiftable(&self) -> Vec<usize> {
        let indices = self.value["shiftable_features"].as_array().map_or(&[][..], Vec::as_slice);
        indices.iter().map(|index| index.as_u64().unwrap() as usize).collect()
    }

    /// W of a fit, (d × q), and b, classes in the order of the golden ones; b of mean 0 where there is one.
    fn parameters(&self, fit: &Fit) -> (Vec<f64>, Vec<f64>) {
        let (weights, bias) = (fit.model.weights(), fit.model.bias());
        let weights =
            weights.rows().into_iter().flat_map(|row| self.order.iter().map(move |&j| f64::from(row[j]))).collect();
        let mut bias: Vec<f64> = self.order.iter().map(|&j| f64::from(bias[j])).collect();
        centre(&mut bias);
        (weights, bias)
    }

    /// The objective of the model as it is kept, in single precision, by the formula.
    fn objective_of_model(&self, fit: &Fit) -> f64 {
        let q = self.data.n_classes();
        let weights = fit.model.weights();
        let x = floats(&self.data);
        let (mut loss, mut total) = (0.0, 0.0);
        let totals = self.data.class_totals();
        let balanced = self.value["class_weight"] == "balanced";
        for i in 0..self.data.n_samples() {
            let row = &x[i * weights.nrows()..][..weights.nrows()];
            let logits: Vec<f64> = (0..q)
                .map(|j| {
                    let product = row.iter().zip(weights.column(j)).map(|(&x, &w)| f64::from(x) * f64::from(w));
                    product.sum::<f64>() + f64::from(fit.model.bias()[j])
                })
                .collect();
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let class = self.data.labels().targets().class(i, q).unwrap();
            let of_sample = self.data.weights().map_or(1.0, |weights| f64::from(weights[i]));
            let s = of_sample * if balanced { 1.0 / totals[class] } else { 1.0 };
            loss += s * (logits.iter().map(|o| (o - max).exp()).sum::<f64>().ln() - (logits[class] - max));
            total += s;
        }
        let of_weight = |&w: &f32| {
            let w = f64::from(w);
            0.5 * self.number("l2") * w * w + self.number("l1") * w.abs()
        };
        loss / total + weights.iter().map(of_weight).sum::<f64>()
    }

    /// The largest difference of coefficients from the golden ones, as a share of the largest golden one, of weights and
    /// of intercepts; and the number of weights that are zero in one alone.
    fn differences(&self, fit: &Fit) -> ([f64; 2], usize) {
        let q = self.data.n_classes();
        let (weights, bias) = self.parameters(fit);
        let golden = |key: &str| -> Vec<f64> {
            self.value[key].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
        };
        let (golden_weights, golden_bias) = (golden("weight"), golden("bias"));
        assert_eq!((weights.len(), bias.len()), (golden_weights.len(), golden_bias.len()));
        let shiftable = self.shiftable();
        let mut wrong_zeros = 0;
        let mut worst = [0.0f64; 2];
        let largest = |values: &[f64]| values.iter().fold(f64::MIN_POSITIVE, |max, value| max.max(value.abs()));
        let mut compare = |which: usize, found: &[f64], golden: &[f64], size: f64| {
            for (found, golden) in found.iter().zip(golden) {
                let difference = (found - golden).abs() / size;
                assert!(difference.is_finite());
                worst[which] = worst[which].max(difference);
            }
        };
        for (k, (found, golden)) in weights.chunks_exact(q).zip(golden_weights.chunks_exact(q)).enumerate() {
            let (mut found, mut golden) = (found.to_vec(), golden.to_vec());
            if shiftable.contains(&k) {
                centre(&mut found);
                centre(&mut golden);
            } else {
                wrong_zeros += found.iter().zip(&golden).filter(|&(&a, &b)| (a == 0.0) != (b == 0.0)).count();
            }
            compare(0, &found, &golden, largest(&golden_weights));
        }
        if self.value["intercept"] == true {
            compare(1, &bias, &golden_bias, largest(&golden_bias));
        } else {
            assert!(fit.model.bias().iter().all(|&b| b == 0.0), "{}", self.name);
        }
        (worst, wrong_zeros)
    }

    /// Whether a fit is at the golden minimum, with what was asked of double precision.
    fn check(&self, fit: &Fit) -> Result<String, String> {
        let golden = self.objective();
        let certificate = fit.certificate.unwrap();
        let relative = certificate.objective / golden - 1.0;
        let of_model = self.objective_of_model(fit) / golden - 1.0;
        let gap = certificate.gap.unwrap();
        let mut report = format!(
            "{}: {:?}, {} products, J {relative:.1e}, of the model {of_model:.1e}, gap {:.1e}",
            self.name,
            fit.reason,
            fit.products.unwrap(),
            gap / golden
        );
        let mut problems = Vec::new();
        let mut must = |holds: bool, what: &str| {
            if !holds {
                problems.push(what.to_owned());
            }
        };
        must(relative.abs() <= 1e-8, "the objective");
        must(of_model.abs() <= 1e-7, "the objective of the model in single precision");
        // Weights are single precision, scaled to a mean of 1: those of the objective are half a unit in the last place off.
        let is_weighted = !self.value["sample_weight"].is_null() || !self.value["class_weight"].is_null();
        let slack = if is_weighted { 1.2e-7 } else { 1e-12 };
        must(certificate.objective - golden <= gap + slack * golden, "the gap does not cover");
        // Where l2 is 0 the gap falls only as fast as the gradient.
        must(gap <= if self.number("l2") > 0.0 { 1e-7 } else { 1e-2 } * golden, "the gap is wide");
        if self.value["weight"].is_array() {
            let ([weights, bias], wrong_zeros) = self.differences(fit);
            report += &format!(", coefficients {weights:.1e}, intercepts {bias:.1e}, zeros {wrong_zeros}");
            must(weights <= 1e-5, "coefficients");
            must(bias <= 1e-5, "intercepts");
            must(!self.has_l1() || wrong_zeros == 0, "zeros");
        }
        if problems.is_empty() { Ok(report) } else { Err(format!("{report}: {problems:?}")) }
    }
}

/// The features, all as `f32`.
fn floats(data: &Dataset) -> Vec<f32> {
    match data.features().values() {
        Values::F32(values) => values.to_vec(),
        Values::U8(values) => values.iter().map(|&value| value.into()).collect(),
        other => panic!("{:?}", other.dtype()),
    }
}

/// Takes the mean away.
fn centre(values: &mut [f64]) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter_mut().for_each(|value| *value -= mean);
}

fn precise_lbfgs() -> Lbfgs {
    Lbfgs { tolerance: 1e-12, ..Lbfgs::default() }
}

/// All cases of the data by L-BFGS, those without an l1 penalty by Newton's method too.
fn minima_are_those_of(name: &str) {
    let mut problems = Vec::new();
    for case in cases(name) {
        let mut note = |fit: Fit| match case.check(&fit) {
            Ok(report) => eprintln!("{report}"),
            Err(problem) => problems.push(problem),
        };
        note(case.fit(precise_lbfgs()));
        if !case.has_l1() {
            note(case.fit(NewtonCg { tolerance: 1e-12, ..NewtonCg::default() }));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn minima_of_iris() {
    minima_are_those_of("iris");
}

#[test]
fn minima_of_wine() {
    minima_are_those_of("wine");
}

#[test]
fn minima_of_breast_cancer() {
    minima_are_those_of("breast_cancer");
}

#[test]
fn minima_of_digits() {
    minima_are_those_of("digits");
}

#[test]
fn minima_of_banking77() {
    minima_are_those_of("banking77");
}

/// The comparison above notices what has not converged.
#[test]
fn a_minimum_that_is_not_reached_is_noticed() {
    for name in ["iris", "wine", "breast_cancer", "digits"] {
        for case in cases(name) {
            let fit = case.fit(Lbfgs { tolerance: 1e-2, max_iterations: 3, ..Lbfgs::default() });
            case.check(&fit).unwrap_err();
            // Even then the gap covers what is missing.
            let certificate = fit.certificate.unwrap();
            let (missing, gap) = (certificate.objective - case.objective(), certificate.gap.unwrap());
            assert!(missing <= gap * (1.0 + 1e-9) + 1e-12 * case.objective(), "{}: {missing:e} {gap:e}", case.name);
        }
    }
}

/// C and l1_ratio of scikit-learn's are the same penalties: of weighted samples and classes, and of two classes, for which it has one
/// column of weights.
#[test]
fn c_is_that_of_scikit_learn() {
    let is_near = |found: f64, expected: f64| (found - expected).abs() <= 1e-12 * expected;
    for case in ["iris", "wine", "breast_cancer", "digits"].into_iter().flat_map(cases) {
        let totals = case.data.class_totals();
        let rarest = totals.iter().copied().fold(f64::INFINITY, f64::min);
        // Its weights were divided by the largest.
        let largest = match (&case.value["sample_weight"], &case.value["class_weight"]) {
            (Value::String(_), _) => 4.0,
            (_, Value::String(_)) => totals.iter().sum::<f64>() / (totals.len() as f64 * rarest),
            _ => 1.0,
        };
        let number = |key: &str| case.value["scikit_learn"][key].as_f64().unwrap();
        let (c, l1_ratio) = (number("C") / largest, number("l1_ratio"));
        let estimator = case.estimator(Lbfgs { max_iterations: 1, ..Lbfgs::default() });
        if !case.has_l1() {
            let l2 = estimator.clone().c(c).fit(&case.data).unwrap().model.training()["l2"].as_f64().unwrap();
            assert!(is_near(l2, case.number("l2")), "{}: {l2}", case.name);
        }
        let swept = Sweep::new(estimator).c([c]).l1_ratios([l1_ratio]).folds(Folds::Stratified(2)).fit(&case.data);
        let Candidate { l2, l1, .. } = swept.unwrap().candidates[0];
        assert!(is_near(l2, case.number("l2")) && is_near(l1, case.number("l1")), "{}: {l2} {l1}", case.name);
    }
}

/// Devices of single precision find the same minima nearly, without and with an l1 penalty.
#[cfg(feature = "gpu")]
#[test]
fn minima_in_single_precision() {
    for device in common::gpu_names() {
        let device = Device::named(&device).unwrap();
        for (name, suffixes) in [
            ("iris", &["l2, C=1", "l1, C=1"][..]),
            ("wine", &["l2, C=1", "l1, C=1"]),
            ("breast_cancer", &["l2, C=1", "l1, C=1"]),
            ("digits", &["l2, C=1", "l2, C=1, sample weights", "l1, C=1"]),
            ("banking77", &["l2, C=10"]),
        ] {
            for case in
                cases(name).into_iter().filter(|case| suffixes.iter().any(|s| case.name == format!("{name}, {s}")))
            {
                let fit = case.estimator(Lbfgs::default()).device(&device).fit(&case.data).unwrap();
                let found = fit.certificate.unwrap().objective / case.objective() - 1.0;
                let of_model = case.objective_of_model(&fit) / case.objective() - 1.0;
                let what = format!("{}: {}", device.info().name, case.name);
                eprintln!(
                    "{what}: {:?}, {} products, J {found:.1e}, of the model {of_model:.1e}",
                    fit.reason,
                    fit.products.unwrap()
                );
                assert!(found.abs() <= 1e-6 && of_model.abs() <= 1e-6, "{what}: {found:e}, {of_model:e}");
            }
        }
    }
}

/// What it takes from the default settings to an objective within 1e-5 of the minimum.
#[test]
fn few_evaluations_are_needed() {
    let golden = |name: &str, case: &str| {
        cases(name).into_iter().find(|found| found.name == format!("{name}, {case}")).map(|case| case.objective())
    };
    for (name, c, scale, minimum, most) in [
        ("wine", 1.0, 1.0, golden("wine", "l2, C=1"), 37.0),
        ("breast_cancer", 1.0, 1.0, golden("breast_cancer", "l2, C=1"), 42.0),
        ("digits", 1.0, 1.0, golden("digits", "l2, C=1"), 202.0),
        ("banking77", 10.0, 1.0, golden("banking77", "l2, C=10"), 76.0),
        ("mnist", 1.0, 1.0 / 255.0, Some(0.15713520879), 130.0),
    ] {
        let (Some(data), Some(minimum)) = (read(name), minimum) else { continue };
        let l2 = 1.0 / (c * data.n_samples() as f64);
        let estimator = SoftmaxRegression::new().solver(Lbfgs::default()).l2(l2);
        let fit = estimator.feature_scale(FeatureScale::Factor(scale)).fit(&data).unwrap();
        let needed = fit.epochs.iter().find(|progress| progress.loss <= minimum * (1.0 + 1e-5)).unwrap().evaluations;
        eprintln!("{name}: {needed} evaluations to 1e-5, {} in all", fit.products.unwrap() as f64 / 2.0);
        assert!(needed <= most, "{name}: {needed} evaluations");
        assert_eq!(fit.reason, StopReason::Converged, "{name}");
        let missing = fit.certificate.unwrap().objective / minimum - 1.0;
        assert!(missing.abs() <= 1e-8, "{name}: {missing:e}");
    }
}
