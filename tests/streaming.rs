//! Features in a file, of which a part at a time is in memory: the same results as in memory, and what happens to the file is
//! noticed.
#![cfg(feature = "files")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use half::f16;
use softreg::data::{Dtype, Source, Stored, Values, read};
use softreg::{AdamW, Dataset, Error, Features, Labels, Lbfgs, Model, NewtonCg, Sgd, SoftmaxRegression, Solver};

/// A file that is removed with it.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("softreg-streaming-{}-{name}", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const N: usize = 5000;
const D: usize = 20;
const Q: usize = 4;
/// Before the values in the file.
const OFFSET: usize = 24;
/// Of the file, which has 200,000 bytes.
const MEMORY: u64 = 40_000;

/// Numbers that look random, -1 to 1.
fn noise(index: usize) -> f32 {
    let x = (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn values() -> Vec<f16> {
    (0..N * D).map(|index| f16::from_f32(noise(index) + 0.3 * ((index / D % Q) == index % D) as u8 as f32)).collect()
}

fn labels() -> Labels<'static> {
    let classes: Vec<u32> =
        (0..N).map(|i| if noise(7 * i) > 0.5 { (i / 3 % Q) as u32 } else { (i % Q) as u32 }).collect();
    Labels::from_integers(&classes).unwrap()
}

fn file(name: &str) -> Temporary {
    let bytes: Vec<u8> = values().iter().flat_map(|value| value.to_le_bytes()).collect();
    Temporary::new(name, &[&[7; OFFSET], &bytes[..]].concat())
}

fn stored(path: &Path) -> Result<Features<'static>, Error> {
    Features::new(Stored::open(path, OFFSET as u64, Dtype::F16, N, D, MEMORY)?, N, D)
}

