//! Matrix units: which of them a device has, and what the kernels on them share.

use wgpu::CooperativeScalarType::{F16, F32};

use super::kernel::Variant;
use crate::backend::Shape;
use crate::data::Dtype;

/// What must be asked of a device for its matrix units.
pub(super) const FEATURES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16);

/// Matrices that units multiply, all with sums in single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matrices {
    /// 16 × 16 of half precision.
    Half16,
    /// 8 × 8 of single precision: nothing is rounded.
    Single8,
    /// 8 × 8 of half precision.
    Half8,
}

impl Matrices {
    /// The best first: where units have 8 × 8 at most, those of single precision are about as fast.
    const ALL: [Self; 3] = [Self::Half16, Self::Single8, Self::Half8];

    /// Rows and columns, and the type of the values.
    fn size_and_type(self) -> (u32, wgpu::CooperativeScalarType) {
        match self {
            Self::Half16 => (16, F16),
            Self::Single8 => (8, F32),
            Self::Half8 => (8, F16),
        }
    }

    fn wgsl(self) -> &'static str {
        macro_rules! with_values {
            ($matrices:literal, $values:literal) => {
                concat!(
                    include_str!(concat!("../../../shaders/shared/", $matrices)),
                    include_str!(concat!("../../../shaders/shared/", $values))
                )
            };
        }
        match self {
            Self::Half16 => with_values!("matrices_f16_16.wgsl", "values_f16.wgsl"),
            Self::Single8 => with_values!("matrices_f32_8.wgsl", "values_f32.wgsl"),
            Self::Half8 => with_values!("matrices_f16_8.wgsl", "values_f16.wgsl"),
        }
    }
}

/// Matrix units of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixUnits {
    /// What they multiply.
    pub matrices: Matrices,
    /// Threads that work at a matrix together, and that a workgroup has.
    pub subgroup_size: u32,
}

impl MatrixUnits {
    /// Those that an adapter has and the kernels can use, the best first. A workgroup is one subgroup, so all must be of
    /// one size.
    pub(super) fn of(adapter: &wgpu::Adapter) -> Vec<Self> {
        let info = adapter.get_info();
        // Metal does not tell; its simdgroups that multiply matrices have 32 threads.
        let (subgroup_size, is_known) = match info.backend {
            wgpu::Backend::Metal => (32, true),
            _ => (info.subgroup_min_size, info.subgroup_min_size == info.subgroup_max_size),
        };
        if !is_known || !adapter.features().contains(FEATURES) {
            return Vec::new();
        }
        let properties = adapter.cooperative_matrix_properties();
        let has = |matrices: &Matrices| {
            let (size, values) = matrices.size_and_type();
            properties.iter().any(|found| {
                [found.m_size, found.n_size, found.k_size] == [size; 3]
                    && (found.ab_type, found.cr_type) == (values, F32)
            })
        };
        Matrices::ALL.into_iter().filter(has).map(|matrices| Self { matrices, subgroup_size }).collect()
    }

    /// A kernel on them, for X of that precision.
    pub(super) fn variant(self, name: &'static str, source: &str, dtype: Dtype) -> Variant {
        Variant {
            name,
            source: [self.matrices.wgsl(), source].join("\n").into(),
            features: Some(dtype),
            constants: vec![("THREADS", self.subgroup_size.into()), ("BYTES", f64::from(u8::from(dtype == Dtype::U8)))],
            read_only: &[true, true, true, false],
            uniform: None,
        }
    }

    /// Every kind with every precision of X.
    pub(super) fn with_all_dtypes() -> impl Iterator<Item = (Self, Dtype)> {
        let all = Matrices::ALL.map(|matrices| Self { matrices, subgroup_size: 32 });
        all.into_iter().flat_map(|units| Dtype::ALL.map(|dtype| (units, dtype)))
    }

    /// Tiles of 4 × 4 matrices that cover `rows` × the outputs.
    pub(super) fn tiles(self, rows: usize, shape: Shape) -> usize {
        let tile = 4 * self.matrices.size_and_type().0 as usize;
        rows.div_ceil(tile) * shape.n_outputs().div_ceil(tile)
    }
}
