//! A device is tried out before it is trusted: drivers have been seen to compute wrong products (all zeros from some size
//! on) without an error.

use std::collections::HashMap;
use std::mem;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use half::f16;

use super::session::GpuSession;
use super::stepper::GpuStepper;
use super::tuning::Tuning;
use super::{Gpu, narrow_residual};
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, Evaluation, Head, Parameters, Point, Rule, Session, Shape, Stepper};
use crate::batch::Plan;
use crate::data::{Csr, Features, Targets};
use crate::error::{Error, Result};

/// What is noted of a device that passed.
const PASSED: &str = "passed_self_check";

/// What is noted of a device whose kernels of sparse features passed.
const SPARSE_PASSED: &str = "sparse_passed_self_check";

/// What is noted of a device whose matrix units passed.
const MATRIX_UNITS_PASSED: &str = "matrix_units_passed_self_check";

/// How far values may be from those of the CPU, in parts of the largest: sums have at most 600 terms, whose errors add up to
/// about 600·2⁻²⁴, 4e-5.
pub(super) const TOLERANCE: f32 = 1e-4;
/// The same where the factors of products are rounded to half precision: by 2⁻¹⁰ each at most, 2e-3 together, and as much
/// again for the probabilities, which come of rounded logits.
const TOLERANCE_OF_MATRIX_UNITS: f32 = 4e-3;

/// Tries out a device, the first time in this process that it is met; later the first answer is given.
/// `adapter` tells it from others of the same make. A device whose matrix units compute wrong products goes on without
/// them.
pub(super) fn once(gpu: &mut Gpu, adapter: &str) -> Result<()> {
    let matrix_units = mem::take(&mut gpu.matrix_units);
    if let Some(detail) = remember(gpu, adapter, PASSED, compare_with_cpu)? {
        return Err(Error::SelfCheck { device: gpu.info.name.clone(), detail });
    }
    if matrix_units.is_empty() {
        return Ok(());
    }
    gpu.matrix_units = matrix_units;
    let adapter = format!("matrix units of {adapter}");
    let wrong = match remember(gpu, &adapter, MATRIX_UNITS_PASSED, compare_matrix_units_with_cpu) {
        Err(error @ (Error::DeviceLost { .. } | Error::OutOfMemory { .. })) => return Err(error),
        Err(error) => Some(error.to_string()),
        Ok(wrong) => wrong,
    };
    if let Some(detail) = wrong {
        log::warn!("the matrix units of {} are not used: {detail}", gpu.info.name);
        gpu.matrix_units.clear();
    }
    Ok(())
}

/// The same for the kernels of sparse features, when such are first given.
pub(super) fn sparse_once(gpu: &Gpu, adapter: &str) -> Result<()> {
    match remember(gpu, &format!("sparse features on {adapter}"), SPARSE_PASSED, compare_sparse_with_cpu)? {
        Some(detail) => Err(Error::SelfCheck { device: gpu.info.name.clone(), detail }),
        None => Ok(()),
    }
}

/// What `compare` finds, or found before: in this process under `key`, or in another, which noted that nothing was wrong.
fn remember(
    gpu: &Gpu,
    key: &str,
    note: &str,
    compare: impl FnOnce(&Gpu) -> Result<Option<String>>,
) -> Result<Option<String>> {
    static RESULTS: Mutex<Option<HashMap<String, Option<String>>>> = Mutex::new(None);
    // Not held while the device is tried out, which takes threads that may wait for this. Twice does no harm.
    let results = || RESULTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = results().get_or_insert_default().get(key) {
        return Ok(known.clone());
    }
    if gpu.cache.note(note).is_some() {
        return Ok(None);
    }
    let found = compare(gpu)?;
    if found.is_none() {
        gpu.cache.set_note(note, true.into());
    }
    results().get_or_insert_default().insert(key.to_owned(), found.clone());
    Ok(found)
}

/// A small training, and what differs between two devices.
struct Trial {
    shape: Shape,
    batch_size: usize,
    features: Features<'static>,
    scale: f32,
    targets: Targets<'static>,
}

