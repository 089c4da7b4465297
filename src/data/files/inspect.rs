//! What is in data: its shape, the range of its values, its classes, and what stands in the way of training.

use std::hash::{DefaultHasher, Hasher};

use half::f16;
use rayon::prelude::*;

use super::lenient;
use super::{Source, Table, read};
use crate::data::{Dtype, Labels, Targets, Values};
use crate::error::{Error, Place, Result};

/// So many places of each kind of finding are kept.
const MAX_PLACES: usize = 5;

/// What [`inspect`] found in data.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inspection {
    /// The number of samples.
    pub n_samples: usize,
    /// The precision in which the features are kept in memory.
    pub dtype: Dtype,
    /// Whether only what is not zero is kept.
    pub is_sparse: bool,
    /// The number of features.
    pub n_features: usize,
    /// The figures of each feature; of sparse ones only of those that have a value: the others are 0 throughout.
    pub features: Vec<Figures>,
    /// The numbers of these features, from 0, ascending, where they are not all.
    pub occurring: Option<Vec<u32>>,
    /// The names of the features, when the file has them.
    pub feature_names: Option<Vec<String>>,
    /// The figures of all features together.
    pub all: Figures,
    /// Columns of a CSV file that hold text and are not the labels. They are no features here; training refuses them.
    pub text_columns: Vec<TextColumn>,
    /// Values that are missing: empty fields, and NaN.
    pub missing: Findings,
    /// Values that are infinite, or too large for single precision.
    pub infinite: Findings,
    /// Fields that hold text in a column of numbers.
    pub not_numbers: Findings,
    /// Rows that have more or fewer fields than the header. They count for nothing else.
    pub ragged: Findings,
    /// Why [`read`] would refuse the data, if it would.
    pub refusal: Option<String>,
    /// The classes, when the source has labels.
    pub classes: Option<ClassCounts>,
    /// The weights of the samples, when the source has some: their figures, and (Σ w)²/Σ w², the number of samples of equal
    /// weights that would say as much.
    pub weights: Option<(Figures, f64)>,
    /// Samples whose features are those of an earlier sample.
    pub n_duplicates: usize,
    /// How many of these have a label that no earlier sample with these features has.
    pub n_contradictions: usize,
}

/// Figures of some values. What is missing or infinite is left out.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Figures {
    /// How many values there are.
    pub count: u64,
    /// How many of them are zero.
    pub zeros: u64,
    /// How many more are missing or infinite.
    pub bad: u64,
    /// The smallest value; infinite where there is none.
    pub min: f64,
    /// The largest value; −infinite where there is none.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// Whether all are whole numbers.
    pub is_whole: bool,
    /// The sum of the squared differences from the mean.
    squares: f64,
}

/// How often something was found, and where first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Findings {
    /// How often.
    pub count: u64,
    /// The first places, at most five, each with what stands there where that is text.
    pub first: Vec<(Place, Option<String>)>,
}

/// A column that holds text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TextColumn {
    /// Its name.
    pub name: String,
    /// How many different values it has; more than a thousand are not counted.
    pub n_different: usize,
    /// The first of them.
    pub example: String,
}

/// The classes of labels.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClassCounts {
    /// Their names.
    pub names: Vec<String>,
    /// How many samples each has; of soft labels the sum of its probabilities.
    pub totals: Vec<f64>,
    /// Whether the labels are probabilities.
    pub is_soft: bool,
    /// Samples without a label.
    pub missing: Findings,
}

impl Figures {
    const NONE: Self = Self {
        count: 0,
        zeros: 0,
        bad: 0,
        min: f64::INFINITY,
        max: f64::NEG_INFINITY,
        mean: 0.0,
        is_whole: true,
        squares: 0.0,
    };

    /// Of `count` zeros.
    fn zeros(count: u64) -> Self {
        if count == 0 { Self::NONE } else { Self { count, zeros: count, min: 0.0, max: 0.0, ..Self::NONE } }
    }

    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sums = Sums::default();
        values.into_iter().for_each(|value| sums.add(value));
        sums.figures()
    }

    /// Of the values of both.
    fn and(self, other: Self) -> Self {
        if self.count == 0 || other.count == 0 {
            let (some, bad) = (if self.count == 0 { other } else { self }, self.bad + other.bad);
            return Self { bad, ..some };
        }
        let count = self.count + other.count;
        let (here, there) = (self.count as f64, other.count as f64);
        let apart = other.mean - self.mean;
        Self {
            count,
            zeros: self.zeros + other.zeros,
            bad: self.bad + other.bad,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            mean: self.mean + apart * (there / count as f64),
            is_whole: self.is_whole && other.is_whole,
            squares: self.squares + other.squares + apart * apart * (here * there / count as f64),
        }
    }

    /// The standard deviation of the values about their mean (of the population); 0 of none.
    pub fn deviation(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.squares / self.count as f64).sqrt() }
    }

    /// Largest less smallest value; 0 of none.
    pub fn range(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.max - self.min }
    }

    /// The share of the values that are not zero.
    pub fn density(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.count - self.zeros) as f64 / self.count as f64 }
    }

    /// Whether there is one value alone.
    pub fn is_constant(&self) -> bool {
        self.count > 0 && self.min == self.max
    }
}

