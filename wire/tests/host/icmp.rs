//! ICMP: echo, errors sent, errors received, and what RFC 1122 section 3.2.2 forbids.

use std::net::Ipv4Addr;
use std::time::Duration;

use etherparse::PacketBuilder;
use virtroupe_wire::{DropReason, HostConfig, Limits, UdpErrorKind};

use crate::support::*;

fn echo_request(source: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC.0, OUR_MAC.0)
        .ipv4(source.octets(), to.octets(), 64)
        .icmpv4_echo_request(77, 3)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// An ICMP message from the peer.
fn message(kind: u8, code: u8, word: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend_from_slice(&word.to_be_bytes());
    bytes.extend_from_slice(body);
    let sum = virtroupe_wire::checksum::checksum(&bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

pub fn error(kind: u8, code: u8, word: u32, cited: &[u8]) -> Vec<u8> {
    ipv4(1, OUR, &message(kind, code, word, cited), |_| ())
}

#[test]
fn an_echo_request_of_every_size_class_is_answered() {
    let mut bed = Bed::new(config());
    for length in [0, 1, 7, 56, 999, 1472] {
        let payload = pattern(length);
        let sent = bed.receive(&echo_request(PEER, OUR, &payload));
        let (header, kind, code, body) = read_icmp(&sent[0]);
        assert_eq!((sent.len(), kind, code), (1, 0, 0));
        assert_eq!(
            (header.source, header.destination),
            (OUR.octets(), PEER.octets())
        );
        assert_eq!(body, payload);
        assert_eq!(
            sent[0][38..42],
            [0, 77, 0, 3],
            "identifier and sequence number"
        );
    }
    assert_eq!(bed.host.counters().echo_replies, 6);
}

#[test]
fn an_echo_request_of_the_greatest_length_is_answered_in_fragments() {
    let mut bed = Bed::new(config());
    let whole = message(8, 0, 0x1234_5678, &pattern(65_507));
    let count = whole.chunks(1480).len();
    let mut sent = Vec::new();
    for (index, piece) in whole.chunks(1480).enumerate() {
        sent = bed.receive(&ipv4(1, OUR, piece, |header| {
            header.identification = 9;
            header.more_fragments = index + 1 < count;
            header.fragment_offset = ((index * 1480 / 8) as u16).try_into().unwrap();
        }));
    }
    let reply: Vec<u8> = sent.iter().flat_map(|frame| read_ipv4(frame).1).collect();
    assert_eq!(reply.len(), whole.len());
    assert!(virtroupe_wire::checksum::is_valid(&reply));
    assert_eq!((reply[0], &reply[4..]), (0, &whole[4..]));
}

#[test]
fn a_broken_or_broadcast_echo_request_is_not_answered() {
    let mut bed = Bed::new(config());
    let mut frame = echo_request(PEER, OUR, b"payload");
    frame[45] ^= 1;
    assert!(bed.receive(&frame).is_empty());
    assert_eq!(bed.dropped(DropReason::Checksum), 1);
    assert!(
        bed.receive(&echo_request(PEER, BROADCAST, b"smurf"))
            .is_empty()
    );
    assert_eq!(bed.dropped(DropReason::IcmpIgnored), 1);
    assert!(
        bed.receive(&ipv4(1, OUR, &[8, 0, 0xf7, 0xff], |_| ()))
            .is_empty()
    );
    assert_eq!(bed.dropped(DropReason::Malformed), 1);
}

#[test]
fn a_closed_port_is_reported_with_the_packet_quoted() {
    let mut bed = Bed::new(config());
    let frame = udp((PEER, 9), (OUR, 7), b"anyone?");
    let sent = bed.receive(&frame);
    let (header, kind, code, quoted) = read_icmp(&sent[0]);
    assert_eq!((sent.len(), kind, code), (1, 3, 3));
    assert_eq!(
        (header.source, header.destination),
        (OUR.octets(), PEER.octets())
    );
    assert_eq!(quoted, frame[14..]);
    // No error is longer than 576 bytes.
    let sent = bed.receive(&udp((PEER, 9), (OUR, 7), &pattern(1400)));
    assert_eq!(read_icmp(&sent[0]).0.total_len, 576);
}

#[test]
fn an_unknown_protocol_is_reported() {
    let mut bed = Bed::new(config());
    let sent = bed.receive(&ipv4(132, OUR, &[0; 12], |_| ()));
    let (_, kind, code, _) = read_icmp(&sent[0]);
    assert_eq!((kind, code), (3, 2));
    assert_eq!(bed.dropped(DropReason::UnknownProtocol), 1);
}

#[test]
fn no_error_answers_what_rfc_1122_forbids() {
    let mut bed = Bed::new(config());
    let cited = &udp((OUR, 7), (PEER, 9), b"x")[14..];
    let forbidden = [
        // To a broadcast address, in a broadcast or a unicast frame.
        udp((PEER, 9), (BROADCAST, 7), b"x"),
        udp((PEER, 9), (Ipv4Addr::BROADCAST, 7), b"x"),
        ipv4(132, BROADCAST, &[0; 12], |_| ()),
        // From no single host.
        udp(([0, 0, 0, 0].into(), 9), (OUR, 7), b"x"),
        udp((BROADCAST, 9), (OUR, 7), b"x"),
        udp(([224, 0, 0, 1].into(), 9), (OUR, 7), b"x"),
        // ICMP errors and unknown ICMP.
        error(3, 3, 0, cited),
        error(11, 0, 0, cited),
        error(12, 0, 0, cited),
        error(5, 1, 0, cited),
        error(42, 0, 0, cited),
    ];
    for frame in forbidden {
        assert!(bed.receive(&frame).is_empty(), "{frame:02x?}");
    }
    let mut frame = udp((PEER, 9), (BROADCAST, 7), b"x");
    frame[..6].fill(0xff);
    assert!(bed.receive(&frame).is_empty());
    // A fragment that is not the first, and a first one of an ICMP error, after their time.
    bed.receive(&fragment(1, 64, false, &[1; 64]));
    bed.receive(&ipv4(1, OUR, &message(3, 3, 0, cited)[..32], |header| {
        header.more_fragments = true;
    }));
    bed.pass(Duration::from_secs(61));
    assert!(bed.sent().is_empty());
    assert_eq!(bed.dropped(DropReason::FragmentTimeout), 2);
}

#[test]
pub fn errors_are_sent_at_a_bounded_rate() {
    let mut bed = Bed::new(HostConfig {
        limits: Limits {
            icmp_errors_per_second: 10,
            icmp_errors_burst: 5,
            ..Limits::default()
        },
        ..config()
    });
    let frame = udp((PEER, 9), (OUR, 7), b"anyone?");
    let errors = |bed: &mut Bed| -> usize { (0..100).map(|_| bed.receive(&frame).len()).sum() };
    assert_eq!(errors(&mut bed), 5);
    assert_eq!(errors(&mut bed), 0);
    bed.pass(Duration::from_millis(200));
    assert_eq!(errors(&mut bed), 2);
    bed.pass(Duration::from_secs(100));
    assert_eq!(errors(&mut bed), 5);
    assert_eq!(bed.dropped(DropReason::NoSocket), 400);
    assert_eq!(bed.dropped(DropReason::RateLimited), 388);
}

#[test]
fn an_error_reaches_the_socket_that_it_concerns() {
    for (kind, code, expected) in [
        (3, 0, UdpErrorKind::NetworkUnreachable),
        (3, 1, UdpErrorKind::HostUnreachable),
        (3, 2, UdpErrorKind::ProtocolUnreachable),
        (3, 3, UdpErrorKind::PortUnreachable),
        (3, 5, UdpErrorKind::Unreachable { code: 5 }),
        (3, 13, UdpErrorKind::Prohibited),
        (11, 0, UdpErrorKind::TtlExceeded),
        (11, 1, UdpErrorKind::ReassemblyTimeExceeded),
    ] {
        let mut bed = Bed::new(config());
        let socket = bed.bind("0.0.0.0:7");
        bed.host.connect_udp(socket, (PEER, 9).into()).unwrap();
        let _ = bed.send(socket, (PEER, 9), &[b"hello"]);
        let ours = bed.sent().remove(0);
        bed.receive(&error(kind, code, 0, &ours[14..42]));
        assert_eq!(bed.host.take_ready_udp(), Some(socket));
        let errors = bed.host.udp_errors(socket).unwrap();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].kind, expected);
        assert_eq!(
            (errors[0].peer, errors[0].local),
            ((PEER, 9).into(), (OUR, 7).into())
        );
    }
}

