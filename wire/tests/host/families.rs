//! What a host does over IPv4 and over IPv6 alike: each test runs over both.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use etherparse::{
    Ethernet2Header, IcmpEchoHeader, Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice,
};
use virtroupe_wire::offload::{ChecksumState, SegmentKind, segment};
use virtroupe_wire::{
    BindError, Buffer, ConnectError, DropReason, Heap, HeapBuffer, Host, HostConfig, Neighbor,
    Payload, UdpErrorKind, UdpSend,
};

use crate::support::{Bed, OUR_MAC, PEER_MAC, pattern};

/// An address family, as what differs for a test.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub our: IpAddr,
    pub peer: IpAddr,
    pub any: IpAddr,
    /// Bytes of IP header.
    pub header: usize,
    /// Type and code of "port unreachable", "packet too big" and of an echo reply.
    port_unreachable: (u8, u8),
    too_big: (u8, u8),
    echo_reply: u8,
    /// The longest ICMP error in bytes, IP header included.
    longest_error: usize,
}

pub const V4: Family = Family {
    our: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
    peer: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)),
    any: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    header: 20,
    port_unreachable: (3, 3),
    too_big: (3, 4),
    echo_reply: 0,
    longest_error: 576,
};

pub const V6: Family = Family {
    our: IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
    peer: IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
    any: IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    header: 40,
    port_unreachable: (1, 4),
    too_big: (2, 0),
    echo_reply: 129,
    longest_error: 1280,
};

const BOTH: [Family; 2] = [V4, V6];

/// A host of both families, with the peer as static neighbour.
pub fn config() -> HostConfig {
    let neighbor = |address| Neighbor {
        address,
        mac: PEER_MAC,
    };
    HostConfig {
        mac: OUR_MAC,
        addresses: vec![
            "10.0.0.1/24".parse().unwrap(),
            "fd00::1/64".parse().unwrap(),
        ],
        neighbors: vec![neighbor(V4.peer), neighbor(V6.peer)],
        ..HostConfig::default()
    }
}

impl Family {
    fn is_v6(&self) -> bool {
        self.our.is_ipv6()
    }

    fn our(&self, port: u16) -> SocketAddr {
        (self.our, port).into()
    }

    fn peer(&self, port: u16) -> SocketAddr {
        (self.peer, port).into()
    }

    fn any(&self, port: u16) -> SocketAddr {
        (self.any, port).into()
    }

    fn builder(
        &self,
        from: IpAddr,
        to: IpAddr,
        hops: u8,
    ) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        let builder = PacketBuilder::ethernet2(PEER_MAC.0, OUR_MAC.0);
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), hops),
            (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), hops),
            _ => panic!("of one family"),
        }
    }

    /// A UDP frame from a port of the peer to one of ours.
    pub fn udp(&self, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = self.builder(self.peer, self.our, 3).udp(from, to);
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    fn echo_request(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = self.builder(self.peer, self.our, 64);
        match self.is_v6() {
            false => builder
                .icmpv4_echo_request(77, 3)
                .write(&mut frame, payload),
            true => builder
                .icmpv6_echo_request(77, 3)
                .write(&mut frame, payload),
        }
        .unwrap();
        frame
    }

    /// An ICMP message of the peer, with a word and what it cites.
    fn icmp(&self, (kind, code): (u8, u8), word: u32, cited: &[u8]) -> Vec<u8> {
        let builder = self.builder(self.peer, self.our, 64);
        let word = word.to_be_bytes();
        let mut frame = Vec::new();
        match self.is_v6() {
            false => builder
                .icmpv4_raw(kind, code, word)
                .write(&mut frame, cited),
            true => builder
                .icmpv6_raw(kind, code, word)
                .write(&mut frame, cited),
        }
        .unwrap();
        frame
    }
}

/// A frame that we sent, as etherparse reads it; all checksums are right.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    pub mac: [u8; 6],
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hops: u8,
    /// Ports; of ICMP type and code.
    pub ports: (u16, u16),
    pub payload: Vec<u8>,
}

