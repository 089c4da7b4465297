//! When training ends, with which parameters, and what is kept on the way: the same for every solver that improves them bit by
//! bit.

use std::fmt;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::Progress;
use super::batch::Stand;
use crate::backend::{Parameters, State, Weights};
use crate::error::{Error, Result};

/// Why training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// All epochs were done.
    Epochs,
    /// The objective is at its minimum, to within the tolerance.
    Converged,
    /// Rounding leaves nothing to gain, though the tolerance is not confirmed.
    Precision,
    /// The loss is zero but for rounding: the classes can be separated, and without a penalty no weights are large enough.
    Separable,
    /// All iterations were done.
    Iterations,
    /// The validation loss was no better than its best for as many epochs as the patience allows.
    EarlyStopping,
    /// Another epoch would have taken longer than the time limit.
    TimeLimit,
    /// The caller's function said so.
    Caller,
    /// Loss or weights were no longer finite; of a model in a sweep, of which the others go on.
    Diverged,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Epochs => "epochs",
            Self::Converged => "converged",
            Self::Precision => "limit of precision",
            Self::Separable => "separable classes",
            Self::Iterations => "iterations",
            Self::EarlyStopping => "early stopping",
            Self::TimeLimit => "time limit",
            Self::Caller => "stopped by the caller",
            Self::Diverged => "diverged",
        })
    }
}

/// What ends a training before its epochs do.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Limits {
    /// Epochs in a row that may have no better validation loss.
    pub patience: Option<usize>,
    /// Time of the whole fit.
    pub time_limit: Option<Duration>,
}

impl Limits {
    pub fn check(self, is_validated: bool) -> Result<()> {
        match self {
            Self { patience: Some(0), .. } => {
                Err(Error::Setting { name: "the patience", value: "0".to_owned(), expected: "at least 1 epoch" })
            }
            Self { patience: Some(patience), .. } if !is_validated => Err(Error::Setting {
                name: "the patience",
                value: patience.to_string(),
                expected: "left out where there is no validation data",
            }),
            Self { time_limit: Some(Duration::ZERO), .. } => {
                Err(Error::Setting { name: "the time limit", value: "0".to_owned(), expected: "above 0 seconds" })
            }
            _ => Ok(()),
        }
    }
}

/// The validation loss of parameters.
pub(crate) type Validate<'a> = dyn FnMut(&Parameters) -> Result<f64> + 'a;

/// Looks on while a solver trains: is told of each epoch, validates, keeps the best parameters and says when to stop.
pub(crate) struct Observer<'a, 'k> {
    limits: Limits,
    /// When the fit began.
    begin: Instant,
    validate: Option<&'a mut Validate<'a>>,
    on_epoch: &'a mut dyn FnMut(&Progress) -> ControlFlow<()>,
    keeper: &'a mut Keeper<'k>,
    epochs: Vec<Progress>,
    best: Option<Best>,
    /// Of the epochs so far.
    longest: Duration,
}

/// The weights with the lowest validation loss.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Best {
    /// From 1.
    pub epoch: usize,
    pub loss: f64,
    pub weights: Weights,
}

/// Where a training stands after an epoch: all that it needs to go on to the same bits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    pub solver: SolverState,
    /// Those done.
    pub epochs: Vec<Progress>,
    pub best: Option<Best>,
}

/// Where a solver stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SolverState {
    Stochastic(State),
    Batch(Stand),
}

/// When a checkpoint is written, beside when training is stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Every {
    /// After so many epochs, or iterations of a batch solver.
    Epochs(usize),
    /// After the first epoch that ends so long after the last checkpoint.
    Time(Duration),
}

impl Every {
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Epochs(0) | Self::Time(Duration::ZERO) => Err(Error::Setting {
                name: "the interval of checkpoints",
                value: "0".to_owned(),
                expected: "at least 1 epoch, or above 0 seconds",
            }),
            _ => Ok(()),
        }
    }
}

/// Writes a checkpoint.
pub(crate) type WriteCheckpoint<'k> = dyn FnMut(&Snapshot) -> Result<()> + 'k;

