//! How matrices lie in the backend's own memory: cut into tiles 32 wide.
//!
//! - Weights W, (d × h·q): tile s holds features 32·s.., as (h·q × 32), zeros past d.
//! - Logits and residual of a batch, (n × h·q): tile s holds samples 32·s.., as (h·q × 32).

use std::ops::{Deref, DerefMut, Range};

use bytemuck::Zeroable;
use bytemuck::allocation::try_zeroed_vec;

use super::dot::Dot;
use super::lanes::{Element, Instructions, Kernel, Lanes};
use super::product::Outer;
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
    values.try_reserve_exact(len).map_err(|_| Error::out_of_memory(what, len, size_of::<T>()))?;
    values.resize(len, value);
    Ok(values)
}

/// `len` zeros, which the system makes when they are first touched.
///
/// # Errors
/// [`Error::OutOfMemory`], saying that the memory was for `what`.
pub(super) fn zeros<T: Zeroable>(len: usize, what: &str) -> Result<Vec<T>> {
    try_zeroed_vec(len).map_err(|()| Error::out_of_memory(what, len, size_of::<T>()))
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
    pub fn new(instructions: Instructions, parameters: &Parameters) -> Result<Self> {
        let shape = parameters.shape;
        let (d, m) = (shape.n_features, shape.n_outputs());
        let mut w = Buffer::zeros(d.div_ceil(TILE) * TILE, m, "the weights")?;
        into_tiles(instructions, parameters.weights(), m, w.chunks_exact_mut(m * TILE));
        Ok(Self { shape, w, bias: parameters.bias().to_vec() })
    }

    pub fn parameters(&self) -> Parameters {
        let (d, m) = (self.shape.n_features, self.shape.n_outputs());
        let mut parameters = Parameters::zeros(self.shape);
        let (weights, bias) = parameters.values.split_at_mut(d * m);
        from_tiles(self.w.chunks_exact(m * TILE), m, weights);
        bias.copy_from_slice(&self.bias);
        parameters
    }
}

/// A matrix of the size of W, (d × m) row-major, into tiles, (m × 32).
pub(super) fn into_tiles<'t>(
    instructions: Instructions,
    matrix: &[f32],
    m: usize,
    tiles: impl Iterator<Item = &'t mut [f32]>,
) {
    for (tile, rows) in tiles.zip(matrix.chunks(m * TILE)) {
        instructions.run(RowsToTile { rows, m, tile });
    }
}

