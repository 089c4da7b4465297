use super::vnni::LARGEST;
use super::{Bytes, ResidualDigits, SAMPLES, WeightDigits};
use crate::backend::cpu::lanes::Instructions;
use crate::backend::cpu::tests::values;
use crate::backend::cpu::tiles::{Matrix, TILE, Weights};
use crate::backend::{Parameters, Shape};
use crate::reference::UNIT_ROUNDOFF;

fn bytes() -> Option<Bytes> {
    let bytes = Instructions::best().bytes();
    if bytes.is_none() {
        eprintln!("not run: this processor has no such instructions");
    }
    bytes
}

/// Numbers of which a column has very different sizes, some 0; the largest of column j is at most 10ʲ⁻³.
fn columns(n: usize, m: usize, seed: u64) -> Vec<f32> {
    let size = |i: usize| 10f32.powi((i % m) as i32 - 3) * [1.0, 1e-4, 0.0, 0.3][i / m % 4];
    values(n * m, seed).into_iter().enumerate().map(|(i, x)| size(i) * x).collect()
}

/// W and b, of which b does not matter.
fn digits_of(bytes: Bytes, shape: Shape, values: Vec<f32>) -> WeightDigits {
    let weights = Weights::new(Instructions::best(), &Parameters { shape, values }).unwrap();
    let mut digits = WeightDigits::new(shape).unwrap();
    bytes.split_weights(&weights.w, shape.n_outputs(), &mut digits);
    digits
}

fn unit(numbers: impl Iterator<Item = f32>) -> f64 {
    f64::from(numbers.fold(0.0f32, |most, x| most.max(x.abs()))) / f64::from(LARGEST)
}

/// Rows of features, not in their order.
fn rows(n: usize, all: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7 + 3) % all) as u32).collect()
}

fn features(n: usize, d: usize) -> Vec<u8> {
    (0..n * d).map(|i| [255, 0, (i % 251) as u8, 128][i / 3 % 4]).collect()
}

/// To half a unit a feature, and the rounding of a few sums.
#[test]
fn logits_are_exact_to_the_unit() {
    let Some(bytes) = bytes() else { return };
    let n = 37;
    for d in [1, 5, 63, 64, 65, 200, 4096, 4097, 9000] {
        for m in [1, 2, 3, 10, 13] {
            let x = features(n, d);
            let matrix = Matrix { x: &x[..], d };
            let shape = Shape { n_features: d, n_classes: m, n_heads: 1 };
            let mut start = columns(d, m, d as u64);
            start.extend(vec![0.0; m]);
            let digits = digits_of(bytes, shape, start.clone());
            for n_rows in [1, 4, 7, TILE] {
                let rows = rows(n_rows, n);
                let mut out = vec![f32::NAN; m * TILE];
                bytes.logits((matrix, 0..d), &rows, &digits, &[0, u32::MAX], &mut out);
                for j in 0..m {
                    let column = || (0..d).map(|k| start[k * m + j]);
                    let unit = unit(column());
                    for (lane, &row) in rows.iter().enumerate() {
                        let x = matrix.row(row);
                        let (mut sum, mut of_x, mut size) = (0.0, 0.0, 0.0);
                        for (&x, w) in x.iter().zip(column()) {
                            sum += f64::from(x) * f64::from(w);
                            of_x += f64::from(x);
                            size += f64::from(x) * f64::from(w).abs();
                        }
                        // Sums of 16 lanes, of three digits, of blocks; lower digits of a lane are no larger than 2¹⁵ units a byte.
                        let n_sums = (8 + d / 4096) as f64;
                        let bound = 0.501 * unit * of_x + n_sums * UNIT_ROUNDOFF * (size + 32768.0 * unit * of_x);
                        let off = (f64::from(out[j * TILE + lane]) - sum).abs();
                        assert!(off <= bound, "{d} × {m}, {lane} of {n_rows}, output {j}: {off:e} {bound:e}");
                    }
                }
            }
        }
    }
}

/// In a column whose numbers are whole multiples of the unit nothing is lost, and a last digit that is off by one is seen.
#[test]
fn whole_multiples_are_exact() {
    let Some(bytes) = bytes() else { return };
    let (d, m) = (130, 1);
    let shape = Shape { n_features: d, n_classes: m, n_heads: 1 };
    let whole = |k: usize| (k as f32 * 54_321.0).rem_euclid(2.0 * LARGEST) - LARGEST;
    let x: Vec<u8> = (0..d).map(|k| u8::from(k == 77)).collect();
    let matrix = Matrix { x: &x[..], d };
    for change in [0.0, 1.0] {
        let mut start: Vec<f32> = (0..d).map(|k| if k == 0 { LARGEST } else { whole(k) }).collect();
        start[77] += change;
        start.push(0.0);
        let digits = digits_of(bytes, shape, start);
        let mut out = vec![0.0; TILE];
        bytes.logits((matrix, 0..d), &[0], &digits, &[], &mut out);
        assert_eq!(out[0] == whole(77), change == 0.0, "{} {}", out[0], whole(77));
    }
}

