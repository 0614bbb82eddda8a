//! The TCP engine: two of them over a simulated link, and one against crafted segments.
//!
//! These tests are two programs, of the same files: this one runs them over IPv4, and `tcp_ipv6`
//! over IPv6.

mod attacks;
mod bed;
mod conformance;
mod flow;
mod hosts;
mod lifecycles;
mod network;
mod pacing;
mod paths;
mod recovery;
mod spurious;
mod states;
mod streams;
mod support;
mod unreachable;

/// The family that these tests use.
pub const FAMILY: support::Family = support::Family::V4;
