//! Sequences of operations on two hosts with a bad link between them: nothing panics, every
//! packet is accounted for, and what arrives is what was sent.

#![no_main]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use virtroupe_fuzz::invariants;
use virtroupe_wire::offload::segment;
use virtroupe_wire::{
    Buffer, Heap, HeapBuffer, Host, HostConfig, Instant, Limits, MacAddr, Neighbor, Offload,
    Payload, UdpSend, UdpSocketId,
};

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Side {
    Left,
    Right,
}

#[derive(Arbitrary, Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    Bind(Side, Family, Option<bool>, u8),
    Connect(Side, Family, u8, bool, u8),
    Close(Side, u8),
    Room(Side, u8),
    Send {
        side: Side,
        socket: u8,
        family: Family,
        destination: Destination,
        port: u8,
        lengths: Vec<u16>,
        ttl: Option<u8>,
        as_buffer: bool,
    },
    /// Takes what a host has to send over the link; each frame meets a fate.
    Carry(Side, Vec<Fate>),
    /// Reads all sockets, and answers if asked to.
    Read(Side, bool),
    Wait(u16),
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Destination {
    Peer,
    PeerOwned(u8),
    Ourselves,
    Nobody(u8),
    Broadcast,
    LimitedBroadcast,
    Unrouted,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Fate {
    Arrive,
    Lose,
    Duplicate,
    /// Arrives before all others.
    Overtake,
    /// One bit is turned. It happens to one frame of a run only: two could make up for each
    /// other in a checksum.
    Turn(u16),
}

/// A host and the sockets that were bound, closed ones too.
struct End {
    host: Host<HeapBuffer>,
    sockets: Vec<UdpSocketId>,
    number: u8,
}

struct World {
    ends: [End; 2],
    limits: Limits,
    now: Instant,
    has_turned: bool,
}

fuzz_target!(|operations: Vec<Operation>| {
    let mut world = World::new();
    for operation in operations {
        world.apply(operation);
        for end in &world.ends {
            invariants::check(&end.host, &world.limits);
        }
    }
    for end in &mut world.ends {
        world.now = invariants::settle(&mut end.host, &world.limits, world.now);
    }
});

impl World {
    fn new() -> World {
        let limits = Limits {
            neighbors: 4,
            neighbor_queue: 8,
            reassembly_memory: 256 << 10,
            socket_queue: 16,
            sockets: 8,
            loopback: 4,
            ..Limits::default()
        };
        World {
            ends: [End::new(1, &limits), End::new(2, &limits)],
            limits,
            now: Instant::ZERO,
            has_turned: false,
        }
    }

    fn apply(&mut self, operation: Operation) {
        let now = self.now;
        match operation {
            Operation::Bind(side, family, address, port) => {
                self.end(side).bind(family, address, port)
            }
            Operation::Connect(side, family, socket, to_peer, port) => {
                self.end(side).connect(family, socket, to_peer, port)
            }
            Operation::Close(side, socket) => self.end(side).close(socket),
            Operation::Room(side, frames) => self.end(side).host.set_transmit_room(frames.into()),
            Operation::Send {
                side,
                socket,
                family,
                destination,
                port,
                lengths,
                ttl,
                as_buffer,
            } => {
                let end = self.end(side);
                let to = SocketAddr::from((end.address(family, destination), u16::from(port)));
                let burst = lengths.into_iter().take(16).map(|length| {
                    let content = content(usize::from(length));
                    let payload = match as_buffer {
                        true => Payload::Buffer(HeapBuffer::new(&content)),
                        false => Payload::Bytes(content.into()),
                    };
                    UdpSend {
                        ttl,
                        ..UdpSend::new(to, payload)
                    }
                });
                end.send(now, socket, burst.collect());
            }
            Operation::Carry(side, fates) => self.carry(side, &fates),
            Operation::Read(side, is_echo) => self.end(side).read(now, is_echo),
            Operation::Wait(milliseconds) => {
                self.now = now + Duration::from_millis(milliseconds.into());
                for end in &mut self.ends {
                    end.host.handle_timeout(self.now, &mut Heap);
                }
            }
        }
    }

    fn end(&mut self, side: Side) -> &mut End {
        &mut self.ends[side as usize]
    }

    fn carry(&mut self, from: Side, fates: &[Fate]) {
        let sent = cut(std::mem::take(self.end(from).host.transmit()));
        let mut arriving = Vec::new();
        for (index, mut frame) in sent.into_iter().enumerate() {
            match fates.get(index).copied().unwrap_or(Fate::Arrive) {
                Fate::Arrive => arriving.push(frame),
                Fate::Lose => (),
                Fate::Duplicate => arriving.extend([frame.clone(), frame]),
                Fate::Overtake => arriving.insert(0, frame),
                Fate::Turn(bit) => {
                    // Where a checksum covers it: in IPv4 behind the Ethernet header, in IPv6
                    // behind the IP header, and nowhere in ARP.
                    let head = frame.head_mut();
                    let start = match head.get(12..14) {
                        Some([8, 0]) => 14,
                        Some([0x86, 0xdd]) => 54,
                        _ => usize::MAX,
                    };
                    let covered = head.len().saturating_sub(start).max(1);
                    let place = start.saturating_add(usize::from(bit / 8) % covered);
                    if !self.has_turned && place < head.len() {
                        head[place] ^= 1 << (bit % 8);
                        self.has_turned = true;
                    }
                    arriving.push(frame);
                }
            }
        }
        let to = match from {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        };
        let now = self.now;
        // The driver hands a frame over in one piece: received memory has its own layout.
        let mut burst = arriving
            .iter()
            .map(|frame| HeapBuffer::new(&frame.to_vec()))
            .collect();
        self.end(to).host.receive(now, &mut burst, &mut Heap);
    }
}

impl End {
    fn new(number: u8, limits: &Limits) -> End {
        let parse = |text: String| text.parse().expect("an address");
        let config = HostConfig {
            mac: MacAddr([2, 0, 0, 0, 0, number]),
            addresses: vec![
                parse(format!("10.0.0.{number}/24")),
                parse(format!("fd00::{number}/64")),
            ],
            owned: vec![
                parse(format!("10.{number}.0.0/30")),
                parse(format!("fd0{number}::/126")),
            ],
            neighbors: vec![Neighbor {
                address: format!("fd00::{}", 3 - number).parse().expect("an address"),
                mac: MacAddr([2, 0, 0, 0, 0, 3 - number]),
            }],
            routes: vec![
                virtroupe_wire::Route {
                    destination: parse(format!("10.{}.0.0/30", 3 - number)),
                    gateway: Some(
                        format!("10.0.0.{}", 3 - number)
                            .parse()
                            .expect("an address"),
                    ),
                },
                virtroupe_wire::Route {
                    destination: parse(format!("fd0{}::/126", 3 - number)),
                    gateway: Some(format!("fd00::{}", 3 - number).parse().expect("an address")),
                },
            ],
            limits: limits.clone(),
            ..HostConfig::default()
        };
        let mut host = Host::new(config, number.into()).expect("the settings are valid");
        host.set_transmit_room(64);
        host.set_fragmentation_offload(number == 1);
        End {
            host,
            sockets: Vec::new(),
            number,
        }
    }

    fn address(&self, family: Family, destination: Destination) -> IpAddr {
        match family {
            Family::V4 => self.address_v4(destination).into(),
            Family::V6 => self.address_v6(destination).into(),
        }
    }

    fn address_v6(&self, destination: Destination) -> Ipv6Addr {
        let peer = u16::from(3 - self.number);
        let (first, last) = match destination {
            Destination::Peer => (0xfd00, peer),
            Destination::PeerOwned(last) => (0xfd00 + peer, u16::from(last % 4)),
            Destination::Ourselves => (0xfd00, self.number.into()),
            Destination::Nobody(last) => (0xfd00, 100 + u16::from(last % 100)),
            Destination::Broadcast | Destination::LimitedBroadcast => (0xff02, 1),
            Destination::Unrouted => (0x2001, 1),
        };
        Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last)
    }

    fn address_v4(&self, destination: Destination) -> [u8; 4] {
        let peer = 3 - self.number;
        match destination {
            Destination::Peer => [10, 0, 0, peer],
            Destination::PeerOwned(last) => [10, peer, 0, last % 4],
            Destination::Ourselves => [10, 0, 0, self.number],
            Destination::Nobody(last) => [10, 0, 0, 100 + last % 100],
            Destination::Broadcast => [10, 0, 0, 255],
            Destination::LimitedBroadcast => [255; 4],
            Destination::Unrouted => [192, 0, 2, 1],
        }
    }

    fn socket(&self, index: u8) -> Option<UdpSocketId> {
        self.sockets
            .get(usize::from(index) % self.sockets.len().max(1))
            .copied()
    }

    fn bind(&mut self, family: Family, address: Option<bool>, port: u8) {
        let number = u16::from(self.number);
        let ip: IpAddr = match (family, address) {
            (Family::V4, None) => [0; 4].into(),
            (Family::V4, Some(true)) => [10, 0, 0, self.number].into(),
            (Family::V4, Some(false)) => [10, self.number, 0, 0].into(),
            (Family::V6, None) => [0; 16].into(),
            (Family::V6, Some(true)) => [0xfd00, 0, 0, 0, 0, 0, 0, number].into(),
            (Family::V6, Some(false)) => [0xfd00 + number, 0, 0, 0, 0, 0, 0, 1].into(),
        };
        if let Ok(id) = self.host.bind_udp((ip, u16::from(port)).into()) {
            self.sockets.push(id);
        }
    }

    fn connect(&mut self, family: Family, socket: u8, to_peer: bool, port: u8) {
        let address = self.address(
            family,
            if to_peer {
                Destination::Peer
            } else {
                Destination::Nobody(1)
            },
        );
        if let Some(id) = self.socket(socket) {
            let local = self.host.udp_local(id);
            let is_open = local.is_some_and(|local| local.is_ipv6() == (family == Family::V6));
            let connected = self.host.connect_udp(id, (address, u16::from(port)).into());
            assert_eq!(connected.is_ok(), is_open && port != 0);
        }
    }

    fn close(&mut self, socket: u8) {
        if let Some(id) = self.socket(socket) {
            self.host.close_udp(id);
            assert!(self.host.udp_received(id).is_none());
        }
    }

    fn send(&mut self, now: Instant, socket: u8, mut burst: Vec<UdpSend<HeapBuffer>>) {
        let Some(id) = self.socket(socket) else {
            return;
        };
        let offered = burst.len();
        let outcome = self.host.send_udp(now, id, &mut burst, &mut Heap);
        assert_eq!(outcome.accepted + outcome.refused, offered);
        assert_eq!(burst.len(), outcome.refused);
        assert!(burst.iter().all(|datagram| datagram.refused.is_some()));
    }

    fn read(&mut self, now: Instant, is_echo: bool) {
        while let Some(id) = self.host.take_ready_udp() {
            let received: Vec<_> = match self.host.udp_received(id) {
                None => continue,
                Some(queue) => queue.drain(..).collect(),
            };
            for datagram in &received {
                let bytes = datagram.payload.to_vec();
                assert_eq!(bytes, content(bytes.len()), "from {}", datagram.source);
            }
            if let Some(errors) = self.host.udp_errors(id) {
                errors.clear();
            }
            if is_echo {
                let mut replies: Vec<_> = received.into_iter().map(UdpSend::reply).collect();
                let offered = replies.len();
                let outcome = self.host.send_udp(now, id, &mut replies, &mut Heap);
                assert_eq!(outcome.accepted + outcome.refused, offered);
                // Sent to ourselves it would be ready again at once.
                return;
            }
        }
    }
}

/// What a device makes of frames.
fn cut(frames: Vec<HeapBuffer>) -> Vec<HeapBuffer> {
    let mut pieces = Vec::new();
    for mut frame in frames {
        let offload = frame.offload();
        frame.set_offload(Offload::NONE);
        if offload.is_none() {
            pieces.push(frame);
        } else {
            segment(&mut frame, &offload, &mut Heap, &mut pieces).expect("described rightly");
        }
    }
    pieces
}

/// What a datagram of `length` bytes carries.
fn content(length: usize) -> Vec<u8> {
    (0..length)
        .map(|place| ((place + length) % 251) as u8)
        .collect()
}
