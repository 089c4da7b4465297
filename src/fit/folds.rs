//! How samples are divided for cross-validation.

use crate::batch::Shuffle;
use crate::data::Labels;
use crate::error::{Error, Result};

/// A division of the samples into k folds, each of which is left out once and predicted by a model of the others.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Folds {
    /// k folds in which each class has its share, its samples in their order: those of scikit-learn's `StratifiedKFold`
    /// without shuffling. Soft labels count as their most probable class.
    Stratified(usize),
    /// k folds of samples that follow each other, the first n mod k with one more: those of `KFold`.
    Contiguous(usize),
    /// k folds such that no group, whose number each sample has, is in two. The largest group comes first, and each to the
    /// fold with the fewest samples.
    Grouped(usize, Vec<u32>),
    /// A single fold, drawn at random, in which each class has its share; a class of one sample is not in it. All other samples are
    /// trained on by each model, so that a search takes a k-th of the time and knows no standard errors.
    Holdout {
        /// The share of the samples, above 0 and below 1.
        fraction: f64,
        /// The same seed draws the same samples.
        seed: u64,
    },
}

impl Default for Folds {
    fn default() -> Self {
        Self::Stratified(5)
    }
}

impl Folds {
    /// How many there are, k.
    pub fn n_folds(&self) -> usize {
        match *self {
            Self::Stratified(k) | Self::Contiguous(k) | Self::Grouped(k, _) => k,
            Self::Holdout { .. } => 1,
        }
    }

    /// The fold of each sample, 0..k; of a holdout 0, and 1 for the samples that are in no fold.
    ///
    /// # Errors
    /// [`Error::Setting`] for fewer than two folds, for more than there are samples or groups, and for a holdout without a sample, or
    /// of all; [`Error::Shape`] when there are not as many group numbers as samples.
    pub fn of(&self, labels: &Labels) -> Result<Vec<u32>> {
        let (k, n) = (self.n_folds(), labels.n_samples());
        if !matches!(self, Self::Holdout { .. }) && (k < 2 || k > n) {
            let expected = "at least 2, and no more than there are samples";
            return Err(Error::Setting { name: "the number of folds", value: k.to_string(), expected });
        }
        match self {
            Self::Stratified(_) => Ok(stratified(k, labels)),
            Self::Contiguous(_) => {
                let (size, more) = (n / k, n % k);
                let fold = |fold: usize| std::iter::repeat_n(fold as u32, size + usize::from(fold < more));
                Ok((0..k).flat_map(fold).collect())
            }
            Self::Grouped(_, groups) => grouped(k, groups, n),
            Self::Holdout { fraction, seed } => {
                let is_share = *fraction > 0.0 && *fraction < 1.0;
                let folds = if is_share { held_out(*fraction, *seed, labels) } else { Vec::new() };
                if folds.contains(&0) && folds.contains(&1) {
                    return Ok(folds);
                }
                let expected = "above 0 and below 1, with samples on either side";
                Err(Error::Setting { name: "the share to hold out", value: fraction.to_string(), expected })
            }
        }
    }
}

/// The rows of each class, those of soft labels by their most probable class.
pub(super) fn members(labels: &Labels) -> Vec<Vec<usize>> {
    let q = labels.classes().len();
    let mut members = vec![Vec::new(); q];
    for row in 0..labels.n_samples() {
        members[labels.targets().class(row, q).unwrap_or_default()].push(row);
    }
    members
}

/// 0 for about that share of each class, and of all; 1 for the others, of which each class has one at least.
fn held_out(fraction: f64, seed: u64, labels: &Labels) -> Vec<u32> {
    // Another stream than those of epochs and of a division into training and test data.
    let mut random = Shuffle::new(seed, u64::MAX - 1);
    let mut folds = vec![1; labels.n_samples()];
    let mut before = 0;
    let up_to = |n: usize| (n as f64 * fraction).round() as usize;
    for mut rows in members(labels).into_iter().filter(|rows| !rows.is_empty()) {
        random.shuffle(&mut rows);
        let after = before + rows.len();
        let n_held_out = (up_to(after) - up_to(before)).min(rows.len() - 1);
        rows[..n_held_out].iter().for_each(|&row| folds[row] = 0);
        before = after;
    }
    folds
}

/// Were the samples sorted by class, the classes in the order in which they first occur, and dealt out one by one, each fold would
/// get as many of a class as it gets here.
fn stratified(k: usize, labels: &Labels) -> Vec<u32> {
    let mut members = members(labels);
    members.retain(|rows| !rows.is_empty());
    members.sort_by_key(|rows| rows[0]);
    let mut folds = vec![0; labels.n_samples()];
    let mut first = 0;
    for rows in members {
        let dealt = first..first + rows.len();
        // How many of the positions go to each fold.
        let count = |fold: usize| dealt.clone().filter(|position| position % k == fold).count();
        let of_class = (0..k).flat_map(|fold| std::iter::repeat_n(fold as u32, count(fold)));
        rows.iter().zip(of_class).for_each(|(&row, fold)| folds[row] = fold);
        first = dealt.end;
    }
    folds
}

