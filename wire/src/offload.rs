//! Offloads: work on a packet that a device may do for us, or has done.
//!
//! The engines describe it once, with the packet ([`Buffer::set_offload`]): a checksum that is
//! still to be completed, and the size of the pieces into which one long packet is to be cut.
//! Whoever sends the packet has the device do that, or does it with the functions of this module
//! when the device can not. Nothing above sees the difference.
//!
//! On receive the description goes the other way: what the device says about a packet's checksum,
//! and of what pieces it made a long one.
//!
//! | described | virtio-net (1.3, section 5.1.6) | in software |
//! |---|---|---|
//! | [`PartialChecksum`] | `NEEDS_CSUM` | [`complete_checksum`] |
//! | [`SegmentKind::Tcp`] | `GSO_TCPV4`, `GSO_TCPV6`, with `GSO_ECN` | [`segment`] |
//! | [`SegmentKind::Udp`] | `GSO_UDP_L4` (USO) | [`segment`] |
//! | [`SegmentKind::UdpFragments`] | `GSO_UDP` (UFO) | [`segment`] |

mod segment;

pub use segment::segment;

use crate::buffer::Buffer;
use crate::checksum::Checksum;

/// What is to be done for a packet, or was done. Offsets count from the Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// What is known of, or left to do for, the checksum of the transport.
    pub checksum: ChecksumState,
    /// The pieces of a packet that is longer than the link allows.
    pub segmentation: Option<Segmentation>,
}

/// The checksum of a packet's transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChecksumState {
    /// Sent: it is complete. Received: it has to be verified.
    #[default]
    Plain,
    /// Received, and the device has verified it.
    Valid,
    /// The field holds the sum of the pseudo-header alone. Sent: the rest is to be added.
    /// Received: the packet never was on a wire, and nothing is to be verified.
    Partial(PartialChecksum),
}

/// Where a checksum is to be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the bytes begin that it covers, to the end of the packet: the transport header.
    pub start: u16,
    /// Where its field is, from `start` on.
    pub offset: u16,
}

/// How a long packet is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    /// Into what.
    pub kind: SegmentKind,
    /// Bytes of payload in each piece but the last, at least 1: behind the transport header, or
    /// for `UdpFragments` behind the IP header, and then a multiple of 8.
    pub size: u16,
    /// Bytes of headers in front of the payload: Ethernet, IP and transport.
    pub header_length: u16,
}

/// What a long packet is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// TCP segments (TSO).
    Tcp {
        /// Whether the congestion window was reduced (RFC 3168): the first segment alone says so.
        ecn: bool,
    },
    /// UDP datagrams with the same addresses and ports (USO).
    Udp,
    /// IPv4 fragments of one UDP datagram (UFO).
    UdpFragments,
}

/// Which long packets a device cuts by itself, so that each takes one place in its ring and not
/// one for each piece. None by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceSegmentation {
    /// TCP over IPv4.
    pub tcp_v4: bool,
    /// TCP over IPv6.
    pub tcp_v6: bool,
    /// TCP whose first segment alone says that the congestion window was reduced.
    pub tcp_ecn: bool,
    /// UDP datagrams.
    pub udp: bool,
    /// IPv4 fragments of a UDP datagram.
    pub udp_fragments: bool,
    /// Bytes of the longest packet that it takes, from the Ethernet header on.
    pub longest: usize,
}

impl DeviceSegmentation {
    /// Whether it cuts a packet of `length` bytes into `kind`.
    pub fn cuts(&self, kind: SegmentKind, is_ipv6: bool, length: usize) -> bool {
        let has_kind = match kind {
            SegmentKind::Tcp { ecn: true } if !self.tcp_ecn => false,
            SegmentKind::Tcp { .. } if is_ipv6 => self.tcp_v6,
            SegmentKind::Tcp { .. } => self.tcp_v4,
            SegmentKind::Udp => self.udp,
            SegmentKind::UdpFragments => self.udp_fragments,
        };
        has_kind && length <= self.longest
    }
}

impl Offload {
    /// Nothing to do.
    pub const NONE: Offload = Offload {
        checksum: ChecksumState::Plain,
        segmentation: None,
    };

    /// Whether there is nothing to say.
    pub fn is_none(&self) -> bool {
        *self == Offload::NONE
    }

    /// What is left to do for a packet of `length` bytes: one that is no longer than a piece is
    /// not cut. Linux drops some that ask for it all the same.
    pub fn for_length(&self, length: usize) -> Offload {
        let is_cut = |segmentation: &Segmentation| segmentation.pieces(length) > 1;
        Offload {
            segmentation: self.segmentation.filter(is_cut),
            ..*self
        }
    }
}

impl Segmentation {
    /// Into how many pieces a packet of `length` bytes is cut; at least one.
    pub fn pieces(&self, length: usize) -> usize {
        let headers = usize::from(self.header_length);
        let payload = match self.kind {
            SegmentKind::UdpFragments => length.saturating_sub(headers) + crate::udp::HEADER,
            SegmentKind::Tcp { .. } | SegmentKind::Udp => length.saturating_sub(headers),
        };
        payload.div_ceil(usize::from(self.size).max(1)).max(1)
    }
}

/// Completes the checksum of a packet whose field holds the sum of the pseudo-header. Returns
/// false, and changes nothing, if the field is not in the packet's first segment.
///
/// A sum of zero is written as all ones, which is right for UDP (RFC 768) and equal for others.
pub fn complete_checksum<B: Buffer>(packet: &mut B, partial: PartialChecksum) -> bool {
    complete(packet, partial, 0xffff)
}

/// Completes a checksum; `zero` is written for a sum of zero.
fn complete<B: Buffer>(packet: &mut B, partial: PartialChecksum, zero: u16) -> bool {
    let start = usize::from(partial.start);
    let field = start + usize::from(partial.offset);
    if packet.head().get(field..field + 2).is_none() {
        return false;
    }
    let mut sum = Checksum::new();
    let mut skip = start;
    packet.for_each_segment(|bytes| {
        let skipped = skip.min(bytes.len());
        skip -= skipped;
        sum.add(bytes.get(skipped..).unwrap_or_default());
    });
    let sum = match sum.finish() {
        0 => zero,
        sum => sum,
    };
    if let Some(field) = packet.head_mut().get_mut(field..field + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    true
}

#[cfg(test)]
mod tests;