impl Trial {
    /// Narrow, wide, and in between; each precision, integer and soft labels.
    fn all() -> Result<[Self; 3]> {
        let values = |n: usize| (0..n).map(value);
        let classes = |n: usize, q: usize| Targets::Classes((0..n as u32).map(|i| i * 7 % q as u32).collect());
        Ok([
            Self {
                shape: Shape { n_features: 37, n_classes: 7, n_heads: 2 },
                batch_size: 512,
                features: Features::new(values(600 * 37).collect::<Vec<_>>(), 600, 37)?,
                scale: 1.0,
                targets: classes(600, 7),
            },
            Self {
                shape: Shape { n_features: 50, n_classes: 530, n_heads: 1 },
                batch_size: 64,
                features: Features::new(values(70 * 50).map(f16::from_f32).collect::<Vec<_>>(), 70, 50)?,
                scale: 0.5,
                targets: classes(70, 530),
            },
            Self {
                shape: Shape { n_features: 65, n_classes: 24, n_heads: 1 },
                batch_size: 32,
                features: Features::new(values(80 * 65).map(|x| (x.abs() * 255.0) as u8).collect::<Vec<_>>(), 80, 65)?,
                scale: 1.0 / 255.0,
                // The same distribution for all, but in another order: (j + 1) / (1 + … + 24).
                targets: Targets::Distributions((0..80 * 24).map(|i| ((i + i / 24) % 24 + 1) as f32 / 300.0).collect()),
            },
        ])
    }

