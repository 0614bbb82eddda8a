//! TCP over hosts: frames, neighbours, ICMP, and the host itself as peer.

use std::net::SocketAddr;

use bytes::Bytes;
use virtroupe_wire::host::exchange;
use virtroupe_wire::offload::segment;
use virtroupe_wire::tcp::{
    ConnectionId, ListenOptions, Outgoing, SeqNumber, TcpConfig, TcpError, TcpIcmp, TcpIcmpKind,
    TcpOptions, TcpState,
};
use virtroupe_wire::{Buffer, DropReason, Heap, HeapBuffer, Host, HostConfig, Instant};

use crate::support::{Engine, START, content, milliseconds, options, seconds};

/// A host with TCP.
pub struct Station {
    pub host: Host<HeapBuffer>,
    pub engine: Engine,
    outgoing: Outgoing<Bytes>,
    /// Frames that were split on their way out.
    split: usize,
    /// Frames that the transmit queue takes.
    room: usize,
}

impl Station {
    pub fn new(number: u8) -> Self {
        let config = HostConfig {
            mac: virtroupe_wire::MacAddr([2, 0, 0, 0, 0, number]),
            addresses: vec![format!("10.0.0.{number}/24").parse().expect("an address")],
            ..HostConfig::default()
        };
        let mut host = Host::new(config, number.into()).expect("valid settings");
        host.set_transmit_room(1000);
        host.enable_tcp();
        Station {
            host,
            engine: Engine::new(TcpConfig::default(), number.into()),
            outgoing: Outgoing::new(),
            split: 0,
            room: 1000,
        }
    }

    /// Makes the transmit queue so short.
    fn limit(&mut self, frames: usize) {
        self.room = frames;
        self.host.set_transmit_capacity(frames);
        self.host.set_transmit_room(frames);
    }

    /// Receives frames, does what is due, and returns what it sends.
    pub fn turn(&mut self, now: Instant, frames: Vec<HeapBuffer>) -> Vec<HeapBuffer> {
        let mut frames = frames;
        self.host.receive(now, &mut frames, &mut Heap);
        self.host.handle_timeout(now, &mut Heap);
        self.engine.handle_timeout(now);
        exchange(
            now,
            &mut self.host,
            &mut self.engine,
            &mut self.outgoing,
            &mut Heap,
        );
        self.host.set_transmit_room(self.room);
        let is_announced = self.host.take_has_offloads();
        let asks = |frame: &HeapBuffer| !frame.offload().is_none();
        assert_eq!(is_announced, self.host.transmit().iter().any(asks));
        let counters = self.host.counters();
        assert_eq!(
            counters.rx_frames + counters.looped,
            counters.delivered + counters.consumed + counters.rx_dropped + counters.held
        );
        let mut frames = Vec::new();
        for mut frame in self.host.transmit().drain(..) {
            let offload = frame.offload();
            match offload.segmentation {
                // As a device does.
                Some(_) => {
                    self.split += 1;
                    segment(&mut frame, &offload, &mut Heap, &mut frames).expect("it fits");
                }
                None => frames.push(frame),
            }
        }
        assert!(frames.iter().all(|frame| frame.len() <= 1514));
        frames
    }
}

fn at(number: u8, port: u16) -> SocketAddr {
    ([10, 0, 0, number], port).into()
}

pub fn open(client: &mut Station, to: u8, now: Instant) -> ConnectionId {
    client
        .engine
        .connect(now, at(1, 0), at(to, 80), options(), |_| true)
        .expect("a port is free")
}

#[test]
fn a_stream_crosses_two_hosts() {
    for (most_payload, room) in [(0, 1000), (60_000, 1000), (60_000, 64), (60_000, 1)] {
        cross(most_payload, room);
    }
}

/// A stream whose sender has a transmit queue of `room` frames.
fn cross(most_payload: u32, room: usize) {
    let (mut client, mut server) = (Station::new(1), Station::new(2));
    client.limit(room);
    client.engine.set_most_payload(most_payload);
    let listener = server
        .engine
        .listen(at(2, 80), ListenOptions::default())
        .expect("free");
    let mut now = START;
    let id = open(&mut client, 2, now);
    let (mut frames, mut accepted) = (Vec::new(), None);
    let (mut written, mut read) = (0_u64, Vec::new());
    for _ in 0..2000 {
        if written < 500_000 && client.engine.room(id) > 0 {
            let chunk = content(0, written, 10_000);
            client.engine.write(now, id, chunk).expect("there is room");
            written += 10_000;
        }
        frames = client.turn(now, frames);
        now = now + milliseconds(1);
        frames = server.turn(now, frames);
        accepted = accepted.or_else(|| server.engine.accept(now, listener));
        if let Some(id) = accepted {
            while let Some(payload) = server.engine.read(now, id) {
                read.extend(payload.to_vec());
            }
        }
        now = now + milliseconds(1);
    }
    assert!(read == content(0, 0, 500_000), "{} bytes", read.len());
    assert_eq!(client.engine.counters().retransmits, 0);
    assert_eq!(client.split > 10, most_payload > 0);
}

