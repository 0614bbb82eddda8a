//! Credits: how many packets a virtual queue may have under way.
//!
//! The sender takes a credit for each packet that it puts into the queue; the cpu that owns the
//! device's ring gives it back when the packet's memory came home. The sender alone counts what
//! it took, and the owner alone what it gave back, so each writes a line of its own and no
//! read-modify-write is needed. Both counts wrap; only their difference means something.

use crate::sync::{AtomicBool, AtomicU32, Ordering, fence};

/// The part of the credits of one virtual queue that its two sides share.
#[derive(Debug)]
pub(crate) struct Credits {
    limit: u32,
    /// Credits given back so far. Written by the owner of the ring only.
    returned: AtomicU32,
    /// Whether the sender waits for credits. Set by the sender, cleared by the owner.
    wanted: AtomicBool,
}

impl Credits {
    /// `limit` credits, at least 1.
    pub(crate) fn new(limit: u32) -> Self {
        Credits {
            limit: limit.max(1),
            returned: AtomicU32::new(0),
            wanted: AtomicBool::new(false),
        }
    }

    /// How many packets may be under way.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// The sender's view: credits that are left when it has taken `taken` so far.
    #[inline]
    pub(crate) fn left(&self, taken: u32) -> u32 {
        // Acquire: what the owner did with the memory happened before the credit came back.
        let out = taken.wrapping_sub(self.returned.load(Ordering::Acquire));
        self.limit.saturating_sub(out)
    }

    /// The sender waits until at least half of the credits are back. It must look at
    /// [`left`](Self::left) once more afterwards: they may be back already.
    pub(crate) fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
        // Before the last look: pairs with the fence in `give_back`.
        fence(Ordering::SeqCst);
    }

    /// Whether the sender waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// The owner's side: gives `count` credits back, of which then `out` are still under way.
    /// Returns whether the sender is to be woken.
    pub(crate) fn give_back(&self, count: u32, out: u32) -> bool {
        let returned = self.returned.load(Ordering::Relaxed).wrapping_add(count);
        self.returned.store(returned, Ordering::Release);
        if out > self.limit / 2 {
            return false;
        }
        // After the credits became visible: pairs with the fence in `want`.
        fence(Ordering::SeqCst);
        self.is_wanted() && self.wanted.swap(false, Ordering::AcqRel)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_sender_is_woken_once_when_half_of_the_credits_are_back() {
        let credits = Credits::new(8);
        assert_eq!(credits.left(8), 0);
        credits.want();
        assert!(!credits.give_back(3, 5));
        assert_eq!(credits.left(8), 3);
        assert!(credits.give_back(1, 4));
        assert!(!credits.give_back(4, 0), "it does not wait any more");
        assert_eq!(credits.left(8), 8);
    }

    #[test]
    fn counts_wrap() {
        let credits = Credits::new(4);
        let mut taken = 0u32;
        for _ in 0..3 {
            credits.give_back(u32::MAX / 2, 0);
            taken = taken.wrapping_add(u32::MAX / 2);
            assert_eq!(credits.left(taken), 4);
            assert_eq!(credits.left(taken.wrapping_add(3)), 1);
        }
    }
}
