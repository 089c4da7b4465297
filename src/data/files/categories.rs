//! Names by number: labels, and the categories of columns of text.

use std::collections::HashMap;

use crate::data::{Labels, Targets};
use crate::error::Result;

/// Names of rows, each distinct one kept once.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The name of each row.
    pub codes: Vec<u32>,
    /// The distinct names, as they first came.
    pub names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Names {
    /// Adds the name of a row; whether it is UTF-8.
    pub fn push(&mut self, name: &[u8]) -> bool {
        match std::str::from_utf8(name) {
            Ok(name) => {
                let code = self.code(name);
                self.codes.push(code);
                true
            }
            Err(_) => false,
        }
    }

    fn code(&mut self, name: &str) -> u32 {
        if let Some(&code) = self.numbers.get(name) {
            return code;
        }
        // There are no more names than rows, of which there are fewer than 2³² in the end.
        let code = self.names.len() as u32;
        self.numbers.insert(name.to_owned(), code);
        self.names.push(name.to_owned());
        code
    }

    /// Adds the rows of another.
    pub fn append(&mut self, other: &Self) {
        let codes: Vec<u32> = other.names.iter().map(|name| self.code(name)).collect();
        self.codes.extend(other.codes.iter().map(|&code| codes[code as usize]));
    }

    /// The distinct names in the order of classes, and the place of each code in it.
    pub fn sorted(&self) -> Result<(Vec<String>, Vec<u32>)> {
        let labels = Labels::from_names(&self.names)?;
        let order = match labels.targets() {
            Targets::Classes(classes) => classes.to_vec(),
            Targets::Distributions(_) => Vec::new(),
        };
        Ok((labels.classes().to_vec(), order))
    }

    /// The labels that the names are.
    pub fn into_labels(self) -> Result<Labels<'static>> {
        let (classes, order) = self.sorted()?;
        let indices: Vec<u32> = self.codes.iter().map(|&code| order[code as usize]).collect();
        Labels::from_indices(indices, classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_all_names_at_once() {
        let all = ["10", "9", "10", "2", "9", "2"];
        let (mut a, mut b) = (Names::default(), Names::default());
        all[..3].iter().for_each(|name| assert!(a.push(name.as_bytes())));
        all[3..].iter().for_each(|name| assert!(b.push(name.as_bytes())));
        assert!(!a.push(b"\xff"));
        a.append(&b);
        let expected = Labels::from_names(&all).unwrap();
        let labels = a.into_labels().unwrap();
        assert_eq!(labels.classes(), expected.classes());
        assert_eq!(format!("{:?}", labels.targets()), format!("{:?}", expected.targets()));
    }
}
