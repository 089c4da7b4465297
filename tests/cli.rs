//! The program as its users have it: what it prints where, what it writes, and how it ends.
#![cfg(feature = "cli")]

mod common;
#[path = "common/program.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod program;

use std::io::Read;
use std::process::Stdio;

use program::{Folder, gzip, idx_images, points};
use serde_json::Value;

/// One shortened run on the digits, with its JSON.
fn digits(folder: &Folder, more: &[&str]) -> Value {
    let arguments = ["train", "--device", "cpu", "--epochs", "3", "--json", "-", "--quiet"];
    folder.softreg(arguments.iter().chain(more)).ok().json()
}

fn number(record: &Value, key: &str) -> f64 {
    record[key].as_f64().unwrap_or_else(|| panic!("{key} is {}", record[key]))
}

#[test]
fn the_main_job_reaches_its_accuracy_and_reports_it() {
    let folder = Folder::new();
    let run = folder.softreg(["--device", "cpu", "--json", "run.json"]).ok();
    let record: Value = serde_json::from_slice(&folder.read("run.json")).unwrap();
    let accuracy = number(&record, "test_accuracy");
    assert!(accuracy >= 0.95, "{accuracy}");
    // The report has the same figures, on lines that fit a terminal, and the messages are elsewhere.
    let test = run.stdout.lines().find(|line| line.starts_with("test ")).unwrap();
    let fields: Vec<&str> = test.split_whitespace().collect();
    assert_eq!(fields, ["test", "359", &format!("{:.6}", number(&record, "test_loss")), &format!("{accuracy:.4}")]);
    assert!(run.stdout.lines().all(|line| line.chars().count() <= 80), "{}", run.stdout);
    assert!(run.stdout.contains("support") && !run.stdout.contains("epoch "), "{}", run.stdout);
    assert!(run.stderr.contains("built-in digits") && run.stderr.contains("cpu"), "{}", run.stderr);
    assert_eq!(folder.names(), ["run.json"]);
}

#[test]
fn progress_in_a_pipe_is_a_few_lines_and_quiet_has_none() {
    let folder = Folder::new();
    let loud = folder.softreg(["train", "--device", "cpu", "--epochs", "57"]).ok();
    let lines = loud.stderr.lines().filter(|line| line.starts_with("epoch ")).count();
    assert!((5..=20).contains(&lines), "{}", loud.stderr);
    assert!(loud.stderr.contains("57/57") && !loud.stderr.contains('\r'), "{}", loud.stderr);
    let quiet = folder.softreg(["train", "--device", "cpu", "--epochs", "57", "--quiet"]).ok();
    assert_eq!(quiet.stderr, "");
    // Times differ, figures do not.
    let figures = |text: &str| text.lines().take(12).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(figures(&quiet.stdout), figures(&loud.stdout));
}

#[test]
fn json_has_its_keys_and_types() {
    let folder = Folder::new();
    let record = digits(&folder, &["--seed", "7", "--batch-size", "64"]);
    for key in ["softreg_version", "device", "backend", "solver", "dtype"] {
        assert!(record[key].as_str().is_some_and(|text| !text.is_empty()), "{key} is {}", record[key]);
    }
    let whole = [
        ("n_samples", 1438),
        ("n_test_samples", 359),
        ("n_features", 64),
        ("n_classes", 10),
        ("n_heads", 1),
        ("epochs", 3),
        ("batch_size", 64),
        ("seed", 7),
    ];
    for (key, expected) in whole {
        assert_eq!(record[key].as_u64(), Some(expected), "{key}");
    }
    let positive = [
        "seconds_load",
        "seconds_train",
        "seconds_startup",
        "seconds_total",
        "samples_per_second",
        "lr",
        "feature_scale",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
    ];
    for key in positive {
        assert!(number(&record, key) > 0.0, "{key}");
    }
    assert!(number(&record, "objective") > number(&record, "train_loss"));
    assert!(number(&record, "seconds_total") >= number(&record, "seconds_train"));
    assert_eq!(record["epoch_losses"].as_array().unwrap().len(), 3);
    let classes = record["test_classes"].as_array().unwrap();
    let support: u64 = classes.iter().map(|class| class["support"].as_u64().unwrap()).sum();
    assert_eq!((classes.len(), support), (10, 359));
}

#[test]
fn a_sweep_reports_each_penalty_and_saves_the_best() {
    let folder = Folder::new();
    let grid = ["--c", "0.1:10:3", "--l1-ratio", "0,0.5", "--cv", "3"];
    let files = ["--json", "sweep.json", "--csv", "sweep.csv", "--out", "best.safetensors"];
    let arguments = [&["sweep", "--device", "cpu"][..], &grid, &files].concat();
    let run = folder.softreg(&arguments).ok();
    let record: Value = serde_json::from_slice(&folder.read("sweep.json")).unwrap();
    let (heads, candidates) = (record["heads"].as_array().unwrap(), record["candidates"].as_array().unwrap());
    assert_eq!((heads.len(), candidates.len(), record["n_heads"].as_u64()), (18, 6, Some(18)));
    let best = candidates.iter().map(|candidate| number(candidate, "validation_loss")).fold(f64::MAX, f64::min);
    assert_eq!(number(&record["chosen"], "validation_loss"), best);
    let of_heads: f64 = heads.iter().map(|head| number(head, "n_evaluations")).sum();
    assert!(number(&record, "n_evaluations") > of_heads && number(&record, "test_accuracy") > 0.95);
    assert!(run.stdout.lines().all(|line| line.chars().count() <= 80), "{}", run.stdout);
    assert_eq!(run.stdout.lines().filter(|line| line.starts_with('*')).count(), 1);
    let csv = String::from_utf8(folder.read("sweep.csv")).unwrap();
    assert_eq!(csv.lines().count(), 19);
    assert!(csv.lines().all(|line| line.split(',').count() == csv.lines().next().unwrap().split(',').count()));
    let info = folder.softreg(["info", "best.safetensors"]).ok();
    assert!(info.stdout.contains("lbfgs"), "{}", info.stdout);

    // Groups that are the folds of contiguous samples.
    let groups: String = (0..1438).map(|i| format!("{}\n", i / 720)).collect();
    folder.write("groups.txt", groups.as_bytes());
    let one = |more: &[&str]| {
        let arguments =
            [&["sweep", "--device", "cpu", "--c", "1", "--cv", "2", "--json", "-", "--quiet"], more].concat();
        number(&folder.softreg(&arguments).ok().json()["chosen"], "validation_loss")
    };
    let grouped = one(&["--groups", "groups.txt"]);
    assert!((grouped - one(&["--folds", "contiguous"])).abs() < 0.02 && grouped != one(&[]));
    folder.write("groups.txt", b"1\n-2\n");
    for (arguments, message) in [
        (&["--groups", "groups.txt"][..], "row 2"),
        (&["--c", "1:0:5"], "above 0"),
        (&["--c", "1:2"], "LO:HI:COUNT"),
        (&["--cv", "1"], "number of folds"),
        (&["--l1-ratio", "2"], "between 0 and 1"),
        (&["--c", "1", "--l2", "1"], "cannot be used with"),
        (&["--csv", "a", "--json", "a"], "the same file"),
    ] {
        let failed = folder.softreg([&["sweep", "--device", "cpu"][..], arguments].concat());
        assert!(failed.status != Some(0) && failed.stderr.contains(message), "{message}: {}", failed.stderr);
    }
}

