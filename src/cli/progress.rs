//! Progress of training: a bar on a terminal, a few plain lines elsewhere.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use softreg::{Progress, Solver};

use crate::output;

/// At most this many plain lines for a run, and one for the first epoch.
const MAX_LINES: usize = 10;

pub enum Display {
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
    pub fn new(solver: &Solver, n_samples: usize, quiet: bool) -> Self {
        if quiet {
            return Self::None;
        }
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if !io::stderr().is_terminal() || dumb {
            return if is_batch(solver) { Self::Iterations } else { Self::Lines };
        }
        // Nobody knows how many iterations a batch solver will take.
        let (bar, template) = match is_batch(solver) {
            true => (ProgressBar::new_spinner(), "iteration {pos} {spinner} {msg}"),
            false => (ProgressBar::new(solver.n_epochs(n_samples) as u64), "epoch {pos}/{len} {wide_bar} {msg}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.tick();
        Self::Bar { bar, is_batch: is_batch(solver) }
    }

    pub fn show(&self, progress: &Progress) {
        match self {
            Self::None => {}
            Self::Bar { bar, is_batch } => {
                bar.set_position(progress.epoch as u64);
                bar.set_message(if *is_batch { state_of_iteration(progress) } else { state(progress) });
            }
            Self::Iterations if progress.epoch.is_power_of_two() => {
                output::message(&format!("iteration {:4}  {}", progress.epoch, state_of_iteration(progress)));
            }
            Self::Iterations => {}
            Self::Lines => {
                let Progress { epoch, n_epochs, .. } = *progress;
                if epoch == 1 || epoch.is_multiple_of(n_epochs.div_ceil(MAX_LINES)) || epoch == n_epochs {
                    let width = n_epochs.to_string().len();
                    output::message(&format!("epoch {epoch:width$}/{n_epochs}  {}", state(progress)));
                }
            }
        }
    }

    pub fn finish(&self) {
        if let Self::Bar { bar, .. } = self {
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
