//! The transmit queue: frames go out, and their memory comes home when the device is done.

use std::sync::Arc;

use virtroupe_wire::{Buffer, Drops};

use crate::features::FeatureBits;
use crate::frame::{Frame, NET_HEADER};
use crate::memory::DmaMemory;
use crate::offload::TransmitOffloads;
use crate::pool::{Pool, forget_front};
use crate::ring::free::FreeDescriptors;
use crate::ring::split::Used;
use crate::ring::{Ring, Violation};
use crate::transport::RingLayout;

mod linear;
mod others;

/// Counters of a transmit queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransmitCounters {
    /// Frames handed to the device.
    pub frames: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// Frames copied into the pool, wholly or in part, because the device could not see them, or
    /// because they had too many segments.
    pub copied: u64,
    /// Frames dropped by the driver, by reason.
    pub drops: Drops,
}

/// One transmit ring and the frames that the device holds.
pub(crate) struct TransmitQueue<R> {
    ring: R,
    free: FreeDescriptors,
    /// For each descriptor, what it is the head of: the slot of a frame that is one segment of
    /// our own pool, which is the common case, or `VACANT`, or `OTHER`.
    slots: Box<[u32]>,
    /// For each descriptor marked `OTHER`: its frame; and the links of chains.
    others: Box<[Other]>,
    /// Chains outstanding.
    chains: u16,
    /// Slots that they hold beyond one for each descriptor: those of chains in indirect tables.
    further_slots: usize,
    iova_offset: u64,
    offloads: TransmitOffloads,
    /// Reused by `push_plain`: addresses and lengths for descriptors.
    buffers: Box<[(u64, u32); RUN]>,
    /// Frames whose descriptors are being fetched.
    prepared: usize,
    /// Whether the device takes indirect descriptors.
    indirect: bool,
    memory: Arc<DmaMemory>,
    pub(crate) counters: TransmitCounters,
}

/// Chains of more segments are copied into fewer. A chain is walked for each segment that is
/// appended to it, which is fast for as many; and they hold the largest IP packet twice.
const MOST_SEGMENTS: usize = 64;

/// The longest chain that is handed to the device on a ring of `size` descriptors (section
/// 2.7.5.3.1). A longer one is copied into fewer segments or dropped: it could wait for ever for a
/// ring that is shorter.
pub(crate) fn most_segments(size: usize) -> usize {
    size.min(MOST_SEGMENTS)
}

/// The descriptor is not the head of an outstanding frame.
const VACANT: u32 = u32::MAX;
/// The frame of the descriptor is in `others`.
const OTHER: u32 = u32::MAX - 1;

/// Plain frames that are put together before their descriptors are written.
const RUN: usize = 64;

#[derive(Default)]
struct Other {
    frame: Option<Frame>,
    /// Descriptor that follows this one in its chain.
    next: Option<u16>,
    /// The slot that holds the chain's indirect table.
    table: Option<u32>,
    /// Segments in that table.
    in_table: usize,
}

impl<R: Ring> TransmitQueue<R> {
    pub(crate) fn new(
        memory: Arc<DmaMemory>,
        layout: &RingLayout,
        iova_offset: u64,
        features: FeatureBits,
    ) -> Option<Self> {
        let event_idx = features.contains(FeatureBits::EVENT_IDX);
        let in_order = features.contains(FeatureBits::IN_ORDER);
        let mut ring = R::new(memory.clone(), layout, event_idx, in_order)?;
        ring.suppress_interrupts();
        Some(TransmitQueue {
            offloads: TransmitOffloads::new(features, layout.size),
            free: FreeDescriptors::new(layout.size),
            slots: vec![VACANT; usize::from(layout.size)].into(),
            others: (0..layout.size).map(|_| Other::default()).collect(),
            chains: 0,
            further_slots: 0,
            ring,
            iova_offset,
            buffers: Box::new([(0, 0); RUN]),
            prepared: 0,
            indirect: features.contains(FeatureBits::INDIRECT_DESC),
            memory,
            counters: TransmitCounters::default(),
        })
    }

    /// Descriptors in the ring.
    pub(crate) fn size(&self) -> usize {
        usize::from(self.ring.size())
    }

