//! W in shards of columns, each of which a kernel can see at once. Kernels of dense features see all of W.

use std::ops::Range;

use super::Gpu;
use super::step::{BLOCK, Step, padded_outputs};
use crate::backend::Shape;
use crate::error::Result;

/// How many columns a thread takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// A block of four.
    Four,
    /// One, where there are so many features that four columns are more than a kernel can see.
    One,
}

impl Width {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Four, Self::One];

    pub(super) fn columns(self) -> usize {
        match self {
            Self::Four => BLOCK,
            Self::One => 1,
        }
    }

    /// The piece that stands above a shader.
    pub(super) fn source(self) -> &'static str {
        match self {
            Self::Four => include_str!("../../../shaders/shared/columns_4.wgsl"),
            Self::One => include_str!("../../../shaders/shared/columns_1.wgsl"),
        }
    }
}

/// The columns of W, (d + 1) × (h·q), that each shard has.
#[derive(Debug, Clone)]
pub(super) struct Shards {
    shape: Shape,
    pub width: Width,
    ranges: Vec<Range<usize>>,
}

impl Shards {
    /// One shard of all columns.
    pub fn whole(shape: Shape) -> Self {
        Self { shape, width: Width::Four, ranges: std::iter::once(0..padded_outputs(shape)).collect() }
    }

    /// As few as can be seen, `n_arrays` of the size of a shard in one buffer. An error when not even one column can.
    pub fn new(gpu: &Gpu, shape: Shape, n_arrays: usize) -> Result<Self> {
        let column_bytes = (shape.n_features as u64 + 1) * 4 * n_arrays as u64;
        gpu.check_binding("the weights of one class", column_bytes, "use fewer features or the device `cpu`")?;
        let most = (gpu.max_shard() / column_bytes) as usize;
        let (width, n_columns) = match most {
            0..BLOCK => (Width::One, shape.n_outputs()),
            _ => (Width::Four, padded_outputs(shape)),
        };
        let blocks = super::evenly(n_columns / width.columns(), (most / width.columns()).max(1));
        let ranges = blocks.map(|blocks| blocks.start * width.columns()..blocks.end * width.columns()).collect();
        Ok(Self { shape, width, ranges })
    }

    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// Columns of a shard.
    pub fn n_columns(&self, shard: usize) -> usize {
        self.ranges[shard].len()
    }

    /// Columns of the widest shard.
    pub fn most_columns(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).max().unwrap_or(0)
    }

    /// Values of a shard.
    pub fn n_values(&self, shard: usize) -> usize {
        (self.shape.n_features + 1) * self.n_columns(shard)
    }

    /// Bytes of the largest shard.
    pub fn most_bytes(&self) -> u64 {
        (self.shape.n_features as u64 + 1) * self.most_columns() as u64 * 4
    }

    /// What a kernel is told of a shard.
    pub fn step(&self, shard: usize, step: Step) -> Step {
        let columns = &self.ranges[shard];
        Step { first_column: columns.start as u32, n_columns: columns.len() as u32, ..step }
    }

    /// The values of a shard, of rows of h·q.
    pub fn gather<T: Copy>(&self, shard: usize, values: &[T], single: impl Fn(T) -> f32) -> Vec<f32> {
        let (m, columns) = (self.shape.n_outputs(), &self.ranges[shard]);
        let mut gathered = vec![0.0; values.len() / m * columns.len()];
        let inside = columns.start..columns.end.min(m);
        for (to, from) in gathered.chunks_exact_mut(columns.len()).zip(values.chunks_exact(m)) {
            to.iter_mut().zip(&from[inside.clone()]).for_each(|(to, &from)| *to = single(from));
        }
        gathered
    }

    /// Does `add` to each value of a shard with the one that is its in rows of h·q.
    pub fn scatter<T>(&self, shard: usize, values: &[f32], into: &mut [T], add: impl Fn(&mut T, f32)) {
        let (m, columns) = (self.shape.n_outputs(), &self.ranges[shard]);
        let inside = columns.start..columns.end.min(m);
        for (from, to) in values.chunks_exact(columns.len()).zip(into.chunks_exact_mut(m)) {
            to[inside.clone()].iter_mut().zip(from).for_each(|(to, &from)| add(to, from));
        }
    }
}
