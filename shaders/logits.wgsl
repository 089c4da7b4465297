// Logits O = scale * X * W + b.
//
// X (chunk rows x feature_blocks * 4), the rows order[start..start + n_samples] of it, or start.. when ORDERED is false;
// W ((d + 1) rows x output_blocks * 4) with b as row d; O (n_samples x output_blocks * 4).
// Twin: src/reference/logits.rs. Host: src/backend/gpu/logits.rs.
//
// A workgroup computes a tile of 4 * ROW_THREADS rows by 4 * COLUMN_THREADS outputs, a thread 4 x 4 of it. Samples and
// outputs past the end are computed from zeros and not stored; features past the end are zeros in X.
// Order of summation: over the features, ascending; then the scale, then the intercept.

override ROW_THREADS: u32 = 8u;
override COLUMN_THREADS: u32 = 8u;
override ORDERED: bool = true;
// Blocks of 4 features that a tile is deep.
const DEPTH: u32 = 4u;

@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> weights: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> outputs: array<vec4<f32>>;

// [row][feature block] and [feature][output block]
var<workgroup> x_tile: array<vec4<f32>, ROW_THREADS * 4u * DEPTH>;
var<workgroup> w_tile: array<vec4<f32>, COLUMN_THREADS * 4u * DEPTH>;

fn store(sample: u32, column: u32, sum: vec4<f32>, bias: vec4<f32>) {
    if sample < step.n_samples && column < step.output_blocks {
        outputs[sample * step.output_blocks + column] = sum * step.scale + bias;
    }
}

@compute @workgroup_size(COLUMN_THREADS, ROW_THREADS)
fn logits(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let n_threads = ROW_THREADS * COLUMN_THREADS;
    let column_tiles = (step.output_blocks + COLUMN_THREADS - 1u) / COLUMN_THREADS;
    let tile = workgroup_number(workgroup, workgroups);
    let first_column = tile % column_tiles * COLUMN_THREADS;
    let first_sample = tile / column_tiles * ROW_THREADS * 4u;
    let column = first_column + local.x;

    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    for (var depth = 0u; depth < step.feature_blocks; depth += DEPTH) {
        for (var i = thread; i < ROW_THREADS * 4u * DEPTH; i += n_threads) {
            let sample = first_sample + i / DEPTH;
            let block = depth + i % DEPTH;
            var x = vec4<f32>();
            if sample < step.n_samples && block < step.feature_blocks {
                var row = step.start + sample;
                if ORDERED {
                    row = order[row];
                }
                x = load_features(row, block);
            }
            x_tile[i] = x;
        }
        for (var i = thread; i < COLUMN_THREADS * 4u * DEPTH; i += n_threads) {
            let feature = depth * 4u + i / COLUMN_THREADS;
            let w_column = first_column + i % COLUMN_THREADS;
            var w = vec4<f32>();
            if feature < step.n_features && w_column < step.output_blocks {
                w = weights[feature * step.output_blocks + w_column];
            }
            w_tile[i] = w;
        }
        workgroupBarrier();
        for (var block = 0u; block < DEPTH; block++) {
            let x0 = x_tile[(local.y * 4u + 0u) * DEPTH + block];
            let x1 = x_tile[(local.y * 4u + 1u) * DEPTH + block];
            let x2 = x_tile[(local.y * 4u + 2u) * DEPTH + block];
            let x3 = x_tile[(local.y * 4u + 3u) * DEPTH + block];
            let w0 = w_tile[(block * 4u + 0u) * COLUMN_THREADS + local.x];
            let w1 = w_tile[(block * 4u + 1u) * COLUMN_THREADS + local.x];
            let w2 = w_tile[(block * 4u + 2u) * COLUMN_THREADS + local.x];
            let w3 = w_tile[(block * 4u + 3u) * COLUMN_THREADS + local.x];
            sum0 += x0.x * w0;
            sum0 += x0.y * w1;
            sum0 += x0.z * w2;
            sum0 += x0.w * w3;
            sum1 += x1.x * w0;
            sum1 += x1.y * w1;
            sum1 += x1.z * w2;
            sum1 += x1.w * w3;
            sum2 += x2.x * w0;
            sum2 += x2.y * w1;
            sum2 += x2.z * w2;
            sum2 += x2.w * w3;
            sum3 += x3.x * w0;
            sum3 += x3.y * w1;
            sum3 += x3.z * w2;
            sum3 += x3.w * w3;
        }
        workgroupBarrier();
    }
    var bias = vec4<f32>();
    if column < step.output_blocks {
        bias = weights[step.n_features * step.output_blocks + column];
    }
    let sample = first_sample + local.y * 4u;
    store(sample + 0u, column, sum0, bias);
    store(sample + 1u, column, sum1, bias);
    store(sample + 2u, column, sum2, bias);
    store(sample + 3u, column, sum3, bias);
}
