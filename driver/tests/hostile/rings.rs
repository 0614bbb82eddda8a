//! One ring as its device sees it, in either format: what the driver made available, what the
//! device marked used, and the chains in between.
//!
//! It keeps its own positions (in packed rings, with their wrap counters), so that what the driver
//! reads or writes elsewhere is found out.

use std::collections::VecDeque;

use virtroupe_driver::Violation;
use virtroupe_driver::pool::SLOT_STRIDE;

use super::device::{Descriptor, HEADER, HostileDevice, RX};
use super::setup::Setup;

/// Where the buffer starts in a slot: at the header, which ends where the packet starts.
pub const START: usize = 128 - HEADER;
/// Bytes of a receive buffer: a slot less its headroom.
pub const BUFFER: u32 = (SLOT_STRIDE - START) as u32;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Of a packed descriptor (section 2.8.1).
pub const AVAIL: u16 = 1 << 7;
/// Of a packed descriptor (section 2.8.1).
pub const USED: u16 = 1 << 15;

/// A place in a ring, counted from its creation: in a packed ring, its lap gives the wrap counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place(pub usize);

/// Id and length that a device wrote.
pub type Used = (u32, u32);

/// What the driver made available under one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub id: u16,
    pub descriptors: usize,
    /// Offset of the first buffer.
    pub offset: usize,
    /// Offsets of all buffers, and of the indirect table.
    pub parts: Vec<usize>,
}

pub struct Ring {
    queue: usize,
    setup: Setup,
    /// Where the driver writes next, and where it looks for the next used entry.
    pub next: Place,
    pub used: Place,
    /// What the device holds, in order.
    pub outstanding: Vec<Chain>,
    /// Of these, what the honest part of the device has not taken yet.
    pub available: VecDeque<Chain>,
    /// Where the honest part writes its next used descriptor of a packed ring.
    honest: Place,
}

impl Ring {
    pub fn new(queue: usize, setup: Setup) -> Self {
        Ring {
            queue,
            setup,
            next: Place(0),
            used: Place(0),
            outstanding: Vec::new(),
            available: VecDeque::new(),
            honest: Place(0),
        }
    }

    fn size(&self) -> usize {
        usize::from(self.setup.queue_size)
    }

    fn index(&self, place: Place) -> u16 {
        (place.0 % self.size()) as u16
    }

    fn wrap(&self, place: Place) -> bool {
        (place.0 / self.size()).is_multiple_of(2)
    }

    /// Places that `chain` takes: a split ring has one entry for each, whatever its length.
    pub fn places(&self, chain: &Chain) -> usize {
        match self.setup.packed {
            true => chain.descriptors,
            false => 1,
        }
    }

    /// The chains that the driver made available since the last call.
    pub fn take_published(&mut self, hostile: &HostileDevice) -> Vec<Chain> {
        let mut chains = Vec::new();
        while let Some(chain) = self.published(hostile) {
            assert!(chain.id < self.setup.queue_size);
            self.next.0 += self.places(&chain);
            chains.push(chain);
        }
        chains
    }

    fn published(&self, hostile: &HostileDevice) -> Option<Chain> {
        let mut chain = Chain {
            id: 0,
            descriptors: 0,
            offset: 0,
            parts: Vec::new(),
        };
        let is_there = match self.setup.packed {
            true => self.read_packed(hostile, &mut chain),
            false => self.read_split(hostile, &mut chain),
        };
        is_there.then_some(chain)
    }

    fn read_split(&self, hostile: &HostileDevice, chain: &mut Chain) -> bool {
        let next = self.next.0 as u16;
        let new = hostile.available_index(self.queue).wrapping_sub(next);
        assert!(new <= self.setup.queue_size, "more than the ring holds");
        if new == 0 {
            return false;
        }
        chain.id = hostile.available_entry(self.queue, next);
        for found in hostile.chain(self.queue, chain.id) {
            self.add(hostile, chain, found);
        }
        true
    }

    fn read_packed(&self, hostile: &HostileDevice, chain: &mut Chain) -> bool {
        loop {
            let at = Place(self.next.0 + chain.descriptors);
            let found = hostile.packed_descriptor(self.queue, self.index(at));
            let mine = if self.wrap(at) { AVAIL } else { USED };
            if found.flags & (AVAIL | USED) != mine {
                assert_eq!(chain.descriptors, 0, "a chain without its end");
                return false;
            }
            chain.id = found.next;
            self.add(hostile, chain, found);
            let is_short = chain.descriptors <= self.size();
            assert!(is_short, "a chain that does not end");
            if found.flags & NEXT == 0 {
                return true;
            }
        }
    }

