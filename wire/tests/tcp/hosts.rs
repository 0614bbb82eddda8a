//! TCP over hosts of both families: frames, neighbours, ICMP, and the host itself as peer.

use std::net::IpAddr;

use bytes::Bytes;
use etherparse::PacketBuilder;
use virtroupe_wire::host::exchange;
use virtroupe_wire::offload::{DeviceSegmentation, segment};
use virtroupe_wire::tcp::{
    ConnectionId, ListenOptions, ListenerId, Outgoing, SeqNumber, TcpConfig, TcpError, TcpEvent,
    TcpIcmp, TcpIcmpKind, TcpOptions, TcpState,
};
use virtroupe_wire::{
    Buffer, DropReason, Heap, HeapBuffer, Host, HostConfig, Instant, MacAddr, Neighbor,
};

use crate::support::{
    Engine, FAMILIES, Family, START, address, content, milliseconds, options, seconds,
};

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
        let mut host = Host::new(settings(number), number.into()).expect("valid settings");
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
            counters.rx_frames + counters.looped + counters.split,
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

/// A client, and a server that listens at port 80.
fn listening(family: Family) -> (Station, Station, ListenerId) {
    let (client, mut server) = (Station::new(1), Station::new(2));
    let local = address(family, 2, 80);
    let listener = server.engine.listen(local, ListenOptions::default());
    (client, server, listener.expect("free"))
}

/// The settings of a station of both families. Over IPv6 it knows the others.
fn settings(number: u8) -> HostConfig {
    let others = (1..=9).filter(|other| *other != number);
    let neighbor = |other| Neighbor {
        address: address(Family::V6, other, 0).ip(),
        mac: mac(other),
    };
    let net = |text: String| text.parse().expect("an address");
    HostConfig {
        mac: mac(number),
        addresses: vec![
            net(format!("10.0.0.{number}/24")),
            net(format!("fd00::{number}/64")),
        ],
        neighbors: others.map(neighbor).collect(),
        ..HostConfig::default()
    }
}

fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

pub fn open(client: &mut Station, family: Family, to: u8, now: Instant) -> ConnectionId {
    let (local, remote) = (address(family, 1, 0), address(family, to, 80));
    client
        .engine
        .connect(now, local, remote, options(), |_| true)
        .expect("a port is free")
}

#[test]
fn a_stream_crosses_two_hosts() {
    for family in FAMILIES {
        for (most_payload, room) in [(0, 1000), (60_000, 1000), (60_000, 64), (60_000, 1)] {
            cross(family, most_payload, room);
        }
    }
}

/// A stream whose sender has a transmit queue of `room` frames.
fn cross(family: Family, most_payload: u32, room: usize) {
    let (mut client, mut server) = (Station::new(1), Station::new(2));
    client.limit(room);
    client.engine.set_most_payload(most_payload);
    client.host.set_device_segmentation(DeviceSegmentation {
        tcp_v4: true,
        tcp_v6: true,
        tcp_ecn: true,
        longest: 65_549,
        ..DeviceSegmentation::default()
    });
    let listener = server
        .engine
        .listen(address(family, 2, 80), ListenOptions::default())
        .expect("free");
    let mut now = START;
    let id = open(&mut client, family, 2, now);
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
    FAMILIES.into_iter().for_each(connect_to_itself);
}

fn connect_to_itself(family: Family) {
    let mut station = Station::new(1);
    let any = match family {
        Family::V4 => ([0; 4], 80).into(),
        Family::V6 => ([0; 16], 80).into(),
    };
    let listener = station
        .engine
        .listen(any, ListenOptions::default())
        .expect("free");
    let mut now = START;
    let id = open(&mut station, family, 1, now);
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
    FAMILIES.into_iter().for_each(be_refused);
}

fn be_refused(family: Family) {
    let (mut client, mut server) = (Station::new(1), Station::new(2));
    let id = open(&mut client, family, 2, START);
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
    server.host = Host::new(settings(2), 2).expect("valid settings");
    server.host.set_transmit_room(100);
    let id = open(&mut client, family, 2, START);
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
    FAMILIES.into_iter().for_each(forge_a_path_mtu);
}

