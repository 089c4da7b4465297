//! The samples of a sweep, divided into what models are trained on and what they are evaluated on.

use crate::data::Dataset;
use crate::error::Result;
use crate::fit::Folds;

/// The samples in the order of their folds.
pub(super) struct Division<'d> {
    data: Dataset<'d>,
    /// Where each fold begins, and the end.
    starts: Vec<usize>,
}

impl<'d> Division<'d> {
    pub fn new(folds: &Folds, data: &'d Dataset<'d>) -> Result<Self> {
        let fold_of = folds.of(data.labels())?;
        let mut starts = vec![0; folds.n_folds() + 1];
        fold_of.iter().for_each(|&fold| starts[fold as usize + 1] += 1);
        (1..starts.len()).for_each(|fold| starts[fold] += starts[fold - 1]);
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

    /// The samples of the fold.
    pub fn of(&self, fold: usize) -> Result<Dataset<'_>> {
        self.data.rows(self.starts[fold]..self.starts[fold + 1])
    }
}
