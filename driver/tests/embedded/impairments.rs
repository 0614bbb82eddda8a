//! The faults of a link: counted exactly, and the same each time from the same seed.

use std::time::Duration;

use proptest::prelude::*;
use virtroupe_driver::embedded::{EmbeddedConfig, Link, LinkConfig, LinkStats};
use virtroupe_driver::features::FeatureBits;
use virtroupe_wire::Instant;

use crate::raw::{BUFFER, frame};
use crate::{Station, linked, settle};

/// Sends `count` frames, 100 µs apart, and returns what arrived and the counters.
fn run(config: LinkConfig, count: u32) -> (Vec<(u64, Vec<u8>)>, LinkStats) {
    let (mut a, mut b, link) = linked(config, FeatureBits::NONE, 64);
    b.driver.rx().post(64, BUFFER);
    let mut arrived = Vec::new();
    for tick in 0..u64::from(count) + 1000 {
        let now = Instant::from_nanos(tick * 100_000);
        if let Ok(number) = u32::try_from(tick)
            && number < count
        {
            a.driver.tx().send(&frame(number, 60));
        }
        settle(&[&a, &b], now);
        a.driver.tx().take_used();
        let frames = b.driver.rx().receive();
        b.driver.rx().post(frames.len(), BUFFER);
        arrived.extend(frames.into_iter().map(|bytes| (tick, bytes)));
    }
    let stats = link.outbound();
    assert_eq!(stats.offered, u64::from(count));
    assert_eq!(stats.delivered, arrived.len() as u64);
    assert_eq!(b.handle.stats().to_driver.frames, stats.delivered);
    assert_balanced(&stats);
    (arrived, stats)
}

fn assert_balanced(stats: &LinkStats) {
    assert_eq!(
        stats.offered + stats.duplicated,
        stats.delivered
            + stats.lost
            + stats.overflowed
            + stats.too_long
            + stats.flushed
            + stats.waiting
    );
}

#[test]
fn everything_at_once_repeats_from_the_seed_and_differs_from_another() {
    let config = |seed| LinkConfig {
        latency: Duration::from_millis(2),
        rate: 100_000_000,
        loss: 0.1,
        loss_burst: 3.0,
        reorder: 0.1,
        duplicate: 0.1,
        corrupt: 0.1,
        seed,
        ..LinkConfig::default()
    };
    let first = run(config(1), 500);
    assert_eq!(first, run(config(1), 500));
    assert_ne!(first, run(config(2), 500));
    let stats = first.1;
    for count in [
        stats.lost,
        stats.reordered,
        stats.duplicated,
        stats.corrupted,
    ] {
        assert!((10..150).contains(&count), "{stats:?}");
    }
}

#[test]
fn latency_and_rate_say_when_a_frame_arrives() {
    let config = LinkConfig {
        latency: Duration::from_micros(250),
        // A frame of 1250 bytes takes 100 µs.
        rate: 100_000_000,
        ..LinkConfig::default()
    };
    let (mut a, mut b, _) = linked(config, FeatureBits::NONE, 16);
    b.driver.rx().post(16, BUFFER);
    for i in 0..3 {
        a.driver.tx().send(&frame(i, 1250));
    }
    settle(&[&a, &b], Instant::ZERO);
    for (nanoseconds, arrived) in [
        (349_999, 0),
        (350_000, 1),
        (450_000, 2),
        (549_999, 2),
        (550_000, 3),
    ] {
        let deadline = b.stepper.deadline();
        settle(&[&b], Instant::from_nanos(nanoseconds));
        assert_eq!(b.driver.rx().used_index(), arrived, "at {nanoseconds} ns");
        assert!(deadline.is_some());
    }
    assert_eq!(b.stepper.deadline(), None);
}

#[test]
fn each_fault_alone_does_what_its_name_says() {
    let certain = LinkConfig::default();
    let (arrived, stats) = run(
        LinkConfig {
            loss: 1.0,
            ..certain.clone()
        },
        50,
    );
    assert_eq!((arrived.len(), stats.lost), (0, 50));

    let (arrived, stats) = run(
        LinkConfig {
            duplicate: 1.0,
            ..certain.clone()
        },
        50,
    );
    assert_eq!((arrived.len(), stats.duplicated), (100, 50));
    assert!(arrived.chunks(2).all(|pair| pair[0] == pair[1]));

    let (arrived, stats) = run(
        LinkConfig {
            corrupt: 1.0,
            ..certain.clone()
        },
        50,
    );
    assert_eq!(stats.corrupted, 50);
    for (number, (_, bytes)) in (0..).zip(&arrived) {
        let whole = frame(number, 60);
        let bits: u32 = bytes
            .iter()
            .zip(&whole)
            .map(|(a, b)| (a ^ b).count_ones())
            .sum();
        assert_eq!(bits, 1, "one bit of frame {number}");
    }

    let (arrived, stats) = run(
        LinkConfig {
            reorder: 0.2,
            ..certain.clone()
        },
        200,
    );
    let overtaken = arrived
        .windows(2)
        .filter(|w| w[0].1[14..18] > w[1].1[14..18])
        .count();
    assert!(
        overtaken > 10 && overtaken as u64 <= stats.reordered,
        "{overtaken} {stats:?}"
    );
    assert_eq!(arrived.len(), 200);
}

