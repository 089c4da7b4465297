//! .npy, one array of NumPy: a magic string, the version, a header that is the text of a Python dictionary, the values
//! (NumPy Enhancement Proposal 1, "A Simple File Format for NumPy Arrays").

use std::path::Path;

use ndarray::{ArrayD, IxDyn, ShapeBuilder};

use super::array::{Array, Kind, Numbers};
use super::input::Input;
use crate::data::{Dtype, Features, Stored};
use crate::error::Result;

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// NumPy has no more.
const MAX_DIMENSIONS: usize = 64;

/// The features of an array that can be used where they are: values that need no conversion, row after row, in a file that is
/// not packed. They stay there when they have more than `memory` bytes, of which as many may be in memory at a time.
pub(super) fn stored(path: &Path, memory: u64) -> Result<Option<Features<'static>>> {
    let mut input = Input::open(path)?;
    let Some(length) = input.left() else { return Ok(None) };
    let Header { kind: (big_endian, kind, size), fortran_order, shape } = header(&mut input)?;
    let dtype = match (kind, size) {
        ('f', 4) => Dtype::F32,
        ('f', 2) => Dtype::F16,
        ('u', 1) => Dtype::U8,
        _ => return Ok(None),
    };
    let (&[n_samples, ref rest @ ..], Some(left)) = (&*shape, input.left()) else { return Ok(None) };
    if n_samples == 0 || rest.is_empty() || big_endian || fortran_order || left <= memory {
        return Ok(None);
    }
    let n_features = rest.iter().product();
    let n_bytes = n_samples.checked_mul(n_features).and_then(|n| n.checked_mul(dtype.size()));
    if n_bytes.is_some_and(|n_bytes| (n_bytes as u64) < left) {
        return Err(input.goes_on());
    }
    let stored = Stored::open(path, length - left, dtype, n_samples, n_features, memory)?;
    Features::new(stored, n_samples, n_features).map(Some)
}

/// What comes before the values.
pub(super) fn header(input: &mut Input) -> Result<Header> {
    const WHAT: &str = "the .npy header";
    let mut start = [0; MAGIC.len() + 2];
    input.bytes(&mut start, WHAT)?;
    let length = match start[MAGIC.len()] {
        1 => {
            let mut length = [0; 2];
            input.bytes(&mut length, WHAT)?;
            u16::from_le_bytes(length).into()
        }
        2 | 3 => {
            let mut length = [0; 4];
            input.bytes(&mut length, WHAT)?;
            u32::from_le_bytes(length)
        }
        version => return Err(input.malformed(format!(".npy version {version} is not known; versions 1 to 3 are"))),
    };
    // What NumPy itself takes for safe is 10,000 bytes; a header has about 100.
    if length > 1 << 16 {
        return Err(input.malformed(format!("its .npy header has {length} bytes, which cannot be")));
    }
    let mut header = vec![0; length as usize];
    input.bytes(&mut header, WHAT)?;
    let header = String::from_utf8_lossy(&header);
    match Header::parse(&header) {
        Some(header) if header.shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)).is_some() => Ok(header),
        Some(header) => Err(input.malformed(format!("an array of shape {:?} is too large", header.shape))),
        None => Err(input.malformed(format!("its .npy header cannot be understood: {}", header.trim()))),
    }
}

pub(super) fn read(input: &mut Input) -> Result<Array> {
    let Header { kind, fortran_order, shape } = header(input)?;
    let n = shape.iter().product();
    let (big_endian, kind, size) = kind;
    let kind = match (kind, size) {
        ('b', 1) | ('u', 1) => Kind::U8,
        ('u', 2) => Kind::U16,
        ('u', 4) => Kind::U32,
        ('u', 8) => Kind::U64,
        ('i', 1) => Kind::I8,
        ('i', 2) => Kind::I16,
        ('i', 4) => Kind::I32,
        ('i', 8) => Kind::I64,
        ('f', 2) => Kind::F16,
        ('f', 4) => Kind::F32,
        ('f', 8) => Kind::F64,
        ('U', size) | ('S', size) if size > 0 && shape.len() < 2 => {
            let numbers = Numbers::Names(names(input, n, kind == 'U', big_endian, size)?);
            input.end()?;
            return Ok(Array { shape, numbers });
        }
        ('O', _) => {
            let advice = "it holds Python objects; save numbers, or names with array.astype(str)";
            return Err(input.malformed(advice));
        }
        _ => {
            let problem =
                format!("values of NumPy's type {kind}{size} are not supported; u1, f2, f4, f8 and integers are");
            return Err(input.malformed(problem));
        }
    };
    let numbers = Numbers::read(input, kind, big_endian, n)?;
    input.end()?;
    let numbers = if fortran_order {
        match numbers {
            Numbers::U8(values) => Numbers::U8(row_major(values, &shape)),
            Numbers::F16(values) => Numbers::F16(row_major(values, &shape)),
            Numbers::F32(values) => Numbers::F32(row_major(values, &shape)),
            Numbers::F64(values) => Numbers::F64(row_major(values, &shape)),
            Numbers::Integers(values) => Numbers::Integers(row_major(values, &shape)),
            Numbers::Names(values) => Numbers::Names(values),
        }
    } else {
        numbers
    };
    Ok(Array { shape, numbers })
}

