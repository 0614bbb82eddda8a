//! A queue pair on a [`HostileDevice`], with rings of either format, and a model of what must come of
//! each call.
//!
//! The model reads the rings before and after each call of the driver. It knows which slots each
//! outstanding chain holds, so it foretells every [`Violation`], what becomes of each frame, and that
//! no slot is ever in two places.

use std::collections::HashSet;

use virtroupe_driver::pool::SLOT_STRIDE;
use virtroupe_driver::{Chunk, Device, Frame, QueuePair, Violation};
use virtroupe_wire::tcp::Attach;
use virtroupe_wire::{Buffer, DropReason, Offload};

use super::device::{HEADER, HostileDevice, HostileTransport, RX, TX};
use super::net_header;
use super::rings::{BUFFER, Chain, Place, Ring, START, Used};
use super::setup::Setup;

/// The longest frame that is believed.
pub const LONGEST: u32 = 65_535 + 40 + 18;
/// The most buffers of one frame: four times what the longest needs.
pub const MOST_BUFFERS: u16 = 4 * (LONGEST + HEADER as u32).div_ceil(BUFFER) as u16;

pub struct Harness {
    device: Device,
    pub pair: QueuePair,
    pub hostile: HostileDevice,
    /// Frames that the application holds.
    pub live: Vec<Frame>,
    pub chunks: Vec<Chunk>,
    /// Slots of chunks that were attached to frames: these may be in several places.
    shared: HashSet<usize>,
    pub setup: Setup,
    /// The receive and the transmit ring.
    pub rings: [Ring; 2],
    /// Offset of slot 0.
    origin: usize,
    /// Whether what is available is as the driver wrote it. If not, the driver's shadow is all that
    /// anybody knows, and no call is foretold.
    pub readable: bool,
}

/// A received frame: its bytes, what is said of them, and the slots that they came in.
#[derive(Debug, PartialEq, Eq)]
struct Received {
    length: usize,
    offload: Offload,
    slots: Vec<usize>,
}

/// A frame, or why it is dropped.
type Fate = Result<Received, DropReason>;

/// What `receive` must give: frames, and then perhaps a violation.
struct Foretold {
    frames: Vec<Fate>,
    violation: Option<Violation>,
    /// Buffers that may be used, as far as the driver knows.
    pending: usize,
    /// What the device still holds then, and where the driver looks next.
    posted: Vec<Chain>,
    place: Place,
}

impl Harness {
    pub fn new(setup: Setup) -> Self {
        let (transport, parts) = HostileTransport::new(setup.features());
        let (device, mut pairs) =
            Device::initialize(Box::new(transport), &setup.options()).expect("a device");
        assert_eq!(device.features().bits, setup.features());
        let mut harness = Harness {
            device,
            pair: pairs.pop().expect("a pair").bind(),
            hostile: HostileDevice::new(&parts),
            live: Vec::new(),
            chunks: Vec::new(),
            shared: HashSet::new(),
            setup,
            rings: [RX, TX].map(|queue| Ring::new(queue, setup)),
            origin: 0,
            readable: true,
        };
        let first = harness.pair.receive(&mut harness.live, 1);
        assert_eq!(first, Ok(0), "nothing came yet");
        // Slot 0 is among those that are posted first.
        let posted = (0..setup.queue_size).map(|id| harness.hostile.descriptor(RX, id));
        let posted = posted.filter(|descriptor| descriptor.length > 0);
        let lowest = posted.map(|descriptor| descriptor.offset).min();
        harness.origin = lowest.expect("something is posted") - START;
        harness.observe();
        assert_eq!(harness.rings[RX].outstanding.len(), setup.posted());
        harness
    }

    pub fn size(&self) -> usize {
        usize::from(self.setup.queue_size)
    }

    fn slot(&self, offset: usize) -> usize {
        offset.checked_sub(self.origin).expect("behind the rings") / SLOT_STRIDE
    }

    /// The slot that the bytes lie in; `None` for the heap. Behind the end of a slot, where none are
    /// left, the next one begins; but in front of them there is always room for a header.
    fn slot_at(&self, bytes: &[u8]) -> Option<usize> {
        let before = self.hostile.offset_of(bytes.as_ptr()).wrapping_sub(1);
        (before < self.hostile.memory_length()).then(|| self.slot(before))
    }

    /// Notes what the driver made available.
    pub fn observe(&mut self) {
        for queue in [RX, TX] {
            let outstanding = self.rings[queue].outstanding.clone();
            self.note_published(queue, outstanding, |_, all| all);
        }
        self.check_slots();
    }

