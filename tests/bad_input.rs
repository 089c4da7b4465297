//! Bad input: each kind ends with status 1, one line that says what is wrong, where, and what to do, and nothing is left
//! behind.
#![cfg(feature = "cli")]

#[path = "common/program.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod program;

use program::{Folder, gzip, idx_images, points};

/// Runs what must fail. The message is one line with all of `parts`, and the folder is as it was.
#[track_caller]
fn fails(folder: &Folder, arguments: &[&str], parts: &[&str]) {
    let before = folder.names();
    let run = folder.softreg(arguments);
    assert_eq!((run.status, &*run.stdout), (Some(1), ""), "{run:#?}");
    let error = run.stderr.lines().last().unwrap_or_default();
    assert_eq!(run.stderr.matches("error:").count(), 1, "{}", run.stderr);
    assert!(error.starts_with("error: ") && !error.contains("panicked"), "{}", run.stderr);
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    // Nothing was trained for it.
    assert!(!run.stderr.contains("epoch "), "{}", run.stderr);
    assert_eq!(folder.names(), before);
}

/// `softreg train data.csv` with `csv`, which must fail.
#[track_caller]
fn csv_fails(csv: &str, parts: &[&str]) {
    let folder = Folder::new();
    folder.write("data.csv", csv);
    let arguments = ["train", "data.csv", "--label-column", "species", "--device", "cpu", "--out", "m", "--json", "j"];
    fails(&folder, &arguments, parts);
}

/// The sound file that the bad ones are made from, with a line replaced.
fn with_line(number: usize, line: &str) -> String {
    let csv = points(30);
    let mut lines: Vec<&str> = csv.lines().collect();
    lines[number - 1] = line;
    lines.join("\n") + "\n"
}

#[test]
fn the_sound_files_are_accepted() {
    let folder = Folder::new();
    folder.write("data.csv", points(30));
    folder.softreg(["train", "data.csv", "--label-column", "species", "--device", "cpu"]).ok();
    let (images, labels) = idx_images(&[0, 1, 2, 3, 0, 1, 2, 3]);
    folder.write("images", gzip(&images));
    folder.write("labels", labels);
    folder.softreg(["train", "images", "--labels", "labels", "--device", "cpu"]).ok();
}

#[test]
fn missing_file() {
    let folder = Folder::new();
    fails(&folder, &["train", "nowhere.csv", "--label-column", "y", "--out", "m"], &["cannot read", "nowhere.csv"]);
    folder.write("data.csv", points(30));
    fails(&folder, &["train", "data.csv", "--labels", "nowhere.txt"], &["nowhere.txt"]);
    let test = ["train", "data.csv", "--label-column", "species", "--test", "gone.csv", "--device", "cpu"];
    fails(&folder, &test, &["cannot read", "gone.csv"]);
    fails(&folder, &["predict", "nowhere.safetensors", "data.csv"], &["cannot read", "nowhere.safetensors"]);
    fails(&folder, &["info", "nowhere.safetensors"], &["cannot read", "nowhere.safetensors"]);
}

#[test]
fn truncated_gzip() {
    let folder = Folder::new();
    let classes: Vec<u8> = (0..200).map(|i| i % 4).collect();
    let (images, labels) = idx_images(&classes);
    let whole = gzip(&images);
    folder.write("labels", labels);
    folder.write("images.gz", &whole[..whole.len() / 2]);
    fails(&folder, &["train", "images.gz", "--labels", "labels", "--out", "m"], &["images.gz"]);
    // Only the checksum is gone.
    folder.write("images.gz", &whole[..whole.len() - 4]);
    fails(&folder, &["train", "images.gz", "--labels", "labels", "--out", "m"], &["images.gz"]);
}

/// A frame of Zstandard that unpacks to `n` times 128 KiB of line breaks, four bytes for each.
fn zstandard_of_line_breaks(n: u32) -> Vec<u8> {
    const SIZE: u32 = 1 << 17;
    // No size of the content, and a window of 128 KiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    for block in 1..=n {
        const ONE_BYTE_OFTEN: u32 = 1 << 1;
        let header = u32::from(block == n) | ONE_BYTE_OFTEN | SIZE << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(b'\n');
    }
    frame
}

