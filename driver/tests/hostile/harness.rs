//! A queue pair on a [`HostileDevice`], and a model of what must come of each call.
//!
//! The model reads the rings before and after each call of the driver. It knows which slot each
//! outstanding descriptor holds, so it foretells every [`Violation`], and that no slot is ever
//! in two places.

use std::collections::{HashMap, HashSet, VecDeque};

use virtroupe_driver::features::FeatureBits;
use virtroupe_driver::pool::SLOT_STRIDE;
use virtroupe_driver::{
    Chunk, Device, DeviceOptions, Frame, QueuePair, ReceiveOffloadMode, Violation,
};
use virtroupe_wire::tcp::Attach;
use virtroupe_wire::{Buffer, MacAddr, Offload};

use super::device::{HEADER, HostileDevice, HostileTransport, RX, TX};
use super::net_header;

/// Bytes of a receive buffer: a slot less its first two lines, but with the header.
pub const BUFFER: u32 = (SLOT_STRIDE - 128 + HEADER) as u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    pub event_idx: bool,
    pub in_order: bool,
    /// Whether headers say something of received frames: of their checksums, as no frame spans
    /// several buffers.
    pub described: bool,
    pub queue_size: u16,
}

impl Setup {
    pub const PLAIN: Setup = Setup {
        event_idx: false,
        in_order: false,
        described: false,
        queue_size: 16,
    };

    pub const IN_ORDER: Setup = Setup {
        event_idx: true,
        in_order: true,
        described: false,
        queue_size: 16,
    };
}

pub struct Harness {
    device: Device,
    pub pair: QueuePair,
    pub hostile: HostileDevice,
    /// Frames that the application holds.
    pub live: Vec<Frame>,
    pub chunks: Vec<Chunk>,
    /// Slots of chunks that were attached to frames: these may be in several places.
    shared: HashSet<usize>,
    setup: Setup,
    /// Offset of slot 0.
    origin: usize,
    /// The slot under each posted descriptor.
    posted: HashMap<u16, usize>,
    /// The slots of each chain that is being sent, and the order of the chains.
    sending: HashMap<u16, Vec<usize>>,
    order: VecDeque<u16>,
    /// For each queue: available index that the model has seen, used index that the driver has.
    published: [u16; 2],
    last_used: [u16; 2],
    /// Chains that were taken back between two chains that the model has not seen yet.
    unsettled: usize,
    /// Whether the available rings are as the driver wrote them.
    pub readable: bool,
}

impl Harness {
    pub fn new(setup: Setup) -> Self {
        let mut features = FeatureBits::VERSION_1;
        if setup.event_idx {
            features |= FeatureBits::EVENT_IDX;
        }
        if setup.in_order {
            features |= FeatureBits::IN_ORDER;
        }
        if setup.described {
            features |= FeatureBits::GUEST_CSUM;
        }
        let (transport, parts) = HostileTransport::new(features);
        let options = DeviceOptions {
            queue_size: setup.queue_size,
            pool_frames: 2 * u32::from(setup.queue_size) + 128,
            huge_pages: virtroupe_driver::memory::HugePages::Never,
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            receive_offloads: ReceiveOffloadMode::Checksum,
            ..DeviceOptions::default()
        };
        let (device, mut pairs) =
            Device::initialize(Box::new(transport), &options).expect("a device");
        let mut harness = Harness {
            device,
            pair: pairs.pop().expect("a pair").bind(),
            hostile: HostileDevice::new(&parts),
            live: Vec::new(),
            chunks: Vec::new(),
            shared: HashSet::new(),
            setup,
            origin: 0,
            posted: HashMap::new(),
            sending: HashMap::new(),
            order: VecDeque::new(),
            published: [0; 2],
            last_used: [0; 2],
            unsettled: 0,
            readable: true,
        };
        let first = harness.pair.receive(&mut harness.live, 1);
        assert_eq!(first, Ok(0), "nothing came yet");
        assert_eq!(harness.device.features().bits, features);
        // Slot 0 is among those that are posted first.
        let posted = (0..setup.queue_size).map(|id| harness.hostile.descriptor(RX, id));
        let posted = posted.filter(|descriptor| descriptor.length > 0);
        let lowest = posted.map(|descriptor| descriptor.offset).min();
        harness.origin = lowest.expect("something is posted") - (128 - HEADER);
        harness.observe();
        assert_eq!(harness.posted.len(), usize::from(setup.queue_size));
        harness
    }

    fn slot(&self, offset: usize) -> usize {
        offset.checked_sub(self.origin).expect("behind the rings") / SLOT_STRIDE
    }

    /// The slot that the bytes lie in; `None` for the heap.
    fn slot_at(&self, bytes: &[u8]) -> Option<usize> {
        let offset = self.hostile.offset_of(bytes.as_ptr());
        (offset < self.hostile.memory_length()).then(|| self.slot(offset))
    }

