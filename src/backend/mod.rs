//! Where arithmetic happens: on the CPU ([`cpu`]) or on a GPU (`gpu`), behind two seams.
//!
//! A [`Backend`] takes features and targets in and gives a [`Session`], in which they stay where the arithmetic is.
//! A session computes logits, and starts a [`Stepper`], the seam of the stochastic solvers: many optimizer steps from a
//! plan, the loss once; or a [`Loss`], the seam of the batch solvers: value and gradient over all samples, and along a line.
//!
//! This module is public for benchmarks and tests of single kernels; it is not covered by semantic versioning. Users
//! need [`Device`](crate::Device) alone.

mod check;
pub mod cpu;
mod device;
#[cfg(feature = "gpu")]
pub mod gpu;
mod streamed;
#[cfg(test)]
mod tests;
mod weights;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rayon::prelude::*;

pub use device::{Device, DeviceInfo, DeviceKind, DeviceOptions};
pub(crate) use streamed::part_bytes;
pub use weights::{Factored, Weights};

use crate::batch::Plan;
use crate::data::{Features, Targets, argmax};
use crate::error::Result;
use crate::structure::Factors;

/// The sizes of a linear map from features to logits: h heads of q classes stand side by side as h·q columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// n_features, d.
    pub n_features: usize,
    /// n_classes, q.
    pub n_classes: usize,
    /// n_heads, h.
    pub n_heads: usize,
}

impl Shape {
    /// Columns of W: h·q. Column `head · q + class`.
    pub fn n_outputs(&self) -> usize {
        self.n_heads * self.n_classes
    }

    /// Values of W and b together: (d + 1)·h·q.
    pub fn n_parameters(&self) -> usize {
        (self.n_features + 1) * self.n_outputs()
    }
}

/// The parameters of h heads: W, (d × h·q) row-major, and below it the intercept b as row d. The intercept is the weight
/// of a constant feature 1, so that one product gives the gradient of both.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// The sizes.
    pub shape: Shape,
    /// (d + 1) × (h·q) values.
    pub values: Vec<f32>,
}

impl Parameters {
    /// All zero: every class equally likely.
    pub fn zeros(shape: Shape) -> Self {
        Self { shape, values: vec![0.0; shape.n_parameters()] }
    }

    /// W, (d × h·q) row-major.
    pub fn weights(&self) -> &[f32] {
        &self.values[..self.shape.n_features * self.shape.n_outputs()]
    }

    /// b, (h·q).
    pub fn bias(&self) -> &[f32] {
        &self.values[self.shape.n_features * self.shape.n_outputs()..]
    }
}

/// Where a [`Stepper`] stands: all that it needs to go on to the same bits.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// As they are now.
    pub parameters: Parameters,
    /// Of structured weights, of one head, what the parameters are made of; it is these that are trained.
    pub factors: Option<Factors>,
    /// What the rule keeps of each parameter, [`Rule::n_moments`] × (d + 1) × (h·q), or of each of the factors: all first moments, laid
    /// out as the parameters or factors, then all second. Empty: zeros.
    pub moments: Vec<f32>,
    /// Steps done.
    pub n_steps: u64,
}

impl From<Parameters> for State {
    /// Before the first step.
    fn from(parameters: Parameters) -> Self {
        Self { parameters, factors: None, moments: Vec::new(), n_steps: 0 }
    }
}

impl State {
    /// What is trained: the factors, or W and b.
    pub(crate) fn into_weights(self) -> Weights {
        self.factors.map_or_else(|| self.parameters.into(), Weights::from)
    }
}

/// How a stochastic solver trains one head, from the gradient g = ∂loss + l2·W (the intercept without penalty).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head {
    /// Step size; each step may scale it.
    pub learning_rate: f32,
    /// Penalty (l2/2)·‖W‖².
    pub l2: f32,
    /// Whether b is trained; otherwise it stays as it is, as if its gradient were 0.
    pub intercept: bool,
    /// What is done with the gradient.
    pub rule: Rule,
}

