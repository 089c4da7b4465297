//! The order in which an epoch visits the samples: seeded shuffling, and batches that do not straddle two chunks.

use std::ops::Range;

/// A reproducible stream of random numbers: SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
/// generators"). The sequence is part of what a seed promises, so it is our own and does not change with a library.
#[derive(Debug, Clone)]
pub struct Shuffle(u64);

impl Shuffle {
    /// The stream `stream` of `seed`; different streams are independent.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut outer = Self(seed);
        let first = outer.next();
        Self(first ^ Self(stream).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`. The bias is below bound / 2⁶⁴.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Permutes `items` at random (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// One batch: positions `start..start + len` of [`Plan::order`], all rows of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The chunk its rows are in.
    pub chunk: usize,
    /// Its first position in the order.
    pub start: usize,
    /// How many samples it has.
    pub len: usize,
}

/// One epoch: each sample once.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Row numbers **within the chunk**, chunk after chunk: the positions of chunk c are those of its rows.
    pub order: Vec<u32>,
    /// The batches in the order of their steps.
    pub batches: Vec<Batch>,
}

impl Plan {
    /// The plan of epoch `epoch` for `seed`: the rows of each chunk are shuffled and cut into batches of `batch_size`
    /// (the last of a chunk may be shorter), then the batches of all chunks are shuffled. `chunks` are the row ranges
    /// that the backend holds separately, without a gap from 0 on. The same arguments give the same plan.
    pub fn new(chunks: &[Range<usize>], batch_size: usize, seed: u64, epoch: u64) -> Self {
        let mut random = Shuffle::new(seed, epoch);
        let mut order = Vec::with_capacity(chunks.last().map_or(0, |chunk| chunk.end));
        let mut batches = Vec::new();
        for (chunk, rows) in chunks.iter().enumerate() {
            order.extend(0..rows.len() as u32);
            random.shuffle(&mut order[rows.start..]);
            batches.extend(rows.clone().step_by(batch_size.max(1)).map(|start| Batch {
                chunk,
                start,
                len: batch_size.min(rows.end - start),
            }));
        }
        random.shuffle(&mut batches);
        Self { order, batches }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_visits_each_sample_once_and_no_batch_straddles_two_chunks() {
        for (ends, batch_size) in [(vec![10], 3), (vec![7, 8, 29], 4), (vec![5], 100), (vec![1], 1)] {
            let starts = [0].iter().chain(&ends);
            let chunks: Vec<_> = starts.zip(&ends).map(|(&start, &end)| start..end).collect();
            let n = chunks.last().unwrap().end;
            let plan = Plan::new(&chunks, batch_size, 1, 2);
            let mut seen = vec![0; n];
            for batch in &plan.batches {
                let rows = &chunks[batch.chunk];
                assert!(batch.len >= 1 && batch.len <= batch_size);
                assert!(rows.start <= batch.start && batch.start + batch.len <= rows.end);
                for &row in &plan.order[batch.start..batch.start + batch.len] {
                    assert!((row as usize) < rows.len());
                    seen[rows.start + row as usize] += 1;
                }
            }
            assert_eq!(seen, vec![1; n]);
        }
    }

    #[test]
    fn seed_and_epoch_decide_the_order() {
        let plan = |seed, epoch| Plan::new(&[0..100, 100..150], 8, seed, epoch).order;
        assert_eq!(plan(3, 4), plan(3, 4));
        assert_ne!(plan(3, 4), plan(3, 5));
        assert_ne!(plan(3, 4), plan(4, 4));
    }

    #[test]
    fn every_permutation_of_three_is_about_as_likely() {
        let mut counts = std::collections::HashMap::new();
        for seed in 0..6000 {
            let mut items = [0, 1, 2];
            Shuffle::new(seed, 0).shuffle(&mut items);
            *counts.entry(items).or_insert(0) += 1;
        }
        // Each of the six counts has mean 1000 and standard deviation 29; 150 is over five of them.
        assert!(counts.len() == 6 && counts.values().all(|&count: &i32| (count - 1000).abs() < 150), "{counts:?}");
    }
}
