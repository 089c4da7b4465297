//! What a fit knows of those before it on a path of penalties.

use std::sync::Arc;

use super::class_blocks::Blocks;
use super::proximal::Inheritance;
use crate::backend::cpu::Moments;

/// What a path leaves of its fits, in their order.
pub(crate) type Trail = Vec<Waypoint>;

/// A fit of a path.
pub(crate) struct Waypoint {
    /// The logarithm of the penalty's factor.
    position: f64,
    /// In centred coordinates.
    solution: Vec<f64>,
    /// See [`Past::sharp`].
    sharp: Option<f64>,
    /// The Hessian class by class, where it is kept for others.
    blocks: Option<Arc<Blocks>>,
}

/// Values of all blocks that are kept for others, 128 MiB.
const MOST_LENT: usize = 64 << 20;

/// The last solutions, and what was learned of the curvature.
#[derive(Default)]
pub(crate) struct Past {
    /// Of the fit to come; nothing of a fit of its own.
    position: Option<f64>,
    /// The last two fits, all where others are to follow.
    trail: Trail,
    keeps_all: bool,
    /// How many fits there have been, and values of blocks that are kept.
    n_fits: usize,
    n_lent: usize,
    /// Of a path on nearly the same samples with nearly the same penalties.
    guide: Option<Arc<Trail>>,
    /// Whether the guide's blocks have become too far from those that would be right.
    has_own_blocks: bool,
    /// Where there is an l1 penalty.
    pub(super) curvature: Option<Inheritance>,
    /// What the features are multiplied by, and their moments then, which are the same for all fits of a path.
    pub(crate) feature_scale: Option<f32>,
    pub(crate) moments: Option<Moments>,
    /// G of the features that vary, where there is no l1 penalty.
    pub(super) gram: Option<Vec<f64>>,
    /// Of the last fit, or of what a fit of its own starts from.
    sharp: Option<f64>,
    /// Whether the fits are of a search for the best: they need no certificate, nor does anybody ask what they do on the training data.
    is_search: bool,
}

/// The solutions are followed no further than so many times the distance of the last two.
const FARTHEST: f64 = 2.0;

impl Past {
    /// Of a path in search of the best.
    pub fn of_search() -> Self {
        Self { is_search: true, ..Self::default() }
    }

    /// The same, for others to follow.
    pub fn ahead_of_others() -> Self {
        Self { keeps_all: true, ..Self::of_search() }
    }

    /// The same, after another on nearly the same samples.
    pub fn after(guide: Option<Arc<Trail>>) -> Self {
        Self { guide, ..Self::of_search() }
    }

    /// All fits of a path that is [ahead of others](Self::ahead_of_others).
    pub fn into_trail(self) -> Option<Trail> {
        self.keeps_all.then_some(self.trail)
    }

    /// Of a fit of its own whose start is near the solution, where others had the Hessian class by class.
    pub fn of_start(sharp: Option<f64>) -> Self {
        Self { sharp, ..Self::default() }
    }

    pub fn is_search(&self) -> bool {
        self.is_search
    }

    /// The last solution.
    pub fn last(&self) -> Option<Vec<f64>> {
        self.trail.last().map(|fit| fit.solution.clone())
    }

    pub fn is_empty(&self) -> bool {
        self.trail.is_empty()
    }

    /// The mean curvature of the classes where the last fit ended with the Hessian class by class.
    pub fn ended_sharp(&self) -> Option<f64> {
        self.sharp
    }

    /// The mean curvature of the classes, as it was last taken, where the last fit, or that of the guide at this place, ended with the Hessian
    /// class by class: then the next one begins with it.
    pub fn sharp(&self) -> Option<f64> {
        self.sharp.or_else(|| self.guide.as_ref()?.get(self.n_fits)?.sharp)
    }

    /// The Hessian class by class of the guide's fit at this place. A class has as many rows in common with it as the folds have, which do while
    /// many rows count.
    pub fn lent(&self) -> Option<Arc<Blocks>> {
        self.guide.as_ref().filter(|_| !self.has_own_blocks)?.get(self.n_fits)?.blocks.clone()
    }

    /// What was lent has taken more than own blocks would have.
    pub fn lend_no_more(&mut self) {
        self.has_own_blocks = true;
    }

    /// Whether there may be fits after the present one.
    pub fn is_path(&self) -> bool {
        self.position.is_some()
    }

    /// The fit to come is at this factor of the penalty.
    pub fn go_to(&mut self, factor: f64) {
        self.position = Some(factor.ln());
    }

    /// Takes the solution of the present fit, and how it ended.
    pub fn keep(&mut self, solution: &[f64], sharp: Option<(f64, Arc<Blocks>)>) {
        let Some(position) = self.position else { return };
        let (sharp, blocks) = sharp.unzip();
        self.sharp = sharp;
        if self.trail.len() == 2 && !self.keeps_all {
            self.trail.remove(0);
        }
        let blocks = blocks.filter(|blocks| self.keeps_all && self.n_lent + blocks.n_values() <= MOST_LENT);
        self.n_lent += blocks.as_ref().map_or(0, |blocks| blocks.n_values());
        self.trail.push(Waypoint { position, solution: solution.to_vec(), sharp, blocks });
        self.n_fits += 1;
    }

