//! Features of which a device has only a part at a time: because they are in a file, or because the device has no room for all.
//!
//! For each part, a session of the device itself is begun, and what it finds is added up. Nothing else is different: steps go on
//! from the state in which those of the part before ended, and the loss is a sum over the parts.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use super::{
    Backend, DeviceKind, Evaluation, Head, Loss, Parameters, Point, Session, Shape, Sink, State, Stepper, Supervision,
    check,
};
use crate::batch::{Batch, Plan};
use crate::data::{Features, RowBuffer, Targets};
use crate::error::Result;

pub(super) struct Streamed<'a> {
    backend: &'a dyn Backend,
    features: &'a Features<'a>,
    scale: f32,
    supervision: Option<Supervision<'a>>,
    /// The sum of the weights.
    total_weight: f64,
    /// Bytes of features, and of what a solver keeps of their samples, that may be in memory at a time.
    memory: u64,
    chunks: Vec<Range<usize>>,
    block_rows: usize,
}

/// What of the memory one part may take: the next may be read in the meantime. And the most that it takes: larger ones would not be
/// read faster.
const SHARE: u64 = 2;
const LARGEST: u64 = 256 << 20;
/// On the CPU a part stays in its cache between being read and being used, but has no fewer rows than a few large batches.
const CACHED: u64 = 32 << 20;
const CACHED_ROWS: u64 = 1 << 13;
/// Bytes of a block that are read together at most, and how many blocks a part has at least.
const BLOCK: usize = 256 << 10;
const BLOCKS: usize = 512;

/// Bytes of a part.
pub(crate) fn part_bytes(memory: u64) -> u64 {
    (memory / SHARE).min(LARGEST)
}

impl<'a> Streamed<'a> {
    pub fn new(
        backend: &'a dyn Backend,
        features: &'a Features<'a>,
        scale: f32,
        supervision: Option<Supervision<'a>>,
        memory: u64,
    ) -> Self {
        let mut streamed = Self {
            backend,
            features,
            scale,
            supervision,
            total_weight: 0.0,
            memory,
            chunks: Vec::new(),
            block_rows: 1,
        };
        streamed.total_weight = streamed.weight_of(0..features.n_samples());
        let rows = streamed.rows_of_part(0);
        streamed.block_rows = (BLOCK / features.sample_bytes()).min(rows / BLOCKS).max(1);
        streamed.chunks = streamed.parts(0, streamed.block_rows);
        streamed
    }

    /// Rows of a part, when a sample takes `bytes` beside its features.
    fn rows_of_part(&self, bytes: usize) -> usize {
        let features = self.features;
        let sample = (features.sample_bytes() + bytes) as u64;
        let most = self.backend.chunk_rows(features, self.supervision);
        let part = match self.backend.info().kind {
            DeviceKind::Cpu => part_bytes(self.memory).min(CACHED.max(CACHED_ROWS * sample)),
            _ => part_bytes(self.memory),
        };
        ((part / sample) as usize).clamp(1, most.max(1))
    }

    /// Parts of about the same size, of whole blocks but for the last, when a sample takes `bytes` beside its features.
    fn parts(&self, bytes: usize, block_rows: usize) -> Vec<Range<usize>> {
        let n = self.features.n_samples();
        let n_blocks = n.div_ceil(block_rows);
        let n_parts = n_blocks.div_ceil((self.rows_of_part(bytes) / block_rows).max(1));
        let start = |part: usize| (n_blocks as u128 * part as u128 / n_parts as u128) as usize * block_rows;
        (0..n_parts).map(|part| start(part)..start(part + 1).min(n)).collect()
    }

    /// The sum of the weights of some samples.
    fn weight_of(&self, rows: Range<usize>) -> f64 {
        match self.supervision.and_then(|supervision| supervision.weights) {
            Some(weights) => weights.get(rows).unwrap_or_default().iter().map(|&weight| f64::from(weight)).sum(),
            None => rows.len() as f64,
        }
    }

