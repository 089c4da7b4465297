// The rule of AdamW, for shaders that update W: m = beta_1 * m + (1 - beta_1) * g; s = beta_2 * s + (1 - beta_2) * g^2; the
// direction is m * correction_1 / (sqrt(s * correction_2) + epsilon) + weight_decay * w, with the corrections of the step,
// 1 / (1 - beta^t). moments has m of all n_parameters(), then s of all.

// Twin: `AdamWHead` in src/backend/gpu/update.rs.
struct Head {
    learning_rate: f32,
    l2: f32,
    // 1, or 0 where b stays as it is.
    intercept: f32,
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    weight_decay: f32,
}

// What is taken off parameter i, in learning rates; g is its gradient. decaying is w, for the intercept 0.
fn direction(head: Head, i: u32, g: f32, decaying: f32) -> f32 {
    let second = i + n_parameters();
    let m = head.beta_1 * moments[i] + (1.0 - head.beta_1) * g;
    let s = head.beta_2 * moments[second] + (1.0 - head.beta_2) * g * g;
    moments[i] = m;
    moments[second] = s;
    return m * step.correction_1 / (sqrt(s * step.correction_2) + head.epsilon) + head.weight_decay * decaying;
}
