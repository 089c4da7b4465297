//! Numbers from text: what `str::parse::<f32>` gives, several times as fast.

#[cfg(target_arch = "x86_64")]
mod avx2;

/// The powers of ten from −22 to 22, of which doubles have those from 0 on exactly, and the others rounded.
const POWERS: [f64; 45] = [
    1e-22, 1e-21, 1e-20, 1e-19, 1e-18, 1e-17, 1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6,
    1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// The powers of ten that 64 bits have.
const TENS: [u64; 20] = {
    let mut powers = [1; 20];
    let mut i = 1;
    while i < 20 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// Eight times the character 0: what digits differ from it by is their value.
const ZEROS: u64 = 0x3030_3030_3030_3030;

/// By what a point differs from the character 0.
const POINT: u64 = (b'.' ^ b'0') as u64;

/// Digits that a mantissa has at most; what follows is below a tenth of the rounding of a double.
const MAX_DIGITS: usize = 19;

/// The number at the start of `text`, and how many bytes it has; none where it is not written plainly, or where it takes more than
/// this to round it well. A number then is what [`parse`] says of it.
///
/// The digits make a whole number w, and w·10^e is computed in double precision. w is rounded once where it has more than 53
/// bits, the power once, the product once, and digits are left out after the 19th: the relative error is below 3.1·2⁻⁵³, at most
/// 3.1 units in the last place. Rounding goes on to single precision: the only doubles near which the error matters are those in
/// the middle of two neighbours there, and they are left to [`parse`], as are other powers of ten, and results that are no
/// normal number. Lengths and signs are not branched on, since no processor foresees them.
#[inline]
pub(super) fn prefix(text: &[u8]) -> Option<(f32, usize)> {
    let first = *text.first()?;
    let is_negative = first == b'-';
    let mut at = usize::from(is_negative | (first == b'+'));
    let mut mantissa = 0u64;
    let begin = at;
    at = digits(text, at, &mut mantissa);
    let mut n_digits = at - begin;
    let mut exponent = 0i32;
    if text.get(at) == Some(&b'.') {
        let point = at + 1;
        at = digits(text, point, &mut mantissa);
        exponent = -((at - point) as i32);
        n_digits += at - point;
    }
    if n_digits == 0 {
        return None;
    }
    if n_digits > MAX_DIGITS {
        // The mantissa may have overflown.
        (mantissa, exponent) = first_digits(&text[begin..at])?;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let mut digit = at + 1;
        let mut is_below_1 = false;
        if let Some(sign @ (b'-' | b'+')) = text.get(digit) {
            is_below_1 = *sign == b'-';
            digit += 1;
        }
        let begin = digit;
        let mut written = 0i32;
        while let Some(value) = text.get(digit).map(|byte| byte.wrapping_sub(b'0')).filter(|value| *value < 10) {
            written = written * 10 + i32::from(value);
            digit += 1;
            if digit - begin > 4 {
                return None;
            }
        }
        if digit == begin {
            return None;
        }
        exponent += if is_below_1 { -written } else { written };
        at = digit;
    }
    let sign = u32::from(is_negative) << 31;
    if mantissa == 0 {
        return Some((f32::from_bits(sign), at));
    }
    let double = mantissa as f64 * *POWERS.get(usize::try_from(exponent + 22).ok()?)?;
    let is_normal = double > f64::from(f32::MIN_POSITIVE) * 2.0 && double < f64::from(f32::MAX) / 2.0;
    (is_safe(double) && is_normal).then(|| (f32::from_bits((double as f32).to_bits() | sign), at))
}

/// Whether a double, less than five units in the last place wrong, is far enough from the middle of two singles to be rounded to one.
#[inline]
fn is_safe(double: f64) -> bool {
    /// The bits of a double that single precision has not.
    const REST: u64 = (1 << 29) - 1;
    (double.to_bits() & REST).wrapping_sub((1 << 28) - 4) > 8
}

/// The number that is all of `text[begin..end]`, where it is at most 19 digits, with or without a point, a sign, or an exponent of two
/// digits and a sign; none where it is something else, or near the bounds of the text. A number then is what [`prefix`] and
/// [`parse`] say.
///
/// Digits are loaded from where they end, so that how many there are changes masks and not what is done. Rounding is that of
/// [`prefix`]: with powers of ten from −22 to 19 all results are 0 or normal.
#[inline]
pub(super) fn field(text: &[u8], begin: usize, end: usize) -> Option<f32> {
    let first = *text.get(begin)?;
    let is_negative = first == b'-';
    let begin = begin + usize::from(is_negative | (first == b'+'));
    let length = end.checked_sub(begin)?;
    let double = if length <= 8 { short(text, end, length)? } else { long(text, begin, end)? };
    let sign = u32::from(is_negative) << 31;
    is_safe(double).then(|| f32::from_bits((double as f32).to_bits() | sign))
}

/// How many fields [`four`] reads.
pub(super) const LANES: usize = 4;

/// The numbers of the four fields between five places of a text, where `terminator` stands at all but the first. None where the processor
/// has no AVX2, without which it is not faster than one after the other, where one of them is not written plainly, near the bounds
/// of the text, and where their lengths differ much from each other. Numbers then are what [`parse`] says.
#[inline]
pub(super) fn four(text: &[u8], places: &[u32; LANES + 1], terminator: u8) -> Option<[f32; LANES]> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has these instructions.
        return unsafe { avx2::four(text, places, terminator) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (text, places, terminator);
    None
}

/// A number of at most 8 bytes.
#[inline]
fn short(text: &[u8], end: usize, length: usize) -> Option<f64> {
    /// What a number is times that has its point in each of eight bytes, or none.
    const POWERS: [f64; 9] = [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1.0];
    let [eight] = eights(text, end)?;
    let values = eight & (!0u64).checked_shl(64 - 8 * length as u32)?;
    let others = others(values);
    // Of the point the lowest bit, and all bits before; without one no bit, and all.
    let point = (others & others.wrapping_neg()) >> 7;
    let before = point.wrapping_sub(1);
    let has_point = others != 0;
    // With 0 in the place of the point there are only digits.
    let values = values ^ (point * POINT);
    let in_place = values & (point << 8).wrapping_sub(point);
    if self::others(values) | in_place != 0 || length == usize::from(has_point) {
        return None;
    }
    // What is before the point takes its place.
    let before = values & before;
    let digits = (values ^ before) | (before << (8 * u32::from(has_point)));
    Some(value_of(digits) as i64 as f64 * POWERS[others.trailing_zeros() as usize / 8])
}

/// A number of more bytes, whose point is among the first eight.
#[inline]
fn long(text: &[u8], begin: usize, end: usize) -> Option<f64> {
    let (mut end, mut power) = (end, 22);
    if let Some(&[b'e' | b'E', sign, tens, ones]) = text.get(..end)?.last_chunk() {
        let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
        if (sign != b'-' && sign != b'+') || tens > 9 || ones > 9 {
            return None;
        }
        let exponent = usize::from(tens * 10 + ones);
        power = if sign == b'-' { 22usize.checked_sub(exponent)? } else { 22 + exponent.min(100) };
        end -= 4;
    }
    let first = u64::from_le_bytes(*text.get(begin..)?.first_chunk()?) ^ ZEROS;
    let bits_before = others(first).trailing_zeros() & !7;
    if first.checked_shr(bits_before)? & 0xff != POINT {
        return None;
    }
    let n_before = bits_before as usize / 8;
    let before = value_of((first << (56 - bits_before)) << 8);
    let n_behind = end.checked_sub(begin + n_before + 1)?;
    let behind = match n_behind {
        1..=8 => {
            let [low] = eights(text, end)?;
            digits_of([0, 0, low & (!0 << (64 - 8 * n_behind))])?
        }
        9..=MAX_DIGITS => {
            let [high, middle, low] = eights(text, end)?;
            let n_high = n_behind.saturating_sub(16);
            let n_middle = (n_behind - 8).min(8);
            digits_of([high & !(!0 >> (8 * n_high)), middle & (!0 << (64 - 8 * n_middle)), low])?
        }
        _ => return None,
    };
    // Zeros before the others are no digits that count.
    if before > 0 && n_before + n_behind > MAX_DIGITS {
        return None;
    }
    let mantissa = i64::try_from(before * TENS[n_behind] + behind).ok()?;
    let power = power.checked_sub(n_behind).filter(|&power| power <= 22 + MAX_DIGITS)?;
    Some(mantissa as f64 * POWERS[power])
}

/// The number that `text` is as a whole.
pub(super) fn parse(text: &[u8]) -> Option<f32> {
    match prefix(text) {
        Some((value, length)) if length == text.len() => Some(value),
        _ => std::str::from_utf8(text).ok()?.parse().ok(),
    }
}

/// Appends the digits from `at` on to the mantissa, modulo 2⁶⁴; where they end.
#[inline]
pub(super) fn digits(text: &[u8], mut at: usize, mantissa: &mut u64) -> usize {
    while let Some(&eight) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let eight = u64::from_le_bytes(eight);
        let n = n_digits(eight);
        if n < 8 {
            // Zeros come before them, and what follows is shifted out.
            let last = (eight << (56 - 8 * n)) << 8;
            *mantissa = mantissa.wrapping_mul(TENS[n]).wrapping_add(value_of(last));
            return at + n;
        }
        *mantissa = mantissa.wrapping_mul(TENS[8]).wrapping_add(value_of(eight));
        at += 8;
    }
    while let Some(value) = text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|value| *value < 10) {
        *mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(value));
        at += 1;
    }
    at
}

