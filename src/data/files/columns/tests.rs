use std::sync::Arc;

use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{
    ArrayRef, BooleanArray, DictionaryArray, Float16Array, Float32Array, Float64Array, Int64Array, LargeListArray,
    ListArray, StringArray, StringViewArray, UInt8Array, UInt64Array,
};

use super::*;
use crate::data::{Targets, Values};

fn array(array: impl arrow_array::Array + 'static) -> ArrayRef {
    Arc::new(array)
}

fn floats(values: &[f32]) -> ArrayRef {
    array(Float32Array::from(values.to_vec()))
}

fn lists(rows: Vec<Option<Vec<Option<f32>>>>) -> ArrayRef {
    array(ListArray::from_iter_primitive::<Float32Type, _, _>(rows))
}

fn of(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(name, array)| (*name, array.clone(), true))).unwrap()
}

/// The batches as a stream, a file, and Parquet in groups of two rows.
fn written(batches: &[RecordBatch]) -> [Vec<u8>; 3] {
    let schema = batches[0].schema();
    let mut stream = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &schema).unwrap();
    let mut file = arrow_ipc::writer::FileWriter::try_new(Vec::new(), &schema).unwrap();
    let small = ::parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(2)).build();
    let mut parquet = ::parquet::arrow::ArrowWriter::try_new(Vec::new(), schema, Some(small)).unwrap();
    for batch in batches {
        stream.write(batch).unwrap();
        file.write(batch).unwrap();
        parquet.write(batch).unwrap();
    }
    [stream.into_inner().unwrap(), file.into_inner().unwrap(), parquet.into_inner().unwrap()]
}

fn source(label: Option<&str>) -> Source {
    Source { label_column: label.map(str::to_owned), ..Source::new("file") }
}

fn read_bytes(bytes: Vec<u8>, source: &Source) -> Result<Table> {
    let mut input = Input::of(bytes);
    let format = Format::of(&mut input)?;
    read(input, format, source)
}

/// What all three formats read to.
fn table(batches: &[RecordBatch], source: &Source) -> Table {
    let [stream, file, parquet] = written(batches).map(|bytes| read_bytes(bytes, source).unwrap());
    for other in [&file, &parquet] {
        assert_eq!(format!("{:?}", stream.features), format!("{:?}", other.features));
        assert_eq!(format!("{:?}", stream.labels), format!("{:?}", other.labels));
    }
    stream
}

/// The error that all three formats give.
fn error(batches: &[RecordBatch], source: &Source) -> String {
    let [stream, file, parquet] = written(batches).map(|bytes| read_bytes(bytes, source).unwrap_err().to_string());
    assert_eq!((&stream, &stream), (&file, &parquet));
    stream
}

#[test]
fn numbers_of_all_types_are_features_beside_one_another() {
    let batch = of(&[
        ("b", array(BooleanArray::from(vec![true, false, true]))),
        ("i", array(Int64Array::from(vec![-7, 0, 1 << 40]))),
        ("u", array(UInt64Array::from(vec![1, 2, u64::MAX]))),
        ("v", lists([[1.5, 2.5], [3.5, 4.5], [5.5, 6.5]].map(|v| Some(v.map(Some).to_vec())).to_vec())),
        ("f", array(Float64Array::from(vec![0.1, -0.0, 1e-45]))),
        ("y", array(StringArray::from(vec!["no", "yes", "no"]))),
    ]);
    let read = table(&[batch.clone(), batch.slice(1, 2)], &source(Some("y")));
    let Values::F32(values) = read.features.values() else { panic!() };
    let first = [1.0, -7.0, 1.0, 1.5, 2.5, 0.1];
    let others =
        [0.0, 0.0, 2.0, 3.5, 4.5, -0.0, 1.0, (1u64 << 40) as f32, u64::MAX as f32, 5.5, 6.5, f32::from_bits(1)];
    assert_eq!(**values, [&first[..], &others, &others].concat());
    assert_eq!(read.feature_names.unwrap(), ["b", "i", "u", "v[0]", "v[1]", "f"]);
    // In the order in which a model asks, of a list some elements.
    let wanted = ["v[1]", "f", "v[0]", "b"].map(str::to_owned).to_vec();
    let read = table(&[batch], &Source { feature_names: Some(wanted.clone()), ..source(None) });
    let Values::F32(values) = read.features.values() else { panic!() };
    assert_eq!(values[..8], [2.5, 0.1, 1.5, 1.0, 4.5, -0.0, 3.5, 0.0]);
    assert_eq!(read.feature_names.unwrap(), wanted);
}

#[test]
fn small_types_stay_small() {
    let bytes =
        of(&[("a", array(UInt8Array::from(vec![1, 255]))), ("b", array(BooleanArray::from(vec![true, false])))]);
    assert!(
        matches!(table(&[bytes], &source(None)).features.values(), Values::U8(values) if **values == [1, 1, 255, 0])
    );
    let half = half::f16::from_f32(-1.5);
    let halves = of(&[("a", array(Float16Array::from(vec![half, half])))]);
    assert!(
        matches!(table(&[halves], &source(None)).features.values(), Values::F16(values) if **values == [half, half])
    );
}

