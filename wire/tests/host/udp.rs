//! UDP: validation, sending, loopback and broadcast.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use virtroupe_wire::{
    Buffer, DropReason, HeapBuffer, HostConfig, MacAddr, Neighbor, Payload, SendOutcome,
    UdpDatagram, UdpSend, UdpSocketId,
};

use crate::support::*;

/// A second peer.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

#[test]
fn a_datagram_is_delivered_with_everything_about_it() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    bed.receive(&ipv4(17, OUR, &segment(9, 7, b"payload"), |header| {
        header.time_to_live = 3;
        header.dscp = 46.try_into().unwrap();
        header.ecn = 3.try_into().unwrap();
    }));
    assert_eq!(bed.host.take_ready_udp(), Some(socket));
    assert_eq!(bed.host.take_ready_udp(), None);
    let datagram = bed.received(socket).remove(0);
    assert_eq!(datagram.source, (PEER, 9).into());
    assert_eq!(datagram.destination, (OUR, 7).into());
    assert_eq!((datagram.ttl, datagram.dscp(), datagram.ecn()), (3, 46, 3));
    assert_eq!(datagram.payload.to_vec(), b"payload");
    assert!(
        datagram.payload.headroom() >= 42,
        "the headers became headroom"
    );
}

#[test]
fn a_segment_under_8_bytes_is_malformed() {
    let mut bed = Bed::new(config());
    bed.bind("0.0.0.0:7");
    for length in 0..8 {
        bed.receive(&ipv4(17, OUR, &segment(9, 7, b"")[..length], |_| ()));
    }
    assert_eq!(bed.dropped(DropReason::Malformed), 8);
}

#[test]
fn the_udp_length_is_verified() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    for length in [0_u16, 7, 16, 65_535] {
        let mut bytes = segment(9, 7, b"payload");
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
        bed.receive(&ipv4(17, OUR, &bytes, |_| ()));
    }
    assert_eq!(bed.dropped(DropReason::Malformed), 4);
    // Bytes beyond the UDP length are not part of the datagram.
    let mut bytes = segment(9, 7, b"payload");
    bytes.extend_from_slice(b"beyond");
    bed.receive(&ipv4(17, OUR, &bytes, |_| ()));
    assert_eq!(bed.received(socket)[0].payload.to_vec(), b"payload");
}

#[test]
fn the_udp_checksum_is_verified_unless_it_is_zero() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let mut frame = udp((PEER, 9), (OUR, 7), b"payload");
    frame[48] ^= 0x40;
    assert!(bed.receive(&frame).is_empty());
    assert_eq!(bed.dropped(DropReason::Checksum), 1);
    frame[40..42].fill(0);
    bed.receive(&frame);
    assert_eq!(bed.received(socket).len(), 1);
}

#[test]
fn a_checksum_of_zero_is_sent_as_ones() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let _ = bed.send(socket, (PEER, 9), &[b"\0\0"]);
    let frame = bed.sent().remove(0);
    // The payload that makes the sum all ones is the checksum of the datagram without it.
    let _ = bed.send(socket, (PEER, 9), &[&frame[40..42]]);
    let frame = bed.sent().remove(0);
    assert_eq!(frame[40..42], [0xff, 0xff]);
    read_udp(&frame);
}

#[test]
fn a_reply_goes_back_in_the_same_memory() {
    let mut bed = Bed::new(HostConfig {
        owned: vec!["172.16.0.0/16".parse().unwrap()],
        ..config()
    });
    let socket = bed.bind("0.0.0.0:7");
    let asked = Ipv4Addr::new(172, 16, 3, 4);
    bed.pool.left = 0;
    bed.receive(&udp((PEER, 9), (asked, 7), b"echo"));
    let mut burst: Vec<_> = bed
        .received(socket)
        .into_iter()
        .map(UdpSend::reply)
        .collect();
    assert_eq!(bed.send_burst(socket, &mut burst).accepted, 1);
    let sent = bed.sent();
    assert_eq!(sent[0][..6], PEER_MAC.0);
    assert_eq!(read_udp(&sent[0]), (7, 9, b"echo".to_vec()));
    assert_eq!(
        read_ipv4(&sent[0]).0.source,
        asked.octets(),
        "the address that was asked"
    );
}

