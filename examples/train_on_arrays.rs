//! Trains on arrays that a program has in memory, and looks at the result: `cargo run --release --example
//! train_on_arrays`.

use ndarray::Array2;
use softreg::{Dataset, Device, Features, Labels, Sgd, SoftmaxRegression};

fn main() -> softreg::Result<()> {
    // Three kinds of iris-like flowers, described by two lengths in centimetres.
    let n_samples = 300;
    let kinds = ["setosa", "versicolor", "virginica"];
    let lengths = Array2::from_shape_fn((n_samples, 2), |(sample, feature)| {
        let noise = ((sample * 7919 + feature * 104_729) % 1000) as f32 / 1000.0 - 0.5;
        let centre = [[5.0, 1.5], [5.9, 4.3], [6.6, 5.6]][sample % 3][feature];
        centre + noise
    });
    let names: Vec<&str> = (0..n_samples).map(|sample| kinds[sample % 3]).collect();

    // Nothing is copied: the features are a view of the array.
    let data = Dataset::new(Features::try_from(lengths.view())?, Labels::from_names(&names)?)?
        .with_feature_names(vec!["sepal length".to_owned(), "petal length".to_owned()])?;
    let (train, test) = data.split(0.2, 0)?;

    // The best GPU, or the CPU where there is none.
    let device = Device::auto();
    println!("training on {} ({})", device.info().name, device.reason());
    let fit = SoftmaxRegression::new()
        .device(&device)
        .solver(Sgd { batch_size: 32, ..Sgd::default() })
        .l2(1e-4)
        .fit(&train)?;
    println!("training loss {:.4} nats, accuracy {:.3}", fit.train.log_loss, fit.train.accuracy);

    let evaluation = fit.model.evaluate(&test)?;
    println!("test accuracy {:.3}", evaluation.accuracy);
    for (class, metrics) in fit.model.classes().iter().zip(&evaluation.classes) {
        println!("  {class:<12} recall {:.3} of {}", metrics.recall().unwrap_or(f64::NAN), metrics.support);
    }
    let probabilities = fit.model.predict_proba(&test.features().rows(0..1)?)?;
    println!("the first test flower: {:?} = {probabilities:.3}", fit.model.classes());
    Ok(())
}
