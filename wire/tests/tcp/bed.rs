//! One engine against a peer whose segments the test writes itself.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use virtroupe_wire::tcp::{
    ConnectionId, Flow, HeaderOptions, ListenOptions, ListenerId, Outgoing, SackBlock, SackBlocks,
    Segment, SeqNumber, TcpConfig, TcpEngine, TcpFlags, TcpHeader, TcpOptions, Timestamps,
};
use virtroupe_wire::{Buffer, Heap, HeapBuffer, Instant};

use crate::support::{Engine, FAMILY, START, address};

pub const FIN: TcpFlags = TcpFlags::FIN;
pub const SYN: TcpFlags = TcpFlags::SYN;
pub const RST: TcpFlags = TcpFlags::RST;
pub const PSH: TcpFlags = TcpFlags::PSH;
pub const ACK: TcpFlags = TcpFlags::ACK;

/// Our initial sequence number, and the peer's, in a bed.
pub const OURS: u32 = 1000;
pub const THEIRS: u32 = 5_000_000;

/// A segment that the engine sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub flow: Flow,
    pub header: TcpHeader,
    pub payload: Vec<u8>,
    pub ecn: u8,
    pub dscp: u8,
}

impl Sent {
    pub fn has(&self, flags: TcpFlags) -> bool {
        self.header.flags.contains(flags)
    }

    /// The numbers of what it carries and acknowledges, from the initial ones on.
    pub fn numbers(&self) -> (u32, u32) {
        (
            self.header.sequence.0.wrapping_sub(OURS),
            self.header.acknowledgment.0.wrapping_sub(THEIRS),
        )
    }
}

/// An engine at 10.0.0.1, and a peer at 10.0.0.2.
pub struct Bed {
    pub engine: Engine,
    pub now: Instant,
    /// From the peer's port 9000 to our port 80.
    pub flow: Flow,
    /// The timestamp of what the peer sends, if it uses them.
    pub timestamp: Option<u32>,
    pub window: u16,
    /// How long a handshake that the peer begins takes.
    pub rtt: Duration,
}

/// Settings with which a peer needs no options, and whose numbers are known.
pub fn plain() -> TcpOptions {
    TcpOptions {
        initial_sequence: Some(SeqNumber(OURS)),
        timestamps: false,
        sack: false,
        ecn: false,
        pacing: false,
        ..TcpOptions::default()
    }
}

/// [`plain`] with SACK.
pub fn sacking() -> TcpOptions {
    TcpOptions {
        sack: true,
        ..plain()
    }
}

impl Bed {
    pub fn new() -> Self {
        Self::with(TcpConfig::default())
    }

    pub fn with(config: TcpConfig) -> Self {
        Bed {
            engine: TcpEngine::new(config, 42),
            now: START,
            flow: flow(9000),
            timestamp: None,
            window: 65_535,
            rtt: Duration::ZERO,
        }
    }

    pub fn listen(&mut self, options: TcpOptions) -> ListenerId {
        let options = ListenOptions {
            connection: options,
            ..ListenOptions::default()
        };
        let local = address(FAMILY, 1, 80);
        self.engine.listen(local, options).expect("it is free")
    }

    /// A connection that the peer has opened.
    pub fn accepted(options: TcpOptions) -> (Self, ConnectionId) {
        let mut bed = Self::new();
        let id = bed.accept(options);
        (bed, id)
    }

    pub fn accept(&mut self, options: TcpOptions) -> ConnectionId {
        let listener = self.listen(options.clone());
        let offered = HeaderOptions {
            mss: Some(1000),
            sack_permitted: options.sack,
            timestamps: self.timestamp.map(|value| Timestamps { value, echo: 0 }),
            ..HeaderOptions::default()
        };
        let answer = self.send(SYN, (0, 0), offered, b"");
        assert!(answer[0].has(SYN) && answer[0].has(ACK));
        assert_eq!(answer[0].numbers(), (0, 1));
        self.now = self.now + self.rtt;
        let answer = self.ack(1, 1);
        assert_eq!(answer, []);
        let id = self.engine.accept(self.now, listener);
        id.expect("the connection is open")
    }

    /// A connection that we have opened, to port 9000 of the peer.
    pub fn connected(options: TcpOptions) -> (Self, ConnectionId) {
        let mut bed = Self::new();
        let id = bed.connect(options.clone());
        let syn = bed.sent();
        assert_eq!(syn.len(), 1);
        assert!(syn[0].has(SYN) && !syn[0].has(ACK));
        let offered = HeaderOptions {
            mss: Some(1000),
            sack_permitted: options.sack,
            ..HeaderOptions::default()
        };
        let answer = bed.send(SYN.with(ACK), (0, 1), offered, b"");
        assert_eq!(answer.len(), 1);
        assert_eq!(answer[0].numbers(), (1, 1));
        (bed, id)
    }

    pub fn connect(&mut self, options: TcpOptions) -> ConnectionId {
        let (local, remote) = (self.flow.remote(), self.flow.local());
        self.engine
            .connect(self.now, local, remote, options, |_| true)
            .expect("the port is free")
    }

    /// The peer sends a segment whose numbers count from the initial ones. Returns what the
    /// engine sends then.
    pub fn send(
        &mut self,
        flags: TcpFlags,
        (sequence, ack): (u32, u32),
        options: HeaderOptions,
        payload: &[u8],
    ) -> Vec<Sent> {
        let segment = self.segment(flags, (sequence, ack), options, payload);
        self.engine.receive_one(self.now, segment);
        self.sent()
    }

