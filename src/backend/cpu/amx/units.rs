//! The units, and the loops over tiles that they run.

use std::arch::asm;
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::tiles::{Halves, SIDE, Sums, Thirds};
use crate::backend::cpu::lanes::Lanes;

/// The proof that the processor has the units, and that the system lets this process use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::cpu) struct Units(());

/// The units of this thread, in the shape of [`Tile`]; when it is dropped they are given back, so that switching threads is cheap again.
pub(super) struct Configured<'u>(PhantomData<&'u Units>);

impl Units {
    /// Those of this processor, where it has such.
    pub fn of_this_processor() -> Option<Self> {
        static ARE_THERE: OnceLock<bool> = OnceLock::new();
        ARE_THERE.get_or_init(|| has_units() && are_granted()).then_some(Self(()))
    }

    #[inline(always)]
    pub(super) fn configure(&self) -> Configured<'_> {
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            bytes_of_row: [u16; 16],
            rows: [u8; 16],
        }
        let (mut bytes_of_row, mut rows) = ([0; 16], [0; 16]);
        bytes_of_row[..8].fill(64);
        rows[..8].fill(SIDE as u8);
        let configuration = Configuration { palette: 1, start_row: 0, reserved: [0; 14], bytes_of_row, rows };
        // SAFETY: the units are there and granted; palette 1 has 8 tiles of 16 rows of 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        Configured(PhantomData)
    }
}

