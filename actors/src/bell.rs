//! The bell of a cpu: how the other cpus wake it.
//!
//! A cpu that polls looks into its lanes by itself, so ringing costs the others one look at a
//! line that seldom changes. Only a cpu that sleeps is woken.
//!
//! Both sides write first and look then, with a fence between: whoever goes to sleep announces
//! it and looks into its lanes once more; whoever brings something puts it there and looks
//! whether the cpu sleeps. So at least one of them sees the other, and no wake-up is lost.

use std::task::Waker;

use crate::sync::{AtomicBool, AtomicWaker, Ordering, fence};

/// Shared by a cpu and all that wake it.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    asleep: AtomicBool,
    waker: AtomicWaker,
}

impl Bell {
    /// Announces that the cpu is about to sleep. It must look for work once more before it does,
    /// and call [`cancel`](Self::cancel) if there is any.
    pub(crate) fn announce_sleep(&self, waker: &Waker) {
        self.waker.register_by_ref(waker);
        self.asleep.store(true, Ordering::Relaxed);
        // Before the last look for work: pairs with the fence in `ring`.
        fence(Ordering::SeqCst);
    }

    /// The cpu does not sleep, or not any more.
    pub(crate) fn cancel(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Wakes the cpu if it sleeps. To be called after the work was put where it looks.
    #[inline]
    pub(crate) fn ring(&self) {
        // After the work became visible: pairs with the fence in `announce_sleep`.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        // One of those who ring wakes; the acquire makes the waker visible.
        if self.asleep.swap(false, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}
