// Rounds to half precision; what is too large for it becomes a NaN. A conversion alone may give the largest f16, which would
// go unnoticed, or an infinity, which softmax can turn into a probability of 0; a NaN makes the loss one.
fn to_values(x: vec4<f32>) -> vec4<f16> {
    let nan = bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) | vec4<u32>(0x7fc00000u));
    return vec4<f16>(select(x, nan, abs(x) > vec4<f32>(65504.0)));
}