    /// Notes what the driver made available, and checks its descriptors.
    pub fn observe(&mut self) {
        let queues: &[usize] = if self.readable { &[RX, TX] } else { &[] };
        for &queue in queues {
            let end = self.hostile.available_index(queue);
            let new = end.wrapping_sub(self.published[queue]);
            assert!(new <= self.setup.queue_size, "more than the ring holds");
            while self.published[queue] != end {
                let id = self.hostile.available_entry(queue, self.published[queue]);
                self.published[queue] = self.published[queue].wrapping_add(1);
                assert!(id < self.setup.queue_size);
                let chain = self.hostile.chain(queue, id);
                let slots: Vec<_> = chain.iter().map(|part| self.slot(part.offset)).collect();
                if queue == RX {
                    assert_eq!(
                        (chain.len(), chain[0].length, chain[0].flags),
                        (1, BUFFER, 2)
                    );
                    let before = self.posted.insert(id, slots[0]);
                    assert_eq!(before, None, "descriptor {id} was posted twice");
                } else {
                    assert!(
                        chain
                            .iter()
                            .all(|part| part.length > 0 && part.flags & 2 == 0)
                    );
                    let header = self.hostile.read(chain[0].offset, HEADER);
                    assert_eq!(header, [0; HEADER]);
                    if self.sending.contains_key(&id) {
                        self.settle_rest();
                    }
                    let before = self.sending.insert(id, slots);
                    assert_eq!(before, None, "descriptor {id} was sent twice");
                    self.order.push_back(id);
                }
            }
        }
        self.settle_rest();
        self.check_slots();
    }

    fn settle_rest(&mut self) {
        let count = std::mem::take(&mut self.unsettled);
        self.settle(count);
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
        if self.readable {
            slots.extend(self.sending.values().flatten());
            self.shared.retain(|slot| slots.contains(slot));
        }
        let mut seen = HashSet::new();
        for slot in slots {
            let is_first = seen.insert(slot) || self.shared.contains(&slot);
            assert!(is_first, "slot {slot} is in two places");
        }
        for slot in self.posted.values().filter(|_| self.readable) {
            assert!(seen.insert(*slot), "slot {slot} is posted and in use");
        }
        let (capacity, free) = self.pair.pool_level();
        assert!(seen.len() + free <= capacity, "a slot is free and in use");
    }

    /// What the header in front of the frame in `slot` must make of it.
    fn judge(&self, slot: usize, length: u32) -> Result<Offload, Violation> {
        let offset = self.origin + slot * SLOT_STRIDE + 128 - HEADER;
        let bytes = self.hostile.read(offset, length as usize);
        let (header, frame) = bytes.split_at(HEADER);
        let features = self.device.features().bits;
        // Nothing is dropped where only checksums are described.
        net_header::judge(features, header, frame, frame.len() as u32)
            .map(|offload| offload.expect("kept"))
    }

    /// What `receive` must say: frames, each with its description, and then perhaps a violation.
    fn foretell_receive(&self, limit: usize) -> (Vec<Offload>, Option<Violation>) {
        let mut frames = Vec::new();
        let violation = self.foretell_frames(limit, &mut frames);
        (frames, violation)
    }

    fn foretell_frames(&self, limit: usize, frames: &mut Vec<Offload>) -> Option<Violation> {
        let (last, used) = (self.last_used[RX], self.hostile.used_index(RX));
        let outstanding = self.posted.len() as u16;
        let pending = used.wrapping_sub(last);
        if pending > outstanding {
            let violation = Violation::UsedIndex {
                used,
                last,
                outstanding,
            };
            return Some(violation);
        }
        let mut posted: HashSet<u16> = self.posted.keys().copied().collect();
        let take = usize::from(pending).min(limit);
        for place in 0..take {
            let at = last.wrapping_add(place as u16);
            let (id, length) = self.hostile.used_entry(RX, at);
            let known = u16::try_from(id).is_ok_and(|id| posted.contains(&id));
            if !known {
                return Some(Violation::UsedId(id));
            }
            if !(HEADER as u32..=BUFFER).contains(&length) {
                let violation = Violation::UsedLength {
                    length,
                    shortest: HEADER as u32,
                    longest: BUFFER,
                };
                return Some(violation);
            }
            posted.remove(&(id as u16));
            match self.judge(self.posted[&(id as u16)], length) {
                Ok(offload) => frames.push(offload),
                Err(violation) => return Some(violation),
            }
        }
        None
    }

