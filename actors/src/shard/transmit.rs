//! The way out: from senders into the ring, and notices of room back to them.

use std::task::Waker;

use actix::Recipient;
use virtroupe_driver::{Frame, Pool, Violation};
use virtroupe_wire::host::Host;
use virtroupe_wire::udp::{self, UdpDatagram, UdpSend, UdpSocketId};
use virtroupe_wire::{DropReason, Instant};

use super::{Shard, TxReadyPolicy, Waiter};
use crate::egress::Egress;
use crate::messages::{SendOutcome, SocketEvent};

/// Senders woken at once when there is room: one for each burst of this length.
const FRAMES_PER_WAITER: usize = 32;
/// Frames of the longest datagram at the usual MTU.
const LONGEST_TRAIN: usize = 46;

impl Shard {
    /// Hands the transmit queue on and wakes senders that wait for room. Returns how many frames
    /// went. What is left then found no room.
    pub(crate) fn flush(&mut self, egress: &mut Egress) -> Result<usize, Violation> {
        let mut moved = 0;
        if self.host.take_has_offloads() {
            self.carry_out_offloads(egress);
        }
        loop {
            moved += egress.transmit(self.host.transmit())?;
            let left = self.host.transmit().len();
            self.host
                .set_transmit_room(egress.room().saturating_sub(left));
            // New room lets frames in that waited for it inside the engine.
            if self.host.transmit().len() == left {
                break;
            }
        }
        let left = self.host.transmit().len();
        if !self.waiters.is_empty() && egress.is_roomy(left) {
            self.wake_waiters(egress.room().saturating_sub(left));
        }
        Ok(moved)
    }

    /// Does in software what the device does not take.
    #[cold]
    fn carry_out_offloads(&mut self, egress: &mut Egress) {
        let offloads = self.features.transmit_offloads();
        for reason in offloads.carry_out(self.host.transmit(), egress.pool()) {
            self.drops.add(reason, 1);
        }
    }

    /// Frames that wait for room.
    pub(crate) fn has_output(&mut self) -> bool {
        !self.host.transmit().is_empty()
    }

    /// Whether somebody waits for room: a sender, frames, or, as there is
    /// none at all, perhaps frames inside the engine.
    pub(crate) fn needs_room(&mut self) -> bool {
        !self.waiters.is_empty() || self.has_output() || self.host.transmit_room() == 0
    }

    /// Whether senders wait although there is room: no interrupt would wake them.
    pub(crate) fn owes_notices(&mut self, egress: &mut Egress) -> bool {
        !self.waiters.is_empty() && egress.is_roomy(self.host.transmit().len())
    }

    /// Whether there is room of which the engine does not know: credits that came back since the
    /// last flush ring no bell. Frames inside the engine may wait for it.
    pub(crate) fn misses_room(&mut self, egress: &Egress) -> bool {
        self.host.transmit_room() == 0 && egress.room() > self.host.transmit().len()
    }

    pub(crate) fn set_sleeper(&mut self, waker: Option<Waker>) {
        self.sleeper = waker;
    }

    /// Tells senders that there is room for so many frames.
    fn wake_waiters(&mut self, room: usize) {
        let mut left = match self.policy {
            TxReadyPolicy::First => 1,
            TxReadyPolicy::All => usize::MAX,
            TxReadyPolicy::Fair => (room / FRAMES_PER_WAITER).max(1),
        };
        while left > 0 {
            let Some(waiter) = self.waiters.pop_front() else {
                return;
            };
            // One-shot and at most one outstanding for each sender, so the mailbox's bound is
            // not needed to bound them, and the notice can not be refused. A waiter that died
            // passes its turn on.
            if let Some(events) = self.events_of(waiter)
                && events.connected()
            {
                events.do_send(SocketEvent::TxReady);
                left -= 1;
            }
        }
    }

    fn events_of(&self, waiter: Waiter) -> Option<&Recipient<SocketEvent>> {
        match waiter {
            Waiter::Socket(id) => self.sockets.get(&id)?.events.as_ref(),
            Waiter::Subscription(id) => self
                .subscriptions
                .iter()
                .find(|open| open.id == id)?
                .events
                .as_ref(),
        }
    }

