//! UDP and TCP echo on actors.
//!
//! ```sh
//! cargo run --release --example echo_server                  # a demo, and its own client
//! cargo run --release --example echo_server -- --cpus 3 --queues 2
//! cargo run --release --example echo_server -- --sandbox     # a shell to ping it from
//! cargo run --release --example echo_server -- --tap vt0 --ip 10.0.0.2/24
//! cargo run --release --example echo_server -- --vhost-user /tmp/vhost.sock --ip 10.0.0.2/24
//! cargo run --release --example echo_server -- --tap vt0 --ip fd00::2/64 --neighbor fd00::1=02:00:00:00:00:01
//! ```

#[path = "common/client.rs"]
mod client;
#[path = "common/cost.rs"]
mod cost;
#[path = "common/cpus.rs"]
mod cpus;
#[path = "common/demo.rs"]
mod demo;
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
#[path = "common/report.rs"]
mod report;
#[path = "common/sandbox.rs"]
mod sandbox;
#[path = "common/serve.rs"]
mod serve;
#[path = "common/show.rs"]
mod show;
#[path = "common/table.rs"]
mod table;
#[path = "common/tcp_echo.rs"]
mod tcp_echo;

use std::process::ExitCode;

use actix::prelude::*;
use clap::Parser;
use exit::Outcome;
use virtroupe::{BindError, Config, LocalStack, Stack, Supervisor, UdpReceived, UdpSocket};

/// Answers UDP datagrams with themselves, and TCP streams.
///
/// Without a device, this is a demo: two stacks in one process, one of which is the client.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    device: device::DeviceArgs,
    /// The port
    #[arg(long, default_value_t = 7)]
    port: u16,
    /// Stop after so many seconds; run until interrupted by default
    #[arg(long)]
    seconds: Option<u64>,
    #[command(flatten)]
    sandbox: sandbox::SandboxArgs,
}

/// Sends each datagram back. TCP is echoed beside it, by a task for each connection.
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
        self.0.reply_all(&mut received.datagrams);
    }
}

fn main() -> ExitCode {
    exit::code(run(Options::parse()))
}

fn run(options: Options) -> Outcome<ExitCode> {
    report::logs();
    if options.sandbox.sandbox {
        // First of all: a namespace can only be entered while there is one thread.
        sandbox::enter()?;
    }
    System::new().block_on(async {
        if options.sandbox.sandbox {
            serve_sandbox(&options).await
        } else if let Some(config) = options.device.to_config()? {
            serve_device(&options, config).await
        } else {
            serve_demo(&options).await
        }
    })
}

async fn serve_device(options: &Options, config: Config) -> Outcome<ExitCode> {
    let stack = Supervisor::start(config).await?;
    start_echo(&stack, options.port).await?;
    show::until(&stack, report::wait(options.seconds)).await?;
    let stats = stack.stats().await?;
    cost::busy_cycles(&stats, stats.received_frames());
    println!("{stats}");
    stack.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

async fn serve_sandbox(options: &Options) -> Outcome<ExitCode> {
    let (address, port) = (sandbox::STACK, options.port);
    let hint = format!("ping {address}, or nc {address} {port}, with -u or without");
    let start = async |stack: &Stack| start_echo(stack, port).await;
    options.sandbox.serve(&hint, start).await
}

async fn serve_demo(options: &Options) -> Outcome<ExitCode> {
    let start = async |stack: &Stack| start_echo(stack, options.port).await;
    let end = report::wait(options.seconds);
    demo::run(&options.device.cpus, start, options.port, end).await
}

/// Starts to echo on each cpu of the stack.
async fn start_echo(stack: &Stack, port: u16) -> Outcome<()> {
    listen::on_each(stack, port, tcp_echo::start).await?;
    let start = |_, sockets: Vec<UdpSocket>| {
        for socket in sockets {
            Echo(socket).start();
        }
    };
    Ok(stack
        .open_on_each(move |local| bind(local, port), start)
        .await?)
}

/// A socket for each family.
async fn bind(local: LocalStack, port: u16) -> Result<Vec<UdpSocket>, BindError> {
    let mut sockets = Vec::new();
    for any in listen::ANY {
        sockets.push(local.bind_udp_per_cpu((any, port).into()).await?);
    }
    Ok(sockets)
}
