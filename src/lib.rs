#![doc = include_str!("../README.md")]
// The library does not panic on any input.
#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::panic, clippy::todo, clippy::unreachable, clippy::unwrap_used)
)]

#[doc(hidden)]
pub mod backend;
#[doc(hidden)]
pub mod batch;
pub mod data;
mod error;
mod fit;
pub mod metrics;
mod model;
mod objective;
#[doc(hidden)]
pub mod reference;
mod solver;
mod write;

pub use backend::{Device, DeviceInfo, DeviceKind};
pub use data::{Dataset, Features, Labels};
pub use error::{Error, ModelFileProblem, Place, Result};
pub use fit::{FeatureScale, Fit, SoftmaxRegression};
pub use metrics::Evaluation;
pub use model::{Model, Predictor};
pub use solver::{Progress, Sgd, Solver};
pub use write::write_atomically;