    /// Adds what the driver made available meanwhile to `outstanding`, and leaves of all that what
    /// `rest` says.
    fn note_published(
        &mut self,
        queue: usize,
        mut outstanding: Vec<Chain>,
        rest: impl FnOnce(&Ring, Vec<Chain>) -> Vec<Chain>,
    ) {
        if !self.readable {
            return;
        }
        let ring = &mut self.rings[queue];
        let published = ring.take_published(&self.hostile);
        for chain in published.iter().filter(|_| queue == TX) {
            let header = self.hostile.read(chain.offset, HEADER);
            assert_eq!(header, [0; HEADER]);
        }
        outstanding.extend_from_slice(&published);
        ring.outstanding = rest(ring, outstanding);
        ring.available.extend(published);
        let outstanding = &ring.outstanding;
        ring.available.retain(|chain| outstanding.contains(chain));
        let ids: HashSet<u16> = outstanding.iter().map(|chain| chain.id).collect();
        assert_eq!(ids.len(), outstanding.len(), "an id is in use twice");
    }

    /// Attaches the first chunk to `frame`.
    pub fn attach_chunk(&mut self, frame: &mut Frame) {
        let Some(chunk) = self.chunks.first() else {
            return;
        };
        self.shared.extend(self.slot_at(chunk));
        assert!(frame.attach(chunk.clone()));
    }

    /// No slot is in two places: posted, being sent, or with the application; but chunks may be
    /// behind several frames.
    fn check_slots(&mut self) {
        let mut slots = Vec::new();
        for frame in &self.live {
            frame.for_each_segment(|bytes| slots.extend(self.slot_at(bytes)));
        }
        slots.extend(self.chunks.iter().filter_map(|chunk| self.slot_at(chunk)));
        let held = |queue: usize| {
            let chains = self.rings[queue].outstanding.iter();
            let parts = chains
                .filter(|_| self.readable)
                .flat_map(|chain| &chain.parts);
            parts.map(|offset| self.slot(*offset))
        };
        slots.extend(held(TX));
        let mut seen = HashSet::new();
        for slot in &slots {
            let is_first = seen.insert(*slot) || self.shared.contains(slot);
            assert!(is_first, "slot {slot} is in two places");
        }
        for slot in held(RX) {
            assert!(seen.insert(slot), "slot {slot} is posted and in use");
        }
        let (capacity, free) = self.pair.pool_level();
        // What lies behind the slots is in long ones.
        let used = seen.iter().filter(|slot| **slot < capacity).count();
        assert!(used + free <= capacity, "a slot is free and in use");
        if self.readable {
            self.shared.retain(|slot| slots.contains(slot));
        }
    }

    fn foretell_receive(&self, limit: usize) -> Foretold {
        let ring = &self.rings[RX];
        let pending = ring.pending(&self.hostile);
        let mut foretold = Foretold {
            frames: Vec::new(),
            violation: pending.err(),
            pending: pending.unwrap_or(0),
            posted: ring.outstanding.clone(),
            place: ring.used,
        };
        while foretold.frames.len() < limit && foretold.violation.is_none() {
            let before = (foretold.posted.clone(), foretold.place);
            match self.foretell_frame(&mut foretold) {
                Ok(Some(frame)) => foretold.frames.push(frame),
                Ok(None) => break,
                Err(violation) => {
                    foretold.violation = Some(violation);
                    if !self.setup.mergeable {
                        // The frame is none, and its buffer is where it was.
                        (foretold.posted, foretold.place) = before;
                    }
                }
            }
        }
        foretold
    }

    /// The next used buffer and its length, if there is one.
    fn foretell_buffer(
        &self,
        foretold: &mut Foretold,
        shortest: u32,
    ) -> Result<Option<(Chain, u32)>, Violation> {
        let used = self.rings[RX].used_at(&self.hostile, foretold.place);
        let Some((id, length)) = used.filter(|_| foretold.pending > 0) else {
            return Ok(None);
        };
        let known = foretold.posted.iter();
        let known = known.clone().position(|chain| u32::from(chain.id) == id);
        let at = known.ok_or(Violation::UsedId(id))?;
        if !(shortest..=BUFFER).contains(&length) {
            return Err(Violation::UsedLength {
                length,
                shortest,
                longest: BUFFER,
            });
        }
        foretold.place.0 += 1;
        foretold.pending -= 1;
        Ok(Some((foretold.posted.remove(at), length)))
    }

