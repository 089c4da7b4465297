//! What training minimises: J = L + Σ_k (l2_k/2)·‖W_k‖² + Σ_k l1_k·‖W_k‖₁, L the weighted mean of the loss.
//!
//! The loss of a sample is ℓ = log Σ_k exp(o_k) − Σ_j y_j·o_j (cross-entropy, in nats). W_k is the row of W of feature k; the
//! intercept is never penalised. scikit-learn's C and l1_ratio r correspond to l2 = (1 − r)/(C·n), for two classes twice that, and
//! l1 = r/(C·n), n the samples, with weights their sum.
//!
//! [`Objective`] is what batch solvers minimise: loss and penalty, on the host in `f64`, in coordinates in which the features
//! have mean 0. The features themselves are never changed: with X̃ − 1·μᵀ in the place of X̃ the logits are the same for the
//! intercept b̃ = b + Wᵀμ, the gradient is ∂W − μ·∂bᵀ, and W and intercept no longer pull at each other.

use crate::backend::{Evaluation, Loss, Parameters, Point, Shape};
use crate::error::Result;

/// What scikit-learn's C makes penalties of: n, the samples trained on or the sum of their weights, and the classes of the model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TrainingSize {
    pub n: f64,
    pub n_classes: usize,
}

impl TrainingSize {
    /// l2 and l1 of a penalty of this strength λ = 1/(C·n) and share of l1 as scikit-learn has them. For two classes it has one column v in
    /// the place of W = (−v/2, v/2), and ‖v‖² is 2·‖W‖².
    pub fn penalties(self, strength: f64, l1_ratio: f64) -> (f64, f64) {
        let n_columns = if self.n_classes == 2 { 2.0 } else { 1.0 };
        (n_columns * (1.0 - l1_ratio) * strength, l1_ratio * strength)
    }
}

/// The penalty of the weights of each feature of X̃.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Penalty {
    /// l2_k, (d).
    pub l2: Vec<f64>,
    /// l1_k, (d).
    pub l1: Vec<f64>,
}

impl Penalty {
    /// The same for the weights of each of d features.
    pub fn uniform(l2: f64, l1: f64, d: usize) -> Self {
        Self { l2: vec![l2; d], l1: vec![l1; d] }
    }

    /// Times a factor for each feature: f_k, and for standardised features, whose weights are σ_k·W_k, σ_k² of l2 and σ_k of l1.
    pub fn times(mut self, factors: Option<&[f64]>, deviations: Option<&[f64]>) -> Self {
        for (k, (l2, l1)) in self.l2.iter_mut().zip(&mut self.l1).enumerate() {
            let factor = factors.map_or(1.0, |factors| factors[k]);
            let deviation = deviations.map_or(1.0, |deviations| deviations[k]);
            *l2 *= factor * deviation * deviation;
            *l1 *= factor * deviation;
        }
        self
    }

    /// Its value for parameters of a single model, the intercept left out.
    pub fn of(&self, parameters: &Parameters) -> f64 {
        let weights: Vec<f64> = parameters.weights().iter().map(|&w| w.into()).collect();
        let m = parameters.shape.n_outputs();
        0.5 * self.product(&weights, &weights, m) + self.l1_norm(&weights, m)
    }

    /// Σ_k l1_k·‖W_k‖₁ of parameters with m outputs.
    pub fn l1_norm(&self, parameters: &[f64], m: usize) -> f64 {
        let rows = parameters.chunks_exact(m).zip(&self.l1);
        rows.map(|(row, l1)| l1 * row.iter().map(|w| w.abs()).sum::<f64>()).sum()
    }

    /// Whether there is an l1 penalty.
    pub fn has_l1(&self) -> bool {
        self.l1.iter().any(|&l1| l1 > 0.0)
    }

    /// Σ_k l2_k·⟨A_k, B_k⟩.
    fn product(&self, a: &[f64], b: &[f64], m: usize) -> f64 {
        let rows = a.chunks_exact(m).zip(b.chunks_exact(m)).zip(&self.l2);
        rows.map(|((a, b), l2)| l2 * a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>()).sum()
    }

    /// `gradient` + l2·W.
    pub fn add_gradient(&self, gradient: &mut [f64], parameters: &[f64], m: usize) {
        for ((g, w), l2) in gradient.chunks_exact_mut(m).zip(parameters.chunks_exact(m)).zip(&self.l2) {
            g.iter_mut().zip(w).for_each(|(g, w)| *g += l2 * w);
        }
    }
}

/// How much was computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Products X̃·W and X̃ᵀ·R over all samples.
    pub products: usize,
    /// Losses computed on cached logits, for a length each, without a product.
    pub along: usize,
}

impl Counts {
    /// Passes over all samples, each of a product X̃·W and one X̃ᵀ·R.
    pub fn evaluations(self) -> f64 {
        self.products as f64 / 2.0
    }
}