    /// Starts fetching the descriptors that `frames` more frames will need, beyond those for which
    /// it was called since the last [`submit`](Self::submit).
    #[inline]
    pub(crate) fn prepare(&mut self, frames: usize) {
        let count = frames.min(self.room().saturating_sub(self.prepared));
        self.ring
            .prefetch_descriptors(self.free.upcoming(), self.prepared, count);
        self.prepared += count;
    }

    /// Descriptors that are free now.
    pub(crate) fn room(&self) -> usize {
        usize::from(self.free.len())
    }

    /// Slots that the device holds beyond one for each descriptor.
    pub(crate) fn further_slots(&self) -> usize {
        self.further_slots
    }

    /// Chains that the device holds.
    pub(crate) fn outstanding(&self) -> usize {
        usize::from(self.chains)
    }

    /// Hands frames from the front of `burst` to the device until the ring is full; the rest
    /// stays. Returns whether the device wants to be notified.
    #[inline(never)]
    pub(crate) fn submit(&mut self, pool: &mut Pool, burst: &mut Vec<Frame>) -> bool {
        let sent = self.push_plain(pool, burst);
        forget_front(burst, sent);
        self.prepared = 0;
        if !burst.is_empty() {
            self.submit_others(pool, burst);
        }
        self.ring.publish()
    }

    /// Sends plain frames, and those that ask for a checksum and nothing else, from the front of
    /// `frames` on, until there is one of another kind or no descriptor is left. Returns their
    /// number; the caller forgets them.
    ///
    /// In two passes: what is to be written is put together first. A loop that does both has too
    /// much at hand for the registers, and what it keeps in memory instead goes through the same
    /// queue of stores as the descriptors. That then holds a few of them only, and the core waits
    /// for their lines one after the other, where it could wait for many at once.
    #[inline(always)]
    fn push_plain(&mut self, pool: &Pool, frames: &mut [Frame]) -> usize {
        let home = pool.home_pointer();
        let (mut sent, mut bytes) = (0, 0);
        loop {
            let frames = frames.get_mut(sent..).unwrap_or_default();
            // There may be more behind the end of the ring.
            let most = self.ring.contiguous(frames.len().min(RUN));
            let ids = self.free.upcoming_slice(most);
            let mut count = 0;
            for ((frame, &id), buffer) in frames.iter_mut().zip(ids).zip(&mut self.buffers[..]) {
                let header = match frame.is_plain(home) {
                    true => frame.clear_net_header(),
                    false => self.offloads.request_checksum(frame, home),
                };
                let (Some(header), Some(slot)) = (header, self.slots.get_mut(usize::from(id)))
                else {
                    break;
                };
                *slot = frame.slot();
                let length = frame.head().len() as u32;
                let address = (header.as_ptr() as u64).wrapping_add(self.iova_offset);
                *buffer = (address, length + NET_HEADER as u32);
                bytes += u64::from(length);
                count += 1;
            }
            // None: of another kind, or no descriptor is left.
            if count == 0 {
                break;
            }
            let buffers = self.buffers.get(..count).unwrap_or_default();
            let pushed = self
                .ring
                .push_run(0, ids, buffers.iter(), |_, buffer| Some(*buffer));
            debug_assert_eq!(pushed, count, "there is room");
            self.free.advance(count as u16);
            sent += count;
        }
        self.chains += sent as u16;
        self.counters.frames += sent as u64;
        self.counters.bytes += bytes;
        sent
    }

    /// Takes back what the device has sent. Returns the number of frames.
    #[inline(never)]
    pub(crate) fn reclaim(&mut self, pool: &mut Pool) -> Result<usize, Violation> {
        let pending = self.ring.used_pending(self.chains)?;
        let in_order = self.ring.in_order();
        let mut left = pending;
        while left > 0
            && let Some(used) = self.ring.used_at(0)
        {
            let run = if in_order {
                self.reclaim_run(pool, used, left)
            } else {
                0
            };
            if run > 0 {
                left -= run;
                continue;
            }
            let used = used.id;
            let mut head = u16::try_from(used).map_err(|_| Violation::UsedId(used))?;
            let batch = if in_order {
                self.batch_up_to(head, left)?
            } else {
                1
            };
            let free = self.free.len();
            for _ in 0..batch {
                if in_order {
                    head = self.free.oldest(0);
                }
                self.release(head, pool)?;
            }
            self.ring.advance_used(batch, self.free.len() - free);
            left -= batch;
        }
        Ok(usize::from(pending - left))
    }

