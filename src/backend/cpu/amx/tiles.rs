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

/// The halves of a tile of numbers.
#[derive(Clone, Copy)]
#[repr(C)]
pub(in crate::backend::cpu) struct Halves {
    pub(super) high: Tile,
    pub(super) low: Tile,
}

/// (16 × 16) sums in single precision.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::backend::cpu) struct Sums(pub(super) [[f32; SIDE]; SIDE]);

impl Halves {
    pub const ZERO: Self = Self::filled(0);

    pub(super) const fn filled(pair: u32) -> Self {
        Self { high: Tile([[pair; SIDE]; SIDE]), low: Tile([[pair; SIDE]; SIDE]) }
    }
}

impl Sums {
    pub const ZERO: Self = Self([[0.0; SIDE]; SIDE]);
}

// SAFETY: both are numbers alone, which may be 0.
unsafe impl Zeroable for Halves {}
// SAFETY: as above.
unsafe impl Zeroable for Sums {}
