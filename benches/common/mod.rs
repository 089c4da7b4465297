//! What the benchmarks share: devices, and data that is the same in every run.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

use softreg::backend::cpu::Cpu;
use softreg::backend::{Backend, Head, Parameters, Shape};
use softreg::batch::Plan;
use softreg::data::{Features, Targets};
use softreg::reference::{Steps, compare};

/// The CPU backend and every GPU, software ones too, with the name that results are recorded under.
pub fn backends() -> Vec<(String, Box<dyn Backend>)> {
    #[cfg_attr(not(feature = "gpu"), expect(unused_mut, reason = "there is the CPU alone"))]
    let mut backends: Vec<Box<dyn Backend>> = vec![Box::new(Cpu::new())];
    #[cfg(feature = "gpu")]
    backends.extend(gpus().into_iter().map(|gpu| Box::new(gpu) as Box<dyn Backend>));
    backends.into_iter().map(|backend| (name(&*backend), backend)).collect()
}

/// Every GPU, software ones too.
#[cfg(feature = "gpu")]
pub fn gpus() -> Vec<softreg::backend::gpu::Gpu> {
    use softreg::backend::gpu::{Gpu, Options};
    Gpu::open_all(Options::default())
        .into_iter()
        .filter_map(|gpu| gpu.inspect_err(|error| eprintln!("left out: {error}")).ok())
        .collect()
}

pub fn name(backend: &dyn Backend) -> String {
    let info = backend.info();
    format!("{} [{}, {}]", info.name, info.backend, info.driver)
}

/// Numbers between -1 and 1, by Knuth's multiplicative hash.
pub fn values(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// A training set.
pub struct Data {
    pub shape: Shape,
    pub features: Features<'static>,
    pub targets: Targets<'static>,
    pub start: Parameters,
}

pub const HEAD: Head = Head { learning_rate: 0.01, momentum: 0.9, nesterov: true, l2: 1e-5 };

impl Data {
    pub fn new(n: usize, n_features: usize, n_classes: usize) -> Self {
        let shape = Shape { n_features, n_classes, n_heads: 1 };
        let classes: Vec<u32> = (0..n).map(|i| (i * 7919 % n_classes) as u32).collect();
        let start = values(shape.n_parameters()).iter().map(|w| 0.1 * w).collect();
        Self {
            shape,
            features: Features::new(values(n * n_features), n, n_features).expect("they are finite"),
            targets: Targets::Classes(classes.into()),
            start: Parameters { shape, values: start },
        }
    }

    /// One step on `backend` with the first 200 rows, compared with the reference: a benchmark of wrong results is
    /// worth nothing.
    pub fn verify(&self, what: &str, backend: &dyn Backend) {
        const ROWS: usize = 200;
        let features = self.features.rows(0..ROWS).expect("there are as many");
        let targets = self.targets_of(ROWS);
        let mut session = backend.session(&features, 1.0, Some(&targets)).expect("a device with room for 200 rows");
        let plan = Plan::new(session.chunks(), ROWS, 0, 0);
        let mut stepper = session.stepper(&self.start, &[HEAD], ROWS).expect("a device with room for the weights");
        let losses = stepper.run(&plan, &[1.0]).expect("a step");
        let found = stepper.parameters().expect("the parameters");

        let d = self.shape.n_features;
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for sample in plan.order.iter().map(|&sample| sample as usize) {
            x.extend(values_of(&features)[sample * d..][..d].iter().map(|&x| f64::from(x)));
            y.extend(self.one_hot(sample..sample + 1));
        }
        let mut steps = Steps::new(&self.start);
        steps.step(&x, &y, &[HEAD], 1.0);
        let losses: Vec<f32> = losses.iter().map(|&loss| loss as f32).collect();
        compare(what, &found.values, &steps.parameters, &steps.parameters_bound)
            .and_then(|()| compare(what, &losses, &steps.losses, &steps.losses_bound))
            .unwrap_or_else(|difference| panic!("{difference}"));
    }

    /// The labels of some rows as distributions.
    pub fn one_hot(&self, rows: std::ops::Range<usize>) -> Vec<f64> {
        let Targets::Classes(classes) = &self.targets else { unreachable!("made above") };
        let row = |&class: &u32| (0..self.shape.n_classes).map(move |j| f64::from(u8::from(j == class as usize)));
        classes[rows].iter().flat_map(row).collect()
    }

    fn targets_of(&self, rows: usize) -> Targets<'_> {
        match &self.targets {
            Targets::Classes(classes) => Targets::Classes(classes[..rows].into()),
            _ => unreachable!("made above"),
        }
    }
}

pub fn values_of<'a>(features: &'a Features) -> &'a [f32] {
    match features.values() {
        softreg::data::Values::F32(values) => values,
        _ => unreachable!("made above"),
    }
}
