// Logits O = scale * X * W + b of sparse features, for the columns of one shard of W: first_column.. of O, n_columns of them.
//
// X by rows: entries (column, bits of the value) offsets[row]..offsets[row + 1] are those of a row; the rows
// order[start..start + n_samples] of it, or start.. when ORDERED is false; W ((d + 1) rows x n_columns) with b as row d;
// O (n_samples x output_blocks * 4). Shards begin at multiples of WIDTH and have multiples of it; one of the pieces
// shared/columns_*.wgsl stands above.
// Twin: src/reference/logits.rs. Host: src/backend/gpu/sparse_logits.rs.
//
// LANES threads take WIDTH columns of a sample, so that neighbours read one row of W together.
// Order of summation: each thread over its entries, ascending, then a tree over the threads; then the scale, then the
// intercept.

override LANES: u32 = 1u;
override ORDERED: bool = true;
const THREADS: u32 = 64u;

@group(0) @binding(1) var<storage, read> offsets: array<u32>;
@group(0) @binding(2) var<storage, read> entries: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> order: array<u32>;
@group(0) @binding(4) var<storage, read> weights: array<Columns>;
@group(0) @binding(5) var<storage, read_write> outputs: array<Columns>;

var<workgroup> sums: array<Columns, THREADS>;

@compute @workgroup_size(THREADS)
fn sparse_logits(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let n_columns = step.n_columns / WIDTH;
    let lane = thread % LANES;
    let item = workgroup_number(workgroup, workgroups) * (THREADS / LANES) + thread / LANES;
    let sample = item / n_columns;
    let column = item % n_columns;
    var sum = Columns();
    // Threads of samples past the end only take part in the barriers.
    if sample < step.n_samples {
        var row = step.start + sample;
        if ORDERED {
            row = order[row];
        }
        let end = offsets[row + 1u];
        for (var i = offsets[row] + lane; i < end; i += LANES) {
            let entry = entries[i];
            sum += bitcast<f32>(entry.y) * weights[entry.x * n_columns + column];
        }
    }
    if LANES > 1u {
        sums[thread] = sum;
        workgroupBarrier();
        for (var stride = LANES / 2u; stride > 0u; stride /= 2u) {
            if lane < stride {
                sums[thread] += sums[thread + stride];
            }
            workgroupBarrier();
        }
        sum = sums[thread];
    }
    if lane == 0u && sample < step.n_samples {
        let bias = weights[step.n_features * n_columns + column];
        let at = (sample * step.output_blocks * 4u + step.first_column) / WIDTH + column;
        outputs[at] = sum * step.scale + bias;
    }
}
