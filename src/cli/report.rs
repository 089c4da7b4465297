//! The closing report: figures, classes, times. Class names stand last in their rows, so that names of any length and
//! script leave the columns straight.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use indicatif::HumanCount;
use serde_json::{Value, json};
use softreg::data::Values;
use softreg::metrics::{ClassMetrics, bits};
use softreg::{Device, Evaluation, Features};

use crate::output;

/// With more classes than this, only the worst are shown.
const MAX_CLASSES: usize = 20;
const N_WORST: usize = 5;

/// Time by stage.
#[derive(Debug, Default, Clone, Copy)]
pub struct Stages {
    /// From the program's beginning to the first step; a part of the others.
    pub startup: Duration,
    /// Reading, checking and dividing the data.
    pub load: Duration,
    /// Opening the device, bringing the data to it and compiling its kernels.
    pub device: Duration,
    pub train: Option<Duration>,
    pub evaluate: Duration,
    pub total: Duration,
}

impl Stages {
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let stages = [
            ("load", Some(self.load)),
            ("device", Some(self.device)),
            ("train", self.train),
            ("evaluate", Some(self.evaluate)),
            ("total", Some(self.total)),
        ];
        let stages = stages.into_iter().filter_map(|(name, time)| Some(format!("{name} {:.3}", time?.as_secs_f64())));
        writeln!(out, "seconds    {}", stages.collect::<Vec<_>>().join(", "))
    }
}

/// Writes the report to standard output, or to standard error where standard output carries JSON; a quiet run has none
/// in that case.
pub fn print(json: Option<&Path>, quiet: bool, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut text = Vec::new();
    content(&mut text)?;
    if !json.is_some_and(output::is_stdout) {
        return output::write(Path::new("-"), |out| out.write_all(&text));
    }
    if !quiet {
        let _ = io::stderr().write_all(&text);
    }
    Ok(())
}

/// Samples, loss and accuracy of each part of the data.
pub fn figures(out: &mut dyn Write, parts: &[(&str, &Evaluation)]) -> io::Result<()> {
    writeln!(out, "{:10} {:>11} {:>11} {:>10}", "", "samples", "loss", "accuracy")?;
    for (name, part) in parts {
        let n = HumanCount(part.n_samples as u64).to_string();
        writeln!(out, "{name:10} {n:>11} {:>11.6} {:>10.4}", part.log_loss, part.accuracy)?;
    }
    writeln!(out)
}

/// The k of the top-k accuracy: as asked for, else 5 where there are more classes than that.
fn top_k(evaluation: &Evaluation, asked: Option<usize>) -> Option<usize> {
    const TOP_K: usize = 5;
    asked.or((evaluation.classes.len() > TOP_K).then_some(TOP_K))
}

