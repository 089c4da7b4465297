//! One suite, run over each backend: sessions and steppers against the reference in f64.

use std::ops::Range;

use half::f16;

use super::{Backend, Head, Parameters, Session, Shape};
use crate::batch::{Plan, Shuffle};
use crate::data::{Dtype, Features, Targets, Values};
use crate::error::{Error, Result};
use crate::reference::{self, Steps, compare};

/// Every backend of this machine: the CPU with each of its instruction sets, each GPU, and each GPU with chunks so
/// small that data is held in many of them.
fn backends() -> Vec<(String, Box<dyn Backend>)> {
    #[cfg_attr(not(feature = "gpu"), expect(unused_mut))]
    let mut backends: Vec<(String, Box<dyn Backend>)> = super::cpu::Cpu::all()
        .into_iter()
        .map(|cpu| (cpu.info().driver.clone(), Box::new(cpu) as Box<dyn Backend>))
        .collect();
    #[cfg(feature = "gpu")]
    for max_chunk in [None, Some(16 << 10)] {
        use super::gpu::{Gpu, Options};
        let gpus = Gpu::open_all(Options { max_chunk, ..Options::default() });
        if gpus.is_empty() {
            let required = std::env::var("SOFTREG_REQUIRE_GPU").is_ok_and(|value| value == "1");
            assert!(!required, "SOFTREG_REQUIRE_GPU=1, but there is no adapter");
            eprintln!("the CPU only: there is no adapter for Vulkan, Metal or DX12");
        }
        backends.extend(gpus.into_iter().map(|gpu| {
            let gpu = gpu.unwrap();
            (format!("{}, chunks of {max_chunk:?}", gpu.info().name), Box::new(gpu) as Box<dyn Backend>)
        }));
    }
    backends
}

/// (samples, features, classes, heads, batch size)
const CASES: [(usize, usize, usize, usize, usize); 14] = [
    (2, 1, 2, 1, 1),
    (5, 3, 3, 1, 2),
    (33, 16, 4, 1, 16),
    (67, 17, 10, 1, 32),
    (130, 64, 10, 3, 64),
    (257, 33, 5, 7, 100),
    (61, 130, 16, 1, 61),
    (50, 20, 32, 2, 25),
    (50, 21, 13, 5, 25),
    (70, 19, 66, 1, 35),
    (300, 40, 100, 2, 128),
    (97, 101, 257, 1, 50),
    (40, 31, 1009, 1, 40),
    (3000, 7, 3, 1, 1000),
];

struct Case {
    shape: Shape,
    batch_size: usize,
    scale: f32,
    features: Features<'static>,
    /// scale·X in f64.
    x: Vec<f64>,
    targets: Targets<'static>,
    /// Y in f64.
    y: Vec<f64>,
    start: Parameters,
    heads: Vec<Head>,
}

impl Case {
    fn new(
        (n, n_features, n_classes, n_heads, batch_size): (usize, usize, usize, usize, usize),
        dtype: Dtype,
        soft: bool,
    ) -> Self {
        let mut random = Shuffle::new(7, 8);
        let mut value = || random.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0;
        // Rows of wildly different scale; bytes are scaled as images are.
        let floats = (0..n * n_features).map(|i| value() * [1.0, 1e-3, 1.5, 1e-6][i / n_features % 4]);
        let values: Values = match dtype {
            Dtype::F32 => floats.collect::<Vec<_>>().into(),
            Dtype::F16 => floats.map(f16::from_f32).collect::<Vec<_>>().into(),
            Dtype::U8 => floats.map(|x| (x.abs() * 255.0) as u8).collect::<Vec<_>>().into(),
        };
        let scale = if dtype == Dtype::U8 { 1.0 / 255.0 } else { 0.75 };
        let features = Features::new(values, n, n_features).unwrap();
        let mut row = vec![0.0; n_features];
        let x = (0..n).flat_map(|i| {
            features.read_row(i, &mut row);
            row.iter().map(|&x| f64::from(x) * f64::from(scale)).collect::<Vec<_>>()
        });
        let x = x.collect();
        let (targets, y): (Targets, Vec<f64>) = if soft {
            let y: Vec<f32> = (0..n)
                .flat_map(|_| {
                    let row: Vec<f32> = (0..n_classes).map(|_| value().abs() + 1e-3).collect();
                    let sum: f32 = row.iter().sum();
                    row.into_iter().map(move |y| y / sum)
                })
                .collect();
            (Targets::Distributions(y.clone().into()), y.into_iter().map(f64::from).collect())
        } else {
            let classes: Vec<u32> = (0..n).map(|i| ((i * 7 + i / 3) % n_classes) as u32).collect();
            let one_hot = |&class: &u32| (0..n_classes).map(move |j| f64::from(u8::from(j == class as usize)));
            let y = classes.iter().flat_map(one_hot).collect();
            (Targets::Classes(classes.into()), y)
        };
        let shape = Shape { n_features, n_classes, n_heads };
        let start = Parameters { shape, values: (0..shape.n_parameters()).map(|_| value()).collect() };
        let heads = (0..n_heads).map(|head| Head {
            learning_rate: 0.1 / (head + 1) as f32,
            momentum: [0.9, 0.0, 0.5][head % 3],
            nesterov: head % 2 == 0,
            l2: 0.05 * head as f32,
        });
        Self { shape, batch_size, scale, features, x, targets, y, start, heads: heads.collect() }
    }

