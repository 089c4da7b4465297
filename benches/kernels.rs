//! Each kernel alone on every device: `cargo bench --bench kernels`. Elements are floating point operations, bytes those
//! that must be read and written once.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use softreg::backend::cpu::Cpu;
use softreg::backend::{Backend, Shape};
use softreg::bench::{HEAD, Workload};
use softreg::data::Dtype;

/// What a kernel does at least.
#[derive(Clone, Copy)]
struct Work {
    flops: usize,
    values: usize,
}

impl Work {
    fn throughput(self) -> Throughput {
        Throughput::ElementsAndBytes { elements: self.flops as u64, bytes: self.values as u64 * 4 }
    }
}

fn kernels(criterion: &mut Criterion) {
    for (n, n_features, n_classes) in [(8192, 784, 10), (1024, 768, 1000)] {
        let data = Workload::new(n, n_features, n_classes, Dtype::F32, n).expect("room for the data");
        let shape = data.shape;
        let (x, w, outputs) = (n * n_features, shape.n_parameters(), n * n_classes);
        let product = 2 * n * w;
        let works = [
            ("logits", Work { flops: product, values: x + w + outputs }),
            // Maximum, difference, exponential (counted as one), sum, division and residual of each output.
            ("softmax", Work { flops: 6 * outputs, values: 2 * outputs }),
            ("gradient", Work { flops: product, values: x + outputs + w }),
            ("update", Work { flops: (8 + n_parts(shape, n)) * w, values: (4 + n_parts(shape, n)) * w }),
        ];
        // For few outputs a GPU's step is these two, each of two operations at once.
        let narrow = [
            ("narrow_residual", Work { flops: product + 6 * outputs, values: x + w + outputs }),
            ("narrow_update", Work { flops: product + 8 * w, values: x + outputs + 4 * w }),
        ];
        let narrow = narrow.into_iter().filter(|_| n_classes <= 64);
        for (kernel, work) in works.into_iter().chain(narrow) {
            let mut group = criterion.benchmark_group(format!("{kernel} {n} × {n_features} × {n_classes}"));
            group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(10);
            group.throughput(work.throughput());
            #[cfg(feature = "gpu")]
            gpu::kernel(&mut group, kernel, &data);
            if kernel == "logits" {
                logits_of_backends(&mut group, &data);
            }
        }

        // The CPU backend fuses its kernels, so that the step is what it can be compared by.
        let mut group = criterion.benchmark_group(format!("step {n} × {n_features} × {n_classes}"));
        group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(10);
        group.throughput(Work { flops: 2 * product, values: x + 4 * w }.throughput());
        for (name, backend) in backends() {
            data.verify(&*backend).expect("right results");
            let mut session =
                backend.session(&data.features, 1.0, Some((&data.targets).into())).expect("room for the data");
            let plan = softreg::batch::Plan::new(session.chunks(), n, 0, 0);
            let mut stepper = session.stepper(&data.start.clone().into(), &[HEAD], n).expect("room for the batch");
            // As many as there are chunks.
            let rates = vec![1.0; plan.batches.len()];
            group.bench_function(&name, |bencher| bencher.iter(|| stepper.run(&plan, &rates).expect("a step")));
        }
    }
}

/// The parts in which the gradient of a batch comes to the update of a GPU.
#[cfg(feature = "gpu")]
fn n_parts(shape: Shape, n: usize) -> usize {
    use softreg::backend::gpu::{Step, in_parts};
    in_parts(Step::new(shape, 1.0, 0, n), gpu::gradient_tile(shape), shape).n_parts as usize
}

#[cfg(not(feature = "gpu"))]
fn n_parts(_: Shape, _: usize) -> usize {
    1
}

/// Logits with their way back to the host, as prediction has it.
fn logits_of_backends(group: &mut BenchmarkGroup<WallTime>, data: &Workload) {
    for (name, backend) in backends() {
        data.verify(&*backend).expect("right results");
        let mut session = backend.session(&data.features, 1.0, None).expect("room for the data");
        group.bench_function(format!("{name}, to the host"), |bencher| {
            bencher.iter(|| session.logits(&data.start, &mut |_, _| Ok(())).expect("logits"));
        });
    }
}

