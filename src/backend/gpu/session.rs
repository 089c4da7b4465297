//! A data set on the device, in chunks that a kernel can see at once.

use std::ops::Range;
use std::sync::Arc;

use wgpu::BufferUsages;

use super::kernel::{Kernel, Tile};
use super::labels::LabelLayout;
use super::loss::GpuLoss;
use super::memory::{Buffer, unpad_rows};
use super::shards::Shards;
use super::sparse_logits::{self, Lanes, SOFTWARE_ROW};
use super::sparse_stepper::SparseStepper;
use super::step::{BLOCK, Step, padded_outputs, weights_bytes};
use super::stepper::{GpuStepper, STEP_STRIDE, write_steps};
use super::{Gpu, classes, evenly, logits, tuning};
use crate::backend::{
    DeviceKind, Head, Loss, Parameters, Session, Shape, Sink, State, Stepper, Supervision, Tried, check,
};
use crate::data::{Csr, Dtype, Features, Targets, Values};
use crate::error::{Error, Result};

/// Logits come back in blocks of about this many bytes.
const LOGITS_BYTES: u64 = 16 << 20;

/// Column and value of a sparse feature.
const ENTRY_BYTES: u64 = 8;

/// Cuts `rows` of sparse features in ranges of about as many rows, none with more than `max_rows` of them, or more than
/// `max_values` values unless it is a single row.
pub(super) fn cut(csr: &Csr, rows: Range<usize>, max_rows: usize, max_values: usize) -> Vec<Range<usize>> {
    let offsets = &csr.offsets()[rows.start..=rows.end];
    let mut most = max_rows.min(rows.len()).max(1);
    loop {
        let fits =
            |range: &Range<usize>| range.len() <= 1 || offsets[range.end] - offsets[range.start] <= max_values as u64;
        if evenly(rows.len(), most).all(|range| fits(&range)) {
            return evenly(rows.len(), most).map(|range| rows.start + range.start..rows.start + range.end).collect();
        }
        // A single row fits.
        most = most * 7 / 8;
    }
}

/// Rows that the device holds together.
pub(super) struct Chunk {
    /// X, rows padded to whole blocks; of sparse features column and bits of all values.
    pub(super) features: Buffer,
    /// Where each row of sparse features begins, and where the last one ends; nothing where they are dense.
    pub(super) offsets: Buffer,
    /// As [`LabelLayout`] says; nothing where there are no targets.
    pub(super) labels: Buffer,
}

/// The most values that a row has.
fn longest_row(csr: &Csr) -> usize {
    (0..csr.n_rows()).map(|row| csr.row(row).0.len()).max().unwrap_or(0)
}

/// What a sample takes on the device at most.
pub(super) struct SampleBytes {
    features: u64,
    labels: u64,
    layout: LabelLayout,
    n_classes: usize,
}

impl SampleBytes {
    pub(super) fn of(features: &Features, supervision: Option<Supervision>) -> Self {
        let n_classes = match supervision.map(|supervision| supervision.targets) {
            Some(Targets::Distributions(values)) => values.len() / features.n_samples(),
            _ => 1,
        };
        let layout = supervision.map(LabelLayout::of).unwrap_or_default();
        let features = match features.values() {
            Values::Sparse(csr) => longest_row(csr) as u64 * ENTRY_BYTES,
            values => (features.n_features().next_multiple_of(BLOCK) * values.dtype().size()) as u64,
        };
        Self { features, labels: 4 * layout.width(n_classes) as u64, layout, n_classes }
    }

    /// Samples that fit into a chunk.
    pub(super) fn most_rows(&self, gpu: &Gpu) -> usize {
        (gpu.max_chunk() / self.features.max(self.labels)).max(1) as usize
    }
}

pub(super) struct GpuSession<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) scale: f32,
    pub(super) dtype: Dtype,
    /// The features, if they are sparse.
    pub(super) sparse: Option<&'a Csr<'a>>,
    pub(super) supervision: Option<Supervision<'a>>,
    pub(super) ranges: Vec<Range<usize>>,
    pub(super) chunks: Vec<Chunk>,
    pub(super) n_features: usize,
}

