//! IPv4: validation, fragmentation, reassembly.

use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;
use virtroupe_wire::{Buffer, DropReason, HostConfig, Limits, Payload, UdpSend};

use crate::support::*;

/// A good frame to a bound port, and that frame changed: the reason for which the host drops it.
fn reason_after(change: impl FnOnce(&mut Vec<u8>)) -> Option<DropReason> {
    let mut bed = Bed::new(config());
    bed.bind("0.0.0.0:7");
    let mut frame = udp((PEER, 9), (OUR, 7), b"payload");
    change(&mut frame);
    bed.receive(&frame);
    let reason = bed.host.drops().nonzero().next().map(|(reason, _)| reason);
    assert_eq!(bed.host.counters().delivered, u64::from(reason.is_none()));
    reason
}

/// Makes the header checksum right again.
fn repair(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = virtroupe_wire::checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn a_bad_header_is_dropped_with_its_reason() {
    let malformed = Some(DropReason::Malformed);
    assert_eq!(reason_after(|_| ()), None);
    for first in [0x40, 0x41, 0x44, 0x55, 0x65, 0x4f] {
        // Version not 4, header length under 20, header longer than the packet.
        let reason = reason_after(|frame| {
            frame[14] = first;
            repair(frame);
        });
        assert_eq!(reason, malformed, "{first:02x}");
    }
    for length in [0_u16, 19, 36, 65_535] {
        let reason = reason_after(|frame| {
            frame[16..18].copy_from_slice(&length.to_be_bytes());
            repair(frame);
        });
        assert_eq!(reason, malformed, "{length}");
    }
    assert_eq!(
        reason_after(|frame| frame[24] ^= 1),
        Some(DropReason::Checksum)
    );
    for length in 0..42 {
        assert_eq!(
            reason_after(|frame| frame.truncate(length)),
            malformed,
            "{length}"
        );
    }
}

#[test]
fn a_bad_source_is_dropped() {
    let sources = [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [240, 0, 0, 1],
        [255, 255, 255, 255],
        [10, 0, 0, 255],
        [10, 0, 0, 0],
        OUR.octets(),
    ];
    for source in sources {
        let reason = reason_after(|frame| *frame = udp((source.into(), 9), (OUR, 7), b"x"));
        assert_eq!(reason, Some(DropReason::BadSource), "{source:?}");
    }
}

#[test]
fn only_what_is_for_us_is_taken() {
    let not_ours = Some(DropReason::NotForOurAddress);
    for destination in [
        PEER,
        [224, 0, 0, 1].into(),
        [127, 0, 0, 1].into(),
        [10, 1, 0, 1].into(),
    ] {
        assert_eq!(
            reason_after(|frame| *frame = udp((PEER, 9), (destination, 7), b"x")),
            not_ours
        );
    }
    let not_our_mac = Some(DropReason::NotForOurMac);
    assert_eq!(reason_after(|frame| frame[5] = 7), not_our_mac);
    assert_eq!(
        reason_after(|frame| frame[0] = 1),
        not_our_mac,
        "a group that we are not in"
    );
    // RFC 1122, section 3.3.6: a unicast packet in a broadcast frame.
    assert_eq!(reason_after(|frame| frame[..6].fill(0xff)), not_ours);
    let unknown = Some(DropReason::UnknownEtherType);
    assert_eq!(reason_after(|frame| frame[12] = 0x86), unknown);
}

#[test]
fn ethernet_padding_is_trimmed() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let mut frame = udp((PEER, 9), (OUR, 7), b"x");
    frame.resize(60, 0xaa);
    bed.receive(&frame);
    assert_eq!(bed.received(socket)[0].payload.to_vec(), b"x");
}

#[test]
fn options_are_ignored_but_source_routes_are_refused() {
    for (options, reason) in [
        ([1, 1, 1, 0], None),
        ([148, 4, 0, 0], None), // router alert
        ([131, 3, 4, 0], Some(DropReason::SourceRoute)),
        ([1, 137, 3, 4], Some(DropReason::SourceRoute)),
        ([68, 0, 0, 0], Some(DropReason::Malformed)),
        ([68, 5, 0, 0], Some(DropReason::Malformed)),
        ([1, 1, 1, 68], Some(DropReason::Malformed)),
    ] {
        let mut bed = Bed::new(config());
        let socket = bed.bind("0.0.0.0:7");
        bed.receive(&ipv4(17, OUR, &segment(9, 7, b"payload"), |header| {
            header.options = options.into();
            header.total_len += 4;
        }));
        let dropped = bed.host.drops().nonzero().next().map(|(reason, _)| reason);
        assert_eq!(dropped, reason, "{options:?}");
        if reason.is_none() {
            assert_eq!(bed.received(socket)[0].payload.to_vec(), b"payload");
        }
    }
}

