//! Model files: safetensors of f32 arrays, and one metadata entry `softreg`, a JSON object. Dense weights are `weight` (d × q) and `bias`
//! (q), in format version 1. Structured weights are in version 2, which readers of version 1 refuse as newer: the metadata has the
//! `structure` and `n_features`, and the arrays are `bias` with `A` (m × m × m) and `S` (m × ⌈d/m⌉ × ⌈q/m⌉), with `S` alone for
//! quaternions, or with `U` (d × r) and `V` (r × q).
//!
//! The metadata is one entry because safetensors keeps entries in no fixed order, and equal models must have equal bytes.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use ndarray::{ArrayView1, ArrayView2};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use super::Model;
use crate::backend::Weights;
use crate::data::check_classes;
use crate::error::{Error, ModelFileProblem, Result, shown};
use crate::structure::{Factors, Parametrisation, Structure};
use crate::write::write_atomically;

/// The newest format version, of structured weights; that of dense ones is older. All are read.
const FORMAT_VERSION: u64 = 2;
const DENSE_VERSION: u64 = 1;
const METADATA: &str = "softreg";

impl Model {
    /// Writes the model to `path`, whole or not at all. Python reads it with `safetensors.numpy.load_file`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut metadata = json!({
            "format_version": DENSE_VERSION,
            "classes": self.classes,
            "feature_names": self.feature_names,
            "training": self.training,
        });
        let (n_features, n_classes) = (self.n_features(), self.n_classes());
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (shapes, parts) = match &self.weights {
            Weights::Dense(parameters) => {
                (vec![("weight", vec![n_features, n_classes])], vec![parameters.weights(), parameters.bias()])
            }
            Weights::Factored(factored) => {
                let factors = factored.factors();
                metadata["format_version"] = FORMAT_VERSION.into();
                metadata["structure"] = self.structure().to_string().into();
                metadata["n_features"] = n_features.into();
                let parts = factors.parts().into_iter().filter(|part| !part.is_empty()).collect();
                (arrays(factors.parametrisation()), parts)
            }
        };
        let metadata = HashMap::from([(METADATA.to_owned(), metadata.to_string())]);
        let parts: Vec<_> = parts.into_iter().map(bytes).collect();
        let bias = ("bias", vec![n_classes]);
        let bytes = shapes
            .into_iter()
            .chain([bias])
            .zip(&parts)
            .map(|((name, shape), bytes)| Ok((name, TensorView::new(Dtype::F32, shape, bytes)?)))
            .collect::<Result<Vec<_>, _>>()
            .and_then(|views| safetensors::serialize(views, Some(metadata)))
            .map_err(|error| Error::io("write", &path, std::io::Error::other(error)))?;
        write_atomically(path, |writer| writer.write_all(&bytes))
    }

    /// Reads a model that [`Model::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read; [`Error::ModelFile`] when it is damaged, is not a model of softreg, or is
    /// of a newer format.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| Error::io("read", path, source))?;
        Self::from_bytes(&bytes).map_err(|problem| Error::ModelFile { path: path.to_owned(), problem })
    }

    /// A model from the bytes of a file, for models that are part of a program.
    ///
    /// # Errors
    /// The problem with the bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelFileProblem> {
        let damaged = |what: &dyn ToString| ModelFileProblem::Damaged(shown(what.to_string()));
        let foreign = |what: &str| ModelFileProblem::Foreign(what.to_owned());

        // Eight bytes of header length, then JSON: what begins otherwise was never a safetensors file.
        let looks_like_safetensors = bytes.get(8) == Some(&b'{');
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| {
            if looks_like_safetensors { damaged(&error) } else { foreign("it is not a safetensors file") }
        })?;
        let metadata = header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA));
        let metadata = metadata.ok_or_else(|| foreign("it is a safetensors file without softreg's metadata"))?;
        let metadata: Value = serde_json::from_str(metadata).map_err(|error| damaged(&error))?;
        match metadata["format_version"].as_u64() {
            Some(found) if found > FORMAT_VERSION => {
                return Err(ModelFileProblem::Newer { found, supported: FORMAT_VERSION });
            }
            Some(_) => {}
            None => return Err(damaged(&"it has no format version")),
        }
        let names = |value: &Value| -> Option<Vec<String>> {
            value.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let classes = names(&metadata["classes"]).ok_or_else(|| damaged(&"it has no class names"))?;
        if classes.len() < 2 {
            return Err(damaged(&format!("a classifier has at least two classes, it has {}", classes.len())));
        }
        let feature_names = match &metadata["feature_names"] {
            Value::Null => None,
            value => Some(names(value).ok_or_else(|| damaged(&"its feature names are not a list of names"))?),
        };

        let tensors = SafeTensors::deserialize(bytes).map_err(|error| damaged(&error))?;
        let (bias_shape, bias) = floats(&tensors, "bias")?;
        if !metadata["structure"].is_null() {
            let weights = factors(&metadata, &tensors, bias, classes.len())?.into();
            check_classes(&classes).map_err(|error| damaged(&error))?;
            let model = Self { weights, classes, feature_names, training: metadata["training"].clone() };
            return match model.feature_names.as_ref().map(Vec::len).filter(|&found| found != model.n_features()) {
                None => Ok(model),
                Some(found) => {
                    Err(damaged(&format!("it has {found} feature names for {} features", model.n_features())))
                }
            };
        }
        let (weight_shape, weight) = floats(&tensors, "weight")?;
        let (&[n_features, n_classes], &[n_bias]) = (&*weight_shape, &*bias_shape) else {
            return Err(damaged(&format!("weight and bias have shapes {weight_shape:?} and {bias_shape:?}")));
        };
        let weights = ArrayView2::from_shape((n_features, n_classes), &weight).map_err(|error| damaged(&error))?;
        let bias = ArrayView1::from_shape(n_bias, &bias).map_err(|error| damaged(&error))?;
        let model = Self::new(weights, bias, classes).map_err(|error| damaged(&error))?;
        if let Some(found) = feature_names.as_ref().map(Vec::len).filter(|&found| found != n_features) {
            return Err(damaged(&format!("it has {found} feature names for {n_features} features")));
        }
        Ok(Self { feature_names, training: metadata["training"].clone(), ..model })
    }
}

