//! Frames pass, in every shape that the standard allows.

use proptest::prelude::*;
use virtroupe_driver::TransmitOffloads;
use virtroupe_driver::embedded::{EmbeddedConfig, Link, LinkConfig, PacketSource, SourceConfig};
use virtroupe_driver::features::FeatureBits;
use virtroupe_driver::transport::Transport;
use virtroupe_wire::Instant;

use crate::raw::{BUFFER, frame};
use crate::{Station, linked, settle};

const NOW: Instant = Instant::ZERO;

#[test]
fn frames_pass_both_ways_in_order() {
    let (mut a, mut b, link) = linked(LinkConfig::default(), FeatureBits::NONE, 64);
    a.driver.rx().post(64, BUFFER);
    b.driver.rx().post(64, BUFFER);
    let sent: Vec<_> = (0..50).map(|i| frame(i, 60 + i as usize * 20)).collect();
    for bytes in &sent {
        a.driver.tx().send(bytes);
        b.driver.tx().send(bytes);
    }
    settle(&[&a, &b], NOW);
    assert_eq!(b.driver.rx().receive(), sent);
    assert_eq!(a.driver.rx().receive(), sent);
    assert_eq!(a.driver.tx().take_used().len(), 50);
    let stats = a.handle.stats();
    assert_eq!(stats.from_driver.frames, 50);
    assert_eq!(stats.from_driver, stats.to_backend);
    assert_eq!(stats.to_driver, stats.from_driver);
    assert_eq!(link.outbound().delivered, 50);
}

#[test]
fn chains_and_indirect_tables_carry_headers_split_anywhere() {
    for without in [FeatureBits::NONE, FeatureBits::IN_ORDER] {
        let (mut a, mut b, _) = linked(LinkConfig::default(), without, 16);
        b.driver.rx().post(16, BUFFER);
        let bytes = frame(7, 300);
        let mut packet = vec![0; 12];
        packet.extend_from_slice(&bytes);
        for cut in [1, 5, 11, 12, 13, 200] {
            let (head, tail) = packet.split_at(cut);
            let (middle, tail) = tail.split_at(tail.len() / 2);
            a.driver.tx().send_parts(&[head, middle, tail]);
            a.driver.tx().send_indirect(&[head, middle, tail]);
            settle(&[&a, &b], NOW);
            assert_eq!(a.driver.tx().take_used().len(), 2);
            assert_eq!(b.driver.rx().receive(), [bytes.clone(), bytes.clone()]);
            b.driver.rx().post(2, BUFFER);
        }
        assert_eq!(a.handle.stats().ring_faults, 0);
    }
}

#[test]
fn indices_wrap_around_65536() {
    let (mut a, mut b, _) = linked(LinkConfig::default(), FeatureBits::NONE, 256);
    b.driver.rx().post(256, BUFFER);
    let mut received = 0u32;
    for burst in 0..280u32 {
        for i in 0..250 {
            a.driver.tx().send(&frame(burst * 250 + i, 60));
        }
        settle(&[&a, &b], NOW);
        let frames = b.driver.rx().receive();
        for bytes in &frames {
            assert_eq!(*bytes, frame(received, 60));
            received += 1;
        }
        b.driver.rx().post(frames.len(), BUFFER);
        assert_eq!(a.driver.tx().take_used().len(), 250);
    }
    assert_eq!(received, 70_000);
}

#[test]
fn a_long_frame_fills_several_buffers_with_mrg_rxbuf_and_is_dropped_without() {
    let (mut a, mut b, _) = linked(LinkConfig::default(), FeatureBits::NONE, 16);
    b.driver.rx().post(2, 500);
    let long = frame(3, 1400);
    a.driver.tx().send(&long);
    a.driver.tx().send(&frame(4, 60));
    settle(&[&a, &b], NOW);
    assert_eq!(
        b.driver.rx().receive(),
        [[]; 0],
        "two buffers of three do not do"
    );
    assert!(b.handle.stats().no_buffer > 0);
    b.driver.rx().post(3, 500);
    settle(&[&a, &b], NOW);
    assert_eq!(b.driver.rx().receive(), [long.clone(), frame(4, 60)]);

    let (mut a, mut b, _) = linked(LinkConfig::default(), FeatureBits::MRG_RXBUF, 16);
    b.driver.rx().post(5, 500);
    a.driver.tx().send(&long);
    a.driver.tx().send(&frame(4, 60));
    settle(&[&a, &b], NOW);
    assert_eq!(b.driver.rx().receive(), [frame(4, 60)]);
    let stats = b.handle.stats();
    assert_eq!((stats.no_room.frames, stats.to_driver.frames), (1, 1));
    assert_eq!(stats.from_backend.frames, 2);
}

