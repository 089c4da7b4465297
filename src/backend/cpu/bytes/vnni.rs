//! With AVX-512 and its instructions for bytes (VNNI): four products of unsigned and signed bytes, added to a whole number of 32 bits,
//! in each of 16 lanes.

#![allow(clippy::undocumented_unsafe_blocks, reason = "one comment, after the impl, says it for all functions")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::SAMPLES;
use crate::backend::Shape;
use crate::backend::cpu::lanes::sum4;
use crate::backend::cpu::tiles::{Matrix, TILE, allocate, groups};
use crate::error::Result;

/// The proof that the processor has these instructions, and those of AVX-512 that the rest takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::cpu) struct Bytes(());

/// Features of a vector.
const SLAB: usize = 64;
/// Samples whose bytes are multiplied and summed by one instruction.
const GROUP: usize = 4;
/// The largest multiple of a unit: 127 in all digits, less what rounding may add.
pub(super) const LARGEST: f32 = (127 * (1 + (1 << 8) + (1 << 16)) - 3) as f32;
/// Features of which the first two digits' sums stay below 2³¹ in each lane: 64·4·255·128·(1 + 2⁸) is just below.
const BLOCK: usize = 64 * SLAB;
/// Outputs whose sums fit into registers: of four samples, and of 16 features.
const DOT: usize = 2;
const OUTER: usize = 10;
/// Vectors of 16 features in a slab.
const QUARTERS: usize = SLAB / 16;

/// A vector of digits.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
struct Vector([i8; SLAB]);

/// W in digits.
#[derive(Debug)]
pub(in crate::backend::cpu) struct WeightDigits {
    /// (⌈d/64⌉ × h·q × 3), zeros past d.
    digits: Vec<Vector>,
    /// The unit of each output.
    units: Vec<f32>,
}

impl WeightDigits {
    /// Of all weights 0.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn new(shape: Shape) -> Result<Self> {
        let (m, what) = (shape.n_outputs(), "the digits of the weights");
        let n_vectors = shape.n_features.div_ceil(SLAB).saturating_mul(m).saturating_mul(3);
        Ok(Self { digits: allocate(Vector([0; SLAB]), n_vectors, what)?, units: allocate(0.0, m, what)? })
    }

    /// How far a logit without scale may be from what it is, at most: half a unit for each of `d` features of 255. NaN where W is not finite.
    pub fn error(&self, d: usize) -> f32 {
        self.units.iter().fold(0.0, |most: f32, &unit| if unit > most || unit.is_nan() { unit } else { most })
            * 127.5
            * d as f32
    }
}

/// The digits of four samples: their first, their second, their third and nothing.
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy)]
struct OfGroup([[i8; GROUP]; 4]);

/// The residual of up to 64 samples in digits.
#[derive(Debug)]
pub(in crate::backend::cpu) struct ResidualDigits {
    /// (h·q × 16).
    digits: Vec<OfGroup>,
    /// The unit of each output.
    units: Vec<f32>,
    n_samples: usize,
}

impl ResidualDigits {
    /// Of no samples.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn new(shape: Shape) -> Result<Self> {
        let (m, what) = (shape.n_outputs(), "the digits of the residual");
        let n_groups = m.saturating_mul(SAMPLES / GROUP);
        Ok(Self {
            digits: allocate(OfGroup([[0; GROUP]; 4]), n_groups, what)?,
            units: allocate(0.0, m, what)?,
            n_samples: 0,
        })
    }
}

impl Bytes {
    /// Where this processor has them.
    pub fn of_this_processor() -> Option<Self> {
        let has_vectors = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        (has_vectors && is_x86_feature_detected!("avx512vnni")).then_some(Self(()))
    }

    /// W, tiles of (`m` = h·q × 32), in digits. What is not finite makes the unit of its output NaN.
    pub fn split_weights(self, weights: &[f32], m: usize, to: &mut WeightDigits) {
        assert!(to.units.len() == m && to.digits.len() >= weights.len().div_ceil(m * SLAB) * m * 3);
        // SAFETY: the instructions are there; the digits of as many slabs as the weights have.
        unsafe { split_weights(weights, m, to) }
    }

