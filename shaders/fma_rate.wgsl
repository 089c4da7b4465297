// Multiplies and adds in registers, 16 vectors a round, samples_per_part rounds: the rate that kernels bound by arithmetic
// can reach.
//
// results: one sum for each thread, so that nothing can be left out. Host: src/backend/gpu/ceilings.rs.

const THREADS: u32 = 256u;

@group(0) @binding(1) var<storage, read_write> results: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn fma_rate(
    @builtin(local_invocation_index) local: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let thread = workgroup_number(workgroup, workgroups) * THREADS + local;
    // Values that stay finite: x -> x * rate + scale with rate below 1.
    let a = vec4<f32>(step.rate);
    let b = vec4<f32>(step.scale);
    var x0 = vec4<f32>(f32(local));
    var x1 = x0 + 1.0;
    var x2 = x0 + 2.0;
    var x3 = x0 + 3.0;
    var x4 = x0 + 4.0;
    var x5 = x0 + 5.0;
    var x6 = x0 + 6.0;
    var x7 = x0 + 7.0;
    for (var round = 0u; round < step.samples_per_part; round++) {
        x0 = fma(x0, a, b);
        x1 = fma(x1, a, b);
        x2 = fma(x2, a, b);
        x3 = fma(x3, a, b);
        x4 = fma(x4, a, b);
        x5 = fma(x5, a, b);
        x6 = fma(x6, a, b);
        x7 = fma(x7, a, b);
        x0 = fma(x0, a, b);
        x1 = fma(x1, a, b);
        x2 = fma(x2, a, b);
        x3 = fma(x3, a, b);
        x4 = fma(x4, a, b);
        x5 = fma(x5, a, b);
        x6 = fma(x6, a, b);
        x7 = fma(x7, a, b);
    }
    results[thread] = ((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7));
}