impl Drop for Configured<'_> {
    fn drop(&mut self) {
        // SAFETY: the units are there.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

impl Configured<'_> {
    /// C\[i\]\[j\] (+)= Σ_k A\[i\]\[k\]·B\[k\]\[j\] over `n` tiles of terms that lie behind each other, for two by two tiles: `c` has those of
    /// i = 0 first. They are added to where `adds`, otherwise overwritten.
    ///
    /// # Safety
    /// `n` ≥ 1 tiles can be read from each of `a` and `b` on; each of `c` can be written, and nobody else uses it.
    #[inline(always)]
    pub unsafe fn four(&self, a: [*const Halves; 2], b: [*const Halves; 2], n: usize, c: [*mut Sums; 4], adds: bool) {
        // SAFETY: the caller's promise. The order of the products keeps four sums in flight.
        unsafe {
            asm!(
                "test {adds:e}, {adds:e}",
                "jz 2f",
                "tileloadd tmm0, [{c0} + {row}]",
                "tileloadd tmm1, [{c1} + {row}]",
                "tileloadd tmm2, [{c2} + {row}]",
                "tileloadd tmm3, [{c3} + {row}]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "tileloadd tmm4, [{a0} + {row}]",
                "tileloadd tmm6, [{b0} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b1} + {row}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b0} + {row} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b1} + {row} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a0} + {row} + 1024]",
                "tileloadd tmm6, [{b0} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {row} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b1} + {row}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 2048",
                "add {a1}, 2048",
                "add {b0}, 2048",
                "add {b1}, 2048",
                "dec {n}",
                "jnz 3b",
                "tilestored [{c0} + {row}], tmm0",
                "tilestored [{c1} + {row}], tmm1",
                "tilestored [{c2} + {row}], tmm2",
                "tilestored [{c3} + {row}], tmm3",
                adds = in(reg) u32::from(adds),
                a0 = inout(reg) a[0] => _,
                a1 = inout(reg) a[1] => _,
                b0 = inout(reg) b[0] => _,
                b1 = inout(reg) b[1] => _,
                n = inout(reg) n => _,
                c0 = in(reg) c[0],
                c1 = in(reg) c[1],
                c2 = in(reg) c[2],
                c3 = in(reg) c[3],
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    }

    /// C\[i\]\[j\] = Σ_k A\[i\]\[k\]·B\[k\]\[j\] over `n` tiles of terms that lie behind each other, for two by two tiles, in single
    /// precision: six products of the nine, all but those of what is left of both.
    ///
    /// # Safety
    /// As for [`Configured::four`].
    #[inline(always)]
    pub unsafe fn four_of_thirds(&self, a: [*const Thirds; 2], b: [*const Thirds; 2], n: usize, c: [*mut Sums; 4]) {
        // SAFETY: the caller's promise. The order of the products keeps four sums in flight.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a0} + {row}]",
                "tileloadd tmm6, [{b0} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b1} + {row}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b0} + {row} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b1} + {row} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b0} + {row} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b1} + {row} + 2048]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a0} + {row} + 1024]",
                "tileloadd tmm6, [{b0} + {row} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {row} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b1} + {row} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b0} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b1} + {row}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a0} + {row} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {row} + 2048]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a0}, 3072",
                "add {a1}, 3072",
                "add {b0}, 3072",
                "add {b1}, 3072",
                "dec {n}",
                "jnz 2b",
                "tilestored [{c0} + {row}], tmm0",
                "tilestored [{c1} + {row}], tmm1",
                "tilestored [{c2} + {row}], tmm2",
                "tilestored [{c3} + {row}], tmm3",
                a0 = inout(reg) a[0] => _,
                a1 = inout(reg) a[1] => _,
                b0 = inout(reg) b[0] => _,
                b1 = inout(reg) b[1] => _,
                n = inout(reg) n => _,
                c0 = in(reg) c[0],
                c1 = in(reg) c[1],
                c2 = in(reg) c[2],
                c3 = in(reg) c[3],
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    }

    /// [`Configured::four`] for one tile.
    ///
    /// # Safety
    /// As for [`Configured::four`].
    #[inline(always)]
    pub unsafe fn one<L: Lanes>(
        &self,
        lanes: L,
        a: *const Halves,
        b: *const Halves,
        n: usize,
        c: *mut Sums,
        adds: bool,
    ) {
        // Three sums in flight.
        let mut others = [Sums::ZERO; 2];
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "test {adds:e}, {adds:e}",
                "jz 2f",
                "tileloadd tmm0, [{c} + {row}]",
                "2:",
                "tileloadd tmm4, [{a} + {row}]",
                "tileloadd tmm6, [{b} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {row} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {row} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "add {a}, 2048",
                "add {b}, 2048",
                "dec {n}",
                "jnz 2b",
                "tilestored [{c} + {row}], tmm0",
                "tilestored [{others} + {row}], tmm1",
                "tilestored [{others} + {row} + 1024], tmm2",
                adds = in(reg) u32::from(adds),
                a = inout(reg) a => _,
                b = inout(reg) b => _,
                n = inout(reg) n => _,
                c = in(reg) c,
                others = in(reg) others.as_mut_ptr(),
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
            let (sums, first, second) = (
                (*c).0.as_mut_ptr().cast::<f32>(),
                others[0].0.as_ptr().cast::<f32>(),
                others[1].0.as_ptr().cast::<f32>(),
            );
            for i in (0..SIDE * SIDE).step_by(L::N) {
                let rest = lanes.add(lanes.load(first.add(i)), lanes.load(second.add(i)));
                lanes.store(sums.add(i), lanes.add(lanes.load(sums.add(i)), rest));
            }
        }
    }
}

/// Whether the processor has tiles of at least 16 rows of 64 bytes and their products of bfloat16, and the system keeps them for each
/// thread.
fn has_units() -> bool {
    use std::arch::x86_64::{__cpuid_count, _xgetbv};

    /// # Safety
    /// The processor has XGETBV, and the system has enabled it.
    #[target_feature(enable = "xsave")]
    unsafe fn kept_by_the_system() -> u64 {
        // SAFETY: the caller's promise.
        unsafe { _xgetbv(0) }
    }

    const OSXSAVE: u32 = 1 << 27;
    const TILES_AND_BF16: u32 = 1 << 24 | 1 << 22;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    #[allow(unused_unsafe, reason = "CPUID is safe to call in newer versions of Rust")]
    let leaf = |leaf, subleaf| {
        // SAFETY: every processor of this architecture has CPUID.
        unsafe { __cpuid_count(leaf, subleaf) }
    };
    if leaf(0, 0).eax < 0x1D || leaf(1, 0).ecx & OSXSAVE == 0 || leaf(7, 0).edx & TILES_AND_BF16 != TILES_AND_BF16 {
        return false;
    }
    // SAFETY: OSXSAVE says so.
    if unsafe { kept_by_the_system() } & TILE_STATE != TILE_STATE {
        return false;
    }
    let palette = leaf(0x1D, 1);
    let (bytes_of_row, n_tiles, rows) = (palette.ebx & 0xFFFF, palette.ebx >> 16, palette.ecx & 0xFFFF);
    bytes_of_row >= 64 && n_tiles >= 8 && rows >= SIDE as u32
}

/// Linux lets a process use tiles after it has asked.
fn are_granted() -> bool {
    const SYS_ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let mut result = SYS_ARCH_PRCTL;
    // SAFETY: a call of the system that takes two numbers and touches no memory of the process.
    unsafe {
        asm!(
            "syscall",
            inout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack)
        );
    }
    result == 0
}
