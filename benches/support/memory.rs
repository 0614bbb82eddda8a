//! The memory of this process.

use super::Outcome;

/// Makes the peak of the resident memory what it is now. Returns that, in KiB.
pub fn reset_peak() -> Outcome<u64> {
    // proc_pid_clear_refs(5).
    std::fs::write("/proc/self/clear_refs", "5")?;
    peak()
}

/// The peak of the resident memory, in KiB.
pub fn peak() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let text = line.ok_or("/proc/self/status has no VmHWM")?;
    Ok(text.trim().trim_end_matches("kB").trim().parse()?)
}
