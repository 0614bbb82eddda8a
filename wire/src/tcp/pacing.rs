//! Pacing: what may be sent is spread over the round trip instead of leaving at once.
//!
//! Bytes leave in quanta. A quantum is what the rate gives in a millisecond, and at least two
//! segments; so a connection sends at least about one frame in a millisecond, as long as the window
//! has so many, and each frame is as long as that allows. The rate is that of Linux: the window in
//! a round trip, twice that in slow start and 1.2 times it later, so that pacing never is what
//! limits it.

use crate::time::{Instant, Span};

/// The time that a quantum lasts, if that is not less than two segments.
const QUANTUM: u64 = 1_000_000;

/// How late a quantum may leave without loss of rate, if it was not sent because time came in
/// steps: those of the wheel, and of whoever calls.
const CREDIT: Span = Span::from_millis(4);

/// Shorter round trips are not paced: quanta would be as long as the window.
pub(crate) const LEAST_RTT: Span = Span::from_millis(2);

/// The rate: a window in a round trip, times a gain in percent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Bytes.
    pub(crate) window: u64,
    pub(crate) rtt: Span,
    pub(crate) gain: u64,
}

/// The pace of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pacer {
    /// Bytes of the quantum that are left.
    left: u64,
    /// When the next quantum may leave.
    release: Instant,
}

impl Pacer {
    pub(crate) const fn new() -> Self {
        Pacer {
            left: 0,
            release: Instant::ZERO,
        }
    }

    /// Bytes of the quantum that are left; 0: none, or nothing is paced.
    #[inline]
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Bytes were sent.
    #[inline]
    pub(crate) fn on_sent(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// Begins the next quantum, of whole segments, if it is time.
    ///
    /// # Errors
    /// When it is time.
    pub(crate) fn begin(&mut self, now: Instant, pace: Pace, segment: u64) -> Result<u64, Instant> {
        if now < self.release {
            return Err(self.release);
        }
        let rtt = pace.rtt.as_nanos().clamp(1, MOST_RTT);
        let in_round = (pace.window.max(segment) / 100 * pace.gain).max(1);
        let in_quantum = (u128::from(in_round) * u128::from(QUANTUM) / u128::from(rtt)) as u64;
        let quantum = (in_quantum / segment).max(2) * segment;
        let time = u128::from(quantum) * u128::from(rtt) / u128::from(in_round);
        let time = Span::from_nanos(time as u64);
        let behind = time.max(CREDIT);
        self.release = self.release.max(now - behind) + time;
        self.left = quantum;
        Ok(quantum)
    }
}

/// The longest round trip that counts, in nanoseconds: a minute.
const MOST_RTT: u64 = 60_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1448;

    fn at(microseconds: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + microseconds * 1000)
    }

    /// Bytes that leave in a second, if the caller looks so often.
    fn rate(pace: Pace, every: u64) -> u64 {
        let mut pacer = Pacer::new();
        let mut sent = 0;
        for step in 0..1_000_000 / every {
            while let Ok(quantum) = pacer.begin(at(step * every), pace, SEGMENT) {
                sent += quantum;
                pacer.on_sent(quantum);
            }
        }
        sent
    }

    #[test]
    fn the_rate_is_kept_however_coarse_time_is() {
        for window in [20_000, 200_000, 5_000_000] {
            let pace = Pace {
                window,
                rtt: Span::from_millis(50),
                gain: 120,
            };
            let expected = window * 20 * 12 / 10;
            for every in [131, 1000, 3000] {
                let rate = rate(pace, every);
                assert!(
                    rate.abs_diff(expected) < expected / 20 + 8 * SEGMENT,
                    "{window} {every}: {rate} of {expected}"
                );
            }
        }
    }

    #[test]
    fn a_pause_gives_no_more_than_a_few_milliseconds_back() {
        let pace = Pace {
            window: 1_000_000,
            rtt: Span::from_millis(50),
            gain: 200,
        };
        let mut pacer = Pacer::new();
        assert!(pacer.begin(at(0), pace, SEGMENT).is_ok());
        let mut sent = 0;
        while let Ok(quantum) = pacer.begin(at(10_000_000), pace, SEGMENT) {
            sent += quantum;
        }
        assert!(sent <= 40_000 * 6, "40 kB in a millisecond: {sent}");
    }
}
