//! The memory that a packet lives in, as the engines see it.
//!
//! The engines never own a pool and never know what a ring is. They work on any type that is a
//! [`Buffer`]: bytes with room in front for headers, possibly a chain of several segments. The
//! driver's DMA frame is one such type; [`HeapBuffer`] is another, for programs that drive the
//! engines without a device.

use bytes::Bytes;

use crate::offload::Offload;

/// A unique, writable packet: one segment, or a chain of several.
///
/// The *head* is the first segment. Headers are pushed and removed there; only the head has
/// headroom. No method panics: requests that do not fit are refused or clamped as each says.
pub trait Buffer: Sized {
    /// The bytes of the head.
    fn head(&self) -> &[u8];

    /// The bytes of the head, writable.
    fn head_mut(&mut self) -> &mut [u8];

    /// The length in bytes over all segments.
    fn len(&self) -> usize;

    /// Whether no segment holds a byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Free bytes in front of the head, which [`prepend`](Buffer::prepend) can take.
    fn headroom(&self) -> usize;

    /// Grows the head by `count` bytes at its front and returns them (their content is
    /// unspecified), or `None`, and no change, if the headroom is smaller.
    fn prepend(&mut self, count: usize) -> Option<&mut [u8]>;

    /// Removes `count` bytes from the front; within the head they become headroom. Removes all
    /// bytes if there are fewer. Segments that become empty leave the chain.
    fn trim_front(&mut self, count: usize);

    /// Shortens the packet to `length` bytes over all segments; no change if it is shorter.
    fn truncate(&mut self, length: usize);

    /// The packet, of one segment, without its first `front` bytes and cut to `length`:
    /// [`trim_front`](Self::trim_front) and [`truncate`](Self::truncate), for packets on their way
    /// from one place to another. Given by value, so that they need not lie in memory between the
    /// two. What is left of a chain is unspecified.
    fn narrow(mut self, front: usize, length: usize) -> Self {
        self.trim_front(front);
        self.truncate(length);
        self
    }

    /// Copies `bytes` behind the last byte of the last segment. Returns false, and copies
    /// nothing, if there is not enough room behind it, or its memory is shared with others.
    fn extend_from_slice(&mut self, bytes: &[u8]) -> bool;

    /// The most bytes that [`extend_from_slice`](Self::extend_from_slice) would copy now: the room
    /// behind the last byte of the last segment, none if its memory is shared. 0 by default, for
    /// memory that does not tell: then nothing is split to fill it.
    fn tailroom(&self) -> usize {
        0
    }

    /// Appends `tail` (itself possibly a chain) to the chain. No byte is copied.
    fn append(&mut self, tail: Self);

    /// Whether the packet has more than one segment.
    fn is_chain(&self) -> bool;

    /// Whether the packet has one segment and no [`offload`](Buffer::offload): the common case.
    fn is_simple(&self) -> bool {
        !self.is_chain() && self.offload().is_none()
    }

    /// Bytes of memory that the packet holds on to, over all segments: what a limit on memory
    /// must count, since a short packet may occupy a long slot. The default guesses a slot of
    /// 2 KiB, or what is visible if that is more.
    fn memory(&self) -> usize {
        (self.headroom() + self.len()).max(2048)
    }

    /// Moves the packet out of memory that is scarce, if it lies there: by copying, for packets
    /// that may be kept for long. Does nothing by default.
    fn detach(&mut self) {}

    /// What is to be done for the packet, or was done; nothing by default. Its offsets count from
    /// the Ethernet header, wherever the head begins now: headers may be pushed in front of it,
    /// or removed, and the description does not change.
    fn offload(&self) -> Offload {
        Offload::NONE
    }

    /// Describes what is to be done for the packet. Returns false if this kind of memory can not
    /// keep that: then it must be done before.
    fn set_offload(&mut self, offload: Offload) -> bool {
        offload.is_none()
    }

    /// Calls `visit` with the bytes of each segment, front to back.
    fn for_each_segment(&self, visit: impl FnMut(&[u8]));

    /// The bytes of all segments as one vector. Copies.
    fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        self.for_each_segment(|segment| all.extend_from_slice(segment));
        all
    }
}

