//! Transmit offloads (those on receive are [`ReceiveOffloads`](crate::ReceiveOffloads)): what the device took on, what is done for it in software, and the
//! virtio-net header that asks for it (virtio 1.3, section 5.1.6.2).

use virtroupe_wire::offload::{ChecksumState, SegmentKind, complete_checksum, segment};
use virtroupe_wire::{Buffer, DropReason, Offload, ethernet};

use crate::features::FeatureBits;
use crate::frame::{Frame, NET_HEADER};
use crate::pool::Pool;

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// The transmit offloads that were negotiated with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransmitOffloads(FeatureBits);

impl TransmitOffloads {
    /// Every feature that is an offload on transmit.
    pub const ALL: FeatureBits = FeatureBits(
        FeatureBits::CSUM.0
            | FeatureBits::HOST_TSO4.0
            | FeatureBits::HOST_TSO6.0
            | FeatureBits::HOST_ECN.0
            | FeatureBits::HOST_UFO.0
            | FeatureBits::HOST_USO.0,
    );

    /// Those of the `offered` features that can be accepted: segmentation depends on the checksum,
    /// and ECN on TSO (section 5.1.3.1).
    pub(crate) fn of(offered: FeatureBits) -> FeatureBits {
        let tso = offered & (FeatureBits::HOST_TSO4 | FeatureBits::HOST_TSO6);
        if !offered.contains(FeatureBits::CSUM) {
            FeatureBits::NONE
        } else if tso.is_empty() {
            offered & (Self::ALL - FeatureBits::HOST_ECN)
        } else {
            offered & Self::ALL
        }
    }

    /// Those among the negotiated features.
    pub fn new(negotiated: FeatureBits) -> Self {
        TransmitOffloads(negotiated & Self::ALL)
    }

    /// Whether the device does what `offload` asks for with a packet that begins with `head`.
    pub fn takes(&self, offload: &Offload, head: &[u8]) -> bool {
        self.header(offload, head).is_some()
    }

    /// The virtio-net header that asks for `offload`; `None` if the device did not take it on, or
    /// if what it names is not in `head`: whoever sends frames may have described them wrongly.
    pub(crate) fn header(&self, offload: &Offload, head: &[u8]) -> Option<[u8; NET_HEADER]> {
        let mut header = [0; NET_HEADER];
        let [flags, gso_type, fields @ ..] = &mut header;
        if let ChecksumState::Partial(partial) = offload.checksum {
            let field = usize::from(partial.start) + usize::from(partial.offset);
            if !self.0.contains(FeatureBits::CSUM) || head.len() < field + 2 {
                return None;
            }
            *flags = NEEDS_CSUM;
            fields[4..6].copy_from_slice(&partial.start.to_le_bytes());
            fields[6..8].copy_from_slice(&partial.offset.to_le_bytes());
        }
        if let Some(segmentation) = offload.segmentation {
            let (kind, needed) = gso(segmentation.kind, head)?;
            // The device finds the transport by the checksum.
            let is_taken = *flags != 0 && self.0.contains(needed);
            let is_right =
                segmentation.size > 0 && head.len() >= usize::from(segmentation.header_length);
            if !is_taken || !is_right {
                return None;
            }
            *gso_type = kind;
            fields[0..2].copy_from_slice(&segmentation.header_length.to_le_bytes());
            fields[2..4].copy_from_slice(&segmentation.size.to_le_bytes());
        }
        Some(header)
    }

    /// Does in software, for each frame of `burst`, what the device does not take. Frames that it
    /// is to cut become several. Returns the reasons of those that were dropped: the caller counts
    /// them.
    pub fn carry_out(&self, burst: &mut Vec<Frame>, pool: &mut Pool) -> Vec<DropReason> {
        let mut dropped = Vec::new();
        burst.iter_mut().for_each(forget_verified);
        let is_left =
            |frame: &Frame| frame.has_offload() && !self.takes(&frame.offload(), frame.head());
        let Some(first) = burst.iter().position(is_left) else {
            return dropped;
        };
        let mut rest = burst.split_off(first).into_iter();
        for frame in &mut rest {
            if !is_left(&frame) {
                burst.push(frame);
            } else if let Err(reason) = carry_out_one(frame, pool, burst) {
                dropped.push(reason);
            }
        }
        dropped
    }
}

