//! The receive queue: empty slots go out, frames come in.

use std::mem::MaybeUninit;
use std::sync::Arc;

use virtroupe_wire::{Buffer, Drops, Offload};

use crate::features::FeatureBits;
use crate::frame::{Frame, NET_HEADER, SLOT_DATA};
use crate::memory::DmaMemory;
use crate::pool::{Pool, SLOT_STRIDE};
use crate::ring::free::FreeDescriptors;
use crate::ring::split::Used;
use crate::ring::{DESC_F_WRITE, Ring, Violation};
use crate::transport::RingLayout;

use header::net_header;

mod header;
mod merge;
mod offload;

pub(crate) use merge::{LONGEST as LONGEST_MERGED, longest_merged_frame};
pub use offload::ReceiveOffloads;

/// Where the buffer of a slot starts for the device: at the virtio-net header.
const BUFFER_START: usize = SLOT_DATA as usize - NET_HEADER;
/// Bytes of a slot that the device may fill.
const BUFFER_LENGTH: u32 = (SLOT_STRIDE - BUFFER_START) as u32;
/// The longest frame that fits into one slot.
pub(crate) const LONGEST_FRAME: usize = BUFFER_LENGTH as usize - NET_HEADER;
/// No slot is posted under this descriptor.
const VACANT: u32 = u32::MAX;
/// Descriptors are posted in groups: one index write, and for DPDK's backend one fetch, each.
const REFILL: u16 = 32;

/// Counters of a receive queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceiveCounters {
    /// Frames received, also those dropped since.
    pub frames: u64,
    /// Their bytes, from the Ethernet header on, without the frame check sequence.
    pub bytes: u64,
    /// Frames copied to the heap because the pool was low.
    pub copied: u64,
    /// Frames dropped because what the device says of them does not fit to them. They are among
    /// `frames`, and were given to nobody.
    pub drops: Drops,
}

/// What used buffers tell besides their lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Nothing: a buffer is a frame, and its header is not looked at.
    Plain,
    /// The header tells of the frame's checksum.
    Described,
    /// A frame may span several buffers, and perhaps the header describes it.
    Merged,
}

impl Mode {
    fn new(features: FeatureBits) -> Self {
        if features.contains(FeatureBits::MRG_RXBUF) {
            Mode::Merged
        } else if ReceiveOffloads::new(features).is_none() {
            Mode::Plain
        } else {
            Mode::Described
        }
    }
}

/// One receive ring and the slots posted in it.
pub(crate) struct ReceiveQueue<R> {
    ring: R,
    free: FreeDescriptors,
    /// The slot under each outstanding descriptor.
    posted: Box<[u32]>,
    /// Added to an address of ours to get the device's.
    iova_offset: u64,
    mode: Mode,
    offloads: ReceiveOffloads,
    /// Frames in the last burst: as many will probably come in the next.
    last_taken: usize,
    /// What this queue did so far.
    pub(crate) counters: ReceiveCounters,
}

impl<R: Ring> ReceiveQueue<R> {
    pub(crate) fn new(
        memory: Arc<DmaMemory>,
        layout: &RingLayout,
        iova_offset: u64,
        features: FeatureBits,
    ) -> Option<Self> {
        let event_idx = features.contains(FeatureBits::EVENT_IDX);
        let in_order = features.contains(FeatureBits::IN_ORDER);
        let ring = R::new(memory, layout, event_idx, in_order)?;
        Some(ReceiveQueue {
            free: FreeDescriptors::new(layout.size),
            posted: vec![VACANT; usize::from(layout.size)].into(),
            ring,
            iova_offset,
            mode: Mode::new(features),
            offloads: ReceiveOffloads::new(features),
            last_taken: 0,
            counters: ReceiveCounters::default(),
        })
    }

    fn outstanding(&self) -> u16 {
        self.ring.size() - self.free.len()
    }

    /// As [`fill`](Self::fill), once there is room for a group of slots.
    #[inline(never)]
    pub(crate) fn refill(&mut self, pool: &mut Pool, reserve: usize) -> bool {
        if self.free.len() < REFILL.min(self.ring.size() / 2) {
            return false;
        }
        let wanted = self.ring.aligned_count(usize::from(self.free.len()));
        self.post(pool, reserve, wanted)
    }

    /// Posts slots until the ring is full or the pool keeps no more than `reserve`; but half of
    /// the ring has precedence over the reserve. Returns whether the device wants to be notified.
    ///
    /// Together with [`harvest`](Self::harvest), which gives away only what can be replaced, this
    /// keeps half of the ring posted whatever applications hold: a queue that sleeps can always
    /// be woken by a frame, although nobody tells it that slots came home.
    pub(crate) fn fill(&mut self, pool: &mut Pool, reserve: usize) -> bool {
        self.post(pool, reserve, usize::from(self.free.len()))
    }

