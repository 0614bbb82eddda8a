//! Long slots: memory for the bytes of streams.
//!
//! A slot holds a packet. What is written to a stream is often more, and leaves in segments of up to
//! 64 KiB: in slots, that takes thirty chunks, links and descriptors. A long slot is sixteen slots
//! in one piece. Packets are never received into one, so they are no reserve of the ring; a writer
//! that finds none takes slots.
//!
//! A frame of a long slot says so (`Place::LONG`): its memory ends later, it goes home to
//! another stack, and it is never transmitted as a plain one.

use std::ptr::NonNull;

use super::{Home, Pool, SLOT_STRIDE};
use crate::frame::{Frame, SLOT_DATA};

/// Bytes in a long slot, the headroom and the virtio-net header included.
pub const LONG_SLOT: usize = 16 * SLOT_STRIDE;

/// A pool has one long slot for so many slots: half as much memory again.
const SLOTS_PER_LONG: u32 = 32;

/// The long slots of a pool of `slots`.
pub(super) fn count(slots: u32) -> u32 {
    slots / SLOTS_PER_LONG
}

impl Home {
    /// The address of the first byte of a long slot.
    fn long_address(&self, number: u32) -> NonNull<u8> {
        debug_assert!((self.count..self.first_link).contains(&number));
        let slots = self.count as usize * SLOT_STRIDE;
        let before = (number - self.count) as usize * LONG_SLOT;
        // SAFETY: long slots lie behind the slots, and the number of each comes from this home's
        // stack: all of them are inside the mapping (`UnboundPool::bytes`).
        unsafe { self.slots.add(slots + before) }
    }

    /// Takes back a long slot whose frame is gone, on any thread.
    ///
    /// # Safety
    /// `home` is alive, and the caller held the only frame of the slot and uses it no more.
    pub(crate) unsafe fn take_back_long(home: NonNull<Home>, number: u32) {
        // SAFETY: alive by contract.
        let this = unsafe { home.as_ref() };
        if this.is_owner() {
            // SAFETY: the owner's thread; no borrow of this stack is ever held.
            unsafe { (*this.long.get()).push(number) };
        } else {
            // SAFETY: alive, out until now, and not used any more by contract.
            unsafe { Home::give_remote(home, number) };
        }
    }
}

impl Pool {
    /// As [`frame`](Self::frame), in a long slot: with room for 35 712 bytes in one piece. `None` if
    /// none is free: there is one for 32 slots.
    pub fn long_frame(&mut self) -> Option<Frame> {
        let number = self.take_long().or_else(|| {
            self.collect();
            self.take_long()
        })?;
        let address = self.home().long_address(number);
        Some(Frame::in_long_slot(self.home, address, number, SLOT_DATA))
    }

    fn take_long(&mut self) -> Option<u32> {
        // SAFETY: the owner thread, and the reference ends with this expression.
        unsafe { (*self.home().long.get()).pop() }
    }

    /// Long slots that are free, without those that other threads returned since the last
    /// [`collect`](Self::collect).
    pub fn available_long(&self) -> usize {
        // SAFETY: the owner thread, and the reference ends with this expression.
        unsafe { (*self.home().long.get()).len() }
    }
}

#[cfg(all(test, not(virtroupe_loom)))]
mod tests;
