//! The features by columns.

use super::super::tiles::allocate;
use super::Matrix;
use super::sum::SparseRow;
use crate::error::Result;

/// Blocks of features that threads take one after the other, at most.
const MOST_BLOCKS: usize = 512;
/// Values of a block at least.
const LEAST_BLOCK: usize = 256;

/// For each feature its samples, ascending, and their values.
pub(super) struct Transposed {
    /// (d + 1)
    offsets: Vec<u64>,
    samples: Vec<u32>,
    values: Vec<f32>,
    /// Where blocks of features end, each of about as much work.
    ends: Vec<usize>,
}

impl Transposed {
    pub fn new(Matrix { x, d, .. }: Matrix) -> Result<Self> {
        let n_values = x.values().len();
        let mut offsets = allocate(0u64, d.saturating_add(1), "the features by columns")?;
        let mut samples = allocate(0u32, n_values, "the features by columns")?;
        let mut values = allocate(0f32, n_values, "the features by columns")?;
        for &column in x.columns() {
            offsets[column as usize + 1] += 1;
        }
        for k in 0..d {
            offsets[k + 1] += offsets[k];
        }
        // Where the next value of each feature goes; afterwards its end.
        for row in 0..x.n_rows() {
            let (columns, of_row) = x.row(row);
            for (&column, &value) in columns.iter().zip(of_row) {
                let next = &mut offsets[column as usize];
                (samples[*next as usize], values[*next as usize]) = (row as u32, value);
                *next += 1;
            }
        }
        offsets.copy_within(0..d, 1);
        offsets[0] = 0;

        // A feature is a row of the gradient to write besides.
        let least = (n_values + d).div_ceil(MOST_BLOCKS).max(LEAST_BLOCK);
        let (mut ends, mut begin) = (Vec::new(), 0);
        for k in 0..d {
            let work = (offsets[k + 1] - offsets[begin]) as usize + (k + 1 - begin);
            if work >= least || k + 1 == d {
                ends.push(k + 1);
                begin = k + 1;
            }
        }
        Ok(Self { offsets, samples, values, ends })
    }

    pub fn feature(&self, k: usize) -> SparseRow<'_> {
        let range = self.offsets[k] as usize..self.offsets[k + 1] as usize;
        SparseRow { indices: &self.samples[range.clone()], values: &self.values[range] }
    }

    /// Cuts `rows`, (d × m), into blocks: the first feature of each, and its rows.
    pub fn blocks<'r, T>(&self, mut rows: &'r mut [T], m: usize) -> Vec<(usize, &'r mut [T])> {
        let mut first = 0;
        let mut blocks = Vec::with_capacity(self.ends.len());
        for &end in &self.ends {
            let (block, rest) = rows.split_at_mut((end - first) * m);
            blocks.push((first, block));
            (first, rows) = (end, rest);
        }
        blocks
    }
}