    pub(crate) fn send_udp(
        &mut self,
        id: UdpSocketId,
        burst: &mut Vec<UdpSend<Frame>>,
    ) -> SendOutcome {
        self.send_with(burst.len(), |host, now, pool| {
            let outcome = host.send_udp(now, id, burst, pool);
            (outcome, burst.first().and_then(|send| send.refused))
        })
    }

    /// Sends datagrams back. Empties `burst`; what is refused is dropped.
    pub(crate) fn reply_udp(
        &mut self,
        id: UdpSocketId,
        burst: &mut Vec<UdpDatagram<Frame>>,
    ) -> SendOutcome {
        let mut refused = Vec::new();
        self.send_with(burst.len(), |host, now, pool| {
            let outcome = host.reply_udp(now, id, burst, &mut refused, pool);
            (outcome, refused.first().and_then(|send| send.refused))
        })
    }

    /// Lets `send` put up to `count` datagrams into the engine.
    fn send_with(
        &mut self,
        count: usize,
        send: impl FnOnce(
            &mut Host<Frame>,
            Instant,
            &mut Pool,
        ) -> (udp::SendOutcome, Option<DropReason>),
    ) -> SendOutcome {
        let now = self.clock.now();
        let ports = self.ports.clone();
        let egress = &mut ports.borrow_mut().egress;
        if self.host.transmit_room() < count + LONGEST_TRAIN {
            self.look_for_room(egress);
        }
        let (outcome, reason) = send(&mut self.host, now, egress.pool());
        // What was sent to ourselves has arrived; what waits for the device needs the actor.
        self.wake();
        SendOutcome {
            accepted: outcome.accepted,
            refused: outcome.refused,
            reason,
        }
    }

    /// Looks whether the device has sent something meanwhile. A violation is found again, and
    /// dealt with, by the poll loop.
    fn look_for_room(&mut self, egress: &mut Egress) {
        if self.closed.is_none() {
            let _ = egress.reclaim();
        }
        let waiting = self.host.transmit().len();
        self.host
            .set_transmit_room(egress.room().saturating_sub(waiting));
    }

    /// Puts whole Ethernet frames into the transmit queue; those without room stay.
    pub(crate) fn transmit_frames(&mut self, frames: &mut Vec<Frame>) -> SendOutcome {
        let offered = frames.len();
        let reason = match self.closed {
            Some(_) => DropReason::SocketClosed,
            None => {
                self.accept_frames(frames);
                self.ports.borrow().egress.shortage()
            }
        };
        let refused = frames.len();
        self.drops.add(reason, refused as u64);
        SendOutcome {
            accepted: offered - refused,
            refused,
            reason: (refused > 0).then_some(reason),
        }
    }

    fn accept_frames(&mut self, frames: &mut Vec<Frame>) {
        if self.host.transmit_room() < frames.len() {
            let ports = self.ports.clone();
            self.look_for_room(&mut ports.borrow_mut().egress);
        }
        let room = self.host.transmit_room();
        let accepted = room.min(frames.len());
        self.host.transmit().extend(frames.drain(..accepted));
        self.host.set_transmit_room(room - accepted);
        self.wake();
    }

    /// An empty frame with headroom.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        self.ports.borrow_mut().egress.pool().frame()
    }

    /// Notes a sender that wants to know when there is room. Returns whether it will be told.
    pub(crate) fn wait_for_room(&mut self, waiter: Waiter) -> bool {
        let is_noted = self.waiters.contains(&waiter);
        let has_place = self.policy != TxReadyPolicy::First || self.waiters.is_empty();
        if !is_noted && has_place {
            self.waiters.push_back(waiter);
        }
        self.wake();
        is_noted || has_place
    }

    /// Wakes the first loop of the cpu, if it sleeps.
    pub(crate) fn wake(&mut self) {
        if let Some(waker) = self.sleeper.take() {
            waker.wake();
        }
    }
}
