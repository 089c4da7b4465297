// Order of a chunk's rows: order[i] = the row at position i of a random permutation of 0..n_samples.
//
// Rounds x -> (x ^ (x >> s)) * m + a on as many bits as the rows need, s half of them; where the result is no row, the
// rounds are repeated. keys: m and a of each round, those of the chunk from `start` on.
// Twin: `Permutation` in src/batch.rs. Host: src/backend/gpu/shuffle.rs.
//
// A thread makes one position. All integers: the order is the same on every device.

const THREADS: u32 = 256u;
const ROUNDS: u32 = 4u;

@group(0) @binding(1) var<storage, read> keys: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> order: array<u32>;

@compute @workgroup_size(THREADS)
fn shuffle(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let position = workgroup_number(workgroup, workgroups) * THREADS + thread;
    if position >= step.n_samples {
        return;
    }
    let bits = max(32u - countLeadingZeros(step.n_samples - 1u), 1u);
    let mask = 0xffffffffu >> (32u - bits);
    let shift = (bits + 1u) / 2u;
    var x = position;
    loop {
        for (var round = 0u; round < ROUNDS; round++) {
            let key = keys[step.start + round];
            x = ((x ^ (x >> shift)) * key.x + key.y) & mask;
        }
        x ^= x >> shift;
        if x < step.n_samples {
            break;
        }
    }
    order[position] = x;
}
