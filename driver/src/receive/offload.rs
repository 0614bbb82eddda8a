//! Receive offloads: what a device may say of a received frame, and judging what it says (virtio
//! 1.3, section 5.1.6.4).
//!
//! The header is copied once, and only the copy is looked at. It has two authors. What was negotiated
//! and how long the frame is, a device knows itself: a header that contradicts those is its fault
//! alone, and a [`Violation`]. What kind of packet it is about, a backend may have believed of whoever
//! sent it, another guest for one: where the header does not fit to the packet, that frame is dropped
//! with its reason, and the queue goes on. Nobody who can send to us can break it.
//!
//! Flags that are not known are ignored (section 5.1.6.4.2). The length of the headers is a hint that
//! need not be true: it is read from the packet instead.

use virtroupe_wire::offload::{ChecksumState, PartialChecksum, SegmentKind, Segmentation};
use virtroupe_wire::{Buffer, DropReason, Offload, ethernet};

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

    /// What `header` says of the checksum of a frame of `length` bytes.
    ///
    /// # Errors
    /// It says what was not negotiated, or of bytes that the frame does not have: the device broke
    /// the queue.
    pub(super) fn judge_header(
        &self,
        header: &[u8; NET_HEADER],
        length: u32,
    ) -> Result<ChecksumState, Violation> {
        let [flags, gso_type, _, _, g0, g1, s0, s1, o0, o1, _, _] = *header;
        let partial = PartialChecksum {
            start: u16::from_le_bytes([s0, s1]),
            offset: u16::from_le_bytes([o0, o1]),
        };
        let is_partial = flags & NEEDS_CSUM != 0;
        let end = u32::from(partial.start) + u32::from(partial.offset) + 2;
        if (is_partial && end > length) || !self.is_negotiated(gso_type) {
            return Err(Violation::NetHeader {
                flags,
                gso_type,
                gso_size: u16::from_le_bytes([g0, g1]),
                checksum: (partial.start, partial.offset),
                length,
            });
        }
        Ok(if is_partial {
            ChecksumState::Partial(partial)
        } else if flags & DATA_VALID != 0 {
            ChecksumState::Valid
        } else {
            ChecksumState::Plain
        })
    }

    /// What `header` says of `frame`, which has `length` bytes; or why the frame is dropped, where that
    /// does not fit to the packet.
    ///
    /// # Errors
    /// As [`judge_header`](Self::judge_header).
    pub(super) fn judge(
        &self,
        header: &[u8; NET_HEADER],
        frame: &Frame,
        length: u32,
    ) -> Result<Result<Offload, DropReason>, Violation> {
        let checksum = self.judge_header(header, length)?;
        let [_, gso_type, _, _, g0, g1, ..] = *header;
        let size = u16::from_le_bytes([g0, g1]);
        let segmentation = match (gso_type, checksum) {
            (GSO_NONE, _) => Ok(None),
            (_, ChecksumState::Partial(partial)) => self
                .segmentation(gso_type, partial.start, size, frame.head())
                .map(Some),
            // Who merged packets has not completed their checksum.
            _ => Err(DropReason::Malformed),
        };
        Ok(segmentation.map(|segmentation| Offload {
            checksum,
            segmentation,
        }))
    }

    /// Whether a device may write `gso_type` at all, whatever the packet is (section 5.1.6.4.1).
    fn is_negotiated(&self, gso_type: u8) -> bool {
        let any = |features| !(self.0 & features).is_empty();
        let is_ecn_taken = gso_type & GSO_ECN == 0 || any(FeatureBits::GUEST_ECN);
        let is_kind_taken = match gso_type & !GSO_ECN {
            GSO_NONE => true,
            GSO_TCPV4 => any(FeatureBits::GUEST_TSO4),
            GSO_TCPV6 => any(FeatureBits::GUEST_TSO6),
            GSO_UDP => any(FeatureBits::GUEST_UFO),
            GSO_UDP_L4 => any(FeatureBits::GUEST_USO4 | FeatureBits::GUEST_USO6),
            _ => false,
        };
        is_ecn_taken && is_kind_taken
    }

    /// Of what pieces of `size` bytes a packet is made that begins with `head`, and whose
    /// transport header is at `transport`; or why it can not be that.
    fn segmentation(
        &self,
        gso_type: u8,
        transport: u16,
        size: u16,
        head: &[u8],
    ) -> Result<Segmentation, DropReason> {
        let network = network(head)?;
        let ecn = gso_type & GSO_ECN != 0;
        let uso = match network {
            ethernet::IPV4 => FeatureBits::GUEST_USO4,
            _ => FeatureBits::GUEST_USO6,
        };
        let kind = match (gso_type & !GSO_ECN, network) {
            (GSO_TCPV4, ethernet::IPV4) | (GSO_TCPV6, ethernet::IPV6) => SegmentKind::Tcp { ecn },
            (GSO_UDP_L4, _) if !ecn && self.0.contains(uso) => SegmentKind::Udp,
            (GSO_UDP, _) if !ecn => SegmentKind::UdpFragments,
            _ => return Err(DropReason::Malformed),
        };
        let header_length = transport_length(kind, head, transport)
            .and_then(|length| transport.checked_add(length))
            .filter(|end| usize::from(*end) <= head.len())
            .ok_or(DropReason::Malformed)?;
        if size == 0 {
            return Err(DropReason::Malformed);
        }
        Ok(Segmentation {
            kind,
            size,
            header_length,
        })
    }
}

/// Bytes of the transport header at `transport`; `None` if it is cut off, or too short to be one.
fn transport_length(kind: SegmentKind, head: &[u8], transport: u16) -> Option<u16> {
    match kind {
        SegmentKind::Tcp { .. } => {
            let field = head.get(usize::from(transport) + TCP_DATA_OFFSET)?;
            Some(u16::from(field >> 4) * 4).filter(|length| *length >= TCP_HEADER)
        }
        SegmentKind::Udp | SegmentKind::UdpFragments => Some(virtroupe_wire::udp::HEADER as u16),
    }
}

/// The EtherType of an IP packet, behind VLAN tags; or why nothing can be said of the frame.
fn network(head: &[u8]) -> Result<u16, DropReason> {
    let mut at = ethernet::HEADER - 2;
    for _ in 0..=MOST_TAGS {
        let field = head.get(at..).and_then(|rest| rest.first_chunk());
        match u16::from_be_bytes(*field.ok_or(DropReason::Malformed)?) {
            ethernet::VLAN | ethernet::SERVICE_VLAN => at += 4,
            ethertype @ (ethernet::IPV4 | ethernet::IPV6) => return Ok(ethertype),
            _ => break,
        }
    }
    Err(DropReason::UnknownEtherType)
}

#[cfg(test)]
mod tests;
