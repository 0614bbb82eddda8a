//! A token bucket, which bounds how often the engine answers with an error.

use crate::time::Instant;

/// Tokens that refill with time, up to a burst.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// Nanoseconds of credit; one token costs `cost` of them.
    credit: u64,
    /// Nanoseconds in which one token refills.
    cost: u64,
    /// The most credit.
    most: u64,
    /// When `credit` was last brought up to date.
    updated: Instant,
}

impl TokenBucket {
    /// A full bucket. `per_second` and `burst` are at least 1.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let cost = 1_000_000_000 / u64::from(per_second.max(1));
        let most = cost.saturating_mul(u64::from(burst));
        TokenBucket {
            credit: most,
            cost,
            most,
            updated: Instant::ZERO,
        }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.as_nanos().saturating_sub(self.updated.as_nanos());
        self.updated = self.updated.max(now);
        self.credit = self.credit.saturating_add(passed).min(self.most);
        match self.credit.checked_sub(self.cost) {
            Some(left) => {
                self.credit = left;
                true
            }
            None => false,
        }
    }
}
