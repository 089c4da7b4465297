//! What several tests share.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::PathBuf;

/// Random numbers that are the same in every run: xorshift64* (Vigna 2016).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    /// Between -1 and 1.
    pub fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// `../shared/data/NAME`; none, said on standard error, when it is not there.
pub fn shared_data(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: ../shared/data/{name} is not there");
    None
}

/// Whether tests must fail, rather than be skipped, where there is no GPU.
#[cfg(feature = "gpu")]
fn gpu_is_required() -> bool {
    std::env::var("SOFTREG_REQUIRE_GPU").is_ok_and(|value| value == "1")
}

/// Every GPU of this machine, software ones too.
#[cfg(feature = "gpu")]
pub fn gpus(options: softreg::backend::gpu::Options) -> Vec<softreg::backend::gpu::Gpu> {
    let gpus: Vec<_> = softreg::backend::gpu::Gpu::open_all(options).into_iter().map(Result::unwrap).collect();
    require_gpu(gpus.is_empty());
    gpus
}

/// The names of all GPUs, as `--device` takes them.
#[cfg(feature = "gpu")]
pub fn gpu_names() -> Vec<String> {
    let devices = softreg::Device::list().into_iter().filter(|info| info.kind != softreg::DeviceKind::Cpu);
    let names: Vec<String> = devices.map(|info| info.name).collect();
    require_gpu(names.is_empty());
    names
}

/// Fails or tells when there is no GPU.
#[cfg(feature = "gpu")]
fn require_gpu(none: bool) {
    if none {
        assert!(!gpu_is_required(), "SOFTREG_REQUIRE_GPU=1, but there is no adapter for Vulkan, Metal or DX12");
        eprintln!("skipped: there is no adapter for Vulkan, Metal or DX12");
    }
}
