use proptest::prelude::*;

use super::*;
use crate::offload::TransmitOffloads;

fn header(gso_type: u8) -> NetHeader {
    NetHeader {
        flags: NEEDS_CSUM,
        gso_type,
        hdr_len: 42,
        gso_size: 100,
        csum_start: 34,
        csum_offset: 6,
        num_buffers: 0,
    }
}

#[test]
fn only_what_was_negotiated_may_be_asked_for() {
    let needs = [
        (GSO_NONE, FeatureBits::CSUM),
        (GSO_TCPV4, FeatureBits::HOST_TSO4),
        (GSO_TCPV6, FeatureBits::HOST_TSO6),
        (GSO_UDP, FeatureBits::HOST_UFO),
        (GSO_UDP_L4, FeatureBits::HOST_USO),
        (GSO_TCPV4 | GSO_ECN, FeatureBits::HOST_ECN),
    ];
    for (gso_type, feature) in needs {
        let header = header(gso_type);
        assert!(is_allowed(&header, 1000, TransmitOffloads::ALL));
        let without = TransmitOffloads::ALL - feature;
        assert!(!is_allowed(&header, 1000, without), "{gso_type} {feature}");
    }
    assert!(is_allowed(&NetHeader::default(), 60, FeatureBits::NONE));
}

#[test]
fn a_header_that_does_not_fit_to_its_packet_is_not_allowed() {
    let all = TransmitOffloads::ALL;
    let good = header(GSO_UDP_L4);
    assert!(is_allowed(&good, 42, all));
    assert!(!is_allowed(&good, 41, all), "headers beyond the end");
    let bad = [
        NetHeader { flags: 0, ..good },
        NetHeader { flags: 2, ..good },
        NetHeader {
            gso_type: 2,
            ..good
        },
        NetHeader {
            gso_type: GSO_UDP_L4 | GSO_ECN,
            ..good
        },
        NetHeader {
            gso_type: GSO_ECN,
            ..good
        },
        NetHeader {
            gso_size: 0,
            ..good
        },
        NetHeader {
            csum_offset: u16::MAX,
            csum_start: u16::MAX,
            ..good
        },
        NetHeader {
            num_buffers: 1,
            ..good
        },
    ];
    for header in bad {
        assert!(!is_allowed(&header, 1000, all), "{header:?}");
    }
}

proptest! {
    #[test]
    fn whatever_a_driver_sends_is_carried_out_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 14..300),
        fields in any::<[u8; NetHeader::LENGTH]>(),
        is_ip in any::<bool>(),
        gso_type in prop::sample::select(vec![0u8, 1, 3, 4, 5, 0x81]),
        start in 0u16..60,
    ) {
        let mut bytes = bytes;
        if is_ip && bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&[8, 0]);
            bytes[14] = 0x45;
        }
        let header = NetHeader {
            gso_type,
            flags: NEEDS_CSUM,
            csum_start: start,
            num_buffers: 0,
            ..NetHeader::from_bytes(fields)
        };
        let packet = Packet { header, bytes };
        let mut scratch = Scratch::default();
        let mut first = Vec::new();
        // The second time in memory that was used before.
        for _ in 0..2 {
            if is_allowed(&packet.header, packet.bytes.len(), TransmitOffloads::ALL) {
                let pieces = scratch.carry_out(&mut packet.clone());
                let finished = scratch.finished();
                prop_assert_eq!(pieces.unwrap_or(0), finished.len());
                prop_assert!(pieces != Some(0));
                prop_assert!(finished.iter().all(|piece| piece.header == NetHeader::default()));
                let bytes: Vec<_> = finished.iter().map(|piece| piece.bytes.clone()).collect();
                prop_assert!(first.is_empty() || bytes == first);
                first = bytes;
                scratch.recycle();
            }
        }
    }
}
