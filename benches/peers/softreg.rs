//! softreg's side of the comparison with its peers: takes commands from run.py, one a line, and answers each with a line.
//! So both work in turns, in one run, on the same data and in the same order.
//!
//! - `train X.npy Y.npy SCALE BATCH LR MOMENTUM L2`: SGD from zero weights on the CPU backend, or on the GPU of
//!   `SOFTREG_DEVICE`, `gpu` for the best; the answer is its name. Then `epoch E`: seconds and mean loss; `order E FILE`:
//!   the rows in the order of their steps and the lengths of the batches, as 32-bit numbers, into FILE and FILE.lengths;
//!   `weights FILE`: W above b.
//! - `fit X.npy Y.npy L2 FILE`: the default estimator on the CPU, features not scaled; the seconds, and W above b in FILE.
//! - `reach X.npy Y.npy`: reads the data. Then `fit L2 TARGET FILE`: the estimator with L-BFGS on the CPU, features not scaled,
//!   which ends as soon as its objective is TARGET or less, or with 0 by its own test; the answer is the seconds of the whole
//!   fit, its iterations, evaluations, the objective that it reports, and the seconds before and during the iterations; W
//!   above b in FILE.
//! - `model X.npy WEIGHTS`: a model of W above b. Then `proba`: seconds for all rows; `probabilities FILE`: those of the
//!   last `proba`; `row TIMES`: seconds for one row, TIMES times.
//! - `read FILE LABEL CATEGORIES`: seconds and processor seconds to read the features, the labels in the column LABEL or of an svmlight
//!   file, and the text in the column CATEGORIES, where they are not `-`; the numbers of samples, of features and of stored values,
//!   and their sum. `values FILE LABEL CATEGORIES INTO`: the values themselves, into a file. For reading.py.
//!
//! W, b and probabilities are single precision, row by row.

use std::error::Error;
use std::fs;
use std::io::{self, BufRead, Write};
use std::ops::ControlFlow;
use std::time::Instant;

use ndarray::{Array2, s};
use softreg::backend::cpu::Cpu;
use softreg::backend::{Backend, Head, Parameters, Rule, Shape};
use softreg::batch::Plan;
use softreg::data::{Categorical, Source, Values, read};
use softreg::{FeatureScale, Features, Lbfgs, Model, SoftmaxRegression};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut lines = io::stdin().lock().lines();
    let mut next = || -> Result<Option<Vec<String>>> {
        let line = lines.next().transpose()?;
        Ok(line.map(|line| line.split_whitespace().map(str::to_owned).collect()))
    };
    while let Some(command) = next()? {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words[..] {
            ["train", x, y, scale, batch, lr, momentum, l2] => {
                let head = Head {
                    learning_rate: lr.parse()?,
                    l2: l2.parse()?,
                    intercept: true,
                    rule: Rule::Momentum { momentum: momentum.parse()?, nesterov: true },
                };
                train((x, y), scale.parse()?, batch.parse()?, head, &mut next)?;
            }
            ["fit", x, y, l2, file] => fit((x, y), l2.parse()?, file)?,
            ["reach", x, y] => reach((x, y), &mut next)?,
            ["read", file, label, categories] => read_file(&source(file, label, categories))?,
            ["values", file, label, categories, into] => write_values(&source(file, label, categories), into)?,
            ["model", x, weights] => predict(x, weights, &mut next)?,
            // `cargo bench` runs every benchmark; this one has nothing to do alone.
            _ => return Ok(()),
        }
    }
    Ok(())
}

fn answer(text: &str) -> Result<()> {
    println!("{text}");
    Ok(io::stdout().flush()?)
}

fn source(file: &str, label: &str, categories: &str) -> Source {
    let column = |name: &str| (name != "-").then(|| name.to_owned());
    let categorical = column(categories).map_or(Categorical::None, |column| Categorical::Columns(vec![column]));
    Source { label_column: column(label), categorical, ..Source::new(file) }
}

