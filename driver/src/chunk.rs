//! The chunk: shared, immutable packet memory.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Bound, Deref, RangeBounds};

use bytes::{Buf, Bytes};
use virtroupe_wire::{Buffer, Offload};

use crate::frame::Frame;
use crate::sync::{Ordering, fence};

/// A refcounted, immutable range of packet memory, made by [`Frame::freeze`].
///
/// Clones and slices share the memory, which goes home with the last of them. The count lies
/// outside device memory. Cloning costs one atomic addition. Converting into [`Bytes`] costs an
/// allocation, as `Bytes::from_owner` does.
pub struct Chunk {
    /// Not chained, and dropped by the last chunk only.
    frame: ManuallyDrop<Frame>,
    start: u16,
    length: u16,
}

impl Chunk {
    /// What is to be done for a packet, or was done, is not said of parts of it.
    pub(crate) fn new(mut frame: Frame) -> Self {
        frame.set_offload(Offload::NONE);
        let length = frame.head().len() as u16;
        frame.references().store(1, Ordering::Relaxed);
        Chunk {
            frame: ManuallyDrop::new(frame),
            start: 0,
            length,
        }
    }

    /// The frame again, of these bytes, if no other chunk refers to its memory: to append to it,
    /// for example.
    ///
    /// # Errors
    /// Gives the chunk back if there are others.
    pub fn try_into_frame(self) -> Result<Frame, Chunk> {
        // Acquire: what others did with the memory happens before it is written.
        if self.frame.references().load(Ordering::Acquire) != 1 {
            return Err(self);
        }
        let mut chunk = ManuallyDrop::new(self);
        // SAFETY: the last chunk, which is not dropped: the frame has this one handle.
        let mut frame = unsafe { ManuallyDrop::take(&mut chunk.frame) };
        frame.truncate(chunk.start() + usize::from(chunk.length));
        frame.trim_front(chunk.start());
        Ok(frame)
    }

    /// Where the bytes lie; [`start`](Self::start) says from which byte of it on.
    pub(crate) fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The first byte of the chunk in its frame.
    pub(crate) fn start(&self) -> usize {
        usize::from(self.start)
    }

    /// The same memory, narrowed to `range` of this chunk; the range is cut to what there is.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Chunk {
        let length = usize::from(self.length);
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => length,
        };
        let end = end.min(length);
        let start = start.min(end);
        let mut chunk = self.clone();
        chunk.start += start as u16;
        chunk.length = (end - start) as u16;
        chunk
    }
}

/// References to one frame, far from where the count would wrap and free memory in use: only
/// a program that forgets clones for ever comes here.
const MOST_REFERENCES: u32 = u32::MAX / 2;

#[cold]
fn too_many(frame: &Frame) -> ! {
    frame.references().fetch_sub(1, Ordering::Relaxed);
    panic!("more than {MOST_REFERENCES} chunks of one frame; drop clones, do not forget them");
}

impl Clone for Chunk {
    /// # Panics
    /// If there are 2^31 clones already.
    fn clone(&self) -> Self {
        // Relaxed: whoever clones already has a reference, so the count can not reach zero.
        let before = self.frame.references().fetch_add(1, Ordering::Relaxed);
        if before >= MOST_REFERENCES {
            too_many(&self.frame);
        }
        // SAFETY: a second handle to the frame, but the frame is only read, and dropped by the
        // chunk that takes the count to zero.
        let frame = unsafe { std::ptr::read(&self.frame) };
        Chunk {
            frame,
            start: self.start,
            length: self.length,
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // Release: our reads happen before the memory is used again. Acquire, by the last: so
        // do everybody's.
        if self.frame.references().fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: the last chunk; nobody else has a handle to the frame.
            unsafe { ManuallyDrop::drop(&mut self.frame) };
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let (start, length) = (usize::from(self.start), usize::from(self.length));
        self.frame
            .head()
            .get(start..start + length)
            .unwrap_or_default()
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        usize::from(self.length)
    }

    fn chunk(&self) -> &[u8] {
        self
    }

    /// # Panics
    /// If `count` is more than remains, as [`Buf`] demands.
    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "advance past the end of a chunk");
        self.start += count as u16;
        self.length -= count as u16;
    }
}

impl From<Chunk> for Bytes {
    fn from(chunk: Chunk) -> Bytes {
        Bytes::from_owner(chunk)
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("len", &self.length)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use virtroupe_wire::offload::ChecksumState;

    use super::*;
    use crate::memory::{DmaMemory, HugePages};
    use crate::pool::{SLOT_STRIDE, UnboundPool};

    #[test]
    fn the_slot_comes_home_with_the_last_clone_wherever_it_is_dropped() {
        let memory = DmaMemory::allocate(SLOT_STRIDE, HugePages::Never).expect("memory");
        let mut pool = UnboundPool::new(Arc::new(memory), 0, 1)
            .expect("it fits")
            .bind();
        let mut frame = pool.frame().expect("free");
        assert!(frame.extend_from_slice(b"hello, world"));
        let chunk = frame.freeze();
        let world = Bytes::from(chunk.slice(7..));
        drop(chunk);
        assert_eq!(pool.ensure(1), 0);
        let sent = world.clone();
        std::thread::spawn(move || assert_eq!(&sent[..], b"world"))
            .join()
            .expect("equal");
        assert_eq!(pool.ensure(1), 0);
        drop(world);
        assert_eq!(pool.ensure(1), 1);
    }

    #[test]
    #[should_panic(expected = "chunks of one frame")]
    fn a_count_that_would_wrap_panics_instead_of_freeing_memory_in_use() {
        let chunk = Frame::on_heap(b"forgotten two thousand million times").freeze();
        chunk
            .frame
            .references()
            .store(MOST_REFERENCES, Ordering::Relaxed);
        // The block leaks here, as the forgotten clones would leak it.
        let chunk = ManuallyDrop::new(chunk);
        drop(Chunk::clone(&chunk));
    }

    #[test]
    fn the_longest_ip_packet_is_frozen_whole() {
        let packet: Vec<u8> = (0..65_535u32).map(|at| (at % 251) as u8).collect();
        let mut pieces = packet.chunks(1400);
        let mut frame = Frame::on_heap(pieces.next().expect("a head"));
        pieces.for_each(|piece| frame.append(Frame::on_heap(piece)));
        assert!(frame.freeze()[..] == packet[..]);
    }

    #[test]
    fn a_frame_that_was_frozen_asks_for_no_offload_any_more() {
        let mut frame = Frame::on_heap(b"headers and payload");
        frame.set_offload(Offload {
            checksum: ChecksumState::Valid,
            segmentation: None,
        });
        let payload = frame.freeze().slice(12..);
        let frame = payload.try_into_frame().expect("it is the last");
        assert_eq!(frame.head(), b"payload");
        assert!(!frame.has_offload());
    }

    #[test]
    fn a_frozen_chain_is_one_segment() {
        let mut frame = Frame::on_heap(b"ab");
        frame.append(Frame::on_heap(b"cd"));
        let mut chunk = frame.freeze();
        assert_eq!(&chunk[..], b"abcd");
        chunk.advance(3);
        assert_eq!(chunk.chunk(), b"d");
        assert!(chunk.slice(5..9).is_empty());
    }
}
