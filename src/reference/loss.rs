//! The loss over all samples, and along a line: the operations in the order in which a backend runs them.

use super::{
    UNIT_ROUNDOFF, advance, advance_bound, along, along_bound, gradient, gradient_bound, hessian, hessian_bound,
    logits, logits_bound,
};
use crate::backend::Shape;

/// Terms of losses and slopes that are added in single precision one after the other, at most.
const TERMS: f64 = 256.0;

/// The loss of each head over samples, X (n × d), scaled, Y (n × q), weights (n) that sum to 1, at a point and along a
/// direction; with what single precision may be from it: the bounds of the single operations, carried on.
pub struct Loss<'a> {
    x: &'a [f64],
    y: &'a [f64],
    weights: &'a [f64],
    shape: Shape,
    /// Logits of the point and of the direction, with their bounds.
    z: Vec<f64>,
    z_bound: Vec<f64>,
    d: Vec<f64>,
    d_bound: Vec<f64>,
}

/// What [`Loss`] finds, or how far single precision may be from it.
#[derive(Clone)]
pub struct Evaluated {
    /// By head.
    pub losses: Vec<f64>,
    /// By head.
    pub slopes: Vec<f64>,
    /// (d + 1) × (h·q).
    pub gradient: Vec<f64>,
}

impl<'a> Loss<'a> {
    /// At parameters of zero, with a direction of zero.
    pub fn new(x: &'a [f64], y: &'a [f64], weights: &'a [f64], shape: Shape) -> Self {
        let zeros = vec![0.0; weights.len() * shape.n_outputs()];
        let [z_bound, d, d_bound] = [(); 3].map(|()| zeros.clone());
        Self { x, y, weights, shape, z: zeros, z_bound, d, d_bound }
    }

    /// Goes to a point, without a direction.
    pub fn start(&mut self, parameters: &[f64]) {
        self.z = logits(self.x, parameters, self.shape);
        self.z_bound = self.bound_of_logits(parameters);
        self.d.fill(0.0);
        self.d_bound.fill(0.0);
    }

    /// Takes a direction.
    pub fn look(&mut self, direction: &[f64]) {
        self.d = logits(self.x, direction, self.shape);
        self.d_bound = self.bound_of_logits(direction);
    }

    /// Goes along it, by a length for each head.
    pub fn advance(&mut self, t: &[f64]) {
        let abs: Vec<f64> = t.iter().map(|t| t.abs()).collect();
        let own = advance_bound(&self.z, &self.d, t, self.shape);
        self.z_bound = sum(advance(&self.z_bound, &self.d_bound, &abs, self.shape), &own);
        self.z = advance(&self.z, &self.d, t, self.shape);
    }

    /// Loss, slope and gradient at a length for each head, and their bounds.
    pub fn at(&self, t: &[f64]) -> (Evaluated, Evaluated) {
        let ((mut expected, residual), (mut bound, residual_bound)) = self.line(t);
        expected.gradient = gradient(self.x, &residual, self.shape);
        bound.gradient = self.bound_of_gradient(&residual, &residual_bound);
        (expected, bound)
    }

    /// The same without the gradient.
    pub fn point(&self, t: &[f64]) -> (Evaluated, Evaluated) {
        let ((expected, _), (bound, _)) = self.line(t);
        (expected, bound)
    }

    /// Losses and slopes, and the residual; and their bounds.
    fn line(&self, t: &[f64]) -> ((Evaluated, Vec<f64>), (Evaluated, Vec<f64>)) {
        let Self { y, weights, shape, z, z_bound, d, d_bound, .. } = self;
        let found = along(z, d, y, weights, t, *shape);
        let bound = along_bound(z, z_bound, d, d_bound, y, weights, t, *shape);
        let by_head = |values: &[f64], bounds: &[f64]| -> (Vec<f64>, Vec<f64>) {
            let of_head = |head: usize| values.iter().zip(bounds).skip(head).step_by(shape.n_heads);
            (0..shape.n_heads)
                .map(|head| {
                    let sum: f64 = of_head(head).map(|(value, _)| value).sum();
                    (sum, of_head(head).map(|(value, bound)| bound + TERMS * UNIT_ROUNDOFF * value.abs()).sum::<f64>())
                })
                .unzip()
        };
        let (losses, losses_bound) = by_head(&found.losses, &bound.losses);
        let (slopes, slopes_bound) = by_head(&found.slopes, &bound.slopes);
        let gradient = Vec::new;
        (
            (Evaluated { losses, slopes, gradient: gradient() }, found.residual),
            (Evaluated { losses: losses_bound, slopes: slopes_bound, gradient: gradient() }, bound.residual),
        )
    }

    /// The product of the Hessian at the point with a vector, in the place of the gradient, and its bound.
    pub fn hessian_vector(&self, vector: &[f64]) -> (Evaluated, Evaluated) {
        let Self { x, weights, shape, z, z_bound, .. } = self;
        let v = logits(x, vector, *shape);
        let residual = hessian(z, &v, weights, *shape);
        let bound = hessian_bound(z, z_bound, &v, &self.bound_of_logits(vector), weights, *shape);
        let of = |gradient| Evaluated { losses: Vec::new(), slopes: Vec::new(), gradient };
        (of(gradient(x, &residual, *shape)), of(self.bound_of_gradient(&residual, &bound)))
    }

    /// Parameters are rounded, which doubles what a sum of one term has.
    fn bound_of_logits(&self, parameters: &[f64]) -> Vec<f64> {
        logits_bound(self.x, parameters, self.shape).iter().map(|bound| 1.5 * bound).collect()
    }

    fn bound_of_gradient(&self, residual: &[f64], bound: &[f64]) -> Vec<f64> {
        let x: Vec<f64> = self.x.iter().map(|x| x.abs()).collect();
        sum(gradient(&x, bound, self.shape), &gradient_bound(self.x, residual, self.shape))
    }
}

fn sum(a: Vec<f64>, b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