#[test]
fn a_host_connects_to_itself() {
    let mut station = Station::new(1);
    let any = ([0, 0, 0, 0], 80).into();
    let listener = station
        .engine
        .listen(any, ListenOptions::default())
        .expect("free");
    let mut now = START;
    let id = open(&mut station, 1, now);
    assert_eq!(station.turn(now, Vec::new()).len(), 0, "nothing leaves");
    assert_eq!(station.engine.state(id), Some(TcpState::Established));
    let server = station.engine.accept(now, listener).expect("it is open");
    station
        .engine
        .write(now, id, content(0, 0, 50_000))
        .expect("there is room");
    let mut read = Vec::new();
    for _ in 0..100 {
        station.turn(now, Vec::new());
        while let Some(payload) = station.engine.read(now, server) {
            read.extend(payload.to_vec());
        }
        now = now + milliseconds(5);
    }
    assert!(read == content(0, 0, 50_000), "{} bytes", read.len());
}

#[test]
fn a_host_without_a_listener_refuses_and_one_without_tcp_says_so() {
    let (mut client, mut server) = (Station::new(1), Station::new(2));
    let id = open(&mut client, 2, START);
    let mut frames = Vec::new();
    for _ in 0..4 {
        frames = client.turn(START, frames);
        frames = server.turn(START, frames);
    }
    assert_eq!(
        client.engine.error(id),
        Some(TcpError::Refused),
        "by a reset"
    );

    let (mut client, mut server) = (Station::new(1), Station::new(2));
    server.host = Host::new(
        HostConfig {
            mac: virtroupe_wire::MacAddr([2, 0, 0, 0, 0, 2]),
            addresses: vec!["10.0.0.2/24".parse().expect("an address")],
            ..HostConfig::default()
        },
        2,
    )
    .expect("valid settings");
    server.host.set_transmit_room(100);
    let id = open(&mut client, 2, START);
    let mut frames = Vec::new();
    for _ in 0..4 {
        frames = client.turn(START, frames);
        frames = server.turn(START, frames);
    }
    assert_eq!(server.host.drops()[DropReason::UnknownProtocol], 1);
    assert_eq!(client.engine.error(id), Some(TcpError::Refused), "by ICMP");
    assert_eq!(client.host.counters().icmp_errors_received, 1);
}

/// Somebody who knows the addresses and ports but not the numbers reports a narrow path.
#[test]
fn a_forged_path_mtu_is_not_believed() {
    let (mut client, mut server) = (Station::new(1), Station::new(2));
    server
        .engine
        .listen(at(2, 80), ListenOptions::default())
        .expect("free");
    let mut now = START;
    let id = open(&mut client, 2, now);
    client
        .engine
        .write(now, id, content(0, 0, 200_000))
        .expect("there is room");
    let mut frames = Vec::new();
    let mut longest = 0;
    for _ in 0..50 {
        frames = client.turn(now, frames);
        longest = 0;
        let mut forged = Vec::new();
        for frame in &frames {
            let mut bytes = frame.to_vec();
            longest = longest.max(bytes.len());
            if bytes.len() > 1400 {
                bytes[14 + 20 + 4] ^= 0x40; // a sequence number far away
                forged.push(fragmentation_needed(&bytes, 600));
            }
        }
        frames = server.turn(now, frames);
        frames.extend(forged);
        now = now + milliseconds(1);
        if longest == 1514 && client.host.counters().consumed > 30 {
            break;
        }
    }
    assert_eq!(longest, 1514);
    assert_eq!(client.host.counters().icmp_errors_received, 0);
}