    /// Receives; the violation, if there was one.
    pub fn receive(&mut self, limit: usize) -> Option<Violation> {
        let (frames, violation) = self.foretell_receive(limit);
        let before = self.live.len();
        let counted = self.pair.receive_counters().frames;
        let result = self.pair.receive(&mut self.live, limit);
        if self.readable {
            assert_eq!(result, violation.map_or(Ok(frames.len()), Err));
            let described = self.live[before..].iter().map(Frame::offload);
            assert_eq!(described.collect::<Vec<_>>(), frames);
        }
        let came = self.live.len() - before;
        assert_eq!(
            self.pair.receive_counters().frames - counted,
            came as u64,
            "every frame is counted"
        );
        for place in 0..came {
            let entry = self.last_used[RX].wrapping_add(place as u16);
            let (id, length) = self.hostile.used_entry(RX, entry);
            let frame = &self.live[before + place];
            assert_eq!(frame.len() + HEADER, length as usize);
            let slot = self.posted.remove(&(id as u16));
            let found = self.slot_at(frame.head()).filter(|_| self.readable);
            assert!(
                found.is_none() || found == slot,
                "not the slot that was posted"
            );
        }
        self.last_used[RX] = self.last_used[RX].wrapping_add(came as u16);
        self.observe();
        result.err()
    }

    /// What a reclaim must say: the number of chains, or the violation.
    fn foretell_reclaim(&self) -> Result<usize, Violation> {
        let (last, used) = (self.last_used[TX], self.hostile.used_index(TX));
        let outstanding = self.sending.len() as u16;
        let pending = used.wrapping_sub(last);
        if pending > outstanding {
            return Err(Violation::UsedIndex {
                used,
                last,
                outstanding,
            });
        }
        let order: Vec<u16> = self.order.iter().copied().take(pending.into()).collect();
        let mut sending: HashSet<u16> = self.sending.keys().copied().collect();
        let mut at = 0;
        while at < order.len() {
            let id = self.hostile.used_entry(TX, last.wrapping_add(at as u16)).0;
            let unknown = Violation::UsedId(id);
            let head = u16::try_from(id).map_err(|_| unknown)?;
            if self.setup.in_order {
                // One entry may stand for a batch, of which it names the last.
                let batch = order[at..].iter().position(|entry| *entry == head);
                at += 1 + batch.ok_or(unknown)?;
            } else if sending.remove(&head) {
                at += 1;
            } else {
                return Err(unknown);
            }
        }
        Ok(order.len())
    }

    /// Takes `count` chains that the driver took back out of the model.
    fn settle(&mut self, count: usize) {
        if !self.readable {
            return;
        }
        for place in 0..count {
            let id = if self.setup.in_order {
                self.order.pop_front().expect("outstanding")
            } else {
                let entry = self.last_used[TX].wrapping_add(place as u16);
                let id = self.hostile.used_entry(TX, entry).0 as u16;
                self.order.retain(|head| *head != id);
                id
            };
            self.sending.remove(&id).expect("outstanding");
        }
        self.last_used[TX] = self.last_used[TX].wrapping_add(count as u16);
    }

    pub fn reclaim(&mut self) -> Option<Violation> {
        let expected = self.foretell_reclaim();
        let result = self.pair.reclaim();
        if self.readable {
            assert_eq!(result, expected);
        }
        self.settle(result.unwrap_or(0));
        if result.is_ok() {
            self.check_slots();
        }
        result.err()
    }

    /// Sends; what finds no room stays with the application.
    pub fn transmit(&mut self, mut burst: Vec<Frame>) -> Option<Violation> {
        let offered = burst.len();
        let looks = self.pair.transmit_room() < offered + usize::from(self.setup.queue_size) / 2;
        let expected = self.foretell_reclaim().map(drop);
        let outstanding = self.pair.transmit_outstanding();
        let counters = *self.pair.transmit_counters();
        let result = self.pair.transmit(&mut burst);
        let (left, after) = (burst.len(), *self.pair.transmit_counters());
        self.live.append(&mut burst);
        if self.readable && looks {
            assert_eq!(result, expected);
        } else if self.readable && left == 0 {
            assert_eq!(result, Ok(()), "no reason to look");
        }
        let sent = (after.frames - counters.frames) as usize;
        let dropped = (after.drops.total() - counters.drops.total()) as usize;
        assert_eq!(offered, left + sent + dropped, "every frame has a fate");
        if result.is_ok() {
            let reclaimed = outstanding + sent - self.pair.transmit_outstanding();
            if looks {
                self.settle(reclaimed);
            } else {
                self.unsettled = reclaimed;
            }
            self.observe();
        }
        result.err()
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
        while let Some(frame) = self.pair.pool().frame() {
            assert!(frames.insert(frame.head().as_ptr()), "a slot is free twice");
            self.live.push(frame);
        }
        assert_eq!(frames.len(), capacity);
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

    /// Sends `count` small frames of the pool.
    pub fn send(&mut self, count: usize) -> Option<Violation> {
        let mut frames = Vec::new();
        self.pair.pool().frames(&mut frames, count);
        for (number, frame) in frames.iter_mut().enumerate() {
            assert!(frame.extend_from_slice(&[number as u8; 60]));
        }
        self.transmit(frames)
    }
}
