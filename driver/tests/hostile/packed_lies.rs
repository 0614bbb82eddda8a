//! One lie each, on packed rings; as [`lies`](super::lies) for split ones.

use virtroupe_driver::{Frame, Violation};
use virtroupe_wire::{Buffer, DropReason};

use super::device::{HEADER, RX, TX};
use super::packed_harness::{
    AVAIL, BUFFER, LONGEST, MOST_BUFFERS, PackedHarness, PackedSetup, Place, USED,
};
use super::packed_operations::{complete, deliver};

const BOTH: [PackedSetup; 2] = [PackedSetup::PLAIN, PackedSetup::ALL];

const MERGED: PackedSetup = PackedSetup {
    mergeable: true,
    queue_size: 70,
    ..PackedSetup::PLAIN
};

/// Fills the next posted buffer with a header that promises `buffers` buffers.
fn fill(harness: &PackedHarness, place: usize, buffers: u16, length: u32) {
    let chain = &harness.rings[RX].outstanding[place];
    let mut header = [0; HEADER];
    header[10..].copy_from_slice(&buffers.to_le_bytes());
    harness.hostile.write(chain.offset, &header);
    harness.write_used(RX, Place(place), chain.id, length);
}

#[test]
fn an_id_that_is_not_outstanding_is_refused() {
    for setup in BOTH {
        for id in [setup.queue_size, 0x100, u16::MAX] {
            let mut harness = PackedHarness::new(setup);
            harness.write_used(RX, Place(0), id, 60);
            assert_eq!(harness.receive(64), Some(Violation::UsedId(id.into())));
            assert!(!harness.pair.arm(false), "a broken queue must not sleep");
            harness.finish();

            let mut harness = PackedHarness::new(setup);
            assert_eq!(harness.send(4), None);
            harness.write_used(TX, Place(0), id, 0);
            assert_eq!(harness.reclaim(), Some(Violation::UsedId(id.into())));
            assert!(!harness.pair.arm(true));
            harness.finish();
        }
    }
}

#[test]
fn a_buffer_that_is_used_twice_comes_once() {
    for setup in BOTH {
        let mut harness = PackedHarness::new(setup);
        fill(&harness, 0, 1, 60);
        harness.write_used(RX, Place(1), harness.rings[RX].outstanding[0].id, 60);
        assert_eq!(harness.receive(64), Some(Violation::UsedId(0)));
        assert_eq!(harness.live.len(), 1, "what came before is handed over");
        harness.finish();

        let mut harness = PackedHarness::new(setup);
        assert_eq!(harness.send(4), None);
        harness.write_used(TX, Place(0), 0, 0);
        harness.write_used(TX, Place(1), 0, 0);
        assert_eq!(harness.reclaim(), Some(Violation::UsedId(0)));
        harness.finish();
    }
}

#[test]
fn used_descriptors_beyond_what_is_outstanding_are_not_looked_at() {
    for setup in BOTH {
        let mut harness = PackedHarness::new(setup);
        assert_eq!(harness.send(2), None);
        for place in 0..harness.size() {
            harness.write_used(TX, Place(place), (place % 2) as u16, 0);
        }
        // Without the order, the two that are out come back, and nothing of what lies behind.
        assert_eq!(harness.reclaim(), None);
        assert_eq!(harness.pair.transmit_outstanding(), 0);
        assert!(harness.pair.arm(true), "and it is no work");
        assert_eq!(harness.send(8), None);
        harness.finish();
    }
}

#[test]
fn the_middle_of_a_chain_is_not_a_chain() {
    for setup in BOTH {
        let mut harness = PackedHarness::new(setup);
        let mut frame = harness.pair.pool().frame().expect("free");
        for _ in 0..2 {
            let mut segment = harness.pair.pool().frame().expect("free");
            assert!(segment.extend_from_slice(b"part"));
            frame.append(segment);
        }
        assert_eq!(harness.transmit(vec![frame]), None);
        assert_eq!(harness.rings[TX].outstanding[0].descriptors, 3);
        harness.write_used(TX, Place(0), 1, 0);
        assert_eq!(harness.reclaim(), Some(Violation::UsedId(1)));
        harness.finish();
    }
}

#[test]
fn a_used_length_must_hold_the_header_and_fit_the_buffer() {
    for setup in BOTH {
        for (length, good) in [
            (0, false),
            (11, false),
            (12, true),
            (BUFFER, true),
            (BUFFER + 1, false),
            (0x1_0000 + 60, false),
            (u32::MAX, false),
        ] {
            let mut harness = PackedHarness::new(setup);
            fill(&harness, 0, 1, length);
            let expected = (!good).then_some(Violation::UsedLength {
                length,
                shortest: HEADER as u32,
                longest: BUFFER,
            });
            assert_eq!(harness.receive(64), expected, "length {length}");
            harness.finish();
        }
    }
}

#[test]
fn flags_that_are_not_those_of_this_lap_mean_nothing() {
    for setup in BOTH {
        for flags in [0, AVAIL, USED] {
            let mut harness = PackedHarness::new(setup);
            harness.hostile.set_packed(RX, 0, 0, 60, flags);
            harness.readable = false;
            assert_eq!(harness.receive(64), None);
            assert!(harness.live.is_empty());
            harness.finish();
        }
    }
}

