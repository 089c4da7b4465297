// Gradient of W and b in parts, on matrix units: for part p, G_p = scale * X^T * R over the samples of the part, and in row d
// the column sums of R: the gradient of b, whose feature is 1.
//
// X (chunk rows x feature_blocks * 4), the rows order[start..start + n_samples] of it; R (n_samples x output_blocks * 4);
// partials (n_parts x (d + 1) x output_blocks * 4). Part p has the samples from p * samples_per_part on. R and scale * X are
// rounded to Value; bytes are not, the scale comes after their sum. R is at most largest_weight / n_samples, and is multiplied
// before by a power of two that brings it to at most 2^15, so that half precision has it down to 2^-28 of its largest value.
// Twin: src/reference/gradient.rs, gradient_half_bound. Host: src/backend/gpu/gradient_cooperative.rs.
//
// A workgroup is one subgroup. It computes a tile of 4 x 4 matrices: 4 * SIZE features by 4 * SIZE outputs. Samples past the
// end of the part count as zeros. Workgroup memory is as in logits_cooperative.wgsl.
// Order of summation: over blocks of SIZE samples of the part, in their order, and in a block as the device has it. The parts
// are summed by update.wgsl.

override THREADS: u32 = 32u;
// Whether X is bytes.
override BYTES: bool = false;
const TILE: u32 = 4u * SIZE;
// Samples that a tile is deep.
const DEPTH: u32 = 32u;
const STRIDE: u32 = TILE + 8u;

@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> partials: array<vec4<f32>>;

// [sample][feature] and [sample][output]
var<workgroup> x_tile: array<Value, DEPTH * STRIDE>;
var<workgroup> r_tile: array<Value, DEPTH * STRIDE>;
// [feature][output], for one row of matrices.
var<workgroup> sums: array<f32, SIZE * TILE>;

// 2^14 times n_samples rounded up to a power of two, over the largest weight.
fn residual_scale() -> f32 {
    return 16384.0 * f32(1u << (firstLeadingBit(step.n_samples - 1u) + 1u)) / step.largest_weight;
}

