//! Frames on the heap: a block of bytes behind a header, which holds what a pool keeps in tables beside
//! its slots.

use std::alloc::{Layout, alloc, handle_alloc_error};
use std::cell::UnsafeCell;
use std::ptr::NonNull;

use virtroupe_wire::{Buffer, Offload};

use super::place::Place;
use super::{Frame, SLOT_DATA};
use crate::sync::AtomicU32;

/// Bytes in a segment on the heap: with the headroom, places in it have 16 bits.
const LONGEST_ON_HEAP: usize = 65_000;

/// What stands in front of the bytes of a heap block.
#[repr(C, align(64))]
pub(super) struct HeapHeader {
    pub(super) tail: UnsafeCell<Option<Frame>>,
    pub(super) offload: UnsafeCell<Offload>,
    pub(super) references: AtomicU32,
}

impl Frame {
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
    pub(super) fn on_heap_behind(start: u16, bytes: &[u8]) -> Self {
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
}

pub(super) fn heap_layout(capacity: usize) -> Layout {
    const HEADER: Layout = Layout::new::<HeapHeader>();
    // At most 65 000 bytes and the headroom follow the header: no overflow.
    Layout::from_size_align(HEADER.size() + capacity, HEADER.align()).unwrap_or(HEADER)
}

pub(super) fn heap_header(base: NonNull<u8>) -> NonNull<HeapHeader> {
    // SAFETY: the bytes of a heap block follow its header.
    unsafe { base.sub(size_of::<HeapHeader>()).cast() }
}
