//! TCP (RFC 9293): a sans-IO engine for many connections.

pub mod checksum;
pub mod config;
pub mod congestion;
mod connection;
mod cookies;
mod counters;
mod engine;
pub mod header;
mod listeners;
pub mod payload;
mod reassembly;
mod receiver;
mod records;
mod recovery;
mod rtt;
mod scoreboard;
mod secrets;
pub mod segment;
mod send_queue;
mod sender;
pub mod sequence;
mod slab;
mod state;
mod timers;
mod wheel;

pub use config::{Keepalive, ListenOptions, TcpConfig, TcpOptions, WindowScaling};
pub use congestion::{AckSample, Congestion, CongestionControl};
pub use counters::{ConnectionStats, TcpCounters, TcpUsage};
pub use engine::{ConnectionId, ListenerId, TcpEngine, TcpEvent};
pub use header::{HeaderOptions, SackBlock, SackBlocks, TcpFlags, TcpHeader, Timestamps};
pub use payload::{Attach, SharedPayload};
pub use segment::{Flow, Outgoing, Segment, TcpIcmp, TcpIcmpKind};
pub use sequence::{SeqNumber, WindowScale};
pub use state::{ListenError, Readiness, TcpConnectError, TcpError, TcpState, WriteError};
