//! The shard: everything that one cpu has of the stack.
//!
//! It belongs to the cpu and not to an actor: the queue actor borrows it for each burst, and
//! socket handles of the same arbiter borrow it to send, so they learn the outcome at once. It
//! is never borrowed while foreign code runs: handing a message to a mailbox only queues it.

mod line;
mod sockets;
mod transmit;

pub(crate) use sockets::bind_udp;

use std::cell::{RefCell, RefMut};
use std::collections::HashMap;
use std::mem::take;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use actix::Recipient;
use serde::{Deserialize, Serialize};
use virtroupe_driver::{Features, Frame, Pool};
use virtroupe_wire::ethernet::EthernetHeader;
use virtroupe_wire::filter::Filter;
use virtroupe_wire::host::{Host, HostCounters, LOOPED, REASSEMBLED};
use virtroupe_wire::placement::Placement;
use virtroupe_wire::udp::UdpSocketId;
use virtroupe_wire::{Buffer, DropReason, Drops, Instant};

use crate::burst::Burst;
use crate::clock::Clock;
use crate::crossings::{Crossings, Heard};
use crate::messages::{CloseReason, PacketsReceived, SocketEvent, SubscriptionId, UdpReceived};
use crate::outlet::{Offer, Outlet, Packets};
use crate::peers::Peers;
use crate::ports::PortsCell;
use crate::registry::{PortRegistry, Reservation};
use line::Line;

/// Datagrams that a socket keeps until its first recipient is set.
const UNCLAIMED: usize = 256;
/// How often senders that wait for packet memory are looked after while nothing else happens:
/// nobody tells the stack when applications let go of packets.
const POOL_WATCH: Duration = Duration::from_millis(1);

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
    ports: PortsCell,
    registry: PortRegistry,
    peers: Peers,
    /// How many neighbours the engines knew of when the others were last told.
    neighbors_learned: u64,
    sockets: HashMap<UdpSocketId, Socket>,
    subscriptions: Vec<Subscription>,
    next_subscription: u64,
    /// Memory for `capture` and `hand_over`, empty between bursts.
    kept: Vec<Frame>,
    line: Line,
    /// Whether an application sent a whole frame that asks for an offload since the last flush.
    has_offloads: bool,
    /// Receivers whose mailbox was full, and since when.
    parked: usize,
    parked_since: Option<Instant>,
    patience: Duration,
    /// The sleeping queue actor, to be woken when something was put into the transmit queue.
    sleeper: Option<Waker>,
    closed: Option<CloseReason>,
    drops: Drops,
    taken: u64,
    delivered: u64,
    undelivered: u64,
    unsent: u64,
}

struct Socket {
    outlet: Option<Outlet<UdpReceived>>,
    events: Option<Recipient<SocketEvent>>,
    /// Whether it closes with its receiver, as no handle on this arbiter would close it.
    is_remote: bool,
    /// Frees the address when the socket goes.
    reservation: Reservation,
}

struct Subscription {
    id: SubscriptionId,
    filter: Filter,
    capture: Capture,
    outlet: Outlet<PacketsReceived>,
    events: Option<Recipient<SocketEvent>>,
    pending: Burst<Frame>,
}

/// Which of the senders that were refused and [asked](crate::UdpSocket::notify_when_ready) are
/// told when there is room again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TxReadyPolicy {
    /// Only the first that asked since the last notice; the others must try again by themselves.
    First,
    /// All at once: they compete for what room there is.
    All,
    /// In the order in which they were refused, as many as there is room for 128 frames each; only
    /// they may send, until nobody waits any more. The default.
    #[default]
    Fair,
}

/// A sender that waits for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// Frames that subscriptions took, so that the engines did not see them.
    pub taken: u64,
    /// Packets put into mailboxes of applications.
    pub delivered: u64,
    /// Packets that had a receiver but did not reach its mailbox: it was full, or gone.
    pub undelivered: u64,
    /// Frames that the engines put out and that were dropped before the device had them: what
    /// waited when the cpu stopped or was lost, and what could not be segmented.
    pub unsent: u64,
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
    pub ports: PortsCell,
    pub registry: PortRegistry,
    pub patience: Duration,
    pub policy: TxReadyPolicy,
}

