//! What the suite over all backends does not see: the single operations of each instruction set, sizes past the parts
//! and the depth of the products, numbers of threads, and errors.

use half::f16;

use super::lanes::{Element, Instructions, Kernel, Lanes};
use super::row::{RowKernel, logits_of_row};
use super::softmax::exp;
use super::stepper::Data;
use super::tiles::{Buffer, Matrix};
use super::wide::Wide;
use super::{Backend, Cpu, Head, Parameters};
use crate::backend::Shape;
use crate::batch::{Batch, Plan, Shuffle};
use crate::data::{Features, Targets};
use crate::error::Error;
use crate::reference::{Steps, UNIT_ROUNDOFF, compare, logits, logits_bound};

/// Numbers of both signs between ¼ and 1 in size, so that none is lost in an error bound.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Shuffle::new(seed, 0);
    let mut value = || random.below(1 << 24) as f32 / (1 << 24) as f32 * 1.5 - 0.75;
    (0..n).map(|_| value()).map(|x| x + 0.25f32.copysign(x)).collect()
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// The lanes of a vector; zeros past them.
#[inline(always)]
fn array<L: Lanes>(lanes: L, v: L::V) -> [f32; 32] {
    let mut values = [0.0; 32];
    // SAFETY: 32 ≥ N.
    unsafe { lanes.store(values.as_mut_ptr(), v) };
    values
}

/// exp of each value, in place; their number is a multiple of 32.
struct Exp<'a>(&'a mut [f32]);

impl Kernel for Exp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for values in self.0.chunks_exact_mut(L::N) {
            // SAFETY: there are N values.
            unsafe { lanes.store(values.as_mut_ptr(), exp(lanes, lanes.load(values.as_ptr()))) };
        }
    }
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    const LIMIT: f32 = -87.33;
    for instructions in Instructions::all() {
        let name = instructions.name();
        // From −0 down to the limit, every 509th number there is, and those next to the limit.
        let mut x: Vec<f32> = ((-0.0f32).to_bits()..=LIMIT.to_bits()).step_by(509).map(f32::from_bits).collect();
        x.extend((0..100).map(|i| f32::from_bits(LIMIT.to_bits() - i)));
        x.resize(x.len().next_multiple_of(32), 0.0);
        let mut found = x.clone();
        instructions.run(Exp(&mut found));
        // Both without the exponent of the expected value: a unit in the last place is then 2⁻²³ = 2u.
        let (mut without, mut expected) = (Vec::new(), Vec::new());
        for (&x, &found) in x.iter().zip(&found) {
            let e = f64::from(x).exp();
            let power = e.log2().floor().exp2();
            without.push((f64::from(found) / power) as f32);
            expected.push(e / power);
        }
        let bound = vec![2.0 * 2.0 * UNIT_ROUNDOFF; expected.len()];
        compare(&format!("exp, {name}"), &without, &expected, &bound).unwrap();
        without[1000] += 4.0 * 2.0 * UNIT_ROUNDOFF as f32;
        compare("four units more", &without, &expected, &bound).unwrap_err();

        let below = f32::from_bits(LIMIT.to_bits() + 1);
        let mut special = [0.0; 32];
        special[..7].copy_from_slice(&[0.0, -0.0, below, -88.0, f32::MIN, f32::NEG_INFINITY, f32::NAN]);
        instructions.run(Exp(&mut special));
        assert_eq!(special[..6], [1.0, 1.0, 0.0, 0.0, 0.0, 0.0], "{name}");
        assert!(special[6].is_nan(), "{name}");
    }
}

