//! The shard: everything that one cpu has of the stack.
//!
//! It belongs to the cpu and not to an actor: the queue actor borrows it for each burst, and
//! socket handles of the same arbiter borrow it to send, so they learn the outcome at once. It
//! is never borrowed while foreign code runs: handing a message to a mailbox only queues it.

use std::cell::{RefCell, RefMut};
use std::collections::{HashMap, VecDeque};
use std::mem::take;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use actix::Recipient;
use virtroupe_driver::{Features, Frame, Pool, QueuePair, Violation};
use virtroupe_wire::filter::Filter;
use virtroupe_wire::host::{Host, HostCounters};
use virtroupe_wire::udp::{UdpSend, UdpSocketId};
use virtroupe_wire::{Buffer, DropReason, Drops, Instant};

use crate::burst::Burst;
use crate::clock::Clock;
use crate::messages::{
    BindError, CloseReason, PacketsReceived, SendOutcome, SocketEvent, SubscriptionId, UdpReceived,
};
use crate::outlet::{Offer, Outlet, Packets};
use crate::registry::{PortRegistry, Reservation};

/// Datagrams that a socket keeps until its first recipient is set.
const UNCLAIMED: usize = 256;
/// Senders woken at once when the transmit ring has room: one for each burst of this length.
const FRAMES_PER_WAITER: usize = 32;

/// Frames of the longest datagram at the usual MTU.
const LONGEST_TRAIN: usize = 46;

/// What a subscription does with the frames that match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// The subscriber gets the frame itself; the stack and later subscribers do not see it.
    Take,
    /// The subscriber gets a copy; the frame goes on. A copy is an allocation per frame.
    Copy,
}

/// One cpu's part of the stack. Applications use it through [`crate::LocalStack`].
pub struct Shard {
    cpu: u16,
    clock: Clock,
    features: Features,
    host: Host<Frame>,
    egress: Rc<RefCell<QueuePair>>,
    registry: PortRegistry,
    sockets: HashMap<UdpSocketId, Socket>,
    subscriptions: Vec<Subscription>,
    next_subscription: u64,
    /// Memory for `capture`, empty between bursts.
    kept: Vec<Frame>,
    /// Memory for replies, empty between bursts.
    replies: Vec<UdpSend<Frame>>,
    waiters: VecDeque<Waiter>,
    /// Receivers whose mailbox was full, and since when.
    parked: usize,
    parked_since: Option<Instant>,
    patience: Duration,
    /// The sleeping queue actor, to be woken when something was put into the transmit queue.
    sleeper: Option<Waker>,
    closed: Option<CloseReason>,
    drops: Drops,
    delivered: u64,
    undelivered: u64,
}

struct Socket {
    outlet: Option<Outlet<UdpReceived>>,
    events: Option<Recipient<SocketEvent>>,
    /// Whether it closes with its receiver, as no handle on this arbiter would close it.
    is_remote: bool,
    /// Frees the address when the socket goes.
    _reservation: Reservation,
}

struct Subscription {
    id: SubscriptionId,
    filter: Filter,
    capture: Capture,
    outlet: Outlet<PacketsReceived>,
    events: Option<Recipient<SocketEvent>>,
    pending: Burst<Frame>,
}

/// A sender that waits for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiter {
    Socket(UdpSocketId),
    Subscription(SubscriptionId),
}

/// Everything that a shard counts.
#[derive(Debug, Clone, Default)]
pub struct ShardCounters {
    /// Counters of the engines.
    pub host: HostCounters,
    /// Drops of the engines and of the shard.
    pub drops: Drops,
    /// Packets put into mailboxes of applications.
    pub delivered: u64,
    /// Packets that had a receiver but did not reach its mailbox: it was full, or gone.
    pub undelivered: u64,
    /// Open UDP sockets.
    pub sockets: usize,
    /// Open subscriptions.
    pub subscriptions: usize,
}

/// What a new shard is made of.
pub(crate) struct ShardParts {
    pub cpu: u16,
    pub clock: Clock,
    pub features: Features,
    pub host: Host<Frame>,
    pub egress: Rc<RefCell<QueuePair>>,
    pub registry: PortRegistry,
    pub patience: Duration,
}

impl Shard {
    pub(crate) fn new(parts: ShardParts) -> Self {
        let ShardParts {
            cpu,
            clock,
            features,
            host,
            egress,
            registry,
            patience,
        } = parts;
        Shard {
            cpu,
            clock,
            features,
            host,
            egress,
            registry,
            patience,
            sockets: HashMap::new(),
            subscriptions: Vec::new(),
            next_subscription: 0,
            kept: Vec::new(),
            replies: Vec::new(),
            waiters: VecDeque::new(),
            parked: 0,
            parked_since: None,
            sleeper: None,
            closed: None,
            drops: Drops::default(),
            delivered: 0,
            undelivered: 0,
        }
    }

