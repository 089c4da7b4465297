//! Softmax regression (multinomial logistic regression, linear probes), trained on any GPU through wgpu or on all cores
//! of the CPU.
//!
//! A model is P = softmax(X·W + b): X has a row of n_features values for each sample, W a column for each class. Training
//! minimises J = mean cross-entropy (nats) + (l2/2)·‖W‖² + l1·‖W‖₁, the intercept b not penalised; with weights the mean is weighted.
//!
//! ```
//! use ndarray::array;
//! use softreg::{Dataset, Device, Features, Labels, Model, Sgd, SoftmaxRegression};
//!
//! // Data is checked once, here, and borrowed where that is possible.
//! let lengths = array![[5.1f32, 1.4], [4.9, 1.5], [7.0, 4.7], [6.4, 4.5]];
//! let labels = Labels::from_names(&["setosa", "setosa", "versicolor", "versicolor"])?;
//! let data = Dataset::new(Features::try_from(lengths.view())?, labels)?;
//!
//! // A GPU where there is one; everything has a default.
//! let estimator = SoftmaxRegression::new().device(&Device::auto()).l2(1e-4).solver(Sgd { epochs: Some(100), ..Sgd::default() });
//! let fit = estimator.fit(&data)?;
//! assert_eq!(fit.train.accuracy, 1.0);
//!
//! // A model is a file that other tools read, and predicts without a GPU.
//! # let path = std::env::temp_dir().join(format!("softreg-lib-{}.safetensors", std::process::id()));
//! fit.model.save(&path)?;
//! let model = Model::load(&path)?;
//! # std::fs::remove_file(&path).unwrap();
//! let mut probabilities = vec![0.0; model.n_classes()];
//! let class = model.predict_into(&[6.9, 4.9], &mut probabilities)?;
//! assert_eq!(model.classes()[class], "versicolor");
//! # Ok::<(), softreg::Error>(())
//! ```
//!
//! # Where to look
//! - Data: [`Features`] (f32, f16 or u8), [`Labels`] (numbers, names, or distributions), [`Dataset`]; with the feature
//!   `files` also readers of CSV, svmlight, IDX, `.npy`, `.npz` and safetensors in [`data`], with `arrow` of Parquet and
//!   Arrow. [`Dataset::with_weights`] and [`ClassWeight`] say how much
//!   samples and classes count.
//! - Training: [`SoftmaxRegression`] is the estimator; [`SoftmaxRegression::fit_with`] tells of each epoch and can be
//!   stopped; [`Fit`] is the result. [`Lbfgs`] and [`NewtonCg`] reach the minimum, which a [`Certificate`] tells;
//!   [`Sgd`] and [`AdamW`] take many small steps, [`Schedule`] says how their learning rate changes; [`Solver::Auto`] chooses.
//!   [`SoftmaxRegression::validation`] and [`SoftmaxRegression::patience`] stop early,
//!   [`SoftmaxRegression::partial_fit`] goes on with new data.
//!   [`SoftmaxRegression::weights`] makes W of fewer numbers ([`Structure`]).
//!   [`Sweep`] chooses penalties and learning rates by cross-validation, [`LearningCurve`] says how good models of fewer samples are.
//! - Prediction: [`Model`], for a matrix of samples or for one without an allocation ([`Model::predict_into`]), and on a
//!   device of choice ([`Model::on`]). [`Evaluation`] has loss and accuracy, entropies in nats, calibration, and the figures of each
//!   class. [`Model::calibrate`] makes probabilities true to validation data.
//! - Devices: [`Device::auto`], [`Device::named`], [`Device::open`] with [`DeviceOptions`], [`Device::list`].
//! - Errors: [`Error`] says what was wrong, where (file, row, column) and what to do. The library does not panic on any
//!   input.
//!
//! # Features of the crate
//! - `gpu` (default): training and prediction on Vulkan, Metal and DX12 through wgpu.
//! - `files`: readers of data files.
//! - `arrow`: also of Parquet and Arrow files; includes `files`.
//! - `cli` (default): the program `softreg`; includes `files`.
//!
//! Without any, there are training on the CPU, prediction and model files.

// The library does not panic on any input.
#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::panic, clippy::todo, clippy::unreachable, clippy::unwrap_used)
)]

/// Its example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[doc(hidden)]
pub mod backend;
#[doc(hidden)]
pub mod batch;
#[doc(hidden)]
pub mod bench;
#[doc(hidden)]
pub mod checkpoint;
mod columns;
pub mod data;
mod error;
mod fit;
mod memory;
pub mod metrics;
mod model;
mod objective;
#[doc(hidden)]
pub mod reference;
mod solver;
mod structure;
mod weighting;
mod write;

// What public types are made of, in the versions that they are made of.
pub use half;
pub use ndarray;
pub use serde_json;

pub use backend::{Device, DeviceInfo, DeviceKind, DeviceOptions};
pub use data::{Dataset, Features, Labels};
pub use error::{Error, ModelFileProblem, Place, Result};
pub use fit::{
    Candidate, Criterion, Curve, CurvePoint, Draw, FeatureScale, Fit, Folds, Head, LearningCurve, Rule,
    SoftmaxRegression, SubsetSize, Sweep, Swept, Validation,
};
pub use metrics::Evaluation;
pub use model::{Calibrated, Calibration, Model, Predictor, Scaling};
pub use solver::{AdamW, Certificate, Every, Lbfgs, NewtonCg, Progress, Schedule, Sgd, Solver, StopReason, Warmup};
pub use structure::Structure;
pub use weighting::ClassWeight;
pub use write::write_atomically;
