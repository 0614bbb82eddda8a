use virtroupe_wire::offload::{PartialChecksum, Segmentation};

use super::*;
use crate::pool::tests::pool;

#[test]
fn a_feature_is_accepted_only_with_those_that_it_depends_on() {
    let all = TransmitOffloads::ALL;
    assert_eq!(TransmitOffloads::of(all), all);
    let without_checksum = TransmitOffloads::of(all - FeatureBits::CSUM);
    assert_eq!(without_checksum, FeatureBits::NONE);
    let without_tso4 = all - FeatureBits::HOST_TSO4;
    assert_eq!(TransmitOffloads::of(without_tso4), without_tso4);
    let without_tso = without_tso4 - FeatureBits::HOST_TSO6;
    let expected = without_tso - FeatureBits::HOST_ECN - FeatureBits::HOST_UFO;
    assert_eq!(TransmitOffloads::of(without_tso), expected);
    let without_tso6 = all - FeatureBits::HOST_TSO6;
    assert_eq!(TransmitOffloads::of(without_tso6), without_tso6);
}

#[test]
fn a_device_is_not_asked_for_what_is_not_in_the_packet() {
    let device = TransmitOffloads::new(TransmitOffloads::ALL, 256);
    let takes = |start, size, header_length| {
        let mut frame = train_frame(60, start, size, header_length);
        frame.append(Frame::on_heap(&[0; 3000]));
        device.takes(&frame)
    };
    assert!(takes(34, 1000, 42));
    assert!(takes(52, 1000, 60));
    for (start, size, header_length) in [(53, 1000, 42), (34, 0, 42), (34, 1000, 61)] {
        assert!(!takes(start, size, header_length));
    }
    assert!(!takes(u16::MAX, 1000, 42));
}

#[test]
fn a_packet_that_a_short_ring_does_not_hold_is_cut_before() {
    let longest = 16 * 2112;
    for (length, queue_size, is_taken) in [
        (longest, 16, true),
        (longest + 1, 16, false),
        (longest + 1, 17, true),
        (65_549, 31, false),
        (65_549, 32, true),
    ] {
        let device = TransmitOffloads::new(TransmitOffloads::ALL, queue_size);
        let frame = train_frame(length, 34, 1000, 42);
        assert_eq!(device.takes(&frame), is_taken, "{length} of {queue_size}");
    }
}

/// An IPv4 frame of `length` bytes that asks to be cut.
fn train_frame(length: usize, start: u16, size: u16, header_length: u16) -> Frame {
    let mut bytes = vec![0; length];
    bytes[12..14].copy_from_slice(&[8, 0]);
    let mut frame = Frame::on_heap(&bytes);
    frame.set_offload(Offload {
        checksum: ChecksumState::Partial(PartialChecksum { start, offset: 6 }),
        segmentation: Some(Segmentation {
            kind: SegmentKind::Udp,
            size,
            header_length,
        }),
    });
    frame
}

/// A UDP packet with so many bytes of payload, to be cut into datagrams of 1000.
fn long_packet(payload: usize) -> Frame {
    packet(payload, 1000)
}

fn packet(payload: usize, size: u16) -> Frame {
    let mut bytes = vec![0; 42 + payload];
    bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
    bytes[23] = 17;
    let mut frame = Frame::on_heap(&bytes);
    frame.set_offload(Offload {
        checksum: ChecksumState::Partial(PartialChecksum {
            start: 34,
            offset: 6,
        }),
        segmentation: Some(Segmentation {
            kind: SegmentKind::Udp,
            size,
            header_length: 42,
        }),
    });
    frame
}

#[test]
fn a_packet_that_the_ring_can_never_hold_is_cut_in_software() {
    let mut pool = pool(256);
    let fits = 16 * SLOT_ROOM - 42;
    for (queue_size, payload, frames) in [(16, fits, 1), (16, fits + 1, 34), (256, 60_000, 1)] {
        let offloads = TransmitOffloads::new(TransmitOffloads::ALL, queue_size);
        let mut burst = vec![long_packet(payload)];
        assert!(offloads.carry_out(&mut burst, &mut pool).is_empty());
        assert_eq!(burst.len(), frames, "{payload} bytes on {queue_size}");
    }
}

#[test]
fn pieces_leave_the_reserve_alone() {
    let mut pool = pool(RESERVE as u32 + 20);
    let offloads = TransmitOffloads::new(FeatureBits::NONE, 256);
    let mut burst = vec![long_packet(20_000), long_packet(1001)];
    let dropped = offloads.carry_out(&mut burst, &mut pool);
    assert_eq!(dropped, [DropReason::PoolEmpty]);
    assert_eq!((burst.len(), pool.available()), (20, RESERVE));
    burst.clear();
    let mut burst = vec![long_packet(20_001), long_packet(1)];
    let dropped = offloads.carry_out(&mut burst, &mut pool);
    assert_eq!(dropped, [DropReason::PoolEmpty]);
    assert_eq!(burst.len(), 1, "nothing is left of the long one");
}

#[test]
fn a_piece_that_exceeds_a_slot_fills_each_but_its_last() {
    // Four slots for the first piece, and one for the second.
    let mut pool = pool(RESERVE as u32 + 5);
    let offloads = TransmitOffloads::new(FeatureBits::NONE, 256);
    let size = 4 * SLOT_ROOM - 42;
    let mut burst = vec![packet(size + 1, size as u16)];
    assert!(offloads.carry_out(&mut burst, &mut pool).is_empty());
    let lengths: Vec<usize> = burst.iter().map(Buffer::len).collect();
    assert_eq!(lengths, [42 + size, 42 + 1]);
    assert_eq!(pool.available(), RESERVE);
}