#[test]
fn what_is_made_to_fill_the_memory() {
    let folder = Folder::new();
    folder.write("points.csv", points(30));
    folder.softreg(["train", "points.csv", "--label-column", "species", "--device", "cpu", "--out", "m"]).ok();
    let rows = "1,2,a\n".repeat(500_000);
    folder.write("bomb", gzip(format!("x,y,species\n{rows}").as_bytes()));
    let commands: [&[&str]; 5] = [
        &["train", "bomb", "--label-column", "species", "--out", "n"],
        &["evaluate", "m", "bomb", "--label-column", "species"],
        &["predict", "m", "bomb", "--out", "p"],
        &["inspect", "bomb", "--label-column", "species"],
        &["convert", "bomb", "--label-column", "species", "--out", "x.npy"],
    ];
    for command in commands {
        let limited = [command, &["--max-unpacked", "2MB"]].concat();
        fails(&folder, &limited, &["bomb:", "more than 2000000 bytes unpacked", "(--max-unpacked)"]);
    }
    // It is no bomb when as much may come of it.
    let inspect = ["inspect", "bomb", "--label-column", "species", "--max-unpacked", "4MB"];
    assert!(folder.softreg(inspect).ok().stdout.contains("500,000 samples"));

    // 2,486 bytes, which by default may become 64 MiB and a thousand times as many.
    let bomb = zstandard_of_line_breaks(620);
    let most = (1000 * bomb.len() + (64 << 20)).to_string();
    assert_eq!(bomb.len(), 2486);
    folder.write("bomb", &bomb);
    for command in commands {
        fails(&folder, command, &["bomb:", &format!("more than {most} bytes unpacked"), "(--max-unpacked)"]);
    }
    fails(&folder, &["inspect", "bomb", "--max-unpacked", "100MB"], &["bomb:", "the file is empty"]);
}

#[test]
fn wrong_idx_magic() {
    let folder = Folder::new();
    let (images, labels) = idx_images(&[0, 1, 2, 3]);
    folder.write("images", &images);
    folder.write("labels", &labels);
    // Labels in the place of images, and the other way round.
    fails(&folder, &["train", "labels", "--labels", "labels"], &["labels"]);
    fails(&folder, &["train", "images", "--labels", "images"], &["images"]);
    for (at, value) in [(0, 1), (1, 7), (2, 0x77), (3, 0)] {
        let mut wrong = images.clone();
        wrong[at] = value;
        folder.write("wrong.idx", wrong);
        fails(&folder, &["train", "wrong.idx", "--labels", "labels", "--out", "m"], &["wrong.idx"]);
    }
}

#[test]
fn csv_with_a_short_row() {
    csv_fails(&with_line(8, "1.5,七"), &["data.csv", "row", "2", "3"]);
}

#[test]
fn csv_with_text_in_a_number() {
    csv_fails(&with_line(8, "1.5,七,much"), &["data.csv", "row", "y", "much"]);
}

#[test]
fn csv_with_nan() {
    for value in ["NaN", "inf", "1e300", ""] {
        csv_fails(&with_line(8, &format!("1.5,七,{value}")), &["data.csv", "row", "y"]);
    }
}

#[test]
fn csv_without_the_label_column() {
    csv_fails("x,y\n1,2\n3,4\n", &["data.csv", "species", "x", "y"]);
}

#[test]
fn no_labels_at_all() {
    let folder = Folder::new();
    folder.write("images", idx_images(&[0, 1, 2, 3]).0);
    fails(&folder, &["train", "images", "--out", "m"], &["images", "--labels"]);
}

#[test]
fn test_data_without_labels() {
    let folder = Folder::new();
    folder.write("images", idx_images(&[0, 1, 2, 3]).0);
    folder.write("labels.txt", "a\nb\na\nb\n");
    let test = ["train", "images", "--labels", "labels.txt", "--test", "images", "--device", "cpu"];
    fails(&folder, &test, &["images", "--test-labels"]);
}

#[test]
fn features_of_absurd_size() {
    csv_fails("x,species\n1e30,a\n2,b\n", &["1e30", "1e18"]);
}

#[test]
fn label_file_of_another_length() {
    let folder = Folder::new();
    folder.write("images", idx_images(&[0, 1, 2, 3]).0);
    folder.write("labels.txt", "a\nb\na\n");
    fails(&folder, &["train", "images", "--labels", "labels.txt", "--out", "m"], &["labels", "4", "3"]);
    folder.write("train-labels.txt", "a\nb\na\nb\n");
    let test = ["train", "images", "--labels", "train-labels.txt", "--test", "images", "--test-labels", "labels.txt"];
    fails(&folder, &test, &["labels.txt", "4", "3"]);
}

#[test]
fn one_class_only() {
    csv_fails("x,species,y\n1,a,2\n3,a,4\n", &["\"a\"", "two classes"]);
}

