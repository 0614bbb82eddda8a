//! What each cpu of a stack does, as the lines of a live table.

use std::time::Duration;

use virtroupe::actors::stats::CpuStats;
use virtroupe::{CpuRole, Stats};

use crate::live::reasons;

/// Tells rates from two snapshots of the counters.
#[derive(Default)]
pub struct CpuTable {
    last: Vec<CpuStats>,
}

impl CpuTable {
    /// A line for each cpu, and a head: what it is, and what it did in the last `interval`.
    pub fn lines(&mut self, stats: Stats, interval: Duration) -> Vec<String> {
        let mut lines = vec![format!(
            "{:>6} {:<12} {:>10} {:>10} {:>10} {:>10} {:>11}  dropped",
            "cpu", "role", "received", "sent", "hops in", "hops out", "credits"
        )];
        for cpu in &stats.cpus {
            let last = self.last.iter().find(|last| last.cpu == cpu.cpu);
            lines.push(line(cpu, last.unwrap_or(&CpuStats::default()), interval));
        }
        self.last = stats.cpus;
        lines
    }
}

fn line(cpu: &CpuStats, last: &CpuStats, interval: Duration) -> String {
    let role = match (cpu.role, &cpu.queues[..]) {
        (CpuRole::Proxy, _) => "proxy".into(),
        (CpuRole::Queue, [queue]) => format!("queue {queue}"),
        (CpuRole::Queue, queues) => {
            let queues: Vec<String> = queues.iter().map(u16::to_string).collect();
            format!("queues {}", queues.join(","))
        }
    };
    let rate = |now: u64, before: u64| rate(now.saturating_sub(before), interval);
    let credits = match &cpu.virtual_queue {
        Some(queue) => format!("{} of {}", queue.credits_free, queue.credits),
        None => "-".into(),
    };
    let (host, last_host) = (&cpu.shard.host, &last.shard.host);
    format!(
        "{:>6} {role:<12} {:>10} {:>10} {:>10} {:>10} {credits:>11}  {}",
        cpu.cpu,
        rate(host.rx_frames, last_host.rx_frames),
        rate(host.tx_frames, last_host.tx_frames),
        rate(cpu.crossings.received, last.crossings.received),
        rate(cpu.crossings.sent, last.crossings.sent),
        reasons(&cpu.shard.drops),
    )
}

/// Packets per second.
pub fn rate(packets: u64, time: Duration) -> String {
    match packets as f64 / time.as_secs_f64().max(1e-9) {
        rate if rate >= 1e6 => format!("{:.2} Mpps", rate / 1e6),
        rate => format!("{:.1} kpps", rate / 1e3),
    }
}
