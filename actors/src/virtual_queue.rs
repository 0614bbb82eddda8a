//! The virtual queue: how a cpu without a queue of its own sends through another's.
//!
//! ```text
//!   proxy cpu                                  cpu that owns the ring
//!   Shard -> VirtualQueue --- lane (frames) --> Served -> transmit ring -> device
//!                 ^-------- credits ------------ Ledger <- what the device has sent
//! ```
//!
//! Many packets are under way at once, up to the limit of [`Credits`]; beyond it a packet is
//! refused, so that what a sender offers never costs memory. The lane is as long as there are
//! credits, so whoever has a credit has room in it.

use std::collections::VecDeque;
use std::sync::Arc;

use virtroupe_driver::{Frame, Pool};
use virtroupe_wire::Buffer;

use crate::bell::Bell;
use crate::credits::Credits;
use crate::lane::{LaneReceiver, LaneSender};

/// The sender's side.
pub(crate) struct VirtualQueue {
    lane: LaneSender,
    credits: Arc<Credits>,
    /// Credits taken so far; wraps.
    taken: u32,
    pool: Pool,
    sent: SentCounters,
}

/// What was put into a virtual queue.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SentCounters {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
}

impl VirtualQueue {
    pub(crate) fn new(lane: LaneSender, credits: Arc<Credits>, pool: Pool) -> Self {
        VirtualQueue {
            lane,
            credits,
            taken: 0,
            pool,
            sent: SentCounters::default(),
        }
    }

    /// Credits that are left: packets that may be sent now.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.credits.left(self.taken) as usize
    }

    /// The most that there is ever room for.
    pub(crate) fn capacity(&self) -> usize {
        self.credits.limit() as usize
    }

    /// Sends frames from the front of `burst`, one credit each; those without stay.
    pub(crate) fn transmit(&mut self, burst: &mut Vec<Frame>) {
        let count = burst.len().min(self.room());
        if count == 0 {
            return;
        }
        let bytes: usize = burst.iter().take(count).map(Frame::len).sum();
        let moved = self.lane.push_up_to(burst, count);
        debug_assert_eq!(moved, count, "the lane is as long as there are credits");
        self.taken = self.taken.wrapping_add(moved as u32);
        self.sent.frames += moved as u64;
        self.sent.bytes += bytes as u64;
    }

    /// Asks the owner of the ring for a wake-up when half of the credits are back. Look at
    /// [`room`](Self::room) once more afterwards.
    pub(crate) fn want_credits(&self) {
        self.credits.want();
        // It may sleep while the device still has our packets.
        self.lane.bell().ring();
    }

    /// Whether all that was sent has left the lane.
    pub(crate) fn is_drained(&self) -> bool {
        self.lane.waiting() == 0 || self.lane.is_abandoned()
    }

    pub(crate) fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    pub(crate) fn sent(&self) -> SentCounters {
        self.sent
    }
}

/// A virtual queue as the owner of the ring serves it.
pub(crate) struct Served {
    lane: LaneReceiver,
    credits: Arc<Credits>,
    /// The sender's bell.
    bell: Arc<Bell>,
    /// Packets taken out of the lane and not given back as credits.
    out: u32,
}

impl Served {
    pub(crate) fn new(lane: LaneReceiver, credits: Arc<Credits>, bell: Arc<Bell>) -> Self {
        Served {
            lane,
            credits,
            bell,
            out: 0,
        }
    }

    /// Takes up to `limit` frames into `burst`. Returns how many.
    pub(crate) fn take(&mut self, burst: &mut Vec<Frame>, limit: usize) -> usize {
        let taken = self.lane.take(burst, limit);
        self.out += taken as u32;
        taken
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lane.is_empty()
    }

    /// Whether credits that only the device can free are worth a wake-up: the sender waits for
    /// them, or they are more than half, and it would be refused although nothing is under way.
    pub(crate) fn is_awaited(&self) -> bool {
        self.out > self.credits.limit() / 2 || self.out > 0 && self.credits.is_wanted()
    }

    fn give_back(&mut self, count: u32) {
        self.out = self.out.saturating_sub(count);
        if self.credits.give_back(count, self.out) {
            self.bell.ring();
        }
    }
}

/// Whose packets are in a transmit ring, in the order in which they went in.
///
/// One entry for each run of packets of one queue. A device that sends in another order gives
/// credits back in the order of the ring all the same: a credit is a number, and as many come
/// back as packets were sent.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    runs: VecDeque<Run>,
    /// Packets in all runs.
    open: usize,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    /// The virtual queue by its place; `None` is the ring's own cpu.
    queue: Option<u16>,
    packets: u32,
}

