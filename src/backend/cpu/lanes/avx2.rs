//! AVX2 with FMA and F16C: 8 lanes, 16 registers.

#![allow(clippy::undocumented_unsafe_blocks, reason = "one comment, at the impl, says it for all")]

use std::arch::x86_64::*;

use half::f16;

use super::{Dot, Element, Kernel, Lanes, Outer, Tile, dot_variants, outer_variants, tile_variants};

/// The proof that the processor has these instructions.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// # Safety
/// The processor has these instructions.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

// SAFETY of all blocks below: the instructions are there, which `self` proves; memory is as the caller promised.
impl Lanes for Avx2 {
    const N: usize = 8;
    const TILE: usize = 6;
    const DOT: usize = 2;
    type V = __m256;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn zero_below(self, v: __m256, x: __m256, limit: __m256) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, limit), v) }
    }

    #[inline(always)]
    fn bits_to_exponent(self, v: __m256) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(v))) }
    }

    #[inline(always)]
    fn sum4(self, v: [__m256; 4]) -> [f32; 4] {
        unsafe {
            let halves = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
            let sums = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
            let mut result = [0.0; 4];
            _mm_storeu_ps(result.as_mut_ptr(), sums);
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

impl Avx2 {
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tile_variant(self, n_outputs: usize, tile: &Tile) {
        tile_variants!(self, n_outputs, tile, 2, 1 2 3 4 5 6);
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn outer_variant<T: Element>(self, n_outputs: usize, outer: &Outer<T>) {
        outer_variants!(self, n_outputs, outer, 2, 1 2 3 4 5 6);
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dot_variant<T: Element>(self, n_outputs: usize, dot: &Dot<T>) {
        dot_variants!(self, n_outputs, dot, 1 2);
    }
}
