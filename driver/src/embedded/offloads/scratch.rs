//! Memory for the pieces of long packets, used again from burst to burst.

use virtroupe_wire::{Allocator, Buffer};

use super::super::backend::Packet;

/// Pieces that are kept for the next burst: as many as all packets of a burst make of 64 KiB each
/// in pieces of 1460 bytes.
const MOST_SPARE: usize = 64 * 45;

/// Packets that are finished, and memory for more.
#[derive(Debug, Default)]
pub(in super::super) struct Scratch {
    pub(super) finished: Vec<Packet>,
    pub(super) memory: Spare,
}

impl Scratch {
    /// Takes a packet as it is: it is finished.
    pub(in super::super) fn keep(&mut self, packet: &mut Packet) {
        let kept = std::mem::replace(packet, self.memory.packet());
        self.finished.push(kept);
    }

    /// What is finished.
    pub(in super::super) fn finished(&mut self) -> &mut [Packet] {
        &mut self.finished
    }

    /// Takes out what is finished.
    pub(in super::super) fn take_finished(&mut self) -> impl Iterator<Item = Packet> {
        self.finished.drain(..)
    }

    /// Forgets what is finished, and keeps its memory.
    pub(in super::super) fn recycle(&mut self) {
        let room = MOST_SPARE.saturating_sub(self.memory.0.len());
        self.memory.0.extend(self.finished.drain(..).take(room));
    }
}

/// Packets whose bytes are not needed any more.
#[derive(Debug, Default)]
pub(super) struct Spare(Vec<Packet>);

impl Spare {
    /// An empty packet.
    pub(super) fn packet(&mut self) -> Packet {
        let mut packet = self.0.pop().unwrap_or_default();
        packet.header = Default::default();
        packet.bytes.clear();
        packet
    }
}

/// Without headroom: no header is pushed in front of a piece.
impl Allocator for Spare {
    type Buffer = Packet;

    fn allocate(&mut self, _capacity: usize) -> Option<Packet> {
        Some(self.packet())
    }

    fn longest_segment(&self) -> usize {
        usize::MAX
    }
}

/// One segment, without headroom, that grows at its end.
impl Buffer for Packet {
    fn head(&self) -> &[u8] {
        &self.bytes
    }

    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn headroom(&self) -> usize {
        0
    }

    fn prepend(&mut self, count: usize) -> Option<&mut [u8]> {
        (count == 0).then_some(&mut [])
    }

    fn trim_front(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
    }

    fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    fn extend_from_slice(&mut self, bytes: &[u8]) -> bool {
        self.bytes.extend_from_slice(bytes);
        true
    }

    fn tailroom(&self) -> usize {
        usize::MAX
    }

    fn append(&mut self, tail: Self) {
        self.bytes.extend_from_slice(&tail.bytes);
    }

    fn is_chain(&self) -> bool {
        false
    }

    fn for_each_segment(&self, mut visit: impl FnMut(&[u8])) {
        visit(&self.bytes);
    }
}
