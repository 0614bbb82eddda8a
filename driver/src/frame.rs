//! The frame: a small owned handle to packet memory.
//!
//! A slot in DMA memory is laid out so that the virtio-net header ends where the packet starts,
//! and a packet needs one descriptor. The packet starts a cache line, so one of 64 bytes is one
//! line; the header ends the line in front of it, which neither side writes as long as the header
//! stays the same, and which therefore stays in the caches of both.
//!
//! ```text
//!  0              116         128                                  SLOT_STRIDE
//!  | headroom     | header    | packet ...                                   |
//! ```
//!
//! Bytes for a stream can lie in a long slot, which is as much as sixteen.
//!
//! A frame that is not in a slot is on the heap: when the pool runs low, the receive path copies
//! out, so that an application that keeps frames can not starve the ring.
//!
//! Behind the head of a chain there can also be *links* (`link`): segments whose bytes are a
//! [`Chunk`]'s, shared and not to be written. No handle that safe code can get begins with one.

use std::alloc::dealloc;
use std::cell::UnsafeCell;
use std::fmt;
use std::ptr::NonNull;

use virtroupe_wire::buffer::HEADROOM;
use virtroupe_wire::{Buffer, Offload};

use crate::chunk::Chunk;
use crate::memory::{prefetch_read, prefetch_write};
use crate::pool::{Home, LONG_SLOT, SLOT_STRIDE};
use crate::sync::AtomicU32;

use heap::{heap_header, heap_layout};
use place::Place;

mod buffer;
mod heap;
mod link;
mod place;

/// Length of `struct virtio_net_hdr` with `num_buffers` (virtio 1.3, section 5.1.6).
pub const NET_HEADER: usize = 12;

/// Bytes in a cache line.
const LINE: usize = 64;

/// The longest packet of which more than the headers is fetched before it is read.
const SHORT: usize = 4 * LINE;

/// Where the packet starts in a fresh slot: at a cache line.
pub(crate) const SLOT_DATA: u16 = (HEADROOM + NET_HEADER).next_multiple_of(LINE) as u16;

/// A packet, or a part of one: unique, writable, and `Send`.
///
/// The handle is 24 bytes. Dropping it returns its slot: on the pool's thread to a plain stack,
/// elsewhere through a lock-free list. A long packet is a chain of frames, of which the handle
/// holds the first; see [`Buffer`].
pub struct Frame {
    /// The first byte of the slot or of the heap block.
    base: NonNull<u8>,
    /// The pool's bookkeeping; `None` for the heap.
    home: Option<NonNull<Home>>,
    /// Where the bytes are. See [`Place`].
    place: Place,
}

// SAFETY: a frame is the only handle to its bytes and its tail, and its home takes slots back
// from every thread.
unsafe impl Send for Frame {}
// SAFETY: `&Frame` only reads.
unsafe impl Sync for Frame {}

impl Frame {
    /// Numbers of slots and links are below this.
    pub(crate) const SLOT_LIMIT: u32 = Place::LONG as u32;

    /// A frame of a slot that the caller took from the pool of `home`, whose address is `base`.
    pub(crate) fn in_slot(
        home: NonNull<Home>,
        base: NonNull<u8>,
        slot: u32,
        start: u16,
        length: u16,
    ) -> Self {
        debug_assert!(usize::from(start) + usize::from(length) <= SLOT_STRIDE);
        Frame {
            base,
            home: Some(home),
            place: Place::new(slot, start, length),
        }
    }

    /// The same of a long slot, empty.
    pub(crate) fn in_long_slot(
        home: NonNull<Home>,
        base: NonNull<u8>,
        number: u32,
        start: u16,
    ) -> Self {
        Frame {
            base,
            home: Some(home),
            place: Place(Place::new(number, start, 0).0 | Place::LONG),
        }
    }

    /// Whether the bytes of the head lie on the heap, out of a device's sight.
    pub fn is_on_heap(&self) -> bool {
        self.home.is_none()
    }

    /// Makes the packet one refcounted segment. A chain is copied into one on the heap first,
    /// which holds 65 535 bytes, as much as an IP packet; what exceeds that is cut off.
    pub fn freeze(self) -> Chunk {
        if self.is_chain() {
            let mut bytes = self.to_vec();
            bytes.truncate(usize::from(u16::MAX));
            return Chunk::new(Frame::on_heap_behind(0, &bytes));
        }
        Chunk::new(self)
    }

