//! A ring from its driver's side, in either format, for tests of what the device makes of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::memory::{Area, Descriptor, GuestMemory};
use super::NEXT;
use crate::memory::{DmaMemory, HugePages};
use crate::transport::RingLayout;

/// Where the driver sees the memory; far from where the device does.
pub(in super::super) const IOVA: u64 = 0x1_0000_0000;
/// Bytes of memory. The first have room for rings of eight descriptors.
pub(in super::super) const MEMORY: usize = 4096;
/// Where what only the driver writes is, behind the descriptors; and what only the device writes.
pub(in super::super) const DRIVER: usize = 128;
pub(in super::super) const DEVICE: usize = 256;
/// Where no ring is.
pub(in super::super) const BUFFERS: usize = 1024;

/// Memory, and what a driver made available in it.
pub(in super::super) struct DriverSide {
    pub(in super::super) memory: GuestMemory,
    /// All of it.
    pub(in super::super) area: Area<16>,
    pub(in super::super) layout: RingLayout,
    packed: bool,
    /// Descriptors that were written.
    descriptors: usize,
    /// The first of the chain that is being written, and how many are available.
    head: u16,
    available: u16,
}

impl DriverSide {
    pub(in super::super) fn new(packed: bool, size: u16) -> Self {
        let memory = DmaMemory::allocate(MEMORY, HugePages::Never).expect("memory");
        let memory = GuestMemory::new(Arc::new(memory), IOVA);
        DriverSide {
            area: memory.area(0, MEMORY).expect("area"),
            memory,
            layout: RingLayout {
                size,
                descriptors: 0,
                driver: DRIVER,
                device: DEVICE,
            },
            packed,
            descriptors: 0,
            head: 0,
            available: 0,
        }
    }

    /// The number of the descriptor that is written next.
    pub(in super::super) fn index(&self) -> u16 {
        (self.descriptors % usize::from(self.layout.size)) as u16
    }

    /// Writes the next descriptor, of a buffer at `offset`. The last of a chain, which has no `NEXT`,
    /// makes it available. A packed ring has ids; in a split one, a chain is known by its first descriptor.
    pub(in super::super) fn write(&mut self, offset: usize, length: u32, flags: u16, id: u16) {
        let at = usize::from(self.index()) * Descriptor::BYTES;
        let lap = self.descriptors / usize::from(self.layout.size);
        let mine = if lap.is_multiple_of(2) {
            1 << 7
        } else {
            1 << 15
        };
        self.descriptors += 1;
        let (third, fourth) = match self.packed {
            true => (id, flags | mine),
            false => (flags, self.index()),
        };
        let address = IOVA.wrapping_add(offset as u64);
        assert!(self.memory.write(at, &address.to_le_bytes()));
        assert!(self.memory.write(at + 8, &length.to_le_bytes()));
        assert!(self.memory.write(at + 12, &third.to_le_bytes()));
        self.area.store_u16(at + 14, fourth, Ordering::Release);
        if flags & NEXT != 0 {
            return;
        }
        if !self.packed {
            let slot = DRIVER + 4 + usize::from(self.available % self.layout.size) * 2;
            self.area.store_u16(slot, self.head, Ordering::Relaxed);
            self.available = self.available.wrapping_add(1);
            let index = DRIVER + 2;
            self.area
                .store_u16(index, self.available, Ordering::Release);
        }
        self.head = self.index();
    }
}
