//! Where to compute.

use std::path::PathBuf;

use clap::Args;
use softreg::DeviceOptions;

use super::values::bytes;

#[derive(Debug, Args)]
pub struct Device {
    /// Where to compute: `auto` (the best GPU, or else the CPU), `cpu`, `gpu`, or a part of a name that `softreg
    /// devices` lists
    #[arg(long = "device", value_name = "NAME", default_value = "auto")]
    name: String,

    /// Memory that features may take, on the host and on the device: 2GB, 500MiB, …. Larger ones stay in their file (.npy, safetensors) and
    /// are read part by part, in every pass. Default: what is free on the host. In a sweep on the CPU half of it is for the models
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory_limit: Option<u64>,
}

impl Device {
    pub fn open(&self, matrix_units: bool) -> softreg::Result<softreg::Device> {
        let mut options = device_options(matrix_units);
        options.memory = self.memory_limit.map(|limit| limit / 2);
        softreg::Device::open(&self.name, &options)
    }
}

/// How devices are opened: with what earlier runs kept of them in the folder that the system has for that;
/// `SOFTREG_CACHE` names another, or none when it is empty.
pub fn device_options(matrix_units: bool) -> DeviceOptions {
    let mut options = DeviceOptions::new().matrix_units(matrix_units);
    options.cache = match std::env::var_os("SOFTREG_CACHE") {
        Some(folder) => Some(PathBuf::from(folder)).filter(|folder| !folder.as_os_str().is_empty()),
        None => dirs::cache_dir().map(|folder| folder.join("softreg")),
    };
    options
}
