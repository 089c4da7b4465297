//! The values of columns, as features and as labels.

use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, GenericListArray, OffsetSizeTrait, RecordBatch};
use arrow_schema::DataType;
use half::f16;

use super::{Layout, Run};
use crate::data::files::array::Numbers;
use crate::data::{Dtype, Features};
use crate::error::{Error, Place, Result};

/// Features, row-major.
pub(super) enum Cells {
    F32(Vec<f32>),
    F16(Vec<f16>),
    U8(Vec<u8>),
}

/// Some rows of them.
pub(super) enum Rows<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
    U8(&'a mut [u8]),
}

impl Cells {
    pub fn new(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32(Vec::new()),
            Dtype::F16 => Self::F16(Vec::new()),
            Dtype::U8 => Self::U8(Vec::new()),
        }
    }

    /// Makes room for `n` more rows, and gives them.
    pub fn grow(&mut self, n: usize, layout: &Layout) -> Result<Rows<'_>> {
        fn grow<'a, T: Copy>(cells: &'a mut Vec<T>, n: usize, zero: T, layout: &Layout) -> Result<&'a mut [T]> {
            let out_of_memory = || Error::out_of_memory("the features", n, layout.n_features * size_of::<T>());
            let count = n.checked_mul(layout.n_features).ok_or_else(out_of_memory)?;
            layout.take((count as u64).saturating_mul(size_of::<T>() as u64))?;
            let start = cells.len();
            cells.try_reserve(count).map_err(|_| out_of_memory())?;
            cells.resize(start + count, zero);
            Ok(&mut cells[start..])
        }
        Ok(match self {
            Self::F32(cells) => Rows::F32(grow(cells, n, 0.0, layout)?),
            Self::F16(cells) => Rows::F16(grow(cells, n, f16::ZERO, layout)?),
            Self::U8(cells) => Rows::U8(grow(cells, n, 0, layout)?),
        })
    }

    pub fn into_features(self, n_samples: usize, n_features: usize) -> Result<Features<'static>> {
        match self {
            Self::F32(cells) => Features::new(cells, n_samples, n_features),
            Self::F16(cells) => Features::new(cells, n_samples, n_features),
            Self::U8(cells) => Features::new(cells, n_samples, n_features),
        }
    }
}

impl<'a> Rows<'a> {
    /// The first `n` rows of `width` values, and the others; none if there are not as many.
    pub fn split(self, n: usize, width: usize) -> Option<(Self, Self)> {
        let count = n.checked_mul(width)?;
        Some(match self {
            Self::F32(cells) => cells.split_at_mut_checked(count).map(|(a, b)| (Self::F32(a), Self::F32(b)))?,
            Self::F16(cells) => cells.split_at_mut_checked(count).map(|(a, b)| (Self::F16(a), Self::F16(b)))?,
            Self::U8(cells) => cells.split_at_mut_checked(count).map(|(a, b)| (Self::U8(a), Self::U8(b)))?,
        })
    }
}

/// Writes the features of a batch, of which the first row is row `first` of the file.
pub(super) fn fill(rows: Rows, batch: &RecordBatch, first: usize, layout: &Layout) -> Result<()> {
    let n = batch.num_rows();
    if n == 0 {
        return Ok(());
    }
    let resolve = |run: &Run| values(batch, run.column, first, run.width, layout);
    let not_finite = |run: &Run, (row, element, value): Bad| {
        let place = layout.place(run.column, first + row);
        let name = layout.feature_names.get(run.at + element - run.first).cloned().or(place.name);
        Error::NotFinite { place: Place { name, ..place }, value }
    };
    match rows {
        Rows::F32(cells) => {
            for run in &layout.runs {
                let to = To { run, cells: &mut *cells, d: layout.n_features };
                single(&resolve(run)?, to).map_err(|bad| not_finite(run, bad))?;
            }
        }
        Rows::F16(cells) => {
            for run in &layout.runs {
                let to = To { run, cells: &mut *cells, d: layout.n_features };
                let array = resolve(run)?;
                let copied = to.copy(array.as_primitive::<Float16Type>().values(), |x| x, f16::to_f64, f16::is_finite);
                copied.map_err(|bad| not_finite(run, bad))?;
            }
        }
        Rows::U8(cells) => {
            for run in &layout.runs {
                let to = To { run, cells: &mut *cells, d: layout.n_features };
                let bytes = bytes(&resolve(run)?);
                to.copy(&bytes, |x| x, f64::from, |_| true).map_err(|bad| not_finite(run, bad))?;
            }
        }
    }
    Ok(())
}

/// Row, element and value of a number that is none.
type Bad = (usize, usize, f64);

/// Where a run goes.
struct To<'a, T> {
    run: &'a Run,
    cells: &'a mut [T],
    d: usize,
}