impl Head {
    /// The head of a step that changes nothing, and leaves the gradient, that of the l2 penalty included, in the place of the first moments.
    pub(crate) fn for_gradient(self) -> Self {
        Self { learning_rate: 0.0, rule: Rule::Momentum { momentum: 0.0, nesterov: false }, ..self }
    }
}

/// What a stochastic solver does with the gradient g of a head, η its learning rate. All heads of a run have the same kind
/// of rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Gradient descent with momentum: v ← momentum·v + g; W ← W − η·v, or with Nesterov's momentum W ← W − η·(g +
    /// momentum·v). This is PyTorch's convention.
    Momentum {
        /// Share of the velocity v that a step keeps, 0 ≤ momentum < 1.
        momentum: f32,
        /// Nesterov's momentum.
        nesterov: bool,
    },
    /// AdamW (Loshchilov and Hutter 2019, "Decoupled weight decay regularization"), in step t: m ← β₁·m + (1 − β₁)·g;
    /// s ← β₂·s + (1 − β₂)·g²; W ← W − η·(m̂/(√ŝ + ε) + λ·W), m̂ = m/(1 − β₁ᵗ), ŝ = s/(1 − β₂ᵗ) (Kingma and Ba 2015, "Adam").
    /// The intercept does not decay. All heads of a run have the same β.
    AdamW {
        /// β₁, 0 ≤ β₁ < 1.
        beta_1: f32,
        /// β₂, 0 ≤ β₂ < 1.
        beta_2: f32,
        /// ε > 0.
        epsilon: f32,
        /// λ, the decoupled weight decay.
        weight_decay: f32,
    },
}

impl Rule {
    /// Values that are kept of each parameter from one step to the next: v, or m and s.
    pub fn n_moments(self) -> usize {
        match self {
            Self::Momentum { .. } => 1,
            Self::AdamW { .. } => 2,
        }
    }

    /// 1/(1 − βᵗ) for β₁ and β₂ in step t, which counts from 1; in `f64`, since of 1 − 0.999 single precision knows four
    /// digits.
    pub(crate) fn bias_corrections(self, t: u64) -> [f32; 2] {
        match self {
            Self::Momentum { .. } => [1.0; 2],
            Self::AdamW { beta_1, beta_2, .. } => {
                [beta_1, beta_2].map(|beta| (1.0 / (1.0 - f64::from(beta).powf(t as f64))) as f32)
            }
        }
    }

    /// Whether heads with these rules can be trained together.
    fn suits(self, other: Self) -> bool {
        match (self, other) {
            (Self::Momentum { .. }, Self::Momentum { .. }) => true,
            (Self::AdamW { beta_1, beta_2, .. }, Self::AdamW { beta_1: other_1, beta_2: other_2, .. }) => {
                (beta_1, beta_2) == (other_1, other_2)
            }
            _ => false,
        }
    }
}

/// What makes the step sizes of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepFactors {
    /// Multiplies the heads' learning rates.
    pub rate: f32,
    /// [`Rule::bias_corrections`].
    pub corrections: [f32; 2],
}

impl StepFactors {
    /// Of step t, which counts from 1; all `heads` have rules that suit each other.
    pub(crate) fn new(rate: f32, heads: &[Head], t: u64) -> Self {
        Self { rate, corrections: heads.first().map_or([1.0; 2], |head| head.rule.bias_corrections(t)) }
    }
}

/// Receives logits block after block: the rows of the feature matrix, and their logits (rows × h·q, row-major).
pub type Sink<'s> = dyn FnMut(Range<usize>, &[f32]) -> Result<()> + 's;

/// What a device can do at most, as measured: what benchmarks compare kernels with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Bytes a second read from memory that is larger than the caches.
    pub read_bytes: f64,
    /// Floating point operations a second: fused multiplications and additions of `f32` in registers, two each.
    pub flops: f64,
    /// The time that a kernel takes which does next to nothing and waits for the one before it; none where there are no
    /// dispatches.
    pub dispatch: Option<Duration>,
}

