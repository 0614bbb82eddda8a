//! Virtqueues, the driver's side.
//!
//! `split` and `packed` each know the memory format of one ring and nothing of packets; `indirect`
//! writes the tables of long chains; `free` has the descriptors that the device does not hold.
//! [`crate::receive`] and [`crate::transmit`] put frames into rings and keep the private shadow of
//! what was posted, which is what decides; what the device writes is only ever compared with it.
//! They are generic over the trait `Ring`, so the format is chosen once for each queue and costs
//! nothing for a packet.

use std::sync::Arc;

use crate::memory::DmaMemory;
use crate::transport::RingLayout;

pub(crate) mod free;
pub(crate) mod indirect;
pub(crate) mod packed;
pub(crate) mod split;

use split::{SplitRing, Used};

/// The buffer continues in the next descriptor.
pub(crate) const DESC_F_NEXT: u16 = 1;
/// The device writes into the buffer.
pub(crate) const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub(crate) const DESC_F_INDIRECT: u16 = 4;

/// What a queue needs of its ring, whichever the format.
///
/// Both formats hand out buffers under an *id*, the number of a free descriptor that the queue
/// chose. A chain takes as many ids as it has descriptors and is known by its first, its *head*;
/// so the number of free ids is the number of free descriptors in either format.
pub(crate) trait Ring: Sized {
    /// A view of the zeroed ring at `layout`; `None` if it is not inside `memory`, not aligned,
    /// or of a size that the format does not have.
    fn new(
        memory: Arc<DmaMemory>,
        layout: &RingLayout,
        event_idx: bool,
        in_order: bool,
    ) -> Option<Self>;

    /// Number of descriptors.
    fn size(&self) -> u16;

    /// Whether the device uses buffers in order and may write one entry for a batch.
    fn in_order(&self) -> bool;

    /// How many of `count` descriptors to write now, so that the next burst starts where devices
    /// like it; at least 1 unless `count` is 0.
    fn aligned_count(&self, count: usize) -> usize;

    /// How many of the next `count` descriptors [`push_run`](Self::push_run) writes in one go.
    fn contiguous(&self, count: usize) -> usize;

    /// Starts fetching the lines of `count` descriptors, `skip` behind the next, which is `id`.
    fn prefetch_descriptors(&self, id: u16, skip: usize, count: usize);

    /// Writes the next descriptor of the chain `head`: `id`, which goes on at `next` if `flags`
    /// say so.
    fn write_descriptor(
        &mut self,
        head: u16,
        id: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    );

    /// Writes buffers of one descriptor each, unpublished: under each of `ids` that of the item that
    /// belongs to it, whose address and length `buffer` gives. Ends where that gives none, where
    /// ids or items do, or at the end of the ring; then it is to be called again for the rest.
    /// Returns how many were written. In one go, so that what is the same for all of them stays in
    /// registers.
    fn push_run<T>(
        &mut self,
        flags: u16,
        ids: &[u16],
        items: impl Iterator<Item = T>,
        buffer: impl FnMut(u16, T) -> Option<(u64, u32)>,
    ) -> usize;

    /// The two words of entry `index` of an indirect table (sections 2.7.5.3 and 2.8.7).
    fn indirect_entry(index: u16, is_last: bool, address: u64, length: u32) -> [u64; 2];

    /// Ends the chain `head`, whose descriptors are written. Nobody sees it yet.
    fn push_avail(&mut self, head: u16);

    /// Shows the device all that was pushed. Returns whether it wants a notification.
    fn publish(&mut self) -> bool;

    /// The most chains that the device may have used since the last
    /// [`advance_used`](Self::advance_used), given that it holds `outstanding`; 0 only if it used
    /// none. [`used_at`](Self::used_at) tells of each.
    fn used_pending(&self, outstanding: u16) -> Result<u16, Violation>;

    /// The used entry `place` behind the current position, if there is one, given that
    /// `used_pending` counts it. Places are entries of chains of one descriptor. What it says is
    /// not trusted.
    fn used_at(&self, place: u16) -> Option<Used>;

    /// The used entries from `place` behind the current position on: at most `count`, not beyond
    /// the end of the ring, and until there is none. As [`used_at`](Self::used_at), in one go.
    fn used_run(&self, place: u16, count: u16) -> impl Iterator<Item = Used>;

    /// Moves past the used entry of `chains` chains that had `descriptors` descriptors.
    fn advance_used(&mut self, chains: u16, descriptors: u16);

    /// Asks the device not to interrupt: a hint.
    fn suppress_interrupts(&mut self);

    /// Asks for an interrupt at the next used buffer. If buffers were used meanwhile, no
    /// interrupt may come: look once more.
    fn request_interrupt(&mut self);
}

impl Ring for SplitRing {
    fn new(
        memory: Arc<DmaMemory>,
        layout: &RingLayout,
        event_idx: bool,
        in_order: bool,
    ) -> Option<Self> {
        SplitRing::new(memory, layout, event_idx, in_order)
    }

