//! The loss over all samples and its gradient, in double precision, of sparse features: twin of [`super::super::loss`].
//!
//! First, part after part of the samples, logits and residual, which stays; then, feature after feature, the gradient.

use super::super::lanes::Instructions;
use super::super::pass::{Sums, shares};
use super::super::residual::{Curvature, Residual, Totals};
use super::super::team;
use super::super::tiles::allocate;
use super::sum::WeightedSum;
use super::transposed::Transposed;
use super::{Matrix, SparseRow};
use crate::backend::{Evaluation, Loss, Point, Shape, Supervision, check};
use crate::data::Targets;
use crate::error::Result;

/// A part has at least so many samples.
const LEAST_PART: usize = 64;
/// At most so many parts.
const MOST_PARTS: usize = 256;
/// Samples whose logits of a vector are there at a time.
const ROWS: usize = 32;

pub(super) struct SparseLoss<'a> {
    instructions: Instructions,
    x: Matrix<'a>,
    transposed: &'a Transposed,
    targets: &'a Targets<'a>,
    /// s of each sample; one for all when all are the same.
    weights: Vec<f64>,
    shape: Shape,
    part_len: usize,
    parts: Vec<Sums>,
    /// Z, Zₚ and R, (n × h·q).
    z: Vec<f64>,
    direction: Vec<f64>,
    residual: Vec<f64>,
}

