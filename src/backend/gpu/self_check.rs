//! A device is tried out before it is trusted: drivers have been seen to compute wrong products (all zeros from some size
//! on) without an error.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::Gpu;
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, Head, Parameters, Shape};
use crate::batch::Plan;
use crate::data::{Features, Targets};
use crate::error::{Error, Result};

/// Tries out a device, the first time in this process that it is met; later the first answer is given.
pub(super) fn once(gpu: &Gpu) -> Result<()> {
    static RESULTS: Mutex<Option<HashMap<String, Option<String>>>> = Mutex::new(None);
    let key = format!("{:?}", gpu.info);
    let mut results = RESULTS.lock().unwrap_or_else(PoisonError::into_inner);
    let results = results.get_or_insert_default();
    let wrong = match results.get(&key) {
        Some(known) => known.clone(),
        None => {
            let found = compare_with_cpu(gpu)?;
            results.insert(key, found.clone());
            found
        }
    };
    match wrong {
        None => Ok(()),
        Some(detail) => Err(Error::SelfCheck { device: gpu.info.name.clone(), detail }),
    }
}

/// Two small trainings, narrow and wide, here and on the CPU; what differs, when something does.
fn compare_with_cpu(gpu: &Gpu) -> Result<Option<String>> {
    let cpu = Cpu::new();
    let narrow = Shape { n_features: 37, n_classes: 7, n_heads: 2 };
    let wide = Shape { n_features: 50, n_classes: 530, n_heads: 1 };
    for (shape, n_samples, batch_size) in [(narrow, 600, 512), (wide, 70, 64)] {
        let here = train(gpu, shape, n_samples, batch_size)?;
        let there = train(&cpu, shape, n_samples, batch_size)?;
        for (what, here, there) in [("weights", &here.0, &there.0), ("logits", &here.1, &there.1)] {
            if let Some(difference) = difference(here, there) {
                let Shape { n_features, n_classes, .. } = shape;
                let found = format!("{what} for {n_features} features and {n_classes} classes: {difference}");
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

/// The parameters after one epoch, and the logits with them.
fn train(backend: &dyn Backend, shape: Shape, n_samples: usize, batch_size: usize) -> Result<(Vec<f32>, Vec<f32>)> {
    // Values between -1 and 1 without a pattern that a wrong kernel would keep; the multiplier is Knuth's.
    let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    let features: Vec<f32> = (0..n_samples * shape.n_features).map(value).collect();
    let features = Features::new(features, n_samples, shape.n_features)?;
    let classes: Vec<u32> = (0..n_samples).map(|i| (i * 7 % shape.n_classes) as u32).collect();
    let targets = Targets::Classes(classes.into());
    let start = Parameters { shape, values: (0..shape.n_parameters()).map(|i| value(i + 12345)).collect() };
    let head = Head { learning_rate: 0.5, momentum: 0.9, nesterov: true, l2: 1e-3 };

    let mut session = backend.session(&features, 1.0, Some(&targets))?;
    let plan = Plan::new(session.chunks(), batch_size, 1, 0);
    let mut stepper = session.stepper(&start, &vec![head; shape.n_heads], batch_size)?;
    stepper.run(&plan, &vec![1.0; plan.batches.len()])?;
    let parameters = stepper.parameters()?;
    drop(stepper);
    let mut logits = Vec::new();
    session.logits(&parameters, &mut |_, block| {
        logits.extend_from_slice(block);
        Ok(())
    })?;
    Ok((parameters.values, logits))
}

/// What differs by more than rounding: these sums have at most 600 terms, whose errors add up to about 600·2⁻²⁴ of the
/// largest value, 4e-5.
fn difference(here: &[f32], there: &[f32]) -> Option<String> {
    let largest = there.iter().fold(0f32, |max, value| max.max(value.abs()));
    let agree = |(here, there): (&f32, &f32)| (here - there).abs() <= 1e-4 * largest;
    // A NaN agrees with nothing.
    let index = here.iter().zip(there).position(|pair| !agree(pair))?;
    Some(format!("value {index} is {}, on the CPU {}", here[index], there[index]))
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn zeros_and_a_wrong_value_are_noticed() {
        let good = [1.0, -2.0, 0.5];
        assert_eq!(difference(&good, &good), None);
        assert!(difference(&[0.0; 3], &good).is_some());
        assert!(difference(&[1.0, -2.0, f32::NAN], &good).is_some());
        assert!(difference(&[1.0, -2.0, 0.501], &good).is_some());
    }
}
