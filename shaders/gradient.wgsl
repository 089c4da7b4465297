// Gradient of W and b in parts: for part p, G_p = scale * X^T * R over the samples of the part, and in row d the column
// sums of R: the gradient of b, whose feature is 1.
//
// X (chunk rows x feature_blocks * 4), the rows order[start..start + n_samples] of it; R (n_samples x output_blocks * 4);
// partials (n_parts x (d + 1) x output_blocks * 4). Part p has the samples from p * samples_per_part on.
// Twin: src/reference/gradient.rs. Host: src/backend/gpu/gradient.rs.
//
// A workgroup computes a tile of 4 * ROW_THREADS features by 4 * COLUMN_THREADS outputs, a thread 4 x 4 of it. Samples
// past the end of the part count as zeros.
// Order of summation: over the samples of the part, in their order; then the scale. The parts are summed by update.wgsl.

override ROW_THREADS: u32 = 8u;
override COLUMN_THREADS: u32 = 8u;
// Samples that a tile is deep.
const DEPTH: u32 = 16u;

@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> partials: array<vec4<f32>>;

// [sample][feature block] and [sample][output block]
var<workgroup> x_tile: array<vec4<f32>, ROW_THREADS * DEPTH>;
var<workgroup> r_tile: array<vec4<f32>, COLUMN_THREADS * DEPTH>;

fn store(part: u32, feature: u32, column: u32, sum: vec4<f32>) {
    if feature <= step.n_features && column < step.output_blocks {
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
    let column_tiles = (step.output_blocks + COLUMN_THREADS - 1u) / COLUMN_THREADS;
    // d + 1 rows: the features and the constant 1.
    let row_tiles = (step.n_features / 4u + ROW_THREADS) / ROW_THREADS;
    let tile = workgroup_number(workgroup, workgroups);
    let first_column = tile % column_tiles * COLUMN_THREADS;
    let first_block = tile / column_tiles % row_tiles * ROW_THREADS;
    let part = tile / column_tiles / row_tiles;
    let column = first_column + local.x;
    let first_sample = part * step.samples_per_part;
    // Workgroups past the last part have no samples and store nothing.
    let end = select(0u, min(first_sample + step.samples_per_part, step.n_samples), part < step.n_parts);

    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    for (var depth = first_sample; depth < end; depth += DEPTH) {
        for (var i = thread; i < ROW_THREADS * DEPTH; i += n_threads) {
            let sample = depth + i / ROW_THREADS;
            let block = first_block + i % ROW_THREADS;
            var x = vec4<f32>();
            if sample < end {
                if block < step.feature_blocks {
                    x = load_features(order[step.start + sample], block);
                }
                // The constant 1, which the padding of X has as 0.
                x += vec4<f32>(block * 4u + vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(step.n_features));
            }
            x_tile[i] = x;
        }
        for (var i = thread; i < COLUMN_THREADS * DEPTH; i += n_threads) {
            let sample = depth + i / COLUMN_THREADS;
            let r_column = first_column + i % COLUMN_THREADS;
            var r = vec4<f32>();
            if sample < end && r_column < step.output_blocks {
                r = residual[sample * step.output_blocks + r_column];
            }
            r_tile[i] = r;
        }
        workgroupBarrier();
        for (var sample = 0u; sample < DEPTH; sample++) {
            let x = x_tile[sample * ROW_THREADS + local.y];
            let r = r_tile[sample * COLUMN_THREADS + local.x];
            sum0 += x.x * r;
            sum1 += x.y * r;
            sum2 += x.z * r;
            sum3 += x.w * r;
        }
        workgroupBarrier();
    }
    if part < step.n_parts {
        let feature = (first_block + local.y) * 4u;
        store(part, feature + 0u, column, sum0);
        store(part, feature + 1u, column, sum1);
        store(part, feature + 2u, column, sum2);
        store(part, feature + 3u, column, sum3);
    }
}
