use etherparse::{PacketBuilder, VlanId};
use proptest::prelude::*;

use super::segment::pseudo_header_sum;
use super::*;
use crate::buffer::{Heap, HeapBuffer};
use crate::drops::DropReason;
use crate::ipv4::Ipv4Header;
use crate::{ethernet, ipv4};

/// A TCP/IPv4 or UDP/IPv4 packet with `payload`, whose checksum is partial.
fn packet(protocol: u8, payload: &[u8], cuts: &[usize]) -> HeapBuffer {
    let transport: &[u8] = match protocol {
        // Ports, sequence and acknowledgement numbers, length 5, all of CWR, ACK, PSH and FIN.
        ipv4::TCP => &[
            0, 80, 0, 81, 0xff, 0xff, 0xff, 0, 1, 2, 3, 4, 0x50, 0x99, 1, 0, 0, 0, 0, 0,
        ],
        _ => &[0, 80, 0, 81, 0, 0, 0, 0],
    };
    let header = Ipv4Header {
        source: [10, 0, 0, 1].into(),
        destination: [10, 0, 0, 2].into(),
        protocol,
        ttl: 64,
        dscp_ecn: 0,
        id: 0xfffe,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        header_length: ipv4::HEADER,
        total_length: ipv4::HEADER + transport.len() + payload.len(),
    };
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    bytes.extend(header.to_bytes());
    bytes.extend(transport);
    bytes.extend(payload);
    let length = transport.len() + payload.len();
    let sum = segment::pseudo_header_sum(&[10, 0, 0, 1, 10, 0, 0, 2], protocol, length);
    let field = 34 + offset(protocol);
    bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    if protocol == ipv4::UDP {
        bytes[38..40].copy_from_slice(&(length as u16).to_be_bytes());
    }
    chain(&bytes, 34 + transport.len(), cuts)
}

/// The bytes as a chain that is cut at `cuts`, counted from `first`.
fn chain(bytes: &[u8], first: usize, cuts: &[usize]) -> HeapBuffer {
    let mut cuts: Vec<usize> = cuts
        .iter()
        .map(|cut| (first + cut).min(bytes.len()))
        .collect();
    cuts.sort_unstable();
    let (head, mut rest) = bytes.split_at(cuts.first().copied().unwrap_or(bytes.len()));
    let mut packet = HeapBuffer::new(head);
    for pair in cuts.windows(2) {
        let (segment, behind) = rest.split_at(pair[1] - pair[0]);
        packet.append(HeapBuffer::new(segment));
        rest = behind;
    }
    if !rest.is_empty() {
        packet.append(HeapBuffer::new(rest));
    }
    packet
}

/// A segment or datagram that carries `payload`, and the length of its headers. `at` is where the
/// payload lies in the whole.
fn built_over_ipv6(
    payload: &[u8],
    (is_tcp, is_tagged): (bool, bool),
    (at, is_last): (usize, bool),
) -> (Vec<u8>, usize) {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let (source, destination) = ([0xfd; 16], [0xfe; 16]);
    let tag = VlanId::try_new(7).expect("a tag");
    let network = match is_tagged {
        true => link.single_vlan(tag).ipv6(source, destination, 9),
        false => link.ipv6(source, destination, 9),
    };
    let mut bytes = Vec::new();
    if is_tcp {
        let mut header = network.tcp(80, 81, 0xffff_ff00u32.wrapping_add(at as u32), 256);
        header = header.ack(7);
        if is_last {
            header = header.psh().fin();
        }
        header.write(&mut bytes, payload).expect("written");
    } else {
        let header = network.udp(80, 81);
        header.write(&mut bytes, payload).expect("written");
    }
    let headers = bytes.len() - payload.len();
    (bytes, headers)
}

fn offset(protocol: u8) -> usize {
    if protocol == ipv4::TCP { 16 } else { 6 }
}

fn offload(kind: SegmentKind, size: u16) -> Offload {
    let (protocol, header) = match kind {
        SegmentKind::Tcp { .. } => (ipv4::TCP, 54),
        _ => (ipv4::UDP, 42),
    };
    Offload {
        checksum: ChecksumState::Partial(PartialChecksum {
            start: 34,
            offset: offset(protocol) as u16,
        }),
        segmentation: Some(Segmentation {
            kind,
            size,
            header_length: header,
        }),
    }
}

/// Whether the checksum of the transport in a whole IPv4 packet is right.
fn is_intact(frame: &[u8], protocol: u8) -> bool {
    let segment = &frame[34..];
    let mut sum = Checksum::pseudo_header(
        [10, 0, 0, 1].into(),
        [10, 0, 0, 2].into(),
        protocol,
        segment.len() as u16,
    );
    sum.add(segment);
    sum.is_valid()
}

