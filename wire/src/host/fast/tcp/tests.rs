use std::net::IpAddr;

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::buffer::{Buffer, HeapBuffer};
use crate::drops::DropReason;
use crate::ethernet::EthernetHeader;
use crate::ipv4::Ipv4Header;
use crate::tcp::Segment;

const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// A segment with options and payload.
fn frame(ports: (u16, u16), numbers: (u32, u32), options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], OURS.0)
        .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64)
        .tcp(ports.0, ports.1, numbers.0, 4096)
        .ack(numbers.1)
        .options_raw(options)
        .expect("options of at most 40 bytes")
        .write(&mut frame, payload)
        .expect("a packet");
    frame
}

/// What the slow path's parsers say about a frame that the fast path took.
fn check(fast: &FastTcp, frame: &[u8]) {
    let ethernet = EthernetHeader::parse(frame).expect("a frame");
    assert_eq!(
        (ethernet.destination, ethernet.ethertype),
        (OURS, ethernet::IPV4)
    );
    let mut packet = HeapBuffer::new(&frame[ethernet::HEADER..]);
    let ip = Ipv4Header::parse(packet.head(), packet.len()).expect("a packet");
    assert_eq!((ip.protocol, ip.is_fragment()), (ipv4::TCP, false));
    assert_eq!(
        (fast.source, fast.destination, fast.dscp_ecn),
        (ip.source, ip.destination, ip.dscp_ecn)
    );
    packet.truncate(ip.total_length);
    packet.trim_front(ip.header_length);
    let (source, destination): (IpAddr, IpAddr) = (ip.source.into(), ip.destination.into());
    assert_eq!(fast.length, packet.len());
    assert_eq!(
        packet.head(),
        &frame[FastTcp::IN_FRONT..][..fast.length],
        "without padding"
    );
    let slow = Segment::parse(source, destination, ip.dscp_ecn, packet, true);
    assert_ne!(slow.err(), Some(DropReason::Checksum));
}

proptest! {
    #[test]
    fn a_good_frame_is_taken_and_read_as_the_slow_path_reads_it(
        ports in any::<(u16, u16)>(),
        numbers in any::<(u32, u32)>(),
        options in proptest::collection::vec(any::<u8>(), 0..10),
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        padding in 0_usize..20,
    ) {
        let options: Vec<u8> = options.iter().flat_map(|byte| [*byte; 4]).collect();
        let mut frame = frame(ports, numbers, &options, &payload);
        frame.resize(frame.len() + padding, 0xee);
        let fast = FastTcp::parse(&frame, OURS).expect("a good frame");
        check(&fast, &frame);
        prop_assert_eq!(fast.length, 20 + options.len() + payload.len());
        prop_assert_eq!(FastTcp::parse(&frame, MacAddr([2; 6])), None);
    }

    #[test]
    fn of_a_changed_frame_nothing_is_taken_that_the_slow_path_would_not(
        payload in proptest::collection::vec(any::<u8>(), 0..40),
        changes in proptest::collection::vec((0_usize..60, any::<u8>()), 1..4),
        length in 0_usize..120,
        is_repaired in any::<bool>(),
    ) {
        let mut frame = frame((9, 7), (1, 2), &[1; 12], &payload);
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if is_repaired {
            frame[24..26].fill(0);
            let sum = checksum::checksum(&frame[14..34]).to_be_bytes();
            frame[24..26].copy_from_slice(&sum);
        }
        frame.truncate(length);
        if let Some(fast) = FastTcp::parse(&frame, OURS) {
            check(&fast, &frame);
        }
    }
}

#[test]
fn everything_but_a_whole_segment_is_left_to_the_slow_path() {
    let good = frame((9, 7), (1, 2), &[1; 12], b"payload");
    assert!(FastTcp::parse(&good, OURS).is_some());
    // EtherType, IHL, length, fragment, offset, protocol, header sum; data offset, TCP sum, payload.
    for at in [12, 14, 16, 20, 21, 23, 24, 46, 50, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x21;
        assert_eq!(FastTcp::parse(&bad, OURS), None, "{at}");
    }
    for length in 0..good.len() {
        assert_eq!(FastTcp::parse(&good[..length], OURS), None, "{length}");
    }
}
