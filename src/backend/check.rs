//! That what a caller gives suits what a session holds, so that kernels need not look where they read and write.

use std::ops::Range;

use super::{Head, Parameters, Shape, State, Supervision};
use crate::batch::Plan;
use crate::data::Targets;
use crate::error::{Error, Result};

/// That parameters have the number of values that their shape says, and suit features of that width.
pub(super) fn parameters(parameters: &Parameters, n_features: usize) -> Result<()> {
    shape(parameters.shape, n_features)?;
    equal("values of the parameters", parameters.shape.n_parameters(), parameters.values.len())
}

/// That there are heads and classes, not too many to count their parameters, and that they suit features of that width.
pub(super) fn shape(shape: Shape, n_features: usize) -> Result<()> {
    let Shape { n_features: model, n_classes, n_heads } = shape;
    if model != n_features {
        return Err(Error::Width { model, data: n_features });
    }
    if n_heads == 0 || n_classes == 0 {
        return Err(wrong("heads, and classes of each", 1, 0));
    }
    let n_values = n_heads.checked_mul(n_classes).and_then(|n| n.checked_mul(n_features.checked_add(1)?));
    n_values.map(drop).ok_or_else(|| wrong("parameters that can be counted", usize::MAX, 0))
}

/// That there are as many values as the parameters of that shape.
pub(super) fn values_of(shape: Shape, values: &[f64]) -> Result<()> {
    equal("values of the parameters or of a direction", shape.n_parameters(), values.len())
}

/// That there is a length for each head at each of so many points.
pub(super) fn lengths(shape: Shape, n_points: usize, t: &[f64]) -> Result<()> {
    equal("lengths (one for each head)", n_points.saturating_mul(shape.n_heads), t.len())
}

/// That there is room for the logits of all samples, no more and no less.
pub(super) fn logits(shape: Shape, n_samples: usize, out: &[f32]) -> Result<()> {
    equal("values of the logits", n_samples.saturating_mul(shape.n_outputs()), out.len())
}

/// That there is room for the classes of all samples and heads, no more and no less.
pub(super) fn classes(shape: Shape, n_samples: usize, into: &[u32]) -> Result<()> {
    equal("classes (one for each sample and head)", n_samples.saturating_mul(shape.n_heads), into.len())
}

/// That [`parameters`] are as they must be, that there is an optimizer head for each of their heads, that the heads' rules
/// suit each other and have the moments that they need, and that [`supervision`] is as it must be, which it gives.
pub(super) fn training<'t>(
    start: &State,
    heads: &[Head],
    supervision: Option<Supervision<'t>>,
    n_features: usize,
    n_samples: usize,
) -> Result<Supervision<'t>> {
    parameters(&start.parameters, n_features)?;
    let shape = start.parameters.shape;
    equal("heads of the optimizer", shape.n_heads, heads.len())?;
    if let Some(pair) = heads.windows(2).find(|pair| !pair[0].rule.suits(pair[1].rule)) {
        return Err(Error::Setting {
            name: "the rule of a head",
            value: format!("{:?}", pair[1].rule),
            expected: "of the kind and with the β of the head before, as they are trained together",
        });
    }
    if !start.moments.is_empty() {
        let n_moments = heads.first().map_or(1, |head| head.rule.n_moments());
        let n_trained = start.factors.as_ref().map_or(shape.n_parameters(), |factors| factors.values().len());
        equal("moments", n_trained.saturating_mul(n_moments), start.moments.len())?;
    }
    if let Some(factors) = &start.factors {
        let of = factors.parametrisation();
        equal("heads of structured weights", 1, shape.n_heads)?;
        equal("features of the factors", shape.n_features, of.n_features())?;
        equal("classes of the factors", shape.n_classes, of.n_classes())?;
    }
    self::supervision(shape, supervision, n_samples)
}

/// That the weights are dense, as those of sparse features must be that are trained in steps.
pub(super) fn dense(start: &State) -> Result<()> {
    match &start.factors {
        None => Ok(()),
        Some(factors) => Err(Error::Setting {
            name: "the structure of the weights",
            value: factors.parametrisation().structure().to_string(),
            expected: "dense with sparse features and SGD or AdamW; L-BFGS trains structured weights on these",
        }),
    }
}

/// That there is a target for each sample, none past the classes, and a weight, if there are weights. Gives them.
pub(super) fn supervision<'t>(
    start: Shape,
    supervision: Option<Supervision<'t>>,
    n_samples: usize,
) -> Result<Supervision<'t>> {
    let supervision = supervision.ok_or_else(|| wrong("targets for training", n_samples, 0))?;
    match supervision.targets {
        Targets::Classes(classes) => {
            equal("labels (one for each sample)", n_samples, classes.len())?;
            below("classes of the labels", start.n_classes, largest(classes))?;
        }
        Targets::Distributions(values) => {
            equal("values of the soft labels", n_samples.saturating_mul(start.n_classes), values.len())?;
        }
    }
    if let Some(weights) = supervision.weights {
        equal("weights (one for each sample)", n_samples, weights.len())?;
    }
    Ok(supervision)
}

/// That a plan has a learning rate for each step, an order for each chunk, and batches of 1 to `batch_size` samples, each
/// of one chunk.
pub(super) fn plan(plan: &Plan, rates: &[f32], chunks: &[Range<usize>], batch_size: usize) -> Result<()> {
    equal("learning rates (one for each step)", plan.batches.len(), rates.len())?;
    equal("chunks of the plan", chunks.len(), plan.orders.len())?;
    for (chunk, order) in chunks.iter().zip(&plan.orders) {
        equal("rows of a chunk", chunk.len(), order.n())?;
    }
    for batch in &plan.batches {
        below("chunks", chunks.len(), batch.chunk)?;
        if batch.len == 0 || batch.len > batch_size {
            return Err(wrong("samples of a batch", batch_size, batch.len));
        }
        let chunk = &chunks[batch.chunk];
        let end = batch.start.saturating_add(batch.len);
        if batch.start < chunk.start || end > chunk.end {
            return Err(wrong("samples of a chunk", chunk.end, end));
        }
    }
    Ok(())
}

fn equal(what: &str, expected: usize, found: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(wrong(what, expected, found)) }
}

/// That an index is below `expected`; `what` says what there are so many of.
fn below(what: &str, expected: usize, index: usize) -> Result<()> {
    if index < expected { Ok(()) } else { Err(wrong(what, expected, index.saturating_add(1))) }
}

fn wrong(what: &str, expected: usize, found: usize) -> Error {
    Error::Shape { what: what.to_owned(), expected, found }
}

/// The largest of some indices; 0 when there are none.
fn largest(indices: &[u32]) -> usize {
    indices.iter().max().map_or(0, |&index| index as usize)
}
