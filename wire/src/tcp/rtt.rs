//! Round-trip time and retransmission timeout (RFC 6298).

use crate::time::Span;

/// The timeout before anything was measured (RFC 6298, rule 2.1).
const INITIAL: Span = Span::from_secs(1);

/// The timeout if a SYN had to be sent again (rule 5.7).
const CAREFUL: Span = Span::from_secs(3);

/// The longest timeout (RFC 6298, rule 2.5: at least 60 s).
pub(crate) const MAX_TIMEOUT: Span = Span::from_secs(60);

/// The longest sample that counts, in nanoseconds: five hours.
const MOST: u64 = 1 << 44;

/// Backing off stops to double here; the timeout is at its maximum long before.
const MAX_BACKOFF: u8 = 16;

/// Smoothed round-trip time, its variation, and what follows from them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RttEstimator {
    smoothed: u64,
    variation: u64,
    /// The least sample; zero before the first.
    least: u64,
    /// The least timeout, a setting.
    floor: u64,
    backoff: u8,
    /// Whether the first timeout is the longer one of rule 5.7.
    is_careful: bool,
}

impl RttEstimator {
    pub(crate) fn new(floor: Span) -> Self {
        RttEstimator {
            smoothed: 0,
            variation: 0,
            least: 0,
            floor: floor.as_nanos().min(MOST),
            backoff: 0,
            is_careful: false,
        }
    }

    /// Our SYN had to be sent again: nothing was measured, and the path may be slow (rule 5.7).
    pub(crate) fn set_initial_timeout(&mut self) {
        self.is_careful = true;
        self.backoff = 0;
    }

    /// A segment that was sent once was acknowledged after `sample` (rules 2.2, 2.3; section 3).
    pub(crate) fn sample(&mut self, sample: Span) {
        let sample = sample.as_nanos().clamp(1, MOST);
        if self.is_measured() {
            let deviation = self.smoothed.abs_diff(sample);
            self.variation = (self.variation * 3 + deviation) / 4;
            self.smoothed = (self.smoothed * 7 + sample) / 8;
            self.least = self.least.min(sample);
        } else {
            self.smoothed = sample;
            self.variation = sample / 2;
            self.least = sample;
        }
        self.backoff = 0;
    }

    pub(crate) fn is_measured(&self) -> bool {
        self.smoothed != 0
    }

    /// The smoothed round-trip time; zero before the first sample.
    pub(crate) fn smoothed(&self) -> Span {
        Span::from_nanos(self.smoothed)
    }

    pub(crate) fn variation(&self) -> Span {
        Span::from_nanos(self.variation)
    }

    /// The least sample; zero before the first.
    pub(crate) fn least(&self) -> Span {
        Span::from_nanos(self.least)
    }

    /// The timeout (rules 2.1 to 2.5 and 5.5).
    pub(crate) fn timeout(&self) -> Span {
        let floor = Span::from_nanos(self.floor);
        let base = match self.is_measured() {
            // The variation is bounded below too, so that a steady path does not time out at once.
            true => Span::from_nanos(self.smoothed + (self.variation * 4).max(self.floor)),
            false if self.is_careful => CAREFUL.max(floor),
            false => INITIAL.max(floor),
        };
        base.times(1 << self.backoff).min(MAX_TIMEOUT.max(floor))
    }

    /// The timer went off: the timeout doubles (rule 5.5).
    pub(crate) fn back_off(&mut self) {
        self.backoff = (self.backoff + 1).min(MAX_BACKOFF);
    }

    /// What made the timer go off was not a slow path: the next timeout is not doubled.
    pub(crate) fn clear_backoff(&mut self) {
        self.backoff = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Span = Span::from_millis(200);

    #[test]
    fn the_timeout_follows_rfc_6298() {
        let mut rtt = RttEstimator::new(FLOOR);
        assert_eq!(rtt.timeout(), INITIAL);
        rtt.sample(Span::from_millis(400));
        assert_eq!(rtt.timeout(), Span::from_millis(400 + 4 * 200));
        rtt.sample(Span::from_millis(400));
        assert_eq!(rtt.timeout(), Span::from_millis(400 + 4 * 150));
        rtt.back_off();
        rtt.back_off();
        assert_eq!(rtt.timeout(), Span::from_millis(4000));
        (0..100).for_each(|_| rtt.back_off());
        assert_eq!(rtt.timeout(), MAX_TIMEOUT);
        rtt.clear_backoff();
        assert_eq!(rtt.timeout(), Span::from_millis(1000));
    }

    #[test]
    fn a_steady_path_keeps_the_floor() {
        let mut rtt = RttEstimator::new(FLOOR);
        (0..100).for_each(|_| rtt.sample(Span::from_nanos(100_000)));
        assert_eq!(rtt.timeout(), FLOOR + Span::from_nanos(100_000));
        assert_eq!(rtt.least(), Span::from_nanos(100_000));
    }
}
