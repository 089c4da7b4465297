// W in blocks of 4 outputs, of any size.
@group(0) @binding(4) var<storage, read> weights: array<vec4<f32>>;

fn load_weights(i: u32) -> vec4<f32> {
    return weights[i];
}
