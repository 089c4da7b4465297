//! The CPU backend: every core, with the vector instructions that the processor has.
//!
//! Fast, not the reference. Few outputs take one fused pass over each batch (`narrow`), or where batches are short two by portions of the
//! features (`short`); many take two tiled products (`wide`); how many are few depends on the instruction set. Features stay in the precision they came in; they become
//! `f32` in registers, or a tile at a time. Results do not depend on the number of threads. They do depend, in their last
//! bits, on the instruction set.

#![allow(clippy::needless_range_loop, reason = "registers and memory are indexed side by side in the kernels")]

mod amx;
mod bytes;
mod ceilings;
mod dot;
mod double;
mod factored;
mod factors;
mod gram;
mod lanes;
mod loss;
mod meeting;
mod moments;
mod narrow;
mod pass;
mod product;
mod real;
mod residual;
mod root;
mod row;
mod short;
mod softmax;
mod sparse;
mod stepper;
mod team;
#[cfg(test)]
mod tests;
mod tiles;
mod update;
mod wide;

use std::ops::Range;
use std::sync::Arc;
use std::thread;

use super::{
    Backend, Ceilings, DeviceInfo, DeviceKind, Finish, Head, Loss, OfHead, Parameters, Session, Shape, Sink, State,
    Stepper, Supervision, check,
};
use crate::data::{Features, Stored, Values};
use crate::error::{Error, Result};
use crate::memory;
use amx::{SIDE, SplitTile, SplitWeights, TERMS, Thirds, UnitTile, Units};
pub(crate) use factors::logits_of_factors;
pub(crate) use gram::Gram;
use lanes::{Element, Instructions};
use loss::CpuLoss;
use meeting::{Meeting, meeting};
pub(crate) use moments::{Moments, moments, second_moments};
use pass::Kept;
pub(crate) use root::InverseRoot;
pub(crate) use row::{exp_of_row, logits_of_row, softmax_of_row};
use sparse::SparseSession;
use stepper::{CpuStepper, Data};
use tiles::{Buffer, DotTile, Matrix, TILE, TileToRows, Weights, zeros};

/// Heads that go on at once at most, each on threads of its own.
const MOST_AT_ONCE: u64 = 64;
/// What their losses may take, in bytes, where the system does not tell what memory is free.
const MEMORY: u64 = 2 << 30;

/// The CPU backend.
pub struct Cpu {
    info: DeviceInfo,
    instructions: Instructions,
    /// Where the losses of its sessions have their passes in common with others.
    meeting: Option<Meeting>,
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Cpu {
    /// With the best instructions that this processor has.
    pub fn new() -> Self {
        Self::with_instructions(Instructions::best())
    }

    /// One with each of the instruction sets that this processor has.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        Instructions::all().into_iter().map(Self::with_instructions).collect()
    }

    fn with_instructions(instructions: Instructions) -> Self {
        let n_threads = rayon::current_num_threads();
        let threads = if n_threads == 1 { "thread" } else { "threads" };
        let info = DeviceInfo {
            name: "cpu".to_owned(),
            backend: "cpu",
            kind: DeviceKind::Cpu,
            driver: format!("{}, {n_threads} {threads}", instructions.name()),
            memory: memory::total(),
            max_buffer: None,
            max_binding: None,
            max_workgroup_memory: None,
            unusable: None,
        };
        Self { info, instructions, meeting: None }
    }
}

impl Cpu {
    /// [`Backend::side_by_side`] on these features.
    fn meet<T: Element>(
        &self,
        x: &[T],
        scale: f32,
        shape: Shape,
        n_heads: usize,
        memory: Option<u64>,
        work: &OfHead,
    ) -> Result<usize> {
        let memory = memory.or_else(|| Some(memory::available()? / 4)).unwrap_or(MEMORY);
        let at_once = memory / Kept::bytes(x.len() / shape.n_features, shape).max(1);
        let n_groups = n_heads.div_ceil(at_once.clamp(1, MOST_AT_ONCE) as usize).max(1);
        let of_group = n_heads.div_ceil(n_groups).max(1);
        let mut n_passes = 0;
        for first in (0..n_heads).step_by(of_group) {
            n_passes += self.meet_at_once(x, scale, shape, first..n_heads.min(first + of_group), work)?;
        }
        Ok(n_passes)
    }

