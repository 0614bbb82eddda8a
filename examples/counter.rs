//! Counts the packets that a device delivers: the smallest program on the packet API, and the
//! receiver of `cargo bench --bench dpdk`.
//!
//! ```sh
//! cargo run --release --example counter -- --vhost-user /tmp/vhost.sock
//! ```

#[path = "common/cost.rs"]
mod cost;
#[path = "common/device.rs"]
mod device;
#[path = "common/exit.rs"]
mod exit;
#[path = "common/packets.rs"]
mod packets;
#[path = "common/report.rs"]
mod report;
#[path = "common/serve.rs"]
mod serve;

use std::process::ExitCode;

use actix::prelude::*;
use clap::Parser;
use exit::Outcome;
use virtroupe::{Capture, Filter, LocalStack, PacketSocket, PacketsReceived, Supervisor};

#[derive(Parser)]
#[command(about = "Counts the packets that a device delivers")]
struct Options {
    #[command(flatten)]
    device: device::DeviceArgs,
    /// Stop after so many seconds; run until interrupted by default
    #[arg(long)]
    seconds: Option<u64>,
}

/// Counts frames and drops them.
struct Counter {
    local: LocalStack,
    socket: Option<PacketSocket>,
    packets: u64,
}

impl Actor for Counter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.socket = Some(
            self.local
                .subscribe(Filter::All, Capture::Take, ctx.address()),
        );
    }
}

impl Handler<PacketsReceived> for Counter {
    type Result = ();

    fn handle(&mut self, received: PacketsReceived, _: &mut Self::Context) {
        self.packets += received.frames.len() as u64;
    }
}

#[derive(Message)]
#[rtype(result = "u64")]
struct Count;

impl Handler<Count> for Counter {
    type Result = u64;

    fn handle(&mut self, _: Count, _: &mut Self::Context) -> u64 {
        self.packets
    }
}

#[actix::main]
async fn main() -> ExitCode {
    exit::code(run(Options::parse()).await)
}

async fn run(options: Options) -> Outcome<ExitCode> {
    report::logs();
    let config = packets::config(&options.device)?;
    let stack = Supervisor::start(config).await?;
    let counters = stack
        .run_on_each(|local| async {
            Counter {
                local,
                socket: None,
                packets: 0,
            }
            .start()
        })
        .await?;
    serve::until_end(&stack, report::wait(options.seconds), async |_| {}).await?;
    let mut packets = 0;
    for counter in counters {
        packets += counter.send(Count).await?;
    }
    let stats = stack.stats().await?;
    cost::busy_cycles(&stats, stats.received_frames());
    println!("delivered_packets {packets}");
    stack.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
