//! IDX, the format of MNIST: two zeros, the type, the number of dimensions, the dimensions as 32-bit numbers, the values;
//! all big-endian (Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits").

use super::array::{Array, Kind, Numbers};
use super::input::Input;
use crate::error::Result;

pub(super) const MAGIC: &[u8] = &[0, 0];

pub(super) fn read(input: &mut Input) -> Result<Array> {
    let mut start = [0; 4];
    input.bytes(&mut start, "the IDX header")?;
    let kind = match start[2] {
        0x08 => Kind::U8,
        0x09 => Kind::I8,
        0x0B => Kind::I16,
        0x0C => Kind::I32,
        0x0D => Kind::F32,
        0x0E => Kind::F64,
        other => {
            let problem = format!("it begins like an IDX file, but {other:#04x} is no type of values; is it one?");
            return Err(input.malformed(problem));
        }
    };
    let n_dimensions = start[3];
    if !(1..=8).contains(&n_dimensions) {
        let problem = format!("it begins like an IDX file, but with {n_dimensions} dimensions; is it one?");
        return Err(input.malformed(problem));
    }
    let mut shape = Vec::new();
    for _ in 0..n_dimensions {
        let mut size = [0; 4];
        input.bytes(&mut size, "the IDX header")?;
        shape.push(u32::from_be_bytes(size) as usize);
    }
    let Some(n) = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)) else {
        return Err(input.malformed(format!("an IDX array of shape {shape:?} is too large")));
    };
    let numbers = Numbers::read(input, kind, true, n)?;
    input.end()?;
    Ok(Array { shape, numbers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idx(kind: u8, shape: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, kind, shape.len() as u8];
        bytes.extend(shape.iter().flat_map(|size| size.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    #[test]
    fn values_are_big_endian() {
        let read = |kind, shape: &[u32], values: &[u8]| read(&mut Input::of(idx(kind, shape, values))).unwrap();
        assert_eq!(read(0x08, &[3], &[1, 2, 255]).numbers, Numbers::U8(vec![1, 2, 255]));
        assert_eq!(read(0x09, &[1], &[255]).numbers, Numbers::Integers(vec![-1]));
        assert_eq!(read(0x0B, &[2], &[1, 2, 255, 255]).numbers, Numbers::Integers(vec![258, -1]));
        assert_eq!(read(0x0C, &[1], &[0, 0, 1, 0]).numbers, Numbers::Integers(vec![256]));
        assert_eq!(read(0x0D, &[1, 1], &1.5f32.to_be_bytes()).numbers, Numbers::F32(vec![1.5]));
        let array = read(0x0E, &[1, 2], &[2.5f64.to_be_bytes(), (-1f64).to_be_bytes()].concat());
        assert_eq!(array, Array { shape: vec![1, 2], numbers: Numbers::F64(vec![2.5, -1.0]) });
    }

    #[test]
    fn every_cut_and_every_byte_more_is_an_error() {
        let whole = idx(0x08, &[2, 2, 2], &[0; 8]);
        read(&mut Input::of(whole.clone())).unwrap();
        for length in 0..whole.len() {
            assert!(read(&mut Input::of(&whole[..length])).is_err(), "{length}");
        }
        let error = read(&mut Input::of([&whole[..], &[0]].concat())).unwrap_err().to_string();
        assert!(error.contains("goes on after"), "{error}");
        let huge = read(&mut Input::of(idx(0x0E, &[u32::MAX; 3], &[]))).unwrap_err().to_string();
        assert!(huge.contains("too large"), "{huge}");
    }

    #[test]
    fn images_are_flattened_and_labels_are_not_images() {
        let array = read(&mut Input::of(idx(0x08, &[2, 2, 3], &[7; 12]))).unwrap();
        let path = std::path::Path::new("images");
        let features = array.clone().into_features(path).unwrap();
        assert_eq!((features.n_samples(), features.n_features()), (2, 6));
        assert!(
            array.into_labels(path, None).unwrap_err().to_string().starts_with("images: an array of shape [2, 2, 3]")
        );
        let labels = read(&mut Input::of(idx(0x08, &[3], &[7, 3, 7]))).unwrap();
        assert_eq!(labels.clone().into_labels(path, None).unwrap().classes(), ["3", "7"]);
        assert!(labels.into_features(path).unwrap_err().to_string().contains("are these labels?"));
    }
}