#[test]
fn an_in_order_batch_that_goes_back_is_refused() {
    let mut harness = PackedHarness::new(PackedSetup::ALL);
    assert_eq!(harness.send(8), None);
    // A batch of three, and then one that ends inside the first.
    harness.write_used(TX, Place(0), 2, 0);
    harness.write_used(TX, Place(3), 1, 0);
    assert_eq!(harness.reclaim(), Some(Violation::UsedId(1)));
    harness.finish();
}

#[test]
fn a_batch_of_chains_comes_back_with_one_used_descriptor() {
    let mut harness = PackedHarness::new(PackedSetup {
        indirect: false,
        ..PackedSetup::ALL
    });
    for _ in 0..200 {
        let mut burst = Vec::new();
        for segments in [1, 3, 2] {
            let mut frame = harness.pair.pool().frame().expect("free");
            for _ in 1..segments {
                frame.append(Frame::on_heap(b"part"));
            }
            burst.push(frame);
        }
        assert_eq!(harness.transmit(burst), None);
        assert!(harness.live.is_empty());
        complete(&mut harness, 3, true);
        assert_eq!(harness.reclaim(), None);
        assert_eq!(harness.pair.transmit_outstanding(), 0);
    }
    harness.finish();
}

#[test]
fn a_frame_spans_at_least_one_buffer_and_no_more_than_are_used() {
    for (buffers, used) in [(0, 68), (69, 68), (u16::MAX, 68), (3, 2)] {
        let mut harness = PackedHarness::new(MERGED);
        fill(&harness, 0, buffers, 60);
        fill(&harness, 1, 1, 60);
        let expected = Violation::MergedBuffers { buffers, used };
        assert_eq!(harness.receive(64), Some(expected));
        assert!(harness.live.is_empty(), "half a frame is none");
        harness.finish();
    }
}

#[test]
fn the_later_buffers_of_a_frame_are_judged_like_the_first() {
    for (length, good) in [(0, false), (1, true), (BUFFER, true), (BUFFER + 1, false)] {
        let mut harness = PackedHarness::new(MERGED);
        fill(&harness, 0, 2, BUFFER);
        fill(&harness, 1, 9, length);
        let violation = harness.receive(64);
        if good {
            assert_eq!(violation, None);
            let total = BUFFER - HEADER as u32 + length;
            assert_eq!(harness.live[0].len(), total as usize);
        } else {
            let (shortest, longest) = (1, BUFFER);
            let expected = Violation::UsedLength {
                length,
                shortest,
                longest,
            };
            assert_eq!(violation, Some(expected));
        }
        harness.finish();
    }
}

#[test]
fn a_frame_is_no_longer_than_the_longest_packet() {
    // So many buffers are full, and one more is not.
    let whole = (LONGEST as usize + HEADER) / BUFFER as usize;
    let rest = LONGEST - (whole as u32 * BUFFER - HEADER as u32);
    let mut harness = PackedHarness::new(MERGED);
    deliver(&mut harness, 1, whole + 1, BUFFER as u16);
    fill(&harness, whole, 1, rest);
    assert_eq!(harness.receive(64), None);
    assert_eq!(harness.live[0].len(), LONGEST as usize);
    harness.finish();

    let mut harness = PackedHarness::new(MERGED);
    deliver(&mut harness, 1, whole + 1, BUFFER as u16);
    fill(&harness, whole, 1, rest + 1);
    let length = LONGEST + 1;
    let longest = LONGEST;
    assert_eq!(
        harness.receive(64),
        Some(Violation::MergedLength { length, longest })
    );
    harness.finish();
}

/// Bytes do not bound a chain of buffers that hold one each.
#[test]
fn a_frame_spans_no_more_buffers_than_the_longest_needs_badly_used() {
    for (buffers, good) in [(MOST_BUFFERS, true), (MOST_BUFFERS + 1, false)] {
        let mut harness = PackedHarness::new(PackedSetup {
            queue_size: 256,
            ..MERGED
        });
        fill(&harness, 0, buffers, HEADER as u32);
        for place in 1..usize::from(buffers) {
            fill(&harness, place, 1, 1);
        }
        let most = MOST_BUFFERS;
        let expected = Violation::MergedCount { buffers, most };
        assert_eq!(harness.receive(64), (!good).then_some(expected));
        assert_eq!(harness.live.len(), usize::from(good));
        harness.finish();
    }
}

#[test]
fn an_application_that_keeps_long_frames_can_not_empty_the_receive_ring() {
    let mut harness = PackedHarness::new(MERGED);
    for _ in 0..200 {
        deliver(&mut harness, 3, 6, 1000);
        assert_eq!(harness.receive(64), None);
        assert!(harness.rings[RX].outstanding.len() >= harness.size() / 2);
        let (_, free) = harness.pair.pool_level();
        assert!(free >= 64, "{free} slots are left for the stack itself");
    }
    assert_eq!(harness.live.len(), 600);
    assert!(harness.pair.receive_counters().copied > 500);
    harness.finish();
}

