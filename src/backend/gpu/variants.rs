//! Every kernel that can be asked for, in every variant.

use super::kernel::Variant;
use super::{ceilings, classes, gradient, logits, narrow_residual, narrow_update, shuffle, softmax, update};

impl Variant {
    /// Every variant that can be asked for.
    pub fn all() -> Vec<Self> {
        use super::{gradient_cooperative, logits_cooperative};
        [
            logits::variants(),
            softmax::variants(),
            gradient::variants(),
            update::variants(),
            narrow_residual::variants(),
            narrow_update::variants(),
            shuffle::variants(),
            classes::variants(),
            ceilings::variants(),
            logits_cooperative::variants(),
            gradient_cooperative::variants(),
        ]
        .concat()
    }
}