proptest! {
    /// The first datagram to a destination goes the slow way, later ones the fast way.
    #[test]
    fn the_fast_way_sends_what_the_slow_way_sends(
        payload in proptest::collection::vec(any::<u8>(), 0..1600),
        ttl in proptest::option::of(1_u8..),
        dscp_ecn in any::<u8>(),
        is_bound in any::<bool>(),
        is_sourced in any::<bool>(),
        ports in (1_u16.., 1_u16..),
    ) {
        let mut bed = Bed::new(config());
        let ip = if is_bound { OUR } else { Ipv4Addr::UNSPECIFIED };
        let socket = bed.bind(&format!("{ip}:{}", ports.0));
        let mut frames = Vec::new();
        for _ in 0..2 {
            let mut send = UdpSend::new(
                (PEER, ports.1).into(),
                Payload::Buffer(HeapBuffer::new(&payload)),
            );
            send.ttl = ttl;
            send.dscp_ecn = dscp_ecn;
            send.source = is_sourced.then_some(OUR.into());
            prop_assert_eq!(bed.send_burst(socket, &mut vec![send]).accepted, 1);
            let mut sent = bed.sent();
            for frame in &mut sent {
                read_ipv4(frame); // the checksum is right; it differs as the identification does
                frame[18..20].fill(0);
                frame[24..26].fill(0);
            }
            if sent.len() == 1 {
                prop_assert_eq!(&read_datagram(&sent[0]), &payload);
            }
            frames.push(sent);
        }
        prop_assert_eq!(&frames[0], &frames[1]);
        let header = etherparse::Ipv4Header::from_slice(&frames[0][0][14..]).unwrap().0;
        prop_assert_eq!(header.time_to_live, ttl.unwrap_or(64));
        prop_assert_eq!(header.dscp.value() << 2 | header.ecn.value(), dscp_ecn);
        prop_assert_eq!(header.source, OUR.octets());
    }
}

proptest! {
    /// Also of more datagrams than are looked at before the first is written, and to several hosts.
    #[test]
    fn a_long_burst_is_sent_in_order(
        sends in proptest::collection::vec(
            (prop_oneof![9 => Just(PEER), 1 => Just(OTHER)], 0_usize..80),
            0..200,
        ),
    ) {
        let neighbor = |address: Ipv4Addr, mac| Neighbor { address: address.into(), mac };
        let mut bed = Bed::new(HostConfig {
            neighbors: vec![neighbor(PEER, PEER_MAC), neighbor(OTHER, OTHER_MAC)],
            ..config()
        });
        let socket = bed.bind("0.0.0.0:7");
        // From here on both paths are remembered.
        for peer in [PEER, OTHER] {
            let _ = bed.send(socket, (peer, 9), &[b"first"]);
        }
        bed.sent();
        let mut burst: Vec<_> = (1..)
            .zip(&sends)
            .map(|(port, (peer, length))| {
                let payload = Payload::Buffer(HeapBuffer::new(&pattern(*length)));
                UdpSend::new((*peer, port).into(), payload)
            })
            .collect();
        prop_assert_eq!(bed.send_burst(socket, &mut burst).refused, 0);
        let sent = bed.sent();
        prop_assert_eq!(sent.len(), sends.len());
        for ((port, (peer, length)), frame) in (1..).zip(&sends).zip(&sent) {
            let mac = if *peer == PEER { PEER_MAC } else { OTHER_MAC };
            prop_assert_eq!(&frame[..6], &mac.0);
            prop_assert_eq!(read_ipv4(frame).0.destination, peer.octets());
            prop_assert_eq!(read_udp(frame), (7, port, pattern(*length)));
        }
    }
}

/// What replies to `requests` make of a host: what it sends, refuses and drops. Each request is
/// the last byte of its source, its source port, the last byte of its destination, and its length.
fn replies(
    requests: &[(u8, u16, u8, usize)],
    is_bound: bool,
    room: usize,
    reply: impl FnOnce(&mut Bed, UdpSocketId, Vec<UdpDatagram<HeapBuffer>>) -> (SendOutcome, Reasons),
) -> (Vec<Vec<u8>>, SendOutcome, Reasons, u64) {
    let mut bed = Bed::new(HostConfig {
        owned: vec!["10.0.0.64/30".parse().unwrap()],
        ..config()
    });
    let ip = if is_bound { OUR } else { Ipv4Addr::UNSPECIFIED };
    let socket = bed.bind(&format!("{ip}:7"));
    // What is remembered of the peer serves the replies.
    let _ = bed.send(socket, (PEER, 9), &[b"first"]);
    bed.sent();
    for (source, port, destination, length) in requests {
        let from = (Ipv4Addr::new(10, 0, 0, *source), *port);
        let to = (Ipv4Addr::new(10, 0, 0, *destination), 7);
        bed.receive(&udp(from, to, &pattern(*length)));
    }
    bed.sent();
    let received = bed.received(socket);
    bed.host.set_transmit_room(room);
    let (outcome, reasons) = reply(&mut bed, socket, received);
    bed.check();
    let dropped = bed.host.drops().total();
    (bed.sent(), outcome, reasons, dropped)
}

type Reasons = Vec<Option<DropReason>>;

