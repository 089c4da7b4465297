// Gradient of few outputs, and at once the update with it: G = scale * X^T * R, and in row d the column sums of R, the
// gradient of b; then as update.wgsl: g = G + l2 * W (the intercept, row d, without); v = momentum * v + g; W -=
// learning_rate * rate * v, with Nesterov's momentum W -= learning_rate * rate * (g + momentum * v).
//
// X (chunk rows x feature_blocks * 4), the rows order[start..start + n_samples] of it; R (n_samples x output_blocks * 4);
// W and v ((d + 1) x output_blocks * 4). The padding of R, W and v is zero and stays so.
// Twins: src/reference/gradient.rs, then update.rs. Host: src/backend/gpu/narrow_update.rs.
//
// A workgroup takes 4 * FEATURE_THREADS features by 16 outputs and all samples; a thread computes 4 features by 16 outputs
// from every SAMPLE_THREADS-th sample.
// Order of summation: each thread over its samples, in their order; then the threads, ascending; then the scale.

const FEATURE_THREADS: u32 = 4u;
const SAMPLE_THREADS: u32 = 64u;
// Outputs of a workgroup.
const OUTPUTS: u32 = 16u;

// Twin: `Head` in src/backend/gpu/update.rs.
struct Head {
    learning_rate: f32,
    momentum: f32,
    // 1 or 0
    nesterov: u32,
    l2: f32,
}

@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> heads: array<Head>;
@group(0) @binding(5) var<storage, read_write> weights: array<f32>;
@group(0) @binding(6) var<storage, read_write> velocity: array<f32>;

// [sample thread][feature thread][output]
var<workgroup> scratch: array<f32, SAMPLE_THREADS * FEATURE_THREADS * OUTPUTS>;

// Updates one feature of each feature thread from the sums of all threads.
fn update(thread: u32, first_feature: u32, j: u32, sum0: vec4<f32>, sum1: vec4<f32>, sum2: vec4<f32>, sum3: vec4<f32>) {
    scratch[thread * OUTPUTS + 0u] = sum0.x;
    scratch[thread * OUTPUTS + 1u] = sum0.y;
    scratch[thread * OUTPUTS + 2u] = sum0.z;
    scratch[thread * OUTPUTS + 3u] = sum0.w;
    scratch[thread * OUTPUTS + 4u] = sum1.x;
    scratch[thread * OUTPUTS + 5u] = sum1.y;
    scratch[thread * OUTPUTS + 6u] = sum1.z;
    scratch[thread * OUTPUTS + 7u] = sum1.w;
    scratch[thread * OUTPUTS + 8u] = sum2.x;
    scratch[thread * OUTPUTS + 9u] = sum2.y;
    scratch[thread * OUTPUTS + 10u] = sum2.z;
    scratch[thread * OUTPUTS + 11u] = sum2.w;
    scratch[thread * OUTPUTS + 12u] = sum3.x;
    scratch[thread * OUTPUTS + 13u] = sum3.y;
    scratch[thread * OUTPUTS + 14u] = sum3.z;
    scratch[thread * OUTPUTS + 15u] = sum3.w;
    workgroupBarrier();
    let stride = step.output_blocks * 4u;
    for (var i = thread; i < FEATURE_THREADS * OUTPUTS; i += FEATURE_THREADS * SAMPLE_THREADS) {
        let feature = first_feature + i / OUTPUTS * 4u;
        let column = j * 4u + i % OUTPUTS;
        if feature <= step.n_features && column < stride {
            var g = 0.0;
            for (var k = 0u; k < SAMPLE_THREADS; k++) {
                g += scratch[k * FEATURE_THREADS * OUTPUTS + i];
            }
            let at = feature * stride + column;
            let head = heads[min(column / step.n_classes, step.n_heads - 1u)];
            let w = weights[at];
            if feature < step.n_features {
                g = g * step.scale + head.l2 * w;
            }
            let v = head.momentum * velocity[at] + g;
            let direction = select(v, g + head.momentum * v, head.nesterov == 1u);
            velocity[at] = v;
            weights[at] = w - head.learning_rate * step.rate * direction;
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(FEATURE_THREADS, SAMPLE_THREADS)
fn narrow_update(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let output_groups = (step.output_blocks + OUTPUTS / 4u - 1u) / (OUTPUTS / 4u);
    let number = workgroup_number(workgroup, workgroups);
    // Outputs past the end are computed from the last block and not stored.
    let last_block = step.output_blocks - 1u;
    let j = number % output_groups * (OUTPUTS / 4u);
    let j1 = min(j + 1u, last_block);
    let j2 = min(j + 2u, last_block);
    let j3 = min(j + 3u, last_block);
    let first_block = number / output_groups * FEATURE_THREADS;
    let block = first_block + local.x;
    // The constant 1, which the padding of X has as 0.
    let one = vec4<f32>(block * 4u + vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(step.n_features));
    // Blocks past the end are computed from the last one and not stored.
    let x_block = min(block, step.feature_blocks - 1u);
    let counts = f32(block < step.feature_blocks);

    var sum00 = vec4<f32>();
    var sum01 = vec4<f32>();
    var sum02 = vec4<f32>();
    var sum03 = vec4<f32>();
    var sum10 = vec4<f32>();
    var sum11 = vec4<f32>();
    var sum12 = vec4<f32>();
    var sum13 = vec4<f32>();
    var sum20 = vec4<f32>();
    var sum21 = vec4<f32>();
    var sum22 = vec4<f32>();
    var sum23 = vec4<f32>();
    var sum30 = vec4<f32>();
    var sum31 = vec4<f32>();
    var sum32 = vec4<f32>();
    var sum33 = vec4<f32>();
    for (var sample = local.y; sample < step.n_samples; sample += SAMPLE_THREADS) {
        let x = load_features(order[step.start + sample], x_block) * counts + one;
        let r = sample * step.output_blocks;
        let r0 = residual[r + j];
        let r1 = residual[r + j1];
        let r2 = residual[r + j2];
        let r3 = residual[r + j3];
        sum00 += x.x * r0;
        sum01 += x.x * r1;
        sum02 += x.x * r2;
        sum03 += x.x * r3;
        sum10 += x.y * r0;
        sum11 += x.y * r1;
        sum12 += x.y * r2;
        sum13 += x.y * r3;
        sum20 += x.z * r0;
        sum21 += x.z * r1;
        sum22 += x.z * r2;
        sum23 += x.z * r3;
        sum30 += x.w * r0;
        sum31 += x.w * r1;
        sum32 += x.w * r2;
        sum33 += x.w * r3;
    }
    let first_feature = first_block * 4u;
    update(thread, first_feature, j, sum00, sum01, sum02, sum03);
    update(thread, first_feature + 1u, j, sum10, sum11, sum12, sum13);
    update(thread, first_feature + 2u, j, sum20, sum21, sum22, sum23);
    update(thread, first_feature + 3u, j, sum30, sum31, sum32, sum33);
}
