//! The packed virtqueue (virtio 1.3, section 2.8): memory format and ordering.
//!
//! One ring of descriptors serves both sides. The driver writes a descriptor, the device
//! overwrites it when it is used; two bits of its flags, compared with a *wrap counter* that each
//! side turns over at the end of the ring, say whose it is.
//!
//! | part | written by | we read it |
//! |---|---|---|
//! | descriptor ring | both | of a used descriptor: flags, id and length, each once |
//! | driver event suppression | driver | never |
//! | device event suppression | device | once a burst |
//!
//! A burst is published by one store: the flags of its first descriptor are written last. The
//! device looks at descriptors in ring order, so it sees none of the others before.
//!
//! All accesses go through raw pointers, volatile or atomic; no reference to this memory exists.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use super::split::{Used, need_event};
use super::{Ring, Violation};
use crate::memory::{DmaMemory, prefetch_write};
use crate::transport::RingLayout;

/// A descriptor is available if this flag is the driver's wrap counter and `USED` is not.
const AVAIL: u16 = 1 << 7;
/// A descriptor is used if this flag and `AVAIL` are the device's wrap counter.
const USED: u16 = 1 << 15;
/// Where the flags are in the second word of a descriptor, and in them the two that say whose it
/// is: both turn over with the wrap counter.
const FLAGS_SHIFT: u32 = 48;
const OWNER_BITS: u64 = ((AVAIL | USED) as u64) << FLAGS_SHIFT;
/// The event suppression structure: notify always, never, or at a descriptor.
const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
const EVENT_DESCRIPTOR: u16 = 2;
/// The wrap counter beside a descriptor's number.
const EVENT_WRAP: u16 = 1 << 15;
/// The largest ring (section 2.8.10).
const MAX_SIZE: u16 = 1 << 15;
/// Descriptors of 16 bytes in a cache line of 64.
const DESCRIPTORS_IN_LINE: usize = 4;

/// Bytes of each part for a ring of `size`, in the order descriptors, driver, device.
pub(crate) fn part_sizes(size: u16) -> [usize; 3] {
    [16 * usize::from(size), 4, 4]
}

/// A place in the ring and the wrap counter there.
#[derive(Clone, Copy)]
struct Position {
    /// As wide as a register: see `SplitRing::mask`.
    at: usize,
    /// The flags that say 'mine' here: `AVAIL` in one round of the driver, `USED` in the next.
    wrap: bool,
}

impl Position {
    const START: Position = Position { at: 0, wrap: true };

    #[inline(always)]
    fn advance(&mut self, count: usize, size: usize) {
        self.at += count;
        if self.at >= size {
            self.at -= size;
            self.wrap = !self.wrap;
        }
    }

    /// As an event suppression structure has it.
    fn encode(self) -> u16 {
        self.at as u16 | if self.wrap { EVENT_WRAP } else { 0 }
    }
}

/// The driver's view of one packed ring.
pub(crate) struct PackedRing {
    size: usize,
    /// Each descriptor is two words: address; length, id and flags.
    descriptors: NonNull<u64>,
    /// Driver event suppression: position and flags.
    driver: NonNull<u16>,
    /// Device event suppression: position and flags.
    device: NonNull<u16>,
    /// Where the next descriptor goes.
    next: Position,
    /// Descriptors that are written but not published.
    unpublished: usize,
    /// Where the first of them is, and its flags, which publish all.
    first: usize,
    first_flags: u16,
    /// Where the device writes its next used descriptor.
    used: Position,
    event_idx: bool,
    in_order: bool,
    /// Whether the driver's structure says that no interrupt is wanted.
    suppressed: bool,
    /// Keeps the mapping alive.
    _memory: Arc<DmaMemory>,
}

// SAFETY: the pointers lead into the mapping that `_memory` keeps alive; this value is the only
// one in the process that uses them as the driver.
unsafe impl Send for PackedRing {}

