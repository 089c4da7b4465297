// Residual of few outputs: O = scale * X * W + b, and at once what softmax.wgsl makes of it: by row and head
// p_j = exp(o_j - m) / sum_k exp(o_k - m), m = max_k o_k; loss = w * (log sum_k exp(o_k - m) - sum_j y_j (o_j - m));
// R = w * sample_weight * (P - Y), w the weight of the sample.
//
// X (chunk rows x feature_blocks * 4), the rows order[start..start + n_samples] of it; labels as in softmax.wgsl;
// W ((d + 1) rows x output_blocks * 4) with b as row d; R (n_samples x output_blocks * 4), its padding is zero; losses:
// one for each sample and head, at (losses_start + sample) * n_heads + head.
// Twins: src/reference/logits.rs, then softmax.rs. Host: src/backend/gpu/narrow_residual.rs.
//
// A group of SAMPLE_THREADS threads computes SAMPLES samples by 4 * OUTPUT_BLOCKS outputs at a time, each thread from its share of
// the feature blocks; a group of one thread works alone, without barriers. Samples past the end are computed from the last
// one and not stored. Features past the end are zeros in X.
// Order of summation: each thread over its features, ascending; then the threads, ascending; then the scale, then the
// intercept; over the classes, ascending. Assumes finite logits.

// Of a workgroup.
override THREADS: u32 = 64u;
override SAMPLE_THREADS: u32 = 16u;
// Of a thread: 4 or 8.
override SAMPLES: u32 = 4u;
// Blocks of outputs at a time, at most 4.
override OUTPUT_BLOCKS: u32 = 4u;
override SOFT: bool = false;
override WEIGHTED: bool = false;

@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read> labels: array<u32>;
@group(0) @binding(5) var<storage, read_write> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> losses: array<f32>;

override SCRATCH: u32 = THREADS * OUTPUT_BLOCKS;
// [thread][output block]
var<workgroup> scratch: array<vec4<f32>, SCRATCH>;

// The row of the sample, or of the last one.
fn row_of(sample: u32) -> u32 {
    return order[step.start + min(sample, step.n_samples - 1u)];
}

// Outputs from block j on of a row of W; those past the end are copies of the last block, and what comes of them is not
// stored. Rows past the intercept do not exist, and X is zero there.
fn load_row(feature: u32, j: u32) -> mat4x4<f32> {
    let row = min(feature, step.n_features) * step.output_blocks;
    let last = step.output_blocks - 1u;
    var w = mat4x4<f32>();
    w[0] = load_weights(row + j);
    if OUTPUT_BLOCKS > 1u {
        w[1] = load_weights(row + min(j + 1u, last));
    }
    if OUTPUT_BLOCKS > 2u {
        w[2] = load_weights(row + min(j + 2u, last));
    }
    if OUTPUT_BLOCKS > 3u {
        w[3] = load_weights(row + min(j + 3u, last));
    }
    return w;
}

// Logits of a sample in one block of outputs.
fn store_block(sample: u32, block: u32, sum: vec4<f32>) {
    if sample < step.n_samples && block < step.output_blocks {
        let o = sum * step.scale + load_weights(step.n_features * step.output_blocks + block);
        let at = (sample * step.output_blocks + block) * 4u;
        residual[at] = o.x;
        residual[at + 1u] = o.y;
        residual[at + 2u] = o.z;
        residual[at + 3u] = o.w;
    }
}

// Logits of one sample of each group from the sums of its threads, from output block j on.
fn store_logits(thread: u32, first_sample: u32, j: u32, sum: mat4x4<f32>) {
    if SAMPLE_THREADS == 1u {
        let sample = first_sample + thread * SAMPLES;
        store_block(sample, j, sum[0]);
        if OUTPUT_BLOCKS > 1u {
            store_block(sample, j + 1u, sum[1]);
        }
        if OUTPUT_BLOCKS > 2u {
            store_block(sample, j + 2u, sum[2]);
        }
        if OUTPUT_BLOCKS > 3u {
            store_block(sample, j + 3u, sum[3]);
        }
        return;
    }
    scratch[thread * OUTPUT_BLOCKS] = sum[0];
    if OUTPUT_BLOCKS > 1u {
        scratch[thread * OUTPUT_BLOCKS + 1u] = sum[1];
    }
    if OUTPUT_BLOCKS > 2u {
        scratch[thread * OUTPUT_BLOCKS + 2u] = sum[2];
    }
    if OUTPUT_BLOCKS > 3u {
        scratch[thread * OUTPUT_BLOCKS + 3u] = sum[3];
    }
    workgroupBarrier();
    let n_groups = THREADS / SAMPLE_THREADS;
    for (var i = thread; i < n_groups * OUTPUT_BLOCKS; i += THREADS) {
        let group = i / OUTPUT_BLOCKS;
        let block = i % OUTPUT_BLOCKS;
        var of_threads = vec4<f32>();
        for (var k = 0u; k < SAMPLE_THREADS; k++) {
            of_threads += scratch[(group * SAMPLE_THREADS + k) * OUTPUT_BLOCKS + block];
        }
        store_block(first_sample + group * SAMPLES, j + block, of_threads);
    }
    workgroupBarrier();
}

