//! Checkpoints: files from which a training goes on to the same bits.
//!
//! A safetensors file, as models are, with one metadata entry `softreg_checkpoint`, a JSON object: of which run it is (settings
//! and hashes of the data), on which device it was. What must keep all its digits are tensors: `epochs` (epochs × 4): loss,
//! validation loss (NaN: none), evaluations and seconds so far; `best` (W above b, or the factors of structured weights) and `best_loss`;
//! of a stochastic solver `parameters` ((d + 1) × q) and `moments`, as [`State`] has them; of a batch solver `parameters` (or factors) in
//! centred coordinates, `pairs` and `numbers`, as `Stand` and `Numbers` have them.

use std::collections::HashMap;
use std::fs;
use std::hash::Hasher;
use std::path::Path;
use std::time::Duration;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use twox_hash::XxHash3_64;

use crate::backend::{DeviceInfo, DeviceKind, Parameters, Shape, State, Supervision, Weights};
use crate::data::{Dataset, Features, Stored, Targets, Values};
use crate::error::{Error, Result, shown};
use crate::objective::Counts;
use crate::solver::{Best, Learned, Numbers, Progress, Snapshot, SolverState, Stand};
use crate::structure::{Factors, Parametrisation, Structure};
use crate::write::write_atomically;

/// The newest format version, which is written and read.
const FORMAT_VERSION: u64 = 2;
const METADATA: &str = "softreg_checkpoint";

/// Of which run a checkpoint is: what must be the same for the training to go on, by name.
pub(crate) struct Identity(pub Value);

impl Identity {
    /// The names of what differs, with both values.
    fn differences(&self, other: &Value) -> Vec<String> {
        // As it comes out of a file.
        let here: Value = serde_json::from_str(&self.0.to_string()).unwrap_or_default();
        let names =
            |value: &Value| value.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        let mut all = names(&here);
        all.extend(names(other).into_iter().filter(|name| here.get(name).is_none()));
        let differing = all.into_iter().filter(|name| here[name] != other[name]);
        differing.map(|name| format!("{name} is {} here and {} there", here[&name], other[&name])).collect()
    }
}

/// A hash of features, as a person can compare it: of those in a file, of some rows.
pub(crate) fn hash_of_features(features: &Features) -> Result<String> {
    let mut hash = Hash::default();
    match features.values() {
        Values::F32(values) => hash.add(values, |value| value.to_le_bytes()),
        Values::F16(values) => hash.add(values, |value| value.to_le_bytes()),
        Values::U8(values) => hash.0.write(values),
        Values::Sparse(csr) => {
            for row in 0..csr.n_rows() {
                let (columns, values) = csr.row(row);
                hash.add(&[columns.len() as u64], |n| n.to_le_bytes());
                hash.add(columns, |column| column.to_le_bytes());
                hash.add(values, |value| value.to_le_bytes());
            }
        }
        Values::Stored(_) => {
            let n = features.n_samples();
            let n_rows = n.min(Stored::most_read(features.n_features())).min(4096);
            let rows: Vec<u32> = (0..n_rows).map(|i| (i as u128 * n as u128 / n_rows as u128) as u32).collect();
            hash.add(&[n as u64], |n| n.to_le_bytes());
            hash.add(hash_of_features(&features.select(&rows)?)?.as_bytes(), |byte| [byte]);
        }
    }
    Ok(hash.finish())
}

/// A hash of targets and of the weights of samples.
pub(crate) fn hashes_of_supervision(supervision: Supervision) -> [String; 2] {
    let (mut targets, mut weights) = (Hash::default(), Hash::default());
    match supervision.targets {
        Targets::Classes(classes) => targets.add(classes, |class| class.to_le_bytes()),
        Targets::Distributions(values) => targets.add(values, |value| value.to_le_bytes()),
    }
    weights.add(supervision.weights.unwrap_or_default(), |weight| weight.to_le_bytes());
    [targets.finish(), weights.finish()]
}

/// A hash of numbers, each of so many bytes.
pub(crate) fn hash_of<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> String {
    let mut hash = Hash::default();
    hash.add(values, bytes);
    hash.finish()
}

