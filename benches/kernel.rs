//! Virtroupe's UDP echo beside UDP echoes over the kernel's sockets.
//!
//! ```sh
//! cargo bench --bench kernel
//! ```
//!
//! The same generator (testpmd's flowgen, 64-byte UDP, on core 0) drives each echo on core 1
//! and counts what comes back: ours over vhost-user, the kernel's over a veth pair on which
//! testpmd has an AF_PACKET port. The kernel's echoes are tokio's `UdpSocket`, and a loop of
//! recvmmsg and sendmmsg. A figure of theirs counts only if the echo's core was busy for at
//! least 95 % of the time and the socket dropped datagrams: then it, and not the generator, was
//! the limit. Printed beside it is the share of the time in which other threads had that core:
//! on a machine that does something else, all figures are low.
//!
//! Options: `--rounds N` (5), `--seconds S` per measurement (3), `--driver NAME` (`virtroupe`;
//! or `dpdk`, testpmd's 5tswap in our place), `--device-core N` (0), `--driver-core N` (1).

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use support::backend::{Backend, generator};
use support::cores::{CoreTime, waited_for_core};
use support::driver::{DPDK_DEFAULT, Driver, Program, Traffic};
use support::kernel_echo::{self, receive_buffer_errors};
use support::stats::Summary;
use support::testpmd::{Options, Testpmd};
use support::veth::{GENERATOR_INTERFACE, Veth};
use support::virtroupe::{Offloads, Rings};
use support::{Outcome, option, require, virtroupe};

/// The share of its core that a saturated echo uses at least.
const SATURATED: f64 = 0.95;
/// How long an echo runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);

struct Settings {
    rounds: usize,
    seconds: f64,
    device_core: usize,
    driver_core: usize,
}

/// An echo over the kernel's sockets, as a subcommand of this program.
struct Peer {
    name: &'static str,
    subcommand: &'static str,
}

const TOKIO: Peer = Peer {
    name: "tokio UdpSocket",
    subcommand: "echo-tokio",
};
const MMSG: Peer = Peer {
    name: "recvmmsg/sendmmsg",
    subcommand: "echo-mmsg",
};

/// What a peer did in the measured time.
struct PeerMeasurement {
    rate: f64,
    core_busy: f64,
    /// Share of the time in which something else had its core.
    waited: f64,
    dropped: u64,
}

impl PeerMeasurement {
    fn is_saturated(&self) -> bool {
        self.core_busy >= SATURATED && self.dropped > 0
    }
}

fn main() -> ExitCode {
    support::run(|| match std::env::args().nth(1).as_deref() {
        Some("echo-tokio") => kernel_echo::tokio(),
        Some("echo-mmsg") => kernel_echo::mmsg(),
        _ => compare(&Settings {
            rounds: option("--rounds", 5)?,
            seconds: option("--seconds", 3.0)?,
            device_core: option("--device-core", 0)?,
            driver_core: option("--driver-core", 1)?,
        }),
    })
}

fn compare(settings: &Settings) -> Outcome<()> {
    require::dpdk_and_namespaces(512)?;
    let driver = match option("--driver", String::from("virtroupe"))?.as_str() {
        "virtroupe" => virtroupe::driver(Traffic::ECHO.task, Rings::Auto, Offloads::All)?,
        "dpdk" => DPDK_DEFAULT,
        other => return Err(format!("--driver {other}: virtroupe or dpdk").into()),
    };
    let mut rounds = Vec::new();
    for round in 1..=settings.rounds.max(1) {
        let ours = measure_driver(&driver, settings)?;
        let [tokio, mmsg] = measure_peers(settings)?;
        println!(
            "round {round}/{}, Mpps: {} {:.2}  {}  {}",
            settings.rounds,
            driver.name(),
            ours / 1e6,
            describe(&TOKIO, &tokio),
            describe(&MMSG, &mmsg),
        );
        rounds.push((ours, tokio, mmsg));
    }
    println!("\nmedian [min, max], Mpps");
    print_rates(driver.name(), rounds.iter().map(|(ours, ..)| *ours));
    let saturated = |peer: &PeerMeasurement| peer.is_saturated().then_some(peer.rate);
    print_rates(
        TOKIO.name,
        rounds.iter().filter_map(|(_, tokio, _)| saturated(tokio)),
    );
    print_rates(
        MMSG.name,
        rounds.iter().filter_map(|(.., mmsg)| saturated(mmsg)),
    );
    println!();
    let to_mmsg = rounds
        .iter()
        .filter_map(|(ours, _, mmsg)| Some((*ours, saturated(mmsg)?)));
    if let Some(ratio) = Summary::of_ratios(to_mmsg) {
        println!("ratio mmsg {:.1}", ratio.median);
    }
    let to_tokio = rounds
        .iter()
        .filter_map(|(ours, tokio, _)| Some((*ours, saturated(tokio)?)));
    let ratio = Summary::of_ratios(to_tokio).ok_or(
        "tokio's echo was never saturated, so there is nothing to compare with: \
         give the benchmark two idle cores",
    )?;
    println!("ratio kernel {:.1}", ratio.median);
    Ok(())
}

