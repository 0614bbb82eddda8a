//! TCP: Virtroupe's beside smoltcp's, and below hyper beside the kernel's.
//!
//! ```sh
//! cargo bench --bench tcp
//! cargo bench --bench tcp -- --rounds 10 --seconds 2 --task bulk
//! ```
//!
//! The client has core 0 and the server core 1, and both are said to be how busy. Every server of a
//! task is measured in each round, and ratios are taken within a round.
//!
//! - `bulk`: one connection over TAP with an MTU of 1500; the client is Linux. Ours uses what the
//!   device offers: TSO, and large receive. smoltcp (newest release, 1 MiB of buffers, Reno, the
//!   fastest of its three; checksums of TCP left to the kernel) is measured as it drives a TAP
//!   interface, and also with its feature `segmentation-offload` on a device written for that here,
//!   which may also hand it merged segments.
//! - `pair`: one connection between two of our stacks over the in-memory link.
//! - `http`: requests on keep-alive connections to hyper, on our streams over TAP and on tokio's
//!   sockets of the kernel over veth. Both servers have one thread.
//! - `connections`: connect, 64 bytes there and back, close: from our own engine as the client,
//!   over a cable in memory, since a Linux client would be the limit. 64, 1024 and 4096 are under
//!   way at once; and 64, while others are open and idle: 1000 and 10 000. smoltcp has a quarter more
//!   sockets than are under way, and at least 64 more, as it has no backlog and refuses what finds
//!   none; with more it was no faster.
//!
//! Options: `--rounds N` (5), `--seconds S` per measurement (1), `--task NAME` (all).
//! Needs root.

#[path = "tcp/bulk.rs"]
mod bulk;
#[path = "tcp/cable.rs"]
mod cable;
#[path = "tcp/connections.rs"]
mod connections;
#[path = "tcp/generator.rs"]
mod generator;
#[path = "tcp/http.rs"]
mod http;
#[path = "tcp/link.rs"]
mod link;
#[path = "tcp/load.rs"]
mod load;
#[path = "tcp/pair.rs"]
mod pair;
#[path = "tcp/smoltcp_stack.rs"]
mod smoltcp_stack;
mod support;
#[path = "tcp/table.rs"]
mod table;
#[path = "tcp/tap.rs"]
mod tap;
#[path = "tcp/virtroupe_stack.rs"]
mod virtroupe_stack;
#[path = "tcp/window.rs"]
mod window;

use std::process::{Command, ExitCode};

use bulk::Direction;
use link::Link;
use support::driver::Program;
use support::{Outcome, option, require};
use table::Table;
use window::{Measured, SERVER_CORE};

/// Connections to the HTTP servers.
const HTTP_CONNECTIONS: [usize; 2] = [32, 256];
/// Where the rate of connections is measured: how many are under way at once, and how many others
/// are open meanwhile, and idle.
const CONNECTIONS: [(usize, usize); 5] = [(64, 0), (1024, 0), (4096, 0), (64, 1000), (64, 10_000)];

/// Measures one round of a task; the second argument is for how many seconds each time.
type Measure = fn(usize, &str) -> Outcome<Table>;

/// The programs that run on either side are this one with a subcommand.
fn main() -> ExitCode {
    support::run(|| match std::env::args().nth(1).as_deref() {
        Some("bulk-client") => bulk::client(Direction::from_option("--server")?),
        Some("bulk-smoltcp") => smoltcp_stack::serve_bulk(Direction::from_option("--server")?),
        Some("bulk-virtroupe") => virtroupe_stack::serve_bulk(Direction::from_option("--server")?),
        Some("http-client") => load::client(),
        Some("http-kernel") => http::serve_kernel(),
        Some("http-virtroupe") => virtroupe_stack::serve_http(),
        Some("connections-smoltcp") => connections::smoltcp(),
        Some("connections-virtroupe") => connections::virtroupe(),
        Some("connections-inline") => connections::inline(),
        Some("pair") => pair::measure(),
        _ => compare(),
    })
}

