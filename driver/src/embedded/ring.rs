//! The device's side of a virtqueue.
//!
//! This is written apart from the driver's ring code on purpose: the two share nothing but the
//! standard, so each can find the other's faults. Everything that the driver wrote is checked
//! before it is used; the first lie breaks the queue until the next reset.

mod packed;
mod split;

use super::memory::GuestMemory;
use crate::features::FeatureBits;
use crate::transport::RingLayout;

use packed::PackedRing;
use split::SplitRing;

/// Flags of a descriptor (sections 2.7.5 and 2.8.2): the buffer goes on in the next, the device writes it,
/// it is a table of descriptors.
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// The largest queue (sections 2.7 and 2.8.10.1).
const MAX_SIZE: u16 = 1 << 15;

/// What the driver did wrong with a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// A part of the ring is outside the mapped memory or not aligned.
    #[error("the ring is not inside the mapped memory, or not aligned (virtio 1.3, 2.7)")]
    Layout,
    /// The size is zero or above the limit, or that of a split ring not a power of two.
    #[error(
        "the queue size is not within the device's limit, or not a power of two in a split ring"
    )]
    Size,
    /// The available index moved further than the ring is long.
    #[error("the available index jumped by more than the queue size")]
    AvailableIndex,
    /// A descriptor number is not below the queue size.
    #[error("a descriptor index is outside its table")]
    DescriptorIndex,
    /// A chain is longer than the queue: it loops.
    #[error("a descriptor chain is longer than the queue; it may be a loop")]
    ChainTooLong,
    /// A buffer lies outside the mapped memory.
    #[error("a descriptor points outside the mapped memory")]
    Address,
    /// A readable buffer follows a writable one (section 2.7.4.2).
    #[error("a device-readable buffer follows a device-writable one")]
    Order,
    /// An indirect table that was not negotiated, is nested, has a bad length, or is combined
    /// with NEXT (section 2.7.5.3).
    #[error("an indirect descriptor breaks virtio 1.3, 2.7.5.3")]
    Indirect,
    /// With IN_ORDER, descriptors must be used in ring order (section 2.7.9).
    #[error("descriptors are not in ring order although IN_ORDER was negotiated")]
    InOrder,
    /// The chain cannot serve its queue: a writable buffer on transmit, a readable one on
    /// receive, or no room for the packet header.
    #[error("a buffer does not fit its queue: wrong direction, or shorter than the packet header")]
    Buffer,
}

/// A buffer inside the mapped memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Offset into the mapping.
    pub(super) offset: usize,
    /// Length in bytes.
    pub(super) length: usize,
}

/// One buffer that the driver made available, checked and translated.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// What the driver gets back when the buffer is used.
    pub(super) id: u16,
    /// Ring slots that the chain takes.
    pub(super) descriptors: u16,
    /// Its parts: first those that the device may read, then those that it may write.
    segments: Vec<Segment>,
    /// How many of the parts the device may read.
    readable: usize,
    readable_bytes: usize,
    writable_bytes: usize,
}

impl Chain {
    /// Begins anew, with the first descriptor of the chain `id`.
    fn begin(&mut self, id: u16) {
        self.id = id;
        self.descriptors = 1;
        self.segments.clear();
        self.readable = 0;
        self.readable_bytes = 0;
        self.writable_bytes = 0;
    }

    /// Takes the buffer of one more descriptor, whichever the format, with these `flags`.
    #[inline(always)]
    fn add(
        &mut self,
        memory: &GuestMemory,
        address: u64,
        length: u32,
        flags: u16,
    ) -> Result<(), RingFault> {
        let length = usize::try_from(length).map_err(|_| RingFault::Address)?;
        let offset = memory
            .translate(address, length)
            .ok_or(RingFault::Address)?;
        if flags & WRITE != 0 {
            self.writable_bytes = self.writable_bytes.saturating_add(length);
        } else if self.readable == self.segments.len() {
            self.readable += 1;
            self.readable_bytes = self.readable_bytes.saturating_add(length);
        } else {
            return Err(RingFault::Order);
        }
        self.segments.push(Segment { offset, length });
        Ok(())
    }

    /// The parts that the device may read.
    pub(super) fn readable(&self) -> &[Segment] {
        self.segments.get(..self.readable).unwrap_or_default()
    }