impl<'a> GpuSession<'a> {
    pub(super) fn new(
        gpu: &'a Gpu,
        features: &'a Features<'a>,
        scale: f32,
        supervision: Option<Supervision<'a>>,
    ) -> Result<Self> {
        let (n_samples, n_features) = (features.n_samples(), features.n_features());
        let dtype = features.values().dtype();
        let sparse = match features.values() {
            Values::Sparse(csr) => Some(csr),
            _ => None,
        };
        let sample = SampleBytes::of(features, supervision);
        gpu.check_binding("one sample's features", sample.features, "use fewer features or the device `cpu`")?;
        let longest = sample.features / ENTRY_BYTES;
        if sparse.is_some() && gpu.info.kind == DeviceKind::SoftwareGpu && longest > SOFTWARE_ROW as u64 {
            return Err(Error::DeviceLimit {
                device: gpu.info.name.clone(),
                what: "one sample's features".to_owned(),
                needed: sample.features,
                limit: SOFTWARE_ROW as u64 * ENTRY_BYTES,
                allows: "can go through in a loop",
                advice: "use the device `cpu`",
            });
        }
        gpu.check_binding("one sample's soft labels", sample.labels, "use fewer classes or the device `cpu`")?;

        // Chunks of about the same size, so that none has only a few rows, which would weigh too much in a batch.
        let ranges: Vec<_> = match sparse {
            Some(csr) => {
                let max_rows = (gpu.max_chunk() / sample.labels).saturating_sub(1).max(1) as usize;
                cut(csr, 0..n_samples, max_rows, (gpu.max_chunk() / ENTRY_BYTES) as usize)
            }
            None => evenly(n_samples, sample.most_rows(gpu)).collect(),
        };
        let SampleBytes { layout: labels, n_classes, .. } = sample;
        let chunks = ranges
            .iter()
            .map(|rows| {
                let labels = match supervision {
                    Some(supervision) => labels.upload(gpu, supervision, n_classes, rows.clone())?,
                    None => gpu.storage("the labels", 0)?,
                };
                let [offsets, features] = match sparse {
                    Some(csr) => gpu.upload_sparse(csr, rows.clone())?,
                    None => [gpu.storage("no offsets", 0)?, gpu.upload_features(features, rows.clone())?],
                };
                Ok(Chunk { features, offsets, labels })
            })
            .collect::<Result<_>>()?;
        gpu.flush()?;
        Ok(Self { gpu, scale, dtype, sparse, supervision, ranges, chunks, n_features })
    }

    pub(super) fn n_samples(&self) -> usize {
        self.ranges.last().map_or(0, |rows| rows.end)
    }

    /// How W is held: as few shards as there can be of sparse features, one of dense ones.
    pub(super) fn shards(&self, shape: Shape, n_arrays: usize) -> Result<Shards> {
        if self.sparse.is_some() {
            return Shards::new(self.gpu, shape, n_arrays);
        }
        self.check_weights(shape)?;
        Ok(Shards::whole(shape))
    }

    /// How threads share the logits of sparse features.
    pub(super) fn lanes(&self, csr: &Csr, shards: &Shards) -> Lanes {
        let n_values = (0..csr.n_rows()).map(|row| csr.row(row).0.len());
        let (mean, longest) = (csr.values().len() / csr.n_rows().max(1), n_values.max().unwrap_or(0));
        Lanes::choose(self.gpu.info.kind, (mean, longest), shards.most_columns(), shards.width)
    }

    /// Binds what the logits of rows in their own order are made of.
    pub(super) fn bind_logits(
        &self,
        kernel: &Kernel,
        steps: &Buffer,
        chunk: usize,
        weights: &Buffer,
        outputs: &Buffer,
    ) -> Result<wgpu::BindGroup> {
        let Chunk { features, offsets, .. } = &self.chunks[chunk];
        // Without an order, its binding is not read.
        match self.sparse {
            Some(_) => kernel.bind(self.gpu, steps, &[offsets, features, offsets, weights, outputs]),
            None => kernel.bind(self.gpu, steps, &[features, weights, weights, outputs]),
        }
    }

