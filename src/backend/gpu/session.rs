//! A data set on the device, in chunks that a kernel can see at once.

use std::ops::Range;
use std::sync::Arc;

use wgpu::BufferUsages;

use super::kernel::{Kernel, Tile};
use super::labels::LabelLayout;
use super::loss::GpuLoss;
use super::memory::{Buffer, unpad_rows};
use super::step::{BLOCK, Step, padded_outputs, weights_bytes};
use super::stepper::GpuStepper;
use super::{Gpu, classes, logits, tuning};
use crate::backend::{Head, Loss, Parameters, Session, Shape, Sink, State, Stepper, Supervision, Tried, check};
use crate::data::{Dtype, Features, Targets};
use crate::error::Result;

/// Logits come back in blocks of about this many bytes.
const LOGITS_BYTES: u64 = 16 << 20;

/// Rows that the device holds together.
pub(super) struct Chunk {
    /// X, rows padded to whole blocks.
    pub(super) features: Buffer,
    /// As [`LabelLayout`] says; nothing where there are no targets.
    pub(super) labels: Buffer,
}

/// What a sample takes on the device.
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
        let width = features.n_features().next_multiple_of(BLOCK);
        Self {
            features: (width * features.values().dtype().size()) as u64,
            labels: 4 * layout.width(n_classes) as u64,
            layout,
            n_classes,
        }
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
    pub(super) supervision: Option<Supervision<'a>>,
    pub(super) ranges: Vec<Range<usize>>,
    pub(super) chunks: Vec<Chunk>,
    pub(super) n_features: usize,
}

impl<'a> GpuSession<'a> {
    pub(super) fn new(
        gpu: &'a Gpu,
        features: &Features,
        scale: f32,
        supervision: Option<Supervision<'a>>,
    ) -> Result<Self> {
        let (n_samples, n_features) = (features.n_samples(), features.n_features());
        let dtype = features.values().dtype();
        let sample = SampleBytes::of(features, supervision);
        gpu.check_binding("one sample's features", sample.features, "use fewer features or the device `cpu`")?;
        gpu.check_binding("one sample's soft labels", sample.labels, "use fewer classes or the device `cpu`")?;
        let SampleBytes { layout: labels, n_classes, .. } = sample;

        // Chunks of about the same size, so that none has only a few rows, which would weigh too much in a batch.
        let max_rows = sample.most_rows(gpu);
        let n_chunks = n_samples.div_ceil(max_rows);
        let ranges: Vec<_> =
            (0..n_chunks).map(|chunk| n_samples * chunk / n_chunks..n_samples * (chunk + 1) / n_chunks).collect();
        let chunks = ranges
            .iter()
            .map(|rows| {
                let labels = match supervision {
                    Some(supervision) => labels.upload(gpu, supervision, n_classes, rows.clone())?,
                    None => gpu.storage("the labels", 0)?,
                };
                Ok(Chunk { features: gpu.upload_features(features, rows.clone())?, labels })
            })
            .collect::<Result<_>>()?;
        gpu.flush()?;
        Ok(Self { gpu, scale, dtype, supervision, ranges, chunks, n_features })
    }

    pub(super) fn n_samples(&self) -> usize {
        self.ranges.last().map_or(0, |rows| rows.end)
    }

    /// The parameters on the device, rows padded to whole blocks.
    pub(super) fn upload_parameters(&self, parameters: &Parameters) -> Result<Buffer> {
        let shape = parameters.shape;
        self.gpu.check_binding(
            "the weights",
            weights_bytes(shape),
            "use fewer classes or heads, or the device `cpu`",
        )?;
        self.gpu.upload_weights(parameters)
    }
}

/// Logits of one block of rows after the other.
struct Forward {
    shape: Shape,
    block_rows: usize,
    kernel: Arc<Kernel>,
    tile: Tile,
    step: Buffer,
    weights: Buffer,
    outputs: Buffer,
}

impl Forward {
    fn new(session: &GpuSession, parameters: &Parameters) -> Result<Self> {
        let (gpu, shape) = (session.gpu, parameters.shape);
        let row_bytes = padded_outputs(shape) as u64 * 4;
        gpu.check_binding("one sample's logits", row_bytes, "use fewer classes or heads, or the device `cpu`")?;
        let largest = session.ranges.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let block_rows = ((LOGITS_BYTES.min(gpu.max_binding()) / row_bytes) as usize).clamp(1, largest);
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let tile = Tile::choose(gpu.info.kind, block_rows, shape.n_outputs());
        Ok(Self {
            shape,
            block_rows,
            kernel: gpu.kernel(&logits::variant(tile, session.dtype, false))?,
            tile,
            step: gpu.buffer("the step", size_of::<Step>() as u64, usage)?,
            weights: session.upload_parameters(parameters)?,
            outputs: gpu.storage("the logits", block_rows as u64 * row_bytes)?,
        })
    }

    /// Has the device compute the logits of `n_rows` rows of a chunk from `start` on, and then what `more` asks for.
    fn submit(
        &self,
        session: &GpuSession,
        chunk: &Chunk,
        start: usize,
        n_rows: usize,
        more: impl FnOnce(&mut wgpu::ComputePass),
    ) -> Result<()> {
        let Self { shape, kernel, tile, step, weights, outputs, .. } = self;
        let gpu = session.gpu;
        // Without an order, its binding is not read.
        let bindings = kernel.bind(gpu, step, &[&chunk.features, weights, weights, outputs])?;
        let of_block = Step { losses_start: start as u32, ..Step::new(*shape, session.scale, start, n_rows) };
        gpu.write("the step", step, 0, &[of_block])?;
        gpu.submit("logits", |encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            kernel.dispatch(&mut pass, &bindings, 0, logits::n_workgroups(*tile, *shape, n_rows));
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
        for (range, chunk) in self.ranges.iter().zip(&self.chunks) {
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
        let bindings = kernel.bind(gpu, &forward.step, &[&forward.outputs, &classes])?;
        let mut into = into;
        for (range, chunk) in self.ranges.iter().zip(&self.chunks) {
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
        Ok(Box::new(GpuStepper::new(self, supervision, start, heads, batch_size.max(1))?))
    }

    fn loss<'s>(&'s mut self, shape: Shape) -> Result<Box<dyn Loss + 's>> {
        check::shape(shape, self.n_features)?;
        let supervision = check::supervision(shape, self.supervision, self.n_samples())?;
        Ok(Box::new(GpuLoss::new(self, shape, supervision)?))
    }

    fn tune(&mut self, start: &Parameters, heads: &[Head], batch_size: usize) -> Result<Vec<Tried>> {
        tuning::tune(self, start, heads, batch_size.max(1))
    }
}
