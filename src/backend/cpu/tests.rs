//! What the suite over all backends does not see: the single operations of each instruction set, numbers of threads, and
//! memory that is not there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use half::f16;

use super::lanes::{Element, Instructions, Kernel, Lanes};
use super::row::{RowKernel, SoftmaxRowKernel, logits_of_row};
use super::short::Short;
use super::softmax::exp;
use super::stepper::{Data, Step, Tiled};
use super::team;
use super::tiles::{Buffer, Matrix, TILE, Weights};
use super::wide::Wide;
use super::{Backend, Cpu, Parameters, moments, second_moments};
use crate::backend::tests::Case;
use crate::backend::{Shape, StepFactors, Supervision};
use crate::batch::Shuffle;
use crate::data::{Dtype, Features, Targets, Values};
use crate::error::Error;
use crate::reference::{UNIT_ROUNDOFF, compare, logits, logits_bound, softmax, softmax_bound};

/// Numbers of both signs between ¼ and 1 in size, so that none is lost in an error bound.
pub(super) fn values(n: usize, seed: u64) -> Vec<f32> {
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
    let rows: Vec<_> = values.chunks_exact(L::N + 1).take(L::N).collect();
    if rows.len() == L::N {
        let pointers: Vec<_> = rows.iter().map(|row| row.as_ptr()).collect();
        let mut found = vec![0.0; (L::N - 1) * 33 + L::N];
        // SAFETY: N rows of N + 1 values, N places of N values.
        unsafe { lanes.transpose(&pointers, 1, found.as_mut_ptr(), 33) };
        for (i, row) in rows.iter().enumerate() {
            for k in 0..L::N {
                assert_eq!(bits(found[k * 33 + i]), bits(to_f32(row[1 + k])), "{name}: row {i}, column {k}");
            }
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

#[test]
fn probabilities_of_a_row_are_those_of_the_reference() {
    for q in [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 77, 1009] {
        let shape = Shape { n_features: 1, n_classes: q, n_heads: 1 };
        for (size, shift) in [(1.0, 0.0), (30.0, -50.0), (1e4, 0.0)] {
            let o: Vec<f32> = values(q, q as u64).iter().map(|o| size * o + shift).collect();
            let (exact, nothing) = (f64s(&o), vec![0.0; q]);
            let expected = softmax(&exact, &nothing, 1.0, None, shape).residual;
            let bound = softmax_bound(&exact, &nothing, &nothing, 1.0, None, shape).residual;
            for instructions in Instructions::all() {
                let mut found = o.clone();
                instructions.run(SoftmaxRowKernel { row: &mut found, divides: true });
                let what = format!("{q} classes, ± {size}, {}", instructions.name());
                compare(&what, &found, &expected, &bound).unwrap();
                assert!((found.iter().map(|&p| f64::from(p)).sum::<f64>() - 1.0).abs() < 1e-6, "{what}");
                // One class more likely than it is.
                found[q / 2] += 1e-3;
                compare("planted", &found, &expected, &bound).unwrap_err();
            }
        }
    }
}

/// One pass with several parts, an update by several threads, most parts; two products with several groups, with more
/// samples than the depth of a product, with heads; portions of the features, four and two.
const LARGE: [(usize, usize, usize, usize, usize); 8] = [
    (1501, 200, 10, 1, 700),
    (2110, 1501, 4, 2, 2100),
    (4099, 33, 4, 1, 4099),
    (601, 100, 200, 1, 300),
    (2200, 31, 101, 1, 2150),
    (331, 65, 30, 7, 129),
    (330, 1600, 10, 1, 70),
    (203, 769, 4, 3, 100),
];

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for (index, sizes) in LARGE.into_iter().enumerate() {
        for (dtype, cpu) in
            [Dtype::F32, Dtype::U8].into_iter().flat_map(|dtype| Cpu::all().into_iter().map(move |cpu| (dtype, cpu)))
        {
            let case = Case::new(sizes, dtype, index % 2 == 0);
            let with = |n_threads: usize, seed: u64| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
                let trained = pool.install(|| case.train_in_order(&cpu, seed));
                (trained.parameters, trained.losses)
            };
            let one = with(1, 3);
            for n_threads in [2, 3] {
                assert!(with(n_threads, 3) == one, "{sizes:?}, {}, {n_threads}", cpu.info().driver);
            }
            // Another order of the sums gives other bits, and the comparison sees them.
            assert!(with(1, 4) != one, "{sizes:?}, {}", cpu.info().driver);
        }
    }
}

#[test]
fn each_task_of_each_phase_is_done_once() {
    for n_threads in 1..=4 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        pool.install(|| {
            team::lead(n_threads, |team| {
                let (mut scratch, mut tasks) = (vec![0; n_threads], [0; 5]);
                for phase in 1..=2000 {
                    let work = |done: &mut usize, task: &mut usize| {
                        *done += 1;
                        *task += 1;
                    };
                    match phase % 2 {
                        0 => team.each(&mut scratch, tasks.iter_mut(), work),
                        _ => team.each_from_both_ends(&mut scratch, tasks.iter_mut(), work),
                    }
                    assert_eq!(tasks, [phase; 5]);
                    assert_eq!(scratch.iter().sum::<usize>(), 5 * phase);
                }
            });
        });
    }
}

