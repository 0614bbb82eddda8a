//! Back-pressure: senders on a proxy offer more than the queue takes.
//!
//! ```sh
//! cargo bench --bench backpressure
//! cargo bench --bench backpressure -- --rounds 5 --plot docs/backpressure.svg
//! ```
//!
//! The device takes 100 000 packets in a second, 64 at a time. On the proxy 1, 4 or 32 senders
//! together produce 10 times as many, each at its own steady rate. A sender has room for one burst of
//! 32; what it produces while that is full is lost with the sender, and never offered. It offers its
//! burst; when some of it is refused it asks to be told, and waits. Under `first` the stack
//! tells only one; the others are on their own, and try again after `--retry` microseconds, as a
//! program would by a timer. Nothing else makes a sender try.
//!
//! - *goodput*: packets that the device took, of those it could have taken.
//! - *fairness*: Jain's index over the packets that the stack accepted from each sender; 1 is equal.
//! - *wake-ups*: notices, and timers that made a sender try, for each packet sent.
//! - *wait*: from a refusal until the stack accepts something of the same sender again.
//! - *memory*: packet slots of the proxy in use, the most that was seen; and how much the peak of
//!   the process's resident memory grew during the measurement (Linux: VmHWM).
//!
//! Then the same with 1, 10 and 100 times what the device takes, for the memory; and a device
//! that takes as much as it can, for the number of credits: goodput, and the time from a send to
//! the device by Little's law (packets under way / rate).
//!
//! Options: `--rounds N` (3), `--seconds S` per measurement (0.4), `--retry MICROSECONDS`
//! (1000), `--plot FILE` (target/backpressure.svg).

mod support;

use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use support::inline::{InlineStack, config};
use support::senders::{Senders, Tally};
use support::stats::Summary;
use support::{Outcome, option, plot};
use virtroupe::TxReadyPolicy;
use virtroupe::driver::embedded::SourceConfig;

/// What the device takes, in packets a second.
const RATE: f64 = 100_000.0;
const SENDERS: [usize; 3] = [1, 4, 32];
const POLICIES: [(&str, TxReadyPolicy); 3] = [
    ("first", TxReadyPolicy::First),
    ("all", TxReadyPolicy::All),
    ("fair", TxReadyPolicy::Fair),
];
const CREDITS: [u32; 6] = [32, 64, 128, 256, 512, 1024];
const WARM_UP: Duration = Duration::from_millis(100);

/// What is measured.
#[derive(Clone, Copy)]
struct Case {
    policy: TxReadyPolicy,
    senders: usize,
    /// What the senders produce, in packets a second.
    load: f64,
    /// What the device takes; `None` is as much as it can.
    rate: Option<f64>,
    credits: u32,
}

/// And what came out.
#[derive(Clone, Default)]
struct Measured {
    /// Packets a second that the device took.
    goodput: f64,
    fairness: f64,
    wake_ups: f64,
    /// The 99th percentile, in microseconds.
    wait: f64,
    /// Offered to the stack, in packets a second.
    offered: f64,
    /// Packet slots in use.
    slots: f64,
    /// Growth of the process, in KiB.
    growth: f64,
    /// Packets under way.
    under_way: f64,
}

fn main() -> ExitCode {
    support::run(|| {
        let rounds: usize = option("--rounds", 3)?;
        let seconds = Duration::from_secs_f64(option("--seconds", 0.4)?);
        let retry = Duration::from_micros(option("--retry", 1000)?);
        let plot = option("--plot", String::from("target/backpressure.svg"))?;
        System::new().block_on(async {
            let bench = Bench {
                rounds,
                seconds,
                retry,
            };
            let overload = bench.overload().await?;
            bench.memory().await?;
            bench.credits().await?;
            if !plot.is_empty() {
                std::fs::write(&plot, draw(&overload))?;
                println!("plot written to {plot}");
            }
            print_ratio(&overload)
        })
    })
}

struct Bench {
    rounds: usize,
    seconds: Duration,
    retry: Duration,
}

