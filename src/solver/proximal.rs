//! The objective with an l1 penalty: a proximal quasi-Newton method with exact zeros.
//!
//! In each iteration the smooth part is replaced by a quadratic model, g·p + ½·p·B·p, whose minimum with the l1 penalty coordinate
//! descent finds (Lee, Sun and Saunders 2014, "Proximal Newton-type methods for minimizing composite functions"; Friedman, Hastie
//! and Tibshirani 2010, "Regularization paths for generalized linear models via coordinate descent"). B is the limited-memory
//! BFGS matrix in its compact form (Byrd, Nocedal and Schnabel 1994, "Representations of quasi-Newton matrices and their use in
//! limited memory methods"), which begins with B₀ = A ⊗ G + diag(l2): G the covariance of the features, A the mean of
//! diag(p) − p·pᵀ, as in the preconditioner. So a model costs no pass over the samples, and columns may be of any scale.
//!
//! Along a path of penalties the solutions before say which weights will not be zero. Among those B₀ is the Hessian itself
//! ([`Support`]), so that the curvature need not be learned in each fit anew; between them and the others it is 0. It stays from fit
//! to fit, with the pairs, until the evaluations since then have taken a few times as long as another would.

use std::sync::Arc;
use std::time::Instant;

use nalgebra::DMatrix;
use rayon::prelude::*;

use super::minimum::{Learned, Limits, Minimum, Numbers, Observe, end_at_zero};
use super::past::Past;
use super::preconditioner::{ClassSample, Curvature, gram};
use super::screened::Screened;
use super::support::Support;
use super::vector::{add, centre_over_classes, dot, is_positive};
use super::{Progress, StopReason};
use crate::backend::Shape;
use crate::error::{Error, Result};
use crate::objective::{Objective, Penalty, Smooth};

/// More features have a diagonal G, see `screened`.
const MOST_FEATURES: usize = 4096;
/// Multiplications for G, which is taken of fewer rows where all would need more; but of so many rows for each feature.
const GRAM_PRODUCTS: usize = 5_000_000_000;
const GRAM_ROWS: usize = 8;
/// Sweeps of the coordinate descent over all coordinates, and over those that are not zero after each of these.
/// Of the first there are as many as take so many multiplications, but no fewer and no more than these.
const SWEEPS: (usize, usize) = (10, 100);
const SWEEPS_PRODUCTS: usize = 100_000_000;
const SWEEPS_OF_NONZERO: usize = 30;
/// A sweep that changes this share of what the first one did, in the norm of B, is the last.
const LAST_SWEEP: f64 = 1e-3;
/// The share of the decrease that the model promises which a length must bring.
const DECREASE: f64 = 0.01;
/// Lengths tried at most, each half of the one before.
const MOST_LENGTHS: usize = 30;
/// The curvature of the classes is taken anew in each of the first iterations, then every few.
const REFRESHED: usize = 5;
/// So many iterations in a row whose models promise less than this share of the tolerance are the end.
const PROMISES: usize = 3;
const PROMISED_SHARE: f64 = 0.1;
/// The largest derivative that is left, as a share of l1, where there is no other penalty: the duality gap follows it.
const VIOLATION: f64 = 1e-5;
/// More iterations in a row than these that gain less than this share of the tolerance, or find no step, are the end.
const FRUITLESS: usize = 4;
const FRUITLESS_SHARE: f64 = 1e-3;
/// Coordinates whose rows of Q are worth a thread.
const ROWS: usize = 1024;
/// The rows that the Hessian on a path is taken of: those that curve most, as many as have this share of the curvature of all.
const SHARE: f64 = 0.95;
/// It is made anew when the evaluations since have taken so many times the products that it took.
const RENEWED: usize = 2;
/// Weights that are 0 at the start of a fit on a path, but whose derivative is so near l1, are expected to change.
const NEAR_L1: f64 = 0.95;

/// A step, the change of the gradient with it, and what of B₀·s stays as A changes: (I ⊗ G)·s, of the weights outside the support,
/// and H·s of those in it.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    of_features: Vec<f64>,
    of_support: Vec<f64>,
}

