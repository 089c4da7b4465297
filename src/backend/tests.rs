//! One suite, run over each backend: sessions and steppers against the reference in f64.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use half::f16;

use super::streamed::Streamed;
use super::{
    Backend, Ceilings, DeviceInfo, Evaluation, Head, Loss, NOT_FINITE, Parameters, Point, Rule, Session, Shape, State,
    Supervision,
};
use crate::batch::{Batch, Permutation, Plan, Shuffle};
use crate::data::{Dtype, Features, Targets, Values};
use crate::error::{Error, Result};
use crate::reference::{self, Evaluated, Steps, compare};

/// The error of an operation that must fail: a length that does not agree.
macro_rules! assert_shape_error {
    ($result:expr, $what:literal) => {
        match $result {
            Err(Error::Shape { what, .. }) => assert!(what.starts_with($what), "{what}"),
            Err(other) => panic!("{}: another error, {other}", $what),
            Ok(_) => panic!("{}: no error", $what),
        }
    };
}

mod factored;
mod sparse;
#[cfg(feature = "gpu")]
mod sparse_gpu;

/// Every backend of this machine: the CPU with each of its instruction sets and with a part of the data at a time, each GPU, and
/// each GPU with chunks so small that data is held in many of them.
fn backends() -> Vec<(String, Box<dyn Backend>)> {
    let mut backends: Vec<(String, Box<dyn Backend>)> = super::cpu::Cpu::all()
        .into_iter()
        .map(|cpu| (cpu.info().driver.clone(), Box::new(cpu) as Box<dyn Backend>))
        .collect();
    backends.push(("cpu, part by part".to_owned(), Box::new(PartByPart(super::cpu::Cpu::new()))));
    #[cfg(feature = "gpu")]
    for (max_chunk, matrix_units) in [(None, false), (Some(64 << 10), false), (None, true)] {
        use super::gpu::{Gpu, Options};
        let mut gpus = Gpu::open_all(Options { max_chunk, matrix_units, ..Options::default() });
        if gpus.is_empty() {
            let required = std::env::var("SOFTREG_REQUIRE_GPU").is_ok_and(|value| value == "1");
            assert!(!required, "SOFTREG_REQUIRE_GPU=1, but there is no adapter");
            eprintln!("the CPU only: there is no adapter for Vulkan, Metal or DX12");
        }
        if matrix_units {
            gpus.retain(|gpu| gpu.as_ref().is_ok_and(|gpu| !gpu.matrix_units().is_empty()));
        }
        backends.extend(gpus.into_iter().map(|gpu| {
            let gpu = gpu.unwrap();
            let chunks = if max_chunk.is_some() { SMALL_CHUNKS } else { "" };
            let units = if matrix_units { ", on matrix units" } else { "" };
            (format!("{}{chunks}{units}", gpu.info().name), Box::new(gpu) as Box<dyn Backend>)
        }));
    }
    backends
}

/// A backend of which sessions have a part of the data at a time.
struct PartByPart<B>(B);

impl<B: Backend> Backend for PartByPart<B> {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }

    fn ceilings(&self) -> Result<Ceilings> {
        self.0.ceilings()
    }

    fn session<'a>(
        &'a self,
        features: &'a Features<'a>,
        scale: f32,
        supervision: Option<Supervision<'a>>,
    ) -> Result<Box<dyn Session + 'a>> {
        Ok(Box::new(Streamed::new(&self.0, features, scale, supervision, 32 << 10)))
    }
}

const SMALL_CHUNKS: &str = ", in small chunks";

/// (samples, features, classes, heads, batch size)
type Sizes = (usize, usize, usize, usize, usize);

/// Odd and even tiles, several heads, few and many outputs; an epoch of more steps than a submission has; the CPU's way
/// for few outputs with several parts and an update by several threads, that for many with more samples than its product
/// is deep; a last batch that has more parts than the longer ones on a GPU; the CPU's way with portions of the features.
const CASES: [Sizes; 25] = [
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
    (700, 5, 3, 1, 2),
    (300, 5, 200, 1, 100),
    (1501, 200, 10, 1, 700),
    (2110, 1501, 4, 2, 2100),
    (2200, 31, 101, 1, 2150),
    (331, 65, 30, 7, 129),
    // With chunks of 64 KiB more losses than are held at a time.
    (8300, 2, 65, 8, 2048),
    (65_537, 63, 2, 1, 32_769),
    (330, 800, 10, 1, 130),
    (203, 769, 4, 3, 100),
    (80, 840, 7, 1, 70),
];

#[derive(Clone)]
pub(super) struct Case {
    pub shape: Shape,
    pub batch_size: usize,
    scale: f32,
    pub features: Features<'static>,
    /// scale·X in f64.
    x: Vec<f64>,
    pub targets: Targets<'static>,
    /// Y in f64.
    y: Vec<f64>,
    weights: Option<Vec<f32>>,
    pub start: Parameters,
    pub heads: Vec<Head>,
}

/// What a backend made of a case.
pub(super) struct Trained {
    pub parameters: Vec<f32>,
    /// Of each epoch, by head.
    pub losses: Vec<Vec<f64>>,
    /// Whether products were on matrix units, which may have their factors in half precision.
    half: bool,
    plans: Vec<Plan>,
    chunks: Vec<Range<usize>>,
}

impl Case {
    pub fn new((n, n_features, n_classes, n_heads, batch_size): Sizes, dtype: Dtype, soft: bool) -> Self {
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
        // Error bounds grow with the logits and with the steps.
        let size = (16.0 / n_features as f32).min(1.0);
        let start = Parameters { shape, values: (0..shape.n_parameters()).map(|_| size * value()).collect() };
        let heads = (0..n_heads).map(|head| Head {
            learning_rate: 0.1 * size / (head + 1) as f32,
            l2: 0.05 * head as f32,
            intercept: head % 4 != 3,
            rule: Rule::Momentum { momentum: [0.9, 0.0, 0.5][head % 3], nesterov: head % 2 == 0 },
        });
        Self { shape, batch_size, scale, features, x, targets, y, weights: None, start, heads: heads.collect() }
    }

    /// The same with weights of mean 1, some of them 0, few large.
    fn weighted(mut self) -> Self {
        let n = self.features.n_samples();
        let weights: Vec<f32> =
            (0..n).map(|i| [0.5, 0.0, 1.0, 0.25, 3.0][(i + i / 7) % 5] * [1.0, 9.0][i % 11 / 10]).collect();
        let mean = weights.iter().sum::<f32>() / n as f32;
        self.weights = Some(weights.iter().map(|weight| weight / mean).collect());
        self
    }

    /// The same with AdamW. Its steps are as long as the learning rate where ε is small, and their error bounds without end
    /// where it is smaller than the gradient's: here it is neither.
    fn with_adamw(mut self) -> Self {
        for (index, head) in self.heads.iter_mut().enumerate() {
            head.learning_rate *= 0.05;
            let (epsilon, weight_decay) = (0.02 * (index + 1) as f32, 0.1 * index as f32);
            head.rule = Rule::AdamW { beta_1: 0.9, beta_2: 0.99, epsilon, weight_decay };
        }
        self
    }

    fn session<'a>(&'a self, backend: &'a dyn Backend) -> Box<dyn Session + 'a> {
        let supervision = Supervision { targets: &self.targets, weights: self.weights.as_deref() };
        backend.session(&self.features, self.scale, Some(supervision)).unwrap()
    }

    /// Two epochs on a backend.
    pub fn train(&self, backend: &dyn Backend) -> Trained {
        self.train_in_order(backend, 3)
    }

