//! How the learning rate changes from step to step.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// What the learning rate is multiplied by, from the end of the warm-up to the last step. p goes from 0 to 1 there.
///
/// As text, with [`Display`](fmt::Display) and [`FromStr`]: `constant`, `linear`, `cosine`, `one-cycle`,
/// `step:FACTOR:EPOCHS`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Schedule {
    /// 1.
    Constant,
    /// 1 − p: to zero in a straight line, so that the noise of the batches dies out.
    #[default]
    Linear,
    /// (1 + cos πp)/2 (Loshchilov and Hutter 2017, "SGDR", without restarts).
    Cosine,
    /// Up from 1/25 to 1 and down to 0, each along half a cosine (Smith and Topin 2019, "Super-Convergence"; the shape is
    /// that of PyTorch's `OneCycleLR`, the momentum stays). The way up is the warm-up, without one the first 30 % of the
    /// steps.
    OneCycle,
    /// factorᵏ, k the number of whole `epochs` since the end of the warm-up.
    Step {
        /// Above 0, at most 1.
        factor: f64,
        /// At least 1.
        epochs: usize,
    },
}

/// How long the learning rate rises in a straight line (with [`Schedule::OneCycle`] along half a cosine) before the schedule
/// begins. It must end before training does.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Warmup {
    /// Not at all.
    #[default]
    None,
    /// So many epochs, which need not be whole.
    Epochs(f64),
    /// So many steps.
    Steps(usize),
    /// This share of all steps, at least 0 and below 1.
    Fraction(f64),
}

/// Where [`Schedule::OneCycle`] starts, and the share of the steps that it rises.
const ONE_CYCLE_START: f64 = 1.0 / 25.0;
const ONE_CYCLE_RISE: f64 = 0.3;

/// Where a step stands in a training.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    pub n_epochs: usize,
    /// Steps of an epoch.
    pub n_steps: usize,
}

impl Warmup {
    /// As a share of all steps.
    fn share(self, Course { n_epochs, n_steps }: Course) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Epochs(epochs) => epochs / n_epochs as f64,
            Self::Steps(steps) => steps as f64 / (n_epochs as f64 * n_steps as f64),
            Self::Fraction(fraction) => fraction,
        }
    }

    /// That it ends before the training does.
    pub(super) fn check(self, course: Course) -> Result<()> {
        if (0.0..1.0).contains(&self.share(course)) {
            return Ok(());
        }
        Err(Error::Setting {
            name: "the warm-up",
            value: format!("{self} of {} epochs", course.n_epochs),
            expected: "at least 0 and shorter than the training",
        })
    }
}

impl Schedule {
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Step { factor, epochs } if !(factor > 0.0 && factor <= 1.0) || epochs == 0 => Err(Error::Setting {
                name: "the schedule",
                value: self.to_string(),
                expected: "of a factor above 0 and at most 1, and at least 1 epoch",
            }),
            _ => Ok(()),
        }
    }

    /// What the learning rate is multiplied by in step `step` of epoch `epoch`, both counted from 0.
    pub(super) fn rate(self, warmup: Warmup, course: Course, epoch: usize, step: usize) -> f64 {
        let Course { n_epochs, n_steps } = course;
        let done = (epoch as f64 + step as f64 / n_steps as f64) / n_epochs as f64;
        let rise = match (self, warmup) {
            (Self::OneCycle, Warmup::None) => ONE_CYCLE_RISE,
            _ => warmup.share(course),
        };
        if done < rise {
            let one_step = 1.0 / (n_epochs as f64 * n_steps as f64);
            return match self {
                Self::OneCycle => 1.0 - (1.0 - ONE_CYCLE_START) * half_cosine(done / rise),
                // The first step is not 0, the first after the warm-up is 1.
                _ => (done + one_step) / (rise + one_step),
            };
        }
        let p = (done - rise) / (1.0 - rise);
        match self {
            Self::Constant => 1.0,
            Self::Linear => 1.0 - p,
            Self::Cosine | Self::OneCycle => half_cosine(p),
            Self::Step { factor, epochs } => {
                // Whole epochs, though their quotients are rounded.
                let whole = ((done - rise) * n_epochs as f64 / epochs.max(1) as f64 + 1e-9).floor();
                factor.powf(whole)
            }
        }
    }
}

/// (1 + cos πp)/2: from 1 to 0 as p goes from 0 to 1.
fn half_cosine(p: f64) -> f64 {
    (1.0 + (PI * p).cos()) / 2.0
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Linear => f.write_str("linear"),
            Self::Cosine => f.write_str("cosine"),
            Self::OneCycle => f.write_str("one-cycle"),
            Self::Step { factor, epochs } => write!(f, "step:{factor}:{epochs}"),
        }
    }
}