#[test]
fn an_error_about_what_we_can_not_have_sent_reaches_nobody() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    bed.host.connect_udp(socket, (PEER, 9).into()).unwrap();
    for cited in [
        udp((OUR, 8), (PEER, 9), b""),                // no such socket
        udp((OUR, 7), (PEER, 10), b""),               // not its peer
        udp((PEER, 7), (PEER, 9), b""),               // not our address
        ipv4(6, PEER, &segment(7, 9, b""), |_| ()),   // not UDP
        udp((OUR, 7), (PEER, 9), b"")[..41].to_vec(), // too short
    ] {
        bed.receive(&error(3, 3, 0, &cited[14..]));
    }
    assert!(bed.host.udp_errors(socket).unwrap().is_empty());
    assert_eq!(bed.host.drops().total(), 5);
}

#[test]
fn a_socket_holds_a_bounded_number_of_errors() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let cited = udp((OUR, 7), (PEER, 9), b"");
    for _ in 0..1000 {
        bed.receive(&error(3, 3, 0, &cited[14..]));
    }
    assert_eq!(bed.host.udp_errors(socket).unwrap().len(), 64);
}

/// Sends 1400 bytes and reports that a link carries only `mtu`; returns the MTU of the error.
fn report(bed: &mut Bed, socket: virtroupe_wire::UdpSocketId, mtu: u32) -> Option<u16> {
    let _ = bed.send(socket, (PEER, 9), &[&pattern(1400)]);
    let ours = bed.sent().remove(0);
    bed.receive(&error(3, 4, mtu, &ours[14..42]));
    let error = bed.host.udp_errors(socket).unwrap().pop()?;
    match error.kind {
        UdpErrorKind::FragmentationNeeded { mtu } => Some(mtu),
        kind => panic!("{kind}"),
    }
}