#[test]
fn a_sweep_of_learning_rates_reports_each_model() {
    let folder = Folder::new();
    let grid = ["--lr", "0.1,0.01,1e30", "--holdout", "0.2", "--seeds", "2", "--epochs", "3", "--schedule", "cosine"];
    let files = ["--json", "sweep.json", "--csv", "sweep.csv", "--out", "best.safetensors"];
    let run = folder.softreg([&["sweep", "--device", "cpu"][..], &grid, &files].concat()).ok();
    let record: Value = serde_json::from_slice(&folder.read("sweep.json")).unwrap();
    let (heads, candidates) = (record["heads"].as_array().unwrap(), record["candidates"].as_array().unwrap());
    assert_eq!((heads.len(), candidates.len(), record["n_heads"].as_u64()), (6, 3, Some(6)));
    assert_eq!(
        (record["n_folds"].as_u64(), record["n_seeds"].as_u64(), number(&record, "holdout")),
        (Some(1), Some(2), 0.2)
    );
    assert_eq!((&record["solver"], record["epochs"].as_u64()), (&Value::from("sgd"), Some(3)));
    let of_heads: Vec<_> =
        heads.iter().map(|head| (number(head, "learning_rate"), head["seed"].as_u64().unwrap())).collect();
    assert_eq!(of_heads, [(0.01, 0), (0.01, 1), (0.1, 0), (0.1, 1), (1e30, 0), (1e30, 1)]);
    assert!(heads[4]["validation_loss"].is_null() && heads[4]["reason"] == "diverged", "{}", heads[4]);
    assert_ne!(heads[0]["validation_loss"], heads[1]["validation_loss"]);
    let mean = (number(&heads[2], "validation_loss") + number(&heads[3], "validation_loss")) / 2.0;
    assert!((number(&candidates[1], "validation_loss") - mean).abs() < 1e-12);
    assert!(record["chosen"]["learning_rate"] != 1e30 && number(&record, "test_accuracy") > 0.8);
    assert!(run.stdout.lines().all(|line| line.chars().count() <= 80), "{}", run.stdout);
    assert!(run.stdout.contains("2 of 6 models diverged") && run.stdout.contains("learning rate = "), "{}", run.stdout);
    assert_eq!(String::from_utf8(folder.read("sweep.csv")).unwrap().lines().count(), 7);
    let info = folder.softreg(["info", "best.safetensors"]).ok();
    assert!(info.stdout.contains("sgd") && info.stdout.contains("cosine"), "{}", info.stdout);
    for (arguments, message) in [
        (&["--lr", "0.1", "--solver", "lbfgs"][..], "--lr is an option of --solver sgd or adamw"),
        (&["--lr", "0.1", "--refine", "8"], "--refine is an option of --solver lbfgs or newton-cg"),
        (&["--preset", "clip", "--solver", "sgd"], "--preset clip is an option of --solver lbfgs or newton-cg"),
        (&["--holdout", "0.2", "--cv", "3"], "cannot be used with"),
        (&["--holdout", "0.2", "--one-standard-error"], "cannot be used with"),
        (&["--holdout", "1"], "above 0 and below 1"),
        (&["--seeds", "0"], "at least 1"),
        (&["--lr", "0"], "above 0"),
        (&["--lr", "0.1,NaN"], "not a finite number"),
        (&["--l2", "0"], "a strength of the penalty"),
        (&["--preset", "other"], "dinov2-linear"),
        (&["--lr", "1e30,1e31", "--epochs", "3"], "training diverged"),
    ] {
        let failed = folder.softreg([&["sweep", "--device", "cpu"][..], arguments].concat());
        assert!(failed.status != Some(0) && failed.stderr.contains(message), "{message}: {}", failed.stderr);
    }
}

