//! Peers of one engine, as far as it sees them: headers, and payload that has only a length.

use std::net::SocketAddr;
use std::time::{Duration, Instant as Clock};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use virtroupe::wire::tcp::{
    ConnectionId, Flow, HeaderOptions, ListenOptions, ListenerId, Outgoing, Segment, SeqNumber,
    TcpConfig, TcpEngine, TcpEvent, TcpFlags, TcpHeader, TcpOptions,
};
use virtroupe::wire::{Buffer, Instant};

use crate::support::Outcome;

/// Bytes in a request and in a reply.
const MESSAGE: usize = 100;

/// Segments in a burst.
const BURST: usize = 64;

static ZEROS: [u8; 2048] = [0; 2048];
static REPLY: Bytes = Bytes::from_static(&[0; MESSAGE]);

pub type Engine = TcpEngine<Hollow, Bytes>;

/// Packet memory without memory: only its length counts.
#[derive(Debug)]
pub struct Hollow(usize);

impl Buffer for Hollow {
    fn head(&self) -> &[u8] {
        &ZEROS[..self.0]
    }

    fn head_mut(&mut self) -> &mut [u8] {
        &mut []
    }

    fn len(&self) -> usize {
        self.0
    }

    fn headroom(&self) -> usize {
        0
    }

    fn prepend(&mut self, _count: usize) -> Option<&mut [u8]> {
        None
    }

    fn trim_front(&mut self, count: usize) {
        self.0 = self.0.saturating_sub(count);
    }

    fn truncate(&mut self, length: usize) {
        self.0 = self.0.min(length);
    }

    fn extend_from_slice(&mut self, _bytes: &[u8]) -> bool {
        false
    }

    fn append(&mut self, tail: Self) {
        self.0 += tail.0;
    }

    fn is_chain(&self) -> bool {
        false
    }

    fn for_each_segment(&self, mut visit: impl FnMut(&[u8])) {
        visit(self.head());
    }
}

/// An engine that may have so many connections of every kind.
pub fn engine(connections: usize) -> Engine {
    let config = TcpConfig {
        half_open: connections,
        time_wait: connections,
        replies: 4 * BURST,
        ..TcpConfig::default()
    };
    TcpEngine::new(config, 7)
}

fn server() -> SocketAddr {
    ([10, 0, 0, 1], 80).into()
}

/// What a peer knows of its connection.
#[derive(Debug, Clone, Copy)]
struct Peer {
    /// From the engine's side.
    flow: Flow,
    /// The next number that the peer sends, and expects.
    next: SeqNumber,
    expected: SeqNumber,
}

impl Peer {
    /// A segment of this peer.
    fn segment(&self, flags: TcpFlags, length: usize) -> Segment<Hollow> {
        Segment {
            flow: self.flow,
            header: TcpHeader {
                source_port: self.flow.remote_port(),
                destination_port: self.flow.local_port(),
                sequence: self.next,
                acknowledgment: self.expected,
                flags,
                window: u16::MAX,
                options: HeaderOptions {
                    mss: flags.contains(TcpFlags::SYN).then_some(1460),
                    ..HeaderOptions::default()
                },
                ..TcpHeader::default()
            },
            payload: Hollow(length),
            ecn: 0,
            merged: 1,
        }
    }
}

/// All peers of one engine.
#[derive(Debug)]
pub struct Peers {
    peers: Vec<Peer>,
    /// Those that send requests, in the order of that: side by side, since it is the engine's memory
    /// that is to be measured.
    active: Vec<Peer>,
    listener: Option<ListenerId>,
    now: Instant,
    burst: Vec<Segment<Hollow>>,
    outgoing: Outgoing<Bytes>,
    random: ChaCha8Rng,
}