#[test]
fn gradients_are_exact_to_the_unit() {
    let Some(bytes) = bytes() else { return };
    let n = 90;
    for d in [1, 15, 16, 31, 33, 64, 65, 100, 130] {
        for m in [1, 3, 10, 11, 23] {
            let x = features(n, d);
            let matrix = Matrix { x: &x[..], d };
            let shape = Shape { n_features: d, n_classes: m, n_heads: 1 };
            let mut digits = ResidualDigits::new(shape).unwrap();
            for n_rows in [1, 4, 30, 33, SAMPLES] {
                let rows = rows(n_rows, n);
                let of_samples = columns(n_rows, m, n_rows as u64);
                let n_tiles = n_rows.div_ceil(TILE);
                let mut residual = vec![0.0; n_tiles * m * TILE];
                for (i, row) in of_samples.chunks_exact(m).enumerate() {
                    (0..m).for_each(|j| residual[(i / TILE * m + j) * TILE + i % TILE] = row[j]);
                }
                bytes.split_residual(&residual, &mut digits);
                let size = d.div_ceil(TILE) * m * TILE;
                let mut once = vec![f32::NAN; size];
                bytes.add_gradient((matrix, 0..d), &rows, &digits, &[3, 7], &mut once, false);
                let mut twice = once.clone();
                bytes.add_gradient((matrix, 0..d), &rows, &digits, &[3, 7], &mut twice, true);
                for j in 0..m {
                    let column = || (0..n_rows).map(|i| of_samples[i * m + j]);
                    let unit = unit(column());
                    for k in 0..d {
                        let (mut sum, mut of_x, mut size) = (0.0, 0.0, 0.0);
                        for (&row, r) in rows.iter().zip(column()) {
                            let x = f64::from(matrix.row(row)[k]);
                            sum += x * f64::from(r);
                            of_x += x;
                            size += x * f64::from(r).abs();
                        }
                        let bound = 0.501 * unit * of_x + 4.0 * UNIT_ROUNDOFF * (size + 32768.0 * unit * of_x);
                        let at = (k / TILE * m + j) * TILE + k % TILE;
                        let off = (f64::from(once[at]) - sum).abs();
                        let what = format!("{n_rows} × {d} × {m}, feature {k}, output {j}");
                        assert!(off <= bound, "{what}: {off:e} {bound:e}");
                        let off = (f64::from(twice[at]) - 2.0 * sum).abs();
                        assert!(off <= 2.0 * bound + 2.0 * UNIT_ROUNDOFF * sum.abs(), "{what}, twice: {off:e}");
                    }
                }
            }
        }
    }
}

/// What is not finite does not become a number.
#[test]
fn what_is_not_finite_stays_so() {
    let Some(bytes) = bytes() else { return };
    let shape = Shape { n_features: 40, n_classes: 3, n_heads: 1 };
    let x = features(5, 40);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut start = columns(41, 3, 1);
        start[3 * 20 + 1] = bad;
        let digits = digits_of(bytes, shape, start);
        let mut out = vec![0.0; 3 * TILE];
        bytes.logits((Matrix { x: &x, d: 40 }, 0..40), &[0, 1, 2, 3], &digits, &[], &mut out);
        for (j, out) in out.chunks_exact(TILE).enumerate() {
            assert!(out[..4].iter().all(|o| o.is_finite() == (j != 1)), "{bad}, {j}: {:?}", &out[..4]);
        }
        let mut residual = vec![0.5; 3 * TILE];
        residual[2 * TILE + 7] = bad;
        let mut digits = ResidualDigits::new(shape).unwrap();
        bytes.split_residual(&residual, &mut digits);
        let mut gradient = vec![0.0; 2 * 3 * TILE];
        bytes.add_gradient((Matrix { x: &x, d: 40 }, 0..40), &rows(8, 5), &digits, &[], &mut gradient, false);
        assert!(gradient[2 * TILE].is_nan() && gradient[TILE].is_finite(), "{bad}");
    }
}

/// The largest sums there are: all bytes 255, all first and second digits −128, as many features and samples as are summed at once.
#[test]
fn sums_do_not_overflow() {
    let Some(bytes) = bytes() else { return };
    // Of a unit of 1, which the first number makes it.
    let number = |i: usize| if i == 0 { LARGEST } else { (127 * 65_536 - 128 * 257) as f32 };
    for sign in [1.0, -1.0] {
        let (d, m) = (3 * 4096, 1);
        let shape = Shape { n_features: d, n_classes: m, n_heads: 1 };
        let values: Vec<f32> = (0..d).map(|k| sign * number(k)).chain([0.0]).collect();
        let x = vec![255; SAMPLES * d];
        let matrix = Matrix { x: &x[..], d };
        let digits = digits_of(bytes, shape, values);
        assert_eq!(digits.error(d), 127.5 * d as f32);
        let mut out = vec![0.0; TILE];
        bytes.logits((matrix, 0..d), &[0, 1, 2, 3], &digits, &[], &mut out);
        let sum: f64 = (0..d).map(|k| 255.0 * f64::from(sign * number(k))).sum();
        assert!((f64::from(out[3]) / sum - 1.0).abs() < 16.0 * UNIT_ROUNDOFF, "{} {sum}", out[3]);

        let mut digits = ResidualDigits::new(shape).unwrap();
        let residual: Vec<f32> = (0..SAMPLES).map(|i| sign * number(i)).collect();
        bytes.split_residual(&residual, &mut digits);
        let mut gradient = vec![0.0; d];
        bytes.add_gradient((matrix, 0..d), &rows(SAMPLES, SAMPLES), &digits, &[], &mut gradient, false);
        let sum: f64 = residual.iter().map(|&r| 255.0 * f64::from(r)).sum();
        for g in gradient {
            assert!((f64::from(g) / sum - 1.0).abs() < 4.0 * UNIT_ROUNDOFF, "{g} {sum}");
        }
    }
}
