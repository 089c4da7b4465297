// W and b of structured weights: W = sum_p A_p (x) S_p, that is, W[k, j] = sum_p A_p[k / d', j / q'] * S_p[k % d', j % q'], or W = U * V.
// The factors stand as shared/factors.wgsl has them; they are copied to `before`, where pull_back reads what it changes.
//
// W ((d + 1) x output_blocks * 4), whose padding is zero and stays so.
// Twin: expand in src/reference/structure.rs. Host: src/backend/gpu/expand.rs.
//
// A thread makes one value. Order of summation: over p, or over the rank, ascending.

const THREADS: u32 = 64u;

@group(0) @binding(1) var<storage, read> factors: array<f32>;
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> before: array<f32>;

fn weight(k: u32, j: u32) -> f32 {
    if k == step.n_features {
        return factors[N_FACTORS - step.n_classes + j];
    }
    var sum = 0.0;
    if IS_PRODUCT {
        for (var r = 0u; r < RANK; r++) {
            sum += factors[k * RANK + r] * factors[N_FIRST + r * step.n_classes + j];
        }
        return sum;
    }
    for (var p = 0u; p < M; p++) {
        let a = factors[(p * M + k / BLOCK_ROWS) * M + j / BLOCK_COLUMNS];
        sum += a * factors[N_FIRST + (p * BLOCK_ROWS + k % BLOCK_ROWS) * BLOCK_COLUMNS + j % BLOCK_COLUMNS];
    }
    return sum;
}

@compute @workgroup_size(THREADS)
fn expand(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let i = workgroup_number(workgroup, workgroups) * THREADS + thread;
    if i < N_FACTORS {
        before[i] = factors[i];
    }
    let stride = step.output_blocks * 4u;
    let k = i / stride;
    let j = i % stride;
    if k <= step.n_features && j < step.n_classes {
        weights[i] = weight(k, j);
    }
}
