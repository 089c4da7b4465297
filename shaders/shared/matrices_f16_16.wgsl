enable f16;
enable wgpu_cooperative_matrix;
// Matrix units that multiply 16 x 16 matrices of half precision and sum in single precision.
const SIZE: u32 = 16u;
alias Value = f16;
alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias MatrixC = coop_mat16x16<f32, C>;
