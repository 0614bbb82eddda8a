//! One lie each in the virtio-net header of a received frame, and what becomes of it, in rings of
//! either format.

use virtroupe_driver::Violation;
use virtroupe_wire::offload::{ChecksumState, PartialChecksum};
use virtroupe_wire::{Buffer, DropReason};

use super::device::{HEADER, RX};
use super::harness::Harness;
use super::setup::Setup;

/// Frames in one buffer each.
const SINGLE: [Setup; 3] = [Setup::PLAIN, Setup::IN_ORDER, Setup::PACKED];

#[test]
fn a_header_is_judged_only_if_something_of_it_was_negotiated() {
    let lies: [[u8; HEADER]; 3] = [
        // A checksum beyond the end, a merged frame, and both.
        [1, 0, 0, 0, 0, 0, 200, 0, 0, 0, 1, 0],
        [0, 1, 54, 0, 100, 0, 34, 0, 16, 0, 1, 0],
        [1, 3, 42, 0, 100, 0, 34, 0, 0xff, 0xff, 1, 0],
    ];
    for setup in SINGLE {
        for lie in lies {
            let mut harness = Harness::new(setup);
            assert!(harness.deliver_with(&lie, &[7; 100]));
            assert_eq!(harness.receive(64), None, "nobody looks");
            assert!(harness.live[0].offload().is_none());
            harness.finish();

            let described = Setup {
                described: true,
                ..setup
            };
            let mut harness = Harness::new(described);
            assert!(harness.deliver(&[7; 100]));
            assert!(harness.deliver_with(&lie, &[7; 100]));
            let violation = harness.receive(64);
            assert!(matches!(violation, Some(Violation::NetHeader { .. })));
            assert_eq!(harness.live.len(), 1, "what came before is handed over");
            assert!(!harness.pair.arm(false), "a broken queue must not sleep");
            assert_eq!(harness.receive(64), violation, "still");
            harness.finish();
        }
    }
}

#[test]
fn a_header_that_changes_after_completion_changes_no_description() {
    for setup in SINGLE {
        let mut harness = Harness::new(Setup {
            described: true,
            ..setup
        });
        let offset = harness.rings[RX].outstanding[0].offset;
        let partial = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 1, 0];
        assert!(harness.deliver_with(&partial, &[7; 100]));
        assert_eq!(harness.receive(64), None);
        harness.hostile.write(offset, &[0xff; HEADER]);
        let expected = PartialChecksum {
            start: 34,
            offset: 6,
        };
        let checksum = ChecksumState::Partial(expected);
        assert_eq!(harness.live[0].offload().checksum, checksum);
        harness.finish();
    }
}

/// Also where the pool can not replace the slot.
#[test]
fn a_copy_on_the_heap_keeps_the_description() {
    for setup in SINGLE {
        let mut harness = Harness::new(Setup {
            described: true,
            ..setup
        });
        while let Some(frame) = harness.pair.pool().frame() {
            harness.live.push(frame);
        }
        harness.live.iter_mut().for_each(|frame| frame.truncate(0));
        let valid = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert!(harness.deliver_with(&valid, &[7; 100]));
        let before = harness.live.len();
        assert_eq!(harness.receive(64), None);
        assert_eq!(harness.pair.receive_counters().copied, 1);
        let frame = &harness.live[before];
        assert!(frame.is_on_heap());
        assert_eq!(frame.offload().checksum, ChecksumState::Valid);
        harness.finish();
    }
}

/// Such a frame may come from another guest, through a backend that believed it.
#[test]
fn a_frame_to_which_its_header_does_not_fit_is_dropped_and_nothing_else_is() {
    for (packed, queue_size) in [(false, 64), (true, 70)] {
        let mut harness = Harness::new(Setup {
            packed,
            mergeable: true,
            described: true,
            queue_size,
            ..Setup::PLAIN
        });
        // TCP in pieces of 4 bytes, over IPv4, then over something else; and pieces of nothing.
        for (gso_size, ethertype) in [(4, [8, 0]), (4, [0x88, 0x47]), (0, [8, 0]), (4, [8, 0])] {
            let header = [1, 1, 54, 0, gso_size, 0, 34, 0, 16, 0, 1, 0];
            let mut frame = [0x50; 60];
            frame[12..14].copy_from_slice(&ethertype);
            assert!(harness.deliver_with(&header, &frame));
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
}