/// The type of segmentation in the virtio-net header, and the feature that it needs.
fn gso(kind: SegmentKind, head: &[u8]) -> Option<(u8, FeatureBits)> {
    let ethertype = u16::from_be_bytes(*head.get(12..)?.first_chunk()?);
    Some(match (kind, ethertype) {
        (SegmentKind::Tcp { ecn: false }, ethernet::IPV4) => (GSO_TCPV4, FeatureBits::HOST_TSO4),
        (SegmentKind::Tcp { ecn: false }, ethernet::IPV6) => (GSO_TCPV6, FeatureBits::HOST_TSO6),
        (SegmentKind::Tcp { ecn: true }, ethernet::IPV4) => (
            GSO_TCPV4 | GSO_ECN,
            FeatureBits::HOST_TSO4 | FeatureBits::HOST_ECN,
        ),
        (SegmentKind::Tcp { ecn: true }, ethernet::IPV6) => (
            GSO_TCPV6 | GSO_ECN,
            FeatureBits::HOST_TSO6 | FeatureBits::HOST_ECN,
        ),
        (SegmentKind::Udp, ethernet::IPV4 | ethernet::IPV6) => (GSO_UDP_L4, FeatureBits::HOST_USO),
        (SegmentKind::UdpFragments, ethernet::IPV4) => (GSO_UDP, FeatureBits::HOST_UFO),
        _ => return None,
    })
}

/// That a checksum was verified when the frame was received asks for nothing; so it goes the way of
/// all plain frames.
fn forget_verified(frame: &mut Frame) {
    let verified = Offload {
        checksum: ChecksumState::Valid,
        segmentation: None,
    };
    if frame.has_offload() && frame.offload() == verified {
        frame.set_offload(Offload::NONE);
    }
}

fn carry_out_one(
    mut frame: Frame,
    pool: &mut Pool,
    out: &mut Vec<Frame>,
) -> Result<(), DropReason> {
    let offload = frame.offload();
    frame.set_offload(Offload::NONE);
    if offload.segmentation.is_some() {
        return segment(&mut frame, &offload, pool, out);
    }
    if let ChecksumState::Partial(partial) = offload.checksum
        && !complete_checksum(&mut frame, partial)
    {
        return Err(DropReason::Malformed);
    }
    out.push(frame);
    Ok(())
}

#[cfg(test)]
mod tests {
    use virtroupe_wire::offload::{PartialChecksum, Segmentation};

    use super::*;

    #[test]
    fn a_feature_is_accepted_only_with_those_that_it_depends_on() {
        let all = TransmitOffloads::ALL;
        assert_eq!(TransmitOffloads::of(all), all);
        let without_checksum = TransmitOffloads::of(all - FeatureBits::CSUM);
        assert_eq!(without_checksum, FeatureBits::NONE);
        let without_tso4 = all - FeatureBits::HOST_TSO4;
        assert_eq!(TransmitOffloads::of(without_tso4), without_tso4);
        let without_tso = without_tso4 - FeatureBits::HOST_TSO6;
        let expected = without_tso - FeatureBits::HOST_ECN;
        assert_eq!(TransmitOffloads::of(without_tso), expected);
    }

    #[test]
    fn a_device_is_not_asked_for_what_is_not_in_the_packet() {
        let mut head = [0; 60];
        head[12..14].copy_from_slice(&[8, 0]);
        let offload = |start, size, header_length| Offload {
            checksum: ChecksumState::Partial(PartialChecksum { start, offset: 6 }),
            segmentation: Some(Segmentation {
                kind: SegmentKind::Udp,
                size,
                header_length,
            }),
        };
        let device = TransmitOffloads::new(TransmitOffloads::ALL);
        assert!(device.takes(&offload(34, 1000, 42), &head));
        assert!(device.takes(&offload(52, 1000, 60), &head));
        for (start, size, header_length) in [(53, 1000, 42), (34, 0, 42), (34, 1000, 61)] {
            assert!(!device.takes(&offload(start, size, header_length), &head));
        }
        assert!(!device.takes(&offload(u16::MAX, 1000, 42), &head));
    }
}
