//! The stack against the real world: the Linux kernel over TAP, and DPDK over vhost-user.
//!
//! What a test needs of the machine is checked first. If something is missing, the test is
//! shown as ignored, with the reason and what to do; with `VIRTROUPE_REQUIRE=all` in the
//! environment it fails instead. Without root, the program enters a user namespace where the
//! system allows it. Each test has network namespaces of its own.
//!
//! Time budget of this suite: 240 s on two cores, in a debug build.

mod real {
    pub mod cpus;
    pub mod dpdk;
    pub mod environment;
    pub mod family;
    pub mod host;
    pub mod http;
    pub mod icmp;
    pub mod ipv6;
    pub mod neighbors;
    pub mod offloads;
    pub mod paths;
    pub mod program;
    pub mod receive;
    pub mod rings;
    pub mod stream;
    pub mod super_segments;
    pub mod tap;
    pub mod tcp;
}
#[allow(dead_code, reason = "the tests over the embedded device use all of it")]
#[path = "stack/support.rs"]
mod probe;
mod support;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    // First of all: a user namespace can only be entered while there is one thread.
    let privileges = support::privileges::acquire();
    let arguments = Arguments::from_args();
    let suite = support::Suite::new(&arguments, privileges);
    let tests = [
        real::environment::tests(&suite),
        real::tap::tests(&suite),
        real::receive::tests(&suite),
        real::neighbors::tests(&suite),
        real::icmp::tests(&suite),
        real::offloads::tests(&suite),
        real::ipv6::tests(&suite),
        real::paths::tests(&suite),
        real::program::tests(&suite),
        real::dpdk::tests(&suite),
        real::rings::tests(&suite),
        real::tcp::tests(&suite),
        real::cpus::tests(&suite),
        real::http::tests(&suite),
        real::super_segments::tests(&suite),
    ];
    let tests = tests.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, tests).exit_code()
}
