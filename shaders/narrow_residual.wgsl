// Residual of few outputs: O = scale * X * W + b, and at once what softmax.wgsl makes of it: by row and head
// p_j = exp(o_j - m) / sum_k exp(o_k - m), m = max_k o_k; loss = log sum_k exp(o_k - m) - sum_j y_j (o_j - m);
// R = sample_weight * (P - Y).
//
// X (chunk rows x feature_blocks * 4), the rows order[start..start + n_samples] of it; labels as in softmax.wgsl;
// W ((d + 1) rows x output_blocks * 4) with b as row d; R (n_samples x output_blocks * 4), its padding is zero; losses:
// one for each sample and head, at (losses_start + sample) * n_heads + head.
// Twins: src/reference/logits.rs, then softmax.rs. Host: src/backend/gpu/narrow_residual.rs.
//
// A group of SAMPLE_THREADS threads computes 4 samples by 16 outputs at a time, each thread from its share of the feature
// blocks. Samples past the end are computed from the last one and not stored. Features past the end are zeros in X.
// Order of summation: each thread over its features, ascending; then the threads, ascending; then the scale, then the
// intercept; over the classes, ascending. Assumes finite logits.

override SAMPLE_THREADS: u32 = 16u;
override SOFT: bool = false;
const THREADS: u32 = 64u;
// Outputs at a time.
const OUTPUTS: u32 = 16u;

@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> labels: array<u32>;
@group(0) @binding(4) var<storage, read> weights: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> losses: array<f32>;

// [thread][output]
var<workgroup> scratch: array<vec4<f32>, THREADS * OUTPUTS / 4u>;

// The row of the sample, or of the last one.
fn row_of(sample: u32) -> u32 {
    return order[step.start + min(sample, step.n_samples - 1u)];
}

// Logits of one sample of each group from the sums of its threads, for 16 outputs from block j on.
fn store_logits(thread: u32, first_sample: u32, j: u32, sum0: vec4<f32>, sum1: vec4<f32>, sum2: vec4<f32>, sum3: vec4<f32>) {
    scratch[thread * 4u + 0u] = sum0;
    scratch[thread * 4u + 1u] = sum1;
    scratch[thread * 4u + 2u] = sum2;
    scratch[thread * 4u + 3u] = sum3;
    workgroupBarrier();
    let n_groups = THREADS / SAMPLE_THREADS;
    for (var i = thread; i < n_groups * 4u; i += THREADS) {
        let group = i / 4u;
        let column = j + i % 4u;
        let sample = first_sample + group * 4u;
        if sample < step.n_samples && column < step.output_blocks {
            var sum = vec4<f32>();
            for (var k = 0u; k < SAMPLE_THREADS; k++) {
                sum += scratch[(group * SAMPLE_THREADS + k) * 4u + i % 4u];
            }
            let o = sum * step.scale + weights[step.n_features * step.output_blocks + column];
            let at = (sample * step.output_blocks + column) * 4u;
            residual[at] = o.x;
            residual[at + 1u] = o.y;
            residual[at + 2u] = o.z;
            residual[at + 3u] = o.w;
        }
    }
    workgroupBarrier();
}

// Loss and residual of one sample and head from its logits.
fn softmax(sample: u32, head: u32) {
    var label = order[step.start + sample];
    if !SOFT {
        label = labels[label];
    }
    let first = sample * step.output_blocks * 4u + head * step.n_classes;
    var highest = -3.0e38;
    for (var j = 0u; j < step.n_classes; j++) {
        highest = max(highest, residual[first + j]);
    }
    // Sum of the exponentials, and of y_j (o_j - m).
    var sum = 0.0;
    var target_logit = 0.0;
    for (var j = 0u; j < step.n_classes; j++) {
        let o = residual[first + j] - highest;
        if SOFT {
            target_logit += bitcast<f32>(labels[label * step.n_classes + j]) * o;
        } else if j == label {
            target_logit = o;
        }
        let e = exp(o);
        residual[first + j] = e;
        sum += e;
    }
    for (var j = 0u; j < step.n_classes; j++) {
        var y = f32(j == label);
        if SOFT {
            y = bitcast<f32>(labels[label * step.n_classes + j]);
        }
        residual[first + j] = (residual[first + j] / sum - y) * step.sample_weight;
    }
    losses[(step.losses_start + sample) * step.n_heads + head] = log(sum) - target_logit;
}

