//! The engine: all connections of one shard, and the tables in which they are found.

mod agenda;
mod application;
mod arrival;
mod handshake;
mod settle;

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;

use agenda::Agenda;

use super::config::{TcpConfig, TcpOptions};
use super::connection::{Connection, Context, Owner};
use super::counters::{TcpCounters, TcpUsage};
use super::flow::Flow;
use super::header::TcpHeader;
use super::listeners::Listeners;
use super::payload::SharedPayload;
use super::records::{HalfOpen, TimeWait};
use super::secrets::Secrets;
use super::segment::{Outgoing, TcpIcmp, TcpIcmpKind};
use super::slab::{Key, Slab};
use super::spare::Spare;
use super::state::{Readiness, TcpError, TcpState};
use super::wheel::Wheel;
use crate::buffer::Buffer;
use crate::drops::Drops;
use crate::time::Instant;

/// Names a connection of one engine. A name is not used again after the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub(crate) Key);

/// Names a listener of one engine. A name is not used again after the listener is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub(crate) Key);

/// Something that an application waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpEvent {
    /// Something happened to a connection.
    Connection(ConnectionId, Readiness),
    /// Connections can be accepted, until [`accept`](TcpEngine::accept) returns none.
    Acceptable(ListenerId),
    /// A connection that the application has closed is over, but for TIME-WAIT. Told only if
    /// [asked for](TcpEngine::tell_ends).
    Ended(ConnectionId),
}

/// Where a flow is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Connection(u32),
    HalfOpen(u32),
    TimeWait(u32),
}

/// Who is named in the event list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Connection(u32),
    Listener(u32),
    Ended(Key),
}

/// An answer outside of a connection.
#[derive(Debug, Clone, Copy)]
struct Reply {
    flow: Flow,
    header: TcpHeader,
    dscp_ecn: u8,
}

/// Segments of one flow, side by side in a burst.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Which segment of the burst is the first.
    first: usize,
    /// Of its flow.
    hash: u64,
    /// Its connection, if there is one.
    index: Option<u32>,
}

/// The TCP engine of one shard. See the [module](super) for how it is driven.
///
/// `B` is the memory in which payload arrives, `S` that in which it leaves.
#[derive(Debug)]
pub struct TcpEngine<B, S> {
    config: TcpConfig,
    secrets: Secrets,
    connections: Slab<Connection<B, S>>,
    half_open: Slab<HalfOpen>,
    time_wait: Slab<TimeWait>,
    listeners: Listeners,
    /// Every flow, by its keyed hash.
    table: HashTable<Entry>,
    half_open_timers: Wheel,
    time_wait_timers: Wheel,
    /// Memory of connections that have ended, for those that begin.
    spare: Spare<B, S>,
    agenda: Agenda,
    replies: VecDeque<Reply>,
    /// Bytes of memory that received data hold.
    memory: usize,
    /// The connection that was found last: a burst often is of one flow.
    last_found: u32,
    /// The runs of a burst, while it is handled; kept for its memory.
    runs: Vec<Run>,
    /// The settings of the connection that was asked for last.
    last_options: Option<Arc<TcpOptions>>,
    /// Payload bytes of the longest segment that is split later; 0: one segment.
    most_payload: u32,
    /// Whether the application is told when connections that it closed are over.
    tells_ends: bool,
    counters: TcpCounters,
    drops: Drops,
}

impl<B: Buffer, S: SharedPayload> TcpEngine<B, S> {
    /// An engine with no connection. All its randomness (hash keys, initial sequence numbers,
    /// timestamp offsets, cookies, ports) comes from `seed`: take it from the operating system,
    /// except to repeat a simulation.
    pub fn new(config: TcpConfig, seed: u64) -> Self {
        TcpEngine {
            config,
            secrets: Secrets::new(seed),
            connections: Slab::new(),
            half_open: Slab::new(),
            time_wait: Slab::new(),
            listeners: Listeners::new(),
            table: HashTable::new(),
            half_open_timers: Wheel::new(),
            time_wait_timers: Wheel::new(),
            spare: Spare::new(),
            agenda: Agenda::new(),
            replies: VecDeque::new(),
            memory: 0,
            last_found: 0,
            runs: Vec::new(),
            last_options: None,
            most_payload: 0,
            tells_ends: false,
            counters: TcpCounters::default(),
            drops: Drops::default(),
        }
    }

    /// Sets how many bytes of payload a segment may have that is split on its way out, by the
    /// device (TSO) or in software: up to 65 535 less the headers. 0, the default: segments are
    /// sent as the path takes them.
    pub fn set_most_payload(&mut self, bytes: u32) {
        self.most_payload = bytes.min(MOST_PAYLOAD);
    }

    /// Bytes of payload that a segment may have that is split on its way out; 0: none is.
    pub fn most_payload(&self) -> u32 {
        self.most_payload
    }

