//! The loss over all samples and its gradient, in double precision, of drafts in single: [`Loss`]. The passes over the samples are in
//! `pass`; what takes none is here.

use std::mem;

use super::lanes::{Element, Instructions};
use super::meeting::{Meeting, Member};
use super::pass::{Asked, Kept, Piece, Product, Samples, Scratch, Sums, are_nothing, shares, weights_from};
use super::real::Real;
use super::residual::{AddToRows, Curvature, Residual, Totals};
use super::tiles::Matrix;
use crate::backend::{Evaluation, Loss, Point, Shape, Supervision, check};
use crate::error::Result;

pub(super) struct CpuLoss<'a, T> {
    samples: Samples<'a, T>,
    scratch: Vec<Scratch>,
    kept: Kept,
    /// Whether products are drafts from the next start on.
    is_draft: bool,
    /// Of the meeting in which its passes are made.
    member: Option<Member>,
}

impl<'a, T: Element> CpuLoss<'a, T> {
    /// The supervision suits X and the shape.
    pub fn new(
        instructions: Instructions,
        x: Matrix<'a, T>,
        scale: f32,
        Supervision { targets, weights }: Supervision<'a>,
        shape: Shape,
        meeting: Option<&Meeting>,
    ) -> Result<Self> {
        let samples = Samples::new(instructions, x, scale, targets, shape);
        let scratch = (0..samples.n_threads()).map(|_| Scratch::new(&samples, false)).collect::<Result<_>>()?;
        let kept = Kept::new(&samples, shares(weights, samples.n_samples()))?;
        let member = meeting.and_then(|meeting| meeting.member(x, scale, shape, targets));
        Ok(Self { samples, scratch, kept, is_draft: false, member })
    }

    fn each_part(&mut self, work: impl Fn(&mut Scratch, Piece) + Sync) {
        self.kept.settle(&self.samples, &mut self.scratch);
        self.samples.each_part(&mut self.scratch, &mut self.kept, work);
    }

    /// A pass over X.
    fn pass(&mut self, product: Product, t: &[f64]) -> Result<Evaluation> {
        if let Some(member) = &self.member {
            let (kept, evaluation) = member.pass(mem::take(&mut self.kept), product, t)?;
            self.kept = kept;
            return Ok(evaluation);
        }
        let asked = Asked { kept: &mut self.kept, product, t };
        Ok(self.samples.pass(&mut self.scratch, &mut [asked]).swap_remove(0))
    }

    fn along_in<F: Real>(&mut self, t: &[f64]) {
        let Samples { instructions, targets, shape, tile_len, .. } = self.samples;
        let Shape { n_classes, n_heads, .. } = shape;
        let m = shape.n_outputs();
        self.each_part(|scratch, Piece { weights, part, z, direction, .. }| {
            part.sums.reset(t.len());
            let residual = F::within(&mut scratch.residual);
            let mut directions = F::of(direction)[..direction.len()].chunks(tile_len * m);
            for (index, z) in F::of(z)[..z.len()].chunks(tile_len * m).enumerate() {
                let (first, direction) = (part.first + index * tile_len, directions.next().unwrap_or_default());
                if are_nothing(weights, first, z.len() / m) {
                    continue;
                }
                let weights = weights_from(weights, first);
                let Sums { losses, slopes, .. } = &mut part.sums;
                let sums = losses.chunks_exact_mut(n_heads).zip(slopes.chunks_exact_mut(n_heads));
                for (t, (losses, slopes)) in t.chunks_exact(n_heads).zip(sums) {
                    let residual = &mut residual[..z.len()];
                    let totals = Totals { losses, slopes, bias_gradient: &mut [] };
                    instructions.run(Residual {
                        first,
                        t,
                        z,
                        direction,
                        targets,
                        n_classes,
                        weights,
                        residual,
                        totals,
                    });
                }
            }
        });
    }

    fn shift_in<F: Real>(&mut self) {
        let Samples { instructions, targets, shape, tile_len, .. } = self.samples;
        let Shape { n_classes, n_heads, .. } = shape;
        let (m, t) = (shape.n_outputs(), &vec![0.0; n_heads][..]);
        self.each_part(|scratch, Piece { weights, bias, part, z, .. }| {
            part.sums.reset(n_heads);
            let n = z.len();
            for (index, z) in F::within(z)[..n].chunks_mut(tile_len * m).enumerate() {
                let first = part.first + index * tile_len;
                if are_nothing(weights, first, z.len() / m) {
                    continue;
                }
                instructions.run(AddToRows { rows: &mut *z, row: bias });
                let (weights, direction) = (weights_from(weights, first), &[][..]);
                let residual = &mut F::within(&mut scratch.residual)[..z.len()];
                let totals = part.sums.totals();
                instructions.run(Residual { first, t, z, direction, targets, n_classes, weights, residual, totals });
            }
        });
    }