    /// Sums of X·W over some features, whose digits `w` has, without scale and intercept, of up to 32 `rows`, into the tile `out`
    /// (h·q × 32); the first of the `next` rows are brought into the cache meanwhile.
    pub fn logits(
        self,
        (x, features): (Matrix<u8>, Range<usize>),
        rows: &[u32],
        w: &WeightDigits,
        next: &[u32],
        out: &mut [f32],
    ) {
        let m = w.units.len();
        assert!(rows.len() <= TILE && out.len() >= m * TILE && w.digits.len() >= features.len().div_ceil(SLAB) * m * 3);
        // The group after the present one, a row or more with each product, so that memory is asked evenly; from further away it is asked for
        // with the gradient, but what is asked for in such numbers does not all come.
        let start_of = |&row: &u32| x.start_of(row).wrapping_add(features.start);
        let mut ahead = rows[rows.len().min(GROUP)..].iter().chain(next).map(start_of);
        let n_ahead = GROUP.div_ceil(m.div_ceil(DOT));
        for (index, four) in rows.chunks(GROUP).enumerate() {
            // Past the end the last row stands again; nobody reads its result.
            let row = |i: usize| x.row(four[i.min(four.len() - 1)])[features.clone()].as_ptr();
            let four = [row(0), row(1), row(2), row(3)];
            let mut of_group = ahead.by_ref().take(GROUP);
            for (j, n) in groups(m, DOT) {
                let mut asked = [four[0]; GROUP];
                asked.iter_mut().zip(of_group.by_ref().take(n_ahead)).for_each(|(asked, row)| *asked = row);
                let dot = Dot {
                    x: four,
                    ahead: &asked[..n_ahead],
                    d: features.len(),
                    w: w.digits[j * 3..].as_ptr().cast(),
                    w_stride: m * 3,
                    units: &w.units[j..j + n],
                    out: out[j * TILE + index * GROUP..].as_mut_ptr(),
                };
                // SAFETY: the instructions are there; four rows of d bytes, digits of n outputs in as many slabs, out is below 32 in a tile.
                unsafe {
                    match n {
                        1 => dot_of::<1>(&dot),
                        _ => dot_of::<2>(&dot),
                    }
                }
            }
        }
    }

    /// The residual, one or two tiles of (h·q × 32), in digits.
    pub fn split_residual(self, residual: &[f32], to: &mut ResidualDigits) {
        let m = to.units.len();
        assert!(residual.len() == m * TILE || residual.len() == m * SAMPLES);
        // SAFETY: the instructions are there; one or two tiles, and digits of m outputs.
        unsafe { split_residual(residual, m, to) };
        to.n_samples = residual.len() / m;
    }

    /// Xᵀ·R of some features and up to 64 `rows`, as many tiles as have been split, into `gradient`, tile after tile of the features
    /// (h·q × 32), where `adds` added to it; rows `ahead`, up to 64, are brought into the cache meanwhile.
    pub fn add_gradient(
        self,
        (x, features): (Matrix<u8>, Range<usize>),
        rows: &[u32],
        r: &ResidualDigits,
        ahead: &[u32],
        gradient: &mut [f32],
        adds: bool,
    ) {
        let m = r.units.len();
        assert!((1..=r.n_samples).contains(&rows.len()) && gradient.len() >= features.len().div_ceil(TILE) * m * TILE);
        assert!(r.digits.len() >= m * (SAMPLES / GROUP));
        let mut pointers = [std::ptr::null(); SAMPLES];
        for (i, pointer) in pointers.iter_mut().take(rows.len().next_multiple_of(GROUP)).enumerate() {
            // Past the end the last row stands again, with residuals of 0.
            *pointer = x.row(rows[i.min(rows.len() - 1)])[features.clone()].as_ptr();
        }
        let pointers = &pointers[..rows.len().next_multiple_of(GROUP)];
        let mut starts = [std::ptr::null(); SAMPLES];
        let ahead = &ahead[..ahead.len().min(SAMPLES)];
        for (start, &row) in starts.iter_mut().zip(ahead) {
            *start = x.start_of(row).wrapping_add(features.start);
        }
        let ahead = &starts[..ahead.len()];
        for (slab, gradient) in gradient.chunks_mut(2 * m * TILE).take(features.len().div_ceil(SLAB)).enumerate() {
            let n = SLAB.min(features.len() - slab * SLAB);
            // SAFETY: the instructions are there; the rows have n bytes from there on, and the gradient tiles for them.
            unsafe { gradient_of_slab((pointers, ahead), slab * SLAB, n, r, m, gradient, adds) };
        }
    }
}

