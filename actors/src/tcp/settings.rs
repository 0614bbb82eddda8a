//! The `[tcp]` section of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use virtroupe_wire::tcp::TcpConfig;

/// Whether there is TCP, and the limits of each cpu's engine: see [`TcpConfig`] for what happens
/// at each. The defaults are those of `TcpConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcpSettings {
    /// Whether there is TCP; true by default. Without it segments are answered by "protocol
    /// unreachable".
    pub enabled: bool,
    /// Connections of a cpu that are neither half-open nor in TIME-WAIT.
    pub connections: usize,
    /// Half-open connections of a cpu; beyond it SYN cookies are sent.
    pub half_open: usize,
    /// Connections of a cpu in TIME-WAIT.
    pub time_wait: usize,
    /// How long TIME-WAIT lasts, in seconds.
    pub time_wait_s: u64,
    /// Bytes of memory that received data may hold on a cpu.
    pub memory: usize,
    /// Listeners of a cpu.
    pub listeners: usize,
    /// Answers outside of any connection that wait to be sent.
    pub replies: usize,
    /// The first and the last port from which connections are made.
    pub ephemeral_ports: (u16, u16),
    /// How often a SYN-ACK is sent again.
    pub syn_ack_retries: u8,
}

impl Default for TcpSettings {
    fn default() -> Self {
        let config = TcpConfig::default();
        TcpSettings {
            enabled: true,
            connections: config.connections,
            half_open: config.half_open,
            time_wait: config.time_wait,
            time_wait_s: config.time_wait_time.as_secs(),
            memory: config.memory,
            listeners: config.listeners,
            replies: config.replies,
            ephemeral_ports: config.ephemeral_ports,
            syn_ack_retries: config.syn_ack_retries,
        }
    }
}

impl TcpSettings {
    /// The engine's settings on a link that carries IP packets of `mtu` bytes.
    pub(crate) fn config(&self, mtu: u16) -> TcpConfig {
        TcpConfig {
            mtu,
            connections: self.connections,
            half_open: self.half_open,
            time_wait: self.time_wait,
            time_wait_time: Duration::from_secs(self.time_wait_s),
            memory: self.memory,
            listeners: self.listeners,
            replies: self.replies,
            ephemeral_ports: self.ephemeral_ports,
            syn_ack_retries: self.syn_ack_retries,
            // The reader that is told of the end runs before the next turn of the loop.
            delay_end_acks: true,
        }
    }
}