/// B, class after class: coordinate j·(d + 1) + k is of class j and feature k, the last of which is the intercept.
struct Model {
    d: usize,
    q: usize,
    /// G, (d × d).
    gram: Arc<Vec<f64>>,
    /// l2 of each feature.
    l2: Vec<f64>,
    /// A, (q × q), or its diagonal, (q).
    classes: Vec<f64>,
    /// Where B₀ is the Hessian; often nowhere.
    support: Support,
    /// The oldest first.
    pairs: Vec<Pair>,
    most_pairs: usize,
    /// Of each coordinate 2·(pairs) values: rows of Q = (B₀·S, Y), and of Q·M⁻¹. B = B₀ − Q·M⁻¹·Qᵀ.
    rows: Vec<f64>,
    solved: Vec<f64>,
}

impl Model {
    fn n(&self) -> usize {
        self.q * (self.d + 1)
    }

    /// The product of row k of G with a number, added to `to`, (d).
    fn add_gram_row(&self, k: usize, factor: f64, to: &mut [f64]) {
        add(to, factor, &self.gram[k * self.d..][..self.d]);
    }

    fn gram_diagonal(&self, k: usize) -> f64 {
        self.gram[k * self.d + k]
    }

    /// The diagonal of B₀. A feature that is constant has no curvature but its penalty; something must be there to divide by.
    fn diagonal(&self, class: usize, k: usize) -> f64 {
        let of_loss = match self.support.place(class * (self.d + 1) + k) {
            Some(place) => self.support.row(place)[place],
            None if k < self.d => self.class_diagonal(class) * self.gram_diagonal(k),
            None => self.class_diagonal(class),
        };
        (of_loss + self.l2_of(k)).max(f64::MIN_POSITIVE)
    }

    /// l2 of a feature, 0 of the intercept.
    fn l2_of(&self, k: usize) -> f64 {
        if k < self.d { self.l2[k] } else { 0.0 }
    }

    fn class_diagonal(&self, class: usize) -> f64 {
        if self.classes.len() == self.q { self.classes[class] } else { self.classes[class * (self.q + 1)] }
    }

    /// The product of row `class` of A with the values of all classes.
    fn class_product(&self, class: usize, values: &[f64]) -> f64 {
        if self.classes.len() == self.q {
            self.classes[class] * values[class]
        } else {
            dot(&self.classes[class * self.q..][..self.q], values)
        }
    }

    /// (I ⊗ G)·v of the weights outside the support, and H·v of those in it.
    fn factor_times(&self, v: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let mut of_features = vec![0.0; v.len()];
        let mut of_support = vec![0.0; self.support.len()];
        for (i, &value) in v.iter().enumerate().filter(|&(_, &value)| value != 0.0) {
            self.add_column(i, value, &mut of_features, &mut of_support);
        }
        (of_features, of_support)
    }

    /// Adds what a change of coordinate i by `step` changes of (I ⊗ G)·v or H·v.
    fn add_column(&self, i: usize, step: f64, of_features: &mut [f64], of_support: &mut [f64]) {
        let (class, k) = (i / (self.d + 1), i % (self.d + 1));
        match self.support.place(i) {
            Some(place) => add(of_support, step, self.support.row(place)),
            None if k < self.d => self.add_gram_row(k, step, &mut of_features[class * (self.d + 1)..][..self.d]),
            None => of_features[i] += step,
        }
    }

    /// B₀·v from (I ⊗ G)·v and H·v.
    fn first_times(&self, of_features: &[f64], of_support: &[f64], v: &[f64]) -> Vec<f64> {
        let mut product = vec![0.0; v.len()];
        let mut column = vec![0.0; self.q];
        for k in 0..=self.d {
            self.take_column(of_features, k, &mut column);
            for class in 0..self.q {
                let i = class * (self.d + 1) + k;
                product[i] = self.first_row(i, &column, of_support) + self.l2_of(k) * v[i];
            }
        }
        product
    }

    /// Coordinate i of B₀·v without l2, from (I ⊗ G)·v of its feature by class and H·v.
    fn first_row(&self, i: usize, column: &[f64], of_support: &[f64]) -> f64 {
        match self.support.place(i) {
            Some(place) => of_support[place],
            None => self.class_product(i / (self.d + 1), column),
        }
    }

