// Columns of W, O and R in blocks of four.
alias Columns = vec4<f32>;
const WIDTH: u32 = 4u;
