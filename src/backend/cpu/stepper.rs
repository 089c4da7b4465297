//! Runs the optimizer steps of a plan.

use std::ops::Range;
use std::time::Duration;

use super::lanes::{Element, Instructions};
use super::narrow::Narrow;
use super::tiles::{Buffer, Matrix, TILE, Weights, allocate};
use super::wide::Wide;
use crate::backend::{Head, Parameters, Stepper, check};
use crate::batch::Plan;
use crate::data::Targets;
use crate::error::Result;

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
    /// All rows, one chunk.
    rows: Range<usize>,
    batch_size: usize,
    /// Of the epoch.
    order: Vec<u32>,
    state: State,
    way: Way,
}

impl<'a, T: Element> CpuStepper<'a, T> {
    /// `start`, `heads` and the targets suit X and each other.
    pub fn new(
        instructions: Instructions,
        data: Data<'a, T>,
        rows: &Range<usize>,
        start: &Parameters,
        heads: &[Head],
        batch_size: usize,
    ) -> Result<Self> {
        let shape = start.shape;
        let batch_size = batch_size.clamp(1, rows.len().max(1));
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
        let order = allocate(0, rows.len(), "the order of the samples")?;
        Ok(Self { instructions, data, rows: rows.clone(), batch_size, order, state, way })
    }

    fn run_steps(&mut self, plan: &Plan, rates: &[f32]) {
        self.state.losses.fill(0.0);
        let Self { instructions, data, order, state, way, .. } = self;
        plan.write_order(order);
        let rows = |step: usize| plan.batches.get(step).map_or(&[][..], |batch| &order[batch.start..][..batch.len]);
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
        check::plan(plan, rates, std::slice::from_ref(&self.rows), self.batch_size)?;
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

    fn kernel_times(&mut self, _: &Plan, _: &[f32]) -> Result<Vec<(&'static str, Duration)>> {
        Ok(Vec::new())
    }

    fn parameters(&mut self) -> Result<Parameters> {
        Ok(self.state.weights.parameters())
    }
}