impl<T: Copy> To<'_, T> {
    fn copy<S: Copy>(
        self,
        from: &[S],
        into: impl Fn(S) -> T,
        wide: impl Fn(S) -> f64,
        is_finite: impl Fn(T) -> bool,
    ) -> Result<(), Bad> {
        let Run { first, count, at, width, .. } = *self.run;
        let rows = from.chunks_exact(width.unwrap_or(1).max(1)).zip(self.cells.chunks_exact_mut(self.d.max(1)));
        for (row, (from, to)) in rows.enumerate() {
            let (from, to) = (&from[first..first + count], &mut to[at..at + count]);
            to.iter_mut().zip(from).for_each(|(to, &from)| *to = into(from));
            if let Some(index) = to.iter().position(|&value| !is_finite(value)) {
                return Err((row, first + index, wide(from[index])));
            }
        }
        Ok(())
    }
}

fn single(array: &ArrayRef, to: To<f32>) -> Result<(), Bad> {
    macro_rules! copied {
        ($type:ty) => {
            to.copy(array.as_primitive::<$type>().values(), |x| x as f32, |x| x as f64, f32::is_finite)
        };
    }
    match array.data_type() {
        DataType::Int8 => copied!(Int8Type),
        DataType::Int16 => copied!(Int16Type),
        DataType::Int32 => copied!(Int32Type),
        DataType::Int64 => copied!(Int64Type),
        DataType::UInt16 => copied!(UInt16Type),
        DataType::UInt32 => copied!(UInt32Type),
        DataType::UInt64 => copied!(UInt64Type),
        DataType::Float16 => {
            to.copy(array.as_primitive::<Float16Type>().values(), f16::to_f32, f16::to_f64, f32::is_finite)
        }
        DataType::Float32 => copied!(Float32Type),
        DataType::Float64 => copied!(Float64Type),
        _ => to.copy(&bytes(array), f32::from, f64::from, f32::is_finite),
    }
}

/// Bytes, or booleans as bytes.
fn bytes(array: &ArrayRef) -> Vec<u8> {
    match array.as_boolean_opt() {
        Some(booleans) => booleans.values().iter().map(u8::from).collect(),
        None => array.as_primitive_opt::<UInt8Type>().map(|array| array.values().to_vec()).unwrap_or_default(),
    }
}

/// How many elements the lists in a column have, of which the first rows are `batch`.
pub(super) fn width(batch: &RecordBatch, column: usize, layout: &Layout) -> Result<usize> {
    fn of_list<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> usize {
        if list.is_empty() { 0 } else { list.value_length(0).as_usize() }
    }
    let array = batch.column(column);
    let width = match array.data_type() {
        DataType::FixedSizeList(_, width) => usize::try_from(*width).unwrap_or(0),
        DataType::List(_) => of_list(array.as_list::<i32>()),
        _ => of_list(array.as_list::<i64>()),
    };
    match width {
        0 => Err(Error::malformed(layout.place(column, 0), "it is an empty list, or a gap; all lists need numbers")),
        width => Ok(width),
    }
}

/// The numbers of a column, row after row; where it has lists, each has `width` of them. There are no gaps.
fn values(batch: &RecordBatch, column: usize, first: usize, width: Option<usize>, layout: &Layout) -> Result<ArrayRef> {
    let array = batch.column(column);
    no_gaps(array, 1, column, first, layout)?;
    let Some(width) = width else { return Ok(array.clone()) };
    let range = |found: Range<usize>| {
        let (n, expected) = (batch.num_rows(), batch.num_rows().checked_mul(width));
        match expected == Some(found.len()) {
            true => Ok(found),
            false => {
                let problem = format!("{} numbers in the lists of {n} rows, not {width} in each", found.len());
                Err(Error::malformed(layout.place(column, first), problem))
            }
        }
    };
    let (values, range) = match array.data_type() {
        DataType::FixedSizeList(..) => {
            let list = array.as_fixed_size_list();
            (list.values(), range(0..list.values().len())?)
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            (list.values(), range(of_equal_lists(list, width, column, first, layout)?)?)
        }
        _ => {
            let list = array.as_list::<i64>();
            (list.values(), range(of_equal_lists(list, width, column, first, layout)?)?)
        }
    };
    let values = values.slice(range.start, range.len());
    no_gaps(&values, width, column, first, layout)?;
    Ok(values)
}

/// Where the values of lists are, all of which have `width` of them.
fn of_equal_lists<O: OffsetSizeTrait>(
    list: &GenericListArray<O>,
    width: usize,
    column: usize,
    first: usize,
    layout: &Layout,
) -> Result<Range<usize>> {
    let offsets = list.value_offsets();
    let length = |pair: &[O]| pair[1].as_usize().saturating_sub(pair[0].as_usize());
    match offsets.windows(2).enumerate().find(|(_, pair)| length(pair) != width) {
        None => {
            let end = |offset: Option<&O>| offset.map_or(0, |offset| offset.as_usize());
            Ok(end(offsets.first())..end(offsets.last()))
        }
        Some((row, pair)) => {
            let problem = format!("it is a list of {} numbers, that of the first row has {width}", length(pair));
            Err(Error::malformed(layout.place(column, first + row), problem))
        }
    }
}

