// Logits O = scale * X * W + b on matrix units.
//
// X (chunk rows x feature_blocks * 4), the rows order[start..start + n_samples] of it; W ((d + 1) rows x output_blocks * 4)
// with b as row d; O (n_samples x output_blocks * 4). W and scale * X are rounded to Value; bytes are not, the scale comes
// after their sum.
// Twin: src/reference/logits.rs, logits_half_bound. Host: src/backend/gpu/logits_cooperative.rs.
//
// A workgroup is one subgroup. It computes a tile of 4 x 4 matrices: 4 * SIZE rows by 4 * SIZE outputs. Samples and outputs
// past the end are computed from zeros and not stored; features past the end are zeros in both tiles. Matrices are loaded
// from and stored to workgroup memory alone, which has room for whole tiles, since they know of no bounds. Rows there are 8
// values longer than needed, so that what is loaded together is in different banks, and begin at multiples of 16 bytes,
// as Vulkan asks for.
// Order of summation: over blocks of SIZE features, ascending, and in a block as the device has it; then the intercept.

override THREADS: u32 = 32u;
// Whether X is bytes.
override BYTES: bool = false;
const TILE: u32 = 4u * SIZE;
// Features that a tile is deep.
const DEPTH: u32 = 32u;
const X_STRIDE: u32 = DEPTH + 8u;
const W_STRIDE: u32 = TILE + 8u;

@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> weights: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> outputs: array<vec4<f32>>;

// [sample][feature]
var<workgroup> x_tile: array<Value, TILE * X_STRIDE>;
// [feature][output]
var<workgroup> w_tile: array<Value, DEPTH * W_STRIDE>;
// [sample][output], for one row of matrices.
var<workgroup> sums: array<f32, SIZE * TILE>;

