//! One direction of a link.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use virtroupe_wire::Instant;

use super::super::backend::{Attachment, Deliver, Delivery, Packet};
use super::super::offloads;
use super::super::runner::Waker;
use super::super::steering::Steering;
use super::LinkConfig;
use crate::features::FeatureBits;

/// Ethernet header and one VLAN tag, which the MTU does not count.
const ETHERNET_OVERHEAD: usize = 18;

/// What happened to the frames of one direction of a link.
///
/// In every snapshot, exactly:
/// `offered + duplicated = delivered + lost + overflowed + too_long + flushed + waiting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Given to the link by the sending device.
    pub offered: u64,
    /// Taken by the receiving device.
    pub delivered: u64,
    /// Dropped by `loss`.
    pub lost: u64,
    /// Dropped because `queue_limit` frames were in the link.
    pub overflowed: u64,
    /// Dropped because they exceed `mtu`.
    pub too_long: u64,
    /// Dropped because the receiving device was reset.
    pub flushed: u64,
    /// Extra copies made by `duplicate`.
    pub duplicated: u64,
    /// Delayed by `reorder`; not dropped.
    pub reordered: u64,
    /// Damaged by `corrupt`; not dropped.
    pub corrupted: u64,
    /// In the link now.
    pub waiting: u64,
}

/// A frame under way.
#[derive(Debug)]
struct InFlight {
    due: Instant,
    packet: Packet,
}

/// One direction, shared by the two devices. It is locked once per burst and side.
#[derive(Debug)]
pub(super) struct Direction {
    config: LinkConfig,
    receiver: OnceLock<Receiver>,
    /// The features that the receiving driver has accepted.
    features: AtomicU64,
    /// How many frames are inside, so that an idle receiver need not lock.
    waiting: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Receiver {
    waker: Arc<Waker>,
    steering: Arc<Steering>,
}

#[derive(Debug)]
struct State {
    random: ChaCha8Rng,
    /// Ordered by time of arrival, equal times by order of sending.
    pipe: VecDeque<InFlight>,
    /// Arrived, for each queue of the receiver.
    arrived: Vec<VecDeque<Packet>>,
    /// Buffers to be used again.
    spare: Vec<Packet>,
    /// When the sender's last bit has left.
    busy_until: Instant,
    /// Whether the Gilbert model is in its losing state.
    losing: bool,
    stats: LinkStats,
}

impl Direction {
    pub(super) fn new(config: LinkConfig, stream: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(config.seed);
        random.set_stream(stream);
        Direction {
            config,
            receiver: OnceLock::new(),
            features: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            state: Mutex::new(State {
                random,
                pipe: VecDeque::new(),
                arrived: vec![VecDeque::new()],
                spare: Vec::new(),
                busy_until: Instant::ZERO,
                losing: false,
                stats: LinkStats::default(),
            }),
        }
    }

    /// Tells the link who receives. An end is consumed by its device, so this happens once.
    pub(super) fn attach_receiver(&self, device: &Attachment) {
        let receiver = Receiver {
            waker: Arc::clone(&device.waker),
            steering: Arc::clone(&device.steering),
        };
        let first = self.receiver.set(receiver).is_ok();
        debug_assert!(first, "a link end has one device");
        self.lock()
            .arrived
            .resize_with(usize::from(device.pairs), VecDeque::new);
    }

    /// Notes what the receiving driver has accepted. Nothing is ordered by it: its device does
    /// what was sent as another driver would take it.
    pub(super) fn accept(&self, features: FeatureBits) {
        self.features.store(features.0, Ordering::Relaxed);
    }

    /// Whether the packet may pass with what its header leaves undone.
    pub(super) fn takes(&self, packet: &Packet) -> bool {
        let features = FeatureBits(self.features.load(Ordering::Relaxed));
        self.config.passes_whole()
            && offloads::is_taken_by_driver(&packet.header, &packet.bytes, features)
    }

    /// Nothing can panic while the lock is held that would leave the state half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> LinkStats {
        let state = self.lock();
        LinkStats {
            waiting: state.waiting() as u64,
            ..state.stats
        }
    }

    /// Takes the frames of `burst`, leaving other buffers in their place.
    pub(super) fn send(&self, now: Instant, burst: &mut [Packet]) {
        let mut state = self.lock();
        for packet in burst {
            state.offer(&self.config, now, packet);
        }
        self.publish(&state);
        drop(state);
        if let Some(receiver) = self.receiver.get() {
            receiver.waker.wake_if_asleep();
        }
    }

    /// Delivers what has arrived for `queue`. Returns how many frames moved.
    pub(super) fn receive(
        &self,
        now: Instant,
        queue: usize,
        limit: usize,
        deliver: &mut Deliver<'_>,
    ) -> usize {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let mut state = self.lock();
        let steering = self.receiver.get().map(|r| r.steering.as_ref());
        let moved = state.arrive(now, steering) + state.deliver(queue, limit, deliver);
        self.publish(&state);
        moved
    }

