// W in blocks of 4 outputs, of up to 64 KiB.
@group(0) @binding(4) var<uniform> weights: array<vec4<f32>, 4096>;

fn load_weights(i: u32) -> vec4<f32> {
    return weights[i];
}