// SAFETY of all blocks below: the instructions are there, which the caller promises; memory is as it says.

/// The mask of the first `n` bytes.
#[inline(always)]
fn first(n: usize) -> __mmask64 {
    if n >= SLAB { !0 } else { (1 << n) - 1 }
}

/// Digits of multiples of a unit: of 16 numbers, each the three lower bytes of a lane. 2⁷ is added to each digit and then taken away
/// from its bits, so that none borrows from the next.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn digits(numbers: __m512, per_unit: __m512) -> __m512i {
    let middle = _mm512_set1_epi32(0x80_80_80);
    _mm512_xor_si512(_mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(numbers, per_unit)), middle), middle)
}

/// The unit of numbers, `largest` the largest of each lane in size, `nothing` 0 in each, or NaN; and how many units are 1.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn unit(largest: __m512, nothing: __m512) -> (f32, f32) {
    let largest = _mm512_reduce_max_ps(largest);
    // What would be too small for a unit is 0.
    let per_unit = LARGEST / largest;
    let (unit, per_unit) = if per_unit.is_finite() { (largest / LARGEST, per_unit) } else { (0.0, 0.0) };
    (unit + _mm512_reduce_add_ps(nothing), per_unit)
}

/// # Safety
/// `to` has digits for all slabs of the weights, of `m` outputs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn split_weights(weights: &[f32], m: usize, to: &mut WeightDigits) {
    let n_tiles = weights.len() / (m * TILE);
    for c in 0..m {
        unsafe {
            let (mut largest, mut nothing) = (_mm512_setzero_ps(), _mm512_setzero_ps());
            for tile in 0..n_tiles {
                for lane in [0, 16] {
                    let w = _mm512_loadu_ps(weights.as_ptr().add((tile * m + c) * TILE + lane));
                    largest = _mm512_max_ps(_mm512_abs_ps(w), largest);
                    nothing = _mm512_fmadd_ps(w, _mm512_setzero_ps(), nothing);
                }
            }
            let (unit, per_unit) = unit(largest, nothing);
            to.units[c] = unit;
            let per_unit = _mm512_set1_ps(per_unit);
            for tile in 0..n_tiles {
                let vectors = to.digits.as_mut_ptr().add((tile / 2 * m + c) * 3).cast::<i8>();
                for lane in [0, 16] {
                    let w = _mm512_loadu_ps(weights.as_ptr().add((tile * m + c) * TILE + lane));
                    let digits = digits(w, per_unit);
                    let at = vectors.add(tile % 2 * TILE + lane);
                    _mm_storeu_si128(at.cast(), _mm512_cvtepi32_epi8(digits));
                    _mm_storeu_si128(at.add(SLAB).cast(), _mm512_cvtepi32_epi8(_mm512_srli_epi32::<8>(digits)));
                    _mm_storeu_si128(at.add(2 * SLAB).cast(), _mm512_cvtepi32_epi8(_mm512_srli_epi32::<16>(digits)));
                }
            }
        }
    }
}

