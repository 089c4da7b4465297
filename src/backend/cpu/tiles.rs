//! How matrices lie in the backend's own memory: cut into tiles 32 wide.
//!
//! - Weights W, (d × h·q): tile s holds features 32·s.., as (h·q × 32), zeros past d.
//! - Logits and residual of a batch, (n × h·q): tile s holds samples 32·s.., as (h·q × 32).

use std::ops::{Deref, DerefMut};

use super::dot::Dot;
use super::lanes::{Element, Kernel, Lanes};
use crate::backend::{Parameters, Shape};
use crate::error::{Error, Result};

/// The width of a tile.
pub(super) const TILE: usize = 32;

/// The lines of the cache that a [`Buffer`] is made of, so that no vector straddles two.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
struct Line([f32; 16]);

/// Memory of its own for the backend: `f32` values, all zero at first.
#[derive(Debug, Default)]
pub(super) struct Buffer(Vec<Line>);

impl Buffer {
    /// rows × columns values, rounded up to whole lines.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], saying that the memory was for `what`.
    pub fn zeros(rows: usize, columns: usize, what: &str) -> Result<Self> {
        let n_lines = rows.checked_mul(columns).map_or(usize::MAX, |len| len.div_ceil(16));
        Ok(Self(allocate(Line([0.0; 16]), n_lines, what)?))
    }
}

/// `len` times `value`.
///
/// # Errors
/// [`Error::OutOfMemory`], saying that the memory was for `what`.
pub(super) fn allocate<T: Copy>(value: T, len: usize, what: &str) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| Error::OutOfMemory {
        device: "cpu".to_owned(),
        what: what.to_owned(),
        bytes: len.saturating_mul(size_of::<T>()) as u64,
    })?;
    values.resize(len, value);
    Ok(values)
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a Line is 16 f32 without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 16) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: a Line is 16 f32 without padding.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 16) }
    }
}

/// [`Parameters`] in tiles.
#[derive(Debug)]
pub(super) struct Weights {
    pub shape: Shape,
    /// W, (⌈d/32⌉ tiles of h·q × 32).
    pub w: Buffer,
    /// b, (h·q).
    pub bias: Vec<f32>,
}

impl Weights {
    /// `parameters` must have as many values as its shape says.
    pub fn new(parameters: &Parameters) -> Result<Self> {
        let shape = parameters.shape;
        let (d, m) = (shape.n_features, shape.n_outputs());
        let mut w = Buffer::zeros(d.div_ceil(TILE) * TILE, m, "the weights")?;
        for (tile, features) in w.chunks_exact_mut(m * TILE).zip(parameters.weights().chunks(m * TILE)) {
            for (lane, outputs) in features.chunks_exact(m).enumerate() {
                for (j, &value) in outputs.iter().enumerate() {
                    tile[j * TILE + lane] = value;
                }
            }
        }
        Ok(Self { shape, w, bias: parameters.bias().to_vec() })
    }

    pub fn parameters(&self) -> Parameters {
        let (d, m) = (self.shape.n_features, self.shape.n_outputs());
        let mut parameters = Parameters::zeros(self.shape);
        let (weights, bias) = parameters.values.split_at_mut(d * m);
        for (tile, features) in self.w.chunks_exact(m * TILE).zip(weights.chunks_mut(m * TILE)) {
            for (lane, outputs) in features.chunks_exact_mut(m).enumerate() {
                for (j, value) in outputs.iter_mut().enumerate() {
                    *value = tile[j * TILE + lane];
                }
            }
        }
        bias.copy_from_slice(&self.bias);
        parameters
    }
}

/// The feature matrix X, (n × d) row-major.
pub(super) struct Matrix<'a, T> {
    pub x: &'a [T],
    pub d: usize,
}

impl<T> Clone for Matrix<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Matrix<'_, T> {}

impl<'a, T> Matrix<'a, T> {
    /// The values of a row.
    pub fn row(self, row: u32) -> &'a [T] {
        &self.x[row as usize * self.d..][..self.d]
    }
}