#[test]
fn a_learning_curve_reports_each_size() {
    let folder = Folder::new();
    let files = ["--json", "curve.json", "--csv", "curve.csv"];
    let of = |arguments: &[&str]| {
        let run = folder.softreg([&["sweep", "--device", "cpu"][..], arguments, &files].concat()).ok();
        assert!(run.stdout.lines().all(|line| line.chars().count() <= 80), "{}", run.stdout);
        let csv = String::from_utf8(folder.read("curve.csv")).unwrap();
        let rows: Vec<Vec<String>> = csv.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect();
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{csv}");
        (serde_json::from_slice::<Value>(&folder.read("curve.json")).unwrap(), rows, run)
    };
    let (record, csv, run) = of(&["--shots", "4,1,16", "--c", "1", "--seed", "5"]);
    let points = record["curve"].as_array().unwrap();
    assert_eq!(points.iter().map(|point| number(point, "shots")).collect::<Vec<_>>(), [1.0, 4.0, 16.0]);
    assert_eq!(points.iter().map(|point| number(point, "n_samples")).collect::<Vec<_>>(), [10.0, 40.0, 160.0]);
    assert_eq!((record["solver"].as_str(), number(&record, "n_seeds")), (Some("lbfgs"), 3.0));
    assert!(csv.len() == 4 && csv[0][0] == "shots" && csv[0][6] == "accuracy_of_seed_5", "{csv:?}");
    for (point, row) in points.iter().zip(&csv[1..]) {
        let draws = point["draws"].as_array().unwrap();
        assert_eq!(draws.iter().map(|draw| number(draw, "seed")).collect::<Vec<_>>(), [5.0, 6.0, 7.0]);
        assert!(draws.iter().all(|draw| (number(draw, "l2") * number(point, "n_samples") - 1.0).abs() < 1e-12));
        let in_json =
            ["test_accuracy", "test_accuracy_standard_deviation", "test_loss", "test_loss_standard_deviation"];
        let of_draws = draws.iter().flat_map(|draw| [number(draw, "test_accuracy"), number(draw, "test_loss")]);
        let expected: Vec<f64> = in_json.iter().map(|name| number(point, name)).chain(of_draws).collect();
        let found: Vec<f64> = row[2..].iter().map(|text| text.parse().unwrap()).collect();
        let is_near = |(found, expected): (&f64, &f64)| (found - expected).abs() < 1e-12;
        assert!(found.len() == expected.len() && found.iter().zip(&expected).all(is_near), "{found:?} {expected:?}");
        let shown = format!("{:.4} ± {:.4}", number(point, in_json[0]), number(point, in_json[1]));
        assert!(run.stdout.contains(&shown) && number(point, in_json[1]) > 0.0, "{shown}: {}", run.stdout);
    }
    assert!(
        run.stdout.contains("C = 1, so that l2 goes with 1/n") && run.stdout.contains("seeds 5 to 7"),
        "{}",
        run.stdout
    );

    // All samples are those of `softreg train`, whose penalty is that of a curve unless one is given.
    let (record, csv, run) = of(&["--fractions", "0.05,1", "--seeds", "2"]);
    assert!(csv[2][0] == "1" && run.stdout.contains("the fraction 1: all samples"), "{}", run.stdout);
    let trained = folder.softreg(["--device", "cpu", "--solver", "lbfgs", "--json", "-", "--quiet"]).ok().json();
    let whole = &record["curve"][1];
    assert_eq!((&whole["test_accuracy"], &whole["test_loss"]), (&trained["test_accuracy"], &trained["test_loss"]));
    assert_eq!((number(whole, "fraction"), number(whole, "test_loss_standard_deviation")), (1.0, 0.0));
    assert_ne!(record["curve"][0]["test_loss"], trained["test_loss"]);

    // Chosen for each subset; the largest of these penalties is the best of none, the smallest of some.
    let (record, _, run) = of(&["--shots", "8", "--c", "1e-4,1e-3,1", "--cv", "2", "--seeds", "1"]);
    let draw = &record["curve"][0]["draws"][0];
    assert!((number(draw, "c") - 1.0).abs() < 1e-12 && number(&record, "n_folds") == 2.0, "{record}");
    assert!(run.stdout.contains("1 of 1 at the highest C of the grid") && !run.stdout.contains('±'), "{}", run.stdout);
    assert!(record["curve"][0]["test_loss_standard_deviation"].is_null());
    let (record, _, run) =
        of(&["--shots", "2,20", "--solver", "sgd", "--epochs", "3", "--lr", "0.01,0.1", "--cv", "2"]);
    assert!(record["solver"] == "sgd" && run.stdout.contains(" lr\n"), "{}", run.stdout);
    let (record, ..) = of(&["--shots", "20", "--preset", "clip", "--seeds", "1"]);
    assert!(record["preset"] == "clip" && number(&record, "holdout") == 0.2);

    folder.write("two.csv", b"x,y\n1,a\n2,b\n3,a\n4,b\n");
    for (arguments, message) in [
        (&["--shots", "0"][..], "at least 1"),
        (&["--shots", "1,-2"], "at least 1"),
        (&["--shots", "1.5"], "whole number"),
        (&["--shots", ""], "at least 1"),
        (&["--shots", "1,,2"], "at least 1"),
        (&["--fractions", "0"], "above 0 and at most 1"),
        (&["--fractions", "0.5,1.01"], "above 0 and at most 1"),
        (&["--fractions", "-0.5"], "above 0 and at most 1"),
        (&["--fractions", "NaN"], "not a finite number"),
        (&["--fractions", "0.1", "--shots", "1"], "cannot be used with"),
        (&["--shots", "1", "--seeds", "0"], "at least 1"),
        (&["--shots", "1", "--out", "m"], "--out cannot be used with --fractions and --shots"),
        (&["--shots", "1", "--groups", "g"], "--groups cannot be used with --fractions and --shots"),
        (&["--shots", "1", "--preset", "dinov2-linear"], "--preset dinov2-linear and dinov3-linear cannot be used"),
        (&["--shots", "2", "--cv", "3"], "--cv chooses between several penalties"),
        (&["--shots", "2", "--c", "1", "--holdout", "0.5"], "--holdout chooses between several penalties"),
        (&["--shots", "1,2", "--c", "1,10"], "several penalties or learning rates at 1 shot"),
        (&["two.csv", "--label-column", "y", "--shots", "1"], "measured on test data: give it with --test"),
        (&["--shots", "4", "--lr", "1e30", "--epochs", "3"], "4 shots, seed 0: training diverged"),
    ] {
        let failed = folder.softreg([&["sweep"][..], arguments, &["--device", "cpu"]].concat());
        assert!(failed.status != Some(0) && failed.stderr.contains(message), "{message}: {}", failed.stderr);
    }
}

#[test]
fn presets_run_end_to_end() {
    let folder = Folder::new();
    for (preset, more, least, at_most) in [
        ("clip", &[][..], 11, 15),
        ("dino-logreg", &[], 45, 45),
        ("dinov2-linear", &["--epochs", "20"], 13, 13),
        ("dinov3-linear", &["--epochs", "20", "--lr", "0.001,0.01"], 2, 2),
    ] {
        let arguments = [&["sweep", "--device", "cpu", "--preset", preset, "--json", "s.json", "--out", "m"][..], more];
        // Pixels of 0..16, which a preset takes as they are.
        let run = folder.softreg(arguments.concat()).ok();
        let record: Value = serde_json::from_slice(&folder.read("s.json")).unwrap();
        let n_heads = record["n_heads"].as_u64().unwrap();
        assert!((least..=at_most).contains(&n_heads) && record["preset"] == preset, "{preset} {n_heads}");
        let best =
            record["candidates"].as_array().unwrap().iter().map(|candidate| number(candidate, "validation_accuracy"));
        assert_eq!(number(&record["chosen"], "validation_accuracy"), best.fold(0.0, f64::max), "{preset}");
        assert!(number(&record, "test_accuracy") > 0.93, "{preset}: {record}");
        assert!(run.stdout.lines().all(|line| line.chars().count() <= 80), "{}", run.stdout);
        // Of two learning rates each is an end; the best of the refined penalties is inside.
        assert!(
            run.stdout.contains("learning rate of the grid: others") || preset != "dinov3-linear",
            "{}",
            run.stdout
        );
        assert!(!run.stdout.contains("penalty of the grid"), "{}", run.stdout);
        let info = folder.softreg(["info", "m"]).ok();
        let solver = if preset.ends_with("linear") { "sgd" } else { "lbfgs" };
        assert!(info.stdout.contains(solver), "{}", info.stdout);
    }
}

/// Embeddings of length 1 are scaled for the learning rates of the linear presets, unless that is said otherwise.
#[test]
fn a_linear_preset_scales_rows_of_length_1() {
    let folder = Folder::new();
    let csv = |length: f64| {
        let row = |i: usize| {
            let angle = i as f64 * 0.37 + (i % 3) as f64;
            format!("{},{},{}\n", length * angle.cos(), length * angle.sin(), (angle.sin() > 0.0) as u8)
        };
        format!("a,b,y\n{}", (0..90).map(row).collect::<String>())
    };
    folder.write("unit.csv", csv(1.0));
    folder.write("other.csv", csv(1.5));
    let preset = ["--label-column", "y", "--device", "cpu", "--preset", "dinov3-linear", "--epochs", "3"];
    for (name, more, is_scaled) in
        [("unit.csv", &[][..], true), ("unit.csv", &["--feature-scale", "none"], false), ("other.csv", &[], false)]
    {
        let run = folder.softreg([&["sweep", name][..], &preset, more].concat()).ok();
        assert_eq!(run.stderr.contains("of length 1: times 1.414"), is_scaled, "{name} {more:?}: {}", run.stderr);
    }
}

