//! TCP through a host: frames from the network of any kind, segments and errors near to what the
//! engine expects, time that passes, and an application. Nothing panics, every frame and segment is
//! counted once, what is sent is well formed, and when all is let go of, nothing is left.

#![no_main]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use virtroupe_fuzz::frame::{Frame, OUR_IP, OUR_MAC};
use virtroupe_fuzz::frame6::{NEIGHBOR6, OUR_IP6};
use virtroupe_fuzz::segment::{Crafted, error, frame, halves, near};
use virtroupe_fuzz::tcp::Engine;
use virtroupe_fuzz::{invariants, tcp};
use virtroupe_wire::host::exchange;
use virtroupe_wire::ipv4::{self, Ipv4Header};
use virtroupe_wire::ipv6::Ipv6Header;
use virtroupe_wire::offload::{
    ChecksumState, DeviceSegmentation, SegmentKind, Segmentation, segment,
};
use virtroupe_wire::tcp::{
    ConnectionId, Flow, ListenOptions, ListenerId, Outgoing, Segment, TcpEvent, TcpHeader,
    TcpOptions, WriteError,
};
use virtroupe_wire::{
    Allocator, Buffer, Heap, HeapBuffer, Host, HostConfig, Instant, Limits, MacAddr, Neighbor,
    Offload, ethernet,
};

/// The port at which the host listens.
const PORT: u16 = 80;
/// The first of the ports of peers.
const PEER_PORT: u16 = 9000;
/// More frames than the host sends at once.
const ROOM: usize = 64;

#[derive(Arbitrary, Debug)]
struct Input {
    is_sharded: bool,
    /// Payload bytes in a segment that the device, or the host, cuts.
    most_payload: u16,
    /// Whether the device cuts over IPv4 and IPv6.
    cuts: (bool, bool),
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Frame(Frame),
    Segment(Peer, Crafted, Arriving),
    Error {
        peer: Peer,
        port: u8,
        sequence: i16,
        kind: (u8, u8),
        mtu: u16,
    },
    Pass(u16),
    /// The frames that the device takes, until it is said again.
    Room(u8),
    /// The buffers that are left, until it is said again.
    Memory(u8),
    Connect(Peer, u8),
    Write(u8, u16),
    Read(u8),
    Finish(u8),
    Close(u8),
    Abort(u8),
    /// Closes the listener of a family, or opens it again.
    Listener(bool),
}

/// How a segment arrives.
#[derive(Arbitrary, Debug, Clone, Copy)]
enum Arriving {
    Plain,
    /// As a device gives it that has verified the checksum.
    Verified,
    /// As one that it has merged from segments of this length.
    Merged(u16),
    /// In two fragments; over IPv6 as it is.
    Fragments,
}

/// Who is at the other end.
#[derive(Arbitrary, Debug, Clone, Copy)]
enum Peer {
    Known,
    Known6,
    /// Has to be asked for its Ethernet address.
    Asked,
    /// Behind a router that has to be asked for.
    Far,
    /// No route leads there.
    Unrouted6,
    Ourselves,
    Ourselves6,
}

/// Buffers, until there are none.
struct Memory {
    left: usize,
}

impl Allocator for Memory {
    type Buffer = HeapBuffer;

    fn allocate(&mut self, capacity: usize) -> Option<HeapBuffer> {
        self.left = self.left.checked_sub(1)?;
        Heap.allocate(capacity)
    }
}

struct Bed {
    host: Host<HeapBuffer>,
    engine: Engine,
    limits: Limits,
    outgoing: Outgoing<Bytes>,
    memory: Memory,
    room: usize,
    now: Instant,
    /// What the host last sent to each peer, with the number behind it.
    last: BTreeMap<SocketAddr, TcpHeader>,
    ids: Vec<ConnectionId>,
    /// Of IPv4 and IPv6.
    listeners: [Option<ListenerId>; 2],
}

fuzz_target!(|input: Input| {
    let mut bed = Bed::new(&input);
    for step in input.steps {
        bed.step(step);
        bed.turn();
    }
    bed.end();
});

