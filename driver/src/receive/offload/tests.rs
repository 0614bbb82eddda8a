use proptest::prelude::*;

use super::*;

/// A frame of IPv4 or IPv6 with TCP or UDP behind `tags` VLAN tags, and where the transport is.
fn frame(ethertype: u16, tags: usize, length: usize) -> (Frame, u16) {
    let mut bytes = vec![0; 12];
    for _ in 0..tags {
        bytes.extend_from_slice(&[0x81, 0, 0, 1]);
    }
    bytes.extend_from_slice(&ethertype.to_be_bytes());
    let network = match ethertype {
        ethernet::IPV4 => 20,
        _ => 40,
    };
    let transport = bytes.len() + network;
    bytes.resize(length.max(transport + TCP_HEADER as usize), 0);
    // The TCP header has no options.
    bytes[transport + TCP_DATA_OFFSET] = 5 << 4;
    (Frame::on_heap(&bytes), transport as u16)
}

fn header(flags: u8, gso_type: u8, size: u16, start: u16, offset: u16) -> [u8; NET_HEADER] {
    let mut header = [0xff; NET_HEADER];
    header[0] = flags;
    header[1] = gso_type;
    header[4..6].copy_from_slice(&size.to_le_bytes());
    header[6..8].copy_from_slice(&start.to_le_bytes());
    header[8..10].copy_from_slice(&offset.to_le_bytes());
    header
}

fn judge(
    features: FeatureBits,
    header: &[u8; NET_HEADER],
    frame: &Frame,
) -> Result<Result<Offload, DropReason>, Violation> {
    ReceiveOffloads::new(features).judge(header, frame, frame.len() as u32)
}

#[test]
fn a_feature_is_accepted_only_with_those_that_it_depends_on() {
    let all = ReceiveOffloads::ALL;
    assert_eq!(ReceiveOffloads::of(all), all);
    let without_checksum = all - FeatureBits::GUEST_CSUM;
    assert_eq!(ReceiveOffloads::of(without_checksum), FeatureBits::NONE);
    let without_tso4 = all - FeatureBits::GUEST_TSO4;
    assert_eq!(ReceiveOffloads::of(without_tso4), without_tso4);
    let without_tso = without_tso4 - FeatureBits::GUEST_TSO6;
    let expected = without_tso - FeatureBits::GUEST_ECN;
    assert_eq!(ReceiveOffloads::of(without_tso), expected);
}

#[test]
fn each_kind_is_described_if_it_was_negotiated_and_else_breaks_the_queue() {
    let tcp = |ecn| SegmentKind::Tcp { ecn };
    let (v4, v6) = (ethernet::IPV4, ethernet::IPV6);
    let uso = FeatureBits::GUEST_USO4 | FeatureBits::GUEST_USO6;
    let cases = [
        (GSO_TCPV4, v4, tcp(false), FeatureBits::GUEST_TSO4),
        (GSO_TCPV6, v6, tcp(false), FeatureBits::GUEST_TSO6),
        (GSO_TCPV4 | GSO_ECN, v4, tcp(true), FeatureBits::GUEST_ECN),
        (GSO_TCPV6 | GSO_ECN, v6, tcp(true), FeatureBits::GUEST_ECN),
        (
            GSO_UDP,
            v4,
            SegmentKind::UdpFragments,
            FeatureBits::GUEST_UFO,
        ),
        (GSO_UDP_L4, v4, SegmentKind::Udp, uso),
        (GSO_UDP_L4, v6, SegmentKind::Udp, uso),
    ];
    for (gso_type, ethertype, kind, feature) in cases {
        for tags in 0..=MOST_TAGS {
            let (frame, start) = frame(ethertype, tags, 3000);
            let header = header(NEEDS_CSUM, gso_type, 1000, start, 6);
            let offload = judge(ReceiveOffloads::ALL, &header, &frame).expect("negotiated");
            let offload = offload.expect("it fits");
            let transport = match kind {
                SegmentKind::Tcp { .. } => 20,
                _ => 8,
            };
            let expected = Segmentation {
                kind,
                size: 1000,
                header_length: start + transport,
            };
            assert_eq!(offload.segmentation, Some(expected));
            let partial = PartialChecksum { start, offset: 6 };
            assert_eq!(offload.checksum, ChecksumState::Partial(partial));
            let without = judge(ReceiveOffloads::ALL - feature, &header, &frame);
            assert!(without.is_err(), "{gso_type} without {feature}");
        }
    }
}

#[test]
fn checksum_states_are_told_apart_and_unknown_flags_ignored() {
    let (frame, start) = frame(ethernet::IPV4, 0, 100);
    let state = |flags| {
        let header = header(flags, GSO_NONE, 0, start, 16);
        let offload = judge(FeatureBits::GUEST_CSUM, &header, &frame).expect("a good header");
        offload.map(|offload| offload.checksum)
    };
    let partial = ChecksumState::Partial(PartialChecksum { start, offset: 16 });
    assert_eq!(state(0xfc), Ok(ChecksumState::Plain));
    assert_eq!(state(DATA_VALID), Ok(ChecksumState::Valid));
    assert_eq!(state(NEEDS_CSUM), Ok(partial));
    assert_eq!(state(NEEDS_CSUM | DATA_VALID | 0x80), Ok(partial));
}

