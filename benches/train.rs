//! Epochs of SGD on every device: `cargo bench --bench train`. Elements are samples, bytes those of X.

mod common;

use std::time::Duration;

use common::{Data, HEAD, backends};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use softreg::batch::Plan;

fn epochs(criterion: &mut Criterion, n: usize, n_features: usize, n_classes: usize, batch_sizes: &[usize]) {
    let data = Data::new(n, n_features, n_classes);
    let what = format!("epoch of {n} × {n_features} × {n_classes}");
    let mut group = criterion.benchmark_group(&what);
    group.sampling_mode(SamplingMode::Flat).sample_size(10).warm_up_time(Duration::from_secs(1));
    group.throughput(Throughput::ElementsAndBytes { elements: n as u64, bytes: (n * n_features * 4) as u64 });
    for &batch_size in batch_sizes {
        for (name, backend) in backends() {
            data.verify(&format!("{what} on {name}"), &*backend);
            let mut session = backend.session(&data.features, 1.0, Some(&data.targets)).expect("room for the data");
            let plan = Plan::new(session.chunks(), batch_size, 0, 0);
            let rates = vec![1.0; plan.batches.len()];
            let mut stepper = session.stepper(&data.start, &[HEAD], batch_size).expect("room for the batch");
            group.bench_function(BenchmarkId::new(format!("batch {batch_size}"), &name), |bencher| {
                bencher.iter(|| stepper.run(&plan, &rates).expect("an epoch"));
            });
        }
    }
}

fn train(criterion: &mut Criterion) {
    epochs(criterion, 60_000, 784, 10, &[256, 1024, 8192]);
    epochs(criterion, 20_000, 768, 1000, &[1024]);
}

criterion_group!(benches, train);
criterion_main!(benches);
