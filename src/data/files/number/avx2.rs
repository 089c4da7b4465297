//! Four numbers at once, one in each lane of AVX2 vectors.
//!
//! Nothing branches on what stands in a field: one that is not as expected leaves a mark, and then none of the four is taken.

use std::arch::x86_64::*;

use super::LANES;

/// Four fields of at most so many bytes, with what ends them, are read as short ones: a sign, eight others and the terminator.
const SHORT: usize = 10 * LANES;

/// Four fields have at most so many bytes: one less than a power of two, so that it masks places that need no check then.
const LONG: usize = 127;

/// How many bytes before the first place are looked at: three words.
const BEFORE: usize = 24;

/// The text around five places, from [`BEFORE`] the first one on.
type Window = [u8; BEFORE + LONG + 8];

/// As [`super::four`].
#[target_feature(enable = "avx2")]
pub(super) fn four(text: &[u8], places: &[u32; LANES + 1], terminator: u8) -> Option<[f32; LANES]> {
    let [from, to @ ..] = *places;
    let window: &Window = text.get((from as usize).checked_sub(BEFORE)?..)?.first_chunk()?;
    let length = to[3].wrapping_sub(from) as usize;
    if length > LONG || window[BEFORE + length] != terminator {
        return None;
    }
    let distance = |place: u32| place.wrapping_sub(from) as usize;
    let begins = [0, distance(to[0]), distance(to[1]), distance(to[2])];
    let ends = [distance(to[0]), distance(to[1]), distance(to[2]), length];
    let text = words::<BEFORE>(window, begins);
    // At the first place anything may stand.
    let is_other = _mm256_xor_si256(text, _mm256_set1_epi64x(terminator.into()));
    let mut wrong = _mm256_and_si256(is_other, _mm256_set_epi64x(0xff, 0xff, 0xff, 0));

    let first = _mm256_and_si256(_mm256_srli_epi64(text, 8), _mm256_set1_epi64x(0xff));
    let is_negative = _mm256_cmpeq_epi64(first, _mm256_set1_epi64x(b'-'.into()));
    let has_sign = _mm256_or_si256(is_negative, _mm256_cmpeq_epi64(first, _mm256_set1_epi64x(b'+'.into())));
    let lengths = _mm_sub_epi32(bytemuck::cast(to), bytemuck::cast([from, to[0], to[1], to[2]]));
    // The terminator and the sign do not count; what is true is −1.
    let lengths = _mm256_sub_epi64(_mm256_cvtepi32_epi64(lengths), _mm256_set1_epi64x(1));
    let lengths = _mm256_add_epi64(lengths, has_sign);

    let values = if length <= SHORT {
        short(words::<{ BEFORE - 8 }>(window, ends), lengths, &mut wrong)
    } else {
        let behind_sign = _mm256_add_epi64(_mm256_set1_epi64x(8), _mm256_and_si256(has_sign, _mm256_set1_epi64x(8)));
        let start = _mm256_srlv_epi64(text, behind_sign);
        if window[BEFORE + length - 4] | 0x20 == b'e' {
            let lengths = _mm256_sub_epi64(lengths, _mm256_set1_epi64x(4));
            // What is before the window has a length that is wrong.
            let [a, b, c, d] = ends;
            let at_e = [a.wrapping_sub(4), b.wrapping_sub(4), c.wrapping_sub(4), d.wrapping_sub(4)];
            let mantissas = long(window, at_e, start, lengths, &mut wrong);
            scaled(mantissas, words::<{ BEFORE - 8 }>(window, ends), &mut wrong)
        } else {
            let Mantissas { values, power, .. } = long(window, ends, start, lengths, &mut wrong);
            _mm256_div_pd(values, power)
        }
    };
    // As `is_safe`.
    let from_middle = _mm256_sub_epi64(_mm256_castpd_si256(values), _mm256_set1_epi64x((1 << 28) - 4));
    let from_middle = _mm256_and_si256(from_middle, _mm256_set1_epi64x((1 << 29) - 1));
    demand(_mm256_cmpgt_epi64(from_middle, _mm256_set1_epi64x(8)), &mut wrong);
    let sign = _mm256_and_pd(_mm256_castsi256_pd(is_negative), _mm256_set1_pd(-0.0));
    let singles = _mm256_cvtpd_ps(_mm256_or_pd(values, sign));
    (_mm256_testz_si256(wrong, wrong) == 1).then(|| bytemuck::cast(singles))
}

