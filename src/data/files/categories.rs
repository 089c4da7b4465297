//! Names by number: labels, and the categories of columns of text.

use std::collections::HashMap;
use std::ops::Range;

use rayon::prelude::*;

use crate::data::{Labels, Targets};
use crate::error::Result;

/// Names that came last are found without the map, by a number of this many bits.
const RECENT: u32 = 10;

/// So many names are kept from one block of a file to the next.
const MAX_KEPT: usize = 1 << 12;

/// A name that is looked up.
#[derive(Clone, Copy)]
pub(super) struct Name<'a> {
    pub bytes: &'a [u8],
    /// Its first and its last eight bytes, with zeros for those that it has not: with the length they say all of one of up to 16.
    ends: [u64; 2],
}

impl<'a> Name<'a> {
    /// What stands there in a text. The bytes around it are loaded with it, since no processor foresees the length of a name.
    #[inline]
    pub fn within(text: &'a [u8], Range { start, end }: Range<usize>) -> Self {
        let bytes = &text[start..end];
        let first = text.get(start..).and_then(<[u8]>::first_chunk);
        let (Some(&first), Some(&last)) = (first, text[..end].last_chunk()) else { return Self::from(bytes) };
        let n_others = 64 - 8 * bytes.len().min(8) as u32;
        let mask = u64::MAX.checked_shr(n_others).unwrap_or(0);
        let last = u64::from_le_bytes(last) & mask.checked_shl(n_others).unwrap_or(0);
        Self { bytes, ends: [u64::from_le_bytes(first) & mask, last] }
    }

    /// A number of [`RECENT`] bits, which few names share.
    #[inline]
    fn slot(&self) -> usize {
        let [first, last] = self.ends;
        let mixed = first.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ last.wrapping_add(self.bytes.len() as u64);
        (mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> (64 - RECENT)) as usize
    }
}

impl<'a> From<&'a [u8]> for Name<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> Self {
        let ends = match (bytes.first_chunk(), bytes.last_chunk()) {
            (Some(&first), Some(&last)) => [first, last],
            _ => {
                let (mut first, mut last) = ([0; 8], [0; 8]);
                first[..bytes.len()].copy_from_slice(bytes);
                last[8 - bytes.len()..].copy_from_slice(bytes);
                [first, last]
            }
        };
        Self { bytes, ends: ends.map(u64::from_le_bytes) }
    }
}

/// A name that came lately, and its code.
#[derive(Debug, Clone, Copy)]
struct Recent {
    ends: [u64; 2],
    length: usize,
    code: u32,
}

/// Names of rows, each distinct one kept once.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The name of each row.
    pub codes: Vec<u32>,
    /// The distinct names, as they first came.
    pub names: Vec<String>,
    numbers: HashMap<String, u32>,
    /// Some of them, by [`Name::slot`].
    recent: Vec<Recent>,
    /// The codes that the first names have where the rows were added to.
    added: Vec<u32>,
}

impl Names {
    /// Names that are known before.
    pub fn known(names: &[String]) -> Self {
        let mut known = Self::default();
        names.iter().for_each(|name| _ = known.code(name.as_bytes().into()));
        known
    }

    /// Adds the name of a row; whether it is UTF-8.
    #[inline]
    pub fn push<'a>(&mut self, name: impl Into<Name<'a>>) -> bool {
        let name = name.into();
        let code = self.recent(name).or_else(|| self.code(name));
        if let Some(code) = code {
            self.codes.push(code);
        }
        code.is_some()
    }

    /// The code of a name that is there.
    #[inline]
    pub fn find<'a>(&mut self, name: impl Into<Name<'a>>) -> Option<u32> {
        let name = name.into();
        self.recent(name).or_else(|| {
            let code = *self.numbers.get(std::str::from_utf8(name.bytes).ok()?)?;
            self.remember(name, code);
            Some(code)
        })
    }

    #[inline]
    fn recent(&self, name: Name) -> Option<u32> {
        let &Recent { ends, length, code } = self.recent.get(name.slot())?;
        let is_same = ends == name.ends && length == name.bytes.len();
        let is_all = |code: u32| self.names.get(code as usize).is_some_and(|known| known.as_bytes() == name.bytes);
        (is_same && (length <= 16 || is_all(code))).then_some(code)
    }

    fn remember(&mut self, name: Name, code: u32) {
        // No name has this length.
        self.recent.resize(1 << RECENT, Recent { ends: [0; 2], length: usize::MAX, code: 0 });
        self.recent[name.slot()] = Recent { ends: name.ends, length: name.bytes.len(), code };
    }

    #[inline(never)]
    fn code(&mut self, name: Name) -> Option<u32> {
        let text = std::str::from_utf8(name.bytes).ok()?;
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
        let new = other.names.iter().skip(other.added.len()).filter_map(|name| self.code(name.as_bytes().into()));
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
        let mut indices = self.codes;
        indices.par_iter_mut().with_min_len(1 << 15).for_each(|code| *code = order[*code as usize]);
        Labels::from_indices(indices, classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Shuffle;

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
        assert!(!a.push(&b"\xff"[..]));
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
        assert_eq!((known.find(&b"name"[..]), known.find(&b"\xff"[..])), (None, None));
    }

    #[test]
    fn names_within_a_text_are_those_alone() {
        let mut random = Shuffle::new(1, 0);
        let (mut a, mut b, mut all) = (Names::default(), Names::default(), Vec::new());
        let mut n_around = 0;
        for i in 0..20_000 {
            // Of few bytes, so that names differ in one, and of lengths on both sides of those that are told apart at once.
            let text: Vec<u8> = (0..1 + i % 40).map(|_| b"xxxxxy\0z"[random.below(8)]).collect();
            let start = random.below(text.len().min(12));
            let end = start + random.below(text.len() - start + 1);
            let name = &text[start..end];
            n_around += usize::from(name.len() < 8 && start + 8 <= text.len() && end >= 8);
            let within = Name::within(&text, start..end);
            assert_eq!((within.bytes, within.ends), (name, Name::from(name).ends));
            assert!(a.push(within) && b.push(name));
            all.push(name.to_vec());
        }
        assert!(n_around > 1000, "{n_around}");
        assert!(a.codes == b.codes && a.names == b.names);
        a.codes.iter().zip(&all).for_each(|(&code, name)| assert_eq!(a.names[code as usize].as_bytes(), name));
    }
}
