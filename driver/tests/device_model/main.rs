//! The queue pair against the embedded device, whose ring code is not the driver's: nothing is
//! lost, duplicated or reordered, every slot comes home, and nobody sleeps while there is work.

mod offloads;
mod station;

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proptest::prelude::*;
use virtroupe_driver::embedded::{
    DeviceThread, EmbeddedTransport, Link, LinkConfig, LinkEnd, PacketSource, SourceConfig,
};
use virtroupe_driver::{Device, Frame, QueuePair};
use virtroupe_wire::{Buffer, Instant};

use station::{Setup, Station};

fn link() -> (LinkEnd, LinkEnd) {
    Link::pair(LinkConfig {
        queue_limit: 1 << 20,
        ..LinkConfig::default()
    })
}

fn stations(a: Setup, b: Setup) -> [Station; 2] {
    let (left, right) = link();
    [Station::new(a, left), Station::new(b, right)]
}

/// Does one thing at station `at`.
fn act(stations: &mut [Station; 2], at: usize, kind: u8, a: u16) {
    let [first, second] = stations;
    let (station, other) = if at == 0 {
        (first, second)
    } else {
        (second, first)
    };
    match kind % 10 {
        0 | 1 => {
            for number in 0..a % 24 {
                station.make(a.rotate_left(number.into()), usize::from(a >> 1) + 97);
            }
            station.transmit();
        }
        2 => station.transmit(),
        3 | 4 => {
            station.receive(other, usize::from(a % 80));
        }
        5 | 6 => {
            station.step();
        }
        7 => station.release(usize::from(a % 64), a & 0x100 != 0),
        8 => station.sleep(a & 1 != 0),
        _ => {
            station.wake();
        }
    }
}

/// Lets both stations run until nothing moves. A station that sleeps is woken by interrupts only.
fn settle(stations: &mut [Station; 2]) {
    let mut moved = true;
    while moved {
        moved = false;
        for at in [0, 1] {
            let [first, second] = &mut *stations;
            let (station, other) = if at == 0 {
                (first, second)
            } else {
                (second, first)
            };
            moved |= station.wake();
            let before = station.backlog();
            station.transmit();
            moved |= station.backlog() != before;
            moved |= station.step() > 0;
            moved |= station.receive(other, 64) > 0;
            station.release(usize::MAX, false);
            station.sleep(station.backlog() > 0);
        }
    }
}

fn finish(mut stations: [Station; 2]) {
    settle(&mut stations);
    let [mut a, mut b] = stations;
    for station in [&mut a, &mut b] {
        assert_eq!(station.backlog(), 0, "asleep while frames wait for room");
        station.pair.reclaim().expect("no violation");
    }
    a.forget_tail(&mut b);
    b.forget_tail(&mut a);
    a.finish();
    b.finish();
}

proptest! {
    #[test]
    fn any_interleaving_delivers_each_frame_once_and_in_order(
        setups in any::<(u16, u16)>(),
        jumbo in any::<bool>(),
        steps in proptest::collection::vec((any::<bool>(), any::<u8>(), any::<u16>()), 0..150),
    ) {
        let setups = [setups.0, setups.1].map(|bits| {
            let setup = Setup::from_bits(bits);
            if jumbo { setup.jumbo() } else { setup }
        });
        let mut stations = stations(setups[0], setups[1]);
        for (at, kind, a) in steps {
            act(&mut stations, at.into(), kind, a);
        }
        finish(stations);
    }
}

#[test]
fn indices_and_wrap_counters_wrap_with_every_combination_of_features() {
    for bits in 0..Setup::COMBINATIONS {
        let setup = Setup::from_bits(bits);
        let mut stations = stations(setup, setup);
        // The indices of a split ring wrap at 65 536, the counters of a packed one at its size.
        let count = if setup.packed { 1000 } else { 70_000 };
        while stations[1].received < count {
            let [a, b] = &mut stations;
            for _ in 0..13 {
                a.make(0, 0);
            }
            a.transmit();
            a.step();
            b.step();
            b.receive(a, 64);
            b.release(usize::MAX, false);
        }
        finish(stations);
    }
}

/// Until the last frame, nobody is ever polled without an interrupt.
#[test]
fn a_queue_that_sleeps_after_every_burst_misses_nothing_across_the_wrap() {
    for bits in [0, 1, 3, 7, 8, 9, 11, 15, 64 + 9, 64 + 15] {
        let setup = Setup::from_bits(bits);
        let mut stations = stations(setup, setup);
        let bursts = if setup.packed { 300 } else { 7000 };
        for _ in 0..bursts {
            let a = &mut stations[0];
            for _ in 0..10 {
                a.make(0, 0);
            }
            settle(&mut stations);
            assert_eq!(stations[0].backlog(), 0);
        }
        assert_eq!(stations[1].received, 10 * bursts);
        finish(stations);
    }
}