/// Waits until two threads are at a task at the same time.
fn meet(at_work: &AtomicUsize) {
    at_work.fetch_add(1, Ordering::Relaxed);
    let begin = Instant::now();
    while at_work.load(Ordering::Relaxed) < 2 {
        assert!(begin.elapsed() < Duration::from_secs(30), "no helper came");
        thread::yield_now();
    }
}

#[test]
fn a_helper_comes_again_after_a_pause_and_after_its_turn() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        team::lead(2, |team| {
            for pause in [0, 1, 20, 0, 0] {
                thread::sleep(Duration::from_millis(pause));
                let at_work = AtomicUsize::new(0);
                team.each(&mut [(); 2], 0..2, |(), _| meet(&at_work));
            }
        });
    });
}

#[test]
fn teams_leave_the_pool_to_others() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let is_done = AtomicBool::new(false);
    pool.in_place_scope(|scope| {
        scope.spawn(|_| {
            team::lead(2, |team| {
                let begin = Instant::now();
                while !is_done.load(Ordering::Relaxed) {
                    assert!(begin.elapsed() < Duration::from_secs(30), "nobody else had a turn");
                    team.each(&mut [(); 2], 0..2, |(), _| thread::yield_now());
                }
            });
        });
        // Another team, and another job.
        scope.spawn(|_| team::lead(2, |team| team.each(&mut [(); 2], 0..2, |(), _| ())));
        scope.spawn(|_| is_done.store(true, Ordering::Relaxed));
    });
}

