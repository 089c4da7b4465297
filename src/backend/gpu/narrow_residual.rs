//! Logits, softmax and residual of few outputs in one kernel: shaders/narrow_residual.wgsl.

use super::kernel::Variant;
use crate::backend::DeviceKind;
use crate::data::Dtype;

/// `THREADS` of the shader.
const THREADS: usize = 64;
/// Samples that a thread computes.
const SAMPLES: usize = 4;

/// How many threads share the features of a group of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SampleThreads(usize);

impl SampleThreads {
    const ALL: [Self; 2] = [Self(16), Self(64)];

    /// Few samples need many threads each to keep a GPU busy, which many samples need not. Software devices have few
    /// threads at a time: there it took half the time.
    pub(super) fn choose(kind: DeviceKind, batch_size: usize) -> Self {
        Self::ALL[usize::from(kind != DeviceKind::SoftwareGpu && batch_size < 4096)]
    }

    /// Workgroups for that many samples.
    pub(super) fn n_workgroups(self, n_samples: usize) -> usize {
        n_samples.div_ceil(THREADS / self.0 * SAMPLES)
    }

    /// The variant for X of that precision and class numbers or, when `soft`, distributions.
    pub(super) fn variant(self, dtype: Dtype, soft: bool) -> Variant {
        Variant {
            name: "narrow_residual",
            source: include_str!("../../../shaders/narrow_residual.wgsl").into(),
            features: Some(dtype),
            constants: vec![("SAMPLE_THREADS", self.0 as f64), ("SOFT", f64::from(u8::from(soft)))],
            read_only: &[true, true, true, true, false, false],
        }
    }
}

pub(super) fn variants() -> Vec<Variant> {
    let each = |threads: SampleThreads| {
        Dtype::ALL.into_iter().flat_map(move |dtype| [true, false].map(|soft| threads.variant(dtype, soft)))
    };
    SampleThreads::ALL.into_iter().flat_map(each).collect()
}