/// RFC 6864, section 4.1.
#[test]
fn what_no_router_may_fragment_has_no_identification() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let _ = bed.send(socket, (PEER, 9), &[&b"x"[..]; 3]);
    for frame in bed.sent() {
        let header = read_ipv4(&frame).0;
        assert!(header.dont_fragment);
        assert_eq!(header.identification, 0);
    }
}

#[test]
fn identifications_of_fragmented_datagrams_are_neither_zero_nor_constant() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let long = vec![0; 1600];
    let mut ids = Vec::new();
    for _ in 0..100 {
        let _ = bed.send(socket, (PEER, 9), &[&long[..]]);
        ids.push(read_ipv4(&bed.sent()[0]).0.identification);
    }
    assert!(!ids.contains(&0));
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() > 90);
}

#[test]
fn fragments_share_an_identification_and_hold_multiples_of_8_bytes() {
    for mtu in [68, 576, 1499, 1500, 9000] {
        let mut bed = Bed::new(HostConfig { mtu, ..config() });
        bed.pool.segment = 2048; // shorter than the longest fragment
        let socket = bed.bind("0.0.0.0:7");
        let payload = pattern(10_001);
        let (outcome, _) = bed.send(socket, (PEER, 9), &[&payload]);
        assert_eq!(outcome.accepted, 1);
        let frames = bed.sent();
        let first = read_ipv4(&frames[0]).0.identification;
        assert_ne!(first, 0);
        let mut expected = 0;
        let mut whole = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            let (header, piece) = read_ipv4(frame);
            let is_last = index + 1 == frames.len();
            assert_eq!(header.identification, first);
            assert!(!header.dont_fragment);
            assert_eq!(header.more_fragments, !is_last);
            assert_eq!(usize::from(header.fragment_offset.value()) * 8, expected);
            assert!(header.total_len <= mtu);
            assert!(is_last || piece.len() % 8 == 0);
            expected += piece.len();
            whole.extend(piece);
        }
        assert_eq!(whole[8..], payload);
        assert_eq!(bed.host.counters().fragmented, 1);
    }
}

#[test]
fn a_datagram_is_fragmented_only_if_it_must_be() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let _ = bed.send(socket, (PEER, 9), &[&pattern(1472)]);
    let frames = bed.sent();
    assert_eq!((frames.len(), frames[0].len()), (1, 1514));
    assert!(read_ipv4(&frames[0]).0.dont_fragment);
    let _ = bed.send(socket, (PEER, 9), &[&pattern(1473)]);
    assert_eq!(bed.sent().len(), 2);
}

#[test]
fn a_fragmented_datagram_is_sent_whole_or_refused() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let payload = pattern(4000); // three frames
    bed.host.set_transmit_room(2);
    let (outcome, refused) = bed.send(socket, (PEER, 9), &[&payload, b"small"]);
    assert_eq!(outcome.refused, 2);
    assert!(
        refused
            .iter()
            .all(|send| send.refused == Some(DropReason::RingFull))
    );
    assert_eq!(refused[0].payload.len(), 4000);
    bed.host.set_transmit_room(10);
    bed.pool.left = 2;
    let (outcome, refused) = bed.send(socket, (PEER, 9), &[&payload]);
    assert_eq!(outcome.refused, 1);
    assert_eq!(refused[0].refused, Some(DropReason::PoolEmpty));
    assert!(bed.sent().is_empty());
    // What was refused can be offered again as it is.
    bed.pool.left = 3;
    let mut burst = refused;
    assert_eq!(bed.send_burst(socket, &mut burst).accepted, 1);
    assert_eq!(bed.sent().len(), 3);
}

/// The fragments of one UDP datagram from port 9 to port 7.
fn fragments(id: u16, payload: &[u8], each: usize) -> Vec<Vec<u8>> {
    let whole = segment(9, 7, payload);
    let count = whole.chunks(each).len();
    let pieces = whole.chunks(each).enumerate();
    pieces
        .map(|(index, piece)| fragment(id, index * each, index + 1 < count, piece))
        .collect()
}

