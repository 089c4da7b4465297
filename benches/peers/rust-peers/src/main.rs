//! softreg's peers in Rust: takes commands from run.py, one a line, and answers each with a line.
//!
//! - `linfa X.npy Y.npy N D L2 ITERATIONS FILE`: fits linfa-logistic's multinomial model; answers with the seconds, and
//!   leaves W above b in FILE.
//! - `gemm LENGTH… D Q`: X·W and Xᵀ·R, f32, once for batches of each LENGTH, by the gemm crate on all cores; answers with
//!   the seconds. At the first time, the products are compared with those in double precision.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::thread::available_parallelism;
use std::time::Instant;

use gemm::Parallelism;
use linfa::Dataset;
use linfa::traits::Fit;
use linfa_logistic::MultiLogisticRegression;
use ndarray::{Array1, Array2, Axis, concatenate};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut products = None;
    for line in io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let seconds = match words[..] {
            ["linfa", x, y, n, d, l2, iterations, file] => {
                linfa(x, y, (n.parse()?, d.parse()?), l2.parse()?, iterations.parse()?, file)?
            }
            ["gemm", ref lengths @ .., d, q] => {
                let lengths =
                    lengths.iter().map(|length| length.parse()).collect::<std::result::Result<Vec<_>, _>>()?;
                let longest = *lengths.iter().max().ok_or("no batch")?;
                let (d, q) = (d.parse()?, q.parse()?);
                products.get_or_insert_with(|| Products::new(longest, d, q)).seconds(&lengths)
            }
            _ => return Err(format!("not a command: {line}").into()),
        };
        println!("{seconds}");
        io::stdout().flush()?;
    }
    Ok(())
}

/// The last `count` numbers of four bytes of a .npy file.
fn numbers<T>(file: &str, count: usize, from: fn([u8; 4]) -> T) -> Result<Vec<T>> {
    let bytes = fs::read(file)?;
    let start = bytes.len().checked_sub(4 * count).ok_or("the file is too short")?;
    Ok(bytes[start..].as_chunks().0.iter().map(|&four| from(four)).collect())
}

fn linfa(x: &str, y: &str, (n, d): (usize, usize), l2: f64, iterations: u64, file: &str) -> Result<f64> {
    let x = Array2::from_shape_vec((n, d), numbers(x, n * d, f32::from_le_bytes)?)?;
    let y = Array1::from_vec(numbers(y, n, u32::from_le_bytes)?);
    let data = Dataset::new(x, y);
    let begin = Instant::now();
    // linfa's loss is a sum over the samples, softreg's a mean.
    let alpha = (l2 * n as f64) as f32;
    let model = MultiLogisticRegression::default().alpha(alpha).max_iterations(iterations).fit(&data)?;
    let seconds = begin.elapsed().as_secs_f64();
    let weights = concatenate(Axis(0), &[model.params().view(), model.intercept().view().insert_axis(Axis(0))])?;
    fs::write(file, weights.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>())?;
    Ok(seconds)
}

/// The two products of a training step. All matrices are stored row by row.
struct Products {
    d: usize,
    q: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    r: Vec<f32>,
    /// X·W.
    o: Vec<f32>,
    /// Xᵀ·R.
    g: Vec<f32>,
    threads: usize,
}

impl Products {
    fn new(longest: usize, d: usize, q: usize) -> Self {
        let filled = |len: usize, step: usize| (0..len).map(|i| (i * step % 101) as f32 / 101.0 - 0.5).collect();
        let mut new = Self {
            d,
            q,
            x: filled(longest * d, 31),
            w: filled(d * q, 17),
            r: filled(longest * q, 13),
            o: vec![0.0; longest * q],
            g: vec![0.0; d * q],
            threads: available_parallelism().map_or(1, usize::from),
        };
        new.step(longest);
        new.check(longest);
        new
    }

    fn seconds(&mut self, lengths: &[usize]) -> f64 {
        let begin = Instant::now();
        for &length in lengths {
            self.step(length);
        }
        begin.elapsed().as_secs_f64()
    }

    fn step(&mut self, length: usize) {
        let Self { d, q, .. } = *self;
        product((length, d, q), &mut self.o, (&self.x, d, 1), &self.w, self.threads);
        product((d, length, q), &mut self.g, (&self.x, 1, d), &self.r, self.threads);
    }

    /// A hundred values of each product against double precision.
    fn check(&self, length: usize) {
        let Self { d, q, .. } = *self;
        let exact = |terms: &mut dyn Iterator<Item = (f32, f32)>| terms.map(|(a, b)| f64::from(a) * f64::from(b)).sum();
        let same = |found: f32, exact: f64| assert!((f64::from(found) - exact).abs() < 1e-3, "{found}, not {exact}");
        for place in 0..100 {
            let (i, k, j) = (place * 7919 % length, place * 6007 % d, place * 104_729 % q);
            same(self.o[i * q + j], exact(&mut (0..d).map(|k| (self.x[i * d + k], self.w[k * q + j]))));
            same(self.g[k * q + j], exact(&mut (0..length).map(|i| (self.x[i * d + k], self.r[i * q + j]))));
        }
    }
}

/// C = A·B, of m × k and k × n, with the distances between rows and between columns of A.
fn product(
    (m, k, n): (usize, usize, usize),
    c: &mut [f32],
    (a, a_row, a_column): (&[f32], usize, usize),
    b: &[f32],
    threads: usize,
) {
    assert!(c.len() >= m * n && a.len() >= m * k && b.len() >= k * n);
    assert!((a_row, a_column) == (k, 1) || (a_row, a_column) == (1, m));
    let [n_distance, a_row, a_column] = [n, a_row, a_column].map(|distance| distance as isize);
    // SAFETY: the matrices lie in the slices, by the assertions, and C overlaps no other.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n_distance,
            false,
            a.as_ptr(),
            a_column,
            a_row,
            b.as_ptr(),
            1,
            n_distance,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(threads),
        );
    }
}
