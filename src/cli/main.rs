//! The command line: reads arguments, calls the library, and writes results to standard output and everything else to
//! standard error. What it does with the library is a few calls; nothing here computes.

mod args;
mod bench;
mod calibrate;
mod convert;
mod curve;
mod devices;
mod download;
mod evaluate;
mod info;
mod input;
mod inspect;
mod interrupt;
mod known;
mod output;
mod predict;
mod progress;
mod report;
mod sweep;
mod train;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};

fn main() -> ExitCode {
    let start = Instant::now();
    silence_device_selection();
    let cli = Cli::parse_from(arguments());
    start_logging();
    let result = match cli.command {
        Command::Train(args) => train::run(&args, start),
        Command::Sweep(args) => sweep::run(&args, start),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Devices => devices::run(),
        Command::Bench(args) => bench::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Download(args) => download::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has read enough: `softreg predict … | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<interrupt::Interrupted>() => {
            output::message(&error.to_string());
            ExitCode::from(interrupt::STATUS)
        }
        Err(error) => {
            output::message(&format!("error: {}", one_line(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Without a desktop's run-time folder, a Vulkan layer of Mesa complains to standard error each time that devices are
/// listed. The layer only puts them in another order, which is not the one used here.
fn silence_device_selection() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: there is no other thread yet.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// The arguments, where `train` may be left out: `softreg`, `softreg --epochs 5`, `softreg flowers.csv …`.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let is_option = |argument: &OsString| {
        let text = argument.to_string_lossy();
        text.starts_with('-') && !["-h", "--help", "-V", "--version"].contains(&&*text)
    };
    // A file or data set in the place of a command is one to train on.
    let is_command = |argument: &OsString| {
        argument == "help" || Cli::command().get_subcommands().any(|command| argument == command.get_name())
    };
    let is_data = |argument: &OsString| {
        let path = Path::new(argument);
        !is_command(argument) && (path.is_file() || known::find(path).is_some())
    };
    if arguments.get(1).is_none_or(|argument| is_option(argument) || is_data(argument)) {
        arguments.insert(arguments.len().min(1), "train".into());
    }
    arguments
}

/// Warnings to standard error; `RUST_LOG` asks for more. What wgpu says about its own work is not for users.
fn start_logging() {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(log::LevelFilter::Warn);
    for module in ["wgpu_core", "wgpu_hal", "naga"] {
        builder.filter_module(module, log::LevelFilter::Error);
    }
    builder.format(|out, record| {
        let level = match record.level() {
            log::Level::Error => "error",
            log::Level::Warn => "warning",
            log::Level::Info => "info",
            log::Level::Debug => "debug",
            log::Level::Trace => "trace",
        };
        match record.target() {
            target if target.starts_with("softreg") => writeln!(out, "{level}: {}", record.args()),
            target => writeln!(out, "{level}: {target}: {}", record.args()),
        }
    });
    builder.parse_default_env().init();
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe))
}

/// The error and its causes on one line, without those that the message already names.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
        let library = softreg::Error::io("read", "x.csv", refused());
        assert_eq!(one_line(&library.into()), format!("cannot read x.csv: {}", refused()));
        let outer = anyhow::Error::from(refused()).context("the outer\nmessage");
        assert_eq!(one_line(&outer), format!("the outer message: {}", refused()));
    }
}