@compute @workgroup_size(SAMPLE_THREADS, THREADS / SAMPLE_THREADS)
fn narrow_residual(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let samples_per_workgroup = THREADS / SAMPLE_THREADS * 4u;
    let first_sample = workgroup_number(workgroup, workgroups) * samples_per_workgroup;
    let sample = first_sample + local.y * 4u;
    let row0 = row_of(sample);
    let row1 = row_of(sample + 1u);
    let row2 = row_of(sample + 2u);
    let row3 = row_of(sample + 3u);
    let last_block = step.output_blocks - 1u;

    for (var j = 0u; j < step.output_blocks; j += OUTPUTS / 4u) {
        // Outputs past the end are computed from the last block and not stored.
        let j1 = min(j + 1u, last_block);
        let j2 = min(j + 2u, last_block);
        let j3 = min(j + 3u, last_block);
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
        for (var block = local.x; block < step.feature_blocks; block += SAMPLE_THREADS) {
            let x0 = load_features(row0, block);
            let x1 = load_features(row1, block);
            let x2 = load_features(row2, block);
            let x3 = load_features(row3, block);
            {
                // Rows of W past the intercept do not exist, and X is zero there.
                let row = min(block * 4u + 0u, step.n_features) * step.output_blocks;
                let w0 = weights[row + j];
                let w1 = weights[row + j1];
                let w2 = weights[row + j2];
                let w3 = weights[row + j3];
                sum00 += x0.x * w0;
                sum01 += x0.x * w1;
                sum02 += x0.x * w2;
                sum03 += x0.x * w3;
                sum10 += x1.x * w0;
                sum11 += x1.x * w1;
                sum12 += x1.x * w2;
                sum13 += x1.x * w3;
                sum20 += x2.x * w0;
                sum21 += x2.x * w1;
                sum22 += x2.x * w2;
                sum23 += x2.x * w3;
                sum30 += x3.x * w0;
                sum31 += x3.x * w1;
                sum32 += x3.x * w2;
                sum33 += x3.x * w3;
            }
            {
                let row = min(block * 4u + 1u, step.n_features) * step.output_blocks;
                let w0 = weights[row + j];
                let w1 = weights[row + j1];
                let w2 = weights[row + j2];
                let w3 = weights[row + j3];
                sum00 += x0.y * w0;
                sum01 += x0.y * w1;
                sum02 += x0.y * w2;
                sum03 += x0.y * w3;
                sum10 += x1.y * w0;
                sum11 += x1.y * w1;
                sum12 += x1.y * w2;
                sum13 += x1.y * w3;
                sum20 += x2.y * w0;
                sum21 += x2.y * w1;
                sum22 += x2.y * w2;
                sum23 += x2.y * w3;
                sum30 += x3.y * w0;
                sum31 += x3.y * w1;
                sum32 += x3.y * w2;
                sum33 += x3.y * w3;
            }
            {
                let row = min(block * 4u + 2u, step.n_features) * step.output_blocks;
                let w0 = weights[row + j];
                let w1 = weights[row + j1];
                let w2 = weights[row + j2];
                let w3 = weights[row + j3];
                sum00 += x0.z * w0;
                sum01 += x0.z * w1;
                sum02 += x0.z * w2;
                sum03 += x0.z * w3;
                sum10 += x1.z * w0;
                sum11 += x1.z * w1;
                sum12 += x1.z * w2;
                sum13 += x1.z * w3;
                sum20 += x2.z * w0;
                sum21 += x2.z * w1;
                sum22 += x2.z * w2;
                sum23 += x2.z * w3;
                sum30 += x3.z * w0;
                sum31 += x3.z * w1;
                sum32 += x3.z * w2;
                sum33 += x3.z * w3;
            }
            {
                let row = min(block * 4u + 3u, step.n_features) * step.output_blocks;
                let w0 = weights[row + j];
                let w1 = weights[row + j1];
                let w2 = weights[row + j2];
                let w3 = weights[row + j3];
                sum00 += x0.w * w0;
                sum01 += x0.w * w1;
                sum02 += x0.w * w2;
                sum03 += x0.w * w3;
                sum10 += x1.w * w0;
                sum11 += x1.w * w1;
                sum12 += x1.w * w2;
                sum13 += x1.w * w3;
                sum20 += x2.w * w0;
                sum21 += x2.w * w1;
                sum22 += x2.w * w2;
                sum23 += x2.w * w3;
                sum30 += x3.w * w0;
                sum31 += x3.w * w1;
                sum32 += x3.w * w2;
                sum33 += x3.w * w3;
            }
        }
        store_logits(thread, first_sample, j, sum00, sum01, sum02, sum03);
        store_logits(thread, first_sample + 1u, j, sum10, sum11, sum12, sum13);
        store_logits(thread, first_sample + 2u, j, sum20, sum21, sum22, sum23);
        store_logits(thread, first_sample + 3u, j, sum30, sum31, sum32, sum33);
    }

    storageBarrier();
    for (var i = thread; i < samples_per_workgroup * step.n_heads; i += THREADS) {
        let of_sample = first_sample + i / step.n_heads;
        if of_sample < step.n_samples {
            softmax(of_sample, i % step.n_heads);
        }
    }
}