/// The values of an array in Fortran order, in which the first index runs fastest, in C order.
fn row_major<T: Copy>(values: Vec<T>, shape: &[usize]) -> Vec<T> {
    match ArrayD::from_shape_vec(IxDyn(shape).f(), values) {
        Ok(array) => array.iter().copied().collect(),
        // There are as many values as the shape says.
        Err(_) => Vec::new(),
    }
}

/// `n` names of `size` characters of 32 bits, or of `size` bytes; shorter ones are filled up with zeros.
fn names(input: &mut Input, n: usize, unicode: bool, big_endian: bool, size: usize) -> Result<Vec<String>> {
    let width = if unicode { 4 } else { 1 };
    let Some(n_units) = n.checked_mul(size).filter(|n| n.checked_mul(width).is_some()) else {
        return Err(input.malformed(format!("{n} names of {size} characters are too many")));
    };
    let text: Vec<Option<char>> = match (unicode, big_endian) {
        (false, _) => input.values(n_units, |byte: [u8; 1]| byte[0].is_ascii().then_some(byte[0] as char))?,
        (true, false) => input.values(n_units, |bytes| char::from_u32(u32::from_le_bytes(bytes)))?,
        (true, true) => input.values(n_units, |bytes| char::from_u32(u32::from_be_bytes(bytes)))?,
    };
    let name = |(row, name): (usize, &[Option<char>])| {
        let name: Option<String> = name.iter().copied().collect();
        match name.as_deref().map(|name| name.trim_end_matches('\0').trim()) {
            Some("") => Err(input.malformed(format!("the label in row {} is empty", row + 1))),
            Some(name) => Ok(name.to_owned()),
            None => Err(input.malformed(format!("the label in row {} is not text", row + 1))),
        }
    };
    text.chunks_exact(size).enumerate().map(name).collect()
}

pub(super) struct Header {
    /// Whether big-endian, the letter of the type, and its size.
    kind: (bool, char, usize),
    fortran_order: bool,
    pub shape: Vec<usize>,
}