#[test]
fn a_frame_that_the_whole_ring_cannot_hold_does_not_block_the_next() {
    let (mut a, mut b, _) = linked(LinkConfig::default(), FeatureBits::NONE, 4);
    b.driver.rx().post(4, 100);
    a.driver.tx().send(&frame(1, 1000));
    a.driver.tx().send(&frame(2, 60));
    settle(&[&a, &b], NOW);
    assert_eq!(b.driver.rx().receive(), [frame(2, 60)]);
    assert_eq!(b.handle.stats().no_room.frames, 1);
}

#[test]
fn what_the_driver_must_not_send_is_dropped_and_counted() {
    let (mut a, mut b, _) = linked(LinkConfig::default(), TransmitOffloads::ALL, 16);
    b.driver.rx().post(16, BUFFER);
    let offload = |at: usize, value| {
        let mut packet = vec![0; 12 + 60];
        packet[at] = value;
        packet
    };
    for packet in [offload(0, 1), offload(1, 3), offload(10, 1)] {
        a.driver.tx().send_parts(&[&packet]);
    }
    a.driver.tx().send(&[0; 13]);
    a.driver.tx().send(&[0; 1519]);
    a.driver.tx().send(&frame(1, 1518));
    settle(&[&a, &b], NOW);
    assert_eq!(b.driver.rx().receive(), [frame(1, 1518)]);
    let stats = a.handle.stats();
    assert_eq!(stats.violations.frames, 3);
    assert_eq!(stats.runts.bytes, 13);
    assert_eq!(stats.oversized.bytes, 1519);
    let mut sum = stats.to_backend;
    sum += stats.dropped_from_driver();
    assert_eq!(stats.from_driver, sum);
    assert_eq!(
        a.driver.tx().take_used().len(),
        6,
        "every buffer comes back"
    );
}

#[test]
fn flows_come_back_on_the_queue_that_sent_them() {
    let (left, right) = Link::pair(LinkConfig::default());
    let config = EmbeddedConfig {
        queue_pairs: 4,
        ..EmbeddedConfig::default()
    };
    let mut a = Station::new(config, left, FeatureBits::NONE, 64);
    let mut b = Station::new(EmbeddedConfig::default(), right, FeatureBits::NONE, 64);
    b.driver.rx().post(64, BUFFER);
    for pair in 0..4 {
        a.driver.queues[pair * 2].post(64, BUFFER);
    }
    let udp = |from: u8, to: u8, ports: (u16, u16)| {
        let mut bytes = vec![0; 60];
        bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
        bytes[23] = 17;
        bytes[29] = from;
        bytes[33] = to;
        bytes[34..36].copy_from_slice(&ports.0.to_be_bytes());
        bytes[36..38].copy_from_slice(&ports.1.to_be_bytes());
        bytes
    };
    for flow in 0..40u16 {
        a.driver.queues[usize::from(flow % 4) * 2 + 1].send(&udp(1, 2, (5000 + flow, 7)));
        b.driver.tx().send(&udp(2, 1, (7, 5000 + flow)));
        settle(&[&a], NOW);
        settle(&[&b, &a], NOW);
    }
    for pair in 0..4u16 {
        let frames = a.driver.queues[usize::from(pair) * 2].receive();
        assert_eq!(frames.len(), 10, "pair {pair}");
        for bytes in frames {
            let port = u16::from_be_bytes([bytes[36], bytes[37]]);
            assert_eq!((port - 5000) % 4, pair);
        }
    }
}

#[test]
fn the_source_fills_the_ring_and_the_sink_checks_what_comes_back() {
    let frames: Vec<_> = (0..3).map(|i| frame(i, 64)).collect();
    let source = PacketSource::new(SourceConfig {
        frames: frames.clone(),
        count: Some(100),
        expected: frames.clone(),
        ..SourceConfig::default()
    });
    let monitor = source.monitor();
    let mut a = Station::new(EmbeddedConfig::default(), source, FeatureBits::NONE, 32);
    a.driver.rx().post(32, BUFFER);
    let mut echoed = 0;
    for _ in 0..10 {
        settle(&[&a], NOW);
        let received = a.driver.rx().receive();
        for bytes in &received {
            assert_eq!(*bytes, frames[echoed % 3]);
            a.driver.tx().send(bytes);
            echoed += 1;
        }
        a.driver.rx().post(received.len(), BUFFER);
        settle(&[&a], NOW);
        a.driver.tx().take_used();
    }
    a.driver.tx().send(&frame(9, 64));
    settle(&[&a], NOW);
    let stats = monitor.stats();
    assert_eq!((stats.sent.frames, echoed), (100, 100));
    assert_eq!(stats.received.frames, 101);
    assert_eq!(stats.unexpected, 1);
}

