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

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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
    /// Serve at 10.0.0.2 in a network of its own, and open a shell in it; needs no root
    #[arg(long, conflicts_with_all = ["device", "config", "ip", "mac", "neighbor", "cpus", "queues", "core", "seconds"])]
    sandbox: bool,
    /// What to run in the sandbox instead of a shell; its exit code becomes ours
    #[arg(last = true, requires = "sandbox", value_name = "COMMAND")]
    command: Vec<String>,
}

/// Sends each datagram back. TCP is echoed beside it, by a task for each connection.
struct Echo(UdpSocket);

impl Echo {
    /// One for each family: a socket is of one.
    async fn start_on(local: LocalStack, port: u16) -> Result<[Addr<Echo>; 2], BindError> {
        let start = async |any: IpAddr| {
            let socket = local.bind_udp_per_cpu((any, port).into()).await?;
            Ok::<_, BindError>(Echo(socket).start())
        };
        tcp_echo::start_on(&local, port).await?;
        let ipv4 = start(Ipv4Addr::UNSPECIFIED.into()).await?;
        Ok([ipv4, start(Ipv6Addr::UNSPECIFIED.into()).await?])
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
        self.0.reply_all(&mut received.datagrams);
    }
}

fn main() -> ExitCode {
    exit::code(run(Options::parse()))
}

fn run(options: Options) -> Outcome<ExitCode> {
    report::logs();
    if options.sandbox {
        // First of all: a namespace can only be entered while there is one thread.
        sandbox::enter()?;
    }
    System::new().block_on(async {
        if options.sandbox {
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
    let _echo = start_echo(&stack, options.port).await?;
    show::until(&stack, report::wait(options.seconds)).await?;
    let stats = stack.stats().await?;
    cost::busy_cycles(&stats, stats.received_frames());
    println!("{stats}");
    stack.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

async fn serve_sandbox(options: &Options) -> Outcome<ExitCode> {
    let stack = sandbox::stack().await?;
    let _echo = start_echo(&stack, options.port).await?;
    let (address, port) = (sandbox::STACK, options.port);
    let hint = format!("ping {address}, or nc -u {address} {port}");
    let code = sandbox::run(&options.command, &hint).await?;
    stack.shutdown().await;
    Ok(code)
}

async fn serve_demo(options: &Options) -> Outcome<ExitCode> {
    let (server, client) = link::start(&options.device.cpus).await?;
    let _echo = start_echo(&server, options.port).await?;
    let end = report::wait(options.seconds);
    let measured = demo::measure(&server, &client, options.port, end).await;
    client.shutdown().await;
    server.shutdown().await;
    measured.map(|()| ExitCode::SUCCESS)
}

/// Starts echo actors on each cpu of the stack.
async fn start_echo(stack: &Stack, port: u16) -> Outcome<Vec<[Addr<Echo>; 2]>> {
    let started = stack.run_on_each(move |local| Echo::start_on(local, port));
    Ok(started.await?.into_iter().collect::<Result<_, _>>()?)
}