    fn session<'a>(&'a self, backend: &'a dyn Backend) -> Box<dyn Session + 'a> {
        backend.session(&self.features, self.scale, Some(&self.targets)).unwrap()
    }

    /// Parameters and losses by head after one epoch on a backend, and its plan.
    fn train(&self, backend: &dyn Backend) -> (Parameters, Vec<f64>, Plan, Vec<Range<usize>>) {
        let mut session = self.session(backend);
        let chunks = session.chunks().to_vec();
        let plan = Plan::new(&chunks, self.batch_size, 3, 0);
        let mut stepper = session.stepper(&self.start, &self.heads, self.batch_size).unwrap();
        let losses = stepper.run(&plan, &rates(&plan)).unwrap();
        (stepper.parameters().unwrap(), losses, plan, chunks)
    }
}

fn rates(plan: &Plan) -> Vec<f32> {
    (0..plan.batches.len()).map(|step| 1.0 / (step + 1) as f32).collect()
}

/// The plan run in f64 with `heads`, compared with what a backend made of it.
fn check(
    what: &str,
    case: &Case,
    heads: &[Head],
    (parameters, losses, plan, chunks): &(Parameters, Vec<f64>, Plan, Vec<Range<usize>>),
) -> Result<(), String> {
    let mut steps = Steps::new(&case.start);
    for (batch, rate) in plan.batches.iter().zip(rates(plan)) {
        let rows = plan.order[batch.start..batch.start + batch.len].iter();
        let rows: Vec<usize> = rows.map(|&row| chunks[batch.chunk].start + row as usize).collect();
        let pick = |values: &[f64], width: usize| -> Vec<f64> {
            rows.iter().flat_map(|row| &values[row * width..][..width]).copied().collect()
        };
        let (x, y) = (pick(&case.x, case.shape.n_features), pick(&case.y, case.shape.n_classes));
        steps.step(&x, &y, heads, rate.into());
    }
    compare(&format!("{what}: weights"), &parameters.values, &steps.parameters, &steps.parameters_bound)?;
    let losses: Vec<f32> = losses.iter().map(|&loss| loss as f32).collect();
    compare(&format!("{what}: losses"), &losses, &steps.losses, &steps.losses_bound)
}

#[test]
fn an_epoch_is_that_of_the_reference() {
    for (name, backend) in backends() {
        for sizes in CASES {
            for (dtype, soft) in [(Dtype::F32, false), (Dtype::F16, true), (Dtype::U8, false), (Dtype::F32, true)] {
                let case = Case::new(sizes, dtype, soft);
                let what = format!("{name}: {sizes:?} {dtype}, soft {soft}");
                check(&what, &case, &case.heads, &case.train(&*backend)).unwrap();
            }
        }
    }
}

/// The comparison above notices heads, targets or a start that are a little different.
#[test]
fn a_planted_error_is_noticed() {
    for (name, backend) in backends() {
        let case = Case::new((130, 64, 10, 3, 64), Dtype::F32, false);
        let trained = case.train(&*backend);
        let noticed = |case: &Case, heads: &[Head]| {
            check(&name, case, heads, &trained).unwrap_err();
        };
        let changed = |change: fn(&mut Head)| {
            let mut heads = case.heads.clone();
            change(&mut heads[2]);
            heads
        };
        noticed(&case, &changed(|head| head.learning_rate *= 1.001));
        noticed(&case, &changed(|head| head.momentum += 0.001));
        noticed(&case, &changed(|head| head.l2 *= 1.01));
        noticed(&case, &changed(|head| head.nesterov = false));
        let mut other = Case::new((130, 64, 10, 3, 64), Dtype::F32, false);
        other.y.swap(0, 1);
        noticed(&other, &case.heads);
        let mut other = Case::new((130, 64, 10, 3, 64), Dtype::F32, false);
        *other.start.values.last_mut().unwrap() += 1e-3;
        noticed(&other, &case.heads);
    }
}

