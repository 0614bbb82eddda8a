//! One lie each that only a packed ring has room for (see [`lies`](super::lies) for the others), and
//! what it asks of its device.

use super::device::{RX, TX};
use super::harness::Harness;
use super::rings::{AVAIL, USED};
use super::setup::Setup;

const BOTH: [Setup; 2] = [Setup::PACKED, Setup::PACKED_ALL];

#[test]
fn used_descriptors_beyond_what_is_outstanding_are_not_looked_at() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        assert_eq!(harness.send(2), None);
        for place in 0..harness.size() {
            harness.write_used(TX, place, place as u32 % 2, 0);
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
fn flags_that_are_not_those_of_this_lap_mean_nothing() {
    for setup in BOTH {
        for flags in [0, AVAIL, USED] {
            let mut harness = Harness::new(setup);
            harness.hostile.set_packed(RX, 0, 0, 60, flags);
            harness.readable = false;
            assert_eq!(harness.receive(64), None);
            assert!(harness.live.is_empty());
            harness.finish();
        }
    }
}

#[test]
fn the_doorbell_rings_when_the_device_asked_for_it_and_not_otherwise() {
    let mut harness = Harness::new(Setup {
        event_idx: true,
        ..Setup::PACKED
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
        let mut harness = Harness::new(setup);
        harness.pair.disarm();
        assert_eq!(harness.hostile.packed_wish(RX).1, 1);
        assert!(harness.deliver(b"before"));
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