    /// Sparse features: every third value, with one sample and one feature that have none; features of more samples than a
    /// segment of their gradient has.
    fn sparse() -> Result<Self> {
        let (n, d, q) = (400, 90, 10);
        let is_stored = |i: usize, k: usize| i != 17 && k != 31 && (i + k * k).is_multiple_of(3);
        let (mut offsets, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for i in 0..n {
            columns.extend((0..d as u32).filter(|&k| is_stored(i, k as usize)));
            values.extend((values.len()..columns.len()).map(value));
            offsets.push(values.len() as u64);
        }
        Ok(Self {
            shape: Shape { n_features: d, n_classes: q, n_heads: 2 },
            batch_size: 128,
            features: Features::new(Csr::new(offsets, columns, values)?, n, d)?,
            scale: 0.5,
            targets: Targets::Classes((0..n as u32).map(|i| i * 7 % q as u32).collect()),
        })
    }

    fn start(&self) -> Parameters {
        let shape = self.shape;
        Parameters { shape, values: (0..shape.n_parameters()).map(|i| value(i + 12345)).collect() }
    }

    fn heads(&self) -> Vec<Head> {
        let rule = Rule::Momentum { momentum: 0.9, nesterov: true };
        vec![Head { learning_rate: 0.5, l2: 1e-3, intercept: true, rule }; self.shape.n_heads]
    }

    /// The parameters after an epoch.
    fn epoch(&self, chunks: &[Range<usize>], stepper: &mut dyn Stepper) -> Result<Parameters> {
        let plan = Plan::new(chunks, self.batch_size, 1, 0);
        stepper.run(&plan, &vec![1.0; plan.batches.len()])?;
        stepper.parameters()
    }

    /// The parameters after one epoch on a GPU whose kernels share their work so.
    fn train_with(&self, gpu: &Gpu, tuning: Tuning) -> Result<Vec<f32>> {
        let supervision = (&self.targets).into();
        let session = GpuSession::new(gpu, &self.features, self.scale, Some(supervision))?;
        let (start, heads) = (self.start().into(), self.heads());
        let mut stepper = GpuStepper::with_tuning(&session, supervision, &start, &heads, self.batch_size, tuning)?;
        Ok(self.epoch(session.chunks(), &mut stepper)?.values)
    }

    /// What batch solvers ask for, of which each kernel has its share: losses, slopes and gradient a way along a direction,
    /// after a step in it, and a product with the Hessian there.
    fn evaluate(&self, backend: &dyn Backend) -> Result<[Vec<f32>; 3]> {
        let f32s = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<_>>();
        let parameters = |first: usize| -> Vec<f64> {
            (0..self.shape.n_parameters()).map(|i| 0.1 * f64::from(value(i + first))).collect()
        };
        let mut session = backend.session(&self.features, self.scale, Some((&self.targets).into()))?;
        let mut loss = session.loss(self.shape)?;
        loss.start(&parameters(12345))?;
        let Evaluation { point, gradient } = loss.look(&parameters(777), &vec![0.5; self.shape.n_heads])?;
        loss.advance(&vec![0.25; self.shape.n_heads])?;
        let points: Vec<Point> = [point].into_iter().chain(loss.along(&vec![-0.5; self.shape.n_heads])?).collect();
        let points: Vec<f64> = points.into_iter().flat_map(|point| [point.losses, point.slopes]).flatten().collect();
        Ok([f32s(&points), f32s(&gradient), f32s(&loss.hessian_vector(&parameters(99))?)])
    }

    /// What differs from the CPU, when something does; `another` has the parameters after an epoch in another way.
    fn differs(&self, gpu: &Gpu, another: Option<Vec<f32>>) -> Result<Option<String>> {
        let cpu = Cpu::new();
        let (here, there) = (self.train(gpu)?, self.train(&cpu)?);
        let (loss_here, loss_there) = (self.evaluate(gpu)?, self.evaluate(&cpu)?);
        let another = another.iter().map(|weights| ("weights", weights, &there.0));
        let compared = [("weights", &here.0, &there.0), ("logits", &here.1, &there.1)].into_iter().chain(another);
        let whats = ["losses", "the gradient", "a product with the Hessian"];
        let of_loss = whats.into_iter().zip(loss_here.iter().zip(&loss_there));
        let of_loss = of_loss.map(|(what, (here, there))| (what, here, there));
        for (what, here, there) in compared.chain(of_loss) {
            if let Some(difference) = difference(here, there, TOLERANCE) {
                let Shape { n_features, n_classes, .. } = self.shape;
                let found = format!("{what} for {n_features} features and {n_classes} classes: {difference}");
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The parameters after one epoch, and the logits with them.
    fn train(&self, backend: &dyn Backend) -> Result<(Vec<f32>, Vec<f32>)> {
        let start = self.start();
        let mut session = backend.session(&self.features, self.scale, Some((&self.targets).into()))?;
        let chunks = session.chunks().to_vec();
        let mut stepper = session.stepper(&start.into(), &self.heads(), self.batch_size)?;
        let parameters = self.epoch(&chunks, &mut *stepper)?;
        drop(stepper);
        let mut logits = Vec::new();
        session.logits(&parameters, &mut |_, block| {
            logits.extend_from_slice(block);
            Ok(())
        })?;
        Ok((parameters.values, logits))
    }
}

/// Values between -1 and 1 without a pattern that a wrong kernel would keep; the multiplier is Knuth's.
fn value(i: usize) -> f32 {
    ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// What differs in small trainings here and on the CPU, when something does.
fn compare_with_cpu(gpu: &Gpu) -> Result<Option<String>> {
    for trial in Trial::all()? {
        // What the table says for large batches and many classes, too.
        let large = Tuning::of(gpu.info.kind, Shape { n_classes: 1 << 20, ..trial.shape }, 1 << 20);
        let tuning =
            Tuning { residual: narrow_residual::Sharing::choose(gpu.info.kind, trial.shape, 1 << 20), ..large };
        let found = trial.differs(gpu, Some(trial.train_with(gpu, tuning)?))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The same for sparse features, of which there is one way.
fn compare_sparse_with_cpu(gpu: &Gpu) -> Result<Option<String>> {
    Trial::sparse()?.differs(gpu, None)
}

/// What a step on matrix units changes, compared with the CPU. Logits are not: prediction does not use them.
fn compare_matrix_units_with_cpu(gpu: &Gpu) -> Result<Option<String>> {
    // More than a tile in each dimension; classes few enough for all probabilities to count.
    let (n, d, q) = (150, 70, 77);
    let trial = Trial {
        shape: Shape { n_features: d, n_classes: q, n_heads: 1 },
        batch_size: 150,
        features: Features::new((0..n * d).map(value).collect::<Vec<_>>(), n, d)?,
        scale: 0.5,
        targets: Targets::Classes((0..n as u32).map(|i| i * 7 % q as u32).collect()),
    };
    let start = trial.start();
    let change = |backend: &dyn Backend| -> Result<Vec<f32>> {
        let (weights, _) = trial.train(backend)?;
        Ok(weights.iter().zip(&start.values).map(|(after, before)| after - before).collect())
    };
    let difference = difference(&change(gpu)?, &change(&Cpu::new())?, TOLERANCE_OF_MATRIX_UNITS);
    Ok(difference.map(|difference| format!("change of the weights for {d} features and {q} classes: {difference}")))
}

/// What differs by more than `tolerance`, in parts of the largest value.
pub(super) fn difference(here: &[f32], there: &[f32], tolerance: f32) -> Option<String> {
    let largest = there.iter().fold(0f32, |max, value| max.max(value.abs()));
    let agree = |(here, there): (&f32, &f32)| (here - there).abs() <= tolerance * largest;
    // A NaN agrees with nothing.
    let index = here.iter().zip(there).position(|pair| !agree(pair))?;
    Some(format!("value {index} is {}, on the CPU {}", here[index], there[index]))
}

#[cfg(test)]
mod tests {
    use super::{TOLERANCE, difference};

    #[test]
    fn zeros_and_a_wrong_value_are_noticed() {
        let good = [1.0, -2.0, 0.5];
        assert_eq!(difference(&good, &good, TOLERANCE), None);
        assert!(difference(&[0.0; 3], &good, TOLERANCE).is_some());
        assert!(difference(&[1.0, -2.0, f32::NAN], &good, TOLERANCE).is_some());
        assert!(difference(&[1.0, -2.0, 0.501], &good, TOLERANCE).is_some());
    }
}