impl Shard {
    pub(crate) fn new(parts: ShardParts) -> Self {
        let ShardParts {
            cpu,
            clock,
            features,
            mut host,
            ports,
            registry,
            patience,
            policy,
        } = parts;
        {
            let ports = ports.borrow();
            host.set_transmit_capacity(ports.egress.capacity());
            host.set_transmit_room(ports.egress.room());
            host.set_shortage(ports.egress.shortage());
            if ports.crossings.is_some() {
                host.set_sharded();
            }
        }
        Shard {
            cpu,
            clock,
            features,
            host,
            ports,
            registry,
            peers: Peers::default(),
            neighbors_learned: 0,
            patience,
            sockets: HashMap::new(),
            subscriptions: Vec::new(),
            next_subscription: 0,
            kept: Vec::new(),
            line: Line::new(policy),
            has_offloads: false,
            parked: 0,
            parked_since: None,
            sleeper: None,
            closed: None,
            drops: Drops::default(),
            taken: 0,
            delivered: 0,
            undelivered: 0,
            unsent: 0,
        }
    }

    pub(crate) fn cpu(&self) -> u16 {
        self.cpu
    }

    pub(crate) fn features(&self) -> &Features {
        &self.features
    }

    /// The tables of placement as this cpu knows them; `None` if it is the only one.
    pub(crate) fn placement(&self) -> Option<Placement> {
        let ports = self.ports.borrow();
        let crossings = ports.crossings.as_ref();
        crossings.map(|crossings| crossings.placement.clone())
    }

    pub(crate) fn counters(&self) -> ShardCounters {
        let mut drops = self.drops;
        drops += self.host.drops();
        ShardCounters {
            host: *self.host.counters(),
            drops,
            taken: self.taken,
            delivered: self.delivered,
            undelivered: self.undelivered,
            unsent: self.unsent,
            sockets: self.sockets.len(),
            subscriptions: self.subscriptions.len(),
        }
    }

    /// Lets subscriptions and engines have a burst of received frames. Drains it.
    pub(crate) fn receive(&mut self, now: Instant, burst: &mut Vec<Frame>, pool: &mut Pool) {
        if !self.subscriptions.is_empty() {
            self.capture(burst, false);
        }
        if !burst.is_empty() {
            burst.iter().for_each(Frame::prefetch);
            self.host.receive(now, burst, pool);
        }
    }

    /// As [`receive`](Self::receive), for frames that other cpus received for this one.
    pub(crate) fn receive_handed_over(
        &mut self,
        now: Instant,
        burst: &mut Vec<Frame>,
        pool: &mut Pool,
    ) {
        if !self.subscriptions.is_empty() {
            self.capture(burst, true);
        }
        if !burst.is_empty() {
            burst.iter().for_each(Frame::prefetch);
            self.host.receive_handed_over(now, burst, pool);
        }
    }

    /// Hands what the engines have for other cpus, datagrams put together from fragments and
    /// packets to ourselves, to the cpus that own them.
    pub(crate) fn hand_over(&mut self, now: Instant, crossings: &mut Crossings, pool: &mut Pool) {
        while self.host.has_handed_over() {
            let mut own = take(&mut self.kept);
            while let Some(frame) = self.host.take_handed_over() {
                own.extend(crossings.route(frame));
            }
            // What is ours may make the engines answer, but an answer is not answered again.
            self.host.receive_handed_over(now, &mut own, pool);
            self.kept = own;
            crossings.flush(now);
        }
    }

