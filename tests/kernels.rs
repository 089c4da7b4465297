//! Each kernel alone against its twin in f64, on every adapter, with wgpu's run-time checks and without.
#![cfg(feature = "gpu")]

mod common;

use common::{Random, gpus};
use half::f16;
use softreg::backend::gpu::{Gpu, Matrices, MatrixUnits, Options, Single, Tile};
use softreg::backend::{Backend, DeviceKind, Head, Parameters, Rule, Shape, Supervision};
use softreg::batch::{Permutation, Shuffle};
use softreg::data::{Dtype, Features, Targets, Values};
use softreg::reference;

/// (n_samples, n_features, n_classes, n_heads): 1; tiles ± 1, which are 16 deep, 16 to 128 wide and 64 or 128 high; primes;
/// several heads; each number of threads for a sample; few outputs whose W is no uniform buffer.
const SHAPES: [(usize, usize, usize, usize); 20] = [
    (1, 1, 2, 1),
    (2, 3, 3, 1),
    (3, 4, 4, 2),
    (63, 15, 15, 1),
    (64, 16, 16, 1),
    (65, 17, 17, 1),
    (31, 63, 31, 1),
    (32, 64, 32, 1),
    (33, 65, 33, 1),
    (127, 5, 63, 1),
    (128, 8, 8, 8),
    (129, 13, 13, 5),
    (97, 101, 7, 3),
    (17, 784, 10, 1),
    (9, 260, 64, 1),
    (40, 31, 257, 1),
    (7, 29, 1009, 2),
    (521, 37, 530, 1),
    (70_001, 3, 2, 1),
    (33, 9, 200, 1),
];

/// Sizes with more workgroups than a dispatch has in a dimension, for each kernel: those of 128 rows of X, a sample of a
/// head, 4 samples, 16 features, 128 features, 64 parameters, 256 logits, 64 blocks of a gradient, 256 positions.
const MORE_WORKGROUPS_LOGITS: (usize, usize, usize, usize) = (65_535 * 128 + 100, 1, 2, 1);
const MORE_WORKGROUPS_SOFTMAX: (usize, usize, usize, usize) = (70_001, 1, 2, 64);
const MORE_WORKGROUPS_NARROW_RESIDUAL: (usize, usize, usize, usize) = (65_535 * 4 + 10, 3, 2, 1);
const MORE_WORKGROUPS_NARROW_UPDATE: (usize, usize, usize, usize) = (2, 65_535 * 16 + 100, 2, 1);
const MORE_WORKGROUPS_GRADIENT: (usize, usize, usize, usize) = (2, 65_535 * 128 + 100, 2, 1);
const MORE_WORKGROUPS_UPDATE: (usize, usize, usize, usize) = (1, 4200, 1000, 1);
const MORE_WORKGROUPS_ADVANCE: (usize, usize, usize, usize) = (17_000, 1, 1000, 1);
const MORE_WORKGROUPS_REDUCE: (usize, usize, usize, usize) = (1, 4300, 1000, 1);
const MORE_WORKGROUPS_SHUFFLE: u32 = 65_535 * 256 + 10;

fn shape_of((_, n_features, n_classes, n_heads): (usize, usize, usize, usize)) -> Shape {
    Shape { n_features, n_classes, n_heads }
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// Both ways of compiling, on every adapter.
fn for_each_gpu(test: impl Fn(&Gpu)) {
    for checked_shaders in [false, true] {
        for gpu in gpus(Options { checked_shaders, ..Options::default() }) {
            eprintln!("on {}, {}", gpu.info().name, if checked_shaders { "checked" } else { "unchecked" });
            test(&gpu);
        }
    }
}

/// Features whose rows are of wildly different scale, and their values in f64.
fn features(random: &mut Random, n: usize, d: usize, dtype: Dtype) -> (Features<'static>, Vec<f64>) {
    let floats = random.values(n * d).into_iter().enumerate().map(|(i, x)| x * 10f32.powi((i / d % 9) as i32 - 4));
    let values: Values = match dtype {
        Dtype::F32 => floats.collect::<Vec<_>>().into(),
        Dtype::F16 => floats.map(f16::from_f32).collect::<Vec<_>>().into(),
        Dtype::U8 => (0..n * d).map(|_| random.next() as u8).collect::<Vec<_>>().into(),
        other => panic!("{other:?} is new"),
    };
    let exact = match &values {
        Values::F32(values) => f64s(values),
        Values::F16(values) => values.iter().map(|x| x.to_f64()).collect(),
        Values::U8(values) => values.iter().map(|&x| x.into()).collect(),
        other => panic!("{other:?} is new"),
    };
    (Features::new(values, n, d).unwrap(), exact)
}

/// The rows of `values` that `order` names.
fn pick(values: &[f64], width: usize, order: &[u32]) -> Vec<f64> {
    order.iter().flat_map(|&row| &values[row as usize * width..][..width]).copied().collect()
}

/// `n` of `n_rows` row numbers, in no order, some twice.
fn some_order(random: &mut Random, n: usize, n_rows: usize) -> Vec<u32> {
    (0..n).map(|_| random.below(n_rows) as u32).collect()
}

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::U8];

/// A single kernel's result against the reference; `plant` changes the kernel's source.
fn logits_error(
    gpu: &Gpu,
    case: (usize, usize, usize, usize),
    dtype: Dtype,
    tile: Option<Tile>,
    plant: Plant,
) -> Result<(), String> {
    let (n, d, ..) = case;
    let shape = shape_of(case);
    let mut random = Random::new(1);
    let (x, x_exact) = features(&mut random, n, d, dtype);
    let scale = 1.0 / 3.0;
    let parameters = Parameters { shape, values: random.values(shape.n_parameters()) };
    let order = some_order(&mut random, n / 2 + 1, n);
    for order in [None, Some(&order[..])] {
        let tile = tile.unwrap_or(Tile::choose(DeviceKind::SoftwareGpu, n, shape.n_outputs()));
        let mut single = Single::logits(gpu, &x, scale, &parameters, order, tile).unwrap();
        plant(&mut single.variant.source);
        single.run(1).unwrap();
        let x = order.map_or_else(|| x_exact.clone(), |order| pick(&x_exact, d, order));
        let x: Vec<f64> = x.iter().map(|x| x * f64::from(scale)).collect();
        let w = f64s(&parameters.values);
        let what = format!("logits {case:?} {dtype}");
        let expected = reference::logits(&x, &w, shape);
        reference::compare(&what, &single.results().unwrap()[0], &expected, &reference::logits_bound(&x, &w, shape))?;
    }
    Ok(())
}

/// Targets of `n` samples over q classes, integer and soft, with their Y.
fn some_targets(random: &mut Random, n: usize, q: usize) -> [(Targets<'static>, Vec<f64>); 2] {
    let classes: Vec<u32> = (0..n).map(|_| random.below(q) as u32).collect();
    let soft: Vec<f32> = (0..n)
        .flat_map(|_| {
            let mut row: Vec<f32> = random.values(q).iter().map(|y| y.abs()).collect();
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|y| *y /= sum);
            row
        })
        .collect();
    let one_hot =
        classes.iter().flat_map(|&class| (0..q).map(move |j| f64::from(u8::from(j == class as usize)))).collect();
    let y = f64s(&soft);
    [(Targets::Classes(classes.into()), one_hot), (Targets::Distributions(soft.into()), y)]
}

/// Weights of `n` samples, some of them 0, and the same in f64.
fn some_weights(random: &mut Random, n: usize) -> (Vec<f32>, Vec<f64>) {
    let weights: Vec<f32> = (0..n).map(|i| [3.0, 1.0, 0.0][i % 3] * (0.5 + random.value().abs())).collect();
    let exact = f64s(&weights);
    (weights, exact)
}

