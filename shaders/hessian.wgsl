// What the product of the Hessian with a vector has in the place of the residual: for each sample and head, with P =
// softmax(Z) and s the weight of the sample, R_j = s p_j (v_j - sum_k p_k v_k). The gradient kernel makes the product of it.
//
// Z (n_samples x output_blocks * 4), the logits of the present point; sample_weights s (n_samples); V (n_samples x
// output_blocks * 4), the logits of the vector, is overwritten by R; its padding is left as it is (zero).
// Twin: src/reference/hessian.rs. Host: src/backend/gpu/hessian.rs.
//
// All v_j are taken less that of the most probable class, so that nothing cancels where a sample is sure of its class.
//
// A workgroup of 64 threads takes 64 / SAMPLE_THREADS samples for one head, SAMPLE_THREADS threads each.
// Order of summation: each thread over its classes, ascending, then a tree over the threads.

override SAMPLE_THREADS: u32 = 1u;
const THREADS: u32 = 64u;

@group(0) @binding(1) var<storage, read> sample_weights: array<f32>;
@group(0) @binding(2) var<storage, read> outputs: array<f32>;
@group(0) @binding(3) var<storage, read_write> vectors: array<f32>;

var<workgroup> highest: array<f32, THREADS>;
var<workgroup> best: array<u32, THREADS>;
var<workgroup> scratch: array<vec2<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn hessian(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let number = workgroup_number(workgroup, workgroups);
    let head = number % step.n_heads;
    let lane = thread % SAMPLE_THREADS;
    let first_thread = thread - lane;
    let sample = number / step.n_heads * (THREADS / SAMPLE_THREADS) + thread / SAMPLE_THREADS;
    // Threads of samples past the end only take part in the barriers.
    let is_sample = sample < step.n_samples;
    let n_classes = select(0u, step.n_classes, is_sample);
    let row = sample * step.output_blocks * 4u + head * step.n_classes;

    // The largest logit, and the first class that has it.
    var most = -3.4028234e38;
    var at = 0u;
    for (var j = lane; j < n_classes; j += SAMPLE_THREADS) {
        let o = outputs[row + j];
        if o > most {
            most = o;
            at = j;
        }
    }
    highest[thread] = most;
    best[thread] = at;
    workgroupBarrier();
    for (var stride = SAMPLE_THREADS / 2u; stride > 0u; stride /= 2u) {
        if lane < stride {
            let other = highest[thread + stride];
            let other_at = best[thread + stride];
            if other > highest[thread] || (other == highest[thread] && other_at < best[thread]) {
                highest[thread] = other;
                best[thread] = other_at;
            }
        }
        workgroupBarrier();
    }
    most = highest[first_thread];
    at = best[first_thread];
    var weight = 0.0;
    var v_most = 0.0;
    if is_sample {
        weight = sample_weights[sample];
        v_most = vectors[row + at];
    }

    // Sums of the exponentials e and of e (v - v_m), without that of the most probable class: 1 and 0.
    var sum = vec2<f32>();
    for (var j = lane; j < n_classes; j += SAMPLE_THREADS) {
        let e = select(exp(outputs[row + j] - most), 0.0, j == at);
        sum += vec2<f32>(e, e * (vectors[row + j] - v_most));
    }
    scratch[thread] = sum;
    workgroupBarrier();
    for (var stride = SAMPLE_THREADS / 2u; stride > 0u; stride /= 2u) {
        if lane < stride {
            scratch[thread] += scratch[thread + stride];
        }
        workgroupBarrier();
    }
    sum = scratch[first_thread];
    let mean = sum.y / (1.0 + sum.x);

    for (var j = lane; j < n_classes; j += SAMPLE_THREADS) {
        let p = exp(outputs[row + j] - most) / (1.0 + sum.x);
        vectors[row + j] = weight * p * (vectors[row + j] - v_most - mean);
    }
}
