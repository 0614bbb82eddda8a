//! Transport packets that are copied: into the pieces that will be their fragments.

use super::Host;
use super::family::Family;
use super::output::Plan;
use crate::buffer::{Allocator, Buffer, Payload, allocate_up_to, extend};
use crate::ethernet;

impl<B: Buffer> Host<B> {
    /// Copies `prefix` and `payload` into new memory: one piece per fragment that `plan` asks
    /// for. All or nothing: false, and no piece, if memory is short.
    pub(super) fn copy<F: Family, A: Allocator<Buffer = B>>(
        &mut self,
        plan: &Plan<F>,
        prefix: &[u8],
        payload: &Payload<B>,
        pool: &mut A,
    ) -> bool {
        self.pieces.clear();
        let length = prefix.len() + payload.len();
        let mut pieces = Pieces {
            made: &mut self.pieces,
            pool,
            each: if plan.must_fragment(length) {
                plan.per_fragment()
            } else {
                length
            },
            left: length,
            room: 0,
            is_short: false,
        };
        pieces.write(prefix);
        payload.for_each_segment(|segment| pieces.write(segment));
        let is_short = pieces.is_short;
        let headers = ethernet::HEADER + F::HEADER + F::FRAGMENT_HEADER;
        if is_short || self.pieces.iter().any(|piece| piece.headroom() < headers) {
            self.pieces.clear();
            return false;
        }
        true
    }
}

/// Writes bytes into pieces of equal length, the last one shorter.
struct Pieces<'a, A: Allocator> {
    made: &'a mut Vec<A::Buffer>,
    pool: &'a mut A,
    /// Bytes in each piece but the last.
    each: usize,
    /// Bytes for which no piece has been made yet.
    left: usize,
    /// Bytes that the last piece still takes.
    room: usize,
    /// Whether memory ran out.
    is_short: bool,
}

impl<A: Allocator> Pieces<'_, A> {
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_short {
            if self.room == 0 {
                self.begin();
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.room));
            bytes = later;
            self.room -= now.len();
            let is_written = match self.made.last_mut() {
                Some(piece) => extend(piece, now, self.pool),
                None => false,
            };
            self.is_short |= !is_written;
        }
    }

    fn begin(&mut self) {
        self.room = self.each.min(self.left);
        self.left -= self.room;
        match allocate_up_to(self.pool, self.room) {
            Some((piece, _)) => self.made.push(piece),
            None => self.is_short = true,
        }
    }
}
