//! The tests of TCP over IPv6: see `tests/tcp/main.rs`. Those of `hosts` are of both families.

#[path = "../tcp/attacks.rs"]
mod attacks;
#[path = "../tcp/bed.rs"]
mod bed;
#[path = "../tcp/conformance.rs"]
mod conformance;
#[path = "../tcp/flow.rs"]
mod flow;
#[path = "../tcp/lifecycles.rs"]
mod lifecycles;
#[path = "../tcp/network.rs"]
mod network;
#[path = "../tcp/pacing.rs"]
mod pacing;
#[path = "../tcp/paths.rs"]
mod paths;
#[path = "../tcp/recovery.rs"]
mod recovery;
#[path = "../tcp/spurious.rs"]
mod spurious;
#[path = "../tcp/states.rs"]
mod states;
#[path = "../tcp/streams.rs"]
mod streams;
#[path = "../tcp/support.rs"]
mod support;

/// The family that these tests use.
pub const FAMILY: support::Family = support::Family::V6;
