//! A frame as the packet memory of the engines: reading, growing and cutting it at both ends, and chains.

use std::ptr::NonNull;

use virtroupe_wire::{Buffer, Offload};

use super::place::Place;
use super::{Frame, NET_HEADER};

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
            // A link may show more than a slot holds: bytes of a long one.
            memory += frame.capacity().max(frame.place.length());
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

    #[inline(always)]
    fn narrow(mut self, front: usize, length: usize) -> Self {
        let before = self.place.length();
        let front = front.min(before);
        self.place.shrink_front(front);
        self.place.set_length(length.min(before - front));
        self
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
