//! One abstraction over SIMD instruction sets: a vector of `f32` lanes and the few operations that the kernels need.
//!
//! A kernel is written once, generic over [`Lanes`], as a [`Kernel`]. [`Instructions::run`] compiles it once for each
//! instruction set and runs the one that was chosen when the program started. A value of a type that implements
//! [`Lanes`] is the proof that the processor has these instructions: only `run` makes them.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::sum4;
use half::f16;

use super::amx::Units;
use super::bytes::Bytes;
use super::dot::Dot;
use super::product::{Outer, Tile};

/// A vector of [`Lanes::N`] values, and what can be done with it.
pub(super) trait Lanes: Copy {
    /// How many lanes there are: a divisor of 32.
    const N: usize;
    /// How many outputs [`Lanes::tile`] takes at most.
    const TILE: usize;
    /// How many outputs [`Lanes::dot`] takes at most.
    const DOT: usize;
    /// The vector.
    type V: Copy;
    /// A vector of N/2 values in double precision.
    type D: Copy;

    /// `x` in each lane.
    fn splat(self, x: f32) -> Self::V;

    /// # Safety
    /// N values can be read at `from`.
    unsafe fn load(self, from: *const f32) -> Self::V;

    /// The values, which must be finite: infinity and NaN may become any number.
    ///
    /// # Safety
    /// N values can be read at `from`.
    unsafe fn load_f16(self, from: *const f16) -> Self::V;

    /// # Safety
    /// N values can be read at `from`.
    unsafe fn load_u8(self, from: *const u8) -> Self::V;

    /// The first `count` ≤ N lanes from `from`, the others 0.
    ///
    /// # Safety
    /// `count` values can be read at `from`.
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::V {
        // SAFETY: the caller's promise; 32 ≥ N.
        unsafe { self.load(padded(0.0, from, count.min(Self::N)).as_ptr()) }
    }

    /// As [`Lanes::load_f16`] and [`Lanes::load_first`].
    ///
    /// # Safety
    /// `count` values can be read at `from`.
    #[inline(always)]
    unsafe fn load_first_f16(self, from: *const f16, count: usize) -> Self::V {
        // SAFETY: the caller's promise; 32 ≥ N.
        unsafe { self.load_f16(padded(f16::ZERO, from, count.min(Self::N)).as_ptr()) }
    }

    /// As [`Lanes::load_u8`] and [`Lanes::load_first`].
    ///
    /// # Safety
    /// `count` values can be read at `from`.
    #[inline(always)]
    unsafe fn load_first_u8(self, from: *const u8, count: usize) -> Self::V {
        // SAFETY: the caller's promise; 32 ≥ N.
        unsafe { self.load_u8(padded(0, from, count.min(Self::N)).as_ptr()) }
    }

    /// # Safety
    /// N values can be written at `to`.
    unsafe fn store(self, to: *mut f32, v: Self::V);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;

    /// The square root, correctly rounded.
    fn sqrt(self, a: Self::V) -> Self::V;

    /// The larger of both; `b` when one is NaN (or NaN).
    fn max(self, a: Self::V, b: Self::V) -> Self::V;

    /// a·b + c, rounded once where the processor can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// `v`, but 0 in the lanes where `x` is below `limit`. NaN is not below.
    fn zero_below(self, v: Self::V, x: Self::V, limit: Self::V) -> Self::V;

    /// The value whose bits are those of `v`, moved up by 23: the lowest bits become the exponent.
    fn bits_to_exponent(self, v: Self::V) -> Self::V;

    /// The sums over the lanes of four vectors.
    fn sum4(self, v: [Self::V; 4]) -> [f32; 4];

    /// to\[k · stride + i\] = rows\[i\]\[first + k\] for i and k below N: a block of N × N values, transposed.
    ///
    /// # Safety
    /// There are N rows, whose N values from `first` on can be read, and N values be written at each of N places from `to`
    /// on, `stride` apart.
    unsafe fn transpose<T: Element>(self, rows: &[*const T], first: usize, to: *mut f32, stride: usize);

    /// `x` in each lane.
    fn splat_f64(self, x: f64) -> Self::D;

    /// # Safety
    /// N/2 values can be read at `from`.
    unsafe fn load_f64(self, from: *const f64) -> Self::D;