/// Tiles, (m × 32), into a matrix of the size of W, (d × m) row-major.
pub(super) fn from_tiles<'t>(tiles: impl Iterator<Item = &'t [f32]>, m: usize, matrix: &mut [f32]) {
    for (tile, features) in tiles.zip(matrix.chunks_mut(m * TILE)) {
        for (lane, outputs) in features.chunks_exact_mut(m).enumerate() {
            for (j, value) in outputs.iter_mut().enumerate() {
                *value = tile[j * TILE + lane];
            }
        }
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

    /// Where a row starts, to bring it into the cache; it need not be there.
    pub fn start_of(self, row: u32) -> *const T {
        self.x.as_ptr().wrapping_add(row as usize * self.d)
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

/// All features of 1 to 32 `rows` into `out`, (⌈d/32⌉·32 × 32) in `f32`, a row for each feature; past the rows the last
/// one stands again, past d there are zeros.
#[inline(always)]
pub(super) fn pack_columns<L: Lanes, T: Element>(lanes: L, x: Matrix<T>, rows: &[u32], out: &mut [f32]) {
    let row = |i: usize| rows[i.min(rows.len() - 1)];
    let mut pointers = [std::ptr::null(); TILE];
    for (i, pointer) in pointers.iter_mut().enumerate() {
        *pointer = x.row(row(i)).as_ptr();
    }
    let n_slabs = x.d / TILE;
    let (slabs, last) = out.split_at_mut(n_slabs * TILE * TILE);
    for (slab, out) in slabs.chunks_exact_mut(TILE * TILE).enumerate() {
        transpose_tile(lanes, &pointers, slab * TILE, out);
    }
    if n_slabs * TILE < x.d {
        let mut by_row = [0.0; TILE * TILE];
        pack_rows(lanes, x, (0..TILE).map(row), n_slabs * TILE, &mut by_row);
        let pointers = std::array::from_fn(|i| by_row[i * TILE..].as_ptr());
        transpose_tile(lanes, &pointers, 0, &mut last[..TILE * TILE]);
    }
}

/// The values `first..first + 32` of 32 rows, which must have them, into columns of `out`, (32 × 32).
#[inline(always)]
fn transpose_tile<L: Lanes, T: Element>(lanes: L, rows: &[*const T; TILE], first: usize, out: &mut [f32]) {
    assert!(out.len() >= TILE * TILE);
    for k in (0..TILE).step_by(L::N) {
        for i in (0..TILE).step_by(L::N) {
            // SAFETY: rows have N values from there on, out N places of N values.
            unsafe { lanes.transpose(&rows[i..i + L::N], first + k, out.as_mut_ptr().add(k * TILE + i), TILE) };
        }
    }
}

/// Up to 32 `rows` of m values become a tile, (m × 32), which is not changed past them.
pub(super) struct RowsToTile<'a> {
    pub rows: &'a [f32],
    pub m: usize,
    pub tile: &'a mut [f32],
}

impl Kernel for RowsToTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { rows, m, tile } = self;
        assert!(tile.len() >= m * TILE);
        if m >= L::N && rows.len() == TILE * m {
            let mut pointers = [std::ptr::null(); TILE];
            pointers.iter_mut().zip(rows.chunks_exact(m)).for_each(|(pointer, row)| *pointer = row.as_ptr());
            for first in starts(m, L::N) {
                for i in (0..TILE).step_by(L::N) {
                    let to = tile[first * TILE + i..].as_mut_ptr();
                    // SAFETY: rows have N values from `first` on; N places of N values in a tile of m rows.
                    unsafe { lanes.transpose(&pointers[i..i + L::N], first, to, TILE) };
                }
            }
            return;
        }
        for (lane, row) in rows.chunks_exact(m).enumerate() {
            for (j, &value) in row.iter().enumerate() {
                tile[j * TILE + lane] = value;
            }
        }
    }
}

/// Where blocks of `n` of `m` ≥ n outputs start; the last may have some of those of the one before.
fn starts(m: usize, n: usize) -> impl Iterator<Item = usize> {
    (0..m).step_by(n).map(move |first| first.min(m - n))
}

