use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::ipv4::Ipv4Header;

const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn frame(source: [u8; 4], ports: (u16, u16), ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], OURS.0)
        .ipv4(source, [10, 0, 0, 1], ttl)
        .udp(ports.0, ports.1)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// What etherparse and the slow path's parser say about a frame that the fast path took.
fn check(fast: &FastUdp, frame: &[u8]) {
    let packet = SlicedPacket::from_ethernet(frame).expect("etherparse takes it too");
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport)
    else {
        panic!("not UDP over IPv4");
    };
    let header = ip.header();
    assert_eq!(fast.source, header.source_addr());
    assert_eq!(fast.destination, header.destination_addr());
    assert_eq!(fast.ttl, header.ttl());
    assert_eq!(fast.dscp_ecn >> 2, header.dcp().value());
    assert_eq!(fast.dscp_ecn & 3, header.ecn().value());
    assert!(!header.is_fragmenting_payload());
    assert!(header.options().is_empty());
    assert_eq!(
        header.header_checksum(),
        header.to_header().calc_header_checksum()
    );
    assert_eq!(fast.source_port, udp.source_port());
    assert_eq!(fast.destination_port, udp.destination_port());
    assert_eq!(usize::from(fast.payload), udp.payload().len());
    if udp.checksum() != 0 {
        let sum = udp
            .to_header()
            .calc_checksum_ipv4(&header.to_header(), udp.payload());
        // etherparse computes ones for zero; a sum of zero over a datagram is also written so.
        assert_eq!(Ok(udp.checksum()), sum);
    }
    let slow = Ipv4Header::parse(&frame[14..], frame.len() - 14).expect("the slow path agrees");
    assert_eq!(
        (slow.source, slow.destination, slow.ttl, slow.dscp_ecn),
        (fast.source, fast.destination, fast.ttl, fast.dscp_ecn)
    );
    assert!(!slow.is_fragment());
    assert_eq!(slow.header_length, ipv4::HEADER);
}

proptest! {
    #[test]
    fn a_good_frame_is_taken_and_read_as_etherparse_reads_it(
        source in any::<[u8; 4]>(),
        ports in any::<(u16, u16)>(),
        ttl in any::<u8>(),
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        padding in 0_usize..20,
    ) {
        let mut frame = frame(source, ports, ttl, &payload);
        frame.resize(frame.len() + padding, 0xee);
        let fast = FastUdp::parse(&frame, OURS).expect("a good frame");
        check(&fast, &frame);
        prop_assert_eq!(usize::from(fast.payload), payload.len());
        prop_assert_eq!(FastUdp::parse(&frame, MacAddr([2; 6])), None);
    }

    #[test]
    fn of_a_changed_frame_nothing_is_taken_that_etherparse_would_not(
        payload in proptest::collection::vec(any::<u8>(), 0..40),
        changes in proptest::collection::vec((0_usize..60, any::<u8>()), 1..4),
        length in 0_usize..100,
        is_repaired in any::<bool>(),
        is_unsummed in any::<bool>(),
    ) {
        let mut frame = frame([10, 0, 0, 2], (9, 7), 64, &payload);
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if is_unsummed {
            frame[40..42].fill(0);
        }
        if is_repaired {
            frame[24..26].fill(0);
            let sum = checksum::checksum(&frame[14..34]).to_be_bytes();
            frame[24..26].copy_from_slice(&sum);
        }
        frame.truncate(length);
        if let Some(fast) = FastUdp::parse(&frame, OURS) {
            check(&fast, &frame);
        }
    }
}

#[test]
fn everything_but_whole_udp_is_left_to_the_slow_path() {
    let good = frame([10, 0, 0, 2], (9, 7), 64, b"payload");
    assert!(FastUdp::parse(&good, OURS).is_some());
    // EtherType, IHL, length, fragment, offset, protocol, header sum, UDP length, UDP sum.
    for at in [12, 14, 16, 20, 21, 23, 24, 38, 40] {
        let mut bad = good.clone();
        bad[at] ^= 0x21;
        assert_eq!(FastUdp::parse(&bad, OURS), None, "{at}");
    }
    for length in 0..good.len() {
        assert_eq!(FastUdp::parse(&good[..length], OURS), None, "{length}");
    }
}