/// Compares all operations with plain code.
struct Operations(&'static str);

impl Kernel for Operations {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let name = self.0;
        assert!(32 % L::N == 0, "{name}");
        let mut numbers = [values(32, 1), values(32, 2), values(32, 3)];
        let special = [0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, f32::INFINITY, f32::NAN];
        for (lane, x) in special.into_iter().enumerate().filter(|&(lane, _)| lane < L::N) {
            numbers[lane % 2][lane] = x;
        }
        let [a, b, c] = numbers;
        // SAFETY: there are 32 ≥ N values.
        let (va, vb, vc) = unsafe { (lanes.load(a.as_ptr()), lanes.load(b.as_ptr()), lanes.load(c.as_ptr())) };
        let same = |what: &str, found: L::V, expected: &dyn Fn(usize) -> f32| {
            let found = array(lanes, found);
            for lane in 0..L::N {
                let (found, expected) = (found[lane], expected(lane));
                let is_same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                assert!(is_same, "{name}: {what} in lane {lane}: {found}, expected {expected}");
            }
        };
        same("load", va, &|i| a[i]);
        same("splat", lanes.splat(3.5), &|_| 3.5);
        same("add", lanes.add(va, vb), &|i| a[i] + b[i]);
        same("sub", lanes.sub(va, vb), &|i| a[i] - b[i]);
        same("mul", lanes.mul(va, vb), &|i| a[i] * b[i]);
        same("div", lanes.div(va, vb), &|i| a[i] / b[i]);
        same("zero_below", lanes.zero_below(va, vb, vc), &|i| if b[i] < c[i] { 0.0 } else { a[i] });
        let fused = array(lanes, lanes.mul_add(va, vb, vc));
        let max = array(lanes, lanes.max(va, vb));
        for i in 0..L::N {
            let (once, twice) = (a[i].mul_add(b[i], c[i]), a[i] * b[i] + c[i]);
            let is_one = |x: f32| fused[i].to_bits() == x.to_bits() || fused[i].is_nan() && x.is_nan();
            assert!(is_one(once) || is_one(twice), "{name}: mul_add in lane {i}: {}", fused[i]);
            match (a[i].is_nan(), b[i].is_nan()) {
                (false, false) => assert_eq!(max[i], a[i].max(b[i]), "{name}: max in lane {i}"),
                (true, false) => assert!(max[i] == b[i] || max[i].is_nan(), "{name}: max in lane {i}"),
                (_, true) => assert!(max[i].is_nan(), "{name}: max in lane {i}"),
            }
        }
        // Equality is of bits: a comparison with another operation fails.
        let differs = |found: L::V, expected: L::V| array(lanes, found) != array(lanes, expected);
        assert!(differs(lanes.add(va, vb), lanes.sub(va, vb)) && differs(lanes.max(va, vb), lanes.max(vb, vc)));

        for n in -126..=127 {
            let bits = lanes.splat((3 << 22) as f32 + (127 + n) as f32);
            same("bits_to_exponent", lanes.bits_to_exponent(bits), &|_| (n as f32).exp2());
        }

        let four: [Vec<f32>; 4] = std::array::from_fn(|r| values(L::N, 10 + r as u64));
        // SAFETY: there are N values each.
        let sums = lanes.sum4(four.each_ref().map(|v| unsafe { lanes.load(v.as_ptr()) }));
        let of = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>();
        let bound =
            four.each_ref().map(|v| L::N as f64 * UNIT_ROUNDOFF * v.iter().map(|x| f64::from(x.abs())).sum::<f64>());
        let expected = four.each_ref().map(|v| of(v));
        compare(&format!("sum4, {name}"), &sums, &expected, &bound).unwrap();
        compare("one lane left out", &sums, &four.each_ref().map(|v| of(&v[1..])), &bound).unwrap_err();
        let [first, second, ..] = sums;
        compare("exchanged", &[second, first, sums[2], sums[3]], &expected, &bound).unwrap_err();

        // A store writes its lanes and nothing past them.
        let mut room = vec![-1.0; L::N + 2];
        // SAFETY: there is room for N values from 1 on.
        unsafe { lanes.store(room.as_mut_ptr().add(1), lanes.splat(2.0)) };
        assert!(room[0] == -1.0 && room[L::N + 1] == -1.0 && room[1..=L::N].iter().all(|&x| x == 2.0), "{name}");

        let floats = values(64, 4);
        loads(lanes, name, &floats, |x| x);
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|x| x.is_finite()).collect();
        loads(lanes, name, &halves, f16::to_f32);
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        loads(lanes, name, &bytes, f32::from);
    }
}

