//! What the driver promises whatever applications do; the device is honest here.

use virtroupe_driver::{Device, DeviceError, DeviceOptions, FeatureBits, Frame};
use virtroupe_wire::{Buffer, DropReason};

use super::device::{HEADER, HostileTransport, RX, TX};
use super::harness::Harness;
use super::setup::Setup;

const RINGS: [u16; 3] = [16, 64, 256];

fn setups() -> impl Iterator<Item = Setup> {
    let sizes = RINGS.into_iter();
    sizes.flat_map(|queue_size| {
        [Setup::PLAIN, Setup::IN_ORDER, Setup::PACKED].map(|setup| Setup {
            queue_size,
            ..setup
        })
    })
}

#[test]
fn an_application_that_keeps_every_frame_can_not_empty_the_receive_ring() {
    for setup in setups() {
        let mut harness = Harness::new(setup);
        for round in 0..2000usize {
            for _ in 0..=round % 70 {
                // The ring may be full of what was not taken yet; it is never starved.
                let _ = harness.deliver(b"kept");
            }
            assert_eq!(harness.receive(32), None);
            while harness.pair.arm(false) {
                harness.observe();
                let posted = harness.posted();
                assert!(posted >= harness.size() / 2, "asleep with {posted} posted");
                assert!(harness.deliver(b"kept"), "nothing can wake us");
            }
            harness.observe();
            harness.pair.disarm();
            let (_, free) = harness.pair.pool_level();
            assert!(free >= 64, "{free} slots are left for the stack itself");
            if harness.live.len() > 3000 {
                break;
            }
        }
        assert!(harness.pair.receive_counters().copied > 2000);
        harness.finish();
    }
}

#[test]
fn a_pool_that_is_taken_empty_can_not_empty_the_receive_ring() {
    for setup in setups() {
        let mut harness = Harness::new(setup);
        let mut stolen: Vec<Frame> = Vec::new();
        for round in 0..500 {
            while let Some(frame) = harness.pair.pool().frame() {
                stolen.push(frame);
            }
            for _ in 0..=round % 40 {
                let _ = harness.deliver(b"frame");
            }
            assert_eq!(harness.receive(64), None);
            harness.live.clear();
            let left = harness.posted();
            assert!(left >= harness.size() / 2, "{left} posted");
        }
        // With the memory back, the ring is full again and nothing more is copied.
        drop(stolen);
        assert_eq!(harness.receive(64), None);
        assert!(harness.pair.arm(false));
        harness.observe();
        assert_eq!(harness.posted(), harness.size());
        let copied = harness.pair.receive_counters().copied;
        assert!(harness.deliver(b"frame"));
        assert_eq!(harness.receive(64), None);
        assert_eq!(harness.pair.receive_counters().copied, copied);
        harness.finish();
    }
}