/// How many of eight bytes are digits, from the lowest on to the first that is none.
#[inline]
fn n_digits(eight: u64) -> usize {
    others(eight ^ ZEROS).trailing_zeros() as usize / 8
}

/// The highest bit of each byte that is no value of a digit, up to the first, and behind a point also up to the second. Digits become 0 to
/// 9, to which 0x76 can be added without a carry or the highest bit; what is carried from other bytes only changes higher ones,
/// and a point carries nothing.
#[inline]
fn others(values: u64) -> u64 {
    (values.wrapping_add(0x7676_7676_7676_7676) | values) & 0x8080_8080_8080_8080
}

/// What the bytes before `end` differ from the character 0 by, eight in each word.
#[inline]
fn eights<const N: usize>(text: &[u8], end: usize) -> Option<[u64; N]> {
    let eights = text.get(end.checked_sub(8 * N)?..end)?.as_chunks().0.first_chunk()?;
    Some(eights.map(|eight| u64::from_le_bytes(eight) ^ ZEROS))
}

/// The number that three times eight values of digits are, if they are, and if it has at most 19.
#[inline]
fn digits_of([high, middle, low]: [u64; 3]) -> Option<u64> {
    let value = || value_of(high) * TENS[16] + value_of(middle) * TENS[8] + value_of(low);
    (others(high) | others(middle) | others(low) == 0).then(value)
}