proptest! {
    #[test]
    fn tcp_segments_carry_all_bytes_once_with_right_headers(
        payload in proptest::collection::vec(any::<u8>(), 1..5000),
        size in 1u16..2000,
        cuts in proptest::collection::vec(0usize..5000, 0..5),
    ) {
        let kind = SegmentKind::Tcp { ecn: true };
        let mut packet = packet(ipv4::TCP, &payload, &cuts);
        let mut out = Vec::new();
        segment(&mut packet, &offload(kind, size), &mut Heap, &mut out).expect("well-formed");
        prop_assert_eq!(out.len(), payload.len().div_ceil(size.into()));
        prop_assert_eq!(out.len(), offload(kind, size).segmentation.expect("set").pieces(54 + payload.len()));
        let mut at = 0;
        for (index, piece) in out.iter().enumerate() {
            let frame = piece.to_vec();
            let header = Ipv4Header::parse(&frame[ethernet::HEADER..], frame.len() - 14);
            let header = header.expect("a right header");
            prop_assert_eq!(header.total_length, frame.len() - 14);
            prop_assert_eq!(header.id, 0xfffeu16.wrapping_add(index as u16));
            let sequence = u32::from_be_bytes(frame[38..42].try_into().expect("four bytes"));
            prop_assert_eq!(sequence, 0xffff_ff00u32.wrapping_add(at as u32));
            let (first, last) = (index == 0, index == out.len() - 1);
            let flags = 0x10 | (u8::from(first) << 7) | (u8::from(last) * 9);
            prop_assert_eq!(frame[47], flags);
            prop_assert!(is_intact(&frame, ipv4::TCP));
            prop_assert_eq!(&frame[54..], &payload[at..at + frame.len() - 54]);
            at += frame.len() - 54;
        }
        prop_assert_eq!(at, payload.len());
    }

    #[test]
    fn udp_is_cut_into_datagrams_of_their_own(
        payload in proptest::collection::vec(any::<u8>(), 1..5000),
        size in 1u16..2000,
        cuts in proptest::collection::vec(0usize..5000, 0..5),
    ) {
        let mut packet = packet(ipv4::UDP, &payload, &cuts);
        let mut out = Vec::new();
        segment(&mut packet, &offload(SegmentKind::Udp, size), &mut Heap, &mut out)
            .expect("well-formed");
        let mut all = Vec::new();
        for piece in &out {
            let frame = piece.to_vec();
            let length = usize::from(u16::from_be_bytes([frame[38], frame[39]]));
            prop_assert_eq!(length, frame.len() - 34);
            prop_assert!(is_intact(&frame, ipv4::UDP));
            all.extend_from_slice(&frame[42..]);
        }
        prop_assert_eq!(all, payload);
    }

    #[test]
    fn udp_fragments_make_the_datagram_again(
        payload in proptest::collection::vec(any::<u8>(), 1..5000),
        eighths in 1u16..250,
        cuts in proptest::collection::vec(0usize..5000, 0..5),
    ) {
        let mut packet = packet(ipv4::UDP, &payload, &cuts);
        let mut out = Vec::new();
        let offload = offload(SegmentKind::UdpFragments, eighths * 8);
        segment(&mut packet, &offload, &mut Heap, &mut out).expect("well-formed");
        prop_assert_eq!(out.len(), offload.segmentation.expect("set").pieces(42 + payload.len()));
        let mut whole = out[0].to_vec()[..34].to_vec();
        for (index, piece) in out.iter().enumerate() {
            let frame = piece.to_vec();
            let header = Ipv4Header::parse(&frame[ethernet::HEADER..], frame.len() - 14);
            let header = header.expect("a right header");
            prop_assert_eq!(header.id, 0xfffe);
            prop_assert_eq!(header.fragment_offset, whole.len() - 34);
            prop_assert_eq!(header.more_fragments, index + 1 < out.len());
            whole.extend_from_slice(&frame[34..]);
        }
        prop_assert!(is_intact(&whole, ipv4::UDP));
        prop_assert_eq!(&whole[42..], &payload);
    }

    /// Built one by one by etherparse.
    #[test]
    fn segments_over_ipv6_and_behind_a_tag_are_packets_of_their_own(
        payload in proptest::collection::vec(any::<u8>(), 1..5000),
        size in 1u16..2000,
        cuts in proptest::collection::vec(0usize..5000, 0..5),
        is_tcp in any::<bool>(),
        is_tagged in any::<bool>(),
    ) {
        let built = |payload: &[u8], at: usize, is_last: bool| {
            built_over_ipv6(payload, (is_tcp, is_tagged), (at, is_last))
        };
        let (bytes, headers) = built(&payload, 0, true);
        let (start, field) = if is_tcp { (headers - 20, 16) } else { (headers - 8, 6) };
        let mut whole = bytes;
        let sum = pseudo_header_sum(&whole[start - 32..start], if is_tcp { 6 } else { 17 }, whole.len() - start);
        whole[start + field..start + field + 2].copy_from_slice(&sum.to_be_bytes());
        let kind = if is_tcp { SegmentKind::Tcp { ecn: false } } else { SegmentKind::Udp };
        let offload = Offload {
            checksum: ChecksumState::Partial(PartialChecksum { start: start as u16, offset: field as u16 }),
            segmentation: Some(Segmentation { kind, size, header_length: headers as u16 }),
        };
        let mut out = Vec::new();
        let mut packet = chain(&whole, headers, &cuts);
        segment(&mut packet, &offload, &mut Heap, &mut out).expect("well-formed");
        let chunks = payload.chunks(size.into());
        prop_assert_eq!(out.len(), chunks.len());
        let last = out.len() - 1;
        for (index, (piece, chunk)) in out.iter().zip(chunks).enumerate() {
            let expected = built(chunk, index * usize::from(size), index == last).0;
            prop_assert_eq!(piece.to_vec(), expected);
        }
    }

    #[test]
    fn any_bytes_with_any_description_are_cut_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        size in any::<u16>(),
        header_length in 0u16..100,
        kind in 0..3,
        is_ip in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if is_ip && bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&[8, 0]);
            bytes[14] = 0x45;
        }
        let kind = [SegmentKind::Tcp { ecn: false }, SegmentKind::Udp, SegmentKind::UdpFragments]
            [kind as usize];
        let offload = Offload {
            checksum: ChecksumState::Plain,
            segmentation: Some(Segmentation { kind, size, header_length }),
        };
        let mut out = vec![HeapBuffer::new(b"before")];
        let result = segment(&mut HeapBuffer::new(&bytes), &offload, &mut Heap, &mut out);
        prop_assert_eq!(result.is_err(), out.len() == 1);
    }
}

