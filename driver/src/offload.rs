//! Transmit offloads (those on receive are [`ReceiveOffloads`](crate::ReceiveOffloads)): what the
//! device took on, what is done for it in software, and the virtio-net header that asks for it
//! (virtio 1.3, section 5.1.6.2).

use std::ptr::NonNull;

use virtroupe_wire::offload::{
    ChecksumState, DeviceSegmentation, SegmentKind, complete_checksum, segment,
};
use virtroupe_wire::{Allocator, Buffer, DropReason, Offload, ethernet};

use crate::features::FeatureBits;
use crate::frame::{Frame, NET_HEADER};
use crate::pool::{Home, Pool, RESERVE, SLOT_ROOM};
use crate::transmit::most_segments;

/// Flags and types of segmentation in the virtio-net header (section 5.1.6), without their
/// `VIRTIO_NET_HDR_`.
pub(crate) const NEEDS_CSUM: u8 = 1;
pub(crate) const GSO_TCPV4: u8 = 1;
pub(crate) const GSO_UDP: u8 = 3;
pub(crate) const GSO_TCPV6: u8 = 4;
pub(crate) const GSO_UDP_L4: u8 = 5;
pub(crate) const GSO_ECN: u8 = 0x80;

/// The transmit offloads that were negotiated with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransmitOffloads {
    features: FeatureBits,
    /// Descriptors in the transmit ring.
    queue_size: u16,
}

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
    ///
    /// UFO is not believed of a device that cuts no TCP: DPDK's `net_vhost` offers it even where it
    /// was not told to segment (`tso=1`), and then nobody behind it does.
    pub(crate) fn of(offered: FeatureBits) -> FeatureBits {
        let tso = offered & (FeatureBits::HOST_TSO4 | FeatureBits::HOST_TSO6);
        if !offered.contains(FeatureBits::CSUM) {
            FeatureBits::NONE
        } else if tso.is_empty() {
            offered & (Self::ALL - FeatureBits::HOST_ECN - FeatureBits::HOST_UFO)
        } else {
            offered & Self::ALL
        }
    }

    /// Those among the negotiated features, with transmit rings of `queue_size` descriptors.
    pub fn new(negotiated: FeatureBits, queue_size: u16) -> Self {
        let kept = Self::ALL | FeatureBits::INDIRECT_DESC;
        TransmitOffloads {
            features: negotiated & kept,
            queue_size,
        }
    }

    /// Long packets that the device cuts and that take one descriptor each. Without indirect
    /// descriptors there are none: then a packet takes one for each slot, about as many as
    /// for each of its pieces.
    pub fn segmentation(&self) -> DeviceSegmentation {
        let has = |feature| self.features.contains(feature | FeatureBits::INDIRECT_DESC);
        DeviceSegmentation {
            tcp_v4: has(FeatureBits::HOST_TSO4),
            tcp_v6: has(FeatureBits::HOST_TSO6),
            tcp_ecn: has(FeatureBits::HOST_ECN),
            udp: has(FeatureBits::HOST_USO),
            udp_fragments: has(FeatureBits::HOST_UFO),
            longest: self.longest(),
        }
    }

    /// Bytes of the longest packet that the ring is sure to take, copied together if need be.
    fn longest(&self) -> usize {
        most_segments(self.queue_size.into()) * SLOT_ROOM
    }

    /// Whether the device does what `frame` asks for. It can not cut what a short ring does not
    /// hold in one chain.
    pub fn takes(&self, frame: &Frame) -> bool {
        let offload = frame.offload().for_length(frame.len());
        let is_held = offload.segmentation.is_none() || frame.len() <= self.longest();
        is_held && self.header(&offload, frame.head()).is_some()
    }

    /// The virtio-net header that asks for `offload`; `None` if the device did not take it on, or
    /// if what it names is not in `head`: whoever sends frames may have described them wrongly.
    pub(crate) fn header(&self, offload: &Offload, head: &[u8]) -> Option<[u8; NET_HEADER]> {
        let mut header = [0; NET_HEADER];
        let [flags, gso_type, fields @ ..] = &mut header;
        if let ChecksumState::Partial(partial) = offload.checksum {
            let field = usize::from(partial.start) + usize::from(partial.offset);
            if !self.features.contains(FeatureBits::CSUM) || head.len() < field + 2 {
                return None;
            }
            *flags = NEEDS_CSUM;
            fields[4..6].copy_from_slice(&partial.start.to_le_bytes());
            fields[6..8].copy_from_slice(&partial.offset.to_le_bytes());
        }
        if let Some(segmentation) = offload.segmentation {
            let (kind, needed) = gso(segmentation.kind, head)?;
            // The device finds the transport by the checksum.
            let is_taken = *flags != 0 && self.features.contains(needed);
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

    /// Writes the virtio-net header of a frame of one segment, of the pool of `home`, that asks for
    /// a checksum and nothing else; `None`, and no change, for any other.
    #[inline(never)]
    pub(crate) fn request_checksum(
        &self,
        frame: &mut Frame,
        home: NonNull<Home>,
    ) -> Option<NonNull<u8>> {
        let offload = frame.offload();
        let is_partial = matches!(offload.checksum, ChecksumState::Partial(_));
        if !frame.is_single(home) || !is_partial || offload.segmentation.is_some() {
            return None;
        }
        let header = self.header(&offload, frame.head())?;
        frame.write_net_header(header)
    }

    /// Does in software, for each frame of `burst`, what the device does not take, and cuts what
    /// is too long for the ring. Pieces leave the pool's reserve alone, so that long packets can
    /// not starve the rest of the stack. Returns the reasons of frames that were dropped: the
    /// caller counts them.
    pub fn carry_out(&self, burst: &mut Vec<Frame>, pool: &mut Pool) -> Vec<DropReason> {
        let mut dropped = Vec::new();
        burst.iter_mut().for_each(forget_verified);
        let is_left = |frame: &Frame| frame.has_offload() && !self.takes(frame);
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
    let (ethertype, _) = ethernet::carried(head)?;
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

/// A pool without its reserve.
struct Unreserved<'a>(&'a mut Pool);

impl Allocator for Unreserved<'_> {
    type Buffer = Frame;

    fn allocate(&mut self, capacity: usize) -> Option<Frame> {
        if self.0.ensure(RESERVE + 1) <= RESERVE {
            return None;
        }
        self.0.allocate(capacity)
    }

    fn longest_segment(&self) -> usize {
        self.0.longest_segment()
    }
}

fn carry_out_one(
    mut frame: Frame,
    pool: &mut Pool,
    out: &mut Vec<Frame>,
) -> Result<(), DropReason> {
    let offload = frame.offload().for_length(frame.len());
    frame.set_offload(Offload::NONE);
    if offload.segmentation.is_some() {
        return segment(&mut frame, &offload, &mut Unreserved(pool), out);
    }
    if let ChecksumState::Partial(partial) = offload.checksum
        && !complete_checksum(&mut frame, partial)
    {
        return Err(DropReason::Malformed);
    }
    out.push(frame);
    Ok(())
}

#[cfg(all(test, not(virtroupe_loom)))]
mod tests;