/// Features `first..first + 32` of `rows` into `out`, (rows × 32) in `f32`, zeros past d.
#[inline(always)]
pub(super) fn pack_rows<L: Lanes, T: Element>(
    lanes: L,
    x: Matrix<T>,
    rows: impl Iterator<Item = u32>,
    first: usize,
    out: &mut [f32],
) {
    let count = TILE.min(x.d - first);
    for (row, out) in rows.zip(out.chunks_exact_mut(TILE)) {
        let from = x.row(row)[first..first + count].as_ptr();
        let to = out.as_mut_ptr();
        // SAFETY: `count` values can be read, 32 be written.
        unsafe {
            if count == TILE {
                for lane in (0..TILE).step_by(L::N) {
                    lanes.store(to.add(lane), T::load(lanes, from.add(lane)));
                }
            } else {
                for lane in (0..TILE).step_by(L::N) {
                    let count = L::N.min(count.saturating_sub(lane));
                    lanes.store(to.add(lane), T::load_first(lanes, from.wrapping_add(lane), count));
                }
            }
        }
    }
}

/// All features of up to 32 `rows` into `out`, (⌈d/32⌉·32 × 32) in `f32`, a row for each feature; zeros past the rows
/// and past d.
#[inline(always)]
pub(super) fn pack_columns<L: Lanes, T: Element>(
    lanes: L,
    x: Matrix<T>,
    rows: impl ExactSizeIterator<Item = u32> + Clone,
    out: &mut [f32],
) {
    let mut by_row = [0.0; TILE * TILE];
    for (first, out) in (0..x.d).step_by(TILE).zip(out.chunks_exact_mut(TILE * TILE)) {
        pack_rows(lanes, x, rows.clone(), first, &mut by_row);
        for (k, out) in out.chunks_exact_mut(TILE).enumerate() {
            for (r, out) in out.iter_mut().enumerate() {
                *out = by_row[r * TILE + k];
            }
        }
    }
}

/// Cuts `m` outputs into as few groups of at most `largest` as there must be, of sizes as equal as possible: first
/// output and size of each.
pub(super) fn groups(m: usize, largest: usize) -> impl Iterator<Item = (usize, usize)> {
    let n = m.div_ceil(largest);
    let (size, rest) = (m / n.max(1), m % n.max(1));
    (0..n).map(move |i| (i * size + i.min(rest), size + usize::from(i < rest)))
}

/// Sums of X·W over the features, without scale and intercept, of up to 32 `rows`, into the tile `out` (h·q × 32). For
/// few outputs: X is read as it lies.
pub(super) struct DotTile<'a, T> {
    pub x: Matrix<'a, T>,
    pub rows: &'a [u32],
    pub weights: &'a Weights,
    /// Rows to bring into the cache meanwhile, one with each product of four samples and a group of outputs, so that
    /// memory is asked evenly; [`DotTile::most_ahead`] at most.
    pub ahead: &'a [u32],
    pub out: &'a mut [f32],
}

impl<T> DotTile<'_, T> {
    /// How many rows can be asked for while a tile is multiplied with `m` outputs.
    pub fn most_ahead<L: Lanes>(m: usize) -> usize {
        TILE / 4 * m.div_ceil(L::DOT)
    }
}

impl<T: Element> Kernel for DotTile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { x, rows, weights, ahead, out } = self;
        let m = weights.bias.len();
        let n_tiles = x.d.div_ceil(TILE);
        assert!(rows.len() <= TILE && out.len() >= m * TILE && weights.w.len() >= n_tiles * m * TILE);
        let mut ahead = ahead.iter();
        for (group, four) in rows.chunks(4).enumerate() {
            // Past the end the last row stands again; nobody reads its result.
            let row = |i: usize| x.row(four[i.min(four.len() - 1)]).as_ptr();
            let four = [row(0), row(1), row(2), row(3)];
            for (j, n) in groups(m, L::DOT) {
                let dot = Dot {
                    x: four,
                    ahead: ahead.next().map_or(four[0], |&row| x.x.as_ptr().wrapping_add(row as usize * x.d)),
                    d: x.d,
                    w: weights.w[j * TILE..].as_ptr(),
                    w_stride: m * TILE,
                    out: out[j * TILE + group * 4..].as_mut_ptr(),
                };
                // SAFETY: four rows of d values, tiles of W for d features, out is 4·group into a tile of m rows.
                unsafe { lanes.dot(n, &dot) }
            }
        }
    }
}