impl PackedRing {
    /// Brings the memory into the state that the private fields describe: nothing is available,
    /// nothing is used, both sides want notifications.
    fn clear(&self) {
        for word in 0..2 * self.size {
            // SAFETY: inside the ring, which has two words for each descriptor.
            unsafe { self.descriptors.add(word).write_volatile(0) };
        }
        for area in [self.driver, self.device] {
            self.event_word(area, 0).store(0, Ordering::Relaxed);
            self.event_word(area, 1)
                .store(EVENT_ENABLE, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// A word of an event suppression structure: 0 is the position, 1 the flags.
    fn event_word(&self, area: NonNull<u16>, word: usize) -> &AtomicU16 {
        debug_assert!(word < 2);
        // SAFETY: inside the area that `new` checked; an atomic may be shared with the device.
        unsafe { AtomicU16::from_ptr(area.add(word).as_ptr()) }
    }

    /// The second word of the descriptor at `at`, by 16 bits: length (2), id, flags.
    #[inline(always)]
    fn halves(&self, at: usize) -> NonNull<u16> {
        debug_assert!(at < self.size);
        // SAFETY: inside the ring, which has two words for each descriptor.
        unsafe { self.descriptors.add(2 * at + 1) }.cast()
    }

    #[inline(always)]
    fn flags(&self, at: usize) -> &AtomicU16 {
        // SAFETY: the last two bytes of the descriptor; an atomic may be shared with the device.
        unsafe { AtomicU16::from_ptr(self.halves(at).add(3).as_ptr()) }
    }

    /// Whether the device asked to hear of the `count` descriptors before `next`.
    fn is_notification_wanted(&self, count: usize) -> bool {
        let flags = u16::from_le(self.event_word(self.device, 1).load(Ordering::Acquire));
        if flags != EVENT_DESCRIPTOR || !self.event_idx {
            return flags != EVENT_DISABLE;
        }
        let event = u16::from_le(self.event_word(self.device, 0).load(Ordering::Relaxed));
        let mut at = event & !EVENT_WRAP;
        if (event & EVENT_WRAP != 0) != self.next.wrap {
            at = at.wrapping_sub(self.size as u16);
        }
        let new = self.next.at as u16;
        need_event(at, new, new.wrapping_sub(count as u16))
    }
}

impl Ring for PackedRing {
    fn new(
        memory: Arc<DmaMemory>,
        layout: &RingLayout,
        event_idx: bool,
        in_order: bool,
    ) -> Option<Self> {
        let [descriptors, driver, device] = part_sizes(layout.size);
        let descriptors = memory.range(layout.descriptors, descriptors)?;
        let driver = memory.range(layout.driver, driver)?;
        let device = memory.range(layout.device, device)?;
        // Section 2.8.10.1.
        let aligned = layout.descriptors.is_multiple_of(16)
            && layout.driver.is_multiple_of(4)
            && layout.device.is_multiple_of(4);
        if !(1..=MAX_SIZE).contains(&layout.size) || !aligned {
            return None;
        }
        let ring = PackedRing {
            size: usize::from(layout.size),
            descriptors: descriptors.cast(),
            driver: driver.cast(),
            device: device.cast(),
            next: Position::START,
            unpublished: 0,
            first: 0,
            first_flags: 0,
            used: Position::START,
            event_idx,
            in_order,
            suppressed: false,
            _memory: memory,
        };
        ring.clear();
        Some(ring)
    }

    #[inline]
    fn size(&self) -> u16 {
        self.size as u16
    }

    #[inline]
    fn in_order(&self) -> bool {
        self.in_order
    }

    /// DPDK's backend takes the four descriptors of a line at once, if all are there when it looks.
    #[inline]
    fn aligned_count(&self, count: usize) -> usize {
        let over = (self.next.at + count) % DESCRIPTORS_IN_LINE;
        if over < count { count - over } else { count }
    }

    #[inline]
    fn contiguous(&self, count: usize) -> usize {
        count.min(self.size - self.next.at)
    }

    /// Descriptors are written in ring order, whatever their id.
    #[inline]
    fn prefetch_descriptors(&self, _id: u16, skip: usize, count: usize) {
        let mut place = self.next;
        place.advance(skip, self.size);
        let mut at = place.at;
        for _ in 0..count.div_ceil(DESCRIPTORS_IN_LINE) {
            prefetch_write(self.halves(at).cast());
            at += DESCRIPTORS_IN_LINE;
            if at >= self.size {
                at = 0;
            }
        }
    }

    /// Each descriptor of a chain has the id of its head; the device needs that of the last only
    /// (section 2.8.6).
    #[inline]
    fn write_descriptor(
        &mut self,
        head: u16,
        _id: u16,
        address: u64,
        length: u32,
        flags: u16,
        _next: u16,
    ) {
        let buffer = Some((address, length));
        self.push_run(flags, &[head], std::iter::once(buffer), |_, buffer| buffer);
    }

    #[inline(always)]
    fn push_run<T>(
        &mut self,
        flags: u16,
        ids: &[u16],
        items: impl Iterator<Item = T>,
        mut buffer: impl FnMut(u16, T) -> Option<(u64, u32)>,
    ) -> usize {
        let (size, descriptors) = (self.size, self.descriptors);
        let Position { at: start, wrap } = self.next;
        let own = flags | if wrap { AVAIL } else { USED };
        let own_bits = u64::from(own) << FLAGS_SHIFT;
        // The first is written as it was available in the lap before, until it is published.
        let mut bits = own_bits;
        if self.unpublished == 0 {
            (self.first, self.first_flags) = (start, own);
            bits ^= OWNER_BITS;
        }
        let ids = ids.get(..size - start).unwrap_or(ids);
        let mut at = start;
        for (&id, item) in ids.iter().zip(items) {
            let Some((address, length)) = buffer(id, item) else {
                break;
            };
            let rest = u64::from(length) | u64::from(id) << 32 | bits;
            bits = own_bits;
            // SAFETY: the descriptor at `at`, inside the ring, which the device does not hold.
            // Volatile, because the device may read at any time, although by the protocol it
            // does not before `publish`.
            unsafe {
                let words = descriptors.add(2 * at);
                words.write_volatile(address.to_le());
                words.add(1).write_volatile(rest.to_le());
            }
            at += 1;
        }
        let count = at - start;
        self.next.advance(count, size);
        self.unpublished += count;
        count
    }

    /// Tables have no `NEXT`: their entries follow each other (section 2.8.7).
    fn indirect_entry(_index: u16, _is_last: bool, address: u64, length: u32) -> [u64; 2] {
        [address, u64::from(length)]
    }

    #[inline]
    fn push_avail(&mut self, _head: u16) {}

    #[inline]
    fn publish(&mut self) -> bool {
        let count = std::mem::take(&mut self.unpublished);
        if count == 0 {
            return false;
        }
        // Release: the descriptors are visible before the flags that publish them.
        self.flags(self.first)
            .store(self.first_flags.to_le(), Ordering::Release);
        // They must be visible before we look whether the device sleeps (section 2.8.21.3).
        fence(Ordering::SeqCst);
        self.is_notification_wanted(count)
    }

    /// There is no index to count by: all may be used, if one is. What a device marks used beyond
    /// what it holds is not looked at.
    #[inline]
    fn used_pending(&self, outstanding: u16) -> Result<u16, Violation> {
        Ok(if self.used_at(0).is_some() {
            outstanding
        } else {
            0
        })
    }

    #[inline(always)]
    fn used_at(&self, place: u16) -> Option<Used> {
        self.used_run(place, 1).next()
    }

    #[inline(always)]
    fn used_run(&self, place: u16, count: u16) -> impl Iterator<Item = Used> {
        let mut position = self.used;
        position.advance(usize::from(place), self.size);
        let Position { at, wrap } = position;
        let mine = if wrap { AVAIL | USED } else { 0 };
        let descriptors = self.descriptors;
        let end = self.size.min(at + usize::from(count));
        (at..end).map_while(move |at| {
            // SAFETY: the second word of the descriptor at `at`, inside the ring.
            let halves = unsafe { descriptors.add(2 * at + 1) }.cast::<u16>();
            // SAFETY: its last two bytes; an atomic may be shared with the device.
            let flags = unsafe { AtomicU16::from_ptr(halves.add(3).as_ptr()) };
            // Acquire: id, length and packet are visible after the flags.
            if u16::from_le(flags.load(Ordering::Acquire)) & (AVAIL | USED) != mine {
                return None;
            }
            // SAFETY: inside the descriptor and aligned. Volatile: the device may write at any
            // time, and one read decides.
            let (length, id) = unsafe {
                let id = halves.add(2).read_volatile();
                (halves.cast::<u32>().read_volatile(), id)
            };
            Some(Used {
                id: u32::from(u16::from_le(id)),
                length: u32::from_le(length),
            })
        })
    }

    #[inline]
    fn advance_used(&mut self, _chains: u16, descriptors: u16) {
        self.used.advance(usize::from(descriptors), self.size);
    }

    fn suppress_interrupts(&mut self) {
        // Written once: the line is the device's to read.
        if !std::mem::replace(&mut self.suppressed, true) {
            self.event_word(self.driver, 1)
                .store(EVENT_DISABLE.to_le(), Ordering::Relaxed);
        }
    }

    fn request_interrupt(&mut self) {
        self.suppressed = false;
        let flags = if self.event_idx {
            self.event_word(self.driver, 0)
                .store(self.used.encode().to_le(), Ordering::Relaxed);
            EVENT_DESCRIPTOR
        } else {
            EVENT_ENABLE
        };
        // Release: the position is visible before the flags that make it count.
        self.event_word(self.driver, 1)
            .store(flags.to_le(), Ordering::Release);
        // The request must be visible before we look again.
        fence(Ordering::SeqCst);
    }
}