    fn meet_at_once<T: Element>(
        &self,
        x: &[T],
        scale: f32,
        shape: Shape,
        heads: Range<usize>,
        work: &OfHead,
    ) -> Result<usize> {
        let no_thread = |problem: String| Error::Device { device: "cpu".to_owned(), problem };
        let n_heads = heads.len();
        let x = Matrix { x, d: shape.n_features };
        let (meeting, lead) = meeting(self.instructions, x, scale, shape)?;
        // What is no pass is done beside that of the others.
        let n_threads = (rayon::current_num_threads() / n_heads.max(1)).max(1);
        let place = |_| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build();
            Ok((meeting.seat(), pool.map_err(|error| no_thread(error.to_string()))?))
        };
        let places = heads.clone().map(place).collect::<Result<Vec<_>>>()?;
        let (info, instructions) = (self.info.clone(), self.instructions);
        let cpu: Arc<dyn Backend> = Arc::new(Self { info, instructions, meeting: Some(meeting) });
        thread::scope(|scope| {
            let (mut threads, mut failed) = (Vec::new(), None);
            for (head, (seat, pool)) in heads.zip(places) {
                let cpu = cpu.clone();
                let of_head = move || {
                    let _seat = seat;
                    pool.install(|| work(head, cpu));
                };
                // One that is not begun leaves its seat.
                match thread::Builder::new().spawn_scoped(scope, of_head) {
                    Ok(thread) => threads.push(thread),
                    Err(error) => failed = Some(no_thread(error.to_string())),
                }
            }
            let n_passes = lead.lead(n_heads);
            for thread in threads {
                if let Err(panic) = thread.join() {
                    std::panic::resume_unwind(panic);
                }
            }
            failed.map_or(Ok(n_passes), Err)
        })
    }
}

impl Backend for Cpu {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn ceilings(&self) -> Result<Ceilings> {
        ceilings::measure(self.instructions)
    }

    fn side_by_side(
        &self,
        features: &Features,
        scale: f32,
        shape: Shape,
        n_heads: usize,
        memory: Option<u64>,
        work: &OfHead,
    ) -> Result<Option<usize>> {
        check::shape(shape, features.n_features())?;
        match features.values() {
            Values::F32(x) => self.meet(x, scale, shape, n_heads, memory, work).map(Some),
            Values::F16(x) => self.meet(x, scale, shape, n_heads, memory, work).map(Some),
            Values::U8(x) => self.meet(x, scale, shape, n_heads, memory, work).map(Some),
            Values::Stored(_) | Values::Sparse(_) => Ok(None),
        }
    }

    fn session<'a>(
        &'a self,
        features: &'a Features<'a>,
        scale: f32,
        supervision: Option<Supervision<'a>>,
    ) -> Result<Box<dyn Session + 'a>> {
        Ok(match features.values() {
            Values::F32(x) => Box::new(CpuSession::new(self, features, x, scale, supervision)),
            Values::F16(x) => Box::new(CpuSession::new(self, features, x, scale, supervision)),
            Values::U8(x) => Box::new(CpuSession::new(self, features, x, scale, supervision)),
            Values::Stored(_) => return Err(Stored::unsupported()),
            Values::Sparse(x) => {
                let session = SparseSession::new(self.instructions, x, features.n_features(), scale, supervision);
                Box::new(session)
            }
        })
    }
}

struct CpuSession<'a, T> {
    instructions: Instructions,
    meeting: Option<&'a Meeting>,
    x: Matrix<'a, T>,
    scale: f32,
    supervision: Option<Supervision<'a>>,
    /// All rows, in one chunk: nothing here limits how much is seen at once.
    rows: Range<usize>,
}

impl<'a, T: Element> CpuSession<'a, T> {
    fn new(cpu: &'a Cpu, features: &Features, x: &'a [T], scale: f32, supervision: Option<Supervision<'a>>) -> Self {
        let x = Matrix { x, d: features.n_features() };
        let (instructions, meeting) = (cpu.instructions, cpu.meeting.as_ref());
        Self { instructions, meeting, x, scale, supervision, rows: 0..features.n_samples() }
    }
}

/// W and b for logits.
enum Factor {
    Tiles(Weights),
    /// For matrix units.
    Units {
        units: Units,
        weights: Vec<Thirds>,
        bias: Vec<f32>,
    },
}

/// What a thread needs to compute logits.
struct Scratch {
    columns: Buffer,
    tile: Buffer,
    samples: Vec<Thirds>,
}

/// With fewer outputs, or features, matrix units are idle too much of the time; estimated, not measured.
const LEAST_UNIT_OUTPUTS: usize = 12;
const LEAST_UNIT_FEATURES: usize = 32;

