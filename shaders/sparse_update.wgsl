// Update of a shard of W after a batch of sparse features: g = scale * (sum over the feature's segments of the gradient) +
// l2 * W (the intercept, row d, without scale and penalty); W -= learning_rate * rate * direction, by the rule of
// shared/momentum.wgsl or shared/adamw.wgsl, one of which stands above.
//
// listed (feature, its first segment, the segment after its last, not used): the features that the batch has,
// ascending, from first_listed on, n_listed of them; partials (n_segments x n_columns), the segments from first_segment on;
// W and each of the moments ((d + 1) x n_columns), whose column c is column first_column + c of all. The padding of all is
// zero and stays so.
// Twin: src/reference/update.rs. Host: src/backend/gpu/sparse_update.rs.
//
// With LISTED, for momentum, only the features of the list are updated; sparse_catch_up.wgsl makes up for it. Otherwise all
// are.
//
// A thread takes one parameter. Order of summation: over the segments, ascending; then the scale.

override LISTED: bool = true;
const THREADS: u32 = 64u;

@group(0) @binding(1) var<storage, read> listed: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> partials: array<f32>;
@group(0) @binding(3) var<storage, read> heads: array<Head>;
@group(0) @binding(4) var<storage, read_write> weights: array<f32>;
@group(0) @binding(5) var<storage, read_write> moments: array<f32>;

fn n_parameters() -> u32 {
    return (step.n_features + 1u) * step.n_columns;
}

// What the list has of a feature; no segments when it is not there.
fn find(feature: u32) -> vec4<u32> {
    var first = step.first_listed;
    var end = first + step.n_listed;
    while first < end {
        let middle = (first + end) / 2u;
        if listed[middle].x < feature {
            first = middle + 1u;
        } else {
            end = middle;
        }
    }
    if first < step.first_listed + step.n_listed && listed[first].x == feature {
        return listed[first];
    }
    return vec4<u32>(feature, 0u, 0u, 0u);
}

@compute @workgroup_size(THREADS)
fn sparse_update(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let item = workgroup_number(workgroup, workgroups) * THREADS + thread;
    let n_rows = select(step.n_features + 1u, step.n_listed, LISTED);
    if item >= n_rows * step.n_columns {
        return;
    }
    let column = item % step.n_columns;
    var feature = vec4<u32>();
    if LISTED {
        feature = listed[step.first_listed + item / step.n_columns];
    } else {
        feature = find(item / step.n_columns);
    }
    let i = feature.x * step.n_columns + column;
    let is_weight = feature.x < step.n_features;
    let head = heads[min((step.first_column + column) / step.n_classes, step.n_heads - 1u)];
    var g = 0.0;
    for (var segment = feature.y; segment < feature.z; segment++) {
        g += partials[(segment - step.first_segment) * step.n_columns + column];
    }
    let w = weights[i];
    var decaying = 0.0;
    if is_weight {
        g = step.scale * g + head.l2 * w;
        decaying = w;
    } else {
        g *= head.intercept;
    }
    weights[i] = w - head.learning_rate * step.rate * direction(head, i, g, decaying);
}
