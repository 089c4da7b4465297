//! Logits, softmax and residual of few outputs in one kernel: shaders/narrow_residual.wgsl.

use std::fmt;

use super::kernel::Variant;
use super::labels::LabelLayout;
use super::step::{BLOCK, SOFTWARE_ROUNDS, UNIFORM_BYTES, weights_bytes};
use crate::backend::{DeviceKind, Shape};
use crate::data::Dtype;

/// How threads share the work, and where W is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sharing {
    /// Threads of a workgroup.
    threads: usize,
    /// Threads that share the features of a group of samples.
    sample_threads: usize,
    /// Samples that a thread computes.
    samples: usize,
    /// W is a uniform buffer.
    uniform: bool,
}

impl Sharing {
    pub(super) const ALL: [Self; 4] = [
        Self { threads: 64, sample_threads: 64, samples: 4, uniform: false },
        Self { threads: 64, sample_threads: 16, samples: 4, uniform: false },
        Self { threads: 8, sample_threads: 1, samples: 8, uniform: false },
        Self { threads: 8, sample_threads: 1, samples: 8, uniform: true },
    ];

    /// Whether W fits in a uniform buffer where it should be one, and a software device comes to the end of its loops.
    pub(super) fn suits(self, kind: DeviceKind, shape: Shape) -> bool {
        let n_groups = shape.n_outputs().div_ceil(BLOCK * output_blocks_at_a_time(shape));
        let rounds = shape.n_features.div_ceil(BLOCK * self.sample_threads) * n_groups;
        (!self.uniform || weights_bytes(shape) <= UNIFORM_BYTES)
            && (kind != DeviceKind::SoftwareGpu || rounds <= SOFTWARE_ROUNDS)
    }

    /// Few samples need many threads each to keep a GPU busy, which many samples need not. Software devices have one thread
    /// for each processor, of 8 lanes: there sums over threads cost more than they gain, and loads of a uniform buffer
    /// half as much as those of a storage buffer.
    pub(super) fn choose(kind: DeviceKind, shape: Shape, batch_size: usize) -> Self {
        match kind {
            DeviceKind::SoftwareGpu => {
                Self::ALL.into_iter().rev().find(|sharing| sharing.suits(kind, shape)).unwrap_or(Self::ALL[0])
            }
            _ => Self::ALL[usize::from(batch_size >= 4096)],
        }
    }

    /// Workgroups for that many samples.
    pub(super) fn n_workgroups(self, n_samples: usize) -> usize {
        n_samples.div_ceil(self.threads / self.sample_threads * self.samples)
    }

    /// The variant for X of that precision and such labels.
    pub(super) fn variant(self, shape: Shape, dtype: Dtype, labels: LabelLayout) -> Variant {
        self.with_blocks(output_blocks_at_a_time(shape), dtype, labels)
    }

    fn with_blocks(self, output_blocks: usize, dtype: Dtype, labels: LabelLayout) -> Variant {
        let source = if self.uniform {
            concat!(
                include_str!("../../../shaders/shared/weights_uniform.wgsl"),
                include_str!("../../../shaders/narrow_residual.wgsl")
            )
        } else {
            concat!(
                include_str!("../../../shaders/shared/weights_storage.wgsl"),
                include_str!("../../../shaders/narrow_residual.wgsl")
            )
        };
        let [soft, weighted] = labels.constants();
        Variant {
            name: "narrow_residual",
            source: source.into(),
            features: Some(dtype),
            constants: vec![
                ("THREADS", self.threads as f64),
                ("SAMPLE_THREADS", self.sample_threads as f64),
                ("SAMPLES", self.samples as f64),
                ("OUTPUT_BLOCKS", output_blocks as f64),
                soft,
                weighted,
            ],
            read_only: &[true, true, true, true, false, false],
            uniform: self.uniform.then_some(3),
        }
    }
}

/// Blocks of outputs that a thread computes at a time: as few as are needed for as few times of at most 4 as are needed.
pub(super) fn output_blocks_at_a_time(shape: Shape) -> usize {
    let blocks = shape.n_outputs().div_ceil(BLOCK);
    blocks.div_ceil(blocks.div_ceil(4))
}

pub(super) fn variants() -> Vec<Variant> {
    let mut variants = Vec::new();
    for sharing in Sharing::ALL {
        for output_blocks in 1..=4 {
            for dtype in Dtype::ALL {
                variants.extend(LabelLayout::ALL.map(|labels| sharing.with_blocks(output_blocks, dtype, labels)));
            }
        }
    }
    variants
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uniform = if self.uniform { ", W uniform" } else { "" };
        write!(f, "{} threads, {} a sample{uniform}", self.threads, self.sample_threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_software_devices_have_no_more_rounds_than_these_make() {
        for (n_features, n_classes) in [(784, 10), (240_000, 2), (240_001, 2), (60_000, 64), (60_001, 64)] {
            let shape = Shape { n_features, n_classes, n_heads: 1 };
            let Sharing { sample_threads, .. } = Sharing::choose(DeviceKind::SoftwareGpu, shape, 1024);
            let rounds = n_features.div_ceil(BLOCK * sample_threads) * n_classes.div_ceil(16);
            assert!(rounds <= SOFTWARE_ROUNDS, "{shape:?}");
        }
    }
}
