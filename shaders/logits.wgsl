// Logits O = scale * X * W + b.
//
// X (chunk rows x feature_blocks * 4), the rows order[start..start + n_samples] of it, or start.. when ORDERED is false;
// W ((d + 1) rows x output_blocks * 4) with b as row d; O (n_samples x output_blocks * 4).
// Twin: src/reference/logits.rs. Host: src/backend/gpu/logits.rs.
//
// A workgroup computes a tile of 8 * ROW_THREADS rows by 8 * COLUMN_THREADS outputs, a thread 8 x 8 of it: two blocks of 4
// rows and two of 4 outputs, each half a tile apart. Samples and outputs past the end are computed from zeros and not
// stored; features past the end are zeros in X.
// Order of summation: over the features, ascending; then the scale, then the intercept.

override ROW_THREADS: u32 = 8u;
override COLUMN_THREADS: u32 = 8u;
override ORDERED: bool = true;
// Features that a tile is deep.
const DEPTH: u32 = 8u;

@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> weights: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> outputs: array<vec4<f32>>;

// [feature][row block], each feature one block longer, so that what is written together is in different banks.
var<workgroup> x_tile: array<vec4<f32>, (ROW_THREADS * 2u + 1u) * DEPTH>;
// [feature][output block]
var<workgroup> w_tile: array<vec4<f32>, COLUMN_THREADS * 2u * DEPTH>;

// Row of X of each row of the tile.
var<workgroup> rows: array<u32, ROW_THREADS * 8u>;
// What stands there for a sample past the end.
const NO_ROW: u32 = 0xffffffffu;

// Features of a row of the tile; zeros past the end.
fn load_block(row: u32, block: u32) -> vec4<f32> {
    let x_row = rows[row];
    if x_row != NO_ROW && block < step.feature_blocks {
        return load_features(x_row, block);
    }
    return vec4<f32>();
}

fn store(sample: u32, column: u32, sum: vec4<f32>, bias: vec4<f32>) {
    if sample < step.n_samples && column < step.output_blocks {
        outputs[sample * step.output_blocks + column] = sum * step.scale + bias;
    }
}

// b of a block of outputs.
fn load_bias(column: u32) -> vec4<f32> {
    if column < step.output_blocks {
        return weights[step.n_features * step.output_blocks + column];
    }
    return vec4<f32>();
}

