//! The packed virtqueue, from the device's side (virtio 1.3, section 2.8).

use std::sync::atomic::{Ordering, fence};

use super::super::memory::{Area, Descriptor, GuestMemory, PackedPlace};
use super::split::passed;
use super::{Chain, INDIRECT, MAX_SIZE, NEXT, RingFault, UsedReports, WRITE};
use crate::features::FeatureBits;
use crate::transport::RingLayout;

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// An event suppression structure (section 2.8.14): offset and wrap counter, then flags.
const EVENT_FLAGS: usize = 2;
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const SPECIFIC: u16 = 2;

/// A place in the ring with the wrap counter that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    index: u16,
    wrap: bool,
}

impl Cursor {
    const START: Cursor = Cursor {
        index: 0,
        wrap: true,
    };

    /// The place `count` descriptors further on; `count` is at most `size`.
    fn plus(self, count: u16, size: u16) -> Cursor {
        let left = size - self.index;
        if count < left {
            return Cursor {
                index: self.index + count,
                wrap: self.wrap,
            };
        }
        Cursor {
            index: count - left,
            wrap: !self.wrap,
        }
    }

    /// The place `count` descriptors before; `count` is at most `size`.
    fn minus(self, count: u16, size: u16) -> Cursor {
        if count <= self.index {
            return Cursor {
                index: self.index - count,
                wrap: self.wrap,
            };
        }
        Cursor {
            index: size - (count - self.index),
            wrap: !self.wrap,
        }
    }

    /// As an event suppression structure holds it.
    fn bits(self) -> u16 {
        self.index | u16::from(self.wrap) << 15
    }

    /// Whether a descriptor here, with these `flags`, is available (section 2.8.1).
    fn is_available(self, flags: u16) -> bool {
        flags & (AVAIL | USED) == if self.wrap { AVAIL } else { USED }
    }
}

/// A used descriptor that closes a burst or opens it.
#[derive(Debug, Clone, Copy)]
struct Report {
    at: Cursor,
    id: u16,
    written: u32,
}

/// Packed ring state. All positions are private; what the driver may write is read once.
#[derive(Debug)]
pub(in super::super) struct PackedRing {
    memory: GuestMemory,
    size: u16,
    descriptors: Area<{ Descriptor::BYTES }>,
    driver_events: Area<4>,
    device_events: Area<4>,
    event_index: bool,
    indirect: bool,
    reports: UsedReports,
    /// The next descriptor to take.
    next: Cursor,
    /// Descriptors from `next` on that are known to be available, because they were given back.
    known: u16,
    /// Descriptors that were taken and are not used yet.
    taken: u16,
    /// Where the next used descriptor goes.
    used: Cursor,
    /// Descriptors completed since the driver was shown.
    completed: u16,
    /// The used descriptor that shows all: its flags are written when it is published.
    burst: Option<Report>,
    notifications: bool,
}

impl PackedRing {
    pub(super) fn new(
        memory: GuestMemory,
        layout: &RingLayout,
        features: FeatureBits,
        reports: UsedReports,
    ) -> Result<Self, RingFault> {
        let size = layout.size;
        if size == 0 || size > MAX_SIZE {
            return Err(RingFault::Size);
        }
        let descriptors = memory.area(layout.descriptors, usize::from(size) * Descriptor::BYTES);
        let driver_events = memory.area(layout.driver, 4);
        let device_events = memory.area(layout.device, 4);
        let in_order = features.contains(FeatureBits::IN_ORDER);
        Ok(PackedRing {
            memory,
            size,
            descriptors: descriptors.ok_or(RingFault::Layout)?,
            driver_events: driver_events.ok_or(RingFault::Layout)?,
            device_events: device_events.ok_or(RingFault::Layout)?,
            event_index: features.contains(FeatureBits::EVENT_IDX),
            indirect: features.contains(FeatureBits::INDIRECT_DESC),
            reports: if in_order { reports } else { UsedReports::Each },
            next: Cursor::START,
            known: 0,
            taken: 0,
            used: Cursor::START,
            completed: 0,
            burst: None,
            notifications: true,
        })
    }