#[test]
fn zero_rows() {
    csv_fails("x,species,y\n", &["data.csv", "no samples"]);
    csv_fails("", &["data.csv"]);
    let folder = Folder::new();
    let (images, labels) = idx_images(&[]);
    folder.write("images", images);
    folder.write("labels", labels);
    fails(&folder, &["train", "images", "--labels", "labels", "--out", "m"], &["images", "no samples"]);
}

#[test]
fn more_labels_than_fit() {
    let n = softreg::data::MAX_CLASSES + 1;
    let folder = Folder::new();
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({n}, 1), }}");
    let header = format!("{header:117}\n");
    let npy = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
    folder.write("x.npy", [npy, vec![1; n]].concat());
    folder.write("y.txt", (0..n).map(|i| format!("{i}\n")).collect::<String>());
    let parts = [&*n.to_string(), &(n - 1).to_string(), "measurement"];
    fails(&folder, &["train", "x.npy", "--labels", "y.txt", "--out", "m"], &parts);
}

#[test]
fn a_model_given_data_of_another_width() {
    let folder = Folder::new();
    let (images, labels) = idx_images(&[0, 1, 2, 3, 0, 1, 2, 3]);
    folder.write("images", images);
    folder.write("labels", labels);
    folder.softreg(["train", "images", "--labels", "labels", "--device", "cpu", "--out", "m"]).ok();
    folder.write("data.csv", points(8));
    folder.write("narrow.csv", "x\n1\n2\n3\n4\n5\n6\n7\n8\n");
    fails(&folder, &["predict", "m", "narrow.csv", "--out", "p"], &["narrow.csv", "16", "1"]);
    fails(&folder, &["evaluate", "m", "narrow.csv", "--labels", "labels"], &["narrow.csv", "16", "1"]);

    // A model that knows the names of its columns misses them by name.
    folder.softreg(["train", "data.csv", "--label-column", "species", "--device", "cpu", "--out", "named"]).ok();
    fails(&folder, &["predict", "named", "narrow.csv"], &["narrow.csv", "y"]);
    let test = ["train", "images", "--labels", "labels", "--test", "narrow.csv", "--test-labels", "labels"];
    fails(&folder, &test, &["narrow.csv", "16", "1"]);
}

#[test]
fn no_such_device() {
    let folder = Folder::new();
    fails(&folder, &["train", "--device", "abacus", "--out", "m"], &["abacus", "cpu"]);
    fails(&folder, &["train", "--device", "", "--out", "m"], &["cpu"]);
}

#[test]
fn unwritable_output() {
    let folder = Folder::new();
    folder.write("data.csv", points(30));
    std::fs::create_dir(folder.path("folder")).unwrap();
    for flag in ["--out", "--json"] {
        for path in ["no/such/folder/file", "folder", "data.csv/file"] {
            fails(&folder, &["train", "--device", "cpu", flag, path], &["cannot write", path]);
        }
        let input = ["train", "data.csv", "--label-column", "species", "--device", "cpu", flag, "data.csv"];
        fails(&folder, &input, &["data.csv", "overwritten"]);
        assert_eq!(folder.read("data.csv"), points(30).as_bytes());
    }
    let absolute = folder.path("x");
    for other in ["x", "./x", "folder/../x", absolute.to_str().unwrap()] {
        fails(&folder, &["train", "--device", "cpu", "--out", "x", "--json", other], &["--out", "--json", "x"]);
    }
    fails(&folder, &["train", "--device", "cpu", "--out", "-"], &["--out"]);
}

#[test]
fn a_file_that_is_no_model() {
    let folder = Folder::new();
    folder.write("data.csv", points(30));
    fails(&folder, &["info", "data.csv"], &["data.csv", "not a softreg model"]);
    folder.softreg(["train", "--device", "cpu", "--epochs", "1", "--out", "m"]).ok();
    let model = folder.read("m");
    folder.write("half", &model[..model.len() / 2]);
    fails(&folder, &["predict", "half", "data.csv"], &["half", "damaged"]);
}

#[test]
fn a_learning_rate_that_diverges() {
    let folder = Folder::new();
    let run = folder.softreg(["train", "--device", "cpu", "--lr", "1e38", "--out", "m", "--json", "j"]);
    assert_eq!(run.status, Some(1), "{run:#?}");
    let error = run.stderr.lines().last().unwrap();
    assert!(error.starts_with("error: training diverged") && error.contains("learning rate"), "{error}");
    assert!(folder.names().is_empty());
}

/// An .npy file of single precision.
fn npy(shape: &str, values: &[f32]) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    let header = format!("{header:117}\n");
    let start = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
    start.into_iter().chain(values.iter().flat_map(|value| value.to_le_bytes())).collect()
}

