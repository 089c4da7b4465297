//! Where bytes stand in a text that end fields: 64 bytes at a time, a bit for each, since no processor foresees the length of a field.

/// Bytes that are looked through at once.
const CHUNK: usize = 4096;

/// A bit for each byte that is one of these, the first the lowest.
#[inline]
pub(super) fn equal<const N: usize>(bytes: &[u8; 64], of: [u8; N]) -> u64 {
    // A loop that becomes vector instructions takes three times as long, words of eight bytes take five times.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every processor of this architecture has SSE2.
    return unsafe { equal_sse2(bytes, of) };
    #[cfg(not(target_arch = "x86_64"))]
    equal_anywhere(bytes, of)
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn equal_sse2<const N: usize>(bytes: &[u8; 64], of: [u8; N]) -> u64 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8, _mm_setzero_si128,
    };
    let quarters: [__m128i; 4] = bytemuck::cast(*bytes);
    quarters.iter().rev().fold(0, |mask, &quarter| {
        let mut is = _mm_setzero_si128();
        for byte in of {
            is = _mm_or_si128(is, _mm_cmpeq_epi8(quarter, _mm_set1_epi8(byte as i8)));
        }
        (mask << 16) | u64::from(_mm_movemask_epi8(is) as u16)
    })
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn equal_anywhere<const N: usize>(bytes: &[u8; 64], of: [u8; N]) -> u64 {
    static BITS: [u8; 64] = {
        let mut bits = [1; 64];
        let mut i = 0;
        while i < 64 {
            bits[i] <<= i % 8;
            i += 1;
        }
        bits
    };
    let mut found = [0; 64];
    for i in 0..64 {
        let is = of.iter().fold(0, |is, &byte| is | u8::from(bytes[i] == byte));
        found[i] = is.wrapping_neg() & BITS[i];
    }
    // The product adds up the eight bytes in the highest.
    let byte = |eight: &[u8; 8]| u64::from_le_bytes(*eight).wrapping_mul(0x0101_0101_0101_0101) >> 56;
    found.as_chunks().0.iter().rev().fold(0, |mask, eight| (mask << 8) | byte(eight))
}

/// The places of two bytes in a text, one after the other.
pub(super) struct Scan<'a> {
    text: &'a [u8],
    bytes: [u8; 2],
    /// Where the text is not looked through yet.
    from: usize,
    /// Those found there last, and how many there are; what follows has no meaning.
    found: Box<[u32; CHUNK + 64]>,
    n: usize,
    /// The first of them that was not taken.
    next: usize,
}

impl<'a> Scan<'a> {
    /// The text is shorter than 4 GiB.
    pub fn new(text: &'a [u8], bytes: [u8; 2]) -> Self {
        Self { text, bytes, from: 0, found: Box::new([0; CHUNK + 64]), n: 0, next: 0 }
    }

    /// The next place, or the length of the text.
    #[inline]
    pub fn next(&mut self) -> usize {
        if self.next >= self.n && !self.look_on() {
            return self.text.len();
        }
        let place = self.found[self.next] as usize;
        self.next += 1;
        place
    }

    /// The place that was taken last and the next ones, where they are found already.
    #[inline]
    pub fn around<const N: usize>(&self) -> Option<&[u32; N]> {
        self.found.get(self.next.checked_sub(1)?..self.n)?.first_chunk()
    }

    /// Takes `n` places that [`Self::around`] gave.
    #[inline]
    pub fn take(&mut self, n: usize) {
        self.next += n;
    }

    /// Leaves out what is before `at`.
    pub fn skip_to(&mut self, at: usize) {
        loop {
            while self.next < self.n {
                if self.found[self.next] as usize >= at {
                    return;
                }
                self.next += 1;
            }
            if !self.look_on() {
                return;
            }
        }
    }

    /// Looks on until there is one; whether there is.
    fn look_on(&mut self) -> bool {
        (self.n, self.next) = (0, 0);
        while self.n == 0 && self.from < self.text.len() {
            let to = self.text.len().min(self.from + CHUNK);
            for bytes in self.text[self.from..to].chunks(64) {
                let mut padded = [0; 64];
                let whole = bytes.first_chunk().unwrap_or_else(|| {
                    padded[..bytes.len()].copy_from_slice(bytes);
                    &padded
                });
                let mut mask = equal(whole, self.bytes);
                let n = self.n + mask.count_ones() as usize;
                // As few rounds as there are often, also where some of the places have no meaning.
                let mut places = self.found[self.n..].chunks_exact_mut(8);
                while mask != 0
                    && let Some(eight) = places.next()
                {
                    for place in eight {
                        *place = self.from as u32 + mask.trailing_zeros();
                        mask &= mask.wrapping_sub(1);
                    }
                }
                self.n = n;
                self.from += bytes.len();
            }
        }
        self.n > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Shuffle;

    #[test]
    fn bits_are_those_of_the_bytes() {
        let mut random = Shuffle::new(2, 0);
        for _ in 0..10_000 {
            let bytes: [u8; 64] = std::array::from_fn(|_| b",\n\x2d\xac+"[random.below(5)]);
            for of in [*b",\n", *b",,", [0xac, b'"']] {
                let expected = (0..64).fold(0, |mask, i| mask | (u64::from(of.contains(&bytes[i])) << i));
                assert_eq!(equal(&bytes, of), expected);
                assert_eq!(equal_anywhere(&bytes, of), expected);
            }
        }
    }

    #[test]
    fn places_are_those_found_byte_by_byte() {
        let mut n_around = 0;
        let mut random = Shuffle::new(1, 0);
        for length in (0..300).chain([4095, 4096, 4097, 8191, 10_000]) {
            for of in [2, 3, 8, 200, 5000] {
                let text: Vec<u8> = (0..length).map(|_| *b",\n\xff-".get(random.below(of)).unwrap_or(&b'+')).collect();
                let is_one = |at: &usize| text[*at] == b',' || text[*at] == b'\n';
                let expected: Vec<usize> = (0..length).filter(is_one).collect();
                let mut scan = Scan::new(&text, *b",\n");
                let found: Vec<usize> = expected.iter().map(|_| scan.next()).collect();
                assert_eq!(found, expected);
                assert_eq!((scan.next(), scan.next()), (length, length));
                let (mut scan, mut found) = (Scan::new(&text, *b",\n"), Vec::new());
                while found.len() < expected.len() {
                    if let Some(&[last, next @ ..]) = scan.around::<4>() {
                        assert_eq!(found.last(), Some(&(last as usize)));
                        found.extend(next.map(|place| place as usize));
                        scan.take(3);
                        n_around += 3;
                    } else {
                        found.push(scan.next());
                    }
                }
                assert_eq!(found, expected);
                let (mut scan, mut at) = (Scan::new(&text, *b",\n"), 0);
                while at < length {
                    at += random.below(1 + length);
                    scan.skip_to(at);
                    at = scan.next() + 1;
                    assert_eq!(Some(&(at - 1)), expected.iter().find(|&&place| place >= at - 1).or(Some(&length)));
                }
            }
        }
        // Otherwise they were found one by one.
        assert!(n_around > 10_000, "{n_around}");
    }
}