    /// # Safety
    /// N/2 values can be written at `to`.
    unsafe fn store_f64(self, to: *mut f64, v: Self::D);

    /// The lanes of `v` in double precision.
    fn widen(self, v: Self::V) -> [Self::D; 2];

    /// The larger of both; either or NaN when one is NaN.
    fn max_f64(self, a: Self::D, b: Self::D) -> Self::D;

    /// a·b + c, rounded once where the processor can.
    fn mul_add_f64(self, a: Self::D, b: Self::D, c: Self::D) -> Self::D;

    /// The sums over the lanes of four vectors.
    fn sum4_f64(self, v: [Self::D; 4]) -> [f64; 4];

    /// a·b + c of single numbers, rounded once where the processor can.
    #[inline(always)]
    fn fma(self, a: f64, b: f64, c: f64) -> f64 {
        a.mul_add(b, c)
    }

    /// Asks for the cache line at `at`, which need not be readable, in the second level: what is asked for ahead is too
    /// much for the first.
    fn prefetch(self, at: *const u8);

    /// See [`Tile`]. A function of its own, so that its variants are compiled once.
    ///
    /// # Safety
    /// As [`Tile`] says; 1 ≤ `n_outputs` ≤ TILE.
    unsafe fn tile(self, n_outputs: usize, tile: &Tile);

    /// See [`Outer`]. A function of its own, so that its variants are compiled once.
    ///
    /// # Safety
    /// As [`Outer`] says; 1 ≤ `n_outputs` ≤ TILE.
    unsafe fn outer<T: Element>(self, n_outputs: usize, outer: &Outer<T>);

    /// See [`Dot`]. A function of its own, so that its variants are compiled once.
    ///
    /// # Safety
    /// As [`Dot`] says; 1 ≤ `n_outputs` ≤ DOT.
    unsafe fn dot<T: Element>(self, n_outputs: usize, dot: &Dot<T>);
}

/// `count` ≤ 32 values from `from`, filled up with `zero`.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn padded<T: Copy>(zero: T, from: *const T, count: usize) -> [T; 32] {
    let mut values = [zero; 32];
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count) };
    values
}

/// The type of a feature in memory. In registers all are `f32`.
pub(super) trait Element: Copy + Send + Sync + 'static {
    /// # Safety
    /// N values can be read at `from`.
    unsafe fn load<L: Lanes>(lanes: L, from: *const Self) -> L::V;

    /// The first `count` ≤ N lanes from `from`, the others 0.
    ///
    /// # Safety
    /// `count` values can be read at `from`.
    unsafe fn load_first<L: Lanes>(lanes: L, from: *const Self, count: usize) -> L::V;

    /// The values where they are what they become in registers.
    #[inline(always)]
    fn as_f32(_values: &[Self]) -> Option<&[f32]> {
        None
    }

    /// The values where they are bytes.
    #[inline(always)]
    fn as_bytes(_values: &[Self]) -> Option<&[u8]> {
        None
    }
}

impl Element for f32 {
    #[inline(always)]
    fn as_f32(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(lanes: L, from: *const Self) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { lanes.load(from) }
    }

    #[inline(always)]
    unsafe fn load_first<L: Lanes>(lanes: L, from: *const Self, count: usize) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { lanes.load_first(from, count) }
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(lanes: L, from: *const Self) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { lanes.load_f16(from) }
    }

    #[inline(always)]
    unsafe fn load_first<L: Lanes>(lanes: L, from: *const Self, count: usize) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { lanes.load_first_f16(from, count) }
    }
}

impl Element for u8 {
    #[inline(always)]
    fn as_bytes(values: &[Self]) -> Option<&[u8]> {
        Some(values)
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(lanes: L, from: *const Self) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { lanes.load_u8(from) }
    }

    #[inline(always)]
    unsafe fn load_first<L: Lanes>(lanes: L, from: *const Self, count: usize) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { lanes.load_first_u8(from, count) }
    }
}