fn measure_driver(driver: &Driver, settings: &Settings) -> Outcome<f64> {
    let mut backend = Backend::start(Traffic::ECHO, settings.device_core)?;
    let measured = backend.measure(driver, settings.driver_core, settings.seconds)?;
    backend.quit()?;
    Ok(measured.rate)
}

/// Measures both peers behind one generator.
fn measure_peers(settings: &Settings) -> Outcome<[PeerMeasurement; 2]> {
    let veth = Veth::create()?;
    let mut testpmd = Testpmd::start(&Options {
        role: "generator",
        core: settings.device_core,
        vdev: format!("net_af_packet0,iface={GENERATOR_INTERFACE}"),
        forward: generator(Traffic::ECHO),
        namespace: Some(veth.generator()),
    })?;
    testpmd.forward()?;
    let tokio = measure_peer(&TOKIO, &veth, &mut testpmd, settings)?;
    let mmsg = measure_peer(&MMSG, &veth, &mut testpmd, settings)?;
    testpmd.quit()?;
    Ok([tokio, mmsg])
}

fn measure_peer(
    peer: &Peer,
    veth: &Veth,
    testpmd: &mut Testpmd,
    settings: &Settings,
) -> Outcome<PeerMeasurement> {
    let this_program = std::env::current_exe()?;
    let mut command = veth.peer_command(Path::new(&this_program));
    command.arg(peer.subcommand);
    let mut echo = Program::start(peer.name, command, settings.driver_core)?;
    thread::sleep(WARM_UP);
    echo.check_alive()?;
    let drops_before = receive_buffer_errors(echo.id())?;
    let waited_before = waited_for_core(echo.id())?;
    let time_before = CoreTime::now(settings.driver_core)?;
    let before = testpmd.port_stats()?;
    thread::sleep(Duration::from_secs_f64(settings.seconds));
    let after = testpmd.port_stats()?;
    let core_busy = CoreTime::now(settings.driver_core)?.busy_since(time_before);
    let waited = waited_for_core(echo.id())?.saturating_sub(waited_before);
    let dropped = receive_buffer_errors(echo.id())? - drops_before;
    echo.check_alive()?;
    let packets = after.received - before.received;
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    Ok(PeerMeasurement {
        rate: packets as f64 / seconds,
        core_busy,
        waited: waited.as_secs_f64() / seconds,
        dropped,
    })
}

fn describe(peer: &Peer, measured: &PeerMeasurement) -> String {
    format!(
        "{} {:.3} (core {:.0} % busy, {:.0} % with others, {} dropped{})",
        peer.name,
        measured.rate / 1e6,
        measured.core_busy * 100.0,
        measured.waited * 100.0,
        measured.dropped,
        if measured.is_saturated() {
            ""
        } else {
            ": not saturated, not counted"
        },
    )
}

fn print_rates(name: &str, rates: impl Iterator<Item = f64>) {
    match Summary::of(rates.map(|rate| rate / 1e6)) {
        Some(summary) => println!("{name:20} {summary:.3}"),
        None => println!("{name:20} no valid round"),
    }
}