/// Keeps where a training stands: in a file, and where a device may fail in memory.
pub(crate) struct Keeper<'k> {
    pub file: Option<(Every, Box<WriteCheckpoint<'k>>)>,
    /// Whether to keep it in memory.
    pub in_memory: bool,
    /// Where the training goes on, should it begin again.
    pub snapshot: Option<Snapshot>,
    /// Why it ended there, when it has.
    ended: Option<StopReason>,
    /// Where a batch solver stood at its last place to go on from, which is not written yet.
    unwritten: Option<Snapshot>,
    /// The epoch of the last checkpoint that was written.
    pub written: Option<usize>,
    /// What went wrong, for people.
    pub faults: Vec<String>,
    last_file: Instant,
    last_memory: Instant,
}

/// How long what is in memory is good for: reading it back should cost little beside the epochs. Tests keep all.
const IN_MEMORY: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(1) };

impl<'k> Keeper<'k> {
    /// Of a training that goes on from `snapshot`, if there is one.
    pub fn new(snapshot: Option<Snapshot>) -> Self {
        let now = Instant::now();
        Self {
            file: None,
            in_memory: false,
            snapshot,
            ended: None,
            unwritten: None,
            written: None,
            faults: Vec::new(),
            last_file: now,
            last_memory: now,
        }
    }

    /// Epochs done where the training goes on, should it begin again.
    pub fn n_epochs(&self) -> usize {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.epochs.len())
    }

    /// Writes a checkpoint. One that cannot be written is no reason to lose what is trained; the older one stays.
    fn write(&mut self, snapshot: &Snapshot) {
        let Some((_, write)) = &mut self.file else { return };
        let epoch = snapshot.epochs.len();
        match write(snapshot) {
            Ok(()) => self.written = Some(epoch),
            Err(error) => {
                let fault = format!("no checkpoint after epoch {epoch}: {error}");
                log::warn!("{fault}");
                self.faults.push(fault);
            }
        }
        self.last_file = Instant::now();
    }

    fn keep_in_memory(&mut self, snapshot: Snapshot, reason: Option<StopReason>) {
        if self.in_memory {
            (self.snapshot, self.ended) = (Some(snapshot), reason);
            self.last_memory = Instant::now();
        }
    }

    /// Whether it is time to keep in memory where the training stands.
    fn is_memory_due(&self, reason: Option<StopReason>) -> bool {
        self.in_memory && (reason.is_some() || self.last_memory.elapsed() >= IN_MEMORY)
    }

    /// Whether it is time for a file after `epoch`, the last one before a stop for `reason`.
    fn is_due(&self, epoch: usize, reason: Option<StopReason>) -> bool {
        let Some((every, _)) = &self.file else { return false };
        match reason {
            Some(StopReason::Caller | StopReason::TimeLimit) => true,
            // There is nothing to go on with.
            Some(_) => false,
            None => match *every {
                Every::Epochs(n) => epoch.is_multiple_of(n),
                Every::Time(time) => self.last_file.elapsed() >= time,
            },
        }
    }
}

/// What a training came to.
pub(crate) struct Outcome {
    /// Those of the best epoch, where there is validation data; otherwise the last.
    pub weights: Weights,
    pub epochs: Vec<Progress>,
    pub reason: StopReason,
    /// From 1; none without validation data.
    pub best_epoch: Option<usize>,
}

impl<'a, 'k> Observer<'a, 'k> {
    pub fn new(
        limits: Limits,
        begin: Instant,
        validate: Option<&'a mut Validate<'a>>,
        on_epoch: &'a mut dyn FnMut(&Progress) -> ControlFlow<()>,
        keeper: &'a mut Keeper<'k>,
    ) -> Self {
        let (epochs, best) = keeper
            .snapshot
            .as_ref()
            .map_or_else(Default::default, |snapshot| (snapshot.epochs.clone(), snapshot.best.clone()));
        let before = [Duration::ZERO].into_iter().chain(epochs.iter().map(|epoch| epoch.elapsed));
        let lengths = epochs.iter().zip(before).map(|(epoch, before)| epoch.elapsed.saturating_sub(before));
        let longest = lengths.max().unwrap_or_default();
        Self { limits, begin, validate, on_epoch, keeper, epochs, best, longest }
    }

    /// Where the solver goes on; nothing at the beginning.
    pub fn solver_state(&self) -> Option<&SolverState> {
        self.keeper.snapshot.as_ref().map(|snapshot| &snapshot.solver)
    }