fn read_file(source: &Source) -> Result<()> {
    let (begin, processor) = (Instant::now(), processor_seconds());
    let features = read(source)?.features;
    let (seconds, processor) = (begin.elapsed().as_secs_f64(), processor_seconds() - processor);
    let sum: f64 = stored(&features)?.iter().map(|&value| f64::from(value)).sum();
    let (n, d, n_values) = (features.n_samples(), features.n_features(), features.values().len());
    answer(&format!("{seconds} {processor} {n} {d} {n_values} {sum}"))
}

fn write_values(source: &Source, into: &str) -> Result<()> {
    let features = read(source)?.features;
    let bytes: Vec<u8> = stored(&features)?.iter().flat_map(|value| value.to_le_bytes()).collect();
    fs::write(into, bytes)?;
    answer("written")
}

fn stored<'a>(features: &'a Features) -> Result<&'a [f32]> {
    match features.values() {
        Values::F32(values) => Ok(values),
        Values::Sparse(csr) => Ok(csr.values()),
        _ => Err("other values than a text has".into()),
    }
}

/// What all threads of this process have computed for, those that have ended too; 0 where the system is not Linux.
fn processor_seconds() -> f64 {
    #[cfg(target_os = "linux")]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: it writes to what it is given.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    }
    #[cfg(not(target_os = "linux"))]
    0.0
}