/// Sums over a few hundred values, about the first of them, so that little cancels.
#[derive(Clone, Copy, Default)]
struct Sums {
    count: u64,
    zeros: u64,
    bad: u64,
    fractions: u64,
    first: f64,
    min: f64,
    max: f64,
    sum: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.bad += 1;
            return;
        }
        if self.count == 0 {
            (self.first, self.min, self.max) = (value, value, value);
        }
        self.count += 1;
        self.zeros += u64::from(value == 0.0);
        self.fractions += u64::from(value.fract() != 0.0);
        self.min = if value < self.min { value } else { self.min };
        self.max = if value > self.max { value } else { self.max };
        let apart = value - self.first;
        self.sum += apart;
        self.squares += apart * apart;
    }

    fn figures(self) -> Figures {
        if self.count == 0 {
            return Figures { bad: self.bad, ..Figures::NONE };
        }
        let mean = self.sum / self.count as f64;
        Figures {
            count: self.count,
            zeros: self.zeros,
            bad: self.bad,
            min: self.min,
            max: self.max,
            mean: self.first + mean,
            is_whole: self.fractions == 0,
            squares: (self.squares - self.sum * mean).max(0.0),
        }
    }
}

impl Findings {
    pub(super) fn add(&mut self, place: impl FnOnce() -> (Place, Option<String>)) {
        self.count += 1;
        if self.first.len() < MAX_PLACES {
            self.first.push(place());
        }
    }

    /// Takes what was found in another column of the same rows.
    pub(super) fn append(&mut self, other: Self) {
        self.count += other.count;
        self.first.extend(other.first);
        self.first.sort_by_key(|(place, _)| (place.row, place.column));
        self.first.truncate(MAX_PLACES);
    }
}

impl ClassCounts {
    pub(super) fn of(labels: &Labels, missing: Findings) -> Self {
        Self {
            names: labels.classes().to_vec(),
            totals: labels.targets().class_totals(None, labels.classes().len()),
            is_soft: matches!(labels.targets(), Targets::Distributions(_)),
            missing,
        }
    }
}

/// What can be read of a source, though not all of it be fit for training.
pub(super) struct Rough {
    /// What is missing, infinite or text is not finite here.
    pub values: Values<'static>,
    pub n_samples: usize,
    pub n_features: usize,
    pub feature_names: Option<Vec<String>>,
    pub text_columns: Vec<TextColumn>,
    pub missing: Findings,
    pub infinite: Findings,
    pub not_numbers: Findings,
    pub ragged: Findings,
    pub classes: Option<ClassCounts>,
    /// The class of each sample, where there are classes and it has one.
    pub class_of: Vec<Option<usize>>,
    pub weights: Option<Vec<f32>>,
}

impl Rough {
    pub fn new(values: Values<'static>, n_samples: usize, n_features: usize) -> Self {
        Self {
            values,
            n_samples,
            n_features,
            feature_names: None,
            text_columns: Vec::new(),
            missing: Findings::default(),
            infinite: Findings::default(),
            not_numbers: Findings::default(),
            ragged: Findings::default(),
            classes: None,
            class_of: Vec::new(),
            weights: None,
        }
    }

    /// The same with a label for each sample.
    pub fn with_labels(self, labels: &Labels) -> Self {
        let class = |row| labels.targets().class(row, labels.classes().len());
        let class_of = (0..self.n_samples).map(class).collect();
        Self { classes: Some(ClassCounts::of(labels, Findings::default())), class_of, ..self }
    }
}

impl From<Table> for Rough {
    fn from(table: Table) -> Self {
        let Table { features, labels, weights, feature_names, .. } = table;
        let (n_samples, n_features) = (features.n_samples(), features.n_features());
        let rough = Self { feature_names, weights, ..Self::new(features.into_values(), n_samples, n_features) };
        match labels {
            Some(labels) => rough.with_labels(&labels),
            None => rough,
        }
    }
}