/// Takes the first of some rows, and their logits (rows × h·q, row-major), which it may change.
pub type Finish<'f> = dyn Fn(usize, &mut [f32]) + Sync + 'f;

/// Takes the number of a head, and a backend for it.
pub type OfHead<'w> = dyn Fn(usize, Arc<dyn Backend>) + Sync + 'w;

/// In the place of a class: a logit is not finite.
pub const NOT_FINITE: u32 = u32::MAX;

/// Logits that are worth a thread.
const PARALLEL: usize = 1 << 14;

/// What training knows of the samples beside their features.
#[derive(Debug, Clone, Copy)]
pub struct Supervision<'a> {
    /// The target of each sample.
    pub targets: &'a Targets<'a>,
    /// How much each sample counts: at least 0, 1 in the mean. Without, all count the same.
    pub weights: Option<&'a [f32]>,
}

impl<'a> From<&'a Targets<'a>> for Supervision<'a> {
    fn from(targets: &'a Targets<'a>) -> Self {
        Self { targets, weights: None }
    }
}

/// A place where arithmetic happens.
pub trait Backend: Send + Sync {
    /// What it is, for people.
    fn info(&self) -> &DeviceInfo;

    /// Whether steps with that many outputs use matrix units, which may round the factors of products to half precision.
    fn uses_matrix_units(&self, _n_outputs: usize) -> bool {
        false
    }

    /// Measures what the device can do at most; takes about a second.
    fn ceilings(&self) -> Result<Ceilings>;

    /// The most of the rows that a session of these samples can hold in one chunk.
    fn chunk_rows(&self, features: &Features, _supervision: Option<Supervision>) -> usize {
        features.n_samples()
    }

    /// Does the work of `n_heads` heads on a thread each, with a backend whose sessions of these features, each value of which counts
    /// `scale` times, have the passes over them in common: a pass serves all losses of that shape that wait for one, whatever the weights
    /// of their samples, and gives each what one of its own would. No more heads go on at once than have room for their losses in
    /// `memory` bytes. How many passes there were, which with many heads depends on who is late; nothing, and no work is done, where
    /// the backend has none in common.
    fn side_by_side(
        &self,
        _features: &Features,
        _scale: f32,
        _shape: Shape,
        _n_heads: usize,
        _memory: Option<u64>,
        _work: &OfHead,
    ) -> Result<Option<usize>> {
        Ok(None)
    }

    /// Takes the data to where the arithmetic is: features, every value of which counts `scale` times, and for training
    /// what is known of the samples.
    fn session<'a>(
        &'a self,
        features: &'a Features<'a>,
        scale: f32,
        supervision: Option<Supervision<'a>>,
    ) -> Result<Box<dyn Session + 'a>>;
}

/// A feature matrix X̃ = scale·X with its targets, where the arithmetic is.
pub trait Session {
    /// The ranges of rows that are held separately, without a gap from 0 on; a batch never straddles two.
    fn chunks(&self) -> &[Range<usize>];

    /// Where only one chunk is at hand at a time, how many rows that follow each other are best read together: for
    /// [`Plan::by_chunk`].
    fn block_rows(&self) -> Option<usize> {
        None
    }

    /// Logits O = X̃·W + b of all rows, block after block in the order of the rows.
    fn logits(&mut self, parameters: &Parameters, sink: &mut Sink) -> Result<()>;