    /// Takes the chain apart: the head alone, and the rest. A rest that begins with attached
    /// bytes ([`Attach`](virtroupe_wire::tcp::Attach)) begins with a copy of them.
    pub fn split_head(mut self) -> (Frame, Option<Frame>) {
        let tail = self.take_tail().map(Frame::into_head);
        (self, tail)
    }

    /// Starts fetching the first line of the packet, which has its headers, to be written too, as
    /// most packets are answered in their own memory; and of a short packet the second line, which its
    /// checksum covers.
    ///
    /// A device's core has just written them, so the first access would wait for that core. Who
    /// does not read them should not fetch them either: the device would have to take them back. So
    /// the payload of a long packet stays where it is, as its checksum may be left to the device.
    #[inline]
    pub fn prefetch(&self) {
        let data = self.data();
        prefetch_write(data);
        if (LINE + 1..=SHORT).contains(&self.place.length()) {
            // SAFETY: the frame is longer than that.
            prefetch_read(unsafe { data.add(LINE) });
        }
    }

    /// Starts fetching the first line of the packet, which has its headers: for who must only
    /// know where it belongs.
    #[inline]
    pub fn prefetch_head(&self) {
        prefetch_read(self.data());
    }

    /// Grows the packet by `count` bytes at its end and returns them, to be written in place;
    /// `None`, and no change, if its memory ends before, or if it is a chain. Their content is
    /// unspecified: who sends what it did not write sends what was there before.
    #[inline]
    pub fn put(&mut self, count: usize) -> Option<&mut [u8]> {
        let length = self.place.length();
        if self.is_chain() || count > self.segment_room() {
            return None;
        }
        self.place.set_length(length + count);
        self.head_mut().get_mut(length..)
    }

    /// Free bytes behind those of this segment, as far as its length can say.
    #[inline(always)]
    fn segment_room(&self) -> usize {
        let length = self.place.length();
        let free = self.capacity().saturating_sub(self.place.start() + length);
        free.min(usize::from(u16::MAX) - length)
    }

    pub(crate) fn capacity(&self) -> usize {
        match self.home {
            Some(_) if self.is_long() => LONG_SLOT,
            Some(_) => SLOT_STRIDE,
            None => self.place.slot() as usize,
        }
    }

    /// Whether the bytes lie in a long slot that is the frame's own.
    #[inline(always)]
    fn is_long(&self) -> bool {
        self.place.0 & Place::LONG != 0
    }

    pub(crate) fn home(&self) -> Option<NonNull<Home>> {
        self.home
    }

    pub(crate) fn slot(&self) -> u32 {
        self.place.slot()
    }

    /// The address of the first packet byte.
    pub(crate) fn data(&self) -> NonNull<u8> {
        // SAFETY: `start` never exceeds the capacity.
        unsafe { self.base.add(self.place.start()) }
    }

    /// Whether the frame is one slot of the pool of `home`, and asks for no offload. No flag is
    /// set then, so [`slot`](Self::slot) has none to mask.
    #[inline(always)]
    pub(crate) fn is_plain(&self, home: NonNull<Home>) -> bool {
        let flags = Place::CHAINED | Place::OFFLOAD | Place::LINK | Place::LONG;
        self.home == Some(home) && self.place.0 & flags == 0
    }

    /// Whether the frame is one segment of the pool of `home`, in a slot of its own.
    #[inline(always)]
    pub(crate) fn is_single(&self, home: NonNull<Home>) -> bool {
        self.home == Some(home) && self.place.0 & Place::NOT_SINGLE == 0
    }

    /// Whether something is to be done for the packet, or was done: [`Buffer::offload`] says
    /// what.
    #[inline]
    pub fn has_offload(&self) -> bool {
        self.place.0 & Place::OFFLOAD != 0
    }

    /// Writes the virtio-net header in front of the packet, if the headroom has room for it.
    pub(crate) fn write_net_header(&mut self, header: [u8; NET_HEADER]) -> Option<NonNull<u8>> {
        let at = self.place.start().checked_sub(NET_HEADER)?;
        // SAFETY: `at + NET_HEADER` is `start`, inside the block, and the bytes are ours while
        // we hold the frame.
        unsafe {
            let room = self.base.add(at);
            room.copy_from_nonoverlapping(NonNull::from(&header).cast(), NET_HEADER);
            Some(room)
        }
    }

