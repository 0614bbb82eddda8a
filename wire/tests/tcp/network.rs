//! Two engines and the network between them, in virtual time from a seed.
//!
//! Segments cross it as bytes: what one engine says is written, may be lost, delayed, reordered,
//! duplicated or corrupted, and is parsed again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use virtroupe_wire::tcp::{
    ConnectionId, Flow, ListenOptions, ListenerId, Outgoing, Segment, TcpEvent, TcpOptions,
};
use virtroupe_wire::{Buffer, DropReason, Heap, HeapBuffer, Instant};

use crate::support::{Engine, Family, Random, START, address, engine};

/// What a path does to packets. Probabilities are from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    pub delay: Duration,
    /// Added to the delay at random: reorders.
    pub jitter: Duration,
    pub loss: f64,
    /// Whether loss, once begun, goes on for some packets.
    pub is_bursty: bool,
    pub duplication: f64,
    pub corruption: f64,
    /// Payload bytes per second; 0: without limit.
    pub rate: u64,
    /// Packets in the queue in front of it.
    pub queue: usize,
    /// Marks packets as having experienced congestion instead of dropping them.
    pub marking: f64,
    /// Longer IP packets are lost, without a word.
    pub mtu: usize,
}

impl Default for Path {
    fn default() -> Self {
        Path {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0.0,
            is_bursty: false,
            duplication: 0.0,
            corruption: 0.0,
            rate: 0,
            queue: 1000,
            marking: 0.0,
            mtu: 65_535,
        }
    }
}

/// The longest burst of loss.
const BURST: Duration = Duration::from_millis(100);

/// A segment on its way.
#[derive(Debug, Clone)]
pub struct Packet {
    pub to: usize,
    pub flow: Flow,
    pub bytes: Vec<u8>,
    pub ecn: u8,
}

/// The two engines, 0 and 1, and what is between them.
pub struct Network {
    pub engines: [Engine; 2],
    pub family: Family,
    pub now: Instant,
    /// From engine 0 to 1, and back.
    pub paths: [Path; 2],
    pub random: Random,
    pub under_way: BTreeMap<(Instant, u64), Packet>,
    serial: u64,
    /// When each path is free again, and whether a burst of loss goes on.
    busy_until: [Instant; 2],
    is_losing: [bool; 2],
    /// When the last burst of loss began: it lasts no longer than `BURST`, however little is sent.
    losing_since: [Instant; 2],
    pub sent: u64,
    pub lost: u64,
    pub corrupted: u64,
    outgoing: Outgoing<Bytes>,
    /// Every packet that was sent, with its time, if it is recorded.
    pub record: Option<Vec<(Instant, Packet)>>,
}

impl Network {
    pub fn new(family: Family, path: Path, seed: u64) -> Self {
        Network {
            engines: [engine(seed), engine(!seed)],
            family,
            now: START,
            paths: [path, path],
            random: Random::new(seed),
            under_way: BTreeMap::new(),
            serial: 0,
            busy_until: [START; 2],
            is_losing: [false; 2],
            losing_since: [START; 2],
            sent: 0,
            lost: 0,
            corrupted: 0,
            outgoing: Outgoing::new(),
            record: None,
        }
    }

    /// A listener on port 80 of engine 1.
    pub fn listen(&mut self, options: TcpOptions) -> ListenerId {
        let options = ListenOptions {
            connection: options,
            ..ListenOptions::default()
        };
        let local = address(self.family, 1, 80);
        self.engines[1].listen(local, options).expect("it is free")
    }

    /// Engine 0 asks for a connection to port 80 of engine 1.
    pub fn connect(&mut self, options: TcpOptions) -> ConnectionId {
        let (local, remote) = (address(self.family, 0, 0), address(self.family, 1, 80));
        self.engines[0]
            .connect(self.now, local, remote, options, |_| true)
            .expect("a port is free")
    }

    /// An open connection, as both ends know it.
    pub fn open(&mut self, options: TcpOptions) -> (ConnectionId, ConnectionId) {
        let listener = self.listen(options.clone());
        let client = self.connect(options);
        let server = loop {
            if let Some(server) = self.engines[1].accept(self.now, listener) {
                break server;
            }
            assert!(self.step(), "the connection does not open");
        };
        (client, server)
    }

    /// Puts everything that the engines send on its way.
    pub fn transmit(&mut self) {
        for from in 0..2 {
            let mut outgoing = std::mem::take(&mut self.outgoing);
            while self.engines[from].poll_transmit(self.now, &mut outgoing) {
                self.carry_whole(1 - from, &mut outgoing);
            }
            self.outgoing = outgoing;
        }
    }

    /// As a device does, splits what is longer than a segment (TSO).
    fn carry_whole(&mut self, to: usize, outgoing: &mut Outgoing<Bytes>) {
        let mut first = Outgoing::new();
        while outgoing.split_first(&mut first) {
            self.carry_one(to, &mut first);
        }
        self.carry_one(to, outgoing);
    }

