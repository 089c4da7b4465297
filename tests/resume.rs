//! Trainings that are interrupted: by a kill at any moment, by Ctrl-C, by a full disk. Each goes on to the same bytes.
#![cfg(feature = "cli")]

#[path = "common/program.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod program;

use std::process::Stdio;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use program::{Folder, Run};

/// Runs of a fraction of a second that save very often.
const RUNS: [&[&str]; 6] = [
    &["--solver", "sgd", "--epochs", "150", "--batch-size", "64", "--checkpoint-every", "1"],
    &[
        "--solver",
        "adamw",
        "--epochs",
        "60",
        "--validation-split",
        "0.2",
        "--patience",
        "50",
        "--checkpoint-every",
        "3",
    ],
    &["--solver", "sgd", "--epochs", "150", "--class-weight", "balanced", "--checkpoint-every", "0.005s"],
    &["--solver", "lbfgs", "--tolerance", "1e-12", "--l2", "1e-7", "--checkpoint-every", "3"],
    &["--solver", "newton-cg", "--tolerance", "1e-12", "--l2", "1e-7", "--checkpoint-every", "1"],
    &["--solver", "lbfgs", "--tolerance", "1e-10", "--l1", "1e-4", "--checkpoint-every", "4"],
];

/// Kills of each of them, unless SOFTREG_KILLS says how many.
const KILLS: usize = 7;

/// `softreg train … --out model`, with checkpoints.
fn arguments<'a>(of_run: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    let all = ["train", "--device", "cpu", "--out", "model", "--checkpoint", "checkpoint"];
    all.iter().chain(of_run).chain(more).copied().collect()
}

/// Times that differ from one test run to the next; the seed is told, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("SOFTREG_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = seed.unwrap_or(now);
        eprintln!("SOFTREG_SEED={seed}");
        Self(seed)
    }

    /// At least 0 and below 1 (SplitMix64).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[test]
fn a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bytes() {
    let mut random = Random::new();
    let kills = std::env::var("SOFTREG_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    for of_run in RUNS {
        let at_once = Folder::new();
        let begin = Instant::now();
        at_once.softreg(arguments(of_run, &[])).ok();
        let time = begin.elapsed();
        let expected = at_once.read("model");
        // A stochastic solver without checkpoints comes to the same.
        if of_run[1] == "sgd" || of_run[1] == "adamw" {
            let without = Folder::new();
            let n = of_run.len() - 2;
            without.softreg(["train", "--device", "cpu", "--out", "model"].iter().chain(&of_run[..n])).ok();
            assert!(without.read("model") == expected, "{of_run:?}");
        }

        let (mut n_kills, mut n_resumed) = (0, 0);
        while n_kills < kills {
            let folder = Folder::new();
            let mut command = folder.command();
            command.args(arguments(of_run, &["--resume"])).stdout(Stdio::null()).stderr(Stdio::null());
            // Several kills of one run, until it comes to its end.
            loop {
                let mut child = command.spawn().unwrap();
                std::thread::sleep(time.mul_f64(random.next()));
                child.kill().unwrap();
                if child.wait().unwrap().success() {
                    break;
                }
                n_kills += 1;
                n_resumed += usize::from(folder.names().iter().any(|name| name == "checkpoint"));
                if n_kills % 3 == 0 {
                    folder.softreg(arguments(of_run, &["--resume"])).ok();
                    break;
                }
            }
            assert!(folder.read("model") == expected, "{of_run:?}, after {n_kills} kills");
        }
        eprintln!("{of_run:?}: {n_kills} kills, {n_resumed} with a checkpoint to go on from");
        assert!(n_resumed > 0);
    }
}