/// Loads of all values, N at a time, and of the first few of the last ones.
#[inline(always)]
fn loads<L: Lanes, T: Element + std::fmt::Debug>(lanes: L, name: &str, values: &[T], to_f32: impl Fn(T) -> f32) {
    let bits = |x: f32| x.to_bits();
    for values in values.chunks_exact(L::N) {
        // SAFETY: there are N values.
        let found = array(lanes, unsafe { T::load(lanes, values.as_ptr()) });
        for (&found, &value) in found.iter().zip(values) {
            assert_eq!(bits(found), bits(to_f32(value)), "{name}: {value:?}");
        }
    }
    for count in 0..=L::N {
        // An allocation of that size, so that a tool can see whether more is read.
        let first: Box<[T]> = values[values.len() - count..].into();
        // SAFETY: there are `count` values.
        let found = array(lanes, unsafe { T::load_first(lanes, first.as_ptr(), count) });
        for lane in 0..L::N {
            let expected = first.get(lane).map_or(0.0, |&value| to_f32(value));
            assert_eq!(bits(found[lane]), bits(expected), "{name}: the first {count}, lane {lane}");
        }
    }
}

#[test]
fn operations_are_those_of_plain_code() {
    for instructions in Instructions::all() {
        instructions.run(Operations(instructions.name()));
    }
}

#[test]
fn logits_of_a_row_are_those_of_the_reference() {
    for d in [1, 2, 3, 4, 5, 7, 8, 13, 31, 64, 101] {
        for m in [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 64, 67, 101, 128, 131, 1009] {
            let shape = Shape { n_features: d, n_classes: m, n_heads: 1 };
            let parameters = Parameters { shape, values: values(shape.n_parameters(), d as u64) };
            let sample = values(d, m as u64);
            let (x, w) = (f64s(&sample), f64s(&parameters.values));
            let (expected, bound) = (logits(&x, &w, shape), logits_bound(&x, &w, shape));
            let mut found = vec![f32::NAN; m];
            for instructions in Instructions::all() {
                found.fill(f32::NAN);
                let (parameters, sample, logits) = (&parameters.values[..], &sample[..], &mut found[..]);
                instructions.run(RowKernel { parameters, sample, logits });
                compare(&format!("{d} × {m}, {}", instructions.name()), &found, &expected, &bound).unwrap();
            }
            let best = found.clone();
            logits_of_row(&parameters, &sample, &mut found);
            assert_eq!(found, best, "the best is the last");
            // One weight, one of the intercept: each is noticed.
            for index in [(d / 2) * m + m / 2, d * m + m - 1] {
                let mut other = w.clone();
                other[index] += 0.1;
                compare("planted", &found, &logits(&x, &other, shape), &bound).unwrap_err();
            }
        }
    }
}

const fn shape(n_features: usize, n_classes: usize, n_heads: usize) -> Shape {
    Shape { n_features, n_classes, n_heads }
}

/// Shapes, samples, batch sizes: one pass with several parts, with an update by several threads, with most parts; two
/// products with several groups, with more samples than the depth of a product, with heads.
const LARGE: [(Shape, usize, usize); 6] = [
    (shape(200, 10, 1), 1501, 700),
    (shape(1501, 4, 2), 2110, 2100),
    (shape(33, 4, 1), 4099, 4099),
    (shape(100, 200, 1), 601, 300),
    (shape(31, 101, 1), 2200, 2150),
    (shape(65, 30, 7), 331, 129),
];

struct Case {
    shape: Shape,
    batch_size: usize,
    x: Vec<f32>,
    targets: Targets<'static>,
    y: Vec<f64>,
    start: Parameters,
    heads: Vec<Head>,
    plan: Plan,
}

/// Parameters, losses and logits.
type Trained = (Vec<f32>, Vec<f64>, Vec<f32>);

