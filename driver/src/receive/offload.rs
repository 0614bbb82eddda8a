//! Receive offloads: what a device may say of a received frame, and judging what it says (virtio
//! 1.3, section 5.1.6.4).
//!
//! The header is copied once, and only the copy is looked at. What the device must not write is
//! a [`Violation`]; what it may write but we did not ask for, as flags that are not known, is
//! ignored (section 5.1.6.4.2). The length of the headers in it is a hint that need not be true:
//! it is read from the packet instead.

use virtroupe_wire::offload::{ChecksumState, PartialChecksum, SegmentKind, Segmentation};
use virtroupe_wire::{Buffer, Offload, ethernet};

use crate::features::FeatureBits;
use crate::frame::{Frame, NET_HEADER};
use crate::offload::{GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, NEEDS_CSUM};
use crate::ring::Violation;

const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;

/// The least TCP header, and where its length is (RFC 9293, section 3.1).
const TCP_HEADER: u16 = 20;
const TCP_DATA_OFFSET: usize = 12;
/// VLAN tags that are looked through to find the network protocol.
const MOST_TAGS: usize = 2;

/// The receive offloads that were negotiated with a device.
///
/// Without any, each received frame is one of a wire: not longer than the MTU, and with a
/// complete checksum that nobody has verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveOffloads(FeatureBits);

impl ReceiveOffloads {
    /// Every feature that is an offload on receive.
    pub const ALL: FeatureBits = FeatureBits(FeatureBits::GUEST_CSUM.0 | Self::LARGE.0);

    /// Those with which frames may arrive that are longer than the MTU.
    const LARGE: FeatureBits = FeatureBits(
        FeatureBits::GUEST_TSO4.0
            | FeatureBits::GUEST_TSO6.0
            | FeatureBits::GUEST_ECN.0
            | FeatureBits::GUEST_UFO.0
            | FeatureBits::GUEST_USO4.0
            | FeatureBits::GUEST_USO6.0,
    );

    /// Those of the `offered` features that can be accepted: each depends on the checksum, and
    /// ECN on TSO (section 5.1.3.1).
    pub(crate) fn of(offered: FeatureBits) -> FeatureBits {
        let tso = offered & (FeatureBits::GUEST_TSO4 | FeatureBits::GUEST_TSO6);
        if !offered.contains(FeatureBits::GUEST_CSUM) {
            FeatureBits::NONE
        } else if tso.is_empty() {
            offered & (Self::ALL - FeatureBits::GUEST_ECN)
        } else {
            offered & Self::ALL
        }
    }

    /// Those among the negotiated features.
    pub fn new(negotiated: FeatureBits) -> Self {
        ReceiveOffloads(negotiated & Self::ALL)
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether frames may arrive that are longer than the MTU.
    pub fn is_large(&self) -> bool {
        !(self.0 & Self::LARGE).is_empty()
    }

    /// What `header` says of `frame`, which has `length` bytes.
    ///
    /// # Errors
    /// It says what was not negotiated, or what does not fit to the frame.
    pub(super) fn judge(
        &self,
        header: &[u8; NET_HEADER],
        frame: &Frame,
        length: u32,
    ) -> Result<Offload, Violation> {
        let [flags, gso_type, _, _, g0, g1, s0, s1, o0, o1, _, _] = *header;
        let size = u16::from_le_bytes([g0, g1]);
        let partial = PartialChecksum {
            start: u16::from_le_bytes([s0, s1]),
            offset: u16::from_le_bytes([o0, o1]),
        };
        let violation = Violation::NetHeader {
            flags,
            gso_type,
            gso_size: size,
            checksum: (partial.start, partial.offset),
            length,
        };
        let checksum = if flags & NEEDS_CSUM != 0 {
            let end = u32::from(partial.start) + u32::from(partial.offset) + 2;
            if end > length {
                return Err(violation);
            }
            ChecksumState::Partial(partial)
        } else if flags & DATA_VALID != 0 {
            ChecksumState::Valid
        } else {
            ChecksumState::Plain
        };
        let segmentation = match (gso_type, checksum) {
            (GSO_NONE, _) => None,
            // A device that merged packets has not completed their checksum.
            (_, ChecksumState::Partial(partial)) if size > 0 => {
                let segmentation = self.segmentation(gso_type, partial.start, size, frame.head());
                Some(segmentation.ok_or(violation)?)
            }
            _ => return Err(violation),
        };
        Ok(Offload {
            checksum,
            segmentation,
        })
    }

    /// Of what pieces of `size` bytes a packet is made that begins with `head`, and whose
    /// transport header is at `transport`; `None` if it can not be that.
    fn segmentation(
        &self,
        gso_type: u8,
        transport: u16,
        size: u16,
        head: &[u8],
    ) -> Option<Segmentation> {
        let network = network(head)?;
        let ecn = gso_type & GSO_ECN != 0;
        let tcp = SegmentKind::Tcp { ecn };
        let (kind, needed) = match (gso_type & !GSO_ECN, network) {
            (GSO_TCPV4, ethernet::IPV4) => (tcp, FeatureBits::GUEST_TSO4),
            (GSO_TCPV6, ethernet::IPV6) => (tcp, FeatureBits::GUEST_TSO6),
            (GSO_UDP_L4, ethernet::IPV4) if !ecn => (SegmentKind::Udp, FeatureBits::GUEST_USO4),
            (GSO_UDP_L4, ethernet::IPV6) if !ecn => (SegmentKind::Udp, FeatureBits::GUEST_USO6),
            (GSO_UDP, ethernet::IPV4 | ethernet::IPV6) if !ecn => {
                (SegmentKind::UdpFragments, FeatureBits::GUEST_UFO)
            }
            _ => return None,
        };
        let is_ecn_taken = !ecn || self.0.contains(FeatureBits::GUEST_ECN);
        if !self.0.contains(needed) || !is_ecn_taken {
            return None;
        }
        let header = match kind {
            SegmentKind::Tcp { .. } => {
                let field = head.get(usize::from(transport) + TCP_DATA_OFFSET)?;
                u16::from(field >> 4) * 4
            }
            SegmentKind::Udp | SegmentKind::UdpFragments => virtroupe_wire::udp::HEADER as u16,
        };
        let is_tcp = matches!(kind, SegmentKind::Tcp { .. });
        let header_length = transport.checked_add(header)?;
        let is_whole = usize::from(header_length) <= head.len();
        (is_whole && !(is_tcp && header < TCP_HEADER)).then_some(Segmentation {
            kind,
            size,
            header_length,
        })
    }
}

/// The EtherType of the packet, behind VLAN tags.
fn network(head: &[u8]) -> Option<u16> {
    let mut at = ethernet::HEADER - 2;
    for _ in 0..=MOST_TAGS {
        let ethertype = u16::from_be_bytes(*head.get(at..)?.first_chunk()?);
        if !matches!(ethertype, ethernet::VLAN | ethernet::SERVICE_VLAN) {
            return Some(ethertype);
        }
        at += 4;
    }
    None
}

#[cfg(test)]
mod tests;
