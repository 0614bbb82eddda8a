//! What the lock-free parts are made of: the real thing, or loom's, which tries the
//! interleavings of threads and the values that each load may see (`pool/interleavings.rs`).

#[cfg(not(virtroupe_loom))]
pub(crate) use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(virtroupe_loom)]
pub(crate) use loom::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

/// Memory that is freed by the last of several threads: loom complains if another's use of it
/// may not have happened before. Nothing at all outside of loom.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    #[cfg(virtroupe_loom)]
    cell: loom::cell::UnsafeCell<()>,
}

impl Shared {
    /// A thread uses the memory.
    #[inline(always)]
    pub(crate) fn used(&self) {
        #[cfg(virtroupe_loom)]
        self.cell.with(|_| ());
    }

    /// It is freed.
    #[inline(always)]
    pub(crate) fn freed(&self) {
        #[cfg(virtroupe_loom)]
        self.cell.with_mut(|_| ());
    }
}
