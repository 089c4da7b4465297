//! Weights that are made of fewer numbers than they have, their factors θ: W = Σ_p A_p ⊗ S_p or W = U·V, and the gradient over W
//! as the gradient over θ. Nothing here knows of data, loss or devices.
//!
//! θ of a head is what a line of the table has, in that order, each array row-major; heads follow each other. d' = ⌈d/m⌉ and
//! q' = ⌈q/m⌉: d and q are padded to multiples of m, and what W would have beyond row d or column q is left out.
//!
//! | structure | θ | W | numbers without b |
//! |---|---|---|---|
//! | `dense` | W (d × q), b (q) | W | d·q |
//! | `phm:M` | A (m × m × m), S (m × d' × q'), b (q) | Σ_p A_p ⊗ S_p | m³ + m·d'·q' |
//! | `quaternion` | S (4 × d' × q'), b (q) | the same, A fixed | 4·d'·q' |
//! | `lowrank:R` | U (d × r), V (r × q), b (q) | U·V | r·(d + q) |

mod nearest;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, linalg::general_mat_mul, s};

use crate::batch::Shuffle;
use crate::error::{Error, Result};

/// What the weights W, (n_features × n_classes), of a model are made of. The intercept is dense and never penalised; the penalty is on
/// W, whatever it is made of.
///
/// ```
/// use softreg::Structure;
/// let structure: Structure = "phm:4".parse()?;
/// assert_eq!(structure.n_parameters(384, 77)?, 64 + 4 * 96 * 20 + 77);
/// assert_eq!(Structure::Dense.n_parameters(384, 77)?, 384 * 77 + 77);
/// # Ok::<(), softreg::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Structure {
    /// W itself: d·q numbers.
    #[default]
    Dense,
    /// W = Σ_{p=1..m} A_p ⊗ S_p with A_p (m × m) and S_p (⌈d/m⌉ × ⌈q/m⌉), all of them trained: m³ + m·⌈d/m⌉·⌈q/m⌉ numbers, about d·q/m
    /// (Zhang et al. 2021, "Beyond Fully-Connected Layers with Quaternions: Parameterization of Hypercomplex Multiplications with 1/n
    /// Parameters"). 1 ≤ m ≤ d, and m ≤ 256. The minimum that training finds depends on where it begins.
    Phm {
        /// m.
        m: usize,
    },
    /// The same with m = 4 and the A_p of the quaternions' multiplication from the left, which are not trained: 4·⌈d/4⌉·⌈q/4⌉ numbers. The
    /// objective is convex: there is one minimum.
    Quaternion,
    /// W = U·V with U (d × r) and V (r × q): r·(d + q) numbers, 1 ≤ r ≤ min(d, q). The minimum that training finds depends on where it
    /// begins.
    LowRank {
        /// r.
        rank: usize,
    },
}

impl Structure {
    /// The numbers of a model of d features and q classes, its q intercepts among them.
    ///
    /// # Errors
    /// [`Error::Setting`] when the structure does not suit these sizes.
    pub fn n_parameters(self, n_features: usize, n_classes: usize) -> Result<usize> {
        Ok(Parametrisation::new(self, n_features, n_classes)?.n_parameters())
    }

    /// What the step size that suits W is multiplied by for a step of the factors. A step of S with the fixed A, ‖A_p‖² = 4, moves W four times
    /// as far. Where both factors are trained they begin by moving W as far as W alone would move, but further the larger they become: a
    /// tenth was found to do on the digits and on Banking77, where a quarter does on the first alone.
    pub(crate) fn share_of_step(self) -> f64 {
        match self {
            Self::Dense => 1.0,
            Self::Quaternion => 0.25,
            Self::Phm { .. } | Self::LowRank { .. } => 0.1,
        }
    }

    /// Whether the objective may have several minima, so that seeds differ.
    pub(crate) fn depends_on_seed(self) -> bool {
        matches!(self, Self::Phm { .. } | Self::LowRank { .. })
    }
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense => f.pad("dense"),
            Self::Phm { m } => f.pad(&format!("phm:{m}")),
            Self::Quaternion => f.pad("quaternion"),
            Self::LowRank { rank } => f.pad(&format!("lowrank:{rank}")),
        }
    }
}

impl FromStr for Structure {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |digits: &str| digits.parse().ok();
        let found = match text.split_once(':') {
            None if text == "dense" => Some(Self::Dense),
            None if text == "quaternion" => Some(Self::Quaternion),
            Some(("phm", m)) => number(m).map(|m| Self::Phm { m }),
            Some(("lowrank", rank)) => number(rank).map(|rank| Self::LowRank { rank }),
            _ => None,
        };
        let expected = "dense, phm:M, quaternion or lowrank:R, M and R whole numbers";
        found.ok_or_else(|| setting(text.to_owned(), expected))
    }
}

