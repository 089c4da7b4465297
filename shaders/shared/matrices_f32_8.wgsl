enable wgpu_cooperative_matrix;
// Matrix units that multiply 8 x 8 matrices of single precision.
const SIZE: u32 = 8u;
alias Value = f32;
alias MatrixA = coop_mat8x8<f32, A>;
alias MatrixB = coop_mat8x8<f32, B>;
alias MatrixC = coop_mat8x8<f32, C>;
