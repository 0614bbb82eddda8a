use etherparse::{
    IpNumber, Ipv6ExtensionsSlice, Ipv6FlowLabel, Ipv6Header as Reference, Ipv6HeaderSlice,
};
use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn a_header_is_written_and_read_as_etherparse_does(
        addresses in any::<([u8; 16], [u8; 16])>(),
        fields in any::<(u8, u8, u8, u16)>(),
        flow_label in 0_u32..1 << 20,
    ) {
        let (next_header, hop_limit, dscp_ecn, payload) = fields;
        let header = Ipv6Header {
            source: addresses.0.into(),
            destination: addresses.1.into(),
            next_header,
            hop_limit,
            dscp_ecn,
            flow_label,
            total_length: HEADER + usize::from(payload),
        };
        let reference = Reference {
            traffic_class: dscp_ecn,
            flow_label: Ipv6FlowLabel::try_new(flow_label).expect("20 bits"),
            payload_length: payload,
            next_header: IpNumber(next_header),
            hop_limit,
            source: addresses.0,
            destination: addresses.1,
        };
        let bytes = header.to_bytes();
        prop_assert_eq!(&bytes[..], &reference.to_bytes()[..]);
        let length = header.total_length;
        prop_assert_eq!(Ipv6Header::parse(&bytes, length), Ok(header));
        prop_assert_eq!(Ipv6Header::parse(&bytes, length + 7), Ok(header));
        prop_assert!(Ipv6Header::parse(&bytes, length - 1).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        match Ipv6Header::parse(&bytes, bytes.len()) {
            Ok(header) => {
                prop_assert!(Ipv6HeaderSlice::from_slice(&bytes).is_ok());
                let _ = Extensions::parse(&header, &bytes);
            }
            Err(reason) => prop_assert_eq!(reason, DropReason::Malformed),
        }
    }

    /// Where we accept a chain, etherparse finds the same behind it.
    #[test]
    fn a_chain_is_read_as_etherparse_does(
        kinds in prop::collection::vec(0_usize..5, 0..10),
        body in prop::collection::vec(any::<u8>(), 0..40),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let numbers = kinds.iter().map(|kind| [HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING, FRAGMENT, 17][*kind]);
        let mut next: Vec<u8> = numbers.collect();
        next.push(17);
        let mut chain = Vec::new();
        for pair in next.windows(2) {
            chain.extend([pair[1], 0, 0, 0, 0, 0, 0, 0]);
        }
        chain.extend(&body);
        for (index, value) in noise {
            if !chain.is_empty() {
                let at = index.index(chain.len());
                chain[at] = value;
            }
        }
        let header = Ipv6Header {
            source: Ipv6Addr::LOCALHOST,
            destination: Ipv6Addr::LOCALHOST,
            next_header: next[0],
            hop_limit: 1,
            dscp_ecn: 0,
            flow_label: 0,
            total_length: HEADER + chain.len(),
        };
        let packet = [&header.to_bytes()[..], &chain].concat();
        if let Ok(extensions) = Extensions::parse(&header, &packet) {
            prop_assert!(extensions.header_length <= packet.len());
            prop_assert_eq!(packet[extensions.named_at], extensions.protocol);
            // etherparse goes on behind the header of a fragment, and knows authentication.
            let is_comparable = !extensions.is_fragment() && extensions.protocol != 51;
            if is_comparable {
                let (_, protocol, rest) =
                    Ipv6ExtensionsSlice::from_slice(IpNumber(header.next_header), &chain)
                        .expect("we could read it");
                prop_assert_eq!(protocol.0, extensions.protocol);
                prop_assert_eq!(rest, &packet[extensions.header_length..]);
            }
        }
    }
}

#[test]
fn a_fragment_header_is_written_as_it_is_read() {
    for (offset, more) in [(0, false), (0, true), (8, false), (65_528, true)] {
        let fragment = Fragment {
            offset,
            more,
            id: 0x1234_5678,
        };
        let bytes = fragment.to_bytes(17);
        let header = Ipv6Header {
            source: Ipv6Addr::LOCALHOST,
            destination: Ipv6Addr::LOCALHOST,
            next_header: FRAGMENT,
            hop_limit: 1,
            dscp_ecn: 0,
            flow_label: 0,
            total_length: HEADER + FRAGMENT_HEADER,
        };
        let packet = [&header.to_bytes()[..], &bytes].concat();
        let extensions = Extensions::parse(&header, &packet).expect("it is good");
        assert_eq!(extensions.fragment, Some(fragment));
        assert_eq!((extensions.protocol, extensions.header_length), (17, 48));
        assert_eq!(extensions.is_fragment(), more || offset > 0);
    }
}
