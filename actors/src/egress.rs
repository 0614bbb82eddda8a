//! The way out of a cpu: its own transmit ring, or the virtual queue to another's.
//!
//! The shard puts finished frames in and asks how many more there is room for; what stands
//! behind makes no difference to it.

use virtroupe_driver::{Frame, Pool, QueuePair, Violation, batch_returns};
use virtroupe_wire::DropReason;

use crate::virtual_queue::{Ledger, Served, VirtualQueue};

mod turns;

use turns::{QUANTUM, Turns};

/// Free slots that the pool must have before a sender is told that there is room.
const LEAST_FREE: usize = 32;

/// Where the frames of one cpu go.
pub(crate) enum Egress {
    /// Into the transmit ring of the cpu's own queue pair.
    Queue(Box<QueueEgress>),
    /// Through the virtual queue to the cpu that owns the ring.
    Virtual(VirtualQueue),
}

impl Egress {
    /// Frames that there is room for now, as far as we looked.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        match self {
            Egress::Queue(queue) => queue.room(),
            Egress::Virtual(queue) => queue.room(),
        }
    }

    /// The most that there is ever room for.
    pub(crate) fn capacity(&self) -> usize {
        match self {
            Egress::Queue(queue) => queue.size,
            Egress::Virtual(queue) => queue.capacity(),
        }
    }

    /// Why a frame without room is refused.
    pub(crate) fn shortage(&self) -> DropReason {
        match self {
            Egress::Queue(_) => DropReason::RingFull,
            Egress::Virtual(_) => DropReason::NoCredit,
        }
    }

    /// Sends frames from the front of `burst`; those without room stay. The owner of a ring
    /// also sends what other cpus put into their virtual queues. Returns how many moved.
    ///
    /// # Errors
    /// When the device broke the rules of the ring.
    #[inline]
    pub(crate) fn transmit(&mut self, burst: &mut Vec<Frame>) -> Result<usize, Violation> {
        let before = burst.len();
        match self {
            Egress::Queue(queue) if queue.served.is_empty() => queue.pair.transmit(burst)?,
            Egress::Queue(queue) => return batch_returns(|| queue.transmit_for_all(burst)),
            Egress::Virtual(queue) => queue.transmit(burst),
        }
        Ok(before - burst.len())
    }

    /// Looks whether the device has sent something meanwhile.
    ///
    /// # Errors
    /// When the device broke the rules of the ring.
    pub(crate) fn reclaim(&mut self) -> Result<(), Violation> {
        match self {
            Egress::Queue(queue) => queue.reclaim(),
            Egress::Virtual(_) => Ok(()),
        }
    }

    /// The memory for packets of this cpu's own.
    #[inline]
    pub(crate) fn pool(&mut self) -> &mut Pool {
        match self {
            Egress::Queue(queue) => queue.pair.pool(),
            Egress::Virtual(queue) => queue.pool(),
        }
    }

    /// Free slots of the pool; if they are fewer than `wanted`, with what other threads returned
    /// and what the device has sent.
    pub(crate) fn free_slots(&mut self, wanted: usize) -> usize {
        if self.pool().available() < wanted {
            self.pool().collect();
        }
        if self.pool().available() < wanted {
            // A violation is found again, and dealt with, by the poll loop.
            let _ = self.reclaim();
        }
        self.pool().available()
    }

    /// Whether there is room enough, for frames behind those that are `waiting` and in the pool, to
    /// tell senders that wait.
    pub(crate) fn is_roomy(&mut self, waiting: usize) -> bool {
        let capacity = self.capacity();
        let room = self.room().saturating_sub(waiting);
        let pool = self.pool();
        pool.collect();
        room >= capacity / 2 && pool.available() >= LEAST_FREE
    }

    /// Whether all that was handed over has gone: to the device, or out of the lane.
    pub(crate) fn is_drained(&mut self) -> bool {
        match self {
            Egress::Queue(queue) => {
                // A violation is found again by the poll loop.
                let _ = queue.reclaim();
                queue.pair.transmit_outstanding() == 0
                    && queue.held.is_none()
                    && queue.served.iter().all(Served::is_empty)
            }
            Egress::Virtual(queue) => queue.is_drained(),
        }
    }

    /// Before the cpu sleeps: asks to be woken by received frames and, if `needs_room`, when
    /// there is room again. Returns false if there is work already.
    pub(crate) fn arm(&mut self, needs_room: bool) -> bool {
        match self {
            Egress::Queue(queue) => queue.arm(needs_room),
            Egress::Virtual(queue) => {
                if needs_room {
                    queue.want_credits();
                }
                true
            }
        }
    }

    /// The cpu is awake: notifications are not needed.
    pub(crate) fn disarm(&mut self) {
        if let Egress::Queue(queue) = self {
            queue.pair.disarm();
        }
    }

    /// Drops what other cpus put in and nobody will send any more. Returns how many frames.
    pub(crate) fn drop_waiting(&mut self) -> u64 {
        let Egress::Queue(queue) = self else {
            return 0;
        };
        let mut waiting = queue.held.take().unwrap_or_default();
        for served in &mut queue.served {
            while served.take(&mut waiting, QUANTUM) > 0 {}
        }
        waiting.len() as u64
    }

    /// The cpu's own queue pair.
    pub(crate) fn pair(&mut self) -> Option<&mut QueuePair> {
        match self {
            Egress::Queue(queue) => Some(&mut queue.pair),
            Egress::Virtual(_) => None,
        }
    }
}

