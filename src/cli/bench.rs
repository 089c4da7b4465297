//! `softreg bench`.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::HumanCount;
use serde_json::{Value, json};
use softreg::backend::{Ceilings, Tried};
use softreg::bench::{self, Timing, Workload};
use softreg::{Device, DeviceKind};

use crate::report::name;
use crate::{args, output, report};

/// Measured when no shape is asked for: few outputs, where memory is the limit, and many, where arithmetic is.
const SHAPES: [args::BenchShape; 2] = [
    args::BenchShape { n_samples: 60_000, n_features: 784, n_classes: 10 },
    args::BenchShape { n_samples: 20_000, n_features: 768, n_classes: 1000 },
];

pub fn run(args: &args::Bench) -> Result<()> {
    if let Some(path) = &args.json {
        output::check_writable(path)?;
    }
    // The budget of each device.
    let budget = Duration::try_from_secs_f64(args.seconds).unwrap_or(Duration::MAX);
    let mut devices = devices(args)?;
    let mut ceilings = Vec::new();
    devices.retain(|device| {
        output::message(&format!("measuring {}", name(device)));
        match device.backend().ceilings() {
            Ok(measured) => {
                ceilings.push(measured);
                true
            }
            Err(error) => {
                output::message(&format!("warning: {} is left out: {error}", name(device)));
                false
            }
        }
    });
    if devices.is_empty() {
        bail!("no device could be measured, see above");
    }
    let shapes = args.shape.map_or_else(|| SHAPES.to_vec(), |shape| vec![shape]);
    let mut results = Vec::new();
    for shape in shapes {
        output::message(&format!("timing {}", describe(shape, args.dtype, args.batch)));
        let args::BenchShape { n_samples, n_features, n_classes } = shape;
        if args.matrix_units {
            for device in devices.iter().filter(|device| !device.uses_matrix_units(n_classes)) {
                output::message(&report::no_matrix_units(device));
            }
        }
        let workload = match Workload::new(n_samples, n_features, n_classes, args.dtype.into(), args.batch) {
            Ok(workload) => workload,
            // What was timed before is not lost.
            Err(error) if !results.is_empty() => {
                output::message(&format!("warning: {} is left out: {error}", describe(shape, args.dtype, args.batch)));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if args.tune {
            devices.iter().for_each(|device| tune(&workload, device));
        }
        let backends: Vec<_> = devices.iter().map(Device::backend).collect();
        let timings = bench::time(&workload, &backends, budget);
        let devices = devices.iter().zip(&ceilings).zip(timings);
        let devices = devices.map(|((device, &ceilings), timing)| Row { device, ceilings, timing }).collect();
        results.push(Comparison { shape, workload, devices });
    }
    if let Some(path) = &args.json {
        let record = json!({
            "softreg_version": env!("CARGO_PKG_VERSION"),
            "comparisons": results.iter().map(|result| result.to_json(args)).collect::<Vec<_>>(),
        });
        output::write(path, |out| writeln!(out, "{record:#}"))?;
    }
    report::print(args.json.as_deref(), false, |out| {
        for result in &results {
            result.write(args, out)?;
        }
        for (device, ceilings) in devices.iter().zip(&ceilings) {
            writeln!(out, "{}: {}", name(device), at_most(ceilings))?;
        }
        out.write_all(EXPLANATION.as_bytes())
    })?;
    if results.iter().flat_map(|result| &result.devices).any(|row| row.timing.is_err()) {
        bail!("a device failed, see above");
    }
    Ok(())
}

const EXPLANATION: &str = "
Epochs are medians, shuffling included; the devices took turns. GB/s counts the features
once an epoch, GFLOP/s the products X·W and Xᵀ·R; `of read` and `of FMA` are shares of what
the device was measured to do at most, above; features that stay in a cache may pass it.
Kernels are those of one more epoch, each timed alone by the device's clock. A step of 200
samples on each device was compared with the double precision reference before.
";

/// The devices asked for; `all` are the CPU and every GPU but software ones, which are slower than the CPU.
fn devices(args: &args::Bench) -> Result<Vec<Device>> {
    let options = args::device_options(args.matrix_units);
    if args.devices.iter().any(|name| name == "all") {
        for info in Device::list().iter().filter(|info| info.kind == DeviceKind::SoftwareGpu) {
            output::message(&format!("{} is a software GPU, left out: --devices takes it by name", info.name));
        }
    }
    let mut devices: Vec<Device> = Vec::new();
    for name in &args.devices {
        if name != "all" {
            devices.push(Device::open(name, &options)?);
            continue;
        }
        for device in Device::open_every(&options) {
            match device {
                Ok(device) => devices.push(device),
                Err(error) => output::message(&format!("warning: a device is left out: {error}")),
            }
        }
    }
    Ok(devices)
}

fn tune(workload: &Workload, device: &Device) {
    match bench::tune(workload, device.backend()) {
        Err(error) => output::message(&format!("warning: {} is not tuned: {error}", name(device))),
        Ok(tried) if tried.is_empty() => output::message(&format!("{} has nothing to tune", name(device))),
        Ok(tried) => {
            for (index, Tried { choice, step }) in tried.iter().enumerate() {
                let kept = if index + 1 == tried.len() { ", kept" } else { "" };
                output::message(&format!("{:>9} a step  {}: {choice}{kept}", duration(*step), name(device)));
            }
        }
    }
}

fn at_most(ceilings: &Ceilings) -> String {
    let Ceilings { read_bytes, flops, dispatch } = ceilings;
    let dispatch = dispatch.map_or_else(String::new, |time| format!(", {} a dispatch", duration(time)));
    format!("reads {} GB/s, multiplies and adds {} GFLOP/s{dispatch}", three(read_bytes / 1e9), three(flops / 1e9))
}

fn describe(shape: args::BenchShape, dtype: args::DtypeName, batch_size: usize) -> String {
    let [n, d, q, batch] = [shape.n_samples, shape.n_features, shape.n_classes, batch_size.min(shape.n_samples)]
        .map(|count| HumanCount(count as u64).to_string());
    format!("{n} × {d} × {q}, {dtype}, batches of {batch}")
}

/// One shape on every device.
struct Comparison<'a> {
    shape: args::BenchShape,
    workload: Workload,
    devices: Vec<Row<'a>>,
}

struct Row<'a> {
    device: &'a Device,
    ceilings: Ceilings,
    timing: softreg::Result<Timing>,
}

