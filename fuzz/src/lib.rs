//! Coverage-guided fuzzing of softreg's parsers. What a parser is held to is in `tests/common/fuzz.rs`, which the tests share.

#[path = "../../tests/common/fuzz.rs"]
pub mod fuzz;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock, PoisonError};

use fuzz::{Found, Reader, Watched};
pub use libfuzzer_sys;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// The last panic.
static PANIC: Mutex<String> = Mutex::new(String::new());

fn last_panic() -> std::sync::MutexGuard<'static, String> {
    PANIC.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Before the first input.
pub fn begin() {
    // All work on this thread: the fuzzer sees what it does, and nothing waits.
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().expect("the first pool");
    // A panic of a crate that softreg turns into an error is none, so that the fuzzer's own hook, which ends all, must go.
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or(String::new(), ToString::to_string);
        *last_panic() = format!("{info}");
        // But softreg itself never panics.
        if place.starts_with(concat!(env!("CARGO_MANIFEST_DIR"), "/../src")) || place.starts_with("src/") {
            eprintln!("{info}");
            std::process::abort();
        }
    }));
}

/// Reads the input.
pub fn run(target: &str, bytes: &[u8]) {
    static READER: OnceLock<Reader> = OnceLock::new();
    static HIGHEST: Mutex<usize> = Mutex::new(0);
    let reader = READER.get_or_init(|| Reader::new(target));
    match catch_unwind(AssertUnwindSafe(|| reader.read(target, "file", bytes))) {
        Ok(Found { peak, .. }) => {
            let mut highest = HIGHEST.lock().unwrap_or_else(PoisonError::into_inner);
            if peak > *highest + *highest / 20 {
                eprintln!("most memory: {peak} bytes for {} bytes", bytes.len());
                *highest = peak;
            }
        }
        Err(_) => {
            eprintln!("{}", last_panic());
            std::process::abort();
        }
    }
}

/// The fuzzer of a parser.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(init: $crate::begin(), |bytes: &[u8]| $crate::run($name, bytes));
    };
}
