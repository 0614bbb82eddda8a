//! What IPv6 has alone: extension headers, and neighbours that ask for us.

use std::net::Ipv6Addr;

use proptest::prelude::*;
use virtroupe_wire::{DropReason, HeapBuffer, HostConfig, Payload, UdpSend};

use crate::families::{V6, config, read, sum};
use crate::support::{Bed, OUR_MAC, PEER_MAC, pattern};

const OUR: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const PEER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const SOLICITED: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ASKING: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// An IPv6 frame. The payload is complete but for the checksum at `field` of it.
fn packet(
    (source, destination): (Ipv6Addr, Ipv6Addr),
    next: u8,
    hops: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    match destination.is_multicast() {
        true => {
            frame.extend([0x33, 0x33]);
            frame.extend(&destination.octets()[12..]);
        }
        false => frame.extend(OUR_MAC.0),
    }
    frame.extend(PEER_MAC.0);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([next, hops]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(payload);
    frame
}

/// A good UDP segment from port 9 of the peer to port 7 of ours.
fn udp(payload: &[u8]) -> Vec<u8> {
    V6.udp(9, 7, payload)[54..].to_vec()
}

/// An extension header of options.
fn options(next: u8, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend(options);
    while !bytes.len().is_multiple_of(8) {
        bytes.push(0);
    }
    bytes[1] = (bytes.len() / 8 - 1) as u8;
    bytes
}

fn chain(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Receives a chain that begins with the header `next`. Returns what was delivered to port 7, and
/// type, code and pointer of the report.
fn receive(next: u8, payload: &[u8]) -> (usize, Option<(u8, u8, u32)>, Bed) {
    let mut bed = Bed::new(config());
    let socket = bed.bind("[::]:7");
    let sent = bed.receive(&packet((PEER, OUR), next, 64, payload));
    let report = sent.first().map(|frame| {
        read(frame); // checksums
        let word = u32::from_be_bytes(frame[58..62].try_into().unwrap());
        (frame[54], frame[55], word)
    });
    (bed.received(socket).len(), report, bed)
}

#[test]
fn what_may_be_skipped_is_skipped() {
    let udp = udp(b"payload");
    for (next, payload) in [
        (17, udp.clone()),
        (0, chain(&[&options(17, &[]), &udp])),
        (
            0,
            chain(&[&options(60, &[5, 2, 0, 0]), &options(17, &[1, 0]), &udp]),
        ),
        (
            60,
            chain(&[&options(17, &[0x3e, 3, 9, 9, 9, 0x1e, 0]), &udp]),
        ),
        (60, chain(&[&options(17, &[0; 70]), &udp])),
        // A routing header at its end, of any type.
        (43, chain(&[&[17, 2, 0, 0], &[0; 20], &udp])),
        (43, chain(&[&[17, 0, 77, 0, 1, 2, 3, 4], &udp])),
        // A fragment that is the whole datagram (RFC 6946).
        (44, chain(&[&[17, 0, 0, 0, 1, 2, 3, 4], &udp])),
        (
            0,
            chain(&[
                &options(44, &[]),
                &[60, 0, 0, 6, 1, 2, 3, 4],
                &options(17, &[]),
                &udp,
            ]),
        ),
    ] {
        let (delivered, report, bed) = receive(next, &payload);
        assert_eq!(
            (delivered, report),
            (1, None),
            "{payload:02x?}: {:?}",
            bed.host.drops()
        );
    }
}

#[test]
fn what_may_not_be_skipped_is_refused_as_its_type_says() {
    let udp = udp(b"payload");
    let extension = DropReason::BadExtension;
    for (next, payload, reason, report) in [
        // Options by the upper bits of their types; the pointer is at the type.
        (0, chain(&[&options(17, &[0x40, 0]), &udp]), extension, None),
        (
            0,
            chain(&[&options(17, &[0x80, 0]), &udp]),
            extension,
            Some((4, 2, 42)),
        ),
        (
            60,
            chain(&[&options(17, &[1, 1, 0, 0xc2, 0]), &udp]),
            extension,
            Some((4, 2, 45)),
        ),
        // A jumbogram, which has length 0 (RFC 2675), is one of these.
        (
            0,
            chain(&[&options(17, &[0xc2, 4, 0, 1, 0, 0]), &udp]),
            extension,
            Some((4, 2, 42)),
        ),
        // A route that goes on (RFC 5095; of any type, RFC 8200).
        (
            43,
            chain(&[&[17, 2, 0, 1], &[0; 20], &udp]),
            DropReason::SourceRoute,
            Some((4, 0, 42)),
        ),
        (
            43,
            chain(&[&[17, 0, 4, 9, 0, 0, 0, 0], &udp]),
            DropReason::SourceRoute,
            Some((4, 0, 42)),
        ),
        // Hop-by-hop options anywhere else.
        (
            60,
            chain(&[&options(0, &[]), &options(17, &[]), &udp]),
            DropReason::UnknownProtocol,
            Some((4, 1, 40)),
        ),
        // Nobody is at home: SCTP, encryption, nothing.
        (
            132,
            vec![0; 12],
            DropReason::UnknownProtocol,
            Some((4, 1, 6)),
        ),
        (
            60,
            chain(&[&options(50, &[]), &udp]),
            DropReason::UnknownProtocol,
            Some((4, 1, 40)),
        ),
        (59, vec![0; 12], DropReason::UnknownProtocol, None),
        // A fragment in a fragment.
        (
            44,
            chain(&[&[44, 0, 0, 0, 1, 2, 3, 4], &[17, 0, 0, 0, 1, 2, 3, 4], &udp]),
            extension,
            None,
        ),
        // Cut short.
        (0, vec![17], DropReason::Malformed, None),
        (
            0,
            vec![17, 1, 0, 0, 0, 0, 0, 0],
            DropReason::Malformed,
            None,
        ),
        (
            60,
            chain(&[&[17, 0, 1, 9, 0, 0, 0, 0], &udp]),
            DropReason::Malformed,
            None,
        ),
        (
            60,
            chain(&[&[17, 0, 0, 0, 0, 0, 0, 1], &udp]),
            DropReason::Malformed,
            None,
        ),
        (44, vec![17, 0, 0, 0, 1, 2, 3], DropReason::Malformed, None),
        (17, udp[..7].to_vec(), DropReason::Malformed, None),
    ] {
        let (delivered, said, bed) = receive(next, &payload);
        assert_eq!((delivered, said), (0, report), "{payload:02x?}");
        assert_eq!(
            bed.dropped(reason),
            1,
            "{payload:02x?}: {:?}",
            bed.host.drops()
        );
    }
}

#[test]
fn a_chain_is_followed_only_so_far() {
    let udp = udp(b"payload");
    for count in [1, 8, 9, 150] {
        let mut payload: Vec<u8> = (1..count).flat_map(|_| options(60, &[])).collect();
        payload.extend(options(17, &[]));
        payload.extend(&udp);
        let (delivered, report, bed) = receive(60, &payload);
        assert_eq!(
            (delivered, report),
            (usize::from(count <= 8), None),
            "{count}"
        );
        assert_eq!(bed.dropped(DropReason::BadExtension), u64::from(count > 8));
    }
}

#[test]
fn no_error_answers_what_rfc_4443_forbids() {
    let mut bed = Bed::new(config());
    let cited = packet((OUR, PEER), 17, 64, &udp(b"x"));
    for kind in [1, 2, 3, 4, 100, 127, 137] {
        // An ICMPv6 error with an option that asks to be reported.
        let error = chain(&[
            &options(58, &[0xc0, 0]),
            &[kind, 0, 0, 0, 0, 0, 0, 0],
            &cited[14..],
        ]);
        assert!(
            bed.receive(&packet((PEER, OUR), 60, 64, &error)).is_empty(),
            "{kind}"
        );
    }
    // To a group: only options of one kind are reported then.
    let group = |kind| chain(&[&options(17, &[kind, 0]), &udp(b"x")]);
    assert!(
        bed.receive(&packet((PEER, ALL_NODES), 0, 64, &group(0xc0)))
            .is_empty()
    );
    assert!(
        bed.receive(&packet((PEER, ALL_NODES), 17, 64, &udp(b"x")))
            .is_empty()
    );
    assert!(
        bed.receive(&packet((PEER, ALL_NODES), 132, 64, &[0; 12]))
            .is_empty()
    );
    let sent = bed.receive(&packet((PEER, ALL_NODES), 0, 64, &group(0x80)));
    assert_eq!(read(&sent[0]).source, V6.our);
    assert_eq!(bed.host.counters().icmp_errors_sent, 1);
}

/// A solicitation with its checksum.
fn solicitation(
    addresses: (Ipv6Addr, Ipv6Addr),
    target: Ipv6Addr,
    hops: u8,
    options: &[u8],
) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend(options);
    let sum = sum(addresses.0.into(), addresses.1.into(), 58, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(addresses, 58, hops, &message)
}

fn source_option() -> Vec<u8> {
    chain(&[&[1, 1], &ASKING])
}

#[test]
fn whoever_asks_for_us_is_answered() {
    let mut bed = Bed::new(HostConfig {
        owned: vec!["fd01::/64".parse().unwrap()],
        ..config()
    });
    let owned: Ipv6Addr = "fd01::5:abcd:1234".parse().unwrap();
    let owned_group: Ipv6Addr = "ff02::1:ffcd:1234".parse().unwrap();
    let stranger: Ipv6Addr = "fe80::9".parse().unwrap();
    for (from, to, target, option, mac, answer) in [
        (stranger, SOLICITED, OUR, source_option(), ASKING, stranger),
        (PEER, OUR, OUR, source_option(), ASKING, PEER),
        // Does not say where it is, but we know.
        (PEER, OUR, OUR, vec![], PEER_MAC.0, PEER),
        (
            stranger,
            owned_group,
            owned,
            source_option(),
            ASKING,
            stranger,
        ),
        // Wants the address itself (RFC 4862): everybody hears that it is ours.
        (
            Ipv6Addr::UNSPECIFIED,
            SOLICITED,
            OUR,
            vec![],
            [0x33, 0x33, 0, 0, 0, 1],
            ALL_NODES,
        ),
    ] {
        let sent = bed.receive(&solicitation((from, to), target, 255, &option));
        let advertisement = read(&sent[0]);
        assert_eq!((advertisement.mac, advertisement.hops), (mac, 255));
        assert_eq!(advertisement.source, std::net::IpAddr::V6(target));
        assert_eq!(advertisement.destination, std::net::IpAddr::V6(answer));
        assert_eq!(advertisement.ports, (136, 0));
        let flags = if answer == ALL_NODES { 0x20 } else { 0x60 };
        assert_eq!(sent[0][58], flags, "solicited, override");
        let expected = chain(&[&target.octets(), &[2, 1], &OUR_MAC.0]);
        assert_eq!(advertisement.payload, expected);
    }
    assert_eq!(bed.host.counters().neighbor_advertisements_sent, 5);
    assert_eq!(bed.host.drops().total(), 0);
}

#[test]
fn solicitations_that_are_wrong_or_for_others_are_dropped() {
    let mut bed = Bed::new(config());
    let other: Ipv6Addr = "fd00::ff00:1".parse().unwrap();
    let nobody = Ipv6Addr::UNSPECIFIED;
    for (frame, reason) in [
        (
            solicitation((PEER, SOLICITED), OUR, 254, &source_option()),
            DropReason::Malformed,
        ),
        (
            solicitation((PEER, SOLICITED), SOLICITED, 255, &[]),
            DropReason::Malformed,
        ),
        (
            solicitation((PEER, SOLICITED), OUR, 255, &[1, 0]),
            DropReason::Malformed,
        ),
        (
            solicitation((PEER, SOLICITED), OUR, 255, &[1, 2, 0, 0, 0, 0, 0, 0]),
            DropReason::Malformed,
        ),
        (
            solicitation((nobody, SOLICITED), OUR, 255, &source_option()),
            DropReason::Malformed,
        ),
        (
            solicitation((nobody, OUR), OUR, 255, &[]),
            DropReason::Malformed,
        ),
        // In our group by the lower bits only.
        (
            solicitation((PEER, SOLICITED), other, 255, &source_option()),
            DropReason::ArpIgnored,
        ),
        // From somebody without an address, anything else.
        (
            packet((nobody, OUR), 58, 64, &[128, 0, 0x7b, 0x43, 0, 0, 0, 0]),
            DropReason::Checksum,
        ),
    ] {
        let before = bed.dropped(reason);
        assert!(bed.receive(&frame).is_empty(), "{frame:02x?}");
        assert_eq!(bed.dropped(reason), before + 1, "{frame:02x?}");
    }
    // A group that we are not in.
    let group: Ipv6Addr = "ff02::1:ff00:2".parse().unwrap();
    bed.receive(&solicitation((PEER, group), PEER, 255, &source_option()));
    assert_eq!(bed.dropped(DropReason::NotForOurAddress), 1);
    // No room, no memory.
    bed.host.set_transmit_room(0);
    assert!(
        bed.receive(&solicitation((PEER, OUR), OUR, 255, &source_option()))
            .is_empty()
    );
    assert_eq!(bed.dropped(DropReason::RingFull), 1);
}

#[test]
fn packets_go_by_static_neighbours_and_routes() {
    let mut settings = config();
    let route = |destination: &str, gateway: Option<&str>| virtroupe_wire::Route {
        destination: destination.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
    };
    settings.addresses.push("fe80::1/64".parse().unwrap());
    settings.routes = vec![
        route("2001:db8::/32", Some("fe80::9")),
        route("fd02::/64", None),
    ];
    settings.neighbors.push(virtroupe_wire::Neighbor {
        address: "fe80::9".parse().unwrap(),
        mac: virtroupe_wire::MacAddr(ASKING),
    });
    let mut bed = Bed::new(settings);
    let socket = bed.bind("[::]:7");
    for (to, expected) in [
        ("fd00::2", Ok((PEER_MAC.0, "fd00::1"))),
        ("fe80::9", Ok((ASKING, "fe80::1"))),
        ("2001:db8:1::1", Ok((ASKING, "fd00::1"))),
        ("fd00::3", Err(DropReason::NeighborUnreachable)),
        ("fd02::3", Err(DropReason::NeighborUnreachable)),
        ("2002::1", Err(DropReason::NoRoute)),
        ("ff02::1", Err(DropReason::NoRoute)),
        ("::", Err(DropReason::NoRoute)),
        ("::1", Err(DropReason::NoRoute)),
    ] {
        let destination = (to.parse::<Ipv6Addr>().unwrap(), 9).into();
        // The second time the path is remembered.
        for _ in 0..2 {
            let payload = Payload::Buffer(HeapBuffer::new(b"x"));
            let mut burst = vec![UdpSend::new(destination, payload)];
            let _ = bed.send_burst(socket, &mut burst);
            let sent = bed.sent();
            match expected {
                Ok((mac, source)) => {
                    let frame = read(&sent[0]);
                    assert_eq!(
                        (frame.mac, frame.source),
                        (mac, source.parse().unwrap()),
                        "{to}"
                    );
                }
                Err(reason) => assert_eq!(burst[0].refused, Some(reason), "{to}"),
            }
        }
    }
}

/// Routers name themselves by link-local addresses, whether we have one or not.
#[test]
fn the_default_router_may_have_a_link_local_address() {
    let mut settings = config();
    let address = "fe80::9".parse().unwrap();
    settings.gateway = Some(address);
    settings.neighbors.push(virtroupe_wire::Neighbor {
        address,
        mac: virtroupe_wire::MacAddr(ASKING),
    });
    let mut bed = Bed::new(settings);
    let socket = bed.bind("[::]:7");
    let destination: std::net::SocketAddr = "[2001:db8::1]:9".parse().unwrap();
    let payload = Payload::Buffer(HeapBuffer::new(b"x"));
    let mut burst = vec![UdpSend::new(destination, payload)];
    assert_eq!(bed.send_burst(socket, &mut burst).accepted, 1);
    let frame = read(&bed.sent()[0]);
    assert_eq!((frame.mac, frame.source), (ASKING, V6.our));
}

#[test]
fn fragments_are_as_rfc_8200_has_them() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("[::]:7");
    let payload = Payload::Buffer(HeapBuffer::new(&pattern(4000)));
    let mut burst = vec![UdpSend::new((PEER, 9).into(), payload)];
    assert_eq!(bed.send_burst(socket, &mut burst).accepted, 1);
    let frames = bed.sent();
    let mut expected = 0;
    for (index, frame) in frames.iter().enumerate() {
        let [next, 0, o0, o1, ref id @ ..] = frame[54..62] else {
            panic!("{frame:02x?}");
        };
        assert_eq!((frame[20], next), (44, 17));
        let field = u16::from_be_bytes([o0, o1]);
        assert_eq!(usize::from(field & !7), expected);
        assert_eq!(field & 7, u16::from(index + 1 < frames.len()));
        assert_eq!(id, &frames[0][58..62]);
        expected += frame.len() - 62;
    }
    assert_eq!(expected, 4008);
}

/// A good frame of each kind, with whatever chain in front of the transport.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let extension = prop_oneof![
        Just(0_u8),
        Just(43),
        Just(44),
        Just(60),
        Just(59),
        any::<u8>()
    ];
    let body = prop::collection::vec(any::<u8>(), 0..24);
    let header = (extension, body, any::<bool>());
    let change = (any::<prop::sample::Index>(), any::<u8>());
    (
        prop::collection::vec(header, 0..12),
        prop_oneof![Just(17_u8), Just(58), Just(6), any::<u8>()],
        prop::collection::vec(any::<u8>(), 0..64),
        any::<bool>(),
        prop::collection::vec(change, 0..3),
        prop::option::weighted(0.1, any::<prop::sample::Index>()),
    )
        .prop_map(|(headers, last, payload, is_group, changes, cut)| {
            let mut kinds: Vec<u8> = headers.iter().map(|(kind, ..)| *kind).collect();
            kinds.push(last);
            let mut bytes = Vec::new();
            for ((_, body, is_zeroed), next) in headers.iter().zip(&kinds[1..]) {
                let body = if *is_zeroed {
                    vec![0; body.len()]
                } else {
                    body.clone()
                };
                bytes.extend(options(*next, &body));
            }
            let destination = if is_group { ALL_NODES } else { OUR };
            match last {
                17 => bytes.extend(udp(&payload)),
                _ => bytes.extend(&payload),
            }
            let mut frame = packet((PEER, destination), kinds[0], 255, &bytes);
            for (index, value) in changes {
                let at = index.index(frame.len());
                frame[at] = value;
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()));
            }
            frame
        })
}

proptest! {
    #[test]
    fn any_chain_is_survived_and_accounted_for(
        frames in prop::collection::vec(hostile(), 1..20),
    ) {
        let mut bed = Bed::new(config());
        let socket = bed.bind("[::]:7");
        for frame in frames {
            for sent in bed.receive(&frame) {
                read(&sent);
            }
            bed.check();
            bed.received(socket);
        }
        bed.pass(std::time::Duration::from_secs(200));
        prop_assert_eq!(bed.host.counters().held, 0);
        prop_assert_eq!(bed.host.reassembly_memory(), 0);
    }
}