    fn shift_curvature_in<F: Real>(&mut self, vector: &[f64]) {
        let Samples { instructions, shape, tile_len, .. } = self.samples;
        let Shape { n_classes, n_heads, .. } = shape;
        let m = shape.n_outputs();
        let vector: Vec<F> = vector.iter().map(|&value| F::from_f64(value)).collect();
        self.each_part(|scratch, Piece { weights, part, z, .. }| {
            part.sums.reset(n_heads);
            for (index, z) in F::of(z)[..z.len()].chunks(tile_len * m).enumerate() {
                let first = part.first + index * tile_len;
                if are_nothing(weights, first, z.len() / m) {
                    continue;
                }
                let weights = weights_from(weights, first);
                let residual = &mut F::within(&mut scratch.residual)[..z.len()];
                let (v, bias_gradient) = (&vector[..], &mut part.sums.bias_gradient);
                instructions.run(Curvature { z, v, n_classes, n_heads, weights, residual, bias_gradient });
            }
        });
    }
}

impl<T: Element> Loss for CpuLoss<'_, T> {
    fn is_double(&self) -> bool {
        !self.is_draft
    }

    fn set_draft(&mut self, is_draft: bool) -> bool {
        mem::replace(&mut self.is_draft, is_draft) != is_draft
    }

    fn start(&mut self, parameters: &[f64]) -> Result<Evaluation> {
        check::values_of(self.samples.shape, parameters)?;
        self.kept.is_draft = self.is_draft;
        self.kept.set_weights(&self.samples, parameters)?;
        self.kept.forget_direction();
        self.pass(Product::Point, &vec![0.0; self.samples.shape.n_heads])
    }

    fn look(&mut self, direction: &[f64], t: &[f64]) -> Result<Evaluation> {
        check::lengths(self.samples.shape, 1, t)?;
        self.kept.set_weights(&self.samples, direction)?;
        self.kept.take_direction()?;
        self.pass(Product::Direction, t)
    }

    fn aim(&mut self, direction: &[f64]) -> Result<()> {
        self.kept.set_weights(&self.samples, direction)?;
        self.kept.take_direction()?;
        self.pass(Product::DirectionAlone, &[]).map(drop)
    }

    fn gradient(&mut self, t: &[f64]) -> Result<Evaluation> {
        check::lengths(self.samples.shape, 1, t)?;
        self.pass(Product::None, t)
    }

    fn along(&mut self, t: &[f64]) -> Result<Vec<Point>> {
        check::lengths(self.samples.shape, t.len() / self.samples.shape.n_heads, t)?;
        match self.kept.is_draft {
            true => self.along_in::<f32>(t),
            false => self.along_in::<f64>(t),
        }
        Ok(Sums::points(self.kept.sums(), self.samples.shape.n_heads))
    }

    fn shift(&mut self, intercept: &[f64]) -> Result<Option<(Point, Vec<f64>)>> {
        self.kept.bias.copy_from_slice(intercept);
        match self.kept.is_draft {
            true => self.shift_in::<f32>(),
            false => self.shift_in::<f64>(),
        }
        let mut gradient = vec![0.0; self.samples.shape.n_outputs()];
        Sums::bias_gradient(self.kept.sums(), &mut gradient);
        Ok(Some((Sums::point(self.kept.sums(), self.samples.shape.n_heads), gradient)))
    }

    fn shift_curvature(&mut self, vector: &[f64]) -> Result<Option<Vec<f64>>> {
        match self.kept.is_draft {
            true => self.shift_curvature_in::<f32>(vector),
            false => self.shift_curvature_in::<f64>(vector),
        }
        let mut product = vec![0.0; self.samples.shape.n_outputs()];
        Sums::bias_gradient(self.kept.sums(), &mut product);
        Ok(Some(product))
    }

    fn advance(&mut self, t: &[f64]) -> Result<()> {
        check::lengths(self.samples.shape, 1, t)?;
        self.kept.advance(&self.samples, &mut self.scratch, t);
        Ok(())
    }

    fn hessian_vector(&mut self, vector: &[f64]) -> Result<Vec<f64>> {
        self.kept.set_weights(&self.samples, vector)?;
        Ok(self.pass(Product::Vector, &[])?.gradient)
    }

    fn on_all_threads(&self, work: &mut (dyn FnMut() + Send)) {
        match &self.member {
            Some(member) => member.on_all_threads(work),
            None => work(),
        }
    }
}