#[test]
fn matrix_units_are_done_without_where_there_are_none() {
    let folder = Folder::new();
    let run = folder.softreg(["--device", "cpu", "--matrix-units", "--epochs", "3", "--json", "run.json"]).ok();
    let record: Value = serde_json::from_slice(&folder.read("run.json")).unwrap();
    assert_eq!(record["matrix_units"], false);
    assert_eq!(run.stderr.lines().filter(|line| *line == "no matrix units: cpu has none that suit").count(), 1);
    assert_eq!(record["train_loss"], digits(&folder, &[])["train_loss"]);
}

#[test]
fn without_test_data_there_are_no_test_figures() {
    let folder = Folder::new();
    folder.write("points.csv", points(60));
    let arguments = ["train", "points.csv", "--label-column", "species", "--device", "cpu"];
    let record = folder.softreg(arguments.iter().chain(&["--json", "-"])).ok().json();
    assert!(record["test_loss"].is_null() && record["test_accuracy"].is_null() && record["test_classes"].is_null());
    assert_eq!(record["n_samples"], 60);
    let report = folder.softreg(arguments).ok().stdout;
    assert!(!report.lines().any(|line| line.starts_with("test ")), "{report}");
    assert!(report.contains("long, comma") && report.contains("七"), "{report}");
}

#[test]
fn train_evaluate_predict_and_info_agree() {
    let folder = Folder::new();
    folder.write("points.csv", points(90));
    let train =
        ["train", "points.csv", "--label-column", "species", "--device", "cpu", "--out", "m", "--json", "t.json"];
    let report = folder.softreg(train).ok().stdout;
    assert!(report.contains("saved as m"), "{report}");
    let trained: Value = serde_json::from_slice(&folder.read("t.json")).unwrap();

    let evaluate = ["evaluate", "m", "points.csv", "--label-column", "species", "--device", "cpu"];
    let evaluated = folder.softreg(evaluate.iter().chain(&["--json", "-"])).ok().json();
    assert_eq!(evaluated["n_samples"], 90);
    assert_eq!(evaluated["accuracy"], trained["train_accuracy"]);
    // The model's weights have taken in the feature scale: the same figures to single precision.
    assert!((number(&evaluated, "log_loss") - number(&trained, "train_loss")).abs() < 1e-5);
    assert!(folder.softreg(evaluate).ok().stdout.contains("long, comma"));

    // The label column of the file is in the way of nothing.
    let predicted = folder.softreg(["predict", "m", "points.csv", "--device", "cpu"]).ok().stdout;
    let names: Vec<&str> = predicted.lines().collect();
    let truth = ["Ärmel", "long, comma", "七"];
    let correct = names.iter().enumerate().filter(|(i, name)| truth[i % 3] == **name).count();
    assert_eq!(names.len(), 90);
    assert_eq!(correct as f64 / 90.0, number(&evaluated, "accuracy"));
    assert!(correct > 80, "{correct}");

    let proba = ["predict", "m", "points.csv", "--device", "cpu", "--proba", "--out", "p.csv"];
    assert_eq!(folder.softreg(proba).ok().stdout, "");
    let mut csv = csv::Reader::from_path(folder.path("p.csv")).unwrap();
    assert_eq!(csv.headers().unwrap(), vec!["predicted", "long, comma", "Ärmel", "七"]);
    for (row, name) in csv.records().zip(&names) {
        let row = row.unwrap();
        let p: Vec<f64> = row.iter().skip(1).map(|p| p.parse().unwrap()).collect();
        let best = p.iter().position(|&x| p.iter().all(|&y| x >= y)).unwrap();
        assert_eq!((&row[0], ["long, comma", "Ärmel", "七"][best]), (*name, *name));
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{row:?}");
    }

    let info = folder.softreg(["info", "m"]).ok().stdout;
    for part in [
        "2 × 3",
        "long, comma, Ärmel, 七",
        "x, y",
        "lbfgs",
        "on cpu",
        "samples 90",
        "tolerance 1e-8",
        "format version 1",
    ] {
        assert!(info.contains(part), "{part} is not in\n{info}");
    }
    assert_eq!(folder.names(), ["m", "p.csv", "points.csv", "t.json"]);
}

#[test]
fn test_data_is_matched_by_the_names_of_columns_and_classes() {
    let folder = Folder::new();
    folder.write("train.csv", points(90));
    // The same columns in another order, and only the last two classes, so that their numbers differ.
    let mut test = String::from("species,extra,y,x\n");
    for i in 0..10 {
        test += &format!("\"long, comma\",9,0.{i},4.1\n七,9,4.{i},0.2\n");
    }
    folder.write("test.csv", test);
    let train = ["train", "train.csv", "--label-column", "species", "--device", "cpu", "--test"];
    let record = folder.softreg(train.iter().chain(&["test.csv", "--json", "-"])).ok().json();
    assert_eq!(record["n_test_samples"], 20);
    assert_eq!(number(&record, "test_accuracy"), 1.0);

    folder.write("other.csv", "species,y,x\n七,4,0\nunheard,4,0\n");
    let run = folder.softreg(train.iter().chain(&["other.csv"]));
    assert_eq!(run.status, Some(1));
    let error = run.stderr.lines().last().unwrap();
    assert!(["other.csv", "unheard", "row "].iter().all(|part| error.contains(part)), "{error}");
    assert!(!run.stderr.contains("epoch "), "it was found out after training: {}", run.stderr);
}

#[test]
fn images_and_labels_may_be_gzipped_and_one_class_alone_can_be_evaluated() {
    let folder = Folder::new();
    let classes: Vec<u8> = (0..80).map(|i| i % 4).collect();
    let (images, labels) = idx_images(&classes);
    folder.write("images.gz", gzip(&images));
    folder.write("labels", labels);
    let train = ["train", "images.gz", "--labels", "labels", "--test-split", "0.25", "--device", "cpu", "--out", "m"];
    let record = folder.softreg(train.iter().chain(&["--json", "-"])).ok().json();
    assert_eq!((record["n_samples"].as_u64(), record["n_test_samples"].as_u64()), (Some(60), Some(20)));
    assert_eq!(record["dtype"], "u8");
    assert_eq!(number(&record, "test_accuracy"), 1.0);

    let (images, labels) = idx_images(&[2; 5]);
    folder.write("twos", images);
    folder.write("twos-labels", labels);
    let evaluate = ["evaluate", "m", "twos", "--labels", "twos-labels", "--device", "cpu", "--json", "-"];
    let record = folder.softreg(evaluate).ok().json();
    assert_eq!((record["n_samples"].as_u64(), number(&record, "accuracy")), (Some(5), 1.0));
}

