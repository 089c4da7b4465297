//! Classifies one sample at a time, as an application does when a message or an image comes in: no allocation, no
//! thread, no GPU. `cargo run --release --no-default-features --example classify_one_row`.

use std::time::Instant;

use softreg::{Model, SoftmaxRegression, data};

fn main() -> softreg::Result<()> {
    // An application would ship the file, and read it with `Model::load` or, from `include_bytes!`, with
    // `Model::from_bytes`.
    let path = std::env::temp_dir().join(format!("softreg-example-{}.safetensors", std::process::id()));
    SoftmaxRegression::new().fit(&data::digits()?)?.model.save(&path)?;
    let model = Model::load(&path)?;
    std::fs::remove_file(&path).map_err(|source| softreg::Error::io("remove", &path, source))?;

    #[rustfmt::skip]
    let image: [f32; 64] = [
        0., 0.,  5., 13.,  9.,  1., 0., 0.,
        0., 0., 13., 15., 10., 15., 5., 0.,
        0., 3., 15.,  2.,  0., 11., 8., 0.,
        0., 4., 12.,  0.,  0.,  8., 8., 0.,
        0., 5.,  8.,  0.,  0.,  9., 8., 0.,
        0., 4., 11.,  0.,  1., 12., 7., 0.,
        0., 2., 14.,  5., 10., 12., 0., 0.,
        0., 0.,  6., 13., 10.,  0., 0., 0.,
    ];
    let mut probabilities = vec![0.0; model.n_classes()];
    let class = model.predict_into(&image, &mut probabilities)?;
    println!("this is a {} with probability {:.3}", model.classes()[class], probabilities[class]);

    let times = 100_000;
    let begin = Instant::now();
    for _ in 0..times {
        model.predict_into(std::hint::black_box(&image), &mut probabilities)?;
    }
    println!("{:.2} µs each", begin.elapsed().as_secs_f64() * 1e6 / f64::from(times));
    Ok(())
}