    /// What is there of feature k, of all classes.
    fn take_column(&self, values: &[f64], k: usize, column: &mut [f64]) {
        column.iter_mut().zip(values[k..].iter().step_by(self.d + 1)).for_each(|(to, value)| *to = *value);
    }

    /// Takes other penalties, which the pairs know of.
    fn change_l2(&mut self, l2: Vec<f64>) {
        for Pair { step, change, .. } in &mut self.pairs {
            for (i, (change, step)) in change.iter_mut().zip(step).enumerate() {
                if let (Some(new), Some(old)) = (l2.get(i % (self.d + 1)), self.l2.get(i % (self.d + 1))) {
                    *change += (new - old) * *step;
                }
            }
        }
        self.l2 = l2;
    }

    /// Takes a step and the change of the gradient with it, unless rounding has left nothing of its curvature.
    fn push(&mut self, step: Vec<f64>, change: Vec<f64>) {
        let product = dot(&step, &change);
        if is_positive(product, &step, &change) {
            if self.pairs.len() == self.most_pairs {
                self.pairs.remove(0);
            }
            let (of_features, of_support) = self.factor_times(&step);
            self.pairs.push(Pair { step, change, of_features, of_support });
        }
    }

    /// Makes Q and Q·M⁻¹ of the pairs and the present B₀.
    fn update(&mut self) {
        let (m, n) = (self.pairs.len(), self.n());
        let times = |pair: &Pair| self.first_times(&pair.of_features, &pair.of_support, &pair.step);
        let first: Vec<Vec<f64>> = self.pairs.par_iter().map(times).collect();
        let (step, change) = (|i: usize| &self.pairs[i].step, |i: usize| &self.pairs[i].change);
        let middle = DMatrix::from_fn(2 * m, 2 * m, |i, j| match (i < m, j < m) {
            (true, true) => dot(step(i), &first[j]),
            // L: ⟨s_i, y_j⟩ for i > j.
            (true, false) => {
                if i > j - m {
                    dot(step(i), change(j - m))
                } else {
                    0.0
                }
            }
            (false, true) => {
                if j > i - m {
                    dot(step(j), change(i - m))
                } else {
                    0.0
                }
            }
            (false, false) => {
                if i == j {
                    -dot(step(i - m), change(i - m))
                } else {
                    0.0
                }
            }
        });
        let Some(inverse) = middle.try_inverse() else {
            self.pairs.clear();
            self.rows.clear();
            self.solved.clear();
            return;
        };
        self.rows = vec![0.0; n * 2 * m];
        self.solved = vec![0.0; n * 2 * m];
        if m == 0 {
            return;
        }
        let rows = self.rows.par_chunks_exact_mut(2 * m).zip(self.solved.par_chunks_exact_mut(2 * m)).enumerate();
        let pairs = &self.pairs;
        rows.with_min_len(ROWS).for_each(|(i, (row, solved))| {
            for pair in 0..m {
                row[pair] = first[pair][i];
                row[m + pair] = pairs[pair].change[i];
            }
            for (to, column) in solved.iter_mut().zip(inverse.column_iter()) {
                *to = row.iter().zip(column.iter()).map(|(a, b)| a * b).sum();
            }
        });
    }

