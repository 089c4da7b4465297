// What one optimizer step, or one block of a forward pass, works on. Twin: `Step` in src/backend/gpu/step.rs.
struct Step {
    // Samples are positions start..start + n_samples: of the order, or of the chunk where there is no order.
    start: u32,
    n_samples: u32,
    n_features: u32,
    // Rows of X are padded with zeros to whole blocks of 4 features.
    feature_blocks: u32,
    n_classes: u32,
    n_heads: u32,
    // Rows of W, O and R are padded with zeros to whole blocks of 4 outputs; n_outputs = n_heads * n_classes of them count.
    output_blocks: u32,
    // The gradient sums over parts of samples_per_part samples each.
    n_parts: u32,
    samples_per_part: u32,
    // Where the step's losses begin.
    losses_start: u32,
    // Every feature counts scale times.
    scale: f32,
    // What a sample counts, beside its weight where there are weights: 1 / n_samples.
    sample_weight: f32,
    // What the heads' learning rates are multiplied by.
    rate: f32,
    // A power of two that no weight of a sample is above; 1 without weights.
    largest_weight: f32,
    // Points of a line that losses are evaluated at.
    n_points: u32,
    // The number of the first part among those of all steps of a gradient, and how many sums they are added to.
    first_part: u32,
    n_sums: u32,
    // AdamW: 1 / (1 - beta^t) of beta_1 and beta_2 in step t.
    correction_1: f32,
    correction_2: f32,
    // Sparse features: the columns of W that the kernel works on, which are from first_column on in O and R.
    first_column: u32,
    n_columns: u32,
    // Of X by features: the segments of the gradient, and the features that have some.
    first_segment: u32,
    n_segments: u32,
    first_listed: u32,
    n_listed: u32,
    // Steps before this one that sparse_catch_up has the matrices of, and for how many there is room, a power of 2.
    n_done: u32,
    n_leaves: u32,
    padding: u32,
}

@group(0) @binding(0) var<uniform> step: Step;

// A dimension of a dispatch has at most 65,535 workgroups, so they are counted over two.
fn workgroup_number(workgroup: vec3<u32>, workgroups: vec3<u32>) -> u32 {
    return workgroup.y * workgroups.x + workgroup.x;
}