#[test]
fn a_panic_of_a_helper_is_that_of_the_call() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let done = AtomicUsize::new(0);
    let result = catch_unwind(AssertUnwindSafe(|| {
        pool.install(|| {
            let leader = thread::current().id();
            team::lead(2, |team| {
                for _ in 0..3 {
                    let at_work = AtomicUsize::new(0);
                    team.each(&mut [(); 2], 0..2, |(), _| {
                        meet(&at_work);
                        assert!(thread::current().id() == leader, "of a helper");
                    });
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
    }));
    assert!(result.is_err());
    // It ends with the phase.
    assert_eq!(done.load(Ordering::Relaxed), 0);
    // The pool goes on.
    pool.install(|| team::lead(2, |team| team.each(&mut [(); 2], 0..10, |(), _| ())));
}

#[test]
#[should_panic(expected = "of the leader")]
fn a_panic_of_the_leader_is_that_of_the_call() {
    team::lead(2, |team| team.each(&mut [(); 1], 0..10, |(), task| assert!(task != 5, "of the leader")));
}

#[test]
fn what_is_not_finite_is_seen_in_the_loss() {
    for (n_classes, n_heads) in [(3, 1), (50, 3)] {
        for cpu in Cpu::all() {
            let mut case = Case::new((40, 5, n_classes, n_heads, 40), Dtype::F32, false);
            assert!(case.train(&cpu).losses[0][0].is_finite());
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                // The weights of the first, a middle and the last class, the intercept of the last.
                for index in [0, 1, n_classes - 1, 5 * n_classes * n_heads + n_classes - 1] {
                    let good = std::mem::replace(&mut case.start.values[index], bad);
                    let loss = case.train(&cpu).losses[0][0];
                    assert!(!loss.is_finite(), "{n_classes}, {}: {bad} at {index}: {loss}", cpu.info().driver);
                    case.start.values[index] = good;
                }
            }
        }
    }
}

/// Bytes whose weights are too large for digits train as the same features in single precision, also where only the weights of a
/// part of the features are.
#[test]
fn bytes_of_large_weights_train_as_numbers() {
    for sizes in [(330, 200, 10, 1, 130), (330, 800, 10, 1, 130)] {
        let mut bytes = Case::new(sizes, Dtype::U8, false);
        let (n, d, m, ..) = sizes;
        let Values::U8(x) = bytes.features.values() else { panic!("not u8") };
        // The large ones are those of a feature that is always 0.
        let x: Vec<u8> = x.iter().enumerate().map(|(i, &x)| if i % d == 0 { 0 } else { x }).collect();
        let mut floats = bytes.clone();
        floats.features = Features::new(x.iter().map(|&x| f32::from(x)).collect::<Vec<_>>(), n, d).unwrap();
        bytes.features = Features::new(x, n, d).unwrap();
        for case in [&mut bytes, &mut floats] {
            case.start.values[..m].fill(1e6);
        }
        for cpu in Cpu::all() {
            let changes = |case: &Case, seed: u64| -> Vec<f32> {
                let trained = case.train_in_order(&cpu, seed).parameters;
                trained.iter().zip(&case.start.values).map(|(after, before)| after - before).collect()
            };
            let expected = changes(&floats, 3);
            let size = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let off =
                |found: Vec<f32>| found.iter().zip(&expected).map(|(a, b)| (a - b).abs() / size).fold(0.0, f32::max);
            let (found, other) = (off(changes(&bytes, 3)), off(changes(&bytes, 4)));
            assert!(found < 1e-4 && other > 1e-2, "{sizes:?}, {}: {found:e} {other:e}", cpu.info().driver);
        }
    }
}

/// Weights past the features stay 0, whatever a thread has summed before.
#[test]
fn weights_past_the_features_stay_zero() {
    let (d, m) = (840, 7);
    for dtype in [Dtype::F32, Dtype::U8] {
        let case = Case::new((140, d, m, 1, 70), dtype, false);
        let rows: Vec<u32> = (0..140).collect();
        for instructions in Instructions::all() {
            let mut state = Tiled {
                weights: Weights::new(instructions, &case.start).unwrap(),
                n_moments: 1,
                moments: Buffer::zeros(d.next_multiple_of(TILE), m, "moments").unwrap(),
                bias_moments: vec![0.0; m],
                heads: case.heads.clone(),
                losses: vec![0.0],
            };
            let mut steps = |rows: &[u32], ahead: &[u32]| {
                let factors = StepFactors::new(1.0, &case.heads, 1);
                let step = Step { rows, ahead, factors };
                match case.features.values() {
                    Values::F32(x) => short_step(instructions, &case, x, &mut state, step),
                    Values::U8(x) => short_step(instructions, &case, x, &mut state, step),
                    _ => panic!("another type"),
                }
            };
            steps(&rows[..70], &rows[70..]);
            steps(&rows[70..], &[]);
            let last = &state.weights.w[d / TILE * TILE * m..][..m * TILE];
            for (j, values) in last.chunks_exact(TILE).enumerate() {
                let (of_features, past) = values.split_at(d % TILE);
                assert!(past.iter().all(|&w| w == 0.0), "{}, {dtype}, output {j}: {past:?}", instructions.name());
                assert!(of_features.iter().all(|&w| w != 0.0));
            }
        }
    }
}

/// A step by one thread, which has all portions one after the other.
fn short_step<T: Element>(instructions: Instructions, case: &Case, x: &[T], state: &mut Tiled, step: Step) {
    let x = Matrix { x, d: case.shape.n_features };
    let data = Data { x, scale: 1.0, targets: &case.targets, weights: None };
    let mut short = Short::new(instructions, &data, case.shape, case.batch_size).unwrap();
    team::lead(1, |team| short.step(team, instructions, &data, state, step));
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
    let case = Case::new((40, 5, 50, 3, 40), Dtype::F32, false);
    let Values::F32(x) = case.features.values() else { panic!("not f32") };
    let x = Matrix { x: &x[..], d: case.shape.n_features };
    let data = Data { x, scale: 1.0, targets: &case.targets, weights: None };
    assert!(Wide::new(&data, case.shape, 40).is_ok());
    for batch_size in [1 << 40, 1 << 58] {
        let error = Wide::new(&data, case.shape, batch_size).map(drop).unwrap_err();
        assert!(is_memory(&error, "the logits of a batch"), "{error}");
    }
}

/// Means and second moments against plain sums, also where the mean is 10⁶ times the deviation.
#[test]
fn moments_are_those_of_plain_sums() {
    for d in [1, 15, 16, 17, 33, 40] {
        for n in [1, 2, 127, 129, 1000, 2500] {
            for (dtype, offset) in [(Dtype::F32, 0.0), (Dtype::F32, 1e6), (Dtype::F16, 100.0), (Dtype::U8, 128.0)] {
                let floats = values(n * d, (n + d) as u64).into_iter().map(|x| offset + 16.0 * x);
                let values: Values = match dtype {
                    Dtype::F32 => floats.collect::<Vec<_>>().into(),
                    Dtype::F16 => floats.map(f16::from_f32).collect::<Vec<_>>().into(),
                    Dtype::U8 => floats.map(|x| x as u8).collect::<Vec<_>>().into(),
                };
                let (features, scale) = (Features::new(values, n, d).unwrap(), 0.3f32);
                let mut row = vec![0.0; d];
                let rows = (0..n).map(|i| {
                    features.read_row(i, &mut row);
                    row.iter().map(|&x| f64::from(x) * f64::from(scale)).collect::<Vec<_>>()
                });
                let rows: Vec<Vec<f64>> = rows.collect();
                for is_weighted in [false, true] {
                    let weights: Vec<f32> = (0..n).map(|i| [1.0, 0.0, 2.5, 0.5][i % 4]).collect();
                    let s = |i: usize| if is_weighted { f64::from(weights[i]) } else { 1.0 };
                    let total: f64 = (0..n).map(s).sum();
                    let what = format!("{n} × {d}, {dtype}, {offset}, weights {is_weighted}");
                    let found = moments(&features, scale, is_weighted.then_some(&weights[..])).unwrap();
                    let mean: Vec<f64> =
                        (0..d).map(|k| (0..n).map(|i| s(i) * rows[i][k]).sum::<f64>() / total).collect();
                    let variance = |mean: &[f64], k: usize| {
                        (0..n).map(|i| s(i) * (rows[i][k] - mean[k]).powi(2)).sum::<f64>() / total
                    };
                    for k in 0..d {
                        let size = f64::from(offset) + 16.0;
                        assert!((found.mean[k] - mean[k]).abs() <= 1e-13 * size, "{what}");
                        // From a mean that is a little off, a variance that is larger by the square of that.
                        let expected = variance(&mean, k);
                        assert!((found.variance[k] - expected).abs() <= 1e-12 * expected + 1e-18 * size, "{what}");
                    }
                    let of_rows: Vec<f64> = (0..n).map(s).collect();
                    let second =
                        second_moments(&features, scale, &found.mean, &of_rows, &(0..d).collect::<Vec<_>>()).unwrap();
                    for (index, &value) in second.iter().enumerate() {
                        let (j, k) = (index / d, index % d);
                        let terms = (0..n).map(|i| s(i) * (rows[i][j] - found.mean[j]) * (rows[i][k] - found.mean[k]));
                        let (expected, size) = terms.fold((0.0, 0.0), |(sum, size), x: f64| (sum + x, size + x.abs()));
                        assert!((value - expected).abs() <= 1e-13 * size, "{what}: [{j}, {k}] {value} {expected}");
                    }
                }
            }
        }
    }
}

/// Parts of a draft that have more samples than are summed in single precision at once, and samples that are left out.
#[test]
fn drafts_of_long_parts_are_nearly_those_in_double_precision() {
    let (n, d, q) = (300_000, 3, 7);
    let shape = Shape { n_features: d, n_classes: q, n_heads: 1 };
    let features = Features::new(values(n * d, 1), n, d).unwrap();
    let targets = Targets::Classes((0..n as u32).map(|i| i % q as u32).collect());
    let weights: Vec<f32> = (0..n).map(|i| if i < 40_000 { 0.0 } else { 1.0 + (i % 2) as f32 }).collect();
    let parameters = f64s(&values(shape.n_parameters(), 2));
    for cpu in Cpu::all() {
        let supervision = Supervision { targets: &targets, weights: Some(&weights) };
        let mut session = cpu.session(&features, 1.0, Some(supervision)).unwrap();
        let mut loss = session.loss(shape).unwrap();
        let exact = loss.start(&parameters).unwrap();
        loss.set_draft(true);
        let draft = loss.start(&parameters).unwrap();
        let size = exact.gradient.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
        let name = &cpu.info().driver;
        for (draft, exact) in draft.gradient.iter().zip(&exact.gradient) {
            assert!((draft - exact).abs() < 1e-4 * size, "{name}: {draft} {exact}");
        }
        assert!(draft.gradient != exact.gradient, "{name}");
    }
}
