//! The transmit queue: frames go out, and their memory comes home when the device is done.

use std::ptr::NonNull;
use std::sync::Arc;

use virtroupe_wire::{Buffer, DropReason, Drops};

use crate::frame::{Frame, NET_HEADER};
use crate::memory::DmaMemory;
use crate::pool::Pool;
use crate::ring::Violation;
use crate::ring::split::{DESC_F_NEXT, FreeDescriptors, SplitRing};
use crate::transport::RingLayout;

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
pub(crate) struct TransmitQueue {
    ring: SplitRing,
    free: FreeDescriptors,
    /// The frame that starts at each outstanding descriptor, and how many follow it.
    sent: Box<[Sent]>,
    /// Chains outstanding.
    chains: u16,
    /// Heads in the order in which they were made available, for in-order devices.
    order: Box<[u16]>,
    order_head: u16,
    iova_offset: u64,
    memory: Arc<DmaMemory>,
    pub(crate) counters: TransmitCounters,
}

/// Chains of more segments are copied into one slot. A chain is walked for each segment that is
/// appended to it, which is fast for as many.
const MOST_SEGMENTS: usize = 64;

/// Number of segments of a frame.
fn segments(frame: &Frame) -> usize {
    let mut count = 1;
    let mut tail = frame.tail();
    while let Some(segment) = tail {
        count += 1;
        tail = segment.tail();
    }
    count
}

/// Copies all segments of `frame` into one slot.
fn gather(frame: &Frame, pool: &mut Pool) -> Result<Frame, DropReason> {
    let mut copy = pool.frame().ok_or(DropReason::PoolEmpty)?;
    let mut fits = true;
    frame.for_each_segment(|bytes| fits = fits && copy.extend_from_slice(bytes));
    if fits {
        Ok(copy)
    } else {
        Err(DropReason::TooBig)
    }
}

#[derive(Default)]
struct Sent {
    frame: Option<Frame>,
    /// Descriptor that follows this one in its chain, valid if `more`.
    next: u16,
    more: bool,
}

impl TransmitQueue {
    pub(crate) fn new(
        memory: Arc<DmaMemory>,
        layout: &RingLayout,
        iova_offset: u64,
        event_idx: bool,
        in_order: bool,
    ) -> Option<Self> {
        let mut ring = SplitRing::new(memory.clone(), layout, event_idx, in_order)?;
        ring.suppress_interrupts();
        Some(TransmitQueue {
            free: FreeDescriptors::new(layout.size),
            sent: (0..layout.size).map(|_| Sent::default()).collect(),
            chains: 0,
            order: vec![0; usize::from(layout.size)].into(),
            order_head: 0,
            ring,
            iova_offset,
            memory,
            counters: TransmitCounters::default(),
        })
    }

    /// Descriptors in the ring.
    pub(crate) fn size(&self) -> usize {
        usize::from(self.ring.size())
    }

    /// Descriptors that are free now.
    pub(crate) fn room(&self) -> usize {
        usize::from(self.free.len())
    }

    /// Chains that the device holds.
    pub(crate) fn outstanding(&self) -> usize {
        usize::from(self.chains)
    }

    /// Hands frames from the front of `burst` to the device until the ring is full; the rest
    /// stays. Returns whether the device wants to be notified.
    pub(crate) fn submit(&mut self, pool: &mut Pool, burst: &mut Vec<Frame>) -> bool {
        let mut taken = 0;
        let mut bytes = 0;
        // `drain` may leave the vector's front unconsumed only if dropped early, so count first.
        let fits = self.count_fitting(burst);
        for frame in burst.drain(..fits) {
            let frame = match self.in_sight(frame, pool) {
                Ok(frame) => frame,
                Err(reason) => {
                    self.counters.drops.add(reason, 1);
                    continue;
                }
            };
            bytes += frame.len() as u64;
            taken += 1;
            self.push(frame);
        }
        self.counters.frames += taken;
        self.counters.bytes += bytes;
        self.ring.publish()
    }

    /// How many frames from the front have descriptors.
    fn count_fitting(&self, burst: &[Frame]) -> usize {
        let most = self.most_segments();
        let mut room = self.room();
        let mut count = 0;
        for frame in burst {
            // A frame that is copied takes no more segments than it has now.
            let needed = match segments(frame) {
                many if many > most => 1,
                few => few,
            };
            if needed > room {
                break;
            }
            room -= needed;
            count += 1;
        }
        count
    }

    /// The longest chain that is handed to the device as it is. A longer one goes into one slot
    /// or is dropped: it could wait for ever for a ring that is shorter.
    fn most_segments(&self) -> usize {
        self.size().min(MOST_SEGMENTS)
    }

    /// The frame itself if the device can see all of it, else a copy in the pool of what it can
    /// not see.
    ///
    /// # Errors
    /// `PoolEmpty` if the pool has no slot, `TooBig` if a part that must be copied exceeds one.
    #[inline]
    fn in_sight(&mut self, frame: Frame, pool: &mut Pool) -> Result<Frame, DropReason> {
        let own = frame.home() == Some(pool.home_pointer());
        if own && !frame.is_chain() {
            return Ok(frame);
        }
        self.in_sight_slow(frame, pool)
    }