    pub fn train_in_order(&self, backend: &dyn Backend, seed: u64) -> Trained {
        let mut session = self.session(backend);
        let chunks = session.chunks().to_vec();
        let block_rows = session.block_rows();
        let mut stepper = session.stepper(&self.start.clone().into(), &self.heads, self.batch_size).unwrap();
        let plan = |epoch| match block_rows {
            Some(block_rows) => Plan::by_chunk(&chunks, block_rows, self.batch_size, seed, epoch),
            None => Plan::new(&chunks, self.batch_size, seed, epoch),
        };
        let plans: Vec<Plan> = (0..2).map(plan).collect();
        let losses = plans.iter().map(|plan| stepper.run(plan, &rates(plan)).unwrap()).collect();
        let half = backend.uses_matrix_units(self.shape.n_outputs());
        Trained { parameters: stepper.parameters().unwrap().values, losses, half, plans, chunks }
    }
}

/// Smaller for many steps, since error bounds grow exponentially with what the steps add up to.
fn rates(plan: &Plan) -> Vec<f32> {
    let n = plan.batches.len();
    (0..n).map(|step| (32.0 / n as f32).min(1.0) / (1 + step) as f32).collect()
}

/// The plans run in f64 with `heads`, compared with what a backend made of them.
fn check(what: &str, case: &Case, heads: &[Head], trained: &Trained) -> Result<(), String> {
    let weights: Option<Vec<f64>> =
        case.weights.as_ref().map(|weights| weights.iter().map(|&weight| weight.into()).collect());
    let largest = weights.iter().flatten().copied().fold(1.0, f64::max);
    let mut steps = Steps::new(&case.start, trained.half, largest.log2().ceil().exp2());
    let mut losses = vec![0.0; heads.len()];
    for (plan, of_epoch) in trained.plans.iter().zip(&trained.losses) {
        let order = plan.order();
        let chunks: Vec<Vec<usize>> =
            trained.chunks.iter().map(|chunk| plan.rows_of(chunk).into_iter().flatten().collect()).collect();
        for (batch, rate) in plan.batches.iter().zip(rates(plan)) {
            let rows = order[batch.start..batch.start + batch.len].iter();
            let rows: Vec<usize> = rows.map(|&row| chunks[batch.chunk][row as usize]).collect();
            let pick = |values: &[f64], width: usize| -> Vec<f64> {
                rows.iter().flat_map(|row| &values[row * width..][..width]).copied().collect()
            };
            let (x, y) = (pick(&case.x, case.shape.n_features), pick(&case.y, case.shape.n_classes));
            let weights = weights.as_ref().map(|weights| pick(weights, 1));
            steps.step(&x, &y, weights.as_deref(), heads, rate.into());
        }
        losses.iter_mut().zip(of_epoch).for_each(|(sum, loss)| *sum += loss);
        let losses: Vec<f32> = losses.iter().map(|&loss| loss as f32).collect();
        compare(&format!("{what}: losses"), &losses, &steps.losses, &steps.losses_bound)?;
    }
    compare(&format!("{what}: weights"), &trained.parameters, &steps.state.parameters, &steps.error.parameters)
}

#[test]
fn epochs_are_those_of_the_reference() {
    for (name, backend) in backends() {
        for sizes in CASES {
            let mut kinds = vec![
                (Dtype::F32, false, false),
                (Dtype::F16, true, true),
                (Dtype::U8, false, true),
                (Dtype::F32, true, false),
            ];
            // The reference takes its time.
            kinds.truncate(if sizes.0 > 1000 { 2 } else { 4 });
            for (dtype, soft, weighted) in kinds {
                let case = Case::new(sizes, dtype, soft);
                let case = if weighted { case.weighted() } else { case };
                let what = format!("{name}: {sizes:?} {dtype}, soft {soft}, weighted {weighted}");
                check(&what, &case, &case.heads, &case.train(&*backend)).unwrap();
            }
        }
    }
}

#[test]
fn epochs_of_adamw_are_those_of_the_reference() {
    for (name, backend) in backends() {
        for (index, sizes) in CASES.into_iter().enumerate() {
            let dtype = [Dtype::F32, Dtype::F16, Dtype::U8][index % 3];
            let case = Case::new(sizes, dtype, index % 2 == 1).with_adamw();
            let what = format!("{name}: {sizes:?} {dtype}");
            check(&what, &case, &case.heads, &case.train(&*backend)).unwrap();
        }
    }
}

