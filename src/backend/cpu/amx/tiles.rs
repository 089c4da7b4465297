//! What the units work on: tiles of 16 rows of 64 bytes, and sums of their products.

use bytemuck::Zeroable;

/// Rows of a tile, and pairs of bfloat16, or numbers in single precision, of a row.
pub(in crate::backend::cpu) const SIDE: usize = 16;
/// Terms of a sum in a tile. The pairs of a row are terms k and k + 16.
pub(in crate::backend::cpu) const TERMS: usize = 2 * SIDE;

/// (16 × 16) pairs of bfloat16, the first of a pair in the lower bits.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Tile(pub [[u32; SIDE]; SIDE]);

/// The parts of a tile of numbers, of which each number is the sum, from the largest on.
#[derive(Clone, Copy)]
#[repr(C)]
pub(in crate::backend::cpu) struct Parts<const P: usize>(pub(super) [Tile; P]);

/// What is left of a number is less than 2⁻¹⁶ of it.
pub(in crate::backend::cpu) type Halves = Parts<2>;
/// Less than 2⁻²⁴: as single precision.
pub(in crate::backend::cpu) type Thirds = Parts<3>;

/// (16 × 16) sums in single precision.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::backend::cpu) struct Sums(pub(super) [[f32; SIDE]; SIDE]);

impl<const P: usize> Parts<P> {
    pub const ZERO: Self = Self::filled(0);

    pub(super) const fn filled(pair: u32) -> Self {
        Self([Tile([[pair; SIDE]; SIDE]); P])
    }
}

impl Sums {
    pub const ZERO: Self = Self([[0.0; SIDE]; SIDE]);
}

// SAFETY: both are numbers alone, which may be 0.
unsafe impl<const P: usize> Zeroable for Parts<P> {}
// SAFETY: as above.
unsafe impl Zeroable for Sums {}
