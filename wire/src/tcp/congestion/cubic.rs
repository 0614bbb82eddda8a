//! CUBIC (RFC 9438).

use std::time::Duration;

use super::{AckSample, CongestionControl};
use crate::time::Instant;

/// How steep the curve is, in segments per second cubed (section 4.6: SHOULD be 0.4).
const C: f64 = 0.4;
/// What is left of the window after congestion (section 4.6: SHOULD be 0.7).
const BETA: f64 = 0.7;
/// Growth per round trip of a Reno that reduces to `BETA` (section 4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// A window that grows as a cubic of the time since the last congestion, and at least as Reno's
/// would.
#[derive(Debug, Clone)]
pub struct Cubic {
    /// The congestion window in segments.
    window: f64,
    /// The slow start threshold in segments.
    threshold: f64,
    /// The window at the last congestion (W_max), in segments.
    most: f64,
    /// The window just before it was last reduced (cwnd_prior), in segments.
    prior: f64,
    /// What Reno's window would be (W_est), in segments.
    reno: f64,
    /// Seconds from the start of the epoch until `most` is reached again (K).
    plateau: f64,
    /// When congestion avoidance began.
    epoch: Option<Instant>,
    segment_size: u64,
    initial_window: u64,
}

impl Cubic {
    /// For segments of `segment_size` bytes, beginning with `initial_window`.
    pub fn new(segment_size: u64, initial_window: u64) -> Self {
        let segment_size = segment_size.max(1);
        Cubic {
            window: initial_window as f64 / segment_size as f64,
            threshold: f64::INFINITY,
            most: 0.0,
            prior: 0.0,
            reno: 0.0,
            plateau: 0.0,
            epoch: None,
            segment_size,
            initial_window,
        }
    }

    /// Congestion avoidance begins (section 4.2).
    fn begin_epoch(&mut self, now: Instant) -> Instant {
        if self.most < self.window {
            self.most = self.window;
        }
        self.plateau = ((self.most - self.window) / C).cbrt();
        self.reno = self.window;
        self.epoch = Some(now);
        now
    }

    /// W_cubic after `time` (figure 1).
    fn curve(&self, time: Duration) -> f64 {
        C * (time.as_secs_f64() - self.plateau).powi(3) + self.most
    }

    /// Congestion avoidance (sections 4.3 to 4.5) after `segments` were acknowledged.
    fn avoid(&mut self, ack: &AckSample, segments: f64) {
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => self.begin_epoch(ack.now),
        };
        let time = ack.now.since(epoch);
        // Once as large as before, Reno's window grows as Reno's does (section 4.3).
        let alpha = match self.reno >= self.prior {
            true => 1.0,
            false => ALPHA,
        };
        self.reno += alpha * segments / self.window;
        if self.curve(time) < self.reno {
            self.window = self.window.max(self.reno);
            return;
        }
        let target = self.curve(time + ack.rtt);
        let target = target.clamp(self.window, 1.5 * self.window);
        self.window += (target - self.window) / self.window * segments;
    }

    /// Multiplicative decrease and fast convergence (sections 4.6 and 4.7).
    fn reduce(&mut self, in_flight: u64) {
        self.epoch = None;
        self.prior = self.window;
        self.most = match self.window < self.most {
            true => self.window * (1.0 + BETA) / 2.0,
            false => self.window,
        };
        // A window that was not used up is no measure of the path (section 4.6). The last part of
        // a segment never is.
        let used = self.window.min(self.segments(in_flight) + 1.0);
        self.threshold = (used * BETA).max(2.0);
    }

    fn segments(&self, bytes: u64) -> f64 {
        bytes as f64 / self.segment_size as f64
    }
}

impl CongestionControl for Cubic {
    fn window(&self) -> u64 {
        ((self.window * self.segment_size as f64) as u64).max(self.segment_size)
    }

    fn slow_start_threshold(&self) -> u64 {
        // Infinity becomes the largest number.
        (self.threshold * self.segment_size as f64) as u64
    }