    /// The step p that minimises g·p + τ/2·p·B·p + Σ l1·|w + p|, nearly; with p·B·p.
    fn minimise(&self, g: &[f64], w: &[f64], l1: &[f64], tau: f64) -> (Vec<f64>, f64) {
        let (d, m2) = (self.d, 2 * self.pairs.len());
        let mut p = vec![0.0; self.n()];
        // (I ⊗ G)·p, of one feature also by class, H·p, and (Q·M⁻¹)ᵀ·p.
        let mut product = vec![0.0; self.n()];
        let mut of_support = vec![0.0; self.support.len()];
        let mut column = vec![0.0; self.q];
        let mut corrections = vec![0.0; m2];
        let of_all_classes = self.classes.iter().sum::<f64>().max(0.0);
        let mut first_change = None;
        let sweeps = (SWEEPS_PRODUCTS / (self.n() * (self.q + 2 * m2)).max(1)).clamp(SWEEPS.0, SWEEPS.1);
        'all: for _ in 0..sweeps {
            for sweep in 0..=SWEEPS_OF_NONZERO {
                let mut change = 0.0;
                for k in 0..=d {
                    self.take_column(&product, k, &mut column);
                    let (l1, l2) = (if k < d { l1[k] } else { 0.0 }, self.l2_of(k));
                    for class in 0..self.q {
                        let i = class * (d + 1) + k;
                        let x = w[i] + p[i];
                        if sweep > 0 && x == 0.0 {
                            continue;
                        }
                        let (row, solved) = (&self.rows[i * m2..][..m2], &self.solved[i * m2..][..m2]);
                        let of_pairs: f64 = row.iter().zip(&corrections).map(|(a, b)| a * b).sum();
                        let diagonal = self.diagonal(class, k);
                        let lowered: f64 = row.iter().zip(solved).map(|(a, b)| a * b).sum();
                        let curvature = tau * (diagonal - lowered).max(1e-3 * diagonal);
                        let slope = g[i] + tau * (self.first_row(i, &column, &of_support) + l2 * p[i] - of_pairs);
                        let aim = x - slope / curvature;
                        let new = if aim.abs() <= l1 / curvature { 0.0 } else { aim - aim.signum() * l1 / curvature };
                        let step = new - x;
                        if step == 0.0 || !step.is_finite() {
                            continue;
                        }
                        p[i] = if new == 0.0 { -w[i] } else { p[i] + step };
                        self.add_column(i, step, &mut product, &mut of_support);
                        column[class] = product[i];
                        corrections.iter_mut().zip(solved).for_each(|(to, value)| *to += step * value);
                        change += step * step * curvature;
                    }
                    if k == d || self.classes.len() == self.q {
                        continue;
                    }
                    // The loss does not know by how much the weights of all classes are shifted together, so that one of them
                    // after the other hardly moves there.
                    let of_feature = || (k..self.n()).step_by(d + 1);
                    let n_zeros = of_feature().filter(|&i| w[i] + p[i] == 0.0).count();
                    if n_zeros == self.q || (sweep > 0 && n_zeros > 0) {
                        continue;
                    }
                    let places: Vec<usize> = of_feature().filter_map(|i| self.support.place(i)).collect();
                    let of_loss = match places.len() {
                        0 => of_all_classes * self.gram_diagonal(k),
                        n if n == self.q => {
                            let of_place = |&i: &usize| places.iter().map(|&j| self.support.row(i)[j]).sum::<f64>();
                            places.iter().map(of_place).sum::<f64>().max(0.0)
                        }
                        _ => continue,
                    };
                    let (mut slope, mut lowered) = (0.0, vec![0.0; 2 * m2]);
                    for i in of_feature() {
                        let (row, solved) = (&self.rows[i * m2..][..m2], &self.solved[i * m2..][..m2]);
                        let of_pairs: f64 = row.iter().zip(&corrections).map(|(a, b)| a * b).sum();
                        slope += g[i] + tau * (self.first_row(i, &column, &of_support) + l2 * p[i] - of_pairs);
                        lowered.iter_mut().zip(row.iter().chain(solved)).for_each(|(sum, value)| *sum += value);
                    }
                    let of_loss_and_l2 = of_loss + self.q as f64 * l2;
                    let (row, solved) = lowered.split_at(m2);
                    let curvature = tau * (of_loss_and_l2 - dot(row, solved)).max(1e-3 * of_loss_and_l2);
                    let mut values: Vec<f64> = of_feature().map(|i| w[i] + p[i]).collect();
                    let step = shift(slope, curvature, l1, &mut values);
                    if step == 0.0 || !step.is_finite() {
                        continue;
                    }
                    for i in of_feature() {
                        let before = w[i] + p[i];
                        p[i] = if before == -step { -w[i] } else { p[i] + step };
                    }
                    of_feature().for_each(|i| self.add_column(i, step, &mut product, &mut of_support));
                    corrections.iter_mut().zip(solved).for_each(|(to, value)| *to += step * value);
                    change += step * step * curvature;
                }
                let first = *first_change.get_or_insert(change);
                if change <= LAST_SWEEP * LAST_SWEEP * first {
                    if sweep == 0 {
                        break 'all;
                    }
                    break;
                }
            }
        }
        let mut corrected = vec![0.0; m2];
        for (row, p) in self.rows.chunks_exact(m2.max(1)).zip(&p) {
            corrected.iter_mut().zip(row).for_each(|(to, value)| *to += value * p);
        }
        let curvature = dot(&p, &self.first_times(&product, &of_support, &p))
            - corrected.iter().zip(&corrections).map(|(a, b)| a * b).sum::<f64>();
        (p, curvature)
    }
}