    /// Posts at most `wanted` slots, for which there is room, as [`fill`](Self::fill) says. Half of
    /// the ring has precedence over `wanted` too: what this leaves in the pool, an application may
    /// take before the queue sleeps.
    #[inline(always)]
    fn post(&mut self, pool: &mut Pool, reserve: usize, wanted: usize) -> bool {
        let to_half = usize::from(self.free.len().saturating_sub(self.ring.size() / 2));
        let available = pool.ensure(wanted + reserve);
        let spare = available.saturating_sub(reserve);
        let count = spare.min(wanted).max(available.min(to_half));
        // Where the device finds the buffer of slot 0.
        let first = (pool.slots().as_ptr() as u64)
            .wrapping_add(BUFFER_START as u64)
            .wrapping_add(self.iova_offset);
        let slots = pool.take_many(count);
        let mut slots = slots.as_slice();
        while !slots.is_empty() {
            let ids = self.free.upcoming_slice(slots.len());
            let posted = &mut self.posted[..];
            let buffer = |id, slot: &u32| {
                *posted.get_mut(usize::from(id))? = *slot;
                let address = first.wrapping_add(u64::from(*slot) * SLOT_STRIDE as u64);
                Some((address, BUFFER_LENGTH))
            };
            let taken = self.ring.push_run(DESC_F_WRITE, ids, slots.iter(), buffer);
            debug_assert!(taken > 0, "there is room");
            slots = slots.get(taken..).unwrap_or_default();
            self.free.advance(taken as u16);
        }
        self.ring.publish()
    }

    /// Takes up to `limit` received frames into `burst`, but for those that it drops and counts
    /// because what their header says does not fit to them. Those that the pool can not replace in
    /// the ring without touching `reserve` are copied to the heap, and their slots posted again.
    /// Returns how many came, with those that were dropped.
    ///
    /// # Errors
    /// The device broke the ring's rules. What came before the violation is in `burst`.
    // Not inlined, as `refill`: one function for each format keeps what it needs in registers.
    #[inline(never)]
    pub(crate) fn harvest(
        &mut self,
        pool: &mut Pool,
        burst: &mut Vec<Frame>,
        limit: usize,
        reserve: usize,
    ) -> Result<usize, Violation> {
        match self.mode {
            Mode::Plain => self.harvest_single::<false>(pool, burst, limit, reserve),
            Mode::Described => self.harvest_described(pool, burst, limit, reserve),
            Mode::Merged => self.harvest_merged(pool, burst, limit, reserve),
        }
    }

    #[inline(never)]
    fn harvest_described(
        &mut self,
        pool: &mut Pool,
        burst: &mut Vec<Frame>,
        limit: usize,
        reserve: usize,
    ) -> Result<usize, Violation> {
        self.harvest_single::<true>(pool, burst, limit, reserve)
    }

    /// As [`harvest`](Self::harvest), for frames in one buffer each, whose headers are looked at
    /// if they may be `DESCRIBED` there.
    #[inline(always)]
    fn harvest_single<const DESCRIBED: bool>(
        &mut self,
        pool: &mut Pool,
        burst: &mut Vec<Frame>,
        limit: usize,
        reserve: usize,
    ) -> Result<usize, Violation> {
        let pending = self.ring.used_pending(self.outstanding())?;
        let take = usize::from(pending).min(limit);
        if take == 0 {
            return Ok(0);
        }
        let owed = usize::from(self.free.len()) + reserve;
        let replaceable = pool.ensure(owed + take).saturating_sub(owed);
        // Those of more would be taken from a device that is about to write into them.
        let likely = take.min(self.last_taken + 1);
        self.ring
            .prefetch_descriptors(self.free.upcoming(), 0, likely);
        burst.reserve(take);
        let before = burst.len();
        let mut result = Ok(());
        let mut bytes = 0;
        let mut taken = 0;
        // Most frames come in one or, around the end of the ring, two runs. Runs look at no header.
        let mut rest = &mut burst.spare_capacity_mut()[..];
        for _ in 0..if DESCRIBED { 0 } else { 2 } {
            let in_run = take.min(replaceable).saturating_sub(usize::from(taken));
            let room = rest.get_mut(..in_run).unwrap_or_default();
            let run = self.harvest_run(pool, room, taken, &mut bytes);
            rest = rest.get_mut(usize::from(run)..).unwrap_or_default();
            taken += run;
        }
        let left = take - usize::from(taken);
        for room in rest.iter_mut().take(left) {
            let Some(used) = self.ring.used_at(taken) else {
                break;
            };
            let (slot, length) = match self.take_used(used, taken, NET_HEADER) {
                Ok(used) => used,
                Err(violation) => {
                    result = Err(violation);
                    break;
                }
            };
            let length = length - NET_HEADER as u16;
            let frame = room.write(pool.frame_of(slot, SLOT_DATA, length));
            if DESCRIBED && let Err(violation) = self.describe(pool, slot, frame) {
                // The frame is not counted, so it is none: the slot stays where it was.
                self.put_back(used.id, slot);
                result = Err(violation);
                break;
            }
            bytes += u64::from(length);
            if usize::from(taken) >= replaceable {
                frame.move_to_heap();
                self.counters.copied += 1;
            }
            taken += 1;
        }
        // SAFETY: there was room for as many, and the loop has written that many.
        unsafe { burst.set_len(before + usize::from(taken)) };
        self.last_taken = usize::from(taken);
        self.free.give_run(taken);
        self.ring.advance_used(taken, taken);
        self.counters.frames += u64::from(taken);
        self.counters.bytes += bytes;
        result.map(|()| usize::from(taken))
    }

