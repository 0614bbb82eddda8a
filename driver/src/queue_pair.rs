//! The queue pair: one receive and one transmit ring with their pool, local to one cpu.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::frame::Frame;
use crate::pool::{Pool, RESERVE, UnboundPool};
use crate::queue::{AnyReceiveQueue, AnyTransmitQueue};
use crate::receive::ReceiveCounters;
use crate::ring::Violation;
use crate::transmit::TransmitCounters;
use crate::transport::{Doorbell, QueueNotifiers};

/// A queue pair that is set up but not yet tied to a thread.
pub struct UnboundQueuePair {
    pub(crate) index: u16,
    pub(crate) receive: AnyReceiveQueue,
    pub(crate) transmit: AnyTransmitQueue,
    pub(crate) pool: UnboundPool,
    pub(crate) receive_notifiers: QueueNotifiers,
    pub(crate) transmit_notifiers: QueueNotifiers,
}

impl UnboundQueuePair {
    /// Ties the pair to the current thread, the one that will poll it, and posts the first
    /// receive buffers: from here on, at least half of the receive ring is posted.
    pub fn bind(self) -> QueuePair {
        let mut pair = QueuePair {
            index: self.index,
            receive: self.receive,
            transmit: self.transmit,
            pool: self.pool.bind(),
            receive_doorbell: self.receive_notifiers.doorbell,
            transmit_doorbell: self.transmit_notifiers.doorbell,
            receive_interrupt: self.receive_notifiers.interrupt,
            transmit_interrupt: self.transmit_notifiers.interrupt,
        };
        // Before an application can take the slots.
        if pair.receive.refill(&mut pair.pool, RESERVE) {
            pair.receive_doorbell.ring();
        }
        pair
    }

    /// The number of the pair, from 0.
    pub fn index(&self) -> u16 {
        self.index
    }
}

/// One receive and one transmit queue of a device, and the pool that serves them.
///
/// Not `Send`: it belongs to the thread that bound it. After a [`Violation`] the pair is broken
/// and must be dropped after the device was reset.
pub struct QueuePair {
    index: u16,
    receive: AnyReceiveQueue,
    transmit: AnyTransmitQueue,
    pool: Pool,
    receive_doorbell: Doorbell,
    transmit_doorbell: Doorbell,
    receive_interrupt: OwnedFd,
    transmit_interrupt: OwnedFd,
}

impl QueuePair {
    /// The number of the pair, from 0.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Takes up to `limit` received frames into `burst` and posts fresh slots. Returns how many
    /// frames came. Those whose virtio-net header does not fit to them are among these, but not in
    /// `burst`: they are dropped and counted ([`ReceiveCounters::drops`]).
    ///
    /// # Errors
    /// When the device broke the rules of the ring; the frames before that are in `burst`.
    #[inline]
    pub fn receive(&mut self, burst: &mut Vec<Frame>, limit: usize) -> Result<usize, Violation> {
        let taken = self.receive.harvest(&mut self.pool, burst, limit, RESERVE);
        if self.receive.refill(&mut self.pool, RESERVE) {
            self.receive_doorbell.ring();
        }
        if let Ok(frames) = taken {
            // Most of what is received is answered.
            self.transmit.prepare(frames);
        }
        taken
    }

    /// Hands frames from the front of `burst` to the device; those that find no room stay, in
    /// order. Takes back what was sent when less than half of the ring would be free, or the device
    /// holds as many slots in chains: the pool would run empty before the ring does.
    ///
    /// # Errors
    /// When the device broke the rules of the ring.
    #[inline]
    pub fn transmit(&mut self, burst: &mut Vec<Frame>) -> Result<(), Violation> {
        let taken = burst.len().saturating_add(self.transmit.further_slots());
        let scarce = self.transmit.room() < taken.saturating_add(self.transmit.size() / 2);
        if scarce {
            self.transmit.reclaim(&mut self.pool)?;
        }
        if burst.is_empty() {
            return Ok(());
        }
        let mut notify = self.transmit.submit(&mut self.pool, burst);
        if !burst.is_empty() && !scarce {
            // Long chains found no room, although there was room for as many frames.
            self.transmit.reclaim(&mut self.pool)?;
            notify |= self.transmit.submit(&mut self.pool, burst);
        }
        if notify {
            self.transmit_doorbell.ring();
        }
        Ok(())
    }

    /// Takes back the memory of frames that were sent; returns their number.
    ///
    /// # Errors
    /// When the device broke the rules of the ring.
    pub fn reclaim(&mut self) -> Result<usize, Violation> {
        self.transmit.reclaim(&mut self.pool)
    }

    /// Descriptors that are free in the transmit ring.
    pub fn transmit_room(&self) -> usize {
        self.transmit.room()
    }

    /// Frames that the device has not sent yet, as far as we looked.
    pub fn transmit_outstanding(&self) -> usize {
        self.transmit.outstanding()
    }

    /// The pool, for frames of one's own.
    pub fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// Slots in the pool, and how many are free now.
    pub fn pool_level(&self) -> (usize, usize) {
        (self.pool.capacity(), self.pool.available())
    }

    /// Fills the receive ring and requests an interrupt for the next received frame and, if
    /// `transmit` is set, for the next sent one. Returns false if something is there already:
    /// then no interrupt may come, and the caller polls on.
    ///
    /// It is safe to sleep after true whatever becomes of the pool meanwhile: at least half of
    /// the receive ring is posted. Frames that the device sends while `transmit` is not set come
    /// home only after the pair is polled again.
    pub fn arm(&mut self, transmit: bool) -> bool {
        if self.receive.fill(&mut self.pool, RESERVE) {
            self.receive_doorbell.ring();
        }
        self.receive.request_interrupt();
        if transmit {
            self.transmit.request_interrupt();
        }
        !(self.receive.has_work() || transmit && self.transmit.has_work())
    }

    /// Asks the device not to interrupt while we poll, and forgets interrupts that came.
    pub fn disarm(&mut self) {
        self.receive.suppress_interrupts();
        self.transmit.suppress_interrupts();
        let mut count = [0; 8];
        for interrupt in [&self.receive_interrupt, &self.transmit_interrupt] {
            // A non-blocking eventfd: reading resets it, or it was not signalled.
            let _ = nix::unistd::read(interrupt, &mut count);
        }
    }

    /// The eventfds that become readable on an interrupt: receive and transmit.
    pub fn interrupts(&self) -> [BorrowedFd<'_>; 2] {
        [
            self.receive_interrupt.as_fd(),
            self.transmit_interrupt.as_fd(),
        ]
    }

    /// Counters of the receive side.
    pub fn receive_counters(&self) -> &ReceiveCounters {
        self.receive.counters()
    }

    /// Counters of the transmit side.
    pub fn transmit_counters(&self) -> &TransmitCounters {
        self.transmit.counters()
    }

    /// Takes back all memory that the device held. Returns how many frames were not sent, or
    /// not known to be.
    ///
    /// Only after the device was reset or lost: before, it may still write into that memory.
    pub fn reclaim_after_reset(&mut self) -> usize {
        self.receive.reclaim_all(&mut self.pool);
        self.transmit.reclaim_all(&mut self.pool)
    }
}
