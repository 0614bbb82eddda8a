use etherparse::{PacketBuilder, VlanId};
use proptest::prelude::*;

use super::*;

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];

fn udp(vlan: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    if vlan {
        let builder = link.single_vlan(VlanId::try_new(7).unwrap()).ipv4(A, B, 64);
        builder.udp(1000, 53).write(&mut frame, b"query").unwrap();
    } else {
        let builder = link.ipv4(A, B, 64).udp(1000, 53);
        builder.write(&mut frame, b"query").unwrap();
    }
    frame
}

#[test]
fn a_udp_frame_matches_by_each_of_its_fields_with_or_without_a_tag() {
    for frame in [udp(false), udp(true)] {
        for yes in [
            Filter::All,
            Filter::EtherType(0x0800),
            Filter::Protocol(17),
            Filter::Port(1000),
            Filter::Port(53),
            Filter::SourcePort(1000),
            Filter::DestinationPort(53),
            Filter::Host(A.into()),
            Filter::Host(B.into()),
            Filter::Port(53).and(Filter::Host(A.into())),
            Filter::Port(54).or(Filter::Protocol(17)),
            Filter::Port(54).negate(),
            Filter::And(vec![]),
        ] {
            assert!(yes.matches(&frame), "{yes:?}");
            assert!(!yes.clone().negate().matches(&frame), "{yes:?}");
        }
        for no in [
            Filter::EtherType(0x0806),
            Filter::Protocol(6),
            Filter::Port(54),
            Filter::SourcePort(53),
            Filter::DestinationPort(1000),
            Filter::Host([10, 0, 0, 3].into()),
            Filter::Or(vec![]),
        ] {
            assert!(!no.matches(&frame), "{no:?}");
        }
    }
    assert!(Filter::EtherType(ethernet::VLAN).matches(&udp(true)));
}

#[test]
fn a_later_fragment_has_no_ports() {
    let mut frame = udp(false);
    frame[ethernet::HEADER + 7] = 1;
    assert!(Filter::Protocol(17).matches(&frame));
    assert!(!Filter::Port(53).matches(&frame));
}

#[test]
fn ipv6_extension_headers_are_looked_through() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6([1; 16], [2; 16], 64)
        .udp(1000, 53)
        .write(&mut frame, b"query")
        .unwrap();
    assert!(Filter::Port(53).matches(&frame));
    frame[ethernet::HEADER + 6] = 60;
    frame.splice(54..54, [17, 0, 1, 4, 0, 0, 0, 0]);
    assert!(Filter::Port(53).and(Filter::Protocol(17)).matches(&frame));
    assert!(Filter::Host([2; 16].into()).matches(&frame));
}

proptest! {
    #[test]
    fn any_bytes_match_or_do_not(
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
        kind in prop_oneof![Just([8, 0]), Just([0x86, 0xdd]), Just([0x81, 0]), Just([8, 6])],
        port in any::<u16>(),
    ) {
        let mut bytes = bytes;
        if let Some(field) = bytes.get_mut(12..14) {
            field.copy_from_slice(&kind);
        }
        let filter = Filter::Port(port).or(Filter::Host([1, 2, 3, 4].into()));
        prop_assert_ne!(filter.matches(&bytes), filter.clone().negate().matches(&bytes));
    }
}
