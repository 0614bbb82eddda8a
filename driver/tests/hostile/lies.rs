//! One lie each. The model in [`Harness`] foretells the violation as well; here it is spelt out.

use virtroupe_driver::{Frame, Violation};
use virtroupe_wire::Buffer;
use virtroupe_wire::offload::{ChecksumState, PartialChecksum};

use super::device::{HEADER, RX, TX};
use super::harness::{BUFFER, Harness, Setup};

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
        (0..8).for_each(|_| assert!(harness.hostile.deliver(b"frame")));
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
            harness.hostile.use_buffer(RX, id, 60);
            assert_eq!(harness.receive(64), Some(Violation::UsedId(id)));
            harness.finish();

            let mut harness = Harness::new(setup);
            assert_eq!(harness.send(4), None);
            harness.hostile.use_buffer(TX, id, 0);
            assert_eq!(harness.reclaim(), Some(Violation::UsedId(id)));
            harness.finish();
        }
    }
}

#[test]
fn a_buffer_that_is_used_twice_comes_once() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        harness.hostile.use_buffer(RX, 5, 60);
        harness.hostile.use_buffer(RX, 5, 60);
        assert_eq!(harness.receive(64), Some(Violation::UsedId(5)));
        assert_eq!(harness.live.len(), 1, "what came before is handed over");
        assert_eq!(harness.receive(64), Some(Violation::UsedId(5)), "still");
        harness.finish();

        let mut harness = Harness::new(setup);
        assert_eq!(harness.send(4), None);
        harness.hostile.use_buffer(TX, 0, 0);
        harness.hostile.use_buffer(TX, 0, 0);
        assert_eq!(harness.reclaim(), Some(Violation::UsedId(0)));
        harness.finish();
    }
}

#[test]
fn a_descriptor_that_was_never_sent_is_refused() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        assert_eq!(harness.send(4), None);
        harness.hostile.use_buffer(TX, 9, 0);
        assert_eq!(harness.reclaim(), Some(Violation::UsedId(9)));
        assert_eq!(harness.pair.transmit_outstanding(), 4);
        harness.finish();
    }
}

#[test]
fn the_middle_of_a_chain_is_not_a_chain() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        let mut frame = harness.pair.pool().frame().expect("free");
        for _ in 0..2 {
            let mut segment = harness.pair.pool().frame().expect("free");
            assert!(segment.extend_from_slice(b"part"));
            frame.append(segment);
        }
        assert_eq!(harness.transmit(vec![frame]), None);
        harness.hostile.use_buffer(TX, 1, 0);
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
            let mut harness = Harness::new(setup);
            harness.hostile.use_buffer(RX, 0, length);
            let expected = (!good).then_some(Violation::UsedLength {
                length,
                shortest: HEADER as u32,
                longest: BUFFER,
            });
            assert_eq!(harness.receive(64), expected, "length {length}");
            assert_eq!(harness.live.len(), usize::from(good));
            harness.finish();
        }
    }
}

#[test]
fn the_used_length_of_a_sent_frame_means_nothing() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        assert_eq!(harness.send(1), None);
        harness.hostile.use_buffer(TX, 0, u32::MAX);
        assert_eq!(harness.reclaim(), None);
        assert_eq!(harness.pair.transmit_outstanding(), 0);
        harness.finish();
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
fn an_in_order_batch_that_goes_back_is_refused() {
    let mut harness = Harness::new(Setup::IN_ORDER);
    assert_eq!(harness.send(8), None);
    // A batch of three, and then one that ends inside the first.
    harness.hostile.set_used_entry(TX, 0, 2, 0);
    harness.hostile.set_used_entry(TX, 3, 1, 0);
    harness.hostile.set_used_index(TX, 5);
    assert_eq!(harness.reclaim(), Some(Violation::UsedId(1)));
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
fn a_violation_on_transmit_leaves_the_burst_with_its_sender() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        assert_eq!(harness.send(12), None);
        harness.hostile.use_buffer(TX, 15, 0);
        assert_eq!(harness.send(6), Some(Violation::UsedId(15)));
        assert_eq!(harness.live.len(), 6);
        harness.finish();
    }
}

#[test]
fn a_payload_that_changes_after_completion_changes_neither_length_nor_slot() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        let offset = harness.hostile.descriptor(RX, 0).offset;
        assert!(harness.hostile.deliver(&[1; 100]));
        assert_eq!(harness.receive(64), None);
        let address = harness.live[0].head().as_ptr();
        harness.hostile.write(offset, &[0xff; BUFFER as usize]);
        harness.hostile.set_used_entry(RX, 0, u32::MAX, u32::MAX);
        assert_eq!(harness.live[0].len(), 100);
        assert_eq!(harness.live[0].head().as_ptr(), address);
        // Sent on, its header is ours again: `observe` sees zeros.
        let burst = std::mem::take(&mut harness.live);
        assert_eq!(harness.transmit(burst), None);
        harness.finish();
    }
}

