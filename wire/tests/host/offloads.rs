//! What a device said of a received frame: believed of that frame, and of nothing else.

use proptest::prelude::*;
use virtroupe_wire::offload::{
    ChecksumState, PartialChecksum, SegmentKind, Segmentation, complete_checksum,
};
use virtroupe_wire::{Buffer, DropReason, HeapBuffer, Offload, Payload, UdpDatagram, UdpSend};

use crate::support::*;

/// Ethernet, IPv4 and UDP.
const HEADERS: u16 = 42;
const PARTIAL: ChecksumState = ChecksumState::Partial(PartialChecksum {
    start: 34,
    offset: 6,
});

fn said(checksum: ChecksumState) -> Offload {
    Offload {
        checksum,
        segmentation: None,
    }
}

fn merged(kind: SegmentKind, size: u16) -> Offload {
    Offload {
        checksum: PARTIAL,
        segmentation: Some(Segmentation {
            kind,
            size,
            header_length: HEADERS,
        }),
    }
}

/// The frame in segments of `each` bytes, with what the device says of it.
fn described(frame: &[u8], each: usize, offload: Offload) -> HeapBuffer {
    let mut segments = frame.chunks(each);
    let mut whole = HeapBuffer::new(segments.next().unwrap_or_default());
    segments.for_each(|segment| whole.append(HeapBuffer::new(segment)));
    assert!(whole.set_offload(offload));
    whole
}

fn receive(bed: &mut Bed, frame: HeapBuffer) {
    bed.host.receive(bed.now, &mut vec![frame], &mut bed.pool);
    bed.check();
}

/// A datagram whose checksum is wrong.
fn broken(payload: &[u8]) -> Vec<u8> {
    let mut frame = udp((PEER, 9), (OUR, 7), payload);
    frame[40] ^= 0x5a;
    frame
}

#[test]
fn a_checksum_that_is_valid_or_partial_is_not_verified_and_any_other_is() {
    let payload = pattern(1000);
    let frame = broken(&payload);
    // In one segment, and as a chain, which takes another way.
    for each in [2000, 100] {
        for (state, is_delivered) in [
            (ChecksumState::Plain, false),
            (ChecksumState::Valid, true),
            (PARTIAL, true),
        ] {
            let mut bed = Bed::new(config());
            let socket = bed.bind("0.0.0.0:7");
            receive(&mut bed, described(&frame, each, said(state)));
            let received = bed.received(socket);
            assert_eq!(received.len(), usize::from(is_delivered), "{state:?}");
            let dropped = bed.dropped(DropReason::Checksum);
            assert_eq!(dropped, u64::from(!is_delivered));
            for datagram in received {
                assert_eq!(datagram.payload.to_vec(), payload);
                assert!(datagram.payload.offload().is_none());
            }
        }
    }
}

/// In one burst with others: the run of its socket goes on.
#[test]
fn what_is_said_of_one_frame_is_not_said_of_those_behind_it() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let good = udp((PEER, 9), (OUR, 7), b"good");
    let bad = broken(b"bad");
    let mut burst = vec![
        described(&good, 100, Offload::NONE),
        described(&bad, 100, said(ChecksumState::Valid)),
        described(&bad, 100, Offload::NONE),
        described(&bad, 100, said(PARTIAL)),
        described(&good, 100, Offload::NONE),
    ];
    bed.host.receive(bed.now, &mut burst, &mut bed.pool);
    bed.check();
    let received = bed.received(socket);
    let payloads: Vec<_> = received.iter().map(|got| got.payload.to_vec()).collect();
    assert_eq!(payloads, [&b"good"[..], b"bad", b"bad", b"good"]);
    assert_eq!(bed.dropped(DropReason::Checksum), 1);
}

/// What leaves with a description, completed, is what leaves without one.
#[test]
fn the_checksum_of_a_long_datagram_is_left_to_the_device() {
    for (length, is_left) in [(255, false), (256, true), (1472, true)] {
        let sent = [true, false].map(|is_taken| {
            let mut bed = Bed::new(config());
            bed.host.set_checksum_offload(is_taken);
            let socket = bed.bind("0.0.0.0:7");
            // The first asks for the neighbour's address, and goes another way.
            for _ in 0..2 {
                bed.sent();
                let outcome = bed.send(socket, (PEER, 9), &[&pattern(length)]).0;
                assert_eq!(outcome.accepted, 1);
            }
            let mut frame = bed.host.transmit().remove(0);
            let expected = match is_taken && is_left {
                true => said(PARTIAL),
                false => Offload::NONE,
            };
            assert_eq!(frame.offload(), expected, "{length}");
            if let ChecksumState::Partial(partial) = frame.offload().checksum {
                assert!(complete_checksum(&mut frame, partial));
            }
            frame.to_vec()
        });
        assert_eq!(sent[0], sent[1]);
        assert_eq!(read_udp(&sent[0]), (7, 9, pattern(length)));
    }
}

/// An application may put what it received as a frame into a datagram.
#[test]
fn what_was_said_of_a_payload_is_not_said_of_the_datagram() {
    for (length, each) in [(100, 2000), (300, 2000), (300, 200)] {
        for offload in [
            said(PARTIAL),
            said(ChecksumState::Valid),
            merged(SegmentKind::Udp, 60),
        ] {
            let mut bed = Bed::new(config());
            let socket = bed.bind("0.0.0.0:7");
            // The first goes another way: its path is not remembered yet.
            for _ in 0..2 {
                let payload = described(&pattern(length), each, offload);
                let send = UdpSend::new((PEER, 9).into(), Payload::Buffer(payload));
                let outcome = bed.send_burst(socket, &mut vec![send]);
                assert_eq!(outcome.accepted, 1);
                let frame = bed.host.transmit().last().expect("a frame");
                assert_eq!(frame.offload(), Offload::NONE, "{length}, {offload:?}");
                assert_eq!(read_udp(&bed.sent()[0]), (7, 9, pattern(length)));
            }
        }
    }
}