    /// A segment from the peer.
    pub fn segment(
        &self,
        flags: TcpFlags,
        (sequence, ack): (u32, u32),
        mut options: HeaderOptions,
        payload: &[u8],
    ) -> Segment<HeapBuffer> {
        if options.timestamps.is_none() {
            options.timestamps = self.timestamp.map(|value| Timestamps { value, echo: 0 });
        }
        let header = TcpHeader {
            source_port: self.flow.local().port(),
            destination_port: self.flow.remote().port(),
            sequence: SeqNumber(THEIRS) + sequence,
            acknowledgment: match flags.contains(ACK) {
                true => SeqNumber(OURS) + ack,
                false => SeqNumber(0),
            },
            flags,
            window: self.window,
            urgent: 0,
            options,
        };
        wire(self.flow, header, payload)
    }

    /// The peer acknowledges.
    pub fn ack(&mut self, sequence: u32, ack: u32) -> Vec<Sent> {
        self.send(ACK, (sequence, ack), HeaderOptions::default(), b"")
    }

    /// The peer acknowledges, and reports what arrived out of order.
    pub fn sack(&mut self, sequence: u32, ack: u32, blocks: &[(u32, u32)]) -> Vec<Sent> {
        let mut options = HeaderOptions::default();
        for (start, end) in blocks {
            options.sack.push(SackBlock {
                start: SeqNumber(OURS) + *start,
                end: SeqNumber(OURS) + *end,
            });
        }
        self.send(ACK, (sequence, ack), options, b"")
    }

    /// The peer sends data.
    pub fn data(&mut self, sequence: u32, ack: u32, payload: &[u8]) -> Vec<Sent> {
        self.send(
            ACK.with(PSH),
            (sequence, ack),
            HeaderOptions::default(),
            payload,
        )
    }

    /// What the engine sends now.
    pub fn sent(&mut self) -> Vec<Sent> {
        let mut outgoing = Outgoing::new();
        let mut sent = Vec::new();
        while self.engine.poll_transmit(self.now, &mut outgoing) {
            sent.push(read(&mut outgoing));
        }
        let counters = self.engine.counters();
        let dropped = self.engine.drops().total();
        assert_eq!(counters.rx_segments, counters.accepted + dropped);
        sent
    }

    /// Lets time pass; what is sent meanwhile, each with the time since the call.
    pub fn pass(&mut self, time: Duration) -> Vec<(Duration, Sent)> {
        let (start, end) = (self.now, self.now + time);
        let mut sent: Vec<(Duration, Sent)> = Vec::new();
        sent.extend(self.sent().into_iter().map(|it| (Duration::ZERO, it)));
        while let Some(deadline) = self.engine.next_deadline()
            && deadline <= end
        {
            self.now = self.now.max(deadline);
            self.engine.handle_timeout(self.now);
            let elapsed = self.now.since(start);
            sent.extend(self.sent().into_iter().map(|it| (elapsed, it)));
        }
        self.now = end;
        sent
    }

    pub fn write(&mut self, id: ConnectionId, bytes: &[u8]) -> Vec<Sent> {
        let chunk = Bytes::copy_from_slice(bytes);
        self.engine
            .write(self.now, id, chunk)
            .expect("there is room");
        self.sent()
    }

    /// Everything that can be read.
    pub fn read(&mut self, id: ConnectionId) -> Vec<u8> {
        let mut read = Vec::new();
        while let Some(payload) = self.engine.read(self.now, id) {
            read.extend(payload.to_vec());
        }
        read
    }
}

/// From port `port` of the peer to our port 80.
pub fn flow(port: u16) -> Flow {
    Flow::new(address(FAMILY, 2, port), address(FAMILY, 1, 80))
}

/// A segment, as the network would bring it.
pub fn wire(flow: Flow, header: TcpHeader, payload: &[u8]) -> Segment<HeapBuffer> {
    let mut outgoing = Outgoing::new();
    outgoing.flow = flow;
    outgoing.header = header;
    outgoing.payload.push(Bytes::copy_from_slice(payload));
    let packet: HeapBuffer = outgoing.take_packet(&mut Heap).expect("there is memory");
    let (source, destination): (SocketAddr, SocketAddr) = (flow.local(), flow.remote());
    Segment::parse(source.ip(), destination.ip(), 0, packet, true).expect("it is well formed")
}

fn read(outgoing: &mut Outgoing<Bytes>) -> Sent {
    let payload = outgoing.payload.concat();
    let packet: HeapBuffer = outgoing.take_packet(&mut Heap).expect("there is memory");
    let (source, destination) = (outgoing.flow.local(), outgoing.flow.remote());
    let segment = Segment::parse(source.ip(), destination.ip(), 0, packet, true);
    let segment = segment.expect("the checksum is right");
    assert_eq!(segment.payload.to_vec(), payload);
    Sent {
        flow: outgoing.flow,
        header: segment.header,
        payload,
        ecn: outgoing.dscp_ecn & 3,
        dscp: outgoing.dscp_ecn >> 2,
    }
}

/// SACK blocks as numbers from the initial one of the peer on.
pub fn blocks(blocks: &SackBlocks) -> Vec<(u32, u32)> {
    let number = |number: SeqNumber| number.0.wrapping_sub(THEIRS);
    let blocks = blocks.as_slice().iter();
    blocks
        .map(|block| (number(block.start), number(block.end)))
        .collect()
}