#[test]
fn an_application_that_keeps_all_frames_of_a_source_gets_every_one() {
    const COUNT: u64 = 5000;
    for bits in (0..320).step_by(3) {
        let setup = Setup::from_bits(bits);
        let source = PacketSource::new(SourceConfig {
            frames: vec![vec![1; 60], vec![2; 1514]],
            count: Some(COUNT),
            ..SourceConfig::default()
        });
        let monitor = source.monitor();
        let (transport, _handle, stepper) =
            EmbeddedTransport::inline(setup.config(), source).expect("a device");
        let (mut device, mut pairs) =
            Device::initialize(Box::new(transport), &setup.options()).expect("it starts");
        let mut pair = pairs.pop().expect("a pair").bind();
        let mut kept: Vec<Frame> = Vec::new();
        // An idle round of both means that nothing will come any more.
        let mut idle = 0;
        while idle < 2 {
            let moved = pair.receive(&mut kept, 64).expect("no violation");
            let moved = moved + stepper.step(Instant::ZERO);
            idle = if moved == 0 { idle + 1 } else { 0 };
        }
        assert_eq!(monitor.stats().sent.frames, COUNT);
        assert_eq!(kept.len() as u64, COUNT, "with {setup:?}");
        assert!(pair.receive_counters().copied > 0);
        for (number, frame) in kept.iter().enumerate() {
            assert_eq!(frame.len(), if number % 2 == 0 { 60 } else { 1514 });
        }
        device.reset().expect("it resets");
        pair.reclaim_after_reset();
        kept.clear();
        assert_eq!(pair.pool_level().0, pair.pool_level().1);
    }
}

#[test]
fn a_queue_whose_pool_is_taken_empty_before_the_first_poll_can_be_woken() {
    for bits in 0..Setup::COMBINATIONS {
        let setup = Setup::from_bits(bits);
        let source = PacketSource::new(SourceConfig {
            frames: vec![vec![1; 60]],
            count: Some(1),
            ..SourceConfig::default()
        });
        let (transport, _handle, stepper) =
            EmbeddedTransport::inline(setup.config(), source).expect("a device");
        let (mut device, mut pairs) =
            Device::initialize(Box::new(transport), &setup.options()).expect("it starts");
        let mut pair = pairs.pop().expect("a pair").bind();
        let mut kept: Vec<Frame> = std::iter::from_fn(|| pair.pool().frame()).collect();
        assert!(pair.arm(false));
        stepper.step(Instant::ZERO);
        let [receive, _] = pair.interrupts();
        let woken = nix::unistd::read(receive, &mut [0; 8]);
        assert_eq!(woken, Ok(8), "nothing can wake it with {setup:?}");
        assert_eq!(pair.receive(&mut kept, 64), Ok(1));
        device.reset().expect("it resets");
        pair.reclaim_after_reset();
    }
}

/// The longest rings, and frames of the largest MTU: as tables, and as chains.
#[test]
fn the_largest_packets_cross_the_longest_rings() {
    for bits in [16 + 2, 8 + 2] {
        let setup = Setup {
            queue_size: if bits & 8 == 0 { 32_768 } else { 32_767 },
            mtu: u16::MAX,
            mergeable: true,
            ..Setup::from_bits(bits)
        };
        let mut stations = stations(setup, setup);
        for round in 0..2 {
            let [a, b] = &mut stations;
            for number in 0..30 {
                // A frame on the heap, which is another shape, holds less.
                let shape = if number % 2 == 0 { 0 } else { 2 };
                a.make(shape, usize::from(u16::MAX) - round * number);
            }
            a.transmit();
            while a.step() + b.step() > 0 {
                b.receive(a, 64);
                b.release(usize::MAX, false);
            }
        }
        assert_eq!(stations[1].received, 60);
        finish(stations);
    }
}

fn threaded(setup: Setup, end: LinkEnd) -> (Device, QueuePair) {
    let thread = DeviceThread {
        spin: std::time::Duration::ZERO,
        ..DeviceThread::default()
    };
    let (transport, _) =
        EmbeddedTransport::threaded(setup.config(), end, thread).expect("a device");
    let (device, mut pairs) =
        Device::initialize(Box::new(transport), &setup.options()).expect("it starts");
    let mut pair = pairs.pop().expect("a pair").bind();
    assert_eq!(pair.receive(&mut Vec::new(), 1), Ok(0));
    (device, pair)
}

/// Sleeps until a frame comes, as a queue actor does. A lost notification, of the device or of
/// the driver, shows as a wait without end; ten seconds stand for that.
fn wait_for_frame(pair: &mut QueuePair, burst: &mut Vec<Frame>) {
    while pair.receive(burst, 64) == Ok(0) {
        if pair.arm(false) {
            let [receive, _] = pair.interrupts();
            let mut files = [PollFd::new(receive.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut files, PollTimeout::from(10_000u16)).expect("it polls");
            assert_eq!(ready, 1, "nobody woke us");
        }
        pair.disarm();
    }
}

#[test]
fn one_frame_at_a_time_crosses_devices_and_drivers_that_all_sleep() {
    for bits in [0, 1, 3, 7, 8, 9, 11, 15, 63] {
        let setup = Setup::from_bits(bits);
        let (left, right) = link();
        let (_a, mut near) = threaded(setup, left);
        let (_b, mut far) = threaded(setup, right);
        let mut burst = Vec::new();
        for number in 0..500u32 {
            let mut frame = near.pool().frame().expect("free");
            assert!(frame.extend_from_slice(&[number as u8; 60]));
            burst.push(frame);
            for (from, to) in [(true, false), (false, true)] {
                let sender = if from { &mut near } else { &mut far };
                sender.transmit(&mut burst).expect("no violation");
                assert!(burst.is_empty());
                let receiver = if to { &mut near } else { &mut far };
                wait_for_frame(receiver, &mut burst);
                assert_eq!(burst.len(), 1);
            }
            assert_eq!(burst.pop().expect("one").to_vec(), [number as u8; 60]);
        }
    }
}
