// Adds the parts of a gradient to n_sums sums, of which the host makes one: part p, of all that there are, to sum p % n_sums.
//
// partials (n_parts x (d + 1) x output_blocks * 4), the parts from first_part on; totals (n_sums x (d + 1) x output_blocks *
// 4), which begin anew with part 0.
// Twin: src/reference/reduce.rs. Host: src/backend/gpu/reduce.rs.
//
// A thread takes four values of a sum. Order of summation: over the parts, ascending.

const THREADS: u32 = 64u;

@group(0) @binding(1) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> totals: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn reduce(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let n_blocks = (step.n_features + 1u) * step.output_blocks;
    let i = workgroup_number(workgroup, workgroups) * THREADS + thread;
    if i >= step.n_sums * n_blocks {
        return;
    }
    var total = vec4<f32>();
    if step.first_part > 0u {
        total = totals[i];
    }
    // The first of these parts that is of this sum.
    let first = (i / n_blocks + step.n_sums - step.first_part % step.n_sums) % step.n_sums;
    for (var part = first; part < step.n_parts; part += step.n_sums) {
        total += partials[part * n_blocks + i % n_blocks];
    }
    totals[i] = total;
}
