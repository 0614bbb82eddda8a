//! Counts the packets that a device delivers: the smallest program on the packet API, and the
//! receiver of `cargo bench --bench dpdk`.
//!
//! ```sh
//! cargo run --release --example counter -- --vhost-user /tmp/vhost.sock
//! ```

#[path = "common/device.rs"]
mod device;
#[path = "common/report.rs"]
mod report;

use actix::prelude::*;
use clap::Parser;
use virtroupe::{
    Capture, DeviceUrl, Filter, LocalStack, PacketSocket, PacketsReceived, Supervisor,
};

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
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    report::logs();
    let options = Options::parse();
    let mut config = options
        .device
        .to_config(DeviceUrl::Tap("virtroupe0".into()))?;
    if config.host.addresses.is_empty() && config.host.owned.is_empty() {
        // The packet API needs no address, but a host has one; this one is for documentation.
        config = config.address("192.0.2.1/24".parse()?);
        config.options.mac = config.options.mac.or(Some("02:00:00:00:00:01".parse()?));
    }
    let stack = Supervisor::start(config).await?;
    let counter = stack
        .run_on(0, |local| async {
            Counter {
                local,
                socket: None,
                packets: 0,
            }
            .start()
        })
        .await?;
    report::wait(options.seconds).await;
    let packets = counter.send(Count).await?;
    report::busy_cycles(&stack.stats().await?);
    println!("delivered_packets {packets}");
    stack.shutdown().await;
    Ok(())
}