/// Steps from a state that another stepper left are the steps that it would have gone on with; without the moments, or with
/// the steps counted anew, they are others.
#[test]
fn a_stepper_goes_on_from_a_state_to_the_same_bits() {
    for (name, backend) in backends() {
        for (index, &sizes) in CASES.iter().filter(|sizes| sizes.0 * sizes.1 * sizes.2 < 1 << 19).enumerate() {
            let (dtype, is_weighted) = ([Dtype::F32, Dtype::F16, Dtype::U8][index % 3], index % 2 == 0);
            let case = Case::new(sizes, dtype, index % 2 == 1);
            let case = if is_weighted { case.weighted() } else { case };
            for case in [case.clone(), case.with_adamw()] {
                let what = format!("{name}: {sizes:?} {dtype} {:?}", case.heads[0].rule);
                let mut session = case.session(&*backend);
                let chunks = session.chunks().to_vec();
                let plan = |epoch| Plan::new(&chunks, case.batch_size, 3, epoch);
                let mut run = |start: &State, epochs: Range<u64>| {
                    let mut stepper = session.stepper(start, &case.heads, case.batch_size).unwrap();
                    let losses = epochs.map(|epoch| stepper.run(&plan(epoch), &rates(&plan(epoch))).unwrap());
                    let losses: Vec<_> = losses.collect();
                    let state = stepper.state().unwrap();
                    assert_eq!(state.parameters, stepper.parameters().unwrap(), "{what}");
                    (state, losses)
                };
                let start = case.start.clone().into();
                let (at_once, losses) = run(&start, 0..3);
                assert_eq!(at_once.n_steps, (0..3).map(|epoch| plan(epoch).batches.len() as u64).sum::<u64>());
                let (half, of_first) = run(&start, 0..1);
                let (state, of_others) = run(&half, 1..3);
                assert!(state == at_once && [of_first, of_others].concat() == losses, "{what}");
                // Nothing is lost on the way to the device and back.
                assert!(run(&half, 0..0).0 == half, "{what}");

                let without_moments = State { moments: Vec::new(), ..half.clone() };
                let has_memory =
                    case.heads.iter().any(|head| !matches!(head.rule, Rule::Momentum { momentum: 0.0, .. }));
                assert!(!has_memory || run(&without_moments, 1..3).0.parameters != at_once.parameters, "{what}");
                let counted_anew = State { n_steps: 0, ..half.clone() };
                let is_counted = matches!(case.heads[0].rule, Rule::AdamW { .. });
                assert!(!is_counted || run(&counted_anew, 1..3).0.parameters != at_once.parameters, "{what}");
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
        noticed(&case, &changed(|head| head.rule = Rule::Momentum { momentum: 0.501, nesterov: true }));
        noticed(&case, &changed(|head| head.l2 *= 1.01));
        noticed(&case, &changed(|head| head.rule = Rule::Momentum { momentum: 0.5, nesterov: false }));
        noticed(&case, &changed(|head| head.intercept = false));
        let mut other = Case::new((130, 64, 10, 3, 64), Dtype::F32, false);
        other.y.swap(0, 1);
        noticed(&other, &case.heads);
        let mut other = Case::new((130, 64, 10, 3, 64), Dtype::F32, false);
        *other.start.values.last_mut().unwrap() += 1e-3;
        noticed(&other, &case.heads);

        let case = case.with_adamw();
        let trained = case.train(&*backend);
        type Change = fn(&mut [f32; 4]);
        let changes: [Change; 4] = [|v| v[0] += 1e-3, |v| v[1] += 5e-3, |v| v[2] *= 1.01, |v| v[3] *= 1.1];
        for (index, change) in changes.into_iter().enumerate() {
            let mut heads = case.heads.clone();
            for head in &mut heads {
                let Rule::AdamW { beta_1, beta_2, epsilon, weight_decay } = head.rule else { panic!("not AdamW") };
                let mut values = [beta_1, beta_2, epsilon, weight_decay];
                change(&mut values);
                let [beta_1, beta_2, epsilon, weight_decay] = values;
                head.rule = Rule::AdamW { beta_1, beta_2, epsilon, weight_decay };
            }
            assert!(check(&name, &case, &heads, &trained).is_err(), "{name}: setting {index}");
        }
    }
}

#[test]
fn a_planted_error_of_weights_is_noticed() {
    for (name, backend) in backends() {
        for sizes in [(130, 64, 10, 3, 64), (300, 40, 100, 2, 128)] {
            let trained = Case::new(sizes, Dtype::F32, false).weighted().train(&*backend);
            let noticed = |change: fn(&mut Vec<f32>)| {
                let mut other = Case::new(sizes, Dtype::F32, false).weighted();
                change(other.weights.as_mut().unwrap());
                check(&name, &other, &other.heads, &trained).unwrap_err();
            };
            noticed(|weights| weights.fill(1.0));
            noticed(|weights| weights.swap(0, 1));
            noticed(|weights| weights.rotate_left(1));
        }
    }
}

/// A step with the whole data as its batch: a sample of weight k counts as k equal samples, one of weight 0 as none.
#[test]
fn weights_are_repetitions() {
    for (name, backend) in backends() {
        for soft in [false, true] {
            for sizes in [(60, 17, 5, 2, 60), (60, 17, 70, 2, 60)] {
                let mut case = Case::new(sizes, Dtype::F32, soft);
                let (n, q) = (sizes.0, case.shape.n_classes);
                let counts: Vec<usize> = (0..n).map(|i| [1, 0, 3, 2][i * 3 % 4]).collect();
                let total: usize = counts.iter().sum();
                // n/Σk = 2/3 is no f32, so that it is compared to rounding.
                let mean = total as f32 / n as f32;
                case.weights = Some(counts.iter().map(|&count| count as f32 / mean).collect());
                let Trained { parameters, losses, half, .. } = case.train_in_order(&*backend, 1);

                let rows: Vec<usize> = (0..n).flat_map(|row| std::iter::repeat_n(row, counts[row])).collect();
                let pick = |values: &[f64], width: usize| -> Vec<f64> {
                    rows.iter().flat_map(|row| &values[row * width..][..width]).copied().collect()
                };
                let (x, y) = (pick(&case.x, case.shape.n_features), pick(&case.y, q));
                let mut steps = Steps::new(&case.start, half, 2.0);
                for _ in 0..2 {
                    steps.step(&x, &y, None, &case.heads, 1.0);
                }
                let what = format!("{name}: {sizes:?}, soft {soft}");
                compare(&what, &parameters, &steps.state.parameters, &steps.error.parameters).unwrap();
                let sums = |head: usize| losses.iter().map(|losses| losses[head]).sum::<f64>() as f32 * mean;
                let found: Vec<f32> = (0..sizes.3).map(sums).collect();
                compare(&format!("{what}: losses"), &found, &steps.losses, &steps.losses_bound).unwrap();
            }
        }
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
fn logits_in_their_place_and_classes_are_those_of_the_blocks() {
    for (name, backend) in backends() {
        // The last one comes in several blocks.
        for sizes in CASES.into_iter().chain([(9000, 4, 600, 1, 40)]) {
            let mut case = Case::new(sizes, Dtype::F32, false);
            let Shape { n_classes, n_heads, .. } = case.shape;
            let m = n_heads * n_classes;
            // Two of the outputs of the last head are equal, one of the first is not finite, when there are several.
            for row in case.start.values.chunks_exact_mut(m) {
                row[m - n_classes] = row[m - n_classes + 1];
            }
            if n_heads > 1 {
                *case.start.values.iter_mut().rev().nth(m - 1).unwrap() = f32::INFINITY;
            }
            let mut session = case.session(&*backend);
            let mut expected: Vec<f32> = Vec::new();
            let mut append = |_: Range<usize>, logits: &[f32]| {
                expected.extend_from_slice(logits);
                Ok(())
            };
            session.logits(&case.start, &mut append).unwrap();

            let calls: Vec<AtomicU32> = (0..sizes.0).map(|_| AtomicU32::new(0)).collect();
            let mut found = vec![f32::NAN; expected.len()];
            let finish = |first: usize, rows: &mut [f32]| {
                assert!(!rows.is_empty() && rows.len().is_multiple_of(m), "{name}: {sizes:?}");
                for (row, values) in rows.chunks_exact_mut(m).enumerate() {
                    assert_eq!(values, &expected[(first + row) * m..][..m], "{name}: {sizes:?}, row {}", first + row);
                    calls[first + row].fetch_add(1, Ordering::Relaxed);
                    values[0] = (first + row) as f32;
                }
            };
            session.logits_into(&case.start, &mut found, &finish).unwrap();
            assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1), "{name}: {sizes:?}");
            for (row, (found, expected)) in found.chunks_exact(m).zip(expected.chunks_exact(m)).enumerate() {
                assert_eq!((found[0], &found[1..]), (row as f32, &expected[1..]), "{name}: {sizes:?}");
            }

            let mut classes = vec![0; sizes.0 * n_heads];
            session.classes(&case.start, &mut classes).unwrap();
            for (index, (&class, logits)) in classes.iter().zip(expected.chunks_exact(n_classes)).enumerate() {
                let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let expected = match logits.iter().all(|logit| logit.is_finite()) {
                    true => logits.iter().position(|&logit| logit == best).unwrap() as u32,
                    false => NOT_FINITE,
                };
                assert_eq!(class, expected, "{name}: {sizes:?}, row and head {index}");
            }
            assert_eq!(classes.contains(&NOT_FINITE), n_heads > 1);

            for wrong in [expected.len() - 1, expected.len() + 1] {
                let mut out = vec![0.0; wrong];
                assert_shape_error!(session.logits_into(&case.start, &mut out, &|_, _| {}), "values of the logits");
            }
            let mut out = vec![0; classes.len() + 1];
            assert_shape_error!(session.classes(&case.start, &mut out), "classes");
        }
    }
}

#[test]
fn small_bindings_make_chunks() {
    for (name, backend) in backends() {
        let case = Case::new((3000, 7, 3, 1, 1000), Dtype::F32, false);
        let session = case.session(&*backend);
        let chunks = session.chunks();
        assert_eq!(
            chunks.len() > 1,
            name.ends_with(SMALL_CHUNKS) || session.block_rows().is_some(),
            "{name}: {chunks:?}"
        );
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
            assert_eq!(first.parameters, second.parameters, "{name}: {sizes:?}");
            assert_eq!(first.losses, second.losses, "{name}: {sizes:?}");
        }
    }
}

/// Large logits neither overflow nor lose the loss: the row's maximum is taken off before the exponential.
#[test]
fn large_logits_are_fine() {
    for (name, backend) in backends() {
        for n_classes in [3, 100] {
            let mut case = Case::new((64, 5, n_classes, 1, 64), Dtype::F32, false);
            // In half precision so little is known of larger ones that zeros would pass.
            let size = if backend.uses_matrix_units(n_classes) { 30.0 } else { 1e4 };
            case.start.values.iter_mut().for_each(|w| *w *= size);
            case.heads[0].learning_rate = 1e-3;
            check(&name, &case, &case.heads, &case.train(&*backend)).unwrap();
        }
    }
}

/// Samples and batch size of what follows; few and many outputs.
const N: usize = 40;
const SMALL: [Sizes; 2] = [(N, 5, 3, 1, 16), (N, 5, 50, 3, 16)];

#[test]
fn a_plan_that_does_not_suit_is_an_error() {
    for (_, backend) in backends() {
        for sizes in SMALL {
            let case = Case::new(sizes, Dtype::F32, false);
            let mut session = case.session(&*backend);
            let mut stepper = session.stepper(&case.start.clone().into(), &case.heads, case.batch_size).unwrap();
            let order = |n: usize| Permutation::new(n as u32, &mut Shuffle::new(0, 0));
            let mut run = |(chunk, start, len): (usize, usize, usize), rates: &[f32]| {
                stepper.run(
                    &Plan { orders: vec![order(N)], batches: vec![Batch { chunk, start, len }], blocks: None },
                    rates,
                )
            };
            assert!(run((0, 0, 16), &[1.0]).is_ok() && run((0, 24, 16), &[1.0]).is_ok());
            assert_shape_error!(run((0, 0, 16), &[]), "learning rates");
            assert_shape_error!(run((0, 0, 16), &[1.0, 1.0]), "learning rates");
            assert_shape_error!(run((1, 0, 16), &[1.0]), "chunks");
            assert_shape_error!(run((usize::MAX, 0, 16), &[1.0]), "chunks");
            assert_shape_error!(run((0, 0, 0), &[1.0]), "samples of a batch");
            assert_shape_error!(run((0, 0, 17), &[1.0]), "samples of a batch");
            assert_shape_error!(run((0, 0, usize::MAX), &[1.0]), "samples of a batch");
            assert_shape_error!(run((0, 25, 16), &[1.0]), "samples of a chunk");
            assert_shape_error!(run((0, usize::MAX, 16), &[1.0]), "samples of a chunk");
            let mut run = |orders: Vec<Permutation>| stepper.run(&Plan { orders, batches: vec![], blocks: None }, &[]);
            assert_shape_error!(run(vec![]), "chunks of the plan");
            assert_shape_error!(run(vec![order(N), order(N)]), "chunks of the plan");
            for n in [0, N - 1, N + 1] {
                assert_shape_error!(run(vec![order(n)]), "rows of a chunk");
            }
            assert_eq!(run(vec![order(N)]).unwrap(), vec![0.0; case.shape.n_heads]);
        }
    }
}

#[test]
fn a_stepper_that_does_not_suit_is_an_error() {
    for (_, backend) in backends() {
        for sizes in SMALL {
            let case = Case::new(sizes, Dtype::F32, false);
            let stepper = |targets: Option<Targets>, start: &Parameters, heads: &[Head]| {
                let mut session = backend.session(&case.features, 1.0, targets.as_ref().map(Into::into)).unwrap();
                session.stepper(&start.clone().into(), heads, 16).map(drop)
            };
            let (start, heads, q) = (&case.start, &case.heads[..], case.shape.n_classes);
            let targets = || Some(case.targets.clone());
            stepper(targets(), start, heads).unwrap();
            // A batch size of nothing is one of 1.
            assert!(case.session(&*backend).stepper(&start.clone().into(), heads, 0).is_ok());
            assert_shape_error!(stepper(None, start, heads), "targets");
            assert_shape_error!(stepper(targets(), start, &[]), "heads");
            assert_shape_error!(stepper(targets(), start, &[heads, heads].concat()), "heads");
            if heads.len() > 1 {
                let adamw = |beta_2| Rule::AdamW { beta_1: 0.9, beta_2, epsilon: 1e-8, weight_decay: 0.0 };
                for rules in [[heads[0].rule, adamw(0.9)], [adamw(0.99), adamw(0.9)]] {
                    let mut mixed = vec![Head { rule: rules[0], ..heads[0] }; heads.len()];
                    mixed[1].rule = rules[1];
                    let error = stepper(targets(), start, &mixed).unwrap_err();
                    assert!(matches!(error, Error::Setting { .. }), "{error}");
                }
            }
            let classes = |n: usize, class: usize| Some(Targets::Classes(vec![class as u32; n].into()));
            stepper(classes(N, q - 1), start, heads).unwrap();
            assert_shape_error!(stepper(classes(N, q), start, heads), "classes of the labels");
            assert_shape_error!(stepper(classes(N, u32::MAX as usize), start, heads), "classes of the labels");
            assert_shape_error!(stepper(classes(N - 1, 0), start, heads), "labels");
            assert_shape_error!(stepper(classes(0, 0), start, heads), "labels");
            let soft = |n: usize| Some(Targets::Distributions(vec![0.5; n].into()));
            stepper(soft(N * q), start, heads).unwrap();
            assert_shape_error!(stepper(soft(N * q - 1), start, heads), "values of the soft labels");
            assert_shape_error!(stepper(soft(0), start, heads), "values of the soft labels");
            for n in [0, N - 1, N + 1] {
                let weights = vec![1.0; n];
                for targets in [&case.targets, &Targets::Distributions(vec![0.5; N * q].into())] {
                    let supervision = Supervision { targets, weights: Some(&weights) };
                    let mut session = backend.session(&case.features, 1.0, Some(supervision)).unwrap();
                    assert_shape_error!(session.stepper(&start.clone().into(), heads, 16).map(drop), "weights");
                }
            }

            let mut short = start.clone();
            short.values.pop();
            assert_shape_error!(stepper(targets(), &short, heads), "values of the parameters");
            for n_moments in [1, 2 * start.values.len(), start.values.len() - 1] {
                let state = State { moments: vec![0.0; n_moments], ..start.clone().into() };
                assert_shape_error!(case.session(&*backend).stepper(&state, heads, 16).map(drop), "moments");
            }
            for (n_classes, n_heads) in [(0, 1), (1, 0), (usize::MAX, 1), (1, usize::MAX), (usize::MAX, usize::MAX)] {
                let mut other = start.clone();
                other.shape = Shape { n_features: 5, n_classes, n_heads };
                let what = stepper(targets(), &other, heads).unwrap_err();
                assert!(matches!(what, Error::Shape { .. }), "{what}");
                let what = case.session(&*backend).logits(&other, &mut |_, _| Ok(())).unwrap_err();
                assert!(matches!(what, Error::Shape { .. }), "{what}");
            }
            let mut other = start.clone();
            other.shape.n_features = 4;
            other.values = vec![0.0; other.shape.n_parameters()];
            let error = case.session(&*backend).logits(&other, &mut |_, _| Ok(())).unwrap_err();
            assert!(matches!(error, Error::Width { model: 4, data: 5 }), "{error}");
        }
    }
}

#[test]
fn an_error_of_the_sink_ends_the_logits() {
    for (_, backend) in backends() {
        let case = Case::new(SMALL[0], Dtype::F32, false);
        let full = || Error::OutOfMemory { device: String::new(), what: "the sink".to_owned(), bytes: 1 };
        let error = case.session(&*backend).logits(&case.start, &mut |_, _| Err(full())).unwrap_err();
        assert_eq!(error.to_string(), full().to_string());
    }
}

/// A device may be shared by threads that know nothing of each other.
#[test]
fn several_threads_on_one_device_do_not_disturb_each_other() {
    for (name, backend) in backends() {
        let case = Case::new((257, 33, 5, 7, 100), Dtype::F32, false);
        let logits = || {
            let mut found: Vec<f32> = Vec::new();
            let mut session = case.session(&*backend);
            session.logits(&case.start, &mut |_, block| {
                found.extend_from_slice(block);
                Ok(())
            })?;
            Ok::<_, Error>(found)
        };
        let expected = logits().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        assert!(logits().unwrap() == expected, "{name}");
                    }
                });
            }
        });
    }
}

