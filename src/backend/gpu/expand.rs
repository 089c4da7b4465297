//! W and b of structured weights: shaders/expand.wgsl.

use super::kernel::Variant;
use super::step::padded_outputs;
use crate::backend::Shape;
use crate::structure::{Factors, Parametrisation, QUATERNION, Structure};

/// `THREADS` of the shader.
const THREADS: usize = 64;

/// Numbers in front of the factors that are not trained: the fixed A of quaternions.
pub(super) fn n_fixed(of: Parametrisation) -> usize {
    if of.structure() == Structure::Quaternion { QUATERNION.len() } else { 0 }
}

/// Values for each of the factors, first of them those that are not trained, as shaders/shared/factors.wgsl has them.
pub(super) fn with_fixed(of: Parametrisation, fixed: f32, values: &[f32]) -> Vec<f32> {
    let of_rows = |values: &[f32]| [&vec![fixed; n_fixed(of)], values].concat();
    values.chunks(of.n_parameters()).flat_map(of_rows).collect()
}

/// The factors, behind the fixed ones.
pub(super) fn device_factors(factors: &Factors) -> Vec<f32> {
    let mut values = with_fixed(factors.parametrisation(), 0.0, factors.values());
    values[..n_fixed(factors.parametrisation())].iter_mut().zip(QUATERNION).for_each(|(to, from)| *to = from as f32);
    values
}

/// The constants of shaders/shared/factors.wgsl.
pub(super) fn constants(of: Parametrisation) -> Vec<(&'static str, f64)> {
    let [m, block_rows, block_columns] = of.blocks().unwrap_or([1; 3]);
    let (is_product, rank) = match of.structure() {
        Structure::LowRank { rank } => (1, rank),
        _ => (0, 1),
    };
    let (n_fixed, [n_first, _]) = (n_fixed(of), of.sizes());
    [
        ("IS_PRODUCT", is_product),
        ("RANK", rank),
        ("M", m),
        ("BLOCK_ROWS", block_rows),
        ("BLOCK_COLUMNS", block_columns),
        ("N_FIRST", n_first + n_fixed),
        ("N_FIXED", n_fixed),
        ("N_FACTORS", of.n_parameters() + n_fixed),
    ]
    .map(|(name, value)| (name, value as f64))
    .to_vec()
}

pub(super) fn variant(of: Parametrisation) -> Variant {
    let source =
        concat!(include_str!("../../../shaders/shared/factors.wgsl"), include_str!("../../../shaders/expand.wgsl"));
    let read_only = &[true, false, false];
    Variant {
        name: "expand",
        source: source.into(),
        features: None,
        constants: constants(of),
        read_only,
        uniform: None,
    }
}

/// One of each kind of structure.
pub(super) fn examples() -> Vec<Parametrisation> {
    let structures = [Structure::Phm { m: 3 }, Structure::Quaternion, Structure::LowRank { rank: 2 }];
    structures.into_iter().filter_map(|structure| Parametrisation::new(structure, 10, 7).ok()).collect()
}

pub(super) fn variants() -> Vec<Variant> {
    examples().into_iter().map(variant).collect()
}

/// Workgroups for all of W, and all factors.
pub(super) fn n_workgroups(of: Parametrisation, shape: Shape) -> usize {
    let n_weights = (shape.n_features + 1) * padded_outputs(shape);
    n_weights.max(of.n_parameters() + n_fixed(of)).div_ceil(THREADS)
}
