//! Time as the engines see it: a number that the caller passes in.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time, in nanoseconds since an epoch of the caller's choice.
///
/// The engines read no clock. Whoever drives them passes the time of the burst, once per burst,
/// from a monotonic clock or from a simulation. An `Instant` never goes before its epoch:
/// arithmetic saturates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The epoch.
    pub const ZERO: Instant = Instant(0);

    /// The instant `nanoseconds` after the epoch.
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Instant(nanoseconds)
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// [`since`](Self::since), as a number.
    pub(crate) const fn span_since(self, earlier: Instant) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanoseconds))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    fn sub(self, duration: Duration) -> Instant {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_sub(nanoseconds))
    }
}

/// A length of time as a number of nanoseconds: what engines compute with for each segment. A
/// [`Duration`] takes twice the room, and a division to get there. Arithmetic saturates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Span(u64);

impl Span {
    pub(crate) const ZERO: Span = Span(0);

    pub(crate) const fn from_nanos(nanoseconds: u64) -> Self {
        Span(nanoseconds)
    }

    pub(crate) const fn from_millis(milliseconds: u64) -> Self {
        Span(milliseconds.saturating_mul(1_000_000))
    }

    pub(crate) const fn from_secs(seconds: u64) -> Self {
        Span(seconds.saturating_mul(1_000_000_000))
    }

    pub(crate) const fn as_nanos(self) -> u64 {
        self.0
    }

    pub(crate) const fn times(self, factor: u64) -> Self {
        Span(self.0.saturating_mul(factor))
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Span(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Span> for Duration {
    fn from(Span(nanoseconds): Span) -> Self {
        Duration::from_nanos(nanoseconds)
    }
}

impl Add for Span {
    type Output = Span;

    fn add(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }
}

impl Add<Span> for Instant {
    type Output = Instant;

    fn add(self, Span(nanoseconds): Span) -> Instant {
        Instant(self.0.saturating_add(nanoseconds))
    }
}

impl Sub<Span> for Instant {
    type Output = Instant;

    fn sub(self, Span(nanoseconds): Span) -> Instant {
        Instant(self.0.saturating_sub(nanoseconds))
    }
}
