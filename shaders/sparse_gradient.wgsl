// Gradient X^T * R of sparse features in segments, for the columns of one shard: first_column.. of R, n_columns of them. A
// segment is a few of the samples that have a feature; for each the sum of x * r over its samples.
//
// X by features: members (sample, bits of the value) segments[s]..segments[s + 1] are those of segment s; the segments from
// first_segment on, n_segments of them; the intercept's samples are all, with the value 1. R (n_samples x output_blocks * 4);
// partials (n_segments x n_columns). One of the pieces shared/columns_*.wgsl stands above.
// Twin: src/reference/gradient.rs. Host: src/backend/gpu/sparse_gradient.rs.
//
// A thread takes WIDTH columns of a segment. Order of summation: over the samples of the segment, in their order. The
// segments of a feature are summed, and scaled, by sparse_reduce.wgsl or sparse_update.wgsl.

const THREADS: u32 = 64u;

@group(0) @binding(1) var<storage, read> segments: array<u32>;
@group(0) @binding(2) var<storage, read> members: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> residual: array<Columns>;
@group(0) @binding(4) var<storage, read_write> partials: array<Columns>;

@compute @workgroup_size(THREADS)
fn sparse_gradient(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let n_columns = step.n_columns / WIDTH;
    let item = workgroup_number(workgroup, workgroups) * THREADS + thread;
    if item >= step.n_segments * n_columns {
        return;
    }
    let segment = step.first_segment + item / n_columns;
    let column = step.first_column / WIDTH + item % n_columns;
    let stride = step.output_blocks * 4u / WIDTH;
    let end = segments[segment + 1u];
    var sum = Columns();
    for (var i = segments[segment]; i < end; i++) {
        let member = members[i];
        sum += bitcast<f32>(member.y) * residual[member.x * stride + column];
    }
    partials[item] = sum;
}