    /// From now on [`TcpEvent::Ended`] tells when a connection that was closed or aborted needs
    /// its segments no more: for who keeps something for it, such as its port. Who asks for that
    /// must take the events.
    pub fn tell_ends(&mut self) {
        self.tells_ends = true;
    }

    /// Fills `out` with the next segment to send; false if there is none. Call it after every
    /// call that passes time, segments or data in, until it returns false or there is no room.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Outgoing<S>) -> bool {
        if let Some(reply) = self.replies.pop_front() {
            out.payload.clear();
            out.segment_size = 0;
            out.flow = reply.flow;
            out.header = reply.header;
            out.dscp_ecn = reply.dscp_ecn;
            self.counters.tx_segments += 1;
            return true;
        }
        while let Some(index) = self.agenda.ready.pop_front() {
            let mut cx = context(
                now,
                &self.config,
                self.most_payload,
                self.memory,
                &mut self.counters,
            );
            let Some(connection) = self.connections.at_mut(index) else {
                continue;
            };
            // The place may have been taken by another since.
            if !std::mem::take(&mut connection.is_ready) {
                continue;
            }
            let is_sent = connection.emit(&mut cx, out);
            if self.agenda.enter(now, index, connection, is_sent) {
                self.settle(now, index);
            }
            if is_sent {
                return true;
            }
        }
        false
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) may have something.
    pub fn has_output(&self) -> bool {
        !self.replies.is_empty() || !self.agenda.ready.is_empty()
    }

    /// The next thing to tell the application.
    pub fn poll_event(&mut self) -> Option<TcpEvent> {
        loop {
            match self.agenda.events.pop_front()? {
                Told::Connection(index) => {
                    let key = self.connections.key(index);
                    let (Some(key), Some(connection)) = (key, self.connections.at_mut(index))
                    else {
                        continue;
                    };
                    if !std::mem::take(&mut connection.is_told) {
                        continue;
                    }
                    let readiness = std::mem::take(&mut connection.readiness);
                    if readiness.is_any() && connection.owner == Owner::Application {
                        return Some(TcpEvent::Connection(ConnectionId(key), readiness));
                    }
                }
                Told::Ended(key) => return Some(TcpEvent::Ended(ConnectionId(key))),
                Told::Listener(index) => {
                    let key = self.listeners.key(index);
                    let (Some(key), Some(listener)) = (key, self.listeners.at_mut(index)) else {
                        continue;
                    };
                    if std::mem::take(&mut listener.is_told) && !listener.ready.is_empty() {
                        return Some(TcpEvent::Acceptable(ListenerId(key)));
                    }
                }
            }
        }
    }

    /// Whether [`poll_event`](Self::poll_event) may have something.
    pub fn has_events(&self) -> bool {
        !self.agenda.events.is_empty()
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called, at the latest. Deadlines are
    /// rounded up to 131 us, so what is due at a time happens up to that later; and sometimes
    /// nothing is due yet, and there is another deadline afterwards.
    pub fn next_deadline(&self) -> Option<Instant> {
        let wheels = [
            &self.agenda.timers,
            &self.half_open_timers,
            &self.time_wait_timers,
        ];
        wheels.into_iter().filter_map(Wheel::next_deadline).min()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(index) = self.agenda.timers.expire(now) {
            let mut cx = context(
                now,
                &self.config,
                self.most_payload,
                self.memory,
                &mut self.counters,
            );
            if let Some(connection) = self.connections.at_mut(index) {
                // The wheel may name one early, whose deadline has moved back.
                if connection.timers.has_fired(now) {
                    connection.on_expiry(&mut cx);
                }
                connection.timers.on_look();
                if self.agenda.enter(now, index, connection, true) {
                    self.settle(now, index);
                }
            }
        }
        while let Some(index) = self.half_open_timers.expire(now) {
            self.expire_half_open(now, index);
        }
        while let Some(index) = self.time_wait_timers.expire(now) {
            self.remove_time_wait(index);
        }
    }

    /// Handles an ICMP error about a segment of ours, or what our own host says about one. It is
    /// believed only if it cites a segment that is under way (RFC 5927, section 4.1), and never ends
    /// an open connection (section 5). Whether it is believed.
    pub fn handle_icmp(&mut self, now: Instant, icmp: &TcpIcmp) -> bool {
        let Some(Entry::Connection(index)) = self.find(&icmp.flow) else {
            return false;
        };
        let Some(connection) = self.connections.at_mut(index) else {
            return false;
        };
        let send = &connection.send;
        let position = send.origin.position(icmp.sequence, send.una);
        if position < send.una || position >= send.nxt {
            return false;
        }
        let is_opening = connection.state == TcpState::SynSent;
        let is_believed = match icmp.kind {
            TcpIcmpKind::TooBig { mtu } => {
                let is_lower = connection.lower_mtu(mtu, now);
                self.counters.path_mtu_lowered += u64::from(is_lower);
                is_lower
            }
            TcpIcmpKind::Refused if is_opening => {
                connection.end(Some(TcpError::Refused));
                true
            }
            TcpIcmpKind::NoNeighbor if is_opening => {
                connection.end(Some(TcpError::Unreachable));
                true
            }
            TcpIcmpKind::Unreachable if is_opening => {
                // It may still be reached by another way: reported if it is not.
                connection.error = Some(TcpError::Unreachable);
                true
            }
            _ => false,
        };
        if self.agenda.enter(now, index, connection, true) {
            self.settle(now, index);
        }
        is_believed
    }

    /// Segments that were not acted upon, by reason.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// What the engine did.
    pub fn counters(&self) -> &TcpCounters {
        &self.counters
    }

    /// How many connections there are, and what memory they take.
    pub fn usage(&self) -> TcpUsage {
        TcpUsage {
            connections: self.connections.len(),
            half_open: self.half_open.len(),
            time_wait: self.time_wait.len(),
            listeners: self.listeners.len(),
            receive_memory: self.memory,
            table_memory: self.connections.memory()
                + self.half_open.memory()
                + self.time_wait.memory(),
        }
    }

    /// How many connections are in each state. Visits all of them: for statistics.
    pub fn state_counts(&self) -> impl Iterator<Item = (TcpState, usize)> {
        let mut counts = Vec::new();
        for connection in self.connections.iter() {
            match counts
                .iter_mut()
                .find(|(state, _)| *state == connection.state)
            {
                Some((_, count)) => *count += 1,
                None => counts.push((connection.state, 1)),
            }
        }
        counts.into_iter()
    }

    /// Where `flow` is kept.
    #[inline]
    fn find(&self, flow: &Flow) -> Option<Entry> {
        self.find_hashed(self.secrets.table_hash(flow), flow)
    }

    /// Where `flow`, whose hash this is, is kept.
    #[inline]
    fn find_hashed(&self, hash: u64, flow: &Flow) -> Option<Entry> {
        self.table
            .find(hash, |entry| self.flow_of(*entry) == Some(flow))
            .copied()
    }

    #[inline]
    fn flow_of(&self, entry: Entry) -> Option<&Flow> {
        match entry {
            Entry::Connection(index) => self.connections.at(index).map(|it| &it.flow),
            Entry::HalfOpen(index) => self.half_open.at(index).map(|it| &it.flow),
            Entry::TimeWait(index) => self.time_wait.at(index).map(|it| &it.flow),
        }
    }

    /// Makes the flow of `entry`, whose hash this is, lead to it; it leads nowhere yet.
    fn attach(&mut self, hash: u64, entry: Entry) {
        let TcpEngine {
            secrets,
            table,
            connections,
            half_open,
            time_wait,
            ..
        } = self;
        table.insert_unique(hash, entry, |entry| {
            let flow = match *entry {
                Entry::Connection(index) => return connections.at(index).map_or(0, |it| it.hash),
                Entry::HalfOpen(index) => half_open.at(index).map(|it| &it.flow),
                Entry::TimeWait(index) => time_wait.at(index).map(|it| &it.flow),
            };
            flow.map_or(0, |flow| secrets.table_hash(flow))
        });
    }

    /// Makes the flow that leads to `old` lead to `new`, which takes its place.
    fn replace(&mut self, hash: u64, old: Entry, new: Entry) {
        if let Some(entry) = self.table.find_mut(hash, |entry| *entry == old) {
            *entry = new;
        }
    }

    /// Makes the flow of `entry` lead nowhere.
    fn detach(&mut self, hash: u64, entry: Entry) {
        if let Ok(found) = self.table.find_entry(hash, |other| *other == entry) {
            found.remove();
        }
        if self.table.is_empty() && self.table.capacity() > 1024 {
            self.table = HashTable::new();
        }
    }

    /// Calls `work` with a connection, keeps account of its memory, and settles it.
    fn with<T>(
        &mut self,
        now: Instant,
        key: Key,
        work: impl FnOnce(&mut Connection<B, S>) -> T,
    ) -> Option<T> {
        let connection = self.connections.get_mut(key)?;
        let before = connection.receive.memory();
        let result = work(connection);
        self.memory = (self.memory + connection.receive.memory()).saturating_sub(before);
        if self.agenda.enter(now, key.index, connection, true) {
            self.settle(now, key.index);
        }
        Some(result)
    }
}

/// The most payload in one segment, with the longest headers in an IP packet of 65 535 bytes.
const MOST_PAYLOAD: u32 = 65_535 - 60 - 60;

/// The surroundings of a connection, borrowed from the fields of an engine.
fn context<'a>(
    now: Instant,
    config: &TcpConfig,
    most_payload: u32,
    memory: usize,
    counters: &'a mut TcpCounters,
) -> Context<'a> {
    Context {
        now,
        mtu: config.mtu,
        most_payload,
        delays_end_acks: config.delay_end_acks,
        is_memory_full: memory >= config.memory,
        counters,
    }
}