fn reasons(refused: &[UdpSend<HeapBuffer>]) -> Reasons {
    refused.iter().map(|send| send.refused).collect()
}

proptest! {
    #[test]
    fn replies_are_what_sending_them_would_be(
        requests in proptest::collection::vec(
            // Mostly the peer, some whose address must be asked for; mostly to us, some to an
            // owned prefix, to everybody, or to nobody; port 0 can not be answered.
            (
                prop_oneof![6 => Just(2_u8), 1 => 3_u8..6],
                prop_oneof![8 => 1_u16.., 1 => Just(0)],
                prop_oneof![6 => Just(1_u8), 2 => 64_u8..68, 1 => Just(255), 1 => any::<u8>()],
                prop_oneof![4 => 0_usize..100, 1 => 0_usize..1472],
            ),
            0..20,
        ),
        is_bound in any::<bool>(),
        room in prop_oneof![3 => Just(100_usize), 1 => 0_usize..20],
    ) {
        let sent = replies(&requests, is_bound, room, |bed, socket, received| {
            let mut burst = received.into_iter().map(UdpSend::reply).collect();
            let outcome = bed.host.send_udp(bed.now, socket, &mut burst, &mut bed.pool);
            (outcome, reasons(&burst))
        });
        let replied = replies(&requests, is_bound, room, |bed, socket, mut received| {
            let mut refused = Vec::new();
            let host = &mut bed.host;
            let outcome =
                host.reply_udp(bed.now, socket, &mut received, &mut refused, &mut bed.pool);
            assert!(received.is_empty());
            (outcome, refused.into_iter().map(Some).collect())
        });
        prop_assert_eq!(sent, replied);
    }
}

#[test]
fn replies_from_a_closed_socket_are_refused() {
    let (_, outcome, reasons, _) = replies(&[(2, 9, 1, 5)], false, 9, |bed, socket, received| {
        bed.host.close_udp(socket);
        let (mut burst, mut refused) = (received, Vec::new());
        let host = &mut bed.host;
        let outcome = host.reply_udp(bed.now, socket, &mut burst, &mut refused, &mut bed.pool);
        (outcome, refused.into_iter().map(Some).collect())
    });
    assert_eq!((outcome.accepted, outcome.refused), (0, 1));
    assert_eq!(reasons, [Some(DropReason::SocketClosed)]);
}

/// The UDP payload of a frame whose UDP checksum is right.
fn read_datagram(frame: &[u8]) -> Vec<u8> {
    let (header, rest) = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap();
    let (udp, payload) = etherparse::UdpHeader::from_slice(rest).unwrap();
    assert_eq!(udp.calc_checksum_ipv4(&header, payload), Ok(udp.checksum));
    payload.to_vec()
}

#[test]
fn each_bad_datagram_is_refused_and_the_others_go() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let good = || UdpSend::new((PEER, 9).into(), Payload::Buffer(HeapBuffer::new(b"x")));
    let too_big = Payload::Bytes(vec![0; 65_508].into());
    let mut burst = vec![
        good(),
        UdpSend::new((PEER, 9).into(), too_big),
        UdpSend::new(([192, 0, 2, 1], 9).into(), Payload::Bytes("x".into())),
        UdpSend::new(([127, 0, 0, 1], 9).into(), Payload::Bytes("x".into())),
        UdpSend::new(([224, 0, 0, 1], 9).into(), Payload::Bytes("x".into())),
        UdpSend::new(([10, 0, 0, 0], 9).into(), Payload::Bytes("x".into())),
        UdpSend::new("[::1]:9".parse().unwrap(), Payload::Bytes("x".into())),
        UdpSend::new((PEER, 0).into(), Payload::Bytes("x".into())),
        UdpSend {
            ttl: Some(0),
            ..good()
        },
        UdpSend {
            source: Some(PEER.into()),
            ..good()
        },
        good(),
    ];
    let outcome = bed.send_burst(socket, &mut burst);
    assert_eq!((outcome.accepted, outcome.refused), (2, 9));
    let reasons: Vec<_> = burst.iter().filter_map(|send| send.refused).collect();
    use DropReason::{BadSource, Malformed, NoRoute, TooBig};
    let no_route = [NoRoute; 5];
    assert_eq!(reasons[0], TooBig);
    assert_eq!(reasons[1..6], no_route);
    assert_eq!(reasons[6..], [Malformed, Malformed, BadSource]);
    assert_eq!(bed.sent().len(), 2);
}