impl Peer {
    fn ip(self) -> IpAddr {
        match self {
            Peer::Known => [10, 0, 0, 2].into(),
            Peer::Known6 => NEIGHBOR6.into(),
            Peer::Asked => [10, 0, 0, 3].into(),
            Peer::Far => [192, 0, 2, 7].into(),
            Peer::Unrouted6 => [0x2001, 0, 0, 0, 0, 0, 0, 7].into(),
            Peer::Ourselves => OUR_IP.into(),
            Peer::Ourselves6 => OUR_IP6.into(),
        }
    }

    fn local(self) -> IpAddr {
        match self.ip() {
            IpAddr::V4(_) => OUR_IP.into(),
            IpAddr::V6(_) => OUR_IP6.into(),
        }
    }

    /// The flow from the port at which the host listens.
    fn flow(self, port: u8) -> Flow {
        let remote = (self.ip(), PEER_PORT + u16::from(port % 4)).into();
        Flow::new((self.local(), PORT).into(), remote)
    }
}

fn limits() -> Limits {
    Limits {
        neighbors: 4,
        neighbor_queue: 8,
        reassembly_memory: 64 << 10,
        reassembly_datagrams: 8,
        reassembly_per_source: 3,
        reassembly_fragments: 16,
        loopback: 4,
        ..Limits::default()
    }
}

fn host(limits: Limits) -> Host<HeapBuffer> {
    let net = |text: &str| text.parse().expect("an address and prefix length");
    let mac = MacAddr([2, 0, 0, 0, 1, 1]);
    let neighbor = |peer: Peer| Neighbor {
        address: peer.ip(),
        mac,
    };
    let config = HostConfig {
        mac: MacAddr(OUR_MAC),
        addresses: ["10.0.0.1/24", "fd00::1/64"].map(net).to_vec(),
        owned: ["10.1.0.0/30", "fd01::/120"].map(net).to_vec(),
        neighbors: [Peer::Known, Peer::Known6].map(neighbor).to_vec(),
        gateway: Some("10.0.0.254".parse().expect("an address")),
        limits,
        ..HostConfig::default()
    };
    Host::new(config, 1).expect("the settings are valid")
}

impl Bed {
    fn new(input: &Input) -> Bed {
        let mut host = host(limits());
        host.enable_tcp();
        host.set_transmit_capacity(ROOM);
        host.set_device_segmentation(DeviceSegmentation {
            tcp_v4: input.cuts.0,
            tcp_v6: input.cuts.1,
            tcp_ecn: true,
            longest: ethernet::HEADER + ipv4::MAX_PACKET,
            ..DeviceSegmentation::default()
        });
        if input.is_sharded {
            host.set_sharded();
        }
        let mut engine = Engine::new(tcp::config(), 1);
        engine.set_most_payload(input.most_payload.into());
        let mut bed = Bed {
            host,
            engine,
            limits: limits(),
            outgoing: Outgoing::new(),
            memory: Memory { left: usize::MAX },
            room: ROOM,
            now: Instant::from_nanos(1_000_000_000),
            last: BTreeMap::new(),
            ids: Vec::new(),
            listeners: [None, None],
        };
        bed.toggle(false);
        bed.toggle(true);
        bed
    }