// Loss and residual of one sample and head from its logits.
fn softmax(sample: u32, head: u32) {
    let width = select(1u, step.n_classes, SOFT) + u32(WEIGHTED);
    // Where the row of labels begins; without SOFT, the class.
    var label = order[step.start + sample] * width;
    var weight = 1.0;
    if WEIGHTED {
        weight = bitcast<f32>(labels[label + width - 1u]);
    }
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
            target_logit += bitcast<f32>(labels[label + j]) * o;
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
            y = bitcast<f32>(labels[label + j]);
        }
        residual[first + j] = (residual[first + j] / sum - y) * (weight * step.sample_weight);
    }
    losses[(step.losses_start + sample) * step.n_heads + head] = weight * (log(sum) - target_logit);
}

// One dimension, since Mesa's software Vulkan fills its vectors of 8 threads along x alone.
@compute @workgroup_size(THREADS)
fn narrow_residual(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let samples_per_workgroup = THREADS / SAMPLE_THREADS * SAMPLES;
    let first_sample = workgroup_number(workgroup, workgroups) * samples_per_workgroup;
    let sample = first_sample + thread / SAMPLE_THREADS * SAMPLES;
    let row0 = row_of(sample);
    let row1 = row_of(sample + 1u);
    let row2 = row_of(sample + 2u);
    let row3 = row_of(sample + 3u);
    let row4 = row_of(sample + 4u);
    let row5 = row_of(sample + 5u);
    let row6 = row_of(sample + 6u);
    let row7 = row_of(sample + 7u);

    for (var j = 0u; j < step.output_blocks; j += OUTPUT_BLOCKS) {
        // Of a sample each, a column of 4 outputs.
        var sum0 = mat4x4<f32>();
        var sum1 = mat4x4<f32>();
        var sum2 = mat4x4<f32>();
        var sum3 = mat4x4<f32>();
        var sum4 = mat4x4<f32>();
        var sum5 = mat4x4<f32>();
        var sum6 = mat4x4<f32>();
        var sum7 = mat4x4<f32>();
        for (var block = thread % SAMPLE_THREADS; block < step.feature_blocks; block += SAMPLE_THREADS) {
            let x0 = load_features(row0, block);
            let x1 = load_features(row1, block);
            let x2 = load_features(row2, block);
            let x3 = load_features(row3, block);
            let w0 = load_row(block * 4u + 0u, j);
            sum0 += x0.x * w0;
            sum1 += x1.x * w0;
            sum2 += x2.x * w0;
            sum3 += x3.x * w0;
            let w1 = load_row(block * 4u + 1u, j);
            sum0 += x0.y * w1;
            sum1 += x1.y * w1;
            sum2 += x2.y * w1;
            sum3 += x3.y * w1;
            let w2 = load_row(block * 4u + 2u, j);
            sum0 += x0.z * w2;
            sum1 += x1.z * w2;
            sum2 += x2.z * w2;
            sum3 += x3.z * w2;
            let w3 = load_row(block * 4u + 3u, j);
            sum0 += x0.w * w3;
            sum1 += x1.w * w3;
            sum2 += x2.w * w3;
            sum3 += x3.w * w3;
            if SAMPLES > 4u {
                let x4 = load_features(row4, block);
                sum4 += x4.x * w0;
                sum4 += x4.y * w1;
                sum4 += x4.z * w2;
                sum4 += x4.w * w3;
                let x5 = load_features(row5, block);
                sum5 += x5.x * w0;
                sum5 += x5.y * w1;
                sum5 += x5.z * w2;
                sum5 += x5.w * w3;
                let x6 = load_features(row6, block);
                sum6 += x6.x * w0;
                sum6 += x6.y * w1;
                sum6 += x6.z * w2;
                sum6 += x6.w * w3;
                let x7 = load_features(row7, block);
                sum7 += x7.x * w0;
                sum7 += x7.y * w1;
                sum7 += x7.z * w2;
                sum7 += x7.w * w3;
            }
        }
        store_logits(thread, first_sample, j, sum0);
        store_logits(thread, first_sample + 1u, j, sum1);
        store_logits(thread, first_sample + 2u, j, sum2);
        store_logits(thread, first_sample + 3u, j, sum3);
        if SAMPLES > 4u {
            store_logits(thread, first_sample + 4u, j, sum4);
            store_logits(thread, first_sample + 5u, j, sum5);
            store_logits(thread, first_sample + 6u, j, sum6);
            store_logits(thread, first_sample + 7u, j, sum7);
        }
    }

    // Of the samples of a workgroup or, where these are its own alone, of a thread.
    var first = first_sample;
    var n_values = samples_per_workgroup * step.n_heads;
    var i = thread;
    var stride = THREADS;
    if SAMPLE_THREADS == 1u {
        first = sample;
        n_values = SAMPLES * step.n_heads;
        i = 0u;
        stride = 1u;
    } else {
        storageBarrier();
    }
    for (; i < n_values; i += stride) {
        let of_sample = first + i / step.n_heads;
        if of_sample < step.n_samples {
            softmax(of_sample, i % step.n_heads);
        }
    }
}