fn setting(value: String, expected: &'static str) -> Error {
    Error::Setting { name: "the structure of the weights", value, expected }
}

/// A_p of the quaternions: (y_1, y_2, y_3, y_4) = x·Σ_p s_p·A_p are the parts 1, i, j and k of the product of s and x (Hamilton).
pub(crate) const QUATERNION: [f64; 64] = {
    let (o, l, n) = (0.0, 1.0, -1.0);
    [
        l, o, o, o, o, l, o, o, o, o, l, o, o, o, o, l, // 1·x
        o, l, o, o, n, o, o, o, o, o, o, l, o, o, n, o, // i·x
        o, o, l, o, o, o, o, n, n, o, o, o, o, l, o, o, // j·x
        o, o, o, l, o, o, l, o, o, n, o, o, n, o, o, o, // k·x
    ]
};

/// A structure for d features and q classes that it suits: θ → W, and ∂W → ∂θ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parametrisation {
    structure: Structure,
    d: usize,
    q: usize,
}

/// Where the parts of a head's θ are.
struct Parts<'t> {
    /// A, of `quaternion` the fixed one; U.
    first: &'t [f64],
    /// S, V, or W of `dense`.
    second: &'t [f64],
    bias: &'t [f64],
}

impl Parametrisation {
    /// # Errors
    /// [`Error::Setting`] when the structure does not suit these sizes.
    pub fn new(structure: Structure, d: usize, q: usize) -> Result<Self> {
        match structure {
            Structure::Phm { m: 0 } => Err(setting(structure.to_string(), "phm:M with M at least 1")),
            Structure::Phm { m: 257.. } => {
                Err(setting(structure.to_string(), "phm:M with M at most 256: A alone has M³ numbers"))
            }
            Structure::Phm { m } if m > d => Err(setting(
                format!("{structure} for {d} features"),
                "phm:M with M no larger than the number of features",
            )),
            Structure::Quaternion if d < 4 => Err(setting(
                format!("{structure} for {d} features"),
                "another structure, as quaternions need at least 4 features",
            )),
            Structure::LowRank { rank: 0 } => Err(setting(structure.to_string(), "lowrank:R with R at least 1")),
            Structure::LowRank { rank } if rank > d.min(q) => Err(setting(
                format!("{structure} for {d} features and {q} classes"),
                "lowrank:R with R no larger than either number",
            )),
            _ => Ok(Self { structure, d, q }),
        }
    }

    pub fn structure(self) -> Structure {
        self.structure
    }

    /// n_features, d.
    pub fn n_features(self) -> usize {
        self.d
    }

    /// n_classes, q.
    pub fn n_classes(self) -> usize {
        self.q
    }

    /// m, d' and q' of a sum of Kronecker products.
    pub fn blocks(self) -> Option<[usize; 3]> {
        let m = match self.structure {
            Structure::Phm { m } => m,
            Structure::Quaternion => 4,
            Structure::Dense | Structure::LowRank { .. } => return None,
        };
        Some([m, self.d.div_ceil(m), self.q.div_ceil(m)])
    }

    /// Numbers of the first and of the second factor of a head, those that are trained.
    pub fn sizes(self) -> [usize; 2] {
        match (self.structure, self.blocks()) {
            (Structure::LowRank { rank }, _) => [self.d.saturating_mul(rank), rank.saturating_mul(self.q)],
            (Structure::Phm { m }, Some([_, dd, qq])) => [m * m * m, m.saturating_mul(dd).saturating_mul(qq)],
            (_, Some([m, dd, qq])) => [0, m.saturating_mul(dd).saturating_mul(qq)],
            (_, None) => [0, self.d.saturating_mul(self.q)],
        }
    }

    /// Numbers of a head, b among them.
    pub fn n_parameters(self) -> usize {
        self.sizes().into_iter().fold(self.q, usize::saturating_add)
    }

    /// U or A of a head, of `quaternion` the fixed one.
    pub fn first(self, theta: &[f64]) -> &[f64] {
        self.parts(theta).first
    }

