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

/// Rounds of a [`Permutation`], each with a key of its own.
pub const KEYS: usize = 4;

/// A random permutation of the rows of a chunk of which each position can be computed alone, so that a device makes its
/// order itself. Twin: shaders/shuffle.wgsl.
///
/// Each round maps the numbers of as many bits as the rows need one to one: x ← (x ⊕ ⌊x / 2ˢ⌋)·m + a, s half the bits, m
/// odd. Where the result is no row, the rounds are repeated (cycle walking, Black and Rogaway 2002, "Ciphers with
/// arbitrary finite domains").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permutation {
    n: u32,
    /// m and a of each round.
    keys: [[u32; 2]; KEYS],
}

impl Permutation {
    /// A permutation of `0..n`.
    pub fn new(n: u32, random: &mut Shuffle) -> Self {
        Self { n, keys: std::array::from_fn(|_| [random.next() as u32 | 1, random.next() as u32]) }
    }

    /// How many rows are permuted.
    pub fn n(&self) -> usize {
        self.n as usize
    }

    /// m and a of each round.
    #[cfg(feature = "gpu")]
    pub(crate) fn keys(&self) -> &[[u32; 2]; KEYS] {
        &self.keys
    }

    /// The row at `position`, which is below n.
    pub fn row(&self, position: u32) -> u32 {
        let bits = (u32::BITS - self.n.saturating_sub(1).leading_zeros()).max(1);
        let (mask, shift) = (u32::MAX >> (u32::BITS - bits), bits.div_ceil(2));
        let mut x = position;
        loop {
            for [multiplier, addend] in self.keys {
                x = (x ^ (x >> shift)).wrapping_mul(multiplier).wrapping_add(addend) & mask;
            }
            x ^= x >> shift;
            // A cycle comes back to where it began, so that this ends.
            if x < self.n || self.n == 0 {
                return x;
            }
        }
    }
}

/// One batch: positions `start..start + len`, counted over all chunks, all of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The chunk its rows are in.
    pub chunk: usize,
    /// Its first position: the first row of the chunk, plus a position in the chunk's order.
    pub start: usize,
    /// How many samples it has.
    pub len: usize,
}

/// One epoch: each sample once.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The order of the rows of each chunk.
    pub orders: Vec<Permutation>,
    /// The batches in the order of their steps.
    pub batches: Vec<Batch>,
    /// What rows the chunks have, where they are not those of their ranges.
    pub blocks: Option<Blocks>,
}

/// Blocks of rows that are shuffled over all chunks.
#[derive(Debug, Clone)]
pub struct Blocks {
    /// Rows of a block.
    pub n_rows: usize,
    /// Which block is where; rows past the last whole one stay where they are.
    pub order: Permutation,
}

impl Plan {
    /// The plan of epoch `epoch` for `seed`: the rows of each chunk are shuffled and cut into batches of `batch_size`
    /// (the last of a chunk may be shorter), then the batches of all chunks are shuffled. `chunks` are the row ranges
    /// that the backend holds separately, without a gap from 0 on. The same arguments give the same plan.
    pub fn new(chunks: &[Range<usize>], batch_size: usize, seed: u64, epoch: u64) -> Self {
        Self::with_order(chunks, batch_size, seed, epoch, |random, batches| {
            let mut batches = batches.concat();
            random.shuffle(&mut batches);
            batches
        })
    }

    /// The same, but for chunks that are not all at hand: one chunk after the other. Blocks of `block_rows` rows are shuffled over all
    /// chunks, whose ranges begin with whole blocks: data that is sorted by class would otherwise have chunks of few classes.
    pub fn by_chunk(chunks: &[Range<usize>], block_rows: usize, batch_size: usize, seed: u64, epoch: u64) -> Self {
        let plan = Self::with_order(chunks, batch_size, seed, epoch, |_, batches| batches.concat());
        let n_samples = chunks.last().map_or(0, |chunk| chunk.end);
        let n_blocks = n_samples / block_rows.max(1);
        // Another stream than that of the orders.
        let order = Permutation::new(n_blocks as u32, &mut Shuffle::new(!seed, epoch));
        Self { blocks: Some(Blocks { n_rows: block_rows.max(1), order }), ..plan }
    }

    /// The rows of a chunk's range, in the order in which its own order counts them.
    pub fn rows_of(&self, chunk: &Range<usize>) -> Vec<Range<usize>> {
        let Some(Blocks { n_rows, order }) = &self.blocks else { return vec![chunk.clone()] };
        let mut rows = Vec::new();
        for position in chunk.clone().step_by(*n_rows) {
            let block = position / n_rows;
            // What is left over stays at the end.
            let start = if block < order.n() { order.row(block as u32) as usize * n_rows } else { position };
            rows.push(start..start + (*n_rows).min(chunk.end - position));
        }
        rows
    }

    /// `arrange` puts the batches of the chunks in order.
    fn with_order(
        chunks: &[Range<usize>],
        batch_size: usize,
        seed: u64,
        epoch: u64,
        arrange: impl Fn(&mut Shuffle, Vec<Vec<Batch>>) -> Vec<Batch>,
    ) -> Self {
        let mut random = Shuffle::new(seed, epoch);
        let mut orders = Vec::with_capacity(chunks.len());
        let mut batches = Vec::new();
        for (chunk, rows) in chunks.iter().enumerate() {
            orders.push(Permutation::new(rows.len() as u32, &mut random));
            let batch = |start| Batch { chunk, start, len: batch_size.min(rows.end - start) };
            batches.push(rows.clone().step_by(batch_size.max(1)).map(batch).collect());
        }
        Self { orders, batches: arrange(&mut random, batches), blocks: None }
    }

