//! Virtroupe as a driver under test: examples of this package, run as a user runs them.

use super::Outcome;
use super::driver::{Driver, Task, build_example};

/// Where testpmd's generators send to; see `backend::generator`. They answer no ARP.
const ADDRESSING: [&str; 8] = [
    "--mac",
    "00:01:02:03:04:01",
    "--ip",
    "10.253.0.0/22",
    "--neighbor",
    "10.254.0.0=00:01:02:03:04:00",
    "--port",
    "1001",
];

/// Which rings the driver asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rings {
    /// What the stack chooses by itself.
    Auto,
    Split,
    Packed,
}

/// What of the device's the driver uses for what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    /// All there is, as a user has it who says nothing.
    All,
    /// Nothing.
    None,
}

/// The driver for a task: `echo_server` over the UDP API, or over the packet API an actor that
/// counts, or one that sends.
pub fn driver(task: Task, rings: Rings, offloads: Offloads) -> Outcome<Driver> {
    let (name, format) = match (rings, offloads) {
        (Rings::Auto, _) => ("virtroupe", "auto"),
        (Rings::Split, Offloads::All) => ("virtroupe-split", "split"),
        (Rings::Split, Offloads::None) => ("virtroupe-split-plain", "split"),
        (Rings::Packed, Offloads::All) => ("virtroupe-packed", "packed"),
        (Rings::Packed, Offloads::None) => ("virtroupe-packed-plain", "packed"),
    };
    let mut arguments: Vec<String> = ["--vhost-user", "{socket}", "--ring-format", format]
        .map(String::from)
        .into();
    if offloads == Offloads::None {
        arguments.push("--no-transmit-offloads".into());
    }
    let example = match task {
        Task::Echo => {
            arguments.extend(ADDRESSING.map(String::from));
            "echo_server"
        }
        Task::Receive => "counter",
        Task::Transmit => {
            arguments.extend(["--length", "{length}"].map(String::from));
            arguments.extend(["--to", "00:01:02:03:04:00"].map(String::from));
            "generator"
        }
    };
    Ok(Driver::Program {
        name,
        program: build_example(example)?,
        arguments,
    })
}