    /// Undoes [`take_used`](Self::take_used), before the caller has moved on.
    #[cold]
    fn put_back(&mut self, id: u32, slot: u32) {
        if let Some(posted) = self.posted.get_mut(id as usize) {
            *posted = slot;
        }
    }

    /// Notes with `frame`, all of which is in `slot`, what the header there says of its checksum.
    /// Large receive needs merged buffers, so nothing else can have been negotiated.
    #[inline(always)]
    fn describe(&self, pool: &Pool, slot: u32, frame: &mut Frame) -> Result<(), Violation> {
        if let Some(header) = net_header(pool, slot) {
            let length = frame.head().len() as u32;
            frame.set_offload(Offload {
                checksum: self.offloads.judge_header(&header, length)?,
                segmentation: None,
            });
        }
        Ok(())
    }

    /// Takes frames from `place` behind the current position on, as far as they came in the order
    /// in which their buffers were posted and there is nothing to complain of. Writes them to
    /// `room`, adds their lengths to `bytes`, and returns their number.
    #[inline(always)]
    fn harvest_run(
        &mut self,
        pool: &Pool,
        room: &mut [MaybeUninit<Frame>],
        place: u16,
        bytes: &mut u64,
    ) -> u16 {
        let (home, slots) = (pool.home_pointer(), pool.slots());
        let ids = self.free.oldest_slice(place, room.len());
        let posted = &mut self.posted[..];
        let mut run = 0;
        let used = self.ring.used_run(place, ids.len() as u16);
        for ((id, room), used) in ids.iter().zip(room).zip(used) {
            let length = used.length.wrapping_sub(NET_HEADER as u32);
            if used.id != u32::from(*id) || length > LONGEST_FRAME as u32 {
                break;
            }
            // Vacant, if the device used others out of turn before.
            let posted = posted.get_mut(usize::from(*id));
            let Some(posted) = posted.filter(|slot| **slot != VACANT) else {
                break;
            };
            let slot = std::mem::replace(posted, VACANT);
            // SAFETY: a slot of this pool was posted; as in `Home::slot_address`.
            let base = unsafe { slots.add(slot as usize * SLOT_STRIDE) };
            room.write(Frame::in_slot(home, base, slot, SLOT_DATA, length as u16));
            *bytes += u64::from(length);
            run += 1;
        }
        self.free.put_oldest(place, run);
        run
    }

    /// The slot and the length, header included, of the buffer that `used`, `place` behind the
    /// current position, tells of. It must hold at least `shortest` bytes. The caller then moves on.
    #[inline(always)]
    fn take_used(
        &mut self,
        used: Used,
        place: u16,
        shortest: usize,
    ) -> Result<(u32, u16), Violation> {
        let unknown = Violation::UsedId(used.id);
        let id = u16::try_from(used.id).map_err(|_| unknown)?;
        let posted = self
            .posted
            .get_mut(usize::from(id))
            .filter(|slot| **slot != VACANT)
            .ok_or(unknown)?;
        let (shortest, longest) = (shortest as u32, BUFFER_LENGTH);
        if used.length < shortest || used.length > longest {
            return Err(Violation::UsedLength {
                length: used.length,
                shortest,
                longest,
            });
        }
        let slot = std::mem::replace(posted, VACANT);
        self.free.put(place, id);
        Ok((slot, used.length as u16))
    }

    /// Whether used buffers wait; also true after a violation, which `harvest` will report.
    pub(crate) fn has_work(&self) -> bool {
        self.ring.used_pending(self.outstanding()) != Ok(0)
    }

    pub(crate) fn suppress_interrupts(&mut self) {
        self.ring.suppress_interrupts();
    }

    pub(crate) fn request_interrupt(&mut self) {
        self.ring.request_interrupt();
    }

    /// Gives every posted slot back to the pool. The device must have been reset.
    pub(crate) fn reclaim_all(&mut self, pool: &mut Pool) {
        for posted in &mut self.posted {
            let slot = std::mem::replace(posted, VACANT);
            if slot != VACANT {
                pool.give(slot);
            }
        }
    }
}
