//! Frames that wait for buffers: the device has nothing to do until there are some, and says so.

use std::time::Duration;

use virtroupe_driver::embedded::{EmbeddedConfig, Link, LinkConfig};
use virtroupe_driver::features::FeatureBits;
use virtroupe_wire::Instant;

use crate::raw::{BUFFER, frame};
use crate::{Station, settle};

/// Each queue has some of the three buffers that a frame needs.
#[test]
fn a_device_whose_frames_wait_for_buffers_has_no_deadline_that_is_over() {
    let config = EmbeddedConfig {
        queue_pairs: 2,
        mtu: 9000,
        ..EmbeddedConfig::default()
    };
    for buffers in 0..16 {
        for latency in [Duration::ZERO, Duration::from_micros(10)] {
            let (left, right) = Link::pair(LinkConfig {
                latency,
                rate: 10_000_000_000,
                ..LinkConfig::default()
            });
            let mut a = Station::new(config.clone(), left, FeatureBits::NONE, 64);
            let mut b = Station::new(config.clone(), right, FeatureBits::NONE, 64);
            b.driver.queues[0].post(buffers % 4, BUFFER);
            b.driver.queues[2].post(buffers / 4, BUFFER);
            for number in 0..8 {
                a.driver.tx().send_parts(&[
                    &[0; 12],
                    &frame(number, 2000),
                    &frame(0, 2000),
                    &frame(0, 1000),
                ]);
            }
            let mut now = Instant::ZERO;
            let mut turns = 0;
            loop {
                settle(&[&a, &b], now);
                let Some(next) = b.stepper.deadline() else {
                    break;
                };
                assert!(next > now, "there was something at {now:?}");
                now = next;
                turns += 1;
                assert!(turns < 100, "polls on and on");
            }
        }
    }
}
