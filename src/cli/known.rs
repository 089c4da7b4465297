//! Data sets that are known by name: what their files must be, where they come from, and where they are kept.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use indicatif::HumanBytes;
use softreg::data::Source;

/// A data set of images and labels in IDX, in two parts.
#[derive(Debug)]
pub struct Known {
    pub name: &'static str,
    pub about: &'static str,
    /// Folders on the net that have the files; each is tried when those before it fail.
    pub addresses: &'static [&'static str],
    pub train: [File; 2],
    pub test: [File; 2],
}

/// What a file must be.
#[derive(Debug, Clone, Copy)]
pub struct File {
    pub name: &'static str,
    pub bytes: u64,
    /// In hexadecimal digits.
    pub sha256: &'static str,
}

const fn file(name: &'static str, bytes: u64, sha256: &'static str) -> File {
    File { name, bytes, sha256 }
}

/// Sizes and SHA-256 are those of TensorFlow Datasets (`tensorflow_datasets/url_checksums/NAME.txt`), and the same in
/// torchvision (`torchvision/prototype/datasets/_builtin/mnist.py`).
pub static ALL: [Known; 3] = [
    Known {
        name: "mnist",
        about: "handwritten digits, LeCun, Cortes and Burges",
        // The copies of http://yann.lecun.com/exdb/mnist from which torchvision and TensorFlow Datasets take the files.
        addresses: &[
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ],
        train: [
            file(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
        ],
        test: [
            file(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ],
    },
    Known {
        name: "fashion-mnist",
        about: "pictures of clothes, Zalando Research, MIT licence",
        addresses: &[
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
        ],
        train: [
            file(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
        ],
        test: [
            file(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ],
    },
    Known {
        name: "kmnist",
        about: "cursive Japanese characters, ROIS-CODH, CC BY-SA 4.0",
        addresses: &["https://codh.rois.ac.jp/kmnist/dataset/kmnist", "http://codh.rois.ac.jp/kmnist/dataset/kmnist"],
        train: [
            file(
                "train-images-idx3-ubyte.gz",
                18_165_135,
                "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                29_497,
                "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            ),
        ],
        test: [
            file(
                "t10k-images-idx3-ubyte.gz",
                3_041_136,
                "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                5_120,
                "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
            ),
        ],
    },
];

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Train,
    Test,
}

impl Known {
    /// The data set of that name; letters may be large, and `_` stand for `-`.
    pub fn named(name: &str) -> Option<&'static Self> {
        let name = name.to_ascii_lowercase().replace('_', "-");
        ALL.iter().find(|known| known.name == name)
    }

    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.train.iter().chain(&self.test)
    }

    pub fn bytes(&self) -> u64 {
        self.files().map(|file| file.bytes).sum()
    }

    pub fn folder(&self) -> Result<PathBuf> {
        Ok(folder()?.join(self.name))
    }

    pub fn is_here(&self) -> bool {
        self.folder().is_ok_and(|folder| self.files().all(|file| folder.join(file.name).is_file()))
    }
}

/// Where data sets are kept: in the folder that the system has for what can be had again; `SOFTREG_DATA` names another.
pub fn folder() -> Result<PathBuf> {
    let named = std::env::var_os("SOFTREG_DATA").map(PathBuf::from).filter(|folder| !folder.as_os_str().is_empty());
    let folder = named.or_else(|| Some(dirs::cache_dir()?.join("softreg").join("data")));
    folder.context("the system has no cache folder to keep data in; name one in SOFTREG_DATA")
}

/// What features are when they are no file: `mnist`, or `mnist/train` and `mnist/test`.
pub fn find(features: &Path) -> Option<(&'static Known, Option<Part>)> {
    if features.exists() {
        return None;
    }
    let text = features.to_str()?;
    let (name, part) = match text.split_once('/') {
        None => (text, None),
        Some((name, "train")) => (name, Some(Part::Train)),
        Some((name, "test")) => (name, Some(Part::Test)),
        Some(_) => return None,
    };
    Some((Known::named(name)?, part))
}

/// The test part of a data set that was named as a whole.
pub fn test_part(features: &Path) -> Option<PathBuf> {
    match find(features)? {
        (known, None) => Some(PathBuf::from(format!("{}/test", known.name))),
        _ => None,
    }
}

/// The same source, with the files of the data set where it names one, of `part` where it names none.
pub fn locate(source: &Source, part: Part) -> Result<Source> {
    let mut source = source.clone();
    let Some((known, named)) = find(&source.features) else { return Ok(source) };
    let [images, labels] = match named.unwrap_or(part) {
        Part::Train => &known.train,
        Part::Test => &known.test,
    };
    let (folder, name) = (known.folder()?, known.name);
    let (images, labels) = (folder.join(images.name), folder.join(labels.name));
    if !images.is_file() || !labels.is_file() {
        bail!(
            "{name} is not downloaded: `softreg download {name}` does that ({}, into {})",
            HumanBytes(known.bytes()),
            folder.display()
        );
    }
    source.features = images;
    if source.labels.is_none() && source.label_column.is_none() {
        source.labels = Some(labels);
    }
    Ok(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::digest;

    #[test]
    fn the_table_is_consistent() {
        for known in &ALL {
            assert!(std::ptr::eq(Known::named(&known.name.to_uppercase().replace('-', "_")).unwrap(), known));
            assert!(!known.addresses.is_empty());
            for address in known.addresses {
                assert!(address.starts_with("http") && !address.ends_with('/'), "{address}");
            }
            let mut names: Vec<&str> = known.files().map(|file| file.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), 4);
        }
        let mut sums: Vec<&str> = ALL.iter().flat_map(Known::files).map(|file| file.sha256).collect();
        assert!(sums.iter().all(|sum| sum.len() == 64 && sum.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))));
        sums.sort_unstable();
        sums.dedup();
        assert_eq!(sums.len(), 12);
    }

    #[test]
    fn real_files_have_the_checksums_of_the_table() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/mnist-10k");
        if !folder.is_dir() {
            return eprintln!("skipped: ../shared/data/mnist-10k is not there");
        }
        let mnist = Known::named("mnist").unwrap();
        for file in &mnist.test {
            let path = folder.join(file.name);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), file.bytes, "{}", file.name);
            assert_eq!(digest(&path).unwrap(), file.sha256, "{}", file.name);
        }
        assert_ne!(digest(&folder.join(mnist.test[0].name)).unwrap(), mnist.test[1].sha256);
    }

    #[test]
    fn names_may_have_a_part() {
        let found = |name: &str| find(Path::new(name)).map(|(known, part)| (known.name, part));
        assert_eq!(found("Fashion_MNIST"), Some(("fashion-mnist", None)));
        assert_eq!(found("mnist/train"), Some(("mnist", Some(Part::Train))));
        assert_eq!(found("kmnist/test"), Some(("kmnist", Some(Part::Test))));
        for other in ["mnist.csv", "mnist/x", "./mnist", "x/mnist", "", "mnist/"] {
            assert_eq!(found(other), None, "{other}");
        }
        assert_eq!(test_part(Path::new("MNIST")), Some(PathBuf::from("mnist/test")));
        assert_eq!(test_part(Path::new("mnist/train")), None);
    }
}
