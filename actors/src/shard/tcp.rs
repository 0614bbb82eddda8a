//! TCP in the shard: the engine beside the host, and the sockets in front of it.
//!
//! ```text
//! turn   exchange_tcp   segments from the host into the engine, segments from it into the host
//!        dispatch_tcp   events of the engine -> wakers of streams, messages to actors
//! calls  listeners      listen, accept, and what the other cpus know of it
//!        acceptors      the tasks that wait at a listener
//!        kept           connections that stay when others listen at their port, too
//!        connections    connect, close, options
//!        transfer       read and write: frames out of the engine, chunks into it
//!        short          writers that wait for packet memory
//! ```
//!
//! A call puts something into the engine and wakes the loop of the cpu; what is to be sent leaves
//! at its next turn, so that many small writes share one burst. Nothing here visits all
//! connections, but draining: the engine names those that have something to tell.

mod acceptors;
mod connections;
mod deliver;
mod drain;
mod ids;
mod kept;
mod listeners;
mod short;
mod transfer;

pub(crate) use acceptors::Place;
pub(crate) use listeners::listen_tcp;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::task::Waker;

use actix::Recipient;
use virtroupe_driver::{Chunk, FeatureBits, Features, Frame};
use virtroupe_wire::Instant;
use virtroupe_wire::host::exchange;
use virtroupe_wire::placement::{Binding, Flow};
use virtroupe_wire::tcp::{ConnectionId, ListenerId, Outgoing, TcpConfig, TcpEngine};

use super::Shard;
use crate::egress::Egress;
use crate::peers::TcpPort;
use crate::registry::Reservation;
use crate::stats::TcpStats;
use crate::tcp::{TcpAccepted, TcpEvent, TcpReceived, Unclaimed};
use acceptors::Acceptors;
use drain::Drain;
use ids::IdMap;
use short::Short;

/// Free slots below which TCP sends nothing: the driver needs some itself.
const LEAST_FREE: usize = 16;

/// Segments into which one is split at most on its way out.
const MOST_SEGMENTS: usize = 64;

/// Payload bytes of a slot, behind headers.
const SLOT_PAYLOAD: usize = 2048;

/// Payload bytes of a piece of the least length: 536 (RFC 9293, section 3.7.1), less options.
const LEAST_SEGMENT: usize = 496;

/// With these a device cuts every long segment.
const CUTS_ALL: FeatureBits = FeatureBits(
    FeatureBits::HOST_TSO4.0
        | FeatureBits::HOST_TSO6.0
        | FeatureBits::HOST_ECN.0
        | FeatureBits::INDIRECT_DESC.0,
);

/// TCP on one cpu.
pub(super) struct Tcp {
    pub(super) engine: TcpEngine<Frame, Chunk>,
    outgoing: Outgoing<Chunk>,
    is_enabled: bool,
    ephemeral_ports: (u16, u16),
    sockets: IdMap<ConnectionId, TcpSocket>,
    /// How many of these have a [`Delivery`].
    deliveries: usize,
    listeners: IdMap<ListenerId, Listener>,
    /// What the listeners of this cpu are bound to, as the other cpus know it. Empty if there are
    /// none.
    bindings: HashMap<Binding, Bound>,
    /// Where connections stay that would be others' if they began now.
    kept: HashSet<TcpPort>,
    /// When to look which of these are over.
    review_at: Option<Instant>,
    /// Which of these are, as the engine has told in this turn.
    over: Vec<Flow>,
    /// Streams that were dropped while open since the last turn of the loop. The next begins with
    /// closing them: the time to close counts from then, so that the clock is not read for each.
    dropped: Vec<ConnectionId>,
    /// What is kept for connections that were closed, until they are over.
    closing: IdMap<ConnectionId, Kept>,
    /// Whose receiver had no room.
    full: VecDeque<Blocked>,
    /// Writers that wait for packet memory, in their order.
    short: Short,
    /// What is being written; empty between calls.
    chunks: Vec<Chunk>,
    /// Streams that wrote since the last turn of the loop.
    written: Vec<ConnectionId>,
    /// Gets the names of accepted connections that were dropped.
    unclaimed: Option<Recipient<Unclaimed>>,
    drain: Option<Drain>,
    /// Bytes that were offered for sending and not taken.
    pub(super) refused_bytes: u64,
    /// Bytes whose receiver was gone.
    pub(super) undelivered_bytes: u64,
}

/// One connection that the application has.
#[derive(Default)]
struct TcpSocket {
    /// Waits for data or the end.
    reader: Option<Waker>,
    /// Waits for room, or for the connection to be open.
    writer: Option<Waker>,
    delivery: Option<Box<Delivery>>,
    kept: Kept,
    flags: Flags,
    /// Bytes that a stream wrote since the last turn of the loop.
    written: usize,
}

#[derive(Default)]
struct Flags {
    /// Whether the writer waits for the next turn.
    is_ahead: bool,
    /// Whether it is in the list `short`.
    is_short: bool,
    /// Whether it is in the list `full`.
    is_full: bool,
    /// Whether a notice of room is owed.
    owes_notice: bool,
    /// Whether the peer has acknowledged our end, or the connection is over.
    is_finished: bool,
    /// Whether the connection is over.
    is_over: bool,
}

/// Where the bytes and events of a connection go.
#[derive(Default)]
struct Delivery {
    received: Option<Recipient<TcpReceived>>,
    /// What found the mailbox full.
    parked: Option<TcpReceived>,
    events: Option<Recipient<TcpEvent>>,
    /// Whether it closes with its receiver, as no handle on this arbiter would close it.
    is_remote: bool,
    told_end: bool,
    told_over: bool,
}