    fn parts(self, theta: &[f64]) -> Parts<'_> {
        let [n_first, n_second] = self.sizes();
        let (first, rest) = theta.split_at(n_first);
        let (second, bias) = rest.split_at(n_second);
        let first = if self.structure == Structure::Quaternion { &QUATERNION } else { first };
        Parts { first, second, bias }
    }

    /// W above b, (d + 1) × (h·q), of the θ of h heads.
    pub fn expand(self, theta: &[f64]) -> Vec<f64> {
        let (d, q, n) = (self.d, self.q, self.n_parameters());
        let m = theta.len() / n * q;
        let mut values = vec![0.0; (d + 1) * m];
        for (head, theta) in theta.chunks_exact(n).enumerate() {
            let Parts { first, second, bias } = self.parts(theta);
            let mut all = matrix_mut(&mut values, [d + 1, m]);
            let mut of_head = all.slice_mut(s![.., head * q..(head + 1) * q]);
            of_head.row_mut(d).assign(&matrix(bias, [1, q]).row(0));
            let mut weights = of_head.slice_mut(s![..d, ..]);
            match (self.structure, self.blocks()) {
                (Structure::LowRank { rank }, _) => {
                    general_mat_mul(1.0, &matrix(first, [d, rank]), &matrix(second, [rank, q]), 0.0, &mut weights);
                }
                (_, Some(blocks)) => {
                    let (a, s) = self.kronecker(first, second, blocks);
                    for (p, i, j, rows, columns) in self.places(blocks) {
                        let of_s = s.slice(s![p, ..rows.len(), ..columns.len()]);
                        weights.slice_mut(s![rows, columns]).scaled_add(a[[p, i, j]], &of_s);
                    }
                }
                (_, None) => weights.assign(&matrix(second, [d, q])),
            }
        }
        values
    }

    /// ∂θ from the gradient over W and b, laid out as [`Parametrisation::expand`] gives them.
    pub fn pull_back(self, theta: &[f64], gradient: &[f64]) -> Vec<f64> {
        let (d, q, n) = (self.d, self.q, self.n_parameters());
        let m = theta.len() / n * q;
        let mut values = vec![0.0; theta.len()];
        let [n_first, n_second] = self.sizes();
        let all = matrix(gradient, [d + 1, m]);
        for (head, (theta, values)) in theta.chunks_exact(n).zip(values.chunks_exact_mut(n)).enumerate() {
            let Parts { first, second, .. } = self.parts(theta);
            let (of_first, rest) = values.split_at_mut(n_first);
            let (of_second, of_bias) = rest.split_at_mut(n_second);
            let of_head = all.slice(s![.., head * q..(head + 1) * q]);
            matrix_mut(of_bias, [1, q]).row_mut(0).assign(&of_head.row(d));
            let of_weights = of_head.slice(s![..d, ..]);
            match (self.structure, self.blocks()) {
                (Structure::LowRank { rank }, _) => {
                    let (u, v) = (matrix(first, [d, rank]), matrix(second, [rank, q]));
                    general_mat_mul(1.0, &of_weights, &v.t(), 0.0, &mut matrix_mut(of_first, [d, rank]));
                    general_mat_mul(1.0, &u.t(), &of_weights, 0.0, &mut matrix_mut(of_second, [rank, q]));
                }
                (_, Some(blocks)) => {
                    let [m, dd, qq] = blocks;
                    let (a, s) = self.kronecker(first, second, blocks);
                    let mut of_s = cube_mut(of_second, [m, dd, qq]);
                    for (p, i, j, rows, columns) in self.places(blocks) {
                        let block = of_weights.slice(s![rows.clone(), columns.clone()]);
                        let valid = s![p, ..rows.len(), ..columns.len()];
                        of_s.slice_mut(valid).scaled_add(a[[p, i, j]], &block);
                        // None of the fixed A.
                        if let Some(of_a) = of_first.get_mut((p * m + i) * m + j) {
                            *of_a = (&block * &s.slice(valid)).sum();
                        }
                    }
                }
                (_, None) => matrix_mut(of_second, [d, q]).assign(&of_weights),
            }
        }
        values
    }

    /// A (m × m × m) and S (m × d' × q').
    fn kronecker<'t>(
        self,
        a: &'t [f64],
        s: &'t [f64],
        [m, dd, qq]: [usize; 3],
    ) -> (ArrayView3<'t, f64>, ArrayView3<'t, f64>) {
        (cube(a, [m; 3]), cube(s, [m, dd, qq]))
    }

    /// p, i and j of each A_p[i, j], with the rows and columns of W that it multiplies S_p for.
    fn places(
        self,
        [m, dd, qq]: [usize; 3],
    ) -> impl Iterator<Item = (usize, usize, usize, Range<usize>, Range<usize>)> {
        let within = |index: usize, n: usize, all: usize| (index * n).min(all)..((index + 1) * n).min(all);
        (0..m * m * m).map(move |at| {
            let (p, i, j) = (at / (m * m), at / m % m, at % m);
            (p, i, j, within(i, dd, self.d), within(j, qq, self.q))
        })
    }

    /// Where training begins: W = 0 with the intercepts `bias`. The small factor, A or V, has random orthonormal rows, A_p counted as
    /// one row of m² numbers (Saxe, McClelland and Ganguli 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear
    /// neural networks"), the large one is 0, as in LoRA (Hu et al. 2021). Were both 0, all gradients would be. A step of S or U then
    /// moves W by the projection of the step that W alone would take, no further.
    pub fn start(self, seed: u64, bias: &[f64]) -> Vec<f64> {
        let mut theta = vec![0.0; self.n_parameters()];
        let [n_first, n_second] = self.sizes();
        match self.structure {
            Structure::Phm { m } => orthonormal(&mut theta[..n_first], m * m, seed),
            Structure::LowRank { .. } => orthonormal(&mut theta[n_first..n_first + n_second], self.q, seed),
            Structure::Dense | Structure::Quaternion => {}
        }
        theta[n_first + n_second..].copy_from_slice(bias);
        theta
    }

    /// W·factor in the place of W: S, U or the dense W times the factor.
    pub fn scale(self, theta: &mut [f64], factor: f64) {
        let [n_first, n_second] = self.sizes();
        let large = match self.structure {
            Structure::LowRank { .. } => 0..n_first,
            _ => n_first..n_first + n_second,
        };
        theta[large].iter_mut().for_each(|value| *value *= factor);
    }
}