/// What a pass over the samples begins with.
#[derive(Clone, Copy)]
enum Product<'p> {
    None,
    /// The logits of these parameters are the point.
    Point(&'p [f64]),
    /// Those of these are the direction.
    Direction(&'p [f64]),
    /// This vector is multiplied by the Hessian.
    Vector(&'p [f64]),
}

impl<'a> SparseLoss<'a> {
    /// The supervision suits X and the shape.
    pub fn new(
        instructions: Instructions,
        x: Matrix<'a>,
        transposed: &'a Transposed,
        supervision: Supervision<'a>,
        shape: Shape,
    ) -> Result<Self> {
        let (n_samples, m) = (x.x.n_rows(), shape.n_outputs());
        let part_len = n_samples.div_ceil(MOST_PARTS).max(LEAST_PART);
        let logits = || allocate(0.0, n_samples.saturating_mul(m), "the logits");
        Ok(Self {
            instructions,
            x,
            transposed,
            targets: supervision.targets,
            weights: shares(supervision.weights, n_samples),
            shape,
            part_len,
            parts: (0..n_samples).step_by(part_len).map(|_| Sums::new(m)).collect(),
            z: logits()?,
            direction: Vec::new(),
            residual: logits()?,
        })
    }

    /// Runs `work` for each part: its first sample, its sums, and its parts of Z, Zₚ (of nothing where there is no direction) and R.
    fn each_part(&mut self, work: impl Fn(&Shared, usize, &mut Sums, &mut [f64], &mut [f64], &mut [f64]) + Sync) {
        let Self { instructions, x, targets, ref weights, shape, part_len, .. } = *self;
        let shared = Shared { instructions, x, targets, weights, shape };
        let length = part_len * shape.n_outputs();
        let n_threads = rayon::current_num_threads().min(self.parts.len());
        let firsts = (0..).step_by(part_len);
        let mut directions = self.direction.chunks_mut(length);
        let directions = std::iter::from_fn(move || Some(directions.next().unwrap_or_default()));
        let tasks = firsts.zip(&mut self.parts).zip(self.z.chunks_mut(length)).zip(directions);
        let tasks = tasks.zip(self.residual.chunks_mut(length));
        team::lead(n_threads, |team| {
            team.each(&mut vec![(); n_threads], tasks, |(), ((((first, sums), z), direction), residual)| {
                work(&shared, first, sums, z, direction, residual);
            });
        });
    }

    /// Makes room for the logits of a direction.
    fn take_direction(&mut self) -> Result<()> {
        if self.direction.is_empty() {
            self.direction = allocate(0.0, self.z.len(), "the logits of a direction")?;
        }
        Ok(())
    }

    fn pass(&mut self, product: Product, t: &[f64]) -> Result<Evaluation> {
        let (n_heads, m) = (self.shape.n_heads, self.shape.n_outputs());
        self.each_part(|shared, first, sums, z, direction, residual| {
            sums.reset(n_heads);
            match product {
                Product::None => {}
                Product::Point(parameters) => shared.logits(parameters, first, z),
                Product::Direction(parameters) => shared.logits(parameters, first, direction),
                Product::Vector(parameters) => {
                    let mut v = vec![0.0; ROWS * m];
                    let blocks = z.chunks(ROWS * m).zip(residual.chunks_mut(ROWS * m));
                    for ((z, residual), first) in blocks.zip((first..).step_by(ROWS)) {
                        let v = &mut v[..z.len()];
                        shared.logits(parameters, first, v);
                        shared.curvature(first, z, v, residual, &mut sums.bias_gradient);
                    }
                    return;
                }
            }
            shared.residual(first, t, z, direction, residual, sums.totals());
        });
        Ok(Evaluation { point: Sums::point(self.parts.iter(), n_heads), gradient: self.features_gradient()? })
    }

    /// X̃ᵀ·R, and below it the gradient of the intercept.
    fn features_gradient(&self) -> Result<Vec<f64>> {
        let Self { instructions, x, transposed, shape, residual: rows, .. } = self;
        let m = shape.n_outputs();
        let mut gradient = allocate(0.0, shape.n_parameters(), "the gradient")?;
        let (weights, bias) = gradient.split_at_mut(shape.n_features * m);
        let blocks = transposed.blocks(weights, m);
        let n_threads = rayon::current_num_threads().min(blocks.len());
        team::lead(n_threads, |team| {
            team.each(&mut vec![(); n_threads], blocks.into_iter(), |(), (first, block)| {
                for (k, out) in (first..).zip(block.chunks_exact_mut(m)) {
                    let row = transposed.feature(k);
                    if !row.indices.is_empty() {
                        instructions.run(WeightedSum { row, rows, factor: f64::from(x.scale), start: &[], out });
                    }
                }
            });
        });
        Sums::bias_gradient(self.parts.iter(), bias);
        Ok(gradient)
    }
}

/// What all threads read.
struct Shared<'s> {
    instructions: Instructions,
    x: Matrix<'s>,
    targets: &'s Targets<'s>,
    weights: &'s [f64],
    shape: Shape,
}

impl Shared<'_> {
    /// Logits of the samples from `first` on, (samples × h·q).
    fn logits(&self, parameters: &[f64], first: usize, out: &mut [f64]) {
        let m = self.shape.n_outputs();
        let (rows, start) = parameters.split_at(self.shape.n_features * m);
        for (row, out) in (first..).zip(out.chunks_exact_mut(m)) {
            let row: SparseRow = self.x.row(row);
            self.instructions.run(WeightedSum { row, rows, factor: f64::from(self.x.scale), start, out });
        }
    }

    fn residual(&self, first: usize, t: &[f64], z: &[f64], direction: &[f64], residual: &mut [f64], totals: Totals) {
        let (targets, weights, n_classes) = (self.targets, self.weights_of(first), self.shape.n_classes);
        let kernel = Residual { first, t, z, direction, targets, n_classes, weights, residual, totals };
        self.instructions.run(kernel);
    }

    fn curvature(&self, first: usize, z: &[f64], v: &[f64], residual: &mut [f64], bias_gradient: &mut [f64]) {
        let (Shape { n_classes, n_heads, .. }, weights) = (self.shape, self.weights_of(first));
        self.instructions.run(Curvature { z, v, n_classes, n_heads, weights, residual, bias_gradient });
    }

    /// s of the samples from `first` on.
    fn weights_of(&self, first: usize) -> &[f64] {
        if self.weights.len() == 1 { self.weights } else { &self.weights[first..] }
    }
}