/// What a connection holds so that its segments come to this cpu.
#[derive(Default)]
struct Kept {
    /// The binding of the listener that accepted it.
    binding: Option<Binding>,
    /// The port that it was connected from.
    reservation: Option<Box<Reservation>>,
    /// What the other cpus were told that stays here. Set when it is closed.
    flow: Option<Box<Flow>>,
}

impl Kept {
    /// Whether there is nothing to let go of.
    fn is_empty(&self) -> bool {
        self.binding.is_none() && self.reservation.is_none() && self.flow.is_none()
    }
}

/// One listener.
struct Listener {
    local: SocketAddr,
    acceptors: Acceptors,
    recipient: Option<Recipient<TcpAccepted>>,
    /// What found the mailbox full.
    parked: Option<TcpAccepted>,
    is_full: bool,
    /// Whether it closes with its receiver.
    is_remote: bool,
    /// Whether the stack ended it, and its handle is to learn that.
    is_ended: bool,
}

/// A binding of this cpu. It ends when neither a listener nor a connection needs it.
struct Bound {
    reservation: Reservation,
    has_listener: bool,
    connections: usize,
}

/// Whose receiver had no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
    Connection(ConnectionId),
    Listener(ListenerId),
}

impl Tcp {
    /// TCP that knows nobody. `segments` is how many frames the transmit queue ever takes.
    pub(super) fn new(
        config: Option<TcpConfig>,
        seed: u64,
        features: &Features,
        segments: usize,
        is_sharded: bool,
    ) -> Self {
        let is_enabled = config.is_some();
        let config = config.unwrap_or_default();
        let ephemeral_ports = config.ephemeral_ports;
        let mut engine = TcpEngine::new(config, seed);
        if features.bits.contains(FeatureBits::HOST_TSO4) {
            let mut bytes = SLOT_PAYLOAD * segments.min(MOST_SEGMENTS);
            if !features.bits.contains(CUTS_ALL) {
                // What the device does not cut goes in pieces, which half of the queue must hold.
                bytes = bytes.min(LEAST_SEGMENT * (segments / 2));
            }
            engine.set_most_payload(bytes as u32);
        }
        if is_sharded {
            engine.tell_ends();
        }
        Tcp {
            engine,
            outgoing: Outgoing::new(),
            is_enabled,
            ephemeral_ports,
            sockets: IdMap::default(),
            deliveries: 0,
            listeners: IdMap::default(),
            bindings: HashMap::new(),
            kept: HashSet::new(),
            review_at: None,
            over: Vec::new(),
            dropped: Vec::new(),
            closing: IdMap::default(),
            full: VecDeque::new(),
            short: Short::new(),
            chunks: Vec::new(),
            written: Vec::new(),
            unclaimed: None,
            drain: None,
            refused_bytes: 0,
            undelivered_bytes: 0,
        }
    }

    /// Whether something must be looked after while nothing happens: nobody tells the stack when
    /// mailboxes drain or packet memory comes back.
    pub(super) fn is_watching(&self) -> bool {
        !self.full.is_empty() || !self.short.is_empty() || self.engine.has_output()
    }

    /// What is counted. Visits all connections.
    pub(super) fn counters(&self) -> TcpStats {
        TcpStats {
            engine: *self.engine.counters(),
            usage: self.engine.usage(),
            drops: *self.engine.drops(),
            states: self.engine.state_counts().collect(),
            sockets: self.sockets.len(),
            refused_bytes: self.refused_bytes,
            undelivered_bytes: self.undelivered_bytes,
        }
    }
}

impl Shard {
    /// Lets host and engine have what they have for each other, as far as there is room.
    #[inline]
    pub(crate) fn exchange_tcp(&mut self, egress: &mut Egress) {
        if self.tcp.engine.has_output() || self.host.has_for_tcp() {
            self.exchange_now(egress);
        }
    }

    fn exchange_now(&mut self, egress: &mut Egress) {
        let now = self.now();
        let room = self.host.transmit_room();
        let has_memory = egress.free_slots(LEAST_FREE) >= LEAST_FREE;
        let is_awaited = self.line.is_busy();
        let allowed = match has_memory {
            true => self
                .share
                .of_tcp(self.line.allowance(None, room), is_awaited),
            false => 0,
        };
        if allowed < room {
            self.host.set_transmit_room(allowed);
        }
        let Tcp {
            engine, outgoing, ..
        } = &mut self.tcp;
        exchange(now, &mut self.host, engine, outgoing, egress.pool());
        let used = allowed.saturating_sub(self.host.transmit_room());
        if allowed < room {
            self.host.set_transmit_room(room - used);
        }
        let is_short = has_memory && self.tcp.engine.has_output();
        self.share.tcp_sent(used, is_short);
    }

    /// Whether TCP has something to tell applications, or to be told by the host: the turn is not
    /// the last one.
    pub(crate) fn has_tcp_work(&self) -> bool {
        let tcp = &self.tcp;
        tcp.engine.has_events() || self.host.has_for_tcp() || !tcp.dropped.is_empty()
    }

    /// Sets who gets the names of accepted connections that were dropped.
    pub(crate) fn set_unclaimed(&mut self, recipient: Recipient<Unclaimed>) {
        self.tcp.unclaimed = Some(recipient);
    }
}
