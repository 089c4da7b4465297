//! The θ whose W is nearest to a dense W in the Frobenius norm.
//!
//! A sum of m Kronecker products is a matrix of rank m, once W is rearranged so that each of its m² blocks is a row: row i·m + j is
//! vec(W_ij), and Σ_p vec(A_p)·vec(S_p)ᵀ is the best by singular vectors (Van Loan and Pitsianis 1993, "Approximation with Kronecker
//! products"), as U·V is (Eckart and Young 1936). Rows and columns that W is padded with count as zeros.

use nalgebra::{DMatrix, SymmetricEigen};
use ndarray::{Array2, ArrayView2, s};

use super::{Parametrisation, Structure, cube_mut, matrix, matrix_mut, setting};
use crate::error::Result;

/// Rows or columns of a matrix whose singular vectors are taken, the fewer of them: their product takes 128 MiB, and a minute or two.
const LARGEST: usize = 1 << 12;

impl Parametrisation {
    /// θ for W above b, ((d + 1) × q): the nearest W, and b; where W is padded, nearest with its zeros.
    ///
    /// # Errors
    /// [`Error::Setting`] where it takes the singular vectors of a matrix of which neither side is below [`LARGEST`].
    pub fn nearest(self, values: &[f64]) -> Result<Vec<f64>> {
        let smaller = match (self.structure, self.blocks()) {
            (Structure::LowRank { .. }, _) => self.d.min(self.q),
            (Structure::Phm { .. }, Some([m, dd, qq])) => (m * m).min(dd * qq),
            _ => 0,
        };
        if smaller > LARGEST {
            let expected = "one whose nearest weights take the singular vectors of a matrix with a side of at most 4,096; train it \
                            from a seed";
            return Err(setting(self.structure.to_string(), expected));
        }
        let (weights, bias) = values.split_at(self.d * self.q);
        let weights = matrix(weights, [self.d, self.q]);
        let mut theta = vec![0.0; self.n_parameters()];
        let [n_first, n_second] = self.sizes();
        match (self.structure, self.blocks()) {
            (Structure::LowRank { rank }, _) => {
                // Wᵀ ≈ Vᵀ·Uᵀ, the rows of V orthonormal.
                let [v, u] = best_of_rank(weights.t(), rank);
                let (first, second) = theta[..n_first + n_second].split_at_mut(n_first);
                matrix_mut(first, [self.d, rank]).assign(&u.t());
                matrix_mut(second, [rank, self.q]).assign(&v.t());
            }
            (Structure::Phm { .. }, Some([m, dd, qq])) => {
                let (a, s) = theta[..n_first + n_second].split_at_mut(n_first);
                let [of_a, of_s] = best_of_rank(self.rearranged(weights).view(), m);
                matrix_mut(a, [m, m * m]).assign(&of_a.t());
                matrix_mut(s, [m, dd * qq]).assign(&of_s);
            }
            // A is orthogonal, with ‖A_p‖² = 4.
            (_, Some(blocks)) => {
                let [m, dd, qq] = blocks;
                let second = &mut theta[..n_second];
                for (p, i, j, rows, columns) in self.places(blocks) {
                    let factor = super::QUATERNION[(p * m + i) * m + j] / 4.0;
                    let mut of_s = cube_mut(second, [m, dd, qq]);
                    let mut valid = of_s.slice_mut(s![p, ..rows.len(), ..columns.len()]);
                    valid.scaled_add(factor, &weights.slice(s![rows, columns]));
                }
            }
            (_, None) => matrix_mut(&mut theta[..n_second], [self.d, self.q]).assign(&weights),
        }
        theta[n_first + n_second..].copy_from_slice(bias);
        Ok(theta)
    }

    /// W with vec(W_ij) as row i·m + j, (m² × d'·q').
    fn rearranged(self, weights: ArrayView2<f64>) -> Array2<f64> {
        let Some(blocks @ [m, dd, qq]) = self.blocks() else { return weights.to_owned() };
        let mut rows = vec![0.0; m * m * dd * qq];
        let mut all = cube_mut(&mut rows, [m * m, dd, qq]);
        for (_, i, j, rows, columns) in self.places(blocks).take(m * m) {
            let mut block = all.slice_mut(s![i * m + j, ..rows.len(), ..columns.len()]);
            block.assign(&weights.slice(s![rows, columns]));
        }
        matrix(&rows, [m * m, dd * qq]).to_owned()
    }
}

/// B and C of the product B·C of that rank that is nearest to a matrix M: the first left singular vectors, as eigenvectors of
/// M·Mᵀ, and Bᵀ·M, which is exact for the B that was found; of Mᵀ where that has fewer rows. What is beyond the rank of M is 0.
fn best_of_rank(of: ArrayView2<f64>, rank: usize) -> [Array2<f64>; 2] {
    if of.nrows() > of.ncols() {
        let [b, c] = best_of_rank(of.t(), rank);
        return [c.reversed_axes(), b.reversed_axes()];
    }
    let product = of.dot(&of.t());
    let n = product.nrows();
    let SymmetricEigen { eigenvectors, eigenvalues } =
        SymmetricEigen::new(DMatrix::from_fn(n, n, |i, j| product[[i, j]]));
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| eigenvalues[j].total_cmp(&eigenvalues[i]));
    let vector = |(i, p)| order.get(p).map_or(0.0, |&column| eigenvectors[(i, column)]);
    let b = Array2::from_shape_fn((n, rank), vector);
    let c = b.t().dot(&of);
    [b, c]
}
