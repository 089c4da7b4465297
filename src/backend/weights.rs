//! What the weights of a model are: W and b, or the factors that they are made of.

use std::sync::OnceLock;

use super::{Parameters, Shape};
use crate::structure::{Factors, Structure};

/// The weights of one head.
#[derive(Debug, Clone, PartialEq)]
pub enum Weights {
    /// W and b.
    Dense(Parameters),
    /// Fewer numbers than these.
    Factored(Factored),
}

/// Factors, and W and b once they were asked for.
#[derive(Debug, Clone)]
pub struct Factored {
    factors: Factors,
    dense: OnceLock<Parameters>,
}

impl PartialEq for Factored {
    fn eq(&self, other: &Self) -> bool {
        self.factors == other.factors
    }
}

/// W is formed for single samples while it is no larger, in bytes: it stays in the cache then.
const CACHED: usize = 1 << 20;
/// Kronecker products of which a row is faster made of the factors than of W.
const MOST_TERMS: usize = 4;

impl Factored {
    pub(crate) fn factors(&self) -> &Factors {
        &self.factors
    }

    /// Whether logits are best made of the factors: with half the multiplications, or with few terms and fewer bytes than a W that no cache
    /// near the processor holds.
    pub(crate) fn is_for_rows(&self) -> bool {
        let of = self.factors.parametrisation();
        let n_weights = of.n_features().saturating_mul(of.n_classes());
        let is_large = n_weights.saturating_mul(size_of::<f32>()) > CACHED;
        match of.structure() {
            Structure::LowRank { rank } => {
                let n = rank * (of.n_features() + of.n_classes());
                n <= n_weights / 2 || is_large && n < n_weights
            }
            Structure::Phm { m } if m > MOST_TERMS => false,
            _ => is_large,
        }
    }
}

impl From<Parameters> for Weights {
    fn from(parameters: Parameters) -> Self {
        Self::Dense(parameters)
    }
}

impl From<Factors> for Weights {
    fn from(factors: Factors) -> Self {
        Self::Factored(Factored { factors, dense: OnceLock::new() })
    }
}

impl Weights {
    /// W and b, which are made of factors once.
    pub fn dense(&self) -> &Parameters {
        match self {
            Self::Dense(parameters) => parameters,
            Self::Factored(Factored { factors, dense }) => {
                dense.get_or_init(|| Parameters { shape: self.shape(), values: factors.expand() })
            }
        }
    }

    /// The sizes.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Dense(parameters) => parameters.shape,
            Self::Factored(Factored { factors, .. }) => {
                let of = factors.parametrisation();
                Shape { n_features: of.n_features(), n_classes: of.n_classes(), n_heads: 1 }
            }
        }
    }

    /// What they are made of.
    pub fn structure(&self) -> Structure {
        match self {
            Self::Dense(_) => Structure::Dense,
            Self::Factored(Factored { factors, .. }) => factors.parametrisation().structure(),
        }
    }

    /// All numbers that they are made of: W above b, or the factors.
    pub fn values(&self) -> &[f32] {
        match self {
            Self::Dense(parameters) => &parameters.values,
            Self::Factored(Factored { factors, .. }) => factors.values(),
        }
    }

    /// b, (q).
    pub fn bias(&self) -> &[f32] {
        let values = self.values();
        &values[values.len() - self.shape().n_classes..]
    }

    /// The same with other numbers, as many as there are.
    pub(crate) fn with_values(&self, values: Vec<f32>) -> Self {
        match self {
            Self::Dense(Parameters { shape, .. }) => Parameters { shape: *shape, values }.into(),
            Self::Factored(Factored { factors, .. }) => factors.with_values(values).into(),
        }
    }

    /// U without an intercept and V with b, where logits are best made of the factors.
    pub(crate) fn two_products(&self) -> Option<[Parameters; 2]> {
        let Self::Factored(factored @ Factored { factors, .. }) = self else { return None };
        let Structure::LowRank { rank } = self.structure() else { return None };
        let Shape { n_features, n_classes, .. } = self.shape();
        let [u, v, bias] = factors.parts();
        let of = |n_features, n_classes, parts: [&[f32]; 2]| Parameters {
            shape: Shape { n_features, n_classes, n_heads: 1 },
            values: parts.concat(),
        };
        factored.is_for_rows().then(|| [of(n_features, rank, [u, &vec![0.0; rank]]), of(rank, n_classes, [v, bias])])
    }

    /// The same with W times `factor`.
    pub(crate) fn scaled(&self, factor: f32) -> Self {
        match self {
            Self::Dense(parameters) => {
                let mut parameters = parameters.clone();
                let n_weights = parameters.weights().len();
                parameters.values[..n_weights].iter_mut().for_each(|weight| *weight *= factor);
                parameters.into()
            }
            Self::Factored(Factored { factors, .. }) => factors.scaled(factor.into()).into(),
        }
    }
}