#[test]
fn fragmentation_needed_lowers_the_path_mtu_for_a_time() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    assert_eq!(report(&mut bed, socket, 1000), Some(1000));
    let _ = bed.send(socket, (PEER, 9), &[&pattern(1400)]);
    let frames = bed.sent();
    assert_eq!(frames.len(), 2);
    assert!(
        frames
            .iter()
            .all(|frame| read_ipv4(frame).0.total_len <= 1000)
    );
    bed.pass(Duration::from_secs(601));
    let _ = bed.send(socket, (PEER, 9), &[&pattern(1400)]);
    assert_eq!(bed.sent().len(), 1);
}

#[test]
fn a_router_that_names_no_mtu_means_the_next_plateau() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    assert_eq!(report(&mut bed, socket, 0), Some(1006));
}

#[test]
fn a_very_small_path_mtu_leaves_fragmenting_to_the_routers() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    assert_eq!(report(&mut bed, socket, 100), Some(552));
    let _ = bed.send(socket, (PEER, 9), &[b"short"]);
    assert!(!read_ipv4(&bed.sent()[0]).0.dont_fragment);
}

#[test]
fn an_implausible_path_mtu_is_not_believed() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    // Below what IPv4 allows, and not below the length of the packet.
    for mtu in [1, 67, 1428, 1500, 65_535] {
        assert_eq!(report(&mut bed, socket, mtu), None, "{mtu}");
    }
    let _ = bed.send(socket, (PEER, 9), &[&pattern(1400)]);
    assert_eq!(bed.sent().len(), 1);
}