fn data(features: Features<'static>, weighted: bool) -> Dataset<'static> {
    let data = Dataset::new(features, labels()).unwrap();
    match weighted {
        true => data
            .with_weights((0..N).map(|i| if i < N / 2 { 0.0 } else { 1.0 + noise(i).abs() }).collect::<Vec<_>>())
            .unwrap(),
        false => data,
    }
}

fn estimators() -> Vec<SoftmaxRegression> {
    let solvers: [Solver; 4] = [
        Lbfgs::default().into(),
        NewtonCg::default().into(),
        Sgd { epochs: Some(20), batch_size: 50, ..Sgd::default() }.into(),
        AdamW { epochs: Some(20), batch_size: 50, ..AdamW::default() }.into(),
    ];
    solvers.into_iter().map(|solver| SoftmaxRegression::new().l2(1e-3).solver(solver)).collect()
}

fn parameters(model: &Model) -> Vec<f32> {
    model.weights().iter().chain(model.bias()).copied().collect()
}

#[test]
fn a_fit_from_a_file_is_that_from_memory() {
    let file = file("fit");
    for weighted in [false, true] {
        let in_memory = data(Features::new(values(), N, D).unwrap(), weighted);
        let in_file = data(stored(&file.0).unwrap(), weighted);
        assert!(matches!(in_file.features().values(), Values::Stored(_)));
        for estimator in estimators() {
            let (expected, found) = (estimator.fit(&in_memory).unwrap(), estimator.fit(&in_file).unwrap());
            let difference = (found.objective - expected.objective) / expected.objective;
            match expected.solver {
                Solver::Sgd(_) | Solver::AdamW(_) => {
                    // Another order of the samples.
                    assert!(difference.abs() < 1e-3, "{estimator:?}: {difference:e}");
                    assert_ne!(parameters(&expected.model), parameters(&found.model));
                }
                _ => {
                    assert!(difference.abs() < 1e-9, "{estimator:?}: {difference:e}");
                    assert_eq!((expected.reason, found.reason), (expected.reason, expected.reason));
                    let pairs = parameters(&expected.model).into_iter().zip(parameters(&found.model));
                    let distance = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(distance < 1e-4, "{estimator:?}: {distance:e}");
                    // Without logits, what Newton-CG asks for takes twice the products.
                    let (in_file, in_memory) = (found.products.unwrap() as f64, expected.products.unwrap() as f64);
                    let is_newton = matches!(expected.solver, Solver::NewtonCg(_));
                    assert!(
                        in_file > if is_newton { 1.3 } else { 0.9 } * in_memory,
                        "{estimator:?}: {in_file} {in_memory}"
                    );
                }
            }
            // The model on the same data, in memory and in the file.
            let (a, b) = (found.model.evaluate(&in_memory).unwrap(), found.model.evaluate(&in_file).unwrap());
            // Sums of other parts.
            assert!((a.log_loss - b.log_loss).abs() < 1e-12 && a.accuracy == b.accuracy, "{a:?} {b:?}");
            assert!((found.train.log_loss - a.log_loss).abs() < 1e-6);
            let again = estimator.fit(&in_file).unwrap();
            assert_eq!(parameters(&again.model), parameters(&found.model), "the same bits");
        }
    }
}

/// An array of a .npy file or of a safetensors file that has others before it.
#[test]
fn features_stay_in_a_file_that_is_larger_than_half_of_the_memory() {
    let values: Vec<u8> = values().iter().flat_map(|value| value.to_le_bytes()).collect();
    let header = format!("{{'descr': '<f2', 'fortran_order': False, 'shape': ({N}, {D}), }}");
    let header = format!("{header:117}\n");
    let npy =
        [b"\x93NUMPY\x01\0".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), &values].concat();
    let classes: Vec<u8> = (0..N).flat_map(|i| ((i % Q) as i64).to_le_bytes()).collect();
    let end = classes.len() + values.len();
    let header = format!(
        r#"{{"labels":{{"dtype":"I64","shape":[{N}],"data_offsets":[0,{0}]}},"features":{{"dtype":"F16","shape":[{N},{D}],"data_offsets":[{0},{end}]}}}}"#,
        classes.len(),
    );
    let tensors = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &classes, &values].concat();
    let in_memory = SoftmaxRegression::new().fit(&data(Features::new(self::values(), N, D).unwrap(), false)).unwrap();
    let logits = |features: &Features| in_memory.model.predict_proba(features).unwrap();
    let expected = logits(&Features::new(self::values(), N, D).unwrap());
    for (name, bytes) in [("x.npy", npy), ("x.safetensors", tensors)] {
        let file = Temporary::new(name, &bytes);
        let of_memory = |memory: usize| {
            let source = Source { features: file.0.clone(), memory: Some(memory as u64), ..Source::default() };
            read(&source).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let (small, large) = (of_memory(2 * values.len() - 2), of_memory(2 * values.len() + 1000));
        assert!(matches!(small.features.values(), Values::Stored(_)), "{name}");
        assert!(matches!(large.features.values(), Values::F16(_)), "{name}");
        assert_eq!(logits(&small.features), expected, "{name}");
        assert_eq!(logits(&large.features), expected, "{name}");
        assert_eq!(small.labels.map(|labels| labels.n_samples()), large.labels.map(|labels| labels.n_samples()));
        // Cut off, it is an error as in memory.
        fs::write(&file.0, &bytes[..bytes.len() - 1]).unwrap();
        let cut = Source { features: file.0.clone(), memory: Some(1000), ..Source::default() };
        assert!(read(&cut).is_err(), "{name}");
    }
}

/// Of data that is sorted by class a part would have one class, if it had rows that follow each other.
#[test]
fn sorted_data_trains_as_well_as_any() {
    let mut order: Vec<u32> = (0..N as u32).collect();
    let all = labels();
    order.sort_by_key(|&row| all.targets().class(row as usize, Q));
    let sorted = Features::new(values(), N, D).unwrap().select(&order).unwrap();
    let Values::F16(values) = sorted.values() else { panic!("another type") };
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let file = Temporary::new("sorted", &[&[7; OFFSET], &bytes[..]].concat());
    let fit = |features: Features| {
        let data = Dataset::new(features, all.select(&order).unwrap()).unwrap();
        let sgd = Sgd { epochs: Some(20), batch_size: 50, ..Sgd::default() };
        SoftmaxRegression::new().l2(1e-3).solver(sgd).fit(&data).unwrap().objective
    };
    let (in_memory, in_file) = (fit(sorted.clone()), fit(stored(&file.0).unwrap()));
    assert!((in_file / in_memory - 1.0).abs() < 2e-3, "{in_file} and {in_memory}");
}

