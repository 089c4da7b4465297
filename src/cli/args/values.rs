//! Values of options, from text.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use softreg::data::{Categorical, Dtype};
use softreg::{ClassWeight, Every, FeatureScale, Schedule};

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DtypeName {
    F32,
    F16,
    U8,
}

impl From<DtypeName> for Dtype {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::F32 => Self::F32,
            DtypeName::F16 => Self::F16,
            DtypeName::U8 => Self::U8,
        }
    }
}

impl fmt::Display for DtypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Dtype::from(*self).fmt(f)
    }
}

fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err("not a finite number".to_owned()),
    }
}

pub(super) fn number_that(text: &str, accept: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    let number = number(text)?;
    if accept(number) { Ok(number) } else { Err(format!("must be {expected}")) }
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    number_that(text, |x| x > 0.0, "above 0")
}

pub(super) fn not_negative(text: &str) -> Result<f64, String> {
    number_that(text, |x| x >= 0.0, "at least 0")
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    number_that(text, |x| (0.0..=1.0).contains(&x), "between 0 and 1")
}

pub(super) fn fraction(text: &str) -> Result<f64, String> {
    number_that(text, |x| x > 0.0 && x < 1.0, "above 0 and below 1")
}

pub(super) fn below_1(text: &str) -> Result<f64, String> {
    number_that(text, |x| (0.0..1.0).contains(&x), "at least 0 and below 1")
}

/// `balanced`, or NAME=W,NAME=W; names may have commas and equals signs.
pub(super) fn class_weight(text: &str) -> Result<ClassWeight, String> {
    if text == "balanced" {
        return Ok(ClassWeight::Balanced);
    }
    let mut weights = Vec::new();
    // Since the last weight.
    let mut entry = String::new();
    for part in text.split(',') {
        entry += part;
        match entry.rsplit_once('=').map(|(name, weight)| (name.trim().to_owned(), weight.trim().parse::<f64>())) {
            Some((name, Ok(weight))) if !name.is_empty() => {
                weights.push((name, weight));
                entry.clear();
            }
            _ => entry.push(','),
        }
    }
    match entry.trim_end_matches(',') {
        "" if !weights.is_empty() => Ok(ClassWeight::Map(weights)),
        rest => Err(format!("must be `balanced`, or NAME=WEIGHT for classes, divided by commas; {rest:?} is neither")),
    }
}

/// A number, and a unit of thousands or, with an i, of 1024: 500MB, 2GiB.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 10] = [
        ("kib", 1024.0),
        ("mib", 1048576.0),
        ("gib", 1073741824.0),
        ("tib", 1099511627776.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
        ("tb", 1e12),
        ("b", 1.0),
        ("", 1.0),
    ];
    let lower = text.trim().to_lowercase();
    let with_unit = UNITS.iter().find_map(|(unit, size)| Some((lower.strip_suffix(unit)?.trim_end(), size)));
    match with_unit.and_then(|(number, size)| Some(number.parse::<f64>().ok()? * size)) {
        Some(bytes) if (1e6..1e18).contains(&bytes) => Ok(bytes as u64),
        Some(_) => Err("must be at least 1MB".to_owned()),
        None => Err("must be a size like 500MB, 2GB or 1.5GiB".to_owned()),
    }
}

/// `auto`, or names of columns, divided by commas.
pub(super) fn categorical(text: &str) -> Result<Categorical, String> {
    if text == "auto" {
        return Ok(Categorical::Auto);
    }
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err("must be `auto`, or names of columns, divided by commas".to_owned());
    }
    Ok(Categorical::Columns(names))
}

pub(super) fn seconds(text: &str) -> Result<f64, String> {
    number_that(
        text,
        |x| Duration::try_from_secs_f64(x).is_ok_and(|time| !time.is_zero()),
        "above 0, and not too large",
    )
}

pub(super) fn every(text: &str) -> Result<Every, String> {
    let units = [('s', 1.0), ('m', 60.0), ('h', 3600.0)];
    for (unit, length) in units {
        if let Some(number) = text.strip_suffix(unit) {
            let time = number.parse().ok().and_then(|number: f64| Duration::try_from_secs_f64(number * length).ok());
            return time
                .filter(|time| !time.is_zero())
                .map(Every::Time)
                .ok_or_else(|| "must be a time above 0, such as 30s".to_owned());
        }
    }
    count(text)
        .map(Every::Epochs)
        .map_err(|_| "must be a number of epochs, or a time such as 30s, 10m or 2h".to_owned())
}

pub(super) fn schedule(text: &str) -> Result<Schedule, String> {
    text.parse().map_err(|error: softreg::Error| error.to_string())
}

pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a whole number, at least 1".to_owned()),
        Ok(count) => Ok(count),
    }
}

pub(super) fn feature_scale(text: &str) -> Result<FeatureScale, String> {
    match text {
        "auto" => Ok(FeatureScale::Auto),
        "none" => Ok(FeatureScale::Factor(1.0)),
        factor => match factor.parse::<f64>() {
            // Kernels multiply in single precision.
            Ok(number) if number > 0.0 && (number as f32).is_normal() => Ok(FeatureScale::Factor(number)),
            _ => Err("must be `auto`, `none` or a number above 0".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_weights_are_names_and_numbers() {
        assert_eq!(class_weight("balanced"), Ok(ClassWeight::Balanced));
        let expected = [("a", 2.0), ("long, comma", 0.5), ("x=y", 3.0)].map(|(name, w)| (name.to_owned(), w));
        assert_eq!(class_weight("a=2,long, comma=0.5,x=y=3"), Ok(ClassWeight::Map(expected.to_vec())));
        for bad in ["", "a", "a=", "=2", "a=2,b", "a=x", "balance"] {
            assert!(class_weight(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("2GB"), Ok(2_000_000_000));
        assert_eq!(bytes("1.5 GiB"), Ok(1_610_612_736));
        assert_eq!(bytes("1048576"), Ok(1_048_576));
        for bad in ["", "GB", "1 pony", "-1GB", "NaN", "inf", "0", "3kB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        type Parser = fn(&str) -> Result<f64, String>;
        let cases: [(Parser, &[&str], &[&str]); 4] = [
            (positive, &["1e-9", "3"], &["0", "-1", "inf", "NaN", "", "x"]),
            (not_negative, &["0", "1e-5"], &["-1e-9", "inf", "NaN"]),
            (fraction, &["0.2", "0.999"], &["0", "1", "1.5", "-0.2", "NaN"]),
            (below_1, &["0", "0.99"], &["1", "-0.1", "NaN"]),
        ];
        for (parser, good, bad) in cases {
            assert!(good.iter().all(|text| parser(text).is_ok()), "{good:?}");
            assert!(bad.iter().all(|text| parser(text).is_err()), "{bad:?}");
        }
        assert!(count("0").is_err() && count("-1").is_err() && count("1.5").is_err() && count("1") == Ok(1));
        assert!(["0", "-1", "inf", "1e-60", "some"].iter().all(|text| feature_scale(text).is_err()));
    }
}
