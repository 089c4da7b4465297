//! Progress of training: a bar on a terminal, a few plain lines elsewhere. And of reading: a bar on a terminal.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use softreg::data::Reading;
use softreg::{Progress, Solver};

use crate::output;

/// At most this many plain lines for a run, and one for the first epoch.
const MAX_LINES: usize = 10;

/// A file is read for so long before there is a bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two looks at how far the reading is.
const TICK: Duration = Duration::from_millis(100);

/// Reads a file, with a bar where that takes long.
pub fn while_reading<T>(path: &Path, quiet: bool, read: impl FnOnce(&Reading) -> T) -> T {
    let reading = Reading::default();
    if quiet || !has_bars() {
        return read(&reading);
    }
    // Nothing is sent: that there is no sender any more is the end.
    let (sender, end) = mpsc::channel::<()>();
    let is_read = move |time| end.recv_timeout(time) != Err(mpsc::RecvTimeoutError::Timeout);
    thread::scope(|scope| {
        let reading = &reading;
        scope.spawn(move || {
            if is_read(PATIENCE) {
                return;
            }
            let (bar, template) = match reading.total() {
                0 => (ProgressBar::new_spinner(), "reading {msg} {spinner} {bytes}"),
                total => (ProgressBar::new(total), "reading {msg} {wide_bar} {bytes}/{total_bytes}, {eta} left"),
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            while !is_read(TICK) {
                bar.set_position(reading.bytes());
            }
            bar.finish_and_clear();
        });
        let result = read(reading);
        drop(sender);
        result
    })
}

/// Whether there is a terminal to draw on.
fn has_bars() -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stderr().is_terminal() && !is_dumb
}

pub struct Display {
    kind: Kind,
    /// Whether there are trainings with several seeds to tell apart.
    has_seeds: bool,
}

enum Kind {
    None,
    Lines,
    /// Lines for iterations 1, 2, 4, 8, ….
    Iterations,
    Bar {
        bar: ProgressBar,
        is_batch: bool,
    },
}

impl Display {
    pub fn new(solver: &Solver, n_samples: usize, n_seeds: usize, quiet: bool) -> Self {
        let is_batch = is_batch(solver);
        let kind = if quiet {
            Kind::None
        } else if has_bars() {
            // Nobody knows how many iterations a batch solver will take.
            let (bar, template) = match is_batch {
                true => (ProgressBar::new_spinner(), "iteration {pos} {spinner} {msg}"),
                false => {
                    let n_epochs = solver.n_epochs(n_samples).saturating_mul(n_seeds);
                    (ProgressBar::new(n_epochs as u64), "epoch {pos}/{len} {wide_bar} {msg}")
                }
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.tick();
            Kind::Bar { bar, is_batch }
        } else if is_batch {
            Kind::Iterations
        } else {
            Kind::Lines
        };
        Self { kind, has_seeds: n_seeds > 1 }
    }

    pub fn show(&self, progress: &Progress) {
        let Progress { seed, epoch, n_epochs, .. } = *progress;
        let seed = if self.has_seeds { format!("seed {seed}  ") } else { String::new() };
        match &self.kind {
            Kind::None => {}
            Kind::Bar { bar, .. } if progress.is_polish => {
                bar.set_message(format!("{seed}polish, iteration {epoch}: {}", state_of_iteration(progress)));
            }
            _ if progress.is_polish => {
                if epoch.is_power_of_two() {
                    output::message(&format!("{seed}polish    {epoch:4}  {}", state_of_iteration(progress)));
                }
            }
            Kind::Bar { bar, is_batch } => {
                match self.has_seeds {
                    // Of all of them together.
                    true => bar.inc(1),
                    false => bar.set_position(epoch as u64),
                }
                let state = if *is_batch { state_of_iteration(progress) } else { state(progress) };
                bar.set_message(format!("{seed}{state}"));
            }
            Kind::Iterations if epoch.is_power_of_two() => {
                output::message(&format!("{seed}iteration {epoch:4}  {}", state_of_iteration(progress)));
            }
            Kind::Iterations => {}
            Kind::Lines => {
                if epoch == 1 || epoch.is_multiple_of(n_epochs.div_ceil(MAX_LINES)) || epoch == n_epochs {
                    let width = n_epochs.to_string().len();
                    output::message(&format!("{seed}epoch {epoch:width$}/{n_epochs}  {}", state(progress)));
                }
            }
        }
    }

    pub fn finish(&self) {
        if let Kind::Bar { bar, .. } = &self.kind {
            bar.finish_and_clear();
        }
    }
}

/// How many of a known number of things are done.
pub struct Count(Option<ProgressBar>);

impl Count {
    pub fn new(n: usize, what: &'static str, quiet: bool) -> Self {
        if quiet || !has_bars() {
            return Self(None);
        }
        let bar = ProgressBar::new(n as u64);
        if let Ok(style) = ProgressStyle::with_template("{pos}/{len} {msg} {wide_bar} {eta} left") {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.tick();
        Self(Some(bar))
    }

    pub fn one_more(&self) {
        if let Self(Some(bar)) = self {
            bar.inc(1);
        }
    }

    pub fn finish(&self) {
        if let Self(Some(bar)) = self {
            bar.finish_and_clear();
        }
    }
}

fn is_batch(solver: &Solver) -> bool {
    matches!(solver, Solver::Lbfgs(_) | Solver::NewtonCg(_))
}

fn state_of_iteration(progress: &Progress) -> String {
    let validation = progress.validation_loss.map(|loss| format!("  validation {loss:.6}")).unwrap_or_default();
    format!("objective {:.9}{validation}  {} evaluations", progress.loss, progress.evaluations)
}

fn state(progress: &Progress) -> String {
    let speed = HumanCount(progress.samples_per_second() as u64);
    let time = if progress.epoch < progress.n_epochs {
        format!("{} left", duration(progress.remaining()))
    } else {
        format!("took {}", duration(progress.elapsed))
    };
    let validation = progress.validation_loss.map(|loss| format!("  validation {loss:.6}")).unwrap_or_default();
    format!("loss {:.6}{validation}  {speed} samples/s  {time}", progress.loss)
}

fn duration(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 10..100 => format!("{seconds} s"),
        seconds @ 100..6000 => format!("{} min", seconds / 60),
        seconds => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}
