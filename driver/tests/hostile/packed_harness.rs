//! A queue pair on packed rings of a [`HostileDevice`], and a model of what must come of each
//! call, as [`harness`](super::harness) is for split rings.
//!
//! The model keeps its own positions and wrap counters. It reads what the driver published after
//! each call, and what the device wrote before each.

use std::collections::{HashSet, VecDeque};

use virtroupe_driver::features::FeatureBits;
use virtroupe_driver::memory::HugePages;
use virtroupe_driver::pool::SLOT_STRIDE;
use virtroupe_driver::{
    Device, DeviceOptions, Frame, Mergeable, QueuePair, ReceiveOffloadMode, RingFormat, Violation,
};
use virtroupe_wire::{Buffer, DropReason, MacAddr, Offload};

use super::device::{HEADER, HostileDevice, HostileTransport, RX, TX};
use super::net_header;

/// Where the buffer starts in a slot: at the header, which ends where the packet starts.
const START: usize = 128 - HEADER;
/// Bytes of a receive buffer: a slot less its headroom.
pub const BUFFER: u32 = (SLOT_STRIDE - START) as u32;
/// The longest frame that is believed.
pub const LONGEST: u32 = 65_535 + 40 + 18;
/// The most buffers of one frame: four times what the longest needs.
pub const MOST_BUFFERS: u16 = 4 * (LONGEST + HEADER as u32).div_ceil(BUFFER) as u16;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;
pub const AVAIL: u16 = 1 << 7;
pub const USED: u16 = 1 << 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedSetup {
    pub event_idx: bool,
    pub in_order: bool,
    pub mergeable: bool,
    pub indirect: bool,
    /// Whether headers say something of received frames.
    pub described: bool,
    pub queue_size: u16,
}

impl PackedSetup {
    pub const PLAIN: PackedSetup = PackedSetup {
        event_idx: false,
        in_order: false,
        mergeable: false,
        indirect: false,
        described: false,
        queue_size: 16,
    };
    pub const ALL: PackedSetup = PackedSetup {
        event_idx: true,
        in_order: true,
        mergeable: true,
        indirect: true,
        described: true,
        queue_size: 21,
    };

    /// The receive offloads: checksums alone where a frame of all kinds would not fit.
    fn offloads(self) -> FeatureBits {
        match (self.described, self.mergeable && self.queue_size >= 62) {
            (false, _) => FeatureBits::NONE,
            (true, false) => FeatureBits::GUEST_CSUM,
            (true, true) => net_header::ALL,
        }
    }

    pub fn from_bits(bits: u8) -> Self {
        PackedSetup {
            event_idx: bits & 1 != 0,
            in_order: bits & 2 != 0,
            mergeable: bits & 4 != 0,
            indirect: bits & 8 != 0,
            described: bits & 64 != 0,
            queue_size: [16, 21, 32, 70][usize::from(bits >> 4 & 3)],
        }
    }
}

/// A place in a ring, counted from its creation: its lap gives the wrap counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place(pub usize);

/// What the driver made available under one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub id: u16,
    pub descriptors: usize,
    /// Offset of the first buffer.
    pub offset: usize,
    pub slots: Vec<usize>,
}

#[derive(Debug, Default)]
pub struct Ring {
    /// Where the driver writes next, and where it looks for the next used descriptor.
    pub next: Place,
    pub used: Place,
    /// What the device holds, in order.
    pub outstanding: Vec<Chain>,
    /// Of these, what the honest part of the device has not taken yet.
    pub available: VecDeque<Chain>,
    /// Where the honest part writes its next used descriptor.
    pub honest: Place,
}

/// Length and description of a frame, or why it is dropped.
type Fate = Result<(usize, Offload), DropReason>;

/// What `receive` must give: frames, and then perhaps a violation.
struct Foretold {
    frames: Vec<Fate>,
    violation: Option<Violation>,
    /// What the device still holds then, and where the driver looks next.
    posted: Vec<Chain>,
    place: Place,
}

pub struct PackedHarness {
    device: Device,
    pub pair: QueuePair,
    pub hostile: HostileDevice,
    /// Frames that the application holds.
    pub live: Vec<Frame>,
    pub setup: PackedSetup,
    pub rings: [Ring; 2],
    origin: usize,
    /// Whether what is available is as the driver wrote it.
    pub readable: bool,
}