fn softmax_error(gpu: &Gpu, case: (usize, usize, usize, usize), range: f32, plant: Plant) -> Result<(), String> {
    let (n, _, q, h) = case;
    let shape = shape_of(case);
    let mut random = Random::new(2);
    let logits: Vec<f32> = random.values(n * h * q).iter().map(|o| o * range).collect();
    let order = some_order(&mut random, n, n + 3);
    let (weights, w) = some_weights(&mut random, n + 3);
    let [hard, soft] = some_targets(&mut random, n + 3, q);
    for ((targets, y), weighted) in [(&hard, false), (&hard, true), (&soft, false), (&soft, true)] {
        let supervision = Supervision { targets, weights: weighted.then_some(&weights) };
        let mut single = Single::softmax(gpu, shape, &logits, supervision, &order).unwrap();
        plant(&mut single.variant.source);
        single.run(1).unwrap();
        let results = single.results().unwrap();
        let (o, y, w) = (f64s(&logits), pick(y, q, &order), pick(&w, 1, &order));
        let (share, w) = (f64::from(1.0 / n as f32), weighted.then_some(&*w));
        let expected = reference::softmax(&o, &y, share, w, shape);
        let bound = reference::softmax_bound(&o, &vec![0.0; o.len()], &y, share, w, shape);
        let what = format!("softmax {case:?} ± {range}, weighted {weighted}");
        reference::compare(&what, &results[0], &expected.residual, &bound.residual)?;

        // Losses come as sums over groups of samples.
        let n_groups = results[1].len() / h;
        let group_size = (0..7).map(|power| 1 << power).find(|size| n.div_ceil(*size) == n_groups).unwrap();
        let by_group = |losses: &[f64]| -> Vec<f64> {
            let groups = losses.chunks(group_size * h);
            groups.flat_map(|group| (0..h).map(|head| group.iter().skip(head).step_by(h).sum())).collect()
        };
        let sums = by_group(&expected.losses);
        let rounding = group_size as f64 * reference::UNIT_ROUNDOFF;
        let bound: Vec<f64> = by_group(&bound.losses).iter().zip(&sums).map(|(b, sum)| b + rounding * sum).collect();
        reference::compare(&format!("losses of {what}"), &results[1], &sums, &bound)?;
    }
    Ok(())
}

/// A gradient from its parts, summed in f64; update.wgsl, which sums them on the device, has its own test.
fn sum_of_parts(parts: &[f32], shape: Shape) -> Vec<f32> {
    let mut sums = vec![0f64; shape.n_parameters()];
    for part in parts.chunks_exact(sums.len()) {
        for (sum, &value) in sums.iter_mut().zip(part) {
            *sum += f64::from(value);
        }
    }
    sums.iter().map(|&sum| sum as f32).collect()
}

fn gradient_error(
    gpu: &Gpu,
    case: (usize, usize, usize, usize),
    dtype: Dtype,
    tile: Option<Tile>,
    plant: Plant,
) -> Result<(), String> {
    let (n, d, ..) = case;
    let shape = shape_of(case);
    let mut random = Random::new(3);
    let (x, x_exact) = features(&mut random, n + 5, d, dtype);
    let scale = 0.7;
    let order = some_order(&mut random, n, n + 5);
    let tile = tile.unwrap_or(Tile::choose(DeviceKind::SoftwareGpu, d + 1, shape.n_outputs()));
    for order in [Some(&order[..]), None] {
        let residual = random.values(order.map_or(n + 5, <[u32]>::len) * shape.n_outputs());
        let mut single = Single::gradient(gpu, shape, &x, scale, &residual, order, tile).unwrap();
        plant(&mut single.variant.source);
        single.run(1).unwrap();
        let found = sum_of_parts(&single.results().unwrap()[0], shape);
        let x = order.map_or_else(|| x_exact.clone(), |order| pick(&x_exact, d, order));
        let x: Vec<f64> = x.iter().map(|x| x * f64::from(scale)).collect();
        let r = f64s(&residual);
        let bound = reference::gradient_bound(&x, &r, shape);
        let what = format!("gradient {case:?} {dtype}");
        reference::compare(&what, &found, &reference::gradient(&x, &r, shape), &bound)?;
    }
    Ok(())
}