/// # Safety
/// `residual` has one or two tiles, and `to` digits, of `m` outputs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn split_residual(residual: &[f32], m: usize, to: &mut ResidualDigits) {
    let n_tiles = residual.len() / (m * TILE);
    // First digits of the four lanes of a quarter, then their second, their third and what is 0.
    let by_digit = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    for c in 0..m {
        unsafe {
            let (mut largest, mut nothing) = (_mm512_setzero_ps(), _mm512_setzero_ps());
            let mut values = [_mm512_setzero_ps(); 4];
            for i in 0..2 * n_tiles {
                let r = _mm512_loadu_ps(residual.as_ptr().add((i / 2 * m + c) * TILE + i % 2 * 16));
                values[i] = r;
                largest = _mm512_max_ps(_mm512_abs_ps(r), largest);
                nothing = _mm512_fmadd_ps(r, _mm512_setzero_ps(), nothing);
            }
            let (unit, per_unit) = unit(largest, nothing);
            to.units[c] = unit;
            let at = to.digits.as_mut_ptr().add(c * (SAMPLES / GROUP));
            for i in 0..2 * n_tiles {
                let digits = digits(values[i], _mm512_set1_ps(per_unit));
                _mm512_storeu_si512(at.add(4 * i).cast(), _mm512_shuffle_epi8(digits, by_digit));
            }
        }
    }
}

/// The arguments of [`dot_of`].
struct Dot<'a> {
    x: [*const u8; 4],
    /// Rows to bring into the cache meanwhile; need not be readable.
    ahead: &'a [*const u8],
    d: usize,
    w: *const __m512i,
    /// Vectors from a slab of W to the next.
    w_stride: usize,
    units: &'a [f32],
    out: *mut f32,
}

/// out\[output\]\[r\] = Σ_k x\[r\]\[k\] · w\[output\]\[k\] for r in 0..4.
///
/// # Safety
/// Each of `x` has d bytes, `w` the digits of `C` outputs in as many slabs, `units` those of `C` outputs; four values can be written at every
/// 32nd from `out` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn dot_of<const C: usize>(dot: &Dot) {
    unsafe {
        for block in (0..dot.d).step_by(BLOCK) {
            let mut sums = [[[_mm512_setzero_si512(); 4]; 3]; C];
            for k in (block..dot.d.min(block + BLOCK)).step_by(SLAB) {
                let mask = first(dot.d - k);
                let mut x = [_mm512_setzero_si512(); 4];
                for r in 0..4 {
                    x[r] = _mm512_maskz_loadu_epi8(mask, dot.x[r].add(k).cast());
                }
                for row in dot.ahead {
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(k).cast());
                }
                let w = dot.w.add(k / SLAB * dot.w_stride);
                for c in 0..C {
                    for digit in 0..3 {
                        let w = *w.add(c * 3 + digit);
                        for r in 0..4 {
                            sums[c][digit][r] = _mm512_dpbusd_epi32(sums[c][digit][r], x[r], w);
                        }
                    }
                }
            }
            for c in 0..C {
                let mut values = [_mm512_setzero_ps(); 4];
                for r in 0..4 {
                    let low = _mm512_add_epi32(sums[c][0][r], _mm512_slli_epi32::<8>(sums[c][1][r]));
                    let high = _mm512_cvtepi32_ps(sums[c][2][r]);
                    values[r] = _mm512_fmadd_ps(high, _mm512_set1_ps(65536.0), _mm512_cvtepi32_ps(low));
                }
                let at = dot.out.add(c * TILE);
                let before = if block > 0 { _mm_loadu_ps(at) } else { _mm_setzero_ps() };
                _mm_storeu_ps(at, _mm_fmadd_ps(sum4(values), _mm_set1_ps(dot.units[c]), before));
            }
        }
    }
}

