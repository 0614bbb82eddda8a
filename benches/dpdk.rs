//! Virtroupe beside DPDK's own virtio-net driver, on the same device.
//!
//! ```sh
//! cargo bench --bench dpdk
//! cargo bench --bench dpdk -- --rows receive-64,echo-64-packed --rounds 10
//! ```
//!
//! testpmd is the device (`net_vhost`) on core 0 and meters both drivers by its own counters;
//! the driver under test has core 1. There is a row for each task, frame length and ring format:
//!
//! - `receive`: the device sends as fast as it can (txonly). Ours delivers each packet to a counting
//!   actor; DPDK's runs `rxonly`. Neither touches the payload.
//! - `transmit`: the driver sends as fast as it can. Ours is an actor that takes empty frames from the
//!   pool, writes the headers and hands them to the packet API; DPDK's runs `txonly`, which does
//!   the same. The device runs `rxonly`.
//! - `echo`: the device sends UDP flows and counts what comes back (flowgen). Ours answers
//!   through the UDP API with all checks; DPDK's runs `5tswap`, which verifies nothing.
//!
//! The peers of a split row are DPDK's default and its vectorized driver, the peer of a packed row
//! its packed driver. None of them asks the device for an offload; ours does, as far as it has some,
//! and echoes also without (`plain`). In each round every driver of a task and length is measured
//! once on the same backend process, and the order turns from round to round. Ratios are taken
//! within a round, to the peer that was the fastest by its median; the one at the end is that of the
//! faster of ours. Beside them stand the cycles of the driver's core for a packet, without those of
//! polls that found nothing, and what share of the time that core and the device's core were idle:
//! where the device's core never is, it is the limit for both.
//!
//! Options: `--rows NAME,NAME...` (the rows that begin with a name; all), `--rounds N` (3),
//! `--seconds S` per measurement (1), `--device-core N` (0), `--driver-core N` (1), `--driver NAME`
//! (a DPDK variant in our place: against itself it shows the noise).

#[path = "dpdk/row.rs"]
mod row;
mod support;
#[path = "dpdk/table.rs"]
mod table;

use std::process::ExitCode;

use row::{Comparison, Row, groups};
use support::backend::{Backend, Measurement};
use support::driver::{Driver, Traffic};
use support::{Outcome, option, require};
use table::{Group, Table};

struct Settings {
    rounds: usize,
    seconds: f64,
    device_core: usize,
    driver_core: usize,
}

fn main() -> ExitCode {
    support::run(|| {
        let settings = Settings {
            rounds: option("--rounds", 3)?,
            seconds: option("--seconds", 1.0)?,
            device_core: option("--device-core", 0)?,
            driver_core: option("--driver-core", 1)?,
        };
        require::dpdk(512)?;
        let rows = Row::chosen(&option("--rows", String::new())?)?;
        let stand_in: String = option("--driver", String::new())?;
        let mut table = Table::default();
        for (traffic, rows) in groups(&rows) {
            let compared = rows
                .into_iter()
                .map(|row| Comparison::of(row, &stand_in))
                .collect::<Outcome<Vec<_>>>()?;
            let drivers: Vec<&Driver> = compared.iter().flat_map(Comparison::drivers).collect();
            let rounds = measure(traffic, &drivers, &settings)?;
            table.add(&Group { compared, rounds })?;
        }
        table.print();
        Ok(())
    })
}

/// Measures all drivers with the same traffic, once in each round.
fn measure(
    traffic: Traffic,
    drivers: &[&Driver],
    settings: &Settings,
) -> Outcome<Vec<Vec<Measurement>>> {
    let mut rounds = Vec::new();
    let count = settings.rounds.max(1);
    for round in 0..count {
        let mut backend = Backend::start(traffic, settings.device_core)?;
        let mut results = vec![None; drivers.len()];
        for turn in 0..drivers.len() {
            let index = (round + turn) % drivers.len();
            let (core, seconds) = (settings.driver_core, settings.seconds);
            results[index] = Some(backend.measure(drivers[index], core, seconds)?);
        }
        backend.quit()?;
        let results: Vec<Measurement> = results.into_iter().flatten().collect();
        let progress = drivers.iter().zip(&results);
        let progress =
            progress.map(|(driver, result)| format!("{} {:.2}", driver.name(), result.rate / 1e6));
        let progress: Vec<String> = progress.collect();
        let name = row::name(traffic);
        println!(
            "{name} round {}/{count}, Mpps: {}",
            round + 1,
            progress.join("  ")
        );
        rounds.push(results);
    }
    Ok(rounds)
}