    /// Takes back, together, plain frames whose used entries, from `used` on, are as an in-order
    /// device writes them: at most `pending`, and not beyond the end of the ring. Returns their number; what
    /// is different is not among them.
    #[inline]
    fn reclaim_run(&mut self, pool: &mut Pool, used: Used, pending: u16) -> u16 {
        let first = self.free.oldest(0);
        let slots = self.slots.get_mut(usize::from(first)..).unwrap_or_default();
        let most = pending.min(slots.len() as u16);
        let slots = slots.get_mut(..usize::from(most)).unwrap_or_default();
        let plain = slots.iter().take_while(|slot| **slot < OTHER).count() as u16;
        let mut run = 0;
        let mut next = Some(used);
        while run < plain
            && let Some(used) = next
        {
            // One entry for each frame, or one for a batch with its last head (section 2.7.9).
            let last = used.id.wrapping_sub(u32::from(first));
            if last < u32::from(run) || last >= u32::from(plain) {
                break;
            }
            run = last as u16 + 1;
            next = (run < plain).then(|| self.ring.used_at(run)).flatten();
        }
        if let Some(slots) = slots.get_mut(..usize::from(run)) {
            pool.give_many(slots);
            slots.fill(VACANT);
        }
        self.free.give_oldest(run);
        self.chains -= run;
        self.ring.advance_used(run, run);
        run
    }

    /// An in-order device may write one used entry for a batch, with the last head (section
    /// 2.7.9): how many chains that covers, of at most `pending`.
    #[inline]
    fn batch_up_to(&self, id: u16, pending: u16) -> Result<u16, Violation> {
        let mut place = 0;
        for batch in 1..=pending {
            let head = self.free.oldest(place);
            if head == id {
                return Ok(batch);
            }
            place += self.descriptors(head);
        }
        Err(Violation::UsedId(u32::from(id)))
    }

    /// Descriptors of the chain that starts at `head`.
    fn descriptors(&self, head: u16) -> u16 {
        let is_other = self.slots.get(usize::from(head)) == Some(&OTHER);
        let mut count = 1;
        let mut link = is_other.then_some(head).and_then(|head| self.next(head));
        while let Some(id) = link {
            count += 1;
            link = self.next(id);
        }
        count
    }

    fn next(&self, id: u16) -> Option<u16> {
        self.others.get(usize::from(id))?.next
    }

    #[inline]
    fn release(&mut self, head: u16, pool: &mut Pool) -> Result<(), Violation> {
        let unknown = Violation::UsedId(u32::from(head));
        let entry = self.slots.get_mut(usize::from(head)).ok_or(unknown)?;
        let slot = std::mem::replace(entry, VACANT);
        if slot == VACANT {
            return Err(unknown);
        }
        self.chains -= 1;
        self.free.give(head);
        if slot == OTHER {
            self.release_other(head, pool);
        } else {
            pool.give(slot);
        }
        Ok(())
    }

    #[cold]
    fn release_other(&mut self, head: u16, pool: &mut Pool) {
        let mut link = self.next(head);
        while let Some(id) = link {
            self.free.give(id);
            link = self.next(id);
        }
        if let Some(other) = self.others.get_mut(usize::from(head)) {
            other.frame = None;
            if let Some(table) = other.table.take() {
                self.further_slots -= other.in_table;
                pool.give(table);
            }
        }
    }

    pub(crate) fn request_interrupt(&mut self) {
        self.ring.request_interrupt();
    }

    /// Whether the device has sent something since the last `reclaim`; also true after a
    /// violation, which `reclaim` will report.
    pub(crate) fn has_work(&self) -> bool {
        self.ring.used_pending(self.chains) != Ok(0)
    }

    pub(crate) fn suppress_interrupts(&mut self) {
        self.ring.suppress_interrupts();
    }

    /// Takes back every frame. The device must have been reset. Returns the number of frames.
    pub(crate) fn reclaim_all(&mut self, pool: &mut Pool) -> usize {
        let mut frames = 0;
        for (slot, other) in self.slots.iter_mut().zip(&mut self.others) {
            match std::mem::replace(slot, VACANT) {
                VACANT => continue,
                OTHER => {
                    other.frame = None;
                    if let Some(table) = other.table.take() {
                        pool.give(table);
                    }
                }
                slot => pool.give(slot),
            }
            frames += 1;
        }
        self.chains = 0;
        self.further_slots = 0;
        frames
    }
}
