//! The search of the batch solvers: the models of a fold are a path from the largest penalty to the smallest. The path of the first fold
//! goes ahead: how it bends tells the others where their solutions will be.

use std::borrow::Cow;
use std::sync::Arc;

use super::division::Division;
use super::{Head, Sweep};
use crate::backend::{Device, Shape};
use crate::error::Result;
use crate::fit::SoftmaxRegression;
use crate::fit::together::{Common, together};
use crate::model::Model;
use crate::solver::{Past, StopReason, Trail};
use crate::structure::Structure;

/// What became of paths.
#[derive(Default)]
pub(super) struct Paths {
    /// All models.
    pub heads: Vec<Head>,
    /// What became of each candidate.
    pub solved: Vec<Solved>,
    /// Passes over the samples, where the paths had them in common.
    pub passes: Option<usize>,
}

/// Models of a candidate.
pub(super) struct Solved {
    /// Of the first folds, of all where they do not take too much memory.
    models: Vec<Model>,
    /// The mean curvature of the classes as the first fold had it, where all ended with the Hessian class by class.
    pub sharp: Option<f64>,
}

/// Weights and intercepts of all models of other folds than the first, 128 MiB.
const MOST_VALUES: usize = 1 << 25;
/// From so many folds on the first goes ahead of the others: what two of two are trained on has nothing in common, of three a half. And to
/// no looser tolerance: where fits end far from the minimum, the first fold's model, which has seen what the others are validated on, would
/// be seen in theirs.
const FOLLOWED: usize = 3;
const FOLLOWED_TOLERANCE: f64 = 1e-4;

impl Solved {
    /// A model near that of all samples: the mean of those of the folds. What a fold left out moves a model away from that of all samples
    /// to the first order, and the sum over the folds of all that is nothing. Factors of structured weights have no mean, and of weights
    /// with an l1 penalty each fold has zeros of its own.
    pub fn start(&self, has_l1: bool) -> Option<Cow<'_, Model>> {
        let mean = if has_l1 { None } else { Model::mean(&self.models) };
        mean.map(Cow::Owned).or_else(|| self.first().map(Cow::Borrowed))
    }

    /// That of the first fold.
    pub fn first(&self) -> Option<&Model> {
        self.models.first()
    }
}

/// The models of one fold and one share of l1.
#[derive(Debug, Clone, Copy)]
struct Path {
    fold: usize,
    ratio: usize,
}

impl Sweep {
    /// The paths of all folds.
    pub(super) fn fit_paths(
        &self,
        estimator: &SoftmaxRegression,
        division: &Division,
        tell: &(dyn Fn(&Head) + Sync),
    ) -> Result<Paths> {
        let n_folds = self.folds.n_folds();
        let paths: Vec<Path> =
            (0..self.l1_ratios.len()).flat_map(|ratio| (0..n_folds).map(move |fold| Path { fold, ratio })).collect();
        let data = division.data();
        let shape = Shape { n_features: data.n_features(), n_classes: data.n_classes(), n_heads: 1 };
        let scale = estimator.feature_scale.of(data.features())?;
        let common = Common { features: data.features(), scale, shape, memory: self.memory };
        let n_values = shape.n_parameters().saturating_mul(self.strengths.values().len());
        let is_followed = |ratio: usize| {
            let is_smooth = self.l1_ratios[ratio] == 0.0 && estimator.weights == Structure::Dense;
            let is_tight = estimator.solver.tolerance().is_some_and(|tolerance| tolerance <= FOLLOWED_TOLERANCE);
            is_smooth && is_tight && n_folds >= FOLLOWED && n_values <= MOST_VALUES / 2
        };
        let leads = |&Path { fold, ratio }: &Path| fold == 0 && is_followed(ratio);
        let follows = |&Path { fold, ratio }: &Path| fold > 0 && is_followed(ratio);
        let (rest, ahead): (Vec<usize>, Vec<usize>) = (0..paths.len()).partition(|&index| follows(&paths[index]));
        let mut guides: Vec<Option<Arc<Trail>>> = vec![None; self.l1_ratios.len()];
        let mut done: Vec<_> = paths.iter().map(|_| None).collect();
        let mut passes = Some(0);
        for indices in [ahead, rest].into_iter().filter(|indices| !indices.is_empty()) {
            let work = |index: usize, device: &Device| {
                let path = paths[indices[index]];
                let past = if leads(&path) { Past::ahead_of_others() } else { Past::after(guides[path.ratio].clone()) };
                let estimator = SoftmaxRegression { device: device.clone(), ..estimator.clone() };
                self.fit_path(&estimator, division, path, past, tell)
            };
            let (results, of_these) = together(&estimator.device, common, indices.len(), work)?;
            passes = passes.zip(of_these).map(|(before, of_these)| before + of_these);
            for (&index, result) in indices.iter().zip(results) {
                let (heads, solved, past) = result?;
                if let Some(mut trail) = past.into_trail() {
                    trail.truncate(heads.iter().take_while(|head| head.reason == StopReason::Converged).count());
                    guides[paths[index].ratio] = Some(Arc::new(trail));
                }
                done[index] = Some((heads, solved));
            }
        }

        let (mut heads, mut solved) = (Vec::with_capacity(self.n_heads()), Vec::<Solved>::new());
        for (path, done) in paths.iter().zip(done) {
            let Some((of_path, of_candidates)) = done else { continue };
            heads.extend(of_path);
            match path.fold {
                0 => solved.extend(of_candidates),
                _ => {
                    let before = path.ratio * of_candidates.len();
                    for (all, of_fold) in solved.iter_mut().skip(before).zip(of_candidates) {
                        all.models.extend(of_fold.models);
                        all.sharp = all.sharp.filter(|_| of_fold.sharp.is_some());
                    }
                }
            }
        }
        Ok(Paths { heads, solved, passes })
    }

    /// The models of a path, what is in them, and what it leaves.
    fn fit_path(
        &self,
        estimator: &SoftmaxRegression,
        division: &Division,
        Path { fold, ratio }: Path,
        past: Past,
        tell: &dyn Fn(&Head),
    ) -> Result<(Vec<Head>, Vec<Solved>, Past)> {
        let train = division.without(fold)?;
        let validation = division.of(fold)?;
        let l1_ratio = self.l1_ratios[ratio];
        let size = estimator.size(&train)?;
        let (l2, l1) = self.l2_and_l1(size, 1.0, l1_ratio);
        let estimator = estimator.clone().l2(l2).l1(l1);
        let penalties = self.penalties_for(size);
        let n_values = train.n_features().saturating_add(1).saturating_mul(train.n_classes());
        let is_kept = fold == 0 || self.n_heads().saturating_mul(n_values) <= MOST_VALUES;
        let (mut heads, mut solved) = (Vec::new(), Vec::new());
        let past = estimator.path_with(&train, &penalties, past, |index, fit, past| {
            let penalty = penalties[index];
            let head = Head {
                candidate: ratio * penalties.len() + index,
                fold,
                l2: l2 * penalty,
                l1: l1 * penalty,
                learning_rate: None,
                seed: estimator.seed,
                validation: fit.model.on(&estimator.device).evaluate(&validation)?,
                objective: fit.objective,
                n_iterations: fit.epochs.len(),
                products: fit.products.unwrap_or_default(),
                reason: fit.reason,
                training: fit.training,
            };
            tell(&head);
            heads.push(head);
            let models = if is_kept { vec![fit.model] } else { Vec::new() };
            solved.push(Solved { models, sharp: past.ended_sharp() });
            Ok(())
        })?;
        Ok((heads, solved, past))
    }
}
