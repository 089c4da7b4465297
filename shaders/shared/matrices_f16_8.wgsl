enable f16;
enable wgpu_cooperative_matrix;
// Matrix units that multiply 8 x 8 matrices of half precision and sum in single precision.
const SIZE: u32 = 8u;
alias Value = f16;
alias MatrixA = coop_mat8x8<f16, A>;
alias MatrixB = coop_mat8x8<f16, B>;
alias MatrixC = coop_mat8x8<f32, C>;