    /// The numbers **within the chunk** of the rows of all positions, chunk after chunk.
    pub fn order(&self) -> Vec<u32> {
        self.orders.iter().flat_map(|order| (0..order.n).map(|position| order.row(position))).collect()
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
            let order = plan.order();
            let mut seen = vec![0; n];
            for batch in &plan.batches {
                let rows = &chunks[batch.chunk];
                assert!(batch.len >= 1 && batch.len <= batch_size);
                assert!(rows.start <= batch.start && batch.start + batch.len <= rows.end);
                for &row in &order[batch.start..batch.start + batch.len] {
                    assert!((row as usize) < rows.len());
                    seen[rows.start + row as usize] += 1;
                }
            }
            assert_eq!(seen, vec![1; n]);
        }
    }

    #[test]
    fn seed_and_epoch_decide_the_order() {
        let plan = |seed, epoch| Plan::new(&[0..100, 100..150], 8, seed, epoch).order();
        assert_eq!(plan(3, 4), plan(3, 4));
        assert_ne!(plan(3, 4), plan(3, 5));
        assert_ne!(plan(3, 4), plan(4, 4));
    }

    /// Whether counts of equally likely outcomes are as even as chance makes them: χ² has mean and half its variance equal
    /// to the number of degrees of freedom.
    fn is_even(counts: &[usize]) -> bool {
        let expected = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
        let chi_squared: f64 = counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
        let freedom = counts.len() as f64 - 1.0;
        (chi_squared - freedom).abs() < 5.0 * (2.0 * freedom).sqrt()
    }

    #[test]
    fn a_permutation_has_each_row_once() {
        for n in [0, 1, 2, 3, 4, 5, 31, 32, 33, 1000, 65_535, 65_536, 65_537] {
            let permutation = Permutation::new(n, &mut Shuffle::new(1, 2));
            let mut rows: Vec<u32> = (0..n).map(|position| permutation.row(position)).collect();
            rows.sort();
            assert!(rows.into_iter().eq(0..n), "{n}");
        }
    }

    #[test]
    fn rows_of_a_permutation_are_as_likely_as_by_chance() {
        for n in [5, 8, 21, 33] {
            let (mut firsts, mut pairs) = (vec![0; n * n], vec![0; n * n]);
            for seed in 0..60_000 {
                let permutation = Permutation::new(n as u32, &mut Shuffle::new(seed, 0));
                let row = |position: u64| permutation.row((position % n as u64) as u32) as usize;
                let position = seed % n as u64;
                firsts[position as usize * n + row(position)] += 1;
                // Two positions one after the other, of which the second cannot be the first.
                pairs[row(position) * n + row(position + 1)] += 1;
            }
            assert!(firsts.chunks(n).all(is_even), "{n}: {firsts:?}");
            let pairs: Vec<usize> = (0..n * n).filter(|at| at / n != at % n).map(|at| pairs[at]).collect();
            assert!(is_even(&pairs), "{n}: {pairs:?}");
        }
        // The negative control: a rotation has even firsts, but each row has the same neighbour always.
        assert!(!is_even(&[100, 0, 0, 100]));
    }

    #[test]
    fn neighbours_of_an_order_are_far_apart() {
        // |difference| of two different rows at random: mean (n + 1)/3, variance about n²/18.
        for n in [10_000u32, 60_000] {
            for seed in 0..20 {
                let permutation = Permutation::new(n, &mut Shuffle::new(seed, 7));
                for distance in [1, 2, 128] {
                    let apart = |at: u32| permutation.row(at).abs_diff(permutation.row(at + distance));
                    let mean = (0..n - distance).map(|at| f64::from(apart(at))).sum::<f64>() / f64::from(n - distance);
                    let deviation = f64::from(n) / 18f64.sqrt() / f64::from(n).sqrt();
                    // Neighbouring differences share a row, which correlates them a little.
                    let expected = f64::from(n + 1) / 3.0;
                    assert!((mean - expected).abs() < 8.0 * deviation, "{n} {seed} {distance}: {mean} {expected}");
                }
            }
        }
    }

    #[test]
    fn chunks_of_blocks_have_each_row_once_and_rows_from_everywhere() {
        for (n, n_chunks, block_rows) in [(1000, 4, 10), (1003, 4, 10), (7, 3, 2), (5, 1, 8), (100_000, 10, 16)] {
            let n_blocks = usize::div_ceil(n, block_rows);
            let at = |chunk: usize| (n_blocks * chunk / n_chunks * block_rows).min(n);
            let chunks: Vec<_> = (0..n_chunks).map(|chunk| at(chunk)..at(chunk + 1)).collect();
            let plan = Plan::by_chunk(&chunks, block_rows, 32, 1, 2);
            assert!(plan.batches.is_sorted_by_key(|batch| batch.chunk));
            let rows: Vec<Vec<usize>> =
                chunks.iter().map(|chunk| plan.rows_of(chunk).into_iter().flatten().collect()).collect();
            assert!(rows.iter().zip(&chunks).all(|(rows, chunk)| rows.len() == chunk.len()));
            let mut all = rows.concat();
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
            // In data that is sorted by class, of which the first half is one, each chunk has about as many of it.
            if n == 100_000 {
                for rows in rows {
                    let share = rows.iter().filter(|&&row| row < n / 2).count() as f64 / rows.len() as f64;
                    assert!(
                        (share - 0.5).abs() < 5.0 * 0.5 / (rows.len() as f64 / block_rows as f64).sqrt(),
                        "{share}"
                    );
                }
                assert_ne!(plan.rows_of(&chunks[0]), Plan::by_chunk(&chunks, block_rows, 32, 1, 3).rows_of(&chunks[0]));
                assert_eq!(Plan::new(&chunks, 32, 1, 2).rows_of(&chunks[0]), [chunks[0].clone()]);
            }
        }
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