proptest! {
    #[test]
    fn fragments_in_any_order_give_the_same_bytes(
        length in 0_usize..20_000,
        mtu in 300_u16..4000,
        shuffle in any::<u64>(),
    ) {
        let mut sender = Bed::new(HostConfig {
            mac: PEER_MAC,
            mtu,
            addresses: vec!["10.0.0.2/24".parse().unwrap()],
            neighbors: vec![virtroupe_wire::Neighbor { address: OUR.into(), mac: OUR_MAC }],
            ..HostConfig::default()
        });
        let mut receiver = Bed::new(config());
        let socket = sender.bind("0.0.0.0:9");
        let payload = pattern(length);
        let (outcome, _) = sender.send(socket, (OUR, 7), &[&payload]);
        prop_assert_eq!(outcome.accepted, 1);
        let mut frames = sender.sent();
        let mut seed = shuffle;
        for index in (1..frames.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            frames.swap(index, (seed >> 33) as usize % (index + 1));
        }
        let socket = receiver.bind("0.0.0.0:7");
        for frame in &frames {
            receiver.receive(frame);
        }
        let received = receiver.received(socket);
        prop_assert_eq!(received.len(), 1);
        prop_assert_eq!(received[0].payload.to_vec(), payload);
        prop_assert_eq!(received[0].source, (PEER, 9).into());
        prop_assert_eq!(receiver.host.counters().held, 0);
        prop_assert_eq!(receiver.host.reassembly_memory(), 0);
    }
}

#[test]
fn an_overlap_drops_the_whole_datagram() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let frames = fragments(5, &pattern(3000), 1000);
    bed.receive(&frames[0]);
    bed.receive(&fragment(5, 992, true, &pattern(16)));
    for frame in &frames {
        bed.receive(frame);
    }
    assert!(bed.received(socket).is_empty());
    assert_eq!(
        bed.dropped(DropReason::FragmentOverlap),
        2 + frames.len() as u64
    );
    // Another datagram is not affected, nor is this identification after its time.
    for frame in fragments(6, &pattern(3000), 1000) {
        bed.receive(&frame);
    }
    assert_eq!(bed.received(socket).len(), 1);
    bed.pass(Duration::from_secs(61));
    for frame in &frames {
        bed.receive(frame);
    }
    assert_eq!(bed.received(socket).len(), 1);
}

#[test]
fn the_same_range_with_other_bytes_is_an_overlap() {
    let mut bed = Bed::new(config());
    bed.receive(&fragment(5, 0, true, &[1; 16]));
    bed.receive(&fragment(5, 0, true, &[2; 16]));
    assert_eq!(bed.dropped(DropReason::FragmentOverlap), 2);
}

#[test]
fn an_exact_duplicate_is_ignored() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let payload = pattern(3000);
    for frame in fragments(5, &payload, 1000) {
        bed.receive(&frame);
        if bed.host.counters().held > 0 {
            bed.receive(&frame);
        }
    }
    assert_eq!(bed.received(socket)[0].payload.to_vec(), payload);
    assert_eq!(bed.host.drops().total(), 0);
}

#[test]
fn fragments_that_disagree_about_the_end_are_refused() {
    for frames in [
        [
            fragment(1, 800, false, &[1; 8]),
            fragment(1, 808, true, &[1; 8]),
        ],
        [
            fragment(1, 808, true, &[1; 8]),
            fragment(1, 800, false, &[1; 8]),
        ],
        [
            fragment(1, 800, false, &[1; 8]),
            fragment(1, 400, false, &[1; 8]),
        ],
    ] {
        let mut bed = Bed::new(config());
        bed.receive(&frames[0]);
        bed.receive(&frames[1]);
        assert_eq!(bed.dropped(DropReason::FragmentOverlap), 2);
        assert_eq!(bed.host.reassembly_memory(), 0);
    }
}

#[test]
fn impossible_fragments_are_malformed() {
    let mut bed = Bed::new(config());
    bed.receive(&fragment(1, 0, true, &[1; 9])); // not a multiple of 8
    bed.receive(&fragment(2, 0, true, &[])); // empty
    bed.receive(&fragment(3, 65_528, false, &[1; 16])); // beyond 65535 bytes
    assert_eq!(bed.dropped(DropReason::Malformed), 3);
    assert_eq!(bed.host.counters().held, 0);
}

#[test]
fn one_source_holds_a_bounded_number_of_datagrams() {
    let mut bed = Bed::new(config());
    for id in 1..=100 {
        bed.receive(&fragment(id, 0, true, &[1; 64]));
    }
    assert_eq!(bed.host.counters().held, 16);
    assert_eq!(bed.dropped(DropReason::FragmentLimit), 84);
    // The newest are kept.
    let socket = bed.bind("0.0.0.0:7");
    let frames = fragments(99, &pattern(2000), 1000);
    let mut other = frames.clone();
    other.iter_mut().for_each(|frame| {
        frame[29] = 3; // from 10.0.0.3
        repair(frame);
    });
    for frame in &other {
        bed.receive(frame);
    }
    assert_eq!(
        bed.received(socket).len(),
        1,
        "another source is not affected"
    );
}