/// What only a device can have done wrong.
#[test]
fn a_header_that_no_device_may_write_breaks_the_queue() {
    let (frame, start) = frame(ethernet::IPV4, 0, 100);
    let all = ReceiveOffloads::ALL;
    let without_ecn = all - FeatureBits::GUEST_ECN;
    let cases = [
        (
            "a checksum beyond the end",
            all,
            header(NEEDS_CSUM, GSO_NONE, 0, 90, 9),
        ),
        (
            "a checksum far beyond the end",
            all,
            header(NEEDS_CSUM, GSO_TCPV4, 10, u16::MAX, u16::MAX),
        ),
        (
            "a kind that is none",
            all,
            header(NEEDS_CSUM, 2, 10, start, 16),
        ),
        (
            "a tunnel, which has a feature of its own",
            all,
            header(NEEDS_CSUM, GSO_TCPV4 | 0x20, 10, start, 16),
        ),
        (
            "ECN that was not negotiated",
            without_ecn,
            header(NEEDS_CSUM, GSO_TCPV4 | GSO_ECN, 10, start, 16),
        ),
        (
            "pieces where only checksums were negotiated",
            FeatureBits::GUEST_CSUM,
            header(NEEDS_CSUM, GSO_TCPV4, 10, start, 16),
        ),
    ];
    for (what, features, header) in cases {
        let result = judge(features, &header, &frame);
        assert!(matches!(result, Err(Violation::NetHeader { .. })), "{what}");
    }
}

/// What an honest backend may pass on from whoever sent it: the header is right of itself.
#[test]
fn a_header_that_does_not_fit_to_its_packet_costs_only_that_frame() {
    let (v4, start) = frame(ethernet::IPV4, 0, 100);
    let malformed = [
        ("pieces of nothing", NEEDS_CSUM, GSO_TCPV4, 0, start, 16),
        (
            "pieces with complete checksums",
            DATA_VALID,
            GSO_TCPV4,
            10,
            start,
            16,
        ),
        (
            "pieces of whose checksums nothing is said",
            0,
            GSO_TCPV4,
            10,
            start,
            16,
        ),
        (
            "ECN without TCP",
            NEEDS_CSUM,
            GSO_UDP_L4 | GSO_ECN,
            10,
            start,
            6,
        ),
        ("ECN of nothing", NEEDS_CSUM, GSO_ECN, 10, start, 16),
        (
            "TCP over the other IP",
            NEEDS_CSUM,
            GSO_TCPV6,
            10,
            start,
            16,
        ),
        (
            "a TCP header that is too short",
            NEEDS_CSUM,
            GSO_TCPV4,
            10,
            40,
            16,
        ),
        (
            "a TCP header that is cut off",
            NEEDS_CSUM,
            GSO_TCPV4,
            10,
            90,
            2,
        ),
        (
            "a UDP header that is cut off",
            NEEDS_CSUM,
            GSO_UDP_L4,
            10,
            93,
            0,
        ),
    ];
    for (what, flags, gso_type, size, start, offset) in malformed {
        let header = header(flags, gso_type, size, start, offset);
        let result = judge(ReceiveOffloads::ALL, &header, &v4);
        assert_eq!(result, Ok(Err(DropReason::Malformed)), "{what}");
    }
    let header = header(NEEDS_CSUM, GSO_TCPV4, 10, 40, 6);
    let (arp, _) = frame(ethernet::ARP, 0, 100);
    let (mpls, _) = frame(0x8847, 1, 100);
    let (tags, _) = frame(ethernet::IPV4, MOST_TAGS + 1, 100);
    for frame in [arp, mpls, tags] {
        let result = judge(ReceiveOffloads::ALL, &header, &frame);
        assert_eq!(result, Ok(Err(DropReason::UnknownEtherType)));
    }
    let without = ReceiveOffloads::ALL - FeatureBits::GUEST_USO6;
    let (v6, start) = frame(ethernet::IPV6, 0, 100);
    let header = self::header(NEEDS_CSUM, GSO_UDP_L4, 10, start, 6);
    let result = judge(without, &header, &v6);
    assert_eq!(result, Ok(Err(DropReason::Malformed)), "USO of IPv4 only");
}

proptest! {
    #[test]
    fn whatever_is_believed_fits_to_the_frame(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        fields in any::<[u8; NET_HEADER]>(),
        flags in 0u8..4,
        gso_type in prop::sample::select(vec![0u8, 1, 3, 4, 5, 0x81, 0x84, 7]),
        start in 0u16..220,
        ethertype in prop::sample::select(vec![0x0800u16, 0x86dd, 0x8100, 0x0806]),
        features in any::<u64>(),
    ) {
        let mut bytes = bytes;
        if let Some(field) = bytes.get_mut(12..14) {
            field.copy_from_slice(&ethertype.to_be_bytes());
        }
        let mut header = fields;
        header[..2].copy_from_slice(&[flags, gso_type]);
        header[6..8].copy_from_slice(&start.to_le_bytes());
        let frame = Frame::on_heap(&bytes);
        let offloads = ReceiveOffloads::new(FeatureBits(features));
        let Ok(Ok(offload)) = offloads.judge(&header, &frame, bytes.len() as u32) else {
            return Ok(());
        };
        if let ChecksumState::Partial(partial) = offload.checksum {
            let end = usize::from(partial.start) + usize::from(partial.offset) + 2;
            prop_assert!(end <= bytes.len());
        }
        if let Some(segmentation) = offload.segmentation {
            prop_assert!(segmentation.size > 0);
            prop_assert!(usize::from(segmentation.header_length) <= bytes.len());
        }
    }
}
