//! Reno (RFC 5681), with bytes counted as RFC 3465 does.

use super::{AckSample, CongestionControl};
use crate::time::Instant;

/// Slow start, then one segment more in each round trip; half of what was under way on loss.
#[derive(Debug, Clone)]
pub struct Reno {
    window: u64,
    threshold: u64,
    segment_size: u64,
    initial_window: u64,
    /// Bytes acknowledged towards the next segment.
    counted: u64,
}

impl Reno {
    /// For segments of `segment_size` bytes, beginning with `initial_window`.
    pub fn new(segment_size: u64, initial_window: u64) -> Self {
        Reno {
            window: initial_window,
            threshold: u64::MAX,
            segment_size,
            initial_window,
            counted: 0,
        }
    }

    /// Half of what is under way (equation 4).
    fn reduce(&mut self, in_flight: u64) {
        self.threshold = (in_flight / 2).max(2 * self.segment_size);
        self.counted = 0;
    }
}

impl CongestionControl for Reno {
    fn window(&self) -> u64 {
        self.window
    }

    fn slow_start_threshold(&self) -> u64 {
        self.threshold
    }

    fn on_ack(&mut self, ack: &AckSample) {
        if !ack.is_limited {
            return;
        }
        if self.window < self.threshold {
            self.window = self.window.saturating_add(ack.acknowledged);
            return;
        }
        self.counted += ack.acknowledged;
        if self.counted >= self.window {
            self.counted -= self.window;
            self.window = self.window.saturating_add(self.segment_size);
        }
    }

    fn on_congestion(&mut self, _now: Instant, in_flight: u64) {
        self.reduce(in_flight);
        self.window = self.threshold;
    }

    fn on_timeout(&mut self, _now: Instant, in_flight: u64) {
        self.reduce(in_flight);
        self.window = self.segment_size;
    }

    fn on_idle(&mut self) {
        self.window = self.window.min(self.initial_window);
    }

    fn set_segment_size(&mut self, bytes: u64) {
        self.segment_size = bytes.max(1);
        self.window = self.window.max(self.segment_size);
    }

    fn clone_boxed(&self) -> Box<dyn CongestionControl> {
        Box::new(self.clone())
    }
}
