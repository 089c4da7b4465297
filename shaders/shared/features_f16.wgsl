// X in half precision, two values a word, the first in the low half: rows of feature_blocks blocks.
@group(0) @binding(1) var<storage, read> features: array<vec2<u32>>;

fn load_features(row: u32, block: u32) -> vec4<f32> {
    let words = features[row * step.feature_blocks + block];
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
