//! Numbers about predictions: log loss, accuracy, and precision, recall and F1 of each class.

use std::ops::Range;

use rayon::prelude::*;

use crate::data::{Targets, argmax};

/// Samples whose scores are held at a time.
const ROWS: usize = 1 << 14;
/// Logits that are worth a thread.
const PARALLEL: usize = 1 << 12;

/// How well a model predicts a data set.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// The number of samples, n.
    pub n_samples: usize,
    /// Mean cross-entropy in nats: (1/n)·Σ_i (log Σ_k exp(o_ik) − Σ_j y_ij·o_ij), without penalty.
    pub log_loss: f64,
    /// Share of the samples whose most probable class is their label (for soft labels the label's most probable class).
    pub accuracy: f64,
    /// For each class, in the order of the model's classes.
    pub classes: Vec<ClassMetrics>,
}

/// How well a model recognises one class. Counts are of samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassMetrics {
    /// Samples of the class.
    pub support: usize,
    /// Samples predicted to be of the class.
    pub predicted: usize,
    /// Samples of the class predicted to be of it.
    pub correct: usize,
}

impl ClassMetrics {
    /// Share of the samples predicted to be of the class that are; none when nothing was predicted to be.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.correct, self.predicted)
    }

    /// Share of the samples of the class that were predicted to be; none when there are no such samples.
    pub fn recall(&self) -> Option<f64> {
        ratio(self.correct, self.support)
    }

    /// Harmonic mean of precision and recall: 2·correct / (predicted + support); none when both are 0.
    pub fn f1(&self) -> Option<f64> {
        ratio(2 * self.correct, self.predicted + self.support)
    }
}

fn ratio(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Collects an [`Evaluation`] from logits that come block after block.
pub(crate) struct Evaluator<'a> {
    targets: &'a Targets<'a>,
    n_samples: usize,
    loss: f64,
    classes: Vec<ClassMetrics>,
}

impl<'a> Evaluator<'a> {
    pub(crate) fn new(targets: &'a Targets<'a>, n_classes: usize) -> Self {
        Self { targets, n_samples: 0, loss: 0.0, classes: vec![ClassMetrics::default(); n_classes] }
    }

    /// Takes the logits (rows × n_classes) of `rows`.
    pub(crate) fn add(&mut self, rows: Range<usize>, logits: &[f32]) {
        let n_classes = self.classes.len();
        // Of so many rows at a time, so that their results take little memory; summed in the order of the rows.
        let mut results = Vec::new();
        for (first, logits) in rows.step_by(ROWS).zip(logits.chunks(ROWS * n_classes)) {
            let rows = logits.par_chunks_exact(n_classes).enumerate().with_min_len((PARALLEL / n_classes).max(1));
            rows.map(|(row, logits)| score(self.targets, first + row, logits)).collect_into_vec(&mut results);
            self.n_samples += results.len();
            for score in results.iter().flatten() {
                self.classes[score.label].support += 1;
                self.classes[score.predicted].predicted += 1;
                self.classes[score.label].correct += usize::from(score.label == score.predicted);
                self.loss += score.loss;
            }
        }
    }

    pub(crate) fn finish(self) -> Evaluation {
        let correct: usize = self.classes.iter().map(|class| class.correct).sum();
        let n = self.n_samples.max(1) as f64;
        Evaluation {
            n_samples: self.n_samples,
            log_loss: self.loss / n,
            accuracy: correct as f64 / n,
            classes: self.classes,
        }
    }
}

/// What the logits of a sample say.
struct Score {
    label: usize,
    predicted: usize,
    loss: f64,
}

/// The score of sample `row`; none where there is no target for it.
fn score(targets: &Targets, row: usize, logits: &[f32]) -> Option<Score> {
    let label = targets.class(row, logits.len())?;
    let predicted = argmax(logits);
    let max = f64::from(logits[predicted]);
    let log_sum = logits.iter().map(|&o| (f64::from(o) - max).exp()).sum::<f64>().ln();
    // Relative to the maximum, so that Σ_j y_j needs not be exactly 1 and no large numbers cancel.
    let of_target = match targets {
        Targets::Classes(_) => f64::from(logits[label]) - max,
        Targets::Distributions(values) => values[row * logits.len()..][..logits.len()]
            .iter()
            .zip(logits)
            .map(|(&y, &o)| f64::from(y) * (f64::from(o) - max))
            .sum(),
    };
    Some(Score { label, predicted, loss: log_sum - of_target })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluate(targets: &Targets, logits: &[f32]) -> Evaluation {
        let mut evaluator = Evaluator::new(targets, 2);
        for (row, logits) in logits.chunks_exact(2).enumerate() {
            evaluator.add(row..row + 1, logits);
        }
        evaluator.finish()
    }

    #[test]
    fn a_coin_costs_ln_2_and_a_shift_changes_nothing() {
        let targets = Targets::Classes(vec![0, 1].into());
        for shift in [0.0, 1e4, -1e4] {
            let evaluation = evaluate(&targets, &[shift; 4]);
            assert!((evaluation.log_loss - 2f64.ln()).abs() < 1e-12);
            assert_eq!(evaluation.accuracy, 0.5);
        }
    }

    #[test]
    fn counts_by_class() {
        let targets = Targets::Classes(vec![0, 0, 1, 1].into());
        let evaluation = evaluate(&targets, &[1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        assert_eq!(evaluation.classes[0], ClassMetrics { support: 2, predicted: 1, correct: 1 });
        assert_eq!(evaluation.classes[1], ClassMetrics { support: 2, predicted: 3, correct: 2 });
        assert_eq!(evaluation.classes[1].precision(), Some(2.0 / 3.0));
        assert_eq!(evaluation.classes[1].recall(), Some(1.0));
        assert_eq!(evaluation.classes[1].f1(), Some(0.8));
    }

    #[test]
    fn one_hot_soft_labels_are_hard_labels() {
        let logits = [0.3, -0.2, 1.0, 5.0];
        let hard = evaluate(&Targets::Classes(vec![0, 1].into()), &logits);
        let soft = evaluate(&Targets::Distributions(vec![1.0, 0.0, 0.0, 1.0].into()), &logits);
        assert_eq!(hard, soft);
        let other = evaluate(&Targets::Distributions(vec![0.9, 0.1, 0.0, 1.0].into()), &logits);
        assert!(other.log_loss > hard.log_loss);
    }
}
