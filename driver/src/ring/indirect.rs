//! Indirect descriptors (virtio 1.3, sections 2.7.5.3 and 2.8.7): a long chain as one descriptor.
//!
//! The table lies in a slot of the queue pair's own pool, taken for as long as the device has
//! the chain. So tables need no memory of their own, and a pool that is empty means only that
//! the chain takes a descriptor for each of its segments.

use std::ptr::NonNull;

use super::Ring;
use crate::pool::SLOT_STRIDE;

/// Chains of more segments use a table, where the device takes one: reading it costs the device
/// a cache miss, and each descriptor in the ring a quarter of one.
pub(crate) const DIRECT_SEGMENTS: usize = 4;
/// Bytes of an entry.
const ENTRY: usize = 16;
/// Entries that a slot holds.
const CAPACITY: usize = SLOT_STRIDE / ENTRY;

/// A table that is being written.
pub(crate) struct IndirectTable {
    entries: NonNull<u64>,
    count: u16,
}

impl IndirectTable {
    /// An empty table in a slot.
    ///
    /// # Safety
    /// `slot` is the address of a slot that the caller took from its pool, that no frame has,
    /// and that stays taken while this value lives.
    pub(crate) unsafe fn in_slot(slot: NonNull<u8>) -> Self {
        IndirectTable {
            entries: slot.cast(),
            count: 0,
        }
    }

    /// Appends an entry. False, and nothing written, if the table is full.
    pub(crate) fn push<R: Ring>(&mut self, address: u64, length: u32, is_last: bool) -> bool {
        if usize::from(self.count) >= CAPACITY {
            return false;
        }
        let words = R::indirect_entry(self.count, is_last, address, length);
        for (half, word) in words.into_iter().enumerate() {
            // SAFETY: inside the slot, since `count` is below the capacity, and aligned, since
            // slots start at cache lines. Volatile, because the device may read at any time.
            unsafe {
                self.entries
                    .add(2 * usize::from(self.count) + half)
                    .write_volatile(word.to_le());
            }
        }
        self.count += 1;
        true
    }

    /// Length in bytes.
    pub(crate) fn length(&self) -> u32 {
        u32::from(self.count) * ENTRY as u32
    }
}
