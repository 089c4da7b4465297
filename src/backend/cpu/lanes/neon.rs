//! NEON: 4 lanes, 32 registers.

#![allow(clippy::undocumented_unsafe_blocks, reason = "one comment, at the impl, says it for all")]

use std::arch::aarch64::*;

use half::f16;

use super::{Dot, Element, Kernel, Lanes, Outer, Tile, dot_variants, outer_variants, tile_variants};

/// The proof that the processor has these instructions.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

/// # Safety
/// The processor has these instructions.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

// SAFETY of all blocks below: the instructions are there, which `self` proves; memory is as the caller promised.
impl Lanes for Neon {
    const N: usize = 4;
    const TILE: usize = 6;
    const DOT: usize = 6;
    type V = float32x4_t;
    type D = float64x2_t;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> float32x4_t {
        unsafe {
            let bits = vmovl_u16(vld1_u16(from.cast()));
            // Exponent and fraction moved to their places in f32; the product corrects the bias of the exponent, and is
            // exact for subnormal numbers too.
            let magnitude = vreinterpretq_f32_u32(vshlq_n_u32::<13>(vandq_u32(bits, vdupq_n_u32(0x7FFF))));
            let magnitude = vmulq_f32(magnitude, vdupq_n_f32(f32::from_bits((127 + 112) << 23)));
            let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
            vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(magnitude), sign))
        }
    }

    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> float32x4_t {
        unsafe {
            let bytes = u64::from(from.cast::<u32>().read_unaligned().to_le());
            vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes)))))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: float32x4_t) {
        unsafe { vst1q_f32(to, v) }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(a, b) }
    }

    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmaxq_f32(a, b) }
    }

    #[inline(always)]
    fn sqrt(self, a: float32x4_t) -> float32x4_t {
        unsafe { vsqrtq_f32(a) }
    }

    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    fn zero_below(self, v: float32x4_t, x: float32x4_t, limit: float32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcltq_f32(x, limit))) }
    }

    #[inline(always)]
    fn bits_to_exponent(self, v: float32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<23>(vreinterpretq_u32_f32(v))) }
    }

    #[inline(always)]
    fn sum4(self, v: [float32x4_t; 4]) -> [f32; 4] {
        unsafe {
            let mut result = [0.0; 4];
            vst1q_f32(result.as_mut_ptr(), vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3])));
            result
        }
    }

    #[inline(always)]
    unsafe fn transpose<T: Element>(self, rows: &[*const T], first: usize, to: *mut f32, stride: usize) {
        unsafe {
            let row = |r: usize| T::load(self, rows.get_unchecked(r).wrapping_add(first));
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            let halves = |v: float32x4_t| vreinterpretq_f64_f32(v);
            let (ab, cd) = (halves(vtrn1q_f32(a, b)), halves(vtrn1q_f32(c, d)));
            vst1q_f32(to, vreinterpretq_f32_f64(vtrn1q_f64(ab, cd)));
            vst1q_f32(to.add(2 * stride), vreinterpretq_f32_f64(vtrn2q_f64(ab, cd)));
            let (ab, cd) = (halves(vtrn2q_f32(a, b)), halves(vtrn2q_f32(c, d)));
            vst1q_f32(to.add(stride), vreinterpretq_f32_f64(vtrn1q_f64(ab, cd)));
            vst1q_f32(to.add(3 * stride), vreinterpretq_f32_f64(vtrn2q_f64(ab, cd)));
        }
    }

    #[inline(always)]
    fn splat_f64(self, x: f64) -> float64x2_t {
        unsafe { vdupq_n_f64(x) }
    }

    #[inline(always)]
    unsafe fn load_f64(self, from: *const f64) -> float64x2_t {
        unsafe { vld1q_f64(from) }
    }

    #[inline(always)]
    unsafe fn store_f64(self, to: *mut f64, v: float64x2_t) {
        unsafe { vst1q_f64(to, v) }
    }

    #[inline(always)]
    fn widen(self, v: float32x4_t) -> [float64x2_t; 2] {
        unsafe { [vcvt_f64_f32(vget_low_f32(v)), vcvt_high_f64_f32(v)] }
    }

    #[inline(always)]
    fn max_f64(self, a: float64x2_t, b: float64x2_t) -> float64x2_t {
        unsafe { vmaxq_f64(a, b) }
    }

    #[inline(always)]
    fn mul_add_f64(self, a: float64x2_t, b: float64x2_t, c: float64x2_t) -> float64x2_t {
        unsafe { vfmaq_f64(c, a, b) }
    }

    #[inline(always)]
    fn sum4_f64(self, v: [float64x2_t; 4]) -> [f64; 4] {
        unsafe { v.map(|v| vaddvq_f64(v)) }
    }

    #[inline(always)]
    fn prefetch(self, _at: *const u8) {}

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

impl Neon {
    #[target_feature(enable = "neon")]
    unsafe fn tile_variant(self, n_outputs: usize, tile: &Tile) {
        tile_variants!(self, n_outputs, tile, 4, 1 2 3 4 5 6);
    }

    #[target_feature(enable = "neon")]
    unsafe fn outer_variant<T: Element>(self, n_outputs: usize, outer: &Outer<T>) {
        outer_variants!(self, n_outputs, outer, 4, 1 2 3 4 5 6);
    }

    #[target_feature(enable = "neon")]
    unsafe fn dot_variant<T: Element>(self, n_outputs: usize, dot: &Dot<T>) {
        dot_variants!(self, n_outputs, dot, 1 2 3 4 5 6);
    }
}
