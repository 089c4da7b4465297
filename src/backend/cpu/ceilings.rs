//! What the processor can do at most. Benchmarks compare the kernels with it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::lanes::{Instructions, Kernel, Lanes};
use super::tiles::Buffer;
use crate::backend::Ceilings;
use crate::error::Result;

/// Values that are read: 256 MiB, more than caches hold.
const VALUES: usize = 64 << 20;
/// Vectors that are multiplied and added to at once: more than the latency of an operation hides behind.
const VECTORS: usize = 12;
/// Rounds of a thread, each with one multiplication and addition for each vector.
const ROUNDS: usize = 2_000_000;
/// The best of so many runs counts.
const RUNS: usize = 5;

/// Measures with all threads.
pub(super) fn measure(instructions: Instructions) -> Result<Ceilings> {
    let n_threads = rayon::current_num_threads();
    let values = Buffer::zeros(VALUES, 1, "values to read")?;
    let part = VALUES.div_ceil(n_threads).next_multiple_of(1024);
    let reading = best(|| {
        values.par_chunks(part).for_each(|values| {
            black_box(instructions.run(Read { values }));
        });
    });
    let lanes = instructions.run(LanesOf);
    let computing = best(|| {
        (0..n_threads).into_par_iter().for_each(|_| {
            black_box(instructions.run(MultiplyAdd));
        });
    });
    Ok(Ceilings {
        read_bytes: (VALUES * size_of::<f32>()) as f64 / reading.as_secs_f64(),
        flops: (2 * n_threads * lanes * VECTORS * ROUNDS) as f64 / computing.as_secs_f64(),
        dispatch: None,
    })
}

fn best(work: impl Fn()) -> Duration {
    let time = |_| {
        let begin = Instant::now();
        work();
        begin.elapsed().max(Duration::from_nanos(1))
    };
    (0..RUNS).map(time).min().unwrap_or(Duration::MAX)
}

struct LanesOf;

impl Kernel for LanesOf {
    type Output = usize;

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> usize {
        L::N
    }
}

/// The sum of all values, so that each is read.
struct Read<'a> {
    values: &'a [f32],
}

impl Kernel for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> f32 {
        let mut sums = [lanes.splat(0.0); 4];
        for values in self.values.chunks_exact(4 * L::N) {
            for i in 0..4 {
                // SAFETY: 4·N values.
                sums[i] = lanes.add(sums[i], unsafe { lanes.load(values.as_ptr().add(i * L::N)) });
            }
        }
        lanes.sum4(sums).iter().sum()
    }
}

/// x ← ½·x + ½ in registers.
struct MultiplyAdd;

impl Kernel for MultiplyAdd {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> f32 {
        let half = lanes.splat(black_box(0.5));
        let mut x = [lanes.splat(0.0); VECTORS];
        for _ in 0..ROUNDS {
            for i in 0..VECTORS {
                x[i] = lanes.mul_add(x[i], half, half);
            }
        }
        x.chunks_exact(4).map(|x| lanes.sum4([x[0], x[1], x[2], x[3]]).iter().sum::<f32>()).sum()
    }
}