    /// Lets subscriptions have what matches. Frames from other cpus may be such that no device
    /// delivered; those pass by.
    fn capture(&mut self, burst: &mut Vec<Frame>, from_cpu: bool) {
        if let [only] = &mut self.subscriptions[..]
            && only.capture == Capture::Take
            && only.filter == Filter::All
            && !from_cpu
        {
            self.taken += burst.len() as u64;
            only.pending.append(burst);
            return;
        }
        let mut kept = take(&mut self.kept);
        'frames: for frame in burst.drain(..) {
            if from_cpu && is_made_by_engines(&frame) {
                kept.push(frame);
                continue;
            }
            for subscription in &mut self.subscriptions {
                if !subscription.filter.matches(frame.head()) {
                    continue;
                }
                match subscription.capture {
                    Capture::Copy => subscription.pending.push(Frame::on_heap(&frame.to_vec())),
                    Capture::Take => {
                        subscription.pending.push(frame);
                        self.taken += 1;
                        continue 'frames;
                    }
                }
            }
            kept.push(frame);
        }
        self.kept = std::mem::replace(burst, kept);
    }

    /// Lets the other cpus hear what neighbours said in the burst that was just received: all
    /// answers, and questions if the engines learned from them.
    pub(crate) fn share_neighbors(&mut self, heard: &mut Heard) {
        let learned = self.host.counters().neighbors_learned;
        let is_new = learned != std::mem::replace(&mut self.neighbors_learned, learned);
        let answers = heard.answers.drain(..);
        let questions = heard.questions.drain(..).filter(|_| is_new);
        for frame in answers.chain(questions) {
            self.peers.share(&frame);
        }
    }

    /// Lets the engines hear what a neighbour told another cpu.
    pub(crate) fn hear_neighbor(&mut self, now: Instant, frame: &[u8]) {
        self.host.hear_neighbor(now, frame);
        self.wake();
    }

    /// Whether the engines have something for other cpus.
    pub(crate) fn has_handed_over(&self) -> bool {
        self.host.has_handed_over()
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

    /// When the poll loop must run again at the latest, whatever happens until then.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let parked = self.parked_since.map(|since| since + self.patience);
        let waiters = self.line.is_waiting().then(|| now + POOL_WATCH);
        [self.host.next_deadline(), parked, waiters]
            .into_iter()
            .flatten()
            .min()
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

    /// Counts packets that had a receiver and did not reach it.
    fn lose(&mut self, reason: DropReason, packets: u64) {
        self.undelivered += packets;
        self.drops.add(reason, packets);
    }

    /// Counts frames that the engines put out, or other cpus, and that were not sent.
    pub(crate) fn lose_unsent(&mut self, reason: DropReason, frames: u64) {
        self.unsent += frames;
        self.drops.add(reason, frames);
    }

    /// Counts packets that were lost outside of the engines.
    pub(crate) fn count_drop(&mut self, reason: DropReason, packets: u64) {
        self.drops.add(reason, packets);
    }

    /// Closes every socket and subscription, and tells their owners why.
    pub(crate) fn close_all(&mut self, reason: &CloseReason) {
        self.closed = Some(reason.clone());
        let lost = DropReason::from(reason);
        for (id, socket) in take(&mut self.sockets) {
            let parked = socket.outlet.map_or(0, |mut outlet| outlet.give_up());
            self.lose(lost, parked);
            self.host.close_udp(id);
            if let Some(events) = socket.events {
                events.do_send(SocketEvent::Closed(reason.clone()));
            }
            if matches!(reason, CloseReason::CpuLost(_)) {
                // The others go on, and whoever shares the address gets the flows.
                self.peers.retract(socket.reservation, self.cpu);
            }
        }
        for mut subscription in take(&mut self.subscriptions) {
            let parked = subscription.outlet.give_up();
            self.lose(lost, parked + subscription.pending.len() as u64);
            if let Some(events) = subscription.events {
                events.do_send(SocketEvent::Closed(reason.clone()));
            }
        }
        self.line.clear();
        self.parked = 0;
        self.parked_since = None;
        let unsent = self.host.transmit().drain(..).count() as u64;
        self.lose_unsent(lost, unsent);
    }
}

/// Whether the frame was never on a link.
fn is_made_by_engines(frame: &Frame) -> bool {
    EthernetHeader::parse(frame.head())
        .is_some_and(|header| matches!(header.ethertype, LOOPED | REASSEMBLED))
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