/// A router says that a link on the path takes only 800 bytes.
#[test]
fn a_reported_path_mtu_shortens_segments() {
    let (mut client, mut server) = (Station::new(1), Station::new(2));
    let listener = server
        .engine
        .listen(at(2, 80), ListenOptions::default())
        .expect("free");
    let mut now = START;
    let id = open(&mut client, 2, now);
    client
        .engine
        .write(now, id, content(0, 0, 20_000))
        .expect("there is room");
    client.engine.finish(now, id);
    let (mut frames, mut accepted, mut read) = (Vec::new(), None, Vec::new());
    let mut reports = 0;
    for _ in 0..300 {
        let mut sent = client.turn(now, frames);
        now = now + milliseconds(1);
        let mut answers = Vec::new();
        sent.retain(|frame| {
            let is_long = frame.len() > 14 + 800;
            if is_long {
                reports += 1;
                answers.push(fragmentation_needed(&frame.to_vec(), 800));
            }
            !is_long
        });
        frames = server.turn(now, sent);
        frames.extend(answers);
        accepted = accepted.or_else(|| server.engine.accept(now, listener));
        if let Some(id) = accepted {
            while let Some(payload) = server.engine.read(now, id) {
                read.extend(payload.to_vec());
            }
        }
        now = now + milliseconds(1);
    }
    assert!(read == content(0, 0, 20_000), "{} bytes", read.len());
    assert!((1..=12).contains(&reports), "{reports}");
    assert_eq!(client.engine.counters().timeouts, 0);
    // Another connection to the same host knows it from the beginning.
    let other = client
        .engine
        .connect(now, at(1, 0), at(2, 80), TcpOptions::default(), |_| true)
        .expect("a port is free");
    client
        .engine
        .write(now, other, content(0, 0, 20_000))
        .expect("there is room");
    let mut frames = Vec::new();
    for _ in 0..100 {
        frames = client.turn(now, frames);
        assert!(frames.iter().all(|frame| frame.len() <= 14 + 800));
        frames = server.turn(now, frames);
        now = now + milliseconds(1);
    }
    assert!(
        client
            .engine
            .stats(other)
            .is_some_and(|stats| stats.acknowledged == 20_000)
    );
}

/// A connection learns on its own that a path is narrow, and the host a little later from a
/// router: it has forgotten that when the connection tries whether the path is wider.
#[test]
fn the_host_does_not_refuse_a_probe_for_a_wider_path() {
    let (mut client, mut server) = (Station::new(1), Station::new(2));
    server
        .engine
        .listen(at(2, 80), ListenOptions::default())
        .expect("free");
    let mut now = START;
    let (first, second) = (open(&mut client, 2, now), open(&mut client, 2, now));
    talk(&mut client, &mut server, &mut now);
    let write = |client: &mut Station, now, id| {
        let chunk = content(0, 0, 20_000);
        client.engine.write(now, id, chunk).expect("there is room");
    };
    write(&mut client, now, first);
    let sent = client.turn(now, Vec::new());
    let frame = sent.first().expect("it was written").to_vec();
    let number = frame[14 + 20 + 4..14 + 20 + 8].try_into().expect("4 bytes");
    let icmp = TcpIcmp {
        flow: client.engine.flow(first).expect("it is open"),
        sequence: SeqNumber(u32::from_be_bytes(number)),
        kind: TcpIcmpKind::TooBig { mtu: 800 },
    };
    assert!(client.engine.handle_icmp(now, &icmp));
    talk(&mut client, &mut server, &mut now);
    now = now + seconds(20);
    write(&mut client, now, second);
    let sent = client.turn(now, Vec::new());
    let long = sent.iter().find(|frame| frame.len() > 814);
    let report = fragmentation_needed(&long.expect("not told yet").to_vec(), 800);
    client.turn(now, vec![report]);
    assert_eq!(client.host.counters().icmp_errors_received, 1);
    now = now + milliseconds(1);
    assert!(talk(&mut client, &mut server, &mut now) <= 814);
    now = START + seconds(610);
    write(&mut client, now, first);
    assert_eq!(talk(&mut client, &mut server, &mut now), 1514);
}

/// Lets two stations talk for 5 s; the length of the longest frame of the first.
fn talk(client: &mut Station, server: &mut Station, now: &mut Instant) -> usize {
    let (mut frames, mut longest) = (Vec::new(), 0);
    for _ in 0..5000 {
        frames = client.turn(*now, frames);
        longest = longest.max(frames.iter().map(Buffer::len).max().unwrap_or(0));
        frames = server.turn(*now, frames);
        *now = *now + milliseconds(1);
    }
    longest
}

/// The ICMP error of a router about `frame`, as an Ethernet frame to its sender.
fn fragmentation_needed(frame: &[u8], mtu: u16) -> HeapBuffer {
    let packet = &frame[14..];
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(&packet[..28]);
    let sum = virtroupe_wire::checksum::checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let header = virtroupe_wire::ipv4::Ipv4Header {
        source: [10, 0, 0, 9].into(),
        destination: [10, 0, 0, 1].into(),
        protocol: 1,
        ttl: 64,
        dscp_ecn: 0,
        id: 1,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        header_length: 20,
        total_length: 20 + message.len(),
    };
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
    bytes.extend(header.to_bytes());
    bytes.extend(message);
    HeapBuffer::new(&bytes)
}
