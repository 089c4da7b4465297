//! How samples are divided for cross-validation.

use crate::data::Labels;
use crate::error::{Error, Result};

/// A division of the samples into k folds, each of which is left out once and predicted by a model of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
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
        }
    }

    /// The fold of each sample, 0..k.
    ///
    /// # Errors
    /// [`Error::Setting`] for fewer than two folds, and for more than there are samples or groups; [`Error::Shape`] when there are
    /// not as many group numbers as samples.
    pub fn of(&self, labels: &Labels) -> Result<Vec<u32>> {
        let (k, n) = (self.n_folds(), labels.n_samples());
        if k < 2 || k > n {
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
        }
    }
}

/// Were the samples sorted by class, the classes in the order in which they first occur, and dealt out one by one, each fold would
/// get as many of a class as it gets here.
fn stratified(k: usize, labels: &Labels) -> Vec<u32> {
    let q = labels.classes().len();
    let classes = (0..labels.n_samples()).map(|row| labels.targets().class(row, q).unwrap_or_default());
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); q];
    let mut order = Vec::new();
    for (row, class) in classes.enumerate() {
        if members[class].is_empty() {
            order.push(class);
        }
        members[class].push(row);
    }
    let mut folds = vec![0; labels.n_samples()];
    let mut first = 0;
    for class in order {
        let dealt = first..first + members[class].len();
        // How many of the positions go to each fold.
        let count = |fold: usize| dealt.clone().filter(|position| position % k == fold).count();
        let of_class = (0..k).flat_map(|fold| std::iter::repeat_n(fold as u32, count(fold)));
        members[class].iter().zip(of_class).for_each(|(&row, fold)| folds[row] = fold);
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
    fn folds_that_cannot_be_are_errors() {
        let y = labels(&[0, 1, 0, 1]);
        for folds in [Folds::Stratified(1), Folds::Contiguous(5), Folds::Grouped(3, vec![1, 1, 2, 2])] {
            assert!(matches!(folds.of(&y), Err(Error::Setting { .. })), "{folds:?}");
        }
        assert!(matches!(Folds::Grouped(2, vec![1]).of(&y), Err(Error::Shape { expected: 4, found: 1, .. })));
    }
}
