//! Transmit offloads: what the device took on, what is done for it in software, and the
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

    /// Those among the negotiated features.
    pub fn new(negotiated: FeatureBits) -> Self {
        TransmitOffloads(negotiated & Self::ALL)
    }

    /// Whether the device does what `offload` asks for with a packet that begins with `head`.
    pub fn takes(&self, offload: &Offload, head: &[u8]) -> bool {
        self.header(offload, head).is_some()
    }

    /// The virtio-net header that asks for `offload`; `None` if the device did not take it on, or
    /// if it does not fit to the packet.
    pub(crate) fn header(&self, offload: &Offload, head: &[u8]) -> Option<[u8; NET_HEADER]> {
        let mut header = [0; NET_HEADER];
        let [flags, gso_type, fields @ ..] = &mut header;
        if let ChecksumState::Partial(partial) = offload.checksum {
            if !self.0.contains(FeatureBits::CSUM) {
                return None;
            }
            *flags = NEEDS_CSUM;
            fields[4..6].copy_from_slice(&partial.start.to_le_bytes());
            fields[6..8].copy_from_slice(&partial.offset.to_le_bytes());
        }
        if let Some(segmentation) = offload.segmentation {
            let (kind, needed) = gso(segmentation.kind, head)?;
            // The device finds the transport by the checksum.
            if *flags == 0 || !self.0.contains(needed) {
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