/// What is in nats, by the name that JSON has for it.
fn in_nats(evaluation: &Evaluation) -> [(&'static str, f64); 6] {
    [
        ("cross_entropy", evaluation.log_loss),
        ("label_entropy", evaluation.label_entropy),
        ("mutual_information", evaluation.mutual_information()),
        ("prediction_entropy", evaluation.prediction_entropy),
        ("target_entropy", evaluation.target_entropy),
        ("kl_divergence", evaluation.kl_divergence()),
    ]
}

/// Entropies, calibration and top-k accuracy; `softreg evaluate --help` says what they are.
pub fn information(out: &mut dyn Write, evaluation: &Evaluation, asked: Option<usize>) -> io::Result<()> {
    writeln!(out, "{:18} {:>10} {:>10}", "information", "nats", "bits")?;
    for (key, nats) in in_nats(evaluation) {
        // Of classes the targets have no entropy, and the divergence is the cross-entropy.
        if evaluation.target_entropy == 0.0 && matches!(key, "target_entropy" | "kl_divergence") {
            continue;
        }
        let (name, more) = match key {
            "cross_entropy" => ("cross-entropy", format!("   perplexity {}", rounded(evaluation.perplexity()))),
            "label_entropy" => ("label entropy", String::new()),
            "mutual_information" => ("captured", "   label entropy less cross-entropy".to_owned()),
            "prediction_entropy" => ("predictions", String::new()),
            "target_entropy" => ("target entropy", String::new()),
            _ => ("KL divergence", String::new()),
        };
        writeln!(out, "{name:18} {nats:>10.6} {:>10.6}{more}", bits(nats))?;
    }
    let (brier, calibration) = (evaluation.brier_score, evaluation.calibration_error);
    let top = top_k(evaluation, asked).map(|k| format!("top-{k} accuracy {:.4}, ", evaluation.top_k_accuracy(k)));
    writeln!(out, "{}Brier score {brier:.4}, calibration error {calibration:.4}\n", top.unwrap_or_default())
}

/// All of [`information`].
pub fn information_json(evaluation: &Evaluation, asked: Option<usize>) -> Value {
    let mut record: serde_json::Map<String, Value> = in_nats(evaluation)
        .into_iter()
        .map(|(key, nats)| (key.to_owned(), json!({ "nats": nats, "bits": bits(nats) })))
        .collect();
    let k = top_k(evaluation, asked);
    let more = json!({
        "perplexity": evaluation.perplexity(),
        "top_k": k,
        "top_k_accuracy": k.map(|k| evaluation.top_k_accuracy(k)),
        "brier_score": evaluation.brier_score,
        "calibration_error": evaluation.calibration_error,
    });
    record.extend(more.as_object().cloned().unwrap_or_default());
    record.into()
}

/// Precision, recall, F1 and support of each class, or of the worst where there are many; `title` heads the names.
pub fn classes(out: &mut dyn Write, title: &str, names: &[String], evaluation: &Evaluation) -> io::Result<()> {
    let mut rows: Vec<(&String, &ClassMetrics)> = names.iter().zip(&evaluation.classes).collect();
    writeln!(out, "{:>9} {:>9} {:>9} {:>9}  {title}", "precision", "recall", "F1", "support")?;
    let worst = rows.len() > MAX_CLASSES;
    if worst {
        rows.retain(|(_, class)| class.support > 0);
        // Stable: of equals the first classes stay first.
        rows.sort_by(|(_, a), (_, b)| a.f1().unwrap_or(0.0).total_cmp(&b.f1().unwrap_or(0.0)));
        rows.truncate(N_WORST);
    }
    let mut row = |figures: [Option<f64>; 3], support: usize, name: &dyn Display| {
        for figure in figures {
            write!(out, "{:>9} ", figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.4}")))?;
        }
        writeln!(out, "{:>9}  {name}", HumanCount(support as u64).to_string())
    };
    for (name, class) in &rows {
        row([class.precision(), class.recall(), class.f1()], class.support, &printable(name, 38))?;
    }
    let (average, n_classes) = macro_average(evaluation);
    row(average, evaluation.n_samples, &format!("(average of {n_classes} classes)"))?;
    if worst {
        writeln!(out, "Shown are the {N_WORST} classes of lowest F1; --json has all.")?;
    }
    writeln!(out)
}

/// Means of precision, recall and F1 over the classes that have samples, where nothing predicted counts as 0; and how
/// many these classes are.
fn macro_average(evaluation: &Evaluation) -> ([Option<f64>; 3], usize) {
    let with_samples: Vec<_> = evaluation.classes.iter().filter(|class| class.support > 0).collect();
    let means = [ClassMetrics::precision, ClassMetrics::recall, ClassMetrics::f1].map(|figure| {
        let sum: f64 = with_samples.iter().map(|class| figure(class).unwrap_or(0.0)).sum();
        (!with_samples.is_empty()).then(|| sum / with_samples.len() as f64)
    });
    (means, with_samples.len())
}

pub fn classes_json(names: &[String], evaluation: &Evaluation) -> Value {
    let class = |(name, class): (&String, &ClassMetrics)| {
        json!({
            "class": name,
            "precision": class.precision(),
            "recall": class.recall(),
            "f1": class.f1(),
            "support": class.support,
            "predicted": class.predicted,
            "correct": class.correct,
        })
    };
    names.iter().zip(&evaluation.classes).map(class).collect()
}

/// `name (driver): why it was chosen`.
pub fn device(device: &Device) -> String {
    format!("{}: {}", name(device), device.reason())
}

/// `name (driver)`.
pub fn name(device: &Device) -> String {
    let info = device.info();
    let driver = if info.driver.is_empty() { String::new() } else { format!(" ({})", info.driver) };
    format!("{}{driver}", info.name)
}

/// That a device does without matrix units though they were asked for: it has none, or the classes are too few.
pub fn no_matrix_units(device: &Device) -> String {
    let name = &device.info().name;
    if device.uses_matrix_units(usize::MAX) {
        format!("no matrix units: only steps with more than 64 classes use those of {name}")
    } else {
        format!("no matrix units: {name} has none that suit")
    }
}

/// Four significant digits, without zeros that say nothing.
pub fn rounded(value: f64) -> String {
    let text = format!("{value:.3e}");
    let value: f64 = text.parse().unwrap_or(value);
    if value == 0.0 || (1e-4..1e6).contains(&value.abs()) { value.to_string() } else { format!("{value:e}") }
}

/// `LEAST to LARGEST`.
pub fn range(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{} to {}", rounded(least), rounded(largest))
}

/// The share of the values that sparse features store; none of dense ones.
pub fn density(features: &Features) -> Option<f64> {
    let n_values = features.n_samples() as f64 * features.n_features() as f64;
    matches!(features.values(), Values::Sparse(_)).then(|| features.values().len() as f64 / n_values)
}

/// The first of many names.
pub fn first(names: &[String], limit: usize) -> String {
    let shown = names.iter().take(limit).map(|name| printable(name, 40)).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(limit) {
        0 => shown,
        more => format!("{shown}, … and {} more", HumanCount(more as u64)),
    }
}

/// A name on one line: at most `limit` characters, none that a terminal acts on.
pub fn printable(name: &str, limit: usize) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    match text.char_indices().nth(limit) {
        Some(_) => text.chars().take(limit - 1).chain(['…']).collect(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_on_their_line() {
        assert_eq!(printable("七面鳥", 3), "七面鳥");
        assert_eq!(printable("七面鳥!", 3), "七面…");
        assert_eq!(printable("a\n\u{1b}[31m", 80), "a\\n\\u{1b}[31m");
        assert_eq!(printable(&"\n".repeat(50), 38).chars().count(), 38);
    }

    #[test]
    fn numbers_have_four_digits() {
        let cases =
            [(0.0, "0"), (1.0, "1"), (0.124_532, "0.1245"), (1e-5, "1e-5"), (784.0, "784"), (1.234_56e9, "1.235e9")];
        for (value, text) in cases {
            assert_eq!(rounded(value), text);
        }
    }
}
