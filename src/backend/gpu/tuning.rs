//! Which variants of a step's kernels are run: by a table of device kinds and sizes, unless `tune` found better ones.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::kernel::Tile;
use super::session::GpuSession;
use super::step::is_narrow;
use super::stepper::GpuStepper;
use super::{Gpu, narrow_residual, narrow_update, self_check};
use crate::backend::{Backend, DeviceKind, Head, Parameters, Shape, State, Stepper, Supervision, Tried, check};
use crate::batch::Plan;
use crate::data::Dtype;
use crate::error::{Error, Result};

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
/// Before anything is timed, so that the device has its highest clock.
const WARM_UP: Duration = Duration::from_millis(300);

/// What choices are tried on.
struct Trial<'s> {
    session: &'s GpuSession<'s>,
    supervision: Supervision<'s>,
    start: &'s State,
    heads: &'s [Head],
    batch_size: usize,
    plan: Plan,
    tried: Vec<Tried>,
}

impl Trial<'_> {
    fn stepper(&self, tuning: Tuning) -> Result<GpuStepper<'_>> {
        let Self { session, supervision, start, heads, batch_size, .. } = *self;
        GpuStepper::with_tuning(session, supervision, start, heads, batch_size, tuning)
    }

    /// The parameters after one step.
    fn step(&self, tuning: Tuning) -> Result<Vec<f32>> {
        let plan = Plan { batches: self.plan.batches.iter().take(1).copied().collect(), ..self.plan.clone() };
        let mut stepper = self.stepper(tuning)?;
        stepper.run(&plan, &vec![1.0; plan.batches.len()])?;
        Ok(stepper.parameters()?.values)
    }

    /// The shortest time of a step, after `warm_up`.
    fn time(&mut self, tuning: Tuning, warm_up: Duration) -> Result<Duration> {
        let rates = vec![1.0; self.plan.batches.len()];
        let mut stepper = self.stepper(tuning)?;
        let run = |stepper: &mut GpuStepper| {
            let begin = Instant::now();
            stepper.run(&self.plan, &rates).map(|_| begin.elapsed())
        };
        let begin = Instant::now();
        run(&mut stepper)?;
        while begin.elapsed() < warm_up {
            run(&mut stepper)?;
        }
        let begin = Instant::now();
        let (mut best, mut n_runs) = (Duration::MAX, 0);
        while n_runs < RUNS || begin.elapsed() < LEAST_TIME {
            best = best.min(run(&mut stepper)?);
            n_runs += 1;
        }
        drop(stepper);
        let step = best / rates.len().max(1) as u32;
        self.tried.push(Tried { choice: Described(tuning, self.start.parameters.shape).to_string(), step });
        Ok(best)
    }
}

/// Tries out the choices one after the other, and keeps the best: first of the first kernel, then of the second. One that
/// fails, or whose step is another than that of the table's choice, is left out.
pub(super) fn tune(
    session: &mut GpuSession,
    start: &Parameters,
    heads: &[Head],
    batch_size: usize,
) -> Result<Vec<Tried>> {
    let (gpu, shape, dtype) = (session.gpu, start.shape, session.dtype);
    let start = State::from(start.clone());
    let supervision = check::training(&start, heads, session.supervision, session.n_features, session.n_samples())?;
    if gpu.uses_matrix_units(shape.n_outputs()) {
        return Ok(Vec::new());
    }
    let mut plan = Plan::new(&session.ranges, batch_size, 0, 0);
    plan.batches.truncate(STEPS);
    let mut trial = Trial { session, supervision, start: &start, heads, batch_size, plan, tried: Vec::new() };
    let mut best = Tuning::of(gpu.info.kind, shape, batch_size);
    let expected = trial.step(best)?;
    let mut best_time = trial.time(best, WARM_UP)?;
    for choice in 0..2 {
        for other in best.with_other(choice, gpu.info.kind, shape, batch_size) {
            let described = Described(other, shape);
            let time = trial.step(other).and_then(|found| {
                let wrong = self_check::difference(&found, &expected, self_check::TOLERANCE);
                wrong.map_or_else(
                    || trial.time(other, Duration::ZERO).map(Some),
                    |difference| {
                        log::warn!("{}: {described} is left out: {difference}", gpu.info.name);
                        Ok(None)
                    },
                )
            });
            match time {
                Ok(Some(time)) if time.as_secs_f64() < BETTER * best_time.as_secs_f64() => {
                    (best, best_time) = (other, time);
                }
                Ok(_) => {}
                Err(error @ Error::DeviceLost { .. }) => return Err(error),
                Err(error) => log::warn!("{described} is left out: {error}"),
            }
        }
    }
    gpu.cache.set_note(&key(shape, dtype, batch_size), best.to_json());
    let mut tried = trial.tried;
    let chosen = Described(best, shape).to_string();
    // The chosen one last.
    if let Some(at) = tried.iter().position(|tried| tried.choice == chosen) {
        let chosen = tried.remove(at);
        tried.push(chosen);
    }
    Ok(tried)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::gpu::Options;

    #[test]
    fn a_kept_choice_is_the_one_that_is_used_where_it_suits() {
        let shape = Shape { n_features: 784, n_classes: 10, n_heads: 1 };
        let choices = RESIDUALS.into_iter().zip(UPDATES.into_iter().cycle()).zip(Tile::ALL.into_iter().cycle());
        let choices =
            choices.map(|((residual, update), tile)| Tuning { residual, update, logits: tile, gradient: tile });
        for gpu in Gpu::open_all(Options::default()) {
            let gpu = gpu.unwrap();
            let table = Tuning::of(gpu.info.kind, shape, 1024);
            assert_eq!(gpu.tuning(shape, Dtype::F32, 1024), table);
            for choice in choices.clone().filter(|choice| choice.suits(gpu.info.kind, shape, 1024)) {
                assert_eq!(Tuning::from_json(&choice.to_json()), Some(choice));
                gpu.cache.set_note(&key(shape, Dtype::F32, 1024), choice.to_json());
                // The same for similar sizes, not for others.
                let similar = Shape { n_features: 700, ..shape };
                for batch_size in [1024, 600] {
                    assert_eq!(gpu.tuning(similar, Dtype::F32, batch_size), choice);
                }
                assert_eq!(gpu.tuning(shape, Dtype::U8, 1024), table);
                assert_eq!(gpu.tuning(shape, Dtype::F32, 1025), Tuning::of(gpu.info.kind, shape, 1025));
            }
            gpu.cache.set_note(&key(shape, Dtype::F32, 1024), serde_json::json!([9, 9, 9, 9]));
            assert_eq!(gpu.tuning(shape, Dtype::F32, 1024), table);
        }
    }
}
