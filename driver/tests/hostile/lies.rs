//! One lie each, in rings of either format. The model in [`Harness`] foretells the violation as well;
//! here it is spelt out.

use virtroupe_driver::{Frame, Violation};
use virtroupe_wire::Buffer;

use super::device::{HEADER, RX, TX};
use super::harness::Harness;
use super::rings::BUFFER;
use super::setup::Setup;

/// Marks a posted buffer used, by a frame that spans one.
fn fill(harness: &Harness, place: usize, id: u16, length: u32) {
    let chain = harness.rings[RX].outstanding.iter();
    let chain = chain.clone().find(|chain| chain.id == id).expect("posted");
    let header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    harness.hostile.write(chain.offset, &header);
    harness.write_used(RX, place, id.into(), length);
}

#[test]
fn an_id_that_is_not_outstanding_is_refused() {
    for setup in Setup::EITHER {
        for id in [setup.queue_size, 0x100, u16::MAX].map(u32::from) {
            let mut harness = Harness::new(setup);
            harness.write_used(RX, 0, id, 60);
            assert_eq!(harness.receive(64), Some(Violation::UsedId(id)));
            assert!(!harness.pair.arm(false), "a broken queue must not sleep");
            harness.finish();

            let mut harness = Harness::new(setup);
            assert_eq!(harness.send(4), None);
            harness.write_used(TX, 0, id, 0);
            assert_eq!(harness.reclaim(), Some(Violation::UsedId(id)));
            assert!(!harness.pair.arm(true));
            harness.finish();
        }
    }
}

#[test]
fn a_buffer_that_is_used_twice_comes_once() {
    for setup in Setup::EITHER {
        let mut harness = Harness::new(setup);
        fill(&harness, 0, 5, 60);
        fill(&harness, 1, 5, 60);
        assert_eq!(harness.receive(64), Some(Violation::UsedId(5)));
        assert_eq!(harness.live.len(), 1, "what came before is handed over");
        assert_eq!(harness.receive(64), Some(Violation::UsedId(5)), "still");
        harness.finish();

        let mut harness = Harness::new(setup);
        assert_eq!(harness.send(4), None);
        harness.write_used(TX, 0, 0, 0);
        harness.write_used(TX, 1, 0, 0);
        assert_eq!(harness.reclaim(), Some(Violation::UsedId(0)));
        harness.finish();
    }
}

#[test]
fn a_descriptor_that_was_never_sent_is_refused() {
    for setup in Setup::EITHER {
        let mut harness = Harness::new(setup);
        assert_eq!(harness.send(4), None);
        harness.write_used(TX, 0, 9, 0);
        assert_eq!(harness.reclaim(), Some(Violation::UsedId(9)));
        assert_eq!(harness.pair.transmit_outstanding(), 4);
        harness.finish();
    }
}

#[test]
fn the_middle_of_a_chain_is_not_a_chain() {
    for setup in Setup::EITHER {
        let mut harness = Harness::new(setup);
        let mut frame = harness.pair.pool().frame().expect("free");
        for _ in 0..2 {
            let mut segment = harness.pair.pool().frame().expect("free");
            assert!(segment.extend_from_slice(b"part"));
            frame.append(segment);
        }
        assert_eq!(harness.transmit(vec![frame]), None);
        assert_eq!(harness.rings[TX].outstanding[0].descriptors, 3);
        harness.write_used(TX, 0, 1, 0);
        assert_eq!(harness.reclaim(), Some(Violation::UsedId(1)));
        harness.finish();
    }
}

