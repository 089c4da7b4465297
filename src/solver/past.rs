//! What a fit knows of those before it on a path of penalties.

use super::proximal::Inheritance;
use crate::backend::cpu::Moments;

/// The last solutions, in centred coordinates, and what was learned of the curvature.
#[derive(Default)]
pub(crate) struct Past {
    /// The logarithm of the penalty's factor in the fit to come; nothing of a fit of its own.
    position: Option<f64>,
    /// Positions and solutions, the older first; two at most.
    solutions: Vec<(f64, Vec<f64>)>,
    /// Where there is an l1 penalty.
    pub(super) curvature: Option<Inheritance>,
    /// What the features are multiplied by, and their moments then, which are the same for all fits of a path.
    pub(crate) feature_scale: Option<f32>,
    pub(crate) moments: Option<Moments>,
    /// G of the features that vary, where there is no l1 penalty.
    pub(super) gram: Option<Vec<f64>>,
    /// The mean curvature of the classes, as it was last taken, where the last fit ended with the Hessian class by class: then the next one
    /// begins with it.
    pub(crate) sharp: Option<f64>,
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

    /// Of a fit of its own whose start is near the solution, where others had the Hessian class by class.
    pub fn of_start(sharp: Option<f64>) -> Self {
        Self { sharp, ..Self::default() }
    }

    pub fn is_search(&self) -> bool {
        self.is_search
    }

    /// The last solution.
    pub fn last(&self) -> Option<Vec<f64>> {
        self.solutions.last().map(|(_, solution)| solution.clone())
    }

    pub fn is_empty(&self) -> bool {
        self.solutions.is_empty()
    }

    /// Whether there may be fits after the present one.
    pub fn is_path(&self) -> bool {
        self.position.is_some()
    }

    /// The fit to come is at this factor of the penalty.
    pub fn go_to(&mut self, factor: f64) {
        self.position = Some(factor.ln());
    }

    /// Takes the solution of the present fit.
    pub fn keep(&mut self, solution: &[f64]) {
        let Some(position) = self.position else { return };
        if self.solutions.len() == 2 {
            self.solutions.remove(0);
        }
        self.solutions.push((position, solution.to_vec()));
    }

    /// Where the solution is expected: on the line through the last two, over the logarithm of the factor. A weight that is 0, or
    /// would change its sign, is 0; the last `n_free` values are not penalised and may.
    pub fn start(&self, n_free: usize) -> Option<Vec<f64>> {
        let (last_position, last) = self.solutions.last()?;
        let mut start = last.clone();
        if let ([(position, solution), _], Some(next)) = (&self.solutions[..], self.position) {
            let t = (next - last_position) / (last_position - position);
            if t > 0.0 && t.is_finite() {
                let t = t.min(FARTHEST);
                let n_weights = start.len() - n_free;
                for (i, (value, before)) in start.iter_mut().zip(solution).enumerate() {
                    let next = *value + t * (*value - before);
                    *value = if i < n_weights && *value * next <= 0.0 { 0.0 } else { next };
                }
            }
        }
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_on_the_line_through_the_last_two() {
        let mut past = Past::default();
        past.keep(&[5.0]);
        assert!(past.is_empty() && !past.is_path());
        past.go_to(8.0);
        assert_eq!(past.start(1), None);
        past.keep(&[9.0, 9.0, 9.0, 9.0]);
        past.go_to(4.0);
        assert_eq!(past.start(1), Some(vec![9.0, 9.0, 9.0, 9.0]));
        past.keep(&[1.0, 3.0, 0.0, 1.0]);
        past.go_to(2.0);
        past.keep(&[2.0, 1.0, 0.0, -1.0]);
        past.go_to(1.0);
        // The second would change its sign, the third is 0, the last is free.
        let start = past.start(1).unwrap();
        assert!((start[0] - 3.0).abs() < 1e-12 && start[1..3] == [0.0, 0.0] && (start[3] + 3.0).abs() < 1e-12);
        // Back, or nowhere: the last one.
        past.go_to(4.0);
        assert_eq!(past.start(1), Some(vec![2.0, 1.0, 0.0, -1.0]));
        // No further than twice as far.
        past.go_to(1e-9);
        assert_eq!(past.start(1).unwrap()[0], 4.0);
    }
}
