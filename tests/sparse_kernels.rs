//! The kernels of sparse features alone against their twins in f64, on every adapter, with wgpu's run-time checks and without;
//! and W larger than a kernel can see.
#![cfg(feature = "gpu")]

mod common;

use std::borrow::Cow;
use std::ops::Range;

use common::{Random, gpus};
use softreg::backend::gpu::{Gpu, Lanes, Options, Single, Transposed, Width};
use softreg::backend::{Backend, Head, Parameters, Rule, Shape, Supervision};
use softreg::batch::Plan;
use softreg::data::{Csr, Features, Targets, Values};
use softreg::{Error, reference};

/// (n_samples, n_features, n_classes, n_heads): 1; primes; several heads; features of more samples than a segment has; rows
/// of more values than threads share; one feature.
const SHAPES: [(usize, usize, usize, usize); 9] = [
    (1, 1, 2, 1),
    (3, 4, 4, 2),
    (65, 17, 17, 1),
    (129, 13, 13, 5),
    (17, 784, 10, 1),
    (40, 31, 257, 1),
    (521, 37, 3, 1),
    (1000, 1, 2, 3),
    (5, 20_011, 2, 1),
];

/// More workgroups than a dispatch has in a dimension, of 64 threads for each block of columns or each value.
const MORE_WORKGROUPS_BY_ROWS: (usize, usize, usize, usize) = (65_535 * 64 + 100, 1, 2, 1);
const MORE_WORKGROUPS_BY_FEATURES: (usize, usize, usize, usize) = (1, 65_535 * 64 + 100, 2, 1);