#[test]
fn a_part_of_a_file_is_that_of_the_matrix() {
    let file = file("part");
    let (memory, stored) = (Features::new(values(), N, D).unwrap(), stored(&file.0).unwrap());
    let model = SoftmaxRegression::new().fit(&data(memory.clone(), false)).unwrap().model;
    let logits = |features: &Features| model.predict_proba(features).unwrap();
    assert_eq!(logits(&memory), logits(&stored));
    assert_eq!(logits(&memory.rows(1234..3456).unwrap()), logits(&stored.rows(1234..3456).unwrap()));
    let inner = |features: &Features| logits(&features.rows(1000..4000).unwrap().rows(5..2500).unwrap());
    assert_eq!(inner(&memory), inner(&stored));
    let order: Vec<u32> = (0..3000).map(|i| (i * 1237) % N as u32).collect();
    assert_eq!(logits(&memory.select(&order).unwrap()), logits(&stored.select(&order).unwrap()));
    assert_ne!(logits(&memory.select(&order).unwrap()), logits(&stored.rows(0..3000).unwrap()));
    let (train, validation) = data(stored, false).split(0.3, 1).unwrap();
    let (expected, expected_validation) = data(memory, false).split(0.3, 1).unwrap();
    assert_eq!(logits(expected.features()), logits(train.features()));
    assert_eq!(logits(expected_validation.features()), logits(validation.features()));
}

#[test]
fn what_is_wrong_with_a_file_is_named() {
    let broken = |change: &dyn Fn(&mut Vec<u8>)| {
        let whole = file("broken");
        let mut bytes = fs::read(&whole.0).unwrap();
        change(&mut bytes);
        fs::write(&whole.0, bytes).unwrap();
        stored(&whole.0).map(drop).unwrap_err().to_string()
    };
    let error = broken(&|bytes| bytes.truncate(bytes.len() - 1));
    assert!(error.contains("too few for 5000 × 20 values"), "{error}");
    let nan = f16::NAN.to_le_bytes();
    let error = broken(&|bytes| bytes[OFFSET + 2 * (4321 * D + 6)..][..2].copy_from_slice(&nan));
    assert!(error.contains("row 4322, column 7") && error.contains("softreg-streaming"), "{error}");
    let missing = Stored::open(Path::new("no such file"), 0, Dtype::U8, 1, 1, MEMORY).map(drop).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
    let size = Stored::open(&file("size").0, 0, Dtype::F32, usize::MAX / 8, 4, MEMORY).map(drop).unwrap_err();
    assert!(!size.to_string().is_empty());
}

/// In the middle of a training the file is changed.
#[test]
fn a_file_that_changes_while_it_is_in_use_is_an_error() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 3] = [
        ("truncated", |path| OpenOptions::new().write(true).open(path).unwrap().set_len(1000).unwrap()),
        ("emptied", |path| drop(fs::File::create(path).unwrap())),
        ("longer", |path| OpenOptions::new().append(true).open(path).unwrap().write_all(&[1]).unwrap()),
    ];
    for (name, change) in changes {
        for estimator in estimators() {
            let file = file(name);
            let data = data(stored(&file.0).unwrap(), false);
            let mut is_changed = false;
            let result = estimator.fit_with(&data, |_| {
                if !is_changed {
                    change(&file.0);
                    is_changed = true;
                }
                ControlFlow::Continue(())
            });
            let error = result.map(drop).unwrap_err().to_string();
            assert!(error.contains("was changed while it was in use") && error.contains(name), "{error}");
        }
    }
    // The negative control: without a change it trains.
    let file = file("unchanged");
    assert!(SoftmaxRegression::new().fit(&data(stored(&file.0).unwrap(), false)).is_ok());
}