    fn publish(&self, state: &State) {
        self.waiting.store(state.waiting(), Ordering::Relaxed);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.lock().pipe.front().map(|flight| flight.due)
    }

    /// Drops everything that is in the link.
    pub(super) fn flush(&self) {
        let mut state = self.lock();
        state.stats.flushed += state.waiting() as u64;
        state.pipe.clear();
        state.arrived.iter_mut().for_each(VecDeque::clear);
        self.publish(&state);
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.pipe.len() + self.arrived.iter().map(VecDeque::len).sum::<usize>()
    }

    /// Lets one frame into the link, or drops it. The order of the draws is part of what a seed
    /// means: loss, corruption, reordering, duplication.
    fn offer(&mut self, config: &LinkConfig, now: Instant, packet: &mut Packet) {
        self.stats.offered += 1;
        if config.mtu != 0 && packet.bytes.len() > config.mtu + ETHERNET_OVERHEAD {
            self.stats.too_long += 1;
            return;
        }
        if self.loses(config) {
            self.stats.lost += 1;
            return;
        }
        if self.waiting() >= config.queue_limit {
            self.stats.overflowed += 1;
            return;
        }
        let mut packet = std::mem::replace(packet, self.spare.pop().unwrap_or_default());
        if self.happens(config.corrupt) {
            self.corrupt(&mut packet.bytes);
        }
        let mut due = self.transmit_time(config, now, packet.bytes.len()) + config.latency;
        if self.happens(config.reorder) {
            self.stats.reordered += 1;
            due = due + config.reorder_delay;
        }
        if self.happens(config.duplicate) && self.waiting() + 1 < config.queue_limit {
            self.stats.duplicated += 1;
            let mut copy = self.spare.pop().unwrap_or_default();
            copy.clone_from(&packet);
            self.insert(due, copy);
        }
        self.insert(due, packet);
    }

    /// Behind everything that is due no later. Without reordering that is the end.
    fn insert(&mut self, due: Instant, packet: Packet) {
        let after = self.pipe.iter().rev().take_while(|f| f.due > due).count();
        let at = self.pipe.len() - after;
        self.pipe.insert(at, InFlight { due, packet });
    }

    /// The Gilbert model: in the losing state every frame is lost. Its parameters follow from
    /// the share and the mean run length of losses: leave with 1/b, enter with p / (b (1 - p)).
    fn loses(&mut self, config: &LinkConfig) -> bool {
        if config.loss <= 0.0 {
            return false;
        }
        if config.loss_burst <= 1.0 {
            return self.happens(config.loss);
        }
        let leave = 1.0 / config.loss_burst;
        self.losing = if self.losing {
            !self.happens(leave)
        } else {
            self.happens(config.loss * leave / (1.0 - config.loss))
        };
        self.losing
    }

    fn happens(&mut self, probability: f64) -> bool {
        // 53 random bits are a uniform number in [0, 1) without rounding.
        probability > 0.0
            && ((self.random.next_u64() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    fn corrupt(&mut self, bytes: &mut [u8]) {
        let bits = bytes.len() as u64 * 8;
        let bit = self.random.next_u64() % bits.max(1);
        let at = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << (bit % 8);
            self.stats.corrupted += 1;
        }
    }

    /// When the last bit of a frame of `bytes` bytes has left.
    fn transmit_time(&mut self, config: &LinkConfig, now: Instant, bytes: usize) -> Instant {
        if config.rate == 0 {
            return now;
        }
        let nanoseconds = bytes as u128 * 8 * 1_000_000_000 / u128::from(config.rate);
        let duration = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.busy_until = self.busy_until.max(now) + duration;
        self.busy_until
    }

    /// Moves what is due to the queues of the receiver.
    fn arrive(&mut self, now: Instant, steering: Option<&Steering>) -> usize {
        let mut moved = 0;
        while self.pipe.front().is_some_and(|flight| flight.due <= now) {
            let Some(flight) = self.pipe.pop_front() else {
                break;
            };
            let queue = steering.map_or(0, |s| s.steer(&flight.packet.bytes));
            let last = self.arrived.len().saturating_sub(1);
            if let Some(arrived) = self.arrived.get_mut(queue.min(last)) {
                arrived.push_back(flight.packet);
                moved += 1;
            }
        }
        moved
    }

    fn deliver(&mut self, queue: usize, limit: usize, deliver: &mut Deliver<'_>) -> usize {
        let Some(arrived) = self.arrived.get_mut(queue) else {
            return 0;
        };
        let mut delivered = 0;
        while delivered < limit {
            let Some(packet) = arrived.front() else {
                break;
            };
            if deliver(&packet.header, &packet.bytes) == Delivery::NoBuffer {
                break;
            }
            self.spare.extend(arrived.pop_front());
            delivered += 1;
        }
        self.stats.delivered += delivered as u64;
        delivered
    }
}