/// A queue pair, whose transmit ring serves its own cpu and the virtual queues of others.
pub(crate) struct QueueEgress {
    pair: QueuePair,
    size: usize,
    served: Vec<Served>,
    ledger: Ledger,
    /// Packets of the own cpu in the ring; counted only where others share it.
    own: usize,
    /// Whose turn it is: a place in `served`, or one behind for the cpu itself.
    turns: Turns,
    /// Memory for one turn, empty in between.
    scratch: Vec<Frame>,
    /// Frames of the virtual queue whose turn it was that found no descriptors: long chains.
    held: Option<Vec<Frame>>,
}

impl QueueEgress {
    pub(crate) fn new(pair: QueuePair, served: Vec<Served>) -> Self {
        QueueEgress {
            size: pair.transmit_room(),
            pair,
            turns: Turns::new(served.len() + 1),
            served,
            ledger: Ledger::default(),
            own: 0,
            scratch: Vec::new(),
            held: None,
        }
    }

    /// Frames that the own cpu may put in. Where others share the ring it has as many credits as
    /// there are descriptors, and waits for its turn as they do: by the room that they leave it, it
    /// would get none.
    fn room(&self) -> usize {
        match self.served.is_empty() {
            true => self.pair.transmit_room(),
            false => self.size.saturating_sub(self.own),
        }
    }

    /// Sends the frames of the own cpu and of the virtual queues in [`Turns`], until all is sent or
    /// the ring is full. The next call goes on there.
    fn transmit_for_all(&mut self, own: &mut Vec<Frame>) -> Result<usize, Violation> {
        self.reclaim()?;
        let mut moved = 0;
        let mut idle = 0;
        while idle < self.turns.senders() && self.pair.transmit_room() > 0 {
            let (sent, is_short) = self.transmit_turn(own)?;
            idle = if sent == 0 { idle + 1 } else { 0 };
            moved += sent;
            if is_short {
                // A long chain waits for descriptors: from frames behind it, it would get none.
                break;
            }
        }
        Ok(moved)
    }

    /// Sends what the sender whose turn it is may send now. Returns how many frames went, and
    /// whether one of them found too few descriptors.
    fn transmit_turn(&mut self, own: &mut Vec<Frame>) -> Result<(usize, bool), Violation> {
        let whose = self.turns.whose();
        let limit = self.turns.limit(self.pair.transmit_room());
        let mut burst = std::mem::take(&mut self.scratch);
        let mut has_more = true;
        if let Some(held) = self.held.take() {
            burst = held;
        } else if let Some(served) = self.served.get_mut(whose) {
            has_more = served.take(&mut burst, limit) == limit;
        } else {
            has_more = own.len() >= limit;
            burst.extend(own.drain(..limit.min(own.len())));
        }
        let before = burst.len();
        self.pair.transmit(&mut burst)?;
        let sent = before - burst.len();
        let is_own = whose == self.served.len();
        let queue = (!is_own).then_some(whose as u16);
        self.ledger.add(queue, sent as u32);
        if is_own {
            self.own += sent;
        }
        let is_short = !burst.is_empty();
        self.turns.sent(sent, has_more || is_short);
        if !is_short {
            self.scratch = burst;
        } else if is_own {
            own.splice(..0, burst.drain(..));
            self.scratch = burst;
        } else {
            self.held = Some(burst);
        }
        Ok((sent, is_short))
    }

    fn reclaim(&mut self) -> Result<(), Violation> {
        self.pair.reclaim()?;
        if !self.served.is_empty() {
            let outstanding = self.pair.transmit_outstanding();
            let own = self.ledger.settle(outstanding, &mut self.served);
            self.own = self.own.saturating_sub(own);
        }
        Ok(())
    }

    fn arm(&mut self, needs_room: bool) -> bool {
        let is_awaited = self.served.iter().any(Served::is_awaited);
        let needs_room = needs_room || is_awaited || self.held.is_some();
        self.pair.arm(needs_room) && self.served.iter().all(Served::is_empty)
    }
}

#[cfg(test)]
mod tests;