/// A hash of names.
pub(crate) fn hash_of_names(names: &[String]) -> String {
    let mut hash = Hash::default();
    for name in names {
        hash.add(&[name.len() as u64], u64::to_le_bytes);
        hash.0.write(name.as_bytes());
    }
    hash.finish()
}

/// A hash of data with its labels and weights.
pub(crate) fn hash_of_data(data: &Dataset) -> Result<String> {
    let supervision = Supervision { targets: data.labels().targets(), weights: data.weights() };
    let [targets, weights] = hashes_of_supervision(supervision);
    Ok(format!("{}{targets}{weights}", hash_of_features(data.features())?))
}

#[derive(Default)]
struct Hash(XxHash3_64);

impl Hash {
    fn add<T: Copy, const N: usize>(&mut self, values: &[T], bytes: impl Fn(T) -> [u8; N]) {
        let mut block = Vec::new();
        for values in values.chunks(4096) {
            block.clear();
            block.extend(values.iter().flat_map(|&value| bytes(value)));
            self.0.write(&block);
        }
    }

    fn finish(self) -> String {
        format!("{:016x}", self.0.finish())
    }
}

/// A tensor of a checkpoint.
struct Tensor {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn f32(name: &'static str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name, dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    fn f64(name: &'static str, shape: &[usize], values: impl IntoIterator<Item = f64>) -> Self {
        let bytes = values.into_iter().flat_map(f64::to_le_bytes).collect();
        Self { name, dtype: Dtype::F64, shape: shape.to_vec(), bytes }
    }
}

/// Writes a checkpoint, whole or not at all.
pub(crate) fn write(path: &Path, identity: &Identity, device: &DeviceInfo, snapshot: &Snapshot) -> Result<()> {
    let Snapshot { solver, epochs, best } = snapshot;
    let last = epochs.last();
    let mut metadata = json!({
        "format_version": FORMAT_VERSION,
        "softreg_version": env!("CARGO_PKG_VERSION"),
        "run": identity.0,
        "device": of_device(device),
        "n_epochs": last.map(|epoch| epoch.n_epochs),
        "n_samples": last.map(|epoch| epoch.n_samples),
        "best_epoch": best.as_ref().map(|best| best.epoch),
    });
    let of_epochs = epochs
        .iter()
        .flat_map(|e| [e.loss, e.validation_loss.unwrap_or(f64::NAN), e.evaluations, e.elapsed.as_secs_f64()]);
    let mut tensors = vec![Tensor::f64("epochs", &[epochs.len(), OF_EPOCH], of_epochs)];
    match solver {
        SolverState::Stochastic(State { parameters, moments, n_steps, .. }) => {
            metadata["n_steps"] = (*n_steps).into();
            tensors.push(Tensor::f32("parameters", &of(parameters.shape), &parameters.values));
            tensors.push(Tensor::f32("moments", &[moments.len()], moments));
        }
        SolverState::Batch(Stand { parameters, learned: Learned { pairs, numbers }, counts }) => {
            metadata["n_products"] = counts.products.into();
            metadata["n_along"] = counts.along.into();
            tensors.push(Tensor::f64("parameters", &[parameters.len()], parameters.iter().copied()));
            let values = pairs.iter().flat_map(|(step, change)| step.iter().chain(change)).copied();
            tensors.push(Tensor::f64("pairs", &[pairs.len(), 2, parameters.len()], values));
            let numbers = numbers.map(Numbers::to_array);
            tensors.extend(numbers.map(|numbers| Tensor::f64("numbers", &[numbers.len()], numbers)));
        }
    }
    if let Some(best) = best {
        let values = best.weights.values();
        tensors.push(Tensor::f32("best", &[values.len()], values));
        tensors.push(Tensor::f64("best_loss", &[1], [best.loss]));
    }
    metadata["hash"] = hash_of_tensors(tensors.iter().map(|tensor| (tensor.name, &*tensor.bytes)).collect()).into();
    let metadata = HashMap::from([(METADATA.to_owned(), metadata.to_string())]);
    let bytes = tensors
        .iter()
        .map(|tensor| {
            TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).map(|view| (tensor.name, view))
        })
        .collect::<Result<Vec<_>, _>>()
        .and_then(|views| safetensors::serialize(views, Some(metadata)))
        .map_err(|error| Error::io("write", path, std::io::Error::other(error)))?;
    write_atomically(path, |writer| writer.write_all(&bytes))
}

