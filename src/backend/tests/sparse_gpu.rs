//! Sparse features on GPUs: the same cases, with W in one shard and in many, and in chunks.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::backend::State;
use crate::backend::gpu::{Gpu, Options};
use crate::data::Csr;

/// Every GPU as it is, with W in shards of a few columns and small chunks, and in shards of one column.
fn gpus() -> Vec<(String, Gpu)> {
    let mut gpus = Vec::new();
    for (max_chunk, max_shard) in [(None, None), (Some(8 << 10), Some(64 << 10)), (None, Some(1))] {
        let all = Gpu::open_all(Options { max_chunk, max_shard, ..Options::default() });
        gpus.extend(all.into_iter().map(|gpu| {
            let gpu = gpu.unwrap();
            (format!("{}, chunks {max_chunk:?}, shards {max_shard:?}", gpu.info().name), gpu)
        }));
    }
    gpus
}

/// Those of which the reference takes less long.
fn cases() -> impl Iterator<Item = (usize, Sizes)> {
    CASES.into_iter().filter(|&(n, d, q, h, _)| n * d * q * h < 3_000_000).enumerate()
}

#[test]
fn epochs_are_those_of_the_reference() {
    for (name, gpu) in gpus() {
        for (index, sizes) in cases() {
            let case = Case::new(sizes, Dtype::F32, index % 2 == 1).sparse();
            let case = if index % 3 == 1 { case.weighted() } else { case };
            let what = format!("{name}: {sizes:?}");
            check(&what, &case, &case.heads, &case.train(&gpu)).unwrap();
            let case = case.with_adamw();
            check(&format!("{what}, AdamW"), &case, &case.heads, &case.train(&gpu)).unwrap();
        }
    }
}

/// Of a feature that few batches have, all that is done to it is what is made up for later.
#[test]
fn a_planted_error_of_steps_is_noticed() {
    let new = || Case::new((130, 64, 10, 3, 4), Dtype::F32, false).sparse();
    let case = new();
    for (name, gpu) in gpus() {
        let trained = case.train(&gpu);
        check(&name, &case, &case.heads, &trained).unwrap();
        type Change = fn(&mut Head);
        let changes: [Change; 5] = [
            |head| head.learning_rate *= 1.001,
            |head| head.l2 *= 1.01,
            |head| head.rule = Rule::Momentum { momentum: 0.501, nesterov: true },
            |head| head.rule = Rule::Momentum { momentum: 0.5, nesterov: false },
            |head| head.intercept = false,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut heads = case.heads.clone();
            change(&mut heads[2]);
            assert!(check("planted", &case, &heads, &trained).is_err(), "{name}: change {index}");
        }
        let mut other = new();
        let zero = other.x.iter().position(|&x| x == 0.0).unwrap();
        other.x[zero] += 1e-2;
        check("planted", &other, &other.heads, &trained).unwrap_err();
    }
}

/// More steps than the device has a table of are steps like others.
#[test]
fn many_steps_are_those_of_the_reference() {
    for gpu in Gpu::open_all(Options::default()) {
        let gpu = gpu.unwrap();
        // 2,048 heads leave room for 512 steps.
        let mut case = Case::new((600, 1, 2, 2048, 1), Dtype::F32, false).sparse();
        case.heads.iter_mut().for_each(|head| head.learning_rate *= 0.01);
        check("many steps", &case, &case.heads, &case.train(&gpu)).unwrap();
    }
}

#[test]
fn losses_are_those_of_the_reference() {
    let gpus = gpus();
    for (index, sizes) in cases() {
        let case = Case::new(sizes, Dtype::F32, index % 2 == 1).sparse();
        let weights = (index % 3 != 0).then(|| case.weights());
        let weights = weights.as_deref();
        let expected = case.expected_of_loss(weights);
        for (name, gpu) in &gpus {
            let what = format!("{name}: {sizes:?}, weights {}", weights.is_some());
            let supervision = Supervision { targets: &case.targets, weights };
            let mut session = gpu.session(&case.features, case.scale, Some(supervision)).unwrap();
            let mut loss = session.loss(case.shape).unwrap();
            case.check_loss(&what, &mut *loss, &expected).unwrap();
        }
    }
}