fn store_row(
    thread: u32,
    part: u32,
    first_feature: u32,
    first_column: u32,
    sum0: MatrixC,
    sum1: MatrixC,
    sum2: MatrixC,
    sum3: MatrixC,
) {
    coopStoreT(sum0, &sums[0], TILE);
    coopStoreT(sum1, &sums[SIZE], TILE);
    coopStoreT(sum2, &sums[2u * SIZE], TILE);
    coopStoreT(sum3, &sums[3u * SIZE], TILE);
    workgroupBarrier();
    for (var i = thread; i < SIZE * SIZE; i += THREADS) {
        let feature = first_feature + i / SIZE;
        let column = first_column + i % SIZE;
        if part < step.n_parts && feature <= step.n_features && column < step.output_blocks {
            let sum = vec4<f32>(sums[i * 4u], sums[i * 4u + 1u], sums[i * 4u + 2u], sums[i * 4u + 3u]);
            let scale = select(1.0, step.scale, BYTES && feature < step.n_features) / residual_scale();
            partials[(part * (step.n_features + 1u) + feature) * step.output_blocks + column] = sum * scale;
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(THREADS)
fn gradient_cooperative(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    // A tile is SIZE blocks of 4 features high and SIZE blocks of 4 outputs wide.
    let column_tiles = (step.output_blocks + SIZE - 1u) / SIZE;
    // d + 1 rows: the features and the constant 1.
    let row_tiles = (step.n_features + TILE) / TILE;
    let tile = workgroup_number(workgroup, workgroups);
    let first_column = tile % column_tiles * SIZE;
    let first_block = tile / column_tiles % row_tiles * SIZE;
    let part = tile / column_tiles / row_tiles;
    let first_sample = part * step.samples_per_part;
    // Workgroups past the last part have no samples and store nothing.
    let end = select(0u, min(first_sample + step.samples_per_part, step.n_samples), part < step.n_parts);
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
    for (var depth = first_sample; depth < end; depth += DEPTH) {
        for (var i = thread; i < DEPTH * SIZE; i += THREADS) {
            let sample = depth + i / SIZE;
            let block = first_block + i % SIZE;
            let column = first_column + i % SIZE;
            var x = vec4<f32>();
            var r = vec4<f32>();
            if sample < end {
                if block < step.feature_blocks {
                    x = load_features(order[step.start + sample], block) * scale;
                }
                // The constant 1, which the padding of X has as 0.
                x += vec4<f32>(block * 4u + vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(step.n_features));
                if column < step.output_blocks {
                    r = residual[sample * step.output_blocks + column] * residual_scale();
                }
            }
            let x_values = to_values(x);
            let r_values = to_values(r);
            let at = i / SIZE * STRIDE + i % SIZE * 4u;
            x_tile[at] = x_values.x;
            x_tile[at + 1u] = x_values.y;
            x_tile[at + 2u] = x_values.z;
            x_tile[at + 3u] = x_values.w;
            r_tile[at] = r_values.x;
            r_tile[at + 1u] = r_values.y;
            r_tile[at + 2u] = r_values.z;
            r_tile[at + 3u] = r_values.w;
        }
        workgroupBarrier();
        for (var sample = 0u; sample < DEPTH; sample += SIZE) {
            let r0 = coopLoadT<MatrixB>(&r_tile[sample * STRIDE], STRIDE);
            let r1 = coopLoadT<MatrixB>(&r_tile[sample * STRIDE + SIZE], STRIDE);
            let r2 = coopLoadT<MatrixB>(&r_tile[sample * STRIDE + 2u * SIZE], STRIDE);
            let r3 = coopLoadT<MatrixB>(&r_tile[sample * STRIDE + 3u * SIZE], STRIDE);
            // Columns of X^T are rows of X.
            let x0 = coopLoad<MatrixA>(&x_tile[sample * STRIDE], STRIDE);
            let x1 = coopLoad<MatrixA>(&x_tile[sample * STRIDE + SIZE], STRIDE);
            let x2 = coopLoad<MatrixA>(&x_tile[sample * STRIDE + 2u * SIZE], STRIDE);
            let x3 = coopLoad<MatrixA>(&x_tile[sample * STRIDE + 3u * SIZE], STRIDE);
            sum00 = coopMultiplyAdd(x0, r0, sum00);
            sum01 = coopMultiplyAdd(x0, r1, sum01);
            sum02 = coopMultiplyAdd(x0, r2, sum02);
            sum03 = coopMultiplyAdd(x0, r3, sum03);
            sum10 = coopMultiplyAdd(x1, r0, sum10);
            sum11 = coopMultiplyAdd(x1, r1, sum11);
            sum12 = coopMultiplyAdd(x1, r2, sum12);
            sum13 = coopMultiplyAdd(x1, r3, sum13);
            sum20 = coopMultiplyAdd(x2, r0, sum20);
            sum21 = coopMultiplyAdd(x2, r1, sum21);
            sum22 = coopMultiplyAdd(x2, r2, sum22);
            sum23 = coopMultiplyAdd(x2, r3, sum23);
            sum30 = coopMultiplyAdd(x3, r0, sum30);
            sum31 = coopMultiplyAdd(x3, r1, sum31);
            sum32 = coopMultiplyAdd(x3, r2, sum32);
            sum33 = coopMultiplyAdd(x3, r3, sum33);
        }
        workgroupBarrier();
    }
    let first_feature = first_block * 4u;
    store_row(thread, part, first_feature, first_column, sum00, sum01, sum02, sum03);
    store_row(thread, part, first_feature + SIZE, first_column, sum10, sum11, sum12, sum13);
    store_row(thread, part, first_feature + 2u * SIZE, first_column, sum20, sum21, sum22, sum23);
    store_row(thread, part, first_feature + 3u * SIZE, first_column, sum30, sum31, sum32, sum33);
}