    fn check_weights(&self, shape: Shape) -> Result<()> {
        self.gpu.check_binding("the weights", weights_bytes(shape), "use fewer classes or heads, or the device `cpu`")
    }

    /// The parameters on the device, rows padded to whole blocks.
    pub(super) fn upload_parameters(&self, parameters: &Parameters) -> Result<Buffer> {
        self.check_weights(parameters.shape)?;
        self.gpu.upload_weights(parameters)
    }
}

/// Logits of one block of rows after the other.
struct Forward {
    shape: Shape,
    block_rows: usize,
    kernel: Arc<Kernel>,
    shards: Shards,
    /// Workgroups for a shard and a number of rows.
    n_workgroups: Box<dyn Fn(usize, usize) -> usize>,
    /// One for each shard.
    steps: Buffer,
    weights: Vec<Buffer>,
    outputs: Buffer,
}

impl Forward {
    fn new(session: &GpuSession, parameters: &Parameters) -> Result<Self> {
        let (gpu, shape) = (session.gpu, parameters.shape);
        let row_bytes = padded_outputs(shape) as u64 * 4;
        gpu.check_binding("one sample's logits", row_bytes, "use fewer classes or heads, or the device `cpu`")?;
        let largest = session.ranges.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let block_rows = ((LOGITS_BYTES.min(gpu.max_binding()) / row_bytes) as usize).clamp(1, largest);
        let shards = session.shards(shape, 1)?;
        let (variant, n_workgroups): (_, Box<dyn Fn(usize, usize) -> usize>) = match session.sparse {
            Some(csr) => {
                let (lanes, of_shards) = (session.lanes(csr, &shards), shards.clone());
                let n_workgroups = move |shard, n_rows| {
                    sparse_logits::n_workgroups(of_shards.width, lanes, of_shards.n_columns(shard), n_rows)
                };
                (sparse_logits::variant(shards.width, lanes, false), Box::new(n_workgroups))
            }
            None => {
                let tile = Tile::choose(gpu.info.kind, block_rows, shape.n_outputs());
                let n_workgroups = move |_, n_rows| logits::n_workgroups(tile, shape, n_rows);
                (logits::variant(tile, session.dtype, false), Box::new(n_workgroups))
            }
        };
        let weights = (0..shards.count())
            .map(|shard| gpu.storage_of("the weights", &shards.gather(shard, &parameters.values, |value| value)));
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        Ok(Self {
            shape,
            block_rows,
            kernel: gpu.kernel(&variant)?,
            n_workgroups,
            steps: gpu.buffer("the steps", (shards.count() * STEP_STRIDE) as u64, usage)?,
            weights: weights.collect::<Result<_>>()?,
            shards,
            outputs: gpu.storage("the logits", block_rows as u64 * row_bytes)?,
        })
    }

    /// Has the device compute the logits of `n_rows` rows of a chunk from `start` on, and then what `more` asks for.
    fn submit(
        &self,
        session: &GpuSession,
        chunk: usize,
        start: usize,
        n_rows: usize,
        more: impl FnOnce(&mut wgpu::ComputePass),
    ) -> Result<()> {
        let Self { shape, kernel, steps, outputs, .. } = self;
        let gpu = session.gpu;
        let bindings = self.weights.iter().map(|weights| session.bind_logits(kernel, steps, chunk, weights, outputs));
        let bindings = bindings.collect::<Result<Vec<_>>>()?;
        let of_block = Step { losses_start: start as u32, ..Step::new(*shape, session.scale, start, n_rows) };
        let of_shards = (0..self.shards.count()).map(|shard| self.shards.step(shard, of_block));
        gpu.write("the steps", steps, 0, &write_steps(of_shards))?;
        gpu.submit("logits", |encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for (shard, bindings) in bindings.iter().enumerate() {
                let n_workgroups = (self.n_workgroups)(shard, n_rows);
                kernel.dispatch(&mut pass, bindings, (shard * STEP_STRIDE) as u32, n_workgroups);
            }
            more(&mut pass);
        })?;
        Ok(())
    }
}

