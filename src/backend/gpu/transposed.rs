//! Sparse features of some samples by feature, as the kernels of the gradient read them.

use rayon::prelude::*;

use crate::data::Csr;

/// Samples in a segment, at most: a thread adds them one after the other. The samples of a feature are in as many segments
/// as they need.
const SEGMENT: usize = 128;

/// The samples of each feature that any of them has, features ascending, and those of the intercept. What sparse_gradient.wgsl,
/// sparse_reduce.wgsl and sparse_update.wgsl have as `members`, `segments` and `listed`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transposed {
    /// Sample and bits of the value.
    pub members: Vec<[u32; 2]>,
    /// Where each segment begins, and where the last one ends.
    pub segments: Vec<u32>,
    /// Feature, its first segment, the segment after its last, and how many steps it has had.
    pub listed: Vec<[u32; 4]>,
}

impl Transposed {
    /// Of the samples that `rows` names, which are numbered in that order; the intercept is feature `n_features`.
    pub fn new(csr: &Csr, rows: impl Iterator<Item = usize>, n_features: usize) -> Self {
        let mut members = Vec::new();
        let mut n_samples = 0;
        for (sample, row) in (0..).zip(rows) {
            let (columns, values) = csr.row(row);
            let of_row = columns.iter().zip(values).map(|(&column, value)| (column, sample, value.to_bits()));
            members.extend(of_row);
            n_samples = sample + 1;
        }
        // No sample has a feature twice, so that there is one order.
        members.par_sort_unstable_by_key(|&(feature, sample, _)| (feature, sample));
        members.extend((0..n_samples).map(|sample| (n_features as u32, sample, 1f32.to_bits())));

        let mut transposed = Self::default();
        for of_feature in members.chunk_by(|a, b| a.0 == b.0) {
            let first = transposed.segments.len() as u32;
            for segment in of_feature.chunks(SEGMENT) {
                transposed.segments.push(transposed.members.len() as u32);
                transposed.members.extend(segment.iter().map(|&(_, sample, value)| [sample, value]));
            }
            transposed.listed.push([of_feature[0].0, first, transposed.segments.len() as u32, 0]);
        }
        transposed.segments.push(transposed.members.len() as u32);
        transposed
    }

    /// How many segments there are.
    pub fn n_segments(&self) -> usize {
        self.segments.len().saturating_sub(1)
    }

    /// The most segments that so many values and intercepts together can have.
    pub fn most_segments(n_members: usize, n_features: usize) -> usize {
        n_members.min(n_features + 1) + n_members / SEGMENT
    }

    /// So many values and intercepts that they have no more than so many segments, whatever they are of.
    pub fn most_members(n_segments: usize, n_features: usize) -> usize {
        let of_one_each = n_segments - n_segments.div_ceil(SEGMENT + 1);
        let of_more = n_segments.saturating_sub(n_features + 1).saturating_mul(SEGMENT);
        of_one_each.max(of_more)
    }

    /// Puts those of other samples behind, with numbers of their own.
    pub fn append(&mut self, mut other: Self) {
        // The end of the one is the beginning of the other.
        let (member, segment) = (self.members.len() as u32, self.n_segments() as u32);
        self.segments.pop();
        self.segments.extend(other.segments.iter().map(|start| start + member));
        other.listed.iter_mut().for_each(|listed| {
            listed[1] += segment;
            listed[2] += segment;
        });
        self.listed.append(&mut other.listed);
        self.members.append(&mut other.members);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_by_feature_and_segments_end_where_features_do() {
        // [[0, 2, 0], [0, 0, 0], [1, 0, 3], [0, 4, 0]]
        let csr = Csr::new(vec![0, 1, 1, 3, 4], vec![1, 0, 2, 1], vec![2.0f32, 1.0, 3.0, 4.0]).unwrap();
        let [one, two, three, four] = [1f32, 2.0, 3.0, 4.0].map(f32::to_bits);
        let found = Transposed::new(&csr, [3, 0, 2, 1].into_iter(), 3);
        let intercept = (0..4).map(|sample| [sample, one]);
        let members: Vec<_> = [[2, one], [0, four], [1, two], [2, three]].into_iter().chain(intercept).collect();
        assert_eq!(found.members, members);
        assert_eq!(found.segments, [0, 1, 3, 4, 8]);
        assert_eq!(found.listed, [[0, 0, 1, 0], [1, 1, 2, 0], [2, 2, 3, 0], [3, 3, 4, 0]]);

        let mut joined = found.clone();
        joined.append(Transposed::new(&csr, [1, 3].into_iter(), 3));
        assert_eq!(joined.segments, [0, 1, 3, 4, 8, 9, 11]);
        assert_eq!(joined.listed[4..], [[1, 4, 5, 0], [3, 5, 6, 0]]);
        assert_eq!(joined.members[8..], [[1, four], [0, one], [1, one]]);
        let mut from_nothing = Transposed::default();
        from_nothing.append(found.clone());
        assert_eq!(from_nothing, found);
    }

    #[test]
    fn there_is_room_for_the_segments() {
        for n_rows in [1, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 5] {
            for n_features in [1, 2, 700] {
                // Row i has the features up to i.
                let columns = |row: usize| 0..(row % n_features + 1) as u32;
                let offsets: Vec<u64> = [0]
                    .into_iter()
                    .chain((0..n_rows).scan(0, |sum, row| {
                        *sum += columns(row).len() as u64;
                        Some(*sum)
                    }))
                    .collect();
                let values = vec![1f32; offsets[n_rows] as usize];
                let csr = Csr::new(offsets, (0..n_rows).flat_map(columns).collect::<Vec<_>>(), values).unwrap();
                let found = Transposed::new(&csr, 0..n_rows, n_features);
                let n_members = found.members.len();
                assert!(found.n_segments() <= Transposed::most_segments(n_members, n_features));
                for n_segments in [n_features + 1, 1000, 100_000] {
                    let n_members = Transposed::most_members(n_segments, n_features);
                    assert!(n_members > 0 && Transposed::most_segments(n_members, n_features) <= n_segments);
                }
            }
        }
    }
}