    /// Calls `work` with the number of each of `parts`, in their order, and a session of its rows. Where the device works by
    /// itself, the next part is read in the meantime.
    fn each(
        &self,
        parts: &[Vec<Range<usize>>],
        mut work: impl FnMut(usize, &mut dyn Session) -> Result<()>,
    ) -> Result<()> {
        let Some(first) = parts.first() else { return Ok(()) };
        let features = self.features;
        let overlaps = self.backend.info().kind != DeviceKind::Cpu;
        let (mut now, mut next) = (RowBuffer::new(), RowBuffer::new());
        features.read_part(first, &mut now)?;
        for (index, rows) in parts.iter().enumerate() {
            let after = parts.get(index + 1);
            let mut work = || {
                let part = features.part(rows, &now)?;
                let targets =
                    self.supervision.map(|supervision| rows_of(supervision.targets, rows, features.n_samples()));
                let weights = self.supervision.and_then(|supervision| supervision.weights);
                let weights = weights.map(|weights| gather(weights, 1, rows));
                let weights = weights.as_deref();
                let supervision = targets.as_ref().map(|targets| Supervision { targets, weights });
                work(index, &mut *self.backend.session(&part, self.scale, supervision)?)
            };
            match after {
                Some(after) if overlaps => std::thread::scope(|scope| {
                    let reader = scope.spawn(|| features.read_part(after, &mut next));
                    work()?;
                    reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })?,
                after => {
                    work()?;
                    if let Some(after) = after {
                        features.read_part(after, &mut now)?;
                        continue;
                    }
                }
            }
            std::mem::swap(&mut now, &mut next);
        }
        Ok(())
    }
}

/// Some rows of `width` values; those past the end are left out, which sessions notice.
fn gather<'v, T: Copy>(values: &'v [T], width: usize, rows: &[Range<usize>]) -> Cow<'v, [T]> {
    let of = |rows: &Range<usize>| values.get(rows.start * width..rows.end * width).unwrap_or_default();
    match rows {
        [rows] => of(rows).into(),
        several => several.iter().flat_map(of).copied().collect(),
    }
}

/// The targets of some of n samples.
fn rows_of<'t>(targets: &'t Targets, rows: &[Range<usize>], n: usize) -> Targets<'t> {
    match targets {
        Targets::Classes(classes) => Targets::Classes(gather(classes, 1, rows)),
        Targets::Distributions(values) => Targets::Distributions(gather(values, values.len() / n.max(1), rows)),
    }
}

/// Each of some parts, which have all rows of their ranges.
fn whole(parts: &[Range<usize>]) -> Vec<Vec<Range<usize>>> {
    parts.iter().map(|part| vec![part.clone()]).collect()
}

impl Session for Streamed<'_> {
    fn chunks(&self) -> &[Range<usize>] {
        &self.chunks
    }

    fn block_rows(&self) -> Option<usize> {
        Some(self.block_rows)
    }

    fn logits(&mut self, parameters: &Parameters, sink: &mut Sink) -> Result<()> {
        self.each(&whole(&self.chunks), |part, session| {
            let first = self.chunks[part].start;
            session.logits(parameters, &mut |rows, logits| sink(first + rows.start..first + rows.end, logits))
        })
    }

    fn classes(&mut self, parameters: &Parameters, into: &mut [u32]) -> Result<()> {
        check::classes(parameters.shape, self.features.n_samples(), into)?;
        let n_heads = parameters.shape.n_heads;
        self.each(&whole(&self.chunks), |part, session| {
            let rows = &self.chunks[part];
            session.classes(parameters, &mut into[rows.start * n_heads..rows.end * n_heads])
        })
    }

    fn stepper<'s>(&'s mut self, start: &State, heads: &[Head], batch_size: usize) -> Result<Box<dyn Stepper + 's>> {
        check::training(start, heads, self.supervision, self.features.n_features(), self.features.n_samples())?;
        Ok(Box::new(StreamedStepper { session: self, state: start.clone(), heads: heads.to_vec(), batch_size }))
    }

    fn loss<'s>(&'s mut self, shape: Shape) -> Result<Box<dyn Loss + 's>> {
        check::shape(shape, self.features.n_features())?;
        check::supervision(shape, self.supervision, self.features.n_samples())?;
        // Logits of the point and of the direction, and the residual.
        let parts = self.parts(3 * size_of::<f64>() * shape.n_outputs(), 1);
        Ok(Box::new(StreamedLoss { session: self, shape, parts, point: Vec::new(), direction: Vec::new() }))
    }
}

