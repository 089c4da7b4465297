// X in single precision: rows of feature_blocks blocks.
@group(0) @binding(1) var<storage, read> features: array<vec4<f32>>;

fn load_features(row: u32, block: u32) -> vec4<f32> {
    return features[row * step.feature_blocks + block];
}