    /// Why the training has ended already, which begins again for another reason.
    pub fn ended(&self) -> Option<StopReason> {
        self.keeper.ended
    }

    /// The time that the epochs took that were done before.
    pub fn elapsed(&self) -> Duration {
        self.epochs.last().map_or(Duration::ZERO, |last| last.elapsed)
    }

    /// How many epochs there are at most between places from which the training may go on, by number; `of_time` where these go
    /// by time. Nothing where no checkpoints are written.
    pub fn interval(&self, of_time: usize) -> Option<usize> {
        self.keeper.file.as_ref().map(|(every, _)| match *every {
            Every::Epochs(n) => n,
            Every::Time(_) => of_time,
        })
    }

    fn snapshot(&self, solver: SolverState) -> Snapshot {
        Snapshot { solver, epochs: self.epochs.clone(), best: self.best.clone() }
    }

    /// Keeps where the training stands after the epoch that it was last told of, if it is time to; `reason`: why it stops there.
    pub fn keep(&mut self, reason: Option<StopReason>, solver: &mut dyn FnMut() -> Result<SolverState>) -> Result<()> {
        let is_due = self.keeper.is_due(self.epochs.len(), reason);
        if is_due || self.keeper.is_memory_due(reason) {
            let snapshot = self.snapshot(solver()?);
            if is_due {
                self.keeper.write(&snapshot);
            }
            self.keeper.keep_in_memory(snapshot, reason);
        }
        Ok(())
    }

    /// The same after an iteration of a batch solver, from which it could go on, but not to the same bits: good enough where a device
    /// has failed.
    pub fn keep_between(&mut self, reason: Option<StopReason>, solver: &mut dyn FnMut() -> SolverState) {
        if self.keeper.is_memory_due(reason) {
            let snapshot = self.snapshot(solver());
            self.keeper.keep_in_memory(snapshot, reason);
        }
    }

    /// The same where a batch solver goes on to the same bits.
    pub fn keep_leg(&mut self, reason: Option<StopReason>, solver: SolverState) {
        let snapshot = self.snapshot(solver);
        self.keeper.unwritten = None;
        if self.keeper.is_due(self.epochs.len(), reason) {
            self.keeper.write(&snapshot);
        } else if self.keeper.file.is_some() {
            self.keeper.unwritten = Some(snapshot.clone());
        }
        self.keeper.keep_in_memory(snapshot, reason);
    }

    /// Writes the last place that [`Observer::keep_leg`] was told of.
    pub fn keep_last_leg(&mut self) {
        if let Some(snapshot) = self.keeper.unwritten.take() {
            self.keeper.write(&snapshot);
        }
    }

    /// Takes note of an epoch, after which the weights are `weights()`. Why to stop, if training must.
    pub fn after(
        &mut self,
        mut progress: Progress,
        weights: &mut dyn FnMut() -> Result<Weights>,
    ) -> Result<Option<StopReason>> {
        let epoch = progress.epoch;
        if let Some(validate) = &mut self.validate {
            let weights = weights()?;
            let loss = validate(weights.dense())?;
            progress.validation_loss = Some(loss);
            if self.best.as_ref().is_none_or(|best| loss < best.loss) {
                self.best = Some(Best { epoch, loss, weights });
            }
        }
        let flow = (self.on_epoch)(&progress);
        let before = self.epochs.last().map_or(Duration::ZERO, |last| last.elapsed);
        self.longest = self.longest.max(progress.elapsed.saturating_sub(before));
        let is_last = epoch == progress.n_epochs;
        self.epochs.push(progress);

        let Limits { patience, time_limit } = self.limits;
        let waited = self.best.as_ref().map_or(0, |best| epoch - best.epoch);
        Ok(if flow.is_break() {
            Some(StopReason::Caller)
        } else if is_last {
            Some(StopReason::Epochs)
        } else if patience.is_some_and(|patience| waited >= patience) {
            Some(StopReason::EarlyStopping)
        } else if time_limit.is_some_and(|limit| self.begin.elapsed() + self.longest > limit) {
            Some(StopReason::TimeLimit)
        } else {
            None
        })
    }

    /// How many epochs were done.
    pub fn n_epochs(&self) -> usize {
        self.epochs.len()
    }

