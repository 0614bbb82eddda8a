//! UDP echo on actors.

#[path = "common/device.rs"]
mod device;
#[path = "common/report.rs"]
mod report;

use std::net::Ipv4Addr;

use actix::prelude::*;
use clap::Parser;
use virtroupe::{BindError, DeviceUrl, LocalStack, Supervisor, UdpReceived, UdpSocket};

#[derive(Parser)]
#[command(about = "Answers UDP datagrams with themselves")]
struct Options {
    #[command(flatten)]
    device: device::DeviceArgs,
    /// The UDP port
    #[arg(long, default_value_t = 7)]
    port: u16,
    /// Stop after so many seconds; run until interrupted by default
    #[arg(long)]
    seconds: Option<u64>,
}

/// Sends each datagram back.
struct Echo(UdpSocket);

impl Echo {
    async fn start_on(local: LocalStack, port: u16) -> Result<Addr<Echo>, BindError> {
        let socket = local.bind_udp((Ipv4Addr::UNSPECIFIED, port).into()).await?;
        Ok(Echo(socket).start())
    }
}

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

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    report::logs();
    let options = Options::parse();
    let config = options
        .device
        .to_config(DeviceUrl::Tap("virtroupe0".into()))?;
    let stack = Supervisor::start(config).await?;
    let port = options.port;
    let _echo = stack
        .run_on(0, move |local| Echo::start_on(local, port))
        .await??;
    report::wait(options.seconds).await;
    let stats = stack.stats().await?;
    report::busy_cycles(&stats);
    println!("{stats}");
    stack.shutdown().await;
    Ok(())
}
