//! The split virtqueue (virtio 1.3, section 2.7): memory format and ordering.
//!
//! What lies in device memory and who may change it:
//!
//! | part | written by | we read it |
//! |---|---|---|
//! | descriptor table | driver | never: it is write-only for us |
//! | available ring | driver | never: `avail_shadow` knows what is in it |
//! | used ring | device | index once a burst, each entry once |
//!
//! All accesses go through raw pointers, volatile or atomic; no reference to this memory exists.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use crate::memory::{DmaMemory, prefetch_write};
use crate::ring::Violation;
use crate::transport::RingLayout;

/// Descriptors of 16 bytes in a cache line of 64.
const DESCRIPTORS_IN_LINE: usize = 4;
const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;

/// Bytes of each part for a ring of `size`, in the order descriptors, driver, device.
pub(crate) fn part_sizes(size: u16) -> [usize; 3] {
    let size = usize::from(size);
    [16 * size, 6 + 2 * size, 6 + 8 * size]
}

/// The driver's view of one split ring.
pub(crate) struct SplitRing {
    /// One less than the number of descriptors, a power of two. As wide as a register, and not
    /// beside the indices: a load that spans one of those just stored waits until the store,
    /// and every descriptor store before it, has left the core.
    mask: usize,
    descriptors: NonNull<u64>,
    avail: NonNull<u16>,
    used: NonNull<u16>,
    /// What the available ring holds, so that an entry is written only if it changes: in the
    /// steady state of an in-order device it never does.
    avail_shadow: Box<[u16]>,
    /// Available index including what is not published yet.
    next_avail: u16,
    /// Available index as published.
    published: u16,
    /// Used index up to which entries were taken.
    last_used: u16,
    event_idx: bool,
    in_order: bool,
    /// Keeps the mapping alive.
    _memory: Arc<DmaMemory>,
}

// SAFETY: the pointers lead into the mapping that `_memory` keeps alive; this value is the only
// one in the process that uses them as the driver.
unsafe impl Send for SplitRing {}

/// Entries of the used ring that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    /// Head of the descriptor chain; of the last one, where an in-order device wrote one entry
    /// for a batch.
    pub id: u32,
    /// Bytes that the device says it wrote.
    pub length: u32,
}

impl SplitRing {
    /// A view of the zeroed ring at `layout`; `None` if it is not inside `memory`, not aligned
    /// (section 2.7), or its size is not a power of two.
    pub(crate) fn new(
        memory: Arc<DmaMemory>,
        layout: &RingLayout,
        event_idx: bool,
        in_order: bool,
    ) -> Option<Self> {
        let [descriptors, driver, device] = part_sizes(layout.size);
        let descriptors = memory.range(layout.descriptors, descriptors)?;
        let avail = memory.range(layout.driver, driver)?;
        let used = memory.range(layout.device, device)?;
        let aligned = layout.descriptors.is_multiple_of(16)
            && layout.driver.is_multiple_of(2)
            && layout.device.is_multiple_of(4);
        if !layout.size.is_power_of_two() || layout.size > 1 << 15 || !aligned {
            return None;
        }
        let ring = SplitRing {
            mask: usize::from(layout.size) - 1,
            descriptors: descriptors.cast(),
            avail: avail.cast(),
            used: used.cast(),
            avail_shadow: (0..layout.size).collect(),
            next_avail: 0,
            published: 0,
            last_used: 0,
            event_idx,
            in_order,
            _memory: memory,
        };
        ring.clear();
        Some(ring)
    }

