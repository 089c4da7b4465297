//! AVX-512 with F, BW and VL: 16 lanes, 32 registers.

#![allow(clippy::undocumented_unsafe_blocks, reason = "one comment, at the impl, says it for all")]

use std::arch::x86_64::*;

use half::f16;

use super::{Dot, Element, Kernel, Lanes, Outer, Tile, dot_variants, outer_variants, tile_variants};

/// The proof that the processor has these instructions.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// # Safety
/// The processor has these instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

/// The mask of the first `count` lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as __mmask16
}

/// The sums over the lanes of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(in crate::backend::cpu) fn sum4(v: [__m512; 4]) -> __m128 {
    // Within each quarter: sums of pairs, then of four, one vector after the other.
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    let low = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
    let high = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
    let quarters = _mm512_add_ps(low, high);
    let upper = _mm512_shuffle_f32x4::<0b11_10_11_10>(quarters, quarters);
    let halves = _mm512_castps512_ps256(_mm512_add_ps(quarters, upper));
    _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves))
}

// SAFETY of all blocks below: the instructions are there, which `self` proves; memory is as the caller promised.
impl Lanes for Avx512 {
    const N: usize = 16;
    const TILE: usize = 12;
    const DOT: usize = 6;
    type V = __m512;
    type D = __m512d;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(first(count), from) }
    }

    #[inline(always)]
    unsafe fn load_first_f16(self, from: *const f16, count: usize) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(count), from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_first_u8(self, from: *const u8, count: usize) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(count), from.cast()))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        unsafe { _mm512_sqrt_ps(a) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn zero_below(self, v: __m512, x: __m512, limit: __m512) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(!_mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, limit), v) }
    }

    #[inline(always)]
    fn bits_to_exponent(self, v: __m512) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(v))) }
    }

    #[inline(always)]
    fn sum4(self, v: [__m512; 4]) -> [f32; 4] {
        let mut result = [0.0; 4];
        unsafe { _mm_storeu_ps(result.as_mut_ptr(), sum4(v)) };
        result
    }

    #[inline(always)]
    unsafe fn transpose<T: Element>(self, rows: &[*const T], first: usize, to: *mut f32, stride: usize) {
        unsafe {
            // Of each four rows: four vectors, each with the quarters of four columns, 4 apart.
            let mut fours = [_mm512_setzero_ps(); 16];
            for i in (0..16).step_by(4) {
                let mut four = [_mm512_setzero_ps(); 4];
                for r in 0..4 {
                    four[r] = T::load(self, rows.get_unchecked(i + r).wrapping_add(first));
                }
                let [a, b, c, d] = four;
                let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                fours[i] = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
                fours[i + 1] = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
                let (ab, cd) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                fours[i + 2] = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
                fours[i + 3] = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
            }
            for k in 0..4 {
                let (a, b, c, d) = (fours[k], fours[4 + k], fours[8 + k], fours[12 + k]);
                let (ab, cd) =
                    (_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d));
                _mm512_storeu_ps(to.add(k * stride), _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd));
                _mm512_storeu_ps(to.add((4 + k) * stride), _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd));
                let (ab, cd) =
                    (_mm512_shuffle_f32x4::<0b11_10_11_10>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d));
                _mm512_storeu_ps(to.add((8 + k) * stride), _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd));
                _mm512_storeu_ps(to.add((12 + k) * stride), _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd));
            }
        }
    }

    #[inline(always)]
    fn splat_f64(self, x: f64) -> __m512d {
        unsafe { _mm512_set1_pd(x) }
    }

    #[inline(always)]
    unsafe fn load_f64(self, from: *const f64) -> __m512d {
        unsafe { _mm512_loadu_pd(from) }
    }

    #[inline(always)]
    unsafe fn store_f64(self, to: *mut f64, v: __m512d) {
        unsafe { _mm512_storeu_pd(to, v) }
    }

    #[inline(always)]
    fn widen(self, v: __m512) -> [__m512d; 2] {
        unsafe {
            let upper = _mm512_shuffle_f32x4::<0b11_10_11_10>(v, v);
            [_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_castps512_ps256(upper))]
        }
    }

    #[inline(always)]
    fn max_f64(self, a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_max_pd(a, b) }
    }

    #[inline(always)]
    fn mul_add_f64(self, a: __m512d, b: __m512d, c: __m512d) -> __m512d {
        unsafe { _mm512_fmadd_pd(a, b, c) }
    }

    #[inline(always)]
    fn sum4_f64(self, v: [__m512d; 4]) -> [f64; 4] {
        unsafe {
            // Within each quarter: sums of pairs, one vector after the other; then of four.
            let ab = _mm512_add_pd(_mm512_unpacklo_pd(v[0], v[1]), _mm512_unpackhi_pd(v[0], v[1]));
            let cd = _mm512_add_pd(_mm512_unpacklo_pd(v[2], v[3]), _mm512_unpackhi_pd(v[2], v[3]));
            let (even, odd) =
                (_mm512_shuffle_f64x2::<0b10_00_10_00>(ab, cd), _mm512_shuffle_f64x2::<0b11_01_11_01>(ab, cd));
            let fours = _mm512_add_pd(even, odd);
            let (ab, cd) = (_mm512_castpd512_pd256(fours), _mm512_extractf64x4_pd::<1>(fours));
            let sums =
                _mm256_add_pd(_mm256_permute2f128_pd::<0b10_0000>(ab, cd), _mm256_permute2f128_pd::<0b11_0001>(ab, cd));
            let mut result = [0.0; 4];
            _mm256_storeu_pd(result.as_mut_ptr(), sums);
            result
        }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn tile(self, n_outputs: usize, tile: &Tile) {
        unsafe { self.tile_variant(n_outputs, tile) }
    }

    #[inline(always)]
    unsafe fn outer<T: Element>(self, n_outputs: usize, outer: &Outer<T>) {
        unsafe { self.outer_variant(n_outputs, outer) }
    }

    #[inline(always)]
    unsafe fn dot<T: Element>(self, n_outputs: usize, dot: &Dot<T>) {
        unsafe { self.dot_variant(n_outputs, dot) }
    }
}

impl Avx512 {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn tile_variant(self, n_outputs: usize, tile: &Tile) {
        tile_variants!(self, n_outputs, tile, 2, 1 2 3 4 5 6 7 8 9 10 11 12);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn outer_variant<T: Element>(self, n_outputs: usize, outer: &Outer<T>) {
        outer_variants!(self, n_outputs, outer, 2, 1 2 3 4 5 6 7 8 9 10 11 12);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn dot_variant<T: Element>(self, n_outputs: usize, dot: &Dot<T>) {
        dot_variants!(self, n_outputs, dot, 1 2 3 4 5 6);
    }
}
