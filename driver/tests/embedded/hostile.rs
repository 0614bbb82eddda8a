//! A driver that breaks the rules: the queue stops, the driver is told, and nothing else happens.

use proptest::prelude::*;
use virtroupe_driver::embedded::{EmbeddedConfig, PacketSource, SourceConfig};
use virtroupe_driver::features::FeatureBits;
use virtroupe_driver::transport::{DeviceEvent, RingLayout, Transport, TransportError};
use virtroupe_wire::Instant;

use crate::raw::{BUFFER, INDIRECT, NEXT, Raw, RawDriver, RawQueue, WRITE, encode, frame};
use crate::{Station, settle};

fn station(without: FeatureBits) -> Station {
    let source = PacketSource::new(SourceConfig {
        frames: vec![frame(0, 100)],
        ..SourceConfig::default()
    });
    Station::new(EmbeddedConfig::default(), source, without, 8)
}

/// Runs the device after `attack` on queue `queue` (0 receives, 1 transmits) and expects that it
/// asks for a reset, that the queue is dead, and that it works again after the reset.
fn breaks_queue(without: FeatureBits, queue: usize, attack: impl FnOnce(&mut RawQueue)) {
    let mut a = station(without);
    attack(&mut a.driver.queues[queue]);
    settle(&[&a], Instant::ZERO);
    assert_eq!(a.transport.take_event(), Some(DeviceEvent::NeedsReset));
    assert_eq!(a.transport.take_event(), None);
    assert_eq!(a.handle.stats().ring_faults, 1);
    let used = a.driver.queues[queue].used_index();
    a.driver.queues[queue].send(&frame(1, 60));
    settle(&[&a], Instant::ZERO);
    assert_eq!(
        a.driver.queues[queue].used_index(),
        used,
        "a broken queue is dead"
    );

    a.transport.reset().expect("reset");
    a.driver = RawDriver::start(&mut a.transport, without, 8, 1);
    a.driver.tx().send(&frame(1, 60));
    settle(&[&a], Instant::ZERO);
    assert_eq!(a.driver.tx().take_used().len(), 1);
}

fn one_descriptor(raw: impl FnOnce(&RawQueue) -> Raw) -> impl FnOnce(&mut RawQueue) {
    |queue| {
        queue.write_descriptor(0, raw(queue));
        queue.offer(0);
    }
}

#[test]
fn addresses_outside_the_memory() {
    for raw in [(0u64, 100u32), (u64::MAX - 10, 100), (1 << 40, 12)] {
        let (address, length) = raw;
        breaks_queue(
            FeatureBits::NONE,
            1,
            one_descriptor(|_| (address, length, 0, 0)),
        );
        breaks_queue(
            FeatureBits::NONE,
            0,
            one_descriptor(|_| (address, length, WRITE, 0)),
        );
    }
    breaks_queue(
        FeatureBits::NONE,
        1,
        one_descriptor(|q| (q.address(0), u32::MAX, 0, 0)),
    );
    // An offset in the place of an address.
    breaks_queue(
        FeatureBits::NONE,
        1,
        one_descriptor(|q| (q.buffer(0) as u64, 100, 0, 0)),
    );
}

#[test]
fn chains_that_loop_or_leave_the_table() {
    let without = FeatureBits::IN_ORDER;
    breaks_queue(
        without,
        1,
        one_descriptor(|q| (q.address(q.buffer(0)), 1, NEXT, 0)),
    );
    breaks_queue(
        without,
        1,
        one_descriptor(|q| (q.address(q.buffer(0)), 1, NEXT, 8)),
    );
    breaks_queue(without, 1, |queue| {
        for i in 0..8 {
            let raw = (queue.address(queue.buffer(i)), 1, NEXT, (i + 1) % 8);
            queue.write_descriptor(i, raw);
        }
        queue.offer(0);
    });
    breaks_queue(without, 1, |queue| queue.offer(8));
    breaks_queue(without, 1, |queue| queue.offer(u16::MAX));
}

#[test]
fn an_available_index_that_jumps() {
    for jump in [9, 1000, 40_000, u16::MAX] {
        breaks_queue(FeatureBits::NONE, 1, |queue| {
            queue.set_available_index(jump)
        });
        breaks_queue(FeatureBits::NONE, 0, |queue| {
            queue.set_available_index(jump)
        });
    }
}

