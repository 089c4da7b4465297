//! `softreg inspect`.

use std::cmp::{Ordering, Reverse};
use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value, json};
use softreg::data::{ClassCounts, Figures, Findings, Inspection, inspect};

use crate::known::{self, Part};
use crate::report::{self, printable, rounded};
use crate::{args, output};

/// With more columns or classes than this, only some are shown.
const MAX_ROWS: usize = 20;
const N_SHOWN: usize = 5;

pub fn run(args: &args::Inspect) -> Result<()> {
    if let Some(json) = &args.json {
        output::check_writable(json)?;
        output::check_is_no_input(json, &args.data.inputs())?;
    }
    let source = known::locate(&args.data.source(), Part::Train)?;
    let found = inspect(&source)?;
    if let Some(path) = &args.json {
        let record = to_json(&source.features, &found);
        output::write(path, |out| writeln!(out, "{record}"))?;
    }
    report::print(args.json.as_deref(), false, |out| write(out, &source.features, &found))
}

fn count(n: impl TryInto<u64>) -> String {
    HumanCount(n.try_into().unwrap_or(u64::MAX)).to_string()
}

/// `1 sample`, `2 samples`.
fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", count(n), if n == 1 { "" } else { "s" })
}

fn write(out: &mut dyn Write, path: &Path, found: &Inspection) -> io::Result<()> {
    let Inspection { n_samples, all, .. } = found;
    let (n, d) = (*n_samples as u64, found.n_features as u64);
    let file_size = std::fs::metadata(path).map_or(0, |file| file.len());
    writeln!(out, "file       {}, {}", path.display(), HumanBytes(file_size))?;
    let sparse = if found.is_sparse { "sparse " } else { "" };
    let stored = if found.is_sparse { all.count - all.zeros } else { n * d };
    let bytes = stored * (found.dtype.size() as u64 + if found.is_sparse { 4 } else { 0 });
    writeln!(
        out,
        "shape      {} × {}, {sparse}{}, {} in memory",
        counted(n, "sample"),
        counted(d, "feature"),
        found.dtype,
        HumanBytes(bytes)
    )?;
    if all.count > 0 {
        let whole = if all.is_whole { ", whole numbers" } else { "" };
        let (mean, deviation) = (rounded(all.mean), rounded(all.deviation()));
        writeln!(
            out,
            "values     {} to {}{whole}, mean {mean}, deviation {deviation}",
            rounded(all.min),
            rounded(all.max)
        )?;
        let non_zeros = match all.zeros {
            0 => "no zeros".to_owned(),
            zeros => format!("{} non-zeros a sample", rounded((all.count - zeros) as f64 / n as f64)),
        };
        writeln!(out, "density    {}: {non_zeros}", rounded(all.density()))?;
    }
    findings(out, "missing", &found.missing, n * d)?;
    if found.missing.count == 0 {
        writeln!(out, "missing    none")?;
    }
    findings(out, "infinite", &found.infinite, n * d)?;
    findings(out, "text", &found.not_numbers, n * d)?;
    findings(out, "ragged", &found.ragged, n + found.ragged.count)?;
    if found.n_duplicates > 0 {
        let more = match found.n_contradictions {
            0 => String::new(),
            more => format!(", {} under a new label", count(more)),
        };
        let samples = counted(found.n_duplicates as u64, "sample");
        let repeat = if found.n_duplicates == 1 { "repeats" } else { "repeat" };
        writeln!(out, "duplicates {samples} {repeat} an earlier one{more}")?;
    }
    if let Some((weights, effective)) = &found.weights {
        let (min, max, mean) = (rounded(weights.min), rounded(weights.max), rounded(weights.mean));
        let zeros = if weights.zeros > 0 { format!(", {} are 0", count(weights.zeros)) } else { String::new() };
        writeln!(out, "weights    {min} to {max}, mean {mean}{zeros}; as good as {} equal ones", rounded(*effective))?;
    }
    for column in &found.text_columns {
        let (name, example) = (printable(&column.name, 30), printable(&column.example, 30));
        let n = if column.n_different < 1000 { count(column.n_different) } else { "1,000 or more".to_owned() };
        let values = if column.n_different == 1 { "value" } else { "different values" };
        writeln!(out, "left out   column {name}, which is text: {n} {values}, such as {example:?}")?;
    }
    writeln!(out)?;
    columns(out, found)?;
    if let Some(of_labels) = &found.classes {
        classes(out, of_labels, n)?;
    }
    advice(out, found)
}