/// A hash of all numbers, in whatever order the tensors come.
fn hash_of_tensors(mut tensors: Vec<(&str, &[u8])>) -> String {
    tensors.sort_unstable();
    let mut hash = Hash::default();
    tensors.into_iter().for_each(|(_, bytes)| hash.0.write(bytes));
    hash.finish()
}

/// (d + 1) × q.
fn of(shape: Shape) -> [usize; 2] {
    [shape.n_features + 1, shape.n_outputs()]
}

/// Numbers of an epoch.
const OF_EPOCH: usize = 4;

/// What the bits of a training depend on.
fn of_device(device: &DeviceInfo) -> Value {
    // Of the CPU the instruction set alone: the number of threads changes nothing.
    let driver = match device.kind {
        DeviceKind::Cpu => device.driver.split(',').next(),
        _ => Some(&*device.driver),
    };
    json!({ "name": device.name, "backend": device.backend, "driver": driver })
}

/// Reads the checkpoint of a run of that identity, whose weights are dense or of factors.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Checkpoint`] when it is damaged, no checkpoint, or of another run.
pub(crate) fn read(
    path: &Path,
    identity: &Identity,
    (shape, factors): (Shape, Option<Parametrisation>),
    device: &DeviceInfo,
) -> Result<Snapshot> {
    let bytes = fs::read(path).map_err(|source| Error::io("read", path, source))?;
    let wrong = |problem: String| Error::Checkpoint { path: path.to_owned(), problem };
    let (metadata, tensors) = parse(&bytes).map_err(wrong)?;
    check_hash(&metadata, &tensors).map_err(wrong)?;
    let differences = identity.differences(&metadata["run"]);
    if !differences.is_empty() {
        return Err(wrong(format!("it is of another run: {}", differences.join("; "))));
    }
    let warn = |what: &str, here: &Value, there: &Value| {
        if here != there {
            log::warn!(
                "{}: written with {what} {there}, now {here}: the last bits of the result may differ",
                path.display()
            );
        }
    };
    warn("the device", &of_device(device), &metadata["device"]);
    warn("softreg", &env!("CARGO_PKG_VERSION").into(), &metadata["softreg_version"]);
    snapshot(&metadata, &tensors, shape, factors).map_err(wrong)
}

/// The metadata and the tensors of a file, or what is wrong with it.
fn parse(bytes: &[u8]) -> Result<(Value, SafeTensors<'_>), String> {
    let foreign = || "this is not a checkpoint of softreg".to_owned();
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| match bytes.get(8) {
        Some(b'{') => damaged(&error),
        _ => foreign(),
    })?;
    let metadata = header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA)).ok_or_else(foreign)?;
    let metadata: Value = serde_json::from_str(metadata).map_err(|error| damaged(&error))?;
    match metadata["format_version"].as_u64() {
        Some(FORMAT_VERSION) => {}
        Some(found) => {
            return Err(format!(
                "the checkpoint has format version {found}, this softreg reads {FORMAT_VERSION}; go on with the version that \
                 wrote it"
            ));
        }
        None => return Err(damaged(&"it has no format version")),
    }
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| damaged(&error))?;
    Ok((metadata, tensors))
}

/// That the numbers are those that were written.
fn check_hash(metadata: &Value, tensors: &SafeTensors) -> Result<(), String> {
    match metadata["hash"] == hash_of_tensors(tensors.iter().map(|(name, tensor)| (name, tensor.data())).collect()) {
        true => Ok(()),
        false => Err(damaged(&"its numbers are others than were written")),
    }
}

/// The number of epochs in a checkpoint of a run with so many features and classes and dense weights or those of rank one, for the
/// fuzzers: they would hardly get past the hash, so it is looked at last.
#[doc(hidden)]
pub fn examine(bytes: &[u8], n_features: usize, n_classes: usize) -> Result<usize, String> {
    let (metadata, tensors) = parse(bytes)?;
    let factors = Parametrisation::new(Structure::LowRank { rank: 1 }, n_features, n_classes).ok();
    let n_parameters = tensors.tensor("parameters").map_or(0, |tensor| tensor.data().len() / size_of::<f64>());
    let factors = factors.filter(|factors| factors.n_parameters() == n_parameters);
    let found = snapshot(&metadata, &tensors, Shape { n_features, n_classes, n_heads: 1 }, factors)?;
    check_hash(&metadata, &tensors)?;
    Ok(found.epochs.len())
}

