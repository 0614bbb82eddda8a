//! A time limit for one whole request, however many system calls it takes.

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

/// Counts down from the start of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// A deadline `limit` from now.
    pub(crate) fn after(limit: Duration) -> Self {
        Deadline {
            start: Instant::now(),
            limit,
        }
    }

    /// The time that is left, or `None` when there is none.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.limit
            .checked_sub(self.start.elapsed())
            .filter(|left| !left.is_zero())
    }

    /// The time that is left for `poll`, rounded up, so that waiting does not become spinning.
    /// Longer than a minute becomes a minute: the caller asks again.
    pub(crate) fn poll_timeout(&self) -> Option<PollTimeout> {
        let left = self.remaining()?.as_millis().saturating_add(1).min(60_000);
        Some(u16::try_from(left).unwrap_or(u16::MAX).into())
    }

    /// The whole limit in milliseconds, for messages.
    pub(crate) fn milliseconds(&self) -> u64 {
        u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX)
    }
}
