//! Features of numbers and of categories, in the order of the columns.

use std::ops::Range;

use rayon::prelude::*;

use super::columns::{Columns, Feature, Role};
use crate::data::files::MAX_FEATURES;
use crate::data::files::categories::Names;
use crate::data::{Csr, Features, Values, check_unique};
use crate::error::{Error, Place, Result};

/// One-hot features with more columns than this, or more values, are sparse where that is smaller.
const MAX_DENSE: (usize, usize) = (1000, 1 << 28);

/// Rows that a thread fills at once.
const ROWS: usize = 1024;

/// The code of a category that a model does not know.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// Where numbers and categories stand among the features.
pub(super) struct Layout {
    pub names: Vec<String>,
    /// The feature of each number of a row.
    of_numbers: Vec<u32>,
    /// The feature of each category of each one-hot column, by its code.
    of_categories: Vec<Vec<u32>>,
    /// The features of numbers that stand beside each other in both.
    runs: Vec<Range<usize>>,
}

impl Layout {
    pub fn new(columns: &Columns, categories: &[Names]) -> Result<Self> {
        let mut layout = Self {
            names: Vec::new(),
            of_numbers: vec![0; columns.n_numbers],
            of_categories: columns
                .one_hot
                .iter()
                .map(|one_hot| vec![0; one_hot.known.as_ref().map_or(0, Vec::len)])
                .collect(),
            runs: Vec::new(),
        };
        for feature in &columns.features {
            let next = layout.names.len() as u32;
            match *feature {
                Feature::Number(column) => {
                    if let Role::Number(index) = columns.roles[column] {
                        layout.of_numbers[index] = next;
                    }
                    layout.names.push(columns.names[column].clone());
                }
                Feature::Category(index, number) => {
                    layout.of_categories[index][number as usize] = next;
                    layout.names.extend(columns.wanted.iter().flatten().nth(next as usize).cloned());
                }
                Feature::Categories(index) => {
                    let column = &columns.names[columns.one_hot[index].column];
                    let (names, order) = categories[index].sorted()?;
                    layout.of_categories[index] = order.iter().map(|&number| next + number).collect();
                    layout.names.extend(names.iter().map(|name| format!("{column}={name}")));
                }
            }
            if layout.names.len() > MAX_FEATURES {
                let problem = format!("its columns and categories are more than {MAX_FEATURES} features");
                return Err(Error::malformed(Place::default(), problem));
            }
        }
        check_unique("feature", &layout.names)?;
        let runs = layout.of_numbers.chunk_by(|a, b| *b == a + 1);
        layout.runs = runs.map(|run| run[0] as usize..run[0] as usize + run.len()).collect();
        Ok(layout)
    }

    /// X, in which categories are 0 or 1.
    pub fn features(&self, n_rows: usize, numbers: &[f32], categories: &[Names]) -> Result<Features<'static>> {
        let d = self.names.len();
        // The feature of each value that is not zero.
        let of_row = |row: usize| {
            let numbers = numbers[row * self.of_numbers.len()..][..self.of_numbers.len()].iter();
            let numbers = self.of_numbers.iter().copied().zip(numbers.copied()).filter(|(_, value)| *value != 0.0);
            let one =
                move |(names, features): (&Names, &Vec<u32>)| Some((*features.get(names.codes[row] as usize)?, 1.0));
            numbers.chain(categories.iter().zip(&self.of_categories).filter_map(one))
        };
        let n_values = n_rows.saturating_mul(d);
        if !self.is_dense(n_rows) {
            let n_stored: usize = (0..n_rows).into_par_iter().map(|row| of_row(row).count()).sum();
            if n_stored.saturating_mul(2) < n_values {
                let (mut offsets, mut columns, mut values) =
                    (vec![0], Vec::with_capacity(n_stored), Vec::with_capacity(n_stored));
                let mut entries: Vec<(u32, f32)> = Vec::new();
                for row in 0..n_rows {
                    entries.clear();
                    entries.extend(of_row(row));
                    entries.sort_unstable_by_key(|(feature, _)| *feature);
                    columns.extend(entries.iter().map(|(feature, _)| *feature));
                    values.extend(entries.iter().map(|(_, value)| *value));
                    offsets.push(values.len() as u64);
                }
                return Features::new(Csr::new(offsets, columns, values)?, n_rows, d);
            }
        }
        let Ok(mut values) = bytemuck::allocation::try_zeroed_vec::<f32>(n_values) else {
            return Err(Error::out_of_memory("the one-hot features", n_values, 4));
        };
        let n_numbers = self.of_numbers.len();
        let fill = |(block, into): (usize, &mut [f32])| {
            let first = block * ROWS;
            self.fill(&numbers[first * n_numbers..], categories, first, into);
        };
        values.par_chunks_mut(ROWS * d.max(1)).enumerate().for_each(fill);
        Features::of_finite(Values::from(values), n_rows, d)
    }

    /// Whether so many rows are as well dense.
    pub fn is_dense(&self, n_rows: usize) -> bool {
        let d = self.names.len();
        d <= MAX_DENSE.0 && n_rows.saturating_mul(d) <= MAX_DENSE.1
    }

    /// Writes into zeros the rows that have these numbers, and the categories from `first` on.
    pub fn fill(&self, mut numbers: &[f32], categories: &[Names], first: usize, into: &mut [f32]) {
        for (i, into) in into.chunks_exact_mut(self.names.len().max(1)).enumerate() {
            for run in &self.runs {
                let (some, rest) = numbers.split_at(run.len());
                into[run.clone()].copy_from_slice(some);
                numbers = rest;
            }
            for (names, features) in categories.iter().zip(&self.of_categories) {
                if let Some(&feature) = features.get(names.codes[first + i] as usize) {
                    into[feature as usize] = 1.0;
                }
            }
        }
    }

    /// Leaves of rows only their numbers, in the order of the columns, and puts their categories before those that are there.
    pub fn take_back(&self, values: &mut Vec<f32>, categories: &mut [Names]) {
        let d = self.names.len().max(1);
        for (names, features) in categories.iter_mut().zip(&self.of_categories) {
            let is_one = |row: &[f32], feature: u32| row[feature as usize] != 0.0;
            let code = |row: &[f32]| features.iter().position(|&feature| is_one(row, feature));
            let codes = values.chunks_exact(d).map(|row| code(row).map_or(UNKNOWN, |code| code as u32));
            names.codes.splice(..0, codes);
        }
        let mut to = 0;
        for row in (0..values.len()).step_by(d) {
            for run in &self.runs {
                values.copy_within(row + run.start..row + run.end, to);
                to += run.len();
            }
        }
        values.truncate(to);
    }
}
