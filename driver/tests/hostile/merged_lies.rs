//! One lie each of frames in several buffers, in rings of either format.

use virtroupe_driver::Violation;
use virtroupe_wire::Buffer;

use super::device::{HEADER, RX};
use super::harness::{Harness, LONGEST, MOST_BUFFERS};
use super::rings::BUFFER;
use super::setup::Setup;

const SPLIT: Setup = Setup {
    mergeable: true,
    queue_size: 64,
    ..Setup::PLAIN
};
const PACKED: Setup = Setup {
    mergeable: true,
    queue_size: 70,
    ..Setup::PACKED
};
const EITHER: [Setup; 2] = [SPLIT, PACKED];

/// Uses a posted buffer, whose header promises `buffers` buffers.
fn fill(harness: &Harness, place: usize, buffers: u16, length: u32) {
    let chain = &harness.rings[RX].outstanding[place];
    let mut header = [0; HEADER];
    header[10..].copy_from_slice(&buffers.to_le_bytes());
    harness.hostile.write(chain.offset, &header);
    harness.write_used(RX, place, chain.id.into(), length);
}

#[test]
fn a_frame_spans_at_least_one_buffer_and_no_more_than_are_used() {
    for setup in EITHER {
        // A split ring has an index that says how many are used.
        let seen = if setup.packed { 68 } else { 2 };
        for (buffers, used) in [(0, seen), (69, seen), (u16::MAX, seen), (3, 2)] {
            let mut harness = Harness::new(setup);
            fill(&harness, 0, buffers, 60);
            fill(&harness, 1, 1, 60);
            let expected = Violation::MergedBuffers { buffers, used };
            assert_eq!(harness.receive(64), Some(expected));
            assert!(harness.live.is_empty(), "half a frame is none");
            harness.finish();
        }
    }
}

#[test]
fn the_later_buffers_of_a_frame_are_judged_like_the_first() {
    for setup in EITHER {
        for (length, good) in [(0, false), (1, true), (BUFFER, true), (BUFFER + 1, false)] {
            let mut harness = Harness::new(setup);
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
}

#[test]
fn a_frame_is_no_longer_than_the_longest_packet() {
    // So many buffers are full, and one more is not.
    let whole = (LONGEST as usize + HEADER) / BUFFER as usize;
    let rest = LONGEST - (whole as u32 * BUFFER - HEADER as u32);
    for setup in EITHER {
        for excess in [0, 1] {
            let mut harness = Harness::new(setup);
            fill(&harness, 0, whole as u16 + 1, BUFFER);
            (1..whole).for_each(|place| fill(&harness, place, 1, BUFFER));
            fill(&harness, whole, 1, rest + excess);
            let expected = Violation::MergedLength {
                length: LONGEST + 1,
                longest: LONGEST,
            };
            assert_eq!(harness.receive(64), (excess > 0).then_some(expected));
            let lengths = harness.live.iter().map(|frame| frame.len() as u32);
            let taken = [LONGEST][excess as usize..].iter().copied();
            assert!(lengths.eq(taken));
            harness.finish();
        }
    }
}

/// Bytes do not bound a chain of buffers that hold one each.
#[test]
fn a_frame_spans_no_more_buffers_than_the_longest_needs_badly_used() {
    for setup in EITHER {
        for (buffers, good) in [(MOST_BUFFERS, true), (MOST_BUFFERS + 1, false)] {
            let mut harness = Harness::new(Setup {
                queue_size: 256,
                ..setup
            });
            fill(&harness, 0, buffers, HEADER as u32);
            (1..usize::from(buffers)).for_each(|place| fill(&harness, place, 1, 1));
            let most = MOST_BUFFERS;
            let expected = Violation::MergedCount { buffers, most };
            assert_eq!(harness.receive(64), (!good).then_some(expected));
            assert_eq!(harness.live.len(), usize::from(good));
            harness.finish();
        }
    }
}
