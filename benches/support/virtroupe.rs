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

/// The driver for a task: `echo_server` over the UDP API, or a counting actor over the packet
/// API.
pub fn driver(task: Task) -> Outcome<Driver> {
    let mut arguments: Vec<String> = vec!["--vhost-user".into(), "{socket}".into()];
    let example = match task {
        Task::Echo => {
            arguments.extend(ADDRESSING.map(String::from));
            "echo_server"
        }
        Task::Receive => "counter",
    };
    Ok(Driver::Program {
        name: "virtroupe",
        program: build_example(example)?,
        arguments,
    })
}
