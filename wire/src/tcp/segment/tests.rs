use std::net::SocketAddr;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::buffer::{Heap, HeapBuffer};
use crate::tcp::header::{HeaderOptions, Timestamps};
use crate::tcp::sequence::WindowScale;

proptest! {
    /// Whether the header goes out as numbers or as bytes, and whatever it is summed with.
    #[test]
    fn a_packet_has_the_checksum_that_its_bytes_have(
        is_ipv6 in any::<bool>(),
        fixed in any::<(u16, u16, u32, u32)>(),
        (flags, window, urgent) in any::<(u8, u16, u16)>(),
        timestamps in proptest::option::weighted(0.8, any::<(u32, u32)>()),
        (has_more, mss, scale) in (any::<bool>(), any::<u16>(), 0_u8..15),
        payload in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..4),
    ) {
        let ends: [IpAddr; 2] = match is_ipv6 {
            false => [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()],
            true => [[0xfd00, 0, 0, 0, 0, 0, 0, 1].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 2].into()],
        };
        let [local, remote] = ends;
        let mut outgoing = Outgoing::new();
        outgoing.flow = Flow::new(
            SocketAddr::new(local, fixed.0),
            SocketAddr::new(remote, fixed.1),
        );
        outgoing.header = TcpHeader {
            source_port: fixed.0,
            destination_port: fixed.1,
            sequence: SeqNumber(fixed.2),
            acknowledgment: SeqNumber(fixed.3),
            flags: TcpFlags(flags),
            window,
            urgent,
            options: HeaderOptions {
                mss: has_more.then_some(mss),
                window_scale: has_more.then_some(WindowScale::new(scale)),
                timestamps: timestamps.map(|(value, echo)| Timestamps { value, echo }),
                ..HeaderOptions::default()
            },
        };
        let header = outgoing.header;
        outgoing.payload = payload.iter().cloned().map(Bytes::from).collect();
        let packet: HeapBuffer = outgoing.take_packet(&mut Heap).expect("there is memory");
        prop_assert!(outgoing.payload.is_empty());
        let segment = Segment::parse(local, remote, 0, packet, true).expect("a right checksum");
        prop_assert_eq!(segment.header, header);
        prop_assert_eq!(segment.payload.to_vec(), payload.concat());
    }
}