/// A tile, (m × 32), becomes its rows: scale·tile + bias, (up to 32 × m) in `out`.
pub(super) struct TileToRows<'a> {
    /// Changed on the way.
    pub tile: &'a mut [f32],
    pub scale: f32,
    pub bias: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for TileToRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { tile, scale, bias, out } = self;
        let m = bias.len();
        assert!(tile.len() >= m * TILE);
        for (values, &b) in tile.chunks_exact_mut(TILE).zip(bias) {
            for values in values.chunks_exact_mut(L::N) {
                let at = values.as_mut_ptr();
                // SAFETY: there are N values.
                unsafe { lanes.store(at, lanes.mul_add(lanes.load(at), lanes.splat(scale), lanes.splat(b))) };
            }
        }
        if m >= L::N && out.len() == TILE * m {
            for first in starts(m, L::N) {
                for lane in (0..TILE).step_by(L::N) {
                    let mut rows = [std::ptr::null(); TILE];
                    for (row, values) in rows.iter_mut().zip(tile[first * TILE..].chunks_exact(TILE)).take(L::N) {
                        *row = values.as_ptr();
                    }
                    // SAFETY: N rows of 32 values; N places of N values, in rows of m.
                    unsafe { lanes.transpose(&rows[..L::N], lane, out[lane * m + first..].as_mut_ptr(), m) };
                }
            }
            return;
        }
        for (lane, out) in out.chunks_exact_mut(m).enumerate() {
            for (o, values) in out.iter_mut().zip(tile.chunks_exact(TILE)) {
                *o = values[lane];
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
    /// Those that are summed over, from a multiple of 32 on.
    pub features: Range<usize>,
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
        let Self { x, features, rows, weights, ahead, out } = self;
        let m = weights.bias.len();
        let n_tiles = features.end.div_ceil(TILE);
        assert!(rows.len() <= TILE && out.len() >= m * TILE && weights.w.len() >= n_tiles * m * TILE);
        assert!(features.start.is_multiple_of(TILE) && features.end <= x.d);
        let mut ahead = ahead.iter();
        for (group, four) in rows.chunks(4).enumerate() {
            // Past the end the last row stands again; nobody reads its result.
            let row = |i: usize| x.row(four[i.min(four.len() - 1)])[features.start..].as_ptr();
            let four = [row(0), row(1), row(2), row(3)];
            for (j, n) in groups(m, L::DOT) {
                let dot = Dot {
                    x: four,
                    ahead: ahead.next().map_or(four[0], |&row| x.start_of(row).wrapping_add(features.start)),
                    d: features.len(),
                    w: weights.w[features.start * m + j * TILE..].as_ptr(),
                    w_stride: m * TILE,
                    out: out[j * TILE + group * 4..].as_mut_ptr(),
                };
                // SAFETY: four rows of d values, tiles of W for d features, out is 4·group into a tile of m rows.
                unsafe { lanes.dot(n, &dot) }
            }
        }
    }
}

/// Xᵀ·R of up to 32 `rows`, into tile after tile of the features, (h·q × 32) each. For few outputs: X is read as it lies.
pub(super) struct OuterTile<'a, T> {
    pub x: Matrix<'a, T>,
    /// From a multiple of 32 on.
    pub features: Range<usize>,
    pub rows: &'a [u32],
    /// R, (h·q × 32).
    pub residual: &'a [f32],
    /// Rows to bring into the cache meanwhile.
    pub ahead: &'a [u32],
    /// Lanes past the features stay as they are.
    pub out: &'a mut [f32],
    /// Whether to add to `out`; otherwise it is overwritten.
    pub add: bool,
}

impl<T: Element> Kernel for OuterTile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { x, features, rows, residual, ahead, out, add } = self;
        let m = residual.len() / TILE;
        assert!(features.start.is_multiple_of(TILE) && features.end <= x.d && rows.len() <= TILE);
        assert!(out.len() >= features.len().div_ceil(TILE) * m * TILE);
        let mut rows_of_x = [std::ptr::null(); TILE];
        for (pointer, &row) in rows_of_x.iter_mut().zip(rows) {
            *pointer = x.row(row).as_ptr();
        }
        for (first, out) in features.clone().step_by(TILE).zip(out.chunks_exact_mut(m * TILE)) {
            // Once for each line of the cache.
            let is_new_line = (first * size_of::<T>()).is_multiple_of(64);
            for &row in ahead.iter().filter(|_| is_new_line) {
                let at = x.start_of(row).wrapping_add(first).cast::<u8>();
                lanes.prefetch(at);
                if size_of::<T>() > 2 {
                    lanes.prefetch(at.wrapping_add(64));
                }
            }
            for (j, n) in groups(m, L::TILE) {
                let outer = Outer {
                    rows: &rows_of_x[..rows.len()],
                    first,
                    n: TILE.min(features.end - first),
                    b: residual[j * TILE..].as_ptr(),
                    out: out[j * TILE..].as_mut_ptr(),
                    add,
                };
                // SAFETY: the rows have the features, residual and out m rows.
                unsafe { lanes.outer(n, &outer) }
            }
        }
    }
}
