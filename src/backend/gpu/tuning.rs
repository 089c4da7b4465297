//! Which variants of a step's kernels are run: by a table of device kinds and sizes, unless `tune` found better ones.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::kernel::Tile;
use super::session::GpuSession;
use super::step::is_narrow;
use super::stepper::GpuStepper;
use super::{Gpu, narrow_residual, narrow_update};
use crate::backend::{Backend, DeviceKind, Head, Parameters, Shape, Stepper, Tried, check};
use crate::batch::Plan;
use crate::data::Dtype;
use crate::error::Result;

const RESIDUALS: [narrow_residual::Sharing; 4] = narrow_residual::Sharing::ALL;
const UPDATES: [narrow_update::Sharing; 3] = narrow_update::Sharing::ALL;

/// How the kernels of a step share their work. For few outputs the first two count, for many the last two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tuning {
    pub residual: narrow_residual::Sharing,
    pub update: narrow_update::Sharing,
    pub logits: Tile,
    pub gradient: Tile,
}

impl Tuning {
    /// What the table says.
    pub fn of(kind: DeviceKind, shape: Shape, batch_size: usize) -> Self {
        Self {
            residual: narrow_residual::Sharing::choose(kind, shape, batch_size),
            update: narrow_update::Sharing::choose(kind, batch_size),
            logits: Tile::choose(kind, batch_size, shape.n_outputs()),
            gradient: Tile::choose(kind, shape.n_features + 1, shape.n_outputs()),
        }
    }

    /// All that differ in one of the choices that count, the first or the second.
    fn with_other(self, choice: usize, kind: DeviceKind, shape: Shape, batch_size: usize) -> Vec<Self> {
        let others: Vec<Self> = match (is_narrow(shape.n_outputs()), choice) {
            (true, 0) => RESIDUALS.into_iter().map(|residual| Self { residual, ..self }).collect(),
            (true, _) => UPDATES.into_iter().map(|update| Self { update, ..self }).collect(),
            (false, 0) => Tile::ALL.into_iter().map(|logits| Self { logits, ..self }).collect(),
            (false, _) => Tile::ALL.into_iter().map(|gradient| Self { gradient, ..self }).collect(),
        };
        others.into_iter().filter(|other| *other != self && other.suits(kind, shape, batch_size)).collect()
    }

    fn suits(self, kind: DeviceKind, shape: Shape, batch_size: usize) -> bool {
        self.residual.suits(kind, shape) && self.update.suits(kind, batch_size)
    }

    fn to_json(self) -> Value {
        fn at<T: PartialEq>(all: &[T], one: T) -> usize {
            all.iter().position(|other| *other == one).unwrap_or(usize::MAX)
        }
        let tiles = [self.logits, self.gradient].map(|tile| at(&Tile::ALL, tile));
        [at(&RESIDUALS, self.residual), at(&UPDATES, self.update)].into_iter().chain(tiles).collect()
    }

    fn from_json(value: &Value) -> Option<Self> {
        let at = |index: usize| Some(value.get(index)?.as_u64()? as usize);
        Some(Self {
            residual: *RESIDUALS.get(at(0)?)?,
            update: *UPDATES.get(at(1)?)?,
            logits: *Tile::ALL.get(at(2)?)?,
            gradient: *Tile::ALL.get(at(3)?)?,
        })
    }
}

/// For people.
struct Described(Tuning, Shape);

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(tuning, shape) = self;
        if is_narrow(shape.n_outputs()) {
            write!(f, "narrow_residual {}, narrow_update {}", tuning.residual, tuning.update)
        } else {
            write!(f, "logits {}, gradient {}", tuning.logits, tuning.gradient)
        }
    }
}

/// Under what a choice is kept: sizes that differ by less than two share one.
fn key(shape: Shape, dtype: Dtype, batch_size: usize) -> String {
    let about = |n: usize| n.next_power_of_two();
    let (d, outputs, batch) = (about(shape.n_features), about(shape.n_outputs()), about(batch_size));
    format!("tuning {d} × {outputs} {dtype}, batches of {batch}")
}

impl Gpu {
    /// The choice for that training.
    pub(super) fn tuning(&self, shape: Shape, dtype: Dtype, batch_size: usize) -> Tuning {
        let kept = self.cache.note(&key(shape, dtype, batch_size));
        let kept = kept.and_then(|value| Tuning::from_json(&value));
        let kept = kept.filter(|tuning| tuning.suits(self.info.kind, shape, batch_size));
        kept.unwrap_or_else(|| Tuning::of(self.info.kind, shape, batch_size))
    }
}

/// Steps that a choice is timed by, how often, and for how long at least; by how much a choice must be better.
const STEPS: usize = 64;
const RUNS: usize = 5;
const LEAST_TIME: Duration = Duration::from_millis(20);
const BETTER: f64 = 0.98;

/// Tries out the choices one after the other, and keeps the best: first of the first kernel, then of the second.
pub(super) fn tune(
    session: &mut GpuSession,
    start: &Parameters,
    heads: &[Head],
    batch_size: usize,
) -> Result<Vec<Tried>> {
    let (gpu, shape, dtype) = (session.gpu, start.shape, session.dtype);
    check::parameters(start, session.n_features)?;
    let targets = check::training(shape, heads, session.targets, session.n_samples())?;
    if gpu.uses_matrix_units(shape.n_outputs()) {
        return Ok(Vec::new());
    }
    let mut plan = Plan::new(&session.ranges, batch_size, 0, 0);
    plan.batches.truncate(STEPS);
    let rates = vec![1.0; plan.batches.len()];
    let mut tried: Vec<Tried> = Vec::new();
    let mut time = |tuning: Tuning| -> Result<Duration> {
        let mut stepper = GpuStepper::with_tuning(session, targets, start, heads, batch_size, tuning)?;
        stepper.run(&plan, &rates)?;
        let mut best = Duration::MAX;
        let begin = Instant::now();
        for run in 1.. {
            let begin_run = Instant::now();
            stepper.run(&plan, &rates)?;
            best = best.min(begin_run.elapsed());
            if run >= RUNS && begin.elapsed() >= LEAST_TIME {
                break;
            }
        }
        tried.push(Tried { choice: Described(tuning, shape).to_string(), step: best / rates.len().max(1) as u32 });
        Ok(best)
    };
    let mut best = Tuning::of(gpu.info.kind, shape, batch_size);
    let mut best_time = time(best)?;
    for choice in 0..2 {
        for other in best.with_other(choice, gpu.info.kind, shape, batch_size) {
            let other_time = time(other)?;
            if other_time.as_secs_f64() < BETTER * best_time.as_secs_f64() {
                (best, best_time) = (other, other_time);
            }
        }
    }
    gpu.cache.set_note(&key(shape, dtype, batch_size), best.to_json());
    let chosen = Described(best, shape).to_string();
    // The chosen one last.
    if let Some(at) = tried.iter().position(|tried| tried.choice == chosen) {
        let chosen = tried.remove(at);
        tried.push(chosen);
    }
    Ok(tried)
}