impl Peers {
    pub fn new(count: usize) -> Self {
        let peer = |index: usize| {
            let [_, high, low, port] = (index as u32).to_be_bytes();
            let remote = ([10, 1 + high, low, 1], 1024 + u16::from(port)).into();
            Peer {
                flow: Flow::new(server(), remote),
                next: SeqNumber(index as u32),
                expected: SeqNumber(0),
            }
        };
        Peers {
            peers: (0..count).map(peer).collect(),
            active: Vec::with_capacity(count),
            listener: None,
            now: Instant::from_nanos(1_000_000_000),
            burst: Vec::with_capacity(BURST),
            outgoing: Outgoing::new(),
            random: ChaCha8Rng::seed_from_u64(1),
        }
    }

    /// Makes the engine listen to them.
    pub fn listen(mut self, engine: &mut Engine) -> Outcome<Self> {
        let options = ListenOptions {
            backlog: 2 * BURST,
            connection: TcpOptions {
                nodelay: true,
                ..TcpOptions::default()
            },
        };
        self.listener = Some(engine.listen(server(), options)?);
        Ok(self)
    }

    /// A segment of the peer at `index`.
    fn segment(&self, index: usize, flags: TcpFlags, length: usize) -> Segment<Hollow> {
        self.peers[index].segment(flags, length)
    }

    /// Everybody asks for a connection.
    pub fn ask_all(&mut self, engine: &mut Engine) {
        for index in 0..self.peers.len() {
            let syn = self.segment(index, TcpFlags::SYN, 0);
            engine.receive_one(self.now, syn);
            self.peers[index].next = self.peers[index].next + 1;
            if engine.poll_transmit(self.now, &mut self.outgoing) {
                self.peers[index].expected = self.outgoing.header.sequence + 1;
            }
        }
    }

    /// Everybody asks for a connection and gets it.
    pub fn open_all(&mut self, engine: &mut Engine) -> Outcome<()> {
        self.ask_all(engine);
        let listener = self.listener.ok_or("nobody listens")?;
        for index in 0..self.peers.len() {
            let ack = self.segment(index, TcpFlags::ACK, 0);
            engine.receive_one(self.now, ack);
            engine.accept(self.now, listener).ok_or("it is not open")?;
        }
        while engine.poll_event().is_some() {}
        Ok(())
    }

    /// Everybody sends a request, and acknowledges the reply.
    pub fn exchange_once(&mut self, engine: &mut Engine) {
        self.choose_active(self.peers.len());
        self.request_all(engine);
        for peer in &self.active {
            engine.receive_one(self.now, peer.segment(TcpFlags::ACK, 0));
        }
        while engine.poll_event().is_some() {}
    }

    /// Lets time pass until nothing is under way any more.
    pub fn rest(&mut self, engine: &mut Engine) {
        for _ in 0..100 {
            self.now = self.now + Duration::from_millis(50);
            engine.handle_timeout(self.now);
            while engine.poll_transmit(self.now, &mut self.outgoing) {}
        }
        assert_eq!(engine.counters().timeouts, 0);
    }

    /// The engine closes all connections first, so that it keeps them in TIME-WAIT.
    pub fn close_all(&mut self, engine: &mut Engine) -> Outcome<()> {
        for index in 0..self.peers.len() {
            let request = self.segment(index, TcpFlags::ACK, MESSAGE);
            engine.receive_one(self.now, request);
            while let Some(event) = engine.poll_event() {
                if let TcpEvent::Connection(id, _) = event {
                    engine.read(self.now, id);
                    engine.close(self.now, id);
                }
            }
            while engine.poll_transmit(self.now, &mut self.outgoing) {}
            let peer = &mut self.peers[index];
            peer.next = peer.next + MESSAGE as u32;
            peer.expected = peer.expected + 1;
            let finish = self.segment(index, TcpFlags::ACK.with(TcpFlags::FIN), 0);
            engine.receive_one(self.now, finish);
            while engine.poll_transmit(self.now, &mut self.outgoing) {}
        }
        match engine.usage().time_wait == self.peers.len() {
            true => Ok(()),
            false => Err("not all are in TIME-WAIT".into()),
        }
    }