    /// Logits of all rows into `out`, (n × h·q) row-major. `finish` is called for disjoint ranges of whole rows, each row
    /// once, in any order, on whichever thread has them in its cache.
    fn logits_into(&mut self, parameters: &Parameters, out: &mut [f32], finish: &Finish) -> Result<()> {
        check::logits(parameters.shape, n_samples(self.chunks()), out)?;
        let m = parameters.shape.n_outputs();
        self.logits(parameters, &mut |rows, logits| {
            let out = &mut out[rows.start * m..rows.end * m];
            let n_rows = (PARALLEL / m).max(1);
            let portions = out.par_chunks_mut(n_rows * m).zip(logits.par_chunks(n_rows * m)).enumerate();
            portions.for_each(|(index, (out, logits))| {
                out.copy_from_slice(logits);
                finish(rows.start + index * n_rows, out);
            });
            Ok(())
        })
    }

    /// For each row and head, (n × h), the most probable class, the first among equals; [`NOT_FINITE`] when a logit of
    /// that row and head is not finite.
    fn classes(&mut self, parameters: &Parameters, into: &mut [u32]) -> Result<()> {
        check::classes(parameters.shape, n_samples(self.chunks()), into)?;
        let Shape { n_classes, n_heads, .. } = parameters.shape;
        self.logits(parameters, &mut |rows, logits| {
            let into = &mut into[rows.start * n_heads..rows.end * n_heads];
            let n = (PARALLEL / n_classes).max(1);
            into.par_chunks_mut(n).zip(logits.par_chunks(n * n_classes)).for_each(|(into, logits)| {
                for (class, logits) in into.iter_mut().zip(logits.chunks_exact(n_classes)) {
                    let is_finite = logits.iter().all(|logit| logit.is_finite());
                    *class = if is_finite { argmax(logits) as u32 } else { NOT_FINITE };
                }
            });
            Ok(())
        })
    }

    /// Prepares to run optimizer steps from `start`, one [`Head`] for each of its heads, in batches of at most
    /// `batch_size` samples. A session without targets has none: an error.
    fn stepper<'s>(&'s mut self, start: &State, heads: &[Head], batch_size: usize) -> Result<Box<dyn Stepper + 's>>;

    /// Prepares to evaluate the loss of heads of that shape. A session without targets has none: an error.
    fn loss<'s>(&'s mut self, shape: Shape) -> Result<Box<dyn Loss + 's>>;

    /// Tries out the ways in which the steps of [`Session::stepper`] can be computed, and keeps the fastest for those to
    /// come, of this and of similar sizes. What was tried, the one that is kept last; nothing where there is only one way.
    fn tune(&mut self, start: &Parameters, heads: &[Head], batch_size: usize) -> Result<Vec<Tried>> {
        let _ = (start, heads, batch_size);
        Ok(Vec::new())
    }
}

/// A way to compute a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// For people.
    pub choice: String,
    /// The time of a step.
    pub step: Duration,
}

fn n_samples(chunks: &[Range<usize>]) -> usize {
    chunks.last().map_or(0, |chunk| chunk.end)
}

/// The seam of the batch solvers: the loss L(W) = Σ_i s_i·ℓ_i of each head over all samples, in nats, s the weights of the
/// samples over their sum, without penalty.
///
/// It keeps the logits Z = X̃·W + b of a point and those of a direction D from there, Zₚ = X̃·D, so that evaluations on the
/// line Z + t·Zₚ take no product with X̃. Parameters, directions and gradients are laid out as [`Parameters::values`], the
/// intercept as the weight of a constant feature 1; on the host they are in `f64`. A length t is given for each head. A
/// direction must have been given before a length other than 0 is.
pub trait Loss {
    /// Whether the arithmetic is in double precision, from the next [`Loss::start`] on.
    fn is_double(&self) -> bool;

    /// Whether products may be in single precision from the next [`Loss::start`] on: in drafts, far from the minimum. At first they
    /// may not. Answers whether that changes anything, so that there must be a start.
    fn set_draft(&mut self, _is_draft: bool) -> bool {
        false
    }

    /// Whether logits are kept, so that points along a line take no product and a gradient only one. Otherwise each of them is an
    /// evaluation anew.
    fn keeps_logits(&self) -> bool {
        true
    }

