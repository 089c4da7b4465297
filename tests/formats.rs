//! One small data set in every format, written by that format's own writer (tests/formats/write.py), is read to the same data
//! set, bit for bit. The numbers are computed here once more, from their bits.
#![cfg(feature = "files")]

use half::{bf16, f16};
use softreg::Dataset;
use softreg::data::{Source, Targets, Values, read};
use softreg::{Result, half};

const N: usize = 20;
const D: usize = 5;
const CLASSES: [&str; 3] = ["cat", "dog", "Ünï, \"q\""];
const NUMBERS: [&str; 3] = ["-3", "0", "10"];
const FEATURES: [&str; D] = ["a", "b", "c", "d e", "ä"];

/// Bits of every kind, none of them of a NaN or an infinity.
fn bits() -> Vec<u32> {
    let mut bits: Vec<u32> = (0..(N * D) as u64).map(|i| (i * 0x9E37_79B9 + 12345) as u32).collect();
    for bits in &mut bits {
        if *bits >> 23 & 0xFF == 0xFF {
            *bits &= !(1 << 30);
        }
    }
    bits[..6].copy_from_slice(&[0x0000_0001, 0x807F_FFFF, 0x8000_0000, 0x7F7F_FFFF, 0x0080_0000, 0]);
    bits
}

fn half_bits() -> Vec<u16> {
    let mut bits: Vec<u16> = (0..(N * D) as u32).map(|i| (i * 40503 + 99) as u16).collect();
    for bits in &mut bits {
        if *bits >> 10 & 0x1F == 0x1F {
            *bits &= !(1 << 14);
        }
    }
    bits[..6].copy_from_slice(&[0x0001, 0x83FF, 0x8000, 0x7BFF, 0x0400, 0]);
    bits
}

/// What there is to compare, exactly: the bits of the features, which are of one type, the classes and labels, the weights.
#[derive(Debug, Clone, PartialEq)]
struct Content {
    dtype: &'static str,
    bits: Vec<u32>,
    /// Of sparse features row and column of each value.
    places: Vec<(usize, u32)>,
    labels: Option<Vec<String>>,
    weights: Option<Vec<u32>>,
    feature_names: Option<Vec<String>>,
}

impl Content {
    fn of(source: &Source) -> Result<Self> {
        let table = read(source)?;
        assert_eq!((table.features.n_samples(), table.features.n_features()), (N, D), "{}", source.features.display());
        let mut places = Vec::new();
        let (dtype, bits) = match table.features.values() {
            Values::F32(values) => ("f32", values.iter().map(|x| x.to_bits()).collect()),
            Values::F16(values) => ("f16", values.iter().map(|x| x.to_bits().into()).collect()),
            Values::U8(values) => ("u8", values.iter().map(|&x| x.into()).collect()),
            Values::Sparse(csr) => {
                let rows = csr.offsets().windows(2).zip(0..);
                let rows = rows.flat_map(|(pair, row)| (pair[0]..pair[1]).map(move |_| row));
                places = rows.zip(csr.columns().iter().copied()).collect();
                ("sparse", csr.values().iter().map(|x| x.to_bits()).collect())
            }
            other => panic!("{other:?}"),
        };
        let labels = table.labels.as_ref().map(|labels| {
            let Targets::Classes(indices) = labels.targets() else { panic!("soft labels") };
            indices.iter().map(|&class| labels.classes()[class as usize].clone()).collect()
        });
        let weights = table.weights.as_ref().map(|weights| weights.iter().map(|weight| weight.to_bits()).collect());
        let feature_names = table.feature_names.clone();
        if labels.is_some() {
            let data: Dataset = table.into_dataset()?;
            assert_eq!(data.n_classes(), 3);
        }
        Ok(Self { dtype, bits, places, labels, weights, feature_names })
    }

    fn single() -> Self {
        Self { dtype: "f32", bits: bits(), places: Vec::new(), labels: None, weights: None, feature_names: None }
    }

    fn half() -> Self {
        Self { dtype: "f16", bits: half_bits().into_iter().map(u32::from).collect(), ..Self::single() }
    }

    fn bytes() -> Self {
        Self { dtype: "u8", bits: (0..(N * D) as u32).map(|i| i * 37 % 256).collect(), ..Self::single() }
    }

    fn sparse() -> Self {
        let wanted = || (0..N * D).filter(|i| i % 3 == 0 && !matches!(bits()[*i], 0 | 0x8000_0000));
        let places = wanted().map(|i| (i / D, (i % D) as u32)).collect();
        Self { dtype: "sparse", bits: wanted().map(|i| bits()[i]).collect(), places, ..Self::single() }
    }

    fn labelled(self, classes: [&str; 3]) -> Self {
        Self { labels: Some((0..N).map(|i| classes[i * 7 / 3 % 3].to_owned()).collect()), ..self }
    }

    fn weighted(self) -> Self {
        Self { weights: Some((0..N).map(|i| ((i % 4) as f32 + 0.5).to_bits()).collect()), ..self }
    }

    fn named(self, names: &[&str]) -> Self {
        Self { feature_names: Some(names.iter().map(|&name| name.to_owned()).collect()), ..self }
    }
}

fn file(name: &str) -> Source {
    Source::new(format!("{}/tests/formats/{name}", env!("CARGO_MANIFEST_DIR")))
}

fn path(name: &str) -> Option<std::path::PathBuf> {
    Some(file(name).features)
}

fn some(name: &str) -> Option<String> {
    Some(name.to_owned())
}