/// What makes steps cheap on a GPU: few kernels, and nothing read back before the epoch ends.
#[cfg(feature = "gpu")]
#[test]
fn a_step_is_few_kernels_and_an_epoch_is_read_once() {
    use super::gpu::{Gpu, Options};
    use std::sync::atomic::Ordering::Relaxed;
    for gpu in Gpu::open_all(Options::default()) {
        let gpu = gpu.unwrap();
        for (sizes, n_kernels) in [((700, 33, 5, 7, 2), 2), ((700, 5, 64, 1, 2), 2), ((700, 5, 65, 1, 2), 4)] {
            let case = Case::new(sizes, Dtype::F32, false);
            let mut session = case.session(&gpu);
            let plan = Plan::new(session.chunks(), case.batch_size, 3, 0);
            let mut stepper = session.stepper(&case.start.clone().into(), &case.heads, case.batch_size).unwrap();
            let before = (gpu.counts.dispatches.load(Relaxed), gpu.counts.readbacks.load(Relaxed));
            stepper.run(&plan, &rates(&plan)).unwrap();
            assert_eq!(gpu.counts.dispatches.load(Relaxed) - before.0, n_kernels * 350, "{sizes:?}");
            assert_eq!(gpu.counts.readbacks.load(Relaxed) - before.1, 1, "{sizes:?}");
        }
    }
}