#[test]
fn a_planted_error_in_a_loss_is_noticed() {
    let case = || Case::new((130, 64, 10, 3, 64), Dtype::F32, false).sparse();
    let (right, weights) = (case(), case().weights());
    let (mut other_feature, mut other_zero, mut other_target) = (case(), case(), case());
    let stored = right.x.iter().position(|&x| x.abs() > 0.1).unwrap();
    other_feature.x[stored] += 1e-2;
    let zero = right.x.iter().position(|&x| x == 0.0).unwrap();
    other_zero.x[zero] += 1e-2;
    other_target.y.swap(0, 1);
    let wrong = [&other_feature, &other_zero, &other_target].map(|case| case.expected_of_loss(Some(&weights)));
    for (name, gpu) in gpus() {
        let supervision = Supervision { targets: &right.targets, weights: Some(&weights) };
        let mut session = gpu.session(&right.features, right.scale, Some(supervision)).unwrap();
        let mut loss = session.loss(right.shape).unwrap();
        right.check_loss(&name, &mut *loss, &right.expected_of_loss(Some(&weights))).unwrap();
        for expected in &wrong {
            right.check_loss(&name, &mut *loss, expected).unwrap_err();
        }
    }
}

#[test]
fn logits_and_classes_are_those_of_the_reference() {
    for (name, gpu) in gpus() {
        for (_, sizes) in cases() {
            let case = Case::new(sizes, Dtype::F32, false).sparse();
            let mut found = vec![f32::NAN; sizes.0 * case.shape.n_outputs()];
            let mut session = case.session(&gpu);
            session.logits_into(&case.start, &mut found, &|_, _| {}).unwrap();
            let w = f64s(&case.start.values);
            let expected = reference::logits(&case.x, &w, case.shape);
            let bound = reference::logits_bound(&case.x, &w, case.shape);
            compare(&format!("{name}: {sizes:?}"), &found, &expected, &bound).unwrap();
            let mut classes = vec![0; sizes.0 * case.shape.n_heads];
            session.classes(&case.start, &mut classes).unwrap();
            assert_eq!(classes, reference::classes(&found, case.shape), "{name}: {sizes:?}");
        }
    }
}

/// The same bits again, also from a state in the middle.
#[test]
fn the_same_plan_gives_the_same_bits() {
    for (name, gpu) in gpus() {
        for adamw in [false, true] {
            let case = Case::new((300, 40, 7, 2, 32), Dtype::F32, false).sparse();
            let case = if adamw { case.with_adamw() } else { case };
            let chunks = case.session(&gpu).chunks().to_vec();
            let plans: Vec<Plan> = (0..3).map(|epoch| Plan::new(&chunks, case.batch_size, 3, epoch)).collect();
            let run = |start: &State, plans: &[Plan]| {
                let mut session = case.session(&gpu);
                let mut stepper = session.stepper(start, &case.heads, case.batch_size).unwrap();
                plans.iter().for_each(|plan| drop(stepper.run(plan, &rates(plan)).unwrap()));
                let state = stepper.state().unwrap();
                assert_eq!(state.parameters, stepper.parameters().unwrap(), "{name}");
                state
            };
            let start: State = case.start.clone().into();
            let (whole, first) = (run(&start, &plans), run(&start, &plans[..1]));
            assert_eq!(run(&start, &plans), whole, "{name}");
            assert_eq!(run(&first, &plans[1..]), whole, "{name}");
            assert_eq!(run(&first, &[]), first, "{name}");
            // Without the moments it is another training.
            let without = State { moments: Vec::new(), ..first };
            assert_ne!(run(&without, &plans[1..]).parameters, whole.parameters, "{name}");
        }
    }
}

