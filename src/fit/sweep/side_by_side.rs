//! The search of the stochastic solvers: all models of a fold are trained side by side, in the same batches, so that X is read once for
//! all of them.

use std::time::Instant;

use super::division::Division;
use super::{Head, Sweep};
use crate::backend::{self, Parameters, Session, Shape};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::fit::{FeatureScale, SoftmaxRegression, scale_of_steps};
use crate::metrics::{Evaluation, Evaluator};
use crate::solver::{Kind, Stochastic, StopReason};
use crate::weighting::Weighting;

/// What the models of a sweep have in common.
struct Common<'a> {
    estimator: &'a SoftmaxRegression,
    stochastic: Stochastic,
    /// What features are multiplied by beside the estimator's scale, see `scale_of_steps`.
    of_steps: f32,
    scale: f32,
}

/// What is trained on without one of the folds.
struct Part<'a> {
    train: &'a Dataset<'a>,
    weighting: &'a Weighting<'a>,
    validation: &'a Dataset<'a>,
    fold: usize,
    seed: u64,
}

/// A model to train: the place of its candidate, its penalty and learning rate.
#[derive(Debug, Clone, Copy)]
struct Model {
    candidate: usize,
    l2: f64,
    learning_rate: f64,
}

impl Sweep {
    /// All models of the search.
    pub(super) fn fit_side_by_side(
        &self,
        estimator: &SoftmaxRegression,
        data: &Dataset,
        division: &Division,
        tell: &dyn Fn(&Head),
    ) -> Result<Vec<Head>> {
        let Kind::Stochastic(stochastic) = estimator.solver.kind() else { return Ok(Vec::new()) };
        let feature_scale = estimator.feature_scale.of(data.features())?;
        let of_steps = match estimator.feature_scale {
            FeatureScale::Auto => scale_of_steps(feature_scale * data.features().max_abs()),
            FeatureScale::Factor(_) => 1.0,
        };
        let common = Common { estimator, stochastic, of_steps, scale: feature_scale * of_steps };
        let mut heads = Vec::with_capacity(self.n_heads());
        for fold in 0..self.folds.n_folds() {
            let train = &division.apart_from(fold)?;
            let validation = &division.of(fold)?;
            let weighting = &Weighting::new(train, &estimator.class_weight, estimator.label_smoothing)?;
            let models = self.models(&common, train, weighting)?;
            for seed in self.seeds_from(estimator.seed) {
                let part = Part { train, weighting, validation, fold, seed };
                let of_run = common.fit(&part, &models)?;
                of_run.iter().for_each(tell);
                heads.extend(of_run);
            }
        }
        Ok(heads)
    }

    /// The seeds of the models of each candidate and fold.
    fn seeds_from(&self, first: u64) -> impl Iterator<Item = u64> {
        (0..self.n_seeds as u64).map(move |index| first.wrapping_add(index))
    }

    /// The models to train on this data, in the order of their candidates.
    fn models(&self, common: &Common, train: &Dataset, weighting: &Weighting) -> Result<Vec<Model>> {
        let size = common.estimator.size(train)?;
        let penalties = self.penalties_for(size);
        let mut models = Vec::new();
        for rate in self.rates() {
            for &penalty in &penalties {
                let (l2, _) = self.l2_and_l1(size, penalty, 0.0);
                let solver = match rate {
                    Some(rate) => common.estimator.solver.clone().with_learning_rate(rate),
                    None => common.estimator.solver.clone(),
                };
                let (supervision, l2_of_steps) = (weighting.supervision(), common.l2(l2));
                let rate = solver.learning_rate(
                    train.features(),
                    common.scale,
                    supervision,
                    train.n_classes(),
                    l2_of_steps,
                )?;
                models.push(Model { candidate: models.len(), l2, learning_rate: rate.unwrap_or_default() });
            }
        }
        Ok(models)
    }
}