/// Where an engine gets memory for packets that it makes itself (ARP, ICMP, fragments, copies).
pub trait Allocator {
    /// The kind of packet memory that this allocator hands out.
    type Buffer: Buffer;

    /// An empty buffer of one segment with at least [`HEADROOM`] bytes of headroom and room
    /// for `capacity` bytes behind it; `None` if memory is short or no segment is that long.
    fn allocate(&mut self, capacity: usize) -> Option<Self::Buffer>;

    /// The largest capacity of a segment in bytes: what is longer becomes a chain. By default that
    /// of the longest untagged Ethernet frame at the usual MTU, 1514, which every allocator has to
    /// have. Say more where there is more: chains are then shorter, and waste less.
    fn longest_segment(&self) -> usize {
        USUAL_FRAME
    }
}

/// Bytes of an Ethernet frame with an IP packet of 1500 bytes.
const USUAL_FRAME: usize = 1514;

/// Headroom in bytes that an [`Allocator`] guarantees: Ethernet with a VLAN tag (18), and an
/// IPv6 header with some extension, or IPv4 with options, fit into it.
pub const HEADROOM: usize = 64;

/// Copies `bytes` behind `buffer`, chaining more memory where a segment is full. Returns false if
/// memory is short; what was copied until then stays.
pub(crate) fn extend<A: Allocator>(buffer: &mut A::Buffer, mut bytes: &[u8], pool: &mut A) -> bool {
    if buffer.extend_from_slice(bytes) {
        return true;
    }
    let (here, behind) = bytes.split_at(bytes.len().min(buffer.tailroom()));
    if !here.is_empty() && buffer.extend_from_slice(here) {
        bytes = behind;
    }
    while !bytes.is_empty() {
        let Some((mut segment, room)) = allocate_up_to(pool, bytes.len()) else {
            return false;
        };
        let (now, later) = bytes.split_at(bytes.len().min(room));
        if !segment.extend_from_slice(now) {
            return false;
        }
        bytes = later;
        buffer.append(segment);
    }
    true
}

/// A buffer for `capacity` bytes, or for as many as a segment has; and its capacity.
pub(crate) fn allocate_up_to<A: Allocator>(
    pool: &mut A,
    capacity: usize,
) -> Option<(A::Buffer, usize)> {
    let capacity = capacity.min(pool.longest_segment());
    Some((pool.allocate(capacity)?, capacity))
}

/// Application bytes on their way to the wire.
///
/// A `Buffer` that was asked from the stack, or that arrived from it, is sent where it lies if
/// its headroom allows. `Bytes` are copied once.
#[derive(Debug)]
pub enum Payload<B> {
    /// Packet memory; sent in place when possible.
    Buffer(B),
    /// Shared bytes; copied into packet memory.
    Bytes(Bytes),
    /// No byte.
    Empty,
}

impl<B: Buffer> Payload<B> {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Payload::Buffer(buffer) => buffer.len(),
            Payload::Bytes(bytes) => bytes.len(),
            Payload::Empty => 0,
        }
    }

    /// Calls `visit` with the bytes of each segment, front to back.
    pub fn for_each_segment(&self, mut visit: impl FnMut(&[u8])) {
        match self {
            Payload::Buffer(buffer) => buffer.for_each_segment(visit),
            Payload::Bytes(bytes) => visit(bytes),
            Payload::Empty => {}
        }
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<B> From<Bytes> for Payload<B> {
    fn from(bytes: Bytes) -> Self {
        Payload::Bytes(bytes)
    }
}

/// A [`Buffer`] on the heap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeapBuffer {
    head: HeapSegment,
    /// The segments behind the head: none, but in a chain.
    others: Vec<HeapSegment>,
    offload: Offload,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct HeapSegment {
    bytes: Vec<u8>,
    start: usize,
}

impl HeapSegment {
    #[inline]
    fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    #[inline]
    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }
}

impl HeapBuffer {
    /// A buffer that holds a copy of `bytes`, behind [`HEADROOM`] bytes of headroom.
    pub fn new(bytes: &[u8]) -> Self {
        Self::with_room(bytes, 0)
    }

