// Goes along a line: Z = Z + t * D, with the length t of each head.
//
// Z and D (n_samples x output_blocks * 4), the logits of a point and of a direction; column c is of head c / n_classes;
// lengths t (n_heads). The padding of Z and D is zero and stays so.
// Twin: src/reference/advance.rs. Host: src/backend/gpu/advance.rs.
//
// A thread takes one logit.

const THREADS: u32 = 256u;

@group(0) @binding(1) var<storage, read> lengths: array<f32>;
@group(0) @binding(2) var<storage, read> direction: array<f32>;
@group(0) @binding(3) var<storage, read_write> outputs: array<f32>;

@compute @workgroup_size(THREADS)
fn advance(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let stride = step.output_blocks * 4u;
    let i = workgroup_number(workgroup, workgroups) * THREADS + thread;
    if i >= step.n_samples * stride {
        return;
    }
    let head = min(i % stride / step.n_classes, step.n_heads - 1u);
    outputs[i] += lengths[head] * direction[i];
}