struct StreamedStepper<'s> {
    session: &'s Streamed<'s>,
    state: State,
    heads: Vec<Head>,
    batch_size: usize,
}

impl Stepper for StreamedStepper<'_> {
    fn run(&mut self, plan: &Plan, rates: &[f32]) -> Result<Vec<f64>> {
        let Self { session, state, heads, batch_size } = self;
        check::plan(plan, rates, &session.chunks, *batch_size)?;
        let mut losses = vec![0.0; heads.len()];
        // Batches of the same chunk that follow each other.
        let runs: Vec<&[Batch]> = plan.batches.chunk_by(|a, b| a.chunk == b.chunk).collect();
        let rows: Vec<_> = runs.iter().map(|run| plan.rows_of(&session.chunks[run[0].chunk])).collect();
        let mut rates = rates;
        session.each(&rows, |index, of_chunk| {
            let run = runs[index];
            let (now, later) = rates.split_at(run.len());
            rates = later;
            let chunk = run[0].chunk;
            let first = session.chunks[chunk].start;
            let orders = vec![plan.orders[chunk].clone()];
            let batches = run.iter().map(|batch| Batch { chunk: 0, start: batch.start - first, ..*batch });
            let plan = Plan { orders, batches: batches.collect(), blocks: None };
            let mut stepper = of_chunk.stepper(state, heads, *batch_size)?;
            losses.iter_mut().zip(stepper.run(&plan, now)?).for_each(|(sum, loss)| *sum += loss);
            *state = stepper.state()?;
            Ok(())
        })?;
        Ok(losses)
    }

    fn kernel_times(&mut self, _: &Plan, _: &[f32]) -> Result<Vec<(&'static str, Duration)>> {
        Ok(Vec::new())
    }

    fn parameters(&mut self) -> Result<Parameters> {
        Ok(self.state.parameters.clone())
    }

    fn state(&mut self) -> Result<State> {
        Ok(self.state.clone())
    }
}

/// The loss as a sum over parts. It keeps no logits: an evaluation goes to a point once more, with the two products that take as
/// long as those along a direction; only several points of a line at once take more.
struct StreamedLoss<'s> {
    session: &'s Streamed<'s>,
    shape: Shape,
    parts: Vec<Range<usize>>,
    point: Vec<f64>,
    direction: Vec<f64>,
}