/// The value of eight digits, the first in the lowest byte: neighbours are joined to pairs, pairs to fours, fours to eight.
#[inline]
fn value_of(eight: u64) -> u64 {
    let ones = eight & 0x0f0f_0f0f_0f0f_0f0f;
    let pairs = (ones.wrapping_mul(10 * 256 + 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100 * 65_536 + 1) >> 16) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000 * (1 << 32) + 1) >> 32
}

/// The first 19 digits that count of a longer number without an exponent, and the power of ten that they are times.
fn first_digits(text: &[u8]) -> Option<(u64, i32)> {
    let (mut mantissa, mut n_digits, mut exponent, mut has_point) = (0u64, 0, 0i32, false);
    for &byte in text {
        if byte == b'.' {
            has_point = true;
            continue;
        }
        exponent = exponent.checked_sub(i32::from(has_point))?;
        if n_digits < MAX_DIGITS {
            mantissa = mantissa * 10 + u64::from(byte - b'0');
            n_digits += usize::from(mantissa > 0);
        } else {
            exponent = exponent.checked_add(1)?;
        }
    }
    Some((mantissa, exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator of tests (SplitMix64).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, n: u64) -> usize {
            (self.next() % n) as usize
        }
    }

    /// That it is what the standard library says also when it is read with three others; how often it was.
    #[track_caller]
    fn n_by_four(text: &str) -> usize {
        let others = [
            ["7", ".5", "-12.25"],
            ["0.1234567890123456789", "-314.0000000001", "12"],
            ["1.5e+03", "-2e-18", "7.25E+01"],
        ];
        let mut n = 0;
        for (i, others) in others.iter().enumerate() {
            let mut fields = others.to_vec();
            fields.insert((text.len() + i) % 4, text);
            let mut line = "5.,".repeat(10);
            let mut places = [line.len() as u32 - 1; LANES + 1];
            for (field, place) in fields.iter().zip(&mut places[1..]) {
                line += field;
                *place = line.len() as u32;
                line.push(',');
            }
            line += &"-.5".repeat(50);
            if let Some(values) = four(line.as_bytes(), &places, b',') {
                let expected = fields.iter().map(|field| field.parse::<f32>().ok().map(f32::to_bits));
                assert!(expected.eq(values.iter().map(|value| Some(value.to_bits()))), "{fields:?}: {values:?}");
                n += 1;
            }
            // Another row begins.
            let mut lines = line.into_bytes();
            lines[places[1 + i] as usize] = b'\n';
            assert_eq!(four(&lines, &places, b','), None, "{fields:?}");
        }
        n
    }

    /// That it is what the standard library says, to the bit; whether it is so without it.
    #[track_caller]
    fn check(text: &str) -> bool {
        let expected = text.parse::<f32>().ok();
        let found = parse(text.as_bytes());
        assert_eq!(found.map(f32::to_bits), expected.map(f32::to_bits), "{text}: {found:?}, not {expected:?}");
        // Whatever is beside it.
        let beside = ["", "0", "5.5,77777777777777777777777777", "\n.-e"];
        for (i, before) in beside.iter().enumerate() {
            let (begin, behind) = (before.len(), beside[(i + text.len()) % 4]);
            let line = format!("{before}{text}{behind}");
            if let Some(value) = field(line.as_bytes(), begin, begin + text.len()) {
                assert_eq!(Some(value.to_bits()), expected.map(f32::to_bits), "{text} in {line}: {value}");
            }
        }
        n_by_four(text);
        let fast = prefix(text.as_bytes());
        if let Some((value, length)) = fast {
            // A prefix is a number of its own, whatever follows.
            assert_eq!(text[..length].parse::<f32>().map(f32::to_bits), Ok(value.to_bits()), "{text}: {length}");
        }
        fast.is_some_and(|(_, length)| length == text.len())
    }

    #[test]
    fn every_way_to_write_a_number() {
        for text in [
            "0",
            "-0",
            "+0",
            "0.0",
            "-0.0",
            "1",
            "+1",
            "-1",
            "007",
            "1.",
            ".5",
            "-.5",
            "+.5e1",
            "1e0",
            "1E5",
            "1e+5",
            "1e-5",
            "1.5e-3",
            "123456789",
            "1234567890123456789",
            "12345678901234567890",
            "0.12345678901234567890123",
            "00000000000000000000000000001.5",
            "0.000000000000000000000000000000000000001",
            "1e-45",
            "1e-46",
            "3.4028235e38",
            "3.4028236e38",
            "1e39",
            "-1e39",
            "1e300",
            "1e9999",
            "1e99999",
            "1e-99999",
            "1.17549435e-38",
            "1.1754942e-38",
            "16777217",
            "16777219",
            "16777217.0000001",
            "0.1",
            "0.3",
            "9007199254740993",
            "8388608.5",
            "8388609.5",
            "1e22",
            "1e23",
            "1e10000000000000000000000",
            "0e99999",
            "0e1",
            "100000000000000000000000000000000000000",
            "33554435",
            "1.00000005960464477539062500000000000000000000000000000001",
            "1.000000059604644775390625",
            "1.00000005960464477539062499999999999999999999999",
            "nan",
            "NaN",
            "inf",
            "-inf",
            "infinity",
            "+Infinity",
            "-nan",
        ] {
            check(text);
        }
        for text in [
            "",
            "-",
            "+",
            ".",
            "-.",
            "e5",
            "1e",
            "1e+",
            "1e-",
            "--1",
            "+-1",
            "1.2.3",
            "1,5",
            "1 ",
            " 1",
            "0x10",
            "1_000",
            "1f",
            "12345678x",
            "1234567\u{1}",
            "١",
            "1e5.5",
            "1e 5",
            "\u{fffd}",
        ] {
            assert!(!check(text) && parse(text.as_bytes()).is_none(), "{text}");
        }
        assert_eq!(parse(b"\xff1"), None);
    }

    #[test]
    fn numbers_as_programs_write_them() {
        let mut random = Random(1);
        let mut n_fast = 0;
        let n = 300_000;
        for i in 0..n {
            let single = f32::from_bits(random.next() as u32);
            let near_1 = (random.next() as f64 / u64::MAX as f64 - 0.5) * 10f64.powi(random.below(12) as i32 - 4);
            n_fast += usize::from(check(&match i % 10 {
                0 => format!("{single}"),
                1 => format!("{single:e}"),
                2 => format!("{near_1}"),
                3 => format!("{near_1:.6}"),
                4 => format!("{near_1:.17e}"),
                5 => format!("{near_1:.25}"),
                6 => (random.next() >> random.below(64)).to_string(),
                7 => (near_1 as f32).to_string(),
                8 => format!("{near_1:.9}"),
                _ => format!("{}", f64::from_bits(random.next())),
            }));
        }
        // Otherwise nothing but the standard library was compared with itself.
        assert!(n_fast > n / 2, "{n_fast}");
    }

    #[test]
    fn plain_fields_are_read_as_such() {
        let mut random = Random(4);
        let n = 300_000;
        let (mut n_fast, mut n_fours) = (0, 0);
        for i in 0..n {
            let (n_before, n_behind) = (random.below(9), random.below(20));
            let digits = |random: &mut Random, n| -> String {
                (0..n).map(|_| char::from(b'0' + random.below(10) as u8)).collect()
            };
            let sign = ["", "-", "+"][random.below(3)];
            let (before, behind) = (digits(&mut random, n_before), digits(&mut random, n_behind));
            let text = match i % 4 {
                0 => format!("{sign}{before}"),
                3 => format!("{sign}{before}.{behind}e{}{}", ["-", "+"][random.below(2)], digits(&mut random, 2)),
                1 => format!("{sign}0.{behind}"),
                _ => format!("{sign}{before}.{behind}"),
            };
            check(&text);
            let line = format!("1234567,{text},12345678");
            n_fast += usize::from(field(line.as_bytes(), 8, 8 + text.len()).is_some());
            n_fours += n_by_four(&text);
        }
        // Many exponents are too large.
        assert!(n_fast > n / 2, "{n_fast}");
        let line = "1,".repeat(100);
        let has_four = four(line.as_bytes(), &[31, 33, 35, 37, 39], b',') == Some([1.0; LANES]);
        assert!(!has_four || n_fours > n / 2, "{n_fours}");
        #[cfg(target_arch = "x86_64")]
        assert_eq!(has_four, is_x86_feature_detected!("avx2"));
    }

    #[test]
    fn the_middle_of_two_neighbours_and_what_is_just_beside_it() {
        let mut random = Random(2);
        for _ in 0..100_000 {
            let below = f32::from_bits(random.next() as u32 & 0x7fff_ffff);
            if !below.is_finite() {
                continue;
            }
            let middle = (f64::from(below) + f64::from(below.next_up())) / 2.0;
            for value in [middle.next_down(), middle, middle.next_up()] {
                check(&format!("{value}"));
                check(&format!("{value:e}"));
                check(&format!("{value:.17e}"));
                // Digits that no double has.
                if value.abs() < 1e15 && value.abs() > 1e-5 {
                    check(&format!("{value:.60}1"));
                }
            }
        }
    }

    #[test]
    fn random_text_of_the_characters_of_numbers() {
        let mut random = Random(3);
        for _ in 0..300_000 {
            let length = random.below(30);
            let text: String = (0..length).map(|_| char::from(b"00123456789999.e-+E"[random.below(19)])).collect();
            check(&text);
        }
    }
}
