//! What the hop costs: echo on a proxy beside echo on the cpu that owns the queue.
//!
//! ```sh
//! cargo bench --bench proxy
//! cargo bench --bench proxy -- --rounds 10 --seconds 2
//! ```
//!
//! The packet source runs inline, on the thread of the cpu that owns the queue, and sends
//! 64-byte datagrams of 256 flows as fast as they are taken. In `direct` that cpu echoes them
//! itself; in `proxy` it hands all of them to a second cpu on the other core, whose echoes come
//! back through its virtual queue. Both are measured in every round, in turns, with the same
//! limit on a burst.
//!
//! Busy time is what the poll loops count: from the start of a turn that found work to the start
//! of the next, with the device and the application in it. The cost of the hop is the busy time
//! of both cores for a packet, less that of the one core in `direct`.
//!
//! `copied` is the share of the frames that were copied to the heap on the way in, because too much
//! of the pool was under way.
//!
//! Options: `--rounds N` (5), `--seconds S` per measurement (1), `--credits N`, `--lane-frames N`
//! and `--pool-frames N` (the defaults).

mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use actix::prelude::*;
use support::cores::cycles_per_nano;
use support::inline::{InlineStack, PORT, config, datagrams};
use support::stats::Summary;
use support::{Outcome, option};
use virtroupe::actors::poll::PollSettings;
use virtroupe::driver::embedded::SourceConfig;
use virtroupe::{BindError, DeviceOptions, Stats, UdpReceived, UdpSocket};

const BURSTS: [usize; 4] = [1, 8, 32, 64];
const FLOWS: u16 = 256;
const WARM_UP: Duration = Duration::from_millis(200);

/// Sends each datagram back.
struct Echo(UdpSocket);

impl Actor for Echo {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.0.deliver_to(ctx.address());
    }
}

impl Handler<UdpReceived> for Echo {
    type Result = ();

    fn handle(&mut self, mut received: UdpReceived, _: &mut Self::Context) {
        self.0.reply(received.datagrams.drain(..));
    }
}

/// One measurement.
#[derive(Clone, Copy)]
struct Measured {
    /// Echoes that the device got, in a second.
    rate: f64,
    /// Busy nanoseconds for each of them: of the cpu that owns the queue, and of the proxy.
    owner: f64,
    proxy: f64,
    /// Received frames that were copied, of all.
    copied: f64,
}

/// What can be set.
#[derive(Clone, Copy)]
struct Settings {
    seconds: Duration,
    credits: u32,
    lane_frames: u32,
    pool_frames: u32,
}

fn main() -> ExitCode {
    support::run(|| {
        let rounds = option("--rounds", 5)?;
        let poll = PollSettings::default();
        let settings = Settings {
            seconds: Duration::from_secs_f64(option("--seconds", 1.0)?),
            credits: option("--credits", poll.credits)?,
            lane_frames: option("--lane-frames", poll.lane_frames)?,
            pool_frames: option("--pool-frames", DeviceOptions::default().pool_frames)?,
        };
        let mut results: [[Vec<Measured>; 2]; BURSTS.len()] = Default::default();
        System::new().block_on(async {
            for round in 0..rounds {
                for (row, burst) in results.iter_mut().zip(BURSTS) {
                    for turn in 0..2 {
                        let variant = (round + turn) % 2;
                        let cpus = variant as u16 + 1;
                        row[variant].push(measure(cpus, burst, settings).await?);
                    }
                }
                println!("round {}/{rounds}", round + 1);
            }
            Outcome::Ok(())
        })?;
        print_table(&results)
    })
}

async fn measure(cpus: u16, burst: usize, settings: Settings) -> Outcome<Measured> {
    let mut config = config(cpus);
    config.poll.burst = burst;
    config.poll.bursts_per_poll = 1;
    config.poll.credits = settings.credits;
    config.poll.lane_frames = settings.lane_frames;
    config.options.pool_frames = settings.pool_frames;
    let source = SourceConfig {
        frames: datagrams(FLOWS),
        ..SourceConfig::default()
    };
    let InlineStack { stack, device } = InlineStack::start(config, source, None).await?;
    let echo = stack.run_on(cpus - 1, |local| async move {
        let socket = local.bind_udp(([0, 0, 0, 0], PORT).into()).await?;
        Ok::<_, BindError>(Echo(socket).start())
    });
    let _echo = echo.await??;
    tokio::time::sleep(WARM_UP).await;
    let before = (stack.stats().await?, device.stats(), Instant::now());
    tokio::time::sleep(settings.seconds).await;
    let after = (stack.stats().await?, device.stats(), Instant::now());
    stack.shutdown().await;
    let packets = (after.1.received.frames - before.1.received.frames) as f64;
    let busy = |cpu: usize| {
        let nanos = |stats: &Stats| stats.cpus.get(cpu).map_or(0, |cpu| cpu.poll.busy_nanos);
        (nanos(&after.0) - nanos(&before.0)) as f64 / packets
    };
    let copied = |stats: &Stats| stats.cpus.iter().map(|cpu| cpu.copied_frames).sum::<u64>();
    Ok(Measured {
        rate: packets / (after.2 - before.2).as_secs_f64(),
        owner: busy(0),
        proxy: busy(1),
        copied: (copied(&after.0) - copied(&before.0)) as f64 / packets,
    })
}

fn print_table(results: &[[Vec<Measured>; 2]; BURSTS.len()]) -> Outcome<()> {
    let cycles = cycles_per_nano()?;
    println!("\nmedian [min, max]; cycles a packet: of the owner of the queue + of the proxy");
    println!(
        "{:>5} {:>19} {:>19} {:>19} {:>13} {:>17} {:>25} {:>6}",
        "burst",
        "direct, Mpps",
        "proxy, Mpps",
        "ratio",
        "direct cycles",
        "proxy cycles",
        "hop, ns a packet",
        "copied"
    );
    let mut last = 0.0;
    for (burst, [direct, proxy]) in BURSTS.iter().zip(results) {
        let summary = |figures: Vec<f64>| Summary::of(figures).ok_or("no round was measured");
        let rate = |of: &[Measured]| summary(of.iter().map(|one| one.rate / 1e6).collect());
        let cost = |of: &[Measured], part: fn(&Measured) -> f64| {
            summary(of.iter().map(|one| part(one) * cycles).collect())
        };
        let pairs = || direct.iter().zip(proxy);
        let ratio = summary(
            pairs()
                .map(|(direct, proxy)| proxy.rate / direct.rate)
                .collect(),
        )?;
        let hop = pairs().map(|(direct, proxy)| proxy.owner + proxy.proxy - direct.owner);
        let both = format!(
            "{:.0} + {:.0}",
            cost(proxy, |one| one.owner)?.median,
            cost(proxy, |one| one.proxy)?.median
        );
        println!(
            "{burst:>5} {:>19} {:>19} {:>19} {:>13.0} {both:>17} {:>25} {:>6.2}",
            format!("{:.2}", rate(direct)?),
            format!("{:.2}", rate(proxy)?),
            format!("{ratio:.2}"),
            cost(direct, |one| one.owner)?.median,
            format!("{:.1}", summary(hop.collect())?),
            summary(proxy.iter().map(|one| one.copied).collect())?.max,
        );
        last = ratio.median;
    }
    println!("\nratio proxy {last:.3}");
    Ok(())
}