/// Buffers of a packed ring are posted by whole lines of descriptors, but half of the ring is posted
/// in any case: the slots that this would leave in the pool are gone before the queue sleeps.
#[test]
fn a_queue_that_sleeps_with_an_empty_pool_has_half_of_its_ring_posted() {
    for bits in (0..=u8::MAX).filter(|bits| bits & 64 == 0) {
        let mut harness = Harness::new(Setup::from_bits(bits));
        let half = harness.size() / 2;
        let mut stolen: Vec<Frame> = Vec::new();
        for round in 0..300 {
            for _ in 0..round % 13 {
                deliver_long(&mut harness, 1 + round % 5);
            }
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

/// Delivers a frame in so many buffers, where they are merged.
fn deliver_long(harness: &mut Harness, buffers: usize) {
    let buffers = if harness.setup.mergeable { buffers } else { 1 };
    let mut header = [0; HEADER];
    header[10] = buffers as u8;
    harness.deliver_merged(&header, &[], buffers, 1000);
}

#[test]
fn an_application_that_keeps_long_frames_can_not_empty_the_receive_ring() {
    for (packed, queue_size) in [(false, 64), (true, 70)] {
        let mut harness = Harness::new(Setup {
            packed,
            mergeable: true,
            queue_size,
            ..Setup::PLAIN
        });
        for _ in 0..200 {
            (0..3).for_each(|_| deliver_long(&mut harness, 6));
            assert_eq!(harness.receive(64), None);
            assert!(harness.rings[RX].outstanding.len() >= harness.size() / 2);
            let (_, free) = harness.pair.pool_level();
            assert!(free >= 64, "{free} slots are left for the stack itself");
        }
        assert_eq!(harness.live.len(), 600);
        assert!(harness.pair.receive_counters().copied > 500);
        harness.finish();
    }
}

#[test]
fn frames_that_come_home_from_another_thread_fill_the_ring_when_the_queue_is_polled() {
    let mut harness = Harness::new(Setup::PLAIN);
    let mut stolen: Vec<Frame> = Vec::new();
    while let Some(frame) = harness.pair.pool().frame() {
        stolen.push(frame);
    }
    while harness.deliver(b"frame") {}
    assert_eq!(harness.receive(64), None);
    std::thread::spawn(move || drop(stolen))
        .join()
        .expect("dropped");
    assert_eq!(harness.receive(64), None);
    assert_eq!(harness.posted(), 16);
    harness.finish();
}

#[test]
fn the_queue_sleeps_with_a_full_ring() {
    for setup in setups() {
        let mut harness = Harness::new(setup);
        (0..3).for_each(|_| assert!(harness.deliver(b"frame")));
        assert_eq!(harness.receive(64), None);
        assert!(harness.pair.arm(false));
        harness.observe();
        assert_eq!(harness.posted(), harness.size());
        harness.finish();
    }
}

#[test]
fn a_short_ring_is_filled_again_before_it_is_empty() {
    let mut harness = Harness::new(Setup::PLAIN);
    (0..9).for_each(|_| assert!(harness.deliver(b"frame")));
    assert_eq!(harness.receive(64), None);
    assert_eq!(harness.posted(), 16);
    harness.finish();
}

fn chain(harness: &mut Harness, segments: usize, bytes: &[u8], heap: bool) -> Frame {
    let mut head = harness.pair.pool().frame().expect("free");
    assert!(head.extend_from_slice(b"an Ethernet header"));
    for _ in 1..segments {
        let segment = if heap {
            Frame::on_heap(bytes)
        } else {
            let mut segment = harness.pair.pool().frame().expect("free");
            assert!(segment.extend_from_slice(bytes));
            segment
        };
        head.append(segment);
    }
    head
}

#[test]
fn a_chain_that_exceeds_the_ring_does_not_block_it() {
    let mut harness = Harness::new(Setup::PLAIN);
    let fits = chain(&mut harness, 17, b"0123456789", true);
    let expected = fits.to_vec();
    let too_big = chain(&mut harness, 300, &[7; 150], true);
    let after = chain(&mut harness, 1, b"", false);
    assert_eq!(harness.transmit(vec![fits, too_big, after]), None);
    assert!(harness.live.is_empty(), "nothing waits");
    let counters = harness.pair.transmit_counters();
    assert_eq!(counters.frames, 2);
    assert_eq!(counters.drops.get(DropReason::TooBig), 1);
    let first = harness.hostile.descriptor(TX, 0);
    let sent = harness.hostile.read(first.offset, first.length as usize);
    assert_eq!(sent[12..], expected[..]);
    harness.finish();
}

#[test]
fn a_chain_as_long_as_the_ring_waits_for_it_and_then_goes_out() {
    let mut harness = Harness::new(Setup::PLAIN);
    assert_eq!(harness.send(1), None);
    let long = chain(&mut harness, 16, b"part", false);
    assert_eq!(harness.transmit(vec![long]), None);
    assert_eq!(harness.live.len(), 1, "no room yet");
    harness.complete(1, false);
    let burst = std::mem::take(&mut harness.live);
    assert_eq!(harness.transmit(burst), None);
    assert_eq!((harness.live.len(), harness.pair.transmit_room()), (0, 0));
    harness.finish();
}

#[test]
fn segments_in_sight_are_not_copied_and_empty_ones_not_shown() {
    let mut harness = Harness::new(Setup::PLAIN);
    let mut frame = chain(&mut harness, 2, b"first", false);
    frame.append(Frame::on_heap(b""));
    frame.append(harness.pair.pool().frame().expect("free"));
    frame.append(chain(&mut harness, 1, b"", false));
    let expected = frame.to_vec();
    assert_eq!(harness.transmit(vec![frame]), None);
    assert_eq!(harness.pair.transmit_counters().copied, 0);
    let parts = harness.hostile.chain(TX, 0);
    assert_eq!(parts.len(), 3);
    let read =
        |part: &super::device::Descriptor| harness.hostile.read(part.offset, part.length as usize);
    let sent: Vec<u8> = parts.iter().flat_map(read).collect();
    assert_eq!(sent[12..], expected[..]);
    harness.finish();
}

#[test]
fn a_frame_on_the_heap_is_copied_into_slots_or_dropped_with_its_reason() {
    let mut harness = Harness::new(Setup::PLAIN);
    // What the ring can never hold, although it is one segment; two slots; one slot.
    let bytes = [16 * 2112 + 1, 2113, 2112].map(|length| vec![1; length]);
    let burst = bytes.iter().map(|bytes| Frame::on_heap(bytes)).collect();
    assert_eq!(harness.transmit(burst), None);
    let counters = *harness.pair.transmit_counters();
    assert_eq!((counters.frames, counters.bytes), (2, 2113 + 2112));
    assert_eq!(counters.drops.get(DropReason::TooBig), 1);
    assert_eq!(harness.pair.transmit_room(), 13);
    while let Some(frame) = harness.pair.pool().frame() {
        harness.live.push(frame);
    }
    let last = Frame::on_heap(b"no slot is left");
    assert_eq!(harness.transmit(vec![last]), None);
    let drops = harness.pair.transmit_counters().drops;
    assert_eq!(drops.get(DropReason::PoolEmpty), 1);
    harness.finish();
}

/// The most queue pairs that can be had of a device with `features` that claims to have `claimed`.
fn most_pairs(features: FeatureBits, claimed: u16) -> String {
    let (mut transport, _parts) = HostileTransport::new(features);
    transport.config.max_queue_pairs = Some(claimed);
    let options = DeviceOptions {
        queue_pairs: 0x8001,
        // Looked at later: whatever this test finds, it allocates no memory for them.
        mtu: Some(1),
        ..DeviceOptions::default()
    };
    match Device::initialize(Box::new(transport), &options) {
        Err(error @ DeviceError::Option { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("there can not be as many"),
    }
}

#[test]
fn a_device_that_claims_more_queue_pairs_than_can_be_is_not_believed() {
    let features = FeatureBits::VERSION_1 | FeatureBits::MQ | FeatureBits::CTRL_VQ;
    let error = most_pairs(features, u16::MAX);
    assert!(error.contains("1 to 32768"), "{error}");
}

#[test]
fn queue_pairs_that_nothing_can_start_are_not_used() {
    let features = FeatureBits::VERSION_1 | FeatureBits::MQ;
    let error = most_pairs(features, 8);
    assert!(error.contains("1 to 1,"), "{error}");
    let features = FeatureBits::VERSION_1 | FeatureBits::CTRL_VQ;
    let error = most_pairs(features, 8);
    assert!(error.contains("1 to 1,"), "{error}");
}
