// Reduce and update: g = sum over the parts of the gradient + l2 * W (the intercept, row d, without); W -= learning_rate *
// rate * direction, by the rule of shared/momentum.wgsl or shared/adamw.wgsl, one of which stands above.
//
// partials (n_parts x (d + 1) x output_blocks * 4); W and each of the moments ((d + 1) x output_blocks * 4); column c is of
// head c / n_classes. The padding of all is zero and stays so.
// Twin: src/reference/update.rs. Host: src/backend/gpu/update.rs.
//
// A thread takes one parameter. Order of summation: over the parts, ascending.

const THREADS: u32 = 64u;

@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read> heads: array<Head>;
@group(0) @binding(3) var<storage, read_write> weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> moments: array<f32>;

fn n_parameters() -> u32 {
    return (step.n_features + 1u) * step.output_blocks * 4u;
}

@compute @workgroup_size(THREADS)
fn update(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let stride = step.output_blocks * 4u;
    let i = workgroup_number(workgroup, workgroups) * THREADS + thread;
    if i >= n_parameters() {
        return;
    }
    let head = heads[min(i % stride / step.n_classes, step.n_heads - 1u)];
    var g = 0.0;
    for (var part = 0u; part < step.n_parts; part++) {
        g += partials[part * n_parameters() + i];
    }
    let w = weights[i];
    var decaying = 0.0;
    if i / stride < step.n_features {
        g += head.l2 * w;
        decaying = w;
    } else {
        g *= head.intercept;
    }
    weights[i] = w - head.learning_rate * step.rate * direction(head, i, g, decaying);
}
