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
//! A frame that is not in a slot is on the heap: when the pool runs low, the receive path copies
//! out, so that an application that keeps frames can not starve the ring.
//!
//! Behind the head of a chain there can also be *links* (`link`): segments whose bytes are a
//! [`Chunk`]'s, shared and not to be written. No handle that safe code can get begins with one.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::UnsafeCell;
use std::fmt;
use std::ptr::NonNull;

use virtroupe_wire::buffer::HEADROOM;
use virtroupe_wire::{Buffer, Offload};

use crate::chunk::Chunk;
use crate::memory::{prefetch_read, prefetch_write};
use crate::pool::{Home, SLOT_STRIDE};
use crate::sync::AtomicU32;

mod link;

/// Length of `struct virtio_net_hdr` with `num_buffers` (virtio 1.3, section 5.1.6).
pub const NET_HEADER: usize = 12;

/// Bytes in a cache line.
const LINE: usize = 64;

/// Where the packet starts in a fresh slot: at a cache line.
pub(crate) const SLOT_DATA: u16 = (HEADROOM + NET_HEADER).next_multiple_of(LINE) as u16;

/// Bytes in a segment on the heap: with the headroom, places in it have 16 bits.
const LONGEST_ON_HEAP: usize = 65_000;

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

/// From the lowest bit: the number of the slot or link, or the capacity of the heap block (29
/// bits), whether it is a link (1), whether there is an offload (1), whether there is a tail (1),
/// where the packet starts (16), and its length (16).
///
/// One number, because a frame is changed in part and moved whole: a load that spans a narrower
/// store just before it waits until that store has left the core.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    const LINK: u64 = 1 << 29;
    const OFFLOAD: u64 = 1 << 30;
    const CHAINED: u64 = 1 << 31;
    const START: u32 = 32;
    const LENGTH: u32 = 48;

    fn new(slot: u32, start: u16, length: u16) -> Self {
        Place(u64::from(slot) | u64::from(start) << Self::START | u64::from(length) << Self::LENGTH)
    }

    #[inline(always)]
    fn slot(self) -> u32 {
        self.0 as u32 & (Self::LINK as u32 - 1)
    }

    #[inline(always)]
    fn start(self) -> usize {
        usize::from((self.0 >> Self::START) as u16)
    }

    #[inline(always)]
    fn length(self) -> usize {
        (self.0 >> Self::LENGTH) as usize
    }

    /// Moves the start back by `count`, at most the start and what keeps the length in 16 bits.
    #[inline(always)]
    fn grow_front(&mut self, count: usize) {
        let count = count as u64;
        self.0 = self
            .0
            .wrapping_sub(count << Self::START)
            .wrapping_add(count << Self::LENGTH);
    }

    /// Moves the start on by `count`, at most the length.
    #[inline(always)]
    fn shrink_front(&mut self, count: usize) {
        let count = count as u64;
        self.0 = self
            .0
            .wrapping_add(count << Self::START)
            .wrapping_sub(count << Self::LENGTH);
    }

    #[inline(always)]
    fn set_length(&mut self, length: usize) {
        self.0 = self.0 & ((1 << Self::LENGTH) - 1) | (length as u64) << Self::LENGTH;
    }
}

// SAFETY: a frame is the only handle to its bytes and its tail, and its home takes slots back
// from every thread.
unsafe impl Send for Frame {}
// SAFETY: `&Frame` only reads.
unsafe impl Sync for Frame {}

/// What stands in front of the bytes of a heap block.
#[repr(C, align(64))]
struct HeapHeader {
    tail: UnsafeCell<Option<Frame>>,
    offload: UnsafeCell<Offload>,
    references: AtomicU32,
}

impl Frame {
    /// Numbers of slots and links are below this.
    pub(crate) const SLOT_LIMIT: u32 = Place::LINK as u32;

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

    /// A frame on the heap that holds a copy of `bytes` behind the usual headroom: in one segment
    /// up to 65 000 bytes, else in a chain of such.
    pub fn on_heap(bytes: &[u8]) -> Self {
        let (head, rest) = bytes.split_at(bytes.len().min(LONGEST_ON_HEAP));
        let mut frame = Self::on_heap_behind(SLOT_DATA, head);
        for segment in rest.chunks(LONGEST_ON_HEAP) {
            frame.append(Self::on_heap_behind(SLOT_DATA, segment));
        }
        frame
    }