    pub(crate) fn cpu(&self) -> u16 {
        self.cpu
    }

    pub(crate) fn features(&self) -> &Features {
        &self.features
    }

    pub(crate) fn counters(&self) -> ShardCounters {
        let mut drops = self.drops;
        drops += self.host.drops();
        ShardCounters {
            host: *self.host.counters(),
            drops,
            delivered: self.delivered,
            undelivered: self.undelivered,
            sockets: self.sockets.len(),
            subscriptions: self.subscriptions.len(),
        }
    }

    // ---- the queue actor's side ----

    /// Lets subscriptions and engines have a burst of received frames. Drains it.
    pub(crate) fn receive(&mut self, now: Instant, burst: &mut Vec<Frame>, pool: &mut Pool) {
        if !self.subscriptions.is_empty() {
            self.capture(burst);
        }
        if !burst.is_empty() {
            self.host.receive(now, burst, pool);
        }
    }

    fn capture(&mut self, burst: &mut Vec<Frame>) {
        if let [only] = &mut self.subscriptions[..]
            && only.capture == Capture::Take
            && only.filter == Filter::All
        {
            only.pending.append(burst);
            return;
        }
        let mut kept = take(&mut self.kept);
        'frames: for frame in burst.drain(..) {
            for subscription in &mut self.subscriptions {
                if !subscription.filter.matches(frame.head()) {
                    continue;
                }
                match subscription.capture {
                    Capture::Copy => subscription.pending.push(Frame::on_heap(&frame.to_vec())),
                    Capture::Take => {
                        subscription.pending.push(frame);
                        continue 'frames;
                    }
                }
            }
            kept.push(frame);
        }
        self.kept = std::mem::replace(burst, kept);
    }

    /// Runs the timers that are due.
    pub(crate) fn handle_timeout(&mut self, now: Instant, pool: &mut Pool) {
        if self
            .host
            .next_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.host.handle_timeout(now, pool);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let parked = self.parked_since.map(|since| since + self.patience);
        match (self.host.next_deadline(), parked) {
            (Some(timer), Some(parked)) => Some(timer.min(parked)),
            (timer, parked) => timer.or(parked),
        }
    }

    /// Puts what arrived into the mailboxes: one message for each receiver.
    pub(crate) fn dispatch(&mut self, now: Instant) {
        if self.parked > 0 {
            self.retry_parked(now);
        }
        while let Some(id) = self.host.take_ready_udp() {
            self.dispatch_socket(id);
        }
        for at in 0..self.subscriptions.len() {
            self.dispatch_subscription(at);
        }
        if self.parked > 0 && self.parked_since.is_none() {
            self.parked_since = Some(now);
        }
    }

    fn dispatch_socket(&mut self, id: UdpSocketId) {
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

    fn dispatch_subscription(&mut self, at: usize) {
        let Some(subscription) = self.subscriptions.get_mut(at) else {
            return;
        };
        if subscription.pending.is_empty() || subscription.outlet.is_parked() {
            return;
        }
        let frames = take(&mut subscription.pending);
        let message = PacketsReceived {
            subscription: subscription.id,
            frames,
        };
        let packets = message.packets();
        match subscription.outlet.offer(message) {
            Offer::Delivered => self.delivered += packets,
            Offer::Parked => self.parked += 1,
            Offer::Dropped(reason, packets) => self.lose(reason, packets),
        }
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
    fn unpark(&mut self) {
        self.parked -= 1;
        if self.parked == 0 {
            self.parked_since = None;
        }
    }

    /// Hands the transmit queue to the device and wakes senders that wait for room. Returns how
    /// many frames went. What is left then found no room in the ring.
    pub(crate) fn flush(&mut self, pair: &mut QueuePair) -> Result<usize, Violation> {
        let mut moved = 0;
        loop {
            let queue = self.host.transmit();
            let before = queue.len();
            pair.transmit(queue)?;
            let left = self.host.transmit().len();
            moved += before - left;
            self.host
                .set_transmit_room(pair.transmit_room().saturating_sub(left));
            // New room lets frames in that waited for it inside the engine.
            if self.host.transmit().len() == left {
                break;
            }
        }
        if !self.waiters.is_empty() && self.is_roomy(pair) {
            self.wake_waiters(pair.transmit_room() / FRAMES_PER_WAITER);
        }
        Ok(moved)
    }

    /// Whether there is room enough in the ring to wake those who wait for some.
    fn is_roomy(&self, pair: &QueuePair) -> bool {
        pair.transmit_room() >= usize::from(self.features.queue_size) / 2
    }

    /// Counts packets that had a receiver and did not reach it.
    fn lose(&mut self, reason: DropReason, packets: u64) {
        self.undelivered += packets;
        self.drops.add(reason, packets);
    }

    /// Counts packets that were lost outside of the engines.
    pub(crate) fn count_drop(&mut self, reason: DropReason, packets: u64) {
        self.drops.add(reason, packets);
    }

    /// Frames that wait for the device.
    pub(crate) fn has_output(&mut self) -> bool {
        !self.host.transmit().is_empty()
    }

    /// Whether somebody waits for room in the transmit ring: a sender, frames, or, as there is
    /// none at all, perhaps frames inside the engine.
    pub(crate) fn needs_room(&mut self) -> bool {
        !self.waiters.is_empty() || self.has_output() || self.host.transmit_room() == 0
    }

    /// Whether senders wait although there is room: no interrupt would wake them.
    pub(crate) fn owes_notices(&self, pair: &QueuePair) -> bool {
        !self.waiters.is_empty() && self.is_roomy(pair)
    }

    pub(crate) fn set_sleeper(&mut self, waker: Option<Waker>) {
        self.sleeper = waker;
    }

    fn wake_waiters(&mut self, count: usize) {
        let mut left = count.max(1);
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

    /// Closes every socket and subscription, and tells their owners why.
    pub(crate) fn close_all(&mut self, reason: &CloseReason) {
        self.closed = Some(reason.clone());
        let lost = match reason {
            CloseReason::Shutdown => DropReason::Shutdown,
            CloseReason::DeviceLost(_) => DropReason::DeviceLost,
        };
        for (id, socket) in take(&mut self.sockets) {
            let parked = socket.outlet.map_or(0, |mut outlet| outlet.give_up());
            self.lose(lost, parked);
            self.host.close_udp(id);
            if let Some(events) = socket.events {
                events.do_send(SocketEvent::Closed(reason.clone()));
            }
        }
        for mut subscription in take(&mut self.subscriptions) {
            let parked = subscription.outlet.give_up();
            self.lose(lost, parked + subscription.pending.len() as u64);
            if let Some(events) = subscription.events {
                events.do_send(SocketEvent::Closed(reason.clone()));
            }
        }
        self.waiters.clear();
        self.parked = 0;
        self.parked_since = None;
        let unsent = self.host.transmit().drain(..).count() as u64;
        self.drops.add(lost, unsent);
    }

    // ---- the applications' side ----

    pub(crate) fn bind_udp(&mut self, local: SocketAddr) -> Result<UdpSocketId, BindError> {
        if self.closed.is_some() {
            return Err(BindError::Stopped);
        }
        let id = self.host.bind_udp(local)?;
        let bound = self.host.udp_local(id).unwrap_or(local);
        match self.registry.reserve(bound, self.cpu) {
            Ok(reservation) => {
                let socket = Socket {
                    outlet: None,
                    events: None,
                    is_remote: false,
                    _reservation: reservation,
                };
                self.sockets.insert(id, socket);
                Ok(id)
            }
            Err(cpu) => {
                self.host.close_udp(id);
                Err(BindError::InUseOnOtherCpu { local: bound, cpu })
            }
        }
    }

    pub(crate) fn host(&mut self) -> &mut Host<Frame> {
        &mut self.host
    }

    pub(crate) fn deliver_udp(&mut self, id: UdpSocketId, recipient: Recipient<UdpReceived>) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            if let Some(mut old) = socket.outlet.replace(Outlet::new(recipient))
                && old.is_parked()
            {
                self.unpark();
                self.lose(DropReason::ReceiverGone, old.give_up());
            }
            // What came before there was a recipient. If it is parked, the actor must not sleep.
            self.dispatch_socket(id);
            self.wake();
        }
    }

    /// Closes a socket when it finds its receiver gone: for receivers on other arbiters.
    pub(crate) fn close_with_receiver(&mut self, id: UdpSocketId) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.is_remote = true;
        }
    }

    pub(crate) fn events_udp(&mut self, id: UdpSocketId, recipient: Recipient<SocketEvent>) {
        if let Some(reason) = &self.closed {
            recipient.do_send(SocketEvent::Closed(reason.clone()));
        } else if let Some(socket) = self.sockets.get_mut(&id) {
            socket.events = Some(recipient);
        }
    }

    pub(crate) fn close_udp(&mut self, id: UdpSocketId) {
        if let Some(socket) = self.sockets.remove(&id) {
            if let Some(mut outlet) = socket.outlet.filter(Outlet::is_parked) {
                self.unpark();
                self.lose(DropReason::SocketClosed, outlet.give_up());
            }
            self.waiters.retain(|waiter| *waiter != Waiter::Socket(id));
            self.host.close_udp(id);
        }
    }

    pub(crate) fn send_udp(
        &mut self,
        id: UdpSocketId,
        burst: &mut Vec<UdpSend<Frame>>,
    ) -> SendOutcome {
        let now = self.clock.now();
        let egress = self.egress.clone();
        let mut pair = egress.borrow_mut();
        if self.host.transmit_room() < burst.len() + LONGEST_TRAIN {
            self.look_for_room(&mut pair);
        }
        let outcome = self.host.send_udp(now, id, burst, pair.pool());
        // What was sent to ourselves has arrived; what waits for the device needs the actor.
        self.wake();
        SendOutcome {
            accepted: outcome.accepted,
            refused: outcome.refused,
            reason: burst.first().and_then(|send| send.refused),
        }
    }

    /// Looks whether the device has sent something meanwhile. A violation is found again, and
    /// dealt with, by the poll loop.
    fn look_for_room(&mut self, pair: &mut QueuePair) {
        if self.closed.is_none() {
            let _ = pair.reclaim();
        }
        let waiting = self.host.transmit().len();
        self.host
            .set_transmit_room(pair.transmit_room().saturating_sub(waiting));
    }

    /// An empty vector for replies, to be filled while the shard is not borrowed.
    pub(crate) fn lend_replies(&mut self) -> Vec<UdpSend<Frame>> {
        take(&mut self.replies)
    }

    /// Takes that vector back for the next replies.
    pub(crate) fn take_back_replies(&mut self, replies: Vec<UdpSend<Frame>>) {
        self.replies = replies;
    }

    pub(crate) fn subscribe(
        &mut self,
        filter: Filter,
        capture: Capture,
        recipient: Recipient<PacketsReceived>,
    ) -> SubscriptionId {
        let id = SubscriptionId(self.next_subscription);
        self.next_subscription += 1;
        self.subscriptions.push(Subscription {
            id,
            filter,
            capture,
            outlet: Outlet::new(recipient),
            events: None,
            pending: Burst::new(),
        });
        id
    }

    pub(crate) fn events_subscription(
        &mut self,
        id: SubscriptionId,
        recipient: Recipient<SocketEvent>,
    ) {
        if let Some(reason) = &self.closed {
            recipient.do_send(SocketEvent::Closed(reason.clone()));
        } else if let Some(open) = self.subscriptions.iter_mut().find(|open| open.id == id) {
            open.events = Some(recipient);
        }
    }

    pub(crate) fn unsubscribe(&mut self, id: SubscriptionId) {
        if let Some(at) = self.subscriptions.iter().position(|open| open.id == id) {
            let mut subscription = self.subscriptions.remove(at);
            if subscription.outlet.is_parked() {
                self.unpark();
            }
            let lost = subscription.outlet.give_up() + subscription.pending.len() as u64;
            self.lose(DropReason::SocketClosed, lost);
            self.waiters
                .retain(|waiter| *waiter != Waiter::Subscription(id));
        }
    }

    /// Puts whole Ethernet frames into the transmit queue; those without room stay.
    pub(crate) fn transmit_frames(&mut self, frames: &mut Vec<Frame>) -> SendOutcome {
        let offered = frames.len();
        let reason = match self.closed {
            Some(_) => DropReason::SocketClosed,
            None => {
                self.accept_frames(frames);
                DropReason::RingFull
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
            let egress = self.egress.clone();
            self.look_for_room(&mut egress.borrow_mut());
        }
        let room = self.host.transmit_room();
        let accepted = room.min(frames.len());
        self.host.transmit().extend(frames.drain(..accepted));
        self.host.set_transmit_room(room - accepted);
        self.wake();
    }

    /// An empty frame with headroom.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        self.egress.borrow_mut().pool().frame()
    }

    pub(crate) fn wait_for_room(&mut self, waiter: Waiter) {
        if !self.waiters.contains(&waiter) {
            self.waiters.push_back(waiter);
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.sleeper.take() {
            waker.wake();
        }
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

/// A shared handle to the shard of the current arbiter.
#[derive(Clone)]
pub(crate) struct ShardCell(Rc<RefCell<Shard>>);

impl ShardCell {
    pub(crate) fn new(shard: Shard) -> Self {
        ShardCell(Rc::new(RefCell::new(shard)))
    }

    /// Borrows the shard. No method of the shard calls foreign code, so it is never borrowed
    /// twice.
    pub(crate) fn borrow(&self) -> RefMut<'_, Shard> {
        self.0.borrow_mut()
    }

    /// Runs `work` on the shard unless it is borrowed: for destructors, which must not panic.
    pub(crate) fn try_with(&self, work: impl FnOnce(&mut Shard)) {
        if let Ok(mut shard) = self.0.try_borrow_mut() {
            work(&mut shard);
        }
    }
}
