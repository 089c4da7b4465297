//! Penalties around the best: rounds of paths, each with those half-way to its neighbours.

use super::division::Division;
use super::paths::{Paths, Solved};
use super::{Head, Strengths, Sweep};
use crate::error::Result;
use crate::fit::SoftmaxRegression;
use crate::objective::TrainingSize;

impl Sweep {
    /// The paths of the grid and, where the sweep is refined, of the penalties around the best: the sweep with all penalties, and what became
    /// of its paths.
    pub(super) fn fit_refined(
        &self,
        estimator: &SoftmaxRegression,
        size: TrainingSize,
        division: &Division,
        tell: &(dyn Fn(&Head) + Sync),
    ) -> Result<(Self, Paths)> {
        let mut whole = self.clone();
        if self.steps_per_decade.is_some() {
            // A candidate is found by its strength.
            whole.strengths = whole.strengths.with(whole.strengths.sorted());
        }
        let mut all = whole.fit_paths(estimator, division, tell)?;
        loop {
            let best = whole.best(&whole.candidates(&all.heads, size));
            let between = whole.around(best);
            if between.is_empty() {
                return Ok((whole, all));
            }
            let round = Self { strengths: whole.strengths.with(between), ..self.clone() };
            // With folds to come, a model of the first has seen what they are validated on.
            let from = all.solved.get(best).and_then(Solved::first);
            let from = from.filter(|_| self.folds.n_folds() == 1 && estimator.init.is_none());
            let estimator = from.map_or_else(|| estimator.clone(), |model| estimator.clone().init(model));
            let of_round = round.fit_paths(&estimator, division, tell)?;
            all.passes = all.passes.zip(of_round.passes).map(|(before, of_round)| before + of_round);
            let strengths = [whole.strengths.sorted(), round.strengths.sorted()].concat();
            let merged = Self { strengths: whole.strengths.with(strengths), ..self.clone() };
            let order = merged.strengths.sorted();
            // The places among all of those that one of the two has.
            let places = |of: &Strengths| -> Vec<usize> {
                of.sorted()
                    .iter()
                    .map(|value| order.iter().position(|other| other == value).unwrap_or_default())
                    .collect()
            };
            let (old, new) = (places(&whole.strengths), places(&round.strengths));
            all.heads.iter_mut().for_each(|head| head.candidate = old[head.candidate]);
            all.heads.extend(of_round.heads.into_iter().map(|head| Head { candidate: new[head.candidate], ..head }));
            let mut placed: Vec<_> =
                old.into_iter().zip(all.solved).chain(new.into_iter().zip(of_round.solved)).collect();
            placed.sort_by_key(|(place, _)| *place);
            all.solved = placed.into_iter().map(|(_, solved)| solved).collect();
            whole = merged;
        }
    }

    /// The strengths half-way from the candidate `best` to its neighbours, where these are too far.
    fn around(&self, best: usize) -> Vec<f64> {
        let Some(steps) = self.steps_per_decade else { return Vec::new() };
        let sorted = self.strengths.sorted();
        let pairs = [best.checked_sub(1).map(|before| (before, best)), Some((best, best + 1))];
        let pairs = pairs.into_iter().flatten().filter_map(|(a, b)| Some((*sorted.get(a)?, *sorted.get(b)?)));
        pairs.filter(|&(a, b)| is_too_far(a, b, steps)).map(|(a, b)| a.sqrt() * b.sqrt()).collect()
    }

    /// How many candidates come to those of the grid at most.
    pub(super) fn n_refined(&self) -> usize {
        let Some(steps) = self.steps_per_decade else { return 0 };
        let sorted = self.strengths.sorted();
        let rounds = |(a, b): (f64, f64)| {
            std::iter::successors(Some((a, b)), |(a, b)| Some((*a, a.sqrt() * b.sqrt())))
                .take(64)
                .take_while(|&(a, b)| is_too_far(a, b, steps))
                .count()
        };
        2 * sorted.windows(2).map(|pair| rounds((pair[0], pair[1]))).max().unwrap_or(0)
    }
}

/// Whether two strengths are further apart than neighbours are to be.
fn is_too_far(a: f64, b: f64, steps_per_decade: f64) -> bool {
    // The halves of a decade are rounded.
    (a / b).log10().abs() * steps_per_decade > 1.0 + 1e-6
}

impl Strengths {
    /// From the strongest penalty to the weakest, each once.
    fn sorted(&self) -> Vec<f64> {
        let mut values = self.values().to_vec();
        match self {
            Self::C(_) => values.sort_by(f64::total_cmp),
            Self::Penalty(_) => values.sort_by(|a, b| b.total_cmp(a)),
        }
        values.dedup();
        values
    }

    /// Others of the same kind.
    fn with(&self, values: Vec<f64>) -> Self {
        match self {
            Self::C(_) => Self::C(values),
            Self::Penalty(_) => Self::Penalty(values),
        }
    }
}