pub fn read(frame: &[u8]) -> Read {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (ethernet, _) = Ethernet2Header::from_slice(frame).unwrap();
    let (source, destination, hops, payload): (IpAddr, IpAddr, u8, _) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            assert_eq!(
                header.header_checksum(),
                header.to_header().calc_header_checksum()
            );
            let addresses = (
                header.source_addr().into(),
                header.destination_addr().into(),
            );
            (addresses.0, addresses.1, header.ttl(), ip.payload().payload)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let addresses = (
                header.source_addr().into(),
                header.destination_addr().into(),
            );
            (
                addresses.0,
                addresses.1,
                header.hop_limit(),
                ip.payload().payload,
            )
        }
        other => panic!("not IP: {other:?}"),
    };
    let protocol = packet.ip_payload().unwrap().ip_number.0;
    assert_eq!(
        sum(source, destination, protocol, payload),
        0,
        "checksum of {frame:02x?}"
    );
    let (ports, payload) = match packet.transport.unwrap() {
        TransportSlice::Udp(udp) => (
            (udp.source_port(), udp.destination_port()),
            udp.payload().to_vec(),
        ),
        _ => (
            (payload[0].into(), payload[1].into()),
            payload[8..].to_vec(),
        ),
    };
    Read {
        mac: ethernet.destination,
        source,
        destination,
        hops,
        ports,
        payload,
    }
}

/// The checksum over what carries one: 0 if it is right.
pub fn sum(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let mut sum = virtroupe_wire::checksum::Checksum::new();
    // ICMP has a pseudo-header over IPv6 only.
    if protocol != 1 {
        for address in [source, destination] {
            match address {
                IpAddr::V4(address) => sum.add(&address.octets()),
                IpAddr::V6(address) => sum.add(&address.octets()),
            }
        }
        sum.add(&(payload.len() as u32).to_be_bytes());
        sum.add(&[0, 0, 0, protocol]);
    }
    sum.add(payload);
    sum.finish()
}

fn bind(bed: &mut Bed, local: SocketAddr) -> virtroupe_wire::UdpSocketId {
    bed.host.bind_udp(local).unwrap()
}

fn send(bed: &mut Bed, id: virtroupe_wire::UdpSocketId, to: SocketAddr, payload: &[u8]) {
    let payload = Payload::Buffer(HeapBuffer::new(payload));
    let outcome = bed.send_burst(id, &mut vec![UdpSend::new(to, payload)]);
    assert_eq!((outcome.accepted, outcome.refused), (1, 0));
}

#[test]
fn a_datagram_is_delivered_with_everything_about_it() {
    for family in BOTH {
        let mut bed = Bed::new(config());
        let socket = bind(&mut bed, family.any(7));
        let mut frame = family.udp(9, 7, b"payload");
        match family.is_v6() {
            true => [frame[14], frame[15]] = [0x6b, 0xb0], // traffic class 0xbb
            false => {
                frame[15] = 0xbb;
                frame[24..26].fill(0);
                let sum = virtroupe_wire::checksum::checksum(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
        }
        frame.extend([0; 3]); // padding is no payload
        bed.receive(&frame);
        assert_eq!(bed.host.take_ready_udp(), Some(socket));
        assert_eq!(bed.host.take_ready_udp(), None);
        let datagram = bed.received(socket).remove(0);
        assert_eq!(datagram.source, family.peer(9));
        assert_eq!(datagram.destination, family.our(7));
        assert_eq!((datagram.ttl, datagram.dscp(), datagram.ecn()), (3, 46, 3));
        assert_eq!(datagram.payload.to_vec(), b"payload");
        assert!(datagram.payload.headroom() >= family.header + 22);
    }
}

#[test]
fn the_udp_checksum_is_verified_and_may_be_left_out_over_ipv4_only() {
    for family in BOTH {
        let mut bed = Bed::new(config());
        let socket = bind(&mut bed, family.any(7));
        let mut frame = family.udp(9, 7, b"payload");
        let field = 14 + family.header + 6;
        *frame.last_mut().unwrap() ^= 0x40;
        bed.receive(&frame);
        assert_eq!(bed.dropped(DropReason::Checksum), 1);
        frame[field..field + 2].fill(0);
        bed.receive(&frame);
        let delivered = bed.received(socket).len();
        let dropped = bed.dropped(DropReason::Checksum);
        assert_eq!(
            (delivered, dropped),
            if family.is_v6() { (0, 2) } else { (1, 1) }
        );
    }
}

#[test]
fn datagrams_of_every_length_come_back_whole() {
    for family in BOTH {
        for length in [0, 1, 2, 7, 600, 1452, 1453, 1472, 1473, 5000, 65_507] {
            let mut bed = Bed::new(config());
            let socket = bind(&mut bed, family.any(7));
            // What we send to the peer, it sends back with the addresses turned round.
            let payload = pattern(length);
            send(&mut bed, socket, family.peer(7), &payload);
            let frames = bed.sent();
            let room = 1500 - family.header - 8;
            assert_eq!(frames.len() > 1, length > room, "{length}");
            for frame in frames {
                assert!(frame.len() <= 1514);
                bed.receive(&turned_round(&frame, family));
            }
            let datagram = bed.received(socket).pop().expect("it came back");
            assert!(datagram.payload.to_vec() == payload, "{length}");
            assert_eq!(datagram.source, family.peer(7));
        }
    }
}

/// A frame of ours as if the peer had sent it: no checksum changes.
fn turned_round(frame: &[u8], family: Family) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&OUR_MAC.0);
    frame[6..12].copy_from_slice(&PEER_MAC.0);
    let (start, length) = if family.is_v6() { (22, 16) } else { (26, 4) };
    let (source, destination) = frame[start..start + 2 * length].split_at_mut(length);
    source.swap_with_slice(destination);
    frame
}