/// Weights that structured ones may be made into, 16 GiB.
const MOST_WEIGHTS: u64 = 1 << 32;

/// Names and shapes of the arrays of a structure, without the intercept.
fn arrays(of: Parametrisation) -> Vec<(&'static str, Vec<usize>)> {
    let (d, q) = (of.n_features(), of.n_classes());
    match (of.structure(), of.blocks()) {
        (Structure::LowRank { rank }, _) => vec![("U", vec![d, rank]), ("V", vec![rank, q])],
        (Structure::Quaternion, Some(blocks)) => vec![("S", blocks.to_vec())],
        (_, Some(blocks @ [m, ..])) => vec![("A", vec![m; 3]), ("S", blocks.to_vec())],
        (_, None) => vec![("weight", vec![d, q])],
    }
}

/// The factors in a file.
fn factors(
    metadata: &Value,
    tensors: &SafeTensors,
    bias: Vec<f32>,
    n_classes: usize,
) -> Result<Factors, ModelFileProblem> {
    let damaged = |what: String| ModelFileProblem::Damaged(shown(what));
    let not = |name: &str, what: &str| damaged(format!("its {name} is {}, not {what}", metadata[name]));
    let structure = metadata["structure"].as_str().ok_or_else(|| not("structure", "a text"))?;
    let structure = structure.parse().map_err(|error: Error| damaged(error.to_string()))?;
    if structure == Structure::Dense {
        return Err(damaged("its structure is dense, which format version 1 is for".to_owned()));
    }
    let n_features = metadata["n_features"].as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
    let n_features = n_features.ok_or_else(|| not("n_features", "a number of features"))?;
    let of = Parametrisation::new(structure, n_features, n_classes).map_err(|error| damaged(error.to_string()))?;
    // A small file may have factors of what no memory holds.
    if n_features as u64 > MOST_WEIGHTS / n_classes as u64 {
        let problem = format!("it is of {n_features} × {n_classes} weights, more than {MOST_WEIGHTS}");
        return Err(damaged(problem));
    }
    let mut largest = 1.0;
    let mut values = Vec::new();
    for (name, shape) in arrays(of) {
        let (found, part) = floats(tensors, name)?;
        if found != shape {
            return Err(damaged(format!("{name} has the shape {found:?}, not {shape:?}")));
        }
        largest *= part.iter().fold(0.0, |most: f64, &value| most.max(f64::from(value).abs()));
        values.extend(part);
    }
    let n_terms = match structure {
        Structure::LowRank { rank } => rank,
        _ => of.blocks().map_or(1, |[m, ..]| m),
    };
    if largest * n_terms as f64 > f64::from(f32::MAX) {
        return Err(damaged("its weights may be larger than single precision has numbers".to_owned()));
    }
    values.extend(bias);
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(damaged(format!("a number is {value}")));
    }
    let n = values.len();
    let wrong = || damaged(format!("it has {n} numbers, {structure} has {}", of.n_parameters()));
    Factors::new(of, values).ok_or_else(wrong)
}