    /// Brings the memory into the state that the private fields describe.
    fn clear(&self) {
        for slot in 0..self.size() {
            self.store_avail_entry(usize::from(slot), slot.to_le());
            self.write_used_entry_for_reset(slot);
        }
        self.avail_word(0).store(0, Ordering::Relaxed);
        self.avail_word(1).store(0, Ordering::Relaxed);
        self.avail_word(2 + (self.mask + 1))
            .store(0, Ordering::Relaxed);
        for word in [0, 1, 2 + 4 * (self.mask + 1)] {
            self.used_word(word).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    pub(crate) fn size(&self) -> u16 {
        (self.mask + 1) as u16
    }

    #[inline]
    fn slot(&self, index: u16) -> usize {
        usize::from(index) & self.mask
    }

    /// Word `at` (of 16 bits) of the available ring: flags, index, entries, used_event.
    fn avail_word(&self, at: usize) -> &AtomicU16 {
        debug_assert!(at < 3 + (self.mask + 1));
        // SAFETY: inside the area that `new` checked; an atomic may be shared with the device.
        unsafe { AtomicU16::from_ptr(self.avail.add(at).as_ptr()) }
    }

    /// Word `at` (of 16 bits) of the used ring: flags, index, entries of four, avail_event.
    fn used_word(&self, at: usize) -> &AtomicU16 {
        debug_assert!(at < 3 + 4 * (self.mask + 1));
        // SAFETY: as in `avail_word`.
        unsafe { AtomicU16::from_ptr(self.used.add(at).as_ptr()) }
    }

    fn store_avail_entry(&self, slot: usize, id: u16) {
        self.avail_word(2 + slot).store(id, Ordering::Relaxed);
    }

    fn write_used_entry_for_reset(&self, slot: u16) {
        for word in 0..4 {
            self.used_word(2 + 4 * usize::from(slot) + word)
                .store(0, Ordering::Relaxed);
        }
    }

    /// Writes descriptor `id`. The device must not hold it.
    pub(crate) fn write_descriptor(
        &mut self,
        id: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let at = 2 * self.slot(id);
        let rest = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
        // SAFETY: `at + 1` is below `2 * size`, inside the table. Volatile, because the device
        // may read at any time, although by the protocol it does not before `publish`.
        unsafe {
            self.descriptors.add(at).write_volatile(address.to_le());
            self.descriptors.add(at + 1).write_volatile(rest.to_le());
        }
    }

    /// Starts fetching the lines of `count` descriptors from `id` on, which will be written soon:
    /// the device has read them, so each first write would wait for its core.
    #[inline]
    pub(crate) fn prefetch_descriptors(&self, id: u16, count: usize) {
        for line in 0..count.div_ceil(DESCRIPTORS_IN_LINE) {
            let offset = (line * DESCRIPTORS_IN_LINE) as u16;
            let at = 2 * self.slot(id.wrapping_add(offset));
            // SAFETY: inside the table, as in `write_descriptor`.
            prefetch_write(unsafe { self.descriptors.add(at) }.cast());
        }
    }

    /// Appends the chain that starts at `id` to the available ring, unpublished.
    pub(crate) fn push_avail(&mut self, id: u16) {
        let slot = self.slot(self.next_avail);
        if let Some(shadow) = self.avail_shadow.get_mut(slot)
            && *shadow != id
        {
            *shadow = id;
            self.store_avail_entry(slot, id.to_le());
        }
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// As [`Ring::push_run`](super::Ring::push_run). The device must not hold the descriptors.
    #[inline(always)]
    pub(crate) fn push_run<T>(
        &mut self,
        flags: u16,
        ids: &[u16],
        items: impl Iterator<Item = T>,
        mut buffer: impl FnMut(u16, T) -> Option<(u64, u32)>,
    ) -> usize {
        let (mask, descriptors) = (self.mask, self.descriptors);
        let mut count = 0;
        for (&id, item) in ids.iter().zip(items) {
            let Some((address, length)) = buffer(id, item) else {
                break;
            };
            let rest = u64::from(length) | u64::from(flags) << 32;
            let at = 2 * (usize::from(id) & mask);
            // SAFETY: as in `write_descriptor`.
            unsafe {
                descriptors.add(at).write_volatile(address.to_le());
                descriptors.add(at + 1).write_volatile(rest.to_le());
            }
            count += 1;
        }
        let ids = ids.get(..count).unwrap_or(ids);
        let slot = self.slot(self.next_avail);
        if self.avail_shadow.get(slot..slot + count) == Some(ids) {
            // As the ring says already.
            self.next_avail = self.next_avail.wrapping_add(count as u16);
        } else {
            ids.iter().for_each(|id| self.push_avail(*id));
        }
        count
    }

    /// Shows the device all that was pushed. Returns whether it wants a notification.
    pub(crate) fn publish(&mut self) -> bool {
        let old = self.published;
        if old == self.next_avail {
            return false;
        }
        self.published = self.next_avail;
        // Release: descriptors and entries are visible before the index.
        self.avail_word(1)
            .store(self.next_avail.to_le(), Ordering::Release);
        // The index must be visible before we look whether the device sleeps (section 2.7.13.3).
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = u16::from_le(
                self.used_word(2 + 4 * (self.mask + 1))
                    .load(Ordering::Relaxed),
            );
            need_event(event, self.next_avail, old)
        } else {
            u16::from_le(self.used_word(0).load(Ordering::Relaxed)) & USED_F_NO_NOTIFY == 0
        }
    }

    /// How many chains the device has used since the last [`advance_used`](Self::advance_used),
    /// given that it holds `outstanding`.
    pub(crate) fn used_pending(&self, outstanding: u16) -> Result<u16, Violation> {
        // Acquire: the entries and the packets are visible after the index.
        let used = u16::from_le(self.used_word(1).load(Ordering::Acquire));
        let pending = used.wrapping_sub(self.last_used);
        if pending > outstanding {
            return Err(Violation::UsedIndex {
                used,
                last: self.last_used,
                outstanding,
            });
        }
        Ok(pending)
    }

    /// The used entry `place` behind the current position. Read once; what it says is not
    /// trusted.
    #[inline(always)]
    pub(crate) fn peek_used(&self, place: u16) -> Used {
        let at = 2 + 4 * self.slot(self.last_used.wrapping_add(place));
        // SAFETY: the entry is inside the area that `new` checked, and 4-byte aligned since the
        // used ring is. Volatile: the device may write at any time, and one read decides.
        let (id, length) = unsafe {
            let entry = self.used.add(at).cast::<u32>();
            (entry.read_volatile(), entry.add(1).read_volatile())
        };
        Used {
            id: u32::from_le(id),
            length: u32::from_le(length),
        }
    }

    /// The used entries from `place` behind the current position on, `count` or up to the end of
    /// the ring. As [`peek_used`](Self::peek_used).
    #[inline(always)]
    pub(crate) fn used_run(&self, place: u16, count: u16) -> impl Iterator<Item = Used> + use<> {
        let first = self.slot(self.last_used.wrapping_add(place));
        let count = usize::from(count).min(self.mask + 1 - first);
        // SAFETY: entry `first` of the used ring, which begins behind two words.
        let entries = unsafe { self.used.add(2 + 4 * first) }.cast::<u32>();
        (0..count).map(move |at| {
            // SAFETY: as in `peek_used`; `first + at` is below the size.
            let (id, length) = unsafe {
                let entry = entries.add(2 * at);
                (entry.read_volatile(), entry.add(1).read_volatile())
            };
            Used {
                id: u32::from_le(id),
                length: u32::from_le(length),
            }
        })
    }

    /// Moves past `count` used entries.
    pub(crate) fn advance_used(&mut self, count: u16) {
        self.last_used = self.last_used.wrapping_add(count);
    }

    /// Whether the device uses buffers in order and may write one entry for a batch.
    pub(crate) fn in_order(&self) -> bool {
        self.in_order
    }

    /// Asks the device not to interrupt.
    ///
    /// With `EVENT_IDX` this is a hint that holds for the next 65 535 used buffers or so: then
    /// one needless interrupt arrives, which costs less than moving the cache line each burst.
    pub(crate) fn suppress_interrupts(&mut self) {
        if self.event_idx {
            let never = self.last_used.wrapping_sub(1);
            self.used_event().store(never.to_le(), Ordering::Relaxed);
        } else {
            self.avail_word(0)
                .store(AVAIL_F_NO_INTERRUPT.to_le(), Ordering::Relaxed);
        }
    }

    /// Asks for an interrupt at the next used buffer. If buffers were used meanwhile, no
    /// interrupt may come: look once more with [`used_pending`](Self::used_pending).
    pub(crate) fn request_interrupt(&mut self) {
        if self.event_idx {
            self.used_event()
                .store(self.last_used.to_le(), Ordering::Relaxed);
        } else {
            self.avail_word(0).store(0, Ordering::Relaxed);
        }
        // The request must be visible before we look again (section 2.7.7.2).
        fence(Ordering::SeqCst);
    }

    fn used_event(&self) -> &AtomicU16 {
        self.avail_word(2 + (self.mask + 1))
    }
}

/// Whether moving an index from `old` to `new` passes `event` (section 2.7.10.1).
pub(crate) fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_needed_exactly_when_the_index_passes_it() {
        assert!(need_event(0, 1, 0));
        assert!(!need_event(1, 1, 0));
        assert!(!need_event(0, 2, 1));
        assert!(need_event(u16::MAX, 2, u16::MAX));
        assert!(!need_event(9, 9, 2));
        assert!(need_event(9, 10, 2));
    }
}
