//! The search of the batch solvers: the models of a fold are a path from the largest penalty to the smallest.

use super::division::Division;
use super::{Head, Sweep, total_weight};
use crate::backend::{Device, Shape};
use crate::error::Result;
use crate::fit::SoftmaxRegression;
use crate::fit::together::{Common, together};
use crate::model::Model;
use crate::solver::Past;

/// What became of paths.
#[derive(Default)]
pub(super) struct Paths {
    /// All models.
    pub heads: Vec<Head>,
    /// Those of the first fold, whose heads have the same order of candidates.
    pub models: Vec<Model>,
    /// Passes over the samples, where the paths had them in common.
    pub passes: Option<usize>,
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
        let of_path = |path: &Path, device: &Device| {
            self.fit_path(&SoftmaxRegression { device: device.clone(), ..estimator.clone() }, division, *path, tell)
        };
        let data = division.data();
        let common = Common {
            features: data.features(),
            scale: estimator.feature_scale.of(data.features())?,
            shape: Shape { n_features: data.n_features(), n_classes: data.n_classes(), n_heads: 1 },
            memory: self.memory,
        };
        let work = |index: usize, device: &Device| of_path(&paths[index], device);
        let (done, passes) = together(&estimator.device, common, paths.len(), work)?;

        let (mut heads, mut models) = (Vec::with_capacity(self.n_heads()), Vec::new());
        for done in done {
            let (of_path, first) = done?;
            heads.extend(of_path);
            models.extend(first);
        }
        Ok(Paths { heads, models, passes })
    }

    /// The models of a path, and, of the first fold, what is in them.
    fn fit_path(
        &self,
        estimator: &SoftmaxRegression,
        division: &Division,
        Path { fold, ratio }: Path,
        tell: &dyn Fn(&Head),
    ) -> Result<(Vec<Head>, Vec<Model>)> {
        let train = division.without(fold)?;
        let validation = division.of(fold)?;
        let l1_ratio = self.l1_ratios[ratio];
        let estimator = estimator.clone().l2(1.0 - l1_ratio).l1(l1_ratio);
        let penalties = self.penalties_for(total_weight(&train));
        let (mut heads, mut models) = (Vec::new(), Vec::new());
        estimator.path_with(&train, &penalties, Past::of_search(), |index, fit| {
            let penalty = penalties[index];
            let head = Head {
                candidate: ratio * penalties.len() + index,
                fold,
                l2: (1.0 - l1_ratio) * penalty,
                l1: l1_ratio * penalty,
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
            if fold == 0 {
                models.push(fit.model);
            }
            Ok(())
        })?;
        Ok((heads, models))
    }
}