impl Ledger {
    /// `packets` more went into the ring for `queue`.
    pub(crate) fn add(&mut self, queue: Option<u16>, packets: u32) {
        if packets == 0 {
            return;
        }
        self.open += packets as usize;
        match self.runs.back_mut() {
            Some(last) if last.queue == queue => last.packets += packets,
            _ => self.runs.push_back(Run { queue, packets }),
        }
    }

    /// Only `outstanding` packets are still in the ring: gives the credits of the others back.
    /// Returns how many of these were the ring's own cpu's.
    pub(crate) fn settle(&mut self, outstanding: usize, served: &mut [Served]) -> usize {
        let mut own = 0;
        while self.open > outstanding {
            let Some(run) = self.runs.front_mut() else {
                break;
            };
            let done = run.packets.min((self.open - outstanding) as u32);
            let queue = run.queue;
            run.packets -= done;
            if run.packets == 0 {
                self.runs.pop_front();
            }
            self.open -= done as usize;
            match queue {
                None => own += done as usize,
                Some(queue) => {
                    if let Some(served) = served.get_mut(usize::from(queue)) {
                        served.give_back(done);
                    }
                }
            }
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use virtroupe_driver::embedded::{EmbeddedConfig, EmbeddedTransport, Link, LinkConfig};
    use virtroupe_driver::memory::HugePages;
    use virtroupe_driver::{Device, DeviceOptions};

    use super::*;
    use crate::lane::lane;

    /// A pool that the device sees.
    fn pool() -> Pool {
        let (end, _other) = Link::pair(LinkConfig::default());
        let device = EmbeddedTransport::inline(EmbeddedConfig::default(), end);
        let (transport, ..) = device.expect("a device");
        let options = DeviceOptions {
            huge_pages: HugePages::Never,
            ..DeviceOptions::default()
        };
        let parts = Device::initialize_for(Box::new(transport), &options, 1);
        let mut pools = parts.expect("a device").pools;
        pools.pop().expect("a pool").bind()
    }

    #[test]
    fn what_a_sender_had_under_way_when_it_died_is_sent_and_its_credits_come_home() {
        let (sender, receiver) = lane(8, Arc::default());
        let credits = Arc::new(Credits::new(8));
        let mut queues = [Served::new(receiver, credits.clone(), Arc::default())];
        let mut queue = VirtualQueue::new(sender, credits.clone(), pool());
        let mut burst: Vec<Frame> = (0..9).filter_map(|_| queue.pool().frame()).collect();
        queue.transmit(&mut burst);
        assert_eq!((burst.len(), queue.room()), (1, 0), "one found no credit");
        let (mut ring, mut ledger) = (Vec::new(), Ledger::default());
        assert_eq!(queues[0].take(&mut ring, 5), 5);
        ledger.add(Some(0), 5);
        drop(queue);
        assert_eq!(queues[0].take(&mut ring, 5), 3, "what was in the lane");
        ledger.add(Some(0), 3);
        ledger.settle(2, &mut queues);
        assert_eq!(credits.left(8), 6);
        ledger.settle(0, &mut queues);
        assert_eq!((credits.left(8), queues[0].out), (8, 0));
    }

    fn served(limit: u32) -> Served {
        let (_, receiver) = lane(limit as usize, Arc::default());
        Served {
            out: limit,
            ..Served::new(receiver, Arc::new(Credits::new(limit)), Arc::default())
        }
    }

    #[test]
    fn credits_come_back_in_the_order_of_the_ring_and_none_is_lost() {
        let mut queues = [served(10), served(10)];
        let mut ledger = Ledger::default();
        ledger.add(Some(0), 3);
        ledger.add(None, 5);
        ledger.add(Some(1), 4);
        ledger.add(Some(1), 2);
        assert_eq!(ledger.runs.len(), 3, "runs of one queue are one entry");
        let left = |queues: &[Served; 2]| queues.each_ref().map(|queue| queue.credits.left(10));
        assert_eq!(ledger.settle(13, &mut queues), 0);
        assert_eq!(left(&queues), [1, 0]);
        assert_eq!(ledger.settle(6, &mut queues), 5);
        assert_eq!(left(&queues), [3, 0]);
        assert_eq!(ledger.settle(0, &mut queues), 0);
        assert_eq!(left(&queues), [3, 6]);
        assert!(ledger.runs.is_empty() && ledger.open == 0);
    }
}
