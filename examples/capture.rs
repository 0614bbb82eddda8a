//! Writes the frames that a device delivers to pcapng files, which tshark and Wireshark read.
//!
//! ```sh
//! cargo run --release --example capture -- --tap vt0 --filter 'udp port 53' --write dns.pcapng
//! ```

#[path = "common/device.rs"]
mod device;
#[path = "common/exit.rs"]
mod exit;
#[path = "common/filter.rs"]
mod filter;
#[path = "common/packets.rs"]
mod packets;
#[path = "common/pcapng.rs"]
mod pcapng;
#[path = "common/progress.rs"]
mod progress;
#[path = "common/report.rs"]
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use actix::prelude::*;
use clap::Parser;
use exit::Outcome;
use pcapng::{Captured, Flush, Writer};
use virtroupe::{Capture, Filter, LocalStack, PacketSocket, PacketsReceived, Supervisor};

/// Writes the frames that a device delivers to pcapng files.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    device: device::DeviceArgs,
    /// The file
    #[arg(long, value_name = "FILE", default_value = "capture.pcapng")]
    write: PathBuf,
    /// Begin a new file, with a number in its name, after so many MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..1 << 40))]
    rotate_mib: Option<u64>,
    /// Which frames: all, arp, ip, ip6, icmp, tcp, udp, [tcp|udp] port N, host IP; join by 'and'
    #[arg(long, default_value = "all", value_parser = filter::parse)]
    filter: Filter,
    /// Take the frames from the stack, which then answers none of them
    #[arg(long)]
    take: bool,
    /// Stop after so many seconds; run until interrupted by default
    #[arg(long)]
    seconds: Option<u64>,
}

/// Lives on the stack's cpu: stamps each burst with the time, and hands it to the writer.
struct Stamper {
    /// Open as long as the actor lives.
    _socket: PacketSocket,
    writer: Addr<Writer>,
    dropped: u64,
}

impl Stamper {
    fn start_on(
        local: &LocalStack,
        filter: Filter,
        capture: Capture,
        writer: Addr<Writer>,
    ) -> Addr<Self> {
        Stamper::create(|ctx| Stamper {
            _socket: local.subscribe(filter, capture, ctx.address()),
            writer,
            dropped: 0,
        })
    }
}

impl Actor for Stamper {
    type Context = Context<Self>;
}

impl Handler<PacketsReceived> for Stamper {
    type Result = ();

    fn handle(&mut self, received: PacketsReceived, _: &mut Self::Context) {
        let frames = received.frames;
        let count = frames.len() as u64;
        let at = SystemTime::now();
        if self.writer.try_send(Captured { at, frames }).is_err() {
            self.dropped += count;
        }
    }
}

/// Asks how many frames the writer had no room for.
#[derive(Message)]
#[rtype(result = "u64")]
struct Dropped;

impl Handler<Dropped> for Stamper {
    type Result = u64;

    fn handle(&mut self, _: Dropped, _: &mut Self::Context) -> u64 {
        self.dropped
    }
}

#[actix::main]
async fn main() -> ExitCode {
    exit::code(run(Options::parse()).await)
}

async fn run(options: Options) -> Outcome<ExitCode> {
    report::logs();
    let config = packets::config(&options.device)?;
    let writer = Writer::create(options.write, options.rotate_mib.map(|mib| mib << 20))?;
    let writer = Writer::start_in_arbiter(&Arbiter::new().handle(), |_| writer);
    let stack = Supervisor::start(config).await?;
    let capture = match options.take {
        true => Capture::Take,
        false => Capture::Copy,
    };
    let (filter, sink) = (options.filter, writer.clone());
    let start = move |local: LocalStack| {
        let stamper = Stamper::start_on(&local, filter.clone(), capture, sink.clone());
        async { stamper }
    };
    let stampers = stack.run_on_each(start).await?;
    let end = report::wait(options.seconds);
    tokio::pin!(end);
    let mut is_over = false;
    while !is_over {
        tokio::select! {
            () = &mut end => is_over = true,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let mut dropped = 0;
        for stamper in &stampers {
            dropped += stamper.send(Dropped).await?;
        }
        progress::show(&format!(
            "{}; {dropped} dropped",
            writer.send(Flush).await??
        ));
    }
    print!("\n{}", stack.stats().await?);
    stack.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
