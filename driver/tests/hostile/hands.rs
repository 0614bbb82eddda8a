//! What the device of a [`Harness`] does, by the rules or not, in either format.

use super::device::{HEADER, RX, TX};
use super::harness::Harness;
use super::rings::{BUFFER, Chain, Place};

impl Harness {
    /// Takes the next chain of `queue`.
    pub fn take(&mut self, queue: usize) -> Option<Chain> {
        self.rings[queue].available.pop_front()
    }

    /// Buffers that the device could fill now.
    pub fn posted(&self) -> usize {
        self.rings[RX].available.len()
    }

    /// Marks `chain` of `queue` used.
    pub fn use_chain(&mut self, queue: usize, chain: &Chain, length: u32) {
        self.rings[queue].complete(&self.hostile, chain, length);
    }

    /// Marks `id` used at `place`, whatever is there and whoever has it.
    pub fn write_used(&self, queue: usize, place: usize, id: u32, length: u32) {
        self.rings[queue].write_used(&self.hostile, Place(place), id, length);
    }

    /// Delivers a frame of which nothing is said; false if no buffer is posted.
    pub fn deliver(&mut self, frame: &[u8]) -> bool {
        let mut header = [0; HEADER];
        header[10] = 1;
        self.deliver_with(&header, frame)
    }

    /// Delivers a frame behind `header`; false if no buffer is posted.
    pub fn deliver_with(&mut self, header: &[u8; HEADER], frame: &[u8]) -> bool {
        self.deliver_merged(header, frame, 1, (HEADER + frame.len()) as u32)
    }

    /// Delivers a frame that begins with `head` in `buffers` buffers, of which the last holds `last`
    /// bytes; false if there are not as many.
    pub fn deliver_merged(
        &mut self,
        header: &[u8; HEADER],
        head: &[u8],
        buffers: usize,
        last: u32,
    ) -> bool {
        if !self.readable || self.posted() < buffers {
            return false;
        }
        for number in 0..buffers {
            let chain = self.take(RX).expect("counted");
            if number == 0 {
                self.hostile.write(chain.offset, header);
                self.hostile.write(chain.offset + HEADER, head);
            }
            let is_last = number + 1 == buffers;
            self.use_chain(RX, &chain, if is_last { last } else { BUFFER });
        }
        true
    }

    /// Reports sent chains: one by one, or as a batch, which is only right in order.
    pub fn complete(&mut self, count: usize, batch: bool) {
        if !self.readable {
            return;
        }
        let taken: Vec<_> = (0..count).map_while(|_| self.take(TX)).collect();
        if batch {
            self.rings[TX].complete_batch(&self.hostile, &taken);
        } else {
            taken.iter().for_each(|chain| self.use_chain(TX, chain, 0));
        }
    }

    /// Overwrites what the device says of the doorbells that it wants.
    pub fn disturb_events(&self, queue: usize, first: u16, second: u16) {
        if self.setup.packed {
            self.hostile.set_packed_events(queue, first, second);
        } else {
            self.hostile.set_available_event(queue, first);
            self.hostile.set_used_flags(queue, second);
        }
    }

    /// Overwrites of a descriptor what the driver only writes: its address, and all of it in a split
    /// ring.
    pub fn spoil_descriptor(&self, queue: usize, index: u16, byte: u8) {
        let length = if self.setup.packed { 8 } else { 16 };
        self.hostile
            .spoil_descriptor(queue, index, &[byte; 16][..length]);
    }
}
