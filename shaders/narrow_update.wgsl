// Gradient of few outputs, and at once the update with it: G = scale * X^T * R, and in row d the column sums of R, the
// gradient of b; then as update.wgsl: g = G + l2 * W (the intercept, row d, without); W -= learning_rate * rate * direction,
// by the rule of shared/momentum.wgsl or shared/adamw.wgsl, one of which stands above.
//
// X (chunk rows x feature_blocks * 4), the rows order[start..start + n_samples] of it; R (n_samples x output_blocks * 4);
// W and each of the moments ((d + 1) x output_blocks * 4). The padding of all is zero and stays so.
// Twins: src/reference/gradient.rs, then update.rs. Host: src/backend/gpu/narrow_update.rs.
//
// A workgroup takes 4 * FEATURE_BLOCKS * FEATURE_THREADS features by 4 * OUTPUT_BLOCKS outputs and all samples; a thread
// computes 4 * FEATURE_BLOCKS features from every SAMPLE_THREADS-th sample.
// Order of summation: each thread over its samples, in their order; then each SHARE threads, ascending; then the sums of
// these, ascending; then the scale.

override FEATURE_THREADS: u32 = 4u;
override SAMPLE_THREADS: u32 = 64u;
// Blocks of features of a thread: 1, or 4 with FEATURES = 16.
override FEATURE_BLOCKS: u32 = 1u;
// Blocks of outputs of a workgroup, at most 4.
override OUTPUT_BLOCKS: u32 = 4u;

override THREADS: u32 = FEATURE_THREADS * SAMPLE_THREADS;
override OUTPUTS: u32 = OUTPUT_BLOCKS * 4u;
// Features of a thread that are summed over the threads at a time: 1 or all.
override FEATURES: u32 = 1u;
// The sums of so many threads are first added by one: as many as give each thread one such sum to make, or 1.
override SHARE: u32 = 16u;

@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> heads: array<Head>;
@group(0) @binding(5) var<storage, read_write> weights: array<f32>;
@group(0) @binding(6) var<storage, read_write> moments: array<f32>;

override SCRATCH: u32 = THREADS * FEATURES * OUTPUTS;
// [sample thread][feature thread][feature][output]
var<workgroup> scratch: array<f32, SCRATCH>;

fn n_parameters() -> u32 {
    return (step.n_features + 1u) * step.output_blocks * 4u;
}

// The sums of a thread for one of FEATURES features.
fn store_sums(thread: u32, feature: u32, sum: mat4x4<f32>) {
    let to = (thread * FEATURES + feature) * OUTPUTS;
    scratch[to + 0u] = sum[0].x;
    scratch[to + 1u] = sum[0].y;
    scratch[to + 2u] = sum[0].z;
    scratch[to + 3u] = sum[0].w;
    if OUTPUT_BLOCKS > 1u {
        scratch[to + 4u] = sum[1].x;
        scratch[to + 5u] = sum[1].y;
        scratch[to + 6u] = sum[1].z;
        scratch[to + 7u] = sum[1].w;
    }
    if OUTPUT_BLOCKS > 2u {
        scratch[to + 8u] = sum[2].x;
        scratch[to + 9u] = sum[2].y;
        scratch[to + 10u] = sum[2].z;
        scratch[to + 11u] = sum[2].w;
    }
    if OUTPUT_BLOCKS > 3u {
        scratch[to + 12u] = sum[3].x;
        scratch[to + 13u] = sum[3].y;
        scratch[to + 14u] = sum[3].z;
        scratch[to + 15u] = sum[3].w;
    }
}

// Updates FEATURES features of each feature thread from the sums of all threads.
fn update(thread: u32, first_feature: u32, j: u32) {
    workgroupBarrier();
    let n_values = FEATURE_THREADS * FEATURES * OUTPUTS;
    if SHARE > 1u {
        for (var i = thread; i < (SAMPLE_THREADS + SHARE - 1u) / SHARE * n_values; i += THREADS) {
            let first = i / n_values * SHARE;
            var sum = 0.0;
            for (var k = first; k < min(first + SHARE, SAMPLE_THREADS); k++) {
                sum += scratch[k * n_values + i % n_values];
            }
            // No other thread reads this one.
            scratch[first * n_values + i % n_values] = sum;
        }
        workgroupBarrier();
    }
    let stride = step.output_blocks * 4u;
    for (var i = thread; i < n_values; i += THREADS) {
        let feature_thread = i / (OUTPUTS * FEATURES);
        let feature = first_feature + feature_thread * FEATURE_BLOCKS * 4u + i / OUTPUTS % FEATURES;
        let column = j * 4u + i % OUTPUTS;
        if feature <= step.n_features && column < stride {
            var g = 0.0;
            for (var k = 0u; k < SAMPLE_THREADS; k += SHARE) {
                g += scratch[k * n_values + i];
            }
            let at = feature * stride + column;
            let head = heads[min(column / step.n_classes, step.n_heads - 1u)];
            let w = weights[at];
            var decaying = 0.0;
            if feature < step.n_features {
                g = g * step.scale + head.l2 * w;
                decaying = w;
            } else {
                g *= head.intercept;
            }
            weights[at] = w - head.learning_rate * step.rate * direction(head, at, g, decaying);
        }
    }
    workgroupBarrier();
}