/// The files, and what is in them.
fn cases() -> Vec<(Source, Content)> {
    use Content as C;
    let columns = |source: Source| Source { label_column: some("kind"), weight_column: some("w"), ..source };
    let table = || C::single().labelled(CLASSES).weighted().named(&FEATURES);
    let mut cases = vec![
        (file("f32.npy"), C::single()),
        (file("f32_fortran.npy"), C::single()),
        (file("f32_big_endian.npy"), C::single()),
        (file("f64.npy"), C::single()),
        (Source { labels: path("names.npy"), ..file("f16.npy") }, C::half().labelled(CLASSES)),
        (Source { labels: path("names.txt"), ..file("f32.npy") }, C::single().labelled(CLASSES)),
        (Source { labels: path("numbers.npy"), ..file("u8.npy") }, C::bytes().labelled(NUMBERS)),
        (file("f32.idx.gz"), C::single()),
        (columns(file("f32.csv")), table()),
        (columns(file("f32.csv.gz")), table()),
        (columns(file("f32.csv.zst")), table()),
        (columns(file("f32.tsv")), table()),
        (file("sparse.svm"), C::sparse().labelled(NUMBERS)),
        (file("stored.npz"), C::single().labelled(CLASSES).weighted()),
        (file("deflated.npz"), C::half().labelled(NUMBERS)),
        (file("unnamed.npz"), C::single()),
        (Source { label_column: some("arr_0"), ..file("unnamed.npz") }, C::single().labelled(NUMBERS)),
        (
            Source {
                feature_columns: Some(vec!["x_train".to_owned()]),
                label_column: some("y_train"),
                ..file("several.npz")
            },
            C::single().labelled(CLASSES),
        ),
        // The array of labels of one file with those of another.
        (
            Source { labels: path("several.npz"), label_column: some("y_test"), ..file("u8.npy") },
            C::bytes().labelled(NUMBERS),
        ),
        (file("csr.npz"), C::sparse()),
        (file("csc.npz"), C::sparse()),
        (file("coo.npz"), C::sparse()),
        (file("f32.safetensors"), table()),
        (file("f16.safetensors"), C::half().labelled(NUMBERS)),
        (file("u8.safetensors"), C::bytes().labelled(NUMBERS)),
        (Source { labels: path("u8.safetensors"), ..file("f32.npy") }, C::single().labelled(NUMBERS)),
        (file("bf16.safetensors"), C { bits: bits().iter().map(|bits| bits >> 16 << 16).collect(), ..C::single() }),
    ];
    if cfg!(feature = "arrow") {
        let names = |name: &str| (0..D).map(|i| format!("{name}[{i}]")).collect::<Vec<_>>();
        let bytes = || C::bytes().labelled(NUMBERS).named(&["p0", "p1", "p2", "p3", "p4"]);
        let labelled = |source: Source, label: &str| Source { label_column: some(label), ..source };
        for packing in ["none", "snappy", "gzip", "zstd", "lz4"] {
            cases.push((columns(file(&format!("{packing}.parquet"))), table()));
        }
        for name in ["dictionary.parquet", "text.arrow", "dictionary_zstd.arrow", "shards", "shards/part-*.parquet"] {
            cases.push((columns(file(name)), table()));
        }
        for name in ["embedding.parquet", "embedding_lz4.arrows"] {
            let source = Source { feature_columns: Some(vec!["embedding".to_owned()]), ..file(name) };
            let content = C { feature_names: Some(names("embedding")), ..C::single() };
            cases.push((labelled(source.clone(), "label"), content.clone().labelled(CLASSES)));
            // As a model asks for them that was trained on them.
            cases.push((Source { feature_names: Some(names("embedding")), ..file(name) }, content));
        }
        for name in ["fixed.parquet", "fixed.arrows"] {
            let content = C { feature_names: Some(names("v")), ..C::half().labelled(NUMBERS) };
            cases.push((labelled(file(name), "y"), content));
        }
        for name in ["integers.parquet", "integers.arrow"] {
            cases.push((labelled(file(name), "y"), bytes()));
        }
    }
    cases
}

#[test]
fn every_format_reads_to_the_same_data_set() {
    for (source, expected) in cases() {
        let found = Content::of(&source).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(found, expected, "{source:?}");
    }
}

/// What the comparison is made of notices each of the smallest changes.
#[test]
fn a_changed_value_is_noticed() {
    let expected = Content::single().labelled(CLASSES).weighted();
    let changes: [fn(&mut Content); 4] = [
        // The sign of a zero; the last bit of the smallest number.
        |content| content.bits[2] = 0,
        |content| content.bits[0] = 2,
        |content| content.labels.as_mut().unwrap()[N - 1] = CLASSES[0].to_owned(),
        |content| content.weights.as_mut().unwrap()[7] += 1,
    ];
    let found = Content::of(&file("stored.npz")).unwrap();
    assert_eq!(found, expected);
    for change in changes {
        let mut changed = expected.clone();
        change(&mut changed);
        assert_ne!(found, changed);
    }
    // In a file: of the bytes of the values one, in the last place.
    let path = std::env::temp_dir().join(format!("softreg-formats-{}.npy", std::process::id()));
    let mut bytes = std::fs::read(file("f32.npy").features).unwrap();
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_ne!(Content::of(&Source::new(&path)).unwrap(), Content::single());
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn brain_floats_are_the_upper_halves_of_single_precision() {
    for bits in bits() {
        assert_eq!(bf16::from_bits((bits >> 16) as u16).to_f32().to_bits(), bits >> 16 << 16);
    }
    assert!(half_bits().iter().all(|&bits| f16::from_bits(bits).is_finite()));
}