fn compare() -> Outcome<()> {
    require::namespaces()?;
    let task: String = option("--task", "all".into())?;
    let tasks: [(&str, Measure); 4] = [
        ("bulk", measure_bulk),
        ("pair", measure_pair),
        ("http", measure_http),
        ("connections", measure_connections),
    ];
    let chosen = |name: &str| task == "all" || task == name;
    if !tasks.iter().any(|(name, _)| chosen(name)) {
        return Err(format!("--task {task}: bulk, pair, http, connections or all").into());
    }
    let rounds: usize = option("--rounds", 5)?;
    let seconds: f64 = option("--seconds", 1.0)?;
    let mut ratios = Vec::new();
    for (name, measure) in tasks.into_iter().filter(|(name, _)| chosen(name)) {
        let mut all = Table::default();
        for round in 0..rounds.max(1) {
            all.add(measure(round, &seconds.to_string())?);
            eprintln!("{name} round {}/{rounds}", round + 1);
        }
        println!("\n{all}");
        ratios.extend(all.ratios());
    }
    ratios.iter().for_each(|ratio| println!("{ratio}"));
    Ok(())
}

/// A program of ours with arguments that are separated by spaces.
fn with(mut command: Command, arguments: &str) -> Command {
    command.args(arguments.split_whitespace());
    command
}

/// Measures with a client while a server runs on the other core.
fn serve(link: &Link, server: &str, client: &str) -> Outcome<Measured> {
    let this = std::env::current_exe()?;
    let command = with(link.server_command(&this), server);
    let mut server = Program::start("the server", command, SERVER_CORE)?;
    let measured = Measured::by(with(link.client_command(&this), client));
    server.check_alive()?;
    measured
}

fn measure_bulk(round: usize, seconds: &str) -> Outcome<Table> {
    let mut table = Table::default();
    for direction in Direction::ALL {
        let name = direction.name();
        let servers = [
            ("virtroupe", "bulk-virtroupe"),
            ("smoltcp", "bulk-smoltcp --congestion reno"),
            (
                "smoltcp, segmentation",
                "bulk-smoltcp --congestion reno --segmentation yes",
            ),
        ];
        let client = format!("bulk-client --server {name} --seconds {seconds}");
        for turn in 0..servers.len() {
            let (label, program) = servers[(round + turn) % servers.len()];
            let server = format!("{program} --server {name}");
            let measured = serve(&Link::tap()?, &server, &client)?;
            table.row(&format!("tcp-{name}"), label, "Gbit/s", measured, 1e9);
        }
    }
    Ok(table)
}

fn measure_pair(_: usize, seconds: &str) -> Outcome<Table> {
    let this = Command::new(std::env::current_exe()?);
    let measured = Measured::of(with(this, &format!("pair --seconds {seconds}")))?;
    let mut table = Table::default();
    table.row("pair", "virtroupe to virtroupe", "Gbit/s", measured, 1e9);
    Ok(table)
}

fn measure_http(round: usize, seconds: &str) -> Outcome<Table> {
    let mut table = Table::default();
    for connections in HTTP_CONNECTIONS {
        let client = format!("http-client --connections {connections} --seconds {seconds}");
        for turn in 0..2 {
            let (label, measured) = match (round + turn) % 2 {
                0 => (
                    "virtroupe",
                    serve(&Link::tap()?, "http-virtroupe", &client)?,
                ),
                _ => ("kernel", serve(&Link::veth()?, "http-kernel", &client)?),
            };
            let task = format!("http-{connections}");
            table.row(&task, label, "thousand/s", measured, 1e3);
        }
    }
    Ok(table)
}

fn measure_connections(round: usize, seconds: &str) -> Outcome<Table> {
    let mut table = Table::default();
    for (under_way, idle) in CONNECTIONS {
        let common = format!("--connections {under_way} --idle {idle} --seconds {seconds}");
        let sockets = idle + under_way + (under_way / 4).max(64);
        let programs = [
            ("virtroupe", format!("connections-virtroupe {common}")),
            (
                "smoltcp",
                format!("connections-smoltcp {common} --sockets {sockets}"),
            ),
        ];
        for turn in 0..programs.len() {
            let (label, program) = &programs[(round + turn) % programs.len()];
            let this = Command::new(std::env::current_exe()?);
            let measured = Measured::of(with(this, program))?;
            let task = match idle {
                0 => format!("tcp-connections-{under_way}"),
                _ => format!("tcp-connections-{under_way}-beside-{idle}"),
            };
            table.row(&task, label, "thousand/s", measured, 1e3);
        }
    }
    Ok(table)
}