    /// What the training came to that ended for `reason` with `last`.
    pub fn finish(self, reason: StopReason, last: Weights) -> Outcome {
        let Self { epochs, best, .. } = self;
        let best_epoch = best.as_ref().map(|best| best.epoch);
        // Those of the last epoch may have been improved since.
        let earlier = best.filter(|best| best.epoch < epochs.len());
        Outcome { weights: earlier.map_or(last, |best| best.weights), epochs, reason, best_epoch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Shape;

    /// Runs up to ten epochs with these validation losses.
    fn run(limits: Limits, losses: &[f64], time: Duration) -> Outcome {
        let shape = Shape { n_features: 1, n_classes: 1, n_heads: 1 };
        let of_epoch = |epoch: usize| Parameters { shape, values: vec![epoch as f32; 2] };
        let mut validate = |parameters: &Parameters| Ok(losses[parameters.values[0] as usize - 1]);
        let mut on_epoch = |_: &Progress| ControlFlow::Continue(());
        let validate: Option<&mut Validate> = if losses.is_empty() { None } else { Some(&mut validate) };
        let mut keeper = Keeper::new(None);
        let mut observer = Observer::new(limits, Instant::now(), validate, &mut on_epoch, &mut keeper);
        for epoch in 1..=10 {
            let progress = Progress {
                seed: 0,
                epoch,
                n_epochs: 10,
                loss: 1.0,
                evaluations: epoch as f64,
                validation_loss: None,
                is_polish: false,
                n_samples: 1,
                elapsed: time * epoch as u32,
            };
            if let Some(reason) = observer.after(progress, &mut || Ok(of_epoch(epoch).into())).unwrap() {
                // A batch solver improves its last parameters after it has told of them.
                let improved = Parameters { shape, values: vec![epoch as f32 + 0.5; 2] };
                return observer.finish(reason, improved.into());
            }
        }
        panic!("it goes on after the last epoch");
    }

    #[test]
    fn patience_ends_a_training_and_the_best_parameters_are_kept() {
        let losses = [5.0, 4.0, 4.5, 3.0, 3.0, 3.5, 3.1, 2.0, 1.0, 0.5];
        let patience = |n: usize| Limits { patience: Some(n), ..Limits::default() };
        for (n, epochs, best, reason) in [
            (1, 3, 2, StopReason::EarlyStopping),
            (2, 6, 4, StopReason::EarlyStopping),
            (3, 7, 4, StopReason::EarlyStopping),
            (4, 10, 10, StopReason::Epochs),
        ] {
            let outcome = run(patience(n), &losses, Duration::ZERO);
            assert_eq!((outcome.epochs.len(), outcome.best_epoch, outcome.reason), (epochs, Some(best), reason));
            let improved = if best == epochs { 0.5 } else { 0.0 };
            assert_eq!(outcome.weights.values(), [best as f32 + improved; 2]);
            assert_eq!(outcome.epochs[1].validation_loss, Some(4.0));
        }
        let outcome = run(Limits::default(), &[], Duration::ZERO);
        assert_eq!((outcome.epochs.len(), outcome.best_epoch, outcome.reason), (10, None, StopReason::Epochs));
        assert_eq!(outcome.weights.values(), [10.5; 2]);
    }

    #[test]
    fn an_epoch_that_would_take_too_long_is_not_begun() {
        let limit = |seconds| Limits { time_limit: Some(Duration::from_secs(seconds)), ..Limits::default() };
        let outcome = run(limit(100), &[], Duration::from_secs(99));
        assert_eq!((outcome.epochs.len(), outcome.reason), (10, StopReason::Epochs));
        let outcome = run(limit(100), &[], Duration::from_secs(101));
        assert_eq!((outcome.epochs.len(), outcome.reason), (1, StopReason::TimeLimit));
    }

    #[test]
    fn limits_that_make_no_sense_are_errors() {
        let limits = |patience, time_limit| Limits { patience, time_limit };
        assert!(limits(Some(1), Some(Duration::from_millis(1))).check(true).is_ok());
        assert!(limits(None, None).check(false).is_ok());
        for (limits, is_validated) in
            [(limits(Some(0), None), true), (limits(Some(3), None), false), (limits(None, Some(Duration::ZERO)), true)]
        {
            assert!(matches!(limits.check(is_validated), Err(Error::Setting { .. })), "{limits:?}");
        }
    }
}