/// Looks at the data of `source`. Missing values, text in the place of numbers and rows of another length, which [`read`] refuses,
/// are counted here.
///
/// ```no_run
/// use softreg::data::{Source, inspect};
/// let found = inspect(&Source::new("measurements.csv"))?;
/// println!("{} × {}, {} missing", found.n_samples, found.features.len(), found.missing.count);
/// # Ok::<(), softreg::Error>(())
/// ```
///
/// # Errors
/// Those of [`read`], but for what is counted.
pub fn inspect(source: &Source) -> Result<Inspection> {
    let source = &Source { memory: Some(u64::MAX), ..source.clone() };
    match read(source) {
        Ok(table) => Ok(Rough::from(table).inspect(None)),
        // Where nothing can be read, the error is the one that says why.
        Err(error) => match lenient::read(source) {
            Ok(rough) => Ok(rough.inspect(Some(error))),
            Err(_) => Err(error),
        },
    }
}

impl Rough {
    fn inspect(self, refusal: Option<Error>) -> Inspection {
        let occurring = self.occurring();
        let features = self.figures(occurring.as_deref());
        let n_others = (self.n_features - features.len()) as u64;
        let all = features.iter().copied().fold(Figures::NONE, Figures::and);
        let all = all.and(Figures::zeros(self.n_samples as u64 * n_others));
        let (n_duplicates, n_contradictions) = self.duplicates();
        let weights = self.weights.as_ref().map(|weights| {
            let of = || weights.iter().map(|&weight| f64::from(weight));
            (Figures::of(of()), of().sum::<f64>().powi(2) / of().map(|weight| weight * weight).sum::<f64>())
        });
        Inspection {
            n_samples: self.n_samples,
            dtype: self.values.dtype(),
            is_sparse: matches!(self.values, Values::Sparse(_)),
            n_features: self.n_features,
            features,
            occurring,
            feature_names: self.feature_names,
            all,
            text_columns: self.text_columns,
            missing: self.missing,
            infinite: self.infinite,
            not_numbers: self.not_numbers,
            ragged: self.ragged,
            refusal: refusal.map(|error| error.to_string()),
            classes: self.classes,
            weights,
            n_duplicates,
            n_contradictions,
        }
    }

    /// The columns that have a value, where these are not all.
    fn occurring(&self) -> Option<Vec<u32>> {
        let Values::Sparse(csr) = &self.values else { return None };
        let mut columns = csr.columns().to_vec();
        columns.par_sort_unstable();
        columns.dedup();
        (columns.len() < self.n_features).then_some(columns)
    }

    /// The figures of each column, or of those that are `occurring`.
    fn figures(&self, occurring: Option<&[u32]>) -> Vec<Figures> {
        fn dense<T: Copy + Sync>(values: &[T], width: usize, number: impl Fn(T) -> f64 + Sync) -> Vec<Figures> {
            if width == 0 {
                return Vec::new();
            }
            // Rows whose sums stay in the cache and lose nothing.
            const ROWS: usize = 256;
            let of_part = |part: &[T]| {
                let mut figures = vec![Figures::NONE; width];
                let mut sums = vec![Sums::default(); width];
                for block in part.chunks(ROWS * width) {
                    sums.fill(Sums::default());
                    for row in block.chunks_exact(width) {
                        sums.iter_mut().zip(row).for_each(|(sums, &value)| sums.add(number(value)));
                    }
                    figures.iter_mut().zip(&sums).for_each(|(figures, sums)| *figures = figures.and(sums.figures()));
                }
                figures
            };
            let n_rows = values.len() / width;
            let part = width * n_rows.div_ceil(64).next_multiple_of(ROWS);
            let parts: Vec<Vec<Figures>> = values.par_chunks(part).map(of_part).collect();
            let mut figures = vec![Figures::NONE; width];
            for part in parts {
                figures.iter_mut().zip(part).for_each(|(figures, part)| *figures = figures.and(part));
            }
            figures
        }
        match &self.values {
            Values::F32(values) => dense(values, self.n_features, f64::from),
            Values::F16(values) => dense(values, self.n_features, f16::to_f64),
            Values::U8(values) => dense(values, self.n_features, f64::from),
            Values::Sparse(csr) => {
                // The means of a column with many values move little with the last of them: as it is for dense ones.
                let mut figures = vec![Figures::NONE; occurring.map_or(self.n_features, <[u32]>::len)];
                // Of a few values of very many columns, a place for each column would take the most memory by far.
                let places = occurring.filter(|_| self.n_features <= 16 * csr.columns().len());
                let places = places.map(|columns| {
                    let mut places = vec![0u32; self.n_features];
                    columns.iter().zip(0..).for_each(|(&column, place)| places[column as usize] = place);
                    places
                });
                for (&column, &value) in csr.columns().iter().zip(csr.values()) {
                    let place = match (&places, occurring) {
                        (Some(places), _) => places[column as usize] as usize,
                        (None, Some(columns)) => columns.partition_point(|&other| other < column),
                        (None, None) => column as usize,
                    };
                    let figures = &mut figures[place];
                    *figures = figures.and(Figures::of([f64::from(value)]));
                }
                let n = self.n_samples as u64;
                figures.into_iter().map(|stored| stored.and(Figures::zeros(n - stored.count - stored.bad))).collect()
            }
            // Read into memory, see above.
            Values::Stored(_) => vec![Figures::NONE; self.n_features],
        }
    }