    fn on_ack(&mut self, ack: &AckSample) {
        if !ack.is_limited {
            // The curve goes on with time; the time in which the window was not used does not
            // count (section 5.8).
            if self.window >= self.threshold {
                self.epoch = None;
            }
            return;
        }
        let segments = self.segments(ack.acknowledged);
        if self.window < self.threshold {
            self.window += segments;
        } else {
            self.avoid(ack, segments);
        }
    }

    fn on_congestion(&mut self, _now: Instant, in_flight: u64) {
        self.reduce(in_flight);
        self.window = self.threshold;
    }

    fn on_timeout(&mut self, _now: Instant, in_flight: u64) {
        self.reduce(in_flight);
        self.window = 1.0;
    }

    fn on_idle(&mut self) {
        self.epoch = None;
        self.window = self.window.min(self.segments(self.initial_window));
    }

    fn set_segment_size(&mut self, bytes: u64) {
        let ratio = self.segment_size as f64 / bytes.max(1) as f64;
        self.segment_size = bytes.max(1);
        for segments in [
            &mut self.window,
            &mut self.threshold,
            &mut self.most,
            &mut self.prior,
            &mut self.reno,
        ] {
            *segments *= ratio;
        }
        self.window = self.window.max(1.0);
    }

    fn clone_boxed(&self) -> Box<dyn CongestionControl> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u64 = 1000;

    fn ack(now: Duration, acknowledged: u64) -> AckSample {
        AckSample {
            now: Instant::ZERO + now,
            acknowledged,
            rtt: Duration::from_millis(100),
            is_limited: true,
        }
    }

    /// Acknowledges a window in every round trip of 100 ms.
    fn run(cubic: &mut Cubic, from: Duration, rounds: u32) -> Vec<u64> {
        let step = Duration::from_millis(100);
        let round = |number| {
            let window = cubic.window();
            cubic.on_ack(&ack(from + step * number, window));
            cubic.window() / MSS
        };
        (1..=rounds).map(round).collect()
    }

    #[test]
    fn slow_start_doubles_and_congestion_leaves_seven_tenths() {
        let mut cubic = Cubic::new(MSS, 10 * MSS);
        assert_eq!(run(&mut cubic, Duration::ZERO, 3), [20, 40, 80]);
        cubic.on_congestion(Instant::ZERO, 80 * MSS);
        assert_eq!(cubic.window(), 56 * MSS);
        assert_eq!(cubic.slow_start_threshold(), 56 * MSS);
    }

    #[test]
    fn the_window_before_congestion_is_reached_again_after_k() {
        let mut cubic = Cubic::new(MSS, 1000 * MSS);
        cubic.on_congestion(Instant::ZERO, 1000 * MSS);
        // K is the cube root of 1000 * 0.3 / 0.4, 9.09 s: flat there, and steep on both sides.
        let windows = run(&mut cubic, Duration::ZERO, 150);
        assert!((980..=1005).contains(&windows[90]), "{windows:?}");
        assert!(windows[90] - windows[80] < 10, "flat: {windows:?}");
        assert!(windows[10] - windows[0] > 50, "steep before: {windows:?}");
        assert!(
            windows[149] - windows[139] > 30,
            "steep behind: {windows:?}"
        );
    }

    #[test]
    fn a_small_window_grows_as_that_of_reno() {
        let mut cubic = Cubic::new(MSS, 10 * MSS);
        cubic.on_congestion(Instant::ZERO, 10 * MSS);
        let windows = run(&mut cubic, Duration::ZERO, 20);
        // 0.53 segments in a round trip up to 10, then one.
        assert_eq!(windows[4], 9, "{windows:?}");
        assert!((21..=24).contains(&windows[19]), "{windows:?}");
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut cubic = Cubic::new(MSS, 10 * MSS);
        let sample = AckSample {
            is_limited: false,
            ..ack(Duration::from_secs(1), 5 * MSS)
        };
        cubic.on_ack(&sample);
        assert_eq!(cubic.window(), 10 * MSS);
        cubic.on_timeout(Instant::ZERO, 10 * MSS);
        assert_eq!(cubic.window(), MSS);
        assert_eq!(cubic.slow_start_threshold(), 7 * MSS);
    }
}