// A block of features of a row; past the end, zeros, but for the constant 1 that the padding of X has as 0.
fn load_block(row: u32, block: u32) -> vec4<f32> {
    let one = vec4<f32>(block * 4u + vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(step.n_features));
    let counts = f32(block < step.feature_blocks);
    return load_features(row, min(block, step.feature_blocks - 1u)) * counts + one;
}

// Outputs from block j on of a row of R; those past the end are copies of the last block, and what comes of them is not
// stored.
fn load_row(sample: u32, j: u32) -> mat4x4<f32> {
    let row = sample * step.output_blocks;
    let last = step.output_blocks - 1u;
    var r = mat4x4<f32>();
    r[0] = residual[row + j];
    if OUTPUT_BLOCKS > 1u {
        r[1] = residual[row + min(j + 1u, last)];
    }
    if OUTPUT_BLOCKS > 2u {
        r[2] = residual[row + min(j + 2u, last)];
    }
    if OUTPUT_BLOCKS > 3u {
        r[3] = residual[row + min(j + 3u, last)];
    }
    return r;
}

// One dimension, since Mesa's software Vulkan fills its vectors of 8 threads along x alone.
@compute @workgroup_size(THREADS)
fn narrow_update(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let output_groups = (step.output_blocks + OUTPUT_BLOCKS - 1u) / OUTPUT_BLOCKS;
    let number = workgroup_number(workgroup, workgroups);
    let j = number % output_groups * OUTPUT_BLOCKS;
    let first_block = number / output_groups * FEATURE_THREADS * FEATURE_BLOCKS;
    let block = first_block + thread % FEATURE_THREADS * FEATURE_BLOCKS;

    // Of a feature each, a column of 4 outputs.
    var sum00 = mat4x4<f32>();
    var sum01 = mat4x4<f32>();
    var sum02 = mat4x4<f32>();
    var sum03 = mat4x4<f32>();
    var sum10 = mat4x4<f32>();
    var sum11 = mat4x4<f32>();
    var sum12 = mat4x4<f32>();
    var sum13 = mat4x4<f32>();
    var sum20 = mat4x4<f32>();
    var sum21 = mat4x4<f32>();
    var sum22 = mat4x4<f32>();
    var sum23 = mat4x4<f32>();
    var sum30 = mat4x4<f32>();
    var sum31 = mat4x4<f32>();
    var sum32 = mat4x4<f32>();
    var sum33 = mat4x4<f32>();
    for (var sample = thread / FEATURE_THREADS; sample < step.n_samples; sample += SAMPLE_THREADS) {
        let row = order[step.start + sample];
        let r = load_row(sample, j);
        let x0 = load_block(row, block);
        sum00 += x0.x * r;
        sum01 += x0.y * r;
        sum02 += x0.z * r;
        sum03 += x0.w * r;
        if FEATURE_BLOCKS > 1u {
            let x1 = load_block(row, block + 1u);
            sum10 += x1.x * r;
            sum11 += x1.y * r;
            sum12 += x1.z * r;
            sum13 += x1.w * r;
            let x2 = load_block(row, block + 2u);
            sum20 += x2.x * r;
            sum21 += x2.y * r;
            sum22 += x2.z * r;
            sum23 += x2.w * r;
            let x3 = load_block(row, block + 3u);
            sum30 += x3.x * r;
            sum31 += x3.y * r;
            sum32 += x3.z * r;
            sum33 += x3.w * r;
        }
    }
    let first_feature = first_block * 4u;
    if FEATURES == 1u {
        store_sums(thread, 0u, sum00);
        update(thread, first_feature, j);
        store_sums(thread, 0u, sum01);
        update(thread, first_feature + 1u, j);
        store_sums(thread, 0u, sum02);
        update(thread, first_feature + 2u, j);
        store_sums(thread, 0u, sum03);
        update(thread, first_feature + 3u, j);
    } else {
        store_sums(thread, 0u, sum00);
        store_sums(thread, 1u, sum01);
        store_sums(thread, 2u, sum02);
        store_sums(thread, 3u, sum03);
        store_sums(thread, 4u, sum10);
        store_sums(thread, 5u, sum11);
        store_sums(thread, 6u, sum12);
        store_sums(thread, 7u, sum13);
        store_sums(thread, 8u, sum20);
        store_sums(thread, 9u, sum21);
        store_sums(thread, 10u, sum22);
        store_sums(thread, 11u, sum23);
        store_sums(thread, 12u, sum30);
        store_sums(thread, 13u, sum31);
        store_sums(thread, 14u, sum32);
        store_sums(thread, 15u, sum33);
        update(thread, first_feature, j);
    }
}
