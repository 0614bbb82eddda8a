//! The split virtqueue, from the device's side (virtio 1.3, section 2.7).

use std::sync::atomic::{Ordering, fence};

use super::super::memory::{Area, Descriptor, GuestMemory};
use super::{Chain, INDIRECT, MAX_SIZE, NEXT, RingFault, UsedReports};
use crate::features::FeatureBits;
use crate::transport::RingLayout;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` and `VIRTQ_USED_F_NO_NOTIFY`.
const SUPPRESS: u16 = 1;

/// Offset of `idx` in both rings; `flags` is at 0, the elements follow at 4.
const INDEX: usize = 2;
const ELEMENTS: usize = 4;
const USED_ELEMENT: usize = 8;

/// Split ring state. The indices are private copies; what the driver may write is read once.
#[derive(Debug)]
pub(in super::super) struct SplitRing {
    memory: GuestMemory,
    size: u16,
    descriptors: Area<{ Descriptor::BYTES }>,
    available: Area<2>,
    used: Area<4>,
    event_index: bool,
    indirect: bool,
    in_order: bool,
    reports: UsedReports,
    /// The driver's available index as last read.
    seen: u16,
    /// The next available element to take.
    next: u16,
    /// Where the next used element goes.
    used_next: u16,
    /// The used index that the driver has been shown.
    published: u16,
    /// With IN_ORDER, the descriptor at which the next chain must start.
    expected_head: u16,
    /// The last chain of a burst that is reported as a whole.
    burst_last: Option<(u16, u32)>,
    notifications: bool,
}

impl SplitRing {
    pub(super) fn new(
        memory: GuestMemory,
        layout: &RingLayout,
        features: FeatureBits,
        reports: UsedReports,
    ) -> Result<Self, RingFault> {
        let size = layout.size;
        if !size.is_power_of_two() || size > MAX_SIZE {
            return Err(RingFault::Size);
        }
        let entries = usize::from(size);
        // Sizes of section 2.7; the last two bytes of each ring are the event index of the other side.
        let descriptors = memory.area(layout.descriptors, entries * Descriptor::BYTES);
        let available = memory.area(layout.driver, ELEMENTS + entries * 2 + 2);
        let used = memory.area(layout.device, ELEMENTS + entries * USED_ELEMENT + 2);
        let in_order = features.contains(FeatureBits::IN_ORDER);
        Ok(SplitRing {
            memory,
            size,
            descriptors: descriptors.ok_or(RingFault::Layout)?,
            available: available.ok_or(RingFault::Layout)?,
            used: used.ok_or(RingFault::Layout)?,
            event_index: features.contains(FeatureBits::EVENT_IDX),
            indirect: features.contains(FeatureBits::INDIRECT_DESC),
            in_order,
            reports: if in_order { reports } else { UsedReports::Each },
            seen: 0,
            next: 0,
            used_next: 0,
            published: 0,
            expected_head: 0,
            burst_last: None,
            notifications: true,
        })
    }

    pub(super) fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    pub(super) fn has_available(&mut self) -> Result<bool, RingFault> {
        if self.next == self.seen {
            self.read_available_index()?;
        }
        Ok(self.next != self.seen)
    }

    /// Acquire pairs with the driver's release of the index: what it wrote before, descriptors
    /// and payload, is visible after.
    fn read_available_index(&mut self) -> Result<(), RingFault> {
        let index = self.available.load_u16(INDEX, Ordering::Acquire);
        if index.wrapping_sub(self.next) > self.size {
            return Err(RingFault::AvailableIndex);
        }
        self.seen = index;
        Ok(())
    }

    pub(super) fn take(&mut self, chain: &mut Chain) -> Result<bool, RingFault> {
        if !self.has_available()? {
            return Ok(false);
        }
        let slot = usize::from(self.next & (self.size - 1));
        let head = self
            .available
            .load_u16(ELEMENTS + slot * 2, Ordering::Relaxed);
        let first = self.descriptors.descriptor(head);
        let first = first.ok_or(RingFault::DescriptorIndex)?;
        if self.in_order && head != self.expected_head {
            return Err(RingFault::InOrder);
        }
        chain.begin(head);
        if self.add(first, chain)? {
            self.walk(head, first, chain)?;
        }
        self.expected_head = head.wrapping_add(chain.descriptors) & (self.size - 1);
        self.next = self.next.wrapping_add(1);
        Ok(true)
    }

    /// Adds what `descriptor` points to. Returns whether the chain goes on.
    fn add(&self, descriptor: Descriptor, chain: &mut Chain) -> Result<bool, RingFault> {
        if descriptor.flags & INDIRECT != 0 {
            return self.walk_table(descriptor, chain).map(|()| false);
        }
        let Descriptor {
            address,
            length,
            flags,
            next: _,
        } = descriptor;
        chain.add(&self.memory, address, length, flags)?;
        Ok(flags & NEXT != 0)
    }

    /// Follows a chain through the table, on from its descriptor at `index`. It has no more
    /// descriptors than the queue (section 2.7.5.2), which also ends a loop.
    #[inline(never)]
    fn walk(
        &self,
        mut index: u16,
        mut descriptor: Descriptor,
        chain: &mut Chain,
    ) -> Result<(), RingFault> {
        while chain.descriptors < self.size {
            // Section 2.7.9: with IN_ORDER a chain occupies consecutive descriptors.
            if self.in_order && descriptor.next != (index.wrapping_add(1) & (self.size - 1)) {
                return Err(RingFault::InOrder);
            }
            index = descriptor.next;
            let found = self.descriptors.descriptor(index);
            descriptor = found.ok_or(RingFault::DescriptorIndex)?;
            chain.descriptors += 1;
            if !self.add(descriptor, chain)? {
                return Ok(());
            }
        }
        Err(RingFault::ChainTooLong)
    }

    /// Section 2.7.5.3: the table has at least one descriptor and no more than the queue, its
    /// descriptors are not indirect themselves, and NEXT is not set beside INDIRECT.
    #[inline(never)]
    fn walk_table(&self, table: Descriptor, chain: &mut Chain) -> Result<(), RingFault> {
        let length = usize::try_from(table.length).map_err(|_| RingFault::Indirect)?;
        let entries = length / Descriptor::BYTES;
        if !self.indirect
            || table.flags & NEXT != 0
            || length % Descriptor::BYTES != 0
            || entries == 0
            || entries > usize::from(self.size)
        {
            return Err(RingFault::Indirect);
        }
        let base = self
            .memory
            .translate(table.address, length)
            .ok_or(RingFault::Address)?;
        let mut index = 0;
        for _ in 0..entries {
            if index >= entries {
                return Err(RingFault::DescriptorIndex);
            }
            let entry = self.memory.table_entry(base + index * Descriptor::BYTES);
            let Descriptor {
                address,
                length,
                flags,
                next,
            } = entry.ok_or(RingFault::Address)?;
            if flags & INDIRECT != 0 {
                return Err(RingFault::Indirect);
            }
            chain.add(&self.memory, address, length, flags)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = usize::from(next);
        }
        Err(RingFault::ChainTooLong)
    }

    pub(super) fn give_back(&mut self, chain: &Chain) {
        self.next = self.next.wrapping_sub(1);
        self.expected_head = chain.id;
    }

    pub(super) fn complete(&mut self, chain: &Chain, written: u32) {
        match self.reports {
            UsedReports::Each => self.write_used(self.used_next, chain.id, written),
            UsedReports::Burst => self.burst_last = Some((chain.id, written)),
        }
        self.used_next = self.used_next.wrapping_add(1);
    }

    fn write_used(&self, index: u16, id: u16, written: u32) {
        let slot = usize::from(index & (self.size - 1));
        self.used
            .write_pair(ELEMENTS + slot * USED_ELEMENT, u32::from(id), written);
    }

    pub(super) fn publish(&mut self) -> bool {
        if self.used_next == self.published {
            return false;
        }
        // Section 2.7.9: one element for the batch, where its first element would be, naming
        // the last buffer; then the index skips the batch.
        if let Some((id, written)) = self.burst_last.take() {
            self.write_used(self.published, id, written);
        }
        let old = std::mem::replace(&mut self.published, self.used_next);
        self.used
            .store_u16(INDEX, self.published, Ordering::Release);
        // Section 2.7.7.2: the index must be visible before the driver's wish is read, and the
        // driver orders the other way round; otherwise both could miss each other.
        fence(Ordering::SeqCst);
        if self.event_index {
            let event = self
                .available
                .load_u16(ELEMENTS + usize::from(self.size) * 2, Ordering::Relaxed);
            passed(event, old, self.published)
        } else {
            self.available.load_u16(0, Ordering::Relaxed) & SUPPRESS == 0
        }
    }

    pub(super) fn disable_notifications(&mut self) {
        if !self.notifications {
            return;
        }
        self.notifications = false;
        // With EVENT_IDX the flag stays zero (section 2.7.10), and an event index that is left
        // behind asks for one notification in 65536 buffers.
        if !self.event_index {
            self.used.store_u16(0, SUPPRESS, Ordering::Relaxed);
        }
    }

    pub(super) fn enable_notifications(&mut self) -> Result<bool, RingFault> {
        self.notifications = true;
        if self.event_index {
            let at = ELEMENTS + usize::from(self.size) * USED_ELEMENT;
            self.used.store_u16(at, self.seen, Ordering::Relaxed);
        } else {
            self.used.store_u16(0, 0, Ordering::Relaxed);
        }
        // Section 2.7.10: the wish must be visible before the index is read again.
        fence(Ordering::SeqCst);
        let before = self.seen;
        self.read_available_index()?;
        Ok(self.seen != before)
    }
}

/// Whether the index passed `event` on its way from `old` to `new` (section 2.7.7.2,
/// `vring_need_event`).
pub(super) fn passed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