    /// As [`new`](Self::new), with memory for `room` bytes behind them.
    fn with_room(bytes: &[u8], room: usize) -> Self {
        let mut memory = Vec::with_capacity(HEADROOM + bytes.len() + room);
        memory.extend_from_slice(&[0; HEADROOM]);
        memory.extend_from_slice(bytes);
        HeapBuffer {
            head: HeapSegment {
                bytes: memory,
                start: HEADROOM,
            },
            others: Vec::new(),
            offload: Offload::NONE,
        }
    }

    fn last_mut(&mut self) -> &mut HeapSegment {
        self.others.last_mut().unwrap_or(&mut self.head)
    }
}

impl Buffer for HeapBuffer {
    #[inline]
    fn head(&self) -> &[u8] {
        self.head.as_slice()
    }

    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        self.head
            .bytes
            .get_mut(self.head.start..)
            .unwrap_or_default()
    }

    #[inline]
    fn len(&self) -> usize {
        self.head.len() + self.others.iter().map(HeapSegment::len).sum::<usize>()
    }

    fn headroom(&self) -> usize {
        self.head.start
    }

    fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        let end = self.head.start;
        self.head.start = end.checked_sub(count)?;
        self.head.bytes.get_mut(self.head.start..end)
    }

    fn trim_front(&mut self, mut count: usize) {
        while count >= self.head.len() && !self.others.is_empty() {
            count -= self.head.len();
            self.head = self.others.remove(0);
        }
        self.head.start += count.min(self.head.len());
    }

    fn truncate(&mut self, length: usize) {
        let head = self.head.len().min(length);
        self.head.bytes.truncate(self.head.start + head);
        let mut left = length - head;
        let mut keep = 0;
        for (index, segment) in self.others.iter_mut().enumerate() {
            let here = segment.len().min(left);
            segment.bytes.truncate(segment.start + here);
            left -= here;
            if here > 0 {
                keep = index + 1;
            }
        }
        self.others.truncate(keep);
    }

    fn extend_from_slice(&mut self, bytes: &[u8]) -> bool {
        self.last_mut().bytes.extend_from_slice(bytes);
        true
    }

    /// The heap grows.
    fn tailroom(&self) -> usize {
        usize::MAX
    }

    fn append(&mut self, tail: Self) {
        self.others.push(tail.head);
        self.others.extend(tail.others);
    }

    #[inline]
    fn is_chain(&self) -> bool {
        !self.others.is_empty()
    }

    fn offload(&self) -> Offload {
        self.offload
    }

    fn set_offload(&mut self, offload: Offload) -> bool {
        self.offload = offload;
        true
    }

    #[inline]
    fn for_each_segment(&self, mut visit: impl FnMut(&[u8])) {
        visit(self.head.as_slice());
        for segment in &self.others {
            visit(segment.as_slice());
        }
    }
}

/// An [`Allocator`] of [`HeapBuffer`]s, without limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heap;

impl Allocator for Heap {
    type Buffer = HeapBuffer;

    fn allocate(&mut self, capacity: usize) -> Option<HeapBuffer> {
        Some(HeapBuffer::with_room(&[], capacity))
    }

    fn longest_segment(&self) -> usize {
        usize::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_pushed_into_the_headroom_and_removed_again() {
        let mut buffer = HeapBuffer::new(b"payload");
        buffer
            .prepend(4)
            .expect("there is headroom")
            .copy_from_slice(b"head");
        assert_eq!(buffer.head(), b"headpayload");
        buffer.trim_front(4);
        assert_eq!(buffer.head(), b"payload");
        assert_eq!(buffer.headroom(), HEADROOM);
        assert!(buffer.prepend(HEADROOM + 1).is_none());
        assert_eq!(buffer.head(), b"payload");
    }

    #[test]
    fn a_chain_trims_over_its_segments() {
        let mut buffer = HeapBuffer::new(b"abc");
        buffer.append(HeapBuffer::new(b"def"));
        assert!(buffer.is_chain());
        buffer.trim_front(4);
        buffer.truncate(1);
        assert_eq!(buffer.to_vec(), b"e");
        assert!(!buffer.is_chain());
        buffer.trim_front(9);
        assert!(buffer.is_empty());
    }
}
