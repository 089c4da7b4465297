//! The samples of a sweep, divided into what models are trained on and what they are evaluated on.

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::fit::Folds;

/// The samples in the order of their folds, those that are in none at the end.
pub(super) struct Division<'d> {
    data: Dataset<'d>,
    /// Where each fold begins, and the end of the last.
    starts: Vec<usize>,
}

impl<'d> Division<'d> {
    pub fn new(folds: &Folds, data: &'d Dataset<'d>) -> Result<Self> {
        let fold_of = folds.of(data.labels())?;
        // One more for samples that are in no fold.
        let mut starts = vec![0; folds.n_folds() + 2];
        fold_of.iter().for_each(|&fold| starts[fold as usize + 1] += 1);
        (1..starts.len()).for_each(|fold| starts[fold] += starts[fold - 1]);
        starts.truncate(folds.n_folds() + 1);
        let data = if fold_of.is_sorted() {
            data.rows(0..data.n_samples())?
        } else {
            let mut order: Vec<u32> = (0..fold_of.len() as u32).collect();
            order.sort_by_key(|&row| fold_of[row as usize]);
            data.select(&order)?
        };
        Ok(Self { data, starts })
    }

    /// All samples.
    pub fn data(&self) -> &Dataset<'d> {
        &self.data
    }

    /// All samples, those of the fold with weight 0.
    pub fn without(&self, fold: usize) -> Result<Dataset<'_>> {
        let n = self.data.n_samples();
        let mut weights = self.data.weights().map_or_else(|| vec![1.0; n], <[f32]>::to_vec);
        weights[self.starts[fold]..self.starts[fold + 1]].fill(0.0);
        self.data.rows(0..n)?.with_weights(weights)
    }

    /// All samples but those of the fold, in the same order.
    pub fn apart_from(&self, fold: usize) -> Result<Dataset<'_>> {
        let n = self.data.n_samples();
        let (start, end) = (self.starts[fold], self.starts[fold + 1]);
        if start == 0 {
            return self.data.rows(end..n);
        }
        if end == n {
            return self.data.rows(0..start);
        }
        let others: Vec<u32> = (0..start as u32).chain(end as u32..n as u32).collect();
        self.data.select(&others)
    }

    /// What the models cannot learn is an error, what cannot be evaluated in each fold a warning.
    pub fn check(&self) -> Result<Vec<String>> {
        let n_folds = self.starts.len() - 1;
        let folds = (0..n_folds).map(|fold| self.of(fold)).collect::<Result<Vec<_>>>()?;
        let of_folds: Vec<Vec<f64>> = folds.iter().map(Dataset::class_totals).collect();
        let totals = self.data.class_totals();
        let (mut absent, mut example) = (0, None);
        for (class, (name, &total)) in self.data.classes().iter().zip(&totals).enumerate().filter(|(_, of)| *of.1 > 0.0)
        {
            if let Some(fold) = (0..n_folds).find(|&fold| of_folds[fold][class] >= total) {
                let targets = folds[fold].labels().targets();
                let n_samples = targets.class_totals(None, totals.len())[class].round() as usize;
                return Err(Error::Fold { fold: fold + 1, class: name.clone(), n_samples });
            }
            let n_without = of_folds.iter().filter(|totals| totals[class] == 0.0).count();
            if n_without > 0 {
                absent += 1;
                example.get_or_insert((name, n_without));
            }
        }
        let warning = example.map(|(name, n_without)| {
            let others = match absent {
                1 => String::new(),
                2 => ", and one other class is like that".to_owned(),
                n => format!(", and {} other classes are like that", n - 1),
            };
            let folds = if n_folds == 1 {
                "the samples held out".to_owned()
            } else {
                format!("{n_without} of {n_folds} folds")
            };
            format!("no sample of the class {name:?} is in {folds}: it has too few{others}; it does not count there")
        });
        Ok(warning.into_iter().collect())
    }

    /// The samples of the fold.
    pub fn of(&self, fold: usize) -> Result<Dataset<'_>> {
        self.data.rows(self.starts[fold]..self.starts[fold + 1])
    }
}
