//! Threads that go through many short phases together.
//!
//! The thread that leads works in every phase, and so do those that come to help while it lasts. Nobody is waited for but
//! who has begun to work: a phase ends even when no other thread has a processor. Between phases helpers look out for the
//! next one and do not sleep, for waking up takes longer than a phase of a small batch.

use std::hint;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::thread;

/// Who works in the present phase, not counting the leader.
const HELPERS: u64 = (1 << 16) - 1;
/// Helpers may join the present phase.
const OPEN: u64 = 1 << 16;
/// There are no more phases.
const END: u64 = 1 << 17;
/// The number of a phase, times this.
const PHASE: u64 = 1 << 18;
/// Looks at the state before others are offered the processor: about 10 µs.
const LOOKS: u32 = 1000;

type Work<'w> = &'w (dyn Fn() + Sync);

/// The leader and its helpers; by default there are none.
#[derive(Default)]
pub(super) struct Team {
    /// [`HELPERS`], [`OPEN`] and [`END`], and the number of the phase.
    state: AtomicU64,
    /// The work of the present phase; valid while it is open or has helpers.
    work: AtomicPtr<Work<'static>>,
}

/// Runs `lead` with helpers, so that there are as many threads as rayon's pool has, but no more than `most`: who has nothing
/// to do only disturbs the others by looking.
pub(super) fn lead<R>(most: usize, lead: impl FnOnce(&Team) -> R) -> R {
    let team = Team::default();
    // In place: the calling thread leads, and does not wait outside the pool while all of the pool's threads work.
    rayon::in_place_scope(|scope| {
        for _ in 1..rayon::current_num_threads().min(most) {
            scope.spawn(|_| team.help());
        }
        // Also when `lead` panics.
        let _end = Finally(|| team.state.store(END, Ordering::Release));
        lead(&team)
    })
}

impl Team {
    /// Runs `work` for each task, on up to as many threads as there are scratches. Whoever is free takes the next task.
    pub fn each<S: Send, T>(
        &self,
        scratch: &mut [S],
        tasks: impl Iterator<Item = T> + Send,
        work: impl Fn(&mut S, T) + Sync,
    ) {
        let (tasks, scratch) = (Mutex::new(tasks), Mutex::new(scratch.iter_mut()));
        // A poisoned lock: another thread has panicked, and with it the whole call does.
        self.phase(&|| {
            let Some(scratch) = scratch.lock().ok().and_then(|mut scratch| scratch.next()) else { return };
            while let Some(task) = tasks.lock().ok().and_then(|mut tasks| tasks.next()) {
                work(scratch, task);
            }
        });
    }

    /// Runs `work` on this thread, and on those that come to help meanwhile.
    fn phase(&self, work: Work) {
        // SAFETY: only the lifetime changes. Who helps has joined while the phase was open, and nobody leaves this
        // function before all have finished.
        let mut work: Work<'static> = unsafe { std::mem::transmute::<Work, Work<'static>>(work) };
        self.work.store(&raw mut work, Ordering::Relaxed);
        // No helper is left of the phase before.
        let number = self.state.load(Ordering::Relaxed) / PHASE;
        self.state.store(number.wrapping_add(1).wrapping_mul(PHASE) | OPEN, Ordering::Release);
        let _end = Finally(|| {
            self.state.fetch_and(!OPEN, Ordering::Relaxed);
            wait(|| self.state.load(Ordering::Acquire) & HELPERS == 0);
        });
        work();
    }

    fn help(&self) {
        let mut last = 0;
        loop {
            let mut state = 0;
            wait(|| {
                state = self.state.load(Ordering::Acquire);
                state & END != 0 || state & OPEN != 0 && state / PHASE != last
            });
            if state & END != 0 {
                return;
            }
            let work = self.work.load(Ordering::Relaxed);
            // Fails when the phase has ended, or another helper joined; then looks again.
            if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                let _end = Finally(|| {
                    self.state.fetch_sub(1, Ordering::Release);
                });
                // SAFETY: it is the work of this phase, whose number is part of the state, and the leader waits.
                unsafe { (*work)() };
                last = state / PHASE;
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
