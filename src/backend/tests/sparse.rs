//! Sparse features: the same suite of cases, most values of which are 0, and what only sparse features have.

use super::*;
use crate::backend::State;
use crate::backend::cpu::Cpu;
use crate::data::Csr;

impl Case {
    /// The same with most values 0, and sparse: some samples and features have none, and one of each has all.
    pub(super) fn sparse(mut self) -> Self {
        let (n, d) = (self.features.n_samples(), self.shape.n_features);
        let mut row = vec![0.0; d];
        let (mut offsets, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for i in 0..n {
            self.features.read_row(i, &mut row);
            for (k, &value) in row.iter().enumerate() {
                let is_stored = i == 1 || (k == d / 2 && i % 6 != 3) || (i * 31 + k * 17 + i * k) % 7 == 0;
                if is_stored && (i % 6 != 3 || i == 1) && (k % 11 != 4 || i == 1) {
                    columns.push(k as u32);
                    values.push(value);
                }
            }
            offsets.push(values.len() as u64);
        }
        self.features = Features::new(Csr::new(offsets, columns, values).unwrap(), n, d).unwrap();
        for i in 0..n {
            self.features.read_row(i, &mut row);
            let to = &mut self.x[i * d..][..d];
            to.iter_mut().zip(&row).for_each(|(to, &x)| *to = f64::from(x) * f64::from(self.scale));
        }
        self
    }
}

#[test]
fn logits_are_those_of_the_reference() {
    for cpu in Cpu::all() {
        for sizes in CASES.into_iter().chain([(9000, 4, 600, 1, 40)]) {
            let case = Case::new(sizes, Dtype::F32, false).sparse();
            let m = case.shape.n_outputs();
            let mut session = case.session(&cpu);
            let (mut found, mut next_row) = (Vec::new(), 0);
            let mut append = |rows: Range<usize>, logits: &[f32]| {
                assert_eq!((rows.start, rows.len() * m), (next_row, logits.len()));
                next_row = rows.end;
                found.extend_from_slice(logits);
                Ok(())
            };
            session.logits(&case.start, &mut append).unwrap();
            let parameters = f64s(&case.start.values);
            let expected = reference::logits(&case.x, &parameters, case.shape);
            let bound = reference::logits_bound(&case.x, &parameters, case.shape);
            compare(&format!("{sizes:?}"), &found, &expected, &bound).unwrap();

            let mut placed = vec![f32::NAN; found.len()];
            session.logits_into(&case.start, &mut placed, &|first, rows| rows[0] += (first + 1) as f32).unwrap();
            let changed = placed.iter().zip(&found).filter(|(placed, found)| placed != found).count();
            assert_eq!(changed, sizes.0.div_ceil(32));
            let mut classes = vec![0; sizes.0 * case.shape.n_heads];
            session.classes(&case.start, &mut classes).unwrap();
            let best = reference::classes(&found, case.shape);
            assert_eq!(classes, best);

            // A value of one sample that is different.
            let mut other = case.x.clone();
            other[case.shape.n_features] += 1e-2;
            let expected = reference::logits(&other, &parameters, case.shape);
            compare("planted", &found, &expected, &bound).unwrap_err();
        }
    }
}

#[test]
fn epochs_are_those_of_the_reference() {
    for cpu in Cpu::all() {
        for (index, sizes) in CASES.into_iter().enumerate() {
            let case = Case::new(sizes, Dtype::F32, index % 3 == 1).sparse();
            let case = if index % 2 == 0 { case.weighted() } else { case };
            let what = format!("{}: {sizes:?}", cpu.info().driver);
            check(&what, &case, &case.heads, &case.train(&cpu)).unwrap();
            if sizes.0 < 1000 {
                let case = case.with_adamw();
                check(&format!("{what}, AdamW"), &case, &case.heads, &case.train(&cpu)).unwrap();
            }
        }
    }
}

/// Of a feature that few batches have, all that is done to it is the decay that is made up for later.
#[test]
fn a_planted_error_of_steps_is_noticed() {
    let new = || Case::new((130, 64, 10, 3, 4), Dtype::F32, false).sparse();
    let (cpu, case) = (Cpu::new(), new());
    let trained = case.train(&cpu);
    check("as it is", &case, &case.heads, &trained).unwrap();
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
        assert!(check("planted", &case, &heads, &trained).is_err(), "change {index}");
    }
    let mut other = new();
    let stored = other.x.iter().position(|&x| x.abs() > 0.1).unwrap();
    other.x[stored] *= 1.01;
    check("planted", &other, &other.heads, &trained).unwrap_err();
    let mut other = new();
    let zero = other.x.iter().position(|&x| x == 0.0).unwrap();
    other.x[zero] += 1e-2;
    check("planted", &other, &other.heads, &trained).unwrap_err();
}

