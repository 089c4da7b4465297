//! Several trainings on the same samples at once: heads that have their passes over the features in common where the device can, or each
//! on threads of its own.

use std::sync::{Mutex, PoisonError};

use crate::backend::{Device, DeviceKind, Shape};
use crate::data::Features;
use crate::error::Result;

/// What heads have in common.
#[derive(Clone, Copy)]
pub(super) struct Common<'a> {
    pub features: &'a Features<'a>,
    pub scale: f32,
    /// Of one head.
    pub shape: Shape,
    /// Bytes that heads may take beside the features, where that is not left to the device.
    pub memory: Option<u64>,
}

/// Does the work for each of `n` heads, on the device that it is to take, and says how many passes over the samples there were, where
/// the heads had them in common. What comes of a head does not depend on the others.
pub(super) fn together<R: Send>(
    device: &Device,
    Common { features, scale, shape, memory }: Common,
    n: usize,
    work: impl Fn(usize, &Device) -> R + Sync,
) -> Result<(Vec<R>, Option<usize>)> {
    let done = Mutex::new((0..n).map(|_| None).collect::<Vec<_>>());
    let of_head = |index: usize, device: &Device| {
        let result = work(index, device);
        done.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
    };
    let n_passes = device.side_by_side(features, scale, shape, n, memory, &of_head)?;
    let heads: Vec<usize> = (0..n).collect();
    let results = match n_passes {
        Some(_) => done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect(),
        None if device.info().kind == DeviceKind::Cpu => beside_each_other(&heads, |&head| work(head, device)),
        None => heads.into_iter().map(|head| work(head, device)).collect(),
    };
    Ok((results, n_passes))
}

/// Does the work for each of `tasks`: of as many as there are threads each has one, with what is left over all threads help.
pub(super) fn beside_each_other<T: Sync, R: Send>(tasks: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let n_threads = rayon::current_num_threads();
    let alone = |task: &T| match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
        Ok(pool) => pool.install(|| work(task)),
        // Then with all threads, as it would be without others.
        Err(_) => work(task),
    };
    let mut results = Vec::with_capacity(tasks.len());
    for tasks in tasks.chunks(n_threads) {
        if tasks.len() < n_threads || n_threads == 1 {
            results.extend(tasks.iter().map(&work));
            continue;
        }
        let of_threads: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = tasks.iter().map(|task| scope.spawn(|| alone(task))).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        results.extend(of_threads.into_iter().map(|result| match result {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }));
    }
    results
}
