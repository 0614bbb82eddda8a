//! The crossings of a cpu: lanes to and from the other cpus, and who gets which frame.
//!
//! A frame that this cpu receives belongs to the cpu that owns its flow. It goes there through
//! that cpu's lane, in order with all others of the flow. A lane that is full is waited for, as a
//! full mailbox is: the queue is not harvested meanwhile, so the device's ring takes the
//! pressure; after the patience the frames are dropped, and the cpu is not waited for again until
//! it has taken some.

use std::sync::Arc;
use std::time::Duration;

use virtroupe_driver::Frame;
use virtroupe_wire::ethernet::{self, EthernetHeader};
use virtroupe_wire::host::{LOOPED, REASSEMBLED};
use virtroupe_wire::placement::{Place, Placement};
use virtroupe_wire::{Buffer, DropReason, Drops, Instant};

use crate::bell::Bell;
use crate::lane::{LaneReceiver, LaneSender};
use crate::peers::ACKNOWLEDGE;

/// What crossed, as one cpu counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CrossingCounters {
    /// Frames that this cpu received and gave to the cpus that own their flows.
    pub sent: u64,
    /// Frames that other cpus received for this one.
    pub received: u64,
    /// Frames that wait for room in a lane now.
    pub waiting: u64,
    /// Frames dropped on the way to other cpus, by reason.
    pub drops: Drops,
}

/// The lanes of one cpu.
pub(crate) struct Crossings {
    cpu: u16,
    pub(crate) placement: Placement,
    inbound: Vec<LaneReceiver>,
    /// The lane that is taken from first next time, so that none starves the others.
    next: usize,
    /// By cpu; `None` is this one.
    outbound: Vec<Option<Outbound>>,
    bell: Arc<Bell>,
    patience: Duration,
    /// Until when what comes from other cpus may be another's by now: it was on its way when
    /// bindings changed.
    settling_until: Option<Instant>,
    /// Memory for `dispatch`, empty between bursts.
    kept: Vec<Frame>,
    received: u64,
    sent: u64,
    drops: Drops,
}

/// Frames in which neighbours speak that are passed on in one [`WINDOW`]: strangers send them too,
/// and each costs a message to every other cpu. Who misses one asks again.
const HEARD_IN_WINDOW: u32 = 128;
/// The time in which so many are.
const WINDOW: Duration = Duration::from_millis(100);

/// How long frames may be under way between cpus after bindings changed: as long as a cpu may take
/// to hear of it, and then some.
const SETTLING: Duration = ACKNOWLEDGE.saturating_add(Duration::from_secs(1));

/// Copies of frames in which neighbours spoke, of one burst.
#[derive(Debug)]
pub(crate) struct Heard {
    /// What another cpu may have asked.
    pub(crate) answers: Vec<Arc<[u8]>>,
    /// Of the others' questions, those to us tell where they are.
    pub(crate) questions: Vec<Arc<[u8]>>,
    /// When the window began, and how many were noted in it.
    window: (Instant, u32),
}

impl Default for Heard {
    fn default() -> Self {
        Heard {
            answers: Vec::new(),
            questions: Vec::new(),
            window: (Instant::ZERO, 0),
        }
    }
}

impl Heard {
    pub(crate) fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.questions.is_empty()
    }

    fn note(&mut self, now: Instant, frame: &Frame, is_answer: bool) {
        let (begin, noted) = &mut self.window;
        if now.since(*begin) >= WINDOW {
            (*begin, *noted) = (now, 0);
        }
        if *noted == HEARD_IN_WINDOW {
            return;
        }
        *noted += 1;
        let list = match is_answer {
            true => &mut self.answers,
            false => &mut self.questions,
        };
        list.push(frame.head().into());
    }
}

/// The way to one other cpu.
struct Outbound {
    lane: LaneSender,
    waiting: Vec<Frame>,
    /// Since when frames wait that found no room.
    since: Option<Instant>,
    /// Whether the lane was full for longer than the patience, and still is.
    is_slow: bool,
    /// Whether the cpu has ended, and what was in its lane is counted.
    is_gone: bool,
}