/// Figures of a device.
struct Figures {
    samples: f64,
    bytes: f64,
    flops: f64,
    of_read: f64,
    of_fma: f64,
    /// How many times as fast as the CPU.
    speed_up: Option<f64>,
}

impl Comparison<'_> {
    fn figures(&self, row: &Row, timing: &Timing) -> Figures {
        let seconds = timing.median().as_secs_f64().max(1e-9);
        let (bytes, flops) = (self.workload.bytes() / seconds, self.workload.flops() / seconds);
        let cpu = self.devices.iter().find(|row| row.device.info().kind == DeviceKind::Cpu);
        Figures {
            samples: self.shape.n_samples as f64 / seconds,
            bytes,
            flops,
            of_read: bytes / row.ceilings.read_bytes,
            of_fma: flops / row.ceilings.flops,
            speed_up: cpu.and_then(|cpu| Some(cpu.timing.as_ref().ok()?.median().as_secs_f64() / seconds)),
        }
    }

    fn write(&self, args: &args::Bench, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", describe(self.shape, args.dtype, args.batch))?;
        writeln!(
            out,
            "{:>9} {:>13} {:>8} {:>8} {:>8} {:>8} {:>8}  device",
            "epoch", "samples/s", "GB/s", "of read", "GFLOP/s", "of FMA", "× cpu"
        )?;
        for row in &self.devices {
            let timing = match &row.timing {
                Ok(timing) => timing,
                Err(error) => {
                    writeln!(out, "{:>9}  {}: {error}", "failed", name(row.device))?;
                    continue;
                }
            };
            let figures = self.figures(row, timing);
            writeln!(
                out,
                "{:>9} {:>13} {:>8} {:>6.0} % {:>8} {:>6.0} % {:>8}  {}",
                duration(timing.median()),
                HumanCount(figures.samples as u64).to_string(),
                three(figures.bytes / 1e9),
                100.0 * figures.of_read,
                three(figures.flops / 1e9),
                100.0 * figures.of_fma,
                figures.speed_up.map_or_else(|| "-".to_owned(), three),
                row.device.info().name,
            )?;
            if !timing.kernels.is_empty() {
                let kernels = timing.kernels.iter().map(|(name, time)| format!("{name} {}", duration(*time)));
                writeln!(out, "{:>9}  {}", "kernels", kernels.collect::<Vec<_>>().join(", "))?;
            }
        }
        writeln!(out)
    }

    fn to_json(&self, args: &args::Bench) -> Value {
        let device = |row: &Row| {
            let info = row.device.info();
            let mut record = json!({
                "device": info.name,
                "backend": info.backend,
                "driver": info.driver,
                "kind": info.kind.to_string(),
                "matrix_units": row.device.uses_matrix_units(self.shape.n_classes),
                "max_read_bytes_per_second": row.ceilings.read_bytes,
                "max_flops": row.ceilings.flops,
                "seconds_dispatch": row.ceilings.dispatch.map(|time| time.as_secs_f64()),
            });
            let figures = match &row.timing {
                Err(error) => json!({ "error": error.to_string() }),
                Ok(timing) => {
                    let figures = self.figures(row, timing);
                    let kernels =
                        timing.kernels.iter().map(|(name, time)| ((*name).to_owned(), json!(time.as_secs_f64())));
                    json!({
                        "seconds_epoch": timing.median().as_secs_f64(),
                        "seconds_epochs": timing.epochs.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
                        "samples_per_second": figures.samples,
                        "bytes_per_second": figures.bytes,
                        "flops": figures.flops,
                        "share_of_read": figures.of_read,
                        "share_of_fma": figures.of_fma,
                        "speed_up_over_cpu": figures.speed_up,
                        "seconds_kernels": kernels.collect::<serde_json::Map<_, _>>(),
                    })
                }
            };
            if let (Value::Object(record), Value::Object(figures)) = (&mut record, figures) {
                record.extend(figures);
            }
            record
        };
        json!({
            "n_samples": self.shape.n_samples,
            "n_features": self.shape.n_features,
            "n_classes": self.shape.n_classes,
            "dtype": args.dtype.to_string(),
            "batch_size": self.workload.batch_size,
            "devices": self.devices.iter().map(device).collect::<Vec<_>>(),
        })
    }
}

/// Three digits, or all before the point.
fn three(value: f64) -> String {
    match value {
        ..1.0 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => HumanCount(value.round() as u64).to_string(),
    }
}

fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        1.0.. => format!("{} s", three(seconds)),
        1e-3.. => format!("{} ms", three(seconds * 1e3)),
        _ => format!("{} µs", three(seconds * 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let cases = [(0.0123, "0.012"), (1.0, "1.00"), (12.345, "12.3"), (123.4, "123"), (65_432.1, "65,432")];
        for (value, text) in cases {
            assert_eq!(three(value), text);
        }
        assert_eq!(duration(Duration::from_micros(1234)), "1.23 ms");
        assert_eq!(duration(Duration::from_nanos(4321)), "4.32 µs");
    }
}