#[test]
fn weights_that_make_no_sense() {
    let folder = Folder::new();
    folder.write("data.csv", points(6));
    let train = ["train", "data.csv", "--label-column", "species", "--device", "cpu", "--out", "m", "--sample-weight"];
    let fails_with = |content: &[u8], parts: &[&str]| {
        folder.write("w", content);
        fails(&folder, &[&train[..], &["w"]].concat(), parts);
    };
    fails_with(b"1\n1\n-2\n1\n1\n1\n", &["w, row 3:", "the weight is -2", "at least 0"]);
    fails_with(b"1\nNaN\n1\n1\n1\n1\n", &["w, row 2:", "the weight is NaN", "finite"]);
    fails_with(b"1\n1\n1\n1\n1\ninf\n", &["w, row 6:", "inf"]);
    fails_with(b"0\n0\n0\n0\n0\n0\n", &["w:", "every weight is 0"]);
    fails_with(b"1\n1\n1\n1\n1\n", &["w:", "5 weights", "data.csv", "6 samples"]);
    fails_with(b"weight\n1\n1\n1\n1\n1\n1\n", &["w, row 1:", "\"weight\" is not a number"]);
    fails_with(b"1\n1\n\n1\n1\n1\n", &["w, row 3:", "empty"]);
    fails_with(b"", &["w:", "no weights"]);
    fails_with(&npy("(6,)", &[1.0, 1.0, 1.0, -0.5, 1.0, 1.0]), &["w, row 4:", "the weight is -0.5"]);
    fails_with(&npy("(3, 2)", &[1.0; 6]), &["w:", "[3, 2]", "one number for each sample"]);
    fails(&folder, &[&train[..], &["gone"]].concat(), &["cannot read", "gone"]);

    let column = |weight: &str, parts: &[&str]| {
        folder.write("w.csv", format!("x,species,weight\n1,a,1\n2,b,{weight}\n3,b,0\n"));
        let train = ["train", "w.csv", "--label-column", "species", "--weight-column", "weight", "--device", "cpu"];
        fails(&folder, &train, parts);
    };
    column("-1", &["w.csv, row 2 (line 3), column 3 (weight):", "the weight is -1"]);
    column("inf", &["w.csv, row 2 (line 3), column 3 (weight):", "inf"]);
    column("much", &["w.csv, row 2 (line 3), column 3 (weight):", "\"much\" is not a number"]);
    let unknown = ["train", "w.csv", "--label-column", "species", "--weight-column", "gone", "--device", "cpu"];
    fails(&folder, &unknown, &["w.csv", "no column \"gone\" for the weights", "\"weight\""]);
    let both = ["train", "w.csv", "--label-column", "species", "--weight-column", "species", "--device", "cpu"];
    fails(&folder, &both, &["w.csv", "\"species\" cannot have both"]);
}

#[test]
fn class_weights_that_make_no_sense() {
    let folder = Folder::new();
    folder.write("data.csv", points(30));
    let train = |weights: &str, parts: &[&str]| {
        for command in [&["train"][..], &["train", "--c", "1"], &["sweep"]] {
            let options = ["data.csv", "--label-column", "species", "--device", "cpu", "--class-weight", weights];
            fails(&folder, &[command, &options].concat(), parts);
        }
    };
    train("cat=2", &["\"cat\"", "no such class", "\"Ärmel\"", "\"七\""]);
    train("七=-1", &["\"七\"", "it is -1"]);
    train("七=-9,Ärmel=1", &["\"七\"", "it is -9"]);
    train("七=1,七=2", &["\"七\"", "given twice"]);
    train("七=0,Ärmel=0,long, comma=0", &["all 0"]);
    for (flag, value, expected) in [
        ("--class-weight", "even", "balanced"),
        ("--label-smoothing", "1", "below 1"),
        ("--label-smoothing", "-0.1", "at least 0"),
    ] {
        let run = folder.softreg(["train", "--device", "cpu", flag, value]);
        assert_eq!((run.status, &*run.stdout), (Some(2), ""), "{run:#?}");
        assert!(run.stderr.contains(flag) && run.stderr.contains(expected), "{run:#?}");
    }
}

