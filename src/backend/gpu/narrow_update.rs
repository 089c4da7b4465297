//! Gradient of few outputs and the update with it in one kernel: shaders/narrow_update.wgsl.

use std::fmt;

use super::kernel::Variant;
use super::narrow_residual::output_blocks_at_a_time;
use super::step::{BLOCK, SOFTWARE_ROUNDS};
use super::update::RuleKind;
use crate::backend::{DeviceKind, Shape};
use crate::data::Dtype;

/// How the threads of a workgroup share its features and the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sharing {
    feature_threads: usize,
    sample_threads: usize,
    /// Blocks of features of a thread.
    feature_blocks: usize,
}

impl Sharing {
    pub(super) const ALL: [Self; 3] = [
        Self { feature_threads: 2, sample_threads: 128, feature_blocks: 1 },
        Self { feature_threads: 4, sample_threads: 64, feature_blocks: 1 },
        Self { feature_threads: 1, sample_threads: 8, feature_blocks: 4 },
    ];

    /// Whether a software device comes to the end of its loops.
    pub(super) fn suits(self, kind: DeviceKind, batch_size: usize) -> bool {
        kind != DeviceKind::SoftwareGpu || batch_size.div_ceil(self.sample_threads) <= SOFTWARE_ROUNDS
    }

    /// Large GPUs have more multiprocessors than workgroups would be of 16 features, and wait for a batch's samples one
    /// after the other rather than for memory, unless they are many. Software devices have one thread for each processor,
    /// of 8 lanes: there sums over threads cost more than they gain, and 4 blocks of features are a cache line.
    pub(super) fn choose(kind: DeviceKind, batch_size: usize) -> Self {
        Self::ALL[match kind {
            DeviceKind::DiscreteGpu if batch_size < 4096 => 0,
            DeviceKind::SoftwareGpu if Self::ALL[2].suits(kind, batch_size) => 2,
            _ => 1,
        }]
    }

    /// Workgroups for all parameters.
    pub(super) fn n_workgroups(self, shape: Shape) -> usize {
        let features = BLOCK * self.feature_blocks * self.feature_threads;
        let outputs = BLOCK * output_blocks_at_a_time(shape);
        (shape.n_features + 1).div_ceil(features) * shape.n_outputs().div_ceil(outputs)
    }

    /// The variant for X of that precision, and heads of that kind.
    pub(super) fn variant(self, shape: Shape, dtype: Dtype, rule: RuleKind) -> Variant {
        self.with_blocks(output_blocks_at_a_time(shape), dtype, rule)
    }

    fn with_blocks(self, output_blocks: usize, dtype: Dtype, rule: RuleKind) -> Variant {
        let source = match rule {
            RuleKind::Momentum => concat!(
                include_str!("../../../shaders/shared/momentum.wgsl"),
                include_str!("../../../shaders/narrow_update.wgsl")
            ),
            RuleKind::AdamW => concat!(
                include_str!("../../../shaders/shared/adamw.wgsl"),
                include_str!("../../../shaders/narrow_update.wgsl")
            ),
        };
        // All features of a thread where there is room for the sums of all threads.
        let features = if self.feature_blocks > 1 { BLOCK * self.feature_blocks } else { 1 };
        let n_shares = self.sample_threads / (BLOCK * output_blocks * features);
        let share = if n_shares > 1 { self.sample_threads.div_ceil(n_shares) } else { 1 };
        Variant {
            name: "narrow_update",
            source: source.into(),
            features: Some(dtype),
            constants: vec![
                ("FEATURE_THREADS", self.feature_threads as f64),
                ("SAMPLE_THREADS", self.sample_threads as f64),
                ("FEATURE_BLOCKS", self.feature_blocks as f64),
                ("OUTPUT_BLOCKS", output_blocks as f64),
                ("FEATURES", features as f64),
                ("SHARE", share as f64),
            ],
            read_only: &[true, true, true, true, false, false],
            uniform: None,
        }
    }
}

pub(super) fn variants() -> Vec<Variant> {
    let mut variants = Vec::new();
    for sharing in Sharing::ALL {
        for output_blocks in 1..=4 {
            for dtype in Dtype::ALL {
                variants.extend(RuleKind::ALL.map(|rule| sharing.with_blocks(output_blocks, dtype, rule)));
            }
        }
    }
    variants
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { feature_threads, sample_threads, feature_blocks } = self;
        write!(f, "{feature_threads} × {sample_threads} threads, {} features each", feature_blocks * BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_software_devices_have_no_more_rounds_than_these_make() {
        for batch_size in [480_000, 480_001, 3_000_000] {
            let Sharing { sample_threads, .. } = Sharing::choose(DeviceKind::SoftwareGpu, batch_size);
            assert!(batch_size.div_ceil(sample_threads) <= SOFTWARE_ROUNDS, "{batch_size}");
        }
    }
}
