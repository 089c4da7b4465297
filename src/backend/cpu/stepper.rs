//! Runs the optimizer steps of a plan.

use std::ops::Range;
use std::time::Duration;

use super::factored::Factored;
use super::lanes::{Element, Instructions};
use super::narrow::Narrow;
use super::short::Short;
use super::softmax::TileWeights;
use super::team::{self, Team};
use super::tiles::{Buffer, Matrix, TILE, Weights, allocate, from_tiles, into_tiles};
use super::wide::Wide;
use crate::backend::{Head, Parameters, State, StepFactors, Stepper, check};
use crate::batch::Plan;
use crate::data::Targets;
use crate::error::Result;

/// What is trained on: X̃ = scale·X, the targets of its rows and, if they have any, their weights.
pub(super) struct Data<'a, T> {
    pub x: Matrix<'a, T>,
    pub scale: f32,
    pub targets: &'a Targets<'a>,
    pub weights: Option<&'a [f32]>,
}

impl<T> Data<'_, T> {
    /// `share` times the weight of each of up to 32 samples; 0 past them.
    pub fn weights_of(&self, rows: &[u32], share: f32) -> TileWeights {
        TileWeights::new(self.weights, rows, share)
    }
}

/// What training changes, in tiles.
pub(super) struct Tiled {
    pub weights: Weights,
    /// Values of each parameter that its rule keeps.
    pub n_moments: usize,
    /// Tile by tile as the weights, the first moments of a tile and then its second.
    pub moments: Buffer,
    /// The first moments of the intercept, then the second.
    pub bias_moments: Vec<f32>,
    pub heads: Vec<Head>,
    /// The sum of the losses of each head so far.
    pub losses: Vec<f64>,
}

impl Tiled {
    /// Takes moments as [`State`] has them; nothing: they stay zero.
    fn set_moments(&mut self, instructions: Instructions, moments: &[f32]) {
        let Self { weights, n_moments, .. } = self;
        let m = weights.shape.n_outputs();
        for (index, moments) in moments.chunks_exact(weights.shape.n_parameters()).enumerate() {
            let (of_weights, of_bias) = moments.split_at(weights.shape.n_features * m);
            let tiles = self.moments.chunks_exact_mut(m * TILE).skip(index).step_by(*n_moments);
            into_tiles(instructions, of_weights, m, tiles);
            self.bias_moments[index * m..][..m].copy_from_slice(of_bias);
        }
    }

    /// The moments as [`State`] has them.
    fn moments(&self) -> Vec<f32> {
        let Self { weights, n_moments, .. } = self;
        let m = weights.shape.n_outputs();
        let mut values = vec![0.0; n_moments * weights.shape.n_parameters()];
        for (index, moments) in values.chunks_exact_mut(weights.shape.n_parameters()).enumerate() {
            let (of_weights, of_bias) = moments.split_at_mut(weights.shape.n_features * m);
            from_tiles(self.moments.chunks_exact(m * TILE).skip(index).step_by(*n_moments), m, of_weights);
            of_bias.copy_from_slice(&self.bias_moments[index * m..][..m]);
        }
        values
    }
}

/// A step of a plan.
pub(super) struct Step<'a> {
    /// The samples of its batch.
    pub rows: &'a [u32],
    /// Those of the next batch.
    pub ahead: &'a [u32],
    pub factors: StepFactors,
}

/// Positions of an order that are worth a thread.
const PORTION: usize = 1 << 13;

enum Way {
    Short(Short),
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
    /// Steps done.
    n_steps: u64,
    tiled: Tiled,
    /// Of structured weights, which are trained in the place of those in tiles.
    factored: Option<Factored>,
    way: Way,
}