    /// Where the solution is expected: on the line through the last two, over the logarithm of the factor, and as far from it as the guide's
    /// was from its line: how a path bends depends little on which samples were left out. Of the first `n_sparse` values, weights with an l1
    /// penalty, one that is 0, or would change its sign, is 0.
    pub fn start(&self, n_sparse: usize) -> Option<Vec<f64>> {
        let guide = self.guide.as_ref().and_then(|guide| guide.split_at_checked(self.n_fits));
        let guided = guide.and_then(|(before, after)| Some((before, after.first()?)));
        let last = &self.trail.last()?.solution;
        let mut start = on_line(&self.trail, self.position?)?;
        if let Some((before, Waypoint { position, solution, .. })) = guided {
            let expected = on_line(before, *position)?;
            let bend = solution.iter().zip(&expected).map(|(there, expected)| there - expected);
            start.iter_mut().zip(bend).for_each(|(value, bend)| *value += bend);
        }
        for (value, &last) in start.iter_mut().zip(last).take(n_sparse) {
            if *value * last <= 0.0 {
                *value = 0.0;
            }
        }
        Some(start)
    }
}

/// What is at `position` on the line through the last two solutions; the last where there is no other, or where it would be back.
fn on_line(trail: &[Waypoint], position: f64) -> Option<Vec<f64>> {
    let last = trail.last()?;
    let mut values = last.solution.clone();
    if let [.., before, _] = trail {
        let t = (position - last.position) / (last.position - before.position);
        if t > 0.0 && t.is_finite() {
            let t = t.min(FARTHEST);
            values.iter_mut().zip(&before.solution).for_each(|(value, before)| *value += t * (*value - before));
        }
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_on_the_line_through_the_last_two() {
        let mut past = Past::default();
        past.keep(&[5.0], None);
        assert!(past.is_empty() && !past.is_path());
        past.go_to(8.0);
        assert_eq!(past.start(3), None);
        past.keep(&[9.0, 9.0, 9.0, 9.0], None);
        past.go_to(4.0);
        assert_eq!(past.start(3), Some(vec![9.0, 9.0, 9.0, 9.0]));
        past.keep(&[1.0, 3.0, 0.0, 1.0], None);
        past.go_to(2.0);
        past.keep(&[2.0, 1.0, 0.0, -1.0], None);
        past.go_to(1.0);
        // The second would change its sign, the third is 0, the last is free.
        let start = past.start(3).unwrap();
        assert!((start[0] - 3.0).abs() < 1e-12 && start[1..3] == [0.0, 0.0] && (start[3] + 3.0).abs() < 1e-12);
        // Back, or nowhere: the last one.
        past.go_to(4.0);
        assert_eq!(past.start(3), Some(vec![2.0, 1.0, 0.0, -1.0]));
        // No further than twice as far.
        past.go_to(1e-9);
        assert_eq!(past.start(3).unwrap()[0], 4.0);
    }

    #[test]
    fn a_path_bends_as_its_guide_did() {
        // Solutions that lie on a parabola, and others beside it.
        let at = |beside: f64, x: f64| vec![x * x + beside * x, 1.0 - x];
        let mut ahead = Past::ahead_of_others();
        for x in [3.0f64, 2.0, 1.0, 0.0] {
            ahead.go_to(x.exp());
            ahead.keep(&at(0.0, x), None);
        }
        let guide = Some(Arc::new(ahead.into_trail().unwrap()));
        let mut past = Past::after(guide.clone());
        past.go_to(3.0f64.exp());
        // The first is none of the guide's, whose model has seen what this one is to be validated on.
        assert!(past.start(0).is_none());
        past.keep(&at(0.1, 3.0), None);
        for x in [2.0f64, 1.0, 0.0] {
            past.go_to(x.exp());
            let (start, solution) = (past.start(0).unwrap(), at(0.1, x));
            let off = start.iter().zip(&solution).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
            // As far from the last as the guide's was; then what is beside the parabola is on a line.
            let expected = [0.1, 0.0, 0.0][2 - x as usize];
            assert!((off - expected).abs() < 1e-12, "{x}: {off}");
            past.keep(&solution, None);
        }
        // Past the guide's end, or without one, there is but the line.
        past.go_to((-1.0f64).exp());
        assert!((past.start(0).unwrap()[0] + 1.1).abs() < 1e-12);
        assert!(Past::of_search().into_trail().is_none() && Past::after(guide).into_trail().is_none());
    }

    #[test]
    fn what_the_guide_had_at_a_place_is_taken_there() {
        let guide = |sharp: [Option<f64>; 3]| {
            let fit = |sharp| Waypoint { position: 0.0, solution: vec![0.0], sharp, blocks: None };
            Past::after(Some(Arc::new(sharp.map(fit).into())))
        };
        let mut past = guide([None, Some(0.5), Some(0.25)]);
        for expected in [None, Some(0.5), Some(0.25), None] {
            past.go_to(1.0);
            assert_eq!(past.sharp(), expected);
            past.keep(&[0.0], None);
            assert!(past.ended_sharp().is_none() && past.lent().is_none());
        }
        assert_eq!(Past::of_start(Some(0.1)).sharp(), Some(0.1));
    }
}
