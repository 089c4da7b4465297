// A step over the factors of structured weights: the gradient over W, with its l2 penalty, becomes that over the factors, and these are
// updated by the rule of shared/momentum.wgsl or shared/adamw.wgsl, one of which stands above, without a penalty of their own.
// A_p[a, c] = sum_{k, l} S_p[k, l] * G[a * d' + k, c * q' + l]; S_p[k, l] = sum_{a, c} A_p[a, c] * G[a * d' + k, c * q' + l], both over what is
// within W; U = G * transpose(V); V = transpose(U) * G.
//
// gradient ((d + 1) x output_blocks * 4); before, factors and each of the moments as shared/factors.wgsl has them. `before` is a copy, as
// other threads update what a thread reads.
// Twin: pull_back and then update in src/reference/structure.rs and update.rs. Host: src/backend/gpu/pull_back.rs.
//
// A workgroup takes a number of A, for which there is much to add, a thread one of the others. Order of summation: over rows and then columns
// of W, ascending; of A a thread has every 64th row of a block, and the threads are added up ascending.

const THREADS: u32 = 64u;

@group(0) @binding(1) var<storage, read> gradient: array<f32>;
@group(0) @binding(2) var<storage, read> before: array<f32>;
@group(0) @binding(3) var<storage, read> heads: array<Head>;
@group(0) @binding(4) var<storage, read_write> factors: array<f32>;
@group(0) @binding(5) var<storage, read_write> moments: array<f32>;

var<workgroup> sums: array<f32, THREADS>;

fn n_parameters() -> u32 {
    return N_FACTORS;
}

fn of_w(k: u32, j: u32) -> f32 {
    return gradient[k * step.output_blocks * 4u + j];
}

// What a thread has of number i, of A.
fn part_of_a(i: u32, thread: u32) -> f32 {
    let p = i / (M * M);
    let first_row = i / M % M * BLOCK_ROWS;
    let first_column = i % M * BLOCK_COLUMNS;
    var sum = 0.0;
    for (var k = thread; k < BLOCK_ROWS && first_row + k < step.n_features; k += THREADS) {
        for (var l = 0u; l < BLOCK_COLUMNS && first_column + l < step.n_classes; l++) {
            sum += before[N_FIRST + (p * BLOCK_ROWS + k) * BLOCK_COLUMNS + l] * of_w(first_row + k, first_column + l);
        }
    }
    return sum;
}

// Number i, of S, U, V or b.
fn pulled_back(i: u32) -> f32 {
    let q = step.n_classes;
    if i >= N_FACTORS - q {
        return of_w(step.n_features, i - (N_FACTORS - q));
    }
    var sum = 0.0;
    if IS_PRODUCT && i < N_FIRST {
        for (var j = 0u; j < q; j++) {
            sum += before[N_FIRST + i % RANK * q + j] * of_w(i / RANK, j);
        }
        return sum;
    }
    let at = i - N_FIRST;
    if IS_PRODUCT {
        for (var k = 0u; k < step.n_features; k++) {
            sum += before[k * RANK + at / q] * of_w(k, at % q);
        }
        return sum;
    }
    let p = at / (BLOCK_ROWS * BLOCK_COLUMNS);
    let k = at / BLOCK_COLUMNS % BLOCK_ROWS;
    let l = at % BLOCK_COLUMNS;
    for (var a = 0u; a < M && a * BLOCK_ROWS + k < step.n_features; a++) {
        for (var c = 0u; c < M && c * BLOCK_COLUMNS + l < q; c++) {
            sum += before[(p * M + a) * M + c] * of_w(a * BLOCK_ROWS + k, c * BLOCK_COLUMNS + l);
        }
    }
    return sum;
}

fn change(i: u32, of_factor: f32) {
    let head = heads[0];
    let is_intercept = i >= N_FACTORS - step.n_classes;
    let g = select(of_factor, of_factor * head.intercept, is_intercept);
    let old = factors[i];
    factors[i] = old - head.learning_rate * step.rate * direction(head, i, g, select(old, 0.0, is_intercept));
}

@compute @workgroup_size(THREADS)
fn pull_back(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
) {
    let number = workgroup_number(workgroup, workgroups);
    let n_of_a = select(N_FIRST - N_FIXED, 0u, IS_PRODUCT);
    if number < n_of_a {
        sums[thread] = part_of_a(number, thread);
        workgroupBarrier();
        if thread == 0u {
            var sum = 0.0;
            for (var t = 0u; t < THREADS; t++) {
                sum += sums[t];
            }
            change(number, sum);
        }
        return;
    }
    let i = select(N_FIRST, 0u, IS_PRODUCT) + (number - n_of_a) * THREADS + thread;
    if i < N_FACTORS {
        change(i, pulled_back(i));
    }
}