/// A run with other settings or data does not go on, and says what differs; nor does one from a damaged file.
#[test]
fn a_checkpoint_of_another_run_is_refused_by_name() {
    let folder = Folder::new();
    let run = |more: &[&str]| folder.softreg(arguments(&["--solver", "sgd", "--checkpoint-every", "2"], more));
    run(&["--epochs", "5"]).ok();
    run(&["--epochs", "5", "--resume"]).ok();
    let whole = folder.read("checkpoint");
    let refused = |run: Run, what: &str| {
        assert_eq!(run.status, Some(1), "{run:#?}");
        assert!(run.stderr.contains("another run") && run.stderr.contains(what), "{what}: {}", run.stderr);
    };
    refused(run(&["--epochs", "6", "--resume"]), "epochs is 6 here and 5 there");
    let with = |more: &[&str]| run(&[&["--epochs", "5", "--resume"], more].concat());
    refused(with(&["--l2", "0.001"]), "l2 is 0.001 here and 0.00001 there");
    refused(with(&["--momentum", "0.5"]), "momentum is 0.5 here and 0.9 there");
    refused(with(&["--batch-size", "50"]), "batch_size is 50 here and 128 there");
    refused(with(&["--lr", "0.5"]), "learning_rate is 0.5 here and null there");
    refused(with(&["--test-split", "0.3"]), "n_samples is 1258 here and 1438 there");
    refused(with(&["--validation-split", "0.3"]), "the hash of the validation data");
    // The split follows the seed, and with it the data.
    refused(with(&["--seed", "1"]), "seed is 1 here and 0 there");
    assert_eq!(folder.read("checkpoint"), whole);
    // When to stop is no part of what a run is.
    with(&["--time-limit", "1000"]).ok();

    for (name, bytes, what) in [
        ("cut", &whole[..whole.len() - 1], "damaged"),
        ("short", &whole[..5], "not a checkpoint"),
        ("model", &folder.read("model"), "not a checkpoint"),
        ("empty", b"", "not a checkpoint"),
    ] {
        folder.write(name, bytes);
        let resume = format!("--resume={name}");
        let run = folder.softreg(["train", "--device", "cpu", "--solver", "sgd", "--epochs", "5", &resume]);
        assert!(run.status == Some(1) && run.stderr.contains(what), "{name}: {run:#?}");
    }
    // A file that is named must be there; without a name it may still come.
    let run = folder.softreg(["train", "--device", "cpu", "--resume=missing"]);
    assert!(run.status == Some(1) && run.stderr.contains("cannot read missing"), "{run:#?}");
    let run = folder.softreg(["train", "--device", "cpu", "--resume"]);
    assert!(run.status == Some(1) && run.stderr.contains("--checkpoint FILE"), "{run:#?}");
}

/// Lets the program heed Ctrl-C, also where these tests run in the background of a script, which ignores it.
#[cfg(unix)]
fn with_ctrl_c(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    unsafe extern "C" {
        fn signal(number: i32, handler: usize) -> usize;
    }
    const SIGINT: i32 = 2;
    const DEFAULT: usize = 0;
    // SAFETY: between fork and exec only a call that may be made there.
    unsafe {
        command.pre_exec(|| {
            signal(SIGINT, DEFAULT);
            Ok(())
        });
    }
}

/// Ctrl-C saves where the training stands and says how to go on; what it says comes to the bytes of a run in one go.
#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let epochs = ["--solver", "sgd", "--epochs", "40000", "--batch-size", "32"];
    let at_once = Folder::new();
    at_once.softreg(["train", "--device", "cpu", "--out", "model"].iter().chain(&epochs)).ok();
    for (has_checkpoint, every) in [(true, "1h"), (true, "1"), (false, "")] {
        let folder = Folder::new();
        let mut command = folder.command();
        command.args(["train", "--device", "cpu", "--out", "model"]).args(epochs);
        if has_checkpoint {
            command.args(["--checkpoint", "where it stands", "--checkpoint-every", every]);
        }
        with_ctrl_c(&mut command);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
        if !has_checkpoint {
            assert!(stderr.contains("nothing was saved") && folder.names().is_empty(), "{stderr}");
            continue;
        }
        assert_eq!(folder.names(), ["where it stands"]);
        let line = stderr.lines().last().unwrap().trim();
        assert!(line.contains("--checkpoint 'where it stands'") && line.ends_with(" --resume"), "{stderr}");
        let resumed =
            std::process::Command::new("sh").args(["-c", line]).current_dir(folder.path("")).output().unwrap();
        assert!(resumed.status.success(), "{line}: {resumed:?}");
        assert!(folder.read("model") == at_once.read("model"), "{stderr}");
    }
}

/// A disk that is full while a checkpoint or the model is saved costs neither the older file nor the training.
#[cfg(unix)]
#[test]
fn a_full_disk_keeps_the_older_files() {
    let folder = Folder::new();
    folder.softreg(arguments(&["--solver", "sgd", "--epochs", "6", "--checkpoint-every", "5"], &[])).ok();
    let (checkpoint, model) = (folder.read("checkpoint"), folder.read("model"));
    // No file may become longer than a block, of 512 or 1,024 bytes.
    let limited = |arguments: &str| {
        let program = env!("CARGO_BIN_EXE_softreg");
        let script = format!("trap '' XFSZ; ulimit -f 1; exec '{program}' {arguments}");
        let output =
            std::process::Command::new("sh").args(["-c", &script]).current_dir(folder.path("")).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let run = "train --device cpu --solver sgd --epochs 6 --checkpoint checkpoint --checkpoint-every 1 --resume";
    let (status, stderr) = limited(&format!("{run} --out model"));
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("error: cannot write model"), "{stderr}");
    let (status, stderr) =
        limited("train --device cpu --solver sgd --epochs 6 --checkpoint checkpoint --checkpoint-every 1");
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("warning: no checkpoint after epoch 1: cannot write checkpoint"), "{stderr}");
    assert!(folder.read("checkpoint") == checkpoint && folder.read("model") == model);
    assert_eq!(folder.names(), ["checkpoint", "model"]);
    folder.softreg(arguments(&["--solver", "sgd", "--epochs", "6", "--checkpoint-every", "5"], &["--resume"])).ok();
    assert!(folder.read("model") == model);
}