#[test]
fn a_full_ring_refuses_the_rest_in_order() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    bed.host.set_transmit_room(2);
    let (outcome, mut refused) = bed.send(socket, (PEER, 9), &[b"0", b"1", b"2", b"3", b"4"]);
    assert_eq!((outcome.accepted, outcome.refused), (2, 3));
    assert!(
        refused
            .iter()
            .all(|send| send.refused == Some(DropReason::RingFull))
    );
    assert_eq!(bed.dropped(DropReason::RingFull), 3);
    bed.host.transmit().clear();
    bed.host.set_transmit_room(10);
    assert_eq!(bed.send_burst(socket, &mut refused).accepted, 3);
    let sent: Vec<_> = bed.sent().iter().map(|frame| read_udp(frame).2).collect();
    assert_eq!(sent, [b"2", b"3", b"4"]);
}

#[test]
fn a_payload_without_headroom_is_copied() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let mut payload = HeapBuffer::new(b"payload");
    let filler = payload.headroom();
    payload.prepend(filler).unwrap().fill(b'-');
    let expected = payload.to_vec();
    let mut burst = vec![UdpSend::new((PEER, 9).into(), Payload::Buffer(payload))];
    assert_eq!(bed.send_burst(socket, &mut burst).accepted, 1);
    assert_eq!(read_udp(&bed.sent()[0]).2, expected);
}

#[test]
fn what_is_sent_to_our_own_address_loops_back() {
    let mut bed = Bed::new(HostConfig {
        owned: vec!["172.16.0.0/16".parse().unwrap()],
        ..config()
    });
    bed.host.set_transmit_room(0);
    let from = bed.bind("10.0.0.1:9");
    let to = bed.bind("0.0.0.0:7");
    for own in [OUR, [172, 16, 9, 9].into()] {
        for length in [0, 5, 65_507] {
            let (outcome, _) = bed.send(from, (own, 7), &[&pattern(length)]);
            assert_eq!(outcome.accepted, 1);
            let datagram = bed.received(to).remove(0);
            assert_eq!(datagram.payload.to_vec(), pattern(length));
            assert_eq!(datagram.source, (OUR, 9).into());
            let _ = bed.send_burst(to, &mut vec![UdpSend::reply(datagram)]);
            assert_eq!(bed.received(from)[0].source, (own, 7).into());
        }
    }
    assert!(bed.host.transmit().is_empty());
    assert_eq!(bed.host.counters().looped, 12);
    // A closed port of ours is an error for our socket.
    let _ = bed.send(from, (OUR, 1), &[b"anyone?"]);
    assert_eq!(bed.host.udp_errors(from).unwrap().len(), 1);
}

#[test]
fn loopback_is_bounded() {
    let mut bed = Bed::new(config());
    let from = bed.bind("0.0.0.0:9");
    let to = bed.bind("0.0.0.0:7");
    let payloads = vec![&b"x"[..]; 300];
    let (outcome, refused) = bed.send(from, (OUR, 7), &payloads);
    assert_eq!((outcome.accepted, outcome.refused), (256, 44));
    assert_eq!(refused[0].refused, Some(DropReason::RingFull));
    assert_eq!(bed.received(to).len(), 256);
}

#[test]
fn broadcasts_are_received_by_sockets_bound_to_any_and_answered_from_our_address() {
    let mut bed = Bed::new(config());
    let any = bed.bind("0.0.0.0:7");
    let specific = bed.bind("10.0.0.1:7");
    for destination in [BROADCAST, Ipv4Addr::BROADCAST] {
        let mut frame = udp((PEER, 9), (destination, 7), b"everyone");
        frame[..6].fill(0xff);
        bed.receive(&frame);
        assert!(bed.received(specific).is_empty());
        let datagram = bed.received(any).remove(0);
        assert_eq!(datagram.destination, (destination, 7).into());
        assert_eq!(
            bed.send_burst(any, &mut vec![UdpSend::reply(datagram)])
                .accepted,
            1
        );
        assert_eq!(read_ipv4(&bed.sent()[0]).0.source, OUR.octets());
    }
}

#[test]
fn a_broadcast_is_sent_to_every_station() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    for destination in [BROADCAST, Ipv4Addr::BROADCAST] {
        let _ = bed.send(socket, (destination, 9), &[b"everyone"]);
        let frame = bed.sent().remove(0);
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(read_ipv4(&frame).0.destination, destination.octets());
    }
}

#[test]
fn a_socket_that_is_not_read_holds_a_bounded_number_of_datagrams() {
    let mut bed = Bed::new(HostConfig {
        limits: virtroupe_wire::Limits {
            socket_queue: 10,
            ..Default::default()
        },
        ..config()
    });
    let socket = bed.bind("0.0.0.0:7");
    for _ in 0..25 {
        bed.receive(&udp((PEER, 9), (OUR, 7), b"x"));
    }
    assert_eq!(bed.host.udp_received(socket).unwrap().len(), 10);
    assert_eq!(bed.dropped(DropReason::MailboxFull), 15);
}