/// Either model; gradients, steps and parameters are laid out as the parameters.
enum Models {
    Whole(Box<Model>),
    Screened(Screened),
}

impl Models {
    /// The step that minimises the model, nearly, and its curvature.
    fn minimise(&mut self, g: &[f64], w: &[f64], l1: &[f64], tau: f64) -> (Vec<f64>, f64) {
        match self {
            Self::Whole(model) => {
                model.update();
                let (p, curvature) = model.minimise(&by_class(g, model.q), &by_class(w, model.q), l1, tau);
                (by_feature(&p, model.q), curvature)
            }
            Self::Screened(model) => model.minimise(g, w, l1, tau),
        }
    }

    fn push(&mut self, step: Vec<f64>, change: Vec<f64>) {
        match self {
            Self::Whole(model) => model.push(by_class(&step, model.q), by_class(&change, model.q)),
            Self::Screened(model) => model.push(&step, change),
        }
    }

    fn has_pairs(&self) -> bool {
        match self {
            Self::Whole(model) => !model.pairs.is_empty(),
            Self::Screened(model) => model.has_pairs(),
        }
    }

    fn forget(&mut self) {
        match self {
            Self::Whole(model) => model.pairs.clear(),
            Self::Screened(model) => model.forget(),
        }
    }

    /// To go on with; the other one begins anew.
    fn pairs(&self) -> Vec<(Vec<f64>, Vec<f64>)> {
        match self {
            Self::Whole(model) => model.pairs.iter().map(|pair| (pair.step.clone(), pair.change.clone())).collect(),
            Self::Screened(_) => Vec::new(),
        }
    }

    fn set_classes(&mut self, classes: Vec<f64>) {
        match self {
            Self::Whole(model) => model.classes = classes,
            Self::Screened(model) => model.classes = classes,
        }
    }
}

/// What a fit leaves to the next on a path.
pub(super) struct Inheritance {
    model: Models,
    tau: f64,
    /// Products that the Hessian took, and those of evaluations since.
    price: usize,
    since: usize,
}

impl Inheritance {
    /// Takes weights into the support that are not 0, or that are expected not to stay so by the gradient and l1, and the intercept.
    /// The products that it took.
    fn extend(
        &mut self,
        objective: &mut Objective,
        sample: &ClassSample,
        n_samples: usize,
        parameters: &[f64],
        expected: Option<(&[f64], &[f64])>,
    ) -> usize {
        let Models::Whole(model) = &mut self.model else { return 0 };
        let (d, q) = (model.d, model.q);
        let has_intercept = objective.has_intercept();
        let at = |i: usize| i % (d + 1) * q + i / (d + 1);
        let is_in = |&i: &usize| match i % (d + 1) {
            k if k < d => parameters[at(i)] != 0.0 || expected.is_some_and(|(g, l1)| g[at(i)].abs() > NEAR_L1 * l1[k]),
            _ => has_intercept,
        };
        let before = model.support.len();
        let coordinates = (0..parameters.len()).filter(is_in);
        let multiplications = model.support.extend(sample, objective.mean(), coordinates);
        if model.support.len() > before {
            for index in 0..model.pairs.len() {
                let factors = model.factor_times(&model.pairs[index].step);
                (model.pairs[index].of_features, model.pairs[index].of_support) = factors;
            }
        }
        let products = (multiplications / (n_samples as f64 * parameters.len() as f64)).ceil() as usize;
        objective.count_products(products);
        self.price += products;
        products
    }
}

