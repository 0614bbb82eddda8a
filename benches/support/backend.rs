//! The device: testpmd's `net_vhost` port behind a vhost-user socket.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::driver::{Driver, Report, Running, Task, Traffic};
use super::testpmd::{ForwardStats, Options, PortStats, Testpmd};
use super::{Outcome, cores};

/// The time a driver gets before it is measured: its first packets find cold caches and rings.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long a driver may take until packets flow.
const FLOW: Duration = Duration::from_secs(20);

/// A backend that generates packets for one task, and meters every driver in the same way.
#[derive(Debug)]
pub struct Backend {
    testpmd: Testpmd,
    traffic: Traffic,
    socket: PathBuf,
}

/// One driver, measured once.
#[derive(Debug, Clone, Copy)]
pub struct Measurement {
    /// Packets per second: those that came back (echo), that the device got (transmit), or that
    /// the ring took and the application got (receive).
    pub rate: f64,
    /// Cycles of the driver's core per packet, without polls that found nothing.
    pub busy_cycles: f64,
    /// The share of the time in which the driver's core had nothing to do, 0 to 1.
    pub driver_idle: f64,
    /// The share of the device's work that came to nothing because the driver was not as fast, 0
    /// to 1: packets for which there was no room, or time in which no packet came.
    pub device_idle: f64,
}

impl Backend {
    /// Starts testpmd on `core`. Nothing moves until a driver connects.
    pub fn start(traffic: Traffic, core: usize) -> Outcome<Backend> {
        let socket =
            std::env::temp_dir().join(format!("virtroupe-bench-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let mut forward = generator(traffic);
        if traffic.task == Task::Echo {
            // `RTE_ETH_RX_OFFLOAD_UDP_CKSUM`, which every NIC has: else `net_vhost` would itself read all
            // of a packet whose checksum was left to the device.
            forward.push("--rx-offloads=0x4".into());
        }
        let mut testpmd = Testpmd::start(&Options {
            role: "backend",
            core,
            vdev: format!("net_vhost0,iface={},queues=1", socket.display()),
            forward,
            namespace: None,
        })?;
        testpmd.forward()?;
        Ok(Backend {
            testpmd,
            traffic,
            socket,
        })
    }

    /// Runs `driver` on `core` and measures it for `seconds`.
    pub fn measure(&mut self, driver: &Driver, core: usize, seconds: f64) -> Outcome<Measurement> {
        let start = self.testpmd.port_stats()?;
        let mut running = driver.start(self.traffic, &self.socket, core)?;
        self.wait_for_flow(&mut running, start)?;
        thread::sleep(WARM_UP);
        running.begin()?;
        self.testpmd.clear_forward_stats()?;
        let before = self.testpmd.port_stats()?;
        thread::sleep(Duration::from_secs_f64(seconds));
        let after = self.testpmd.port_stats()?;
        let device = self.testpmd.forward_stats()?;
        let report = running.finish()?;
        let end = self.testpmd.port_stats()?;
        let busy_cycles = report.busy_cycles_per_packet.ok_or_else(|| {
            let name = driver.name();
            format!("{name} printed no line `busy_cycles_per_packet X` at its end")
        })?;
        let (moved, seconds) = moved(self.traffic.task, before, after);
        let hertz = cores::cycles_per_nano()? * 1e9;
        Ok(Measurement {
            rate: moved / seconds * delivered_share(self.traffic.task, &report, start, end),
            busy_cycles,
            driver_idle: (1.0 - busy_cycles * moved / seconds / hertz).max(0.0),
            device_idle: device_idle(self.traffic.task, device, hertz * seconds),
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
            if metered(self.traffic.task, now) > metered(self.traffic.task, start) + 10_000 {
                return Ok(());
            }
            if let Running::Program(program) = running {
                program.check_alive()?;
            }
            if Instant::now() > deadline {
                let moved = metered(self.traffic.task, now) - metered(self.traffic.task, start);
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

/// What testpmd does for a task. Its generators send UDP from 00:01:02:03:04:00,
/// 10.254.0.0:1000 to 00:01:02:03:04:01, port 1001, with a UDP checksum of zero. flowgen
/// varies the destination over 1024 addresses from 10.253.0.0 on, and takes 4 bytes of the
/// length for a frame check sequence that is not sent.
pub fn generator(traffic: Traffic) -> Vec<String> {
    let length = traffic.length;
    match traffic.task {
        Task::Echo => vec![
            "--forward-mode=flowgen".into(),
            format!("--txpkts={}", length + 4),
        ],
        Task::Receive => vec![
            "--forward-mode=txonly".into(),
            format!("--txpkts={length}"),
            "--eth-peer=0,00:01:02:03:04:01".into(),
            "--tx-ip=10.254.0.0,10.253.0.0".into(),
            "--tx-udp=1000,1001".into(),
        ],
        Task::Transmit => vec!["--forward-mode=rxonly".into()],
    }
}

fn metered(task: Task, stats: PortStats) -> u64 {
    match task {
        Task::Receive => stats.transmitted,
        Task::Transmit | Task::Echo => stats.received,
    }
}

/// Packets that were metered, and the seconds that it took.
fn moved(task: Task, before: PortStats, after: PortStats) -> (f64, f64) {
    let packets = metered(task, after) - metered(task, before);
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    (packets as f64, seconds)
}

/// A generator works all the time, also for packets that find no room.
fn device_idle(task: Task, stats: ForwardStats, cycles: f64) -> f64 {
    match task {
        Task::Transmit => (1.0 - stats.cycles as f64 / cycles).max(0.0),
        Task::Receive | Task::Echo => {
            stats.refused as f64 / (stats.sent + stats.refused).max(1) as f64
        }
    }
}

/// What the ring took but the application never got does not count as received.
fn delivered_share(task: Task, report: &Report, start: PortStats, end: PortStats) -> f64 {
    let Some(delivered) = report.delivered_packets else {
        return 1.0;
    };
    let taken = (metered(task, end) - metered(task, start)).max(1);
    (delivered as f64 / taken as f64).min(1.0)
}