    #[inline]
    fn size(&self) -> u16 {
        SplitRing::size(self)
    }

    #[inline]
    fn in_order(&self) -> bool {
        SplitRing::in_order(self)
    }

    #[inline]
    fn aligned_count(&self, count: usize) -> usize {
        count
    }

    #[inline]
    fn contiguous(&self, count: usize) -> usize {
        count
    }

    #[inline]
    fn prefetch_descriptors(&self, id: u16, skip: usize, count: usize) {
        SplitRing::prefetch_descriptors(self, id.wrapping_add(skip as u16), count);
    }

    #[inline]
    fn write_descriptor(
        &mut self,
        _head: u16,
        id: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        SplitRing::write_descriptor(self, id, address, length, flags, next);
    }

    #[inline(always)]
    fn push_run<T>(
        &mut self,
        flags: u16,
        ids: &[u16],
        items: impl Iterator<Item = T>,
        buffer: impl FnMut(u16, T) -> Option<(u64, u32)>,
    ) -> usize {
        SplitRing::push_run(self, flags, ids, items, buffer)
    }

    fn indirect_entry(index: u16, is_last: bool, address: u64, length: u32) -> [u64; 2] {
        let (flags, next) = if is_last {
            (0, 0)
        } else {
            (DESC_F_NEXT, index + 1)
        };
        let rest = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
        [address, rest]
    }

    #[inline]
    fn push_avail(&mut self, head: u16) {
        SplitRing::push_avail(self, head);
    }

    #[inline]
    fn publish(&mut self) -> bool {
        SplitRing::publish(self)
    }

    #[inline]
    fn used_pending(&self, outstanding: u16) -> Result<u16, Violation> {
        SplitRing::used_pending(self, outstanding)
    }

    /// The used index counted them exactly: there is one.
    #[inline(always)]
    fn used_at(&self, place: u16) -> Option<Used> {
        Some(SplitRing::peek_used(self, place))
    }

    #[inline(always)]
    fn used_run(&self, place: u16, count: u16) -> impl Iterator<Item = Used> {
        SplitRing::used_run(self, place, count)
    }

    #[inline]
    fn advance_used(&mut self, chains: u16, _descriptors: u16) {
        SplitRing::advance_used(self, chains);
    }

    fn suppress_interrupts(&mut self) {
        SplitRing::suppress_interrupts(self);
    }

    fn request_interrupt(&mut self) {
        SplitRing::request_interrupt(self);
    }
}

/// The device broke the rules of the ring. The queue is unusable until the device is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The used index moved further than there are buffers outstanding.
    #[error("used index {used} is beyond the {outstanding} buffers outstanding since {last}")]
    UsedIndex {
        /// What the device wrote.
        used: u16,
        /// The index up to which used buffers were taken.
        last: u16,
        /// Number of buffers that the device holds.
        outstanding: u16,
    },
    /// A used entry names a descriptor that the device does not hold.
    #[error("used descriptor {0} is not outstanding")]
    UsedId(u32),
    /// A used length is shorter than the header or longer than the buffer.
    #[error("used length {length} is not within {shortest}..={longest}")]
    UsedLength {
        /// What the device wrote.
        length: u32,
        /// The length of the virtio-net header; 1 where there is none.
        shortest: u32,
        /// The length of the buffer.
        longest: u32,
    },
    /// A received frame spans no buffer, or more than the device has used (`num_buffers`).
    #[error("a frame spans {buffers} buffers, but {used} are used")]
    MergedBuffers {
        /// What the device wrote.
        buffers: u16,
        /// Buffers that it has used, from the first of the frame on, as far as we looked.
        used: u16,
    },
    /// A received frame spans more buffers than the longest packet needs, however badly a device
    /// uses them.
    #[error("a frame spans {buffers} buffers, more than {most}")]
    MergedCount {
        /// What the device wrote.
        buffers: u16,
        /// Four times what the longest frame needs.
        most: u16,
    },
    /// A received frame is longer than any packet.
    #[error("a frame in merged buffers has {length} bytes, more than {longest}")]
    MergedLength {
        /// Its length, as far as it was added up.
        length: u32,
        /// The longest IP packet in the longest Ethernet frame.
        longest: u32,
    },
    /// The virtio-net header of a received frame says what was not negotiated, or of a checksum
    /// beyond the end of the frame. What else does not fit to a packet may be its sender's fault: such
    /// a frame is dropped (`ReceiveCounters::drops`).
    #[error(
        "the header of a frame of {length} bytes says flags {flags:#x}, GSO type {gso_type:#x} of {gso_size} bytes, checksum at {checksum:?}, which was not negotiated or is beyond the end"
    )]
    NetHeader {
        /// `VIRTIO_NET_HDR_F_*`.
        flags: u8,
        /// `VIRTIO_NET_HDR_GSO_*`.
        gso_type: u8,
        /// Bytes of payload in each piece.
        gso_size: u16,
        /// Where the checksum begins, and where it is stored from there.
        checksum: (u16, u16),
        /// The length of the frame.
        length: u32,
    },
}
