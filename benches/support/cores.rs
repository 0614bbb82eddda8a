//! Where processes run, and how busy their cores are.

use std::fs;
use std::io;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::Outcome;

/// Starts a process that may run on one core only.
pub fn spawn_on(core: usize, command: &mut Command) -> Outcome<Child> {
    // A child inherits the affinity of the thread that starts it.
    let spawned: io::Result<Child> = thread::scope(|scope| {
        let starter = scope.spawn(|| {
            let mut set = CpuSet::new();
            set.set(core)?;
            sched_setaffinity(Pid::from_raw(0), &set)?;
            command.spawn()
        });
        starter.join().expect("the starter does not panic")
    });
    let program = command.get_program().to_string_lossy().into_owned();
    spawned.map_err(|error| format!("cannot start {program} on core {core}: {error}").into())
}

/// Time that the first thread of a process was ready to run and another one had its core.
pub fn waited_for_core(pid: u32) -> Outcome<Duration> {
    // proc(5): time on the cpu, time waiting for it (both in nanoseconds), time slices.
    let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let waited = schedstat
        .split_whitespace()
        .nth(1)
        .ok_or("/proc/PID/schedstat is empty")?;
    Ok(Duration::from_nanos(waited.parse()?))
}

/// Time that a core has spent, in ticks since boot.
#[derive(Debug, Clone, Copy)]
pub struct CoreTime {
    idle: u64,
    total: u64,
}

impl CoreTime {
    /// Reads `/proc/stat`.
    pub fn now(core: usize) -> Outcome<CoreTime> {
        let stat = fs::read_to_string("/proc/stat")?;
        let label = format!("cpu{core}");
        let ticks: Vec<u64> = stat
            .lines()
            .find_map(|line| line.split_once(' ').filter(|(name, _)| *name == label))
            .ok_or_else(|| format!("no {label} in /proc/stat"))?
            .1
            .split_whitespace()
            .map_while(|field| field.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal; guest time is part of user time.
        let counted = ticks.get(..8).ok_or("/proc/stat has too few columns")?;
        Ok(CoreTime {
            idle: counted[3] + counted[4],
            total: counted.iter().sum(),
        })
    }

    /// The share of the time since `earlier` in which the core was not idle, 0 to 1.
    pub fn busy_since(self, earlier: CoreTime) -> f64 {
        let total = self.total.saturating_sub(earlier.total).max(1);
        let idle = self.idle.saturating_sub(earlier.idle);
        1.0 - idle as f64 / total as f64
    }
}

/// Ticks of the time-stamp counter in a nanosecond, from the kernel's `bogomips`, which on x86 it
/// derives from them.
pub fn cycles_per_nano() -> Outcome<f64> {
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let bogomips = info
        .lines()
        .find_map(|line| line.strip_prefix("bogomips")?.split(':').nth(1))
        .ok_or("/proc/cpuinfo says no bogomips")?;
    Ok(bogomips.trim().parse::<f64>()? / 2000.0)
}
