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
        };
        let way = if Narrow::suits(shape) {
            Way::Narrow(Narrow::new(&data, shape, batch_size)?)
        } else {
            Way::Wide(Wide::new(&data, shape, batch_size)?)
        };
        Ok(Self { instructions, data, n_samples, batch_size, state, way })
    }

    fn check_plan(&self, plan: &Plan, rates: &[f32]) -> Result<()> {
        check("learning rates (one for each step)", plan.batches.len(), rates.len())?;
        for batch in &plan.batches {
            let inside = batch.start.checked_add(batch.len).is_some_and(|end| end <= plan.order.len());
            if batch.chunk != 0 || batch.len == 0 || batch.len > self.batch_size || !inside {
                return Err(Error::Shape {
                    what: "samples of a batch".to_owned(),
                    expected: self.batch_size,
                    found: batch.len,
                });
            }
        }
        match plan.order.iter().max() {
            Some(&row) if row as usize >= self.n_samples => Err(Error::Shape {
                what: "rows of the feature matrix".to_owned(),
                expected: self.n_samples,
                found: row as usize + 1,
            }),
            _ => Ok(()),
        }
    }

    fn run_steps(&mut self, plan: &Plan, rates: &[f32]) -> Vec<f64> {
        let mut losses = vec![0.0; self.state.heads.len()];
        let Self { instructions, data, state, way, .. } = self;
        let rows =
            |step: usize| plan.batches.get(step).map_or(&[][..], |batch| &plan.order[batch.start..][..batch.len]);
        for (step, &rate) in rates.iter().enumerate() {
            let (batch, ahead) = (rows(step), rows(step + 1));
            match way {
                Way::Narrow(narrow) => narrow.step(*instructions, data, state, batch, ahead, rate, &mut losses),
                Way::Wide(wide) => wide.step(*instructions, data, state, batch, rate, &mut losses),
            }
        }
        losses
    }
}

impl<T: Element> Stepper for CpuStepper<'_, T> {
    fn run(&mut self, plan: &Plan, rates: &[f32]) -> Result<Vec<f64>> {
        self.check_plan(plan, rates)?;
        let parallel = match self.way {
            Way::Narrow(_) => Narrow::is_parallel(self.batch_size, self.state.weights.shape),
            Way::Wide(_) => true,
        };
        // Once into the thread pool rather than at each step.
        Ok(if parallel { rayon::scope(|_| self.run_steps(plan, rates)) } else { self.run_steps(plan, rates) })
    }

    fn parameters(&mut self) -> Result<Parameters> {
        Ok(self.state.weights.parameters())
    }
}

/// That a length is the one expected.
pub(super) fn check(what: &str, expected: usize, found: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(Error::Shape { what: what.to_owned(), expected, found }) }
}

/// That there is a target for each sample, and none past the classes.
fn check_targets(targets: &Targets, n_samples: usize, shape: Shape) -> Result<()> {
    match targets {
        Targets::Classes(classes) => {
            check("labels (one for each sample)", n_samples, classes.len())?;
            match classes.iter().max() {
                Some(&class) if class as usize >= shape.n_classes => Err(Error::Shape {
                    what: "classes of the labels".to_owned(),
                    expected: shape.n_classes,
                    found: class as usize + 1,
                }),
                _ => Ok(()),
            }
        }
        Targets::Distributions(values) => {
            let expected = n_samples.checked_mul(shape.n_classes).unwrap_or(usize::MAX);
            check("values of the soft labels", expected, values.len())
        }
    }
}
