// Reads values[0..n_samples] once, and does nothing else that takes time: the rate that kernels bound by memory can reach.
//
// results: one sum for each thread, so that no read can be left out. Host: src/backend/gpu/ceilings.rs.
// n_samples is a multiple of four times the number of threads.

const THREADS: u32 = 256u;

@group(0) @binding(1) var<storage, read> values: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> results: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn read_bandwidth(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let thread = workgroup_number(workgroup, workgroups) * THREADS + local;
    let n_threads = workgroups.x * workgroups.y * THREADS;
    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    for (var i = thread; i + 3u * n_threads < step.n_samples; i += 4u * n_threads) {
        sum0 += values[i];
        sum1 += values[i + n_threads];
        sum2 += values[i + 2u * n_threads];
        sum3 += values[i + 3u * n_threads];
    }
    results[thread] = (sum0 + sum1) + (sum2 + sum3);
}