impl Common<'_> {
    /// The penalty of weights of features times `scale`.
    fn l2(&self, l2: f64) -> f64 {
        l2 * f64::from(self.of_steps).powi(2)
    }

    /// Trains these models side by side; half of them at a time where the device has no room for all, and so on.
    fn fit(&self, part: &Part, models: &[Model]) -> Result<Vec<Head>> {
        match self.fit_at_once(part, models) {
            Err(Error::OutOfMemory { .. } | Error::DeviceLimit { .. }) if models.len() > 1 => {
                let (first, second) = models.split_at(models.len() / 2);
                let mut heads = self.fit(part, first)?;
                heads.extend(self.fit(part, second)?);
                Ok(heads)
            }
            result => result,
        }
    }

    fn fit_at_once(&self, part: &Part, models: &[Model]) -> Result<Vec<Head>> {
        let begin = Instant::now();
        let Self { estimator, stochastic, scale, .. } = self;
        let &Part { train, weighting, validation, fold, seed } = part;
        let supervision = weighting.supervision();
        let mut session = estimator.device.session(train.features(), *scale, Some(supervision))?;
        let head = |model: &Model| backend::Head {
            learning_rate: model.learning_rate as f32,
            l2: self.l2(model.l2) as f32,
            intercept: estimator.intercept,
            rule: stochastic.rule,
        };
        let heads: Vec<_> = models.iter().map(head).collect();
        let shape = Shape { n_features: train.n_features(), n_classes: train.n_classes(), n_heads: models.len() };
        let start = Parameters::zeros(shape);
        let (parameters, diverged) = stochastic.minimise_side_by_side(&mut *session, start, &heads, seed)?;
        let training = begin.elapsed();
        let targets = Evaluator::new(supervision.targets, supervision.weights, shape.n_classes);
        let losses = evaluate(&mut *session, &parameters, &targets)?;
        drop(session);
        let mut session = estimator.device.session(validation.features(), *scale, None)?;
        let targets = Evaluator::new(validation.labels().targets(), validation.weights(), shape.n_classes);
        let validations = evaluate(&mut *session, &parameters, &targets)?;
        let of_models = models.iter().zip(losses).zip(validations).zip(diverged).enumerate();
        let found = of_models.map(|(index, (((model, loss), mut validation), diverged))| {
            let epochs = stochastic.n_epochs(train.n_samples());
            let mut objective = loss.log_loss + 0.5 * self.l2(model.l2) * sum_of_squares(&parameters, index);
            if diverged.is_some() {
                (validation.log_loss, validation.accuracy, objective) = (f64::INFINITY, 0.0, f64::INFINITY);
            }
            Head {
                candidate: model.candidate,
                fold,
                l2: model.l2,
                l1: 0.0,
                learning_rate: Some(model.learning_rate),
                seed,
                validation,
                objective,
                n_iterations: diverged.unwrap_or(epochs),
                products: 2 * diverged.unwrap_or(epochs),
                reason: if diverged.is_some() { StopReason::Diverged } else { StopReason::Epochs },
                training,
            }
        });
        Ok(found.collect())
    }
}

/// ‖W‖² of a head.
fn sum_of_squares(parameters: &Parameters, head: usize) -> f64 {
    let Shape { n_classes: q, .. } = parameters.shape;
    let rows = parameters.weights().chunks_exact(parameters.shape.n_outputs());
    rows.flat_map(|row| &row[head * q..][..q]).map(|&weight| f64::from(weight).powi(2)).sum()
}

/// Each head on the data of a session, in one pass over it; `targets` are those of the data.
fn evaluate(session: &mut dyn Session, parameters: &Parameters, targets: &Evaluator) -> Result<Vec<Evaluation>> {
    let Shape { n_classes: q, n_heads, .. } = parameters.shape;
    let mut evaluators = vec![targets.clone(); n_heads];
    let mut of_head = Vec::new();
    session.logits(parameters, &mut |rows, logits| {
        for (head, evaluator) in evaluators.iter_mut().enumerate() {
            of_head.clear();
            logits.chunks_exact(n_heads * q).for_each(|row| of_head.extend_from_slice(&row[head * q..][..q]));
            evaluator.add(rows.clone(), &of_head);
        }
        Ok(())
    })?;
    Ok(evaluators.into_iter().map(Evaluator::finish).collect())
}

#[cfg(all(test, feature = "gpu"))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;

    use crate::backend::Device;
    use crate::backend::gpu::{Gpu, Options};
    use crate::data::digits;
    use crate::fit::{Folds, SoftmaxRegression, Sweep};
    use crate::solver::Sgd;

    /// X is read once for all models of a fold: an epoch takes as many calls of the device as of a single model, and twice as many for
    /// two seeds.
    #[test]
    fn all_models_of_a_fold_are_one_run() {
        let data = digits().unwrap();
        let calls = |rates: &[f64], n_seeds: usize, epochs: usize| {
            let gpu = Arc::new(Gpu::open_all(Options::default()).into_iter().next()?.unwrap());
            let device = Device::of(gpu.clone(), false);
            let sgd = Sgd { epochs: Some(epochs), batch_size: 64, ..Sgd::default() };
            let estimator = SoftmaxRegression::new().solver(sgd).device(&device);
            let sweep = Sweep::new(estimator.clone()).learning_rates(rates).seeds(n_seeds);
            sweep.folds(Folds::Holdout { fraction: 0.2, seed: 0 }).fit(&data).unwrap();
            Some(gpu.failures.calls.load(Relaxed))
        };
        let of_ten_epochs = |rates: &[f64], n_seeds| Some(calls(rates, n_seeds, 13)? - calls(rates, n_seeds, 3)?);
        let Some(one) = of_ten_epochs(&[0.1], 1) else { return };
        assert_eq!(of_ten_epochs(&[0.1, 0.05, 0.02, 0.01, 0.005, 0.002], 1), Some(one));
        // With the last fit there are three trainings in the place of two.
        assert_eq!(of_ten_epochs(&[0.1], 2), Some(one / 2 * 3));
    }
}