    fn step(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Frame(frame) => self.receive(vec![HeapBuffer::new(&frame.build().0)]),
            Step::Segment(peer, crafted, arriving) => {
                self.receive_segment(peer, &crafted, arriving)
            }
            Step::Error {
                peer,
                port,
                sequence,
                kind,
                mtu,
            } => {
                let flow = peer.flow(port);
                let sequence = near(self.last(&flow).sequence, sequence);
                let packet = error(&flow, sequence, kind, mtu);
                self.receive(vec![HeapBuffer::new(&frame(&packet))]);
            }
            Step::Pass(milliseconds) => {
                self.now = now + Duration::from_millis(milliseconds.into());
            }
            Step::Room(frames) => self.room = usize::from(frames).min(ROOM),
            Step::Memory(buffers) => {
                self.memory.left = match buffers {
                    u8::MAX => usize::MAX,
                    few => few.into(),
                }
            }
            Step::Connect(peer, port) => self.connect(peer, port),
            Step::Write(which, length) => self.write(which, length),
            Step::Read(which) => {
                if let Some(id) = self.id(which) {
                    while let Some(payload) = self.engine.read(now, id) {
                        assert!(!payload.is_empty());
                    }
                }
            }
            Step::Finish(which) => {
                if let Some(id) = self.id(which) {
                    self.engine.finish(now, id);
                }
            }
            Step::Close(which) => {
                if let Some(id) = self.id(which) {
                    self.ids.retain(|other| *other != id);
                    self.engine.close(now, id);
                }
            }
            Step::Abort(which) => {
                if let Some(id) = self.id(which) {
                    self.ids.retain(|other| *other != id);
                    self.engine.abort(now, id);
                }
            }
            Step::Listener(is_ipv6) => self.toggle(is_ipv6),
        }
    }

    fn id(&self, which: u8) -> Option<ConnectionId> {
        let count = self.ids.len().max(1);
        self.ids.get(usize::from(which) % count).copied()
    }

    fn last(&self, flow: &Flow) -> TcpHeader {
        self.last.get(&flow.remote()).copied().unwrap_or_default()
    }

    /// Closes a listener, or opens it.
    fn toggle(&mut self, is_ipv6: bool) {
        let listener = &mut self.listeners[usize::from(is_ipv6)];
        if let Some(id) = listener.take() {
            return self.engine.close_listener(self.now, id);
        }
        let any: IpAddr = match is_ipv6 {
            false => [0; 4].into(),
            true => [0; 16].into(),
        };
        let options = ListenOptions {
            backlog: 2,
            connection: TcpOptions {
                receive_buffer: 16 << 10,
                ..TcpOptions::default()
            },
        };
        let opened = self.engine.listen((any, PORT).into(), options);
        *listener = Some(opened.expect("the port is free"));
    }

    fn connect(&mut self, peer: Peer, port: u8) {
        let (local, remote) = match peer {
            Peer::Ourselves | Peer::Ourselves6 => (0, PORT),
            _ => (PORT, PEER_PORT + u16::from(port % 4)),
        };
        let (local, remote) = ((peer.local(), local).into(), (peer.ip(), remote).into());
        let options = TcpOptions::default();
        let connecting = self
            .engine
            .connect(self.now, local, remote, options, |_| true);
        self.ids.extend(connecting.ok());
    }

    fn write(&mut self, which: u8, length: u16) {
        let Some(id) = self.id(which) else {
            return;
        };
        let chunk = Bytes::from(vec![0; length.into()]);
        let written = self.engine.write(self.now, id, chunk);
        let is_gone = matches!(written, Err((WriteError::Gone, _)));
        assert!(!is_gone, "it was not let go of");
    }

    fn receive_segment(&mut self, peer: Peer, crafted: &Crafted, arriving: Arriving) {
        let flow = peer.flow(crafted.port);
        let last = self.last(&flow);
        let packet = crafted.packet(&flow, &last);
        let packets = match arriving {
            Arriving::Fragments => halves(packet),
            _ => vec![packet],
        };
        let segmentation = match arriving {
            Arriving::Merged(size) => Some(Segmentation {
                kind: SegmentKind::Tcp { ecn: false },
                size: size.max(1),
                header_length: 54,
            }),
            _ => None,
        };
        let is_plain = matches!(arriving, Arriving::Plain | Arriving::Fragments);
        let frame = |packet: &Vec<u8>| {
            let mut frame = HeapBuffer::new(&frame(packet));
            if !is_plain {
                frame.set_offload(Offload {
                    checksum: ChecksumState::Valid,
                    segmentation,
                });
            }
            frame
        };
        self.receive(packets.iter().map(frame).collect());
    }

    fn receive(&mut self, mut frames: Vec<HeapBuffer>) {
        self.host.receive(self.now, &mut frames, &mut self.memory);
        assert!(frames.is_empty());
    }

    /// Does what is due, and lets host and engine send.
    fn turn(&mut self) {
        self.host.set_transmit_room(self.room);
        self.host.handle_timeout(self.now, &mut self.memory);
        self.engine.handle_timeout(self.now);
        self.exchange();
        let next = [self.host.next_deadline(), self.engine.next_deadline()];
        assert!(next.into_iter().flatten().all(|next| next > self.now));
        while let Some(event) = self.engine.poll_event() {
            if let TcpEvent::Acceptable(listener) = event {
                while let Some(id) = self.engine.accept(self.now, listener) {
                    self.ids.push(id);
                }
            }
        }
        self.transmit();
        self.check();
    }

    fn exchange(&mut self) {
        // What is handed over comes back: this host owns all flows.
        for _ in 0..10_000 {
            exchange(
                self.now,
                &mut self.host,
                &mut self.engine,
                &mut self.outgoing,
                &mut self.memory,
            );
            assert!(!self.host.has_for_tcp());
            let mut burst: Vec<_> = std::iter::from_fn(|| self.host.take_handed_over()).collect();
            if burst.is_empty() {
                return;
            }
            self.host
                .receive_handed_over(self.now, &mut burst, &mut self.memory);
        }
        panic!("the host sends to itself without end");
    }

    /// Takes what is sent, and checks it.
    fn transmit(&mut self) {
        let frames = std::mem::take(self.host.transmit());
        assert!(frames.len() <= self.room);
        for mut frame in frames {
            let offload = frame.offload();
            frame.set_offload(Offload::NONE);
            if offload.is_none() {
                self.sent(frame);
                continue;
            }
            let mut pieces = Vec::new();
            segment(&mut frame, &offload, &mut Heap, &mut pieces).expect("described rightly");
            pieces.into_iter().for_each(|piece| self.sent(piece));
        }
    }

    /// Notes what a frame says, if it is a segment.
    fn sent(&mut self, mut frame: HeapBuffer) {
        assert!(frame.len() <= ethernet::HEADER + 1500);
        frame.trim_front(ethernet::HEADER);
        let (head, length) = (frame.head(), frame.len());
        let (source, destination, protocol, header): (IpAddr, IpAddr, _, _) =
            match head.first().map(|first| first >> 4) {
                Some(4) => match Ipv4Header::parse(head, length) {
                    Ok(ip) => (
                        ip.source.into(),
                        ip.destination.into(),
                        ip.protocol,
                        ip.header_length,
                    ),
                    Err(reason) => panic!("an IPv4 header: {reason:?}"),
                },
                Some(6) => match Ipv6Header::parse(head, length) {
                    Ok(ip) => (ip.source.into(), ip.destination.into(), ip.next_header, 40),
                    Err(reason) => panic!("an IPv6 header: {reason:?}"),
                },
                // ARP.
                _ => return,
            };
        if protocol != ipv4::TCP {
            return;
        }
        frame.trim_front(header);
        let sent = Segment::parse(source, destination, 0, frame, true).expect("well formed");
        let mut header = sent.header;
        header.sequence = header.sequence + sent.payload.len() as u32;
        // Seen from the other end.
        self.last.insert(sent.flow.local(), header);
    }

    fn check(&self) {
        invariants::check(&self.host, &self.limits);
        tcp::check(&self.engine);
        // There is no socket: all that was delivered are segments, which the engine has.
        assert_eq!(
            self.host.counters().delivered,
            self.engine.counters().rx_segments
        );
    }

    /// Lets go of all, and lets all time pass that host and engine wait for.
    fn end(mut self) {
        self.memory.left = usize::MAX;
        self.room = ROOM;
        for id in std::mem::take(&mut self.ids) {
            self.engine.abort(self.now, id);
        }
        for is_ipv6 in [false, true] {
            if self.listeners[usize::from(is_ipv6)].is_some() {
                self.toggle(is_ipv6);
            }
        }
        for _ in 0..20_000 {
            self.turn();
            let next = [self.host.next_deadline(), self.engine.next_deadline()];
            let Some(next) = next.into_iter().flatten().min() else {
                let usage = self.engine.usage();
                let connections = (usage.connections, usage.half_open, usage.time_wait);
                assert_eq!(connections, (0, 0, 0));
                assert_eq!((usage.receive_memory, usage.listeners), (0, 0));
                assert_eq!(self.host.reassembly_memory(), 0);
                return;
            };
            self.now = self.now.max(next);
        }
        panic!("there are deadlines without end: {:?}", self.engine.usage());
    }
}
