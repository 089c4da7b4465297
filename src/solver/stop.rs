//! Why a training ended.

use std::fmt;

/// Why a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The objective is at its minimum, to within the tolerance.
    Converged,
    /// Rounding leaves nothing to gain, though the tolerance is not confirmed.
    Precision,
    /// The loss is zero but for rounding: the classes can be separated, and without a penalty no weights are large enough.
    Separable,
    /// All iterations were done.
    Iterations,
    /// All epochs were done.
    Epochs,
    /// The caller's function said so.
    Caller,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Converged => "converged",
            Self::Precision => "the limit of the precision",
            Self::Separable => "the classes are separable",
            Self::Iterations => "iterations",
            Self::Epochs => "epochs",
            Self::Caller => "stopped by the caller",
        })
    }
}