fn floats(tensors: &SafeTensors, name: &str) -> Result<(Vec<usize>, Vec<f32>), ModelFileProblem> {
    let tensor = tensors.tensor(name).map_err(|error| ModelFileProblem::Damaged(error.to_string()))?;
    if tensor.dtype() != Dtype::F32 {
        return Err(ModelFileProblem::Damaged(format!("{name} is {:?}, not F32", tensor.dtype())));
    }
    let values = tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    Ok((tensor.shape().to_vec(), values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr1, arr2};

    fn model() -> Model {
        let weights = arr2(&[[1.0, -2.0], [0.5, 0.25], [3.0, 4.0]]);
        Model::new(weights.view(), arr1(&[0.1, -0.1]).view(), vec!["no".into(), "yes".into()]).unwrap()
    }

    fn bytes_of(model: &Model) -> Vec<u8> {
        let path =
            std::env::temp_dir().join(format!("softreg-{}-{:?}", std::process::id(), std::thread::current().id()));
        model.save(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        bytes
    }

    #[test]
    fn a_model_survives_save_and_load() {
        let model = model();
        assert_eq!(Model::from_bytes(&bytes_of(&model)).unwrap(), model);
    }

    #[test]
    fn no_prefix_and_no_flipped_header_byte_panics() {
        let bytes = bytes_of(&model());
        for length in 0..bytes.len() {
            assert!(Model::from_bytes(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
        for index in 0..bytes.len() - 32 {
            for flip in [1, 0x80] {
                let mut bytes = bytes.clone();
                bytes[index] ^= flip;
                // Some flips only rename a class; what counts is that none panics.
                let _ = Model::from_bytes(&bytes);
            }
        }
    }

    #[test]
    fn damaged_foreign_and_newer_are_told_apart() {
        let bytes = bytes_of(&model());
        let problem = |bytes: &[u8]| Model::from_bytes(bytes).unwrap_err();
        assert!(matches!(problem(&bytes[..bytes.len() - 1]), ModelFileProblem::Damaged(_)));
        assert!(matches!(problem(b"PK\x03\x04 something else"), ModelFileProblem::Foreign(_)));
        assert!(matches!(problem(b""), ModelFileProblem::Foreign(_)));

        let one = TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
        let foreign = safetensors::serialize([("weight", one)], None).unwrap();
        assert!(matches!(problem(&foreign), ModelFileProblem::Foreign(_)));

        let key = br#"format_version\":"#;
        let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len();
        let mut newer = bytes.clone();
        assert_eq!(newer[at], b'1');
        newer[at] = b'9';
        assert_eq!(problem(&newer), ModelFileProblem::Newer { found: 9, supported: FORMAT_VERSION });

        let mut not_finite = bytes.clone();
        let end = not_finite.len();
        not_finite[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(matches!(problem(&not_finite), ModelFileProblem::Damaged(_)));
    }
}