/// Devices tell how long each kernel took; the software one of the tests can.
#[cfg(feature = "gpu")]
#[test]
fn kernels_are_timed_by_the_device() {
    use super::gpu::{Gpu, Options};
    for gpu in Gpu::open_all(Options::default()) {
        let gpu = gpu.unwrap();
        for (sizes, names) in [
            ((700, 33, 5, 7, 20), &["narrow_residual", "narrow_update"][..]),
            ((700, 5, 65, 1, 20), &["logits", "softmax", "gradient", "update"]),
        ] {
            let case = Case::new(sizes, Dtype::F32, false);
            let mut session = case.session(&gpu);
            let plan = Plan::new(session.chunks(), case.batch_size, 3, 0);
            let mut stepper = session.stepper(&case.start.clone().into(), &case.heads, case.batch_size).unwrap();
            let begin = std::time::Instant::now();
            let times = stepper.kernel_times(&plan, &rates(&plan)).unwrap();
            let elapsed = begin.elapsed();
            if times.is_empty() {
                eprintln!("{} has no clock", gpu.info().name);
                continue;
            }
            assert_eq!(times.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
            assert!(times.iter().all(|(_, time)| !time.is_zero()), "{times:?}");
            assert!(times.iter().map(|(_, time)| *time).sum::<std::time::Duration>() <= elapsed, "{times:?}");
            // They are steps like others.
            let after = stepper.parameters().unwrap();
            let mut again = case.session(&gpu);
            let mut again = again.stepper(&case.start.clone().into(), &case.heads, case.batch_size).unwrap();
            again.run(&plan, &rates(&plan)).unwrap();
            assert_eq!(after.values, again.parameters().unwrap().values);
        }
    }
}

#[cfg(feature = "gpu")]
#[test]
fn what_does_not_fit_a_device_is_named() {
    use super::gpu::{Gpu, Options};
    let case = Case::new((3000, 7, 3, 1, 1000), Dtype::F32, false);
    for gpu in Gpu::open_all(Options { max_memory: Some(90_000), ..Options::default() }) {
        let gpu = gpu.unwrap();
        let error = gpu.session(&case.features, 1.0, Some((&case.targets).into())).map(drop).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { bytes: 96_000, .. }), "{error}");
        assert!(error.to_string().contains("out of memory for the features (96000 bytes)"), "{error}");
        // Nothing of the failed session is left in the account.
        assert!(gpu.session(&case.features.rows(0..2000).unwrap(), 1.0, None).is_ok());
    }
    for gpu in Gpu::open_all(Options::default()) {
        let gpu = gpu.unwrap();
        let mut session = case.session(&gpu);
        let error = session.stepper(&case.start.clone().into(), &case.heads, 1 << 29).map(drop).unwrap_err();
        assert!(matches!(error, Error::DeviceLimit { needed, .. } if needed == 1 << 33), "{error}");
        assert!(error.to_string().contains("the logits of a batch") && error.to_string().contains("smaller batch"));
    }
}

/// Tuning keeps the fastest of what it tried, and steps stay right.
#[test]
fn tuning_keeps_the_fastest_and_steps_stay_right() {
    for (name, backend) in backends() {
        for sizes in [(257, 33, 5, 7, 100), (300, 40, 100, 2, 128)] {
            let case = Case::new(sizes, Dtype::F32, false);
            let mut session = case.session(&*backend);
            let tried = session.tune(&case.start, &case.heads, case.batch_size).unwrap();
            let Some(kept) = tried.last() else {
                let one_way = backend.info().backend == "cpu" || backend.uses_matrix_units(case.shape.n_outputs());
                assert!(one_way, "{name} has tried nothing");
                continue;
            };
            assert_shape_error!(session.tune(&case.start, &[], case.batch_size), "heads");
            let fastest = tried.iter().map(|tried| tried.step).min().unwrap();
            assert!(kept.step.as_secs_f64() * 0.95 <= fastest.as_secs_f64(), "{name}: {tried:?}");
            let mut choices: Vec<_> = tried.iter().map(|tried| &tried.choice).collect();
            choices.sort();
            choices.dedup();
            assert!(choices.len() == tried.len() && tried.len() >= 5, "{name}: {tried:?}");
            let trained = case.train(&*backend);
            check(&format!("{name}, tuned: {sizes:?}"), &case, &case.heads, &trained).unwrap();
            assert_eq!(trained.parameters, case.train(&*backend).parameters);
        }
    }
}