    /// Chooses `count` peers that are spread over all, in an order without pattern.
    pub fn choose_active(&mut self, count: usize) {
        let step = self.peers.len() / count;
        self.active.clear();
        self.active
            .extend(self.peers.iter().step_by(step).take(count));
        for at in (1..count).rev() {
            let other = self.random.next_u64() as usize % (at + 1);
            self.active.swap(at, other);
        }
    }

    /// Each active peer sends a request, which acknowledges the last reply, and gets a reply.
    /// Returns how many.
    pub fn request_all(&mut self, engine: &mut Engine) -> usize {
        let mut first = 0;
        while first < self.active.len() {
            let last = (first + BURST).min(self.active.len());
            for peer in &mut self.active[first..last] {
                let request = peer.segment(TcpFlags::ACK.with(TcpFlags::PSH), MESSAGE);
                self.burst.push(request);
                peer.next = peer.next + MESSAGE as u32;
                peer.expected = peer.expected + MESSAGE as u32;
            }
            self.now = self.now + Duration::from_micros(10);
            engine.receive(self.now, &mut self.burst);
            while let Some(event) = engine.poll_event() {
                if let TcpEvent::Connection(id, _) = event {
                    reply(engine, self.now, id);
                }
            }
            while engine.poll_transmit(self.now, &mut self.outgoing) {}
            if engine.next_deadline().is_some_and(|at| at <= self.now) {
                engine.handle_timeout(self.now);
            }
            first = last;
        }
        self.active.len()
    }
}

fn reply(engine: &mut Engine, now: Instant, id: ConnectionId) {
    while engine.read(now, id).is_some() {
        // The send buffer has room: what was written before is acknowledged.
        let _ = engine.write(now, id, REPLY.clone());
    }
}

/// Connections between two engines in a second: each with a request, its reply, and both ends
/// closed, the client's first.
pub fn connections_per_second(seed: u64, span: Duration) -> Outcome<f64> {
    let config = TcpConfig {
        time_wait_time: Duration::from_millis(1),
        ..TcpConfig::default()
    };
    let mut client = Engine::new(config.clone(), seed);
    let mut engine = Engine::new(config, !seed);
    let listener = engine.listen(server(), ListenOptions::default())?;
    let mut outgoing = Outgoing::new();
    let mut now = Instant::from_nanos(1_000_000_000);
    let start = Clock::now();
    let mut count = 0_u32;
    while start.elapsed() < span {
        let [_, b, c, d] = count.to_be_bytes();
        let local = ([10, b, c, d.max(2)], 0).into();
        let options = TcpOptions::default();
        let id = client.connect(now, local, server(), options, |_| true)?;
        client
            .write(now, id, REPLY.clone())
            .map_err(|(error, _)| error)?;
        let mut accepted = None;
        // Handshake and request; reply; the ends.
        for _ in 0..4 {
            now = now + Duration::from_micros(5);
            carry(now, &mut client, &mut engine, &mut outgoing);
            accepted = accepted.or_else(|| engine.accept(now, listener));
            if let Some(id) = accepted {
                reply(&mut engine, now, id);
                if engine.is_at_end(id) {
                    engine.close(now, id);
                }
            }
            carry(now, &mut engine, &mut client, &mut outgoing);
            if client.read(now, id).is_some() {
                client.close(now, id);
            }
        }
        while client.poll_event().is_some() || engine.poll_event().is_some() {}
        client.handle_timeout(now);
        engine.handle_timeout(now);
        count += 1;
    }
    let left = client.usage().connections + engine.usage().connections;
    if left > 8 {
        return Err(format!("{left} connections were not closed").into());
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// Moves everything that an engine sends into the other.
fn carry(now: Instant, from: &mut Engine, to: &mut Engine, outgoing: &mut Outgoing<Bytes>) {
    while from.poll_transmit(now, outgoing) {
        let segment = Segment {
            flow: Flow::new(outgoing.flow.remote(), outgoing.flow.local()),
            header: outgoing.header,
            payload: Hollow(outgoing.payload_length()),
            ecn: 0,
            merged: 1,
        };
        to.receive_one(now, segment);
    }
}
