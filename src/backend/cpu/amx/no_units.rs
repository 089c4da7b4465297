//! Processors without such units.

use super::tiles::{Halves, Sums, Thirds};
use crate::backend::cpu::lanes::Lanes;

/// There are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::cpu) enum Units {}

pub(super) struct Configured(Units);

impl Units {
    #[cfg(target_arch = "x86_64")]
    pub fn of_this_processor() -> Option<Self> {
        None
    }

    pub(super) fn configure(&self) -> Configured {
        match *self {}
    }
}

impl Configured {
    /// # Safety
    /// It is never called.
    pub unsafe fn four(&self, _: [*const Halves; 2], _: [*const Halves; 2], _: usize, _: [*mut Sums; 4], _: bool) {
        match self.0 {}
    }

    /// # Safety
    /// It is never called.
    pub unsafe fn four_of_thirds(&self, _: [*const Thirds; 2], _: [*const Thirds; 2], _: usize, _: [*mut Sums; 4]) {
        match self.0 {}
    }

    /// # Safety
    /// It is never called.
    pub unsafe fn one<L: Lanes>(&self, _: L, _: *const Halves, _: *const Halves, _: usize, _: *mut Sums, _: bool) {
        match self.0 {}
    }
}
