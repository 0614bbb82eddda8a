//! What a packet cost: printed by the examples that benchmarks run.

use virtroupe::Stats;

/// Prints the cycles that each of `packets` took on our core, applications included.
pub fn busy_cycles(stats: &Stats, packets: u64) {
    let nanos: u64 = stats.cpus.iter().map(|cpu| cpu.poll.busy_nanos).sum();
    if packets > 0 {
        let cycles = nanos as f64 * cycles_per_nano() / packets as f64;
        println!("busy_cycles_per_packet {cycles:.1}");
    }
}

/// Ticks of the time-stamp counter in a nanosecond: on x86, the kernel derives its `bogomips`
/// from them. 1 where that is not known; the figure is then in nanoseconds.
fn cycles_per_nano() -> f64 {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let bogomips = info
        .lines()
        .find_map(|line| line.strip_prefix("bogomips")?.split(':').nth(1));
    bogomips
        .and_then(|text| text.trim().parse::<f64>().ok())
        .map_or(1.0, |bogomips| bogomips / 2000.0)
}
