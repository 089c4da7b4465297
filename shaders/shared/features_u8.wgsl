// X in bytes, four values a word, the first in the lowest byte: rows of feature_blocks blocks.
@group(0) @binding(1) var<storage, read> features: array<u32>;

fn load_features(row: u32, block: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(features[row * step.feature_blocks + block]));
}
