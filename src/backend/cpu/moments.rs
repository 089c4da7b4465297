//! Means and second moments of features, in double precision: what a preconditioner is made of.

use super::double::{SLAB, SlabGradient, Tile, Widen};
use super::lanes::{Element, Instructions};
use super::tiles::{Matrix, allocate};
use super::{sparse, team};
use crate::data::{Features, Values};
use crate::error::Result;

/// Samples of a tile.
const TILE: usize = 128;
/// At most so many parts, each with sums of its own.
const MOST_PARTS: usize = 16;

/// What [`moments`] sums over the samples.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moments {
    /// μ = Σ_i s_i·x̃_i, (d).
    pub mean: Vec<f64>,
    /// Σ_i s_i·(x̃_i − μ)², (d).
    pub variance: Vec<f64>,
}

impl Moments {
    /// The same about 0: means of 0, and second moments in the place of variances.
    pub fn about_zero(&self) -> Self {
        let variance = self.variance.iter().zip(&self.mean).map(|(variance, mean)| variance + mean * mean);
        Self { mean: vec![0.0; self.mean.len()], variance: variance.collect() }
    }

    /// σ, the root of the variance; 1 of a feature that is constant.
    pub fn deviations(&self) -> Vec<f64> {
        self.variance.iter().map(|&variance| if variance > 0.0 { variance.sqrt() } else { 1.0 }).collect()
    }
}

/// Mean and variance of the features of X̃ = scale·X, with weights s over their sum; without weights all count the same.
///
/// # Errors
/// Out of memory.
pub(crate) fn moments(features: &Features, scale: f32, weights: Option<&[f32]>) -> Result<Moments> {
    fn of<T: Element>(x: &[T], d: usize, scale: f32, weights: Option<&[f32]>) -> Result<Moments> {
        let (n, instructions) = (x.len() / d, Instructions::best());
        let x = Matrix { x, d };
        let weight = |sample: usize| weights.map_or(1.0, |weights| f64::from(weights[sample]));
        let n_slabs = d.div_ceil(SLAB);
        struct Part {
            rows: std::ops::Range<usize>,
            weight: f64,
            sums: Vec<f64>,
        }
        let size = n.div_ceil(MOST_PARTS).max(TILE);
        // The sums of s·(x − shift)ᵖ. The shift is that of a sample that counts: near the mean, so that nothing cancels, and the mean
        // itself of a feature that is constant.
        let sums = |shift: &[f64], square: bool| -> Result<(f64, Vec<f64>)> {
            let part = |first: usize| {
                let rows = first..n.min(first + size);
                Ok(Part { rows, weight: 0.0, sums: allocate(0.0, n_slabs * SLAB, "moments of the features")? })
            };
            let mut parts = (0..n).step_by(size).map(part).collect::<Result<Vec<_>>>()?;
            let mut rows = (0..rayon::current_num_threads().min(parts.len()))
                .map(|_| allocate(0.0, n_slabs * SLAB, "a row of features"))
                .collect::<Result<Vec<_>>>()?;
            team::lead(rows.len(), |team| {
                team.each(&mut rows, parts.iter_mut(), |row: &mut Vec<f64>, part| {
                    for first in part.rows.clone() {
                        instructions.run(Widen { x, first, n: 1, scale: scale.into(), out: row });
                        let s = weight(first);
                        part.weight += s;
                        for ((sum, x), shift) in part.sums.iter_mut().zip(&*row).zip(shift) {
                            let x = x - shift;
                            *sum += s * if square { x * x } else { x };
                        }
                    }
                });
            });
            let mut sums = vec![0.0; d];
            for part in &parts {
                sums.iter_mut().zip(&part.sums).for_each(|(sum, value)| *sum += value);
            }
            Ok((parts.iter().map(|part| part.weight).sum(), sums))
        };
        let mut shift = vec![0.0; d];
        let mut first: Vec<f64> = allocate(0.0, n_slabs * SLAB, "a row of features")?;
        let counts = (0..n).position(|sample| weight(sample) > 0.0).unwrap_or(0);
        instructions.run(Widen { x, first: counts, n: 1, scale: scale.into(), out: &mut first });
        shift.copy_from_slice(&first[..d]);
        let (total, sums_of_differences) = sums(&shift, false)?;
        let mean: Vec<f64> = shift.iter().zip(&sums_of_differences).map(|(shift, sum)| shift + sum / total).collect();
        let (_, squares) = sums(&mean, true)?;
        Ok(Moments { mean, variance: squares.into_iter().map(|sum| sum / total).collect() })
    }
    let d = features.n_features();
    match features.values() {
        Values::F32(x) => of(x, d, scale, weights),
        Values::F16(x) => of(x, d, scale, weights),
        Values::U8(x) => of(x, d, scale, weights),
        Values::Stored(_) => moments_of_parts(features, scale, weights),
        Values::Sparse(x) => sparse::moments(x, d, scale, weights),
    }
}