impl Loss for SparseLoss<'_> {
    fn is_double(&self) -> bool {
        true
    }

    fn start(&mut self, parameters: &[f64]) -> Result<Evaluation> {
        check::values_of(self.shape, parameters)?;
        self.direction = Vec::new();
        self.pass(Product::Point(parameters), &vec![0.0; self.shape.n_heads])
    }

    fn look(&mut self, direction: &[f64], t: &[f64]) -> Result<Evaluation> {
        check::values_of(self.shape, direction)?;
        check::lengths(self.shape, 1, t)?;
        self.take_direction()?;
        self.pass(Product::Direction(direction), t)
    }

    fn aim(&mut self, direction: &[f64]) -> Result<()> {
        check::values_of(self.shape, direction)?;
        self.take_direction()?;
        self.each_part(|shared, first, _, _, to, _| shared.logits(direction, first, to));
        Ok(())
    }

    fn gradient(&mut self, t: &[f64]) -> Result<Evaluation> {
        check::lengths(self.shape, 1, t)?;
        self.pass(Product::None, t)
    }

    fn along(&mut self, t: &[f64]) -> Result<Vec<Point>> {
        let n_heads = self.shape.n_heads;
        check::lengths(self.shape, t.len() / n_heads, t)?;
        self.each_part(|shared, first, sums, z, direction, residual| {
            sums.reset(t.len());
            let of_points = sums.losses.chunks_exact_mut(n_heads).zip(sums.slopes.chunks_exact_mut(n_heads));
            for (t, (losses, slopes)) in t.chunks_exact(n_heads).zip(of_points) {
                shared.residual(first, t, z, direction, residual, Totals { losses, slopes, bias_gradient: &mut [] });
            }
        });
        Ok(Sums::points(self.parts.iter(), n_heads))
    }

    fn shift(&mut self, intercept: &[f64]) -> Result<Option<(Point, Vec<f64>)>> {
        let (n_heads, m) = (self.shape.n_heads, self.shape.n_outputs());
        self.each_part(|shared, first, sums, z, _, residual| {
            sums.reset(n_heads);
            z.chunks_exact_mut(m).for_each(|z| z.iter_mut().zip(intercept).for_each(|(z, b)| *z += b));
            let t = vec![0.0; n_heads];
            shared.residual(first, &t, z, &[], residual, sums.totals());
        });
        let mut gradient = vec![0.0; m];
        Sums::bias_gradient(self.parts.iter(), &mut gradient);
        Ok(Some((Sums::point(self.parts.iter(), n_heads), gradient)))
    }

    fn shift_curvature(&mut self, vector: &[f64]) -> Result<Option<Vec<f64>>> {
        let (n_heads, m) = (self.shape.n_heads, self.shape.n_outputs());
        self.each_part(|shared, first, sums, z, _, residual| {
            sums.reset(n_heads);
            shared.curvature(first, z, vector, residual, &mut sums.bias_gradient);
        });
        let mut product = vec![0.0; m];
        Sums::bias_gradient(self.parts.iter(), &mut product);
        Ok(Some(product))
    }

    fn advance(&mut self, t: &[f64]) -> Result<()> {
        check::lengths(self.shape, 1, t)?;
        let (m, q) = (self.shape.n_outputs(), self.shape.n_classes);
        self.each_part(|_, _, _, z, direction, _| {
            for (z, direction) in z.chunks_exact_mut(m).zip(direction.chunks_exact(m)) {
                for ((z, direction), t) in z.chunks_exact_mut(q).zip(direction.chunks_exact(q)).zip(t) {
                    z.iter_mut().zip(direction).for_each(|(z, direction)| *z += t * direction);
                }
            }
        });
        Ok(())
    }

    fn hessian_vector(&mut self, vector: &[f64]) -> Result<Vec<f64>> {
        check::values_of(self.shape, vector)?;
        Ok(self.pass(Product::Vector(vector), &[])?.gradient)
    }
}
