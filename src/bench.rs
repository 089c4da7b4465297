//! Benchmarks of whole epochs: data that is the same in every run, a check of the results before anything is timed, and
//! devices that take turns.
//!
//! This module is public for the program and for benchmarks; it is not covered by semantic versioning.

use std::ops::Range;
use std::time::{Duration, Instant};

use half::f16;

use crate::backend::{Backend, Head, Parameters, Rule, Session, Shape, Stepper, Tried};
use crate::batch::Plan;
use crate::data::{Dtype, Features, Targets, Values};
use crate::error::{Error, Result};
use crate::reference::{Steps, compare};

/// How the steps of a benchmark are made.
pub const HEAD: Head =
    Head { learning_rate: 0.01, l2: 1e-5, intercept: true, rule: Rule::Momentum { momentum: 0.9, nesterov: true } };
/// Rows whose step is compared with the reference.
const VERIFIED_ROWS: usize = 200;
/// Epochs of each device at least, and at most.
const LEAST_EPOCHS: usize = 3;
const MOST_EPOCHS: usize = 1000;

/// Numbers between -1 and 1, by Knuth's multiplicative hash.
pub fn values(n: usize) -> impl ExactSizeIterator<Item = f32> + Clone {
    (0..n).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)
}

/// Data to train on, in batches.
pub struct Workload {
    /// d, q, and one head.
    pub shape: Shape,
    /// X, (n × d).
    pub features: Features<'static>,
    /// What every feature counts: 1/255 for bytes.
    pub scale: f32,
    /// Class numbers.
    pub targets: Targets<'static>,
    /// Where training starts.
    pub start: Parameters,
    /// Samples a step.
    pub batch_size: usize,
}

impl Workload {
    /// `n` samples that are the same in every run.
    ///
    /// # Errors
    /// As [`Features::new`]; [`Error::OutOfMemory`].
    pub fn new(n: usize, n_features: usize, n_classes: usize, dtype: Dtype, batch_size: usize) -> Result<Self> {
        fn collect<T>(values: impl ExactSizeIterator<Item = T>, what: &str) -> Result<Vec<T>> {
            let mut collected = Vec::new();
            collected
                .try_reserve_exact(values.len())
                .map_err(|_| Error::out_of_memory(what, values.len(), size_of::<T>()))?;
            collected.extend(values);
            Ok(collected)
        }
        const FEATURES: &str = "the features of the benchmark";
        const WEIGHTS: &str = "the weights of the benchmark";
        let n_values =
            n.checked_mul(n_features).ok_or_else(|| Error::out_of_memory(FEATURES, usize::MAX, dtype.size()))?;
        let n_weights = n_features.checked_add(1).and_then(|rows| rows.checked_mul(n_classes));
        let n_weights = n_weights.ok_or_else(|| Error::out_of_memory(WEIGHTS, usize::MAX, 4))?;
        let floats = values(n_values);
        let x: Values = match dtype {
            Dtype::F32 => collect(floats, FEATURES)?.into(),
            Dtype::F16 => collect(floats.map(f16::from_f32), FEATURES)?.into(),
            Dtype::U8 => collect(floats.map(|x| (x.abs() * 255.0) as u8), FEATURES)?.into(),
        };
        let classes = (0..n).map(|i| (i * 7919 % n_classes.max(1)) as u32);
        let shape = Shape { n_features, n_classes, n_heads: 1 };
        Ok(Self {
            shape,
            features: Features::new(x, n, n_features)?,
            scale: if dtype == Dtype::U8 { 1.0 / 255.0 } else { 1.0 },
            targets: Targets::Classes(collect(classes, "the labels of the benchmark")?.into()),
            start: Parameters { shape, values: collect(values(n_weights).map(|w| 0.1 * w), WEIGHTS)? },
            batch_size: batch_size.clamp(1, n),
        })
    }

    /// Bytes of X, which an epoch must read at least once.
    pub fn bytes(&self) -> f64 {
        (self.features.values().len() * self.features.values().dtype().size()) as f64
    }

    /// Floating point operations of the two products of an epoch: 4·n·d·q.
    pub fn flops(&self) -> f64 {
        4.0 * self.features.values().len() as f64 * self.shape.n_outputs() as f64
    }

    /// Y of some rows, in f64.
    pub fn one_hot(&self, rows: Range<usize>) -> Vec<f64> {
        let n_classes = self.shape.n_classes;
        let class = |row| self.targets.class(row, n_classes).unwrap_or(n_classes);
        rows.flat_map(|row| (0..n_classes).map(move |j| f64::from(u8::from(j == class(row))))).collect()
    }

    /// The data on a backend whose results were verified.
    fn session<'a>(&'a self, backend: &'a dyn Backend) -> Result<Box<dyn Session + 'a>> {
        self.verify(backend)?;
        backend.session(&self.features, self.scale, Some((&self.targets).into()))
    }

    /// One step on `backend` with the first rows and the kernels of whole batches, compared with the reference: a
    /// benchmark of wrong results is worth nothing.
    ///
    /// # Errors
    /// [`Error::SelfCheck`] with what differs; those of the device.
    pub fn verify(&self, backend: &dyn Backend) -> Result<()> {
        let mut n_rows = VERIFIED_ROWS.min(self.batch_size);
        loop {
            let features = self.features.rows(0..n_rows)?;
            let classes = (0..n_rows).map(|row| self.targets.class(row, self.shape.n_classes).unwrap_or(0) as u32);
            let targets = Targets::Classes(classes.collect());
            let mut session = backend.session(&features, self.scale, Some((&targets).into()))?;
            let chunks = session.chunks().to_vec();
            if let [first, _, ..] = &chunks[..] {
                // A device that holds a few enormous rows at a time.
                n_rows = first.len();
                continue;
            }
            return self.verify_step(backend, &features, &mut *session, &chunks);
        }
    }

