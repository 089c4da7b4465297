//! `softreg download`, `inspect` and `convert`, and data sets by name, as their users have them.
#![cfg(feature = "cli")]

#[path = "common/program.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod program;

use std::fs;
use std::net::TcpListener;

use program::{Folder, Run, gzip, idx_images, points};
use safetensors::SafeTensors;
use serde_json::Value;

/// `softreg ARGUMENTS` with data sets in the folder `data`, and no proxy.
fn run(folder: &Folder, arguments: &[&str]) -> Run {
    let mut command = folder.command();
    command.args(arguments).env("SOFTREG_DATA", folder.path("data")).env("NO_PROXY", "*");
    let output = command.output().unwrap();
    Run {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The message of a run that must fail, which leaves no file behind.
#[track_caller]
fn error(folder: &Folder, arguments: &[&str]) -> String {
    let before = folder.names();
    let run = run(folder, arguments);
    assert_eq!((run.status, &*run.stdout), (Some(1), ""), "{run:#?}");
    assert_eq!(folder.names(), before);
    run.stderr.lines().last().unwrap_or_default().to_owned()
}

#[track_caller]
fn wrong_usage(folder: &Folder, arguments: &[&str], named: &str) {
    let run = run(folder, arguments);
    assert_eq!((run.status, &*run.stdout), (Some(2), ""), "{run:#?}");
    assert!(run.stderr.contains(named), "{}", run.stderr);
}

/// Images under the names of Fashion-MNIST, 80 to train on and 20 to test.
fn put_fashion_mnist(folder: &Folder) {
    let path = folder.path("data").join("fashion-mnist");
    fs::create_dir_all(&path).unwrap();
    for (part, n) in [("train", 80), ("t10k", 20)] {
        let (images, labels) = idx_images(&(0..n).map(|i| i % 4).collect::<Vec<u8>>());
        fs::write(path.join(format!("{part}-images-idx3-ubyte.gz")), gzip(&images)).unwrap();
        fs::write(path.join(format!("{part}-labels-idx1-ubyte.gz")), gzip(&labels)).unwrap();
    }
}

fn counts(record: &Value) -> (Option<u64>, Option<u64>) {
    (record["n_samples"].as_u64(), record["n_test_samples"].as_u64())
}

#[test]
fn a_name_stands_for_the_files_that_were_downloaded() {
    let folder = Folder::new();
    let message = error(&folder, &["train", "fashion-mnist", "--device", "cpu"]);
    let parts = ["fashion-mnist is not downloaded", "`softreg download fashion-mnist`", "data"];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");

    put_fashion_mnist(&folder);
    let train = |more: &[&str]| {
        let common = ["--device", "cpu", "--epochs", "20", "--json", "-"];
        run(&folder, &[&["train"], more, &common].concat()).ok()
    };
    let with_test = train(&["fashion-mnist", "--out", "m"]);
    assert_eq!(counts(&with_test.json()), (Some(80), Some(20)));
    assert!(with_test.stderr.contains("its test part"), "{}", with_test.stderr);
    assert_eq!(with_test.json()["test_accuracy"], 1.0);
    assert_eq!(counts(&train(&["fashion-mnist", "--test-split", "0.25"]).json()), (Some(60), Some(20)));
    assert_eq!(counts(&train(&["fashion-mnist/train"]).json()), (Some(80), Some(0)));
    assert_eq!(counts(&train(&["Fashion_MNIST/test", "--test", "fashion-mnist/train"]).json()), (Some(20), Some(80)));

    for (name, n) in [("fashion-mnist", 20), ("fashion-mnist/test", 20), ("fashion-mnist/train", 80)] {
        let evaluated = run(&folder, &["evaluate", "m", name, "--device", "cpu", "--json", "-"]).ok().json();
        assert_eq!((evaluated["n_samples"].as_u64(), evaluated["accuracy"].as_f64()), (Some(n), Some(1.0)));
        let predicted = run(&folder, &["predict", "m", name, "--device", "cpu"]).ok().stdout;
        assert_eq!(predicted.lines().count() as u64, n);
    }
    // Without `train`, and where data is looked at or converted.
    let short = run(&folder, &["fashion-mnist", "--device", "cpu", "--epochs", "1", "--json", "-"]).ok();
    assert_eq!(counts(&short.json()), (Some(80), Some(20)));
    let inspected = run(&folder, &["inspect", "fashion-mnist", "--json", "-"]).ok().json();
    assert_eq!((counts(&inspected).0, inspected["classes"]["counts"][3]["samples"].as_f64()), (Some(80), Some(20.0)));
    run(&folder, &["convert", "fashion-mnist/test", "--out", "test.npy"]).ok();
    assert_eq!(String::from_utf8(folder.read("test.labels.txt")).unwrap().lines().count(), 20);

    // What is there under that name is meant.
    folder.write("fashion-mnist", points(30));
    let file = run(&folder, &["inspect", "fashion-mnist", "--label-column", "species", "--json", "-"]).ok().json();
    assert_eq!(counts(&file).0, Some(30));
}

#[test]
fn downloads_say_what_there_is_and_why_there_is_nothing() {
    let folder = Folder::new();
    let list = run(&folder, &["download"]).ok().stdout;
    for part in ["mnist", "fashion-mnist", "kmnist", "no", "data"] {
        assert!(list.contains(part), "{part:?} is not in {list}");
    }
    put_fashion_mnist(&folder);
    let is_here = |line: &&str| line.starts_with("fashion-mnist") && line.contains("yes");
    assert!(run(&folder, &["download"]).ok().stdout.lines().any(|line| is_here(&line)));

    // Nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/folder", listener.local_addr().unwrap());
    drop(listener);
    let message = error(&folder, &["download", "mnist", "--mirror", &format!("{address}/")]);
    for part in ["error: cannot reach", &format!("{address}/train-images-idx3-ubyte.gz"), "--mirror"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    assert_eq!(fs::read_dir(folder.path("data/mnist")).unwrap().count(), 0);

    wrong_usage(&folder, &["download", "iris"], "mnist, fashion-mnist, kmnist");
    wrong_usage(&folder, &["download", "mnist", "--mirror", "ftp://x"], "http");
    wrong_usage(&folder, &["download", "--mirror", "http://x"], "NAME");
}

#[test]
fn a_sound_file_is_inspected() {
    let folder = Folder::new();
    folder.write("points.csv", points(90));
    let arguments = ["inspect", "points.csv", "--label-column", "species"];
    let report = run(&folder, &arguments).ok().stdout;
    for part in ["90 samples × 2 features", "missing    none", "30    0.3333  long, comma", "  x\n", "  y\n"] {
        assert!(report.contains(part), "{part:?} is not in\n{report}");
    }
    assert!(report.lines().all(|line| line.chars().count() <= 80) && !report.contains("refuses"), "{report}");
    let record = run(&folder, &[&arguments[..], &["--json", "-"]].concat()).ok().json();
    assert_eq!((record["n_features"].as_u64(), record["dtype"].as_str()), (Some(2), Some("f32")));
    assert!(record["density"].as_f64().is_some_and(|density| density > 0.9));
    assert!(record["refusal"].is_null());
    // The largest x by hand.
    let csv = points(90);
    let largest = csv.lines().skip(1).map(|line| line.split(',').next().unwrap().parse::<f32>().unwrap());
    assert_eq!(record["features"][0]["max"].as_f64(), largest.reduce(f32::max).map(f64::from));

    // Without the name of the column, it is told which it may be.
    let report = run(&folder, &["inspect", "points.csv"]).ok().stdout;
    assert!(report.contains("species") && report.contains("--label-column"), "{report}");
}

#[test]
fn what_training_refuses_is_inspected_too() {
    let folder = Folder::new();
    let sound = points(60);
    let mut lines: Vec<&str> = sound.lines().collect();
    lines[5] = ",七,1.5";
    lines[9] = "1.0,七,NaN";
    lines[11] = "1.0,七,??";
    folder.write("gaps.csv", lines.join("\n"));
    let arguments = ["inspect", "gaps.csv", "--label-column", "species"];
    let report = run(&folder, &arguments).ok().stdout;
    for part in ["missing    2", "row 5 (line 6), column 1 (x)", "row 9 (line 10), column 3 (y)", "??", "refuses this"]
    {
        assert!(report.contains(part), "{part:?} is not in\n{report}");
    }
    let record = run(&folder, &[&arguments[..], &["--json", "-"]].concat()).ok().json();
    assert_eq!((record["missing"]["count"].as_u64(), record["not_numbers"]["count"].as_u64()), (Some(2), Some(1)));
    // It is as it says.
    let train = error(&folder, &["train", "gaps.csv", "--label-column", "species", "--device", "cpu"]);
    assert!(record["refusal"].as_str().is_some_and(|refusal| train.ends_with(refusal)), "{train}");
    let message = error(&folder, &["inspect", "gaps.csv", "--label-column", "kind"]);
    assert!(message.contains("no column \"kind\""), "{message}");
}

#[test]
fn many_columns_and_classes_are_shortened() {
    let folder = Folder::new();
    let mut csv: String = (0..50).map(|column| format!("c{column},")).collect();
    csv += "kind\n";
    for row in 0..300 {
        csv.extend((0..50).map(|column| format!("{},", if column < 30 { 0 } else { (row * column) % 97 })));
        csv += &format!("k{}\n", row % 100 * (row % 3));
    }
    folder.write("wide.csv", csv);
    let report = run(&folder, &["inspect", "wide.csv", "--label-column", "kind"]).ok().stdout;
    assert!(report.lines().count() < 40, "{report}");
    assert!(report.lines().all(|line| line.chars().count() <= 80), "{report}");
    for part in ["Constant: 30 of 50", "--json has all", "classes in between", "  k0\n"] {
        assert!(report.contains(part), "{part:?} is not in\n{report}");
    }
}

/// Loss and accuracy of a training.
fn trained(folder: &Folder, arguments: &[&str]) -> (f64, f64) {
    let common = ["--device", "cpu", "--epochs", "20", "--json", "-", "--quiet"];
    let record = run(folder, &[&["train"], arguments, &common].concat()).ok().json();
    (record["train_loss"].as_f64().unwrap(), record["train_accuracy"].as_f64().unwrap())
}

#[test]
fn converted_data_trains_as_the_original() {
    let folder = Folder::new();
    let csv = points(60).replace("x,species,y\n", "x,species,weight,y\n");
    let weighted: Vec<String> = csv
        .lines()
        .enumerate()
        .map(|(row, line)| match line.rsplit_once(',') {
            Some((start, y)) if row > 0 => format!("{start},{},{y}", row % 3 + 1),
            _ => line.to_owned(),
        })
        .collect();
    folder.write("points.csv", weighted.join("\n"));
    let of_csv = ["points.csv", "--label-column", "species", "--weight-column", "weight"];
    let report = run(&folder, &[&["convert"], &of_csv[..], &["--out", "x.npy"]].concat()).ok().stdout;
    let command = report.lines().last().unwrap().strip_prefix("to train on it: softreg train ").unwrap();
    let expected = "x.npy --labels x.labels.txt --sample-weight x.weights.txt";
    assert_eq!(command, expected);
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(trained(&folder, &words), trained(&folder, &of_csv));
    // The comparison sees weights that are left out.
    assert_ne!(trained(&folder, &words[..3]), trained(&folder, &of_csv));
    run(&folder, &[&["convert"], &of_csv[..], &["--out", "z.npy", "--labels-out", "labels.npy"]].concat()).ok();
    assert_eq!(trained(&folder, &["z.npy", "--labels", "labels.npy"]), trained(&folder, &words[..3]));

    run(&folder, &[&["convert"], &of_csv[..], &["--out", "all.safetensors"]].concat()).ok();
    assert_eq!(trained(&folder, &["all.safetensors"]), trained(&folder, &of_csv));
    let bytes = folder.read("all.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (name, shape) in [("features", &[60, 2][..]), ("labels", &[60]), ("weights", &[60])] {
        assert_eq!(tensors.tensor(name).unwrap().shape(), shape);
    }
    let names = ["all.safetensors", "labels.npy", "points.csv", "x.labels.txt", "x.npy", "x.weights.txt"];
    assert_eq!(folder.names(), [&names[..], &["z.npy", "z.weights.txt"]].concat());
}

#[test]
fn bytes_stay_bytes() {
    let folder = Folder::new();
    let (images, labels) = idx_images(&(0..80).map(|i| i % 4).collect::<Vec<u8>>());
    folder.write("images.gz", gzip(&images));
    folder.write("labels", labels);
    let original = ["images.gz", "--labels", "labels"];
    let convert = |more: &[&str]| run(&folder, &[&["convert"], &original[..], more].concat()).ok().stdout;
    let report = convert(&["--out", "x.npy"]);
    assert!(report.contains("80 × 16 u8, 4 classes") && !report.contains("rounded"), "{report}");
    assert_eq!(folder.read("x.npy").len(), 128 + 80 * 16);
    assert_eq!(trained(&folder, &["x.npy", "--labels", "x.labels.txt"]), trained(&folder, &original));
    // A precision that has all of them.
    assert!(!convert(&["--out", "x.npy", "--dtype", "f16"]).contains("rounded"));
    assert_eq!(folder.read("x.npy").len(), 128 + 2 * 80 * 16);
    run(&folder, &["convert", "x.npy", "--out", "back.npy", "--dtype", "u8"]).ok();
    convert(&["--out", "x.npy"]);
    assert!(folder.read("x.npy") == folder.read("back.npy"));
}

#[test]
fn what_a_conversion_changes_is_said_or_refused() {
    let folder = Folder::new();
    folder.write("x.csv", "a,b,kind\n1,1024.25,u\n2,3,v\n4,0.5,u\n");
    let convert = ["convert", "x.csv", "--label-column", "kind", "--out", "x.npy", "--dtype"];
    let report = run(&folder, &[&convert[..], &["f16"]].concat()).ok().stdout;
    let expected = "rounded to f16: largest error 0.25, where 1024.25 became 1024 (row 1, column 2)";
    assert!(report.lines().any(|line| line == expected), "{report}");
    let report = run(&folder, &[&convert[..], &["f32"]].concat()).ok().stdout;
    assert!(!report.contains("rounded"), "{report}");

    let before = folder.read("x.npy");
    let message = error(&folder, &[&convert[..], &["u8"]].concat());
    assert!(message.contains("x.csv, row 1, column 2") && message.contains("1024.25"), "{message}");
    assert!(folder.read("x.npy") == before);
    folder.write("large.csv", "a,b,kind\n1,2,u\n2,70000,v\n");
    let large = ["convert", "large.csv", "--label-column", "kind", "--out", "large.npy", "--dtype", "f16"];
    assert!(error(&folder, &large).contains("large.csv, row 2, column 2: the value 70000 is too large"));

    wrong_usage(&folder, &["convert", "x.csv", "--out", "x.txt"], "--out");
    wrong_usage(&folder, &["convert", "x.csv", "--out", "x.safetensors", "--labels-out", "y"], "--labels-out");
    wrong_usage(&folder, &["convert", "x.csv"], "--out");
    assert!(error(&folder, &["convert", "x.npy", "--out", "x.npy"]).contains("it is an input"));
    assert!(error(&folder, &["convert", "x.csv", "--out", "new.npy"]).contains("--label-column"));
    let same = ["convert", "x.csv", "--label-column", "kind", "--out", "y.npy", "--labels-out", "y.npy"];
    assert!(error(&folder, &same).contains("the same file"));
}