fn forge_a_path_mtu(family: Family) {
    let (mut client, mut server, _) = listening(family);
    let mut now = START;
    let id = open(&mut client, family, 2, now);
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
                bytes[14 + ip_header(family) + 4] ^= 0x40; // a sequence number far away
                forged.push(too_big(family, &bytes, narrow(family) - 20));
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

/// A router says that a link on the path takes less than ours.
#[test]
fn a_reported_path_mtu_shortens_segments() {
    FAMILIES.into_iter().for_each(report_a_path_mtu);
}

fn report_a_path_mtu(family: Family) {
    let (mut client, mut server, listener) = listening(family);
    let mut now = START;
    let id = open(&mut client, family, 2, now);
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
            let is_long = frame.len() > 14 + usize::from(narrow(family));
            if is_long {
                reports += 1;
                answers.push(too_big(family, &frame.to_vec(), narrow(family)));
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
        .connect(
            now,
            address(family, 1, 0),
            address(family, 2, 80),
            TcpOptions::default(),
            |_| true,
        )
        .expect("a port is free");
    client
        .engine
        .write(now, other, content(0, 0, 20_000))
        .expect("there is room");
    let mut frames = Vec::new();
    for _ in 0..100 {
        frames = client.turn(now, frames);
        let longest = 14 + usize::from(narrow(family));
        assert!(frames.iter().all(|frame| frame.len() <= longest));
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

/// The MTU of a link that is narrower than ours, in bytes.
fn narrow(family: Family) -> u16 {
    match family {
        Family::V4 => 800,
        Family::V6 => 1300, // every link takes 1280
    }
}

fn ip_header(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// A connection learns on its own that a path is narrow, and the host a little later from a
/// router: it has forgotten that when the connection tries whether the path is wider.
#[test]
fn the_host_does_not_refuse_a_probe_for_a_wider_path() {
    let (mut client, mut server, _) = listening(Family::V4);
    let mut now = START;
    let (first, second) = (
        open(&mut client, Family::V4, 2, now),
        open(&mut client, Family::V4, 2, now),
    );
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
    let report = too_big(Family::V4, &long.expect("not told yet").to_vec(), 800);
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
fn too_big(family: Family, frame: &[u8], mtu: u16) -> HeapBuffer {
    let builder = PacketBuilder::ethernet2(mac(9).0, mac(1).0);
    let [high, low] = mtu.to_be_bytes();
    let word = [0, 0, high, low];
    let cited = &frame[14..14 + ip_header(family) + 8];
    let mut bytes = Vec::new();
    let (router, sender) = (address(family, 9, 0).ip(), address(family, 1, 0).ip());
    match (router, sender) {
        (IpAddr::V4(router), IpAddr::V4(sender)) => builder
            .ipv4(router.octets(), sender.octets(), 64)
            .icmpv4_raw(3, 4, word)
            .write(&mut bytes, cited),
        (IpAddr::V6(router), IpAddr::V6(sender)) => builder
            .ipv6(router.octets(), sender.octets(), 64)
            .icmpv6_raw(2, 0, word)
            .write(&mut bytes, cited),
        _ => unreachable!("both are of one family"),
    }
    .expect("it is written to memory");
    HeapBuffer::new(&bytes)
}

#[test]
fn a_neighbor_that_does_not_answer_ends_an_attempt_to_connect_and_nothing_else() {
    let (mut client, mut server, _) = listening(Family::V4);
    let mut now = START;
    let open_one = open(&mut client, Family::V4, 2, now);
    let mut frames = Vec::new();
    for _ in 0..10 {
        frames = client.turn(now, frames);
        frames = server.turn(now, frames);
        now = now + milliseconds(1);
    }
    let lost_one = open(&mut client, Family::V4, 9, now);
    // Asked three times, a second apart.
    for _ in 0..35 {
        client.turn(now, Vec::new());
        now = now + milliseconds(100);
    }
    let engine = &client.engine;
    assert_eq!(engine.state(lost_one), Some(TcpState::Closed));
    assert_eq!(engine.error(lost_one), Some(TcpError::Unreachable));
    assert_eq!(engine.state(open_one), Some(TcpState::Established));
    // While that is known, another one ends at once.
    let late = open(&mut client, Family::V4, 9, now);
    client.turn(now, Vec::new());
    assert_eq!(client.engine.error(late), Some(TcpError::Unreachable));
}

#[test]
fn the_end_of_a_closed_connection_is_told_once_if_it_was_asked_for() {
    let (mut client, mut server) = (Station::new(1), Station::new(2));
    client.engine.tell_ends();
    let listener = server
        .engine
        .listen(address(Family::V4, 2, 80), ListenOptions::default())
        .expect("free");
    let mut now = START;
    let id = open(&mut client, Family::V4, 2, now);
    let (mut frames, mut accepted, mut ends) = (Vec::new(), None, Vec::new());
    for round in 0..20 {
        frames = client.turn(now, frames);
        frames = server.turn(now, frames);
        accepted = accepted.or_else(|| server.engine.accept(now, listener));
        match round {
            5 => client.engine.close(now, id),
            10 => {
                assert_eq!(ends, [], "the peer has not finished");
                server.engine.close(now, accepted.expect("accepted"));
            }
            _ => {}
        }
        while let Some(event) = client.engine.poll_event() {
            if let TcpEvent::Ended(ended) = event {
                ends.push(ended);
            }
        }
        now = now + milliseconds(1);
    }
    assert_eq!(ends, [id]);
    assert_eq!(client.engine.usage().time_wait, 1);
    while let Some(event) = server.engine.poll_event() {
        assert!(!matches!(event, TcpEvent::Ended(_)), "nobody asked");
    }
}

#[test]
fn who_goes_away_resets_all_connections_those_that_were_closed_too() {
    let (mut client, mut server, listener) = listening(Family::V4);
    let mut now = START;
    let ids = [
        open(&mut client, Family::V4, 2, now),
        open(&mut client, Family::V4, 2, now),
    ];
    let mut frames = Vec::new();
    for _ in 0..10 {
        frames = client.turn(now, frames);
        frames = server.turn(now, frames);
        now = now + milliseconds(1);
    }
    client.engine.close(now, ids[0]);
    frames = client.turn(now, frames);
    frames = server.turn(now, frames);
    client.engine.abort_all(now);
    for _ in 0..3 {
        frames = client.turn(now, frames);
        frames = server.turn(now, frames);
    }
    while let Some(id) = server.engine.accept(now, listener) {
        assert_eq!(server.engine.error(id), Some(TcpError::Reset));
    }
    assert_eq!(client.engine.error(ids[1]), Some(TcpError::Aborted));
    assert_eq!(
        client.engine.usage().connections,
        1,
        "the one with an owner"
    );
}

#[test]
fn who_waits_for_room_is_told_of_it_without_a_refused_write() {
    let (mut client, mut server, listener) = listening(Family::V4);
    let mut now = START;
    let id = open(&mut client, Family::V4, 2, now);
    assert!(!client.engine.want_room(now, id), "there is some");
    while client.engine.room(id) > 0 {
        let chunk = content(0, 0, 60_000);
        client.engine.write(now, id, chunk).expect("there is room");
    }
    assert!(client.engine.want_room(now, id));
    let (mut frames, mut accepted, mut is_told) = (Vec::new(), None, false);
    for _ in 0..2000 {
        frames = client.turn(now, frames);
        frames = server.turn(now, frames);
        accepted = accepted.or_else(|| server.engine.accept(now, listener));
        if let Some(id) = accepted {
            while server.engine.read(now, id).is_some() {}
            assert!(!server.engine.has_received(id));
        }
        while let Some(event) = client.engine.poll_event() {
            is_told |= matches!(event, TcpEvent::Connection(_, told) if told.writable);
        }
        now = now + milliseconds(1);
    }
    assert!(is_told);
    client.engine.finish(now, id);
    assert!(!client.engine.can_write(id));
    assert!(!client.engine.want_room(now, id), "there will never be");
}