#[test]
fn buffers_that_do_not_fit_their_queue() {
    let direction = |flags| one_descriptor(move |q| (q.address(q.buffer(0)), 100, flags, 0));
    breaks_queue(FeatureBits::NONE, 1, direction(WRITE));
    breaks_queue(FeatureBits::NONE, 0, direction(0));
    breaks_queue(
        FeatureBits::NONE,
        1,
        one_descriptor(|q| (q.address(q.buffer(0)), 11, 0, 0)),
    );
    breaks_queue(
        FeatureBits::NONE,
        0,
        one_descriptor(|q| (q.address(q.buffer(0)), 11, WRITE, 0)),
    );
    // A part that fits, and with it one of the wrong direction.
    for queue in [0, 1] {
        breaks_queue(FeatureBits::NONE, queue, |queue| {
            queue.write_descriptor(0, (queue.address(queue.buffer(0)), 100, NEXT, 1));
            queue.write_descriptor(1, (queue.address(queue.buffer(1)), 100, WRITE, 0));
            queue.offer(0);
        });
    }
    breaks_queue(FeatureBits::NONE, 0, |queue| {
        queue.write_descriptor(0, (queue.address(queue.buffer(0)), 100, WRITE | NEXT, 1));
        queue.write_descriptor(1, (queue.address(queue.buffer(1)), 100, 0, 0));
        queue.offer(0);
    });
}

#[test]
fn descriptors_out_of_order_although_in_order_was_negotiated() {
    breaks_queue(FeatureBits::NONE, 1, |queue| {
        queue.write_descriptor(3, (queue.address(queue.buffer(3)), 100, 0, 0));
        queue.offer(3);
    });
    breaks_queue(FeatureBits::NONE, 1, |queue| {
        queue.write_descriptor(0, (queue.address(queue.buffer(0)), 100, NEXT, 2));
        queue.write_descriptor(2, (queue.address(queue.buffer(2)), 100, 0, 0));
        queue.offer(0);
    });
}

#[test]
fn indirect_tables_that_break_the_rules() {
    let table = |length: u32, flags: u16, entry: Raw| {
        move |queue: &mut RawQueue| {
            let at = queue.buffer(0);
            let (offset, entry_length, entry_flags, next) = entry;
            let address = queue.address(at + offset as usize);
            queue
                .memory
                .write(at, &encode((address, entry_length, entry_flags, next)));
            queue.write_descriptor(0, (queue.address(at), length, flags, 1));
            queue.offer(0);
        }
    };
    let good = (512, 100, 0, 0);
    breaks_queue(FeatureBits::INDIRECT_DESC, 1, table(16, INDIRECT, good));
    breaks_queue(FeatureBits::NONE, 1, table(16, INDIRECT | NEXT, good));
    breaks_queue(FeatureBits::NONE, 1, table(0, INDIRECT, good));
    breaks_queue(FeatureBits::NONE, 1, table(17, INDIRECT, good));
    breaks_queue(FeatureBits::NONE, 1, table(9 * 16, INDIRECT, good));
    breaks_queue(
        FeatureBits::NONE,
        1,
        table(16, INDIRECT, (512, 16, INDIRECT, 0)),
    );
    breaks_queue(FeatureBits::NONE, 1, table(32, INDIRECT, (512, 1, NEXT, 0)));
    breaks_queue(FeatureBits::NONE, 1, table(32, INDIRECT, (512, 1, NEXT, 2)));
    breaks_queue(FeatureBits::NONE, 1, table(16, INDIRECT, (512, 1, NEXT, 1)));
}

#[test]
fn a_fault_on_one_queue_leaves_the_other_running_and_frames_before_it_pass() {
    let mut a = station(FeatureBits::NONE);
    a.driver.tx().send(&frame(1, 60));
    a.driver.tx().send(&frame(2, 60));
    a.driver.tx().offer(7);
    settle(&[&a], Instant::ZERO);
    assert_eq!(a.handle.stats().to_backend.frames, 2);
    assert_eq!(a.driver.tx().take_used().len(), 2);
    a.driver.rx().post(4, BUFFER);
    settle(&[&a], Instant::ZERO);
    assert_eq!(a.driver.rx().receive().len(), 4);
}