/// Buffers are posted by whole lines of descriptors, but half of the ring is posted in any case:
/// the slots that this would leave in the pool are gone before the queue sleeps.
#[test]
fn a_pool_that_is_taken_empty_can_not_empty_the_receive_ring() {
    for bits in 0..64 {
        let mut harness = PackedHarness::new(PackedSetup::from_bits(bits));
        let half = harness.size() / 2;
        let mut stolen: Vec<Frame> = Vec::new();
        for round in 0..300 {
            deliver(&mut harness, round % 13, 1 + round % 5, 1000);
            assert_eq!(harness.receive(64), None);
            let posted = harness.rings[RX].outstanding.len();
            assert!(posted >= half, "{posted} posted in {:?}", harness.setup);
            while let Some(frame) = harness.pair.pool().frame() {
                stolen.push(frame);
            }
            assert!(harness.pair.arm(false));
            harness.pair.disarm();
            harness.observe();
            harness.live.clear();
            stolen.truncate(stolen.len() - round % 7);
        }
        drop(stolen);
        harness.finish();
    }
}

/// Such a frame may come from another guest, through a backend that believed it.
#[test]
fn a_frame_to_which_its_header_does_not_fit_is_dropped_and_nothing_else_is() {
    let setup = PackedSetup {
        described: true,
        ..MERGED
    };
    let mut harness = PackedHarness::new(setup);
    // TCP in pieces of 4 bytes, over IPv4, then over something else; and pieces of nothing.
    for (gso_size, ethertype) in [(4, [8, 0]), (4, [0x88, 0x47]), (0, [8, 0]), (4, [8, 0])] {
        let header = [1, 1, 54, 0, gso_size, 0, 34, 0, 16, 0, 1, 0];
        let mut frame = [0x50; 60];
        frame[12..14].copy_from_slice(&ethertype);
        let chain = harness.rings[RX].available.pop_front().expect("posted");
        let place = harness.rings[RX].honest;
        harness.rings[RX].honest.0 += 1;
        harness.hostile.write(chain.offset, &header);
        harness.hostile.write(chain.offset + HEADER, &frame);
        harness.write_used(RX, place, chain.id, 72);
    }
    assert_eq!(harness.receive(64), None);
    assert_eq!(harness.live.len(), 2);
    let counters = harness.pair.receive_counters();
    assert_eq!(counters.frames, 4, "with those that were dropped");
    assert_eq!(counters.drops.get(DropReason::UnknownEtherType), 1);
    assert_eq!(counters.drops.get(DropReason::Malformed), 1);
    assert!(harness.pair.arm(false), "the queue is not broken");
    harness.finish();
}

#[test]
fn garbage_in_the_event_structure_costs_only_doorbells() {
    for setup in BOTH {
        let mut harness = PackedHarness::new(setup);
        for round in 0..400u16 {
            for queue in [RX, TX] {
                let position = round.wrapping_mul(0x9e37);
                harness
                    .hostile
                    .set_packed_events(queue, position, round % 5);
            }
            deliver(&mut harness, 1, 1, 50);
            assert_eq!(harness.receive(64), None);
            assert_eq!(harness.send(1), None);
            complete(&mut harness, 1, false);
            harness.live.clear();
        }
        assert_eq!(harness.pair.receive_counters().frames, 400);
        assert_eq!(harness.pair.transmit_counters().frames, 400);
        harness.finish();
    }
}

#[test]
fn the_doorbell_rings_when_the_device_asked_for_it_and_not_otherwise() {
    let mut harness = PackedHarness::new(PackedSetup {
        event_idx: true,
        ..PackedSetup::PLAIN
    });
    let mut send = |position: u16, flags: u16| {
        harness.hostile.doorbells(TX);
        harness.hostile.set_packed_events(TX, position, flags);
        assert_eq!(harness.send(3), None);
        harness.hostile.doorbells(TX)
    };
    const LAP: u16 = 1 << 15;
    // Descriptors 0 to 2, 3 to 5, and so on, all in the first lap of a ring of 16.
    assert_eq!(send(0, 0), 1, "always");
    assert_eq!(send(3, 1), 0, "never");
    assert_eq!(send(LAP | 6, 2), 1, "at the first");
    assert_eq!(send(LAP | 11, 2), 1, "at the last");
    assert_eq!(send(LAP | 15, 2), 0, "later");
    drop(harness);
}

#[test]
fn arm_sees_what_came_before_it_and_asks_for_what_comes_after() {
    for setup in BOTH {
        let mut harness = PackedHarness::new(setup);
        harness.pair.disarm();
        assert_eq!(harness.hostile.packed_wish(RX).1, 1);
        deliver(&mut harness, 1, 1, 50);
        assert!(!harness.pair.arm(false));
        assert_eq!(harness.receive(64), None);
        assert!(harness.pair.arm(false));
        let (position, flags) = harness.hostile.packed_wish(RX);
        if setup.event_idx {
            assert_eq!((position, flags), (1 << 15 | 1, 2), "the second descriptor");
        } else {
            assert_eq!(flags, 0);
        }
        harness.observe();
        harness.finish();
    }
}