fn damaged(problem: &dyn ToString) -> String {
    format!("the checkpoint is damaged: {}", shown(problem.to_string()))
}

/// Where the training stands, or what is wrong with the file.
fn snapshot(
    metadata: &Value,
    tensors: &SafeTensors,
    shape: Shape,
    factors: Option<Parametrisation>,
) -> Result<Snapshot, String> {
    let integer = |name: &str| {
        metadata[name].as_u64().ok_or_else(|| damaged(&format!("{name} is {}, not a number", metadata[name])))
    };
    let (n_epochs, n_samples) = (integer("n_epochs")? as usize, integer("n_samples")? as usize);
    let parameters_of = |name: &str| -> Result<Parameters, String> {
        let values = values(tensors, name, Dtype::F32, f32::from_le_bytes)?;
        match values.len() == shape.n_parameters() && values.iter().all(|value| value.is_finite()) {
            true => Ok(Parameters { shape, values }),
            false => Err(damaged(&format!("{name} are not {} finite numbers", shape.n_parameters()))),
        }
    };
    let of_epochs = values(tensors, "epochs", Dtype::F64, f64::from_le_bytes)?;
    let epochs: Vec<Progress> = of_epochs
        .chunks_exact(OF_EPOCH)
        .zip(1..)
        .map(|(values, epoch)| Progress {
            seed: 0,
            epoch,
            n_epochs,
            loss: values[0],
            validation_loss: Some(values[1]).filter(|loss| !loss.is_nan()),
            evaluations: values[2],
            is_polish: false,
            n_samples,
            elapsed: Duration::try_from_secs_f64(values[3]).unwrap_or_default(),
        })
        .collect();
    if epochs.is_empty() || epochs.len() > n_epochs {
        return Err(damaged(&format!("{} of {n_epochs} epochs are done", epochs.len())));
    }
    let best = match &metadata["best_epoch"] {
        Value::Null => None,
        _ => {
            let epoch = integer("best_epoch")? as usize;
            let losses = values(tensors, "best_loss", Dtype::F64, f64::from_le_bytes)?;
            match losses[..] {
                [loss] if (1..=epochs.len()).contains(&epoch) => {
                    let weights = match factors {
                        None => parameters_of("best")?.into(),
                        Some(of) => {
                            let values = values(tensors, "best", Dtype::F32, f32::from_le_bytes)?;
                            let is_finite = values.iter().all(|value| value.is_finite());
                            let found = Factors::new(of, values).filter(|_| is_finite);
                            let n = of.n_parameters();
                            Weights::from(found.ok_or_else(|| damaged(&format!("best are not {n} finite numbers")))?)
                        }
                    };
                    Some(Best { epoch, loss, weights })
                }
                _ => return Err(damaged(&format!("epoch {epoch} is the best of {}", epochs.len()))),
            }
        }
    };
    let solver = if metadata["n_steps"].is_null() {
        let doubles = |name: &str| values(tensors, name, Dtype::F64, f64::from_le_bytes);
        let n = factors.map_or(shape.n_parameters(), Parametrisation::n_parameters);
        let (parameters, pairs) = (doubles("parameters")?, doubles("pairs")?);
        if parameters.len() != n || !pairs.len().is_multiple_of(2 * n) {
            return Err(damaged(&format!("parameters and pairs are not of {n} numbers each")));
        }
        if let Some(value) = parameters.iter().chain(&pairs).find(|value| !value.is_finite()) {
            return Err(damaged(&format!("a number is {value}")));
        }
        let pairs = pairs.chunks_exact(2 * n).map(|pair| (pair[..n].to_vec(), pair[n..].to_vec())).collect();
        let numbers = match tensors.tensor("numbers") {
            Ok(_) => Some(doubles("numbers")?.try_into().map_err(|_| damaged(&"its numbers are not seven"))?),
            Err(_) => None,
        };
        let numbers = numbers.map(Numbers::from_array);
        let counts = Counts { products: integer("n_products")? as usize, along: integer("n_along")? as usize };
        SolverState::Batch(Stand { parameters, learned: Learned { pairs, numbers }, counts })
    } else {
        let moments = values(tensors, "moments", Dtype::F32, f32::from_le_bytes)?;
        let (parameters, n_steps) = (parameters_of("parameters")?, integer("n_steps")?);
        SolverState::Stochastic(State { moments, n_steps, ..parameters.into() })
    };
    Ok(Snapshot { solver, epochs, best })
}