/// A piece of work written for any instruction set. `run` and all that it calls with vectors must be
/// `#[inline(always)]`, so that it is compiled with the instructions of its caller.
pub(super) trait Kernel {
    type Output;

    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// An instruction set that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instructions(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512 {
        /// Its matrix units, where they are used.
        units: Option<Units>,
        /// Its products of bytes, where they are used.
        bytes: Option<Bytes>,
    },
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Instructions {
    /// The best.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx512() {
                let (units, bytes) = (Units::of_this_processor(), Bytes::of_this_processor());
                return Self(Set::Avx512 { units, bytes });
            }
            if has_avx2() {
                return Self(Set::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            return Self(Set::Neon);
        }
        Self(Set::Portable)
    }

    /// All that this processor has.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self(Set::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(has_avx2().then_some(Self(Set::Avx2)));
            if has_avx512() {
                let (units, bytes) = (Units::of_this_processor(), Bytes::of_this_processor());
                all.push(Self(Set::Avx512 { units: None, bytes: None }));
                all.extend(bytes.map(|_| Self(Set::Avx512 { units: None, bytes })));
                all.extend(units.map(|_| Self(Set::Avx512 { units, bytes })));
            }
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(std::arch::is_aarch64_feature_detected!("neon").then_some(Self(Set::Neon)));
        all
    }

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 { units: None, bytes: None } => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 { units: None, bytes: Some(_) } => "AVX-512 and VNNI",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 { units: Some(_), .. } => "AVX-512 and AMX",
            #[cfg(target_arch = "aarch64")]
            Set::Neon => "NEON",
        }
    }

    /// The processor's matrix units.
    pub fn units(self) -> Option<Units> {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 { units, .. } => units,
            _ => None,
        }
    }

    /// The processor's products of bytes.
    pub fn bytes(self) -> Option<Bytes> {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 { bytes, .. } => bytes,
            _ => None,
        }
    }

    /// The most outputs for which one fused pass is faster than two tiled products.
    ///
    /// Measured on Zen 4 for 784 and 64 features and batches of 64 to 1024: both take the same time at 64 to 100
    /// outputs with AVX-512, at 32 to 48 with AVX2 and at about 8 without either, where registers are too few for many
    /// dot products at once. NEON, which is not measured, has as many registers as AVX-512.
    pub fn most_narrow_outputs(self) -> usize {
        match self.0 {
            Set::Portable => 8,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => 32,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 { .. } => 64,
            #[cfg(target_arch = "aarch64")]
            Set::Neon => 64,
        }
    }

    /// Runs `kernel` with these instructions.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Portable => kernel.run(portable::Portable),
            // SAFETY: a set other than the portable one is made only where the processor has it.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { avx2::run(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 { .. } => unsafe { avx512::run(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Set::Neon => unsafe { neon::run(kernel) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

/// The body of [`Lanes::tile`]: the variant for `n_outputs`, which holds `$v` vectors for each output in registers.
macro_rules! tile_variants {
    ($lanes:expr, $n_outputs:expr, $tile:expr, $v:literal, $($c:literal)*) => {
        match $n_outputs {
            // SAFETY: the caller's promise.
            $($c => unsafe { crate::backend::cpu::product::tile::<Self, $c, $v>($lanes, $tile) },)*
            _ => debug_assert!(false, "no tile of {} outputs", $n_outputs),
        }
    };
}

/// The body of [`Lanes::outer`]: the variant for `n_outputs`, which holds `$v` vectors for each output in registers.
macro_rules! outer_variants {
    ($lanes:expr, $n_outputs:expr, $outer:expr, $v:literal, $($c:literal)*) => {
        match $n_outputs {
            // SAFETY: the caller's promise.
            $($c => unsafe { crate::backend::cpu::product::outer::<Self, T, $c, $v>($lanes, $outer) },)*
            _ => debug_assert!(false, "no outer products with {} outputs", $n_outputs),
        }
    };
}

/// The body of [`Lanes::dot`]: the variant for `n_outputs`.
macro_rules! dot_variants {
    ($lanes:expr, $n_outputs:expr, $dot:expr, $($c:literal)*) => {
        match $n_outputs {
            // SAFETY: the caller's promise.
            $($c => unsafe { crate::backend::cpu::dot::dot::<Self, T, $c>($lanes, $dot) },)*
            _ => debug_assert!(false, "no dot products with {} outputs", $n_outputs),
        }
    };
}

use {dot_variants, outer_variants, tile_variants};