#[test]
fn a_reply_goes_back_from_the_address_that_was_asked() {
    for family in BOTH {
        let mut bed = Bed::new(HostConfig {
            owned: vec![
                "172.16.0.0/16".parse().unwrap(),
                "fd01::/64".parse().unwrap(),
            ],
            ..config()
        });
        let asked = if family.is_v6() {
            "fd01::3:4"
        } else {
            "172.16.3.4"
        };
        let asked: IpAddr = asked.parse().unwrap();
        let socket = bind(&mut bed, family.any(7));
        let mut frame = Vec::new();
        let builder = family.builder(family.peer, asked, 64).udp(9, 7);
        builder.write(&mut frame, b"echo").unwrap();
        bed.pool.left = 0; // the reply is made in the memory of the request
        for _ in 0..2 {
            bed.receive(&frame);
            let mut burst = bed.received(socket);
            let mut refused = Vec::new();
            let outcome =
                bed.host
                    .reply_udp(bed.now, socket, &mut burst, &mut refused, &mut bed.pool);
            assert_eq!((outcome.accepted, outcome.refused), (1, 0));
            let expected = Read {
                mac: PEER_MAC.0,
                source: asked,
                destination: family.peer,
                hops: 64,
                ports: (7, 9),
                payload: b"echo".to_vec(),
            };
            assert_eq!(read(&bed.sent()[0]), expected);
        }
    }
}

#[test]
fn a_closed_port_is_reported_with_the_packet_quoted() {
    for family in BOTH {
        let mut bed = Bed::new(config());
        for length in [0, 7, 1400] {
            let frame = family.udp(9, 7, &pattern(length));
            let sent = bed.receive(&frame);
            let error = read(&sent[0]);
            let (kind, code) = family.port_unreachable;
            assert_eq!(error.ports, (kind.into(), code.into()));
            assert_eq!((error.source, error.destination), (family.our, family.peer));
            let quoted = (frame.len() - 14).min(family.longest_error - family.header - 8);
            assert_eq!(error.payload, frame[14..14 + quoted]);
        }
        assert_eq!(bed.host.counters().icmp_errors_sent, 3);
        // Nobody is told more often than the limit says.
        for _ in 0..1000 {
            bed.receive(&family.udp(9, 7, b""));
        }
        assert!(bed.host.counters().icmp_errors_sent <= 50);
        assert!(bed.dropped(DropReason::RateLimited) > 900);
    }
}