impl<T: Element> CpuSession<'_, T> {
    fn factor(&self, parameters: &Parameters) -> Result<Factor> {
        let (d, m) = (self.x.d, parameters.shape.n_outputs());
        match self.instructions.units() {
            Some(units) if m >= LEAST_UNIT_OUTPUTS && d >= LEAST_UNIT_FEATURES => {
                let mut weights = zeros(d.div_ceil(TERMS) * m.div_ceil(SIDE), "the weights")?;
                self.instructions.run(SplitWeights { weights: parameters.weights(), m, out: &mut weights });
                Ok(Factor::Units { units, weights, bias: parameters.bias().to_vec() })
            }
            _ => Ok(Factor::Tiles(Weights::new(self.instructions, parameters)?)),
        }
    }

    /// Logits of the rows from `first` on, as many as there is room for in `out`.
    fn logits_of(&self, factor: &Factor, first: usize, out: &mut [f32], finish: &Finish) -> Result<()> {
        let (Factor::Units { bias, .. } | Factor::Tiles(Weights { bias, .. })) = factor;
        let (m, d) = (bias.len(), self.x.d);
        let n_tiles = (out.len() / m).div_ceil(TILE);
        let is_narrow = m <= self.instructions.most_narrow_outputs();
        let (columns, tile, samples) = match factor {
            Factor::Units { .. } => (0, 0, 2 * d.div_ceil(TERMS)),
            Factor::Tiles(_) if is_narrow => (0, TILE, 0),
            Factor::Tiles(_) => (d.div_ceil(TILE) * TILE, TILE, 0),
        };
        let scratch = || {
            Ok(Scratch {
                columns: Buffer::zeros(columns, TILE, "a part of the features")?,
                tile: Buffer::zeros(m, tile, "a part of the logits")?,
                samples: zeros(samples, "a part of the features")?,
            })
        };
        let n_threads = rayon::current_num_threads().min(n_tiles);
        let mut scratch = (0..n_threads).map(|_| scratch()).collect::<Result<Vec<_>>>()?;

        let tiles = (first..).step_by(TILE).zip(out.chunks_mut(TILE * m));
        let work = |scratch: &mut Scratch, (first, out): (usize, &mut [f32])| {
            let (instructions, x, scale) = (self.instructions, self.x, self.scale);
            match factor {
                Factor::Units { units, weights, bias } => {
                    let samples = &mut scratch.samples[..];
                    instructions.run(SplitTile { x, first, n: out.len() / m, out: samples });
                    instructions.run(UnitTile { units: *units, samples, weights, scale, bias, out });
                }
                Factor::Tiles(weights) => {
                    // The rows of this tile and of the next. None has a number past u32, see `Features`.
                    let mut numbers = [0; 2 * TILE];
                    let numbers = &mut numbers[..(2 * TILE).min(self.rows.end - first)];
                    numbers.iter_mut().zip(first..).for_each(|(row, index)| *row = index as u32);
                    let (rows, ahead) = numbers.split_at(out.len() / m);
                    let Scratch { columns, tile, .. } = scratch;
                    if is_narrow {
                        instructions.run(DotTile { x, features: 0..d, rows, weights, ahead, out: tile });
                    } else {
                        instructions.run(wide::ProductTile { x, rows, weights, columns, out: tile });
                    }
                    instructions.run(TileToRows { tile, scale, bias: &weights.bias, out });
                }
            }
            finish(first, out);
        };
        team::lead(n_threads, |team| team.each(&mut scratch, tiles, work));
        Ok(())
    }
}

/// Values of a block of logits for the sink: 16 MiB.
const BLOCK: usize = 16 << 20 >> 2;

impl<T: Element> Session for CpuSession<'_, T> {
    fn chunks(&self) -> &[Range<usize>] {
        std::slice::from_ref(&self.rows)
    }

    fn logits(&mut self, parameters: &Parameters, sink: &mut Sink) -> Result<()> {
        check::parameters(parameters, self.x.d)?;
        let (m, n) = (parameters.shape.n_outputs(), self.rows.end);
        let factor = self.factor(parameters)?;
        let block = match BLOCK / m {
            rows if rows >= TILE => rows / TILE * TILE,
            rows => rows.max(1),
        };
        let block = block.min(n);
        let mut logits = Buffer::zeros(block, m, "a block of logits")?;
        for first in (0..n).step_by(block) {
            let end = n.min(first + block);
            let out = &mut logits[..(end - first) * m];
            self.logits_of(&factor, first, out, &|_, _| {})?;
            sink(first..end, out)?;
        }
        Ok(())
    }

    fn logits_into(&mut self, parameters: &Parameters, out: &mut [f32], finish: &Finish) -> Result<()> {
        check::parameters(parameters, self.x.d)?;
        check::logits(parameters.shape, self.rows.end, out)?;
        self.logits_of(&self.factor(parameters)?, 0, out, finish)
    }

    fn loss<'s>(&'s mut self, shape: Shape) -> Result<Box<dyn Loss + 's>> {
        check::shape(shape, self.x.d)?;
        let supervision = check::supervision(shape, self.supervision, self.rows.end)?;
        Ok(Box::new(CpuLoss::new(self.instructions, self.x, self.scale, supervision, shape, self.meeting)?))
    }

    fn stepper<'s>(&'s mut self, start: &State, heads: &[Head], batch_size: usize) -> Result<Box<dyn Stepper + 's>> {
        let supervision = check::training(start, heads, self.supervision, self.x.d, self.rows.end)?;
        let Supervision { targets, weights } = supervision;
        let data = Data { x: self.x, scale: self.scale, targets, weights };
        Ok(Box::new(CpuStepper::new(self.instructions, data, &self.rows, start, heads, batch_size)?))
    }
}