#[test]
fn what_the_device_writes_into_the_descriptor_table_is_never_read() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        for _ in 0..10 {
            (0..12).for_each(|_| assert!(harness.hostile.deliver(b"frame")));
            assert_eq!(harness.send(4), None);
            for queue in [RX, TX] {
                (0..16).for_each(|id| harness.hostile.spoil_descriptor(queue, id, 0xff));
            }
            while let Some(id) = harness.hostile.take(TX) {
                harness.hostile.use_buffer(TX, id.into(), 0);
            }
            assert_eq!(harness.reclaim(), None);
            // What is not given back now would be delivered to nowhere: take all.
            assert_eq!(harness.receive(64), None);
            while let Some(id) = harness.hostile.take(RX) {
                harness.hostile.use_buffer(RX, id.into(), 12);
            }
            assert_eq!(harness.receive(64), None);
            harness.live.clear();
        }
        harness.finish();
    }
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
        harness.hostile.use_buffer(RX, 0, 60);
        assert_eq!(harness.receive(64), None);
        assert_eq!(harness.live.len(), 1);
        assert_eq!(harness.send(2), None);
        harness.hostile.use_buffer(TX, 0, 0);
        assert_eq!(harness.reclaim(), None);
        assert_eq!(harness.pair.transmit_outstanding(), 1);
        harness.finish();
    }
}

#[test]
fn garbage_in_the_available_event_costs_only_doorbells() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        for event in [0, 1, 0x7fff, 0x8000, u16::MAX]
            .into_iter()
            .cycle()
            .take(200)
        {
            for queue in [RX, TX] {
                harness.hostile.set_available_event(queue, event);
                harness.hostile.set_used_flags(queue, event);
            }
            assert!(harness.hostile.deliver(b"frame"));
            assert_eq!(harness.receive(64), None);
            assert_eq!(harness.send(1), None);
            let id = harness.hostile.take(TX).expect("sent");
            harness.hostile.use_buffer(TX, id.into(), 0);
            harness.live.clear();
        }
        assert_eq!(harness.pair.receive_counters().frames, 200);
        assert_eq!(harness.pair.transmit_counters().frames, 200);
        harness.finish();
    }
}

#[test]
fn a_storm_of_interrupts_is_forgotten_at_once() {
    for setup in BOTH {
        let mut harness = Harness::new(setup);
        for _ in 0..10_000 {
            harness.hostile.interrupt(RX);
            harness.hostile.interrupt(TX);
        }
        harness.pair.disarm();
        for interrupt in harness.pair.interrupts() {
            let nothing = nix::unistd::read(interrupt, &mut [0; 8]);
            assert_eq!(nothing, Err(nix::errno::Errno::EAGAIN));
        }
        assert_eq!(harness.receive(64), None);
        assert!(harness.pair.arm(true), "interrupts are not work");
        harness.finish();
    }
}

#[test]
fn frames_of_the_device_that_are_lost_with_it_come_home_from_another_thread() {
    let mut harness = Harness::new(Setup::PLAIN);
    (0..8).for_each(|_| assert!(harness.hostile.deliver(b"frame")));
    assert_eq!(harness.receive(64), None);
    harness.hostile.use_buffer(RX, 77, 60);
    assert_eq!(harness.receive(64), Some(Violation::UsedId(77)));
    let frames: Vec<Frame> = std::mem::take(&mut harness.live);
    std::thread::spawn(move || drop(frames))
        .join()
        .expect("dropped");
    harness.finish();
}

#[test]
fn a_header_is_judged_only_if_something_of_it_was_negotiated() {
    let lies: [[u8; HEADER]; 3] = [
        // A checksum beyond the end, a merged frame, and both.
        [1, 0, 0, 0, 0, 0, 200, 0, 0, 0, 1, 0],
        [0, 1, 54, 0, 100, 0, 34, 0, 16, 0, 1, 0],
        [1, 3, 42, 0, 100, 0, 34, 0, 0xff, 0xff, 1, 0],
    ];
    for setup in BOTH {
        for lie in lies {
            let mut harness = Harness::new(setup);
            assert!(harness.hostile.deliver_with(&lie, &[7; 100]));
            assert_eq!(harness.receive(64), None, "nobody looks");
            assert!(harness.live[0].offload().is_none());
            harness.finish();

            let described = Setup {
                described: true,
                ..setup
            };
            let mut harness = Harness::new(described);
            assert!(harness.hostile.deliver(&[7; 100]));
            assert!(harness.hostile.deliver_with(&lie, &[7; 100]));
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
    let setup = Setup {
        described: true,
        ..Setup::PLAIN
    };
    let mut harness = Harness::new(setup);
    let offset = harness.hostile.descriptor(RX, 0).offset;
    let partial = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 1, 0];
    assert!(harness.hostile.deliver_with(&partial, &[7; 100]));
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

/// Also where the pool can not replace the slot.
#[test]
fn a_copy_on_the_heap_keeps_the_description() {
    let setup = Setup {
        described: true,
        ..Setup::PLAIN
    };
    let mut harness = Harness::new(setup);
    while let Some(frame) = harness.pair.pool().frame() {
        harness.live.push(frame);
    }
    harness.live.iter_mut().for_each(|frame| frame.truncate(0));
    let valid = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    assert!(harness.hostile.deliver_with(&valid, &[7; 100]));
    let before = harness.live.len();
    assert_eq!(harness.receive(64), None);
    assert_eq!(harness.pair.receive_counters().copied, 1);
    let frame = &harness.live[before];
    assert!(frame.is_on_heap());
    assert_eq!(frame.offload().checksum, ChecksumState::Valid);
    harness.finish();
}
