//! Numbers about predictions: cross-entropy and other information in nats, accuracy, calibration, and precision, recall and
//! F1 of each class.
//!
//! Means are over the samples with their weights, if the data set has any ([`Dataset::with_weights`]): Σ_i s_i·f_i, s the
//! weights over their sum, without weights 1/n. Entropies and divergences are in nats; divided by ln 2 they are in bits
//! ([`bits`]). p are a sample's predicted probabilities, y its target: one-hot for a class, else a distribution.
//!
//! [`Dataset::with_weights`]: crate::Dataset::with_weights

use std::f64::consts::LN_2;
use std::ops::Range;

use rayon::prelude::*;

use crate::data::{Targets, argmax};

/// Samples whose scores are held at a time.
const ROWS: usize = 1 << 16;
/// Logits that are worth a thread.
const PARALLEL: usize = 1 << 12;
/// Bins of the calibration error, as in Guo et al. 2017.
const BINS: usize = 15;

/// How well a model predicts a data set.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// The number of samples, n.
    pub n_samples: usize,
    /// Mean cross-entropy in nats: the mean of log Σ_k exp(o_k) − Σ_j y_j·o_j = −Σ_j y_j·log p_j, without penalty.
    pub log_loss: f64,
    /// Share of the samples, by weight, whose most probable class is their label (for soft labels the label's most
    /// probable class).
    pub accuracy: f64,
    /// Entropy of the labels in nats: H(π) = −Σ_j π_j·log π_j, π the mean of y: the log loss of a model that knows the shares
    /// of the classes in this data and nothing of the samples.
    pub label_entropy: f64,
    /// Mean entropy of the predictions in nats, that of −Σ_j p_j·log p_j: how uncertain the model says it is. Where it says so
    /// rightly, this is near the log loss.
    pub prediction_entropy: f64,
    /// Mean entropy of the targets in nats, that of −Σ_j y_j·log y_j: 0 for classes. No model has a lower log loss.
    pub target_entropy: f64,
    /// Brier score: the mean of Σ_j (p_j − y_j)², between 0 and 2.
    pub brier_score: f64,
    /// Expected calibration error (Guo et al. 2017, "On Calibration of Modern Neural Networks"): Σ_b |mean over all samples of
    /// (1 if right else 0) − (probability of the predicted class), counted in bin b only|, in 15 bins of that probability,
    /// ((b − 1)/15, b/15]. 0.1 says that the model is by 0.1 surer, or less sure, than it is right.
    pub calibration_error: f64,
    /// For each class, in the order of the model's classes.
    pub classes: Vec<ClassMetrics>,
    /// Share of the samples whose label is the k-th most probable, k from 0 on.
    ranks: Vec<f64>,
}

impl Evaluation {
    /// Perplexity, exp(log loss): the number of equally likely classes among which the model is as unsure.
    pub fn perplexity(&self) -> f64 {
        self.log_loss.exp()
    }

    /// Mean Kullback–Leibler divergence of the predictions from the targets in nats, that of Σ_j y_j·log(y_j / p_j): the log
    /// loss less the entropy of the targets, which for classes is the log loss.
    pub fn kl_divergence(&self) -> f64 {
        // It is never negative, but targets are rounded.
        (self.log_loss - self.target_entropy).max(0.0)
    }

    /// Mutual information of features and labels as the model captures it, in nats: the entropy of the labels less the log
    /// loss. In expectation it is a lower bound of I(X; Y) (Barber and Agakov 2003, "The IM Algorithm"). Below 0 the model is
    /// worse than the shares of the classes.
    pub fn mutual_information(&self) -> f64 {
        self.label_entropy - self.log_loss
    }

    /// Share of the samples, by weight, whose label is among the k most probable classes; of equally probable ones the first
    /// come first, as in predictions, so that with k = 1 this is the accuracy.
    pub fn top_k_accuracy(&self, k: usize) -> f64 {
        let share: f64 = self.ranks.iter().take(k).sum();
        share.min(1.0)
    }
}

/// Nats in bits.
pub fn bits(nats: f64) -> f64 {
    nats / LN_2
}

/// How well a model recognises one class. Counts are of samples, whatever their weights.
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
#[derive(Clone)]
pub(crate) struct Evaluator<'a> {
    targets: &'a Targets<'a>,
    weights: Option<&'a [f32]>,
    n_samples: usize,
    sums: Sums,
    classes: Vec<ClassMetrics>,
    /// Of each rank of a label.
    ranks: Vec<f64>,
}

