//! Data larger than one binding of a device: 60,000 × 784 in f32 is 188 MB, and Mesa's software Vulkan binds 128 MiB.
#![cfg(feature = "gpu")]

mod common;

use common::{Random, gpu_names};
use softreg::{Dataset, Device, DeviceKind, Features, Labels, Sgd, SoftmaxRegression};

#[test]
fn data_larger_than_a_binding_trains() {
    const N: usize = 60_000;
    const D: usize = 784;
    const Q: usize = 10;
    let gpus = gpu_names();
    if gpus.is_empty() {
        return;
    }
    // Each class has a centre; a sample is a centre and noise. The last class is only among the last tenth of the samples,
    // and so in the last chunk.
    let mut random = Random::new(5);
    let centres = random.values(Q * D);
    let classes: Vec<u32> = (0..N).map(|i| random.below(if 10 * i < 9 * N { Q - 1 } else { Q }) as u32).collect();
    let values: Vec<f32> = classes
        .iter()
        .flat_map(|&class| &centres[class as usize * D..][..D])
        .map(|centre| 0.14 * centre + random.value())
        .collect();
    let names = (0..Q).map(|class| class.to_string()).collect();
    let labels = Labels::from_indices(classes, names).unwrap();
    let data = Dataset::new(Features::new(values, N, D).unwrap(), labels).unwrap();

    let train = |device: &Device| {
        let sgd = Sgd { epochs: Some(2), batch_size: 512, ..Sgd::default() };
        SoftmaxRegression::new().solver(sgd).device(device).fit(&data).unwrap()
    };
    let on_cpu = train(&Device::cpu());
    for name in gpus {
        let device = Device::named(&name).unwrap();
        let info = device.info();
        let fit = train(&device);
        let bytes = (N * D * 4) as u64;
        let is_chunked = info.max_binding.unwrap() < bytes;
        eprintln!("{}: in chunks {is_chunked}, loss {}, {:?}", info.name, fit.train.log_loss, fit.training);
        // A software GPU binds 128 MiB.
        assert!(is_chunked || info.kind != DeviceKind::SoftwareGpu);
        // Every sample was seen, those of the last chunk too: chance is an accuracy of 0.1 and a loss of ln 10.
        assert!(fit.train.accuracy > 0.95, "{}", fit.train.accuracy);
        let recall = fit.train.classes[Q - 1].recall().unwrap();
        assert!(recall > 0.8, "{recall}");
        // Chunks change the order of the samples, and with it the loss a little.
        let ratio = fit.train.log_loss / on_cpu.train.log_loss;
        assert!((ratio - 1.0).abs() < 0.05, "{} and {}", fit.train.log_loss, on_cpu.train.log_loss);
        // Predictions of all chunks come back in the order of the rows.
        let here = fit.model.on(&device).predict(data.features()).unwrap();
        let there = fit.model.predict(data.features()).unwrap();
        let different = here.iter().zip(&there).filter(|(a, b)| a != b).count();
        assert!(different <= N / 10_000, "{different} of {N} predictions differ");
    }
}