fn findings(out: &mut dyn Write, title: &str, found: &Findings, of: u64) -> io::Result<()> {
    if found.count == 0 {
        return Ok(());
    }
    let share = rounded(100.0 * found.count as f64 / of as f64);
    writeln!(out, "{title:10} {} ({share} %):", count(found.count))?;
    for (place, text) in &found.first {
        let text = text.as_ref().map(|text| format!(": {}", printable(text, 30))).unwrap_or_default();
        writeln!(out, "           {place}{text}")?;
    }
    if found.count > found.first.len() as u64 {
        writeln!(out, "           …")?;
    }
    Ok(())
}

/// All columns, or where there are many the widest, and those with most gaps.
fn columns(out: &mut dyn Write, found: &Inspection) -> io::Result<()> {
    let mut shown: Vec<(usize, &Figures)> =
        found.features.iter().enumerate().map(|(place, figures)| (number_of_feature(found, place), figures)).collect();
    let n = found.n_features;
    if shown.len() > MAX_ROWS {
        let mut gaps = shown.clone();
        gaps.retain(|(_, figures)| figures.bad > 0);
        gaps.sort_by_key(|(_, figures)| Reverse(figures.bad));
        let width = |figures: &Figures| (figures.range(), figures.deviation());
        shown.sort_by(|(_, a), (_, b)| width(b).partial_cmp(&width(a)).unwrap_or(Ordering::Equal));
        shown.truncate(N_SHOWN);
        gaps.retain(|(index, _)| shown.iter().all(|(other, _)| other != index));
        shown.extend(gaps.into_iter().take(N_SHOWN));
    }
    if n > 0 {
        writeln!(
            out,
            "{:>9} {:>9} {:>9} {:>9} {:>8} {:>8}  feature",
            "min", "max", "mean", "deviation", "non-zero", "missing"
        )?;
    }
    for (index, figures) in shown {
        let number = |value: f64| if figures.count == 0 { "-".to_owned() } else { rounded(value) };
        let name = found.feature_names.as_ref().and_then(|names| names.get(index));
        writeln!(
            out,
            "{:>9} {:>9} {:>9} {:>9} {:>8} {:>8}  {}",
            number(figures.min),
            number(figures.max),
            number(figures.mean),
            number(figures.deviation()),
            number(figures.density()),
            count(figures.bad),
            name.map_or_else(|| (index + 1).to_string(), |name| printable(name, 22))
        )?;
    }
    if found.features.len() > MAX_ROWS {
        writeln!(out, "Shown are the widest and those with gaps, of {}; --json has all.", count(n))?;
    }
    let constant = found.features.iter().enumerate().filter(|(_, figures)| figures.is_constant());
    let constant: Vec<String> = constant
        .map(|(place, _)| {
            let index = number_of_feature(found, place);
            found.feature_names.as_ref().map_or_else(|| (index + 1).to_string(), |names| names[index].clone())
        })
        .collect();
    if !constant.is_empty() {
        writeln!(out, "Constant: {} of {}: {}", count(constant.len()), count(n), report::first(&constant, 8))?;
    }
    if found.occurring.is_some() {
        writeln!(out, "Always 0: {} of {}, not in the table", count(n - found.features.len()), count(n))?;
    }
    if n > 0 { writeln!(out) } else { Ok(()) }
}

/// The number, from 0, of the feature at a place of the figures.
fn number_of_feature(found: &Inspection, place: usize) -> usize {
    found.occurring.as_ref().and_then(|columns| columns.get(place)).map_or(place, |&column| column as usize)
}