type Plant<'a> = &'a dyn Fn(&mut Cow<'static, str>);

const NOTHING: Plant = &|_| {};

/// Replaces a piece of the source, which must be there.
fn replace(from: &'static str, to: &'static str) -> impl Fn(&mut Cow<'static, str>) {
    move |source| {
        assert!(source.contains(from), "{from:?} is no longer in the shader");
        *source = source.replace(from, to).into();
    }
}

/// Both ways of compiling, on every adapter.
fn for_each_gpu(test: impl Fn(&Gpu)) {
    for checked_shaders in [false, true] {
        for gpu in gpus(Options { checked_shaders, ..Options::default() }) {
            test(&gpu);
        }
    }
}

fn shape_of((_, n_features, n_classes, n_heads): (usize, usize, usize, usize)) -> Shape {
    Shape { n_features, n_classes, n_heads }
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// A third of the values of a matrix, rows of wildly different scale, every fifth of them empty; and the same dense. One
/// feature of four has none, one all; of very many features all are there.
fn features(random: &mut Random, n: usize, d: usize) -> (Features<'static>, Vec<f64>) {
    let (mut offsets, mut columns, mut values, mut dense) = (vec![0], Vec::new(), Vec::new(), vec![0.0; n * d]);
    for row in 0..n {
        for column in 0..d {
            let is_stored = match column % 4 {
                _ if d > 1 << 20 => true,
                2 => false,
                1 => true,
                _ => random.below(3) == 0,
            };
            if is_stored && row % 5 != 4 {
                let value = random.value() * 10f32.powi((row % 9) as i32 - 4);
                columns.push(column as u32);
                values.push(value);
                dense[row * d + column] = value.into();
            }
        }
        offsets.push(values.len() as u64);
    }
    (Features::new(Csr::new(offsets, columns, values).unwrap(), n, d).unwrap(), dense)
}

fn csr<'a>(features: &'a Features) -> &'a Csr<'a> {
    match features.values() {
        Values::Sparse(csr) => csr,
        _ => panic!("dense"),
    }
}

fn pick(values: &[f64], width: usize, order: &[u32]) -> Vec<f64> {
    order.iter().flat_map(|&row| &values[row as usize * width..][..width]).copied().collect()
}

/// Some columns of rows of `width`.
fn pick_columns<T: Copy>(values: &[T], width: usize, columns: &Range<usize>) -> Vec<T> {
    values.chunks_exact(width).flat_map(|row| row[columns.clone()].to_vec()).collect()
}

/// Shards of m outputs: all, and the last when there are two, of whole blocks or not.
fn some_columns(width: Width, m: usize) -> Vec<Range<usize>> {
    let (all, middle) = match width {
        Width::Four => (m.next_multiple_of(4), m / 8 * 4),
        Width::One => (m, m / 2),
    };
    vec![0..all, middle..all]
}

fn logits_error(
    gpu: &Gpu,
    case: (usize, usize, usize, usize),
    (width, lanes): (Width, Lanes),
    plant: Plant,
) -> Result<(), String> {
    let ((n, d, ..), shape) = (case, shape_of(case));
    let m = shape.n_outputs();
    let mut random = Random::new(1);
    let (x, x_exact) = features(&mut random, n, d);
    let scale = 1.0 / 3.0;
    let parameters = Parameters { shape, values: random.values(shape.n_parameters()) };
    let order: Vec<u32> = (0..n / 2 + 1).map(|_| random.below(n) as u32).collect();
    for order in [None, Some(&order[..])] {
        for columns in some_columns(width, m) {
            let kept = columns.clone();
            let single = Single::sparse_logits(gpu, &x, scale, &parameters, order, columns, (width, lanes));
            let mut single = single.unwrap();
            plant(&mut single.variant.source);
            single.run(1).unwrap();
            let x = order.map_or_else(|| x_exact.clone(), |order| pick(&x_exact, d, order));
            let x: Vec<f64> = x.iter().map(|x| x * f64::from(scale)).collect();
            let w = f64s(&parameters.values);
            let what = format!("sparse logits {case:?} {width:?} {lanes:?} {kept:?}");
            // Other columns are left as they were: zeros.
            let only = |mut values: Vec<f64>| {
                values
                    .iter_mut()
                    .enumerate()
                    .filter(|(i, _)| !kept.contains(&(i % m)))
                    .for_each(|(_, value)| *value = 0.0);
                values
            };
            let expected = only(reference::logits(&x, &w, shape));
            let bound = only(reference::logits_bound(&x, &w, shape));
            reference::compare(&what, &single.results().unwrap()[0], &expected, &bound)?;
        }
    }
    Ok(())
}

/// The gradient of a shard from its segments.
fn gradient_error(gpu: &Gpu, case: (usize, usize, usize, usize), width: Width, plant: Plant) -> Result<(), String> {
    let ((n, d, ..), shape) = (case, shape_of(case));
    let m = shape.n_outputs();
    let mut random = Random::new(3);
    let (x, x_exact) = features(&mut random, n, d);
    let order: Vec<u32> = (0..n).map(|_| random.below(n) as u32).collect();
    let lists = Transposed::new(csr(&x), order.iter().map(|&row| row as usize), d);
    let residual = random.values(n * m);
    let x = pick(&x_exact, d, &order);
    let expected = reference::gradient(&x, &f64s(&residual), shape);
    let bound = reference::gradient_bound(&x, &f64s(&residual), shape);
    // Where the features of the second half begin, too.
    let halves = [0, lists.listed[lists.listed.len() / 2][1] as usize];
    for (columns, first) in
        some_columns(width, m).into_iter().flat_map(|columns| halves.map(|first| (columns.clone(), first)))
    {
        let single = Single::sparse_gradient(gpu, shape, &lists, first, &residual, columns.clone(), width);
        let mut single = single.unwrap();
        plant(&mut single.variant.source);
        single.run(1).unwrap();
        let found = single.results().unwrap().remove(0);
        let (mut sums, mut right, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
        for &[feature, begin, end, _] in lists.listed.iter().filter(|listed| listed[1] as usize >= first) {
            for column in columns.clone().filter(|&column| column < m) {
                let of_segment = |segment: u32| {
                    f64::from(found[(segment as usize - first) * columns.len() + column - columns.start])
                };
                sums.push((begin..end).map(of_segment).sum::<f64>() as f32);
                right.push(expected[feature as usize * m + column]);
                bounds.push(bound[feature as usize * m + column]);
            }
        }
        let what = format!("sparse gradient {case:?} {width:?} {columns:?} from {first}");
        reference::compare(&what, &sums, &right, &bounds)?;
    }
    Ok(())
}

/// Segments of the gradient of a case, how features have them, and for all parameters what they add up to with `scale`,
/// and the error of that.
struct Segments {
    lists: Transposed,
    partials: Vec<f32>,
    gradient: Vec<f64>,
    error: Vec<f64>,
}

const SCALE: f32 = 0.7;

impl Segments {
    fn new(random: &mut Random, case: (usize, usize, usize, usize)) -> Self {
        let ((n, d, ..), shape) = (case, shape_of(case));
        let m = shape.n_outputs();
        let (x, _) = features(random, n, d);
        let lists = Transposed::new(csr(&x), 0..n, d);
        let partials = random.values(lists.n_segments() * m);
        let (mut gradient, mut error) = (vec![0.0; shape.n_parameters()], vec![0.0; shape.n_parameters()]);
        for &[feature, first, end, _] in &lists.listed {
            let scale = if feature as usize == d { 1.0 } else { f64::from(SCALE) };
            let terms = f64::from(end - first) + 2.0;
            for column in 0..m {
                let values = (first..end).map(|segment| f64::from(partials[segment as usize * m + column]) * scale);
                let at = feature as usize * m + column;
                error[at] = terms * reference::UNIT_ROUNDOFF * values.clone().map(f64::abs).sum::<f64>();
                gradient[at] = values.sum();
            }
        }
        Self { lists, partials, gradient, error }
    }
}

fn reduce_error(gpu: &Gpu, case: (usize, usize, usize, usize), plant: Plant) -> Result<(), String> {
    const SUMS: usize = 3;
    let shape = shape_of(case);
    let (m, n_parameters) = (shape.n_outputs(), shape.n_parameters());
    let mut random = Random::new(5);
    let Segments { lists, partials, gradient, error } = Segments::new(&mut random, case);
    let totals = random.values(SUMS * n_parameters);
    for (columns, part) in [(0..m, 0), (m / 2..m, 4)] {
        let (of_columns, of_totals) = (pick_columns(&partials, m, &columns), pick_columns(&totals, m, &columns));
        let single = Single::sparse_reduce(gpu, shape, SCALE, &lists, &of_columns, &of_totals, part, columns.clone());
        let mut single = single.unwrap();
        plant(&mut single.variant.source);
        single.run(1).unwrap();
        let (mut expected, mut bound) = (f64s(&totals), vec![0.0; totals.len()]);
        for i in 0..n_parameters {
            let at = part % SUMS * n_parameters + i;
            bound[at] = error[i] + reference::UNIT_ROUNDOFF * (expected[at].abs() + gradient[i].abs() + error[i]);
            expected[at] += gradient[i];
        }
        let what = format!("sparse reduce {case:?} {columns:?}");
        let (expected, bound) = (pick_columns(&expected, m, &columns), pick_columns(&bound, m, &columns));
        reference::compare(&what, &single.results().unwrap()[0], &expected, &bound)?;
    }
    Ok(())
}

/// Heads that differ in all that they can.
fn some_heads(n: usize, adamw: bool) -> Vec<Head> {
    let rule = |head: usize| match adamw {
        false => Rule::Momentum { momentum: if head == 1 { 0.0 } else { 0.9 }, nesterov: head.is_multiple_of(2) },
        true => Rule::AdamW {
            beta_1: 0.9,
            beta_2: 0.99,
            epsilon: 1e-3 * (head + 1) as f32,
            weight_decay: 0.1 * head as f32,
        },
    };
    let head = |head: usize| Head {
        learning_rate: 0.1 + 0.3 * head as f32,
        l2: 0.05 * (head + 1) as f32,
        intercept: head % 3 != 1,
        rule: rule(head),
    };
    (0..n).map(head).collect()
}

fn update_error(gpu: &Gpu, case: (usize, usize, usize, usize), adamw: bool, plant: Plant) -> Result<(), String> {
    let shape = shape_of(case);
    let (m, n_parameters) = (shape.n_outputs(), shape.n_parameters());
    let (rate, t) = (0.6f32, 3);
    let mut random = Random::new(4);
    let Segments { lists, partials, mut gradient, mut error } = Segments::new(&mut random, case);
    let parameters = Parameters { shape, values: random.values(n_parameters) };
    let mut moments = random.values(n_parameters);
    if adamw {
        moments.extend(random.values(n_parameters).iter().map(|s| s.abs()));
    }
    let heads = some_heads(shape.n_heads, adamw);
    // The whole list, and one that begins in the middle.
    for (columns, first) in [(0..m, 0), (m / 2..m, lists.listed.len() / 2)] {
        let first_segment = lists.listed[first][1] as usize;
        for &[feature, ..] in &lists.listed[..first] {
            gradient[feature as usize * m..][..m].fill(0.0);
            error[feature as usize * m..][..m].fill(0.0);
        }
        let of_columns = pick_columns(&partials[first_segment * m..], m, &columns);
        let first = (first_segment, first);
        let single = Single::sparse_update(
            gpu,
            &parameters,
            &moments,
            SCALE,
            &lists,
            &of_columns,
            first,
            &heads,
            (rate, t),
            columns.clone(),
        );
        let mut single = single.unwrap();
        plant(&mut single.variant.source);
        single.run(1).unwrap();
        let results = single.results().unwrap();

        let mut state = reference::State::new(f64s(&parameters.values));
        state.first = f64s(&moments[..n_parameters]);
        if adamw {
            state.second = f64s(&moments[n_parameters..]);
        }
        let before = state.clone();
        let exact = reference::State::new(vec![0.0; n_parameters]);
        let mut bound = reference::update_bound(&state, &exact, &gradient, &error, &heads, rate.into(), t, shape);
        reference::update(&mut state, &gradient, &heads, rate.into(), t, shape);
        if !adamw {
            // What the list has not stays as it is.
            let is_listed = |feature: usize| lists.listed[first.1..].iter().any(|listed| listed[0] as usize == feature);
            for feature in (0..=shape.n_features).filter(|&feature| !is_listed(feature)) {
                for i in feature * m..(feature + 1) * m {
                    (state.parameters[i], state.first[i]) = (before.parameters[i], before.first[i]);
                    (bound.parameters[i], bound.first[i]) = (0.0, 0.0);
                }
            }
        }
        let what = format!("sparse update {case:?} {columns:?}, AdamW {adamw}");
        let compare = |part: &str, found: &[f32], expected: &[f64], bound: &[f64]| {
            let (expected, bound) = (pick_columns(expected, m, &columns), pick_columns(bound, m, &columns));
            reference::compare(&format!("{what}: {part}"), found, &expected, &bound)
        };
        let (of_first, of_second) = results[1].split_at((shape.n_features + 1) * columns.len());
        compare("weights", &results[0], &state.parameters, &bound.parameters)?;
        compare("first moments", of_first, &state.first, &bound.first)?;
        if adamw {
            compare("second moments", of_second, &state.second, &bound.second)?;
        }
    }
    Ok(())
}

/// All at once against one step after the other.
fn catch_up_error(gpu: &Gpu, case: (usize, usize, usize, usize), n_done: usize, plant: Plant) -> Result<(), String> {
    let shape = shape_of(case);
    let (m, n_parameters) = (shape.n_outputs(), shape.n_parameters());
    let mut random = Random::new(6);
    let parameters = Parameters { shape, values: random.values(n_parameters) };
    let moments = random.values(n_parameters);
    let heads = some_heads(shape.n_heads, false);
    let rates: Vec<f32> = (0..n_done).map(|_| 0.5 + 0.4 * random.value()).collect();
    // Most features, and as many steps of each.
    let listed: Vec<[u32; 4]> = (0..=shape.n_features)
        .filter(|feature| feature % 3 != 2)
        .map(|feature| [feature as u32, 0, 0, random.below(n_done + 1) as u32])
        .collect();
    let mut since = vec![n_done; shape.n_features + 1];
    listed
        .iter()
        .filter(|listed| (listed[0] as usize) < shape.n_features)
        .for_each(|listed| since[listed[0] as usize] = listed[3] as usize);

    let zeros = vec![0.0; n_parameters];
    let mut state = reference::State::new(f64s(&parameters.values));
    state.first = f64s(&moments);
    let mut error = reference::State::new(zeros.clone());
    for (t, &rate) in rates.iter().enumerate() {
        let (before, error_before) = (state.clone(), error.clone());
        error = reference::update_bound(&state, &error, &zeros, &zeros, &heads, rate.into(), 1, shape);
        reference::update(&mut state, &zeros, &heads, rate.into(), 1, shape);
        for i in (0..n_parameters).filter(|i| since[i / m] > t) {
            (state.parameters[i], state.first[i]) = (before.parameters[i], before.first[i]);
            (error.parameters[i], error.first[i]) = (error_before.parameters[i], error_before.first[i]);
        }
    }
    for columns in [0..m, m / 2..m] {
        let single = Single::sparse_catch_up(gpu, &parameters, &moments, &listed, &heads, &rates, columns.clone());
        let mut single = single.unwrap();
        plant(&mut single.variant.source);
        single.run(1).unwrap();
        let results = single.results().unwrap();
        let what = format!("sparse catch up {case:?} {n_done} {columns:?}");
        let compare = |part: &str, found: &[f32], expected: &[f64], bound: &[f64]| {
            let (expected, bound) = (pick_columns(expected, m, &columns), pick_columns(bound, m, &columns));
            reference::compare(&format!("{what}: {part}"), found, &expected, &bound)
        };
        compare("weights", &results[0], &state.parameters, &error.parameters)?;
        compare("velocities", &results[1], &state.first, &error.first)?;
    }
    Ok(())
}

#[test]
fn kernels_are_those_of_the_reference() {
    for_each_gpu(|gpu| {
        for case in SHAPES {
            for width in Width::ALL {
                for lanes in Lanes::ALL {
                    logits_error(gpu, case, (width, lanes), NOTHING).unwrap();
                }
                gradient_error(gpu, case, width, NOTHING).unwrap();
            }
            reduce_error(gpu, case, NOTHING).unwrap();
            for adamw in [false, true] {
                update_error(gpu, case, adamw, NOTHING).unwrap();
            }
            for n_done in [1, 2, 7, 64, 100] {
                catch_up_error(gpu, case, n_done, NOTHING).unwrap();
            }
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
                logits_error(&gpu, MORE_WORKGROUPS_BY_ROWS, (Width::Four, Lanes::ALL[0]), plant),
                gradient_error(&gpu, MORE_WORKGROUPS_BY_FEATURES, Width::Four, plant),
                reduce_error(&gpu, MORE_WORKGROUPS_BY_FEATURES, plant),
                update_error(&gpu, MORE_WORKGROUPS_BY_FEATURES, true, plant),
                catch_up_error(&gpu, MORE_WORKGROUPS_BY_FEATURES, 3, plant),
            ]
        };
        all(NOTHING).into_iter().collect::<Result<Vec<_>, _>>().unwrap();
        assert!(all(&wrong).iter().all(Result::is_err));
    }
}

#[test]
fn a_planted_error_is_noticed() {
    for gpu in gpus(Options::default()) {
        for (from, to) in [
            ("sum * step.scale + bias", "sum + bias"),
            ("sum * step.scale + bias", "sum * step.scale"),
            ("row = order[row];", ""),
            ("offsets[row] + lane", "offsets[row]"),
            ("i < end;", "i + 1u < end;"),
            ("+ step.first_column) / WIDTH", ") / WIDTH"),
            ("stride > 0u", "stride > 1u"),
            ("entry.x * n_columns + column", "entry.x * n_columns"),
        ] {
            let plant = replace(from, to);
            for width in Width::ALL {
                assert!(logits_error(&gpu, SHAPES[2], (width, Lanes::ALL[1]), &plant).is_err(), "{from} -> {to}");
            }
        }
        for (from, to) in [
            ("segments[segment + 1u]", "segments[segment + 1u] - 1u"),
            ("step.first_segment + item", "item"),
            ("step.first_column / WIDTH + item", "item"),
            ("member.x * stride", "member.x"),
            ("bitcast<f32>(member.y)", "1.0"),
        ] {
            let plant = replace(from, to);
            for width in Width::ALL {
                assert!(gradient_error(&gpu, SHAPES[3], width, &plant).is_err(), "{from} -> {to}");
            }
        }
        for (from, to) in [
            ("scale * sum", "sum"),
            ("step.scale, 1.0, feature.x == step.n_features", "step.scale, step.scale, true"),
            ("step.first_part % step.n_sums", "0u"),
            ("+= scale", "= scale"),
            ("segment < feature.z", "segment + 1u < feature.z"),
        ] {
            assert!(reduce_error(&gpu, SHAPES[6], &replace(from, to)).is_err(), "{from} -> {to}");
        }
        for (from, to) in [
            ("step.scale * g", "g"),
            ("head.l2 * w", "0.0 * w"),
            ("g *= head.intercept", "g *= 1.0"),
            ("step.first_column + column", "column"),
            ("segment - step.first_segment", "segment"),
            ("step.rate * ", ""),
        ] {
            for adamw in [false, true] {
                let found = update_error(&gpu, SHAPES[3], adamw, &replace(from, to));
                assert!(found.is_err(), "{from} -> {to}, AdamW {adamw}");
            }
        }
        for (from, to) in [
            ("end = first + step.n_listed", "end = step.n_listed"),
            ("middle + 1u", "middle + 2u"),
            ("listed[middle].x <", "listed[middle].x <="),
        ] {
            assert!(update_error(&gpu, SHAPES[3], true, &replace(from, to)).is_err(), "{from} -> {to}");
        }
        for (from, to) in [
            ("power.x * before", "0.0 * before"),
            ("power.y * v;", "0.0 * v;"),
            ("power.z * before", "power.z * w"),
            ("power.w * v", "v"),
            ("at = feature.w", "at = 0u"),
            ("* step.n_heads + head", "* step.n_heads"),
            ("(at >> level)", "at"),
            ("step.first_column + column", "column"),
        ] {
            assert!(catch_up_error(&gpu, SHAPES[3], 21, &replace(from, to)).is_err(), "{from} -> {to}");
        }
    }
}

/// 2²⁴ features of which few are there: W is larger than many devices can see at once. The loss and its gradient, steps and
/// logits are those of the same data without the features that no sample has.
#[test]
fn many_features_are_held_in_shards() {
    let (n, d, q) = (30, 1 << 24, 3);
    let mut random = Random::new(11);
    // Some far apart, the first and the last.
    let present: Vec<usize> = (0..8).map(|i| (d - 1) * i / 7).collect();
    let (narrow, _) = features(&mut random, n, present.len());
    let of_narrow = csr(&narrow);
    let columns: Vec<u32> = of_narrow.columns().iter().map(|&column| present[column as usize] as u32).collect();
    let wide = Csr::new(of_narrow.offsets().to_vec(), columns, of_narrow.values().to_vec()).unwrap();
    let wide = Features::new(wide, n, d).unwrap();
    let targets = Targets::Classes((0..n as u32).map(|i| i % q as u32).collect());
    let heads = [Head {
        learning_rate: 0.05,
        l2: 0.1,
        intercept: true,
        rule: Rule::Momentum { momentum: 0.9, nesterov: false },
    }];
    for gpu in gpus(Options::default()) {
        let run = |features: &Features, rows: &[usize]| {
            let shape = Shape { n_features: features.n_features(), n_classes: q, n_heads: 1 };
            // The rows of the others, and the intercept.
            let place = |i: usize| rows.get(i / q).copied().unwrap_or(shape.n_features) * q + i % q;
            let mut start = Parameters::zeros(shape);
            (0..(rows.len() + 1) * q).for_each(|i| start.values[place(i)] = (i * 7 % 11) as f32 / 11.0 - 0.4);
            let supervision = Supervision { targets: &targets, weights: None };
            let mut session = gpu.session(features, 0.5, Some(supervision)).unwrap();
            let mut logits = vec![0.0; n * q];
            session.logits_into(&start, &mut logits, &|_, _| {}).unwrap();
            let evaluation = session.loss(shape).unwrap().start(&f64s(&start.values)).unwrap();
            let plan = Plan::new(session.chunks(), 7, 1, 0);
            let mut stepper = session.stepper(&start.into(), &heads, 7).unwrap();
            stepper.run(&plan, &vec![1.0; plan.batches.len()]).unwrap();
            let after = stepper.parameters().unwrap().values;
            let of_rows = |i| [evaluation.gradient[place(i)], after[place(i)].into()];
            let mut parts: Vec<f64> = (0..(rows.len() + 1) * q).flat_map(of_rows).collect();
            parts.extend(f64s(&logits));
            parts.extend(evaluation.point.losses);
            let norm = evaluation.gradient.iter().map(|g| g.abs()).sum::<f64>();
            let others = after.iter().map(|&w| f64::from(w).abs()).sum::<f64>();
            parts.extend([norm, others]);
            parts
        };
        let all: Vec<usize> = (0..present.len()).collect();
        let (of_wide, of_narrow) = (run(&wide, &present), run(&narrow, &all));
        // The last two are sums over all features, of which the others' values are zero.
        let largest = of_narrow.iter().fold(0.0f64, |max, value| max.max(value.abs()));
        for (i, (wide, narrow)) in of_wide.iter().zip(&of_narrow).enumerate() {
            assert!((wide - narrow).abs() <= 1e-6 * largest && wide.is_finite(), "{i}: {wide} {narrow}");
        }
        assert!(of_narrow.iter().filter(|value| value.abs() > 1e-3 * largest).count() > of_narrow.len() / 4);

        // What not even a column of fits is said.
        let too_wide = Csr::new(vec![0, 1], vec![u32::MAX - 1], vec![1f32]).unwrap();
        let too_wide = Features::new(too_wide, 1, u32::MAX as usize).unwrap();
        let shape = Shape { n_features: u32::MAX as usize, n_classes: 2, n_heads: 1 };
        let targets = Targets::Classes(vec![0].into());
        let supervision = Supervision { targets: &targets, weights: None };
        let error = gpu.session(&too_wide, 1.0, Some(supervision)).unwrap().loss(shape).map(drop).unwrap_err();
        assert!(matches!(error, Error::DeviceLimit { .. }) && error.to_string().contains("fewer features"), "{error}");
    }
}