    pub(super) fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    fn place(&self, at: Cursor) -> Result<PackedPlace<'_>, RingFault> {
        let place = self.descriptors.packed(at.index);
        place.ok_or(RingFault::DescriptorIndex)
    }

    fn is_available(&self, at: Cursor) -> Result<bool, RingFault> {
        Ok(at.is_available(self.place(at)?.flags()))
    }

    pub(super) fn has_available(&mut self) -> Result<bool, RingFault> {
        Ok(self.known > 0 || self.is_available(self.next)?)
    }

    #[inline(always)]
    pub(super) fn take(&mut self, chain: &mut Chain) -> Result<bool, RingFault> {
        let place = self.place(self.next)?;
        let flags = place.flags();
        if !self.next.is_available(flags) {
            self.known = 0;
            return Ok(false);
        }
        let (address, length, id) = place.buffer();
        chain.begin(id);
        if flags & INDIRECT != 0 {
            self.add_table(address, length, flags, chain)?;
        } else {
            chain.add(&self.memory, address, length, flags)?;
            if flags & NEXT != 0 {
                self.walk(chain)?;
            }
        }
        // A driver that makes more available than the ring has would run into itself.
        if chain.descriptors > self.size - self.taken {
            return Err(RingFault::ChainTooLong);
        }
        self.taken += chain.descriptors;
        self.next = self.next.plus(chain.descriptors, self.size);
        self.known = self.known.saturating_sub(chain.descriptors);
        Ok(true)
    }

    /// Reads the descriptors of the chain at `next`, behind its first. The last one carries the id
    /// (section 2.8.6).
    #[inline(never)]
    fn walk(&self, chain: &mut Chain) -> Result<(), RingFault> {
        let mut at = self.next;
        while chain.descriptors < self.size {
            at = at.plus(1, self.size);
            let place = self.place(at)?;
            let flags = place.flags();
            let (address, length, id) = place.buffer();
            chain.descriptors += 1;
            chain.id = id;
            if flags & INDIRECT != 0 {
                return Err(RingFault::Indirect);
            }
            chain.add(&self.memory, address, length, flags)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
        }
        Err(RingFault::ChainTooLong)
    }

    /// Section 2.8.7: a table is all of its chain. Its entries follow each other, and only `WRITE`
    /// means something in them.
    #[inline(never)]
    fn add_table(
        &self,
        address: u64,
        length: u32,
        flags: u16,
        chain: &mut Chain,
    ) -> Result<(), RingFault> {
        if flags & (NEXT | WRITE) != 0 || !self.indirect {
            return Err(RingFault::Indirect);
        }
        let length = usize::try_from(length).map_err(|_| RingFault::Indirect)?;
        let entries = length / Descriptor::BYTES;
        let whole = length.is_multiple_of(Descriptor::BYTES);
        if !whole || entries == 0 || entries > usize::from(self.size) {
            return Err(RingFault::Indirect);
        }
        let base = self
            .memory
            .translate(address, length)
            .ok_or(RingFault::Address)?;
        for entry in 0..entries {
            let entry = self.memory.table_entry(base + entry * Descriptor::BYTES);
            // An id is where a split ring has flags, and flags where that has the next.
            let Descriptor {
                address,
                length,
                flags: _,
                next: flags,
            } = entry.ok_or(RingFault::Address)?;
            if flags & !WRITE != 0 {
                return Err(RingFault::Indirect);
            }
            chain.add(&self.memory, address, length, flags)?;
        }
        Ok(())
    }

    pub(super) fn give_back(&mut self, chain: &Chain) {
        self.next = self.next.minus(chain.descriptors, self.size);
        self.taken -= chain.descriptors;
        self.known += chain.descriptors;
    }

    /// Used descriptors go into the places of what they report, one after the other; places that
    /// a chain or a batch had beyond its first are skipped (section 2.8.9).
    #[inline(always)]
    pub(super) fn complete(&mut self, chain: &Chain, written: u32) {
        let report = Report {
            at: self.used,
            id: chain.id,
            written,
        };
        match (&mut self.burst, self.reports) {
            (None, _) => self.burst = Some(report),
            // One for the batch, where its first would be, with the id of the last.
            (Some(burst), UsedReports::Burst) => {
                (burst.id, burst.written) = (report.id, report.written);
            }
            (Some(_), UsedReports::Each) => self.write_used(report, Ordering::Relaxed),
        }
        self.used = self.used.plus(chain.descriptors, self.size);
        self.taken -= chain.descriptors;
        self.completed += chain.descriptors;
    }

    fn write_used(&self, report: Report, ordering: Ordering) {
        let mut flags = if report.at.wrap { AVAIL | USED } else { 0 };
        // The length counts only with this flag (section 2.8.9).
        if report.written > 0 {
            flags |= WRITE;
        }
        match self.place(report.at) {
            Ok(place) => place.report(report.written, report.id, flags, ordering),
            Err(_) => debug_assert!(false, "{:?} is outside the ring", report.at),
        }
    }

    pub(super) fn publish(&mut self) -> bool {
        let Some(report) = self.burst.take() else {
            return false;
        };
        let count = std::mem::take(&mut self.completed);
        self.write_used(report, Ordering::Release);
        // The flags must be visible before the driver's wish is read, and the driver orders the
        // other way round; otherwise both could miss each other.
        fence(Ordering::SeqCst);
        self.is_interrupt_wanted(count)
    }

    fn is_interrupt_wanted(&self, count: u16) -> bool {
        let flags = self.driver_events.load_u16(EVENT_FLAGS, Ordering::Acquire);
        if flags != SPECIFIC || !self.event_index {
            return flags != DISABLE;
        }
        let bits = self.driver_events.load_u16(0, Ordering::Relaxed);
        let mut event = bits & 0x7fff;
        if (bits >> 15 != 0) != self.used.wrap {
            event = event.wrapping_sub(self.size);
        }
        let new = self.used.index;
        passed(event, new.wrapping_sub(count), new)
    }

    pub(super) fn disable_notifications(&mut self) {
        if std::mem::replace(&mut self.notifications, false) {
            self.device_events
                .store_u16(EVENT_FLAGS, DISABLE, Ordering::Relaxed);
        }
    }

    /// The event is the first descriptor that was not seen available.
    pub(super) fn enable_notifications(&mut self) -> Result<bool, RingFault> {
        self.notifications = true;
        let unseen = self.next.plus(self.known, self.size);
        if self.event_index {
            self.device_events
                .store_u16(0, unseen.bits(), Ordering::Relaxed);
        }
        let flags = if self.event_index { SPECIFIC } else { ENABLE };
        self.device_events
            .store_u16(EVENT_FLAGS, flags, Ordering::Release);
        // The wish must be visible before the ring is looked at again.
        fence(Ordering::SeqCst);
        self.is_available(unseen)
    }
}

#[cfg(test)]
mod tests;