    /// The parts that the device may write.
    pub(super) fn writable(&self) -> &[Segment] {
        self.segments.get(self.readable..).unwrap_or_default()
    }

    /// Bytes that the device may read.
    pub(super) fn readable_bytes(&self) -> usize {
        self.readable_bytes
    }

    /// Bytes that the device may write.
    pub(super) fn writable_bytes(&self) -> usize {
        self.writable_bytes
    }
}

/// How the device reports buffers that it used in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UsedReports {
    /// One used element for each buffer.
    Each,
    /// With IN_ORDER, one used element for each burst (section 2.7.9). Only where the driver
    /// does not need the length of each buffer, that is, on transmit.
    Burst,
}

/// The device's side of one virtqueue, of whichever layout was negotiated.
#[derive(Debug)]
pub(super) enum Ring {
    /// Section 2.7.
    Split(SplitRing),
    /// Section 2.8.
    Packed(PackedRing),
}

impl Ring {
    /// The ring at `layout`.
    ///
    /// # Errors
    /// When the layout is not inside `memory` or its size is not allowed.
    pub(super) fn new(
        memory: GuestMemory,
        layout: &RingLayout,
        features: FeatureBits,
        reports: UsedReports,
    ) -> Result<Self, RingFault> {
        if features.contains(FeatureBits::RING_PACKED) {
            PackedRing::new(memory, layout, features, reports).map(Ring::Packed)
        } else {
            SplitRing::new(memory, layout, features, reports).map(Ring::Split)
        }
    }

    /// The memory that the buffers lie in.
    #[inline(always)]
    pub(super) fn memory(&self) -> &GuestMemory {
        match self {
            Ring::Split(ring) => ring.memory(),
            Ring::Packed(ring) => ring.memory(),
        }
    }

    /// Number of descriptors.
    #[inline(always)]
    pub(super) fn size(&self) -> u16 {
        match self {
            Ring::Split(ring) => ring.size(),
            Ring::Packed(ring) => ring.size(),
        }
    }

    /// Whether a buffer is available. Reads the driver's index only if none was known.
    #[inline(always)]
    pub(super) fn has_available(&mut self) -> Result<bool, RingFault> {
        match self {
            Ring::Split(ring) => ring.has_available(),
            Ring::Packed(ring) => ring.has_available(),
        }
    }

    /// Takes the next available buffer into `chain`. False if there is none.
    #[inline(always)]
    pub(super) fn take(&mut self, chain: &mut Chain) -> Result<bool, RingFault> {
        match self {
            Ring::Split(ring) => ring.take(chain),
            Ring::Packed(ring) => ring.take(chain),
        }
    }

    /// Gives back the chain that was taken last and not used; the next [`take`](Self::take)
    /// returns it again. Several are given back last first.
    #[inline(always)]
    pub(super) fn give_back(&mut self, chain: &Chain) {
        match self {
            Ring::Split(ring) => ring.give_back(chain),
            Ring::Packed(ring) => ring.give_back(chain),
        }
    }

    /// Marks `chain` used, with `written` bytes of it written. The driver sees it after
    /// [`publish`](Self::publish).
    #[inline(always)]
    pub(super) fn complete(&mut self, chain: &Chain, written: u32) {
        match self {
            Ring::Split(ring) => ring.complete(chain, written),
            Ring::Packed(ring) => ring.complete(chain, written),
        }
    }

    /// Shows the driver everything that was completed. True if the driver asked to be notified.
    #[must_use]
    pub(super) fn publish(&mut self) -> bool {
        match self {
            Ring::Split(ring) => ring.publish(),
            Ring::Packed(ring) => ring.publish(),
        }
    }

    /// Tells the driver that notifications are not needed (a hint, section 2.7.10).
    pub(super) fn disable_notifications(&mut self) {
        match self {
            Ring::Split(ring) => ring.disable_notifications(),
            Ring::Packed(ring) => ring.disable_notifications(),
        }
    }

    /// Asks for a notification when more becomes available than the device has seen. True if
    /// more has become available already, in which case none may come.
    pub(super) fn enable_notifications(&mut self) -> Result<bool, RingFault> {
        match self {
            Ring::Split(ring) => ring.enable_notifications(),
            Ring::Packed(ring) => ring.enable_notifications(),
        }
    }
}

#[cfg(test)]
pub(super) mod driver_side;
#[cfg(test)]
mod tests;