impl Case {
    fn new((shape, n, batch_size): (Shape, usize, usize), soft: bool) -> Self {
        let q = shape.n_classes;
        let classes = (0..n).map(|i| ((i * 7 + i / 3) % q) as u32);
        let one_hot = classes.clone().flat_map(|class| (0..q as u32).map(move |j| f32::from(u8::from(j == class))));
        // Soft: three quarters of the class, and one of all.
        let y: Vec<f32> = one_hot.map(|y| if soft { 0.75 * y + 0.25 / q as f32 } else { y }).collect();
        // Logits of about 1: the error bounds grow with the sum of their terms.
        let small = 4.0 / shape.n_features as f32;
        Self {
            shape,
            batch_size,
            x: values(n * shape.n_features, 5),
            y: f64s(&y),
            targets: if soft { Targets::Distributions(y.into()) } else { Targets::Classes(classes.collect()) },
            start: Parameters {
                shape,
                values: values(shape.n_parameters(), 6).into_iter().map(|w| small * w).collect(),
            },
            heads: (0..shape.n_heads)
                .map(|head| Head { learning_rate: 0.5 * small, momentum: 0.9, nesterov: head % 2 == 0, l2: 1e-3 })
                .collect(),
            plan: Plan::new(std::slice::from_ref(&(0..n)), batch_size, 9, 0),
        }
    }

    fn train(&self, cpu: &Cpu, plan: &Plan) -> Trained {
        let features = Features::new(&self.x, self.x.len() / self.shape.n_features, self.shape.n_features).unwrap();
        let mut session = cpu.session(&features, 1.0, Some(&self.targets)).unwrap();
        let mut stepper = session.stepper(&self.start, &self.heads, self.batch_size).unwrap();
        let losses = stepper.run(plan, &vec![1.0; plan.batches.len()]).unwrap();
        let parameters = stepper.parameters().unwrap();
        drop(stepper);
        let mut logits = Vec::new();
        session
            .logits(&parameters, &mut |_, block| {
                logits.extend_from_slice(block);
                Ok(())
            })
            .unwrap();
        (parameters.values, losses, logits)
    }

    /// The plan in f64.
    fn reference(&self) -> Steps {
        let mut steps = Steps::new(&self.start);
        let (x, (d, q)) = (f64s(&self.x), (self.shape.n_features, self.shape.n_classes));
        for batch in &self.plan.batches {
            let rows = &self.plan.order[batch.start..][..batch.len];
            let pick = |values: &[f64], width: usize| -> Vec<f64> {
                rows.iter().flat_map(|&row| &values[row as usize * width..][..width]).copied().collect()
            };
            steps.step(&pick(&x, d), &pick(&self.y, q), &self.heads, 1.0);
        }
        steps
    }
}

fn compare_trained(what: &str, found: &Trained, expected: &Steps) -> Result<(), String> {
    compare(what, &found.0, &expected.parameters, &expected.parameters_bound)?;
    let losses: Vec<f32> = found.1.iter().map(|&loss| loss as f32).collect();
    compare(what, &losses, &expected.losses, &expected.losses_bound)
}

#[test]
fn large_batches_are_those_of_the_reference() {
    for (index, sizes) in LARGE.into_iter().enumerate() {
        let mut case = Case::new(sizes, index % 2 == 1);
        let expected = case.reference();
        for cpu in Cpu::all() {
            let what = format!("{sizes:?}, {}", cpu.info().driver);
            let mut found = case.train(&cpu, &case.plan);
            compare_trained(&what, &found, &expected).unwrap();
            // One sample that is another's copy, one weight, one loss: each is noticed.
            let mut other = case.plan.clone();
            other.order[1] = other.order[0];
            compare_trained("a sample twice", &case.train(&cpu, &other), &expected).unwrap_err();
            found.0[3] += 0.01;
            compare_trained("a weight", &found, &expected).unwrap_err();
            found.0[3] -= 0.01;
            found.1[0] *= 1.01;
            compare_trained("a loss", &found, &expected).unwrap_err();
        }
        case.heads[0].learning_rate *= 1.05;
        let found = case.train(&Cpu::new(), &case.plan);
        compare_trained("another learning rate", &found, &expected).unwrap_err();
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for (index, sizes) in LARGE.into_iter().enumerate() {
        let case = Case::new(sizes, index % 2 == 0);
        for cpu in Cpu::all() {
            let with = |n_threads: usize, plan: &Plan| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
                pool.install(|| case.train(&cpu, plan))
            };
            let one = with(1, &case.plan);
            for n_threads in [2, 3] {
                assert!(with(n_threads, &case.plan) == one, "{sizes:?}, {}, {n_threads}", cpu.info().driver);
            }
            // Another order of the sums gives other bits, and the comparison sees them.
            let mut other = case.plan.clone();
            other.order[..case.batch_size].reverse();
            assert!(with(1, &other) != one, "{sizes:?}, {}", cpu.info().driver);
        }
    }
}

