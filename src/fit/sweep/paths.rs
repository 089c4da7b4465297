//! The search of the batch solvers: the models of a fold are a path from the largest penalty to the smallest.

use std::sync::{Mutex, PoisonError};

use super::division::Division;
use super::{Head, Sweep, total_weight};
use crate::backend::{Device, DeviceKind, Shape};
use crate::error::Result;
use crate::fit::SoftmaxRegression;
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
        let scale = estimator.feature_scale.of(data.features())?;
        let shape = Shape { n_features: data.n_features(), n_classes: data.n_classes(), n_heads: 1 };
        let side_by_side = Mutex::new((0..paths.len()).map(|_| None).collect::<Vec<_>>());
        let work = |index: usize, device: &Device| {
            let done = of_path(&paths[index], device);
            side_by_side.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(done);
        };
        let device = &estimator.device;
        let passes = device.side_by_side(data.features(), scale, shape, paths.len(), self.memory, &work)?;
        let done: Vec<_> = match passes {
            Some(_) => {
                side_by_side.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
            }
            None if device.info().kind == DeviceKind::Cpu => beside_each_other(&paths, |path| of_path(path, device)),
            None => paths.iter().map(|path| of_path(path, device)).collect(),
        };

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

/// Does the work for each of `tasks`: of as many as there are threads each has one, with what is left over all threads help.
pub(super) fn beside_each_other<T: Sync, R: Send>(
    tasks: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Vec<Result<R>> {
    let n_threads = rayon::current_num_threads();
    let alone = |task: &T| match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
        Ok(pool) => pool.install(|| work(task)),
        // Then with all threads, as it would be without others.
        Err(_) => work(task),
    };
    let mut results = Vec::with_capacity(tasks.len());
    for tasks in tasks.chunks(n_threads) {
        if tasks.len() < n_threads || n_threads == 1 {
            results.extend(tasks.iter().map(&work));
            continue;
        }
        let of_threads: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = tasks.iter().map(|task| scope.spawn(|| alone(task))).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        results.extend(of_threads.into_iter().map(|result| match result {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }));
    }
    results
}