    fn verify_step(
        &self,
        backend: &dyn Backend,
        features: &Features,
        session: &mut dyn Session,
        chunks: &[Range<usize>],
    ) -> Result<()> {
        let plan = Plan::new(chunks, features.n_samples(), 0, 0);
        let mut stepper = session.stepper(&self.start.clone().into(), &[HEAD], self.batch_size)?;
        let losses = stepper.run(&plan, &[1.0])?;
        let found = stepper.parameters()?.values;
        let (mut x, mut y, mut row) = (Vec::new(), Vec::new(), vec![0.0; self.shape.n_features]);
        for sample in plan.order().into_iter().map(|sample| sample as usize) {
            features.read_row(sample, &mut row);
            x.extend(row.iter().map(|&x| f64::from(x) * f64::from(self.scale)));
            y.extend(self.one_hot(sample..sample + 1));
        }
        let mut steps = Steps::new(&self.start, backend.uses_matrix_units(self.shape.n_outputs()), 1.0);
        steps.step(&x, &y, None, &[HEAD], 1.0);
        let losses: Vec<f32> = losses.iter().map(|&loss| loss as f32).collect();
        compare("weights", &found, &steps.state.parameters, &steps.error.parameters)
            .and_then(|()| compare("loss", &losses, &steps.losses, &steps.losses_bound))
            .map_err(|detail| Error::SelfCheck { device: backend.info().name.clone(), detail })
    }
}

/// Has a device choose the fastest way to compute the steps of `workload`; see [`Session::tune`].
///
/// # Errors
/// Those of the device.
pub fn tune(workload: &Workload, backend: &dyn Backend) -> Result<Vec<Tried>> {
    workload.session(backend)?.tune(&workload.start, &[HEAD], workload.batch_size)
}

/// What was measured of a device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timing {
    /// Each epoch, the shuffling of its samples included.
    pub epochs: Vec<Duration>,
    /// The time of each kernel in an epoch, see [`Stepper::kernel_times`].
    pub kernels: Vec<(&'static str, Duration)>,
}

impl Timing {
    /// The median of the epochs.
    pub fn median(&self) -> Duration {
        let mut epochs = self.epochs.clone();
        epochs.sort();
        epochs.get(epochs.len() / 2).copied().unwrap_or_default()
    }
}

/// A device in its turn.
struct Contender<'s> {
    stepper: Box<dyn Stepper + 's>,
    chunks: Vec<Range<usize>>,
    batch_size: usize,
    n_epochs: u64,
    /// The time of those that count.
    elapsed: Duration,
}

impl<'s> Contender<'s> {
    fn new(session: &'s mut dyn Session, workload: &Workload) -> Result<Self> {
        let chunks = session.chunks().to_vec();
        let stepper = session.stepper(&workload.start.clone().into(), &[HEAD], workload.batch_size)?;
        let mut contender =
            Self { stepper, chunks, batch_size: workload.batch_size, n_epochs: 0, elapsed: Duration::ZERO };
        // Not timed: the first one finds cold caches and sleeping threads.
        contender.epoch()?;
        Ok(contender)
    }

    fn plan(&mut self) -> (Plan, Vec<f32>) {
        let plan = Plan::new(&self.chunks, self.batch_size, 0, self.n_epochs);
        self.n_epochs += 1;
        let rates = vec![1.0; plan.batches.len()];
        (plan, rates)
    }

    fn epoch(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        let (plan, rates) = self.plan();
        self.stepper.run(&plan, &rates)?;
        Ok(begin.elapsed())
    }
}

/// Times epochs of `workload` on each backend, in turns, until each has had `budget` and at least three epochs,
/// or a thousand. Verifies
/// first. A backend that fails has its error, and the others go on.
pub fn time(workload: &Workload, backends: &[&dyn Backend], budget: Duration) -> Vec<Result<Timing>> {
    let mut sessions = Vec::new();
    let mut timings = Vec::new();
    for backend in backends {
        match workload.session(*backend) {
            Ok(session) => {
                sessions.push(Some(session));
                timings.push(Ok(Timing::default()));
            }
            Err(error) => {
                sessions.push(None);
                timings.push(Err(error));
            }
        }
    }
    let mut contenders: Vec<Option<Contender>> = Vec::new();
    for (session, timing) in sessions.iter_mut().zip(&mut timings) {
        contenders.push(session.as_mut().and_then(|session| match Contender::new(session.as_mut(), workload) {
            Ok(contender) => Some(contender),
            Err(error) => {
                *timing = Err(error);
                None
            }
        }));
    }

    let mut is_done = false;
    while !is_done {
        is_done = true;
        for (contender, timing) in contenders.iter_mut().zip(&mut timings) {
            let (Some(contender), Ok(timed)) = (contender, &mut *timing) else { continue };
            let n_epochs = timed.epochs.len();
            if n_epochs >= MOST_EPOCHS || n_epochs >= LEAST_EPOCHS && contender.elapsed >= budget {
                continue;
            }
            is_done = false;
            match contender.epoch() {
                Ok(time) => {
                    contender.elapsed += time;
                    timed.epochs.push(time);
                }
                Err(error) => *timing = Err(error),
            }
        }
    }

    for (contender, timing) in contenders.iter_mut().zip(&mut timings) {
        let (Some(contender), Ok(timed)) = (contender, &mut *timing) else { continue };
        let (plan, rates) = contender.plan();
        match contender.stepper.kernel_times(&plan, &rates) {
            Ok(kernels) => timed.kernels = kernels,
            Err(error) => *timing = Err(error),
        }
    }
    timings
}
