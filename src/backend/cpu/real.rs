//! The precisions in which batch solvers multiply: `f64`, and `f32` far from the minimum, where that is enough.

use std::ops::{Add, Mul, Sub};

use super::lanes::Lanes;
use super::{double, softmax};

/// The type of the numbers that are multiplied.
pub(super) trait Real:
    Copy + Send + Sync + 'static + Default + PartialOrd + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self>
{
    /// A vector of [`Real::lanes`] values.
    type Vector<L: Lanes>: Copy;

    /// What residuals are raised by, which [`Real::put`] takes back, and which of them then count as 0.
    const RAISED: f64;
    const LEAST: Self;

    fn lanes<L: Lanes>() -> usize;

    fn from_f64(x: f64) -> Self;

    fn to_f64(self) -> f64;

    /// exp(x) of values that are not above 0, a multiple of 16.
    fn exp<L: Lanes>(lanes: L, values: &mut [Self]);

    /// N values in double precision.
    ///
    /// # Safety
    /// They can be read at `from`.
    unsafe fn load_wide<L: Lanes>(lanes: L, from: *const Self) -> [L::D; 2];

    /// The memory of `f64` values, for at least as many of these.
    fn within(memory: &mut [f64]) -> &mut [Self];

    /// What was written by [`Real::within`].
    fn of(memory: &[f64]) -> &[Self];

    /// The values, where they are of this precision.
    fn from_f32(values: &[f32]) -> Option<&[Self]>;

    fn splat<L: Lanes>(lanes: L, x: Self) -> Self::Vector<L>;

    /// # Safety
    /// [`Real::lanes`] values can be read at `from`.
    unsafe fn load<L: Lanes>(lanes: L, from: *const Self) -> Self::Vector<L>;

    /// Writes the values of `v` times `factor`.
    ///
    /// # Safety
    /// N values can be written at `to`.
    unsafe fn store_features<L: Lanes>(lanes: L, to: *mut Self, v: L::V, factor: f64);

    /// Puts the values of `v`, sums of products with a raised residual, to `to`, or adds them to those there.
    ///
    /// # Safety
    /// [`Real::lanes`] values can be read and written at `to`.
    unsafe fn put<L: Lanes>(lanes: L, to: *mut f64, v: Self::Vector<L>, adds: bool);

    /// a·b + c, rounded once where the processor can.
    fn mul_add<L: Lanes>(lanes: L, a: Self::Vector<L>, b: Self::Vector<L>, c: Self::Vector<L>) -> Self::Vector<L>;

    /// The sums over the lanes of four vectors.
    fn sum4<L: Lanes>(lanes: L, v: [Self::Vector<L>; 4]) -> [Self; 4];
}

/// Many processors take a hundred times as long over a product that is subnormal in single precision, as those of tiny features with
/// small residuals would be. With this factor they are not; with features up to 1e18, and a residual whose values sum to no more
/// than 2, nothing is too large. Residuals below the second are nothing beside the rounding of the others.
const RAISED: f64 = (1u64 << 63) as f64;
const LEAST: f32 = 1e-3;
/// What sums of products with a raised residual are multiplied with.
pub(super) const LOWERED: f64 = 1.0 / RAISED;

impl Real for f64 {
    type Vector<L: Lanes> = L::D;

    const RAISED: f64 = 1.0;
    const LEAST: f64 = 0.0;

    #[inline(always)]
    fn lanes<L: Lanes>() -> usize {
        L::N / 2
    }

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn exp<L: Lanes>(lanes: L, values: &mut [f64]) {
        for x in values {
            *x = double::exp(lanes, *x);
        }
    }

    #[inline(always)]
    unsafe fn load_wide<L: Lanes>(lanes: L, from: *const f64) -> [L::D; 2] {
        // SAFETY: the caller's promise.
        unsafe { [lanes.load_f64(from), lanes.load_f64(from.add(L::N / 2))] }
    }

    #[inline(always)]
    fn within(memory: &mut [f64]) -> &mut [Self] {
        memory
    }

    #[inline(always)]
    fn of(memory: &[f64]) -> &[Self] {
        memory
    }

    #[inline(always)]
    fn from_f32(_values: &[f32]) -> Option<&[Self]> {
        None
    }