/// A narrow and a wide shape.
const SHAPES: [Shape; 2] = [shape(5, 3, 1), shape(5, 50, 3)];

#[test]
fn what_is_not_finite_is_seen_in_the_loss() {
    for shape in SHAPES {
        for cpu in Cpu::all() {
            let mut case = Case::new((shape, 40, 40), false);
            assert!(case.train(&cpu, &case.plan).1[0].is_finite());
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                // The weights of the first, a middle and the last class, the intercept of the last.
                for index in [0, 1, shape.n_classes - 1, shape.n_features * shape.n_outputs() + shape.n_classes - 1] {
                    let good = std::mem::replace(&mut case.start.values[index], bad);
                    let loss = case.train(&cpu, &case.plan).1[0];
                    assert!(!loss.is_finite(), "{shape:?}, {}: {bad} at {index}: {loss}", cpu.info().driver);
                    case.start.values[index] = good;
                }
            }
        }
    }
}

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

#[test]
fn a_plan_that_does_not_suit_is_an_error() {
    const N: usize = 40;
    for shape in SHAPES {
        let case = Case::new((shape, N, 16), false);
        let features = Features::new(&case.x, N, shape.n_features).unwrap();
        let cpu = Cpu::new();
        let mut session = cpu.session(&features, 1.0, Some(&case.targets)).unwrap();
        let mut stepper = session.stepper(&case.start, &case.heads, case.batch_size).unwrap();
        let mut run = |order: &[u32], (chunk, start, len): (usize, usize, usize), rates: &[f32]| {
            stepper.run(&Plan { order: order.to_vec(), batches: vec![Batch { chunk, start, len }] }, rates)
        };
        let order: Vec<u32> = (0..N as u32).collect();
        assert!(run(&order, (0, 0, 16), &[1.0]).is_ok() && run(&order, (0, 24, 16), &[1.0]).is_ok());
        assert_shape_error!(run(&order, (0, 0, 16), &[]), "learning rates");
        assert_shape_error!(run(&order, (0, 0, 16), &[1.0, 1.0]), "learning rates");
        assert_shape_error!(run(&order, (1, 0, 16), &[1.0]), "chunks");
        assert_shape_error!(run(&order, (usize::MAX, 0, 16), &[1.0]), "chunks");
        assert_shape_error!(run(&order, (0, 0, 0), &[1.0]), "samples of a batch");
        assert_shape_error!(run(&order, (0, 0, 17), &[1.0]), "samples of a batch");
        assert_shape_error!(run(&order, (0, 0, usize::MAX), &[1.0]), "samples of a batch");
        assert_shape_error!(run(&order, (0, 25, 16), &[1.0]), "samples of the plan");
        assert_shape_error!(run(&order, (0, usize::MAX, 16), &[1.0]), "samples of the plan");
        assert_shape_error!(run(&[], (0, 0, 1), &[1.0]), "samples of the plan");
        assert_shape_error!(run(&[1, N as u32], (0, 0, 1), &[1.0]), "rows of the feature matrix");
        assert_shape_error!(run(&[u32::MAX], (0, 0, 1), &[1.0]), "rows of the feature matrix");
        assert_eq!(stepper.run(&Plan { order, batches: vec![] }, &[]).unwrap(), vec![0.0; shape.n_heads]);
    }
}