impl StreamedLoss<'_> {
    /// Calls `work` with the loss over each part and the part's share of the weights; parts without weight are left out.
    fn each(&self, mut work: impl FnMut(f64, &mut dyn Loss) -> Result<()>) -> Result<()> {
        let parts: Vec<_> =
            self.parts.iter().filter(|rows| self.session.weight_of((*rows).clone()) > 0.0).cloned().collect();
        self.session.each(&whole(&parts), |part, session| {
            let share = self.session.weight_of(parts[part].clone()) / self.session.total_weight;
            work(share, &mut *session.loss(self.shape)?)
        })
    }

    /// The point at the lengths `t`.
    fn at(&self, t: &[f64]) -> Vec<f64> {
        let q = self.shape.n_classes;
        let mut point = self.point.clone();
        // The columns of a head in one row after the other.
        let rows = point.chunks_exact_mut(q).zip(self.direction.chunks_exact(q));
        for ((row, direction), t) in rows.zip(t.iter().cycle()) {
            row.iter_mut().zip(direction).for_each(|(w, d)| *w += t * d);
        }
        point
    }

    /// Loss and gradient at `parameters`, slopes along the direction.
    fn evaluate(&self, parameters: &[f64]) -> Result<Evaluation> {
        let Shape { n_classes: q, n_heads, .. } = self.shape;
        let mut sum = Evaluation { point: Point::zeros(n_heads), gradient: vec![0.0; self.shape.n_parameters()] };
        self.each(|share, loss| {
            let of_part = loss.start(parameters)?;
            let losses = sum.point.losses.iter_mut().zip(&of_part.point.losses);
            losses.for_each(|(sum, loss)| *sum += share * loss);
            sum.gradient.iter_mut().zip(&of_part.gradient).for_each(|(sum, g)| *sum += share * g);
            Ok(())
        })?;
        for (index, (g, d)) in sum.gradient.chunks_exact(q).zip(self.direction.chunks_exact(q)).enumerate() {
            sum.point.slopes[index % n_heads] += g.iter().zip(d).map(|(g, d)| g * d).sum::<f64>();
        }
        Ok(sum)
    }
}

impl Loss for StreamedLoss<'_> {
    fn is_double(&self) -> bool {
        self.session.backend.info().kind == DeviceKind::Cpu
    }

    fn keeps_logits(&self) -> bool {
        false
    }

    fn start(&mut self, parameters: &[f64]) -> Result<Evaluation> {
        check::values_of(self.shape, parameters)?;
        self.point = parameters.to_vec();
        self.direction.clear();
        self.evaluate(parameters)
    }

    fn look(&mut self, direction: &[f64], t: &[f64]) -> Result<Evaluation> {
        check::lengths(self.shape, 1, t)?;
        self.aim(direction)?;
        self.gradient(t)
    }

    fn aim(&mut self, direction: &[f64]) -> Result<()> {
        check::values_of(self.shape, direction)?;
        self.direction = direction.to_vec();
        Ok(())
    }

    fn gradient(&mut self, t: &[f64]) -> Result<Evaluation> {
        check::lengths(self.shape, 1, t)?;
        self.evaluate(&self.at(t))
    }

    fn along(&mut self, t: &[f64]) -> Result<Vec<Point>> {
        let n_heads = self.shape.n_heads;
        let n_points = t.len() / n_heads;
        check::lengths(self.shape, n_points, t)?;
        match n_points {
            0 => return Ok(Vec::new()),
            1 => return Ok(vec![self.gradient(t)?.point]),
            _ => {}
        }
        let mut points = vec![Point::zeros(n_heads); n_points];
        self.each(|share, loss| {
            loss.start(&self.point)?;
            loss.look(&self.direction, &t[..n_heads])?;
            for (sum, point) in points.iter_mut().zip(loss.along(t)?) {
                sum.losses.iter_mut().zip(&point.losses).for_each(|(sum, loss)| *sum += share * loss);
                sum.slopes.iter_mut().zip(&point.slopes).for_each(|(sum, slope)| *sum += share * slope);
            }
            Ok(())
        })?;
        Ok(points)
    }

    fn advance(&mut self, t: &[f64]) -> Result<()> {
        check::lengths(self.shape, 1, t)?;
        self.point = self.at(t);
        Ok(())
    }

    fn hessian_vector(&mut self, vector: &[f64]) -> Result<Vec<f64>> {
        check::values_of(self.shape, vector)?;
        let mut sum = vec![0.0; self.shape.n_parameters()];
        self.each(|share, loss| {
            loss.start(&self.point)?;
            sum.iter_mut().zip(loss.hessian_vector(vector)?).for_each(|(sum, value)| *sum += share * value);
            Ok(())
        })?;
        Ok(sum)
    }
}
