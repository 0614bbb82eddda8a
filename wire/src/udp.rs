//! UDP (RFC 768) as applications see it: datagrams that arrive and leave, and errors.

use std::net::{IpAddr, SocketAddr};

use crate::buffer::{Buffer, Payload};
use crate::drops::DropReason;

/// Bytes in a UDP header.
pub const HEADER: usize = 8;

/// Where the checksum is in a UDP header.
pub(crate) const CHECKSUM: usize = 6;

/// The longest payload in bytes that is sent: an IPv4 packet of 65 535 bytes less its headers. IPv6
/// could carry 20 bytes more, which are received, but not sent.
pub const MAX_PAYLOAD: usize = 65_507;

/// The most datagrams in a train (see [`UdpSend::segment_size`]), as many as Linux takes
/// (`UDP_MAX_SEGMENTS`). A transmit queue that is shorter takes only as many as it is long.
pub const LONGEST_TRAIN: usize = 128;

/// Names a UDP socket of one host engine. A name is not used again after the socket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UdpSocketId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// A datagram that arrived.
///
/// In memory the payload comes first: between the addresses it would be copied together with
/// what of them is not used, from where it was just written in parts.
#[derive(Debug)]
#[repr(C)]
pub struct UdpDatagram<B> {
    /// The payload. Its headers have become headroom; it is a chain if it was reassembled, or
    /// came in several buffers. Datagrams that a device merged are separate again, and nothing is
    /// left of what it said of them.
    pub payload: B,
    /// Who sent it.
    pub source: SocketAddr,
    /// The address that the sender asked for: one of ours, a broadcast address, or a group.
    pub destination: SocketAddr,
    /// The hops that were left: TTL or hop limit.
    pub ttl: u8,
    /// The byte that holds DSCP and ECN; see [`dscp`](Self::dscp) and [`ecn`](Self::ecn).
    pub dscp_ecn: u8,
}

impl<B> UdpDatagram<B> {
    /// The differentiated services code point (RFC 2474), 0 to 63.
    pub const fn dscp(&self) -> u8 {
        self.dscp_ecn >> 2
    }

    /// The congestion notification bits (RFC 3168), 0 to 3; 3 is "congestion experienced".
    pub const fn ecn(&self) -> u8 {
        self.dscp_ecn & 3
    }
}

/// A datagram to send.
#[derive(Debug)]
pub struct UdpSend<B> {
    /// Whom it is for, of the socket's family: a host, or a broadcast address of ours, or
    /// 255.255.255.255.
    pub destination: SocketAddr,
    /// The address that it is sent from, one of ours. `None`: the socket's address, or if it
    /// has none, ours on the route. A broadcast address or group counts as `None`, so that a reply
    /// to what was sent to many can be made from what it asked for.
    pub source: Option<IpAddr>,
    /// The hops that it may take, 1 to 255. `None`: the host's setting.
    pub ttl: Option<u8>,
    /// The byte that holds DSCP (upper six bits) and ECN (lower two).
    pub dscp_ecn: u8,
    /// What it carries: 0 to 65 507 bytes. What is longer than the path's MTU goes in fragments: the
    /// device makes them if it can (`VIRTIO_NET_F_HOST_UFO`), else we do. What was said of it as a
    /// frame ([`Buffer::offload`]) is forgotten.
    pub payload: Payload<B>,
    /// Makes it a *train*: the payload is sent in datagrams of so many bytes each, the last one
    /// shorter, as with `UDP_SEGMENT` of Linux. At most [`LONGEST_TRAIN`] datagrams, none longer
    /// than the path's MTU. The device cuts them if it can (`VIRTIO_NET_F_HOST_USO`), else we do. A train is
    /// accepted or refused as a whole, and counts as one datagram.
    pub segment_size: Option<u16>,
    /// Why it was refused; set by the engine on what it gives back.
    pub refused: Option<DropReason>,
}

impl<B: Buffer> UdpSend<B> {
    /// A datagram with the default settings.
    pub fn new(destination: SocketAddr, payload: Payload<B>) -> Self {
        UdpSend {
            destination,
            source: None,
            ttl: None,
            dscp_ecn: 0,
            payload,
            segment_size: None,
            refused: None,
        }
    }

    /// The datagram back to its sender, from the address that the sender asked for, in the
    /// memory that it arrived in. Change `payload` to answer with something else.
    #[inline]
    pub fn reply(datagram: UdpDatagram<B>) -> Self {
        UdpSend {
            destination: datagram.source,
            source: Some(datagram.destination.ip()),
            ttl: None,
            dscp_ecn: 0,
            payload: Payload::Buffer(datagram.payload),
            segment_size: None,
            refused: None,
        }
    }
}

/// What became of a burst that was offered: `offered == accepted + refused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use = "what was refused was not sent"]
pub struct SendOutcome {
    /// Datagrams that the engine took.
    pub accepted: usize,
    /// Datagrams that it did not take. [`send_udp`](crate::Host::send_udp) leaves them in the burst,
    /// each with its reason; [`reply_udp`](crate::Host::reply_udp) drops them.
    pub refused: usize,
}

/// Something that went wrong with a datagram sent earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpError {
    /// Whom the datagram was for.
    pub peer: SocketAddr,
    /// The address and port that it was sent from.
    pub local: SocketAddr,
    /// What happened to it.
    pub kind: UdpErrorKind,
}

/// Why a datagram sent earlier did not arrive. Anyone on the path may claim this, and some may
/// lie: treat it as a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum UdpErrorKind {
    /// The peer has no socket at the port.
    #[error("the peer has no socket at this port")]
    PortUnreachable,
    /// The peer does not handle UDP.
    #[error("the peer does not handle UDP")]
    ProtocolUnreachable,
    /// The peer, or the router towards it, does not answer.
    #[error("the host does not answer; is it up, and is the gateway right?")]
    HostUnreachable,
    /// A router has no route to the peer's network.
    #[error("no route to the peer's network")]
    NetworkUnreachable,
    /// A firewall refused the datagram.
    #[error("a firewall on the path refused the datagram")]
    Prohibited,
    /// The datagram was longer than a link on its path; from now on longer ones are fragmented.
    #[error("longer than a link on the path, whose MTU is {mtu} bytes; later ones are fragmented")]
    FragmentationNeeded {
        /// The longest IP packet in bytes that this host will send there unfragmented.
        mtu: u16,
    },
    /// The hops ran out on the way.
    #[error("the time to live ran out on the way")]
    TtlExceeded,
    /// The peer did not get all fragments in time.
    #[error("the peer did not get all fragments in time")]
    ReassemblyTimeExceeded,
    /// Another kind of "destination unreachable".
    #[error("destination unreachable, ICMP code {code}")]
    Unreachable {
        /// The ICMP code.
        code: u8,
    },
}
