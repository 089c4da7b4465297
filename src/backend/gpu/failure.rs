//! Failures made up for tests: at a call of choice the device is lost, or has no memory left.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Gpu;
use crate::error::Result;

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The device is lost, for good.
    Lost,
    /// There is no memory, this once.
    OutOfMemory,
}

/// Calls that make, fill, bind, submit, map or wait, counted, and which one fails.
#[derive(Default)]
pub(crate) struct Failures {
    pub calls: AtomicUsize,
    /// The number of the call, from 0.
    pub at: Option<(usize, Failure)>,
}

impl Gpu {
    /// Lets this call fail, if it is the one.
    pub(super) fn perhaps_fail(&self, what: &str, bytes: u64) -> Result<()> {
        let call = self.failures.calls.fetch_add(1, Ordering::Relaxed);
        match self.failures.at {
            Some((at, Failure::Lost)) if at == call => {
                self.faults.lock().unwrap_or_else(PoisonError::into_inner).lost = Some("as a test has it".to_owned());
                // The driver's own errors are to come, too.
                self.device.destroy();
                Ok(())
            }
            Some((at, Failure::OutOfMemory)) if at == call => Err(self.out_of_memory(what, bytes)),
            _ => Ok(()),
        }
    }
}
