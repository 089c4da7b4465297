//! Names by number: labels, and the categories of columns of text.

use std::collections::HashMap;

use crate::data::{Labels, Targets};
use crate::error::Result;

/// Names that came last are found without the map, by a number of this many bits.
const RECENT: u32 = 10;

/// So many names are kept from one block of a file to the next.
const MAX_KEPT: usize = 1 << 12;

/// Names of rows, each distinct one kept once.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The name of each row.
    pub codes: Vec<u32>,
    /// The distinct names, as they first came.
    pub names: Vec<String>,
    numbers: HashMap<String, u32>,
    /// Some of the codes, by [`slot`].
    recent: Vec<u32>,
    /// The codes that the first names have where the rows were added to.
    added: Vec<u32>,
}

impl Names {
    /// Names that are known before.
    pub fn known(names: &[String]) -> Self {
        let mut known = Self::default();
        names.iter().for_each(|name| _ = known.code(name.as_bytes()));
        known
    }

    /// Adds the name of a row; whether it is UTF-8.
    #[inline]
    pub fn push(&mut self, name: &[u8]) -> bool {
        let code = self.recent(name).or_else(|| self.code(name));
        self.codes.extend(code);
        code.is_some()
    }

    /// The code of a name that is there.
    #[inline]
    pub fn find(&mut self, name: &[u8]) -> Option<u32> {
        self.recent(name).or_else(|| {
            let code = *self.numbers.get(std::str::from_utf8(name).ok()?)?;
            self.remember(name, code);
            Some(code)
        })
    }

    fn recent(&self, name: &[u8]) -> Option<u32> {
        let code = *self.recent.get(slot(name))?;
        self.names.get(code as usize).is_some_and(|known| known.as_bytes() == name).then_some(code)
    }

    fn remember(&mut self, name: &[u8], code: u32) {
        self.recent.resize(1 << RECENT, u32::MAX);
        self.recent[slot(name)] = code;
    }

    fn code(&mut self, name: &[u8]) -> Option<u32> {
        let text = std::str::from_utf8(name).ok()?;
        let code = match self.numbers.get(text) {
            Some(&code) => code,
            None => {
                // There are no more names than rows, of which there are fewer than 2³² in the end.
                let code = self.names.len() as u32;
                self.numbers.insert(text.to_owned(), code);
                self.names.push(text.to_owned());
                code
            }
        };
        self.remember(name, code);
        Some(code)
    }

    /// Adds the rows of another, and takes them from it.
    pub fn append(&mut self, other: &mut Self) {
        let new = other.names.iter().skip(other.added.len()).filter_map(|name| self.code(name.as_bytes()));
        other.added.extend(new);
        self.codes.extend(other.codes.drain(..).map(|code| other.added[code as usize]));
        if other.names.len() > MAX_KEPT {
            *other = Self::default();
        }
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
        // In the same memory.
        let indices: Vec<u32> = self.codes.into_iter().map(|code| order[code as usize]).collect();
        Labels::from_indices(indices, classes)
    }
}

/// A number of [`RECENT`] bits, which few names share: of the length, and of the bytes at the start, in the middle and at the end.
#[inline]
fn slot(name: &[u8]) -> usize {
    let n = name.len();
    let byte = |at: usize| name.get(at).copied().unwrap_or(0);
    let bytes = u32::from_le_bytes([byte(0), byte(n / 2), byte(n.wrapping_sub(2)), byte(n.wrapping_sub(1))]);
    ((bytes ^ n as u32).wrapping_mul(0x9e37_79b9) >> (32 - RECENT)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_all_names_at_once() {
        let all = ["10", "9", "10", "2", "9", "2"];
        let (mut a, mut b) = (Names::default(), Names::default());
        all[..3].iter().for_each(|name| assert!(a.push(name.as_bytes())));
        // Also when they are added in parts.
        for part in [&all[3..4], &all[4..]] {
            part.iter().for_each(|name| assert!(b.push(name.as_bytes())));
            a.append(&mut b);
        }
        assert!(!a.push(b"\xff"));
        let expected = Labels::from_names(&all).unwrap();
        let labels = a.into_labels().unwrap();
        assert_eq!(labels.classes(), expected.classes());
        assert_eq!(format!("{:?}", labels.targets()), format!("{:?}", expected.targets()));
    }

    #[test]
    fn many_names_keep_their_codes() {
        let (mut whole, mut block) = (Names::default(), Names::default());
        let name = |i: usize| format!("name {}", i * i % 7919);
        for part in 0..20 {
            (part * 1000..(part + 1) * 1000).for_each(|i| assert!(block.push(name(i).as_bytes())));
            whole.append(&mut block);
            assert!(block.codes.is_empty() && block.names.len() <= MAX_KEPT);
        }
        assert_eq!(whole.codes.len(), 20_000);
        whole.codes.iter().enumerate().for_each(|(i, &code)| assert_eq!(whole.names[code as usize], name(i)));
        let mut known = Names::known(&whole.names);
        assert_eq!(known.names, whole.names);
        (0..20_000).for_each(|i| assert_eq!(known.find(name(i).as_bytes()), Some(whole.codes[i])));
        assert_eq!((known.find(b"name"), known.find(b"\xff")), (None, None));
    }
}
