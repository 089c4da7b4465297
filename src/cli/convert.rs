//! `softreg convert`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::CommandFactory;
use indicatif::{HumanBytes, HumanCount};
use softreg::Model;
use softreg::data::{Dtype, Table, Targets, Values};

use crate::known::Part;
use crate::report::rounded;
use crate::{args, input, output};

pub fn run(args: &args::Convert) -> Result<()> {
    let out = &*args.out;
    let has_ending = |path: &Path, ending| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending));
    let is_npy = has_ending(out, "npy");
    let usage = |message: &str| {
        args::Cli::command().error(clap::error::ErrorKind::ValueValidation, format!("{message}\n")).exit()
    };
    if !is_npy && !has_ending(out, "safetensors") {
        usage("--out must end with .npy or .safetensors");
    }
    if !is_npy && args.labels_out.is_some() {
        usage("--labels-out is an option of .npy; .safetensors hold the labels");
    }
    check_output(args, out)?;
    if args.to == Some(args::ModelForm::Dense) {
        if is_npy {
            usage("--out must end with .safetensors, as it is a model that is written");
        }
        return model_to_dense(&args.data.features, out);
    }

    let table = input::table(&args.data.source(), "--labels", Part::Train, false)?;
    let dtype = args.dtype.map_or(table.features.values().dtype(), Dtype::from);
    check_dense_size(&args.data.features, &table, dtype)?;
    let rounding = table.features.rounding(dtype).map_err(|error| error.in_file(&args.data.features))?;
    let beside = if is_npy { Beside::choose(args, &table) } else { Beside::default() };
    for path in beside.paths() {
        check_output(args, path)?;
        if output::is_same(path, out) {
            bail!("--labels-out and --out are the same file {}", path.display());
        }
    }

    output::write(out, |out| if is_npy { table.write_npy(dtype, out) } else { table.write_safetensors(dtype, out) })?;
    beside.write(&table)?;
    output::write(Path::new("-"), |report| {
        let size = HumanBytes(fs::metadata(out).map_or(0, |file| file.len()));
        let (n, d) = (HumanCount(table.features.n_samples() as u64), table.features.n_features());
        let classes = table.labels.as_ref().map(|labels| format!(", {} classes", labels.classes().len()));
        writeln!(report, "{}: {n} × {d} {dtype}{}, {size}", out.display(), classes.unwrap_or_default())?;
        if let Some(rounding) = &rounding {
            let (from, to) = (rounding.from, rounding.to);
            let (error, place) = (rounded(rounding.error()), &rounding.place);
            writeln!(report, "rounded to {dtype}: largest error {error}, where {from} became {to} ({place})")?;
        }
        beside.report(report)?;
        let is_smaller = |other| dtype.size() > 1 && matches!(table.features.rounding(other), Ok(None));
        if args.dtype.is_none() && is_smaller(Dtype::U8) {
            writeln!(report, "every value is a whole number from 0 to 255: --dtype u8 makes the file smaller")?;
        }
        if matches!(table.features.values(), Values::Sparse(_)) {
            writeln!(report, "the features were sparse; in this file zeros are stored too")?;
        }
        if is_npy && table.feature_names.is_some() {
            writeln!(report, "the columns have no names in .npy; .safetensors keeps them")?;
        }
        writeln!(report, "to train on it: softreg train {}{}", out.display(), beside.options())
    })
}

/// A model with its weights as they are, for readers that know no structured ones.
fn model_to_dense(path: &Path, out: &Path) -> Result<()> {
    let model = Model::load(path)?;
    let (structure, n) = (model.structure(), model.n_parameters());
    let dense = model.to_dense();
    dense.save(out)?;
    output::write(Path::new("-"), |report| {
        let (before, after) = (HumanCount(n as u64), HumanCount(dense.n_parameters() as u64));
        let size = HumanBytes(fs::metadata(out).map_or(0, |file| file.len()));
        writeln!(report, "{}: {structure} with {before} parameters → dense with {after}, {size}", out.display())
    })
}

/// Neither format has sparse features: with the zeros they may be thousands of times as large.
fn check_dense_size(path: &Path, table: &Table, dtype: Dtype) -> Result<()> {
    const LARGEST: u64 = 1 << 30;
    let features = &table.features;
    let bytes = (features.n_samples() as u64 * features.n_features() as u64).saturating_mul(dtype.size() as u64);
    if matches!(features.values(), Values::Sparse(_)) && bytes > LARGEST {
        let (path, bytes) = (path.display(), HumanBytes(bytes));
        bail!("{path}: the features are sparse, and with all zeros would take {bytes}; train on this file as it is");
    }
    Ok(())
}

fn check_output(args: &args::Convert, path: &Path) -> Result<()> {
    output::check_is_no_input(path, &args.data.inputs())?;
    output::check_writable(path)
}

/// What goes into files of its own, beside a .npy file.
#[derive(Default)]
struct Beside {
    labels: Option<PathBuf>,
    /// The names of the classes of soft labels, where these are not their numbers.
    classes: Option<PathBuf>,
    weights: Option<PathBuf>,
}

impl Beside {
    fn choose(args: &args::Convert, table: &Table) -> Self {
        let named = |ending: &str| args.out.with_extension(ending);
        let (mut labels, mut classes) = (None, None);
        if let Some(of_table) = &table.labels {
            let is_soft = matches!(of_table.targets(), Targets::Distributions(_));
            let default = || named(if is_soft { "labels.npy" } else { "labels.txt" });
            labels = Some(args.labels_out.clone().unwrap_or_else(default));
            let numbered = of_table.classes().iter().enumerate().all(|(number, name)| *name == number.to_string());
            classes = Some(named("classes.txt")).filter(|_| is_soft && !numbered);
        }
        let weights = table.weights.as_ref().map(|_| named("weights.txt"));
        Self { labels, classes, weights }
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.labels, &self.classes, &self.weights].into_iter().flatten().map(PathBuf::as_path)
    }

    fn write(&self, table: &Table) -> Result<()> {
        if let (Some(path), Some(labels)) = (&self.labels, &table.labels) {
            let is_npy = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npy"));
            output::write(path, |out| if is_npy { labels.write_npy(out) } else { labels.write_text(out) })?;
        }
        if let (Some(path), Some(labels)) = (&self.classes, &table.labels) {
            output::write(path, |out| labels.classes().iter().try_for_each(|name| writeln!(out, "{name}")))?;
        }
        if let (Some(path), Some(weights)) = (&self.weights, &table.weights) {
            output::write(path, |out| weights.iter().try_for_each(|weight| writeln!(out, "{weight}")))?;
        }
        Ok(())
    }

    fn report(&self, report: &mut dyn Write) -> io::Result<()> {
        for path in self.paths() {
            writeln!(report, "{}: {}", path.display(), HumanBytes(fs::metadata(path).map_or(0, |file| file.len())))?;
        }
        Ok(())
    }

    /// How the files are named to `softreg train`.
    fn options(&self) -> String {
        let all = [("--labels", &self.labels), ("--classes", &self.classes), ("--sample-weight", &self.weights)];
        all.iter().filter_map(|(flag, path)| Some(format!(" {flag} {}", path.as_ref()?.display()))).collect()
    }
}