    /// Goes to `parameters`; there is no direction then. Two products and one readback.
    fn start(&mut self, parameters: &[f64]) -> Result<Evaluation>;

    /// Takes a direction from the present point, and evaluates at the lengths `t`. Two products and one readback.
    fn look(&mut self, direction: &[f64], t: &[f64]) -> Result<Evaluation>;

    /// Takes a direction from the present point, of which lengths are tried before a gradient is taken: one product, no readback.
    fn aim(&mut self, direction: &[f64]) -> Result<()>;

    /// Evaluates at the lengths `t`: one product and one readback.
    fn gradient(&mut self, t: &[f64]) -> Result<Evaluation>;

    /// Losses and slopes at k points, whose lengths are in `t`, (k × h): no product, one readback.
    fn along(&mut self, t: &[f64]) -> Result<Vec<Point>>;

    /// Adds a value for each class to all logits, at a point without a direction, and gives loss and ∂b there: no product with
    /// the features, and one readback. Nothing where the backend has only [`Loss::start`] for it.
    fn shift(&mut self, _intercept: &[f64]) -> Result<Option<(Point, Vec<f64>)>> {
        Ok(None)
    }

    /// The product of the Hessian of the loss over the intercept alone, at the present point, with a value v for each class:
    /// Σ_i s_i·p_i ⊙ (v − Σ_j p_ij·v_j), (h·q). No product with the features, and one readback; nothing where [`Loss::shift`] has
    /// nothing.
    fn shift_curvature(&mut self, _vector: &[f64]) -> Result<Option<Vec<f64>>> {
        Ok(None)
    }

    /// Goes to the lengths `t`, that is, Z ← Z + t·Zₚ. The direction stays, lengths count from the new point. No
    /// readback.
    fn advance(&mut self, t: &[f64]) -> Result<()>;

    /// The product of the Hessian of the loss at the present point with `vector`: X̃ᵀ·(s ⊙ P ⊙ (V − Σ_j p_j·v_j)), V = X̃·vector,
    /// by row and head. Two products and one readback.
    fn hessian_vector(&mut self, vector: &[f64]) -> Result<Vec<f64>>;

    /// Does work that is no pass on all threads there are: a loss that has its passes in common with others may have one of them to itself
    /// beside.
    fn on_all_threads(&self, work: &mut (dyn FnMut() + Send)) {
        work();
    }
}

/// Loss and slope of each head at a point of a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// L, (h).
    pub losses: Vec<f64>,
    /// dL/dt = Σ_i s_i·(P − Y)·Zₚ, (h); 0 without a direction.
    pub slopes: Vec<f64>,
}

impl Point {
    /// No loss and no slope.
    fn zeros(n_heads: usize) -> Self {
        Self { losses: vec![0.0; n_heads], slopes: vec![0.0; n_heads] }
    }
}

/// What [`Loss`] finds at a point.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Loss and slope.
    pub point: Point,
    /// ∂L, laid out as the parameters.
    pub gradient: Vec<f64>,
}

/// The seam of the stochastic solvers.
pub trait Stepper {
    /// Runs one optimizer step for each batch of `plan`, with the heads' learning rates times `rates[step]`. Returns
    /// for each head the sum over all samples of the plan of the loss (nats, without penalty), each as it was before
    /// the step that the sample was part of.
    fn run(&mut self, plan: &Plan, rates: &[f32]) -> Result<Vec<f64>>;

    /// The time that each kernel takes, by name, in the steps of `plan` with the heads' learning rates times `rates`, as
    /// measured by the device's own clock; nothing where there is no such clock or no kernels.
    fn kernel_times(&mut self, plan: &Plan, rates: &[f32]) -> Result<Vec<(&'static str, Duration)>>;

    /// The parameters as they are now.
    fn parameters(&mut self) -> Result<Parameters>;

    /// Where it stands: another stepper from there, with the same heads on the same data and device, makes of the same plans
    /// the same bits.
    fn state(&mut self) -> Result<State>;
}
