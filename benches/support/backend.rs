//! The device: testpmd's `net_vhost` port behind a vhost-user socket.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::Outcome;
use super::driver::{Driver, Report, Running, Task};
use super::testpmd::{Options, PortStats, Testpmd};

/// The time a driver gets before it is measured: its first packets find cold caches and rings.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long a driver may take until packets flow.
const FLOW: Duration = Duration::from_secs(20);

/// A backend that generates packets for one task, and meters every driver in the same way.
#[derive(Debug)]
pub struct Backend {
    testpmd: Testpmd,
    task: Task,
    socket: PathBuf,
}

/// One driver, measured once.
#[derive(Debug, Clone, Copy)]
pub struct Measurement {
    /// Packets per second: those that came back (echo), or were taken by the ring and
    /// delivered (receive).
    pub rate: f64,
    /// Cycles of the driver's core per packet, without polls that found nothing.
    pub busy_cycles: f64,
}

impl Backend {
    /// Starts testpmd on `core`. Nothing moves until a driver connects.
    pub fn start(task: Task, core: usize) -> Outcome<Backend> {
        let socket =
            std::env::temp_dir().join(format!("virtroupe-bench-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let mut testpmd = Testpmd::start(&Options {
            role: "backend",
            core,
            vdev: format!("net_vhost0,iface={},queues=1", socket.display()),
            forward: generator(task),
            namespace: None,
        })?;
        testpmd.forward()?;
        Ok(Backend {
            testpmd,
            task,
            socket,
        })
    }

    /// Runs `driver` on `core` and measures it for `seconds`.
    pub fn measure(&mut self, driver: &Driver, core: usize, seconds: f64) -> Outcome<Measurement> {
        let start = self.testpmd.port_stats()?;
        let mut running = driver.start(self.task, &self.socket, core)?;
        self.wait_for_flow(&mut running, start)?;
        thread::sleep(WARM_UP);
        running.begin()?;
        let before = self.testpmd.port_stats()?;
        thread::sleep(Duration::from_secs_f64(seconds));
        let after = self.testpmd.port_stats()?;
        let report = running.finish()?;
        let end = self.testpmd.port_stats()?;
        Ok(Measurement {
            rate: rate(self.task, before, after) * delivered_share(&report, start, end),
            busy_cycles: report.busy_cycles_per_packet.ok_or_else(|| {
                let name = driver.name();
                format!("{name} printed no line `busy_cycles_per_packet X` at its end")
            })?,
        })
    }

    /// Ends testpmd.
    pub fn quit(mut self) -> Outcome<()> {
        self.testpmd.quit()
    }

    fn wait_for_flow(&mut self, running: &mut Running, start: PortStats) -> Outcome<()> {
        let deadline = Instant::now() + FLOW;
        loop {
            let now = self.testpmd.port_stats()?;
            // More than a ring full: the driver takes packets and gives descriptors back.
            if metered(self.task, now) > metered(self.task, start) + 10_000 {
                return Ok(());
            }
            if let Running::Program(program) = running {
                program.check_alive()?;
            }
            if Instant::now() > deadline {
                let moved = metered(self.task, now) - metered(self.task, start);
                return Err(format!(
                    "the driver is connected to {} but only {moved} packets have moved in {} s",
                    self.socket.display(),
                    FLOW.as_secs()
                )
                .into());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The socket that a driver connects to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// testpmd's generator for a task. Both send UDP of 64 bytes from 00:01:02:03:04:00,
/// 10.254.0.0:1000 to 00:01:02:03:04:01, port 1001, with a UDP checksum of zero. flowgen
/// varies the destination over 1024 addresses from 10.253.0.0 on.
pub fn generator(task: Task) -> Vec<String> {
    let arguments: &[&str] = match task {
        Task::Echo => &["--forward-mode=flowgen"],
        Task::Receive => &[
            "--forward-mode=txonly",
            "--eth-peer=0,00:01:02:03:04:01",
            "--tx-ip=10.254.0.0,10.253.0.0",
            "--tx-udp=1000,1001",
        ],
    };
    arguments.iter().map(|&text| text.to_owned()).collect()
}

fn metered(task: Task, stats: PortStats) -> u64 {
    match task {
        Task::Receive => stats.transmitted,
        Task::Echo => stats.received,
    }
}

fn rate(task: Task, before: PortStats, after: PortStats) -> f64 {
    let packets = metered(task, after) - metered(task, before);
    packets as f64 / after.at.duration_since(before.at).as_secs_f64()
}

/// What the ring took but the application never got does not count as received.
fn delivered_share(report: &Report, start: PortStats, end: PortStats) -> f64 {
    let Some(delivered) = report.delivered_packets else {
        return 1.0;
    };
    let taken = (end.transmitted - start.transmitted).max(1);
    (delivered as f64 / taken as f64).min(1.0)
}
