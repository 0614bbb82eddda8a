//! TCP streams on actors: source, sink and echo, as server and as client.
//!
//! ```sh
//! cargo run --release --example tcp_stream                   # a demo: two stacks in one process
//! cargo run --release --example tcp_stream -- --cpus 3 --queues 2 --connections 8
//! cargo run --release --example tcp_stream -- --tap vt0 --ip 10.0.0.2/24 --role echo
//! cargo run --release --example tcp_stream -- --tap vt0 --ip 10.0.0.2/24 \
//!     --connect 10.0.0.1:5001 --role source --bytes 1000000000
//! ```

#[path = "common/connections.rs"]
mod connections;
#[path = "common/cpus.rs"]
mod cpus;
#[path = "common/device.rs"]
mod device;
#[path = "common/exit.rs"]
mod exit;
#[path = "common/link.rs"]
mod link;
#[path = "common/listen.rs"]
mod listen;
#[path = "common/live.rs"]
mod live;
#[path = "common/pattern.rs"]
mod pattern;
#[path = "common/report.rs"]
mod report;
#[path = "common/serve.rs"]
mod serve;
#[path = "common/stream.rs"]
mod stream;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use actix::System;
use clap::Parser;
use connections::sooner;
use exit::Outcome;
use stream::{Meter, Role, Tally, Transfer};
use virtroupe::{Stack, Supervisor};

/// Sends and receives TCP streams, and shows their rates.
///
/// Without a device, this is a demo: two stacks in one process, and streams between them.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    device: device::DeviceArgs,
    /// What to do with each connection
    #[arg(long, value_enum, default_value_t = Role::Sink)]
    role: Role,
    /// Connect to this server, instead of being one
    #[arg(long, value_name = "IP:PORT")]
    connect: Option<SocketAddr>,
    /// How often to connect, on each cpu
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// The TCP port of the server
    #[arg(long, default_value_t = 5001)]
    port: u16,
    /// How much to write to each connection; until the end by default
    #[arg(long)]
    bytes: Option<u64>,
    /// Check what is received: byte i of a stream must be i % 251
    #[arg(long)]
    verify: bool,
    /// Stop after so many seconds; by default when interrupted, or when all that was connected is done
    #[arg(long)]
    seconds: Option<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    report::logs();
    exit::code(System::new().block_on(run(&options)))
}

async fn run(options: &Options) -> Outcome<ExitCode> {
    let tally = Arc::new(Tally::default());
    let transfer = Transfer {
        role: options.role,
        bytes: options.bytes,
        verify: options.verify,
    };
    let Some(config) = options.device.to_config()? else {
        return demo(options, transfer, &tally).await;
    };
    let stack = Supervisor::start(config).await?;
    if let Some(server) = options.connect {
        let done =
            connections::connect(&stack, server, options.connections, transfer, &tally).await?;
        show(
            &stack,
            &tally,
            sooner(done.wait(), report::wait(options.seconds)),
        )
        .await?;
    } else {
        connections::listen(&stack, options.port, transfer, &tally).await?;
        show(&stack, &tally, report::wait(options.seconds)).await?;
    }
    let outcome = tally.outcome();
    stack.shutdown().await;
    outcome
}

/// The server does what was asked for, and the client its opposite.
async fn demo(options: &Options, transfer: Transfer, tally: &Arc<Tally>) -> Outcome<ExitCode> {
    let (server, client) = link::start(&options.device.cpus).await?;
    connections::listen(&server, options.port, transfer, tally).await?;
    let address = (link::SERVER, options.port).into();
    let (opposite, others) = (transfer.opposite(), Arc::new(Tally::default()));
    let done =
        connections::connect(&client, address, options.connections, opposite, &others).await?;
    // What the client has written is under way when it is done.
    let done = async {
        done.wait().await;
        tally.idle().await;
    };
    show(&server, tally, sooner(done, report::wait(options.seconds))).await?;
    let outcome = others.outcome().and(tally.outcome());
    client.shutdown().await;
    server.shutdown().await;
    outcome
}

/// Shows the rates and what each cpu does, once a second until `end`; then the statistics.
async fn show(stack: &Stack, tally: &Tally, end: impl Future<Output = ()>) -> Outcome<()> {
    let (mut live, mut cpus) = (live::Live::new(), cpus::CpuTable::default());
    let (mut meter, begin) = (Meter::default(), Instant::now());
    serve::until_end(stack, end, async |interval| {
        if let Ok(stats) = stack.stats().await {
            let mut lines = cpus.lines(stats, interval);
            lines.push(meter.line(tally, interval));
            live.show(&lines);
        }
    })
    .await?;
    println!("{}", stack.stats().await?);
    println!("{}", Meter::default().line(tally, begin.elapsed()));
    Ok(())
}