#[test]
fn logits_of_all_rows_come_in_order() {
    for (name, backend) in backends() {
        for sizes in CASES {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::U8] {
                let case = Case::new(sizes, dtype, false);
                let mut found: Vec<f32> = Vec::new();
                let mut next_row = 0;
                case.session(&*backend)
                    .logits(&case.start, &mut |rows, logits| {
                        assert_eq!(rows.start, next_row, "{name} {sizes:?}");
                        assert_eq!(logits.len(), rows.len() * case.shape.n_outputs());
                        next_row = rows.end;
                        found.extend_from_slice(logits);
                        Ok(())
                    })
                    .unwrap();
                assert_eq!(next_row, sizes.0);
                let w: Vec<f64> = case.start.values.iter().map(|&w| w.into()).collect();
                let expected = reference::logits(&case.x, &w, case.shape);
                let bound = reference::logits_bound(&case.x, &w, case.shape);
                compare(&format!("{name}: {sizes:?} {dtype}"), &found, &expected, &bound).unwrap();
            }
        }
    }
}

#[test]
fn small_bindings_make_chunks() {
    for (name, backend) in backends() {
        let case = Case::new((3000, 7, 3, 1, 1000), Dtype::F32, false);
        let session = case.session(&*backend);
        let chunks = session.chunks();
        assert_eq!(chunks.len() > 1, name.contains("Some"), "{name}: {chunks:?}");
        assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!((chunks[0].start, chunks[chunks.len() - 1].end), (0, 3000));
    }
}

#[test]
fn the_same_plan_gives_the_same_bits() {
    for (name, backend) in backends() {
        for sizes in CASES {
            let case = Case::new(sizes, Dtype::F32, false);
            let (first, second) = (case.train(&*backend), case.train(&*backend));
            assert_eq!(first.0.values, second.0.values, "{name}: {sizes:?}");
            assert_eq!(first.1, second.1, "{name}: {sizes:?}");
        }
    }
}

/// Large logits neither overflow nor lose the loss: the row's maximum is taken off before the exponential.
#[test]
fn large_logits_are_fine() {
    for (name, backend) in backends() {
        for n_classes in [3, 100] {
            let mut case = Case::new((64, 5, n_classes, 1, 64), Dtype::F32, false);
            case.start.values.iter_mut().for_each(|w| *w *= 1e4);
            case.heads[0].learning_rate = 1e-3;
            check(&name, &case, &case.heads, &case.train(&*backend)).unwrap();
        }
    }
}

#[test]
fn a_session_without_targets_does_not_train() {
    for (_, backend) in backends() {
        let case = Case::new((5, 3, 3, 1, 2), Dtype::F32, false);
        let mut session = backend.session(&case.features, 1.0, None).unwrap();
        assert!(matches!(session.stepper(&case.start, &case.heads, 2).map(drop), Err(Error::Shape { .. })));
        let mut other = case.start.clone();
        other.shape.n_features = 4;
        other.values = vec![0.0; other.shape.n_parameters()];
        assert!(matches!(session.logits(&other, &mut |_, _| Ok(())), Err(Error::Width { model: 4, data: 3 })));
    }
}

#[cfg(feature = "gpu")]
#[test]
fn what_does_not_fit_a_device_is_named() {
    use super::gpu::{Gpu, Options};
    let case = Case::new((3000, 7, 3, 1, 1000), Dtype::F32, false);
    for gpu in Gpu::open_all(Options { max_memory: Some(90_000), ..Options::default() }) {
        let gpu = gpu.unwrap();
        let error = gpu.session(&case.features, 1.0, Some(&case.targets)).map(drop).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { bytes: 96_000, .. }), "{error}");
        assert!(error.to_string().contains("out of memory for the features (96000 bytes)"), "{error}");
        // Nothing of the failed session is left in the account.
        assert!(gpu.session(&case.features.rows(0..2000).unwrap(), 1.0, None).is_ok());
    }
    for gpu in Gpu::open_all(Options::default()) {
        let gpu = gpu.unwrap();
        let mut session = case.session(&gpu);
        let error = session.stepper(&case.start, &case.heads, 1 << 29).map(drop).unwrap_err();
        assert!(matches!(error, Error::DeviceLimit { needed, .. } if needed == 1 << 33), "{error}");
        assert!(error.to_string().contains("the logits of a batch") && error.to_string().contains("smaller batch"));
    }
}