/// The ends of one cpu's lanes, made before the cpus run.
#[derive(Default)]
pub(crate) struct LaneEnds {
    pub(crate) inbound: Vec<LaneReceiver>,
    pub(crate) outbound: Vec<Option<LaneSender>>,
    pub(crate) bell: Arc<Bell>,
}

impl Crossings {
    pub(crate) fn new(cpu: u16, ends: LaneEnds, placement: Placement, patience: Duration) -> Self {
        let outbound = |lane| Outbound {
            lane,
            waiting: Vec::new(),
            since: None,
            is_slow: false,
            is_gone: false,
        };
        Crossings {
            cpu,
            placement,
            inbound: ends.inbound,
            next: 0,
            outbound: ends
                .outbound
                .into_iter()
                .map(|lane| lane.map(outbound))
                .collect(),
            bell: ends.bell,
            patience,
            settling_until: None,
            kept: Vec::new(),
            received: 0,
            sent: 0,
            drops: Drops::default(),
        }
    }

    /// The bell that wakes this cpu.
    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Leaves in `burst` what is this cpu's, in order, and sends the rest to its owners. What
    /// neighbours say stays, and is copied into `heard`. The heads are read: they should be
    /// [under way](Frame::prefetch_head).
    pub(crate) fn dispatch(&mut self, now: Instant, burst: &mut Vec<Frame>, heard: &mut Heard) {
        let mut kept = std::mem::take(&mut self.kept);
        for frame in burst.drain(..) {
            let owner = match self.placement.place(frame.head()) {
                Place::Owner(cpu) | Place::Group(cpu) => cpu,
                // Whoever gets these first handles them.
                Place::Unclassified => self.cpu,
                Place::NeighborSolicitation => {
                    heard.note(now, &frame, false);
                    self.cpu
                }
                Place::NeighborAdvertisement => {
                    heard.note(now, &frame, true);
                    self.cpu
                }
            };
            match self.outbound.get_mut(usize::from(owner)) {
                Some(Some(outbound)) => outbound.waiting.push(frame),
                _ => kept.push(frame),
            }
        }
        self.kept = std::mem::replace(burst, kept);
        self.flush(now);
    }

    /// Gives a frame that the engines handed over to its owner; returns it if that is this cpu.
    /// To be followed by a [`flush`](Self::flush).
    pub(crate) fn route(&mut self, frame: Frame) -> Option<Frame> {
        let owner = match self.place_handed_over(&frame) {
            Place::Owner(cpu) | Place::Group(cpu) => cpu,
            _ => self.cpu,
        };
        match self.outbound.get_mut(usize::from(owner)) {
            Some(Some(outbound)) => {
                outbound.waiting.push(frame);
                None
            }
            _ => Some(frame),
        }
    }

    /// Where a frame goes that the engines handed over, whose EtherType is their own.
    fn place_handed_over(&self, frame: &Frame) -> Place {
        let packet = frame.head().get(ethernet::HEADER..).unwrap_or_default();
        self.placement.place_packet(packet)
    }

    /// Sends what waits to the other cpus.
    pub(crate) fn flush(&mut self, now: Instant) {
        for outbound in self.outbound.iter_mut().flatten() {
            if outbound.waiting.is_empty() {
                continue;
            }
            self.drops.add(DropReason::CpuGone, outbound.lost());
            if !outbound.is_gone {
                self.sent += outbound.lane.push(&mut outbound.waiting) as u64;
            }
            if let Some((reason, frames)) = outbound.look(now, self.patience) {
                self.drops.add(reason, frames);
            }
        }
    }

    /// Takes frames that other cpus received for this one, up to `limit` from each lane, into
    /// `burst`. Returns how many.
    pub(crate) fn take(&mut self, now: Instant, burst: &mut Vec<Frame>, limit: usize) -> usize {
        let lanes = self.inbound.len();
        let mut taken = 0;
        for place in self.next..self.next + lanes {
            if let Some(lane) = self.inbound.get_mut(place % lanes) {
                taken += lane.take(burst, limit);
            }
        }
        self.next = (self.next + 1) % lanes.max(1);
        self.received += taken as u64;
        if taken > 0 && self.settling_until.is_some() {
            self.pass_on(now, burst);
        }
        taken
    }