impl PackedHarness {
    pub fn new(setup: PackedSetup) -> Self {
        let mut features = FeatureBits::VERSION_1 | FeatureBits::RING_PACKED;
        for (wanted, feature) in [
            (setup.event_idx, FeatureBits::EVENT_IDX),
            (setup.in_order, FeatureBits::IN_ORDER),
            (setup.mergeable, FeatureBits::MRG_RXBUF),
            (setup.indirect, FeatureBits::INDIRECT_DESC),
        ] {
            if wanted {
                features |= feature;
            }
        }
        features |= setup.offloads();
        let (transport, parts) = HostileTransport::new(features);
        let options = DeviceOptions {
            queue_size: setup.queue_size,
            pool_frames: 2 * u32::from(setup.queue_size) + 128,
            huge_pages: HugePages::Never,
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            ring_format: RingFormat::Packed,
            mergeable: Mergeable::Always,
            receive_offloads: ReceiveOffloadMode::All,
            ..DeviceOptions::default()
        };
        let (device, mut pairs) =
            Device::initialize(Box::new(transport), &options).expect("a device");
        assert_eq!(device.features().bits, features);
        let mut harness = PackedHarness {
            device,
            pair: pairs.pop().expect("a pair").bind(),
            hostile: HostileDevice::new(&parts),
            live: Vec::new(),
            setup,
            rings: Default::default(),
            origin: 0,
            readable: true,
        };
        assert_eq!(harness.pair.receive(&mut harness.live, 1), Ok(0));
        // Slot 0 is among those that are posted first.
        let posted = (0..setup.queue_size).map(|id| harness.hostile.descriptor(RX, id));
        let posted = posted.filter(|descriptor| descriptor.length > 0);
        let lowest = posted.map(|descriptor| descriptor.offset).min();
        harness.origin = lowest.expect("something is posted") - START;
        harness.observe();
        // Buffers are posted by whole cache lines of descriptors.
        let posted = harness.rings[RX].outstanding.len();
        assert_eq!(posted, harness.size() / 4 * 4);
        harness
    }

    pub fn size(&self) -> usize {
        usize::from(self.setup.queue_size)
    }

    fn wrap(&self, place: Place) -> bool {
        (place.0 / self.size()).is_multiple_of(2)
    }

    pub fn index(&self, place: Place) -> u16 {
        (place.0 % self.size()) as u16
    }

    /// The flags of a used descriptor at `place`.
    pub fn used_flags(&self, place: Place) -> u16 {
        if self.wrap(place) { AVAIL | USED } else { 0 }
    }

    /// Writes a used descriptor at `place`, whatever is there.
    pub fn write_used(&self, queue: usize, place: Place, id: u16, length: u32) {
        let flags = self.used_flags(place);
        self.hostile
            .set_packed(queue, self.index(place), id, length, flags);
    }

    /// Id and length of the used descriptor at `place`, if it is one.
    fn used(&self, queue: usize, place: Place) -> Option<(u16, u32)> {
        // In memory: address, length, id, flags.
        let found = self.hostile.descriptor(queue, self.index(place));
        let (id, flags) = (found.flags, found.next);
        (flags & (AVAIL | USED) == self.used_flags(place)).then_some((id, found.length))
    }

    fn slot(&self, offset: usize) -> usize {
        offset.checked_sub(self.origin).expect("behind the rings") / SLOT_STRIDE
    }

    fn slot_at(&self, bytes: &[u8]) -> Option<usize> {
        let offset = self.hostile.offset_of(bytes.as_ptr());
        (offset < self.hostile.memory_length()).then(|| self.slot(offset))
    }

    /// The chain that the driver made available at `place`, if there is one.
    fn published(&self, queue: usize, place: Place) -> Option<Chain> {
        let mut chain = Chain {
            id: 0,
            descriptors: 0,
            offset: 0,
            slots: Vec::new(),
        };
        loop {
            let at = Place(place.0 + chain.descriptors);
            let found = self.hostile.descriptor(queue, self.index(at));
            let (id, flags) = (found.flags, found.next);
            let mine = if self.wrap(at) { AVAIL } else { USED };
            if flags & (AVAIL | USED) != mine {
                assert_eq!(chain.descriptors, 0, "a chain without its end");
                return None;
            }
            if chain.descriptors == 0 {
                chain.offset = found.offset;
            }
            chain.descriptors += 1;
            chain.id = id;
            chain.slots.push(self.slot(found.offset));
            assert!(
                chain.descriptors <= self.size(),
                "a chain that does not end"
            );
            assert!(found.length > 0);
            assert_eq!(flags & WRITE != 0, queue == RX);
            if queue == RX {
                assert_eq!((found.length, flags & (NEXT | INDIRECT)), (BUFFER, 0));
            }
            if flags & INDIRECT != 0 {
                assert!(self.setup.indirect && flags & NEXT == 0 && chain.descriptors == 1);
                self.read_table(&mut chain, found.offset, found.length);
            }
            if flags & NEXT == 0 {
                return Some(chain);
            }
        }
    }

