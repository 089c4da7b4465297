//! Threads that go through many short phases together.
//!
//! The thread that leads works in every phase, and so do those of rayon's pool that come to help. Nobody is waited for but
//! who has begun to work: a phase ends even when no other thread has a processor. Between phases helpers look out for the
//! next one and do not sleep, for waking up takes longer than a phase of a small batch. They go when there was none for a
//! while, and the next phase asks for others; and every few milliseconds they do first what else is asked of the pool.

use std::hint;
use std::panic::resume_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rayon::Scope;

/// Who works in the present phase, not counting the leader.
const HELPERS: u64 = (1 << 16) - 1;
/// Helpers may join the present phase.
const OPEN: u64 = 1 << 16;
/// There are no more phases.
const END: u64 = 1 << 17;
/// A helper has panicked.
const PANICKED: u64 = 1 << 18;
/// The number of a phase, times this.
const PHASE: u64 = 1 << 19;

/// Looks at the state before others are offered the processor: about 10 µs.
const LOOKS: u32 = 1000;
/// A helper goes when there was no phase for so long, and looks for other work of the pool after a turn.
const IDLE: Duration = Duration::from_micros(200);
const TURN: Duration = Duration::from_millis(5);

/// What is done in a phase, by the leader or not.
type Work<'w> = &'w (dyn Fn(bool) + Sync);

/// The thread that leads, and who helps it.
pub(super) struct Team<'a, 's> {
    helpers: Option<(&'s Shared, &'a Scope<'s>)>,
    n_helpers: usize,
}

/// What leader and helpers share.
#[derive(Default)]
struct Shared {
    /// [`HELPERS`], [`OPEN`], [`END`] and [`PANICKED`], and the number of the phase.
    state: AtomicU64,
    /// The work of the present phase; valid while it is open or has helpers.
    work: AtomicPtr<Work<'static>>,
    /// Helpers that were asked for and have not gone.
    n_helpers: AtomicUsize,
}

/// Runs `lead` with helpers, so that there are as many threads as rayon's pool has, but no more than `most`: who has nothing
/// to do only disturbs the others by looking.
pub(super) fn lead<R>(most: usize, lead: impl FnOnce(&mut Team) -> R) -> R {
    let n_helpers = rayon::current_num_threads().min(most).saturating_sub(1);
    if n_helpers == 0 {
        return lead(&mut Team { helpers: None, n_helpers });
    }
    let shared = Shared::default();
    // In place: the calling thread leads.
    rayon::in_place_scope(|scope| {
        // Also when `lead` panics.
        let _end = Finally(|| shared.state.store(END, Ordering::Release));
        lead(&mut Team { helpers: Some((&shared, scope)), n_helpers })
    })
}

impl Team<'_, '_> {
    /// How many threads there are at most.
    pub fn n_threads(&self) -> usize {
        1 + self.n_helpers
    }

    /// Runs `work` for each task, on up to as many threads as there are scratches. Whoever is free takes the next task. The leader has the
    /// first scratch as long as it comes before the last helper, and so finds it in its cache.
    pub fn each<S: Send, T>(
        &mut self,
        scratch: &mut [S],
        tasks: impl Iterator<Item = T> + Send,
        work: impl Fn(&mut S, T) + Sync,
    ) {
        self.take(scratch, tasks, |tasks, _| tasks.next(), work);
    }

    /// The same, but helpers begin with the last task, so that the leader, and a helper that is alone, have those that they had before.
    pub fn each_from_both_ends<S: Send, T>(
        &mut self,
        scratch: &mut [S],
        tasks: impl DoubleEndedIterator<Item = T> + Send,
        work: impl Fn(&mut S, T) + Sync,
    ) {
        self.take(scratch, tasks, |tasks, is_leader| if is_leader { tasks.next() } else { tasks.next_back() }, work);
    }