/// [`moments`] from those of parts (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance").
fn moments_of_parts(features: &Features, scale: f32, weights: Option<&[f32]>) -> Result<Moments> {
    let d = features.n_features();
    let mut all = Moments { mean: vec![0.0; d], variance: vec![0.0; d] };
    let mut total = 0.0;
    features.parts(|rows, part| {
        let weights = weights.map(|weights| &weights[rows]);
        let weight = weights.map_or(part.n_samples() as f64, |w| w.iter().map(|&weight| f64::from(weight)).sum());
        if weight == 0.0 {
            return Ok(());
        }
        let Moments { mean, variance } = moments(part, scale, weights)?;
        total += weight;
        // The share of this part, and of the parts before.
        let share = weight / total;
        let sums = all.mean.iter_mut().zip(&mut all.variance);
        for ((all_mean, all_variance), (mean, variance)) in sums.zip(mean.iter().zip(&variance)) {
            let difference = mean - *all_mean;
            *all_mean += share * difference;
            *all_variance = (1.0 - share) * (*all_variance + share * difference * difference) + share * variance;
        }
        Ok(())
    })?;
    Ok(all)
}

/// Σ_i s_i·(x̃_i − μ)·(x̃_i − μ)ᵀ over all samples of `features`, of n `columns` alone, (n × n) row-major, with weights s as they are.
///
/// # Errors
/// Out of memory.
pub(crate) fn second_moments(
    features: &Features,
    scale: f32,
    mean: &[f64],
    weights: &[f64],
    columns: &[usize],
) -> Result<Vec<f64>> {
    /// `widen` gives the columns of so many samples from one on.
    fn of(mean: &[f64], weights: &[f64], mut widen: impl FnMut(usize, usize, &mut [f64])) -> Result<Vec<f64>> {
        let (n, d, instructions) = (weights.len(), mean.len(), Instructions::best());
        let n_slabs = d.div_ceil(SLAB);
        // Each slab of the result is summed by one thread over all samples, in their order.
        let mut slabs = allocate(0.0, n_slabs * d * SLAB, "second moments of the features")?;
        let mut tile: Vec<f64> = allocate(0.0, n_slabs * TILE * SLAB, "a part of the features")?;
        let mut rows = allocate(0.0, TILE * d, "a part of the features")?;
        team::lead(n_slabs, |team| {
            let mut none = vec![(); team.n_threads()];
            for first in (0..n).step_by(TILE) {
                let count = TILE.min(n - first);
                let tile = &mut tile[..n_slabs * count * SLAB];
                widen(first, count, tile);
                for (slab, (x, mean)) in tile.chunks_exact_mut(count * SLAB).zip(mean.chunks(SLAB)).enumerate() {
                    for (row, x) in x.chunks_exact_mut(SLAB).enumerate() {
                        x.iter_mut().zip(mean).for_each(|(x, mean)| *x -= mean);
                        let weight = weights[first + row];
                        let to = &mut rows[row * d + slab * SLAB..][..mean.len()];
                        to.iter_mut().zip(&*x).for_each(|(to, x)| *to = weight * x);
                    }
                }
                let tasks = tile.chunks_exact(count * SLAB).zip(slabs.chunks_exact_mut(d * SLAB)).enumerate();
                team.each(&mut none, tasks, |(), (slab, (x, out))| {
                    // The matrix is symmetric: columns past this slab come from the others.
                    let n_outputs = d.min((slab + 1) * SLAB);
                    let residual = &rows[..count * d];
                    let tile = Tile { x, n: count, strides: [SLAB, 0] };
                    instructions.run(SlabGradient { tile, residual, m: d, n_outputs, gradient: out, adds: true });
                });
            }
        });
        let mut result = allocate(0.0, d * d, "second moments of the features")?;
        for (slab, values) in slabs.chunks_exact(d * SLAB).enumerate() {
            for j in 0..d.min((slab + 1) * SLAB) {
                for k in slab * SLAB..d.min((slab + 1) * SLAB) {
                    let value = values[j * SLAB + k % SLAB];
                    (result[j * d + k], result[k * d + j]) = (value, value);
                }
            }
        }
        Ok(result)
    }
    fn dense<T: Element>(x: &[T], scale: f32, mean: &[f64], weights: &[f64]) -> Result<Vec<f64>> {
        let x = Matrix { x, d: mean.len() };
        of(mean, weights, |first, n, out| {
            Instructions::best().run(Widen { x, first, n, scale: scale.into(), out });
        })
    }
    let (d, n) = (features.n_features(), columns.len());
    match features.values() {
        Values::Stored(_) => {
            let mut sums = allocate(0.0, n * n, "second moments of the features")?;
            features.parts(|rows, part| {
                let of_part = second_moments(part, scale, mean, &weights[rows], columns)?;
                sums.iter_mut().zip(&of_part).for_each(|(sum, value)| *sum += value);
                Ok(())
            })?;
            Ok(sums)
        }
        _ if n < d => {
            let mean: Vec<f64> = columns.iter().map(|&k| mean[k]).collect();
            let mut row: Vec<f32> = allocate(0.0, d, "a row of features")?;
            of(&mean, weights, |first, count, out| {
                for sample in 0..count {
                    features.read_row(first + sample, &mut row);
                    for (at, &k) in columns.iter().enumerate() {
                        let x = f64::from(row[k]) * f64::from(scale);
                        out[(at / SLAB * count + sample) * SLAB + at % SLAB] = x;
                    }
                }
            })
        }
        Values::F32(x) => dense(x, scale, mean, weights),
        Values::F16(x) => dense(x, scale, mean, weights),
        Values::U8(x) => dense(x, scale, mean, weights),
        Values::Sparse(x) => of(mean, weights, |first, n, out| sparse::widen(x, first, n, scale.into(), out)),
    }
}