#[test]
fn a_used_length_must_hold_the_header_and_fit_the_buffer() {
    for setup in Setup::EITHER {
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
            fill(&harness, 0, 0, length);
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
    for setup in Setup::EITHER {
        let mut harness = Harness::new(setup);
        assert_eq!(harness.send(1), None);
        harness.write_used(TX, 0, 0, u32::MAX);
        assert_eq!(harness.reclaim(), None);
        assert_eq!(harness.pair.transmit_outstanding(), 0);
        harness.finish();
    }
}

#[test]
fn an_in_order_batch_that_goes_back_is_refused() {
    for setup in Setup::EITHER.iter().filter(|setup| setup.in_order) {
        let mut harness = Harness::new(*setup);
        assert_eq!(harness.send(8), None);
        // A batch of three, and then one that ends inside the first.
        harness.write_used(TX, 0, 2, 0);
        harness.write_used(TX, 3, 1, 0);
        assert_eq!(harness.reclaim(), Some(Violation::UsedId(1)));
        harness.finish();
    }
}

#[test]
fn a_batch_of_chains_comes_back_with_one_used_entry() {
    for setup in Setup::EITHER.iter().filter(|setup| setup.in_order) {
        let mut harness = Harness::new(*setup);
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
            harness.complete(3, true);
            assert_eq!(harness.reclaim(), None);
            assert_eq!(harness.pair.transmit_outstanding(), 0);
        }
        harness.finish();
    }
}

#[test]
fn a_violation_on_transmit_leaves_the_burst_with_its_sender() {
    for setup in Setup::EITHER {
        let mut harness = Harness::new(setup);
        assert_eq!(harness.send(12), None);
        harness.write_used(TX, 0, 15, 0);
        assert_eq!(harness.send(6), Some(Violation::UsedId(15)));
        assert_eq!(harness.live.len(), 6);
        harness.finish();
    }
}

#[test]
fn a_payload_that_changes_after_completion_changes_neither_length_nor_slot() {
    for setup in Setup::EITHER {
        let mut harness = Harness::new(setup);
        let offset = harness.rings[RX].outstanding[0].offset;
        assert!(harness.deliver(&[1; 100]));
        assert_eq!(harness.receive(64), None);
        let address = harness.live[0].head().as_ptr();
        harness.hostile.write(offset, &[0xff; BUFFER as usize]);
        assert_eq!(harness.live[0].len(), 100);
        assert_eq!(harness.live[0].head().as_ptr(), address);
        // Sent on, its header is ours again: `observe` sees zeros.
        let burst = std::mem::take(&mut harness.live);
        assert_eq!(harness.transmit(burst), None);
        harness.finish();
    }
}

#[test]
fn what_the_device_writes_over_descriptors_that_are_its_own_is_never_read() {
    for setup in Setup::EITHER {
        let mut harness = Harness::new(setup);
        for _ in 0..10 {
            (0..12).for_each(|_| assert!(harness.deliver(b"frame")));
            assert_eq!(harness.send(4), None);
            for queue in [RX, TX] {
                (0..setup.queue_size).for_each(|id| harness.spoil_descriptor(queue, id, 0xff));
            }
            harness.complete(usize::MAX, false);
            assert_eq!(harness.reclaim(), None);
            assert_eq!(harness.receive(64), None);
            harness.live.clear();
        }
        harness.finish();
    }
}

#[test]
fn garbage_in_what_asks_for_doorbells_costs_only_doorbells() {
    for setup in Setup::EITHER {
        let mut harness = Harness::new(setup);
        for round in 0..400u16 {
            for queue in [RX, TX] {
                let event = [0, 1, 0x7fff, 0x8000, u16::MAX, round.wrapping_mul(0x9e37)];
                let event = event[usize::from(round) % event.len()];
                harness.disturb_events(queue, event, round % 5);
            }
            assert!(harness.deliver(b"frame"));
            assert_eq!(harness.receive(64), None);
            assert_eq!(harness.send(1), None);
            harness.complete(1, false);
            harness.live.clear();
        }
        assert_eq!(harness.pair.receive_counters().frames, 400);
        assert_eq!(harness.pair.transmit_counters().frames, 400);
        harness.finish();
    }
}

#[test]
fn a_storm_of_interrupts_is_forgotten_at_once() {
    for setup in Setup::EITHER {
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
    for setup in Setup::EITHER {
        let mut harness = Harness::new(setup);
        (0..8).for_each(|_| assert!(harness.deliver(b"frame")));
        assert_eq!(harness.receive(64), None);
        harness.write_used(RX, 8, 77, 60);
        assert_eq!(harness.receive(64), Some(Violation::UsedId(77)));
        let frames: Vec<Frame> = std::mem::take(&mut harness.live);
        std::thread::spawn(move || drop(frames))
            .join()
            .expect("dropped");
        harness.finish();
    }
}