/// All classes, or where there are many the largest and the smallest.
fn classes(out: &mut dyn Write, found: &ClassCounts, n_samples: u64) -> io::Result<()> {
    let mut rows: Vec<(&String, f64)> = found.names.iter().zip(found.totals.iter().copied()).collect();
    let n = rows.len();
    let is_long = n > MAX_ROWS;
    if is_long {
        rows.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        rows.drain(N_SHOWN..n - N_SHOWN);
    }
    let title = if found.is_soft { "class (labels are probabilities)" } else { "class" };
    writeln!(out, "{:>9} {:>9}  {title}", "samples", "share")?;
    for (index, (name, total)) in rows.into_iter().enumerate() {
        if is_long && index == N_SHOWN {
            writeln!(out, "{:>9} {:>9}  {} classes in between", "…", "…", count(n - 2 * N_SHOWN))?;
        }
        let share = format!("{:.4}", total / n_samples as f64);
        writeln!(out, "{:>9} {share:>9}  {}", number_of(total), printable(name, 50))?;
    }
    findings(out, "no label", &found.missing, n_samples)?;
    writeln!(out)
}

fn number_of(total: f64) -> String {
    if total.fract() == 0.0 { count(total as u64) } else { format!("{total:.1}") }
}

/// What to do next.
fn advice(out: &mut dyn Write, found: &Inspection) -> io::Result<()> {
    let names = found.feature_names.as_deref().unwrap_or_default();
    if !names.is_empty() && names.iter().all(|name| name.parse::<f64>().is_ok()) {
        writeln!(out, "The names of the columns are numbers: is the first line data? A header must come before it.")?;
    }
    if let (None, [column]) = (&found.classes, &found.text_columns[..]) {
        writeln!(out, "If column {:?} holds the labels, name it with --label-column.", printable(&column.name, 50))
    } else if let Some(refusal) = &found.refusal {
        writeln!(out, "softreg train refuses this: {refusal}")
    } else {
        Ok(())
    }
}

fn to_json(path: &Path, found: &Inspection) -> Value {
    let name = |index: usize| found.feature_names.as_ref().and_then(|names| names.get(index));
    let of_feature = |(place, figures)| {
        let mut value = of_figures(figures, name(number_of_feature(found, place)));
        if found.occurring.is_some() {
            value["number"] = (number_of_feature(found, place) + 1).into();
        }
        value
    };
    let features: Vec<Value> = found.features.iter().enumerate().map(of_feature).collect();
    let classes = found.classes.as_ref().map(|classes| {
        let counts = classes.names.iter().zip(&classes.totals);
        json!({
            "is_soft": classes.is_soft,
            "counts": counts.map(|(name, total)| json!({ "class": name, "samples": total })).collect::<Value>(),
            "missing": of_findings(&classes.missing),
        })
    });
    let weights = found
        .weights
        .as_ref()
        .map(|(figures, effective)| json!({ "figures": of_figures(figures, None), "effective_samples": effective }));
    let text_columns = found
        .text_columns
        .iter()
        .map(|column| json!({ "column": column.name, "n_different": column.n_different, "example": column.example }));
    json!({
        "softreg_version": env!("CARGO_PKG_VERSION"),
        "features_file": path.display().to_string(),
        "n_samples": found.n_samples,
        "n_features": found.n_features,
        "dtype": found.dtype.to_string(),
        "is_sparse": found.is_sparse,
        "density": found.all.density(),
        "all": of_figures(&found.all, None),
        "features": features,
        "text_columns": text_columns.collect::<Value>(),
        "missing": of_findings(&found.missing),
        "infinite": of_findings(&found.infinite),
        "not_numbers": of_findings(&found.not_numbers),
        "ragged_rows": of_findings(&found.ragged),
        "n_duplicates": found.n_duplicates,
        "n_contradictions": found.n_contradictions,
        "classes": classes,
        "weights": weights,
        "refusal": found.refusal,
    })
}

fn of_figures(figures: &Figures, name: Option<&String>) -> Value {
    let number = |value: f64| if figures.count == 0 { Value::Null } else { json!(value) };
    json!({
        "name": name,
        "count": figures.count,
        "zeros": figures.zeros,
        "missing": figures.bad,
        "min": number(figures.min),
        "max": number(figures.max),
        "mean": number(figures.mean),
        "deviation": number(figures.deviation()),
        "is_whole": figures.is_whole,
    })
}

fn of_findings(found: &Findings) -> Value {
    let first = found.first.iter().map(|(place, text)| {
        json!({ "row": place.row, "line": place.line, "column": place.column, "name": place.name, "text": text })
    });
    json!({ "count": found.count, "first": first.collect::<Value>() })
}
