//! A frame that needs several receive buffers, where there are too few: it waits, and the pair sleeps; or
//! there never can be enough, and it is dropped. Without a clock: the pair is stepped until it would sleep.

use nix::sys::eventfd::EfdFlags;

use super::super::backend::one_frame::OneFrame;
use super::super::backend::{Deliver, Delivery};
use super::super::header::NetHeader;
use super::super::ring::driver_side::{BUFFERS, DriverSide};
use super::super::ring::{NEXT, UsedReports, WRITE};
use super::super::stats::Count;
use super::*;

mod arbitrary;

const NOW: Instant = Instant::ZERO;
const SIZE: u16 = 8;
/// Bytes of a descriptor's buffer.
const BUFFER: usize = 64;

/// A pair with a receive ring, and its driver.
struct Rig {
    pair: Pair,
    driver: DriverSide,
}

impl Rig {
    /// For a driver with `features`, behind a port whose frames have `length` bytes.
    fn new(features: FeatureBits, length: usize) -> Rig {
        let driver = DriverSide::new(features.contains(FeatureBits::RING_PACKED), SIZE);
        let memory = driver.memory.clone();
        let ring = Ring::new(memory, &driver.layout, features, UsedReports::Each);
        let steering = Arc::new(Steering::new());
        let mut pair =
            Pair::new(0, Box::new(OneFrame(vec![7; length])), steering, 1500).expect("a pair");
        pair.receive = Some(Queue {
            ring: ring.expect("a ring"),
            interrupt: EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("an eventfd"),
        });
        pair.start(features);
        Rig { pair, driver }
    }

    /// Makes one more buffer available, of `count` descriptors.
    fn post(&mut self, count: u16) {
        let id = self.driver.index();
        for rest in (0..count).rev() {
            let offset = BUFFERS + usize::from(self.driver.index()) * BUFFER;
            let flags = if rest > 0 { WRITE | NEXT } else { WRITE };
            self.driver.write(offset, BUFFER as u32, flags, id);
        }
    }

    /// Steps until the device would sleep, and how often that was; it must be soon.
    fn steps_to_sleep(&mut self) -> usize {
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 100, "polls on and on");
            let work = self.pair.step(NOW, true).expect("no fault");
            if work == 0 && !self.pair.prepare_sleep() {
                return steps;
            }
        }
    }
}

/// Every ring that merges buffers.
fn formats() -> Vec<FeatureBits> {
    let mut all = vec![FeatureBits::VERSION_1 | FeatureBits::MRG_RXBUF];
    for further in [
        FeatureBits::RING_PACKED,
        FeatureBits::EVENT_IDX,
        FeatureBits::IN_ORDER,
    ] {
        let with: Vec<_> = all.iter().map(|features| *features | further).collect();
        all.extend(with);
    }
    all
}

#[test]
fn a_device_sleeps_while_a_frame_waits_for_more_buffers() {
    // Bytes of a frame, and descriptors of a buffer: it needs three, two, and two across the end.
    for (length, count) in [(150, 1), (150, 2), (300, 3)] {
        for features in formats() {
            let mut rig = Rig::new(features, length);
            rig.steps_to_sleep();
            // Several laps, so that what waits lies across the end of the ring too.
            for frame in 0..30 {
                while rig.pair.stats.to_driver.frames == frame {
                    rig.post(count);
                    assert!(rig.pair.prepare_sleep(), "a buffer came");
                    let steps = rig.steps_to_sleep();
                    assert!(steps <= 2, "{steps} steps: {features}");
                    assert_eq!(rig.pair.deadline(), None, "nothing can be delivered then");
                }
            }
        }
    }
}

/// The driver waits for frames, and can post no more buffers: a frame that waited would wait for ever, and
/// all behind it.
#[test]
fn a_frame_that_the_whole_ring_does_not_hold_is_dropped_whatever_its_buffers_are() {
    for features in formats() {
        for count in [1, 2, 4] {
            let mut rig = Rig::new(features, usize::from(SIZE) * BUFFER);
            (0..SIZE / count).for_each(|_| rig.post(count));
            assert_eq!(rig.pair.step(NOW, true).expect("no fault"), 1);
            assert_eq!(rig.pair.stats.no_room.frames, 1, "{count}: {features}");
        }
    }
}
