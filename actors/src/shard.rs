//! The shard: everything that one cpu has of the stack.
//!
//! It belongs to the cpu and not to an actor: the queue actor borrows it for each burst, and
//! socket handles of the same arbiter borrow it to send, so they learn the outcome at once. It
//! is never borrowed while foreign code runs: handing a message to a mailbox only queues it.

mod deliver;
mod line;
mod receive;
mod share;
mod sockets;
mod tcp;
mod transmit;
mod wakes;

pub(crate) use sockets::bind_udp;
pub(crate) use tcp::{Place, listen_tcp};
pub(crate) use wakes::{Borrowed, ShardCell, Wakes};

use std::collections::HashMap;
use std::mem::take;
use std::task::Waker;
use std::time::Duration;

use actix::Recipient;
use serde::{Deserialize, Serialize};
use virtroupe_driver::{FeatureBits, Features, Frame, Pool};
use virtroupe_wire::filter::Filter;
use virtroupe_wire::host::{Host, HostCounters};
use virtroupe_wire::placement::Placement;
use virtroupe_wire::tcp::TcpConfig;
use virtroupe_wire::udp::UdpSocketId;
use virtroupe_wire::{DropReason, Drops, Instant};

use crate::burst::Burst;
use crate::clock::Clock;
use crate::messages::{CloseReason, PacketsReceived, SocketEvent, SubscriptionId, UdpReceived};
use crate::outlet::Outlet;
use crate::peers::Peers;
use crate::ports::PortsCell;
use crate::registry::{PortRegistry, Reservation};
use crate::stats::TcpStats;
use line::Line;
use share::Share;
use tcp::Tcp;

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
    /// When the turn of the loop began that is under way or was the last.
    turn: Instant,
    features: Features,
    host: Host<Frame>,
    tcp: Tcp,
    /// Tasks that are woken once the shard is not borrowed any more.
    wakes: Wakes,
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
    share: Share,
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
    segments_added: u64,
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
    /// Whether it ends with its receiver, as no handle on this arbiter would end it.
    is_remote: bool,
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
    /// they may send, until nobody waits any more, and the message
    /// [`TransmitFrames`](crate::services::TransmitFrames), which names no sender, what is nobody's
    /// turn. The default.
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
    /// Counters of TCP.
    pub tcp: TcpStats,
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
    /// Frames that segmentation in software added: pieces of long packets, less one for each. The
    /// engines count such a packet as one frame, the ring counts its pieces.
    pub segments_added: u64,
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
    /// The settings of the TCP engine, if there is TCP.
    pub tcp: Option<TcpConfig>,
    /// Where the randomness of TCP comes from; must not be guessable.
    pub tcp_seed: u64,
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
            tcp,
            tcp_seed,
            ports,
            registry,
            patience,
            policy,
        } = parts;
        if tcp.is_some() {
            host.enable_tcp();
        }
        let capacity = ports.borrow().egress.capacity();
        let tcp = {
            let ports = ports.borrow();
            host.set_transmit_capacity(capacity);
            host.set_transmit_room(ports.egress.room());
            host.set_shortage(ports.egress.shortage());
            host.set_checksum_offload(features.bits.contains(FeatureBits::CSUM));
            host.set_fragmentation_offload(features.bits.contains(FeatureBits::HOST_UFO));
            if ports.crossings.is_some() {
                host.set_sharded();
            }
            let is_sharded = ports.crossings.is_some();
            Tcp::new(tcp, tcp_seed, &features, capacity, is_sharded)
        };
        Shard {
            cpu,
            clock,
            turn: clock.now(),
            features,
            host,
            tcp,
            wakes: Wakes::default(),
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
            share: Share::new(capacity),
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
            segments_added: 0,
        }
    }

    /// A turn of the loop begins.
    pub(crate) fn begin_turn(&mut self, now: Instant) {
        self.turn = self.turn.max(now);
        self.close_dropped(self.turn);
    }

    /// The time for calls of applications: that of the last turn, since there is another soon, which
    /// does what follows from them; or that of the clock, while the loop sleeps.
    pub(crate) fn now(&self) -> Instant {
        match self.sleeper {
            Some(_) => self.clock.now(),
            None => self.turn,
        }
    }

    /// As [`now`](Self::now), where something is to happen some time later: an application may have
    /// worked for long since the turn began.
    pub(crate) fn exact_now(&mut self) -> Instant {
        self.turn = self.turn.max(self.clock.now());
        self.turn
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
        drops += self.tcp.engine.drops();
        ShardCounters {
            host: *self.host.counters(),
            tcp: self.tcp.counters(),
            drops,
            taken: self.taken,
            delivered: self.delivered,
            undelivered: self.undelivered,
            unsent: self.unsent,
            segments_added: self.segments_added,
            sockets: self.sockets.len(),
            subscriptions: self.subscriptions.len(),
        }
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
        let deadline = self.tcp.engine.next_deadline();
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.tcp.engine.handle_timeout(now);
        }
    }

    /// When the poll loop must run again at the latest, whatever happens until then.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let parked = self.parked_since.map(|since| since + self.patience);
        let is_watching = self.line.is_waiting() || self.tcp.is_watching();
        let watch = is_watching.then(|| now + POOL_WATCH);
        let next_turn = self.has_tcp_work().then_some(now);
        let deadlines = [
            next_turn,
            self.host.next_deadline(),
            self.tcp.engine.next_deadline(),
            self.kept_deadline(),
            parked,
            watch,
        ];
        deadlines.into_iter().flatten().min()
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
        self.close_all_tcp(reason);
        self.line.clear();
        self.parked = 0;
        self.parked_since = None;
        let unsent = self.host.transmit().drain(..).count() as u64;
        self.lose_unsent(lost, unsent);
    }
}