/// Value, slope and gradient of the smooth part of the objective, without the l1 penalty.
#[derive(Debug, Clone)]
pub(crate) struct Smooth {
    pub value: f64,
    /// Along the present direction.
    pub slope: f64,
    /// In centred coordinates, laid out as the parameters.
    pub gradient: Vec<f64>,
}

/// The objective of a single model, (d + 1) × q parameters.
pub(crate) struct Objective<'a> {
    loss: Box<dyn Loss + 'a>,
    shape: Shape,
    penalty: Penalty,
    /// μ, (d); zeros without an intercept, which then stays 0.
    mean: Vec<f64>,
    has_intercept: bool,
    /// ⟨W, W⟩, ⟨W, D⟩ and ⟨D, D⟩ in the metric of l2: the penalty along the direction.
    products: [f64; 3],
    counts: Counts,
}

impl<'a> Objective<'a> {
    /// `mean`: μ of the features of X̃, when there is an intercept.
    pub fn new(loss: Box<dyn Loss + 'a>, shape: Shape, penalty: Penalty, mean: Option<Vec<f64>>) -> Self {
        let has_intercept = mean.is_some();
        let mean = mean.unwrap_or_else(|| vec![0.0; shape.n_features]);
        Self { loss, shape, penalty, mean, has_intercept, products: [0.0; 3], counts: Counts::default() }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn penalty(&self) -> &Penalty {
        &self.penalty
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// μ of the features, (d); zeros without an intercept.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Does work beside the loss on all threads there are.
    pub fn on_all_threads<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Option<R> {
        let (mut work, mut result) = (Some(work), None);
        self.loss.on_all_threads(&mut || result = work.take().map(|work| work()));
        result
    }

    /// Counts work that takes as long as so many products.
    pub fn count_products(&mut self, n: usize) {
        self.counts.products += n;
    }

    /// Goes on counting from there.
    pub fn count_from(&mut self, counts: Counts) {
        self.counts = counts;
    }

    pub fn is_double(&self) -> bool {
        self.loss.is_double()
    }

    pub fn keeps_logits(&self) -> bool {
        self.loss.keeps_logits()
    }

    /// Whether products may be in single precision from the next start on, far from the minimum; says whether that changes anything.
    pub fn set_draft(&mut self, is_draft: bool) -> bool {
        self.loss.set_draft(is_draft)
    }

    pub fn has_intercept(&self) -> bool {
        self.has_intercept
    }

    /// Values of W.
    fn n_weights(&self) -> usize {
        self.shape.n_features * self.shape.n_outputs()
    }

    /// Parameters or a direction in centred coordinates as they are without: b = b̃ − Wᵀμ.
    pub fn uncentred(&self, values: &[f64]) -> Vec<f64> {
        let m = self.shape.n_outputs();
        let mut values = values.to_vec();
        let (weights, bias) = values.split_at_mut(self.n_weights());
        for (row, mean) in weights.chunks_exact(m).zip(&self.mean) {
            bias.iter_mut().zip(row).for_each(|(b, w)| *b -= mean * w);
        }
        values
    }

    /// Parameters in centred coordinates as they are without, in single precision: b = b̃ − Wᵀμ of the rounded W, so that the
    /// logits of an average sample stay what they are.
    pub fn single(&self, values: &[f64]) -> Parameters {
        let n_weights = self.n_weights();
        let mut rounded = values.to_vec();
        rounded[..n_weights].iter_mut().for_each(|w| *w = f64::from(*w as f32));
        let values = self.uncentred(&rounded).into_iter().map(|value| value as f32).collect();
        Parameters { shape: self.shape, values }
    }

    /// Parameters in centred coordinates: b̃ = b + Wᵀμ.
    pub fn centred(&self, values: &[f64]) -> Vec<f64> {
        let m = self.shape.n_outputs();
        let mut values = values.to_vec();
        let (weights, bias) = values.split_at_mut(self.n_weights());
        for (row, mean) in weights.chunks_exact(m).zip(&self.mean) {
            bias.iter_mut().zip(row).for_each(|(b, w)| *b += mean * w);
        }
        values
    }

    /// A gradient in centred coordinates: ∂W − μ·∂bᵀ; of an intercept that is none, 0.
    fn centred_gradient(&self, mut gradient: Vec<f64>) -> Vec<f64> {
        let m = self.shape.n_outputs();
        let (weights, bias) = gradient.split_at_mut(self.n_weights());
        for (row, mean) in weights.chunks_exact_mut(m).zip(&self.mean) {
            row.iter_mut().zip(&*bias).for_each(|(w, b)| *w -= mean * b);
        }
        if !self.has_intercept {
            bias.fill(0.0);
        }
        gradient
    }

    /// Value and slope of the penalty at length `t`.
    fn penalty_at(&self, t: f64) -> (f64, f64) {
        let [ww, wd, dd] = self.products;
        (0.5 * (ww + t * (2.0 * wd + t * dd)), wd + t * dd)
    }

    /// From what was found at length `t` from `parameters` along `direction`.
    fn smooth(&self, evaluation: Evaluation, parameters: &[f64], direction: &[f64], t: f64) -> Smooth {
        let (value, slope) = self.penalty_at(t);
        let Point { losses, slopes } = evaluation.point;
        let m = self.shape.n_outputs();
        let mut gradient = self.centred_gradient(evaluation.gradient);
        self.penalty.add_gradient(&mut gradient, parameters, m);
        if t != 0.0 {
            for ((g, d), l2) in gradient.chunks_exact_mut(m).zip(direction.chunks_exact(m)).zip(&self.penalty.l2) {
                g.iter_mut().zip(d).for_each(|(g, d)| *g += t * l2 * d);
            }
        }
        Smooth { value: losses[0] + value, slope: slopes[0] + slope, gradient }
    }

    /// Goes to `parameters`: two products.
    pub fn start(&mut self, parameters: &[f64]) -> Result<Smooth> {
        let m = self.shape.n_outputs();
        self.products = [self.penalty.product(parameters, parameters, m), 0.0, 0.0];
        self.counts.products += 2;
        let evaluation = self.loss.start(&self.uncentred(parameters))?;
        Ok(self.smooth(evaluation, parameters, &[], 0.0))
    }

    /// Adds to the intercept of the present point, where no direction was taken: value and gradient of the intercept, for no
    /// product; nothing where the backend cannot.
    pub fn shift(&mut self, intercept: &[f64]) -> Result<Option<(f64, Vec<f64>)>> {
        self.counts.along += 1;
        let (value, _) = self.penalty_at(0.0);
        Ok(self.loss.shift(intercept)?.map(|(point, gradient)| (point.losses[0] + value, gradient)))
    }

    /// The product of the Hessian over the intercept, at the present point, with a value for each class, for no product with the
    /// features; nothing where the backend cannot.
    pub fn shift_curvature(&mut self, vector: &[f64]) -> Result<Option<Vec<f64>>> {
        self.counts.along += 1;
        self.loss.shift_curvature(vector)
    }

    fn set_direction(&mut self, parameters: &[f64], direction: &[f64]) {
        let m = self.shape.n_outputs();
        let product = |a, b| self.penalty.product(a, b, m);
        self.products =
            [product(parameters, parameters), product(parameters, direction), product(direction, direction)];
    }

    /// Takes a direction from the present point, `parameters`: one product, where logits are kept.
    pub fn aim(&mut self, parameters: &[f64], direction: &[f64]) -> Result<()> {
        self.set_direction(parameters, direction);
        self.counts.products += usize::from(self.loss.keeps_logits());
        self.loss.aim(&self.uncentred(direction))
    }

    /// Takes a direction from the present point, `parameters`, and evaluates at length `t`: two products.
    pub fn look(&mut self, parameters: &[f64], direction: &[f64], t: f64) -> Result<Smooth> {
        self.set_direction(parameters, direction);
        self.counts.products += 2;
        let evaluation = self.loss.look(&self.uncentred(direction), &[t])?;
        Ok(self.smooth(evaluation, parameters, direction, t))
    }

    /// Evaluates at length `t` of the direction that was looked in: one product, where logits are kept.
    pub fn gradient(&mut self, parameters: &[f64], direction: &[f64], t: f64) -> Result<Smooth> {
        self.counts.products += if self.loss.keeps_logits() { 1 } else { 2 };
        let evaluation = self.loss.gradient(&[t])?;
        Ok(self.smooth(evaluation, parameters, direction, t))
    }

    /// Value and slope at each of some lengths: no product, where logits are kept.
    pub fn along(&mut self, lengths: &[f64]) -> Result<Vec<(f64, f64)>> {
        self.counts.along += lengths.len();
        // Without logits, point and direction are computed anew; for one point their sum is.
        self.counts.products += match lengths.len() {
            _ if self.loss.keeps_logits() => 0,
            0 | 1 => 2 * lengths.len(),
            _ => 4,
        };
        let points = self.loss.along(lengths)?;
        let smooth = |(point, &t): (Point, &f64)| {
            let (value, slope) = self.penalty_at(t);
            (point.losses[0] + value, point.slopes[0] + slope)
        };
        Ok(points.into_iter().zip(lengths).map(smooth).collect())
    }

    /// Makes the point at length `t` the present one.
    pub fn advance(&mut self, t: f64) -> Result<()> {
        self.loss.advance(&[t])
    }

    /// The product of the Hessian of the smooth part at the present point with `vector`: two products.
    pub fn hessian_vector(&mut self, vector: &[f64]) -> Result<Vec<f64>> {
        self.counts.products += if self.loss.keeps_logits() { 2 } else { 4 };
        let product = self.loss.hessian_vector(&self.uncentred(vector))?;
        let mut product = self.centred_gradient(product);
        self.penalty.add_gradient(&mut product, vector, self.shape.n_outputs());
        Ok(product)
    }
}