fn grouped(k: usize, groups: &[u32], n: usize) -> Result<Vec<u32>> {
    if groups.len() != n {
        let what = "group numbers (one for each sample)".to_owned();
        return Err(Error::Shape { what, expected: n, found: groups.len() });
    }
    let mut counts = std::collections::BTreeMap::<u32, usize>::new();
    groups.iter().for_each(|&group| *counts.entry(group).or_default() += 1);
    if counts.len() < k {
        let expected = "no more than there are groups";
        return Err(Error::Setting { name: "the number of folds", value: k.to_string(), expected });
    }
    let mut by_size: Vec<(u32, usize)> = counts.into_iter().collect();
    by_size.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let mut sizes = vec![0; k];
    let mut fold_of = std::collections::HashMap::new();
    for (group, count) in by_size {
        let lightest = (0..k).min_by_key(|&fold| sizes[fold]).unwrap_or_default();
        sizes[lightest] += count;
        fold_of.insert(group, lightest as u32);
    }
    Ok(groups.iter().map(|group| fold_of[group]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(classes: &[i64]) -> Labels<'static> {
        Labels::from_integers(classes).unwrap()
    }

    fn counts(folds: &[u32], k: usize, keep: impl Fn(usize) -> bool) -> Vec<usize> {
        (0..k).map(|fold| (0..folds.len()).filter(|&i| folds[i] as usize == fold && keep(i)).count()).collect()
    }

    /// scikit-learn 1.9.1: `StratifiedKFold(3)` on these labels.
    #[test]
    fn stratified_folds_are_those_of_scikit_learn() {
        let y = [1, 1, 0, 1, 2, 2, 2, 2, 0, 1, 0, 1, 0, 0, 1, 2, 0];
        let folds = [0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 2, 1, 2, 2, 2, 2];
        assert_eq!(Folds::Stratified(3).of(&labels(&y)).unwrap(), folds);
        assert_ne!(Folds::Contiguous(3).of(&labels(&y)).unwrap(), folds);
    }

    #[test]
    fn each_fold_has_its_share_of_each_class() {
        let y: Vec<i64> = (0..1003).map(|i| (i * i % 7) + i / 300).collect();
        for k in [2, 3, 5, 10] {
            let folds = Folds::Stratified(k).of(&labels(&y)).unwrap();
            for class in 0..10 {
                let counts = counts(&folds, k, |i| y[i] == class);
                assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{k} {class}: {counts:?}");
            }
            let contiguous = Folds::Contiguous(k).of(&labels(&y)).unwrap();
            assert!(contiguous.is_sorted() && contiguous != folds);
            let sizes = counts(&contiguous, k, |_| true);
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn no_group_is_in_two_folds() {
        let y: Vec<i64> = (0..500).map(|i| i % 3).collect();
        let groups: Vec<u32> = (0..500u32).map(|i| (i * i) % 41).collect();
        let folds = Folds::Grouped(4, groups.clone()).of(&labels(&y)).unwrap();
        let mut of_group = std::collections::HashMap::new();
        for (&group, &fold) in groups.iter().zip(&folds) {
            assert_eq!(*of_group.entry(group).or_insert(fold), fold);
        }
        let sizes = counts(&folds, 4, |_| true);
        assert!(sizes.iter().all(|&size| (100..=150).contains(&size)), "{sizes:?}");
        // The negative control: folds that know nothing of groups divide them.
        let others = Folds::Stratified(4).of(&labels(&y)).unwrap();
        assert!(groups.iter().zip(&others).any(|(&group, &fold)| {
            groups.iter().zip(&others).any(|(&other, &other_fold)| other == group && other_fold != fold)
        }));
    }

    #[test]
    fn a_holdout_has_its_share_of_each_class() {
        let y: Vec<i64> = (0..997).map(|i| i % 7 + i / 500).chain([50]).collect();
        let of = |fraction, seed| Folds::Holdout { fraction, seed }.of(&labels(&y)).unwrap();
        for fraction in [0.1, 0.25, 0.5, 0.9] {
            let folds = of(fraction, 0);
            let [held_out, trained_on] = counts(&folds, 2, |_| true)[..] else { panic!("not two parts") };
            assert!((held_out as f64 - 998.0 * fraction).abs() <= 2.0 && held_out + trained_on == 998);
            for class in 0..8 {
                let [held_out, trained_on] = counts(&folds, 2, |i| y[i] == class)[..] else { panic!("not two parts") };
                let expected = (held_out + trained_on) as f64 * fraction;
                assert!((held_out as f64 - expected).abs() <= 1.0, "{class} {fraction}: {held_out} {expected}");
            }
            assert_eq!(folds[997], 1, "the only sample of its class");
            assert!(of(fraction, 0) == folds && of(fraction, 1) != folds && !folds.is_sorted());
        }
        assert_eq!(Folds::Holdout { fraction: 0.1, seed: 0 }.n_folds(), 1);
    }

    #[test]
    fn folds_that_cannot_be_are_errors() {
        let y = labels(&[0, 1, 0, 1]);
        for folds in [Folds::Stratified(1), Folds::Contiguous(5), Folds::Grouped(3, vec![1, 1, 2, 2])] {
            assert!(matches!(folds.of(&y), Err(Error::Setting { .. })), "{folds:?}");
        }
        for fraction in [0.0, 1.0, -0.5, f64::NAN, 1e-3] {
            let folds = Folds::Holdout { fraction, seed: 0 };
            assert!(matches!(folds.of(&y), Err(Error::Setting { .. })), "{folds:?}");
        }
        assert!(Folds::Holdout { fraction: 0.5, seed: 0 }.of(&y).is_ok());
        assert!(matches!(Folds::Grouped(2, vec![1]).of(&y), Err(Error::Shape { expected: 4, found: 1, .. })));
    }
}