impl Header {
    /// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, the entries in any order.
    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let key = [format!("'{key}'"), format!("\"{key}\"")];
            let (_, rest) = key.iter().find_map(|key| text.split_once(key.as_str()))?;
            Some(rest.trim_start().strip_prefix(':')?.trim_start())
        };
        let kind = value("descr")?;
        let quote = kind.chars().next().filter(|&c| c == '\'' || c == '"')?;
        let (kind, _) = kind[1..].split_once(quote)?;
        let mut letters = kind.chars();
        let big_endian = match letters.next()? {
            '>' => true,
            '<' | '|' => false,
            '=' => cfg!(target_endian = "big"),
            _ => return None,
        };
        let letter = letters.next()?;
        let size = match letters.as_str() {
            "" => 0,
            size => size.parse().ok()?,
        };
        let fortran_order = value("fortran_order")?;
        let fortran_order = match (fortran_order.starts_with("True"), fortran_order.starts_with("False")) {
            (true, false) => true,
            (false, true) => false,
            _ => return None,
        };
        let (shape, _) = value("shape")?.strip_prefix('(')?.split_once(')')?;
        let shape = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
        // Python 2 wrote 3L for 3.
        let shape = shape.map(|size| size.trim_end_matches('L').parse().ok()).collect::<Option<Vec<_>>>()?;
        if shape.len() > MAX_DIMENSIONS {
            return None;
        }
        Some(Self { kind: (big_endian, letter, size), fortran_order, shape })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use half::f16;

    use super::*;
    use crate::data::Targets;

    /// A file as NumPy writes it.
    fn npy(descr: &str, fortran_order: bool, shape: &str, values: &[u8]) -> Vec<u8> {
        let fortran_order = if fortran_order { "True" } else { "False" };
        let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran_order}, 'shape': {shape}, }}");
        let header = format!("{header:117}\n");
        [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), values].concat()
    }

    fn numbers(bytes: Vec<u8>) -> Numbers {
        read(&mut Input::of(bytes)).unwrap().numbers
    }

    #[test]
    fn types_and_byte_orders() {
        assert_eq!(numbers(npy("|u1", false, "(2,)", &[1, 200])), Numbers::U8(vec![1, 200]));
        assert_eq!(numbers(npy("|b1", false, "(2,)", &[1, 0])), Numbers::U8(vec![1, 0]));
        let half = f16::from_f32(-1.5);
        assert_eq!(numbers(npy("<f2", false, "(1,)", &half.to_le_bytes())), Numbers::F16(vec![half]));
        assert_eq!(numbers(npy(">f2", false, "(1,)", &half.to_be_bytes())), Numbers::F16(vec![half]));
        assert_eq!(numbers(npy("<f4", false, "(1,)", &0.1f32.to_le_bytes())), Numbers::F32(vec![0.1]));
        assert_eq!(numbers(npy(">f8", false, "(1,)", &0.1f64.to_be_bytes())), Numbers::F64(vec![0.1]));
        assert_eq!(numbers(npy("<i8", false, "(1,)", &(-7i64).to_le_bytes())), Numbers::Integers(vec![-7]));
        assert_eq!(numbers(npy(">u2", false, "(1,)", &[1, 2])), Numbers::Integers(vec![258]));
        assert!(read(&mut Input::of(npy("<u8", false, "(1,)", &[255; 8]))).is_err());
        let text: Vec<u8> = "七 ab".chars().flat_map(|c| (c as u32).to_le_bytes()).chain([0; 4]).collect();
        assert_eq!(numbers(npy("<U5", false, "(1,)", &text)), Numbers::Names(vec!["七 ab".to_owned()]));
        let bytes = numbers(npy("|S2", false, "(2,)", b"a\0bc"));
        assert_eq!(bytes, Numbers::Names(vec!["a".to_owned(), "bc".to_owned()]));
    }

    #[test]
    fn fortran_order_reads_as_c_order() {
        // a[i, j, k] = 100 i + 10 j + k
        let value = |i: usize, j: usize, k: usize| (100 * i + 10 * j + k) as u8;
        let (mut c, mut f) = (Vec::new(), Vec::new());
        for outer in 0..2 {
            for middle in 0..3 {
                c.extend((0..4).map(|k| value(outer, middle, k)));
            }
        }
        for k in 0..4 {
            for j in 0..3 {
                f.extend((0..2).map(|i| value(i, j, k)));
            }
        }
        assert_ne!(c, f);
        let shape = "(2, 3, 4)";
        assert_eq!(numbers(npy("|u1", true, shape, &f)), numbers(npy("|u1", false, shape, &c)));
    }

    #[test]
    fn versions_2_and_3_and_other_spellings_of_the_header() {
        for version in [2, 3] {
            let header = b"{\"shape\":(2L,), \"fortran_order\":False,\"descr\":\"<i4\"}";
            let length = (header.len() as u32).to_le_bytes();
            let bytes = [MAGIC, &[version, 0], &length, header, &[1, 0, 0, 0, 2, 0, 0, 0]].concat();
            assert_eq!(numbers(bytes), Numbers::Integers(vec![1, 2]));
        }
    }

    #[test]
    fn every_cut_and_every_flipped_byte_of_the_header_is_no_panic() {
        let whole = npy("<f4", false, "(2, 3)", &[0; 24]);
        read(&mut Input::of(whole.clone())).unwrap();
        for length in 0..whole.len() {
            assert!(read(&mut Input::of(&whole[..length])).is_err(), "{length}");
        }
        for index in 0..whole.len() - 24 {
            for flip in [1, 0x10, 0x80] {
                let mut bytes = whole.clone();
                bytes[index] ^= flip;
                let _ = read(&mut Input::of(bytes)).map(|array| array.into_features(Path::new("x")));
            }
        }
        let more = [&whole[..], &[0]].concat();
        assert!(read(&mut Input::of(more)).unwrap_err().to_string().contains("goes on after"));
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let error = |bytes| match read(&mut Input::of(bytes)) {
            Ok(array) => array.into_features(Path::new("x")).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(error(npy("|O", false, "(3,)", &[0; 3])).contains("astype(str)"));
        assert!(error(npy("<c8", false, "(1, 1)", &[0; 8])).contains("c8"));
        assert!(error(npy("<f4", false, "(2,)", &[0; 8])).contains("shape [2]"));
        assert!(error(npy("<f4", false, "()", &[0; 4])).contains("shape []"));
        assert!(error(npy("<f4", false, "(0, 3)", &[])).contains("there are no samples"));
        let not_finite = [0f32, 1.0, 2.0, f32::NAN].map(f32::to_le_bytes).concat();
        let error = error(npy("<f4", false, "(2, 2)", &not_finite));
        assert!(error.starts_with("x, row 2, column 2: "), "{error}");
    }

    #[test]
    fn labels_are_whole_numbers_names_or_distributions() {
        let labels = |bytes| read(&mut Input::of(bytes)).unwrap().into_labels(Path::new("y"), None);
        let whole = labels(npy("<f8", false, "(3, 1)", &[2.0, -1.0, 2.0].map(f64::to_le_bytes).concat())).unwrap();
        assert_eq!(whole.classes(), ["-1", "2"]);
        let error = labels(npy("<f4", false, "(2,)", &[1.0, 0.5].map(f32::to_le_bytes).concat())).unwrap_err();
        assert!(error.to_string().starts_with("y, row 2: the label 0.5"), "{error}");
        let soft = labels(npy("<f2", false, "(1, 2)", &[0.25, 0.75].map(|y| f16::from_f32(y).to_le_bytes()).concat()));
        let soft = soft.unwrap();
        assert!(matches!(soft.targets(), Targets::Distributions(values) if **values == [0.25, 0.75]));
        assert_eq!(soft.classes(), ["0", "1"]);
        let bad = labels(npy("<f4", false, "(1, 2)", &[0.5, 0.75].map(f32::to_le_bytes).concat())).unwrap_err();
        assert!(bad.to_string().starts_with("y, row 1: "), "{bad}");
    }
}
