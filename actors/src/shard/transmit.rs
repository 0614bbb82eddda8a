//! The way out: from senders into the ring, and notices of room back to them.

use std::task::Waker;

use virtroupe_driver::{Frame, Pool, Violation};
use virtroupe_wire::host::Host;
use virtroupe_wire::udp::{self, UdpDatagram, UdpSend, UdpSocketId};
use virtroupe_wire::{DropReason, Instant};

use super::{Shard, Waiter};
use crate::egress::Egress;
use crate::messages::{SendOutcome, SocketEvent, SubscriptionId};

/// Frames of the longest datagram at the usual MTU.
const MOST_FRAGMENTS: usize = 46;

impl Shard {
    /// Hands the transmit queue on and tells senders that wait for room. Returns how many frames
    /// went and senders were told. What is left then found no room.
    pub(crate) fn flush(&mut self, egress: &mut Egress) -> Result<usize, Violation> {
        let mut moved = 0;
        loop {
            // Also for what the last round let in.
            if self.host.take_has_offloads() | std::mem::take(&mut self.has_offloads) {
                self.carry_out_offloads(egress);
            }
            moved += egress.transmit(self.host.transmit())?;
            let left = self.host.transmit().len();
            self.host
                .set_transmit_room(egress.room().saturating_sub(left));
            self.exchange_tcp(egress);
            // New room lets frames in that waited for it inside the engine.
            if self.host.transmit().len() == left {
                break;
            }
        }
        let left = self.host.transmit().len();
        if self.line.is_busy() {
            self.line.tick(self.clock.now());
            let room = self.share.of_datagrams(egress.room().saturating_sub(left));
            if room > 0 && egress.is_roomy(left) {
                moved += self.tell_senders(room);
            }
        }
        Ok(moved)
    }

    /// Does in software what the device does not take.
    #[cold]
    fn carry_out_offloads(&mut self, egress: &mut Egress) {
        let offloads = self.features.transmit_offloads();
        let before = self.host.transmit().len();
        let dropped = offloads.carry_out(self.host.transmit(), egress.pool());
        let added = self.host.transmit().len() + dropped.len() - before;
        self.segments_added += added as u64;
        for reason in dropped {
            self.lose_unsent(reason, 1);
        }
    }

    /// Frames that wait for room.
    pub(crate) fn has_output(&mut self) -> bool {
        !self.host.transmit().is_empty()
    }

    /// Whether everything that was accepted from senders has left the shard.
    pub(crate) fn is_drained(&mut self) -> bool {
        !self.has_output() && !self.tcp.engine.has_output()
    }

    /// Whether somebody waits for room: a sender, frames, or, as there is
    /// none at all, perhaps frames inside the engine.
    pub(crate) fn needs_room(&mut self) -> bool {
        self.line.is_waiting()
            || self.has_output()
            || self.tcp.engine.has_output()
            || self.host.transmit_room() == 0
    }

    /// Whether senders wait although there is room, or turns have to pass: no interrupt would wake
    /// them.
    pub(crate) fn owes_notices(&mut self, egress: &mut Egress) -> bool {
        self.line.is_busy() && egress.is_roomy(self.host.transmit().len())
    }

    /// Whether there is room of which the engine does not know: credits that came back since the
    /// last flush ring no bell. Frames inside the engine may wait for it.
    pub(crate) fn misses_room(&mut self, egress: &Egress) -> bool {
        let known = self.host.transmit_room();
        let is_short = known == 0 || self.tcp.engine.has_output();
        is_short && egress.room() > self.host.transmit().len() + known
    }

    pub(crate) fn set_sleeper(&mut self, waker: Option<Waker>) {
        self.sleeper = waker;
    }

    /// Tells senders that there is room for so many frames. Returns how many were told.
    ///
    /// A notice is one-shot and there is at most one outstanding for each sender, so the mailbox's
    /// bound is not needed to bound them, and the notice can not be refused.
    fn tell_senders(&mut self, room: usize) -> usize {
        let (sockets, subscriptions) = (&self.sockets, &self.subscriptions);
        let open = |sender| match sender {
            Waiter::Socket(id) => sockets.get(&id).map(|socket| &socket.events),
            Waiter::Subscription(id) => {
                let open = subscriptions.iter().find(|open| open.id == id);
                open.map(|subscription| &subscription.events)
            }
        };
        let mut told = 0;
        while let Some(sender) = self.line.next(room, told, |sender| open(sender).is_some()) {
            match open(sender) {
                Some(Some(events)) if events.connected() => {
                    events.do_send(SocketEvent::TxReady);
                    told += 1;
                }
                _ => self.line.leave(sender),
            }
        }
        told
    }