/// Sums of weight times figure.
#[derive(Clone, Default)]
struct Sums {
    weight: f64,
    loss: f64,
    correct: f64,
    entropy: f64,
    target_entropy: f64,
    brier: f64,
    /// Right less probability of the predicted class, in each bin of the latter.
    gaps: [f64; BINS],
}

impl Sums {
    fn add_score(&mut self, weight: f64, score: &Score) {
        let correct = f64::from(u8::from(score.label == score.predicted));
        let bin = (score.confidence * BINS as f64).ceil() as usize;
        self.gaps[bin.clamp(1, BINS) - 1] += weight * (correct - score.confidence);
        self.weight += weight;
        self.loss += weight * score.loss;
        self.correct += weight * correct;
        self.entropy += weight * score.entropy;
        self.target_entropy += weight * score.target_entropy;
        self.brier += weight * score.brier;
    }

    fn add(&mut self, other: &Self) {
        self.weight += other.weight;
        self.loss += other.loss;
        self.correct += other.correct;
        self.entropy += other.entropy;
        self.target_entropy += other.target_entropy;
        self.brier += other.brier;
        self.gaps.iter_mut().zip(other.gaps).for_each(|(sum, gap)| *sum += gap);
    }
}

/// Which classes a sample is about.
struct Outcome {
    label: u32,
    predicted: u32,
    rank: u32,
    weight: f32,
}

impl<'a> Evaluator<'a> {
    /// For a target for each sample, and a weight if they have any.
    pub(crate) fn new(targets: &'a Targets<'a>, weights: Option<&'a [f32]>, n_classes: usize) -> Self {
        Self {
            targets,
            weights,
            n_samples: 0,
            sums: Sums::default(),
            classes: vec![ClassMetrics::default(); n_classes],
            ranks: vec![0.0; n_classes],
        }
    }

    /// Takes the logits (rows × n_classes) of `rows`.
    pub(crate) fn add(&mut self, rows: Range<usize>, logits: &[f32]) {
        let n_classes = self.classes.len();
        let n_rows = (PARALLEL / n_classes).max(1);
        let (targets, weights) = (self.targets, self.weights);
        let block = |(first, logits): (usize, &[f32])| {
            let mut sums = Sums::default();
            let mut outcomes = Vec::with_capacity(n_rows);
            for (row, logits) in (first..).zip(logits.chunks_exact(n_classes)) {
                let Some(score) = score(targets, row, logits) else { continue };
                let weight = weights.and_then(|weights| weights.get(row)).map_or(1.0, |&weight| weight);
                sums.add_score(weight.into(), &score);
                let Score { label, predicted, rank, .. } = score;
                outcomes.push(Outcome { label, predicted, rank, weight });
            }
            (sums, outcomes)
        };
        // Of so many rows at a time, so that their results take little memory; summed in the order of the rows.
        let mut results = Vec::new();
        for (first, logits) in rows.step_by(ROWS).zip(logits.chunks(ROWS * n_classes)) {
            self.n_samples += logits.len() / n_classes;
            let blocks = logits.par_chunks(n_rows * n_classes).enumerate();
            blocks.map(|(index, logits)| block((first + index * n_rows, logits))).collect_into_vec(&mut results);
            for (sums, outcomes) in &results {
                self.sums.add(sums);
                outcomes.iter().for_each(|outcome| self.count(outcome));
            }
        }
    }

    fn count(&mut self, &Outcome { label, predicted, rank, weight }: &Outcome) {
        self.classes[label as usize].support += 1;
        self.classes[predicted as usize].predicted += 1;
        self.classes[label as usize].correct += usize::from(label == predicted);
        self.ranks[rank as usize] += f64::from(weight);
    }

    pub(crate) fn finish(self) -> Evaluation {
        let Self { targets, weights, n_samples, sums, classes, mut ranks } = self;
        let total = if sums.weight > 0.0 { sums.weight } else { 1.0 };
        ranks.iter_mut().for_each(|rank| *rank /= total);
        let totals = targets.class_totals(weights, classes.len());
        let all: f64 = totals.iter().sum();
        Evaluation {
            n_samples,
            log_loss: sums.loss / total,
            accuracy: sums.correct / total,
            label_entropy: totals.iter().map(|&of_class| entropy_term(of_class / all)).sum(),
            prediction_entropy: sums.entropy / total,
            target_entropy: sums.target_entropy / total,
            brier_score: sums.brier / total,
            calibration_error: sums.gaps.iter().map(|gap| gap.abs()).sum::<f64>() / total,
            classes,
            ranks,
        }
    }
}

