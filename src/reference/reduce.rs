//! Sums of the parts of a gradient. Twin of shaders/reduce.wgsl.

use super::UNIT_ROUNDOFF;

/// Adds parts, each of `width` values, to as many sums as `totals` has: part p, numbered from `first_part` on, to sum p mod
/// sums; part 0 begins anew.
pub fn reduce(partials: &[f64], totals: &[f64], first_part: usize, width: usize) -> Vec<f64> {
    let n_sums = totals.len() / width;
    let mut result = if first_part == 0 { vec![0.0; totals.len()] } else { totals.to_vec() };
    for (part, values) in partials.chunks_exact(width).enumerate() {
        let sum = (first_part + part) % n_sums * width;
        result[sum..sum + width].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    result
}

/// How far a single precision result may be from [`reduce`], whatever the order: the number of terms, times u, times the sum
/// of their absolute values.
pub fn reduce_bound(partials: &[f64], totals: &[f64], first_part: usize, width: usize) -> Vec<f64> {
    let abs = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
    let terms = (partials.len() / width + 1) as f64;
    reduce(&abs(partials), &abs(totals), first_part, width).iter().map(|sum| terms * UNIT_ROUNDOFF * sum).collect()
}