/// The c that minimises slope·c + ½·curvature·c² + l1·Σ_j |x_j + c|; sorts x.
fn shift(slope: f64, curvature: f64, l1: f64, x: &mut [f64]) -> f64 {
    // Past −x_j the j-th term rises.
    x.sort_by(|a, b| b.total_cmp(a));
    let mut of_l1 = -l1 * x.len() as f64;
    for &x in &*x {
        let slope_there = slope - curvature * x + of_l1;
        if slope_there >= 0.0 {
            // Before −x_j.
            return if curvature > 0.0 { -(slope + of_l1) / curvature } else { -x };
        }
        of_l1 += 2.0 * l1;
        if slope_there + 2.0 * l1 >= 0.0 {
            return -x;
        }
    }
    if curvature > 0.0 { -(slope + of_l1) / curvature } else { 0.0 }
}

/// Values laid out as the parameters, class after class.
fn by_class(values: &[f64], q: usize) -> Vec<f64> {
    let rows = values.len() / q;
    (0..values.len()).map(|i| values[i % rows * q + i / rows]).collect()
}

/// Values class after class, laid out as the parameters.
fn by_feature(values: &[f64], q: usize) -> Vec<f64> {
    let rows = values.len() / q;
    (0..values.len()).map(|i| values[i % q * rows + i / q]).collect()
}

/// The largest partial derivative of the objective (where a weight is 0, of the smallest subgradient), as a share of l1, over the
/// features that have no other penalty.
fn violation(objective: &Objective, gradient: &[f64], parameters: &[f64]) -> f64 {
    let q = objective.shape().n_classes;
    let Penalty { l2, l1 } = objective.penalty();
    let rows = gradient.chunks_exact(q).zip(parameters.chunks_exact(q)).zip(l2.iter().zip(l1));
    let mut most: f64 = 0.0;
    for ((g, w), (_, &l1)) in rows.filter(|(_, (l2, l1))| **l2 == 0.0 && **l1 > 0.0) {
        for (&g, &w) in g.iter().zip(w) {
            let least = if w == 0.0 { g.abs() - l1 } else { (g + l1 * w.signum()).abs() };
            most = most.max(least / l1);
        }
    }
    most
}

/// What does not change on the way: the rows that A is taken of, and G.
pub(super) struct Prepared<'a> {
    sample: ClassSample<'a>,
    gram: Arc<Vec<f64>>,
}

impl<'a> Prepared<'a> {
    pub fn new(curvature: Curvature<'a, 'a>, shape: Shape, past: &Past) -> Result<Self> {
        let Curvature { features, scale, weights, moments, .. } = curvature;
        let d = shape.n_features;
        let gram = match &past.curvature {
            Some(Inheritance { model: Models::Whole(model), .. }) => model.gram.clone(),
            _ if d <= MOST_FEATURES => {
                let rows = (GRAM_PRODUCTS / d.pow(2)).max(GRAM_ROWS * d);
                gram(&curvature, &(0..d).collect::<Vec<_>>(), rows)?.into()
            }
            _ => moments.variance.clone().into(),
        };
        Ok(Self { sample: ClassSample::new(features, scale, weights, shape)?, gram })
    }
}