/// Chunks hold whole rows, also where some are long and many empty; nothing is a matrix, too.
#[test]
fn rows_of_all_lengths_are_in_chunks() {
    let (n, d, q) = (3000, 1500, 3);
    let length = |row: usize| if row == 1700 { d } else { [0, 0, 3, 1][row % 4] };
    let (mut offsets, mut columns) = (vec![0], Vec::new());
    for row in 0..n {
        let first = if row == 1700 { 0 } else { row * 7 % (d - 3) };
        columns.extend((first..first + length(row)).map(|column| column as u32));
        offsets.push(columns.len() as u64);
    }
    let values: Vec<f32> = (0..columns.len()).map(|i| (i % 13 + 1) as f32 * 0.1).collect();
    let csr = Csr::new(offsets, columns, values).unwrap();
    let features = Features::new(csr.clone(), n, d).unwrap();
    let empty = Features::new(Csr::new(vec![0; n + 1], vec![], vec![]).unwrap(), n, d).unwrap();
    let targets = Targets::Classes((0..n as u32).map(|i| i % q as u32).collect());
    let shape = Shape { n_features: d, n_classes: q, n_heads: 1 };
    let parameters = Parameters { shape, values: (0..(d + 1) * q).map(|i| (i % 17) as f32 * 0.1).collect() };
    for (name, gpu) in gpus() {
        for (features, most) in [(&features, 2), (&empty, 1)] {
            let mut session = gpu.session(features, 1.0, Some((&targets).into())).unwrap();
            let chunks = session.chunks().to_vec();
            assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start && !pair[0].is_empty()));
            assert_eq!((chunks[0].start, chunks[chunks.len() - 1].end), (0, n));
            assert_eq!(chunks.len() >= most, name.contains("chunks Some") || most == 1, "{name}: {}", chunks.len());
            let mut logits = vec![f32::NAN; n * q];
            session.logits_into(&parameters, &mut logits, &|_, _| {}).unwrap();
            let mut row = vec![0.0; d];
            for (i, found) in logits.chunks_exact(q).enumerate() {
                features.read_row(i, &mut row);
                for (j, found) in found.iter().enumerate() {
                    let w = |k: usize| f64::from(parameters.values[k * q + j]);
                    let expected = w(d) + (0..d).map(|k| f64::from(row[k]) * w(k)).sum::<f64>();
                    assert!((f64::from(*found) - expected).abs() <= 1e-4 * (1.0 + expected.abs()), "{name}: {i}, {j}");
                }
            }
            let evaluation = session.loss(shape).unwrap().start(&f64s(&parameters.values)).unwrap();
            let touched = evaluation.gradient.chunks_exact(q).filter(|row| row.iter().any(|&g| g != 0.0)).count();
            assert_eq!(touched, if most == 2 { d + 1 } else { 1 }, "{name}");
        }
    }
}

/// A step is few kernels, and an epoch is read once, whatever the features.
#[test]
fn an_epoch_is_few_kernels_and_read_once() {
    for gpu in Gpu::open_all(Options::default()) {
        let gpu = gpu.unwrap();
        let case = Case::new((700, 33, 5, 7, 2), Dtype::F32, false).sparse();
        for (case, n_kernels) in
            [(case, 5), (Case::new((700, 33, 65, 1, 2), Dtype::F32, false).sparse().with_adamw(), 4)]
        {
            let mut session = case.session(&gpu);
            let plan = Plan::new(session.chunks(), case.batch_size, 3, 0);
            let mut stepper = session.stepper(&case.start.clone().into(), &case.heads, case.batch_size).unwrap();
            let counts = || (gpu.counts.dispatches.load(Relaxed), gpu.counts.readbacks.load(Relaxed));
            let before = counts();
            stepper.run(&plan, &rates(&plan)).unwrap();
            let after = counts();
            assert_eq!((after.0 - before.0, after.1 - before.1), (n_kernels * 350, 1));
        }
    }
}