fn train(
    (x, y): (&str, &str),
    scale: f32,
    batch_size: usize,
    head: Head,
    next: &mut dyn FnMut() -> Result<Option<Vec<String>>>,
) -> Result<()> {
    let data = read(&Source { labels: Some(y.into()), ..Source::new(x) })?.into_dataset()?;
    let backend = backend()?;
    let targets = data.labels().targets();
    let mut session = backend.session(data.features(), scale, Some(targets.into()))?;
    let chunks = session.chunks().to_vec();
    let shape = Shape { n_features: data.n_features(), n_classes: data.n_classes(), n_heads: 1 };
    let mut stepper = session.stepper(&Parameters::zeros(shape).into(), &[head], batch_size)?;
    answer(&format!("{} ({})", backend.info().name, backend.info().driver))?;
    while let Some(command) = next()? {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words[..] {
            ["epoch", epoch] => {
                let begin = Instant::now();
                // The order is part of an epoch, for softreg and for its peers.
                let plan = Plan::new(&chunks, batch_size, 0, epoch.parse()?);
                let losses = stepper.run(&plan, &vec![1.0; plan.batches.len()])?;
                let seconds = begin.elapsed().as_secs_f64();
                answer(&format!("{seconds} {}", losses[0] / data.n_samples() as f64))?;
            }
            ["order", epoch, file] => {
                let plan = Plan::new(&chunks, batch_size, 0, epoch.parse()?);
                let order = plan.order();
                let rows = plan.batches.iter().flat_map(|batch| {
                    let first = chunks[batch.chunk].start as u32;
                    order[batch.start..batch.start + batch.len].iter().map(move |row| first + row)
                });
                let lengths = plan.batches.iter().map(|batch| batch.len as u32);
                fs::write(file, rows.flat_map(u32::to_le_bytes).collect::<Vec<u8>>())?;
                fs::write(format!("{file}.lengths"), lengths.flat_map(u32::to_le_bytes).collect::<Vec<u8>>())?;
                answer("done")?;
            }
            ["weights", file] => {
                write(file, stepper.parameters()?.values)?;
                answer("done")?;
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

fn backend() -> Result<Box<dyn Backend>> {
    #[cfg(feature = "gpu")]
    if let Ok(name) = std::env::var("SOFTREG_DEVICE") {
        use softreg::DeviceKind;
        use softreg::backend::gpu::{Gpu, Options};
        let asked = |gpu: &Gpu| match name.as_str() {
            "gpu" => gpu.info().kind != DeviceKind::SoftwareGpu,
            part => gpu.info().name.contains(part),
        };
        let gpu = Gpu::open_all(Options::default()).into_iter().flatten().find(asked);
        return Ok(Box::new(gpu.ok_or_else(|| format!("there is no GPU {name}"))?));
    }
    Ok(Box::new(Cpu::new()))
}

fn write(file: &str, values: impl IntoIterator<Item = f32>) -> Result<()> {
    Ok(fs::write(file, values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>())?)
}

fn fit((x, y): (&str, &str), l2: f64, file: &str) -> Result<()> {
    let data = read(&Source { labels: Some(y.into()), ..Source::new(x) })?.into_dataset()?;
    let estimator = SoftmaxRegression::new().l2(l2).feature_scale(FeatureScale::Factor(1.0));
    let begin = Instant::now();
    let model = estimator.fit(&data)?.model;
    let seconds = begin.elapsed().as_secs_f64();
    write(file, model.weights().iter().chain(&model.bias()).copied())?;
    answer(&seconds.to_string())
}

fn reach((x, y): (&str, &str), next: &mut dyn FnMut() -> Result<Option<Vec<String>>>) -> Result<()> {
    let data = read(&Source { labels: Some(y.into()), ..Source::new(x) })?.into_dataset()?;
    answer("ready")?;
    while let Some(command) = next()? {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let ["fit", l2, target, file] = words[..] else { return Ok(()) };
        let target: f64 = target.parse()?;
        let estimator =
            SoftmaxRegression::new().solver(Lbfgs::default()).l2(l2.parse()?).feature_scale(FeatureScale::Factor(1.0));
        let begin = Instant::now();
        let fit = estimator.fit_with(&data, |progress| {
            if progress.loss <= target { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        let weights = fit.model.weights();
        write(file, weights.iter().chain(&fit.model.bias()).copied())?;
        let evaluations = fit.epochs.last().map_or(0.0, |progress| progress.evaluations);
        let [before, during] = [fit.preparation, fit.training].map(|duration| duration.as_secs_f64());
        let iterations = fit.epochs.len();
        answer(&format!("{seconds} {iterations} {evaluations} {} {before} {during}", fit.objective))?;
    }
    Ok(())
}

fn predict(x: &str, weights: &str, next: &mut dyn FnMut() -> Result<Option<Vec<String>>>) -> Result<()> {
    let features = read(&Source::new(x))?.features;
    let d = features.n_features();
    let values = fs::read(weights)?.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect::<Vec<f32>>();
    let n_classes = values.len() / (d + 1);
    let weights = Array2::from_shape_vec((d + 1, n_classes), values)?;
    let classes = (0..n_classes).map(|class| class.to_string()).collect();
    let model = Model::new(weights.slice(s![..d, ..]), weights.row(d), classes)?;
    let row = first_row(&features)?;
    let mut probabilities = vec![0.0; n_classes];
    let mut all = Array2::zeros((0, n_classes));
    answer("ready")?;
    while let Some(command) = next()? {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words[..] {
            ["proba"] => {
                let begin = Instant::now();
                all = model.predict_proba(&features)?;
                answer(&begin.elapsed().as_secs_f64().to_string())?;
            }
            ["probabilities", file] => {
                write(file, all.iter().copied())?;
                answer("done")?;
            }
            ["row", times] => {
                let times: usize = times.parse()?;
                let begin = Instant::now();
                for _ in 0..times {
                    model.predict_into(std::hint::black_box(&row), &mut probabilities)?;
                }
                std::hint::black_box(&probabilities);
                answer(&begin.elapsed().as_secs_f64().to_string())?;
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

fn first_row(features: &Features) -> Result<Vec<f32>> {
    match features.values() {
        Values::F32(values) => Ok(values[..features.n_features()].to_vec()),
        _ => Err("X must be f32".into()),
    }
}
