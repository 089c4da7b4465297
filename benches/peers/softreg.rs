//! softreg's side of the comparison with its peers: takes commands from run.py, one a line, and answers each with a line.
//! So both work in turns, in one run, on the same data and in the same order.
//!
//! - `train X.npy Y.npy SCALE BATCH LR MOMENTUM L2`: SGD from zero weights on the CPU backend, or on the device of
//!   `SOFTREG_DEVICE`. Then `epoch E`: seconds and mean loss; `order E FILE`: the rows in the order of their steps and the
//!   lengths of the batches, as 32-bit numbers, into FILE and FILE.lengths; `weights FILE`: W above b; `end`.
//! - `model X.npy`: a model of zero weights but the first, 77 classes. Then `proba`: seconds for all rows; `row TIMES`:
//!   seconds for one row, TIMES times; `end`.

use std::error::Error;
use std::fs;
use std::io::{self, BufRead, Write};
use std::time::Instant;

use ndarray::{Array1, Array2};
use softreg::backend::cpu::Cpu;
use softreg::backend::{Backend, Head, Parameters, Shape};
use softreg::batch::Plan;
use softreg::data::{Source, Values, read};
use softreg::{Features, Model};

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
                let head =
                    Head { learning_rate: lr.parse()?, momentum: momentum.parse()?, nesterov: true, l2: l2.parse()? };
                train((x, y), scale.parse()?, batch.parse()?, head, &mut next)?;
            }
            ["model", x] => predict(x, &mut next)?,
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
    let mut session = backend.session(data.features(), scale, Some(targets))?;
    let chunks = session.chunks().to_vec();
    let shape = Shape { n_features: data.n_features(), n_classes: data.n_classes(), n_heads: 1 };
    let mut stepper = session.stepper(&Parameters::zeros(shape), &[head], batch_size)?;
    answer(&backend.info().driver)?;
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
                let values = stepper.parameters()?.values;
                fs::write(file, values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>())?;
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
        use softreg::backend::gpu::{Gpu, Options};
        for gpu in Gpu::open_all(Options::default()) {
            let gpu = gpu?;
            if gpu.info().name.contains(&name) {
                return Ok(Box::new(gpu));
            }
        }
        return Err(format!("there is no device {name}").into());
    }
    Ok(Box::new(Cpu::new()))
}

fn predict(x: &str, next: &mut dyn FnMut() -> Result<Option<Vec<String>>>) -> Result<()> {
    const N_CLASSES: usize = 77;
    let features = read(&Source::new(x))?.features;
    let d = features.n_features();
    let weights = Array2::from_shape_fn((d, N_CLASSES), |(k, j)| ((k * 31 + j * 17) % 101) as f32 / 101.0 - 0.5);
    let classes = (0..N_CLASSES).map(|class| class.to_string()).collect();
    let model = Model::new(weights.view(), Array1::zeros(N_CLASSES).view(), classes)?;
    let row = first_row(&features)?;
    let mut probabilities = vec![0.0; N_CLASSES];
    answer("ready")?;
    while let Some(command) = next()? {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words[..] {
            ["proba"] => {
                let begin = Instant::now();
                let p = model.predict_proba(&features)?;
                let seconds = begin.elapsed().as_secs_f64();
                answer(&format!("{seconds} {}", p[[0, 0]]))?;
            }
            ["row", times] => {
                let times: usize = times.parse()?;
                let begin = Instant::now();
                for _ in 0..times {
                    model.predict_into(std::hint::black_box(&row), &mut probabilities)?;
                }
                answer(&format!("{} {}", begin.elapsed().as_secs_f64(), probabilities[0]))?;
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
