//! Bursts of frames: out of the pool, and home again, in one go.

use std::ptr::NonNull;

use super::{Home, Pool, SLOT_STRIDE, batch_returns};
use crate::frame::{Frame, SLOT_DATA};

impl Pool {
    /// Appends up to `count` empty frames, as [`frame`](Self::frame) gives them, to `burst`, and
    /// starts fetching the memory in which their packets begin, to be written. Returns how many
    /// there were.
    pub fn frames(&mut self, burst: &mut Vec<Frame>, count: usize) -> usize {
        let count = self.ensure(count).min(count);
        let (home, first) = (self.home, self.slots());
        let frames = self.take_many(count).rev().map(|slot| {
            // SAFETY: as in `Home::slot_address`.
            let base = unsafe { first.add(slot as usize * SLOT_STRIDE) };
            let frame = Frame::in_slot(home, base, slot, SLOT_DATA, 0);
            frame.prefetch();
            frame
        });
        burst.extend(frames);
        count
    }
}

/// Drops the frames of `burst`, which keeps its own memory. On the pool's thread, single frames
/// go home together; elsewhere, it is a scope of [`batch_returns`].
pub fn drop_burst(burst: &mut Vec<Frame>) {
    if let Some(home) = burst.first().and_then(Frame::home) {
        bring_home(home, burst);
    }
    if !burst.is_empty() {
        batch_returns(|| burst.clear());
    }
}

/// Takes the single frames of the pool of `home` from the front of `burst`, if this is the pool's
/// thread. The first frame is one of them.
fn bring_home(home: NonNull<Home>, burst: &mut Vec<Frame>) {
    // SAFETY: the home lives while a frame of it is out, and the first one is.
    let this = unsafe { home.as_ref() };
    if !this.is_owner() {
        return;
    }
    let single = burst.iter().take_while(|frame| frame.is_single(home));
    let count = single.count();
    // SAFETY: this is the owner thread, and nothing here drops a frame while the stack is
    // borrowed. The frames are forgotten below, so their slots are held by nobody else.
    unsafe { &mut *this.local.get() }.extend(burst.iter().take(count).map(Frame::slot));
    forget_front(burst, count);
}

/// Forgets the first `count` frames, at most all: their slots are accounted for.
#[inline(always)]
pub(crate) fn forget_front(burst: &mut Vec<Frame>, count: usize) {
    let rest = burst.len() - count;
    let start = burst.as_mut_ptr();
    // SAFETY: the frames from `count` on are moved to the front, where nothing is dropped, and
    // are then the only ones.
    unsafe {
        start.copy_from(start.add(count), rest);
        burst.set_len(rest);
    }
}

#[cfg(all(test, not(virtroupe_loom)))]
mod tests {

    use virtroupe_wire::Buffer;

    use super::*;
    use crate::pool::tests::pool;

    #[test]
    fn frames_come_in_one_go_as_many_as_there_are() {
        let mut pool = pool(8);
        let mut burst = Vec::new();
        assert_eq!(pool.frames(&mut burst, 5), 5);
        assert_eq!(pool.frames(&mut burst, 5), 3);
        assert_eq!((burst.len(), pool.available()), (8, 0));
        for (number, frame) in (0..).zip(&mut burst) {
            assert!(frame.is_empty());
            frame.put(4).expect("room").fill(number);
        }
        let contents: Vec<_> = burst.iter().map(Buffer::to_vec).collect();
        let expected: Vec<_> = (0..8).map(|number| vec![number; 4]).collect();
        assert_eq!(contents, expected, "no two share a slot");
    }

    #[test]
    fn every_kind_of_frame_in_a_dropped_burst_goes_where_it_belongs() {
        let (mut first, mut second) = (pool(8), pool(8));
        let mut burst = Vec::new();
        first.frames(&mut burst, 3);
        let mut chain = first.frame().expect("free");
        chain.append(first.frame().expect("free"));
        burst.push(chain);
        burst.push(Frame::on_heap(&[1; 9]));
        second.frames(&mut burst, 2);
        first.frames(&mut burst, 3);
        assert_eq!((first.available(), second.available()), (0, 6));
        drop_burst(&mut burst);
        assert!(burst.is_empty());
        assert_eq!((first.available(), second.available()), (8, 8));
    }

    #[test]
    fn a_burst_that_is_dropped_on_another_thread_comes_home() {
        let mut pool = pool(8);
        let mut burst = Vec::new();
        pool.frames(&mut burst, 8);
        let dropped = std::thread::spawn(move || drop_burst(&mut burst));
        dropped.join().expect("joined");
        assert_eq!((pool.available(), pool.collect()), (0, 8));
    }
}