/// A stepper from the state of another goes on to the same bits.
#[test]
fn a_state_goes_on_to_the_same_bits() {
    for adamw in [false, true] {
        let case = Case::new((300, 40, 7, 2, 32), Dtype::F32, false).sparse();
        let case = if adamw { case.with_adamw() } else { case };
        let (cpu, n) = (Cpu::new(), 300);
        let plans: Vec<Plan> =
            (0..3).map(|epoch| Plan::new(std::slice::from_ref(&(0..n)), case.batch_size, 3, epoch)).collect();
        let run = |start: &State, plans: &[Plan]| {
            let mut session = case.session(&cpu);
            let mut stepper = session.stepper(start, &case.heads, case.batch_size).unwrap();
            plans.iter().for_each(|plan| drop(stepper.run(plan, &rates(plan)).unwrap()));
            stepper.state().unwrap()
        };
        let start: State = case.start.clone().into();
        let (whole, first) = (run(&start, &plans), run(&start, &plans[..1]));
        assert_eq!(run(&first, &plans[1..]), whole);
        // Without the moments it is another training.
        let without = State { moments: Vec::new(), ..first };
        assert_ne!(run(&without, &plans[1..]).parameters, whole.parameters);
    }
}

/// With each instruction set, to the precision of `f64`.
#[test]
fn losses_are_in_double_precision() {
    let mut number = 0;
    for d in [1, 2, 15, 16, 33] {
        for n in [2, 5, 64, 129, 1000] {
            for (q, h) in [(2, 1), (3, 3), (13, 2), (77, 1), (200, 1)] {
                let (soft, is_weighted) = (number % 2 == 1, number / 2 % 2 == 0 || n == 1000);
                let size = [1.0, 1.0, 1e3][number % 3];
                number += 1;
                let mut case = Case::new((n, d, q, h, n), Dtype::F32, soft).sparse();
                case.start.values.iter_mut().for_each(|value| *value *= size);
                let weights = is_weighted.then(|| case.weights());
                let weights = weights.as_deref();
                let expected = case.expected_of_loss(weights);
                for cpu in Cpu::all() {
                    let what = format!("{}: {n} × {d}, {h} · {q}, {size}", cpu.info().driver);
                    let supervision = Supervision { targets: &case.targets, weights };
                    let mut session = cpu.session(&case.features, case.scale, Some(supervision)).unwrap();
                    let mut loss = session.loss(case.shape).unwrap();
                    case.check_loss_by(check_double, &what, &mut *loss, &expected).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_planted_error_in_a_loss_is_noticed() {
    let case = || Case::new((129, 17, 5, 2, 129), Dtype::F32, true).sparse();
    let (right, weights) = (case(), case().weights());
    let (mut other_feature, mut other_zero, mut other_target) = (case(), case(), case());
    let stored = right.x.iter().position(|&x| x.abs() > 1e-3).unwrap();
    other_feature.x[stored] *= 1.0 + 1e-8;
    let zero = right.x.iter().position(|&x| x == 0.0).unwrap();
    other_zero.x[zero] = 1e-8;
    other_target.y[0] *= 1.0 + 1e-8;
    let mut other_weights = weights.clone();
    other_weights[0] *= 1.0 + f32::EPSILON;
    let cpu = Cpu::new();
    let supervision = Supervision { targets: &right.targets, weights: Some(&weights) };
    let mut session = cpu.session(&right.features, right.scale, Some(supervision)).unwrap();
    let mut loss = session.loss(right.shape).unwrap();
    let mut check = |expected: &[_]| right.check_loss_by(check_double, "planted", &mut *loss, expected);
    check(&right.expected_of_loss(Some(&weights))).unwrap();
    for expected in [
        other_feature.expected_of_loss(Some(&weights)),
        other_zero.expected_of_loss(Some(&weights)),
        other_target.expected_of_loss(Some(&weights)),
        right.expected_of_loss(Some(&other_weights)),
    ] {
        check(&expected).unwrap_err();
    }
}

#[test]
fn nothing_depends_on_the_number_of_threads() {
    for sizes in [(5, 3, 3, 1, 5), (3000, 7, 3, 1, 64), (1501, 200, 10, 2, 700), (2110, 1501, 40, 2, 512)] {
        for adamw in [false, true] {
            let case = Case::new(sizes, Dtype::F32, false).sparse().weighted();
            let case = if adamw { case.with_adamw() } else { case };
            let evaluate = |n_threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
                pool.install(|| {
                    let cpu = Cpu::new();
                    let mut session = case.session(&cpu);
                    let mut loss = session.loss(case.shape).unwrap();
                    loss.start(&case.like_start(1)).unwrap();
                    let t = case.lengths(0.5);
                    let evaluation = loss.look(&case.like_start(2), &t).unwrap();
                    let points = loss.along(&case.points()).unwrap();
                    loss.advance(&t).unwrap();
                    let product = loss.hessian_vector(&case.like_start(3)).unwrap();
                    drop(loss);
                    let trained = case.train(&cpu);
                    (evaluation, points, product, trained.parameters, trained.losses)
                })
            };
            let one = evaluate(1);
            for n_threads in [2, 5] {
                assert!(evaluate(n_threads) == one, "{sizes:?}, {n_threads} threads");
            }
        }
    }
}

#[test]
fn what_does_not_suit_is_an_error() {
    let case = Case::new((40, 5, 3, 1, 16), Dtype::F32, false).sparse();
    let cpu = Cpu::new();
    let mut without = cpu.session(&case.features, 1.0, None).unwrap();
    assert_shape_error!(without.loss(case.shape).map(drop), "targets");
    assert_shape_error!(without.stepper(&case.start.clone().into(), &case.heads, 16).map(drop), "targets");
    let mut session = case.session(&cpu);
    let error = session.loss(Shape { n_features: 4, ..case.shape }).map(drop).unwrap_err();
    assert!(matches!(error, Error::Width { model: 4, data: 5 }), "{error}");
    assert_shape_error!(session.logits_into(&case.start, &mut [0.0; 3], &|_, _| {}), "values of the logits");
    let mut loss = session.loss(case.shape).unwrap();
    let (point, t) = (vec![0.5; case.shape.n_parameters()], case.lengths(0.0));
    let evaluation = loss.start(&point).unwrap();
    assert_shape_error!(loss.start(&point[1..]), "values");
    assert_shape_error!(loss.look(&point[1..], &t), "values");
    assert_shape_error!(loss.hessian_vector(&[]), "values");
    assert_shape_error!(loss.gradient(&[]), "lengths");
    assert_shape_error!(loss.advance(&[0.0, 0.0]), "lengths");
    assert_eq!(loss.along(&[]).unwrap(), []);
    assert_eq!(loss.gradient(&t).unwrap(), evaluation);
    drop(loss);
    let mut stepper = session.stepper(&case.start.clone().into(), &case.heads, 16).unwrap();
    let order = Permutation::new(39, &mut Shuffle::new(0, 0));
    let plan = Plan { orders: vec![order], batches: vec![], blocks: None };
    assert_shape_error!(stepper.run(&plan, &[]), "rows of a chunk");
}

/// As many features as hashing makes, hardly any of which occur: as with only those that do.
#[test]
fn many_features_of_which_few_occur() {
    const D: usize = 1 << 24;
    let columns = [0u32, 77, 1 << 20, (1 << 24) - 1];
    let (n, q) = (50, 2);
    let rows: Vec<Vec<usize>> = (0..n).map(|i| (0..4).filter(|k| (i + k) % 3 == 0).collect()).collect();
    let csr = |of: &dyn Fn(usize) -> u32, d: usize| {
        let mut offsets = vec![0];
        let (mut indices, mut values) = (Vec::new(), Vec::new());
        for (i, row) in rows.iter().enumerate() {
            indices.extend(row.iter().map(|&k| of(k)));
            values.extend(row.iter().map(|k| (1 + i % 5 + k) as f32 * 0.25));
            offsets.push(values.len() as u64);
        }
        Features::new(Csr::new(offsets, indices, values).unwrap(), n, d).unwrap()
    };
    let targets = Targets::Classes((0..n).map(|i| (i % 2) as u32).collect::<Vec<_>>().into());
    let run = |features: &Features, places: &[usize]| {
        let shape = Shape { n_features: features.n_features(), n_classes: q, n_heads: 1 };
        let cpu = Cpu::new();
        let mut session = cpu.session(features, 1.0, Some((&targets).into())).unwrap();
        let pick = |values: &[f64]| -> Vec<f64> {
            let rows = places.iter().copied().chain([shape.n_features]);
            rows.flat_map(|row| values[row * q..][..q].to_vec()).collect()
        };
        let mut parameters = vec![0.0; shape.n_parameters()];
        places.iter().for_each(|&place| parameters[place * q] = 0.5);
        let mut loss = session.loss(shape).unwrap();
        let evaluation = loss.start(&parameters).unwrap();
        let gradient = pick(&evaluation.gradient);
        drop(loss);
        let rule = Rule::Momentum { momentum: 0.9, nesterov: true };
        let head = Head { learning_rate: 0.1, l2: 0.01, intercept: true, rule };
        let start = Parameters { shape, values: parameters.iter().map(|&value| value as f32).collect() };
        let mut stepper = session.stepper(&start.into(), &[head], 8).unwrap();
        let plan = Plan::new(std::slice::from_ref(&(0..n)), 8, 0, 0);
        stepper.run(&plan, &vec![1.0; plan.batches.len()]).unwrap();
        let trained = stepper.parameters().unwrap();
        assert!(trained.values.iter().filter(|&&value| value != 0.0).count() <= (places.len() + 1) * q);
        (evaluation.point, gradient, pick(&f64s(&trained.values)))
    };
    let many = run(&csr(&|k| columns[k], D), &columns.map(|column| column as usize));
    let few = run(&csr(&|k| k as u32, 4), &[0, 1, 2, 3]);
    assert_eq!(many, few);
    assert!(few.1.iter().all(|&g| g != 0.0));
}