/// Numbers of at most eight bytes, with which `text` ends.
#[inline]
#[target_feature(enable = "avx2")]
fn short(text: __m256i, lengths: __m256i, wrong: &mut __m256i) -> __m256d {
    let values = _mm256_and_si256(values(text), last(lengths, 64));
    let point = first_other(values);
    let at_point = _mm256_sub_epi64(_mm256_slli_epi64(point, 8), point);
    // With 0 in the place of the point there are only digits.
    let values = _mm256_xor_si256(values, _mm256_and_si256(at_point, points()));
    mark(_mm256_or_si256(others(values), _mm256_and_si256(values, at_point)), wrong);
    let has_none = _mm256_cmpeq_epi64(point, _mm256_setzero_si256());
    let n_points = _mm256_add_epi64(_mm256_set1_epi64x(1), has_none);
    demand(_mm256_cmpgt_epi64(lengths, n_points), wrong);
    demand(_mm256_cmpgt_epi64(_mm256_set1_epi64x(9), lengths), wrong);
    // What is before the point takes its place.
    let before = _mm256_and_si256(values, _mm256_sub_epi64(point, _mm256_set1_epi64x(1)));
    let moved = _mm256_blendv_epi8(_mm256_slli_epi64(before, 8), before, has_none);
    let digits = _mm256_or_si256(_mm256_xor_si256(values, before), moved);
    let up_to_point = _mm256_sub_epi64(_mm256_slli_epi64(point, 8), _mm256_set1_epi64x(1));
    let n_behind = sum(_mm256_andnot_si256(up_to_point, _mm256_set1_epi8(1)));
    _mm256_div_pd(double(value_of(digits)), power_below_8(n_behind))
}

/// Numbers without their points.
struct Mantissas {
    values: __m256d,
    n_behind: __m256i,
    /// Ten to the number of digits behind the point.
    power: __m256d,
}

/// Numbers that begin with `start`, up to seven digits, and then are at an end, or have a point and 1 to 19 digits.
///
/// Up to 15 digits are exact. The digits behind the point make a double that is rounded twice; what is before the point is 0, or it is
/// larger, and then it is rounded and the sum, and half of the errors before count. The power that they are times, in one step or two,
/// rounds as often: the relative error is below 4.6·2⁻⁵³.
#[inline]
#[target_feature(enable = "avx2")]
fn long(window: &Window, ends: [usize; LANES], start: __m256i, lengths: __m256i, wrong: &mut __m256i) -> Mantissas {
    let start = values(start);
    let end = first_other(start);
    let at_end = _mm256_sub_epi64(_mm256_slli_epi64(end, 8), end);
    let before = _mm256_sub_epi64(end, _mm256_set1_epi64x(1));
    let n_before = sum(_mm256_and_si256(before, _mm256_set1_epi8(1)));
    let space = _mm256_sub_epi64(_mm256_set1_epi64x(64), _mm256_slli_epi64(n_before, 3));
    let whole = double(value_of(_mm256_sllv_epi64(_mm256_and_si256(start, before), space)));
    let n_behind = _mm256_sub_epi64(_mm256_sub_epi64(lengths, n_before), _mm256_set1_epi64x(1));
    let is_whole = _mm256_cmpeq_epi64(n_behind, _mm256_set1_epi64x(-1));
    let no_point = _mm256_and_si256(_mm256_xor_si256(start, points()), at_end);
    mark(_mm256_andnot_si256(is_whole, no_point), wrong);
    demand(_mm256_or_si256(is_whole, _mm256_cmpgt_epi64(n_behind, _mm256_setzero_si256())), wrong);
    demand(_mm256_cmpgt_epi64(_mm256_set1_epi64x(20), n_behind), wrong);
    demand(_mm256_cmpgt_epi64(lengths, _mm256_setzero_si256()), wrong);
    let n_behind = _mm256_andnot_si256(is_whole, n_behind);
    let power = power_below_24(n_behind);
    let low = _mm256_and_si256(values(words::<{ BEFORE - 8 }>(window, ends)), last(n_behind, 64));
    mark(others(low), wrong);
    let mut behind = double(value_of(low));
    let is_more = _mm256_cmpgt_epi64(n_behind, _mm256_set1_epi64x(8));
    if _mm256_testz_si256(is_more, is_more) == 0 {
        let high = _mm256_and_si256(values(words::<{ BEFORE - 24 }>(window, ends)), last(n_behind, 192));
        let middle = _mm256_and_si256(values(words::<{ BEFORE - 16 }>(window, ends)), last(n_behind, 128));
        mark(_mm256_or_si256(others(high), others(middle)), wrong);
        let high = _mm256_mul_pd(double(value_of(high)), _mm256_set1_pd(1e16));
        let middle = _mm256_mul_pd(double(value_of(middle)), _mm256_set1_pd(1e8));
        behind = _mm256_add_pd(high, _mm256_add_pd(middle, behind));
    }
    Mantissas { values: _mm256_add_pd(_mm256_mul_pd(whole, power), behind), n_behind, power }
}

