// Columns of W, O and R one by one, where four of them are more than a kernel can see at once.
alias Columns = f32;
const WIDTH: u32 = 1u;
