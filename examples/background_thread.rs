//! An application that trains in the background: the thread that draws the window never waits, shows progress, and can
//! stop the training. `cargo run --release --example background_thread`.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use softreg::{Progress, Sgd, SoftmaxRegression, data};

fn main() -> softreg::Result<()> {
    let digits = data::digits()?;
    let (send, progress) = mpsc::channel::<Progress>();
    let stop = Arc::new(AtomicBool::new(false));

    let stopped = stop.clone();
    let training = thread::spawn(move || {
        let estimator = SoftmaxRegression::new().solver(Sgd { epochs: Some(10_000), ..Sgd::default() });
        estimator.fit_with(&digits, |progress| {
            // A window that was closed is a reason to stop, too.
            let closed = send.send(progress.clone()).is_err();
            if closed || stopped.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    });

    // The event loop: takes what has come, draws, goes on.
    while !training.is_finished() {
        if let Some(latest) = progress.try_iter().last() {
            println!("epoch {:>5}, loss {:.4}, {:.0?} to go", latest.epoch, latest.loss, latest.remaining());
            // The user has seen enough.
            if latest.epoch >= 100 {
                stop.store(true, Ordering::Relaxed);
            }
        }
        thread::sleep(Duration::from_millis(10));
    }

    match training.join() {
        Ok(fit) => {
            let fit = fit?;
            println!("stopped after {} epochs with accuracy {:.3}", fit.epochs.len(), fit.train.accuracy);
        }
        Err(_) => println!("the training thread panicked"),
    }
    Ok(())
}
