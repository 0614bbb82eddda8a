//! The round trip of a single datagram: an echo by an actor beside an echo over a kernel's socket.
//!
//! ```sh
//! cargo bench --bench latency
//! ```
//!
//! One datagram is under way at a time. Two clients measure the time from sending it until its
//! echo is back:
//!
//! - `socket`: a blocking UDP socket of the kernel on core 0. To the stack its datagrams go through
//!   a TAP interface and the thread of the embedded device; to the kernel's echo through a veth
//!   pair into another network namespace. Send, wake-up and receive of the client are in both.
//! - `rings`: the thread of an embedded device on core 0, which polls and stands for a vhost-user
//!   backend: what lies between it and the stack are the rings in shared memory. No kernel and no
//!   client are in this, so it is what driver, stack and actor take.
//!
//! The echo has core 1. It polls, or it sleeps until it is woken: ours with
//! `poll.spin_us` at its greatest and at 0, the kernel's by a socket that does not block and by
//! one that does.
//!
//! Options: `--rounds N` (3), `--seconds S` per measurement (1), `--client-core N` (0),
//! `--echo-core N` (1). Needs root, `ip`, and two cores.

#[path = "latency/client.rs"]
mod client;
#[path = "latency/kernel.rs"]
mod kernel;
#[path = "latency/probe.rs"]
mod probe;
#[path = "latency/stack.rs"]
mod stack;
mod support;

use std::process::ExitCode;
use std::time::Duration;

use actix::System;
use hdrhistogram::Histogram;
use support::stats::Summary;
use support::{Outcome, option, require};

/// Where everybody runs, and for how long.
#[derive(Debug, Clone, Copy)]
struct Settings {
    rounds: usize,
    time: Duration,
    client_core: usize,
    echo_core: usize,
}

/// Whose echo is measured by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    /// The stack, by a socket over TAP.
    Stack,
    /// The kernel, by a socket over veth.
    Kernel,
    /// The stack, by the device's thread.
    Rings,
}

/// How the echo waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Polls,
    Sleeps,
}

const ROWS: [(&str, Road, Waiting); 6] = [
    ("stack, polls", Road::Stack, Waiting::Polls),
    ("kernel, polls", Road::Kernel, Waiting::Polls),
    ("stack, sleeps", Road::Stack, Waiting::Sleeps),
    ("kernel, sleeps", Road::Kernel, Waiting::Sleeps),
    ("rings, polls", Road::Rings, Waiting::Polls),
    ("rings, sleeps", Road::Rings, Waiting::Sleeps),
];
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// What one measurement found.
#[derive(Debug)]
struct RoundTrips {
    /// Nanoseconds.
    times: Histogram<u64>,
    /// Echoes that did not come back in time: within a second, or on the rings 100 ms.
    lost: u64,
}

impl RoundTrips {
    /// Nothing yet. Times up to a second are told apart, to three digits.
    pub fn new() -> Self {
        RoundTrips {
            times: Histogram::new_with_max(1_000_000_000, 3).expect("a valid range"),
            lost: 0,
        }
    }

    /// A quantile in microseconds.
    fn micros(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1e3
    }
}

fn main() -> ExitCode {
    support::run(|| {
        if std::env::args().nth(1).as_deref() == Some(kernel::SUBCOMMAND) {
            return kernel::echo();
        }
        let settings = Settings {
            rounds: option("--rounds", 3)?,
            time: Duration::from_secs_f64(option("--seconds", 1.0)?),
            client_core: option("--client-core", 0)?,
            echo_core: option("--echo-core", 1)?,
        };
        require::namespaces()?;
        // First of all: a namespace is entered by one thread, and inherited by those it starts.
        client::enter_namespace()?;
        let mut rounds = Vec::new();
        for round in 1..=settings.rounds.max(1) {
            rounds.push(measure_all(&settings)?);
            println!("round {round}/{} is done", settings.rounds.max(1));
        }
        print(&rounds)
    })
}

/// One measurement for each row.
fn measure_all(settings: &Settings) -> Outcome<Vec<RoundTrips>> {
    let measure = |(_, road, waiting)| match road {
        Road::Stack => System::new().block_on(stack::over_tap(settings, waiting)),
        Road::Kernel => kernel::over_veth(settings, waiting),
        Road::Rings => System::new().block_on(stack::over_rings(settings, waiting)),
    };
    ROWS.into_iter().map(measure).collect()
}

fn print(rounds: &[Vec<RoundTrips>]) -> Outcome<()> {
    println!("\nmicroseconds, median of the rounds [min, max]");
    print!("{:15}", "echo");
    for (name, _) in QUANTILES {
        print!(" {name:>24}");
    }
    println!(" {:>10} {:>5}", "samples", "lost");
    for (row, (name, ..)) in ROWS.iter().enumerate() {
        print!("{name:15}");
        for (_, quantile) in QUANTILES {
            print!(" {:>24}", format!("{:.1}", summary(rounds, row, quantile)?));
        }
        let samples: u64 = rounds.iter().map(|round| round[row].times.len()).sum();
        let lost: u64 = rounds.iter().map(|round| round[row].lost).sum();
        println!(" {samples:>10} {lost:>5}");
    }
    println!("\nthe kernel's p50 to ours, over the same client");
    for (name, ours, kernel) in [("latency", 0, 1), ("latency-sleep", 2, 3)] {
        let pairs = rounds.iter();
        let pairs = pairs.map(|round| (round[kernel].micros(0.5), round[ours].micros(0.5)));
        let ratio = Summary::of_ratios(pairs).ok_or("no round was measured")?;
        println!("ratio {name} {:.2}", ratio.median);
    }
    Ok(())
}

fn summary(rounds: &[Vec<RoundTrips>], row: usize, quantile: f64) -> Outcome<Summary> {
    let figures = rounds.iter().map(|round| round[row].micros(quantile));
    Ok(Summary::of(figures).ok_or("no round was measured")?)
}