/// The medians of one case.
type Row = (usize, &'static str, Measured);

impl Bench {
    /// Policies against senders.
    async fn overload(&self) -> Outcome<Vec<Row>> {
        let cases: Vec<_> = SENDERS
            .iter()
            .flat_map(|senders| POLICIES.map(|(name, policy)| (*senders, name, policy)))
            .collect();
        let credits = config(2).poll.credits;
        let case = |(senders, _, policy): (usize, &str, TxReadyPolicy)| Case {
            policy,
            senders,
            load: 10.0 * RATE,
            rate: Some(RATE),
            credits,
        };
        let results = self.measure_all(cases.iter().copied().map(case)).await?;
        println!(
            "10 times what the device takes, {credits} credits; medians of {}",
            self.rounds
        );
        println!(
            "{:>7} {:>6} {:>9} {:>9} {:>16} {:>14} {:>7} {:>12}",
            "senders",
            "policy",
            "goodput",
            "fairness",
            "wake-ups/packet",
            "p99 wait, us",
            "slots",
            "growth, KiB"
        );
        let rows: Vec<Row> = cases
            .into_iter()
            .zip(results)
            .map(|((senders, name, _), result)| (senders, name, result))
            .collect();
        for (senders, name, result) in &rows {
            println!(
                "{senders:>7} {name:>6} {:>9.3} {:>9.3} {:>16.4} {:>14.0} {:>7.0} {:>12.0}",
                result.goodput / RATE,
                result.fairness,
                result.wake_ups,
                result.wait,
                result.slots,
                result.growth
            );
        }
        Ok(rows)
    }

    /// Memory against the offered load.
    async fn memory(&self) -> Outcome<()> {
        let loads = [1.0, 10.0, 100.0];
        let credits = config(2).poll.credits;
        let cases = loads.map(|times| Case {
            policy: TxReadyPolicy::Fair,
            senders: 4,
            load: times * RATE,
            rate: Some(RATE),
            credits,
        });
        let results = self.measure_all(cases.into_iter()).await?;
        println!("\nmemory against load; fair, 4 senders");
        println!(
            "{:>6} {:>18} {:>9} {:>7} {:>12}",
            "load", "offered, packets/s", "goodput", "slots", "growth, KiB"
        );
        for (times, result) in loads.iter().zip(&results) {
            println!(
                "{times:>5}x {:>18.0} {:>9.3} {:>7.0} {:>12.0}",
                result.offered,
                result.goodput / RATE,
                result.slots,
                result.growth
            );
        }
        Ok(())
    }

    /// Goodput and latency against credits.
    async fn credits(&self) -> Outcome<()> {
        let cases = CREDITS.map(|credits| Case {
            policy: TxReadyPolicy::Fair,
            senders: 4,
            load: 1e9,
            rate: None,
            credits,
        });
        let results = self.measure_all(cases.into_iter()).await?;
        println!("\ncredits; fair, 4 senders, a device without a limit");
        println!(
            "{:>7} {:>13} {:>10} {:>13} {:>16}",
            "credits", "goodput, Mpps", "under way", "us to device", "wake-ups/packet"
        );
        for (credits, result) in CREDITS.iter().zip(&results) {
            println!(
                "{credits:>7} {:>13.2} {:>10.0} {:>13.0} {:>16.4}",
                result.goodput / 1e6,
                result.under_way,
                result.under_way / result.goodput * 1e6,
                result.wake_ups
            );
        }
        Ok(())
    }

    /// The medians of all cases, which are measured in turns.
    async fn measure_all(&self, cases: impl Iterator<Item = Case>) -> Outcome<Vec<Measured>> {
        let cases: Vec<Case> = cases.collect();
        let mut results = vec![Vec::new(); cases.len()];
        for _ in 0..self.rounds.max(1) {
            for (case, results) in cases.iter().zip(&mut results) {
                results.push(self.measure(*case).await?);
            }
        }
        Ok(results.iter().map(|results| medians(results)).collect())
    }

    async fn measure(&self, case: Case) -> Outcome<Measured> {
        let mut config = config(2);
        config.poll.credits = case.credits;
        config.poll.tx_ready = case.policy;
        let inline = InlineStack::start(config, SourceConfig::default(), case.rate).await?;
        let InlineStack { stack, device } = inline;
        let (senders, retry) = (case.senders, self.retry);
        let load = case.load / case.senders as f64;
        let started = stack.run_on(1, move |local| async move {
            Senders::start(&local, senders, load, retry).await
        });
        let senders = started.await??;
        tokio::time::sleep(WARM_UP).await;
        senders.begin();
        let before = (device.stats().received.frames, Instant::now());
        let resident = support::memory::reset_peak()?;
        let (mut slots, mut under_way, mut samples) = (0, 0, 0);
        while before.1.elapsed() < self.seconds {
            tokio::time::sleep(self.seconds / 20).await;
            let stats = stack.stats().await?;
            let proxy = stats.cpus.get(1).ok_or("the proxy is gone")?;
            let queue = proxy.virtual_queue.ok_or("it has no virtual queue")?;
            slots = slots.max(proxy.pool_size - proxy.pool_free);
            under_way += queue.credits - queue.credits_free;
            samples += 1;
        }
        let after = (device.stats().received.frames, Instant::now());
        let tallies = senders.end().await?;
        let growth = support::memory::peak()?.saturating_sub(resident);
        stack.shutdown().await;
        let seconds = (after.1 - before.1).as_secs_f64();
        let total = Tally::sum(&tallies);
        Ok(Measured {
            goodput: (after.0 - before.0) as f64 / seconds,
            fairness: Tally::fairness(&tallies),
            wake_ups: total.wake_ups as f64 / total.accepted.max(1) as f64,
            wait: total.waits.value_at_quantile(0.99) as f64 / 1e3,
            offered: total.offered as f64 / seconds,
            slots: slots as f64,
            growth: growth as f64,
            under_way: f64::from(under_way as u32) / f64::from(samples.max(1)),
        })
    }
}

fn medians(results: &[Measured]) -> Measured {
    let median = |part: fn(&Measured) -> f64| {
        Summary::of(results.iter().map(part)).map_or(0.0, |summary| summary.median)
    };
    Measured {
        goodput: median(|one| one.goodput),
        fairness: median(|one| one.fairness),
        wake_ups: median(|one| one.wake_ups),
        wait: median(|one| one.wait),
        offered: median(|one| one.offered),
        slots: median(|one| one.slots),
        growth: median(|one| one.growth),
        under_way: median(|one| one.under_way),
    }
}

/// The least ratio of the goodput with `fair` to that of the best policy.
fn print_ratio(rows: &[Row]) -> Outcome<()> {
    let ratio = SENDERS.iter().map(|senders| {
        let of = |wanted: Option<&str>| {
            rows.iter()
                .filter(|(count, name, _)| {
                    count == senders && wanted.is_none_or(|one| one == *name)
                })
                .map(|(.., result)| result.goodput)
                .fold(0.0, f64::max)
        };
        of(Some("fair")) / of(None)
    });
    let least = ratio.fold(f64::INFINITY, f64::min);
    println!("\nratio fair {least:.3}");
    Ok(())
}

/// The first table as a picture.
fn draw(rows: &[Row]) -> String {
    let panel = |title: &str, part: &dyn Fn(&Measured) -> f64| {
        let bars = rows.iter().map(|(_, _, result)| part(result));
        plot::Panel {
            title: title.into(),
            bars: bars.collect(),
        }
    };
    let panels = [
        panel("goodput, of what the device takes", &|one| {
            one.goodput / RATE
        }),
        panel("fairness (Jain)", &|one| one.fairness),
        panel("wake-ups for each packet", &|one| one.wake_ups),
        panel("99th percentile of the wait, ms", &|one| one.wait / 1e3),
    ];
    let groups = SENDERS.map(|count| match count {
        1 => Rc::from("1 sender"),
        many => Rc::from(format!("{many} senders")),
    });
    plot::bars(&panels, &groups, &POLICIES.map(|(name, _)| name))
}