fn store_row(thread: u32, first_sample: u32, first_column: u32, sum0: MatrixC, sum1: MatrixC, sum2: MatrixC, sum3: MatrixC) {
    coopStoreT(sum0, &sums[0], TILE);
    coopStoreT(sum1, &sums[SIZE], TILE);
    coopStoreT(sum2, &sums[2u * SIZE], TILE);
    coopStoreT(sum3, &sums[3u * SIZE], TILE);
    workgroupBarrier();
    let scale = select(1.0, step.scale, BYTES);
    for (var i = thread; i < SIZE * SIZE; i += THREADS) {
        let sample = first_sample + i / SIZE;
        let column = first_column + i % SIZE;
        if sample < step.n_samples && column < step.output_blocks {
            let sum = vec4<f32>(sums[i * 4u], sums[i * 4u + 1u], sums[i * 4u + 2u], sums[i * 4u + 3u]);
            let bias = weights[step.n_features * step.output_blocks + column];
            outputs[sample * step.output_blocks + column] = sum * scale + bias;
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(THREADS)
fn logits_cooperative(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    // A tile is SIZE blocks of 4 outputs wide.
    let column_tiles = (step.output_blocks + SIZE - 1u) / SIZE;
    let tile = workgroup_number(workgroup, workgroups);
    let first_column = tile % column_tiles * SIZE;
    let first_sample = tile / column_tiles * TILE;
    let scale = select(step.scale, 1.0, BYTES);

    var sum00 = MatrixC();
    var sum01 = MatrixC();
    var sum02 = MatrixC();
    var sum03 = MatrixC();
    var sum10 = MatrixC();
    var sum11 = MatrixC();
    var sum12 = MatrixC();
    var sum13 = MatrixC();
    var sum20 = MatrixC();
    var sum21 = MatrixC();
    var sum22 = MatrixC();
    var sum23 = MatrixC();
    var sum30 = MatrixC();
    var sum31 = MatrixC();
    var sum32 = MatrixC();
    var sum33 = MatrixC();
    for (var depth = 0u; depth < step.feature_blocks; depth += DEPTH / 4u) {
        for (var i = thread; i < TILE * (DEPTH / 4u); i += THREADS) {
            let row = i / (DEPTH / 4u);
            let block = i % (DEPTH / 4u);
            let sample = first_sample + row;
            var x = vec4<f32>();
            if sample < step.n_samples && depth + block < step.feature_blocks {
                x = load_features(order[step.start + sample], depth + block) * scale;
            }
            let values = to_values(x);
            let at = row * X_STRIDE + block * 4u;
            x_tile[at] = values.x;
            x_tile[at + 1u] = values.y;
            x_tile[at + 2u] = values.z;
            x_tile[at + 3u] = values.w;
        }
        for (var i = thread; i < DEPTH * SIZE; i += THREADS) {
            let feature = depth * 4u + i / SIZE;
            let column = first_column + i % SIZE;
            var w = vec4<f32>();
            if feature < step.n_features && column < step.output_blocks {
                w = weights[feature * step.output_blocks + column];
            }
            let values = to_values(w);
            let at = i / SIZE * W_STRIDE + i % SIZE * 4u;
            w_tile[at] = values.x;
            w_tile[at + 1u] = values.y;
            w_tile[at + 2u] = values.z;
            w_tile[at + 3u] = values.w;
        }
        workgroupBarrier();
        for (var feature = 0u; feature < DEPTH; feature += SIZE) {
            let w0 = coopLoadT<MatrixB>(&w_tile[feature * W_STRIDE], W_STRIDE);
            let w1 = coopLoadT<MatrixB>(&w_tile[feature * W_STRIDE + SIZE], W_STRIDE);
            let w2 = coopLoadT<MatrixB>(&w_tile[feature * W_STRIDE + 2u * SIZE], W_STRIDE);
            let w3 = coopLoadT<MatrixB>(&w_tile[feature * W_STRIDE + 3u * SIZE], W_STRIDE);
            let x0 = coopLoadT<MatrixA>(&x_tile[feature], X_STRIDE);
            let x1 = coopLoadT<MatrixA>(&x_tile[SIZE * X_STRIDE + feature], X_STRIDE);
            let x2 = coopLoadT<MatrixA>(&x_tile[2u * SIZE * X_STRIDE + feature], X_STRIDE);
            let x3 = coopLoadT<MatrixA>(&x_tile[3u * SIZE * X_STRIDE + feature], X_STRIDE);
            sum00 = coopMultiplyAdd(x0, w0, sum00);
            sum01 = coopMultiplyAdd(x0, w1, sum01);
            sum02 = coopMultiplyAdd(x0, w2, sum02);
            sum03 = coopMultiplyAdd(x0, w3, sum03);
            sum10 = coopMultiplyAdd(x1, w0, sum10);
            sum11 = coopMultiplyAdd(x1, w1, sum11);
            sum12 = coopMultiplyAdd(x1, w2, sum12);
            sum13 = coopMultiplyAdd(x1, w3, sum13);
            sum20 = coopMultiplyAdd(x2, w0, sum20);
            sum21 = coopMultiplyAdd(x2, w1, sum21);
            sum22 = coopMultiplyAdd(x2, w2, sum22);
            sum23 = coopMultiplyAdd(x2, w3, sum23);
            sum30 = coopMultiplyAdd(x3, w0, sum30);
            sum31 = coopMultiplyAdd(x3, w1, sum31);
            sum32 = coopMultiplyAdd(x3, w2, sum32);
            sum33 = coopMultiplyAdd(x3, w3, sum33);
        }
        workgroupBarrier();
    }
    store_row(thread, first_sample, first_column, sum00, sum01, sum02, sum03);
    store_row(thread, first_sample + SIZE, first_column, sum10, sum11, sum12, sum13);
    store_row(thread, first_sample + 2u * SIZE, first_column, sum20, sum21, sum22, sum23);
    store_row(thread, first_sample + 3u * SIZE, first_column, sum30, sum31, sum32, sum33);
}