/// Weights of samples that sum to 1; some count nothing.
fn some_sample_weights(random: &mut Random, n: usize) -> Vec<f32> {
    let weights: Vec<f32> = (0..n).map(|i| if i % 5 == 4 { 0.0 } else { random.value().abs() + 0.1 }).collect();
    let sum: f32 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// At as many points of a line as a kernel takes, or at one with the residual.
fn along_error(
    gpu: &Gpu,
    case: (usize, usize, usize, usize),
    range: f32,
    residual: bool,
    plant: Plant,
) -> Result<(), String> {
    let (n, _, q, h) = case;
    let shape = shape_of(case);
    let mut random = Random::new(10);
    let z: Vec<f32> = random.values(n * h * q).iter().map(|o| o * range).collect();
    let d: Vec<f32> = random.values(n * h * q).iter().map(|o| o * range.min(100.0)).collect();
    let sample_weights = some_sample_weights(&mut random, n);
    let n_points = if residual { 1 } else { 8 };
    let lengths: Vec<f32> = random.values(n_points * h);
    for (kind, (targets, y)) in some_targets(&mut random, n + 3, q).into_iter().enumerate() {
        // One round of a group or several.
        let group = if kind == 0 { 1 } else { 150 };
        let single = Single::along(gpu, shape, (&z, &d), &targets, 3, &sample_weights, &lengths, residual, group);
        let mut single = single.unwrap();
        plant(&mut single.variant.source);
        single.run(1).unwrap();
        let mut results = single.results().unwrap();
        let sums = results.pop().unwrap();
        let n_groups = sums.len() / (n_points * h * 2);
        let threads = [1, 2, 4, 8, 16, 32, 64].into_iter().find(|threads| threads * 8 >= q).unwrap_or(64);
        let group_size = usize::max(group, 1).next_multiple_of(64 / threads);
        assert_eq!(n.div_ceil(group_size), n_groups);
        let (z, d, y, s) = (f64s(&z), f64s(&d), &y[3 * q..], f64s(&sample_weights));
        let zeros = vec![0.0; z.len()];
        for (point, t) in lengths.chunks_exact(h).enumerate() {
            let t = f64s(t);
            let expected = reference::along(&z, &d, y, &s, &t, shape);
            let bound = reference::along_bound(&z, &zeros, &d, &zeros, y, &s, &t, shape);
            let what = format!("along {case:?} ± {range}, point {point}, targets {kind}");
            if residual {
                reference::compare(&format!("residual of {what}"), &results[0], &expected.residual, &bound.residual)?;
            }
            let of_groups = |part: usize, values: &[f64], bounds: &[f64]| {
                let found: Vec<f32> =
                    (0..n_groups * h).map(|i| sums[((i / h * n_points + point) * h + i % h) * 2 + part]).collect();
                let by_group = |f: &dyn Fn(usize) -> f64| -> Vec<f64> {
                    let of_group = |group: usize| group * group_size..n.min((group + 1) * group_size);
                    let of_head = move |i: usize| of_group(i / h).map(move |sample| sample * h + i % h);
                    (0..n_groups * h).map(|i| of_head(i).map(f).sum()).collect()
                };
                let rounding = group_size as f64 * reference::UNIT_ROUNDOFF;
                let bound = by_group(&|i| bounds[i] + rounding * values[i].abs());
                let what = format!("{} of {what}", ["losses", "slopes"][part]);
                reference::compare(&what, &found, &by_group(&|i| values[i]), &bound)
            };
            of_groups(0, &expected.losses, &bound.losses)?;
            of_groups(1, &expected.slopes, &bound.slopes)?;
        }
    }
    Ok(())
}

/// Samples that are sure of their class, in whose losses and residuals the logarithm of 1 and a little, and 1 less almost 1,
/// have lost what counts; and some that are less sure.
fn sure_error(gpu: &Gpu, plant: Plant) -> Result<(), String> {
    let shape = Shape { n_features: 1, n_classes: 2, n_heads: 1 };
    for logit in [10.0f32, 4.0, 0.125] {
        let (z, d) = ([logit, 0.0], [1.0, 0.0]);
        let targets = Targets::Classes(vec![0].into());
        let mut single = Single::along(gpu, shape, (&z, &d), &targets, 0, &[1.0], &[0.0], true, 1).unwrap();
        plant(&mut single.variant.source);
        single.run(1).unwrap();
        let results = single.results().unwrap();
        let (z, d, zeros) = (f64s(&z), f64s(&d), [0.0; 2]);
        let expected = reference::along(&z, &d, &[1.0, 0.0], &[1.0], &[0.0], shape);
        let bound = reference::along_bound(&z, &zeros, &d, &zeros, &[1.0, 0.0], &[1.0], &[0.0], shape);
        reference::compare("residual", &results[0], &expected.residual, &bound.residual)?;
        reference::compare("loss", &results[1][..1], &expected.losses, &bound.losses)?;
        reference::compare("slope", &results[1][1..], &expected.slopes, &bound.slopes)?;
    }
    Ok(())
}

fn hessian_error(gpu: &Gpu, case: (usize, usize, usize, usize), range: f32, plant: Plant) -> Result<(), String> {
    let (n, _, q, h) = case;
    let shape = shape_of(case);
    let mut random = Random::new(11);
    let z: Vec<f32> = random.values(n * h * q).iter().map(|o| o * range).collect();
    let v = random.values(n * h * q);
    let sample_weights = some_sample_weights(&mut random, n);
    let mut single = Single::hessian(gpu, shape, &z, &v, &sample_weights).unwrap();
    plant(&mut single.variant.source);
    single.run(1).unwrap();
    let (z, v, s) = (f64s(&z), f64s(&v), f64s(&sample_weights));
    let zeros = vec![0.0; z.len()];
    let expected = reference::hessian(&z, &v, &s, shape);
    let bound = reference::hessian_bound(&z, &zeros, &v, &zeros, &s, shape);
    reference::compare(&format!("Hessian {case:?} ± {range}"), &single.results().unwrap()[0], &expected, &bound)
}

fn advance_error(gpu: &Gpu, case: (usize, usize, usize, usize), plant: Plant) -> Result<(), String> {
    let (n, _, q, h) = case;
    let shape = shape_of(case);
    let mut random = Random::new(12);
    let (z, d, t) = (random.values(n * h * q), random.values(n * h * q), random.values(h));
    let mut single = Single::advance(gpu, shape, &z, &d, &t).unwrap();
    plant(&mut single.variant.source);
    single.run(1).unwrap();
    let (z, d, t) = (f64s(&z), f64s(&d), f64s(&t));
    let expected = reference::advance(&z, &d, &t, shape);
    let bound = reference::advance_bound(&z, &d, &t, shape);
    reference::compare(&format!("advance {case:?}"), &single.results().unwrap()[0], &expected, &bound)
}

fn reduce_error(gpu: &Gpu, case: (usize, usize, usize, usize), plant: Plant) -> Result<(), String> {
    let shape = shape_of(case);
    let width = shape.n_parameters();
    let mut random = Random::new(13);
    for (n_parts, n_sums, first_part) in [(1, 1, 0), (7, 3, 0), (3, 3, 8), (2, 4, 5), (5, 2, 1)] {
        let (partials, totals) = (random.values(n_parts * width), random.values(n_sums * width));
        let mut single = Single::reduce(gpu, shape, &partials, &totals, first_part).unwrap();
        plant(&mut single.variant.source);
        single.run(1).unwrap();
        let (partials, totals) = (f64s(&partials), f64s(&totals));
        let expected = reference::reduce(&partials, &totals, first_part, width);
        let bound = reference::reduce_bound(&partials, &totals, first_part, width);
        let what = format!("reduce {case:?}, {n_parts} from {first_part} to {n_sums}");
        reference::compare(&what, &single.results().unwrap()[0], &expected, &bound)?;
    }
    Ok(())
}

/// Every kind of matrix units of every adapter, both ways of compiling; says so where there are none.
fn for_each_matrix_units(test: impl Fn(&Gpu, MatrixUnits)) {
    for checked_shaders in [false, true] {
        for gpu in gpus(Options { checked_shaders, matrix_units: true, ..Options::default() }) {
            let name = &gpu.info().name;
            if gpu.matrix_units().is_empty() {
                eprintln!("skipped: {name} has no matrix units that suit");
            }
            for &units in gpu.matrix_units() {
                eprintln!("on {name}, {units:?}, {}", if checked_shaders { "checked" } else { "unchecked" });
                test(&gpu, units);
            }
        }
    }
}

fn logits_cooperative_error(
    gpu: &Gpu,
    units: MatrixUnits,
    case: (usize, usize, usize, usize),
    dtype: Dtype,
    plant: Plant,
) -> Result<(), String> {
    let (n, d, ..) = case;
    let shape = shape_of(case);
    let mut random = Random::new(1);
    let (x, x_exact) = features(&mut random, n, d, dtype);
    let scale = 1.0 / 3.0;
    let parameters = Parameters { shape, values: random.values(shape.n_parameters()) };
    let order = some_order(&mut random, n / 2 + 1, n);
    let mut single = Single::logits_cooperative(gpu, units, &x, scale, &parameters, &order).unwrap();
    plant(&mut single.variant.source);
    single.run(1).unwrap();
    let x: Vec<f64> = pick(&x_exact, d, &order).iter().map(|x| x * f64::from(scale)).collect();
    let w = f64s(&parameters.values);
    let what = format!("logits on matrix units {case:?} {dtype} {units:?}");
    let expected = reference::logits(&x, &w, shape);
    reference::compare(&what, &single.results().unwrap()[0], &expected, &reference::logits_half_bound(&x, &w, shape))
}

fn gradient_cooperative_error(
    gpu: &Gpu,
    units: MatrixUnits,
    case: (usize, usize, usize, usize),
    dtype: Dtype,
    plant: Plant,
) -> Result<(), String> {
    let (n, d, ..) = case;
    let shape = shape_of(case);
    let mut random = Random::new(3);
    let (x, x_exact) = features(&mut random, n + 5, d, dtype);
    let scale = 0.7;
    let order = some_order(&mut random, n, n + 5);
    let residual: Vec<f32> = random.values(n * shape.n_outputs()).iter().map(|r| r / n as f32).collect();
    let mut single = Single::gradient_cooperative(gpu, units, shape, &x, scale, &residual, &order).unwrap();
    plant(&mut single.variant.source);
    single.run(1).unwrap();
    let found = sum_of_parts(&single.results().unwrap()[0], shape);
    let x: Vec<f64> = pick(&x_exact, d, &order).iter().map(|x| x * f64::from(scale)).collect();
    let r = f64s(&residual);
    let what = format!("gradient on matrix units {case:?} {dtype} {units:?}");
    let bound = reference::gradient_half_bound(&x, &r, 1.0, shape);
    reference::compare(&what, &found, &reference::gradient(&x, &r, shape), &bound)
}

/// The rules, by their names.
#[derive(Debug, Clone, Copy, PartialEq)]
enum RuleName {
    Momentum,
    AdamW,
}

const RULES: [RuleName; 2] = [RuleName::Momentum, RuleName::AdamW];

/// Heads that differ in all that they can.
fn some_heads(n: usize, rule: RuleName) -> Vec<Head> {
    let rule = |head: usize| match rule {
        RuleName::Momentum => {
            Rule::Momentum { momentum: if head == 1 { 0.0 } else { 0.9 }, nesterov: head.is_multiple_of(2) }
        }
        RuleName::AdamW => Rule::AdamW {
            beta_1: 0.9,
            beta_2: 0.99,
            epsilon: 1e-3 * (head + 1) as f32,
            weight_decay: 0.1 * head as f32,
        },
    };
    (0..n)
        .map(|head| Head {
            learning_rate: 0.1 + head as f32,
            l2: 0.01 * (head + 1) as f32,
            intercept: head % 3 != 1,
            rule: rule(head),
        })
        .collect()
}

/// An update of random parameters and moments in f64, and what a kernel is given for it.
struct Update {
    heads: Vec<Head>,
    rate: f32,
    t: u64,
    parameters: Parameters,
    moments: Vec<f32>,
}

impl Update {
    fn new(random: &mut Random, shape: Shape, rule: RuleName) -> Self {
        let n = shape.n_parameters();
        let parameters = Parameters { shape, values: random.values(n) };
        let mut moments = random.values(n);
        if rule == RuleName::AdamW {
            moments.extend(random.values(n).iter().map(|s| s.abs()));
        }
        Self { heads: some_heads(shape.n_heads, rule), rate: 0.6, t: 3, parameters, moments }
    }

    fn compare(&self, what: &str, results: &[Vec<f32>], gradient: &[f64], error: &[f64]) -> Result<(), String> {
        let Self { heads, rate, t, parameters, moments } = self;
        let (shape, n) = (parameters.shape, parameters.shape.n_parameters());
        let (first, second) = moments.split_at(n);
        let mut state = reference::State::new(f64s(&parameters.values));
        state.first = f64s(first);
        let has_second = !second.is_empty();
        if has_second {
            state.second = f64s(second);
        }
        let exact = reference::State::new(vec![0.0; n]);
        let bound = reference::update_bound(&state, &exact, gradient, error, heads, (*rate).into(), *t, shape);
        reference::update(&mut state, gradient, heads, (*rate).into(), *t, shape);
        reference::compare(&format!("{what}: weights"), &results[0], &state.parameters, &bound.parameters)?;
        reference::compare(&format!("{what}: first moments"), &results[1][..n], &state.first, &bound.first)?;
        if has_second {
            reference::compare(&format!("{what}: second moments"), &results[1][n..], &state.second, &bound.second)?;
        }
        Ok(())
    }
}

fn update_error(gpu: &Gpu, case: (usize, usize, usize, usize), rule: RuleName, plant: Plant) -> Result<(), String> {
    const PARTS: usize = 3;
    let shape = shape_of(case);
    let mut random = Random::new(4);
    let update = Update::new(&mut random, shape, rule);
    let partials = random.values(PARTS * shape.n_parameters());
    let Update { heads, rate, t, parameters, moments } = &update;
    let mut single = Single::update(gpu, parameters, moments, &partials, heads, *rate, *t).unwrap();
    plant(&mut single.variant.source);
    single.run(1).unwrap();

    let parts: Vec<f64> = f64s(&partials);
    let sum_of = |f: fn(f64) -> f64| -> Vec<f64> {
        (0..shape.n_parameters())
            .map(|i| parts.iter().skip(i).step_by(shape.n_parameters()).map(|&x| f(x)).sum())
            .collect()
    };
    let error: Vec<f64> = sum_of(f64::abs).iter().map(|sum| PARTS as f64 * reference::UNIT_ROUNDOFF * sum).collect();
    update.compare(&format!("update {case:?} {rule:?}"), &single.results().unwrap(), &sum_of(|x| x), &error)
}

/// A device and batch size for each way in which threads share the work on few outputs.
const NARROW: [(DeviceKind, usize); 3] =
    [(DeviceKind::DiscreteGpu, 1), (DeviceKind::DiscreteGpu, 1 << 20), (DeviceKind::SoftwareGpu, 1)];

fn narrow_residual_error(
    gpu: &Gpu,
    case: (usize, usize, usize, usize),
    dtype: Dtype,
    variant: (DeviceKind, usize),
    plant: Plant,
) -> Result<(), String> {
    let (n, d, q, h) = case;
    let shape = shape_of(case);
    let mut random = Random::new(7);
    let (x, x_exact) = features(&mut random, n + 3, d, dtype);
    let scale = if dtype == Dtype::U8 { 1.0 / 255.0 } else { 1.0 / 3.0 };
    let parameters = Parameters { shape, values: random.values(shape.n_parameters()) };
    let order = some_order(&mut random, n, n + 3);
    let (weights, w) = some_weights(&mut random, n + 3);
    // One of the two is weighted, since software devices compile for half a second.
    for (i, (targets, y)) in some_targets(&mut random, n + 3, q).iter().enumerate() {
        let weighted = (n + i) % 2 == 1;
        let supervision = Supervision { targets, weights: weighted.then_some(&weights) };
        let mut single = Single::narrow_residual(gpu, &x, scale, &parameters, supervision, &order, variant).unwrap();
        plant(&mut single.variant.source);
        single.run(1).unwrap();
        let results = single.results().unwrap();
        let x: Vec<f64> = pick(&x_exact, d, &order).iter().map(|x| x * f64::from(scale)).collect();
        let (parameters, y, w) = (f64s(&parameters.values), pick(y, q, &order), pick(&w, 1, &order));
        let o = reference::logits(&x, &parameters, shape);
        let o_bound = reference::logits_bound(&x, &parameters, shape);
        let (share, w) = (f64::from(1.0 / n as f32), weighted.then_some(&*w));
        let expected = reference::softmax(&o, &y, share, w, shape);
        let bound = reference::softmax_bound(&o, &o_bound, &y, share, w, shape);
        let what = format!("narrow residual {case:?} {dtype} {variant:?}, weighted {weighted}");
        // Of the largest rows so little is known that zeros would pass; they are tested by what is certain.
        let certain = |o: &[f64]| o.iter().all(|bound| *bound < 1e-2);
        let rows: Vec<usize> = (0..n * h).filter(|&row| certain(&o_bound[row * q..][..q])).collect();
        assert!(4 * rows.len() >= n * h, "{what}: {} of {} rows are certain", rows.len(), n * h);
        let of_rows =
            |values: &[f64]| -> Vec<f64> { rows.iter().flat_map(|&row| &values[row * q..][..q]).copied().collect() };
        let found: Vec<f32> = rows.iter().flat_map(|&row| &results[0][row * q..][..q]).copied().collect();
        reference::compare(&what, &found, &of_rows(&expected.residual), &of_rows(&bound.residual))?;
        let of_rows = |values: &[f64]| -> Vec<f64> { rows.iter().map(|&row| values[row]).collect() };
        let found: Vec<f32> = rows.iter().map(|&row| results[1][row]).collect();
        reference::compare(&format!("losses of {what}"), &found, &of_rows(&expected.losses), &of_rows(&bound.losses))?;
        if results.iter().flatten().any(|value| !value.is_finite()) {
            return Err(format!("{what}: not finite"));
        }
    }
    Ok(())
}

fn narrow_update_error(
    gpu: &Gpu,
    case: (usize, usize, usize, usize),
    dtype: Dtype,
    variant: (DeviceKind, usize),
    rule: RuleName,
    plant: Plant,
) -> Result<(), String> {
    let (n, d, ..) = case;
    let shape = shape_of(case);
    let mut random = Random::new(8);
    let (x, x_exact) = features(&mut random, n + 5, d, dtype);
    let scale = 0.7;
    let order = some_order(&mut random, n, n + 5);
    let residual = random.values(n * shape.n_outputs());
    let update = Update::new(&mut random, shape, rule);
    let Update { heads, rate, t, parameters, moments } = &update;
    let factors = (*rate, *t);
    let mut single =
        Single::narrow_update(gpu, &x, scale, &residual, &order, parameters, moments, heads, factors, variant).unwrap();
    plant(&mut single.variant.source);
    single.run(1).unwrap();

    let x: Vec<f64> = pick(&x_exact, d, &order).iter().map(|x| x * f64::from(scale)).collect();
    let r = f64s(&residual);
    let (gradient, error) = (reference::gradient(&x, &r, shape), reference::gradient_bound(&x, &r, shape));
    let what = format!("narrow update {case:?} {dtype} {variant:?} {rule:?}");
    update.compare(&what, &single.results().unwrap(), &gradient, &error)
}

/// Logits with equals, and some that are not finite.
fn classes_error(gpu: &Gpu, case: (usize, usize, usize, usize), plant: Plant) -> Result<(), String> {
    let (n, _, q, h) = case;
    let shape = shape_of(case);
    let mut random = Random::new(9);
    let mut logits: Vec<f32> = (0..n * h * q).map(|_| random.below(q / 2 + 2) as f32 - 1.0).collect();
    // All equal; the smallest there is; and in the last rows one that is not finite.
    logits[..q].fill(-7.5);
    if n > 3 {
        logits[h * q..(h + 1) * q].fill(f32::MIN);
        for (row, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
            logits[(n - 1 - row) * h * q + random.below(q)] = bad;
        }
    }
    let mut single = Single::classes(gpu, shape, &logits).unwrap();
    plant(&mut single.variant.source);
    single.run(1).unwrap();
    let expected = reference::classes(&logits, shape);
    let found = single.results().unwrap();
    match found[0].iter().zip(&expected).position(|(found, expected)| found.to_bits() != *expected) {
        None => Ok(()),
        Some(at) => Err(format!("classes {case:?}: [{at}] is {}, not {}", found[0][at].to_bits(), expected[at])),
    }
}

fn shuffle_error(gpu: &Gpu, n: u32, plant: Plant) -> Result<(), String> {
    let order = Permutation::new(n, &mut Shuffle::new(n.into(), 3));
    let mut single = Single::shuffle(gpu, &order).unwrap();
    plant(&mut single.variant.source);
    single.run(1).unwrap();
    let found = single.results().unwrap();
    match found[0].iter().zip(0..n).position(|(row, position)| row.to_bits() != order.row(position)) {
        None => Ok(()),
        Some(position) => Err(format!("shuffle of {n}: another row at {position}")),
    }
}

type Plant<'a> = &'a dyn Fn(&mut std::borrow::Cow<'static, str>);

const NOTHING: Plant = &|_| {};

/// Replaces a piece of the source, which must be there.
fn replace(from: &'static str, to: &'static str) -> impl Fn(&mut std::borrow::Cow<'static, str>) {
    move |source| {
        assert!(source.contains(from), "{from:?} is no longer in the shader");
        *source = source.replace(from, to).into();
    }
}

#[test]
fn logits_are_those_of_the_reference() {
    for_each_gpu(|gpu| {
        for case in SHAPES {
            for dtype in DTYPES {
                logits_error(gpu, case, dtype, None, NOTHING).unwrap();
            }
            for tile in Tile::ALL {
                logits_error(gpu, case, Dtype::F32, Some(tile), NOTHING).unwrap();
            }
        }
    });
}

#[test]
fn softmax_is_that_of_the_reference() {
    for_each_gpu(|gpu| {
        for case in SHAPES {
            for range in [1.0, 30.0, 1e4] {
                softmax_error(gpu, case, range, NOTHING).unwrap();
            }
        }
    });
}

#[test]
fn the_gradient_is_that_of_the_reference() {
    for_each_gpu(|gpu| {
        for case in SHAPES {
            for dtype in DTYPES {
                gradient_error(gpu, case, dtype, None, NOTHING).unwrap();
            }
            for tile in Tile::ALL {
                gradient_error(gpu, case, Dtype::F32, Some(tile), NOTHING).unwrap();
            }
        }
    });
}

#[test]
fn points_of_a_line_are_those_of_the_reference() {
    for_each_gpu(|gpu| {
        for case in SHAPES {
            for range in [1.0, 30.0, 1e4] {
                along_error(gpu, case, range, true, NOTHING).unwrap();
                along_error(gpu, case, range, false, NOTHING).unwrap();
            }
            advance_error(gpu, case, NOTHING).unwrap();
        }
    });
}

#[test]
fn products_with_the_hessian_are_those_of_the_reference() {
    for_each_gpu(|gpu| {
        for case in SHAPES {
            for range in [1.0, 30.0, 300.0] {
                hessian_error(gpu, case, range, NOTHING).unwrap();
            }
        }
    });
}

#[test]
fn sums_of_parts_are_those_of_the_reference() {
    for_each_gpu(|gpu| {
        for case in SHAPES {
            reduce_error(gpu, case, NOTHING).unwrap();
        }
    });
}

#[test]
fn products_on_matrix_units_are_those_of_the_reference() {
    for_each_matrix_units(|gpu, units| {
        // A sum of 70,001 terms of either sign is smaller than its bound.
        for case in SHAPES.into_iter().filter(|case| case.0 < 1000) {
            for dtype in DTYPES {
                logits_cooperative_error(gpu, units, case, dtype, NOTHING).unwrap();
                gradient_cooperative_error(gpu, units, case, dtype, NOTHING).unwrap();
            }
        }
    });
}

#[test]
fn a_planted_error_in_a_product_on_matrix_units_is_noticed() {
    let case = (97, 101, 57, 3);
    for_each_matrix_units(|gpu, units| {
        for (from, to) in [
            ("sum12 = coopMultiplyAdd(x1, w2, sum12);", ""),
            ("sum31 = coopMultiplyAdd(x3, w1, sum31);", "sum31 = coopMultiplyAdd(x3, w2, sum31);"),
            ("coopLoadT<MatrixA>(&x_tile[feature]", "coopLoad<MatrixA>(&x_tile[feature]"),
            ("coopStoreT(sum2,", "coopStore(sum2,"),
            (" * scale + bias", " * scale"),
            ("feature < step.n_features && column", "feature + 1u < step.n_features && column"),
            ("order[step.start + sample]", "step.start + sample"),
            ("let scale = select(step.scale, 1.0, BYTES);", "let scale = 1.0;"),
        ] {
            logits_cooperative_error(gpu, units, case, Dtype::F32, &replace(from, to)).unwrap_err();
        }
        let scale = replace("let scale = select(1.0, step.scale, BYTES);", "let scale = 1.0;");
        logits_cooperative_error(gpu, units, case, Dtype::U8, &scale).unwrap_err();
        for (from, to) in [
            ("sum20 = coopMultiplyAdd(x2, r0, sum20);", ""),
            ("coopLoad<MatrixA>(&x_tile[sample * STRIDE]", "coopLoadT<MatrixA>(&x_tile[sample * STRIDE]"),
            ("coopStoreT(sum3,", "coopStore(sum3,"),
            (
                "first_sample + step.samples_per_part, step.n_samples)",
                "first_sample + step.samples_per_part, step.n_samples - 1u)",
            ),
            ("vec4<u32>(step.n_features));", "vec4<u32>(step.n_features + 1u));"),
            ("order[step.start + sample]", "step.start + sample"),
            (" / residual_scale()", ""),
        ] {
            gradient_cooperative_error(gpu, units, case, Dtype::F32, &replace(from, to)).unwrap_err();
        }
        let scale = replace("BYTES && feature < step.n_features", "BYTES");
        gradient_cooperative_error(gpu, units, case, Dtype::U8, &scale).unwrap_err();
    });
}

#[test]
fn more_workgroups_on_matrix_units_than_a_dimension_has_are_those_of_the_reference() {
    for gpu in gpus(Options { matrix_units: true, ..Options::default() }) {
        for &units in gpu.matrix_units() {
            let tile = if units.matrices == Matrices::Half16 { 64 } else { 32 };
            let many = 65_535 * tile + 100;
            let wrong = replace("workgroup_number(workgroup, workgroups)", "workgroup.x");
            let both = |plant: Plant| {
                [
                    logits_cooperative_error(&gpu, units, (2 * many, 1, 2, 1), Dtype::U8, plant),
                    gradient_cooperative_error(&gpu, units, (2, many, 2, 1), Dtype::U8, plant),
                ]
            };
            both(NOTHING).into_iter().collect::<Result<Vec<_>, _>>().unwrap();
            assert!(both(&wrong).iter().all(Result::is_err));
        }
    }
}

/// Rewrites a kernel on matrix units for threads without any, SIZE² / 4 of them, whatever the size: a loaded matrix is where
/// it lies (first value, distance of rows, distance of columns); of a sum each thread has four values.
fn emulate(source: &mut std::borrow::Cow<'static, str>) {
    const EMULATION: &str = "
        alias MatrixA = vec3<u32>;
        alias MatrixB = vec3<u32>;
        alias MatrixC = vec4<f32>;
        var<private> lane: u32;
        fn multiply_add(a: MatrixA, b: MatrixB, c: MatrixC) -> MatrixC {
            let row = lane * 4u / SIZE;
            let column = lane * 4u % SIZE;
            var sum = c;
            for (var k = 0u; k < SIZE; k++) {
                let at = b.x + k * b.y + column * b.z;
                let factor = vec4<f32>(FACTOR[at], FACTOR[at + b.z], FACTOR[at + 2u * b.z], FACTOR[at + 3u * b.z]);
                sum += x_tile[a.x + row * a.y + k * a.z] * factor;
            }
            return sum;
        }
        fn store(c: MatrixC, first: u32, stride: u32) {
            let at = first + lane * 4u / SIZE * stride + lane * 4u % SIZE;
            sums[at] = c.x;
            sums[at + 1u] = c.y;
            sums[at + 2u] = c.z;
            sums[at + 3u] = c.w;
        }
    ";
    let factor = if source.contains("&w_tile[") { "w_tile" } else { "r_tile" };
    let mut emulated = EMULATION.replace("FACTOR", factor);
    for line in source.lines().filter(|line| !line.starts_with("enable ") && !line.starts_with("alias Matrix")) {
        let mut line = line.replace("f16", "f32").replace("coopMultiplyAdd(", "multiply_add(");
        line = line.replace("let tile = ", "lane = thread; let tile = ");
        for (load, tile) in [("MatrixA", "x_tile"), ("MatrixB", factor)] {
            for (function, is_row_major) in [("coopLoadT", true), ("coopLoad", false)] {
                let call = format!("{function}<{load}>(&{tile}[");
                if let Some((before, arguments)) = line.split_once(&call) {
                    let (first, stride) = arguments.strip_suffix(");").unwrap().split_once("], ").unwrap();
                    let strides = if is_row_major { format!("{stride}, 1u") } else { format!("1u, {stride}") };
                    line = format!("{before}vec3<u32>({first}, {strides});");
                    break;
                }
            }
        }
        if let Some((matrix, place)) =
            line.trim().strip_prefix("coopStoreT(").and_then(|rest| rest.split_once(", &sums["))
        {
            line = format!("store({matrix}, {});", place.strip_suffix(");").unwrap().replace(']', ""));
        }
        emulated.extend([&line, "\n"]);
    }
    assert!(!["coopLoad", "coopStore", "coop_mat"].iter().any(|piece| emulated.contains(piece)));
    *source = emulated.into();
}

/// Few devices have matrix units, and none has every size: what the kernels do around them is tested everywhere.
#[test]
fn products_on_emulated_matrix_units_are_those_of_the_reference() {
    for gpu in gpus(Options::default()) {
        for (matrices, size) in [(Matrices::Half16, 16), (Matrices::Single8, 8)] {
            let units = MatrixUnits { matrices, subgroup_size: size * size / 4 };
            for case in [(1, 1, 2, 1), (65, 17, 17, 1), (129, 64, 64, 1), (97, 101, 57, 3)] {
                for dtype in DTYPES {
                    logits_cooperative_error(&gpu, units, case, dtype, &emulate).unwrap();
                    gradient_cooperative_error(&gpu, units, case, dtype, &emulate).unwrap();
                }
            }
            // Compiling takes its time.
            if matrices == Matrices::Half16 {
                continue;
            }
            let planted = |from, to| {
                move |source: &mut std::borrow::Cow<'static, str>| {
                    replace(from, to)(source);
                    emulate(source);
                }
            };
            let (case, dtype) = ((97, 101, 57, 3), Dtype::F32);
            for (from, to) in [
                ("sum33 = coopMultiplyAdd(x3, w3, sum33);", ""),
                ("coopLoadT<MatrixB>(&w_tile[feature * W_STRIDE]", "coopLoad<MatrixB>(&w_tile[feature * W_STRIDE]"),
                ("feature += SIZE", "feature += 2u * SIZE"),
            ] {
                logits_cooperative_error(&gpu, units, case, dtype, &planted(from, to)).unwrap_err();
            }
            for (from, to) in [
                ("sum03 = coopMultiplyAdd(x0, r3, sum03);", ""),
                ("first_feature + 2u * SIZE", "first_feature + SIZE"),
                ("sample += SIZE", "sample += 2u * SIZE"),
            ] {
                gradient_cooperative_error(&gpu, units, case, dtype, &planted(from, to)).unwrap_err();
            }
        }
    }
}

/// What half precision cannot hold makes all logits of its sample or output NaN, so that no training goes on with it;
/// residuals keep what they have below the range of half precision.
#[test]
fn matrix_units_show_an_overflow_and_keep_small_residuals() {
    for_each_matrix_units(|gpu, units| {
        let shape = Shape { n_features: 20, n_classes: 70, n_heads: 1 };
        let n = 40;
        let order: Vec<u32> = (0..n as u32).collect();
        let logits = |x: f32, w: f32| {
            let mut features = vec![1e-3; n * shape.n_features];
            features[3 * shape.n_features + 5] = x;
            let mut parameters = Parameters { shape, values: vec![0.5; shape.n_parameters()] };
            parameters.values[7 * shape.n_classes + 11] = w;
            let features = Features::new(features, n, shape.n_features).unwrap();
            let single = Single::logits_cooperative(gpu, units, &features, 1.0, &parameters, &order).unwrap();
            single.run(1).unwrap();
            single.results().unwrap().remove(0)
        };
        let half = units.matrices != Matrices::Single8;
        for (x, w, has_nan) in
            [(1.0, 1.0, false), (65_000.0, -65_000.0, false), (65_600.0, 1.0, half), (1.0, -7e4, half)]
        {
            for (i, logit) in logits(x, w).iter().enumerate() {
                let (sample, output) = (i / shape.n_classes, i % shape.n_classes);
                let nan = has_nan && if x > 1.0 { sample == 3 } else { output == 11 };
                assert_eq!(logit.is_nan(), nan, "{units:?}: x {x}, w {w}: {logit} of sample {sample}, output {output}");
            }
        }

        let small = 1e-7 / n as f32;
        let features = Features::new(vec![1.0f32; n * shape.n_features], n, shape.n_features).unwrap();
        let residual = vec![small; n * shape.n_classes];
        let single = Single::gradient_cooperative(gpu, units, shape, &features, 1.0, &residual, &order).unwrap();
        single.run(1).unwrap();
        for sum in sum_of_parts(&single.results().unwrap()[0], shape) {
            assert!((sum - 1e-7).abs() < 2e-10, "{units:?}: {sum}");
        }
    });
}

#[test]
fn an_update_is_that_of_the_reference() {
    for_each_gpu(|gpu| {
        for case in SHAPES {
            for rule in RULES {
                update_error(gpu, case, rule, NOTHING).unwrap();
            }
        }
    });
}

#[test]
fn narrow_kernels_are_those_of_the_reference() {
    for_each_gpu(|gpu| {
        let cases = SHAPES.into_iter().filter(|(_, _, n_classes, n_heads)| n_classes * n_heads <= 64);
        for (i, case) in cases.enumerate() {
            for variant in NARROW {
                // Software devices compile for half a second, so that f16 and u8 take turns.
                for dtype in [Dtype::F32, DTYPES[1 + i % 2]] {
                    narrow_residual_error(gpu, case, dtype, variant, NOTHING).unwrap();
                    narrow_update_error(gpu, case, dtype, variant, RuleName::Momentum, NOTHING).unwrap();
                }
                narrow_update_error(gpu, case, Dtype::F32, variant, RuleName::AdamW, NOTHING).unwrap();
            }
        }
    });
}

#[test]
fn classes_are_those_of_the_reference() {
    for_each_gpu(|gpu| {
        for case in SHAPES {
            classes_error(gpu, case, NOTHING).unwrap();
        }
    });
}

#[test]
fn the_order_is_that_of_the_host() {
    for_each_gpu(|gpu| {
        for n in [1, 2, 3, 255, 256, 257, 1000, 65_535, 65_536, 65_537] {
            shuffle_error(gpu, n, NOTHING).unwrap();
        }
    });
}

/// Of the two dimensions that workgroups are counted over, the second counts.
#[test]
fn more_workgroups_than_a_dimension_has_are_those_of_the_reference() {
    for gpu in gpus(Options::default()) {
        let wrong = replace("workgroup_number(workgroup, workgroups)", "workgroup.x");
        let all = |plant: Plant| {
            [
                logits_error(&gpu, MORE_WORKGROUPS_LOGITS, Dtype::U8, None, plant),
                softmax_error(&gpu, MORE_WORKGROUPS_SOFTMAX, 30.0, plant),
                narrow_residual_error(&gpu, MORE_WORKGROUPS_NARROW_RESIDUAL, Dtype::U8, NARROW[0], plant),
                narrow_update_error(
                    &gpu,
                    MORE_WORKGROUPS_NARROW_UPDATE,
                    Dtype::U8,
                    NARROW[1],
                    RuleName::Momentum,
                    plant,
                ),
                gradient_error(&gpu, MORE_WORKGROUPS_GRADIENT, Dtype::U8, None, plant),
                update_error(&gpu, MORE_WORKGROUPS_UPDATE, RuleName::AdamW, plant),
                shuffle_error(&gpu, MORE_WORKGROUPS_SHUFFLE, plant),
                classes_error(&gpu, MORE_WORKGROUPS_SOFTMAX, plant),
                along_error(&gpu, MORE_WORKGROUPS_SOFTMAX, 30.0, true, plant),
                hessian_error(&gpu, MORE_WORKGROUPS_SOFTMAX, 30.0, plant),
                advance_error(&gpu, MORE_WORKGROUPS_ADVANCE, plant),
                reduce_error(&gpu, MORE_WORKGROUPS_REDUCE, plant),
            ]
        };
        all(NOTHING).into_iter().collect::<Result<Vec<_>, _>>().unwrap();
        assert!(all(&wrong).iter().all(Result::is_err));
    }
}

/// The comparisons above notice an error in each kernel.
#[test]
fn a_planted_error_is_noticed() {
    let case = (97, 101, 7, 3);
    for_each_gpu(|gpu| {
        for (from, to) in [
            ("sum2a += xa.z * wa;", ""),
            ("sum5b += xb.y * wb;", ""),
            ("sum * step.scale + bias", "sum * step.scale"),
            ("sum * step.scale + bias", "(sum + bias) * step.scale"),
            ("rows[row] = order[step.start + sample];", ""),
            ("feature < step.n_features && w_column", "feature + 1u < step.n_features && w_column"),
        ] {
            logits_error(gpu, case, Dtype::F32, None, &replace(from, to)).unwrap_err();
        }
        for (from, to) in [
            // Without the row's maximum, exp overflows; with that of another row, it underflows.
            ("highest = scratch[first_thread].x;", "highest = 0.0;"),
            ("/ sums.x", "/ (sums.x + 0.001)"),
            ("label = labels[label];", ""),
            ("log(sums.x) - sums.y", "log(sums.x)"),
            ("weight = bitcast<f32>(labels[label + width - 1u]);", ""),
            ("weight * (log(sums.x) - sums.y)", "log(sums.x) - sums.y"),
            ("+ u32(WEIGHTED);", ";"),
            ("weight * step.sample_weight", "weight"),
            ("weight * step.sample_weight", "step.sample_weight"),
            ("let head = number % step.n_heads;", "let head = 0u;"),
        ] {
            softmax_error(gpu, case, 1e3, &replace(from, to)).unwrap_err();
        }
        for (from, to) in [
            ("sum3a += xa.w * ra;", ""),
            ("sum4b += xb.x * rb;", ""),
            (
                "first_sample + step.samples_per_part, step.n_samples)",
                "first_sample + step.samples_per_part, step.n_samples - 1u)",
            ),
            ("vec4<u32>(step.n_features));", "vec4<u32>(step.n_features + 1u));"),
            ("row = order[step.start + sample];", ""),
            ("let scale = select(step.scale, 1.0, feature == step.n_features);", "let scale = step.scale;"),
        ] {
            gradient_error(gpu, case, Dtype::F32, None, &replace(from, to)).unwrap_err();
        }
        // Threads share a sample.
        let shared = (97, 1, 60, 3);
        for residual in [false, true] {
            for (from, to) in [
                ("highest[thread] = other;", ""),
                ("var mass = 0.0;", "sum.x += 1e-4;\n var mass = 0.0;"),
                ("label = labels[label];", ""),
                ("label = (step.start + sample) *", "label = sample *"),
                ("let t = lengths[point * step.n_heads + head];", "let t = lengths[point * step.n_heads];"),
                ("sum.z / (1.0 + rest)", "sum.z"),
                ("- sum.w;", ";"),
                ("weight = sample_weights[sample];", "weight = sample_weights[0];"),
                ("first += samples_per_round", "first += 2u * samples_per_round"),
                ("let head = number % step.n_heads;", "let head = 0u;"),
                ("i < THREADS; i += SAMPLE_THREADS", "i + SAMPLE_THREADS < THREADS; i += SAMPLE_THREADS"),
            ] {
                along_error(gpu, shared, 3.0, residual, &replace(from, to)).unwrap_err();
            }
        }
        for (from, to) in [("residual[row + j] = weight * r;", "residual[row + j] = r;"), ("- y, -rest", "- y, rest")] {
            along_error(gpu, shared, 3.0, true, &replace(from, to)).unwrap_err();
        }
        sure_error(gpu, NOTHING).unwrap();
        for (from, to) in [("if x > 1.0 {", "if true {"), ("-rest / (1.0 + rest)", "1.0 / (1.0 + rest) - y")] {
            sure_error(gpu, &replace(from, to)).unwrap_err();
        }
        for (from, to) in [
            ("highest[thread] = other;", ""),
            ("- v_most - mean", "- v_most"),
            ("weight * p *", "p *"),
            ("sample_weights[sample]", "sample_weights[0]"),
            ("let head = number % step.n_heads;", "let head = 0u;"),
            ("/ (1.0 + sum.x);\n        vectors", "/ (1.001 + sum.x);\n        vectors"),
        ] {
            hessian_error(gpu, shared, 3.0, &replace(from, to)).unwrap_err();
        }
        for (from, to) in [
            ("lengths[head]", "lengths[0]"),
            ("if i >= step.n_samples * stride", "if i + 8u >= step.n_samples * stride"),
        ] {
            advance_error(gpu, case, &replace(from, to)).unwrap_err();
        }
        for (from, to) in [
            ("if step.first_part > 0u {", "if false {"),
            ("if step.first_part > 0u {", "if true {"),
            ("part += step.n_sums", "part += 2u * step.n_sums"),
            (" - step.first_part % step.n_sums", ""),
        ] {
            reduce_error(gpu, case, &replace(from, to)).unwrap_err();
        }
        let [few, many, software] = NARROW;
        for (variants, from, to) in [
            (&NARROW[..], "sum2 += x2.w * w3;", ""),
            (&[few, many], "var k = 0u; k < SAMPLE_THREADS", "var k = 1u; k < SAMPLE_THREADS"),
            (&[software], "store_block(sample, j + 1u, sum[1]);", ""),
            (&NARROW, "sum * step.scale + load_weights", "sum + load_weights"),
            (&NARROW, "label = labels[label];", ""),
            (&NARROW, "/ sum - y", "/ (1.001 * sum) - y"),
            (&NARROW, "log(sum) - target_logit", "log(sum)"),
            (&NARROW, "weight = bitcast<f32>(labels[label + width - 1u]);", ""),
            (&NARROW, "weight * (log(sum) - target_logit)", "log(sum) - target_logit"),
            (&NARROW, "weight * step.sample_weight", "step.sample_weight"),
            (&NARROW, "softmax(of_sample, i % step.n_heads)", "softmax(of_sample, 0u)"),
        ] {
            for &variant in variants {
                narrow_residual_error(gpu, case, Dtype::F32, variant, &replace(from, to)).unwrap_err();
            }
        }
        for (variants, from, to) in [
            (&NARROW[..], "sum03 += x0.w * r;", ""),
            (&[software], "sum21 += x2.y * r;", ""),
            (&[few, many], "var k = first;", "var k = first + 1u;"),
            (&NARROW, "var k = 0u; k < SAMPLE_THREADS", "var k = SHARE; k < SAMPLE_THREADS"),
            (&NARROW, "* counts + one", "* counts"),
            // The intercept would be penalised.
            (&NARROW, "if feature < step.n_features {", "if feature <= step.n_features {"),
            (&NARROW, "order[step.start + sample]", "step.start + sample"),
            (&NARROW, "heads[min(column / step.n_classes, step.n_heads - 1u)]", "heads[0]"),
        ] {
            for &variant in variants {
                narrow_update_error(gpu, case, Dtype::F32, variant, RuleName::Momentum, &replace(from, to))
                    .unwrap_err();
            }
        }
        // Both shaders are given the rule.
        for (rule, from, to) in [
            (RuleName::Momentum, "head.momentum * moments[i] + g", "head.momentum * moments[i] + 1.0001 * g"),
            (RuleName::Momentum, "head.nesterov == 1u", "false"),
            (RuleName::Momentum, "g *= head.intercept;", ""),
            (RuleName::Momentum, "moments[i] = v;", ""),
            (RuleName::AdamW, "g *= head.intercept;", ""),
            (RuleName::AdamW, "(1.0 - head.beta_1) * g;", "0.1001 * g;"),
            (RuleName::AdamW, "(1.0 - head.beta_2) * g * g;", "(1.0 - head.beta_2) * abs(g);"),
            (RuleName::AdamW, "m * step.correction_1", "m"),
            (RuleName::AdamW, "s * step.correction_2", "s * step.correction_1"),
            (RuleName::AdamW, "+ head.epsilon)", ")"),
            // The intercept would decay.
            (RuleName::AdamW, "var decaying = 0.0;", "var decaying = w;"),
            (RuleName::AdamW, "+ head.weight_decay * decaying", ""),
            (RuleName::AdamW, "moments[second] = s;", ""),
        ] {
            let plant = replace(from, to);
            assert!(update_error(gpu, case, rule, &plant).is_err(), "{rule:?} {from}");
            assert!(narrow_update_error(gpu, case, Dtype::F32, NARROW[1], rule, &plant).is_err(), "{rule:?} {from}");
        }
        for (from, to) in [
            // The intercept would be penalised.
            ("i / stride < step.n_features", "i / stride <= step.n_features"),
            ("part < step.n_parts", "part + 1u < step.n_parts"),
            ("head.learning_rate * step.rate", "head.learning_rate"),
            ("i % stride / step.n_classes", "0u"),
        ] {
            for rule in RULES {
                update_error(gpu, case, rule, &replace(from, to)).unwrap_err();
            }
        }
        for (from, to) in [
            ("value > o", "value >= o"),
            ("other < best[thread]", "other > best[thread]"),
            ("other == NOT_FINITE || is_better", "is_better"),
            ("class_of = NOT_FINITE;", "class_of = j;"),
            ("let head = number % step.n_heads;", "let head = 0u;"),
        ] {
            classes_error(gpu, (97, 1, 60, 3), &replace(from, to)).unwrap_err();
        }
        for (from, to) in [
            ("const ROUNDS: u32 = 4u;", "const ROUNDS: u32 = 3u;"),
            ("if x < step.n_samples {", "if true {"),
            ("x ^= x >> shift;", ""),
        ] {
            shuffle_error(gpu, 1000, &replace(from, to)).unwrap_err();
        }
    });
}

/// Adding one number to all logits of a row changes neither loss nor residual, and residuals of a row sum to 0.
#[test]
fn softmax_does_not_change_with_a_shift() {
    for_each_gpu(|gpu| {
        // One for each number of threads that share a sample.
        for n_classes in [2, 10, 17, 33, 65, 130, 300] {
            let shape = Shape { n_features: 1, n_classes, n_heads: 3 };
            let n = 7;
            let mut random = Random::new(6);
            // Multiples of 1/64, so that sums with the shifts are exact in f32 and results equal to the bit.
            let logits: Vec<f32> = (0..n * shape.n_outputs()).map(|_| random.below(1024) as f32 / 64.0 - 8.0).collect();
            let targets = Targets::Classes((0..n as u32).map(|i| i % n_classes as u32).collect());
            let order: Vec<u32> = (0..n as u32).collect();
            let run = |change: &dyn Fn(usize) -> f32| {
                let shifted: Vec<f32> = logits.iter().enumerate().map(|(i, o)| o + change(i)).collect();
                let single = Single::softmax(gpu, shape, &shifted, &targets, &order).unwrap();
                single.run(1).unwrap();
                single.results().unwrap()
            };
            let base = run(&|_| 0.0);
            for row in base[0].chunks_exact(n_classes) {
                assert!(row.iter().sum::<f32>().abs() < 1e-6, "{row:?}");
            }
            for shift in [1024.0, -1024.0] {
                assert_eq!(run(&|_| shift), base);
                // Another shift for each sample and head.
                assert_eq!(run(&|i| shift + (i / n_classes) as f32), base);
            }
            // One logit alone is a difference.
            assert_ne!(run(&|i| if i == n_classes { 1.0 } else { 0.0 }), base);
        }
    });
}