/// Mantissas times ten to an exponent of two digits, with which `text` ends. With those up to 18 all results are 0 or normal.
#[inline]
#[target_feature(enable = "avx2")]
fn scaled(mantissas: Mantissas, text: __m256i, wrong: &mut __m256i) -> __m256d {
    let e = _mm256_and_si256(_mm256_srli_epi64(text, 32), _mm256_set1_epi64x(0xdf));
    demand(_mm256_cmpeq_epi64(e, _mm256_set1_epi64x(b'E'.into())), wrong);
    let sign = _mm256_and_si256(_mm256_srli_epi64(text, 40), _mm256_set1_epi64x(0xff));
    let is_negative = _mm256_cmpeq_epi64(sign, _mm256_set1_epi64x(b'-'.into()));
    let is_positive = _mm256_cmpeq_epi64(sign, _mm256_set1_epi64x(b'+'.into()));
    demand(_mm256_or_si256(is_negative, is_positive), wrong);
    let digits = _mm256_and_si256(self::values(text), _mm256_set1_epi64x(-1 << 48));
    mark(others(digits), wrong);
    let exponents = value_of(digits);
    demand(_mm256_cmpgt_epi64(_mm256_set1_epi64x(19), exponents), wrong);
    let exponents = _mm256_sub_epi64(_mm256_xor_si256(exponents, is_negative), is_negative);
    let exponents = _mm256_sub_epi64(exponents, mantissas.n_behind);
    // Powers up to 22 are exact.
    let least = _mm256_set1_epi64x(-22);
    let is_less = _mm256_cmpgt_epi64(least, exponents);
    let values = times(mantissas.values, _mm256_blendv_epi8(exponents, least, is_less));
    if _mm256_testz_si256(is_less, is_less) == 1 {
        return values;
    }
    times(values, _mm256_and_si256(_mm256_sub_epi64(exponents, least), is_less))
}

/// Values times ten to exponents from −23 to 23.
#[inline]
#[target_feature(enable = "avx2")]
fn times(values: __m256d, exponents: __m256i) -> __m256d {
    let is_negative = _mm256_cmpgt_epi64(_mm256_setzero_si256(), exponents);
    let power = power_below_24(_mm256_sub_epi64(_mm256_xor_si256(exponents, is_negative), is_negative));
    let (larger, smaller) = (_mm256_mul_pd(values, power), _mm256_div_pd(values, power));
    _mm256_blendv_pd(larger, smaller, _mm256_castsi256_pd(is_negative))
}

/// The eight bytes from `FROM` on, and so much further on for each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn words<const FROM: usize>(window: &Window, [a, b, c, d]: [usize; LANES]) -> __m256i {
    _mm256_set_epi64x(
        word::<FROM>(window, d),
        word::<FROM>(window, c),
        word::<FROM>(window, b),
        word::<FROM>(window, a),
    )
}

#[inline(always)]
fn word<const FROM: usize>(window: &Window, at: usize) -> i64 {
    window[(at & LONG) + FROM..].first_chunk().map_or(0, |eight| i64::from_le_bytes(*eight))
}

#[inline]
#[target_feature(enable = "avx2")]
fn mark(those: __m256i, wrong: &mut __m256i) {
    *wrong = _mm256_or_si256(*wrong, those);
}