#[test]
fn the_seed_decides_the_model_and_the_split() {
    let folder = Folder::new();
    let train = |seed: &str, out: &str| digits(&folder, &["--seed", seed, "--out", out]);
    let (a, b, other) = (train("3", "a"), train("3", "b"), train("4", "c"));
    assert!(folder.read("a") == folder.read("b"));
    assert_eq!(a["test_loss"], b["test_loss"]);
    assert!(folder.read("a") != folder.read("c"));
    assert_ne!(a["test_classes"], other["test_classes"]);

    let half = digits(&folder, &["--test-split", "0.5"]);
    assert_eq!((half["n_samples"].as_u64(), half["n_test_samples"].as_u64()), (Some(898), Some(899)));
}

/// Two runs with one seed give equal model files, byte for byte, on each device.
#[cfg(feature = "gpu")]
#[test]
fn models_are_equal_to_the_byte_on_each_gpu() {
    for device in common::gpu_names() {
        let folder = Folder::new();
        let train = |seed: &str, out: &str| {
            let arguments =
                ["train", "--device", &*device, "--epochs", "3", "--seed", seed, "--out", out, "--json", "-"];
            folder.softreg(arguments).ok().json()
        };
        let (a, _, _) = (train("3", "a"), train("3", "b"), train("4", "c"));
        assert!(folder.read("a") == folder.read("b"), "{device}");
        assert!(folder.read("a") != folder.read("c"), "{device}");
        // The same steps as on the CPU, rounded in another way.
        let on_cpu = digits(&folder, &["--seed", "3", "--out", "cpu"]);
        assert!(folder.read("a") != folder.read("cpu"), "{device}");
        let ratio = number(&a, "train_loss") / number(&on_cpu, "train_loss");
        assert!((ratio - 1.0).abs() < 1e-4, "{device}: {ratio}");
        assert!((number(&a, "test_accuracy") - number(&on_cpu, "test_accuracy")).abs() <= 0.01, "{device}");
    }
}

#[test]
fn json_to_standard_output_is_alone_there() {
    let folder = Folder::new();
    let run = folder.softreg(["train", "--device", "cpu", "--epochs", "2", "--json", "-"]).ok();
    run.json();
    assert_eq!(run.stdout.lines().count(), 1);
    assert!(run.stderr.contains("accuracy") && run.stderr.contains("epoch "), "{}", run.stderr);
}

#[test]
fn usage_errors_have_status_2_and_name_the_flag() {
    let folder = Folder::new();
    folder.write("x.csv", points(30));
    let cases: &[(&[&str], &str)] = &[
        (&["train", "--epochs", "0"], "--epochs"),
        (&["train", "--batch-size", "0"], "--batch-size"),
        (&["train", "--lr", "-1"], "--lr"),
        (&["train", "--lr", "NaN"], "--lr"),
        (&["train", "--momentum", "1"], "--momentum"),
        (&["train", "--l2", "-0.1"], "--l2"),
        (&["train", "--l2", "inf"], "--l2"),
        (&["train", "--c", "0"], "--c"),
        (&["train", "--c", "1", "--l2", "1"], "cannot be used with"),
        (&["train", "--test-split", "1"], "--test-split"),
        (&["train", "--feature-scale", "0"], "--feature-scale"),
        (&["train", "--solver", "magic"], "--solver"),
        (&["train", "--seed", "x"], "--seed"),
        (&["--epochs", "0"], "--epochs"),
        (&["train", "--labels", "y.txt"], "FEATURES"),
        (&["train", "--label-column", "y"], "FEATURES"),
        (&["train", "--test", "x.csv"], "FEATURES"),
        (&["train", "x.csv", "--test-labels", "y"], "--test"),
        (&["train", "x.csv", "--labels", "y", "--label-column", "z"], "--label-column"),
        (&["train", "x.csv", "--test", "x.csv", "--test-split", "0.2"], "--test-split"),
        (&["evaluate", "m"], "FEATURES"),
        (&["predict"], "MODEL"),
        (&["frobnicate"], "frobnicate"),
    ];
    for (arguments, named) in cases {
        let run = folder.softreg(*arguments);
        assert_eq!((run.status, &*run.stdout), (Some(2), ""), "{arguments:?}: {run:#?}");
        assert!(run.stderr.contains(named), "{arguments:?}: {}", run.stderr);
    }
    assert_eq!(folder.names(), ["x.csv"]);
}

#[test]
fn help_and_version_are_results() {
    let folder = Folder::new();
    for arguments in [&["--help"][..], &["train", "--help"], &["predict", "-h"], &["--version"], &["help", "evaluate"]]
    {
        let run = folder.softreg(arguments).ok();
        assert!(!run.stdout.is_empty() && run.stderr.is_empty(), "{arguments:?}: {run:#?}");
    }
}

#[test]
fn the_examples_of_the_help_are_accepted() {
    let folder = Folder::new();
    folder.write("flowers.csv", points(60));
    for name in ["new.csv", "other.csv"] {
        folder.write(name, points(30));
    }
    let classes: Vec<u8> = (0..40).map(|i| i % 4).collect();
    let (images, labels) = idx_images(&classes);
    folder.write("images.idx3.gz", gzip(&images));
    folder.write("labels.idx1.gz", gzip(&labels));
    let mut n_examples = 0;
    for help in [&["--help"][..], &["train", "--help"], &["predict", "--help"]] {
        let text = folder.softreg(help).ok().stdout;
        let (_, examples) = text.split_once("Examples:").unwrap();
        for line in examples.replace("\\\n", " ").lines().filter(|line| line.starts_with("  softreg")) {
            let arguments: Vec<&str> = line.split_whitespace().skip(1).collect();
            // There is no .npy file here; the readers' tests have them.
            if !arguments.contains(&"x.npy") {
                folder.softreg(arguments).ok();
                n_examples += 1;
            }
        }
    }
    assert!(n_examples >= 8, "{n_examples}");
}

#[test]
fn a_file_alone_is_trained_on() {
    let folder = Folder::new();
    folder.write("points.csv", points(60));
    let run = folder.softreg(["points.csv", "--label-column", "species", "--device", "cpu", "-q"]).ok();
    assert!(run.stdout.contains("training"), "{}", run.stdout);
    // But a command is a command.
    folder.write("devices", points(60));
    folder.write("help", points(60));
    assert!(folder.softreg(["devices"]).ok().stdout.contains("--device auto"));
    assert!(folder.softreg(["help"]).ok().stdout.contains("Usage"));
}

#[test]
fn labels_that_may_be_none_are_warned_of() {
    let folder = Folder::new();
    let rows: String = (0..20).map(|i| format!("{i},{}.25\n", 3 * i)).collect();
    folder.write("prices.csv", format!("x,price\n{rows}"));
    let run = folder.softreg(["prices.csv", "--label-column", "price", "--device", "cpu", "--epochs", "1"]).ok();
    assert!(run.stderr.contains("warning: 20 classes in 20 samples"), "{}", run.stderr);
    folder.write("points.csv", points(60));
    let run = folder.softreg(["points.csv", "--label-column", "species", "--device", "cpu"]).ok();
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
}