    fn add(&self, hostile: &HostileDevice, chain: &mut Chain, found: Descriptor) {
        assert!(found.length > 0);
        assert_eq!(found.flags & WRITE != 0, self.queue == RX);
        if self.queue == RX {
            assert_eq!((found.length, found.flags & (NEXT | INDIRECT)), (BUFFER, 0));
        }
        if chain.descriptors == 0 {
            chain.offset = found.offset;
        }
        chain.descriptors += 1;
        chain.parts.push(found.offset);
        if found.flags & INDIRECT != 0 {
            let is_alone = found.flags & NEXT == 0 && chain.descriptors == 1;
            assert!(self.setup.indirect && is_alone);
            self.read_table(hostile, chain, found);
        }
    }

    /// Sections 2.7.5.3 and 2.8.7: entries in order; of a packed ring without flags on transmit.
    fn read_table(&self, hostile: &HostileDevice, chain: &mut Chain, table: Descriptor) {
        let entries = table.length as usize / 16;
        assert!(table.length.is_multiple_of(16) && (1..=self.size()).contains(&entries));
        for entry in 0..entries {
            let found = hostile.descriptor_at(table.offset + 16 * entry);
            assert!(found.length > 0);
            let is_last = entry + 1 == entries;
            let expected = match self.setup.packed || is_last {
                true => (0, 0),
                false => (NEXT, entry as u16 + 1),
            };
            assert_eq!((found.flags, found.next), expected);
            if entry == 0 {
                chain.offset = found.offset;
            }
            chain.parts.push(found.offset);
        }
    }

    /// How many used chains the driver may look for, or what it must say of their number.
    pub fn pending(&self, hostile: &HostileDevice) -> Result<usize, Violation> {
        let outstanding = self.outstanding.len();
        if self.setup.packed {
            let is_used = self.used_at(hostile, self.used).is_some();
            return Ok(if is_used { outstanding } else { 0 });
        }
        let (used, last) = (hostile.used_index(self.queue), self.used.0 as u16);
        let pending = usize::from(used.wrapping_sub(last));
        if pending > outstanding {
            let outstanding = outstanding as u16;
            return Err(Violation::UsedIndex {
                used,
                last,
                outstanding,
            });
        }
        Ok(pending)
    }

    /// The used entry at `place`, if there is one; in a split ring, the index tells whether it counts.
    pub fn used_at(&self, hostile: &HostileDevice, place: Place) -> Option<Used> {
        if !self.setup.packed {
            return Some(hostile.used_entry(self.queue, place.0 as u16));
        }
        let found = hostile.packed_descriptor(self.queue, self.index(place));
        let is_used = found.flags & (AVAIL | USED) == self.used_flags(place);
        is_used.then_some((found.next.into(), found.length))
    }

    /// The used entries from where the driver looks on, as far as something is outstanding there.
    pub fn used_entries(&self, hostile: &HostileDevice) -> Vec<Option<Used>> {
        let end = match self.setup.packed {
            true => self.next.0,
            false => self.used.0 + self.size(),
        };
        let places = (self.used.0..end).map(Place);
        places.map(|place| self.used_at(hostile, place)).collect()
    }

    fn used_flags(&self, place: Place) -> u16 {
        if self.wrap(place) { AVAIL | USED } else { 0 }
    }

    /// Marks `id` used at `place`, whatever is there and whoever has it. The index of a split ring
    /// then says that this was the last.
    pub fn write_used(&self, hostile: &HostileDevice, place: Place, id: u32, length: u32) {
        if self.setup.packed {
            let (index, flags) = (self.index(place), self.used_flags(place));
            hostile.set_packed(self.queue, index, id as u16, length, flags);
        } else {
            let index = place.0 as u16;
            hostile.set_used_entry(self.queue, index, id, length);
            hostile.set_used_index(self.queue, index.wrapping_add(1));
        }
    }

    /// Where an honest device marks its next chain used.
    fn honest(&self, hostile: &HostileDevice) -> Place {
        match self.setup.packed {
            true => self.honest,
            false => Place(hostile.used_index(self.queue).into()),
        }
    }

    /// Marks a chain used by the rules.
    pub fn complete(&mut self, hostile: &HostileDevice, chain: &Chain, length: u32) {
        self.write_used(hostile, self.honest(hostile), chain.id.into(), length);
        self.honest.0 += self.places(chain);
    }

    /// Marks chains used as devices may that use them in order: by one entry for all.
    pub fn complete_batch(&mut self, hostile: &HostileDevice, chains: &[Chain]) {
        let Some(last) = chains.last() else {
            return;
        };
        let first = self.honest(hostile);
        self.write_used(hostile, first, last.id.into(), 0);
        self.honest.0 += chains.iter().map(|chain| self.places(chain)).sum::<usize>();
        if !self.setup.packed {
            let end = (first.0 + chains.len()) as u16;
            hostile.set_used_index(self.queue, end);
        }
    }
}