#[test]
fn losses_come_in_bursts_of_the_mean_that_was_asked_for() {
    let config = LinkConfig {
        loss: 0.2,
        loss_burst: 5.0,
        seed: 4,
        ..LinkConfig::default()
    };
    let (arrived, stats) = run(config, 4000);
    let numbers: Vec<u32> = arrived
        .iter()
        .map(|(_, bytes)| u32::from_be_bytes(bytes[14..18].try_into().expect("4")))
        .collect();
    let bursts = numbers.windows(2).filter(|w| w[1] - w[0] > 1).count() as u64;
    assert!((600..1000).contains(&stats.lost), "{stats:?}");
    let mean = stats.lost as f64 / bursts as f64;
    assert!((3.5..6.5).contains(&mean), "{mean}");
}

#[test]
fn without_buffers_frames_wait_and_what_exceeds_the_queue_is_counted() {
    let config = LinkConfig {
        queue_limit: 10,
        mtu: 1000,
        ..LinkConfig::default()
    };
    let (mut a, mut b, link) = linked(config, FeatureBits::NONE, 64);
    a.driver.tx().send(&frame(99, 1019));
    for i in 0..30 {
        a.driver.tx().send(&frame(i, 60));
    }
    settle(&[&a, &b], Instant::ZERO);
    let stats = link.outbound();
    assert_eq!(
        (stats.waiting, stats.overflowed, stats.too_long),
        (10, 20, 1)
    );
    assert_balanced(&stats);
    b.driver.rx().post(64, BUFFER);
    settle(&[&a, &b], Instant::ZERO);
    let expected: Vec<_> = (0..10).map(|i| frame(i, 60)).collect();
    assert_eq!(b.driver.rx().receive(), expected);
}

#[test]
fn the_two_directions_of_a_link_can_differ() {
    let lossy = LinkConfig {
        loss: 1.0,
        ..LinkConfig::default()
    };
    let (left, right) = Link::asymmetric(lossy, LinkConfig::default());
    let mut a = Station::new(EmbeddedConfig::default(), left, FeatureBits::NONE, 16);
    let mut b = Station::new(EmbeddedConfig::default(), right, FeatureBits::NONE, 16);
    a.driver.rx().post(4, BUFFER);
    b.driver.rx().post(4, BUFFER);
    a.driver.tx().send(&frame(1, 60));
    b.driver.tx().send(&frame(2, 60));
    settle(&[&a, &b, &a], Instant::ZERO);
    assert_eq!(b.driver.rx().receive().len(), 0);
    assert_eq!(a.driver.rx().receive(), [frame(2, 60)]);
}

proptest! {
    /// Whatever the link does: in = out + dropped, at every moment.
    #[test]
    fn every_frame_has_a_fate(
        loss in 0.0..0.5f64,
        loss_burst in 1.0..5.0f64,
        reorder in 0.0..0.5f64,
        duplicate in 0.0..0.5f64,
        corrupt in 0.0..0.5f64,
        queue_limit in 1..40usize,
        latency in 0..3000u64,
        seed in any::<u64>(),
        bursts in prop::collection::vec((0..8u32, 0..8usize), 1..40),
    ) {
        let config = LinkConfig {
            latency: Duration::from_micros(latency),
            rate: 1_000_000_000,
            queue_limit,
            mtu: 1400,
            loss,
            loss_burst,
            reorder,
            duplicate,
            corrupt,
            seed,
            ..LinkConfig::default()
        };
        let (mut a, mut b, link) = linked(config, FeatureBits::NONE, 16);
        let mut received = 0;
        for (tick, (frames, buffers)) in (0u64..).zip(bursts) {
            for i in 0..frames {
                a.driver.tx().send(&frame(i, 14 + (i as usize * 211) % 1504));
            }
            let buffers = buffers.min(b.driver.rx().room());
            b.driver.rx().post(buffers, BUFFER);
            settle(&[&a, &b], Instant::from_nanos(tick * 500_000));
            a.driver.tx().take_used();
            received += b.driver.rx().receive().len() as u64;
            let stats = link.outbound();
            assert_balanced(&stats);
            prop_assert_eq!(stats.offered, a.handle.stats().to_backend.frames);
            prop_assert_eq!(stats.delivered, b.handle.stats().from_backend.frames);
            prop_assert_eq!(stats.delivered, received);
        }
    }
}
