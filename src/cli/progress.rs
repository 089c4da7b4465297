//! Progress of training: a bar on a terminal, a few plain lines elsewhere.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use softreg::Progress;

use crate::output;

/// At most this many plain lines for a run, and one for the first epoch.
const MAX_LINES: usize = 10;

pub enum Display {
    None,
    Lines,
    Bar(ProgressBar),
}

impl Display {
    pub fn new(n_epochs: usize, quiet: bool) -> Self {
        if quiet {
            return Self::None;
        }
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if !io::stderr().is_terminal() || dumb {
            return Self::Lines;
        }
        let bar = ProgressBar::new(n_epochs as u64);
        if let Ok(style) = ProgressStyle::with_template("epoch {pos}/{len} {wide_bar} {msg}") {
            bar.set_style(style);
        }
        bar.tick();
        Self::Bar(bar)
    }

    pub fn show(&self, progress: &Progress) {
        match self {
            Self::None => {}
            Self::Bar(bar) => {
                bar.set_position(progress.epoch as u64);
                bar.set_message(state(progress));
            }
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
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
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
