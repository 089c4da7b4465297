//! The machine's memory, where the system tells it in a file.

/// All of it, in bytes.
pub(crate) fn total() -> Option<u64> {
    line("MemTotal:")
}

/// What programs can still have, in bytes.
pub(crate) fn available() -> Option<u64> {
    line("MemAvailable:")
}

fn line(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