    /// Section 2.8.7: entries in order, and no flag means anything but `WRITE`.
    fn read_table(&self, chain: &mut Chain, table: usize, length: u32) {
        let entries = length as usize / 16;
        assert!(length.is_multiple_of(16) && (1..=self.size()).contains(&entries));
        for entry in 0..entries {
            let found = self.hostile.descriptor_at(table + 16 * entry);
            assert!(found.length > 0);
            assert_eq!(found.next, 0, "no flags on transmit");
            if entry == 0 {
                chain.offset = found.offset;
            }
            chain.slots.push(self.slot(found.offset));
        }
    }

    /// Notes what the driver made available.
    pub fn observe(&mut self) {
        for queue in [RX, TX] {
            while self.readable
                && let Some(chain) = self.published(queue, self.rings[queue].next)
            {
                let ring = &mut self.rings[queue];
                assert!(chain.id < self.setup.queue_size);
                let known = ring.outstanding.iter().any(|other| other.id == chain.id);
                assert!(!known, "id {} is in use twice", chain.id);
                ring.next.0 += chain.descriptors;
                ring.outstanding.push(chain.clone());
                ring.available.push_back(chain.clone());
                if queue == TX {
                    let header = self.hostile.read(chain.offset, HEADER);
                    assert_eq!(header, [0; HEADER]);
                }
            }
        }
        self.check_slots();
    }

    /// No slot is in two places: posted, being sent, or with the application.
    fn check_slots(&self) {
        let mut slots = Vec::new();
        for frame in &self.live {
            frame.for_each_segment(|bytes| slots.extend(self.slot_at(bytes)));
        }
        if self.readable {
            let outstanding = self.rings.iter().flat_map(|ring| &ring.outstanding);
            slots.extend(outstanding.flat_map(|chain| &chain.slots));
        }
        let mut seen = HashSet::new();
        for slot in slots {
            assert!(seen.insert(slot), "slot {slot} is in two places");
        }
        let (capacity, free) = self.pair.pool_level();
        assert!(seen.len() + free <= capacity, "a slot is free and in use");
    }

