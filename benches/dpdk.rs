//! Virtroupe beside DPDK's own virtio-net driver, on the same device.
//!
//! ```sh
//! cargo bench --bench dpdk
//! cargo bench --bench dpdk -- --rounds 20 --seconds 3 --variants
//! ```
//!
//! testpmd is the device (`net_vhost`) on core 0 and meters both drivers by its own counters;
//! the driver under test has core 1. In each round every driver is measured once on the same
//! backend process, and the order turns from round to round. Ratios are taken within a round.
//!
//! - `rx`: the device sends as fast as it can (txonly). Ours delivers each packet to a counting
//!   actor; DPDK's runs `rxonly`. Neither touches the payload.
//! - `echo`: the device sends UDP flows and counts what comes back (flowgen). Ours answers
//!   through the UDP API with all checks; DPDK's runs `5tswap`, which verifies nothing.
//!
//! Options: `--rounds N` (10), `--seconds S` per measurement (2), `--task rx|echo|all`,
//! `--variants` (also DPDK's packed and vectorized drivers), `--driver NAME` (a DPDK variant in
//! our place: `dpdk` against itself shows the noise), `--device-core N` (0), `--driver-core N`
//! (1).

mod support;

use std::process::ExitCode;

use support::backend::{Backend, Measurement};
use support::driver::{DPDK_DEFAULT, DPDK_VARIANTS, Driver, Task};
use support::stats::Summary;
use support::{Outcome, option, require, virtroupe};

struct Settings {
    rounds: usize,
    seconds: f64,
    device_core: usize,
    driver_core: usize,
}

fn main() -> ExitCode {
    support::run(|| {
        let settings = Settings {
            rounds: option("--rounds", 10)?,
            seconds: option("--seconds", 2.0)?,
            device_core: option("--device-core", 0)?,
            driver_core: option("--driver-core", 1)?,
        };
        require::dpdk(512)?;
        let tasks = match option("--task", String::from("all"))?.as_str() {
            "rx" => vec![Task::Receive],
            "echo" => vec![Task::Echo],
            "all" => vec![Task::Receive, Task::Echo],
            other => return Err(format!("--task {other}: rx, echo or all").into()),
        };
        let ratios = tasks
            .into_iter()
            .map(|task| Ok((task, compare(task, &settings)?)))
            .collect::<Outcome<Vec<_>>>()?;
        for (task, ratio) in ratios {
            println!("ratio {} {ratio:.3}", label(task));
        }
        Ok(())
    })
}

/// Measures all drivers at one task, prints the table, and returns our ratio to DPDK.
fn compare(task: Task, settings: &Settings) -> Outcome<f64> {
    let drivers = drivers(task)?;
    let mut results: Vec<Vec<Measurement>> = vec![Vec::new(); drivers.len()];
    for round in 0..settings.rounds.max(1) {
        let mut backend = Backend::start(task, settings.device_core)?;
        let mut progress = vec![String::new(); drivers.len()];
        for turn in 0..drivers.len() {
            let index = (round + turn) % drivers.len();
            let driver = &drivers[index];
            let result = backend.measure(driver, settings.driver_core, settings.seconds)?;
            progress[index] = format!("{} {:.2}", driver.name(), result.rate / 1e6);
            results[index].push(result);
        }
        backend.quit()?;
        let (label, round, of) = (label(task), round + 1, settings.rounds.max(1));
        println!("{label} round {round}/{of}, Mpps: {}", progress.join("  "));
    }
    print_table(task, &drivers, &results)
}

/// Ours first, then the peer, then its variants.
fn drivers(task: Task) -> Outcome<Vec<Driver>> {
    let name = option("--driver", String::from("virtroupe"))?;
    let known = || [DPDK_DEFAULT].into_iter().chain(DPDK_VARIANTS);
    let first = match name.as_str() {
        "virtroupe" => virtroupe::driver(task)?,
        other => known()
            .find(|driver| driver.name() == other)
            .ok_or_else(|| format!("--driver {other}: virtroupe or a DPDK variant"))?,
    };
    let mut drivers = vec![first, DPDK_DEFAULT];
    if std::env::args().any(|argument| argument == "--variants") {
        drivers.extend(DPDK_VARIANTS);
    }
    Ok(drivers)
}

fn print_table(task: Task, drivers: &[Driver], results: &[Vec<Measurement>]) -> Outcome<f64> {
    let rates = |index: usize| results[index].iter().map(|result| result.rate / 1e6);
    let no_result = || format!("no round of {} was measured", label(task));
    println!("\n{}: median [min, max]", label(task));
    println!(
        "{:16} {:>22} {:>22} {:>26}",
        "driver", "Mpps", "ratio to dpdk", "busy cycles a packet"
    );
    for (index, driver) in drivers.iter().enumerate() {
        let rate = Summary::of(rates(index)).ok_or_else(no_result)?;
        let ratio = Summary::of_ratios(rates(index).zip(rates(1))).ok_or_else(no_result)?;
        let cycles = results[index].iter().map(|result| result.busy_cycles);
        let cycles = Summary::of(cycles).ok_or_else(no_result)?;
        println!(
            "{:16} {:>22} {:>22} {:>26}",
            driver.name(),
            format!("{rate:.2}"),
            format!("{ratio:.2}"),
            format!("{cycles:.0}")
        );
    }
    println!();
    let ours = Summary::of_ratios(rates(0).zip(rates(1))).ok_or_else(no_result)?;
    Ok(ours.median)
}

fn label(task: Task) -> &'static str {
    match task {
        Task::Receive => "rx",
        Task::Echo => "echo",
    }
}
