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
#[path = "common/listen.rs"]
mod listen;
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

use std::process::ExitCode;

use actix::System;
use clap::Parser;
use exit::Outcome;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use virtroupe::{Config, Stack, Supervisor, TcpStream};

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
    #[command(flatten)]
    sandbox: sandbox::SandboxArgs,
}

/// Serves a connection on its cpu, until the client ends it.
async fn serve(stream: TcpStream) {
    let peer = stream.peer_addr();
    let connection =
        http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(http::answer));
    if let Err(error) = connection.await {
        tracing::debug!(?peer, %error, "the connection ended early");
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
    let hint = format!("curl http://{}/", sandbox::STACK);
    let start = async |stack: &Stack| start(stack, options.port).await;
    options.sandbox.serve(&hint, start).await
}

/// Starts to serve on each cpu of the stack: each connection in a task of its own.
async fn start(stack: &Stack, port: u16) -> Outcome<()> {
    let serve = |stream| drop(actix::spawn(serve(stream)));
    Ok(listen::on_each(stack, port, serve).await?)
}
