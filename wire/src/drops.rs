//! Why packets are dropped: one list for the whole system.
//!
//! Every packet that is neither delivered nor sent is counted under exactly one
//! [`DropReason`], whichever crate dropped it. The list lives here because this is the crate
//! that all others depend on.

use std::ops::{AddAssign, Index};

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// Why a packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order in which statistics list them.
            pub const ALL: &[DropReason] = &[$(DropReason::$variant),*];

            /// The name under which statistics list the reason: `snake_case`, stable.
            pub const fn name(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $name,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// A frame is shorter than its headers, or a length field contradicts another.
    Malformed => "malformed",
    /// An IPv4, ICMP, UDP or TCP checksum is wrong.
    Checksum => "checksum",
    /// The Ethernet destination is neither ours, nor broadcast, nor a group that we are in.
    NotForOurMac => "not_for_our_mac",
    /// The IP destination is not an address of ours.
    NotForOurAddress => "not_for_our_address",
    /// The source address can not be one: broadcast, multicast, loopback, or our own.
    BadSource => "bad_source",
    /// An IPv4 option or an IPv6 routing header asks for a source route, which a host must not
    /// follow blindly.
    SourceRoute => "source_route",
    /// An IPv6 option that must not be ignored, or more extension headers than an honest sender
    /// needs.
    BadExtension => "bad_extension",
    /// No engine handles this EtherType.
    UnknownEtherType => "unknown_ethertype",
    /// No engine handles this IP protocol.
    UnknownProtocol => "unknown_protocol",
    /// No socket is bound to the destination port, and no connection or listener has it.
    NoSocket => "no_socket",
    /// An ICMP message of a type or code that is not acted upon.
    IcmpIgnored => "icmp_ignored",
    /// An ARP packet or IPv6 neighbour discovery that asks nothing of us and tells nothing that we
    /// asked for.
    ArpIgnored => "arp_ignored",
    /// A fragment overlaps another with different bytes (RFC 5722 applied to IPv4).
    FragmentOverlap => "fragment_overlap",
    /// A fragment of a datagram that did not become whole in time.
    FragmentTimeout => "fragment_timeout",
    /// A fragment beyond the memory, count or per-source limit of reassembly.
    FragmentLimit => "fragment_limit",
    /// The neighbour did not answer.
    NeighborUnreachable => "neighbor_unreachable",
    /// Too many packets wait for the same neighbour.
    NeighborQueueFull => "neighbor_queue_full",
    /// The neighbour table is full of entries that can not be evicted.
    NeighborTableFull => "neighbor_table_full",
    /// No route leads to the destination.
    NoRoute => "no_route",
    /// The datagram is longer than its protocol can carry, or than the MTU where it must not
    /// be fragmented.
    TooBig => "too_big",
    /// An answer that the engine wanted to send (ICMP, ARP, neighbour discovery) exceeded its rate limit.
    RateLimited => "rate_limited",
    /// A TCP segment outside of the receive window, or with nothing in it that is new.
    OutOfWindow => "out_of_window",
    /// A TCP segment that acknowledges what was never sent, or acknowledged long ago.
    BadAck => "bad_ack",
    /// A TCP segment with control bits that do not fit the state of its connection.
    BadFlags => "bad_flags",
    /// A TCP segment whose timestamp is older than one seen before, or missing (RFC 7323).
    OldTimestamp => "old_timestamp",
    /// Received data of a TCP connection, or of all, hold as much memory as they may.
    ReceiveBufferFull => "receive_buffer_full",
    /// Too many connections, half-open ones, or ones that wait to be accepted.
    BacklogFull => "backlog_full",
    /// A TCP segment for a listener of which not every cpu knows yet: it is not answered, and comes
    /// again.
    ListenerNotReady => "listener_not_ready",
    /// No packet memory was left.
    PoolEmpty => "pool_empty",
    /// The transmit ring, or the queue in front of it, is full.
    RingFull => "ring_full",
    /// The virtual queue has no credit left.
    NoCredit => "no_credit",
    /// The cpu that owns the flow did not take its packets for longer than the stack may wait.
    LaneFull => "lane_full",
    /// The cpu that owns the flow has ended.
    CpuGone => "cpu_gone",
    /// The mailbox of the receiving actor stayed full for longer than the stack may wait.
    MailboxFull => "mailbox_full",
    /// The receiving actor is gone.
    ReceiverGone => "receiver_gone",
    /// The socket was closed while the packet was under way.
    SocketClosed => "socket_closed",
    /// The device was lost or reset while it held the packet.
    DeviceLost => "device_lost",
    /// The engine panicked while it processed the packet.
    EnginePanic => "engine_panic",
    /// The stack was shutting down.
    Shutdown => "shutdown",
}

/// A count for each [`DropReason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drops {
    counts: [u64; DropReason::ALL.len()],
}

impl Default for Drops {
    fn default() -> Self {
        Drops {
            counts: [0; DropReason::ALL.len()],
        }
    }
}

impl Drops {
    /// Counts `packets` more under `reason`; saturates.
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        if let Some(count) = self.counts.get_mut(reason as usize) {
            *count = count.saturating_add(packets);
        }
    }

    /// The count under `reason`.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.counts.get(reason as usize).copied().unwrap_or(0)
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.counts
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The reasons that were counted at least once, with their counts.
    pub fn nonzero(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|reason| (*reason, self.get(*reason)))
            .filter(|(_, count)| *count > 0)
    }
}

impl Index<DropReason> for Drops {
    type Output = u64;

    fn index(&self, reason: DropReason) -> &u64 {
        self.counts.get(reason as usize).unwrap_or(&0)
    }
}

impl AddAssign<&Drops> for Drops {
    fn add_assign(&mut self, other: &Drops) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
    }
}