#[test]
fn soft_labels_that_are_no_distributions() {
    let folder = Folder::new();
    folder.write("x.npy", npy("(3, 1)", &[0.0, 1.0, 2.0]));
    let train = ["train", "x.npy", "--labels", "y.npy", "--device", "cpu", "--out", "m"];
    for (y, parts) in [
        ([0.5, 0.5, 0.5, 0.6, 1.0, 0.0], ["y.npy, row 2:", "the sum is 1.1"]),
        ([0.5, 0.5, 1.0, 0.0, 1.5, -0.5], ["y.npy, row 3:", "-0.5"]),
        ([f32::NAN, 0.5, 1.0, 0.0, 1.0, 0.0], ["y.npy, row 1:", "NaN"]),
        ([0.0, 0.0, 1.0, 0.0, 0.0, 1.0], ["y.npy, row 1:", "the sum is 0"]),
    ] {
        folder.write("y.npy", npy("(3, 2)", &y));
        fails(&folder, &train, &parts);
    }
    folder.write("y.npy", npy("(3, 2)", &[0.5, 0.5, 1.0, 0.0, 0.0, 1.0]));
    folder.write("names", "a\nb\nc\n");
    fails(&folder, &[&train[..], &["--classes", "names"]].concat(), &["y.npy:", "2 classes", "3 are named"]);
    folder.write("names", "a\na\n");
    fails(&folder, &[&train[..], &["--classes", "names"]].concat(), &["\"a\""]);
    folder.write("y.txt", "a\nb\nz\n");
    folder.write("names", "a\nb\n");
    let text = ["train", "x.npy", "--labels", "y.txt", "--device", "cpu", "--classes", "names"];
    fails(&folder, &text, &["y.txt, row 3:", "\"z\""]);
}

#[test]
fn a_start_that_does_not_suit() {
    let folder = Folder::new();
    folder.write("data.csv", points(30));
    let csv = ["train", "data.csv", "--label-column", "species", "--device", "cpu"];
    folder.softreg(csv.iter().chain(&["--out", "m.safetensors"])).ok();
    // 64 features, and no names of them.
    fails(&folder, &["train", "--device", "cpu", "--init", "m.safetensors", "--out", "n"], &["2 features", "64"]);
    fails(&folder, &["train", "--device", "cpu", "--init", "gone.safetensors"], &["cannot read", "gone.safetensors"]);
    fails(&folder, &["train", "--device", "cpu", "--init", "data.csv"], &["data.csv", "not a softreg model"]);
    folder.write("other.csv", "a,species,b\n1,x,2\n3,y,4\n");
    let other = ["train", "other.csv", "--label-column", "species", "--device", "cpu", "--init", "m.safetensors"];
    fails(&folder, &other, &["other.csv", "x"]);
}

#[test]
fn validation_data_that_does_not_suit() {
    let folder = Folder::new();
    folder.write("data.csv", points(30));
    folder.write("other.csv", "x,species,y\n1,unheard of,2\n");
    let arguments = ["train", "data.csv", "--label-column", "species", "--device", "cpu", "--validation"];
    fails(&folder, &[&arguments[..], &["other.csv"]].concat(), &["other.csv", "unheard of"]);
    fails(&folder, &[&arguments[..], &["gone.csv"]].concat(), &["cannot read", "gone.csv"]);
}

#[test]
fn a_warm_up_longer_than_the_training() {
    let folder = Folder::new();
    let arguments = ["train", "--device", "cpu", "--epochs", "3", "--warmup", "3", "--out", "m"];
    fails(&folder, &arguments, &["the warm-up is 3 epochs of 3 epochs", "shorter than the training"]);
}

#[test]
fn a_fold_with_all_samples_of_a_class() {
    let folder = Folder::new();
    let csv = points(30);
    let mut lines: Vec<&str> = csv.lines().collect();
    lines[1..].sort_by_key(|line| line.split(',').nth(1).unwrap_or_default().to_owned());
    folder.write("sorted.csv", lines.join("\n") + "\n");
    let sweep = ["sweep", "sorted.csv", "--label-column", "species", "--device", "cpu", "--c", "1", "--out", "m"];
    let contiguous = [&sweep[..], &["--folds", "contiguous", "--cv", "3"]].concat();
    fails(&folder, &contiguous, &["fold 1 has all samples of the class", "of which there are 10", "stratified"]);
    // A class of a single sample.
    folder.write("sorted.csv", lines.join("\n") + "\n1,alone,2\n");
    fails(&folder, &[&sweep[..], &["--cv", "3"]].concat(), &["class \"alone\", of which there are 1", "leave it out"]);
    fails(&folder, &[&sweep[..], &["--cv", "40"]].concat(), &["the number of folds is 40"]);
    let held_out = folder.softreg([&sweep[..8], &["--holdout", "0.2"]].concat()).ok();
    assert!(held_out.stdout.contains("\"alone\" is in the samples held out"), "{held_out:#?}");
    assert!(held_out.stderr.contains("warning: no sample of the class"), "{held_out:#?}");
}
