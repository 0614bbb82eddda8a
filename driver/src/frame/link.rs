//! Links: segments of a chain whose bytes belong to a [`Chunk`].
//!
//! A chunk may stand behind several headers at once: TCP sends a segment again while the device
//! still has it. But a slot has one entry in each side table of its pool, so it can be in one chain
//! only. A link has a number, and entries, of its own and no memory; it points into the chunk's and
//! keeps the chunk until it is dropped, on whichever thread.
//!
//! Shared bytes must not be written. Whatever writes into a frame writes into its head, or behind
//! its last segment. So a link is only ever put behind a head; one that would become a head is
//! copied first (`into_head`), and nothing is written behind one (`extend_chain`).

use virtroupe_wire::Buffer;

use super::Frame;
use super::place::Place;
use crate::chunk::Chunk;
use crate::pool::Home;

impl Frame {
    /// Whether the bytes are a chunk's.
    #[inline(always)]
    pub(super) fn is_link(&self) -> bool {
        self.place.0 & Place::LINK != 0
    }

    /// Puts `chunk` behind the last segment, without copying it.
    ///
    /// # Errors
    /// Gives the chunk back if it lies in other memory than the head, if the head's pool belongs
    /// to another thread, or if that has no link left.
    pub(crate) fn append_link(&mut self, chunk: Chunk) -> Result<(), Chunk> {
        let Some(home) = self.home else {
            return Err(chunk);
        };
        let shared = chunk.frame();
        // SAFETY: the homes live while frames of theirs are out: this one and the chunk's.
        let sees = shared
            .home
            .is_some_and(|other| unsafe { home.as_ref().shares_memory(other.as_ref()) });
        if !sees {
            return Err(chunk);
        }
        let (base, start) = (shared.base, shared.place.start() + chunk.start());
        let place = Place::new(0, start as u16, chunk.len() as u16);
        // SAFETY: the home lives while this frame is out.
        let number = unsafe { Home::take_link(home, chunk) }?;
        self.append(Frame {
            base,
            home: Some(home),
            place: Place(place.0 | u64::from(number) | Place::LINK),
        });
        Ok(())
    }

    /// Puts a copy of `bytes` behind the last one: into the last segment where it has room, else
    /// into slots of the head's pool, else, out of a device's sight, on the heap.
    pub(crate) fn append_copy(&mut self, mut bytes: &[u8]) {
        if self.extend_from_slice(bytes) {
            return;
        }
        while !bytes.is_empty() {
            let Some(mut segment) = self.sibling() else {
                self.append(Frame::on_heap(bytes));
                return;
            };
            let (now, later) = bytes.split_at(bytes.len().min(segment.tailroom()));
            segment.extend_from_slice(now);
            self.append(segment);
            bytes = later;
        }
    }

    /// The same bytes behind a head that may be written: a link is replaced by a copy.
    #[cold]
    pub(super) fn into_head(mut self) -> Frame {
        if !self.is_link() {
            return self;
        }
        let bytes = self.head();
        let mut copy = self
            .sibling()
            .filter(|slot| slot.tailroom() >= bytes.len())
            .unwrap_or_else(|| Frame::on_heap(&[]));
        if !copy.extend_from_slice(bytes) {
            copy = Frame::on_heap(bytes);
        }
        if let Some(tail) = self.take_tail() {
            copy.set_tail(tail);
        }
        copy
    }

    /// Drops the segments behind this one, and gives a link back with its chunk, or a long slot.
    /// Returns whether it was one of these, and must then not be used any more.
    #[cold]
    pub(super) fn let_go(&mut self) -> bool {
        // Iterative: a chain may be long, and the stack is not.
        let mut tail = self.take_tail();
        while let Some(mut segment) = tail {
            tail = segment.take_tail();
        }
        match self.home {
            // SAFETY: the home lives while this link is out; this was the only handle.
            Some(home) if self.is_link() => unsafe { Home::give_link(home, self.slot()) },
            // SAFETY: the same of a long slot.
            Some(home) if self.is_long() => unsafe { Home::take_back_long(home, self.slot()) },
            _ => return false,
        }
        true
    }

    /// An empty frame of the same pool, if that belongs to this thread and has one.
    fn sibling(&self) -> Option<Frame> {
        // SAFETY: the home lives while this frame is out.
        self.home.and_then(|home| unsafe { Home::frame(home) })
    }
}
