//! Handles to the shard, and tasks that are woken when it is not borrowed any more.
//!
//! Waking a task is foreign code: it may run there and then, and use the stack. So wakers are
//! collected while the shard is borrowed, and woken when the borrow ends.

use std::cell::{RefCell, RefMut};
use std::mem::take;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::task::Waker;

use super::Shard;

/// Wakers of tasks to be woken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wakes(Rc<RefCell<Vec<Waker>>>);

impl Wakes {
    /// Has a task woken.
    pub(crate) fn push(&self, waker: Waker) {
        self.0.borrow_mut().push(waker);
    }

    /// Has the task woken that waits, if one does.
    #[inline]
    pub(crate) fn take_from(&self, place: &mut Option<Waker>) {
        if let Some(waker) = place.take() {
            self.push(waker);
        }
    }

    /// Wakes all, those too that come meanwhile.
    #[inline(never)]
    pub(super) fn wake(&self) {
        loop {
            let mut wakers = take(&mut *self.0.borrow_mut());
            wakers.drain(..).for_each(Waker::wake);
            let mut since = self.0.borrow_mut();
            if since.is_empty() {
                // The memory is used again.
                *since = wakers;
                return;
            }
        }
    }
}

/// A shared handle to the shard of the current arbiter.
#[derive(Clone)]
pub(crate) struct ShardCell(Rc<Shared>);

struct Shared {
    wakes: Wakes,
    shard: RefCell<Shard>,
}

impl ShardCell {
    pub(crate) fn new(shard: Shard) -> Self {
        ShardCell(Rc::new(Shared {
            wakes: shard.wakes.clone(),
            shard: RefCell::new(shard),
        }))
    }

    /// Borrows the shard. No method of the shard calls foreign code, so it is never borrowed
    /// twice.
    pub(crate) fn borrow(&self) -> Borrowed<'_> {
        Borrowed {
            shard: self.0.shard.borrow_mut(),
            _wake: WakeAll(&self.0.wakes),
        }
    }

    /// Runs `work` on the shard unless it is borrowed: for destructors, which must not panic.
    pub(crate) fn try_with(&self, work: impl FnOnce(&mut Shard)) {
        if let Ok(shard) = self.0.shard.try_borrow_mut() {
            let mut shard = Borrowed {
                shard,
                _wake: WakeAll(&self.0.wakes),
            };
            work(&mut shard);
        }
    }
}

/// The shard, borrowed. The fields go in their order: first the borrow ends.
pub(crate) struct Borrowed<'a> {
    shard: RefMut<'a, Shard>,
    _wake: WakeAll<'a>,
}

impl Deref for Borrowed<'_> {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        &self.shard
    }
}

impl DerefMut for Borrowed<'_> {
    fn deref_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }
}

/// Wakes all when it goes.
struct WakeAll<'a>(&'a Wakes);

impl Drop for WakeAll<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.0.0.borrow().is_empty() {
            self.0.wake();
        }
    }
}