/// −p·log p.
fn entropy_term(p: f64) -> f64 {
    if p > 0.0 { -p * p.ln() } else { 0.0 }
}

/// What the logits of a sample say.
struct Score {
    label: u32,
    predicted: u32,
    /// Classes that are more probable than the label.
    rank: u32,
    loss: f64,
    /// Probability of the predicted class.
    confidence: f64,
    entropy: f64,
    target_entropy: f64,
    brier: f64,
}

/// The score of sample `row`; none where there is no target for it.
fn score(targets: &Targets, row: usize, logits: &[f32]) -> Option<Score> {
    let label = targets.class(row, logits.len())?;
    let predicted = argmax(logits);
    let max = f64::from(logits[predicted]);
    // With e_j = exp(o_j − m): Σ e, Σ e², and Σ e·log e, of which p = e/Σ e has its squares and its entropy. Relative to the
    // maximum, so that Σ_j y_j needs not be exactly 1 and no large numbers cancel.
    let (mut sum, mut squares, mut products) = (0.0, 0.0, 0.0);
    let mut add = |o: f32| {
        let difference = f64::from(o) - max;
        let e = difference.exp();
        sum += e;
        squares += e * e;
        products += e * difference;
        (difference, e)
    };
    // Σ y·(o − m), Σ y·e, Σ y², and the entropy of y.
    let (mut of_target, mut overlap, mut target_squares, mut target_entropy) = (0.0, 0.0, 0.0, 0.0);
    match targets {
        Targets::Classes(_) => {
            for &o in logits {
                add(o);
            }
            of_target = f64::from(logits[label]) - max;
            overlap = of_target.exp();
            target_squares = 1.0;
        }
        Targets::Distributions(values) => {
            for (&y, &o) in values[row * logits.len()..][..logits.len()].iter().zip(logits) {
                let y = f64::from(y);
                let (difference, e) = add(o);
                of_target += y * difference;
                overlap += y * e;
                target_squares += y * y;
                target_entropy += entropy_term(y);
            }
        }
    }
    let log_sum = sum.ln();
    let of_label = logits[label];
    let (before, after) = (&logits[..label], &logits[label + 1..]);
    // Of equals the first come first.
    let rank = before.iter().filter(|&&o| o >= of_label).count() + after.iter().filter(|&&o| o > of_label).count();
    Some(Score {
        label: label as u32,
        predicted: predicted as u32,
        rank: rank as u32,
        loss: log_sum - of_target,
        confidence: 1.0 / sum,
        entropy: (log_sum - products / sum).max(0.0),
        target_entropy,
        brier: (squares / (sum * sum) - 2.0 * overlap / sum + target_squares).max(0.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluate(targets: &Targets, logits: &[f32]) -> Evaluation {
        let mut evaluator = Evaluator::new(targets, None, 2);
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

    const CLOSE: f64 = 1e-12;

    fn evaluate_all(targets: &Targets, weights: Option<&[f32]>, n_classes: usize, logits: &[f32]) -> Evaluation {
        let mut evaluator = Evaluator::new(targets, weights, n_classes);
        evaluator.add(0..logits.len() / n_classes, logits);
        evaluator.finish()
    }

    /// Two samples, three classes; the probabilities are (½, ¼, ¼) and (⅛, ¾, ⅛).
    fn by_hand() -> [f32; 6] {
        [0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln(), 0.125f32.ln(), 0.75f32.ln(), 0.125f32.ln()]
    }

    #[test]
    fn figures_are_those_by_hand() {
        let evaluation = evaluate_all(&Targets::Classes(vec![0, 2].into()), None, 3, &by_hand());
        let expected = [
            ("log loss", evaluation.log_loss, (2f64.ln() + 8f64.ln()) / 2.0),
            ("bits", bits(evaluation.log_loss), 2.0),
            ("perplexity", evaluation.perplexity(), 4.0),
            ("accuracy", evaluation.accuracy, 0.5),
            ("label entropy", evaluation.label_entropy, 2f64.ln()),
            ("target entropy", evaluation.target_entropy, 0.0),
            ("KL divergence", evaluation.kl_divergence(), 4f64.ln()),
            ("captured", evaluation.mutual_information(), 2f64.ln() - 4f64.ln()),
            // 1.5 bits, and 0.75·log2(4/3) + 0.25·3 bits.
            ("predictions", bits(evaluation.prediction_entropy), (1.5 + 0.75 * (4f64 / 3.0).log2() + 0.75) / 2.0),
            // ¼ + 2/16, and 1/64 + 9/16 + 49/64.
            ("Brier", evaluation.brier_score, (0.375 + 1.34375) / 2.0),
            // In bins of their own: 1 − ½, and ¾.
            ("calibration", evaluation.calibration_error, (0.5 + 0.75) / 2.0),
            ("top 1", evaluation.top_k_accuracy(1), 0.5),
            ("top 3", evaluation.top_k_accuracy(3), 1.0),
            ("top 9", evaluation.top_k_accuracy(9), 1.0),
            ("top 0", evaluation.top_k_accuracy(0), 0.0),
        ];
        for (what, found, expected) in expected {
            assert!((found - expected).abs() < 1e-7, "{what}: {found}, expected {expected}");
        }
        // Of classes 0 and 2 in the second row, which are equally probable, the first comes first.
        assert_eq!(evaluation.top_k_accuracy(2), 0.5);
        let first = evaluate_all(&Targets::Classes(vec![0, 0].into()), None, 3, &by_hand());
        assert_eq!(first.top_k_accuracy(2), 1.0);
    }

    #[test]
    fn uniform_predictions_have_the_entropy_of_the_classes_and_perfect_ones_none() {
        let targets = Targets::Classes(vec![0, 1, 2, 3].into());
        let uniform = evaluate_all(&targets, None, 4, &[7.0; 16]);
        for entropy in [uniform.log_loss, uniform.prediction_entropy, uniform.label_entropy] {
            assert!((bits(entropy) - 2.0).abs() < CLOSE, "{entropy}");
        }
        assert!(uniform.mutual_information().abs() < CLOSE && (uniform.perplexity() - 4.0).abs() < CLOSE);
        assert!((uniform.brier_score - 0.75).abs() < CLOSE && uniform.calibration_error < CLOSE);
        // All are tied: each label is as far down as its class.
        for k in 1..=4 {
            assert_eq!(uniform.top_k_accuracy(k), k as f64 / 4.0);
        }

        let sure: Vec<f32> = (0..16).map(|i| if i / 4 == i % 4 { 1e4 } else { -1e4 }).collect();
        let perfect = evaluate_all(&targets, None, 4, &sure);
        let zeros = [perfect.log_loss, perfect.prediction_entropy, perfect.brier_score, perfect.calibration_error];
        assert_eq!(zeros, [0.0; 4]);
        assert_eq!((perfect.mutual_information(), perfect.perplexity()), (perfect.label_entropy, 1.0));
        // As sure of what is wrong.
        let wrong = evaluate_all(&Targets::Classes(vec![1, 2, 3, 0].into()), None, 4, &sure);
        assert_eq!((wrong.log_loss, wrong.brier_score, wrong.calibration_error), (2e4, 2.0, 1.0));
    }

    /// Numbers between −1 and 1, the same in every run.
    fn numbers(n: usize) -> impl Iterator<Item = f32> {
        crate::bench::values(n)
    }

    #[test]
    fn cross_entropy_is_entropy_and_divergence() {
        let (n, q) = (500, 7);
        let logits: Vec<f32> = numbers(n * q).map(|o| 5.0 * o).collect();
        let mut y: Vec<f32> = numbers(2 * n * q).skip(n * q).map(f32::abs).collect();
        for y in y.chunks_exact_mut(q) {
            let sum: f32 = y.iter().sum();
            y.iter_mut().for_each(|y| *y /= sum);
        }
        let weights: Vec<f32> = numbers(n).map(f32::abs).collect();
        let evaluation = evaluate_all(&Targets::Distributions(y.clone().into()), Some(&weights), q, &logits);
        // The divergence from its definition.
        let (mut divergence, mut brier, mut total) = (0.0, 0.0, 0.0);
        for ((o, y), &w) in logits.chunks_exact(q).zip(y.chunks_exact(q)).zip(&weights) {
            let sum: f64 = o.iter().map(|&o| f64::from(o).exp()).sum();
            for (&o, &y) in o.iter().zip(y) {
                let (p, y) = (f64::from(o).exp() / sum, f64::from(y));
                divergence += f64::from(w) * if y > 0.0 { y * (y / p).ln() } else { 0.0 };
                brier += f64::from(w) * (p - y).powi(2);
            }
            total += f64::from(w);
        }
        // Rows of Y sum to 1 in single precision.
        assert!((evaluation.kl_divergence() - divergence / total).abs() < 1e-6, "{}", evaluation.kl_divergence());
        assert!((evaluation.brier_score - brier / total).abs() < CLOSE);
        assert!(evaluation.kl_divergence() > 0.0 && evaluation.target_entropy > 0.0);
        // Predictions that are the targets.
        let same: Vec<f32> = y.iter().map(|y| y.max(1e-30).ln()).collect();
        let same = evaluate_all(&Targets::Distributions(y.into()), Some(&weights), q, &same);
        assert!(same.kl_divergence() < 1e-6 && (same.log_loss - same.target_entropy).abs() < 1e-6);
        assert!((same.prediction_entropy - same.target_entropy).abs() < 1e-6 && same.brier_score < 1e-12);
    }

    /// Labels drawn from the predictions themselves are calibrated; half as sure logits, or thrice as sure, are not.
    #[test]
    fn calibration_error_is_near_0_where_labels_follow_the_predictions() {
        let (n, q) = (20_000, 5);
        let logits: Vec<f32> = numbers(n * q).map(|o| 2.0 * o).collect();
        let mut random = crate::batch::Shuffle::new(4, 2);
        let draw = |o: &[f32]| {
            let e: Vec<f64> = o.iter().map(|&o| f64::from(o).exp()).collect();
            let mut left = random.below(1 << 30) as f64 / (1 << 30) as f64 * e.iter().sum::<f64>();
            let passed = e.iter().take_while(|&&e| {
                left -= e;
                left >= 0.0
            });
            passed.count().min(q - 1) as u32
        };
        let targets = Targets::Classes(logits.chunks_exact(q).map(draw).collect());
        let error = |factor: f32| {
            let logits: Vec<f32> = logits.iter().map(|o| factor * o).collect();
            evaluate_all(&targets, None, q, &logits).calibration_error
        };
        // By chance a bin of m samples is off by about ½/√m.
        assert!(error(1.0) < 0.02, "{}", error(1.0));
        assert!(error(5.0) > 0.2 && error(0.3) > 0.05, "{} {}", error(5.0), error(0.3));
    }

    #[test]
    fn weights_are_repetitions_and_blocks_do_not_matter() {
        let (n, q) = (3 * ROWS, 3);
        let logits: Vec<f32> = numbers(n * q).map(|o| 3.0 * o).collect();
        let classes: Vec<u32> = (0..n as u32).map(|i| i * 7 % 3).collect();
        let counts: Vec<usize> = (0..n).map(|i| [2, 0, 1][i * 5 % 3]).collect();
        let weights: Vec<f32> = counts.iter().map(|&count| 0.25 * count as f32).collect();
        let rows = || (0..n).flat_map(|row| std::iter::repeat_n(row, counts[row]));
        let repeated: Vec<f32> = rows().flat_map(|row| &logits[row * q..][..q]).copied().collect();
        let a = evaluate_all(&Targets::Classes(classes.clone().into()), Some(&weights), q, &logits);
        let b = evaluate_all(&Targets::Classes(rows().map(|row| classes[row]).collect()), None, q, &repeated);
        let figures = |e: &Evaluation| {
            [e.log_loss, e.accuracy, e.label_entropy, e.prediction_entropy, e.brier_score, e.calibration_error]
                .into_iter()
                .chain((1..=q).map(|k| e.top_k_accuracy(k)))
                .collect::<Vec<_>>()
        };
        assert!(figures(&a).iter().zip(figures(&b)).all(|(a, b)| (a - b).abs() < 1e-9), "{a:?} {b:?}");
        assert!((a.top_k_accuracy(1) - a.accuracy).abs() < CLOSE);
        assert_eq!(a.classes.iter().map(|class| class.support).sum::<usize>(), n);
    }
}