#[test]
fn a_stepper_that_does_not_suit_is_an_error() {
    const N: usize = 40;
    for shape in SHAPES {
        let case = Case::new((shape, N, 16), false);
        let features = Features::new(&case.x, N, shape.n_features).unwrap();
        let cpu = Cpu::new();
        let stepper = |targets: Targets, start: &Parameters, heads: &[Head], batch_size: usize| {
            let mut session = cpu.session(&features, 1.0, Some(&targets)).unwrap();
            session.stepper(start, heads, batch_size).map(drop)
        };
        let (start, heads, q) = (&case.start, &case.heads[..], shape.n_classes);
        let targets = || case.targets.clone();
        // A batch size of nothing is one of 1, and one past the samples is all of them.
        for batch_size in [0, 1, 16, N, usize::MAX] {
            stepper(targets(), start, heads, batch_size).unwrap();
        }
        assert_shape_error!(stepper(targets(), start, &[], 16), "heads");
        assert_shape_error!(stepper(targets(), start, &[heads, heads].concat(), 16), "heads");
        let classes = |n: usize, class: usize| Targets::Classes(vec![class as u32; n].into());
        stepper(classes(N, q - 1), start, heads, 16).unwrap();
        assert_shape_error!(stepper(classes(N, q), start, heads, 16), "classes of the labels");
        assert_shape_error!(stepper(classes(N, u32::MAX as usize), start, heads, 16), "classes of the labels");
        assert_shape_error!(stepper(classes(N - 1, 0), start, heads, 16), "labels");
        assert_shape_error!(stepper(classes(0, 0), start, heads, 16), "labels");
        let soft = |n: usize| Targets::Distributions(vec![0.5; n].into());
        stepper(soft(N * q), start, heads, 16).unwrap();
        assert_shape_error!(stepper(soft(N * q - 1), start, heads, 16), "values of the soft labels");
        assert_shape_error!(stepper(soft(0), start, heads, 16), "values of the soft labels");

        let mut short = start.clone();
        short.values.pop();
        assert_shape_error!(stepper(targets(), &short, heads, 16), "values of the parameters");
        for (n_classes, n_heads) in [(0, 1), (1, 0), (usize::MAX, 1), (1, usize::MAX), (usize::MAX, usize::MAX)] {
            let mut other = start.clone();
            other.shape = Shape { n_features: shape.n_features, n_classes, n_heads };
            assert_shape_error!(stepper(targets(), &other, heads, 16), "values of the parameters");
            let mut session = cpu.session(&features, 1.0, None).unwrap();
            assert_shape_error!(session.logits(&other, &mut |_, _| Ok(())), "values of the parameters");
        }
    }
}

#[test]
fn an_error_of_the_sink_ends_the_logits() {
    let case = Case::new((SHAPES[0], 40, 40), false);
    let features = Features::new(&case.x, 40, case.shape.n_features).unwrap();
    let cpu = Cpu::new();
    let mut session = cpu.session(&features, 1.0, None).unwrap();
    let full = || Error::OutOfMemory { device: String::new(), what: "the sink".to_owned(), bytes: 1 };
    let error = session.logits(&case.start, &mut |_, _| Err(full())).unwrap_err();
    assert_eq!(error.to_string(), full().to_string());
}

#[test]
fn what_does_not_fit_into_memory_is_an_error() {
    let is_memory = |error: &Error, of: &str| matches!(error, Error::OutOfMemory { what, .. } if what == of);
    assert_eq!(Buffer::zeros(33, 3, "little").unwrap().len(), 112);
    // Past what can be addressed, past usize, past what any machine has.
    for (rows, columns) in [(usize::MAX, 1), (usize::MAX, usize::MAX), (1 << 62, 4), (1 << 60, 1), (1 << 26, 1 << 20)] {
        let error = Buffer::zeros(rows, columns, "much").unwrap_err();
        assert!(is_memory(&error, "much"), "{error}");
    }
    let case = Case::new((SHAPES[1], 40, 40), false);
    let x = Matrix { x: &case.x[..], d: case.shape.n_features };
    let data = Data { x, scale: 1.0, targets: &case.targets };
    assert!(Wide::new(&data, case.shape, 40).is_ok());
    for batch_size in [1 << 40, 1 << 58] {
        let error = Wide::new(&data, case.shape, batch_size).map(drop).unwrap_err();
        assert!(is_memory(&error, "the logits of a batch"), "{error}");
    }
}
