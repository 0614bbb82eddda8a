//! What the engine and its connections count.

use std::time::Duration;

use super::state::TcpState;

/// Counts of a [`TcpEngine`](super::TcpEngine) since its start. They only grow.
///
/// ```text
/// rx_segments == accepted + the total of the engine's drops
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TcpCounters {
    /// Segments that arrived.
    pub rx_segments: u64,
    /// Segments that were acted upon; each of the others has a drop reason.
    pub accepted: u64,
    /// Bytes that were put in order for the application.
    pub rx_bytes: u64,
    /// Segments that were sent, of every kind; one that is split later counts once.
    pub tx_segments: u64,
    /// Bytes of payload in them, retransmissions included.
    pub tx_bytes: u64,
    /// Segments without payload that were sent only to acknowledge.
    pub acks_sent: u64,
    /// Segments that were sent again.
    pub retransmits: u64,
    /// Bytes of payload in them.
    pub retransmitted_bytes: u64,
    /// Retransmission timeouts.
    pub timeouts: u64,
    /// Recoveries that began because of loss.
    pub recoveries: u64,
    /// Recoveries and timeouts that turned out to be needless, and whose effect on the congestion
    /// window was undone (RFC 3522, RFC 5682, RFC 3708).
    pub undone: u64,
    /// Tail loss probes.
    pub tail_probes: u64,
    /// Probes of closed windows.
    pub window_probes: u64,
    /// Keepalive probes.
    pub keepalive_probes: u64,
    /// Duplicates that peers reported (RFC 2883).
    pub duplicates_reported: u64,
    /// Reductions because of ECN.
    pub ecn_reductions: u64,
    /// Challenge ACKs that were sent (RFC 5961).
    pub challenge_acks: u64,
    /// Challenge ACKs that were not sent because of their limit.
    pub challenge_acks_limited: u64,
    /// Resets that were sent.
    pub resets_sent: u64,
    /// Resets that ended a connection.
    pub resets_received: u64,
    /// Attempts to connect.
    pub connects: u64,
    /// Connections that were opened, by either side.
    pub opened: u64,
    /// Connections that ended, however.
    pub closed: u64,
    /// Half-open records that were made.
    pub half_opened: u64,
    /// Half-open records that were given up.
    pub half_open_failed: u64,
    /// SYN cookies that were sent.
    pub cookies_sent: u64,
    /// SYN cookies that came back and opened a connection.
    pub cookies_accepted: u64,
    /// Connections that ended without TIME-WAIT, because too many were in it.
    pub time_wait_overflows: u64,
    /// Path MTUs that were lowered, by ICMP or because of a black hole.
    pub path_mtu_lowered: u64,
}

/// How many connections there are, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TcpUsage {
    /// Connections that have more than a record.
    pub connections: usize,
    /// Half-open records.
    pub half_open: usize,
    /// TIME-WAIT records.
    pub time_wait: usize,
    /// Listeners.
    pub listeners: usize,
    /// Bytes of memory that received data hold.
    pub receive_memory: usize,
    /// Bytes of the tables of connections and records, without what they point to.
    pub table_memory: usize,
}

/// What is known about one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Its state.
    pub state: TcpState,
    /// The smoothed round-trip time; zero before it was measured.
    pub rtt: Duration,
    /// Its variation.
    pub rtt_variation: Duration,
    /// The least round-trip time that was measured.
    pub least_rtt: Duration,
    /// The retransmission timeout.
    pub timeout: Duration,
    /// The congestion window in bytes.
    pub congestion_window: u64,
    /// The slow start threshold in bytes.
    pub slow_start_threshold: u64,
    /// Bytes under way.
    pub in_flight: u64,
    /// Bytes that the peer can take.
    pub peer_window: u64,
    /// Bytes that we can take.
    pub receive_window: u64,
    /// Payload bytes in a full segment that we send.
    pub segment_size: u16,
    /// Bytes that were written and are not acknowledged.
    pub unacknowledged: u64,
    /// Bytes that were acknowledged.
    pub acknowledged: u64,
    /// Bytes that arrived in order.
    pub received: u64,
    /// Segments that were sent again.
    pub retransmits: u32,
    /// Retransmission timeouts.
    pub timeouts: u32,
    /// Recoveries and timeouts that turned out to be needless, and were undone.
    pub undone: u32,
    /// Records of what is under way and pieces that wait for others: what a peer can make us keep.
    pub records: usize,
    /// Whether ECN is used.
    pub ecn: bool,
    /// Whether SACK is used.
    pub sack: bool,
    /// Whether timestamps are used.
    pub timestamps: bool,
}