/// That no value is null; there are `width` in each row.
fn no_gaps(array: &ArrayRef, width: usize, column: usize, first: usize, layout: &Layout) -> Result<()> {
    let Some(nulls) = array.logical_nulls().filter(|nulls| nulls.null_count() > 0) else { return Ok(()) };
    let index = nulls.iter().position(|is_valid| !is_valid).unwrap_or_default();
    let problem = "it is null; remove the row or fill the gap before training";
    Err(Error::malformed(layout.place(column, first + index / width.max(1)), problem))
}

/// Labels or weights, and how many each row has, if it has a list; `width` is what the rows before had.
pub(super) fn numbers(
    batch: &RecordBatch,
    column: usize,
    first: usize,
    mut width: Option<usize>,
    layout: &Layout,
) -> Result<(Numbers, Option<usize>)> {
    if super::value_type(batch.column(column).data_type()).is_some() && width.is_none() {
        width = Some(self::width(batch, column, layout)?);
    }
    let array = values(batch, column, first, width, layout)?;
    let numbers = match array.as_any_dictionary_opt() {
        Some(dictionary) if !array.is_empty() => {
            let keys = dictionary.normalized_keys();
            match numbers_of(dictionary.values(), layout)? {
                Some(Numbers::Names(names)) => {
                    let bytes = keys.iter().map(|&key| names[key].len() as u64 + 24).sum();
                    layout.take(bytes)?;
                    Some(Numbers::Names(keys.into_iter().map(|key| names[key].clone()).collect()))
                }
                Some(Numbers::U8(values)) => Some(Numbers::U8(keys.into_iter().map(|key| values[key]).collect())),
                Some(Numbers::Integers(values)) => {
                    Some(Numbers::Integers(keys.into_iter().map(|key| values[key]).collect()))
                }
                _ => None,
            }
        }
        _ => numbers_of(&array, layout)?,
    };
    let Some(numbers) = numbers else {
        let problem = format!(
            "values of the type {} are neither labels nor weights, which are numbers or, for labels, text",
            batch.column(column).data_type()
        );
        return Err(Error::malformed(layout.place(column, first), problem));
    };
    if let Numbers::Names(names) = &numbers
        && let Some(row) = names.iter().position(|name| name.trim().is_empty())
    {
        return Err(Error::malformed(layout.place(column, first + row), "the label is empty"));
    }
    Ok((numbers, width))
}

/// The values of an array without gaps; none for a type that is not supported.
fn numbers_of(array: &ArrayRef, layout: &Layout) -> Result<Option<Numbers>> {
    macro_rules! integers {
        ($type:ty) => {
            Numbers::Integers(array.as_primitive::<$type>().values().iter().map(|&x| i64::from(x)).collect())
        };
    }
    let names = |n: usize, bytes: usize| layout.take(bytes as u64 + 24 * n as u64);
    let name = |name: Option<&str>| name.unwrap_or_default().to_owned();
    Ok(Some(match array.data_type() {
        DataType::Boolean | DataType::UInt8 => Numbers::U8(bytes(array)),
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::UInt16 => integers!(UInt16Type),
        DataType::UInt32 => integers!(UInt32Type),
        DataType::UInt64 => {
            let whole = array.as_primitive::<UInt64Type>().values().iter().map(|&x| i64::try_from(x));
            match whole.collect::<Result<_, _>>() {
                Ok(values) => Numbers::Integers(values),
                Err(_) => return Err(super::damaged(&layout.path, "it has whole numbers above 2⁶³ − 1")),
            }
        }
        DataType::Float16 => Numbers::F16(array.as_primitive::<Float16Type>().values().to_vec()),
        DataType::Float32 => Numbers::F32(array.as_primitive::<Float32Type>().values().to_vec()),
        DataType::Float64 => Numbers::F64(array.as_primitive::<Float64Type>().values().to_vec()),
        DataType::Utf8 => {
            let text = array.as_string::<i32>();
            names(text.len(), text.value_data().len())?;
            Numbers::Names(text.iter().map(name).collect())
        }
        DataType::LargeUtf8 => {
            let text = array.as_string::<i64>();
            names(text.len(), text.value_data().len())?;
            Numbers::Names(text.iter().map(name).collect())
        }
        DataType::Utf8View => {
            let text = array.as_string_view();
            names(text.len(), text.lengths().map(|length| length as usize).sum())?;
            Numbers::Names(text.iter().map(name).collect())
        }
        _ => return Ok(None),
    }))
}