#[test]
fn an_answer_in_the_memory_of_a_frame_says_nothing_of_itself() {
    for (each, state) in [(2000, PARTIAL), (2000, ChecksumState::Valid), (50, PARTIAL)] {
        let mut bed = Bed::new(config());
        let socket = bed.bind("0.0.0.0:7");
        receive(
            &mut bed,
            described(&broken(&pattern(300)), each, said(state)),
        );
        let mut burst: Vec<UdpDatagram<HeapBuffer>> = bed.received(socket);
        let mut refused = Vec::new();
        let outcome = bed
            .host
            .reply_udp(bed.now, socket, &mut burst, &mut refused, &mut bed.pool);
        assert_eq!(outcome.accepted, 1);
        assert!(bed.host.transmit()[0].offload().is_none());
        assert_eq!(read_udp(&bed.sent()[0]), (7, 9, pattern(300)));

        let mut echo = vec![8, 0, 0, 0, 1, 2, 3, 4, 5, 6];
        let sum = virtroupe_wire::checksum::checksum(&echo).to_be_bytes();
        echo[2..4].copy_from_slice(&sum);
        let frame = ipv4(1, OUR, &echo, |_| ());
        receive(
            &mut bed,
            described(&frame, each, said(ChecksumState::Valid)),
        );
        assert!(bed.host.transmit()[0].offload().is_none());
        assert_eq!(read_icmp(&bed.sent()[0]).1, 0, "an echo reply");
    }
}

#[test]
fn the_checksum_of_icmp_is_verified_in_any_case() {
    let mut bed = Bed::new(config());
    let frame = ipv4(1, OUR, &[8, 0, 1, 1, 1, 2, 3, 4], |_| ());
    for state in [ChecksumState::Valid, PARTIAL] {
        receive(&mut bed, described(&frame, 100, said(state)));
    }
    assert_eq!(bed.dropped(DropReason::Checksum), 2);
}

#[test]
fn what_is_said_of_fragments_is_not_said_of_their_datagram() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let mut datagram = segment(9, 7, &pattern(1000));
    // Not zero, which would be none, and not right.
    datagram[6..8].copy_from_slice(&[0x12, 0x34]);
    let (first, second) = datagram.split_at(504);
    for (offset, more, bytes) in [(0, true, first), (504, false, second)] {
        let frame = fragment(1, offset, more, bytes);
        receive(
            &mut bed,
            described(&frame, 2000, said(ChecksumState::Valid)),
        );
    }
    assert!(bed.received(socket).is_empty());
    assert_eq!(bed.dropped(DropReason::Checksum), 1);
}

#[test]
fn a_datagram_that_was_not_fragmented_may_be_as_long_as_ip_allows() {
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    let payload = pattern(virtroupe_wire::udp::MAX_PAYLOAD);
    let frame = broken(&payload);
    let offload = merged(SegmentKind::UdpFragments, 1480);
    receive(&mut bed, described(&frame, 2112, offload));
    let received = bed.received(socket);
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].payload.to_vec(), payload);
    assert!(received[0].payload.offload().is_none());
}

proptest! {
    #[test]
    fn a_train_reaches_its_socket_as_its_datagrams(
        payload in proptest::collection::vec(any::<u8>(), 0..9000),
        size in 1u16..3000,
        each in 42usize..3000,
        slot in 256usize..4000,
    ) {
        let mut bed = Bed::new(config());
        bed.pool.segment = slot;
        let size = size.max(payload.len().div_ceil(500) as u16);
        let socket = bed.bind("0.0.0.0:7");
        let frame = broken(&payload);
        receive(&mut bed, described(&frame, each, merged(SegmentKind::Udp, size)));
        let received = bed.received(socket);
        let payloads: Vec<_> = received.iter().map(|got| got.payload.to_vec()).collect();
        let expected: Vec<_> = match payload.is_empty() {
            true => vec![Vec::new()],
            false => payload.chunks(size.into()).map(<[u8]>::to_vec).collect(),
        };
        prop_assert_eq!(payloads, expected);
        for datagram in received {
            prop_assert!(datagram.payload.offload().is_none());
            prop_assert_eq!(datagram.source, (PEER, 9).into());
            prop_assert_eq!(datagram.destination, (OUR, 7).into());
        }
    }
}

#[test]
fn of_a_train_each_datagram_is_delivered_or_dropped_for_itself() {
    let frame = broken(&pattern(1000));
    let train = || described(&frame, 300, merged(SegmentKind::Udp, 100));
    let mut bed = Bed::new(config());
    let socket = bed.bind("0.0.0.0:7");
    // Memory for three of ten.
    bed.pool.left = 3;
    receive(&mut bed, train());
    assert_eq!(bed.received(socket).len(), 3);
    assert_eq!(bed.dropped(DropReason::PoolEmpty), 7);
    assert_eq!(bed.host.counters().split, 9);

    let mut short = config();
    short.limits.socket_queue = 4;
    let mut bed = Bed::new(short);
    let socket = bed.bind("0.0.0.0:7");
    receive(&mut bed, train());
    let received = bed.received(socket);
    assert_eq!(received.len(), 4);
    assert_eq!(received[3].payload.to_vec(), pattern(1000)[300..400]);
    assert_eq!(bed.dropped(DropReason::MailboxFull), 6);

    // Nobody is there: one frame is dropped, and one error sent.
    let mut bed = Bed::new(config());
    receive(&mut bed, train());
    assert_eq!(bed.dropped(DropReason::NoSocket), 1);
    assert_eq!(bed.sent().len(), 1);
}
