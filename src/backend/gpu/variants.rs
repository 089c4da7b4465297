//! Every kernel that can be asked for, in every variant.

use super::kernel::Variant;
use super::{
    advance, along, ceilings, classes, expand, gradient, hessian, logits, narrow_residual, narrow_update, pull_back,
    reduce, shuffle, softmax, sparse_catch_up, sparse_gradient, sparse_logits, sparse_reduce, sparse_update, update,
};

impl Variant {
    /// Every variant that can be asked for.
    pub fn all() -> Vec<Self> {
        use super::{gradient_cooperative, logits_cooperative};
        [
            logits::variants(),
            softmax::variants(),
            gradient::variants(),
            update::variants(),
            expand::variants(),
            pull_back::variants(),
            narrow_residual::variants(),
            narrow_update::variants(),
            shuffle::variants(),
            classes::variants(),
            along::variants(),
            hessian::variants(),
            advance::variants(),
            reduce::variants(),
            sparse_logits::variants(),
            sparse_gradient::variants(),
            sparse_reduce::variants(),
            sparse_update::variants(),
            sparse_catch_up::variants(),
            ceilings::variants(),
            logits_cooperative::variants(),
            gradient_cooperative::variants(),
        ]
        .concat()
    }
}
