//! Logits O = scale·X·W + b of sparse features: shaders/sparse_logits.wgsl.

use super::kernel::Variant;
use super::shards::Width;
use super::step::SOFTWARE_ROUNDS;
use crate::backend::DeviceKind;

/// `THREADS` of the shader.
const THREADS: usize = 64;

/// The longest row whose loops a software device comes to the end of.
pub(super) const SOFTWARE_ROW: usize = SOFTWARE_ROUNDS * THREADS;

/// How many threads share a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes(usize);

impl Lanes {
    /// All there are.
    pub const ALL: [Self; 3] = [Self(1), Self(8), Self(THREADS)];

    /// For rows of `mean` values, the longest with `longest`, and so many columns: neighbouring threads read a row of W
    /// together, and share a sample where that is short and the sample's own row is long. On a software device sums over
    /// threads cost more than they gain.
    pub(super) fn choose(kind: DeviceKind, (mean, longest): (usize, usize), n_columns: usize, width: Width) -> Self {
        let suits = |lanes: &&Self| match kind {
            DeviceKind::SoftwareGpu => longest.div_ceil(lanes.0) <= SOFTWARE_ROUNDS,
            _ => mean < 8 * 4 * lanes.0 || n_columns >= 8 * lanes.0 * width.columns(),
        };
        *Self::ALL.iter().find(suits).unwrap_or(&Self(THREADS))
    }
}

/// The variant for columns of that width; `ordered` when samples are positions of an order.
pub(super) fn variant(width: Width, lanes: Lanes, ordered: bool) -> Variant {
    Variant {
        name: "sparse_logits",
        source: [width.source(), include_str!("../../../shaders/sparse_logits.wgsl")].concat().into(),
        features: None,
        constants: vec![("LANES", lanes.0 as f64), ("ORDERED", f64::from(u8::from(ordered)))],
        read_only: &[true, true, true, true, false],
        uniform: None,
    }
}

pub(super) fn variants() -> Vec<Variant> {
    let of = |width| Lanes::ALL.into_iter().flat_map(move |lanes| [true, false].map(|o| variant(width, lanes, o)));
    Width::ALL.into_iter().flat_map(of).collect()
}

/// Workgroups for that many samples and columns.
pub(super) fn n_workgroups(width: Width, lanes: Lanes, n_columns: usize, n_samples: usize) -> usize {
    (n_samples * (n_columns / width.columns())).div_ceil(THREADS / lanes.0)
}