/// What a backend found against the reference; results are summed in `f64`, and compared in `f32`.
fn check_evaluation(what: &str, found: &Evaluation, expected: &(Evaluated, Evaluated)) -> Result<(), String> {
    let (expected, bound) = expected;
    let compare = |part: &str, found: &[f64], expected: &[f64], bound: &[f64]| {
        let found: Vec<f32> = found.iter().map(|&value| value as f32).collect();
        compare(&format!("{what}: {part}"), &found, expected, bound)
    };
    compare("losses", &found.point.losses, &expected.losses, &bound.losses)?;
    compare("slopes", &found.point.slopes, &expected.slopes, &bound.slopes)?;
    compare("gradient", &found.gradient, &expected.gradient, &bound.gradient)
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

impl Case {
    /// Of mean 1; some count nothing.
    fn weights(&self) -> Vec<f32> {
        let n = self.features.n_samples();
        let weights: Vec<f32> = (0..n).map(|i| [1.0, 0.5, 3.0, 0.0, 0.25][(i + 1) % 5]).collect();
        let mean = weights.iter().sum::<f32>() / n as f32;
        weights.iter().map(|weight| weight / mean).collect()
    }

    /// `start`, changed a little in another way for each number.
    fn like_start(&self, number: usize) -> Vec<f64> {
        let n = self.start.values.len();
        (0..n).map(|i| f64::from(self.start.values[(i * 7 + number * 31) % n] * 0.5)).collect()
    }

    /// A length for each head.
    fn lengths(&self, size: f64) -> Vec<f64> {
        (0..self.shape.n_heads).map(|head| size * (1.0 - 0.4 * head as f64)).collect()
    }

    /// What [`Case::check_loss`] must find, in its order.
    fn expected_of_loss(&self, weights: Option<&[f32]>) -> Vec<(Evaluated, Evaluated)> {
        let n = self.features.n_samples();
        let sum: f64 = weights.map_or(n as f64, |weights| weights.iter().map(|&w| f64::from(w)).sum());
        let shares: Vec<f64> = (0..n).map(|i| weights.map_or(1.0, |weights| f64::from(weights[i])) / sum).collect();
        let mut reference = reference::Loss::new(&self.x, &self.y, &shares, self.shape);
        let zeros = self.lengths(0.0);
        let mut expected = Vec::new();
        reference.start(&f64s(&self.start.values));
        expected.push(reference.at(&zeros));
        for round in 0..2 {
            reference.look(&self.like_start(round));
            expected.push(reference.at(&self.lengths(1.0)));
            expected.push(reference.at(&self.lengths(-0.5)));
            expected.extend(self.points().chunks_exact(self.shape.n_heads).map(|t| reference.point(t)));
            reference.advance(&self.lengths(0.75));
            expected.push(reference.at(&zeros));
            expected.push(reference.hessian_vector(&self.like_start(round + 5)));
            expected.push(reference.at(&self.lengths(0.125)));
        }
        expected
    }

    /// Lengths at more points than a kernel takes at once.
    fn points(&self) -> Vec<f64> {
        (0..9).flat_map(|k| self.lengths(0.25 * f64::from(k) - 1.0)).collect()
    }

    /// All that a loss is asked for, compared.
    fn check_loss(&self, what: &str, loss: &mut dyn Loss, expected: &[(Evaluated, Evaluated)]) -> Result<(), String> {
        self.check_loss_by(check_evaluation, what, loss, expected)
    }

    fn check_loss_by(
        &self,
        compare: impl Fn(&str, &Evaluation, &(Evaluated, Evaluated)) -> Result<(), String>,
        what: &str,
        loss: &mut dyn Loss,
        expected: &[(Evaluated, Evaluated)],
    ) -> Result<(), String> {
        let zeros = self.lengths(0.0);
        let start = f64s(&self.start.values);
        let mut expected = expected.iter();
        let mut check =
            |part: &str, found: &Evaluation| compare(&format!("{what}, {part}"), found, expected.next().unwrap());
        check("start", &loss.start(&start).unwrap())?;
        for round in 0..2 {
            // A direction, with its gradient at once or later.
            let looked = match round {
                0 => loss.look(&self.like_start(round), &self.lengths(1.0)).unwrap(),
                _ => {
                    loss.aim(&self.like_start(round)).unwrap();
                    loss.gradient(&self.lengths(1.0)).unwrap()
                }
            };
            check("look", &looked)?;
            check("gradient", &loss.gradient(&self.lengths(-0.5)).unwrap())?;
            let points = loss.along(&self.points()).unwrap();
            assert_eq!(points.len(), 9);
            for point in points {
                check("point", &Evaluation { point, gradient: Vec::new() })?;
            }
            loss.advance(&self.lengths(0.75)).unwrap();
            check("advance", &loss.gradient(&zeros).unwrap())?;
            let gradient = loss.hessian_vector(&self.like_start(round + 5)).unwrap();
            let point = Point { losses: Vec::new(), slopes: Vec::new() };
            check("Hessian", &Evaluation { point, gradient })?;
            // The direction is still the same.
            check("after", &loss.gradient(&self.lengths(0.125)).unwrap())?;
        }
        assert!(expected.next().is_none());
        // Without a direction there is nowhere to go.
        let back = loss.start(&start).unwrap();
        assert_eq!(back.point.slopes, zeros, "{what}");
        Ok(())
    }
}

#[test]
fn losses_are_those_of_the_reference() {
    let backends = backends();
    // Beside the bounds of so many features nothing is left of slopes in a direction at random.
    for &sizes in &CASES[..CASES.len() - 3] {
        let mut kinds = vec![(Dtype::F32, false), (Dtype::F16, true), (Dtype::U8, false), (Dtype::F32, true)];
        // The reference takes its time.
        kinds.truncate(if sizes.0 > 1000 { 2 } else { 4 });
        for (i, (dtype, soft)) in kinds.into_iter().enumerate() {
            let case = Case::new(sizes, dtype, soft);
            let weights = (i % 2 == 0).then(|| case.weights());
            let weights = weights.as_deref();
            let expected = case.expected_of_loss(weights);
            for (name, backend) in &backends {
                let what = format!("{name}: {sizes:?} {dtype}, soft {soft}, weights {}", weights.is_some());
                let supervision = Supervision { targets: &case.targets, weights };
                let mut session = backend.session(&case.features, case.scale, Some(supervision)).unwrap();
                let mut loss = session.loss(case.shape).unwrap();
                case.check_loss(&what, &mut *loss, &expected).unwrap();
            }
        }
    }
}

/// What double precision found against the reference: within the bounds of single precision, as much narrower as its
/// rounding is finer but for a factor of 8, and 1e-14 of the largest value.
fn check_double(what: &str, found: &Evaluation, expected: &(Evaluated, Evaluated)) -> Result<(), String> {
    let (expected, bound) = expected;
    let compare = |part: &str, found: &[f64], expected: &[f64], bound: &[f64]| {
        assert_eq!((found.len(), expected.len()), (bound.len(), bound.len()), "{what}: {part}");
        let size = expected.iter().fold(0.0f64, |max, value| max.max(value.abs()));
        for (i, ((found, expected), bound)) in found.iter().zip(expected).zip(bound).enumerate() {
            let bound = 8.0 * 0.5f64.powi(29) * bound + 1e-14 * size;
            let difference = (found - expected).abs();
            if difference > bound || difference.is_nan() {
                return Err(format!("{what}: {part} [{i}] is {found:e}, expected {expected:e} ± {bound:e}"));
            }
        }
        Ok(())
    };
    compare("losses", &found.point.losses, &expected.losses, &bound.losses)?;
    compare("slopes", &found.point.slopes, &expected.slopes, &bound.slopes)?;
    compare("gradient", &found.gradient, &expected.gradient, &bound.gradient)
}

/// The CPU's losses with each instruction set, to the precision of `f64`: whole and part slabs, tiles and parts.
#[test]
fn losses_of_the_cpu_are_in_double_precision() {
    let kinds = [(Dtype::F32, false), (Dtype::F32, true), (Dtype::U8, false), (Dtype::F16, true)];
    let mut number = 0;
    for d in [1, 15, 16, 17, 33] {
        for n in [1, 3, 4, 5, 127, 129, 1000] {
            for (q, h) in [(2, 1), (3, 3), (13, 2)] {
                let (dtype, soft) = kinds[number % 4];
                let is_weighted = number / 2 % 2 == 0 || n == 1000;
                // Logits of up to 10⁴ too.
                let size = [1.0, 1.0, 1e3][number % 3];
                number += 1;
                let mut case = Case::new((n, d, q, h, n), dtype, soft);
                case.start.values.iter_mut().for_each(|value| *value *= size);
                let weights = is_weighted.then(|| case.weights());
                let weights = weights.as_deref();
                let expected = case.expected_of_loss(weights);
                for cpu in super::cpu::Cpu::all() {
                    let what = format!("{}: {n} × {d}, {h} · {q}, {dtype}, {size}", cpu.info().driver);
                    let supervision = Supervision { targets: &case.targets, weights };
                    let mut session = cpu.session(&case.features, case.scale, Some(supervision)).unwrap();
                    let mut loss = session.loss(case.shape).unwrap();
                    case.check_loss_by(check_double, &what, &mut *loss, &expected).unwrap();
                }
            }
        }
    }
}

/// Drafts of the CPU with each instruction set, to the precision of `f32` (on matrix units, of its halves) and no better, and what comes
/// after a draft to that of `f64`.
#[test]
fn drafts_of_the_cpu_are_in_single_precision() {
    for (number, sizes) in
        [(1, 1, 2, 1, 1), (5, 15, 3, 3, 5), (129, 16, 13, 1, 9), (1000, 33, 5, 2, 9), (700, 400, 30, 1, 9)]
            .iter()
            .enumerate()
    {
        for (dtype, soft) in [(Dtype::F32, false), (Dtype::U8, true)] {
            let mut case = Case::new(*sizes, dtype, soft);
            if dtype == Dtype::F32 {
                // Then features of whole slabs are used where they lie.
                case.x.iter_mut().for_each(|x| *x /= f64::from(case.scale));
                case.scale = 1.0;
            }
            let weights = (number % 2 == 0).then(|| case.weights());
            let expected = case.expected_of_loss(weights.as_deref());
            for cpu in super::cpu::Cpu::all() {
                let what = format!("{}: {sizes:?} {dtype}", cpu.info().driver);
                let supervision = Supervision { targets: &case.targets, weights: weights.as_deref() };
                let mut session = cpu.session(&case.features, case.scale, Some(supervision)).unwrap();
                let mut loss = session.loss(case.shape).unwrap();
                let before = loss.start(&case.like_start(1)).unwrap();
                assert!(!loss.set_draft(false) && loss.set_draft(true) && !loss.set_draft(true) && !loss.is_double());
                // The bound of d products in single precision, with that of halves for each product.
                let of_halves = 3.1 * 256.0 / (case.shape.n_features + 3) as f64;
                let factor = if what.contains("AMX") { 1.0 + of_halves } else { 1.0 };
                let wider = |(expected, bound): &(Evaluated, Evaluated)| {
                    let times = |values: &[f64]| values.iter().map(|value| factor * value).collect();
                    let Evaluated { losses, slopes, gradient } = bound;
                    let bound = Evaluated { losses: times(losses), slopes: times(slopes), gradient: times(gradient) };
                    (expected.clone(), bound)
                };
                let of_draft: Vec<_> = expected.iter().map(wider).collect();
                case.check_loss(&what, &mut *loss, &of_draft).unwrap();
                if number > 0 {
                    case.check_loss_by(check_double, &what, &mut *loss, &expected).unwrap_err();
                }
                assert!(loss.set_draft(false) && loss.is_double());
                case.check_loss_by(check_double, &what, &mut *loss, &expected).unwrap();
                assert_eq!(loss.start(&case.like_start(1)).unwrap(), before, "{what}");
            }
        }
    }
}

/// That comparison notices a feature or a weight that is different in the last bits of single precision.
#[test]
fn a_planted_error_in_a_loss_in_double_precision_is_noticed() {
    let case = || Case::new((129, 17, 5, 2, 129), Dtype::F32, true);
    let (right, weights) = (case(), case().weights());
    let (mut other_feature, mut other_target, mut other_weights) = (case(), case(), weights.clone());
    other_feature.x[5] *= 1.0 + 1e-8;
    other_target.y[0] *= 1.0 + 1e-8;
    other_weights[0] *= 1.0 + f32::EPSILON;
    let wrong = [
        other_feature.expected_of_loss(Some(&weights)),
        other_target.expected_of_loss(Some(&weights)),
        right.expected_of_loss(Some(&other_weights)),
    ];
    for cpu in super::cpu::Cpu::all() {
        let supervision = Supervision { targets: &right.targets, weights: Some(&weights) };
        let mut session = cpu.session(&right.features, right.scale, Some(supervision)).unwrap();
        let mut loss = session.loss(right.shape).unwrap();
        let mut check = |expected: &[_]| right.check_loss_by(check_double, "planted", &mut *loss, expected);
        check(&right.expected_of_loss(Some(&weights))).unwrap();
        for expected in &wrong {
            check(expected).unwrap_err();
        }
    }
}

#[test]
fn losses_of_the_cpu_do_not_depend_on_the_number_of_threads() {
    for sizes in [(5, 3, 3, 1, 5), (3000, 7, 3, 1, 1), (1501, 200, 10, 2, 1), (8300, 2, 65, 8, 1)] {
        let case = Case::new(sizes, Dtype::F32, false).weighted();
        let evaluate = |n_threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| {
                let cpu = super::cpu::Cpu::new();
                let mut session = case.session(&cpu);
                let mut loss = session.loss(case.shape).unwrap();
                loss.start(&case.like_start(1)).unwrap();
                let t = case.lengths(0.5);
                let evaluation = loss.look(&case.like_start(2), &t).unwrap();
                let points = loss.along(&case.points()).unwrap();
                loss.advance(&t).unwrap();
                (evaluation, points, loss.hessian_vector(&case.like_start(3)).unwrap())
            })
        };
        let one = evaluate(1);
        for n_threads in [2, 5] {
            assert_eq!(evaluate(n_threads), one, "{sizes:?}, {n_threads} threads");
        }
    }
}

