//! Data that is divided over several files: which they are, and how they become one.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use half::f16;

use super::Table;
use crate::data::{Csr, Features, Labels, Targets, Values};
use crate::error::{Error, Place, Result};

/// The files that `path` stands for: the file of this name; all files of the folder of this name, but those that begin with `.`
/// or `_`; or those that match, where its last part is a pattern with `*` or `?`. Their order is that of their names, numbers in
/// them by size.
pub(super) fn expand(path: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| Error::io("read", path, source);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let pattern = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => None,
        Err(_) if name.contains(['*', '?']) => Some(&*name),
        Err(error) => return Err(failed(error)),
        Ok(_) => return Ok(vec![path.to_owned()]),
    };
    let folder = match path.parent() {
        _ if pattern.is_none() => path,
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_wanted = match pattern {
            Some(pattern) => matches(pattern.as_bytes(), name.as_bytes()),
            None => !name.starts_with('_'),
        };
        // Links count as what they lead to.
        if is_wanted && !name.starts_with('.') && !std::fs::metadata(entry.path()).map_err(failed)?.is_dir() {
            found.push((name, folder.join(entry.file_name())));
        }
    }
    found.sort_by(|(a, _), (b, _)| natural(a, b));
    if found.is_empty() {
        let problem = if pattern.is_some() { "no file matches this" } else { "there is no file in this folder" };
        return Err(Error::malformed(Place::file(path), problem));
    }
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Whether a name matches a pattern, in which `*` stands for anything and `?` for one byte.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Where to go on when a mismatch shows that the last `*` stands for more.
    let (mut p, mut n) = (0, 0);
    let mut back = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p + 1, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match back {
                Some((after, from)) => {
                    back = Some((after, from + 1));
                    (p, n) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// The order of names in which 2 comes before 10.
fn natural(a: &str, b: &str) -> Ordering {
    // Digits and what is between them, in turns.
    fn parts(name: &str) -> Vec<&str> {
        name.as_bytes()
            .chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit())
            .map(|part| std::str::from_utf8(part).unwrap_or_default())
            .collect()
    }
    let of_parts = parts(a).into_iter().zip(parts(b)).map(|(a, b)| {
        let is_number = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
        if is_number(a) && is_number(b) {
            let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
            a.len().cmp(&b.len()).then(a.cmp(b))
        } else {
            a.cmp(b)
        }
    });
    of_parts.fold(Ordering::Equal, Ordering::then).then_with(|| a.len().cmp(&b.len())).then_with(|| a.cmp(b))
}

/// The tables of several files as one, of which the rows follow one another; `read` reads a file.
pub(super) fn join(files: &[PathBuf], read: impl Fn(&Path) -> Result<Table>) -> Result<Table> {
    let [first_path, others @ ..] = files else {
        return Err(Error::Empty { place: Place::default(), what: "samples" });
    };
    let mut all = read(first_path)?;
    let size = |path: &PathBuf| std::fs::metadata(path).map_or(1, |metadata| metadata.len().max(1)) as f64;
    let share = files.iter().map(size).sum::<f64>() / size(first_path);
    let mut rows = Rows::room_for(&all.features, share)?.and(&all.features)?;
    let (mut n_samples, mut n_features) = (all.features.n_samples(), all.features.n_features());
    let mut labels: Vec<Labels> = all.labels.take().into_iter().collect();
    for path in others {
        let table = read(path)?;
        check(&all, !labels.is_empty(), first_path, &table, path)?;
        rows = rows.and(&table.features)?;
        n_samples += table.features.n_samples();
        n_features = n_features.max(table.features.n_features());
        labels.extend(table.labels);
        if let (Some(all), Some(more)) = (&mut all.weights, table.weights) {
            all.extend(more);
        }
    }
    all.labels = if labels.is_empty() { None } else { Some(join_labels(&labels)?) };
    all.features = rows.into_features(n_samples, n_features)?;
    Ok(all)
}

/// That a table has the columns of the first one.
fn check(first: &Table, has_labels: bool, first_path: &Path, table: &Table, path: &Path) -> Result<()> {
    let (of_first, first_path) = (&first.features, first_path.display());
    let is_sparse = |features: &Features| matches!(features.values(), Values::Sparse(_));
    let (expected, found) = (of_first.n_features(), table.features.n_features());
    let problem = if is_sparse(of_first) != is_sparse(&table.features) {
        format!("its features are sparse or those of {first_path} are, but not both")
    } else if expected != found && !is_sparse(of_first) {
        // Where only what is not zero is stored, a file may not have the last features.
        format!("it has {found} features a sample, but {first_path} has {expected}")
    } else if first.feature_names != table.feature_names {
        let names = first.feature_names.iter().flatten().zip(table.feature_names.iter().flatten());
        match names.into_iter().find(|(a, b)| a != b) {
            Some((expected, found)) => format!("it has a feature {found:?} where {first_path} has {expected:?}"),
            None => format!("its features have names or those of {first_path} have, but not both"),
        }
    } else if first.zero_based != table.zero_based {
        let from = |table: &Table| u8::from(table.zero_based == Some(false));
        let (here, there) = (from(table), from(first));
        format!(
            "its indices count from {here}, those of {first_path} from {there}; say which with zero_based (--zero-based)"
        )
    } else if has_labels != table.labels.is_some() {
        format!("it has labels or {first_path} has, but not both")
    } else if first.weights.is_some() != table.weights.is_some() {
        format!("it has weights or {first_path} has, but not both")
    } else {
        return Ok(());
    };
    Err(Error::malformed(Place::file(path), problem))
}

/// Labels that follow one another: the same as if they had been read from one file.
pub(super) fn join_labels(parts: &[Labels]) -> Result<Labels<'static>> {
    let all_classes = || parts.iter().flat_map(Labels::classes);
    let is_same = parts.windows(2).all(|pair| pair[0].classes() == pair[1].classes());
    let classes = match parts.first() {
        Some(first) if is_same => first.classes().to_vec(),
        _ => Labels::from_names(&all_classes().collect::<Vec<_>>())?.classes().to_vec(),
    };
    let parts = parts.iter().map(|part| part.with_classes(&classes)).collect::<Result<Vec<_>>>()?;
    if parts.iter().any(|part| matches!(part.targets(), Targets::Distributions(_))) {
        let mut all = Vec::new();
        for part in &parts {
            match part.targets() {
                Targets::Distributions(values) => all.extend_from_slice(values),
                Targets::Classes(indices) => {
                    let one_hot = |&class: &u32| (0..classes.len()).map(move |j| f32::from(j == class as usize));
                    all.extend(indices.iter().flat_map(one_hot));
                }
            }
        }
        return Labels::from_distributions(all, classes);
    }
    let of_part = |part: &Labels| match part.targets() {
        Targets::Classes(indices) => indices.to_vec(),
        Targets::Distributions(_) => Vec::new(),
    };
    Labels::from_indices(parts.iter().flat_map(of_part).collect::<Vec<u32>>(), classes)
}

