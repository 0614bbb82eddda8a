//! From sockets and subscriptions into the mailboxes of their receivers, and what happens when
//! those are full.

use std::mem::take;

use virtroupe_wire::udp::UdpSocketId;
use virtroupe_wire::{DropReason, Drops, Instant};

use super::Shard;
use crate::burst::Burst;
use crate::messages::{PacketsReceived, SocketEvent, SubscriptionId, UdpReceived};
use crate::outlet::{Offer, Outlet, Packets};

/// Datagrams that a socket keeps until its first recipient is set.
const UNCLAIMED: usize = 256;

impl Shard {
    /// Puts what arrived into the mailboxes: one message for each receiver.
    pub(crate) fn dispatch(&mut self, now: Instant) {
        if self.parked > 0 {
            self.retry_parked(now);
        }
        while let Some(id) = self.host.take_ready_udp() {
            self.dispatch_socket(id);
        }
        self.dispatch_subscriptions();
        self.dispatch_tcp();
        self.review_kept(now);
        if self.parked > 0 && self.parked_since.is_none() {
            self.parked_since = Some(now);
        }
    }

    pub(super) fn dispatch_socket(&mut self, id: UdpSocketId) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        if let Some(errors) = self.host.udp_errors(id) {
            for error in errors.drain(..) {
                // Peers cause these, so the mailbox's bound holds: what finds it full is lost.
                if let Some(events) = &socket.events {
                    let _ = events.try_send(SocketEvent::Failed(error));
                }
            }
        }
        let Some(received) = self.host.udp_received(id) else {
            return;
        };
        let Some(outlet) = &mut socket.outlet else {
            if received.len() > UNCLAIMED {
                let excess = received.drain(UNCLAIMED..).count() as u64;
                self.lose(DropReason::MailboxFull, excess);
            }
            return;
        };
        if received.is_empty() || outlet.is_parked() {
            return;
        }
        let mut datagrams = Burst::new();
        std::mem::swap(&mut *datagrams, received);
        let message = UdpReceived {
            socket: id,
            datagrams,
        };
        let packets = message.packets();
        let is_remote = socket.is_remote;
        match outlet.offer(message) {
            Offer::Delivered => self.delivered += packets,
            Offer::Parked => self.parked += 1,
            Offer::Dropped(reason, packets) => {
                self.lose(reason, packets);
                if is_remote && reason == DropReason::ReceiverGone {
                    self.close_udp(id);
                }
            }
        }
    }

    fn dispatch_subscriptions(&mut self) {
        let mut gone = None;
        for at in 0..self.subscriptions.len() {
            gone = gone.or(self.dispatch_subscription(at));
        }
        // Another is found when it is offered something next.
        if let Some(id) = gone {
            self.unsubscribe(id);
        }
    }

    /// Returns the name of the subscription if it ends with its receiver, and that is gone.
    fn dispatch_subscription(&mut self, at: usize) -> Option<SubscriptionId> {
        let subscription = self.subscriptions.get_mut(at)?;
        if subscription.pending.is_empty() || subscription.outlet.is_parked() {
            return None;
        }
        let frames = take(&mut subscription.pending);
        let (id, is_remote) = (subscription.id, subscription.is_remote);
        let message = PacketsReceived {
            subscription: id,
            frames,
        };
        let packets = message.packets();
        match subscription.outlet.offer(message) {
            Offer::Delivered => self.delivered += packets,
            Offer::Parked => self.parked += 1,
            Offer::Dropped(reason, packets) => {
                self.lose(reason, packets);
                return (is_remote && reason == DropReason::ReceiverGone).then_some(id);
            }
        }
        None
    }

    /// Whether the queue should not be harvested now, because a receiver has no room.
    pub(crate) fn is_blocked(&self) -> bool {
        self.parked > 0
    }

    /// Offers the parked messages again, or gives them up when the patience has run out.
    fn retry_parked(&mut self, now: Instant) {
        let give_up = self
            .parked_since
            .is_some_and(|since| now.since(since) >= self.patience);
        let sockets = self
            .sockets
            .values_mut()
            .filter_map(|socket| socket.outlet.as_mut());
        let mut tally = Tally::default();
        for outlet in sockets.filter(|outlet| outlet.is_parked()) {
            tally.retry(outlet, give_up);
        }
        for subscription in self
            .subscriptions
            .iter_mut()
            .filter(|open| open.outlet.is_parked())
        {
            tally.retry(&mut subscription.outlet, give_up);
        }
        self.delivered += tally.delivered;
        self.drops += &tally.drops;
        self.undelivered += tally.drops.total();
        let resolved = self.parked - tally.parked;
        self.parked = tally.parked;
        if self.parked == 0 {
            self.parked_since = None;
        }
        if resolved > 0 {
            // What looped back to ourselves meanwhile.
            for id in self.sockets.keys().copied().collect::<Vec<_>>() {
                self.dispatch_socket(id);
            }
        }
    }

    /// A receiver with a parked message is gone.
    pub(super) fn unpark(&mut self) {
        self.parked -= 1;
        if self.parked == 0 {
            self.parked_since = None;
        }
    }

    /// Counts packets that had a receiver and did not reach it.
    pub(super) fn lose(&mut self, reason: DropReason, packets: u64) {
        self.undelivered += packets;
        self.drops.add(reason, packets);
    }
}

/// What became of parked messages.
#[derive(Default)]
struct Tally {
    delivered: u64,
    parked: usize,
    drops: Drops,
}

impl Tally {
    fn retry<M: Packets>(&mut self, outlet: &mut Outlet<M>, give_up: bool) {
        let packets = outlet.parked_packets();
        match outlet.retry() {
            Offer::Delivered => self.delivered += packets,
            Offer::Dropped(reason, packets) => self.drops.add(reason, packets),
            Offer::Parked if give_up => self.drops.add(DropReason::MailboxFull, outlet.give_up()),
            Offer::Parked => self.parked += 1,
        }
    }
}
