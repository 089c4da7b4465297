//! What training knows of the samples, as the kernels have it: the labels of a chunk, a row for each sample.

use std::ops::Range;

use super::Gpu;
use super::memory::Buffer;
use crate::backend::Supervision;
use crate::data::Targets;
use crate::error::Result;

/// What is in a row of labels: the number of the class, or with `soft` the bits of a distribution over the classes; then,
/// when `weighted`, the bits of the sample's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LabelLayout {
    pub soft: bool,
    pub weighted: bool,
}

impl LabelLayout {
    pub const ALL: [Self; 4] = [
        Self { soft: false, weighted: false },
        Self { soft: true, weighted: false },
        Self { soft: false, weighted: true },
        Self { soft: true, weighted: true },
    ];

    pub fn of(supervision: Supervision) -> Self {
        Self { soft: matches!(supervision.targets, Targets::Distributions(_)), weighted: supervision.weights.is_some() }
    }

    /// The `override` constants of the shaders that read them.
    pub fn constants(self) -> [(&'static str, f64); 2] {
        [("SOFT", f64::from(u8::from(self.soft))), ("WEIGHTED", f64::from(u8::from(self.weighted)))]
    }

    /// Values in a row.
    pub fn width(self, n_classes: usize) -> usize {
        usize::from(self.weighted) + if self.soft { n_classes } else { 1 }
    }

    /// The labels of `rows` on the device. Whether there is one for each is found out before any is used.
    pub fn upload(self, gpu: &Gpu, supervision: Supervision, n_classes: usize, rows: Range<usize>) -> Result<Buffer> {
        const WHAT: &str = "the labels";
        let Supervision { targets, weights } = supervision;
        let weights = weights.map(|weights| weights.get(rows.clone()).unwrap_or_default());
        match (targets, weights) {
            (Targets::Classes(classes), None) => gpu.storage_of(WHAT, classes.get(rows).unwrap_or_default()),
            (Targets::Distributions(values), None) => {
                let range = rows.start * n_classes..rows.end * n_classes;
                gpu.storage_of("the soft labels", values.get(range).unwrap_or_default())
            }
            (Targets::Classes(classes), Some(weights)) => {
                let classes = classes.get(rows).unwrap_or_default();
                let rows: Vec<[u32; 2]> = classes.iter().zip(weights).map(|(&c, w)| [c, w.to_bits()]).collect();
                gpu.storage_of(WHAT, &rows)
            }
            (Targets::Distributions(values), Some(weights)) => {
                let range = rows.start * n_classes..rows.end * n_classes;
                let rows = values.get(range).unwrap_or_default().chunks_exact(n_classes.max(1)).zip(weights);
                let rows: Vec<f32> = rows.flat_map(|(y, weight)| y.iter().chain([weight])).copied().collect();
                gpu.storage_of("the soft labels", &rows)
            }
        }
    }
}