/// Marks where it is not so.
#[inline]
#[target_feature(enable = "avx2")]
fn demand(is_right: __m256i, wrong: &mut __m256i) {
    mark(_mm256_xor_si256(is_right, _mm256_set1_epi64x(-1)), wrong);
}

/// What bytes differ from the character 0 by.
#[inline]
#[target_feature(enable = "avx2")]
fn values(text: __m256i) -> __m256i {
    _mm256_xor_si256(text, _mm256_set1_epi8(b'0' as i8))
}

/// By what a point does, in every byte.
#[inline]
#[target_feature(enable = "avx2")]
fn points() -> __m256i {
    _mm256_set1_epi8((b'.' ^ b'0') as i8)
}

/// The bits of the last `n` bytes before an end that is `end` bits on.
#[inline]
#[target_feature(enable = "avx2")]
fn last(n: __m256i, end: i64) -> __m256i {
    let before = _mm256_sub_epi64(_mm256_set1_epi64x(end), _mm256_slli_epi64(n, 3));
    // Of a negative number both halves become 0. Of 64 bits or more none are left.
    _mm256_sllv_epi64(_mm256_set1_epi64x(-1), _mm256_max_epi32(before, _mm256_setzero_si256()))
}

/// The highest bit of each byte that is no value of a digit.
#[inline]
#[target_feature(enable = "avx2")]
fn others(values: __m256i) -> __m256i {
    let carried = _mm256_add_epi8(values, _mm256_set1_epi8(0x76));
    _mm256_and_si256(_mm256_or_si256(carried, values), _mm256_set1_epi8(i8::MIN))
}

/// The lowest bit of the first byte that is no value of a digit.
#[inline]
#[target_feature(enable = "avx2")]
fn first_other(values: __m256i) -> __m256i {
    let others = others(values);
    let first = _mm256_and_si256(others, _mm256_sub_epi64(_mm256_setzero_si256(), others));
    _mm256_srli_epi64(first, 7)
}

/// The sum of the bytes of each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn sum(bytes: __m256i) -> __m256i {
    _mm256_sad_epu8(bytes, _mm256_setzero_si256())
}

/// As [`super::value_of`].
#[inline]
#[target_feature(enable = "avx2")]
fn value_of(digits: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(digits, _mm256_set1_epi16(10 | (1 << 8)));
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi32(100 | (1 << 16)));
    _mm256_add_epi64(_mm256_mul_epu32(fours, _mm256_set1_epi64x(10_000)), _mm256_srli_epi64(fours, 32))
}

/// Whole numbers below 2⁵² as doubles.
#[inline]
#[target_feature(enable = "avx2")]
fn double(whole: __m256i) -> __m256d {
    // In this binade the last bit is worth 1.
    let binade = _mm256_set1_pd(4_503_599_627_370_496.0);
    _mm256_sub_pd(_mm256_or_pd(_mm256_castsi256_pd(whole), binade), binade)
}

/// Ten to exponents below 8; of others the last three bits count.
#[inline]
#[target_feature(enable = "avx2")]
fn power_below_8(exponents: __m256i) -> __m256d {
    let powers = _mm256_setr_ps(1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7);
    let halves = _mm256_permutevar8x32_epi32(exponents, _mm256_setr_epi32(0, 2, 4, 6, 0, 0, 0, 0));
    _mm256_cvtps_pd(_mm256_castps256_ps128(_mm256_permutevar8x32_ps(powers, halves)))
}

/// Ten to exponents below 24. Up to 22 it is exact.
#[inline]
#[target_feature(enable = "avx2")]
fn power_below_24(exponents: __m256i) -> __m256d {
    let (one, eighth) = (_mm256_set1_pd(1.0), _mm256_set1_pd(1e8));
    let from_8 = _mm256_castsi256_pd(_mm256_cmpgt_epi64(exponents, _mm256_set1_epi64x(7)));
    let from_16 = _mm256_castsi256_pd(_mm256_cmpgt_epi64(exponents, _mm256_set1_epi64x(15)));
    let eights = _mm256_mul_pd(_mm256_blendv_pd(one, eighth, from_8), _mm256_blendv_pd(one, eighth, from_16));
    _mm256_mul_pd(power_below_8(exponents), eights)
}