#[test]
fn devices_lists_the_cpu_and_marks_one() {
    let run = Folder::new().softreg(["devices"]).ok();
    let cpu = |line: &str| line.split_whitespace().any(|word| word == "cpu");
    assert!(run.stdout.lines().skip(1).any(cpu), "{}", run.stdout);
    let (table, explanation) = run.stdout.split_once("\n\n").unwrap();
    assert_eq!(table.lines().filter(|line| line.starts_with('*')).count(), 1, "{table}");
    assert!(explanation.starts_with("* "), "{explanation}");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let folder = Folder::new();
    folder.write("points.csv", points(9));
    folder.softreg(["train", "points.csv", "--label-column", "species", "--device", "cpu", "--out", "m"]).ok();
    // Far more than a pipe holds.
    folder.write("many.csv", points(60_000));
    for more in [&[][..], &["--proba"]] {
        let mut child = folder
            .command()
            .args(["predict", "m", "many.csv", "--device", "cpu"])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 8];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_that_says_so() {
    let folder = Folder::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = folder.command().args(["devices"]).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.starts_with("error: cannot write to standard output: "), "{error}");
}

#[cfg(unix)]
#[test]
fn a_device_file_is_written_to_and_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let folder = Folder::new();
    folder.softreg(["train", "--device", "cpu", "--epochs", "1", "--json", "/dev/null"]).ok();
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[test]
fn bench_compares_devices_and_says_what_it_measured() {
    let folder = Folder::new();
    let arguments = ["bench", "--shape", "500,40,3", "--batch", "100", "--devices", "cpu", "--seconds", "0.01"];
    let run = folder.softreg(arguments.iter().chain(&["--dtype", "u8", "--json", "bench.json"])).ok();
    assert!(run.stdout.starts_with("500 × 40 × 3, u8, batches of 100\n"), "{}", run.stdout);
    assert!(run.stdout.contains("multiplies and adds") && run.stdout.contains("GFLOP/s"), "{}", run.stdout);
    let record: Value = serde_json::from_slice(&folder.read("bench.json")).unwrap();
    let device = &record["comparisons"][0]["devices"][0];
    let epochs = device["seconds_epochs"].as_array().unwrap();
    assert!(epochs.len() >= 3 && epochs.iter().all(|time| time.as_f64().unwrap() > 0.0), "{device}");
    assert_eq!(number(device, "speed_up_over_cpu"), 1.0);
    // 2·500·40·3 multiplications and additions, each of the two products.
    let flops = number(device, "flops") * number(device, "seconds_epoch");
    assert!((flops - 4.0 * 500.0 * 40.0 * 3.0).abs() < 1.0, "{flops}");
    assert!(number(device, "share_of_fma") < 1.0 && number(device, "max_read_bytes_per_second") > 1e8, "{device}");

    for shape in ["10,3,18446744073709551615", "5000000000,2,2", "10,18446744073709551615,3"] {
        let run = folder.softreg(["bench", "--devices", "cpu", "--shape", shape]);
        assert!(
            matches!(run.status, Some(1 | 2)) && run.stderr.lines().any(|line| line.starts_with("error: ")),
            "{run:?}"
        );
    }
    let run = folder.softreg(["bench", "--shape", "500,40"]);
    assert_eq!(run.status, Some(2));
    assert!(run.stderr.contains("samples,features,classes"), "{}", run.stderr);
    let run = folder.softreg(arguments.iter().chain(&["--tune", "--seconds", "1e300", "--batch", "9999999"])).status;
    assert_eq!(run, Some(2), "--seconds twice");
    let run = folder.softreg(["bench", "--shape", "50,40,3", "--devices", "cpu", "--tune", "--batch", "9999999"]).ok();
    assert!(run.stderr.contains("nothing to tune"), "{}", run.stderr);
    let run = folder.softreg(["bench", "--devices", "cpu,nothing-of-that-name"]);
    assert!(run.status == Some(1) && run.stderr.contains("nothing-of-that-name"), "{}", run.stderr);
}