    /// How many samples have the features of an earlier one, and how many of them a label that none of these has.
    fn duplicates(&self) -> (usize, usize) {
        if self.n_features == 0 {
            return (0, 0);
        }
        let hash = |row: usize| {
            let mut hasher = DefaultHasher::new();
            let range = row * self.n_features..(row + 1) * self.n_features;
            match &self.values {
                Values::F32(values) => values[range].iter().for_each(|&value| hash_number(&mut hasher, value)),
                Values::F16(values) => values[range].iter().for_each(|value| hash_number(&mut hasher, value.to_f32())),
                Values::U8(values) => hasher.write(&values[range]),
                Values::Sparse(csr) => {
                    let (columns, values) = csr.row(row);
                    columns.iter().for_each(|&column| hasher.write_u32(column));
                    values.iter().for_each(|&value| hash_number(&mut hasher, value));
                }
                Values::Stored(_) => hasher.write_usize(row),
            }
            hasher.finish()
        };
        let hashes: Vec<u64> = (0..self.n_samples).into_par_iter().map(hash).collect();
        fn n_different(mut all: Vec<(u64, usize)>) -> usize {
            all.par_sort_unstable();
            all.dedup();
            all.len()
        }
        let n_samples = n_different(hashes.iter().map(|&hash| (hash, 0)).collect());
        let labelled: Vec<(u64, usize)> =
            hashes.iter().zip(&self.class_of).filter_map(|(&hash, class)| Some((hash, (*class)?))).collect();
        let of_features = n_different(labelled.iter().map(|&(hash, _)| (hash, 0)).collect());
        (hashes.len() - n_samples, n_different(labelled) - of_features)
    }
}

/// Zeros of both signs are the same number.
fn hash_number(hasher: &mut DefaultHasher, value: f32) {
    hasher.write_u32((value + 0.0).to_bits());
}

#[cfg(test)]
mod tests {
    use super::super::npy;
    use super::*;
    use crate::data::Csr;

    /// Numbers that are the same in every run, between −1 and 1.
    fn numbers(n: usize) -> impl Iterator<Item = f32> {
        (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)
    }

    #[track_caller]
    fn close(found: f64, expected: f64, scale: f64) {
        assert!((found - expected).abs() <= 1e-12 * scale, "{found} and {expected}");
    }

