// Losses and slopes at points of a line, O = Z + t * D: for each sample and head, with m the largest o_j, p = softmax(O),
// loss = log(1 + sum_{j != m} exp(o_j - o_m)) + sum_j y_j (o_m - o_j), slope = sum_j (p_j - y_j) d_j, both times the
// sample's weight s. With RESIDUAL, for one point, also R = s * (P - Y).
//
// Z and D (n_samples x output_blocks * 4), the logits of a point and of a direction; lengths t (n_points x n_heads), at most
// MAX_POINTS of them; sample_weights s (n_samples). Labels are of samples start.. of the chunk, rows as softmax.wgsl has them;
// a weight in them is not used. R (n_samples x output_blocks * 4), whose padding is left as it is.
// sums: loss and slope, one sum for each head, point and group of samples_per_part samples, at
// (losses_start + group * n_points + point) * n_heads + head.
// Twin: src/reference/along.rs. Host: src/backend/gpu/along.rs.
//
// Nothing cancels where a sample is sure of its class: the largest term of the sum of exponentials, 1, is left out of the
// sum; residual and slope are made of what is left.
//
// A workgroup of 64 threads takes a group of samples for one head, 64 / SAMPLE_THREADS at a time, SAMPLE_THREADS threads
// each. Order of summation: each thread over its classes, ascending, then a tree over the threads of the sample; samples
// that the same threads took, in their order; then over the threads, ascending. Results that are not finite show that O was
// not.

override SAMPLE_THREADS: u32 = 1u;
override SOFT: bool = false;
override WEIGHTED: bool = false;
override RESIDUAL: bool = false;
const THREADS: u32 = 64u;
// Twin: `MAX_POINTS` in src/backend/gpu/along.rs.
const MAX_POINTS: u32 = 8u;

@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read> sample_weights: array<f32>;
@group(0) @binding(3) var<storage, read> lengths: array<f32>;
@group(0) @binding(4) var<storage, read> outputs: array<f32>;
@group(0) @binding(5) var<storage, read> direction: array<f32>;
@group(0) @binding(6) var<storage, read_write> residual: array<f32>;
@group(0) @binding(7) var<storage, read_write> sums: array<vec2<f32>>;

var<workgroup> highest: array<f32, THREADS>;
var<workgroup> best: array<u32, THREADS>;
var<workgroup> scratch: array<vec4<f32>, THREADS>;
var<workgroup> masses: array<f32, THREADS>;
// [point][thread]
var<workgroup> totals: array<vec2<f32>, THREADS * MAX_POINTS>;

// log(1 + x) for x >= 0, with a small error relative to itself: 2 artanh(x / (2 + x)), whose series has fallen below single
// precision after eight terms where x <= 1.
fn log_1p(x: f32) -> f32 {
    if x > 1.0 {
        return log(1.0 + x);
    }
    let s = x / (2.0 + x);
    let r = s * s;
    let more = r / 11.0 + r * r * (1.0 / 13.0 + r / 15.0);
    let series = 1.0 + r * (1.0 / 3.0 + r * (1.0 / 5.0 + r * (1.0 / 7.0 + r * (1.0 / 9.0 + more))));
    return 2.0 * s * series;
}

// Y of class j, where `label` is the sample's class, or with SOFT where its distribution begins.
fn target_of(label: u32, j: u32) -> f32 {
    if SOFT {
        return bitcast<f32>(labels[label + j]);
    }
    return f32(j == label);
}

@compute @workgroup_size(THREADS)
fn along(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let samples_per_round = THREADS / SAMPLE_THREADS;
    let number = workgroup_number(workgroup, workgroups);
    let head = number % step.n_heads;
    let group = number / step.n_heads;
    let lane = thread % SAMPLE_THREADS;
    let first_thread = thread - lane;
    let first_sample = group * step.samples_per_part;
    // Workgroups past the last group have no samples and store nothing.
    let end = min(first_sample + step.samples_per_part, step.n_samples);

    for (var point = 0u; point < MAX_POINTS; point++) {
        totals[point * THREADS + thread] = vec2<f32>();
    }
    for (var first = first_sample; first < end; first += samples_per_round) {
        let sample = first + thread / SAMPLE_THREADS;
        // Threads of samples past the end only take part in the barriers.
        let is_sample = sample < end;
        let n_classes = select(0u, step.n_classes, is_sample);
        let row = sample * step.output_blocks * 4u + head * step.n_classes;
        var label = 0u;
        var weight = 0.0;
        if is_sample {
            weight = sample_weights[sample];
            label = (step.start + sample) * (select(1u, step.n_classes, SOFT) + u32(WEIGHTED));
            if !SOFT {
                label = labels[label];
            }
        }
        for (var point = 0u; point < step.n_points; point++) {
            let t = lengths[point * step.n_heads + head];

            // The largest logit, and the first class that has it.
            var most = -3.4028234e38;
            var at = 0u;
            for (var j = lane; j < n_classes; j += SAMPLE_THREADS) {
                let o = outputs[row + j] + t * direction[row + j];
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
            var d_most = 0.0;
            if is_sample {
                d_most = direction[row + at];
            }

            // Sums of the exponentials e, of y (o_m - o), of e (d - d_m), of y (d - d_m); and of y.
            var sum = vec4<f32>();
            var mass = 0.0;
            for (var j = lane; j < n_classes; j += SAMPLE_THREADS) {
                let d = direction[row + j];
                let o = select(outputs[row + j] + t * d - most, 0.0, j == at);
                let e = select(exp(o), 0.0, j == at);
                let y = target_of(label, j);
                sum += vec4<f32>(e, -y * o, e * (d - d_most), y * (d - d_most));
                mass += y;
            }
            scratch[thread] = sum;
            masses[thread] = mass;
            workgroupBarrier();
            for (var stride = SAMPLE_THREADS / 2u; stride > 0u; stride /= 2u) {
                if lane < stride {
                    scratch[thread] += scratch[thread + stride];
                    masses[thread] += masses[thread + stride];
                }
                workgroupBarrier();
            }
            sum = scratch[first_thread];
            let rest = sum.x;

            if lane == 0u && is_sample {
                let loss = masses[thread] * log_1p(rest) + sum.y;
                let slope = masses[thread] * sum.z / (1.0 + rest) - sum.w;
                totals[point * THREADS + thread] += weight * vec2<f32>(loss, slope);
            }
            if RESIDUAL {
                for (var j = lane; j < n_classes; j += SAMPLE_THREADS) {
                    let y = target_of(label, j);
                    let o = outputs[row + j] + t * direction[row + j] - most;
                    var r = masses[first_thread] * exp(o) / (1.0 + rest) - y;
                    if j == at {
                        r = select(masses[first_thread] / (1.0 + rest) - y, -rest / (1.0 + rest), y == 1.0);
                    }
                    residual[row + j] = weight * r;
                }
            }
        }
    }
    workgroupBarrier();
    if thread < step.n_points && first_sample < end {
        var total = vec2<f32>();
        for (var i = 0u; i < THREADS; i += SAMPLE_THREADS) {
            total += totals[thread * THREADS + i];
        }
        sums[(step.losses_start + group * step.n_points + thread) * step.n_heads + head] = total;
    }
}
