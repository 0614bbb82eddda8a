//! The clock that drives the engines.

use std::time::Instant as StdInstant;

use virtroupe_wire::Instant;

/// A monotonic clock, read once for each burst.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    epoch: StdInstant,
}

impl Clock {
    /// A clock whose epoch is now.
    pub fn new() -> Self {
        Clock {
            epoch: StdInstant::now(),
        }
    }

    /// The time since the epoch.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The same point in time on the system's monotonic clock.
    pub fn to_std(&self, instant: Instant) -> StdInstant {
        self.epoch + std::time::Duration::from_nanos(instant.as_nanos())
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
