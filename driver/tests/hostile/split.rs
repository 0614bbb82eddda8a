//! One lie each that only a split ring has room for (see [`lies`](super::lies) for the others), and
//! what it asks of its device.

use virtroupe_driver::Violation;

use super::device::{RX, TX};
use super::harness::Harness;
use super::setup::Setup;

const BOTH: [Setup; 2] = [Setup::PLAIN, Setup::IN_ORDER];

#[test]
fn a_used_index_beyond_what_is_outstanding_is_refused() {
    for setup in BOTH {
        for used in [17, 4000, u16::MAX] {
            let mut harness = Harness::new(setup);
            harness.hostile.set_used_index(RX, used);
            let expected = Violation::UsedIndex {
                used,
                last: 0,
                outstanding: 16,
            };
            assert_eq!(harness.receive(64), Some(expected));
            assert!(!harness.pair.arm(false), "a broken queue must not sleep");
            harness.finish();

            let mut harness = Harness::new(setup);
            assert_eq!(harness.send(3), None);
            harness.hostile.set_used_index(TX, used);
            let expected = Violation::UsedIndex {
                used,
                last: 0,
                outstanding: 3,
            };
            assert_eq!(harness.reclaim(), Some(expected));
            assert!(!harness.pair.arm(true));
            harness.finish();
        }
    }
}

#[test]
fn a_used_index_that_moves_back_is_refused() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        (0..8).for_each(|_| assert!(harness.deliver(b"frame")));
        assert_eq!(harness.receive(64), None);
        harness.hostile.set_used_index(RX, 7);
        assert!(matches!(
            harness.receive(64),
            Some(Violation::UsedIndex {
                used: 7,
                last: 8,
                ..
            })
        ));
        harness.finish();
    }
}

#[test]
fn a_used_id_outside_the_ring_is_refused_also_where_it_would_fit_after_truncation() {
    for setup in BOTH {
        for id in [16, 0xffff, 0x1_0000, 0x1_0001, u32::MAX] {
            let mut harness = Harness::new(setup);
            harness.write_used(RX, 0, id, 60);
            assert_eq!(harness.receive(64), Some(Violation::UsedId(id)));
            harness.finish();

            let mut harness = Harness::new(setup);
            assert_eq!(harness.send(4), None);
            harness.write_used(TX, 0, id, 0);
            assert_eq!(harness.reclaim(), Some(Violation::UsedId(id)));
            harness.finish();
        }
    }
}

#[test]
fn an_in_order_batch_must_end_within_what_the_index_says() {
    let mut harness = Harness::new(Setup::IN_ORDER);
    assert_eq!(harness.send(8), None);
    // The index says three; the entry names the fourth.
    harness.hostile.set_used_entry(TX, 0, 3, 0);
    harness.hostile.set_used_index(TX, 3);
    assert_eq!(harness.reclaim(), Some(Violation::UsedId(3)));
    assert_eq!(harness.pair.transmit_outstanding(), 8);
    harness.finish();
}

#[test]
fn one_entry_for_a_batch_is_refused_unless_in_order_was_negotiated() {
    let mut harness = Harness::new(Setup::PLAIN);
    assert_eq!(harness.send(8), None);
    harness.hostile.set_used_entry(TX, 0, 3, 0);
    harness.hostile.set_used_index(TX, 4);
    // The entries behind it are zero: descriptor 0 once, and then again.
    assert_eq!(harness.reclaim(), Some(Violation::UsedId(0)));
    harness.finish();
}

#[test]
fn what_the_device_writes_into_the_available_ring_is_never_read() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        for word in 0..19 {
            harness.hostile.set_available_word(RX, word, 0xffff);
            harness.hostile.set_available_word(TX, word, 0xffff);
        }
        harness.readable = false;
        harness.write_used(RX, 0, 0, 60);
        assert_eq!(harness.receive(64), None);
        assert_eq!(harness.live.len(), 1);
        assert_eq!(harness.send(2), None);
        harness.write_used(TX, 0, 0, 0);
        assert_eq!(harness.reclaim(), None);
        assert_eq!(harness.pair.transmit_outstanding(), 1);
        harness.finish();
    }
}

#[test]
fn arm_sees_what_came_before_it_and_hears_of_what_comes_after() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        harness.pair.disarm();
        assert!(harness.deliver(b"before"));
        assert!(!harness.pair.arm(false));
        assert_eq!(harness.receive(64), None);
        assert!(harness.pair.arm(false));
        harness.observe();
        assert!(harness.deliver(b"after"));
        let wanted = |harness: &Harness, queue, index: u16| {
            let old = index.wrapping_sub(1);
            let hostile = &harness.hostile;
            hostile.is_interrupt_wanted(queue, setup.event_idx, old, index)
        };
        assert!(wanted(&harness, RX, 2));
        assert_eq!(harness.receive(64), None);
        harness.pair.disarm();
        assert!(harness.deliver(b"polled"));
        assert!(!wanted(&harness, RX, 3), "the driver polls");
        assert_eq!(harness.receive(64), None);

        assert_eq!(harness.send(2), None);
        assert!(harness.pair.arm(true));
        harness.complete(1, false);
        assert!(wanted(&harness, TX, 1));
        assert!(!harness.pair.arm(true), "a frame was sent");
        assert!(harness.pair.arm(false), "which nobody waits for");
        harness.finish();
    }
}

#[test]
fn the_doorbell_rings_when_the_device_asked_for_it_and_not_otherwise() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        harness.hostile.doorbells(TX);
        // The device sleeps, and waits for the next frame.
        harness.hostile.set_used_flags(TX, 0);
        harness.hostile.set_available_event(TX, 0);
        assert_eq!(harness.send(3), None);
        assert_eq!(harness.hostile.doorbells(TX), 1, "once for a burst");
        // It is awake.
        harness.hostile.set_used_flags(TX, 1);
        assert_eq!(harness.send(3), None);
        assert_eq!(harness.hostile.doorbells(TX), 0);
        harness.finish();
    }
}