    /// Mean and deviation in two passes.
    fn expected(values: &[f64]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        (mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn figures_are_those_of_two_passes() {
        // Columns of other places and scales, many parts and a rest, and zeros.
        let (n, d) = (40_001, 3);
        let values: Vec<f32> = numbers(n * d)
            .enumerate()
            .map(|(index, value)| match index % d {
                0 => value,
                1 => 1000.0 + value,
                _ if value > 0.0 => 0.0,
                _ => 1e-3 * value,
            })
            .collect();
        let figures = Rough::new(values.clone().into(), n, d).figures(None);
        for (column, found) in figures.iter().enumerate() {
            let column: Vec<f64> = values.iter().skip(column).step_by(d).map(|&value| value.into()).collect();
            let (mean, deviation) = expected(&column);
            let scale = found.max.abs().max(found.min.abs());
            close(found.mean, mean, scale);
            close(found.deviation(), deviation, scale);
            let zeros = column.iter().filter(|&&value| value == 0.0).count();
            assert_eq!((found.count, found.zeros, found.bad), (n as u64, zeros as u64, 0));
            let limits = column.iter().fold((f64::MAX, f64::MIN), |(a, b), &value| (a.min(value), b.max(value)));
            assert_eq!((found.min, found.max), limits);
            assert!(!found.is_whole && !found.is_constant());
        }
        assert!(figures[2].zeros > 10_000);
        let all = figures.into_iter().fold(Figures::NONE, Figures::and);
        let values: Vec<f64> = values.iter().map(|&value| value.into()).collect();
        let (mean, deviation) = expected(&values);
        close(all.mean, mean, 1000.0);
        close(all.deviation(), deviation, 1000.0);
        // The comparison sees a value that is missing.
        let (other, _) = expected(&values[1..]);
        assert!((all.mean - other).abs() > 1e-9);
    }

    #[test]
    fn what_is_not_finite_is_counted_apart() {
        let values = vec![f32::NAN, 1.0, 3.0, f32::INFINITY, 5.0, 1.0];
        let figures = Rough::new(values.into(), 3, 2).figures(None);
        assert_eq!((figures[0].count, figures[0].bad, figures[0].mean), (2, 1, 4.0));
        assert_eq!((figures[1].count, figures[1].bad, figures[1].is_constant()), (2, 1, true));
        assert!(figures[0].is_whole);
        let none = Rough::new(vec![f32::NAN; 4].into(), 2, 2).figures(None)[0];
        assert_eq!((none.count, none.bad, none.range(), none.density()), (0, 2, 0.0, 0.0));
    }

    #[test]
    fn sparse_and_dense_features_have_the_same_figures() {
        let (n, d) = (500, 7);
        let dense: Vec<f32> = numbers(n * d).map(|value| if value > -0.6 { 0.0 } else { value }).collect();
        let (mut offsets, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for row in dense.chunks(d) {
            for (column, &value) in row.iter().enumerate().filter(|(_, value)| **value != 0.0) {
                columns.push(column as u32);
                values.push(value);
            }
            offsets.push(values.len() as u64);
        }
        let dense = Rough::new(dense.into(), n, d);
        // All of them, or with others between them that are 0 throughout, a few or very many.
        for apart in [1, 3, 100_000] {
            let columns = columns.iter().map(|column| column * apart).collect::<Vec<u32>>();
            let csr = Csr::new(offsets.clone(), columns, values.clone()).unwrap();
            let sparse = Rough::new(csr.into(), n, d * apart as usize);
            let occurring = sparse.occurring();
            let expected = (0..d as u32).map(|column| column * apart).collect::<Vec<u32>>();
            assert_eq!(occurring, (apart > 1).then_some(expected));
            let figures = sparse.figures(occurring.as_deref());
            assert_eq!(figures.len(), d);
            for (a, b) in figures.iter().zip(dense.figures(None)) {
                assert_eq!((a.count, a.zeros, a.min, a.max), (b.count, b.zeros, b.min, b.max));
                close(a.mean, b.mean, 1.0);
                close(a.deviation(), b.deviation(), 1.0);
            }
            assert_eq!(sparse.duplicates(), dense.duplicates());
            let (all, of_dense) = (sparse.inspect(None).all, figures.into_iter().fold(Figures::NONE, Figures::and));
            assert_eq!(all.count, (n * d) as u64 * u64::from(apart));
            assert_eq!(all.count - all.zeros, of_dense.count - of_dense.zeros);
            close(all.mean * f64::from(apart), of_dense.mean, 1.0);
        }
        assert!(dense.duplicates().0 > 0);
    }

    #[test]
    fn duplicates_and_contradictions() {
        let rough = |class_of: &[Option<usize>]| {
            let values = vec![1.0f32, 0.0, 2.0, 0.0, 1.0, -0.0, 1.0, 0.0, 0.0, 1.0];
            Rough { class_of: class_of.to_vec(), ..Rough::new(values.into(), 5, 2) }
        };
        // Rows 1, 3 and 4 are the same.
        assert_eq!(rough(&[]).duplicates(), (2, 0));
        assert_eq!(rough(&[Some(0), Some(1), Some(0), Some(0), Some(1)]).duplicates(), (2, 0));
        assert_eq!(rough(&[Some(0), Some(1), Some(2), Some(2), Some(1)]).duplicates(), (2, 1));
        assert_eq!(rough(&[Some(0), Some(1), Some(2), None, Some(1)]).duplicates(), (2, 1));
        assert_eq!(rough(&[Some(0), Some(1), None, None, Some(1)]).duplicates(), (2, 0));
    }

    fn inspect_file(content: &[u8], label_column: Option<&str>) -> Result<Inspection> {
        let name = format!("softreg-inspect-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        let found = inspect(&Source { label_column: label_column.map(str::to_owned), ..Source::new(&path) });
        std::fs::remove_file(&path).unwrap();
        found
    }

    fn places(found: &Findings) -> Vec<(Option<usize>, Option<usize>, Option<usize>)> {
        found.first.iter().map(|(place, _)| (place.row, place.line, place.column)).collect()
    }

    #[test]
    fn gaps_and_text_in_csv_are_counted_with_their_place() {
        let sound = "a,kind,b,note\n1,x,2,\"some, words\"\n3,y,4,more\n";
        let found = inspect_file(sound.as_bytes(), Some("kind")).unwrap();
        assert_eq!((found.n_samples, found.features.len(), found.missing.count), (2, 2, 0));
        assert_eq!(found.text_columns.len(), 1);
        assert_eq!((&*found.text_columns[0].name, found.text_columns[0].n_different), ("note", 2));
        assert!(found.refusal.is_some_and(|refusal| refusal.contains("note")));

        let gaps = "\n,x,2,w\n5,y,NA,w\n6,,wrong,w\n7,x,1\n8,x,1e999,w\n9,x,2,w\n10,x,2,w\n";
        for line_break in ["\n", "\r\n"] {
            let text = format!("{sound}{gaps}").replace('\n', line_break);
            let found = inspect_file(text.as_bytes(), Some("kind")).unwrap();
            assert_eq!((found.n_samples, found.features.len()), (8, 2));
            // An empty line is no row.
            assert_eq!(places(&found.missing), [(Some(3), Some(5), Some(1)), (Some(4), Some(6), Some(3))]);
            assert_eq!(places(&found.not_numbers), [(Some(5), Some(7), Some(3))]);
            assert_eq!(found.not_numbers.first[0].1.as_deref(), Some("wrong"));
            assert_eq!(places(&found.ragged), [(Some(6), Some(8), None)]);
            assert_eq!(places(&found.infinite), [(Some(7), Some(9), Some(3))]);
            let classes = found.classes.unwrap();
            assert_eq!((classes.names, classes.totals), (vec!["x".to_owned(), "y".to_owned()], vec![5.0, 2.0]));
            assert_eq!(places(&classes.missing), [(Some(5), Some(7), Some(2))]);
            assert_eq!((found.features[0].count, found.features[0].bad, found.features[0].max), (7, 1, 10.0));
            assert_eq!((found.features[1].count, found.features[1].bad), (5, 3));
            assert_eq!(found.feature_names.unwrap(), ["a", "b"]);
        }
    }

    #[test]
    fn many_gaps_keep_the_first_places_in_the_order_of_rows() {
        let mut text = String::from("a,b\n1,1\n1,1\n");
        (0..10).for_each(|_| text += "1,\n,1\n");
        let found = inspect_file(text.as_bytes(), None).unwrap();
        assert_eq!(found.missing.count, 20);
        let rows: Vec<_> = found.missing.first.iter().map(|(place, _)| (place.row, place.column)).collect();
        let expected = [(3, 2), (4, 1), (5, 2), (6, 1), (7, 2)].map(|(row, column)| (Some(row), Some(column)));
        assert_eq!(rows, expected);
    }

    #[test]
    fn gaps_in_arrays_are_counted_with_their_place() {
        let header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2)}";
        let values = [1.0, f64::NAN, 1e300, 2.0, 3.0, 4.0].map(f64::to_le_bytes).concat();
        let file = [npy::MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header, &values].concat();
        let found = inspect_file(&file, None).unwrap();
        assert_eq!(places(&found.missing), [(Some(1), None, Some(2))]);
        assert_eq!(places(&found.infinite), [(Some(2), None, Some(1))]);
        assert_eq!((found.all.count, found.all.bad, found.all.max), (4, 2, 4.0));
        assert!(found.refusal.is_some_and(|refusal| refusal.contains("NaN")));
    }

    #[test]
    fn what_cannot_be_read_at_all_is_an_error() {
        let error = |content: &[u8], label| inspect_file(content, label).unwrap_err().to_string();
        assert!(error(b"", None).contains("the file is empty"));
        assert!(error(b"a,b\n", None).contains("no samples"));
        assert!(error(b"a,b\n1,2\n", Some("c")).contains("no column \"c\""));
        assert!(error(b"\x89HDF\r\n\x1a\n\0\0\0", None).contains("format is not known"));
    }
}