impl FromStr for Schedule {
    type Err = Error;

    /// # Errors
    /// [`Error::Setting`] for a text that is no schedule.
    fn from_str(text: &str) -> Result<Self> {
        let step = |rest: &str| {
            let (factor, epochs) = rest.split_once(':')?;
            let schedule = Self::Step { factor: factor.parse().ok()?, epochs: epochs.parse().ok()? };
            schedule.check().ok().map(|()| schedule)
        };
        let schedule = match text {
            "constant" => Some(Self::Constant),
            "linear" => Some(Self::Linear),
            "cosine" => Some(Self::Cosine),
            "one-cycle" => Some(Self::OneCycle),
            _ => text.strip_prefix("step:").and_then(step),
        };
        schedule.ok_or_else(|| Error::Setting {
            name: "the schedule",
            value: format!("{text:?}"),
            expected: "constant, linear, cosine, one-cycle or step:FACTOR:EPOCHS (step:0.1:10 takes a tenth every 10 epochs)",
        })
    }
}

impl fmt::Display for Warmup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Epochs(epochs) => write!(f, "{epochs} epochs"),
            Self::Steps(steps) => write!(f, "{steps} steps"),
            Self::Fraction(fraction) => write!(f, "a share of {fraction}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COURSE: Course = Course { n_epochs: 10, n_steps: 4 };

    fn rates(schedule: Schedule, warmup: Warmup) -> Vec<f64> {
        (0..40).map(|step| schedule.rate(warmup, COURSE, step / 4, step % 4)).collect()
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    }

    #[test]
    fn schedules_have_their_shapes() {
        use Schedule::{Constant, Cosine, Linear, OneCycle, Step};
        assert!(rates(Constant, Warmup::None).iter().all(|&rate| rate == 1.0));
        let linear = rates(Linear, Warmup::None);
        assert_eq!((linear[0], linear[20]), (1.0, 0.5));
        close(linear[39], 1.0 / 40.0);
        let cosine = rates(Cosine, Warmup::None);
        assert_eq!(cosine[0], 1.0);
        close(cosine[20], 0.5);
        close(cosine[10], (1.0 + 0.5f64.sqrt()) / 2.0);
        let step = rates(Step { factor: 0.5, epochs: 3 }, Warmup::None);
        for (epoch, expected) in [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125].into_iter().enumerate() {
            assert!(step[4 * epoch..][..4].iter().all(|&rate| rate == expected), "{step:?}");
        }
        let cycle = rates(OneCycle, Warmup::None);
        close(cycle[0], 1.0 / 25.0);
        close(cycle[6], 0.5 + 0.5 / 25.0);
        close(cycle[12], 1.0);
        close(cycle[26], 0.5);
        assert!(cycle[..=12].is_sorted() && cycle[12..].iter().rev().is_sorted() && cycle[39] > 0.0);
    }

    #[test]
    fn warm_ups_rise_to_where_the_schedule_begins() {
        for warmup in [Warmup::Epochs(2.0), Warmup::Steps(8), Warmup::Fraction(0.2)] {
            let linear = rates(Schedule::Linear, warmup);
            for (step, &rate) in linear[..=8].iter().enumerate() {
                close(rate, (step + 1) as f64 / 9.0);
            }
            close(linear[24], 0.5);
            let cycle = rates(Schedule::OneCycle, warmup);
            close(cycle[0], 1.0 / 25.0);
            close(cycle[8], 1.0);
            let step = rates(Schedule::Step { factor: 0.1, epochs: 4 }, warmup);
            assert!(step[8..24].iter().all(|&rate| rate == 1.0) && step[24..].iter().all(|&rate| rate == 0.1));
            warmup.check(COURSE).unwrap();
        }
        for warmup in [
            Warmup::Epochs(10.0),
            Warmup::Epochs(-1.0),
            Warmup::Epochs(f64::NAN),
            Warmup::Steps(40),
            Warmup::Fraction(1.0),
        ] {
            assert!(matches!(warmup.check(COURSE), Err(Error::Setting { .. })), "{warmup}");
        }
    }

    #[test]
    fn schedules_are_written_as_they_are_read() {
        let step = Schedule::Step { factor: 0.25, epochs: 7 };
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine, Schedule::OneCycle, step] {
            assert_eq!(schedule.to_string().parse::<Schedule>().unwrap(), schedule);
        }
        for wrong in
            ["", "Linear", "step", "step:0.5", "step:0:3", "step:2:3", "step:0.5:0", "step:NaN:1", "step:0.1:2:3"]
        {
            let error = wrong.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains("step:FACTOR:EPOCHS"), "{error}");
        }
    }
}
