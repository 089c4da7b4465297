//! One suite, run over each backend: sessions and steppers against the reference in f64.

use std::ops::Range;

use half::f16;

use super::{Backend, Head, Parameters, Session, Shape, Stepper};
use crate::batch::{Plan, Shuffle};
use crate::data::{Dtype, Features, Targets, Values};
use crate::error::{Error, Result};
use crate::reference::{self, UNIT_ROUNDOFF, compare};

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

/// Training in f64, and how far single precision may be from it: the bounds of the single operations, carried through.
struct Exact {
    w: Vec<f64>,
    v: Vec<f64>,
    w_error: Vec<f64>,
    v_error: Vec<f64>,
    losses: Vec<f64>,
    losses_error: Vec<f64>,
}

impl Exact {
    fn train(case: &Case, heads: &[Head], plan: &Plan, chunks: &[Range<usize>]) -> Self {
        let shape = case.shape;
        let (d, m, h) = (shape.n_features, shape.n_outputs(), shape.n_heads);
        let w: Vec<f64> = case.start.values.iter().map(|&w| w.into()).collect();
        let zeros = vec![0.0; w.len()];
        let (losses, losses_error) = (vec![0.0; h], vec![0.0; h]);
        let mut exact = Self { v: zeros.clone(), w_error: zeros.clone(), v_error: zeros, w, losses, losses_error };
        for (batch, rate) in plan.batches.iter().zip(rates(plan)) {
            let rows = plan.order[batch.start..batch.start + batch.len].iter();
            let rows: Vec<usize> = rows.map(|&row| chunks[batch.chunk].start + row as usize).collect();
            let pick = |values: &[f64], width: usize| -> Vec<f64> {
                rows.iter().flat_map(|row| &values[row * width..][..width]).copied().collect()
            };
            let abs = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
            let (x, y) = (pick(&case.x, d), pick(&case.y, shape.n_classes));
            let weight = 1.0 / batch.len as f64;

            let o = reference::logits(&x, &exact.w, shape);
            // |δo| from rounding and from the error of W.
            let from_w = reference::logits(&abs(&x), &exact.w_error, shape);
            let o_error: Vec<f64> =
                reference::logits_bound(&x, &exact.w, shape).iter().zip(from_w).map(|(a, b)| a + b).collect();
            let softmax = reference::softmax(&o, &y, weight, shape);
            let bound = reference::softmax_bound(&o, &y, weight, shape);
            let mut r_error = bound.residual;
            for (index, loss) in softmax.losses.iter().enumerate() {
                let range = index * shape.n_classes..(index + 1) * shape.n_classes;
                let worst = o_error[range.clone()].iter().fold(0.0, |max: f64, &error| max.max(error));
                // |δp| ≤ p·(exp(2·max|δo|) − 1), and a loss changes by at most 2·max|δo|.
                for (error, (r, y)) in r_error[range.clone()].iter_mut().zip(
                    softmax.residual[range].iter().zip(&y[index / h * shape.n_classes..]),
                ) {
                    *error += (2.0 * worst).exp_m1() * (r + weight * y).abs();
                }
                exact.losses[index % h] += loss;
                exact.losses_error[index % h] += bound.losses[index] + 2.0 * worst + 70.0 * UNIT_ROUNDOFF * loss;
            }
            let g = reference::gradient(&x, &softmax.residual, shape);
            let from_r = reference::gradient(&abs(&x), &r_error, shape);
            let g_error: Vec<f64> =
                reference::gradient_bound(&x, &softmax.residual, shape).iter().zip(from_r).map(|(a, b)| a + b).collect();
            let rounding = reference::update_bound(&exact.w, &exact.v, &g, &g_error, heads, rate.into(), shape);
            reference::update(&mut exact.w, &mut exact.v, &g, heads, rate.into(), shape);
            for index in 0..exact.w.len() {
                let head = &heads[index % m / shape.n_classes];
                let (momentum, l2) = (f64::from(head.momentum), f64::from(head.l2));
                let carried = momentum * exact.v_error[index] + l2 * exact.w_error[index];
                exact.v_error[index] = rounding.1[index] + carried;
                exact.w_error[index] += rounding.0[index] + 2.0 * f64::from(head.learning_rate * rate) * carried;
            }
        }
        exact
    }

    fn compare(&self, what: &str, parameters: &Parameters, losses: &[f64]) -> Result<(), String> {
        compare(&format!("{what}: weights"), &parameters.values, &self.w, &self.w_error)?;
        let losses: Vec<f32> = losses.iter().map(|&loss| loss as f32).collect();
        compare(&format!("{what}: losses"), &losses, &self.losses, &self.losses_error)
    }
}

#[test]
fn an_epoch_is_that_of_the_reference() {
    for (name, backend) in backends() {
        for sizes in CASES {
            for (dtype, soft) in [(Dtype::F32, false), (Dtype::F16, true), (Dtype::U8, false), (Dtype::F32, true)] {
                let case = Case::new(sizes, dtype, soft);
                let (parameters, losses, plan, chunks) = case.train(&*backend);
                let exact = Exact::train(&case, &case.heads, &plan, &chunks);
                exact.compare(&format!("{name}: {sizes:?} {dtype}, soft {soft}"), &parameters, &losses).unwrap();
            }
        }
    }
}

/// The comparison above notices heads, targets or a start that are a little different.
#[test]
fn a_planted_error_is_noticed() {
    for (name, backend) in backends() {
        let case = Case::new((130, 64, 10, 3, 64), Dtype::F32, false);
        let (parameters, losses, plan, chunks) = case.train(&*backend);
        let noticed = |case: &Case, heads: &[Head]| {
            Exact::train(case, heads, &plan, &chunks).compare(&name, &parameters, &losses).unwrap_err();
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
            let (parameters, losses, plan, chunks) = case.train(&*backend);
            let exact = Exact::train(&case, &case.heads, &plan, &chunks);
            exact.compare(&name, &parameters, &losses).unwrap();
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