#[test]
fn a_rated_source_keeps_its_rate_in_the_time_it_is_given() {
    let source = PacketSource::new(SourceConfig {
        frames: vec![frame(0, 64)],
        rate: Some(1000),
        ..SourceConfig::default()
    });
    let mut a = Station::new(EmbeddedConfig::default(), source, FeatureBits::NONE, 64);
    a.driver.rx().post(64, BUFFER);
    settle(&[&a], NOW);
    for millisecond in 1..=20u64 {
        settle(&[&a], Instant::from_nanos(millisecond * 1_000_000));
        assert_eq!(u64::from(a.driver.rx().used_index()), millisecond + 1);
    }
    let next = a.stepper.deadline().expect("the next frame has a time");
    assert_eq!(next, Instant::from_nanos(21_000_000));
}

#[test]
fn after_a_reset_the_device_starts_anew_and_what_waited_is_counted() {
    let (mut a, mut b, link) = linked(LinkConfig::default(), FeatureBits::NONE, 16);
    for i in 0..5 {
        a.driver.tx().send(&frame(i, 60));
    }
    settle(&[&a, &b], NOW);
    b.transport.reset().expect("reset");
    let before = b.driver.rx().used_index();
    assert_eq!(link.outbound().flushed, 5);
    b.driver.rx().post(3, BUFFER);
    a.driver.tx().send(&frame(9, 60));
    settle(&[&a, &b], NOW);
    assert_eq!(
        b.driver.rx().used_index(),
        before,
        "a reset device touches nothing"
    );
    b.driver = crate::RawDriver::start(&mut b.transport, FeatureBits::NONE, 8, 1);
    b.driver.rx().post(8, BUFFER);
    settle(&[&a, &b], NOW);
    assert_eq!(b.driver.rx().receive(), [frame(9, 60)]);
}

/// What a test sends: the length of a frame, where to cut it, and by which kind of buffer.
#[derive(Debug, Clone)]
struct Sent {
    length: usize,
    cut: usize,
    kind: u8,
}

fn sent() -> impl Strategy<Value = Sent> {
    (14..1518usize, 0..1500usize, 0..3u8).prop_map(|(length, cut, kind)| Sent { length, cut, kind })
}

proptest! {
    /// The device against a model: a queue of frames, and a number of posted buffers. Whatever
    /// the features, the sizes of buffers and the order of operations, the same frames come out.
    #[test]
    fn the_device_moves_what_a_plain_queue_would(
        without in prop_oneof![
            Just(FeatureBits::NONE),
            Just(FeatureBits::IN_ORDER),
            Just(FeatureBits::EVENT_IDX),
            Just(FeatureBits::EVENT_IDX | FeatureBits::IN_ORDER),
        ],
        room in prop_oneof![Just(200usize), Just(1000), Just(BUFFER)],
        rounds in prop::collection::vec((prop::collection::vec(sent(), 0..6), 0..9usize), 1..30),
    ) {
        let (mut a, mut b, _) = linked(LinkConfig::default(), without, 16);
        let mut expected = std::collections::VecDeque::new();
        let mut number = 0;
        for (sends, posts) in rounds {
            for Sent { length, cut, kind } in sends {
                if a.driver.tx().room() < 2 {
                    continue;
                }
                number += 1;
                let bytes = frame(number, length);
                let mut packet = vec![0; 12];
                packet.extend_from_slice(&bytes);
                let (head, tail) = packet.split_at(cut.min(packet.len() - 1).max(1));
                match kind {
                    0 => a.driver.tx().send(&bytes),
                    1 => a.driver.tx().send_parts(&[head, tail]),
                    _ => a.driver.tx().send_indirect(&[head, tail]),
                }
                expected.push_back(bytes);
            }
            let posts = posts.min(b.driver.rx().room());
            b.driver.rx().post(posts, room);
            settle(&[&a, &b], NOW);
            a.driver.tx().take_used();
            prop_assert_eq!(a.driver.tx().room(), 16);
            for bytes in b.driver.rx().receive() {
                prop_assert_eq!(Some(bytes), expected.pop_front());
            }
            if let Some(front) = expected.front() {
                let posted = 16 - b.driver.rx().room();
                prop_assert!(posted * room < front.len() + 12, "a frame waits although it fits");
            }
        }
        prop_assert_eq!(a.handle.stats().ring_faults + b.handle.stats().ring_faults, 0);
    }
}