    /// What becomes of the next frame, if there is one.
    fn foretell_frame(&self, foretold: &mut Foretold) -> Result<Option<Fate>, Violation> {
        let pending = foretold.pending as u16;
        let Some((chain, length)) = self.foretell_buffer(foretold, HEADER as u32)? else {
            return Ok(None);
        };
        let mut total = length - HEADER as u32;
        let mut slots = vec![self.slot(chain.offset)];
        let bytes = self.hostile.read(chain.offset, length as usize);
        let (header, head) = bytes.split_at(HEADER);
        let buffers = match self.setup.mergeable {
            true => u16::from_le_bytes([header[10], header[11]]),
            false => 1,
        };
        if buffers == 0 || buffers > pending {
            let used = pending;
            return Err(Violation::MergedBuffers { buffers, used });
        }
        if buffers > MOST_BUFFERS {
            let most = MOST_BUFFERS;
            return Err(Violation::MergedCount { buffers, most });
        }
        for used in 1..buffers {
            let Some((chain, length)) = self.foretell_buffer(foretold, 1)? else {
                return Err(Violation::MergedBuffers { buffers, used });
            };
            slots.push(self.slot(chain.offset));
            total += length;
            if total > LONGEST {
                return Err(Violation::MergedLength {
                    length: total,
                    longest: LONGEST,
                });
            }
        }
        let features = self.device.features().bits;
        let offload = net_header::judge(features, header, head, total)?;
        Ok(Some(offload.map(|offload| Received {
            length: total as usize,
            offload,
            slots,
        })))
    }

    /// Receives; the violation, if there was one.
    pub fn receive(&mut self, limit: usize) -> Option<Violation> {
        let foretold = self.foretell_receive(limit);
        let before = self.live.len();
        let counters = *self.pair.receive_counters();
        let result = self.pair.receive(&mut self.live, limit);
        if !self.readable {
            return result.err();
        }
        let count = foretold.frames.len();
        assert_eq!(result, foretold.violation.map_or(Ok(count), Err));
        let (mut came, mut drops) = (before, counters.drops);
        for fate in &foretold.frames {
            match fate {
                Ok(received) => self.check_frame(&self.live[came], received),
                Err(reason) => drops.add(*reason, 1),
            }
            came += usize::from(fate.is_ok());
        }
        assert_eq!(self.live.len(), came);
        let after = self.pair.receive_counters();
        assert_eq!(after.drops, drops);
        assert_eq!(after.frames - counters.frames, count as u64);
        self.rings[RX].used = foretold.place;
        self.note_published(RX, foretold.posted, |_, all| all);
        self.check_slots();
        foretold.violation
    }

    fn check_frame(&self, frame: &Frame, received: &Received) {
        assert_eq!(frame.len(), received.length);
        assert_eq!(frame.offload(), received.offload);
        let mut slots = received.slots.iter();
        frame.for_each_segment(|bytes| {
            let slot = slots.next().expect("a buffer for each segment");
            let found = self.slot_at(bytes).unwrap_or(*slot);
            assert_eq!(found, *slot, "not the slot that was posted");
        });
    }

    /// At most `most` chains that a reclaim must take out of `sending`, of what `used` tells of; or
    /// the violation.
    fn foretell_reclaim(
        ring: &Ring,
        in_order: bool,
        used: &[Option<Used>],
        mut sending: Vec<Chain>,
        most: usize,
    ) -> Result<Vec<Chain>, Violation> {
        let (mut place, mut back) = (0, Vec::new());
        while back.len() < most
            && let Some((id, _)) = used.get(place).copied().flatten()
        {
            let known = sending.iter().position(|chain| u32::from(chain.id) == id);
            // In order, one entry may stand for a batch, of which it names the last.
            let reach = match in_order {
                true => most - back.len(),
                false => sending.len(),
            };
            let at = known.filter(|at| *at < reach);
            let at = at.ok_or(Violation::UsedId(id))?;
            let first = if in_order { 0 } else { at };
            for chain in sending.drain(first..=at) {
                place += ring.places(&chain);
                back.push(chain);
            }
        }
        Ok(back)
    }

    /// The chains that a reclaim must take back now, or the violation.
    fn foretell_reclaim_now(&self) -> Result<Vec<Chain>, Violation> {
        let ring = &self.rings[TX];
        let most = ring.pending(&self.hostile)?;
        let (used, sending) = (ring.used_entries(&self.hostile), ring.outstanding.clone());
        Self::foretell_reclaim(ring, self.setup.in_order, &used, sending, most)
    }

