//! What the lock-free parts are made of: the real thing, or loom's, which tries every
//! interleaving (`tests/loom.rs`).

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::future::AtomicWaker;

/// The waker of one task, which any thread may wake.
#[cfg(not(loom))]
#[derive(Debug, Default)]
pub(crate) struct AtomicWaker(atomic_waker::AtomicWaker);

#[cfg(not(loom))]
impl AtomicWaker {
    pub(crate) fn register_by_ref(&self, waker: &std::task::Waker) {
        self.0.register(waker);
    }

    pub(crate) fn wake(&self) {
        self.0.wake();
    }
}