/// The comparison with the bounds of single precision notices targets, weights or features that are a little different.
#[test]
fn a_planted_error_in_a_loss_is_noticed() {
    let case = || Case::new((130, 64, 10, 3, 64), Dtype::F32, false);
    let (right, weights) = (case(), case().weights());
    let mut swapped = weights.clone();
    swapped.swap(0, 1);
    let (mut other_target, mut other_feature) = (case(), case());
    other_target.y.swap(0, 1);
    other_feature.x[5] += 1e-2;
    let wrong = [
        right.expected_of_loss(None),
        right.expected_of_loss(Some(&swapped)),
        other_target.expected_of_loss(Some(&weights)),
        other_feature.expected_of_loss(Some(&weights)),
    ];
    for (name, backend) in backends() {
        let supervision = Supervision { targets: &right.targets, weights: Some(&weights) };
        let mut session = backend.session(&right.features, right.scale, Some(supervision)).unwrap();
        let mut loss = session.loss(right.shape).unwrap();
        right.check_loss(&name, &mut *loss, &right.expected_of_loss(Some(&weights))).unwrap();
        for expected in &wrong {
            right.check_loss(&name, &mut *loss, expected).unwrap_err();
        }
    }
}

/// Where all samples are sure of their class the loss is small, and known as well as elsewhere.
#[test]
fn small_losses_and_large_logits_are_as_certain_as_others() {
    for (name, backend) in backends() {
        for (n_classes, n_heads) in [(2, 1), (10, 2), (100, 1)] {
            let (n, shape) = (70, Shape { n_features: n_classes, n_classes, n_heads });
            let classes: Vec<u32> = (0..n).map(|i| (i % n_classes) as u32).collect();
            let x: Vec<f32> = classes
                .iter()
                .flat_map(|&class| (0..n_classes).map(move |j| f32::from(u8::from(j == class as usize))))
                .collect();
            let y: Vec<f64> = x.iter().map(|&x| x.into()).collect();
            let features = Features::new(x, n, n_classes).unwrap();
            let targets = Targets::Classes(classes.into());
            let shares = vec![1.0 / n as f64; n];
            for size in [8.0f64, 12.0, 16.0] {
                // Logits of size · (1 for the class, 0 for others), and a little more for the first.
                let parameters: Vec<f64> = (0..shape.n_parameters())
                    .map(|i| {
                        let (row, class) = (i / shape.n_outputs(), i % shape.n_classes);
                        size * f64::from(u8::from(row == class)) + 0.125 * f64::from(u8::from(class == 0))
                    })
                    .collect();
                let mut reference = reference::Loss::new(&y, &y, &shares, shape);
                reference.start(&parameters);
                reference.look(&parameters);
                let mut session = backend.session(&features, 1.0, Some((&targets).into())).unwrap();
                let mut loss = session.loss(shape).unwrap();
                loss.start(&parameters).unwrap();
                let t = vec![0.125; n_heads];
                let (expected, bound) = reference.at(&t);
                let found = loss.look(&parameters, &t).unwrap();
                check_evaluation(&format!("{name}, {size}"), &found, &(expected, bound)).unwrap();
                // The bound itself is of the size of the loss.
                let (expected, bound) = reference.at(&t);
                assert!(bound.losses[0] < 1e-3 * expected.losses[0], "{:?} ± {:?}", expected.losses, bound.losses);
                assert!(found.point.losses[0] < 0.02 * n_classes as f64 && found.point.losses[0] > 1e-8);
            }
            // What is not finite is said as it is.
            let mut session = backend.session(&features, 1.0, Some((&targets).into())).unwrap();
            let mut loss = session.loss(shape).unwrap();
            let found = loss.start(&vec![f64::MAX; shape.n_parameters()]).unwrap();
            assert!(!found.point.losses[0].is_finite(), "{name}: {:?}", found.point);
        }
    }
}