#[test]
fn labels_are_text_dictionaries_numbers_or_distributions() {
    let x = || ("x", floats(&[1.0, 2.0, 3.0]));
    let labels = |labels: ArrayRef| table(&[of(&[x(), ("y", labels)])], &source(Some("y"))).labels.unwrap();
    let names = ["b", "a", "b"];
    let dictionary: DictionaryArray<Int32Type> = names.into_iter().collect();
    for column in
        [array(StringArray::from(names.to_vec())), array(StringViewArray::from(names.to_vec())), array(dictionary)]
    {
        let labels = labels(column);
        assert_eq!(labels.classes(), ["a", "b"]);
        assert!(matches!(labels.targets(), Targets::Classes(indices) if **indices == [1, 0, 1]));
    }
    assert_eq!(labels(array(Int64Array::from(vec![5, -1, 5]))).classes(), ["-1", "5"]);
    assert_eq!(labels(array(Float64Array::from(vec![2.0, 1.0, 2.0]))).classes(), ["1", "2"]);
    assert_eq!(labels(array(BooleanArray::from(vec![true, false, true]))).classes(), ["0", "1"]);
    let soft = lists([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]].map(|y| Some(y.map(Some).to_vec())).to_vec());
    assert!(matches!(labels(soft).targets(), Targets::Distributions(y) if **y == [0.5, 0.5, 1.0, 0.0, 0.25, 0.75]));
}

#[test]
fn gaps_ragged_lists_and_text_are_named_with_row_and_column() {
    let batch = |third: ArrayRef| {
        let first = of(&[("x", floats(&[1.0, 2.0])), ("v", third.slice(0, 2))]);
        [first, of(&[("x", floats(&[3.0, 4.0])), ("v", third.slice(2, 2))])]
    };
    let of_column = |column: ArrayRef| error(&batch(column), &source(None));
    let gap = array(Float32Array::from(vec![Some(1.0), Some(2.0), Some(3.0), None]));
    assert!(of_column(gap).starts_with("file, row 4, column 2 (v): it is null"));
    let full = || Some(vec![Some(1.0), Some(2.0)]);
    let cases = [
        (vec![full(), full(), full(), None], "row 4, column 2 (v): it is null"),
        (vec![full(), full(), Some(vec![Some(1.0), None]), full()], "row 3, column 2 (v): it is null"),
        (vec![full(), full(), full(), Some(vec![Some(1.0)])], "row 4, column 2 (v): it is a list of 1 numbers"),
        (vec![full(), Some(vec![Some(1.0); 3]), full(), full()], "row 2, column 2 (v): it is a list of 3 numbers"),
        (vec![Some(vec![]), full(), full(), full()], "row 1, column 2 (v): it is an empty list"),
    ];
    for (rows, expected) in cases {
        let found = of_column(lists(rows));
        assert!(found.starts_with(&format!("file, {expected}")), "{found}");
    }
    let large = LargeListArray::from_iter_primitive::<Float32Type, _, _>([full(), full(), full(), Some(vec![None; 2])]);
    assert!(of_column(array(large)).starts_with("file, row 4, column 2 (v): it is null"));
    let text = of_column(array(StringArray::from(vec!["a", "b", "c", "d"])));
    assert!(text.starts_with("file, column 2 (v): it holds text; features are numbers"), "{text}");
    let nan = of_column(floats(&[1.0, 2.0, f32::NAN, 4.0]));
    assert!(nan.starts_with("file, row 3, column 2 (v): the value NaN is not"), "{nan}");
    let large = of_column(array(Float64Array::from(vec![1.0, 2.0, 3.0, 1e300])));
    assert!(large.starts_with("file, row 4, column 2 (v): the value 1e300 is not"), "{large}");
    let label = error(&batch(floats(&[1.0, 2.0, 3.0, 4.0])), &source(Some("z")));
    assert_eq!(label, "file: it has no column \"z\"; its columns are \"x\", \"v\"");
    let empty = of(&[("x", floats(&[]))]);
    assert_eq!(error(&[empty], &source(None)), "file: there are no samples");
}

#[test]
fn numbers_of_classes_have_the_names_that_datasets_keeps() {
    let batch = of(&[("x", floats(&[1.0, 2.0])), ("label", array(Int64Array::from(vec![1, 0])))]);
    let names = |names: &str| {
        let json = format!(r#"{{"info": {{"features": {{"label": {{"names": {names}, "_type": "ClassLabel"}}}}}}}}"#);
        let schema = batch.schema().as_ref().clone();
        let schema = Arc::new(schema.with_metadata(HashMap::from([("huggingface".to_owned(), json)])));
        [RecordBatch::try_new(schema, batch.columns().to_vec()).unwrap()]
    };
    let labels = table(&names(r#"["zebra", "ant", "bee"]"#), &source(Some("label"))).labels.unwrap();
    assert_eq!(labels.classes(), ["zebra", "ant", "bee"]);
    assert!(matches!(labels.targets(), Targets::Classes(indices) if **indices == [1, 0]));
    let few = error(&names(r#"["zebra"]"#), &source(Some("label")));
    assert!(few.starts_with("file, row 1: the label \"1\" is not one of the 1 classes"), "{few}");
    assert_eq!(table(&names("null"), &source(Some("label"))).labels.unwrap().classes(), ["0", "1"]);
}
