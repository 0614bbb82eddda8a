//! TCP: Virtroupe's beside smoltcp's and the kernel's.

mod support;
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
#[path = "tcp/smoltcp_stack.rs"]
mod smoltcp_stack;
#[path = "tcp/tap.rs"]
mod tap;
#[path = "tcp/virtroupe_stack.rs"]
mod virtroupe_stack;
#[path = "tcp/window.rs"]
mod window;

use std::process::ExitCode;

use bulk::Direction;

/// Subcommands: the programs that run on either side of a link.
fn main() -> ExitCode {
    support::run(|| match std::env::args().nth(1).as_deref() {
        Some("bulk-client") => bulk::client(Direction::from_option("--server")?),
        Some("bulk-smoltcp") => smoltcp_stack::serve_bulk(Direction::from_option("--server")?),
        Some("bulk-virtroupe") => virtroupe_stack::serve_bulk(Direction::from_option("--server")?),
        Some("http-virtroupe") => virtroupe_stack::serve_http(),
        Some("connections-virtroupe") => connections::virtroupe(),
        Some("http-client") => load::client(),
        Some("http-kernel") => http::serve_kernel(),
        Some("connections-smoltcp") => connections::smoltcp(),
        _ => Ok(()),
    })
}
