// Where the factors of structured weights stand, for shaders that read them: the first factor (A, M x M x M; of quaternions the fixed one;
// U, d x RANK), from N_FIRST on the second (S, M x BLOCK_ROWS x BLOCK_COLUMNS; V, RANK x q), and last the q intercepts, N_FACTORS in all.
// One head.

// Whether it is U and V, of that rank. What the other structure has is then 1, as no constant may divide by 0.
override IS_PRODUCT: bool;
override RANK: u32;
override M: u32;
override BLOCK_ROWS: u32;
override BLOCK_COLUMNS: u32;
override N_FIRST: u32;
// Those of the first factor that are not trained.
override N_FIXED: u32;
override N_FACTORS: u32;
