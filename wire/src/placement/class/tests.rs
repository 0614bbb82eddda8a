use etherparse::{IpFragOffset, IpNumber, PacketBuilder, VlanId};
use proptest::prelude::*;

use super::*;

const PEER: [u8; 4] = [10, 0, 0, 2];
const OURS: [u8; 4] = [10, 0, 0, 1];
const PEER6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const OURS6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn link(destination: [u8; 6]) -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], destination)
}

fn udp4(destination: [u8; 6], to: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = link(destination).ipv4(PEER, to, 64).udp(ports.0, ports.1);
    builder.write(&mut frame, b"payload").unwrap();
    frame
}

fn udp6(ports: (u16, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = link(STATION).ipv6(PEER6, OURS6, 64).udp(ports.0, ports.1);
    builder.write(&mut frame, b"payload").unwrap();
    frame
}

fn flow(transport: Transport, peer: &str, local: &str) -> Flow {
    Flow::received_from(transport, peer.parse().unwrap(), local.parse().unwrap()).unwrap()
}

fn addresses(peer: &str, local: &str) -> Flow {
    Flow::received_from_address(peer.parse().unwrap(), local.parse().unwrap()).unwrap()
}

fn addresses4() -> Flow {
    addresses("10.0.0.2", "10.0.0.1")
}

fn addresses6() -> Flow {
    addresses("fd00::2", "fd00::1")
}

#[test]
fn udp_and_tcp_have_ports_and_other_protocols_have_not() {
    let udp = flow(Transport::Udp, "10.0.0.2:1000", "10.0.0.1:53");
    assert_eq!(
        Class::of_frame(&udp4(STATION, OURS, (1000, 53))),
        Class::Flow(udp)
    );
    let udp = flow(Transport::Udp, "[fd00::2]:1000", "[fd00::1]:53");
    assert_eq!(Class::of_frame(&udp6((1000, 53))), Class::Flow(udp));
    let mut frame = Vec::new();
    let builder = link(STATION).ipv4(PEER, OURS, 64).tcp(1000, 80, 1, 2);
    builder.write(&mut frame, b"").unwrap();
    let tcp = flow(Transport::Tcp, "10.0.0.2:1000", "10.0.0.1:80");
    assert_eq!(Class::of_frame(&frame), Class::Flow(tcp));
    let mut frame = Vec::new();
    let builder = link(STATION).ipv4(PEER, OURS, 64).icmpv4_echo_request(1, 2);
    builder.write(&mut frame, b"ping").unwrap();
    assert_eq!(Class::of_frame(&frame), Class::Flow(addresses4()));
    assert_eq!(Class::of_packet(&frame[14..]), Class::Flow(addresses4()));
}

#[test]
fn options_and_extension_headers_are_looked_through() {
    let mut frame = udp4(STATION, OURS, (1000, 53));
    frame[14] = 0x46;
    frame.splice(34..34, [1, 1, 1, 0]);
    let udp = flow(Transport::Udp, "10.0.0.2:1000", "10.0.0.1:53");
    assert_eq!(Class::of_frame(&frame), Class::Flow(udp));
    let mut frame = udp6((1000, 53));
    frame[20] = 60;
    frame.splice(54..54, [17, 0, 1, 4, 0, 0, 0, 0]);
    let udp = flow(Transport::Udp, "[fd00::2]:1000", "[fd00::1]:53");
    assert_eq!(Class::of_frame(&frame), Class::Flow(udp));
    // Behind more of them than are looked through, ports do not count.
    let mut frame = udp6((1000, 53));
    frame[20] = 60;
    frame.splice(54..54, [[60, 0, 1, 4, 0, 0, 0, 0]; 9].concat());
    assert_eq!(Class::of_frame(&frame), Class::Flow(addresses6()));
}

#[test]
fn all_fragments_of_a_datagram_go_by_their_addresses() {
    for (offset, more) in [(0, true), (8, true), (16, false)] {
        let mut frame = udp4(STATION, OURS, (1000, 53));
        let field = IpFragOffset::try_new(offset).unwrap().value() | u16::from(more) << 13;
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        assert_eq!(
            Class::of_frame(&frame),
            Class::Flow(addresses4()),
            "{offset}"
        );
        let mut frame = udp6((1000, 53));
        frame[20] = ipv6::FRAGMENT;
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        frame.splice(54..54, [17, 0, high, low, 0, 0, 0, 9]);
        assert_eq!(
            Class::of_frame(&frame),
            Class::Flow(addresses6()),
            "{offset}"
        );
    }
    // An atomic fragment is whole (RFC 6946).
    let mut frame = udp6((1000, 53));
    frame[20] = ipv6::FRAGMENT;
    frame.splice(54..54, [17, 0, 0, 0, 0, 0, 0, 9]);
    let udp = flow(Transport::Udp, "[fd00::2]:1000", "[fd00::1]:53");
    assert_eq!(Class::of_frame(&frame), Class::Flow(udp));
}

#[test]
fn an_error_goes_to_the_flow_that_it_is_about() {
    // A router tells us that our datagram from port 5000 did not reach the peer's port 53.
    let sent = {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4(OURS, PEER, 64).udp(5000, 53);
        builder.write(&mut packet, b"query").unwrap();
        packet
    };
    let error = |kind: u8, cited: &[u8]| {
        let mut frame = Vec::new();
        let body = [&[kind, 3, 0, 0, 0, 0, 0, 0], cited].concat();
        let builder = link(STATION).ipv4([10, 0, 0, 9], OURS, 64);
        builder.write(&mut frame, IpNumber::ICMP, &body).unwrap();
        Class::of_frame(&frame)
    };
    let replies = flow(Transport::Udp, "10.0.0.2:53", "10.0.0.1:5000");
    let of_router = Class::Flow(addresses("10.0.0.9", "10.0.0.1"));
    for kind in [3, 11, 12] {
        assert_eq!(error(kind, &sent), Class::Error(replies));
        assert_eq!(error(kind, &sent[..24]), Class::Error(replies));
        assert_eq!(error(kind, &sent[..23]), of_router);
    }
    assert_eq!(error(8, &sent), of_router);
    let mut first = sent.clone();
    first[6] = 0x20;
    assert_eq!(error(11, &first), Class::Error(replies));
    first[7] = 1;
    assert_eq!(error(11, &first), of_router);

    let mut cited = udp6((53, 5000)).split_off(14);
    let (source, destination) = (OURS6, PEER6);
    cited[8..24].copy_from_slice(&source);
    cited[24..40].copy_from_slice(&destination);
    cited[40..44].copy_from_slice(&[0x13, 0x88, 0, 53]);
    let mut frame = Vec::new();
    let body = [&[2, 0, 0, 0, 0, 0, 5, 0], cited.as_slice()].concat();
    let builder = link(STATION).ipv6(PEER6, OURS6, 64);
    builder
        .write(&mut frame, IpNumber::IPV6_ICMP, &body)
        .unwrap();
    let replies = flow(Transport::Udp, "[fd00::2]:53", "[fd00::1]:5000");
    assert_eq!(Class::of_frame(&frame), Class::Error(replies));
}

#[test]
fn groups_are_told_apart_by_either_destination() {
    let group = |to: &str| Class::Group(flow(Transport::Udp, "10.0.0.2:1000", to));
    let frame = udp4([0xff; 6], [10, 0, 0, 255], (1000, 53));
    assert_eq!(Class::of_frame(&frame), group("10.0.0.255:53"));
    for to in [[224, 0, 0, 251], [239, 1, 2, 3], [255; 4]] {
        let frame = udp4(STATION, to, (1000, 53));
        let to = format!("{}:53", Ipv4Addr::from(to));
        assert_eq!(Class::of_frame(&frame), group(&to));
        assert_eq!(Class::of_packet(&frame[14..]), group(&to));
    }
    let mut frame = udp6((1000, 53));
    frame[38..40].copy_from_slice(&[0xff, 0x02]);
    let Class::Group(flow) = Class::of_frame(&frame) else {
        panic!("a multicast address");
    };
    assert_eq!(
        flow.local_address(),
        "ff02::1".parse::<std::net::IpAddr>().unwrap()
    );
}

#[test]
fn neighbour_discovery_of_both_versions_is_told_apart() {
    let arp = |operation, sender: [u8; 4], target: [u8; 4]| {
        let packet = ArpPacket {
            operation,
            sender_mac: crate::MacAddr([2, 0, 0, 0, 0, 2]),
            sender: sender.into(),
            target_mac: crate::MacAddr::default(),
            target: target.into(),
        };
        let header = EthernetHeader {
            destination: crate::MacAddr::BROADCAST,
            source: packet.sender_mac,
            ethertype: ethernet::ARP,
        };
        Class::of_frame(&[header.to_bytes().as_slice(), &packet.to_bytes()].concat())
    };
    let (request, reply) = (ArpOperation::Request, ArpOperation::Reply);
    assert_eq!(arp(request, PEER, OURS), Class::NeighborSolicitation);
    assert_eq!(arp(request, [0; 4], OURS), Class::NeighborSolicitation);
    assert_eq!(arp(request, PEER, PEER), Class::NeighborAdvertisement);
    assert_eq!(arp(reply, PEER, OURS), Class::NeighborAdvertisement);
    for (kind, class) in [
        (134, Class::NeighborAdvertisement),
        (135, Class::NeighborSolicitation),
        (136, Class::NeighborAdvertisement),
        (137, Class::NeighborAdvertisement),
        (128, Class::Flow(addresses6())),
    ] {
        let mut frame = udp6((0, 0));
        frame[20] = ipv6::ICMP;
        frame[54] = kind;
        assert_eq!(Class::of_frame(&frame), class);
    }
}

#[test]
fn tags_other_ethertypes_and_short_frames_are_of_no_flow() {
    let mut tagged = Vec::new();
    let builder = link(STATION).single_vlan(VlanId::try_new(7).unwrap());
    let builder = builder.ipv4(PEER, OURS, 64).udp(1000, 53);
    builder.write(&mut tagged, b"").unwrap();
    assert_eq!(Class::of_frame(&tagged), Class::Unclassified);
    let whole = udp4(STATION, OURS, (1000, 53));
    for length in 0..whole.len() {
        let class = match length {
            0..34 => Class::Unclassified,
            34..38 => Class::Flow(addresses4()),
            _ => Class::of_frame(&whole),
        };
        assert_eq!(Class::of_frame(&whole[..length]), class, "{length} bytes");
    }
    for (at, value) in [(12, 9), (14, 0x55), (14, 0x44)] {
        let mut frame = whole.clone();
        frame[at] = value;
        assert_eq!(Class::of_frame(&frame), Class::Unclassified);
    }
}

proptest! {
    /// Whatever the bytes are, nothing panics; random bytes behind each EtherType reach deep.
    #[test]
    fn every_frame_has_a_class(
        ethertype in prop_oneof![Just(ethernet::IPV4), Just(ethernet::IPV6), Just(ethernet::ARP)],
        first in any::<u8>(),
        next in prop_oneof![Just(0_u8), Just(1), Just(17), Just(43), Just(44), Just(58), Just(60)],
        rest in prop::collection::vec(any::<u8>(), 0..150),
    ) {
        let mut frame = vec![2; 12];
        frame.extend_from_slice(&ethertype.to_be_bytes());
        frame.push(if ethertype == ethernet::IPV6 { 0x60 } else { 0x40 | first & 0xf });
        frame.extend_from_slice(&rest);
        let protocol = if ethertype == ethernet::IPV6 { 20 } else { 23 };
        if let Some(byte) = frame.get_mut(protocol) {
            *byte = next;
        }
        let class = Class::of_frame(&frame);
        if ethertype != ethernet::ARP {
            prop_assert_eq!(Class::of_packet(&frame[14..]), class);
        }
        let _ = Class::of_frame(&rest);
    }
}
