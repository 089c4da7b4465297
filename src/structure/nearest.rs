//! The θ whose W is nearest to a dense W in the Frobenius norm.
//!
//! A sum of m Kronecker products is a matrix of rank m, once W is rearranged so that each of its m² blocks is a row: row i·m + j is
//! vec(W_ij), and Σ_p vec(A_p)·vec(S_p)ᵀ is the best by singular vectors (Van Loan and Pitsianis 1993, "Approximation with Kronecker
//! products"), as U·V is (Eckart and Young 1936). Rows and columns that W is padded with count as zeros.

use nalgebra::{DMatrix, SymmetricEigen};
use ndarray::{Array2, ArrayView2, s};

use super::{Parametrisation, Structure, cube_mut, matrix, matrix_mut};

impl Parametrisation {
    /// θ for W above b, ((d + 1) × q): the nearest W, and b.
    pub fn nearest(self, values: &[f64]) -> Vec<f64> {
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
        theta
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

/// B, with orthonormal columns, and C of the product B·C of that rank that is nearest to a matrix: the first left singular
/// vectors, as eigenvectors of M·Mᵀ, and Bᵀ·M, which is exact for the B that was found.
fn best_of_rank(of: ArrayView2<f64>, rank: usize) -> [Array2<f64>; 2] {
    let product = of.dot(&of.t());
    let n = product.nrows();
    let SymmetricEigen { eigenvectors, eigenvalues } =
        SymmetricEigen::new(DMatrix::from_fn(n, n, |i, j| product[[i, j]]));
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| eigenvalues[j].total_cmp(&eigenvalues[i]));
    let b = Array2::from_shape_fn((n, rank), |(i, p)| eigenvectors[(i, order[p])]);
    let c = b.t().dot(&of);
    [b, c]
}
