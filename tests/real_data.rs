//! Real data, where it is: `../shared/data` beside the project. A test says so and ends when it is not there.
#![cfg(feature = "cli")]

mod common;
#[path = "common/program.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod program;

use program::{Folder, argument};
use serde_json::Value;

/// Trains on `data` (flag and file, or file alone) of the shared folder with `settings`; none when the data is not there.
fn train(device: &str, data: &[(&str, &str)], settings: &[&str]) -> Option<Value> {
    let mut arguments: Vec<String> = ["train", "--quiet", "--json", "-", "--device", device].map(String::from).to_vec();
    for (flag, file) in data {
        let path = common::shared_data(file)?;
        arguments.extend((!flag.is_empty()).then(|| (*flag).to_owned()));
        arguments.push(argument(&path));
    }
    arguments.extend(settings.iter().map(|&setting| setting.to_owned()));
    Some(Folder::new().softreg(arguments).ok().json())
}

const MNIST: &[(&str, &str)] =
    &[("", "mnist-10k/t10k-images-idx3-ubyte.gz"), ("--labels", "mnist-10k/t10k-labels-idx1-ubyte.gz")];
const BANKING: &[(&str, &str)] = &[
    ("", "banking77/train_x.npy"),
    ("--labels", "banking77/train_y.txt"),
    ("--test", "banking77/test_x.npy"),
    ("--test-labels", "banking77/test_y.txt"),
];

fn mnist_reaches_its_accuracy(device: &str) {
    let Some(record) = train(device, MNIST, &["--test-split", "0.2"]) else { return };
    assert_eq!((record["n_samples"].as_u64(), record["n_test_samples"].as_u64()), (Some(8000), Some(2000)));
    assert_eq!((record["n_features"].as_u64(), record["n_classes"].as_u64()), (Some(784), Some(10)));
    let accuracy = record["test_accuracy"].as_f64().unwrap();
    assert!(accuracy >= 0.90, "{device}: {accuracy}");
}

fn banking77_reaches_its_accuracy(device: &str, settings: &[&str]) -> Option<Value> {
    let record = train(device, BANKING, settings)?;
    assert_eq!((record["n_samples"].as_u64(), record["n_test_samples"].as_u64()), (Some(10003), Some(3080)));
    assert_eq!((record["n_features"].as_u64(), record["n_classes"].as_u64()), (Some(384), Some(77)));
    let accuracy = record["test_accuracy"].as_f64().unwrap();
    assert!(accuracy >= 0.92, "{device}: {accuracy}");
    Some(record)
}

#[test]
fn mnist_on_the_cpu() {
    mnist_reaches_its_accuracy("cpu");
}

#[test]
fn banking77_on_the_cpu() {
    banking77_reaches_its_accuracy("cpu", &[]);
}

#[cfg(feature = "gpu")]
#[test]
fn mnist_on_every_gpu() {
    common::gpu_names().iter().for_each(|name| mnist_reaches_its_accuracy(name));
}

/// Few epochs, since this may be a software GPU.
#[cfg(feature = "gpu")]
#[test]
fn banking77_on_every_gpu_as_on_the_cpu() {
    let epochs = ["--epochs", "5"];
    let Some(on_cpu) = banking77_reaches_its_accuracy("cpu", &epochs) else { return };
    for name in common::gpu_names() {
        let Some(here) = banking77_reaches_its_accuracy(&name, &epochs) else { return };
        let loss = |record: &Value| record["train_loss"].as_f64().unwrap();
        let ratio = loss(&here) / loss(&on_cpu);
        assert!((ratio - 1.0).abs() <= 1e-4, "{name}: {} and {}", loss(&here), loss(&on_cpu));
        // Another seed is not as close: the comparison is of the same steps.
        let other = train("cpu", BANKING, &["--epochs", "5", "--seed", "1"]).unwrap();
        assert!((loss(&other) / loss(&on_cpu) - 1.0).abs() > 1e-4);
    }
}