/// Minimises the objective with its l1 penalty from `parameters`, in centred coordinates, while `observe` looks on; goes on with
/// what was `learned` on the way there, and on a path with what those in the `past` left.
pub(super) fn minimise(
    Limits { memory, max_iterations, tolerance }: Limits,
    objective: &mut Objective,
    Prepared { sample, gram }: &Prepared,
    mut parameters: Vec<f64>,
    n_samples: usize,
    (learned, past): (Learned, &mut Past),
    observe: &mut Observe,
) -> Result<Minimum> {
    let begin = Instant::now();
    let Shape { n_features: d, n_classes: q, .. } = objective.shape();
    let l1 = objective.penalty().l1.clone();
    let l2 = objective.penalty().l2.clone();
    let class_curvature = |parameters: &[f64]| sample.curvature(parameters);
    let classes = class_curvature(&objective.uncentred(&parameters))?;
    let before = objective.counts().products;
    let Smooth { value: mut smooth, mut gradient, .. } = objective.start(&parameters)?;
    let of_start = objective.counts().products - before;
    if !smooth.is_finite() {
        return Err(Error::NoObjective { value: smooth });
    }
    let mut norm = objective.penalty().l1_norm(&parameters, q);
    let mut state = match past.curvature.take() {
        Some(Inheritance { model: Models::Whole(mut model), mut tau, mut price, mut since }) => {
            model.classes = classes;
            model.change_l2(l2);
            if since >= RENEWED * price {
                model.support = Support::at(sample, &objective.uncentred(&parameters), SHARE)?;
                model.pairs.clear();
                objective.count_products(1);
                (tau, price, since) = (1.0, 1, 0);
            }
            let mut state = Inheritance { model: Models::Whole(model), tau, price, since };
            state.extend(objective, sample, n_samples, &parameters, Some((&gradient, &l1)));
            state
        }
        _ if d <= MOST_FEATURES => {
            let (gram, support) = (gram.clone(), Support::none(parameters.len()));
            let (pairs, rows, solved) = (Vec::new(), Vec::new(), Vec::new());
            let mut model = Model { d, q, gram, l2, classes, support, pairs, most_pairs: memory, rows, solved };
            learned.pairs.into_iter().for_each(|(step, change)| model.push(step, change));
            Inheritance { model: Models::Whole(Box::new(model)), tau: 1.0, price: 0, since: 0 }
        }
        _ => {
            let model = Screened::new(gram.to_vec(), l2, classes, q, memory);
            Inheritance { model: Models::Screened(model), tau: 1.0, price: 0, since: 0 }
        }
    };
    let begin_with = || Numbers { tau: state.tau, ..Numbers::new(smooth + norm) };
    let numbers = learned.numbers.unwrap_or_else(begin_with);
    let first_gradient = learned.numbers.is_none().then(|| gradient.clone());
    let Numbers { first_value, mut n_fruitless, tau, mut n_promises, .. } = numbers;
    state.tau = tau;
    let is_on_path = !past.is_empty();
    // Products of the Hessian, not of evaluations.
    let mut of_extensions = objective.counts().products - before - of_start;
    let mut n_iterations = 0;
    let reason = loop {
        let value = smooth + norm;
        if n_iterations == max_iterations {
            break StopReason::Iterations;
        }
        if let Some(reason) = end_at_zero(objective.penalty(), tolerance, value, first_value) {
            break reason;
        }
        let (mut direction, model_curvature) = state.model.minimise(&gradient, &parameters, &l1, state.tau);
        if !objective.has_intercept() {
            direction[d * q..].fill(0.0);
        }
        // Of the intercept only differences matter.
        centre_over_classes(&mut direction[d * q..], q);
        let end: Vec<f64> = parameters.iter().zip(&direction).map(|(w, p)| w + p).collect();
        let slope = dot(&gradient, &direction);
        let promised = -(slope + objective.penalty().l1_norm(&end, q) - norm);
        let gain_of_model = promised - 0.5 * state.tau * model_curvature;
        if !(promised > 0.0 && promised.is_finite()) {
            // The pairs may be what is wrong.
            if state.model.has_pairs() && n_fruitless <= FRUITLESS {
                state.model.forget();
                n_fruitless += 1;
                continue;
            }
            break StopReason::Converged;
        }
        let is_near = gain_of_model <= PROMISED_SHARE * tolerance * value
            && violation(objective, &gradient, &parameters) <= VIOLATION;
        n_promises = if is_near { n_promises + 1 } else { 0 };

        let first = objective.look(&parameters, &direction, 1.0)?;
        let norm_at = |objective: &Objective, t: f64| {
            let point: Vec<f64> = parameters.iter().zip(&direction).map(|(w, p)| w + t * p).collect();
            objective.penalty().l1_norm(&point, q)
        };
        let is_lower = |t: f64, smooth: f64, norm: f64| {
            smooth + norm <= value - DECREASE * t * promised + 1e-15 * value.abs() && smooth.is_finite()
        };
        // What the loss curves along the step, and what the model says of it.
        let true_curvature = first.slope - slope;
        let norm_of_end = norm_at(objective, 1.0);
        let mut found = is_lower(1.0, first.value, norm_of_end).then_some((1.0, first.value, norm_of_end));
        let mut new_gradient = first.gradient;
        if found.is_none() {
            let mut t = 1.0;
            for _ in 0..MOST_LENGTHS {
                t *= 0.5;
                let Some(&(smooth, _)) = objective.along(&[t])?.first() else { break };
                let norm = norm_at(objective, t);
                if is_lower(t, smooth, norm) {
                    let at = objective.gradient(&parameters, &direction, t)?;
                    new_gradient = at.gradient;
                    found = Some((t, at.value, norm));
                    break;
                }
            }
        }
        let Some((t, new_smooth, new_norm)) = found else {
            if !state.model.has_pairs() {
                break StopReason::Precision;
            }
            // The pairs may be what is wrong.
            state.model.forget();
            n_fruitless += 1;
            if n_fruitless > FRUITLESS {
                break StopReason::Precision;
            }
            continue;
        };
        if true_curvature > 0.0 && model_curvature > 0.0 {
            let ratio = (true_curvature / model_curvature).clamp(0.1, 10.0);
            state.tau = (state.tau * ratio).sqrt().clamp(0.05, 100.0);
        }
        objective.advance(t)?;
        if t == 1.0 {
            parameters = end;
        } else {
            add(&mut parameters, t, &direction);
        }
        let step: Vec<f64> = direction.iter().map(|p| t * p).collect();
        let change: Vec<f64> = new_gradient.iter().zip(&gradient).map(|(new, old)| new - old).collect();
        state.model.push(step, change);
        if is_on_path {
            of_extensions += state.extend(objective, sample, n_samples, &parameters, None);
        }
        let gain = value - (new_smooth + new_norm);
        (smooth, norm, gradient) = (new_smooth, new_norm, new_gradient);
        n_iterations += 1;
        let evaluations = objective.counts().evaluations();
        let progress =
            Progress::after(n_iterations, max_iterations, smooth + norm, evaluations, n_samples, begin.elapsed());
        let stop = observe(progress, objective, &parameters)?;
        if n_promises >= PROMISES {
            break StopReason::Converged;
        }
        n_fruitless = if gain <= FRUITLESS_SHARE * tolerance * value { n_fruitless + 1 } else { 0 };
        if n_fruitless > FRUITLESS {
            let is_near = gain_of_model <= tolerance * value;
            break if is_near { StopReason::Converged } else { StopReason::Precision };
        }
        if let Some(reason) = stop {
            break reason;
        }
        if n_iterations <= REFRESHED || n_iterations.is_multiple_of(REFRESHED) {
            state.model.set_classes(class_curvature(&objective.uncentred(&parameters))?);
        }
    };
    let numbers = Numbers { n_fruitless, tau: state.tau, n_promises, ..numbers };
    let learned = Learned { pairs: state.model.pairs(), numbers: Some(numbers) };
    if past.is_path() {
        state.since += objective.counts().products - before - of_extensions;
        past.curvature = Some(state);
    }
    Ok(Minimum { parameters, reason, first_gradient, learned })
}

#[cfg(test)]
mod tests {
    use super::shift;

    #[test]
    fn a_shift_is_to_the_minimum() {
        let x = [0.5, -1.0, 0.25, 0.0, 2.0];
        for l1 in [0.0, 0.125, 1.0] {
            for curvature in [0.1, 3.0] {
                for slope in [-7.0, -0.5, 0.0, 0.01, 0.3, 6.0] {
                    let value = |c: f64| {
                        slope * c + 0.5 * curvature * c * c + l1 * x.iter().map(|x| (x + c).abs()).sum::<f64>()
                    };
                    let c = shift(slope, curvature, l1, &mut x.clone());
                    for other in [c - 1e-3, c + 1e-3, c - 1.0, c + 1.0] {
                        assert!(value(c) <= value(other), "{l1} {curvature} {slope}: {c}");
                    }
                }
            }
        }
        // Without curvature, to where half of the values are above 0.
        assert_eq!(shift(0.0, 0.0, 1.0, &mut x.clone()), -0.25);
    }
}
