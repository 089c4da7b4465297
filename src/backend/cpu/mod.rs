//! The CPU backend: every core, with the vector instructions that the processor has.
//!
//! Fast, not the reference. Few outputs take one fused pass over each batch (`narrow`), many take two tiled products
//! (`wide`); how many are few depends on the instruction set. Features stay in the precision they came in; they become
//! `f32` in registers, or a tile at a time. Results do not depend on the number of threads. They do depend, in their last
//! bits, on the instruction set.

#![allow(clippy::needless_range_loop, reason = "registers and memory are indexed side by side in the kernels")]

mod ceilings;
mod dot;
mod double;
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
use crate::error::Result;
use lanes::{Element, Instructions};
use loss::CpuLoss;
use meeting::{Meeting, Seat, meeting};
pub(crate) use moments::{Moments, moments, second_moments};
use pass::Kept;
pub(crate) use root::InverseRoot;
pub(crate) use row::{logits_of_row, softmax_of_row};
use sparse::SparseSession;
use stepper::{CpuStepper, Data};
use tiles::{Buffer, DotTile, Matrix, TILE, TileToRows, Weights};

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
            memory: memory(),
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
    fn meet<T: Element>(&self, x: &[T], scale: f32, shape: Shape, heads: Range<usize>, work: &OfHead) -> Result<usize> {
        let n_heads = heads.len();
        let (meeting, lead) = meeting(self.instructions, Matrix { x, d: shape.n_features }, scale, shape)?;
        let seats: Vec<Seat> = heads.clone().map(|_| meeting.seat()).collect();
        let (info, instructions) = (self.info.clone(), self.instructions);
        let cpu: Arc<dyn Backend> = Arc::new(Self { info, instructions, meeting: Some(meeting) });
        // What is no pass is done beside that of the others.
        let n_threads = (rayon::current_num_threads() / n_heads).max(1);
        let passes = thread::scope(|scope| {
            for (head, seat) in heads.zip(seats) {
                let cpu = cpu.clone();
                scope.spawn(move || {
                    let _seat = seat;
                    match rayon::ThreadPoolBuilder::new().num_threads(n_threads).build() {
                        Ok(pool) => pool.install(|| work(head, cpu)),
                        // With the threads of all.
                        Err(_) => work(head, cpu),
                    }
                });
            }
            lead.lead(n_heads)
        });
        Ok(passes)
    }
}

/// The machine's memory in bytes, where the system tells it in a file.
pub(super) fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
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
        heads: Range<usize>,
        work: &OfHead,
    ) -> Result<Option<usize>> {
        match features.values() {
            Values::F32(x) => self.meet(x, scale, shape, heads, work).map(Some),
            Values::F16(x) => self.meet(x, scale, shape, heads, work).map(Some),
            Values::U8(x) => self.meet(x, scale, shape, heads, work).map(Some),
            Values::Stored(_) | Values::Sparse(_) => Ok(None),
        }
    }

    fn loss_bytes(&self, n_samples: usize, shape: Shape) -> u64 {
        Kept::bytes(n_samples, shape)
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

/// What a thread needs to compute logits.
struct Scratch {
    columns: Buffer,
    tile: Buffer,
}

impl<T: Element> CpuSession<'_, T> {
    /// Logits of the rows from `first` on, as many as there is room for in `out`.
    fn logits_of(&self, weights: &Weights, first: usize, out: &mut [f32], finish: &Finish) -> Result<()> {
        let m = weights.bias.len();
        let n_tiles = (out.len() / m).div_ceil(TILE);
        let is_narrow = m <= self.instructions.most_narrow_outputs();
        let columns = if is_narrow { 0 } else { self.x.d.div_ceil(TILE) * TILE };
        let scratch = || {
            Ok(Scratch {
                columns: Buffer::zeros(columns, TILE, "a part of the features")?,
                tile: Buffer::zeros(m, TILE, "a part of the logits")?,
            })
        };
        let n_threads = rayon::current_num_threads().min(n_tiles);
        let mut scratch = (0..n_threads).map(|_| scratch()).collect::<Result<Vec<_>>>()?;

        let tiles = (first..).step_by(TILE).zip(out.chunks_mut(TILE * m));
        let work = |scratch: &mut Scratch, (first, out): (usize, &mut [f32])| {
            // The rows of this tile and of the next. None has a number past u32, see `Features`.
            let mut numbers = [0; 2 * TILE];
            let numbers = &mut numbers[..(2 * TILE).min(self.rows.end - first)];
            numbers.iter_mut().zip(first..).for_each(|(row, index)| *row = index as u32);
            let (rows, ahead) = numbers.split_at(out.len() / m);
            let (x, tile) = (self.x, &mut *scratch.tile);
            if is_narrow {
                self.instructions.run(DotTile { x, rows, weights, ahead, out: tile });
            } else {
                let columns = &mut *scratch.columns;
                self.instructions.run(wide::ProductTile { x, rows, weights, columns, out: tile });
            }
            self.instructions.run(TileToRows { tile, scale: self.scale, bias: &weights.bias, out });
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
        let weights = Weights::new(self.instructions, parameters)?;
        let block = match BLOCK / m {
            rows if rows >= TILE => rows / TILE * TILE,
            rows => rows.max(1),
        };
        let block = block.min(n);
        let mut logits = Buffer::zeros(block, m, "a block of logits")?;
        for first in (0..n).step_by(block) {
            let end = n.min(first + block);
            let out = &mut logits[..(end - first) * m];
            self.logits_of(&weights, first, out, &|_, _| {})?;
            sink(first..end, out)?;
        }
        Ok(())
    }

    fn logits_into(&mut self, parameters: &Parameters, out: &mut [f32], finish: &Finish) -> Result<()> {
        check::parameters(parameters, self.x.d)?;
        check::logits(parameters.shape, self.rows.end, out)?;
        self.logits_of(&Weights::new(self.instructions, parameters)?, 0, out, finish)
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