    fn carry_one(&mut self, to: usize, outgoing: &mut Outgoing<Bytes>) {
        let packet = outgoing.take_packet(&mut Heap).expect("there is memory");
        let packet = Packet {
            to,
            flow: outgoing.flow,
            bytes: packet.to_vec(),
            ecn: outgoing.dscp_ecn & 3,
        };
        self.carry(packet);
    }

    /// Puts one packet on its way, or loses it.
    pub fn carry(&mut self, mut packet: Packet) {
        self.sent += 1;
        if let Some(record) = &mut self.record {
            record.push((self.now, packet.clone()));
        }
        let direction = 1 - packet.to;
        let path = self.paths[direction];
        let length = packet.bytes.len() + packet.flow.ip_header();
        let is_full = self.is_full(direction, &path);
        if self.loses(direction, &path) || is_full || length > path.mtu {
            self.lost += 1;
            return;
        }
        if packet.ecn != 0 && self.random.happens(path.marking) {
            packet.ecn = 3;
        }
        let copies = 1 + u32::from(self.random.happens(path.duplication));
        for _ in 0..copies {
            let mut copy = packet.clone();
            if self.random.happens(path.corruption) {
                let bit = self.random.below(copy.bytes.len() as u64 * 8);
                copy.bytes[bit as usize / 8] ^= 1 << (bit % 8);
            }
            let at = self.arrival(direction, &path, length);
            self.serial += 1;
            self.under_way.insert((at, self.serial), copy);
        }
    }

    fn is_full(&self, direction: usize, path: &Path) -> bool {
        if path.rate == 0 {
            return false;
        }
        let waiting = self.busy_until[direction].since(self.now).as_secs_f64() * path.rate as f64;
        waiting > (path.queue * 1500) as f64
    }

    fn loses(&mut self, direction: usize, path: &Path) -> bool {
        if path.is_bursty {
            // Bursts of four on average, as often as the loss demands.
            let begins = path.loss / 4.0;
            let is_young = self.now.since(self.losing_since[direction]) < BURST;
            self.is_losing[direction] = match self.is_losing[direction] && is_young {
                true => self.random.happens(0.75),
                false => {
                    self.losing_since[direction] = self.now;
                    self.random.happens(begins)
                }
            };
            return self.is_losing[direction];
        }
        self.random.happens(path.loss)
    }

    fn arrival(&mut self, direction: usize, path: &Path, length: usize) -> Instant {
        let mut leaves = self.now;
        if path.rate > 0 {
            let time = Duration::from_secs_f64(length as f64 / path.rate as f64);
            leaves = self.busy_until[direction].max(self.now) + time;
            self.busy_until[direction] = leaves;
        }
        let jitter = self.random.below(path.jitter.as_nanos() as u64 + 1);
        leaves + path.delay + Duration::from_nanos(jitter)
    }

    /// Goes on to the next packet or deadline, and handles it. False if there is none.
    pub fn step(&mut self) -> bool {
        self.transmit();
        let arrival = self.under_way.keys().next().map(|(time, _)| *time);
        let deadlines = self
            .engines
            .iter()
            .filter_map(|engine| engine.next_deadline());
        let Some(next) = arrival.into_iter().chain(deadlines).min() else {
            return false;
        };
        self.now = self.now.max(next);
        for engine in &mut self.engines {
            engine.handle_timeout(self.now);
            assert!(
                engine
                    .next_deadline()
                    .is_none_or(|deadline| deadline > self.now)
            );
        }
        while let Some(entry) = self.under_way.first_entry()
            && entry.key().0 <= self.now
        {
            let packet = entry.remove();
            self.deliver(packet);
        }
        self.transmit();
        true
    }

    /// Gives a packet to the engine that it is for.
    pub fn deliver(&mut self, packet: Packet) {
        let Packet {
            to,
            flow,
            bytes,
            ecn,
        } = packet;
        let buffer = HeapBuffer::new(&bytes);
        let (source, destination) = flow.addresses();
        match Segment::parse(source, destination, ecn, buffer, true) {
            Ok(segment) => self.engines[to].receive_one(self.now, segment),
            Err(DropReason::Checksum | DropReason::Malformed) => self.corrupted += 1,
            Err(reason) => panic!("unexpected: {reason:?}"),
        }
        for engine in &self.engines {
            let counters = engine.counters();
            let dropped = engine.drops().total();
            assert_eq!(counters.rx_segments, counters.accepted + dropped);
        }
    }

    /// Lets `time` pass.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.transmit();
        while self.next_time().is_some_and(|next| next <= end) && self.step() {}
        self.now = end;
    }

    /// When something happens next.
    pub fn next_time(&self) -> Option<Instant> {
        let arrival = self.under_way.keys().next().map(|(time, _)| *time);
        let deadlines = self
            .engines
            .iter()
            .filter_map(|engine| engine.next_deadline());
        arrival.into_iter().chain(deadlines).min()
    }

    /// All events of an engine.
    pub fn events(&mut self, of: usize) -> Vec<TcpEvent> {
        std::iter::from_fn(|| self.engines[of].poll_event()).collect()
    }
}