impl<'a, T: Element> CpuStepper<'a, T> {
    /// `start`, `heads` and the targets suit X and each other.
    pub fn new(
        instructions: Instructions,
        data: Data<'a, T>,
        rows: &Range<usize>,
        start: &State,
        heads: &[Head],
        batch_size: usize,
    ) -> Result<Self> {
        let shape = start.parameters.shape;
        let batch_size = batch_size.clamp(1, rows.len().max(1));
        let factored = start.factors.as_ref().zip(heads.first());
        let factored = factored.map(|(factors, &head)| Factored::new(factors, &start.moments, head));
        let heads = match &factored {
            Some(_) => heads.iter().map(|head| head.for_gradient()).collect(),
            None => heads.to_vec(),
        };
        let n_moments = heads.first().map_or(1, |head| head.rule.n_moments());
        let moments_of_row = shape.n_outputs().saturating_mul(n_moments);
        let mut tiled = Tiled {
            weights: Weights::new(instructions, &start.parameters)?,
            n_moments,
            moments: Buffer::zeros(shape.n_features.div_ceil(TILE) * TILE, moments_of_row, "the moments")?,
            bias_moments: vec![0.0; moments_of_row],
            heads,
            losses: vec![0.0; shape.n_heads],
        };
        if factored.is_none() {
            tiled.set_moments(instructions, &start.moments);
        }
        let way = if Short::suits::<T>(instructions, shape, batch_size) {
            Way::Short(Short::new(instructions, &data, shape, batch_size)?)
        } else if Narrow::suits(instructions, shape) {
            Way::Narrow(Narrow::new(instructions, &data, shape, batch_size)?)
        } else {
            Way::Wide(Wide::new(&data, shape, batch_size)?)
        };
        let order = allocate(0, rows.len(), "the order of the samples")?;
        Ok(Self {
            instructions,
            data,
            rows: rows.clone(),
            batch_size,
            order,
            n_steps: start.n_steps,
            tiled,
            factored,
            way,
        })
    }

    fn run_steps(&mut self, team: &mut Team, plan: &Plan, rates: &[f32]) {
        self.tiled.losses.fill(0.0);
        let Self { instructions, data, order, n_steps, tiled, factored, way, .. } = self;
        set_order(team, plan, order);
        let rows = |step: usize| plan.batches.get(step).map_or(&[][..], |batch| &order[batch.start..][..batch.len]);
        for (step, &rate) in rates.iter().enumerate() {
            *n_steps += 1;
            let factors = StepFactors::new(rate, &tiled.heads, *n_steps);
            let step = Step { rows: rows(step), ahead: rows(step + 1), factors };
            match way {
                Way::Short(short) => short.step(team, *instructions, data, tiled, step),
                Way::Narrow(narrow) => narrow.step(team, *instructions, data, tiled, step),
                Way::Wide(wide) => wide.step(team, *instructions, data, tiled, step),
            }
            if let Some(factored) = factored {
                factored.step(*instructions, tiled, rate, *n_steps);
            }
        }
    }
}

/// The order of the rows, of which one chunk has all.
pub(super) fn set_order(team: &mut Team, plan: &Plan, order: &mut [u32]) {
    if let [permutation] = &plan.orders[..] {
        let portions = order.chunks_mut(PORTION).zip((0..).step_by(PORTION));
        team.each(&mut vec![(); team.n_threads()], portions, |(), (rows, first)| {
            rows.iter_mut().zip(first..).for_each(|(row, position)| *row = permutation.row(position));
        });
    }
}

impl<T: Element> Stepper for CpuStepper<'_, T> {
    fn run(&mut self, plan: &Plan, rates: &[f32]) -> Result<Vec<f64>> {
        check::plan(plan, rates, std::slice::from_ref(&self.rows), self.batch_size)?;
        let n_threads = match &self.way {
            Way::Short(short) => short.n_threads(),
            Way::Narrow(narrow) => narrow.n_threads(self.batch_size, self.tiled.weights.shape),
            Way::Wide(wide) => wide.n_threads(),
        };
        team::lead(n_threads, |team| self.run_steps(team, plan, rates));
        Ok(self.tiled.losses.clone())
    }

    fn kernel_times(&mut self, _: &Plan, _: &[f32]) -> Result<Vec<(&'static str, Duration)>> {
        Ok(Vec::new())
    }

    fn parameters(&mut self) -> Result<Parameters> {
        Ok(self.tiled.weights.parameters())
    }

    fn state(&mut self) -> Result<State> {
        let (factors, moments) = match &self.factored {
            Some(Factored { factors, moments, .. }) => (Some(factors.clone()), moments.clone()),
            None => (None, self.tiled.moments()),
        };
        Ok(State { parameters: self.parameters()?, factors, moments, n_steps: self.n_steps })
    }
}