    #[cold]
    fn in_sight_slow(&mut self, frame: Frame, pool: &mut Pool) -> Result<Frame, DropReason> {
        if segments(&frame) > self.most_segments() {
            self.counters.copied += 1;
            return gather(&frame, pool);
        }
        let mut copied = false;
        let mut bring = |segment: Frame| {
            if self.sees(&segment) {
                return Ok(segment);
            }
            copied = true;
            gather(&segment, pool)
        };
        let (head, mut tail) = frame.split_head();
        let mut whole = bring(head)?;
        while let Some(frame) = tail {
            let (segment, rest) = frame.split_head();
            // Devices may refuse an empty buffer.
            if !segment.head().is_empty() {
                whole.append(bring(segment)?);
            }
            tail = rest;
        }
        self.counters.copied += u64::from(copied);
        Ok(whole)
    }

    /// Whether the frame lies in the memory that was mapped for the device.
    fn sees(&self, frame: &Frame) -> bool {
        // SAFETY: the home lives while the frame is out.
        frame
            .home()
            .is_some_and(|home| Arc::ptr_eq(unsafe { home.as_ref() }.memory(), &self.memory))
    }

    /// Writes the descriptors of one frame. There are enough.
    fn push(&mut self, mut frame: Frame) {
        let Some(header) = frame.clear_net_header() else {
            return;
        };
        let Some(head) = self.free.take() else { return };
        let length = frame.head().len() as u32 + NET_HEADER as u32;
        let mut tail = frame.tail();
        let mut id = head;
        self.set_link(id, None);
        if tail.is_none() {
            self.write(id, header, length, None);
        } else {
            let mut part = (header, length);
            while let Some(segment) = tail {
                let Some(next) = self.free.take() else { break };
                self.write(id, part.0, part.1, Some(next));
                self.set_link(id, Some(next));
                self.set_link(next, None);
                part = (segment.data(), segment.head().len() as u32);
                id = next;
                tail = segment.tail();
            }
            self.write(id, part.0, part.1, None);
        }
        if let Some(sent) = self.sent.get_mut(usize::from(head)) {
            sent.frame = Some(frame);
        }
        if self.ring.in_order() {
            let at =
                usize::from(self.order_head.wrapping_add(self.chains)) & (self.order.len() - 1);
            if let Some(entry) = self.order.get_mut(at) {
                *entry = head;
            }
        }
        self.chains += 1;
        self.ring.push_avail(head);
    }

    fn write(&mut self, id: u16, part: NonNull<u8>, length: u32, next: Option<u16>) {
        let address = (part.as_ptr() as u64).wrapping_add(self.iova_offset);
        let flags = if next.is_some() { DESC_F_NEXT } else { 0 };
        self.ring
            .write_descriptor(id, address, length, flags, next.unwrap_or(0));
    }

    fn set_link(&mut self, id: u16, next: Option<u16>) {
        if let Some(sent) = self.sent.get_mut(usize::from(id)) {
            sent.more = next.is_some();
            sent.next = next.unwrap_or(0);
        }
    }

    /// Takes back what the device has sent. Returns the number of frames.
    pub(crate) fn reclaim(&mut self, pool: &mut Pool) -> Result<usize, Violation> {
        let mut pending = self.ring.used_pending(self.chains)?;
        let mut frames = 0;
        while pending > 0 {
            let used = self.ring.peek_used();
            let id = u16::try_from(used.id).map_err(|_| Violation::UsedId(used.id))?;
            let batch = if self.ring.in_order() {
                self.batch_up_to(id, pending)?
            } else {
                1
            };
            for place in 0..batch {
                let head = if self.ring.in_order() {
                    self.ordered(place)
                } else {
                    id
                };
                self.release(head, pool)?;
            }
            self.order_head = self.order_head.wrapping_add(batch);
            self.ring.advance_used(batch);
            pending -= batch;
            frames += usize::from(batch);
        }
        Ok(frames)
    }

    fn ordered(&self, place: u16) -> u16 {
        let at = usize::from(self.order_head.wrapping_add(place)) & (self.order.len() - 1);
        self.order.get(at).copied().unwrap_or(0)
    }

    /// An in-order device may write one used entry for a batch, with the last head (section
    /// 2.7.9): how many chains that covers.
    fn batch_up_to(&self, id: u16, pending: u16) -> Result<u16, Violation> {
        (0..pending)
            .find(|place| self.ordered(*place) == id)
            .map(|place| place + 1)
            .ok_or(Violation::UsedId(u32::from(id)))
    }

    fn release(&mut self, head: u16, pool: &mut Pool) -> Result<(), Violation> {
        let unknown = Violation::UsedId(u32::from(head));
        let sent = self.sent.get_mut(usize::from(head)).ok_or(unknown)?;
        let frame = sent.frame.take().ok_or(unknown)?;
        let mut link = sent.more.then_some(sent.next);
        self.free.give(head);
        self.chains -= 1;
        while let Some(id) = link {
            self.free.give(id);
            link = self
                .sent
                .get(usize::from(id))
                .and_then(|sent| sent.more.then_some(sent.next));
        }
        if frame.home() == Some(pool.home_pointer()) && !frame.is_chain() {
            pool.give(frame.into_slot());
        }
        Ok(())
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
    pub(crate) fn reclaim_all(&mut self) -> usize {
        self.chains = 0;
        self.sent
            .iter_mut()
            .filter_map(|sent| sent.frame.take())
            .count()
    }
}
