//! Sparse features on the CPU: what is 0 is neither read nor multiplied.
//!
//! W stays as [`Parameters`] have it, (d × h·q) row-major, so that each value of a sample adds a row of it to the logits. The gradient
//! goes by features: each is summed by one thread, over its samples in their order, so that there are neither atomics nor gradients
//! of parts, which would be as large as W, and the result does not depend on the number of threads.

mod loss;
mod moments;
mod skipped;
mod stepper;
mod sum;
mod transposed;

use std::ops::Range;

use super::lanes::Instructions;
use super::tiles::{TILE, allocate};
use super::{BLOCK, team};
use crate::backend::{Finish, Head, Loss, Parameters, Session, Shape, Sink, State, Stepper, Supervision, check};
use crate::data::Csr;
use crate::error::Result;
use loss::SparseLoss;
pub(super) use moments::{moments, widen};
use stepper::{SparseStepper, Trained};
use sum::{SparseRow, WeightedSum};
use transposed::Transposed;

/// X̃ = scale·X.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    x: &'a Csr<'a>,
    d: usize,
    scale: f32,
}

impl<'a> Matrix<'a> {
    fn row(self, row: usize) -> SparseRow<'a> {
        let (indices, values) = self.x.row(row);
        SparseRow { indices, values }
    }
}

pub(super) struct SparseSession<'a> {
    instructions: Instructions,
    x: Matrix<'a>,
    supervision: Option<Supervision<'a>>,
    /// All rows, in one chunk.
    rows: Range<usize>,
    /// Made when a loss is asked for.
    transposed: Option<Transposed>,
}

impl<'a> SparseSession<'a> {
    /// `x` has columns below d.
    pub fn new(
        instructions: Instructions,
        x: &'a Csr<'a>,
        d: usize,
        scale: f32,
        supervision: Option<Supervision<'a>>,
    ) -> Self {
        Self { instructions, x: Matrix { x, d, scale }, supervision, rows: 0..x.n_rows(), transposed: None }
    }

    /// Logits of the rows from `first` on, as many as there is room for in `out`.
    fn logits_of(&self, parameters: &Parameters, first: usize, out: &mut [f32], finish: &Finish) {
        let m = parameters.shape.n_outputs();
        let n_threads = rayon::current_num_threads().min((out.len() / m).div_ceil(TILE));
        let tiles = (first..).step_by(TILE).zip(out.chunks_mut(TILE * m));
        let work = |(): &mut (), (first, out): (usize, &mut [f32])| {
            for (row, out) in (first..).zip(out.chunks_exact_mut(m)) {
                let (row, rows, start) = (self.x.row(row), parameters.weights(), parameters.bias());
                self.instructions.run(WeightedSum { row, rows, factor: self.x.scale, start, out });
            }
            finish(first, out);
        };
        team::lead(n_threads, |team| team.each(&mut vec![(); n_threads], tiles, work));
    }
}

impl Session for SparseSession<'_> {
    fn chunks(&self) -> &[Range<usize>] {
        std::slice::from_ref(&self.rows)
    }

    fn logits(&mut self, parameters: &Parameters, sink: &mut Sink) -> Result<()> {
        check::parameters(parameters, self.x.d)?;
        let (m, n) = (parameters.shape.n_outputs(), self.rows.end);
        let block = (BLOCK / m).max(1).min(n);
        let mut logits = allocate(0.0, block.saturating_mul(m), "a block of logits")?;
        for first in (0..n).step_by(block) {
            let end = n.min(first + block);
            let out = &mut logits[..(end - first) * m];
            self.logits_of(parameters, first, out, &|_, _| {});
            sink(first..end, out)?;
        }
        Ok(())
    }

    fn logits_into(&mut self, parameters: &Parameters, out: &mut [f32], finish: &Finish) -> Result<()> {
        check::parameters(parameters, self.x.d)?;
        check::logits(parameters.shape, self.rows.end, out)?;
        self.logits_of(parameters, 0, out, finish);
        Ok(())
    }

    fn loss<'s>(&'s mut self, shape: Shape) -> Result<Box<dyn Loss + 's>> {
        check::shape(shape, self.x.d)?;
        let supervision = check::supervision(shape, self.supervision, self.rows.end)?;
        let transposed = match &mut self.transposed {
            Some(transposed) => transposed,
            none => none.insert(Transposed::new(self.x)?),
        };
        Ok(Box::new(SparseLoss::new(self.instructions, self.x, transposed, supervision, shape)?))
    }

    fn stepper<'s>(&'s mut self, start: &State, heads: &[Head], batch_size: usize) -> Result<Box<dyn Stepper + 's>> {
        let supervision = check::training(start, heads, self.supervision, self.x.d, self.rows.end)?;
        check::dense(start)?;
        let Supervision { targets, weights } = supervision;
        let data = Trained { x: self.x, targets, weights };
        Ok(Box::new(SparseStepper::new(self.instructions, data, &self.rows, start, heads, batch_size)?))
    }
}