    /// A frame on the heap that holds a copy of `bytes` behind `start` bytes of headroom;
    /// together at most 65 535 bytes.
    fn on_heap_behind(start: u16, bytes: &[u8]) -> Self {
        debug_assert!(usize::from(start) + bytes.len() <= usize::from(u16::MAX));
        let capacity = usize::from(start) + bytes.len();
        let layout = heap_layout(capacity);
        // SAFETY: the layout has a size above zero.
        let Some(block) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        let header = HeapHeader {
            tail: UnsafeCell::new(None),
            offload: UnsafeCell::new(Offload::NONE),
            references: AtomicU32::new(0),
        };
        // SAFETY: the block is fresh, large enough for the header and `capacity` bytes, and
        // aligned for the header. The headroom is zeroed, so that no byte is uninitialised.
        let base = unsafe {
            block.cast::<HeapHeader>().write(header);
            let base = block.add(size_of::<HeapHeader>());
            base.write_bytes(0, usize::from(start));
            base.add(usize::from(start))
                .copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
            base
        };
        Frame {
            base,
            home: None,
            place: Place::new(capacity as u32, start, bytes.len() as u16),
        }
    }

    /// A copy on the heap of all segments, with the description of what is to be done for the
    /// packet, or was done.
    pub fn copy_to_heap(&self) -> Self {
        let mut copy = match self.is_chain() {
            true => Self::on_heap(&self.to_vec()),
            false => Self::on_heap(self.head()),
        };
        if self.has_offload() {
            copy.set_offload(self.offload());
        }
        copy
    }

