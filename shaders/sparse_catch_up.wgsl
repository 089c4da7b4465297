// Brings a shard of W and its velocities v up to date before a batch of sparse features: what the steps since the last one that
// a feature was in make of them, when the gradient is l2 * W alone. That is (W, v) times a 2 x 2 matrix for each step, all at
// once: powers has the products of the matrices of 2^k steps from a multiple of 2^k on, for each head, without the 1 of W's
// own share. There are n_leaves (a power of 2) of single steps, then half as many of two, and so on.
//
// listed (feature, not used, not used, steps it has had): the features to bring to step n_done, from first_listed on, n_listed
// of them; W and v ((d + 1) x n_columns), whose column c is column first_column + c of all. The intercept is in every batch.
// Twin: src/reference/update.rs, with a gradient of zero. Host: src/backend/gpu/sparse_catch_up.rs.
//
// A thread takes one parameter.

const THREADS: u32 = 64u;

@group(0) @binding(1) var<storage, read> listed: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> powers: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> moments: array<f32>;

@compute @workgroup_size(THREADS)
fn sparse_catch_up(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let item = workgroup_number(workgroup, workgroups) * THREADS + thread;
    if item >= step.n_listed * step.n_columns {
        return;
    }
    let column = item % step.n_columns;
    let feature = listed[step.first_listed + item / step.n_columns];
    if feature.x >= step.n_features || feature.w >= step.n_done {
        return;
    }
    let i = feature.x * step.n_columns + column;
    let head = min((step.first_column + column) / step.n_classes, step.n_heads - 1u);
    var w = weights[i];
    var v = moments[i];
    for (var at = feature.w; at < step.n_done;) {
        let level = min(countTrailingZeros(at), firstLeadingBit(step.n_done - at));
        let first = 2u * step.n_leaves - ((2u * step.n_leaves) >> level);
        let power = powers[(first + (at >> level)) * step.n_heads + head];
        let before = w;
        w += power.x * before + power.y * v;
        v = power.z * before + power.w * v;
        at += 1u << level;
    }
    weights[i] = w;
    moments[i] = v;
}