#[test]
fn a_flood_of_fragments_holds_bounded_memory_and_lets_datagrams_through() {
    let memory = 64 * 2048;
    let mut bed = Bed::new(HostConfig {
        limits: Limits {
            reassembly_memory: memory,
            ..Limits::default()
        },
        ..config()
    });
    let socket = bed.bind("0.0.0.0:7");
    for round in 0..2000_u32 {
        // 8 bytes each, but each holds a whole slot.
        let mut frame = fragment(round as u16, 8, true, &[1; 8]);
        frame[26..30].copy_from_slice(&(0x0b00_0000 + round).to_be_bytes());
        repair(&mut frame);
        bed.receive(&frame);
        assert!(bed.host.reassembly_memory() <= memory);
        assert!(bed.host.counters().held <= 64);
    }
    for frame in fragments(7, &pattern(2000), 1000) {
        bed.receive(&frame);
    }
    assert_eq!(bed.received(socket).len(), 1);
}

#[test]
fn a_datagram_in_too_many_fragments_is_given_up() {
    let mut bed = Bed::new(config());
    for index in 0..300 {
        bed.receive(&fragment(1, index * 8, true, &[1; 8]));
    }
    assert_eq!(bed.host.counters().held, 0);
    assert_eq!(bed.dropped(DropReason::FragmentLimit), 257);
}

#[test]
fn fragments_time_out_and_the_sender_is_told_only_about_a_first_one() {
    let mut bed = Bed::new(config());
    let first = fragment(1, 0, true, &segment(9, 7, &[1; 56]));
    bed.receive(&first);
    bed.receive(&fragment(2, 64, true, &[1; 64]));
    bed.pass(Duration::from_secs(59));
    assert_eq!(bed.host.counters().held, 2);
    bed.pass(Duration::from_secs(2));
    assert_eq!(bed.host.counters().held, 0);
    assert_eq!(bed.dropped(DropReason::FragmentTimeout), 2);
    assert_eq!(bed.host.next_deadline(), None);
    let sent = bed.sent();
    let (header, kind, code, quoted) = read_icmp(&sent[0]);
    assert_eq!((sent.len(), kind, code), (1, 11, 1));
    assert_eq!(Ipv4Addr::from(header.destination), PEER);
    assert_eq!(quoted, first[14..]);
    bed.check();
}

#[test]
fn the_longest_datagram_is_reassembled_and_a_longer_one_is_not() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let payload = pattern(65_507);
    let mut whole = segment(9, 7, &payload);
    let count = whole.chunks(1480).len();
    for (index, piece) in whole.chunks(1480).enumerate() {
        bed.receive(&fragment(1, index * 1480, index + 1 < count, piece));
    }
    assert_eq!(bed.received(socket)[0].payload.to_vec(), payload);
    whole.push(0);
    for (index, piece) in whole.chunks(1480).enumerate() {
        bed.receive(&fragment(2, index * 1480, index + 1 < count, piece));
    }
    assert!(bed.received(socket).is_empty());
    assert_eq!(bed.dropped(DropReason::Malformed), 1);
}

#[test]
fn a_chained_frame_is_received_and_a_chained_payload_sent() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let frame = udp((PEER, 9), (OUR, 7), &pattern(1001));
    let mut chain = virtroupe_wire::HeapBuffer::new(&frame[..501]);
    chain.append(virtroupe_wire::HeapBuffer::new(&frame[501..]));
    bed.host.receive(bed.now, &mut vec![chain], &mut bed.pool);
    let datagram = bed.received(socket).remove(0);
    assert_eq!(datagram.payload.to_vec(), pattern(1001));
    assert!(datagram.payload.is_chain());
    let _ = bed.send_burst(socket, &mut vec![UdpSend::reply(datagram)]);
    assert_eq!(read_udp(&bed.sent()[0]), (7, 9, pattern(1001)));
    // Bytes are copied, over several segments if they must be.
    bed.pool.segment = 600;
    let mut send = UdpSend::new((PEER, 9).into(), Payload::Bytes(pattern(1001).into()));
    send.ttl = Some(3);
    send.dscp_ecn = 0xb8;
    let _ = bed.send_burst(socket, &mut vec![send]);
    let sent = bed.sent();
    assert_eq!(read_udp(&sent[0]), (7, 9, pattern(1001)));
    let (header, _) = read_ipv4(&sent[0]);
    assert_eq!(
        (header.time_to_live, header.dscp.value(), header.ecn.value()),
        (3, 46, 0)
    );
}