@compute @workgroup_size(COLUMN_THREADS, ROW_THREADS)
fn logits(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let n_threads = ROW_THREADS * COLUMN_THREADS;
    let column_tiles = (step.output_blocks + COLUMN_THREADS * 2u - 1u) / (COLUMN_THREADS * 2u);
    let tile = workgroup_number(workgroup, workgroups);
    let first_column = tile % column_tiles * COLUMN_THREADS * 2u;
    let first_sample = tile / column_tiles * ROW_THREADS * 8u;
    let x_stride = ROW_THREADS * 2u + 1u;
    let w_stride = COLUMN_THREADS * 2u;

    var sum0a = vec4<f32>();
    var sum0b = vec4<f32>();
    var sum1a = vec4<f32>();
    var sum1b = vec4<f32>();
    var sum2a = vec4<f32>();
    var sum2b = vec4<f32>();
    var sum3a = vec4<f32>();
    var sum3b = vec4<f32>();
    var sum4a = vec4<f32>();
    var sum4b = vec4<f32>();
    var sum5a = vec4<f32>();
    var sum5b = vec4<f32>();
    var sum6a = vec4<f32>();
    var sum6b = vec4<f32>();
    var sum7a = vec4<f32>();
    var sum7b = vec4<f32>();
    for (var row = thread; row < ROW_THREADS * 8u; row += n_threads) {
        let sample = first_sample + row;
        rows[row] = NO_ROW;
        if sample < step.n_samples {
            rows[row] = step.start + sample;
            if ORDERED {
                rows[row] = order[step.start + sample];
            }
        }
    }
    workgroupBarrier();
    for (var depth = 0u; depth < step.feature_blocks; depth += DEPTH / 4u) {
        // A thread turns 4 rows x 4 features, so that it writes whole vectors.
        for (var i = thread; i < ROW_THREADS * 2u * (DEPTH / 4u); i += n_threads) {
            let row = i / (DEPTH / 4u);
            let block = i % (DEPTH / 4u);
            let x0 = load_block(row * 4u + 0u, depth + block);
            let x1 = load_block(row * 4u + 1u, depth + block);
            let x2 = load_block(row * 4u + 2u, depth + block);
            let x3 = load_block(row * 4u + 3u, depth + block);
            let at = block * 4u * x_stride + row;
            x_tile[at] = vec4<f32>(x0.x, x1.x, x2.x, x3.x);
            x_tile[at + x_stride] = vec4<f32>(x0.y, x1.y, x2.y, x3.y);
            x_tile[at + 2u * x_stride] = vec4<f32>(x0.z, x1.z, x2.z, x3.z);
            x_tile[at + 3u * x_stride] = vec4<f32>(x0.w, x1.w, x2.w, x3.w);
        }
        for (var i = thread; i < COLUMN_THREADS * 2u * DEPTH; i += n_threads) {
            let feature = depth * 4u + i / w_stride;
            let w_column = first_column + i % w_stride;
            var w = vec4<f32>();
            if feature < step.n_features && w_column < step.output_blocks {
                w = weights[feature * step.output_blocks + w_column];
            }
            w_tile[i] = w;
        }
        workgroupBarrier();
        for (var feature = 0u; feature < DEPTH; feature++) {
            let xa = x_tile[feature * x_stride + local.y];
            let xb = x_tile[feature * x_stride + ROW_THREADS + local.y];
            let wa = w_tile[feature * w_stride + local.x];
            let wb = w_tile[feature * w_stride + COLUMN_THREADS + local.x];
            sum0a += xa.x * wa;
            sum0b += xa.x * wb;
            sum1a += xa.y * wa;
            sum1b += xa.y * wb;
            sum2a += xa.z * wa;
            sum2b += xa.z * wb;
            sum3a += xa.w * wa;
            sum3b += xa.w * wb;
            sum4a += xb.x * wa;
            sum4b += xb.x * wb;
            sum5a += xb.y * wa;
            sum5b += xb.y * wb;
            sum6a += xb.z * wa;
            sum6b += xb.z * wb;
            sum7a += xb.w * wa;
            sum7b += xb.w * wb;
        }
        workgroupBarrier();
    }
    let column_a = first_column + local.x;
    let column_b = column_a + COLUMN_THREADS;
    let bias_a = load_bias(column_a);
    let bias_b = load_bias(column_b);
    let sample_a = first_sample + local.y * 4u;
    let sample_b = sample_a + ROW_THREADS * 4u;
    store(sample_a + 0u, column_a, sum0a, bias_a);
    store(sample_a + 0u, column_b, sum0b, bias_b);
    store(sample_a + 1u, column_a, sum1a, bias_a);
    store(sample_a + 1u, column_b, sum1b, bias_b);
    store(sample_a + 2u, column_a, sum2a, bias_a);
    store(sample_a + 2u, column_b, sum2b, bias_b);
    store(sample_a + 3u, column_a, sum3a, bias_a);
    store(sample_a + 3u, column_b, sum3b, bias_b);
    store(sample_b + 0u, column_a, sum4a, bias_a);
    store(sample_b + 0u, column_b, sum4b, bias_b);
    store(sample_b + 1u, column_a, sum5a, bias_a);
    store(sample_b + 1u, column_b, sum5b, bias_b);
    store(sample_b + 2u, column_a, sum6a, bias_a);
    store(sample_b + 2u, column_b, sum6b, bias_b);
    store(sample_b + 3u, column_a, sum7a, bias_a);
    store(sample_b + 3u, column_b, sum7b, bias_b);
}