/// What is kept of a GPU makes no difference but to the time, also where it is damaged or cannot be written.
#[test]
fn a_cache_changes_no_result() {
    let Some(gpu) = softreg::Device::list().into_iter().find(|info| info.backend != "cpu") else {
        assert!(
            std::env::var_os("SOFTREG_REQUIRE_GPU").is_none(),
            "SOFTREG_REQUIRE_GPU is set, but there is no adapter"
        );
        eprintln!("skipped: there is no adapter for Vulkan, Metal or DX12");
        return;
    };
    let folder = Folder::new();
    let model = |cache: &std::path::Path| {
        let mut command = folder.command();
        command.env("SOFTREG_CACHE", cache).args(["train", "--epochs", "2", "--quiet", "--out", "m.safetensors"]);
        let output = command.args(["--device", &gpu.name, "--json", "run.json"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let record: Value = serde_json::from_slice(&folder.read("run.json")).unwrap();
        let (startup, total) = (number(&record, "seconds_startup"), number(&record, "seconds_total"));
        assert!(startup > 0.0 && startup < total, "{startup} of {total}");
        folder.read("m.safetensors")
    };
    let cache = folder.path("cache");
    let without = model(std::path::Path::new(""));
    assert!(!cache.exists());
    assert!(model(&cache) == without);
    let files: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    let notes = files.iter().find(|path| path.extension().is_some_and(|extension| extension == "json")).unwrap();
    assert!(std::fs::read_to_string(notes).unwrap().contains("\"passed_self_check\":true"));
    // A second run has nothing new to keep.
    let times = || files.iter().map(|file| std::fs::metadata(file).unwrap().modified().unwrap()).collect::<Vec<_>>();
    let before = times();
    assert!(model(&cache) == without);
    assert!(std::fs::read_dir(&cache).unwrap().count() == files.len() && times() == before);
    for file in &files {
        std::fs::write(file, b"{\"passed_self_check\": 7, damaged").unwrap();
    }
    assert!(model(&cache) == without);
    // A file where the folder should be.
    assert!(model(&folder.path("run.json")) == without);
}

#[test]
fn weights_smoothing_and_information_are_reported() {
    let folder = Folder::new();
    folder.write("points.csv", points(90));
    let weights: Vec<String> = (0..90).map(|i| (i % 4).to_string()).collect();
    folder.write("w.txt", weights.join("\n"));
    let mut weighted = String::new();
    for (line, weight) in points(90).lines().zip(std::iter::once("weight").chain(weights.iter().map(String::as_str))) {
        weighted += &format!("{line},{weight}\n");
    }
    folder.write("weighted.csv", weighted);
    let common = ["--label-column", "species", "--device", "cpu", "--class-weight", "long, comma=2,七=0.5"];
    let train = |more: &[&str]| {
        let run =
            folder.softreg([&["train"], more, &common, &["--label-smoothing", "0.1", "--json", "-"]].concat()).ok();
        assert!(run.stderr.contains("3 classes, weighted"), "{}", run.stderr);
        run.json()
    };
    let by_file = train(&["points.csv", "--sample-weight", "w.txt", "--out", "m"]);
    let by_column = train(&["weighted.csv", "--weight-column", "weight"]);
    assert_eq!(by_file["train_loss"], by_column["train_loss"]);
    assert_eq!((&by_file["sample_weight"], &by_column["sample_weight"]), (&"w.txt".into(), &"weight".into()));
    assert_eq!((number(&by_file, "label_smoothing"), &by_file["class_weight"]["七"]), (0.1, &0.5.into()));
    assert!(number(&by_file, "objective") > number(&by_file, "train_loss"));
    assert_eq!((by_file["n_features"].as_u64(), by_column["n_features"].as_u64()), (Some(2), Some(2)));
    let info = folder.softreg(["info", "m"]).ok().stdout;
    assert!(info.contains("label smoothing 0.1"), "{info}");

    let evaluate = ["evaluate", "m", "weighted.csv", "--label-column", "species", "--weight-column", "weight"];
    let evaluate = [&evaluate[..], &["--device", "cpu", "--top-k", "2"]].concat();
    let record = folder.softreg(evaluate.iter().chain(&["--json", "-"])).ok().json();
    let information = &record["information"];
    let nats = |key: &str| number(&information[key], "nats");
    assert!((nats("cross_entropy") - number(&by_file, "train_loss")).abs() < 1e-5);
    assert!((nats("label_entropy") - nats("cross_entropy") - nats("mutual_information")).abs() < 1e-9);
    assert!((number(&information["cross_entropy"], "bits") * 2f64.ln() - nats("cross_entropy")).abs() < 1e-12);
    assert_eq!((nats("target_entropy"), nats("kl_divergence")), (0.0, nats("cross_entropy")));
    assert!((number(information, "perplexity") - nats("cross_entropy").exp()).abs() < 1e-9);
    assert_eq!(information["top_k"], 2);
    assert!(number(information, "top_k_accuracy") >= number(&record, "accuracy"));
    assert!(number(information, "brier_score") > 0.0 && number(information, "calibration_error") > 0.0);
    let report = folder.softreg(evaluate).ok().stdout;
    for part in ["information", "cross-entropy", "captured", "top-2 accuracy", "Brier score", "calibration error"] {
        assert!(report.contains(part), "{part} is not in\n{report}");
    }
    assert!(report.lines().all(|line| line.chars().count() <= 80), "{report}");

    // A class that is named and has no sample.
    folder.write("names", "Ärmel\nlong, comma\n七\nnone\n");
    let run = folder.softreg(
        ["train", "points.csv", "--label-column", "species", "--device", "cpu", "--classes", "names", "--class-weight"]
            .iter()
            .chain(&["balanced"]),
    );
    assert!(run.ok().stderr.contains("class \"none\" has no sample in the training data"));
}

#[test]
fn solvers_schedules_and_what_ends_a_training_are_reported() {
    let folder = Folder::new();
    let adamw =
        ["--solver", "adamw", "--schedule", "cosine", "--warmup", "0.5", "--weight-decay", "0.01", "--beta2", "0.99"];
    let record = digits(&folder, &[&adamw[..], &["--no-intercept"]].concat());
    assert_eq!((&record["solver"], &record["schedule"]), (&"adamw".into(), &"cosine".into()));
    assert_eq!((number(&record, "beta_1"), number(&record, "beta_2"), number(&record, "warmup")), (0.9, 0.99, 0.5));
    assert_eq!((number(&record, "weight_decay"), &record["momentum"]), (0.01, &Value::Null));
    assert_eq!((&record["reason"], &record["intercept"]), (&"epochs".into(), &false.into()));
    assert_eq!(record["best_epoch"], Value::Null);

    let plain = digits(&folder, &["--no-nesterov", "--momentum", "0.5"]);
    assert_eq!((&plain["nesterov"], number(&plain, "momentum")), (&false.into(), 0.5));
    assert_ne!(plain["epoch_losses"], digits(&folder, &["--momentum", "0.5"])["epoch_losses"]);

    let early =
        ["--epochs", "500", "--schedule", "constant", "--l2", "0", "--validation-split", "0.2", "--patience", "3"];
    let mut arguments = vec!["train", "--device", "cpu", "--json", "run.json", "--out", "m.safetensors"];
    arguments.extend(early);
    let run = folder.softreg(&arguments).ok();
    let record: Value = serde_json::from_slice(&folder.read("run.json")).unwrap();
    assert_eq!(record["reason"], "early stopping");
    let (epochs, best) = (number(&record, "epochs"), number(&record, "best_epoch"));
    assert_eq!(epochs, best + 3.0);
    let losses: Vec<f64> =
        record["validation_losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
    assert_eq!((losses.len() as f64, losses[best as usize - 1]), (epochs, number(&record, "validation_loss")));
    assert_eq!(number(&record, "n_samples") + number(&record, "n_validation_samples"), 1438.0);
    assert!(run.stdout.contains("stopped    early stopping\n"), "{}", run.stdout);
    assert!(run.stdout.contains(&format!("weights    of epoch {best},")), "{}", run.stdout);
    assert!(run.stdout.contains("validation") && run.stderr.contains("  validation 0."), "{run:?}");
    assert!(run.stdout.lines().all(|line| line.chars().count() <= 80), "{}", run.stdout);

    let limited = digits(&folder, &["--time-limit", "1e-9"]);
    assert_eq!((&limited["reason"], number(&limited, "epochs")), (&"time limit".into(), 1.0));

    let warm = digits(&folder, &["--init", "m.safetensors"]);
    assert_eq!(warm["init"], "m.safetensors");
    let first = |record: &Value| record["epoch_losses"][0].as_f64().unwrap();
    assert!(first(&warm) < 0.5 * first(&limited), "{} {}", first(&warm), first(&limited));
}

#[test]
fn validation_data_and_a_start_are_matched_by_names() {
    let folder = Folder::new();
    folder.write("data.csv", points(90));
    folder.write("more.csv", points(30));
    let arguments = ["train", "data.csv", "--label-column", "species", "--device", "cpu", "--quiet", "--json", "-"];
    let train = |more: &[&str]| folder.softreg(arguments.iter().chain(more)).ok().json();
    let validated = train(&["--validation", "more.csv", "--out", "m.safetensors"]);
    assert_eq!(number(&validated, "n_validation_samples"), 30.0);

    // Columns in another order, one more than the model knows, and a class that it does not know.
    let mut csv = String::from("w,y,species,x\n");
    for i in 0..30 {
        csv += &format!("7,{},{},{}\n", 4 + i % 2, ["new", "七"][i % 2], [4.0, 0.0][i % 2]);
    }
    folder.write("data.csv", csv);
    let warm = train(&["--init", "m.safetensors", "--out", "n.safetensors", "--test", "more.csv"]);
    assert_eq!((number(&warm, "n_classes"), number(&warm, "n_features")), (4.0, 2.0));
    let classes: Vec<_> = warm["test_classes"].as_array().unwrap().iter().map(|class| &class["class"]).collect();
    assert_eq!(classes.last().unwrap().as_str(), Some("new"));
    let info = folder.softreg(["info", "n.safetensors"]).ok();
    assert!(info.stdout.contains("new"), "{}", info.stdout);
}

#[test]
fn options_that_do_not_go_together_are_wrong_usage() {
    let folder = Folder::new();
    for (arguments, part) in [
        (&["--weight-decay", "0.1"][..], "--weight-decay is an option of --solver adamw"),
        (&["--solver", "adamw", "--momentum", "0.5"], "--momentum is an option of --solver sgd"),
        (&["--solver", "adam"], "adamw"),
        (&["--schedule", "exponential"], "step:FACTOR:EPOCHS"),
        (&["--schedule", "step:2:1"], "step:FACTOR:EPOCHS"),
        (&["--validation-split", "0.1", "--patience", "0"], "at least 1"),
        (&["--patience", "3"], "--validation"),
        (&["--validation-split", "1"], "below 1"),
        (&["--time-limit", "0"], "above 0"),
        (&["--time-limit", "1e300"], "too large"),
        (&["--beta2", "1"], "below 1"),
        (&["--warmup", "-1"], "at least 0"),
    ] {
        let run = folder.softreg([&["train", "--device", "cpu"], arguments].concat());
        assert_eq!(run.status, Some(2), "{run:#?}");
        assert!(run.stderr.contains(part), "{part:?} is not in {}", run.stderr);
    }
}

/// svmlight data of three classes, each with a high value of its own; `first` is the index of the first feature.
fn svmlight(first: usize, features: &[usize], n: usize) -> String {
    let mut lines = String::new();
    for i in 0..n {
        let class = features[i % features.len()];
        lines += &class.to_string();
        for &feature in features {
            let value = if feature == class { 4.0 } else { 0.1 } + (i * 7 % 5) as f64 / 10.0;
            lines += &format!(" {}:{value}", first + feature);
        }
        lines += "\n";
    }
    lines
}

#[test]
fn svmlight_has_its_labels_and_a_model_knows_how_its_indices_count() {
    for first in [0, 1] {
        let folder = Folder::new();
        folder.write("train.svm", gzip(svmlight(first, &[0, 1, 2], 60).as_bytes()));
        // Without the first feature, so that nothing tells how the indices count, and without the last.
        folder.write("test.svm", svmlight(first, &[1], 10));
        folder.write("both.svm", svmlight(first, &[1, 2], 10));
        let train = ["train", "train.svm", "--device", "cpu", "--test", "test.svm", "--out", "m", "--json", "-"];
        let record = folder.softreg(train).ok().json();
        assert_eq!((number(&record, "n_features"), number(&record, "n_classes")), (3.0, 3.0));
        assert_eq!(number(&record, "test_accuracy"), 1.0);
        let accuracy = |more: &[&str]| {
            let evaluate = ["evaluate", "m", "both.svm", "--device", "cpu", "--json", "-"];
            number(&folder.softreg(evaluate.iter().chain(more)).ok().json(), "accuracy")
        };
        assert_eq!(accuracy(&[]), 1.0);
        if first == 0 {
            // Counted in the other way, every value is that of the feature before.
            assert_eq!(accuracy(&["--zero-based", "false"]), 0.0);
        }
        let predicted = folder.softreg(["predict", "m", "both.svm", "--device", "cpu"]).ok().stdout;
        assert_eq!(predicted.lines().take(4).collect::<Vec<_>>(), ["1", "2", "1", "2"]);
        folder.write("wide.svm", "0 5:1\n");
        let wide = folder.softreg(["predict", "m", "wide.svm", "--device", "cpu"]);
        assert_eq!(wide.status, Some(1));
        assert!(
            wide.stderr.contains("wide.svm, row 1: its highest index is 5, but with 3 features"),
            "{}",
            wide.stderr
        );
    }
}

#[test]
fn a_column_of_text_becomes_features_on_request() {
    let folder = Folder::new();
    let rows: String =
        (0..60).map(|i| format!("{};{};{}\n", ["red", "green"][i % 2], i % 7, ["a", "b"][i % 2])).collect();
    folder.write("train.csv", format!("color;x;kind\n{rows}"));
    folder.write("new.csv", "x,color\n1,green\n2,red\n3,green\n");
    let train = ["train", "train.csv", "--label-column", "kind", "--device", "cpu", "--out", "m"];
    let refused = folder.softreg(train);
    assert_eq!(refused.status, Some(1));
    assert!(
        refused.stderr.contains("\"red\" is not a number") && refused.stderr.contains("--categorical"),
        "{refused:?}"
    );
    for categorical in ["auto", "color"] {
        let run = folder.softreg(train.iter().chain(&["--categorical", categorical])).ok();
        assert!(run.stderr.contains("color: a feature for each category"), "{}", run.stderr);
        let info = folder.softreg(["info", "m"]).ok().stdout;
        assert!(info.contains("3: color=green, color=red, x"), "{info}");
        let predict = ["predict", "m", "new.csv", "--device", "cpu"];
        assert_eq!(folder.softreg(predict).ok().stdout, "b\na\nb\n");
    }
    folder.write("other.csv", "x,color\n1,green\n2,blue\n");
    let predict = ["predict", "m", "other.csv", "--device", "cpu"];
    let unknown = folder.softreg(predict);
    assert_eq!(unknown.status, Some(1));
    let parts = ["other.csv, row 2", "column 2 (color)", "\"blue\"", "\"green\", \"red\"", "--ignore-unknown"];
    assert!(parts.iter().all(|part| unknown.stderr.contains(part)), "{}", unknown.stderr);
    assert_eq!(folder.softreg(predict.iter().chain(&["--ignore-unknown"])).ok().stdout.lines().count(), 2);
}

#[test]
fn c_is_a_penalty_by_the_samples_trained_on() {
    let folder = Folder::new();
    let of = |split: &str| {
        let options = ["--c", "2", "--validation-split", split, "--max-iterations", "2", "--json", "-"];
        let run = folder.softreg([&["train", "--device", "cpu", "--test-split", "0.1"][..], &options].concat()).ok();
        assert!(run.stderr.contains("C 2, l2 "), "{}", run.stderr);
        let record = run.json();
        assert!((number(&record, "l2") * 2.0 * number(&record, "n_samples") - 1.0).abs() < 1e-12, "{record}");
        assert_eq!(number(&record, "c"), 2.0);
        number(&record, "n_samples")
    };
    assert!(of("0.5") < of("0.1"));
}