/// Rows of `width` numbers, no more than that many, orthonormal and of any direction equally likely.
fn orthonormal(rows: &mut [f64], width: usize, seed: u64) {
    let mut random = Shuffle::new(seed, u64::MAX - 3);
    let mut uniform = || (random.below(1 << 52) as f64 + 0.5) / (1u64 << 52) as f64;
    // Normal numbers have no preferred direction (Box and Muller 1958).
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    for at in (0..rows.len()).step_by(width) {
        let (before, row) = rows.split_at_mut(at);
        let row = &mut row[..width];
        row.iter_mut().for_each(|value| *value = normal());
        // Gram–Schmidt, twice against rounding.
        for other in before.chunks_exact(width).chain(before.chunks_exact(width)) {
            let product: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(other).for_each(|(a, b)| *a -= product * b);
        }
        let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        row.iter_mut().for_each(|value| *value /= norm);
    }
}

/// A model's factors θ in single precision, as its file has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    parametrisation: Parametrisation,
    values: Vec<f32>,
}

impl Factors {
    /// Of one head; nothing when these are not as many values as the structure has.
    pub fn new(parametrisation: Parametrisation, values: Vec<f32>) -> Option<Self> {
        (values.len() == parametrisation.n_parameters()).then_some(Self { parametrisation, values })
    }

    /// In single precision; the values are as many as the structure has.
    pub fn rounded(parametrisation: Parametrisation, theta: &[f64]) -> Self {
        Self { parametrisation, values: theta.iter().map(|&value| value as f32).collect() }
    }

    pub fn parametrisation(&self) -> Parametrisation {
        self.parametrisation
    }

    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The first and the second factor, and b; of `quaternion` the first is empty.
    pub fn parts(&self) -> [&[f32]; 3] {
        let [n_first, n_second] = self.parametrisation.sizes();
        let (first, rest) = self.values.split_at(n_first);
        let (second, bias) = rest.split_at(n_second);
        [first, second, bias]
    }

    /// The same structure of other numbers, as many as it has.
    pub fn with_values(&self, values: Vec<f32>) -> Self {
        Self { parametrisation: self.parametrisation, values }
    }

    /// The same with W times `factor`.
    pub fn scaled(&self, factor: f64) -> Self {
        let mut values = self.to_f64();
        self.parametrisation.scale(&mut values, factor);
        Self::rounded(self.parametrisation, &values)
    }

    pub fn to_f64(&self) -> Vec<f64> {
        self.values.iter().map(|&value| value.into()).collect()
    }

    /// W above b, made in double precision and rounded once.
    pub fn expand(&self) -> Vec<f32> {
        self.parametrisation.expand(&self.to_f64()).into_iter().map(|value| value as f32).collect()
    }
}

// Every length below follows from the sizes, which the callers have checked.

#[expect(clippy::expect_used, reason = "the sizes are those of the slice")]
fn matrix(values: &[f64], shape: [usize; 2]) -> ArrayView2<'_, f64> {
    ArrayView2::from_shape(shape, values).expect("as many values as the shape says")
}

#[expect(clippy::expect_used, reason = "the sizes are those of the slice")]
fn matrix_mut(values: &mut [f64], shape: [usize; 2]) -> ArrayViewMut2<'_, f64> {
    ArrayViewMut2::from_shape(shape, values).expect("as many values as the shape says")
}

#[expect(clippy::expect_used, reason = "the sizes are those of the slice")]
fn cube(values: &[f64], shape: [usize; 3]) -> ArrayView3<'_, f64> {
    ArrayView3::from_shape(shape, values).expect("as many values as the shape says")
}

#[expect(clippy::expect_used, reason = "the sizes are those of the slice")]
fn cube_mut(values: &mut [f64], shape: [usize; 3]) -> ArrayViewMut3<'_, f64> {
    ArrayViewMut3::from_shape(shape, values).expect("as many values as the shape says")
}

#[cfg(test)]
mod tests;
