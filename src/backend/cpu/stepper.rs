//! Runs the optimizer steps of a plan.

use super::lanes::{Element, Instructions};
use super::narrow::Narrow;
use super::tiles::{Buffer, Matrix, TILE, Weights};
use super::wide::Wide;
use crate::backend::{Head, Parameters, Shape, Stepper};
use crate::batch::Plan;
use crate::data::Targets;
use crate::error::{Error, Result};

/// What is trained on: X̃ = scale·X and the targets of its rows.
pub(super) struct Data<'a, T> {
    pub x: Matrix<'a, T>,
    pub scale: f32,
    pub targets: &'a Targets<'a>,
}

/// What training changes.
pub(super) struct State {
    pub weights: Weights,
    /// Laid out as the weights.
    pub velocity: Buffer,
    pub bias_velocity: Vec<f32>,
    pub heads: Vec<Head>,
    /// The sum of the losses of each head so far.
    pub losses: Vec<f64>,
}

enum Way {
    Narrow(Narrow),
    Wide(Wide),
}

pub(super) struct CpuStepper<'a, T> {
    instructions: Instructions,
    data: Data<'a, T>,
    n_samples: usize,
    batch_size: usize,
    state: State,
    way: Way,
}

impl<'a, T: Element> CpuStepper<'a, T> {
    /// `start` must have as many values as its shape says, and suit X.
    pub fn new(
        instructions: Instructions,
        data: Data<'a, T>,
        n_samples: usize,
        start: &Parameters,
        heads: &[Head],
        batch_size: usize,
    ) -> Result<Self> {
        let shape = start.shape;
        check("heads of the optimizer", shape.n_heads, heads.len())?;
        check_targets(data.targets, n_samples, shape)?;
        let batch_size = batch_size.clamp(1, n_samples.max(1));
        let state = State {
            weights: Weights::new(start)?,
            velocity: Buffer::zeros(shape.n_features.div_ceil(TILE) * TILE, shape.n_outputs(), "the velocity")?,
            bias_velocity: vec![0.0; shape.n_outputs()],
            heads: heads.to_vec(),
            losses: vec![0.0; shape.n_heads],
        };
        let way = if Narrow::suits(instructions, shape) {
            Way::Narrow(Narrow::new(&data, shape, batch_size)?)
        } else {
            Way::Wide(Wide::new(&data, shape, batch_size)?)
        };
        Ok(Self { instructions, data, n_samples, batch_size, state, way })
    }

    fn check_plan(&self, plan: &Plan, rates: &[f32]) -> Result<()> {
        check("learning rates (one for each step)", plan.batches.len(), rates.len())?;
        for batch in &plan.batches {
            check_below("chunks", 1, batch.chunk)?;
            if batch.len == 0 || batch.len > self.batch_size {
                return Err(Error::Shape {
                    what: "samples of a batch".to_owned(),
                    expected: self.batch_size,
                    found: batch.len,
                });
            }
            check_below("samples of the plan", plan.order.len(), batch.start.saturating_add(batch.len - 1))?;
        }
        check_below("rows of the feature matrix", self.n_samples, largest(&plan.order))
    }

    fn run_steps(&mut self, plan: &Plan, rates: &[f32]) {
        self.state.losses.fill(0.0);
        let Self { instructions, data, state, way, .. } = self;
        let rows =
            |step: usize| plan.batches.get(step).map_or(&[][..], |batch| &plan.order[batch.start..][..batch.len]);
        for (step, &rate) in rates.iter().enumerate() {
            let (batch, ahead) = (rows(step), rows(step + 1));
            match way {
                Way::Narrow(narrow) => narrow.step(*instructions, data, state, batch, ahead, rate),
                Way::Wide(wide) => wide.step(*instructions, data, state, batch, rate),
            }
        }
    }
}

impl<T: Element> Stepper for CpuStepper<'_, T> {
    fn run(&mut self, plan: &Plan, rates: &[f32]) -> Result<Vec<f64>> {
        self.check_plan(plan, rates)?;
        let is_parallel = match &self.way {
            Way::Narrow(narrow) => narrow.is_parallel(self.batch_size, self.state.weights.shape),
            Way::Wide(_) => true,
        };
        // Once into the thread pool rather than at each step.
        if is_parallel {
            rayon::scope(|_| self.run_steps(plan, rates))
        } else {
            self.run_steps(plan, rates)
        }
        Ok(self.state.losses.clone())
    }

    fn parameters(&mut self) -> Result<Parameters> {
        Ok(self.state.weights.parameters())
    }
}

/// That a length is the one expected.
pub(super) fn check(what: &str, expected: usize, found: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(Error::Shape { what: what.to_owned(), expected, found }) }
}

/// That an index is below `expected`; `what` says what there are so many of.
fn check_below(what: &str, expected: usize, index: usize) -> Result<()> {
    if index < expected {
        return Ok(());
    }
    Err(Error::Shape { what: what.to_owned(), expected, found: index.saturating_add(1) })
}

/// The largest of some indices; 0 when there are none.
fn largest(indices: &[u32]) -> usize {
    indices.iter().max().map_or(0, |&index| index as usize)
}

/// That there is a target for each sample, and none past the classes.
fn check_targets(targets: &Targets, n_samples: usize, shape: Shape) -> Result<()> {
    match targets {
        Targets::Classes(classes) => {
            check("labels (one for each sample)", n_samples, classes.len())?;
            check_below("classes of the labels", shape.n_classes, largest(classes))
        }
        Targets::Distributions(values) => {
            check("values of the soft labels", n_samples.saturating_mul(shape.n_classes), values.len())
        }
    }
}
