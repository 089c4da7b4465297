// The rule of gradient descent with momentum, for shaders that update W: v = momentum * v + g; the direction is v, with
// Nesterov's momentum g + momentum * v. moments has v.

// Twin: `MomentumHead` in src/backend/gpu/update.rs.
struct Head {
    learning_rate: f32,
    l2: f32,
    // 1, or 0 where b stays as it is.
    intercept: f32,
    momentum: f32,
    // 1 or 0
    nesterov: u32,
}

// What is taken off parameter i, in learning rates; g is its gradient. decaying is w, for the intercept 0.
fn direction(head: Head, i: u32, g: f32, decaying: f32) -> f32 {
    let v = head.momentum * moments[i] + g;
    moments[i] = v;
    return select(v, g + head.momentum * v, head.nesterov == 1u);
}