#[test]
fn an_echo_request_of_every_size_class_is_answered() {
    for family in BOTH {
        let mut bed = Bed::new(config());
        for length in [0, 1, 7, 56, 999, 1452] {
            let payload = pattern(length);
            let sent = bed.receive(&family.echo_request(&payload));
            let reply = read(&sent[0]);
            assert_eq!(reply.ports, (family.echo_reply.into(), 0));
            assert_eq!((reply.source, reply.destination), (family.our, family.peer));
            assert_eq!(reply.payload, payload);
            let slice = SlicedPacket::from_ethernet(&sent[0]).unwrap();
            let echo = match slice.transport.unwrap() {
                TransportSlice::Icmpv4(icmp) => match icmp.icmp_type() {
                    Icmpv4Type::EchoReply(echo) => echo,
                    other => panic!("{other:?}"),
                },
                TransportSlice::Icmpv6(icmp) => match icmp.icmp_type() {
                    Icmpv6Type::EchoReply(echo) => echo,
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            };
            assert_eq!(echo, IcmpEchoHeader { id: 77, seq: 3 });
        }
        let mut frame = family.echo_request(b"payload");
        *frame.last_mut().unwrap() ^= 1;
        assert!(bed.receive(&frame).is_empty());
        assert_eq!(bed.dropped(DropReason::Checksum), 1);
        assert_eq!(bed.host.counters().echo_replies, 6);
    }
}

#[test]
fn errors_reach_the_socket_that_sent() {
    let cases_v4 = [
        ((3, 0), UdpErrorKind::NetworkUnreachable),
        ((3, 1), UdpErrorKind::HostUnreachable),
        ((3, 2), UdpErrorKind::ProtocolUnreachable),
        ((3, 3), UdpErrorKind::PortUnreachable),
        ((3, 13), UdpErrorKind::Prohibited),
        ((11, 0), UdpErrorKind::TtlExceeded),
        ((11, 1), UdpErrorKind::ReassemblyTimeExceeded),
    ];
    let cases_v6 = [
        ((1, 0), UdpErrorKind::NetworkUnreachable),
        ((1, 3), UdpErrorKind::HostUnreachable),
        ((4, 1), UdpErrorKind::ProtocolUnreachable),
        ((1, 4), UdpErrorKind::PortUnreachable),
        ((1, 1), UdpErrorKind::Prohibited),
        ((3, 0), UdpErrorKind::TtlExceeded),
        ((3, 1), UdpErrorKind::ReassemblyTimeExceeded),
    ];
    for (family, cases) in [(V4, cases_v4), (V6, cases_v6)] {
        for (message, expected) in cases {
            let mut bed = Bed::new(config());
            let socket = bind(&mut bed, family.any(7));
            bed.host.connect_udp(socket, family.peer(9)).unwrap();
            send(&mut bed, socket, family.peer(9), b"hello");
            let ours = bed.sent().remove(0);
            // The first 8 bytes behind the IP header are enough.
            let cited = &ours[14..14 + family.header + 8];
            bed.receive(&family.icmp(message, 0, cited));
            assert_eq!(bed.host.take_ready_udp(), Some(socket));
            let errors = bed.host.udp_errors(socket).unwrap();
            assert_eq!(errors.len(), 1);
            assert_eq!(errors[0].kind, expected);
            assert_eq!(
                (errors[0].peer, errors[0].local),
                (family.peer(9), family.our(7))
            );
            // About what we did not send, nobody is told.
            let forged = family.udp(7, 9, b"hello");
            bed.receive(&family.icmp(message, 0, &forged[14..]));
            bed.receive(&family.icmp(message, 0, &cited[..cited.len() - 1]));
            assert_eq!(bed.host.udp_errors(socket).unwrap().len(), 1);
        }
    }
}

#[test]
fn a_reported_path_mtu_lowers_ours_for_a_time() {
    for family in BOTH {
        let mut bed = Bed::new(config());
        let socket = bind(&mut bed, family.any(7));
        let report = |bed: &mut Bed, mtu: u32| {
            send(bed, socket, family.peer(9), &pattern(1400));
            let ours = bed.sent().remove(0);
            let word = mtu;
            bed.receive(&family.icmp(family.too_big, word, &ours[14..14 + family.header + 8]));
            bed.host
                .udp_errors(socket)
                .unwrap()
                .pop()
                .map(|error| error.kind)
        };
        // What no link may carry, and what is no shorter than the packet.
        let least = if family.is_v6() { 1280 } else { 68 };
        for mtu in [1, least - 1, 1400 + family.header as u32 + 8, 65_535] {
            assert_eq!(report(&mut bed, mtu), None, "{mtu}");
        }
        let expected = UdpErrorKind::FragmentationNeeded { mtu: 1300 };
        assert_eq!(report(&mut bed, 1300), Some(expected));
        send(&mut bed, socket, family.peer(9), &pattern(1400));
        let frames = bed.sent();
        assert_eq!(frames.len(), 2);
        assert!(frames.iter().all(|frame| frame.len() <= 14 + 1300));
        bed.pass(Duration::from_secs(601));
        send(&mut bed, socket, family.peer(9), &pattern(1400));
        assert_eq!(bed.sent().len(), 1);
    }
}

#[test]
fn both_families_may_use_a_port_and_never_mix() {
    let mut bed = Bed::new(config());
    let sockets = BOTH.map(|family| bind(&mut bed, family.any(7)));
    for (index, family) in BOTH.into_iter().enumerate() {
        let other = BOTH[1 - index];
        assert!(matches!(
            bed.host.bind_udp(family.any(7)),
            Err(BindError::AddressInUse(_))
        ));
        let specific = bind(&mut bed, family.our(7));
        bed.host.close_udp(specific);
        assert!(matches!(
            bed.host.bind_udp(family.peer(7)),
            Err(BindError::AddressNotOurs(_))
        ));
        assert_eq!(bed.host.udp_local(sockets[index]), Some(family.any(7)));
        assert_eq!(
            bed.host.connect_udp(sockets[index], other.peer(9)),
            Err(ConnectError::FamiliesDiffer(other.peer(9)))
        );
        bed.receive(&family.udp(9, 7, b"x"));
        assert_eq!(bed.host.take_ready_udp(), Some(sockets[index]));
        assert_eq!(bed.host.take_ready_udp(), None);
        assert_eq!(bed.received(sockets[index]).len(), 1);
        let payload = Payload::Buffer(HeapBuffer::new(b"x"));
        let mut burst = vec![UdpSend::new(other.peer(9), payload)];
        assert_eq!(bed.send_burst(sockets[index], &mut burst).refused, 1);
        assert_eq!(burst[0].refused, Some(DropReason::NoRoute));
        assert_eq!(bed.host.source_for(family.peer), Some(family.our));
        assert!(bed.host.is_own_address(family.our));
    }
    bed.host.close_udp(sockets[1]);
    assert_eq!(bed.host.udp_local(sockets[1]), None);
    assert_eq!(bed.host.udp_local(sockets[0]), Some(V4.any(7)));
}

#[test]
fn packets_to_ourselves_never_leave() {
    for family in BOTH {
        let mut bed = Bed::new(config());
        let (from, to) = (bind(&mut bed, family.any(9)), bind(&mut bed, family.our(7)));
        for length in [0, 1400, 40_000] {
            send(&mut bed, from, family.our(7), &pattern(length));
            let datagram = bed.received(to).remove(0);
            assert_eq!(datagram.source, family.our(9));
            assert!(datagram.payload.to_vec() == pattern(length));
        }
        // A port that is closed.
        send(&mut bed, from, family.our(8), b"x");
        let errors = bed.host.udp_errors(from).unwrap();
        assert_eq!(errors[0].kind, UdpErrorKind::PortUnreachable);
        assert!(bed.sent().is_empty());
    }
}

#[test]
fn a_train_leaves_as_one_frame_that_says_how_to_cut_it() {
    for family in BOTH {
        let mut bed = Bed::new(config());
        let socket = bind(&mut bed, family.any(7));
        let payload = pattern(3500);
        let mut train = UdpSend::new(family.peer(9), Payload::Buffer(HeapBuffer::new(&payload)));
        train.segment_size = Some(1000);
        assert_eq!(bed.send_burst(socket, &mut vec![train]).accepted, 1);
        assert!(bed.host.take_has_offloads());
        let mut frame = bed.host.transmit().remove(0);
        let offload = frame.offload();
        let ChecksumState::Partial(partial) = offload.checksum else {
            panic!("{offload:?}");
        };
        let segmentation = offload.segmentation.unwrap();
        assert_eq!(usize::from(partial.start), 14 + family.header);
        assert_eq!(usize::from(segmentation.header_length), 22 + family.header);
        assert_eq!(segmentation.kind, SegmentKind::Udp);
        let mut pieces = Vec::new();
        segment(&mut frame, &offload, &mut Heap, &mut pieces).unwrap();
        let payloads: Vec<_> = pieces
            .iter()
            .map(|piece| read(&piece.to_vec()).payload)
            .collect();
        assert_eq!(payloads.len(), 4);
        assert!(payloads.concat() == payload);
    }
}

/// One of several hosts keeps neither what it puts together nor what it sends to itself.
#[test]
fn a_sharded_host_hands_over() {
    for family in BOTH {
        let mut bed = Bed::new(config());
        let socket = bind(&mut bed, family.any(7));
        bed.host.set_sharded();
        let hand_over = |bed: &mut Bed| {
            let frame = bed.host.take_handed_over().expect("something to hand over");
            assert!(!bed.host.has_handed_over());
            bed.host
                .receive_handed_over(bed.now, &mut vec![frame], &mut bed.pool);
            let datagram = bed.received(socket).remove(0);
            assert!(datagram.payload.to_vec() == pattern(5000));
        };
        send(&mut bed, socket, family.peer(7), &pattern(5000));
        for frame in bed.sent() {
            bed.receive(&turned_round(&frame, family));
        }
        hand_over(&mut bed);
        send(&mut bed, socket, family.our(7), &pattern(5000));
        hand_over(&mut bed);
        // From the link nobody is believed who says so.
        for ethertype in [
            virtroupe_wire::host::LOOPED,
            virtroupe_wire::host::REASSEMBLED,
        ] {
            let mut frame = family.udp(9, 7, b"x");
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            bed.receive(&frame);
        }
        assert_eq!(bed.dropped(DropReason::UnknownEtherType), 2);
    }
}

#[test]
fn fragments_that_stay_away_are_reported_and_forgotten() {
    for family in BOTH {
        let mut bed = Bed::new(config());
        let socket = bind(&mut bed, family.any(7));
        send(&mut bed, socket, family.peer(7), &pattern(4000));
        let frames = bed.sent();
        for frame in &frames[..2] {
            bed.receive(&turned_round(frame, family));
        }
        assert_eq!(bed.host.counters().held, 2);
        bed.pass(Duration::from_secs(61));
        assert_eq!(bed.host.counters().held, 0);
        assert_eq!(bed.dropped(DropReason::FragmentTimeout), 2);
        let error = read(&bed.sent()[0]);
        let kind = if family.is_v6() { 3 } else { 11 };
        assert_eq!(error.ports, (kind, 1));
        // Overlapping ones poison their datagram.
        send(&mut bed, socket, family.peer(7), &pattern(4000));
        let mut frames: Vec<_> = bed
            .sent()
            .iter()
            .map(|frame| turned_round(frame, family))
            .collect();
        bed.receive(&frames[1]);
        *frames[1].last_mut().unwrap() ^= 1;
        for frame in &frames {
            bed.receive(frame);
        }
        assert!(bed.received(socket).is_empty());
        assert_eq!(bed.dropped(DropReason::FragmentOverlap), 4);
        bed.pass(Duration::from_secs(61));
        assert_eq!(bed.host.reassembly_memory(), 0);
    }
}

#[test]
fn a_packet_that_is_not_for_us_or_from_nobody_is_refused() {
    for family in BOTH {
        let mut bed = Bed::new(config());
        bind(&mut bed, family.any(7));
        let frame = |from: &str, to: IpAddr| {
            let mut frame = Vec::new();
            let builder = family.builder(from.parse().unwrap(), to, 64).udp(9, 7);
            builder.write(&mut frame, b"x").unwrap();
            frame
        };
        let bad = match family.is_v6() {
            true => ["::1", "ff02::1", "fd00::1", "::ffff:10.0.0.2", "::"],
            false => [
                "127.0.0.1",
                "224.0.0.1",
                "10.0.0.1",
                "10.0.0.255",
                "0.0.0.0",
            ],
        };
        for from in bad {
            assert!(bed.receive(&frame(from, family.our)).is_empty());
        }
        assert_eq!(bed.dropped(DropReason::BadSource), 5);
        let source = family.peer.to_string();
        assert!(bed.receive(&frame(&source, family.peer)).is_empty());
        // In a frame to everybody.
        let mut everybody = frame(&source, family.our);
        everybody[..6].fill(0xff);
        assert!(bed.receive(&everybody).is_empty());
        assert_eq!(bed.dropped(DropReason::NotForOurAddress), 2);
        let mut other = frame(&source, family.our);
        other[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
        assert!(bed.receive(&other).is_empty());
        let reason = match family.is_v6() {
            true => DropReason::NotForOurAddress,
            false => DropReason::NotForOurMac,
        };
        assert!(bed.dropped(reason) >= 1);
    }
}

/// A host without IPv6 addresses takes no notice of it, and one without IPv4 has none.
#[test]
fn a_host_may_be_of_one_family() {
    for (family, other) in [(V4, V6), (V6, V4)] {
        let mut settings = config();
        settings.addresses.retain(|net| net.addr() == family.our);
        settings
            .neighbors
            .retain(|neighbor| neighbor.address == family.peer);
        let mut bed = Bed {
            host: Host::new(settings.clone(), 1).unwrap(),
            ..Bed::new(settings)
        };
        bed.host.set_transmit_room(10);
        bed.receive(&other.udp(9, 7, b"x"));
        bed.receive(&other.echo_request(b"x"));
        let reason = match other.is_v6() {
            true => DropReason::UnknownEtherType,
            false => DropReason::NotForOurAddress,
        };
        assert_eq!(bed.dropped(reason), 2);
        assert_eq!(bed.host.source_for(other.peer), None);
        assert_eq!(bed.receive(&family.echo_request(b"x")).len(), 1);
    }
}