    #[inline(always)]
    fn splat<L: Lanes>(lanes: L, x: Self) -> L::D {
        lanes.splat_f64(x)
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(lanes: L, from: *const Self) -> L::D {
        // SAFETY: the caller's promise.
        unsafe { lanes.load_f64(from) }
    }

    #[inline(always)]
    unsafe fn store_features<L: Lanes>(lanes: L, to: *mut Self, v: L::V, factor: f64) {
        let (factor, zero) = (lanes.splat_f64(factor), lanes.splat_f64(0.0));
        for (half, values) in lanes.widen(v).into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { lanes.store_f64(to.add(half * L::N / 2), lanes.mul_add_f64(values, factor, zero)) };
        }
    }

    #[inline(always)]
    unsafe fn put<L: Lanes>(lanes: L, to: *mut f64, v: L::D, adds: bool) {
        // SAFETY: the caller's promise.
        unsafe {
            let before = if adds { lanes.load_f64(to) } else { lanes.splat_f64(0.0) };
            lanes.store_f64(to, lanes.mul_add_f64(v, lanes.splat_f64(1.0), before));
        }
    }

    #[inline(always)]
    fn mul_add<L: Lanes>(lanes: L, a: L::D, b: L::D, c: L::D) -> L::D {
        lanes.mul_add_f64(a, b, c)
    }

    #[inline(always)]
    fn sum4<L: Lanes>(lanes: L, v: [L::D; 4]) -> [f64; 4] {
        lanes.sum4_f64(v)
    }
}

impl Real for f32 {
    type Vector<L: Lanes> = L::V;

    const RAISED: f64 = RAISED;
    const LEAST: f32 = LEAST;

    #[inline(always)]
    fn lanes<L: Lanes>() -> usize {
        L::N
    }

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x as f32
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self.into()
    }

    #[inline(always)]
    fn exp<L: Lanes>(lanes: L, values: &mut [f32]) {
        const { assert!(16usize.is_multiple_of(L::N)) };
        for values in values.chunks_exact_mut(L::N) {
            // SAFETY: N values.
            unsafe { lanes.store(values.as_mut_ptr(), softmax::exp(lanes, lanes.load(values.as_ptr()))) };
        }
    }

    #[inline(always)]
    unsafe fn load_wide<L: Lanes>(lanes: L, from: *const f32) -> [L::D; 2] {
        // SAFETY: the caller's promise.
        lanes.widen(unsafe { lanes.load(from) })
    }

    #[inline(always)]
    fn within(memory: &mut [f64]) -> &mut [Self] {
        // SAFETY: the same memory, borrowed as long; any bits are an `f32`, and an `f64`.
        unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), 2 * memory.len()) }
    }

    #[inline(always)]
    fn of(memory: &[f64]) -> &[Self] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), 2 * memory.len()) }
    }

    #[inline(always)]
    fn from_f32(values: &[f32]) -> Option<&[Self]> {
        Some(values)
    }

    #[inline(always)]
    fn splat<L: Lanes>(lanes: L, x: Self) -> L::V {
        lanes.splat(x)
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(lanes: L, from: *const Self) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { lanes.load(from) }
    }

    #[inline(always)]
    unsafe fn store_features<L: Lanes>(lanes: L, to: *mut Self, v: L::V, factor: f64) {
        // SAFETY: the caller's promise.
        unsafe { lanes.store(to, lanes.mul(v, lanes.splat(factor as f32))) };
    }

    #[inline(always)]
    unsafe fn put<L: Lanes>(lanes: L, to: *mut f64, v: L::V, adds: bool) {
        for (half, values) in lanes.widen(v).into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let to = to.add(half * L::N / 2);
                let before = if adds { lanes.load_f64(to) } else { lanes.splat_f64(0.0) };
                lanes.store_f64(to, lanes.mul_add_f64(values, lanes.splat_f64(LOWERED), before));
            }
        }
    }

    #[inline(always)]
    fn mul_add<L: Lanes>(lanes: L, a: L::V, b: L::V, c: L::V) -> L::V {
        lanes.mul_add(a, b, c)
    }

    #[inline(always)]
    fn sum4<L: Lanes>(lanes: L, v: [L::V; 4]) -> [f32; 4] {
        lanes.sum4(v)
    }
}