#[test]
fn a_partial_checksum_is_completed_over_a_chain_cut_at_odd_places() {
    for cuts in [&[][..], &[1], &[3, 4, 7]] {
        let mut packet = packet(ipv4::UDP, b"an odd payload, cut", cuts);
        let partial = PartialChecksum {
            start: 34,
            offset: 6,
        };
        assert!(complete_checksum(&mut packet, partial));
        assert!(is_intact(&packet.to_vec(), ipv4::UDP));
    }
    let outside = PartialChecksum {
        start: 34,
        offset: 60_000,
    };
    assert!(!complete_checksum(&mut HeapBuffer::new(&[0; 60]), outside));
}

#[test]
fn a_packet_that_is_longer_than_ip_allows_is_refused() {
    let mut out = Vec::new();
    for (length, is_cut) in [(65_535 - 28, true), (65_536 - 28, false), (200_000, false)] {
        for kind in [SegmentKind::Udp, SegmentKind::UdpFragments] {
            let mut long = packet(ipv4::UDP, &vec![7; length], &[]);
            let result = segment(&mut long, &offload(kind, 1400), &mut Heap, &mut out);
            assert_eq!(result.is_ok(), is_cut, "{length} bytes");
        }
    }
}

#[test]
fn what_is_behind_extension_headers_is_refused() {
    let (mut bytes, headers) = built_over_ipv6(&[7; 3000], (true, false), (0, true));
    let offload = Offload {
        checksum: ChecksumState::Plain,
        segmentation: Some(Segmentation {
            kind: SegmentKind::Tcp { ecn: false },
            size: 1000,
            header_length: headers as u16,
        }),
    };
    let mut out = Vec::new();
    assert!(segment(&mut HeapBuffer::new(&bytes), &offload, &mut Heap, &mut out).is_ok());
    // Destination options.
    bytes[20] = 60;
    let result = segment(&mut HeapBuffer::new(&bytes), &offload, &mut Heap, &mut out);
    assert_eq!(result, Err(DropReason::Malformed));
    assert_eq!(out.len(), 3);
}

#[test]
fn a_packet_that_is_no_longer_than_a_piece_is_not_cut() {
    for kind in [
        SegmentKind::Tcp { ecn: true },
        SegmentKind::Udp,
        SegmentKind::UdpFragments,
    ] {
        let offload = offload(kind, 1000);
        let header = offload.segmentation.expect("set").header_length;
        let before = usize::from(kind == SegmentKind::UdpFragments) * 8;
        let longest = usize::from(header) + 1000 - before;
        assert_eq!(offload.for_length(longest + 1), offload);
        let expected = Offload {
            segmentation: None,
            ..offload
        };
        assert_eq!(offload.for_length(longest), expected);
    }
}
