// Adds the segments of a block's gradient of sparse features to one of n_sums sums, of which the host makes one: the sum
// first_part % n_sums.
//
// listed (feature, its first segment, the segment after its last, not used): the features that the block has, from
// first_listed on, n_listed of them; partials (n_segments x n_columns), the segments from first_segment on; totals (n_sums x
// (d + 1) x n_columns), zero before the first block. Every feature counts scale times, the intercept, feature d, once.
// Twin: src/reference/gradient.rs. Host: src/backend/gpu/sparse_reduce.rs.
//
// A thread takes one value. Order of summation: over the segments, ascending; then the scale; then over the blocks.

const THREADS: u32 = 64u;

@group(0) @binding(1) var<storage, read> listed: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> partials: array<f32>;
@group(0) @binding(3) var<storage, read_write> totals: array<f32>;

@compute @workgroup_size(THREADS)
fn sparse_reduce(
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
    var sum = 0.0;
    for (var segment = feature.y; segment < feature.z; segment++) {
        sum += partials[(segment - step.first_segment) * step.n_columns + column];
    }
    let scale = select(step.scale, 1.0, feature.x == step.n_features);
    let row = step.first_part % step.n_sums * (step.n_features + 1u) + feature.x;
    totals[row * step.n_columns + column] += scale * sum;
}