    fn take<S: Send, I: Send, T>(
        &mut self,
        scratch: &mut [S],
        tasks: I,
        next: impl Fn(&mut I, bool) -> Option<T> + Sync,
        work: impl Fn(&mut S, T) + Sync,
    ) {
        let (tasks, scratch) = (Mutex::new(tasks), Mutex::new(scratch.iter_mut()));
        self.phase(&|is_leader| {
            // No lock is held while a task is worked at, so that none is poisoned by it.
            let of_this = scratch.lock().ok().and_then(|mut all| if is_leader { all.next() } else { all.next_back() });
            let Some(scratch) = of_this else { return };
            while let Some(task) = tasks.lock().ok().and_then(|mut tasks| next(&mut tasks, is_leader)) {
                work(scratch, task);
            }
        });
    }

    /// Runs `work` on this thread, and on those that come to help meanwhile.
    fn phase(&mut self, work: Work) {
        let Some((shared, scope)) = self.helpers else { return work(true) };
        // SAFETY: only the lifetime changes. Who helps has joined while the phase was open, and nobody leaves this
        // function before all have finished.
        let mut work: Work<'static> = unsafe { std::mem::transmute::<Work, Work<'static>>(work) };
        shared.work.store(&raw mut work, Ordering::Relaxed);
        // No helper is left of the phase before.
        let number = shared.state.load(Ordering::Relaxed) / PHASE;
        shared.state.store(number.wrapping_add(1).wrapping_mul(PHASE) | OPEN, Ordering::SeqCst);
        {
            let _end = Finally(|| {
                shared.state.fetch_and(!OPEN, Ordering::Relaxed);
                wait(|| shared.state.load(Ordering::Acquire) & HELPERS == 0);
            });
            // One who is about to go sees the phase, or is seen here not to be there.
            while shared.n_helpers.load(Ordering::SeqCst) < self.n_helpers {
                shared.n_helpers.fetch_add(1, Ordering::Relaxed);
                scope.spawn(|_| shared.help());
            }
            work(true);
        }
        if shared.state.load(Ordering::Relaxed) & PANICKED != 0 {
            resume_unwind(Box::new("a task has panicked on another thread"));
        }
    }
}

impl Shared {
    fn help(&self) {
        let mut begin = Instant::now();
        let mut last = 0;
        loop {
            let (mut state, mut since) = (0, None);
            wait(|| {
                state = self.state.load(Ordering::Acquire);
                let is_new = state & OPEN != 0 && state / PHASE != last;
                is_new || state & END != 0 || since.get_or_insert_with(Instant::now).elapsed() > IDLE
            });
            if state & OPEN == 0 || state / PHASE == last {
                self.n_helpers.fetch_sub(1, Ordering::SeqCst);
                let state = self.state.load(Ordering::SeqCst);
                if state & OPEN == 0 || state / PHASE == last {
                    return;
                }
                self.n_helpers.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let work = self.work.load(Ordering::Relaxed);
            // Fails when the phase has ended, or another helper joined; then looks again.
            if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            {
                let _end = Finally(|| {
                    if thread::panicking() {
                        self.state.fetch_or(PANICKED, Ordering::Relaxed);
                    }
                    self.state.fetch_sub(1, Ordering::Release);
                });
                // SAFETY: it is the work of this phase: had the leader stored another since, it would have closed this
                // phase first and opened one of another number, and the exchange would have failed. The leader waits until
                // this thread no longer counts.
                unsafe { (*work)(false) };
            }
            last = state / PHASE;
            if begin.elapsed() >= TURN {
                rayon::yield_now();
                begin = Instant::now();
            }
        }
    }
}

/// Looks until `is_done`.
fn wait(mut is_done: impl FnMut() -> bool) {
    let mut looks = 0;
    while !is_done() {
        if looks < LOOKS {
            looks += 1;
            hint::spin_loop();
        } else {
            thread::yield_now();
        }
    }
}

/// Does something at the end of a block, even when it panics.
struct Finally<F: FnMut()>(F);

impl<F: FnMut()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
