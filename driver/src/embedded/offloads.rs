//! What a driver may ask of the device for a packet that it sends (virtio 1.3, section 5.1.6.2),
//! what it takes undone in a packet that it receives (section 5.1.6.4), and doing it where the
//! other side can not.

use virtroupe_wire::offload::{
    ChecksumState, PartialChecksum, SegmentKind, Segmentation, complete_checksum, segment,
};
use virtroupe_wire::{Offload, ethernet, udp};

use super::backend::Packet;
use super::header::NetHeader;
use crate::features::FeatureBits;

mod scratch;

pub(super) use scratch::Scratch;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// The longest packet that is to be segmented: IPv6, whose length does not count its own header,
/// and Ethernet with a VLAN tag.
const LONGEST: usize = 65_535 + 40 + 18;

/// The least TCP header (RFC 9293, section 3.1).
const TCP_HEADER: usize = 20;

/// Headers in front of the payload of a long packet: those of Ethernet, IP and TCP have at most 138
/// bytes, and some extension headers of IPv6 may be among them.
const MOST_HEADERS: usize = 256;

/// Features with which a driver may send packets that are longer than the MTU.
const SEGMENTATION: FeatureBits = FeatureBits(
    FeatureBits::HOST_TSO4.0
        | FeatureBits::HOST_TSO6.0
        | FeatureBits::HOST_UFO.0
        | FeatureBits::HOST_USO.0,
);

/// The longest frame that the driver may send, if the MTU allows `mtu_frame` bytes.
pub(super) fn longest_frame(features: FeatureBits, mtu_frame: usize) -> usize {
    match (features & SEGMENTATION).is_empty() {
        true => mtu_frame,
        false => LONGEST.max(mtu_frame),
    }
}

/// Whether `header` asks for what was negotiated, and fits to a frame of `length` bytes.
pub(super) fn is_allowed(header: &NetHeader, length: usize, features: FeatureBits) -> bool {
    if header.num_buffers != 0 || header.flags & !NEEDS_CSUM != 0 {
        return false;
    }
    let needs_checksum = header.flags & NEEDS_CSUM != 0;
    if needs_checksum {
        let field = usize::from(header.csum_start) + usize::from(header.csum_offset);
        if !features.contains(FeatureBits::CSUM) || field + 2 > length {
            return false;
        }
    }
    let needed = match header.gso_type & !GSO_ECN {
        GSO_NONE => return header.gso_type == GSO_NONE,
        GSO_TCPV4 => FeatureBits::HOST_TSO4,
        GSO_TCPV6 => FeatureBits::HOST_TSO6,
        GSO_UDP if header.gso_type & GSO_ECN == 0 => FeatureBits::HOST_UFO,
        GSO_UDP_L4 if header.gso_type & GSO_ECN == 0 => FeatureBits::HOST_USO,
        _ => return false,
    };
    let is_ecn_taken = header.gso_type & GSO_ECN == 0 || features.contains(FeatureBits::HOST_ECN);
    features.contains(needed)
        && is_ecn_taken
        && needs_checksum
        && header.gso_size > 0
        && usize::from(header.hdr_len) <= length
}

/// Whether a driver that accepted `features` takes the frame `bytes` with what `header` leaves to
/// do for it: that was negotiated, and the frame is what `header` says.
pub(super) fn is_taken_by_driver(header: &NetHeader, bytes: &[u8], features: FeatureBits) -> bool {
    let needs_checksum = header.flags & NEEDS_CSUM != 0;
    if needs_checksum {
        let field = usize::from(header.csum_start) + usize::from(header.csum_offset);
        if !features.contains(FeatureBits::GUEST_CSUM) || field + 2 > bytes.len() {
            return false;
        }
    }
    let kind = header.gso_type & !GSO_ECN;
    if kind == GSO_NONE {
        return header.gso_type == GSO_NONE;
    }
    let network = ethernet::carried(bytes).map(|(ethertype, _)| ethertype);
    let needed = match (kind, network) {
        (GSO_TCPV4, Some(ethernet::IPV4)) => FeatureBits::GUEST_TSO4,
        (GSO_TCPV6, Some(ethernet::IPV6)) => FeatureBits::GUEST_TSO6,
        (GSO_UDP, Some(ethernet::IPV4 | ethernet::IPV6)) => FeatureBits::GUEST_UFO,
        (GSO_UDP_L4, Some(ethernet::IPV4)) => FeatureBits::GUEST_USO4,
        (GSO_UDP_L4, Some(ethernet::IPV6)) => FeatureBits::GUEST_USO6,
        _ => return false,
    };
    let is_tcp = matches!(kind, GSO_TCPV4 | GSO_TCPV6);
    let is_ecn_taken =
        header.gso_type & GSO_ECN == 0 || is_tcp && features.contains(FeatureBits::GUEST_ECN);
    // Section 5.1.6.4.1: a merged frame needs a checksum.
    features.contains(needed)
        && is_ecn_taken
        && needs_checksum
        && header.gso_size > 0
        && has_headers(header, bytes, is_tcp)
}