/// Rows of features that grow.
enum Rows {
    F32(Vec<f32>),
    F16(Vec<f16>),
    U8(Vec<u8>),
    Sparse(Vec<u64>, Vec<u32>, Vec<f32>),
}

impl Rows {
    /// As `features`, of which none is taken yet, with room for `share` times as many.
    fn room_for(features: &Features, share: f64) -> Result<Self> {
        fn vec<T>(n: usize, share: f64) -> Result<Vec<T>> {
            let mut vec = Vec::new();
            let n = (n as f64 * share) as usize;
            match vec.try_reserve_exact(n) {
                Ok(()) => Ok(vec),
                Err(_) => Err(Error::out_of_memory("the features", n, size_of::<T>())),
            }
        }
        let n = features.values().len();
        Ok(match features.values() {
            Values::F32(_) | Values::Stored(_) => Self::F32(vec(n, share)?),
            Values::F16(_) => Self::F16(vec(n, share)?),
            Values::U8(_) => Self::U8(vec(n, share)?),
            Values::Sparse(_) => Self::Sparse(vec![0], vec(n, share)?, vec(n, share)?),
        })
    }

    /// These and those of `features`; in single precision, when they are of different ones.
    fn and(self, features: &Features) -> Result<Self> {
        fn add<T: Copy>(mut all: Vec<T>, more: &[T]) -> Result<Vec<T>> {
            match all.try_reserve(more.len()) {
                Ok(()) => all.extend_from_slice(more),
                Err(_) => return Err(Error::out_of_memory("the features", all.len() + more.len(), size_of::<T>())),
            }
            Ok(all)
        }
        let single = |features: &Features| match features.values() {
            Values::F16(values) => values.iter().map(|x| x.to_f32()).collect(),
            Values::U8(values) => values.iter().map(|&x| f32::from(x)).collect(),
            Values::F32(values) => values.to_vec(),
            // Features of several files do not stay in them.
            Values::Sparse(_) | Values::Stored(_) => Vec::new(),
        };
        Ok(match (self, features.values()) {
            (Self::F32(all), Values::F32(more)) => Self::F32(add(all, more)?),
            (Self::F16(all), Values::F16(more)) => Self::F16(add(all, more)?),
            (Self::U8(all), Values::U8(more)) => Self::U8(add(all, more)?),
            (Self::Sparse(offsets, columns, values), Values::Sparse(more)) => {
                let (first, base) = (more.offsets().first().copied().unwrap_or_default(), values.len() as u64);
                let ends: Vec<u64> = more.offsets().iter().skip(1).map(|offset| offset - first + base).collect();
                Self::Sparse(add(offsets, &ends)?, add(columns, more.columns())?, add(values, more.values())?)
            }
            (Self::F16(all), _) => Self::F32(add(all.into_iter().map(f16::to_f32).collect(), &single(features))?),
            (Self::U8(all), _) => Self::F32(add(all.into_iter().map(f32::from).collect(), &single(features))?),
            (Self::F32(all), _) => Self::F32(add(all, &single(features))?),
            (all @ Self::Sparse(..), _) => all,
        })
    }

