// Row-wise softmax, cross-entropy and residual, by head: p_j = exp(o_j - m) / sum_k exp(o_k - m), m = max_k o_k of that
// row and head; loss = w * (log sum_k exp(o_k - m) - sum_j y_j (o_j - m)); R = w * sample_weight * (P - Y), w the weight of the
// sample.
//
// O (n_samples x output_blocks * 4) is overwritten by R; its padding is left as it is (zero). The labels of a chunk have
// a row for each sample: its class number, or with SOFT the bits of its distribution Y (n_classes); then, with WEIGHTED, the
// bits of its weight, which is 1 without. losses: one sum for each head and group of samples, at
// (losses_start + group) * n_heads + head.
// Twin: src/reference/softmax.rs. Hosts: src/backend/gpu/softmax.rs, of the labels labels.rs.
//
// A workgroup of 64 threads takes a group of 64 / SAMPLE_THREADS samples for one head, SAMPLE_THREADS threads each.
// Order of summation: each thread over its classes, ascending, then a tree over the threads; the losses of a group in
// the order of the samples. Assumes finite logits.

override SAMPLE_THREADS: u32 = 1u;
override SOFT: bool = false;
override WEIGHTED: bool = false;
const THREADS: u32 = 64u;

@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read_write> outputs: array<f32>;
@group(0) @binding(4) var<storage, read_write> losses: array<f32>;

var<workgroup> scratch: array<vec2<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn softmax(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let samples_per_group = THREADS / SAMPLE_THREADS;
    let number = workgroup_number(workgroup, workgroups);
    let head = number % step.n_heads;
    let group = number / step.n_heads;
    let lane = thread % SAMPLE_THREADS;
    let first_thread = thread - lane;
    let sample = group * samples_per_group + thread / SAMPLE_THREADS;
    // Threads of samples past the end only take part in the barriers.
    let n_classes = select(0u, step.n_classes, sample < step.n_samples);
    let row = sample * step.output_blocks * 4u + head * step.n_classes;

    // Where the row of labels begins; without SOFT, the class.
    var label = 0u;
    var weight = 1.0;
    if sample < step.n_samples {
        let width = select(1u, step.n_classes, SOFT) + u32(WEIGHTED);
        label = order[step.start + sample] * width;
        if WEIGHTED {
            weight = bitcast<f32>(labels[label + width - 1u]);
        }
        if !SOFT {
            label = labels[label];
        }
    }

    var highest = -3.0e38;
    for (var j = lane; j < n_classes; j += SAMPLE_THREADS) {
        highest = max(highest, outputs[row + j]);
    }
    scratch[thread].x = highest;
    workgroupBarrier();
    for (var stride = SAMPLE_THREADS / 2u; stride > 0u; stride /= 2u) {
        if lane < stride {
            scratch[thread].x = max(scratch[thread].x, scratch[thread + stride].x);
        }
        workgroupBarrier();
    }
    highest = scratch[first_thread].x;
    workgroupBarrier();

    // Sum of the exponentials, and of y_j (o_j - m).
    var sums = vec2<f32>();
    for (var j = lane; j < n_classes; j += SAMPLE_THREADS) {
        let o = outputs[row + j] - highest;
        var y = f32(j == label);
        if SOFT {
            y = bitcast<f32>(labels[label + j]);
        }
        sums += vec2<f32>(exp(o), y * o);
    }
    scratch[thread] = sums;
    workgroupBarrier();
    for (var stride = SAMPLE_THREADS / 2u; stride > 0u; stride /= 2u) {
        if lane < stride {
            scratch[thread] += scratch[thread + stride];
        }
        workgroupBarrier();
    }
    sums = scratch[first_thread];
    workgroupBarrier();

    for (var j = lane; j < n_classes; j += SAMPLE_THREADS) {
        let p = exp(outputs[row + j] - highest) / sums.x;
        var y = f32(j == label);
        if SOFT {
            y = bitcast<f32>(labels[label + j]);
        }
        outputs[row + j] = (p - y) * (weight * step.sample_weight);
    }

    if lane == 0u {
        scratch[thread].x = select(0.0, weight * (log(sums.x) - sums.y), sample < step.n_samples);
    }
    workgroupBarrier();
    // Workgroups past the last group have no loss.
    if thread == 0u && group * samples_per_group < step.n_samples {
        var loss = 0.0;
        for (var i = 0u; i < THREADS; i += SAMPLE_THREADS) {
            loss += scratch[i].x;
        }
        losses[(step.losses_start + group) * step.n_heads + head] = loss;
    }
}