/// Whether the frame `bytes`, which is to be cut, has its headers where `header` says, near enough
/// to the front that a driver finds them in its first buffer. Who sent it may have described it
/// wrongly; the driver that receives it would have to take that for a fault of the device.
fn has_headers(header: &NetHeader, bytes: &[u8], is_tcp: bool) -> bool {
    let transport = usize::from(header.csum_start);
    let least = if is_tcp { TCP_HEADER } else { udp::HEADER };
    let segmentation = describe(header, bytes).and_then(|offload| offload.segmentation);
    segmentation.is_some_and(|segmentation| {
        let end = usize::from(segmentation.header_length);
        end >= transport + least && end <= bytes.len().min(MOST_HEADERS)
    })
}

/// What of `header` is for a driver that accepted `features`, with the number of buffers that the
/// frame takes.
pub(super) fn header_for_driver(
    header: &NetHeader,
    features: FeatureBits,
    num_buffers: u16,
) -> NetHeader {
    let known = match features.contains(FeatureBits::GUEST_CSUM) {
        true => NEEDS_CSUM | DATA_VALID,
        false => 0,
    };
    let flags = header.flags & known;
    if flags & NEEDS_CSUM == 0 {
        return NetHeader {
            flags,
            num_buffers,
            ..NetHeader::default()
        };
    }
    NetHeader {
        flags,
        num_buffers,
        ..*header
    }
}

impl Scratch {
    /// Does what the header of `packet` asks for: finished are then packets that ask for nothing,
    /// whose number it returns. `None`, and none is finished, if the packet is not what its header
    /// says. What is left in `packet` is not defined.
    pub(super) fn carry_out(&mut self, packet: &mut Packet) -> Option<usize> {
        let offload = describe(&packet.header, &packet.bytes)?.for_length(packet.bytes.len());
        if offload.segmentation.is_some() {
            let before = self.finished.len();
            segment(packet, &offload, &mut self.memory, &mut self.finished).ok()?;
            return Some(self.finished.len() - before);
        }
        if let ChecksumState::Partial(partial) = offload.checksum
            && !complete_checksum(packet, partial)
        {
            return None;
        }
        let mut finished = std::mem::replace(packet, self.memory.packet());
        finished.header = NetHeader::default();
        self.finished.push(finished);
        Some(1)
    }
}

/// The header as the engines would say it. `hdr_len` is only a hint (section 5.1.6.2.1): the
/// length of the headers is read from the packet.
fn describe(header: &NetHeader, bytes: &[u8]) -> Option<Offload> {
    let start = usize::from(header.csum_start);
    let udp = start + 8;
    let (kind, header_length) = match header.gso_type & !GSO_ECN {
        GSO_NONE => (None, 0),
        GSO_TCPV4 | GSO_TCPV6 => {
            let ecn = header.gso_type & GSO_ECN != 0;
            let length = usize::from(*bytes.get(start + 12)? >> 4) * 4;
            (Some(SegmentKind::Tcp { ecn }), start + length)
        }
        GSO_UDP => (Some(SegmentKind::UdpFragments), udp),
        GSO_UDP_L4 => (Some(SegmentKind::Udp), udp),
        _ => return None,
    };
    let header_length = u16::try_from(header_length).ok()?;
    let checksum = match header.flags & NEEDS_CSUM {
        0 => ChecksumState::Plain,
        _ => ChecksumState::Partial(PartialChecksum {
            start: header.csum_start,
            offset: header.csum_offset,
        }),
    };
    Some(Offload {
        checksum,
        segmentation: kind.map(|kind| Segmentation {
            kind,
            size: header.gso_size,
            header_length,
        }),
    })
}

#[cfg(test)]
mod tests;