#[test]
fn the_same_evaluation_gives_the_same_bits() {
    for (name, backend) in backends() {
        for sizes in [CASES[5], CASES[13], CASES[20]] {
            let case = Case::new(sizes, Dtype::F32, false);
            let evaluate = || {
                let mut session = case.session(&*backend);
                let mut loss = session.loss(case.shape).unwrap();
                loss.start(&case.like_start(1)).unwrap();
                let t = case.lengths(0.5);
                let evaluation = loss.look(&case.like_start(2), &t).unwrap();
                let points = loss.along(&[t.clone(), t.clone()].concat()).unwrap();
                (evaluation, points, loss.hessian_vector(&case.like_start(3)).unwrap())
            };
            assert_eq!(evaluate(), evaluate(), "{name}: {sizes:?}");
        }
    }
}

#[test]
fn a_loss_that_does_not_suit_is_an_error() {
    for (_, backend) in backends() {
        for sizes in SMALL {
            let case = Case::new(sizes, Dtype::F32, false);
            let shape = case.shape;
            let without = backend.session(&case.features, 1.0, None).unwrap().loss(shape).map(drop);
            assert_shape_error!(without, "targets");
            let mut session = case.session(&*backend);
            let width = session.loss(Shape { n_features: 4, ..shape }).map(drop).unwrap_err();
            assert!(matches!(width, Error::Width { model: 4, data: 5 }), "{width}");
            for (n_classes, n_heads) in [(0, 1), (1, 0), (usize::MAX, 1), (1, usize::MAX), (usize::MAX, usize::MAX)] {
                let error = session.loss(Shape { n_features: 5, n_classes, n_heads }).map(drop).unwrap_err();
                assert!(matches!(error, Error::Shape { .. }), "{error}");
            }
            assert_shape_error!(
                session.loss(Shape { n_classes: shape.n_classes - 1, ..shape }),
                "classes of the labels"
            );
            let weights = vec![1.0; N - 1];
            let mut short = backend
                .session(&case.features, 1.0, Some(Supervision { targets: &case.targets, weights: Some(&weights) }))
                .unwrap();
            assert_shape_error!(short.loss(shape), "weights");
            drop(short);

            let mut loss = session.loss(shape).unwrap();
            let (point, t) = (vec![0.5; shape.n_parameters()], case.lengths(0.0));
            let evaluation = loss.start(&point).unwrap();
            for wrong in [&point[1..], &[]] {
                assert_shape_error!(loss.start(wrong), "values");
                assert_shape_error!(loss.look(wrong, &t), "values");
                assert_shape_error!(loss.aim(wrong), "values");
                assert_shape_error!(loss.hessian_vector(wrong), "values");
            }
            for wrong in [&t[1..], &[&t[..], &[0.0]].concat()] {
                assert_shape_error!(loss.look(&point, wrong), "lengths");
                assert_shape_error!(loss.gradient(wrong), "lengths");
                assert_shape_error!(loss.advance(wrong), "lengths");
            }
            if shape.n_heads > 1 {
                assert_shape_error!(loss.along(&t[1..]), "lengths");
            }
            assert_eq!(loss.along(&[]).unwrap(), []);
            // None of them went anywhere.
            assert_eq!(loss.gradient(&t).unwrap(), evaluation);
        }
    }
}

/// What makes an iteration of a batch solver cheap on a GPU: two products, and everything read back together.
#[cfg(feature = "gpu")]
#[test]
fn an_evaluation_is_few_products_and_one_readback() {
    use super::gpu::{Gpu, Options};
    use std::sync::atomic::Ordering::Relaxed;
    for max_chunk in [None, Some(64 << 10)] {
        for gpu in Gpu::open_all(Options { max_chunk, ..Options::default() }) {
            let gpu = gpu.unwrap();
            for sizes in [(700, 33, 5, 7, 2), (700, 65, 65, 1, 2)] {
                let case = Case::new(sizes, Dtype::F32, false);
                let mut session = case.session(&gpu);
                let n_chunks = session.chunks().len();
                assert_eq!(n_chunks > 1, max_chunk.is_some());
                let mut loss = session.loss(case.shape).unwrap();
                let (point, t) = (case.like_start(0), case.lengths(0.5));
                let points = [&t[..]; 8].concat();
                let counts = || {
                    let counts = &gpu.counts;
                    [&counts.products, &counts.dispatches, &counts.submissions, &counts.readbacks]
                        .map(|count| count.load(Relaxed))
                };
                let mut counted = |what: &str, expected: [usize; 4], run: &mut dyn FnMut(&mut dyn Loss)| {
                    let before = counts();
                    run(&mut *loss);
                    let after = counts();
                    let mut found: Vec<usize> =
                        after.iter().zip(before).map(|(after, before)| after - before).collect();
                    // A chunk has at least a block; all blocks have the same.
                    let n_blocks = found[1] / expected[1];
                    assert!(
                        n_blocks >= n_chunks && (max_chunk.is_some() || n_blocks == 1),
                        "{what}: {n_blocks} blocks"
                    );
                    found[0] /= n_blocks;
                    found[1] /= n_blocks;
                    assert_eq!(found, expected, "{what}");
                };
                // products, dispatches, submissions, readbacks
                counted("start", [2, 4, 1, 1], &mut |loss| drop(loss.start(&point).unwrap()));
                counted("look", [2, 4, 1, 1], &mut |loss| drop(loss.look(&point, &t).unwrap()));
                counted("aim", [1, 1, 1, 0], &mut |loss| loss.aim(&point).unwrap());
                counted("gradient", [1, 3, 1, 1], &mut |loss| drop(loss.gradient(&t).unwrap()));
                counted("along", [0, 1, 1, 1], &mut |loss| drop(loss.along(&points).unwrap()));
                counted("advance", [0, 1, 1, 0], &mut |loss| loss.advance(&t).unwrap());
                counted("a Hessian", [2, 4, 1, 1], &mut |loss| drop(loss.hessian_vector(&point).unwrap()));
            }
        }
    }
}
