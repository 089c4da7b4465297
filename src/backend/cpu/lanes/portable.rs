//! Eight lanes in plain Rust, which the compiler maps to what the target always has.

use half::f16;

use super::{Dot, Element, Lanes, Outer, Tile, dot_variants, outer_variants, tile_variants};

#[derive(Clone, Copy)]
pub(super) struct Portable;

type V = [f32; 8];
type D = [f64; 4];

#[inline(always)]
fn map2(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    let mut result = a;
    for i in 0..8 {
        result[i] = f(a[i], b[i]);
    }
    result
}

impl Lanes for Portable {
    const N: usize = 8;
    const TILE: usize = 6;
    const DOT: usize = 2;
    type V = V;
    type D = D;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; 8]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> V {
        // SAFETY: the caller's promise; an f16 is its 16 bits.
        let bits = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        let mut result = [0.0; 8];
        for i in 0..8 {
            // Exponent and fraction moved to their places in f32; the product corrects the bias of the exponent, and is
            // exact for subnormal numbers too.
            let magnitude = f32::from_bits(u32::from(bits[i] & 0x7FFF) << 13) * f32::from_bits((127 + 112) << 23);
            result[i] = f32::from_bits(magnitude.to_bits() | u32::from(bits[i] & 0x8000) << 16);
        }
        result
    }

    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> V {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[u8; 8]>().read() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: V) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<V>().write_unaligned(v) }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn sqrt(self, a: V) -> V {
        a.map(f32::sqrt)
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        // Not f32::mul_add, which is a slow call where the target has no such instruction.
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn zero_below(self, v: V, x: V, limit: V) -> V {
        let mut result = v;
        for i in 0..8 {
            result[i] = if x[i] < limit[i] { 0.0 } else { v[i] };
        }
        result
    }

    #[inline(always)]
    fn bits_to_exponent(self, v: V) -> V {
        let mut result = v;
        for x in &mut result {
            *x = f32::from_bits(x.to_bits() << 23);
        }
        result
    }

    #[inline(always)]
    fn sum4(self, v: [V; 4]) -> [f32; 4] {
        v.map(|v| ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])))
    }

    #[inline(always)]
    unsafe fn transpose<T: Element>(self, rows: &[*const T], first: usize, to: *mut f32, stride: usize) {
        for i in 0..8 {
            // SAFETY: the caller's promise.
            let row = unsafe { T::load(self, rows.get_unchecked(i).wrapping_add(first)) };
            for (k, &value) in row.iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { *to.add(k * stride + i) = value };
            }
        }
    }

    #[inline(always)]
    fn splat_f64(self, x: f64) -> D {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn load_f64(self, from: *const f64) -> D {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<D>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_f64(self, to: *mut f64, v: D) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<D>().write_unaligned(v) }
    }

    #[inline(always)]
    fn widen(self, v: V) -> [D; 2] {
        [0, 4].map(|first| std::array::from_fn(|i| v[first + i].into()))
    }

    #[inline(always)]
    fn max_f64(self, a: D, b: D) -> D {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn mul_add_f64(self, a: D, b: D, c: D) -> D {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn sum4_f64(self, v: [D; 4]) -> [f64; 4] {
        v.map(|v| (v[0] + v[1]) + (v[2] + v[3]))
    }

    /// Without such an instruction rounding once would be slow.
    #[inline(always)]
    fn fma(self, a: f64, b: f64, c: f64) -> f64 {
        a * b + c
    }

    #[inline(always)]
    fn prefetch(self, _at: *const u8) {}

    unsafe fn tile(self, n_outputs: usize, tile: &Tile) {
        tile_variants!(self, n_outputs, tile, 1, 1 2 3 4 5 6);
    }

    unsafe fn outer<T: Element>(self, n_outputs: usize, outer: &Outer<T>) {
        outer_variants!(self, n_outputs, outer, 1, 1 2 3 4 5 6);
    }

    unsafe fn dot<T: Element>(self, n_outputs: usize, dot: &Dot<T>) {
        dot_variants!(self, n_outputs, dot, 1 2);
    }
}
