// Nothing is rounded for matrices of single precision.
fn to_values(x: vec4<f32>) -> vec4<f32> {
    return x;
}
