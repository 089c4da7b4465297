// Gradient of W and b in parts: for part p, G_p = scale * X^T * R over the samples of the part, and in row d the column
// sums of R: the gradient of b, whose feature is 1.
//
// X (chunk rows x feature_blocks * 4), the rows order[start..start + n_samples] of it, or start.. when ORDERED is false; R
// (n_samples x output_blocks * 4); partials (n_parts x (d + 1) x output_blocks * 4). Part p has the samples from p *
// samples_per_part on.
// Twin: src/reference/gradient.rs. Host: src/backend/gpu/gradient.rs.
//
// A workgroup computes a tile of 8 * ROW_THREADS features by 8 * COLUMN_THREADS outputs, a thread 8 x 8 of it: two blocks of
// 4 features and two of 4 outputs, each half a tile apart. Samples past the end of the part count as zeros.
// Order of summation: over the samples of the part, in their order; then the scale. The parts are summed by
// update.wgsl or reduce.wgsl.

override ROW_THREADS: u32 = 8u;
override COLUMN_THREADS: u32 = 8u;
override ORDERED: bool = true;
// Samples that a tile is deep.
const DEPTH: u32 = 16u;

@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> partials: array<vec4<f32>>;

// [sample][feature block] and [sample][output block]
var<workgroup> x_tile: array<vec4<f32>, ROW_THREADS * 2u * DEPTH>;
var<workgroup> r_tile: array<vec4<f32>, COLUMN_THREADS * 2u * DEPTH>;

fn store(part: u32, feature: u32, column: u32, sum: vec4<f32>) {
    if part < step.n_parts && feature <= step.n_features && column < step.output_blocks {
        let scale = select(step.scale, 1.0, feature == step.n_features);
        partials[(part * (step.n_features + 1u) + feature) * step.output_blocks + column] = sum * scale;
    }
}

@compute @workgroup_size(COLUMN_THREADS, ROW_THREADS)
fn gradient(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let n_threads = ROW_THREADS * COLUMN_THREADS;
    let x_stride = ROW_THREADS * 2u;
    let r_stride = COLUMN_THREADS * 2u;
    let column_tiles = (step.output_blocks + r_stride - 1u) / r_stride;
    // d + 1 rows: the features and the constant 1.
    let row_tiles = (step.n_features / 4u + x_stride) / x_stride;
    let tile = workgroup_number(workgroup, workgroups);
    let first_column = tile % column_tiles * r_stride;
    let first_block = tile / column_tiles % row_tiles * x_stride;
    let part = tile / column_tiles / row_tiles;
    let first_sample = part * step.samples_per_part;
    // Workgroups past the last part have no samples and store nothing.
    let end = select(0u, min(first_sample + step.samples_per_part, step.n_samples), part < step.n_parts);

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
    for (var depth = first_sample; depth < end; depth += DEPTH) {
        for (var i = thread; i < ROW_THREADS * 2u * DEPTH; i += n_threads) {
            let sample = depth + i / x_stride;
            let block = first_block + i % x_stride;
            var x = vec4<f32>();
            if sample < end {
                if block < step.feature_blocks {
                    var row = step.start + sample;
                    if ORDERED {
                        row = order[step.start + sample];
                    }
                    x = load_features(row, block);
                }
                // The constant 1, which the padding of X has as 0.
                x += vec4<f32>(block * 4u + vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(step.n_features));
            }
            x_tile[i] = x;
        }
        for (var i = thread; i < COLUMN_THREADS * 2u * DEPTH; i += n_threads) {
            let sample = depth + i / r_stride;
            let r_column = first_column + i % r_stride;
            var r = vec4<f32>();
            if sample < end && r_column < step.output_blocks {
                r = residual[sample * step.output_blocks + r_column];
            }
            r_tile[i] = r;
        }
        workgroupBarrier();
        for (var sample = 0u; sample < DEPTH; sample++) {
            let xa = x_tile[sample * x_stride + local.y];
            let xb = x_tile[sample * x_stride + ROW_THREADS + local.y];
            let ra = r_tile[sample * r_stride + local.x];
            let rb = r_tile[sample * r_stride + COLUMN_THREADS + local.x];
            sum0a += xa.x * ra;
            sum0b += xa.x * rb;
            sum1a += xa.y * ra;
            sum1b += xa.y * rb;
            sum2a += xa.z * ra;
            sum2b += xa.z * rb;
            sum3a += xa.w * ra;
            sum3b += xa.w * rb;
            sum4a += xb.x * ra;
            sum4b += xb.x * rb;
            sum5a += xb.y * ra;
            sum5b += xb.y * rb;
            sum6a += xb.z * ra;
            sum6b += xb.z * rb;
            sum7a += xb.w * ra;
            sum7b += xb.w * rb;
        }
        workgroupBarrier();
    }
    let column_a = first_column + local.x;
    let column_b = column_a + COLUMN_THREADS;
    let feature_a = (first_block + local.y) * 4u;
    let feature_b = feature_a + ROW_THREADS * 4u;
    store(part, feature_a + 0u, column_a, sum0a);
    store(part, feature_a + 0u, column_b, sum0b);
    store(part, feature_a + 1u, column_a, sum1a);
    store(part, feature_a + 1u, column_b, sum1b);
    store(part, feature_a + 2u, column_a, sum2a);
    store(part, feature_a + 2u, column_b, sum2b);
    store(part, feature_a + 3u, column_a, sum3a);
    store(part, feature_a + 3u, column_b, sum3b);
    store(part, feature_b + 0u, column_a, sum4a);
    store(part, feature_b + 0u, column_b, sum4b);
    store(part, feature_b + 1u, column_a, sum5a);
    store(part, feature_b + 1u, column_b, sum5b);
    store(part, feature_b + 2u, column_a, sum6a);
    store(part, feature_b + 2u, column_b, sum6b);
    store(part, feature_b + 3u, column_a, sum7a);
    store(part, feature_b + 3u, column_b, sum7b);
}