    /// Takes `chains`, which the driver took back, out of the ring.
    fn settle(&mut self, chains: &[Chain]) {
        let ring = &mut self.rings[TX];
        ring.outstanding.retain(|chain| !chains.contains(chain));
        ring.available.retain(|chain| !chains.contains(chain));
        ring.used.0 += chains.iter().map(|chain| ring.places(chain)).sum::<usize>();
    }

    pub fn reclaim(&mut self) -> Option<Violation> {
        let expected = self.foretell_reclaim_now();
        let result = self.pair.reclaim();
        if self.readable {
            assert_eq!(result, expected.as_ref().map(Vec::len).map_err(|e| *e));
            if let Ok(chains) = expected {
                self.settle(&chains);
                self.check_slots();
            }
        }
        result.err()
    }

    /// Sends; what finds no room stays with the application.
    pub fn transmit(&mut self, mut burst: Vec<Frame>) -> Option<Violation> {
        let offered = burst.len();
        // Then it takes back what was sent before it sends more; else perhaps, or between two frames.
        let looks = self.pair.transmit_room() < offered + self.size() / 2;
        let expected = self.foretell_reclaim_now();
        let used = self.rings[TX].used_entries(&self.hostile);
        let outstanding = self.pair.transmit_outstanding();
        let counters = *self.pair.transmit_counters();
        let result = self.pair.transmit(&mut burst);
        let (left, after) = (burst.len(), *self.pair.transmit_counters());
        self.live.append(&mut burst);
        let sent = (after.frames - counters.frames) as usize;
        let dropped = (after.drops.total() - counters.drops.total()) as usize;
        assert_eq!(offered, left + sent + dropped, "every frame has a fate");
        if !self.readable {
            return result.err();
        }
        if let Err(violation) = result {
            assert!(expected == Err(violation) || (!looks && left > 0));
            return Some(violation);
        }
        let back = outstanding + sent - self.pair.transmit_outstanding();
        if looks {
            let chains = expected.expect("no violation");
            assert_eq!(chains.len(), back);
            self.settle(&chains);
            self.observe();
        } else {
            self.settle_among_published(&used, back);
        }
        None
    }

    /// Takes out of the ring `back` chains that the driver took back at some time of a call in which it
    /// also sent some: `used` is what the device had written before.
    fn settle_among_published(&mut self, used: &[Option<Used>], back: usize) {
        let in_order = self.setup.in_order;
        let sending = self.rings[TX].outstanding.clone();
        let mut places = 0;
        self.note_published(TX, sending, |ring, mut all| {
            let chains = Self::foretell_reclaim(ring, in_order, used, all.clone(), back);
            let chains = chains.expect("no violation");
            assert_eq!(chains.len(), back);
            places = chains.iter().map(|chain| ring.places(chain)).sum();
            for gone in &chains {
                let first = all.iter().position(|chain| chain == gone);
                all.remove(first.expect("it was sent"));
            }
            all
        });
        self.rings[TX].used.0 += places;
        self.check_slots();
    }

    /// Sends `count` small frames of the pool.
    pub fn send(&mut self, count: usize) -> Option<Violation> {
        let mut frames = Vec::new();
        self.pair.pool().frames(&mut frames, count);
        for (number, frame) in frames.iter_mut().enumerate() {
            assert!(frame.extend_from_slice(&[number as u8; 60]));
        }
        self.transmit(frames)
    }

    /// Resets the device, as must happen after a violation, and checks that nothing was lost.
    pub fn finish(mut self) {
        self.device.reset().expect("it resets");
        let outstanding = self.pair.transmit_outstanding();
        assert_eq!(self.pair.reclaim_after_reset(), outstanding);
        self.live.clear();
        self.chunks.clear();
        self.pair.pool().collect();
        let (capacity, free) = self.pair.pool_level();
        assert_eq!(free, capacity, "every slot is home");
        let mut frames = HashSet::new();
        let pool = self.pair.pool();
        while let Some(frame) = pool.frame().or_else(|| pool.long_frame()) {
            assert!(frames.insert(frame.head().as_ptr()), "a slot is free twice");
            self.live.push(frame);
        }
        assert_eq!(frames.len(), capacity + capacity / 32, "of both kinds");
        // The memory lives until the last frame is dropped, and no longer.
        let Harness {
            device,
            pair,
            hostile,
            live,
            ..
        } = self;
        drop((device, pair));
        assert!(hostile.memory_owners() > 1);
        drop(live);
        assert_eq!(hostile.memory_owners(), 1, "the memory leaks");
    }
}