/// The gradient of `n` ≤ 64 features from `first_feature` on, one or two tiles of (m × 32).
///
/// # Safety
/// The `rows`, up to 64 and a multiple of four, have as many bytes from there on; `r` has m outputs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn gradient_of_slab(
    (rows, ahead): (&[*const u8], &[*const u8]),
    first_feature: usize,
    n: usize,
    r: &ResidualDigits,
    m: usize,
    gradient: &mut [f32],
    adds: bool,
) {
    unsafe {
        // Of four samples and 16 features the bytes of a feature stand together.
        let mut x = [const { MaybeUninit::<[__m512i; QUARTERS]>::uninit() }; SAMPLES / GROUP];
        let mask = first(n);
        // So that the unpacked lanes are features in their order: quarter v takes lane v of each.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let n_ahead = ahead.len().div_ceil(SAMPLES / GROUP);
        for ((group, rows), x) in rows.chunks_exact(GROUP).enumerate().zip(&mut x) {
            for row in ahead.iter().skip(group * n_ahead).take(n_ahead) {
                _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(first_feature).cast());
            }
            let mut bytes = [_mm512_setzero_si512(); GROUP];
            for i in 0..GROUP {
                let row = _mm512_maskz_loadu_epi8(mask, rows[i].add(first_feature).cast());
                bytes[i] = _mm512_permutexvar_epi32(order, row);
            }
            let [a, b, c, d] = bytes;
            let (low, high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
            let (next_low, next_high) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
            x.write([
                _mm512_unpacklo_epi16(low, next_low),
                _mm512_unpackhi_epi16(low, next_low),
                _mm512_unpacklo_epi16(high, next_high),
                _mm512_unpackhi_epi16(high, next_high),
            ]);
        }
        // As many as there are groups of rows have been written.
        let x = std::slice::from_raw_parts(x.as_ptr().cast(), rows.len() / GROUP);
        for (j, c) in groups(m, OUTER) {
            for quarter in 0..n.div_ceil(16) {
                let at = gradient.as_mut_ptr().add((quarter / 2 * m + j) * TILE + quarter % 2 * 16);
                let outer = Outer {
                    x,
                    quarter,
                    r: r.digits.as_ptr().add(j * (SAMPLES / GROUP)).cast(),
                    units: &r.units[j..j + c],
                    out: at,
                    adds,
                };
                macro_rules! variants {
                    ($($c:literal)*) => {
                        match c {
                            $($c => outer_of::<$c>(&outer),)*
                            _ => debug_assert!(false, "no outer products with {c} outputs"),
                        }
                    };
                }
                variants!(1 2 3 4 5 6 7 8 9 10);
            }
        }
    }
}

/// The arguments of [`outer_of`].
struct Outer<'a> {
    x: &'a [[__m512i; QUARTERS]],
    quarter: usize,
    r: *const i32,
    units: &'a [f32],
    out: *mut f32,
    adds: bool,
}

/// out\[output\]\[lane\] (+)= Σ_i x\[i\]\[lane\] · r\[output\]\[i\].
///
/// # Safety
/// `r` has the digits, and `units` the units, of `C` outputs; 16 values can be read and written at every 32nd from `out` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn outer_of<const C: usize>(outer: &Outer) {
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); 3]; C];
        let mut r = outer.r;
        for x in outer.x {
            let x = x[outer.quarter];
            for c in 0..C {
                for digit in 0..3 {
                    let four = _mm512_set1_epi32(*r.add(c * SAMPLES + digit));
                    sums[c][digit] = _mm512_dpbusd_epi32(sums[c][digit], x, four);
                }
            }
            r = r.add(GROUP);
        }
        for c in 0..C {
            let at = outer.out.add(c * TILE);
            let unit = outer.units[c];
            let low = _mm512_add_epi32(sums[c][0], _mm512_slli_epi32::<8>(sums[c][1]));
            let before = if outer.adds { _mm512_loadu_ps(at) } else { _mm512_setzero_ps() };
            let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c][2]), _mm512_set1_ps(65536.0 * unit), before);
            _mm512_storeu_ps(at, _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_set1_ps(unit), sum));
        }
    }
}