    pub(crate) fn send_udp(
        &mut self,
        id: UdpSocketId,
        burst: &mut Vec<UdpSend<Frame>>,
    ) -> SendOutcome {
        let is_train = |send: &UdpSend<Frame>| send.segment_size.is_some();
        let most = match burst.iter().any(is_train) {
            true => udp::LONGEST_TRAIN,
            false => MOST_FRAGMENTS,
        };
        self.send_with(id, burst.len() + most, |host, now, pool| {
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
        self.send_with(id, burst.len() + MOST_FRAGMENTS, |host, now, pool| {
            let outcome = host.reply_udp(now, id, burst, &mut refused, pool);
            (outcome, refused.first().copied())
        })
    }

    /// Lets `send` put datagrams into the engine that may take `frames`, or more if each is long:
    /// then at least the first one is refused only if there is no room for it.
    fn send_with(
        &mut self,
        id: UdpSocketId,
        frames: usize,
        send: impl FnOnce(
            &mut Host<Frame>,
            Instant,
            &mut Pool,
        ) -> (udp::SendOutcome, Option<DropReason>),
    ) -> SendOutcome {
        let now = self.clock.now();
        let ports = self.ports.clone();
        let egress = &mut ports.borrow_mut().egress;
        if self.host.transmit_room() < frames || egress.pool().available() < frames {
            self.look_for_room(egress);
        }
        let sender = Waiter::Socket(id);
        let room = self.host.transmit_room();
        let allowed = self.line.allowance(Some(sender), room);
        let allowed = self.share.of_datagrams(allowed);
        if allowed < room {
            self.host.set_transmit_room(allowed);
        }
        let (outcome, reason) = send(&mut self.host, now, egress.pool());
        let used = allowed.saturating_sub(self.host.transmit_room());
        if allowed < room {
            self.host.set_transmit_room(room - used);
        }
        self.share.datagrams_sent(used);
        let outcome = SendOutcome {
            accepted: outcome.accepted,
            refused: outcome.refused,
            reason,
        };
        self.line.sent(sender, used, outcome.would_block());
        // What was sent to ourselves has arrived; what waits for the device needs the actor.
        self.wake();
        outcome
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

    /// Puts whole Ethernet frames into the transmit queue; those without room stay. `sender` is
    /// the subscription that sends, if it is one.
    pub(crate) fn transmit_frames(
        &mut self,
        sender: Option<SubscriptionId>,
        frames: &mut Vec<Frame>,
    ) -> SendOutcome {
        let offered = frames.len();
        let reason = match self.closed {
            Some(_) => DropReason::SocketClosed,
            None => {
                self.accept_frames(sender.map(Waiter::Subscription), frames);
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

    fn accept_frames(&mut self, sender: Option<Waiter>, frames: &mut Vec<Frame>) {
        if self.host.transmit_room() < frames.len() {
            let ports = self.ports.clone();
            self.look_for_room(&mut ports.borrow_mut().egress);
        }
        let room = self.host.transmit_room();
        let allowed = self.share.of_datagrams(self.line.allowance(sender, room));
        let accepted = allowed.min(frames.len());
        self.share.datagrams_sent(accepted);
        let accept = frames.drain(..accepted);
        self.has_offloads |= accept.as_slice().iter().any(Frame::has_offload);
        self.host.transmit().extend(accept);
        self.host.set_transmit_room(room - accepted);
        if let Some(sender) = sender {
            self.line.sent(sender, accepted, !frames.is_empty());
        }
        self.wake();
    }

    /// An empty frame with headroom.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        self.ports.borrow_mut().egress.pool().frame()
    }

    /// As [`frame`](Self::frame), up to `count` of them.
    pub(crate) fn frames(&mut self, burst: &mut Vec<Frame>, count: usize) -> usize {
        self.ports.borrow_mut().egress.pool().frames(burst, count)
    }

    /// Notes a sender that wants to know when there is room. Returns whether it will be told.
    pub(crate) fn wait_for_room(&mut self, waiter: Waiter) -> bool {
        let is_noted = self.line.ask(waiter);
        self.wake();
        is_noted
    }

    /// Wakes the first loop of the cpu, if it sleeps.
    pub(crate) fn wake(&mut self) {
        if let Some(waker) = self.sleeper.take() {
            self.turn = self.clock.now();
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests;
