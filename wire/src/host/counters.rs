//! What a host counts.

/// Counts of a [`Host`](super::Host) since its start. They only grow, except `held`.
///
/// Two sums hold exactly between any two calls of the host:
///
/// ```text
/// rx_frames + looped + split == delivered + consumed + rx_dropped + held
/// drops.total()      == rx_dropped + tx_dropped + closed
/// ```
///
/// Each received frame (and each packet from the host to itself) is counted once: a datagram
/// that arrives in n fragments is n - 1 frames consumed and one delivered. Where several hosts share
/// their addresses it is n consumed, and one handed over, which its owner receives. A train of n
/// datagrams in one frame, for which there is a socket, is n - 1 split and n delivered or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HostCounters {
    /// Frames that were passed to `receive`.
    pub rx_frames: u64,
    /// Bytes in them, Ethernet headers included.
    pub rx_bytes: u64,
    /// Packets from the host to itself that were handled, without a frame.
    pub looped: u64,
    /// Datagrams that came behind another one in the same frame (USO).
    pub split: u64,
    /// Datagrams that were put into a socket's queue, and segments that were kept for TCP.
    pub delivered: u64,
    /// Frames that the engine used up itself: ARP that was answered or learned from, echo
    /// requests and neighbour solicitations, ICMP errors passed on, fragments merged with others or exact duplicates.
    pub consumed: u64,
    /// Received frames and looped packets that were dropped, each under a reason in the drops.
    pub rx_dropped: u64,
    /// Fragments that wait for the rest of their datagram, now.
    pub held: u64,

    /// Frames that were put into the transmit queue. One that is to be cut counts once: what is
    /// made of it, whoever cuts it, is no part of this.
    pub tx_frames: u64,
    /// Bytes in them, Ethernet headers included.
    pub tx_bytes: u64,
    /// Those of them that ask to be cut (TSO, USO, UFO), by the device or in software.
    pub tx_segmented: u64,
    /// Datagrams that were refused, and packets that were dropped on their way out: after
    /// waiting for a neighbour, or answers of the engine (ARP, ICMP). Each has a reason.
    pub tx_dropped: u64,
    /// Datagrams that were delivered to a socket and dropped when it was closed.
    pub closed: u64,

    /// UDP datagrams that were accepted from sockets.
    pub udp_sent: u64,
    /// Errors that were delivered to sockets.
    pub udp_errors: u64,
    /// Echo requests that were answered.
    pub echo_replies: u64,
    /// ICMP errors that were sent.
    pub icmp_errors_sent: u64,
    /// ICMP errors that were received and concerned a socket, or that a connection believed.
    pub icmp_errors_received: u64,
    /// ARP requests that were sent.
    pub arp_requests_sent: u64,
    /// ARP replies that were sent.
    pub arp_replies_sent: u64,
    /// IPv6 neighbour advertisements that were sent, each the answer to a solicitation.
    pub neighbor_advertisements_sent: u64,
    /// Neighbours that answered, or changed their Ethernet address.
    pub neighbors_learned: u64,
    /// Neighbours that did not answer.
    pub neighbors_failed: u64,
    /// Frames that were handed over by a host that is one of several: reassembled datagrams and
    /// packets to ourselves. Each is received again, by its owner, and counted there.
    pub handed_over: u64,
    /// Datagrams that became whole out of fragments.
    pub reassembled: u64,
    /// Datagrams that were sent in fragments.
    pub fragmented: u64,
}