    /// Puts a copy on the heap in place of the packet, whose slots go home.
    #[inline(always)]
    pub(crate) fn move_to_heap(&mut self) {
        *self = self.copy_to_heap();
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

    /// Starts fetching the first two lines of the packet: the headers, and more of what its
    /// checksum covers. The first is fetched to be written too, as most packets are answered in
    /// their own memory.
    ///
    /// A device's core has just written them, so the first access would wait for that core. Who
    /// does not read them should not fetch them either: the device would have to take them back.
    #[inline]
    pub fn prefetch(&self) {
        let data = self.data();
        prefetch_write(data);
        if self.place.length() > LINE {
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
        if self.home.is_some() {
            SLOT_STRIDE
        } else {
            self.place.slot() as usize
        }
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

    /// Whether the frame is one segment of the pool of `home`, and asks for no offload. No flag is
    /// set then, so [`slot`](Self::slot) has none to mask.
    #[inline(always)]
    pub(crate) fn is_plain(&self, home: NonNull<Home>) -> bool {
        let flags = Place::CHAINED | Place::OFFLOAD | Place::LINK;
        self.home == Some(home) && self.place.0 & flags == 0
    }

    /// Whether the frame is one segment of the pool of `home`, in a slot of its own.
    #[inline(always)]
    pub(crate) fn is_single(&self, home: NonNull<Home>) -> bool {
        self.home == Some(home) && self.place.0 & (Place::CHAINED | Place::LINK) == 0
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

impl Buffer for Frame {
    #[inline]
    fn head(&self) -> &[u8] {
        // SAFETY: `start + length` is at most the capacity, and the bytes are initialised
        // (memfd pages are zeroed, heap blocks written). A device that still writes into them
        // after it gave the buffer back breaks its standard; the bytes are then arbitrary, and
        // every parser is total over arbitrary bytes.
        unsafe { std::slice::from_raw_parts(self.data().as_ptr(), self.place.length()) }
    }

    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `head`, and the handle is unique.
        unsafe { std::slice::from_raw_parts_mut(self.data().as_ptr(), self.place.length()) }
    }

    #[inline]
    fn len(&self) -> usize {
        let mut length = self.place.length();
        let mut tail = self.tail();
        while let Some(frame) = tail {
            length += frame.place.length();
            tail = frame.tail();
        }
        length
    }

    /// Copies to the heap what lies in slots.
    fn detach(&mut self) {
        let offload = self.offload();
        let copy = match self.is_chain() {
            true => Frame::on_heap(&self.to_vec()),
            false if self.is_on_heap() => return,
            false => Frame::on_heap(self.head()),
        };
        *self = copy;
        self.set_offload(offload);
    }

    fn memory(&self) -> usize {
        let mut memory = self.capacity();
        let mut tail = self.tail();
        while let Some(frame) = tail {
            memory += frame.capacity();
            tail = frame.tail();
        }
        memory
    }

    #[inline]
    fn headroom(&self) -> usize {
        // The virtio-net header has its place in front of every packet that is sent.
        self.place.start().saturating_sub(NET_HEADER)
    }

    #[inline]
    fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.headroom() || self.place.length() + count > usize::from(u16::MAX) {
            return None;
        }
        self.place.grow_front(count);
        self.head_mut().get_mut(..count)
    }

    #[inline]
    fn trim_front(&mut self, count: usize) {
        let head = count.min(self.place.length());
        self.place.shrink_front(head);
        if self.place.length() == 0 && self.is_chain() {
            self.trim_chain(count - head);
        }
    }

    fn truncate(&mut self, length: usize) {
        if length <= self.place.length() {
            self.place.set_length(length);
            drop(self.take_tail());
            return;
        }
        let mut rest = length - self.place.length();
        let mut frame = self;
        while let Some(next) = frame.tail_mut() {
            if rest <= next.place.length() {
                next.place.set_length(rest);
                drop(next.take_tail());
                return;
            }
            rest -= next.place.length();
            frame = next;
        }
    }

    fn extend_from_slice(&mut self, bytes: &[u8]) -> bool {
        match self.is_chain() {
            true => self.extend_chain(bytes),
            false => self.extend_segment(bytes),
        }
    }

    fn tailroom(&self) -> usize {
        let mut last = self;
        while let Some(next) = last.tail() {
            last = next;
        }
        if last.is_link() {
            0
        } else {
            last.segment_room()
        }
    }

    fn append(&mut self, tail: Self) {
        self.last_mut().set_tail(tail);
    }

    #[inline]
    fn is_chain(&self) -> bool {
        self.place.0 & Place::CHAINED != 0
    }

    #[inline(always)]
    fn is_simple(&self) -> bool {
        self.place.0 & (Place::CHAINED | Place::OFFLOAD) == 0
    }

    #[inline]
    fn offload(&self) -> Offload {
        if !self.has_offload() {
            return Offload::NONE;
        }
        // SAFETY: the cell belongs to the holder of this frame; `&self` keeps writers away.
        unsafe { *self.offload_cell().get() }
    }

    fn set_offload(&mut self, offload: Offload) -> bool {
        if offload.is_none() {
            self.place.0 &= !Place::OFFLOAD;
        } else {
            // SAFETY: as in `offload`, here uniquely.
            unsafe { *self.offload_cell().get() = offload };
            self.place.0 |= Place::OFFLOAD;
        }
        true
    }

    fn for_each_segment(&self, mut visit: impl FnMut(&[u8])) {
        visit(self.head());
        let mut tail = self.tail();
        while let Some(frame) = tail {
            visit(frame.head());
            tail = frame.tail();
        }
    }
}

impl Frame {
    /// Copies `bytes` behind those of this segment, if there is room.
    #[inline(always)]
    fn extend_segment(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.segment_room() {
            return false;
        }
        let end = self.place.start() + self.place.length();
        // SAFETY: `end + bytes.len()` is at most the capacity; `bytes` can not overlap memory
        // that this handle owns uniquely, as it is no link.
        unsafe {
            self.base
                .add(end)
                .copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len())
        };
        self.place.set_length(self.place.length() + bytes.len());
        true
    }

    /// The same for the last segment, if it is not shared.
    fn extend_chain(&mut self, bytes: &[u8]) -> bool {
        let last = self.last_mut();
        !last.is_link() && last.extend_segment(bytes)
    }

    /// Removes `count` bytes behind an empty head, and the segments that are then empty. The
    /// offload is the packet's and stays.
    #[cold]
    fn trim_chain(&mut self, mut count: usize) {
        let offload = self.offload();
        while self.place.length() == 0
            && let Some(mut next) = self.take_tail()
        {
            let here = count.min(next.place.length());
            next.place.shrink_front(here);
            count -= here;
            *self = next.into_head();
        }
        self.set_offload(offload);
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        if self.place.0 & (Place::CHAINED | Place::LINK) != 0 && self.let_go() {
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

fn heap_layout(capacity: usize) -> Layout {
    const HEADER: Layout = Layout::new::<HeapHeader>();
    // At most 65 000 bytes and the headroom follow the header: no overflow.
    Layout::from_size_align(HEADER.size() + capacity, HEADER.align()).unwrap_or(HEADER)
}

fn heap_header(base: NonNull<u8>) -> NonNull<HeapHeader> {
    // SAFETY: the bytes of a heap block follow its header.
    unsafe { base.sub(size_of::<HeapHeader>()).cast() }
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