impl Session for GpuSession<'_> {
    fn chunks(&self) -> &[Range<usize>] {
        &self.ranges
    }

    fn logits(&mut self, parameters: &Parameters, sink: &mut Sink) -> Result<()> {
        let (gpu, shape) = (self.gpu, parameters.shape);
        check::parameters(parameters, self.n_features)?;
        let forward = Forward::new(self, parameters)?;
        let readback = gpu.readback("the logits", forward.outputs.raw.size())?;
        for (chunk, range) in self.ranges.iter().enumerate() {
            for start in (0..range.len()).step_by(forward.block_rows) {
                let n_rows = forward.block_rows.min(range.len() - start);
                forward.submit(self, chunk, start, n_rows, |_| {})?;
                let values = gpu.read(&forward.outputs, &readback, n_rows * padded_outputs(shape))?;
                let rows = range.start + start..range.start + start + n_rows;
                sink(rows, &unpad_rows(values, shape.n_outputs()))?;
            }
        }
        Ok(())
    }

    fn classes(&mut self, parameters: &Parameters, into: &mut [u32]) -> Result<()> {
        let (gpu, shape) = (self.gpu, parameters.shape);
        check::parameters(parameters, self.n_features)?;
        check::classes(shape, self.n_samples(), into)?;
        let forward = Forward::new(self, parameters)?;
        let largest = self.ranges.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let bytes = (largest * shape.n_heads) as u64 * 4;
        gpu.check_binding("the classes of a chunk", bytes, "use fewer heads")?;
        let classes = gpu.storage("the classes", bytes)?;
        let readback = gpu.readback("the classes", bytes)?;
        let kernel = gpu.kernel(&classes::variant(shape))?;
        let bindings = kernel.bind(gpu, &forward.steps, &[&forward.outputs, &classes])?;
        let mut into = into;
        for (chunk, range) in self.ranges.iter().enumerate() {
            for start in (0..range.len()).step_by(forward.block_rows) {
                let n_rows = forward.block_rows.min(range.len() - start);
                forward.submit(self, chunk, start, n_rows, |pass| {
                    kernel.dispatch(pass, &bindings, 0, classes::n_workgroups(shape, n_rows));
                })?;
            }
            let (of_chunk, others) = into.split_at_mut(range.len() * shape.n_heads);
            of_chunk.copy_from_slice(&gpu.read::<u32>(&classes, &readback, of_chunk.len())?);
            into = others;
        }
        Ok(())
    }

    fn stepper<'s>(&'s mut self, start: &State, heads: &[Head], batch_size: usize) -> Result<Box<dyn Stepper + 's>> {
        let supervision = check::training(start, heads, self.supervision, self.n_features, self.n_samples())?;
        let batch_size = batch_size.max(1);
        Ok(match self.sparse {
            Some(csr) => {
                check::dense(start)?;
                Box::new(SparseStepper::new(self, csr, supervision, start, heads, batch_size)?)
            }
            None => Box::new(GpuStepper::new(self, supervision, start, heads, batch_size)?),
        })
    }

    fn loss<'s>(&'s mut self, shape: Shape) -> Result<Box<dyn Loss + 's>> {
        check::shape(shape, self.n_features)?;
        let supervision = check::supervision(shape, self.supervision, self.n_samples())?;
        Ok(Box::new(GpuLoss::new(self, shape, supervision)?))
    }

    fn tune(&mut self, start: &Parameters, heads: &[Head], batch_size: usize) -> Result<Vec<Tried>> {
        // For sparse features there is one way.
        if self.sparse.is_some() {
            return Ok(Vec::new());
        }
        tuning::tune(self, start, heads, batch_size.max(1))
    }
}