    fn foretell_receive(&self, limit: usize) -> Foretold {
        let ring = &self.rings[RX];
        let mut foretold = Foretold {
            frames: Vec::new(),
            violation: None,
            posted: ring.outstanding.clone(),
            place: ring.used,
        };
        while foretold.frames.len() < limit && foretold.violation.is_none() {
            match self.foretell_frame(&mut foretold) {
                Ok(Some(frame)) => foretold.frames.push(frame),
                Ok(None) => break,
                Err(violation) => foretold.violation = Some(violation),
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
        let used = self.used(RX, foretold.place);
        let Some((id, length)) = used.filter(|_| !foretold.posted.is_empty()) else {
            return Ok(None);
        };
        foretold.place.0 += 1;
        let known = foretold.posted.iter().position(|chain| chain.id == id);
        let at = known.ok_or(Violation::UsedId(id.into()))?;
        if !(shortest..=BUFFER).contains(&length) {
            return Err(Violation::UsedLength {
                length,
                shortest,
                longest: BUFFER,
            });
        }
        Ok(Some((foretold.posted.remove(at), length)))
    }

    /// What becomes of the next frame, if there is one.
    fn foretell_frame(&self, foretold: &mut Foretold) -> Result<Option<Fate>, Violation> {
        let pending = foretold.posted.len() as u16;
        let Some((chain, length)) = self.foretell_buffer(foretold, HEADER as u32)? else {
            return Ok(None);
        };
        let mut total = length - HEADER as u32;
        let bytes = self.hostile.read(chain.offset, length as usize);
        let (header, head) = bytes.split_at(HEADER);
        let features = self.device.features().bits;
        let judge = |total| {
            let offload = net_header::judge(features, header, head, total)?;
            Ok(Some(offload.map(|offload| (total as usize, offload))))
        };
        if !self.setup.mergeable {
            return judge(total);
        }
        let buffers = u16::from_le_bytes([header[10], header[11]]);
        if buffers == 0 || buffers > pending {
            let used = pending;
            return Err(Violation::MergedBuffers { buffers, used });
        }
        if buffers > MOST_BUFFERS {
            let most = MOST_BUFFERS;
            return Err(Violation::MergedCount { buffers, most });
        }
        for used in 1..buffers {
            let Some((_, length)) = self.foretell_buffer(foretold, 1)? else {
                return Err(Violation::MergedBuffers { buffers, used });
            };
            total += length;
            if total > LONGEST {
                return Err(Violation::MergedLength {
                    length: total,
                    longest: LONGEST,
                });
            }
        }
        judge(total)
    }

    /// Receives; the violation, if there was one.
    pub fn receive(&mut self, limit: usize) -> Option<Violation> {
        let foretold = self.foretell_receive(limit);
        let before = self.live.len();
        let mut drops = self.pair.receive_counters().drops;
        let result = self.pair.receive(&mut self.live, limit);
        if !self.readable {
            return result.err();
        }
        let Foretold {
            frames,
            violation,
            posted,
            place,
        } = foretold;
        assert_eq!(result, violation.map_or(Ok(frames.len()), Err));
        let received = self.live[before..].iter();
        let received = received.map(|frame| (frame.len(), frame.offload()));
        let (kept, dropped): (Vec<_>, Vec<_>) = frames.into_iter().partition(Result::is_ok);
        assert_eq!(
            received.collect::<Vec<_>>(),
            kept.into_iter().flatten().collect::<Vec<_>>()
        );
        dropped
            .into_iter()
            .filter_map(Result::err)
            .for_each(|reason| drops.add(reason, 1));
        assert_eq!(self.pair.receive_counters().drops, drops);
        if violation.is_none() {
            let ring = &mut self.rings[RX];
            (ring.outstanding, ring.used) = (posted, place);
            let outstanding = &ring.outstanding;
            ring.available.retain(|chain| outstanding.contains(chain));
            self.observe();
        }
        violation
    }

    /// The chains that a reclaim must take back, or the violation.
    fn foretell_reclaim(&self) -> Result<Vec<Chain>, Violation> {
        let ring = &self.rings[TX];
        let (mut sending, mut place) = (ring.outstanding.clone(), ring.used);
        let mut back = Vec::new();
        while let Some((id, _)) = self.used(TX, place).filter(|_| !sending.is_empty()) {
            let known = sending.iter().position(|chain| chain.id == id);
            let at = known.ok_or(Violation::UsedId(id.into()))?;
            // In order, one used descriptor stands for all up to it.
            let first = if self.setup.in_order { 0 } else { at };
            for chain in sending.drain(first..=at) {
                place.0 += chain.descriptors;
                back.push(chain);
            }
        }
        Ok(back)
    }

    fn settle_sent(&mut self, chains: &[Chain]) {
        let ring = &mut self.rings[TX];
        ring.outstanding.retain(|chain| !chains.contains(chain));
        ring.available.retain(|chain| !chains.contains(chain));
        ring.used.0 += chains.iter().map(|chain| chain.descriptors).sum::<usize>();
    }

    pub fn reclaim(&mut self) -> Option<Violation> {
        let expected = self.foretell_reclaim();
        let result = self.pair.reclaim();
        if self.readable {
            assert_eq!(result, expected.as_ref().map(Vec::len).map_err(|e| *e));
            if let Ok(chains) = expected {
                self.settle_sent(&chains);
                self.check_slots();
            }
        }
        result.err()
    }

    /// Sends; what finds no room stays with the application.
    pub fn transmit(&mut self, mut burst: Vec<Frame>) -> Option<Violation> {
        let offered = burst.len();
        let expected = self.foretell_reclaim();
        let outstanding = self.pair.transmit_outstanding();
        let counters = *self.pair.transmit_counters();
        let result = self.pair.transmit(&mut burst);
        let (left, after) = (burst.len(), *self.pair.transmit_counters());
        self.live.append(&mut burst);
        let sent = (after.frames - counters.frames) as usize;
        let dropped = (after.drops.total() - counters.drops.total()) as usize;
        assert_eq!(offered, left + sent + dropped, "every frame has a fate");
        if let Err(violation) = result {
            assert!(!self.readable || expected == Err(violation));
        } else if self.readable {
            let back = outstanding + sent - self.pair.transmit_outstanding();
            if back > 0 {
                let chains = expected.expect("no violation");
                assert_eq!(chains.len(), back);
                self.settle_sent(&chains);
            }
            self.observe();
        }
        result.err()
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
        self.pair.pool().collect();
        let (capacity, free) = self.pair.pool_level();
        assert_eq!(free, capacity, "every slot is home");
        let mut frames = HashSet::new();
        while let Some(frame) = self.pair.pool().frame() {
            assert!(frames.insert(frame.head().as_ptr()), "a slot is free twice");
            self.live.push(frame);
        }
        assert_eq!(frames.len(), capacity);
    }
}
