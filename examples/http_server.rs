//! HTTP on actors: hyper over TCP streams of the stack, one server on each cpu.
//!
//! ```sh
//! cargo run --release --example http_server -- --tap vt0 --ip 10.0.0.2/24
//! cargo run --release --example http_server -- --sandbox
//! cargo run --release --example http_server -- --sandbox -- curl http://10.0.0.2/
//! ```
//!
//! It answers `/` with a line of text, and `/bytes/N` with N bytes of a pattern that can be
//! checked: byte `i` is `i % 251`.

#[path = "common/cpus.rs"]
mod cpus;
#[path = "common/device.rs"]
mod device;
#[path = "common/exit.rs"]
mod exit;
#[path = "common/http.rs"]
mod http;
#[path = "common/live.rs"]
mod live;
#[path = "common/pattern.rs"]
mod pattern;
#[path = "common/report.rs"]
mod report;
#[path = "common/sandbox.rs"]
mod sandbox;
#[path = "common/serve.rs"]
mod serve;
#[path = "common/show.rs"]
mod show;

use std::net::Ipv4Addr;
use std::process::ExitCode;

use actix::System;
use clap::Parser;
use exit::Outcome;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use virtroupe::{BindError, Config, ListenOptions, LocalStack, Stack, Supervisor, TcpListener};

/// Answers HTTP requests.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    device: device::DeviceArgs,
    /// The TCP port
    #[arg(long, default_value_t = 80)]
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

/// Starts to serve on the cpu of `local`.
async fn start_on(local: LocalStack, port: u16) -> Result<(), BindError> {
    let any = (Ipv4Addr::UNSPECIFIED, port).into();
    let listener = local
        .listen_tcp_per_cpu(any, ListenOptions::default())
        .await?;
    actix::spawn(accept(listener));
    Ok(())
}

/// Serves each connection in a task of its own, on this cpu, until the stack ends.
async fn accept(listener: TcpListener) {
    while let Ok(stream) = listener.accept().await {
        let peer = stream.peer_addr();
        actix::spawn(async move {
            let connection = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(http::answer));
            if let Err(error) = connection.await {
                tracing::debug!(?peer, %error, "the connection ended early");
            }
        });
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
            return serve_sandbox(&options).await;
        }
        let config = options.device.to_config()?.ok_or(device::NO_DEVICE)?;
        serve_device(&options, config).await
    })
}

async fn serve_device(options: &Options, config: Config) -> Outcome<ExitCode> {
    let stack = Supervisor::start(config).await?;
    start(&stack, options.port).await?;
    show::until(&stack, report::wait(options.seconds)).await?;
    println!("{}", stack.stats().await?);
    stack.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

async fn serve_sandbox(options: &Options) -> Outcome<ExitCode> {
    let stack = sandbox::stack().await?;
    start(&stack, options.port).await?;
    let hint = format!("curl http://{}/", sandbox::STACK);
    let code = sandbox::run(&options.command, &hint).await?;
    stack.shutdown().await;
    Ok(code)
}

/// Starts a server on each cpu of the stack.
async fn start(stack: &Stack, port: u16) -> Outcome<()> {
    let started = stack.run_on_each(move |local| start_on(local, port));
    Ok(started.await?.into_iter().collect::<Result<_, _>>()?)
}
