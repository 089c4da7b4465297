// The most probable class of each sample and head: the first j with the largest o_j; NOT_FINITE where a logit of the sample
// and head is not finite.
//
// O (n_samples x output_blocks * 4); classes (n_samples x n_heads), those of this block from sample losses_start on.
// Twin: src/reference/classes.rs. Host: src/backend/gpu/classes.rs.
//
// A workgroup of 64 threads takes 64 / SAMPLE_THREADS samples for one head, SAMPLE_THREADS threads each. Whether a number is
// finite is read from its bits: a device may compute as if there were no others.

override SAMPLE_THREADS: u32 = 1u;
const THREADS: u32 = 64u;
const NOT_FINITE: u32 = 0xffffffffu;
const EXPONENT: u32 = 0x7f800000u;

@group(0) @binding(1) var<storage, read> outputs: array<f32>;
@group(0) @binding(2) var<storage, read_write> classes_of: array<u32>;

var<workgroup> highest: array<f32, THREADS>;
var<workgroup> best: array<u32, THREADS>;

@compute @workgroup_size(THREADS)
fn classes(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let number = workgroup_number(workgroup, workgroups);
    let head = number % step.n_heads;
    let lane = thread % SAMPLE_THREADS;
    let sample = number / step.n_heads * (THREADS / SAMPLE_THREADS) + thread / SAMPLE_THREADS;
    // Threads of samples past the end only take part in the barriers.
    let n_classes = select(0u, step.n_classes, sample < step.n_samples);
    let row = sample * step.output_blocks * 4u + head * step.n_classes;

    var o = -3.4028234e38;
    // What a thread without classes says loses to all.
    var class_of = NOT_FINITE - 1u;
    for (var j = lane; j < n_classes; j += SAMPLE_THREADS) {
        let value = outputs[row + j];
        if (bitcast<u32>(value) & EXPONENT) == EXPONENT {
            class_of = NOT_FINITE;
        } else if class_of != NOT_FINITE && (value > o || class_of == NOT_FINITE - 1u) {
            o = value;
            class_of = j;
        }
    }
    highest[thread] = o;
    best[thread] = class_of;
    workgroupBarrier();
    for (var stride = SAMPLE_THREADS / 2u; stride > 0u; stride /= 2u) {
        if lane < stride {
            let other = best[thread + stride];
            let other_o = highest[thread + stride];
            let is_better = other_o > highest[thread] || (other_o == highest[thread] && other < best[thread]);
            if best[thread] != NOT_FINITE && (other == NOT_FINITE || is_better) {
                best[thread] = other;
                highest[thread] = other_o;
            }
        }
        workgroupBarrier();
    }
    if lane == 0u && sample < step.n_samples {
        classes_of[(step.losses_start + sample) * step.n_heads + head] = best[thread];
    }
}