    fn offload_cell(&self) -> &UnsafeCell<Offload> {
        match self.home {
            // SAFETY: the home lives while this frame is out. Only heads have offloads, and no
            // head is a link, so `slot` is below its count.
            Some(home) => unsafe { home.as_ref().offloads.get_unchecked(self.slot() as usize) },
            // SAFETY: as in `tail_cell`.
            None => unsafe { &heap_header(self.base).as_ref().offload },
        }
    }

    /// The `NET_HEADER` bytes in front of the packet, made zero, if the headroom has them.
    /// They are written only if they are not zero yet, because the write costs the device a
    /// cache miss.
    #[inline(always)]
    pub(crate) fn clear_net_header(&mut self) -> Option<NonNull<u8>> {
        let at = self.place.start().checked_sub(NET_HEADER)?;
        // SAFETY: `at + NET_HEADER` is `start`, inside the block, and the bytes are ours while
        // we hold the frame. The accesses are unaligned.
        unsafe {
            let header = self.base.add(at);
            let (low, high) = (header.cast::<u64>(), header.add(8).cast::<u32>());
            if low.read_unaligned() != 0 || high.read_unaligned() != 0 {
                low.write_unaligned(0);
                high.write_unaligned(0);
            }
            Some(header)
        }
    }

    fn tail_cell(&self) -> &UnsafeCell<Option<Frame>> {
        match self.home {
            // SAFETY: the home lives while this frame is out, and there is a tail for each of its
            // slots and links.
            Some(home) => unsafe { home.as_ref().tails.get_unchecked(self.slot() as usize) },
            // SAFETY: a heap block starts with its header.
            None => unsafe { &heap_header(self.base).as_ref().tail },
        }
    }

    pub(crate) fn references(&self) -> &AtomicU32 {
        match self.home {
            // SAFETY: as in `offload_cell`; a chunk is made of a head.
            Some(home) => unsafe { home.as_ref().references.get_unchecked(self.slot() as usize) },
            // SAFETY: as in `tail_cell`.
            None => unsafe { &heap_header(self.base).as_ref().references },
        }
    }

    /// The segment behind the head.
    pub(crate) fn tail(&self) -> Option<&Frame> {
        if !self.is_chain() {
            return None;
        }
        // SAFETY: the cell belongs to the holder of this frame; `&self` keeps writers away.
        unsafe { (*self.tail_cell().get()).as_ref() }
    }

    fn tail_mut(&mut self) -> Option<&mut Frame> {
        if !self.is_chain() {
            return None;
        }
        // SAFETY: the cell belongs to the holder of this frame, here uniquely.
        unsafe { (*self.tail_cell().get()).as_mut() }
    }

    /// Takes the segments behind the head, of which the first may be a link.
    pub(crate) fn take_tail(&mut self) -> Option<Frame> {
        if !self.is_chain() {
            return None;
        }
        self.place.0 &= !Place::CHAINED;
        // SAFETY: as in `tail_mut`.
        unsafe { (*self.tail_cell().get()).take() }
    }

    /// Puts `tail` behind this segment, the last of its chain, and returns it in its place there.
    pub(crate) fn set_tail(&mut self, tail: Frame) -> &mut Frame {
        self.place.0 |= Place::CHAINED;
        // SAFETY: as in `tail_mut`.
        unsafe { (*self.tail_cell().get()).insert(tail) }
    }

    fn last_mut(&mut self) -> &mut Frame {
        let mut last = self;
        while last.is_chain() {
            let cell = last.tail_cell().get();
            // SAFETY: as in `tail_mut`; a frame marked as chained has a tail.
            last = unsafe { (*cell).as_mut().unwrap_unchecked() };
        }
        last
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        if self.place.0 & Place::NOT_SINGLE != 0 && self.let_go() {
            return;
        }
        match self.home {
            // SAFETY: the home lives while this frame is out; this was the only handle.
            Some(home) => unsafe { Home::take_back(home, self.slot()) },
            None => {
                let layout = heap_layout(self.capacity());
                // SAFETY: made by `on_heap` with this layout; the tail is gone.
                unsafe { dealloc(heap_header(self.base).cast().as_ptr(), layout) };
            }
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("len", &self.len())
            .field("chain", &self.is_chain())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(virtroupe_loom)))]
mod tests;