/// The values of a tensor of that precision.
fn values<T, const N: usize>(
    tensors: &SafeTensors,
    name: &str,
    dtype: Dtype,
    value: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, String> {
    let tensor = tensors.tensor(name).map_err(|error| damaged(&error))?;
    if tensor.dtype() != dtype {
        return Err(damaged(&format!("{name} is {:?}, not {dtype:?}", tensor.dtype())));
    }
    Ok(tensor.data().as_chunks().0.iter().map(|&bytes| value(bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checkpoint of either kind of solver.
    fn checkpoints() -> [Snapshot; 2] {
        let shape = Shape { n_features: 2, n_classes: 3, n_heads: 1 };
        let parameters = Parameters { shape, values: (0..9).map(|i| 0.1 * i as f32).collect() };
        let progress = |epoch: usize| Progress {
            seed: 0,
            epoch,
            n_epochs: 7,
            loss: 1.0 / 3.0,
            evaluations: epoch as f64,
            validation_loss: (epoch > 1).then_some(0.1),
            is_polish: false,
            n_samples: 5,
            elapsed: Duration::from_millis(300),
        };
        let epochs = vec![progress(1), progress(2)];
        let best = Best { epoch: 2, loss: 0.1, weights: parameters.clone().into() };
        let state = State { moments: vec![1e-30; 18], n_steps: 1 << 60, ..parameters.into() };
        let pairs = vec![(vec![1.0 / 3.0; 9], vec![1e-300; 9])];
        let numbers = Numbers { n_fruitless: 3, gain: 0.0, tau: 0.1, n_promises: 2, ..Numbers::new(1.0) };
        let learned = Learned { pairs, numbers: Some(numbers) };
        let stand = Stand { parameters: vec![1.0 / 7.0; 9], learned, counts: Counts { products: 5, along: 6 } };
        [
            Snapshot { solver: SolverState::Stochastic(state), epochs: epochs.clone(), best: Some(best) },
            Snapshot { solver: SolverState::Batch(stand), epochs, best: None },
        ]
    }

    #[test]
    fn a_checkpoint_comes_back_as_it_was_and_damage_is_an_error() {
        let shape = Shape { n_features: 2, n_classes: 3, n_heads: 1 };
        let identity = Identity(json!({ "l2": 1e-5, "seed": u64::MAX, "solver": "sgd" }));
        let device = crate::Device::cpu();
        for (number, snapshot) in checkpoints().into_iter().enumerate() {
            let path = std::env::temp_dir().join(format!("softreg-checkpoint-{}-{number}", std::process::id()));
            write(&path, &identity, device.info(), &snapshot).unwrap();
            let back = |identity: &Identity| read(&path, identity, (shape, None), device.info());
            assert_eq!(back(&identity).unwrap(), snapshot);
            let other = Identity(json!({ "l2": 1e-4, "seed": u64::MAX, "solver": "sgd", "more": null }));
            let error = back(&other).unwrap_err().to_string();
            assert!(error.ends_with("it is of another run: l2 is 0.0001 here and 0.00001 there"), "{error}");

            let whole = fs::read(&path).unwrap();
            for length in 0..whole.len() {
                fs::write(&path, &whole[..length]).unwrap();
                assert!(matches!(back(&identity), Err(Error::Checkpoint { .. })), "{length} of {} bytes", whole.len());
            }
            let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 1;
                fs::write(&path, &bytes).unwrap();
                // Some of the header says nothing that counts.
                let result = back(&identity);
                assert!(at < header || matches!(result, Err(Error::Checkpoint { .. })), "byte {at}");
            }
            fs::remove_file(&path).unwrap();
        }
    }
}