#[cfg(feature = "gpu")]
mod gpu {
    use super::*;
    use softreg::backend::DeviceKind;
    use softreg::backend::gpu::{Gpu, Options, Single, Tile};
    use softreg::data::{Features, Values};
    use softreg::reference::{self, compare};

    /// Runs in one submission, so that its cost is not the kernel's.
    const RUNS: usize = 16;

    /// The same on every device, so that all have as much to do.
    pub fn gradient_tile(shape: Shape) -> Tile {
        Tile::choose(DeviceKind::DiscreteGpu, shape.n_features + 1, shape.n_outputs())
    }

    /// Every GPU, software ones too.
    pub fn gpus() -> Vec<Gpu> {
        Gpu::open_all(Options::default())
            .into_iter()
            .filter_map(|gpu| gpu.inspect_err(|error| eprintln!("left out: {error}")).ok())
            .collect()
    }

    fn values(n: usize) -> Vec<f32> {
        softreg::bench::values(n).collect()
    }

    fn values_of<'a>(features: &'a Features) -> &'a [f32] {
        match features.values() {
            Values::F32(values) => values,
            _ => unreachable!("made as f32"),
        }
    }

    pub fn kernel(group: &mut BenchmarkGroup<WallTime>, kernel: &str, data: &Workload) {
        for gpu in gpus() {
            let n = data.features.n_samples();
            let order: Vec<u32> = (0..n as u32).collect();
            let outputs = values(n * data.shape.n_outputs());
            let variant = (gpu.info().kind, n);
            let n_parameters = data.shape.n_parameters();
            let (velocity, partials) = (values(n_parameters), values(n_parts(data.shape, n) * n_parameters));
            let single = match kernel {
                "logits" => {
                    let tile = Tile::choose(gpu.info().kind, n, data.shape.n_outputs());
                    Single::logits(&gpu, &data.features, 1.0, &data.start, Some(&order), tile)
                }
                "softmax" => Single::softmax(&gpu, data.shape, &outputs, &data.targets, &order),
                "gradient" => {
                    let tile = gradient_tile(data.shape);
                    Single::gradient(&gpu, data.shape, &data.features, 1.0, &outputs, Some(&order), tile)
                }
                "narrow_residual" => {
                    Single::narrow_residual(&gpu, &data.features, 1.0, &data.start, &data.targets, &order, variant)
                }
                "narrow_update" => {
                    let (start, features) = (&data.start, &data.features);
                    Single::narrow_update(
                        &gpu,
                        features,
                        1.0,
                        &outputs,
                        &order,
                        start,
                        &velocity,
                        &[HEAD],
                        (1.0, 1),
                        variant,
                    )
                }
                _ => Single::update(&gpu, &data.start, &velocity, &partials, &[HEAD], 1.0, 1),
            };
            let single = single.expect("room for one kernel");
            single.run(1).expect("a run");
            verify(kernel, data, &outputs, &single.results().expect("results"));
            let run = |times: usize| single.run(times).expect("runs");
            group.bench_function(name(&gpu), |bencher| {
                bencher.iter_custom(|times| {
                    let begin = std::time::Instant::now();
                    let mut left = times as usize;
                    while left > 0 {
                        run(left.min(RUNS));
                        left -= left.min(RUNS);
                    }
                    begin.elapsed()
                });
            });
        }
    }

    fn verify(kernel: &str, data: &Workload, outputs: &[f32], results: &[Vec<f32>]) {
        let f64s = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
        let (x, w, shape) = (f64s(values_of(&data.features)), f64s(&data.start.values), data.shape);
        let n = data.features.n_samples();
        let updated = |w: &[f64], g: &[f64], g_bound: &[f64]| {
            let mut state = reference::State::new(w.to_vec());
            state.first = f64s(&values(shape.n_parameters()));
            let exact = reference::State::new(vec![0.0; w.len()]);
            let bound = reference::update_bound(&state, &exact, g, g_bound, &[HEAD], 1.0, 1, shape);
            reference::update(&mut state, g, &[HEAD], 1.0, 1, shape);
            compare(kernel, &results[0], &state.parameters, &bound.parameters)
        };
        let outcome = match kernel {
            "logits" => {
                let bound = reference::logits_bound(&x, &w, shape);
                compare(kernel, &results[0], &reference::logits(&x, &w, shape), &bound)
            }
            "softmax" => {
                let y = data.one_hot(0..n);
                let o = f64s(outputs);
                let expected = reference::softmax(&o, &y, 1.0 / n as f64, None, shape);
                let bound = reference::softmax_bound(&o, &vec![0.0; o.len()], &y, 1.0 / n as f64, None, shape);
                let loss = results[1].iter().map(|&loss| f64::from(loss)).sum::<f64>() as f32;
                // Summed in single precision over at most 64 samples.
                let sum: f64 = expected.losses.iter().sum();
                let sum_bound = bound.losses.iter().sum::<f64>() + 65.0 * reference::UNIT_ROUNDOFF * sum;
                compare(kernel, &results[0], &expected.residual, &bound.residual)
                    .and_then(|()| compare("losses", &[loss], &[sum], &[sum_bound]))
            }
            "narrow_residual" => {
                let y = data.one_hot(0..n);
                let (o, o_bound) = (reference::logits(&x, &w, shape), reference::logits_bound(&x, &w, shape));
                let expected = reference::softmax(&o, &y, 1.0 / n as f64, None, shape);
                let bound = reference::softmax_bound(&o, &o_bound, &y, 1.0 / n as f64, None, shape);
                compare(kernel, &results[0], &expected.residual, &bound.residual)
                    .and_then(|()| compare("losses", &results[1], &expected.losses, &bound.losses))
            }
            "narrow_update" => {
                let r = f64s(outputs);
                let (g, g_bound) = (reference::gradient(&x, &r, shape), reference::gradient_bound(&x, &r, shape));
                updated(&w, &g, &g_bound)
            }
            "gradient" => {
                let r = f64s(outputs);
                let mut sum = vec![0f64; shape.n_parameters()];
                for part in results[0].chunks_exact(sum.len()) {
                    sum.iter_mut().zip(part).for_each(|(sum, &value)| *sum += f64::from(value));
                }
                let sum: Vec<f32> = sum.iter().map(|&value| value as f32).collect();
                let bound = reference::gradient_bound(&x, &r, shape);
                compare(kernel, &sum, &reference::gradient(&x, &r, shape), &bound)
            }
            _ => {
                let n_parts = n_parts(shape, n);
                let (mut g, mut g_bound) = (vec![0.0; w.len()], vec![0.0; w.len()]);
                for part in values(n_parts * w.len()).chunks_exact(w.len()) {
                    g.iter_mut().zip(part).for_each(|(sum, &x)| *sum += f64::from(x));
                    let error = |x: f32| n_parts as f64 * reference::UNIT_ROUNDOFF * f64::from(x.abs());
                    g_bound.iter_mut().zip(part).for_each(|(sum, &x)| *sum += error(x));
                }
                updated(&w, &g, &g_bound)
            }
        };
        outcome.unwrap_or_else(|difference| panic!("{difference}"));
    }
}

/// The CPU backend and every GPU, software ones too, with the name that results are recorded under.
fn backends() -> Vec<(String, Box<dyn Backend>)> {
    #[cfg_attr(not(feature = "gpu"), expect(unused_mut, reason = "there is the CPU alone"))]
    let mut backends: Vec<Box<dyn Backend>> = vec![Box::new(Cpu::new())];
    #[cfg(feature = "gpu")]
    backends.extend(gpu::gpus().into_iter().map(|gpu| Box::new(gpu) as Box<dyn Backend>));
    backends.into_iter().map(|backend| (name(&*backend), backend)).collect()
}

fn name(backend: &dyn Backend) -> String {
    let info = backend.info();
    format!("{} [{}, {}]", info.name, info.backend, info.driver)
}

criterion_group!(benches, kernels);
criterion_main!(benches);