    fn into_features(self, n_samples: usize, n_features: usize) -> Result<Features<'static>> {
        match self {
            Self::F32(values) => Features::new(values, n_samples, n_features),
            Self::F16(values) => Features::new(values, n_samples, n_features),
            Self::U8(values) => Features::new(values, n_samples, n_features),
            Self::Sparse(offsets, columns, values) => {
                Features::new(Csr::new(offsets, columns, values)?, n_samples, n_features)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_in_order_of_their_size() {
        let mut names = ["x10", "x2", "x02", "y", "x", "x2b", "3", "20", "x2a10", "x2a9", ""];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["", "3", "20", "x", "x2", "x02", "x2a9", "x2a10", "x2b", "x10", "y"]);
    }

    #[test]
    fn patterns_match_what_they_say() {
        let yes =
            [("*", ""), ("a*", "a"), ("*.npy", "x.npy"), ("a?c*d", "abcxdd"), ("*a*b*", "xxaxxbx"), ("abc", "abc")];
        let no = [("?", ""), ("a*", "ba"), ("*.npy", "x.npy.gz"), ("a?c", "ac"), ("*ab", "aba"), ("abc", "ab")];
        assert!(yes.iter().all(|(pattern, name)| matches(pattern.as_bytes(), name.as_bytes())));
        assert!(!no.iter().any(|(pattern, name)| matches(pattern.as_bytes(), name.as_bytes())));
    }

    #[test]
    fn labels_of_parts_are_those_of_the_whole() {
        let names = ["10", "9", "2", "9", "33", "2", "2"];
        let whole = Labels::from_names(&names).unwrap();
        for cut in 1..names.len() {
            let (a, b) = names.split_at(cut);
            let parts = [Labels::from_names(a).unwrap(), Labels::from_names(b).unwrap()];
            let joined = join_labels(&parts).unwrap();
            assert_eq!(joined.classes(), whole.classes());
            assert_eq!(format!("{:?}", joined.targets()), format!("{:?}", whole.targets()));
        }
        // One of the parts is one-hot, which is kept as numbers.
        let classes = || vec!["b".to_owned(), "a".to_owned()];
        let parts = [[1.0, 0.0], [0.25, 0.75]].map(|y| Labels::from_distributions(y.to_vec(), classes()).unwrap());
        let joined = join_labels(&parts).unwrap();
        assert!(matches!(joined.targets(), Targets::Distributions(values) if **values == [1.0, 0.0, 0.25, 0.75]));
        assert_eq!(joined.classes(), classes());
    }
}