    /// Bindings have changed, here or elsewhere: for a while, what comes from other cpus goes on to
    /// the cpus that own it now.
    pub(crate) fn settle(&mut self, now: Instant) {
        self.settling_until = Some(now + SETTLING);
    }

    /// Leaves in `burst`, which came from other cpus, what is not another cpu's.
    #[cold]
    fn pass_on(&mut self, now: Instant, burst: &mut Vec<Frame>) {
        if self.settling_until.is_some_and(|until| now >= until) {
            self.settling_until = None;
            return;
        }
        let mut kept = std::mem::take(&mut self.kept);
        for frame in burst.drain(..) {
            let place = match is_made_by_engines(&frame) {
                true => self.place_handed_over(&frame),
                false => self.placement.place(frame.head()),
            };
            let Place::Owner(owner) = place else {
                kept.push(frame);
                continue;
            };
            match self.outbound.get_mut(usize::from(owner)) {
                Some(Some(outbound)) => outbound.waiting.push(frame),
                _ => kept.push(frame),
            }
        }
        self.kept = std::mem::replace(burst, kept);
        self.flush(now);
    }

    /// Whether frames wait in the lanes to this cpu.
    pub(crate) fn has_work(&self) -> bool {
        !self.inbound.iter().all(LaneReceiver::is_empty)
    }

    /// Whether the queues should not be harvested now, because a cpu has no room.
    pub(crate) fn is_blocked(&self) -> bool {
        self.outbound
            .iter()
            .flatten()
            .any(|outbound| outbound.since.is_some())
    }

    pub(crate) fn counters(&mut self) -> CrossingCounters {
        for outbound in self.outbound.iter_mut().flatten() {
            self.drops.add(DropReason::CpuGone, outbound.lost());
        }
        let waiting = self.outbound.iter().flatten();
        CrossingCounters {
            sent: self.sent,
            received: self.received,
            waiting: waiting.map(|outbound| outbound.waiting.len() as u64).sum(),
            drops: self.drops,
        }
    }

    /// Lets go of all lanes. The other cpus see it, and count what they had put into the lanes
    /// to this one; what waited here is counted under `reason`.
    pub(crate) fn close(&mut self, reason: DropReason) {
        let waiting = self.outbound.iter_mut().flatten();
        let lost = waiting.map(|outbound| outbound.waiting.drain(..).count() as u64);
        self.drops.add(reason, lost.sum());
        self.inbound.clear();
        self.outbound.clear();
    }
}

impl Outbound {
    /// How many frames were lost in the lane of a cpu that has ended; told once.
    fn lost(&mut self) -> u64 {
        if self.is_gone || !self.lane.is_abandoned() {
            return 0;
        }
        self.is_gone = true;
        self.lane.waiting() as u64
    }

    /// Looks at what found no room. Gives up if that lasts too long, or if the cpu is gone:
    /// returns why, and how many frames were dropped.
    fn look(&mut self, now: Instant, patience: Duration) -> Option<(DropReason, u64)> {
        if self.waiting.is_empty() {
            self.since = None;
            self.is_slow = false;
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let reason = if self.is_gone {
            DropReason::CpuGone
        } else if self.is_slow || now.since(since) >= patience {
            self.is_slow = true;
            DropReason::LaneFull
        } else {
            return None;
        };
        self.since = None;
        Some((reason, self.waiting.drain(..).count() as u64))
    }
}

/// Whether the frame was never on a link.
pub(crate) fn is_made_by_engines(frame: &Frame) -> bool {
    EthernetHeader::parse(frame.head())
        .is_some_and(|header| matches!(header.ethertype, LOOPED | REASSEMBLED))
}

#[cfg(test)]
mod tests;