#[test]
fn a_reset_forgets_that_the_device_asked_for_one() {
    let mut a = station(FeatureBits::NONE);
    a.driver.tx().offer(7);
    settle(&[&a], Instant::ZERO);
    a.transport.reset().expect("reset");
    assert_eq!(a.transport.take_event(), None);
}

#[test]
fn control_requests_out_of_order_or_range_are_refused() {
    let backend = PacketSource::new(SourceConfig::default());
    let (mut transport, _handle, _stepper) =
        virtroupe_driver::embedded::EmbeddedTransport::inline(EmbeddedConfig::default(), backend)
            .expect("device");
    let layout = RingLayout {
        size: 8,
        descriptors: 0,
        driver: 128,
        device: 256,
    };
    let refused = |result: Result<(), TransportError>| {
        assert!(
            matches!(result, Err(TransportError::Device { .. })),
            "{result:?}"
        );
    };
    refused(transport.set_up_queue(0, &layout).map(drop));
    refused(transport.enable(1));
    refused(transport.accept_features(FeatureBits::NONE));
    refused(transport.accept_features(FeatureBits::VERSION_1 | FeatureBits::GUEST_ANNOUNCE));
    transport
        .accept_features(FeatureBits::VERSION_1)
        .expect("accepted");
    refused(transport.set_up_queue(0, &layout).map(drop));
    let memory = virtroupe_driver::memory::DmaMemory::allocate(
        4096,
        virtroupe_driver::memory::HugePages::Never,
    );
    let memory = std::sync::Arc::new(memory.expect("memory"));
    transport.map_memory(&memory).expect("mapped");
    for bad in [
        RingLayout { size: 7, ..layout },
        RingLayout { size: 0, ..layout },
        RingLayout {
            size: 2048,
            ..layout
        },
        RingLayout {
            descriptors: 8,
            ..layout
        },
        RingLayout {
            driver: 129,
            ..layout
        },
        RingLayout {
            device: 258,
            ..layout
        },
        RingLayout {
            device: 4092,
            ..layout
        },
        RingLayout {
            driver: usize::MAX - 1,
            ..layout
        },
    ] {
        refused(transport.set_up_queue(0, &bad).map(drop));
    }
    refused(transport.set_up_queue(2, &layout).map(drop));
    transport.set_up_queue(0, &layout).expect("set up");
    refused(transport.enable(1));
    refused(transport.enable(0));
    refused(transport.enable(2));
}

proptest! {
    /// Any bytes in the rings: no panic, and a device that is either running or asks for a reset.
    #[test]
    fn arbitrary_rings_do_not_panic(
        seeds in prop::collection::vec((0..8u16, any::<Raw>(), any::<bool>(), 0..9u16), 1..24),
        jump in 0..12u16,
        without in prop_oneof![Just(FeatureBits::NONE), Just(FeatureBits::IN_ORDER)],
    ) {
        let mut a = station(without);
        for queue in &mut a.driver.queues {
            for (index, (address, length, flags, next), inside, head) in &seeds {
                let raw = if *inside {
                    let offset = queue.buffer(*index) as u64 + (address & 0x3ff);
                    (queue.iova + offset, length & 0x3ff, flags & 7, next & 7)
                } else {
                    (*address, *length, *flags, *next)
                };
                queue.write_descriptor(*index, raw);
                if *inside {
                    let at = queue.buffer(*index);
                    queue.memory.write(at, &encode(raw));
                }
                let slot = usize::from(*index) * 2;
                queue.memory.write(queue.layout.driver + 4 + slot, &head.to_le_bytes());
            }
            queue.set_available_index(jump);
        }
        for _ in 0..20 {
            a.stepper.step(Instant::ZERO);
        }
        let stats = a.handle.stats();
        let mut sum = stats.to_backend;
        sum += stats.dropped_from_driver();
        prop_assert_eq!(stats.from_driver, sum);
        let asks = a.transport.take_event() == Some(DeviceEvent::NeedsReset);
        prop_assert_eq!(asks, stats.ring_faults > 0);
    }
}
